//! How long a newcomer would wait in the queue, and whether that is likely to be
//! in time.

use std::time::Duration;

use crate::estimate::ExpectedWait;
use crate::pool::FunctionKey;
use crate::time::Time;

use super::lanes::number;
use super::{Kind, Queue};

/// The part of its time for which a lane has had calls waiting before its load
/// is taken to last, and the part of its time that others may then go before a
/// newcomer. Half of what makes a lane late, so that one whose load lasts stays
/// in order even where it is served at half the rate that was expected.
const LASTING: u32 = 4;

impl<T> Queue<T> {
    /// Calls of its own function that are served before a newcomer of a class.
    pub fn ahead_of_function(&self, function: FunctionKey, class: usize) -> u64 {
        self.ahead(class, |other| self.length(function, other))
    }

    /// Calls of all functions that contend with a newcomer of a class and are
    /// served before it, as many as if they were all like it: functions get
    /// equal shares, so that it waits for no more of another function's than
    /// there are of its own.
    pub fn ahead_of_class(&self, function: FunctionKey, class: usize) -> u64 {
        let equal = self
            .length(function, class)
            .saturating_add(1)
            .saturating_mul(self.classes[class].contending_lanes.max(1));
        self.ahead(class, |other| match other == class {
            true => self.classes[other].contending_calls.min(equal - 1),
            false => self.classes[other].contending_calls,
        })
    }

    /// Calls of a function in one class.
    fn length(&self, function: FunctionKey, class: usize) -> usize {
        let lanes = self.classes[class].lanes_of(function);
        lanes.map(|(_, lane)| lane.length).sum()
    }

    /// All calls of its own class, and of each other class as many as are
    /// served meanwhile.
    fn ahead(&self, class: usize, waiting: impl Fn(usize) -> usize) -> u64 {
        let count = |of: usize| u64::try_from(waiting(of)).unwrap_or(u64::MAX);
        let own = count(class);
        let turns = own
            .saturating_add(1)
            .saturating_mul(self.classes[class].stride);
        let others = (0..self.classes.len()).filter(|other| *other != class);
        let others = others.map(|other| count(other).min(turns / self.classes[other].stride));
        own.saturating_add(others.sum())
    }

    /// Whether a newcomer that may wait for `time` is likely to be served in
    /// it; whatever nothing is known of is.
    ///
    /// While load lasts, a lane takes in no more than it serves. One more would
    /// wait until it is late, and then find itself behind the newest.
    pub fn fits(
        &self,
        function: FunctionKey,
        class: usize,
        time: Duration,
        expected: ExpectedWait,
        now: Time,
    ) -> bool {
        let lanes = &self.classes[class].lanes;
        let lane = lanes.get(number(function, Kind::Awaited));
        let lane = lane.and_then(|lane| Some((lane, lane.head?, lane.tail?)));
        let Some((lane, head, tail)) = lane.filter(|_| !expected.turn.is_zero()) else {
            return expected.whole() <= time;
        };
        if self.entry(head).is_late(now) {
            // It would be the next one, and bury the newcomer before it.
            return self.entry(tail).is_late(now) && expected.turn <= time;
        }
        let lasting = part(time, LASTING);
        let lasts = now.since(lane.since) >= lasting;
        expected.whole() <= time && !(lasts && expected.others > lasting)
    }
}

/// One of so many equal parts of a time.
fn part(time: Duration, parts: u32) -> Duration {
    time.checked_div(parts).unwrap_or(time)
}
