//! Where a call goes: policies, and what they decide about.
//!
//! A policy sees a [`Request`] and a [`Snapshot`] and nothing else, and cannot
//! fail. The list of policies is [`all`]; adding one touches its own file and
//! that list.

mod cloud_only;
mod edge_cloud;
mod edge_only;
mod local_only;
mod spill;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use crate::abilities::Able;
use crate::explain::{Verdict, Weighed, Witness};
use crate::facts::{FunctionKey, Offered};
use crate::report::Report;
use crate::snapshot::{Cost, Draws, FunctionRoom, Here, PeerView, Pool, Snapshot};

/// Peers of a pool that one decision looks at: all of a pool of so many, and
/// so many draws from a larger one, beside the one that was chosen last.
/// Bounded, so that a decision costs the same in a federation of any size.
pub const LOOKED_AT: usize = 16;

/// What a start is expected to take where neither that node nor this one has
/// measured one of the function: by what the executor does (see README, "Measured").
const fn start_prior(executor: Option<Executor>) -> Duration {
    match executor {
        Some(Executor::Wasm) => Duration::from_millis(1),
        Some(Executor::Simulated) => Duration::ZERO,
        Some(Executor::Docker) | None => Duration::from_millis(500),
    }
}

/// Completions that differ by less than this share of the service are alike:
/// measurements are no better.
const ALIKE_SHARE: u32 = 16;

/// Completions that differ by less are alike however short the service is.
const ALIKE: Duration = Duration::from_millis(1);

/// Executors whose starts are known to differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Executor {
    Wasm,
    Docker,
    Simulated,
}

impl Executor {
    fn named(name: &str) -> Option<Executor> {
        match name {
            "wasm" => Some(Executor::Wasm),
            "docker" => Some(Executor::Docker),
            "simulated" => Some(Executor::Simulated),
            _ => None,
        }
    }
}

/// How a call that is decided about came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a user.
    Here,
    /// From a neighbour.
    Neighbour,
    /// From outside of this node's region, or from a member of it.
    Region {
        /// Whether its sender is a member of the same region.
        inside: bool,
    },
}

/// What a function needs of a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs<'a> {
    /// Processor that its code is made for; `None` for any.
    pub architecture: Option<&'a str>,
    /// Executor that runs it; `None` for any.
    pub executor: Option<&'a str>,
    /// Labels that the node must have.
    pub constraints: Option<&'a BTreeMap<String, String>>,
    /// Whether it asks for grants, which stay where it was deployed.
    pub grants: bool,
    /// Bytes of code that a node without it has to bring.
    pub code_bytes: u64,
}

/// How far from the node that a function was deployed to it may run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bounds {
    /// There alone.
    Node,
    /// In its zone or region.
    Zone,
    /// Everywhere.
    #[default]
    Federation,
}

/// A call to be decided about.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Which function.
    pub function: &'a FunctionName,
    /// Version of its record; 0 for one that has none.
    pub version: u64,
    /// Who deployed it, and has it therefore.
    pub writer: Option<PeerId>,
    /// What it needs of a node.
    pub needs: Needs<'a>,
    /// Where it may run.
    pub bounds: Bounds,
    /// What a call of it takes.
    pub cost: Cost,
    /// How it came here.
    pub origin: Origin,
    /// Nodes that it visited, and peers that were tried for it in vain.
    pub avoid: &'a [PeerId],
    /// Peers where the function fails and not elsewhere.
    pub failing: &'a [PeerId],
    /// Whether it may go where the function fails: nobody else has room.
    pub anywhere: bool,
    /// How many more nodes it may visit.
    pub hops: u8,
    /// When its answer is of no more use.
    pub deadline: Time,
}

/// Which way an offloaded call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// To a neighbour of the zone, or within a region.
    Horizontal,
    /// To a cloud region.
    Vertical,
}

/// Whom a policy lets a call that waits go to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaches {
    /// Neighbours.
    pub horizontal: bool,
    /// Regions.
    pub vertical: bool,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There is no room here, and the policy asks nobody else.
    NoRoom,
    /// Nobody that may be asked has room.
    NobodyHasRoom,
    /// The policy wants a place that there is not: no neighbour, no region.
    NoSuchPlace,
    /// It could not be answered before its deadline.
    TooLate,
}

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Run it here, warm or cold.
    Run,
    /// Let it wait here, at the longest until then.
    Enqueue {
        /// When its place in the queue is given up.
        until: Time,
    },
    /// Send it to a peer.
    Offload {
        /// Its place in [`crate::snapshot::View::peers`].
        to: usize,
        /// Which way that is.
        reach: Reach,
    },
    /// Ask the peers that may have a place, and let it wait for that.
    Ask,
    /// Refuse it.
    Reject(Reason),
}

/// A way to decide.
pub trait Policy: Send + Sync {
    /// Its name in configuration, metrics and explanations.
    fn name(&self) -> &'static str;

    /// Whom it sends calls to.
    fn reaches(&self) -> Reaches;

    /// Decides about a call of this node's own users.
    fn decide(&self, case: &mut Case<'_>) -> Decision;

    /// Decides about a call that a peer sent. Unless a policy says otherwise,
    /// it is taken or refused, save that a region balances once inside.
    fn receive(&self, case: &mut Case<'_>) -> Decision {
        case.run_here()
            .or_else(|| case.balance())
            .unwrap_or(Decision::Reject(Reason::NoRoom))
    }
}

/// The list of policies; the first is the default.
pub fn all() -> [&'static dyn Policy; 5] {
    [
        &spill::Spill,
        &local_only::LocalOnly,
        &cloud_only::CloudOnly,
        &edge_only::EdgeOnly,
        &edge_cloud::EdgeCloud,
    ]
}

/// The policy of this name.
pub fn named(name: &str) -> Option<&'static dyn Policy> {
    all().into_iter().find(|policy| policy.name() == name)
}

