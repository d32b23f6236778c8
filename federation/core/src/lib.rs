//! Every rule by which a member of a federation decides: what is known of its
//! peers, where a call goes, and who is taken not to answer.
//!
//! Nothing here reads a clock, draws chance, opens anything or waits: time and
//! chance are arguments. Production and simulation stand on the same state.
//!
//! | file | what it is |
//! |---|---|
//! | `endpoint` | where a peer takes calls |
//! | `coordinates` | nearness without asking everybody |
//! | `facts` | what a peer said of itself, read once and shared |
//! | `slots` | peers by their places, shared by a table and its views |
//! | `report` | what a node tells of itself, and what may be believed of it |
//! | `reporting` | when a node says how it is, and how much of it |
//! | `abilities` | what is known of single functions at single peers |
//! | `answers` | what a node says of itself with an answer, and what follows from it |
//! | `beside` | what holds beside every policy: retry budget, throttle, admission levels |
//! | `blame` | where a function fails and does so nowhere else |
//! | `guests` | what a node gives to calls of other nodes' users |
//! | `pace` | how often something is asked of a peer, or heard of it |
//! | `turns` | whose turn it is at this node's free places |
//! | `regions` | which regions are followed that nobody named |
//! | `waiting` | calls that wait and may leave: who, whereto, and who goes first |
//! | `questions` | which peers are asked for free places, and how often |
//! | `patience` | how long an answer of a peer is waited for |
//! | `endings` | how a call ended, and what that says of where it was |
//! | `peers` | what is known of others, how old it is, and what calls made of it |
//! | `roster` | who the peers are, in short |
//! | `window` | our calls at a peer, and what more may go there |
//! | `pool` | peers that are drawn in proportion to what they have |
//! | `snapshot` | what one decision sees |
//! | `policy` | the ways to decide, one file each |
//! | `placement` | one call from its arrival to its end: what to do next |
//! | `congestion` | which peers somebody says to be congested |
//! | `explain` | why a decision fell as it did |
//! | `wanted` | what a function wants of the node that runs it |
//! | `catalogue` | functions of the federation |
//! | `rendezvous` | who keeps something for the federation |
//! | `replication` | which code is fetched, kept and let go of, and when |
//! | `copies` | who keeps durable calls, and takes them over |
//! | `detector` | when a peer with calls is taken not to answer |
//! | `failure` | which links are kept and dialled, who is suspected, whose word counts |
//! | `refusals` | which refused connections are worth a line in the log |
//! | `samples` | nodes and reports to try things with |
//!
//! Invariants:
//! * A call never goes to a node that it visited, and never beyond its hops.
//! * What calls met overrides what a peer claims, until the peer says more.
//! * A decision costs the same in a federation of any size.
//!
//! ```
//! use weir_federation_core::abilities::AtPeers;
//! use weir_federation_core::policy::{self, Bounds, Decision, More, Needs, Origin, Request};
//! use weir_federation_core::report::Role;
//! use weir_federation_core::snapshot::{Cost, Here, Local, Snapshot, View};
//! use weir_node_core::time::Time;
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
//!     more: More::default(),
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
//!     abilities: &AtPeers::default(),
//!     remembered: None,
//!     congestion: None,
//!     now: Time::ZERO,
//!     chance: 4,
//! };
//! let spill = policy::named("spill").unwrap();
//! assert_eq!(policy::decide(&*spill, &request, &snapshot, &mut ()), Decision::Run);
//! ```

// Any duration may come from outside: see .clippy.toml.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod abilities;
pub mod answers;
pub mod beside;
pub mod blame;
pub mod catalogue;
pub mod congestion;
pub mod coordinates;
pub mod copies;
pub mod detector;
pub mod endings;
pub mod endpoint;
pub mod explain;
pub mod facts;
pub mod failure;
pub mod guests;
pub mod pace;
pub mod patience;
pub mod peers;
pub mod placement;
pub mod policy;
mod pool;
pub mod questions;
pub mod refusals;
pub mod regions;
pub mod rendezvous;
pub mod replication;
pub mod report;
pub mod reporting;
pub mod roster;
pub mod samples;
mod slots;
pub mod snapshot;
pub mod turns;
pub mod waiting;
pub mod wanted;
mod window;
