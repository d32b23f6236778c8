//! Deployed functions: what is known of each, scale, remove, list.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use super::rollout::Beside;
use super::version::Version;
use super::{ChangeError, FunctionStatus, Inner, NamespaceInfo, NextStatus, Node, stored};
use crate::admission::{FunctionKey, TooLarge};
use crate::estimate::Known;
use crate::executor::{Code, Executor, Profile};
use crate::function::FunctionSpec;
use crate::id::{FunctionName, Namespace, SecretName};
use crate::logs::FunctionLog;
use crate::store::{FunctionRecord, NamespaceRecord};

/// A name under which something is deployed. It stays the same over updates.
pub(super) struct Function {
    pub(super) key: FunctionKey,
    pub(super) current: ArcSwap<Version>,
    /// What is kept beside the current version.
    pub(super) beside: Mutex<Beside>,
    /// Whether it only tries out a version of another, under its name.
    pub(super) is_trial: bool,
    pub(super) log: Arc<FunctionLog>,
    pub(super) invocations: AtomicU64,
    /// How long its calls run and its starts take: the scheduler writes it.
    pub(super) known: Arc<Known>,
}

impl Function {
    pub(super) fn beside(&self) -> MutexGuard<'_, Beside> {
        self.beside.lock()
    }

    /// What was deployed, of each version that is kept.
    pub(super) fn specs(&self) -> Vec<Arc<FunctionSpec>> {
        let beside = self.beside();
        let next = beside.next.as_ref().map(|next| next.version.spec.clone());
        let previous = beside.previous.as_ref();
        let previous = previous.map(|previous| Arc::new(previous.spec.clone()));
        let current = self.current.load().spec.clone();
        [Some(current), next, previous]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl Node {
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
        let beside = std::mem::take(&mut *function.beside());
        if let Some(next) = beside.next {
            inner.give_up(next);
        }
        if let Some(previous) = beside.previous {
            inner.release(&previous.spec);
        }
        inner.retract(name, function.key);
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
            .scheduler()
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
        // is held while the lock of the scheduler is.
        let functions: Vec<Arc<Function>> = functions.map(|entry| entry.value().clone()).collect();
        let mut all: Vec<FunctionStatus> = functions
            .iter()
            .map(|function| self.inner.describe(function))
            .collect();
        all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        all
    }
}

pub(super) fn not_found(name: &FunctionName) -> ChangeError {
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
            versions.extend(self.recover_function(record));
        }
        self.make_ready(versions);
    }

    /// The function's classes as indices. Names that the node does not know
    /// any more are left out; deploying with one is an error.
    pub(super) fn classes(&self, spec: &FunctionSpec) -> Vec<usize> {
        let find = |name: &String| self.config.classes.iter().position(|c| c.name == *name);
        let classes: Vec<usize> = spec.classes.iter().filter_map(find).collect();
        if classes.is_empty() { vec![0] } else { classes }
    }

    pub(super) fn code(&self, spec: &FunctionSpec) -> Code {
        Code {
            artifact: spec
                .code
                .artifact()
                .map(|digest| self.artifacts.path(digest)),
            kind: spec.kind,
        }
    }

    /// Lets go of the artifact of a function that is no more.
    pub(super) fn release(&self, spec: &FunctionSpec) {
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

    pub(super) fn check_bounds(&self, spec: &FunctionSpec) -> Result<(), ChangeError> {
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

    pub(super) async fn check_secrets(&self, spec: &FunctionSpec) -> Result<(), ChangeError> {
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

    /// How a version is accounted, by the node's own rule where it names none.
    pub(super) fn profile(&self, version: &Version) -> Profile {
        Profile {
            keeping: version.spec.keeping.unwrap_or(self.config.keeping),
            ..version.executor.profile(&version.spec)
        }
    }

    /// Refuses what could never run here, before anything is kept.
    pub(super) fn check_fits(
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

    pub(super) fn admit_new(self: &Arc<Self>, version: &Arc<Version>, beside: Beside) {
        let profile = self.profile(version);
        let log = Arc::new(FunctionLog::new(
            self.config.log_lines,
            self.config.log_bytes_per_second,
        ));
        match self.admit(version, profile, log, beside, false) {
            Ok(function) => {
                self.functions.insert(version.spec.name.clone(), function);
            }
            Err(too_large) => {
                // Checked before a deployment is kept; it can only be a
                // recovered function on a node that was made smaller.
                let function = &version.spec.name;
                tracing::error!(%function, %too_large, "function does not fit on this node any more");
            }
        }
    }

    /// Has the scheduler know of a function, under a key of its own.
    pub(super) fn admit(
        self: &Arc<Self>,
        version: &Arc<Version>,
        profile: Profile,
        log: Arc<FunctionLog>,
        beside: Beside,
        is_trial: bool,
    ) -> Result<Arc<Function>, TooLarge> {
        let namespace = version.spec.name.namespace.as_str();
        let mut actions = Vec::new();
        let (key, known) = {
            let mut scheduler = self.scheduler();
            let key = scheduler.add(namespace, profile, self.clock.now(), &mut actions)?;
            (key, scheduler.known(key).expect("it was just added"))
        };
        let function = Arc::new(Function {
            key,
            current: ArcSwap::new(version.clone()),
            beside: Mutex::new(beside),
            is_trial,
            log,
            invocations: AtomicU64::new(0),
            known,
        });
        self.by_key.insert(key, function.clone());
        self.perform(actions, None);
        Ok(function)
    }

    /// Has the scheduler forget what [`Inner::admit`] told it.
    pub(super) fn retract(self: &Arc<Self>, name: &FunctionName, key: FunctionKey) {
        let mut actions = Vec::new();
        let namespace = name.namespace.as_str();
        self.scheduler()
            .remove(namespace, key, self.clock.now(), &mut actions);
        self.perform(actions, None);
        self.by_key.remove(&key);
    }

    pub(super) fn admit_update(self: &Arc<Self>, function: &Function, version: &Version) {
        let profile = self.profile(version);
        let mut actions = Vec::new();
        let updated =
            self.scheduler()
                .update(function.key, profile, self.clock.now(), &mut actions);
        if let Err(too_large) = updated {
            let function = &version.spec.name;
            tracing::error!(%function, %too_large, "function does not fit on this node");
        }
        self.perform(actions, None);
    }

    fn describe(&self, function: &Function) -> FunctionStatus {
        let (version, next, previous) = {
            let beside = function.beside();
            let next = beside.next.as_ref().map(|next| NextStatus {
                spec: next.version.spec.clone(),
                version: next.version.version,
                state: next.version.state(),
            });
            let previous = beside.previous.as_ref().map(|previous| previous.version);
            (function.current.load_full(), next, previous)
        };
        let (gauges, call_cpu) = {
            let scheduler = self.scheduler();
            let admission = scheduler.admission();
            let gauges = admission.gauges(function.key).unwrap_or_default();
            (gauges, admission.call_cpu(function.key))
        };
        FunctionStatus {
            spec: version.spec.clone(),
            version: version.version,
            created_at: version.created_at,
            state: version.state(),
            next,
            previous,
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
