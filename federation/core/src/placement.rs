//! One call, from its arrival to its end, as a state machine: what to do next,
//! and what came of that.
//!
//! The shell asks [`Placement::decide`] with what is known at that moment,
//! [takes](Placement::take) the step, does it, and tells what came of it
//! ([`Placement::came`]), until the call has its answer or a step is
//! [`Step::End`].
//!
//! * The deadline is one moment, fixed when the call arrived, whatever is tried.
//! * A call is offered to at most [`OFFERS_MAX`] peers, and decided about at most
//!   [`DECISIONS_MAX`] times.
//! * What may have begun is not run again, unless its function is idempotent.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::admission::Prospect;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::{Phase, Refusal};

use crate::explain::Witness;
use crate::policy::{self, Bounds, Decision, Origin, Policy, Reach, Reaches, Reason, Request};
use crate::snapshot::{Here, Local, Snapshot};
use crate::wanted::Wanted;

/// Peers to which one call is offered, at most.
pub const OFFERS_MAX: usize = 6;

/// Decisions about one call, at most.
pub const DECISIONS_MAX: usize = 16;

/// Nodes that a call may visit after the first, unless it says less.
pub const HOPS_MAX: u8 = 3;

/// How long a call waits for a place elsewhere that has none here.
pub const WAIT_ELSEWHERE_MAX: Duration = Duration::from_secs(5);

/// A call as it arrives.
#[derive(Clone)]
pub struct Arrival {
    /// How it came here.
    pub origin: Origin,
    /// Nodes that it visited, the last one last.
    pub visited: Vec<PeerId>,
    /// How many more nodes it may visit.
    pub hops: u8,
    /// When it came.
    pub arrived: Time,
    /// When its answer is of no more use; [`Time::NEVER`] for no such moment.
    pub deadline: Time,
    /// Whether this node, or the federation, knows its function.
    pub known: bool,
    /// What its function wants of a node.
    pub wanted: Arc<Wanted>,
    /// Whether this machine has what the function is constrained to.
    pub fits_here: bool,
    /// By what it is placed.
    pub policy: &'static dyn Policy,
}

/// What this node would do with the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlook {
    /// That.
    pub prospect: Prospect,
    /// How long it would wait for a place; for a call that would be refused, how
    /// long it would have to.
    pub wait: Duration,
    /// Whether what starts its function works, as far as is known.
    pub works: bool,
}

/// What this node could do with a call at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// At once.
    pub here: Here,
    /// How long it would wait in the queue; `None` when it would not be taken.
    pub queue: Option<Duration>,
    /// How long each call that waits here makes the next one wait.
    pub turn: Option<Duration>,
    /// Whether its function is deployed here.
    pub deployed: bool,
    /// Why it would not be taken here, and how long it would have to wait.
    pub refusal: Option<(Refusal, Duration)>,
}

/// What to do next with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Run it here.
    Run,
    /// Let it wait in the queue here; whether it may leave for a place elsewhere.
    Wait {
        /// Whether.
        leaves: bool,
    },
    /// Take a place at a peer, and send it there.
    Offer {
        /// Its place in [`crate::snapshot::View::peers`].
        to: usize,
        /// Which way that is.
        reach: Reach,
    },
    /// Bring the code of its function here.
    Bring,
    /// Let it wait for a place elsewhere, so long.
    WaitElsewhere {
        /// At most.
        limit: Duration,
    },
    /// Decide again, with those too where the function fails.
    LookWider,
    /// End it without an answer.
    End(End),
}

/// How a call ends without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nobody knows its function.
    Unknown,
    /// Refused for load.
    Refused {
        /// Why.
        reason: Refusal,
        /// How long it would have to wait.
        wait: Duration,
    },
    /// Nobody can run it.
    Nowhere,
    /// Its deadline passed.
    Late {
        /// In which phase.
        phase: Phase,
        /// How long after its arrival that was.
        after: Duration,
    },
    /// It may have begun at a peer, and must not be run twice.
    Lost,
}

