//! Where a call is looked for that a receipt names.

use std::collections::BTreeSet;

use libp2p_identity::PeerId;
use weir_node_core::id::{NodeMark, Receipt};

use super::keepers_of_call;
use crate::rendezvous::Members;

/// Peers beside those that a receipt names that are asked for a call.
const GUESSED_MAX: usize = 4;

/// Peers that are asked for a call at once. What the first in order says that
/// knows it holds, so that more at once only save time.
pub const FINDING_AT_ONCE: usize = 4;

/// What a member answered when it was asked for a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<R> {
    /// It has the result.
    Result(R),
    /// It will have it.
    Pending,
    /// It has ended, and nobody keeps its result.
    Expired,
    /// It knows nothing of it.
    Unknown,
    /// It cannot be asked now.
    Unreachable,
}

/// What there is of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts<R> {
    /// Its result.
    Result(R),
    /// It waits, or runs, somewhere.
    Pending,
    /// Nobody that may have it knows it.
    Unknown,
    /// Some that may have it cannot be asked now.
    Unreachable,
}

/// A call that is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    asked: Vec<PeerId>,
    is_copied: bool,
    unreachable: bool,
}

impl Finding {
    /// The call of a receipt that node `own` does not have itself. `owner` of
    /// the copy that it keeps, if it keeps one; `here` are members that can be
    /// asked, and `members` those that may keep calls.
    pub fn new(
        receipt: &Receipt,
        own: &PeerId,
        owner: Option<PeerId>,
        here: &BTreeSet<PeerId>,
        members: &Members,
    ) -> Finding {
        let mut asked: Vec<PeerId> = owner.into_iter().collect();
        let mut unreachable = false;
        for mark in &receipt.nodes {
            if *mark == NodeMark::of(own) {
                continue;
            }
            let named = here.iter().filter(|peer| NodeMark::of(peer) == *mark);
            let named: Vec<PeerId> = named.copied().collect();
            unreachable |= named.is_empty();
            asked.extend(named);
        }
        // Whoever took it over, or keeps a copy that was made anew.
        if !receipt.nodes.is_empty() {
            let guessed = keepers_of_call(receipt.call, members);
            let guessed = guessed.filter(|peer| peer != own);
            asked.extend(guessed.take(GUESSED_MAX));
        }
        let mut before = BTreeSet::new();
        asked.retain(|peer| before.insert(*peer));
        Finding {
            asked,
            is_copied: owner.is_some(),
            unreachable,
        }
    }

    /// Whom to ask, in this order.
    pub fn asked(&self) -> &[PeerId] {
        &self.asked
    }

    /// What the next of them answered; what there is of the call, if that is
    /// known now.
    pub fn came<R>(&mut self, answer: Answer<R>) -> Option<Whereabouts<R>> {
        match answer {
            Answer::Result(result) => Some(Whereabouts::Result(result)),
            Answer::Pending => Some(Whereabouts::Pending),
            Answer::Expired => Some(Whereabouts::Unknown),
            Answer::Unknown => None,
            Answer::Unreachable => {
                self.unreachable = true;
                None
            }
        }
    }

    /// What there is of the call when all were asked and none knew it.
    pub fn ends<R>(&self) -> Whereabouts<R> {
        match (self.is_copied, self.unreachable) {
            (true, _) => Whereabouts::Pending,
            (false, true) => Whereabouts::Unreachable,
            (false, false) => Whereabouts::Unknown,
        }
    }
}
