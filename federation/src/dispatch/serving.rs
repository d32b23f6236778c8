//! Calls and questions of other nodes: what this node gives them, and whose
//! turn it is.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use libp2p_identity::PeerId;
use tokio::sync::{Semaphore, oneshot};
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::Scope;
use weir_node::id::FunctionName;
use weir_node::invocation::{Answer, Invocation, InvokeError, Refusal};
use weir_node::node::Declined;
use weir_node::panics::{self, Panicked};

use super::bodies::Kept;
use super::offer::to_relative;
use super::{Inner, Way};
use crate::answers::{self, Why};
use crate::policy::Origin;
use crate::report::Role;
use crate::snapshot::Cost;
use crate::turns::{self, Places, TURN_WAIT_MAX, Turn, Turns, Wish};
use crate::wire::{self, Arrived, LOOK, Look, Looked, Reply, Travelling};
use weir_federation_core::placement::HOPS_MAX;
use weir_federation_core::wanted::Wanted;

/// A call that may wait so long, in milliseconds, was promised a place: others
/// wait for a round trip at most.
const GRANTED_WAIT_LEAST: u64 = 5_000;

/// Functions that this node brings at once for other nodes' users.
const BRINGS: usize = 2;

/// How long code is expected to need that nobody has measured: to begin with,
/// and for each megabyte.
const BRING_FIRST: Duration = Duration::from_millis(100);
const BRING_MEGABYTE: Duration = Duration::from_millis(200);

/// When a node that is to be asked again soon is asked again.
const SOON: Duration = Duration::from_millis(500);

/// How long so many bytes of code are expected to need that nobody has measured.
pub(super) fn bring_time(code_bytes: u64) -> Duration {
    let megabytes = u32::try_from(code_bytes >> 20).unwrap_or(u32::MAX);
    BRING_FIRST.saturating_add(BRING_MEGABYTE.saturating_mul(megabytes))
}

/// What this node does for others.
pub(super) struct Serving {
    /// Calls that it holds of each node and function; no more than there are.
    held: Mutex<HashMap<(PeerId, FunctionName), u32>>,
    /// Those who wait for their turn; no more than [`crate::turns`] lets wait.
    takers: DashMap<Turn, Taker>,
    bringing: Semaphore,
}

impl Default for Serving {
    fn default() -> Serving {
        Serving {
            held: Mutex::default(),
            takers: DashMap::new(),
            bringing: Semaphore::new(BRINGS),
        }
    }
}

struct Taker {
    wish: Wish<FunctionName>,
    told: oneshot::Sender<()>,
}

/// This node, as one that gives its places to others.
struct Giving<'a>(&'a Inner);

impl Places for Giving<'_> {
    type Function = FunctionName;
    type Taker = Taker;

    fn room(&mut self, who: &PeerId, function: &FunctionName, cost: Cost) -> u32 {
        self.0.guest_room(who, function, cost)
    }

    fn turns<T>(&mut self, does: impl FnOnce(&mut Turns) -> T) -> T {
        does(&mut self.0.federated.turns())
    }

    fn wish(&mut self, turn: Turn) -> Option<Wish<FunctionName>> {
        let taker = self.0.serving.takers.get(&turn)?;
        Some(taker.wish.clone())
    }

    fn round_trip(&mut self, to: &PeerId) -> Duration {
        self.0.federated.round_trip(to).unwrap_or_default()
    }

    fn take(&mut self, turn: Turn) -> Option<Taker> {
        let taker = self.0.serving.takers.remove(&turn);
        taker.map(|(_, taker)| taker)
    }

    fn tell(&mut self, taker: Taker) {
        // Whoever waited may have gone.
        let _ = taker.told.send(());
    }
}

/// A call of a guest, counted until this is dropped.
pub(super) struct Guest {
    inner: Arc<Inner>,
    from: PeerId,
    function: FunctionName,
    cost: Cost,
    /// What it counts; nothing once it has gone on to another node.
    cpu: std::sync::atomic::AtomicU32,
}

