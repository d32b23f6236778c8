//! `linucb`: a bandit whose arms are the nodes of the area, and which knows how
//! loaded they are.
//!
//! Serverledge, area load balancer (reference, section 9), there over two
//! architectures, for which see `architecture-aware`; here over nodes. Disjoint
//! LinUCB: L. Li, W. Chu, J. Langford, R. Schapire, "A contextual-bandit approach to
//! personalized news article recommendation", WWW 2010, algorithm 1.
//!
//! Formula: `argmax x theta + alpha sqrt(x A^-1 x)` with `A = I + sum x x'`,
//! `b = sum reward x`, `theta = A^-1 b`, features `x = [1, 1 / (1 - u + 0.01)]`, and
//! reward `-ln(time in ms) - lambda max(0, (u - 0.75) / 0.25)`; u is the share of the
//! node in use when it was decided.
//!
//! Mended: as `ucb1`; and the use was that of memory alone: here it is that of
//! processors or memory, whichever is scarcer.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::area::{FAITHFUL, around, beyond, is_spread, receive};
use super::bandit::{AGE_INTERVAL, Bandit, Tried};
use super::learning::Malformed;
use super::ucb1::HALF_LIFE;
use super::{
    Case, Cell, Decision, Field, Key, Kind, Origin, Outcome, Policy, Range, Reaches, Reason, Which,
    Wishes,
};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "tries nodes and sends calls where they were answered soonest at such a load, by upper confidence bounds",
    keys: &[ALPHA, LAMBDA, HALF_LIFE, FAITHFUL],
    build: |parameters| {
        Arc::new(LinUcb {
            tried: Tried {
                bandit: Bandit::linear(parameters.number("alpha"), parameters.number("lambda")),
                faithful: parameters.flag("faithful"),
                half_life: parameters.time("half-life"),
            },
            used: Cell::default(),
        })
    },
};

const NAME: &str = "linucb";

/// How much is tried.
pub(super) const ALPHA: Key = Key {
    name: "alpha",
    about: "weight of what is not known yet: more tries more",
    unit: "",
    range: Range::Number {
        least: 0.0,
        most: 100.0,
    },
    default: "0.1",
};

/// How much load costs by itself.
pub(super) const LAMBDA: Key = Key {
    name: "lambda",
    about: "what a node that is in use by more than three quarters costs, at full use",
    unit: "",
    range: Range::Number {
        least: 0.0,
        most: 100.0,
    },
    default: "0",
};

/// Tries nodes, by their load.
struct LinUcb {
    tried: Tried,
    /// The share of this node that is in use.
    used: Cell,
}

impl LinUcb {
    fn spread(&self, case: &mut Case<'_>) -> Option<Decision> {
        let pool = around(case);
        let used = self.used.get().unwrap_or(0.0);
        self.tried.best_node(case, pool, used)
    }
}

impl Policy for LinUcb {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: !self.tried.faithful,
        }
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        !is_spread(origin)
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        match (self.spread(case), self.tried.faithful) {
            (Some(decision), _) => decision,
            (None, true) => Decision::Reject(Reason::NoRoom),
            (None, false) => beyond(case),
        }
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        receive(case, |case| self.spread(case))
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let of = Which::of(outcome.function).class(outcome.class);
        let arm = of.at(outcome.to.as_ref());
        self.tried.learn(of, arm, outcome);
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.used.set(self.tried.usage(&field.load));
        self.tried.age();
        field.now + AGE_INTERVAL
    }

    fn save(&self) -> Option<Vec<u8>> {
        self.tried.save()
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.tried.restore(saved, now)
    }
}

#[cfg(test)]
mod tests;
