//! The swarm on a thread of its own, so that busy functions starve no
//! heartbeat, and the way in.

mod driver;
mod failures;
mod telling;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use libp2p::core::transport::TransportError;
use libp2p::gossipsub::IdentTopic;
use libp2p::identity::Keypair;
use libp2p::swarm::Stream;
use libp2p::{Multiaddr, PeerId, Swarm, relay};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use self::driver::Driver;
pub use self::failures::chain;
pub(crate) use self::failures::innermost;
use self::telling::TOLD;
use crate::behaviour::Behaviour;
use crate::host::Host;
use crate::probe;
use crate::streams::{Purpose, Reply};
use crate::traffic::Traffic;
use crate::transport;

/// Requests to the swarm that may wait. Publishing beyond it is dropped: the
/// next report says more.
const COMMANDS: usize = 1_024;

/// Streams with calls that may wait for somebody to serve them.
const CALL_STREAMS: usize = 256;

/// Links whose first heartbeat was not noted yet.
const HEARTBEATS: usize = 256;

/// How long a connection stays that nothing uses.
const IDLE: Duration = Duration::from_secs(10);

/// Longest wait for a stream to be opened.
const OPENING: Duration = Duration::from_secs(5);

/// How a node takes part.
#[derive(Clone)]
pub struct Config {
    /// Who it is.
    pub key: Keypair,
    /// Where it listens.
    pub listen: Vec<Multiaddr>,
    /// Where others reach it, when that is not where it listens.
    pub advertise: Vec<Multiaddr>,
    /// Whether to look for members on the local network.
    pub mdns: bool,
    /// Topics to hear and pass on.
    pub topics: Vec<String>,
    /// Longest message in bytes.
    pub message_bytes: usize,
    /// What makes two messages the same.
    pub message_identity: fn(&[u8]) -> [u8; 8],
}

/// Why an overlay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A transport cannot be built.
    #[error("set up the transports")]
    Transport(#[source] io::Error),
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: Multiaddr,
        /// Why not.
        source: TransportError<io::Error>,
    },
    /// The local network cannot be searched.
    #[error("look for members on the local network")]
    Mdns(#[source] io::Error),
    /// Gossip cannot be set up.
    #[error("set up gossip: {0}")]
    Gossip(String),
    /// No thread.
    #[error("start a thread")]
    Thread(#[source] io::Error),
}

/// Why a stream to a peer was not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// There is no link to it.
    #[error("there is no link to it")]
    NotConnected,
    /// Too many streams wait already.
    #[error("too many streams to it are being opened")]
    Busy,
    /// The stream failed.
    #[error("{0}")]
    Stream(String),
    /// The overlay has stopped.
    #[error("the overlay has stopped")]
    Stopped,
}

/// What was counted, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of messages that this node said first.
    pub published_bytes: AtomicU64,
    /// Bytes of messages that arrived, copies that were known not counted.
    pub heard_bytes: AtomicU64,
    /// Messages beyond a link's rate.
    pub hurried: AtomicU64,
    /// Links that are up.
    pub links: AtomicU64,
}

enum Command {
    Publish {
        topic: String,
        message: Bytes,
    },
    Tell {
        peer: PeerId,
        messages: Vec<(String, Bytes)>,
    },
    Dial {
        peer: Option<PeerId>,
        addresses: Vec<Multiaddr>,
    },
    ListenVia {
        relay: Multiaddr,
    },
    Disconnect {
        peer: PeerId,
    },
    Open {
        peer: PeerId,
        purpose: Purpose,
        reply: Reply,
    },
    Topics {
        topics: Vec<String>,
    },
    Find {
        peer: PeerId,
    },
    Punch {
        peer: PeerId,
        over: Vec<Multiaddr>,
    },
    Stop,
}

/// The way to the swarm. Cheap to clone; the swarm ends with the last one, or
/// with [`Overlay::stop`].
#[derive(Clone)]
pub struct Overlay {
    id: PeerId,
    /// The swarm's thread, until somebody waits for its end.
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    traffic: Arc<Traffic>,
}

/// Streams on which peers send calls.
pub type CallStreams = mpsc::Receiver<(PeerId, Stream)>;

