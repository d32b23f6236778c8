//! Requests that guests send: to hosts on the function's list only.

use crate::Resolve;
use bytes::Bytes;
use http::uri::Scheme;
use http_body_util::BodyExt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Connections that one call may have open at once.
const CONNECTIONS_PER_CALL: usize = 16;

/// How long connecting may take, unless the guest says less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses of one host that are tried.
const ADDRESSES_TRIED: usize = 4;

/// A host and port that a function may send requests to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outbound {
    /// A name, or an address (an IPv6 one without brackets). Names are
    /// compared without regard to case; loopback and link-local addresses
    /// are reached only if named here as such, or as `localhost`.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Where one function may send requests to.
pub(crate) struct AllowList(Vec<(String, u16)>);

impl AllowList {
    pub(crate) fn new(allowed: &[Outbound]) -> AllowList {
        let entry = |outbound: &Outbound| (bare(&outbound.host), outbound.port);
        AllowList(allowed.iter().map(entry).collect())
    }

    fn contains(&self, host: &str, port: u16) -> bool {
        self.0
            .iter()
            .any(|(allowed, at)| *at == port && allowed == host)
    }
}

/// A host as it is compared: lower-case, without brackets or final dot.
fn bare(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches([']', '.']);
    host.to_ascii_lowercase()
}

/// Whether an address is this machine, its link, or no host at all: reached
/// through a name, it could be a door that trusts those who are near.
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_unspecified()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
        }
    }
}

/// What all guests' requests share.
#[derive(Clone)]
pub(crate) struct Network {
    resolver: Arc<dyn Resolve>,
    /// Made at the first use: most nodes have none.
    tls: Arc<OnceLock<TlsConnector>>,
}

impl Network {
    pub(crate) fn new(resolver: Arc<dyn Resolve>) -> Network {
        Network {
            resolver,
            tls: Arc::default(),
        }
    }

    fn tls(&self) -> &TlsConnector {
        self.tls.get_or_init(|| {
            let roots = rustls::RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.into(),
            };
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring has the default versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            TlsConnector::from(Arc::new(config))
        })
    }

    /// The addresses of an allowed host that may be connected to.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Error> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if host == "localhost" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let found = self.resolver.resolve(host).await.map_err(|error| {
            tracing::debug!(host, %error, "a guest's name does not resolve");
            Error::DnsError {
                rcode: Some(error.to_string()),
                info_code: None,
            }
        })?;
        if found.is_empty() {
            return Err(Error::DestinationNotFound);
        }
        let far: Vec<_> = found
            .into_iter()
            .filter(|address| !is_near(*address))
            .take(ADDRESSES_TRIED)
            .collect();
        if far.is_empty() {
            return Err(Error::DestinationIpProhibited);
        }
        Ok(far)
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Error> {
        let mut last = Error::DestinationNotFound;
        for address in self.addresses(host).await? {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Error::Connect(error),
            }
        }
        Err(last)
    }
}

/// One call's way out.
pub(crate) struct Gate {
    network: Network,
    allowed: Arc<AllowList>,
    connections: Option<Arc<Semaphore>>,
}

impl Gate {
    pub(crate) fn new(network: Network, allowed: Arc<AllowList>) -> Gate {
        Gate {
            network,
            allowed,
            connections: None,
        }
    }
}

/// What drives a connection for as long as its answer is read.
type Connection = Box<dyn Future<Output = Result<(), Error>> + Send>;

type Sent = Result<(http::Response<WasiBody>, Connection), Error>;

impl WasiHttpHooks for Gate {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let network = self.network.clone();
        let allowed = self.allowed.clone();
        let connections = self
            .connections
            .get_or_insert_with(|| Arc::new(Semaphore::new(CONNECTIONS_PER_CALL)))
            .clone();
        Box::new(async move {
            let target = Target::of(request.uri())?;
            if !allowed.contains(&target.host, target.port) {
                return Err(Error::HttpRequestDenied);
            }
            let permit = connections
                .try_acquire_owned()
                .map_err(|_| Error::ConnectionLimitReached)?;
            let (response, connection) = send(&network, &target, request, options).await?;
            let connection: Connection = Box::new(async move {
                let _permit = permit;
                connection.await.unwrap_or(Ok(())).map_err(Error::from)
            });
            Ok((response, connection))
        })
    }

    // The default methods warn; what a guest's requests meet is its own
    // affair.

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        tracing::debug!(%error, "a guest's request failed");
        ErrorCode::HttpProtocolError
    }

    fn p2_error_from_connect(&mut self, error: &std::io::Error) -> ErrorCode {
        tracing::debug!(%error, "a guest's connection failed");
        match error.kind() {
            std::io::ErrorKind::TimedOut => ErrorCode::ConnectionTimeout,
            std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable => {
                ErrorCode::DestinationUnavailable
            }
            _ => ErrorCode::ConnectionRefused,
        }
    }

    fn p2_error_from_tls(&mut self, error: &std::io::Error) -> ErrorCode {
        tracing::debug!(%error, "a guest's TLS handshake failed");
        ErrorCode::TlsProtocolError
    }
}

/// Where a request goes.
struct Target {
    host: String,
    port: u16,
    tls: bool,
}

