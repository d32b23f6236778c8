//! Least outstanding requests: a call goes where this node has the fewest calls
//! out. Envoy documentation, "Supported load balancers: weighted least request";
//! the rule is older: A. Ephremides, P. Varaiya, J. Walrand, "A simple dynamic
//! routing problem", IEEE TAC 25(4), 1980.
//!
//! ```text
//! (outstanding + failures) / cores, then the nearer
//! ```
//!
//! Mended: servers are unlike, so calls count for each core; what fails at once
//! has always few calls out, so that a failure counts as one more call for ten
//! seconds or so; this node counts by what it runs; of equal ones the nearest is
//! taken. With `faithful=true` it is the least number alone, by chance among
//! equals.

use std::sync::Arc;
use std::time::Duration;

use super::servers::{self, EVERYWHERE, FAITHFUL, Own, fresh, in_ms, ranked};
use super::{
    Case, Decision, Ending, Field, Kind, Memory, Origin, Outcome, Policy, Reaches, Which, Wishes,
};
use weir_node_core::time::Time;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends a call where this node has the fewest calls out for each core",
    keys: &[FAITHFUL],
    build: |parameters| {
        Arc::new(LeastOutstanding {
            faithful: parameters.flag("faithful"),
            failures: Memory::new(ROWS),
            own: Own::default(),
        })
    },
};

const NAME: &str = "least-outstanding";

/// Peers of which failures are remembered.
const ROWS: usize = 512;

/// How long a failure counts as a call that is out.
const FAILURE: Duration = Duration::from_secs(10);

/// A failure that counts for less is over.
const LEAST: f64 = 0.05;

struct LeastOutstanding {
    faithful: bool,
    /// Failures that count, and when that was so, by peer.
    failures: Memory<2>,
    own: Own,
}

impl LeastOutstanding {
    fn failures(&self, peer: Which, now: Time) -> f64 {
        let Some(row) = self.failures.find(peer) else {
            return 0.0;
        };
        let (count, then) = (row[0].get(), row[1].get());
        let then = Time::from_nanos(then.unwrap_or_default() as u64);
        count.unwrap_or_default() * fresh(now.since(then), FAILURE)
    }
}

impl Policy for LeastOutstanding {
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
        let own = |case: &mut Case<'_>| {
            let calls = match self.faithful {
                true => self.own.calls(),
                false => self.own.in_flight(),
            };
            case.own_terms().put("outstanding_calls", calls);
            ranked(calls) << 20
        };
        servers::least(case, own, |candidate, terms| {
            let held = f64::from(candidate.peer.held());
            if self.faithful {
                terms.put("outstanding_calls", held);
                return ranked(held) << 20;
            }
            let failures = self.failures(Which::NODE.to_peer(candidate.peer.key), now);
            let calls = (held + failures) / servers::cores(candidate);
            terms.put("outstanding_calls", calls);
            let near = in_ms(candidate.peer.round_trip()) as u64;
            (ranked(calls) << 20) + near.min((1 << 20) - 1)
        })
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let Some(peer) = &outcome.to else { return };
        let which = Which::NODE.at(Some(peer));
        let more = match outcome.ending {
            Ending::Answered => 0.0,
            Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late => 1.0,
        };
        let count = self.failures(which, outcome.ended) + more;
        match count > LEAST {
            true => {
                let row = self.failures.entry(which, outcome.ended);
                row[0].set(count);
                row[1].set(outcome.ended.as_nanos() as f64);
            }
            false => self.failures.forget(which),
        }
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.own.look(field)
    }
}

#[cfg(test)]
mod tests;
