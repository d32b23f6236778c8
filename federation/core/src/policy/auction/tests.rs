use proptest::prelude::*;

use super::super::testbed::{Trial, is_as_expected, policy};
use super::*;
use crate::samples::numbered;
use crate::snapshot::Here;

/// What a node tells when it thinks.
fn tell(trial: &Trial, policy: &dyn Policy) -> Note {
    let (_, wishes) = trial.tick(policy);
    Note::read(wishes.note().expect("it tells")).expect("it wrote it")
}

fn hears(trial: &Trial, policy: &dyn Policy, from: u32, note: &Note) {
    assert_eq!(
        policy.hear(numbered(from), &note.write(), trial.now),
        Ok(())
    );
}

fn key(number: u32) -> u64 {
    PeerKey::of(&numbered(number)).as_u64()
}

fn own_key(trial: &Trial) -> u64 {
    PeerKey::of(&trial.own).as_u64()
}

fn sells(room: f64, price: f64) -> Note {
    Note {
        room,
        price,
        ..Note::default()
    }
}

#[test]
fn room_goes_to_those_who_bid_most_and_sets_the_price() {
    let (mut trial, policy) = (Trial::of(3), policy("auction"));
    (trial.load.cpu_total, trial.load.guest_cpu) = (4_000, 3_000);
    trial.tick(&*policy);
    let own = own_key(&trial);
    for (number, bid, much) in [(0, 5.0, 2.0), (1, 9.0, 2.0), (2, 1.0, 2.0)] {
        let bids = vec![(own, bid, much)];
        hears(
            &trial,
            &*policy,
            number,
            &Note {
                bids,
                ..Note::default()
            },
        );
    }
    let note = tell(&trial, &*policy);
    assert_eq!(note.grants, [(key(1), 2.0), (key(0), 1.0)]);
    assert_eq!(note.room, 0.0);
    // The lowest bid that it took, and its use above nine tenths.
    assert!(
        (note.price - (5.0 + 50.0 * (1.0 - 0.9))).abs() < 1e-4,
        "{}",
        note.price
    );
    // Without bids it falls by a tenth each round.
    trial.pass(Duration::from_secs(60));
    let next = tell(&trial, &*policy);
    assert!((next.price - note.price * 0.9).abs() < 1e-4);
}

#[test]
fn what_is_lacking_is_asked_of_the_best_first() {
    let (mut trial, policy) = (Trial::of(3), policy("auction"));
    trial.tick(&*policy);
    trial.peers[2].set_round_trip(Duration::from_millis(400));
    // Forty calls of a tenth of a second of one processor: four processors.
    for _ in 0..30 {
        for chance in 0..40 {
            trial.decide(&*policy, chance);
        }
        trial.pass(Duration::from_secs(1));
        hears(&trial, &*policy, 0, &sells(1.5, 30.0));
        hears(&trial, &*policy, 1, &sells(1.0, 10.0));
        hears(&trial, &*policy, 2, &sells(9.0, 0.0));
        tell(&trial, &*policy);
    }
    for chance in 0..40 {
        trial.decide(&*policy, chance);
    }
    trial.pass(Duration::from_secs(1));
    let bids = tell(&trial, &*policy).bids;
    let whom: Vec<u64> = bids.iter().map(|bid| bid.0).collect();
    assert_eq!(whom, [key(1), key(0), key(2)], "{bids:?}");
    assert!((bids[0].1 - 11.0).abs() < 1e-4 && (bids[0].2 - 1.0).abs() < 1e-4);
    assert!((bids[2].2 - 1.5).abs() < 0.1, "{bids:?}");
}

#[test]
fn calls_go_by_what_was_granted() {
    for choice in ["auction", "auction:faithful=true"] {
        let (trial, policy) = (Trial::of(3), policy(choice));
        trial.tick(&*policy);
        let own = own_key(&trial);
        for (number, much) in [(0, 1.0), (1, 3.0)] {
            let grants = vec![(own, much), (key(9), 7.0)];
            hears(
                &trial,
                &*policy,
                number,
                &Note {
                    grants,
                    ..Note::default()
                },
            );
        }
        trial.tick(&*policy);
        let counts = trial.shares(&*policy, 8_000);
        assert!(
            is_as_expected(&counts, &[0.0, 1.0, 3.0, 0.0, 0.0]),
            "{choice}: {counts:?}"
        );
    }
}

