//! The one place of this crate's shell that reads clocks and draws chance.

use std::time::Instant;

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
