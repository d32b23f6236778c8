//! How a version of a function comes into place: checked, made ready beside the
//! one that serves, and put in its stead once it is. The last good one is kept.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::functions::{Function, not_found};
use super::version::{Parts, Version};
use super::{ChangeError, DeployMode, Inner, Node, stored};
use crate::admission::FunctionKey;
use crate::executor::{Code, Executor, Profile};
use crate::function::FunctionSpec;
use crate::id::{Digest, FunctionName};
use crate::store::{FunctionRecord, VersionRecord};

/// How long whoever deploys waits for a version that may be in place soon.
const SOON: Duration = Duration::from_millis(500);

/// What a function has beside its current version.
#[derive(Default)]
pub(super) struct Beside {
    /// A newer version, until it is ready.
    pub(super) next: Option<Next>,
    /// The one that served before.
    pub(super) previous: Option<VersionRecord>,
    /// Whether the federation has to be told of the current one.
    pub(super) untold: bool,
}

/// A version that is to be the current one.
pub(super) struct Next {
    pub(super) version: Arc<Version>,
    /// Under what its instance is started, where one must be.
    pub(super) key: Option<FunctionKey>,
    /// Whether the federation is told when it is in place.
    pub(super) tell: bool,
}

/// What is asked of a deployment beside its specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// Whether it may create, or must replace.
    pub mode: DeployMode,
    /// Whether an instance is started before the version counts as ready, where
    /// only a start tells whether the code runs.
    pub check: bool,
    /// Whether [`Node::untold`] names the function once the version is in place
    /// of one that served.
    pub tell: bool,
}

/// What became of a deployment so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledOut {
    /// Its version.
    pub version: u64,
    /// Whether calls go to it; else to the one before, until it is ready.
    pub in_place: bool,
    /// Whether it takes the place of one that served.
    pub replaced: bool,
}

/// What a rollback did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolledBack {
    /// A newer version that was not ready is given up; this one serves on.
    Kept(u64),
    /// The last good one is deployed again, under a new number.
    Returned {
        /// What it was.
        to: u64,
        /// What it is.
        as_version: u64,
        /// Whether it did not take the place of one that serves.
        at_once: bool,
    },
}

