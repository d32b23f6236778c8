//! What speaks for and against a peer: whether it can run a function, whether it
//! has room, and when it would be done.

use std::sync::Arc;
use std::time::Duration;

use super::{Needs, Request};
use crate::abilities::Able;
use crate::beside::{Held, Sending};
use crate::explain::Verdict;
use crate::facts::{Facts, FunctionKey, Offered};
use crate::report::Report;
use crate::snapshot::{FunctionRoom, Here, PeerView, PeerViews, Pool, Snapshot, nanos};

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
const ALIKE_SHARE: u64 = 16;

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

/// Calls of a function that may be sent to a peer now.
pub fn room_of(peer: &PeerView, request: &Request<'_>, snapshot: &Snapshot<'_>) -> u32 {
    let seen = Look::new(request, snapshot).at(peer);
    peer.room(seen.offered, seen.room(), request.cost)
}

/// What speaks for and against a peer.
pub fn weigh(peer: &PeerView, request: &Request<'_>, snapshot: &Snapshot<'_>) -> Verdict {
    let look = Look::new(request, snapshot);
    look.rate(&look.at(peer), fits(&request.needs, &peer.report))
        .verdict()
}

/// The same of all members of a pool, in their order.
pub fn weigh_all<'a>(
    pool: &'a Pool,
    request: &'a Request<'a>,
    snapshot: &'a Snapshot<'a>,
) -> impl Iterator<Item = (&'a PeerView, Verdict)> {
    let look = Look::new(request, snapshot);
    let peers = &snapshot.view.peers;
    let can = |peer: &PeerView| fits(&request.needs, &peer.report);
    let kinds = pool.kinds_that(can, peers);
    pool.by_kind().map(move |(place, kind)| {
        let peer = &peers[place];
        let fit = kinds.has(kind).unwrap_or_else(|| can(peer));
        (peer, look.rate(&look.at(peer), fit).verdict())
    })
}

/// What speaks for and against a peer, with the delay of one that fits as a
/// number: all are compared, and one is told of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rated {
    /// It may take the call, and is done with it after so many nanoseconds.
    Fits(u64),
    /// Something is against it.
    Not(Verdict),
}

impl Rated {
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Rated::Fits(delay) => Verdict::Fits {
                delay: Duration::from_nanos(delay),
            },
            Rated::Not(verdict) => verdict,
        }
    }
}

/// A call and what is known, with what is the same for all peers worked out.
/// Times are in nanoseconds.
pub(super) struct Look<'a> {
    request: &'a Request<'a>,
    snapshot: &'a Snapshot<'a>,
    function: FunctionKey,
    now: u64,
    deadline: u64,
    /// What a start takes where the peer tells nothing of it.
    start: u64,
    /// How long the function runs here.
    service: u64,
    /// When a call that waits here is done; `None` when it does not wait here.
    here: Option<u64>,
    /// Completions that differ by less are alike.
    pub(super) alike: u64,
    /// Whether anything is known of the function at peers.
    knows: bool,
}

/// A peer, and what is known of the function there.
pub(super) struct Seen<'a> {
    pub(super) peer: &'a PeerView,
    able: Able<'a>,
    pub(super) offered: Option<&'a Offered>,
}

impl<'a> Seen<'a> {
    pub(super) fn room(&self) -> Option<&'a Arc<FunctionRoom>> {
        match self.able {
            Able::Ready(room) => Some(room),
            Able::Unasked | Able::Bringing(_) | Able::Unable(_) => None,
        }
    }
}

