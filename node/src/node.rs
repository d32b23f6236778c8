//! The way in: one node, and everything that may be asked of it.
//!
//! This is the shell around the core in [`crate::scheduler`]: it holds the
//! state machine behind one short lock, does what its actions say, and keeps
//! what must survive in the [store](crate::store). Each part of it lives in a
//! file of its own: deployed functions, instances, the path of one invocation,
//! the backlog of asynchronous calls, and what is done now and then.

mod answering;
mod backlog;
mod copies;
mod functions;
mod housekeeping;
mod instances;
mod invoke;
mod rollout;
mod timers;
mod trial;
mod usage;
mod version;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use libp2p_identity::{Keypair, PeerId};
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::backlog::Backlog;
use self::functions::Function;
use self::instances::{Live, Waiter};
pub use self::invoke::{Declined, Moves, Outlook};
pub use self::rollout::{RolledBack, RolledOut, Rollout};
use self::timers::{Locked, Timers};
use self::usage::Watching;
use crate::admission::{FunctionKey, InstanceId, Places};
use crate::artifact::{Artifacts, Put, PutError};
use crate::callback::{BadCallback, Callbacks};
use crate::clock::Clock;
use crate::config::NodeConfig;
use crate::estimate::Estimate;
use crate::executor::{self, Body, Executor};
use crate::function::{ArtifactKind, FunctionSpec};
use crate::id::{CallId, Digest, FunctionName, Namespace, Receipt, SecretName};
use crate::identity::{self, IdentityError};
use crate::invocation::{Answer, Invocation, InvokeError, Outcome, Refusal};
use crate::layers::{self, Layer};
use crate::logs::FunctionLog;
use crate::resolve::Resolver;
use crate::resources::{Cpu, Resources};
use crate::scheduler::Scheduler;
use crate::secret::SecretFolders;
use crate::store::{
    CallRecord, KeepBodyError, NamespaceRecord, OpenError, SecretValue, Store, StoreConfig,
    StoreError,
};

/// Where a deployed function's code stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FunctionState {
    /// Its code is being made ready; calls wait.
    Preparing,
    /// The node cannot start it now, for a reason of its own; says what is
    /// missing. It is tried again, by itself and for each call.
    Waiting(String),
    /// It can be called.
    Ready,
    /// Its code cannot be made ready; calls get a 503 with this reason.
    Failed(String),
}

/// A deployed function, as listings show it.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionStatus {
    /// As deployed.
    pub spec: Arc<FunctionSpec>,
    /// Counts up with each deployment of the name.
    pub version: u64,
    /// When this version was deployed.
    pub created_at: jiff::Timestamp,
    /// Where its code stands.
    pub state: FunctionState,
    /// A newer version, until it is in place.
    pub next: Option<NextStatus>,
    /// The version that served before.
    pub previous: Option<u64>,
    /// Calls answered since the node started.
    pub invocations: u64,
    /// Instances that are wanted or there.
    pub replicas: u32,
    /// Instances that can take calls.
    pub available_replicas: u32,
    /// Calls running now.
    pub running: u32,
    /// Calls waiting now.
    pub waiting: u32,
    /// What a call holds of processors: what was declared, learned or guessed.
    pub call_cpu: Cpu,
    /// Processor time used since the node started, as far as the executor measures it.
    pub cpu: Duration,
}

/// A version that is not in place yet, as listings show it.
#[derive(Debug, Clone, Serialize)]
pub struct NextStatus {
    /// As deployed.
    pub spec: Arc<FunctionSpec>,
    /// Its number.
    pub version: u64,
    /// Where its code stands.
    pub state: FunctionState,
}

/// Whether a deployment may replace, must replace, or must not replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeployMode {
    /// `POST`: creates, or replaces what is there.
    CreateOrReplace,
    /// `PUT`: replaces; a name that is not there is an error and creates nothing.
    Replace,
}

