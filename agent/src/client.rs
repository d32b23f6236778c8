//! The way from a command to a node: one HTTP client with its credentials,
//! and errors that say what to do next.

mod credentials;
mod trust;

use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use reqwest::{RequestBuilder, Response, Url};
use weir_node::resolve::Resolver;

pub use self::credentials::{CredentialSources, Credentials};
use self::trust::{tls, tls_reason};

/// How long a node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer that is held whole: a list of every function that a node may
/// have. Bodies of functions are streamed instead.
const ANSWER_BYTES: usize = 64 << 20;

/// Longest error text that is shown.
const MESSAGE_BYTES: usize = 4096;

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

/// The call id that the answer to an accepted asynchronous call carries.
pub fn call_id(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let location = text("location").and_then(|path| path.rsplit('/').next());
    location.or_else(|| text("x-call-id")).map(str::to_owned)
}

#[cfg(test)]
mod tests;
