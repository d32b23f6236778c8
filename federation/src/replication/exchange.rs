//! Code on its way between members: fetched in parts from those who have it,
//! each part checked before it counts, and given in parts to those who may
//! have it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::TryStreamExt as _;
use http::header::RANGE;
use http::{HeaderValue, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody};
use libp2p_identity::PeerId;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info};
use weir_federation_core::replication::fetching::{Gave, PART_TIMEOUT, Pace, Part, Spacing, Step};
use weir_node::Node;
use weir_node::executor::Body;
use weir_node::function::ArtifactKind;
use weir_node::id::{Digest, FunctionName};
use weir_node::layers::Layer;
use weir_node::node::ChangeError;

use super::AdoptError;
use super::layers::{self, Own};
use crate::catalogue::{CHUNK, CodeRef, Entry, sha256};
use crate::federated::Federated;

/// Names the artifact that a member asks for; the part is in the path.
pub(super) const ARTIFACT: &str = "x-weir-artifact";

/// Artifacts that are fetched at once.
const FETCHES: usize = 4;

/// Parts of artifacts that are read for members at once, each in memory.
const SERVED: usize = 8;

/// Lists of parts, and of layers, that are kept in memory, so that whoever asks
/// for them again and again costs no reading.
const LISTS: usize = 64;

/// What was counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of code that came from members.
    pub fetched: AtomicU64,
    /// Bytes of code that were not sent, since this machine had them.
    pub reused: AtomicU64,
}

/// Fetches and gives code.
pub(super) struct Exchange {
    node: Node,
    federated: Federated,
    /// The digests of an artifact's parts.
    lists: DashMap<Digest, Bytes>,
    /// The layers of an image archive.
    tables: DashMap<Digest, Bytes>,
    fetches: Semaphore,
    /// When the next part may be fetched.
    spacing: Mutex<Spacing>,
    served: Semaphore,
    counters: Counters,
}

/// An artifact that is being fetched.
struct Wanted {
    code: CodeRef,
    /// Those that may have it; who turns out not to is left out.
    holders: Vec<PeerId>,
    /// What of it is here.
    own: Own,
    /// Layers that no artifact here has.
    sought: Vec<Layer>,
    /// What came from members so far.
    pace: Pace,
}

/// What members are asked for.
struct Asked<'a> {
    digest: Digest,
    part: &'a str,
    /// Which bytes of it; `None` for all.
    range: Option<Range<usize>>,
    /// Bytes of the longest answer.
    length: u64,
    /// What is said of whoever gives something else, where that can be told.
    lie: Option<&'static str>,
}

