//! From a call to its answer: look, decide, act, and decide again when the
//! world has moved.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use libp2p_identity::PeerId;
use serde::Serialize;
use serde_bytes::ByteBuf;
use weir_node::Node;
use weir_node::admission::Prospect;
use weir_node::executor::{AnswerBody, Body, BodyError};
use weir_node::function::FunctionSpec;
use weir_node::id::{CallId, FunctionName, Receipt};
use weir_node::invocation::{Answer, Invocation, InvokeError, Phase, Refusal};
use weir_node::node::{ChangeError, Copied, Declined, Router, SubmitError};
use weir_node::panics;
use weir_node::replay::Replay;
use weir_node::store::CallRecord;
use weir_node::time::Time;
use weir_overlay::carriage::{SendError, Using};

use crate::copies::{self, Copies, Found};
use crate::explain::Weighed;
use crate::federated::{Federated, guest_room, load_of};
use crate::peers::{Fault, Met, PEERS};
use crate::policy::{self, Decision, Needs, Origin, Policy, Reach, Reason};
use crate::report::{Load, Role};
use crate::snapshot::{Here, Local, PeerView, Reserved, Snapshot, View};
use crate::steward::Steward;
use crate::wire::{self, ANSWER, Arrived, REFUSED, Travelling};

/// Peers to which one call is offered.
const OFFERED: usize = 6;

/// Decisions about one call.
const DECISIONS: usize = 12;

/// Hops of a call, unless it says less.
const HOPS: u8 = 3;

/// Calls of what runs only elsewhere that wait for room there; how long, and how
/// often each looks.
const WAITERS: usize = 256;
const ROOM_WAIT: Duration = Duration::from_secs(2);
const ROOM_LOOK: Duration = Duration::from_millis(20);

/// Explanations that are kept; the oldest go first.
const EXPLANATIONS: usize = 1_024;

/// Peers and outcomes that are counted apart; members come and go, and each
/// would leave its series behind.
const OFFLOAD_SERIES: usize = 8 * PEERS;

/// Longest text of a peer's error that is passed on.
const ERROR_BYTES: usize = 4 << 10;

/// The label by which a function chooses its policy.
pub const POLICY_LABEL: &str = "weir.policy";

/// How calls are placed.
#[derive(Clone)]
pub struct Rules {
    /// Where nothing else is said.
    pub default: &'static dyn Policy,
    /// By QoS class.
    pub by_class: BTreeMap<String, &'static dyn Policy>,
}

/// What was decided about one call, and why.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Explanation {
    /// The function.
    pub function: String,
    /// The policy that decided.
    pub policy: String,
    /// Each decision in turn.
    pub steps: Vec<Step>,
    /// How the call ended.
    pub outcome: String,
}

/// One decision.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What this node could do itself.
    pub here: String,
    /// Peers that were looked at.
    pub candidates: Vec<Candidate>,
    /// What was chosen.
    pub choice: String,
    /// What came of it.
    pub result: String,
}

/// A peer that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// Who.
    pub peer: String,
    /// What speaks for or against it.
    pub verdict: &'static str,
    /// When the call would begin to run there, in milliseconds; its score: the
    /// least is the best.
    pub delay_ms: Option<f64>,
    /// Calls that could be sent to it.
    pub room: u32,
    /// How old the newest word of its load was, in milliseconds.
    pub age_ms: f64,
    /// Expected round trip in milliseconds.
    pub round_trip_ms: f64,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls sent to a peer, by peer and how that ended.
    pub offloads: DashMap<(PeerId, &'static str), u64>,
    /// Decisions, by what was chosen.
    pub decisions: DashMap<&'static str, u64>,
    /// Calls that were decided about again.
    pub retries: AtomicU64,
    /// Calls of peers, by how they ended.
    pub guests: DashMap<&'static str, u64>,
    /// Calls carried, by what carried them.
    pub carried: DashMap<&'static str, u64>,
}

struct Inner {
    node: Node,
    federated: Federated,
    rules: Rules,
    counters: Counters,
    explained: Mutex<Explained>,
    steward: Arc<Steward>,
    copies: Arc<Copies>,
    /// Ids of peers as text, which is dear to make; no more than there may be.
    names: DashMap<PeerId, Arc<str>>,
    /// Places of calls that wait for room elsewhere.
    waiters: tokio::sync::Semaphore,
}

#[derive(Default)]
struct Explained {
    by_call: HashMap<String, Arc<Explanation>>,
    order: VecDeque<String>,
}

/// Places the calls of a node. Cheap to clone.
#[derive(Clone)]
pub struct Dispatch {
    inner: Arc<Inner>,
}

/// How a call came here.
struct Way {
    origin: Origin,
    /// Nodes that it visited, the last one last.
    visited: Vec<PeerId>,
    hops: u8,
}

