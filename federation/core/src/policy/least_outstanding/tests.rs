use super::super::trial::{Peer, peer, trial};
use super::*;

#[test]
fn the_fewest_calls_for_each_core_then_the_nearer() {
    let far = Peer {
        round_trip_ms: 9,
        ..peer(2)
    };
    let mut trial = trial(NAME).with(&[peer(1), far]);
    assert_eq!(trial.send(), Some(1));
    assert_eq!(trial.send(), Some(2), "one has a call more");
    assert_eq!(trial.send(), Some(1));
    let calls = trial.term(Some(1), "outstanding_calls");
    assert_eq!(calls, Some(0.5), "two of four cores");
}

/// As published, the large gets no more than the small.
#[test]
fn unlike_servers_get_calls_by_their_cores() {
    let large = Peer {
        cores: 12,
        ..peer(2)
    };
    for (policy, expected) in [
        ("least-outstanding", [10, 30]),
        ("least-outstanding:faithful=true", [20, 20]),
    ] {
        let mut trial = trial(policy).with(&[peer(1), large]);
        for _ in 0..40 {
            trial.send();
        }
        let held = [1, 2].map(|number| trial.held(number));
        assert!(
            held.iter()
                .zip(expected)
                .all(|(held, of)| held.abs_diff(of) <= 1),
            "{policy}: {held:?}"
        );
    }
}

#[test]
fn what_fails_at_once_is_no_idle_server() {
    let mut mended = trial(NAME).with(&[peer(1), peer(2)]);
    let mut published = trial("least-outstanding:faithful=true").with(&[peer(1), peer(2)]);
    for trial in [&mut mended, &mut published] {
        // The good one has two calls out, the other fails all in a moment.
        trial.hold(1);
        trial.hold(1);
        for _ in 0..5 {
            trial.ends(Some(2), Ending::Failed, 1, 0);
        }
    }
    assert_eq!(mended.chosen(), Some(1));
    assert_eq!(published.chosen(), Some(2));
    // It is tried again when that is long ago.
    mended.later(60_000);
    assert_eq!(mended.chosen(), Some(2));
}

#[test]
fn this_node_counts_as_one_of_the_servers() {
    let mut trial = trial(NAME).with(&[peer(1)]);
    trial.here = crate::snapshot::Here::Warm;
    trial.tick();
    assert_eq!(trial.decide(), Decision::Run);
    trial.load.running = 3;
    trial.tick();
    assert_eq!(trial.chosen(), Some(1));
}
