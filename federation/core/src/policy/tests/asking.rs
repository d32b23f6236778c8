//! Who is asked to bring a function's code before any call waits.

use super::*;
use crate::policy::testbed::{Trial, policy};
use crate::samples::numbered;

/// A node with room, and peers of which only the first has the function.
fn trial() -> Trial {
    let mut trial = Trial::of(0);
    for _ in 0..3 {
        trial.join(|report| report.offers.clear());
    }
    trial.here = Here::Warm;
    trial.abilities = Default::default();
    trial.has_it(numbered(0));
    trial
}

/// Whether anybody is asked in so many decisions; panics where it is one who has it.
fn asks(trial: &Trial, name: &str) -> bool {
    let policy = policy(name);
    trial.tick(&*policy);
    let asked = (0..64_u64).filter_map(|chance| {
        let chance = chance.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        trial.asks(&*policy, chance)
    });
    let asked: Vec<usize> = asked.collect();
    assert!(!asked.contains(&0), "{name}: the first has it");
    !asked.is_empty()
}

#[test]
fn policies_that_share_calls_out_have_code_brought_and_the_others_wait_for_a_need() {
    for name in [
        "static",
        "random",
        "round-robin",
        "random-proportional",
        "latency-threshold",
    ] {
        assert!(asks(&trial(), name), "{name}");
    }
    for name in [
        "spill",
        "local-only",
        "adaptive",
        "power-of-d",
        "cloud-only",
        "edge-cloud",
    ] {
        assert!(!asks(&trial(), name), "{name}");
    }
}

#[test]
fn nobody_is_asked_for_a_call_of_a_peer_or_where_all_have_it() {
    let guest = Trial {
        origin: Origin::Neighbour,
        ..trial()
    };
    assert!(!asks(&guest, "static"));
    let mut all = trial();
    for number in 1..3 {
        all.has_it(numbered(number));
    }
    let policy = policy("static");
    assert!((0..64).all(|chance| all.asks(&*policy, chance).is_none()));
}
