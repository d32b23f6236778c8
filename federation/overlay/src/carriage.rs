//! HTTP/2 to peers: over mutual TLS where a peer can be dialled, over a stream
//! of the swarm where it cannot. Connections are made when they are needed, a
//! few to each peer, and closed when nobody has used them for long.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use libp2p::PeerId;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::endpoint::{Endpoint, Resolve};
use crate::host::{Event, Host};
use crate::line::{Line, Notes};
use crate::swarm::{Overlay, chain, innermost};
use crate::tls::{Connector, TlsError};
use crate::traffic::Sign;
use weir_federation_core::detector::{Answering, Detector, LOOK_INTERVAL, PING_INTERVAL, Seen};
use weir_node_core::time::Time;

/// What a request carries.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Connections to one peer: more gain nothing, and one for each thread that
/// sends lets each drive its own.
const LANES: usize = 4;

/// How long an address may take to answer before the overlay is tried.
const DIAL: Duration = Duration::from_millis(700);

/// Addresses of one name that are dialled.
const ADDRESSES_PER_NAME: usize = 4;

/// How long a peer that could not be dialled is reached over the overlay
/// without another try.
const DETOUR: Duration = Duration::from_secs(10);

/// How often a broken connection is excused, and how long its calls may take to
/// notice.
const EXCUSE: Duration = Duration::from_secs(60);
const TOGETHER: Duration = Duration::from_secs(1);

/// Pauses before the attempts to speak over the overlay.
const AGAIN: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(50),
];

/// A connection that nobody uses for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// How long hyper waits for a pong: longer than [`Detector`] ever does, which
/// knows more.
const PONG: Duration = Duration::from_secs(60);

/// Bytes that the kernel keeps of what it has not sent yet. More only makes
/// pings wait, and nobody would see that a slow link moves.
const UNSENT_BYTES: u32 = 128 << 10;

/// Bytes that may be under way to one reader, and on one connection: bodies of
/// a megabyte go at full speed, and a slow reader holds no more.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all streams of a connection together.
pub const CONNECTION_WINDOW: u32 = 8 << 20;

/// Bytes of an answer's headers as HTTP/2 counts them: what a function may send,
/// 32 for each, and what the nodes say to each other.
const HEADER_BYTES: u32 = 64 << 10;

/// What carries calls to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A connection of its own, with mutual TLS.
    Direct,
    /// A stream of the overlay, perhaps over a relay.
    Stream,
}

impl Kind {
    /// The word for listings and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Stream => "stream",
        }
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub enum SendError {
    /// No byte of it reached the peer; here it is again.
    NotSent {
        /// The request.
        request: Box<Request<Body>>,
        /// Why.
        reason: String,
    },
    /// The peer may have begun to act on it.
    Lost {
        /// What happened.
        reason: String,
        /// Whether a direct connection broke for the first time in long, so
        /// that the overlay may do better.
        excused: bool,
    },
    /// The peer began an answer and gave it up; it is there itself.
    Cut {
        /// What happened.
        reason: String,
    },
}

impl SendError {
    /// What happened.
    pub fn reason(&self) -> &str {
        match self {
            SendError::NotSent { reason, .. }
            | SendError::Lost { reason, .. }
            | SendError::Cut { reason } => reason,
        }
    }
}

/// All connections of a node to its peers.
pub struct Carriage {
    connector: Connector,
    overlay: Overlay,
    host: Arc<dyn Host>,
    resolver: Arc<dyn Resolve>,
    peers: Mutex<HashMap<PeerId, Arc<Peer>>>,
    /// Connections to anybody that are not answered, so that nobody looks for
    /// them where there are none.
    unanswered: Arc<AtomicUsize>,
}

struct Peer {
    id: PeerId,
    host: Arc<dyn Host>,
    sign: Sign,
    /// Connections to it on which pings are not answered, and those to anybody.
    unanswered: AtomicUsize,
    all_unanswered: Arc<AtomicUsize>,
    /// Held by whoever makes a connection.
    making: [tokio::sync::Mutex<()>; LANES],
    ready: [Mutex<Option<Lane>>; LANES],
    detour: Mutex<Detour>,
    /// Ends its connections at once.
    cut: CancellationToken,
}

