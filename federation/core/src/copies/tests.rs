use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weir_node_core::id::{NodeMark, Receipt};
use weir_node_core::time::Time;

use super::finding::{Answer, Finding, Whereabouts};
use super::keeping::Keeping;
use super::making::{Avoided, Making, patience};
use super::owning::{ACCEPTING_FOR, Owned, Owning, Short};
use super::resuming::{Resuming, Yielded};
use super::*;
use crate::samples::id;

const SECOND: Duration = Duration::from_secs(1);
const TAKEOVER: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn call(number: u8) -> CallId {
    CallId::new([number; 16])
}

fn ids(numbers: &[u8]) -> Vec<PeerId> {
    numbers.iter().map(|number| id(*number)).collect()
}

fn here(numbers: &[u8]) -> BTreeSet<PeerId> {
    ids(numbers).into_iter().collect()
}

fn note(number: u8, owner: u8, turn: u8, copies: &[u8]) -> Note {
    Note {
        id: call(number),
        owner: id(owner),
        turn,
        copies: ids(copies),
    }
}

fn members(near: &[u8], far: &[u8]) -> Members {
    let near = near.iter().map(|number| (id(*number), true));
    let far = far.iter().map(|number| (id(*number), false));
    Members::default().renewed(near.chain(far))
}

#[test]
fn whose_turn_it_is_with_what_others_said() {
    use Said::{Copied, Done, Pending, Unknown, Unneeded};
    type Case<'a> = (&'a str, u8, u32, &'a [(u8, Said)], Turn);
    // Of call 1, with copies at 2, 3 and 4; this node has the given turn.
    let cases: &[Case<'_>] = &[
        ("nobody is left", 1, 1, &[], Turn::TakeOver(vec![])),
        (
            "the others keep theirs",
            1,
            1,
            &[(3, Copied), (4, Unknown)],
            Turn::TakeOver(ids(&[3])),
        ),
        (
            "one has the result",
            2,
            2,
            &[(2, Done)],
            Turn::Settle(id(2)),
        ),
        (
            "one has taken over",
            2,
            2,
            &[(2, Pending)],
            Turn::Follow(id(2)),
        ),
        (
            "one has, and needs this copy no more",
            3,
            3,
            &[(2, Unneeded)],
            Turn::Follow(id(2)),
        ),
        ("one before is here", 2, 2, &[(2, Copied)], Turn::Wait),
        (
            "one before is here, and did nothing for its whole turn",
            2,
            3,
            &[(2, Copied)],
            Turn::TakeOver(ids(&[2])),
        ),
        (
            "one behind is here",
            2,
            2,
            &[(4, Copied)],
            Turn::TakeOver(ids(&[4])),
        ),
        (
            "one before lost its copy",
            2,
            2,
            &[(2, Unknown)],
            Turn::TakeOver(vec![]),
        ),
    ];
    for (case, own_turn, turns, said, expected) in cases {
        let note = note(1, 9, *own_turn, &[2, 3, 4]);
        let said: Vec<(PeerId, Said)> = said.iter().map(|(n, said)| (id(*n), *said)).collect();
        assert_eq!(turn(&note, *turns, &said), *expected, "{case}");
    }
}

#[test]
fn each_turn_comes_after_its_own_time_and_not_when_the_owner_is_back() {
    let mut keeping = Keeping::default();
    keeping.insert(note(1, 1, 1, &[]), at(0));
    keeping.insert(note(2, 1, 2, &[]), at(0));
    keeping.insert(note(3, 2, 1, &[]), at(0));
    let due = |keeping: &Keeping, seconds: u64| {
        let due = keeping.due(TAKEOVER, at(seconds), 9);
        let due = due.iter().map(|(note, _)| note.id.bytes()[0]);
        due.collect::<Vec<u8>>()
    };
    keeping.look(&here(&[2]), at(10));
    assert!(due(&keeping, 39).is_empty());
    assert_eq!(due(&keeping, 40), [1]);
    assert_eq!(due(&keeping, 70), [1, 2]);
    assert_eq!(keeping.orphans().len(), 2);
    keeping.look(&here(&[1, 2]), at(71));
    assert!(due(&keeping, 500).is_empty());
    // And from then on again.
    keeping.look(&here(&[2]), at(500));
    assert!(due(&keeping, 529).is_empty());
    // A new note of the only copy does not bring its owner back.
    keeping.remove(&call(2));
    keeping.insert(note(1, 1, 1, &[3]), at(520));
    assert_eq!(due(&keeping, 530), [1]);
}

