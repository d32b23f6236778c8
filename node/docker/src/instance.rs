//! One started container: calls, death, the end.

mod start;
mod words;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::Sleep;

pub use self::start::StartError;
use self::start::open;
use crate::death::{Death, Scrap};
use crate::idle::KEEP_ALIVE;
use crate::lambda;
use crate::link::{Broken, Driven, Link, Rest};
use crate::protocol::{Conversation, Protocol};
use crate::resting::{Resting, Thread};
use crate::sandbox::Sandbox;
use crate::usage::{Looks, Usage};
use crate::{AnswerBody, Body, BodyError, Call, CallError, Sink, chain};

/// How long a call whose connection was closed waits for the engine to say
/// why. It usually does within 20 ms; on a machine that is out of memory, of
/// all times, it takes longer, and the reason is worth more than a quick 502.
const DEATH_NOTE: Duration = Duration::from_secs(1);

/// What is said of an answer's head that the connection does not take.
const TOO_LARGE: &str = "the function sent more than 100 headers, or too many bytes of them";

/// Why an instance is given up whose call does not end.
const TOO_LONG: &str = "a call ran longer than it may";

/// A warm container.
pub struct Instance {
    inner: Arc<Inner>,
}

struct Inner {
    protocol: Protocol,
    conversation: Conversation,
    /// Connections on which nothing is under way.
    resting: Resting<Link>,
    access: Access,
    /// No more calls: it timed out, or a connection broke in a call.
    spent: watch::Sender<Option<String>>,
    /// The same, without a lock: each call asks.
    is_spent: AtomicBool,
    scrap: Mutex<Option<Scrap>>,
    looks: Mutex<Looks>,
    death: Arc<Death>,
    log: Sink,
    stopped: AtomicBool,
}

/// How more connections are had.
enum Access {
    /// They are not: the runtime dialled as many as it takes calls.
    Dialled {
        /// Held as long as anything in it runs.
        _sandbox: Arc<Sandbox>,
    },
    /// By connecting to this port inside.
    Port(Arc<Sandbox>, u16),
    /// There are none: the container asks for calls and brings answers.
    Served {
        runtime: lambda::Runtime,
        _sandbox: Arc<Sandbox>,
    },
}

impl Instance {
    /// Runs one call. The future owns what it needs: to let a call go on whose
    /// caller has left, let the future go on.
    pub fn invoke(
        &self,
        call: Call,
    ) -> impl Future<Output = Result<Response<AnswerBody>, CallError>> + Send + use<> {
        self.inner.clone().invoke(call)
    }

    /// Why it takes no more calls; `None` while it does.
    pub fn gone(&self) -> Option<String> {
        self.inner.gone()
    }

    /// Waits until it takes no more calls, for a reason of its own.
    pub fn ended(&self) -> impl Future<Output = String> + Send + use<> {
        let inner = self.inner.clone();
        async move {
            let mut spent = inner.spent.subscribe();
            let spent = async {
                let known = spent.wait_for(Option::is_some).await;
                let known = known.ok().and_then(|known| known.clone());
                match known {
                    Some(reason) => reason,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                reason = inner.death.wait() => reason,
                reason = spent => reason,
            }
        }
    }

    /// What it has used of processors since it was started; `None` when nobody
    /// says so.
    pub async fn usage(&self) -> Option<Usage> {
        let (engine, container) = {
            let scrap = self.inner.scrap();
            let scrap = scrap.as_ref()?;
            (scrap.engine().clone(), scrap.container().to_owned())
        };
        let inner = self.inner.clone();
        let name = container.clone();
        let looked = tokio::task::spawn_blocking(move || inner.looks().look(&name));
        if let Some(usage) = looked.await.ok()? {
            return Some(usage);
        }
        let may_ask = self.inner.looks().may_ask(Instant::now());
        match may_ask {
            true => engine.used(&container).await,
            false => None,
        }
    }

    /// Ends it, and whatever runs in it.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Relaxed);
        self.inner.resting.clear();
        drop(self.inner.scrap().take());
    }
}

