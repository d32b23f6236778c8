//! Consistent hashing with bounded loads: a function has a home on a ring of
//! servers, and its calls go to the first server from there on that has not more
//! than its share of all calls. V. Mirrokni, M. Thorup, M. Zadimoghaddam,
//! "Consistent hashing with bounded loads", SODA 2018.
//!
//! ```text
//! load_i + 1 <= ceil((1 + slack) x (calls + 1) / servers)
//! ```
//!
//! Calls are those of this node: how many it has out at whom it knows exactly,
//! whatever the age of reports.
//!
//! Mended: servers are unlike, so that the bound is by their share of all cores,
//! at least one call. `faithful=true` has equal servers. In both a server that
//! has no room for the call is passed by, as one that is at its bound; where all
//! that are looked at are, the call goes where the fewest are for each core.

use std::sync::Arc;

use weir_node_core::time::Time;

use super::ring::{self, Points, Ring};
use super::servers::{self, EVERYWHERE, FAITHFUL, Own, ranked};
use super::{
    Case, Decision, Field, Key, Kind, Origin, Outcome, Parameters, Policy, Range, Reach, Reaches,
    Wishes,
};
use crate::facts::PeerKey;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends a function's calls to its home on a ring of servers, and beyond what is the home's share to the next one",
    keys: &[
        Key {
            name: "slack",
            about: "by which part a server may have more than its share of all calls",
            unit: "",
            range: Range::Number {
                least: 0.01,
                most: 10.0,
            },
            default: "0.25",
        },
        Key {
            name: "points",
            about: "points of each server on the ring",
            unit: "",
            range: Range::Whole {
                least: 1,
                most: ring::POINTS_MAX,
            },
            default: "8",
        },
        FAITHFUL,
    ],
    build: |parameters| Arc::new(ChBl::new(parameters)),
};

const NAME: &str = "ch-bl";

/// Points of the ring that one decision looks at.
const STEPS_MAX: usize = 64;

struct ChBl {
    slack: f64,
    points: u64,
    faithful: bool,
    ring: Ring,
    own: Own,
}

impl ChBl {
    fn new(parameters: &Parameters) -> ChBl {
        ChBl {
            slack: parameters.number("slack"),
            points: parameters.whole("points"),
            faithful: parameters.flag("faithful"),
            ring: Ring::default(),
            own: Own::default(),
        }
    }

    /// Calls that a server may have, the next one included.
    fn bound(&self, cores: f64, points: &Points) -> f64 {
        let share = match self.faithful {
            true => 1.0 / points.servers.max(1) as f64,
            false => cores / self.ring.cores(),
        };
        let calls = self.ring.calls() + 1.0;
        ((1.0 + self.slack) * calls * share).ceil().max(1.0)
    }

    fn walk(&self, case: &mut Case<'_>, points: &Points) -> Option<Decision> {
        let snapshot = case.snapshot;
        let view = snapshot.view;
        let home = ring::mix(case.key().as_u64());
        let mut last = None;
        for key in points.from(home).take(STEPS_MAX) {
            if last == Some(key) {
                continue;
            }
            last = Some(key);
            if key == points.own {
                let bound = self.bound(self.own.cores(), points);
                case.own_terms().put("bound_calls", bound);
                if self.own.calls() + 1.0 <= bound
                    && let Some(decision) = case.run_well_here()
                {
                    return Some(decision);
                }
                continue;
            }
            let Some(place) = view.place_by(PeerKey::by(key)) else {
                continue;
            };
            let peer = &view.peers[place];
            let cores = f64::from(peer.cpu_total.max(1_000)) / 1e3;
            let bound = self.bound(cores, points);
            if f64::from(peer.held()) + 1.0 > bound || !view.neighbours().contains(place) {
                continue;
            }
            if let Some(candidate) = case.candidate(place) {
                let mut terms = case.terms(&candidate);
                terms.put("calls", f64::from(peer.held()));
                terms.put("bound_calls", bound);
                return Some(case.send(place, Reach::Horizontal));
            }
        }
        None
    }
}

impl Policy for ChBl {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        EVERYWHERE
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        origin != Origin::Here
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let points = self.ring.points();
        let points = points.as_ref().and_then(|points| points.as_deref());
        let walked = points.and_then(|points| self.walk(case, points));
        let decision = walked.unwrap_or_else(|| {
            let own = |_: &mut Case<'_>| ranked(self.own.in_flight());
            servers::least(case, own, |candidate, terms| {
                let calls = f64::from(candidate.peer.held());
                terms.put("calls", calls);
                ranked(calls / servers::cores(candidate))
            })
        });
        if !case.is_trial() && matches!(decision, Decision::Run | Decision::Offload { .. }) {
            self.ring.count(1.0);
            if decision == Decision::Run {
                self.own.count(1.0);
            }
        }
        decision
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.ring.count(-1.0);
        if outcome.to.is_none() {
            self.own.count(-1.0);
        }
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.own.look(field);
        self.ring.look(field, self.points)
    }
}

#[cfg(test)]
mod tests;
