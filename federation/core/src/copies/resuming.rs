//! The calls of an earlier life of a node: run again, unless those that keep
//! copies did.

use std::collections::{BTreeMap, BTreeSet};

use libp2p_identity::PeerId;
use weir_node_core::id::CallId;
use weir_node_core::time::Time;

use super::Said;

/// Whether peers have a call of an earlier life.
#[derive(Debug)]
struct Question {
    /// Its place in the order of acceptance.
    at: usize,
    /// Those that keep copies and were not asked yet.
    unasked: Vec<PeerId>,
    /// Whether it is in the queue again.
    goes_on: bool,
}

/// A call that a peer ran, or runs, and that is to be left to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Yielded {
    /// Which.
    pub id: CallId,
    /// To whom.
    pub to: PeerId,
    /// What that one said of it.
    pub said: Said,
    /// It is in the queue again: it is left only if it has not begun.
    pub goes_on: bool,
}

/// The calls that a node held back when it started.
#[derive(Debug)]
pub struct Resuming {
    order: Vec<CallId>,
    questions: BTreeMap<CallId, Question>,
    /// Until when those are waited for that cannot be asked: the first of them
    /// takes over then.
    until: Time,
}

impl Resuming {
    /// These calls, in the order in which they were accepted, each with those
    /// that keep copies.
    pub fn new(held: impl IntoIterator<Item = (CallId, Vec<PeerId>)>, until: Time) -> Resuming {
        let mut order = Vec::new();
        let mut questions = BTreeMap::new();
        for (at, (id, unasked)) in held.into_iter().enumerate() {
            order.push(id);
            let question = Question {
                at,
                unasked,
                goes_on: false,
            };
            questions.insert(id, question);
        }
        Resuming {
            order,
            questions,
            until,
        }
    }

    /// Who of those that are here is to be asked about which calls.
    pub fn to_ask(&self, here: &BTreeSet<PeerId>) -> BTreeMap<PeerId, Vec<CallId>> {
        let mut asked: BTreeMap<PeerId, Vec<CallId>> = BTreeMap::new();
        for id in &self.order {
            let peers = self.questions.get(id).into_iter().flat_map(|q| &q.unasked);
            for peer in peers.filter(|peer| here.contains(peer)) {
                asked.entry(*peer).or_default().push(*id);
            }
        }
        asked
    }

    /// What a peer says of a call; whether the call is to be left to it.
    pub fn said(&mut self, peer: PeerId, id: CallId, said: Said) -> Option<Yielded> {
        match said {
            Said::Unknown | Said::Copied => {
                if let Some(question) = self.questions.get_mut(&id) {
                    question.unasked.retain(|other| *other != peer);
                }
                None
            }
            Said::Done | Said::Pending | Said::Unneeded => {
                let question = self.questions.remove(&id)?;
                Some(Yielded {
                    id,
                    to: peer,
                    said,
                    goes_on: question.goes_on,
                })
            }
        }
    }

    /// The calls that are to go on here now: all that keep copies were asked, or
    /// it is too late to wait for the others. As long as one waits here it still
    /// yields to a peer that turns out to have it; `is_own` says whether it has
    /// not ended.
    pub fn go_on(&mut self, now: Time, is_own: impl Fn(&CallId) -> bool) -> Vec<CallId> {
        let late = now >= self.until;
        let mut going: Vec<(usize, CallId)> = Vec::new();
        for (id, question) in &mut self.questions {
            if !question.goes_on && (question.unasked.is_empty() || late) {
                question.goes_on = true;
                going.push((question.at, *id));
            }
        }
        going.sort_unstable();
        self.questions.retain(|id, question| {
            !question.goes_on || (!question.unasked.is_empty() && is_own(id))
        });
        if self.questions.len().saturating_mul(2) < self.order.len() {
            let left = &self.questions;
            self.order.retain(|id| left.contains_key(id));
        }
        going.into_iter().map(|(_, id)| id).collect()
    }

    /// Whether nothing is left to ask.
    pub fn is_over(&self) -> bool {
        self.questions.is_empty()
    }
}
