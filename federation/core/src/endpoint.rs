//! Where a peer takes calls: by address, or by a name that is looked up when
//! it is dialled.

use core::net::SocketAddr;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name of a host: with its port, what a report holds of a word. DNS
/// has 253.
const NAME_BYTES_MAX: usize = 250;

/// Where a peer takes calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// At this address.
    Address(SocketAddr),
    /// At this port of the host of that name.
    Name(Arc<str>, u16),
}

/// A text that says not where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address: write HOST:PORT or IP:PORT (edge-1.example:4002, 192.0.2.1:4002, \
     [2001:db8::1]:4002)"
)]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Ok(address) = text.parse() {
            return Ok(Endpoint::Address(address));
        }
        let wrong = || EndpointError(text.chars().take(80).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(wrong)?;
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        // What looks like an address, and is none, is no name either.
        let is_name = host.chars().any(|c| c.is_ascii_alphabetic());
        if host.len() > NAME_BYTES_MAX || !host.chars().all(fine) || !is_name {
            return Err(wrong());
        }
        Ok(Endpoint::Name(host.to_ascii_lowercase().into(), port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Address(address) => address.fmt(f),
            Endpoint::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_an_address_or_a_name_with_a_port() {
        for text in [
            "192.0.2.1:4002",
            "[2001:db8::1]:4002",
            "edge-1.example:4002",
            "localhost:1",
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), text);
        }
        let name: Endpoint = "Edge.Example:4002".parse().expect("a name");
        assert_eq!(name.to_string(), "edge.example:4002");
        for wrong in [
            "",
            "edge",
            "edge:",
            "edge:0",
            "edge:70000",
            ":4002",
            "2001:db8::1:4002",
            "192.0.2.300:1",
            "a b:1",
            "http://a:1",
        ] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
