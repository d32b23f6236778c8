use super::super::trial::{Peer, peer, trial};
use super::*;
use crate::policy::Ending;
use crate::snapshot::Here;

#[test]
fn a_popular_function_leaves_a_loaded_home() {
    let peers: Vec<Peer> = (1..=6).map(peer).collect();
    for policy in [NAME, "ch-rlu:faithful=true"] {
        let mut trial = trial(policy).with(&peers);
        trial.tick();
        let home = trial.chosen().expect("it has a home");
        let loaded: Vec<Peer> = peers
            .iter()
            .map(|peer| Peer {
                running: if peer.number == home { 8 } else { 0 },
                ..*peer
            })
            .collect();
        trial.know(&loaded);
        let shares = trial.shares(40);
        assert_eq!(shares.len(), 1, "{policy}: {shares:?}");
        assert_ne!(trial.chosen(), Some(home), "{policy}");
        // One that is not popular stays.
        let mut trial = super::super::trial::trial(&format!("{NAME}:popular=0")).with(&loaded);
        trial.tick();
        assert_eq!(trial.chosen(), Some(home));
    }
}

#[test]
fn those_called_most_often_are_popular() {
    let peers: Vec<Peer> = (1..=6).map(peer).collect();
    let mut trial = trial(NAME).with(&peers);
    for number in 0..10 {
        trial.function = format!("f{number}").parse().expect("a name");
        for _ in 0..=number {
            trial.ends(Some(1), Ending::Answered, 10, 10);
        }
    }
    trial.tick();
    // Two of ten leave a loaded home.
    for number in 0..10 {
        trial.function = format!("f{number}").parse().expect("a name");
        trial.know(&peers);
        let home = trial.chosen().expect("it has a home");
        let loaded = |peer: &Peer| Peer {
            running: if peer.number == home { 8 } else { 0 },
            ..*peer
        };
        trial.know(&peers.iter().map(loaded).collect::<Vec<_>>());
        let stays = trial.chosen() == Some(home);
        assert_eq!(stays, number < 8, "f{number}");
    }
}

/// As published, what was sent since the last report is guessed by noise, and a
/// home at its ceiling takes a whole period's calls.
#[test]
fn our_own_calls_fill_a_home_before_it_says_so() {
    let peers: Vec<Peer> = (1..=4).map(peer).collect();
    for (policy, most) in [(NAME, 6), ("ch-rlu:faithful=true", 12)] {
        let mut trial = trial(policy).with(&peers);
        trial.tick();
        let home = trial.chosen().expect("it has a home");
        for _ in 0..12 {
            trial.send();
        }
        let held = trial.held(home);
        match policy == NAME {
            true => assert!((2..=most).contains(&held), "{held}"),
            false => assert_eq!(held, most),
        }
    }
}

#[test]
fn a_home_without_room_is_left_by_all() {
    let mut trial = trial("ch-rlu:popular=0").with(&[peer(1), peer(2), peer(3)]);
    trial.tick();
    let home = trial.chosen().expect("it has a home");
    let full: Vec<Peer> = (1..=3)
        .map(|number| Peer {
            room: if number == home { 0 } else { 64 },
            ..peer(number)
        })
        .collect();
    trial.know(&full);
    let next = trial.chosen().expect("another takes it");
    assert_ne!(next, home);
}

#[test]
fn noise_is_nearly_normal() {
    let draws: Vec<f64> = (0..4_000)
        .map(|at| normal(ring::mix(at), PeerKey::by(9)))
        .collect();
    let mean = draws.iter().sum::<f64>() / 4_000.0;
    let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / 4_000.0;
    assert!(mean.abs() < 0.06, "{mean}");
    assert!((0.9..1.1).contains(&variance), "{variance}");
}

#[test]
fn this_node_is_on_the_ring() {
    let mut trial = trial(NAME).with(&[peer(1)]);
    trial.here = Here::Warm;
    trial.tick();
    let mut here = 0;
    for number in 0..40 {
        trial.function = format!("f{number}").parse().expect("a name");
        here += usize::from(trial.decide() == Decision::Run);
    }
    assert!((5..35).contains(&here), "a half of 40: {here}");
}
