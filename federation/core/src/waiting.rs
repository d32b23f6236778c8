//! Calls that wait here and may leave: who they are, where each may go, and in
//! which order the free places of a peer move them. Each free place at a peer
//! that this node knows of is one more place of its queue.
//!
//! Plain state: the shell says who waits and no longer does, and moves the one
//! that is named.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::explain::Verdict;
use crate::policy::{Bounds, Reaches, Request, weigh};
use crate::snapshot::{Here, Local, PeerView, Pool, Snapshot};

/// Calls that wait for a place elsewhere without one in the queue here.
pub const OUTSIDE_MAX: usize = 256;

/// Calls that one word of a peer moves there at most; the next word moves more.
pub const MOVED_MAX: usize = 256;

/// Functions that peers are asked about at once; those that wait longest.
pub const FUNCTIONS_ASKED_ABOUT: usize = 4;

/// The how many-th call it is that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(u64);

/// All calls that wait and may leave, by their functions. Those that have a
/// place in the queue here are no more than that holds; of the others there are
/// at most [`OUTSIDE_MAX`].
#[derive(Debug, Clone)]
pub struct Waiters<F, T> {
    all: BTreeMap<F, BTreeMap<Number, T>>,
    /// Those without a place in the queue, in the order in which they came.
    outside: BTreeMap<Number, T>,
    count: usize,
    next: u64,
}

impl<F, T> Default for Waiters<F, T> {
    fn default() -> Waiters<F, T> {
        Waiters {
            all: BTreeMap::new(),
            outside: BTreeMap::new(),
            count: 0,
            next: 0,
        }
    }
}

impl<F: Ord + Clone, T: Clone> Waiters<F, T> {
    /// Adds a call, which has a place in the queue here or only waits for one
    /// elsewhere; `None` when too many do.
    pub fn enter(&mut self, function: &F, queued: bool, call: T) -> Option<Number> {
        if !queued && self.outside.len() >= OUTSIDE_MAX {
            return None;
        }
        let number = Number(self.next);
        self.next += 1;
        self.count += 1;
        if !queued {
            self.outside.insert(number, call.clone());
        }
        match self.all.get_mut(function) {
            Some(calls) => _ = calls.insert(number, call),
            None => {
                let calls = BTreeMap::from([(number, call)]);
                self.all.insert(function.clone(), calls);
            }
        }
        Some(number)
    }

    /// Takes a call out; nothing happens when it was.
    pub fn leave(&mut self, function: &F, number: Number) {
        let Some(calls) = self.all.get_mut(function) else {
            return;
        };
        if calls.remove(&number).is_some() {
            self.count -= 1;
            self.outside.remove(&number);
        }
        if calls.is_empty() {
            self.all.remove(function);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many of them wait in the queue here.
    pub fn queued(&self) -> usize {
        self.count - self.outside.len()
    }

    /// Those without a place in the queue, in the order in which they came.
    pub fn outside(&self) -> impl Iterator<Item = &T> {
        self.outside.values()
    }

    /// Their functions.
    pub fn functions(&self) -> impl Iterator<Item = &F> {
        self.all.keys()
    }

    /// For whom peers are asked: of each function the call that waits longest,
    /// those functions first whose calls do; at most [`FUNCTIONS_ASKED_ABOUT`].
    pub fn oldest(&self) -> Vec<T> {
        let first = self.all.values();
        let mut oldest: Vec<(&Number, &T)> = first.filter_map(BTreeMap::first_key_value).collect();
        oldest.sort_unstable_by_key(|(number, _)| **number);
        oldest.truncate(FUNCTIONS_ASKED_ABOUT);
        oldest.into_iter().map(|(_, call)| call.clone()).collect()
    }
}

/// Where a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// In the queue here.
    Queue,
    /// Outside of it, for a place elsewhere.
    Outside,
}

/// In which order the free places of one peer move calls: as long as one of the
/// queue goes there, in its turn, those of the queue; then those outside.
#[derive(Debug)]
pub struct Moves {
    left: usize,
    line: Option<Line>,
}

impl Default for Moves {
    fn default() -> Moves {
        Moves {
            left: MOVED_MAX,
            line: Some(Line::Queue),
        }
    }
}

impl Moves {
    /// From where the next call is to be moved, while so many wait in the queue
    /// and outside; `None` when no more is moved now.
    pub fn next(&mut self, queued: usize, outside: usize) -> Option<Line> {
        if self.left == 0 {
            self.line = None;
        }
        if self.line == Some(Line::Queue) && queued == 0 {
            self.line = Some(Line::Outside);
        }
        if self.line == Some(Line::Outside) && outside == 0 {
            self.line = None;
        }
        self.line
    }

