use std::time::Duration;

use super::super::bandit::Arm;
use super::super::testbed::{Trial, policy};
use super::*;
use crate::policy::Ending;
use crate::samples::numbered;

fn tried(faithful: bool) -> Tried {
    Tried {
        bandit: Bandit::linear(0.1, 0.0),
        faithful,
        half_life: Duration::from_secs(60),
    }
}

#[test]
fn scores_are_those_of_the_formula() {
    // A = I, b = 0: nothing is known, and the width is alpha |x|.
    let arm = |usage: f64| Arm {
        which: Which::NODE,
        expected: None,
        pending: 0.0,
        cores: 4.0,
        usage,
    };
    let tried = tried(true);
    let x2 = 1.0 / (1.0 - 0.5 + 0.01);
    let expected = 0.1 * (1.0_f64 + x2 * x2).sqrt();
    assert!((tried.score(&arm(0.5), 0.0) - expected).abs() < 1e-12);
    // One sample of reward r at x: theta = r x / (1 + |x|^2).
    let trial = Trial::of(1);
    tried.age();
    tried.send(Which::NODE, 0.5, false, trial.now);
    let function = "shout".parse().expect("a name");
    let outcome = Outcome {
        function: &function,
        class: super::super::ClassKey::NONE,
        origin: Origin::Here,
        from: None,
        to: None,
        reach: None,
        ending: Ending::Answered,
        timing: weir_node_core::words::Timing {
            ran: Duration::from_millis(20),
            ..Default::default()
        },
        began: trial.now,
        ended: trial.now + Duration::from_millis(20),
        sent_bytes: 0,
        answer_bytes: 0,
    };
    tried.learn(Which::NODE, Which::NODE, &outcome);
    let square = 1.0 + x2 * x2;
    let mean = -(20.0_f64).ln() * square / (1.0 + square);
    let width = 0.1 * (square / (1.0 + square)).sqrt();
    assert!((tried.score(&arm(0.5), 0.0) - mean - width).abs() < 1e-9);
}

#[test]
fn it_learns_at_which_load_a_node_is_slow() {
    let (mut trial, policy) = (Trial::of(2), policy("linucb"));
    trial.tick(&*policy);
    let busy = |trial: &mut Trial, number: usize, is_busy: bool| {
        let mut load = trial.peers[number].load();
        load.cpu_free = if is_busy { 100 } else { 3_900 };
        load.memory_free = load.memory_total;
        let now = trial.now;
        trial.peers[number].learn(load, now);
    };
    // The first is slow where it is busy, the second always in between.
    for turn in 0..300 {
        let is_busy = turn % 2 == 0;
        busy(&mut trial, 0, is_busy);
        busy(&mut trial, 1, false);
        let Decision::Offload { to, .. } = trial.decide(&*policy, turn) else {
            panic!("somebody has room");
        };
        let ran = match (to, is_busy) {
            (0, true) => 200,
            (0, false) => 5,
            _ => 30,
        };
        let to = Some(numbered(to as u32));
        trial.ended(&*policy, to, Ending::Answered, Duration::from_millis(ran));
    }
    let chosen = |trial: &Trial| match trial.decide(&*policy, 1) {
        Decision::Offload { to, .. } => to,
        other => panic!("{other:?}"),
    };
    busy(&mut trial, 0, false);
    assert_eq!(chosen(&trial), 0);
    busy(&mut trial, 0, true);
    assert_eq!(chosen(&trial), 1);
}

#[test]
fn the_scarcer_of_memory_and_processors_counts() {
    let load = crate::report::Load {
        cpu_total: 4_000,
        cpu_free: 1_000,
        memory_total: 100,
        memory_free: 50,
        ..Default::default()
    };
    assert!((tried(false).usage(&load) - 0.75).abs() < 1e-12);
    assert!((tried(true).usage(&load) - 0.5).abs() < 1e-12);
    let unknown = crate::report::Load::default();
    assert!((tried(false).usage(&unknown) - 1.0).abs() < 1e-12);
}
