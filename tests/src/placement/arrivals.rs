//! When calls arrive, where nobody waits for an answer before the next.

use std::fmt;
use std::time::Duration;

/// How far apart arrivals are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// All alike.
    Even,
    /// As chance has it: a Poisson process, whose gaps are exponential.
    Poisson,
}

impl fmt::Display for Spacing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Spacing::Even => "even",
            Spacing::Poisson => "Poisson",
        })
    }
}

/// Arrivals at `rate` a second within `time`, in order, counted from its
/// beginning. The same seed gives the same ones.
pub fn arrivals(spacing: Spacing, rate: f64, time: Duration, seed: u64) -> Vec<Duration> {
    let mut chance = Chance(seed);
    let gaps = std::iter::repeat_with(|| match spacing {
        Spacing::Even => 1.0 / rate,
        // One less than what may be nought, which has no logarithm.
        Spacing::Poisson => -(1.0 - chance.next()).ln() / rate,
    });
    let sums = gaps.scan(0.0, |at, gap| {
        *at += gap;
        Some(*at)
    });
    let within = sums.take_while(|at| *at < time.as_secs_f64());
    within.map(Duration::from_secs_f64).collect()
}

/// Numbers in `0.0..1.0` from a seed. SplitMix64: G. Steele, D. Lea, C. Flood,
/// "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(1_000);

    fn gaps(arrivals: &[Duration]) -> Vec<f64> {
        let pairs = arrivals.windows(2);
        pairs
            .map(|pair| (pair[1] - pair[0]).as_secs_f64())
            .collect()
    }

    #[test]
    fn even_arrivals_are_as_far_apart_as_the_rate_says() {
        let even = arrivals(Spacing::Even, 50.0, Duration::from_secs(2), 1);
        assert_eq!(even.len(), 99);
        for gap in gaps(&even) {
            assert!((gap - 0.02).abs() < 1e-6, "{gap}");
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_exponential_gaps() {
        let drawn = arrivals(Spacing::Poisson, 50.0, LONG, 7);
        let count = drawn.len() as f64;
        // Four standard deviations.
        assert!(
            (count - 50_000.0).abs() < 4.0 * 50_000_f64.sqrt(),
            "{count}"
        );
        let gaps = gaps(&drawn);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2));
        let deviation = (variance.sum::<f64>() / gaps.len() as f64).sqrt();
        // Of an exponential distribution both are the same.
        assert!((deviation / mean - 1.0).abs() < 0.03, "{deviation} {mean}");
        let long = gaps.iter().filter(|gap| **gap > mean).count() as f64;
        let share = long / gaps.len() as f64;
        assert!((share - (-1_f64).exp()).abs() < 0.01, "{share}");
    }

    #[test]
    fn arrivals_repeat_with_their_seed_and_differ_without_it() {
        let drawn = |seed| arrivals(Spacing::Poisson, 99.0, LONG / 100, seed);
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
        assert!(drawn(3).is_sorted());
    }
}
