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
//!   budget ([`crate::beside`]); beyond it a call runs or waits here, or is refused.
//!
//! Its policy learns how each attempt ended, here or at a peer
//! ([`Placement::attempted`]).

mod deciding;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::admission::Prospect;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::{Phase, Refusal, Timing};

use crate::beside::Beside;
use crate::policy::{
    Class, ClassKey, Decision, Ending, More, Origin, Outcome, Policy, Reach, Reaches, Request,
};
use crate::snapshot::Here;
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
///
/// `P` is how its policy is held: by reference, or shared.
#[derive(Clone)]
pub struct Arrival<P> {
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
    /// Its QoS class.
    pub class: ClassKey,
    /// By what it is placed.
    pub policy: P,
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
    /// Let it wait in the queue here.
    Wait {
        /// Whether it may leave for a place elsewhere.
        leaves: bool,
        /// When it is decided about again, at the latest.
        until: Time,
    },
    /// Take a place at a peer, and send it there.
    Offer {
        /// Its place in [`crate::snapshot::View::peers`].
        to: usize,
        /// Which way that is.
        reach: Reach,
        /// How many more nodes it may visit after that one.
        hops: u8,
        /// Until when its answer is waited for.
        until: Time,
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
    /// It waited in the queue for as long as its policy lets it.
    WaitedEnough,
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
    /// Which peer of the view is to be asked to bring the function's code, for
    /// calls to come.
    pub asks: Option<usize>,
}

/// How an attempt to have a call run ended, as the shell knows it.
#[derive(Debug, Clone, Copy)]
pub struct Attempted<'a> {
    /// Which function.
    pub function: &'a FunctionName,
    /// How it ended.
    pub ending: Ending,
    /// Where its time went, as whoever ran it says.
    pub timing: Timing,
    /// Bytes of its body, as far as they were known.
    pub sent_bytes: u64,
    /// Bytes of its answer, as far as they were known when that began.
    pub answer_bytes: u64,
}

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
    /// Whether it is not offered to peers: the retry budget is spent.
    is_held_back: bool,
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
        }
    }

    /// The same, with what holds beside the node's policies; counts the call.
    pub fn beside(self, beside: Arc<Beside>) -> Placement<P> {
        beside.calls(self.arrival.arrived);
        Placement {
            beside: Some(beside),
            ..self
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
            more: More {
                class: Class {
                    key: self.arrival.class,
                    ..Class::default()
                },
                arrived: self.arrival.arrived,
                from: self.from(),
                beside: self.beside.as_deref(),
                ..More::default()
            },
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
        if let (Some(beside), Some((peer, _))) = (&self.beside, &attempt.at) {
            beside.offered(peer, how.ending != Ending::Refused, now);
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
        let is_in_vain = match came {
            Came::Full(_) | Came::Declined(_) => true,
            Came::Lost(_) => self.arrival.wanted.idempotent,
            Came::PlaceTaken
            | Came::WaitedEnough
            | Came::LeftQueue
            | Came::Brought
            | Came::BroughtTooLate
            | Came::NobodyElsewhere => false,
        };
        if let Some(beside) = self.beside.as_ref().filter(|_| is_in_vain) {
            self.is_held_back = !beside.takes_retry(now);
        }
        match came {
            Came::PlaceTaken | Came::WaitedEnough | Came::Full(_) | Came::Brought => {}
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
}

#[cfg(test)]
mod tests;
