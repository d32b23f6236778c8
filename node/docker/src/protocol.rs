//! What is said over a connection to an instance.
//!
//! | protocol | the container | request | answer |
//! |---|---|---|---|
//! | `http` | serves any HTTP on 8080, as of-watchdog does | as it came | as it is |
//! | `runtime` | dials the node's socket and serves HTTP on it | as it came, and `X-Weir-Deadline-Ms` | as it is |
//! | `openwhisk` | serves `/init` once and `/run` on 8080 | the body's JSON object and the query as `value` | the JSON object; an error is a 502 |
//! | `serverledge` | serves `/invoke` on 8080 | the same as `Params` | `Result`; no `Success` is a 502 |
//! | `lambda` | asks the node's Runtime API for calls ([`crate::lambda`]) | the body, or the query as an object | as it is; an error is a 502 |

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Map, Value, json};

use crate::lambda;
use crate::link::Driven;
use crate::{AnswerBody, Body, BodyError, CallError, Sink};

/// Largest body that is made into JSON for those protocols that wrap it.
pub(crate) const WRAPPED_BYTES: usize = 16 << 20;

/// Milliseconds that a call has left, for our own runtimes.
const DEADLINE: http::HeaderName = http::HeaderName::from_static("x-weir-deadline-ms");

/// Where Lambda images look for code.
pub const LAMBDA_TASK_ROOT: &str = "/var/task";

/// What an OpenWhisk container writes at the end of each run.
const WHISK_MARKER: &str = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX";

/// How an instance is spoken to.
#[derive(Debug, Clone)]
pub enum Protocol {
    /// HTTP on 8080.
    Http,
    /// HTTP over the socket that the container dials.
    Runtime,
    /// The OpenWhisk action protocol.
    OpenWhisk(Action),
    /// The Serverledge executor protocol.
    Serverledge {
        /// What the image is to call; empty for custom images.
        handler: String,
    },
    /// The Lambda Runtime API, which the container dials.
    Lambda {
        /// What the image is to call, as its command; empty for the image's own.
        handler: String,
    },
}

/// What an OpenWhisk container is initialised with.
#[derive(Debug, Clone, Default)]
pub struct Action {
    /// Name of the action.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Entry point; `main` when nobody says.
    pub main: String,
    /// Source text, or base64 of an archive; empty for an image of its own.
    pub code: String,
    /// Whether `code` is base64.
    pub is_binary: bool,
    /// Environment of the code.
    pub env: Vec<(String, String)>,
}

/// What was said to an instance so far.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    /// Whether it was given its code. Runs of such instances never overlap.
    initialised: AtomicBool,
}

impl Conversation {
    /// What must be said before the first call.
    pub(crate) fn first(&self, protocol: &Protocol) -> Option<Request<Body>> {
        let Protocol::OpenWhisk(action) = protocol else {
            return None;
        };
        if self.initialised.load(Ordering::Relaxed) {
            return None;
        }
        let env: Map<String, Value> = action
            .env
            .iter()
            .map(|(name, value)| (name.clone(), Value::String(value.clone())))
            .collect();
        let value = json!({ "name": action.name, "main": action.main, "code": action.code,
            "binary": action.is_binary, "env": env });
        Some(post("/init", &json!({ "value": value })))
    }

    /// Takes the answer to that.
    pub(crate) async fn begun(
        &self,
        _: &Protocol,
        answer: Response<Driven>,
    ) -> Result<(), CallError> {
        let status = answer.status();
        let body = read(answer.into_body()).await.map_err(broke_off)?;
        if status.is_success() {
            self.initialised.store(true, Ordering::Relaxed);
            return Ok(());
        }
        Err(CallError::Failed(format!(
            "the action could not be initialised: {}",
            error_of(&body)
        )))
    }
}

impl Protocol {
    /// Whether the container dials the node instead of listening.
    pub(crate) fn is_dialled(&self) -> bool {
        match self {
            Protocol::Runtime => true,
            Protocol::Http
            | Protocol::OpenWhisk(_)
            | Protocol::Serverledge { .. }
            | Protocol::Lambda { .. } => false,
        }
    }

    /// What an instance must do to be ready, for a message.
    pub(crate) fn readiness(&self, port: u16) -> String {
        match self {
            Protocol::Runtime => "a runtime must dial WEIR_SOCKET".to_owned(),
            Protocol::Lambda { .. } => {
                "an image must ask AWS_LAMBDA_RUNTIME_API for calls".to_owned()
            }
            Protocol::Http | Protocol::OpenWhisk(_) | Protocol::Serverledge { .. } => {
                format!("an image must listen on port {port} (--port names another)")
            }
        }
    }

