//! One started container: calls, death, the end.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bollard::query_parameters::AttachContainerOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::container::{Network, Settings};
use crate::engine::{Death, Engine, Scrap, Unavailable};
use crate::idle::KEEP_ALIVE;
use crate::lambda;
use crate::link::{Broken, Driven, Link, Rest, Stream};
use crate::protocol::{Conversation, Protocol, look};
use crate::resting::{Resting, Thread};
use crate::sandbox::{Folder, Sandbox, listen};
use crate::usage::{Looks, Usage};
use crate::{AnswerBody, Body, BodyError, Call, CallError, Sink, chain};

/// The port on which images answer that name no other.
const USUAL_PORT: u16 = 8080;

/// Where a runtime finds the socket of the node.
const SOCKET: &str = "/run/weir/instance.sock";

/// How long a call whose connection was closed waits for the engine to say
/// why. It usually does within 20 ms; on a machine that is out of memory, of
/// all times, it takes longer, and the reason is worth more than a quick 502.
const DEATH_NOTE: Duration = Duration::from_secs(1);

/// First pause between two tries to connect to an image that does not listen
/// yet; grows to [`LONGEST_TRY`].
const FIRST_TRY: Duration = Duration::from_millis(1);

/// Longest such pause: what an instance is late by, at worst.
const LONGEST_TRY: Duration = Duration::from_millis(25);

/// Bytes of the last log lines that explain a failed start.
const LAST_WORDS: usize = 4 << 10;

/// How long the end of what a container wrote is waited for once it has died.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(500);

/// Bytes of log that are read from one container in [`LOG_WINDOW`]; then the
/// container waits, and its flood costs the engine no more than that.
const LOG_BYTES: usize = 1 << 20;

/// See [`LOG_BYTES`].
const LOG_WINDOW: Duration = Duration::from_millis(250);

/// What is said of an answer's head that the connection does not take.
const TOO_LARGE: &str = "the function sent more than 100 headers, or too many bytes of them";

/// Why an instance is given up whose call does not end.
const TOO_LONG: &str = "a call ran longer than it may";

/// Why a container is no instance.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine cannot be used now.
    #[error(transparent)]
    Engine(#[from] Unavailable),
    /// The container did not become ready; the reason and its last words.
    #[error("{0}")]
    Container(String),
}

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

impl Engine {
    /// Starts a container and waits until it takes calls. `tenant` shares a
    /// network namespace, where the protocol needs no port; `concurrency` is
    /// the number of calls at once.
    pub async fn instance(
        &self,
        settings: Settings,
        protocol: Protocol,
        tenant: &str,
        concurrency: u32,
        log: Sink,
    ) -> Result<Instance, StartError> {
        let attempt = || {
            let (settings, protocol) = (settings.clone(), protocol.clone());
            self.try_instance(settings, protocol, tenant, concurrency, log.clone())
        };
        match attempt().await {
            // A machine short of memory may kill the engine's own process at a
            // start; callers need not hear of it.
            Err(StartError::Engine(error)) if error.stumbled() => {
                tracing::debug!(%error, "a start is tried once more");
                attempt().await
            }
            outcome => outcome,
        }
    }

