//! Functions across the federation: what is said of them, and how their code
//! comes to a node that is to run them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::TryStreamExt as _;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, Limited, StreamBody};
use libp2p_identity::PeerId;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};
use weir_node::Node;
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::{FunctionSpec, Scope};
use weir_node::id::{Digest, FunctionName};
use weir_node::node::{ChangeError, DeployMode};
use weir_node::time::Time;

use crate::catalogue::{CHUNK, CodeRef, Entry, FUNCTIONS, sha256};
use crate::federated::{AWAY, Federated};
use crate::member::{save, unix_time};
use crate::message::{self, ENVELOPE_BYTES, Summary};

/// Names the artifact that a member asks for; the part is in the path.
const ARTIFACT: &str = "x-weir-artifact";

/// Artifacts that are fetched at once.
const FETCHES: usize = 4;

/// Parts of artifacts that are read for members at once, each in memory.
const SERVED: usize = 8;

/// How long one part may take to come.
const PART_TIME: Duration = Duration::from_secs(30);

/// Members that are asked for one part before the fetch is given up.
const HOLDERS: usize = 6;

/// How often a node looks whether its functions are what their records say.
const AGAIN: Duration = Duration::from_secs(20);

/// Records that are written to disk at once.
const KEPT_AT_ONCE: usize = 64;

/// How long after records came others of the same member are asked for.
const MORE: Duration = Duration::from_secs(1);

/// Lists of parts that are kept in memory, so that whoever asks for them again
/// and again costs no reading.
const LISTS: usize = 64;

/// Calls of a function that others ran for this node until it is brought here.
const WANTED: u32 = 3;

/// How long a deployment waits until others keep its code.
const SETTLING: Duration = Duration::from_secs(10);

/// Artifacts that are being fetched to be kept, at once.
const PINNINGS: usize = 16;

/// How full a node may be before it lets go of functions that it brought here
/// itself, so that there is room for those of its own users; and how many it
/// lets go at once.
const FULL: f64 = 0.9;
const LET_GO: usize = 64;

/// How long code is kept that others should keep.
const UNWANTED: Duration = Duration::from_secs(600);

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
    /// The digests of an artifact's parts.
    lists: DashMap<Digest, Bytes>,
    fetches: Semaphore,
    /// When the next part may be fetched.
    paced: Mutex<tokio::time::Instant>,
    served: Semaphore,
    /// Artifacts that this node keeps for the federation, and when it was last
    /// one of those who should.
    pins: DashMap<Digest, Time>,
    /// Functions that were brought here and not deployed here: how many calls
    /// they had when that was looked up, and when that number was new.
    brought: DashMap<FunctionName, (u64, Time)>,
    /// One pinning at a time for each; others wait for it.
    pinning: DashMap<Digest, Arc<tokio::sync::Mutex<()>>>,
}

impl Steward {
    pub(crate) fn new(node: Node, federated: Federated) -> Steward {
        Steward {
            node,
            federated,
            adopting: DashMap::new(),
            wanted: DashMap::new(),
            lists: DashMap::new(),
            fetches: Semaphore::new(FETCHES),
            paced: Mutex::new(tokio::time::Instant::now()),
            served: Semaphore::new(SERVED),
            pins: DashMap::new(),
            brought: DashMap::new(),
            pinning: DashMap::new(),
        }
    }