impl Exchange {
    pub(super) fn new(node: Node, federated: Federated) -> Exchange {
        Exchange {
            node,
            federated,
            lists: DashMap::new(),
            tables: DashMap::new(),
            fetches: Semaphore::new(FETCHES),
            spacing: Mutex::default(),
            served: Semaphore::new(SERVED),
            counters: Counters::default(),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How a record names code that is here.
    ///
    /// # Errors
    /// When it is not.
    pub(super) async fn code_ref(&self, digest: Digest) -> Result<CodeRef, ChangeError> {
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
            let mut file = File::open(path)?;
            let mut list = Vec::new();
            loop {
                let mut part = Vec::with_capacity(64 << 10);
                (&mut file).take(CHUNK).read_to_end(&mut part)?;
                if part.is_empty() && !list.is_empty() {
                    return io::Result::Ok(list);
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

    /// Which layers an image archive has, as that is told.
    async fn table(&self, digest: Digest) -> Bytes {
        if let Some(table) = self.tables.get(&digest) {
            return table.clone();
        }
        let table = Bytes::from(layers::encode(&self.node.layers(&digest).await));
        if self.tables.len() >= LISTS {
            self.tables.clear();
        }
        self.tables.insert(digest, table.clone());
        table
    }

    /// Fetches code from the nearest that have it.
    ///
    /// # Errors
    /// What each of them answered.
    pub(super) async fn fetch(
        &self,
        name: &FunctionName,
        entry: &Entry,
        code: CodeRef,
    ) -> Result<(), AdoptError> {
        // Its list of parts is as long as its writer says that it is.
        let most = self.node.config().artifacts.max_bytes;
        if code.bytes > most {
            return Err(AdoptError::Unfit(format!(
                "{name}: its code has {} bytes, and an artifact may have {most} here \
                 (artifacts.max-bytes)",
                code.bytes
            )));
        }
        let _turn = self.fetches.acquire().await;
        let digest = code.artifact();
        let mut holders = self.federated.holders(name, entry);
        let list = self.list(&mut holders, code).await?;
        let kind = entry.spec.as_ref().map(|spec| spec.kind);
        let (own, sought) = match kind == Some(ArtifactKind::ImageArchive) && code.bytes > CHUNK {
            true => self.own_layers(&mut holders, code).await,
            false => Default::default(),
        };
        let mut wanted = Wanted {
            code,
            holders,
            own,
            sought,
            pace: Pace::default(),
        };
        // One part is on its way while another is written.
        let (parts, came) = mpsc::channel::<io::Result<Bytes>>(1);
        let stream = futures_util::stream::unfold(came, |mut came| async {
            came.recv().await.map(|part| (part, came))
        });
        let body = StreamBody::new(stream.map_ok(Frame::data).map_err(Into::into));
        let put = self
            .node
            .put_artifact(digest, Some(code.bytes), Body::new(body));
        let sent = self.send_parts(&mut wanted, &list, parts);
        let (put, reused) = tokio::join!(put, sent);
        put.map_err(|error| AdoptError::Code(error.to_string()))?;
        info!(function = %name, %digest, bytes = code.bytes, reused, "fetched code");
        Ok(())
    }

    /// Sends one part after the other as they come; how many bytes were here.
    async fn send_parts(
        &self,
        wanted: &mut Wanted,
        list: &[u8],
        parts: mpsc::Sender<io::Result<Bytes>>,
    ) -> u64 {
        let mut reused = 0;
        for (at, checked) in list.chunks(32).enumerate() {
            self.look_further(wanted, at).await;
            let part = match self.own_part(wanted, at, checked).await {
                Some((part, here)) => {
                    reused += here;
                    Ok(part)
                }
                None => self.checked_part(wanted, at, checked).await,
            };
            let broken = part.is_err();
            let part = part.map_err(io::Error::other);
            if parts.send(part).await.is_err() || broken {
                break;
            }
        }
        reused
    }

    /// The digests of an artifact's parts.
    async fn list(&self, holders: &mut Vec<PeerId>, code: CodeRef) -> Result<Bytes, AdoptError> {
        let asked = Asked {
            digest: code.artifact(),
            part: "list",
            range: None,
            length: code.count() * 32,
            lie: Some("gave a wrong list of an artifact's parts"),
        };
        let list = self.ask_all(holders, 0, &asked, |list| code.is_list(list));
        list.await.map_err(AdoptError::Code)
    }

    /// What artifacts here have of an image archive, and what they have not.
    async fn own_layers(&self, holders: &mut Vec<PeerId>, code: CodeRef) -> (Own, Vec<Layer>) {
        let asked = Asked {
            digest: code.artifact(),
            part: "layers",
            range: None,
            length: layers::TABLE,
            lie: None,
        };
        // What is wrong in a table shows in the parts.
        match self.ask_all(holders, 0, &asked, |_| true).await {
            Ok(table) => {
                let wanted = layers::decode(&table, code.bytes);
                let (found, left) = self.node.find_layers(wanted).await;
                (Own::new(found), left)
            }
            Err(reason) => {
                debug!(reason, "nobody tells the layers of an image");
                Default::default()
            }
        }
    }

    /// Looks for layers at the engine too, where that is sooner than to wait for
    /// them.
    async fn look_further(&self, wanted: &mut Wanted, at: usize) {
        let reached = at as u64 * CHUNK;
        let ends = |layer: &Layer| layer.at..layer.at + layer.bytes;
        let layers: Vec<Range<u64>> = wanted.sought.iter().map(ends).collect();
        let Some(limit) = wanted.pace.look_for(&layers, reached) else {
            return;
        };
        let mut sought = std::mem::take(&mut wanted.sought);
        sought.retain(|layer| layer.at + layer.bytes > reached);
        // By then they would have come.
        let looked = self.node.export_layers(sought);
        match tokio::time::timeout(limit, looked).await {
            Ok(found) => wanted.own = wanted.own.and(found),
            Err(_) => debug!("the engine takes too long to give layers"),
        }
    }

    /// Waits until so many bytes more may be fetched.
    async fn pace(&self, bytes: u64) {
        let Some(rate) = self.federated.settings().fetch_rate else {
            return;
        };
        let now = self.federated.shared.clock.now();
        let at = {
            let mut spacing = self.spacing.lock();
            spacing.take(bytes, rate.as_bytes(), now)
        };
        tokio::time::sleep(at.since(now)).await;
    }

    /// Which bytes of the artifact a part is.
    fn span(code: CodeRef, at: usize) -> Range<u64> {
        let start = (at as u64 * CHUNK).min(code.bytes);
        start..(start + CHUNK).min(code.bytes)
    }

    /// A part that this machine has at least a piece of, the rest fetched, and
    /// how many bytes were not.
    async fn own_part(
        &self,
        wanted: &mut Wanted,
        at: usize,
        checked: &[u8],
    ) -> Option<(Bytes, u64)> {
        let span = Self::span(wanted.code, at);
        if !wanted.own.touches(&span) {
            return None;
        }
        let own = wanted.own.clone();
        let filled = tokio::task::spawn_blocking(move || own.fill(&span)).await;
        let (mut bytes, missing) = filled.ok()?;
        if !missing.is_empty() {
            let length = missing.len() as u64;
            self.pace(length).await;
            let asked = Asked {
                digest: wanted.code.artifact(),
                part: &at.to_string(),
                range: Some(missing.clone()),
                length,
                lie: Some("gave wrong bytes for an artifact"),
            };
            let right = |came: &[u8]| came.len() == missing.len();
            let came = self.ask_all(&mut wanted.holders, at, &asked, right).await;
            let came = came.ok()?;
            bytes[missing.clone()].copy_from_slice(&came);
            self.counters.fetched.fetch_add(length, Ordering::Relaxed);
        }
        if sha256(&bytes) != *checked {
            // Whose fault it is cannot be told; whole parts are right or wrong.
            debug!(at, "layers here are not those of the archive");
            wanted.own = Own::default();
            return None;
        }
        let here = (bytes.len() - missing.len()) as u64;
        self.counters.reused.fetch_add(here, Ordering::Relaxed);
        Some((bytes.into(), here))
    }

    /// One part of an artifact that is what the list says, from whoever gives it.
    async fn checked_part(
        &self,
        wanted: &mut Wanted,
        at: usize,
        checked: &[u8],
    ) -> Result<Bytes, String> {
        let span = Self::span(wanted.code, at);
        let length = span.end - span.start;
        let asked = Asked {
            digest: wanted.code.artifact(),
            part: &at.to_string(),
            range: None,
            length,
            lie: Some("gave wrong bytes for an artifact"),
        };
        let began = tokio::time::Instant::now();
        self.pace(length).await;
        let came = self.ask_all(&mut wanted.holders, at, &asked, |part| {
            sha256(part) == *checked
        });
        let part = came
            .await
            .map_err(|reason| format!("part {at}: {reason}"))?;
        self.counters.fetched.fetch_add(length, Ordering::Relaxed);
        wanted.pace.came(length, began.elapsed());
        Ok(part)
    }

    /// Asks one member after the other until one gives what is good; who is asked
    /// no more is left out of `holders`.
    async fn ask_all(
        &self,
        holders: &mut Vec<PeerId>,
        turn: usize,
        asked: &Asked<'_>,
        good: impl Fn(&[u8]) -> bool,
    ) -> Result<Bytes, String> {
        let mut part = Part::new(holders, turn);
        loop {
            let now = self.federated.shared.clock.now();
            let holder = match part.next(now, rand::random()) {
                Step::Ask(holder) => holder,
                Step::Pause(pause) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Step::GiveUp => return Err(part.reasons().to_string()),
            };
            let gave = match self.ask(holder, asked).await {
                Ok(bytes) if good(&bytes) => return Ok(bytes),
                Ok(_) => {
                    if let Some(lie) = asked.lie {
                        self.federated.lied(holder, lie);
                    }
                    Gave::Wrong(asked.lie.unwrap_or("it gave nonsense"))
                }
                Err(gave) => gave,
            };
            part.came(holder, gave, holders);
        }
    }

    /// Asks a member.
    async fn ask(&self, from: PeerId, asked: &Asked<'_>) -> Result<Bytes, Gave> {
        let mut request = Request::get(format!("https://weir/artifacts/{}", asked.part))
            .version(http::Version::HTTP_2)
            .header(ARTIFACT, asked.digest.hex());
        if let Some(range) = &asked.range {
            // Both ends are in it.
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        let request = request
            .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| Gave::Failed(error.to_string()))?;
        let expected = match asked.range {
            Some(_) => StatusCode::PARTIAL_CONTENT,
            None => StatusCode::OK,
        };
        let answered = async {
            let sent = self.federated.send(from, request).await;
            let (response, using) = sent.map_err(Gave::Failed)?;
            match response.status() {
                status if status == expected => {}
                StatusCode::NOT_FOUND => return Err(Gave::Absent),
                StatusCode::SERVICE_UNAVAILABLE => return Err(Gave::Busy),
                status => return Err(Gave::Failed(format!("it answered {status}"))),
            }
            let limit = usize::try_from(asked.length).unwrap_or(usize::MAX);
            let body = Limited::new(response.into_body(), limit).collect().await;
            drop(using);
            let body = body.map_err(|error| Gave::Failed(error.to_string()))?;
            Ok(body.to_bytes())
        };
        match tokio::time::timeout(PART_TIMEOUT, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(Gave::Late),
        }
    }

    /// Gives a member a part of an artifact that a function in its scope has.
    pub(super) async fn serve(
        &self,
        member: PeerId,
        asked: &http::request::Parts,
    ) -> Result<(StatusCode, Bytes), StatusCode> {
        let digest = digest_in(asked)?;
        // Whoever asks goes on to another when this one is busy.
        let Ok(_turn) = self.served.try_acquire() else {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        if !self.federated.may_have(&member, &digest) {
            return Err(StatusCode::NOT_FOUND);
        }
        let whole = |bytes| Ok((StatusCode::OK, bytes));
        let part = asked.uri.path().rsplit('/').next().unwrap_or_default();
        if part == "list" {
            let list = self.chunk_list(digest).await;
            return whole(list.ok_or(StatusCode::NOT_FOUND)?);
        }
        let bytes = self.node.artifact(&digest).ok_or(StatusCode::NOT_FOUND)?;
        if part == "layers" {
            return whole(self.table(digest).await);
        }
        let at: u64 = part.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
        let start = at.checked_mul(CHUNK).filter(|start| *start < bytes);
        let start = start.ok_or(StatusCode::NOT_FOUND)?;
        let range = range_in(asked, CHUNK.min(bytes - start))?;
        let path = self
            .node
            .artifact_path(&digest)
            .ok_or(StatusCode::NOT_FOUND)?;
        let (status, range) = match range {
            Some(range) => (StatusCode::PARTIAL_CONTENT, range),
            None => (StatusCode::OK, 0..CHUNK),
        };
        let read = tokio::task::spawn_blocking(move || read_part(&path, start, range)).await;
        match read {
            Ok(Ok(bytes)) => Ok((status, bytes.into())),
            _ => Err(StatusCode::NOT_FOUND),
        }
    }
}

pub(super) fn digest_in(asked: &http::request::Parts) -> Result<Digest, StatusCode> {
    let text = asked.headers.get(ARTIFACT).map(HeaderValue::to_str);
    let text = text.and_then(Result::ok).unwrap_or_default();
    Digest::from_hex(text).map_err(|_| StatusCode::BAD_REQUEST)
}

/// Which bytes of a part of this length are asked for: `bytes=FIRST-LAST`, and
/// nothing else of what such a header may say.
fn range_in(asked: &http::request::Parts, length: u64) -> Result<Option<Range<u64>>, StatusCode> {
    let Some(text) = asked.headers.get(RANGE) else {
        return Ok(None);
    };
    let text = text.to_str().ok();
    let range = text.and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
    let range = range.and_then(|(first, last)| {
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && last < length).then_some(first..last + 1)
    });
    range.map(Some).ok_or(StatusCode::RANGE_NOT_SATISFIABLE)
}

fn read_part(path: &Path, start: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start + range.start))?;
    let mut part = Vec::new();
    file.take(range.end - range.start).read_to_end(&mut part)?;
    Ok(part)
}