impl Target {
    fn of(uri: &http::Uri) -> Result<Target, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        Ok(Target {
            host: bare(authority.host()),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
        })
    }
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Sends one request on a connection of its own.
async fn send(
    network: &Network,
    target: &Target,
    mut request: http::Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<
    (
        http::Response<WasiBody>,
        AbortOnDropHandle<hyper::Result<()>>,
    ),
    Error,
> {
    let options = options.unwrap_or(RequestOptions {
        connect_timeout: None,
        first_byte_timeout: None,
        between_bytes_timeout: None,
    });
    let patience = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let stream = timeout(patience.min(CONNECT_TIMEOUT), open(network, target))
        .await
        .map_err(|_| Error::ConnectionTimeout)??;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, WasiBody>(hyper_util::rt::TokioIo::new(stream))
            .await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));

    // On the wire, scheme and authority are for proxies only.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(http::Uri::default, http::Uri::from);
    let answer = sender.send_request(request);
    let response = match options.first_byte_timeout {
        Some(patience) => timeout(patience, answer)
            .await
            .map_err(|_| Error::ConnectionReadTimeout)??,
        None => answer.await?,
    };
    let response = response.map(|body| {
        body.map_frame(|frame| frame.map_data(Bytes::from))
            .map_err(Error::from)
            .boxed_unsync()
    });
    Ok((response, connection))
}

async fn open(network: &Network, target: &Target) -> Result<Box<dyn Stream>, Error> {
    let stream = network.connect(&target.host, target.port).await?;
    // Requests are small; waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    if !target.tls {
        return Ok(Box::new(stream));
    }
    let name = rustls::pki_types::ServerName::try_from(target.host.clone())
        .map_err(|_| Error::HttpRequestUriInvalid)?;
    let stream = network
        .tls()
        .connect(name, stream)
        .await
        .map_err(Error::Tls)?;
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::BoxFuture;
    use std::io;

    /// Resolves every name to the same addresses.
    struct Fixed(Vec<IpAddr>);

    impl Resolve for Fixed {
        fn resolve<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            Box::pin(async { Ok(self.0.clone()) })
        }
    }

    fn network(addresses: &[&str]) -> Network {
        let parse = |text: &&str| text.parse().expect("an address");
        Network::new(Arc::new(Fixed(addresses.iter().map(parse).collect())))
    }

    #[test]
    fn hosts_are_compared_without_case_brackets_or_final_dot() {
        let list = AllowList::new(&[
            Outbound {
                host: "API.example.com".to_owned(),
                port: 443,
            },
            Outbound {
                host: "::1".to_owned(),
                port: 80,
            },
        ]);
        let goes = |uri: &str| {
            let target = Target::of(&uri.parse().expect("a URI")).expect("a target");
            list.contains(&target.host, target.port)
        };
        assert!(goes("https://api.EXAMPLE.com/x"));
        assert!(goes("https://api.example.com./"));
        assert!(goes("http://[::1]/"));
        assert!(!goes("http://api.example.com/"));
        assert!(!goes("https://example.com/"));
        assert!(!goes("https://api.example.com.evil.org/"));
    }

    #[tokio::test]
    async fn name_must_not_lead_to_this_machine() {
        for near in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "0.0.0.0",
            "::ffff:127.0.0.1",
            "fe80::1",
        ] {
            assert!(
                matches!(
                    network(&[near]).addresses("innocent.example").await,
                    Err(Error::DestinationIpProhibited)
                ),
                "{near}"
            );
        }
        let found = network(&["127.0.0.1", "192.0.2.1"])
            .addresses("both.example")
            .await;
        assert_eq!(
            found.expect("one is far"),
            ["192.0.2.1".parse::<IpAddr>().expect("an address")]
        );
    }

    #[tokio::test]
    async fn this_machine_is_reached_by_its_own_names() {
        let network = network(&[]);
        assert!(network.addresses("localhost").await.is_ok());
        assert!(network.addresses("127.0.0.1").await.is_ok());
    }

    /// Sends a request to `host` at `port`, where only `allowed` is allowed.
    async fn ask(network: Network, allowed: &str, host: &str, port: u16) -> Result<Bytes, Error> {
        let allowed = AllowList::new(&[Outbound {
            host: allowed.to_owned(),
            port,
        }]);
        let body = http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
        let request = http::Request::builder()
            .uri(format!("http://{host}:{port}/path?query"))
            .body(body)
            .expect("a request");
        let mut gate = Gate::new(network, Arc::new(allowed));
        let sent = gate.send_request(request, None, Box::new(async { Ok(()) }));
        let (response, connection) = Box::into_pin(sent).await?;
        let reading = response.into_body().collect();
        let (body, ended) = tokio::join!(reading, Box::into_pin(connection));
        ended?;
        Ok(body?.to_bytes())
    }

    /// Answers one request with its own first line.
    async fn mirror() -> u16 {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("a request");
            let line = line.trim_end();
            let length = line.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{line}"
            );
            stream.write_all(answer.as_bytes()).await.expect("a reader");
        });
        port
    }

    #[tokio::test]
    async fn allowed_host_is_asked() {
        let port = mirror().await;
        let answer = ask(network(&[]), "127.0.0.1", "127.0.0.1", port).await;
        assert_eq!(answer.expect("an answer"), "GET /path?query HTTP/1.1");
    }

    #[tokio::test]
    async fn other_hosts_are_not() {
        let port = mirror().await;
        let answer = ask(network(&[]), "example.org", "127.0.0.1", port).await;
        assert!(matches!(answer, Err(Error::HttpRequestDenied)));
        // The name is allowed; where it leads is not.
        let answer = ask(
            network(&["127.0.0.1"]),
            "rebound.example",
            "rebound.example",
            port,
        )
        .await;
        assert!(matches!(answer, Err(Error::DestinationIpProhibited)));
    }
}
