//! The way from a command to a node: one HTTP client with its credentials,
//! and errors that say what to do next.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use reqwest::{RequestBuilder, Response, Url};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use weir_node::resolve::Resolver;

/// How long a node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer that is held whole: a list of every function that a node may
/// have. Bodies of functions are streamed instead.
const ANSWER_BYTES: usize = 64 << 20;

/// Longest error text that is shown.
const MESSAGE_BYTES: usize = 4096;

/// Largest token or password file that is read.
const SECRET_BYTES: u64 = 4096;

/// What kept a command from its answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node's address is not one.
    #[error(
        "{0:?} is not the address of a node: write http://HOST:PORT, https://HOST:PORT, HOST:PORT \
         or a port (http://127.0.0.1:8080, localhost:8080, 8080)"
    )]
    Address(String),
    /// A file of credentials cannot be used.
    #[error("read {what} from {}", path.display())]
    Secret {
        /// Token or password.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Credentials that no header can carry.
    #[error("the {0} holds characters that no header can carry")]
    Credentials(&'static str),
    /// The file of certificates cannot be used.
    #[error("read certificates from {}: {reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The client cannot be made.
    #[error("set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// No connection.
    #[error("cannot reach the node at {node}: {reason}")]
    Unreachable {
        /// The node.
        node: String,
        /// The innermost reason.
        reason: String,
    },
    /// The connection broke before the answer was whole.
    #[error("no whole answer from the node at {node}: {reason}")]
    Broken {
        /// The node.
        node: String,
        /// The innermost reason.
        reason: String,
    },
    /// The node wants other credentials.
    #[error(
        "the node at {node} refuses these credentials ({status}): set WEIR_TOKEN, or give \
         --token-file DATA-DIR/token or --user and --password-file"
    )]
    Unauthorized {
        /// The node.
        node: String,
        /// 401 or 403.
        status: StatusCode,
    },
    /// The node said no.
    #[error("{what}: {status}{}", said(.message))]
    Refused {
        /// What was asked for.
        what: String,
        /// The status.
        status: StatusCode,
        /// The node's own words.
        message: String,
    },
    /// The answer is not what it should be.
    #[error("the node's answer to {what} is not understood")]
    Nonsense {
        /// What was asked for.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The answer is larger than this client holds.
    #[error("the answer to {what} is larger than {ANSWER_BYTES} bytes")]
    TooLarge {
        /// What was asked for.
        what: String,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// Proof of who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// None.
    Anonymous,
    /// A bearer token.
    Token(String),
    /// User and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
}

/// Which credentials the user asked for, before any file is read.
#[derive(Debug, Default, Clone)]
pub struct CredentialSources {
    /// `--user` and `--password-file`.
    pub user: Option<(String, PathBuf)>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// `WEIR_TOKEN`.
    pub token: Option<String>,
    /// The token that a node of this machine made; used on loopback only, and
    /// passed over when it cannot be read.
    pub local_token_file: Option<PathBuf>,
}

impl Credentials {
    /// Picks the credentials for `node`: flags before `WEIR_TOKEN` before the
    /// token of a node on this machine.
    pub fn resolve(sources: &CredentialSources, node: &Url) -> Result<Self, ClientError> {
        if let Some((user, path)) = &sources.user {
            let password = read_secret("the password", path)?;
            return Ok(Credentials::Basic {
                user: user.clone(),
                password,
            });
        }
        if let Some(path) = &sources.token_file {
            return Ok(Credentials::Token(read_secret("the token", path)?));
        }
        if let Some(token) = sources.token.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Credentials::Token(token.clone()));
        }
        let local = sources
            .local_token_file
            .as_ref()
            .filter(|_| is_loopback(node));
        let token = local.and_then(|path| read_secret("the token", path).ok());
        Ok(token.map_or(Credentials::Anonymous, Credentials::Token))
    }

    fn header(&self) -> Result<Option<HeaderValue>, ClientError> {
        let (what, text) = match self {
            Credentials::Anonymous => return Ok(None),
            Credentials::Token(token) => ("token", format!("Bearer {token}")),
            Credentials::Basic { user, password } => {
                let pair =
                    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                ("password", format!("Basic {pair}"))
            }
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| ClientError::Credentials(what))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn read_secret(what: &'static str, path: &Path) -> Result<String, ClientError> {
    use std::io::Read as _;
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?
            .take(SECRET_BYTES)
            .read_to_string(&mut text)?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file is empty",
            ));
        }
        Ok(text.to_owned())
    };
    read().map_err(|source| ClientError::Secret {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Whether `node` is on this machine by its address or by the name localhost.
pub fn is_loopback(node: &Url) -> bool {
    let host = node.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Reads the address of a node as `--node` has it. A port alone is one of this
/// machine, and without a scheme it is `http`.
pub fn node_address(text: &str) -> Result<Url, ClientError> {
    let wrong = || ClientError::Address(text.chars().take(200).collect());
    let trimmed = text.trim();
    let port = trimmed.strip_prefix(':').unwrap_or(trimmed);
    let spelled = if port.parse::<u16>().is_ok() {
        format!("http://127.0.0.1:{port}")
    } else if trimmed.contains("://") {
        trimmed.to_owned()
    } else {
        // A host alone may be a typing error of anything.
        trimmed.rsplit_once(':').ok_or_else(wrong)?;
        format!("http://{trimmed}")
    };
    let url: Url = spelled.parse().map_err(|_| wrong())?;
    let fine = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.query().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if fine { Ok(url) } else { Err(wrong()) }
}

/// A node, seen from a command.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    node: String,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// A client of `node` that trusts the certificates in `ca` beside the
    /// bundled roots.
    pub fn new(
        node: &Url,
        credentials: &Credentials,
        ca: Option<&Path>,
    ) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(ca)?)
            .dns_resolver(Arc::new(Resolver::new()))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(ClientError::Client)?;
        let node = node.as_str().trim_end_matches('/').to_owned();
        Ok(Client {
            http,
            node,
            authorization: credentials.header()?,
        })
    }

    /// The node's address, without a slash at its end.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// A request to `path` (with its query) without credentials.
    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.node))
    }

    /// A request to `path` (with its query) that carries the credentials.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.call(method, path);
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        }
    }

    /// Sends `request`; any status is an answer.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|error| self.failed(&error))
    }

    /// Sends `request` and wants it to succeed; `what` names it in an error.
    pub async fn ask(&self, what: &str, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = self.send(request).await?;
        self.succeeded(what, response).await
    }

    /// Sends `request` and reads the JSON that it answers.
    pub async fn ask_json<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let response = self.ask(what, request).await?;
        let bytes = self.whole(what, response).await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Nonsense {
            what: what.to_owned(),
            source,
        })
    }

    /// Passes a successful answer on; turns any other into an error with the
    /// node's own words.
    pub async fn succeeded(&self, what: &str, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // A function's own 401 is its answer; the node's names itself.
        let ours = response.headers().contains_key("x-weir-error")
            || response.headers().contains_key("www-authenticate");
        if status == StatusCode::UNAUTHORIZED && ours {
            return Err(ClientError::Unauthorized {
                node: self.node.clone(),
                status,
            });
        }
        let message = self.message(response).await;
        Err(ClientError::Refused {
            what: what.to_owned(),
            status,
            message,
        })
    }

    /// The whole body of `response`, bounded.
    pub async fn whole(&self, what: &str, response: Response) -> Result<Vec<u8>, ClientError> {
        let mut response = response;
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            if bytes.len() + chunk.len() > ANSWER_BYTES {
                return Err(ClientError::TooLarge {
                    what: what.to_owned(),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The next piece of the body of `response`; `None` at its end.
    pub async fn chunk(
        &self,
        response: &mut Response,
    ) -> Result<Option<bytes::Bytes>, ClientError> {
        response.chunk().await.map_err(|error| self.failed(&error))
    }

    /// The start of an error's body as one printable text.
    async fn message(&self, mut response: Response) -> String {
        let mut bytes = Vec::new();
        while bytes.len() < MESSAGE_BYTES {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                // The status alone still says what matters.
                Ok(None) | Err(_) => break,
            }
        }
        bytes.truncate(MESSAGE_BYTES);
        let text = String::from_utf8_lossy(&bytes);
        text.trim()
            .chars()
            .filter(|c| !c.is_control() || *c == '\n')
            .collect()
    }

    fn failed(&self, error: &reqwest::Error) -> ClientError {
        let (node, reason) = (self.node.clone(), reason(error, &self.node));
        if error.is_connect() {
            ClientError::Unreachable { node, reason }
        } else {
            ClientError::Broken { node, reason }
        }
    }
}

/// The reason at the bottom of an error's chain, in the plainest words there are,
/// and what to do where that is known.
fn reason(error: &reqwest::Error, node: &str) -> String {
    let mut reason = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return tls_reason(tls, node);
        }
        if inner.to_string().starts_with("resolve ") {
            let host = node.split("://").nth(1).unwrap_or(node);
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            return format!("the name {host:?} does not resolve to an address: check its spelling");
        }
        (reason, next) = match inner.downcast_ref::<io::Error>() {
            Some(system) if system.raw_os_error().is_some() => {
                return match system.kind() {
                    io::ErrorKind::ConnectionRefused => {
                        "connection refused; is `weir run` running?".to_owned()
                    }
                    kind => kind.to_string(),
                };
            }
            // What it wraps is not its source, but itself.
            Some(wrapping) => (
                wrapping.to_string(),
                wrapping
                    .get_ref()
                    .map(|inner| inner as &(dyn std::error::Error + 'static)),
            ),
            None => (inner.to_string(), inner.source()),
        };
    }
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    if let Some(hyper) = hyper_error(error)
        && (hyper.is_parse() || hyper.is_incomplete_message())
        && node.starts_with("http://")
    {
        return "what answers there speaks no HTTP; if it speaks TLS, write https://".to_owned();
    }
    reason
}

fn hyper_error(error: &reqwest::Error) -> Option<&hyper::Error> {
    let mut next = error.source();
    while let Some(inner) = next {
        if let Some(found) = inner.downcast_ref() {
            return Some(found);
        }
        next = inner.source();
    }
    None
}

/// Why TLS did not come about, and the remedy.
fn tls_reason(error: &rustls::Error, node: &str) -> String {
    let host = node.split("://").nth(1).unwrap_or(node);
    match error {
        rustls::Error::InvalidMessage(_) => {
            "what answers there speaks no TLS: write http://".to_owned()
        }
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::UnknownIssuer => {
                "its certificate is signed by nobody that is trusted here: give the certificate, or \
                 its authority's, with --ca FILE"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: have it renewed".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not good yet: check the clocks".to_owned()
            }
            CertificateError::NotValidForName => format!(
                "its certificate is not for {host:?}: name the node as the certificate does"
            ),
            CertificateError::NotValidForNameContext { presented, .. } => format!(
                "its certificate is not for {host:?} but for {}: name the node so",
                presented.join(", ")
            ),
            CertificateError::Other(_) if is_authority(wrong) => {
                "its certificate is an authority's own: trust that very one with --ca FILE"
                    .to_owned()
            }
            _ => "its certificate cannot be used: give the right one with --ca FILE, or have it \
                  made anew"
                .to_owned(),
        },
        _ => "the TLS handshake failed: check that it is a node, and http:// or https://".to_owned(),
    }
}

/// Whether a certificate is refused only because it may sign others, as the usual
/// `openssl req -x509` makes them.
fn is_authority(error: &CertificateError) -> bool {
    // The library that finds it out is rustls's own, and not ours to name.
    matches!(error, CertificateError::Other(other)
        if format!("{other:?}").contains("CaUsedAsEndEntity"))
}

/// Checks a node's certificate as usual, and lets one be its own authority where
/// the user trusts that very certificate.
#[derive(Debug)]
struct Trusting {
    usual: Arc<WebPkiServerVerifier>,
    /// What the user trusts.
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let usual = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match usual {
            // Its times were looked at before; what is left is whose it is.
            Err(rustls::Error::InvalidCertificate(error))
                if is_authority(&error) && self.own.contains(end_entity) =>
            {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                verify_server_name(&parsed, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            usual => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// The call id that the answer to an accepted asynchronous call carries.
pub fn call_id(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let location = text("location").and_then(|path| path.rsplit('/').next());
    location.or_else(|| text("x-call-id")).map(str::to_owned)
}

fn tls(ca: Option<&Path>) -> Result<rustls::ClientConfig, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let mut own = Vec::new();
    if let Some(path) = ca {
        let wrong = |reason: String| ClientError::Certificates {
            path: path.to_owned(),
            reason,
        };
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots
                .add(certificate.clone())
                .map_err(|_| wrong("it holds what is no certificate of TLS".to_owned()))?;
            own.push(certificate);
        }
        if own.is_empty() {
            return Err(wrong("there is none in it".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let usual = usual.build().expect("there are bundled roots");
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting { usual, own }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn url(text: &str) -> Url {
        node_address(text).expect("valid")
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    #[test]
    fn node_is_an_http_address() {
        for fine in [
            "http://127.0.0.1:8080",
            "https://weir.example/base/",
            "http://[::1]:1",
            "127.0.0.1:8080",
            "localhost:8080",
            "[::1]:8080",
            ":8080",
            "8080",
        ] {
            assert!(node_address(fine).is_ok(), "{fine}");
        }
        for bad in [
            "",
            "localhost",
            "99999",
            "ftp://x",
            "http://",
            "http://u:p@x",
            "http://x?y",
        ] {
            assert!(node_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_come_before_the_environment_before_the_local_token() {
        let (token, password, local) = (file("flag\n"), file("secret\n"), file("local"));
        let mut sources = CredentialSources {
            user: Some(("admin".to_owned(), password.path().to_owned())),
            token_file: Some(token.path().to_owned()),
            token: Some("environment".to_owned()),
            local_token_file: Some(local.path().to_owned()),
        };
        let node = url("http://127.0.0.1:8080");
        let resolve = |sources: &CredentialSources| match Credentials::resolve(sources, &node)
            .expect("readable")
        {
            Credentials::Anonymous => "anonymous".to_owned(),
            Credentials::Token(token) => token,
            Credentials::Basic { user, password } => format!("{user}:{password}"),
        };
        assert_eq!(resolve(&sources), "admin:secret");
        sources.user = None;
        assert_eq!(resolve(&sources), "flag");
        sources.token_file = None;
        assert_eq!(resolve(&sources), "environment");
        sources.token = Some(String::new());
        assert_eq!(resolve(&sources), "local");
        sources.local_token_file = Some("/nonexistent/token".into());
        assert_eq!(resolve(&sources), "anonymous");
    }

    #[test]
    fn local_token_never_leaves_the_machine() {
        let local = file("local");
        let sources = CredentialSources {
            local_token_file: Some(local.path().to_owned()),
            ..CredentialSources::default()
        };
        let check = |node: &str, sent: bool| {
            let credentials = Credentials::resolve(&sources, &url(node)).expect("fine");
            assert_eq!(credentials != Credentials::Anonymous, sent, "{node}");
        };
        check("http://localhost:8080", true);
        check("http://[::1]:8080", true);
        check("http://192.0.2.1:8080", false);
        check("http://localhost.example:8080", false);
    }

    #[test]
    fn missing_token_file_is_an_error_when_asked_for() {
        let sources = CredentialSources {
            token_file: Some("/nonexistent/token".into()),
            ..CredentialSources::default()
        };
        assert!(Credentials::resolve(&sources, &url("http://127.0.0.1")).is_err());
    }

    #[test]
    fn call_id_is_the_end_of_the_location() {
        let mut headers = HeaderMap::new();
        headers.insert("x-call-id", HeaderValue::from_static("theirs"));
        assert_eq!(call_id(&headers).as_deref(), Some("theirs"));
        headers.insert("location", HeaderValue::from_static("/weir/v1/calls/ours"));
        assert_eq!(call_id(&headers).as_deref(), Some("ours"));
    }

    #[tokio::test]
    async fn refused_connection_is_told_in_one_line() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let node = format!("http://{}", listener.local_addr().expect("bound"));
        drop(listener);
        let client = Client::new(&url(&node), &Credentials::Anonymous, None).expect("a client");
        let error = client
            .send(client.request(Method::GET, "/"))
            .await
            .expect_err("nobody listens");
        let expected =
            format!("cannot reach the node at {node}: connection refused; is `weir run` running?");
        assert_eq!(error.to_string(), expected);
    }
}
