//! Calls that wait: each free place at a peer that this node knows of is one
//! more place of its queue, and peers that may have one are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dashmap::DashMap;
use http::Request;
use libp2p_identity::PeerId;
use tokio::sync::{Notify, oneshot};
use weir_node::executor::Body;
use weir_node::id::FunctionName;
use weir_node::node::Moves;
use weir_node::time::Time;

use super::Inner;
use super::offer::{Errand, Seized, to_absolute};
use crate::answers::{self, Told, Why};
use crate::explain::Verdict;
use crate::peers::{Fault, Met};
use crate::policy::{self, Origin, Reaches};
use crate::snapshot::{Here, Local, PeerView, Snapshot};
use crate::wire::{self, CARRIAGE, LOOK, Look, Looked};
use weir_federation_core::wanted::Wanted;

/// Calls that wait for a place elsewhere without one in the queue here.
const OUTSIDE: usize = 256;

/// Pause between two questions to one peer about one function.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Questions of a node to all peers together, in a second.
const LOOKS_PER_SECOND: f64 = 20.0;

/// Questions that may be asked at once after a pause.
const LOOKS_AT_ONCE: f64 = 8.0;

/// How long a question waits at a peer for a place there.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// How much longer its answer may take.
const LOOK_LATE: Duration = Duration::from_secs(2);

/// Functions that peers are asked about at once; those that wait longest.
const LOOKED_FOR: usize = 4;

/// Places that one question asks for.
const PLACES: u32 = 64;

/// Nodes that bring one function for this one at once.
const BRINGS: usize = 4;

/// Calls that one word of a peer moves there at most; the next word moves more.
const MOVED: usize = 256;

/// Pairs of peer and function of which is kept when they were asked last.
const ASKED: usize = 4_096;

/// A call that waits.
pub(super) struct Waiting {
    pub(super) inner: Weak<Inner>,
    pub(super) function: FunctionName,
    pub(super) wanted: Arc<Wanted>,
    pub(super) reaches: Reaches,
    pub(super) avoid: Vec<PeerId>,
    pub(super) failing: Vec<PeerId>,
    pub(super) anywhere: bool,
    pub(super) deadline: Time,
    /// Whether it has a place in the queue here; else it waits elsewhere only.
    pub(super) queued: bool,
    /// How long each call that waits here makes the next one wait.
    pub(super) turn: Option<Duration>,
    pub(super) seized: Mutex<Option<oneshot::Sender<Seized>>>,
}

impl Waiting {
    fn verdict(&self, inner: &Inner, peer: &PeerView) -> Verdict {
        self.looking(inner, |request, snapshot| {
            policy::weigh(peer, request, snapshot)
        })
    }

    /// Looks at peers as a decision about this call does.
    fn looking<T>(
        &self,
        inner: &Inner,
        look: impl FnOnce(&policy::Request<'_>, &Snapshot<'_>) -> T,
    ) -> T {
        let shared = &inner.federated.shared;
        let view = shared.view.load();
        let abilities = inner.federated.abilities().of(&self.function);
        let service = inner.service(&self.function);
        let waiting = u32::try_from(inner.waiters.len()).unwrap_or(u32::MAX);
        let regions = shared.regions.load();
        let congestion = inner.policies.congestion.load();
        let request = policy::Request {
            function: &self.function,
            version: self.wanted.version,
            writer: self.wanted.writer,
            needs: self.wanted.needs(),
            bounds: self.wanted.bounds,
            cost: self.wanted.cost(service),
            origin: Origin::Here,
            avoid: &self.avoid,
            failing: &self.failing,
            anywhere: self.anywhere,
            hops: 1,
            deadline: self.deadline,
            more: policy::More::default(),
        };
        let snapshot = Snapshot {
            local: Local {
                here: if self.queued {
                    Here::Full
                } else {
                    Here::Unable
                },
                // A call that goes makes the wait of all others shorter: what
                // counts is how long the last one has to wait.
                queue: self.turn.map(|turn| turn.saturating_mul(waiting)),
                service,
                start: inner.node.start_time(&self.function),
                blamed: false,
                role: shared.role,
                regions: &regions,
            },
            view: &view,
            abilities: &abilities,
            remembered: None,
            congestion: congestion.as_deref(),
            now: inner.node.clock().now(),
            chance: 0,
        };
        look(&request, &snapshot)
    }

