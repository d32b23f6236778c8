use super::super::trial::{Peer, peer, trial};
use super::*;

#[test]
fn psi_is_what_the_paper_says() {
    for (response, service, queue, expected) in [
        (12.0, 10.0, 1.0, 12.0),
        (12.0, 10.0, 2.0, 82.0),
        (5.0, 4.0, 3.0, 109.0),
    ] {
        assert_eq!(psi(response, service, queue), expected);
    }
}

#[test]
fn the_cube_of_the_queue_spreads_calls() {
    let mut trial = trial(NAME).with(&[peer(1), peer(2)]);
    trial.answers(1, 9, 101, 100);
    trial.answers(2, 9, 161, 160);
    let mut sent = [0; 3];
    for _ in 0..16 {
        sent[usize::from(trial.send().expect("somebody has room"))] += 1;
    }
    assert!(sent[1] > sent[2] && sent[2] >= 6, "{sent:?}");
}

/// As published, with as many clients as servers one call that is out counts as
/// many: a slow server is preferred to one that has a single call of ours.
#[test]
fn as_many_clients_as_servers_are_no_queue() {
    for (policy, expected) in [("c3", 1), ("c3:faithful=true", 2)] {
        let mut peers = vec![
            peer(1),
            Peer {
                told_ms: 300,
                ..peer(2)
            },
        ];
        peers.extend((3..=8).map(|number| Peer {
            room: 0,
            ..peer(number)
        }));
        let mut trial = trial(policy).with(&peers);
        trial.answers(1, 9, 101, 100);
        trial.answers(2, 9, 301, 300);
        trial.hold(1);
        assert_eq!(trial.chosen(), Some(expected), "{policy}");
    }
}

#[test]
fn what_was_told_of_a_queue_ages() {
    let queue = |age_ms| Peer {
        waiting: 4,
        running: 4,
        age_ms,
        ..peer(1)
    };
    let mut trial = trial(NAME).with(&[queue(0)]);
    let young = trial.term(Some(1), "queue_calls");
    trial.know(&[queue(10_000)]);
    let old = trial.term(Some(1), "queue_calls");
    assert_eq!((young, old), (Some(3.0), Some(1.0)));
}

#[test]
fn what_fails_at_once_is_not_quick() {
    for (policy, expected) in [("c3", 1), ("c3:faithful=true", 2)] {
        let mut trial = trial(policy).with(&[peer(1), peer(2)]);
        trial.answers(1, 9, 101, 100);
        trial.answers(2, 9, 101, 100);
        for _ in 0..9 {
            trial.ends(Some(2), Ending::Failed, 1, 0);
        }
        assert_eq!(trial.chosen(), Some(expected), "{policy}");
    }
}
