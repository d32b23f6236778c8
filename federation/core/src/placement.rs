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
//! * What a peer did not take is offered again only within the node's retry
//!   budget ([`crate::beside`]); beyond it a call runs or waits here, or waits for a
//!   place elsewhere. It is refused only where this node's own queue refuses it.
//! * What was lost with a peer and may be run again is placed again whatever the
//!   budget, [`LOST_BEYOND_BUDGET`] times.
//!
//! Its policy learns how each attempt ended, here or at a peer
//! ([`Placement::attempted`]).

mod deciding;
mod steps;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::admission::Prospect;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::{Phase, Timing};

use crate::beside::{Beside, LOST_BEYOND_BUDGET};
use crate::policy::{Class, Ending, More, Origin, Outcome, Policy, Reach, Reaches, Request};
use crate::snapshot::Here;

pub use steps::{Arrival, Attempted, Came, Decided, End, Outlook, Step, Window};

/// Peers to which one call is offered, at most.
pub const OFFERS_MAX: usize = 6;

/// Decisions about one call, at most.
pub const DECISIONS_MAX: usize = 16;

/// Nodes that a call may visit after the first, unless it says less.
pub const HOPS_MAX: u8 = 3;

/// How long a call waits for a place elsewhere that has none here.
pub const WAIT_ELSEWHERE_MAX: Duration = Duration::from_secs(5);

/// Where and since when a call is tried.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// At which peer, and which way that is; `None` for here.
    at: Option<(PeerId, Reach)>,
    began: Time,
}

/// One call that is being placed.
pub struct Placement<P> {
    arrival: Arrival<P>,
    /// Nodes that it visited, and peers that it was tried at in vain.
    avoid: Vec<PeerId>,
    offers: usize,
    decisions: usize,
    brought: bool,
    /// Whether it may go where the function fails: it waited for others in vain.
    anywhere: bool,
    waited_elsewhere: bool,
    has_seat: bool,
    attempt: Option<Attempt>,
    beside: Option<Arc<Beside>>,
    /// Whether it is not offered to peers: the retry budget is used up.
    is_held_back: bool,
    /// How often it was placed again beyond that, for its peer was lost.
    lost_beyond_budget: u32,
}

impl<P: Deref<Target = dyn Policy>> Placement<P> {
    /// Begins with a call that arrives.
    pub fn new(arrival: Arrival<P>) -> Placement<P> {
        Placement {
            avoid: arrival.visited.clone(),
            arrival,
            offers: 0,
            decisions: 0,
            brought: false,
            anywhere: false,
            waited_elsewhere: false,
            has_seat: false,
            attempt: None,
            beside: None,
            is_held_back: false,
            lost_beyond_budget: 0,
        }
    }

    /// The same, with what holds beside the node's policies; counts the call.
    pub fn beside(mut self, beside: Arc<Beside>) -> Placement<P> {
        self.counts_beside(beside);
        self
    }

    /// The same of one that has come only now.
    pub fn counts_beside(&mut self, beside: Arc<Beside>) {
        beside.calls(self.arrival.arrived);
        self.beside = Some(beside);
    }

