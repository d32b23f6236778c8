//! Small numbers in the order of a key each, which may change: a binary heap
//! that knows where each number stands.
//!
//! A tree of ordered nodes would do the same, but a call that waits changes keys
//! several times, and here that moves a few neighbours and allocates nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Where a number is that is in no heap.
const NOWHERE: u32 = u32::MAX;

/// Where numbers stand, each in one heap at most. As many as the largest number
/// that ever stood anywhere.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<u32>);

impl Places {
    fn of(&self, number: u32) -> Option<usize> {
        let at = self.0.get(number as usize)?;
        (*at != NOWHERE).then_some(*at as usize)
    }

    fn set(&mut self, number: u32, at: usize) {
        self.0[number as usize] = at as u32;
    }
}

/// Numbers by key, the least first; of equal keys the least number.
#[derive(Debug)]
pub(super) struct Heap<K> {
    nodes: Vec<(K, u32)>,
}

impl<K> Default for Heap<K> {
    fn default() -> Self {
        Heap { nodes: Vec::new() }
    }
}

impl<K: Ord + Copy> Heap<K> {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Gives a number a key, or another one.
    pub(super) fn put(&mut self, number: u32, key: K, places: &mut Places) {
        match places.of(number) {
            Some(at) => self.move_to(at, key, places),
            None => {
                let most = number as usize + 1;
                if places.0.len() < most {
                    places.0.resize(most, NOWHERE);
                }
                self.nodes.push((key, number));
                self.rise(self.nodes.len() - 1, places);
            }
        }
    }

    /// Changes the key of a number that is here; nothing when it is not.
    pub(super) fn change(&mut self, number: u32, key: impl FnOnce(K) -> K, places: &mut Places) {
        if let Some(at) = places.of(number) {
            let key = key(self.nodes[at].0);
            self.move_to(at, key, places);
        }
    }

    /// Takes out a number, and answers its key; `None` when it is not here.
    pub(super) fn remove(&mut self, number: u32, places: &mut Places) -> Option<K> {
        let at = places.of(number)?;
        places.0[number as usize] = NOWHERE;
        let last = self.nodes.pop()?;
        if at == self.nodes.len() {
            return Some(last.0);
        }
        let removed = std::mem::replace(&mut self.nodes[at], last);
        match last < removed {
            true => self.rise(at, places),
            false => self.sink(at, places),
        }
        Some(removed.0)
    }

    fn move_to(&mut self, at: usize, key: K, places: &mut Places) {
        let old = std::mem::replace(&mut self.nodes[at].0, key);
        match key.cmp(&old) {
            std::cmp::Ordering::Less => self.rise(at, places),
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => self.sink(at, places),
        }
    }

    fn rise(&mut self, mut at: usize, places: &mut Places) {
        let node = self.nodes[at];
        while at > 0 {
            let above = (at - 1) / 2;
            if self.nodes[above] <= node {
                break;
            }
            self.nodes[at] = self.nodes[above];
            places.set(self.nodes[at].1, at);
            at = above;
        }
        self.nodes[at] = node;
        places.set(node.1, at);
    }

    fn sink(&mut self, mut at: usize, places: &mut Places) {
        let node = self.nodes[at];
        loop {
            let mut below = 2 * at + 1;
            let Some(left) = self.nodes.get(below) else {
                break;
            };
            if self.nodes.get(below + 1).is_some_and(|right| right < left) {
                below += 1;
            }
            if node <= self.nodes[below] {
                break;
            }
            self.nodes[at] = self.nodes[below];
            places.set(self.nodes[at].1, at);
            at = below;
        }
        self.nodes[at] = node;
        places.set(node.1, at);
    }
}

/// A way through a heap in order, which must not change meanwhile. Kept to be
/// used again, so that it allocates nothing.
#[derive(Debug)]
pub(super) struct Walk<K> {
    /// Nodes whose forebears were all seen, with where they stand.
    open: BinaryHeap<Reverse<(K, u32, usize)>>,
    /// Where the one stands that was seen last, whose children are not open yet.
    seen: Option<usize>,
    begun: bool,
}

impl<K: Ord> Default for Walk<K> {
    fn default() -> Self {
        Walk {
            open: BinaryHeap::new(),
            seen: None,
            begun: false,
        }
    }
}

impl<K: Ord + Copy> Walk<K> {
    /// Goes back to the first.
    pub(super) fn begin(&mut self) {
        self.open.clear();
        self.seen = None;
        self.begun = false;
    }

    /// The next number, with its key.
    pub(super) fn next(&mut self, heap: &Heap<K>) -> Option<(K, u32)> {
        if !std::mem::replace(&mut self.begun, true) {
            self.seen = Some(0);
            return heap.nodes.first().copied();
        }
        if let Some(seen) = self.seen.take() {
            let children = 2 * seen + 1..(2 * seen + 3).min(heap.nodes.len());
            let open = children.map(|at| Reverse((heap.nodes[at].0, heap.nodes[at].1, at)));
            self.open.extend(open);
        }
        let Reverse((key, number, at)) = self.open.pop()?;
        self.seen = Some(at);
        Some((key, number))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_stand_in_the_order_of_their_last_key(
            // A key to put, one to be set where the number is here, or none.
            steps in prop::collection::vec((0..12_u32, 0..3_u8, 0..20_u64), 0..200),
        ) {
            let (mut heap, mut places) = (Heap::default(), Places::default());
            let mut model: BTreeSet<(u64, u32)> = BTreeSet::new();
            let mut walk = Walk::default();
            for (number, what, key) in steps {
                let old = model.iter().copied().find(|(_, other)| *other == number);
                match what {
                    0 => heap.put(number, key, &mut places),
                    1 => heap.change(number, |old| old / 2 + key, &mut places),
                    _ => {
                        let removed = heap.remove(number, &mut places);
                        prop_assert_eq!(removed, old.map(|(key, _)| key));
                    }
                }
                if let Some(old) = old {
                    model.remove(&old);
                }
                match (what, old) {
                    (0, _) => {
                        model.insert((key, number));
                    }
                    (1, Some((old, _))) => {
                        model.insert((old / 2 + key, number));
                    }
                    _ => {}
                }
                walk.begin();
                let all: Vec<_> = std::iter::from_fn(|| walk.next(&heap)).collect();
                let expected: Vec<_> = model.iter().copied().collect();
                prop_assert_eq!(all, expected);
                prop_assert_eq!(heap.is_empty(), model.is_empty());
            }
        }
    }
}
