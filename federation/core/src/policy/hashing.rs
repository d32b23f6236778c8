//! Consistent hashing: nodes and functions on a ring.
//!
//! D. Karger, E. Lehman, T. Leighton, R. Panigrahy, M. Levine, D. Lewin, "Consistent
//! hashing and random trees", STOC 1997. All nodes that know of the same nodes make
//! the same ring: its points follow from ids and processors alone.

use weir_node_core::id::FunctionName;

use super::area::{Place, others};
use super::case::LOOKED_AT;
use super::{Case, Field};
use crate::facts::PeerKey;
use crate::snapshot::{Pool, View};

/// Points that one ring has at the most. Beyond that each node has fewer, for many
/// nodes are even by their number.
const POINTS_MAX: usize = 1 << 18;

/// Processors that have as many points as are asked for, in thousandths of a core.
const CPU_USUAL: u64 = 4_000;

/// How many times as many points a large node has at the most, and a small one at
/// the least has as a part.
const UNLIKE_MAX: u64 = 4;

/// A node that is put on a ring; `None` is this one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) to: Option<Place>,
    key: u64,
    cpu: u32,
}

impl Member {
    /// This node.
    pub(super) fn own(field: &Field<'_>) -> Member {
        Member {
            to: None,
            key: PeerKey::of(&field.own).as_u64(),
            cpu: field.load.cpu_total,
        }
    }

    /// A peer of a view.
    pub(super) fn peer(at: usize, view: &View) -> Member {
        let place = Place::of(at, view);
        Member {
            to: Some(place),
            key: place.key.as_u64(),
            cpu: view.peers[at].cpu_total,
        }
    }

    /// What stands for its id.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// Its processors.
    pub(super) fn cores(&self) -> f64 {
        f64::from(self.cpu) / 1e3
    }
}

/// Nodes by the points of a ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    points: Vec<u64>,
    /// Whose each is, by the order of `members`.
    whose: Vec<u32>,
    members: Vec<Option<Place>>,
}

/// The end of SplitMix64, as in `snapshot::Draws`.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Where a function is on all rings: FNV-1a of its name, mixed, for that is uneven
/// in its upper bits. The same in all nodes of all versions.
pub(super) fn point_of(function: &FunctionName) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let namespace = function.namespace.as_str().bytes();
    let name = function.name().bytes();
    for byte in namespace.chain([b'.']).chain(name) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mixed(hash)
}

impl Ring {
    /// A ring of these, with so many points for each node of the usual size; evenly
    /// where nodes are not told apart by that.
    pub(super) fn new(members: &[Member], replicas: u64, is_even: bool) -> Ring {
        let mut sorted = members.to_vec();
        sorted.sort_unstable_by_key(|member| member.key);
        let points_of = |member: &Member| match is_even {
            true => replicas,
            false => {
                let share = replicas.saturating_mul(u64::from(member.cpu)) / CPU_USUAL;
                share.clamp(replicas / UNLIKE_MAX, replicas.saturating_mul(UNLIKE_MAX))
            }
        };
        let total: u64 = sorted.iter().map(points_of).sum();
        let most = POINTS_MAX as u64;
        let shrink = total.div_ceil(most).max(1);
        let mut points = Vec::new();
        for (at, member) in (0_u32..).zip(&sorted) {
            for point in 0..(points_of(member) / shrink).max(1) {
                points.push((mixed(member.key ^ mixed(point)), at));
            }
        }
        points.sort_unstable();
        let (points, whose) = points.into_iter().unzip();
        Ring {
            points,
            whose,
            members: sorted.into_iter().map(|member| member.to).collect(),
        }
    }

    /// The nodes that follow a point, each once, [`LOOKED_AT`] at the most.
    pub(super) fn after(&self, point: u64) -> After<'_> {
        After {
            ring: self,
            at: self.points.partition_point(|of| *of < point),
            left: self.points.len(),
            seen: [0; LOOKED_AT],
            count: 0,
        }
    }
}

/// Walks a ring.
pub(super) struct After<'a> {
    ring: &'a Ring,
    at: usize,
    /// Points that were not looked at.
    left: usize,
    seen: [u32; LOOKED_AT],
    count: usize,
}

impl Iterator for After<'_> {
    type Item = Option<Place>;

    fn next(&mut self) -> Option<Option<Place>> {
        let members = self.ring.members.len();
        while self.left > 0 && self.count < LOOKED_AT.min(members) {
            self.left -= 1;
            let at = if self.at < self.ring.points.len() {
                self.at
            } else {
                0
            };
            self.at = at + 1;
            let whose = self.ring.whose[at];
            if !self.seen[..self.count].contains(&whose) {
                self.seen[self.count] = whose;
                self.count += 1;
                return Some(self.ring.members[whose as usize]);
            }
        }
        None
    }
}

/// The nodes of this one's area, itself among them.
pub(super) fn area(field: &Field<'_>) -> Vec<Member> {
    let pool = others(field.role, field.regions, field.view);
    let peers = pool.map(|pool| of_pool(pool, field.view));
    let peers = peers.into_iter().flatten();
    std::iter::once(Member::own(field)).chain(peers).collect()
}

/// The members of a pool.
pub(super) fn of_pool(pool: &Pool, view: &View) -> Vec<Member> {
    pool.members().map(|at| Member::peer(at, view)).collect()
}

/// A number that changes when a node comes or goes, or has other processors or
/// another place, in whatever order they are.
pub(super) fn mark(members: &[Member]) -> u64 {
    let of = |member: &Member| {
        let at = member.to.map_or(u64::MAX, |place| place.at as u64);
        mixed(member.key ^ mixed(u64::from(member.cpu)) ^ mixed(at).rotate_left(17))
    };
    members.iter().map(of).fold(0, u64::wrapping_add)
}

/// The first node from a function's point on that may take the call: `Ok` for this
/// one, `Err` with a peer's place.
pub(super) fn first(case: &mut Case<'_>, ring: &Ring, point: u64) -> Option<Result<(), usize>> {
    for (step, to) in ring.after(point).enumerate() {
        let Some(place) = to else {
            case.own_terms().put("step", step as f64);
            if case.run_well_here().is_some() {
                return Some(Ok(()));
            }
            continue;
        };
        if let Some(candidate) = place.candidate(case) {
            case.terms(&candidate).put("step", step as f64);
            return Some(Err(candidate.place));
        }
    }
    None
}