impl Inner {
    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock()
    }

    fn scrap(&self) -> MutexGuard<'_, Option<Scrap>> {
        self.scrap.lock()
    }

    /// Whether it takes no more calls. Takes no lock.
    fn is_gone(&self) -> bool {
        self.is_spent.load(Ordering::Acquire)
            || self.stopped.load(Ordering::Relaxed)
            || self.death.is_over()
    }

    fn gone(&self) -> Option<String> {
        if self.stopped.load(Ordering::Relaxed) {
            return Some("it was stopped".to_owned());
        }
        self.death.reason().or_else(|| self.spent.borrow().clone())
    }

    /// It takes no more calls.
    fn spend(&self, reason: &str) {
        self.spent.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason.to_owned());
                self.is_spent.store(true, Ordering::Release);
            }
            first
        });
    }

    async fn invoke(self: Arc<Self>, call: Call) -> Result<Response<AnswerBody>, CallError> {
        let until = call.until;
        // Boxed here, and what is rare in it once more: whatever holds it is moved
        // a few times before it begins.
        let conversing = Box::pin(self.clone().converse(call));
        match tokio::time::timeout_at(until.into(), conversing).await {
            Ok(answered) => answered,
            Err(_) => {
                // Nobody but the engine can stop code that does not stop.
                self.spend(TOO_LONG);
                Err(CallError::TimedOut)
            }
        }
    }

    async fn converse(self: Arc<Self>, call: Call) -> Result<Response<AnswerBody>, CallError> {
        let Call { request, id, until } = call;
        // Nobody may have noticed yet that it is to be replaced.
        if self.is_gone()
            && let Some(reason) = self.gone()
        {
            let request = Some(Box::new(request));
            return Err(CallError::NotStarted { reason, request });
        }
        let left = until.saturating_duration_since(Instant::now());
        if let Some(first) = self.conversation.first(&self.protocol) {
            Box::pin(async {
                let answer = self.exchange(first).await?;
                self.conversation.begun(&self.protocol, answer).await
            })
            .await?;
        }
        if let Access::Served { runtime, .. } = &self.access {
            return Box::pin(runtime.call(request, id, left, &self.death)).await;
        }
        let request = match self.protocol.wraps() {
            true => Box::pin(self.protocol.wrapped(request, id, left)).await?,
            false => self.protocol.request(request, left),
        };
        let (head, body) = self.exchange(request).await?.into_parts();
        let framed = |name| head.headers.contains_key(name);
        if framed(CONTENT_LENGTH) && framed(TRANSFER_ENCODING) {
            // Others may read another answer in it (RFC 9112, section 6.3).
            let text = "the function's answer has both Content-Length and Transfer-Encoding";
            return Err(CallError::Failed(text.to_owned()));
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // The connection leaves with the answer, in its extensions.
            if let Some(link) = body.into_link() {
                Box::pin(link.give_away()).await;
            }
            return Ok(Response::from_parts(
                head,
                AnswerBody::Stream(Body::default()),
            ));
        }
        let body = match body.is_short() {
            true => AnswerBody::Whole(whole(body).await?),
            false => AnswerBody::Stream(
                Timed {
                    body,
                    end: Box::pin(tokio::time::sleep_until(until.into())),
                    inner: self.clone(),
                }
                .boxed_unsync(),
            ),
        };
        let answer = Response::from_parts(head, body);
        match self.protocol.wraps() {
            true => Box::pin(self.protocol.unwrapped(answer, &self.log)).await,
            false => Ok(answer),
        }
    }

    /// Sends a request on a connection of its own.
    async fn exchange(
        self: &Arc<Self>,
        mut request: http::Request<Body>,
    ) -> Result<Response<Driven>, CallError> {
        loop {
            let began = Instant::now();
            let may_dial = self.may_dial();
            let (mut link, idle) = match self.resting.take(Thread::here(), began, may_dial) {
                Some((link, idle)) => (link, Some(idle)),
                None => match Box::pin(self.dial()).await {
                    Ok(link) => (link, None),
                    Err(reason) => {
                        let request = Some(Box::new(request));
                        return Err(CallError::NotStarted { reason, request });
                    }
                },
            };
            match link.exchange(request).await {
                Ok(response) => {
                    if response.headers().contains_key(KEEP_ALIVE) {
                        self.resting.idle_time.announced(response.headers());
                    }
                    let rest = Box::new(Returns(self.clone()));
                    return Ok(response.map(|body| Driven::new(body, link, rest)));
                }
                // It was closed while nobody used it.
                Err(Broken::Unsent(_, Some(unsent))) if idle.is_some() && self.may_dial() => {
                    if let Some(idle) = idle {
                        self.resting.idle_time.closed(idle);
                    }
                    request = *unsent;
                }
                Err(Broken::Unsent(error, request)) => {
                    let reason = Box::pin(self.why(&chain(&error))).await;
                    self.spend(&reason);
                    return Err(CallError::NotStarted { reason, request });
                }
                Err(Broken::Body(error)) => {
                    // The code got half a body: its connection is gone, and
                    // a runtime's worker with it.
                    if !self.may_dial() {
                        self.spend("a caller's body broke off");
                    }
                    return Err(CallError::Body(error.into()));
                }
                Err(Broken::Sent(error)) => {
                    if let Some(idle) = idle {
                        self.resting.idle_time.broke(idle, began.elapsed());
                    }
                    return Err(Box::pin(self.lost(&error)).await);
                }
            }
        }
    }

    /// A call was sent, and its answer did not come.
    async fn lost(&self, error: &hyper::Error) -> CallError {
        let reason = match error.is_parse() {
            true if error.is_parse_too_large() => TOO_LARGE.to_owned(),
            true => chain(error),
            false => self.why(&chain(error)).await,
        };
        if !self.may_dial() {
            self.spend(&reason);
        }
        CallError::Lost(reason)
    }

    fn may_dial(&self) -> bool {
        match self.access {
            Access::Port(..) => !self.is_gone(),
            Access::Dialled { .. } | Access::Served { .. } => false,
        }
    }

    async fn dial(&self) -> Result<Link, String> {
        let opened = match &self.access {
            Access::Port(sandbox, port) => {
                open(sandbox, *port).await.map_err(|error| chain(&error))
            }
            Access::Dialled { .. } | Access::Served { .. } => {
                Err("it closed its connection".to_owned())
            }
        };
        match opened {
            Ok(link) => Ok(link),
            Err(error) => {
                let reason = self.why(&error).await;
                self.spend(&reason);
                Err(reason)
            }
        }
    }

    /// The engine's word for why a connection broke, if it has one soon.
    async fn why(&self, error: &str) -> String {
        match tokio::time::timeout(DEATH_NOTE, self.death.wait()).await {
            Ok(reason) => reason,
            Err(_) => error.to_owned(),
        }
    }
}

