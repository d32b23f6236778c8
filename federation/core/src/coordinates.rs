//! Network coordinates: how near a peer is, without asking every one.
//!
//! Vivaldi with a height vector: F. Dabek, R. Cox, F. Kaashoek, R. Morris,
//! "Vivaldi: a decentralized network coordinate system", SIGCOMM 2004, sections
//! 3.4 (adaptive time step) and 5.4 (heights).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Dimensions beside the height.
pub const DIMENSIONS: usize = 3;

/// How far one sample moves a coordinate (the paper's `c_c`).
const MOVE: f64 = 0.25;

/// How far one sample moves the error (the paper's `c_e`).
const LEARN: f64 = 0.25;

/// Error of a node that has measured nothing, and the worst that is kept:
/// beyond it a coordinate says nothing anyway.
const WORST_ERROR: f64 = 1.5;

/// Least height, in milliseconds: what a packet waits in the node itself.
const LEAST_HEIGHT: f64 = 0.01;

/// Largest distance that is believed, in milliseconds: more than any path on
/// this planet takes.
const FARTHEST: f64 = 10_000.0;

/// Shortest round trip that is used, in milliseconds: below it a clock's own
/// steps are all that is measured.
const SHORTEST: f64 = 0.005;

/// Where a node is among the others. Lengths are milliseconds of round trip.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Coordinate {
    /// Place in a space that all share.
    pub position: [f64; DIMENSIONS],
    /// What every path to the node adds: its access link.
    pub height: f64,
    /// How wrong it expects to be, as a share of a distance.
    pub error: f64,
}

/// A coordinate as it is sent, in whole numbers: encoders write floats in the
/// shortest of three forms, and not every decoder reads all of them.
#[derive(Serialize, Deserialize)]
struct Wire {
    /// In microseconds.
    position: [i64; DIMENSIONS],
    /// In microseconds.
    height: i64,
    /// In thousandths.
    error: i64,
}

/// What a unit of the struct is in units of the wire.
const FINE: f64 = 1_000.0;

impl From<Coordinate> for Wire {
    fn from(coordinate: Coordinate) -> Wire {
        // Out of range saturates, and is out of range for the reader too.
        let whole = |value: f64| (value * FINE).round() as i64;
        Wire {
            position: coordinate.position.map(whole),
            height: whole(coordinate.height),
            error: whole(coordinate.error),
        }
    }
}

impl From<Wire> for Coordinate {
    fn from(wire: Wire) -> Coordinate {
        let part = |value: i64| value as f64 / FINE;
        Coordinate {
            position: wire.position.map(part),
            height: part(wire.height),
            error: part(wire.error),
        }
    }
}

impl Default for Coordinate {
    fn default() -> Self {
        Coordinate {
            position: [0.0; DIMENSIONS],
            height: LEAST_HEIGHT,
            error: WORST_ERROR,
        }
    }
}

impl Coordinate {
    /// Expected round trip between two nodes.
    pub fn distance(&self, other: &Coordinate) -> Duration {
        let milliseconds = self.milliseconds_to(other).clamp(0.0, FARTHEST);
        Duration::from_secs_f64(milliseconds / 1e3)
    }

    fn milliseconds_to(&self, other: &Coordinate) -> f64 {
        length(difference(&self.position, &other.position)) + self.height + other.height
    }

    /// Whether another node may claim this of itself.
    pub fn is_plausible(&self) -> bool {
        let bounded = |value: &f64| value.is_finite() && value.abs() <= FARTHEST;
        self.position.iter().all(bounded)
            && (0.0..=FARTHEST).contains(&self.height)
            && (0.0..=WORST_ERROR).contains(&self.error)
    }

