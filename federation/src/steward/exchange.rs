//! Code on its way between members: fetched in parts from those who have it,
//! each part checked before it counts, and given in parts to those who may
//! have it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::TryStreamExt as _;
use http::header::RANGE;
use http::{HeaderValue, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody};
use libp2p_identity::PeerId;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info};
use weir_node::Node;
use weir_node::executor::Body;
use weir_node::function::ArtifactKind;
use weir_node::id::{Digest, FunctionName};
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

/// How long one part may take to come.
const PART_TIME: Duration = Duration::from_secs(30);

/// Members that are asked for one part before the fetch is given up.
pub(super) const HOLDERS: usize = 6;

/// Lists of parts that are kept in memory, so that whoever asks for them again
/// and again costs no reading.
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
    fetches: Semaphore,
    /// When the next part may be fetched.
    paced: Mutex<tokio::time::Instant>,
    served: Semaphore,
    counters: Counters,
}

/// An artifact that is being fetched.
struct Wanted<'a> {
    code: CodeRef,
    holders: &'a [PeerId],
    /// What of it is here.
    own: Own,
}

impl Exchange {
    pub(super) fn new(node: Node, federated: Federated) -> Exchange {
        Exchange {
            node,
            federated,
            lists: DashMap::new(),
            fetches: Semaphore::new(FETCHES),
            paced: Mutex::new(tokio::time::Instant::now()),
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
        let _turn = self.fetches.acquire().await;
        let digest = code.artifact();
        let holders = self.federated.holders(name, entry);
        let holders: Vec<PeerId> = holders.into_iter().take(HOLDERS).collect();
        let list = self.list(&holders, code).await?;
        let kind = entry.spec.as_ref().map(|spec| spec.kind);
        let own = match kind == Some(ArtifactKind::ImageArchive) && code.bytes > CHUNK {
            true => self.own_layers(&holders, code).await,
            false => Own::default(),
        };
        let mut wanted = Wanted {
            code,
            holders: &holders,
            own,
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
        let sent = async {
            let mut reused = 0;
            for (at, checked) in list.chunks(32).enumerate() {
                let part = match self.own_part(&mut wanted, at, checked).await {
                    Some((part, here)) => {
                        reused += here;
                        Ok(part)
                    }
                    None => self.checked_part(&wanted, at, checked).await,
                };
                let broken = part.is_err();
                let part = part.map_err(io::Error::other);
                if parts.send(part).await.is_err() || broken {
                    break;
                }
            }
            drop(parts);
            reused
        };
        let (put, reused) = tokio::join!(put, sent);
        put.map_err(|error| AdoptError::Code(error.to_string()))?;
        info!(function = %name, %digest, bytes = code.bytes, reused, "fetched code");
        Ok(())
    }

    /// The digests of an artifact's parts, from the first that gives the right
    /// ones.
    async fn list(&self, holders: &[PeerId], code: CodeRef) -> Result<Bytes, AdoptError> {
        let mut reasons = Vec::new();
        for holder in holders {
            let length = code.count() * 32;
            match self
                .ask(*holder, code.artifact(), "list", None, length)
                .await
            {
                Ok(bytes) if code.is_list(&bytes) => return Ok(bytes),
                Ok(_) => {
                    self.federated
                        .lied(*holder, "gave a wrong list of an artifact's parts");
                    reasons.push(format!("{holder} gave a wrong list"));
                }
                Err(reason) => reasons.push(format!("{holder}: {reason}")),
            }
        }
        Err(AdoptError::Code(match reasons.is_empty() {
            true => "no member that has it can be reached".to_owned(),
            false => reasons.join("; "),
        }))
    }

    /// What lies on this machine of an image archive that others have.
    async fn own_layers(&self, holders: &[PeerId], code: CodeRef) -> Own {
        for holder in holders {
            let asked = self.ask(*holder, code.artifact(), "layers", None, layers::TABLE);
            match asked.await {
                Ok(table) => {
                    let wanted = layers::decode(&table, code.bytes);
                    return Own::new(self.node.find_layers(wanted).await);
                }
                // Whoever does not know may still have it.
                Err(reason) => debug!(peer = %holder, reason, "does not tell layers"),
            }
        }
        Own::default()
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

    /// Which bytes of the artifact a part is.
    fn span(code: CodeRef, at: usize) -> Range<u64> {
        let start = (at as u64 * CHUNK).min(code.bytes);
        start..(start + CHUNK).min(code.bytes)
    }

    /// A part that this machine has at least a piece of, the rest fetched, and
    /// how many bytes were not.
    async fn own_part(
        &self,
        wanted: &mut Wanted<'_>,
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
        let holder = *wanted.holders.get(at % wanted.holders.len().max(1))?;
        if !missing.is_empty() {
            let digest = wanted.code.artifact();
            let length = missing.len() as u64;
            self.pace(length).await;
            let part = at.to_string();
            let asked = self.ask(holder, digest, &part, Some(&missing), length);
            let came = asked
                .await
                .ok()
                .filter(|came| came.len() == missing.len())?;
            bytes[missing.clone()].copy_from_slice(&came);
            self.counters.fetched.fetch_add(length, Ordering::Relaxed);
        }
        if sha256(&bytes) != *checked {
            // Whose fault it is cannot be told; whole parts are right or wrong.
            debug!(peer = %holder, at, "layers here are not those of the archive");
            wanted.own = Own::default();
            return None;
        }
        let here = (bytes.len() - missing.len()) as u64;
        self.counters.reused.fetch_add(here, Ordering::Relaxed);
        Some((bytes.into(), here))
    }

    /// One part of an artifact that is what the list says, from whoever gives it:
    /// each holder has its share of the parts.
    async fn checked_part(
        &self,
        wanted: &Wanted<'_>,
        at: usize,
        checked: &[u8],
    ) -> Result<Bytes, String> {
        let digest = wanted.code.artifact();
        let span = Self::span(wanted.code, at);
        let length = span.end - span.start;
        let part = at.to_string();
        let mut reasons = Vec::new();
        self.pace(length).await;
        for number in 0..wanted.holders.len() {
            let holder = wanted.holders[(at + number) % wanted.holders.len()];
            match self.ask(holder, digest, &part, None, length).await {
                Ok(bytes) if sha256(&bytes) == *checked => {
                    self.counters.fetched.fetch_add(length, Ordering::Relaxed);
                    return Ok(bytes);
                }
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

    /// Asks a member for a part of an artifact, or for some bytes of the part.
    async fn ask(
        &self,
        from: PeerId,
        digest: Digest,
        part: &str,
        range: Option<&Range<usize>>,
        length: u64,
    ) -> Result<Bytes, String> {
        let mut request = Request::get(format!("https://weir/artifacts/{part}"))
            .version(http::Version::HTTP_2)
            .header(ARTIFACT, digest.hex());
        if let Some(range) = range {
            // Both ends are in it.
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        let request = request
            .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| error.to_string())?;
        let expected = match range {
            Some(_) => StatusCode::PARTIAL_CONTENT,
            None => StatusCode::OK,
        };
        let answered = async {
            let (response, using) = self.federated.send(from, request).await?;
            let status = response.status();
            if status != expected {
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
        if part == "layers" {
            let table = layers::encode(&self.node.layers(&digest).await);
            return whole(table.into());
        }
        let at: u64 = part.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
        let range = range_in(asked)?;
        let path = self
            .node
            .artifact_path(&digest)
            .ok_or(StatusCode::NOT_FOUND)?;
        let (status, range) = match range {
            Some(range) => (StatusCode::PARTIAL_CONTENT, range),
            None => (StatusCode::OK, 0..CHUNK),
        };
        let read = tokio::task::spawn_blocking(move || read_part(&path, at, range)).await;
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

/// Which bytes of a part are asked for: `bytes=FIRST-LAST`, and nothing else of
/// what such a header may say.
fn range_in(asked: &http::request::Parts) -> Result<Option<Range<u64>>, StatusCode> {
    let Some(text) = asked.headers.get(RANGE) else {
        return Ok(None);
    };
    let text = text.to_str().ok();
    let range = text.and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
    let range = range.and_then(|(first, last)| {
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && last < CHUNK).then_some(first..last + 1)
    });
    range.map(Some).ok_or(StatusCode::RANGE_NOT_SATISFIABLE)
}

fn read_part(path: &Path, at: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = at.saturating_mul(CHUNK).saturating_add(range.start);
    file.seek(SeekFrom::Start(start))?;
    let mut part = Vec::new();
    file.take(range.end - range.start).read_to_end(&mut part)?;
    Ok(part)
}
