//! Which of several functions that are alike a call is for.

use std::ops::Range;

use super::chance::Stream;

/// Draws one of some functions, the first ones more often.
#[derive(Debug, Clone)]
pub struct Picks {
    first: u32,
    /// For each, the part of calls that go to it or to one before it; empty where
    /// there is but one.
    parts: Vec<f64>,
    chance: Option<Stream>,
}

impl Picks {
    /// Of these functions, the k-th in proportion to 1 / k^`exponent`: G. K. Zipf,
    /// "Human Behavior and the Principle of Least Effort", 1949. `name` is that of
    /// the workload, of which each has chance of its own.
    pub fn new(functions: &Range<u32>, exponent: f64, seed: u64, name: &str) -> Picks {
        let count = functions.len();
        let first = functions.start;
        if count <= 1 {
            let (parts, chance) = (Vec::new(), None);
            return Picks {
                first,
                parts,
                chance,
            };
        }
        let mut sum = 0.0;
        let weights = (1..=count).map(|place| libm::pow(place as f64, -exponent));
        let mut parts: Vec<f64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        for part in &mut parts {
            *part /= sum;
        }
        let chance = Some(Stream::new(seed, &format!("{name}/functions")));
        Picks {
            first,
            parts,
            chance,
        }
    }

    /// The function of the next call.
    pub fn draw(&mut self) -> u32 {
        let Some(chance) = &mut self.chance else {
            return self.first;
        };
        let unit = chance.unit();
        let place = self.parts.partition_point(|part| *part <= unit);
        let last = self.parts.len().saturating_sub(1);
        self.first + u32::try_from(place.min(last)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_called_in_proportion_to_their_ranks() {
        let mut picks = Picks::new(&(10..14), 1.0, 1, "w");
        let mut counts = [0_u32; 4];
        let calls = 25_000;
        for _ in 0..calls {
            counts[(picks.draw() - 10) as usize] += 1;
        }
        // 1, 1/2, 1/3 and 1/4 of 25/12 together.
        for (place, count) in counts.iter().enumerate() {
            let expected = f64::from(calls) * 12.0 / 25.0 / (place as f64 + 1.0);
            let distance = (f64::from(*count) - expected).abs();
            assert!(distance < 5.0 * expected.sqrt(), "{counts:?}");
        }
        let mut even = Picks::new(&(0..100), 0.0, 1, "w");
        assert!((0..1_000).all(|_| even.draw() < 100));
        let mut one = Picks::new(&(7..8), 2.0, 1, "w");
        assert!((0..10).all(|_| one.draw() == 7));
    }
}
