//! `static`: this node keeps a fixed share of calls, and its peers have the rest in
//! equal parts.
//!
//! DFaaS, static strategy (reference, section 5.3): own weight 60, each of n peers
//! 40/n, own 100 where there is none.
//!
//! Formula: `p(here) = own`, `p(peer) = (1 - own) / n`, over the n peers that may
//! take the call.
//!
//! Mended: a peer that lacks the function was drawn because it shared any other one;
//! weights were rounded to whole percents; a destination without room lost the call.
//! Here only those that may take it count, and what its share has no room for goes
//! to the others, then up, then into the queue.

use std::sync::Arc;

use super::area::{FAITHFUL, around, beyond, draw, is_spread, receive, serves_here, to_any};
use super::{Case, Decision, Key, Kind, Origin, Policy, Range, Reach, Reaches, Reason};
use crate::snapshot::Pool;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "keeps a fixed share of calls here, and spreads the rest evenly over peers",
    keys: &[
        Key {
            name: "own",
            about: "share of calls that run here",
            unit: "%",
            range: Range::Number {
                least: 0.0,
                most: 100.0,
            },
            default: "60",
        },
        FAITHFUL,
    ],
    build: |parameters| {
        Arc::new(Static {
            own: parameters.number("own") / 100.0,
            faithful: parameters.flag("faithful"),
        })
    },
};

const NAME: &str = "static";

/// Draws by shares that nothing changes.
struct Static {
    own: f64,
    faithful: bool,
}

impl Static {
    fn spread(&self, case: &mut Case<'_>) -> Option<Decision> {
        let pool = around(case).filter(|pool| !pool.is_empty() && case.may_leave());
        let own = match pool {
            None => 1.0,
            Some(_) if !self.faithful && !serves_here(case) => 0.0,
            Some(_) => self.own,
        };
        case.own_terms().put("share", own);
        let keeps = case.chance() < own;
        if self.faithful {
            return match pool.filter(|_| !keeps) {
                None => case.run_here(),
                Some(pool) => drawn(case, pool),
            };
        }
        let here = |case: &mut Case<'_>| case.run_well_here();
        let away = |case: &mut Case<'_>| to_any(case, pool?, Reach::Horizontal);
        match keeps {
            true => here(case).or_else(|| away(case)),
            false => away(case).or_else(|| here(case)),
        }
    }
}

/// To the peer that is drawn, whatever it can take.
fn drawn(case: &mut Case<'_>, pool: &Pool) -> Option<Decision> {
    let place = draw(case, pool)?;
    let candidate = case.candidate(place)?;
    Some(case.send(candidate.place, Reach::Horizontal))
}

impl Policy for Static {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: !self.faithful,
        }
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        !is_spread(origin)
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        match (self.spread(case), self.faithful) {
            (Some(decision), _) => decision,
            (None, true) => Decision::Reject(Reason::NoRoom),
            (None, false) => beyond(case),
        }
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        receive(case, |case| self.spread(case))
    }
}

#[cfg(test)]
mod tests;