/// What came of a step that gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// Another call took the place, here or at the peer.
    PlaceTaken,
    /// It left the queue, and has its seat there.
    LeftQueue,
    /// A peer had no place for it.
    Full(PeerId),
    /// A peer will not take it, whatever its load.
    Declined(PeerId),
    /// A peer was lost that may have begun it.
    Lost(PeerId),
    /// Its code is here, or cannot be had.
    Brought,
    /// Its code did not come before the deadline.
    BroughtTooLate,
    /// Nobody elsewhere had a place in time.
    NobodyElsewhere,
}

/// A decision about a call, and the step that follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// What was decided.
    pub decision: Decision,
    /// What to do.
    pub step: Step,
}

/// One call that is being placed.
pub struct Placement {
    arrival: Arrival,
    /// Nodes that it visited, and peers that it was tried at in vain.
    avoid: Vec<PeerId>,
    offers: usize,
    decisions: usize,
    brought: bool,
    /// Whether it may go where the function fails: it waited for others in vain.
    anywhere: bool,
    waited_elsewhere: bool,
    has_seat: bool,
}

impl Placement {
    /// Begins with a call that arrives.
    pub fn new(arrival: Arrival) -> Placement {
        Placement {
            avoid: arrival.visited.clone(),
            arrival,
            offers: 0,
            decisions: 0,
            brought: false,
            anywhere: false,
            waited_elsewhere: false,
            has_seat: false,
        }
    }

    /// The call as it arrived.
    pub fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    /// Whether it came from this node's own users.
    pub fn is_own(&self) -> bool {
        self.arrival.origin == Origin::Here
    }

    /// Nodes that it does not go to.
    pub fn avoid(&self) -> &[PeerId] {
        &self.avoid
    }

    /// Whether it may go where the function fails.
    pub fn anywhere(&self) -> bool {
        self.anywhere
    }

    /// Whom it may leave the queue for.
    pub fn reaches(&self) -> Reaches {
        match self.offers < OFFERS_MAX {
            true => self.arrival.policy.reaches(),
            false => Reaches::default(),
        }
    }

    /// What this node could do with it. `closed` is whether a guest of its kind
    /// has no room here, `drains` whether this node leaves what others can run to
    /// them, `elsewhere` whether a peer may run it, by what that is.
    pub fn window(
        &self,
        outlook: Option<Outlook>,
        closed: bool,
        drains: bool,
        elsewhere: impl FnOnce() -> bool,
    ) -> Window {
        let (here, queue) = match &outlook {
            _ if !self.arrival.fits_here => (Here::Unable, None),
            None => (Here::Unable, None),
            // Alone it says itself what is missing.
            Some(outlook) if !outlook.works && elsewhere() => (Here::Unable, None),
            Some(outlook) => match outlook.prospect {
                Prospect::Warm | Prospect::Start if closed => (Here::Full, None),
                // What others can run is theirs from now on, what was accepted
                // before included; the rest still runs here.
                Prospect::Warm | Prospect::Start if drains => (Here::Full, Some(Duration::ZERO)),
                Prospect::Warm => (Here::Warm, Some(Duration::ZERO)),
                Prospect::Start => (Here::Startable, Some(Duration::ZERO)),
                Prospect::Wait { .. } => (Here::Full, Some(outlook.wait)),
                Prospect::Refuse(_) => (Here::Full, None),
            },
        };
        let mut window = Window {
            here,
            queue,
            turn: None,
            deployed: outlook.is_some(),
            refusal: None,
        };
        match outlook.map(|outlook| (outlook.prospect, outlook.wait)) {
            Some((Prospect::Wait { expected }, _)) => window.turn = Some(expected.turn),
            // What was let in once goes back to where it stood.
            Some((Prospect::Refuse(_), _)) if self.has_seat => {
                window.queue = Some(Duration::ZERO);
            }
            Some((Prospect::Refuse(refusal), wait)) => window.refusal = Some((refusal, wait)),
            Some((Prospect::Warm | Prospect::Start, _)) | None => {}
        }
        window
    }

    /// Whether it runs here whatever the peers are: nobody need be looked at.
    pub fn is_alone(&self, window: &Window, blamed: bool, drains: bool) -> bool {
        matches!(window.here, Here::Warm | Here::Startable) && !blamed && !drains
    }

