//! Counts of what happened, by a few words. Each call counts something: every
//! thread has counts of its own, which are added up when somebody reads them.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use parking_lot::{Mutex, MutexGuard};
use weir_node::sharded::Sharded;

/// Counts by `K`.
#[derive(Debug)]
pub struct Tally<K> {
    parts: Sharded<Part<K>>,
}

#[derive(Debug)]
struct Part<K>(Mutex<HashMap<K, u64>>);

impl<K> Default for Part<K> {
    fn default() -> Self {
        Part(Mutex::default())
    }
}

impl<K> Part<K> {
    fn counts(&self) -> MutexGuard<'_, HashMap<K, u64>> {
        self.0.lock()
    }
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Tally {
            parts: Sharded::default(),
        }
    }
}

impl<K: Eq + Hash + Ord + Copy> Tally<K> {
    /// Counts one.
    pub fn count(&self, what: K) {
        self.count_within(what, usize::MAX);
    }

    /// Counts one, unless it is the first of its kind and this thread has counted
    /// `most` kinds already.
    pub fn count_within(&self, what: K, most: usize) {
        let mut counts = self.parts.here().counts();
        if let Some(count) = counts.get_mut(&what) {
            *count += 1;
        } else if counts.len() < most {
            counts.insert(what, 1);
        }
    }

    /// What was counted, in order.
    pub fn sums(&self) -> BTreeMap<K, u64> {
        let mut sums = BTreeMap::new();
        for part in self.parts.parts() {
            for (what, count) in &*part.counts() {
                *sums.entry(*what).or_default() += count;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_count_is_added_up() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for word in ["one", "two", "two"] {
                let tally = &tally;
                scope.spawn(move || tally.count(word));
            }
        });
        tally.count("one");
        let sums: Vec<_> = tally.sums().into_iter().collect();
        assert_eq!(sums, [("one", 2), ("two", 2)]);
    }

    #[test]
    fn kinds_beyond_the_bound_are_not_counted() {
        let tally = Tally::default();
        for number in [1, 2, 3, 1] {
            tally.count_within(number, 2);
        }
        let sums: Vec<_> = tally.sums().into_iter().collect();
        assert_eq!(sums, [(1, 2), (2, 1)]);
    }
}
