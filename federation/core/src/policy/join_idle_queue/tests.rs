use super::super::trial::{Peer, peer, trial};
use super::*;

const PUBLISHED: &str = "join-idle-queue:faithful=true";

#[test]
fn who_answered_is_next_once() {
    let peers: Vec<Peer> = (1..=6).map(peer).collect();
    for policy in [NAME, PUBLISHED] {
        let mut trial = trial(policy).with(&peers);
        trial.answers(5, 1, 100, 100);
        assert_eq!(trial.send(), Some(5), "{policy}");
        let after = trial.shares(120);
        assert!(after.len() > 4, "it is idle no more: {policy}, {after:?}");
    }
}

#[test]
fn idle_servers_are_taken_nearest_first_and_not_in_their_order() {
    let far = Peer {
        round_trip_ms: 80,
        ..peer(1)
    };
    for (policy, expected) in [(NAME, [2, 1]), (PUBLISHED, [1, 2])] {
        let mut trial = trial(policy).with(&[far, peer(2), peer(3)]);
        trial.answers(1, 1, 100, 100);
        trial.answers(2, 1, 100, 100);
        let sent = [trial.send(), trial.send()];
        assert_eq!(sent, expected.map(Some), "{policy}");
    }
}

/// As published, an idle server stays in the queue of one dispatcher while others
/// use it.
#[test]
fn who_was_idle_long_ago_is_not_pinned() {
    let peers: Vec<Peer> = (1..=8).map(peer).collect();
    for (policy, pinned) in [(NAME, false), (PUBLISHED, true)] {
        let mut trial = trial(policy).with(&peers);
        trial.answers(5, 3, 100, 100);
        trial.later(30_000);
        let idle = trial.term(Some(5), "idle").is_some();
        assert_eq!(idle, pinned, "{policy}");
    }
}

#[test]
fn while_nobody_is_idle_draws_are_by_cores() {
    let large = Peer {
        cores: 12,
        ..peer(2)
    };
    for (policy, least, most) in [(NAME, 650, 850), (PUBLISHED, 420, 580)] {
        let mut trial = trial(policy).with(&[peer(1), large]);
        let shares = trial.shares(1_000);
        let large = shares[&Some(2)];
        assert!((least..most).contains(&large), "{policy}: {shares:?}");
    }
}

#[test]
fn who_joined_and_has_no_room_is_passed_by() {
    let mut trial = trial(NAME).with(&[peer(1), Peer { room: 0, ..peer(2) }]);
    trial.answers(2, 1, 100, 100);
    trial.answers(1, 1, 100, 100);
    assert_eq!(trial.chosen(), Some(1));
}

#[test]
fn failures_are_no_idleness() {
    let mut trial = trial(NAME).with(&[peer(1), peer(2)]);
    trial.ends(Some(2), Ending::Failed, 1, 0);
    assert_eq!(trial.term(Some(2), "idle"), None);
}
