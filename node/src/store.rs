//! What must survive a crash: deployed functions, namespaces, secrets, accepted
//! asynchronous calls, copies of such calls of other nodes', and results.
//!
//! The store is [redb]: written in Rust alone, so the static program needs no
//! library; transactional, so a crash leaves all of a change or none; one file
//! and little memory. SQLite would bring C and a query language for what are
//! five maps; a log-structured store would compact in the background on
//! machines that have one slow disk. What redb needs to be handled with care
//! is handled in one place each: its cache is small, the state that a start
//! after a crash needs is saved with each commit, and a database that failed is
//! closed and opened again by itself, so a full disk is an error to whoever
//! writes and nothing once there is room.
//!
//! * A write has returned only when it is on disk. One thread writes, and takes
//!   all that waits into one transaction (`writer.rs`).
//! * Reads see one consistent state and wait for no write.
//! * Bodies above [`INLINE_BODY`] are files (`body.rs`), on disk before the
//!   record that names them.
//! * One process at a time: the data directory is locked.
//!
//! ```text
//! DIR/lock         locked while in use; holds the process id
//! DIR/store.redb   the database
//! DIR/bodies/      ID.SERIAL.request and ID.SERIAL.result
//! ```

mod body;
mod copies;
mod engine;
mod lock;
mod record;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;
use libp2p_identity::PeerId;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use serde::Deserialize;
use tokio::sync::Semaphore;

pub use self::body::{BodyPart, INLINE_BODY, KeepBodyError, WrittenBody};
pub use self::copies::CopyKept;
pub use self::record::{
    CallRecord, CallStanding, CallbackState, CopyNote, FileSerial, FunctionRecord, NamespaceRecord,
    PendingCall, PendingCallback, ResultRecord, SecretValue, StoredBody, VersionRecord,
};

use self::body::BodyFiles;
use self::copies::{mark_ended, requests};
use self::engine::{
    CALLBACKS, CALLS, EXPIRY, Engine, FORMAT, FUNCTIONS, NAMESPACES, NOTES, PENDING, RESULTS,
    SECRETS, Tables,
};
use self::lock::DirLock;
use self::record::{decode, encode, key};
use self::writer::{Fault, Job};
use crate::config::AsyncConfig;
use crate::disk;
use crate::executor::Body;
use crate::id::{CallId, FunctionName, Namespace, SecretName};

/// Results removed in one transaction, so that expiry never holds up an
/// acceptance for long.
const EXPIRE_BATCH: usize = 1000;

/// Bounds of what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Accepted calls that are not done yet, at most.
    pub backlog: u64,
    /// Most results kept; the oldest go first.
    pub max_results: u64,
    /// How long a result is kept after its call ended.
    pub keep_results: Duration,
}

impl From<&AsyncConfig> for StoreConfig {
    fn from(config: &AsyncConfig) -> Self {
        StoreConfig {
            backlog: config.backlog as u64,
            max_results: config.max_results as u64,
            keep_results: config.keep_results,
        }
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error(
        "the data directory {} is in use by {}: stop that process, or choose another directory",
        .dir.display(),
        match .pid { Some(pid) => format!("process {pid}"), None => "another process".to_owned() }
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Whose it is, if the lock file says so.
        pid: Option<u32>,
    },
    /// A later version of Weir wrote it.
    #[error(
        "{} was written by a newer Weir (format {found}, this one reads up to {FORMAT}): run that \
         version, or choose another data directory", .path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The format version found.
        found: u64,
    },
    /// It is not a database, or damaged.
    #[error(
        "{} is damaged: restore it from a copy, or move it away to start with an empty node",
        .path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        source: Box<redb::Error>,
    },
    /// A file or folder cannot be used.
    #[error("{step} {}", .path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Why a read or write failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No room on the disk; the store goes on by itself when there is.
    #[error("the disk of the data directory is full")]
    Full,
    /// The backlog of accepted calls is full.
    #[error("the backlog of asynchronous calls is full")]
    BacklogFull,
    /// A value is longer than it may be.
    #[error("{what} of {bytes} bytes is longer than the {limit} allowed")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// A record is not what was written.
    #[error("a record of {what} does not read: {reason}")]
    Unreadable {
        /// What it is a record of.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// The database or a file failed.
    #[error("the store failed")]
    Failed(#[source] Arc<redb::Error>),
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) if disk::is_full(&error) => StoreError::Full,
            other => StoreError::Failed(Arc::new(other)),
        }
    }
}

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Deployed functions.
    pub functions: Vec<FunctionRecord>,
    /// Namespaces made on purpose.
    pub namespaces: Vec<(Namespace, NamespaceRecord)>,
    /// Accepted calls without a result, oldest first.
    pub pending: Vec<PendingCall>,
    /// Results that still have to be sent.
    pub callbacks: Vec<PendingCallback>,
    /// Copies of other nodes' calls.
    pub copies: Vec<CopyNote>,
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Accepted calls without a result.
    pub pending: u64,
    /// Results.
    pub results: u64,
}

