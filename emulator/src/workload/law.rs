//! Times and sizes by their laws.

use std::sync::Arc;
use std::time::Duration;

use crate::scenario::law::{Service, Size};

use super::chance::Stream;

/// Longest time that is drawn, in nanoseconds: a year, as a scenario may name.
const NANOS_MAX: f64 = 365.0 * 86_400.0 * 1e9;

/// Largest size that is drawn, in bytes: a petabyte, as a scenario may name.
const BYTES_MAX: f64 = 1e15;

/// A law of times, ready to be drawn from.
#[derive(Debug, Clone, PartialEq)]
pub enum Times {
    /// Always as long; nanoseconds.
    Constant(u64),
    /// From and up to; nanoseconds.
    Uniform(f64, f64),
    /// With this mean; nanoseconds.
    Exponential(f64),
    /// With this median in nanoseconds, and deviation of the logarithm.
    LogNormal(f64, f64),
    /// With this scale, exponent of the inverse, and cut; nanoseconds.
    Pareto(f64, f64, f64),
    /// For an empty input, and for each byte; nanoseconds.
    BySize(f64, f64),
    /// Each is as likely; nanoseconds.
    Samples(Arc<[u64]>),
}

fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

fn whole_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Times {
    /// As a scenario has it.
    pub fn new(service: &Service) -> Times {
        match service {
            Service::Constant(law) => Times::Constant(whole_nanos(law.time)),
            Service::Uniform(law) => Times::Uniform(nanos(law.least), nanos(law.most)),
            Service::Exponential(law) => Times::Exponential(nanos(law.mean)),
            Service::LogNormal(law) => Times::LogNormal(nanos(law.median), law.sigma.0),
            Service::Pareto(law) => {
                Times::Pareto(nanos(law.least), 1.0 / law.shape.0, nanos(law.most))
            }
            Service::BySize(law) => {
                Times::BySize(nanos(law.fixed), nanos(law.per_kilobyte) / 1_024.0)
            }
            Service::Samples(law) => {
                Times::Samples(law.all().iter().copied().map(whole_nanos).collect())
            }
        }
    }

    /// Draws one, in nanoseconds, for an input of so many bytes.
    pub fn draw(&self, input_bytes: u64, chance: &mut Stream) -> u64 {
        let time = match self {
            Times::Constant(time) => return *time,
            Times::Uniform(least, most) => least + (most - least) * chance.unit(),
            Times::Exponential(mean) => mean * chance.exponential(),
            Times::LogNormal(median, sigma) => median * libm::exp(sigma * chance.normal()),
            // The inverse of its distribution.
            Times::Pareto(least, inverse, most) => {
                most.min(least * libm::pow(chance.above_nothing(), -inverse))
            }
            Times::BySize(fixed, per_byte) => fixed + per_byte * input_bytes as f64,
            Times::Samples(samples) => {
                let at = chance.below(samples.len());
                return samples.get(at).copied().unwrap_or_default();
            }
        };
        time.min(NANOS_MAX) as u64
    }
}

/// A law of sizes, ready to be drawn from.
#[derive(Debug, Clone, PartialEq)]
pub enum Sizes {
    /// Always as large; bytes.
    Constant(u64),
    /// From and up to; bytes.
    Uniform(f64, f64),
    /// With this median in bytes, and deviation of the logarithm.
    LogNormal(f64, f64),
    /// So many times the input.
    OfInput(f64),
}

impl Sizes {
    /// As a scenario has it.
    pub fn new(size: &Size) -> Sizes {
        match size {
            Size::Constant(size) => Sizes::Constant(size.as_bytes()),
            Size::Uniform(law) => {
                Sizes::Uniform(law.least.as_bytes() as f64, law.most.as_bytes() as f64)
            }
            Size::LogNormal(law) => Sizes::LogNormal(law.median.as_bytes() as f64, law.sigma.0),
            Size::OfInput(law) => Sizes::OfInput(law.times.0),
        }
    }

    /// Draws one, in bytes; `input_bytes` is that of which it may be a multiple.
    pub fn draw(&self, input_bytes: u64, chance: &mut Stream) -> u64 {
        let size = match self {
            Sizes::Constant(size) => return *size,
            Sizes::Uniform(least, most) => least + (most - least) * chance.unit(),
            Sizes::LogNormal(median, sigma) => median * libm::exp(sigma * chance.normal()),
            Sizes::OfInput(times) => times * input_bytes as f64,
        };
        size.min(BYTES_MAX) as u64
    }
}
