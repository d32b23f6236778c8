//! One call that is decided about, and the steps that policies are made of.

mod survey;

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::memory::Which;
use super::weigh::{Look, Rated, Seen, fits};
use super::{Bounds, Decision, Origin, Reach, Reason, Request};
use crate::beside::Held;
use crate::explain::{Term, Verdict, Weighed, Witness};
use crate::facts::FunctionKey;
use crate::snapshot::{Draws, Here, PeerView, PeerViews, Pool, Snapshot};

/// Peers of a pool that one decision looks at: all of a pool of so many, and
/// so many draws from a larger one, beside the one that was chosen last.
/// Bounded, so that a decision costs the same in a federation of any size.
pub const LOOKED_AT: usize = 16;

pub(super) use survey::ASKED_MAX;

/// One call, what is known, and the steps that policies are made of. Each is
/// `None` where it cannot be taken.
pub struct Case<'a> {
    /// The call.
    pub request: &'a Request<'a>,
    /// What is known.
    pub snapshot: &'a Snapshot<'a>,
    /// What stands for its function: worked out once.
    function: FunctionKey,
    draws: Draws,
    /// Somebody may take it who was not asked, or brings its code.
    pub(super) open: bool,
    /// The first peer that was looked at of those who were not asked.
    pub(super) unasked: Option<usize>,
    /// Somebody could take it, and is full.
    pub(super) full: bool,
    is_watched: bool,
    is_trial: bool,
    witness: &'a mut dyn Witness,
}

/// A peer that could take a call, and what speaks for it.
pub struct Candidate<'a> {
    /// Its place in [`crate::snapshot::View::peers`].
    pub place: usize,
    /// What is known of it.
    pub peer: &'a PeerView,
    delay_nanos: u64,
    alike_nanos: u64,
    function: FunctionKey,
    seen: Seen<'a>,
    request: &'a Request<'a>,
    snapshot: &'a Snapshot<'a>,
}

impl Candidate<'_> {
    /// When the call would be done there: the way there and back, a start, what
    /// waits there already, and the function's own time.
    pub fn delay(&self) -> Duration {
        Duration::from_nanos(self.delay_nanos)
    }

    /// The same in nanoseconds.
    pub(super) fn nanos(&self) -> u64 {
        self.delay_nanos
    }

    /// How many steps of what is alike that is: measurements are no better.
    pub fn rank(&self) -> u64 {
        self.delay_nanos / self.alike_nanos.max(1)
    }

    /// Calls of the function that may be sent there now.
    pub fn room(&self) -> u32 {
        let Seen { peer, offered, .. } = self.seen;
        peer.room(offered, self.seen.room(), self.request.cost)
    }

    /// Calls of the function of ours that it holds.
    pub fn held(&self) -> u32 {
        self.seen.room().map_or(0, |known| known.held())
    }

    /// Whether it has told of a started instance that waits.
    pub fn is_warm(&self) -> bool {
        self.seen.offered.is_some_and(|offered| offered.is_warm)
    }

    /// How long the function ran there, as this node saw it; `None` before it did.
    pub fn seen_service(&self) -> Option<Duration> {
        self.seen.room()?.service()
    }

    /// How long it runs there, as the peer says; `None` where it says nothing.
    pub fn told_service(&self) -> Option<Duration> {
        let micros = self.seen.offered?.service_micros;
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// How long a start of it takes there, as the peer says; `None` where it says
    /// nothing.
    pub fn told_start(&self) -> Option<Duration> {
        let micros = self.seen.offered?.start_micros;
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// How old the newest word of its load is.
    pub fn age(&self) -> Duration {
        self.snapshot.now.since(self.peer.loaded())
    }

    /// Whether the peer, or the way to it, is said to be congested.
    pub fn is_congested(&self) -> bool {
        let Snapshot {
            congestion, now, ..
        } = self.snapshot;
        congestion.is_some_and(|all| all.is_congested(&self.peer.id, *now))
    }

    /// The row of a memory that is of the call's function and class there.
    pub fn which(&self) -> Which {
        let of = Which::by(self.function);
        of.class(self.request.more.class.key).to_peer(self.peer.key)
    }
}

/// Takes the numbers by which a policy judges one peer, for explanations.
pub struct Terms<'a> {
    peer: Option<PeerId>,
    witness: Option<&'a mut dyn Witness>,
}

impl Terms<'_> {
    /// Whether anybody wants to know: what is worked out for this alone need not
    /// be.
    pub fn is_watched(&self) -> bool {
        self.witness.is_some()
    }

    /// A number by its name, with the unit last.
    pub fn put(&mut self, name: &'static str, value: f64) {
        if let Some(witness) = &mut self.witness {
            witness.term(Term {
                peer: self.peer,
                name,
                value,
            });
        }
    }
}

