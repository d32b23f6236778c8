//! How versions are made ready: their code prepared, an instance started where
//! only that tells whether they run, and put in place of the ones before.

use std::sync::Arc;
use std::time::Duration;

use super::functions::Function;
use super::instances::{Fault, Granted, Waiter};
use super::invoke::Place;
use super::rollout::{Beside, Next, record_of};
use super::version::Version;
use super::{ChangeError, Inner, stored};
use crate::admission::FunctionKey;
use crate::executor::StartError;
use crate::scheduler::{Request, Verdict};
use crate::time::Time;

/// First and longest pause before code is made ready again for which something
/// is missing on this node.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long an instance waits for room before that is said.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// How an instance is said to be wanted for which there is no room.
const NO_ROOM: &str = "there is no room for an instance of it now: one is started when other \
                       functions leave some";

/// A call that waits for as long as it takes.
fn patient_request(version: &Version, key: FunctionKey, now: Time) -> Request {
    Request {
        function: key,
        class: version.classes[0],
        patient: true,
        arrived: now,
        deadline: Time::NEVER,
        persists_until: Some(Time::NEVER),
        timeout: version.spec.timeout,
        per_second: None,
        elsewhere: 0,
    }
}

impl Inner {
    /// Makes versions ready in the background, one after the other, and those
    /// again for which something is missing on this node.
    pub(super) fn make_ready(self: &Arc<Self>, mut versions: Vec<Arc<Version>>) {
        let inner = self.clone();
        let making = async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let mut waiting = Vec::new();
                let alone = versions.len() == 1;
                for version in versions {
                    if !alone && version.is_unchecked() && version.prepare().await.is_ok() {
                        // It may wait long for room, and holds up nobody.
                        inner.make_ready(vec![version]);
                        continue;
                    }
                    let made = inner.make_one_ready(&version).await;
                    inner.changed.tell();
                    match made {
                        Ok(()) | Err(StartError::Code(_)) => {}
                        Err(StartError::Instance(reason)) => version.fails(&reason),
                        Err(StartError::Node(reason)) => {
                            version.waits(&reason);
                            waiting.push(version);
                        }
                    }
                }
                if waiting.is_empty() {
                    return;
                }
                tokio::time::sleep(pause).await;
                waiting.retain(|version| inner.is_wanted(version));
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

    async fn make_one_ready(self: &Arc<Self>, version: &Arc<Version>) -> Result<(), StartError> {
        version.prepare().await?;
        if version.is_unchecked()
            && let Some(key) = self.key_of(version)
        {
            self.try_out(version, key).await?;
            version.has_started();
        }
        self.put_in_place(version).await
    }

    /// Waits until an instance of a version was started, as a call would; it is
    /// left idle.
    async fn try_out(
        self: &Arc<Self>,
        version: &Version,
        key: FunctionKey,
    ) -> Result<(), StartError> {
        let now = self.clock.now();
        let request = patient_request(version, key, now);
        let (waiter, granted) = Waiter::new(None);
        let mut actions = Vec::new();
        let verdict = self
            .scheduler()
            .arrive(&request, || waiter, now, &mut actions);
        self.perform(actions, None);
        let node = |reason: &str| Err(StartError::Node(reason.to_owned()));
        let ticket = match verdict {
            Verdict::Run(slot) => {
                self.finish(slot, None);
                return Ok(());
            }
            Verdict::Wait(ticket) => ticket,
            Verdict::Refuse { reason, .. } => {
                let reason = reason.as_str();
                return node(&format!("no instance of it is started now ({reason})"));
            }
            Verdict::Unknown => return node("it was removed"),
        };
        let mut place = Place::new(self, ticket);
        let mut granted = std::pin::pin!(granted);
        let granted = loop {
            match tokio::time::timeout(ROOM_PATIENCE, &mut granted).await {
                Ok(granted) => break granted,
                Err(_) => {
                    let gauges = self.scheduler().admission().gauges(key).unwrap_or_default();
                    if gauges.starting == 0 {
                        version.waits(NO_ROOM);
                    }
                }
            }
        };
        if granted.is_ok() {
            place.was_told();
        }
        match granted {
            Ok(Granted::Run(held)) => {
                let instance = held.slot().instance();
                self.scheduler().keep_briefly(instance);
                drop(held);
                Ok(())
            }
            Ok(Granted::CannotStart { reason, fault }) => Err(match fault {
                Fault::Code => StartError::Code(reason),
                Fault::Instance => StartError::Instance(reason),
                Fault::Node => StartError::Node(reason),
            }),
            Ok(Granted::Left(_) | Granted::GaveUp(_) | Granted::Removed) | Err(_) => {
                node("it was removed")
            }
        }
    }

    /// Puts a version that is ready in place of the one before.
    async fn put_in_place(self: &Arc<Self>, version: &Arc<Version>) -> Result<(), StartError> {
        let name = &version.spec.name;
        let _change = self.change.lock().await;
        let Some(function) = self.functions.get(name).map(|f| f.clone()) else {
            return Ok(());
        };
        let unkept = |error: ChangeError| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            StartError::Node(cause.unwrap_or_else(|| error.to_string()))
        };
        let current = function.current.load_full();
        if Arc::ptr_eq(&current, version) {
            if version.executor.must_start() {
                // So that it is not started again after a restart.
                self.keep(&function, &version.record())
                    .await
                    .map_err(unkept)?;
            }
            return Ok(());
        }
        let after = {
            let beside = function.beside();
            let is_next = |next: &&Next| Arc::ptr_eq(&next.version, version);
            let Some(next) = beside.next.as_ref().filter(is_next) else {
                return Ok(());
            };
            Beside {
                next: None,
                previous: Some(current.record()),
                untold: next.tell,
            }
        };
        let kept = self.store.put_function(&record_of(version, &after)).await;
        kept.map_err(|source| unkept(stored("keep the function", source)))?;
        let before = {
            // At once, for whoever looks at both.
            let mut beside = function.beside();
            function.current.store(version.clone());
            std::mem::replace(&mut *beside, after)
        };
        if let Some(previous) = before.previous {
            self.release(&previous.spec);
        }
        match before.next.and_then(|next| next.key) {
            Some(key) => self.admit_in_stead(&function, key, version),
            None => self.admit_update(&function, version),
        }
        self.placed.notify_waiters();
        tracing::info!(function = %name, version = version.version, "a new version is in place");
        if function.beside().untold {
            self.untold.notify_one();
        }
        Ok(())
    }

