//! HTTP/2 to peers: over mutual TLS where a peer can be dialled, over a stream
//! of the swarm where it cannot. Connections are made when they are needed, a
//! few to each peer, and closed when nobody has used them for long.

mod detour;
mod lanes;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::{Request, Response};
use libp2p::PeerId;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tracing::debug;

pub use self::lanes::{CONNECTION_WINDOW, STREAM_WINDOW, Using};
use self::lanes::{Lane, Peer, handshake, lane};
use crate::endpoint::{Endpoint, Resolve};
use crate::host::Host;
use crate::swarm::{Overlay, chain, innermost};
use crate::tls::{Connector, TlsError};

/// What a request carries.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// How long an address may take to answer before the overlay is tried.
const DIAL: Duration = Duration::from_millis(700);

/// Addresses of one name that are dialled.
const ADDRESSES_PER_NAME: usize = 4;

/// Pauses before the attempts to speak over the overlay.
const AGAIN: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(50),
];

/// Bytes that the kernel keeps of what it has not sent yet. More only makes
/// pings wait, and nobody would see that a slow link moves.
const UNSENT_BYTES: u32 = 128 << 10;

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

/// Whether the peer ended this one stream, because the body that it was sending
/// broke.
fn is_cut(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| {
        error.is_reset() && error.is_remote() && error.reason() == Some(Reason::INTERNAL_ERROR)
    })
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
            && self
                .peers
                .lock()
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
        let Some(peer) = self.peers.lock().get(peer).cloned() else {
            return false;
        };
        for ready in &peer.ready {
            let mut ready = ready.lock();
            if ready.as_ref().is_some_and(|lane| lane.kind == Kind::Direct) {
                *ready = None;
            }
        }
        peer.detour.lock().broke(Instant::now())
    }

    /// What carries calls to a peer now; `None` before the first.
    pub fn kind(&self, peer: &PeerId) -> Option<Kind> {
        let peer = self.peers.lock().get(peer)?.clone();
        let lanes = peer.ready.iter().filter_map(|lane| lane.lock().clone());
        lanes
            .filter(|lane| !lane.sender.is_closed())
            .map(|lane| lane.kind)
            .next()
    }

    /// Makes new connections to a peer from now on. Calls on the old ones end
    /// when they are answered, or when the peer misses a ping.
    pub fn close(&self, peer: &PeerId) {
        if let Some(peer) = self.peers.lock().get(peer) {
            for ready in &peer.ready {
                *ready.lock() = None;
            }
        }
    }

    /// Ends all connections to a peer, with the calls on them.
    pub fn cut(&self, peer: &PeerId) {
        if let Some(peer) = self.peers.lock().remove(peer) {
            peer.cut.cancel();
        }
    }

    /// Ends all connections to everybody.
    pub fn cut_all(&self) {
        for (_, peer) in self.peers.lock().drain() {
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

    async fn lane(&self, to: PeerId, addresses: &[Endpoint]) -> Result<Lane, String> {
        let peer = self
            .peers
            .lock()
            .entry(to)
            .or_insert_with(|| {
                let (host, sign) = (self.host.clone(), self.overlay.traffic().of(to));
                Arc::new(Peer::new(to, host, sign, self.unanswered.clone()))
            })
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
        *peer.ready[at].lock() = Some(made.clone());
        Ok(made)
    }

    async fn connect(
        &self,
        to: PeerId,
        addresses: &[Endpoint],
        peer: &Arc<Peer>,
    ) -> Result<Lane, String> {
        let detour = peer.detour.lock().is_on(Instant::now());
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
                    peer.detour.lock().begins(Instant::now());
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
