//! What runs on the overlay's thread: it drives the swarm, does what it is told,
//! and tells the host what happened.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionError, ConnectionId, DialError, FromSwarm, NetworkBehaviour as _,
    NewExternalAddrCandidate, Stream, SwarmEvent,
};
use libp2p::{Multiaddr, PeerId, Swarm, autonat, dcutr, identify, kad, mdns};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::{debug, warn};
use weir_federation_core::failure::DialEnd;
use weir_federation_core::failure::conduct::Conduct;
use weir_federation_core::failure::heartbeat::HEARTBEAT_INTERVAL;
use weir_node_core::time::Time;

use super::failures::{chain, dial_end, plainly};
use super::{Command, Config, Counters, Unreachable};
use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::heartbeat::{self, End};
use crate::host::{Event, Host, Verdict};
use crate::probe;
use crate::streams::{Opened, Purpose, Reply};
use crate::traffic::Traffic;

/// Streams that wait for a connection to one peer.
const AWAITING: usize = 64;

/// What becomes of heartbeats to a peer.
pub(super) enum Heartbeats {
    Began(PeerId),
    Ended(PeerId),
}

/// The swarm, and what is remembered beside it.
pub(super) struct Driver {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) host: Arc<dyn Host>,
    calls: mpsc::Sender<(PeerId, Stream)>,
    pub(super) counters: Arc<Counters>,
    /// What is heard and passed on here, and nothing else.
    pub(super) topics: HashSet<String>,
    pub(super) message_bytes: usize,
    links: HashSet<PeerId>,
    /// Those on which heartbeats are heard: a side asked for them. The others end when nothing
    /// uses them.
    kept: HashSet<PeerId>,
    /// Connections under way that this node asked for.
    wanted: HashSet<ConnectionId>,
    /// Streams that wait for a connection.
    awaiting: HashMap<PeerId, Vec<(Purpose, Reply)>>,
    heartbeats: mpsc::Sender<Heartbeats>,
    traffic: Arc<Traffic>,
    /// Those to which this node sends heartbeats.
    beating: HashMap<PeerId, AbortHandle>,
    pub(super) conduct: HashMap<PeerId, Conduct>,
    /// When it began: what the time of its core counts from.
    began: Instant,
    /// Where streams of told messages are read to.
    pub(super) told: mpsc::Sender<(PeerId, String, Bytes)>,
}

impl Driver {
    /// Of a node that is told `config`, and whose swarm this is. What it is sent
    /// goes where the receivers are: streams with calls, heartbeats, what is told.
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        host: Arc<dyn Host>,
        config: &Config,
        (counters, traffic): (Arc<Counters>, Arc<Traffic>),
        calls: mpsc::Sender<(PeerId, Stream)>,
        heartbeats: mpsc::Sender<Heartbeats>,
        told: mpsc::Sender<(PeerId, String, Bytes)>,
    ) -> Driver {
        Driver {
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
            heartbeats,
            traffic,
            beating: HashMap::new(),
            conduct: HashMap::new(),
            began: Instant::now(),
            told,
        }
    }

    /// The time of its core.
    pub(super) fn now(&self) -> Time {
        Time::ZERO + self.began.elapsed()
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut hearing: mpsc::Receiver<(PeerId, String, Bytes)>,
        mut beating: mpsc::Receiver<Heartbeats>,
    ) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop) | None => return,
                    Some(command) => self.obey(command),
                },
                Some((peer, topic, message)) = hearing.recv() => {
                    self.hear_told(peer, &topic, message);
                }
                Some(heartbeats) = beating.recv() => match heartbeats {
                    Heartbeats::Began(peer) => self.keep(peer),
                    // The connection that carried it is gone, and others stand.
                    Heartbeats::Ended(peer) if self.links.contains(&peer) => self.send_heartbeats(peer),
                    Heartbeats::Ended(_) => {}
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
            Command::Stop => {}
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

    pub(super) fn publish(&mut self, topic: &str, message: Bytes) {
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
            end: DialEnd::NotTried,
            reason,
        };
        if let Some(peer) = peer.filter(|peer| self.links.contains(peer)) {
            if !self.kept.contains(&peer) {
                self.send_heartbeats(peer);
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
                    self.send_heartbeats(peer_id);
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
                if let Some(sending) = self.beating.remove(&peer_id) {
                    sending.abort();
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
                self.host.happened(Event::DialFailed {
                    peer: peer_id,
                    end: dial_end(&error),
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
            self.send_heartbeats(peer);
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

    fn send_heartbeats(&mut self, peer: PeerId) {
        let (reply, opened) = oneshot::channel();
        let streams = &mut self.swarm.behaviour_mut().streams;
        streams.open(peer, Purpose::Heartbeat, reply);
        let (host, heartbeats) = (self.host.clone(), self.heartbeats.clone());
        let sign = self.traffic.of(peer);
        let sending = tokio::spawn(async move {
            if let Ok(Ok(stream)) = opened.await {
                let _ = heartbeats.send(Heartbeats::Began(peer)).await;
                let learned = |took| host.happened(Event::RoundTrip { peer, took });
                match heartbeat::send(stream, sign, learned).await {
                    End::Silent => host.happened(Event::Silent(peer)),
                    End::Closed => {
                        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
                        let _ = heartbeats.send(Heartbeats::Ended(peer)).await;
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
                Purpose::Heartbeat => {
                    self.keep(peer);
                    let (host, sign) = (self.host.clone(), self.traffic.of(peer));
                    tokio::spawn(async move {
                        let learned = |took| host.happened(Event::RoundTrip { peer, took });
                        if let End::Silent = heartbeat::echo(stream, sign, learned).await {
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
