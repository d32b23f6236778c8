//! The database file: opening, reopening after a failure, one transaction.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use parking_lot::{RwLock, RwLockWriteGuard};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, StorageBackend, Table,
    TableDefinition, WriteTransaction,
};

use super::body::WrittenBody;
use super::{OpenError, StoreError};
use crate::disk;

/// The version of what this program writes: the tables below and the records
/// in them. Raised when an older program could no longer read them.
pub(super) const FORMAT: u64 = 1;

/// Memory for pages read and not yet written. The kernel caches the file
/// anyway, and redb's own default of 1 GiB would be most of an edge node.
const CACHE_BYTES: usize = 4 << 20;

pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(super) const FUNCTIONS: TableDefinition<&str, &[u8]> = TableDefinition::new("functions");
pub(super) const NAMESPACES: TableDefinition<&str, &[u8]> = TableDefinition::new("namespaces");
pub(super) const SECRETS: TableDefinition<&str, &[u8]> = TableDefinition::new("secrets");
/// Whole calls, with headers and short bodies.
pub(super) const CALLS: TableDefinition<u128, &[u8]> = TableDefinition::new("calls");
/// The same calls without what can be large, so that a start reads little.
pub(super) const PENDING: TableDefinition<u128, &[u8]> = TableDefinition::new("pending");
pub(super) const RESULTS: TableDefinition<u128, &[u8]> = TableDefinition::new("results");
/// Results by the microsecond of their end, and the serial of their body's file
/// (0: none), so that expiry reads no result.
pub(super) const EXPIRY: TableDefinition<(u64, u128), u64> = TableDefinition::new("expiry");
pub(super) const CALLBACKS: TableDefinition<u128, &[u8]> = TableDefinition::new("callbacks");
/// Calls of other nodes' that this one keeps copies of, as in `calls`.
pub(super) const COPIES: TableDefinition<u128, &[u8]> = TableDefinition::new("copies");
/// Whose they are and who else keeps them.
pub(super) const NOTES: TableDefinition<u128, &[u8]> = TableDefinition::new("notes");
/// Calls with copies that have ended: when, in microseconds. Kept for longer
/// than results, for nodes that were away.
pub(super) const ENDED: TableDefinition<u128, u64> = TableDefinition::new("ended");
/// The same by that time.
pub(super) const ENDINGS: TableDefinition<(u64, u128), ()> = TableDefinition::new("endings");

const VERSION: &str = "version";

/// Every table, open for writing, and what is to be done once the transaction
/// is on disk.
pub(super) struct Tables<'txn> {
    pub(super) functions: Table<'txn, &'static str, &'static [u8]>,
    pub(super) namespaces: Table<'txn, &'static str, &'static [u8]>,
    pub(super) secrets: Table<'txn, &'static str, &'static [u8]>,
    pub(super) calls: Table<'txn, u128, &'static [u8]>,
    pub(super) pending: Table<'txn, u128, &'static [u8]>,
    pub(super) results: Table<'txn, u128, &'static [u8]>,
    pub(super) expiry: Table<'txn, (u64, u128), u64>,
    pub(super) callbacks: Table<'txn, u128, &'static [u8]>,
    pub(super) copies: Table<'txn, u128, &'static [u8]>,
    pub(super) notes: Table<'txn, u128, &'static [u8]>,
    pub(super) ended: Table<'txn, u128, u64>,
    pub(super) endings: Table<'txn, (u64, u128), ()>,
    pub(super) after: &'txn mut Aftermath,
}

impl<'txn> Tables<'txn> {
    fn open(txn: &'txn WriteTransaction, after: &'txn mut Aftermath) -> Result<Self, redb::Error> {
        Ok(Tables {
            functions: txn.open_table(FUNCTIONS)?,
            namespaces: txn.open_table(NAMESPACES)?,
            secrets: txn.open_table(SECRETS)?,
            calls: txn.open_table(CALLS)?,
            pending: txn.open_table(PENDING)?,
            results: txn.open_table(RESULTS)?,
            expiry: txn.open_table(EXPIRY)?,
            callbacks: txn.open_table(CALLBACKS)?,
            copies: txn.open_table(COPIES)?,
            notes: txn.open_table(NOTES)?,
            ended: txn.open_table(ENDED)?,
            endings: txn.open_table(ENDINGS)?,
            after,
        })
    }
}

