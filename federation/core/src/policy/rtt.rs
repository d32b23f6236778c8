//! Each call goes where the network is predicted to be quickest.
//!
//! `argmin_i RTT_i(size)`, with `RTT_i` a straight line through what calls took on
//! their way to `i` and back, by the bytes of their bodies: the reference, section
//! "Dispatcher estimators" (type `rtt`); C. Cicconetti, M. Conti, A. Passarella,
//! "Low-latency distributed computation offloading for pervasive environments",
//! PerCom 2019. A destination that was not used for `stale` is taken to be at no
//! distance, so that it is tried.
//!
//! Mended, beside what [`super::broker`] mends:
//! * Of a fast node and one four times as slow it sent nearly all to the slow one, for
//!   what a call takes there counted nothing: here what calls are known to take there
//!   is added, times our own calls that are out there for each of its cores.
//! * A destination of which nothing was known got all calls until it had answered: here
//!   it is what is expected of it that counts, and a share of calls, `explore`, goes to
//!   whom the least is known of, one at a time.
//! * What a function's calls took said nothing of another's way to the same node: here
//!   the line is of the node.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::broker::{
    Broker, CLOUD, Destination, EXPLORE, FAITHFUL, Judged, Lines, Links, ROUTING, Rule, STALE,
    Sight, WINDOW, crowding, expected_work, processing, soonest,
};
use super::{Case, Ending, Kind, Malformed, Outcome, Parameters, Terms, Which};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends each call where its way there and back is predicted to be shortest, by its size",
    keys: &[WINDOW, STALE, EXPLORE, CLOUD, ROUTING, FAITHFUL],
    build: |parameters| Arc::new(Broker::new(parameters, Rtt::new(parameters))),
};

const NAME: &str = "rtt";

/// Predicts the way.
struct Rtt {
    links: Links,
    /// What calls take there, in seconds.
    work: Lines,
    explore: f64,
    stale: f64,
}

impl Rtt {
    fn new(parameters: &Parameters) -> Rtt {
        let links = Links::new(parameters);
        let stale = parameters.time(STALE.name).as_secs_f64();
        Rtt {
            work: Lines::new(parameters.whole(WINDOW.name), stale, links.is_faithful()),
            explore: parameters.number(EXPLORE.name),
            stale,
            links,
        }
    }
}

impl Rule for Rtt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'t>(&'t self, sight: &Sight<'_>, terms: &mut Terms<'_>) -> Judged<'t> {
        let (way, age) = self.links.way(sight);
        terms.put("rtt_s", way);
        let weight = match self.links.is_faithful() {
            true if self.work.is_out(sight.which) => f64::INFINITY,
            true => way,
            false => {
                let known = self.work.predict(sight.which, 0.0, sight.now);
                let work = known.map_or_else(|| expected_work(sight), |(work, _)| work);
                terms.put("processing_s", work);
                way + work * crowding(sight)
            }
        };
        Judged {
            weight,
            age,
            row: None,
        }
    }

    fn pick(&self, all: &[Destination<'_>], case: &mut Case<'_>) -> Option<usize> {
        soonest(
            all,
            case,
            self.links.is_faithful(),
            (self.explore, self.stale),
        )
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.links.observe(outcome);
        let which = Which::of(outcome.function).class(outcome.class);
        let which = which.at(outcome.to.as_ref());
        match (outcome.ending, self.links.is_faithful()) {
            (Ending::Answered, false) => {
                let sample = (0.0, processing(outcome));
                self.work.learn(which, sample, outcome.ended);
            }
            (Ending::Answered, true) => {}
            (_, true) => self.work.take_out(which, outcome.ended),
            (Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late, false) => {}
        }
    }

    fn open(&self) {
        self.links.open();
        self.work.open();
    }

    fn save(&self) -> Option<Vec<u8>> {
        self.work.save()
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.work.restore(saved, now)
    }
}

#[cfg(test)]
mod tests;
