//! Prequal: hot servers, which have many requests in flight, are avoided, and of
//! cold ones that of the lowest latency is taken. B. Wydrowski, R. Kleinberg, S. M.
//! Rumble, A. Archer, "Load is not what you should balance: Introducing Prequal",
//! NSDI 2024, section 4.
//!
//! ```text
//! hot:   requests in flight (RIF) above the quantile of all that are known
//! choose the cold one of the lowest latency; where all are hot, the lowest RIF
//! ```
//!
//! Mended: the load in answers and reports stands in for probes, which are sent to
//! those alone of whom nothing young is known; RIF is for each core, for servers
//! are unlike; latency is of each function, and has the way in it; what fails at
//! once is not quick (the paper's sinkholes); nothing is known of a server's
//! latency at its present RIF, so that it is the average at any.
//!
//! `faithful=true` decides by a pool of probes alone: three for each call, at most
//! 16, none older than a second, each used `b_reuse` times, the worst and the
//! oldest in turn removed with each call, and a random server while there are
//! fewer than two. Probes go out at the next tick, not with the call.

mod probes;

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use self::probes::Probes;
use super::servers::{self, EVERYWHERE, FAITHFUL, Own, in_flight, in_ms, lot, ranked};
use super::{
    Candidate, Case, Cell, ClassKey, Decision, Ending, Field, Key, Kind, Malformed, Memory, Origin,
    Outcome, Parameters, Policy, Probed, Range, Reach, Reaches, Which, Wishes,
};
use crate::snapshot::Draws;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends a call to the quickest of those that have few requests in flight, as probes and answers tell",
    keys: &[
        Key {
            name: "quantile",
            about: "part of servers that are cold",
            unit: "",
            range: Range::Number {
                least: 0.0,
                most: 1.0,
            },
            default: "0.84",
        },
        Key {
            name: "probes",
            about: "probes for each call, where it decides as published",
            unit: "",
            range: Range::Number {
                least: 0.0,
                most: 16.0,
            },
            default: "3",
        },
        Key {
            name: "age",
            about: "after how long what is known of a server is too old",
            unit: "",
            range: Range::Time {
                least: Duration::from_millis(10),
                most: Duration::from_secs(60),
            },
            default: "1s",
        },
        FAITHFUL,
    ],
    build: |parameters| Arc::new(Prequal::new(parameters)),
};

const NAME: &str = "prequal";

/// Pairs of function and peer that are remembered.
const ROWS: usize = 2_048;

/// Rank of hot servers, which all cold ones precede.
const HOT: u64 = 1 << 62;

/// Servers whose RIF is looked at for the quantile.
const SAMPLED_MAX: usize = 128;

/// Servers that are probed in a tick, as long as nothing young is known of them.
const PROBED_MAX: usize = 3;

/// How often is probed as published, and how often otherwise.
const TICK: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(200);

/// A failure counts as so many times the usual time.
const FAILURE: f64 = 4.0;

struct Prequal {
    /// Average time of a call there, and on the way, in milliseconds.
    times: Memory<1>,
    /// RIF from which a server is hot.
    hot: Cell,
    /// Calls since the last tick.
    calls: Cell,
    probes: Probes,
    quantile: f64,
    probes_per_call: f64,
    age: Duration,
    faithful: bool,
    own: Own,
}

impl Prequal {
    fn new(parameters: &Parameters) -> Prequal {
        Prequal {
            times: Memory::new(ROWS),
            hot: Cell::default(),
            calls: Cell::default(),
            probes: Probes::default(),
            quantile: parameters.number("quantile"),
            probes_per_call: parameters.number("probes"),
            age: parameters.time("age"),
            faithful: parameters.flag("faithful"),
            own: Own::default(),
        }
    }

    fn which(&self, function: Which) -> Which {
        match self.faithful {
            true => Which::NODE,
            false => function,
        }
    }

    fn latency(&self, function: Which, candidate: &Candidate<'_>) -> f64 {
        let row = self.times.find(function.to_peer(candidate.peer.key));
        let known = row.and_then(|row| row[0].get());
        known.unwrap_or_else(|| in_ms(candidate.delay()))
    }

    /// By rules of the paper's section 4.2: hot, cold, lexicographic.
    fn rank(&self, rif: f64, latency: f64) -> u64 {
        let hot = self.hot.get().unwrap_or(f64::INFINITY);
        match rif > hot {
            true => HOT + ranked(rif).min(HOT - 1),
            false => ranked(latency).min(HOT - 1),
        }
    }

    /// The best of the pool of probes, as published.
    fn probed_best(&self, case: &mut Case<'_>, function: Which) -> Option<Decision> {
        let now = case.snapshot.now;
        if self.probes.count(now, self.age) < 2 {
            return None;
        }
        let mut best: Option<(u64, usize, usize)> = None;
        for slot in 0..probes::POOL {
            let Some(probe) = self.probes.at(slot, now, self.age) else {
                continue;
            };
            let place = case.snapshot.view.place_by(probe.peer);
            let pool = case.snapshot.view.neighbours();
            let place = place.filter(|place| pool.contains(*place));
            let Some(candidate) = place.and_then(|place| case.candidate(place)) else {
                continue;
            };
            let latency = self.latency(function, &candidate);
            let mut terms = case.terms(&candidate);
            terms.put("rif_calls", probe.rif);
            terms.put("latency_ms", latency);
            let rank = self.rank(probe.rif, latency);
            if best.is_none_or(|(least, _, _)| rank < least) {
                best = Some((rank, slot, candidate.place));
            }
        }
        let (_, slot, place) = best?;
        if !case.is_trial() {
            self.probes.used(slot);
            self.probes.remove_one(now, self.age);
        }
        Some(case.send(place, Reach::Horizontal))
    }

