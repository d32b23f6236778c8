//! One call that is decided about, and the steps that policies are made of.

use super::weigh::{Look, Rated, Seen, fits};
use super::{Bounds, Decision, Origin, Reach, Reason, Request};
use crate::explain::{Verdict, Weighed, Witness};
use crate::snapshot::{Draws, Here, PeerViews, Pool, Snapshot};

/// Peers of a pool that one decision looks at: all of a pool of so many, and
/// so many draws from a larger one, beside the one that was chosen last.
/// Bounded, so that a decision costs the same in a federation of any size.
pub const LOOKED_AT: usize = 16;

/// One call, what is known, and the steps that policies are made of. Each is
/// `None` where it cannot be taken.
pub struct Case<'a> {
    /// The call.
    pub request: &'a Request<'a>,
    /// What is known.
    pub snapshot: &'a Snapshot<'a>,
    pub(super) draws: Draws,
    /// Somebody may take it who was not asked, or brings its code.
    pub(super) open: bool,
    /// Somebody could take it, and is full.
    pub(super) full: bool,
    pub(super) is_watched: bool,
    pub(super) witness: &'a mut dyn Witness,
}

impl<'a> Case<'a> {
    /// Runs the call here if that can be done at once.
    pub(super) fn run_here(&self) -> Option<Decision> {
        match self.snapshot.local.here {
            Here::Warm | Here::Startable => Some(Decision::Run),
            Here::Full | Here::Unable => None,
        }
    }

    /// The same, unless the function fails here and not elsewhere.
    pub(super) fn run_well_here(&self) -> Option<Decision> {
        let fails = self.snapshot.local.blamed && !self.request.anywhere;
        self.run_here().filter(|_| !fails)
    }

    /// Lets the call wait here if there is a place and it would be in time.
    pub(super) fn queue(&self) -> Result<Decision, Reason> {
        let local = &self.snapshot.local;
        let wait = match (local.here, local.queue) {
            (Here::Unable, _) | (_, None) => return Err(Reason::NoRoom),
            (Here::Warm | Here::Startable | Here::Full, Some(wait)) => wait,
        };
        match self.snapshot.now + wait < self.request.deadline {
            true => Ok(Decision::Enqueue {
                until: self.request.deadline,
            }),
            false => Err(Reason::TooLate),
        }
    }

    /// Asks those first who may take the call and were not asked yet.
    pub(super) fn ask(&self) -> Option<Decision> {
        let asks = self.open && !self.request.anywhere && self.request.origin == Origin::Here;
        asks.then_some(Decision::Ask)
    }

    /// Where a call that waits elsewhere than in the queue is better off than
    /// here, where the function fails.
    pub(super) fn wait_elsewhere(&self) -> Option<Decision> {
        (self.open || self.full).then_some(Decision::Ask)
    }

    /// The neighbour that is expected to be done first.
    pub(super) fn neighbour(&mut self) -> Option<Decision> {
        let view = self.snapshot.view;
        self.offload(view.neighbours(), Reach::Horizontal)
    }

    /// The member that is expected to be done first, of the first region that
    /// has one that fits.
    pub(super) fn cloud(&mut self) -> Option<Decision> {
        if self.request.bounds != Bounds::Federation {
            return None;
        }
        let Snapshot { local, view, .. } = self.snapshot;
        let pools = local.regions.iter().filter_map(|name| view.region(name));
        pools
            .filter_map(|pool| self.offload(pool, Reach::Vertical))
            .next()
    }

    /// For a node of a region that got a call from outside of it: another
    /// member with room.
    pub(super) fn balance(&mut self) -> Option<Decision> {
        if self.request.origin != (Origin::Region { inside: false }) {
            return None;
        }
        let own = self.snapshot.local.regions.first()?;
        let pool = self.snapshot.view.region(own)?;
        self.offload(pool, Reach::Horizontal)
    }

    fn offload(&mut self, pool: &Pool, reach: Reach) -> Option<Decision> {
        let to = self.pick(pool)?;
        Some(Decision::Offload { to, reach })
    }

