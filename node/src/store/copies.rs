//! Copies of other nodes' asynchronous calls, and marks of those that ended.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use libp2p_identity::PeerId;
use redb::ReadableTable as _;
use redb::ReadableTableMetadata as _;

use super::body::{BodyFiles, BodyPart, WrittenBody};
use super::calls::{EXPIRE_BATCH, insert_result, take_call};
use super::engine::{CALLBACKS, CALLS, COPIES, ENDED, ENDINGS, PENDING, RESULTS, Tables};
use super::record::{
    CallRecord, CallStanding, CallbackState, CopyNote, PendingCall, ResultRecord, decode, encode,
};
use super::writer::Fault;
use super::{Store, StoreError, micros, number, readable, recognised};
use crate::id::CallId;

/// Marks of ended calls that are kept at most; the oldest go first.
const MARKS: u64 = 1_000_000;

/// How long a mark is kept at least: as long as a node may be away and still
/// come back as the one that it was, and a day more.
const KEEP_MARKS: Duration = Duration::from_secs(8 * 24 * 3_600);

/// What came of keeping a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyKept {
    /// It is on disk.
    Kept,
    /// Nothing was kept: the call has ended.
    Ended,
    /// Nothing was kept: this node runs the call itself.
    Ours,
}

impl Store {
    /// Keeps a copy of another node's call. One that is kept already gets the
    /// new note.
    ///
    /// # Errors
    /// [`StoreError::BacklogFull`] beyond as many copies as the backlog may have
    /// calls.
    pub async fn keep_copy(
        &self,
        note: &CopyNote,
        mut call: CallRecord,
        body: impl Into<Arc<WrittenBody>>,
    ) -> Result<CopyKept, StoreError> {
        let body = body.into();
        call.body = body.stored.clone();
        let (id, limit) = (number(note.id), self.inner.shared.config.backlog);
        let (note, call) = (encode(note), encode(&call));
        self.write(move |tables| {
            if let Some(other) = not_a_copy(tables, id)? {
                return Ok(other);
            }
            if tables.notes.get(id)?.is_none() {
                if tables.notes.len()? >= limit {
                    return Err(Fault::Refused(StoreError::BacklogFull));
                }
                tables.after.kept.push(body);
                tables.copies.insert(id, call.as_slice())?;
            }
            tables.notes.insert(id, note.as_slice())?;
            Ok(CopyKept::Kept)
        })
        .await
    }

    /// Gives a copy a new note; `None` when there is no copy.
    pub async fn renote_copy(&self, note: &CopyNote) -> Result<Option<CopyKept>, StoreError> {
        let (id, note) = (number(note.id), encode(note));
        self.write(move |tables| {
            if let Some(other) = not_a_copy(tables, id)? {
                return Ok(Some(other));
            }
            if tables.notes.get(id)?.is_none() {
                return Ok(None);
            }
            tables.notes.insert(id, note.as_slice())?;
            Ok(Some(CopyKept::Kept))
        })
        .await
    }

    /// Lets go of copies; how many there were.
    pub async fn drop_copies(&self, ids: Vec<CallId>) -> Result<usize, StoreError> {
        let bodies = self.inner.shared.bodies.clone();
        self.write(move |tables| {
            let mut dropped = 0;
            for id in ids {
                dropped += usize::from(take_copy(tables, id, Some(&bodies))?.is_some());
            }
            Ok(dropped)
        })
        .await
    }

    /// Puts the result of a call, where there is one, in the place of its copy,
    /// or of the call itself, and marks it as ended. False when neither was here
    /// or it had ended before: nothing changes then.
    pub async fn end_copy(
        &self,
        id: CallId,
        result: Option<(ResultRecord, Arc<WrittenBody>)>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let shared = self.inner.shared.clone();
        self.write(move |tables| {
            if tables.ended.get(number(id))?.is_some() {
                return Ok(false);
            }
            let copied = take_copy(tables, id, Some(&shared.bodies))?.is_some();
            let pending = take_call(tables, &shared.bodies, id)?.is_some();
            if !copied && !pending {
                return Ok(false);
            }
            if let Some((mut result, body)) = result {
                result.body = body.stored.clone();
                // Its owner sees to that.
                result.callback = CallbackState::Unwanted;
                tables.after.kept.push(body);
                insert_result(tables, &shared, id, &result)?;
            }
            mark_ended(tables, id, now)?;
            Ok(true)
        })
        .await
    }

    /// Makes a copy this node's own call, to be run; `None` when there is none.
    pub async fn take_over(&self, id: CallId) -> Result<Option<PendingCall>, StoreError> {
        let key = number(id);
        self.write(move |tables| {
            let Some(Some(call)) = take_copy(tables, id, None)? else {
                return Ok(None);
            };
            let pending = PendingCall::of(&call);
            tables.calls.insert(key, encode(&call).as_slice())?;
            tables.pending.insert(key, encode(&pending).as_slice())?;
            Ok(Some(pending))
        })
        .await
    }

    /// Makes a call of this node's the copy of one that another runs; false when
    /// it has ended.
    pub async fn demote(&self, note: &CopyNote) -> Result<bool, StoreError> {
        let (id, note) = (number(note.id), encode(note));
        self.write(move |tables| {
            if tables.pending.remove(id)?.is_none() {
                return Ok(false);
            }
            let call = tables.calls.remove(id)?.map(|call| call.value().to_vec());
            if let Some(call) = call {
                tables.copies.insert(id, call.as_slice())?;
                tables.notes.insert(id, note.as_slice())?;
            }
            Ok(true)
        })
        .await
    }