    /// Peers that the policy lets it go to.
    fn peers(&self, inner: &Inner) -> Vec<PeerId> {
        let shared = &inner.federated.shared;
        let view = shared.view.load();
        let regions = shared.regions.load();
        let near = self.reaches.horizontal.then(|| view.neighbours());
        let far = regions
            .iter()
            .filter(|_| self.reaches.vertical && self.wanted.bounds == policy::Bounds::Federation);
        let far = far.filter_map(|region| view.region(region));
        let places = near.into_iter().chain(far).flat_map(|pool| pool.members());
        let ids = places.map(|place| view.peers[place].id);
        ids.collect()
    }
}

impl Moves for Waiting {
    fn go(&self, peer: &PeerId) -> bool {
        let Some(inner) = self.inner.upgrade() else {
            return false;
        };
        let view = inner.federated.shared.view.load();
        let Some(peer) = view.peer(peer) else {
            return false;
        };
        if !self.may_go(&inner, peer) || !matches!(self.verdict(&inner, peer), Verdict::Fits { .. })
        {
            return false;
        }
        let Some(seized) = inner.seize(peer, &self.function, &self.wanted) else {
            return false;
        };
        let sender = self.seized.lock();
        let sender = sender.unwrap_or_else(PoisonError::into_inner).take();
        let Some(sender) = sender else {
            seized.reserved.give_back();
            return false;
        };
        let Err(seized) = sender.send(seized) else {
            return true;
        };
        seized.reserved.give_back();
        false
    }
}

impl Waiting {
    /// Whether the policy lets it go to a peer, by what the peer is.
    fn may_go(&self, inner: &Inner, peer: &PeerView) -> bool {
        let shared = &inner.federated.shared;
        match shared.is_neighbour(&peer.report) {
            true => self.reaches.horizontal,
            false => {
                let regions = shared.regions.load();
                let region = peer.report.region.as_ref();
                self.reaches.vertical
                    && self.wanted.bounds == policy::Bounds::Federation
                    && region.is_some_and(|region| regions.contains(region))
            }
        }
    }
}

/// All calls that wait and may leave.
#[derive(Default)]
pub(super) struct Waiters {
    /// In the order in which they came.
    all: Mutex<BTreeMap<u64, Arc<Waiting>>>,
    count: AtomicUsize,
    outside: AtomicUsize,
    next: AtomicU64,
    /// Places at peers that calls of this node's users have now, in thousandths
    /// of one of this node's: a peer that is twice as quick gives two.
    served: AtomicU32,
    /// Some wait for whom nobody has asked yet.
    came: Notify,
    /// When a peer was asked about a function last, and whether it still is.
    asked: DashMap<(PeerId, FunctionName), (Time, bool)>,
}