    /// What a policy is asked. `failing` are peers where the function fails and
    /// not elsewhere, `service` is how long it runs here.
    pub fn request<'a>(
        &'a self,
        function: &'a FunctionName,
        failing: &'a [PeerId],
        service: Option<Duration>,
    ) -> Request<'a> {
        let Arrival {
            origin,
            hops,
            deadline,
            wanted,
            ..
        } = &self.arrival;
        Request {
            function,
            version: wanted.version,
            writer: wanted.writer,
            needs: wanted.needs(),
            bounds: wanted.bounds,
            cost: wanted.cost(service),
            origin: *origin,
            avoid: &self.avoid,
            failing,
            anywhere: self.anywhere,
            hops: if self.offers < OFFERS_MAX { *hops } else { 0 },
            deadline: *deadline,
        }
    }

    /// Decides what to do next. `away` says whether somebody could run it who
    /// takes no calls now, and is not gone.
    pub fn decide(
        &self,
        window: &Window,
        request: &Request<'_>,
        snapshot: &Snapshot<'_>,
        away: impl Fn() -> bool,
        witness: &mut dyn Witness,
    ) -> Decided {
        let arrival = &self.arrival;
        let ends = |reason, end| Decided {
            decision: Decision::Reject(reason),
            step: Step::End(end),
        };
        if window.here == Here::Unable && !window.deployed && !arrival.known {
            return ends(Reason::NoSuchPlace, End::Unknown);
        }
        if self.decisions >= DECISIONS_MAX {
            let end = End::Refused {
                reason: Refusal::NobodyHasRoom,
                wait: Duration::ZERO,
            };
            return ends(Reason::NobodyHasRoom, end);
        }
        let decision = policy::decide(arrival.policy, request, snapshot, witness);
        let is_stuck = matches!(decision, Decision::Ask | Decision::Reject(_));
        if is_stuck && self.may_bring(window) && self.would_run(request, snapshot) {
            // Who would run it here if only the code were here brings that first.
            return Decided {
                decision,
                step: Step::Bring,
            };
        }
        let decision = match decision {
            // It may be back soon.
            Decision::Reject(Reason::NobodyHasRoom | Reason::NoSuchPlace)
                if window.here == Here::Unable
                    && self.is_own()
                    && !self.waited_elsewhere
                    && away() =>
            {
                Decision::Ask
            }
            decision => decision,
        };
        let step = match decision {
            Decision::Run => Step::Run,
            Decision::Enqueue { .. } => Step::Wait {
                leaves: self.is_own()
                    && arrival.policy.reaches() != Reaches::default()
                    && arrival.wanted.bounds != Bounds::Node,
            },
            Decision::Offload { to, reach } => Step::Offer { to, reach },
            Decision::Ask if !self.waited_elsewhere => Step::WaitElsewhere {
                limit: WAIT_ELSEWHERE_MAX.min(arrival.deadline.since(snapshot.now)),
            },
            // The last place: better than none.
            Decision::Ask if !self.anywhere => Step::LookWider,
            Decision::Ask => Step::End(self.rejected(Reason::NobodyHasRoom, window)),
            Decision::Reject(reason) => Step::End(self.rejected(reason, window)),
        };
        Decided { decision, step }
    }

    /// Takes note that a step is done.
    pub fn take(&mut self, step: Step) {
        self.decisions += 1;
        match step {
            Step::Offer { .. } => self.offers += 1,
            Step::Bring => self.brought = true,
            Step::Wait { .. } => self.has_seat = false,
            // Whoever did not take it may do so now.
            Step::WaitElsewhere { .. } => self.avoid.clone_from(&self.arrival.visited),
            Step::LookWider => self.anywhere = true,
            Step::Run | Step::End(_) => {}
        }
    }

    /// Takes note that it goes to a place for which it waited.
    pub fn moves(&mut self) {
        self.offers += 1;
    }

    /// Takes note of what came of a step at `now`; how it ends, if it does.
    pub fn came(&mut self, came: Came, now: Time) -> Option<End> {
        match came {
            Came::PlaceTaken | Came::Full(_) | Came::Brought => {}
            Came::LeftQueue => self.has_seat = true,
            Came::Declined(peer) => self.avoid.push(peer),
            Came::Lost(peer) if self.arrival.wanted.idempotent => self.avoid.push(peer),
            Came::Lost(_) => return Some(End::Lost),
            Came::BroughtTooLate => return Some(self.late(Phase::Start)),
            Came::NobodyElsewhere if self.arrival.deadline <= now => {
                return Some(self.late(Phase::Queue));
            }
            Came::NobodyElsewhere => self.waited_elsewhere = true,
        }
        None
    }

    fn late(&self, phase: Phase) -> End {
        End::Late {
            phase,
            after: self.arrival.deadline.since(self.arrival.arrived),
        }
    }

    fn may_bring(&self, window: &Window) -> bool {
        !window.deployed
            && self.arrival.known
            && self.arrival.fits_here
            && self.is_own()
            && !self.brought
            && self.arrival.wanted.bounds != Bounds::Node
    }

    /// Whether it would run here if its code were here: else there is no use in
    /// bringing that.
    fn would_run(&self, request: &Request<'_>, snapshot: &Snapshot<'_>) -> bool {
        let local = Local {
            here: Here::Startable,
            ..snapshot.local
        };
        let snapshot = Snapshot { local, ..*snapshot };
        let decision = policy::decide(self.arrival.policy, request, &snapshot, &mut ());
        decision == Decision::Run
    }

    fn rejected(&self, reason: Reason, window: &Window) -> End {
        let reason = match reason {
            // More room would not help.
            Reason::NobodyHasRoom if window.here == Here::Unable && !self.waited_elsewhere => {
                Reason::NoSuchPlace
            }
            reason => reason,
        };
        let refused = |reason| End::Refused {
            reason,
            wait: Duration::ZERO,
        };
        match (reason, window.refusal) {
            (Reason::NoRoom | Reason::NobodyHasRoom, Some((reason, wait))) => {
                End::Refused { reason, wait }
            }
            (Reason::NoRoom, None) => refused(Refusal::NoRoom),
            (Reason::NobodyHasRoom, None) => refused(Refusal::NobodyHasRoom),
            (Reason::NoSuchPlace, _) => End::Nowhere,
            (Reason::TooLate, _) => self.late(Phase::Queue),
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_node_core::estimate::ExpectedWait;

    use super::*;
    use crate::abilities::AtPeers;
    use crate::policy::Case;
    use crate::report::Role;
    use crate::samples::id;
    use crate::snapshot::View;

    /// Says what the snapshot's chance names, and reaches neighbours.
    struct Says;

    const SAYS: [Decision; 6] = [
        Decision::Run,
        Decision::Enqueue { until: Time::NEVER },
        Decision::Offload {
            to: 0,
            reach: Reach::Horizontal,
        },
        Decision::Ask,
        Decision::Reject(Reason::NobodyHasRoom),
        Decision::Reject(Reason::TooLate),
    ];
    const RUN: u64 = 0;
    const ENQUEUE: u64 = 1;
    const OFFLOAD: u64 = 2;
    const ASK: u64 = 3;
    const NOBODY: u64 = 4;
    const LATE: u64 = 5;

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

    fn arrival() -> Arrival {
        Arrival {
            origin: Origin::Here,
            visited: vec![id(9)],
            hops: HOPS_MAX,
            arrived: Time::ZERO,
            deadline: Time::NEVER,
            known: true,
            wanted: wanted(|wanted| wanted.bounds = Bounds::Federation),
            fits_here: true,
            policy: &Says,
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
    fn step(call: &mut Placement, window: &Window, says: u64, now: Time) -> Step {
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
            now,
            chance: says,
        };
        let function = "shout".parse().expect("a name");
        let request = call.request(&function, &[], None);
        let decided = call.decide(window, &request, &snapshot, || false, &mut ());
        call.take(decided.step);
        decided.step
    }

    fn window(call: &Placement, outlook: Option<Outlook>) -> Window {
        call.window(outlook, false, false, || false)
    }

    const OFFER: Step = Step::Offer {
        to: 0,
        reach: Reach::Horizontal,
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
            Step::Wait { leaves: true }
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
}
