//! Deployed functions: deploy, update, scale, remove, list.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::rate::Rate;
use super::{
    ChangeError, DeployMode, FunctionState, FunctionStatus, Inner, NamespaceInfo, Node, stored,
};
use crate::admission::FunctionKey;
use crate::estimate::{Estimate, Samples, moving_mean};
use crate::executor::{Code, Executor, StartError};
use crate::function::FunctionSpec;
use crate::id::{FunctionName, Namespace, SecretName};
use crate::logs::FunctionLog;
use crate::store::{FunctionRecord, NamespaceRecord};

/// First and longest pause before code is made ready again for which something
/// is missing on this node.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A name under which something is deployed. It stays the same over updates.
pub(super) struct Function {
    pub(super) key: FunctionKey,
    pub(super) current: ArcSwap<Version>,
    pub(super) log: Arc<FunctionLog>,
    pub(super) invocations: AtomicU64,
    /// Calls of the last second, where its label bounds them.
    pub(super) rate: Rate,
    /// How long its calls run.
    pub(super) service: Service,
    /// How long its starts take.
    pub(super) start: Mean,
}

/// How long calls of a function run. It is read on every call's way without a
/// lock, and the samples are kept from the first one on.
#[derive(Debug, Default)]
pub(super) struct Service {
    mean: AtomicU64,
    median: AtomicU64,
    p95: AtomicU64,
    samples: AtomicU32,
    learned: Mutex<Option<Box<Samples>>>,
}

impl Service {
    /// Learns how long a call ran.
    pub(super) fn learn(&self, sample: Duration) {
        self.change(|samples| samples.learn(sample));
    }

    /// Learns that a call ran longer than this.
    pub(super) fn learn_at_least(&self, sample: Duration) {
        self.change(|samples| samples.learn_at_least(sample));
    }

    /// Forgets what was learned: calls do not run as they did.
    pub(super) fn forget(&self) {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        *learned = None;
        for part in [&self.mean, &self.median, &self.p95] {
            part.store(0, Ordering::Relaxed);
        }
        self.samples.store(0, Ordering::Relaxed);
    }

    fn change(&self, learn: impl FnOnce(&mut Samples)) {
        // Two that end at the same moment tell the same: one of them will do.
        let Ok(mut learned) = self.learned.try_lock() else {
            return;
        };
        let samples = learned.get_or_insert_default();
        learn(samples);
        let estimate = samples.estimate();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.mean.store(nanos(estimate.mean), Ordering::Relaxed);
        self.median.store(nanos(estimate.median), Ordering::Relaxed);
        self.p95.store(nanos(estimate.p95), Ordering::Relaxed);
        self.samples.store(estimate.samples, Ordering::Relaxed);
    }

    /// What is known.
    pub(super) fn estimate(&self) -> Estimate {
        let time = |nanos: &AtomicU64| Duration::from_nanos(nanos.load(Ordering::Relaxed));
        Estimate {
            mean: time(&self.mean),
            median: time(&self.median),
            p95: time(&self.p95),
            samples: self.samples.load(Ordering::Relaxed),
        }
    }
}

/// A time that is learned from samples, as a moving mean.
#[derive(Debug, Default)]
pub(super) struct Mean(AtomicU64);