/// Why a deployment, removal or other change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// What the change is about is not here (404).
    #[error("{0}")]
    NotFound(String),
    /// It is there already (409).
    #[error("{0}")]
    Exists(String),
    /// The request itself is at fault (400).
    #[error("{0}")]
    Invalid(String),
    /// It can be made soon, and not now (503).
    #[error("{0}")]
    NotYet(String),
    /// A bound of the node or its disk was reached (507).
    #[error("{0}")]
    Full(String),
    /// The node failed to keep the change (500).
    #[error("{what}")]
    Store {
        /// Which step.
        what: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An asynchronous call as the door hands it in.
pub struct Submission {
    /// The call. Its body is read, and on disk, before it is accepted.
    pub invocation: Invocation,
    /// Most bytes of body to accept.
    pub body_bytes: u64,
    /// Where to deliver the result.
    pub callback: Option<String>,
    /// The caller's own id of the call, only passed on.
    pub caller_id: Option<String>,
}

/// Why an asynchronous call was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// As for calls that are waited for.
    #[error(transparent)]
    Invoke(#[from] InvokeError),
    /// The callback is not a URL that this node may call (400).
    #[error(transparent)]
    Callback(BadCallback),
    /// The body is longer than it may be (413).
    #[error("the body of an asynchronous call may have at most {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// The caller's body broke off.
    #[error("the request body ended early")]
    Body(#[source] executor::BodyError),
    /// Too few peers can keep a copy of it (503).
    #[error(
        "{kept} of the {wanted} peers that are to keep a copy of each call of this function could: \
         try again, or deploy it with fewer (--durable) or with --durable-best-effort"
    )]
    NoCopies {
        /// How many should.
        wanted: u8,
        /// How many did; they let go of it.
        kept: usize,
    },
    /// The call could not be put on disk (507 when the disk is full, else 500).
    #[error("the call could not be stored, and was not accepted")]
    Store(#[source] StoreError),
}

impl From<KeepBodyError> for SubmitError {
    fn from(error: KeepBodyError) -> Self {
        match error {
            KeepBodyError::TooLarge { limit } => SubmitError::TooLarge { limit },
            KeepBodyError::Body(error) => SubmitError::Body(error),
            KeepBodyError::Store(error) => SubmitError::Store(error),
        }
    }
}

/// What became of an asynchronous call.
pub enum CallState {
    /// Accepted, not done.
    Pending,
    /// Done.
    Done(CallResult),
}

/// The result of an asynchronous call.
pub struct CallResult {
    /// The status that a waiting caller would have got.
    pub status: StatusCode,
    /// The answer's headers.
    pub headers: HeaderMap,
    /// The answer's body.
    pub body: Body,
    /// Its length in bytes.
    pub body_bytes: u64,
    /// The word of `X-Weir-Error` when the answer is the node's, not the function's.
    pub error: Option<String>,
    /// When the call ended.
    pub ended_at: jiff::Timestamp,
    /// How often it was begun.
    pub attempts: u32,
    /// The caller's own id of it.
    pub caller_id: Option<String>,
}

/// A namespace with what was said of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NamespaceInfo {
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One QoS class, as `weir status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ClassStatus {
    /// Its name.
    pub name: String,
    /// Calls waiting now.
    pub waiting: usize,
    /// Most calls that may wait.
    pub bound: usize,
}

/// The whole node at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: String,
    /// Version of the program.
    pub version: &'static str,
    /// Processor architecture of its executors.
    pub architecture: &'static str,
    /// What functions may hold together.
    pub capacity: Resources,
    /// What they hold now.
    pub held: Resources,
    /// Calls running now.
    pub running: usize,
    /// Most calls running or waiting.
    pub max_calls: usize,
    /// Queues by class.
    pub classes: Vec<ClassStatus>,
    /// Functions deployed.
    pub functions: usize,
    /// Asynchronous calls accepted and not done.
    pub backlog: usize,
    /// Most of them.
    pub max_backlog: usize,
    /// Results kept.
    pub results: usize,
    /// Bytes of artifacts on disk.
    pub artifact_bytes: u64,
    /// Each executor's own words.
    pub executors: BTreeMap<&'static str, serde_json::Value>,
    /// Whether the node is shutting down.
    pub draining: bool,
}

/// How long an executor may take to end what it started.
const CLOSE: Duration = Duration::from_secs(20);

/// One node. Cheap to clone; [`Node::drain`] ends its background work.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    id: String,
    key: Keypair,
    config: NodeConfig,
    clock: Clock,
    scheduler: Mutex<Scheduler<Waiter>>,
    /// Waiting calls that may leave for a place elsewhere.
    movable: AtomicUsize,
    /// Calls that arrived here and run elsewhere now.
    elsewhere: AtomicU32,
    /// Deployed functions by name; at most `max_functions`.
    functions: DashMap<FunctionName, Arc<Function>>,
    by_key: DashMap<FunctionKey, Arc<Function>>,
    /// Told when a version was put in place of another.
    placed: Notify,
    /// Told when the federation has to be told of a version.
    untold: Notify,
    /// Instances that take calls; bounded by the scheduler.
    instances: DashMap<InstanceId, Arc<Live>>,
    namespaces: Mutex<BTreeMap<Namespace, NamespaceInfo>>,
    executors: Vec<Arc<dyn Executor>>,
    store: Store,
    artifacts: Artifacts,
    secrets: SecretFolders,
    callbacks: Callbacks,
    backlog: Backlog,
    /// What the node can do has changed since somebody looked.
    changed: Notify,
    /// A call has ended, or resources have become free otherwise.
    freed: Notify,
    /// Changes of what functions may need beside room: secrets.
    ability_changes: AtomicU64,
    /// Held while the registry of functions changes, so that store, scheduler
    /// and map change together.
    change: tokio::sync::Mutex<()>,
    /// What calls keep of their bodies, should they be run again.
    kept: crate::replay::Budget,
    /// Told whenever a call ends while the node drains.
    call_ended: Notify,
    /// What the loop waits for that does what is due.
    timers: Timers,
    /// What the loop waits for that learns what functions need.
    usage: Watching,
    /// No new work: the node drains.
    stop: CancellationToken,
    /// No work at all: the grace period is over.
    cut: CancellationToken,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
    observer: OnceLock<Observer>,
    router: OnceLock<Arc<dyn Router>>,
}

/// Decides where asynchronous calls run; without one they run here.
pub trait Router: Send + Sync {
    /// Runs a call somewhere, and waits for the answer.
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'_, Result<Answer, InvokeError>>;

    /// Whether a function that is not deployed here can be called all the same.
    fn knows(&self, function: &FunctionName) -> bool;

    /// Has as many peers keep a copy of a call as its function asks for. They
    /// run it should this node be gone, until [`Router::ended`].
    fn copy<'a>(&'a self, call: &'a CallRecord) -> BoxFuture<'a, Result<Copied, SubmitError>>;

    /// A call has ended, or was not accepted after all.
    fn ended(&self, call: CallId, accepted: bool);
}

/// Where copies of a call are.
#[derive(Debug, Clone, Default)]
pub struct Copied {
    /// How many its function asks for.
    pub wanted: u8,
    /// Who has one.
    pub peers: Vec<PeerId>,
}

impl Copied {
    /// What there is of copies on a node without peers.
    ///
    /// # Errors
    /// When the function's calls are not to be accepted without.
    pub fn alone(spec: Option<&FunctionSpec>) -> Result<Copied, SubmitError> {
        let asked = spec.map(|spec| spec.durability).unwrap_or_default();
        if asked.copies > 0 && !asked.best_effort {
            return Err(SubmitError::NoCopies {
                wanted: asked.copies,
                kept: 0,
            });
        }
        Ok(Copied {
            wanted: asked.copies,
            peers: Vec::new(),
        })
    }
}

/// What a node can do now, for those who decide where calls run.
#[derive(Debug, Clone, Copy)]
pub struct Capability {
    /// What functions may hold together.
    pub capacity: Resources,
    /// What they hold.
    pub held: Resources,
    /// Calls that run.
    pub running: usize,
    /// Calls that wait.
    pub waiting: usize,
    /// Queues of functions that lack resources which others hold; not those
    /// that wait for their own function's maximum or for a start.
    pub contending: usize,
}

/// The same for one function.
#[derive(Debug, Clone)]
pub struct FunctionCapability {
    /// As deployed.
    pub spec: Arc<FunctionSpec>,
    /// Room for calls.
    pub places: Places,
    /// Calls that run.
    pub running: u32,
    /// How long a call runs.
    pub service: Estimate,
    /// Whether every instance that it may have is there, and none has a free
    /// place.
    pub full: bool,
    /// How long a start takes, smoothed; zero before the first.
    pub start: Duration,
    /// Calls answered since the node started.
    pub invocations: u64,
}

/// Whoever counts how asynchronous calls end.
type Observer = Box<dyn Fn(&Outcome) + Send + Sync>;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The node's key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A folder in the data directory cannot be used.
    #[error("open the {what} in the data directory")]
    Folder {
        /// Which.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// An executor did not start.
    #[error("start the executor {name}: {reason}")]
    Executor {
        /// Which.
        name: &'static str,
        /// Why not.
        reason: String,
    },
    /// What an earlier run kept cannot be taken up.
    #[error("take up what an earlier run kept: {0}")]
    Recover(String),
}

impl Node {
    /// Opens the data directory, starts the executors, and takes up what an
    /// earlier run left: deployed functions and accepted calls. Background
    /// work goes to the runtime that this is called on.
    pub async fn start(config: NodeConfig) -> Result<Node, NodeError> {
        let dir = config.data_dir.clone();
        let store_config = StoreConfig::from(&config.asynchronous);
        let opened = tokio::task::spawn_blocking(move || {
            let folder = |what| move |source| NodeError::Folder { what, source };
            // First, for its lock: nothing else may be touched without it.
            let (store, recovered) = Store::open(&dir, store_config)?;
            let key = identity::load_or_create(&dir)?;
            let artifacts = Artifacts::open(&dir.join("artifacts"), config.artifacts.clone())
                .map_err(folder("artifacts"))?;
            let secrets =
                SecretFolders::open(&dir.join("run").join("secrets")).map_err(folder("secrets"))?;
            Ok::<_, NodeError>((store, recovered, key, artifacts, secrets, config))
        });
        let (store, recovered, key, artifacts, secrets, config) = opened
            .await
            .map_err(|e| NodeError::Recover(e.to_string()))??;
        let resolver = Resolver::new();
        let id = key.public().to_peer_id().to_string();
        let executors = executor::all(&config, &id, resolver.clone())
            .map_err(|(name, reason)| NodeError::Executor { name, reason })?;
        let inner = Arc::new(Inner {
            id,
            key,
            clock: Clock::start(),
            scheduler: Mutex::new(Scheduler::new(
                config.capacity,
                &config.classes,
                config.max_calls,
                starts_max(),
            )),
            movable: AtomicUsize::new(0),
            elsewhere: AtomicU32::new(0),
            functions: DashMap::new(),
            by_key: DashMap::new(),
            placed: Notify::new(),
            untold: Notify::new(),
            instances: DashMap::new(),
            namespaces: Mutex::default(),
            executors,
            store,
            artifacts,
            secrets,
            callbacks: Callbacks::new(resolver, &config.asynchronous),
            backlog: Backlog::default(),
            changed: Notify::new(),
            freed: Notify::new(),
            ability_changes: AtomicU64::new(0),
            change: tokio::sync::Mutex::new(()),
            kept: crate::replay::Budget::default(),
            call_ended: Notify::new(),
            timers: Timers::default(),
            usage: Watching::default(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
            observer: OnceLock::new(),
            router: OnceLock::new(),
            config,
        });
        inner.recover_functions(recovered.functions, recovered.namespaces);
        inner.recover_calls(recovered.pending, recovered.callbacks);
        inner.backlog.set_copies(recovered.copies);
        inner.clone().keep_house();
        Ok(Node { inner })
    }

    /// This node's id.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// What it was told.
    pub fn config(&self) -> &NodeConfig {
        &self.inner.config
    }

    /// Accepts a call to be run later; it is on disk when this returns, here and
    /// at as many peers as its function asks for.
    pub async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        self.inner.submit(submission).await
    }

    /// What became of an accepted call; `None` when unknown or expired.
    pub async fn call(&self, id: CallId) -> Result<Option<CallState>, ChangeError> {
        self.inner.call_state(id).await
    }

    /// A function's log.
    pub fn log(&self, name: &FunctionName) -> Option<Arc<FunctionLog>> {
        Some(self.inner.functions.get(name)?.log.clone())
    }

    /// Has `observer` told how each asynchronous call ends, which nobody else
    /// waits for. The first observer stays.
    pub fn observe(&self, observer: impl Fn(&Outcome) + Send + Sync + 'static) {
        let _ = self.inner.observer.set(Box::new(observer));
    }

    /// Has `router` decide where asynchronous calls run. The first one stays.
    pub fn route(&self, router: Arc<dyn Router>) {
        let _ = self.inner.router.set(router);
    }

    /// The key that the node's id is of.
    pub fn key(&self) -> &Keypair {
        &self.inner.key
    }

    /// What time it is for everything that is timed here.
    pub fn clock(&self) -> Clock {
        self.inner.clock
    }

    /// What calls of this node keep for being sent again.
    pub fn kept(&self) -> &crate::replay::Budget {
        &self.inner.kept
    }

    /// A deployed function as it was deployed.
    pub fn spec(&self, name: &FunctionName) -> Option<Arc<FunctionSpec>> {
        let function = self.inner.functions.get(name)?;
        Some(function.current.load().spec.clone())
    }

    /// Calls of a function that were answered since the node started; `None` when
    /// it is not deployed here.
    pub fn calls_of(&self, name: &FunctionName) -> Option<u64> {
        let function = self.inner.functions.get(name)?;
        Some(function.invocations.load(Ordering::Relaxed))
    }

    /// How full it is of functions, or of their code, whichever is more: 1 when
    /// it takes no more.
    pub fn fullness(&self) -> f64 {
        let inner = &self.inner;
        let part = |of: u64, most: u64| of as f64 / most.max(1) as f64;
        let functions = part(
            inner.functions.len() as u64,
            inner.config.max_functions as u64,
        );
        let code = part(
            inner.artifacts.stored_bytes(),
            inner.config.artifacts.disk_bytes,
        );
        functions.max(code)
    }

    /// What it can do now.
    pub fn capability(&self) -> Capability {
        let scheduler = self.inner.scheduler();
        let admission = scheduler.admission();
        Capability {
            capacity: admission.capacity(),
            held: admission.held(),
            running: admission.running(),
            waiting: admission.waiting(),
            contending: admission.contending(),
        }
    }

    /// Waits until what it can do may have changed since this was last waited
    /// for. One at a time.
    pub async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// Waits until a call has ended here since this was last waited for. One at
    /// a time.
    pub async fn freed(&self) {
        self.inner.freed.notified().await;
    }

    /// Counts changes of what functions may need beside room and executors: a
    /// function that could not run here may be able to when this has changed.
    pub fn ability_changes(&self) -> u64 {
        self.inner.ability_changes.load(Ordering::Relaxed)
    }

    /// Bytes of code that it may still keep.
    pub fn code_room(&self) -> u64 {
        let artifacts = &self.inner.artifacts;
        let most = self.inner.config.artifacts.disk_bytes;
        most.saturating_sub(artifacts.stored_bytes())
    }

    /// A refusal of a call, and when to come again: after what it would have had
    /// to wait for; zero when nobody knows.
    pub fn refused(&self, reason: Refusal, expected: Duration) -> InvokeError {
        invoke::refused(reason, expected)
    }

    /// Names of its executors that work.
    pub fn executors(&self) -> Vec<&'static str> {
        let executors = self.inner.executors.iter();
        let working = executors.filter(|executor| executor.works());
        working.map(|executor| executor.name()).collect()
    }

    /// Functions of which there is something to tell: they have instances or
    /// calls here, or no place left. At most `most`, those called most.
    pub fn function_capabilities(&self, most: usize) -> Vec<FunctionCapability> {
        let busy: Vec<FunctionKey> = {
            let scheduler = self.inner.scheduler();
            scheduler.admission().busy_functions().collect()
        };
        let busy = busy.iter().filter_map(|key| self.inner.by_key.get(key));
        let busy = busy.filter(|function| !function.is_trial);
        let mut functions: Vec<Arc<Function>> = busy.map(|f| f.value().clone()).collect();
        if functions.len() > most {
            functions.sort_by_key(|f| std::cmp::Reverse(f.invocations.load(Ordering::Relaxed)));
            functions.truncate(most);
        }
        let mut able: Vec<FunctionCapability> = Vec::with_capacity(functions.len());
        able.extend(functions.iter().filter_map(|function| {
            let version = function.current.load();
            if version.state() != FunctionState::Ready || !version.executor.works() {
                return None;
            }
            let (places, gauges, full) = {
                let scheduler = self.inner.scheduler();
                let admission = scheduler.admission();
                let places = admission.places(function.key)?;
                let full = admission.is_full(function.key);
                (places, admission.gauges(function.key)?, full)
            };
            Some(FunctionCapability {
                spec: version.spec.clone(),
                places,
                running: gauges.running,
                service: function.known.service(),
                full,
                start: function.known.start(),
                invocations: function.invocations.load(Ordering::Relaxed),
            })
        }));
        able.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        able
    }

    /// For how many calls of a function there is room; `None` when it is not
    /// deployed here.
    pub fn places(&self, name: &FunctionName) -> Option<Places> {
        let key = self.inner.functions.get(name)?.key;
        self.inner.scheduler().admission().places(key)
    }

    /// How long calls of a function run here; `None` when it is not deployed
    /// here. Takes no lock.
    pub fn service(&self, name: &FunctionName) -> Option<Estimate> {
        let function = self.inner.functions.get(name)?;
        Some(function.known.service())
    }

    /// How long a start of a function takes here; `None` before one was measured.
    /// Takes no lock.
    pub fn start_time(&self, name: &FunctionName) -> Option<Duration> {
        let expected = self.inner.functions.get(name)?.known.start();
        (!expected.is_zero()).then_some(expected)
    }

    /// Whether any call waits for a place.
    pub fn has_waiting(&self) -> bool {
        self.inner.scheduler().admission().waiting() > 0
    }

    /// Whether a function has every instance here that it may have, and none
    /// has a free place; `None` when it is not deployed here.
    pub fn function_full(&self, name: &FunctionName) -> Option<bool> {
        let key = self.inner.functions.get(name)?.key;
        Some(self.inner.scheduler().admission().is_full(key))
    }

    /// The default deadline of a class: the one of that name, or the first.
    pub fn class_deadline(&self, class: Option<&str>) -> Option<Duration> {
        let mut classes = self.inner.config.classes.iter();
        let found = match class {
            Some(name) => classes.find(|class| class.name == name),
            None => classes.next(),
        };
        found?.deadline
    }

    /// The same for a call of a function, whose first class is meant when none
    /// is named; `None` also when it is not deployed here.
    pub fn default_deadline(&self, name: &FunctionName, class: Option<&str>) -> Option<Duration> {
        if class.is_some() {
            return self.class_deadline(class);
        }
        let function = self.inner.functions.get(name)?;
        let first = function.current.load().classes[0];
        self.inner.config.classes[first].deadline
    }

    /// The size in bytes of an artifact that the node has.
    pub fn artifact(&self, digest: &Digest) -> Option<u64> {
        self.inner.artifacts.size(digest)
    }

    /// Where the bytes of an artifact lie; `None` when it is not here.
    pub fn artifact_path(&self, digest: &Digest) -> Option<std::path::PathBuf> {
        let artifacts = &self.inner.artifacts;
        artifacts.has(digest).then(|| artifacts.path(digest))
    }

    /// What lies where in an image archive that is here.
    pub async fn layers(&self, digest: &Digest) -> Vec<Layer> {
        let (artifacts, digest) = (self.inner.artifacts.clone(), *digest);
        let read = tokio::task::spawn_blocking(move || layers::layers(&artifacts, &digest));
        let read = read.await.ok().flatten();
        read.map(|holder| holder.layers).unwrap_or_default()
    }

    /// Those of some layers that lie in other artifacts of this node, and the
    /// rest.
    pub async fn find_layers(&self, mut wanted: Vec<Layer>) -> (Vec<layers::Found>, Vec<Layer>) {
        let artifacts = self.inner.artifacts.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let found = layers::find(&artifacts, &mut wanted);
            (found, wanted)
        });
        looked.await.unwrap_or_default()
    }

    /// Those of some layers that executors have. Each is written to disk first,
    /// so that this takes a while: about as long as it takes to copy them twice.
    pub async fn export_layers(&self, mut wanted: Vec<Layer>) -> Vec<layers::Found> {
        let inner = &self.inner;
        layers::export(&inner.artifacts, &inner.executors, &mut wanted).await
    }

    /// Whether an executor that works here runs such functions.
    pub fn has_executor_for(&self, spec: &FunctionSpec) -> bool {
        let executor = self.inner.executor_for(spec);
        executor.is_ok_and(|executor| executor.works())
    }

    /// What an artifact is, from its first bytes; `None` when the node does not
    /// have it, or it is nothing that Weir knows.
    pub async fn artifact_kind(&self, digest: &Digest) -> Option<ArtifactKind> {
        let (artifacts, digest) = (self.inner.artifacts.clone(), *digest);
        let read = tokio::task::spawn_blocking(move || artifacts.kind(&digest));
        read.await.ok()?.ok()?
    }

    /// Keeps an artifact though no function of this node has it, until
    /// [`Node::unpin_artifact`]; `false` when it is not here.
    pub fn pin_artifact(&self, digest: &Digest) -> bool {
        self.inner.artifacts.retain(digest)
    }

    /// Ends that.
    pub fn unpin_artifact(&self, digest: &Digest) {
        let now = std::time::SystemTime::now();
        self.inner.artifacts.release(digest, now);
    }

    /// Removes an artifact that nothing refers to, at once.
    pub async fn discard_artifact(&self, digest: Digest) {
        let inner = self.inner.clone();
        let discarding = move || {
            if inner.artifacts.discard(&digest) {
                for executor in &inner.executors {
                    executor.forget(&digest);
                }
            }
        };
        // What stays is swept in time.
        let _ = tokio::task::spawn_blocking(discarding).await;
    }

    /// Takes in an artifact; `true` when it was new.
    pub async fn put_artifact(
        &self,
        digest: Digest,
        length: Option<u64>,
        body: Body,
    ) -> Result<bool, PutError> {
        let put = self.inner.artifacts.put(digest, length, body).await?;
        Ok(match put {
            Put::Created => true,
            Put::Existed => false,
        })
    }

    /// Namespaces by name: the default one, those made on purpose, and those
    /// that functions are in.
    pub fn namespaces(&self) -> BTreeMap<Namespace, NamespaceInfo> {
        let mut all = self.inner.namespaces().clone();
        all.entry(Namespace::default()).or_default();
        for function in &self.inner.functions {
            all.entry(function.key().namespace.clone()).or_default();
        }
        all
    }

    /// Makes a namespace.
    pub async fn create_namespace(
        &self,
        name: Namespace,
        info: NamespaceInfo,
    ) -> Result<(), ChangeError> {
        if self.namespaces().contains_key(&name) {
            return Err(ChangeError::Exists(format!(
                "namespace {name} exists already"
            )));
        }
        self.inner.put_namespace(name, info).await
    }

    /// Changes what is said of a namespace.
    pub async fn update_namespace(
        &self,
        name: Namespace,
        info: NamespaceInfo,
    ) -> Result<(), ChangeError> {
        if !self.namespaces().contains_key(&name) {
            return Err(ChangeError::NotFound(format!(
                "namespace {name} does not exist"
            )));
        }
        self.inner.put_namespace(name, info).await
    }

    /// Removes an empty namespace.
    pub async fn remove_namespace(&self, name: &Namespace) -> Result<(), ChangeError> {
        if !self.namespaces().contains_key(name) {
            return Err(ChangeError::NotFound(format!(
                "namespace {name} does not exist"
            )));
        }
        if *name == Namespace::default() {
            return Err(ChangeError::Invalid(
                "the default namespace cannot be removed".to_owned(),
            ));
        }
        let secrets = self.secrets(name).await?.len();
        let functions = self.functions(Some(name)).len();
        if functions + secrets > 0 {
            return Err(ChangeError::Exists(format!(
                "namespace {name} still holds {functions} functions and {secrets} secrets: remove \
                 them first"
            )));
        }
        let removed = self.inner.store.remove_namespace(name).await;
        removed.map_err(|source| stored("remove the namespace", source))?;
        self.inner.namespaces().remove(name);
        Ok(())
    }

    /// Names of secrets, never values.
    pub async fn secrets(&self, namespace: &Namespace) -> Result<Vec<SecretName>, ChangeError> {
        let secrets = self.inner.store.secrets(namespace).await;
        secrets.map_err(|source| stored("list secrets", source))
    }

    /// Makes a secret that is not there yet.
    pub async fn create_secret(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: Vec<u8>,
    ) -> Result<(), ChangeError> {
        let _change = self.inner.change.lock().await;
        if self.secrets(&namespace).await?.contains(&name) {
            let text = format!("secret {name} exists already: replace it with PUT");
            return Err(ChangeError::Exists(text));
        }
        self.inner.put_secret(namespace, name, value).await?;
        self.inner.abilities_changed();
        Ok(())
    }

    /// Replaces a secret's value. Functions that name it get new instances;
    /// calls that run end with the old value.
    pub async fn replace_secret(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: Vec<u8>,
    ) -> Result<(), ChangeError> {
        let _change = self.inner.change.lock().await;
        if !self.secrets(&namespace).await?.contains(&name) {
            return Err(no_secret(&namespace, &name));
        }
        self.inner
            .put_secret(namespace.clone(), name.clone(), value)
            .await?;
        self.inner.renew_instances(&namespace, &name);
        self.inner.abilities_changed();
        Ok(())
    }

    /// Removes a secret. Functions that name it cannot be started any more.
    pub async fn remove_secret(
        &self,
        namespace: &Namespace,
        name: &SecretName,
    ) -> Result<(), ChangeError> {
        let _change = self.inner.change.lock().await;
        let removed = self.inner.store.remove_secret(namespace, name).await;
        match removed.map_err(|source| stored("remove the secret", source))? {
            true => {
                // Instances that are there have its value: they take no new calls.
                self.inner.renew_instances(namespace, name);
                self.inner.abilities_changed();
                Ok(())
            }
            false => Err(no_secret(namespace, name)),
        }
    }

    /// The node at this moment.
    pub fn status(&self) -> NodeStatus {
        let inner = &self.inner;
        let (held, running, waiting) = {
            let scheduler = inner.scheduler();
            let admission = scheduler.admission();
            let classes = inner
                .config
                .classes
                .iter()
                .enumerate()
                .map(|(at, class)| ClassStatus {
                    name: class.name.clone(),
                    waiting: admission.class_waiting(at),
                    bound: class.queue,
                });
            (admission.held(), admission.running(), classes.collect())
        };
        NodeStatus {
            node: inner.id.clone(),
            version: env!("CARGO_PKG_VERSION"),
            architecture: std::env::consts::ARCH,
            capacity: inner.config.capacity,
            held,
            running,
            max_calls: inner.config.max_calls,
            classes: waiting,
            functions: inner.functions.len(),
            backlog: inner.backlog.len(),
            max_backlog: inner.config.asynchronous.backlog,
            results: inner.backlog.results(),
            artifact_bytes: inner.artifacts.stored_bytes(),
            executors: inner
                .executors
                .iter()
                .map(|e| (e.name(), e.describe()))
                .collect(),
            draining: inner.stop.is_cancelled(),
        }
    }

    /// Refuses new work and waits, at most `grace`, for what runs. Accepted
    /// calls that have not ended then stay on disk for the next start.
    pub async fn drain(&self, grace: Duration) {
        self.inner.stop.cancel();
        self.inner.scheduler().drain();
        let ended = async {
            loop {
                let ended = self.inner.call_ended.notified();
                let (running, waiting) = {
                    let scheduler = self.inner.scheduler();
                    let admission = scheduler.admission();
                    (admission.running(), admission.waiting())
                };
                if running == 0 && waiting == 0 {
                    break;
                }
                ended.await;
            }
            self.inner.tasks.close();
            self.inner.tasks.wait().await;
        };
        if tokio::time::timeout(grace, ended).await.is_err() {
            let running = self.inner.scheduler().admission().running();
            tracing::warn!(running, "calls still ran at the end of the grace period");
        }
        self.inner.cut.cancel();
        for executor in &self.inner.executors {
            if tokio::time::timeout(CLOSE, executor.close()).await.is_err() {
                let executor = executor.name();
                tracing::warn!(
                    executor,
                    "did not end in time; its remains go at the next start"
                );
            }
        }
    }
}

impl Inner {
    fn scheduler(&self) -> Locked<'_, Waiter> {
        // A panic inside would be a broken promise of the core; each of its
        // changes leaves sound numbers behind, so serving on is better.
        let scheduler = self.scheduler.lock();
        let scheduler = scheduler.unwrap_or_else(PoisonError::into_inner);
        Locked::new(scheduler, &self.timers)
    }

    fn namespaces(&self) -> MutexGuard<'_, BTreeMap<Namespace, NamespaceInfo>> {
        self.namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn abilities_changed(&self) {
        self.ability_changes.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    async fn put_namespace(&self, name: Namespace, info: NamespaceInfo) -> Result<(), ChangeError> {
        let record = NamespaceRecord {
            annotations: info.annotations.clone(),
            labels: info.labels.clone(),
        };
        let kept = self.store.put_namespace(&name, &record).await;
        kept.map_err(|source| stored("keep the namespace", source))?;
        self.namespaces().insert(name, info);
        Ok(())
    }

    async fn put_secret(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: Vec<u8>,
    ) -> Result<(), ChangeError> {
        let kept = self
            .store
            .put_secret(&namespace, &name, &SecretValue::new(value))
            .await;
        kept.map_err(|source| stored("keep the secret", source))
    }
}

/// Instances that are started at once: about one per core, so that each is as
/// quick as it can be.
fn starts_max() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .max(2)
}

fn no_secret(namespace: &Namespace, name: &SecretName) -> ChangeError {
    ChangeError::NotFound(format!(
        "secret {name} does not exist in namespace {namespace}"
    ))
}

/// A failed write as an answer: a full disk and a bad value are the caller's
/// to know about.
fn stored(what: &'static str, source: StoreError) -> ChangeError {
    match source {
        StoreError::Full | StoreError::BacklogFull => ChangeError::Full(source.to_string()),
        StoreError::TooLarge { .. } => ChangeError::Invalid(source.to_string()),
        StoreError::Unreadable { .. } | StoreError::Closed | StoreError::Failed(_) => {
            ChangeError::Store {
                what,
                source: Box::new(source),
            }
        }
    }
}