/// When a peer is reached over the overlay though it names an address.
#[derive(Default)]
struct Detour {
    /// Until when nobody tries to dial.
    until: Option<Instant>,
    /// When a connection broke that was excused.
    broke: Option<Instant>,
}

impl Detour {
    /// A direct connection broke: whether that is excused. Calls that were on
    /// it end together, and count once.
    fn broke(&mut self, now: Instant) -> bool {
        self.until = Some(now + DETOUR);
        match self.broke {
            Some(at) if now < at + TOGETHER => true,
            Some(at) if now < at + EXCUSE => false,
            Some(_) | None => {
                self.broke = Some(now);
                true
            }
        }
    }
}

/// Drives a connection to a peer until it is cut: whoever waits for an answer
/// on it learns at once that none will come.
#[derive(Clone)]
struct Driver {
    cut: CancellationToken,
    driven: Arc<AtomicBool>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Driver {
    fn execute(&self, future: F) {
        // hyper begins with the connection itself. What follows belongs to one
        // request each and ends with the connection: to watch over each would
        // cost more than the request.
        if self.driven.swap(true, Ordering::Relaxed) {
            tokio::spawn(future);
        } else {
            let driven = self.cut.clone().run_until_cancelled_owned(future);
            tokio::spawn(async { _ = driven.await });
        }
    }
}

#[derive(Clone)]
struct Lane {
    sender: SendRequest<Body>,
    kind: Kind,
    used: Arc<Used>,
}

/// When a connection was used, and by how many.
struct Used {
    last: Mutex<Instant>,
    calls: AtomicUsize,
    /// Told when there are calls again.
    begun: Notify,
}

impl Used {
    fn begin(self: &Arc<Used>) -> Using {
        if self.calls.fetch_add(1, Ordering::Relaxed) == 0 {
            self.begun.notify_one();
        }
        Using(self.clone())
    }
}

/// Counts a call on a connection until it is dropped.
pub struct Using(Arc<Used>);

impl Drop for Using {
    fn drop(&mut self) {
        *lock(&self.0.last) = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the peer ended this one stream, because the body that it was sending
/// broke.
fn is_cut(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| {
        error.is_reset() && error.is_remote() && error.reason() == Some(Reason::INTERNAL_ERROR)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which lane this thread uses: its own as long as there are enough.
fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % LANES;
    }
    MINE.with(|mine| *mine)
}

impl Carriage {
    /// Reaches peers with `connector` first and over `overlay` otherwise.
    /// `host` is told who does not answer.
    /// `resolver` looks up where peers are that go by a name.
    pub fn new(
        connector: Connector,
        overlay: Overlay,
        host: Arc<dyn Host>,
        resolver: Arc<dyn Resolve>,
    ) -> Carriage {
        Carriage {
            connector,
            overlay,
            host,
            resolver,
            peers: Mutex::default(),
            unanswered: Arc::default(),
        }
    }

    /// Whether a peer has calls of ours and does not answer pings: what is sent
    /// to it now is given back at once.
    pub fn is_unanswered(&self, peer: &PeerId) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
            && lock(&self.peers)
                .get(peer)
                .is_some_and(|peer| peer.is_unanswered())
    }

    /// Sends a request to a peer that says that it listens at `addresses`.
    /// What is returned beside the answer is to be kept until its body ends.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(
        &self,
        to: PeerId,
        addresses: &[Endpoint],
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, Kind, Using), SendError> {
        let mut lane = match self.lane(to, addresses).await {
            Ok(lane) => lane,
            Err(reason) => {
                let request = Box::new(request);
                return Err(SendError::NotSent { request, reason });
            }
        };
        let using = lane.used.begin();
        match lane.sender.try_send_request(request).await {
            Ok(response) => Ok((response, lane.kind, using)),
            Err(mut failed) => match failed.take_message() {
                Some(request) => Err(SendError::NotSent {
                    request: Box::new(request),
                    reason: failed.error().to_string(),
                }),
                None if is_cut(failed.error()) => Err(SendError::Cut {
                    reason: chain(failed.error()),
                }),
                None => Err(SendError::Lost {
                    reason: chain(failed.error()),
                    excused: lane.kind == Kind::Direct && self.turn_away(&to),
                }),
            },
        }
    }

