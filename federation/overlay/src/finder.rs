//! Kademlia that answers always, and looks around only when it is asked to.
//!
//! The behaviour as it comes refreshes its table with every new entry, and dials
//! whomever that brings up: in a zone of some dozen nodes, everybody. Gossip
//! tells who is there; Kademlia is for those who lost it.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::kad::store::MemoryStore;
use libp2p::kad::{self, Event};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

type Kademlia = kad::Behaviour<MemoryStore>;

/// How long a search may dial.
const SEARCH: Duration = Duration::from_secs(30);

/// The behaviour, and until when it may dial.
pub(crate) struct Finder {
    inner: Kademlia,
    until: Option<Instant>,
}

impl Finder {
    pub(crate) fn new(inner: Kademlia) -> Finder {
        Finder { inner, until: None }
    }

    /// Notes where a member is, for those who ask.
    pub(crate) fn note(&mut self, peer: &PeerId, address: Multiaddr) {
        self.inner.add_address(peer, address);
    }

    /// Looks for the members whose ids are nearest to `target`.
    pub(crate) fn find(&mut self, target: PeerId) {
        self.until = Some(Instant::now() + SEARCH);
        self.inner.get_closest_peers(target);
    }

    fn may_dial(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

impl NetworkBehaviour for Finder {
    type ConnectionHandler = <Kademlia as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        loop {
            match self.inner.poll(cx) {
                // Whoever asked for nothing waits for nothing.
                Poll::Ready(ToSwarm::Dial { .. }) if !self.may_dial() => {}
                other => return other,
            }
        }
    }
}
