//! Asynchronous calls from their acceptance to the end of their results.

use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use libp2p_identity::PeerId;
use redb::{ReadableTable, ReadableTableMetadata};

use super::body::{self, BodyFiles, BodyPart, KeepBodyError, WrittenBody};
use super::copies::mark_ended;
use super::engine::{CALLS, EXPIRY, PENDING, RESULTS, Tables};
use super::record::{
    CallRecord, CallbackState, FileSerial, PendingCall, PendingCallback, ResultRecord, StoredBody,
    decode, encode,
};
use super::writer::Fault;
use super::{Shared, Store, StoreError, micros, number, readable, recognised};
use crate::executor::Body;
use crate::id::CallId;

/// Results removed in one transaction, so that expiry never holds up an
/// acceptance for long.
pub(super) const EXPIRE_BATCH: usize = 1000;

impl Store {
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
}

/// Removes a pending call; `None` when there is none, `Some(None)` when its
/// record did not read.
pub(super) fn take_call(
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
pub(super) fn insert_result(
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
