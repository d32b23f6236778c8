//! Durable calls: who keeps copies of a call, whose turn it is to take it over,
//! when a node that is back runs its own again, to whom it hands them, and where
//! a call is looked for.
//!
//! Plain state with time as an argument; whoever holds it asks, stores and
//! tells. At each moment a call that was accepted with copies is, on each disk
//! that counts, either a call that will be run or a result that can be read:
//!
//! * it is copied before it is accepted ([`making`]);
//! * a node that is gone for `k` times the take-over time is stood in for by
//!   the copy whose turn is `k`, which asks those before it first ([`keeping`],
//!   [`turn`]);
//! * a node that is back asks those that keep copies before it runs anything
//!   ([`resuming`]);
//! * a copy whose owner said nothing for as long asks it, so that whatever was
//!   lost on the way is made good ([`confirmed`]);
//! * who keeps copies and is away for a third of it is replaced ([`owning`]).

pub mod finding;
pub mod keeping;
pub mod making;
pub mod owning;
pub mod resuming;
#[cfg(test)]
mod tests;

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::CallId;

use crate::rendezvous::{Among, Members, Ranked};

/// Peers that are asked to keep, or to take, one call before it is given up.
pub const ASKED_MAX: usize = 6;

/// Peers that are asked about calls at once.
pub const QUESTIONS_AT_ONCE: usize = 16;

/// Calls that one question is about.
pub const IDS_PER_QUESTION: usize = 1_000;

/// Calls that are taken over, or copied anew, between two looks around.
pub const BATCH_MAX: usize = 256;

/// Part of the bound of a node's backlog that copies of one owner may have: one
/// in so many.
pub const OWNERS_SHARE: usize = 2;

/// Whose a copy is, and who keeps others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The call.
    pub id: CallId,
    /// The node that runs it.
    pub owner: PeerId,
    /// This node's turn to run it should its owner be gone, from 1.
    pub turn: u8,
    /// All that keep a copy, in the order of their turns.
    pub copies: Vec<PeerId>,
}

impl Note {
    /// The note of the one at place `at`, from 0, of those that keep copies.
    pub fn new(id: CallId, owner: PeerId, at: usize, copies: &[PeerId]) -> Note {
        Note {
            id,
            owner,
            turn: u8::try_from(at.saturating_add(1)).unwrap_or(u8::MAX),
            copies: copies.to_vec(),
        }
    }
}

/// What a member says of a call when it is asked; told as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nothing is known of it.
    Unknown,
    /// A copy of it is there.
    Copied,
    /// It runs, or waits.
    Pending,
    /// It has ended.
    Done,
    /// It is the answering node's, and whoever asks is none of those that keep a
    /// copy of it.
    Unneeded,
}

impl Said {
    const ALL: [Said; 5] = [
        Said::Unknown,
        Said::Copied,
        Said::Pending,
        Said::Done,
        Said::Unneeded,
    ];

    /// How it is told.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// What a number means; those of a later version mean that the call is
    /// in good hands.
    pub fn from_number(number: u8) -> Said {
        Said::ALL
            .get(usize::from(number))
            .copied()
            .unwrap_or(Said::Pending)
    }
}

/// Members in the order in which they are to keep a call, this node's
/// neighbours first. By the random bits of its id, so that calls are spread.
pub fn keepers_of_call(call: CallId, members: &Members) -> Ranked<'_> {
    members.ranked((call.as_u128() >> 64) as u64, Among::NearFirst)
}

/// How often a node looks after copies: 30 times within the take-over time, and
/// no more often than people notice.
pub fn look_interval(takeover: Duration) -> Duration {
    let tick = takeover.div_f64(30.0);
    tick.clamp(Duration::from_millis(100), Duration::from_secs(1))
}

/// What to do with a copy whose turn has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Bring the result from this member, which has it.
    Settle(PeerId),
    /// Keep it for this member, which has taken over.
    Follow(PeerId),
    /// Leave it to one whose turn is before, and that is here.
    Wait,
    /// Run it; these keep copies too.
    TakeOver(Vec<PeerId>),
}

/// What to do with a copy whose owner is gone since `turns` times the take-over
/// time, after others that keep one, and are here, said what they know.
pub fn turn(note: &Note, turns: u32, said: &[(PeerId, Said)]) -> Turn {
    for (peer, said) in said {
        match said {
            Said::Done => return Turn::Settle(*peer),
            Said::Pending | Said::Unneeded => return Turn::Follow(*peer),
            Said::Copied | Said::Unknown => {}
        }
    }
    let copied = said.iter().filter(|(_, said)| *said == Said::Copied);
    let copied: Vec<PeerId> = copied.map(|(peer, _)| *peer).collect();
    let before = usize::from(note.turn).saturating_sub(1);
    let mut before = note.copies.iter().take(before);
    match before.any(|peer| copied.contains(peer)) && turns <= u32::from(note.turn) {
        true => Turn::Wait,
        false => Turn::TakeOver(copied),
    }
}

/// What to do with a copy that its owner was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// It is wanted.
    Keep,
    /// Bring the result in its place.
    Settle,
    /// Nobody wants it.
    Forget,
}

/// What to do with a copy of which its owner says this.
pub fn confirmed(said: Said) -> Confirmed {
    match said {
        Said::Pending | Said::Copied => Confirmed::Keep,
        Said::Done => Confirmed::Settle,
        Said::Unknown | Said::Unneeded => Confirmed::Forget,
    }
}

/// Calls that wait on a node on its way out, handed to others one after the
/// other.
#[derive(Debug, Default)]
pub struct HandingOver {
    stay: Vec<CallId>,
}

impl HandingOver {
    /// Nobody takes a call. Whether to go on: after [`ASKED_MAX`] of them the
    /// next would meet the same.
    pub fn stays(&mut self, id: CallId) -> bool {
        self.stay.push(id);
        self.stay.len() < ASKED_MAX
    }

    /// What nobody took: it goes on here.
    pub fn left(self) -> Vec<CallId> {
        self.stay
    }
}