/// Decides about one call; tells `witness` what was weighed.
///
/// What a policy would refuse for want of a place waits instead
/// ([`Decision::Ask`]) while somebody may have one who was not asked, brings
/// the code, or, where this node cannot run the function at all, is full.
pub fn decide(
    policy: &dyn Policy,
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
    witness: &mut dyn Witness,
) -> Decision {
    let mut case = Case {
        request,
        snapshot,
        draws: Draws::new(snapshot.chance),
        open: false,
        full: false,
        is_watched: witness.is_watching(),
        witness,
    };
    match request.origin {
        Origin::Here => match policy.decide(&mut case) {
            Decision::Reject(Reason::NobodyHasRoom | Reason::NoSuchPlace)
                if case.open || (case.full && snapshot.local.here == Here::Unable) =>
            {
                Decision::Ask
            }
            decision => decision,
        },
        Origin::Neighbour | Origin::Region { .. } => policy.receive(&mut case),
    }
}

/// One call, what is known, and the steps that policies are made of. Each is
/// `None` where it cannot be taken.
pub struct Case<'a> {
    /// The call.
    pub request: &'a Request<'a>,
    /// What is known.
    pub snapshot: &'a Snapshot<'a>,
    draws: Draws,
    /// Somebody may take it who was not asked, or brings its code.
    open: bool,
    /// Somebody could take it, and is full.
    full: bool,
    is_watched: bool,
    witness: &'a mut dyn Witness,
}

