//! Names to addresses, and which addresses are not the wide world.
//!
//! Names are resolved in Rust (hickory): a static glibc resolves nothing
//! without shared libraries. Nothing is read or bound before the first lookup.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use parking_lot::Mutex;

/// Longest lookup, all name servers and attempts together.
const LOOKUP_TIME: Duration = Duration::from_secs(5);

/// Addresses of one name that are looked at; a name may have any number.
const MAX_ADDRESSES: usize = 16;

/// Answers remembered, each for its own time to live.
const CACHED_ANSWERS: u64 = 256;

/// What the system says of names; a change in either takes effect at once.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Resolves names as the system is configured to. Clones share one cache.
#[derive(Clone, Default)]
pub struct Resolver {
    built: Arc<Mutex<Option<Built>>>,
}

struct Built {
    resolver: TokioResolver,
    /// When the files that it was built from had last changed.
    changed: [Option<SystemTime>; 2],
}

impl Resolver {
    /// A resolver that has not looked at anything yet.
    pub fn new() -> Self {
        Resolver::default()
    }

    /// The addresses of a host: a literal (brackets allowed) is itself,
    /// `localhost` and names below it are loopback whatever any server says
    /// (RFC 6761, section 6.3), then `/etc/hosts`, then the name servers of
    /// `/etc/resolv.conf`. Never empty. At most 5 s.
    pub async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Some(address) = literal(host) {
            return Ok(vec![address]);
        }
        if is_localhost(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let resolver = self.current()?;
        let looked = tokio::time::timeout(LOOKUP_TIME, resolver.lookup_ip(host)).await;
        let found =
            looked.map_err(|_| failed(host, io::ErrorKind::TimedOut, "no answer in time"))?;
        let found = found.map_err(|error| {
            let kind = match error.is_no_records_found() || error.is_nx_domain() {
                true => io::ErrorKind::NotFound,
                false => io::ErrorKind::Other,
            };
            failed(host, kind, error)
        })?;
        let addresses: Vec<IpAddr> = found.iter().take(MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            return Err(failed(host, io::ErrorKind::NotFound, "it has no address"));
        }
        Ok(addresses)
    }

    /// The resolver, built anew when the system's configuration has changed.
    fn current(&self) -> io::Result<TokioResolver> {
        let changed = SYSTEM_FILES.map(|path| fs::metadata(path).and_then(|m| m.modified()).ok());
        let mut built = self.built.lock();
        if let Some(built) = built.as_ref().filter(|built| built.changed == changed) {
            return Ok(built.resolver.clone());
        }
        let resolver = build()?;
        *built = Some(Built {
            resolver: resolver.clone(),
            changed,
        });
        Ok(resolver)
    }
}

fn build() -> io::Result<TokioResolver> {
    let (config, mut options) = read_system_conf().unwrap_or_else(|error| {
        // As resolv.conf(5) has it: without name servers, the one of this machine.
        tracing::debug!(%error, "no name servers configured, asking this machine's own");
        let own = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        (
            ResolverConfig::from_parts(None, Vec::new(), vec![own]),
            ResolverOpts::default(),
        )
    });
    options.cache_size = CACHED_ANSWERS;
    options.use_hosts_file = ResolveHosts::Always;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(LOOKUP_TIME);
    let provider = TokioRuntimeProvider::default();
    let builder = TokioResolver::builder_with_config(config, provider).with_options(options);
    builder.build().map_err(io::Error::other)
}

fn failed(host: &str, kind: io::ErrorKind, reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(kind, format!("resolve {host}: {reason}"))
}

/// The address that a host is, when it is not a name.
pub fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// This machine: `127.0.0.0/8`, `::1`.
    Loopback,
    /// "Any address", which connects to this machine: `0.0.0.0/8`, `::`.
    Unspecified,
    /// The link, where cloud metadata services live: `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// Many at once, or all: multicast, and `255.255.255.255`.
    Multicast,
    /// Private networks: RFC 1918, unique local `fc00::/7`, and the site-local
    /// `fec0::/10` that preceded it.
    Private,
    /// Between a provider and its customers: `100.64.0.0/10` (RFC 6598).
    Shared,
    /// Everything else.
    Public,
}

impl Reach {
    /// How far `address` reaches. IPv4 addresses inside IPv6 ones (mapped,
    /// compatible, NAT64, 6to4) count as what they end up at.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Reach::of_v4(address),
            IpAddr::V6(address) => Reach::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            [127, ..] => Reach::Loopback,
            [0, ..] => Reach::Unspecified,
            [169, 254, ..] => Reach::LinkLocal,
            [224..=239, ..] | [255, 255, 255, 255] => Reach::Multicast,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Reach::Private,
            [100, 64..=127, ..] => Reach::Shared,
            _ => Reach::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let embedded = |high: u16, low: u16| {
            Reach::of_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        };
        match address.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] => Reach::Unspecified,
            [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
            [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => embedded(high, low),
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
            [0x2002, high, low, ..] => embedded(high, low),
            [0xfe80..=0xfebf, ..] => Reach::LinkLocal,
            [0xff00..=0xffff, ..] => Reach::Multicast,
            // Local-use NAT64 (RFC 8215) ends up on a private network.
            [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => Reach::Private,
            _ => Reach::Public,
        }
    }
}

