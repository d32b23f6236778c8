//! Hiku: workers that end a call of a function queue as idle for that function,
//! and a call of it is pulled by the idle one that has the fewest calls; without
//! one it goes to the worker with the fewest. S. Akbari, M. Hauswirth, "Hiku:
//! Pull-based scheduling for serverless computing", CCGrid 2025.
//!
//! The queue is of each node and not in one place, and answers are the pull.
//!
//! Mended: an instance that a worker let go of is not idle: what its newest word
//! denies is no longer believed to be there, and nothing is for longer than
//! `idle`; calls count for each core; of workers alike the nearest; this node is
//! the first of them where the function is warm. `faithful=true` leaves that out.

use std::sync::Arc;
use std::time::Duration;

use weir_node_core::time::Time;

use super::idle::IdleQueue;
use super::servers::{self, EVERYWHERE, FAITHFUL, Own, in_flight, in_ms, ranked};
use super::{
    Case, Decision, Ending, Field, Key, Kind, Origin, Outcome, Parameters, Policy, Range, Reach,
    Reaches, Wishes,
};
use crate::facts::{FunctionKey, PeerKey};
use crate::snapshot::Here;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends a call to a worker that has just ended one of the same function, else to the one with the fewest calls",
    keys: &[
        Key {
            name: "idle",
            about: "how long an instance is taken to wait after a call",
            unit: "",
            range: Range::Time {
                least: Duration::from_millis(10),
                most: Duration::from_secs(3_600),
            },
            default: "10s",
        },
        FAITHFUL,
    ],
    build: |parameters| Arc::new(Hiku::new(parameters)),
};

const NAME: &str = "hiku";

struct Hiku {
    idle: IdleQueue,
    age: Duration,
    faithful: bool,
    own: Own,
}

impl Hiku {
    fn new(parameters: &Parameters) -> Hiku {
        let faithful = parameters.flag("faithful");
        Hiku {
            idle: IdleQueue::new(),
            age: match faithful {
                true => Duration::MAX,
                false => parameters.time("idle"),
            },
            faithful,
            own: Own::default(),
        }
    }

    /// The worker of whom the fewest calls are known, of those that wait for one.
    fn pulled(&self, case: &mut Case<'_>) -> Option<Decision> {
        let function = case.key().as_u64();
        let faithful = self.faithful;
        let found = self.idle.find(
            case,
            function,
            self.age,
            |peer, _| {
                let load = peer.load();
                let calls = load.running.saturating_add(load.waiting).max(peer.held());
                let cores = f64::from(load.cpu_total.max(1_000)) / 1e3;
                match faithful {
                    true => u64::from(calls) << 20,
                    false => {
                        let near = in_ms(peer.round_trip()) as u64;
                        (ranked(f64::from(calls) / cores) << 20) + near.min((1 << 20) - 1)
                    }
                }
            },
            // A peer that says something of the function says whether it is warm.
            |candidate| faithful || candidate.told_service().is_none() || candidate.is_warm(),
        )?;
        case.terms(&found.candidate).put("pulls", 1.0);
        if !case.is_trial() {
            self.idle.take(&found);
        }
        Some(case.send(found.candidate.place, Reach::Horizontal))
    }
}

impl Policy for Hiku {
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
        let warm = case.snapshot.local.here == Here::Warm && !self.faithful;
        if let Some(decision) = case.run_well_here().filter(|_| warm) {
            return decision;
        }
        if let Some(decision) = self.pulled(case) {
            return decision;
        }
        let own = |case: &mut Case<'_>| {
            let calls = match self.faithful {
                true => self.own.calls(),
                false => self.own.in_flight(),
            };
            case.own_terms().put("calls", calls);
            ranked(calls) << 20
        };
        servers::least(case, own, |candidate, terms| {
            let calls = match self.faithful {
                true => in_flight(candidate) * servers::cores(candidate),
                false => in_flight(candidate),
            };
            terms.put("calls", calls);
            let near = match self.faithful {
                true => 0,
                false => in_ms(candidate.peer.round_trip()) as u64,
            };
            (ranked(calls) << 20) + near.min((1 << 20) - 1)
        })
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        if let Some(peer) = &outcome.to
            && outcome.ending == Ending::Answered
        {
            let function = FunctionKey::of(outcome.function).as_u64();
            self.idle.join(PeerKey::of(peer), function, outcome.ended);
        }
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.own.look(field)
    }
}

#[cfg(test)]
mod tests;
