//! A node's part in its federation: where its members reach it, how it joins, and
//! how it takes their calls.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tracing::{info, warn};
use weir_federation::dispatch::Dispatch;
use weir_federation::federated::{Federated, Settings};
use weir_federation::regions::NONE as NO_REGION;
use weir_federation::{CallStreams, Multiaddr};
use weir_node::Node;

use crate::config::Config;
use crate::door::Door;
use crate::door::guests::Guests;
use crate::http::{Greeting, Limits, Listeners, Server, Transport, is_free};

/// Bytes that a call's head has more between nodes than a client may send: what
/// the nodes say to each other, and 32 for each header, as HTTP/2 counts.
const MEMBER_HEADER_BYTES: usize = 16 << 10;

/// Shortest `federation.takeover`: a node that is only late is not gone.
const LEAST_TAKEOVER: Duration = Duration::from_secs(1);

/// How long a start waits to be let into the federation; a token that is refused
/// ends the start.
const JOIN_TIME: Duration = Duration::from_secs(2);

/// Connections of members, at most.
const MEMBER_CONNECTIONS: usize = 4_096;

/// A connection of a member that nobody uses stays open so long: longer than
/// members keep theirs.
const MEMBER_IDLE: Duration = Duration::from_secs(600);

/// Where a member of a federation listens when nobody says otherwise.
const OVERLAY: [&str; 2] = ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"];
/// The same for calls.
const CALLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 4002);

/// Binds where members send calls, if anywhere, and sees that what the overlay
/// listens on is free.
pub(super) fn bind_members(
    federation: &Settings,
    threads: usize,
) -> anyhow::Result<Option<Listeners>> {
    let setting = "--peer-listen, federation.peer-listen";
    let bind = |address| Listeners::bind(address, threads, setting);
    let listeners = member_address(federation).map(bind).transpose()?;
    for address in overlay_addresses(federation) {
        if let Some((transport, address)) = socket_of(&address) {
            is_free(address, transport, "--listen, federation.listen")?;
        }
    }
    Ok(listeners)
}

/// Starts the node's part in its federation, and waits a moment to be let in.
pub(super) async fn join(
    node: &Node,
    settings: Settings,
) -> anyhow::Result<(Federated, CallStreams)> {
    let started = Federated::start(node, settings).context("join the federation");
    let (federated, streams) = started?;
    let let_in = federated.member().is_let_in();
    match tokio::time::timeout(JOIN_TIME, let_in).await {
        Ok(Err(reason)) => {
            federated.stop().await;
            bail!("join the federation: {reason}")
        }
        Ok(Ok(())) => {}
        Err(_) => warn!(
            "not in the federation yet: no member that the token names is reached; goes on trying"
        ),
    }
    Ok((federated, streams))
}

/// Where calls of members are taken; `None` where nobody could dial it.
fn member_address(federation: &Settings) -> Option<SocketAddr> {
    match federation.relayed {
        true => federation.peer_listen,
        false => Some(federation.peer_listen.unwrap_or(CALLS)),
    }
}

/// Where members link to it.
fn overlay_addresses(federation: &Settings) -> Vec<Multiaddr> {
    if !federation.listen.is_empty() {
        return federation.listen.clone();
    }
    let parsed = OVERLAY.iter().map(|text| text.parse());
    parsed.map(|address| address.expect("ours")).collect()
}

/// The port that a multiaddress has on this machine; `None` where it has none, or
/// takes a free one.
fn socket_of(address: &Multiaddr) -> Option<(Transport, SocketAddr)> {
    let text = address.to_string();
    let mut parts = text.split('/').skip(1);
    let ip: IpAddr = match parts.next()? {
        "ip4" | "ip6" => parts.next()?.parse().ok()?,
        _ => return None,
    };
    let transport = match parts.next()? {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    let port: u16 = parts.next()?.parse().ok()?;
    (port != 0).then(|| (transport, SocketAddr::new(ip, port)))
}

/// What the configuration says of the federation, and what follows for it from
/// the rest.
pub(super) fn federation_settings(config: &Config, bound: Option<SocketAddr>) -> Settings {
    let federation = &config.federation;
    let named = federation.regions.iter();
    let named = named.filter(|region| *region != NO_REGION);
    Settings {
        folder: config.node.data_dir.join("federation"),
        listen: overlay_addresses(federation),
        peer_listen: bound,
        regions: named.cloned().collect(),
        follows_regions: federation.regions.is_empty(),
        takeover: federation.takeover.max(LEAST_TAKEOVER),
        call_bytes: config.http.async_body_bytes,
        ..federation.clone()
    }
}

/// Takes calls of members, on a listener of its own and on streams.
pub(super) fn serve_members(
    door: &Arc<Door>,
    dispatch: &Dispatch,
    listeners: Option<Listeners>,
    mut streams: CallStreams,
    limits: &Limits,
) -> anyhow::Result<Server> {
    let limits = Limits {
        connections: MEMBER_CONNECTIONS,
        // Many may be behind one address, and each proves who it is.
        connections_per_address: MEMBER_CONNECTIONS,
        idle_timeout: MEMBER_IDLE,
        header_bytes: limits.header_bytes.saturating_add(MEMBER_HEADER_BYTES),
        ..limits.clone()
    };
    let guests = Guests {
        dispatch: dispatch.clone(),
        body: door.body,
        gate: Arc::clone(&door.gate),
    };
    let listeners = match listeners {
        Some(listeners) => listeners,
        // Streams alone; a server wants some listener, and nobody knows of this.
        None => {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            Listeners::bind(any, 1, "for streams of members")?
        }
    };
    let greeting = Greeting::Members(dispatch.federated().acceptor().clone());
    let address = listeners.address();
    let server = Server::start(
        listeners,
        limits,
        greeting,
        Arc::new(guests),
        Arc::default(),
    )?;
    let adopt = server.adopter();
    tokio::spawn(async move {
        while let Some((member, stream)) = streams.recv().await {
            adopt(stream.compat(), member);
        }
    });
    info!(%address, "members send calls here");
    Ok(server)
}
