//! Worlds to try a federation in: topologies, links, workloads, traces and
//! faults, played by real nodes over shaped links or by virtual nodes in
//! virtual time.
//!
//! Nothing lives here yet. It will drive the same decision code that runs in
//! production, and knows `weir-federation-core` and `weir-node-core`.
