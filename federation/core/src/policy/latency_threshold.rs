//! `latency-threshold`: this node and the peers that are near have equal shares.
//!
//! DFaaS, latency-threshold strategy (reference, section 5.3): each period every peer
//! is pinged three times; those whose mean round trip is at most the threshold, and
//! this node, have `100 / (n + 1)` each.
//!
//! Formula: `p(i) = 1 / (n + 1)` for this node and the n peers that may take the call
//! with `round trip <= threshold`; a threshold of 0 keeps all here.
//!
//! Mended: peers were pinged one after the other, up to five seconds each, once a
//! minute: here the round trips that heartbeats measure are read each second. It did
//! not look whether a peer has the function; shares were whole numbers, whose
//! rounding gave each peer one more where 100 is a multiple of `n + 1`; a destination
//! without room lost the call.

use std::sync::Arc;
use std::time::Duration;

use weir_node_core::time::Time;

use super::area::{
    FAITHFUL, PERIOD, Place, beyond, is_spread, others, period, receive, serves_here,
};
use super::case::LOOKED_AT;
use super::{
    Case, Decision, Field, Key, Kind, Origin, Plan, Policy, Range, Reach, Reaches, Reason, Wishes,
};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "spreads calls evenly over this node and the peers whose round trip is short",
    keys: &[
        Key {
            name: "threshold",
            about: "longest round trip to a peer that has a share; 0s keeps all calls here",
            unit: "",
            range: Range::Time {
                least: Duration::ZERO,
                most: Duration::from_secs(10),
            },
            default: "20ms",
        },
        PERIOD,
        FAITHFUL,
    ],
    build: |parameters| {
        let faithful = parameters.flag("faithful");
        Arc::new(LatencyThreshold {
            threshold: parameters.time("threshold"),
            period: period(parameters.time("period"), faithful, PUBLISHED),
            faithful,
            near: Plan::default(),
        })
    },
};

const NAME: &str = "latency-threshold";

/// The period of DFaaS.
const PUBLISHED: Duration = Duration::from_secs(60);

/// Draws evenly among who is near.
struct LatencyThreshold {
    threshold: Duration,
    period: Duration,
    faithful: bool,
    near: Plan<Vec<Place>>,
}

impl LatencyThreshold {
    fn spread(&self, case: &mut Case<'_>) -> Option<Decision> {
        let near = self.near.current();
        let near: &[Place] = near.as_deref().map_or(&[], Vec::as_slice);
        let serves = self.faithful || serves_here(case);
        let own = usize::from(serves);
        let share = 1.0 / (near.len() + own).max(1) as f64;
        case.own_terms()
            .put("share", if serves { share } else { 0.0 });
        // What may not be sent is drawn again, which leaves the others even.
        let draws = if self.faithful { 1 } else { LOOKED_AT };
        for _ in 0..draws {
            let number = (case.chance() * (near.len() + own) as f64) as usize;
            let Some(at) = number.checked_sub(own) else {
                match case.run_well_here() {
                    None if !self.faithful => continue,
                    decision => return decision,
                }
            };
            let place = near.get(at)?;
            let Some(candidate) = place.candidate(case) else {
                continue;
            };
            let mut terms = case.terms(&candidate);
            terms.put("share", share);
            terms.put(
                "round_trip_ms",
                candidate.peer.round_trip().as_secs_f64() * 1e3,
            );
            return Some(case.send(candidate.place, Reach::Horizontal));
        }
        None
    }
}

impl Policy for LatencyThreshold {
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
            (None, false) => case.run_well_here().unwrap_or_else(|| beyond(case)),
        }
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        receive(case, |case| self.spread(case))
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        let pool = others(field.role, field.regions, field.view);
        let members = pool.into_iter().flat_map(|pool| pool.members());
        let is_near = |at: &usize| {
            let peer = &field.view.peers[*at];
            peer.round_trip() <= self.threshold
        };
        let near = match self.threshold {
            Duration::ZERO => Vec::new(),
            _ => {
                let near = members.filter(is_near);
                near.map(|at| Place::of(at, field.view)).collect()
            }
        };
        self.near.publish(near);
        field.now + self.period
    }
}

#[cfg(test)]
mod tests;