    /// What a request says of this call to policies: its class by its key alone.
    fn more(&self) -> More<'_> {
        More {
            class: Class {
                key: self.arrival.class,
                ..Class::default()
            },
            arrived: self.arrival.arrived,
            from: self.from(),
            beside: self.beside.as_deref(),
            ..More::default()
        }
    }

    /// The call as it arrived.
    pub fn arrival(&self) -> &Arrival<P> {
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
        matches!(window.here, Here::Warm | Here::Startable)
            && !blamed
            && !drains
            && self.arrival.policy.runs_here_first(self.arrival.origin)
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
            hops: match self.offers < OFFERS_MAX && !self.is_held_back {
                true => *hops,
                false => 0,
            },
            deadline: *deadline,
            more: self.more(),
        }
    }

    /// Who sent it; `None` for this node's own users.
    fn from(&self) -> Option<PeerId> {
        let sender = self.arrival.visited.last();
        sender.copied().filter(|_| !self.is_own())
    }

    /// Takes note that a step is done at `now`. Where that is [`Step::Run`] or
    /// [`Step::Wait`], an attempt begins.
    pub fn take(&mut self, step: Step, now: Time) {
        self.decisions += 1;
        let is_tried_here = matches!(step, Step::Run | Step::Wait { .. });
        self.attempt = is_tried_here.then_some(Attempt {
            at: None,
            began: now,
        });
        match step {
            Step::Offer { .. } => self.offers += 1,
            Step::Bring => self.brought = true,
            Step::Wait { .. } => self.has_seat = false,
            // Whoever did not take it may do so now.
            Step::WaitElsewhere { .. } => {
                self.avoid.clone_from(&self.arrival.visited);
                self.is_held_back = false;
            }
            Step::LookWider => self.anywhere = true,
            Step::Run | Step::End(_) => {}
        }
    }

    /// Takes note that it goes to a place for which it waited.
    pub fn moves(&mut self) {
        self.offers += 1;
    }

    /// Takes note that it is sent to a peer at `now`: an attempt begins.
    pub fn goes(&mut self, to: PeerId, reach: Reach, now: Time) {
        self.attempt = Some(Attempt {
            at: Some((to, reach)),
            began: now,
        });
    }

    /// Tells its policy how the attempt ended that began last; whether there was
    /// one. An attempt ends once: after that there is none until another begins.
    pub fn attempted(&mut self, how: &Attempted<'_>, now: Time) -> bool {
        let Some(attempt) = self.attempt.take() else {
            return false;
        };
        if let (Some(beside), None) = (&self.beside, attempt.at) {
            let class = self.arrival.class;
            match how.ending {
                _ if how.waited_in_vain => {
                    beside.ran_here(class, now.since(attempt.began), None, now);
                }
                Ending::Answered => {
                    let Timing { queued, ran, .. } = how.timing;
                    beside.ran_here(class, queued, Some(ran), now);
                }
                Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late => {}
            }
        }
        self.arrival.policy.observe(&Outcome {
            function: how.function,
            class: self.arrival.class,
            origin: self.arrival.origin,
            from: self.from(),
            to: attempt.at.map(|(peer, _)| peer),
            reach: attempt.at.map(|(_, reach)| reach),
            ending: how.ending,
            timing: how.timing,
            began: attempt.began,
            ended: now,
            sent_bytes: how.sent_bytes,
            answer_bytes: how.answer_bytes,
        });
        true
    }

    /// Takes note of what came of a step at `now`; how it ends, if it does.
    pub fn came(&mut self, came: Came, now: Time) -> Option<End> {
        self.budgets(came, now);
        match came {
            Came::PlaceTaken | Came::WaitedEnough | Came::Full(_) | Came::Brought => {}
            Came::LeftQueue => self.has_seat = true,
            Came::Declined(peer) | Came::Unreached(peer) => self.avoid.push(peer),
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

    /// Whether it is offered to peers again, by the node's retry budget.
    fn budgets(&mut self, came: Came, now: Time) {
        let Some(beside) = &self.beside else { return };
        match came {
            Came::Full(_) | Came::Declined(_) => self.is_held_back = !beside.takes_retry(now),
            Came::WaitedEnough if self.is_held_back => {
                self.is_held_back = !beside.takes_retry(now);
            }
            // It ends with that.
            Came::Lost(_) if !self.arrival.wanted.idempotent => {}
            Came::Lost(_) | Came::Unreached(_) => {
                let is_over = !beside.takes_retry(now);
                self.is_held_back = is_over && self.lost_beyond_budget >= LOST_BEYOND_BUDGET;
                if is_over {
                    self.lost_beyond_budget = self.lost_beyond_budget.saturating_add(1);
                }
            }
            Came::PlaceTaken
            | Came::WaitedEnough
            | Came::LeftQueue
            | Came::Brought
            | Came::BroughtTooLate
            | Came::NobodyElsewhere => {}
        }
    }

    fn late(&self, phase: Phase) -> End {
        End::Late {
            phase,
            after: self.arrival.deadline.since(self.arrival.arrived),
        }
    }
}

#[cfg(test)]
mod tests;