#[test]
fn a_note_is_the_owners_to_change_and_others_only_when_that_is_gone() {
    let (owner, second, stranger) = (id(1), id(2), id(3));
    let mut keeping = Keeping::default();
    assert!(keeping.may_note(&owner, &note(1, 1, 1, &[])));
    assert!(!keeping.may_note(&stranger, &note(1, 1, 1, &[])));
    keeping.insert(note(1, 1, 1, &[2]), at(0));
    assert!(keeping.may_note(&owner, &note(1, 3, 1, &[])));
    assert!(!keeping.may_note(&second, &note(1, 2, 1, &[])));
    keeping.look(&here(&[2, 3]), at(0));
    assert!(keeping.may_note(&second, &note(1, 2, 1, &[])));
    assert!(!keeping.may_note(&second, &note(1, 3, 1, &[])));
    assert!(!keeping.may_note(&stranger, &note(1, 3, 1, &[])));
    assert!(keeping.is_of(&owner, &call(1)) && !keeping.is_of(&second, &call(1)));
}

#[test]
fn owners_are_counted_and_asked_in_turn() {
    let mut keeping = Keeping::default();
    for number in 0..10 {
        keeping.insert(note(number, 1, 1, &[]), at(0));
    }
    keeping.insert(note(10, 2, 1, &[]), at(0));
    keeping.look(&here(&[1]), at(0));
    assert_eq!((keeping.of(&id(1)), keeping.of(&id(2))), (10, 1));
    assert!(keeping.unconfirmed(TAKEOVER, at(29)).is_empty());
    let asked = keeping.unconfirmed(TAKEOVER, at(30));
    assert_eq!((asked.len(), asked[&id(1)].len()), (1, 10));
    assert!(keeping.unconfirmed(TAKEOVER, at(30)).is_empty());
    assert_eq!(keeping.unconfirmed(TAKEOVER, at(60)).len(), 1);
    for number in 0..10 {
        assert!(keeping.remove(&call(number)).is_some());
    }
    assert_eq!((keeping.of(&id(1)), keeping.len()), (0, 1));
}

#[test]
fn what_the_owner_says_of_a_copy() {
    for (said, expected) in [
        (Said::Pending, Confirmed::Keep),
        (Said::Copied, Confirmed::Keep),
        (Said::Done, Confirmed::Settle),
        (Said::Unknown, Confirmed::Forget),
        (Said::Unneeded, Confirmed::Forget),
    ] {
        assert_eq!(confirmed(said), expected, "{said:?}");
        assert_eq!(Said::from_number(said.number()), said);
    }
    assert_eq!(Said::from_number(77), Said::Pending);
}

