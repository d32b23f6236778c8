//! The table of weights of a broker, and what changes them: its optimisers.
//!
//! From the reference (section "Weight optimisers"), a weight being a response time
//! in seconds:
//! * **none**: weights stay as they were set, and are 1 before that;
//! * **trivial** (`period`, `stat`): each period the mean, least or greatest response
//!   time since the last takes the weight's place;
//! * **async** (`alpha`): the first sample is the weight; after that, where the last
//!   sample is less than 5 s old, `weight = alpha * weight + (1 - alpha) * sample`,
//!   else the sample takes its place;
//! * **last**: the last sample (there "asyncPF").
//!
//! Mended, unless `faithful`:
//! * Newcomers had the weight 1 s, and got nothing beside others that answer in a
//!   millisecond: here it is what a call is expected to take there.
//! * A weight of long ago was believed for ever: here it moves towards what is
//!   expected, half of the way within `stale`.
//! * Any error took a destination out of all tables, until it announced itself anew:
//!   here a function's error and a refusal change no weight, so that who fails fast
//!   does not look fast either, and a lost or late call doubles it.
//! * A first sample, which has to connect, weighed as any: here the least of the
//!   first three counts, and until there are three it makes nobody look slower than
//!   is expected.
//! * A sampled destination that had vanished ended the update of all others: here
//!   each has its own row.

use std::time::Duration;

use weir_node_core::time::Time;

use super::seconds;
use crate::policy::{
    Case, Cell, Ending, Key, Malformed, Memory, Outcome, Parameters, Range, Terms, Which,
};

use super::{Destination, Judged, Sight};

/// Destinations of functions and classes that a table has room for.
const ROWS_MAX: usize = 4_096;

/// Numbers of a row.
const CELLS: usize = 8;

/// The numbers of one destination.
pub(in crate::policy) type Row = [Cell; CELLS];

/// Which number of a row is what.
pub(in crate::policy) mod cell {
    /// Its weight, in seconds.
    pub(in crate::policy) const WEIGHT: usize = 0;
    /// When it was sampled last, in seconds.
    pub(in crate::policy) const SAMPLED: usize = 1;
    /// What the trivial optimiser has of the samples of a period.
    pub(in crate::policy) const SAMPLES: usize = 2;
    /// How many samples that are; for others, how many there were in a row.
    pub(in crate::policy) const COUNT: usize = 3;
    /// How far it is served: a deficit, or a rate.
    pub(in crate::policy) const SERVED: usize = 4;
    /// When that was changed last, in seconds.
    pub(in crate::policy) const SINCE: usize = 5;
    /// How long it is left alone before it is probed again, in seconds.
    pub(in crate::policy) const PAUSE: usize = 6;
    /// When it was probed, in seconds.
    pub(in crate::policy) const PROBED: usize = 7;
}

/// The weight before there is another, in seconds, as published.
const INITIAL: f64 = 1.0;

/// What stands for an infinite weight, or for the moment of a weight that was set by
/// hand, in rows that are kept on disk.
const ENDLESS: f64 = f64::MAX;

/// The least weight, in seconds.
const WEIGHT_MIN: f64 = 1e-6;

/// The greatest weight that lost calls lead to, in seconds.
const PENALTY_MAX: f64 = 60.0;

/// Samples older than this, in seconds, are not averaged with: as published.
const BLEND_WITHIN: f64 = 5.0;

/// Samples before a destination is judged by more than the least of them.
pub(in crate::policy) const FIRST_SAMPLES: f64 = 3.0;

/// How weights follow response times.
pub(in crate::policy) const OPTIMISER: Key = Key {
    name: "optimiser",
    about: "how weights follow response times: not at all, by a statistic of each period, or with each answer",
    unit: "",
    range: Range::Word(&["none", "trivial", "async"]),
    default: "async",
};

/// The trivial optimiser's period.
pub(in crate::policy) const PERIOD: Key = Key {
    name: "period",
    about: "how often optimiser=trivial changes weights",
    unit: "",
    range: Range::Time {
        least: Duration::from_millis(100),
        most: Duration::from_secs(3_600),
    },
    default: "10s",
};

/// The trivial optimiser's statistic.
pub(in crate::policy) const STAT: Key = Key {
    name: "stat",
    about: "which statistic of a period's response times optimiser=trivial takes",
    unit: "",
    range: Range::Word(&["mean", "min", "max"]),
    default: "mean",
};