    /// Takes note whether one of there was moved.
    pub fn came(&mut self, moved: bool) {
        self.line = match (self.line, moved) {
            // There may be one again in the queue.
            (Some(Line::Queue | Line::Outside), true) => Some(Line::Queue),
            (Some(Line::Queue), false) => Some(Line::Outside),
            (Some(Line::Outside), false) | (None, _) => None,
        };
        self.left = self.left.saturating_sub(usize::from(moved));
    }
}

/// A node as a decision about a call sees it that waits there, in the queue or
/// not, where each of `waiting` calls makes the next one wait for a `turn`.
pub fn local<'a>(
    local: Local<'a>,
    queued: bool,
    turn: Option<Duration>,
    waiting: usize,
) -> Local<'a> {
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
    Local {
        here: match queued {
            true => Here::Full,
            false => Here::Unable,
        },
        // A call that goes makes the wait of all others shorter: what counts is
        // how long the last one has to wait.
        queue: turn.map(|turn| turn.saturating_mul(waiting)),
        ..local
    }
}

/// How many thousandths of a place here one at a peer is, by how long the
/// function runs here and there: a peer that is twice as quick serves the queue
/// here as two places would.
pub fn serves(here: Option<Duration>, there: Option<Duration>) -> u32 {
    let (Some(here), Some(there)) = (here, there) else {
        return 1_000;
    };
    let times = here.as_secs_f64() / there.as_secs_f64().max(1e-6);
    (times.clamp(0.05, 20.0) * 1e3) as u32
}

/// Places that so many thousandths are.
pub fn places(thousandths: u32) -> u32 {
    thousandths.div_ceil(1_000)
}

/// Peers that a call may go to, by what they are: those of its own zone, and of
/// the regions that are followed, as far as its policy reaches.
pub fn pools<'a>(
    request: &Request<'_>,
    reaches: Reaches,
    snapshot: &Snapshot<'a>,
) -> impl Iterator<Item = &'a Pool> + Clone + use<'a> {
    let view = snapshot.view;
    let near = reaches.horizontal.then(|| view.neighbours());
    let wide = reaches.vertical && request.bounds == Bounds::Federation;
    let far = snapshot.local.regions.iter().filter(move |_| wide);
    let far = far.filter_map(|region| view.region(region));
    near.into_iter().chain(far)
}

/// Whether a call may go to a peer, if that has a free place: it is one of
/// [`pools`], and nothing speaks against it.
pub fn may_go(
    peer: &PeerView,
    request: &Request<'_>,
    reaches: Reaches,
    snapshot: &Snapshot<'_>,
) -> bool {
    let reached = match snapshot.view.is_neighbour(&peer.id) {
        true => reaches.horizontal,
        false => {
            let region = peer.report.region.as_ref();
            reaches.vertical
                && request.bounds == Bounds::Federation
                && region.is_some_and(|region| snapshot.local.regions.contains(region))
        }
    };
    reached && matches!(weigh(peer, request, snapshot), Verdict::Fits { .. })
}

#[cfg(test)]
mod tests;
