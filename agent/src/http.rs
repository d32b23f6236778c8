//! The HTTP server: listeners, connections and their bounds. What a request
//! means is its [`Handler`]'s affair.
//!
//! One current-thread runtime per thread, each with a listener of its own on
//! the same port (`SO_REUSEPORT`): a request is read, answered and written by
//! one core, and the threads share nothing on its way but counters.

pub mod activity;
pub mod body;
mod crowd;
pub mod framing;
pub mod gate;
pub mod heads;
mod listen;
pub mod refusals;
pub mod reply;
mod serving;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::compat::Compat;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use weir_federation::PeerId;
use weir_federation::carriage::{CONNECTION_WINDOW, STREAM_WINDOW};
use weir_node::panics::Panicked;

use self::activity::{Activity, Watched};
use self::crowd::{Crowd, Place};
pub use self::listen::{Listeners, ServeError, Transport, is_free, thread_count};
use self::reply::Reply;
use self::serving::serve;
use crate::telemetry::chain;

/// Rest after a failed accept: without file descriptors the next fails too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Requests that one HTTP/2 connection may have open: enough for a proxy that
/// multiplexes many users, and a bound on what one client can occupy.
const HTTP2_STREAMS: u32 = 256;

/// The same for a member, which sends the calls of all its users on a few
/// connections.
const MEMBER_STREAMS: u32 = 4_096;

/// How often a silent HTTP/2 peer is pinged, and how long it may take to answer.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// Connections on which members prove who they are, at once: each costs a
/// handshake, whoever it is.
const GREETINGS: usize = 64;

/// How long a client may take to read that it is not listened to.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// Bounds of one server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once, over all threads.
    pub connections: usize,
    /// Those of one client's address.
    pub connections_per_address: usize,
    /// Bytes of one request's head.
    pub header_bytes: usize,
    /// Headers of one request.
    pub header_count: usize,
    /// Longest time from a head's first byte to its last.
    pub header_timeout: Duration,
    /// Longest time that a connection stays open with nothing to do.
    pub idle_timeout: Duration,
    /// Longest time that a client may leave an answer unread.
    pub stall_timeout: Duration,
}

/// What answers requests.
pub trait Handler: Send + Sync + Sized + 'static {
    /// Answers one request. The future is dropped when the client goes away.
    fn handle(
        connection: Arc<Connection<Self>>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Reply>> + Send + 'static;

    /// The answer to a request that broke the handler itself.
    fn broken(&self, panicked: Panicked) -> Response<Reply> {
        let mut response = Response::new(Reply::from(format!("{panicked}\n")));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }
}

/// What requests of one connection have in common.
pub struct Connection<H> {
    /// Who answers them.
    pub handler: Arc<H>,
    /// Who asks.
    pub peer: SocketAddr,
    /// The peer's address alone, as `X-Forwarded-For` has it.
    pub forwarded_for: HeaderValue,
    /// Whether it speaks TLS.
    pub encrypted: bool,
    /// The member that asks, where that was proved.
    pub member: Option<PeerId>,
    /// Whether it is one of the last that there may be, which calls must not take.
    pub reserved: bool,
    activity: Arc<Activity>,
    /// Held as long as anything uses the connection.
    _slot: Slot,
}

/// How a connection begins.
#[derive(Clone)]
pub enum Greeting {
    /// With the first request.
    Plain,
    /// With TLS.
    Tls(Arc<rustls::ServerConfig>),
    /// With the proof that both are members of one federation.
    Members(weir_federation::tls::Acceptor),
}

