//! C3: a call goes where a cubic function of the queue promises the soonest
//! answer. L. Suresh, M. Canini, S. Schmid, A. Feldmann, "C3: Cutting tail latency
//! in cloud data stores via adaptive replica selection", NSDI 2015, section 3.1;
//! its weights as Elasticsearch's adaptive replica selection has them.
//!
//! ```text
//! q   = 1 + outstanding x clients + queue
//! psi = R - 1/mu + q^3 / mu
//! ```
//!
//! `R` is the average time of a call as this node sees it, `1/mu` its average run
//! time, *queue* what the server told last; all averages move by `share`.
//!
//! Mended: with as many clients as servers, `outstanding x clients` punishes the
//! first call to a server as if all had sent one, and what it told is counted
//! twice: the queue is what the server tells, less what is ours, plus what is
//! ours, for each core, and ages by a second; times are of each function; what
//! fails at once is not quick; a server that was not tried is expected to take
//! what the core works out. `faithful=true` leaves that out. The paper's rate
//! control is not here: the core's own windows bound calls at a peer
//! ([`crate::snapshot::Window`]).

use std::sync::Arc;
use std::time::Duration;

use weir_node_core::time::Time;

use super::servers::{self, EVERYWHERE, FAITHFUL, Own, fresh, in_ms, ranked};
use super::{
    Candidate, Case, Decision, Ending, Field, Key, Kind, Malformed, Memory, Origin, Outcome,
    Parameters, Policy, Range, Reaches, Which, Wishes,
};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends a call where times seen and the cube of the queue promise the soonest answer",
    keys: &[
        Key {
            name: "share",
            about: "weight of a new measurement in averages",
            unit: "",
            range: Range::Number {
                least: 0.01,
                most: 1.0,
            },
            default: "0.3",
        },
        FAITHFUL,
    ],
    build: |parameters| Arc::new(C3::new(parameters)),
};

const NAME: &str = "c3";

/// Pairs of function and peer that are remembered.
const ROWS: usize = 2_048;

/// After how long what a peer said of its queue counts for a third.
const BELIEVE: Duration = Duration::from_secs(1);

/// A failure counts as so many times the time that was known.
const FAILURE: f64 = 4.0;

/// Where this does not matter: what is not known of a run time, in milliseconds.
const SERVICE_UNKNOWN: f64 = 1.0;

struct C3 {
    /// Average times of a call and of its run, in milliseconds.
    times: Memory<2>,
    share: f64,
    faithful: bool,
    own: Own,
}

impl C3 {
    fn new(parameters: &Parameters) -> C3 {
        C3 {
            times: Memory::new(ROWS),
            share: parameters.number("share"),
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

    /// The length of the queue that a call is taken to meet.
    fn queue(&self, candidate: &Candidate<'_>, clients: f64) -> f64 {
        let load = candidate.peer.load();
        let told = f64::from(load.running.saturating_add(load.waiting));
        let held = f64::from(candidate.peer.held());
        match self.faithful {
            true => 1.0 + held * clients + told,
            false => {
                let others = (told - held).max(0.0) * fresh(candidate.age(), BELIEVE);
                1.0 + (others + held) / servers::cores(candidate)
            }
        }
    }
}

fn psi(response: f64, service: f64, queue: f64) -> f64 {
    response - service + queue * queue * queue * service
}

impl Policy for C3 {
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
        let clients = case.snapshot.view.neighbours().len() as f64 + 1.0;
        let local = case.snapshot.local.service.map(in_ms);
        let own = |case: &mut Case<'_>| {
            let service = local.unwrap_or(SERVICE_UNKNOWN);
            let queue = match self.faithful {
                true => 1.0 + self.own.calls(),
                false => 1.0 + self.own.in_flight(),
            };
            let psi = psi(service, service, queue);
            case.own_terms().put("psi_ms", psi);
            ranked(psi.max(0.0))
        };
        servers::least(case, own, |candidate, terms| {
            let row = self.times.find(function.to_peer(candidate.peer.key));
            let known = |cell: usize| row.and_then(|row| row[cell].get());
            let told = candidate.told_service().map(in_ms);
            let prior = told.or(local).unwrap_or(SERVICE_UNKNOWN);
            let (response, service) = match self.faithful {
                // Nothing is known of one that was not tried: it is tried.
                true => (known(0).unwrap_or(0.0), known(1).unwrap_or(0.0)),
                false => (
                    known(0).unwrap_or_else(|| in_ms(candidate.delay())),
                    known(1).unwrap_or(prior),
                ),
            };
            let queue = self.queue(candidate, clients);
            let psi = psi(response, service, queue);
            if terms.is_watched() {
                terms.put("response_ms", response);
                terms.put("service_ms", service);
                terms.put("queue_calls", queue);
                terms.put("psi_ms", psi);
            }
            ranked(psi.max(0.0))
        })
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let Some(peer) = &outcome.to else { return };
        let which = self.which(Which::of(outcome.function)).at(Some(peer));
        let took = in_ms(outcome.took());
        let row = self.times.entry(which, outcome.ended);
        match outcome.ending {
            Ending::Answered => {
                row[0].blend(took, self.share);
                row[1].blend(in_ms(outcome.timing.ran).min(took), self.share);
            }
            Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late => {
                let known = row[0].get().unwrap_or(took);
                let counts = match self.faithful {
                    true => took,
                    false => took.max(known.min(1e6) * FAILURE),
                };
                row[0].blend(counts, self.share);
            }
        }
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.own.look(field)
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
