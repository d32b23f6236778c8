//! Functions across the federation: what is said of them, and how their code
//! comes to a node that is to run them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::TryStreamExt as _;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody};
use libp2p_identity::PeerId;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};
use weir_node::Node;
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::{FunctionSpec, Scope};
use weir_node::id::{Digest, FunctionName};
use weir_node::node::{ChangeError, DeployMode};

use crate::catalogue::{CHUNK, CodeRef, Entry, FUNCTIONS, sha256};
use crate::federated::Federated;
use crate::member::save;
use crate::message::{self, Summary};

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

/// Lists of parts that are kept in memory, so that whoever asks for them again
/// and again costs no reading.
const LISTS: usize = 64;

/// Calls of a function that others ran for this node until it is brought here.
const WANTED: u32 = 3;

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
    served: Semaphore,
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
            served: Semaphore::new(SERVED),
        }
    }

    /// Looks after what is heard, until the federation ends.
    pub(crate) async fn run(self: Arc<Self>, mut heard: mpsc::Receiver<(PeerId, Summary)>) {
        let mut again = tokio::time::interval(AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                summary = heard.recv() => match summary {
                    Some((from, summary)) => self.compare(from, &summary.marks, summary.ask),
                    None => return,
                },
                () = self.federated.shared.functions_changed.notified() => {
                    while let Some(name) = self.federated.next_changed() {
                        self.keep(&name).await;
                        self.reconcile(&name).await;
                    }
                }
                // What was not done before the last stop, or whose code nobody
                // could give.
                _ = again.tick() => for name in self.federated.names() {
                    self.reconcile(&name).await;
                },
            }
        }
    }

    /// Tells a member what its summary lacks, and asks it for the same.
    fn compare(&self, from: PeerId, marks: &[u64], ask: bool) {
        if self.federated.agrees(from, marks) {
            return;
        }
        let missing = self.federated.missing(from, marks);
        if !missing.is_empty() {
            debug!(peer = %from, records = missing.len(), "tells functions that were missed");
            self.federated.tell_records(from, missing);
        }
        if ask {
            self.federated.tell_summary(from, false);
        }
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
    /// here already.
    ///
    /// # Errors
    /// When this node may not deploy for others, or the function is too large
    /// to be told of.
    pub(crate) async fn announce(&self, spec: &FunctionSpec) -> Result<(), ChangeError> {
        let code = match spec.code.artifact() {
            Some(digest) => Some(self.code_ref(*digest).await?),
            None => None,
        };
        self.federated.write(&spec.name, Some(spec), code)?;
        self.keep(&spec.name).await;
        Ok(())
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

    async fn bring(&self, name: &FunctionName) -> Result<(), AdoptError> {
        self.may_run(name)?;
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
        let holders = self.federated.holders(name, entry.writer);
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
        let (head, _) = request.into_parts();
        let answered = self.serve_part(member, &head).await;
        let (status, bytes) = match answered {
            Ok(bytes) => (StatusCode::OK, bytes),
            Err(status) => (status, Bytes::new()),
        };
        let mut response = Response::new(AnswerBody::Whole(bytes));
        *response.status_mut() = status;
        response
    }

    async fn serve_part(
        &self,
        member: PeerId,
        asked: &http::request::Parts,
    ) -> Result<Bytes, StatusCode> {
        let text = asked.headers.get(ARTIFACT).map(HeaderValue::to_str);
        let text = text.and_then(Result::ok).unwrap_or_default();
        let digest = Digest::from_hex(text).map_err(|_| StatusCode::BAD_REQUEST)?;
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
            (writer, message::Message::Record(record)) => Entry::new(writer, *record, bytes),
            _ => None,
        }
    });
    entries.collect()
}