    async fn try_instance(
        &self,
        mut settings: Settings,
        protocol: Protocol,
        tenant: &str,
        concurrency: u32,
        log: Sink,
    ) -> Result<Instance, StartError> {
        let wishes = self.image_wishes(&settings.image).await;
        let wishes = wishes.map_err(|error| StartError::Container(error.to_string()))?;
        let wishes = wishes.ok_or_else(|| {
            let reference = &settings.image;
            StartError::Container(format!("the engine has no image {reference} any more"))
        })?;
        let shares = protocol.is_dialled() && settings.network == Network::None;
        let sandbox = match shares {
            true => self.sandboxes().shared(self, tenant).await,
            false => self.sandboxes().own(self, settings.network).await,
        };
        let sandbox = sandbox.map_err(Unavailable::from)?;
        let folder = self.folder().map_err(|e| unavailable("a folder", &e))?;
        let listener = match protocol.is_dialled() {
            true => Some(self.listen(&mut settings, &folder)?),
            false => None,
        };
        let served = match &protocol {
            Protocol::Lambda { .. } => {
                let listener = sandbox.listen(lambda::PORT).await;
                let listener = listener.map_err(|e| unavailable("a socket", &e))?;
                let spawn = |serving| self.spawn(serving);
                Some(lambda::Runtime::serve(listener, &settings.function, spawn))
            }
            Protocol::Http
            | Protocol::Runtime
            | Protocol::OpenWhisk(_)
            | Protocol::Serverledge { .. } => None,
        };
        let exposed = wishes.port.filter(|_| matches!(protocol, Protocol::Http));
        let port = settings.port.or(exposed).unwrap_or(USUAL_PORT);
        let (function, memory) = (settings.function.clone(), settings.memory_bytes);
        let more = protocol.environment(&function, memory, concurrency, port);
        settings.env.extend(more);
        let command = protocol.command();
        let body = settings.body(self.node(), &sandbox.container, &wishes.user, command);
        let scrap = self.create(&settings.function, body, folder).await?;
        let words = Arc::new(LastWords::default());
        let clean = protocol.cleans_log();
        self.pump(scrap.container(), log.clone(), words.clone(), clean)
            .await?;
        self.start(scrap.container()).await?;
        let death = scrap.death().clone();
        let limit = self.start_timeout();
        let ready = async {
            match (&listener, &served) {
                (Some(listener), _) => accept(listener, concurrency).await,
                (None, Some(served)) => {
                    served.ready().await?;
                    Ok(Vec::new())
                }
                (None, None) => connect(&sandbox, port, settings.health.as_deref())
                    .await
                    .map(|link| vec![link]),
            }
        };
        let failed = |reason: String| StartError::Container(words.explain(&reason));
        let links = tokio::select! {
            biased;
            links = ready => links.map_err(|error| failed(chain(&*error)))?,
            reason = death.wait() => {
                words.ended().await;
                return Err(failed(format!("the container was not ready: {reason}")));
            }
            () = tokio::time::sleep(limit) => {
                let late = format!("the container was not ready within {limit:?}");
                return Err(failed(format!("{late}: {}", protocol.readiness(port))));
            }
        };
        let access = match (listener, served) {
            (Some(_), _) => Access::Dialled { _sandbox: sandbox },
            (None, Some(runtime)) => Access::Served {
                runtime,
                _sandbox: sandbox,
            },
            (None, None) => Access::Port(sandbox, port),
        };
        let resting = Resting::default();
        let (here, now) = (Thread::here(), Instant::now());
        for link in links {
            resting.add_unused(link, here, now);
        }
        let inner = Arc::new(Inner {
            conversation: Conversation::default(),
            protocol,
            resting,
            access,
            spent: watch::Sender::new(None),
            is_spent: AtomicBool::new(false),
            scrap: Mutex::new(Some(scrap)),
            looks: Mutex::default(),
            death,
            log,
            stopped: AtomicBool::new(false),
        });
        Ok(Instance { inner })
    }

    /// Makes the socket that a runtime dials, and mounts it.
    fn listen(&self, settings: &mut Settings, folder: &Folder) -> Result<UnixListener, StartError> {
        let path: PathBuf = folder.path().join("instance.sock");
        let listener = listen(&path).map_err(|e| unavailable("a socket", &e))?;
        settings
            .mounts
            .push((folder.path().to_owned(), "/run/weir"));
        settings
            .env
            .push(("WEIR_SOCKET".to_owned(), SOCKET.to_owned()));
        Ok(listener)
    }

    /// Has what a container writes go to `log`, from its first byte on.
    async fn pump(
        &self,
        container: &str,
        log: Sink,
        words: Arc<LastWords>,
        clean: fn(Bytes) -> Bytes,
    ) -> Result<(), Unavailable> {
        let docker = self.docker().await?;
        let options = AttachContainerOptionsBuilder::default()
            .stream(true)
            .stdout(true)
            .stderr(true)
            .build();
        let attached = docker.attach_container(container, Some(options)).await?;
        let mut output = attached.output;
        self.spawn(async move {
            let mut window = Instant::now();
            let mut bytes = 0;
            // Ends with the container.
            while let Some(Ok(piece)) = output.next().await {
                let piece = clean(piece.into_bytes());
                words.note(&piece);
                log.write(&piece);
                bytes += piece.len();
                if bytes >= LOG_BYTES {
                    tokio::time::sleep(LOG_WINDOW.saturating_sub(window.elapsed())).await;
                    (window, bytes) = (Instant::now(), 0);
                }
            }
            words.end();
            // Not before: attaching closes the input of some engines.
            drop(attached.input);
        });
        Ok(())
    }
}

