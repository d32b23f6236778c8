use super::super::trial::{Peer, peer, trial};
use super::*;

#[test]
fn the_classes_come_in_their_order() {
    let warm_busy = Peer {
        running: 2,
        ..peer(1)
    };
    let cold_busy = Peer {
        running: 3,
        warm: false,
        ..peer(2)
    };
    let warm_idle = peer(3);
    let cold_idle = Peer {
        warm: false,
        ..peer(4)
    };
    let all = [cold_idle, warm_idle, cold_busy, warm_busy];
    for (count, expected) in [(4, 1), (3, 2), (2, 3), (1, 4)] {
        for policy in [NAME, "hermod:faithful=true"] {
            let mut trial = trial(policy).with(&all[..count]);
            assert_eq!(trial.chosen(), Some(expected), "{policy}");
        }
    }
}

#[test]
fn where_no_core_is_free_the_least_loaded_is_next() {
    let full = |number, running| Peer {
        running,
        ..peer(number)
    };
    let mut trial = trial(NAME).with(&[full(1, 9), full(2, 5), full(3, 7)]);
    assert_eq!(trial.chosen(), Some(2));
    trial.know(&[
        full(1, 9),
        full(2, 5),
        Peer {
            cores: 16,
            ..full(3, 16)
        },
    ]);
    assert_eq!(trial.chosen(), Some(3), "for each core");
}

/// As published, all calls within one age of a report go to one node.
#[test]
fn our_own_calls_fill_a_node_that_says_nothing_yet() {
    let busy = Peer {
        running: 1,
        ..peer(1)
    };
    for (policy, expected) in [(NAME, [4, 4]), ("hermod:faithful=true", [8, 0])] {
        let mut trial = trial(policy).with(&[busy, peer(2)]);
        for _ in 0..8 {
            trial.send();
        }
        assert_eq!(
            [1, 2].map(|number| trial.held(number)),
            expected,
            "{policy}"
        );
    }
}

#[test]
fn calls_are_not_packed_where_the_way_takes_longer_than_they_run() {
    let far = Peer {
        running: 1,
        round_trip_ms: 300,
        ..peer(1)
    };
    for (policy, expected) in [(NAME, 2), ("hermod:faithful=true", 1)] {
        let mut trial = trial(policy).with(&[far, peer(2)]);
        assert_eq!(trial.chosen(), Some(expected), "{policy}");
    }
}

#[test]
fn of_one_class_the_nearest() {
    let mut trial = trial(NAME).with(&[
        Peer {
            round_trip_ms: 9,
            ..peer(1)
        },
        peer(2),
    ]);
    assert_eq!(trial.shares(20), [(Some(2), 20)].into());
}
