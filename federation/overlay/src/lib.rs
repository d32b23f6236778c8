//! The network between the members of a federation, through libp2p.
//!
//! This crate moves bytes between members and knows nothing of what they say:
//! whoever uses it is its [`Host`], which proves membership, judges others'
//! proofs and hears what is gossiped.
//!
//! | file | what it is |
//! |---|---|
//! | `host` | what this crate asks of its user |
//! | `proof` | the exchange that makes a connection a member's |
//! | `transport` | TCP, QUIC and relayed connections, each with that exchange |
//! | `handshakes` | a bound on connections that have not proved anything yet |
//! | `streams` | streams of our own on the connections of the swarm |
//! | `heartbeat` | heartbeats: round trips, and who has fallen silent |
//! | `probe` | how loaded a peer is, when asked for that alone |
//! | `swarm` | all of it on a thread of its own; the way in: [`Overlay`] |
//! | `tls` | mutual TLS 1.3 with the same identities |
//! | `carriage` | HTTP/2 to a peer, over TLS or over a stream of the swarm |
//! | `line` | what `detector` is told of a connection |
//! | `traffic` | signs of life from connections with calls, which heartbeats ask |
//!
//! Invariants:
//! * Nobody gets a connection, not even to be told who is here, before having
//!   proved to be a member.
//! * What is waited for has a time limit, what is queued a bound.

mod behaviour;
pub mod carriage;
mod endpoint;
mod finder;
mod handshakes;
mod heartbeat;
pub mod host;
mod line;
mod probe;
pub mod proof;
mod streams;
mod swarm;
pub mod tls;
mod traffic;
mod transport;

pub use endpoint::{Endpoint, EndpointError, Resolve};
pub use host::{Answer, Event, Host, Refusal, Verdict};
pub use libp2p::identity::Keypair;
pub use libp2p::swarm::Stream;
pub use libp2p::{Multiaddr, PeerId};
pub use line::Line;
pub use probe::PROBE_BYTES_MAX;
pub use swarm::{CallStreams, Config, Counters, Overlay, StartError, Unreachable, chain};
pub use traffic::Traffic;
