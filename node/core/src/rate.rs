//! How often a function may be called in a second.

use std::time::Duration;

use crate::time::Time;

/// Calls may come in bursts as large as what this time allows.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts calls against a rate, as one number: the generic cell rate algorithm
/// (ITU-T I.371, annex A), which needs no timer.
#[derive(Debug, Default)]
pub struct Rate {
    /// When the calls taken so far would have come, had they come evenly.
    even: Time,
}

/// A call that was counted: when calls were even again with it.
#[derive(Debug, Clone, Copy)]
pub struct Counted(Time);

impl Rate {
    /// When calls are even again with one more.
    fn with_one(&self, now: Time, per_second: u32) -> Time {
        self.even.max(now) + pause(per_second)
    }

    /// The same; `None` when that is too far ahead of `now`.
    fn within(&self, now: Time, per_second: u32) -> Option<Time> {
        let next = self.with_one(now, per_second);
        (per_second > 0 && next.since(now) <= WINDOW).then_some(next)
    }

    /// Whether one more call would be within `per_second`.
    pub fn has_room(&self, now: Time, per_second: u32) -> bool {
        self.within(now, per_second).is_some()
    }

    /// Whether nothing is counted any more.
    pub fn is_even(&self, now: Time) -> bool {
        self.even <= now
    }

    /// How long until one more call is.
    pub fn wait(&self, now: Time, per_second: u32) -> Duration {
        let next = self.with_one(now, per_second);
        next.since(now).saturating_sub(WINDOW)
    }

    /// Counts one more call, if it is within `per_second`.
    pub fn take(&mut self, now: Time, per_second: u32) -> Option<Counted> {
        self.even = self.within(now, per_second)?;
        Some(Counted(self.even))
    }

    /// Counts a call that was within the rate when it came first.
    pub fn take_again(&mut self, now: Time, per_second: u32) -> Counted {
        self.even = self.with_one(now, per_second);
        Counted(self.even)
    }

    /// Gives a call back that did not run after all. What of its room has
    /// passed meanwhile is gone, or those that waited for long would let others
    /// come in larger bursts.
    pub fn give_back(&mut self, counted: Counted, now: Time, per_second: u32) {
        let left = counted.0.since(now).min(pause(per_second));
        self.even = self.even - left;
    }
}

/// How far calls are apart that come evenly.
fn pause(per_second: u32) -> Duration {
    Duration::from_nanos(1_000_000_000 / u64::from(per_second.max(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_second_holds_as_many_as_it_may() {
        let mut rate = Rate::default();
        let mut taken = |at| (0..10).filter_map(|_| rate.take(at, 4)).count();
        assert_eq!(taken(at(0)), 4);
        assert_eq!(taken(at(249)), 0);
        assert_eq!(taken(at(250)), 1);
        assert_eq!(taken(at(5_000)), 4);
        assert_eq!(taken(at(5_499)), 1);
        assert!(Rate::default().take(at(1), 0).is_none());
    }

    #[test]
    fn a_call_that_is_given_back_leaves_its_room() {
        let mut rate = Rate::default();
        let taken: Vec<_> = (0..5).filter_map(|_| rate.take(at(0), 4)).collect();
        assert_eq!(taken.len(), 4);
        assert_eq!(rate.wait(at(100), 4), Duration::from_millis(150));
        rate.give_back(taken[3], at(0), 4);
        assert_eq!(rate.wait(at(0), 4), Duration::ZERO);
        assert!(rate.take(at(0), 4).is_some());
        assert!(rate.take(at(0), 4).is_none());
        // It was within the rate once.
        rate.take_again(at(0), 4);
        assert_eq!(rate.wait(at(0), 4), Duration::from_millis(500));
    }

    #[test]
    fn room_that_passed_is_not_given_back() {
        let mut rate = Rate::default();
        let waited = rate.take(at(0), 4).expect("within the rate");
        assert_eq!((0..9).filter_map(|_| rate.take(at(5_000), 4)).count(), 4);
        rate.give_back(waited, at(5_000), 4);
        assert!(!rate.has_room(at(5_000), 4));
    }

    proptest! {
        #[test]
        fn no_window_of_a_second_holds_twice_its_rate(
            // How much later each comes, and which of those before is given back.
            calls in prop::collection::vec((0..400_u64, any::<prop::sample::Index>(), any::<bool>()), 1..200),
            per_second in 1..50_u32,
        ) {
            let mut rate = Rate::default();
            let mut now = 0;
            let mut taken = Vec::new();
            for (gap, which, gives_back) in calls {
                now += gap;
                if gives_back && !taken.is_empty() {
                    let (_, counted) = taken.swap_remove(which.index(taken.len()));
                    rate.give_back(counted, at(now), per_second);
                }
                let has_room = rate.has_room(at(now), per_second);
                prop_assert_eq!(rate.wait(at(now), per_second).is_zero(), has_room);
                let counted = rate.take(at(now), per_second);
                prop_assert_eq!(counted.is_some(), has_room);
                taken.extend(counted.map(|counted| (now, counted)));
            }
            for &(since, _) in &taken {
                let within = taken.iter().filter(|(at, _)| (since..since + 1_000).contains(at));
                prop_assert!(within.count() as u32 <= 2 * per_second);
            }
        }
    }
}