    /// Reaches a peer over the overlay for a while, after a direct connection
    /// broke; whether that is excused.
    fn turn_away(&self, peer: &PeerId) -> bool {
        let Some(peer) = lock(&self.peers).get(peer).cloned() else {
            return false;
        };
        for ready in &peer.ready {
            let mut ready = lock(ready);
            if ready.as_ref().is_some_and(|lane| lane.kind == Kind::Direct) {
                *ready = None;
            }
        }
        lock(&peer.detour).broke(Instant::now())
    }

    /// What carries calls to a peer now; `None` before the first.
    pub fn kind(&self, peer: &PeerId) -> Option<Kind> {
        let peer = lock(&self.peers).get(peer)?.clone();
        let lanes = peer.ready.iter().filter_map(|lane| lock(lane).clone());
        lanes
            .filter(|lane| !lane.sender.is_closed())
            .map(|lane| lane.kind)
            .next()
    }

    /// Makes new connections to a peer from now on. Calls on the old ones end
    /// when they are answered, or when the peer misses a ping.
    pub fn close(&self, peer: &PeerId) {
        if let Some(peer) = lock(&self.peers).get(peer) {
            for ready in &peer.ready {
                *lock(ready) = None;
            }
        }
    }

    /// Ends all connections to a peer, with the calls on them.
    pub fn cut(&self, peer: &PeerId) {
        if let Some(peer) = lock(&self.peers).remove(peer) {
            peer.cut.cancel();
        }
    }

    /// Ends all connections to everybody.
    pub fn cut_all(&self) {
        for (_, peer) in lock(&self.peers).drain() {
            peer.cut.cancel();
        }
    }

    /// Tries to reach a peer directly: how long that took.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn try_direct(&self, to: PeerId, address: Endpoint) -> Result<Duration, String> {
        let began = Instant::now();
        let mut reason = format!("{address} has no address");
        for found in self.locate(&address).await? {
            reason = match self.connected(to, found).await {
                Ok(_) => return Ok(began.elapsed()),
                // Nobody wants the number that the system has for it.
                Err(TlsError::Handshake(error)) => innermost(&error),
                Err(error) => chain(&error),
            };
        }
        Err(reason)
    }

