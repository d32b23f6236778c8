//! Functions across the federation: what is said of them, and how their code
//! comes to a node that is to run them. What is to be done is decided by
//! [`weir_federation_core::replication`]; here it is done.

mod bringing;
mod exchange;
pub mod layers;
mod pins;
mod records;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use http::{Request, Response, StatusCode};
use libp2p_identity::PeerId;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};
use weir_federation_core::replication::{self as rules, Course, Own, Sake, Wish};
use weir_node::Node;
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::FunctionSpec;
use weir_node::id::FunctionName;
use weir_node::node::ChangeError;
use weir_node::panics;
use weir_node::time::Time;

pub use self::exchange::Counters;
use self::exchange::{ARTIFACT, Exchange};
use self::pins::Pins;
pub(crate) use self::records::{contact, recover, set_aside, set_old_aside};
use crate::federated::Federated;
use crate::message::Summary;

/// Records that are written to disk at once.
const KEPT_AT_ONCE: usize = 64;

/// Why code did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    /// This node may not, or cannot, run it.
    #[error("{0}")]
    Unfit(String),
    /// Nobody gave it.
    #[error("its code cannot be had: {0}")]
    Code(String),
    /// It cannot be deployed here.
    #[error(transparent)]
    Deploy(#[from] ChangeError),
}

/// Keeps a node's functions as the federation has them.
pub(crate) struct Replication {
    node: Node,
    federated: Federated,
    rules: Arc<Mutex<rules::Replication>>,
    /// One adoption of a function at a time; others wait for it.
    adopting: DashMap<FunctionName, Arc<tokio::sync::Mutex<()>>>,
    exchange: Arc<Exchange>,
    pins: Arc<Pins>,
    /// Held by whoever tells of a new version.
    announcing: tokio::sync::Mutex<()>,
}

impl Replication {
    pub(crate) fn new(node: Node, federated: Federated) -> Replication {
        let now = federated.shared.clock.now();
        let mut known = rules::Replication::new(federated.shared.id, now);
        // What an earlier run knew.
        for name in federated.names() {
            known.record(&name, federated.entry(&name).as_ref());
        }
        let rules = Arc::new(Mutex::new(known));
        let exchange = Arc::new(Exchange::new(node.clone(), federated.clone()));
        let pins = Pins::new(
            node.clone(),
            federated.clone(),
            Arc::clone(&exchange),
            Arc::clone(&rules),
        );
        Replication {
            node,
            federated,
            rules,
            adopting: DashMap::new(),
            exchange,
            pins: Arc::new(pins),
            announcing: tokio::sync::Mutex::new(()),
        }
    }