impl Mean {
    pub(super) fn learn(&self, sample: Duration) {
        let sample = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX);
        let next = |mean| Some(moving_mean(mean, sample));
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// Zero before the first sample.
    pub(super) fn expected(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// One deployment of a function.
pub(super) struct Version {
    pub(super) spec: Arc<FunctionSpec>,
    pub(super) code: Code,
    pub(super) executor: Arc<dyn Executor>,
    /// QoS classes that callers may name, as indices; the first is the default.
    pub(super) classes: Vec<usize>,
    /// Calls in a second that this node may run of it.
    pub(super) max_rate: Option<u32>,
    version: u64,
    created_at: Timestamp,
    state: Mutex<FunctionState>,
    /// Held by whoever makes the code ready, so that it is done once.
    preparing: tokio::sync::Mutex<()>,
}

impl Version {
    pub(super) fn state(&self) -> FunctionState {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_state(&self, state: FunctionState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Makes the code ready to be started, unless that was done or is in vain.
    pub(super) async fn prepare(&self) -> Result<(), StartError> {
        let _one = self.preparing.lock().await;
        match self.state() {
            FunctionState::Ready => return Ok(()),
            FunctionState::Failed(reason) => return Err(StartError::Code(reason)),
            FunctionState::Preparing | FunctionState::Waiting(_) => {}
        }
        let prepared = self
            .executor
            .prepare(self.spec.clone(), self.code.clone())
            .await;
        match &prepared {
            Ok(()) => self.set_state(FunctionState::Ready),
            Err(StartError::Code(reason)) => {
                tracing::warn!(function = %self.spec.name, %reason, "code cannot be made ready");
                self.set_state(FunctionState::Failed(reason.clone()));
            }
            // The node's fault, not the code's.
            Err(StartError::Node(reason)) => {
                let waiting = FunctionState::Waiting(reason.clone());
                if self.state() != waiting {
                    tracing::error!(function = %self.spec.name, %reason, "cannot make code ready");
                    self.set_state(waiting);
                }
            }
        }
        prepared
    }
}

impl Node {
    /// Deploys or updates a function. Its artifact must be here. Returns once
    /// the code has been checked and the deployment is on disk; compiling goes
    /// on in the background.
    pub async fn deploy(&self, spec: FunctionSpec, mode: DeployMode) -> Result<(), ChangeError> {
        let inner = &self.inner;
        let spec = spec.clamped();
        let name = spec.name.clone();
        let unknown = || {
            ChangeError::NotFound(format!(
                "function {} is not deployed: nothing to update (create it with POST)",
                name.qualified()
            ))
        };
        if mode == DeployMode::Replace && !inner.functions.contains_key(&name) {
            return Err(unknown());
        }
        inner.check_bounds(&spec)?;
        let digest = spec.code.artifact().copied();
        if let Some(digest) = &digest
            && !inner.artifacts.retain(digest)
        {
            return Err(ChangeError::Invalid(format!(
                "artifact {digest} is not on this node: upload it to /weir/v1/artifacts/{} first",
                digest.hex()
            )));
        }
        let reference = Reference {
            inner: inner.clone(),
            digest,
        };
        let executor = inner.executor_for(&spec)?;
        let code = inner.code(&spec);
        let spec = {
            let (executor, code) = (executor.clone(), code.clone());
            let checked =
                tokio::task::spawn_blocking(move || executor.check(&spec, &code).map(|()| spec));
            let checked = checked
                .await
                .map_err(|e| ChangeError::Invalid(e.to_string()))?;
            checked.map_err(|unfit| ChangeError::Invalid(unfit.to_string()))?
        };

        let _change = inner.change.lock().await;
        inner.check_secrets(&spec).await?;
        // Looked at again under the lock: another change may have come first.
        let existing = inner.functions.get(&name).map(|function| function.clone());
        let (version, created_at) = match (&existing, mode) {
            (None, DeployMode::Replace) => return Err(unknown()),
            (None, DeployMode::CreateOrReplace) => (1, Timestamp::now()),
            (Some(function), _) => {
                let current = function.current.load();
                (current.version + 1, current.created_at)
            }
        };
        if existing.is_none() && inner.functions.len() >= inner.config.max_functions {
            return Err(ChangeError::Full(format!(
                "this node has {} functions, the most it takes (functions.max)",
                inner.config.max_functions
            )));
        }
        inner.check_fits(&spec, &executor)?;
        let record = FunctionRecord {
            spec,
            version,
            created_at,
        };
        let kept = inner.store.put_function(&record).await;
        kept.map_err(|source| stored("keep the function", source))?;
        let version = Arc::new(inner.version(record, code, executor));
        reference.keep();
        match existing {
            Some(function) => {
                let old = function.current.swap(version.clone());
                inner.release(&old.spec);
                inner.admit_update(&function, &version);
            }
            None => inner.admit_new(&version),
        }
        // The client waits, if it wants to, by looking at the state.
        inner.make_ready(vec![version]);
        Ok(())
    }

    /// Whether a function asks for no more than this node gives, as far as that
    /// shows without its code.
    ///
    /// # Errors
    /// What is too much, and by which setting.
    pub fn check(&self, spec: &FunctionSpec) -> Result<(), ChangeError> {
        let inner = &self.inner;
        inner.check_bounds(spec)?;
        let executor = inner.executor_for(spec)?;
        let allowed = executor.allows(spec);
        allowed.map_err(|unfit| ChangeError::Invalid(unfit.to_string()))?;
        inner.check_fits(spec, &executor)
    }

    /// Removes a function. Running calls end; waiting ones are answered 404.
    pub async fn remove(&self, name: &FunctionName) -> Result<(), ChangeError> {
        let inner = &self.inner;
        let _change = inner.change.lock().await;
        if !inner.functions.contains_key(name) {
            return Err(not_found(name));
        }
        let removed = inner.store.remove_function(name).await;
        removed.map_err(|source| stored("remove the function", source))?;
        let Some((_, function)) = inner.functions.remove(name) else {
            return Err(not_found(name));
        };
        let mut actions = Vec::new();
        inner.admission().remove(
            name.namespace.as_str(),
            function.key,
            inner.clock.now(),
            &mut actions,
        );
        inner.perform(actions, None);
        inner.by_key.remove(&function.key);
        inner.release(&function.current.load().spec);
        Ok(())
    }

    /// Keeps `replicas` instances (bounded by the function's maximum) until the
    /// next deployment or restart; 0 lets all go until the next call.
    pub async fn scale(&self, name: &FunctionName, replicas: u32) -> Result<(), ChangeError> {
        let inner = &self.inner;
        let _change = inner.change.lock().await;
        let key = inner
            .functions
            .get(name)
            .ok_or_else(|| not_found(name))?
            .key;
        let mut actions = Vec::new();
        inner
            .admission()
            .scale(key, replicas, inner.clock.now(), &mut actions);
        inner.perform(actions, None);
        Ok(())
    }

    /// One function.
    pub fn function(&self, name: &FunctionName) -> Option<FunctionStatus> {
        let function = self.inner.functions.get(name)?.clone();
        Some(self.inner.describe(&function))
    }

    /// All functions of a namespace, or of all, by name.
    pub fn functions(&self, namespace: Option<&Namespace>) -> Vec<FunctionStatus> {
        let wanted = |name: &FunctionName| namespace.is_none_or(|n| name.namespace == *n);
        let functions = self
            .inner
            .functions
            .iter()
            .filter(|entry| wanted(entry.key()));
        // Collected before the numbers are read, so that no shard of the map
        // is held while the lock of admission is.
        let functions: Vec<Arc<Function>> = functions.map(|entry| entry.value().clone()).collect();
        let mut all: Vec<FunctionStatus> = functions
            .iter()
            .map(|function| self.inner.describe(function))
            .collect();
        all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        all
    }
}

/// An artifact held while its function is being deployed.
struct Reference {
    inner: Arc<Inner>,
    digest: Option<crate::id::Digest>,
}

impl Reference {
    /// Leaves the count to the function.
    fn keep(mut self) {
        self.digest = None;
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        if let Some(digest) = self.digest {
            self.inner.artifacts.release(&digest, SystemTime::now());
        }
    }
}

fn not_found(name: &FunctionName) -> ChangeError {
    ChangeError::NotFound(format!(
        "function {} is not deployed on this node",
        name.qualified()
    ))
}

impl Inner {
    /// Takes up what an earlier run had deployed. Nothing is compiled or
    /// loaded here, so that a node with many functions answers at once.
    pub(super) fn recover_functions(
        self: &Arc<Self>,
        functions: Vec<FunctionRecord>,
        namespaces: Vec<(Namespace, NamespaceRecord)>,
    ) {
        *self.namespaces() = namespaces
            .into_iter()
            .map(
                |(
                    name,
                    NamespaceRecord {
                        annotations,
                        labels,
                    },
                )| {
                    (
                        name,
                        NamespaceInfo {
                            annotations,
                            labels,
                        },
                    )
                },
            )
            .collect();
        let mut versions = Vec::with_capacity(functions.len());
        for record in functions {
            let name = record.spec.name.clone();
            let executor = match self.executor_for(&record.spec) {
                Ok(executor) => executor,
                Err(error) => {
                    tracing::error!(function = %name, %error, "function is not taken up");
                    continue;
                }
            };
            let code = self.code(&record.spec);
            let artifact = record.spec.code.artifact();
            let present = artifact.is_none_or(|digest| self.artifacts.retain(digest));
            let version = Arc::new(self.version(record, code, executor));
            if !present {
                let reason = "its artifact is gone from this node: deploy it again".to_owned();
                version.set_state(FunctionState::Failed(reason));
            }
            self.admit_new(&version);
            versions.push(version);
        }
        self.make_ready(versions);
    }

    /// Makes the code of functions ready in the background, one after the other,
    /// and those again for which something is missing on this node.
    fn make_ready(self: &Arc<Self>, mut versions: Vec<Arc<Version>>) {
        let inner = self.clone();
        let making = async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let mut waiting = Vec::new();
                for version in versions {
                    let prepared = version.prepare().await;
                    inner.changed.notify_one();
                    if matches!(prepared, Err(StartError::Node(_))) {
                        waiting.push(version);
                    }
                }
                tokio::time::sleep(pause).await;
                waiting.retain(|version| inner.is_current(version));
                if waiting.is_empty() {
                    return;
                }
                versions = waiting;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        };
        let stop = self.stop.clone();
        self.tasks.spawn_on(
            async move {
                let _ = stop.run_until_cancelled(making).await;
            },
            &self.runtime,
        );
    }

    fn is_current(&self, version: &Arc<Version>) -> bool {
        let function = self.functions.get(&version.spec.name);
        function.is_some_and(|function| Arc::ptr_eq(&function.current.load(), version))
    }

    fn version(&self, record: FunctionRecord, code: Code, executor: Arc<dyn Executor>) -> Version {
        Version {
            classes: self.classes(&record.spec),
            max_rate: record.spec.max_rate(),
            spec: Arc::new(record.spec),
            code,
            executor,
            version: record.version,
            created_at: record.created_at,
            state: Mutex::new(FunctionState::Preparing),
            preparing: tokio::sync::Mutex::new(()),
        }
    }

    /// The function's classes as indices. Names that the node does not know
    /// any more are left out; deploying with one is an error.
    fn classes(&self, spec: &FunctionSpec) -> Vec<usize> {
        let find = |name: &String| self.config.classes.iter().position(|c| c.name == *name);
        let classes: Vec<usize> = spec.classes.iter().filter_map(find).collect();
        if classes.is_empty() { vec![0] } else { classes }
    }

    fn code(&self, spec: &FunctionSpec) -> Code {
        Code {
            artifact: spec
                .code
                .artifact()
                .map(|digest| self.artifacts.path(digest)),
            kind: spec.kind,
        }
    }

    /// Lets go of the artifact of a function that is no more.
    fn release(&self, spec: &FunctionSpec) {
        if let Some(digest) = spec.code.artifact() {
            self.artifacts.release(digest, SystemTime::now());
        }
    }

    pub(super) fn executor_for(
        &self,
        spec: &FunctionSpec,
    ) -> Result<Arc<dyn Executor>, ChangeError> {
        let found = self
            .executors
            .iter()
            .find(|executor| executor.accepts(spec.kind));
        found.cloned().ok_or_else(|| {
            ChangeError::Invalid(format!(
                "no executor of this node runs {:?} artifacts; it has: {}",
                spec.kind,
                self.executors
                    .iter()
                    .map(|e| e.name())
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
        })
    }

    fn check_bounds(&self, spec: &FunctionSpec) -> Result<(), ChangeError> {
        let longest = self.config.max_timeout;
        if spec.timeout.is_zero() || spec.timeout > longest {
            return Err(ChangeError::Invalid(format!(
                "its timeout of {} is out of range: it must be above 0 and at most {} \
                 (functions.max-timeout)",
                humantime::format_duration(spec.timeout),
                humantime::format_duration(longest)
            )));
        }
        if let Some(max) = spec.max
            && (max == 0 || max < spec.min)
        {
            let text = format!(
                "the maximum of {max} must be at least 1 and the minimum {}",
                spec.min
            );
            return Err(ChangeError::Invalid(text));
        }
        if spec.concurrency == Some(0) {
            return Err(ChangeError::Invalid(
                "the concurrency must be at least 1".to_owned(),
            ));
        }
        let known = |name: &&String| !self.config.classes.iter().any(|c| c.name == **name);
        if let Some(unknown) = spec.classes.iter().find(known) {
            let names: Vec<&str> = self
                .config
                .classes
                .iter()
                .map(|c| c.name.as_str())
                .collect();
            let text = format!(
                "unknown QoS class {unknown:?}; this node has: {}",
                names.join(", ")
            );
            return Err(ChangeError::Invalid(text));
        }
        Ok(())
    }

    async fn check_secrets(&self, spec: &FunctionSpec) -> Result<(), ChangeError> {
        if spec.secrets.is_empty() {
            return Ok(());
        }
        let namespace = &spec.name.namespace;
        let there = self.store.secrets(namespace).await;
        let there = there.map_err(|source| stored("look for secrets", source))?;
        match spec.secrets.iter().find(|name| !there.contains(name)) {
            None => Ok(()),
            Some(absent) => Err(ChangeError::Invalid(format!(
                "secret {absent} does not exist in namespace {namespace}: create it first with \
                 `weir secret create {absent}` (POST /system/secrets)"
            ))),
        }
    }

    /// Gives the functions that name a secret new instances, which see its
    /// new value.
    pub(super) fn renew_instances(self: &Arc<Self>, namespace: &Namespace, secret: &SecretName) {
        let uses = |function: &Arc<Function>| {
            let version = function.current.load();
            version.spec.name.namespace == *namespace && version.spec.secrets.contains(secret)
        };
        let functions: Vec<Arc<Function>> = self
            .functions
            .iter()
            .map(|entry| entry.value().clone())
            .filter(uses)
            .collect();
        for function in functions {
            self.admit_update(&function, &function.current.load_full());
        }
    }

    /// Refuses what could never run here, before anything is kept.
    fn check_fits(
        &self,
        spec: &FunctionSpec,
        executor: &Arc<dyn Executor>,
    ) -> Result<(), ChangeError> {
        let profile = executor.profile(spec);
        if (profile.instance + profile.call).fits(self.config.capacity) {
            return Ok(());
        }
        let capacity = self.config.capacity;
        let needs = profile.instance + profile.call;
        Err(ChangeError::Invalid(format!(
            "function {} needs {} cores and {}, more than this node gives to functions ({} cores, \
             {}: resources.cpu, resources.memory)",
            spec.name, needs.cpu, needs.memory, capacity.cpu, capacity.memory
        )))
    }

    fn admit_new(self: &Arc<Self>, version: &Arc<Version>) {
        let profile = version.executor.profile(&version.spec);
        let namespace = version.spec.name.namespace.as_str();
        let mut actions = Vec::new();
        let added = self
            .admission()
            .add(namespace, profile, self.clock.now(), &mut actions);
        let key = match added {
            Ok(key) => key,
            Err(too_large) => {
                // Checked before a deployment is kept; it can only be a
                // recovered function on a node that was made smaller.
                let function = &version.spec.name;
                tracing::error!(%function, %too_large, "function does not fit on this node any more");
                return;
            }
        };
        let function = Arc::new(Function {
            key,
            current: ArcSwap::new(version.clone()),
            log: Arc::new(FunctionLog::new(
                self.config.log_lines,
                self.config.log_bytes_per_second,
            )),
            invocations: AtomicU64::new(0),
            rate: Rate::default(),
            service: Service::default(),
            start: Mean::default(),
        });
        self.by_key.insert(key, function.clone());
        self.functions.insert(version.spec.name.clone(), function);
        self.perform(actions, None);
    }

    fn admit_update(self: &Arc<Self>, function: &Function, version: &Version) {
        let profile = version.executor.profile(&version.spec);
        let mut actions = Vec::new();
        let updated =
            self.admission()
                .update(function.key, profile, self.clock.now(), &mut actions);
        if let Err(too_large) = updated {
            let function = &version.spec.name;
            tracing::error!(%function, %too_large, "function does not fit on this node");
        }
        self.perform(actions, None);
    }

    fn describe(&self, function: &Function) -> FunctionStatus {
        let version = function.current.load_full();
        let (gauges, call_cpu) = {
            let admission = self.admission();
            let gauges = admission.gauges(function.key).unwrap_or_default();
            (gauges, admission.call_cpu(function.key))
        };
        FunctionStatus {
            spec: version.spec.clone(),
            version: version.version,
            created_at: version.created_at,
            state: version.state(),
            invocations: function.invocations.load(Ordering::Relaxed),
            replicas: gauges.ready + gauges.starting,
            available_replicas: gauges.ready,
            running: gauges.running,
            waiting: gauges.waiting,
            call_cpu,
            cpu: Duration::ZERO,
        }
    }
}