#[test]
fn copies_are_made_anew_where_too_few_are_left() {
    type Case<'a> = (
        &'a str,
        &'a [u8],
        u8,
        &'a [(u64, &'a [u8])],
        Option<&'a [u8]>,
    );
    // A call with copies; then who is here when; and who is left, if it is short.
    let cases: &[Case<'_>] = &[
        ("all are here", &[2, 3], 2, &[(0, &[2, 3, 4])], None),
        ("one was never made", &[2], 2, &[(0, &[2, 3])], Some(&[2])),
        ("and there is no other", &[2], 2, &[(0, &[2])], None),
        (
            "one is away a moment",
            &[2, 3],
            2,
            &[(0, &[2, 4]), (9, &[2, 4])],
            None,
        ),
        (
            "one is away for a third of the take-over time",
            &[2, 3],
            2,
            &[(0, &[2, 4]), (10, &[2, 4])],
            Some(&[2]),
        ),
        (
            "it was back between",
            &[2, 3],
            2,
            &[(0, &[2, 4]), (9, &[2, 3, 4]), (12, &[2, 4])],
            None,
        ),
        (
            "no more are wanted",
            &[2, 3],
            1,
            &[(0, &[3, 4]), (20, &[3, 4])],
            None,
        ),
        ("none is left", &[2], 1, &[(0, &[4]), (10, &[4])], Some(&[])),
    ];
    for (case, copies, wanted, looks, expected) in cases {
        let mut owning = Owning::default();
        owning.insert(call(1), Owned::stored(ids(copies), *wanted));
        let mut short = Vec::new();
        for (seconds, numbers) in *looks {
            short = owning.short(&here(numbers), TAKEOVER, at(*seconds), BATCH_MAX);
        }
        let expected = expected.map(|left| Short {
            id: call(1),
            left: ids(left),
            wanted: usize::from(*wanted),
        });
        assert_eq!(short, expected.into_iter().collect::<Vec<_>>(), "{case}");
    }
}

#[test]
fn a_member_may_let_go_of_its_copy_when_enough_others_keep_one() {
    let mut owning = Owning::default();
    owning.insert(call(1), Owned::accepting(2, at(0)));
    assert!(!owning.is_unneeded_at(&call(1), &id(4)));
    owning.set_copies(&call(1), ids(&[2]));
    assert!(!owning.is_unneeded_at(&call(1), &id(4)));
    owning.set_copies(&call(1), ids(&[2, 3]));
    assert!(owning.is_unneeded_at(&call(1), &id(4)));
    assert!(!owning.is_unneeded_at(&call(1), &id(3)));
    // What is being accepted is not taken to have ended.
    owning.remove_old(&call(1), at(1));
    assert_eq!(owning.len(), 1);
    owning.remove_old(&call(1), at(0) + ACCEPTING_FOR);
    assert!(owning.is_empty() && !owning.is_unneeded_at(&call(1), &id(4)));
}

#[test]
fn those_that_did_not_answer_are_asked_last_and_six_in_all() {
    let members = members(&[1, 2, 3, 4], &[5, 6, 7, 8]);
    let mut avoided = Avoided::default();
    let ranked: Vec<PeerId> = keepers_of_call(call(7), &members).collect();
    let asked = |avoided: &Avoided, kept: &[PeerId], now: Time| {
        let ranked = ranked.iter().copied();
        let mut making = Making::new(kept, ranked, 2, avoided, now);
        let planned = making.planned().to_vec();
        let next: Vec<PeerId> = std::iter::from_fn(|| making.ask_next()).collect();
        (planned, next)
    };
    let (planned, next) = asked(&avoided, &[], at(0));
    assert_eq!(
        (planned, next),
        (ranked[..2].to_vec(), ranked[..6].to_vec())
    );
    avoided.insert(ranked[0], at(0));
    let (planned, next) = asked(&avoided, &[], at(9));
    let expected: Vec<PeerId> = ranked[1..7].to_vec();
    assert_eq!((planned, next), (ranked[1..3].to_vec(), expected));
    let (planned, _) = asked(&avoided, &[], at(10));
    assert_eq!(planned, ranked[..2]);
    // One that keeps a copy is not asked for another.
    let (planned, next) = asked(&avoided, &[ranked[1]], at(10));
    assert_eq!(planned, [ranked[1], ranked[0]]);
    assert!(!next.contains(&ranked[1]));
}

