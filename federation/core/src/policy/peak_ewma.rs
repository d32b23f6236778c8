//! Peak-EWMA: of two draws that with the lower average time, which rises at once
//! and sinks slowly, multiplied by the calls that are out there. Finagle
//! documentation, "Clients: Power of two choices + peak EWMA"; tower-balance,
//! `PeakEwma`.
//!
//! ```text
//! cost = ewma x (outstanding + 1)
//! a call that took longer than ewma:  ewma = time
//! another:                            ewma = ewma x w + time x (1 - w),  w = e^(-age / decay)
//! ```
//!
//! Between calls the average sinks towards nothing, so that a slow server is
//! tried again.
//!
//! Mended: averages are of each function, not of all in one; a failure is a long
//! time and not a short one (black hole); a server that was not tried is expected
//! to take what the core works out, and not nothing; averages sink towards that;
//! calls count for each core. `faithful=true` leaves all of that out.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use super::servers::{self, EVERYWHERE, FAITHFUL, Own, fresh, in_ms, ranked};
use super::{
    Candidate, Case, ClassKey, Decision, Ending, Field, Key, Kind, Malformed, Memory, Origin,
    Outcome, Parameters, Policy, Range, Reach, Reaches, Terms, Which, Wishes,
};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends a call to the better of two draws by a time that rises at once and sinks slowly, and by calls that are out",
    keys: &[
        Key {
            name: "decay",
            about: "after how long an average counts for a third",
            unit: "",
            range: Range::Time {
                least: Duration::from_millis(100),
                most: Duration::from_secs(3_600),
            },
            default: "10s",
        },
        FAITHFUL,
    ],
    build: |parameters| Arc::new(PeakEwma::new(parameters)),
};

const NAME: &str = "peak-ewma";

/// Pairs of function and peer that are remembered.
const ROWS: usize = 2_048;

/// A failure counts as so many times the usual time.
const FAILURE: f64 = 4.0;

struct PeakEwma {
    /// Average time in milliseconds, and when it was that, in nanoseconds.
    times: Memory<2>,
    decay: Duration,
    faithful: bool,
    own: Own,
}

impl PeakEwma {
    fn new(parameters: &Parameters) -> PeakEwma {
        PeakEwma {
            times: Memory::new(ROWS),
            decay: parameters.time("decay"),
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

    /// What is left of an average at a moment; `prior` is what it sinks to.
    fn time(&self, which: Which, prior: f64, now: Time) -> f64 {
        let Some(row) = self.times.find(which) else {
            return prior;
        };
        let then = Time::from_nanos(row[1].get().unwrap_or_default() as u64);
        let left = fresh(now.since(then), self.decay);
        prior + (row[0].get().unwrap_or(prior) - prior) * left
    }

    fn cost(
        &self,
        function: Which,
        now: Time,
        candidate: &Candidate<'_>,
        terms: &mut Terms<'_>,
    ) -> u64 {
        let held = f64::from(candidate.peer.held());
        let (prior, held) = match self.faithful {
            true => (0.0, held),
            false => (in_ms(candidate.delay()), held / servers::cores(candidate)),
        };
        let time = self.time(function.to_peer(candidate.peer.key), prior, now);
        terms.put("peak_ewma_ms", time);
        terms.put("cost_ms", time * (held + 1.0));
        ranked(time * (held + 1.0))
    }
}

impl Policy for PeakEwma {
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
        let now = case.snapshot.now;
        let function = self.which(case.function());
        let view = case.snapshot.view;
        let near = servers::better_of_two(case, view.neighbours(), |candidate, terms| {
            self.cost(function, now, candidate, terms)
        });
        if case.run_well_here().is_some() {
            let service = case.snapshot.local.service.map(in_ms).unwrap_or_default();
            let time = self.time(function.at(None), service, now);
            let cost = time * (self.own.in_flight() + 1.0);
            case.own_terms().put("cost_ms", cost);
            if near
                .as_ref()
                .is_none_or(|(least, _)| ranked(cost) <= *least)
            {
                return Decision::Run;
            }
        }
        if let Some((_, candidate)) = near {
            return case.send(candidate.place, Reach::Horizontal);
        }
        let cost = |candidate: &Candidate<'_>, terms: &mut Terms<'_>| {
            self.cost(function, now, candidate, terms)
        };
        // The two draws may have met none of the few that fit.
        let near = case.best_of(view.neighbours(), Reach::Horizontal, cost);
        near.or_else(|| servers::cloud(case, cost))
            .unwrap_or_else(|| servers::otherwise(case))
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let which = self.which(Which::of(outcome.function));
        let took = in_ms(outcome.took());
        let usual = || {
            let all = self.times.find(which);
            all.and_then(|row| row[0].get()).unwrap_or(took)
        };
        let time = match outcome.ending {
            _ if self.faithful => took,
            Ending::Answered => {
                let all = self.times.entry(which, outcome.ended);
                all[0].blend(took, 0.1);
                all[1].set(outcome.ended.as_nanos() as f64);
                took
            }
            Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late => {
                took.max(usual() * FAILURE)
            }
        };
        let row = self
            .times
            .entry(which.at(outcome.to.as_ref()), outcome.ended);
        let then = Time::from_nanos(row[1].get().unwrap_or_default() as u64);
        let left = fresh(outcome.ended.since(then), self.decay);
        row[0].change(|old| match old {
            Some(old) if time < old => old * left + time * (1.0 - left),
            Some(_) | None => time,
        });
        row[1].set(outcome.ended.as_nanos() as f64);
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.own.look(field)
    }

    fn weight(&self, function: &FunctionName, _: ClassKey, to: Option<&PeerId>) -> Option<f64> {
        let which = self.which(Which::of(function)).at(to);
        self.times.find(which)?[0].get()
    }

    fn save(&self) -> Option<Vec<u8>> {
        self.times.save()
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.times.restore(saved, now)?;
        for (_, row) in self.times.rows() {
            row[1].set(now.as_nanos() as f64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
