//! The one place of this crate's shell that reads clocks and draws chance.

use std::time::{Duration, Instant};

use crate::id::CallId;
use crate::time::Time;

/// A monotonic clock that counts from its making.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts counting now.
    pub fn start() -> Self {
        Clock {
            started: Instant::now(),
        }
    }

    /// The moment now.
    pub fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    /// When `time` is, for timers of the runtime; `None` for [`Time::NEVER`]
    /// and whatever else lies beyond the clock's range.
    pub fn instant(&self, time: Time) -> Option<Instant> {
        self.started.checked_add(time.since(Time::ZERO))
    }
}

/// What is later than any moment that a program lives to see, and that clocks
/// and timers can still hold.
const FAR: Duration = Duration::from_secs(30 * 366 * 24 * 3_600);

/// Moments of clocks: adding to them panics where they end.
pub trait Moment: Copy {
    /// The moment so long after this one; where clocks do not go so far, one
    /// that never comes.
    #[must_use]
    fn later(self, by: Duration) -> Self;
}

impl Moment for Instant {
    fn later(self, by: Duration) -> Instant {
        let far = || self.checked_add(FAR).unwrap_or(self);
        self.checked_add(by).unwrap_or_else(far)
    }
}

impl Moment for tokio::time::Instant {
    fn later(self, by: Duration) -> tokio::time::Instant {
        self.into_std().later(by).into()
    }
}

/// The date and time now, for people; it may jump.
pub fn timestamp() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A new id for a call, from the operating system's randomness (seeded per
/// thread), so that no caller can guess another's.
pub fn call_id() -> CallId {
    CallId::new(rand::random())
}

/// A number from 0 to 1, drawn anew.
pub fn chance() -> f64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_is_too_long_for_a_moment() {
        let now = Instant::now();
        assert_eq!(
            now.later(Duration::from_secs(9)) - now,
            Duration::from_secs(9)
        );
        for long in [Duration::MAX, Duration::from_secs(u64::MAX)] {
            assert_eq!(now.later(long) - now, FAR);
            assert!(tokio::time::Instant::from_std(now).later(long).into_std() > now);
        }
    }
}
