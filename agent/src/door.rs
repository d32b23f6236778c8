//! The door: from a request to the dialect that answers it, and what all
//! dialects need on the way.

pub mod guests;
pub mod headers;
pub mod invoke;
pub mod length;
pub mod problem;
pub mod session;
pub mod trace;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weir_federation::dispatch::{Alone, Dispatch, unmet_here};
use weir_node::Node;
use weir_node::id::FunctionName;
use weir_node::invocation::{InvokeError, Outcome};
use weir_node::panics::Panicked;
use weir_node::resources::Memory;

use self::headers::NODE;
use self::problem::Problem;
use crate::auth::{self, Credentials};
use crate::config::Config;
use crate::dialect::Dialect;
use crate::http::body::{self, BodyLimits};
use crate::http::gate::Gate;
use crate::http::reply::Reply;
use crate::http::{Connection, Handler, Traffic};
use crate::metrics::Metrics;
use crate::metrics::series::Ended;
use crate::metrics::text::Format;
use crate::tls::Certificates;

/// Readers that follow function logs at once.
const LOG_FOLLOWERS: usize = 64;

/// Memory for bodies that are on their way, unless a setting says it: a share of
/// what functions have, and its bounds in bytes.
const BODY_MEMORY_SHARE: u64 = 16;
const BODY_MEMORY: (u64, u64) = (16 << 20, 512 << 20);

/// What a stranger sees at `/`.
const FRONT_PAGE: &str = concat!(
    "This is a Weir node (version ",
    env!("CARGO_PKG_VERSION"),
    "), a decentralised Function-as-a-Service for the edge.\n\
     Call a function at /function/NAME; its health is at /healthz, its metrics at /metrics.\n"
);

/// What a running door holds.
pub struct Door {
    /// Who does the work.
    pub node: Node,
    /// What is counted.
    pub metrics: Metrics,
    /// Connections, counted by the server.
    pub traffic: Arc<Traffic>,
    /// What management requests must prove.
    pub credentials: ArcSwap<Credentials>,
    /// Whether calls of functions must prove it too.
    pub protect_functions: bool,
    /// Whether anybody may read metrics.
    pub public_metrics: bool,
    /// Hosts and pages that may manage, beside addresses and localhost.
    pub allowed_hosts: Vec<String>,
    /// Bounds of a request's body.
    pub body: BodyLimits,
    /// Bounds of calls whose bodies are not there whole.
    pub gate: Arc<Gate>,
    /// Most bytes of an asynchronous call's body.
    pub async_body_bytes: u64,
    /// Places for readers that follow logs.
    pub followers: Arc<Semaphore>,
    /// Cancelled when the node stops, for answers that would never end.
    pub stopping: CancellationToken,
    /// Where calls go, when the node is in a federation.
    pub dispatch: Option<Dispatch>,
    /// How they would be placed, when it is in none.
    pub alone: Option<Alone>,
    /// Labels that functions may ask for.
    pub labels: BTreeMap<String, String>,
    /// Whether some function was ever constrained here: most nodes have none, and
    /// calls need not look.
    pub constrained: AtomicBool,
    /// Where it keeps what survives.
    pub data_dir: PathBuf,
    /// What it shows to clients that speak TLS.
    pub certificates: Option<Arc<Certificates>>,
    pub(crate) node_header: HeaderValue,
    /// Where the node can be reached, as `X-Server` says it.
    pub(crate) server_header: HeaderValue,
}

impl Door {
    /// A door to `node`, as configured, for callers with `credentials`.
    pub fn new(
        node: Node,
        config: &Config,
        credentials: Credentials,
        address: SocketAddr,
        (dispatch, alone): (Option<Dispatch>, Option<Alone>),
        certificates: Option<Arc<Certificates>>,
    ) -> Self {
        let http = &config.http;
        let is_constrained = |function: &weir_node::node::FunctionStatus| {
            !function.spec.as_deployed.constraints.is_empty()
        };
        let constrained = node.functions(None).iter().any(is_constrained);
        Door {
            data_dir: config.node.data_dir.clone(),
            certificates,
            labels: config.federation.labels.clone(),
            constrained: AtomicBool::new(constrained),
            metrics: Metrics::new(config.metrics.openfaas_compat),
            traffic: Arc::default(),
            credentials: ArcSwap::from_pointee(credentials),
            protect_functions: config.auth.functions,
            public_metrics: config.metrics.public,
            allowed_hosts: http.allowed_hosts.clone(),
            body: BodyLimits {
                bytes: http.body_bytes,
                gap: http.body_timeout,
            },
            gate: Arc::new(gate(&node, config)),
            async_body_bytes: http.async_body_bytes,
            followers: Arc::new(Semaphore::new(LOG_FOLLOWERS)),
            stopping: CancellationToken::new(),
            dispatch,
            alone,
            server_header: HeaderValue::try_from(address.ip().to_string())
                .expect("an address is plain text"),
            node_header: HeaderValue::try_from(node.id()).expect("a node's id is plain text"),
            node,
        }
    }

