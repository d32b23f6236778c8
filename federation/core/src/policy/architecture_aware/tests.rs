use std::time::Duration;

use super::super::testbed::{Trial, is_as_expected, policy};
use super::*;
use crate::policy::Ending;
use crate::samples::numbered;
use crate::snapshot::Here;

/// Three nodes of each of two processors; this one is of the first, and full.
fn mixed() -> Trial {
    let mut trial = Trial::of(3);
    for _ in 0..3 {
        trial.join(|report| report.architecture = "aarch64".to_owned());
    }
    trial
}

fn is_arm(decision: Decision) -> bool {
    match decision {
        Decision::Offload { to, .. } => to >= 3,
        other => panic!("somebody has room: {other:?}"),
    }
}

/// Calls that run so long by the processor of the node that they go to.
fn run(trial: &mut Trial, policy: &dyn Policy, calls: u64, x86: u64, arm: u64) -> u32 {
    let mut at_arm = 0;
    for call in 0..calls {
        let Decision::Offload { to, .. } = trial.decide(policy, call) else {
            panic!("somebody has room");
        };
        at_arm += u32::from(to >= 3);
        let ran = Duration::from_millis(if to >= 3 { arm } else { x86 });
        trial.ended(policy, Some(numbered(to as u32)), Ending::Answered, ran);
        trial.pass(Duration::from_millis(50));
        if call % 20 == 0 {
            trial.tick(policy);
        }
    }
    at_arm
}

#[test]
fn it_finds_out_which_processor_suits_a_function() {
    for by in ["ucb1", "linucb"] {
        for faithful in [false, true] {
            let choice = format!("architecture-aware:by={by},faithful={faithful}");
            let (mut trial, policy) = (mixed(), policy(&choice));
            trial.tick(&*policy);
            run(&mut trial, &*policy, 400, 40, 10);
            let at_arm = run(&mut trial, &*policy, 400, 40, 10);
            assert!(at_arm > 320, "{choice}: {at_arm}");
            // Another function is another matter.
            trial.function = "resize".parse().expect("a name");
            run(&mut trial, &*policy, 400, 10, 40);
            let at_arm = run(&mut trial, &*policy, 400, 10, 40);
            assert!(at_arm < 80, "{choice}: {at_arm}");
        }
    }
}

#[test]
fn turns_and_chance_are_even() {
    for by in ["turns", "chance"] {
        let (trial, policy) = (mixed(), policy(&format!("architecture-aware:by={by}")));
        trial.tick(&*policy);
        let counts = trial.shares(&*policy, 2_000);
        let sums = [counts[1..4].iter().sum(), counts[4..7].iter().sum()];
        assert!(is_as_expected(&sums, &[1.0, 1.0]), "{by}: {sums:?}");
    }
}

#[test]
fn a_function_of_one_processor_goes_to_nodes_that_have_it() {
    let (mut trial, policy) = (mixed(), policy("architecture-aware:by=turns"));
    trial.tick(&*policy);
    for (architecture, arm) in [("aarch64", true), ("x86_64", false)] {
        trial.architecture = Some(architecture);
        for chance in 0..20 {
            assert_eq!(is_arm(trial.decide(&*policy, chance)), arm);
        }
    }
    trial.architecture = Some("riscv64");
    let nowhere = Decision::Reject(Reason::NobodyHasRoom);
    assert_eq!(trial.decide(&*policy, 1), nowhere);
}

#[test]
fn where_nobody_of_a_processor_has_room_the_other_is_taken() {
    let (mut trial, policy) = (mixed(), policy("architecture-aware"));
    trial.tick(&*policy);
    run(&mut trial, &*policy, 200, 40, 10);
    for number in 3..6 {
        trial.fill(number);
    }
    assert!(!is_arm(trial.decide(&*policy, 1)));
}

#[test]
fn a_processor_that_nobody_has_is_no_choice() {
    let (mut trial, policy) = (Trial::of(2), policy("architecture-aware:by=linucb"));
    trial.tick(&*policy);
    trial.here = Here::Startable;
    let scores = trial.terms(&*policy, 1);
    let scores = scores.iter().filter(|term| term.1 == "processor_score");
    assert_eq!(scores.count(), 1);
}

#[test]
fn what_it_learned_survives_a_restart() {
    let (mut trial, policy) = (mixed(), policy("architecture-aware"));
    trial.tick(&*policy);
    assert!(policy.save().is_none_or(|saved| !saved.is_empty()));
    run(&mut trial, &*policy, 300, 40, 10);
    let again = super::super::testbed::policy("architecture-aware");
    let saved = policy.save().expect("it learned");
    assert_eq!(again.restore(&saved, trial.now), Ok(()));
    trial.tick(&*again);
    assert!(is_arm(trial.decide(&*again, 1)));
}
