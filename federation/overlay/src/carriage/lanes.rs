//! The connections to one peer: each is watched while calls are on it, and closed
//! when nobody has used it for long.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use libp2p::PeerId;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use weir_federation_core::detector::{Answering, Detector, LOOK_INTERVAL, PING_INTERVAL, Seen};
use weir_node_core::time::Time;

use super::detour::Detour;
use super::{Body, Kind};
use crate::host::{Event, Host};
use crate::line::{Line, Notes};
use crate::swarm::chain;
use crate::traffic::Sign;

/// Connections to one peer: more gain nothing, and one for each thread that
/// sends lets each drive its own.
const LANES: usize = 4;

/// A connection that nobody uses for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// How long hyper waits for a pong: longer than [`Detector`] ever does, which
/// knows more.
const PONG: Duration = Duration::from_secs(60);

/// Bytes that may be under way to one reader, and on one connection: bodies of
/// a megabyte go at full speed, and a slow reader holds no more.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all streams of a connection together.
pub const CONNECTION_WINDOW: u32 = 8 << 20;

/// Bytes of an answer's headers as HTTP/2 counts them: what a function may send,
/// 32 for each, and what the nodes say to each other.
const HEADER_BYTES: u32 = 64 << 10;

/// A peer, and the connections to it.
pub(super) struct Peer {
    id: PeerId,
    host: Arc<dyn Host>,
    sign: Sign,
    /// Connections to it on which pings are not answered, and those to anybody.
    unanswered: AtomicUsize,
    all_unanswered: Arc<AtomicUsize>,
    /// Held by whoever makes a connection.
    pub(super) making: [tokio::sync::Mutex<()>; LANES],
    pub(super) ready: [Mutex<Option<Lane>>; LANES],
    pub(super) detour: Mutex<Detour>,
    /// Ends its connections at once.
    pub(super) cut: CancellationToken,
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

/// A connection to a peer.
#[derive(Clone)]
pub(super) struct Lane {
    pub(super) sender: SendRequest<Body>,
    pub(super) kind: Kind,
    pub(super) used: Arc<Used>,
}

/// When a connection was used, and by how many.
pub(super) struct Used {
    last: Mutex<Instant>,
    calls: AtomicUsize,
    /// Told when there are calls again.
    begun: Notify,
}

impl Used {
    pub(super) fn begin(self: &Arc<Used>) -> Using {
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
        *self.0.last.lock() = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which lane this thread uses: its own as long as there are enough.
pub(super) fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % LANES;
    }
    MINE.with(|mine| *mine)
}

impl Peer {
    /// One to which there is no connection yet. `host` is told when it does not
    /// answer, `all_unanswered` counts connections to anybody that do not.
    pub(super) fn new(
        id: PeerId,
        host: Arc<dyn Host>,
        sign: Sign,
        all_unanswered: Arc<AtomicUsize>,
    ) -> Peer {
        Peer {
            id,
            host,
            sign,
            unanswered: AtomicUsize::new(0),
            all_unanswered,
            making: Default::default(),
            ready: Default::default(),
            detour: Mutex::default(),
            cut: CancellationToken::new(),
        }
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }

    /// Uses a connection no more. With the last sender gone it ends by itself.
    fn retire(&self, used: &Arc<Used>) {
        for ready in &self.ready {
            let mut ready = ready.lock();
            if ready.as_ref().is_some_and(|l| Arc::ptr_eq(&l.used, used)) {
                *ready = None;
            }
        }
    }

    pub(super) fn ready(&self, at: usize) -> Option<Lane> {
        let mut ready = self.ready[at].lock();
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
        let last = *used.last.lock();
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
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// Speaks HTTP/2 on a stream, and drives it from a task of its own.
pub(super) async fn handshake(
    stream: Box<dyn Wire>,
    kind: Kind,
    peer: &Arc<Peer>,
) -> Result<Lane, String> {
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