impl Overlay {
    /// Who is heard on connections with calls: no heartbeat is missed of those.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    /// Starts the swarm of a node. What happens is told to `host`; streams with
    /// calls arrive at the receiver.
    ///
    /// # Errors
    /// Which step failed.
    pub fn start(
        config: Config,
        host: Arc<dyn Host>,
    ) -> Result<(Overlay, CallStreams), StartError> {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (calls, call_streams) = mpsc::channel(CALL_STREAMS);
        let counters = Arc::<Counters>::default();
        let overlay = Overlay {
            id: config.key.public().to_peer_id(),
            thread: Arc::default(),
            commands,
            counters: counters.clone(),
            traffic: Arc::default(),
        };
        let traffic = overlay.traffic();
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let thread = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(StartError::Thread(error)));
                    return;
                }
            };
            runtime.block_on(async {
                let swarm = match swarm(&config, host.clone()) {
                    Ok(swarm) => swarm,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                let _ = started.send(Ok(()));
                let (told, hearing) = mpsc::channel(TOLD);
                let (heartbeats, beating) = mpsc::channel(HEARTBEATS);
                let counted = (counters, traffic);
                let driver = Driver::new(swarm, host, &config, counted, calls, heartbeats, told);
                Box::pin(driver.run(receiver, hearing, beating)).await;
            });
        };
        let spawned = std::thread::Builder::new()
            .name("overlay".to_owned())
            .spawn(thread);
        *overlay.thread() = Some(spawned.map_err(StartError::Thread)?);
        match start.recv() {
            Ok(outcome) => outcome.map(|()| (overlay, call_streams)),
            Err(_) => Err(StartError::Thread(io::Error::other("the thread ended"))),
        }
    }

    fn thread(&self) -> parking_lot::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock()
    }

    /// Ends the swarm with all connections and sockets, and waits for that. What
    /// is asked of it afterwards comes to nothing.
    pub async fn stop(&self) {
        // Whether it hears this or has ended by itself: its thread ends.
        let _ = self.commands.send(Command::Stop).await;
        let thread = self.thread().take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// This node's id.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn say(&self, command: Command) {
        // Each of these is said again by whoever needs it.
        if self.commands.try_send(command).is_err() {
            debug!("the overlay is busy, or has stopped: dropped a request");
        }
    }

    /// Hears these topics from now on, and no others.
    pub fn listen_to(&self, topics: Vec<String>) {
        self.say(Command::Topics { topics });
    }

    /// Gossips a message.
    pub fn publish(&self, topic: &str, message: Bytes) {
        let topic = topic.to_owned();
        self.say(Command::Publish { topic, message });
    }

    /// Tells a linked peer messages that it may have missed.
    pub fn tell(&self, peer: PeerId, mut messages: Vec<(String, Bytes)>) {
        messages.truncate(TOLD);
        self.say(Command::Tell { peer, messages });
    }

    /// Tries to link to somebody at `addresses`, and to keep that link; without
    /// any, where the overlay believes the peer to be.
    pub fn dial(&self, peer: Option<PeerId>, addresses: Vec<Multiaddr>) {
        self.say(Command::Dial { peer, addresses });
    }

    /// Asks a member to carry connections of those who cannot reach this node.
    pub fn listen_via(&self, relay: Multiaddr) {
        self.say(Command::ListenVia { relay });
    }

    /// Ends all connections to a peer.
    pub fn disconnect(&self, peer: PeerId) {
        self.say(Command::Disconnect { peer });
    }

    /// Looks for a peer's addresses among the members.
    pub fn find(&self, peer: PeerId) {
        self.say(Command::Find { peer });
    }

    /// Tries again to be linked directly to a peer that is linked over a relay:
    /// a second connection `over` relays begins with that.
    pub fn punch(&self, peer: PeerId, over: Vec<Multiaddr>) {
        self.say(Command::Punch { peer, over });
    }

    /// Opens a stream for calls to a peer, linking to it for that if need be.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, peer: PeerId) -> Result<Stream, Unreachable> {
        self.open_for(peer, Purpose::Calls).await
    }

    /// Asks a linked peer how loaded it is; what its host says
    /// ([`Host::probed`]).
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn probe(&self, peer: PeerId) -> Result<Vec<u8>, Unreachable> {
        let stream = self.open_for(peer, Purpose::Probe).await?;
        let asked = probe::ask(stream).await;
        asked.map_err(|error| Unreachable::Stream(error.to_string()))
    }

    async fn open_for(&self, peer: PeerId, purpose: Purpose) -> Result<Stream, Unreachable> {
        let (reply, opened) = oneshot::channel();
        let command = Command::Open {
            peer,
            purpose,
            reply,
        };
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Unreachable::Busy,
                mpsc::error::TrySendError::Closed(_) => Unreachable::Stopped,
            })?;
        match tokio::time::timeout(OPENING, opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => Err(Unreachable::Stopped),
            Err(_) => Err(Unreachable::Stream("the peer did not answer".to_owned())),
        }
    }
}

fn swarm(config: &Config, host: Arc<dyn Host>) -> Result<Swarm<Behaviour>, StartError> {
    let id = config.key.public().to_peer_id();
    let (relay, relayed) = relay::client::new(id);
    let transport = transport::build(&config.key, host, relay).map_err(StartError::Transport)?;
    let behaviour = Behaviour::new(config, relayed)?;
    let settings = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE)
        .with_max_negotiating_inbound_streams(128);
    let mut swarm = Swarm::new(transport, behaviour, id, settings);
    for address in &config.listen {
        let listening = swarm.listen_on(address.clone());
        listening.map_err(|source| StartError::Listen {
            address: address.clone(),
            source,
        })?;
    }
    for address in &config.advertise {
        swarm.add_external_address(address.clone());
    }
    for topic in &config.topics {
        let subscribed = swarm
            .behaviour_mut()
            .gossip
            .subscribe(&IdentTopic::new(topic));
        subscribed.map_err(|error| StartError::Gossip(error.to_string()))?;
    }
    Ok(swarm)
}
