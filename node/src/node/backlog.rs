//! Asynchronous calls: accepted once they are on disk, run until they have a
//! result, their results kept and delivered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use jiff::{SignedDuration, Timestamp};
use libp2p_identity::PeerId;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore};

use super::invoke::refused;
use super::{CallResult, CallState, ChangeError, Copied, Inner, Submission, SubmitError, stored};
use crate::callback::CallbackUrl;
use crate::executor::{AnswerBody, Body};
use crate::function::FunctionSpec;
use crate::id::{CallId, FunctionName, NodeMark, Receipt};
use crate::invocation::{Answer, Invocation, InvokeError, Outcome, Refusal};
use crate::panics;
use crate::store::{
    BodyPart, CallRecord, CallbackState, CopyNote, KeepBodyError, PendingCall, PendingCallback,
    ResultRecord, StoreError, StoredBody, WrittenBody,
};
use crate::time::Time;

/// Attempts to run a call that finds no start, or whose peer is lost, before it
/// gets the failure as result.
const START_ATTEMPTS: u32 = 5;

/// Longest pause between two tries of anything here.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Callbacks under way at once: targets may be slow, and each holds a result.
const CALLBACKS_AT_ONCE: usize = 64;

/// Type of a result that says why there is no answer.
const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A result that says why there is no answer.
fn in_words(error: &InvokeError) -> (StatusCode, HeaderMap, WrittenBody) {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, PLAIN_TEXT)]);
    (status, headers, WrittenBody::inline(format!("{error}\n")))
}

/// Accepted calls that have not begun, in memory as ids only.
pub(super) struct Backlog {
    waiting: Mutex<VecDeque<CallId>>,
    /// Calls of an earlier run that peers have copies of, until it is known
    /// whether those were run.
    held: Mutex<Vec<PendingCall>>,
    /// Copies that an earlier run kept, until somebody looks after them.
    copies: Mutex<Vec<CopyNote>>,
    /// Accepted and not done, those that run included.
    pending: AtomicUsize,
    results: AtomicUsize,
    arrived: Notify,
    callbacks: Semaphore,
}

impl Default for Backlog {
    fn default() -> Self {
        Backlog {
            waiting: Mutex::default(),
            held: Mutex::default(),
            copies: Mutex::default(),
            pending: AtomicUsize::new(0),
            results: AtomicUsize::new(0),
            arrived: Notify::new(),
            callbacks: Semaphore::new(CALLBACKS_AT_ONCE),
        }
    }
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(super) fn results(&self) -> usize {
        self.results.load(Ordering::Relaxed)
    }

