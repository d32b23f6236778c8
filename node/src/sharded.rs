//! State that each thread has a part of, so that what every call writes is in no
//! cache line that two cores write.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parts of one value; threads beyond as many share them.
const PARTS: usize = 16;

/// A value in parts. A part is made when a thread first asks for its own.
#[derive(Debug)]
pub struct Sharded<T> {
    parts: [OnceLock<Box<Part<T>>>; PARTS],
}

/// A cache line of its own, at least.
#[derive(Debug)]
#[repr(align(64))]
struct Part<T>(T);

impl<T> Default for Sharded<T> {
    fn default() -> Self {
        Sharded {
            parts: std::array::from_fn(|_| OnceLock::new()),
        }
    }
}

impl<T: Default> Sharded<T> {
    /// The part of this thread. Others may use it too, if there are many threads.
    pub fn here(&self) -> &T {
        self.here_or(T::default)
    }
}

impl<T> Sharded<T> {
    /// The same, made by `make` where there is none.
    pub fn here_or(&self, make: impl FnOnce() -> T) -> &T {
        &self.parts[number()]
            .get_or_init(|| Box::new(Part(make())))
            .0
    }

    /// All parts that there are.
    pub fn parts(&self) -> impl Iterator<Item = &T> {
        let made = self.parts.iter().filter_map(OnceLock::get);
        made.map(|part| &part.0)
    }
}

/// Which part this thread uses.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % PARTS;
    }
    MINE.with(|mine| *mine)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn each_thread_has_a_part_and_all_are_seen() {
        let counted = Sharded::<AtomicU64>::default();
        assert_eq!(counted.parts().count(), 0);
        let count = || counted.here().fetch_add(1, Ordering::Relaxed);
        count();
        count();
        std::thread::scope(|scope| {
            scope.spawn(count);
        });
        let mut parts: Vec<u64> = counted
            .parts()
            .map(|part| part.load(Ordering::Relaxed))
            .collect();
        parts.sort_unstable();
        assert_eq!(parts, [1, 2]);
    }

    #[test]
    fn threads_beyond_the_parts_share_them() {
        let counted = Sharded::<AtomicU64>::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * PARTS {
                scope.spawn(|| counted.here().fetch_add(1, Ordering::Relaxed));
            }
        });
        assert!(counted.parts().count() <= PARTS);
        let sum: u64 = counted
            .parts()
            .map(|part| part.load(Ordering::Relaxed))
            .sum();
        assert_eq!(sum, 2 * PARTS as u64);
    }
}
