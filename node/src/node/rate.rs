//! How often a function may be called in a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::time::Time;

/// Calls may come in bursts as large as what this time allows.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts calls against a rate, as one number: the generic cell rate algorithm
/// (ITU-T I.371, annex A), which needs neither a lock nor a timer.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// When the calls taken so far would have come, had they come evenly.
    even: AtomicU64,
}

impl Rate {
    /// When calls are even again with one more; `None` when that is too far
    /// ahead of `now`.
    fn with_one(even: u64, now: Time, per_second: u32) -> Option<u64> {
        let pause = Duration::from_nanos(1_000_000_000 / u64::from(per_second.max(1)));
        let next = Time::from_nanos(even.max(now.as_nanos())) + pause;
        (per_second > 0 && next.since(now) <= WINDOW).then_some(next.as_nanos())
    }

    /// Whether one more call would be within `per_second`.
    pub(super) fn has_room(&self, now: Time, per_second: u32) -> bool {
        Self::with_one(self.even.load(Ordering::Relaxed), now, per_second).is_some()
    }

    /// Takes one more call, if it is within `per_second`.
    pub(super) fn take(&self, now: Time, per_second: u32) -> bool {
        let one_more = |even| Self::with_one(even, now, per_second);
        let taken = self
            .even
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_holds_as_many_as_it_may() {
        let rate = Rate::default();
        let at = |milliseconds| Time::ZERO + Duration::from_millis(milliseconds);
        let taken = |at| (0..10).filter(|_| rate.take(at, 4)).count();
        assert_eq!(taken(at(0)), 4);
        assert!(!rate.has_room(at(249), 4));
        assert_eq!(taken(at(250)), 1);
        assert_eq!(taken(at(5_000)), 4);
        assert_eq!(taken(at(5_499)), 1);
        assert!(!Rate::default().take(at(1), 0));
    }

    proptest! {
        #[test]
        fn no_window_of_a_second_holds_twice_its_rate(
            gaps in prop::collection::vec(0..400_u64, 1..200),
            per_second in 1..50_u32,
        ) {
            let rate = Rate::default();
            let mut now = 0;
            let mut taken = Vec::new();
            for gap in gaps {
                now += gap;
                let at = Time::ZERO + Duration::from_millis(now);
                let has_room = rate.has_room(at, per_second);
                prop_assert_eq!(rate.take(at, per_second), has_room);
                if has_room {
                    taken.push(now);
                }
            }
            for &since in &taken {
                let within = taken.iter().filter(|&&at| (since..since + 1_000).contains(&at));
                prop_assert!(within.count() as u32 <= 2 * per_second);
            }
        }
    }
}
