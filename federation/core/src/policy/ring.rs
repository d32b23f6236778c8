//! A ring of servers, on which each function has a place: D. Karger, E. Lehman, T.
//! Leighton, R. Panigrahy, M. Levine, D. Lewin, "Consistent hashing and random
//! trees", STOC 1997. Made off the path of calls, when somebody came or went.

use std::sync::Arc;

use arc_swap::Guard;
use weir_node_core::time::Time;

use super::memory::Plan;
use super::servers::LOOK_INTERVAL;
use super::{Cell, Field};
use crate::facts::PeerKey;

/// Points of a server, at most.
pub(super) const POINTS_MAX: u64 = 64;

/// What is known of servers as a whole, as of the last look.
#[derive(Debug, Default)]
pub(super) struct Ring {
    plan: Plan<Points>,
    /// Calls of this node that are out, and those that it runs.
    calls: Cell,
    /// Processors of all.
    cores: Cell,
}

/// The points of a ring, in their order.
#[derive(Debug)]
pub(super) struct Points {
    points: Vec<(u64, u64)>,
    /// What stands for this node.
    pub(super) own: u64,
    /// Whose points they are, mixed.
    members: u64,
    /// How many servers there are.
    pub(super) servers: usize,
}

/// SplitMix64's end, as in [`crate::snapshot::Draws`].
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Points {
    /// A ring of servers with so many points each.
    fn new(own: u64, members: impl Iterator<Item = u64>, each: u64, mixed: u64) -> Points {
        let mut points: Vec<(u64, u64)> = members
            .flat_map(|key| (0..each).map(move |at| (mix(key ^ mix(at)), key)))
            .collect();
        let servers = points.len() / usize::try_from(each.max(1)).unwrap_or(1);
        points.sort_unstable();
        Points {
            points,
            own,
            members: mixed,
            servers,
        }
    }

    /// Servers from a place on, each point once: a server comes as often as it has
    /// points.
    pub(super) fn from(&self, place: u64) -> impl Iterator<Item = u64> + '_ {
        let first = self.points.partition_point(|(point, _)| *point < place);
        let (before, after) = self.points.split_at(first);
        after.iter().chain(before).map(|(_, key)| *key)
    }
}

impl Ring {
    /// Looks who is there, and how many calls of this node's are out; makes the
    /// ring anew where others are there. Returns when it looks next.
    pub(super) fn look(&self, field: &Field<'_>, each: u64) -> Time {
        let own = PeerKey::of(&field.own).as_u64();
        let peers = &field.view.peers;
        let pool = field.view.neighbours();
        let mut mixed = mix(own);
        let mut calls = f64::from(field.load.running.saturating_add(field.load.waiting));
        let mut cores = f64::from(field.load.cpu_total.max(1_000));
        for place in pool.members() {
            let peer = &peers[place];
            mixed = mixed.wrapping_add(mix(peer.key.as_u64()));
            calls += f64::from(peer.held());
            cores += f64::from(peer.cpu_total.max(1_000));
        }
        self.calls.set(calls);
        self.cores.set(cores / 1e3);
        let is_same = |points: &Points| points.members == mixed;
        if !self.plan.current().as_deref().is_some_and(is_same) {
            let others = pool.members().map(|place| peers[place].key.as_u64());
            let members = std::iter::once(own).chain(others);
            self.plan.publish(Points::new(own, members, each, mixed));
        }
        field.now + LOOK_INTERVAL
    }

    /// The ring; `None` before the first look. Then nothing is read: the first
    /// reading of a thread allocates what it keeps for itself.
    pub(super) fn points(&self) -> Option<Guard<Option<Arc<Points>>>> {
        self.cores.get()?;
        Some(self.plan.current())
    }

    /// Calls of this node at all servers.
    pub(super) fn calls(&self) -> f64 {
        self.calls.get().unwrap_or_default().max(0.0)
    }

    /// A call of this node begins or ends somewhere.
    pub(super) fn count(&self, more: f64) {
        self.calls.add(more);
    }

    /// Processors of all servers.
    pub(super) fn cores(&self) -> f64 {
        self.cores.get().unwrap_or(1.0)
    }
}
