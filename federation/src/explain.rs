//! Why a decision fell as it did.

use std::time::Duration;

use libp2p_identity::PeerId;

/// What a policy found about one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It could take the call, which would begin to run after so long.
    Fits {
        /// Round trip, expected start and what waits there already.
        delay: Duration,
    },
    /// The same, and that would be after the deadline.
    TooFar {
        /// After so long.
        delay: Duration,
    },
    /// The call was there already, or it was tried in vain.
    Visited,
    /// It lacks what the function needs: processor, executor or label.
    Unfit,
    /// It does not know the function.
    NoFunction,
    /// It has no room, or no more trust.
    NoRoom,
}

impl Verdict {
    /// When the call would begin to run, where that was worked out.
    pub fn delay(self) -> Option<Duration> {
        match self {
            Verdict::Fits { delay } | Verdict::TooFar { delay } => Some(delay),
            Verdict::Visited | Verdict::Unfit | Verdict::NoFunction | Verdict::NoRoom => None,
        }
    }

    /// The word for explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Fits { .. } => "fits",
            Verdict::TooFar { .. } => "too far",
            Verdict::Visited => "visited",
            Verdict::Unfit => "unfit",
            Verdict::NoFunction => "no function",
            Verdict::NoRoom => "no room",
        }
    }
}

/// One peer that a decision looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weighed {
    /// Who.
    pub peer: PeerId,
    /// How old the newest word of its load was.
    pub age: Duration,
    /// Calls that could be sent to it.
    pub room: u32,
    /// Expected round trip.
    pub round_trip: Duration,
    /// What was made of it.
    pub verdict: Verdict,
}

/// Hears what a decision weighs.
pub trait Witness {
    /// One peer was looked at.
    fn weighed(&mut self, weighed: Weighed);
}

/// Nobody wants to know.
impl Witness for () {
    fn weighed(&mut self, _: Weighed) {}
}

/// All is kept: a decision looks at a bounded number of peers.
impl Witness for Vec<Weighed> {
    fn weighed(&mut self, weighed: Weighed) {
        self.push(weighed);
    }
}
