//! The protocols of a node, and how each is set up.

use std::time::Duration;

use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    PeerId, StreamProtocol, autonat, connection_limits, dcutr, gossipsub, identify, kad, mdns,
    relay,
};

use crate::finder::Finder;
use crate::handshakes::Handshakes;
use crate::streams::Streams;
use crate::swarm::{Config, StartError};

/// What every node says it speaks.
const NAME: &str = "/weir/1";

/// Connections to members, over all, and to each.
const CONNECTIONS: u32 = 4_096;
const CONNECTIONS_PER_PEER: u32 = 8;

/// Messages that may wait for one peer; a peer that is slower misses some, and
/// the next report makes up for them.
const WAITING_MESSAGES: usize = 128;

/// Links that carry a topic's messages, at the least and at the most.
const MESH: (usize, usize, usize) = (3, 4, 8);

/// Most bytes of gossip's own bookkeeping in one packet.
const CONTROL_BYTES: usize = 64 << 10;

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) handshakes: Handshakes,
    limits: connection_limits::Behaviour,
    pub(crate) gossip: gossipsub::Behaviour,
    pub(crate) streams: Streams,
    pub(crate) identify: identify::Behaviour,
    pub(crate) kad: Finder,
    mdns: Toggle<mdns::tokio::Behaviour>,
    relay: relay::Behaviour,
    relayed: relay::client::Behaviour,
    pub(crate) punch: dcutr::Behaviour,
    pub(crate) reachable: autonat::v2::client::Behaviour,
    dial_back: autonat::v2::server::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(
        config: &Config,
        relayed: relay::client::Behaviour,
    ) -> Result<Behaviour, StartError> {
        let id = config.key.public().to_peer_id();
        let mdns = match config.mdns {
            true => Some(
                mdns::tokio::Behaviour::new(mdns::Config::default(), id)
                    .map_err(StartError::Mdns)?,
            ),
            false => None,
        };
        let identify = identify::Config::new(NAME.to_owned(), config.key.public())
            .with_agent_version(format!("weir/{}", env!("CARGO_PKG_VERSION")))
            .with_interval(Duration::from_secs(300));
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_established(Some(CONNECTIONS))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER));
        Ok(Behaviour {
            handshakes: Handshakes::default(),
            limits: connection_limits::Behaviour::new(limits),
            gossip: gossip(config)?,
            streams: Streams::default(),
            identify: identify::Behaviour::new(identify),
            kad: Finder::new(kad(id)),
            mdns: mdns.into(),
            relay: relay::Behaviour::new(id, circuits()),
            relayed,
            punch: dcutr::Behaviour::new(id),
            reachable: autonat::v2::client::Behaviour::default(),
            dial_back: autonat::v2::server::Behaviour::default(),
        })
    }
}

fn gossip(config: &Config) -> Result<gossipsub::Behaviour, StartError> {
    let (least, wanted, most) = MESH;
    let identity = config.message_identity;
    let built = gossipsub::ConfigBuilder::default()
        .protocol_id("/weir/gossip/1", gossipsub::Version::V1_1)
        // What travels is signed inside: gossipsub would check each copy before
        // it drops those that it has.
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(move |message| gossipsub::MessageId::new(&identity(&message.data)))
        .max_transmit_size(config.message_bytes + 1_024)
        .max_control_message_size(CONTROL_BYTES)
        .mesh_n_low(least)
        .mesh_n(wanted)
        .mesh_n_high(most)
        .mesh_outbound_min(1)
        .flood_publish(false)
        .connection_handler_queue_len(WAITING_MESSAGES)
        .build();
    let built = built.map_err(|error| StartError::Gossip(error.to_string()))?;
    gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, built)
        .map_err(|error| StartError::Gossip(error.to_owned()))
}

/// Finds members by their ids. Nobody may store anything.
fn kad(id: PeerId) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(StreamProtocol::new("/weir/kad/1"));
    config.set_record_filtering(kad::StoreInserts::FilterBoth);
    config.set_periodic_bootstrap_interval(None);
    let nothing = MemoryStoreConfig {
        max_records: 0,
        max_provided_keys: 0,
        ..MemoryStoreConfig::default()
    };
    let store = MemoryStore::with_config(id, nothing);
    let mut kad = kad::Behaviour::with_config(id, store, config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

/// What a node carries for members that cannot reach each other: calls with
/// bodies, so more than the two minutes and 128 KiB that are usual.
fn circuits() -> relay::Config {
    relay::Config {
        max_reservations: 128,
        max_reservations_per_peer: 4,
        reservation_duration: Duration::from_secs(3_600),
        max_circuits: 256,
        max_circuits_per_peer: 32,
        max_circuit_duration: Duration::from_secs(24 * 3_600),
        max_circuit_bytes: 1 << 40,
        ..relay::Config::default()
    }
}
