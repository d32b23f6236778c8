//! One machine of a Weir federation.

pub mod clock;
pub mod config;
mod disk;
pub mod executor;
pub mod function;
pub mod id;
pub mod invocation;
pub mod logs;
pub mod resources;
pub mod store;
pub mod time;
