//! `random`: weights that chance draws anew in each period.
//!
//! DFaaS, random strategy (reference, section 5.3): in each period every target, this
//! node, each peer and if wished refusal, is given a number of `U(0, 1)`; calls go
//! by their shares of the sum.
//!
//! Formula: `p(i) = u_i / sum u`, `u_i ~ U(0, 1)` for each period and target.
//!
//! Mended: peers were listed once, a minute after the start, so that new ones starved
//! and dead ones were sent to; shares were whole percents, of which the last target
//! had what was left; a destination without room lost the call. Here the list follows
//! the view each second at the latest, a number depends on the period and the peer
//! alone, and what one draw has no room for is drawn again.

use std::sync::Arc;
use std::time::Duration;

use weir_node_core::time::Time;

use super::area::{
    FAITHFUL, PERIOD, Place, Shares, around, beyond, is_spread, others, period, receive, seconds,
    to_any,
};
use super::{
    Case, Decision, Field, Key, Kind, Origin, Plan, Policy, Range, Reach, Reaches, Reason, Wishes,
};
use crate::snapshot::Draws;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "spreads calls by weights that chance draws anew in each period",
    keys: &[
        PERIOD,
        Key {
            name: "reject",
            about: "gives refusal a weight of its own",
            unit: "",
            range: Range::Flag,
            default: "false",
        },
        FAITHFUL,
    ],
    build: |parameters| {
        let faithful = parameters.flag("faithful");
        Arc::new(Random {
            period: period(parameters.time("period"), faithful, PUBLISHED),
            rejects: parameters.flag("reject"),
            faithful,
            plan: Plan::default(),
        })
    },
};

const NAME: &str = "random";

/// The period of DFaaS.
const PUBLISHED: Duration = Duration::from_secs(60);

/// How late a change of membership is noticed, at the most.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Draws for one call.
const DRAWS_MAX: usize = 4;

/// Where a call may go.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    Here,
    Peer(Place),
    Nowhere,
}

/// Shares of one period.
struct Drawn {
    /// Which period that is, since the node's start.
    number: u64,
    /// From what its numbers are made.
    seed: u64,
    shares: Shares<Target>,
    /// Those that were peers when the first period began.
    listed: Vec<Place>,
}

/// Draws by what chance drew.
struct Random {
    period: Duration,
    rejects: bool,
    faithful: bool,
    plan: Plan<Drawn>,
}

impl Random {
    fn spread(&self, case: &mut Case<'_>) -> Option<Decision> {
        let drawn = self.plan.current();
        let draws = if self.faithful { 1 } else { DRAWS_MAX };
        for _ in 0..draws {
            let Some((target, share)) = drawn.as_ref()?.shares.draw(case.chance()) else {
                break;
            };
            let decision = match target {
                Target::Here => {
                    case.own_terms().put("share", share);
                    case.run_well_here()
                }
                Target::Nowhere => Some(Decision::Reject(Reason::NoRoom)),
                Target::Peer(place) => place.candidate(case).map(|candidate| {
                    case.terms(&candidate).put("share", share);
                    case.send(candidate.place, Reach::Horizontal)
                }),
            };
            if decision.is_some() {
                return decision;
            }
        }
        None
    }

    /// Who has shares.
    fn targets(&self, field: &Field<'_>, listed: &[Place]) -> Vec<Target> {
        let mut targets = vec![Target::Here];
        match self.faithful {
            true => targets.extend(listed.iter().map(|place| Target::Peer(*place))),
            false => targets.extend(present(field).map(Target::Peer)),
        }
        if self.rejects {
            targets.push(Target::Nowhere);
        }
        targets
    }
}

/// The peers of this node's area.
fn present<'a>(field: &'a Field<'_>) -> impl Iterator<Item = Place> + use<'a> {
    let pool = others(field.role, field.regions, field.view);
    let members = pool.into_iter().flat_map(|pool| pool.members());
    members.map(|at| Place::of(at, field.view))
}

/// The number of a target in a period.
fn number(seed: u64, target: &Target) -> f64 {
    let own = match target {
        Target::Here => 1,
        Target::Nowhere => 2,
        Target::Peer(place) => place.key.as_u64(),
    };
    Draws::new(seed ^ own).next().unwrap_or_default()
}

/// Whole percents, of which the last target has what is left.
fn in_percents(shares: &mut [(Target, f64)]) {
    let total: f64 = shares.iter().map(|(_, share)| share).sum();
    let mut left = 100.0;
    if let [rest @ .., last] = shares {
        for (_, share) in rest {
            *share = (100.0 * *share / total).floor();
            left -= *share;
        }
        last.1 = left;
    }
}

impl Policy for Random {
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
        if let Some(decision) = self.spread(case) {
            return decision;
        }
        if self.faithful {
            // Before the first period nothing is sent away.
            return match self.plan.current().is_some() {
                true => Decision::Reject(Reason::NoRoom),
                false => case.run_here().unwrap_or(Decision::Reject(Reason::NoRoom)),
            };
        }
        let elsewhere = |case: &mut Case<'_>| to_any(case, around(case)?, Reach::Horizontal);
        case.run_well_here()
            .or_else(|| elsewhere(case))
            .unwrap_or_else(|| beyond(case))
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        receive(case, |case| self.spread(case))
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        let now = (seconds(field.now) / self.period.as_secs_f64()) as u64;
        let before = self.plan.current();
        let before = before.as_deref().map(|drawn| (drawn, drawn.number == now));
        let seed = match before {
            Some((drawn, true)) => drawn.seed,
            Some((_, false)) | None => field.chance,
        };
        let listed = match (self.faithful, before) {
            (false, _) => Vec::new(),
            (true, Some((drawn, _))) => drawn.listed.clone(),
            (true, None) => present(field).collect(),
        };
        let targets = self.targets(field, &listed);
        let numbered = |target: Target| (target, number(seed, &target));
        let mut shares: Vec<_> = targets.into_iter().map(numbered).collect();
        if self.faithful {
            in_percents(&mut shares);
        }
        self.plan.publish(Drawn {
            number: now,
            seed,
            shares: Shares::new(shares),
            listed,
        });
        field.now + self.period.min(LOOK_INTERVAL_MAX)
    }
}

#[cfg(test)]
mod tests;
