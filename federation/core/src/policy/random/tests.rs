use super::super::testbed::{Trial, is_as_expected, policy};
use super::*;
use crate::samples::numbered;
use crate::snapshot::Here;

fn warm(count: usize) -> Trial {
    Trial {
        here: Here::Warm,
        ..Trial::of(count)
    }
}

/// The shares that the formula gives, in the order of counts.
fn formula(trial: &Trial, seed: u64, reject: f64) -> Vec<f64> {
    let view = trial.view();
    let mut shares = vec![number(seed, &Target::Here)];
    for at in 0..trial.peers.len() {
        shares.push(number(seed, &Target::Peer(Place::of(at, &view))));
    }
    shares.push(reject * number(seed, &Target::Nowhere));
    shares
}

#[test]
fn shares_are_those_that_chance_drew() {
    for (choice, reject) in [("random", 0.0), ("random:reject=true", 1.0)] {
        let (trial, policy) = (warm(4), policy(choice));
        let (next, _) = trial.tick(&*policy);
        assert_eq!(next, trial.now + LOOK_INTERVAL_MAX);
        let counts = trial.shares(&*policy, 20_000);
        let formula = formula(&trial, 5, reject);
        assert!(
            is_as_expected(&counts, &formula),
            "{choice}: {counts:?}, {formula:?}"
        );
    }
}

#[test]
fn whole_percents_are_as_published() {
    let mut shares = [
        (Target::Here, 0.2),
        (Target::Nowhere, 0.3),
        (Target::Here, 0.1),
    ];
    in_percents(&mut shares);
    assert_eq!(shares.map(|(_, share)| share as u32), [33, 50, 17]);
}

#[test]
fn a_new_peer_has_its_share_within_a_second_though_the_period_is_long() {
    let (mut trial, policy) = (warm(2), policy("random:period=1h"));
    trial.tick(&*policy);
    let before = trial.shares(&*policy, 5_000);
    trial.join(|_| {});
    let (next, _) = trial.tick(&*policy);
    assert_eq!(next, trial.now + LOOK_INTERVAL_MAX);
    let after = trial.shares(&*policy, 5_000);
    assert!(after[3] > 0, "{after:?}");
    // The others have what they had of the rest.
    let others: Vec<f64> = before[..3].iter().copied().map(f64::from).collect();
    assert!(
        is_as_expected(&after[..3], &others),
        "{before:?}, {after:?}"
    );
}

#[test]
fn as_published_peers_are_listed_once() {
    let (mut trial, policy) = (warm(2), policy("random:faithful=true"));
    trial.tick(&*policy);
    trial.join(|_| {});
    trial.pass(PUBLISHED);
    trial.tick(&*policy);
    assert_eq!(trial.shares(&*policy, 2_000)[3], 0);
}

#[test]
fn a_peer_without_room_costs_no_call() {
    let (mut trial, policy) = (warm(3), policy("random"));
    trial.tick(&*policy);
    trial.fill(1);
    trial.avoid.push(numbered(0));
    let counts = trial.shares(&*policy, 2_000);
    assert_eq!((counts[1], counts[2], counts[4]), (0, 0, 0), "{counts:?}");
}

#[test]
fn before_its_first_period_it_sends_nothing_away_that_fits_here() {
    assert_eq!(warm(2).shares(&*policy("random"), 10)[0], 10);
    assert_eq!(warm(2).shares(&*policy("random:faithful=true"), 10)[0], 10);
    let counts = Trial::of(2).shares(&*policy("random"), 10);
    assert_eq!(counts[1] + counts[2], 10);
}
