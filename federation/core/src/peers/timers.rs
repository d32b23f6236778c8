//! When each peer is looked at next, because time alone changes something about
//! it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use weir_node_core::time::Time;

/// A moment is kept as a multiple of 2^26 nanoseconds (67 ms) and no more: a
/// peer may be looked at so much too soon, and is looked at again then. Four
/// bytes reach for nine years.
const GRAIN_BITS: u32 = 26;

/// No moment.
const NEVER: u32 = u32::MAX;

/// Entries that are kept for each peer; all but one of each were overtaken.
const ENTRIES_PER_PEER: usize = 4;

/// The grain in which a moment is.
fn grain(at: Time) -> u32 {
    u32::try_from(at.as_nanos() >> GRAIN_BITS).unwrap_or(NEVER)
}

/// A moment for each peer.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Moments and places; an entry counts if it is its place's.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
    /// By place.
    counts: Vec<u32>,
}

impl Timers {
    /// Has a peer looked at then, unless it is looked at sooner.
    pub(super) fn set(&mut self, place: u32, due: Time) {
        let (at, due) = (place as usize, grain(due));
        if self.counts.len() <= at {
            self.counts.resize(at.saturating_add(1), NEVER);
        }
        if due >= self.counts[at] {
            return;
        }
        self.counts[at] = due;
        self.heap.push(Reverse((due, place)));
        let bound = self.counts.len().saturating_mul(ENTRIES_PER_PEER);
        if self.heap.len() > bound {
            let counts = &self.counts;
            self.heap
                .retain(|Reverse((due, place))| counts[*place as usize] == *due);
        }
    }

    /// Forgets a peer.
    pub(super) fn clear(&mut self, place: u32) {
        if let Some(counts) = self.counts.get_mut(place as usize) {
            *counts = NEVER;
        }
    }

    /// One that is to be looked at by `now`, and has to be set anew.
    pub(super) fn pop(&mut self, now: Time) -> Option<u32> {
        let now = grain(now);
        while let Some(Reverse((due, place))) = self.heap.peek().copied()
            && due <= now
        {
            self.heap.pop();
            let counts = self.counts.get_mut(place as usize)?;
            if *counts == due {
                *counts = NEVER;
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
