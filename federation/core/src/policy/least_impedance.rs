//! Each call goes to the destination of the least weight.
//!
//! `argmin_i w_i`: the reference, section "Forwarding-table policies"; Cicconetti,
//! Conti and Passarella, "A decentralized framework for serverless edge computing in
//! the Internet of Things", IEEE TNSM 18(2), 2021, algorithm LI.
//!
//! Mended, beside what [`super::broker`] and its table mend:
//! * All calls went to the fastest until its weight had risen, and joint capacity was
//!   never reached: here a weight counts our own calls that are out there,
//!   `w_i (1 + held_i / cores_i)`, as Peak-EWMA does (Finagle's and linkerd's load
//!   balancer).
//! * Nothing was explored, so that a destination that was slow once was never used
//!   again, nor a new one: a share of calls, `explore`, goes to whom the least is
//!   known of.
//! * Of equal weights the first to be added got all: here chance decides.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::broker::{
    ALPHA, Broker, CLOUD, Destination, EXPLORE, FAITHFUL, Judged, OPTIMISER, PERIOD, ROUTING, Rule,
    STALE, STAT, Sight, Table, least,
};
use super::{Case, Field, Kind, Outcome, Terms, Wishes};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends each call to the destination of the least response time and of few calls of ours",
    keys: &[
        OPTIMISER, ALPHA, PERIOD, STAT, STALE, EXPLORE, CLOUD, ROUTING, FAITHFUL,
    ],
    build: |parameters| {
        let table = Table::new(parameters).exploring(parameters);
        Arc::new(Broker::new(parameters, LeastImpedance { table }))
    },
};

const NAME: &str = "least-impedance";

/// Takes the least.
struct LeastImpedance {
    table: Table,
}

impl LeastImpedance {
    fn impedance(&self, one: &Destination<'_>) -> f64 {
        match self.table.is_faithful {
            true => one.weight,
            false => one.weight * (1.0 + one.busy()),
        }
    }
}

impl Rule for LeastImpedance {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'t>(&'t self, sight: &Sight<'_>, terms: &mut Terms<'_>) -> Judged<'t> {
        self.table.judge(sight, terms)
    }

    fn pick(&self, all: &[Destination<'_>], case: &mut Case<'_>) -> Option<usize> {
        if case.is_watched() {
            for one in all {
                case.terms_at(one.place())
                    .put("impedance_s", self.impedance(one));
            }
        }
        if let Some(at) = self.table.explored(all, case) {
            return Some(at);
        }
        least(all, case, !self.table.is_faithful, |one| {
            self.impedance(one)
        })
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.table.observe(outcome);
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.table.tick(field.now)
    }

    fn table(&self) -> Option<&Table> {
        Some(&self.table)
    }
}

#[cfg(test)]
mod tests;