/// What a transaction leaves to do.
#[derive(Default)]
pub(super) struct Aftermath {
    /// Whether anything was written; a transaction of refusals is not committed.
    pub(super) changed: bool,
    /// Body files that records of this transaction refer to.
    pub(super) kept: Vec<Arc<WrittenBody>>,
    /// Body files that no record refers to any more.
    pub(super) orphans: Vec<PathBuf>,
}

/// The database, and the way back after it has failed.
pub(super) struct Engine {
    path: PathBuf,
    slot: RwLock<Slot>,
    commits: AtomicU64,
    faults: Faults,
}

/// redb refuses all work after one I/O error until it is opened anew, and two
/// open databases on one file would tear it. So readers and the writer share
/// this lock, and whoever meets a failure takes it alone to close the database;
/// the next one opens it again.
struct Slot {
    database: Option<Database>,
    /// Counts openings, so that a late loser does not close its successor.
    generation: u64,
}

impl Drop for Slot {
    /// Closing writes too, which a damaged file can fail in a panic.
    fn drop(&mut self) {
        if let Some(database) = self.database.take() {
            close(database);
        }
    }
}

fn close(database: Database) {
    if quietly(|| drop(database)).is_err() {
        tracing::error!("the database could not be closed; what was committed is on disk");
    }
}

impl Engine {
    /// Opens the database at `path`, making it if it is not there.
    pub(super) fn open(path: PathBuf) -> Result<Self, OpenError> {
        let faults = Faults::default();
        if !path
            .try_exists()
            .map_err(|source| io_error("look for", &path, source))?
        {
            create(&path, &faults)?;
        }
        let database = open_database(&path, &faults)?;
        Ok(Engine {
            path,
            slot: RwLock::new(Slot {
                database: Some(database),
                generation: 0,
            }),
            commits: AtomicU64::new(0),
            faults,
        })
    }

    /// Transactions on disk since the start.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Reads from one consistent state, never waiting for a write.
    pub(super) fn read<T>(
        &self,
        work: impl Fn(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let once = || self.with(|database| work(&database.begin_read()?));
        match once() {
            // Someone else's failure, which that reader has cleared away.
            Err(StoreError::Failed(error)) if matches!(*error, redb::Error::PreviousIo) => once(),
            other => other,
        }
    }

    /// Runs `work` in one transaction and returns once it is on disk.
    pub(super) fn commit(
        &self,
        after: &mut Aftermath,
        work: impl FnOnce(&mut Tables<'_>) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        self.with(|database| {
            let txn = begin(database)?;
            let mut tables = Tables::open(&txn, after)?;
            work(&mut tables)?;
            let changed = tables.after.changed;
            drop(tables);
            if !changed {
                return Ok(txn.abort()?);
            }
            txn.commit()?;
            self.commits.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut slot = self.slot.read();
        if slot.database.is_none() {
            drop(slot);
            let mut writing = self.slot.write();
            if writing.database.is_none() {
                writing.database = Some(self.reopen()?);
                writing.generation += 1;
                tracing::debug!(path = %self.path.display(), "store reopened after a failure");
            }
            slot = RwLockWriteGuard::downgrade(writing);
        }
        let generation = slot.generation;
        let database = slot
            .database
            .as_ref()
            .expect("opened above, under the same lock");
        let error = match guarded(|| work(database)) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        drop(slot);
        self.close(generation);
        Err(StoreError::from(error))
    }

    fn reopen(&self) -> Result<Database, StoreError> {
        open_database(&self.path, &self.faults).map_err(|error| match error {
            OpenError::Io { source, .. } if disk::is_full(&source) => StoreError::Full,
            OpenError::Io { source, .. } => StoreError::from(redb::Error::Io(source)),
            other => StoreError::from(redb::Error::Corrupted(other.to_string())),
        })
    }

    fn close(&self, generation: u64) {
        let mut slot = self.slot.write();
        if slot.generation == generation
            && let Some(database) = slot.database.take()
        {
            close(database);
        }
    }
}

/// A transaction that is on disk when its commit returns and that leaves what a
/// start after a crash needs, which would otherwise walk the whole file.
fn begin(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    Ok(txn)
}

thread_local! {
    /// Whether a panic of this thread is an error that somebody handles.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Catches a panic without a word of it: whoever handles it says what it means.
fn quietly<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
    QUIET.set(true);
    let worked = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    worked
}

/// A damaged file can trip assertions inside redb; here they are errors.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    quietly(work).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason");
        Err(redb::Error::Corrupted(format!(
            "the database gave up: {text}"
        )))
    })
}