impl Node {
    /// Deploys or updates a function. Its artifact must be here. Returns once
    /// the code has been checked and the deployment is on disk; making it ready
    /// goes on in the background. A version that serves goes on until the new
    /// one is ready.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn roll_out(
        &self,
        spec: FunctionSpec,
        rollout: Rollout,
    ) -> Result<RolledOut, ChangeError> {
        let (version, replaced) = self.inner.take_in(spec, rollout, true).await?;
        if replaced {
            // Most are ready in a moment; whoever calls next should see the new one.
            let _ = tokio::time::timeout(SOON, self.inner.in_place(&version)).await;
        }
        Ok(RolledOut {
            version: version.version,
            in_place: self.inner.is_current(&version),
            replaced,
        })
    }

    /// Deploys a function that was checked elsewhere, in place of what is here at
    /// once; calls wait until it is ready.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn deploy(&self, spec: FunctionSpec, mode: DeployMode) -> Result<(), ChangeError> {
        let rollout = Rollout {
            mode,
            check: false,
            tell: false,
        };
        self.inner.take_in(spec, rollout, false).await.map(drop)
    }

    /// Returns to the version that served last: gives up a newer one that is not
    /// ready, or deploys the one before again.
    ///
    /// # Errors
    /// When there is nothing to return to, or why it cannot be deployed.
    pub async fn roll_back(
        &self,
        name: &FunctionName,
        tell: bool,
    ) -> Result<RolledBack, ChangeError> {
        let function = self.inner.functions.get(name).map(|f| f.clone());
        let function = function.ok_or_else(|| not_found(name))?;
        {
            let _change = self.inner.change.lock().await;
            let current = function.current.load_full();
            let next = function.beside().next.take();
            if let Some(next) = next {
                if let Err(error) = self.inner.keep(&function, &current.record()).await {
                    function.beside().next = Some(next);
                    return Err(error);
                }
                self.inner.give_up(next);
                return Ok(RolledBack::Kept(current.version));
            }
        }
        let previous = function.beside().previous.clone();
        let previous = previous.ok_or_else(|| {
            ChangeError::NotFound(format!(
                "function {} has no earlier version to return to",
                name.qualified()
            ))
        })?;
        let rollout = Rollout {
            mode: DeployMode::Replace,
            // It did run.
            check: false,
            tell,
        };
        let rolled = self.roll_out(previous.spec, rollout).await?;
        Ok(RolledBack::Returned {
            to: previous.version,
            as_version: rolled.version,
            at_once: !rolled.replaced,
        })
    }

    /// Functions of which the federation has to be told: a new version is in
    /// place.
    pub fn untold(&self) -> Vec<FunctionName> {
        let functions = self.inner.functions.iter();
        let untold = functions.filter(|function| function.beside().untold);
        untold.map(|function| function.key().clone()).collect()
    }

    /// The version of a function of which the federation has to be told; `None`
    /// when it was.
    pub fn untold_version(&self, name: &FunctionName) -> Option<(Arc<FunctionSpec>, u64)> {
        let function = self.inner.functions.get(name)?;
        let untold = function.beside().untold;
        let version = function.current.load();
        untold.then(|| (version.spec.clone(), version.version))
    }

    /// Waits until [`Node::untold`] may have more to say.
    pub async fn untold_more(&self) {
        self.inner.untold.notified().await;
    }

    /// Takes note that the federation was told of a version.
    ///
    /// # Errors
    /// When that cannot be kept: it will be told again.
    pub async fn is_told(&self, name: &FunctionName, version: u64) -> Result<(), ChangeError> {
        let Some(function) = self.inner.functions.get(name).map(|f| f.clone()) else {
            return Ok(());
        };
        let _change = self.inner.change.lock().await;
        let current = function.current.load_full();
        if current.version == version && std::mem::take(&mut function.beside().untold) {
            self.inner.keep(&function, &current.record()).await?;
        }
        Ok(())
    }
}

/// An artifact held while its function is being deployed.
struct Reference {
    inner: Arc<Inner>,
    digest: Option<Digest>,
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

fn nothing_to_update(name: &FunctionName) -> ChangeError {
    ChangeError::NotFound(format!(
        "function {} is not deployed: nothing to update (create it with POST)",
        name.qualified()
    ))
}

/// A deployment that its executor takes.
async fn checked_by(
    executor: &Arc<dyn Executor>,
    spec: FunctionSpec,
    code: &Code,
) -> Result<FunctionSpec, ChangeError> {
    let (executor, code) = (executor.clone(), code.clone());
    let checked = tokio::task::spawn_blocking(move || executor.check(&spec, &code).map(|()| spec));
    let checked = checked
        .await
        .map_err(|e| ChangeError::Invalid(e.to_string()))?;
    checked.map_err(|unfit| ChangeError::Invalid(unfit.to_string()))
}

impl Function {
    /// The number of the version that is deployed next, and since when there is one.
    fn next_number(&self) -> (u64, Timestamp) {
        let current = self.current.load();
        let next = self.beside().next.as_ref().map(|n| n.version.version);
        let newest = next.map_or(current.version, |next| next.max(current.version));
        (newest + 1, current.created_at)
    }
}

impl Inner {
    /// Checks a deployment, keeps it, and has it made ready. It replaces what is
    /// there at once, unless that serves and is to go on (`beside`), which is
    /// returned.
    async fn take_in(
        self: &Arc<Self>,
        spec: FunctionSpec,
        rollout: Rollout,
        beside: bool,
    ) -> Result<(Arc<Version>, bool), ChangeError> {
        let spec = spec.clamped();
        let name = spec.name.clone();
        if rollout.mode == DeployMode::Replace && !self.functions.contains_key(&name) {
            return Err(nothing_to_update(&name));
        }
        self.check_bounds(&spec)?;
        let reference = self.refer(&spec)?;
        let executor = self.executor_for(&spec)?;
        let code = self.code(&spec);
        let spec = checked_by(&executor, spec, &code).await?;

        let _change = self.change.lock().await;
        self.check_secrets(&spec).await?;
        // Looked at again under the lock: another change may have come first.
        let existing = self.functions.get(&name).map(|function| function.clone());
        let (number, created_at) = match &existing {
            Some(function) => function.next_number(),
            None => self.first_number(&name, rollout.mode)?,
        };
        self.check_fits(&spec, &executor)?;
        let parts = Parts {
            classes: self.classes(&spec),
            code,
            executor,
            created_at,
        };
        let record = VersionRecord {
            spec,
            version: number,
            checked: !rollout.check,
        };
        let version = Arc::new(Version::new(record, parts));
        let Some(function) = existing else {
            self.put_first(&version).await?;
            reference.keep();
            self.make_ready(vec![version.clone()]);
            return Ok((version, false));
        };
        let serves = beside && function.current.load().is_ready();
        let on_trial = || self.on_trial(&function, &version, rollout.tell);
        let next = serves.then(on_trial).transpose()?;
        if let Some(dropped) = self.put_next(&function, &version, next).await? {
            self.give_up(dropped);
        }
        reference.keep();
        if !serves {
            let old = function.current.swap(version.clone());
            self.release(&old.spec);
            self.admit_update(&function, &version);
        }
        // The client waits, if it wants to, by looking at the state.
        self.make_ready(vec![version.clone()]);
        Ok((version, serves))
    }

