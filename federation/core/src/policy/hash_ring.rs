//! `hash-ring`: a function runs at the first node from its point of a ring that has
//! room, so that its instances stay warm at few nodes.
//!
//! Serverledge, area load balancer (reference, section 9): a ring of 128 points for
//! each node, hashed by FNV-1a of `name#i`; the first node clockwise of the function's
//! name with believed memory, processors and architecture, each tried once. Consistent
//! hashing by D. Karger et al., STOC 1997: where a node comes or goes, only what was
//! on its arcs moves.
//!
//! Mended: a node of which nothing was known had ten terabytes free, and belief was
//! up to 30 s old: here room is what answers and reports say, less our own calls since.
//! All nodes had as many points whatever their size: here they follow processors. The
//! members were polled one after the other under the lock that decisions need: here a
//! ring is made off their path, in time `p log p` of its points, only when membership
//! changes. Where nobody has room the call goes up or waits; there it was an error.
//! Load is not bounded: that is `ch-bl` and `ch-rlu`.

use std::sync::Arc;
use std::time::Duration;

use weir_node_core::time::Time;

use super::area::{FAITHFUL, around, beyond, is_spread, receive};
use super::hashing::{self, Ring, point_of};
use super::{
    Bounds, Case, Decision, Field, Key, Kind, Origin, Plan, Policy, Range, Reach, Reaches, Reason,
    Wishes,
};
use crate::report::Role;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "runs a function at the nodes that follow it on a ring of hashes, so that it stays warm there",
    keys: &[REPLICAS, FAITHFUL],
    build: |parameters| {
        Arc::new(HashRing {
            replicas: parameters.whole("replicas"),
            faithful: parameters.flag("faithful"),
            plan: Plan::default(),
        })
    },
};

const NAME: &str = "hash-ring";

/// How even a ring is.
pub(super) const REPLICAS: Key = Key {
    name: "replicas",
    about: "points of a node of four processors on the ring; more share more evenly",
    unit: "points",
    range: Range::Whole {
        least: 4,
        most: 1_024,
    },
    default: "128",
};

/// How late a change of membership is noticed.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Regions that have a ring of their own, the first ones.
const REGIONS_MAX: usize = 4;

/// The rings of an area and of the regions that it spills to.
#[derive(Debug)]
struct Rings {
    mark: u64,
    area: Ring,
    up: Vec<Ring>,
}

/// Walks the ring.
struct HashRing {
    replicas: u64,
    faithful: bool,
    plan: Plan<Rings>,
}

impl HashRing {
    fn spread(&self, case: &mut Case<'_>) -> Option<Decision> {
        let rings = self.plan.current();
        let Some(rings) = rings.as_deref() else {
            // Nothing was worked out yet.
            let pool = around(case)?;
            let here = case.run_well_here();
            return here.or_else(|| case.best_of(pool, Reach::Horizontal, |one, _| one.rank()));
        };
        let point = point_of(case.request.function);
        match hashing::first(case, &rings.area, point)? {
            Ok(()) => Some(Decision::Run),
            Err(place) => Some(case.send(place, Reach::Horizontal)),
        }
    }

    /// The same in the regions, in their order.
    fn up(&self, case: &mut Case<'_>) -> Option<Decision> {
        if case.request.bounds != Bounds::Federation || case.snapshot.local.role == Role::Cloud {
            return None;
        }
        let rings = self.plan.current();
        let point = point_of(case.request.function);
        for ring in &rings.as_deref()?.up {
            if let Some(Err(place)) = hashing::first(case, ring, point) {
                return Some(case.send(place, Reach::Vertical));
            }
        }
        None
    }
}

impl Policy for HashRing {
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
            return Decision::Reject(Reason::NoRoom);
        }
        self.up(case).unwrap_or_else(|| beyond(case))
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        receive(case, |case| self.spread(case))
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        let area = hashing::area(field);
        let pools = field.regions.iter().take(REGIONS_MAX);
        let pools = pools.filter_map(|name| field.view.region(name));
        let up: Vec<_> = match field.role {
            Role::Edge => pools
                .map(|pool| hashing::of_pool(pool, field.view))
                .collect(),
            Role::Cloud => Vec::new(),
        };
        let all = std::iter::once(&area).chain(&up);
        let mark = all.fold(0_u64, |mark, members| {
            mark.rotate_left(1).wrapping_add(hashing::mark(members))
        });
        let before = self.plan.current();
        if before.as_deref().is_none_or(|rings| rings.mark != mark) {
            let made = |members: &Vec<_>| Ring::new(members, self.replicas, self.faithful);
            self.plan.publish(Rings {
                mark,
                area: made(&area),
                up: up.iter().map(made).collect(),
            });
        }
        field.now + LOOK_INTERVAL
    }
}

#[cfg(test)]
mod tests;
