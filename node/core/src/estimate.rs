//! How long calls take, how long one may wait, and when to come again: what
//! admission decides with, as numbers.
//!
//! A function's calls are learned as a moving mean and as the last
//! [`SAMPLES`] of them in order, from which median and 95th percentile are
//! read. A call may wait as long as its class waits at most, and no longer than
//! what its deadline leaves beside the time that it will most likely run.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::time::nanos;

/// Samples that percentiles are read from: enough that three of them lie
/// beyond the 95th, few enough that a function which changes is known anew
/// after a few seconds of load, and half a kibibyte each.
pub const SAMPLES: usize = 64;

/// Fewer samples than this say nothing of a 95th percentile.
pub const SAMPLES_MIN: u32 = 20;

/// How much one sample counts in the mean: an eighth, as round trips do for
/// TCP (RFC 6298, section 2).
const SHARE: i64 = 8;

/// The longest wait in a class that names none, unless twice the mean of the
/// function is more.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// When to come again where nothing is known of how long that takes.
pub const RETRY_AFTER_UNKNOWN: Duration = Duration::from_secs(1);

/// By how much of itself that is varied, so that those who were refused
/// together do not come back together.
const RETRY_AFTER_SPREAD: f64 = 0.2;

/// How long something takes, as far as it is known.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// A moving mean; zero before the first sample.
    pub mean: Duration,
    /// Half of the last samples were at most this long.
    pub median: Duration,
    /// All but a twentieth of the last samples were at most this long.
    pub p95: Duration,
    /// Samples that were learned, at most [`SAMPLES`].
    pub samples: u32,
}

impl Estimate {
    /// What of `left` is to be kept for running: the 95th percentile, or the
    /// median where that percentile alone is more than what is left; twice the
    /// mean while there are few samples, nothing while there are none.
    pub fn kept_for_running(&self, left: Duration) -> Duration {
        match self.samples {
            0 => Duration::ZERO,
            1..SAMPLES_MIN => self.mean.saturating_mul(2),
            SAMPLES_MIN.. if self.p95 > left => self.median,
            SAMPLES_MIN.. => self.p95,
        }
    }
}

/// The longest that a call waits in a class: what its operator said, else five
/// seconds or twice the mean, whichever is more.
pub fn longest_wait(configured: Option<Duration>, service: &Estimate) -> Duration {
    configured.unwrap_or_else(|| LONGEST_WAIT.max(service.mean.saturating_mul(2)))
}

/// How long a call may wait for a place that has `left` of its deadline; `None`
/// for no deadline.
pub fn time_to_wait(longest: Duration, left: Option<Duration>, service: &Estimate) -> Duration {
    match left {
        Some(left) => longest.min(left.saturating_sub(service.kept_for_running(left))),
        None => longest,
    }
}

/// How long a newcomer is expected to wait.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedWait {
    /// For those before it.
    pub others: Duration,
    /// For its own turn after them; zero when nothing is known.
    pub turn: Duration,
}

impl ExpectedWait {
    /// What it is when `ahead` others go before, `places` serve them all, and
    /// each call takes as long as this one.
    pub fn new(service: Duration, ahead: u64, places: u32) -> Self {
        let places = places.max(1);
        let turns = |count: u64| match nanos(service).checked_mul(count) {
            Some(all) => Duration::from_nanos(all / u64::from(places)),
            None => {
                let all = service.as_nanos().saturating_mul(count.into());
                let each = u64::try_from(all / u128::from(places));
                Duration::from_nanos(each.unwrap_or(u64::MAX))
            }
        };
        ExpectedWait {
            others: turns(ahead),
            turn: turns(1),
        }
    }

    /// Both together.
    pub fn whole(self) -> Duration {
        self.others.saturating_add(self.turn)
    }
}

