//! One machine of a Weir federation.

pub mod admission;
pub mod clock;
pub mod config;
pub mod executor;
pub mod function;
pub mod id;
pub mod invocation;
pub mod ledger;
pub mod logs;
pub mod pool;
pub mod queue;
pub mod resources;
mod slab;
pub mod time;