    /// Tries to reach a peer over the overlay: how long that took.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn try_stream(&self, to: PeerId) -> Result<Duration, String> {
        let began = Instant::now();
        let opened = self.overlay.open(to).await;
        opened
            .map(|_| began.elapsed())
            .map_err(|error| error.to_string())
    }

    fn peer(&self, id: PeerId) -> Peer {
        Peer {
            id,
            host: self.host.clone(),
            sign: self.overlay.traffic().of(id),
            unanswered: AtomicUsize::new(0),
            all_unanswered: self.unanswered.clone(),
            making: Default::default(),
            ready: Default::default(),
            detour: Mutex::default(),
            cut: CancellationToken::new(),
        }
    }

    async fn lane(&self, to: PeerId, addresses: &[Endpoint]) -> Result<Lane, String> {
        let peer = lock(&self.peers)
            .entry(to)
            .or_insert_with(|| Arc::new(self.peer(to)))
            .clone();
        if peer.is_unanswered() {
            return Err("it has calls, and does not answer pings".to_owned());
        }
        let at = lane();
        if let Some(lane) = peer.ready(at) {
            return Ok(lane);
        }
        // Whoever comes meanwhile waits for this one.
        let _making = peer.making[at].lock().await;
        if let Some(lane) = peer.ready(at) {
            return Ok(lane);
        }
        let made = self.connect(to, addresses, &peer).await?;
        *lock(&peer.ready[at]) = Some(made.clone());
        Ok(made)
    }

    async fn connect(
        &self,
        to: PeerId,
        addresses: &[Endpoint],
        peer: &Arc<Peer>,
    ) -> Result<Lane, String> {
        let detour = lock(&peer.detour).until;
        let detour = detour.is_some_and(|until| Instant::now() < until);
        let mut reasons = Vec::new();
        if !detour && !addresses.is_empty() {
            match self.direct(to, addresses).await {
                Ok(stream) => return handshake(Box::new(stream), Kind::Direct, peer).await,
                Err(reason) => reasons.push(reason),
            }
        }
        // A node takes one stream after the other, and may let go of one of two
        // that come at once: what broke before anything was said is tried again.
        for pause in AGAIN {
            tokio::time::sleep(pause).await;
            match self.overlay.open(to).await {
                Ok(stream) => {
                    // Only now: without a way around, the next call tries again.
                    lock(&peer.detour).until = Some(Instant::now() + DETOUR);
                    if let Some(reason) = reasons.first() {
                        debug!(peer = %to, reason, "carries calls over the overlay");
                    }
                    match handshake(Box::new(stream.compat()), Kind::Stream, peer).await {
                        Ok(lane) => return Ok(lane),
                        Err(reason) => reasons.push(reason),
                    }
                }
                Err(error) => {
                    reasons.push(error.to_string());
                    break;
                }
            }
        }
        Err(reasons.join("; "))
    }

    async fn direct(
        &self,
        to: PeerId,
        addresses: &[Endpoint],
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let mut reasons = Vec::new();
        for endpoint in addresses {
            let found = match self.locate(endpoint).await {
                Ok(found) => found,
                Err(reason) => {
                    reasons.push(format!("{endpoint}: {reason}"));
                    continue;
                }
            };
            for address in found {
                match self.connected(to, address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => reasons.push(format!("{endpoint}: {}", chain(&error))),
                }
            }
        }
        Err(reasons.join("; "))
    }

    async fn connected(
        &self,
        to: PeerId,
        address: SocketAddr,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, TlsError> {
        let stream = tokio::time::timeout(DIAL, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| TlsError::Slow)??;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
        self.connector.connect(to, stream).await
    }

    /// Where an endpoint is now: a name is looked up anew for each connection,
    /// as it may have moved.
    async fn locate(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
        let (host, port) = match endpoint {
            Endpoint::Address(address) => return Ok(vec![*address]),
            Endpoint::Name(host, port) => (host, *port),
        };
        let looked = tokio::time::timeout(DIAL, self.resolver.resolve(host)).await;
        let found = looked.map_err(|_| format!("looking it up took longer than {DIAL:?}"))?;
        let mut found = found.map_err(|error| error.to_string())?;
        found.truncate(ADDRESSES_PER_NAME);
        Ok(found
            .into_iter()
            .map(|ip| SocketAddr::new(ip, port))
            .collect())
    }
}

impl Peer {
    fn is_unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }

    /// Uses a connection no more. With the last sender gone it ends by itself.
    fn retire(&self, used: &Arc<Used>) {
        for ready in &self.ready {
            let mut ready = lock(ready);
            if ready.as_ref().is_some_and(|l| Arc::ptr_eq(&l.used, used)) {
                *ready = None;
            }
        }
    }

    fn ready(&self, at: usize) -> Option<Lane> {
        let mut ready = lock(&self.ready[at]);
        match ready.as_ref()?.sender.is_closed() {
            false => ready.clone(),
            true => {
                *ready = None;
                None
            }
        }
    }
}

/// A connection that is not answered, until this is dropped.
struct Unanswered(Arc<Peer>);

