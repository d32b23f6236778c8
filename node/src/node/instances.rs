//! Instances: doing what the scheduler says must be done.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::BoxFuture;
use libp2p_identity::PeerId;
use tokio::sync::oneshot;

use super::functions::Function;
use super::version::Version;
use super::{Inner, Moves};
use crate::admission::{FunctionKey, InstanceId, Seat, Slot};
use crate::executor::{Instance, Setup, StartError};
use crate::panics;
use crate::scheduler::{Action, GaveUp, Ran};
use crate::secret::SecretFolder;
use crate::time::Time;

/// Who waits for a place.
pub(super) struct Waiter {
    tell: oneshot::Sender<Granted>,
    /// By what it may leave for a place elsewhere.
    moves: Option<Movable>,
}

impl Waiter {
    /// One that `tell` reaches, and what it will be told.
    pub(super) fn new(moves: Option<Movable>) -> (Self, oneshot::Receiver<Granted>) {
        let (tell, granted) = oneshot::channel();
        (Waiter { tell, moves }, granted)
    }

    /// Whether it goes to a place that is free at `peer`, and has taken that.
    pub(super) fn goes(&self, peer: &PeerId) -> bool {
        let moves = self.moves.as_ref();
        moves.is_some_and(|movable| movable.moves.go(peer))
    }

    /// Tells it; `false` when nobody waits any more. What was sent then is
    /// dropped, which gives a place back.
    pub(super) fn tell(self, granted: Granted) -> bool {
        self.tell.send(granted).is_ok()
    }
}

/// A waiting call that may leave, counted until this is dropped.
pub(super) struct Movable {
    moves: Arc<dyn Moves>,
    inner: Arc<Inner>,
}

impl Movable {
    pub(super) fn new(moves: Arc<dyn Moves>, inner: Arc<Inner>) -> Self {
        inner.movable.fetch_add(1, Ordering::Relaxed);
        Movable { moves, inner }
    }
}

impl Drop for Movable {
    fn drop(&mut self) {
        self.inner.movable.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is at fault where an instance was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The code: trying again is in vain.
    Code,
    /// The instance: another may do better.
    Instance,
    /// The node.
    Node,
}

/// What a waiting call is told.
pub(super) enum Granted {
    /// Run there.
    Run(Held),
    /// It left for a place elsewhere; there it stood.
    Left(Seat),
    /// It waits no longer.
    GaveUp(GaveUp),
    /// Its function cannot be started.
    CannotStart {
        /// Why.
        reason: String,
        /// What is at fault.
        fault: Fault,
    },
    /// Its function was removed.
    Removed,
}

/// An instance that takes calls.
pub(super) struct Live {
    pub(super) instance: Arc<dyn Instance>,
    pub(super) version: Arc<Version>,
    /// Its secrets, removed with it.
    _secrets: Option<SecretFolder>,
}

/// A place on an instance, given back when dropped.
pub(super) struct Held {
    inner: Arc<Inner>,
    slot: Option<Slot>,
    /// How its call ended, if that teaches anything.
    ran: Option<Ran>,
}

impl Held {
    pub(super) fn new(inner: Arc<Inner>, slot: Slot) -> Self {
        inner.usage.call_runs();
        Held {
            inner,
            slot: Some(slot),
            ran: None,
        }
    }

    /// Gives the place back; its call ended so.
    pub(super) fn end(mut self, ran: Ran) {
        self.ran = Some(ran);
    }

    /// Keeps the place until `end` has come, or until calls are cut at shutdown.
    pub(super) fn linger(self, end: impl Future<Output = ()> + Send + 'static) {
        let inner = self.inner.clone();
        let cut = inner.cut.clone();
        let lingering = async move {
            let _ = cut.run_until_cancelled(end).await;
            drop(self);
        };
        inner.tasks.spawn_on(lingering, &inner.runtime);
    }

    /// The node's time.
    pub(super) fn now(&self) -> Time {
        self.inner.clock.now()
    }

