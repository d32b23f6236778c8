//! What would become of a call, and how long it would wait.

use crate::estimate::ExpectedWait;
use crate::queue::Kind;
use crate::time::Time;
use crate::words::Refusal;

use super::{Admission, Arrival, FunctionKey, Pace};

/// What would become of a call that arrived now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// It would run on a ready instance.
    Warm,
    /// It would wait for a start, and for nothing else.
    Start,
    /// It would wait for a place.
    Wait {
        /// So long, as far as anybody knows.
        expected: ExpectedWait,
    },
    /// It would be refused.
    Refuse(Refusal),
}

impl<T> Admission<T> {
    /// What would become of such a call; `None` when the function was removed.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn prospect(&self, arrival: &Arrival, now: Time) -> Option<Prospect> {
        let function = arrival.function;
        let gauges = self.pool.gauges(function)?;
        if let Some(refusal) = self.closed() {
            return Some(Prospect::Refuse(refusal));
        }
        if !self.overtakes(gauges) && self.pool.has_place(function) && self.pool.has_room(function)
        {
            return Some(Prospect::Warm);
        }
        if self.starts_at_once(function, gauges.waiting) {
            return Some(Prospect::Start);
        }
        Some(match self.refusal(arrival, now) {
            Some(refusal) => Prospect::Refuse(refusal),
            None => Prospect::Wait {
                expected: self.expected_wait(function, arrival.class, arrival.pace),
            },
        })
    }

    /// Why a call is not let into the queue.
    pub(super) fn refusal(&self, arrival: &Arrival, now: Time) -> Option<Refusal> {
        let &Arrival {
            function, class, ..
        } = arrival;
        match arrival.kind {
            Kind::Accepted => None,
            Kind::Awaited if self.queue.is_full(class) => Some(Refusal::QueueFull),
            Kind::Awaited => {
                let time = arrival.leave.since(now);
                let expected = self.expected_wait(function, class, arrival.pace);
                let fits = self.queue.fits(function, class, time, expected, now);
                (!fits).then_some(Refusal::Overloaded)
            }
        }
    }

    /// How long a newcomer would wait for a place.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn expected_wait(&self, function: FunctionKey, class: usize, pace: Pace) -> ExpectedWait {
        let own = self
            .pool
            .gauges(function)
            .map_or(0, |gauges| gauges.running);
        let (ahead, here) = match self.pool.has_place(function) || own == 0 {
            // Its calls take what any call gives back.
            true => {
                let all = u32::try_from(self.pool.running()).unwrap_or(u32::MAX);
                (self.queue.ahead_of_class(function, class), all)
            }
            // Its own instances serve it.
            false => (self.queue.ahead_of_function(function, class), own),
        };
        ExpectedWait::new(pace.service, ahead, here.saturating_add(pace.elsewhere))
    }

    /// Whether a newcomer waits for a start rather than for room. Such calls
    /// are taken beyond the length of their queue, or a class without one
    /// could never make a cold call.
    pub(super) fn is_start_at_hand(&self, key: FunctionKey, waiting: u32) -> bool {
        self.pool.covers(key, waiting + 1)
            || (!self.queue.has_contenders()
                && !self.pool.has_place(key)
                && self.pool.may_start(key)
                && self.pool.has_room_to_start(key))
    }

    /// Whether a newcomer waits for a start, and then for nothing else: what it
    /// and those before it hold is free.
    pub(super) fn starts_at_once(&self, key: FunctionKey, waiting: u32) -> bool {
        self.is_start_at_hand(key, waiting)
            && self.pool.has_room_for(key, waiting.saturating_add(1))
    }
}
