//! What most policies of the literature choose among: this node, where it could
//! run a call at once, its neighbours, and where none of them has room the cloud.
//! Where nobody has, a call waits here, as with `spill`.
//!
//! Their papers have one dispatcher and many servers. Here each node is both: it
//! is one more server to itself, at no distance.

use std::time::Duration;

use weir_node_core::time::Time;

use super::{Candidate, Case, Cell, Decision, Field, Key, Range, Reach, Reaches, Reason, Terms};
use crate::facts::PeerKey;
use crate::snapshot::{Draws, Pool};

/// Draws from a pool until two fit, at most.
const DRAWS_MAX: usize = 8;

/// How often a policy looks at its own node's load, and at what it keeps of peers.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Whom most policies of the literature send calls to.
pub(super) const EVERYWHERE: Reaches = Reaches {
    horizontal: true,
    vertical: true,
};

/// The parameter by which a policy is as it was published.
pub(super) const FAITHFUL: Key = Key {
    name: "faithful",
    about: "whether to decide as published, with the faults that are mended otherwise",
    unit: "",
    range: Range::Flag,
    default: "false",
};

/// This node as one of its own servers, as of the last look.
#[derive(Debug, Default)]
pub(super) struct Own {
    calls: Cell,
    cores: Cell,
}

impl Own {
    /// Looks at its load; when it looks next.
    pub(super) fn look(&self, field: &Field<'_>) -> Time {
        let load = field.load;
        self.calls
            .set(f64::from(load.running.saturating_add(load.waiting)));
        self.cores.set(f64::from(load.cpu_total.max(1_000)) / 1e3);
        field.now + LOOK_INTERVAL
    }

    /// Calls that it has, running and waiting.
    pub(super) fn calls(&self) -> f64 {
        self.calls.get().unwrap_or_default()
    }

    /// A call begins or ends here before the next look.
    pub(super) fn count(&self, more: f64) {
        self.calls
            .change(|calls| (calls.unwrap_or_default() + more).max(0.0));
    }

    /// The same for each of its cores.
    pub(super) fn in_flight(&self) -> f64 {
        self.calls() / self.cores()
    }

    /// Its processors.
    pub(super) fn cores(&self) -> f64 {
        self.cores.get().unwrap_or(1.0)
    }
}

/// Sends the call where the rank is lowest. `own` is this node's, which is asked
/// for where it could run the call at once; of equal ones it runs here.
pub(super) fn least(
    case: &mut Case<'_>,
    own: impl FnOnce(&mut Case<'_>) -> u64,
    mut rank: impl FnMut(&Candidate<'_>, &mut Terms<'_>) -> u64,
) -> Decision {
    let own = case.run_well_here().is_some().then(|| own(case));
    let mut best = u64::MAX;
    let view = case.snapshot.view;
    let near = case.best_of(view.neighbours(), Reach::Horizontal, |candidate, terms| {
        let rank = rank(candidate, terms);
        best = best.min(rank);
        rank
    });
    match (own, near) {
        (Some(own), Some(near)) if best < own => near,
        (Some(_), _) => Decision::Run,
        (None, Some(near)) => near,
        (None, None) => cloud(case, rank).unwrap_or_else(|| otherwise(case)),
    }
}

/// The member of the lowest rank of the first region that has one that fits.
pub(super) fn cloud(
    case: &mut Case<'_>,
    mut rank: impl FnMut(&Candidate<'_>, &mut Terms<'_>) -> u64,
) -> Option<Decision> {
    if case.request.bounds != super::Bounds::Federation {
        return None;
    }
    let snapshot = case.snapshot;
    let regions = snapshot.local.regions.iter();
    let mut pools = regions.filter_map(|name| snapshot.view.region(name));
    pools.find_map(|pool| case.best_of(pool, Reach::Vertical, &mut rank))
}

/// What is left where nobody can run the call at once: to wait.
pub(super) fn otherwise(case: &mut Case<'_>) -> Decision {
    // It could run here, and would fail as those before it.
    if case.run_here().is_some() {
        return case.wait_elsewhere().unwrap_or(Decision::Run);
    }
    match case.queue() {
        Ok(decision) => decision,
        // The queue is the last place: that it is full means that nobody else had
        // room either.
        Err(Reason::NoRoom) => Decision::Reject(Reason::NobodyHasRoom),
        Err(reason) => Decision::Reject(reason),
    }
}

/// Of two members of a pool, drawn in proportion to what they have, that of the
/// lower rank: M. Mitzenmacher, "The power of two choices in randomized load
/// balancing", IEEE TPDS 12(10), 2001. `None` where [`DRAWS_MAX`] draws find
/// nobody that fits.
pub(super) fn better_of_two<'a>(
    case: &mut Case<'a>,
    pool: &Pool,
    mut rank: impl FnMut(&Candidate<'_>, &mut Terms<'_>) -> u64,
) -> Option<(u64, Candidate<'a>)> {
    let mut best: Option<(u64, Candidate<'a>)> = None;
    let mut drawn = [usize::MAX; DRAWS_MAX];
    let mut fitting = 0;
    for at in 0..DRAWS_MAX {
        let chance = case.chance();
        let Some(place) = pool.draw(chance) else {
            break;
        };
        if drawn.contains(&place) {
            continue;
        }
        drawn[at] = place;
        let Some(candidate) = case.candidate(place) else {
            continue;
        };
        let rank = rank(&candidate, &mut case.terms(&candidate));
        if best.as_ref().is_none_or(|(least, _)| rank < *least) {
            best = Some((rank, candidate));
        }
        fitting += 1;
        if fitting == 2 {
            break;
        }
    }
    best
}

/// A draw in `0.0..1.0` that is a peer's own in this decision.
pub(super) fn lot(chance: u64, peer: PeerKey) -> f64 {
    let mut draws = Draws::new(chance ^ peer.as_u64());
    draws.next().unwrap_or_default()
}

/// What is left of the weight of something that is so old, of which a share of
/// 1/e is left after `span`: `(1 - x/8)^8`, which is near `e^-x` and costs no
/// call of it.
pub(super) fn fresh(age: Duration, span: Duration) -> f64 {
    faded(age.as_secs_f64() / span.as_secs_f64().max(1e-9))
}

/// The same, of a multiple of the span.
pub(super) fn faded(spans: f64) -> f64 {
    let left = (1.0 - spans / 8.0).max(0.0);
    let left = left * left;
    let left = left * left;
    left * left
}

/// In milliseconds.
pub(super) fn in_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A number at least 0 as a rank, in thousandths.
pub(super) fn ranked(number: f64) -> u64 {
    // What is no number is the last.
    match number.is_nan() {
        true => u64::MAX,
        false => (number * 1e3) as u64,
    }
}

/// Calls at a peer for each of its cores: those that it told of, and those of this
/// node that it holds beyond them.
pub(super) fn in_flight(candidate: &Candidate<'_>) -> f64 {
    let load = candidate.peer.load();
    let told = load.running.saturating_add(load.waiting);
    f64::from(told.max(candidate.peer.held())) / cores(candidate)
}

/// Processors of a peer, at least one.
pub(super) fn cores(candidate: &Candidate<'_>) -> f64 {
    f64::from(candidate.peer.load().cpu_total.max(1_000)) / 1e3
}