async fn whole(body: Driven) -> Result<Bytes, CallError> {
    match body.whole().await {
        Ok(whole) => Ok(whole),
        Err(error) => Err(CallError::Failed(format!("the answer broke off: {error}"))),
    }
}

/// An answer that streams until its call's time is over.
struct Timed {
    body: Driven,
    end: Pin<Box<Sleep>>,
    inner: Arc<Inner>,
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        std::task::ready!(this.end.as_mut().poll(cx));
        this.inner.spend(TOO_LONG);
        Poll::Ready(Some(Err(TOO_LONG.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Gives a connection back.
struct Returns(Arc<Inner>);

impl Rest for Returns {
    fn ended(self: Box<Self>, link: Option<Link>) {
        match link {
            Some(link) if !self.0.is_gone() => {
                self.0
                    .resting
                    .put_back(link, Thread::here(), Instant::now());
            }
            Some(_) => {}
            None if self.0.may_dial() => {}
            None => self.0.spend("it closed its connection"),
        }
    }

    fn broken(&self, error: hyper::Error) -> BodyError {
        let reason = self.0.death.reason().unwrap_or_else(|| chain(&error));
        if !self.0.may_dial() {
            self.0.spend(&reason);
        }
        format!("the container failed in the middle of its answer: {reason}").into()
    }
}
