//! When waiting calls give up, the first one first.
//!
//! Most calls come in the order in which they would give up, and leave long
//! before. So there is a line of those that came in order and a heap of the
//! others, and whoever leaves is not looked for: what it leaves behind is thrown
//! away when it would be the first, or when there is more of that than of what
//! counts.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::slab::Key;
use crate::time::Time;

/// What may be left behind beside as much as there is of what counts, so that
/// short queues are not swept all the time.
const LEFT_BEHIND_MAX: usize = 64;

/// When a call gives up. Of two at the same moment the one that came first is
/// first, by its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GiveUp {
    pub(super) at: Time,
    pub(super) sequence: u64,
    pub(super) call: Key,
}

/// When each call gives up that waits and ever does.
#[derive(Debug, Default)]
pub(super) struct GiveUps {
    /// In order.
    line: VecDeque<GiveUp>,
    heap: BinaryHeap<Reverse<GiveUp>>,
    /// Those that count; the others were left behind. The first of line and heap
    /// count.
    count: usize,
}

impl GiveUps {
    pub(super) fn insert(&mut self, give_up: GiveUp) {
        self.count += 1;
        match self.line.back().is_none_or(|last| *last <= give_up) {
            true => self.line.push_back(give_up),
            false => self.heap.push(Reverse(give_up)),
        }
    }

    /// Forgets one that was inserted. `counts` tells of each whether it still
    /// does, and already of this one that it does not.
    pub(super) fn remove(&mut self, give_up: &GiveUp, counts: impl Fn(&GiveUp) -> bool) {
        self.count -= 1;
        if self.line.front() == Some(give_up) {
            self.line.pop_front();
            while self.line.front().is_some_and(|first| !counts(first)) {
                self.line.pop_front();
            }
        } else if self.heap.peek() == Some(&Reverse(*give_up)) {
            self.heap.pop();
            while self.heap.peek().is_some_and(|first| !counts(&first.0)) {
                self.heap.pop();
            }
        }
        if self.line.len() + self.heap.len() > 2 * self.count + LEFT_BEHIND_MAX {
            self.line.retain(&counts);
            self.heap.retain(|Reverse(give_up)| counts(give_up));
        }
    }

    pub(super) fn first(&self) -> Option<GiveUp> {
        let heap = self.heap.peek().map(|Reverse(first)| *first);
        let line = self.line.front().copied();
        match (line, heap) {
            (Some(line), Some(heap)) => Some(line.min(heap)),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_is_the_first_of_those_that_did_not_leave(
            steps in prop::collection::vec((any::<bool>(), 0..50_u64, any::<prop::sample::Index>()), 0..600),
        ) {
            let mut give_ups = GiveUps::default();
            let mut model: BTreeSet<GiveUp> = BTreeSet::new();
            for (sequence, (comes, at, which)) in (0..).zip(steps) {
                let give_up = GiveUp {
                    at: Time::from_nanos(at + sequence / 4),
                    sequence,
                    call: Key::from_bits(sequence),
                };
                if comes || model.is_empty() {
                    model.insert(give_up);
                    give_ups.insert(give_up);
                } else {
                    let one = *model.iter().nth(which.index(model.len())).expect("one");
                    model.remove(&one);
                    give_ups.remove(&one, |give_up| model.contains(give_up));
                }
                prop_assert_eq!(give_ups.first(), model.first().copied());
                let kept = give_ups.line.len() + give_ups.heap.len();
                prop_assert!(kept <= 2 * model.len() + LEFT_BEHIND_MAX);
            }
        }
    }
}