impl Guest {
    fn new(inner: &Arc<Inner>, from: PeerId, function: FunctionName, cost: Cost) -> Guest {
        let shared = &inner.federated.shared;
        shared.guests.fetch_add(1, Ordering::Relaxed);
        *inner
            .serving
            .held()
            .entry((from, function.clone()))
            .or_default() += 1;
        let guest = Guest {
            inner: inner.clone(),
            from,
            function,
            cost,
            cpu: 0.into(),
        };
        guest.comes();
        guest
    }

    /// It takes a place here, which may have been promised.
    fn comes(&self) {
        self.cpu.store(self.cost.cpu, Ordering::Relaxed);
        let federated = &self.inner.federated;
        let counted = &federated.shared.guest_cpu[usize::from(self.cost.long)];
        counted.fetch_add(self.cost.cpu, Ordering::Relaxed);
        let now = self.inner.node.clock().now();
        federated.turns().begins(&self.from, self.cost.cpu, now);
    }

    /// It goes on to another node, or waits, and takes nothing here.
    pub(super) fn leaves(&self) {
        let cpu = self.cpu.swap(0, Ordering::Relaxed);
        let shared = &self.inner.federated.shared;
        shared.guest_cpu[usize::from(self.cost.long)].fetch_sub(cpu, Ordering::Relaxed);
        self.inner.federated.turns().ends(&self.from, cpu);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leaves();
        self.inner
            .federated
            .shared
            .guests
            .fetch_sub(1, Ordering::Relaxed);
        {
            let mut held = self.inner.serving.held();
            let key = (self.from, std::mem::replace(&mut self.function, nobody()));
            if let Some(count) = held.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    held.remove(&key);
                }
            }
        }
        self.inner.serve_turns(Some((self.from, self.cost.cpu)));
    }
}

fn nobody() -> FunctionName {
    "none".parse().expect("a name")
}

/// Why a guest's call is not run.
struct Refused {
    error: InvokeError,
    /// The word for metrics.
    word: Option<&'static str>,
    why: Why,
    ready_in: Duration,
}

impl Refused {
    fn new(reason: Refusal, word: &'static str, why: Why) -> Refused {
        let error = InvokeError::Refused {
            reason,
            retry_after: Duration::from_secs(1),
        };
        Refused {
            error,
            word: Some(word),
            why,
            ready_in: Duration::ZERO,
        }
    }

    fn panicked(panicked: Panicked) -> Refused {
        Refused {
            error: InvokeError::from(panicked),
            word: None,
            why: Why::Other,
            ready_in: Duration::ZERO,
        }
    }

    fn malformed(text: &str) -> Refused {
        Refused {
            error: InvokeError::Body(text.into()),
            word: Some("malformed"),
            why: Why::Other,
            ready_in: Duration::ZERO,
        }
    }
}

/// What this node can do about a function that another node asks for.
enum Standing {
    /// It runs it.
    Runs,
    /// It could, and lacks the code.
    Absent,
    /// It could soon.
    Later,
    /// It cannot.
    Unable(String),
}

impl Serving {
    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<(PeerId, FunctionName), u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Calls of a function that a node may send now.
    fn guest_room(&self, who: &PeerId, function: &FunctionName, cost: Cost) -> u32 {
        let load = self.federated.load(&self.node, Some(who));
        answers::guest_room(self.node.places(function), &load, cost)
    }

    /// Whether a call of a guest finds room now.
    pub(super) fn has_guest_room(&self, guest: &Guest) -> bool {
        // It counts itself already.
        let shared = &self.federated.shared;
        let counted = &shared.guest_cpu[usize::from(guest.cost.long)];
        let own = guest.cpu.load(Ordering::Relaxed);
        counted.fetch_sub(own, Ordering::Relaxed);
        let room = self.guest_room(&guest.from, &guest.function, guest.cost);
        counted.fetch_add(own, Ordering::Relaxed);
        room > 0
    }

