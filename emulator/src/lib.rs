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
//! | `builtin` | scenarios that come with the program |
//! | `simulate` | one played in virtual time by the rules of production |
//! | `sweep` | the runs of a comparison: policies and seeds |
//! | `report`, `plot` | runs side by side, as tables and pictures |

// Any duration may come from outside: see .clippy.toml.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod builtin;
pub mod plot;
pub mod report;
pub mod scenario;
pub mod simulate;
pub mod sweep;
pub mod workload;