    /// The same of a name under which nothing is deployed.
    fn first_number(
        &self,
        name: &FunctionName,
        mode: DeployMode,
    ) -> Result<(u64, Timestamp), ChangeError> {
        let most = self.config.max_functions;
        match mode {
            DeployMode::Replace => Err(nothing_to_update(name)),
            DeployMode::CreateOrReplace if self.functions.len() >= most => Err(ChangeError::Full(
                format!("this node has {most} functions, the most it takes (functions.max)"),
            )),
            DeployMode::CreateOrReplace => Ok((1, Timestamp::now())),
        }
    }

    /// Counts the artifact of a deployment as needed, for as long as that goes on.
    fn refer(self: &Arc<Self>, spec: &FunctionSpec) -> Result<Reference, ChangeError> {
        let digest = spec.code.artifact().copied();
        if let Some(digest) = &digest
            && !self.artifacts.retain(digest)
        {
            return Err(ChangeError::Invalid(format!(
                "artifact {digest} is not on this node: upload it to /weir/v1/artifacts/{} first",
                digest.hex()
            )));
        }
        Ok(Reference {
            inner: self.clone(),
            digest,
        })
    }

    /// Keeps the first version of a function, and takes calls of it.
    async fn put_first(self: &Arc<Self>, version: &Arc<Version>) -> Result<(), ChangeError> {
        let beside = Beside::default();
        let kept = self.store.put_function(&record_of(version, &beside)).await;
        kept.map_err(|source| stored("keep the function", source))?;
        self.admit_new(version, beside);
        Ok(())
    }

    /// Keeps a version of a function that is there: as its `next`, which is tried
    /// out beside the one that serves, or in its place. Returns the next one that
    /// was there before.
    async fn put_next(
        self: &Arc<Self>,
        function: &Function,
        version: &Version,
        next: Option<Next>,
    ) -> Result<Option<Next>, ChangeError> {
        let serves = next.is_some();
        let (dropped, untold) = {
            let mut beside = function.beside();
            let untold = serves && beside.untold;
            let dropped = std::mem::replace(&mut beside.next, next);
            (dropped, std::mem::replace(&mut beside.untold, untold))
        };
        let record = match serves {
            true => function.current.load().record(),
            false => version.record(),
        };
        if let Err(error) = self.keep(function, &record).await {
            let next = {
                let mut beside = function.beside();
                beside.untold = untold;
                std::mem::replace(&mut beside.next, dropped)
            };
            if let Some(key) = next.and_then(|next| next.key) {
                self.retract(&version.spec.name, key);
            }
            return Err(error);
        }
        Ok(dropped)
    }