    /// What this node says of itself to a node that sent it a call, or asked.
    fn told(&self, to: &PeerId, called: Option<&(FunctionName, Cost)>, streams: bool) -> Reply {
        let load = self.federated.load(&self.node, Some(to));
        let Some((function, cost)) = called else {
            return Reply {
                load: Some(load),
                ..Reply::default()
            };
        };
        let places = self.node.places(function);
        let places = places.map(|places| answers::guest_room(Some(places), &load, *cost));
        let key = (*to, function.clone());
        let held = self.serving.held().get(&key).copied().unwrap_or(0);
        Reply {
            load: Some(load),
            places,
            held: held.saturating_sub(u32::from(streams)),
            streams,
            why: None,
            ready_in: 0,
        }
    }

    /// Runs a call that a member sent, or sends it on, or refuses it before its
    /// body is read.
    pub(super) async fn receive(
        self: &Arc<Self>,
        from: PeerId,
        request: Request<Body>,
    ) -> Response<AnswerBody> {
        if request.headers().contains_key(LOOK) {
            return self.serve_look(from, request).await;
        }
        let mut called = None;
        let guest = panics::contain(self.guest(from, request, &mut called));
        let outcome = Box::pin(guest).await;
        let outcome = outcome.unwrap_or_else(|panicked| Err(Refused::panicked(panicked)));
        match outcome {
            Ok(answer) => {
                self.count_guest("answered");
                let streams = matches!(answer.response.body(), AnswerBody::Stream(_));
                let told = self.told(&from, called.as_ref(), streams);
                let arrived = Arrived::answer(&answer, told);
                let mut response = answer.response;
                wire::put(response.headers_mut(), &arrived);
                response
            }
            Err(Refused {
                error,
                word,
                why,
                ready_in,
            }) => {
                self.count_guest(word.unwrap_or(error.word()));
                let mut told = self.told(&from, called.as_ref(), false);
                told.why = Some(why.as_str().to_owned());
                told.ready_in = u64::try_from(ready_in.as_millis()).unwrap_or(u64::MAX);
                let arrived = Arrived::without(&error, told);
                let mut response = Response::new(AnswerBody::Whole(Bytes::from(error.to_string())));
                *response.status_mut() =
                    StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_GATEWAY);
                wire::put(response.headers_mut(), &arrived);
                response
            }
        }
    }

    /// Takes a guest's call in.
    async fn guest(
        self: &Arc<Self>,
        from: PeerId,
        mut request: Request<Body>,
        called: &mut Option<(FunctionName, Cost)>,
    ) -> Result<Answer, Refused> {
        let travelling: Travelling = wire::take(request.headers_mut())
            .ok_or_else(|| Refused::malformed("a call without the words that carry it"))?;
        let (Some(name), Some(id), Some(mut visited)) =
            (travelling.name(), travelling.id(), travelling.path())
        else {
            let text = "a call whose function, id or path cannot be read";
            return Err(Refused::malformed(text));
        };
        let cost = self.guest_cost(&name, travelling.service);
        *called = Some((name.clone(), cost));
        let own = self.federated.shared.id;
        if from == own || visited.contains(&own) {
            return Err(Refused::new(Refusal::NoRoom, "visited", Why::Other));
        }
        if !self.federated.admits(&from) {
            return Err(Refused::new(Refusal::NoRoom, "not-a-member", Why::Other));
        }
        if self.federated.is_draining() {
            return Err(Refused::new(Refusal::Draining, "draining", Why::Other));
        }
        self.check_standing(&from, &name, travelling.version)
            .await?;
        visited.push(from);
        to_relative(&mut request);
        let origin = match self.federated.role() {
            Role::Edge => Origin::Neighbour,
            Role::Cloud => Origin::Region {
                inside: travelling.region.is_some()
                    && travelling.region == self.federated.settings().own_region(),
            },
        };
        let now = self.node.clock().now();
        let left = travelling.left.map(Duration::from_millis);
        let invocation = Invocation {
            id,
            function: name.clone(),
            request,
            class: self.guest_class(travelling.class),
            deadline: left.map(|left| now + left),
            persists_until: None,
        };
        let waits = travelling.wait >= GRANTED_WAIT_LEAST;
        let granted = waits && self.federated.turns().is_promised(&from, cost.cpu, now);
        let guest = Arc::new(Guest::new(self, from, name.clone(), cost));
        let way = Way {
            origin,
            visited,
            hops: travelling.hops.min(HOPS_MAX.saturating_sub(1)),
            guest: Some(guest.clone()),
        };
        if travelling.wait > 0 && !granted && !self.has_guest_room(&guest) {
            let wait = Duration::from_millis(travelling.wait).min(TURN_WAIT_MAX);
            // What waits takes nothing yet: it would keep others, and itself, out.
            guest.leaves();
            self.wait_for_turn(from, (&name, cost, 1), wait).await;
            guest.comes();
        }
        let answer = match granted {
            // What was promised is kept: as a call of this node's own users.
            true => match self.node.wait(invocation, None, None).await {
                Ok(answer) => Ok(answer),
                Err(Declined::Failed(error)) => Err(error),
                Err(Declined::NoRoom(_) | Declined::Left(..)) => Err(self.no_room()),
            },
            false => self.place(invocation, way, None).await,
        };
        let mut answer = answer.map_err(|error| self.refusal(error, &name, cost))?;
        answer.response = answer.response.map(|body| match body {
            AnswerBody::Whole(bytes) => AnswerBody::Whole(bytes),
            AnswerBody::Stream(body) => AnswerBody::Stream(Kept::new(body, guest).boxed_unsync()),
        });
        Ok(answer)
    }

    /// What it means to the sender that its call was not run here.
    fn refusal(&self, error: InvokeError, name: &FunctionName, cost: Cost) -> Refused {
        let why = match &error {
            InvokeError::CannotRun { .. } => Why::Unable,
            InvokeError::Refused { .. } => {
                let free = self.federated.load(&self.node, None).cpu_free;
                Why::full(self.node.places(name), free, cost)
            }
            InvokeError::Unknown(_)
            | InvokeError::Class(_)
            | InvokeError::Late { .. }
            | InvokeError::Failed(_)
            | InvokeError::PeerLost(_)
            | InvokeError::Body(_)
            | InvokeError::Unfit(_)
            | InvokeError::Internal(_) => Why::Other,
        };
        Refused {
            error,
            word: None,
            why,
            ready_in: Duration::ZERO,
        }
    }

    fn guest_cost(&self, name: &FunctionName, service_micros: u64) -> Cost {
        let spec = self.node.spec(name);
        let spec = spec.or_else(|| self.federated.entry(name)?.spec);
        let wanted = spec.map(|spec| Wanted::by(&spec, None)).unwrap_or_default();
        let theirs = (service_micros > 0).then(|| Duration::from_micros(service_micros));
        wanted.cost(self.service(name).or(theirs))
    }

    /// A guest's class where this node has one of that name; else its default.
    fn guest_class(&self, class: Option<String>) -> Option<String> {
        let classes = &self.node.config().classes;
        class.filter(|name| classes.iter().any(|class| class.name == *name))
    }

    /// What this node can do about a version of a function.
    async fn standing(&self, name: &FunctionName, version: u64) -> Standing {
        let entry = self.federated.entry(name);
        let own = self.node.spec(name);
        if own.as_ref().is_some_and(|own| own.scope == Scope::Node) {
            let text = "it is deployed there for that node alone (--scope node)";
            return Standing::Unable(text.to_owned());
        }
        let known = entry.as_ref().map_or(0, |entry| entry.record.version);
        if known < version {
            return Standing::Later;
        }
        let newest = entry.and_then(|entry| entry.spec);
        match (own, newest) {
            (Some(own), Some(newest)) if own == newest => {}
            (Some(_), None) => {}
            (Some(_) | None, Some(_)) => {
                return match self.replication.may_run_with_secrets(name).await {
                    Ok(()) => Standing::Absent,
                    Err(error) => Standing::Unable(error.to_string()),
                };
            }
            (None, None) => return Standing::Unable("nothing is known of it".to_owned()),
        }
        // What runs has all that it needs.
        let places = self.node.places(name).unwrap_or_default();
        if places.warm == 0
            && let Err(error) = self.replication.has_secrets(name).await
        {
            return Standing::Unable(error.to_string());
        }
        Standing::Runs
    }

    async fn check_standing(
        self: &Arc<Self>,
        from: &PeerId,
        name: &FunctionName,
        version: u64,
    ) -> Result<(), Refused> {
        let later = |ready_in| Refused {
            ready_in,
            ..Refused::new(Refusal::NoRoom, "bringing", Why::Bringing)
        };
        match self.standing(name, version).await {
            Standing::Runs => Ok(()),
            Standing::Later => Err(later(SOON)),
            Standing::Absent => {
                tracing::debug!(function = %name, peer = %from, "brings a function for a guest");
                let (ready_in, _) = self.bring(name);
                Err(later(ready_in))
            }
            Standing::Unable(reason) => Err(Refused {
                error: InvokeError::CannotRun {
                    function: name.clone(),
                    reason,
                },
                word: Some("unable"),
                why: Why::Unable,
                ready_in: Duration::ZERO,
            }),
        }
    }

    /// Has a function brought here for others: how long that is expected to
    /// take, and its end. `None` when others are brought already.
    fn bring(
        self: &Arc<Self>,
        name: &FunctionName,
    ) -> (Duration, Option<oneshot::Receiver<Result<(), String>>>) {
        let entry = self.federated.entry(name);
        let code = entry.and_then(|entry| entry.record.code);
        let bytes = code.map_or(0, |code| code.bytes);
        let expected = bring_time(bytes);
        if !self.replication.is_adopting(name) && self.serving.bringing.available_permits() == 0 {
            return (expected.max(SOON), None);
        }
        let (ended, end) = oneshot::channel();
        let (inner, name) = (self.clone(), name.clone());
        tokio::spawn(async move {
            let Ok(_turn) = inner.serving.bringing.acquire().await else {
                return;
            };
            let brought = inner.replication.adopt_for_guests(&name).await;
            if let Err(error) = &brought {
                tracing::debug!(function = %name, %error, "a function is not brought for a guest");
            }
            // Whoever asked may have gone.
            let _ = ended.send(brought.map_err(|error| error.to_string()));
        });
        (expected, Some(end))
    }

    async fn serve_look(
        self: &Arc<Self>,
        from: PeerId,
        mut request: Request<Body>,
    ) -> Response<AnswerBody> {
        let look: Option<Look> = wire::take_from(request.headers_mut(), LOOK);
        let mut response = Response::new(AnswerBody::Whole(Bytes::new()));
        if look.as_ref().is_some_and(|look| look.function.is_empty())
            && self.federated.admits(&from)
        {
            let told = self.told(&from, None, false);
            wire::put(
                response.headers_mut(),
                &Looked {
                    told,
                    ..Looked::default()
                },
            );
            return response;
        }
        let name = look.as_ref().and_then(|look| look.function.parse().ok());
        let (Some(look), Some(name)) = (look, name) else {
            self.count_guest("malformed");
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return response;
        };
        let looked = self.looked(from, &name, &look).await;
        wire::put(response.headers_mut(), &looked);
        response
    }

    async fn looked(self: &Arc<Self>, from: PeerId, name: &FunctionName, look: &Look) -> Looked {
        let asked = self.node.clock().now();
        let wait = Duration::from_millis(look.wait).min(TURN_WAIT_MAX);
        let cost = self.guest_cost(name, look.service);
        let called = (name.clone(), cost);
        let refused = |why: Why, ready_in: Duration, text: String| {
            let mut told = self.told(&from, Some(&called), false);
            told.why = Some(why.as_str().to_owned());
            told.ready_in = u64::try_from(ready_in.as_millis()).unwrap_or(u64::MAX);
            Looked { told, text }
        };
        if !self.federated.admits(&from) {
            return refused(Why::Other, SOON, "not a member".to_owned());
        }
        if self.federated.is_draining() {
            return refused(Why::Other, SOON, "it drains".to_owned());
        }
        match self.standing(name, look.version).await {
            Standing::Runs => {}
            Standing::Later => {
                return refused(Why::Bringing, SOON, "it has not heard of it yet".to_owned());
            }
            Standing::Unable(reason) => return refused(Why::Unable, SOON, reason),
            Standing::Absent if !look.bring => {
                return refused(Why::Bringing, SOON, "it has no code of it".to_owned());
            }
            Standing::Absent => {
                let (expected, end) = self.bring(name);
                let brings = || "it brings the code".to_owned();
                let Some(end) = end else {
                    return refused(Why::Bringing, expected, brings());
                };
                match tokio::time::timeout(wait, end).await {
                    Ok(Ok(Ok(()))) => {}
                    Ok(Ok(Err(reason))) => return refused(Why::Unable, SOON, reason),
                    Ok(Err(_)) | Err(_) => {
                        let passed = self.node.clock().now().since(asked);
                        let left = expected.saturating_sub(passed);
                        return refused(Why::Bringing, left, brings());
                    }
                }
            }
        }
        let most = look.most.max(1);
        let promised = if self.guest_room(&from, name, cost) > 0 {
            let wish = Wish {
                function: name.clone(),
                cost,
                most,
            };
            self.promise(&from, &wish);
            true
        } else {
            let passed = self.node.clock().now().since(asked);
            let left = wait.saturating_sub(passed);
            self.wait_for_turn(from, (name, cost, most), left).await
        };
        let told = self.told(&from, Some(&called), false);
        match told.places {
            Some(1..) if promised => Looked {
                told,
                text: String::new(),
            },
            Some(_) | None => {
                let full = self.refusal(
                    InvokeError::Refused {
                        reason: Refusal::NoRoom,
                        retry_after: SOON,
                    },
                    name,
                    cost,
                );
                refused(full.why, Duration::ZERO, "it is full".to_owned())
            }
        }
    }

    /// Promises a node as many places as it wishes for and there are.
    fn promise(&self, to: &PeerId, wish: &Wish<FunctionName>) {
        let now = self.node.clock().now();
        turns::promise(&mut Giving(self), to, wish, now);
    }

    /// Waits until a place is promised to a node in its turn, at most `wait`;
    /// whether one was.
    async fn wait_for_turn(
        &self,
        who: PeerId,
        (function, cost, most): (&FunctionName, Cost, u32),
        wait: Duration,
    ) -> bool {
        if wait.is_zero() {
            return false;
        }
        let now = self.node.clock().now();
        let Some(turn) = self.federated.turns().wait(who, now) else {
            return false;
        };
        let (told, promised) = oneshot::channel();
        let function = function.clone();
        let wish = Wish {
            function,
            cost,
            most,
        };
        let taker = Taker { wish, told };
        self.serving.takers.insert(turn, taker);
        let _left = Left::new(self, turn);
        // A place may have become free meanwhile.
        self.serve_turns(None);
        matches!(tokio::time::timeout(wait, promised).await, Ok(Ok(())))
    }

    /// Promises places that became free to those whose turn it is; `ended` is the
    /// node one of whose calls has just ended, and what that took.
    pub(super) fn serve_turns(&self, ended: Option<(PeerId, u32)>) {
        let now = self.node.clock().now();
        turns::serve(&mut Giving(self), ended, now);
    }

    /// Serves turns whenever a call of this node's own users frees a place.
    pub(super) async fn watch_places(inner: Weak<Inner>) {
        loop {
            let Some(this) = inner.upgrade() else { return };
            let node = this.node.clone();
            drop(this);
            node.freed().await;
            let Some(this) = inner.upgrade() else { return };
            this.serve_turns(None);
        }
    }
}

/// Ends a turn when dropped.
struct Left<'a> {
    inner: &'a Inner,
    turn: Turn,
}

impl<'a> Left<'a> {
    /// Begins one; from now on whoever watches places is told of those that free.
    fn new(inner: &'a Inner, turn: Turn) -> Left<'a> {
        inner.node.want_freed();
        Left { inner, turn }
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.inner.node.want_freed_no_more();
        let now = self.inner.node.clock().now();
        self.inner.federated.turns().leave(self.turn, now);
        self.inner.serving.takers.remove(&self.turn);
    }
}
