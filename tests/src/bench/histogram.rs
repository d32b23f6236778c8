//! Latencies by the million in a few kilobytes.

use std::time::Duration;

/// Buckets per power of two: a quantile is at most 1.6 % from the truth, less
/// than repetitions differ.
const STEPS: u64 = 64;

/// Powers of two above the first [`STEPS`] nanoseconds, enough for any `u64`.
const POWERS: u64 = u64::BITS as u64 - STEPS.trailing_zeros() as u64;

/// Counts of latencies in logarithmic buckets with linear steps.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        let buckets = (POWERS + 1) * STEPS;
        Histogram {
            counts: vec![0; usize::try_from(buckets).expect("a few thousand fit")],
            total: 0,
        }
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// How many latencies were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The latency that this share did not exceed; zero when none was counted.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(middle(at));
            }
        }
        Duration::ZERO
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let power = nanoseconds
        .checked_ilog2()
        .unwrap_or(0)
        .saturating_sub(STEPS.ilog2());
    let step = nanoseconds >> power;
    // Steps of the first two powers are the values themselves; every later one
    // begins at STEPS, which its predecessor's last step has just passed.
    usize::try_from(u64::from(power) * STEPS + step).expect("a few thousand buckets")
}

fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let power = (bucket / STEPS).saturating_sub(1);
    let step = bucket - power * STEPS;
    (step << power) + ((1 << power) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_in_a_bucket_that_is_near_it() {
        let mut value = 1_u64;
        while value < u64::MAX / 3 {
            for near in [value - 1, value, value + 1] {
                let found = middle(bucket(near));
                assert!(
                    found.abs_diff(near) as f64 <= near as f64 / STEPS as f64,
                    "{near} is found as {found}"
                );
            }
            value += value / 3 * 2 + 1;
        }
        assert!(bucket(u64::MAX) < Histogram::default().counts.len());
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let (mut low, mut high) = (Histogram::default(), Histogram::default());
        (1..=50).for_each(|value| low.record(Duration::from_nanos(value)));
        (51..=100).for_each(|value| high.record(Duration::from_nanos(value)));
        low.merge(&high);
        assert_eq!(low.total(), 100);
        assert_eq!(low.quantile(0.5), Duration::from_nanos(50));
        assert_eq!(low.quantile(0.99), Duration::from_nanos(99));
    }

    #[test]
    fn nothing_has_no_latency() {
        assert_eq!(Histogram::default().quantile(0.99), Duration::ZERO);
    }
}
