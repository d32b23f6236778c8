use std::time::Duration;

use proptest::prelude::*;

use super::calls::PROBES_PER_PEER;
use super::standing::{FIRST_PROBE, FORGIVEN_AFTER, LONGEST_PROBE, MOST_STRIKES};
use super::*;
use crate::facts::Facts;
use crate::report::{Load, Report};
use crate::samples::{id, numbered, report};
use crate::snapshot::{Cost, Reserved, Word};

fn at(milliseconds: u64) -> Time {
    Time::from_nanos(milliseconds * 1_000_000)
}

fn table() -> Peers {
    Peers::new(id(0), 10)
}

fn say(epoch: u64, sequence: u64) -> Report {
    Report {
        epoch,
        sequence,
        ..report()
    }
}

fn standing(table: &Peers, now: Time) -> &'static str {
    table.known(now)[0].standing.as_str()
}

fn is_candidate(table: &mut Peers, now: Time) -> bool {
    !table.view(&report(), now).peers.is_empty()
}

#[test]
fn who_was_away_is_asked_and_needs_no_call_to_be_in_again() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    table.met(id(1), Met::Failure(Fault::Unreachable), at(0));
    assert!(table.to_ask(8, at(499)).is_empty());
    let asked = |table: &mut Peers, now| table.to_ask(8, now).len();
    assert_eq!(asked(&mut table, at(500)), 1);
    assert_eq!(asked(&mut table, at(600)), 0, "it may still answer");
    table.met(id(1), Met::Failure(Fault::Unreachable), at(700));
    assert_eq!(asked(&mut table, at(1_699)), 0, "the pause doubles");
    table.linked(&id(1), at(900));
    assert_eq!(asked(&mut table, at(2_500)), 1);
    table.met(id(1), Met::Reached(None), at(2_510));
    assert_eq!(standing(&table, at(2_510)), "in");
    assert_eq!(table.known(at(2_510))[0].fault, None);
    // Who did something wrong is tried by calls, not by questions.
    table.met(id(1), Met::Failure(Fault::Malformed), at(3_000));
    assert_eq!(asked(&mut table, at(60_000)), 0);
    table.met(id(1), Met::Reached(None), at(60_000));
    assert_eq!(standing(&table, at(60_000)), "out");
}

#[test]
fn whoever_lies_in_turns_is_tried_ever_more_seldom_and_named() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    let mut pauses = Vec::new();
    let mut now = at(0);
    for _ in 0..8 {
        let began = now;
        table.met(id(1), Met::Failure(Fault::Malformed), now);
        while !is_candidate(&mut table, now) {
            now = now + Duration::from_millis(100);
        }
        pauses.push(now.since(began));
        // The call that finds out goes well, and the next does not.
        table.met(id(1), Met::Answer(None), now);
        assert_eq!(table.known(now)[0].fault, Some(Fault::Malformed));
    }
    assert_eq!(pauses[0], FIRST_PROBE);
    assert_eq!(pauses[7], LONGEST_PROBE);
    // It is forgiven when it has been good for long.
    for _ in 0..=u32::from(MOST_STRIKES) * u32::from(FORGIVEN_AFTER) {
        table.met(id(1), Met::Answer(None), now);
    }
    assert_eq!(table.known(now)[0].fault, None);
}

#[test]
fn a_machine_that_broke_down_is_as_good_as_before_when_it_is_back() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    table.met(id(1), Met::Failure(Fault::Lost), at(0));
    assert_eq!(table.known(at(0))[0].fault, Some(Fault::Lost));
    table.met(id(1), Met::Answer(None), at(500));
    assert_eq!(table.known(at(500))[0].fault, None);
}

#[test]
fn an_older_report_changes_nothing() {
    let mut table = table();
    assert_eq!(table.hear(id(1), say(1, 5), at(0)), Heard::New);
    assert_eq!(table.hear(id(1), say(1, 5), at(1)), Heard::Old);
    assert_eq!(table.hear(id(1), say(1, 4), at(1)), Heard::Old);
    assert_eq!(table.hear(id(1), say(0, 9), at(1)), Heard::Past);
    assert_eq!(table.hear(id(1), say(1, 6), at(2)), Heard::Newer);
    assert_eq!(table.known(at(5))[0].age, Duration::from_millis(3));
}

