//! Which peers a node asks for free places on behalf of calls that wait, and how
//! often.
//!
//! * A peer is worth a question that nobody has asked about the function, for it
//!   may have or bring the code, and one that is full, for a place there may be
//!   this node's turn. Who is sooner done with the call is asked first.
//! * A node asks at most [`QUESTIONS_PER_SECOND`], and each peer about each
//!   function again [`QUESTION_INTERVAL`] after the last time, once that was
//!   answered.
//! * No more than [`BRINGS_MAX`] peers bring one function for it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use crate::explain::Verdict;
use crate::policy::{Reaches, Request, weigh_all};
use crate::snapshot::Snapshot;
use crate::waiting;

/// Pause between two questions to one peer about one function.
pub const QUESTION_INTERVAL: Duration = Duration::from_millis(100);

/// Questions of a node to all peers together, in a second.
pub const QUESTIONS_PER_SECOND: f64 = 20.0;

/// Questions that may be asked at once after a pause.
pub const QUESTIONS_AT_ONCE: f64 = 8.0;

/// How long a question waits at a peer for a place there.
pub const QUESTION_WAIT: Duration = Duration::from_secs(1);

/// How much longer its answer may take.
pub const QUESTION_LATE: Duration = Duration::from_secs(2);

/// Places that one question asks for.
pub const PLACES_ASKED_FOR: u32 = 64;

/// Nodes that bring one function for this one at once.
pub const BRINGS_MAX: usize = 4;

/// Pairs of peer and function of which is kept when they were asked last.
pub const PAIRS_MAX: usize = 4_096;

/// A peer that is worth a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worth {
    /// How soon it would be done with the call, or only be reached.
    pub delay: Duration,
    /// Who.
    pub peer: PeerId,
    /// Whether it may have to bring the code.
    pub brings: bool,
}

/// Peers that are worth a question about a call that waits, the best first.
pub fn worth_asking(
    request: &Request<'_>,
    reaches: Reaches,
    snapshot: &Snapshot<'_>,
) -> Vec<Worth> {
    let pools = waiting::pools(request, reaches, snapshot);
    let is_one = pools.clone().filter(|pool| !pool.is_empty()).count() <= 1;
    let mut worth = Vec::new();
    for pool in pools {
        for (peer, verdict) in weigh_all(pool, request, snapshot) {
            let (delay, brings) = match verdict {
                Verdict::Unasked { delay } => (delay, true),
                // A place there may be this node's turn; what is promised may be taken
                // whatever was refused before.
                Verdict::Full | Verdict::Throttled | Verdict::Shed => (peer.round_trip(), false),
                Verdict::Fits { .. }
                | Verdict::Bringing { .. }
                | Verdict::OnTrial
                | Verdict::TooFar { .. }
                | Verdict::Slower { .. }
                | Verdict::Visited
                | Verdict::Unfit
                | Verdict::NoDisk
                | Verdict::NeedsGrant
                | Verdict::Unable
                | Verdict::Failing
                | Verdict::Congested => continue,
            };
            let peer = peer.id;
            worth.push(Worth {
                delay,
                peer,
                brings,
            });
        }
    }
    // A pool is in the order of ids.
    match is_one {
        true => worth.sort_by_key(|worth| worth.delay),
        false => worth.sort_unstable(),
    }
    worth
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Time,
    /// Whether it is not answered yet.
    is_open: bool,
}

/// Questions that a node has asked, and those that it may ask now.
///
/// `P` stands for a peer and `F` for a function.
#[derive(Debug, Clone)]
pub struct Questions<P, F> {
    tokens: f64,
    renewed: Time,
    asked: BTreeMap<(P, F), Asked>,
}

impl<P: Ord + Copy, F: Ord + Clone> Questions<P, F> {
    /// Begins at `now`.
    pub fn new(now: Time) -> Questions<P, F> {
        Questions {
            tokens: QUESTIONS_AT_ONCE,
            renewed: now,
            asked: BTreeMap::new(),
        }
    }

    /// How many may be asked at `now`.
    pub fn left(&mut self, now: Time) -> usize {
        let more = now.since(self.renewed).as_secs_f64() * QUESTIONS_PER_SECOND;
        (self.tokens, self.renewed) = ((self.tokens + more).min(QUESTIONS_AT_ONCE), now);
        self.tokens as usize
    }

    /// Whom to ask about a function now, of those that are worth it, in this
    /// order, each with whether it may have to bring the code; so many bring it
    /// already. They are taken as asked.
    pub fn ask(
        &mut self,
        function: &F,
        worth: impl IntoIterator<Item = (P, bool)>,
        mut brings: usize,
        now: Time,
    ) -> Vec<P> {
        let mut asked = Vec::new();
        let mut left = self.left(now);
        for (peer, may_bring) in worth {
            if left == 0 {
                break;
            }
            if may_bring && brings >= BRINGS_MAX {
                continue;
            }
            if self.may_ask(peer, function, now) {
                left -= 1;
                self.tokens -= 1.0;
                brings += usize::from(may_bring);
                asked.push(peer);
            }
        }
        asked
    }

    /// Whether a peer may be asked about a function now; then it is.
    fn may_ask(&mut self, peer: P, function: &F, now: Time) -> bool {
        if self.asked.len() >= PAIRS_MAX {
            self.asked.retain(|_, asked| asked.is_open);
        }
        let new = Asked {
            at: now,
            is_open: true,
        };
        let Some(last) = self.asked.get_mut(&(peer, function.clone())) else {
            self.asked.insert((peer, function.clone()), new);
            return true;
        };
        let may = !last.is_open && now.since(last.at) >= QUESTION_INTERVAL;
        if may {
            *last = new;
        }
        may
    }

    /// Takes note that a question was answered, or never will be.
    pub fn answered(&mut self, peer: P, function: &F) {
        if let Some(asked) = self.asked.get_mut(&(peer, function.clone())) {
            asked.is_open = false;
        }
    }
}

#[cfg(test)]
mod tests;
