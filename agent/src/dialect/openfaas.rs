//! The OpenFaaS gateway: how functions are deployed, managed and called.

mod deployment;
mod logs;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weir_federation::dispatch::{Dispatch, unmet_here};
use weir_node::function::{ArtifactKind, CodeSource, FunctionSpec, Scope};
use weir_node::id::{Digest, FunctionName, IdError, Namespace, SecretName};
use weir_node::node::{DeployMode, FunctionState, FunctionStatus, NamespaceInfo, Rollout};
use weir_node::resources::Memory;

use self::deployment::FunctionDeployment;
use crate::door::headers::{COPIES, VERSION, WARNING};
use crate::door::problem::Problem;
use crate::door::{Door, invoke};
use crate::http::Connection;
use crate::http::body::{self, BodyLimits};
use crate::http::reply::Reply;

/// Largest body of a management request: a deployment with long annotations,
/// or a secret that holds a certificate chain.
const MANAGEMENT_BODY_BYTES: u64 = 1 << 20;

const FUNCTION_METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD";

/// Less memory than a page of WebAssembly, and than any process has.
const LEAST_MEMORY: Memory = Memory::bytes(64 << 10);

/// What is called, and whether it waits.
const CALL: &str = "/function/";
const ASYNC_CALL: &str = "/async-function/";

/// Calls a function and waits.
pub async fn call(
    connection: &Arc<Connection<Door>>,
    request: Request<Incoming>,
) -> Response<Reply> {
    match *request.method() {
        Method::GET
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS
        | Method::HEAD => invoke::wait(connection, request, CALL).await,
        _ => refuse(Problem::method(FUNCTION_METHODS), request),
    }
}

/// Answers everything else that the gateway has.
pub async fn answer(
    connection: &Arc<Connection<Door>>,
    request: Request<Incoming>,
) -> Response<Reply> {
    let door = &*connection.handler;
    let path = request.uri().path();
    if path.starts_with("/async-function") {
        if request.method() != Method::POST {
            return refuse(Problem::method("POST"), request);
        }
        return invoke::submit(connection, request, ASYNC_CALL).await;
    }
    if let Err(problem) = door.admit(&request) {
        return refuse(problem, request);
    }
    system(connection, request)
        .await
        .unwrap_or_else(Problem::render)
}

fn refuse(problem: Problem, request: Request<Incoming>) -> Response<Reply> {
    body::refuse(request.into_body());
    problem.render()
}

type Answered = Result<Response<Reply>, Problem>;

/// The routes of `/system`; who asks may.
async fn system(connection: &Arc<Connection<Door>>, request: Request<Incoming>) -> Answered {
    let door = &*connection.handler;
    let (parts, incoming) = request.into_parts();
    let path = parts
        .uri
        .path()
        .strip_prefix("/system/")
        .unwrap_or_default();
    let (route, name) = path.split_once('/').unwrap_or((path, ""));
    let query = Query(parts.uri.query().unwrap_or_default());
    match (route, name, &parts.method) {
        ("functions", "", &Method::GET) => list(door, query),
        ("functions", "", &Method::POST) => {
            deploy(
                door,
                read(door, incoming).await?,
                DeployMode::CreateOrReplace,
            )
            .await
        }
        ("functions", "", &Method::PUT) => {
            deploy(door, read(door, incoming).await?, DeployMode::Replace).await
        }
        ("functions", "", &Method::DELETE) => remove(door, read(door, incoming).await?).await,
        ("functions", "", _) => Err(Problem::method("GET, POST, PUT, DELETE")),
        ("function", name, &Method::GET) if !name.is_empty() => describe(door, name, query),
        ("function", name, _) if !name.is_empty() => Err(Problem::method("GET")),
        ("scale-function", name, &Method::POST) if !name.is_empty() => {
            scale(door, name, query, read(door, incoming).await?).await
        }
        ("scale-function", name, _) if !name.is_empty() => Err(Problem::method("POST")),
        ("info", "", &Method::GET) => Ok(info()),
        ("info", "", _) => Err(Problem::method("GET")),
        ("namespaces", "", &Method::GET) => {
            let names: Vec<_> = door.node.namespaces().into_keys().collect();
            Ok(render(StatusCode::OK, &names))
        }
        ("namespaces", "", _) => Err(Problem::method("GET")),
        ("namespace", name, method) => namespace(door, name, method, incoming).await,
        ("secrets", "", method) => secrets(door, method, query, incoming).await,
        ("logs", "", &Method::GET) => logs::answer(connection, query),
        ("logs", "", _) => Err(Problem::method("GET")),
        _ => {
            let message = format!("there is nothing at {:?}", parts.uri.path());
            Err(Problem::not_found(message))
        }
    }
}

