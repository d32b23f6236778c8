//! What the node itself answers when there is no answer of a function: a
//! status, a word for programs, and a sentence for people.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use weir_node::artifact::PutError;
use weir_node::invocation::{InvokeError, Refusal};
use weir_node::node::{ChangeError, SubmitError};
use weir_node::panics::Panicked;
use weir_node::store::StoreError;

use crate::http::body::BodyFault;
use crate::http::reply::Reply;
use crate::telemetry::chain;

/// The word of an error, for programs.
pub const ERROR: HeaderName = HeaderName::from_static("x-weir-error");

/// Marks answers that are the platform's and not a function's, as OpenFaaS
/// clients look for it.
const INTERNAL: HeaderName = HeaderName::from_static("x-openfaas-internal");

const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// An answer that says what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// One kebab-case word, as `X-Weir-Error` and metrics have it.
    pub word: &'static str,
    /// What was wrong, where, and what to do next.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The methods that would have been right.
    pub allow: Option<&'static str>,
}

impl Problem {
    /// A problem with nothing but its status, word and message.
    pub fn new(status: StatusCode, word: &'static str, message: impl Into<String>) -> Self {
        Problem {
            status,
            word,
            message: message.into(),
            retry_after: None,
            allow: None,
        }
    }

    /// The request is at fault.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    /// There is nothing of that name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    /// The path exists, the method does not; `allow` lists those that do.
    pub fn method(allow: &'static str) -> Self {
        let message = format!("this path has no such method: use {allow}");
        Problem {
            allow: Some(allow),
            ..Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                message,
            )
        }
    }

    /// A body beyond its bound, which `setting` sets.
    pub fn too_large(limit: u64, setting: &str) -> Self {
        let message =
            format!("the request body is larger than {limit} bytes, the most taken ({setting})");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", message)
    }

    /// What stands for a body that ended by `fault`; `limit` is its bound.
    pub fn body(fault: BodyFault, limit: u64, setting: &str) -> Self {
        match fault {
            BodyFault::TooLarge => Problem::too_large(limit, setting),
            BodyFault::TooSlow => Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body-timeout",
                "the rest of the request body did not come in time (http.body-timeout)",
            ),
            BodyFault::Broken => Problem::new(
                StatusCode::BAD_REQUEST,
                "body",
                "the request body broke off, or is not what its headers say",
            ),
        }
    }

    /// Refused because a bound of this door is reached for the moment.
    pub fn busy(word: &'static str, message: impl Into<String>) -> Self {
        Problem {
            retry_after: Some(Duration::from_secs(1)),
            ..Problem::new(StatusCode::TOO_MANY_REQUESTS, word, message)
        }
    }

    /// Others are needed for it, who cannot be had for the moment.
    pub fn unavailable(word: &'static str, message: impl Into<String>) -> Self {
        Problem {
            retry_after: Some(Duration::from_secs(1)),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, word, message)
        }
    }

    /// The answer.
    pub fn render(self) -> Response<Reply> {
        let mut response = Response::new(Reply::from(self.message + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PLAIN_TEXT);
        headers.insert(ERROR, HeaderValue::from_static(self.word));
        headers.insert(INTERNAL, HeaderValue::from_static("weir"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(after) = self.retry_after {
            // Rounded up: a client that comes early is refused again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let basic = HeaderValue::from_static("Basic realm=\"Restricted\"");
            headers.insert(WWW_AUTHENTICATE, basic);
        }
        response
    }
}

fn fault(error: &(dyn Error + Send + Sync + 'static)) -> BodyFault {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(fault) = error.downcast_ref::<BodyFault>() {
            return *fault;
        }
        cause = error.source();
    }
    BodyFault::Broken
}

impl From<InvokeError> for Problem {
    fn from(error: InvokeError) -> Self {
        let message = error.to_string();
        match error {
            InvokeError::Unknown(_) => {
                Problem::new(StatusCode::NOT_FOUND, "unknown-function", message)
            }
            InvokeError::Class(_) => Problem::new(StatusCode::BAD_REQUEST, "class", message),
            InvokeError::Refused {
                reason,
                retry_after,
            } => {
                let status = match reason {
                    Refusal::QueueFull
                    | Refusal::TooManyCalls
                    | Refusal::Overloaded
                    | Refusal::WaitedTooLong
                    | Refusal::BacklogFull
                    | Refusal::RateLimit
                    | Refusal::NoRoom
                    | Refusal::NobodyHasRoom
                    | Refusal::TooManyOpen => StatusCode::TOO_MANY_REQUESTS,
                    // Not its load: it will not come back.
                    Refusal::Draining => StatusCode::SERVICE_UNAVAILABLE,
                };
                Problem {
                    retry_after: Some(retry_after),
                    ..Problem::new(status, reason.as_str(), message)
                }
            }
            InvokeError::CannotRun { .. } => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "cannot-run", message)
            }
            InvokeError::Late { .. } => Problem::new(StatusCode::GATEWAY_TIMEOUT, "late", message),
            InvokeError::Failed(_) => {
                Problem::new(StatusCode::BAD_GATEWAY, "function-failed", message)
            }
            InvokeError::PeerLost(_) => Problem::new(StatusCode::BAD_GATEWAY, "peer-lost", message),
            InvokeError::Unfit(_) => {
                Problem::new(StatusCode::BAD_REQUEST, "unfit-request", message)
            }
            InvokeError::Internal(panicked) => panicked.into(),
            // The bound is unknown here; whoever set it knows better.
            InvokeError::Body(source) => Problem::body(fault(&*source), 0, "http.body-bytes"),
        }
    }
}