impl Dispatch {
    /// Places calls of `node`, alone or with its peers.
    pub fn new(node: Node, federated: Federated, rules: Rules) -> Dispatch {
        let steward = Arc::new(Steward::new(node.clone(), federated.clone()));
        let heard = federated.shared.heard.lock();
        if let Some(news) = heard.unwrap_or_else(PoisonError::into_inner).take() {
            tokio::spawn(Arc::clone(&steward).look_after(news));
            #[cfg(feature = "etcd")]
            if federated.registry().is_some() {
                let etcd = federated.settings().etcd.clone();
                tokio::spawn(crate::registry::run(federated.clone(), etcd));
            }
        }
        let copies = Copies::start(node.clone(), federated.clone());
        let dispatch = Dispatch {
            inner: Arc::new(Inner {
                node,
                federated,
                rules,
                counters: Counters::default(),
                explained: Mutex::default(),
                steward,
                copies,
                names: DashMap::new(),
                waiters: tokio::sync::Semaphore::new(WAITERS),
            }),
        };
        // Weakly, or node and dispatch would hold each other for ever.
        let router = Weak(Arc::downgrade(&dispatch.inner));
        dispatch.inner.node.route(Arc::new(router));
        dispatch
    }

    /// Its place in the federation.
    pub fn federated(&self) -> &Federated {
        &self.inner.federated
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Whether some peer says that it can run `function`.
    pub fn is_known(&self, function: &FunctionName) -> bool {
        self.inner.federated.shared.view.load().knows(function) || self.has_record(function)
    }

    /// Whether the federation has a function of this name, wherever it is.
    pub fn has_record(&self, function: &FunctionName) -> bool {
        let entry = self.inner.federated.entry(function);
        entry.is_some_and(|entry| entry.spec.is_some())
    }

    /// Whether this node could run a function of others.
    ///
    /// # Errors
    /// What it asks for beyond what this node gives, in words.
    pub fn fits(&self, spec: &FunctionSpec) -> Result<(), String> {
        self.inner.steward.fits(spec)
    }

    /// Whether the federation can be told of a function.
    ///
    /// # Errors
    /// Why not.
    pub fn may_announce(&self, spec: &FunctionSpec) -> Result<(), ChangeError> {
        self.inner.federated.may_write(spec)
    }

    /// Tells the federation of a function that was deployed here: how many
    /// members keep its code.
    ///
    /// # Errors
    /// Why it is not told.
    pub async fn announce(&self, spec: &FunctionSpec) -> Result<usize, ChangeError> {
        self.inner.steward.announce(spec).await
    }

    /// Removes a function from the federation.
    ///
    /// # Errors
    /// Why it stays.
    pub async fn withdraw(&self, function: &FunctionName) -> Result<(), ChangeError> {
        self.inner.steward.withdraw(function).await
    }

    /// Runs a call of this node's own users, wherever that is best. With
    /// `explain` it is kept why it went where, under that name.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn invoke(
        &self,
        invocation: Invocation,
        explain: Option<String>,
    ) -> Result<Answer, InvokeError> {
        let way = Way {
            origin: Origin::Here,
            visited: Vec::new(),
            hops: HOPS,
        };
        let mut explanation = explain.as_ref().map(|_| Explanation {
            function: invocation.function.qualified(),
            ..Explanation::default()
        });
        let placed = self
            .inner
            .place(invocation, way, explanation.as_mut())
            .await;
        let (Some(call), Some(mut explanation)) = (explain, explanation) else {
            return placed;
        };
        explanation.outcome = match &placed {
            Ok(answer) => format!("answered with {}", answer.response.status()),
            Err(error) => error.to_string(),
        };
        self.inner.keep(call, explanation);
        placed
    }

    /// Finds an asynchronous call by what its caller was given, here or at the
    /// nodes that may have it.
    ///
    /// # Errors
    /// When this node's own disk fails.
    pub async fn find(&self, receipt: &Receipt) -> Result<Found, ChangeError> {
        self.inner.copies.find(receipt).await
    }

    /// Hands asynchronous calls that wait here, and copies that this node keeps,
    /// to others. What nobody takes stays.
    pub async fn hand_over(&self) {
        self.inner.copies.hand_over().await;
    }

    /// Waits, at most `limit`, until peers know which calls have ended here.
    pub async fn told(&self, limit: Duration) {
        self.inner.copies.told(limit).await;
    }

    /// What was counted of copies of calls.
    pub fn copy_counters(&self) -> &copies::Counters {
        self.inner.copies.counters()
    }

    /// What was counted of code on its way.
    pub fn code_counters(&self) -> &crate::steward::Counters {
        self.inner.steward.counters()
    }

    /// Copies of others' calls that this node keeps.
    pub fn copies_kept(&self) -> usize {
        self.inner.copies.kept()
    }

    /// Why a call went where it went; `None` when nobody asked for that, or it
    /// was too long ago.
    pub fn explanation(&self, call: &str) -> Option<Arc<Explanation>> {
        let explained = self.inner.explained.lock();
        let explained = explained.unwrap_or_else(PoisonError::into_inner);
        explained.by_call.get(call).cloned()
    }

