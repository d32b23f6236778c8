//! The HTTP server: listeners, connections and their bounds. What a request
//! means is its [`Handler`]'s affair.
//!
//! One current-thread runtime per thread, each with a listener of its own on
//! the same port (`SO_REUSEPORT`): a request is read, answered and written by
//! one core, and the threads share nothing on its way but counters.

pub mod activity;
pub mod body;
mod crowd;
pub mod gate;
pub mod heads;
pub mod refusals;
pub mod reply;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::header::{HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::compat::Compat;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use weir_federation::PeerId;
use weir_federation::carriage::{CONNECTION_WINDOW, STREAM_WINDOW};
use weir_node::clock::Moment as _;
use weir_node::panics::{self, Panicked};

use self::activity::{Activity, Overdue, Watched};
use self::crowd::{Crowd, Place};
use self::heads::{Heads, Strict};
use self::refusals::Explained;
use self::reply::{Reply, Tracked};
use crate::telemetry::chain;

/// Connections that the kernel holds until a thread takes them. A burst of
/// clients beyond it sees retransmissions, not refusals.
const ACCEPT_BACKLOG: i32 = 1024;

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

/// How long a connection that was asked to close may take to do so.
const CLOSE_TIME: Duration = Duration::from_secs(5);

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

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, forbidden or not of this machine.
    #[error("listen on {address} ({setting}){}", hint(source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What sets that.
        setting: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The system gave no thread or no runtime.
    #[error("start a thread of the HTTP door")]
    Thread(#[source] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another process has this port: stop it, or choose another",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need a privilege",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        _ => "",
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

/// A port that is bound and not served yet, so that its number is known
/// before there is anyone to answer.
pub struct Listeners {
    address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
}

impl Listeners {
    /// Binds `address`, which `setting` sets, once per thread. Port 0 takes a
    /// free one.
    pub fn bind(
        address: SocketAddr,
        threads: usize,
        setting: &'static str,
    ) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen {
            address,
            setting,
            source,
        };
        // A port shared with SO_REUSEPORT would silently split the requests
        // with whoever has it: a bind without it tells.
        let probe = socket(address, false).map_err(failed)?;
        let bound = probe.local_addr().map_err(failed)?;
        drop(probe);
        let sockets = (0..threads.max(1)).map(|_| socket(bound, threads > 1));
        let sockets = sockets.collect::<io::Result<_>>().map_err(failed)?;
        Ok(Listeners {
            address: bound,
            sockets,
        })
    }

    /// Where they listen; the port is the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Whether nobody listens where `setting` has another part of the node listen:
/// one that shares its ports, and would silently share them with a second node.
pub fn is_free(
    address: SocketAddr,
    transport: Transport,
    setting: &'static str,
) -> Result<(), ServeError> {
    let probed = match transport {
        Transport::Tcp => socket(address, false).map(drop),
        Transport::Udp => std::net::UdpSocket::bind(address).map(drop),
    };
    probed.map_err(|source| ServeError::Listen {
        address,
        setting,
        source,
    })
}

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Of streams.
    Tcp,
    /// Of datagrams, as QUIC has them.
    Udp,
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of a predecessor that linger in TIME_WAIT are no reason to
    // refuse; a socket that listens still is one.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket.into())
}

/// Threads for a configured count, where 0 means one per core.
pub fn thread_count(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        count => count,
    }
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
        let (adopting, runtime) = (Arc::clone(&shared), tokio::runtime::Handle::try_current());
        let adopt = move |stream: MemberStream, member: PeerId| {
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
        };
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
            adopt: Arc::new(adopt),
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
            let mut stream = stream;
            let first = tokio::select! {
                first = tokio::time::timeout(patience, stream.first_byte()) => first,
                () = activity.evicted() => return,
            };
            if let Ok(Ok(Some(byte))) = first
                && byte.is_ascii_uppercase()
            {
                // The first letter of a method, and no handshake.
                let why = "this port speaks TLS: use https://";
                let answer = refusals::answer("HTTP/1.1 400 Bad Request", "tls-needed", why);
                let _ = tokio::time::timeout(REFUSAL_TIME, stream.refuse(&answer)).await;
                return;
            }
            let tls = TlsAcceptor::from(Arc::clone(config));
            let accepted = tokio::select! {
                accepted = tokio::time::timeout(patience, tls.accept(stream)) => accepted,
                () = activity.evicted() => return,
            };
            match accepted {
                Ok(Ok(stream)) => {
                    activity.greeted();
                    let connection = shared.connection(peer, activity, None, slot);
                    serve(Box::new(stream), connection, &shared).await;
                }
                Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => debug!(%peer, "TLS handshake took too long"),
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

/// What requests come on. One type for all kinds: the whole HTTP server is
/// compiled for each that it serves.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// Serves the requests of one connection, watching its times.
async fn serve<H: Handler>(
    stream: Box<dyn Wire>,
    connection: Arc<Connection<H>>,
    shared: &Shared<H>,
) {
    let peer = connection.peer;
    let activity = Arc::clone(&connection.activity);
    let heads = Arc::<Heads>::default();
    let stream = Strict::new(stream, Arc::clone(&heads));
    let stream = Explained::new(stream, Arc::clone(&activity), &shared.limits);
    let service = service_fn(move |request: Request<Incoming>| {
        let multiplexed = request.version() == Version::HTTP_2;
        let busy = connection.activity.begin_request(multiplexed);
        // After an upgrade come no more heads.
        let upgrades = request.headers().contains_key(UPGRADE);
        heads.request(!multiplexed && !upgrades && request.body().is_end_stream());
        let connection = Arc::clone(&connection);
        async move {
            // A panic here would end the connection, and with it all its calls.
            // Boxed: what wraps it is moved a few times before it begins.
            let handling = Box::pin(H::handle(Arc::clone(&connection), request));
            let handled = panics::contain(handling).await;
            let response = handled.unwrap_or_else(|error| connection.handler.broken(error));
            Ok::<_, Infallible>(response.map(|reply| Tracked::new(reply, busy)))
        }
    });
    let mut served = pin!(
        shared
            .builder
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
    );
    let mut stopping = pin!(shared.stop.begun.cancelled());
    let mut tick = pin!(tokio::time::sleep(shared.limits.tick()));
    let (mut armed, mut closing) = (false, None::<Instant>);
    let result = std::future::poll_fn(|context| {
        if let Poll::Ready(result) = served.as_mut().poll(context) {
            return Poll::Ready(Ok(result));
        }
        // The waker of a task does not change: what was armed once stays so,
        // and a wake for the request alone touches no lock and no timer.
        if !armed {
            armed = true;
            activity.tell_of_eviction(context);
            let _ = stopping.as_mut().poll(context);
            let _ = tick.as_mut().poll(context);
        }
        if activity.is_evicted() && activity.is_idle() {
            return Poll::Ready(Err("it was idle, and made room for others"));
        }
        if shared.stop.flag.load(Ordering::Acquire) && closing.is_none() {
            closing = Some(Instant::now());
            served.as_mut().graceful_shutdown();
            if let Poll::Ready(result) = served.as_mut().poll(context) {
                return Poll::Ready(Ok(result));
            }
        }
        while tick.is_elapsed() {
            let now = Instant::now();
            match activity.overdue(now, &shared.limits) {
                Some(Overdue::Idle) if closing.is_none() => {
                    closing = Some(now);
                    served.as_mut().graceful_shutdown();
                    if let Poll::Ready(result) = served.as_mut().poll(context) {
                        return Poll::Ready(Ok(result));
                    }
                }
                Some(Overdue::Idle) | None => {
                    let late = closing
                        .is_some_and(|since| now.saturating_duration_since(since) > CLOSE_TIME);
                    if late && activity.is_idle() {
                        return Poll::Ready(Err("closing took too long"));
                    }
                }
                Some(Overdue::Head) => return Poll::Ready(Err("the head came too slowly")),
                Some(Overdue::Stalled) => return Poll::Ready(Err("the answer was not read")),
            }
            let next = tokio::time::Instant::now().later(shared.limits.tick());
            tick.as_mut().reset(next);
            let _ = tick.as_mut().poll(context);
        }
        Poll::Pending
    })
    .await;
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "connection ended"),
        Err(reason) => debug!(%peer, reason, "cut a connection"),
    }
}

