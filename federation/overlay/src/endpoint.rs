//! Who looks up where a peer is that goes by a name.

use std::io;
use std::net::IpAddr;

use futures_util::future::BoxFuture;

pub use weir_federation_core::endpoint::{Endpoint, EndpointError};

/// Looks names of hosts up.
pub trait Resolve: Send + Sync {
    /// The addresses of a host, now.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}
