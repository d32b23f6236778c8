//! What peers and this node keep of each other's asynchronous calls, as far as
//! its own backlog is touched by it.

use std::io;
use std::time::Duration;

use super::invoke::refused;
use super::{ChangeError, Node, SubmitError, stored};
use crate::executor::Body;
use crate::id::CallId;
use crate::invocation::Refusal;
use crate::store::{BodyPart, CallRecord, CopyNote, PendingCall, ResultRecord, Store};

impl Node {
    /// What it keeps on disk.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Waits until it does no work any more.
    pub async fn over(&self) {
        self.inner.cut.cancelled().await;
    }

    /// Calls of an earlier run of which peers have copies. They wait for
    /// [`Node::resume`] or [`Node::give_up`]; those that were taken are not
    /// told again.
    pub fn take_held(&self) -> Vec<PendingCall> {
        std::mem::take(&mut self.inner.backlog.held())
    }

    /// Copies that an earlier run kept; told once.
    pub fn take_copies(&self) -> Vec<CopyNote> {
        self.inner.backlog.take_copies()
    }

    /// Runs a held call.
    pub fn resume(&self, call: CallId) {
        self.inner.backlog.push(call);
    }

    /// Lets go of a held call that a peer has run, or runs.
    ///
    /// # Errors
    /// When that does not reach the disk.
    pub async fn give_up(&self, call: CallId) -> Result<(), ChangeError> {
        let given_up = self.inner.store.cancel(call).await;
        if given_up.map_err(|source| stored("let go of a call", source))? {
            self.inner.backlog.leave();
        }
        Ok(())
    }

    /// Lets a peer run a held call, and keeps it as a copy of that one's.
    ///
    /// # Errors
    /// When that does not reach the disk.
    pub async fn demote(&self, note: &CopyNote) -> Result<(), ChangeError> {
        let demoted = self.inner.store.demote(note).await;
        if demoted.map_err(|source| stored("let a peer run a call", source))? {
            self.inner.backlog.leave();
        }
        Ok(())
    }

    /// Takes note that a held call has its result, by [`Store::end_copy`].
    pub fn left(&self) {
        self.inner.backlog.leave();
    }

    /// Takes the newest call out of those that wait and have not begun, to be
    /// handed to another node. [`Node::resume`] puts it back and
    /// [`Node::give_up`] ends it here.
    pub fn take_waiting(&self) -> Option<CallId> {
        self.inner.backlog.waiting().pop_back()
    }

    /// Takes a call out of those that wait, and holds it; false when it has
    /// begun, or was not among them. [`Node::resume`] puts it back.
    pub fn withdraw(&self, call: CallId) -> bool {
        let mut waiting = self.inner.backlog.waiting();
        let at = waiting.iter().position(|waiting| *waiting == call);
        at.and_then(|at| waiting.remove(at)).is_some()
    }

    /// Makes the copy of a call this node's own and runs it; `None` when there
    /// is no copy.
    ///
    /// # Errors
    /// When that does not reach the disk.
    pub async fn take_over(&self, call: CallId) -> Result<Option<PendingCall>, ChangeError> {
        let taken = self.inner.store.take_over(call).await;
        let taken = taken.map_err(|source| stored("take a call over", source))?;
        if taken.is_some() {
            self.inner.backlog.enter(call);
        }
        Ok(taken)
    }

    /// Takes in a call that another node hands over, with its body of at most
    /// `limit` bytes.
    ///
    /// # Errors
    /// Why not; it is the other's then.
    pub async fn take_in(
        &self,
        mut call: CallRecord,
        body: Body,
        limit: u64,
    ) -> Result<(), SubmitError> {
        let inner = &self.inner;
        if inner.stop.is_cancelled() {
            return Err(refused(Refusal::Draining, Duration::ZERO).into());
        }
        if inner.backlog.len() >= inner.config.asynchronous.backlog {
            return Err(refused(Refusal::BacklogFull, Duration::ZERO).into());
        }
        let kept = inner
            .store
            .keep_body(call.id, BodyPart::Request, body, limit);
        let body = kept.await?;
        call.body = body.stored();
        inner.accept(call, Vec::new(), body).await
    }

    /// The body of a call's request.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub async fn request_body(&self, call: &CallRecord) -> io::Result<Body> {
        let store = &self.inner.store;
        store
            .open_body(call.id, BodyPart::Request, &call.body)
            .await
    }

    /// A result as it is kept, with its body; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn kept_result(
        &self,
        call: CallId,
    ) -> Result<Option<(ResultRecord, Body)>, ChangeError> {
        let store = &self.inner.store;
        let result = store.result(call).await;
        let Some(result) = result.map_err(|source| stored("read the result", source))? else {
            return Ok(None);
        };
        let body = store.open_body(call, BodyPart::Result, &result.body).await;
        let body = body.map_err(|source| ChangeError::Store {
            what: "read the result",
            source: Box::new(source),
        })?;
        Ok(Some((result, body)))
    }
}
