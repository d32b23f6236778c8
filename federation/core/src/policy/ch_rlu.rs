//! CH-RLU: consistent hashing by which only popular functions leave their home,
//! when its load, with noise in the place of what is not known of it, is above a
//! ceiling. A. Fuerst, P. Sharma, "Locality-aware load-balancing for serverless
//! clusters", HPDC 2022, section 4; noise and chain as in Ilúvatar's controller.
//!
//! ```text
//! load = calls / cores + N(rate / cores, 0.1)
//! a popular function: the first of 4 servers with load <= ceiling, else its home
//! another:            its home
//! ```
//!
//! *Popular* is the given part of functions that are called most often. The mean
//! of the noise is what may have come since the load was told.
//!
//! Mended: the rate is that of all calls which come to a server within the age of
//! its word, and not the average function's a second, so that noise grows with
//! age; our own calls there are counted, not guessed; a home that has no room is
//! left by calls of functions that are not popular too, instead of refusing them.
//! `faithful=true` has the published noise, and counts what was told alone.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::ring::{self, Points, Ring};
use super::servers::{self, EVERYWHERE, FAITHFUL, Own, fresh, in_flight, in_ms, lot, ranked};
use super::{
    Candidate, Case, Cell, Decision, Field, Key, Kind, Memory, Origin, Outcome, Parameters, Policy,
    Range, Reach, Reaches, Which, Wishes,
};
use crate::facts::PeerKey;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends a function's calls to its home on a ring of servers, and of popular functions on from there by load and noise",
    keys: &[
        Key {
            name: "ceiling",
            about: "load from which popular functions leave a server",
            unit: "calls for each core",
            range: Range::Number {
                least: 0.1,
                most: 100.0,
            },
            default: "1",
        },
        Key {
            name: "popular",
            about: "part of functions that is called most often and may leave home",
            unit: "",
            range: Range::Number {
                least: 0.0,
                most: 1.0,
            },
            default: "0.2",
        },
        FAITHFUL,
    ],
    build: |parameters| Arc::new(ChRlu::new(parameters)),
};

const NAME: &str = "ch-rlu";

/// Points of each server on the ring.
const POINTS: u64 = 3;

/// Servers at which a popular function is tried, from its home on.
const CHAIN_MAX: usize = 4;

/// Points that are looked at, to find somebody with room.
const STEPS_MAX: usize = 48;

/// Deviation of the noise.
const NOISE: f64 = 0.1;

/// Functions of which is known how often they are called.
const ROWS: usize = 512;

/// Over how long that is averaged.
const RATE_SPAN: std::time::Duration = std::time::Duration::from_secs(30);

struct ChRlu {
    ceiling: f64,
    popular: f64,
    faithful: bool,
    /// Calls of a function within [`RATE_SPAN`], and when that was so.
    calls: Memory<2>,
    /// Calls from which a function is popular.
    threshold: Cell,
    /// Calls a second of the average function.
    rate: Cell,
    ring: Ring,
    own: Own,
}

impl ChRlu {
    fn new(parameters: &Parameters) -> ChRlu {
        ChRlu {
            ceiling: parameters.number("ceiling"),
            popular: parameters.number("popular"),
            faithful: parameters.flag("faithful"),
            calls: Memory::new(ROWS),
            threshold: Cell::default(),
            rate: Cell::default(),
            ring: Ring::default(),
            own: Own::default(),
        }
    }

    fn recent(row: &[Cell; 2], now: Time) -> f64 {
        let then = Time::from_nanos(row[1].get().unwrap_or_default() as u64);
        row[0].get().unwrap_or_default() * fresh(now.since(then), RATE_SPAN)
    }

    fn is_popular(&self, function: Which, now: Time) -> bool {
        let Some(threshold) = self.threshold.get() else {
            return true;
        };
        let row = self.calls.find(function);
        row.is_some_and(|row| ChRlu::recent(row, now) >= threshold)
    }

