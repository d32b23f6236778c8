//! How a node knows what calls make of its use: to be plugged into `node-margin`.

use super::super::Cell;

/// Kinds of functions by the processor time of a call: light, middling, heavy.
pub(super) const GROUPS: usize = 3;

/// Calls in a second of each group.
pub(super) type Rates = [f64; GROUPS];

/// Shares of a node in use, from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// Of its processors.
    pub(super) cpu: f64,
    /// Of its memory.
    pub(super) memory: f64,
}

/// What is measured of a node in a period.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Calls that ran, in a second.
    pub(super) rates: Rates,
    /// Seconds of a processor that a call of each group took.
    pub(super) work: Rates,
    /// Its processors.
    pub(super) cores: f64,
    /// What was in use.
    pub(super) usage: Usage,
}

/// Predicts the use of a node from the calls that it runs. Called by one thread at a
/// time, between decisions.
pub(super) trait Predictor: Send + Sync {
    /// Learns from what was measured.
    fn learn(&self, sample: &Sample);

    /// The use at these rates.
    fn usage(&self, rates: &Rates) -> Usage;
}

/// The use that follows from the time that calls were seen to take, and memory as it
/// was last.
#[derive(Default)]
pub(super) struct Measured {
    /// Share of the node's processors that a call a second of each group takes.
    each: [Cell; GROUPS],
    memory: Cell,
}

impl Predictor for Measured {
    fn learn(&self, sample: &Sample) {
        for (each, work) in self.each.iter().zip(sample.work) {
            each.set(work / sample.cores.max(1e-3));
        }
        self.memory.set(sample.usage.memory);
    }

    fn usage(&self, rates: &Rates) -> Usage {
        let each = self.each.iter().zip(rates);
        Usage {
            cpu: each
                .map(|(each, rate)| each.get().unwrap_or(0.0) * rate)
                .sum(),
            memory: self.memory.get().unwrap_or(0.0),
        }
    }
}

/// Numbers that a line through samples has: what is in use without calls, and for
/// each group.
const TERMS: usize = GROUPS + 1;

/// What a sample keeps of its weight when the next comes.
const KEPT: f64 = 0.98;

/// How sure it is of its first guess: less is surer.
const UNSURE: f64 = 0.01;

/// The most of that, so that a quiet time does not make it believe anything.
const UNSURE_MAX: f64 = 1e3;

/// Share of processors from which they count as used up.
const USED_UP: f64 = 0.999;

/// A line through what was measured: recursive least squares with exponential
/// forgetting, L. Ljung, "System Identification", section 11.2. It begins with
/// what [`Measured`] says of each group.
#[derive(Default)]
pub(super) struct Learned {
    cpu: Line,
    memory: Line,
    /// Groups of which calls ran.
    seen: [Cell; GROUPS],
}

#[derive(Default)]
struct Line {
    factors: [Cell; TERMS],
    /// How unsure it is of them, row by row.
    unsure: [[Cell; TERMS]; TERMS],
}

impl Line {
    fn factors(&self) -> [f64; TERMS] {
        std::array::from_fn(|at| self.factors[at].get().unwrap_or(0.0))
    }

    fn at(&self, terms: &[f64; TERMS]) -> f64 {
        let mut sum = 0.0;
        for (at, (factor, term)) in self.factors().into_iter().zip(terms).enumerate() {
            // A call takes something: noise that says otherwise is not believed.
            let factor = if at == 0 { factor } else { factor.max(0.0) };
            sum += factor * term;
        }
        sum.max(0.0)
    }

    fn begin(&self, guess: [f64; TERMS]) {
        for (row, cells) in self.unsure.iter().enumerate() {
            self.factors[row].set(guess[row]);
            for (column, cell) in cells.iter().enumerate() {
                cell.set(if row == column { UNSURE } else { 0.0 });
            }
        }
    }