    pub(super) fn set_results(&self, count: u64) {
        self.results.store(
            usize::try_from(count).unwrap_or(usize::MAX),
            Ordering::Relaxed,
        );
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, VecDeque<CallId>> {
        self.waiting.lock()
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Vec<PendingCall>> {
        self.held.lock()
    }

    pub(super) fn set_copies(&self, copies: Vec<CopyNote>) {
        *self.copies.lock() = copies;
    }

    pub(super) fn take_copies(&self) -> Vec<CopyNote> {
        std::mem::take(&mut self.copies.lock())
    }

    /// Counts a call that is in no queue any more and will not be run.
    pub(super) fn leave(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one that comes to be run.
    pub(super) fn enter(&self, id: CallId) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.push(id);
    }

    pub(super) fn push(&self, id: CallId) {
        self.waiting().push_back(id);
        self.arrived.notify_one();
    }

    async fn next(&self) -> CallId {
        loop {
            let arrived = self.arrived.notified();
            if let Some(id) = self.waiting().pop_front() {
                return id;
            }
            arrived.await;
        }
    }
}

impl Inner {
    pub(super) async fn submit(
        self: &Arc<Self>,
        submission: Submission,
    ) -> Result<Receipt, SubmitError> {
        self.may_accept(&submission)?;
        let Submission {
            invocation,
            body_bytes,
            callback,
            caller_id,
        } = submission;
        let id = invocation.id;
        let (head, body) = invocation.request.into_parts();
        let body = self
            .store
            .keep_body(id, BodyPart::Request, body, body_bytes)
            .await?;
        let accepted_at = Timestamp::now();
        let now = self.clock.now();
        let at = |deadline: Time| {
            SignedDuration::try_from(deadline.since(now))
                .ok()
                .and_then(|left| accepted_at.checked_add(left).ok())
        };
        let mut record = CallRecord {
            id,
            function: invocation.function,
            method: head.method,
            path: head
                .uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
            headers: head.headers,
            body: body.stored(),
            class: invocation.class,
            deadline: invocation.deadline.and_then(at),
            accepted_at,
            callback,
            caller_id,
            attempts: 0,
            durable: 0,
        };
        let router = self.router.get();
        let copied = match router {
            Some(router) => router.copy(&record).await?,
            None => Copied::alone(self.spec_of(&record.function).as_deref())?,
        };
        record.durable = copied.wanted;
        let marks = copied.peers.iter().map(NodeMark::of);
        let own = router.map(|_| NodeMark::of(&self.key.public().to_peer_id()));
        let nodes = own.into_iter().chain(marks).collect();
        let accepted = self.accept(record, copied.peers, body).await;
        if let (Err(_), Some(router)) = (&accepted, router) {
            router.ended(id, false);
        }
        accepted?;
        Ok(Receipt { call: id, nodes })
    }

    /// Whether a call can be accepted, as far as that shows before its body is read.
    fn may_accept(&self, submission: &Submission) -> Result<(), SubmitError> {
        if self.stop.is_cancelled() {
            return Err(refused(Refusal::Draining, Duration::ZERO).into());
        }
        let function = &submission.invocation.function;
        let elsewhere = || {
            let router = self.router.get();
            router.is_some_and(|router| router.knows(function))
        };
        if !self.functions.contains_key(function) && !elsewhere() {
            return Err(InvokeError::Unknown(function.clone()).into());
        }
        if self.backlog.len() >= self.config.asynchronous.backlog {
            return Err(refused(Refusal::BacklogFull, Duration::ZERO).into());
        }
        if let Some(callback) = &submission.callback {
            self.callbacks
                .parse(callback)
                .map_err(SubmitError::Callback)?;
        }
        Ok(())
    }

    fn spec_of(&self, name: &FunctionName) -> Option<Arc<FunctionSpec>> {
        let function = self.functions.get(name)?;
        Some(function.current.load().spec.clone())
    }

    /// Brings a call to disk, to be run.
    pub(super) async fn accept(
        &self,
        record: CallRecord,
        copies: Vec<PeerId>,
        body: WrittenBody,
    ) -> Result<(), SubmitError> {
        let id = record.id;
        let accepted = self.store.accept_copied(record, copies, body).await;
        accepted.map_err(|error| match error {
            StoreError::BacklogFull => refused(Refusal::BacklogFull, Duration::ZERO).into(),
            other => SubmitError::Store(other),
        })?;
        self.backlog.enter(id);
        Ok(())
    }

    pub(super) async fn call_state(&self, id: CallId) -> Result<Option<CallState>, ChangeError> {
        let read = |source| stored("read the result", source);
        // In this order, or a call that is done between the two looks would be
        // neither pending nor done.
        if self.store.pending(id).await.map_err(read)?.is_some() {
            return Ok(Some(CallState::Pending));
        }
        let Some(result) = self.store.result(id).await.map_err(read)? else {
            return Ok(None);
        };
        let body = self
            .store
            .open_body(id, BodyPart::Result, &result.body)
            .await;
        let body = body.map_err(|source| ChangeError::Store {
            what: "read the result",
            source: Box::new(source),
        })?;
        Ok(Some(CallState::Done(CallResult {
            status: result.status,
            headers: result.headers,
            body,
            body_bytes: result.body.bytes(),
            error: result.error,
            ended_at: result.ended_at,
            attempts: result.attempts,
            caller_id: result.caller_id,
        })))
    }

    /// Takes up the calls and callbacks of an earlier run, and begins to run
    /// what comes.
    pub(super) fn recover_calls(
        self: &Arc<Self>,
        pending: Vec<PendingCall>,
        callbacks: Vec<PendingCallback>,
    ) {
        self.backlog.pending.store(pending.len(), Ordering::Relaxed);
        // Peers that keep a copy may have run theirs meanwhile.
        let (copied, own): (Vec<_>, Vec<_>) = pending
            .into_iter()
            .partition(|call| !call.copies.is_empty());
        self.backlog.held().extend(copied);
        self.backlog
            .waiting()
            .extend(own.into_iter().map(|call| call.id));
        for callback in callbacks {
            self.spawn(deliver(self.clone(), callback));
        }
        let inner = self.clone();
        self.spawn(async move {
            while panics::contain(inner.run_all()).await.is_err() {
                panics::rest("running accepted calls").await;
            }
        });
    }

    /// Runs accepted calls as they come, so many at once.
    async fn run_all(self: &Arc<Self>) {
        let places = Arc::new(Semaphore::new(self.config.asynchronous.parallel.max(1)));
        while let Ok(place) = places.clone().acquire_owned().await {
            let id = self.backlog.next().await;
            let running = self.clone();
            // A call that has begun is let go on at shutdown, within the
            // grace period; cut after that, it is run again.
            let cut = self.cut.clone();
            let run = async move {
                let run = panics::contain(running.run(id));
                if let Some(Err(_)) = cut.run_until_cancelled(run).await {
                    tracing::error!(call = %id, "an accepted call broke; the next start runs it again");
                }
                drop(place);
            };
            self.tasks.spawn_on(run, &self.runtime);
        }
    }

    /// Spawns work that is dropped at shutdown: what it works on is on disk.
    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let work = async move {
            let _ = stop.run_until_cancelled(work).await;
        };
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// Runs one accepted call until it has a result.
    async fn run(self: &Arc<Self>, id: CallId) {
        let record = match self.store.call(id).await {
            Ok(Some(record)) => record,
            // Somebody else has run it.
            Ok(None) => {
                self.backlog.leave();
                return;
            }
            Err(error) => {
                tracing::error!(call = %id, %error, "accepted call cannot be read");
                return;
            }
        };
        let mut attempt = record.attempts;
        let mut pause = Pause::new();
        let (ended, ran) = loop {
            if self.stop.is_cancelled() {
                return;
            }
            attempt += 1;
            if let Err(error) = self.store.begin_attempt(id, attempt).await {
                tracing::debug!(call = %id, %error, "attempt is not counted");
            }
            let began = Instant::now();
            let tried = panics::contain(self.attempt(&record)).await;
            match tried.unwrap_or_else(|panicked| Err(panicked.into())) {
                // Load, not the call, is at fault: it never began.
                Err(InvokeError::Refused { .. }) if !self.is_overdue(&record) => {
                    attempt -= 1;
                    pause.rest().await;
                }
                Err(InvokeError::CannotRun { .. } | InvokeError::PeerLost(_))
                    if attempt < START_ATTEMPTS =>
                {
                    pause.rest().await
                }
                ended => break (ended, began.elapsed()),
            }
        };
        self.conclude(record, ended, attempt, ran).await;
    }

    /// Whether a call was accepted so long ago that it is no longer tried: a
    /// node that finds no place for it in that time will not find one, and
    /// whoever waits for the result is better told.
    fn is_overdue(&self, record: &CallRecord) -> bool {
        let age = Timestamp::now().duration_since(record.accepted_at);
        Duration::try_from(age).is_ok_and(|age| age > self.config.asynchronous.keep_trying)
    }

    async fn attempt(self: &Arc<Self>, record: &CallRecord) -> Result<Answer, InvokeError> {
        let now = self.clock.now();
        let deadline = record.deadline.map(|deadline| {
            let left = deadline.duration_since(Timestamp::now());
            now + Duration::try_from(left).unwrap_or_default()
        });
        let age = Timestamp::now().duration_since(record.accepted_at);
        let age = Duration::try_from(age).unwrap_or_default();
        let left = self.config.asynchronous.keep_trying.saturating_sub(age);
        let unreadable = |reason: String| InvokeError::CannotRun {
            function: record.function.clone(),
            reason,
        };
        let body = self
            .store
            .open_body(record.id, BodyPart::Request, &record.body)
            .await;
        let body = body.map_err(|error| unreadable(format!("its stored body: {error}")))?;
        let request = http::Request::builder()
            .method(record.method.clone())
            .uri(&record.path);
        let mut request = request
            .body(body)
            .map_err(|error| unreadable(format!("its stored path: {error}")))?;
        *request.headers_mut() = record.headers.clone();
        let invocation = Invocation {
            id: record.id,
            function: record.function.clone(),
            request,
            class: record.class.clone(),
            deadline,
            persists_until: Some(now + left),
        };
        match self.router.get() {
            Some(router) => router.invoke(invocation).await,
            None => self.invoke(invocation).await,
        }
    }

    /// Keeps the result of a call, until that succeeds, and sends it on.
    async fn conclude(
        self: &Arc<Self>,
        record: CallRecord,
        ended: Result<Answer, InvokeError>,
        attempts: u32,
        duration: Duration,
    ) {
        let id = record.id;
        let ran = ended
            .as_ref()
            .ok()
            .map(|answer| (answer.start, answer.timing));
        let kept = match ended {
            Ok(answer) => self.keep_answer(id, answer).await,
            Err(error) => Err(error),
        };
        let error = kept.as_ref().err().map(|error| error.word().to_owned());
        let (status, headers, body) = kept.unwrap_or_else(|error| in_words(&error));
        let result = ResultRecord {
            function: record.function.clone(),
            status,
            headers,
            body: StoredBody::EMPTY,
            error,
            accepted_at: record.accepted_at,
            ended_at: Timestamp::now(),
            duration,
            attempts,
            caller_id: record.caller_id.clone(),
            callback: CallbackState::Unwanted,
        };
        if let Some(observer) = self.observer.get() {
            observer(&Outcome {
                function: record.function.clone(),
                status: result.status.as_u16(),
                ran,
                took: duration,
            });
        }
        if !self.complete(&record, &result, body).await {
            return;
        }
        match record.callback {
            Some(url) => self.spawn(deliver(self.clone(), PendingCallback { id, url })),
            None => self.tell_ended(id),
        }
    }

    /// Brings an answer to disk; what is to be the result instead where that is not
    /// possible.
    async fn keep_answer(
        &self,
        id: CallId,
        answer: Answer,
    ) -> Result<(StatusCode, HeaderMap, WrittenBody), InvokeError> {
        let limit = self.config.asynchronous.result_bytes;
        let (head, body) = answer.response.into_parts();
        let body = match body {
            AnswerBody::Whole(bytes) => whole(bytes),
            AnswerBody::Stream(body) => body,
        };
        let stored = self.store.keep_body(id, BodyPart::Result, body, limit);
        match panics::contain(stored).await? {
            Ok(body) => Ok((head.status, head.headers, body)),
            Err(KeepBodyError::TooLarge { limit }) => {
                let text = format!("the answer is longer than {limit} bytes (async.result-bytes)");
                Err(InvokeError::Failed(text))
            }
            Err(KeepBodyError::Body(error)) => Err(InvokeError::Failed(error.to_string())),
            Err(KeepBodyError::Store(error)) => {
                let text = format!("its answer was lost: {error}");
                Err(InvokeError::Failed(text))
            }
        }
    }

    /// Brings a result to disk, however often that takes until the result is of no
    /// more use; whether it is there.
    async fn complete(
        &self,
        record: &CallRecord,
        result: &ResultRecord,
        body: WrittenBody,
    ) -> bool {
        let (id, body) = (record.id, Arc::new(body));
        let mut pause = Pause::new();
        loop {
            match self.store.complete(id, result.clone(), body.clone()).await {
                Ok(kept) => {
                    self.backlog.leave();
                    if kept {
                        self.backlog.results.fetch_add(1, Ordering::Relaxed);
                    }
                    return true;
                }
                // A full disk, most likely. The call stays accepted meanwhile,
                // so that a crash now would only run it again.
                Err(error) if !self.is_overdue(record) => {
                    tracing::error!(call = %id, %error, "result cannot be kept; trying again");
                    pause.rest().await;
                }
                Err(error) => {
                    tracing::error!(call = %id, %error, "result is lost; the next start runs it again");
                    return false;
                }
            }
        }
    }

    fn tell_ended(&self, id: CallId) {
        if let Some(router) = self.router.get() {
            router.ended(id, true);
        }
    }
}

/// Sends a result where the caller wanted it.
async fn deliver(inner: Arc<Inner>, callback: PendingCallback) {
    let Ok(_place) = inner.backlog.callbacks.acquire().await else {
        return;
    };
    if let Err(error) = inner.callbacks.deliver(&inner.store, &callback).await {
        let result = inner.store.result(callback.id).await.ok().flatten();
        let function = result.map(|result| result.function.to_string());
        let target = CallbackUrl::parse(&callback.url).ok();
        tracing::warn!(
            call = %callback.id,
            function,
            url = target.map(|url| url.to_string()),
            error = crate::chain(&error),
            "callback failed; the result can still be read"
        );
    }
    // Not before: while it is under way a peer's copy would bring it too.
    inner.tell_ended(callback.id);
}

fn whole(bytes: bytes::Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Pauses that grow from 50 ms to [`LONGEST_PAUSE`].
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Pause(Duration::from_millis(50))
    }

    async fn rest(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = self.0.saturating_mul(2).min(LONGEST_PAUSE);
    }
}
