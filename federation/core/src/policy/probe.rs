//! Each call goes where a question just asked promises the soonest answer.
//!
//! `argmin_i E_i`, with `E_i` what destination `i` says that the call would take there:
//! the reference, section "Dispatcher estimators" (type `probe`), and section "Simulated
//! computer" for what an executor answers: the time of the calls that wait there, and of
//! the call itself. C. Cicconetti, M. Conti, A. Passarella, "Low-latency distributed
//! computation offloading for pervasive environments", PerCom 2019.
//!
//! Here a destination is asked how many calls wait on how many cores, and the time of
//! one is what is known of the function there. Questions go between calls, each
//! `period` to at most 16 destinations, all of a small pool in turn and draws of a large
//! one, and an answer counts for `stale`.
//!
//! Mended, beside what [`super::broker`] mends:
//! * Each call asked all destinations one after the other, under one lock, before it was
//!   sent, so that one that was mute held up everybody: here no call waits for a
//!   question, and one that is not answered is forgotten.
//! * Times were whole milliseconds and left out the way: here they have the way in them,
//!   and our own calls that were sent after the answer.
//! * A question through a broker ran the function: here it asks for a load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weir_node_core::time::Time;

use super::broker::{
    Broker, CLOUD, Destination, EXPLORE, FAITHFUL, Judged, ROUTING, Rule, STALE, Sight, crowding,
    seconds, soonest,
};
use super::{
    Case, Field, Key, Kind, Memory, Outcome, PROBES_MAX, Probed, Range, Terms, Which, Wishes,
};
use crate::snapshot::Draws;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends each call where the answer to a question just asked promises to be soonest done with it",
    keys: &[
        Key {
            name: "period",
            about: "how often destinations are asked",
            unit: "",
            range: Range::Time {
                least: Duration::from_millis(100),
                most: Duration::from_secs(60),
            },
            default: "500ms",
        },
        STALE,
        EXPLORE,
        CLOUD,
        ROUTING,
        FAITHFUL,
    ],
    build: |parameters| {
        let rule = Probe {
            answers: Memory::new(NODES_MAX),
            asked: AtomicUsize::new(0),
            period: parameters.time("period"),
            stale: parameters.time(STALE.name).as_secs_f64(),
            explore: parameters.number(EXPLORE.name),
            is_faithful: parameters.flag(FAITHFUL.name),
        };
        Arc::new(Broker::new(parameters, rule))
    },
};

const NAME: &str = "probe";

/// Destinations whose answers are remembered.
const NODES_MAX: usize = 4_096;

/// Numbers of an answer: calls that wait for each core, whether all cores were busy, how
/// long the answer took in seconds, and when it came.
const WAITING: usize = 0;
const BUSY: usize = 1;
const WAY: usize = 2;
const CAME: usize = 3;

/// Goes by answers.
struct Probe {
    answers: Memory<4>,
    /// How many were asked so far, of small pools.
    asked: AtomicUsize,
    period: Duration,
    stale: f64,
    explore: f64,
    is_faithful: bool,
}

impl Rule for Probe {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'t>(&'t self, sight: &Sight<'_>, terms: &mut Terms<'_>) -> Judged<'t> {
        let answer = self.answers.find(sight.node);
        let came = answer.and_then(|answer| answer[CAME].get());
        let age = came.map_or(f64::INFINITY, |came| (sight.now - came).max(0.0));
        let number = |of: usize| answer.and_then(|answer| answer[of].get());
        let weight = match (number(WAITING), number(BUSY), number(WAY)) {
            (Some(waiting), Some(busy), Some(way)) if age <= self.stale => {
                let once = sight.service().unwrap_or_default();
                let ours = match self.is_faithful {
                    true => 0.0,
                    // What it answered counts them too, as far as they were there.
                    false => f64::from(sight.held) / f64::from(sight.cores.max(1)),
                };
                let there = once * (1.0 + (waiting + busy).max(ours));
                terms.put("answered_s", there);
                terms.put("answered_ago_s", age);
                match self.is_faithful {
                    true => (there * 1e3).floor() / 1e3,
                    false => way + there,
                }
            }
            _ => sight.expected * crowding(sight),
        };
        terms.put("estimate_s", weight);
        Judged {
            weight,
            age,
            row: None,
        }
    }

    fn pick(&self, all: &[Destination<'_>], case: &mut Case<'_>) -> Option<usize> {
        soonest(all, case, self.is_faithful, (self.explore, self.stale))
    }

    fn observe(&self, _: &Outcome<'_>) {}

    fn open(&self) {
        self.answers.open();
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        let near = field.view.neighbours();
        let far = field.regions.iter();
        let far = far.filter_map(|name| field.view.region(name));
        let pools: Vec<_> = [near].into_iter().chain(far).collect();
        let pools: Vec<_> = pools.into_iter().filter(|pool| !pool.is_empty()).collect();
        let mut draws = Draws::new(field.chance);
        let each = PROBES_MAX / pools.len().max(1);
        for pool in pools {
            if pool.len() <= each {
                for place in pool.members() {
                    wishes.probe(field.view.peers[place].id);
                }
                continue;
            }
            for _ in 0..each {
                let place = match pool.len() <= PROBES_MAX {
                    true => {
                        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
                        pool.members().nth(turn % pool.len())
                    }
                    false => pool.draw(draws.next().unwrap_or_default()),
                };
                if let Some(place) = place {
                    wishes.probe(field.view.peers[place].id);
                }
            }
        }
        field.now + self.period
    }

    fn probed(&self, probed: &Probed) {
        let which = Which::NODE.at(Some(&probed.peer));
        let Some(load) = probed.load else {
            self.answers.forget(which);
            return;
        };
        let cores = (f64::from(load.cpu_total) / 1_000.0).max(1.0);
        let answer = self.answers.entry(which, probed.now);
        answer[WAITING].set(f64::from(load.waiting) / cores);
        answer[BUSY].set(f64::from(u8::from(load.cpu_free == 0)));
        answer[WAY].set(probed.took.as_secs_f64());
        answer[CAME].set(seconds(probed.now));
    }
}

#[cfg(test)]
mod tests;