    /// Looks after what is heard, until the federation ends.
    pub(crate) async fn run(self: Arc<Self>, mut heard: mpsc::Receiver<(PeerId, Summary)>) {
        // Apart: many flushes to disk must not keep it from hearing more.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Arc::clone(&self).keep_changed());
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
                            let at = tokio::time::Instant::now() + MORE;
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
                () = self.federated.shared.members_changed.notified() => self.tend_pins(),
                // What was not done before the last stop, or whose code nobody
                // could give.
                _ = again.tick() => {
                    for name in self.federated.names() {
                        self.reconcile(&name).await;
                        self.note_use(&name);
                    }
                    self.let_go().await;
                    self.tend_pins();
                    self.forget_removals().await;
                }
            }
        }
    }

    /// Writes what is heard to disk, and does what it says.
    async fn keep_changed(self: Arc<Self>) {
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

    /// Writes what is known of a function to disk.
    async fn keep(&self, name: &FunctionName) {
        let Some(entry) = self.federated.entry(name) else {
            return;
        };
        let path = self.folder().join(file_name(name));
        let kept = tokio::task::spawn_blocking(move || save(&path, &entry.sealed)).await;
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
        // What is this node's alone is nobody else's to change.
        if own.scope == Scope::Node {
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
            Some(digest) => Some(self.code_ref(*digest).await?),
            None => None,
        };
        self.federated.write(&spec.name, Some(spec), code)?;
        self.keep(&spec.name).await;
        match code {
            Some(code) => Ok(self.settle(&spec.name, code).await),
            None => Ok(1),
        }
    }

    /// Has others keep the code of a function that was deployed here; how many do
    /// when that is done, or has taken long enough.
    async fn settle(&self, name: &FunctionName, code: CodeRef) -> usize {
        let Some(entry) = self.federated.entry(name) else {
            return 1;
        };
        let own = self.federated.shared.id;
        let wanted = entry
            .spec
            .as_ref()
            .map_or(1, |spec| usize::from(spec.copies));
        let mut candidates = self.federated.candidates();
        let began = tokio::time::Instant::now();
        let mut kept = 1;
        // Whoever cannot is passed over, as if it were not there.
        for _ in 0..HOLDERS {
            let keepers = candidates.keepers(&entry);
            let others = keepers.iter().copied().filter(|keeper| *keeper != own);
            let asked: Vec<PeerId> = others.collect();
            let left = SETTLING.saturating_sub(began.elapsed());
            let answers = asked.iter().map(|keeper| {
                let asked = self.ask_to_keep(*keeper, &entry, code);
                async move { matches!(tokio::time::timeout(left, asked).await, Ok(Ok(()))) }
            });
            let answers = futures_util::future::join_all(answers).await;
            kept = 1 + answers.iter().filter(|kept| **kept).count();
            let failed = asked.iter().zip(&answers).filter(|(_, kept)| !**kept);
            let failed: Vec<PeerId> = failed.map(|(keeper, _)| *keeper).collect();
            candidates.leave_out(&failed);
            if failed.is_empty() || left.is_zero() {
                break;
            }
        }
        if kept < wanted {
            debug!(function = %name, kept, wanted, "fewer members keep code than should");
        }
        kept
    }

    async fn ask_to_keep(
        &self,
        keeper: PeerId,
        entry: &Entry,
        code: CodeRef,
    ) -> Result<(), String> {
        let body = Full::new(entry.sealed.clone());
        let request = Request::post("https://weir/artifacts/keep")
            .version(http::Version::HTTP_2)
            .header(ARTIFACT, code.artifact().hex())
            .body(body.map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| error.to_string())?;
        let (response, _using) = self.federated.send(keeper, request).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }

    /// Keeps the code of a function for the federation, fetching it if need be.
    async fn pin(&self, name: &FunctionName, code: CodeRef) -> Result<(), AdoptError> {
        let digest = code.artifact();
        let now = self.federated.shared.clock.now();
        if let Some(mut wanted) = self.pins.get_mut(&digest) {
            *wanted = now;
            return Ok(());
        }
        let many = self.pinning.len() >= PINNINGS && !self.pinning.contains_key(&digest);
        if many || self.pins.len() >= FUNCTIONS {
            return Err(AdoptError::Code(
                "this node keeps too much already".to_owned(),
            ));
        }
        let turn = self.pinning.entry(digest).or_default().clone();
        let pinned = {
            let _turn = turn.lock().await;
            self.pin_now(name, code, now).await
        };
        drop(turn);
        self.pinning
            .remove_if(&digest, |_, turn| Arc::strong_count(turn) == 1);
        pinned
    }

    async fn pin_now(
        &self,
        name: &FunctionName,
        code: CodeRef,
        now: Time,
    ) -> Result<(), AdoptError> {
        let digest = code.artifact();
        if self.pins.contains_key(&digest) {
            return Ok(());
        }
        if !self.node.pin_artifact(&digest) {
            let gone = || AdoptError::Unfit(format!("{name}: it was removed"));
            let entry = self.federated.entry(name).ok_or_else(gone)?;
            {
                let _turn = self.fetches.acquire().await;
                self.fetch(name, &entry, code).await?;
            }
            if !self.node.pin_artifact(&digest) {
                return Err(AdoptError::Code("it was removed at once".to_owned()));
            }
        }
        self.pins.insert(digest, now);
        Ok(())
    }

    /// Keeps what this node should keep, and lets go of the rest after a while.
    fn tend_pins(self: &Arc<Self>) {
        let now = self.federated.shared.clock.now();
        let mut begun = 0;
        for (name, code) in self.federated.kept_here() {
            if let Some(mut wanted) = self.pins.get_mut(&code.artifact()) {
                *wanted = now;
                continue;
            }
            // Beyond the bound it fails, and is tried again.
            let steward = Arc::clone(self);
            begun += 1;
            if begun > PINNINGS {
                break;
            }
            tokio::spawn(async move {
                if let Err(error) = steward.pin(&name, code).await {
                    debug!(function = %name, %error, "cannot keep code");
                }
            });
        }
        self.pins.retain(|digest, wanted| {
            let keeps = now.since(*wanted) < UNWANTED;
            if !keeps {
                self.node.unpin_artifact(digest);
            }
            keeps
        });
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

    async fn code_ref(&self, digest: Digest) -> Result<CodeRef, ChangeError> {
        let list = self.chunk_list(digest).await;
        let list =
            list.ok_or_else(|| ChangeError::Invalid(format!("artifact {digest} is gone")))?;
        Ok(CodeRef {
            digest: *digest.as_bytes(),
            bytes: self.node.artifact(&digest).unwrap_or_default(),
            chunks: sha256(&list),
        })
    }

    /// The digests of an artifact's parts, one after the other.
    async fn chunk_list(&self, digest: Digest) -> Option<Bytes> {
        let path = self.node.artifact_path(&digest)?;
        if let Some(list) = self.lists.get(&digest) {
            return Some(list.clone());
        }
        let read = tokio::task::spawn_blocking(move || {
            use std::io::Read as _;
            let mut file = std::fs::File::open(path)?;
            let mut list = Vec::new();
            loop {
                let mut part = Vec::with_capacity(64 << 10);
                (&mut file).take(CHUNK).read_to_end(&mut part)?;
                if part.is_empty() && !list.is_empty() {
                    return std::io::Result::Ok(list);
                }
                list.extend(sha256(&part));
                if (part.len() as u64) < CHUNK {
                    return Ok(list);
                }
            }
        });
        let list = Bytes::from(read.await.ok()?.ok()?);
        if self.lists.len() >= LISTS {
            self.lists.clear();
        }
        self.lists.insert(digest, list.clone());
        Some(list)
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
        let unfit = |text: &str| Err(AdoptError::Unfit(format!("{name}: {text}")));
        let Some(entry) = self.federated.entry(name) else {
            return unfit("nothing is known of it");
        };
        let Some(spec) = &entry.spec else {
            return unfit("it was removed");
        };
        // What its deployer was granted elsewhere is not granted here.
        let container = &spec.container;
        if !spec.allow_outbound.is_empty()
            || container.network != weir_node::function::Network::default()
            || container.read_write
            || container.image_user
        {
            return unfit("it asks for grants that its own node gives, and this one does not");
        }
        match self.node.has_executor_for(spec) {
            true => Ok(()),
            false => unfit("no executor of this node runs it"),
        }
    }

    /// Brings a function here: its code from those who have it, and then as if
    /// it were deployed. With `anew` also where an older one is here already.
    ///
    /// # Errors
    /// Why it is not here.
    pub(crate) async fn adopt(&self, name: &FunctionName, anew: bool) -> Result<(), AdoptError> {
        let turn = self.adopting.entry(name.clone()).or_default().clone();
        let adopted = {
            let _turn = turn.lock().await;
            match self.node.spec(name) {
                // Whoever was before this one has brought it.
                Some(_) if !anew => Ok(()),
                Some(_) | None => self.bring(name).await,
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

    /// Lets go of functions that were brought here, those first that were not
    /// called for longest, until the node is not full any more.
    async fn let_go(&self) {
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
            let Some(name) = least.map(|brought| brought.key().clone()) else {
                return;
            };
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

    async fn bring(&self, name: &FunctionName) -> Result<(), AdoptError> {
        self.may_run(name)?;
        self.let_go().await;
        let gone = || AdoptError::Unfit(format!("{name}: it was removed"));
        let entry = self.federated.entry(name).ok_or_else(gone)?;
        let spec = entry.spec.clone().ok_or_else(gone)?;
        if let Some(code) = &entry.record.code
            && self.node.artifact(&code.artifact()).is_none()
        {
            let _turn = self.fetches.acquire().await;
            self.fetch(name, &entry, *code).await?;
        }
        self.node
            .deploy((*spec).clone(), DeployMode::CreateOrReplace)
            .await?;
        self.wanted.remove(name);
        self.note_use(name);
        Ok(())
    }

    /// Fetches code from the nearest that have it, part by part, each checked
    /// before it counts.
    async fn fetch(
        &self,
        name: &FunctionName,
        entry: &Entry,
        code: CodeRef,
    ) -> Result<(), AdoptError> {
        let digest = code.artifact();
        let holders = self.federated.holders(name, entry);
        let holders: Vec<PeerId> = holders.into_iter().take(HOLDERS).collect();
        let failed = |reasons: &[String]| {
            AdoptError::Code(match reasons.is_empty() {
                true => "no member that has it can be reached".to_owned(),
                false => reasons.join("; "),
            })
        };
        let mut reasons = Vec::new();
        let mut list = None;
        for holder in &holders {
            match self.part(*holder, digest, "list", code.count() * 32).await {
                Ok(bytes) if code.is_list(&bytes) => {
                    list = Some(bytes);
                    break;
                }
                Ok(_) => {
                    self.federated
                        .lied(*holder, "gave a wrong list of an artifact's parts");
                    reasons.push(format!("{holder} gave a wrong list"));
                }
                Err(reason) => reasons.push(format!("{holder}: {reason}")),
            }
        }
        let list = list.ok_or_else(|| failed(&reasons))?;
        // One part is on its way while another is written.
        let (parts, came) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let stream = futures_util::stream::unfold(came, |mut came| async {
            came.recv().await.map(|part| (part, came))
        });
        let body = StreamBody::new(stream.map_ok(Frame::data).map_err(Into::into));
        let put = self
            .node
            .put_artifact(digest, Some(code.bytes), Body::new(body));
        let sent = async {
            for (at, wanted) in list.chunks(32).enumerate() {
                self.pace(CHUNK).await;
                let part = self.checked_part(&holders, digest, at, wanted, code).await;
                let broken = part.is_err();
                let part = part.map_err(std::io::Error::other);
                if parts.send(part).await.is_err() || broken {
                    break;
                }
            }
            drop(parts);
        };
        let (put, ()) = tokio::join!(put, sent);
        put.map_err(|error| AdoptError::Code(error.to_string()))?;
        info!(function = %name, %digest, bytes = code.bytes, "fetched code");
        Ok(())
    }

    /// Waits until so many bytes more may be fetched.
    async fn pace(&self, bytes: u64) {
        let Some(rate) = self.federated.settings().fetch_rate else {
            return;
        };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.as_bytes().max(1) as f64);
        let at = {
            let mut next = self.paced.lock().unwrap_or_else(PoisonError::into_inner);
            let at = tokio::time::Instant::now().max(*next);
            *next = at + takes;
            at
        };
        tokio::time::sleep_until(at).await;
    }

    /// One part of an artifact that is what the list says, from whoever gives it:
    /// each holder has its share of the parts.
    async fn checked_part(
        &self,
        holders: &[PeerId],
        digest: Digest,
        at: usize,
        wanted: &[u8],
        code: CodeRef,
    ) -> Result<Bytes, String> {
        let mut reasons = Vec::new();
        for number in 0..holders.len() {
            let holder = holders[(at + number) % holders.len()];
            let length = CHUNK.min(code.bytes - (at as u64 * CHUNK).min(code.bytes));
            match self.part(holder, digest, &at.to_string(), length).await {
                Ok(bytes) if sha256(&bytes) == *wanted => return Ok(bytes),
                Ok(_) => {
                    self.federated
                        .lied(holder, "gave wrong bytes for an artifact");
                    reasons.push(format!("{holder} gave wrong bytes"));
                }
                Err(reason) => reasons.push(format!("{holder}: {reason}")),
            }
        }
        Err(format!("part {at}: {}", reasons.join("; ")))
    }

    async fn part(
        &self,
        from: PeerId,
        digest: Digest,
        part: &str,
        length: u64,
    ) -> Result<Bytes, String> {
        let request = Request::get(format!("https://weir/artifacts/{part}"))
            .version(http::Version::HTTP_2)
            .header(ARTIFACT, digest.hex())
            .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| error.to_string())?;
        let answered = async {
            let (response, using) = self.federated.send(from, request).await?;
            let status = response.status();
            if status != StatusCode::OK {
                return Err(format!("it answered {status}"));
            }
            let limit = usize::try_from(length).unwrap_or(usize::MAX);
            let body = Limited::new(response.into_body(), limit).collect().await;
            drop(using);
            let body = body.map_err(|error| error.to_string())?;
            Ok(body.to_bytes())
        };
        match tokio::time::timeout(PART_TIME, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("nothing came within {PART_TIME:?}")),
        }
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
            true => self.serve_keeping(&head, body).await,
            false => self.serve_part(member, &head).await,
        };
        let (status, bytes) = match answered {
            Ok(bytes) => (StatusCode::OK, bytes),
            Err(status) => (status, Bytes::new()),
        };
        let mut response = Response::new(AnswerBody::Whole(bytes));
        *response.status_mut() = status;
        response
    }

    /// Keeps the code of a function whose record a member brings.
    async fn serve_keeping(
        &self,
        asked: &http::request::Parts,
        body: Body,
    ) -> Result<Bytes, StatusCode> {
        let digest = digest_in(asked)?;
        let body = gather(body).await.ok_or(StatusCode::PAYLOAD_TOO_LARGE)?;
        let name = self.federated.hear_brought(&body);
        let name = name.ok_or(StatusCode::BAD_REQUEST)?;
        let code = self.federated.entry(&name).and_then(|e| e.record.code);
        let code = code.filter(|code| code.artifact() == digest);
        // Another version is known here, or its writer is not believed.
        let code = code.ok_or(StatusCode::CONFLICT)?;
        match self.pin(&name, code).await {
            Ok(()) => Ok(Bytes::new()),
            Err(error) => {
                debug!(function = %name, %error, "cannot keep code");
                Err(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }

    async fn serve_part(
        &self,
        member: PeerId,
        asked: &http::request::Parts,
    ) -> Result<Bytes, StatusCode> {
        let digest = digest_in(asked)?;
        // Whoever asks goes on to another when this one is busy.
        let Ok(_turn) = self.served.try_acquire() else {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        if !self.federated.may_have(&member, &digest) {
            return Err(StatusCode::NOT_FOUND);
        }
        let part = asked.uri.path().rsplit('/').next().unwrap_or_default();
        if part == "list" {
            let list = self.chunk_list(digest).await.ok_or(StatusCode::NOT_FOUND)?;
            return Ok(list);
        }
        let at: u64 = part.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
        let path = self
            .node
            .artifact_path(&digest)
            .ok_or(StatusCode::NOT_FOUND)?;
        let read = tokio::task::spawn_blocking(move || read_part(&path, at)).await;
        match read {
            Ok(Ok(bytes)) => Ok(bytes.into()),
            _ => Err(StatusCode::NOT_FOUND),
        }
    }
}

/// A record as it was brought; `None` when it is too long, or broke off.
async fn gather(mut body: Body) -> Option<Bytes> {
    let mut gathered = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.ok()?.into_data() {
            gathered.extend_from_slice(&piece);
        }
        if gathered.len() > ENVELOPE_BYTES {
            return None;
        }
    }
    Some(gathered.into())
}

fn digest_in(asked: &http::request::Parts) -> Result<Digest, StatusCode> {
    let text = asked.headers.get(ARTIFACT).map(HeaderValue::to_str);
    let text = text.and_then(Result::ok).unwrap_or_default();
    Digest::from_hex(text).map_err(|_| StatusCode::BAD_REQUEST)
}

fn read_part(path: &Path, at: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(at.saturating_mul(CHUNK)))?;
    let mut part = Vec::new();
    file.take(CHUNK).read_to_end(&mut part)?;
    Ok(part)
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
    }
}

/// Puts the records of functions aside; nothing reads them but people.
pub(crate) fn set_aside(folder: &Path) {
    let functions = folder.join("functions");
    let aside = folder.join("functions.aside");
    let _ = std::fs::remove_dir_all(&aside);
    if let Err(error) = std::fs::rename(&functions, aside) {
        warn!(%error, "old records of functions stay");
    }
    if let Err(error) = std::fs::create_dir_all(functions) {
        warn!(%error, "functions of the federation are not kept");
    }
}
