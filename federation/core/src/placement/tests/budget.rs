//! Placement with what holds beside every policy.

use super::*;
use crate::answers::Told;
use crate::beside::{Held, HeldBack};
use crate::report::Load;

/// How far a call may go that is to be decided about.
fn hops(call: &Placement<Arc<dyn Policy>>) -> u8 {
    let function: FunctionName = "shout".parse().expect("a name");
    call.request(&function, &[], None).hops
}

/// A budget that is used up.
fn used_up() -> Arc<Beside> {
    let beside = Arc::new(Beside::default());
    while beside.takes_retry(at(1)) {}
    beside
}

fn idempotent() -> Arrival<Arc<dyn Policy>> {
    Arrival {
        wanted: wanted(|wanted| {
            wanted.idempotent = true;
            wanted.bounds = Bounds::Federation;
        }),
        ..arrival()
    }
}

#[test]
fn what_peers_refuse_is_offered_again_within_the_retry_budget_alone() {
    let beside = Arc::new(Beside::default());
    let mut offered_again = 0;
    for _ in 0..1_000 {
        let mut call = Placement::new(Arrival {
            arrived: at(1_000),
            ..arrival()
        })
        .beside(beside.clone());
        assert_eq!(hops(&call), HOPS_MAX, "the first offer is free");
        call.take(OFFER, at(1_000));
        call.goes(id(1), Reach::Horizontal, at(1_000));
        assert_eq!(call.came(Came::Full(id(1)), at(1_000)), None);
        offered_again += u32::from(hops(&call) > 0);
    }
    // A fifth of a thousand, and thirty of ten seconds.
    assert!((220..=231).contains(&offered_again), "{offered_again}");
}

#[test]
fn what_uses_the_budget_and_what_goes_on_without_it() {
    let peer = id(1);
    // What came, whether the function may run twice, whether it goes to peers again
    // with a budget that is used up, and whether it uses one that is not.
    for (name, came, twice, goes_on, uses) in [
        ("full", Came::Full(peer), false, false, true),
        ("declined", Came::Declined(peer), false, false, true),
        ("lost", Came::Lost(peer), true, true, true),
        ("unreached", Came::Unreached(peer), false, true, true),
        ("place taken", Came::PlaceTaken, false, true, false),
        ("left the queue", Came::LeftQueue, false, true, false),
        ("waited enough", Came::WaitedEnough, false, true, false),
        ("brought", Came::Brought, false, true, false),
    ] {
        let arrival = match twice {
            true => idempotent(),
            false => arrival(),
        };
        let mut call = Placement::new(arrival.clone()).beside(used_up());
        assert_eq!(call.came(came, at(1)), None, "{name}");
        assert_eq!(hops(&call) > 0, goes_on, "{name}");
        let (fresh, untouched) = (Arc::new(Beside::default()), Beside::default());
        let mut call = Placement::new(arrival).beside(fresh.clone());
        assert_eq!(call.came(came, at(1)), None, "{name}");
        assert!(hops(&call) > 0, "{name}");
        let left = |beside: &Beside| {
            let mut left = 0;
            while beside.takes_retry(at(1)) {
                left += 1;
            }
            left
        };
        assert_eq!(left(&fresh) < left(&untouched), uses, "{name}");
    }
}

#[test]
fn a_call_that_is_lost_over_and_over_is_placed_again_twice_beyond_the_budget() {
    let mut call = Placement::new(idempotent()).beside(used_up());
    for _ in 0..LOST_BEYOND_BUDGET {
        assert_eq!(call.came(Came::Lost(id(1)), at(1)), None);
        assert!(hops(&call) > 0);
    }
    assert_eq!(call.came(Came::Lost(id(2)), at(1)), None);
    assert_eq!(hops(&call), 0, "it may end all that it comes to");
}