fn unavailable(what: &str, error: &std::io::Error) -> Unavailable {
    Unavailable::new(format!("make {what} for a container: {error}"))
}

/// Waits for the connections that a runtime dials.
async fn accept(listener: &UnixListener, count: u32) -> Result<Vec<Link>, BodyError> {
    let mut links = Vec::new();
    for _ in 0..count.max(1) {
        let (stream, _) = listener.accept().await?;
        links.push(Link::open(Stream::Unix(stream)).await?);
    }
    Ok(links)
}

/// Connects as soon as an image listens, and says that it is well if there is
/// a path to ask.
async fn connect(sandbox: &Sandbox, port: u16, health: Option<&str>) -> Result<Link, BodyError> {
    let mut pause = FIRST_TRY;
    loop {
        match open(sandbox, port).await {
            Ok(mut link) => {
                let Some(path) = health else {
                    return Ok(link);
                };
                let look = look(path)?;
                if let Ok(answer) = link.exchange(look).await
                    && answer.status().is_success()
                {
                    // A connection of its own, for calls.
                    return Ok(open(sandbox, port).await?);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_TRY);
    }
}

async fn open(sandbox: &Sandbox, port: u16) -> std::io::Result<Link> {
    let stream = sandbox.connect(port).await?;
    Link::open(Stream::Tcp(stream)).await
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
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scrap(&self) -> MutexGuard<'_, Option<Scrap>> {
        self.scrap.lock().unwrap_or_else(PoisonError::into_inner)
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
                    let reason = match error.is_parse() {
                        true if error.is_parse_too_large() => TOO_LARGE.to_owned(),
                        true => chain(&error),
                        false => Box::pin(self.why(&chain(&error))).await,
                    };
                    if !self.may_dial() {
                        self.spend(&reason);
                    }
                    return Err(CallError::Lost(reason));
                }
            }
        }
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

/// The end of what a container wrote.
#[derive(Default)]
struct LastWords {
    end: Mutex<VecDeque<u8>>,
    /// Whether more was written before than is kept.
    is_cut: AtomicBool,
    over: CancellationToken,
}

impl LastWords {
    fn note(&self, piece: &[u8]) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &piece[piece.len().saturating_sub(LAST_WORDS)..];
        let surplus = (end.len() + kept.len()).saturating_sub(LAST_WORDS);
        if surplus > 0 || kept.len() < piece.len() {
            self.is_cut.store(true, Ordering::Relaxed);
        }
        end.drain(..surplus);
        end.extend(kept);
    }

    /// Nothing more will be written.
    fn end(&self) {
        self.over.cancel();
    }

    async fn ended(&self) {
        let _ = tokio::time::timeout(LAST_WORDS_WAIT, self.over.cancelled()).await;
    }

    /// The reason with the last lines, each from its beginning.
    fn explain(&self, reason: &str) -> String {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(end.make_contiguous());
        let is_cut = self.is_cut.load(Ordering::Relaxed);
        let lines = match text.split_once('\n') {
            Some((_, lines)) if is_cut && !lines.trim().is_empty() => lines,
            _ => &text,
        };
        match lines.trim() {
            "" => reason.to_owned(),
            words => format!("{reason}; it wrote: {words}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_begin_with_a_line() {
        let said = |pieces: &[&str]| {
            let words = LastWords::default();
            for piece in pieces {
                words.note(piece.as_bytes());
            }
            words.explain("it exited")
        };
        assert_eq!(said(&[]), "it exited");
        assert_eq!(said(&["one\n", "two\n"]), "it exited; it wrote: one\ntwo");
        let long = format!("{}\nlast but one\nlast\n", "x".repeat(LAST_WORDS));
        let expected = "it exited; it wrote: last but one\nlast";
        assert_eq!(said(&[&long]), expected);
        assert_eq!(said(&["y", &long]), expected);
        // One line that is longer than all that is kept.
        let line = "z".repeat(LAST_WORDS + 1);
        assert_eq!(
            said(&[&line]).len(),
            "it exited; it wrote: ".len() + LAST_WORDS
        );
    }
}