/// The query of a management request.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl Query<'_> {
    /// The last value of `name`, when it is not empty.
    fn value(self, name: &str) -> Option<String> {
        let pairs = form_urlencoded::parse(self.0.as_bytes());
        let values = pairs
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned());
        values.last().filter(|value| !value.is_empty())
    }

    /// Whether `name` is asked for; the text that is neither yes nor no.
    fn flag(self, name: &str) -> Result<bool, String> {
        match self.value(name).as_deref() {
            None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            Some(text) => Err(format!("{name}={text:?} is neither true nor false")),
        }
    }

    fn namespace(self) -> Result<Option<Namespace>, Problem> {
        self.value("namespace")
            .map(|name| name.parse().map_err(wrong_name))
            .transpose()
    }
}

fn wrong_name(error: IdError) -> Problem {
    Problem::bad_request(error.to_string())
}

/// The function that a path's `name` and a namespace from elsewhere mean.
fn function_name(name: &str, namespace: Option<Namespace>) -> Result<FunctionName, Problem> {
    match namespace {
        Some(namespace) if !name.contains('.') => FunctionName::new(name, namespace),
        Some(_) | None => name.parse(),
    }
    .map_err(wrong_name)
}

fn optional_namespace(name: Option<String>) -> Result<Namespace, Problem> {
    match name.filter(|name| !name.is_empty()) {
        Some(name) => name.parse().map_err(wrong_name),
        None => Ok(Namespace::default()),
    }
}

fn unknown(name: &FunctionName) -> Problem {
    let message = format!("function {} is not deployed on this node", name.qualified());
    Problem::new(StatusCode::NOT_FOUND, "unknown-function", message)
}

async fn read<T: DeserializeOwned>(door: &Door, incoming: Incoming) -> Result<T, Problem> {
    let limits = BodyLimits {
        bytes: MANAGEMENT_BODY_BYTES,
        gap: door.body.gap,
    };
    let bytes = body::collect(incoming, limits).await.map_err(|fault| {
        Problem::body(
            fault,
            MANAGEMENT_BODY_BYTES,
            "fixed for management requests",
        )
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::bad_request(format!(
            "the body is not the JSON that this path takes: {error}"
        ))
    })
}