#[test]
fn what_was_told_holds_when_all_that_were_asked_first_keep_a_copy() {
    let making = Making::new(
        &[],
        ids(&[1, 2, 3]).into_iter(),
        2,
        &Avoided::default(),
        at(0),
    );
    assert_eq!(making.places(), 0..2);
    let made = |places: [Option<u8>; 2]| {
        let places = places.map(|place| place.map(id));
        making.made(places)
    };
    assert_eq!(made([Some(1), Some(2)]), (ids(&[1, 2]), true));
    assert_eq!(made([Some(3), Some(2)]), (ids(&[3, 2]), false));
    assert_eq!(made([None, Some(2)]), (ids(&[2]), false));
    assert_eq!(patience(0), SECOND * 3);
    assert_eq!(patience(1 << 20), SECOND * 7);
}

#[test]
fn calls_of_an_earlier_life_go_on_once_all_were_asked_or_time_is_up() {
    let held = [
        (call(2), ids(&[2, 3])),
        (call(1), ids(&[2])),
        (call(3), vec![]),
    ];
    let mut resuming = Resuming::new(held, at(30));
    let asked = resuming.to_ask(&here(&[2]));
    assert_eq!(asked, BTreeMap::from([(id(2), vec![call(2), call(1)])]));
    // Nobody keeps the third.
    assert_eq!(resuming.go_on(at(1), |_| true), [call(3)]);
    assert_eq!(resuming.said(id(2), call(1), Said::Copied), None);
    assert_eq!(resuming.said(id(2), call(2), Said::Unknown), None);
    assert_eq!(resuming.go_on(at(2), |_| true), [call(1)]);
    assert!(!resuming.is_over() && resuming.to_ask(&here(&[2])).is_empty());
    // The other one is away; later the call goes on without it.
    assert!(resuming.go_on(at(29), |_| true).is_empty());
    assert_eq!(resuming.go_on(at(30), |_| true), [call(2)]);
    assert!(!resuming.is_over());
    let yielded = Yielded {
        id: call(2),
        to: id(3),
        said: Said::Done,
        goes_on: true,
    };
    assert_eq!(resuming.said(id(3), call(2), Said::Done), Some(yielded));
    assert!(resuming.is_over());
}

#[test]
fn a_call_that_goes_on_is_asked_about_no_more_when_it_has_ended() {
    let mut resuming = Resuming::new([(call(1), ids(&[2]))], at(30));
    assert_eq!(resuming.go_on(at(30), |_| true), [call(1)]);
    assert!(resuming.go_on(at(31), |_| false).is_empty());
    assert!(resuming.is_over());
}

#[test]
fn a_call_is_looked_for_where_its_receipt_says_and_where_it_may_be() {
    let members = members(&[1, 2, 3, 4, 5, 6, 7], &[]);
    let receipt = |nodes: &[u8]| Receipt {
        call: call(1),
        nodes: nodes.iter().map(|n| NodeMark::of(&id(*n))).collect(),
    };
    let ranked: Vec<PeerId> = keepers_of_call(call(1), &members).collect();
    let all = here(&[1, 2, 3, 4, 5, 6, 7]);
    let find = |nodes: &[u8], owner: Option<u8>, here: &BTreeSet<PeerId>| {
        Finding::new(&receipt(nodes), &id(9), owner.map(id), here, &members)
    };
    let finding = find(&[2, 9], None, &all);
    let mut expected = vec![id(2)];
    expected.extend(ranked.iter().filter(|p| **p != id(2)).take(4));
    expected.truncate(1 + ranked[..4].iter().filter(|p| **p != id(2)).count());
    assert_eq!(finding.asked(), expected);
    assert_eq!(finding.ends::<()>(), Whereabouts::Unknown);
    // One that it names is away; or this node keeps a copy of it.
    let away = find(&[2], None, &here(&[3]));
    assert_eq!(away.ends::<()>(), Whereabouts::Unreachable);
    let copied = find(&[2], Some(3), &here(&[3]));
    assert_eq!(copied.asked().first(), Some(&id(3)));
    assert_eq!(copied.ends::<()>(), Whereabouts::Pending);
    // A receipt without nodes is of a call that had no copies.
    assert!(find(&[], None, &all).asked().is_empty());
    let mut finding = finding;
    for (answer, expected) in [
        (Answer::Unknown, None),
        (Answer::Pending, Some(Whereabouts::Pending)),
        (Answer::Expired, Some(Whereabouts::Unknown)),
        (Answer::Result(5), Some(Whereabouts::Result(5))),
        (Answer::Unreachable, None),
    ] {
        assert_eq!(finding.came(answer.clone()), expected, "{answer:?}");
    }
    assert_eq!(finding.ends::<()>(), Whereabouts::Unreachable);
}