/// Whether an address is of this machine, its link or a private network.
pub fn is_local(address: IpAddr) -> bool {
    Reach::of(address) != Reach::Public
}

/// Whether a public address is one of this machine's own, behind which its own
/// doors are. The kernel knows: it lets nobody bind another's. Where it lets
/// everybody (`ip_nonlocal_bind`), nothing can be told and the answer is no.
pub fn is_own(address: IpAddr) -> bool {
    // For documentation only (RFC 5737, RFC 3849): no machine has these.
    let nobodys: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let binds = |address| UdpSocket::bind(SocketAddr::new(address, 0)).is_ok();
    binds(address) && !binds(nobodys)
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let resolver = self.clone();
        Box::pin(async move { Ok(sockets(resolver.lookup(name.as_str()).await?)) })
    }
}

/// A resolver that knows no local address and none of this machine's: for
/// targets that strangers name.
#[derive(Clone)]
pub struct PublicOnly(pub Resolver);

/// A name, or literal, that only leads to addresses which are not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is a local address ({address}), which is not allowed")]
pub struct LocalAddress {
    /// The host as named.
    pub host: String,
    /// One of its addresses.
    pub address: IpAddr,
}

impl PublicOnly {
    /// Whether a stranger may name this address.
    pub fn allows(address: IpAddr) -> bool {
        !is_local(address) && !is_own(address)
    }
}

impl reqwest::dns::Resolve for PublicOnly {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let mut addresses = resolver.lookup(name.as_str()).await?;
            let first = addresses.first().copied();
            addresses.retain(|address| PublicOnly::allows(*address));
            match first {
                Some(address) if addresses.is_empty() => Err(LocalAddress {
                    host: name.as_str().to_owned(),
                    address,
                }
                .into()),
                _ => Ok(sockets(addresses)),
            }
        })
    }
}

fn sockets(addresses: Vec<IpAddr>) -> reqwest::dns::Addrs {
    // Port zero stands for the one that the URL names.
    Box::new(
        addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, 0)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_reaches_as_far_as_it_does() {
        let check = |text: &str, reach| {
            assert_eq!(Reach::of(text.parse().expect("address")), reach, "{text}");
        };
        check("127.8.9.1", Reach::Loopback);
        check("::1", Reach::Loopback);
        check("0.0.0.0", Reach::Unspecified);
        check("0.1.2.3", Reach::Unspecified);
        check("::", Reach::Unspecified);
        check("169.254.169.254", Reach::LinkLocal);
        check("fe80::1", Reach::LinkLocal);
        check("224.0.0.1", Reach::Multicast);
        check("255.255.255.255", Reach::Multicast);
        check("ff02::1", Reach::Multicast);
        check("10.1.2.3", Reach::Private);
        check("172.16.0.1", Reach::Private);
        check("172.31.255.255", Reach::Private);
        check("192.168.1.1", Reach::Private);
        check("fd00::1", Reach::Private);
        check("fec0::1", Reach::Private);
        check("64:ff9b:1::1", Reach::Private);
        check("100.64.0.1", Reach::Shared);
        check("::ffff:127.0.0.1", Reach::Loopback);
        check("::ffff:10.0.0.1", Reach::Private);
        check("::169.254.0.1", Reach::LinkLocal);
        check("64:ff9b::7f00:1", Reach::Loopback);
        check("2002:c0a8:101::1", Reach::Private);
        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
        ] {
            check(public, Reach::Public);
        }
    }

    #[test]
    fn own_address_is_known_to_the_kernel() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_own(Ipv4Addr::new(192, 0, 2, 7).into()));
    }

    #[tokio::test]
    async fn literal_and_localhost_ask_nobody() {
        let resolver = Resolver::new();
        let lookup = async |host: &str| resolver.lookup(host).await.expect("known");
        assert_eq!(lookup("10.0.0.1").await, [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(lookup("[::1]").await, [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        for host in ["localhost", "LocalHost.", "a.localhost"] {
            assert!(
                lookup(host).await.iter().all(|address| is_local(*address)),
                "{host}"
            );
        }
        assert!(resolver.built.lock().is_none());
    }

    #[tokio::test]
    async fn name_that_is_none_is_an_error_within_bounded_time() {
        let error = Resolver::new()
            .lookup("weir-test.invalid")
            .await
            .expect_err("reserved name");
        assert!(
            error.to_string().contains("resolve weir-test.invalid: "),
            "{error}"
        );
    }
}