/// The store of one data directory. Clones share it; the last one to be dropped
/// writes what waits, closes it and gives the directory back.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    jobs: Option<mpsc::SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of a store work on.
struct Shared {
    engine: Engine,
    bodies: Arc<BodyFiles>,
    config: StoreConfig,
    closing: AtomicBool,
    _lock: DirLock,
}

impl Store {
    /// Opens the store in `dir`, making both if they are not there. Blocks.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<(Store, Recovered), OpenError> {
        let private = |dir: &Path| {
            disk::lasting_dir(dir).map_err(|source| OpenError::Io {
                step: "make the private folder",
                path: dir.into(),
                source,
            })
        };
        private(dir)?;
        let lock = DirLock::take(dir)?;
        let engine = Engine::open(dir.join("store.redb"))?;
        let bodies = dir.join("bodies");
        private(&bodies)?;
        let bodies = Arc::new(BodyFiles::new(bodies));
        let closing = AtomicBool::new(false);
        let shared = Arc::new(Shared {
            engine,
            bodies,
            config,
            closing,
            _lock: lock,
        });
        let recovered = shared.recover().map_err(|error| OpenError::Damaged {
            path: dir.join("store.redb"),
            source: Box::new(redb::Error::Corrupted(describe(&error))),
        })?;
        let inner = Inner::start(shared).map_err(|source| OpenError::Io {
            step: "start the threads of the store in",
            path: dir.into(),
            source,
        })?;
        Ok((
            Store {
                inner: Arc::new(inner),
            },
            recovered,
        ))
    }

    /// Keeps a function under its name, in place of one of the same name.
    pub async fn put_function(&self, function: &FunctionRecord) -> Result<(), StoreError> {
        let name = &function.spec.name;
        let (key, value) = (key(&name.namespace, name.name()), encode(function));
        self.write(move |tables| {
            tables.functions.insert(key.as_str(), value.as_slice())?;
            Ok(())
        })
        .await
    }

    /// Forgets a function; false when there is none of that name.
    pub async fn remove_function(&self, name: &FunctionName) -> Result<bool, StoreError> {
        let key = key(&name.namespace, name.name());
        self.write(move |tables| Ok(tables.functions.remove(key.as_str())?.is_some()))
            .await
    }

    /// Keeps a namespace, in place of one of the same name.
    pub async fn put_namespace(
        &self,
        name: &Namespace,
        namespace: &NamespaceRecord,
    ) -> Result<(), StoreError> {
        let (name, value) = (name.clone(), encode(namespace));
        self.write(move |tables| {
            tables.namespaces.insert(name.as_str(), value.as_slice())?;
            Ok(())
        })
        .await
    }

    /// Forgets a namespace; false when there is none of that name. What is in
    /// it stays.
    pub async fn remove_namespace(&self, name: &Namespace) -> Result<bool, StoreError> {
        let name = name.clone();
        self.write(move |tables| Ok(tables.namespaces.remove(name.as_str())?.is_some()))
            .await
    }

    /// Keeps a secret, in place of one of the same name.
    pub async fn put_secret(
        &self,
        namespace: &Namespace,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<(), StoreError> {
        let bytes = value.reveal().len();
        if bytes > SecretValue::MAX_BYTES {
            let limit = SecretValue::MAX_BYTES;
            return Err(StoreError::TooLarge {
                what: "a secret",
                bytes,
                limit,
            });
        }
        let (key, value) = (key(namespace, name.as_str()), value.clone());
        self.write(move |tables| {
            tables.secrets.insert(key.as_str(), value.reveal())?;
            Ok(())
        })
        .await
    }

    /// Forgets a secret; false when there is none of that name.
    pub async fn remove_secret(
        &self,
        namespace: &Namespace,
        name: &SecretName,
    ) -> Result<bool, StoreError> {
        let key = key(namespace, name.as_str());
        self.write(move |tables| Ok(tables.secrets.remove(key.as_str())?.is_some()))
            .await
    }

    /// The value of a secret; `None` when there is none of that name.
    pub async fn secret(
        &self,
        namespace: &Namespace,
        name: &SecretName,
    ) -> Result<Option<SecretValue>, StoreError> {
        let key = key(namespace, name.as_str());
        let value = |value: redb::AccessGuard<'_, &[u8]>| SecretValue::new(value.value().to_vec());
        self.read(move |txn| Ok(txn.open_table(SECRETS)?.get(key.as_str())?.map(value)))
            .await
    }

    /// The names of the secrets in a namespace, sorted.
    pub async fn secrets(&self, namespace: &Namespace) -> Result<Vec<SecretName>, StoreError> {
        // NUL ends the namespace in every key, so this is all of it and no other.
        let (from, to) = (key(namespace, ""), format!("{namespace}\u{1}"));
        self.read(move |txn| {
            let mut names = Vec::new();
            for entry in txn.open_table(SECRETS)?.range(from.as_str()..to.as_str())? {
                let (key, _) = entry?;
                names.extend(key.value()[from.len()..].parse());
            }
            Ok(names)
        })
        .await
    }

    /// Takes a body of a call, at most `limit` bytes of it, to be handed to
    /// [`Store::accept`] or [`Store::complete`]. A long one goes to a file as
    /// it comes and is on disk on return.
    pub async fn keep_body(
        &self,
        id: CallId,
        part: BodyPart,
        body: Body,
        limit: u64,
    ) -> Result<WrittenBody, KeepBodyError> {
        body::write(self.inner.shared.bodies.clone(), id, part, body, limit).await
    }

    /// The body of a record of this store, as a stream.
    pub async fn open_body(
        &self,
        id: CallId,
        part: BodyPart,
        stored: &StoredBody,
    ) -> io::Result<Body> {
        body::read(&self.inner.shared.bodies, id, part, stored).await
    }

    /// Accepts a call: on return it is on disk and will be run. Dropping the
    /// future leaves open whether it was accepted.
    pub async fn accept(
        &self,
        call: CallRecord,
        body: impl Into<Arc<WrittenBody>>,
    ) -> Result<(), StoreError> {
        self.accept_copied(call, Vec::new(), body).await
    }

    /// The same for a call that these peers keep copies of.
    pub async fn accept_copied(
        &self,
        mut call: CallRecord,
        copies: Vec<PeerId>,
        body: impl Into<Arc<WrittenBody>>,
    ) -> Result<(), StoreError> {
        let body = body.into();
        call.body = body.stored.clone();
        let (id, limit) = (number(call.id), self.inner.shared.config.backlog);
        let pending = PendingCall {
            copies,
            ..PendingCall::of(&call)
        };
        let (pending, call) = (encode(&pending), encode(&call));
        self.write(move |tables| {
            if tables.pending.len()? >= limit {
                return Err(Fault::Refused(StoreError::BacklogFull));
            }
            tables.after.kept.push(body);
            tables.calls.insert(id, call.as_slice())?;
            tables.pending.insert(id, pending.as_slice())?;
            Ok(())
        })
        .await
    }

    /// The whole call; `None` when it has ended or never was.
    pub async fn call(&self, id: CallId) -> Result<Option<CallRecord>, StoreError> {
        let id = number(id);
        let found = self.read(move |txn| {
            let bytes = |guard: redb::AccessGuard<'_, &[u8]>| guard.value().to_vec();
            let call = txn.open_table(CALLS)?.get(id)?.map(bytes);
            Ok(call.zip(txn.open_table(PENDING)?.get(id)?.map(bytes)))
        });
        let Some((call, pending)) = found.await? else {
            return Ok(None);
        };
        let mut call: CallRecord = readable("a call", &call)?;
        call.attempts = readable::<PendingCall>("a call", &pending)?.attempts;
        Ok(Some(call))
    }

    /// What there is of a call that waits for its result; `None` when it has
    /// ended or never was.
    pub async fn pending(&self, id: CallId) -> Result<Option<PendingCall>, StoreError> {
        let id = number(id);
        let bytes = |guard: redb::AccessGuard<'_, &[u8]>| guard.value().to_vec();
        let found = self.read(move |txn| Ok(txn.open_table(PENDING)?.get(id)?.map(bytes)));
        found
            .await?
            .map(|bytes| readable("a call", &bytes))
            .transpose()
    }

    /// Notes that an attempt begins. It returns at once and reaches the disk
    /// with the next transaction, within some 20 ms: a crash in between loses
    /// the count, not the call, so it may be run once more than the count says.
    pub async fn begin_attempt(&self, id: CallId, attempt: u32) -> Result<(), StoreError> {
        let id = number(id);
        let noted = move |tables: &mut Tables<'_>| -> Result<(), Fault> {
            let found = tables.pending.get(id)?.map(|guard| decode(guard.value()));
            let Some(Ok::<PendingCall, _>(mut pending)) = found else {
                return Ok(());
            };
            pending.attempts = pending.attempts.max(attempt);
            tables.pending.insert(id, encode(&pending).as_slice())?;
            Ok(())
        };
        self.send(true, noted).await.map(drop)
    }

    /// Replaces a call by its result, with a callback to come if the call asked
    /// for one; false, with nothing kept, when the call is not pending any more.
    /// Whoever wants to try again after an error keeps a clone of the body's
    /// `Arc` and hands it in again: the file stays for as long.
    pub async fn complete(
        &self,
        id: CallId,
        mut result: ResultRecord,
        body: impl Into<Arc<WrittenBody>>,
    ) -> Result<bool, StoreError> {
        let body = body.into();
        let shared = self.inner.shared.clone();
        self.write(move |tables| {
            let key = number(id);
            let Some(call) = take_call(tables, &shared.bodies, id)? else {
                return Ok(false);
            };
            result.body = body.stored.clone();
            result.callback = CallbackState::Unwanted;
            if call.as_ref().is_some_and(|call| call.durable > 0) {
                mark_ended(tables, id, result.ended_at)?;
            }
            if let Some(url) = call.and_then(|call| call.callback) {
                result.callback = CallbackState::Pending;
                let callback = encode(&PendingCallback { id, url });
                tables.callbacks.insert(key, callback.as_slice())?;
            }
            tables.after.kept.push(body);
            insert_result(tables, &shared, id, &result)?;
            Ok(true)
        })
        .await
    }

    /// Forgets a call that has not ended; false when there is none. Its result,
    /// should it still come, is not kept.
    pub async fn cancel(&self, id: CallId) -> Result<bool, StoreError> {
        let bodies = self.inner.shared.bodies.clone();
        self.write(move |tables| Ok(take_call(tables, &bodies, id)?.is_some()))
            .await
    }

    /// The result of a call; `None` when it has none, or not any more.
    pub async fn result(&self, id: CallId) -> Result<Option<ResultRecord>, StoreError> {
        let id = number(id);
        let bytes = |guard: redb::AccessGuard<'_, &[u8]>| guard.value().to_vec();
        let found = self.read(move |txn| Ok(txn.open_table(RESULTS)?.get(id)?.map(bytes)));
        found
            .await?
            .map(|bytes| readable("a result", &bytes))
            .transpose()
    }

    /// Notes how a callback ended; it will not be recovered any more. False
    /// when the result has expired meanwhile.
    pub async fn callback_done(
        &self,
        id: CallId,
        state: CallbackState,
    ) -> Result<bool, StoreError> {
        let id = number(id);
        self.write(move |tables| {
            tables.callbacks.remove(id)?;
            let found = tables.results.get(id)?.map(|guard| decode(guard.value()));
            let Some(Ok::<ResultRecord, _>(mut result)) = found else {
                return Ok(false);
            };
            result.callback = state;
            tables.results.insert(id, encode(&result).as_slice())?;
            Ok(true)
        })
        .await
    }

    /// Removes the results whose time has passed at `now` and those beyond the
    /// bound; returns how many.
    pub async fn expire(&self, now: Timestamp) -> Result<usize, StoreError> {
        self.expire_marks(now).await?;
        let keep = &self.inner.shared.config.keep_results;
        let before =
            micros(now).saturating_sub(u64::try_from(keep.as_micros()).unwrap_or(u64::MAX));
        let mut expired = 0;
        loop {
            // Looked at first: a node without old results writes nothing.
            let max_results = self.inner.shared.config.max_results;
            let due = self.read(move |txn| {
                let expiry = txn.open_table(EXPIRY)?;
                let oldest = expiry.first()?.map(|(key, _)| key.value().0);
                Ok(expiry.len()? > max_results || oldest.is_some_and(|ended| ended < before))
            });
            if !due.await? {
                return Ok(expired);
            }
            let shared = self.inner.shared.clone();
            let batch = self.write(move |tables| {
                let mut removed = 0;
                while removed < EXPIRE_BATCH {
                    let beyond = tables.results.len()? > shared.config.max_results;
                    let before = if beyond { None } else { Some(before) };
                    if !remove_oldest(tables, &shared.bodies, before)? {
                        break;
                    }
                    removed += 1;
                }
                Ok(removed)
            });
            match batch.await? {
                0 => return Ok(expired),
                removed => expired += removed,
            }
        }
    }

    /// How many calls and results there are.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.read(|txn| {
            let pending = txn.open_table(PENDING)?.len()?;
            Ok(Counts {
                pending,
                results: txn.open_table(RESULTS)?.len()?,
            })
        })
        .await
    }

    /// Transactions brought to disk since the store was opened.
    pub fn commits(&self) -> u64 {
        self.inner.shared.engine.commits()
    }

    async fn write<T: Send + 'static>(
        &self,
        apply: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let outcome = self.send(false, apply).await?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    async fn send<T: Send + 'static>(
        &self,
        lazy: bool,
        apply: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<tokio::sync::oneshot::Receiver<Result<T, StoreError>>, StoreError> {
        let place = self.inner.places.clone().acquire_owned().await;
        let (job, outcome) = Job::new(place.map_err(|_| StoreError::Closed)?, lazy, apply);
        let jobs = self.inner.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(job).map_err(|_| StoreError::Closed)?;
        Ok(outcome)
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.inner.shared.clone();
        let read = tokio::task::spawn_blocking(move || shared.engine.read(work));
        read.await.map_err(|_| StoreError::Closed)?
    }
}