    /// Runs a call that a member sent, or sends it on, or refuses it before its
    /// body is read.
    pub async fn receive(&self, from: PeerId, request: Request<Body>) -> Response<AnswerBody> {
        let inner = &self.inner;
        if Steward::is_asked(&request) {
            return Box::pin(inner.steward.serve(from, request)).await;
        }
        if Copies::is_asked(&request) {
            return Box::pin(inner.copies.serve(from, request)).await;
        }
        let mut called = None;
        let guest = panics::contain(inner.guest(from, request, &mut called));
        let (outcome, refused) = match guest.await {
            Ok(Ok(answer)) => (Ok(answer), None),
            Ok(Err((error, reason))) => (Err(error), reason),
            Err(panicked) => (Err(InvokeError::from(panicked)), None),
        };
        match outcome {
            Ok(answer) => {
                inner.count_guest("answered");
                let arrived = Arrived::answer(&answer, inner.load(called.as_ref(), 1));
                let mut response = answer.response;
                wire::put(response.headers_mut(), &arrived);
                response
            }
            Err(error) => {
                inner.count_guest(refused.unwrap_or(error.word()));
                let arrived = Arrived::without(&error, inner.load(called.as_ref(), 0));
                let mut response = Response::new(AnswerBody::Whole(Bytes::from(error.to_string())));
                *response.status_mut() =
                    StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_GATEWAY);
                wire::put(response.headers_mut(), &arrived);
                response
            }
        }
    }
}

struct Weak(std::sync::Weak<Inner>);

impl Router for Weak {
    fn knows(&self, function: &FunctionName) -> bool {
        let Some(inner) = self.0.upgrade() else {
            return false;
        };
        Dispatch { inner }.is_known(function)
    }

    fn invoke(&self, invocation: Invocation) -> BoxFuture<'_, Result<Answer, InvokeError>> {
        Box::pin(async move {
            let Some(inner) = self.0.upgrade() else {
                return Err(InvokeError::Refused {
                    reason: Refusal::Draining,
                    retry_after: Duration::from_secs(1),
                });
            };
            let way = Way {
                origin: Origin::Here,
                visited: Vec::new(),
                hops: HOPS,
            };
            inner.place(invocation, way, None).await
        })
    }

    fn copy<'a>(&'a self, call: &'a CallRecord) -> BoxFuture<'a, Result<Copied, SubmitError>> {
        Box::pin(async move {
            let Some(inner) = self.0.upgrade() else {
                return Ok(Copied::default());
            };
            inner.copies.copy(call).await
        })
    }

    fn ended(&self, call: CallId, accepted: bool) {
        if let Some(inner) = self.0.upgrade() {
            inner.copies.ended(call, accepted);
        }
    }
}

/// A call of a guest, counted until this is dropped.
struct Guest(Arc<Inner>);