    /// The whole call that a copy is of.
    pub async fn copied(&self, id: CallId) -> Result<Option<CallRecord>, StoreError> {
        let id = number(id);
        let bytes = |guard: redb::AccessGuard<'_, &[u8]>| guard.value().to_vec();
        let found = self.read(move |txn| Ok(txn.open_table(COPIES)?.get(id)?.map(bytes)));
        let found = found.await?;
        found.map(|bytes| readable("a call", &bytes)).transpose()
    }

    /// Notes which peers keep copies of a call of this node's; false when it has
    /// ended.
    pub async fn set_copies(&self, id: CallId, copies: Vec<PeerId>) -> Result<bool, StoreError> {
        let id = number(id);
        self.write(move |tables| {
            let found = tables.pending.get(id)?.map(|guard| decode(guard.value()));
            let Some(Ok::<PendingCall, _>(mut pending)) = found else {
                return Ok(false);
            };
            pending.copies = copies;
            tables.pending.insert(id, encode(&pending).as_slice())?;
            Ok(true)
        })
        .await
    }

    /// What is known of each call.
    pub async fn standings(&self, ids: Vec<CallId>) -> Result<Vec<CallStanding>, StoreError> {
        self.read(move |txn| {
            let (pending, copies) = (txn.open_table(PENDING)?, txn.open_table(COPIES)?);
            let (results, ended) = (txn.open_table(RESULTS)?, txn.open_table(ENDED)?);
            let callbacks = txn.open_table(CALLBACKS)?;
            let standing = |id: &CallId| {
                let id = number(*id);
                // What is not delivered yet is not done.
                Ok(
                    if pending.get(id)?.is_some() || callbacks.get(id)?.is_some() {
                        CallStanding::Pending
                    } else if results.get(id)?.is_some() || ended.get(id)?.is_some() {
                        CallStanding::Done
                    } else if copies.get(id)?.is_some() {
                        CallStanding::Copied
                    } else {
                        CallStanding::Unknown
                    },
                )
            };
            ids.iter().map(standing).collect()
        })
        .await
    }

    /// Removes the marks whose time has passed at `now`.
    pub(super) async fn expire_marks(&self, now: Timestamp) -> Result<(), StoreError> {
        let keep = self.inner.shared.config.keep_results.saturating_mul(2);
        let keep = u64::try_from(keep.max(KEEP_MARKS).as_micros()).unwrap_or(u64::MAX);
        let before = micros(now).saturating_sub(keep);
        let due = self.read(move |txn| {
            let endings = txn.open_table(ENDINGS)?;
            let oldest = endings.first()?.map(|(key, _)| key.value().0);
            Ok(oldest.is_some_and(|ended| ended < before))
        });
        if !due.await? {
            return Ok(());
        }
        self.write(move |tables| {
            for _ in 0..EXPIRE_BATCH {
                if !remove_oldest_mark(tables, Some(before))? {
                    break;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Why no copy is kept of a call, if there is a reason.
fn not_a_copy(tables: &Tables<'_>, id: u128) -> Result<Option<CopyKept>, Fault> {
    Ok(if tables.pending.get(id)?.is_some() {
        Some(CopyKept::Ours)
    } else if tables.ended.get(id)?.is_some() || tables.results.get(id)?.is_some() {
        Some(CopyKept::Ended)
    } else {
        None
    })
}

/// Removes a copy, and its body unless that is still needed; `Some(None)` when
/// it did not read.
fn take_copy(
    tables: &mut Tables<'_>,
    id: CallId,
    bodies: Option<&BodyFiles>,
) -> Result<Option<Option<CallRecord>>, Fault> {
    let key = number(id);
    if tables.notes.remove(key)?.is_none() {
        return Ok(None);
    }
    let call = tables.copies.remove(key)?;
    let call = call.and_then(|call| recognised::<CallRecord>("a copy", call.value()));
    let serial = call.as_ref().and_then(|call| call.body.serial());
    if let (Some(serial), Some(bodies)) = (serial, bodies) {
        let path = bodies.path(id, BodyPart::Request, serial);
        tables.after.orphans.push(path);
    }
    Ok(Some(call))
}

/// Marks a call as ended for those who ask when its result has expired.
pub(super) fn mark_ended(tables: &mut Tables<'_>, id: CallId, now: Timestamp) -> Result<(), Fault> {
    let (key, at) = (number(id), micros(now));
    let before = tables.ended.insert(key, at)?.map(|before| before.value());
    if let Some(before) = before {
        tables.endings.remove((before, key))?;
    }
    tables.endings.insert((at, key), ())?;
    if tables.ended.len()? > MARKS {
        remove_oldest_mark(tables, None)?;
    }
    Ok(())
}

fn remove_oldest_mark(tables: &mut Tables<'_>, before: Option<u64>) -> Result<bool, Fault> {
    let oldest = tables.endings.first()?.map(|(key, _)| key.value());
    let Some((ended, id)) = oldest else {
        return Ok(false);
    };
    if before.is_some_and(|before| ended >= before) {
        return Ok(false);
    }
    tables.endings.remove((ended, id))?;
    tables.ended.remove(id)?;
    Ok(true)
}

/// The table that holds the record which names a body of a request: that of the
/// calls, or that of the copies.
pub(super) fn requests(
    txn: &redb::ReadTransaction,
    id: u128,
) -> Result<Option<Vec<u8>>, redb::Error> {
    let bytes = |guard: redb::AccessGuard<'_, &[u8]>| guard.value().to_vec();
    match txn.open_table(CALLS)?.get(id)? {
        Some(call) => Ok(Some(bytes(call))),
        None => Ok(txn.open_table(COPIES)?.get(id)?.map(bytes)),
    }
}