impl Inner {
    fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (sender, jobs) = mpsc::sync_channel(writer::QUEUE);
        let (writing, sweeping) = (shared.clone(), shared.clone());
        let writer = thread::Builder::new().name("weir-store".to_owned());
        let sweeper = thread::Builder::new().name("weir-sweep".to_owned());
        let threads = vec![
            writer.spawn(move || writer::run(&writing, &jobs))?,
            sweeper.spawn(move || sweeping.sweep())?,
        ];
        let places = Arc::new(Semaphore::new(writer::QUEUE));
        Ok(Inner {
            shared,
            places,
            jobs: Some(sender),
            threads,
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; there is nothing left to save.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Reads what a restarted node needs to know; never a header or a body.
    fn recover(&self) -> Result<Recovered, StoreError> {
        let mut recovered = self.engine.read(|txn| {
            let mut recovered = Recovered::default();
            for entry in txn.open_table(FUNCTIONS)?.iter()? {
                recovered
                    .functions
                    .extend(recognised("a function", entry?.1.value()));
            }
            for entry in txn.open_table(NAMESPACES)?.iter()? {
                let (name, record) = entry?;
                let record = recognised("a namespace", record.value());
                recovered
                    .namespaces
                    .extend(name.value().parse().ok().zip(record));
            }
            for entry in txn.open_table(PENDING)?.iter()? {
                recovered
                    .pending
                    .extend(recognised("a call", entry?.1.value()));
            }
            for entry in txn.open_table(CALLBACKS)?.iter()? {
                recovered
                    .callbacks
                    .extend(recognised("a callback", entry?.1.value()));
            }
            for entry in txn.open_table(NOTES)?.iter()? {
                recovered
                    .copies
                    .extend(recognised("a copy", entry?.1.value()));
            }
            Ok(recovered)
        })?;
        recovered
            .pending
            .sort_unstable_by_key(|call: &PendingCall| (call.accepted_at, call.id));
        Ok(recovered)
    }

    /// Removes body files that no record names.
    fn sweep(&self) {
        let named = |id, part| {
            self.engine.read(|txn| {
                let id = number(id);
                let record = match part {
                    BodyPart::Request => requests(txn, id)?,
                    BodyPart::Result => {
                        let result = txn.open_table(RESULTS)?.get(id)?;
                        result.map(|result| result.value().to_vec())
                    }
                };
                let named = record.and_then(|record| recognised("a body", &record));
                Ok(named.and_then(|named: record::BodyOf| named.body.serial()))
            })
        };
        match self
            .bodies
            .sweep(named, || self.closing.load(Ordering::Relaxed))
        {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "removed bodies that belonged to no call"),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "cannot look for bodies that belong to no call");
            }
        }
    }
}

