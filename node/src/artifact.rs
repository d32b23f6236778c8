//! Code by digest on disk.
//!
//! An artifact is a file named by its SHA-256, whole and checked or not there
//! at all. Functions refer to artifacts; one that nothing refers to is removed
//! after a while, counted from its upload or from the removal of the last
//! function that used it, restarts included: the file's own time tells.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest as _, Sha256};

use crate::config::ArtifactConfig;
use crate::disk::{self, Sink, SpoolError, TempFile};
use crate::executor::{Body, BodyError};
use crate::function::ArtifactKind;
use crate::id::Digest;

/// Files that are being written, or removed: gone after a restart.
const TEMPORARY: &str = "tmp";

/// What a successful upload found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was new.
    Created,
    /// It was there already.
    Existed,
}

/// Why an artifact was not kept.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// It is longer than one artifact may be.
    #[error("the artifact is longer than the {limit} bytes that one may have")]
    TooLarge {
        /// The longest allowed.
        limit: u64,
    },
    /// What came is not what was announced.
    #[error("the content is {got}, not the {announced} that was announced")]
    DigestMismatch {
        /// The digest under which it was to be kept.
        announced: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// All artifacts together would be larger than allowed.
    #[error(
        "artifacts may take {limit} bytes of this node's disk and there is no room left: remove \
         functions that are not needed, and their code follows"
    )]
    DiskBudget {
        /// What all may take together.
        limit: u64,
    },
    /// The disk is full, whatever the budget.
    #[error("the disk of the data directory is full")]
    NoSpace,
    /// The upload broke off.
    #[error("the upload ended early")]
    Body(#[source] BodyError),
    /// The file could not be written.
    #[error("write the artifact {digest}")]
    Io {
        /// Which.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
}

/// The artifacts of one data directory. Clones share them.
///
/// References are counted in memory: after a start, [`Artifacts::retain`] one
/// for each deployed function before the first [`Artifacts::sweep`].
#[derive(Clone)]
pub struct Artifacts {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    config: ArtifactConfig,
    /// Numbers temporary files, so that two uploads of one digest do not meet.
    uploads: AtomicU64,
    ledger: Mutex<Ledger>,
}

/// What is there. A file appears under its digest, and leaves it, only
/// together with its entry: under the lock.
#[derive(Default)]
struct Ledger {
    entries: BTreeMap<Digest, Entry>,
    /// Bytes of all entries.
    stored: u64,
    /// Bytes that uploads under way have announced or brought.
    promised: u64,
    /// Bytes of others under the same budget.
    compiled: u64,
}

struct Entry {
    bytes: u64,
    references: usize,
    /// Since when nothing has referred to it, if nothing does.
    idle_since: SystemTime,
}

impl Artifacts {
    /// Opens the folder `dir`, making it if it is not there, and removes what
    /// uploads that died have left. Blocks.
    pub fn open(dir: &Path, config: ArtifactConfig) -> io::Result<Self> {
        disk::lasting_dir(dir)?;
        let mut ledger = Ledger::default();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == TEMPORARY)
            {
                fs::remove_file(&path)?;
                continue;
            }
            let name = entry.file_name();
            let Some(Ok(digest)) = name.to_str().map(Digest::from_hex) else {
                continue;
            };
            let metadata = entry.metadata()?;
            ledger.add(digest, metadata.len(), metadata.modified()?);
        }
        let uploads = AtomicU64::new(0);
        let inner = Inner {
            dir: dir.to_owned(),
            config,
            uploads,
            ledger: Mutex::new(ledger),
        };
        Ok(Artifacts {
            inner: Arc::new(inner),
        })
    }

    /// Takes an artifact and returns once it is on disk. `length` is what the
    /// client announced, so that one without room is refused before it is
    /// sent. The body is not read when the artifact is there already.
    pub async fn put(
        &self,
        digest: Digest,
        length: Option<u64>,
        body: Body,
    ) -> Result<Put, PutError> {
        let limit = self.inner.config.max_bytes;
        if length.is_some_and(|length| length > limit) {
            return Err(PutError::TooLarge { limit });
        }
        let inner = self.inner.clone();
        let begun = tokio::task::spawn_blocking(move || inner.begin(digest, length));
        let begun = begun
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        let sink = match begun {
            Ok(Some(sink)) => sink,
            Ok(None) => return Ok(Put::Existed),
            Err(error) => return Err(self.failed(digest, error)),
        };
        match disk::spool(body, limit, sink).await {
            Ok(Ok(put)) => Ok(put),
            Ok(Err(got)) => Err(PutError::DigestMismatch {
                announced: digest,
                got,
            }),
            Err(SpoolError::TooLarge) => Err(PutError::TooLarge { limit }),
            Err(SpoolError::Body(error)) => Err(PutError::Body(error)),
            Err(SpoolError::Io(error)) => Err(self.failed(digest, error)),
        }
    }

    /// Whether the artifact is there.
    pub fn has(&self, digest: &Digest) -> bool {
        self.inner.ledger().entries.contains_key(digest)
    }

    /// Its length in bytes; `None` when it is not there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.inner
            .ledger()
            .entries
            .get(digest)
            .map(|entry| entry.bytes)
    }

    /// Its file, whether it is there or not.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.path(digest)
    }

    /// What it is, from its first bytes; `None` when it is nothing that Weir
    /// knows. Blocks for one short read.
    pub fn kind(&self, digest: &Digest) -> io::Result<Option<ArtifactKind>> {
        let mut head = Vec::with_capacity(ArtifactKind::SNIFF_BYTES);
        let file = File::open(self.path(digest))?;
        file.take(ArtifactKind::SNIFF_BYTES as u64)
            .read_to_end(&mut head)?;
        Ok(ArtifactKind::sniff(&head))
    }

    /// Counts one more user, which keeps the artifact; false, with nothing
    /// counted, when it is not there.
    #[must_use]
    pub fn retain(&self, digest: &Digest) -> bool {
        let mut ledger = self.inner.ledger();
        let Some(entry) = ledger.entries.get_mut(digest) else {
            return false;
        };
        entry.references += 1;
        true
    }

    /// Counts one user less; after the last, the artifact is kept for
    /// [`ArtifactConfig::keep_unreferenced`] from `now`.
    pub fn release(&self, digest: &Digest, now: SystemTime) {
        let mut ledger = self.inner.ledger();
        let Some(entry) = ledger.entries.get_mut(digest) else {
            return;
        };
        entry.references = entry.references.saturating_sub(1);
        if entry.references == 0 {
            entry.idle_since = now;
            drop(ledger);
            self.inner.touch(digest, now);
        }
    }

    /// Tells how much disk compiled code takes, which shares the budget.
    pub fn set_compiled_bytes(&self, bytes: u64) {
        self.inner.ledger().compiled = bytes;
    }

    /// Holds so many bytes of the budget until what is returned is dropped;
    /// `None` when there is no room.
    pub fn room(&self, bytes: u64) -> Option<Room> {
        let mut promise = Promise {
            inner: self.inner.clone(),
            bytes: 0,
        };
        promise.cover(bytes).ok()?;
        Some(Room { promise })
    }

    /// The largest artifacts of at least `least` bytes, `most` at the most.
    pub fn largest(&self, least: u64, most: usize) -> Vec<Digest> {
        let mut large: Vec<(u64, Digest)> = {
            let ledger = self.inner.ledger();
            let entries = ledger.entries.iter();
            let large = entries.filter(|(_, entry)| entry.bytes >= least);
            large
                .map(|(digest, entry)| (entry.bytes, *digest))
                .collect()
        };
        large.sort_unstable_by(|a, b| b.cmp(a));
        large.truncate(most);
        large.into_iter().map(|(_, digest)| digest).collect()
    }

    /// Bytes that artifacts take on disk.
    pub fn stored_bytes(&self) -> u64 {
        self.inner.ledger().stored
    }

    /// Removes what nothing has referred to for long enough at `now`, and
    /// returns it, so that what was made of it can go too. Blocks.
    pub fn sweep(&self, now: SystemTime) -> Vec<Digest> {
        let keep = self.inner.config.keep_unreferenced;
        // A clock that was set back makes things look newer, and keeps them.
        let due = |entry: &Entry| {
            let idle = now.duration_since(entry.idle_since).unwrap_or_default();
            entry.references == 0 && idle >= keep
        };
        let old: Vec<Digest> = {
            let ledger = self.inner.ledger();
            let old = ledger.entries.iter().filter(|(_, entry)| due(entry));
            old.map(|(digest, _)| *digest).collect()
        };
        let removed = old.into_iter().filter(|digest| self.remove(digest, due));
        removed.collect()
    }

    /// Removes what nothing refers to, however short that is so; whether it
    /// went. Blocks.
    pub fn discard(&self, digest: &Digest) -> bool {
        self.remove(digest, |entry| entry.references == 0)
    }

    fn remove(&self, digest: &Digest, due: impl Fn(&Entry) -> bool) -> bool {
        // Renamed under the lock, removed outside it: unlinking a large file
        // takes long, and a new upload may want the name meanwhile.
        let gone = self.inner.temporary(digest);
        {
            let mut ledger = self.inner.ledger();
            if !ledger.entries.get(digest).is_some_and(due) {
                return false;
            }
            match fs::rename(self.path(digest), &gone) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%digest, %error, "cannot remove artifact");
                    return false;
                }
                _ => ledger.remove(digest),
            }
        }
        // What stays is removed at the next start.
        let _ = fs::remove_file(gone);
        true
    }

    fn failed(&self, digest: Digest, error: io::Error) -> PutError {
        if error
            .get_ref()
            .is_some_and(|inner| inner.is::<OverBudget>())
        {
            PutError::DiskBudget {
                limit: self.inner.config.disk_bytes,
            }
        } else if disk::is_full(&error) {
            PutError::NoSpace
        } else {
            PutError::Io {
                digest,
                source: error,
            }
        }
    }
}