impl Case<'_> {
    /// Runs the call here if that can be done at once.
    fn run_here(&self) -> Option<Decision> {
        match self.snapshot.local.here {
            Here::Warm | Here::Startable => Some(Decision::Run),
            Here::Full | Here::Unable => None,
        }
    }

    /// The same, unless the function fails here and not elsewhere.
    fn run_well_here(&self) -> Option<Decision> {
        let fails = self.snapshot.local.blamed && !self.request.anywhere;
        self.run_here().filter(|_| !fails)
    }

    /// Lets the call wait here if there is a place and it would be in time.
    fn queue(&self) -> Result<Decision, Reason> {
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
    fn ask(&self) -> Option<Decision> {
        let asks = self.open && !self.request.anywhere && self.request.origin == Origin::Here;
        asks.then_some(Decision::Ask)
    }

    /// Where a call that waits elsewhere than in the queue is better off than
    /// here, where the function fails.
    fn wait_elsewhere(&self) -> Option<Decision> {
        (self.open || self.full).then_some(Decision::Ask)
    }

    /// The neighbour that is expected to be done first.
    fn neighbour(&mut self) -> Option<Decision> {
        let view = self.snapshot.view;
        self.offload(view.neighbours(), Reach::Horizontal)
    }

    /// The member that is expected to be done first, of the first region that
    /// has one that fits.
    fn cloud(&mut self) -> Option<Decision> {
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
    fn balance(&mut self) -> Option<Decision> {
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
    /// proportion to what they have, and the one chosen last: B. Prabhakar, D. Shah, M. Mitzenmacher, "The
    /// use of memory in randomized load balancing", ISIT 2002. Between those
    /// that are alike chance decides.
    fn pick(&mut self, pool: &Pool) -> Option<usize> {
        if self.request.hops == 0 || self.request.bounds == Bounds::Node {
            return None;
        }
        if pool.is_empty() {
            return None;
        }
        let look = Look::new(self.request, self.snapshot);
        let mut best = Best::default();
        if pool.len() <= LOOKED_AT {
            for place in pool.members() {
                self.consider(&look, place, &mut best);
            }
            return best.place;
        }
        // Of many, those alone are drawn that can run it.
        let peers = &self.snapshot.view.peers;
        let needs = &self.request.needs;
        let pool = pool.fitting(|place| fits(needs, &peers[place].report));
        if pool.len() <= LOOKED_AT {
            for place in pool.members() {
                self.consider(&look, place, &mut best);
            }
            return best.place;
        }
        let mut looked_at = [usize::MAX; LOOKED_AT + 1];
        let remembered = self.snapshot.remembered;
        let remembered = remembered.and_then(|id| self.snapshot.view.place(&id));
        let remembered = remembered.filter(|place| pool.contains(*place));
        for at in 0..=LOOKED_AT {
            let place = match (at, remembered) {
                (0, Some(place)) => place,
                _ => pool.draw(self.draws.next()?)?,
            };
            if !looked_at.contains(&place) {
                looked_at[at] = place;
                self.consider(&look, place, &mut best);
            }
        }
        best.place
    }

    fn consider(&mut self, look: &Look<'_>, place: usize, best: &mut Best) {
        let peer = &self.snapshot.view.peers[place];
        let seen = look.at(peer);
        let verdict = look.weigh(&seen);
        if self.is_watched {
            self.witness.weighed(Weighed {
                peer: peer.id,
                age: self.snapshot.now.since(peer.loaded),
                room: peer.room(seen.offered, seen.room(), self.request.cost),
                round_trip: peer.round_trip,
                verdict,
            });
        }
        match verdict {
            Verdict::Fits { delay } => {
                let draw = self.draws.next().unwrap_or_default();
                best.offer(place, delay, look.alike, draw);
            }
            Verdict::Unasked { .. } | Verdict::Bringing { .. } => self.open = true,
            Verdict::Full | Verdict::OnTrial => self.full = true,
            Verdict::TooFar { .. }
            | Verdict::Slower { .. }
            | Verdict::Visited
            | Verdict::Unfit
            | Verdict::NoDisk
            | Verdict::NeedsGrant
            | Verdict::Unable
            | Verdict::Failing => {}
        }
    }
}

/// The best so far, and how many are like it.
#[derive(Debug, Default)]
struct Best {
    place: Option<usize>,
    rank: u128,
    alike: u32,
}

impl Best {
    fn offer(&mut self, place: usize, delay: Duration, alike: Duration, draw: f64) {
        let rank = rank(delay, alike);
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

/// How many steps of `alike` a delay is. Most are short enough for the division
/// that machines do at once.
fn rank(delay: Duration, alike: Duration) -> u128 {
    let (delay, alike) = (delay.as_nanos(), alike.as_nanos().max(1));
    match (u64::try_from(delay), u64::try_from(alike)) {
        (Ok(delay), Ok(alike)) => u128::from(delay / alike.max(1)),
        _ => delay / alike,
    }
}

/// Calls of a function that may be sent to a peer now.
pub fn room_of(peer: &PeerView, request: &Request<'_>, snapshot: &Snapshot<'_>) -> u32 {
    let seen = Look::new(request, snapshot).at(peer);
    peer.room(seen.offered, seen.room(), request.cost)
}

/// What speaks for and against a peer.
pub fn weigh(peer: &PeerView, request: &Request<'_>, snapshot: &Snapshot<'_>) -> Verdict {
    let look = Look::new(request, snapshot);
    look.weigh(&look.at(peer))
}

/// A call and what is known, with what is the same for all peers worked out.
struct Look<'a> {
    request: &'a Request<'a>,
    snapshot: &'a Snapshot<'a>,
    function: FunctionKey,
    /// What a start takes where the peer tells nothing of it.
    start: Duration,
    /// Completions that differ by less are alike.
    alike: Duration,
}

/// A peer, and what is known of the function there.
struct Seen<'a> {
    peer: &'a PeerView,
    able: Able<'a>,
    offered: Option<&'a Offered>,
}

impl<'a> Seen<'a> {
    fn room(&self) -> Option<&'a Arc<FunctionRoom>> {
        match self.able {
            Able::Ready(room) => Some(room),
            Able::Unasked | Able::Bringing(_) | Able::Unable(_) => None,
        }
    }
}

impl<'a> Look<'a> {
    fn new(request: &'a Request<'a>, snapshot: &'a Snapshot<'a>) -> Look<'a> {
        let executor = request.needs.executor.and_then(Executor::named);
        let service = snapshot.local.service.unwrap_or_default();
        let alike = service.checked_div(ALIKE_SHARE).unwrap_or_default();
        Look {
            request,
            snapshot,
            function: FunctionKey::of(request.function),
            start: snapshot.local.start.unwrap_or(start_prior(executor)),
            alike: alike.max(ALIKE),
        }
    }

    fn at<'b>(&self, peer: &'b PeerView) -> Seen<'b>
    where
        'a: 'b,
    {
        let known = self.snapshot.abilities.get(&peer.id);
        let able = known.map_or(Able::Unasked, |known| {
            known.able(self.request.version, peer.counted, self.snapshot.now)
        });
        Seen {
            peer,
            able,
            offered: peer.offered(self.function),
        }
    }

    fn weigh(&self, seen: &Seen<'_>) -> Verdict {
        let Seen { peer, offered, .. } = *seen;
        let (request, snapshot) = (self.request, self.snapshot);
        if request.avoid.contains(&peer.id) {
            return Verdict::Visited;
        }
        if !fits(&request.needs, &peer.report) {
            return Verdict::Unfit;
        }
        let has_it = match seen.able {
            Able::Ready(_) => true,
            Able::Bringing(left) => return Verdict::Bringing { left },
            Able::Unable(_) => return Verdict::Unable,
            // It has instances of it; whether of this version, it says itself.
            Able::Unasked => offered.is_some() || request.writer == Some(peer.id),
        };
        if !has_it && request.needs.grants {
            return Verdict::NeedsGrant;
        }
        if !has_it && request.needs.code_bytes > peer.load().disk_free {
            return Verdict::NoDisk;
        }
        if peer.probing && peer.window.held() > 0 {
            return Verdict::OnTrial;
        }
        if request.failing.contains(&peer.id) && !request.anywhere {
            return Verdict::Failing;
        }
        let known = seen.room();
        let delay = self.completion(seen);
        if snapshot.now + delay >= request.deadline {
            return Verdict::TooFar { delay };
        }
        if !has_it {
            return Verdict::Unasked { delay };
        }
        let ahead = || known.is_some_and(|known| known.ahead(peer.round_trip) > 0);
        if peer.room(offered, known, request.cost) == 0 && !ahead() {
            return Verdict::Full;
        }
        let local = &snapshot.local;
        if let (Here::Full, Some(wait), Some(service)) = (local.here, local.queue, local.service)
            && !local.blamed
            && delay > wait.saturating_add(service)
        {
            return Verdict::Slower { delay };
        }
        Verdict::Fits { delay }
    }

    /// When a call would be done at a peer: the way there and back, a start,
    /// what waits there already, and the function's own time.
    fn completion(&self, seen: &Seen<'_>) -> Duration {
        let Seen { peer, offered, .. } = *seen;
        let start = match offered {
            Some(offered) if offered.is_warm => Duration::ZERO,
            Some(offered) if offered.start_micros > 0 => {
                Duration::from_micros(offered.start_micros)
            }
            Some(_) | None => self.start,
        };
        let measured = seen.room().and_then(|known| known.service());
        let told = offered.filter(|offered| offered.service_micros > 0);
        let service = measured
            .or_else(|| Some(Duration::from_micros(told?.service_micros)))
            .or(self.snapshot.local.service)
            .unwrap_or_default();
        let way = peer.round_trip.saturating_add(start);
        // Calls that wait there are before this one on the cores that it has.
        let ahead = match peer.waiting {
            0 => Duration::ZERO,
            waiting => {
                let cores = (peer.cpu_total / 1_000).max(1);
                let ahead = service.saturating_mul(waiting);
                ahead.checked_div(cores).unwrap_or_default()
            }
        };
        way.saturating_add(ahead).saturating_add(service)
    }
}

