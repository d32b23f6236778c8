use std::time::Duration;

use super::super::testbed::{Trial, is_as_expected, policy};
use crate::snapshot::Here;

#[test]
fn the_better_of_two_has_the_share_of_the_formula() {
    // Of n peers in the order of their delays, the i-th is the best of two draws
    // without repetition with probability 2 (n - i) / (n (n - 1)).
    let mut trial = Trial::of(5);
    for (peer, milliseconds) in trial.peers.iter_mut().zip([10, 20, 30, 40, 50]) {
        peer.set_round_trip(Duration::from_millis(milliseconds));
    }
    for choice in ["power-of-d", "power-of-d:faithful=true"] {
        let counts = trial.shares(&*policy(choice), 10_000);
        let formula = [0.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0];
        assert!(is_as_expected(&counts, &formula), "{choice}: {counts:?}");
    }
    let all = trial.shares(&*policy("power-of-d:d=5"), 100);
    assert_eq!(all, [0, 100, 0, 0, 0, 0, 0]);
    let one = trial.shares(&*policy("power-of-d:d=1"), 10_000);
    let even = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0];
    assert!(is_as_expected(&one, &even), "{one:?}");
}

#[test]
fn equals_are_chosen_between_evenly() {
    let counts = Trial::of(4).shares(&*policy("power-of-d:d=3"), 10_000);
    let even = [0.0, 1.0, 1.0, 1.0, 1.0, 0.0];
    assert!(is_as_expected(&counts, &even), "{counts:?}");
}

#[test]
fn large_nodes_are_drawn_more_often_than_small_ones() {
    let mut trial = Trial::of(1);
    trial.join(|report| report.load.cpu_total = 12_000);
    let counts = trial.shares(&*policy("power-of-d:d=1"), 10_000);
    assert!(is_as_expected(&counts, &[0.0, 1.0, 3.0, 0.0]), "{counts:?}");
    let counts = trial.shares(&*policy("power-of-d:d=1,faithful=true"), 10_000);
    assert!(is_as_expected(&counts, &[0.0, 1.0, 1.0, 0.0]), "{counts:?}");
}

#[test]
fn where_none_of_d_has_room_more_are_drawn() {
    let mut trial = Trial::of(12);
    for number in 0..11 {
        trial.fill(number);
    }
    let counts = trial.shares(&*policy("power-of-d"), 1_000);
    assert_eq!(counts[12], 1_000, "{counts:?}");
    // As published, the call is refused.
    let counts = trial.shares(&*policy("power-of-d:faithful=true"), 1_000);
    assert!(counts[13] > 700, "{counts:?}");
}

#[test]
fn by_room_the_emptier_is_taken() {
    let mut trial = Trial::of(2);
    trial.peers[1].allow(3);
    let counts = trial.shares(&*policy("power-of-d:by=room"), 100);
    assert_eq!(counts, [0, 100, 0, 0]);
}

#[test]
fn it_runs_here_what_fits_here_and_looks_at_few_of_many() {
    let mut trial = Trial::of(300);
    trial.here = Here::Warm;
    assert_eq!(trial.shares(&*policy("power-of-d"), 10)[0], 10);
    trial.here = Here::Full;
    for d in [1, 2, 7] {
        let policy = policy(&format!("power-of-d:d={d}"));
        let terms = trial.terms(&*policy, 3);
        assert_eq!(terms.len(), 2 * d, "two numbers for each that is drawn");
    }
}
