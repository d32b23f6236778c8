//! What is said between a placement and whoever carries it out: a call, what this
//! node could do with it, what to do next, and what came of that.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::admission::Prospect;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::{Phase, Refusal, Timing};

use crate::beside::HeldBack;
use crate::policy::{ClassKey, Decision, Ending, Origin, Reach};
use crate::snapshot::Here;
use crate::wanted::Wanted;

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
    /// A peer could not be reached, and cannot have begun it.
    Unreached(PeerId),
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
    /// Why it is not offered to peers that have room, or to any.
    pub held: HeldBack,
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
    /// Whether it waited for a place here in vain.
    pub waited_in_vain: bool,
    /// Bytes of its body, as far as they were known.
    pub sent_bytes: u64,
    /// Bytes of its answer, as far as they were known when that began.
    pub answer_bytes: u64,
}
