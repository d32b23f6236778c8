//! Calls go round all good destinations, to each in inverse proportion to its weight.
//!
//! Weighted deficit round robin: the reference, section "Forwarding-table policies";
//! Cicconetti, Conti and Passarella, "A decentralized framework for serverless edge
//! computing in the Internet of Things", IEEE TNSM 18(2), 2021, algorithm RR. Each
//! destination has a weight `w` in seconds, a deficit `D`, and a pause `S`, at first
//! 1 s.
//! * The call goes to the *active* destination of the smallest `D`, and `D += w`.
//! * Active is who is good, `w <= 2 min w`, who is alone, or who is new.
//! * Who is not good is left out, and after `S` without an answer probed: `D` becomes
//!   the smallest of the active ones, and a call goes there. If it is good then, `S`
//!   is 1 s again, else `S = min(30 s, 2 S)`.
//!
//! For constant weights no deficits of active destinations differ by more than the
//! greatest weight, so that over any time `|n_i w_i - n_j w_j| <= 2 max w`: fair in
//! the short as in the long run.
//!
//! Here no deficit is ever taken from others': the smallest active one is kept as a
//! clock, as in start-time fair queueing (P. Goyal, H. Vin, H. Cheng, "Start-time fair
//! queueing", SIGCOMM 1996), and who joins or comes back begins at it. Of a pool of
//! more members than a decision looks at the smallest deficit among the drawn is
//! taken, which keeps all of them within some weights of each other, however many
//! there are and however long it goes on (P. Berenbrink, A. Czumaj, A. Steger, B.
//! Vöcking, "Balanced allocations: the heavily loaded case", SIAM J. Computing 35(6),
//! 2006).
//!
//! Mended, beside what [`super::broker`] and its table mend:
//! * With each answer all deficits were changed and the set of active destinations
//!   was built anew and sorted, so that thousands of destinations could not be used:
//!   here an answer touches one row, and a decision a bounded number.
//! * One of two like nodes was left out because its first answer, which had to
//!   connect, took more than twice as long: here a destination is judged after three
//!   answers, by the least of the first three.
//! * A probe was as many calls as came until one was answered: here it is one call.
//! * A probe that went well moved the weight by a twentieth: here it takes its place.
//! * A refused call counted as served: here it is given back.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::broker::{
    ALPHA, Broker, CLOUD, Destination, FAITHFUL, Judged, OPTIMISER, PERIOD, ROUTING, Rule, STALE,
    STAT, Sight, Table, cell, seconds,
};
use super::{Case, Ending, Field, Kind, Outcome, Terms, Which, Wishes};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends calls round all destinations that are not twice as slow as the fastest, in inverse proportion to response times",
    keys: &[
        OPTIMISER, ALPHA, PERIOD, STAT, STALE, CLOUD, ROUTING, FAITHFUL,
    ],
    build: |parameters| {
        let table = Table::new(parameters);
        Arc::new(Broker::new(parameters, RoundRobin { table }))
    },
};

const NAME: &str = "round-robin";

/// Who has a weight of so many times the least is still good.
const GOOD: f64 = 2.0;

/// How long a destination that is not good is left alone at first, in seconds.
const PAUSE_MIN: f64 = 1.0;

/// How long at the longest, in seconds.
const PAUSE_MAX: f64 = 30.0;

/// After how long a probe without an answer is none any more, in seconds: its
/// caller may have gone.
const PROBE_MAX: f64 = 30.0;

/// How many of its own weights a destination of a large pool may lag behind the
/// clock: not each is drawn each time.
const LAG: f64 = 8.0;

/// Goes round.
struct RoundRobin {
    table: Table,
}

/// How a destination stands at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Standing {
    is_active: bool,
    /// In seconds.
    deficit: f64,
    /// Whether a call that goes there is a probe.
    is_probe: bool,
    /// The pause that follows from a probe that was answered, in seconds.
    pause: Option<f64>,
}

/// What all destinations of a decision are held against. In seconds.
#[derive(Debug, Clone, Copy)]
struct Round {
    least: f64,
    clock: f64,
    now: f64,
    is_alone: bool,
}

