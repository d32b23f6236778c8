//! Hermod: calls are packed where the function is warm and the node busy, as long
//! as a core is free there; where none is free, they go to the least loaded. K.
//! Kaffes, N. J. Yadwadkar, C. Kozyrakis, "Hermod: Principled and practical
//! scheduling for serverless functions", SoCC 2022, section 5; classes as DSLab
//! FaaS has them.
//!
//! ```text
//! fewer calls than cores: warm and busy, cold and busy, warm and idle, cold and idle
//! otherwise:              least calls for each core
//! ```
//!
//! Mended: what a peer said is old, so that our own calls that it holds count
//! beside it; within a class the nearer comes first, and not the first of a list;
//! a peer that is further away than the function runs is no place to pack calls.
//! `faithful=true` leaves distance out, and counts what was told alone.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::servers::{self, EVERYWHERE, FAITHFUL, Own, in_ms, ranked};
use super::{Candidate, Case, Decision, Field, Kind, Origin, Policy, Reaches, Wishes};
use crate::snapshot::Here;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "packs calls where the function is warm and the node busy, and spreads them where no core is free",
    keys: &[FAITHFUL],
    build: |parameters| {
        Arc::new(Hermod {
            faithful: parameters.flag("faithful"),
            own: Own::default(),
        })
    },
};

const NAME: &str = "hermod";

/// Bits of a rank below the class.
const WITHIN: u32 = 48;

/// The class of servers without a free core, and of those that are too far away.
const FULL: u64 = 4;

struct Hermod {
    faithful: bool,
    own: Own,
}

/// Which class comes first.
fn class(calls: f64, cores: f64, warm: bool) -> u64 {
    match (calls < cores, calls > 0.0, warm) {
        (false, _, _) => FULL,
        (true, true, true) => 0,
        (true, true, false) => 1,
        (true, false, true) => 2,
        (true, false, false) => 3,
    }
}

fn rank(class: u64, within: f64) -> u64 {
    (class << WITHIN) + ranked(within).min((1 << WITHIN) - 1)
}

impl Hermod {
    fn rank_of(&self, candidate: &Candidate<'_>, service: f64) -> (u64, f64, f64) {
        let load = candidate.peer.load();
        let told = load.running.saturating_add(load.waiting);
        let calls = match self.faithful {
            true => told,
            false => told.max(candidate.peer.held()),
        };
        let (calls, cores) = (f64::from(calls), servers::cores(candidate));
        let way = in_ms(candidate.peer.round_trip());
        let is_far = !self.faithful && way > service.max(1.0);
        let class = match class(calls, cores, candidate.is_warm()) {
            _ if is_far => FULL,
            class => class,
        };
        let within = match (class, self.faithful) {
            (FULL, true) => calls / cores,
            (FULL, false) => calls / cores + way / service.max(1.0),
            (_, true) => 0.0,
            (_, false) => way,
        };
        (class, within, calls)
    }
}

impl Policy for Hermod {
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
        let service = case.snapshot.local.service.map(in_ms).unwrap_or(1.0);
        let warm = case.snapshot.local.here == Here::Warm;
        let own = |case: &mut Case<'_>| {
            let class = class(self.own.calls(), self.own.cores(), warm);
            case.own_terms().put("class", class as f64);
            let within = match class {
                FULL => self.own.in_flight(),
                _ => 0.0,
            };
            rank(class, within)
        };
        servers::least(case, own, |candidate, terms| {
            let (class, within, calls) = self.rank_of(candidate, service);
            if terms.is_watched() {
                terms.put("class", class as f64);
                terms.put("calls", calls);
            }
            rank(class, within)
        })
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.own.look(field)
    }
}

#[cfg(test)]
mod tests;