    /// Has a version be started beside the one that serves, where it must be.
    fn on_trial(
        self: &Arc<Self>,
        function: &Function,
        version: &Arc<Version>,
        tell: bool,
    ) -> Result<Next, ChangeError> {
        let mut key = None;
        if version.is_unchecked() {
            let profile = Profile {
                min_instances: 0,
                ..self.profile(version)
            };
            let log = function.log.clone();
            let trial = self.admit(version, profile, log, Beside::default(), true);
            let trial = trial.map_err(|error| ChangeError::Invalid(error.to_string()))?;
            key = Some(trial.key);
        }
        Ok(Next {
            version: version.clone(),
            key,
            tell,
        })
    }

    /// Lets go of a version that will not be in place.
    pub(super) fn give_up(self: &Arc<Self>, next: Next) {
        if let Some(key) = next.key {
            self.retract(&next.version.spec.name, key);
        }
        self.release(&next.version.spec);
    }

    /// Keeps a function on disk, with `current` as its current version.
    pub(super) async fn keep(
        &self,
        function: &Function,
        current: &VersionRecord,
    ) -> Result<(), ChangeError> {
        let record = {
            let beside = function.beside();
            let created_at = function.current.load().created_at;
            with_beside(current.clone(), created_at, &beside)
        };
        let kept = self.store.put_function(&record).await;
        kept.map_err(|source| stored("keep the function", source))
    }

    /// Takes up what an earlier run had deployed: the versions that are to be
    /// made ready.
    pub(super) fn recover_function(self: &Arc<Self>, record: FunctionRecord) -> Vec<Arc<Version>> {
        let FunctionRecord {
            spec,
            version,
            created_at,
            checked,
            untold,
            next,
            next_untold,
            previous,
        } = record;
        let current = VersionRecord {
            spec,
            version,
            checked,
        };
        let Some(current) = self.recover_version(current, created_at) else {
            return Vec::new();
        };
        let previous = previous.map(|previous| *previous).filter(|previous| {
            let artifact = previous.spec.code.artifact();
            artifact.is_none_or(|digest| self.artifacts.retain(digest))
        });
        let beside = Beside {
            next: None,
            previous,
            untold,
        };
        if untold {
            self.untold.notify_one();
        }
        self.admit_new(&current, beside);
        let mut versions = vec![current];
        let next = next.and_then(|next| self.recover_version(*next, created_at));
        let function = versions[0].spec.name.clone();
        let function = self.functions.get(&function).map(|f| f.clone());
        if let (Some(next), Some(function)) = (next, function)
            && let Ok(trial) = self.on_trial(&function, &next, next_untold)
        {
            function.beside().next = Some(trial);
            versions.push(next);
        }
        versions
    }

    fn recover_version(
        &self,
        record: VersionRecord,
        created_at: Timestamp,
    ) -> Option<Arc<Version>> {
        let name = record.spec.name.clone();
        let executor = match self.executor_for(&record.spec) {
            Ok(executor) => executor,
            Err(error) => {
                tracing::error!(function = %name, %error, "function is not taken up");
                return None;
            }
        };
        let artifact = record.spec.code.artifact();
        let present = artifact.is_none_or(|digest| self.artifacts.retain(digest));
        let parts = Parts {
            code: self.code(&record.spec),
            classes: self.classes(&record.spec),
            executor,
            created_at,
        };
        Some(Arc::new(match present {
            true => Version::new(record, parts),
            false => {
                let reason = "its artifact is gone from this node: deploy it again";
                Version::without_code(record, parts, reason)
            }
        }))
    }
}

pub(super) fn record_of(current: &Version, beside: &Beside) -> FunctionRecord {
    with_beside(current.record(), current.created_at, beside)
}

fn with_beside(current: VersionRecord, created_at: Timestamp, beside: &Beside) -> FunctionRecord {
    let next = beside.next.as_ref();
    FunctionRecord {
        spec: current.spec,
        version: current.version,
        created_at,
        checked: current.checked,
        untold: beside.untold,
        next: next.map(|next| Box::new(next.version.record())),
        next_untold: next.is_some_and(|next| next.tell),
        previous: beside.previous.clone().map(Box::new),
    }
}
