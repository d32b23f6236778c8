use weir_node_core::estimate::ExpectedWait;
use weir_node_core::words::Refusal;

use super::*;
use crate::abilities::AtPeers;
use crate::policy::{self, Bounds, Case, ClassKey, Decision, Reason};
use crate::report::Role;
use crate::samples::id;
use crate::snapshot::{Local, Snapshot, View};
use crate::wanted::Wanted;

/// Says what the snapshot's chance names, and reaches neighbours.
struct Says;

const SAYS: [Decision; 7] = [
    Decision::Run,
    Decision::Enqueue { until: Time::NEVER },
    Decision::Offload {
        to: 0,
        reach: Reach::Horizontal,
        hops: 9,
        until: Time::NEVER,
    },
    Decision::Ask,
    Decision::Reject(Reason::NobodyHasRoom),
    Decision::Reject(Reason::TooLate),
    Decision::Enqueue {
        until: Time::from_nanos(7_000_000),
    },
];
const RUN: u64 = 0;
const ENQUEUE: u64 = 1;
const OFFLOAD: u64 = 2;
const ASK: u64 = 3;
const NOBODY: u64 = 4;
const LATE: u64 = 5;
const ENQUEUE_SHORTLY: u64 = 6;

impl Policy for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: false,
        }
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        match case.snapshot.local.here {
            // As all do, where the code is.
            Here::Startable => Decision::Run,
            _ => SAYS[usize::try_from(case.snapshot.chance).expect("a small number")],
        }
    }
}

fn at(milliseconds: u64) -> Time {
    Time::ZERO + Duration::from_millis(milliseconds)
}

fn wanted(change: impl FnOnce(&mut Wanted)) -> Arc<Wanted> {
    let mut wanted = Wanted::default();
    change(&mut wanted);
    Arc::new(wanted)
}

fn arrival() -> Arrival<Arc<dyn Policy>> {
    Arrival {
        origin: Origin::Here,
        visited: vec![id(9)],
        hops: HOPS_MAX,
        arrived: Time::ZERO,
        deadline: Time::NEVER,
        known: true,
        wanted: wanted(|wanted| wanted.bounds = Bounds::Federation),
        fits_here: true,
        class: ClassKey::NONE,
        policy: Arc::new(Says),
    }
}

fn full() -> Option<Outlook> {
    Some(Outlook {
        prospect: Prospect::Refuse(Refusal::Overloaded),
        wait: Duration::from_secs(3),
        works: true,
    })
}

