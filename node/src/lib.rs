//! One machine of a Weir federation.

// Any duration may come from outside: see .clippy.toml.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod answer;
pub mod artifact;
pub mod callback;
pub mod clock;
pub mod config;
mod disk;
pub mod executor;
pub mod identity;
pub mod invocation;
pub mod layers;
pub mod logs;
pub mod node;
pub mod panics;
pub mod private;
pub mod replay;
pub mod resolve;
pub mod secret;
pub mod sharded;
pub mod store;

pub use node::Node;
pub use weir_node_core::{
    admission, estimate, function, id, keep, ledger, need, pool, queue, resources, scheduler, time,
};

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
