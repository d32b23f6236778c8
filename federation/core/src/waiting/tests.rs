//! Who waits, where each may go, and who goes first.

use std::sync::Arc;

use super::*;
use crate::abilities::{Abilities, AtPeers};
use crate::facts::Facts;
use crate::policy::{More, Needs, Origin};
use crate::report::{Report, Role};
use crate::samples::{id, report};
use crate::snapshot::{Cost, View};
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

fn filled(calls: &[(&'static str, bool)]) -> Waiters<&'static str, usize> {
    let mut waiters = Waiters::default();
    for (number, (function, queued)) in calls.iter().enumerate() {
        waiters.enter(function, *queued, number).expect("room");
    }
    waiters
}

#[test]
fn peers_are_asked_for_whoever_waits_longest_of_each_function() {
    type Case<'a> = (&'a str, &'a [(&'static str, bool)], &'a [usize]);
    let cases: [Case<'_>; 4] = [
        ("nobody waits", &[], &[]),
        ("one function", &[("a", true), ("a", false)], &[0]),
        (
            "in the order in which they came, not that of names",
            &[("b", true), ("b", true), ("a", false), ("c", true)],
            &[0, 2, 3],
        ),
        (
            "no more than a few functions at once",
            &[
                ("e", true),
                ("d", true),
                ("c", true),
                ("b", true),
                ("a", true),
            ],
            &[0, 1, 2, 3],
        ),
    ];
    for (name, calls, expected) in cases {
        assert_eq!(filled(calls).oldest(), expected, "{name}");
    }
}

#[test]
fn who_leaves_waits_no_more() {
    let mut waiters = filled(&[("a", true), ("a", false), ("b", true)]);
    assert_eq!((waiters.len(), waiters.queued()), (3, 2));
    waiters.leave(&"a", Number(0));
    waiters.leave(&"a", Number(0));
    waiters.leave(&"b", Number(1));
    waiters.leave(&"c", Number(2));
    assert_eq!((waiters.len(), waiters.queued()), (2, 1));
    assert_eq!(waiters.oldest(), [1, 2]);
    waiters.leave(&"a", Number(1));
    assert_eq!(waiters.outside().count(), 0);
    waiters.leave(&"b", Number(2));
    assert!(waiters.is_empty() && waiters.all.is_empty());
}

#[test]
fn those_without_a_place_in_the_queue_are_bounded() {
    let mut waiters = Waiters::default();
    for number in 0..OUTSIDE_MAX {
        assert!(waiters.enter(&"a", false, number).is_some());
    }
    assert!(waiters.enter(&"b", false, 0).is_none());
    assert!(
        waiters.enter(&"a", true, 0).is_some(),
        "the queue has its own bound"
    );
    waiters.leave(&"a", Number(7));
    assert!(waiters.enter(&"b", false, 0).is_some());
    let first: Vec<usize> = waiters.outside().take(8).copied().collect();
    assert_eq!(first, [0, 1, 2, 3, 4, 5, 6, 8]);
}

#[test]
fn a_free_place_goes_to_the_queue_first_and_then_to_those_outside() {
    use Line::{Outside, Queue};
    // Who wait in the queue and outside, of whom so many may go; who is tried.
    type Case<'a> = (&'a str, [usize; 2], [usize; 2], &'a [Line]);
    let cases: [Case<'_>; 6] = [
        ("nobody waits", [0, 0], [0, 0], &[]),
        ("all of the queue go", [2, 0], [2, 0], &[Queue, Queue]),
        ("none may", [2, 3], [0, 0], &[Queue, Outside]),
        (
            "one of the queue goes, none outside",
            [2, 1],
            [1, 0],
            &[Queue, Queue, Outside],
        ),
        (
            "the queue is tried again after each",
            [1, 2],
            [0, 2],
            &[Queue, Outside, Queue, Outside, Queue],
        ),
        (
            "nobody is in the queue",
            [0, 2],
            [0, 1],
            &[Outside, Outside],
        ),
    ];
    for (name, mut waits, mut may, expected) in cases {
        let mut moves = Moves::default();
        let mut tried = Vec::new();
        while let Some(line) = moves.next(waits[0], waits[1]) {
            tried.push(line);
            let at = usize::from(line == Outside);
            let goes = may[at] > 0;
            if goes {
                waits[at] -= 1;
                may[at] -= 1;
            }
            moves.came(goes);
        }
        assert_eq!(tried, expected, "{name}");
    }
}

#[test]
fn one_word_of_a_peer_moves_so_many_calls() {
    let mut moves = Moves::default();
    let mut moved = 0;
    while moves.next(usize::MAX, 0).is_some() {
        moves.came(true);
        moved += 1;
    }
    assert_eq!(moved, MOVED_MAX);
}

fn peer(number: u8, change: impl FnOnce(&mut Report)) -> PeerView {
    let mut said = report();
    change(&mut said);
    PeerView::new(Arc::new(Facts::new(id(number), said)), Time::ZERO)
}

fn name() -> FunctionName {
    "shout".parse().expect("a name")
}

#[test]
fn a_call_goes_where_its_policy_reaches_and_a_place_is_free() {
    let cloud = |region: &'static str| {
        move |said: &mut Report| {
            said.role = Role::Cloud;
            (said.zone, said.region) = (None, Some(region.to_owned()));
        }
    };
    let peers = vec![
        peer(1, |_| {}),
        peer(2, |said| said.load.guest_cpu = 0),
        peer(3, |said| said.zone = Some("elsewhere".to_owned())),
        peer(4, cloud("south")),
        peer(5, cloud("north")),
    ];
    let view = View::new(&report(), peers);
    let all = Reaches {
        horizontal: true,
        vertical: true,
    };
    let near = Reaches {
        vertical: false,
        ..all
    };
    let far = Reaches {
        horizontal: false,
        ..all
    };
    // Which peers a call may go to, of all.
    type Case<'a> = (&'a str, Reaches, Bounds, &'a [u8], &'a [u8]);
    let cases: [Case<'_>; 5] = [
        ("everywhere", all, Bounds::Federation, &[], &[1, 4]),
        ("to neighbours", near, Bounds::Federation, &[], &[1]),
        ("to regions", far, Bounds::Federation, &[], &[4]),
        ("within its zone", all, Bounds::Zone, &[], &[1]),
        ("not where it was", all, Bounds::Federation, &[1], &[4]),
    ];
    let function = name();
    let mut abilities = Abilities::default();
    for number in 1..=5 {
        abilities.ready(&function, id(number), 1);
    }
    let known = abilities.of(&function);
    let regions = ["south".to_owned()];
    for (name, reaches, bounds, visited, expected) in cases {
        let avoid: Vec<_> = visited.iter().map(|number| id(*number)).collect();
        let request = Request {
            bounds,
            avoid: &avoid,
            ..request(&function)
        };
        let snapshot = snapshot(&view, &known, &regions);
        let goes = (1..=5_u8).filter(|number| {
            let peer = view.peer(&id(*number)).expect("it is known");
            may_go(peer, &request, reaches, &snapshot)
        });
        assert_eq!(goes.collect::<Vec<_>>(), expected, "{name}");
    }
}

