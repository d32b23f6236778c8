use std::sync::Arc;

use weir_node_core::resources::{Cpu, Memory};

use super::*;
use crate::abilities::Ability;
use crate::facts::Facts;
use crate::samples::{id, report};

const COST: Cost = Cost {
    cpu: 1_000,
    long: false,
};

fn at(milliseconds: u64) -> Time {
    Time::ZERO + Duration::from_millis(milliseconds)
}

fn places(warm: u32, startable: u32) -> Option<Places> {
    Some(Places {
        warm,
        startable,
        ..Places::default()
    })
}

fn shout() -> FunctionName {
    "shout".parse().expect("a name")
}

fn holdings() -> Holdings {
    let of = |cores, mebibytes| Resources {
        cpu: Cpu::cores(cores),
        memory: Memory::mebibytes(mebibytes),
    };
    Holdings {
        capacity: of(4, 100),
        held: of(2, 40),
        running: 2,
        waiting: 0,
        guest_cpu: [1_000, 0],
        disk_free: 7,
        is_open: true,
    }
}

#[test]
fn a_node_tells_what_it_has_and_what_guests_may_have_of_it() {
    let load = |change: fn(&mut Holdings), promised| {
        let mut holdings = holdings();
        change(&mut holdings);
        holdings.load(0.5, promised)
    };
    let usual = load(|_| {}, 0);
    assert_eq!((usual.cpu_total, usual.cpu_free), (4_000, 2_000));
    assert_eq!((usual.memory_free >> 20, usual.running), (60, 2));
    let rooms = |load: Load| [load.guest_cpu, load.guest_cpu_long];
    assert_eq!(rooms(usual), [2_000, 2_000]);
    for (name, change, promised, expected) in [
        (
            "promised to others",
            (|_| {}) as fn(&mut Holdings),
            1_500,
            [500, 500],
        ),
        ("closed", |h| h.is_open = false, 0, [0, 0]),
        (
            "long guests have their share",
            |h| h.guest_cpu = [0, 1_000],
            0,
            [2_000, 1_000],
        ),
        (
            "its own users hold all",
            |h| h.guest_cpu = [0, 0],
            0,
            [2_000, 2_000],
        ),
    ] {
        assert_eq!(rooms(load(change, promised)), expected, "{name}");
    }
}

#[test]
fn guests_have_as_many_calls_as_places_and_processors_allow() {
    let load = Load {
        guest_cpu: 3_500,
        guest_cpu_long: 1_000,
        ..Load::default()
    };
    let long = Cost { long: true, ..COST };
    for (name, places, cost, room) in [
        ("processors", places(4, 4), COST, 3),
        ("places", places(1, 1), COST, 2),
        ("long ones", places(4, 4), long, 1),
        ("not deployed", None, COST, 0),
    ] {
        assert_eq!(guest_room(places, &load, cost), room, "{name}");
    }
}

#[test]
fn a_full_function_is_told_from_a_full_node() {
    for (name, places, free, why) in [
        ("its own bound", places(0, 0), 2_000, Why::FunctionFull),
        ("no processors", places(0, 0), 500, Why::NodeFull),
        (
            "places, and yet refused",
            places(1, 0),
            2_000,
            Why::NodeFull,
        ),
        ("not deployed", None, 2_000, Why::NodeFull),
    ] {
        assert_eq!(Why::full(places, free, COST), why, "{name}");
    }
    for why in [
        Why::NodeFull,
        Why::FunctionFull,
        Why::Unable,
        Why::Bringing,
        Why::Other,
    ] {
        assert_eq!(Why::named(Some(why.as_str())), why);
    }
    assert_eq!(Why::named(Some("of another version")), Why::Other);
    assert_eq!(Why::named(None), Why::Other);
}

#[test]
fn a_refusal_counts_against_the_node_only_where_the_node_is_full() {
    let word = Some(Word::default());
    let peer = id(1);
    let claims = |claims| Met::Full { word, claims };
    for (name, why, places, met, came) in [
        (
            "full, and says so",
            Why::NodeFull,
            Some(0),
            claims(false),
            Came::Full(peer),
        ),
        (
            "full, and claims room",
            Why::NodeFull,
            Some(3),
            claims(true),
            Came::Full(peer),
        ),
        (
            "full, and says nothing",
            Why::NodeFull,
            None,
            claims(true),
            Came::Full(peer),
        ),
        (
            "the function",
            Why::FunctionFull,
            Some(0),
            Met::Told(word),
            Came::Full(peer),
        ),
        (
            "bringing",
            Why::Bringing,
            None,
            Met::Told(word),
            Came::Full(peer),
        ),
        (
            "unable",
            Why::Unable,
            None,
            Met::Told(word),
            Came::Declined(peer),
        ),
        (
            "something else",
            Why::Other,
            Some(0),
            claims(true),
            Came::Declined(peer),
        ),
    ] {
        let told = Told {
            places,
            ..Told::default()
        };
        assert_eq!(refusal(peer, why, &told, word), (met, came), "{name}");
    }
}