    fn learn(&self, terms: &[f64; TERMS], measured: f64) {
        let unsure: [[f64; TERMS]; TERMS] = std::array::from_fn(|row| {
            std::array::from_fn(|column| self.unsure[row][column].get().unwrap_or(0.0))
        });
        let times = |row: &[f64; TERMS]| -> f64 {
            row.iter().zip(terms).map(|(cell, term)| cell * term).sum()
        };
        let along: [f64; TERMS] = std::array::from_fn(|row| times(&unsure[row]));
        let spread = KEPT + times(&along);
        let factors = self.factors();
        let wrong = measured - times(&factors);
        for (row, cells) in self.unsure.iter().enumerate() {
            self.factors[row].set(factors[row] + along[row] / spread * wrong);
            for (column, cell) in cells.iter().enumerate() {
                let less = along[row] * along[column] / spread;
                let next = (unsure[row][column] - less) / KEPT;
                cell.set(next.clamp(-UNSURE_MAX, UNSURE_MAX));
            }
        }
    }
}

impl Predictor for Learned {
    fn learn(&self, sample: &Sample) {
        let terms = terms_of(&sample.rates);
        if self.cpu.factors[0].get().is_none() {
            self.cpu.begin([0.0; TERMS]);
            self.memory.begin([sample.usage.memory, 0.0, 0.0, 0.0]);
        }
        let groups = self.cpu.factors[1..].iter().zip(sample.work);
        for ((factor, work), was_seen) in groups.zip(&self.seen) {
            // The first guess of a group is what its calls were seen to take.
            if work > 0.0 && was_seen.get().is_none() {
                factor.set(work / sample.cores.max(1e-3));
                was_seen.set(1.0);
            }
        }
        // What is used up does not grow beyond that, however many calls come.
        if sample.usage.cpu < USED_UP || self.cpu.at(&terms) < sample.usage.cpu {
            self.cpu.learn(&terms, sample.usage.cpu);
        }
        self.memory.learn(&terms, sample.usage.memory);
    }

    fn usage(&self, rates: &Rates) -> Usage {
        let terms = terms_of(rates);
        Usage {
            cpu: self.cpu.at(&terms),
            memory: self.memory.at(&terms),
        }
    }
}

fn terms_of(rates: &Rates) -> [f64; TERMS] {
    let [light, middling, heavy] = *rates;
    [1.0, light, middling, heavy]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Draws;

    fn sample(rates: Rates) -> Sample {
        let [light, middling, heavy] = rates;
        Sample {
            rates,
            work: [0.001, 0.02, 0.2],
            cores: 4.0,
            usage: Usage {
                cpu: 0.05 + 0.0005 * light + 0.01 * middling + 0.1 * heavy,
                memory: 0.3 + 0.05 * heavy,
            },
        }
    }

    #[test]
    fn a_line_is_learned_from_what_is_measured() {
        let learned = Learned::default();
        let mut draws = Draws::new(3);
        let mut next = |most: f64| draws.next().expect("it never ends") * most;
        for _ in 0..300 {
            learned.learn(&sample([next(100.0), next(10.0), next(3.0)]));
        }
        for rates in [[0.0; 3], [50.0, 5.0, 1.0], [10.0, 9.0, 2.5]] {
            let (found, right) = (learned.usage(&rates), sample(rates).usage);
            assert!((found.cpu - right.cpu).abs() < 0.01, "{found:?}, {right:?}");
            assert!(
                (found.memory - right.memory).abs() < 0.01,
                "{found:?}, {right:?}"
            );
        }
    }

    #[test]
    fn before_it_learned_it_predicts_what_calls_take() {
        let (learned, measured) = (Learned::default(), Measured::default());
        let idle = sample([0.0; 3]);
        let idle = Sample {
            usage: Usage {
                cpu: 0.0,
                ..idle.usage
            },
            ..idle
        };
        learned.learn(&idle);
        measured.learn(&idle);
        let rates = [100.0, 10.0, 1.0];
        let expected = (0.1 + 0.2 + 0.2) / 4.0;
        for usage in [learned.usage(&rates), measured.usage(&rates)] {
            assert!((usage.cpu - expected).abs() < 1e-6, "{usage:?}");
        }
    }

    #[test]
    fn a_long_quiet_time_makes_it_believe_nothing() {
        let learned = Learned::default();
        for _ in 0..5_000 {
            learned.learn(&sample([1.0, 0.0, 0.0]));
        }
        let usage = learned.usage(&[2.0, 1.0, 0.0]);
        assert!(usage.cpu.is_finite() && usage.cpu < 1.0, "{usage:?}");
    }
}
