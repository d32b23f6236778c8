//! Calls that wait: each free place at a peer that this node knows of is one
//! more place of its queue, and peers that may have one are asked.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Request;
use libp2p_identity::PeerId;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use weir_node::executor::Body;
use weir_node::id::FunctionName;
use weir_node::node::Moves;
use weir_node::time::Time;

use super::Inner;
use super::offer::{Errand, Seized, to_absolute};
use crate::answers::{self, Why};
use crate::peers::{Fault, Met};
use crate::policy::{self, ClassKey, Origin, Reaches};
use crate::snapshot::{Here, Local, PeerView, Snapshot};
use crate::wire::{self, CARRIAGE, LOOK, Look, Looked};
use weir_federation_core::questions::{
    self, PLACES_ASKED_FOR, QUESTION_INTERVAL, QUESTION_LATE, QUESTION_WAIT, Questions,
};
use weir_federation_core::waiting::{self, Line, Number};
use weir_federation_core::wanted::Wanted;

/// A call that waits.
pub(super) struct Waiting {
    pub(super) inner: Weak<Inner>,
    pub(super) function: FunctionName,
    pub(super) wanted: Arc<Wanted>,
    pub(super) class: ClassKey,
    pub(super) arrived: Time,
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
            more: policy::More {
                class: policy::Class {
                    key: self.class,
                    ..policy::Class::default()
                },
                arrived: self.arrived,
                beside: Some(&inner.beside),
                ..policy::More::default()
            },
        };
        let local = Local {
            here: Here::Unable,
            queue: None,
            service,
            start: inner.node.start_time(&self.function),
            blamed: false,
            role: shared.role,
            regions: &regions,
        };
        let snapshot = Snapshot {
            local: waiting::local(local, self.queued, self.turn, inner.waiters.len()),
            view: &view,
            abilities: &abilities,
            remembered: None,
            congestion: congestion.as_deref(),
            now: inner.node.clock().now(),
            chance: 0,
        };
        look(&request, &snapshot)
    }

    /// Takes a free place at a peer, if it may go there.
    fn seize(&self, inner: &Inner, peer: &PeerId) -> Option<Seized> {
        self.looking(inner, |request, snapshot| {
            let peer = snapshot.view.peer(peer)?;
            match waiting::may_go(peer, request, self.reaches, snapshot) {
                true => inner.seize(peer, &self.function, &self.wanted),
                false => None,
            }
        })
    }
}

