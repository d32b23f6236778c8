//! What is decided about a call, and the step that follows.

use std::ops::Deref;
use std::time::Duration;

use weir_node_core::time::Time;
use weir_node_core::words::{Phase, Refusal};

use super::{DECISIONS_MAX, Decided, End, Placement, Step, WAIT_ELSEWHERE_MAX, Window};
use crate::beside::{Held, HeldBack};
use crate::explain::{Holding, Witness};
use crate::policy::{self, Bounds, Decision, Policy, Reaches, Reason, Request};
use crate::snapshot::{Here, Local, Snapshot};

impl<P: Deref<Target = dyn Policy>> Placement<P> {
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
        if let Some(ends) = self.ends_unasked(window) {
            return ends;
        }
        let policy = &*self.arrival.policy;
        let mut holding = Holding {
            witness,
            held: HeldBack::default(),
        };
        if self.is_held_back {
            holding.held(Held::Budget);
        }
        let (decision, asks) = policy::decide_and_ask(policy, request, snapshot, &mut holding);
        let held = holding.held;
        let is_stuck = matches!(decision, Decision::Ask | Decision::Reject(_));
        if is_stuck && self.may_bring(window) && self.would_run(request, snapshot) {
            // Who would run it here if only the code were here brings that first.
            return Decided {
                decision,
                step: Step::Bring,
                asks: None,
                held,
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
            // Nobody was asked for it, and the queue here has not refused it.
            Decision::Reject(Reason::NobodyHasRoom | Reason::NoSuchPlace | Reason::NoRoom)
                if self.is_held_back
                    && self.is_own()
                    && !self.waited_elsewhere
                    && window.refusal.is_none() =>
            {
                Decision::Ask
            }
            decision => decision,
        };
        Decided {
            decision,
            step: self.step(decision, window, snapshot.now),
            asks,
            held,
        }
    }

    /// How it ends without its policy being asked; `None` when that is to decide.
    fn ends_unasked(&self, window: &Window) -> Option<Decided> {
        let ends = |reason, end| Decided {
            decision: Decision::Reject(reason),
            step: Step::End(end),
            asks: None,
            held: HeldBack::default(),
        };
        if window.here == Here::Unable && !window.deployed && !self.arrival.known {
            return Some(ends(Reason::NoSuchPlace, End::Unknown));
        }
        if self.decisions >= DECISIONS_MAX {
            let end = End::Refused {
                reason: Refusal::NobodyHasRoom,
                wait: Duration::ZERO,
            };
            return Some(ends(Reason::NobodyHasRoom, end));
        }
        None
    }

    /// The step that follows from a decision at `now`.
    fn step(&self, decision: Decision, window: &Window, now: Time) -> Step {
        let arrival = &self.arrival;
        match decision {
            Decision::Run => Step::Run,
            Decision::Enqueue { until } => Step::Wait {
                until: until.min(arrival.deadline),
                leaves: self.is_own()
                    && arrival.policy.reaches() != Reaches::default()
                    && arrival.wanted.bounds != Bounds::Node,
            },
            Decision::Offload {
                to,
                reach,
                hops,
                until,
            } => Step::Offer {
                to,
                reach,
                hops: hops.min(arrival.hops.saturating_sub(1)),
                until: until.min(arrival.deadline),
            },
            Decision::Ask if !self.waited_elsewhere => Step::WaitElsewhere {
                limit: WAIT_ELSEWHERE_MAX.min(arrival.deadline.since(now)),
            },
            // The last place: better than none.
            Decision::Ask if !self.anywhere => Step::LookWider,
            Decision::Ask => Step::End(self.rejected(Reason::NobodyHasRoom, window)),
            Decision::Reject(reason) => Step::End(self.rejected(reason, window)),
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
        let decision = policy::would_decide(&*self.arrival.policy, request, &snapshot);
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