/// Takes its call out of the list when dropped.
pub(super) struct Entered<'a> {
    waiters: &'a Waiters,
    number: u64,
    queued: bool,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.waiters.list().remove(&self.number);
        self.waiters.count.fetch_sub(1, Ordering::Relaxed);
        if !self.queued {
            self.waiters.outside.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Waiters {
    fn list(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Waiting>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Adds a call; `None` when too many wait without a place in the queue.
    pub(super) fn enter(&self, waiting: &Arc<Waiting>) -> Option<Entered<'_>> {
        let queued = waiting.queued;
        if !queued {
            let less = |count: usize| (count < OUTSIDE).then_some(count + 1);
            self.outside
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .ok()?;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.list().insert(number, waiting.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        self.came.notify_one();
        Some(Entered {
            waiters: self,
            number,
            queued,
        })
    }

    /// Counts a call that a peer runs, which serves the queue here as so many
    /// thousandths of a place.
    pub(super) fn begins_there(&self, served: u32) {
        self.served.fetch_add(served, Ordering::Relaxed);
    }

    /// Ends that.
    pub(super) fn ends_there(&self, served: u32) {
        self.served.fetch_sub(served, Ordering::Relaxed);
    }

    /// Places at peers that serve the queue here.
    pub(super) fn served_elsewhere(&self) -> u32 {
        self.served.load(Ordering::Relaxed).div_ceil(1_000)
    }
}

impl Inner {
    /// Takes a place at a peer for a call; `None` when there is none.
    pub(super) fn seize(
        &self,
        peer: &PeerView,
        function: &FunctionName,
        wanted: &Wanted,
    ) -> Option<Seized> {
        let now = self.node.clock().now();
        let cost = wanted.cost(self.service(function));
        let known = self.federated.abilities().of(function);
        let reserved = answers::seize(peer, &known, wanted.version, cost, now)?;
        Some(Seized::new(peer, reserved))
    }

    /// Gives the places that a peer is known to have to calls that wait, in
    /// their turn.
    pub(super) fn pump(self: &Arc<Self>, peer: &PeerId) {
        for _ in 0..MOVED {
            if self.waiters.len() == 0 {
                return;
            }
            let queued = self.node.has_movable() && self.node.offer_place(peer);
            if !queued && !self.move_outside(peer) {
                return;
            }
        }
    }

    fn move_outside(&self, peer: &PeerId) -> bool {
        if self.waiters.outside.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let outside: Vec<Arc<Waiting>> = {
            let all = self.waiters.list();
            let outside = all.values().filter(|waiting| !waiting.queued);
            outside.cloned().collect()
        };
        outside.iter().any(|waiting| waiting.go(peer))
    }

    /// Asks peers for places as long as calls wait.
    pub(super) async fn look_around(inner: Weak<Inner>) {
        let mut tokens = LOOKS_AT_ONCE;
        let mut last = tokio::time::Instant::now();
        loop {
            let Some(this) = inner.upgrade() else { return };
            if this.waiters.len() == 0 {
                let came = this.waiters.came.notified();
                let viewed = this.federated.shared.viewed.notified();
                tokio::select! {
                    () = came => {}
                    () = viewed => {}
                }
            }
            let now = tokio::time::Instant::now();
            let more = now.duration_since(last).as_secs_f64() * LOOKS_PER_SECOND;
            (tokens, last) = ((tokens + more).min(LOOKS_AT_ONCE), now);
            this.pump_all();
            tokens -= f64::from(this.ask(tokens as u32));
            let came = this.waiters.came.notified();
            let viewed = this.federated.shared.viewed.notified();
            tokio::select! {
                () = came => {}
                () = viewed => {}
                () = tokio::time::sleep(LOOK_PAUSE) => {}
            }
        }
    }

    /// Time, or a report, may have made room.
    fn pump_all(self: &Arc<Self>) {
        if self.waiters.len() == 0 {
            return;
        }
        let view = self.federated.shared.view.load_full();
        for peer in view.peers.iter() {
            self.pump(&peer.id);
        }
    }

    /// Asks up to `most` peers for places for those who wait longest; how many
    /// it asked.
    fn ask(self: &Arc<Self>, most: u32) -> u32 {
        let mut functions = BTreeSet::new();
        let oldest: Vec<Arc<Waiting>> = {
            let all = self.waiters.list();
            let oldest = all
                .values()
                .filter(|w| functions.insert(w.function.clone()));
            oldest.take(LOOKED_FOR).cloned().collect()
        };
        let view = self.federated.shared.view.load_full();
        let mut asked = 0;
        for waiting in oldest {
            let peers = waiting.peers(self);
            let mut worth: Vec<(Duration, PeerId, bool)> = Vec::new();
            for id in peers {
                let Some(peer) = view.peer(&id) else { continue };
                match waiting.verdict(self, peer) {
                    Verdict::Unasked { delay } => worth.push((delay, id, true)),
                    // A place there may be this node's turn.
                    Verdict::Full => worth.push((peer.round_trip(), id, false)),
                    _ => {}
                }
            }
            worth.sort_unstable();
            let now = self.node.clock().now();
            let mut brings = self.federated.abilities().brings(&waiting.function, now);
            for (_, peer, bring) in worth {
                if asked == most {
                    return asked;
                }
                if bring && brings >= BRINGS {
                    continue;
                }
                if self.may_ask(peer, &waiting.function, now) {
                    brings += usize::from(bring);
                    asked += 1;
                    let (inner, waiting) = (self.clone(), waiting.clone());
                    tokio::spawn(async move {
                        let errand = Errand {
                            function: &waiting.function,
                            wanted: &waiting.wanted,
                            spec: None,
                            hops: 0,
                            deadline: waiting.deadline,
                            is_impatient: false,
                        };
                        let _ = inner.look(peer, &errand, PLACES, LOOK_WAIT).await;
                        inner.has_asked(peer, &waiting.function);
                        inner.pump(&peer);
                    });
                }
            }
        }
        asked
    }

    /// Whether a peer may be asked about a function now; then it is.
    fn may_ask(&self, peer: PeerId, function: &FunctionName, now: Time) -> bool {
        let asked = &self.waiters.asked;
        if asked.len() >= ASKED {
            asked.retain(|_, (_, open)| *open);
        }
        let mut entry = asked
            .entry((peer, function.clone()))
            .or_insert((Time::ZERO, false));
        let (at, open) = *entry;
        if open || (at != Time::ZERO && now.since(at) < LOOK_PAUSE) {
            return false;
        }
        *entry = (now, true);
        true
    }

    fn has_asked(&self, peer: PeerId, function: &FunctionName) {
        let key = (peer, function.clone());
        if let Some(mut entry) = self.waiters.asked.get_mut(&key) {
            entry.1 = false;
        }
        self.waiters.came.notify_one();
    }

    /// Asks one peer for places, and takes note of what it says; how many it
    /// promised.
    async fn look(
        &self,
        peer: PeerId,
        errand: &Errand<'_>,
        most: u32,
        wait: Duration,
    ) -> Result<u32, String> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let look = Look {
            function: errand.function.qualified(),
            version: errand.wanted.version,
            bring: true,
            most,
            wait: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            service: self.service(errand.function).map_or(0, micros),
        };
        let mut request = Request::new(Body::default());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        wire::put_in(request.headers_mut(), LOOK, &look);
        to_absolute(&mut request);
        let (addresses, counted) = {
            let view = self.federated.shared.view.load();
            let known = view.peer(&peer).ok_or("it takes no calls now")?;
            (known.carriage.clone(), known.report.abilities)
        };
        let sent = self.federated.carriage.send(peer, &addresses, request);
        let sent = tokio::time::timeout(wait.saturating_add(LOOK_LATE), sent).await;
        let mut response = match sent {
            Ok(Ok((response, _, _))) => response,
            Ok(Err(error)) => {
                self.federated.met(peer, Met::Failure(Fault::Unreachable));
                return Err(format!("it cannot be reached: {}", error.reason()));
            }
            Err(_) => {
                self.federated.met(peer, Met::Failure(Fault::Mute));
                return Err("it did not say in time whether it has a place".to_owned());
            }
        };
        let looked: Option<Looked> = wire::take_from(response.headers_mut(), CARRIAGE);
        let Some(Looked { told, text }) = looked else {
            self.federated.met(peer, Met::Failure(Fault::Malformed));
            return Err("it answered no question as members do".to_owned());
        };
        let said = told.said();
        let under_way = {
            let room = self.federated.abilities().of(errand.function);
            let held = room.get(&peer).map_or(0, |known| match known {
                crate::abilities::Ability::Ready { room, .. } => room.held(),
                _ => 0,
            });
            let cpu = errand.wanted.cost(None).cpu;
            held.saturating_sub(told.held).saturating_mul(cpu)
        };
        self.federated.met(peer, Met::Told(said.word(under_way)));
        if told.why.is_none() {
            // As many as it holds of ours already, and this many more.
            let held = said.held.saturating_sub(1);
            self.is_ready(peer, errand, &Told { held, ..said }, None);
        } else {
            let why = Why::named(told.why.as_deref());
            self.refused_by((peer, counted), errand, &said, (why, &text));
        }
        match told.places {
            Some(places) if told.why.is_none() && places > 0 => Ok(places),
            Some(_) | None => Err(text),
        }
    }

    /// Asks a peer to promise the one place that a call has taken there.
    pub(super) async fn ask_for_one(&self, to: &Seized, errand: &Errand<'_>) -> Result<(), String> {
        match self.look(to.peer, errand, 1, Duration::ZERO).await {
            Ok(_) => Ok(()),
            Err(reason) => Err(format!("it promised no place: {reason}")),
        }
    }
}