impl Unanswered {
    fn new(peer: Arc<Peer>) -> Unanswered {
        peer.all_unanswered.fetch_add(1, Ordering::Relaxed);
        peer.unanswered.fetch_add(1, Ordering::Relaxed);
        peer.host.happened(Event::Unanswered(peer.id));
        Unanswered(peer)
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
        self.0.all_unanswered.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks whether a connection is answered while calls are out on it; returns
/// when they are lost.
async fn watch(used: &Used, notes: &Notes, peer: &Weak<Peer>) {
    let began = Instant::now();
    loop {
        used.begun.notified().await;
        let mut detector = Detector::new(Time::ZERO + began.elapsed());
        let mut unanswered = None;
        // What was written before has gone long since.
        notes.forget();
        while used.calls.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let (heard, written) = notes.take();
            let seen = Seen {
                calls: used.calls.load(Ordering::Relaxed) > 0,
                heard,
                written,
            };
            match detector.look(Time::ZERO + began.elapsed(), seen) {
                Answering::Yes => unanswered = None,
                Answering::NotNow if unanswered.is_none() => {
                    unanswered = peer.upgrade().map(Unanswered::new);
                }
                Answering::NotNow => {}
                Answering::NoMore => return,
            }
        }
    }
}

/// Returns when nobody has used a connection for long.
async fn idle(used: &Used) {
    loop {
        tokio::time::sleep(IDLE / 10).await;
        let calls = used.calls.load(Ordering::Relaxed);
        let last = *lock(&used.last);
        if calls == 0 && last.elapsed() >= IDLE {
            return;
        }
    }
}

/// Looks after a connection until it is used no more. Where it is not answered,
/// its calls end at once.
async fn look_after(used: Arc<Used>, notes: Arc<Notes>, peer: Weak<Peer>, cut: CancellationToken) {
    let is_lost = tokio::select! {
        () = idle(&used) => false,
        () = watch(&used, &notes, &peer) => true,
    };
    if let Some(peer) = peer.upgrade() {
        peer.retire(&used);
        if is_lost {
            debug!(peer = %peer.id, "pings are not answered: calls are lost");
        }
    }
    if is_lost {
        cut.cancel();
    }
}

/// What HTTP/2 is spoken on. One type for both kinds: the whole of it is compiled
/// for each.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// Speaks HTTP/2 on a stream, and drives it from a task of its own.
async fn handshake(stream: Box<dyn Wire>, kind: Kind, peer: &Arc<Peer>) -> Result<Lane, String> {
    let cut = peer.cut.child_token();
    let driver = Driver {
        cut: cut.clone(),
        driven: Arc::default(),
    };
    let notes = Arc::new(Notes::new(peer.sign.clone()));
    let stream = Line::new(stream, notes.clone());
    let made = http2::Builder::new(driver)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PONG)
        .handshake::<_, Body>(TokioIo::new(stream))
        .await;
    let (sender, connection) = made.map_err(|error| error.to_string())?;
    let used = Arc::new(Used {
        last: Mutex::new(Instant::now()),
        calls: AtomicUsize::new(0),
        begun: Notify::new(),
    });
    let lane = Lane {
        sender,
        kind,
        used: used.clone(),
    };
    let over = look_after(used, notes, Arc::downgrade(peer), cut);
    tokio::spawn(async move {
        let mut connection = std::pin::pin!(connection);
        let mut over: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(over);
        let mut watching = true;
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        debug!(error = chain(&error), "a connection to a peer ended");
                    }
                    return;
                }
                () = &mut over, if watching => watching = false,
            }
        }
    });
    Ok(lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_breaks_is_excused_once_in_a_while() {
        let mut detour = Detour::default();
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        assert!(detour.broke(at(0)));
        // The other calls that it carried.
        assert!(detour.broke(at(900)));
        assert!(!detour.broke(at(12_000)));
        assert!(!detour.broke(at(59_000)));
        assert!(detour.broke(at(61_000)));
        assert_eq!(detour.until, Some(at(61_000) + DETOUR));
    }
}
