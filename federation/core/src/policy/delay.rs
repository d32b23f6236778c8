//! Each call goes where it is predicted to be answered soonest, from how loaded the
//! destination is alone.
//!
//! `argmin_i D_i(load)`, with `D_i` a straight line through what calls took from here to
//! `i` and back, the way included, by how loaded `i` was, for each size of a body: the
//! reference, section "Dispatcher estimators" (type `delay`); C. Cicconetti, M. Conti,
//! A. Passarella, "Low-latency distributed computation offloading for pervasive
//! environments", PerCom 2019.
//!
//! Mended as [`super::util`] is, of which it is the simpler form: what is unknown is
//! what is expected, sizes within a factor of four share a line, and a load counts what
//! waits and our own calls.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::broker::{
    Broker, CLOUD, Destination, EXPLORE, FAITHFUL, Judged, ROUTING, Rule, STALE, Sent, Sight,
    WINDOW, crowding,
};
use super::util::ByLoad;
use super::{Case, Kind, Malformed, Outcome, Terms};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends each call where its answer is predicted soonest, by the load there and its size",
    keys: &[WINDOW, STALE, EXPLORE, CLOUD, ROUTING, FAITHFUL],
    build: |parameters| {
        let rule = Delay {
            whole: ByLoad::new(parameters),
            explore: parameters.number(EXPLORE.name),
        };
        Arc::new(Broker::new(parameters, rule))
    },
};

const NAME: &str = "delay";

/// Predicts all that a call takes.
struct Delay {
    whole: ByLoad,
    explore: f64,
}

impl Rule for Delay {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'t>(&'t self, sight: &Sight<'_>, terms: &mut Terms<'_>) -> Judged<'t> {
        let (load, known) = self.whole.predict(sight);
        let unknown = || self.whole.unknown(sight.expected * crowding(sight));
        let (delay, age) = known.unwrap_or_else(unknown);
        if terms.is_watched() {
            terms.put("load_percent", load);
            terms.put("delay_s", delay);
        }
        let weight = match self.whole.is_out(sight) {
            true => f64::INFINITY,
            false => delay,
        };
        Judged {
            weight,
            age,
            row: None,
        }
    }

    fn pick(&self, all: &[Destination<'_>], case: &mut Case<'_>) -> Option<usize> {
        self.whole.soonest(all, case, self.explore)
    }

    fn sends(&self, sent: &Sent<'_>) {
        self.whole.sends(sent);
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.whole.observe(outcome, outcome.took().as_secs_f64());
    }

    fn open(&self) {
        self.whole.open();
    }

    fn save(&self) -> Option<Vec<u8>> {
        self.whole.save()
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.whole.restore(saved, now)
    }
}

#[cfg(test)]
mod tests;