    pub(super) fn slot(&self) -> &Slot {
        self.slot
            .as_ref()
            .expect("the slot is there until the drop")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.inner.finish(slot, self.ran);
        }
    }
}

/// Why an instance was not started, for those who waited for it.
pub(super) struct StartFailure<'a> {
    reason: &'a str,
    fault: Fault,
}

impl Inner {
    /// Does what the scheduler asked for. Must be called without its lock.
    pub(super) fn perform(
        self: &Arc<Self>,
        actions: Vec<Action<Waiter>>,
        failure: Option<&StartFailure<'_>>,
    ) {
        // Whatever asks for this has changed what the node can do.
        self.changed.tell();
        for action in actions {
            // Whoever stopped waiting has dropped the receiver; a place that
            // comes too late is given back by the drop of what was sent.
            match action {
                Action::Run { token, slot } => {
                    token.tell(Granted::Run(Held::new(self.clone(), slot)));
                }
                Action::Prepare { instance, function } => {
                    let preparing = self.clone().prepare_instance(instance, function);
                    self.tasks.spawn_on(preparing, &self.runtime);
                }
                Action::Start { instance, function } => {
                    let starting = self.clone().start_instance(instance, function);
                    self.tasks.spawn_on(starting, &self.runtime);
                }
                Action::Stop { instance } => self.stop_instance(instance),
                Action::GaveUp { token, why } => {
                    token.tell(Granted::GaveUp(why));
                }
                Action::CannotStart { token, instance } => {
                    let (reason, fault) = match failure {
                        Some(failure) => (failure.reason.to_owned(), failure.fault),
                        None => (
                            format!("instance {} did not start", instance.as_u64()),
                            Fault::Instance,
                        ),
                    };
                    token.tell(Granted::CannotStart { reason, fault });
                }
                Action::Removed { token } => {
                    token.tell(Granted::Removed);
                }
            }
        }
    }

    pub(super) fn finish(self: &Arc<Self>, slot: Slot, ran: Option<Ran>) {
        let mut actions = Vec::new();
        self.scheduler()
            .finish(slot, ran, self.clock.now(), &mut actions);
        self.was_freed(actions);
    }

    /// Tells of a place that became free, and does what the scheduler asked for
    /// then.
    pub(super) fn was_freed(self: &Arc<Self>, actions: Vec<Action<Waiter>>) {
        if self.stop.is_cancelled() {
            self.call_ended.notify_waiters();
        }
        self.perform(actions, None);
        self.freed.tell();
    }

    async fn prepare_instance(self: Arc<Self>, id: InstanceId, key: FunctionKey) {
        // Whatever becomes of it, whoever waits for it must be told.
        let prepared = panics::contain(async { self.newest(key)?.1.prepare().await }).await;
        match prepared.unwrap_or_else(|panicked| Err(StartError::Node(panicked.to_string()))) {
            Ok(()) => {
                let mut actions = Vec::new();
                self.scheduler()
                    .prepared(id, self.clock.now(), &mut actions);
                self.perform(actions, None);
            }
            Err(error) => self.start_failed(id, &error),
        }
    }

    async fn start_instance(self: Arc<Self>, id: InstanceId, key: FunctionKey) {
        let started = panics::contain(self.try_start(key)).await;
        match started.unwrap_or_else(|panicked| Err(StartError::Node(panicked.to_string()))) {
            Ok(live) => {
                live.version.has_started();
                let ended = live.instance.ended();
                // Before the scheduler hands out places on it.
                self.instances.insert(id, Arc::new(live));
                if let Some(ended) = ended {
                    // Not counted among the tasks that a drain waits for: it
                    // lives as long as its instance.
                    self.runtime.spawn(self.clone().watch(id, ended));
                }
                let mut actions = Vec::new();
                self.scheduler().started(id, self.clock.now(), &mut actions);
                self.perform(actions, None);
            }
            Err(error) => self.start_failed(id, &error),
        }
    }