/// Removes a pending call; `None` when there is none, `Some(None)` when its
/// record did not read.
fn take_call(
    tables: &mut Tables<'_>,
    bodies: &BodyFiles,
    id: CallId,
) -> Result<Option<Option<CallRecord>>, Fault> {
    let key = number(id);
    if tables.pending.remove(key)?.is_none() {
        return Ok(None);
    }
    let call = tables.calls.remove(key)?;
    let call = call.and_then(|call| recognised::<CallRecord>("a call", call.value()));
    if let Some(serial) = call.as_ref().and_then(|call| call.body.serial()) {
        tables
            .after
            .orphans
            .push(bodies.path(id, BodyPart::Request, serial));
    }
    Ok(Some(call))
}

/// Keeps a result, whose body is on disk.
fn insert_result(
    tables: &mut Tables<'_>,
    shared: &Shared,
    id: CallId,
    result: &ResultRecord,
) -> Result<(), Fault> {
    let key = number(id);
    tables.results.insert(key, encode(result).as_slice())?;
    let ended = micros(result.ended_at);
    let serial = result.body.serial().map_or(0, FileSerial::number);
    tables.expiry.insert((ended, key), serial)?;
    // Two, so that a bound that was lowered is reached in time too.
    for _ in 0..2 {
        if tables.results.len()? > shared.config.max_results {
            remove_oldest(tables, &shared.bodies, None)?;
        }
    }
    Ok(())
}