impl Inner {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    fn temporary(&self, digest: &Digest) -> PathBuf {
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        self.dir
            .join(format!("{}.{number}.{TEMPORARY}", digest.hex()))
    }

    /// Starts an upload; `None` when the artifact is there already.
    fn begin(self: &Arc<Self>, digest: Digest, length: Option<u64>) -> io::Result<Option<Upload>> {
        if self.renew(&digest) {
            return Ok(None);
        }
        let mut promise = Promise {
            inner: self.clone(),
            bytes: 0,
        };
        promise.cover(length.unwrap_or(0))?;
        let file = TempFile::create(self.temporary(&digest))?;
        Ok(Some(Upload {
            digest,
            file,
            promise,
            hash: Sha256::new(),
            bytes: 0,
        }))
    }

    /// Restarts the time for which an unused artifact is kept; false when it
    /// is not there.
    fn renew(&self, digest: &Digest) -> bool {
        let now = SystemTime::now();
        let there = self.ledger().renew(digest, now);
        if there {
            self.touch(digest, now);
        }
        there
    }

    /// Notes in the file's own time when it was last needed. Best effort: an
    /// older time only means that it goes earlier after a restart.
    fn touch(&self, digest: &Digest, now: SystemTime) {
        let file = File::options().append(true).open(self.path(digest));
        if let Err(error) = file.and_then(|file| file.set_modified(now)) {
            tracing::debug!(%digest, %error, "cannot note the last use of an artifact");
        }
    }
}