    /// As published: a random server where the pool is too small.
    fn published(&self, case: &mut Case<'_>, function: Which) -> Decision {
        if !case.is_trial() {
            self.calls.add(1.0);
        }
        if let Some(decision) = self.probed_best(case, function) {
            return decision;
        }
        let chance = case.snapshot.chance;
        let own = |case: &mut Case<'_>| ranked(case.chance());
        servers::least(case, own, |candidate, terms| {
            let lot = lot(chance, candidate.peer.key);
            terms.put("draw", lot);
            ranked(lot)
        })
    }

    fn mended(&self, case: &mut Case<'_>, function: Which) -> Decision {
        let local = case.snapshot.local.service.map(in_ms).unwrap_or_default();
        let own = |case: &mut Case<'_>| {
            let rif = self.own.in_flight();
            let mut terms = case.own_terms();
            terms.put("rif_per_core", rif);
            terms.put("latency_ms", local);
            self.rank(rif, local)
        };
        servers::least(case, own, |candidate, terms| {
            let rif = in_flight(candidate);
            let latency = self.latency(function, candidate);
            if terms.is_watched() {
                terms.put("rif_per_core", rif);
                terms.put("latency_ms", latency);
                terms.put("hot_from_rif", self.hot.get().unwrap_or(f64::INFINITY));
            }
            self.rank(rif, latency)
        })
    }

    /// Sets from which RIF servers are hot.
    fn learn_quantile(&self, field: &Field<'_>) {
        let (view, pool) = (field.view, field.view.neighbours());
        let mut rifs: Vec<f64> = Vec::with_capacity(SAMPLED_MAX);
        if self.faithful {
            let slots = 0..probes::POOL;
            let known = slots.filter_map(|slot| self.probes.at(slot, field.now, self.age));
            rifs.extend(known.map(|probe| probe.rif));
        } else {
            let rif = |place: usize| {
                let peer = &view.peers[place];
                let load = peer.load();
                let told = load.running.saturating_add(load.waiting).max(peer.held());
                f64::from(told) * 1e3 / f64::from(load.cpu_total.max(1_000))
            };
            match pool.len() <= SAMPLED_MAX {
                true => rifs.extend(pool.members().map(rif)),
                false => {
                    let draws = Draws::new(field.chance).take(SAMPLED_MAX);
                    rifs.extend(draws.filter_map(|draw| pool.draw(draw)).map(rif));
                }
            }
            rifs.push(self.own.in_flight());
        }
        rifs.sort_unstable_by(f64::total_cmp);
        // What is above the last is hot; nobody is where all is one.
        let at = (self.quantile * rifs.len() as f64).ceil() as usize;
        match rifs.get(at.max(1) - 1) {
            Some(hot) => self.hot.set(*hot),
            None => self.hot.clear(),
        }
    }

    fn wish(&self, field: &Field<'_>, wishes: &mut Wishes) {
        let (view, pool) = (field.view, field.view.neighbours());
        let draws = Draws::new(field.chance ^ 1);
        let calls = self.calls.get().unwrap_or_default();
        self.calls.set(0.0);
        if self.faithful {
            let wanted = (calls * self.probes_per_call).ceil() as usize;
            let wanted = wanted.min(super::PROBES_MAX);
            for place in draws.take(wanted).filter_map(|draw| pool.draw(draw)) {
                wishes.probe(view.peers[place].id);
            }
            return;
        }
        if calls < 1.0 {
            return;
        }
        let old = |place: &usize| field.now.since(view.peers[*place].loaded()) > self.age;
        let draws = draws.take(4 * PROBED_MAX);
        let places = draws.filter_map(|draw| pool.draw(draw)).filter(old);
        for place in places.take(PROBED_MAX) {
            wishes.probe(view.peers[place].id);
        }
    }
}

impl Policy for Prequal {
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
        let function = self.which(case.function());
        match self.faithful {
            true => self.published(case, function),
            false => self.mended(case, function),
        }
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        if !self.faithful {
            self.calls.add(1.0);
        }
        let Some(peer) = &outcome.to else { return };
        let which = self.which(Which::of(outcome.function)).at(Some(peer));
        let took = in_ms(outcome.took());
        let row = self.times.entry(which, outcome.ended);
        let time = match outcome.ending {
            Ending::Answered => took,
            _ if self.faithful => took,
            Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late => {
                let known = row[0].get().unwrap_or(took);
                took.max((known * FAILURE).min(60_000.0))
            }
        };
        row[0].blend(time, 0.2);
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        self.own.look(field);
        let count = field.view.neighbours().len();
        self.probes.set_reuse(count, self.probes_per_call);
        self.learn_quantile(field);
        self.wish(field, wishes);
        field.now + if self.faithful { TICK } else { LOOK }
    }

    fn probed(&self, probed: &Probed) {
        if let Some(load) = probed.load {
            let rif = f64::from(load.running.saturating_add(load.waiting));
            self.probes.put(&probed.peer, rif, probed.now);
        }
    }

    fn weight(&self, function: &FunctionName, _: ClassKey, to: Option<&PeerId>) -> Option<f64> {
        let which = self.which(Which::of(function)).at(to);
        self.times.find(which)?[0].get()
    }

    fn save(&self) -> Option<Vec<u8>> {
        self.times.save()
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.times.restore(saved, now)
    }
}

#[cfg(test)]
mod tests;
