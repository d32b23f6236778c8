//! From a call to its answer: look, decide, act, and decide again when the
//! world has moved.

mod bodies;
mod explained;
mod offer;
mod probing;
mod serving;
mod waiting;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use libp2p_identity::PeerId;
use tokio::sync::oneshot;
use weir_node::Node;
use weir_node::admission::{Prospect, Seat};
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::FunctionSpec;
use weir_node::id::{CallId, FunctionName, Receipt};
use weir_node::invocation::{Answer, Invocation, InvokeError, Phase, Refusal};
use weir_node::node::{ChangeError, Copied, Declined, Moves, Router, SubmitError};
use weir_node::replay::Replay;
use weir_node::store::CallRecord;
use weir_node::time::Time;

pub(crate) use self::bodies::Kept;
pub use self::bodies::whole;
pub use self::explained::{Candidate, Explanation, Step};
use self::explained::{Explained, step};
use self::offer::{Errand, Offered, Seized, is_failure};
use self::serving::{Guest, Serving};
use self::waiting::{Waiters, Waiting};
use crate::blame::{Evidence, Place};
use crate::copies::{self, Copies, Found};
use crate::explain::Weighed;
use crate::federated::Federated;
use crate::peers::PEERS;
use crate::policy::{self, Decision, Origin, Policy, Reach, Reason};
use crate::report::Report;
use crate::snapshot::{Here, Local, Snapshot};
use crate::steward::Steward;
pub(crate) use weir_federation_core::wanted::asks_for_grants;
use weir_federation_core::wanted::{Machine, Wanted};

/// This machine, with the labels that it was given.
fn this_machine(labels: &BTreeMap<String, String>) -> Machine<'_> {
    Machine {
        architecture: std::env::consts::ARCH,
        labels,
    }
}

/// What a function is constrained to and this machine with these labels does not
/// have, in words.
pub fn unmet_here(spec: &FunctionSpec, labels: &BTreeMap<String, String>) -> Option<String> {
    weir_federation_core::wanted::unmet(spec, &this_machine(labels))
}

/// Peers to which one call is offered.
const OFFERED: usize = 6;

/// Decisions about one call.
const DECISIONS: usize = 16;

/// Hops of a call, unless it says less.
const HOPS: u8 = 3;

/// How long a call waits for a place elsewhere that has none here.
const WAIT_ELSEWHERE: Duration = Duration::from_secs(5);

/// Peers and outcomes that are counted apart; members come and go, and each
/// would leave its series behind.
const OFFLOAD_SERIES: usize = 8 * PEERS;

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

/// What was counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls sent to a peer, by peer, how that ended, and why.
    pub offloads: DashMap<(PeerId, &'static str, &'static str), u64>,
    /// Decisions, by what was chosen and why.
    pub decisions: DashMap<(&'static str, &'static str), u64>,
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
    evidence: Mutex<Evidence>,
    /// Whether there is any evidence: looked at by every call.
    has_evidence: std::sync::atomic::AtomicBool,
    /// The peer that was chosen last.
    remembered: Mutex<Option<PeerId>>,
    steward: Arc<Steward>,
    copies: Arc<Copies>,
    waiters: Waiters,
    serving: Serving,
    /// Ids of peers as text, which is dear to make; no more than there may be.
    names: DashMap<PeerId, Arc<str>>,
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
    /// What counts it, where it is a guest's.
    guest: Option<Arc<Guest>>,
}

