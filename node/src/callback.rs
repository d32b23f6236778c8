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
mod tests;