#[test]
fn a_node_on_its_way_out_gives_up_after_six_that_nobody_takes() {
    let mut handing = HandingOver::default();
    for number in 1..6 {
        assert!(handing.stays(call(number)));
    }
    assert!(!handing.stays(call(6)));
    assert_eq!(handing.left().len(), ASKED_MAX);
}

#[test]
fn copies_are_looked_after_as_often_as_the_takeover_time_asks_for() {
    for (takeover, expected) in [(0, 100), (3_000, 100), (15_000, 500), (90_000, 1_000)] {
        let takeover = Duration::from_millis(takeover);
        assert_eq!(look_interval(takeover), Duration::from_millis(expected));
    }
}

proptest! {
    #[test]
    fn never_more_keep_a_call_than_are_wanted(
        count in 0..12_u8, kept in 0..3_u8, wanted in 0..4_usize, answers in any::<u16>(),
    ) {
        let all: Vec<u8> = (0..count).collect();
        let members = members(&all, &[]);
        let kept: Vec<PeerId> = (0..kept.min(count)).map(id).collect();
        let ranked = keepers_of_call(call(3), &members);
        let mut making = Making::new(&kept, ranked, wanted, &Avoided::default(), at(0));
        let mut asked = 0;
        let mut places = Vec::new();
        for _ in making.places() {
            places.push(loop {
                let Some(peer) = making.ask_next() else { break None };
                asked += 1;
                if answers >> asked & 1 == 1 {
                    break Some(peer);
                }
            });
        }
        let (made, _) = making.made(places);
        let distinct: BTreeSet<&PeerId> = made.iter().collect();
        prop_assert!(made.len() <= wanted.max(kept.len()) && asked <= ASKED_MAX);
        prop_assert_eq!(distinct.len(), made.len());
    }

    #[test]
    fn what_is_kept_by_turns_is_what_a_scan_finds(
        notes in prop::collection::vec((0..20_u8, 1..4_u8, 1..4_u8, any::<bool>()), 0..60),
        gone in 0..4_u8, seconds in 0..200_u64,
    ) {
        let mut keeping = Keeping::default();
        let mut all = BTreeMap::new();
        for (number, owner, turn, stays) in notes {
            if stays {
                let kept = note(number, owner, turn, &[]);
                keeping.insert(kept.clone(), at(0));
                all.insert(call(number), kept);
            } else {
                keeping.remove(&call(number));
                all.remove(&call(number));
            }
        }
        let present: Vec<u8> = (1..4).filter(|number| *number != gone).collect();
        keeping.look(&here(&present), at(0));
        let turns = seconds / 30;
        let due = all.values().filter(|note| {
            note.owner == id(gone) && u64::from(note.turn) <= turns
        });
        let due: BTreeSet<CallId> = due.map(|note| note.id).collect();
        let found = keeping.due(TAKEOVER, at(seconds), 100);
        let found: BTreeSet<CallId> = found.into_iter().map(|(note, _)| note.id).collect();
        prop_assert_eq!(found, due);
        prop_assert_eq!(keeping.len(), all.len());
    }
}