impl From<Panicked> for Problem {
    fn from(panicked: Panicked) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Problem::new(status, "internal", panicked.to_string())
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invoke(error) => error.into(),
            SubmitError::Callback(_) => {
                Problem::new(StatusCode::BAD_REQUEST, "callback", chain(&error))
            }
            SubmitError::TooLarge { limit } => Problem::too_large(limit, "http.async-body-bytes"),
            SubmitError::Body(source) => {
                Problem::body(fault(&*source), u64::MAX, "http.async-body-bytes")
            }
            SubmitError::NoCopies { .. } => Problem::unavailable("no-copies", chain(&error)),
            SubmitError::Store(StoreError::BacklogFull) => {
                Problem::busy(Refusal::BacklogFull.as_str(), chain(&error))
            }
            SubmitError::Store(ref source) => {
                let message = chain(&error);
                let full = matches!(source, StoreError::Full);
                // A full disk refuses each call alike.
                if !full || is_due(&DISK_FULL_TOLD) {
                    tracing::error!(error = message, "an asynchronous call was not accepted");
                }
                store(full, message)
            }
        }
    }
}

/// When it was logged last that the disk is full, in seconds since 1970.
static DISK_FULL_TOLD: AtomicU64 = AtomicU64::new(0);

/// Between two lines about the same.
const LINE_INTERVAL_SECONDS: u64 = 60;

/// Whether a line is due that was written last at `told`.
fn is_due(told: &AtomicU64) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let last = told.load(Ordering::Relaxed);
    let due = now.saturating_sub(last) >= LINE_INTERVAL_SECONDS;
    due && told
        .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
}

fn store(full: bool, message: String) -> Problem {
    if full {
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, "disk-full", message)
    } else {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store", message)
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NotFound(message) => Problem::not_found(message),
            ChangeError::Exists(message) => Problem::new(StatusCode::CONFLICT, "exists", message),
            ChangeError::Invalid(message) => Problem::bad_request(message),
            ChangeError::NotYet(message) => Problem::unavailable("not-yet", message),
            ChangeError::Full(message) => {
                Problem::new(StatusCode::INSUFFICIENT_STORAGE, "full", message)
            }
            ChangeError::Store { .. } => {
                let message = chain(&error);
                tracing::error!(error = message, "a change was not kept");
                store(false, message)
            }
        }
    }
}

