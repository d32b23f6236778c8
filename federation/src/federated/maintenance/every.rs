//! Duties that come again and again.

use std::time::Duration;

use weir_node::time::Time;

/// When a duty is to be done next.
#[derive(Debug)]
pub(super) struct Every {
    interval: Duration,
    next: Time,
}

impl Every {
    /// Every `interval`, for the first time at `first`.
    pub(super) fn new(interval: Duration, first: Time) -> Every {
        Every {
            interval,
            next: first,
        }
    }

    /// Whether it is to be done at `now`; then it is taken as done.
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        let due = self.next <= now;
        if due {
            self.next = now + self.interval;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duty_that_was_late_is_done_once() {
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let mut every = Every::new(Duration::from_secs(2), at(1));
        let done = (0..10).filter(|seconds| every.is_due(at(*seconds)));
        assert_eq!(done.collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
        assert!(every.is_due(at(60)));
        assert!(!every.is_due(at(61)));
    }
}
