//! `ucb1`: a bandit whose arms are the nodes of the area.
//!
//! Serverledge, area load balancer (reference, section 9), there over two
//! architectures, for which see `architecture-aware`; here over nodes. P. Auer, N.
//! Cesa-Bianchi, P. Fischer, "Finite-time analysis of the multiarmed bandit problem",
//! Machine Learning 47, 2002.
//!
//! Formula: `argmax mean(i) + c sqrt(ln t / n(i))`, reward `-ln(time in ms)`, for
//! each function and class.
//!
//! Mended: samples never aged, so that a node that became slow or fast stayed what it
//! had been: they lose half of their weight in the half-life. Every arm was tried
//! once before any was chosen, and had all calls until its first answer came: here an
//! untried node is as good as its report predicts, and calls that are out count. Cold
//! runs were not counted, so that a node that always starts was tried for ever: here
//! the start is left out of the time. The time was the run alone: here it is what the
//! caller waits. Failures were not counted, so that who fails at once was a good arm:
//! here they count as ten seconds.

use std::sync::Arc;
use std::time::Duration;

use weir_node_core::time::Time;

use super::area::{FAITHFUL, around, beyond, is_spread, receive};
use super::bandit::{AGE_INTERVAL, Bandit, Tried};
use super::learning::Malformed;
use super::{
    Case, Decision, Field, Key, Kind, Origin, Outcome, Policy, Range, Reaches, Reason, Which,
    Wishes,
};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "tries nodes and sends calls where they were answered soonest, by upper confidence bounds",
    keys: &[C, HALF_LIFE, FAITHFUL],
    build: |parameters| {
        Arc::new(Ucb1 {
            tried: Tried {
                bandit: Bandit::ucb1(parameters.number("c")),
                faithful: parameters.flag("faithful"),
                half_life: parameters.time("half-life"),
            },
        })
    },
};

const NAME: &str = "ucb1";

/// How much is tried.
pub(super) const C: Key = Key {
    name: "c",
    about: "weight of what is not known yet: more tries more",
    unit: "",
    range: Range::Number {
        least: 0.0,
        most: 100.0,
    },
    default: "0.8",
};

/// How long is remembered.
pub(super) const HALF_LIFE: Key = Key {
    name: "half-life",
    about: "time in which a sample loses half of its weight",
    unit: "",
    range: Range::Time {
        least: Duration::from_secs(1),
        most: Duration::from_secs(24 * 3_600),
    },
    default: "1m",
};

/// Tries nodes.
struct Ucb1 {
    tried: Tried,
}

impl Policy for Ucb1 {
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
        let pool = around(case);
        match (self.tried.best_node(case, pool, 0.0), self.tried.faithful) {
            (Some(decision), _) => decision,
            (None, true) => Decision::Reject(Reason::NoRoom),
            (None, false) => beyond(case),
        }
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        receive(case, |case| {
            let pool = around(case);
            self.tried.best_node(case, pool, 0.0)
        })
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let of = Which::of(outcome.function).class(outcome.class);
        let arm = of.at(outcome.to.as_ref());
        self.tried.learn(of, arm, outcome);
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
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
