//! What a node gives to calls of other nodes' users.
//!
//! Own users first: no guest starts while an own call lacks what it would
//! take. Short guests may have all that own calls have not needed at once
//! lately, since what they take is soon free again; those that run long stay
//! within a share of the node.

use std::time::Duration;

use weir_node_core::time::Time;

/// What own calls needed at once counts for so many parts of so long; the oldest
/// part is dropped as a whole.
const PARTS: usize = 10;
const PART: Duration = Duration::from_secs(1);

/// The most of a number in the last ten seconds, as often as it was noted.
#[derive(Debug, Default)]
pub struct Peak {
    parts: [u32; PARTS],
    part: u64,
}

impl Peak {
    /// Takes note of the number, and returns the most of it lately.
    pub fn note(&mut self, number: u32, now: Time) -> u32 {
        let part = now.since(Time::ZERO).as_secs() / PART.as_secs();
        let passed = part.saturating_sub(self.part).min(PARTS as u64);
        for ahead in 1..=passed {
            self.parts[((self.part + ahead) % PARTS as u64) as usize] = 0;
        }
        self.part = self.part.max(part);
        let at = (self.part % PARTS as u64) as usize;
        self.parts[at] = self.parts[at].max(number);
        self.parts.iter().copied().max().unwrap_or(0)
    }
}

/// A node's processors, in thousandths of a core.
#[derive(Debug, Clone, Copy, Default)]
pub struct Processors {
    /// All of them.
    pub total: u32,
    /// Those that no call holds.
    pub free: u32,
    /// Most that own calls held at once lately.
    pub own_peak: u32,
    /// Those that guests hold.
    pub guests: u32,
    /// Those that guests hold which run long.
    pub guests_long: u32,
    /// Those that are promised to others.
    pub promised: u32,
}

/// Processors for one more guest that runs shortly, and for one that runs long,
/// where long ones may have `share` of the node (in `0.0..=1.0`).
pub fn room(processors: Processors, share: f64) -> [u32; 2] {
    let Processors {
        total,
        free,
        own_peak,
        guests,
        guests_long,
        promised,
    } = processors;
    let left = total.saturating_sub(own_peak).saturating_sub(guests);
    let short = left.min(free).saturating_sub(promised);
    // A share of a few cores is not rounded to none.
    let share = (f64::from(total) * share / 1_000.0).ceil() * 1_000.0;
    let long = (share as u32).saturating_sub(guests_long);
    [short, short.min(long)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_peak_is_of_the_last_ten_seconds() {
        let mut peak = Peak::default();
        assert_eq!(peak.note(3, at(1)), 3);
        assert_eq!(peak.note(1, at(9)), 3);
        assert_eq!(peak.note(0, at(11)), 1);
        assert_eq!(peak.note(0, at(100)), 0);
        assert_eq!(
            peak.note(2, at(50)),
            2,
            "a clock that goes back harms nothing"
        );
    }

    #[test]
    fn short_guests_may_have_all_but_what_own_calls_needed() {
        let eight = Processors {
            total: 8_000,
            free: 7_000,
            own_peak: 1_000,
            ..Processors::default()
        };
        assert_eq!(room(eight, 0.25), [7_000, 2_000]);
        let some = Processors {
            free: 4_000,
            guests: 3_000,
            guests_long: 1_000,
            promised: 500,
            ..eight
        };
        assert_eq!(room(some, 0.25), [3_500, 1_000]);
    }

    #[test]
    fn a_share_of_one_core_is_that_core() {
        let one = Processors {
            total: 1_000,
            free: 1_000,
            ..Processors::default()
        };
        assert_eq!(room(one, 0.1), [1_000, 1_000]);
        assert_eq!(room(one, 0.0), [1_000, 0]);
    }
}
