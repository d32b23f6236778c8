use super::super::testbed::{Trial, is_as_expected, policy};
use super::*;
use crate::samples::numbered;
use crate::snapshot::Here;

fn key() -> u64 {
    let function = "shout".parse().expect("a name");
    Which::of(&function).numbers()[0]
}

/// A node whose function is meant for so many calls a second.
fn node(count: usize, rate_max: u32) -> Trial {
    Trial {
        here: Here::Warm,
        rate_max: Some(rate_max),
        ..Trial::of(count)
    }
}

fn hears(trial: &Trial, policy: &dyn Policy, limits: &[f64]) {
    for (number, limit) in (0..).zip(limits) {
        let note = note_of(&[(key(), *limit, 0.0)]);
        assert_eq!(policy.hear(numbered(number), &note, trial.now), Ok(()));
    }
}

/// So many calls, evenly over a second, and where they went.
fn second(trial: &mut Trial, policy: &dyn Policy, calls: u64) -> Vec<u32> {
    let mut counts = vec![0; trial.peers.len() + 2];
    for _ in 0..calls {
        let chance = trial.now.as_nanos().wrapping_mul(0xd134_2543_de82_ef95);
        let at = match trial.decide(policy, chance) {
            Decision::Run => 0,
            Decision::Offload { to, .. } => to + 1,
            _ => trial.peers.len() + 1,
        };
        counts[at] += 1;
        trial.pass(Duration::from_nanos(1_000_000_000 / calls));
    }
    counts
}

/// What a note of this node's says of the function: limit and excess.
fn told(trial: &Trial, policy: &dyn Policy) -> Option<(f64, f64)> {
    let (_, wishes) = trial.tick(policy);
    let note = read_note(wishes.note()?).expect("it wrote it");
    let found = note.iter().find(|(function, _, _)| *function == key());
    found.map(|(_, limit, excess)| (*limit, *excess))
}

#[test]
fn excess_goes_in_proportion_to_limits() {
    let (mut trial, policy) = (node(3, 10), policy("recalc"));
    trial.tick(&*policy);
    hears(&trial, &*policy, &[40.0, 60.0, 0.0]);
    let mut sums = [0; 5];
    for _ in 0..40 {
        hears(&trial, &*policy, &[40.0, 60.0, 0.0]);
        for (sum, count) in sums.iter_mut().zip(second(&mut trial, &*policy, 110)) {
            *sum += count;
        }
    }
    // Its own rate, and a second's burst at the start.
    assert!((400..=412).contains(&sums[0]), "{sums:?}");
    assert_eq!((sums[3], sums[4]), (0, 0));
    assert!(is_as_expected(&sums[1..3], &[40.0, 60.0]), "{sums:?}");
}

#[test]
fn limits_are_those_of_the_formula() {
    let (mut trial, policy) = (node(2, 100), policy("recalc"));
    trial.tick(&*policy);
    // (100 - 30) for one peer, as long as nobody has excess.
    for _ in 0..20 {
        second(&mut trial, &*policy, 30);
        told(&trial, &*policy);
    }
    second(&mut trial, &*policy, 30);
    let (limit, excess) = told(&trial, &*policy).expect("it is called");
    assert!((limit - 70.0).abs() < 2.0 && excess == 0.0, "{limit}");
    // Two that have share it.
    for number in 0..2 {
        let note = note_of(&[(key(), 0.0, 9.0)]);
        assert_eq!(policy.hear(numbered(number), &note, trial.now), Ok(()));
    }
    second(&mut trial, &*policy, 30);
    let (limit, _) = told(&trial, &*policy).expect("it is called");
    assert!((limit - 35.0).abs() < 2.0, "{limit}");
    // Overloaded, it takes nothing and says how much it has too much.
    for _ in 0..12 {
        second(&mut trial, &*policy, 150);
        told(&trial, &*policy);
    }
    second(&mut trial, &*policy, 150);
    let (limit, excess) = told(&trial, &*policy).expect("it is called");
    assert!(
        limit == 0.0 && (excess - 50.0).abs() < 3.0,
        "{limit}, {excess}"
    );
}

#[test]
fn as_published_two_steps_and_whole_numbers() {
    let (mut trial, policy) = (node(2, 10), policy("recalc:faithful=true"));
    trial.tick(&*policy);
    trial.tick(&*policy);
    hears(&trial, &*policy, &[4.0, 6.0]);
    // Before a round sees the overload its excess is lost.
    trial.pass(Duration::from_millis(1_500));
    let counts = second(&mut trial, &*policy, 50);
    assert_eq!((counts[1], counts[2]), (0, 0), "{counts:?}");
    assert!(counts[3] >= 25, "{counts:?}");
    let (next, _) = trial.tick(&*policy);
    assert_eq!(next.since(trial.now), Duration::from_secs(30));
    trial.tick(&*policy);
    let counts = second(&mut trial, &*policy, 50);
    assert!(
        counts[3] == 0 && counts[1] > 5 && counts[2] > 8,
        "{counts:?}"
    );
}

#[test]
fn an_overload_between_two_rounds_costs_no_call() {
    // Minutes of little, then five times its rate; no round comes in between.
    let (mut trial, policy) = (node(2, 10), policy("recalc"));
    trial.tick(&*policy);
    hears(&trial, &*policy, &[20.0, 30.0]);
    let counts = second(&mut trial, &*policy, 50);
    assert_eq!(counts[3], 0, "{counts:?}");
    assert!(counts[1] > 5 && counts[2] > 10, "{counts:?}");
}

