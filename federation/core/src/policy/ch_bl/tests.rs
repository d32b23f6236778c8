use super::super::trial::{Peer, peer, trial};
use super::*;
use crate::policy::Ending;

const PUBLISHED: &str = "ch-bl:faithful=true";

fn named(number: u32) -> weir_node_core::id::FunctionName {
    format!("f{number}").parse().expect("a name")
}

#[test]
fn a_function_has_a_home() {
    let peers: Vec<Peer> = (1..=8).map(peer).collect();
    let mut homes = std::collections::BTreeSet::new();
    for number in 0..20 {
        let mut trial = trial(NAME).with(&peers);
        trial.function = named(number);
        trial.tick();
        let shares = trial.shares(1);
        homes.insert(*shares.keys().next().expect("one"));
    }
    assert!(homes.len() > 4, "functions are spread: {homes:?}");
}

/// The bound of the paper, after each call: for 1,000 calls of one function and of
/// many, at equal servers and at unlike ones.
#[test]
fn no_server_has_more_than_its_bound() {
    for functions in [1, 50] {
        for (policy, slack) in [(PUBLISHED, 0.25), (NAME, 0.25), ("ch-bl:slack=0.2", 0.2)] {
            let is_even = policy == PUBLISHED;
            let peers: Vec<Peer> = (1..=8)
                .map(|number| Peer {
                    cores: if is_even { 4 } else { u32::from(number) },
                    ..peer(number)
                })
                .collect();
            let mut trial = trial(policy).with(&peers);
            // This node takes part in the ring, and has no room.
            trial.tick();
            let all = 4.0 + peers.iter().map(|peer| f64::from(peer.cores)).sum::<f64>();
            for calls in 1..=200_u32 {
                trial.function = named(calls % functions);
                trial.send().expect("somebody has room");
                for peer in &peers {
                    let share = match is_even {
                        true => 1.0 / 9.0,
                        false => f64::from(peer.cores) / all,
                    };
                    let bound = ((1.0 + slack) * f64::from(calls) * share).ceil().max(1.0);
                    let held = trial.held(peer.number) as f64;
                    assert!(held <= bound, "{policy}, {calls} calls: {held} > {bound}");
                }
            }
        }
    }
}

#[test]
fn calls_that_end_make_room_at_home() {
    let peers: Vec<Peer> = (1..=4).map(peer).collect();
    let mut trial = trial(NAME).with(&peers);
    trial.tick();
    let home = trial.send().expect("it has a home");
    let next = trial.send().expect("another");
    assert_ne!(home, next, "the bound is one call each");
    trial.release(home);
    trial.ends(Some(home), Ending::Answered, 100, 100);
    assert_eq!(trial.send(), Some(home));
}

#[test]
fn who_comes_takes_little_from_others() {
    let peers: Vec<Peer> = (1..=10).map(peer).collect();
    let homes = |peers: &[Peer]| -> Vec<Option<u8>> {
        let of = |number| {
            let mut trial = trial("ch-bl:points=64").with(peers);
            trial.function = named(number);
            trial.tick();
            trial.chosen()
        };
        (0..100).map(of).collect()
    };
    let (before, after) = (homes(&peers[..9]), homes(&peers));
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(one, other)| one != other);
    let moved: Vec<_> = moved.collect();
    assert!(moved.iter().all(|(_, to)| **to == Some(10)), "{moved:?}");
    assert!((2..25).contains(&moved.len()), "a tenth: {}", moved.len());
}

#[test]
fn without_a_ring_yet_the_fewest_calls() {
    let mut trial = trial(NAME).with(&[peer(1), peer(2)]);
    trial.hold(1);
    assert_eq!(trial.chosen(), Some(2));
}

#[test]
fn it_runs_here_what_is_at_home_here() {
    let mut trial = trial(NAME).with(&[peer(1), peer(2), peer(3)]);
    trial.here = crate::snapshot::Here::Warm;
    trial.tick();
    let mut here = 0;
    for number in 0..40 {
        trial.function = named(number);
        trial.tick();
        here += usize::from(trial.decide() == Decision::Run);
    }
    assert!((3..25).contains(&here), "a quarter of 40: {here}");
}