/// Removes the oldest result, if it ended before `before`.
fn remove_oldest(
    tables: &mut Tables<'_>,
    bodies: &BodyFiles,
    before: Option<u64>,
) -> Result<bool, Fault> {
    let oldest = tables
        .expiry
        .first()?
        .map(|(key, serial)| (key.value(), serial.value()));
    let Some(((ended, id), serial)) = oldest else {
        return Ok(false);
    };
    if before.is_some_and(|before| ended >= before) {
        return Ok(false);
    }
    tables.expiry.remove((ended, id))?;
    tables.results.remove(id)?;
    tables.callbacks.remove(id)?;
    if let Some(serial) = FileSerial::new(serial) {
        let id = CallId::new(id.to_be_bytes());
        tables
            .after
            .orphans
            .push(bodies.path(id, BodyPart::Result, serial));
    }
    Ok(true)
}

fn number(id: CallId) -> u128 {
    u128::from_be_bytes(id.bytes())
}

fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}

fn readable<T: for<'de> Deserialize<'de>>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, StoreError> {
    decode(bytes).map_err(|reason| StoreError::Unreadable { what, reason })
}

/// A record, or `None` and a line in the log: one that does not read must not
/// keep all others from being served.
fn recognised<T: for<'de> Deserialize<'de>>(what: &'static str, bytes: &[u8]) -> Option<T> {
    decode(bytes)
        .map_err(|error| tracing::error!(%error, "a record of {what} does not read"))
        .ok()
}

fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", describe(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