/// Makes an empty database under another name first: a file under the right
/// name is always a whole one, so an empty one is damage and not a fresh start.
fn create(path: &Path, faults: &Faults) -> Result<(), OpenError> {
    let new = path.with_extension("redb.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &new, error));
        }
        _ => {}
    }
    let made = guarded(|| {
        let database = build(&new, true, faults)?;
        let txn = begin(&database)?;
        txn.open_table(META)?.insert(VERSION, FORMAT)?;
        Tables::open(&txn, &mut Aftermath::default())?;
        txn.commit()?;
        Ok(())
    });
    made.map_err(|error| damaged(&new, error))?;
    fs::rename(&new, path).map_err(|source| io_error("rename", &new, source))?;
    let parent = disk::parent(path);
    disk::sync_dir(parent).map_err(|source| io_error("flush", parent, source))
}

fn open_database(path: &Path, faults: &Faults) -> Result<Database, OpenError> {
    let length = fs::metadata(path)
        .map_err(|source| io_error("open", path, source))?
        .len();
    if length == 0 {
        return Err(damaged(
            path,
            redb::Error::Corrupted("the file is empty".to_owned()),
        ));
    }
    let opened = guarded(|| {
        let database = build(path, false, faults)?;
        let txn = database.begin_read()?;
        let version = txn
            .open_table(META)?
            .get(VERSION)?
            .map(|version| version.value());
        // An earlier program made fewer tables, and reading finds none of those
        // that are not there.
        let whole = txn.open_table(ENDINGS).is_ok();
        drop(txn);
        if !whole && version == Some(FORMAT) {
            let txn = begin(&database)?;
            Tables::open(&txn, &mut Aftermath::default())?;
            txn.commit()?;
        }
        Ok((database, version))
    });
    match opened.map_err(|error| damaged(path, error))? {
        (database, Some(FORMAT)) => Ok(database),
        (_, Some(found)) if found > FORMAT => Err(OpenError::Newer {
            path: path.into(),
            found,
        }),
        // There has been no version before the first.
        (_, found) => {
            let text = format!("its format version is {found:?}");
            Err(damaged(path, redb::Error::Corrupted(text)))
        }
    }
}

fn build(path: &Path, new: bool, faults: &Faults) -> Result<Database, redb::Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(new)
        .mode(0o600)
        .open(path)?;
    let backend = Backend {
        file,
        _faults: faults.clone(),
    };
    Ok(Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)?)
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        step,
        path: path.into(),
        source,
    }
}

fn damaged(path: &Path, error: redb::Error) -> OpenError {
    match error {
        // What redb says of a file that is no database, or ends too early.
        redb::Error::Io(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            io_error("use", path, source)
        }
        source => OpenError::Damaged {
            path: path.into(),
            source: Box::new(source),
        },
    }
}

/// The file as redb sees it. The data directory's own lock stands for redb's.
#[derive(Debug)]
struct Backend {
    file: File,
    _faults: Faults,
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        #[cfg(test)]
        self._faults.strike()?;
        self.file.write_all_at(data, offset)
    }
}

/// Failures that tests order; nothing in a program that is not a test.
#[derive(Debug, Default, Clone)]
pub(super) struct Faults {
    #[cfg(test)]
    full: Arc<std::sync::atomic::AtomicBool>,
}

#[cfg(test)]
impl Faults {
    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    fn strike(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}
