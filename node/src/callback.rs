//! Sends the result of an asynchronous call to where its caller asked.
//!
//! The target comes from a stranger and the request from inside this network,
//! so it is checked when the call is submitted, and again on the address that
//! is connected to: not on the name, which may resolve to anything later.
//! Redirects are not followed and no proxy is asked, for the same reason.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use reqwest::{Client, Url};

use crate::answer;
use crate::config::AsyncConfig;
use crate::executor::Body;
use crate::id::CallId;
use crate::resolve::{self, LocalAddress, PublicOnly, Resolver};
use crate::store::{BodyPart, CallbackState, PendingCallback, ResultRecord, Store, StoreError};

/// Longest callback URL, in bytes.
const URL_BYTES: usize = 2048;

/// Longest wait for a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Longest delivery, from the lookup to the head of the answer.
const DELIVERY_TIME: Duration = Duration::from_secs(30);

/// Wait after the first failed attempt. Each further one is [`GROWTH`] times as
/// long, up to [`LONGEST_WAIT`]: with five attempts, a target that restarts has
/// about a minute and a half.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const GROWTH: u32 = 4;
const LONGEST_WAIT: Duration = Duration::from_secs(300);

const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const WEIR_CALL_ID: HeaderName = HeaderName::from_static("x-weir-call-id");
const DURATION: HeaderName = HeaderName::from_static("x-duration-seconds");
const STATUS: HeaderName = HeaderName::from_static("x-function-status");
const NAME: HeaderName = HeaderName::from_static("x-function-name");

/// Why a callback URL is refused at submission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCallback {
    /// It is no URL that a result can be sent to.
    #[error("bad callback URL: {0}")]
    Url(String),
    /// It leads to an address that only configuration allows.
    #[error("bad callback URL")]
    Local(#[source] LocalAddress),
}

/// Where a result is to be sent. Shows itself without user, password and query,
/// which may hold what others must not read.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackUrl(Url);

impl CallbackUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, BadCallback> {
        let bad = |reason: String| BadCallback::Url(reason);
        if text.len() > URL_BYTES {
            return Err(bad(format!("it is longer than {URL_BYTES} bytes")));
        }
        let mut url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(format!("{} is not http or https", url.scheme())));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("it names no host".to_owned()));
        }
        url.set_fragment(None);
        Ok(CallbackUrl(url))
    }

    /// The whole URL, to be kept.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The address that its host is, when that is not a name.
    fn literal(&self) -> Option<LocalAddress> {
        let host = self.0.host_str()?;
        let address = resolve::literal(host)?;
        Some(LocalAddress {
            host: host.to_owned(),
            address,
        })
    }
}

impl fmt::Display for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // Neither fails for the schemes that are allowed.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.set_query(None);
        shown.fmt(f)
    }
}

