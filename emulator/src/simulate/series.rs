//! What happened when.

use serde::Serialize;
use weir_node_core::time::Time;

/// Parts into which the time of a scenario is divided.
const PARTS: u64 = 100;

/// Counts by part of the scenario's duration, from its beginning on, the warm-up
/// among it. What happens after the last call came is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Series {
    /// Length of a part, in nanoseconds.
    pub nanos: u64,
    /// Calls that came in it.
    pub came: Vec<u64>,
    /// Calls that were answered in it.
    pub answered: Vec<u64>,
    /// Calls that ended otherwise in it.
    pub unanswered: Vec<u64>,
    /// How long the answered calls that came in it waited to run, together, in
    /// nanoseconds.
    pub waited: Vec<u64>,
}

impl Series {
    pub(super) fn new(duration: std::time::Duration) -> Series {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let none = vec![0; PARTS as usize];
        Series {
            nanos: (nanos / PARTS).max(1),
            came: none.clone(),
            answered: none.clone(),
            unanswered: none.clone(),
            waited: none,
        }
    }

    /// A call that came at one moment has ended at another; an answered one has
    /// waited that many nanoseconds.
    pub(super) fn note(&mut self, came: Time, ended: Time, waited: Option<u64>) {
        let part = |at: Time| (at.as_nanos() / self.nanos) as usize;
        let (first, last) = (part(came), part(ended));
        if let Some(came) = self.came.get_mut(first) {
            *came += 1;
        }
        if let (Some(sum), Some(nanos)) = (self.waited.get_mut(first), waited) {
            *sum = sum.saturating_add(nanos);
        }
        let ended = match waited {
            Some(_) => &mut self.answered,
            None => &mut self.unanswered,
        };
        if let Some(ended) = ended.get_mut(last) {
            *ended += 1;
        }
    }

    /// Seconds of a part.
    pub fn seconds(&self) -> f64 {
        self.nanos as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn calls_count_when_they_came_and_when_they_ended() {
        let mut series = Series::new(Duration::from_secs(100));
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        series.note(at(1), at(2), Some(5));
        series.note(at(1), at(1), None);
        series.note(at(99), at(101), Some(7));
        assert_eq!([series.came[1], series.came[99]], [2, 1]);
        assert_eq!([series.answered[2], series.unanswered[1]], [1, 1]);
        assert_eq!(series.answered.iter().sum::<u64>(), 1);
        assert_eq!([series.waited[1], series.waited[99]], [5, 7]);
        assert_eq!(series.seconds(), 1.0);
    }
}