impl Ledger {
    fn add(&mut self, digest: Digest, bytes: u64, idle_since: SystemTime) {
        self.entries.insert(
            digest,
            Entry {
                bytes,
                references: 0,
                idle_since,
            },
        );
        self.stored += bytes;
    }

    fn remove(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.remove(digest) {
            self.stored -= entry.bytes;
        }
    }

    fn renew(&mut self, digest: &Digest, now: SystemTime) -> bool {
        let Some(entry) = self.entries.get_mut(digest) else {
            return false;
        };
        entry.idle_since = now;
        true
    }
}

/// The mark of an error that is the budget's and not the disk's.
#[derive(Debug, thiserror::Error)]
#[error("the disk budget is exhausted")]
struct OverBudget;

/// Bytes of the budget that are held for something beside artifacts.
pub struct Room {
    promise: Promise,
}

impl Room {
    /// Holds no more than `bytes` from now on.
    pub fn shrink(&mut self, bytes: u64) {
        let less = self.promise.bytes.saturating_sub(bytes);
        self.promise.inner.ledger().promised -= less;
        self.promise.bytes -= less;
    }
}

/// Bytes of the budget that an upload holds until it is stored or dropped.
struct Promise {
    inner: Arc<Inner>,
    bytes: u64,
}

impl Promise {
    /// Holds at least `bytes`.
    fn cover(&mut self, bytes: u64) -> io::Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        let mut ledger = self.inner.ledger();
        let taken = [ledger.stored, ledger.promised, ledger.compiled, more];
        let taken = taken.into_iter().fold(0, u64::saturating_add);
        if more > 0 && taken > self.inner.config.disk_bytes {
            return Err(io::Error::other(OverBudget));
        }
        ledger.promised += more;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.inner.ledger().promised -= self.bytes;
    }
}

/// An upload under way.
struct Upload {
    digest: Digest,
    file: TempFile,
    promise: Promise,
    hash: Sha256,
    bytes: u64,
}

impl Sink for Upload {
    /// The digest found, when it is not the one announced.
    type Kept = Result<Put, Digest>;

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.promise.cover(self.bytes)?;
        self.hash.update(bytes);
        self.file.write(bytes)
    }

    fn finish(self) -> io::Result<Self::Kept> {
        let got = Digest::new(self.hash.finalize().into());
        if got != self.digest {
            return Ok(Err(got));
        }
        self.file.sync()?;
        let inner = self.promise.inner.clone();
        {
            let mut ledger = inner.ledger();
            let now = SystemTime::now();
            if ledger.renew(&got, now) {
                // Another upload of the same was faster.
                return Ok(Ok(Put::Existed));
            }
            self.file.rename(&inner.path(&got))?;
            ledger.add(got, self.bytes, now);
        }
        disk::sync_dir(&inner.dir)?;
        Ok(Ok(Put::Created))
    }
}

#[cfg(test)]
mod tests;
