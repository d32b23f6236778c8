//! A bound on connections that have not proved anything yet, with a share of
//! it for addresses from which members came before: a flood of strangers finds
//! a bounded number of handshakes, and members still get in.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::multiaddr::Protocol;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

/// Handshakes under way at once.
const HANDSHAKES: usize = 64;

/// Those of them that strangers may have.
const STRANGERS: usize = 32;

/// Addresses of members that are remembered; the oldest is forgotten first.
const KNOWN: usize = 4_096;

/// Keeps count.
#[derive(Default)]
pub(crate) struct Doorkeeper {
    /// Handshakes under way, and whether each is a stranger's.
    pending: HashMap<ConnectionId, bool>,
    known: VecDeque<IpAddr>,
}

/// There are too many handshakes at once.
#[derive(Debug, thiserror::Error)]
#[error("too many connections are being set up at once")]
struct Crowded;

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

impl Doorkeeper {
    fn know(&mut self, address: &Multiaddr) {
        let Some(ip) = ip(address) else {
            return;
        };
        if !self.known.contains(&ip) {
            self.known.push_back(ip);
            if self.known.len() > KNOWN {
                self.known.pop_front();
            }
        }
    }
}

impl NetworkBehaviour for Doorkeeper {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let stranger = ip(remote).is_none_or(|ip| !self.known.contains(&ip));
        let strangers = self.pending.values().filter(|stranger| **stranger).count();
        if self.pending.len() >= HANDSHAKES || (stranger && strangers >= STRANGERS) {
            return Err(ConnectionDenied::new(Crowded));
        }
        self.pending.insert(id, stranger);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&id);
        self.know(remote);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.know(remote);
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        if let FromSwarm::ListenFailure(failure) = event {
            self.pending.remove(&failure.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
