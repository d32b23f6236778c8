//! Straight lines through samples, by which dispatchers predict times.
//!
//! Least squares of `y = a + b x`, by destination: the reference, section "Dispatcher
//! estimators"; C. Cicconetti, M. Conti, A. Passarella, "Low-latency distributed
//! computation offloading for pervasive environments", PerCom 2019. Where all `x` are
//! equal, the mean; where nothing is known, nothing.
//!
//! There the last 50 samples count alike. Here older ones count less and less, each by
//! `1 - 1/window` of the one after it, which has the same weight in all and needs six
//! numbers instead of a hundred. Samples are forgotten as a whole when the last is older
//! than `stale`; there a purge forgot half of them. Unless `faithful`, a line that falls
//! is taken to be flat, for no call is quicker for more bytes or more load, and one is
//! believed from its third sample on, without the first, which had to connect.

use weir_node_core::time::Time;

use super::seconds;
use crate::policy::{Cell, Key, Malformed, Memory, Range, Which};

/// Destinations of functions and classes that lines are kept of.
const ROWS_MAX: usize = 4_096;

/// How many samples count.
pub(in crate::policy) const WINDOW: Key = Key {
    name: "window",
    about: "how many of the last samples a prediction follows",
    unit: "samples",
    range: Range::Whole {
        least: 2,
        most: 10_000,
    },
    default: "50",
};

/// Numbers of a line: how many samples, their sums, when the last was.
const COUNT: usize = 0;
const X: usize = 1;
const Y: usize = 2;
const XX: usize = 3;
const XY: usize = 4;
const SAMPLED: usize = 5;
/// What was noted when a call was sent.
const NOTED: usize = 6;
/// Whether it was taken out of the table, as published, for an error.
const OUT: usize = 7;
/// How many samples there were since it was stale.
const SEEN: usize = 8;

/// Samples before a line is believed, unless `faithful`.
const FIRST_SAMPLES: f64 = 3.0;

type Line = [Cell; 9];

/// Lines by what they are of.
pub(in crate::policy) struct Lines {
    rows: Memory<9>,
    /// How much of the samples before stays with each new one.
    keep: f64,
    /// After how long all are forgotten, in seconds.
    stale: f64,
    may_fall: bool,
}

/// Sizes that are predicted alike: powers of four from 1 KiB on.
pub(in crate::policy) fn size_class(bytes: f64) -> u64 {
    let kibibytes = (bytes / 1_024.0) as u64;
    u64::from(u64::BITS - kibibytes.leading_zeros()).div_ceil(2)
}

fn number(line: &Line, of: usize) -> f64 {
    line[of].get().unwrap_or(0.0)
}

impl Lines {
    /// Lines through about the last `window` samples, which are forgotten after
    /// `stale` seconds without one.
    pub(in crate::policy) fn new(window: u64, stale: f64, may_fall: bool) -> Lines {
        Lines {
            rows: Memory::new(ROWS_MAX),
            keep: 1.0 - 1.0 / (window.max(2) as f64),
            stale,
            may_fall,
        }
    }

    /// Allocates the table.
    pub(in crate::policy) fn open(&self) {
        self.rows.open();
    }

    /// Takes a sample.
    pub(in crate::policy) fn learn(&self, which: Which, (x, y): (f64, f64), at: Time) {
        let line = self.rows.entry(which, at);
        let now = seconds(at);
        let is_stale = line[SAMPLED].get().is_none_or(|at| now - at > self.stale);
        let seen = if is_stale { 0.0 } else { number(line, SEEN) };
        // The first had to connect: it counts until there is a second.
        let is_anew = is_stale || (seen == 1.0 && !self.may_fall);
        let keep = if is_anew { 0.0 } else { self.keep };
        let sums = [(COUNT, 1.0), (X, x), (Y, y), (XX, x * x), (XY, x * y)];
        for (of, sample) in sums {
            line[of].change(|sum| sum.unwrap_or(0.0) * keep + sample);
        }
        line[SAMPLED].set(now);
        line[SEEN].set(seen + 1.0);
    }

    /// What `y` is for an `x`, at least 0, and how long ago the last sample was;
    /// `None` where none is known, or all are stale.
    pub(in crate::policy) fn predict(&self, which: Which, x: f64, now: f64) -> Option<(f64, f64)> {
        self.predict_by(which, x, now, |mean, _| mean)
    }

    /// The same where `flat`, of the means of `y` and `x`, is what `y` is for a line
    /// that does not rise, unless it may fall.
    pub(in crate::policy) fn predict_by(
        &self,
        which: Which,
        x: f64,
        now: f64,
        flat: impl Fn(f64, f64) -> f64,
    ) -> Option<(f64, f64)> {
        let line = self.rows.find(which)?;
        let age = (now - line[SAMPLED].get()?).max(0.0);
        let count = number(line, COUNT);
        let is_known = self.may_fall || number(line, SEEN) >= FIRST_SAMPLES;
        if age > self.stale || count <= 0.0 || !is_known {
            return None;
        }
        let (mean_x, mean_y) = (number(line, X) / count, number(line, Y) / count);
        let spread = number(line, XX) / count - mean_x * mean_x;
        let slope = match spread > 1e-9 * (mean_x * mean_x).max(1e-9) {
            true => (number(line, XY) / count - mean_x * mean_y) / spread,
            false => 0.0,
        };
        let y = match slope > 0.0 || self.may_fall {
            true => mean_y + slope * (x - mean_x),
            false => flat(mean_y, mean_x),
        };
        Some((y.max(0.0), age))
    }

    /// Notes a number with a call that is sent, for when it is answered. Allocates
    /// nothing: before the table is open nothing is noted.
    pub(in crate::policy) fn note(&self, which: Which, number: f64, now: Time) {
        if let Some(line) = self.rows.entry_if_open(which, now) {
            line[NOTED].set(number);
        }
    }

    /// What was noted last.
    pub(in crate::policy) fn noted(&self, which: Which) -> Option<f64> {
        self.rows.find(which)?[NOTED].get()
    }

    /// Takes a destination out of the table.
    pub(in crate::policy) fn take_out(&self, which: Which, now: Time) {
        self.rows.entry(which, now)[OUT].set(1.0);
    }

    /// Whether it was.
    pub(in crate::policy) fn is_out(&self, which: Which) -> bool {
        self.rows
            .find(which)
            .is_some_and(|line| line[OUT].get().is_some())
    }

    /// All lines, for the next life.
    pub(in crate::policy) fn save(&self) -> Option<Vec<u8>> {
        self.rows.save()
    }

    /// Takes lines of a former life, as if their last samples were of now.
    pub(in crate::policy) fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.rows.restore(saved, now)?;
        for (_, line) in self.rows.rows() {
            line[SAMPLED].set(seconds(now));
            line[NOTED].clear();
            line[OUT].clear();
        }
        Ok(())
    }
}