/// Decides with what the policy says, takes the step and returns it.
fn step(call: &mut Placement<Arc<dyn Policy>>, window: &Window, says: u64, now: Time) -> Step {
    let (view, abilities) = (View::default(), AtPeers::default());
    let snapshot = Snapshot {
        local: Local {
            here: window.here,
            queue: window.queue,
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
        now,
        chance: says,
    };
    let function = "shout".parse().expect("a name");
    let request = call.request(&function, &[], None);
    let decided = call.decide(window, &request, &snapshot, || false, &mut ());
    call.take(decided.step, now);
    decided.step
}

fn window(call: &Placement<Arc<dyn Policy>>, outlook: Option<Outlook>) -> Window {
    call.window(outlook, false, false, || false)
}

const OFFER: Step = Step::Offer {
    to: 0,
    reach: Reach::Horizontal,
    // No more than the call may still visit.
    hops: HOPS_MAX - 1,
    until: Time::NEVER,
};

fn refused(reason: Refusal, seconds: u64) -> Step {
    Step::End(End::Refused {
        reason,
        wait: Duration::from_secs(seconds),
    })
}

#[test]
fn what_this_node_could_do_is_read_from_its_outlook() {
    let expected = ExpectedWait::new(Duration::from_millis(10), 3, 1);
    let wait = Duration::from_millis(30);
    let outlook = |prospect| {
        Some(Outlook {
            prospect,
            wait,
            works: true,
        })
    };
    let broken = Some(Outlook {
        works: false,
        ..outlook(Prospect::Warm).expect("there")
    });
    let call = Placement::new(arrival());
    // (outlook, closed, drains, elsewhere) -> (here, queue)
    let zero = Some(Duration::ZERO);
    let cases = [
        ("absent", None, (false, false, false), (Here::Unable, None)),
        (
            "warm",
            outlook(Prospect::Warm),
            (false, false, false),
            (Here::Warm, zero),
        ),
        (
            "to be started",
            outlook(Prospect::Start),
            (false, false, false),
            (Here::Startable, zero),
        ),
        (
            "no room for guests",
            outlook(Prospect::Warm),
            (true, false, false),
            (Here::Full, None),
        ),
        (
            "drains",
            outlook(Prospect::Warm),
            (false, true, false),
            (Here::Full, zero),
        ),
        (
            "waits",
            outlook(Prospect::Wait { expected }),
            (false, false, false),
            (Here::Full, Some(wait)),
        ),
        ("refused", full(), (false, false, false), (Here::Full, None)),
        (
            "broken, with others",
            broken,
            (false, false, true),
            (Here::Unable, None),
        ),
        (
            "broken, alone",
            broken,
            (false, false, false),
            (Here::Warm, zero),
        ),
    ];
    for (name, outlook, (closed, drains, elsewhere), (here, queue)) in cases {
        let window = call.window(outlook, closed, drains, || elsewhere);
        assert_eq!((window.here, window.queue), (here, queue), "{name}");
    }
    let turn = window(&call, outlook(Prospect::Wait { expected })).turn;
    assert_eq!(turn, Some(Duration::from_millis(10)));
    let unfit = Placement::new(Arrival {
        fits_here: false,
        ..arrival()
    });
    assert_eq!(window(&unfit, outlook(Prospect::Warm)).here, Here::Unable);
}

#[test]
fn a_call_whose_place_was_taken_is_decided_about_again() {
    let mut call = Placement::new(arrival());
    let here = window(&call, full());
    assert_eq!(step(&mut call, &here, RUN, at(0)), Step::Run);
    assert_eq!(call.came(Came::PlaceTaken, at(0)), None);
    assert_eq!(
        step(&mut call, &here, ENQUEUE, at(0)),
        Step::Wait {
            leaves: true,
            until: Time::NEVER
        }
    );
    assert_eq!(call.came(Came::LeftQueue, at(1)), None);
    // It goes back to its seat, however full the queue is.
    assert_eq!(window(&call, full()).queue, Some(Duration::ZERO));
    assert_eq!(window(&call, full()).refusal, None);
    step(&mut call, &here, ENQUEUE, at(1));
    assert_eq!(window(&call, full()).queue, None);
}

#[test]
fn a_full_peer_may_be_asked_again_and_one_that_declined_not() {
    let mut call = Placement::new(arrival());
    let here = window(&call, full());
    assert_eq!(step(&mut call, &here, OFFLOAD, at(0)), OFFER);
    assert_eq!(call.came(Came::Full(id(1)), at(1)), None);
    assert_eq!(call.avoid(), [id(9)]);
    assert_eq!(step(&mut call, &here, OFFLOAD, at(1)), OFFER);
    assert_eq!(call.came(Came::Declined(id(1)), at(2)), None);
    assert_eq!(call.avoid(), [id(9), id(1)]);
    // Whoever did not take it may do so after it has waited.
    step(&mut call, &here, ASK, at(2));
    assert_eq!(call.avoid(), [id(9)]);
}

#[test]
fn what_may_have_begun_is_not_run_again_unless_it_may_be() {
    let mut call = Placement::new(arrival());
    assert_eq!(call.came(Came::Lost(id(1)), at(1)), Some(End::Lost));
    let mut idempotent = Placement::new(Arrival {
        wanted: wanted(|wanted| wanted.idempotent = true),
        ..arrival()
    });
    assert_eq!(idempotent.came(Came::Lost(id(1)), at(1)), None);
    assert_eq!(idempotent.avoid(), [id(9), id(1)]);
}

#[test]
fn offers_and_decisions_are_bounded() {
    let mut call = Placement::new(arrival());
    let here = window(&call, full());
    let function = "shout".parse().expect("a name");
    for _ in 0..OFFERS_MAX {
        assert_eq!(call.request(&function, &[], None).hops, HOPS_MAX);
        assert_eq!(step(&mut call, &here, OFFLOAD, at(0)), OFFER);
    }
    assert_eq!(call.request(&function, &[], None).hops, 0);
    assert_eq!(call.reaches(), Reaches::default());
    for _ in OFFERS_MAX..DECISIONS_MAX {
        assert_eq!(step(&mut call, &here, RUN, at(0)), Step::Run);
    }
    let end = step(&mut call, &here, RUN, at(0));
    assert_eq!(end, refused(Refusal::NobodyHasRoom, 0));
}

#[test]
fn code_is_brought_once_and_only_where_the_call_would_run() {
    let mut call = Placement::new(arrival());
    let absent = window(&call, None);
    assert_eq!(step(&mut call, &absent, NOBODY, at(0)), Step::Bring);
    assert_eq!(call.came(Came::Brought, at(1)), None);
    assert_eq!(
        step(&mut call, &absent, NOBODY, at(1)),
        Step::End(End::Nowhere)
    );
    let cases = [
        (
            "a guest's",
            Arrival {
                origin: Origin::Neighbour,
                ..arrival()
            },
        ),
        (
            "unfit",
            Arrival {
                fits_here: false,
                ..arrival()
            },
        ),
        (
            "this node's alone",
            Arrival {
                wanted: Arc::default(),
                ..arrival()
            },
        ),
    ];
    for (name, arrival) in cases {
        let mut call = Placement::new(arrival);
        let absent = window(&call, None);
        assert_ne!(
            step(&mut call, &absent, NOBODY, at(0)),
            Step::Bring,
            "{name}"
        );
    }
    let mut late = Placement::new(Arrival {
        deadline: at(50),
        ..arrival()
    });
    let end = late.came(Came::BroughtTooLate, at(51));
    let after = Duration::from_millis(50);
    let phase = Phase::Start;
    assert_eq!(end, Some(End::Late { phase, after }));
}

#[test]
fn who_waited_in_vain_looks_wider_and_is_refused_then() {
    let mut call = Placement::new(arrival());
    let here = window(&call, full());
    let limit = WAIT_ELSEWHERE_MAX;
    assert_eq!(
        step(&mut call, &here, ASK, at(0)),
        Step::WaitElsewhere { limit }
    );
    assert_eq!(call.came(Came::NobodyElsewhere, at(5_000)), None);
    assert!(!call.anywhere());
    assert_eq!(step(&mut call, &here, ASK, at(5_000)), Step::LookWider);
    assert!(call.anywhere());
    // With the node's own reason and wait.
    let end = step(&mut call, &here, ASK, at(5_000));
    assert_eq!(end, refused(Refusal::Overloaded, 3));
}

#[test]
fn the_deadline_is_the_one_it_came_with() {
    let mut call = Placement::new(Arrival {
        arrived: at(100),
        deadline: at(400),
        ..arrival()
    });
    let here = window(&call, full());
    let limit = Duration::from_millis(50);
    let now = at(350);
    assert_eq!(
        step(&mut call, &here, ASK, now),
        Step::WaitElsewhere { limit }
    );
    let late = End::Late {
        phase: Phase::Queue,
        after: Duration::from_millis(300),
    };
    assert_eq!(call.came(Came::NobodyElsewhere, at(400)), Some(late));
    assert_eq!(step(&mut call, &here, LATE, at(400)), Step::End(late));
}

#[test]
fn a_guests_call_waits_for_nobody_else() {
    let mut call = Placement::new(Arrival {
        origin: Origin::Neighbour,
        ..arrival()
    });
    let here = window(&call, full());
    // A guest's is decided by what policies do for those: it is refused.
    let end = step(&mut call, &here, ENQUEUE, at(0));
    assert_eq!(end, refused(Refusal::Overloaded, 3));
    let unknown = Arrival {
        known: false,
        ..arrival()
    };
    let mut call = Placement::new(unknown);
    let absent = window(&call, None);
    assert_eq!(
        step(&mut call, &absent, RUN, at(0)),
        Step::End(End::Unknown)
    );
}

#[test]
fn a_wait_and_an_offer_end_when_the_policy_says_so_and_not_after_the_deadline() {
    let mut call = Placement::new(Arrival {
        deadline: at(5),
        ..arrival()
    });
    let here = window(&call, full());
    let leaves = true;
    let until = at(5);
    assert_eq!(
        step(&mut call, &here, ENQUEUE_SHORTLY, at(0)),
        Step::Wait { leaves, until }
    );
    let mut patient = Placement::new(arrival());
    let until = at(7);
    assert_eq!(
        step(&mut patient, &here, ENQUEUE_SHORTLY, at(0)),
        Step::Wait { leaves, until }
    );
    assert_eq!(patient.came(Came::WaitedEnough, at(7)), None);
    assert_eq!(step(&mut patient, &here, OFFLOAD, at(7)), OFFER);
    let Step::Offer { hops, until, .. } = step(&mut call, &here, OFFLOAD, at(1)) else {
        panic!("it is offered");
    };
    assert_eq!((hops, until), (HOPS_MAX - 1, at(5)));
}

/// Takes note of what it observes.
struct Notes {
    seen: policy::Memory<1>,
    count: policy::Cell,
}

impl Policy for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn reaches(&self) -> Reaches {
        Reaches::default()
    }

    fn decide(&self, _: &mut Case<'_>) -> Decision {
        Decision::Run
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.count.add(1.0);
        let which = policy::Which::of(outcome.function).at(outcome.to.as_ref());
        let took = outcome.took().as_secs_f64() * 1e3;
        self.seen.entry(which, outcome.ended)[0].set(took);
    }
}