fn render(status: StatusCode, body: &impl serde::Serialize) -> Response<Reply> {
    let text = serde_json::to_vec(body).expect("plain data with text keys");
    let mut response = Response::new(Reply::from(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn empty(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::EMPTY);
    *response.status_mut() = status;
    response
}

fn list(door: &Door, query: Query<'_>) -> Answered {
    // Clients mean the default namespace when they name none; all of them are
    // listed on demand.
    let all = query.value("namespace").as_deref() == Some("*");
    let namespace = if all {
        None
    } else {
        Some(query.namespace()?.unwrap_or_default())
    };
    let functions = door.node.functions(namespace.as_ref());
    let shown: Vec<_> = functions
        .iter()
        .map(|function| status(door, function, false))
        .collect();
    Ok(render(StatusCode::OK, &shown))
}

async fn deploy(door: &Door, wanted: FunctionDeployment, mode: DeployMode) -> Answered {
    let code = wanted.code().map_err(Problem::bad_request)?;
    let kind = match &code {
        CodeSource::Artifact(digest) => door.node.artifact_kind(digest).await,
        CodeSource::Image(_) => Some(ArtifactKind::ImageName),
    };
    if let CodeSource::Artifact(digest) = &code
        && kind.is_none()
        && door.node.artifact(digest).is_some()
    {
        return Err(not_code(digest));
    }
    let check = wanted.check().map_err(Problem::bad_request)?;
    let spec = wanted.into_spec(code, kind).map_err(Problem::bad_request)?;
    if spec.memory < LEAST_MEMORY {
        return Err(Problem::bad_request(format!(
            "its memory limit of {} is less than {LEAST_MEMORY}, with which nothing runs: write it \
             with a unit (64MiB)",
            spec.memory
        )));
    }
    let constrained = !spec.as_deployed.constraints.is_empty();
    let unmet = match &door.dispatch {
        _ if !constrained => None,
        Some(dispatch) => dispatch.unmet(&spec),
        None => unmet_here(&spec, &door.labels),
    };
    if constrained {
        door.constrained.store(true, Ordering::Relaxed);
    }
    let told = door.dispatch.as_ref().filter(|_| spec.scope != Scope::Node);
    if let Some(dispatch) = told {
        // Before anything is kept.
        dispatch.may_announce(&spec)?;
    }
    let rollout = Rollout {
        mode: mode_for(door, &spec.name, mode),
        check,
        tell: told.is_some(),
    };
    let rolled = door.node.roll_out(spec.clone(), rollout).await?;
    let mut accepted = empty(StatusCode::ACCEPTED);
    let headers = accepted.headers_mut();
    headers.insert(VERSION, rolled.version.into());
    let warning = unmet.map(|lack| cannot_run_yet(door, &lack));
    if let Some(Ok(warning)) = warning.map(HeaderValue::try_from) {
        accepted.headers_mut().insert(WARNING, warning);
    }
    // Of a version that is not in place yet the federation is told when it is.
    if let Some(dispatch) = told.filter(|_| rolled.in_place)
        && let Some(copies) = announce(dispatch, &spec, rolled.replaced).await?
    {
        accepted.headers_mut().insert(COPIES, copies.into());
    }
    Ok(accepted)
}

/// Tells the federation of a version that is in place: how many members keep its
/// code; `None` where that was told when it `replaced` another.
async fn announce(
    dispatch: &Dispatch,
    spec: &FunctionSpec,
    replaced: bool,
) -> Result<Option<usize>, Problem> {
    Ok(match replaced {
        false => Some(dispatch.announce(spec).await?),
        true => dispatch.announce_untold(&spec.name).await?,
    })
}

/// How a function is put where others may have it: an update may be of what is only
/// elsewhere.
fn mode_for(door: &Door, name: &FunctionName, asked: DeployMode) -> DeployMode {
    let known = |dispatch: &Dispatch| dispatch.is_known(name);
    match door.dispatch.as_ref().is_some_and(known) {
        true => DeployMode::CreateOrReplace,
        false => asked,
    }
}

fn not_code(digest: &Digest) -> Problem {
    Problem::bad_request(format!(
        "the artifact {digest} is nothing that Weir runs: it begins neither like WebAssembly \
         (binary or text), nor like a tar archive (an image of docker save or an OCI layout, or \
         source code), nor like a simulated model. weir deploy --image-archive unpacks what gzip \
         or zstd packed; for an upload of your own, unpack it first"
    ))
}

/// What whoever deploys is warned of where no node has what the function wants.
fn cannot_run_yet(door: &Door, lack: &str) -> String {
    let others = match door.dispatch {
        Some(_) => ", nor has any that it knows",
        None => "",
    };
    format!("nothing can run it for now: this node lacks {lack}{others}")
}

/// The body of a removal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Removal {
    function_name: String,
    namespace: Option<String>,
}

async fn remove(door: &Door, removal: Removal) -> Answered {
    let namespace = removal.namespace.filter(|name| !name.is_empty());
    let namespace = namespace
        .map(|name| name.parse().map_err(wrong_name))
        .transpose()?;
    let name = function_name(&removal.function_name, namespace)?;
    let own = door.node.spec(&name);
    let is_shared = own.as_ref().is_none_or(|own| own.scope != Scope::Node);
    let dispatch = door
        .dispatch
        .as_ref()
        .filter(|d| is_shared && d.is_known(&name));
    if let Some(dispatch) = dispatch {
        dispatch.withdraw(&name).await?;
    }
    if own.is_some() || dispatch.is_none() {
        door.node.remove(&name).await?;
    }
    door.metrics.board.forget(|gone| *gone == name);
    Ok(empty(StatusCode::ACCEPTED))
}

fn describe(door: &Door, name: &str, query: Query<'_>) -> Answered {
    let name = function_name(name, query.namespace()?)?;
    let function = door.node.function(&name).ok_or_else(|| unknown(&name))?;
    let usage = query.flag("usage").map_err(Problem::bad_request)?;
    Ok(render(StatusCode::OK, &status(door, &function, usage)))
}

/// How a function stands. One for which something is missing on this node is
/// ready where a peer can run it.
fn status(door: &Door, function: &FunctionStatus, usage: bool) -> Value {
    let elsewhere = match (&function.state, &door.dispatch) {
        (FunctionState::Waiting(_), Some(dispatch)) => dispatch.runs_elsewhere(&function.spec),
        _ => None,
    };
    let Some(peer) = elsewhere else {
        return deployment::status(function, usage);
    };
    let ready = FunctionStatus {
        state: FunctionState::Ready,
        ..function.clone()
    };
    let mut shown = deployment::status(&ready, usage);
    shown["readyAt"] = peer.to_string().into();
    shown
}

/// The body of a request to scale.
#[derive(Debug, Deserialize)]
struct Scale {
    replicas: u32,
    namespace: Option<String>,
}

async fn scale(door: &Door, name: &str, query: Query<'_>, wanted: Scale) -> Answered {
    let given = wanted.namespace.filter(|name| !name.is_empty());
    let namespace = match given {
        Some(name) => Some(name.parse().map_err(wrong_name)?),
        None => query.namespace()?,
    };
    let name = function_name(name, namespace)?;
    if let Some(spec) = door.node.spec(&name) {
        within_bound(door, &spec, wanted.replicas)?;
    }
    door.node.scale(&name, wanted.replicas).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// Refuses to keep more instances than there may be.
fn within_bound(door: &Door, spec: &FunctionSpec, replicas: u32) -> Result<(), Problem> {
    let memory = door.node.capability().capacity.memory;
    let fit = memory.as_bytes() / spec.memory.as_bytes().max(1);
    let fit = u32::try_from(fit).unwrap_or(u32::MAX).max(1);
    let (bound, why) = match spec.max {
        Some(max) if max <= fit => (max, "its maximum (--max)".to_owned()),
        Some(_) | None => (
            fit,
            format!(
                "as many of {} as fit into the {memory} that this node gives to functions \
                 (resources.memory)",
                spec.memory
            ),
        ),
    };
    match replicas <= bound {
        true => Ok(()),
        false => Err(Problem::bad_request(format!(
            "{replicas} instances of {} are too many: {bound} at most, {why}",
            spec.name
        ))),
    }
}

fn info() -> Response<Reply> {
    let version = json!({
        "commit_message": "",
        "sha": "",
        "release": env!("CARGO_PKG_VERSION"),
    });
    let provider = json!({
        "provider": "weir",
        "name": "weir",
        "orchestration": "weir",
        "version": version,
    });
    let info = json!({
        "provider": provider,
        "version": version,
        "arch": std::env::consts::ARCH,
    });
    render(StatusCode::OK, &info)
}

/// The body of a request about a namespace.
#[derive(Debug, Default, Deserialize)]
struct NamespaceRequest {
    name: Option<String>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
    labels: Option<std::collections::BTreeMap<String, String>>,
}

/// Answers for the namespace that the path names, or, where its end is empty,
/// the body: OpenFaaS's own client creates them so.
async fn namespace(door: &Door, name: &str, method: &Method, incoming: Incoming) -> Answered {
    if !matches!(
        *method,
        Method::GET | Method::POST | Method::PUT | Method::DELETE
    ) {
        return Err(Problem::method("GET, POST, PUT, DELETE"));
    }
    let request: NamespaceRequest = match *method {
        Method::POST | Method::PUT => read(door, incoming).await?,
        Method::DELETE if name.is_empty() => read(door, incoming).await?,
        _ => NamespaceRequest::default(),
    };
    let named = request.name.filter(|name| !name.is_empty());
    let name: Namespace = match (name, named) {
        ("", None) => {
            return Err(Problem::bad_request(
                "no namespace is named: write it at the end of the path, or as name in the body",
            ));
        }
        ("", Some(named)) => named.parse().map_err(wrong_name)?,
        (name, Some(named)) if name != named => {
            let message = format!("the path names the namespace {name:?}, the body {named:?}");
            return Err(Problem::bad_request(message));
        }
        (name, _) => name.parse().map_err(wrong_name)?,
    };
    let wanted = NamespaceInfo {
        annotations: request.annotations.unwrap_or_default(),
        labels: request.labels.unwrap_or_default(),
    };
    match *method {
        Method::GET => {
            let found = door.node.namespaces().remove(&name);
            let found = found.ok_or_else(|| {
                Problem::not_found(format!("there is no namespace {name} on this node"))
            })?;
            let shown = json!({
                "name": name,
                "annotations": found.annotations,
                "labels": found.labels,
            });
            Ok(render(StatusCode::OK, &shown))
        }
        Method::POST => {
            door.node.create_namespace(name, wanted).await?;
            Ok(empty(StatusCode::CREATED))
        }
        Method::PUT => {
            door.node.update_namespace(name, wanted).await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
        _ => {
            door.node.remove_namespace(&name).await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
    }
}

/// The body of a request about a secret. Never printed: it holds the value.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretRequest {
    name: String,
    namespace: Option<String>,
    value: Option<String>,
    raw_value: Option<String>,
}

impl SecretRequest {
    fn value(&self) -> Result<Vec<u8>, Problem> {
        match (&self.raw_value, &self.value) {
            (Some(raw), _) if !raw.is_empty() => {
                let decoded = base64::engine::general_purpose::STANDARD.decode(raw);
                decoded.map_err(|_| Problem::bad_request("rawValue is not base64"))
            }
            (_, Some(text)) => Ok(text.clone().into_bytes()),
            (_, None) => Err(Problem::bad_request("a secret needs a value or a rawValue")),
        }
    }
}

async fn secrets(door: &Door, method: &Method, query: Query<'_>, incoming: Incoming) -> Answered {
    if *method == Method::GET {
        let namespace = query.namespace()?.unwrap_or_default();
        let names = door.node.secrets(&namespace).await?;
        let shown: Vec<_> = names
            .iter()
            .map(|name| json!({"name": name, "namespace": namespace}))
            .collect();
        return Ok(render(StatusCode::OK, &shown));
    }
    if !matches!(*method, Method::POST | Method::PUT | Method::DELETE) {
        return Err(Problem::method("GET, POST, PUT, DELETE"));
    }
    let request: SecretRequest = read(door, incoming).await?;
    let name: SecretName = request.name.parse().map_err(wrong_name)?;
    let namespace = optional_namespace(request.namespace.clone())?;
    match *method {
        Method::POST => {
            door.node
                .create_secret(namespace, name, request.value()?)
                .await?;
            Ok(empty(StatusCode::CREATED))
        }
        Method::PUT => {
            door.node
                .replace_secret(namespace, name, request.value()?)
                .await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
        // Not 204, which clients take for an error.
        _ => {
            door.node.remove_secret(&namespace, &name).await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
    }
}

#[cfg(test)]
mod tests;