#[test]
fn what_is_under_way_counts_against_the_places_that_a_peer_tells() {
    let mut abilities = Abilities::default();
    let function = (&shout(), 3);
    let told = Told {
        places: Some(5),
        held: 1,
        ..Told::default()
    };
    let ran = Some(Duration::from_millis(20));
    abilities.answered(function, id(1), &told, ran, at(1));
    let room = abilities.ready(function.0, id(1), 3);
    assert_eq!((room.room(), room.capacity()), (5, 7));
    assert_eq!(room.service(), ran);
    // The instance that ran it is there for the next call, and for no other.
    assert!(room.is_warm());
    let mut peer = PeerView::new(Arc::new(Facts::new(id(1), report())), at(0));
    let window = peer.open().clone();
    let load = Load {
        guest_cpu: 9_000,
        ..report().load
    };
    window.renew(&Word { load, under_way: 0 });
    window.allow(9);
    let known = abilities.of(function.0);
    let taken: Vec<_> = (0..4)
        .filter_map(|_| seize(&peer, &known, 3, COST, at(2)))
        .collect();
    assert_eq!((taken.len(), room.held(), room.room()), (4, 4, 1));
    assert!(!room.is_warm());
    // It answered one, holds one, and has not heard of two.
    abilities.answered(function, id(1), &told, None, at(3));
    assert_eq!(room.room(), 3);
    assert!(
        seize(&peer, &known, 4, COST, at(4)).is_some(),
        "of another version nothing is known"
    );
}

#[test]
fn what_a_refusal_says_of_a_function_is_kept() {
    let mut abilities = Abilities::default();
    let function = (&shout(), 3);
    let told = |places, ready_in| Told {
        places,
        ready_in: Duration::from_millis(ready_in),
        ..Told::default()
    };
    let mut refused = |why, told: Told| {
        abilities.refused(function, id(1), &told, (why, "no key", 2), at(1_000));
        abilities.of(function.0).get(&id(1)).cloned()
    };
    let room = |ability: Option<Ability>| match ability {
        Some(Ability::Ready { room, .. }) => Some(room.room()),
        _ => None,
    };
    assert_eq!(room(refused(Why::NodeFull, told(Some(2), 0))), Some(2));
    assert_eq!(room(refused(Why::FunctionFull, told(Some(2), 0))), Some(0));
    for (says, until) in [(1, 1_020), (500, 1_500), (90_000, 31_000)] {
        let ability = refused(Why::Bringing, told(None, says));
        let brings =
            matches!(ability, Some(Ability::Bringing { until: of, .. }) if of == at(until));
        assert!(brings, "{says}: {ability:?}");
    }
    let unable = refused(Why::Unable, told(None, 0));
    assert!(matches!(unable, Some(Ability::Unable { abilities: 2, .. })));
    let same = refused(Why::Other, told(Some(9), 0));
    assert!(
        matches!(same, Some(Ability::Unable { .. })),
        "it says nothing"
    );
}

#[test]
fn what_comes_back_counts_against_whoever_is_to_blame() {
    let peer = id(4);
    let word = Some(Word {
        load: report().load,
        under_way: 0,
    });
    let failed = |fault| Some(Met::Failure(fault));
    let answer = Some(Met::Answer(word));
    let (lost, declined) = (Some(Came::Lost(peer)), Some(Came::Declined(peer)));
    let lost_there = Back::Lost { excused: false };
    // What came back, whether its policy is in a hurry; what was met, what came
    // of the call, and whether its place there is free.
    let cases = [
        ("an answer", Back::Answered, false, answer, None, false),
        (
            "it failed there",
            Back::Ended { late: false },
            true,
            answer,
            None,
            false,
        ),
        (
            "it was late there",
            Back::Ended { late: true },
            false,
            answer,
            None,
            false,
        ),
        (
            "late for its policy alone",
            Back::Ended { late: true },
            true,
            answer,
            lost,
            false,
        ),
        (
            "a refusal for load",
            Back::Refused(Why::NodeFull),
            false,
            Some(Met::Full { word, claims: true }),
            Some(Came::Full(peer)),
            false,
        ),
        (
            "another refusal",
            Back::Refused(Why::Unable),
            false,
            Some(Met::Told(word)),
            declined,
            false,
        ),
        (
            "half of an answer",
            Back::Cut,
            false,
            Some(Met::Answer(None)),
            None,
            true,
        ),
        (
            "nobody was reached",
            Back::Unreachable,
            true,
            failed(Fault::Unreachable),
            Some(Came::Unreached(peer)),
            true,
        ),
        (
            "it was lost",
            lost_there,
            false,
            failed(Fault::Lost),
            lost,
            true,
        ),
        (
            "its listener was",
            Back::Lost { excused: true },
            false,
            None,
            lost,
            true,
        ),
        (
            "nothing",
            Back::Nothing,
            false,
            failed(Fault::Mute),
            None,
            false,
        ),
        ("nothing in a hurry", Back::Nothing, true, None, lost, false),
        (
            "nonsense",
            Back::Malformed,
            true,
            failed(Fault::Malformed),
            lost,
            false,
        ),
    ];
    for (name, back, impatient, met, came, gives_back) in cases {
        let took = match back {
            Back::Answered | Back::Ended { .. } | Back::Cut => Some(true),
            Back::Refused(Why::NodeFull) => Some(false),
            _ => None,
        };
        let expected = Lesson {
            met,
            came,
            gives_back,
            took,
        };
        let learned = lesson(peer, back, &Told::default(), word, impatient);
        assert_eq!(learned, expected, "{name}");
    }
}
