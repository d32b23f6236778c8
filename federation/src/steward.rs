//! Functions across the federation: what is said of them, and how their code
//! comes to a node that is to run them.

mod exchange;
pub mod layers;
mod pins;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use http::{Request, Response, StatusCode};
use libp2p_identity::PeerId;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use weir_node::Node;
use weir_node::clock::Moment as _;
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::{FunctionSpec, Scope};
use weir_node::id::{Digest, FunctionName};
use weir_node::node::{ChangeError, DeployMode};
use weir_node::panics;
use weir_node::time::Time;

pub use self::exchange::Counters;
use self::exchange::{ARTIFACT, Exchange};
use self::pins::Pins;
use crate::catalogue::{Entry, FUNCTIONS, sha256};
use crate::dispatch::asks_for_grants;
use crate::federated::{AWAY, Federated};
use crate::member::{save, unix_millis, unix_time};
use crate::message::{self, Summary};

/// How often a node looks whether its functions are what their records say.
const AGAIN: Duration = Duration::from_secs(20);

/// Records that are written to disk at once.
const KEPT_AT_ONCE: usize = 64;

/// How long after records came others of the same member are asked for.
const MORE: Duration = Duration::from_secs(1);

/// Calls of a function that others ran for this node until it is brought here.
const WANTED: u32 = 3;

/// How full a node may be before it lets go of functions that it brought here
/// itself, so that there is room for those of its own users; and how many it
/// lets go at once.
const FULL: f64 = 0.9;
const LET_GO: usize = 64;

/// A function that was called within so long is not let go of for the sake of
/// other nodes' users.
const IN_USE: Duration = Duration::from_secs(600);

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
pub(crate) struct Steward {
    node: Node,
    federated: Federated,
    /// One adoption of a function at a time; others wait for it.
    adopting: DashMap<FunctionName, Arc<tokio::sync::Mutex<()>>>,
    /// Calls that others ran.
    wanted: DashMap<FunctionName, u32>,
    exchange: Arc<Exchange>,
    pins: Arc<Pins>,
    /// Functions that were brought here and not deployed here: how many calls
    /// they had when that was looked up, and when that number was new.
    brought: DashMap<FunctionName, (u64, Time)>,
    /// Held by whoever tells of a new version.
    announcing: tokio::sync::Mutex<()>,
}