#[test]
fn a_call_that_is_held_back_runs_or_waits_here_and_is_refused_by_the_queue_alone() {
    let place = |prospect| {
        Some(Outlook {
            prospect,
            wait: Duration::ZERO,
            works: true,
        })
    };
    let waits = Prospect::Wait {
        expected: ExpectedWait::default(),
    };
    let elsewhere = Step::WaitElsewhere {
        limit: WAIT_ELSEWHERE_MAX,
    };
    let refused = Step::End(End::Refused {
        reason: Refusal::Overloaded,
        wait: Duration::from_secs(3),
    });
    let waits_here = Step::Wait {
        leaves: true,
        until: Time::NEVER,
    };
    for (name, outlook, says, expected) in [
        ("a place here", place(Prospect::Warm), RUN, Step::Run),
        ("a queue here", place(waits), ENQUEUE, waits_here),
        (
            "its policy asks others alone",
            place(waits),
            NOBODY,
            elsewhere,
        ),
        ("it cannot run here", None, NOBODY, elsewhere),
        ("the queue is full", full(), NOBODY, refused),
    ] {
        let fits_here = outlook.is_some();
        let arrival = Arrival {
            fits_here,
            ..arrival()
        };
        let mut call = Placement::new(arrival).beside(used_up());
        call.came(Came::Full(id(1)), at(1));
        let here = window(&call, outlook);
        assert_eq!(step(&mut call, &here, says, at(1)), expected, "{name}");
    }
}

#[test]
fn who_was_held_back_and_waited_is_offered_again() {
    let beside = used_up();
    let mut call = Placement::new(arrival()).beside(beside.clone());
    call.came(Came::Full(id(1)), at(1));
    assert_eq!(hops(&call), 0);
    let waits = Step::WaitElsewhere {
        limit: Duration::from_secs(1),
    };
    call.take(waits, at(1));
    assert_eq!(hops(&call), HOPS_MAX);
    let mut call = Placement::new(arrival()).beside(beside);
    call.came(Came::Full(id(1)), at(1));
    call.came(Came::WaitedEnough, at(2));
    assert_eq!(hops(&call), 0, "the budget is still used up");
    call.came(Came::WaitedEnough, at(30_000));
    assert_eq!(hops(&call), HOPS_MAX);
}

#[test]
fn a_decision_says_that_the_budget_held_its_call_back() {
    for (came, held) in [(Came::Full(id(1)), true), (Came::PlaceTaken, false)] {
        let mut call = Placement::new(arrival()).beside(used_up());
        call.came(came, at(1));
        let here = window(&call, full());
        let (view, abilities) = (View::default(), AtPeers::default());
        let snapshot = Snapshot {
            local: Local {
                here: here.here,
                queue: here.queue,
                service: None,
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &[],
            },
            view: &view,
            abilities: &abilities,
            remembered: None,
            congestion: None,
            now: at(1),
            chance: NOBODY,
        };
        let function = "shout".parse().expect("a name");
        let request = call.request(&function, &[], None);
        let decided = call.decide(&here, &request, &snapshot, || false, &mut ());
        assert_eq!(decided.held.has(Held::Budget), held);
        assert_eq!(decided.held.iter().count(), usize::from(held));
    }
}

#[test]
fn what_waits_here_is_what_this_node_tells_a_level_by() {
    let function: FunctionName = "shout".parse().expect("a name");
    let waits = |ending, waited_in_vain, queued| {
        let beside = Arc::new(Beside::default());
        for second in 0..20 {
            let began = second * 1_000;
            let mut call = Placement::new(arrival()).beside(beside.clone());
            call.take(
                Step::Wait {
                    leaves: false,
                    until: Time::NEVER,
                },
                at(began),
            );
            let how = Attempted {
                function: &function,
                ending,
                timing: Timing {
                    queued: Duration::from_millis(queued),
                    ..Timing::default()
                },
                waited_in_vain,
                sent_bytes: 0,
                answer_bytes: 0,
            };
            call.attempted(&how, at(began + 900));
        }
        beside.tells(ClassKey::NONE, 0)
    };
    assert!(waits(Ending::Answered, false, 500).is_some());
    assert_eq!(waits(Ending::Answered, false, 10), None);
    assert!(waits(Ending::Late, true, 0).is_some());
    assert!(waits(Ending::Refused, true, 0).is_some());
    assert_eq!(waits(Ending::Late, false, 0), None, "it ran");
}

#[test]
fn a_level_that_a_peer_tells_is_heeded_until_it_has_a_place() {
    let beside = Beside::default();
    let told = Told {
        load: Some(Load::default()),
        level: Told::level_of(Some(0)),
        ..Told::default()
    };
    beside.heard(&id(1), ClassKey::NONE, &told, None, at(1));
    let mut held = HeldBack::default();
    held.add(Held::Shed);
    held.add(Held::Throttled);
    let words: Vec<&str> = held.iter().map(Held::as_str).collect();
    assert_eq!(words, ["throttled", "shed"]);
}