    /// Learns from one measured round trip to `other`. `chance` in `0.0..1.0`
    /// says which way to go where both are at the same place.
    pub fn learn(&mut self, other: &Coordinate, round_trip: Duration, chance: f64) {
        let measured = round_trip.as_secs_f64() * 1e3;
        if !(SHORTEST..=FARTHEST).contains(&measured) || !other.is_plausible() {
            return;
        }
        let expected = self.milliseconds_to(other);
        // How much this sample is worth beside what is known.
        let total = self.error + other.error;
        let weight = if total > 0.0 { self.error / total } else { 0.5 };
        let wrong = (expected - measured).abs() / measured;
        let learned = LEARN * weight;
        self.error = (wrong * learned + self.error * (1.0 - learned)).clamp(0.0, WORST_ERROR);

        let force = MOVE * weight * (measured - expected);
        let apart = difference(&self.position, &other.position);
        let flat = length(apart);
        let direction = match flat > 1e-9 {
            true => apart.map(|part| part / flat),
            false => any_direction(chance),
        };
        for (place, part) in self.position.iter_mut().zip(direction) {
            *place = (*place + force * part).clamp(-FARTHEST, FARTHEST);
        }
        // The height takes its share of the same force.
        if expected > 0.0 {
            let share = (self.height + other.height) / expected;
            self.height = (self.height + force * share).clamp(LEAST_HEIGHT, FARTHEST);
        }
    }
}

fn difference(a: &[f64; DIMENSIONS], b: &[f64; DIMENSIONS]) -> [f64; DIMENSIONS] {
    std::array::from_fn(|i| a[i] - b[i])
}

fn length(vector: [f64; DIMENSIONS]) -> f64 {
    vector.iter().map(|part| part * part).sum::<f64>().sqrt()
}

/// A direction of length 1 for each number in `0.0..1.0`.
fn any_direction(chance: f64) -> [f64; DIMENSIONS] {
    // Evenly spread over the sphere along a spiral.
    let up = 1.0 - 2.0 * chance.clamp(0.0, 1.0);
    let around = (chance * 1_000.0).fract() * std::f64::consts::TAU;
    let out = (1.0 - up * up).max(0.0).sqrt();
    [out * around.cos(), out * around.sin(), up]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Places on a plane with access links, and their true round trips.
    fn truth(a: usize, b: usize) -> f64 {
        let place = |n: usize| {
            (
                (n % 4) as f64 * 20.0,
                (n / 4) as f64 * 15.0,
                1.0 + n as f64 * 0.3,
            )
        };
        let ((ax, ay, ah), (bx, by, bh)) = (place(a), place(b));
        ((ax - bx).powi(2) + (ay - by).powi(2)).sqrt() + ah + bh
    }

    #[test]
    fn distances_are_learned_from_a_few_pairs() {
        const NODES: usize = 12;
        let mut nodes = [Coordinate::default(); NODES];
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as f64 / (1_u64 << 31) as f64
        };
        for round in 0..400 {
            for node in 0..NODES {
                // Each asks four of the others, never all.
                let other = (node + 1 + (round % 4)) % NODES;
                let round_trip = Duration::from_secs_f64(truth(node, other) / 1e3);
                let seen = nodes[other];
                nodes[node].learn(&seen, round_trip, next());
            }
        }
        let mut errors = Vec::new();
        for a in 0..NODES {
            for b in 0..a {
                let guessed = nodes[a].distance(&nodes[b]).as_secs_f64() * 1e3;
                errors.push((guessed - truth(a, b)).abs() / truth(a, b));
            }
        }
        errors.sort_by(f64::total_cmp);
        let median = errors[errors.len() / 2];
        assert!(median < 0.25, "median error {median}");
    }

    #[test]
    fn nonsense_teaches_nothing() {
        let mut own = Coordinate::default();
        let lie = Coordinate {
            position: [f64::NAN, 0.0, 0.0],
            ..Coordinate::default()
        };
        own.learn(&lie, Duration::from_millis(5), 0.1);
        own.learn(&Coordinate::default(), Duration::ZERO, 0.1);
        own.learn(&Coordinate::default(), Duration::from_secs(3_600), 0.1);
        assert_eq!(own, Coordinate::default());
        assert!(!lie.is_plausible());
    }

    proptest! {
        #[test]
        fn coordinates_stay_plausible(
            samples in prop::collection::vec((0.0..2e4_f64, 0.0..1.0_f64, any::<[f64; 3]>()), 0..60),
        ) {
            let mut own = Coordinate::default();
            for (milliseconds, chance, position) in samples {
                let other = Coordinate { position, ..Coordinate::default() };
                own.learn(&other, Duration::from_secs_f64(milliseconds / 1e3), chance);
                prop_assert!(own.is_plausible(), "{own:?}");
            }
        }
    }
}