/// Whether a node has what a function needs of it, whatever its load.
pub fn fits(needs: &Needs<'_>, report: &Report) -> bool {
    lacks(needs, report).is_none()
}

/// What a node lacks that a function needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack<'a> {
    /// The processor that its code is made for.
    Architecture(&'a str),
    /// The executor that runs it.
    Executor(&'a str),
    /// A label.
    Constraint(&'a str, &'a str),
}

impl std::fmt::Display for Lack<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lack::Architecture(name) => write!(f, "a processor {name}"),
            Lack::Executor(name) => write!(f, "the executor {name}"),
            Lack::Constraint(name, value) => write!(f, "constraint {name}={value}"),
        }
    }
}

/// The first thing that a node lacks; `None` when it has all.
pub fn lacks<'a>(needs: &Needs<'a>, report: &Report) -> Option<Lack<'a>> {
    if let Some(wanted) = needs.architecture
        && wanted != report.architecture
    {
        return Some(Lack::Architecture(wanted));
    }
    if let Some(wanted) = needs.executor
        && !report.executors.iter().any(|name| name == wanted)
    {
        return Some(Lack::Executor(wanted));
    }
    let constraints = needs.constraints.into_iter().flatten();
    let mut missing = constraints.filter(|(name, value)| report.labels.get(*name) != Some(*value));
    missing
        .next()
        .map(|(name, value)| Lack::Constraint(name, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::abilities::{Ability, AtPeers};
    use crate::facts::Facts;
    use crate::report::{Offer, Report, Role};
    use crate::samples::{id, report};
    use crate::snapshot::{Local, View, Word};

    /// A peer, built by what is unusual about it.
    #[derive(Debug, Clone)]
    struct Peer(PeerView);

    fn peer(number: u8) -> Peer {
        let facts = Arc::new(Facts::new(id(number), report()));
        let mut peer = PeerView::new(facts, 16, Time::ZERO);
        peer.round_trip = Duration::from_millis(1);
        peer.window.renew(&word(16));
        Peer(peer)
    }

    const COST: Cost = Cost {
        cpu: 1_000,
        long: false,
    };

    /// Room for so many calls.
    fn word(calls: u32) -> Word {
        let cpu = calls * COST.cpu;
        let load = crate::report::Load {
            guest_cpu: cpu,
            guest_cpu_long: cpu,
            ..report().load
        };
        Word { load, under_way: 0 }
    }

    impl Peer {
        fn change(mut self, change: impl FnOnce(&mut Report)) -> Peer {
            let mut report = (*self.0.report).clone();
            change(&mut report);
            let heard = self.0.heard;
            self.0.hear(Arc::new(Facts::new(self.0.id, report)), heard);
            self
        }

        fn cloud(self, region: &str) -> Peer {
            let region = region.to_owned();
            self.change(|report| {
                report.role = Role::Cloud;
                report.zone = None;
                report.region = Some(region);
            })
        }

        fn full(self) -> Peer {
            self.0.window.close();
            self
        }

        /// It has no instance of the function.
        fn idle(self) -> Peer {
            self.change(|report| report.offers.clear())
        }

        fn far(mut self, milliseconds: u64) -> Peer {
            self.0.round_trip = Duration::from_millis(milliseconds);
            self
        }

        fn cold(self) -> Peer {
            self.change(|report| report.offers[0].warm = 0)
        }
    }

    struct Given {
        here: Here,
        queue: Option<Duration>,
        role: Role,
        origin: Origin,
        hops: u8,
        avoid: Vec<PeerId>,
        deadline: Time,
        abilities: AtPeers,
        failing: Vec<PeerId>,
        blamed: bool,
        bounds: Bounds,
        service: Option<Duration>,
    }

    fn case(here: Here) -> Given {
        Given {
            here,
            queue: None,
            role: Role::Edge,
            origin: Origin::Here,
            hops: 3,
            avoid: Vec::new(),
            deadline: Time::NEVER,
            abilities: AtPeers::default(),
            failing: Vec::new(),
            blamed: false,
            bounds: Bounds::Federation,
            service: None,
        }
    }

    impl Given {
        fn from(self, origin: Origin) -> Given {
            Given { origin, ..self }
        }

        fn queue(self, milliseconds: u64) -> Given {
            Given {
                queue: Some(Duration::from_millis(milliseconds)),
                ..self
            }
        }

        fn cloud(self) -> Given {
            Given {
                role: Role::Cloud,
                ..self
            }
        }

        fn within(self, milliseconds: u64) -> Given {
            Given {
                deadline: Time::ZERO + Duration::from_millis(milliseconds),
                ..self
            }
        }

        fn ready(mut self, number: u8) -> Given {
            let room = Arc::new(FunctionRoom::new());
            let ready = Ability::Ready { version: 1, room };
            self.abilities.insert(id(number), ready);
            self
        }

        fn decide(&self, policy: &str, peers: &[Peer], chance: u64) -> (Decision, Vec<Weighed>) {
            let own = report();
            let view = View::new(&own, peers.iter().map(|peer| peer.0.clone()).collect());
            let function = "shout".parse().expect("a name");
            let regions = ["near".to_owned(), "away".to_owned()];
            let snapshot = Snapshot {
                local: Local {
                    here: self.here,
                    queue: self.queue,
                    service: self.service,
                    start: None,
                    blamed: self.blamed,
                    role: self.role,
                    regions: &regions,
                },
                view: &view,
                abilities: &self.abilities,
                remembered: None,
                now: Time::ZERO,
                chance,
            };
            let request = Request {
                function: &function,
                version: 1,
                writer: None,
                needs: Needs::default(),
                bounds: self.bounds,
                cost: COST,
                origin: self.origin,
                avoid: &self.avoid,
                failing: &self.failing,
                anywhere: false,
                hops: self.hops,
                deadline: self.deadline,
            };
            let policy = named(policy).expect("it is in the list");
            let mut weighed = Vec::new();
            let decision = decide(policy, &request, &snapshot, &mut weighed);
            (decision, weighed)
        }
    }

    #[track_caller]
    fn check(policy: &str, case: Given, peers: &[Peer], expected: Decision) {
        for chance in 0..20 {
            let (decision, weighed) = case.decide(policy, peers, chance);
            assert_eq!(decision, expected, "{policy}, chance {chance}: {weighed:?}");
        }
    }

    fn to(place: usize) -> Decision {
        Decision::Offload {
            to: place,
            reach: Reach::Horizontal,
        }
    }

    fn up(place: usize) -> Decision {
        Decision::Offload {
            to: place,
            reach: Reach::Vertical,
        }
    }

    fn wait() -> Decision {
        Decision::Enqueue { until: Time::NEVER }
    }

    const RUN: Decision = Decision::Run;
    const INSIDE: Origin = Origin::Region { inside: true };
    const OUTSIDE: Origin = Origin::Region { inside: false };

    fn reject(reason: Reason) -> Decision {
        Decision::Reject(reason)
    }

    #[test]
    fn names_are_those_of_the_configuration() {
        let names = all().map(Policy::name);
        let expected = [
            "spill",
            "local-only",
            "cloud-only",
            "edge-only",
            "edge-cloud",
        ];
        assert_eq!(names, expected);
        assert!(named("spil").is_none());
    }

    #[test]
    fn spill_runs_here_then_near_then_up_then_waits() {
        let (near, cloud) = (peer(1), peer(2).cloud("near"));
        let peers = [near.clone(), cloud.clone()];
        check("spill", case(Here::Warm), &peers, RUN);
        check("spill", case(Here::Startable), &peers, RUN);
        check("spill", case(Here::Full), &peers, to(0));
        check("spill", case(Here::Unable), &peers, to(0));
        check("spill", case(Here::Full), &[peer(1).full(), cloud], up(1));
        check(
            "spill",
            case(Here::Full).queue(5),
            &[peer(1).full()],
            wait(),
        );
        let nobody = reject(Reason::NobodyHasRoom);
        check("spill", case(Here::Full), &[peer(1).full()], nobody);
        check("spill", case(Here::Unable).queue(5), &[], nobody);
    }

    #[test]
    fn whoever_could_run_it_and_was_not_asked_is_asked_while_the_call_waits() {
        let unasked = [peer(1).idle()];
        check("spill", case(Here::Full).queue(5), &unasked, wait());
        check("spill", case(Here::Full), &unasked, Decision::Ask);
        check("spill", case(Here::Unable), &unasked, Decision::Ask);
        check("spill", case(Here::Full).ready(1), &unasked, to(0));
        let cloud = [peer(1).cloud("near").idle()];
        for policy in ["cloud-only", "edge-cloud"] {
            check(policy, case(Here::Full), &cloud, Decision::Ask);
            check(policy, case(Here::Full).ready(1), &cloud, up(0));
        }
        // A guest's sender has others to ask.
        let guest = case(Here::Full).from(Origin::Neighbour);
        let nobody = reject(Reason::NobodyHasRoom);
        check("spill", guest, &unasked, nobody);
    }

    #[test]
    fn who_runs_what_nobody_here_can_is_waited_for_when_it_is_full() {
        let full = [peer(1).full()];
        check("spill", case(Here::Unable), &full, Decision::Ask);
        check(
            "spill",
            case(Here::Unable),
            &[],
            reject(Reason::NobodyHasRoom),
        );
    }

    #[test]
    fn who_is_unable_or_lacks_disk_or_grants_is_no_candidate() {
        let nobody = reject(Reason::NobodyHasRoom);
        let mut unable = case(Here::Full);
        let said = Ability::Unable {
            version: 1,
            why: "no secret".into(),
            abilities: 0,
            until: Time::NEVER,
            pause: Duration::ZERO,
        };
        unable.abilities.insert(id(1), said);
        check("spill", unable, &[peer(1)], nobody);
        let no_disk = peer(1).idle().change(|report| report.load.disk_free = 9);
        let own = report();
        let view = View::new(&own, vec![no_disk.0.clone()]);
        let function = "shout".parse().expect("a name");
        let abilities = AtPeers::default();
        let snapshot = Snapshot {
            local: Local {
                here: Here::Full,
                queue: None,
                service: None,
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &[],
            },
            view: &view,
            abilities: &abilities,
            remembered: None,
            now: Time::ZERO,
            chance: 1,
        };
        let verdict = |needs| {
            let request = Request {
                needs,
                ..request_of(&function)
            };
            weigh(&no_disk.0, &request, &snapshot)
        };
        let code_bytes = 10;
        let wants_disk = Needs {
            code_bytes,
            ..Needs::default()
        };
        assert_eq!(verdict(wants_disk), Verdict::NoDisk);
        let grants = true;
        let wants_grants = Needs {
            grants,
            ..Needs::default()
        };
        assert_eq!(verdict(wants_grants), Verdict::NeedsGrant);
        assert!(matches!(verdict(Needs::default()), Verdict::Unasked { .. }));
    }

    fn request_of(function: &FunctionName) -> Request<'_> {
        Request {
            function,
            version: 1,
            writer: None,
            needs: Needs::default(),
            bounds: Bounds::Federation,
            cost: COST,
            origin: Origin::Here,
            avoid: &[],
            failing: &[],
            anywhere: false,
            hops: 3,
            deadline: Time::NEVER,
        }
    }

    #[test]
    fn a_function_stays_within_its_scope() {
        let bound = |bounds| Given {
            bounds,
            ..case(Here::Full)
        };
        let (near, cloud) = (peer(1), peer(2).cloud("near"));
        let nobody = reject(Reason::NobodyHasRoom);
        check(
            "spill",
            bound(Bounds::Zone),
            &[near.clone(), cloud.clone()],
            to(0),
        );
        let far = std::slice::from_ref(&cloud);
        check("spill", bound(Bounds::Zone), far, nobody);
        check("spill", bound(Bounds::Node), &[near, cloud], nobody);
    }

    #[test]
    fn where_a_function_fails_and_others_do_not_calls_go_last() {
        let fails_here = |here| Given {
            blamed: true,
            ..case(here).queue(5)
        };
        check("spill", fails_here(Here::Warm), &[peer(1)], to(0));
        check("spill", fails_here(Here::Warm), &[], RUN);
        check(
            "spill",
            fails_here(Here::Warm),
            &[peer(1).full()],
            Decision::Ask,
        );
        let fails_there = Given {
            failing: vec![id(1)],
            ..case(Here::Full).queue(5)
        };
        check("spill", fails_there, &[peer(1)], wait());
        let fails_there = Given {
            failing: vec![id(1)],
            ..case(Here::Full)
        };
        check("spill", fails_there, &[peer(1), peer(2)], to(1));
    }

    #[test]
    fn who_is_slower_than_the_queue_here_waits_for_a_longer_queue() {
        let slow = [peer(1).change(|report| report.offers[0].service_micros = 400_000)];
        let queue = |milliseconds| Given {
            service: Some(Duration::from_millis(100)),
            ..case(Here::Full).queue(milliseconds)
        };
        check("spill", queue(100), &slow, wait());
        check("spill", queue(350), &slow, to(0));
    }

    #[test]
    fn a_short_deadline_reaches_a_cold_idle_neighbour_where_starts_are_quick() {
        let cold = [peer(1)
            .cold()
            .change(|report| report.offers[0].start_micros = 0)];
        let own = report();
        let view = View::new(&own, vec![cold[0].0.clone()]);
        let function = "shout".parse().expect("a name");
        let abilities = AtPeers::default();
        let snapshot = Snapshot {
            local: Local {
                here: Here::Full,
                queue: None,
                service: None,
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &[],
            },
            view: &view,
            abilities: &abilities,
            remembered: None,
            now: Time::ZERO,
            chance: 1,
        };
        let verdict = |executor, measured_here| {
            let local = Local {
                start: measured_here,
                ..snapshot.local
            };
            let snapshot = Snapshot { local, ..snapshot };
            let request = Request {
                needs: Needs {
                    executor: Some(executor),
                    ..Needs::default()
                },
                deadline: Time::ZERO + Duration::from_millis(100),
                ..request_of(&function)
            };
            weigh(
                &cold[0]
                    .clone()
                    .change(|report| {
                        report.executors = vec!["wasm".to_owned(), "docker".to_owned()]
                    })
                    .0,
                &request,
                &snapshot,
            )
        };
        assert!(matches!(verdict("wasm", None), Verdict::Fits { .. }));
        assert!(matches!(verdict("docker", None), Verdict::TooFar { .. }));
        // What a start takes here says more than what executors do as a rule.
        let (quick, slow) = (Duration::from_millis(30), Duration::from_millis(300));
        assert!(matches!(
            verdict("docker", Some(quick)),
            Verdict::Fits { .. }
        ));
        assert!(matches!(
            verdict("wasm", Some(slow)),
            Verdict::TooFar { .. }
        ));
    }

    #[test]
    fn spill_prefers_the_region_that_comes_first() {
        let peers = [peer(1).cloud("away"), peer(2).cloud("near")];
        check("spill", case(Here::Full), &peers, up(1));
        let peers = [peer(1).cloud("away"), peer(2).cloud("near").full()];
        check("spill", case(Here::Full), &peers, up(0));
        // A region that this node does not spill to is none.
        let strangers = [peer(1).cloud("elsewhere")];
        let nobody = reject(Reason::NobodyHasRoom);
        check("spill", case(Here::Full), &strangers, nobody);
    }

    #[test]
    fn spill_passes_on_what_a_neighbour_sent_and_refuses_rather_than_queues() {
        let from = |here| case(here).queue(5).from(Origin::Neighbour);
        check("spill", from(Here::Full), &[peer(1)], to(0));
        check("spill", from(Here::Full), &[peer(1).cloud("near")], up(0));
        check(
            "spill",
            from(Here::Full),
            &[],
            reject(Reason::NobodyHasRoom),
        );
    }

    #[test]
    fn a_deadline_that_cannot_be_kept_is_no_reason_to_wait() {
        let late = reject(Reason::TooLate);
        check("spill", case(Here::Full).queue(50).within(20), &[], late);
        check(
            "local-only",
            case(Here::Full).queue(50).within(20),
            &[],
            late,
        );
        let far = [peer(1).far(40)];
        check("spill", case(Here::Full).queue(50).within(30), &far, late);
        check("spill", case(Here::Full).queue(50).within(45), &far, to(0));
    }

    #[test]
    fn the_nearer_and_the_warmer_is_chosen() {
        // Of three, whichever two are drawn, the worst is never the choice.
        for worst in [peer(3).far(80), peer(3).cold()] {
            let peers = [peer(1), peer(2), worst];
            for chance in 0..200 {
                let (decision, _) = case(Here::Full).decide("spill", &peers, chance);
                assert!(
                    matches!(decision, Decision::Offload { to: 0 | 1, .. }),
                    "{decision:?}"
                );
            }
        }
    }

    #[test]
    fn load_is_spread_over_neighbours() {
        let peers = [peer(1), peer(2), peer(3), peer(4)];
        let mut counts = [0; 4];
        for chance in 0..4_000 {
            if let (Decision::Offload { to, .. }, _) =
                case(Here::Full).decide("spill", &peers, chance)
            {
                counts[to] += 1;
            }
        }
        assert!(counts.iter().all(|count| *count > 600), "{counts:?}");
    }

    #[test]
    fn local_only_asks_nobody() {
        let peers = [peer(1), peer(2).cloud("near")];
        check("local-only", case(Here::Warm), &peers, RUN);
        check("local-only", case(Here::Full).queue(5), &peers, wait());
        check(
            "local-only",
            case(Here::Full),
            &peers,
            reject(Reason::NoRoom),
        );
    }

    #[test]
    fn cloud_only_runs_nothing_at_the_edge() {
        let peers = [peer(1), peer(2).cloud("near")];
        check("cloud-only", case(Here::Warm), &peers, up(1));
        let nowhere = reject(Reason::NoSuchPlace);
        check("cloud-only", case(Here::Warm).queue(5), &[peer(1)], nowhere);
        check("cloud-only", case(Here::Warm).cloud(), &peers, RUN);
        check(
            "cloud-only",
            case(Here::Warm).from(Origin::Neighbour),
            &peers,
            RUN,
        );
    }

    #[test]
    fn edge_only_asks_neighbours_first() {
        let peers = [peer(1), peer(2).cloud("near")];
        check("edge-only", case(Here::Warm), &peers, to(0));
        check("edge-only", case(Here::Warm), &peers[1..], RUN);
        check(
            "edge-only",
            case(Here::Warm),
            &[peer(1).idle()],
            Decision::Ask,
        );
        let nobody = reject(Reason::NobodyHasRoom);
        check("edge-only", case(Here::Full).queue(5), &peers[1..], nobody);
    }

    #[test]
    fn edge_cloud_asks_the_cloud_and_no_neighbour() {
        let peers = [peer(1), peer(2).cloud("near")];
        check("edge-cloud", case(Here::Warm), &peers, RUN);
        check("edge-cloud", case(Here::Full).queue(5), &peers, up(1));
        let nobody = reject(Reason::NobodyHasRoom);
        check("edge-cloud", case(Here::Full).queue(5), &peers[..1], nobody);
    }

    #[test]
    fn policies_of_one_hop_take_what_arrives_or_refuse_it() {
        let peers = [peer(1), peer(2).cloud("near")];
        for policy in ["local-only", "cloud-only", "edge-only", "edge-cloud"] {
            let from = |here, origin| case(here).queue(5).from(origin);
            check(policy, from(Here::Warm, Origin::Neighbour), &peers, RUN);
            let full = reject(Reason::NoRoom);
            check(policy, from(Here::Full, Origin::Neighbour), &peers, full);
            // Save that a region balances once inside.
            check(policy, from(Here::Full, OUTSIDE).cloud(), &peers, to(1));
            check(policy, from(Here::Full, INSIDE).cloud(), &peers, full);
        }
        check(
            "spill",
            case(Here::Full).from(INSIDE).cloud(),
            &peers,
            reject(Reason::NobodyHasRoom),
        );
    }

    #[test]
    fn who_lacks_what_a_function_needs_is_no_candidate() {
        let own = report();
        let function = "shout".parse().expect("a name");
        let constraints = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let needs = Needs {
            architecture: Some("x86_64"),
            executor: Some("wasm"),
            constraints: Some(&constraints),
            ..Needs::default()
        };
        let verdict = |peer: Peer| {
            let view = View::new(&own, vec![peer.0.clone()]);
            let abilities = AtPeers::default();
            let snapshot = Snapshot {
                local: Local {
                    here: Here::Full,
                    queue: None,
                    service: None,
                    start: None,
                    blamed: false,
                    role: Role::Edge,
                    regions: &[],
                },
                view: &view,
                abilities: &abilities,
                remembered: None,
                now: Time::ZERO,
                chance: 1,
            };
            let request = Request {
                needs,
                avoid: &[id(9)],
                hops: 1,
                ..request_of(&function)
            };
            weigh(&peer.0, &request, &snapshot).as_str()
        };
        assert_eq!(verdict(peer(1)), "fits");
        assert_eq!(
            verdict(peer(1).change(|r| r.architecture = "aarch64".to_owned())),
            "lacks what the function needs"
        );
        assert_eq!(
            verdict(peer(1).change(|r| r.executors.clear())),
            "lacks what the function needs"
        );
        assert_eq!(
            verdict(peer(1).change(|r| r.labels.clear())),
            "lacks what the function needs"
        );
        assert_eq!(verdict(peer(1).idle()), "not asked yet");
        assert_eq!(verdict(peer(1).full()), "full");
        assert_eq!(verdict(peer(9)), "was tried already");
    }

    #[test]
    fn one_call_at_a_time_finds_out_whether_a_peer_is_well_again() {
        let mut probed = peer(1);
        probed.0.probing = true;
        check("spill", case(Here::Full), &[probed.clone()], to(0));
        let held = probed.0.window.reserve(None, COST, Time::ZERO);
        let _held = held.expect("room");
        check(
            "spill",
            case(Here::Full),
            &[probed],
            reject(Reason::NobodyHasRoom),
        );
    }

    #[test]
    fn of_many_the_few_that_can_run_it_are_found() {
        let number = |number: u8| peer(number);
        let mut peers: Vec<Peer> = (1..=200).map(number).collect();
        let docker = |report: &mut Report| report.executors = vec!["docker".to_owned()];
        peers[150] = peers[150].clone().change(docker);
        peers[170] = peers[170].clone().change(docker).full();
        let view = View::new(&report(), peers.into_iter().map(|peer| peer.0).collect());
        let function = "shout".parse().expect("a name");
        let abilities = AtPeers::default();
        for (executor, expected) in [("docker", 2), ("wasm", LOOKED_AT + 1), ("none", 0)] {
            let needs = Needs {
                executor: Some(executor),
                ..Needs::default()
            };
            let request = Request {
                needs,
                ..request_of(&function)
            };
            let snapshot = Snapshot {
                local: Local {
                    here: Here::Full,
                    queue: None,
                    service: None,
                    start: None,
                    blamed: false,
                    role: Role::Edge,
                    regions: &[],
                },
                view: &view,
                abilities: &abilities,
                remembered: Some(id(151)),
                now: Time::ZERO,
                chance: 3,
            };
            let mut weighed: Vec<Weighed> = Vec::new();
            let spill = named("spill").expect("it is in the list");
            let decision = decide(spill, &request, &snapshot, &mut weighed);
            assert!(weighed.len() <= expected, "{executor}: {weighed:?}");
            assert!(weighed.iter().all(|seen| seen.verdict != Verdict::Unfit));
            match executor {
                "docker" => assert_eq!(decision, to(150)),
                "wasm" => assert!(matches!(decision, Decision::Offload { .. })),
                _ => assert_eq!(decision, reject(Reason::NobodyHasRoom)),
            }
        }
    }

    fn any_peer() -> impl Strategy<Value = Peer> {
        (
            1..30_u8,
            any::<bool>(),
            any::<bool>(),
            0..20_u32,
            0..200_u64,
            0..3_u32,
        )
            .prop_map(|(number, is_cloud, near, room, milliseconds, warm)| {
                let known = peer(number).far(milliseconds).change(|report| {
                    report.offers = vec![Offer {
                        warm,
                        ..report.offers[0].clone()
                    }];
                });
                known.0.window.renew(&word(room));
                match is_cloud {
                    true => known.cloud(if near { "near" } else { "away" }),
                    false => known,
                }
            })
    }

    proptest! {
        #[test]
        fn no_policy_breaks_the_rules(
            peers in prop::collection::vec(any_peer(), 0..12),
            here in prop::sample::select(vec![Here::Warm, Here::Startable, Here::Full, Here::Unable]),
            origin in prop::sample::select(vec![Origin::Here, Origin::Neighbour, INSIDE, OUTSIDE]),
            hops in 0..3_u8,
            avoid in prop::collection::vec(1..30_u8, 0..6),
            queue in prop::option::of(0..100_u64),
            within in 1..300_u64,
            chance in any::<u64>(),
            index in 0..5_usize,
        ) {
            let case = Given {
                here,
                queue: queue.map(Duration::from_millis),
                role: Role::Edge,
                origin,
                hops,
                avoid: avoid.into_iter().map(id).collect(),
                deadline: Time::ZERO + Duration::from_millis(within),
                ..case(here)
            };
            let policy = all()[index].name();
            let (decision, weighed) = case.decide(policy, &peers, chance);
            // The same question has the same answer.
            prop_assert_eq!(decision, case.decide(policy, &peers, chance).0);
            match decision {
                Decision::Run => prop_assert!(matches!(here, Here::Warm | Here::Startable)),
                Decision::Enqueue { until } => {
                    prop_assert!(queue.is_some() && here != Here::Unable && until == case.deadline);
                    prop_assert_eq!(origin, Origin::Here);
                }
                Decision::Offload { to, reach } => {
                    prop_assert!(hops > 0);
                    let chosen = &peers[to].0;
                    prop_assert!(!case.avoid.contains(&chosen.id));
                    prop_assert!(chosen.window.room(COST) > 0);
                    prop_assert!(weighed.iter().any(|seen| seen.peer == chosen.id));
                    if reach == Reach::Vertical {
                        prop_assert_eq!(chosen.report.role, Role::Cloud);
                    }
                }
                Decision::Ask => prop_assert_eq!(origin, Origin::Here),
                Decision::Reject(_) => {}
            }
            prop_assert!(weighed.len() <= 3 * (LOOKED_AT + 1));
        }
    }
}
