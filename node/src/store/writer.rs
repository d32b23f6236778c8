//! One thread writes, for all: whatever waits when it is free goes to disk in
//! one transaction, so that the disk's flushes bound the number of
//! transactions and not the number of calls.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::engine::{Aftermath, Engine, Tables};
use super::{Shared, StoreError};
use crate::clock::Moment as _;

/// Writes that wait for the thread; whoever comes later waits for a place.
pub(super) const QUEUE: usize = 1024;

/// Most writes in one transaction, so that none waits for ever-growing ones.
const BATCH: usize = 1024;

/// How long a write that nobody waits for may wait for company.
const LAZY: Duration = Duration::from_millis(20);

/// Why a write changed nothing.
pub(super) enum Fault {
    /// It was not allowed, or cannot be done. Found before anything was
    /// written, or the refused change would be committed with its batch.
    Refused(StoreError),
    /// The database failed, and the whole batch with it.
    Storage(redb::Error),
}

impl From<redb::StorageError> for Fault {
    fn from(error: redb::StorageError) -> Self {
        Fault::Storage(error.into())
    }
}

/// One write on its way.
pub(super) struct Job {
    write: Box<dyn Write>,
    lazy: bool,
    _place: OwnedSemaphorePermit,
}

impl Job {
    /// A write, and where its outcome will be told once it is on disk.
    pub(super) fn new<T: Send + 'static>(
        place: OwnedSemaphorePermit,
        lazy: bool,
        apply: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, outcome) = oneshot::channel();
        let write = Box::new(Typed {
            apply: Some(apply),
            outcome: None,
            reply,
        });
        (
            Job {
                write,
                lazy,
                _place: place,
            },
            outcome,
        )
    }
}

trait Write: Send {
    /// Does it, inside a transaction.
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error>;
    /// Tells whoever waits.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Typed<F, T> {
    apply: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Write for Typed<F, T>
where
    F: FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        let Some(apply) = self.apply.take() else {
            return Ok(());
        };
        self.outcome = Some(match apply(tables) {
            Ok(value) => {
                tables.after.changed = true;
                Ok(value)
            }
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Storage(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Typed { outcome, reply, .. } = *self;
        // The caller may have gone; what is on disk stays there.
        let _ = reply.send(committed.and_then(|()| outcome.unwrap_or(Err(StoreError::Closed))));
    }
}

/// Runs until every sender is gone and everything sent is on disk.
pub(super) fn run(shared: &Arc<Shared>, jobs: &Receiver<Job>) {
    let mut failed = false;
    while let Some(batch) = gather(jobs) {
        let writes = batch.len();
        match (commit(&shared.engine, batch), failed) {
            (Ok(()), true) => {
                tracing::info!("writes succeed again");
                failed = false;
                // Failed transactions may have left body files behind.
                shared.sweep();
            }
            (Err(error), false) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error,
                    writes,
                    "write failed, and each is told so until one succeeds"
                );
                failed = true;
            }
            (Ok(()), false) | (Err(_), true) => {}
        }
    }
}

fn gather(jobs: &Receiver<Job>) -> Option<Vec<Job>> {
    let first = jobs.recv().ok()?;
    let until = Instant::now().later(LAZY);
    let mut lazy = first.lazy;
    let mut batch = vec![first];
    while batch.len() < BATCH {
        let wait = if lazy {
            until.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        };
        match jobs.recv_timeout(wait) {
            Ok(job) => {
                lazy &= job.lazy;
                batch.push(job);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(batch)
}

fn commit(engine: &Engine, mut batch: Vec<Job>) -> Result<(), StoreError> {
    let mut after = Aftermath::default();
    let committed = engine.commit(&mut after, |tables| {
        batch.iter_mut().try_for_each(|job| job.write.apply(tables))
    });
    if committed.is_ok() {
        for path in &after.orphans {
            // One that stays is swept at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
    // Whether a failed commit reached the disk is not known until the database
    // is read again: its files are the sweep's to judge.
    after.kept.iter().for_each(|body| body.leave());
    for job in batch {
        job.write.answer(committed.clone());
    }
    committed
}
