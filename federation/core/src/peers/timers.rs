//! When each peer is looked at next, because time alone changes something about
//! it. Of most the same is known, that they fall silent at some moment; those need
//! no entry here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use weir_node_core::time::Time;

/// A moment is kept as a multiple of 2^26 nanoseconds (67 ms) and no more: a
/// peer may be looked at so much too soon, and is looked at again then. Four
/// bytes reach for nine years.
const GRAIN_BITS: u32 = 26;

/// The last moment that is told apart.
const LAST: u32 = u32::MAX;

/// Entries that are kept for each peer; all but one of each were overtaken.
const ENTRIES_PER_PEER: usize = 4;

/// The grain in which a moment is.
fn grain(at: Time) -> u32 {
    u32::try_from(at.as_nanos() >> GRAIN_BITS).unwrap_or(LAST)
}

/// A moment for each peer.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Moments and places; an entry counts if it is its place's.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
    /// By place.
    counts: HashMap<u32, u32, FixedState>,
}

impl Timers {
    /// Has a peer looked at then, unless it is looked at sooner.
    pub(super) fn set(&mut self, place: u32, due: Time) {
        let due = grain(due);
        if self.counts.get(&place).is_some_and(|counts| due >= *counts) {
            return;
        }
        self.counts.insert(place, due);
        self.heap.push(Reverse((due, place)));
        let bound = self.counts.len().saturating_mul(ENTRIES_PER_PEER);
        if self.heap.len() > bound {
            let counts = &self.counts;
            self.heap
                .retain(|Reverse((due, place))| counts.get(place) == Some(due));
        }
    }

    /// Forgets a peer.
    pub(super) fn clear(&mut self, place: u32) {
        self.counts.remove(&place);
    }

    /// One that is to be looked at by `now`, and has to be set anew.
    pub(super) fn pop(&mut self, now: Time) -> Option<u32> {
        let now = grain(now);
        while let Some(Reverse((due, place))) = self.heap.peek().copied()
            && due <= now
        {
            self.heap.pop();
            if self.counts.get(&place) == Some(&due) {
                self.counts.remove(&place);
                return Some(place);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_peer_is_looked_at_once_by_its_soonest_moment() {
        let mut timers = Timers::default();
        timers.set(3, at(9_000));
        timers.set(3, at(5_000));
        timers.set(3, at(7_000));
        timers.set(1, at(6_000));
        assert_eq!(timers.pop(at(4_900)), None);
        assert_eq!(timers.pop(at(5_000)), Some(3));
        assert_eq!(timers.pop(at(5_900)), None);
        assert_eq!(timers.pop(at(60_000)), Some(1));
        assert_eq!(timers.pop(at(60_000)), None, "what was overtaken is gone");
    }

    #[test]
    fn one_that_was_forgotten_is_not_looked_at() {
        let mut timers = Timers::default();
        timers.set(0, at(1_000));
        timers.clear(0);
        assert_eq!(timers.pop(at(2_000)), None);
        timers.set(0, at(3_000));
        assert_eq!(timers.pop(at(3_000)), Some(0));
    }

    #[test]
    fn what_was_overtaken_takes_no_room_for_ever() {
        let mut timers = Timers::default();
        for turn in 0..10_000 {
            timers.set(0, at(1_000_000 - turn * 90));
        }
        assert!(timers.heap.len() <= ENTRIES_PER_PEER);
    }
}