    /// The arguments that the image is started with, where they are not its own.
    pub(crate) fn command(&self) -> Option<Vec<String>> {
        match self {
            Protocol::Lambda { handler } if !handler.is_empty() => Some(vec![handler.clone()]),
            Protocol::Lambda { .. }
            | Protocol::Http
            | Protocol::Runtime
            | Protocol::OpenWhisk(_)
            | Protocol::Serverledge { .. } => None,
        }
    }

    /// Environment that the protocol asks for, of an instance of `function`
    /// that may use `memory` bytes and answers on `port`.
    pub(crate) fn environment(
        &self,
        function: &str,
        memory: u64,
        concurrency: u32,
        port: u16,
    ) -> Vec<(String, String)> {
        let pair = |name: &str, value: String| (name.to_owned(), value);
        match self {
            Protocol::Runtime => vec![pair("WEIR_CONCURRENCY", concurrency.to_string())],
            Protocol::Http => vec![
                pair("PORT", port.to_string()),
                pair("port", port.to_string()),
            ],
            Protocol::Lambda { handler } => {
                let api = format!("127.0.0.1:{}", lambda::PORT);
                let mut all = vec![
                    pair("AWS_LAMBDA_RUNTIME_API", api),
                    pair("AWS_LAMBDA_FUNCTION_NAME", function.to_owned()),
                    pair("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
                    pair(
                        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
                        (memory >> 20).to_string(),
                    ),
                    pair("LAMBDA_TASK_ROOT", LAMBDA_TASK_ROOT.to_owned()),
                ];
                if !handler.is_empty() {
                    all.push(pair("_HANDLER", handler.clone()));
                }
                all
            }
            Protocol::OpenWhisk(_) | Protocol::Serverledge { .. } => Vec::new(),
        }
    }

    /// What takes the protocol's own words out of a container's output.
    pub(crate) fn cleans_log(&self) -> fn(Bytes) -> Bytes {
        match self {
            Protocol::OpenWhisk(_) => without_markers,
            Protocol::Http
            | Protocol::Runtime
            | Protocol::Serverledge { .. }
            | Protocol::Lambda { .. } => |piece| piece,
        }
    }

    /// Whether requests and answers are wrapped in objects of the protocol's own.
    pub(crate) fn wraps(&self) -> bool {
        match self {
            Protocol::OpenWhisk(_) | Protocol::Serverledge { .. } => true,
            Protocol::Http | Protocol::Runtime | Protocol::Lambda { .. } => false,
        }
    }

    /// A request that is not wrapped, as the container gets it.
    pub(crate) fn request(&self, mut request: Request<Body>, left: Duration) -> Request<Body> {
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers
            .entry(HOST)
            .or_insert(HeaderValue::from_static("localhost"));
        if matches!(self, Protocol::Runtime) {
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            headers.insert(DEADLINE, HeaderValue::from(left));
        }
        request
    }

    /// A request as the container gets it, wrapped where the protocol
    /// [wraps](Protocol::wraps).
    pub(crate) async fn wrapped(
        &self,
        request: Request<Body>,
        id: u128,
        left: Duration,
    ) -> Result<Request<Body>, CallError> {
        match self {
            Protocol::Http | Protocol::Runtime | Protocol::Lambda { .. } => {
                Ok(self.request(request, left))
            }
            Protocol::OpenWhisk(action) => {
                let value = parameters(request).await?;
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let end = now.unwrap_or_default().saturating_add(left);
                Ok(post(
                    "/run",
                    &json!({
                        "value": value,
                        "namespace": action.namespace,
                        "action_name": format!("/{}/{}", action.namespace, action.name),
                        "action_version": "0.0.1",
                        "api_host": "",
                        "api_key": "",
                        "activation_id": format!("{id:032x}"),
                        "transaction_id": format!("{id:032x}"),
                        "deadline": end.as_millis().to_string(),
                    }),
                ))
            }
            Protocol::Serverledge { handler } => {
                let parameters = parameters(request).await?;
                let mut said = json!({ "Params": parameters, "ReturnOutput": true });
                if !handler.is_empty() {
                    said["Handler"] = json!(handler);
                    said["HandlerDir"] = json!("/app");
                }
                Ok(post("/invoke", &said))
            }
        }
    }

    /// The answer as the caller gets it, taken out of the protocol's own words.
    pub(crate) async fn unwrapped(
        &self,
        answer: Response<AnswerBody>,
        log: &Sink,
    ) -> Result<Response<AnswerBody>, CallError> {
        match self {
            Protocol::Http | Protocol::Runtime | Protocol::Lambda { .. } => Ok(answer),
            Protocol::OpenWhisk(_) => {
                let status = answer.status();
                let body = whole(answer.into_body()).await?;
                let object = serde_json::from_slice::<Map<String, Value>>(&body);
                match object {
                    Ok(object) if status.is_success() && !object.contains_key("error") => {
                        Ok(json_answer(StatusCode::OK, body))
                    }
                    Ok(_) => Ok(json_answer(StatusCode::BAD_GATEWAY, body)),
                    Err(_) => Err(CallError::Failed(
                        "the action's answer is no JSON object".to_owned(),
                    )),
                }
            }
            Protocol::Serverledge { .. } => {
                let body = whole(answer.into_body()).await?;
                let said = serde_json::from_slice::<Value>(&body).unwrap_or_default();
                if let Some(output) = said["Output"].as_str().filter(|text| !text.is_empty()) {
                    log.write(output.as_bytes());
                    log.write(b"\n");
                }
                match (said["Success"].as_bool(), &said["Result"]) {
                    (Some(true), Value::String(text)) => {
                        Ok(json_answer(StatusCode::OK, text.clone().into()))
                    }
                    (Some(true), other) => {
                        Ok(json_answer(StatusCode::OK, other.to_string().into()))
                    }
                    (Some(false), _) => Err(CallError::Failed(
                        "the executor says that the function failed; see its log".to_owned(),
                    )),
                    (None, _) => Err(CallError::Failed(
                        "the executor's answer has no Success".to_owned(),
                    )),
                }
            }
        }
    }
}

/// Lines that say nothing but that a run has ended are left out.
fn without_markers(piece: Bytes) -> Bytes {
    let is_marker = |line: &&[u8]| line.trim_ascii() == WHISK_MARKER.as_bytes();
    if !piece
        .split(|byte| *byte == b'\n')
        .any(|line| is_marker(&line))
    {
        return piece;
    }
    let lines = piece.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !is_marker(line))
        .flatten()
        .copied()
        .collect()
}