impl Guest {
    fn new(inner: &Arc<Inner>) -> Guest {
        let guests = &inner.federated.shared.guests;
        guests.fetch_add(1, Ordering::Relaxed);
        Guest(inner.clone())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let guests: &AtomicU32 = &self.0.federated.shared.guests;
        guests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What came of offering a call to a peer.
enum Offered {
    /// It was answered.
    Answer(Answer),
    /// It cannot have begun.
    Declined(String),
    /// It may have begun.
    Lost(String),
    /// It ended without an answer, there.
    Failed(InvokeError),
}

impl Inner {
    fn keep(&self, call: String, explanation: Explanation) {
        let explained = self.explained.lock();
        let mut explained = explained.unwrap_or_else(PoisonError::into_inner);
        explained.order.push_back(call.clone());
        explained.by_call.insert(call, Arc::new(explanation));
        if explained.order.len() > EXPLANATIONS
            && let Some(oldest) = explained.order.pop_front()
        {
            explained.by_call.remove(&oldest);
        }
    }

    fn name_of(&self, peer: PeerId) -> Arc<str> {
        if let Some(name) = self.names.get(&peer) {
            return name.clone();
        }
        if self.names.len() >= PEERS {
            self.names.clear();
        }
        let name: Arc<str> = peer.to_string().into();
        self.names.insert(peer, name.clone());
        name
    }

    fn count_guest(&self, how: &'static str) {
        *self.counters.guests.entry(how).or_default() += 1;
    }

    fn count_offload(&self, peer: PeerId, how: &'static str) {
        let offloads = &self.counters.offloads;
        if let Some(mut count) = offloads.get_mut(&(peer, how)) {
            *count += 1;
        } else if offloads.len() < OFFLOAD_SERIES {
            *offloads.entry((peer, how)).or_default() += 1;
        }
    }

    /// How loaded this node is, for those who just sent it a call of a function;
    /// `ended` such calls are about to leave their places.
    fn load(&self, called: Option<&FunctionName>, ended: u32) -> Load {
        let shared = &self.federated.shared;
        let capability = self.node.capability();
        // Own users first, and each kind of call by its own room: whoever
        // sends more sends the same, most likely.
        let open = capability.waiting == 0 && !self.federated.is_draining();
        let places = called.filter(|_| open).and_then(|f| self.node.places(f));
        let room = places.map_or(0, |places| {
            let free = places.warm.saturating_add(places.startable);
            let guests = shared.guests.load(Ordering::Relaxed);
            let (free, guests) = (free.saturating_add(ended), guests.saturating_sub(ended));
            guest_room(places.most, free, guests, shared.settings.guests)
        });
        load_of(&capability, room)
    }

    /// Takes a guest's call in.
    async fn guest(
        self: &Arc<Self>,
        from: PeerId,
        mut request: Request<Body>,
        called: &mut Option<FunctionName>,
    ) -> Result<Answer, (InvokeError, Option<&'static str>)> {
        let bad = |text: &str| (InvokeError::Body(text.into()), Some("malformed"));
        let travelling: Travelling = wire::take(request.headers_mut())
            .ok_or_else(|| bad("a call without the words that carry it"))?;
        let (Some(name), Some(id), Some(mut visited)) =
            (travelling.name(), travelling.id(), travelling.path())
        else {
            return Err(bad("a call whose function, id or path cannot be read"));
        };
        *called = Some(name.clone());
        let own = self.federated.shared.id;
        let refused = |reason, word| {
            let error = InvokeError::Refused {
                reason,
                retry_after: Duration::from_secs(1),
            };
            Err((error, Some(word)))
        };
        if from == own || visited.contains(&own) {
            return refused(Refusal::NoRoom, "visited");
        }
        if !self.federated.admits(&from) {
            return refused(Refusal::NoRoom, "not-a-member");
        }
        if self.federated.is_draining() {
            return refused(Refusal::Draining, "draining");
        }
        visited.push(from);
        let settings = self.federated.settings();
        let origin = match self.federated.role() {
            Role::Edge => Origin::Neighbour,
            Role::Cloud => Origin::Region {
                inside: travelling.region.is_some()
                    && travelling.region.as_ref() == settings.regions.first(),
            },
        };
        let guests = self.federated.shared.guests.load(Ordering::Relaxed);
        if let Some(places) = self.node.places(&name) {
            let room = guest_room(places.most, u32::MAX, guests, settings.guests);
            if room == 0 {
                return refused(Refusal::NoRoom, "guests");
            }
        }
        let way = Way {
            origin,
            visited,
            hops: travelling.hops.min(HOPS.saturating_sub(1)),
        };
        let invocation = Invocation {
            id,
            function: name,
            request,
            class: self.guest_class(travelling.class),
            deadline: travelling.left.map(Duration::from_millis),
        };
        let guest = Guest::new(self);
        let answer = self.place(invocation, way, None).await;
        let mut answer = answer.map_err(|error| (error, None))?;
        answer.response = answer.response.map(|body| match body {
            AnswerBody::Whole(bytes) => AnswerBody::Whole(bytes),
            AnswerBody::Stream(body) => {
                AnswerBody::Stream(Kept { body, kept: guest }.boxed_unsync())
            }
        });
        Ok(answer)
    }

    /// A guest's class where this node has one of that name; else its default.
    fn guest_class(&self, class: Option<String>) -> Option<String> {
        let classes = &self.node.config().classes;
        class.filter(|name| classes.iter().any(|class| class.name == *name))
    }

    fn policy(&self, spec: Option<&FunctionSpec>, class: Option<&str>) -> &'static dyn Policy {
        let chosen = spec.and_then(|spec| spec.labels.get(POLICY_LABEL));
        let by_function = chosen.and_then(|name| policy::named(name));
        let by_class = || class.and_then(|class| self.rules.by_class.get(class).copied());
        by_function.or_else(by_class).unwrap_or(self.rules.default)
    }

    /// Runs a call here or elsewhere.
    async fn place(
        self: &Arc<Self>,
        mut invocation: Invocation,
        way: Way,
        mut explain: Option<&mut Explanation>,
    ) -> Result<Answer, InvokeError> {
        let clock = self.node.clock();
        let arrived = clock.now();
        let deadline = invocation.deadline.map_or(Time::NEVER, |d| arrived + d);
        let settings = self.federated.settings();
        let here = self.node.spec(&invocation.function);
        let absent = here.is_none();
        let spec = here.or_else(|| self.federated.entry(&invocation.function)?.spec);
        let policy = self.policy(spec.as_deref(), invocation.class.as_deref());
        if let Some(explain) = &mut explain {
            explain.policy = policy.name().to_owned();
        }
        let wanted = spec.as_ref().map(|spec| Wanted::by(spec));
        let wanted = wanted.unwrap_or_default();
        let fits_here = wanted.fits(&settings.labels);
        let mut avoid = way.visited.clone();
        let mut again: Option<Replay> = None;
        let mut offered = 0;
        let mut declined = String::new();
        let (mut brought, mut fetched) = (false, Duration::ZERO);
        let mut waited = Duration::ZERO;
        // What others can run is theirs from now on, what was accepted before
        // included; the rest still runs here.
        let drains = self.federated.is_draining();
        for _ in 0..DECISIONS {
            let now = clock.now();
            let prospect = self
                .node
                .prospect(&invocation.function, invocation.class.as_deref())?;
            let (here, queue) = match prospect {
                _ if !fits_here => (Here::Unable, None),
                None => (Here::Unable, None),
                Some((Prospect::Warm | Prospect::Start, _)) if drains => {
                    (Here::Full, Some(Duration::ZERO))
                }
                Some((Prospect::Warm, _)) => (Here::Warm, Some(Duration::ZERO)),
                Some((Prospect::Start, _)) => (Here::Startable, Some(Duration::ZERO)),
                Some((Prospect::Wait { .. }, wait)) => (Here::Full, Some(wait)),
                Some((Prospect::Refuse(_), _)) => (Here::Full, None),
            };
            let view = self.federated.shared.view.load_full();
            let is_known = || spec.is_some() || view.knows(&invocation.function);
            if here == Here::Unable && prospect.is_none() && !is_known() {
                return Err(InvokeError::Unknown(invocation.function));
            }
            let request = policy::Request {
                function: &invocation.function,
                needs: wanted.needs(),
                origin: way.origin,
                avoid: &avoid,
                hops: if offered < OFFERED { way.hops } else { 0 },
                deadline,
            };
            let snapshot = Snapshot {
                local: Local {
                    here,
                    queue,
                    role: self.federated.role(),
                    regions: &settings.regions,
                },
                view: &view,
                now,
                chance: rand::random(),
            };
            let decision = match &explain {
                None => policy::decide(policy, &request, &snapshot, &mut ()),
                Some(_) => {
                    let mut weighed: Vec<Weighed> = Vec::new();
                    let decision = policy::decide(policy, &request, &snapshot, &mut weighed);
                    if let Some(explain) = &mut explain {
                        explain.steps.push(step(here, &weighed, decision, &view));
                    }
                    decision
                }
            };
            let mut note = |result: &str| {
                if let Some(step) = explain.as_mut().and_then(|e| e.steps.last_mut()) {
                    result.clone_into(&mut step.result);
                }
            };
            self.count_decision(decision);
            match decision {
                Decision::Run => match self.node.invoke_now(invocation).await {
                    Ok(mut answer) => {
                        note("ran here");
                        answer.timing.fetched = fetched;
                        return Ok(answer);
                    }
                    Err(Declined::Failed(error)) => {
                        note(&error.to_string());
                        return Err(error);
                    }
                    Err(Declined::NoRoom(back)) => {
                        note("another call took the place");
                        invocation = *back;
                    }
                },
                Decision::Enqueue { .. } => {
                    note("waited here");
                    return Box::pin(self.node.invoke(invocation)).await;
                }
                Decision::Offload { to, .. } => {
                    let peer = &view.peers[to];
                    let Some(reserved) = peer.window.reserve() else {
                        avoid.push(peer.id);
                        note("its last place went to another call");
                        continue;
                    };
                    offered += 1;
                    let mut request = std::mem::take(&mut invocation.request);
                    if again.is_none() {
                        again = Some(Replay::keep(&mut request, self.node.kept()));
                    }
                    let to = To {
                        peer: peer.id,
                        addresses: peer.carriage.clone(),
                        left: deadline.since(now),
                        limited: deadline != Time::NEVER,
                        patience: self
                            .patience(deadline, now, spec.as_deref())
                            .saturating_add(peer.round_trip),
                    };
                    let travelling = self.travelling(&invocation, &way, &to);
                    // Boxed, so that calls which run here do not carry its room.
                    let offer = self.offer(&to, request, &travelling, reserved);
                    let outcome = Box::pin(offer).await;
                    let idempotent = spec.as_ref().is_some_and(|spec| spec.idempotent);
                    avoid.push(to.peer);
                    let (reason, request) = match outcome {
                        Offered::Answer(answer) => {
                            note("answered");
                            if absent && way.origin == Origin::Here && fits_here {
                                self.steward.is_wanted(&invocation.function);
                            }
                            return Ok(answer);
                        }
                        Offered::Failed(error) => {
                            note(&error.to_string());
                            return Err(error);
                        }
                        Offered::Declined(reason) => {
                            (reason, again.as_ref().and_then(Replay::request))
                        }
                        Offered::Lost(reason) if idempotent => {
                            (reason, again.as_ref().and_then(Replay::request))
                        }
                        Offered::Lost(reason) => {
                            note(&reason);
                            let text = format!(
                                "the node {} that had the call was lost ({reason}); it may have \
                                 run there, and is not run again because {} is not declared \
                                 idempotent",
                                to.peer, invocation.function
                            );
                            return Err(InvokeError::PeerLost(text));
                        }
                    };
                    note(&reason);
                    let Some(request) = request else {
                        let text = format!(
                            "the node {} did not take the call ({reason}), and its body is too \
                             long to be sent again",
                            to.peer
                        );
                        return Err(InvokeError::PeerLost(text));
                    };
                    declined = reason;
                    invocation.request = request;
                    self.counters.retries.fetch_add(1, Ordering::Relaxed);
                }
                // Nobody runs it at once: its code may be brought here.
                Decision::Reject(_)
                    if prospect.is_none()
                        && spec.is_some()
                        && fits_here
                        && way.origin == Origin::Here
                        && !brought
                        && would_run(policy, &request, &snapshot) =>
                {
                    brought = true;
                    let name = invocation.function.clone();
                    let adopted = Box::pin(self.steward.adopt(&name, false));
                    let adopted = match deadline == Time::NEVER {
                        true => Ok(adopted.await),
                        false => tokio::time::timeout(deadline.since(now), adopted).await,
                    };
                    fetched = clock.now().since(now);
                    match adopted {
                        Ok(Ok(())) => note("its code was brought here"),
                        Ok(Err(error)) => {
                            note(&error.to_string());
                            declined = error.to_string();
                        }
                        Err(_) => {
                            note("its code did not come in time");
                            return Err(InvokeError::Late {
                                phase: Phase::Start,
                                after: deadline.since(arrived),
                            });
                        }
                    }
                }
                // Here there is no queue for it: the first who has room again.
                Decision::Reject(Reason::NobodyHasRoom)
                    if here == Here::Unable
                        && way.origin == Origin::Here
                        && waited < ROOM_WAIT
                        && is_somewhere(&view, &request) =>
                {
                    let Ok(_place) = self.waiters.try_acquire() else {
                        note("too many wait already");
                        return Err(rejected(
                            Reason::NobodyHasRoom,
                            &invocation,
                            deadline.since(arrived),
                            &declined,
                        ));
                    };
                    let until = ROOM_WAIT.saturating_sub(waited).min(deadline.since(now));
                    let room = self.room_elsewhere(&request, &way.visited);
                    let found = tokio::time::timeout(until, room).await;
                    waited = waited.saturating_add(clock.now().since(now));
                    note("waited for room elsewhere");
                    if found.is_err() {
                        // The last look decides.
                        waited = ROOM_WAIT;
                    }
                    // Whoever declined may have room now.
                    avoid.clone_from(&way.visited);
                }
                Decision::Reject(reason) => {
                    let reason = match reason {
                        // More room would not help.
                        Reason::NobodyHasRoom
                            if here == Here::Unable && !is_somewhere(&view, &request) =>
                        {
                            Reason::NoSuchPlace
                        }
                        reason => reason,
                    };
                    let error = rejected(reason, &invocation, deadline.since(arrived), &declined);
                    note(&error.to_string());
                    return Err(error);
                }
            }
        }
        Err(InvokeError::Refused {
            reason: Refusal::NobodyHasRoom,
            retry_after: Duration::from_secs(1),
        })
    }

    /// How long a peer's answer is waited for: what is left of the deadline, or
    /// what the function may take, and a little for the way back.
    fn patience(&self, deadline: Time, now: Time, spec: Option<&FunctionSpec>) -> Duration {
        let limit = spec.map_or(self.node.config().max_timeout, |spec| spec.timeout);
        match deadline == Time::NEVER {
            true => limit.saturating_add(BEYOND),
            false => deadline.since(now).saturating_add(LATE),
        }
    }

    /// Waits until a peer that could run a call has room for it.
    async fn room_elsewhere(&self, request: &policy::Request<'_>, visited: &[PeerId]) {
        loop {
            tokio::time::sleep(ROOM_LOOK).await;
            let view = self.federated.shared.view.load_full();
            let has_room = |peer: &&PeerView| {
                let offer = peer.offers.get(request.function);
                let open = offer.is_some_and(|offer| offer.warm > 0 || offer.startable > 0);
                open && peer.window.room() > 0
                    && !visited.contains(&peer.id)
                    && policy::fits(&request.needs, peer)
            };
            if view.peers.iter().any(|peer| has_room(&peer)) {
                return;
            }
        }
    }

    fn count_decision(&self, decision: Decision) {
        let word = match decision {
            Decision::Run => "run",
            Decision::Enqueue { .. } => "enqueue",
            Decision::Offload {
                reach: Reach::Horizontal,
                ..
            } => "horizontal",
            Decision::Offload {
                reach: Reach::Vertical,
                ..
            } => "vertical",
            Decision::Reject(_) => "reject",
        };
        *self.counters.decisions.entry(word).or_default() += 1;
    }

    fn travelling(&self, invocation: &Invocation, way: &Way, to: &To) -> Travelling {
        let settings = self.federated.settings();
        let cloud = self.federated.role() == Role::Cloud;
        Travelling {
            function: invocation.function.qualified(),
            call: invocation.id.to_string(),
            visited: way
                .visited
                .iter()
                .map(|id| ByteBuf::from(id.to_bytes()))
                .collect(),
            hops: way.hops.saturating_sub(1),
            left: to
                .limited
                .then(|| u64::try_from(to.left.as_millis()).unwrap_or(u64::MAX)),
            class: invocation.class.clone(),
            region: settings.regions.first().filter(|_| cloud).cloned(),
            zone: (!cloud).then(|| settings.zone.clone()),
        }
    }

    async fn offer(
        &self,
        to: &To,
        mut request: Request<Body>,
        travelling: &Travelling,
        reserved: Reserved,
    ) -> Offered {
        wire::put(request.headers_mut(), travelling);
        *request.version_mut() = http::Version::HTTP_2;
        to_absolute(&mut request);
        let sent = self
            .federated
            .carriage
            .send(to.peer, &to.addresses, request);
        let sent = tokio::time::timeout(to.patience, sent).await;
        let (response, kind, using) = match sent {
            Ok(Ok(sent)) => sent,
            Ok(Err(SendError::NotSent { reason, .. })) => {
                reserved.give_back();
                self.count_offload(to.peer, "unreachable");
                let fault = Met::Failure(Fault::Unreachable);
                self.federated.met(to.peer, fault);
                return Offered::Declined(format!("it cannot be reached: {reason}"));
            }
            Ok(Err(SendError::Lost { reason, excused })) => {
                reserved.give_back();
                self.count_offload(to.peer, "lost");
                // A peer that is heard may have lost its listener only: what
                // comes now goes over its link.
                if !(excused && self.federated.is_linked(&to.peer)) {
                    self.federated.met(to.peer, Met::Failure(Fault::Lost));
                }
                return Offered::Lost(reason);
            }
            Err(_) => {
                self.count_offload(to.peer, "late");
                self.federated.met(to.peer, Met::Failure(Fault::Mute));
                return Offered::Failed(InvokeError::Late {
                    phase: Phase::Run,
                    after: to.left,
                });
            }
        };
        *self.counters.carried.entry(kind.as_str()).or_default() += 1;
        self.arrived(to, response, (using, reserved)).await
    }

    async fn arrived(
        &self,
        to: &To,
        response: Response<hyper::body::Incoming>,
        kept: (Using, Reserved),
    ) -> Offered {
        let (mut head, body) = response.into_parts();
        let Some(arrived) = wire::take::<Arrived>(&mut head.headers) else {
            self.count_offload(to.peer, "malformed");
            let fault = Met::Failure(Fault::Malformed);
            self.federated.met(to.peer, fault);
            return Offered::Lost("it answered without the words that carry an answer".to_owned());
        };
        match arrived.kind.as_str() {
            ANSWER => {
                self.count_offload(to.peer, "answered");
                self.federated.met(to.peer, Met::Answer(arrived.load));
                let (start, timing) = arrived.timing();
                let body = Kept {
                    body: body.map_err(BodyError::from).boxed_unsync(),
                    kept,
                };
                let body = Patient::new(body, to.patience);
                // A member vouches for whom it sent the call on to, by a name that is one.
                let named = arrived.ran_on.filter(|id| id.parse::<PeerId>().is_ok());
                let ran_on = match named {
                    Some(named) => named.into(),
                    None => self.name_of(to.peer),
                };
                Offered::Answer(Answer {
                    response: Response::from_parts(head, AnswerBody::Stream(body.boxed_unsync())),
                    start,
                    timing,
                    ran_on: Some(ran_on),
                })
            }
            REFUSED => {
                self.count_offload(to.peer, "refused");
                self.federated.met(to.peer, Met::Refusal(arrived.load));
                let text = text_of(body).await;
                Offered::Declined(format!("it refused: {text}"))
            }
            _ => {
                self.count_offload(to.peer, "failed");
                self.federated.met(to.peer, Met::Answer(arrived.load));
                let text = text_of(body).await;
                Offered::Failed(arrived.error(text, to.left))
            }
        }
    }
}

/// Whether somebody has a function, be it that it takes no call now.
fn is_somewhere(view: &View, request: &policy::Request<'_>) -> bool {
    view.is_away(request.function) || view.peers.iter().any(|peer| could_ever_run(peer, request))
}

/// Whether a peer has a function and what that needs, be it that it is full.
fn could_ever_run(peer: &PeerView, request: &policy::Request<'_>) -> bool {
    peer.offers.contains_key(request.function) && policy::fits(&request.needs, peer)
}

/// Whether a policy would run a call here if its code were here: else there is
/// no use in bringing it.
fn would_run(
    policy: &'static dyn Policy,
    request: &policy::Request<'_>,
    snapshot: &Snapshot<'_>,
) -> bool {
    let local = Local {
        here: Here::Startable,
        ..snapshot.local
    };
    let snapshot = Snapshot { local, ..*snapshot };
    matches!(
        policy::decide(policy, request, &snapshot, &mut ()),
        Decision::Run
    )
}

/// What an answer may take beyond its deadline on its way back: the peer's own
/// word that it was late says more than a timeout here.
const LATE: Duration = Duration::from_millis(500);

/// What a peer may take beyond a function's own time limit for a call without a
/// deadline: it waits there, and is started.
const BEYOND: Duration = Duration::from_secs(120);

/// Where a call goes.
struct To {
    peer: PeerId,
    addresses: Arc<[SocketAddr]>,
    left: Duration,
    limited: bool,
    /// How long its answer is waited for, and each piece of it.
    patience: Duration,
}

/// HTTP/2 wants a whole address; only its path means something to the peer.
fn to_absolute(request: &mut Request<Body>) {
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    let absolute = http::Uri::builder()
        .scheme("https")
        .authority("weir")
        .path_and_query(path)
        .build();
    if let Ok(absolute) = absolute {
        *request.uri_mut() = absolute;
    }
}

async fn text_of(body: hyper::body::Incoming) -> String {
    let limited = http_body_util::Limited::new(body, ERROR_BYTES);
    match limited.collect().await {
        Ok(collected) => String::from_utf8_lossy(&collected.to_bytes())
            .trim()
            .to_owned(),
        Err(_) => "without saying why".to_owned(),
    }
}

/// What a function wants of the node that runs it.
#[derive(Debug, Default)]
struct Wanted {
    executor: Option<&'static str>,
    /// By the name that Rust has for it.
    architecture: Option<String>,
    labels: BTreeMap<String, String>,
}

/// Constraints that name a processor: Kubernetes' and Swarm's.
const ARCHITECTURE: [&str; 2] = ["kubernetes.io/arch", "node.platform.arch"];

impl Wanted {
    fn by(spec: &FunctionSpec) -> Wanted {
        let mut wanted = Wanted {
            executor: Some(spec.kind.executor()),
            ..Wanted::default()
        };
        for text in &spec.as_deployed.constraints {
            let Some((key, value)) = text.split_once('=') else {
                continue;
            };
            // OpenFaaS's own constraints are written `key == value`.
            let (key, value) = (key.trim(), value.trim_start_matches('=').trim());
            if ARCHITECTURE.contains(&key) {
                let name = match value {
                    "amd64" => "x86_64",
                    "arm64" => "aarch64",
                    other => other,
                };
                wanted.architecture = Some(name.to_owned());
            } else {
                wanted.labels.insert(key.to_owned(), value.to_owned());
            }
        }
        wanted
    }

