//! Worlds to try a federation in: topologies, links, workloads, traces and
//! faults, played by virtual nodes in virtual time.
//!
//! It drives the same decision code that runs in production, and knows
//! `weir-federation-core` and `weir-node-core` alone.
//!
//! | file | what it is |
//! |---|---|
//! | `scenario` | the file that says what is tried: read, checked, explained |
//! | `workload` | calls as it describes them, drawn from streams of chance |
//! | `simulate` | it played in virtual time by the rules of production |

// Any duration may come from outside: see .clippy.toml.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod scenario;
pub mod simulate;
pub mod workload;