impl fmt::Debug for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a result was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// The target may not be one.
    #[error("the target is not allowed")]
    Target(#[source] BadCallback),
    /// Nothing could be sent, or no answer came.
    #[error("send the result")]
    Send(#[source] reqwest::Error),
    /// The target answered something other than success.
    #[error("the target answered {0}")]
    Answer(http::StatusCode),
    /// The body of the result could not be read.
    #[error("read the result's body")]
    Body(#[source] io::Error),
    /// The result could not be read, or the delivery not noted.
    #[error("read or note the result")]
    Store(#[source] StoreError),
    /// The result has expired.
    #[error("the result has expired")]
    Expired,
}

/// What is sent.
pub struct Delivery {
    /// The call.
    pub id: CallId,
    /// Its result.
    pub result: ResultRecord,
    /// The result's body.
    pub body: Body,
}

/// Delivers results. Clones share one HTTP client, made at the first use.
#[derive(Clone)]
pub struct Callbacks {
    inner: Arc<Inner>,
}

struct Inner {
    resolver: Resolver,
    attempts: u32,
    local: bool,
    first_wait: Duration,
    client: OnceLock<Client>,
}

impl Callbacks {
    /// Delivers within the bounds of `config`.
    pub fn new(resolver: Resolver, config: &AsyncConfig) -> Self {
        let inner = Inner {
            resolver,
            attempts: config.callback_attempts,
            local: config.callback_local,
            first_wait: FIRST_WAIT,
            client: OnceLock::new(),
        };
        Callbacks {
            inner: Arc::new(inner),
        }
    }

    /// Checks a URL as far as it can be checked without looking it up.
    pub fn parse(&self, text: &str) -> Result<CallbackUrl, BadCallback> {
        let url = CallbackUrl::parse(text)?;
        match url.literal() {
            Some(target) if !self.inner.local && !PublicOnly::allows(target.address) => {
                Err(BadCallback::Local(target))
            }
            _ => Ok(url),
        }
    }

    /// Delivers a callback from the store, attempt after attempt, and notes
    /// there how it ended. Dropped before that, it is still pending.
    pub async fn deliver(
        &self,
        store: &Store,
        callback: &PendingCallback,
    ) -> Result<(), CallbackError> {
        let mut attempts = 0;
        let delivered = loop {
            let error = match self.attempt(store, callback).await {
                Ok(()) => break Ok(()),
                Err(error) => error,
            };
            attempts += 1;
            match self
                .next_attempt(attempts)
                .filter(|_| worth_repeating(&error))
            {
                Some(wait) => tokio::time::sleep(wait).await,
                None => break Err(error),
            }
        };
        let state = match delivered {
            Ok(()) => CallbackState::Delivered,
            Err(_) => CallbackState::GivenUp,
        };
        store
            .callback_done(callback.id, state)
            .await
            .map_err(CallbackError::Store)?;
        delivered
    }

    async fn attempt(
        &self,
        store: &Store,
        callback: &PendingCallback,
    ) -> Result<(), CallbackError> {
        let id = callback.id;
        let url = self.parse(&callback.url).map_err(CallbackError::Target)?;
        let result = store.result(id).await.map_err(CallbackError::Store)?;
        let result = result.ok_or(CallbackError::Expired)?;
        let body = store.open_body(id, BodyPart::Result, &result.body).await;
        let body = body.map_err(CallbackError::Body)?;
        self.deliver_once(&url, Delivery { id, result, body }).await
    }

    /// Sends a result once.
    pub async fn deliver_once(
        &self,
        url: &CallbackUrl,
        delivery: Delivery,
    ) -> Result<(), CallbackError> {
        // Literals never reach the resolver, which checks all others.
        if let Some(target) = url.literal()
            && !self.inner.local
            && !PublicOnly::allows(target.address)
        {
            return Err(CallbackError::Target(BadCallback::Local(target)));
        }
        let client = self.inner.client()?;
        let mut request = client.post(url.0.clone()).headers(headers(&delivery));
        let bytes = delivery.result.body.bytes();
        // With its length, because many small servers read no chunks.
        request = request.header(header::CONTENT_LENGTH, bytes);
        if bytes > 0 {
            request = request.body(reqwest::Body::wrap_stream(delivery.body.into_data_stream()));
        }
        let answer = request
            .send()
            .await
            .map_err(|error| match refused_target(&error) {
                Some(target) => CallbackError::Target(BadCallback::Local(target)),
                None => CallbackError::Send(error.without_url()),
            })?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(CallbackError::Answer(status)),
        }
    }

    /// How long to wait after `attempts` failed ones; `None` when no more are due.
    pub fn next_attempt(&self, attempts: u32) -> Option<Duration> {
        let wait = || wait_after(self.inner.first_wait, attempts, rand::random());
        (attempts < self.inner.attempts).then(wait)
    }
}

impl Inner {
    fn client(&self) -> Result<&Client, CallbackError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.build().map_err(CallbackError::Send)?;
        Ok(self.client.get_or_init(|| client))
    }

    fn build(&self) -> reqwest::Result<Client> {
        let roots = rustls::RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring offers the default TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIME)
            .timeout(DELIVERY_TIME)
            // Targets are many and seldom the same; a kept connection would
            // also outlive the check of its address.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")));
        let builder = match self.local {
            true => builder.dns_resolver(self.resolver.clone()),
            false => builder.dns_resolver(PublicOnly(self.resolver.clone())),
        };
        builder.build()
    }
}

/// The wait after `attempts` failed ones; `chance`, from 0 to 1, takes up to
/// half of it, so that many callbacks to one target do not return together.
fn wait_after(first: Duration, attempts: u32, chance: f64) -> Duration {
    let growth = GROWTH.saturating_pow(attempts.saturating_sub(1));
    let wait = first.saturating_mul(growth).min(LONGEST_WAIT);
    wait.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
}

/// Whether another attempt can end differently.
fn worth_repeating(error: &CallbackError) -> bool {
    match error {
        CallbackError::Send(_) | CallbackError::Answer(_) | CallbackError::Store(_) => true,
        CallbackError::Body(error) => error.kind() != io::ErrorKind::NotFound,
        CallbackError::Target(_) | CallbackError::Expired => false,
    }
}

/// The refusal of [`PublicOnly`], found in what the HTTP client made of it.
fn refused_target(error: &reqwest::Error) -> Option<LocalAddress> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(target) = error.downcast_ref::<LocalAddress>() {
            return Some(target.clone());
        }
        cause = error.source();
    }
    None
}