#[test]
fn a_suspicion_is_refuted_by_a_higher_epoch_only() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    assert_eq!(table.suspect(id(1), 0, at(1)), Suspicion::Old);
    assert_eq!(table.suspect(id(1), 2, at(1)), Suspicion::Old);
    assert_eq!(table.suspect(id(1), 1, at(1)), Suspicion::Noted);
    assert!(!is_candidate(&mut table, at(2)));
    // What it said before it heard of the suspicion proves nothing.
    table.hear(id(1), say(1, 2), at(3));
    assert_eq!(standing(&table, at(3)), "suspected");
    table.hear(id(1), say(2, 1), at(4));
    assert_eq!(standing(&table, at(4)), "in");
    assert!(table.tick(at(4_000)).is_empty());
}

#[test]
fn an_unrefuted_suspicion_is_a_death_that_old_words_do_not_undo() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    table.suspect(id(1), 1, at(100));
    assert!(table.tick(at(1_500)).is_empty());
    assert_eq!(table.tick(at(1_600)), [Event::Died(id(1))]);
    assert_eq!(table.hear(id(1), say(1, 2), at(1_700)), Heard::Old);
    assert!(!is_candidate(&mut table, at(1_700)));
    // It is back with a new life.
    assert_eq!(table.hear(id(1), say(2, 1), at(1_800)), Heard::New);
    assert!(is_candidate(&mut table, at(1_800)));
}

#[test]
fn a_node_refutes_what_is_said_of_itself() {
    let mut table = table();
    assert_eq!(table.suspect(id(0), 9, at(0)), Suspicion::Old);
    // A life that never was is nobody's to end, or epochs would run out.
    assert_eq!(table.suspect(id(0), u64::MAX, at(0)), Suspicion::Old);
    assert_eq!(table.suspect(id(0), 10, at(0)), Suspicion::Refute);
    assert_eq!(table.epoch(), 11);
    // Its own report is no twin's, from an earlier life or from this one.
    assert_eq!(table.hear(id(0), say(10, 3), at(0)), Heard::Old);
    table.said(7);
    assert_eq!(table.hear(id(0), say(11, 7), at(0)), Heard::Old);
    assert_eq!(
        table.hear(id(0), say(40, 3), at(0)),
        Heard::Own { times: 1 }
    );
    assert_eq!(
        table.hear(id(0), say(50, 1), at(0)),
        Heard::Own { times: 2 }
    );
    assert_eq!(table.epoch(), 51);
}

#[test]
fn a_peer_that_fails_is_out_at_once_and_tried_again_later() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    table.met(id(1), Met::Failure(Fault::Lost), at(10));
    assert!(!is_candidate(&mut table, at(11)));
    // Its own claims do not bring it back.
    table.hear(id(1), say(1, 2), at(20));
    assert!(!is_candidate(&mut table, at(21)));
    assert!(is_candidate(&mut table, at(510)));
    table.met(id(1), Met::Failure(Fault::Lost), at(520));
    assert!(!is_candidate(&mut table, at(1_400)));
    assert!(is_candidate(&mut table, at(1_520)));
    table.met(id(1), Met::Answer(None), at(1_530));
    assert_eq!(standing(&table, at(1_530)), "in");
}

#[test]
fn probes_become_rare_and_never_end() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    let mut now = at(0);
    for sequence in 2..40 {
        table.met(id(1), Met::Failure(Fault::Lost), now);
        now = now + LONGEST_PROBE;
        table.hear(id(1), say(1, sequence), now);
        assert!(is_candidate(&mut table, now));
    }
}

const COST: Cost = Cost {
    cpu: 1_000,
    long: false,
};

fn room(table: &mut Peers) -> u32 {
    table.view(&report(), at(1)).peers[0].room_for(COST)
}

const REFUSED: Met = Met::Full {
    word: None,
    claims: true,
};

#[test]
fn what_a_full_peer_says_with_its_refusal_holds_until_it_says_more() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    assert!(room(&mut table) > 0);
    let full = Met::Full {
        word: Some(Word::default()),
        claims: false,
    };
    table.met(id(1), full, at(1));
    assert_eq!(room(&mut table), 0);
    table.tick(at(5_000));
    assert_eq!(room(&mut table), 0, "time alone frees no place");
    table.hear(id(1), say(1, 2), at(5_001));
    assert!(room(&mut table) > 0);
    assert!(!table.known(at(0))[0].contradicted);
}