    /// Whether this machine with these labels will do; whether an executor is
    /// here shows when the function is deployed.
    fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        let here = std::env::consts::ARCH;
        let architecture = self.architecture.as_ref();
        architecture.is_none_or(|wanted| wanted == here)
            && self.labels.iter().all(|(k, v)| labels.get(k) == Some(v))
    }

    fn needs(&self) -> Needs<'_> {
        Needs {
            executor: self.executor,
            architecture: self.architecture.as_deref(),
            constraints: (!self.labels.is_empty()).then_some(&self.labels),
        }
    }
}

fn rejected(
    reason: Reason,
    invocation: &Invocation,
    after: Duration,
    declined: &str,
) -> InvokeError {
    let refused = |reason| InvokeError::Refused {
        reason,
        retry_after: Duration::from_secs(1),
    };
    match reason {
        Reason::NoRoom => refused(Refusal::NoRoom),
        Reason::NobodyHasRoom => refused(Refusal::NobodyHasRoom),
        Reason::NoSuchPlace => InvokeError::CannotRun {
            function: invocation.function.clone(),
            reason: match declined.is_empty() {
                true => "the policy wants a place that there is not: no peer that may be asked \
                         can run it"
                    .to_owned(),
                false => format!("no peer took it; the last one: {declined}"),
            },
        },
        Reason::TooLate => InvokeError::Late {
            phase: Phase::Queue,
            after,
        },
    }
}

