//! The Lambda Runtime API, as the node serves it inside a container's network
//! namespace: the container asks for calls and brings their answers.
//!
//! | method | path, after `/2018-06-01/runtime` | answer |
//! |---|---|---|
//! | GET | `/invocation/next` | the next call, when there is one |
//! | POST | `/invocation/{id}/response` | 202; the body is the call's answer |
//! | POST | `/invocation/{id}/error` | 202; the body says why the call failed |
//! | POST | `/init/error` | 202; the body says why there will be no calls |
//!
//! One call at a time: a container that waits for the next is idle.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::death::Death;
use crate::protocol::{WRAPPED_BYTES, json_answer, read, unread};
use crate::{AnswerBody, Body, CallError};

/// Where a container finds the API, in its own namespace.
pub(crate) const PORT: u16 = 9001;

/// Connections of one container at once. A runtime uses one or two.
const CONNECTIONS: usize = 16;

/// What all paths begin with.
const PREFIX: &str = "/2018-06-01/runtime/";

/// Says on an answer that the function raised an error, as Lambda itself does.
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The API of one container.
pub(crate) struct Runtime {
    shared: Arc<Shared>,
    calls: mpsc::Sender<Event>,
    /// Ends all connections.
    _end: DropGuard,
}

struct Shared {
    function: String,
    /// Whether the container asked for a call yet, or why it never will.
    ready: watch::Sender<Ready>,
    waiting: tokio::sync::Mutex<mpsc::Receiver<Event>>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Ready {
    NotYet,
    Yes,
    Never(String),
}

/// A call on its way to the container.
struct Event {
    id: String,
    payload: Bytes,
    deadline_millis: u64,
    trace: Option<String>,
}

/// A call whose answer is awaited.
struct Running {
    id: String,
    /// Whether the container was given it.
    begun: bool,
    answer: oneshot::Sender<Response<AnswerBody>>,
}

impl Runtime {
    /// Serves the API on `listener` until this is dropped.
    pub(crate) fn serve(
        listener: TcpListener,
        function: &str,
        spawn: impl FnOnce(futures_util::future::BoxFuture<'static, ()>),
    ) -> Runtime {
        let (calls, waiting) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            function: function.to_owned(),
            ready: watch::Sender::new(Ready::NotYet),
            waiting: tokio::sync::Mutex::new(waiting),
            running: Mutex::default(),
        });
        let end = CancellationToken::new();
        let serving = serve(listener, shared.clone(), end.clone());
        spawn(Box::pin(serving));
        Runtime {
            shared,
            calls,
            _end: end.drop_guard(),
        }
    }

