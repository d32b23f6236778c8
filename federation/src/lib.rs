//! The peers of a node: who is there, what they offer, where an invocation
//! should go, and how it gets there.
//!
//! What is known and what is decided from it is a package of its own,
//! `weir-federation-core`. This is the shell around it: it hears and speaks over
//! the overlay (another package), and carries calls.
//!
//! | file | what it is |
//! |---|---|
//! | `membership` | who belongs: invites, certificates, denials |
//! | `message` | what is gossiped, signed |
//! | `wire` | what two nodes say to each other about a call |
//! | `member` | this node's own membership, on disk and towards others |
//! | `files` | files that a member keeps, written where nobody waits for the disk |
//! | `address_book` | where members were, on disk |
//! | `federated` | a node's place in its federation, and what looks after it |
//! | `registry` | etcd, where that is wanted (feature `etcd`) |
//! | `replication` | functions of the federation, and their code |
//! | `copies` | asynchronous calls that peers keep copies of |
//! | `dispatch` | from a call to its answer, wherever that is found |

// Any duration may come from outside: see .clippy.toml.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod address_book;
pub mod copies;
pub mod dispatch;
pub mod federated;
mod files;
mod forgotten;
#[cfg(test)]
mod life;
pub mod member;
pub mod membership;
pub mod message;
pub mod protocol;
#[cfg(feature = "etcd")]
mod registry;
pub mod replication;
pub mod tally;
pub mod wire;

pub use weir_federation_core::{
    abilities, answers, beside, blame, catalogue, congestion, coordinates, explain, facts, guests,
    peers, policy, regions, report, roster, snapshot, turns,
};
pub use weir_overlay::{CallStreams, Endpoint, Multiaddr, PeerId, Stream, carriage, tls};