    /// The member of a pool that is expected to be done first, among all of a
    /// small pool; of a large one among draws of those that can run it, in
    /// proportion to what they have, and the one chosen last: B. Prabhakar, D.
    /// Shah, M. Mitzenmacher, "The use of memory in randomized load balancing",
    /// ISIT 2002. Between those that are alike chance decides.
    fn pick(&mut self, pool: &Pool) -> Option<usize> {
        if self.request.hops == 0 || self.request.bounds == Bounds::Node {
            return None;
        }
        if pool.is_empty() {
            return None;
        }
        let look = Look::new(self.request, self.snapshot);
        let mut best = Best::default();
        let kinds = pool.kinds_that(|peer| fits(&self.request.needs, &peer.report), self.peers());
        if pool.len() <= LOOKED_AT {
            for (place, kind) in pool.by_kind() {
                self.consider(&look, place, kinds.has(kind), &mut best);
            }
            return best.place;
        }
        // Of many, those alone are drawn that can run it.
        let pool = pool.fitting(kinds);
        let fit = kinds.are_told().then_some(true);
        if pool.len() <= LOOKED_AT {
            for place in pool.members() {
                self.consider(&look, place, fit, &mut best);
            }
            return best.place;
        }
        let mut places = [None; LOOKED_AT + 1];
        let remembered = self.snapshot.remembered;
        let remembered = remembered.and_then(|id| self.snapshot.view.place(&id));
        places[0] = remembered.filter(|place| pool.contains(*place));
        let from = usize::from(places[0].is_some());
        for at in from..places.len() {
            let place = self.draws.next().and_then(|chance| pool.draw(chance));
            places[at] = place.filter(|_| !places[..at].contains(&place));
        }
        for (place, seen) in look.at_each(self.peers(), places).into_iter().flatten() {
            self.rate(&look, place, &seen, fit, &mut best);
        }
        best.place
    }

    fn peers(&self) -> &'a PeerViews {
        &self.snapshot.view.peers
    }

    /// Weighs a peer that has what the function needs of a node, or has not;
    /// `None` for one of which that is not known.
    fn consider(&mut self, look: &Look<'_>, place: usize, fit: Option<bool>, best: &mut Best) {
        let seen = look.at(&self.snapshot.view.peers[place]);
        self.rate(look, place, &seen, fit, best);
    }

    #[inline]
    fn rate(
        &mut self,
        look: &Look<'_>,
        place: usize,
        seen: &Seen<'_>,
        fit: Option<bool>,
        best: &mut Best,
    ) {
        let peer = seen.peer;
        let fit = fit.unwrap_or_else(|| fits(&self.request.needs, &peer.report));
        let rated = look.rate(seen, fit);
        if self.is_watched {
            self.witness.weighed(Weighed {
                peer: peer.id,
                age: self.snapshot.now.since(peer.loaded()),
                room: peer.room(seen.offered, seen.room(), self.request.cost),
                round_trip: peer.round_trip(),
                verdict: rated.verdict(),
            });
        }
        match rated {
            Rated::Fits(delay) => {
                let draw = self.draws.next().unwrap_or_default();
                best.offer(place, delay / look.alike, draw);
            }
            Rated::Not(Verdict::Unasked { .. } | Verdict::Bringing { .. }) => self.open = true,
            Rated::Not(Verdict::Full | Verdict::OnTrial) => self.full = true,
            Rated::Not(
                Verdict::Fits { .. }
                | Verdict::TooFar { .. }
                | Verdict::Slower { .. }
                | Verdict::Visited
                | Verdict::Unfit
                | Verdict::NoDisk
                | Verdict::NeedsGrant
                | Verdict::Unable
                | Verdict::Failing,
            ) => {}
        }
    }
}

/// The best so far, and how many are like it.
#[derive(Debug, Default)]
struct Best {
    place: Option<usize>,
    rank: u64,
    alike: u32,
}

impl Best {
    /// Takes one whose delay is `rank` steps of what is alike.
    fn offer(&mut self, place: usize, rank: u64, draw: f64) {
        if self.place.is_none() || rank < self.rank {
            (self.place, self.rank, self.alike) = (Some(place), rank, 1);
        } else if rank == self.rank {
            self.alike += 1;
            if draw * f64::from(self.alike) < 1.0 {
                self.place = Some(place);
            }
        }
    }
}