impl<'a> Look<'a> {
    fn new(request: &'a Request<'a>, snapshot: &'a Snapshot<'a>) -> Look<'a> {
        Look::of(FunctionKey::of(request.function), request, snapshot)
    }

    /// The same of a call whose function's key is known.
    pub(super) fn of(
        function: FunctionKey,
        request: &'a Request<'a>,
        snapshot: &'a Snapshot<'a>,
    ) -> Look<'a> {
        let local = &snapshot.local;
        let executor = request.needs.executor.and_then(Executor::named);
        let service = nanos(local.service.unwrap_or_default());
        let here = match (local.here, local.queue, local.service) {
            (Here::Full, Some(wait), Some(_)) if !local.blamed => {
                Some(nanos(wait).saturating_add(service))
            }
            _ => None,
        };
        Look {
            request,
            snapshot,
            function,
            now: snapshot.now.as_nanos(),
            deadline: request.deadline.as_nanos(),
            start: nanos(local.start.unwrap_or(start_prior(executor))),
            service,
            here,
            alike: (service / ALIKE_SHARE).max(nanos(ALIKE)),
            knows: !snapshot.abilities.is_empty(),
        }
    }

    pub(super) fn at<'b>(&self, peer: &'b PeerView) -> Seen<'b>
    where
        'a: 'b,
    {
        self.read(peer, &peer.facts)
    }

    /// The same of several, in rounds: what is read of one peer depends on what
    /// was read of it before, and of many peers little is in a processor's
    /// cache, so that it waits for all of a round at once.
    pub(super) fn at_each<'b, const N: usize>(
        &self,
        peers: &'b PeerViews,
        places: [Option<usize>; N],
    ) -> [Option<(usize, Seen<'b>)>; N]
    where
        'a: 'b,
    {
        let near = places.map(|place| {
            let peer = &peers[place?];
            Some((place?, peer, &*peer.facts))
        });
        near.map(|near| near.map(|(place, peer, facts)| (place, self.read(peer, facts))))
    }

    fn read<'b>(&self, peer: &'b PeerView, facts: &'b Facts) -> Seen<'b>
    where
        'a: 'b,
    {
        let known = match self.knows {
            true => self.snapshot.abilities.by_key(peer.key),
            false => None,
        };
        let able = known.map_or(Able::Unasked, |known| {
            known.able(self.request.version, facts.counted, self.snapshot.now)
        });
        Seen {
            peer,
            able,
            offered: facts.offered(self.function),
        }
    }

    /// What speaks for and against a peer that has what the function needs of a
    /// node, or has not.
    pub(super) fn rate(&self, seen: &Seen<'_>, fits: bool) -> Rated {
        let Seen { peer, offered, .. } = *seen;
        let request = self.request;
        if let Some(verdict) = self.rules_out(peer, fits) {
            return Rated::Not(verdict);
        }
        let has_it = match seen.able {
            Able::Ready(_) => true,
            Able::Bringing(left) => return Rated::Not(Verdict::Bringing { left }),
            Able::Unable(_) => return Rated::Not(Verdict::Unable),
            // It has instances of it; whether of this version, it says itself.
            Able::Unasked => offered.is_some() || request.writer == Some(peer.id),
        };
        if !has_it && request.needs.grants {
            return Rated::Not(Verdict::NeedsGrant);
        }
        if !has_it && request.needs.code_bytes > peer.load().disk_free {
            return Rated::Not(Verdict::NoDisk);
        }
        if peer.probing && peer.held() > 0 {
            return Rated::Not(Verdict::OnTrial);
        }
        let fails = !request.failing.is_empty() && request.failing.contains(&peer.id);
        if fails && !request.anywhere {
            return Rated::Not(Verdict::Failing);
        }
        let known = seen.room();
        let has_room = peer.has_room(offered, known, request.cost);
        let nanos = self.completion(seen, has_room);
        let delay = || Duration::from_nanos(nanos);
        if self.now.saturating_add(nanos) >= self.deadline {
            return Rated::Not(Verdict::TooFar { delay: delay() });
        }
        if !has_it {
            return Rated::Not(Verdict::Unasked { delay: delay() });
        }
        if !has_room && !may_go_ahead(peer, known) {
            return Rated::Not(Verdict::Full);
        }
        // One that is sent ahead waits there for a round trip at the most: a place
        // that is free is better.
        let turn = if has_room { 0 } else { peer.round_trip_nanos };
        let nanos = nanos.saturating_add(turn);
        let delay = || Duration::from_nanos(nanos);
        if let Some(held) = self.held(peer, has_room) {
            return Rated::Not(held);
        }
        match self.here {
            Some(here) if nanos > here => Rated::Not(Verdict::Slower { delay: delay() }),
            _ => Rated::Fits(nanos),
        }
    }

    /// What speaks against a peer whatever is known of the function there.
    fn rules_out(&self, peer: &PeerView, fits: bool) -> Option<Verdict> {
        let request = self.request;
        if !request.avoid.is_empty() && request.avoid.contains(&peer.id) {
            return Some(Verdict::Visited);
        }
        if !fits {
            return Some(Verdict::Unfit);
        }
        // Mostly nobody is.
        let congestion = self.snapshot.congestion?;
        let is_congested = congestion.is_congested(&peer.id, self.snapshot.now);
        is_congested.then_some(Verdict::Congested)
    }

    /// Whether a peer is not to be offered the call that has room for it, or will
    /// have.
    fn held(&self, to: &PeerView, has_room: bool) -> Option<Verdict> {
        let more = &self.request.more;
        let sending = Sending {
            to,
            has_room,
            class: more.class.key,
            arrived: more.arrived,
        };
        match more.beside?.holds(&sending, self.snapshot.now)? {
            Held::Throttled => Some(Verdict::Throttled),
            Held::Shed => Some(Verdict::Shed),
            // That is of the call, and not of a peer.
            Held::Budget => None,
        }
    }

    /// After how many nanoseconds a call would be done at a peer that has room for
    /// it, or has not: the way there and back, a start, what waits there already,
    /// and the function's own time.
    fn completion(&self, seen: &Seen<'_>, has_room: bool) -> u64 {
        let Seen { peer, offered, .. } = *seen;
        let start = match offered {
            // One that is sent ahead takes the instance of a call that ends.
            _ if seen
                .room()
                .is_some_and(|known| !has_room || known.is_warm()) =>
            {
                0
            }
            Some(offered) if offered.is_warm => 0,
            Some(offered) if offered.start_micros > 0 => from_micros(offered.start_micros),
            Some(_) | None => self.start,
        };
        let measured = seen.room().and_then(|known| known.service_nanos());
        let told = offered.filter(|offered| offered.service_micros > 0);
        let service = match (measured, told) {
            (Some(measured), _) => measured,
            (None, Some(told)) => from_micros(told.service_micros),
            (None, None) => self.service,
        };
        // Calls that wait there are before this one on the cores that it has, where
        // they wait for these: beside a free place they wait for something else,
        // such as their own function's --max, or did so when it spoke.
        let ahead = match (has_room, peer.waiting) {
            (true, _) | (false, 0) => 0,
            (false, waiting) => {
                let cores = u64::from((peer.cpu_total / 1_000).max(1));
                match service.checked_mul(u64::from(waiting)) {
                    Some(ahead) => ahead / cores,
                    None => u64::MAX,
                }
            }
        };
        let way = peer.round_trip_nanos.saturating_add(start);
        way.saturating_add(ahead).saturating_add(service)
    }
}

/// Whether a call may go to a peer ahead of a place there. Those that are there
/// already count: who chose a peer that takes no more of them would choose it over
/// and over, beside others that have a place.
fn may_go_ahead(peer: &PeerView, known: Option<&Arc<FunctionRoom>>) -> bool {
    let (Some(known), Some(window)) = (known, peer.window()) else {
        return false;
    };
    window.may_go_ahead(known, known.ahead(peer.round_trip()))
}

fn from_micros(micros: u64) -> u64 {
    micros.saturating_mul(1_000)
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
