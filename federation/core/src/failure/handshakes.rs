//! How many connections may be in the making at once, with a share of them for
//! addresses from which members came before: a flood of strangers finds a bounded
//! number of handshakes, and members still get in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Handshakes under way at once.
pub const HANDSHAKES_MAX: usize = 64;

/// Those of them that strangers may have.
pub const STRANGERS_MAX: usize = 32;

/// Addresses of members that are remembered; the oldest is forgotten first.
pub const KNOWN_MAX: usize = 4_096;

/// Handshakes under way, named by `I`, and addresses `A` of members.
#[derive(Debug)]
pub struct Handshakes<I, A> {
    /// Whether each is a stranger's.
    pending: BTreeMap<I, bool>,
    strangers: usize,
    known: BTreeSet<A>,
    /// The same, the oldest first.
    order: VecDeque<A>,
}

impl<I, A> Default for Handshakes<I, A> {
    fn default() -> Self {
        Handshakes {
            pending: BTreeMap::new(),
            strangers: 0,
            known: BTreeSet::new(),
            order: VecDeque::new(),
        }
    }
}

impl<I: Ord, A: Ord + Clone> Handshakes<I, A> {
    /// Whether one more may begin, from `address` where that is known; then it
    /// counts until [`Handshakes::end`].
    pub fn begin(&mut self, id: I, address: Option<&A>) -> bool {
        let stranger = address.is_none_or(|address| !self.known.contains(address));
        let crowded = stranger && self.strangers >= STRANGERS_MAX;
        if self.pending.len() >= HANDSHAKES_MAX || crowded {
            return false;
        }
        if self.pending.insert(id, stranger).is_none() && stranger {
            self.strangers = self.strangers.saturating_add(1);
        }
        true
    }

    /// One has ended, however it did.
    pub fn end(&mut self, id: &I) {
        if self.pending.remove(id) == Some(true) {
            self.strangers = self.strangers.saturating_sub(1);
        }
    }

    /// A member came from this address.
    pub fn know(&mut self, address: &A) {
        if !self.known.insert(address.clone()) {
            return;
        }
        self.order.push_back(address.clone());
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
