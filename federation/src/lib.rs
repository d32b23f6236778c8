//! The peers of a node: who is there, what they offer, where an invocation
//! should go, and how it gets there.
//!
//! Nothing lives here yet. This crate will hold the peer table, the snapshot
//! that a policy decides from, the policies themselves, and the libp2p overlay
//! that carries reports and forwarded invocations. It knows `weir-node` and
//! nothing above it.
