//! The peers of a node: who is there, what they offer, where an invocation
//! should go, and how it gets there.
//!
//! The core is what is known and what is decided from it: it reads no clock,
//! draws no chance, opens nothing and waits for nothing. The shell around it
//! hears and speaks over the overlay (a package of its own), and carries calls.
//!
//! | core | what it is |
//! |---|---|
//! | `membership` | who belongs: invites, certificates, denials |
//! | `message` | what is gossiped, signed |
//! | `report` | what a node tells of itself, and what may be believed of it |
//! | `abilities` | what is known of single functions at single peers |
//! | `blame` | where a function fails and does so nowhere else |
//! | `guests` | what a node gives to calls of other nodes' users |
//! | `regions` | which regions are followed that nobody named |
//! | `turns` | whose turn it is at this node's free places |
//! | `peers` | what is known of others, how old it is, and what calls made of it |
//! | `coordinates` | nearness without asking everybody |
//! | `snapshot` | what one decision sees |
//! | `policy` | the ways to decide, one file each |
//! | `explain` | why a decision fell as it did |
//! | `wire` | what two nodes say to each other about a call |
//!
//! | shell | what it is |
//! |---|---|
//! | `member` | this node's own membership, on disk and towards others |
//! | `book` | where members were, on disk |
//! | `federated` | a node's place in its federation; the loop that keeps it |
//! | `registry` | etcd, where that is wanted (feature `etcd`) |
//! | `steward` | functions of the federation, and their code |
//! | `copies` | asynchronous calls that peers keep copies of |
//! | `dispatch` | from a call to its answer, wherever that is found |
//!
//! Invariants:
//! * A call never goes to a node that it visited, and never beyond its hops.
//! * What calls met overrides what a peer claims, until the peer says more.
//! * A decision costs the same in a federation of any size.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use weir_federation::policy::{self, Bounds, Decision, Needs, Origin, Request};
//! use weir_federation::report::Role;
//! use weir_federation::snapshot::{Cost, Here, Local, Snapshot, View};
//! use weir_node::time::Time;
//!
//! let function = "shout".parse().unwrap();
//! let request = Request {
//!     function: &function,
//!     version: 1,
//!     writer: None,
//!     needs: Needs::default(),
//!     bounds: Bounds::Federation,
//!     cost: Cost { cpu: 100, long: false },
//!     origin: Origin::Here,
//!     avoid: &[],
//!     failing: &[],
//!     anywhere: false,
//!     hops: 3,
//!     deadline: Time::NEVER,
//! };
//! let snapshot = Snapshot {
//!     local: Local {
//!         here: Here::Warm,
//!         queue: None,
//!         service: None,
//!         start: None,
//!         blamed: false,
//!         role: Role::Edge,
//!         regions: &[],
//!     },
//!     view: &View::default(),
//!     abilities: &BTreeMap::new(),
//!     remembered: None,
//!     now: Time::ZERO,
//!     chance: 4,
//! };
//! let spill = policy::named("spill").unwrap();
//! assert_eq!(policy::decide(spill, &request, &snapshot, &mut ()), Decision::Run);
//! ```

// Any duration may come from outside: see .clippy.toml.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod abilities;
pub mod blame;
mod book;
pub mod catalogue;
pub mod coordinates;
pub mod copies;
pub mod dispatch;
pub mod explain;
pub mod federated;
mod forgotten;
pub mod guests;
#[cfg(test)]
mod life;
pub mod member;
pub mod membership;
pub mod message;
pub mod peers;
pub mod policy;
pub mod protocol;
pub mod regions;
#[cfg(feature = "etcd")]
mod registry;
pub mod report;
pub mod roster;
pub mod snapshot;
pub mod steward;
pub mod turns;
pub mod wire;

pub use weir_overlay::{CallStreams, Endpoint, Multiaddr, PeerId, Stream, carriage, tls};