fn step(here: Here, weighed: &[Weighed], decision: Decision, view: &View) -> Step {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let candidates = weighed.iter().map(|weighed| Candidate {
        peer: weighed.peer.to_string(),
        verdict: weighed.verdict.as_str(),
        delay_ms: weighed.verdict.delay().map(milliseconds),
        room: weighed.room,
        age_ms: milliseconds(weighed.age),
        round_trip_ms: milliseconds(weighed.round_trip),
    });
    let here = match here {
        Here::Warm => "warm",
        Here::Startable => "could start it",
        Here::Full => "full",
        Here::Unable => "cannot run it",
    };
    let choice = match decision {
        Decision::Run => "run here".to_owned(),
        Decision::Enqueue { .. } => "wait here".to_owned(),
        Decision::Offload { to, reach } => {
            let way = match reach {
                Reach::Horizontal => "horizontally",
                Reach::Vertical => "vertically",
            };
            format!("offload {way} to {}", view.peers[to].id)
        }
        Decision::Reject(reason) => format!("reject: {reason:?}"),
    };
    Step {
        here: here.to_owned(),
        candidates: candidates.collect(),
        choice,
        result: String::new(),
    }
}

/// A body, and what is held until it has ended.
pub(crate) struct Kept<K> {
    pub(crate) body: Body,
    pub(crate) kept: K,
}

impl<K: Unpin> http_body::Body for Kept<K> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let _ = &self.kept;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body whose pieces each come in time, or that breaks off.
struct Patient<B> {
    body: B,
    patience: Duration,
    /// Made when a piece has to be waited for.
    waiting: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<B> Patient<B> {
    fn new(body: B, patience: Duration) -> Patient<B> {
        Patient {
            body,
            patience,
            waiting: None,
        }
    }
}

impl<B> http_body::Body for Patient<B>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(piece) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(piece);
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Some(Err(
            "the node that ran the call sent no more of its answer".into(),
        )))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of one piece.
pub fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}