/// Counters of a server, for metrics.
#[derive(Debug, Default)]
pub struct Traffic {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Traffic {
    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections taken since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections closed at once because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// How a server ends, seen by its threads and connections.
struct Stop {
    /// The same as `begun`, readable without a lock at every wake of a connection.
    flag: AtomicBool,
    /// No new connections; those that are idle close, the rest after their answers.
    begun: CancellationToken,
    /// What is still there is cut.
    ended: CancellationToken,
}

struct Shared<H> {
    handler: Arc<H>,
    limits: Limits,
    greeting: Greeting,
    builder: auto::Builder<TokioExecutor>,
    traffic: Arc<Traffic>,
    crowd: Arc<Crowd>,
    /// Connections on which members are proving that they are.
    greetings: Arc<AtomicUsize>,
    stop: Stop,
}

/// A server that runs; dropping it ends it without waiting.
pub struct Server {
    address: SocketAddr,
    stop: Box<dyn Fn(Phase) + Send + Sync>,
    adopt: Adopter,
    threads: Vec<JoinHandle<()>>,
    finished: TaskTracker,
}

/// A stream that a member opened, on which requests come.
pub type MemberStream = Compat<weir_federation::Stream>;

/// Serves a stream of a member.
pub type Adopter = Arc<dyn Fn(MemberStream, PeerId) + Send + Sync>;

enum Phase {
    Begin,
    End,
}

impl Server {
    /// Serves `listeners`, one thread each, until [`Server::finish`].
    pub fn start<H: Handler>(
        listeners: Listeners,
        limits: Limits,
        greeting: Greeting,
        handler: Arc<H>,
        traffic: Arc<Traffic>,
    ) -> Result<Server, ServeError> {
        let shared = Arc::new(Shared {
            builder: builder(&limits, matches!(greeting, Greeting::Members(_))),
            crowd: Arc::new(Crowd::new(
                limits.connections,
                limits.connections_per_address,
            )),
            handler,
            limits,
            greeting,
            greetings: Arc::default(),
            traffic,
            stop: Stop {
                flag: AtomicBool::new(false),
                begun: CancellationToken::new(),
                ended: CancellationToken::new(),
            },
        });
        let finished = TaskTracker::new();
        let mut threads = Vec::with_capacity(listeners.sockets.len());
        for (index, socket) in listeners.sockets.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(ServeError::Thread)?;
            let (shared, running) = (Arc::clone(&shared), finished.token());
            let thread = std::thread::Builder::new()
                .name(format!("door-{index}"))
                .spawn(move || {
                    runtime.block_on(accept(socket, &shared));
                    // Tasks that were cut may hold what waits for this thread.
                    drop(runtime);
                    drop(running);
                })
                .map_err(ServeError::Thread)?;
            threads.push(thread);
        }
        finished.close();
        let adopt = adopter(&shared);
        let stop = move |phase| match phase {
            Phase::Begin => {
                shared.stop.flag.store(true, Ordering::Release);
                shared.stop.begun.cancel();
            }
            Phase::End => shared.stop.ended.cancel(),
        };
        Ok(Server {
            address: listeners.address,
            stop: Box::new(stop),
            adopt,
            threads,
            finished,
        })
    }

    /// Where it listens; the port is the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What serves streams that members opened on other connections, on the
    /// runtime that the server was started on.
    pub fn adopter(&self) -> Adopter {
        Arc::clone(&self.adopt)
    }

    /// Takes no new connections and closes those that are idle.
    pub fn stop_accepting(&self) {
        (self.stop)(Phase::Begin);
    }

    /// Stops accepting, waits at most `grace` for answers under way, and cuts
    /// what is left.
    pub async fn finish(self, grace: Duration) {
        self.stop_accepting();
        let _ = tokio::time::timeout(grace, self.finished.wait()).await;
        (self.stop)(Phase::End);
        self.finished.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        (self.stop)(Phase::Begin);
        (self.stop)(Phase::End);
        // Joined nowhere: a thread whose guest runs on ends with it, and the
        // process need not wait.
        self.threads.clear();
    }
}

fn builder(limits: &Limits, members: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let mut http1 = builder.http1();
    http1
        // Ours tells a slow head from an idle connection, hyper's does not.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes)
        .timer(TokioTimer::new());
    // Asking for hyper's own default would cost an allocation per request.
    if limits.header_count != 100 {
        http1.max_headers(limits.header_count);
    }
    builder
        .http2()
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS)
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING)
        .timer(TokioTimer::new());
    if members {
        builder
            .http2()
            .max_concurrent_streams(MEMBER_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            // A member whose clients leave in bulk is no attacker.
            .max_pending_accept_reset_streams(MEMBER_STREAMS as usize);
    }
    builder
}

/// One thread: takes connections until told to stop, then waits for the last.
async fn accept<H: Handler>(socket: std::net::TcpListener, shared: &Arc<Shared<H>>) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a thread of the HTTP door cannot serve");
            return;
        }
    };
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.begun.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let activity = Arc::new(Activity::begin(Instant::now()));
                match shared.slot(peer, &activity) {
                    Some(slot) => {
                        let shared = Arc::clone(shared);
                        connections.spawn(connect(stream, (peer, activity), shared, slot));
                    }
                    None => debug!(%peer, "refused a connection: there are too many"),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = shared.stop.ended.cancelled() => {}
    }
}

/// The right to one connection.
struct Slot {
    traffic: Arc<Traffic>,
    place: Place,
}