/// The asynchronous optimiser's smoothing.
pub(in crate::policy) const ALPHA: Key = Key {
    name: "alpha",
    about: "how much of the old weight an answer leaves with optimiser=async; the paper's experiments used 0.95",
    unit: "of 1",
    range: Range::Number {
        least: 0.0,
        most: 0.999,
    },
    default: "0.7",
};

/// How long a weight is believed.
pub(in crate::policy) const STALE: Key = Key {
    name: "stale",
    about: "after which time a weight that was not renewed has moved half of the way to what is expected",
    unit: "",
    range: Range::Time {
        least: Duration::from_millis(100),
        most: Duration::from_secs(3_600),
    },
    default: "10s",
};

/// How many calls try out what is not known.
pub(in crate::policy) const EXPLORE: Key = Key {
    name: "explore",
    about: "which share of calls goes to the destination of which the least is known, one at a time",
    unit: "of 1",
    range: Range::Number {
        least: 0.0,
        most: 0.5,
    },
    default: "0.02",
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stat {
    Mean,
    Min,
    Max,
}

/// How weights follow response times.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Optimiser {
    None,
    Trivial { period: Duration, stat: Stat },
    Async { alpha: f64 },
    Last,
}

/// Weights by function, class and destination.
pub(in crate::policy) struct Table {
    pub(in crate::policy) rows: Memory<CELLS>,
    optimiser: Optimiser,
    pub(in crate::policy) is_faithful: bool,
    /// In seconds.
    stale: f64,
    explore: f64,
}