/// When a refused caller should come again: after the wait that was expected,
/// give or take a fifth. `chance` is from 0 to 1.
pub fn retry_after(expected: Duration, chance: f64) -> Duration {
    let expected = match expected.is_zero() {
        true => RETRY_AFTER_UNKNOWN,
        false => expected,
    };
    let factor = 1.0 + RETRY_AFTER_SPREAD * (2.0 * chance.clamp(0.0, 1.0) - 1.0);
    Duration::try_from_secs_f64(expected.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

/// A moving mean after one more sample; zero is none yet. In nanoseconds.
pub fn moving_mean(mean: u64, sample: u64) -> u64 {
    let signed = |nanos: u64| i64::try_from(nanos).unwrap_or(i64::MAX);
    let sample = signed(sample).max(1);
    let next = match signed(mean) {
        0 => sample,
        mean => mean + (sample - mean) / SHARE,
    };
    next.max(1).unsigned_abs()
}

/// What is known of a function, for whoever has no business in the scheduler,
/// which alone writes it: each number may be read at any moment, and two of
/// them may be of two calls that ended one after the other.
#[derive(Debug, Default)]
pub struct Known {
    mean: AtomicU64,
    median: AtomicU64,
    p95: AtomicU64,
    samples: AtomicU32,
    start: AtomicU64,
}

impl Known {
    /// How long its calls run.
    pub fn service(&self) -> Estimate {
        let time = |nanos: &AtomicU64| Duration::from_nanos(nanos.load(Ordering::Relaxed));
        Estimate {
            mean: time(&self.mean),
            median: time(&self.median),
            p95: time(&self.p95),
            samples: self.samples.load(Ordering::Relaxed),
        }
    }

    /// How long its starts take, as a moving mean; zero before the first.
    pub fn start(&self) -> Duration {
        Duration::from_nanos(self.start.load(Ordering::Relaxed))
    }

    pub(crate) fn set_service(&self, estimate: &Estimate) {
        let set = |part: &AtomicU64, time| part.store(nanos(time), Ordering::Relaxed);
        set(&self.mean, estimate.mean);
        set(&self.median, estimate.median);
        set(&self.p95, estimate.p95);
        self.samples.store(estimate.samples, Ordering::Relaxed);
    }

    pub(crate) fn learn_start(&self, sample: Duration) {
        let mean = self.start.load(Ordering::Relaxed);
        let next = moving_mean(mean, nanos(sample));
        self.start.store(next, Ordering::Relaxed);
    }
}

/// The last samples of something, in order of their length.
#[derive(Debug, Clone)]
pub struct Samples {
    mean: u64,
    length: usize,
    /// Where the oldest is, once all are taken.
    next: usize,
    /// In order of arrival, in microseconds.
    arrived: [u32; SAMPLES],
    /// The same in order of length.
    sorted: [u32; SAMPLES],
}

impl Default for Samples {
    fn default() -> Self {
        Samples {
            mean: 0,
            length: 0,
            next: 0,
            arrived: [0; SAMPLES],
            sorted: [0; SAMPLES],
        }
    }
}

impl Samples {
    /// Learns how long one took.
    pub fn learn(&mut self, sample: Duration) {
        self.mean = moving_mean(self.mean, nanos(sample));
        // An hour and more is as long as it gets.
        let micros = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX);
        // The oldest one's place is free, or one behind the last.
        let free = match self.length == SAMPLES {
            true => {
                let oldest = self.arrived[self.next];
                self.sorted.partition_point(|kept| *kept < oldest)
            }
            false => {
                self.length += 1;
                self.length - 1
            }
        };
        // All between the two places move by one.
        let (shorter, longer) = self.sorted[..self.length].split_at(free);
        let at = match shorter.last().is_some_and(|kept| *kept > micros) {
            true => {
                let at = shorter.partition_point(|kept| *kept < micros);
                self.sorted.copy_within(at..free, at + 1);
                at
            }
            false => {
                let fewer = longer[1..].partition_point(|kept| *kept < micros);
                let at = free + fewer;
                self.sorted.copy_within(free + 1..=at, free);
                at
            }
        };
        self.sorted[at] = micros;
        self.arrived[self.next] = micros;
        self.next = (self.next + 1) % SAMPLES;
    }

    /// Learns that one took longer than this, and nobody knows how long.
    pub fn learn_at_least(&mut self, sample: Duration) {
        self.learn(sample.max(Duration::from_nanos(self.mean)));
    }

    /// What is known.
    pub fn estimate(&self) -> Estimate {
        Estimate {
            mean: Duration::from_nanos(self.mean),
            median: self.percentile(50),
            p95: self.percentile(95),
            samples: u32::try_from(self.length).unwrap_or(u32::MAX),
        }
    }

    /// By nearest rank.
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.length * percent).div_ceil(100);
        let at = rank.saturating_sub(1);
        let found = self.sorted[..self.length].get(at);
        Duration::from_micros(found.copied().unwrap_or_default().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// An estimate from so many samples of `median`, a tenth of them `tail`.
    fn estimate(samples: u32, median: u64, tail: u64) -> Estimate {
        Estimate {
            mean: milliseconds(median),
            median: milliseconds(median),
            p95: milliseconds(tail),
            samples,
        }
    }

    #[test]
    fn nothing_is_known_before_the_first_sample() {
        assert_eq!(Samples::default().estimate(), Estimate::default());
    }

    #[test]
    fn percentiles_are_of_the_last_samples_only() {
        let mut samples = Samples::default();
        for count in 1..=1000 {
            samples.learn(milliseconds(count));
        }
        let known = samples.estimate();
        assert_eq!(known.samples, 64);
        assert_eq!(known.median, milliseconds(936 + 32));
        assert_eq!(known.p95, milliseconds(936 + 61));
    }

    proptest! {
        #[test]
        fn the_last_samples_are_kept_in_order_of_length(
            taken in prop::collection::vec(0..30_u32, 0..300),
        ) {
            let mut samples = Samples::default();
            for micros in &taken {
                samples.learn(Duration::from_micros((*micros).into()));
            }
            let mut last = taken[taken.len().saturating_sub(SAMPLES)..].to_vec();
            last.sort_unstable();
            prop_assert_eq!(&samples.sorted[..samples.length], &last[..]);
        }
    }

    #[test]
    fn what_ran_out_of_time_never_makes_a_function_look_faster() {
        let mut samples = Samples::default();
        samples.learn(milliseconds(100));
        samples.learn_at_least(milliseconds(50));
        assert_eq!(samples.estimate().mean, milliseconds(100));
        samples.learn_at_least(milliseconds(900));
        assert_eq!(samples.estimate().mean, milliseconds(200));
        assert_eq!(samples.estimate().p95, milliseconds(900));
    }

    #[test]
    fn time_to_wait_keeps_what_running_takes() {
        let check = |service: Estimate, left: Option<u64>, expected: u64| {
            let longest = longest_wait(None, &service);
            let time = time_to_wait(longest, left.map(milliseconds), &service);
            assert_eq!(time, milliseconds(expected), "{service:?} {left:?}");
        };
        // The class's longest wait, and the deadline less the percentile.
        check(estimate(64, 100, 150), None, 5_000);
        check(estimate(64, 100, 150), Some(60_000), 5_000);
        check(estimate(64, 100, 150), Some(2_000), 1_850);
        // The percentile alone is more than there is.
        check(estimate(64, 100, 3_000), Some(2_000), 1_900);
        check(estimate(64, 3_000, 4_000), Some(2_000), 0);
        // Few samples, and none.
        check(estimate(19, 100, 900), Some(2_000), 1_800);
        check(Estimate::default(), Some(2_000), 2_000);
        // Slow functions wait twice as long as they run.
        check(estimate(64, 60_000, 60_000), None, 120_000);
    }

    #[test]
    fn what_the_operator_said_counts() {
        let slow = estimate(64, 60_000, 60_000);
        let configured = Some(milliseconds(200));
        assert_eq!(longest_wait(configured, &slow), milliseconds(200));
    }

    #[test]
    fn expected_wait_is_the_turns_before_and_ones_own_over_the_places() {
        let check = |ahead, places, expected| {
            let wait = ExpectedWait::new(milliseconds(100), ahead, places);
            assert_eq!(wait.whole(), milliseconds(expected));
        };
        check(0, 1, 100);
        check(0, 0, 100);
        check(9, 1, 1_000);
        check(9, 10, 100);
        let endless = ExpectedWait::new(Duration::MAX, u64::MAX, 1);
        assert!(endless.whole() > Duration::from_secs(1 << 32));
    }

    #[test]
    fn refused_callers_come_back_when_there_may_be_room_and_not_all_at_once() {
        let check = |expected, chance, after| {
            let found = retry_after(milliseconds(expected), chance);
            assert_eq!(found, milliseconds(after));
        };
        check(10_000, 0.0, 8_000);
        check(10_000, 0.5, 10_000);
        check(10_000, 1.0, 12_000);
        check(0, 0.5, 1_000);
    }

    proptest! {
        #[test]
        fn samples_are_kept_in_order(learned in prop::collection::vec(0..5_000_000_u64, 1..300)) {
            let mut samples = Samples::default();
            for micros in &learned {
                samples.learn(Duration::from_micros(*micros));
            }
            let mut last: Vec<u64> = learned.iter().rev().take(SAMPLES).copied().collect();
            last.sort_unstable();
            let known = samples.estimate();
            prop_assert_eq!(known.samples as usize, last.len());
            let at = |percent: usize| last[(last.len() * percent).div_ceil(100) - 1];
            prop_assert_eq!(known.median, Duration::from_micros(at(50)));
            prop_assert_eq!(known.p95, Duration::from_micros(at(95)));
            let (least, most) = (learned.iter().min(), learned.iter().max());
            prop_assert!(known.mean >= Duration::from_micros(*least.expect("one")));
            prop_assert!(known.mean <= Duration::from_micros(*most.expect("one") + 1));
        }

        #[test]
        fn nobody_waits_longer_than_the_deadline_leaves(
            mean in 0..10_000_u64,
            median in 0..10_000_u64,
            tail in 0..10_000_u64,
            samples in 0..=64_u32,
            left in 0..10_000_u64,
        ) {
            let service = Estimate {
                mean: milliseconds(mean),
                median: milliseconds(median),
                p95: milliseconds(median + tail),
                samples,
            };
            let longest = longest_wait(None, &service);
            let time = time_to_wait(longest, Some(milliseconds(left)), &service);
            prop_assert!(time <= milliseconds(left) && time <= longest);
        }
    }
}
