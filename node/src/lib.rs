//! One machine of a Weir federation.

pub mod artifact;
pub mod callback;
pub mod clock;
pub mod config;
mod disk;
pub mod executor;
pub mod function;
pub mod id;
pub mod invocation;
pub mod logs;
pub mod resolve;
pub mod resources;
pub mod secret;
pub mod store;
pub mod time;