impl Moves for Waiting {
    fn go(&self, peer: &PeerId) -> bool {
        let Some(inner) = self.inner.upgrade() else {
            return false;
        };
        let Some(seized) = self.seize(&inner, peer) else {
            return false;
        };
        let Some(sender) = self.seized.lock().take() else {
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

/// All calls that wait and may leave.
pub(super) struct Waiters {
    all: Mutex<waiting::Waiters<FunctionName, Arc<Waiting>>>,
    /// How many those are, and how many of them have no place in the queue: for
    /// whoever need not look at them.
    count: AtomicUsize,
    outside: AtomicUsize,
    /// Places at peers that calls of this node's users have now, in thousandths
    /// of one of this node's: a peer that is twice as quick gives two.
    served: AtomicU32,
    /// Some wait for whom nobody has asked yet.
    came: Notify,
    questions: Mutex<Questions<PeerId, FunctionName>>,
}

/// Takes its call out of the list when dropped.
pub(super) struct Entered<'a> {
    waiters: &'a Waiters,
    waiting: Arc<Waiting>,
    number: Number,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut all = self.waiters.all.lock();
        all.leave(&self.waiting.function, self.number);
        self.waiters.counts(&all);
    }
}

impl Waiters {
    pub(super) fn new(now: Time) -> Waiters {
        Waiters {
            all: Mutex::default(),
            count: AtomicUsize::new(0),
            outside: AtomicUsize::new(0),
            served: AtomicU32::new(0),
            came: Notify::new(),
            questions: Mutex::new(Questions::new(now)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn counts(&self, all: &MutexGuard<'_, waiting::Waiters<FunctionName, Arc<Waiting>>>) {
        let outside = all.len() - all.queued();
        self.count.store(all.len(), Ordering::Relaxed);
        self.outside.store(outside, Ordering::Relaxed);
    }

    /// Adds a call; `None` when too many wait without a place in the queue.
    pub(super) fn enter(&self, waiting: &Arc<Waiting>) -> Option<Entered<'_>> {
        let mut all = self.all.lock();
        let number = all.enter(&waiting.function, waiting.queued, waiting.clone())?;
        self.counts(&all);
        drop(all);
        self.came.notify_one();
        Some(Entered {
            waiters: self,
            waiting: waiting.clone(),
            number,
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
        waiting::places(self.served.load(Ordering::Relaxed))
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
        let mut moves = waiting::Moves::default();
        while self.waiters.len() > 0 {
            let queued = usize::from(self.node.has_movable());
            let outside = self.waiters.outside.load(Ordering::Relaxed);
            let Some(line) = moves.next(queued, outside) else {
                return;
            };
            moves.came(match line {
                Line::Queue => self.node.offer_place(peer),
                Line::Outside => self.move_outside(peer),
            });
        }
    }

    fn move_outside(&self, peer: &PeerId) -> bool {
        let outside: Vec<Arc<Waiting>> = self.waiters.all.lock().outside().cloned().collect();
        outside.iter().any(|waiting| waiting.go(peer))
    }

    /// Asks peers for places as long as calls wait.
    pub(super) async fn look_around(inner: Weak<Inner>) {
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
            this.pump_all();
            this.ask();
            let came = this.waiters.came.notified();
            let viewed = this.federated.shared.viewed.notified();
            tokio::select! {
                () = came => {}
                () = viewed => {}
                () = tokio::time::sleep(QUESTION_INTERVAL) => {}
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

    /// Asks peers for places for those who wait longest, as many as it may.
    fn ask(self: &Arc<Self>) {
        let now = self.node.clock().now();
        if self.waiters.len() == 0 || self.waiters.questions.lock().left(now) == 0 {
            return;
        }
        let oldest = self.waiters.all.lock().oldest();
        for waiting in oldest {
            let function = &waiting.function;
            let worth = waiting.looking(self, |request, snapshot| {
                questions::worth_asking(request, waiting.reaches, snapshot)
            });
            let brings = self.federated.abilities().brings(function, now);
            let worth = worth.iter().map(|worth| (worth.peer, worth.brings));
            let mut questions = self.waiters.questions.lock();
            let asked = questions.ask(function, worth, brings, now);
            drop(questions);
            for peer in asked {
                let asking = self.clone().ask_for(waiting.clone(), peer);
                self.federated.spawn(asking);
            }
        }
    }

    /// Asks a peer to bring a function's code for calls to come, where one more
    /// question may be asked; nobody waits for its answer.
    pub(super) fn introduce(
        self: &Arc<Self>,
        peer: PeerId,
        function: &FunctionName,
        wanted: &Arc<Wanted>,
    ) {
        let now = self.node.clock().now();
        let brings = self.federated.abilities().brings(function, now);
        let mut questions = self.waiters.questions.lock();
        if questions
            .ask(function, [(peer, true)], brings, now)
            .is_empty()
        {
            return;
        }
        drop(questions);
        let (inner, function, wanted) = (self.clone(), function.clone(), wanted.clone());
        self.federated.spawn(async move {
            let errand = Errand {
                function: &function,
                wanted: &wanted,
                spec: None,
                hops: 0,
                class: ClassKey::NONE,
                deadline: Time::NEVER,
                is_impatient: false,
            };
            let _ = inner.look(peer, &errand, 1, Duration::ZERO).await;
            inner.waiters.questions.lock().answered(peer, &function);
        });
    }

    /// Asks one peer for places for a call that waits, and moves those there
    /// that may go.
    async fn ask_for(self: Arc<Self>, waiting: Arc<Waiting>, peer: PeerId) {
        let errand = Errand {
            function: &waiting.function,
            wanted: &waiting.wanted,
            spec: None,
            class: waiting.class,
            hops: 0,
            deadline: waiting.deadline,
            is_impatient: false,
        };
        let looking = self.look(peer, &errand, PLACES_ASKED_FOR, QUESTION_WAIT);
        if looking.await.is_ok() {
            self.beside.promised(&peer);
        }
        let mut questions = self.waiters.questions.lock();
        questions.answered(peer, &waiting.function);
        drop(questions);
        self.waiters.came.notify_one();
        self.pump(&peer);
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
        let sent = tokio::time::timeout(wait.saturating_add(QUESTION_LATE), sent).await;
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
        let why = told.why.as_deref().map(|why| Why::named(Some(why)));
        let why = why.map(|why| (why, text.as_str(), counted));
        let met = {
            let (now, cpu) = (self.node.clock().now(), errand.wanted.cost(None).cpu);
            let function = (errand.function, errand.wanted.version);
            let mut abilities = self.federated.abilities();
            abilities.questioned(function, peer, &said, why, cpu, now)
        };
        self.federated.met(peer, met);
        match told.places {
            Some(places) if told.why.is_none() && places > 0 => Ok(places),
            Some(_) | None => Err(text),
        }
    }

    /// Asks a peer to promise the one place that a call has taken there.
    pub(super) async fn ask_for_one(&self, to: &Seized, errand: &Errand<'_>) -> Result<(), String> {
        match self.look(to.peer, errand, 1, Duration::ZERO).await {
            Ok(_) => {
                self.beside.promised(&to.peer);
                Ok(())
            }
            Err(reason) => Err(format!("it promised no place: {reason}")),
        }
    }
}
