//! Ports: bound once per thread, and looked at before others bind them.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel holds until a thread takes them. A burst of
/// clients beyond it sees retransmissions, not refusals.
const ACCEPT_BACKLOG: i32 = 1024;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, forbidden or not of this machine.
    #[error("listen on {address} ({setting}){}", hint(source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What sets that.
        setting: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The system gave no thread or no runtime.
    #[error("start a thread of the HTTP door")]
    Thread(#[source] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another process has this port: stop it, or choose another",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need a privilege",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        _ => "",
    }
}

/// A port that is bound and not served yet, so that its number is known
/// before there is anyone to answer.
pub struct Listeners {
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<std::net::TcpListener>,
}

impl Listeners {
    /// Binds `address`, which `setting` sets, once per thread. Port 0 takes a
    /// free one.
    pub fn bind(
        address: SocketAddr,
        threads: usize,
        setting: &'static str,
    ) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen {
            address,
            setting,
            source,
        };
        // A port shared with SO_REUSEPORT would silently split the requests
        // with whoever has it: a bind without it tells.
        let probe = socket(address, false).map_err(failed)?;
        let bound = probe.local_addr().map_err(failed)?;
        drop(probe);
        let sockets = (0..threads.max(1)).map(|_| socket(bound, threads > 1));
        let sockets = sockets.collect::<io::Result<_>>().map_err(failed)?;
        Ok(Listeners {
            address: bound,
            sockets,
        })
    }

    /// Where they listen; the port is the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Whether nobody listens where `setting` has another part of the node listen:
/// one that shares its ports, and would silently share them with a second node.
pub fn is_free(
    address: SocketAddr,
    transport: Transport,
    setting: &'static str,
) -> Result<(), ServeError> {
    let probed = match transport {
        Transport::Tcp => socket(address, false).map(drop),
        Transport::Udp => std::net::UdpSocket::bind(address).map(drop),
    };
    probed.map_err(|source| ServeError::Listen {
        address,
        setting,
        source,
    })
}

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Of streams.
    Tcp,
    /// Of datagrams, as QUIC has them.
    Udp,
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of a predecessor that linger in TIME_WAIT are no reason to
    // refuse; a socket that listens still is one.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket.into())
}

/// Threads for a configured count, where 0 means one per core.
pub fn thread_count(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        count => count,
    }
}
