use super::super::testbed::{Trial, policy};
use super::*;
use crate::policy::{Ending, Reach};
use crate::samples::numbered;
use crate::snapshot::{Draws, Here};

/// Where a call goes: the number of a peer, or `None` for here.
fn chosen(trial: &Trial, policy: &dyn Policy, chance: u64) -> Option<usize> {
    match trial.decide(policy, chance) {
        Decision::Run => None,
        Decision::Offload { to, reach, .. } => {
            assert_eq!(reach, Reach::Horizontal);
            Some(to)
        }
        other => panic!("somebody has room: {other:?}"),
    }
}

/// So many calls one after the other at peers that take so long, in milliseconds:
/// how much longer they took than at the quickest, all in all.
fn regret(trial: &mut Trial, policy: &dyn Policy, means: &[f64], calls: u64) -> f64 {
    let best = means.iter().copied().fold(f64::MAX, f64::min);
    let mut draws = Draws::new(11);
    let mut regret = 0.0;
    for call in 0..calls {
        let at = chosen(trial, policy, call).expect("it is full here");
        let noise = 0.5 + draws.next().expect("it never ends");
        let ran = Duration::from_secs_f64(means[at] * noise / 1e3);
        regret += means[at] - best;
        trial.ended(policy, Some(numbered(at as u32)), Ending::Answered, ran);
        trial.pass(Duration::from_millis(10));
        if call % 100 == 0 {
            trial.tick(policy);
        }
    }
    regret
}

const MEANS: [f64; 5] = [40.0, 8.0, 60.0, 20.0, 90.0];

#[test]
fn regret_is_below_that_of_the_uniform_choice() {
    let uniform = MEANS.iter().map(|mean| mean - 8.0).sum::<f64>() / 5.0 * 2_000.0;
    for choice in [
        "ucb1",
        "ucb1:faithful=true",
        "ucb1:c=0.1",
        "linucb",
        "linucb:faithful=true",
    ] {
        let found = regret(&mut Trial::of(5), &*policy(choice), &MEANS, 2_000);
        assert!(found < uniform / 3.0, "{choice}: {found} of {uniform}");
    }
}

#[test]
fn a_node_that_becomes_slow_is_left_within_its_half_life() {
    // Ten minutes well, then four times as slow as another.
    let after = |choice: &str| {
        let (mut trial, policy) = (Trial::of(2), policy(choice));
        regret(&mut trial, &*policy, &[10.0, 20.0], 20_000);
        regret(&mut trial, &*policy, &[80.0, 20.0], 3_000) / 60.0 / 3_000.0
    };
    let (ours, published) = (after("ucb1:half-life=10s"), after("ucb1:faithful=true"));
    assert!(ours < 0.3, "{ours}");
    assert!(ours < published, "{ours}, {published}");
}

#[test]
fn an_untried_node_is_as_good_as_its_report_predicts() {
    let (mut trial, policy) = (Trial::of(2), policy("ucb1"));
    regret(&mut trial, &*policy, &[50.0, 50.0], 200);
    // It says that it is quick, and is tried at once.
    trial.join(|_| {});
    assert_eq!(chosen(&trial, &*policy, 3), Some(2));
    // One that is far away is not tried because nobody did.
    trial.peers[2].set_round_trip(Duration::from_secs(30));
    assert_ne!(chosen(&trial, &*policy, 3), Some(2));
}

#[test]
fn an_untried_node_is_not_flooded_before_its_first_answer() {
    let (mut trial, policy) = (Trial::of(1), policy("ucb1"));
    regret(&mut trial, &*policy, &[3.0], 400);
    trial.join(|_| {});
    assert_eq!(chosen(&trial, &*policy, 3), Some(1));
    let view = trial.view();
    let known = trial.abilities.get(&view.peers[1].id).cloned();
    let Some(crate::abilities::Ability::Ready { room, .. }) = known else {
        panic!("the function is there");
    };
    // Calls go there and are not answered.
    let mut held = Vec::new();
    for call in 0..40 {
        if chosen(&trial, &*policy, call) == Some(0) {
            break;
        }
        let window = trial.peers[1].window().expect("calls went there");
        let reserved = window.reserve(Some(&room), super::super::testbed::COST, trial.now);
        held.push(reserved.expect("room"));
    }
    assert!((1..16).contains(&held.len()), "{}", held.len());
}

#[test]
fn one_call_that_fails_at_once_does_not_make_an_arm_good() {
    let (mut trial, policy) = (Trial::of(2), policy("ucb1"));
    regret(&mut trial, &*policy, &[20.0, 30.0], 200);
    for _ in 0..20 {
        let failed = Ending::Failed;
        trial.ended(&*policy, Some(numbered(0)), failed, Duration::ZERO);
    }
    assert_eq!(chosen(&trial, &*policy, 1), Some(1));
}

#[test]
fn a_node_that_always_starts_is_judged_without_its_starts() {
    let cold = weir_node_core::words::Timing {
        started: Duration::from_millis(300),
        ran: Duration::from_millis(5),
        ..Default::default()
    };
    for (choice, tried) in [("ucb1", false), ("ucb1:faithful=true", true)] {
        let (trial, policy) = (Trial::of(2), policy(choice));
        trial.tick(&*policy);
        for _ in 0..50 {
            trial.ended(
                &*policy,
                Some(numbered(1)),
                Ending::Answered,
                Duration::from_millis(2),
            );
            trial.ended_so(&*policy, Some(numbered(0)), Ending::Answered, cold);
        }
        // As published it was never counted, so that it is the next to be tried.
        assert_eq!(chosen(&trial, &*policy, 1) == Some(0), tried, "{choice}");
    }
}

#[test]
fn what_runs_here_is_an_arm_too() {
    let (mut trial, policy) = (Trial::of(1), policy("ucb1"));
    trial.here = Here::Warm;
    assert_eq!(chosen(&trial, &*policy, 1), None);
    for _ in 0..100 {
        trial.ended(&*policy, None, Ending::Answered, Duration::from_millis(90));
        trial.ended(
            &*policy,
            Some(numbered(0)),
            Ending::Answered,
            Duration::from_millis(4),
        );
    }
    assert_eq!(chosen(&trial, &*policy, 1), Some(0));
}

#[test]
fn it_tells_scores_and_keeps_what_it_learned() {
    let (mut trial, policy) = (Trial::of(2), policy("ucb1"));
    regret(&mut trial, &*policy, &[5.0, 50.0], 100);
    let terms = trial.terms(&*policy, 1);
    let score = |at: u32| {
        let of = |term: &&(Option<_>, &str, f64)| term.0 == Some(numbered(at)) && term.1 == "score";
        terms.iter().find(of).expect("it tells").2
    };
    assert!(score(0) > score(1), "{terms:?}");
    let again = super::super::testbed::policy("ucb1");
    let saved = policy.save().expect("it learned");
    assert_eq!(again.restore(&saved, trial.now), Ok(()));
    assert_eq!(trial.terms(&*again, 1), terms);
    assert_eq!(again.restore(b"nonsense", trial.now), Err(Malformed));
}