    fn load(&self, candidate: &Candidate<'_>, local: f64, chance: u64) -> f64 {
        let noise = NOISE * normal(chance, candidate.peer.key);
        if self.faithful {
            let load = candidate.peer.load();
            let told = f64::from(load.running.saturating_add(load.waiting));
            let cores = servers::cores(candidate);
            return told / cores + self.rate.get().unwrap_or_default() / cores + noise;
        }
        // Calls that came for each core since it spoke: each that runs makes room
        // for one more in its run time.
        let load = in_flight(candidate);
        let service = candidate.seen_service().or(candidate.told_service());
        let service = service.map_or(local, in_ms).max(1.0);
        let since = (in_ms(candidate.age()) / service).min(1.0);
        load + noise * (1.0 + since) + since * NOISE
    }

    fn walk(&self, case: &mut Case<'_>, points: &Points) -> Option<Decision> {
        let snapshot = case.snapshot;
        let view = snapshot.view;
        let function = case.function();
        let home = ring::mix(case.key().as_u64());
        let local = snapshot.local.service.map_or(1.0, in_ms);
        let is_popular = self.is_popular(function, snapshot.now);
        let (mut tried, mut first, mut last) = (0, None, None);
        for key in points.from(home).take(STEPS_MAX) {
            if last == Some(key) {
                continue;
            }
            last = Some(key);
            if is_popular && tried == CHAIN_MAX {
                break;
            }
            let (decision, load) = if key == points.own {
                let Some(decision) = case.run_well_here() else {
                    continue;
                };
                (decision, self.own.in_flight())
            } else {
                let place = view.place_by(PeerKey::by(key));
                let place = place.filter(|place| view.neighbours().contains(*place));
                let Some(candidate) = place.and_then(|place| case.candidate(place)) else {
                    continue;
                };
                let load = self.load(&candidate, local, snapshot.chance);
                case.terms(&candidate).put("load_calls_per_core", load);
                (case.send(candidate.place, Reach::Horizontal), load)
            };
            if !is_popular || load <= self.ceiling {
                return Some(decision);
            }
            first.get_or_insert(decision);
            tried += 1;
        }
        first
    }
}

/// A draw of a normal distribution, nearly: the sum of four even draws (the
/// central limit).
fn normal(chance: u64, peer: PeerKey) -> f64 {
    let sum: f64 = (1..=4).map(|at| lot(chance ^ ring::mix(at), peer)).sum();
    (sum - 2.0) * 3.0_f64.sqrt()
}

impl Policy for ChRlu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        EVERYWHERE
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        origin != Origin::Here
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let points = self.ring.points();
        let points = points.as_ref().and_then(|points| points.as_deref());
        let walked = points.and_then(|points| self.walk(case, points));
        walked.unwrap_or_else(|| {
            let own = |_: &mut Case<'_>| ranked(self.own.in_flight());
            servers::least(case, own, |candidate, terms| {
                let load = in_flight(candidate);
                terms.put("load_calls_per_core", load);
                ranked(load)
            })
        })
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let row = self.calls.entry(Which::of(outcome.function), outcome.ended);
        let calls = ChRlu::recent(row, outcome.ended) + 1.0;
        row[0].set(calls);
        row[1].set(outcome.ended.as_nanos() as f64);
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.own.look(field);
        let now = field.now;
        let mut calls: Vec<f64> = self
            .calls
            .rows()
            .map(|(_, row)| ChRlu::recent(row, now))
            .collect();
        calls.sort_unstable_by(|one, other| other.total_cmp(one));
        let take = (self.popular * calls.len() as f64).round() as usize;
        match take.checked_sub(1).and_then(|last| calls.get(last)) {
            Some(least) => self.threshold.set(*least),
            None if self.popular > 0.0 => self.threshold.clear(),
            None => self.threshold.set(f64::INFINITY),
        }
        let count = calls.len().max(1) as f64;
        let sum: f64 = calls.iter().sum();
        self.rate.set(sum / count / RATE_SPAN.as_secs_f64());
        self.ring.look(field, POINTS)
    }
}

#[cfg(test)]
mod tests;
