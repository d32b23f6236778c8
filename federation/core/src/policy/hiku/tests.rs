use super::super::trial::{Peer, peer, trial};
use super::*;

const PUBLISHED: &str = "hiku:faithful=true";

#[test]
fn who_ended_a_call_of_the_function_pulls_the_next() {
    for policy in [NAME, PUBLISHED] {
        let mut trial = trial(policy).with(&[peer(1), peer(2), peer(3)]);
        trial.answers(3, 1, 100, 100);
        // Of another function nobody waits for work.
        let other = std::mem::replace(&mut trial.function, "other".parse().expect("a name"));
        assert_eq!(trial.term(Some(3), "pulls"), None, "{policy}");
        trial.function = other;
        assert_eq!(trial.term(Some(3), "pulls"), Some(1.0), "{policy}");
        assert_eq!(trial.term(Some(3), "pulls"), None, "{policy}: once");
    }
}

#[test]
fn of_those_that_wait_the_one_with_the_fewest_calls() {
    let busy = Peer {
        running: 3,
        ..peer(1)
    };
    for policy in [NAME, PUBLISHED] {
        let mut trial = trial(policy).with(&[busy, peer(2)]);
        trial.answers(1, 1, 100, 100);
        trial.answers(2, 1, 100, 100);
        assert_eq!(
            [trial.chosen(), trial.chosen()],
            [Some(2), Some(1)],
            "{policy}"
        );
    }
}

#[test]
fn without_one_that_waits_the_fewest_calls() {
    let busy = |number, running| Peer {
        running,
        ..peer(number)
    };
    let mut trial = trial(NAME).with(&[busy(1, 3), busy(2, 1), busy(3, 2)]);
    assert_eq!(trial.shares(9), [(Some(2), 9)].into());
    assert_eq!(trial.term(Some(1), "calls"), Some(0.75));
}

/// As published, a worker has to say when it lets go of an instance.
#[test]
fn an_instance_that_is_gone_pulls_nothing() {
    let cold = Peer {
        warm: false,
        running: 2,
        ..peer(1)
    };
    for (policy, expected) in [(NAME, 2), (PUBLISHED, 1)] {
        let mut trial = trial(policy).with(&[cold, peer(2)]);
        trial.answers(1, 1, 100, 100);
        assert_eq!(trial.chosen(), Some(expected), "{policy}");
    }
}

#[test]
fn a_warm_node_needs_nobody() {
    let mut trial = trial(NAME).with(&[peer(1)]);
    trial.answers(1, 1, 100, 100);
    trial.here = Here::Warm;
    assert_eq!(trial.decide(), Decision::Run);
}
