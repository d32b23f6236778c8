//! `power-of-d`: what does not fit here goes to the best of d peers that are drawn.
//!
//! M. Mitzenmacher, "The power of two choices in randomized load balancing", IEEE
//! TPDS 12(10), 2001; as MAPoD of DFaaSOptimizer's comparison (reference, section 10):
//! sample d candidates, 2 unless said otherwise, and take the best by score or by
//! residual capacity.
//!
//! Formula: `argmin completion(i)`, or `argmax room(i)`, over d draws without
//! repetition; the completion is the way there and back, a start, what waits there
//! and the run.
//!
//! Mended: rounds of a period became single calls, each of which sees the room that
//! the ones before left; draws are in proportion to processors, not even, so that
//! small nodes are not asked like large ones; where none of d has room more are
//! drawn, up to 16, then all that the pool can tell are looked at; equals are chosen
//! between by chance.

use std::sync::Arc;

use super::area::{FAITHFUL, around, beyond, draw, highest_first, receive};
use super::case::LOOKED_AT;
use super::{Candidate, Case, Decision, Key, Kind, Policy, Range, Reach, Reaches, Reason};
use crate::snapshot::Pool;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "runs a call here, else at the best of a few peers that are drawn",
    keys: &[
        Key {
            name: "d",
            about: "peers that are drawn for one call",
            unit: "peers",
            range: Range::Whole { least: 1, most: 16 },
            default: "2",
        },
        Key {
            name: "by",
            about: "which of them is the best: soonest done, or with most room",
            unit: "",
            range: Range::Word(&["completion", "room"]),
            default: "completion",
        },
        FAITHFUL,
    ],
    build: |parameters| {
        Arc::new(PowerOfD {
            d: usize::try_from(parameters.whole("d")).unwrap_or(1),
            by_room: parameters.word("by") == "room",
            faithful: parameters.flag("faithful"),
        })
    },
};

const NAME: &str = "power-of-d";

/// Chooses among a few.
struct PowerOfD {
    d: usize,
    by_room: bool,
    faithful: bool,
}

impl PowerOfD {
    fn rank(&self, candidate: &Candidate<'_>) -> u64 {
        match self.by_room {
            true => highest_first(f64::from(candidate.room())),
            false => candidate.rank(),
        }
    }

    fn spread(&self, case: &mut Case<'_>) -> Option<Decision> {
        case.run_well_here().or_else(|| self.away(case))
    }

    fn away(&self, case: &mut Case<'_>) -> Option<Decision> {
        let pool = around(case)?;
        if let Some(place) = self.sampled(case, pool) {
            return Some(case.send(place, Reach::Horizontal));
        }
        if self.faithful || pool.len() <= self.d {
            return None;
        }
        case.best_of(pool, Reach::Horizontal, |candidate, _| self.rank(candidate))
    }

    /// The best of d draws; where none of them fits, of those that follow.
    fn sampled(&self, case: &mut Case<'_>, pool: &Pool) -> Option<usize> {
        let all = pool.len().min(LOOKED_AT);
        let wanted = self.d.min(all);
        let mut drawn = [None; LOOKED_AT];
        let mut best: Option<(u64, usize)> = None;
        let mut looked = 0;
        let mut alike = 1.0;
        // Repetitions are few but in small pools.
        for _ in 0..LOOKED_AT * 2 {
            if looked == all || (looked >= wanted && (best.is_some() || self.faithful)) {
                break;
            }
            let place = match self.faithful {
                true => draw(case, pool),
                false => pool.draw(case.chance()),
            };
            if drawn[..looked].contains(&place) {
                continue;
            }
            drawn[looked] = place;
            looked += 1;
            let Some(candidate) = place.and_then(|place| case.candidate(place)) else {
                continue;
            };
            let rank = self.rank(&candidate);
            let delay = candidate.delay().as_secs_f64() * 1e3;
            let mut terms = case.terms(&candidate);
            terms.put("completion_ms", delay);
            terms.put("room_calls", f64::from(candidate.room()));
            let chosen = (rank, candidate.place);
            match best {
                Some((least, _)) if rank > least => {}
                Some((least, _)) if rank == least => {
                    alike += 1.0;
                    if case.chance() * alike < 1.0 {
                        best = Some(chosen);
                    }
                }
                Some(_) | None => (best, alike) = (Some(chosen), 1.0),
            }
        }
        best.map(|(_, place)| place)
    }
}

impl Policy for PowerOfD {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: !self.faithful,
        }
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