impl From<PutError> for Problem {
    fn from(error: PutError) -> Self {
        let message = error.to_string();
        match error {
            PutError::TooLarge { .. } => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", message)
            }
            PutError::DigestMismatch { .. } => {
                Problem::new(StatusCode::BAD_REQUEST, "digest", message)
            }
            PutError::DiskBudget { .. } | PutError::NoSpace => store(true, message),
            PutError::Body(source) => {
                Problem::body(fault(&*source), u64::MAX, "artifacts.max-bytes")
            }
            PutError::Io { .. } => {
                let message = chain(&error);
                tracing::error!(error = message, "an artifact was not kept");
                store(false, message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_node::invocation::Phase;

    use super::*;

    fn check(problem: impl Into<Problem>, status: u16, word: &str) {
        let response = problem.into().render();
        let headers = response.headers();
        assert_eq!(
            (response.status().as_u16(), &headers[ERROR]),
            (status, &HeaderValue::from_str(word).expect("a word"))
        );
        assert!(headers.contains_key("x-openfaas-internal"));
    }

    #[test]
    fn every_failure_of_a_call_has_its_status() {
        let name = || "f".parse().expect("valid");
        check(InvokeError::Unknown(name()), 404, "unknown-function");
        check(InvokeError::Class("no".to_owned()), 400, "class");
        check(
            InvokeError::Failed("trap".to_owned()),
            502,
            "function-failed",
        );
        check(
            InvokeError::Late {
                phase: Phase::Run,
                after: Duration::from_secs(30),
            },
            504,
            "late",
        );
        let reason = "does not compile".to_owned();
        check(
            InvokeError::CannotRun {
                function: name(),
                reason,
            },
            503,
            "cannot-run",
        );
        check(
            InvokeError::Body(BodyFault::TooSlow.into()),
            408,
            "body-timeout",
        );
        check(
            InvokeError::Body(BodyFault::TooLarge.into()),
            413,
            "body-too-large",
        );
        check(InvokeError::Body(BodyFault::Broken.into()), 400, "body");
        check(InvokeError::Internal(Panicked), 500, "internal");
    }

    #[test]
    fn refusal_for_load_says_when_to_come_back() {
        for (wait, header) in [(0, "1"), (1000, "1"), (1001, "2")] {
            let refused = InvokeError::Refused {
                reason: Refusal::QueueFull,
                retry_after: Duration::from_millis(wait),
            };
            let response = Problem::from(refused).render();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(response.headers()[RETRY_AFTER], header);
        }
    }

    #[test]
    fn draining_node_is_unavailable_and_not_busy() {
        let retry_after = Duration::from_secs(1);
        check(
            InvokeError::Refused {
                reason: Refusal::Draining,
                retry_after,
            },
            503,
            "draining",
        );
    }

    #[test]
    fn changes_have_the_statuses_that_clients_know() {
        check(ChangeError::NotFound("x".into()), 404, "not-found");
        check(ChangeError::Exists("x".into()), 409, "exists");
        check(ChangeError::Invalid("x".into()), 400, "bad-request");
        check(ChangeError::Full("x".into()), 507, "full");
        check(ChangeError::NotYet("x".into()), 503, "not-yet");
        check(PutError::TooLarge { limit: 1 }, 413, "body-too-large");
        check(PutError::NoSpace, 507, "disk-full");
        check(SubmitError::Store(StoreError::Full), 507, "disk-full");
        check(
            SubmitError::Store(StoreError::BacklogFull),
            429,
            "backlog-full",
        );
        check(SubmitError::TooLarge { limit: 1 }, 413, "body-too-large");
    }

    #[test]
    fn wrong_method_lists_the_right_ones() {
        let response = Problem::method("GET, HEAD").render();
        assert_eq!(response.headers()[ALLOW], "GET, HEAD");
    }
}
