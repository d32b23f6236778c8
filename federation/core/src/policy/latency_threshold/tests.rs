use super::super::testbed::{Trial, is_as_expected, policy};
use super::*;
use crate::snapshot::Here;

/// A node with an instance, and peers at these distances in milliseconds.
fn at_distances(milliseconds: &[u64]) -> Trial {
    let mut trial = Trial {
        here: Here::Warm,
        ..Trial::of(milliseconds.len())
    };
    for (peer, milliseconds) in trial.peers.iter_mut().zip(milliseconds) {
        peer.set_round_trip(Duration::from_millis(*milliseconds));
    }
    trial
}

#[track_caller]
fn check(choice: &str, trial: &Trial, formula: &[f64]) {
    let policy = policy(choice);
    trial.tick(&*policy);
    let counts = trial.shares(&*policy, 10_000);
    assert!(is_as_expected(&counts, formula), "{choice}: {counts:?}");
}

#[test]
fn this_node_and_the_near_have_equal_shares() {
    let trial = at_distances(&[5, 20, 21, 300]);
    for choice in ["latency-threshold", "latency-threshold:faithful=true"] {
        check(choice, &trial, &[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    }
    let all = "latency-threshold:threshold=1s";
    check(all, &trial, &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    let none = "latency-threshold:threshold=0s";
    check(none, &trial, &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn shares_are_even_where_a_hundred_is_a_multiple() {
    // 100 / 5: there each peer was given one more, and this node less.
    let trial = at_distances(&[1, 1, 1, 1]);
    check("latency-threshold", &trial, &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
}

#[test]
fn who_is_near_and_cannot_run_it_is_left_out() {
    let mut trial = at_distances(&[1, 1]);
    trial.fill(0);
    trial.architecture = Some("x86_64");
    trial.join(|report| report.architecture = "aarch64".to_owned());
    check("latency-threshold", &trial, &[1.0, 0.0, 1.0, 0.0, 0.0]);
    check(
        "latency-threshold:faithful=true",
        &trial,
        &[1.0, 0.0, 1.0, 0.0, 2.0],
    );
}

#[test]
fn a_peer_that_comes_near_has_its_share_within_a_second() {
    let mut trial = at_distances(&[90]);
    let policy = policy("latency-threshold");
    let (next, _) = trial.tick(&*policy);
    assert_eq!(trial.shares(&*policy, 100), [100, 0, 0]);
    assert_eq!(next.since(trial.now), Duration::from_secs(1));
    trial.peers[0].set_round_trip(Duration::from_millis(2));
    trial.tick(&*policy);
    assert!(trial.shares(&*policy, 100)[1] > 20);
    // It is full here and nobody is near: it waits, or is refused.
    trial.here = Here::Full;
    trial.fill(0);
    assert_eq!(trial.shares(&*policy, 100), [0, 0, 100]);
}

#[test]
fn it_tells_shares_and_round_trips() {
    let mut trial = at_distances(&[5]);
    trial.here = Here::Unable;
    let policy = policy("latency-threshold");
    trial.tick(&*policy);
    let terms = trial.terms(&*policy, 1);
    let peer = Some(trial.peers[0].id);
    assert_eq!(
        terms,
        [
            (None, "share", 0.0),
            (peer, "share", 1.0),
            (peer, "round_trip_ms", 5.0)
        ]
    );
}
