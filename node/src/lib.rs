//! One machine of a Weir federation.

// Any duration may come from outside: see .clippy.toml.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod admission;
pub mod answer;
pub mod artifact;
pub mod callback;
pub mod clock;
pub mod config;
mod disk;
pub mod estimate;
pub mod executor;
pub mod function;
pub mod id;
pub mod identity;
pub mod invocation;
pub mod layers;
pub mod ledger;
pub mod logs;
pub mod need;
pub mod node;
pub mod panics;
pub mod pool;
pub mod private;
pub mod queue;
pub mod replay;
pub mod resolve;
pub mod resources;
pub mod secret;
mod slab;
pub mod store;
pub mod time;

pub use node::Node;

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
