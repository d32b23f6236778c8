//! What policies share that spread calls over an area: this node, and the other
//! nodes of its zone or region.

use std::time::Duration;

use weir_node_core::time::Time;

use super::case::LOOKED_AT;
use super::{Candidate, Case, Decision, Key, Origin, Range, Reach, Reason, Terms};
use crate::facts::PeerKey;
use crate::report::Role;
use crate::snapshot::{Draws, Here, Pool, View};

/// The parameter by which a policy decides as it was published.
pub(super) const FAITHFUL: Key = Key {
    name: "faithful",
    about: "decides as published, with the weaknesses that are mended otherwise",
    unit: "",
    range: Range::Flag,
    default: "false",
};

/// The parameter that spaces a policy's own work. `0s` stands for the usual time.
pub(super) const PERIOD: Key = Key {
    name: "period",
    about: "time between two rounds of its own work; 0s for 1s, and for the published time where faithful",
    unit: "",
    range: Range::Time {
        least: Duration::ZERO,
        most: Duration::from_secs(3_600),
    },
    default: "0s",
};

/// What a period is where nothing is written.
const PERIOD_USUAL: Duration = Duration::from_secs(1);

/// The period that was chosen: `published` is that of the ancestor.
pub(super) fn period(chosen: Duration, faithful: bool, published: Duration) -> Duration {
    match (chosen, faithful) {
        (Duration::ZERO, true) => published,
        (Duration::ZERO, false) => PERIOD_USUAL,
        (chosen, _) => chosen,
    }
}

/// A moment as a number that a table holds, in seconds.
pub(super) fn seconds(time: Time) -> f64 {
    time.since(Time::ZERO).as_secs_f64()
}

/// The other nodes of this one's area: its neighbours, or the members of its
/// region where it is a cloud node.
pub(super) fn others<'a>(role: Role, regions: &[String], view: &'a View) -> Option<&'a Pool> {
    match role {
        Role::Edge => Some(view.neighbours()),
        Role::Cloud => view.region(regions.first()?),
    }
}

/// The same for a call.
pub(super) fn around<'a>(case: &Case<'a>) -> Option<&'a Pool> {
    let local = &case.snapshot.local;
    others(local.role, local.regions, case.snapshot.view)
}

/// Where a call goes for which nobody of the area has room: to the cloud, or into
/// the queue here. A node where its function fails runs it last.
pub(super) fn beyond(case: &mut Case<'_>) -> Decision {
    let up = match case.snapshot.local.role {
        Role::Edge => case.cloud(),
        // Its own region is its area.
        Role::Cloud => None,
    };
    if let Some(decision) = up {
        return decision;
    }
    if case.run_here().is_some() {
        return case.wait_elsewhere().unwrap_or(Decision::Run);
    }
    match case.queue() {
        Ok(decision) => decision,
        Err(Reason::NoRoom) => Decision::Reject(Reason::NobodyHasRoom),
        Err(reason) => Decision::Reject(reason),
    }
}

/// Whether a policy that spreads calls over its area looks at peers for a call that
/// came so, whatever this node could do with it.
pub(super) fn is_spread(origin: Origin) -> bool {
    match origin {
        Origin::Here | Origin::Region { inside: false } => true,
        Origin::Neighbour | Origin::Region { inside: true } => false,
    }
}

