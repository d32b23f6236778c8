//! The swarm on a thread of its own, so that busy functions starve no
//! heartbeat, and the way in.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::core::transport::TransportError;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionError, ConnectionId, DialError, FromSwarm, NetworkBehaviour as _,
    NewExternalAddrCandidate, Stream, SwarmEvent,
};
use libp2p::{Multiaddr, PeerId, Swarm, autonat, dcutr, identify, kad, mdns, relay};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use crate::beat::{self, End};
use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::host::{Event, Host, Verdict};
use crate::probe;
use crate::streams::{Opened, Purpose, Reply};
use crate::traffic::Traffic;
use crate::transport;

/// Requests to the swarm that may wait. Publishing beyond it is dropped: the
/// next report says more.
const COMMANDS: usize = 1_024;

/// Streams with calls that may wait for somebody to serve them.
const CALL_STREAMS: usize = 256;

/// Messages that a link may bring in a second; more are not looked at.
const MESSAGES_PER_SECOND: u32 = 2_000;

/// Bytes of messages that a link may bring in a second: those of the last
/// seconds are kept to be passed on.
const BYTES_PER_SECOND: usize = 4 << 20;

/// Messages that no honest member says, after which a link is cut.
const LIES: u32 = 16;

/// Links whose first beat was not noted yet.
const BEATS: usize = 256;

/// Messages that are told to a newly linked peer.
const TOLD: usize = 4_096;

/// Longest time that telling them may take.
const TELLING: Duration = Duration::from_secs(30);

/// Longest topic in bytes.
const TOPIC_BYTES: usize = 256;

/// Streams that wait for a connection to one peer.
const AWAITING: usize = 64;

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
}

