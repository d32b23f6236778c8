//! From a call to its answer: look, decide, act, and decide again when the
//! world has moved.

mod bodies;
mod course;
mod explained;
mod offer;
mod policies;
mod probing;
mod serving;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use libp2p_identity::PeerId;
use parking_lot::{Mutex, MutexGuard};
use weir_node::Node;
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::FunctionSpec;
use weir_node::id::{CallId, FunctionName, Receipt};
use weir_node::invocation::{Answer, Invocation, InvokeError, Refusal};
use weir_node::node::{ChangeError, Copied, Router, SubmitError};
use weir_node::store::CallRecord;

pub(crate) use self::bodies::Kept;
pub use self::bodies::whole;
use self::course::{Course, Turned};
use self::explained::Explained;
pub use self::explained::{Candidate, Explanation, Step};
use self::policies::Policies;
pub use self::policies::{
    Alone, BY_HAND_MAX, Calls, InForce, ROUTES_MAX, Route, Rule, Rules, Unchanged, Unnoticed,
};
use self::serving::{Guest, Serving};
use self::waiting::Waiters;
use crate::beside::Beside;
use crate::blame::{Evidence, Place};
use crate::copies::{self, Copies, Found};
use crate::federated::{Federated, Placing};
use crate::peers::PEERS;
use crate::policy::{self, Decision, Origin, Reach, Reason};
use crate::replication::Replication;
use crate::snapshot::Here;
use crate::tally::Tally;
use weir_federation_core::placement::HOPS_MAX;
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

/// Peers and outcomes that a thread counts apart; members come and go, and each
/// would leave its series behind.
const OFFLOAD_SERIES: usize = 8 * PEERS;

/// The label by which a function chooses its policy.
pub const POLICY_LABEL: &str = "weir.policy";

/// What was counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls sent to a peer, by peer, how that ended, and why.
    pub offloads: Tally<(PeerId, &'static str, &'static str)>,
    /// Decisions, by what was chosen and why.
    pub decisions: Tally<(&'static str, &'static str)>,
    /// Decisions that did not offer a call to a peer that it could have gone to, by
    /// what held it back.
    pub held_back: Tally<&'static str>,
    /// Calls that were decided about again.
    pub retries: AtomicU64,
    /// Calls of peers, by how they ended.
    pub guests: Tally<&'static str>,
    /// Calls carried, by what carried them.
    pub carried: Tally<&'static str>,
}

struct Inner {
    node: Node,
    federated: Federated,
    policies: Policies,
    /// What holds beside those.
    beside: Arc<Beside>,
    counters: Counters,
    explained: Mutex<Explained>,
    evidence: Mutex<Evidence>,
    /// Whether there is any evidence: looked at by every call.
    has_evidence: std::sync::atomic::AtomicBool,
    /// The peer that was chosen last.
    remembered: ArcSwapOption<PeerId>,
    replication: Arc<Replication>,
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
            hops: HOPS_MAX,
            guest: None,
        }
    }
}

impl Dispatch {
    /// Places calls of `node`, alone or with its peers.
    pub fn new(node: Node, federated: Federated, rules: Rules) -> Dispatch {
        let replication = Arc::new(Replication::new(node.clone(), federated.clone()));
        let heard = federated.shared.heard.lock().take();
        if let Some(news) = heard {
            federated.spawn(Arc::clone(&replication).look_after(news));
            #[cfg(feature = "etcd")]
            if federated.registry().is_some() {
                let etcd = federated.settings().etcd.clone();
                federated.spawn(crate::registry::run(federated.clone(), etcd));
            }
        }
        let copies = Copies::start(node.clone(), federated.clone());
        let now = node.clock().now();
        let policies = Policies::new(rules, &federated, now);
        let dispatch = Dispatch {
            inner: Arc::new(Inner {
                node,
                federated,
                policies,
                beside: Arc::default(),
                counters: Counters::default(),
                explained: Mutex::default(),
                evidence: Mutex::default(),
                has_evidence: false.into(),
                remembered: ArcSwapOption::empty(),
                replication,
                copies,
                waiters: Waiters::new(now),
                serving: Serving::default(),
                names: DashMap::new(),
            }),
        };
        let inner = || Arc::downgrade(&dispatch.inner);
        let federated = dispatch.federated();
        federated.spawn(Inner::look_around(inner()));
        federated.spawn(Inner::watch_places(inner()));
        federated.spawn(probing::ask_those_away(inner()));
        federated.spawn(policies::drive(inner()));
        let placing: std::sync::Weak<dyn Placing> = inner();
        let _ = federated.shared.placing.set(placing);
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
        self.inner.replication.fits(spec)
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
        self.inner.replication.announce(spec).await
    }

    /// Tells the federation of a version that took the place of one that served
    /// here, unless that was done: how many members keep its code.
    ///
    /// # Errors
    /// Why it is not told; that is tried again.
    pub async fn announce_untold(&self, name: &FunctionName) -> Result<Option<usize>, ChangeError> {
        self.inner.replication.announce_untold(name).await
    }

    /// Removes a function from the federation.
    ///
    /// # Errors
    /// Why it stays.
    pub async fn withdraw(&self, function: &FunctionName) -> Result<(), ChangeError> {
        self.inner.replication.withdraw(function).await
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

    /// Keeps what policies learned, for the next life of this node.
    pub async fn keep_what_was_learned(&self) {
        self.inner.keep_what_was_learned().await;
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
    pub fn code_counters(&self) -> &crate::replication::Counters {
        self.inner.replication.counters()
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
        if Replication::is_asked(&request) {
            return Box::pin(inner.replication.serve(from, request)).await;
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

impl Inner {
    fn explained(&self) -> MutexGuard<'_, Explained> {
        self.explained.lock()
    }

    fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock()
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
        self.counters.guests.count(how);
    }

    fn count_offload(&self, peer: PeerId, how: &'static str, why: &'static str) {
        let what = (peer, how, why);
        self.counters.offloads.count_within(what, OFFLOAD_SERIES);
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
        self.counters.decisions.count((word, why));
    }

    /// Takes note of how a call of this node's users ended where it ran.
    fn note_outcome(
        &self,
        function: &FunctionName,
        place: Place,
        outcome: &Result<Answer, InvokeError>,
    ) {
        let how = offer::how(outcome);
        if !how.is_failure() && !self.has_evidence.load(Ordering::Relaxed) {
            return;
        }
        let now = self.node.clock().now();
        let mut evidence = self.evidence();
        evidence.learn(function, place, how, now);
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
            explain.policy = course.policy().name().to_owned();
        }
        loop {
            match course.step(invocation, explain.as_deref_mut()).await {
                Turned::Ended(outcome) => return outcome,
                Turned::Again(again) => invocation = again,
            }
        }
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