#[test]
fn an_answer_tells_of_room_as_a_report_does() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    let word = |cpu| {
        Some(Word {
            load: Load {
                guest_cpu: cpu,
                ..report().load
            },
            under_way: 0,
        })
    };
    table.met(id(1), Met::Answer(word(0)), at(1));
    assert_eq!(room(&mut table), 0);
    table.met(id(1), Met::Answer(word(2_000)), at(2));
    assert_eq!(room(&mut table), 2);
    table.met(id(1), Met::Told(word(1_000)), at(3));
    assert_eq!(room(&mut table), 1);
}

#[test]
fn a_report_that_may_not_count_what_was_just_sent_opens_nothing() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    let window = table.view(&report(), at(1)).peers[0]
        .window()
        .cloned()
        .expect("a window");
    let held = [at(10), at(10), at(10)].map(|now| window.reserve(None, COST, now));
    assert!(held.iter().all(Option::is_some) && room(&mut table) == 0);
    table.hear(id(1), say(1, 2), at(30));
    assert_eq!(room(&mut table), 0);
    table.hear(id(1), say(1, 3), at(60));
    assert_eq!(room(&mut table), 1, "its allowance is 4");
}

#[test]
fn a_peer_that_claims_room_and_refuses_is_named() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    for sequence in 2..=9 {
        assert!(!table.known(at(0))[0].contradicted);
        table.met(id(1), REFUSED, at(sequence));
        table.hear(id(1), say(1, sequence), at(sequence));
        assert_eq!(room(&mut table), 0, "its claims alone do not open it");
    }
    assert!(table.known(at(0))[0].contradicted);
    table.met(id(1), Met::Answer(None), at(20));
    assert!(!table.known(at(20))[0].contradicted);
}

#[test]
fn a_contradiction_is_taken_to_be_over_after_a_while() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    let claimed = room(&mut table);
    assert!(claimed > 0);
    table.met(id(1), REFUSED, at(10));
    assert_eq!(room(&mut table), 0);
    table.tick(at(400));
    assert_eq!(room(&mut table), 0);
    table.tick(at(510));
    assert_eq!(room(&mut table), claimed);
    // Each refusal of what it claims to have room for counts for longer.
    table.met(id(1), REFUSED, at(600));
    table.tick(at(1_590));
    assert_eq!(room(&mut table), 0);
    table.tick(at(1_600));
    assert_eq!(room(&mut table), claimed);
}

#[test]
fn trust_grows_with_answers_and_ends_with_a_failure() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    let allowance = |table: &Peers| table.known(at(0))[0].allowance;
    assert_eq!(allowance(&table), 4);
    for _ in 0..3 {
        table.met(id(1), Met::Answer(None), at(1));
    }
    assert_eq!(allowance(&table), 32);
    table.met(id(1), Met::Failure(Fault::Lost), at(2));
    assert_eq!(allowance(&table), 4);
}

#[test]
fn the_silent_are_no_candidates_and_later_forgotten() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    assert!(table.tick(at(74_000)).is_empty());
    assert_eq!(table.tick(at(75_000)), [Event::Silent(id(1))]);
    assert!(table.tick(at(76_000)).is_empty());
    assert!(!is_candidate(&mut table, at(76_000)));
    assert_eq!(table.tick(at(600_000)), [Event::Forgotten(id(1))]);
    assert!(table.known(at(600_000)).is_empty());
}

#[test]
fn who_leaves_is_gone_at_once() {
    let mut table = table();
    table.hear(id(1), say(3, 1), at(0));
    table.leave(id(1), 2, at(1));
    assert!(is_candidate(&mut table, at(1)));
    table.leave(id(1), 3, at(1));
    assert_eq!(standing(&table, at(1)), "left");
}

#[test]
fn timers_that_are_overtaken_do_not_pile_up() {
    let mut table = table();
    table.hear(id(1), say(1, 1), at(0));
    for round in 0..1_000 {
        table.met(id(1), REFUSED, at(round));
        table.met(id(1), Met::Failure(Fault::Lies), at(round));
        table.met(id(1), Met::Answer(None), at(round));
        table.tick(at(round + 100_000));
        table.hear(id(1), say(1, round + 2), at(round));
    }
    assert!(table.probes.len() <= 2 * PROBES_PER_PEER);
    assert_eq!(table.out.len(), 1);
}