#[test]
fn a_call_between_two_rounds_goes_to_the_best_of_score_less_price() {
    let (mut trial, policy) = (Trial::of(3), policy("auction"));
    trial.tick(&*policy);
    trial.peers[1].set_round_trip(Duration::from_millis(30));
    hears(&trial, &*policy, 0, &sells(2.0, 40.0));
    hears(&trial, &*policy, 1, &sells(2.0, 5.0));
    hears(&trial, &*policy, 2, &sells(2.0, 50.0));
    assert_eq!(trial.shares(&*policy, 50), [0, 0, 50, 0, 0]);
    let terms = trial.terms(&*policy, 1);
    assert!(
        terms.contains(&(Some(numbered(1)), "score_ms", 970.0)),
        "{terms:?}"
    );
    assert!(
        terms.contains(&(Some(numbered(2)), "price_ms", 50.0)),
        "{terms:?}"
    );
    // As published it is lost.
    let published = super::super::testbed::policy("auction:faithful=true");
    trial.tick(&*published);
    assert_eq!(trial.shares(&*published, 9)[4], 9);
}

#[test]
fn nobody_pays_more_than_a_refusal_costs() {
    let (trial, policy) = (Trial::of(1), policy("auction:worth=10,reject-cost=20"));
    trial.tick(&*policy);
    hears(&trial, &*policy, 0, &sells(2.0, 28.0));
    assert_eq!(trial.shares(&*policy, 5), [0, 5, 0]);
    hears(&trial, &*policy, 0, &sells(2.0, 31.0));
    assert_eq!(trial.shares(&*policy, 5), [0, 0, 5]);
}

#[test]
fn what_was_told_ends_with_its_age() {
    let (mut trial, policy) = (Trial::of(1), policy("auction"));
    trial.tick(&*policy);
    let grants = vec![(own_key(&trial), 1.0)];
    let note = Note {
        room: 1.0,
        price: 7.0,
        grants,
        ..Note::default()
    };
    hears(&trial, &*policy, 0, &note);
    trial.tick(&*policy);
    let is_granted = |trial: &Trial| {
        let terms = trial.terms(&*policy, 1);
        terms.iter().any(|term| term.1 == "granted_share")
    };
    assert!(is_granted(&trial));
    trial.pass(Duration::from_secs(9));
    trial.tick(&*policy);
    assert!(!is_granted(&trial));
}

#[test]
fn a_market_of_three_gives_the_full_what_the_idle_have() {
    // The first lacks three and a half processors, the others have one and three.
    let all: Vec<_> = (0..3).map(|_| policy("auction")).collect();
    let mut nodes: Vec<Trial> = (0..3)
        .map(|own| {
            let mut trial = Trial::of(3);
            trial.peers.remove(own);
            trial.own = numbered(own as u32);
            trial.load.guest_cpu = [0, 1_000, 3_000][own];
            trial.here = if own == 0 { Here::Full } else { Here::Warm };
            trial
        })
        .collect();
    for _ in 0..12 {
        for chance in 0..36 {
            nodes[0].decide(&*all[0], chance);
        }
        let notes: Vec<Note> = (0..3).map(|at| tell(&nodes[at], &*all[at])).collect();
        for (from, note) in (0..).zip(&notes) {
            for to in (0..3).filter(|to| *to != from as usize) {
                hears(&nodes[to], &*all[to], from, note);
            }
        }
        for node in &mut nodes {
            node.pass(Duration::from_secs(1));
        }
    }
    nodes[0].tick(&*all[0]);
    let counts = nodes[0].shares(&*all[0], 1_000);
    assert_eq!(counts[0] + counts[3], 0, "{counts:?}");
    assert!(counts[1] > 100 && counts[2] > 100, "{counts:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_a_note_or_malformed(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
        let (trial, policy) = (Trial::of(1), policy("auction"));
        let heard = policy.hear(numbered(0), &bytes, trial.now);
        prop_assert_eq!(heard.is_ok(), Note::read(&bytes).is_some());
    }

    #[test]
    fn a_note_is_read_as_it_was_written(
        room in 0..9_u8,
        grants in prop::collection::vec((any::<u64>(), 0..9_u8), 0..GRANTS_MAX),
        bids in prop::collection::vec((any::<u64>(), 0..9_u8, 0..9_u8), 0..BIDS_MAX),
    ) {
        let note = Note {
            room: f64::from(room),
            price: 0.5,
            grants: grants.into_iter().map(|(to, much)| (to, f64::from(much))).collect(),
            bids: bids
                .into_iter()
                .map(|(whom, bid, much)| (whom, f64::from(bid), f64::from(much)))
                .collect(),
        };
        let bytes = note.write();
        prop_assert!(bytes.len() <= NOTE_BYTES_MAX);
        prop_assert_eq!(Note::read(&bytes), Some(note));
    }
}