/// Asks whether an instance is ready.
pub(crate) fn look(path: &str) -> Result<Request<Body>, http::Error> {
    Request::builder()
        .uri(path)
        .header(HOST, "localhost")
        .body(Body::default())
}

fn post(path: &'static str, body: &Value) -> Request<Body> {
    let body = Bytes::from(body.to_string());
    let mut request = Request::new(Body::default());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("localhost"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    *request.body_mut() = Full::new(body)
        .map_err(|never| match never {})
        .boxed_unsync();
    request
}

pub(crate) fn json_answer(status: StatusCode, body: Bytes) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Whole(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.remove(TRANSFER_ENCODING);
    response
}

/// The body's JSON object over the query's parameters.
async fn parameters(request: Request<Body>) -> Result<Map<String, Value>, CallError> {
    let mut parameters = Map::new();
    let query = request.uri().query().unwrap_or_default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        parameters.insert(name.into_owned(), Value::String(value.into_owned()));
    }
    let body = read(request.into_body()).await.map_err(unread)?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(parameters);
    }
    let object = serde_json::from_slice::<Map<String, Value>>(&body)
        .map_err(|error| CallError::Unfit(format!("this function takes a JSON object: {error}")))?;
    parameters.extend(object);
    Ok(parameters)
}

/// Reads a body of at most [`WRAPPED_BYTES`].
pub(crate) async fn read<B>(mut body: B) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            if whole.len() + piece.len() > WRAPPED_BYTES {
                return Err(TooLong.into());
            }
            whole.extend_from_slice(&piece);
        }
    }
    Ok(whole.freeze())
}

/// A body is longer than what is made into JSON.
#[derive(Debug, thiserror::Error)]
#[error("more than {WRAPPED_BYTES} bytes cannot be wrapped")]
struct TooLong;

/// Why a caller's body could not be read.
pub(crate) fn unread(error: BodyError) -> CallError {
    match error.is::<TooLong>() {
        true => CallError::Unfit(format!("this function takes a JSON object: {error}")),
        false => CallError::Body(error),
    }
}

fn broke_off(error: BodyError) -> CallError {
    CallError::Failed(format!("the answer broke off: {error}"))
}

async fn whole(body: AnswerBody) -> Result<Bytes, CallError> {
    match body {
        AnswerBody::Whole(bytes) => Ok(bytes),
        AnswerBody::Stream(body) => read(body).await.map_err(broke_off),
    }
}

fn error_of(body: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(body).unwrap_or_default();
    match &said["error"] {
        Value::String(text) => text.clone(),
        Value::Null => String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned(),
        other => other.to_string(),
    }
}
