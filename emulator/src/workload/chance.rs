//! Streams of chance.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

/// Numbers by chance, for one purpose: the arrivals at a node, say. The same seed
/// and name give the same numbers on every machine. PCG of 128 bits of state:
/// M. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good
/// Algorithms for Random Number Generation", HMC-CS-2014-0905.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream(Pcg64Mcg);

impl Stream {
    /// The stream `name` of `seed`. Streams of other names are independent of it,
    /// as far as SHA-256 mixes.
    pub fn new(seed: u64, name: &str) -> Stream {
        let digest = Sha256::new()
            .chain_update(seed.to_le_bytes())
            .chain_update(name)
            .finalize();
        let mut state = [0; 16];
        state.copy_from_slice(&digest[..16]);
        Stream(Pcg64Mcg::from_seed(state))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 up to but not with 1; evenly.
    pub fn unit(&mut self) -> f64 {
        // As many bits as a number between 0 and 1 has.
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Above 0 and up to 1; evenly: a logarithm of it is finite.
    pub fn above_nothing(&mut self) -> f64 {
        1.0 - self.unit()
    }

    /// One of `count` places; 0 where there is none.
    pub fn below(&mut self, count: usize) -> usize {
        // D. Lemire, "Fast Random Integer Generation in an Interval", 2019,
        // without the rejection: `count` is far below 2^64.
        let wide = u128::from(self.number()) * count as u128;
        usize::try_from(wide >> 64).unwrap_or_default()
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -libm::log(self.above_nothing())
    }

    /// Normal with mean 0 and deviation 1. G. Box, M. Muller, "A Note on the
    /// Generation of Random Normal Deviates", 1958; the second number is left,
    /// so that a stream has no more state than its place.
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(2.0 * self.exponential());
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }

    /// Poisson with this mean: arrivals with gaps of mean 1 until then. Takes as
    /// many draws as it says.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        let (mut count, mut sum) = (0, self.exponential());
        while sum <= mean {
            count += 1;
            sum += self.exponential();
        }
        count
    }
}
