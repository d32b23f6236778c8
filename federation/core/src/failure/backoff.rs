//! The pauses between two attempts at the same thing.

use std::time::Duration;

use weir_node_core::time::Time;

/// The pause after the first attempt.
pub const PAUSE_FIRST: Duration = Duration::from_millis(500);

/// The longest pause; it is reached after six attempts.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Attempts after which the pause does not grow any more, whatever it is then.
const DOUBLINGS_MAX: u32 = 10;

/// Attempts that came to nothing so far, and when the next one may come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    next: Time,
}

impl Backoff {
    /// When the next attempt may come.
    pub fn next(&self) -> Time {
        self.next
    }

    /// Whether it may come at `now`.
    pub fn is_due(&self, now: Time) -> bool {
        self.next <= now
    }

    /// Takes note of an attempt: the next one waits, twice as long each time, by
    /// between half and one and a half of the pause, as `chance` in `0.0..1.0`
    /// says.
    pub fn tried(&mut self, now: Time, chance: f64) {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.failures.min(DOUBLINGS_MAX));
        let pause = pause.min(PAUSE_MAX).mul_f64(0.5 + chance.clamp(0.0, 1.0));
        self.failures = self.failures.saturating_add(1);
        self.next = now + pause;
    }

    /// It came to something: the next pause is the first again.
    pub fn succeeded(&mut self) {
        *self = Backoff::default();
    }
}