/// Decides about a call that a peer sent: a cloud node spreads what comes from
/// outside of its region by the policy's own rule; else it is taken or refused.
pub(super) fn receive(
    case: &mut Case<'_>,
    spread: impl FnOnce(&mut Case<'_>) -> Option<Decision>,
) -> Decision {
    let spreads = case.request.origin == (Origin::Region { inside: false })
        && case.snapshot.local.role == Role::Cloud;
    let decision = if spreads { spread(case) } else { None };
    decision
        .or_else(|| case.run_here())
        .or_else(|| case.balance())
        .unwrap_or(Decision::Reject(Reason::NoRoom))
}

/// Whether this node could ever run the call, and does not fail it.
pub(super) fn serves_here(case: &Case<'_>) -> bool {
    let local = &case.snapshot.local;
    let fails = local.blamed && !case.request.anywhere;
    local.here != Here::Unable && !fails
}

/// Sends a call to any peer of a pool that may take it, each as likely as another;
/// of a large pool, as long as one of [`LOOKED_AT`] draws does.
pub(super) fn to_any(case: &mut Case<'_>, pool: &Pool, reach: Reach) -> Option<Decision> {
    // Rejecting draws keeps those that are left even: one costs less than a look at
    // all, and mostly does.
    let draws = if pool.len() <= LOOKED_AT {
        1
    } else {
        LOOKED_AT
    };
    let mut tried = [None; LOOKED_AT];
    for at in 0..draws {
        let place = draw(case, pool);
        if place.is_none() || tried[..at].contains(&place) {
            continue;
        }
        tried[at] = place;
        if let Some(candidate) = place.and_then(|place| case.candidate(place)) {
            return Some(case.send(candidate.place, reach));
        }
    }
    match pool.len() <= LOOKED_AT {
        true => case.best_of(pool, reach, |_, _| 0),
        false => None,
    }
}

/// One of a pool, each as likely as another.
pub(super) fn draw(case: &mut Case<'_>, pool: &Pool) -> Option<usize> {
    let last = pool.len().checked_sub(1)?;
    let number = (case.chance() * pool.len() as f64) as usize;
    pool.member(number.min(last))
}

/// Sends a call to one of a pool's candidates, in proportion to what `weight` says
/// of them; `None` where nobody has any. One pass over them: M. T. Chao, "A general
/// purpose unequal probability sampling plan", Biometrika 69(3), 1982.
pub(super) fn in_proportion(
    case: &mut Case<'_>,
    pool: &Pool,
    reach: Reach,
    mut weight: impl FnMut(&Candidate<'_>, &mut Terms<'_>) -> f64,
) -> Option<Decision> {
    // Draws of its own: those of the case belong to the pool.
    let mut draws = Draws::new(case.snapshot.chance ^ 0x5851_f42d_4c95_7f2d);
    let mut total = 0.0;
    let mut rank = u64::MAX;
    let decision = case.best_of(pool, reach, |candidate, terms| {
        let own = weight(candidate, terms);
        if own > 0.0 {
            total += own;
            // Each takes the place of the one before with its share of the sum.
            if draws.next().unwrap_or_default() * total < own {
                rank -= 1;
                return rank;
            }
        }
        u64::MAX
    });
    decision.filter(|_| total > 0.0)
}

/// A rank, of which the lowest is the best, for a score, of which the highest is.
pub(super) fn highest_first(score: f64) -> u64 {
    let bits = score.to_bits();
    // IEEE 754 numbers are in the order of their bits, negative ones backwards.
    let ascending = match bits >> 63 {
        0 => bits | 1 << 63,
        _ => !bits,
    };
    !ascending
}

/// A peer as plans keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Its place in a view.
    pub(super) at: usize,
    /// What stands for its id: the place may be another's by then.
    pub(super) key: PeerKey,
}

impl Place {
    /// That of a peer of a view.
    pub(super) fn of(at: usize, view: &View) -> Place {
        Place {
            at,
            key: view.peers[at].key,
        }
    }

    /// The peer, if it is still there and may take the call.
    pub(super) fn candidate<'a>(self, case: &mut Case<'a>) -> Option<Candidate<'a>> {
        match case.snapshot.view.is_at(self.at, self.key) {
            true => case.candidate(self.at),
            false => None,
        }
    }
}

/// Destinations and their shares of calls, prepared for draws in the logarithm of
/// their number.
#[derive(Debug)]
pub(super) struct Shares<T> {
    to: Vec<T>,
    /// The sum of shares up to each.
    ends: Vec<f64>,
}

impl<T: Copy> Shares<T> {
    /// Of destinations with any share.
    pub(super) fn new(shares: impl IntoIterator<Item = (T, f64)>) -> Shares<T> {
        let (mut to, mut ends) = (Vec::new(), Vec::new());
        let mut total = 0.0;
        for (destination, share) in shares {
            if share > 0.0 {
                total += share;
                to.push(destination);
                ends.push(total);
            }
        }
        Shares { to, ends }
    }

    /// One of them, for a number in `0.0..1.0`, with its share of 1.
    pub(super) fn draw(&self, chance: f64) -> Option<(T, f64)> {
        let total = *self.ends.last()?;
        let at = self.ends.partition_point(|end| *end <= chance * total);
        let at = at.min(self.ends.len() - 1);
        let before = at.checked_sub(1).map_or(0.0, |before| self.ends[before]);
        Some((self.to[at], (self.ends[at] - before) / total))
    }
}

/// Reads numbers of four bytes, as notes write them.
pub(super) fn read_number(bytes: &[u8]) -> Option<f64> {
    let bytes = bytes.get(..4)?.try_into().ok()?;
    let number = f64::from(f32::from_le_bytes(bytes));
    // What anybody may have written: below nothing is nothing that is told.
    (number.is_finite() && number >= 0.0).then_some(number)
}

/// Reads a key of eight bytes.
pub(super) fn read_key(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// A number as notes write it.
pub(super) fn written(number: f64) -> [u8; 4] {
    (number as f32).to_le_bytes()
}

#[cfg(test)]
mod tests;