impl Steward {
    pub(crate) fn new(node: Node, federated: Federated) -> Steward {
        let exchange = Arc::new(Exchange::new(node.clone(), federated.clone()));
        let pins = Pins::new(node.clone(), federated.clone(), Arc::clone(&exchange));
        let pins = Arc::new(pins);
        Steward {
            node,
            federated,
            adopting: DashMap::new(),
            wanted: DashMap::new(),
            exchange,
            pins,
            brought: DashMap::new(),
            announcing: tokio::sync::Mutex::new(()),
        }
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
        let mut again = tokio::time::interval(AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Of many records whole parts are told, and then the next.
        let mut more: Option<(PeerId, usize, tokio::time::Instant)> = None;
        loop {
            let due = async {
                match more {
                    Some((_, _, at)) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                summary = heard.recv() => match summary {
                    Some((from, summary)) => {
                        if self.compare(from, &summary.marks, summary.ask) {
                            let at = tokio::time::Instant::now().later(MORE);
                            more = Some((from, self.federated.count(), at));
                        }
                    }
                    None => return,
                },
                () = due => if let Some((from, count, _)) = more.take()
                    && self.federated.count() != count
                {
                    self.federated.tell_summary(from, true);
                },
                () = self.federated.shared.forgot.notified() => {
                    self.federated.ask_around();
                    let folder = self.federated.settings().folder.clone();
                    tokio::task::spawn_blocking(move || drop_asides(&folder));
                }
                () = self.federated.shared.members_changed.notified() => self.pins.tend(),
                () = self.node.untold_more() => self.announce_all().await,
                // What was not done before the last stop, or whose code nobody
                // could give.
                _ = again.tick() => {
                    for name in self.federated.names() {
                        self.reconcile(&name).await;
                        self.note_use(&name);
                    }
                    self.announce_all().await;
                    self.let_go(Duration::ZERO).await;
                    self.pins.tend();
                    self.forget_removals().await;
                }
            }
        }
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

    /// Writes what is known of a function to disk, or forgets it there too.
    async fn keep(&self, name: &FunctionName) {
        let entry = self.federated.entry(name);
        let path = self.folder().join(file_name(name));
        let kept = tokio::task::spawn_blocking(move || match entry {
            Some(entry) => save(&path, &entry.sealed),
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
        });
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
        let Some(own) = self.node.spec(name) else {
            let prefetch = entry.spec.as_ref().is_some_and(|spec| spec.prefetch);
            if prefetch && self.may_run(name).is_ok() && !self.adopting.contains_key(name) {
                let (steward, name) = (Arc::clone(self), name.clone());
                tokio::spawn(async move {
                    if let Err(error) = steward.adopt(&name, false).await {
                        debug!(function = %name, %error, "a function is not brought here yet");
                    }
                });
            }
            return;
        };
        // What is this node's alone is nobody else's to change; and of what is
        // new here the others hear next.
        if own.scope == Scope::Node || self.node.untold_version(name).is_some() {
            return;
        }
        match &entry.spec {
            None => {
                info!(function = %name, by = %entry.writer, "removes a function");
                if let Err(error) = self.node.remove(name).await {
                    debug!(function = %name, %error, "it was removed already");
                }
            }
            Some(spec) if **spec == *own => {}
            // It is on its way.
            Some(_) if self.adopting.contains_key(name) => {}
            Some(_) => {
                let (steward, name) = (Arc::clone(self), name.clone());
                tokio::spawn(async move {
                    match steward.adopt(&name, true).await {
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
                let _ = std::fs::remove_file(folder.join(file_name(&name)));
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

    /// Counts a call that somebody else ran, and brings the function here when
    /// it is called often.
    pub(crate) fn is_wanted(self: &Arc<Self>, name: &FunctionName) {
        let calls = {
            if self.wanted.len() >= FUNCTIONS {
                self.wanted.clear();
            }
            let mut calls = self.wanted.entry(name.clone()).or_default();
            *calls = calls.saturating_add(1);
            *calls
        };
        if calls != WANTED || self.may_run(name).is_err() {
            return;
        }
        let (steward, name) = (Arc::clone(self), name.clone());
        tokio::spawn(async move {
            match steward.adopt(&name, false).await {
                Ok(()) => info!(function = %name, "brought a function here that is called often"),
                Err(error) => debug!(function = %name, %error, "a function stays elsewhere"),
            }
        });
    }

    /// Whether this node may and can run a function that it hears of.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_run(&self, name: &FunctionName) -> Result<(), AdoptError> {
        let entry = self.federated.entry(name);
        let entry = entry.ok_or_else(|| "nothing is known of it".to_owned());
        let fits = entry.and_then(|entry| {
            let spec = entry.spec.ok_or_else(|| "it was removed".to_owned())?;
            self.fits(&spec)
        });
        fits.map_err(|reason| AdoptError::Unfit(format!("{name}: {reason}")))
    }

    /// Whether a function of others asks for no more than this node gives them.
    ///
    /// # Errors
    /// What is too much, in words.
    pub(crate) fn fits(&self, spec: &FunctionSpec) -> Result<(), String> {
        // What its deployer was granted elsewhere is not granted here.
        if asks_for_grants(spec) {
            let text = "it asks for grants that its own node gives, and this one does not";
            return Err(text.to_owned());
        }
        self.node.check(spec).map_err(|error| error.to_string())?;
        match self.node.has_executor_for(spec) {
            true => Ok(()),
            false => Err("no executor of this node runs it".to_owned()),
        }
    }

    /// Whether this node has the secrets that a function names.
    ///
    /// # Errors
    /// Which one it lacks.
    pub(crate) async fn has_secrets(&self, name: &FunctionName) -> Result<(), AdoptError> {
        let own = self.node.spec(name);
        let spec = own.or_else(|| self.federated.entry(name)?.spec);
        let Some(spec) = spec.filter(|spec| !spec.secrets.is_empty()) else {
            return Ok(());
        };
        let here = self.node.secrets(&name.namespace).await?;
        match spec.secrets.iter().find(|secret| !here.contains(secret)) {
            None => Ok(()),
            Some(secret) => Err(AdoptError::Unfit(format!("it has no secret {secret}"))),
        }
    }

    /// Whether this node may and can run a function that it hears of, as far as
    /// that shows without the code.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn may_run_with_secrets(&self, name: &FunctionName) -> Result<(), AdoptError> {
        self.may_run(name)?;
        self.has_secrets(name).await
    }

    /// Whether a function is being brought here.
    pub(crate) fn is_adopting(&self, name: &FunctionName) -> bool {
        self.adopting.contains_key(name)
    }

    /// Brings a function here for users of other nodes, or its newest version
    /// where an older one is here.
    ///
    /// # Errors
    /// Why it is not here.
    pub(crate) async fn adopt_for_guests(&self, name: &FunctionName) -> Result<(), AdoptError> {
        let newest = self.federated.entry(name).and_then(|entry| entry.spec);
        let anew = self.node.spec(name).is_some_and(|own| Some(own) != newest);
        self.adopt_beside(name, anew, IN_USE).await
    }

    /// Brings a function here: its code from those who have it, and then as if
    /// it were deployed. With `anew` also where an older one is here already.
    ///
    /// # Errors
    /// Why it is not here.
    pub(crate) async fn adopt(&self, name: &FunctionName, anew: bool) -> Result<(), AdoptError> {
        self.adopt_beside(name, anew, Duration::ZERO).await
    }

    /// The same, at the cost of functions that were not called for so long.
    async fn adopt_beside(
        &self,
        name: &FunctionName,
        anew: bool,
        unused: Duration,
    ) -> Result<(), AdoptError> {
        let turn = self.adopting.entry(name.clone()).or_default().clone();
        let adopted = {
            let _turn = turn.lock().await;
            match self.node.spec(name) {
                // Whoever was before this one has brought it.
                Some(_) if !anew => Ok(()),
                // Or its turn would never end.
                Some(_) | None => match panics::contain(self.bring(name, unused)).await {
                    Ok(brought) => brought,
                    Err(panicked) => Err(AdoptError::Code(panicked.to_string())),
                },
            }
        };
        drop(turn);
        self.adopting
            .remove_if(name, |_, turn| Arc::strong_count(turn) == 1);
        adopted
    }

    /// Notes whether a function was called that was brought here.
    fn note_use(&self, name: &FunctionName) {
        let own = self.node.spec(name);
        let elsewhere = || {
            let entry = self.federated.entry(name);
            entry.is_some_and(|entry| entry.writer != self.federated.shared.id)
        };
        let own = own.filter(|own| own.scope != Scope::Node && !own.prefetch && elsewhere());
        let calls = own.and_then(|_| self.node.calls_of(name));
        let Some(calls) = calls else {
            self.brought.remove(name);
            return;
        };
        let now = self.federated.shared.clock.now();
        let mut noted = self.brought.entry(name.clone()).or_insert((calls, now));
        if noted.0 != calls {
            *noted = (calls, now);
        }
    }

    /// Lets go of functions that were brought here and not called for so long,
    /// those first that were not called for longest, until the node is not full
    /// any more.
    async fn let_go(&self, unused: Duration) {
        for _ in 0..LET_GO {
            if self.node.fullness() < FULL {
                return;
            }
            // Looked up again: only a few were called since.
            let names: Vec<FunctionName> = self.brought.iter().map(|b| b.key().clone()).collect();
            for name in &names {
                self.note_use(name);
            }
            let least = self.brought.iter().min_by_key(|brought| brought.value().1);
            let Some((name, used)) = least.map(|b| (b.key().clone(), b.value().1)) else {
                return;
            };
            if self.federated.shared.clock.now().since(used) < unused {
                return;
            }
            let code = self.node.spec(&name);
            let code = code.and_then(|spec| spec.code.artifact().copied());
            self.brought.remove(&name);
            if let Err(error) = self.node.remove(&name).await {
                debug!(function = %name, %error, "a function that is not called stays");
                continue;
            }
            info!(function = %name, "let go of a function that was not called for longest");
            if let Some(code) = code {
                self.node.discard_artifact(code).await;
            }
        }
    }

    async fn bring(&self, name: &FunctionName, unused: Duration) -> Result<(), AdoptError> {
        self.may_run(name)?;
        self.let_go(unused).await;
        let gone = || AdoptError::Unfit(format!("{name}: it was removed"));
        let entry = self.federated.entry(name).ok_or_else(gone)?;
        let spec = entry.spec.clone().ok_or_else(gone)?;
        if let Some(code) = &entry.record.code
            && self.node.artifact(&code.artifact()).is_none()
        {
            self.exchange.fetch(name, &entry, *code).await?;
        }
        self.node
            .deploy((*spec).clone(), DeployMode::CreateOrReplace)
            .await?;
        self.wanted.remove(name);
        self.note_use(name);
        Ok(())
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
                let served = tokio::spawn(async move { exchange.serve(member, &head).await });
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

fn file_name(name: &FunctionName) -> String {
    // Names are longer than some file systems take.
    Digest::new(sha256(name.qualified().as_bytes())).hex()
}

/// Reads what an earlier run knew. What cannot be read is left out: others
/// know it too.
pub(crate) fn recover(folder: &Path) -> Vec<(FunctionName, Entry)> {
    if let Err(error) = std::fs::create_dir_all(folder) {
        warn!(folder = %folder.display(), %error, "functions of the federation are not kept");
        return Vec::new();
    }
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let entries = files.take(FUNCTIONS).filter_map(|file| {
        let bytes = Bytes::from(std::fs::read(file.path()).ok()?);
        match message::open(&bytes).ok()? {
            (_, message::Message::Record(record)) if record.is_over(unix_time()) => {
                let _ = std::fs::remove_file(file.path());
                None
            }
            (writer, message::Message::Record(record)) => Entry::new(writer, *record, bytes),
            _ => None,
        }
    });
    entries.collect()
}

/// Where it is written when others were heard last.
fn contact(folder: &Path) -> PathBuf {
    folder.join("contact")
}

/// Writes down that others are heard.
pub(crate) fn note_contact(folder: &Path) {
    if let Err(error) = save(&contact(folder), b"") {
        warn!(%error, "it is not kept when others were heard last");
    }
}

/// Puts aside what an earlier run knew, where that is too long ago to be told.
pub(crate) fn set_old_aside(folder: &Path) {
    let heard = std::fs::metadata(contact(folder)).and_then(|file| file.modified());
    let age = heard.ok().and_then(|at| at.elapsed().ok());
    if age.is_some_and(|age| age > AWAY) {
        warn!(
            "this node heard of nobody for more than seven days: its functions are its own until \
             somebody announces them anew (weir list --federation, weir announce)"
        );
        set_aside(folder);
        drop_asides(folder);
    }
}

/// What folders begin with that hold records which were put aside, and how many
/// of them stay: the oldest, since what came after them came from others.
const ASIDE: &str = "functions.aside-";
const ASIDES: usize = 4;

/// Puts the records of functions aside; nothing reads them but people. Quick
/// enough for where others wait.
pub(crate) fn set_aside(folder: &Path) {
    let functions = folder.join("functions");
    let aside = folder.join(format!("{ASIDE}{}", unix_millis()));
    if let Err(error) = std::fs::rename(&functions, aside) {
        warn!(%error, "old records of functions stay");
    }
    if let Err(error) = std::fs::create_dir_all(functions) {
        warn!(%error, "functions of the federation are not kept");
    }
}

fn drop_asides(folder: &Path) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let asides = files.map(|file| file.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(ASIDE))
    });
    let mut asides: Vec<PathBuf> = asides.collect();
    asides.sort();
    for surplus in asides.iter().skip(ASIDES) {
        if let Err(error) = std::fs::remove_dir_all(surplus) {
            debug!(%error, "records that were put aside stay");
        }
    }
}