    /// Waits until the container asks for its first call.
    ///
    /// # Errors
    /// What it says of why it cannot.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        let mut ready = self.shared.ready.subscribe();
        let known = ready.wait_for(|ready| *ready != Ready::NotYet).await;
        match known.as_deref() {
            Ok(Ready::Never(reason)) => Err(reason.clone()),
            Ok(Ready::Yes | Ready::NotYet) | Err(_) => Ok(()),
        }
    }

    /// Hands a call to the container and waits for what it brings back.
    pub(crate) async fn call(
        &self,
        request: Request<Body>,
        id: u128,
        left: Duration,
        death: &Death,
    ) -> Result<Response<AnswerBody>, CallError> {
        let (head, body) = request.into_parts();
        let payload = read(body).await.map_err(unread)?;
        let id = uuid(id);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let end = now.unwrap_or_default().saturating_add(left);
        let millis = end.as_millis();
        let event = Event {
            id: id.clone(),
            payload: event(&head, &payload),
            deadline_millis: u64::try_from(millis).unwrap_or(u64::MAX),
            trace: trace(&head.headers),
        };
        let (answer, answered) = oneshot::channel();
        *self.shared.running() = Some(Running {
            id,
            begun: false,
            answer,
        });
        // Of a call that was given up, the container may not have heard yet.
        let handed = self.calls.reserve().await;
        let reason = match handed {
            Ok(place) => {
                place.send(event);
                tokio::select! {
                    biased;
                    answer = answered => match answer {
                        Ok(answer) => return Ok(answer),
                        Err(_) => "it asked for another call before it answered".to_owned(),
                    },
                    reason = death.wait() => reason,
                }
            }
            Err(_) => death.wait().await,
        };
        let begun = self
            .shared
            .running()
            .take()
            .is_none_or(|running| running.begun);
        if begun {
            return Err(CallError::Lost(reason));
        }
        let body = Full::new(payload).map_err(|never| match never {});
        let request = Request::from_parts(head, body.boxed_unsync());
        Err(CallError::NotStarted {
            reason,
            request: Some(Box::new(request)),
        })
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock()
    }

    /// The next call, when there is one.
    async fn next(&self) -> Response<Full<Bytes>> {
        // Whoever asks again has given up what it was given before.
        self.running().take_if(|running| running.begun);
        self.ready.send_if_modified(|ready| {
            let first = *ready == Ready::NotYet;
            if first {
                *ready = Ready::Yes;
            }
            first
        });
        let event = self.waiting.lock().await.recv().await;
        let Some(event) = event else {
            return say(StatusCode::GONE, "there will be no more calls");
        };
        match &mut *self.running() {
            Some(running) if running.id == event.id => running.begun = true,
            // Nobody waits for it any more.
            Some(_) | None => return say(StatusCode::GONE, "the call was given up"),
        }
        let mut response = Response::new(Full::new(event.payload));
        let headers = response.headers_mut();
        let arn = format!(
            "arn:aws:lambda:weir:000000000000:function:{}",
            self.function
        );
        let told = [
            ("lambda-runtime-aws-request-id", Some(event.id)),
            (
                "lambda-runtime-deadline-ms",
                Some(event.deadline_millis.to_string()),
            ),
            ("lambda-runtime-invoked-function-arn", Some(arn)),
            ("lambda-runtime-trace-id", event.trace),
        ];
        for (name, value) in told {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    fn answer(&self, id: &str, answer: Response<AnswerBody>) -> Response<Full<Bytes>> {
        let running = self
            .running()
            .take_if(|running| running.begun && running.id == id);
        match running {
            Some(running) => {
                // Should nobody wait any more, the container need not know.
                let _ = running.answer.send(answer);
                accepted()
            }
            None => say(
                StatusCode::BAD_REQUEST,
                "no call with this id waits for an answer",
            ),
        }
    }
}

fn accepted() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("{\"status\":\"OK\"}"));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn say(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let text = serde_json::json!({ "errorMessage": message, "errorType": "InvalidRequest" });
    let mut response = Response::new(Full::from(text.to_string()));
    *response.status_mut() = status;
    response
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, end: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let shared = shared.clone();
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(answer(&shared, request).await) }
            });
            connections.spawn(async move {
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
    };
    let _ = end.run_until_cancelled(accepting).await;
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    match (&head.method, path) {
        (&Method::GET, "invocation/next") => shared.next().await,
        (&Method::POST, "init/error") => {
            let said = collect(body).await.unwrap_or_default();
            let reason = format!("the function cannot be loaded: {}", error_of(&said));
            shared.ready.send_replace(Ready::Never(reason));
            accepted()
        }
        (&Method::POST, path) => {
            let Some((id, what)) = path
                .strip_prefix("invocation/")
                .and_then(|rest| rest.split_once('/'))
            else {
                return say(StatusCode::NOT_FOUND, "there is nothing here");
            };
            let Some(body) = collect(body).await else {
                return say(StatusCode::PAYLOAD_TOO_LARGE, "the answer is too large");
            };
            match what {
                "response" => shared.answer(id, json_answer(StatusCode::OK, body)),
                "error" => {
                    let mut failed = json_answer(StatusCode::BAD_GATEWAY, body);
                    let unhandled = HeaderValue::from_static("Unhandled");
                    failed.headers_mut().insert(FUNCTION_ERROR, unhandled);
                    shared.answer(id, failed)
                }
                _ => say(StatusCode::NOT_FOUND, "there is nothing here"),
            }
        }
        _ => say(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

/// A whole body; `None` when it is too large or broke off.
async fn collect(body: Incoming) -> Option<Bytes> {
    let body = Limited::new(body, WRAPPED_BYTES).collect().await;
    body.ok().map(http_body_util::Collected::to_bytes)
}

fn error_of(said: &[u8]) -> String {
    let parsed = serde_json::from_slice::<Value>(said).unwrap_or_default();
    match (
        parsed["errorType"].as_str(),
        parsed["errorMessage"].as_str(),
    ) {
        (Some(kind), Some(message)) => format!("{kind}: {message}"),
        (None, Some(message)) => message.to_owned(),
        (_, None) => "it does not say why".to_owned(),
    }
}

/// What the function gets: the body as it came, or the query's parameters
/// where there is none.
fn event(head: &http::request::Parts, body: &Bytes) -> Bytes {
    if !body.is_empty() {
        return body.clone();
    }
    let query = head.uri.query().unwrap_or_default();
    let parameters: Map<String, Value> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect();
    Value::Object(parameters).to_string().into()
}

/// A call's id in the form that Lambda's are in.
fn uuid(id: u128) -> String {
    let hex = format!("{id:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// The caller's trace in the form of X-Ray: of the 32 digits of its id, eight
/// stand for the time.
fn trace(headers: &HeaderMap) -> Option<String> {
    let parent = headers.get(TRACEPARENT)?.to_str().ok()?;
    let mut parts = parent.split('-');
    let (_, id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (time, rest) = id.split_at_checked(8)?;
    let sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
    let sampled = u8::from(sampled);
    Some(format!(
        "Root=1-{time}-{rest};Parent={span};Sampled={sampled}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_traces_are_in_the_forms_of_lambda() {
        let id = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
        assert_eq!(uuid(id), "00112233-4455-6677-8899-aabbccddeeff");
        let mut headers = HeaderMap::new();
        assert_eq!(trace(&headers), None);
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert(TRACEPARENT, HeaderValue::from_static(parent));
        let expected = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1";
        assert_eq!(trace(&headers).as_deref(), Some(expected));
    }

    #[test]
    fn a_call_without_a_body_has_its_query_for_an_event() {
        let request = Request::builder().uri("/?a=1&b=x%20y").body(());
        let (head, ()) = request.expect("valid").into_parts();
        assert_eq!(event(&head, &Bytes::new()), r#"{"a":"1","b":"x y"}"#);
        assert_eq!(event(&head, &Bytes::from_static(b"[1]")), "[1]");
    }
}