impl RoundRobin {
    fn standing(&self, one: &Destination<'_>, round: &Round) -> Standing {
        let mut standing = Standing {
            is_active: one.weight.is_finite(),
            deficit: round.clock,
            is_probe: false,
            pause: None,
        };
        let Some(row) = one.row else { return standing };
        if let Some(deficit) = row[cell::SERVED].get() {
            let lag = if one.likely < 1.0 {
                LAG * one.weight
            } else {
                0.0
            };
            standing.deficit = deficit.max(round.clock - lag);
        }
        let is_good = round.is_alone || one.weight <= GOOD * round.least;
        let stays = is_good || self.table.is_new(one.row);
        let mut pause = row[cell::PAUSE].get().unwrap_or(PAUSE_MIN);
        let sampled = row[cell::SAMPLED].get().unwrap_or(f64::NEG_INFINITY);
        let mut is_due = round.now - sampled >= pause;
        let mut is_probed = false;
        if let Some(probed) = row[cell::PROBED].get() {
            if sampled >= probed {
                pause = match is_good {
                    true => PAUSE_MIN,
                    false => (2.0 * pause).min(PAUSE_MAX),
                };
                standing.pause = Some(pause);
                is_due = round.now - sampled >= pause;
            } else {
                // Published: active until it has answered.
                is_probed = self.table.is_faithful;
                is_due = round.now - probed > PROBE_MAX;
            }
        }
        standing.is_active &= stays || is_due || is_probed;
        standing.is_probe = !stays && !is_probed && is_due;
        if standing.is_probe {
            standing.deficit = round.clock;
        }
        standing
    }

    /// Takes note of where a call goes.
    fn charge(&self, case: &Case<'_>, one: &Destination<'_>, standing: &Standing, least: f64) {
        let which = match one.place() {
            Some(place) => case.which().to_peer(case.snapshot.view.peers[place].key),
            None => case.which().at(None),
        };
        let now = case.snapshot.now;
        let Some(row) = self.table.rows.entry_if_open(which, now) else {
            return;
        };
        let Standing { deficit, .. } = *standing;
        // What is not known yet, or may have changed, does not cost years.
        let is_tried = standing.is_probe || self.table.is_new(one.row);
        let cost = match is_tried && !self.table.is_faithful {
            true => one.weight.min(GOOD * least),
            false => one.weight,
        };
        row[cell::SERVED].change(|old| {
            let old = old.filter(|_| !standing.is_probe);
            old.map_or(deficit, |old| old.max(deficit)) + cost
        });
        if standing.is_probe {
            row[cell::PROBED].set(seconds(now));
        }
        if let Some(clock) = self.table.rows.entry_if_open(case.which(), now) {
            clock[cell::SERVED].change(|clock| clock.map_or(deficit, |clock| clock.max(deficit)));
        }
    }
}

impl Rule for RoundRobin {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'t>(&'t self, sight: &Sight<'_>, terms: &mut Terms<'_>) -> Judged<'t> {
        self.table.judge(sight, terms)
    }

    fn pick(&self, all: &[Destination<'_>], case: &mut Case<'_>) -> Option<usize> {
        let clock = self.table.rows.find(case.which());
        let clock = clock.and_then(|row| row[cell::SERVED].get());
        let round = Round {
            least: all
                .iter()
                .map(|one| one.weight)
                .fold(f64::INFINITY, f64::min),
            clock: clock.unwrap_or(0.0),
            now: seconds(case.snapshot.now),
            is_alone: all.len() == 1,
        };
        let mut chosen: Option<(usize, Standing)> = None;
        let mut alike = 0.0;
        for (at, one) in all.iter().enumerate() {
            let standing = self.standing(one, &round);
            if case.is_watched() {
                let mut terms = case.terms_at(one.place());
                terms.put("deficit_s", standing.deficit - round.clock);
                terms.put("is_active", f64::from(u8::from(standing.is_active)));
            }
            if let (Some(pause), Some(row), false) = (standing.pause, one.row, case.is_trial()) {
                row[cell::PAUSE].set(pause);
                row[cell::PROBED].clear();
            }
            if !standing.is_active {
                continue;
            }
            let best = chosen.map_or(f64::INFINITY, |(_, best)| best.deficit);
            if standing.deficit < best {
                (chosen, alike) = (Some((at, standing)), 1.0);
            } else if standing.deficit == best && !self.table.is_faithful {
                alike += 1.0;
                if case.chance() * alike < 1.0 {
                    chosen = Some((at, standing));
                }
            }
        }
        let (at, standing) = chosen?;
        if !case.is_trial() {
            self.charge(case, &all[at], &standing, round.least);
        }
        Some(at)
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let which = Which::of(outcome.function).class(outcome.class);
        let row = self.table.rows.find(which.at(outcome.to.as_ref()));
        let probed = row.and_then(|row| row[cell::PROBED].get());
        let sampled = row.and_then(|row| row[cell::SAMPLED].get());
        self.table.observe(outcome);
        let Some(row) = row.filter(|_| !self.table.is_faithful) else {
            return;
        };
        let weight = row[cell::WEIGHT].get().filter(|weight| *weight < f64::MAX);
        match (outcome.ending, weight) {
            (Ending::Answered, Some(_)) if sampled < probed && self.table.learns() => {
                // What it was before says nothing of what it is now.
                let took = outcome.took().as_secs_f64();
                row[cell::WEIGHT].set(took.max(f64::EPSILON));
            }
            (Ending::Refused, Some(weight)) if row[cell::SERVED].get().is_some() => {
                row[cell::SERVED].add(-weight);
            }
            (
                Ending::Answered | Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late,
                _,
            ) => {}
        }
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