impl<H> Shared<H> {
    /// The right to a connection from there; `None` when there is none to have.
    fn slot(&self, peer: SocketAddr, activity: &Arc<Activity>) -> Option<Slot> {
        let traffic = &self.traffic;
        let Some(place) = self.crowd.join(peer, activity, Instant::now()) else {
            traffic.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        traffic.open.fetch_add(1, Ordering::Relaxed);
        traffic.accepted.fetch_add(1, Ordering::Relaxed);
        let traffic = Arc::clone(traffic);
        Some(Slot { traffic, place })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.traffic.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What serves streams that members opened elsewhere, on the runtime that this is
/// called on.
fn adopter<H: Handler>(shared: &Arc<Shared<H>>) -> Adopter {
    let (adopting, runtime) = (Arc::clone(shared), tokio::runtime::Handle::try_current());
    Arc::new(move |stream: MemberStream, member: PeerId| {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let activity = Arc::new(Activity::begin(Instant::now()));
        let Some(slot) = adopting.slot(nowhere, &activity) else {
            debug!(%member, "refused a stream of a member: there are too many connections");
            return;
        };
        let Ok(runtime) = &runtime else {
            return;
        };
        let shared = Arc::clone(&adopting);
        runtime.spawn(async move {
            let stream = Watched::new(stream, Arc::clone(&activity));
            let connection = shared.connection(nowhere, activity, Some(member), slot);
            serve(Box::new(stream), connection, &shared).await;
        });
    })
}

/// Shakes hands by TLS; `None` where that failed, took too long, or made room for
/// others.
async fn greet_with_tls(
    mut stream: Watched<TcpStream>,
    config: &Arc<rustls::ServerConfig>,
    (peer, activity): (SocketAddr, &Activity),
    patience: Duration,
) -> Option<TlsStream<Watched<TcpStream>>> {
    let first = tokio::select! {
        first = tokio::time::timeout(patience, stream.first_byte()) => first,
        () = activity.evicted() => return None,
    };
    if let Ok(Ok(Some(byte))) = first
        && byte.is_ascii_uppercase()
    {
        // The first letter of a method, and no handshake.
        let why = "this port speaks TLS: use https://";
        let answer = refusals::answer("HTTP/1.1 400 Bad Request", "tls-needed", why);
        let _ = tokio::time::timeout(REFUSAL_TIME, stream.refuse(&answer)).await;
        return None;
    }
    let tls = TlsAcceptor::from(Arc::clone(config));
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(patience, tls.accept(stream)) => accepted,
        () = activity.evicted() => return None,
    };
    match accepted {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            debug!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(%peer, "TLS handshake took too long");
            None
        }
    }
}

async fn connect<H: Handler>(
    stream: TcpStream,
    (peer, activity): (SocketAddr, Arc<Activity>),
    shared: Arc<Shared<H>>,
    slot: Slot,
) {
    // Answers are written whole: waiting for more only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "lost a connection before its first request");
        return;
    }
    let stream = Watched::new(stream, Arc::clone(&activity));
    let patience = shared.limits.header_timeout;
    match &shared.greeting {
        Greeting::Plain => {
            let connection = shared.connection(peer, activity, None, slot);
            serve(Box::new(stream), connection, &shared).await;
        }
        Greeting::Tls(config) => {
            let accepting = greet_with_tls(stream, config, (peer, &activity), patience);
            if let Some(stream) = accepting.await {
                activity.greeted();
                let connection = shared.connection(peer, activity, None, slot);
                serve(Box::new(stream), connection, &shared).await;
            }
        }
        Greeting::Members(acceptor) => {
            let Some(greeting) = Greeted::begin(&shared.greetings) else {
                debug!(%peer, "refused a connection: too many are being set up");
                return;
            };
            let accepted = acceptor.accept(stream).await;
            drop(greeting);
            match accepted {
                Ok((accepted, stream)) => {
                    activity.greeted();
                    let member = Some(accepted.member);
                    let connection = shared.connection(peer, activity, member, slot);
                    tokio::select! {
                        () = serve(Box::new(stream), connection, &shared) => {}
                        () = accepted.is_cut() => debug!(%peer, "cut a member's connection"),
                    }
                }
                Err(error) => debug!(%peer, error = chain(&error), "no member"),
            }
        }
    }
}

/// One connection that is being set up, until this is dropped.
struct Greeted(Arc<AtomicUsize>);

impl Greeted {
    fn begin(greetings: &Arc<AtomicUsize>) -> Option<Greeted> {
        let more = |count: usize| (count < GREETINGS).then_some(count + 1);
        let begun = greetings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        begun.ok().map(|_| Greeted(Arc::clone(greetings)))
    }
}

impl Drop for Greeted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<H> Shared<H> {
    fn connection(
        &self,
        peer: SocketAddr,
        activity: Arc<Activity>,
        member: Option<PeerId>,
        slot: Slot,
    ) -> Arc<Connection<H>> {
        Arc::new(Connection {
            handler: Arc::clone(&self.handler),
            peer,
            forwarded_for: HeaderValue::try_from(peer.ip().to_canonical().to_string())
                .expect("an address is plain text"),
            encrypted: !matches!(self.greeting, Greeting::Plain),
            member,
            activity,
            reserved: slot.place.is_reserved(),
            _slot: slot,
        })
    }
}

#[cfg(test)]
mod tests;