impl<'a> Case<'a> {
    pub(super) fn new(
        request: &'a Request<'a>,
        snapshot: &'a Snapshot<'a>,
        witness: &'a mut dyn Witness,
    ) -> Case<'a> {
        Case {
            request,
            snapshot,
            function: FunctionKey::of(request.function),
            draws: Draws::new(snapshot.chance),
            open: false,
            unasked: None,
            full: false,
            is_watched: witness.is_watching(),
            is_trial: false,
            witness,
        }
    }

    pub(super) fn into_trial(self) -> Case<'a> {
        Case {
            is_trial: true,
            ..self
        }
    }

    /// Whether it is only asked what would be decided: a policy that counts its
    /// decisions does not count this one.
    pub fn is_trial(&self) -> bool {
        self.is_trial
    }

    /// What stands for its function.
    pub(super) fn key(&self) -> FunctionKey {
        self.function
    }

    /// The row of a memory that is of its function, whatever its class.
    pub(super) fn function(&self) -> Which {
        Which::by(self.function)
    }

    /// The row of a memory that is of this call's function and class.
    pub fn which(&self) -> Which {
        Which::by(self.function).class(self.request.more.class.key)
    }

    /// The next draw, in `0.0..1.0`.
    pub fn chance(&mut self) -> f64 {
        self.draws.next().unwrap_or_default()
    }

    /// Takes numbers by which this node is judged, for explanations.
    pub fn own_terms(&mut self) -> Terms<'_> {
        self.terms_of(None)
    }
    /// Runs the call here if that can be done at once.
    pub fn run_here(&self) -> Option<Decision> {
        match self.snapshot.local.here {
            Here::Warm | Here::Startable => Some(Decision::Run),
            Here::Full | Here::Unable => None,
        }
    }

    /// The same, unless the function fails here and not elsewhere.
    pub fn run_well_here(&self) -> Option<Decision> {
        let fails = self.snapshot.local.blamed && !self.request.anywhere;
        self.run_here().filter(|_| !fails)
    }

    /// Lets the call wait here if there is a place and it would be in time.
    ///
    /// # Errors
    /// Why it does not wait here.
    pub fn queue(&self) -> Result<Decision, Reason> {
        self.queue_until(self.request.deadline)
    }

    /// The same, until then at the longest: after that it is decided about again.
    /// It loses its turn in the queue.
    ///
    /// # Errors
    /// Why it does not wait here.
    pub fn queue_until(&self, until: Time) -> Result<Decision, Reason> {
        let local = &self.snapshot.local;
        let wait = match (local.here, local.queue) {
            (Here::Unable, _) | (_, None) => return Err(Reason::NoRoom),
            (Here::Warm | Here::Startable | Here::Full, Some(wait)) => wait,
        };
        let until = until.min(self.request.deadline);
        match self.snapshot.now + wait < until {
            true => Ok(Decision::Enqueue { until }),
            false => Err(Reason::TooLate),
        }
    }

    /// Asks those first who may take the call and were not asked yet.
    pub fn ask(&self) -> Option<Decision> {
        let asks = self.open && !self.request.anywhere && self.request.origin == Origin::Here;
        asks.then_some(Decision::Ask)
    }

    /// Where a call that waits elsewhere than in the queue is better off than
    /// here, where the function fails.
    pub fn wait_elsewhere(&self) -> Option<Decision> {
        (self.open || self.full).then_some(Decision::Ask)
    }

    /// The neighbour that is expected to be done first.
    pub fn neighbour(&mut self) -> Option<Decision> {
        let view = self.snapshot.view;
        self.offload(view.neighbours(), Reach::Horizontal)
    }

    /// The member that is expected to be done first, of the first region that
    /// has one that fits.
    pub fn cloud(&mut self) -> Option<Decision> {
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
    pub fn balance(&mut self) -> Option<Decision> {
        if self.request.origin != (Origin::Region { inside: false }) {
            return None;
        }
        let own = self.snapshot.local.regions.first()?;
        let pool = self.snapshot.view.region(own)?;
        self.offload(pool, Reach::Horizontal)
    }

    fn offload(&mut self, pool: &Pool, reach: Reach) -> Option<Decision> {
        self.best_of(pool, reach, |candidate, _| candidate.rank())
    }

    /// Sends the call to a peer, as far as it may go on from there and for as long
    /// as its answer is of use.
    pub fn send(&self, to: usize, reach: Reach) -> Decision {
        Decision::Offload {
            to,
            reach,
            hops: self.request.hops.saturating_sub(1),
            until: self.request.deadline,
        }
    }

    /// Whether the call may go to any peer.
    pub fn may_leave(&self) -> bool {
        self.request.hops > 0 && self.request.bounds != Bounds::Node
    }

    /// A peer, if the call could be sent to it now. Who cannot take it is noted as
    /// in [`Case::best_of`].
    pub fn candidate(&mut self, place: usize) -> Option<Candidate<'a>> {
        if !self.may_leave() {
            return None;
        }
        let look = self.look();
        let seen = look.at(&self.peers()[place]);
        self.look_at(&look, place, seen, None)
    }

    /// Takes the numbers by which a candidate is judged, for explanations.
    pub fn terms(&mut self, candidate: &Candidate<'_>) -> Terms<'_> {
        self.terms_of(Some(candidate.peer.id))
    }

    fn terms_of(&mut self, peer: Option<PeerId>) -> Terms<'_> {
        let witness: Option<&mut dyn Witness> = match self.is_watched {
            true => Some(&mut *self.witness),
            false => None,
        };
        Terms { peer, witness }
    }

    /// Sends the call to the member of a pool of the lowest rank, among all of a
    /// small pool; of a large one among draws of those that can run it, in
    /// proportion to what they have, and the one chosen last: B. Prabhakar, D.
    /// Shah, M. Mitzenmacher, "The use of memory in randomized load balancing",
    /// ISIT 2002. Between those of equal rank chance decides.
    pub fn best_of(
        &mut self,
        pool: &Pool,
        reach: Reach,
        mut rank: impl FnMut(&Candidate<'_>, &mut Terms<'_>) -> u64,
    ) -> Option<Decision> {
        if !self.may_leave() || pool.is_empty() {
            return None;
        }
        let look = self.look();
        let mut best = Best::default();
        let mut consider =
            |case: &mut Case<'a>, place: usize, seen: Seen<'a>, fit: Option<bool>| {
                if let Some(candidate) = case.look_at(&look, place, seen, fit) {
                    let rank = rank(&candidate, &mut case.terms(&candidate));
                    best.offer(place, rank, case.chance());
                }
            };
        let peers = self.peers();
        let kinds = pool.kinds_that(|peer| fits(&self.request.needs, &peer.report), peers);
        if pool.len() <= LOOKED_AT {
            for (place, kind) in pool.by_kind() {
                consider(self, place, look.at(&peers[place]), kinds.has(kind));
            }
            return best.place.map(|to| self.send(to, reach));
        }
        // Of many, those alone are drawn that can run it.
        let pool = pool.fitting(kinds);
        let fit = kinds.are_told().then_some(true);
        if pool.len() <= LOOKED_AT {
            for place in pool.members() {
                consider(self, place, look.at(&peers[place]), fit);
            }
            return best.place.map(|to| self.send(to, reach));
        }
        let mut places = [None; LOOKED_AT + 1];
        let remembered = self.snapshot.remembered;
        let remembered = remembered.and_then(|id| self.snapshot.view.place(&id));
        places[0] = remembered.filter(|place| pool.contains(*place));
        let from = usize::from(places[0].is_some());
        for at in from..places.len() {
            let place = pool.draw(self.chance());
            places[at] = place.filter(|_| !places[..at].contains(&place));
        }
        for (place, seen) in look.at_each(peers, places).into_iter().flatten() {
            consider(self, place, seen, fit);
        }
        best.place.map(|to| self.send(to, reach))
    }

    fn look(&self) -> Look<'a> {
        Look::of(self.function, self.request, self.snapshot)
    }

    fn peers(&self) -> &'a PeerViews {
        &self.snapshot.view.peers
    }

    /// Weighs a peer that has what the function needs of a node, or has not;
    /// `None` for one of which that is not known. Takes note of what speaks
    /// against it.
    #[inline]
    fn look_at(
        &mut self,
        look: &Look<'a>,
        place: usize,
        seen: Seen<'a>,
        fit: Option<bool>,
    ) -> Option<Candidate<'a>> {
        let peer = seen.peer;
        let fit = fit.unwrap_or_else(|| fits(&self.request.needs, &peer.report));
        let rated = look.rate(&seen, fit);
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
            Rated::Fits(delay_nanos) => {
                return Some(Candidate {
                    place,
                    peer,
                    delay_nanos,
                    alike_nanos: look.alike,
                    function: self.function,
                    seen,
                    request: self.request,
                    snapshot: self.snapshot,
                });
            }
            Rated::Not(Verdict::Unasked { .. }) => {
                self.open = true;
                self.unasked.get_or_insert(place);
            }
            Rated::Not(Verdict::Bringing { .. }) => self.open = true,
            Rated::Not(Verdict::Full | Verdict::OnTrial | Verdict::Congested) => self.full = true,
            Rated::Not(Verdict::Throttled) => self.is_held(Held::Throttled),
            Rated::Not(Verdict::Shed) => self.is_held(Held::Shed),
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
        None
    }
}

impl Case<'_> {
    /// A peer is not offered the call, which it may take later.
    fn is_held(&mut self, held: Held) {
        self.full = true;
        self.witness.held(held);
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
