//! TCP, QUIC and relayed connections, each with the exchange of proofs.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::Either;
use futures_util::io::{AsyncRead, AsyncWrite};
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox};
use libp2p::core::transport::Boxed;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::upgrade::{
    InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version,
};
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _, dns, noise, quic, relay, tcp, yamux};

use multistream_select::{
    Negotiated, NegotiationError, dialer_select_proto, listener_select_proto,
};

use crate::host::{Event, Host};
use crate::proof::{self, ProofError};

/// Longest time from the first byte of a connection to its membership.
const SETUP: Duration = Duration::from_secs(10);

/// The same for connections that this node opens: a node that asks whether it
/// can be dialled waits 10 s to hear that it cannot.
const DIALLED: Duration = Duration::from_secs(5);

/// How long a connection from where a member listens is waited on for its first
/// byte, before this side begins. Of two that open a hole in their firewalls at
/// the same time one says that it is the listener; where an earlier attempt left
/// the other's firewall open, its connection is accepted as any other, and both
/// would listen for ever.
const SILENCE: Duration = Duration::from_millis(700);

/// Streams that a peer may have open on one connection.
const STREAMS: usize = 512;

/// The names under which the exchange is negotiated, the best first.
const VERSIONS: [&str; 1] = ["/weir/1/noise"];

/// Builds all transports for the node with `key`.
pub(crate) fn build(
    key: &Keypair,
    host: Arc<dyn Host>,
    relay: relay::client::Transport,
) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let noise = noise::Config::new(key).map_err(io::Error::other)?;
    let admission = Admission {
        noise,
        host: host.clone(),
    };
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(STREAMS);
    let relayed = relay
        .upgrade(Version::V1Lazy)
        .authenticate(admission.clone())
        .multiplex(muxer.clone())
        .inbound_timeout(SETUP)
        .outbound_timeout(DIALLED);
    let direct = || direct(key, host.clone(), admission.clone(), muxer.clone());
    // Around both kinds: it takes every address for its own to look up.
    let named = match dns::tokio::Transport::system(direct()) {
        Ok(named) => named,
        // A machine that cannot look names up reaches addresses all the same.
        Err(_) => dns::tokio::Transport::custom(
            direct(),
            dns::ResolverConfig::default(),
            dns::ResolverOpts::default(),
        ),
    };
    let all = relayed.or_transport(named).map(|either, _| match either {
        Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        Either::Right(linked) => linked,
    });
    Ok(all.boxed())
}

/// QUIC and TCP.
fn direct(
    key: &Keypair,
    host: Arc<dyn Host>,
    admission: Admission,
    muxer: yamux::Config,
) -> Boxed<(PeerId, StreamMuxerBox)> {
    let mut config = quic::Config::new(key);
    config.handshake_timeout = SETUP;
    let quic = quic::tokio::Transport::new(config);
    let quic = quic.and_then(move |(peer, connection), endpoint| {
        let host = host.clone();
        Box::pin(over_quic(peer, connection, host, endpoint.is_dialer()))
            as Pin<Box<dyn Future<Output = _> + Send>>
    });
    let quic = TransportTimeout::with_ingoing_timeout(quic, SETUP);
    let quic = TransportTimeout::with_outgoing_timeout(quic, DIALLED);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let tcp = tcp.and_then(move |socket, endpoint| {
        Box::pin(over_tcp(socket, endpoint, admission, muxer))
            as Pin<Box<dyn Future<Output = _> + Send>>
    });
    let tcp = TransportTimeout::with_ingoing_timeout(tcp, SETUP);
    let tcp = TransportTimeout::with_outgoing_timeout(tcp, DIALLED);
    let either = quic.or_transport(tcp).map(|either, _| match either {
        Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
    });
    either.boxed()
}

