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
mod calls;
mod copies;
mod engine;
mod error;
mod lock;
mod record;
mod writer;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use serde::Deserialize;
use tokio::sync::Semaphore;

pub use self::body::{BodyPart, INLINE_BODY, KeepBodyError, WrittenBody};
pub use self::copies::CopyKept;
pub use self::error::{OpenError, StoreError};
pub use self::record::{
    CallRecord, CallStanding, CallbackState, CopyNote, FileSerial, FunctionRecord, NamespaceRecord,
    PendingCall, PendingCallback, ResultRecord, SecretValue, StoredBody, VersionRecord,
};

use self::body::BodyFiles;
use self::copies::requests;
use self::engine::{
    CALLBACKS, Engine, FUNCTIONS, NAMESPACES, NOTES, PENDING, RESULTS, SECRETS, Tables,
};
use self::lock::DirLock;
use self::record::{decode, encode, key};
use self::writer::{Fault, Job};
use crate::config::AsyncConfig;
use crate::disk;
use crate::id::{CallId, FunctionName, Namespace, SecretName};

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
