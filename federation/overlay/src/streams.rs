//! Streams of our own on the connections of the swarm: opened when asked for,
//! handed over when a peer opens one.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, StreamUpgradeError, SubstreamProtocol, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use crate::swarm::Unreachable;

/// Streams that may be in the making on one connection.
const WAITING: usize = 256;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Heartbeats.
    Heartbeat,
    /// A question how loaded a peer is.
    Probe,
    /// Messages that a newly linked peer may have missed.
    Sync,
    /// HTTP/2 with calls.
    Calls,
}

const PURPOSES: [Purpose; 4] = [
    Purpose::Heartbeat,
    Purpose::Sync,
    Purpose::Calls,
    Purpose::Probe,
];

impl AsRef<str> for Purpose {
    fn as_ref(&self) -> &str {
        match self {
            Purpose::Heartbeat => "/weir/beat/1",
            Purpose::Probe => "/weir/probe/1",
            Purpose::Sync => "/weir/sync/1",
            Purpose::Calls => "/weir/calls/1",
        }
    }
}

/// Where an opened stream goes.
pub(crate) type Reply = oneshot::Sender<Result<Stream, Unreachable>>;

/// A stream to open.
pub(crate) struct Open {
    purpose: Purpose,
    reply: Reply,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.purpose.fmt(f)
    }
}

/// A stream that a peer opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) peer: PeerId,
    pub(crate) purpose: Purpose,
    pub(crate) stream: Stream,
}

/// All connections, and which are relayed.
#[derive(Default)]
pub(crate) struct Streams {
    connections: HashMap<PeerId, Vec<(ConnectionId, bool)>>,
    queue: VecDeque<ToSwarm<Opened, Open>>,
}

impl Streams {
    /// Whether there is a connection to a peer.
    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.connections.contains_key(peer)
    }

    /// Whether a peer that was reached over a relay has its first direct
    /// connection.
    pub(crate) fn came_closer(&self, peer: &PeerId) -> bool {
        let connections = self.connections.get(peer).map(Vec::as_slice);
        let connections = connections.unwrap_or_default();
        let direct = connections.iter().filter(|(_, relayed)| !relayed).count();
        direct == 1 && connections.len() > 1
    }

    /// Opens a stream to a connected peer, directly where that can be.
    pub(crate) fn open(&mut self, peer_id: PeerId, purpose: Purpose, reply: Reply) {
        let connections = self.connections.get(&peer_id).map(Vec::as_slice);
        let connections = connections.unwrap_or_default();
        let direct = connections.iter().find(|(_, relayed)| !relayed);
        let Some(&(connection, _)) = direct.or(connections.first()) else {
            let _ = reply.send(Err(Unreachable::NotConnected));
            return;
        };
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event: Open { purpose, reply },
        });
    }
}

impl Streams {
    /// Opens a stream on each connection to a peer: where two run with one
    /// identity, each has its own.
    pub(crate) fn open_all(
        &mut self,
        peer_id: PeerId,
        purpose: Purpose,
    ) -> Vec<oneshot::Receiver<Result<Stream, Unreachable>>> {
        let connections = self.connections.get(&peer_id).into_iter().flatten();
        let opened = connections.map(|&(connection, _)| {
            let (reply, opened) = oneshot::channel();
            self.queue.push_back(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event: Open { purpose, reply },
            });
            opened
        });
        opened.collect()
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Opened;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(up) => {
                let connections = self.connections.entry(up.peer_id).or_default();
                connections.push((up.connection_id, up.endpoint.is_relayed()));
            }
            FromSwarm::ConnectionClosed(down) => {
                if let Some(connections) = self.connections.get_mut(&down.peer_id) {
                    connections.retain(|(id, _)| *id != down.connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&down.peer_id);
                    }
                }
            }
            // Many kinds that are nothing to streams, and more in each version.
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        _: ConnectionId,
        (purpose, stream): THandlerOutEvent<Self>,
    ) {
        self.queue.push_back(ToSwarm::GenerateEvent(Opened {
            peer,
            purpose,
            stream,
        }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The streams of one connection.
#[derive(Default)]
pub(crate) struct Handler {
    /// Asked for, not yet begun.
    asked: VecDeque<Open>,
    /// Begun; the swarm ends them in any order.
    begun: HashMap<u64, Reply>,
    next: u64,
    came: VecDeque<(Purpose, Stream)>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = (Purpose, Stream);
    type InboundProtocol = Any;
    type OutboundProtocol = One;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = u64;

    fn listen_protocol(&self) -> SubstreamProtocol<Any> {
        SubstreamProtocol::new(Any, ())
    }

    fn on_behaviour_event(&mut self, open: Open) {
        match self.asked.len() + self.begun.len() < WAITING {
            true => self.asked.push_back(open),
            false => {
                let _ = open.reply.send(Err(Unreachable::Busy));
            }
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Any, One, (), u64>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (purpose, stream),
                ..
            }) => {
                self.came.push_back((purpose, stream));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info,
            }) => {
                if let Some(reply) = self.begun.remove(&info) {
                    let _ = reply.send(Ok(stream));
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                if let Some(reply) = self.begun.remove(&info) {
                    let reason = match error {
                        StreamUpgradeError::Timeout => "the peer did not answer".to_owned(),
                        StreamUpgradeError::NegotiationFailed => {
                            "the peer's version of Weir does not know it".to_owned()
                        }
                        StreamUpgradeError::Io(error) => error.to_string(),
                        StreamUpgradeError::Apply(never) => match never {},
                    };
                    let _ = reply.send(Err(Unreachable::Stream(reason)));
                }
            }
            // Many kinds that are nothing to streams, and more in each version.
            _ => {}
        }
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<One, u64, Self::ToBehaviour>> {
        if let Some(came) = self.came.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(came));
        }
        let Some(open) = self.asked.pop_front() else {
            return Poll::Pending;
        };
        self.next += 1;
        self.begun.insert(self.next, open.reply);
        let protocol = SubstreamProtocol::new(One(open.purpose), self.next);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }
}

/// Takes streams for any purpose.
pub(crate) struct Any;

impl UpgradeInfo for Any {
    type Info = Purpose;
    type InfoIter = [Purpose; PURPOSES.len()];

    fn protocol_info(&self) -> Self::InfoIter {
        PURPOSES
    }
}

impl InboundUpgrade<Stream> for Any {
    type Output = (Purpose, Stream);
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, purpose: Purpose) -> Self::Future {
        std::future::ready(Ok((purpose, stream)))
    }
}

/// Opens a stream for one purpose.
pub(crate) struct One(Purpose);

impl UpgradeInfo for One {
    type Info = Purpose;
    type InfoIter = [Purpose; 1];

    fn protocol_info(&self) -> Self::InfoIter {
        [self.0]
    }
}

impl OutboundUpgrade<Stream> for One {
    type Output = Stream;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: Purpose) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}
