//! How long an instance stays that nobody uses.
//!
//! * [`Keeping::Fixed`]: for the function's keep-alive.
//! * [`Keeping::GreedyDual`]: until its room is wanted. What goes then is what is
//!   worth least by the Greedy-Dual value of the pool; A. Fuerst, P. Sharma,
//!   "FaasCache: keeping serverless computing alive with Greedy-Dual caching",
//!   ASPLOS 2021.
//! * [`Keeping::Histogram`]: as the function's own idle times say. M. Shahrad, R.
//!   Fonseca, I. Goiri, G. Chaudhry, P. Batum, J. Cooke, E. Laureano, C. Tresness,
//!   M. Russinovich, R. Bianchini, "Serverless in the wild: characterizing and
//!   optimizing the serverless workload at a large cloud provider", USENIX ATC
//!   2020, section 4. An instance goes when its function falls idle, comes back
//!   before nearly all calls that came after a pause, and stays until nearly all
//!   of them would have come. Where pauses show no pattern, it is the keep-alive.
//!
//! What is otherwise than published: counts are halved from time to time, so that a
//! function whose habits change is followed; and where most pauses are longer than
//! the histogram, the mean of the last ones stands for the ARIMA forecast.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// By which rule idle instances stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeping {
    /// For the function's keep-alive.
    #[default]
    Fixed,
    /// Until their room is wanted.
    GreedyDual,
    /// As the function's idle times say.
    Histogram,
}

impl Keeping {
    /// All of them.
    pub const ALL: [Keeping; 3] = [Keeping::Fixed, Keeping::GreedyDual, Keeping::Histogram];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Keeping::Fixed => "fixed",
            Keeping::GreedyDual => "greedy-dual",
            Keeping::Histogram => "histogram",
        }
    }
}

impl fmt::Display for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Keeping {
    type Err = String;

    fn from_str(text: &str) -> Result<Keeping, String> {
        let found = Keeping::ALL
            .into_iter()
            .find(|keeping| keeping.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is none of fixed, greedy-dual, histogram"))
    }
}

/// Width of a bin: pauses are told apart by minutes.
const BIN: Duration = Duration::from_secs(60);

/// Bins: pauses of up to four hours are counted.
const BINS: usize = 240;

/// Pauses before anything is concluded from them.
const PAUSES_MIN: u32 = 10;

/// Pauses after which all counts are halved.
const PAUSES_MAX: u32 = 2_048;

/// Parts of pauses before which an instance comes back, and until which it stays,
/// in hundredths.
const HEAD: u32 = 5;
const TAIL: u32 = 99;

/// By which part the first is earlier and the second later.
const MARGIN: f64 = 0.1;

/// Spread of the counts from which they show a pattern: their standard deviation as
/// a multiple of their mean. Even counts would be 0, all in one bin `sqrt(BINS - 1)`.
const SPREAD_MIN: f64 = 2.0;

/// Longest pauses that are remembered one by one, and how far around their mean an
/// instance is there.
const LONGEST: usize = 8;
const FORECAST_MARGIN: f64 = 0.15;

/// When an instance comes back after its function fell idle, and for how long it
/// stays then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// After how long it is started again; zero: it does not go.
    pub back_after: Duration,
    /// For how long it stays from then on.
    pub stays: Duration,
}

/// How long a function was idle before it was called again.
#[derive(Debug, Clone)]
pub struct Pauses {
    counts: Box<[u16; BINS]>,
    counted: u32,
    /// The last ones that were longer than all bins.
    longer: Vec<Duration>,
    /// How many were.
    longer_counted: u32,
    /// Since when it is idle.
    idle_since: Option<Time>,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses {
            counts: Box::new([0; BINS]),
            counted: 0,
            longer: Vec::new(),
            longer_counted: 0,
            idle_since: None,
        }
    }
}

impl Pauses {
    /// Since when it is idle, if it is.
    pub fn idle_since(&self) -> Option<Time> {
        self.idle_since
    }

    /// Its last call ended.
    pub fn fell_idle(&mut self, now: Time) {
        self.idle_since = Some(now);
    }

    /// It is called; counts the pause before, if there was one.
    pub fn called(&mut self, now: Time) {
        let Some(since) = self.idle_since.take() else {
            return;
        };
        let pause = now.since(since);
        if self.counted + self.longer_counted >= PAUSES_MAX {
            self.halve();
        }
        match self
            .counts
            .get_mut((pause.as_secs() / BIN.as_secs()) as usize)
        {
            Some(count) => {
                *count += 1;
                self.counted += 1;
            }
            None => {
                self.longer_counted += 1;
                if self.longer.len() == LONGEST {
                    self.longer.remove(0);
                }
                self.longer.push(pause);
            }
        }
    }

    fn halve(&mut self) {
        for count in self.counts.iter_mut() {
            *count /= 2;
        }
        self.counted = self.counts.iter().map(|count| u32::from(*count)).sum();
        self.longer_counted /= 2;
    }

    /// When an instance is to be there; `None` where pauses show no pattern.
    pub fn window(&self) -> Option<Window> {
        if self.counted + self.longer_counted < PAUSES_MIN {
            return None;
        }
        if self.longer_counted > self.counted {
            return self.forecast();
        }
        let mean = f64::from(self.counted) / BINS as f64;
        let squares = self
            .counts
            .iter()
            .map(|count| (f64::from(*count) - mean).powi(2));
        let deviation = (squares.sum::<f64>() / BINS as f64).sqrt();
        if deviation < SPREAD_MIN * mean {
            return None;
        }
        let from = BIN.saturating_mul(self.bin_of(HEAD));
        let until = BIN.saturating_mul(self.bin_of(TAIL) + 1);
        // An instance that would be back within a bin does not go.
        let back_after = match from < BIN {
            true => Duration::ZERO,
            false => from.mul_f64(1.0 - MARGIN),
        };
        Some(Window {
            back_after,
            stays: until.mul_f64(1.0 + MARGIN).saturating_sub(back_after),
        })
    }

    /// The bin in which this many hundredths of the counted pauses are reached.
    fn bin_of(&self, hundredths: u32) -> u32 {
        let wanted = (u64::from(self.counted) * u64::from(hundredths))
            .div_ceil(100)
            .max(1);
        let mut seen = 0_u64;
        for (bin, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return bin as u32;
            }
        }
        BINS as u32 - 1
    }

    /// Around the mean of the last pauses that were longer than all bins.
    fn forecast(&self) -> Option<Window> {
        let count = u32::try_from(self.longer.len())
            .ok()
            .filter(|count| *count > 0)?;
        let sum = self
            .longer
            .iter()
            .fold(Duration::ZERO, |sum, pause| sum.saturating_add(*pause));
        let mean = sum.checked_div(count)?;
        Some(Window {
            back_after: mean.mul_f64(1.0 - FORECAST_MARGIN),
            stays: mean.mul_f64(2.0 * FORECAST_MARGIN),
        })
    }
}

#[cfg(test)]
mod tests;
