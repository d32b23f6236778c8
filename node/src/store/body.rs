//! Bodies that are too long to lie in the database: files of their own.
//!
//! A file is on disk before the record that names it is committed, and removed
//! after the record is gone. What a crash leaves between is swept.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use tokio_util::io::ReaderStream;

use super::StoreError;
use super::record::{FileSerial, StoredBody};
use crate::disk::{self, Sink, SpoolError, TempFile};
use crate::executor::{Body, BodyError};
use crate::id::CallId;

/// Longest body kept in the database. Above it, a file and its three flushes
/// cost less than copying the pages around.
pub const INLINE_BODY: usize = 16 << 10;

/// Bytes read from a body file at once.
const READ_BYTES: usize = 64 << 10;

const TEMPORARY: &str = ".tmp";

/// Which body of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyPart {
    /// What the caller sent.
    Request,
    /// What the function answered.
    Result,
}

impl BodyPart {
    fn extension(self) -> &'static str {
        match self {
            BodyPart::Request => "request",
            BodyPart::Result => "result",
        }
    }
}

/// Why a body was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepBodyError {
    /// It is longer than allowed.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// Most bytes allowed.
        limit: u64,
    },
    /// It broke off.
    #[error("the body ended early")]
    Body(#[source] BodyError),
    /// It cannot be written.
    #[error("keep the body")]
    Store(#[source] StoreError),
}

/// The folder of body files, and which of them have no record yet.
pub(super) struct BodyFiles {
    dir: PathBuf,
    /// Names that are being written, or wait for their commit. The sweep
    /// leaves them alone. As many as there are calls being accepted or ended.
    live: Mutex<HashSet<String>>,
}

impl BodyFiles {
    pub(super) fn new(dir: PathBuf) -> Self {
        BodyFiles {
            dir,
            live: Mutex::default(),
        }
    }

    pub(super) fn path(&self, id: CallId, part: BodyPart, serial: FileSerial) -> PathBuf {
        self.dir.join(name(id, part, serial))
    }

    /// Removes the files that no record names. `named` is the
    /// file, if any, that the database's record of a call and part names;
    /// `stop` ends it early.
    pub(super) fn sweep(
        &self,
        named: impl Fn(CallId, BodyPart) -> Result<Option<FileSerial>, StoreError>,
        stop: impl Fn() -> bool,
    ) -> Result<usize, StoreError> {
        let mut swept = 0;
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            if stop() {
                break;
            }
            let entry = entry.map_err(failed)?;
            let Some(file) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            let finished = file.strip_suffix(TEMPORARY).unwrap_or(&file);
            let Some((id, part, serial)) = parse(finished) else {
                continue;
            };
            // In this order: a file ceases to be live only once its record can
            // be seen, or once it is gone.
            let live = self.live().contains(finished);
            if !live && (finished != file || named(id, part)? != Some(serial)) {
                match fs::remove_file(entry.path()) {
                    Ok(()) => swept += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(swept)
    }

    fn live(&self) -> parking_lot::MutexGuard<'_, HashSet<String>> {
        self.live.lock()
    }
}

fn name(id: CallId, part: BodyPart, serial: FileSerial) -> String {
    format!("{id}.{:016x}.{}", serial.number(), part.extension())
}

fn parse(name: &str) -> Option<(CallId, BodyPart, FileSerial)> {
    let (id, rest) = name.split_once('.')?;
    let (serial, extension) = rest.split_once('.')?;
    let parts = [BodyPart::Request, BodyPart::Result];
    let part = parts
        .into_iter()
        .find(|part| part.extension() == extension)?;
    let serial = FileSerial::new(u64::from_str_radix(serial, 16).ok()?)?;
    Some((id.parse().ok()?, part, serial))
}

fn failed(error: io::Error) -> StoreError {
    StoreError::from(redb::Error::Io(error))
}

/// A body that is on disk, or short, and waits for the record that names it.
/// Dropped before that, it is removed.
pub struct WrittenBody {
    pub(super) stored: StoredBody,
    file: Option<LiveFile>,
}

impl WrittenBody {
    /// A short body of the node's own making; it goes into the database
    /// whatever its length.
    pub fn inline(bytes: impl Into<Bytes>) -> Self {
        WrittenBody {
            stored: StoredBody::Inline(bytes.into()),
            file: None,
        }
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.stored.bytes()
    }

    /// How a record names it.
    pub fn stored(&self) -> StoredBody {
        self.stored.clone()
    }

    /// Leaves the file to its record, or to the sweep when it is not certain
    /// that there is one.
    pub(super) fn leave(&self) {
        if let Some(file) = &self.file {
            file.left.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for WrittenBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stored.fmt(f)
    }
}

struct LiveFile {
    files: Arc<BodyFiles>,
    name: String,
    left: AtomicBool,
}

impl LiveFile {
    fn path(&self) -> PathBuf {
        self.files.dir.join(&self.name)
    }
}

impl Drop for LiveFile {
    fn drop(&mut self) {
        if !self.left.load(Ordering::Relaxed) {
            // Absent when writing failed; what stays otherwise is swept later.
            let _ = fs::remove_file(self.path());
        }
        self.files.live().remove(&self.name);
    }
}

/// Takes a body into memory, and into a file once it is long.
struct BodySink {
    memory: BytesMut,
    file: Option<(TempFile, LiveFile)>,
    bytes: u64,
    files: Arc<BodyFiles>,
    name: String,
    serial: FileSerial,
}

impl Sink for BodySink {
    type Kept = WrittenBody;

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        if let Some((file, _)) = &mut self.file {
            return file.write(bytes);
        }
        if self.bytes <= INLINE_BODY as u64 {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        self.files.live().insert(self.name.clone());
        let live = LiveFile {
            files: self.files.clone(),
            name: self.name.clone(),
            left: AtomicBool::new(false),
        };
        let mut file = TempFile::create(self.files.dir.join(self.name.clone() + TEMPORARY))?;
        file.write(&self.memory)?;
        file.write(bytes)?;
        self.memory = BytesMut::new();
        self.file = Some((file, live));
        Ok(())
    }

    fn finish(self) -> io::Result<WrittenBody> {
        let Some((file, live)) = self.file else {
            return Ok(WrittenBody::inline(self.memory));
        };
        file.keep(&live.path())?;
        Ok(WrittenBody {
            stored: StoredBody::File {
                bytes: self.bytes,
                serial: self.serial,
            },
            file: Some(live),
        })
    }
}

pub(super) async fn write(
    files: Arc<BodyFiles>,
    id: CallId,
    part: BodyPart,
    body: Body,
    limit: u64,
) -> Result<WrittenBody, KeepBodyError> {
    let serial = FileSerial::draw();
    let name = name(id, part, serial);
    let sink = BodySink {
        memory: BytesMut::new(),
        file: None,
        bytes: 0,
        files,
        name,
        serial,
    };
    disk::spool(body, limit, sink)
        .await
        .map_err(|error| match error {
            SpoolError::TooLarge => KeepBodyError::TooLarge { limit },
            SpoolError::Body(error) => KeepBodyError::Body(error),
            SpoolError::Io(error) => KeepBodyError::Store(failed(error)),
        })
}

pub(super) async fn read(
    files: &BodyFiles,
    id: CallId,
    part: BodyPart,
    stored: &StoredBody,
) -> io::Result<Body> {
    match stored {
        StoredBody::Inline(bytes) => Ok(inline(bytes.clone())),
        StoredBody::File { serial, .. } => {
            let file = tokio::fs::File::open(files.path(id, part, *serial)).await?;
            let chunks = ReaderStream::with_capacity(file, READ_BYTES);
            Ok(StreamBody::new(chunks.map_ok(Frame::data).map_err(BodyError::from)).boxed_unsync())
        }
    }
}

fn inline(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}