    fn rules(&self) -> MutexGuard<'_, rules::Replication> {
        self.rules.lock()
    }

    fn now(&self) -> Time {
        self.federated.shared.clock.now()
    }

    /// Looks after what is heard, until the federation ends.
    pub(crate) async fn look_after(self: Arc<Self>, mut heard: mpsc::Receiver<(PeerId, Summary)>) {
        // Apart: many flushes to disk must not keep it from hearing more.
        let mut tasks = tokio::task::JoinSet::new();
        let keeping = Arc::clone(&self);
        tasks.spawn(async move {
            while panics::contain(keeping.keep_changed()).await.is_err() {
                panics::rest("keeping records").await;
            }
        });
        while panics::contain(self.run(&mut heard)).await.is_err() {
            panics::rest("functions of others").await;
        }
    }

    async fn run(self: &Arc<Self>, heard: &mut mpsc::Receiver<(PeerId, Summary)>) {
        loop {
            let next = self.rules().next_event().since(self.now());
            tokio::select! {
                summary = heard.recv() => match summary {
                    Some((from, summary)) => {
                        if self.compare(from, &summary.marks, summary.ask) {
                            let (known, now) = (self.federated.count(), self.now());
                            self.rules().differed(from, known, now);
                        }
                    }
                    None => return,
                },
                () = self.federated.shared.forgot.notified() => {
                    self.federated.ask_around();
                    let folder = self.federated.settings().folder.clone();
                    tokio::task::spawn_blocking(move || records::drop_asides(&folder));
                }
                () = self.federated.shared.members_changed.notified() => self.tend(),
                () = self.node.untold_more() => self.announce_all().await,
                () = tokio::time::sleep(next) => self.tick().await,
            }
        }
    }

    async fn tick(self: &Arc<Self>) {
        let (known, now) = (self.federated.count(), self.now());
        let members = self.federated.members();
        let mut wishes = Vec::new();
        {
            let mut rules = self.rules();
            rules.members(&members);
            rules.tick(now, known, &mut wishes);
        }
        self.carry_out(wishes).await;
    }

    /// Keeps what this node should keep, and lets go of the rest after a while.
    fn tend(&self) {
        let members = self.federated.members();
        let mut wishes = Vec::new();
        {
            let mut rules = self.rules();
            rules.members(&members);
            rules.tend(self.now(), &mut wishes);
        }
        for wish in wishes {
            self.pin_or_unpin(wish);
        }
    }

    async fn carry_out(self: &Arc<Self>, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::Bring(name) => self.bring_apart(name),
                Wish::Pin(..) | Wish::Unpin(_) => self.pin_or_unpin(wish),
                Wish::Ask(peer) => self.federated.tell_summary(peer, true),
                Wish::Reconcile => self.reconcile_all().await,
            }
        }
    }

    fn pin_or_unpin(&self, wish: Wish) {
        match wish {
            Wish::Pin(name, code) => {
                let pins = Arc::clone(&self.pins);
                self.federated.spawn(async move {
                    if let Err(error) = pins.pin(&name, code).await {
                        debug!(function = %name, %error, "cannot keep code");
                    }
                });
            }
            Wish::Unpin(code) => {
                self.node.unpin_artifact(&code);
            }
            Wish::Bring(_) | Wish::Ask(_) | Wish::Reconcile => {}
        }
    }

    /// What was not done before the last stop, or whose code nobody could give.
    async fn reconcile_all(self: &Arc<Self>) {
        let names = {
            // Looked up under the lock: what was noted before is among them.
            let mut rules = self.rules();
            let names = self.federated.names();
            rules.forget_all_but(&names);
            names
        };
        for name in &names {
            self.reconcile(name).await;
            let calls = self.calls_of_brought(name);
            self.rules().used(name, calls, self.now());
        }
        self.announce_all().await;
        self.let_go(Sake::Own).await;
        self.forget_removals().await;
    }

    /// Writes what is heard to disk, and does what it says.
    async fn keep_changed(self: &Arc<Self>) {
        loop {
            self.federated.shared.functions_changed.notified().await;
            loop {
                let next = (0..KEPT_AT_ONCE).map_while(|_| self.federated.next_changed());
                let names: Vec<FunctionName> = next.collect();
                if names.is_empty() {
                    break;
                }
                let kept = names.iter().map(|name| self.keep(name));
                futures_util::future::join_all(kept).await;
                for name in &names {
                    self.reconcile(name).await;
                }
            }
        }
    }

    /// Tells a member what its summary lacks, and asks it for the same; whether
    /// there was anything.
    fn compare(&self, from: PeerId, marks: &[u64], ask: bool) -> bool {
        if self.federated.agrees(from, marks) {
            return false;
        }
        let missing = self.federated.missing(from, marks);
        if !missing.is_empty() {
            debug!(peer = %from, records = missing.len(), "tells functions that were missed");
            self.federated.tell_records(from, missing);
        }
        if ask {
            self.federated.tell_summary(from, false);
        }
        true
    }

    fn folder(&self) -> PathBuf {
        self.federated.settings().folder.join("functions")
    }

    /// Takes note of what is known of a function, on disk too.
    async fn keep(&self, name: &FunctionName) {
        let entry = {
            // Looked up under the lock: of two, the later notes what is newer.
            let mut rules = self.rules();
            let entry = self.federated.entry(name);
            rules.record(name, entry.as_ref());
            entry
        };
        let path = records::path(&self.folder(), name);
        let kept = tokio::task::spawn_blocking(move || records::keep(&path, entry));
        let kept = kept.await;
        if !matches!(kept, Ok(Ok(()))) {
            warn!(function = %name, ?kept, "a function's record is not kept over a restart");
        }
    }

    /// Makes this node's own function what its newest record says.
    async fn reconcile(self: &Arc<Self>, name: &FunctionName) {
        let Some(entry) = self.federated.entry(name) else {
            return;
        };
        let spec = self.node.spec(name);
        let own = spec.as_ref().map(|spec| Own {
            spec,
            is_untold: self.node.untold_version(name).is_some(),
        });
        let may_run = || self.may_run(name).is_ok();
        match rules::course(&entry, own, self.is_adopting(name), may_run) {
            Course::Leave => {}
            Course::Remove => {
                info!(function = %name, by = %entry.writer, "removes a function");
                if let Err(error) = self.node.remove(name).await {
                    debug!(function = %name, %error, "it was removed already");
                }
            }
            Course::Prefetch => {
                let (replication, name) = (Arc::clone(self), name.clone());
                self.federated.spawn(async move {
                    if let Err(error) = replication.adopt(&name, false).await {
                        debug!(function = %name, %error, "a function is not brought here yet");
                    }
                });
            }
            Course::Update => {
                let (replication, name) = (Arc::clone(self), name.clone());
                self.federated.spawn(async move {
                    match replication.adopt(&name, true).await {
                        Ok(()) => {}
                        // It will be so the next time too.
                        Err(error @ AdoptError::Unfit(_)) => {
                            debug!(function = %name, %error, "keeps to an older version");
                        }
                        Err(error) => {
                            warn!(function = %name, %error, "an update does not reach this node");
                        }
                    }
                });
            }
        }
    }

    /// Says to the federation that a function was deployed here. It must be
    /// here already. Returns how many members keep its code now.
    ///
    /// # Errors
    /// When this node may not deploy for others, or the function is too large
    /// to be told of.
    pub(crate) async fn announce(&self, spec: &FunctionSpec) -> Result<usize, ChangeError> {
        let code = match spec.code.artifact() {
            Some(digest) => Some(self.exchange.code_ref(*digest).await?),
            None => None,
        };
        self.federated.write(&spec.name, Some(spec), code)?;
        self.keep(&spec.name).await;
        match code {
            Some(code) => Ok(self.pins.settle(&spec.name, code).await),
            None => Ok(1),
        }
    }

    /// Tells the federation of a version that took the place of one that served,
    /// unless that was done; how many members keep its code.
    pub(crate) async fn announce_untold(
        &self,
        name: &FunctionName,
    ) -> Result<Option<usize>, ChangeError> {
        let _one = self.announcing.lock().await;
        let Some((spec, version)) = self.node.untold_version(name) else {
            return Ok(None);
        };
        let copies = self.announce(&spec).await?;
        self.node.is_told(name, version).await?;
        Ok(Some(copies))
    }

    async fn announce_all(&self) {
        for name in self.node.untold() {
            if let Err(error) = self.announce_untold(&name).await {
                warn!(function = %name, %error, "the federation is not told of a new version yet");
            }
        }
    }

    /// Forgets removals of long ago: whoever was away longer than that is a
    /// newcomer when it is back.
    async fn forget_removals(&self) {
        let forgotten = self.federated.forget_removals();
        if forgotten.is_empty() {
            return;
        }
        let folder = self.folder();
        let removed = tokio::task::spawn_blocking(move || {
            for name in forgotten {
                // What stays is left out at the next start.
                let _ = std::fs::remove_file(records::path(&folder, &name));
            }
        });
        let _ = removed.await;
    }

    /// Says to the federation that a function is removed.
    ///
    /// # Errors
    /// When this node may not.
    pub(crate) async fn withdraw(&self, name: &FunctionName) -> Result<(), ChangeError> {
        self.federated.write(name, None, None)?;
        self.keep(name).await;
        Ok(())
    }

    /// Takes note of a call that somebody else ran, and brings the function here
    /// when it is called often.
    pub(crate) fn called_elsewhere(self: &Arc<Self>, name: &FunctionName) {
        let mut wishes = Vec::new();
        let may_run = || self.may_run(name).is_ok();
        let now = self.now();
        self.rules()
            .called_elsewhere(name, now, may_run, &mut wishes);
        for wish in wishes {
            if let Wish::Bring(name) = wish {
                self.bring_apart(name);
            }
        }
    }

    fn bring_apart(self: &Arc<Self>, name: FunctionName) {
        let replication = Arc::clone(self);
        self.federated.spawn(async move {
            match replication.adopt(&name, false).await {
                Ok(()) => info!(function = %name, "brought a function here that is called often"),
                Err(error) => debug!(function = %name, %error, "a function stays elsewhere"),
            }
        });
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.exchange.counters()
    }

    /// Whether a member asks for code, and not for a call.
    pub(crate) fn is_asked<B>(request: &Request<B>) -> bool {
        request.headers().contains_key(ARTIFACT)
    }

    /// Gives a member a part of an artifact that a function in its scope has.
    pub(crate) async fn serve(
        &self,
        member: PeerId,
        request: Request<Body>,
    ) -> Response<AnswerBody> {
        let (head, body) = request.into_parts();
        let answered = match head.uri.path().ends_with("/keep") {
            true => self.pins.serve(&head, body).await,
            false => {
                // To its end, though whoever asked may be gone: what it reads is
                // counted as long as it reads.
                let exchange = Arc::clone(&self.exchange);
                let (tell, served) = oneshot::channel();
                self.federated.spawn(async move {
                    let _ = tell.send(exchange.serve(member, &head).await);
                });
                let lost = Err(StatusCode::INTERNAL_SERVER_ERROR);
                served.await.unwrap_or(lost)
            }
        };
        let (status, bytes) = answered.unwrap_or_else(|status| (status, Bytes::new()));
        let mut response = Response::new(AnswerBody::Whole(bytes));
        *response.status_mut() = status;
        response
    }
}