    fn start_failed(self: &Arc<Self>, id: InstanceId, error: &StartError) {
        let (reason, fault) = match error {
            StartError::Code(reason) => (reason, Fault::Code),
            StartError::Instance(reason) => (reason, Fault::Instance),
            StartError::Node(reason) => (reason, Fault::Node),
        };
        tracing::debug!(instance = id.as_u64(), %reason, "instance did not start");
        let mut actions = Vec::new();
        self.scheduler()
            .start_failed(id, self.clock.now(), &mut actions);
        self.perform(actions, Some(&StartFailure { reason, fault }));
    }

    /// Takes an instance out when it is gone for a reason of its own.
    async fn watch(self: Arc<Self>, id: InstanceId, ended: BoxFuture<'static, String>) {
        let reason = tokio::select! {
            reason = ended => reason,
            () = self.cut.cancelled() => return,
        };
        self.take_out(id, &reason).await;
    }

    /// Takes an instance out that is gone, so that no call is placed on it.
    pub(super) async fn take_out(self: &Arc<Self>, id: InstanceId, reason: &str) {
        // Stopped by us: whoever stops it tells the scheduler.
        if !self.instances.contains_key(&id) {
            return;
        }
        // Before it leaves the map, or calls would be placed on it and not
        // find it.
        let mut actions = Vec::new();
        self.scheduler().gone(id, self.clock.now(), &mut actions);
        let live = self.instances.remove(&id);
        self.perform(actions, None);
        if let Some((_, live)) = live {
            let function = &live.version.spec.name;
            tracing::info!(%function, instance = id.as_u64(), %reason, "instance is gone");
            live.instance.stop().await;
        }
    }

    /// What an instance of a function is started of.
    fn newest(&self, key: FunctionKey) -> Result<(Arc<Function>, Arc<Version>), StartError> {
        let function = self.by_key.get(&key).map(|function| function.clone());
        let function = function.ok_or_else(|| StartError::Node("it was removed".to_owned()))?;
        let version = function.current.load_full();
        Ok((function, version))
    }

    async fn try_start(&self, key: FunctionKey) -> Result<Live, StartError> {
        let (function, version) = self.newest(key)?;
        // Done already, unless it was replaced meanwhile.
        version.prepare().await?;
        let secrets = self.secrets.materialise(&self.store, &version.spec).await;
        let secrets = secrets.map_err(|error| StartError::Node(error.to_string()))?;
        let folder = secrets.as_ref().map(|folder| folder.path().to_owned());
        let setup = Setup {
            spec: version.spec.clone(),
            code: version.code.clone(),
            secrets: folder,
            log: function.log.clone(),
        };
        let instance = version.executor.start(setup).await?;
        Ok(Live {
            instance,
            version,
            _secrets: secrets,
        })
    }

    fn stop_instance(self: &Arc<Self>, id: InstanceId) {
        let live = self.instances.remove(&id);
        let inner = self.clone();
        let stopping = async move {
            if let Some((_, live)) = live {
                let _ = panics::contain(live.instance.stop()).await;
            }
            let mut actions = Vec::new();
            inner
                .scheduler()
                .stopped(id, inner.clock.now(), &mut actions);
            inner.perform(actions, None);
        };
        self.tasks.spawn_on(stopping, &self.runtime);
    }

    /// Does what is due by time alone: calls give up, idle instances stop, kept
    /// ones that are missing start. Returns when there is more to do;
    /// [`Timers::earlier`](super::Timers::earlier) tells of an earlier event.
    pub(super) fn expire(self: &Arc<Self>) -> Option<Time> {
        let mut actions = Vec::new();
        let next = {
            let mut scheduler = self.scheduler();
            scheduler.expire(self.clock.now(), &mut actions);
            let next = scheduler.next_event();
            self.timers.wait_for(next);
            next
        };
        if !actions.is_empty() {
            self.perform(actions, None);
        }
        next
    }
}
