//! One machine of a Weir federation.

pub mod clock;
pub mod config;
pub mod executor;
pub mod function;
pub mod id;
pub mod identity;
pub mod invocation;
pub mod logs;
pub mod node;
pub mod resources;
pub mod time;
pub use node::Node;