impl Limits {
    /// How often a connection's times are looked at: a quarter of the shortest,
    /// and never so often that a thousand idle connections would show.
    fn tick(&self) -> Duration {
        let shortest = self.header_timeout.min(self.idle_timeout);
        let shortest = shortest.min(self.stall_timeout);
        shortest
            .div_f64(4.0)
            .clamp(Duration::from_millis(20), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream as Client;
    use std::sync::Mutex;

    use bytes::Bytes;
    use http_body_util::BodyExt as _;
    use tokio::sync::oneshot;

    use super::body::{BodyFault, BodyLimits, bound};
    use super::*;

    /// Longest wait for a fact before a test fails instead of hanging.
    const PATIENCE: Duration = Duration::from_secs(20);

    const BODY: BodyLimits = BodyLimits {
        bytes: 1 << 20,
        gap: Duration::from_millis(100),
    };

    /// Answers by path: the body again, nothing of it, or whenever the test
    /// says so.
    #[derive(Default)]
    struct Echo {
        held: Mutex<Option<oneshot::Receiver<()>>>,
        entered: Mutex<Option<oneshot::Sender<()>>>,
        left: Mutex<Option<oneshot::Sender<()>>>,
    }

    /// Tells when it is dropped.
    struct Leaving(Option<oneshot::Sender<()>>);

    impl Drop for Leaving {
        fn drop(&mut self) {
            if let Some(left) = self.0.take() {
                let _ = left.send(());
            }
        }
    }

    impl Handler for Echo {
        async fn handle(
            connection: Arc<Connection<Self>>,
            request: Request<Incoming>,
        ) -> Response<Reply> {
            let take =
                |slot: &Mutex<Option<oneshot::Sender<()>>>| slot.lock().expect("whole").take();
            let handler = &connection.handler;
            if request.uri().path() == "/ignore" {
                let (body, _) = bound(request.into_body(), BODY, true, None);
                drop(body);
                return Response::new(Reply::from("ignored"));
            }
            if request.uri().path() == "/forbid" {
                let mut response = Response::new(Reply::from("no"));
                *response.status_mut() = StatusCode::FORBIDDEN;
                return response;
            }
            assert_ne!(request.uri().path(), "/broken", "it breaks the handler");
            if request.uri().path() == "/hold" {
                let held = handler
                    .held
                    .lock()
                    .expect("whole")
                    .take()
                    .expect("held once");
                let _leaving = Leaving(take(&handler.left));
                let _ = take(&handler.entered).expect("entered once").send(());
                let _ = held.await;
                return Response::new(Reply::from("released"));
            }
            let (body, verdict) = bound(request.into_body(), BODY, true, None);
            let mut response = Response::new(Reply::EMPTY);
            match (
                body.collect().await,
                verdict.and_then(|verdict| verdict.fault()),
            ) {
                (Ok(body), None) => *response.body_mut() = Reply::Whole(body.to_bytes()),
                (_, Some(BodyFault::TooLarge)) => {
                    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE
                }
                (_, Some(BodyFault::TooSlow)) => {
                    *response.status_mut() = StatusCode::REQUEST_TIMEOUT
                }
                (_, Some(BodyFault::Broken) | None) => {
                    *response.status_mut() = StatusCode::BAD_REQUEST
                }
            }
            response
        }
    }

    fn limits() -> Limits {
        Limits {
            connections: 100,
            connections_per_address: 100,
            header_bytes: 16 << 10,
            header_count: 50,
            header_timeout: PATIENCE,
            idle_timeout: PATIENCE,
            stall_timeout: PATIENCE,
        }
    }

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn start(limits: Limits, handler: Echo) -> (Server, Arc<Traffic>) {
        let listeners = Listeners::bind(loopback(), 2, "http.listen").expect("a free port");
        let traffic = Arc::<Traffic>::default();
        let server = Server::start(
            listeners,
            limits,
            Greeting::Plain,
            Arc::new(handler),
            Arc::clone(&traffic),
        );
        (server.expect("a server"), traffic)
    }

    fn client(server: &Server) -> Client {
        let client = Client::connect(server.address()).expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client
    }

    /// The answer to `request` up to the end of its headers, and what follows
    /// if the connection ends.
    fn ask(server: &Server, request: &[u8]) -> String {
        let mut client = client(server);
        // A server may answer and close before it has read everything.
        let _ = client.write_all(request);
        rest(&mut client)
    }

    fn rest(client: &mut Client) -> String {
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn port_that_somebody_has_is_refused_although_it_could_be_shared() {
        let (server, _) = start(limits(), Echo::default());
        let error = Listeners::bind(server.address(), 2, "http.listen");
        let error = error.err().expect("taken");
        assert!(
            error.to_string().contains("another process has this port"),
            "{error}"
        );
    }

    #[test]
    fn body_comes_back() {
        let (server, _) = start(limits(), Echo::default());
        let request =
            b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
        let answer = ask(&server, request);
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhi"),
            "{answer}"
        );
    }

    #[test]
    fn a_request_that_breaks_the_handler_is_answered_and_the_next_one_too() {
        let (server, _) = start(limits(), Echo::default());
        let both = b"GET /broken HTTP/1.1\r\nhost: a\r\n\r\n\
                     POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
        let answers = ask(&server, both);
        assert!(
            answers.starts_with("HTTP/1.1 500")
                && answers.contains("HTTP/1.1 200")
                && answers.ends_with("\r\n\r\nhi"),
            "{answers}"
        );
    }

    #[test]
    fn beyond_the_bound_an_idle_connection_makes_room() {
        let limits = Limits {
            connections: 1,
            ..limits()
        };
        let (server, traffic) = start(limits, Echo::default());
        let mut first = client(&server);
        first
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .expect("written");
        let mut byte = [0];
        first.read_exact(&mut byte).expect("served");
        let close = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        assert!(ask(&server, close).starts_with("HTTP/1.1 200"));
        assert!(rest(&mut first).starts_with("TTP/1.1 200"));
        assert_eq!((traffic.accepted(), traffic.refused()), (2, 0));
    }

    #[test]
    fn head_that_does_not_end_is_cut() {
        let limits = Limits {
            header_timeout: Duration::from_millis(100),
            ..limits()
        };
        let (server, _) = start(limits, Echo::default());
        let began = Instant::now();
        assert_eq!(ask(&server, b"GET / HTTP/1.1\r\nhost: "), "");
        assert!(began.elapsed() < PATIENCE);
    }

    #[test]
    fn idle_connection_is_closed_after_its_answers() {
        let limits = Limits {
            idle_timeout: Duration::from_millis(100),
            ..limits()
        };
        let (server, _) = start(limits, Echo::default());
        let began = Instant::now();
        let answer = ask(&server, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(began.elapsed() < PATIENCE);
    }

    #[test]
    fn head_beyond_its_bounds_is_431() {
        let (server, _) = start(limits(), Echo::default());
        let long = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
            "x".repeat(20 << 10)
        );
        let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(60));
        for request in [long, many] {
            let answer = ask(&server, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
            assert!(
                answer.contains("x-weir-error: header-too-large"),
                "{answer:?}"
            );
            assert!(answer.contains("http.header-bytes"), "{answer:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_400_with_the_reason_also_after_one_that_is() {
        let (server, _) = start(limits(), Echo::default());
        let wrong = b"GET / HTTP/1.1\r\nno header\r\n\r\n";
        let first = ask(&server, wrong);
        assert!(first.starts_with("HTTP/1.1 400"), "{first:?}");
        let mut client = client(&server);
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .expect("written");
        let mut fine = [0; 15];
        client.read_exact(&mut fine).expect("served");
        client.write_all(wrong).expect("written");
        let second = rest(&mut client);
        for answer in [first, second] {
            assert!(answer.contains("x-weir-error: bad-request"), "{answer:?}");
            assert!(answer.contains("this is no HTTP request"), "{answer:?}");
        }
    }

    #[test]
    fn refusal_of_a_handler_to_a_request_without_a_body_is_its_own() {
        let (server, _) = start(limits(), Echo::default());
        let answer = ask(
            &server,
            b"HEAD /forbid HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        );
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer:?}");
        assert!(!answer.contains("x-weir-error"), "{answer:?}");
    }

    #[test]
    fn body_that_stops_coming_is_408() {
        let (server, _) = start(limits(), Echo::default());
        let request =
            b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 9\r\n\r\nhi";
        let answer = ask(&server, request);
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    }

    #[test]
    fn chunked_body_beyond_its_bound_is_413_and_the_answer_arrives() {
        let (server, _) = start(limits(), Echo::default());
        let mut request = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..64 {
            request.extend_from_slice(b"10000\r\n");
            request.extend_from_slice(&vec![b'x'; 0x10000]);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
        let answer = ask(&server, &request);
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer:?}");
    }

    #[test]
    fn connection_survives_a_body_that_nobody_reads() {
        let (server, _) = start(limits(), Echo::default());
        let body = vec![b'x'; 4 << 20];
        let mut request = format!(
            "POST /ignore HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        request.extend_from_slice(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = ask(&server, &request);
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    }

    #[tokio::test]
    async fn both_versions_of_http_are_spoken_on_one_port() {
        let (server, _) = start(limits(), Echo::default());
        let stream = TcpStream::connect(server.address())
            .await
            .expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        let body = http_body_util::Full::new(Bytes::from_static(b"hi"));
        let request = Request::post("http://a/").body(body).expect("valid");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(
            answer
                .into_body()
                .collect()
                .await
                .expect("whole")
                .to_bytes(),
            "hi"
        );
    }

    #[tokio::test]
    async fn call_under_way_is_answered_before_the_end() {
        let ((release, held), (entered, inside)) = (oneshot::channel(), oneshot::channel());
        let handler = Echo::default();
        *handler.held.lock().expect("whole") = Some(held);
        *handler.entered.lock().expect("whole") = Some(entered);
        let (server, traffic) = start(limits(), handler);
        let address = server.address();
        let mut client = client(&server);
        let answer = std::thread::spawn(move || {
            client
                .write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
                .expect("written");
            rest(&mut client)
        });
        inside.await.expect("running");
        server.stop_accepting();
        let finish = tokio::spawn(server.finish(PATIENCE));
        release.send(()).expect("waited for");
        finish.await.expect("finished");
        let answer = answer.join().expect("an answer");
        assert!(answer.ends_with("released"), "{answer}");
        assert!(Client::connect(address).is_err());
        assert_eq!(traffic.open(), 0);
    }

    #[tokio::test]
    async fn call_that_does_not_end_is_cut_after_the_grace_period() {
        let ((_release, held), (entered, inside)) = (oneshot::channel(), oneshot::channel());
        let handler = Echo::default();
        *handler.held.lock().expect("whole") = Some(held);
        *handler.entered.lock().expect("whole") = Some(entered);
        let (server, _) = start(limits(), handler);
        let mut client = client(&server);
        client
            .write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
            .expect("written");
        inside.await.expect("running");
        server.finish(Duration::from_millis(50)).await;
        assert_eq!(rest(&mut client), "");
    }

    #[tokio::test]
    async fn call_is_dropped_when_its_client_goes_away() {
        let ((_release, held), (entered, inside)) = (oneshot::channel(), oneshot::channel());
        let (left, gone) = oneshot::channel();
        let handler = Echo::default();
        *handler.held.lock().expect("whole") = Some(held);
        *handler.entered.lock().expect("whole") = Some(entered);
        *handler.left.lock().expect("whole") = Some(left);
        let (server, _) = start(limits(), handler);
        let mut client = client(&server);
        client
            .write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
            .expect("written");
        inside.await.expect("running");
        drop(client);
        tokio::time::timeout(PATIENCE, gone)
            .await
            .expect("in time")
            .expect("dropped");
    }
}