fn request(function: &FunctionName) -> Request<'_> {
    Request {
        function,
        version: 1,
        writer: None,
        needs: Needs::default(),
        bounds: Bounds::Federation,
        cost: Cost {
            cpu: 1_000,
            long: false,
        },
        origin: Origin::Here,
        avoid: &[],
        failing: &[],
        anywhere: false,
        hops: 1,
        deadline: Time::NEVER,
        more: More::default(),
    }
}

fn snapshot<'a>(view: &'a View, abilities: &'a AtPeers, regions: &'a [String]) -> Snapshot<'a> {
    let here = Local {
        here: Here::Warm,
        queue: None,
        service: None,
        start: None,
        blamed: false,
        role: Role::Edge,
        regions,
    };
    Snapshot {
        local: local(here, true, None, 3),
        view,
        abilities,
        remembered: None,
        congestion: None,
        now: Time::ZERO,
        chance: 0,
    }
}

#[test]
fn what_waits_is_compared_with_the_end_of_the_queue() {
    let (view, known) = (View::default(), AtPeers::default());
    let here = snapshot(&view, &known, &[]).local;
    let turn = Some(Duration::from_millis(20));
    let queued = local(here, true, turn, 5);
    assert_eq!(queued.here, Here::Full);
    assert_eq!(queued.queue, Some(Duration::from_millis(100)));
    let outside = local(here, false, None, 5);
    assert_eq!((outside.here, outside.queue), (Here::Unable, None));
}

#[test]
fn a_quick_peer_serves_the_queue_as_several_places_would() {
    let ms = |milliseconds| Some(Duration::from_millis(milliseconds));
    let cases = [
        ("as quick as this node", ms(40), ms(40), 1_000),
        ("twice as quick", ms(40), ms(20), 2_000),
        ("a quarter as quick", ms(10), ms(40), 250),
        ("nobody knows", None, ms(40), 1_000),
        ("it has not run there", ms(40), None, 1_000),
        ("no more than twenty", ms(40), Some(Duration::ZERO), 20_000),
        ("no less than a twentieth", ms(1), ms(1_000), 50),
    ];
    for (name, here, there, expected) in cases {
        assert_eq!(serves(here, there), expected, "{name}");
    }
    assert_eq!([0, 1, 1_000, 1_001].map(places), [0, 1, 1, 2]);
}
