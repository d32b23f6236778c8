use super::super::trial::{Peer, peer, trial};
use super::*;

#[test]
fn a_peak_counts_at_once_and_sinks_slowly() {
    let mut trial = trial(NAME).with(&[peer(1), peer(2)]);
    let time = |trial: &super::super::trial::Trial, number| {
        let function = trial.function.clone();
        let to = crate::samples::id(number);
        trial
            .policy
            .weight(&function, ClassKey::NONE, Some(&to))
            .expect("known")
    };
    trial.answers(1, 5, 100, 100);
    assert!((time(&trial, 1) - 100.0).abs() < 0.1);
    trial.ends(Some(1), Ending::Answered, 900, 900);
    assert!((time(&trial, 1) - 900.0).abs() < 0.1, "at once");
    trial.answers(1, 5, 100, 100);
    assert!(time(&trial, 1) > 850.0, "slowly");
    trial.later(10_000);
    trial.ends(Some(1), Ending::Answered, 100, 100);
    let sunk = time(&trial, 1);
    assert!(
        (350.0..400.0).contains(&sunk),
        "a third of 800 is left: {sunk}"
    );
}

#[test]
fn calls_that_are_out_count() {
    let mut trial = trial(NAME).with(&[peer(1), peer(2)]);
    trial.answers(1, 9, 100, 100);
    trial.answers(2, 9, 120, 120);
    assert_eq!(trial.send(), Some(1));
    assert_eq!(trial.send(), Some(2));
    assert_eq!(trial.send(), Some(1));
}

#[test]
fn one_that_was_slow_is_tried_again() {
    let mut trial = trial(NAME).with(&[peer(1), peer(2)]);
    trial.answers(1, 9, 140, 140);
    trial.answers(2, 9, 900, 900);
    assert_eq!(trial.chosen(), Some(1));
    for _ in 0..60 {
        trial.later(1_000);
        trial.answers(1, 1, 140, 140);
    }
    assert_eq!(trial.chosen(), Some(2));
}

#[test]
fn failures_are_long_and_not_short() {
    for (policy, expected) in [("peak-ewma", 1), ("peak-ewma:faithful=true", 2)] {
        let mut trial = trial(policy).with(&[peer(1), peer(2)]);
        trial.answers(1, 9, 100, 100);
        for _ in 0..9 {
            trial.later(1);
            trial.ends(Some(2), Ending::Failed, 1, 0);
        }
        assert_eq!(trial.chosen(), Some(expected), "{policy}");
    }
}

/// As published, whoever runs the long functions looks slow for all.
#[test]
fn one_function_does_not_judge_another() {
    for (policy, expected) in [("peak-ewma", Some(2)), ("peak-ewma:faithful=true", Some(1))] {
        let mut trial = trial(policy).with(&[
            peer(1),
            Peer {
                told_ms: 10,
                ..peer(2)
            },
        ]);
        trial.service = Some(Duration::from_millis(10));
        trial.answers(1, 9, 100, 100);
        let other = std::mem::replace(&mut trial.function, "long".parse().expect("a name"));
        trial.answers(2, 9, 5_000, 5_000);
        trial.function = other;
        assert_eq!(trial.chosen(), expected, "{policy}");
    }
}

#[test]
fn of_many_two_are_drawn() {
    let peers: Vec<Peer> = (1..=12).map(peer).collect();
    let mut trial = trial(NAME).with(&peers);
    for number in 1..=12 {
        trial.answers(number, 3, 100 + u64::from(number), 100);
    }
    let shares = trial.shares(600);
    // The worst of all is never the better of two; the best is one of two drawn
    // in two of twelve cases.
    assert_eq!(shares.get(&Some(12)), None);
    let best = shares[&Some(1)];
    assert!((60..150).contains(&best), "{shares:?}");
}