#[test]
fn where_nobody_told_a_limit_room_decides() {
    let (mut trial, policy) = (node(2, 5), policy("recalc"));
    trial.tick(&*policy);
    let counts = second(&mut trial, &*policy, 60);
    assert!(counts[1] > 10 && counts[2] > 10, "{counts:?}");
}

#[test]
fn a_function_without_a_rate_stops_nothing() {
    for (faithful, is_told) in [(false, true), (true, false)] {
        let policy = policy(&format!("recalc:faithful={faithful}"));
        let mut trial = node(1, 100);
        trial.tick(&*policy);
        second(&mut trial, &*policy, 20);
        trial.function = "unlabelled".parse().expect("a name");
        trial.rate_max = None;
        second(&mut trial, &*policy, 20);
        trial.ended(&*policy, None, Ending::Answered, Duration::from_millis(50));
        if faithful {
            trial.tick(&*policy);
        }
        assert_eq!(told(&trial, &*policy).is_some(), is_told, "{faithful}");
    }
}

#[test]
fn a_function_that_is_not_here_goes_to_peers() {
    let (mut trial, policy) = (node(2, 10), policy("recalc"));
    trial.here = Here::Unable;
    trial.tick(&*policy);
    hears(&trial, &*policy, &[5.0, 0.0]);
    assert_eq!(second(&mut trial, &*policy, 10), [0, 10, 0, 0]);
}

#[test]
fn one_lost_note_makes_no_stranger() {
    for (faithful, kept) in [(false, 3), (true, 1)] {
        let policy = policy(&format!("recalc:period=10s,faithful={faithful}"));
        let mut trial = node(1, 10);
        trial.tick(&*policy);
        hears(&trial, &*policy, &[5.0]);
        let which = Which::told([key(), 0]).at(Some(&numbered(0)));
        let recalc = Recalc {
            period: Duration::from_secs(10),
            faithful,
            own: Memory::new(8),
            told: Memory::new(8),
            ticked: Cell::default(),
            step: Cell::default(),
        };
        let cells = recalc.told.entry(which, trial.now);
        cells[HEARD].set(seconds(trial.now));
        trial.pass(Duration::from_secs(10 * kept));
        assert!(recalc.is_fresh(cells, seconds(trial.now)));
        trial.pass(Duration::from_secs(10));
        assert!(!recalc.is_fresh(cells, seconds(trial.now)));
    }
}

#[test]
fn a_peer_sends_no_more_than_it_may() {
    let (mut trial, policy) = (node(1, 30), policy("recalc"));
    trial.tick(&*policy);
    for _ in 0..20 {
        second(&mut trial, &*policy, 20);
        told(&trial, &*policy);
    }
    let (limit, _) = told(&trial, &*policy).expect("it is called");
    trial.origin = Origin::Neighbour;
    trial.from = Some(numbered(0));
    // The burst of a second, and what comes in the second.
    let counts = second(&mut trial, &*policy, 100);
    let most = 2.0 * limit + 2.0;
    assert!(
        f64::from(counts[0]) <= most && counts[2] > 50,
        "{limit}: {counts:?}"
    );
    // What it promised nothing of it takes if it has room.
    trial.function = "other".parse().expect("a name");
    assert_eq!(second(&mut trial, &*policy, 9)[0], 9);
}

#[test]
fn notes_are_bounded_and_checked() {
    let many: Vec<_> = (0..100).map(|number| (number, 1.5, 0.0)).collect();
    assert_eq!(read_note(&note_of(&many)), None);
    let note = note_of(&many[..ENTRIES_MAX]);
    assert!(note.len() <= NOTE_BYTES_MAX);
    assert_eq!(read_note(&note).map(|read| read.len()), Some(ENTRIES_MAX));
    let (trial, policy) = (node(1, 1), policy("recalc"));
    for wrong in [
        &[][..],
        &[2],
        &note[..note.len() - 1],
        &note_of(&[(1, f64::NAN, 0.0)]),
    ] {
        assert_eq!(policy.hear(numbered(7), wrong, trial.now), Err(Malformed));
    }
}

#[test]
fn its_table_is_changed_by_hand() {
    let (mut trial, policy) = (node(2, 1), policy("recalc"));
    trial.tick(&*policy);
    let function = trial.function.clone();
    let peer = numbered(1);
    let weight = |to: Option<&PeerId>| policy.weight(&function, ClassKey::NONE, to);
    assert_eq!(weight(Some(&peer)), None);
    let set = |weight| policy.set_weight(&function, ClassKey::NONE, Some(&peer), weight, trial.now);
    assert!(set(Some(7.0)));
    assert_eq!(weight(Some(&peer)), Some(7.0));
    assert_eq!(trial.decide(&*policy, 1), Decision::Run);
    let counts = second(&mut trial, &*policy, 30);
    assert!(counts[2] > 20 && counts[1] == 0, "{counts:?}");
    trial.here = Here::Full;
    let terms = trial.terms(&*policy, 1);
    assert!(
        terms.contains(&(Some(peer), "takes_per_second", 7.0)),
        "{terms:?}"
    );
}