/// The way to the swarm. Cheap to clone; the swarm ends with the last one.
#[derive(Clone)]
pub struct Overlay {
    id: PeerId,
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
                let (beats, beating) = mpsc::channel(BEATS);
                let node = Node {
                    swarm,
                    host,
                    calls,
                    counters,
                    topics: config.topics.iter().cloned().collect(),
                    message_bytes: config.message_bytes,
                    links: HashSet::new(),
                    kept: HashSet::new(),
                    wanted: HashSet::new(),
                    awaiting: HashMap::new(),
                    beats,
                    traffic,
                    beating: HashMap::new(),
                    conduct: HashMap::new(),
                    told,
                };
                Box::pin(node.run(receiver, hearing, beating)).await;
            });
        };
        let spawned = std::thread::Builder::new()
            .name("overlay".to_owned())
            .spawn(thread);
        spawned.map_err(StartError::Thread)?;
        match start.recv() {
            Ok(outcome) => outcome.map(|()| (overlay, call_streams)),
            Err(_) => Err(StartError::Thread(io::Error::other("the thread ended"))),
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

/// How a link behaves.
struct Conduct {
    since: Instant,
    messages: u32,
    bytes: usize,
    lies: u32,
}

/// What becomes of heartbeats to a peer.
enum Beat {
    Began(PeerId),
    Ended(PeerId),
}

struct Node {
    swarm: Swarm<Behaviour>,
    host: Arc<dyn Host>,
    calls: mpsc::Sender<(PeerId, Stream)>,
    counters: Arc<Counters>,
    /// What is heard and passed on here, and nothing else.
    topics: HashSet<String>,
    message_bytes: usize,
    links: HashSet<PeerId>,
    /// Those that beat: a side asked for them. The others end when nothing
    /// uses them.
    kept: HashSet<PeerId>,
    /// Connections under way that this node asked for.
    wanted: HashSet<ConnectionId>,
    /// Streams that wait for a connection.
    awaiting: HashMap<PeerId, Vec<(Purpose, Reply)>>,
    beats: mpsc::Sender<Beat>,
    traffic: Arc<Traffic>,
    /// Those to which this node beats.
    beating: HashMap<PeerId, AbortHandle>,
    conduct: HashMap<PeerId, Conduct>,
    /// Where streams of told messages are read to.
    told: mpsc::Sender<(PeerId, String, Bytes)>,
}

impl Node {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut hearing: mpsc::Receiver<(PeerId, String, Bytes)>,
        mut beating: mpsc::Receiver<Beat>,
    ) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some((peer, topic, message)) = hearing.recv() => {
                    self.hear_told(peer, &topic, message);
                }
                Some(beat) = beating.recv() => match beat {
                    Beat::Began(peer) => self.keep(peer),
                    // The connection that carried it is gone, and others stand.
                    Beat::Ended(peer) if self.links.contains(&peer) => self.beat(peer),
                    Beat::Ended(_) => {}
                },
                event = self.swarm.select_next_some() => self.see(event),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Publish { topic, message } => {
                let bytes = message.len() as u64;
                self.counters
                    .published_bytes
                    .fetch_add(bytes, Ordering::Relaxed);
                self.publish(&topic, message);
            }
            Command::Tell { peer, messages } => self.tell(peer, messages),
            Command::Dial { peer, addresses } => self.dial(peer, addresses),
            Command::ListenVia { relay } => {
                let circuit = relay.with(Protocol::P2pCircuit);
                if let Err(error) = self.swarm.listen_on(circuit.clone()) {
                    warn!(%circuit, %error, "cannot be reached over this relay");
                }
            }
            Command::Disconnect { peer } => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Open {
                peer,
                purpose,
                reply,
            } => self.open(peer, purpose, reply),
            Command::Punch { peer, over } => {
                let options = DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(over)
                    .build();
                if let Err(error) = self.swarm.dial(options) {
                    debug!(%peer, %error, "cannot be met over a relay again");
                }
            }
            Command::Topics { topics } => self.listen_to_topics(topics),
            Command::Find { peer } => {
                self.swarm.behaviour_mut().kad.find(peer);
            }
        }
    }

    /// Hears these topics from now on, and no others.
    fn listen_to_topics(&mut self, topics: Vec<String>) {
        let topics: HashSet<String> = topics.into_iter().collect();
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        for topic in self.topics.difference(&topics) {
            gossip.unsubscribe(&IdentTopic::new(topic));
        }
        for topic in topics.difference(&self.topics) {
            if let Err(error) = gossip.subscribe(&IdentTopic::new(topic)) {
                warn!(topic, %error, "cannot hear a topic");
            }
        }
        self.topics = topics;
    }

    fn publish(&mut self, topic: &str, message: Bytes) {
        let topic = IdentTopic::new(topic);
        let published = self.swarm.behaviour_mut().gossip.publish(topic, message);
        match published {
            // That nobody listens yet is no fault: who links is told.
            Ok(_)
            | Err(gossipsub::PublishError::Duplicate)
            | Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => {}
            Err(error) => debug!(%error, "a message was not published"),
        }
    }

    fn dial(&mut self, peer: Option<PeerId>, addresses: Vec<Multiaddr>) {
        let failed = |reason: String| Event::DialFailed {
            peer,
            refused: false,
            reason,
        };
        if let Some(peer) = peer.filter(|peer| self.links.contains(peer)) {
            if !self.kept.contains(&peer) {
                self.beat(peer);
            }
            return;
        }
        let options = match (peer, addresses.is_empty()) {
            (Some(peer), true) => DialOpts::peer_id(peer).build(),
            (Some(peer), false) => DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(addresses)
                .build(),
            (None, false) => {
                for address in addresses {
                    let options = DialOpts::from(address);
                    let connection = options.connection_id();
                    match self.swarm.dial(options) {
                        Ok(()) => {
                            self.wanted.insert(connection);
                        }
                        Err(error) => self.host.happened(failed(error.to_string())),
                    }
                }
                return;
            }
            (None, true) => return,
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.wanted.insert(connection);
            }
            Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.host.happened(failed(error.to_string())),
        }
    }

    /// Opens a stream now, or once there is a connection.
    fn open(&mut self, peer: PeerId, purpose: Purpose, reply: Reply) {
        let streams = &mut self.swarm.behaviour_mut().streams;
        if streams.is_connected(&peer) {
            streams.open(peer, purpose, reply);
            return;
        }
        let awaiting = self.awaiting.entry(peer).or_default();
        if awaiting.len() >= AWAITING {
            let _ = reply.send(Err(Unreachable::Busy));
            return;
        }
        awaiting.push((purpose, reply));
        let addresses = self.host.addresses(peer);
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.give_up(peer, &plainly(&error)),
        }
    }

    /// Tells those who wait for a connection that there is none.
    fn give_up(&mut self, peer: PeerId, reason: &str) {
        for (_, reply) in self.awaiting.remove(&peer).unwrap_or_default() {
            let _ = reply.send(Err(Unreachable::Stream(reason.to_owned())));
        }
    }

    /// Notes that a link is heard.
    fn keep(&mut self, peer: PeerId) {
        if self.links.contains(&peer) && self.kept.insert(peer) {
            self.host.happened(Event::Kept(peer));
        }
    }

    fn tell(&mut self, peer: PeerId, messages: Vec<(String, Bytes)>) {
        let messages = Arc::new(messages);
        let streams = &mut self.swarm.behaviour_mut().streams;
        for opened in streams.open_all(peer, Purpose::Sync) {
            let messages = messages.clone();
            tokio::spawn(tokio::time::timeout(TELLING, async move {
                let mut stream = opened.await.ok()?.ok()?;
                for (topic, message) in &*messages {
                    let head = [topic.len() as u32, message.len() as u32];
                    let head = head.map(u32::to_be_bytes).concat();
                    let framed = [&head, topic.as_bytes(), message].concat();
                    stream.write_all(&framed).await.ok()?;
                }
                stream.close().await.ok()
            }));
        }
    }

    fn listen_to(&mut self, peer: PeerId, mut stream: Stream) {
        let (told, longest) = (self.told.clone(), self.message_bytes);
        tokio::spawn(tokio::time::timeout(TELLING, async move {
            for _ in 0..TOLD {
                let mut head = [0; 8];
                stream.read_exact(&mut head).await.ok()?;
                let length = |at: usize| {
                    let bytes = head[at..at + 4].try_into().expect("4 of 8 bytes");
                    u32::from_be_bytes(bytes) as usize
                };
                let (topic, message) = (length(0), length(4));
                if topic > TOPIC_BYTES || message > longest {
                    return None;
                }
                let mut both = vec![0; topic + message];
                stream.read_exact(&mut both).await.ok()?;
                let message = Bytes::from(both.split_off(topic));
                let topic = String::from_utf8(both).ok()?;
                told.send((peer, topic, message)).await.ok()?;
            }
            Some(())
        }));
    }

    /// A message that a link told us is passed on when it is new: others may
    /// have missed it too.
    fn hear_told(&mut self, peer: PeerId, topic: &str, message: Bytes) {
        // A topic of the teller's choice would be one more for each to keep.
        if self.hear(peer, &message) == Verdict::Accept && self.topics.contains(topic) {
            self.publish(topic, message);
        }
    }

    fn hear(&mut self, link: PeerId, message: &[u8]) -> Verdict {
        let conduct = self.conduct.entry(link).or_insert_with(|| Conduct {
            since: Instant::now(),
            messages: 0,
            bytes: 0,
            lies: 0,
        });
        if conduct.since.elapsed() >= Duration::from_secs(1) {
            (conduct.since, conduct.messages, conduct.bytes) = (Instant::now(), 0, 0);
        }
        conduct.messages += 1;
        conduct.bytes += message.len();
        if conduct.messages > MESSAGES_PER_SECOND || conduct.bytes > BYTES_PER_SECOND {
            self.counters.hurried.fetch_add(1, Ordering::Relaxed);
            return Verdict::Ignore;
        }
        let bytes = message.len() as u64;
        self.counters
            .heard_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        let verdict = self.host.hear(message);
        if verdict == Verdict::Reject {
            conduct.lies += 1;
            if conduct.lies >= LIES {
                warn!(peer = %link, "cut a link that passes on what no honest member says");
                let _ = self.swarm.disconnect_peer_id(link);
                self.host.happened(Event::Lied(link));
            }
        }
        verdict
    }

    fn see(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.behave(event),
            SwarmEvent::NewListenAddr { address, .. } => {
                // Members are told all of them, and a relay that knows none of
                // its own takes no reservations.
                self.swarm.add_external_address(address.clone());
                if is_direct(&address) {
                    self.try_out(&address);
                }
                self.host.happened(Event::Listening(address));
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                endpoint,
                connection_id,
                ..
            } => {
                let wanted = self.wanted.remove(&connection_id);
                for (purpose, reply) in self.awaiting.remove(&peer_id).unwrap_or_default() {
                    self.open(peer_id, purpose, reply);
                }
                let address = endpoint.get_remote_address().clone();
                if !self.links.insert(peer_id) {
                    self.linked_again(peer_id, address, endpoint.is_relayed());
                    return;
                }
                self.counters.links.fetch_add(1, Ordering::Relaxed);
                if wanted {
                    self.beat(peer_id);
                }
                self.host.happened(Event::LinkUp {
                    peer: peer_id,
                    address,
                    dialled: endpoint.is_dialer(),
                    relayed: endpoint.is_relayed(),
                });
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established: 0,
                cause,
                ..
            } => {
                self.links.remove(&peer_id);
                self.conduct.remove(&peer_id);
                if let Some(beat) = self.beating.remove(&peer_id) {
                    beat.abort();
                }
                let kept = self.kept.remove(&peer_id);
                self.counters.links.fetch_sub(1, Ordering::Relaxed);
                let meant = matches!(cause, None | Some(ConnectionError::KeepAliveTimeout));
                let clean = meant || !kept;
                self.host.happened(Event::LinkDown {
                    peer: peer_id,
                    clean,
                });
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id,
                error,
                connection_id,
            } => {
                self.wanted.remove(&connection_id);
                let reason = plainly(&error);
                if let Some(peer) = peer_id {
                    self.give_up(peer, &reason);
                }
                let refused = is_refusal(&error);
                self.host.happened(Event::DialFailed {
                    peer: peer_id,
                    refused,
                    reason,
                });
            }
            SwarmEvent::IncomingConnectionError {
                send_back_addr,
                error,
                ..
            } => {
                // Refusals of proofs were told with more to say.
                debug!(from = %send_back_addr, error = chain(&error), "a connection ended before it began");
            }
            SwarmEvent::ListenerError { error, .. } => warn!(%error, "a listener met an error"),
            SwarmEvent::ListenerClosed {
                addresses,
                reason: Err(error),
                ..
            } => warn!(?addresses, %error, "a listener has ended"),
            // Many kinds, and more in each version.
            _ => {}
        }
    }

    fn linked_again(&mut self, peer: PeerId, address: Multiaddr, relayed: bool) {
        if relayed {
            // To come closer; it ends when nothing uses it.
            return;
        }
        if !self.swarm.behaviour().streams.came_closer(&peer) {
            self.host.happened(Event::LinkedAgain(peer));
            return;
        }
        // Nothing must keep the relay busy, and what nothing uses would end.
        if self.beating.contains_key(&peer) {
            self.beat(peer);
        }
        self.host.happened(Event::Closer { peer, address });
    }

    /// Has others try an address of this node, and those who are met over a
    /// relay dial it at the moment when this node dials them. The swarm itself
    /// does so only with addresses that it does not believe in.
    fn try_out(&mut self, address: &Multiaddr) {
        let candidate =
            || FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr: address });
        let behaviour = self.swarm.behaviour_mut();
        behaviour.reachable.on_swarm_event(candidate());
        behaviour.punch.on_swarm_event(candidate());
    }

    fn beat(&mut self, peer: PeerId) {
        let (reply, opened) = oneshot::channel();
        let streams = &mut self.swarm.behaviour_mut().streams;
        streams.open(peer, Purpose::Beat, reply);
        let (host, beats) = (self.host.clone(), self.beats.clone());
        let sign = self.traffic.of(peer);
        let sending = tokio::spawn(async move {
            if let Ok(Ok(stream)) = opened.await {
                let _ = beats.send(Beat::Began(peer)).await;
                let learned = |took| host.happened(Event::RoundTrip { peer, took });
                match beat::send(stream, sign, learned).await {
                    End::Silent => host.happened(Event::Silent(peer)),
                    End::Closed => {
                        tokio::time::sleep(beat::INTERVAL).await;
                        let _ = beats.send(Beat::Ended(peer)).await;
                    }
                }
            }
        });
        if let Some(before) = self.beating.insert(peer, sending.abort_handle()) {
            before.abort();
        }
    }

    fn behave(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            }) => {
                let acceptance = match self.hear(propagation_source, &message.data) {
                    Verdict::Accept => MessageAcceptance::Accept,
                    Verdict::Ignore => MessageAcceptance::Ignore,
                    Verdict::Reject => MessageAcceptance::Reject,
                };
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(
                    &message_id,
                    &propagation_source,
                    acceptance,
                );
            }
            BehaviourEvent::Streams(Opened {
                peer,
                purpose,
                stream,
            }) => match purpose {
                Purpose::Beat => {
                    self.keep(peer);
                    let (host, sign) = (self.host.clone(), self.traffic.of(peer));
                    tokio::spawn(async move {
                        let learned = |took| host.happened(Event::RoundTrip { peer, took });
                        if let End::Silent = beat::echo(stream, sign, learned).await {
                            host.happened(Event::Silent(peer));
                        }
                    });
                }
                Purpose::Probe => {
                    let host = self.host.clone();
                    tokio::spawn(async move {
                        // Whoever gets no answer asks elsewhere.
                        let _ = probe::answer(stream, || host.probed(peer)).await;
                    });
                }
                Purpose::Sync => self.listen_to(peer, stream),
                Purpose::Calls => {
                    if self.calls.try_send((peer, stream)).is_err() {
                        debug!(%peer, "too many streams with calls wait; dropped one");
                    }
                }
            },
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                let kad = &mut self.swarm.behaviour_mut().kad;
                for address in info.listen_addrs {
                    kad.note(&peer_id, address);
                }
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            }) => {
                for info in found.peers {
                    for address in info.addrs {
                        let peer = info.peer_id;
                        self.host.happened(Event::Found { peer, address });
                    }
                }
            }
            BehaviourEvent::Reachable(autonat::v2::client::Event {
                tested_addr,
                result,
                ..
            // What comes over a relay says nothing of this node's own.
            }) if is_direct(&tested_addr) => self.host.happened(Event::Tested {
                address: tested_addr,
                reachable: result.is_ok(),
            }),
            BehaviourEvent::Punch(dcutr::Event {
                remote_peer_id,
                result: Err(error),
            }) => debug!(peer = %remote_peer_id, %error, "stays behind a relay"),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.host.happened(Event::Found { peer, address });
                }
            }
            // Many kinds, and more in each version.
            _ => {}
        }
    }
}