#[test]
fn a_policy_learns_once_how_each_attempt_ended() {
    let policy = Arc::new(Notes {
        seen: policy::Memory::new(8),
        count: policy::Cell::default(),
    });
    let function: FunctionName = "shout".parse().expect("a name");
    let mut call = Placement::new(Arrival {
        policy: policy.clone() as Arc<dyn Policy>,
        ..arrival()
    });
    let how = Attempted {
        function: &function,
        ending: Ending::Refused,
        timing: Timing::default(),
        waited_in_vain: false,
        sent_bytes: 1,
        answer_bytes: 2,
    };
    let took = |to: Option<&PeerId>| {
        let which = policy::Which::of(&function).at(to);
        policy.seen.find(which).and_then(|cells| cells[0].get())
    };
    // Nothing was tried yet.
    call.attempted(&how, at(1));
    assert_eq!(policy.count.get(), None);
    call.take(OFFER, at(1));
    call.goes(id(1), Reach::Horizontal, at(2));
    call.attempted(&how, at(5));
    call.attempted(&how, at(6));
    assert_eq!(
        (policy.count.get(), took(Some(&id(1)))),
        (Some(1.0), Some(3.0))
    );
    call.take(Step::Run, at(10));
    call.attempted(&how, at(30));
    assert_eq!((policy.count.get(), took(None)), (Some(2.0), Some(20.0)));
    // A place that another call took was no attempt.
    call.take(Step::Run, at(40));
    call.take(Step::End(End::Nowhere), at(41));
    call.attempted(&how, at(42));
    assert_eq!(policy.count.get(), Some(2.0));
}

mod budget;
