//! Each call goes where its way and its processing are predicted to end soonest.
//!
//! `argmin_i RTT_i(size) + P_i(load)`, with `RTT_i` as [`super::rtt`] has it and `P_i` a
//! straight line through what calls took there, by how loaded `i` was: the reference,
//! section "Dispatcher estimators" (type `util`); C. Cicconetti, M. Conti, A. Passarella,
//! "Low-latency distributed computation offloading for pervasive environments", PerCom
//! 2019, and "Uncoordinated access to serverless computing in MEC systems for IoT",
//! Computer Networks 172, 2020. There is a line for each size of a call's body.
//!
//! Mended, beside what [`super::broker`] mends:
//! * Each size in bytes had a line of its own, without a bound, so that calls of all
//!   sizes taught nothing: here sizes within a factor of four share one.
//! * A load counted as 0 when it was ten seconds old, and ended at 99 %: here it is
//!   halved in that time, and counts the calls that wait and our own that are out, so
//!   that a node does not saturate before another is used.
//! * What was unknown took 0 s, and got all calls until one was answered: here it is
//!   what is expected, and a share of calls, `explore`, finds out.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::broker::{
    Broker, CLOUD, Destination, EXPLORE, FAITHFUL, Judged, Lines, Links, ROUTING, Rule, STALE,
    Sent, Sight, WINDOW, crowding, expected_work, load_of, processing, size_class, soonest,
};
use super::{Case, Ending, Kind, Malformed, Outcome, Parameters, Terms, Which};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends each call where its way, by its size, and its processing, by the load there, are predicted to end soonest",
    keys: &[WINDOW, STALE, EXPLORE, CLOUD, ROUTING, FAITHFUL],
    build: |parameters| {
        let rule = Util {
            links: Links::new(parameters),
            work: ByLoad::new(parameters),
            explore: parameters.number(EXPLORE.name),
        };
        Arc::new(Broker::new(parameters, rule))
    },
};

const NAME: &str = "util";

/// Predicts the way and the processing.
struct Util {
    links: Links,
    work: ByLoad,
    explore: f64,
}

/// Times by destination, function, class and size, as lines over its load.
pub(super) struct ByLoad {
    lines: Lines,
    /// In seconds.
    stale: f64,
    is_faithful: bool,
}

impl ByLoad {
    /// Times with the parameters [`WINDOW`], [`STALE`] and [`FAITHFUL`].
    pub(super) fn new(parameters: &Parameters) -> ByLoad {
        let is_faithful = parameters.flag(FAITHFUL.name);
        ByLoad {
            // What a node does with a call stays as it is: never stale.
            lines: Lines::new(parameters.whole(WINDOW.name), f64::INFINITY, is_faithful),
            stale: parameters.time(STALE.name).as_secs_f64(),
            is_faithful,
        }
    }

    fn part(&self, which: Which, bytes: f64) -> Which {
        which.part(match self.is_faithful {
            true => bytes as u64,
            false => size_class(bytes),
        })
    }

    /// How loaded a destination is, in percent, and what that means for a call, in
    /// seconds, with how long ago that was tried; `None` for that where it was not.
    pub(super) fn predict(&self, sight: &Sight<'_>) -> (f64, Option<(f64, f64)>) {
        let kept = (self.stale, self.is_faithful);
        let load = load_of(
            sight.candidate.map(|one| one.peer),
            sight.held,
            sight.now,
            kept,
        );
        let which = self.part(sight.which, sight.body_bytes);
        // Calls that came while it was crowded say little of when it is not: where
        // times do not rise with the load, at a lesser one than was sampled they are in
        // proportion to what is there, as unknown ones are (`crowding`).
        let flat = |took: f64, at: f64| took * ((100.0 + load) / (100.0 + at)).min(1.0);
        let known = self.lines.predict_by(which, load, sight.now, flat);
        (load, known)
    }

    /// Whether an error took a destination out of the table, as published.
    pub(super) fn is_out(&self, sight: &Sight<'_>) -> bool {
        self.is_faithful && self.lines.is_out(sight.which)
    }

    /// Notes how loaded the destination of a call is.
    pub(super) fn sends(&self, sent: &Sent<'_>) {
        let kept = (self.stale, self.is_faithful);
        let load = load_of(sent.peer, sent.held, super::broker::seconds(sent.now), kept);
        let which = self.part(sent.which, sent.body_bytes);
        self.lines.note(which, load, sent.now);
    }

    /// Learns from a call that was answered after so many seconds.
    pub(super) fn observe(&self, outcome: &Outcome<'_>, took: f64) {
        let which = Which::of(outcome.function).class(outcome.class);
        let which = which.at(outcome.to.as_ref());
        match (outcome.ending, self.is_faithful) {
            (Ending::Answered, _) => {
                let which = self.part(which, outcome.sent_bytes as f64);
                let load = self.lines.noted(which).unwrap_or(0.0);
                self.lines.learn(which, (load, took), outcome.ended);
            }
            (Ending::Lost | Ending::Late, false) => {
                let which = self.part(which, outcome.sent_bytes as f64);
                let load = self.lines.noted(which).unwrap_or(0.0);
                let took = outcome.took().as_secs_f64();
                self.lines.learn(which, (load, took), outcome.ended);
            }
            (Ending::Failed | Ending::Refused, false) => {}
            (Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late, true) => {
                self.lines.take_out(which, outcome.ended);
            }
        }
    }

    pub(super) fn open(&self) {
        self.lines.open();
    }

    pub(super) fn save(&self) -> Option<Vec<u8>> {
        self.lines.save()
    }

    pub(super) fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.lines.restore(saved, now)
    }

    pub(super) fn soonest(
        &self,
        all: &[Destination<'_>],
        case: &mut Case<'_>,
        explore: f64,
    ) -> Option<usize> {
        soonest(all, case, self.is_faithful, (explore, self.stale))
    }

    /// What a call takes where that was not tried, in seconds: as published nothing.
    pub(super) fn unknown(&self, expected: f64) -> (f64, f64) {
        match self.is_faithful {
            true => (0.0, f64::INFINITY),
            false => (expected, f64::INFINITY),
        }
    }
}

impl Rule for Util {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'t>(&'t self, sight: &Sight<'_>, terms: &mut Terms<'_>) -> Judged<'t> {
        let (way, _) = self.links.way(sight);
        let (load, known) = self.work.predict(sight);
        let unknown = || self.work.unknown(expected_work(sight) * crowding(sight));
        let (work, age) = known.unwrap_or_else(unknown);
        if terms.is_watched() {
            terms.put("rtt_s", way);
            terms.put("load_percent", load);
            terms.put("processing_s", work);
        }
        let weight = match self.work.is_out(sight) {
            true => f64::INFINITY,
            false => way + work,
        };
        Judged {
            weight,
            age,
            row: None,
        }
    }

    fn pick(&self, all: &[Destination<'_>], case: &mut Case<'_>) -> Option<usize> {
        self.work.soonest(all, case, self.explore)
    }

    fn sends(&self, sent: &Sent<'_>) {
        self.work.sends(sent);
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.links.observe(outcome);
        self.work.observe(outcome, processing(outcome));
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