/// Whether an address is of a machine, and not of a relay's.
fn is_direct(address: &Multiaddr) -> bool {
    let relayed = |part| matches!(part, Protocol::P2pCircuit | Protocol::P2p(_));
    !address.is_empty() && !address.iter().any(relayed)
}

/// Whether something at the other end refused, which a machine does whose node
/// has died; not one that is out of reach.
fn is_refusal(error: &DialError) -> bool {
    let DialError::Transport(tried) = error else {
        return false;
    };
    let refused = |(_, error): &(Multiaddr, TransportError<io::Error>)| {
        chain(error).contains("onnection refused")
    };
    !tried.is_empty() && tried.iter().any(refused)
}

/// Why somebody was not reached, in words for people: libp2p's own are
/// structures with all that was tried.
fn plainly(error: &DialError) -> String {
    match error {
        DialError::Transport(tried) => {
            let mut reasons: Vec<String> = tried
                .iter()
                .map(|(address, error)| {
                    let address = address.to_string();
                    let address = address.split("/p2p/").next().unwrap_or_default();
                    let reason = match error {
                        TransportError::MultiaddrNotSupported(_) => {
                            "addresses of this kind are not dialled".to_owned()
                        }
                        TransportError::Other(error) => innermost(error),
                    };
                    format!("{address}: {reason}")
                })
                .collect();
            reasons.dedup();
            reasons.join("; ")
        }
        DialError::WrongPeerId { obtained, .. } => {
            format!("another node answers there: {obtained}")
        }
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::LocalPeerId { .. } => "that is this node itself".to_owned(),
        DialError::Denied { .. } => "too many connections are being set up at once".to_owned(),
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => {
            "the attempt was given up".to_owned()
        }
    }
}

/// The reason at the bottom of an error's chain; of the system's errors their
/// kind, without the number.
pub(crate) fn innermost(error: &io::Error) -> String {
    let mut reason = String::new();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        next = match error.downcast_ref::<io::Error>() {
            Some(system) if system.raw_os_error().is_some() => {
                return system.kind().to_string();
            }
            // What it wraps is not its source, but itself.
            Some(wrapping) => wrapping
                .get_ref()
                .map(|inner| inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
        reason = error.to_string();
    }
    // Some were made texts before they came here.
    if let Some(at) = reason.find(" (os error") {
        reason.truncate(at);
    }
    reason.truncate(reason.floor_char_boundary(300));
    reason
}

/// An error with its causes: libp2p's own say little.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.truncate(text.floor_char_boundary(600));
    text
}