/// The destination of which the least is known, if it is this call's turn to find
/// out more, by a `share` of all calls: one that was not tried for `stale` seconds,
/// and holds no call of ours.
pub(in crate::policy) fn explored(
    all: &[Destination<'_>],
    case: &mut Case<'_>,
    share: f64,
    stale: f64,
) -> Option<usize> {
    if share <= 0.0 || case.chance() >= share {
        return None;
    }
    let mut oldest = None;
    let (mut most, mut alike) = (stale, 0.0);
    for (at, one) in all.iter().enumerate() {
        if one.held > 0 || !one.weight.is_finite() || one.age < most {
            continue;
        }
        alike = if one.age > most { 1.0 } else { alike + 1.0 };
        most = one.age;
        if case.chance() * alike < 1.0 {
            oldest = Some(at);
        }
    }
    oldest
}

impl Table {
    /// A table with the parameters [`OPTIMISER`], [`PERIOD`], [`STAT`], [`ALPHA`],
    /// [`STALE`] and `faithful`.
    pub(in crate::policy) fn new(parameters: &Parameters) -> Table {
        let optimiser = match parameters.word(OPTIMISER.name) {
            "none" => Optimiser::None,
            "trivial" => Optimiser::Trivial {
                period: parameters.time(PERIOD.name),
                stat: match parameters.word(STAT.name) {
                    "min" => Stat::Min,
                    "max" => Stat::Max,
                    _ => Stat::Mean,
                },
            },
            _ => Optimiser::Async {
                alpha: parameters.number(ALPHA.name),
            },
        };
        Table::by(parameters, optimiser)
    }

    /// A table whose weights are the last samples, or, where not `faithful`, a short
    /// average; with the parameters [`STALE`] and `faithful`.
    pub(in crate::policy) fn of_last_samples(parameters: &Parameters) -> Table {
        match parameters.flag("faithful") {
            true => Table::by(parameters, Optimiser::Last),
            false => Table::by(parameters, Optimiser::Async { alpha: 0.5 }),
        }
    }

    fn by(parameters: &Parameters, optimiser: Optimiser) -> Table {
        Table {
            rows: Memory::new(ROWS_MAX),
            optimiser,
            is_faithful: parameters.flag("faithful"),
            stale: parameters.time(STALE.name).as_secs_f64(),
            explore: 0.0,
        }
    }

    /// The same, that explores as [`EXPLORE`] says.
    pub(in crate::policy) fn exploring(self, parameters: &Parameters) -> Table {
        Table {
            explore: parameters.number(EXPLORE.name),
            ..self
        }
    }

    /// Allocates it.
    pub(in crate::policy) fn open(&self) {
        self.rows.open();
    }

    /// The weight of a destination, in effect at this moment.
    pub(in crate::policy) fn judge<'t>(
        &'t self,
        sight: &Sight<'_>,
        terms: &mut Terms<'_>,
    ) -> Judged<'t> {
        let row = self.rows.find(sight.which);
        let learned = row.and_then(|row| row[cell::WEIGHT].get());
        let sampled = row.and_then(|row| row[cell::SAMPLED].get());
        let age = sampled.map_or(f64::INFINITY, |at| (sight.now - at).max(0.0));
        let fixed = self.is_faithful || self.optimiser == Optimiser::None;
        let weight = match learned {
            Some(weight) if weight >= ENDLESS => f64::INFINITY,
            Some(weight) if !fixed && self.is_new(row) => weight.min(sight.expected),
            Some(weight) if fixed || age <= 0.0 => weight,
            // 1 at once, 1/2 after `stale`, and less and less after that.
            Some(weight) => {
                sight.expected + (weight - sight.expected) * self.stale / (self.stale + age)
            }
            None if fixed => INITIAL,
            None => sight.expected,
        };
        if terms.is_watched() {
            terms.put("weight_s", weight);
            terms.put("expected_s", sight.expected);
            if let Some(learned) = learned {
                terms.put("measured_s", learned);
                terms.put("measured_ago_s", age);
            }
        }
        Judged { weight, age, row }
    }

    /// Whether weights follow samples.
    pub(in crate::policy) fn learns(&self) -> bool {
        self.optimiser != Optimiser::None
    }

    /// Whether a destination was not tried often enough to be judged.
    pub(in crate::policy) fn is_new(&self, row: Option<&Row>) -> bool {
        let Some(row) = row else { return true };
        let counts = !self.is_faithful && matches!(self.optimiser, Optimiser::Async { .. });
        match row[cell::WEIGHT].get() {
            None => true,
            Some(_) if !counts || row[cell::SAMPLED].get() == Some(ENDLESS) => false,
            Some(_) => row[cell::COUNT].get().unwrap_or(0.0) < FIRST_SAMPLES,
        }
    }

    /// As [`explored`], where this table explores.
    pub(in crate::policy) fn explored(
        &self,
        all: &[Destination<'_>],
        case: &mut Case<'_>,
    ) -> Option<usize> {
        match self.is_faithful || self.optimiser == Optimiser::None {
            true => None,
            false => explored(all, case, self.explore, self.stale),
        }
    }

    /// Learns how an attempt ended.
    pub(in crate::policy) fn observe(&self, outcome: &Outcome<'_>) {
        let which = Which::of(outcome.function).class(outcome.class);
        let which = which.at(outcome.to.as_ref());
        let took = outcome.took().as_secs_f64().max(WEIGHT_MIN);
        let now = seconds(outcome.ended);
        match outcome.ending {
            Ending::Answered => self.sample(self.rows.entry(which, outcome.ended), took, now),
            Ending::Failed | Ending::Refused if !self.is_faithful => {}
            Ending::Lost | Ending::Late if !self.is_faithful => {
                if self.optimiser == Optimiser::None {
                    return;
                }
                let row = self.rows.entry(which, outcome.ended);
                let weight = row[cell::WEIGHT].get().unwrap_or(0.0).max(took);
                if weight < ENDLESS {
                    row[cell::WEIGHT].set((weight * 2.0).min(PENALTY_MAX.max(took)));
                    row[cell::SAMPLED].set(now);
                    if !matches!(self.optimiser, Optimiser::Trivial { .. }) {
                        // Whoever loses its first calls is not judged more kindly.
                        row[cell::COUNT].set(FIRST_SAMPLES);
                    }
                }
            }
            Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late => {
                let row = self.rows.entry(which, outcome.ended);
                row[cell::WEIGHT].set(ENDLESS);
                row[cell::SAMPLED].set(ENDLESS);
            }
        }
    }

    fn sample(&self, row: &Row, took: f64, now: f64) {
        let weight = row[cell::WEIGHT].get();
        // Who was taken out by hand stays out, whatever was under way there.
        if weight.is_some_and(|weight| weight >= ENDLESS) {
            return;
        }
        let last = row[cell::SAMPLED].get().unwrap_or(f64::NEG_INFINITY);
        let age = (now - last).max(0.0);
        let in_a_row = match row[cell::COUNT].get() {
            Some(count) if age < self.stale => count,
            Some(_) | None => 0.0,
        };
        let is_early = !self.is_faithful && in_a_row < FIRST_SAMPLES;
        match self.optimiser {
            Optimiser::None => {}
            Optimiser::Last => row[cell::WEIGHT].set(took),
            Optimiser::Async { alpha } => {
                row[cell::COUNT].set(in_a_row + 1.0);
                let new = match weight {
                    None => took,
                    Some(_) if is_early && in_a_row == 0.0 => took,
                    Some(weight) if is_early => weight.min(took),
                    Some(weight) if age < BLEND_WITHIN => alpha * weight + (1.0 - alpha) * took,
                    Some(_) => took,
                };
                row[cell::WEIGHT].set(new);
            }
            Optimiser::Trivial { stat, .. } => {
                if weight.is_none() && !self.is_faithful {
                    row[cell::WEIGHT].set(took);
                }
                row[cell::COUNT].add(1.0);
                row[cell::SAMPLES].change(|samples| match (stat, samples) {
                    (_, None) => took,
                    (Stat::Mean, Some(sum)) => sum + took,
                    (Stat::Min, Some(least)) => least.min(took),
                    (Stat::Max, Some(most)) => most.max(took),
                });
            }
        }
        row[cell::SAMPLED].set(now);
    }

    /// Changes weights where it is the optimiser's time; when that is next.
    pub(in crate::policy) fn tick(&self, now: Time) -> Time {
        let Optimiser::Trivial { period, stat } = self.optimiser else {
            return Time::NEVER;
        };
        for (_, row) in self.rows.rows() {
            let (Some(samples), Some(count)) = (row[cell::SAMPLES].get(), row[cell::COUNT].get())
            else {
                continue;
            };
            row[cell::SAMPLES].clear();
            row[cell::COUNT].clear();
            let is_out = |weight: f64| weight >= ENDLESS;
            if !row[cell::WEIGHT].get().is_some_and(is_out) {
                row[cell::WEIGHT].set(match stat {
                    Stat::Mean => samples / count.max(1.0),
                    Stat::Min | Stat::Max => samples,
                });
            }
        }
        now + period
    }

    /// The weight of a row, as it was measured or set.
    pub(in crate::policy) fn weight(&self, which: Which) -> Option<f64> {
        let weight = self.rows.find(which)?[cell::WEIGHT].get()?;
        Some(if weight >= ENDLESS {
            f64::INFINITY
        } else {
            weight
        })
    }

    /// Sets it by hand, to more than 0, infinite included, until the next sample;
    /// one that is infinite until it is set again. `None` forgets the row.
    pub(in crate::policy) fn set_weight(
        &self,
        which: Which,
        weight: Option<f64>,
        now: Time,
    ) -> bool {
        let Some(weight) = weight else {
            self.rows.forget(which);
            return true;
        };
        if weight.is_nan() || weight <= 0.0 {
            return false;
        }
        let row = self.rows.entry(which, now);
        row[cell::WEIGHT].set(weight.clamp(WEIGHT_MIN, ENDLESS));
        row[cell::SAMPLED].set(ENDLESS);
        row[cell::COUNT].clear();
        row[cell::SAMPLES].clear();
        true
    }

    /// Its rows, for the next life.
    pub(in crate::policy) fn save(&self) -> Option<Vec<u8>> {
        self.rows.save()
    }

    /// Takes rows of a former life: their weights, as if they had been measured
    /// `stale` ago, since nobody knows how long ago that was.
    pub(in crate::policy) fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.rows.restore(saved, now)?;
        for (_, row) in self.rows.rows() {
            let by_hand = row[cell::SAMPLED].get().is_none_or(|at| at >= ENDLESS);
            if !by_hand {
                row[cell::SAMPLED].set(seconds(now) - self.stale);
            }
            for of in [cell::SAMPLES, cell::COUNT, cell::SINCE, cell::PROBED] {
                row[of].clear();
            }
            if matches!(self.optimiser, Optimiser::Async { .. }) {
                row[cell::COUNT].set(FIRST_SAMPLES);
            }
        }
        Ok(())
    }
}
