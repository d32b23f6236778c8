//! Why a decision fell as it did.

use std::time::Duration;

use libp2p_identity::PeerId;

use crate::beside::{Held, HeldBack};

/// What a policy found about one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It could take the call, which would end after so long.
    Fits {
        /// Round trip, expected start, what waits there already, and the
        /// function's own time.
        delay: Duration,
    },
    /// The same, and that would be after the deadline.
    TooFar {
        /// After so long.
        delay: Duration,
    },
    /// The same, and the queue here is sooner done with it.
    Slower {
        /// After so long.
        delay: Duration,
    },
    /// The call was there already, or it was tried in vain.
    Visited,
    /// It lacks what the function needs: processor, executor or label.
    Unfit,
    /// It has no disk for the code.
    NoDisk,
    /// The function asks for grants, and it was not deployed there by hand.
    NeedsGrant,
    /// It said why it cannot run it.
    Unable,
    /// It fetches the code or makes it ready.
    Bringing {
        /// For so much longer.
        left: Duration,
    },
    /// Nobody has asked it yet.
    Unasked {
        /// After so long the call would end there if it can run it.
        delay: Duration,
    },
    /// The function fails there and not elsewhere.
    Failing,
    /// It failed a call, and one call is finding out whether it is well again.
    OnTrial,
    /// It has no room, or holds as many of our calls as it may.
    Full,
    /// Somebody outside said that it, or the way to it, is congested.
    Congested,
    /// It refuses most of what it is offered, and is offered less.
    Throttled,
    /// It admits no such call of this QoS class now.
    Shed,
}

impl Verdict {
    /// When the call would end, where that was worked out.
    pub fn delay(self) -> Option<Duration> {
        match self {
            Verdict::Fits { delay }
            | Verdict::TooFar { delay }
            | Verdict::Slower { delay }
            | Verdict::Unasked { delay } => Some(delay),
            Verdict::Visited
            | Verdict::Unfit
            | Verdict::NoDisk
            | Verdict::NeedsGrant
            | Verdict::Unable
            | Verdict::Bringing { .. }
            | Verdict::Failing
            | Verdict::OnTrial
            | Verdict::Full
            | Verdict::Congested
            | Verdict::Throttled
            | Verdict::Shed => None,
        }
    }

    /// The word for explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Fits { .. } => "fits",
            Verdict::TooFar { .. } => "too late there",
            Verdict::Slower { .. } => "slower than waiting here",
            Verdict::Visited => "was tried already",
            Verdict::Unfit => "lacks what the function needs",
            Verdict::NoDisk => "no disk for the code",
            Verdict::NeedsGrant => "needs a grant that it does not give",
            Verdict::Unable => "unable",
            Verdict::Bringing { .. } => "brings the code",
            Verdict::Unasked { .. } => "not asked yet",
            Verdict::Failing => "the function fails there",
            Verdict::OnTrial => "failed, and is tried by one call",
            Verdict::Full => "full",
            Verdict::Congested => "congested, as was said",
            Verdict::Throttled => "throttled: it refuses most calls, and is offered few",
            Verdict::Shed => "sheds this class: it admits no such call now",
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

/// A number by which a policy judged a peer, in its own terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Which peer; `None` for this node.
    pub peer: Option<PeerId>,
    /// Its name, with the unit last: `predicted_ms`, `weight`.
    pub name: &'static str,
    /// The number.
    pub value: f64,
}

/// Terms that one explanation holds: those of all that a decision looks at.
pub const TERMS_MAX: usize = 512;

/// Hears what a decision weighs.
pub trait Witness {
    /// One peer was looked at.
    fn weighed(&mut self, weighed: Weighed);

    /// A policy judged by a number of its own.
    fn term(&mut self, _: Term) {}

    /// A peer that could take the call is not offered it, for that reason. It is
    /// told whoever watches.
    fn held(&mut self, _: Held) {}

    /// Whether it wants to know: what it would hear is worked out for it alone.
    fn is_watching(&self) -> bool {
        true
    }
}

/// Nobody wants to know.
impl Witness for () {
    fn weighed(&mut self, _: Weighed) {}

    fn is_watching(&self) -> bool {
        false
    }
}

/// Takes note of why a call is held back, and tells another all.
pub(crate) struct Holding<'a> {
    pub(crate) witness: &'a mut dyn Witness,
    pub(crate) held: HeldBack,
}

impl Witness for Holding<'_> {
    fn weighed(&mut self, weighed: Weighed) {
        self.witness.weighed(weighed);
    }

    fn term(&mut self, term: Term) {
        self.witness.term(term);
    }

    fn held(&mut self, held: Held) {
        self.held.add(held);
        self.witness.held(held);
    }

    fn is_watching(&self) -> bool {
        self.witness.is_watching()
    }
}

/// All that a decision weighs, with the terms of its policy.
#[derive(Debug, Default)]
pub struct Account {
    /// Peers that were looked at.
    pub weighed: Vec<Weighed>,
    /// Numbers by which they were judged, at most [`TERMS_MAX`].
    pub terms: Vec<Term>,
}

impl Witness for Account {
    fn weighed(&mut self, weighed: Weighed) {
        self.weighed.push(weighed);
    }

    fn term(&mut self, term: Term) {
        if self.terms.len() < TERMS_MAX {
            self.terms.push(term);
        }
    }
}

/// All is kept: a decision looks at a bounded number of peers.
impl Witness for Vec<Weighed> {
    fn weighed(&mut self, weighed: Weighed) {
        self.push(weighed);
    }
}
