//! What the overlay asks of whoever uses it.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use libp2p::{Multiaddr, PeerId};
use weir_federation_core::failure::DialEnd;

/// Who a node is to others, and what it makes of them. Called on the overlay's
/// own thread and on those that carry calls; none of it may block.
pub trait Host: Send + Sync + 'static {
    /// What this node says first on a connection that it opened to `to`.
    fn hello(&self, to: PeerId) -> Vec<u8>;

    /// Answers the hello of `from`, whose identity is proved; later, where the
    /// answer must not be given before something is on disk.
    fn answer<'a>(&'a self, from: PeerId, hello: &'a [u8]) -> BoxFuture<'a, Answer>;

    /// Judges the answer of `from` to this node's hello.
    ///
    /// # Errors
    /// Why the connection must end.
    fn judge(&self, from: PeerId, answer: &[u8]) -> Result<(), Refusal>;

    /// Hears a message that was gossiped, or told by a neighbour on a link.
    fn hear(&self, message: &[u8]) -> Verdict;

    /// What a member is told that asks how loaded this node is, in at most
    /// [`crate::PROBE_BYTES_MAX`]; `None` for nothing now.
    fn probed(&self, _from: PeerId) -> Option<Vec<u8>> {
        None
    }

    /// Where a member may be linked to, for a stream that somebody needs.
    fn addresses(&self, of: PeerId) -> Vec<Multiaddr>;

    /// Whether a known member says that it can be linked to there.
    fn is_known_at(&self, address: &Multiaddr) -> bool;

    /// Takes note of what happened. Must return at once.
    fn happened(&self, event: Event);
}

/// What is said to one who wants in.
#[derive(Debug)]
pub struct Answer {
    /// The words.
    pub bytes: Vec<u8>,
    /// Whether the connection stays open.
    pub verdict: Result<(), Refusal>,
}

/// Why a connection ends before it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The word for metrics and logs.
    pub reason: &'static str,
    /// What to do about it.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is new: pass it on.
    Accept,
    /// It is old, or nobody's here: let it end here.
    Ignore,
    /// No honest member says so: hold it against whoever passed it on.
    Reject,
}

/// What happens on the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The node can be reached here by those who share a network with it.
    Listening(Multiaddr),
    /// A member is linked, directly or over a relay.
    LinkUp {
        /// Who.
        peer: PeerId,
        /// Where it is, as seen from here.
        address: Multiaddr,
        /// Whether this node opened the link.
        dialled: bool,
        /// Whether a relay carries it.
        relayed: bool,
    },
    /// A link is one that a side asked for: it is heard, and stays.
    Kept(PeerId),
    /// A member that is linked has one more connection: two nodes with one
    /// identity look like that too.
    LinkedAgain(PeerId),
    /// A member that was linked over a relay is linked directly too.
    Closer {
        /// Who.
        peer: PeerId,
        /// Where it is, as seen from here.
        address: Multiaddr,
    },
    /// The last connection to a member ended.
    LinkDown {
        /// Who.
        peer: PeerId,
        /// Whether one side meant it, or nobody needed it.
        clean: bool,
    },
    /// A member says nothing, though its connection stands.
    Silent(PeerId),
    /// A member said, or passed on, too much of what no honest member says: it
    /// was cut.
    Lied(PeerId),
    /// A member has calls of this node's and does not answer pings, though its
    /// connection stands.
    Unanswered(PeerId),
    /// A member could not be dialled.
    DialFailed {
        /// Who, when that was known.
        peer: Option<PeerId>,
        /// How that ended, as evidence of its death.
        end: DialEnd,
        /// Why, for people.
        reason: String,
    },
    /// One round trip to a member took so long.
    RoundTrip {
        /// To whom.
        peer: PeerId,
        /// How long.
        took: Duration,
    },
    /// Somebody who wanted in was refused.
    Refused {
        /// The word of the reason.
        reason: &'static str,
        /// More of it.
        text: String,
    },
    /// Another member tried whether this node can be dialled at an address.
    Tested {
        /// Where.
        address: Multiaddr,
        /// Whether it came through.
        reachable: bool,
    },
    /// A node was heard of on the local network.
    Found {
        /// Who.
        peer: PeerId,
        /// Where.
        address: Multiaddr,
    },
}
