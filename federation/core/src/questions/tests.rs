//! Whom it asks, in which order, and how often.

use super::*;
use crate::abilities::{Abilities, AtPeers};
use crate::facts::Facts;
use crate::policy::{Bounds, More, Needs, Origin};
use crate::report::Report;
use crate::samples::{id, report};
use crate::snapshot::{Cost, Here, Local, PeerView, View};
use std::sync::Arc;
use weir_node_core::id::FunctionName;

fn at(milliseconds: u64) -> Time {
    Time::ZERO + Duration::from_millis(milliseconds)
}

/// Peers by their numbers, none of which may have to bring code.
fn peers(count: u32) -> impl Iterator<Item = (u32, bool)> {
    (0..count).map(|peer| (peer, false))
}

#[test]
fn a_few_are_asked_at_once_and_then_so_many_a_second() {
    let mut questions = Questions::new(at(0));
    let mut ask = |now| questions.ask(&"a", peers(100), 0, at(now)).len();
    assert_eq!(ask(0), 8);
    assert_eq!(ask(0), 0);
    assert_eq!(ask(49), 0);
    assert_eq!(ask(50), 1);
    let second: usize = (1..=20).map(|step| ask(50 + step * 50)).sum();
    assert_eq!(second, 20);
    assert_eq!(ask(60_000), 8, "no more are saved up");
}

#[test]
fn a_peer_is_asked_again_about_a_function_once_it_has_answered() {
    let mut questions = Questions::new(at(0));
    // When, about which function; whether it has answered before; whether it is.
    let cases = [
        ("for the first time", 0, "a", false, true),
        ("it has not answered", 500, "a", false, false),
        (
            "another function is another question",
            500,
            "b",
            false,
            true,
        ),
        ("it has answered", 500, "a", true, true),
        ("too soon after the last one", 599, "a", true, false),
        ("soon enough", 600, "a", true, true),
    ];
    for (name, now, function, answered, expected) in cases {
        if answered {
            questions.answered(7, &function);
        }
        let asked = questions.ask(&function, [(7, false)], 0, at(now));
        assert_eq!(asked, [7][..usize::from(expected)], "{name}");
    }
}

#[test]
fn few_bring_one_function_at_once() {
    let cases: [(&str, usize, [bool; 6], &[u32]); 4] = [
        ("nobody brings it yet", 0, [true; 6], &[0, 1, 2, 3]),
        ("some do", 3, [true; 6], &[0]),
        ("enough do", 4, [true; 6], &[]),
        (
            "whoever has it is asked all the same",
            4,
            [true, false, true, false, true, false],
            &[1, 3, 5],
        ),
    ];
    for (name, brings, may_bring, expected) in cases {
        let mut questions = Questions::new(at(0));
        let worth = (0..).zip(may_bring);
        assert_eq!(
            questions.ask(&"a", worth, brings, at(0)),
            expected,
            "{name}"
        );
    }
}

#[test]
fn pairs_that_are_kept_are_bounded() {
    let mut questions = Questions::new(at(0));
    let pairs = u32::try_from(PAIRS_MAX).expect("a bound");
    for number in 0..2 * pairs {
        let now = at(u64::from(number) * 50);
        assert_eq!(questions.ask(&"a", [(number, false)], 0, now), [number]);
        questions.answered(number, &"a");
        assert!(questions.asked.len() <= PAIRS_MAX);
    }
}

#[test]
fn who_is_unasked_or_full_is_worth_a_question_the_soonest_first() {
    let peer = |number: u8, round_trip: u64, change: fn(&mut Report)| {
        let mut said = report();
        change(&mut said);
        let mut peer = PeerView::new(Arc::new(Facts::new(id(number), said)), at(0));
        peer.set_round_trip(Duration::from_millis(round_trip));
        peer
    };
    let idle: fn(&mut Report) = |said| said.offers.clear();
    let full: fn(&mut Report) = |said| said.load.guest_cpu = 0;
    let peers = vec![
        peer(1, 9, idle),
        peer(2, 5, idle),
        peer(3, 1, full),
        peer(4, 1, |_| {}),
        peer(5, 5, full),
        peer(6, 1, idle),
        peer(7, 1, idle),
    ];
    let view = View::new(&report(), peers);
    let function: FunctionName = "shout".parse().expect("a name");
    let mut abilities = Abilities::default();
    abilities.unable(&function, id(6), 1, ("no room", 0), at(0));
    let known: Arc<AtPeers> = abilities.of(&function);
    let avoid = [id(7)];
    let request = Request {
        function: &function,
        version: 1,
        writer: None,
        needs: Needs::default(),
        bounds: Bounds::Federation,
        cost: Cost {
            cpu: 1_000,
            long: false,
        },
        origin: Origin::Here,
        avoid: &avoid,
        failing: &[],
        anywhere: false,
        hops: 1,
        deadline: Time::NEVER,
        more: More::default(),
    };
    let snapshot = Snapshot {
        local: Local {
            here: Here::Unable,
            queue: None,
            service: None,
            start: Some(Duration::ZERO),
            blamed: false,
            role: crate::report::Role::Edge,
            regions: &[],
        },
        view: &view,
        abilities: &known,
        remembered: None,
        congestion: None,
        now: at(0),
        chance: 0,
    };
    let reaches = |horizontal| Reaches {
        horizontal,
        vertical: true,
    };
    let worth = worth_asking(&request, reaches(true), &snapshot);
    let worth: Vec<_> = worth.iter().map(|w| (w.peer, w.brings)).collect();
    let expected = [(3, false), (2, true), (5, false), (1, true)];
    assert_eq!(worth, expected.map(|(number, brings)| (id(number), brings)));
    assert!(worth_asking(&request, reaches(false), &snapshot).is_empty());
}
