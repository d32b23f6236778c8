use super::super::trial::{Peer, peer, trial};
use super::*;
use crate::samples::id;

const PUBLISHED: &str = "prequal:faithful=true";

#[test]
fn of_cold_ones_the_quickest_and_hot_ones_never() {
    let busy = |number, running| Peer {
        running,
        cores: 1,
        ..peer(number)
    };
    let mut trial = trial("prequal:quantile=0.5").with(&[busy(1, 0), busy(2, 1), busy(3, 9)]);
    trial.load.running = 40;
    trial.tick();
    trial.answers(1, 9, 200, 200);
    trial.answers(2, 9, 100, 100);
    trial.answers(3, 9, 10, 10);
    assert_eq!(trial.chosen(), Some(2));
    assert_eq!(trial.term(Some(3), "rif_per_core"), Some(9.0));
    // Where all are hot, the fewest.
    trial.know(&[busy(1, 50), busy(2, 60), busy(3, 70)]);
    assert_eq!(trial.chosen(), Some(1));
}

/// As published, a large server is hot before a small one is.
#[test]
fn requests_in_flight_are_counted_for_each_core() {
    let large = Peer {
        cores: 32,
        running: 16,
        told_ms: 50,
        ..peer(1)
    };
    let mut peers = vec![large];
    peers.extend((2..=10).map(|number| Peer {
        running: 3,
        ..peer(number)
    }));
    let mut mended = trial(NAME).with(&peers);
    mended.load.running = 3;
    mended.tick();
    assert_eq!(mended.chosen(), Some(1));
    let mut published = trial(PUBLISHED).with(&peers);
    for peer in &peers {
        published.probed(peer.number, peer.running);
    }
    published.tick();
    published.answers(1, 9, 50, 50);
    assert_ne!(published.chosen(), Some(1));
}

#[test]
fn a_sinkhole_is_not_quick() {
    for (policy, expected) in [(NAME, 1), (PUBLISHED, 2)] {
        let mut trial = trial(policy).with(&[peer(1), peer(2)]);
        trial.answers(1, 9, 101, 100);
        trial.answers(2, 9, 101, 100);
        for _ in 0..20 {
            trial.ends(Some(2), Ending::Failed, 1, 0);
        }
        trial.probed(1, 2);
        trial.probed(2, 2);
        trial.tick();
        assert_eq!(trial.chosen(), Some(expected), "{policy}");
    }
}

#[test]
fn a_published_probe_is_used_aged_and_removed() {
    let peers: Vec<Peer> = (1..=6).map(peer).collect();
    let mut trial = trial(PUBLISHED).with(&peers);
    trial.answers(1, 3, 50, 50);
    trial.answers(2, 3, 60, 60);
    let random = |trial: &mut super::super::trial::Trial| trial.term(Some(1), "draw").is_some();
    assert!(random(&mut trial), "without two probes");
    trial.probed(1, 0);
    assert!(random(&mut trial));
    trial.probed(2, 0);
    trial.probed(3, 0);
    assert!(!random(&mut trial));
    trial.later(1_001);
    assert!(random(&mut trial), "a second later they are too old");
}

#[test]
fn own_calls_raise_the_requests_of_a_probe() {
    let probes = Probes::default();
    let (now, age) = (Time::ZERO + Duration::from_secs(5), Duration::from_secs(1));
    probes.set_reuse(100, 3.0);
    probes.put(&id(1), 4.0, now);
    probes.put(&id(2), 1.0, now);
    probes.put(&id(3), 9.0, now + Duration::from_millis(1));
    probes.used(0);
    let rif = |slot| probes.at(slot, now, age).map(|probe| probe.rif);
    assert_eq!(rif(0), Some(5.0));
    probes.remove_one(now, age);
    assert_eq!(rif(2), None, "the worst");
    assert_eq!(probes.count(now, age), 2);
    probes.remove_one(now, age);
    assert_eq!(probes.count(now, age), 2, "two are kept");
}

#[test]
fn how_often_a_probe_is_used_is_what_the_paper_says() {
    for (servers, per_call, expected) in [
        (100, 3.0, 2.0 / (0.84 * 3.0 - 1.0)),
        (100, 16.0, 1.0),
        // The pool holds all of them: the formula has no bound.
        (10, 3.0, 16.0),
    ] {
        let probes = Probes::default();
        probes.set_reuse(servers, per_call);
        let now = Time::ZERO + Duration::from_secs(1);
        probes.put(&id(1), 0.0, now);
        let mut uses = 0;
        while probes.count(now, Duration::from_secs(1)) == 1 {
            probes.used(0);
            uses += 1;
        }
        let expected = f64::max(expected, 1.0).ceil() as i32;
        assert!(
            (uses - expected).abs() <= 1,
            "{servers}: {uses}, {expected}"
        );
    }
}

#[test]
fn probes_go_out_for_calls_and_are_bounded() {
    let peers: Vec<Peer> = (1..=20)
        .map(|number| Peer {
            age_ms: 5_000,
            ..peer(number)
        })
        .collect();
    let mut published = trial(PUBLISHED).with(&peers);
    assert!(published.tick().is_empty(), "there are no calls");
    published.decide();
    assert!((1..=3).contains(&published.tick().len()));
    for _ in 0..100 {
        published.decide();
    }
    let probes = published.tick().len();
    assert!((8..=16).contains(&probes), "{probes}");
    // Otherwise those alone of whom nothing young is known.
    let mut mended = trial(NAME).with(&peers);
    mended.answers(1, 1, 100, 100);
    assert!((1..=3).contains(&mended.tick().len()));
    let young: Vec<Peer> = (1..=20).map(peer).collect();
    let mut mended = trial(NAME).with(&young);
    mended.ends(Some(1), Ending::Answered, 100, 100);
    assert!(mended.tick().is_empty());
}
