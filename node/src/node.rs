//! The way in: one node, and everything that may be asked of it.
//!
//! This is the shell around the core in [`crate::scheduler`]: it holds the
//! state machine behind one short lock, does what its actions say, and keeps
//! what must survive in the [store](crate::store). Each part of it lives in a
//! file of its own: deployed functions, instances, the path of one invocation,
//! the backlog of asynchronous calls, and what is done now and then.

mod answering;
mod backlog;
mod code;
mod copies;
mod functions;
mod housekeeping;
mod instances;
mod invoke;
mod look;
mod namespaces;
mod rollout;
mod route;
mod secrets;
mod signal;
mod status;
mod submission;
mod timers;
mod trial;
mod usage;
mod version;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;
use libp2p_identity::Keypair;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::backlog::Backlog;
use self::functions::Function;
use self::instances::{Live, Waiter};
pub use self::invoke::{Declined, Moves};
pub use self::look::{Found, Look, Reservation, Wants};
pub use self::namespaces::NamespaceInfo;
pub use self::rollout::{RolledBack, RolledOut, Rollout};
pub use self::route::{Copied, Router};
use self::signal::{Signal, WantedSignal};
pub use self::status::{
    BusyFunction, Capability, ClassStatus, FunctionCapability, FunctionState, FunctionStatus,
    NextStatus, NodeStatus,
};
pub use self::submission::{CallResult, CallState, Submission, SubmitError};
use self::timers::{Locked, Timers};
use self::usage::Watching;
use crate::admission::{FunctionKey, InstanceId};
use crate::artifact::Artifacts;
use crate::callback::Callbacks;
use crate::clock::Clock;
use crate::config::NodeConfig;
use crate::executor::{self, Executor};
use crate::function::FunctionSpec;
use crate::id::{FunctionName, Namespace};
use crate::identity::{self, IdentityError};
use crate::invocation::{InvokeError, Outcome, Refusal};
use crate::logs::FunctionLog;
use crate::resolve::Resolver;
use crate::scheduler::Scheduler;
use crate::secret::SecretFolders;
use crate::store::{OpenError, Store, StoreConfig, StoreError};

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
    changed: Signal,
    /// A call has ended, or resources have become free otherwise.
    freed: WantedSignal,
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
            changed: Signal::default(),
            freed: WantedSignal::default(),
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

    /// A function's log.
    pub fn log(&self, name: &FunctionName) -> Option<Arc<FunctionLog>> {
        Some(self.inner.functions.get(name)?.log.clone())
    }

    /// Has `observer` told how each asynchronous call ends, which nobody else
    /// waits for. The first observer stays.
    pub fn observe(&self, observer: impl Fn(&Outcome) + Send + Sync + 'static) {
        let _ = self.inner.observer.set(Box::new(observer));
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

    /// Waits until what it can do may have changed since this was last waited
    /// for. One at a time.
    pub async fn changed(&self) {
        self.inner.changed.wait().await;
    }

    /// Waits until a call has ended here since this was last waited for, while
    /// that [is wanted](Node::want_freed). One at a time.
    pub async fn freed(&self) {
        self.inner.freed.wait().await;
    }

    /// Somebody waits for calls to end here, until [`Node::want_freed_no_more`]:
    /// what has ended before is to be looked at after this.
    pub fn want_freed(&self) {
        self.inner.freed.want();
    }

    /// Takes one [`Node::want_freed`] back.
    pub fn want_freed_no_more(&self) {
        self.inner.freed.want_no_more();
    }

    /// Counts changes of what functions may need beside room and executors: a
    /// function that could not run here may be able to when this has changed.
    pub fn ability_changes(&self) -> u64 {
        self.inner.ability_changes.load(Ordering::Relaxed)
    }

    /// A refusal of a call, and when to come again: after what it would have had
    /// to wait for; zero when nobody knows.
    pub fn refused(&self, reason: Refusal, expected: Duration) -> InvokeError {
        invoke::refused(reason, expected)
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
        Locked::new(self.scheduler.lock(), &self.timers)
    }

    fn abilities_changed(&self) {
        self.ability_changes.fetch_add(1, Ordering::Relaxed);
        self.changed.tell();
    }
}

/// Instances that are started at once: about one per core, so that each is as
/// quick as it can be.
fn starts_max() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .max(2)
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