fn headers(delivery: &Delivery) -> HeaderMap {
    let result = &delivery.result;
    let mut headers = result.headers.clone();
    answer::strip(&mut headers);
    // This side's HTTP client says these.
    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    let duration = format!("{:.6}", result.duration.as_secs_f64());
    let id = delivery.id.to_string();
    let ours = [
        (
            CALL_ID,
            result.caller_id.clone().unwrap_or_else(|| id.clone()),
        ),
        (WEIR_CALL_ID, id),
        (DURATION, duration),
        (STATUS, result.status.as_str().to_owned()),
        (NAME, result.function.to_string()),
    ];
    for (name, value) in ours {
        // A caller's id came as a header, and in a copy from another member.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use bytes::Bytes;
    use http::{Method, Request, Response, StatusCode};
    use http_body_util::{Empty, Full};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;
    use crate::store::{CallRecord, StoredBody, WrittenBody};

    type Seen = Arc<Mutex<Vec<Request<Bytes>>>>;

    /// A target that answers with the given statuses in turn, then with the last.
    async fn target(statuses: &'static [u16]) -> (SocketAddr, Seen) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let seen = Seen::default();
        let noted = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = service_fn(|request: Request<Incoming>| {
                    let noted = noted.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.expect("whole").to_bytes();
                        let mut noted = noted.lock().expect("whole");
                        let status = statuses[noted.len().min(statuses.len() - 1)];
                        noted.push(Request::from_parts(parts, body));
                        let answer = Response::builder()
                            .status(status)
                            .header("location", "/other");
                        Ok::<_, Infallible>(answer.body(Empty::<Bytes>::new()).expect("valid"))
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                // A client that goes away is no failure of the test.
                let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            }
        });
        (address, seen)
    }

    fn callbacks(local: bool, attempts: u32) -> Callbacks {
        let config = AsyncConfig {
            callback_local: local,
            callback_attempts: attempts,
            ..AsyncConfig::default()
        };
        Callbacks::new(Resolver::new(), &config)
    }

    fn result() -> ResultRecord {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("x-call-id", "forged"),
            ("x-twice", "1"),
            ("x-twice", "2"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        ResultRecord {
            function: "f.shop".parse().expect("name"),
            status: StatusCode::IM_A_TEAPOT,
            headers,
            body: StoredBody::Inline(Bytes::from_static(b"hello")),
            error: None,
            accepted_at: jiff::Timestamp::UNIX_EPOCH,
            ended_at: jiff::Timestamp::UNIX_EPOCH,
            duration: Duration::from_micros(1_500_000),
            attempts: 1,
            caller_id: None,
            callback: CallbackState::Pending,
        }
    }

    fn delivery() -> Delivery {
        let body = Full::from("hello")
            .map_err(|never| match never {})
            .boxed_unsync();
        Delivery {
            id: CallId::new([7; 16]),
            result: result(),
            body,
        }
    }

    #[tokio::test]
    async fn target_gets_the_result_and_what_it_belongs_to() {
        let (address, seen) = target(&[200]).await;
        let callbacks = callbacks(true, 1);
        let url = callbacks.parse(&format!("http://localhost:{}/in?a=b", address.port()));
        callbacks
            .deliver_once(&url.expect("valid"), delivery())
            .await
            .expect("delivered");
        let seen = seen.lock().expect("whole");
        let request = &seen[0];
        assert_eq!(
            (request.method(), request.body().as_ref()),
            (&Method::POST, b"hello".as_ref())
        );
        assert_eq!(request.uri(), "/in?a=b");
        let header = |name: &str| {
            let values = request.headers().get_all(name).iter();
            values
                .map(|value| value.to_str().expect("text"))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(header("x-call-id"), "07".repeat(16));
        assert_eq!(header("x-weir-call-id"), "07".repeat(16));
        assert_eq!(header("x-duration-seconds"), "1.500000");
        assert_eq!(header("x-function-status"), "418");
        assert_eq!(header("x-function-name"), "f.shop");
        assert_eq!(header("content-type"), "text/plain");
        assert_eq!(header("content-length"), "5");
        assert_eq!(header("x-twice"), "1,2");
        assert_eq!(
            (header("x-hop"), header("transfer-encoding")),
            (String::new(), String::new())
        );
    }

    #[tokio::test]
    async fn redirect_is_an_answer_and_not_followed() {
        let (address, seen) = target(&[302]).await;
        let callbacks = callbacks(true, 1);
        let url = callbacks
            .parse(&format!("http://{address}/"))
            .expect("valid");
        let refused = callbacks.deliver_once(&url, delivery()).await;
        assert!(
            matches!(refused, Err(CallbackError::Answer(StatusCode::FOUND))),
            "{refused:?}"
        );
        assert_eq!(seen.lock().expect("whole").len(), 1);
    }

    #[tokio::test]
    async fn local_target_is_refused_by_address_and_by_name() {
        let (address, seen) = target(&[200]).await;
        let callbacks = callbacks(false, 5);
        for host in [
            "127.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "2130706433",
            "0x7f.1",
            "10.0.0.1",
        ] {
            let refused = callbacks.parse(&format!("http://{host}:{}/", address.port()));
            assert!(
                matches!(refused, Err(BadCallback::Local(_))),
                "{host}: {refused:?}"
            );
        }
        // A name passes at submission; its address does not at delivery.
        let url = callbacks
            .parse(&format!("http://localhost:{}/", address.port()))
            .expect("a name");
        let refused = callbacks.deliver_once(&url, delivery()).await;
        let local = matches!(refused, Err(CallbackError::Target(BadCallback::Local(_))));
        assert!(local, "{refused:?}");
        // What was parsed elsewhere does not slip through either.
        let url = CallbackUrl::parse(&format!("http://{address}/")).expect("a URL");
        let refused = callbacks.deliver_once(&url, delivery()).await;
        assert!(
            matches!(refused, Err(CallbackError::Target(_))),
            "{refused:?}"
        );
        assert!(seen.lock().expect("whole").is_empty());
    }

    #[test]
    fn bad_callback_url_is_named_as_such() {
        let callbacks = callbacks(true, 1);
        for bad in [
            "",
            "/path",
            "ftp://host/",
            "http://",
            "javascript:alert(1)",
            "http://a b/",
        ] {
            let error = callbacks.parse(bad).expect_err(bad);
            assert!(error.to_string().starts_with("bad callback URL"), "{error}");
        }
        assert!(
            callbacks
                .parse(&format!("http://h/{}", "x".repeat(URL_BYTES)))
                .is_err()
        );
        let url = callbacks
            .parse("https://user:pass@host/in?key=1#part")
            .expect("valid");
        assert_eq!(url.as_str(), "https://user:pass@host/in?key=1");
        assert_eq!(url.to_string(), "https://host/in");
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        let seconds = |attempts, chance| wait_after(FIRST_WAIT, attempts, chance).as_secs_f64();
        assert_eq!(
            [1, 2, 3, 4].map(|attempts| seconds(attempts, 0.0)),
            [1.0, 4.0, 16.0, 64.0]
        );
        assert_eq!(seconds(4, 1.0), 32.0);
        assert_eq!(seconds(u32::MAX, 0.0), 300.0);
        let callbacks = callbacks(true, 2);
        assert!(callbacks.next_attempt(1).is_some() && callbacks.next_attempt(2).is_none());
    }

    #[tokio::test]
    async fn delivery_is_tried_again_until_it_is_taken() {
        let check = async |statuses, attempts, seen_attempts, state| {
            let dir = tempfile::tempdir().expect("temporary folder");
            let config = AsyncConfig::default();
            let (store, _) = Store::open(dir.path(), (&config).into()).expect("opens");
            let (address, seen) = target(statuses).await;
            let id = CallId::new([9; 16]);
            let url = format!("http://{address}/");
            let call = CallRecord {
                id,
                function: "f".parse().expect("name"),
                method: Method::GET,
                path: "/".to_owned(),
                headers: HeaderMap::new(),
                body: StoredBody::EMPTY,
                class: None,
                deadline: None,
                accepted_at: jiff::Timestamp::UNIX_EPOCH,
                callback: Some(url.clone()),
                caller_id: None,
                attempts: 0,
                durable: 0,
            };
            store
                .accept(call, WrittenBody::inline(""))
                .await
                .expect("accepted");
            let long = vec![7; 100_000];
            let body = Full::from(long.clone())
                .map_err(|never| match never {})
                .boxed_unsync();
            let body = store
                .keep_body(id, BodyPart::Result, body, 1 << 20)
                .await
                .expect("kept");
            store.complete(id, result(), body).await.expect("kept");
            let mut callbacks = callbacks(true, attempts);
            let inner = Arc::get_mut(&mut callbacks.inner).expect("not shared yet");
            inner.first_wait = Duration::ZERO;
            let delivered = callbacks
                .deliver(&store, &PendingCallback { id, url })
                .await;
            assert_eq!(
                delivered.is_ok(),
                state == CallbackState::Delivered,
                "{delivered:?}"
            );
            let seen = std::mem::take(&mut *seen.lock().expect("whole"));
            assert_eq!(seen.len(), seen_attempts);
            assert!(seen.iter().all(|request| request.body() == &long));
            let kept = store.result(id).await.expect("read").expect("there");
            assert_eq!(kept.callback, state);
        };
        check(&[503, 200], 5, 2, CallbackState::Delivered).await;
        check(&[500], 1, 1, CallbackState::GivenUp).await;
    }
}
