//! Each call goes where its speed is greatest for what was sent there already.
//!
//! `argmax_i (1/L_i)^alpha / (n_i / (now - t_i))^beta`, with `L_i` the last response
//! time, `n_i` the number of calls served and `t_i` when the last one was: the
//! reference, section "Forwarding-table policies"; the rule is that of cellular
//! schedulers (H. Kushner, P. Whiting, "Convergence of proportional-fair sharing
//! algorithms under general conditions", IEEE Trans. Wireless Communications 3(4),
//! 2004). `alpha=0, beta=1` is near round robin, `alpha=1, beta=0` takes the fastest.
//!
//! Mended, beside what [`super::broker`] and its table mend:
//! * With `n_i` counted since ever and `t_i` the last answer the rule split evenly
//!   between nodes of which one was four times as fast: here the rate `r_i` of calls
//!   sent there is a moving average over `window`, as cellular schedulers have it, and
//!   `argmax_i (1/w_i)^alpha / r_i^beta` holds `r_i` in proportion to
//!   `w_i^(-alpha/beta)`.
//! * A call counted when it was answered, so that all that came before that went the
//!   same way: here it counts when it is sent.
//! * What a queue does to response times is seen one response time later, by when all
//!   calls had gone the other way: here our own calls there for each core count at once.
//! * One slow answer was all that was known of a node: here weights are averages of
//!   the last few.

use std::sync::Arc;
use std::time::Duration;

use super::broker::{
    Broker, CLOUD, Destination, FAITHFUL, Judged, ROUTING, Rule, STALE, Sight, Table, cell, least,
    seconds,
};
use super::{Case, Ending, Key, Kind, Outcome, Range, Terms, Which};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends each call where speed is greatest for the rate of calls sent there already",
    keys: &[
        Key {
            name: "alpha",
            about: "how much speed counts",
            unit: "exponent",
            range: EXPONENT,
            default: "1",
        },
        Key {
            name: "beta",
            about: "how much counts what was sent there already",
            unit: "exponent",
            range: EXPONENT,
            default: "1",
        },
        Key {
            name: "window",
            about: "over which time the rate of calls is averaged",
            unit: "",
            range: Range::Time {
                least: Duration::from_millis(100),
                most: Duration::from_secs(3_600),
            },
            default: "10s",
        },
        STALE,
        CLOUD,
        ROUTING,
        FAITHFUL,
    ],
    build: |parameters| {
        let rule = ProportionalFairness {
            table: Table::of_last_samples(parameters),
            alpha: parameters.number("alpha"),
            beta: parameters.number("beta"),
            window: parameters.time("window").as_secs_f64(),
        };
        Arc::new(Broker::new(parameters, rule))
    },
};

const EXPONENT: Range = Range::Number {
    least: 0.0,
    most: 8.0,
};

const NAME: &str = "proportional-fairness";

/// The rate below which all are alike, as calls in a window: one that was never
/// sent a call is not infinitely far behind.
const RATE_MIN: f64 = 0.1;

/// Weighs speed against rate.
struct ProportionalFairness {
    table: Table,
    alpha: f64,
    beta: f64,
    /// In seconds.
    window: f64,
}

/// A power, without its cost where that is a usual one.
fn power(base: f64, exponent: f64) -> f64 {
    match exponent {
        0.0 => 1.0,
        1.0 => base,
        2.0 => base * base,
        _ => base.powf(exponent),
    }
}

impl ProportionalFairness {
    /// Calls in a second that go there.
    fn rate(&self, one: &Destination<'_>, now: f64) -> f64 {
        let served = one.row.and_then(|row| row[cell::SERVED].get());
        let since = one.row.and_then(|row| row[cell::SINCE].get());
        match self.table.is_faithful {
            true => served.unwrap_or(1.0) / (now - since.unwrap_or(0.0)),
            false => {
                let age = (now - since.unwrap_or(now)).max(0.0);
                served.unwrap_or(0.0) * (-age / self.window).exp() + RATE_MIN / self.window
            }
        }
    }

    /// What is least for the destination that gets the call: its slowness times its
    /// rate, the inverse of the formula.
    fn cost(&self, one: &Destination<'_>, now: f64) -> f64 {
        if !one.weight.is_finite() {
            return f64::INFINITY;
        }
        let ours = match self.table.is_faithful {
            true => 1.0,
            false => 1.0 + one.busy(),
        };
        let cost = power(one.weight, self.alpha) * power(self.rate(one, now), self.beta) * ours;
        // Published, one whose last answer is of this moment divides by zero.
        cost.min(f64::MAX)
    }

    fn charge(&self, case: &Case<'_>, one: &Destination<'_>) {
        let which = match one.place() {
            Some(place) => case.which().to_peer(case.snapshot.view.peers[place].key),
            None => case.which().at(None),
        };
        let now = seconds(case.snapshot.now);
        if let Some(row) = self.table.rows.entry_if_open(which, case.snapshot.now) {
            let rate = self.rate(one, now) - RATE_MIN / self.window;
            row[cell::SERVED].set(rate + 1.0 / self.window);
            row[cell::SINCE].set(now);
        }
    }
}

impl Rule for ProportionalFairness {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'t>(&'t self, sight: &Sight<'_>, terms: &mut Terms<'_>) -> Judged<'t> {
        self.table.judge(sight, terms)
    }

    fn pick(&self, all: &[Destination<'_>], case: &mut Case<'_>) -> Option<usize> {
        let now = seconds(case.snapshot.now);
        if case.is_watched() {
            for one in all {
                let (rate, cost) = (self.rate(one, now), self.cost(one, now));
                let mut terms = case.terms_at(one.place());
                terms.put("rate_per_s", rate);
                terms.put("score", 1.0 / cost);
            }
        }
        let draws = !self.table.is_faithful;
        let at = least(all, case, draws, |one| self.cost(one, now))?;
        if !case.is_trial() && !self.table.is_faithful {
            self.charge(case, &all[at]);
        }
        Some(at)
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.table.observe(outcome);
        if self.table.is_faithful && outcome.ending == Ending::Answered {
            let which = Which::of(outcome.function).class(outcome.class);
            let which = which.at(outcome.to.as_ref());
            let row = self.table.rows.entry(which, outcome.ended);
            row[cell::SERVED].change(|served| served.unwrap_or(1.0) + 1.0);
            row[cell::SINCE].set(seconds(outcome.ended));
        }
    }

    fn table(&self) -> Option<&Table> {
        Some(&self.table)
    }
}

#[cfg(test)]
mod tests;