#[test]
fn a_copy_keeps_what_it_showed_and_shares_the_rest() {
    let mut table = table();
    for number in 1..=99 {
        table.hear(id(number), say(1, 1), at(0));
    }
    let before = table.view(&report(), at(0));
    let draining = Report {
        draining: true,
        ..say(1, 2)
    };
    table.hear(id(40), draining, at(5));
    table.forget(&id(41));
    let after = table.view(&report(), at(5));
    assert_eq!((before.peers.len(), after.peers.len()), (99, 97));
    assert_eq!(before.peer(&id(40)).map(|peer| peer.heard), Some(at(0)));
    assert!(after.peer(&id(40)).is_none() && after.peer(&id(41)).is_none());
    assert_eq!(after.away().count(), 1);
    let windows = [&before, &after].map(|view| view.peer(&id(42))?.window().cloned());
    let [Some(one), Some(other)] = windows else {
        panic!("it takes calls")
    };
    assert!(Arc::ptr_eq(&one, &other));
}

#[test]
fn what_several_heard_is_kept_once() {
    let facts = Arc::new(Facts::new(id(1), report()));
    let mut tables = [table(), table()];
    for table in &mut tables {
        assert_eq!(table.hear_shared(&facts, at(1)), Heard::New);
        assert_eq!(table.hear_shared(&facts, at(2)), Heard::Old);
    }
    assert_eq!(Arc::strong_count(&facts), 3);
}

#[test]
fn what_was_measured_counts_more_than_coordinates() {
    let mut table = table();
    let mut far = say(1, 1);
    far.coordinate.height = 40.0;
    table.hear(id(1), far.clone(), at(0));
    let round_trip = |table: &mut Peers, own: &Report, now| {
        table.view(own, now).peers[0].round_trip().as_millis()
    };
    let mut own = report();
    let guessed = round_trip(&mut table, &own, at(1));
    own.coordinate.height = 10.0;
    assert!(round_trip(&mut table, &own, at(2_000)) > guessed);
    table.measured(&id(1), Duration::from_millis(3));
    own.coordinate.height = 20.0;
    table.hear(id(1), Report { sequence: 2, ..far }, at(3_500));
    assert_eq!(round_trip(&mut table, &own, at(4_000)), 3);
}

#[test]
fn the_table_is_bounded() {
    let mut table = table();
    for number in 0..=PEERS as u32 {
        let heard = table.hear(numbered(number), say(1, 1), at(0));
        assert_eq!(heard == Heard::Full, number == PEERS as u32);
    }
}

proptest! {
    /// A table that spends nothing on peers that were never called shows the
    /// same of them as one that does.
    #[test]
    fn a_sparing_table_shows_the_same(
        acts in prop::collection::vec((0_u8..6, 1_u8..4, 0_u32..9_000, any::<bool>()), 1..40),
    ) {
        let mut tables = [table(), Peers::of_at_most(PEERS, id(0), 10)];
        let short = Cost { cpu: 1_000, long: false };
        let mut held: Vec<[Option<Reserved>; 2]> = Vec::new();
        for (step, (act, peer, cpu, flag)) in (1..).zip(acts) {
            let now = at(step * 40);
            let said = |sequence| {
                let mut said = say(1, sequence);
                (said.load.guest_cpu, said.load.guest_cpu_long) = (cpu, cpu / 2);
                said
            };
            let load = said(1).load;
            let word = Some(Word { load, under_way: u32::from(flag) * 500 });
            let reserved = tables.each_mut().map(|table| {
                match act {
                    0 => drop(table.hear(id(peer), said(step), now)),
                    1 => table.met(id(peer), Met::Told(word), now),
                    2 => table.met(id(peer), Met::Answer(word), now),
                    3 => table.met(id(peer), Met::Full { word, claims: flag }, now),
                    4 => drop(table.tick(now)),
                    _ => return table.window(&id(peer))?.reserve(None, short, now),
                }
                None
            });
            prop_assert_eq!(reserved[0].is_some(), reserved[1].is_some());
            held.push(reserved);
            if flag {
                held.clear();
            }
            let shown = tables.each_mut().map(|table| {
                let view = table.view(&report(), now);
                let peers = view.peers.iter();
                let rooms = [short, Cost { long: true, ..short }];
                let shown = peers.map(|p| (p.id, p.held(), rooms.map(|cost| p.room_for(cost))));
                shown.collect::<Vec<_>>()
            });
            prop_assert_eq!(&shown[0], &shown[1]);
        }
    }
}
