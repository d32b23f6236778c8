//! What speaks for and against a peer: whether it can run a function, whether it
//! has room, and when it would be done.

use std::sync::Arc;
use std::time::Duration;

use super::{Needs, Request};
use crate::abilities::Able;
use crate::explain::Verdict;
use crate::facts::{FunctionKey, Offered};
use crate::report::Report;
use crate::snapshot::{FunctionRoom, Here, PeerView, Snapshot};

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
pub(super) struct Look<'a> {
    request: &'a Request<'a>,
    snapshot: &'a Snapshot<'a>,
    function: FunctionKey,
    /// What a start takes where the peer tells nothing of it.
    start: Duration,
    /// Completions that differ by less are alike.
    pub(super) alike: Duration,
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
    pub(super) fn new(request: &'a Request<'a>, snapshot: &'a Snapshot<'a>) -> Look<'a> {
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

    pub(super) fn at<'b>(&self, peer: &'b PeerView) -> Seen<'b>
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

    pub(super) fn weigh(&self, seen: &Seen<'_>) -> Verdict {
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
