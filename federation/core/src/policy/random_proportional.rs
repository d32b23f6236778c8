//! Calls are shared out by chance, in inverse proportion to weights.
//!
//! `P(i) = (1/w_i) / sum_j (1/w_j)`, with weights in seconds: the reference, section
//! "Forwarding-table policies"; Cicconetti, Conti and Passarella, "A decentralized
//! framework for serverless edge computing in the Internet of Things", IEEE TNSM
//! 18(2), 2021, algorithm RP. One of infinite weight is never drawn.
//!
//! Of a pool of more members than one decision looks at, those that were drawn count
//! for those that were not: each by the inverse of how likely it was to be drawn
//! (D. Horvitz, D. Thompson, "A generalization of sampling without replacement from a
//! finite universe", JASA 47, 1952), and the eight best known are always there, so
//! that shares are near the formula's however many destinations there are.
//!
//! Mended, beside what [`super::broker`] and its table mend:
//! * The sum of inverse weights was kept from call to call and drifted; here it is
//!   formed anew with each draw.
//! * Newcomers starved: their weight is what is expected of them, and a share of
//!   calls, `explore`, goes to whom the least is known of.

use std::sync::Arc;

use super::broker::{
    ALPHA, Broker, CLOUD, Destination, EXPLORE, FAITHFUL, Judged, OPTIMISER, PERIOD, ROUTING, Rule,
    STALE, STAT, Sight, Table,
};
use super::{Case, Field, Kind, Outcome, Terms, Wishes};
use weir_node_core::time::Time;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "shares calls out by chance, in inverse proportion to response times",
    keys: &[
        OPTIMISER, ALPHA, PERIOD, STAT, STALE, EXPLORE, CLOUD, ROUTING, FAITHFUL,
    ],
    build: |parameters| {
        let table = Table::new(parameters).exploring(parameters);
        Arc::new(Broker::new(parameters, RandomProportional { table }))
    },
};

const NAME: &str = "random-proportional";

/// Draws by inverse weights.
struct RandomProportional {
    table: Table,
}

/// What a destination counts in a draw.
fn mass(one: &Destination<'_>) -> f64 {
    let mass = 1.0 / (one.weight * one.likely);
    if mass.is_finite() { mass } else { 0.0 }
}

impl Rule for RandomProportional {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'t>(&'t self, sight: &Sight<'_>, terms: &mut Terms<'_>) -> Judged<'t> {
        self.table.judge(sight, terms)
    }

    fn pick(&self, all: &[Destination<'_>], case: &mut Case<'_>) -> Option<usize> {
        if case.is_watched() {
            let total: f64 = all.iter().map(mass).sum();
            for one in all {
                case.terms_at(one.place())
                    .put("share", mass(one) / total.max(f64::MIN_POSITIVE));
            }
        }
        if let Some(at) = self.table.explored(all, case) {
            return Some(at);
        }
        let mut drawn = case.chance() * all.iter().map(mass).sum::<f64>();
        let mut last = None;
        for (at, one) in all.iter().enumerate() {
            let mass = mass(one);
            if mass <= 0.0 {
                continue;
            }
            last = Some(at);
            if drawn < mass {
                break;
            }
            drawn -= mass;
        }
        last
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