    /// Lets a management request pass: from a page and under a host of ours,
    /// with credentials.
    pub fn admit(&self, request: &Request<Incoming>) -> Result<(), Problem> {
        auth::check_source(request.headers(), request.uri(), &self.allowed_hosts)?;
        self.credentials.load().require(request.headers())
    }

    /// Refuses a call that must run on this node, where the function's
    /// constraints forbid that.
    pub fn may_run_here(&self, function: &FunctionName) -> Result<(), InvokeError> {
        if !self.constrained.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(spec) = self.node.spec(function) else {
            return Ok(());
        };
        match unmet_here(&spec, &self.labels) {
            None => Ok(()),
            Some(lack) => Err(InvokeError::CannotRun {
                function: function.clone(),
                reason: format!(
                    "this node lacks {lack}: give it the label (--node-label, federation.labels), \
                     or deploy the function without the constraint"
                ),
            }),
        }
    }

    /// Counts an asynchronous call, which no connection waits for.
    pub fn count(&self, outcome: &Outcome) {
        if self.node.function(&outcome.function).is_some() {
            let series = self.metrics.board.series(&outcome.function);
            series.here().record(Ended {
                status: outcome.status,
                ran: outcome.ran,
                took: outcome.took,
            });
        }
    }

    /// The answer to a request after which its connection ends.
    fn close(&self, problem: Problem) -> Response<Reply> {
        self.metrics.refuse(problem.word);
        let mut response = problem.render();
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        response
    }

    fn page(&self, request: &Request<Incoming>) -> Result<Response<Reply>, Problem> {
        let path = request.uri().path();
        if !matches!(path, "/" | "/healthz" | "/metrics") {
            return Err(Problem::not_found(format!(
                "there is nothing at {path:?}: functions are called at /function/NAME"
            )));
        }
        let head = request.method() == Method::HEAD;
        if !head && request.method() != Method::GET {
            return Err(Problem::method("GET, HEAD"));
        }
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        let (kind, text) = match path {
            "/" => (plain, FRONT_PAGE.to_owned()),
            "/healthz" => (plain, "OK\n".to_owned()),
            _ => {
                if !self.public_metrics {
                    self.credentials.load().require(request.headers())?;
                }
                let accept = request.headers().get(ACCEPT);
                let format = Format::negotiate(accept.and_then(|accept| accept.to_str().ok()));
                let text =
                    self.metrics
                        .render(&self.node, &self.traffic, self.dispatch.as_ref(), format);
                (format.content_type(), text)
            }
        };
        let reply = if head { Reply::EMPTY } else { text.into() };
        let mut response = Response::new(reply);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(response)
    }
}

/// The gate of a node's calls.
fn gate(node: &Node, config: &Config) -> Gate {
    let capacity = config.node.capacity;
    let (least, most) = BODY_MEMORY;
    let share = capacity.memory.as_bytes() / BODY_MEMORY_SHARE;
    let memory = config.http.body_memory;
    let memory = memory.or_else(|| Memory::bytes(share.clamp(least, most)));
    let waiting = node.clone();
    Gate::new(
        capacity.cpu.as_millicores(),
        memory.as_bytes(),
        config.http.body_rate,
        Box::new(move || waiting.has_waiting()),
    )
}

impl Handler for Door {
    async fn handle(
        connection: Arc<Connection<Self>>,
        request: Request<Incoming>,
    ) -> Response<Reply> {
        let door = &*connection.handler;
        let dialect = Dialect::of(request.uri().path());
        let is_call = dialect == Some(Dialect::OpenFaasCall);
        let framing = headers::check_framing(request.version(), request.headers());
        let mut response = match (framing, dialect) {
            // Where the next request begins cannot be known.
            (Err(problem), _) => door.close(problem),
            (Ok(()), _) if is_call && connection.reserved => {
                let message = "the node has as many connections as it may, and keeps the last for \
                               its management: come again, or raise http.max-connections";
                body::refuse(request.into_body());
                door.close(Problem::unavailable("too-many-connections", message))
            }
            (Ok(()), Some(dialect)) => dialect.answer(&connection, request).await,
            (Ok(()), None) => {
                let page = door.page(&request).unwrap_or_else(Problem::render);
                body::refuse(request.into_body());
                page
            }
        };
        response
            .headers_mut()
            .insert(NODE, door.node_header.clone());
        response
    }

    fn broken(&self, panicked: Panicked) -> Response<Reply> {
        let mut response = Problem::from(panicked).render();
        let node = self.node_header.clone();
        response.headers_mut().insert(NODE, node);
        response
    }
}