impl Way {
    fn from_here() -> Way {
        Way {
            origin: Origin::Here,
            visited: Vec::new(),
            hops: HOPS,
            guest: None,
        }
    }
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
                evidence: Mutex::default(),
                has_evidence: false.into(),
                remembered: Mutex::default(),
                steward,
                copies,
                waiters: Waiters::default(),
                serving: Serving::default(),
                names: DashMap::new(),
            }),
        };
        tokio::spawn(Inner::look_around(Arc::downgrade(&dispatch.inner)));
        tokio::spawn(Inner::watch_places(Arc::downgrade(&dispatch.inner)));
        tokio::spawn(probing::ask_those_away(Arc::downgrade(&dispatch.inner)));
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

    /// Whether the federation has a function of this name, wherever it is.
    pub fn is_known(&self, function: &FunctionName) -> bool {
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

    /// A peer that may run a function which is deployed here, by what both are;
    /// `None` where no peer can, or is told of it.
    pub fn runs_elsewhere(&self, spec: &FunctionSpec) -> Option<PeerId> {
        self.inner.runs_elsewhere(spec)
    }

    /// What a function needs of a node that neither this one nor any that it
    /// knows of has, in words.
    pub fn unmet(&self, spec: &FunctionSpec) -> Option<String> {
        let wanted = Wanted::by(spec, None);
        let needs = wanted.needs();
        let federated = &self.inner.federated;
        let own = federated.own();
        let lack = policy::lacks(&needs, &own)?;
        let view = federated.shared.view.load();
        let mut reports = view.peers.iter().map(|peer| &peer.report);
        let elsewhere = reports.any(|report| policy::fits(&needs, report))
            || view.away().any(|peer| policy::fits(&needs, &peer.report));
        (!elsewhere).then(|| lack.to_string())
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

    /// Tells the federation of a version that took the place of one that served
    /// here, unless that was done: how many members keep its code.
    ///
    /// # Errors
    /// Why it is not told; that is tried again.
    pub async fn announce_untold(&self, name: &FunctionName) -> Result<Option<usize>, ChangeError> {
        self.inner.steward.announce_untold(name).await
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
        let way = Way::from_here();
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
        self.inner.explained().keep(call, explanation);
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
        self.inner.explained().of(call)
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
        inner.receive(from, request).await
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
            inner.place(invocation, Way::from_here(), None).await
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

/// One call, from its arrival to its answer.
struct Course<'a> {
    inner: &'a Arc<Inner>,
    way: Way,
    spec: Option<Arc<FunctionSpec>>,
    /// Whether the function is not deployed here.
    absent: bool,
    wanted: Arc<Wanted>,
    fits_here: bool,
    policy: &'static dyn Policy,
    arrived: Time,
    deadline: Time,
    /// Nodes that it visited, and peers that it was tried at in vain.
    avoid: Vec<PeerId>,
    offers: usize,
    /// Its request, should it be sent again.
    again: Option<Replay>,
    /// Why the last peer did not take it.
    declined: String,
    fetched: Duration,
    brought: bool,
    /// Whether it waited for others in vain, so that it may go where the
    /// function fails.
    anywhere: bool,
    waited_elsewhere: bool,
    /// Where it stood in the queue, when it has left that.
    seat: Option<Seat>,
}

/// What became of a step.
enum Turned {
    Ended(Result<Answer, InvokeError>),
    /// It is to be decided about again.
    Again(Invocation),
}

impl Inner {
    fn explained(&self) -> MutexGuard<'_, Explained> {
        self.explained
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn count_offload(&self, peer: PeerId, how: &'static str, why: &'static str) {
        let offloads = &self.counters.offloads;
        if let Some(mut count) = offloads.get_mut(&(peer, how, why)) {
            *count += 1;
        } else if offloads.len() < OFFLOAD_SERIES {
            *offloads.entry((peer, how, why)).or_default() += 1;
        }
    }

    fn count_decision(&self, decision: Decision, here: Here) {
        let word = match decision {
            Decision::Run => "run",
            Decision::Enqueue { .. } => "enqueue",
            Decision::Ask => "ask",
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
        let why = match (decision, here) {
            (Decision::Reject(reason), _) => match reason {
                Reason::NoRoom => "no-room",
                Reason::NobodyHasRoom => "no-room-anywhere",
                Reason::NoSuchPlace => "no-such-place",
                Reason::TooLate => "too-late",
            },
            (_, Here::Warm) => "warm",
            (_, Here::Startable) => "startable",
            (_, Here::Full) => "full",
            (_, Here::Unable) => "unable",
        };
        *self.counters.decisions.entry((word, why)).or_default() += 1;
    }

    fn policy(&self, spec: Option<&FunctionSpec>, class: Option<&str>) -> &'static dyn Policy {
        let chosen = spec.and_then(|spec| spec.labels.get(POLICY_LABEL));
        let by_function = chosen.and_then(|name| policy::named(name));
        let by_class = || class.and_then(|class| self.rules.by_class.get(class).copied());
        by_function.or_else(by_class).unwrap_or(self.rules.default)
    }

    /// Takes note of how a call of this node's users ended where it ran.
    fn note_outcome(
        &self,
        function: &FunctionName,
        place: Place,
        outcome: &Result<Answer, InvokeError>,
    ) {
        let failed = is_failure(outcome);
        if !failed && !self.has_evidence.load(Ordering::Relaxed) {
            return;
        }
        let now = self.node.clock().now();
        let mut evidence = self.evidence();
        evidence.note(function, place, failed, now);
        self.has_evidence
            .store(!evidence.is_empty(), Ordering::Relaxed);
    }

    /// Where the function of a call fails and does so nowhere else.
    fn failing(&self, function: &FunctionName) -> Vec<Place> {
        if !self.has_evidence.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.evidence().failing(function, self.node.clock().now())
    }

    /// Runs a call here or elsewhere.
    async fn place(
        self: &Arc<Self>,
        mut invocation: Invocation,
        way: Way,
        mut explain: Option<&mut Explanation>,
    ) -> Result<Answer, InvokeError> {
        let mut course = Course::new(self, way, &mut invocation);
        if let Some(explain) = &mut explain {
            explain.policy = course.policy.name().to_owned();
        }
        for _ in 0..DECISIONS {
            match course.step(invocation, explain.as_deref_mut()).await {
                Turned::Ended(outcome) => return outcome,
                Turned::Again(again) => invocation = again,
            }
        }
        Err(self.no_room())
    }

    fn runs_elsewhere(&self, spec: &FunctionSpec) -> Option<PeerId> {
        let entry = self.federated.entry(&spec.name)?;
        entry.spec.as_ref()?;
        let wanted = Wanted::by(spec, Some(&entry));
        if wanted.bounds == policy::Bounds::Node {
            return None;
        }
        let needs = wanted.needs();
        let view = self.federated.shared.view.load();
        let mut peers = view.peers.iter();
        let able = peers.find(|peer| policy::fits(&needs, &peer.report));
        able.map(|peer| peer.id)
    }

    /// How long a function runs here on average; `None` before it has run.
    fn service(&self, function: &FunctionName) -> Option<Duration> {
        let estimate = self.node.service(function)?;
        (estimate.samples > 0).then_some(estimate.mean)
    }

    fn no_room(&self) -> InvokeError {
        self.node.refused(Refusal::NobodyHasRoom, Duration::ZERO)
    }
}

/// Writes into an explanation what came of its last step.
fn note(explain: Option<&mut Explanation>, result: &str) {
    if let Some(step) = explain.and_then(|explain| explain.steps.last_mut()) {
        result.clone_into(&mut step.result);
    }
}

impl<'a> Course<'a> {
    /// Begins the course of a call, and fixes the moment of its deadline.
    fn new(inner: &'a Arc<Inner>, way: Way, invocation: &mut Invocation) -> Course<'a> {
        let arrived = inner.node.clock().now();
        let class = invocation.class.as_deref();
        if invocation.deadline.is_none() {
            let by_class = inner.node.default_deadline(&invocation.function, class);
            invocation.deadline = by_class.map(|deadline| arrived + deadline);
        }
        let here = inner.node.spec(&invocation.function);
        let absent = here.is_none();
        let entry = inner.federated.entry(&invocation.function);
        let spec = here.or_else(|| entry.as_ref()?.spec.clone());
        let wanted = spec
            .as_ref()
            .map(|spec| Wanted::by(spec, entry.as_ref()))
            .unwrap_or_default();
        let policy = inner.policy(spec.as_deref(), invocation.class.as_deref());
        Course {
            inner,
            fits_here: wanted.fits(&this_machine(&inner.federated.settings().labels)),
            avoid: way.visited.clone(),
            way,
            spec,
            absent,
            wanted: Arc::new(wanted),
            policy,
            arrived,
            deadline: invocation.deadline.unwrap_or(Time::NEVER),
            offers: 0,
            again: None,
            declined: String::new(),
            fetched: Duration::ZERO,
            brought: false,
            anywhere: false,
            waited_elsewhere: false,
            seat: None,
        }
    }

    /// What this node could do with the call itself.
    fn here(&self, invocation: &Invocation) -> Result<Window, InvokeError> {
        let inner = self.inner;
        let outlook = inner.node.prospect(invocation)?;
        // What others can run is theirs from now on, what was accepted before
        // included; the rest still runs here.
        let drains = inner.federated.is_draining();
        let guest = self.way.guest.as_ref();
        let closed = guest.is_some_and(|guest| !inner.has_guest_room(guest));
        let (here, queue) = match &outlook {
            _ if !self.fits_here => (Here::Unable, None),
            None => (Here::Unable, None),
            // Alone it says itself what is missing.
            Some(outlook) if !outlook.works && self.runs_elsewhere() => (Here::Unable, None),
            Some(outlook) => match outlook.prospect {
                Prospect::Warm | Prospect::Start if closed => (Here::Full, None),
                Prospect::Warm | Prospect::Start if drains => (Here::Full, Some(Duration::ZERO)),
                Prospect::Warm => (Here::Warm, Some(Duration::ZERO)),
                Prospect::Start => (Here::Startable, Some(Duration::ZERO)),
                Prospect::Wait { .. } => (Here::Full, Some(outlook.wait)),
                Prospect::Refuse(_) => (Here::Full, None),
            },
        };
        let mut window = Window {
            here,
            queue,
            turn: None,
            deployed: outlook.is_some(),
            refusal: None,
        };
        match outlook.as_ref().map(|outlook| outlook.prospect) {
            Some(Prospect::Wait { expected }) => window.turn = Some(expected.turn),
            // What was let in once goes back to where it stood.
            Some(Prospect::Refuse(_)) if self.seat.is_some() => {
                window.queue = Some(Duration::ZERO);
            }
            Some(Prospect::Refuse(refusal)) => {
                let wait = outlook.map_or(Duration::ZERO, |outlook| outlook.wait);
                window.refusal = Some((refusal, wait));
            }
            Some(Prospect::Warm | Prospect::Start) | None => {}
        }
        Ok(window)
    }

    /// Whether a peer may run it, by what that is.
    fn runs_elsewhere(&self) -> bool {
        let spec = self.spec.as_deref();
        spec.is_some_and(|spec| self.inner.runs_elsewhere(spec).is_some())
    }

    /// Looks, decides and acts once.
    async fn step(
        &mut self,
        invocation: Invocation,
        mut explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        let now = inner.node.clock().now();
        let window = match self.here(&invocation) {
            Ok(window) => window,
            Err(error) => return Turned::Ended(Err(error)),
        };
        if window.here == Here::Unable && !window.deployed && self.spec.is_none() {
            return Turned::Ended(Err(InvokeError::Unknown(invocation.function)));
        }
        let view = inner.federated.shared.view.load_full();
        let (decision, seized) = {
            let regions = inner.federated.shared.regions.load();
            let from_here = self.way.origin == Origin::Here;
            let failing = match from_here {
                true => inner.failing(&invocation.function),
                false => Vec::new(),
            };
            let blamed = failing.contains(&None);
            let failing: Vec<PeerId> = failing.into_iter().flatten().collect();
            let service = inner.service(&invocation.function);
            let request = policy::Request {
                function: &invocation.function,
                version: self.wanted.version,
                writer: self.wanted.writer,
                needs: self.wanted.needs(),
                bounds: self.wanted.bounds,
                cost: self.wanted.cost(service),
                origin: self.way.origin,
                avoid: &self.avoid,
                failing: &failing,
                anywhere: self.anywhere,
                hops: if self.offers < OFFERED {
                    self.way.hops
                } else {
                    0
                },
                deadline: self.deadline,
            };
            // A call that runs here at once looks at nobody.
            let at_once = matches!(window.here, Here::Warm | Here::Startable);
            let alone = at_once && !blamed && explain.is_none() && !self.drains();
            let abilities = match alone {
                true => Arc::default(),
                false => inner.federated.abilities().of(&invocation.function),
            };
            let snapshot = Snapshot {
                local: Local {
                    here: window.here,
                    queue: window.queue,
                    service,
                    start: match alone {
                        true => None,
                        false => inner.node.start_time(&invocation.function),
                    },
                    blamed,
                    role: inner.federated.role(),
                    regions: &regions,
                },
                view: &view,
                abilities: &abilities,
                remembered: *inner
                    .remembered
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
                now,
                chance: rand::random(),
            };
            let decision = match &mut explain {
                None => policy::decide(self.policy, &request, &snapshot, &mut ()),
                Some(explain) => {
                    let mut weighed: Vec<Weighed> = Vec::new();
                    let decision = policy::decide(self.policy, &request, &snapshot, &mut weighed);
                    let step = step(&request, &snapshot, &weighed, decision);
                    explain.steps.push(step);
                    decision
                }
            };
            // Who would run it here if only the code were here brings that first.
            let decision = match decision {
                Decision::Ask | Decision::Reject(_)
                    if self.may_bring(&window) && would_run(self.policy, &request, &snapshot) =>
                {
                    Chosen::Bring(decision)
                }
                decision => Chosen::Decided(decision),
            };
            let seized = match decision {
                Chosen::Decided(Decision::Offload { to, .. }) => {
                    let peer = &view.peers[to];
                    inner.seize(peer, &invocation.function, &self.wanted)
                }
                _ => None,
            };
            (decision, seized)
        };
        let decision = match decision {
            Chosen::Bring(decision) => {
                inner.count_decision(decision, window.here);
                return self.bring(invocation, explain).await;
            }
            Chosen::Decided(decision) => decision,
        };
        let decision = match decision {
            // It may be back soon.
            Decision::Reject(Reason::NobodyHasRoom | Reason::NoSuchPlace)
                if window.here == Here::Unable
                    && self.way.origin == Origin::Here
                    && !self.waited_elsewhere
                    && self.is_away() =>
            {
                Decision::Ask
            }
            decision => decision,
        };
        inner.count_decision(decision, window.here);
        match decision {
            Decision::Run => {
                let function = invocation.function.clone();
                match inner.node.invoke_now(invocation).await {
                    Ok(answer) => {
                        note(explain, "ran here");
                        self.ended_here(&function, Ok(answer))
                    }
                    Err(Declined::Failed(error)) => {
                        note(explain, &error.to_string());
                        self.ended_here(&function, Err(error))
                    }
                    Err(Declined::NoRoom(back) | Declined::Left(back, _)) => {
                        note(explain, "another call took the place");
                        Turned::Again(*back)
                    }
                }
            }
            Decision::Enqueue { .. } => self.wait_here(invocation, &window, explain).await,
            Decision::Offload { to, .. } => {
                let Some(seized) = seized else {
                    note(explain, "its last place went to another call");
                    self.offers += 1;
                    return Turned::Again(invocation);
                };
                *inner
                    .remembered
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(view.peers[to].id);
                Box::pin(self.go(seized, invocation, explain)).await
            }
            Decision::Ask if self.waited_elsewhere => {
                if self.anywhere {
                    let reason = Reason::NobodyHasRoom;
                    return self.reject(reason, &invocation, &window, explain);
                }
                // The last place: better than none.
                self.anywhere = true;
                Turned::Again(invocation)
            }
            Decision::Ask => self.wait_elsewhere(invocation, &window, explain).await,
            Decision::Reject(reason) => self.reject(reason, &invocation, &window, explain),
        }
    }

    fn drains(&self) -> bool {
        self.inner.federated.is_draining()
    }

    fn may_bring(&self, window: &Window) -> bool {
        !window.deployed
            && self.spec.is_some()
            && self.fits_here
            && self.way.origin == Origin::Here
            && !self.brought
            && self.wanted.bounds != policy::Bounds::Node
    }

    fn ended_here(&self, function: &FunctionName, outcome: Result<Answer, InvokeError>) -> Turned {
        if self.way.origin == Origin::Here {
            self.inner.note_outcome(function, None, &outcome);
        }
        Turned::Ended(outcome.map(|mut answer| {
            answer.timing.fetched = self.fetched;
            answer
        }))
    }

    fn reject(
        &self,
        reason: Reason,
        invocation: &Invocation,
        window: &Window,
        explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        let reason = match reason {
            // More room would not help.
            Reason::NobodyHasRoom if window.here == Here::Unable && !self.waited_elsewhere => {
                Reason::NoSuchPlace
            }
            reason => reason,
        };
        let error = match (reason, window.refusal) {
            (Reason::NoRoom | Reason::NobodyHasRoom, Some((refusal, wait))) => {
                inner.node.refused(refusal, wait)
            }
            (Reason::NoRoom, None) => inner.node.refused(Refusal::NoRoom, Duration::ZERO),
            (Reason::NobodyHasRoom, None) => inner.no_room(),
            (Reason::NoSuchPlace, _) => InvokeError::CannotRun {
                function: invocation.function.clone(),
                reason: match self.declined.is_empty() {
                    true => self.nowhere(),
                    false => format!("no peer took it; the last one: {}", self.declined),
                },
            },
            (Reason::TooLate, _) => InvokeError::Late {
                phase: Phase::Queue,
                after: self.deadline.since(self.arrived),
            },
        };
        note(explain, &error.to_string());
        Turned::Ended(Err(error))
    }

    /// Why nobody can run it, by what each lacks.
    fn nowhere(&self) -> String {
        let federated = &self.inner.federated;
        let needs = self.wanted.needs();
        let lack = |report: &Report| policy::lacks(&needs, report).map(|lack| lack.to_string());
        let here = match lack(&federated.own()) {
            Some(lack) => format!("this node lacks {lack}"),
            None => "it is not ready on this node".to_owned(),
        };
        if self.policy.reaches() == policy::Reaches::default() {
            let policy = self.policy.name();
            return format!("{here}, and its policy {policy} asks no other");
        }
        let view = federated.shared.view.load();
        let reports = view.peers.iter().map(|peer| &peer.report);
        let mut reasons = BTreeMap::<String, usize>::new();
        for report in reports.chain(view.away().map(|peer| &peer.report)) {
            let reason = match lack(report) {
                Some(lack) => format!("without {lack}"),
                None => format!(
                    "that policy {} or scope does not let be asked, or that do not have it",
                    self.policy.name()
                ),
            };
            *reasons.entry(reason).or_default() += 1;
        }
        if reasons.is_empty() {
            return format!("{here}, and it knows of no peer");
        }
        let reasons = reasons.iter().map(|(why, count)| format!("{count} {why}"));
        let reasons: Vec<_> = reasons.collect();
        format!("no node can run it: {here}; peers: {}", reasons.join(", "))
    }

    /// Whether somebody could run the function who takes no calls now, and is
    /// not gone.
    fn is_away(&self) -> bool {
        let shared = &self.inner.federated.shared;
        let view = shared.view.load();
        let needs = self.wanted.needs();
        let mut away = view.away();
        self.wanted.bounds != policy::Bounds::Node
            && self.policy.reaches() != policy::Reaches::default()
            && away.any(|peer| policy::fits(&needs, &peer.report) && shared.is_near(&peer.report))
    }

    fn waiting(
        &self,
        invocation: &Invocation,
        turn: Option<Duration>,
        queued: bool,
    ) -> (Arc<Waiting>, oneshot::Receiver<Seized>) {
        let (sender, seized) = oneshot::channel();
        let failing = self.inner.failing(&invocation.function);
        let waiting = Waiting {
            inner: Arc::downgrade(self.inner),
            function: invocation.function.clone(),
            wanted: self.wanted.clone(),
            reaches: match self.offers < OFFERED {
                true => self.policy.reaches(),
                false => policy::Reaches::default(),
            },
            avoid: self.avoid.clone(),
            failing: failing.into_iter().flatten().collect(),
            anywhere: self.anywhere,
            deadline: self.deadline,
            queued,
            turn,
            seized: Mutex::new(Some(sender)),
        };
        (Arc::new(waiting), seized)
    }

    /// Waits in the queue here, for a place here or elsewhere.
    async fn wait_here(
        &mut self,
        mut invocation: Invocation,
        window: &Window,
        explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        let leaves = self.way.origin == Origin::Here && self.policy.reaches() != Default::default();
        let leaves = leaves && self.wanted.bounds != policy::Bounds::Node;
        let mut parked = None;
        let moves: Option<Arc<dyn Moves>> = match leaves {
            true => {
                self.keep_request(&mut invocation);
                let (waiting, seized) = self.waiting(&invocation, window.turn, true);
                let entered = inner.waiters.enter(&waiting);
                parked = Some((entered, seized));
                Some(waiting)
            }
            false => None,
        };
        inner
            .node
            .set_served_elsewhere(inner.waiters.served_elsewhere());
        let function = invocation.function.clone();
        let waited = inner.node.wait(invocation, moves, self.seat.take());
        match Box::pin(waited).await {
            Ok(answer) => {
                note(explain, "waited here");
                self.ended_here(&function, Ok(answer))
            }
            Err(Declined::Failed(error)) => {
                note(explain, &error.to_string());
                self.ended_here(&function, Err(error))
            }
            Err(Declined::NoRoom(back)) => {
                note(explain, "no place was left to wait in");
                Turned::Again(*back)
            }
            Err(Declined::Left(back, seat)) => {
                self.seat = Some(seat);
                let seized = parked.and_then(|(_, mut seized)| seized.try_recv().ok());
                match seized {
                    Some(seized) => {
                        self.count_move(&seized);
                        note(explain, "waited here, and then went on");
                        Box::pin(self.go(seized, *back, None)).await
                    }
                    None => Turned::Again(*back),
                }
            }
        }
    }

    /// Waits for a place elsewhere, where there is none to wait for here.
    async fn wait_elsewhere(
        &mut self,
        mut invocation: Invocation,
        window: &Window,
        mut explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        self.keep_request(&mut invocation);
        // Whoever did not take it may do so now.
        self.avoid.clone_from(&self.way.visited);
        let (waiting, seized) = self.waiting(&invocation, None, false);
        let Some(_entered) = inner.waiters.enter(&waiting) else {
            note(explain, "too many wait already");
            return Turned::Ended(Err(inner.no_room()));
        };
        let now = inner.node.clock().now();
        let wait = WAIT_ELSEWHERE.min(self.deadline.since(now));
        match tokio::time::timeout(wait, seized).await {
            Ok(Ok(seized)) => {
                self.count_move(&seized);
                note(explain.as_deref_mut(), "waited for a place elsewhere");
                Box::pin(self.go(seized, invocation, None)).await
            }
            Ok(Err(_)) | Err(_) if self.deadline <= inner.node.clock().now() => {
                self.reject(Reason::TooLate, &invocation, window, explain)
            }
            Ok(Err(_)) | Err(_) => {
                note(explain, "no peer had a place in time");
                self.waited_elsewhere = true;
                Turned::Again(invocation)
            }
        }
    }

    /// Counts a call that goes to a place for which it waited.
    fn count_move(&self, seized: &Seized) {
        let word = match seized.reach {
            Reach::Horizontal => "horizontal",
            Reach::Vertical => "vertical",
        };
        let decisions = &self.inner.counters.decisions;
        *decisions.entry((word, "waited")).or_default() += 1;
    }

    /// Keeps the request of a call, should it be sent again; once.
    fn keep_request(&mut self, invocation: &mut Invocation) {
        if self.again.is_none() && !offer::is_sent_once(&invocation.request) {
            let kept = self.inner.node.kept();
            self.again = Some(Replay::keep(&mut invocation.request, kept));
        }
    }

    /// Sends the call to a peer where it has taken a place.
    async fn go(
        &mut self,
        to: Seized,
        mut invocation: Invocation,
        explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        self.offers += 1;
        self.keep_request(&mut invocation);
        if let Some(guest) = &self.way.guest {
            guest.leaves();
        }
        let peer = to.peer;
        let request = std::mem::replace(&mut invocation.request, Request::new(Body::default()));
        let errand = Errand {
            function: &invocation.function,
            wanted: &self.wanted,
            spec: self.spec.as_deref(),
            deadline: self.deadline,
        };
        // Boxed, so that calls which run here do not carry its room.
        let travelling = inner.travelling(&invocation, &self.way, &errand);
        let offer = inner.offer(to, request, (travelling, &errand));
        let (offered, unsent) = Box::pin(offer).await;
        let whole = || unsent.or_else(|| self.again.as_ref().and_then(Replay::request));
        let (reason, request) = match offered {
            Offered::Answer(answer) => {
                note(explain, "answered");
                if self.absent && self.way.origin == Origin::Here && self.fits_here {
                    inner.steward.is_wanted(&invocation.function);
                }
                return self.ended_at(peer, &invocation.function, Ok(answer));
            }
            Offered::Failed(error) => {
                note(explain, &error.to_string());
                return self.ended_at(peer, &invocation.function, Err(error));
            }
            Offered::Full(reason) => (reason, whole()),
            Offered::Declined(reason) => {
                self.avoid.push(peer);
                (reason, whole())
            }
            Offered::Lost(reason) if self.wanted.idempotent => {
                self.avoid.push(peer);
                (reason, whole())
            }
            Offered::Lost(reason) => {
                note(explain, &reason);
                let text = format!(
                    "the node {peer} that had the call was lost ({reason}); it may have run \
                     there, and is not run again because {} is not declared idempotent",
                    invocation.function
                );
                return Turned::Ended(Err(InvokeError::PeerLost(text)));
            }
        };
        note(explain, &reason);
        tracing::debug!(function = %invocation.function, %peer, reason, "a peer did not take a call");
        let Some(request) = request else {
            let text = format!(
                "the node {peer} did not take the call ({reason}), and its body is too long to be \
                 sent again"
            );
            return Turned::Ended(Err(InvokeError::PeerLost(text)));
        };
        self.declined = reason;
        invocation.request = request;
        inner.counters.retries.fetch_add(1, Ordering::Relaxed);
        Turned::Again(invocation)
    }

    fn ended_at(
        &self,
        peer: PeerId,
        function: &FunctionName,
        outcome: Result<Answer, InvokeError>,
    ) -> Turned {
        if self.way.origin == Origin::Here {
            self.inner.note_outcome(function, Some(peer), &outcome);
        }
        Turned::Ended(outcome)
    }

    /// Brings the code of the function here.
    async fn bring(
        &mut self,
        invocation: Invocation,
        mut explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        self.brought = true;
        let began = inner.node.clock().now();
        let adopting = inner.steward.adopt(&invocation.function, false);
        let left = self.deadline.since(began);
        let adopted = match self.deadline == Time::NEVER {
            true => Ok(Box::pin(adopting).await),
            false => tokio::time::timeout(left, Box::pin(adopting)).await,
        };
        self.fetched = inner.node.clock().now().since(began);
        match adopted {
            Ok(Ok(())) => note(explain.as_deref_mut(), "its code was brought here"),
            Ok(Err(error)) => {
                note(explain.as_deref_mut(), &error.to_string());
                self.declined = error.to_string();
            }
            Err(_) => {
                note(explain, "its code did not come in time");
                return Turned::Ended(Err(InvokeError::Late {
                    phase: Phase::Start,
                    after: self.deadline.since(self.arrived),
                }));
            }
        }
        Turned::Again(invocation)
    }
}

/// What this node could do with a call.
struct Window {
    here: Here,
    queue: Option<Duration>,
    /// How long each call that waits here makes the next one wait.
    turn: Option<Duration>,
    deployed: bool,
    /// Why it would not be taken here, and how long it would have to wait.
    refusal: Option<(Refusal, Duration)>,
}

/// A decision, or what comes before one.
enum Chosen {
    Decided(Decision),
    /// The code is brought here first; what would be done without.
    Bring(Decision),
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