    /// Gives a function new code, and the instance that it was tried with.
    fn admit_in_stead(self: &Arc<Self>, function: &Function, trial: FunctionKey, by: &Version) {
        let profile = self.profile(by);
        let namespace = by.spec.name.namespace.as_str();
        let mut actions = Vec::new();
        let now = self.clock.now();
        let replaced =
            self.scheduler()
                .replace(namespace, function.key, trial, profile, now, &mut actions);
        if let Err(too_large) = replaced {
            let function = &by.spec.name;
            tracing::error!(%function, %too_large, "function does not fit on this node");
        }
        self.by_key.remove(&trial);
        self.perform(actions, None);
    }

    /// Under what instances of a version are started.
    fn key_of(&self, version: &Arc<Version>) -> Option<FunctionKey> {
        let function = self.functions.get(&version.spec.name)?.clone();
        if Arc::ptr_eq(&function.current.load(), version) {
            return Some(function.key);
        }
        let beside = function.beside();
        let next = beside.next.as_ref();
        next.filter(|next| Arc::ptr_eq(&next.version, version))?.key
    }

    pub(super) fn is_current(&self, version: &Arc<Version>) -> bool {
        let function = self.functions.get(&version.spec.name);
        function.is_some_and(|function| Arc::ptr_eq(&function.current.load(), version))
    }

    /// Whether a version is in place, or is to be.
    fn is_wanted(&self, version: &Arc<Version>) -> bool {
        let Some(function) = self.functions.get(&version.spec.name).map(|f| f.clone()) else {
            return false;
        };
        let is_next = |next: &Next| Arc::ptr_eq(&next.version, version);
        Arc::ptr_eq(&function.current.load(), version)
            || function.beside().next.as_ref().is_some_and(is_next)
    }

    /// Waits until a version is in place or has failed.
    pub(super) async fn in_place(&self, version: &Arc<Version>) {
        version.settled().await;
        loop {
            let placed = self.placed.notified();
            if !version.is_ready() || !self.is_wanted(version) || self.is_current(version) {
                return;
            }
            placed.await;
        }
    }
}