/// Secures a TCP connection and divides it into streams.
async fn over_tcp(
    socket: tcp::tokio::TcpStream,
    endpoint: ConnectedPoint,
    admission: Admission,
    muxer: yamux::Config,
) -> io::Result<(PeerId, Muxer)> {
    let begins = match &endpoint {
        ConnectedPoint::Dialer { role_override, .. } => role_override.is_dialer(),
        ConnectedPoint::Listener { send_back_addr, .. } => {
            is_silent(&socket.0).await && admission.host.is_known_at(send_back_addr)
        }
    };
    let failed = |error: NegotiationError| io::Error::other(error);
    let (peer, secured) = if begins {
        let selected = dialer_select_proto(socket, VERSIONS, Version::V1Lazy).await;
        let (name, socket) = selected.map_err(failed)?;
        admission.upgrade_outbound(socket, name).await
    } else {
        let selected = listener_select_proto(socket, VERSIONS).await;
        let (name, socket) = selected.map_err(failed)?;
        admission.upgrade_inbound(socket, name).await
    }
    .map_err(io::Error::other)?;
    let names = muxer.protocol_info();
    let divided = if begins {
        let selected = dialer_select_proto(secured, names, Version::V1Lazy).await;
        let (name, socket) = selected.map_err(failed)?;
        muxer.upgrade_outbound(socket, name).await
    } else {
        let selected = listener_select_proto(secured, names).await;
        let (name, socket) = selected.map_err(failed)?;
        muxer.upgrade_inbound(socket, name).await
    };
    Ok((peer, divided.map_err(io::Error::other)?))
}

/// What a TCP connection becomes.
type Muxer = yamux::Muxer<Negotiated<noise::Output<Negotiated<tcp::tokio::TcpStream>>>>;

/// Whether the other side waits to be spoken to.
async fn is_silent(socket: &tokio::net::TcpStream) -> bool {
    let spoken = tokio::time::timeout(SILENCE, socket.peek(&mut [0])).await;
    spoken.is_err()
}

/// QUIC proves identities itself; the exchange has a stream of its own there.
async fn over_quic(
    peer: PeerId,
    mut connection: quic::Connection,
    host: Arc<dyn Host>,
    dialled: bool,
) -> io::Result<(PeerId, quic::Connection)> {
    let stream = std::future::poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Err(error));
        }
        match dialled {
            true => Pin::new(&mut connection).poll_outbound(cx),
            false => Pin::new(&mut connection).poll_inbound(cx),
        }
    });
    let mut stream = stream.await.map_err(io::Error::other)?;
    let mut proved = pin!(exchange(&mut stream, &*host, peer, dialled));
    let proved = std::future::poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Err(io::Error::other(error)));
        }
        proved.as_mut().poll(cx).map_err(io::Error::other)
    });
    proved.await?;
    Ok((peer, connection))
}

async fn exchange<S>(
    stream: &mut S,
    host: &dyn Host,
    peer: PeerId,
    dialled: bool,
) -> Result<(), ProofError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let proved = match dialled {
        true => proof::offer(stream, host, peer).await,
        false => proof::check(stream, host, peer).await,
    };
    if let Err(ProofError::Refused(refusal)) = &proved {
        host.happened(Event::Refused {
            reason: refusal.reason,
            text: format!("{peer}: {refusal}"),
        });
    }
    proved
}

/// Noise, and then the exchange, as one upgrade: the swarm never sees a
/// connection on which it failed.
#[derive(Clone)]
struct Admission {
    noise: noise::Config,
    host: Arc<dyn Host>,
}

/// Why a connection did not become a member's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionError {
    /// The identities could not be proved.
    #[error("identities could not be proved")]
    Identity(#[source] noise::Error),
    /// Membership could not.
    #[error(transparent)]
    Membership(ProofError),
}

type Admitted<T> =
    Pin<Box<dyn Future<Output = Result<(PeerId, noise::Output<T>), AdmissionError>> + Send>>;

impl UpgradeInfo for Admission {
    type Info = &'static str;
    type InfoIter = [&'static str; VERSIONS.len()];

    fn protocol_info(&self) -> Self::InfoIter {
        VERSIONS
    }
}

impl<T> InboundConnectionUpgrade<T> for Admission
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = AdmissionError;
    type Future = Admitted<T>;

    fn upgrade_inbound(self, socket: T, name: Self::Info) -> Self::Future {
        Box::pin(async move {
            let identified = self.noise.upgrade_inbound(socket, name).await;
            let (peer, mut stream) = identified.map_err(AdmissionError::Identity)?;
            let proved = exchange(&mut stream, &*self.host, peer, false).await;
            proved.map_err(AdmissionError::Membership)?;
            Ok((peer, stream))
        })
    }
}

impl<T> OutboundConnectionUpgrade<T> for Admission
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = AdmissionError;
    type Future = Admitted<T>;

    fn upgrade_outbound(self, socket: T, name: Self::Info) -> Self::Future {
        Box::pin(async move {
            let identified = self.noise.upgrade_outbound(socket, name).await;
            let (peer, mut stream) = identified.map_err(AdmissionError::Identity)?;
            let proved = exchange(&mut stream, &*self.host, peer, true).await;
            proved.map_err(AdmissionError::Membership)?;
            Ok((peer, stream))
        })
    }
}
