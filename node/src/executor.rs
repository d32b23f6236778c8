//! Executors: the part of a node that starts instances and runs calls on them.
//!
//! An executor turns an artifact into **instances**. What a warm instance is
//! differs: for `wasm` it is code loaded and ready to be instantiated (each
//! call gets a fresh sandbox), for a container it is a started process that
//! answers, for a remote platform it is nothing but an address. Admission only
//! sees the [`Profile`].
//!
//! The list of executors is [`all`]; adding one touches its own file and that
//! list.

#[cfg(feature = "docker")]
pub mod docker;
pub mod simulated;
#[cfg(feature = "wasm")]
pub mod wasm;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;

pub use weir_node_core::profile::Profile;

use crate::config::NodeConfig;
use crate::function::{ArtifactKind, FunctionSpec};
use crate::id::{CallId, Digest};
use crate::layers::{Holder, Layer};
use crate::logs::FunctionLog;
use crate::resolve::Resolver;

/// Why a body ended before its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body that streams, of a request or of an answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// One call, as an instance gets it.
pub struct Call {
    /// This node's id of the call.
    pub id: CallId,
    /// Method; path after the function's name with the query; the headers
    /// that a function may see; the body.
    pub request: http::Request<Body>,
    /// When the call is given up: the earlier of timeout and deadline.
    pub until: Instant,
    /// Where the code's log lines go.
    pub log: Arc<FunctionLog>,
}

/// The body of an answer.
pub enum AnswerBody {
    /// All of it: the call has ended and holds nothing any more.
    Whole(Bytes),
    /// The rest comes; the call ends when the stream does. An error in the
    /// stream means that the function failed after its answer had begun.
    Stream(Body),
}

/// How a call failed before its answer began.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The time limit passed while the code ran.
    #[error("the function did not answer in time")]
    TimedOut,
    /// The code trapped, exited with an error, exceeded a limit or answered
    /// nonsense; the reason is meant for the caller.
    #[error("the function failed: {0}")]
    Failed(String),
    /// The instance was lost in the middle of the call, and nobody knows how
    /// much of it was done; the reason is meant for the caller.
    #[error("the function was lost: {0}")]
    Lost(String),
    /// The client's body broke off or was refused while the code read it.
    #[error("the request body ended early")]
    Body(#[source] BodyError),
    /// The function cannot be given this request; the reason is meant for the
    /// caller.
    #[error("{0}")]
    Unfit(String),
    /// The instance was gone before the code can have started; the call may be
    /// placed elsewhere.
    #[error("the instance is gone: {reason}")]
    NotStarted {
        /// Why.
        reason: String,
        /// The call's request, whole, where it can be had back.
        request: Option<Box<http::Request<Body>>>,
    },
}

/// Whether an instance can take calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ready,
    /// It never will again.
    Gone(String),
}

/// What an instance has used of processors since it was started.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of all its threads.
    pub cpu: Duration,
    /// How long threads of it could have run and did not, as far as it is known.
    pub waited: Duration,
}

/// A warm instance.
pub trait Instance: Send + Sync {
    /// Runs one call. Dropping the future, or the answer's stream, cancels it,
    /// unless the instance [lingers](Instance::lingers).
    fn invoke(
        &self,
        call: Call,
    ) -> BoxFuture<'static, Result<http::Response<AnswerBody>, CallError>>;

    /// Whether code goes on when nobody waits for it any more: then the call
    /// keeps its place until it has ended.
    fn lingers(&self) -> bool {
        false
    }

    /// Waits until the instance is gone for a reason of its own, and returns
    /// that; `None` for those which never are.
    fn ended(&self) -> Option<BoxFuture<'static, String>> {
        None
    }

    /// What it has used of processors; `None` where that cannot be told apart
    /// from what others use.
    fn usage(&self) -> BoxFuture<'_, Option<Usage>> {
        Box::pin(async { None })
    }

    /// Whether it can still take calls.
    fn health(&self) -> Health {
        Health::Ready
    }

    /// Ends it. Calls that run on it are let go on where the executor can do
    /// so (wasm), and cut where it cannot.
    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// Why an artifact cannot be a function; told to whoever deploys.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// Why code could not be made ready, or an instance not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The code itself is at fault (it does not compile): trying again is in vain.
    #[error("{0}")]
    Code(String),
    /// The instance did not become ready; another may.
    #[error("{0}")]
    Instance(String),
    /// The node is at fault: no memory, no disk, no daemon.
    #[error("{0}")]
    Node(String),
}

/// The code of a function.
#[derive(Debug, Clone)]
pub struct Code {
    /// The artifact's file, whose name is its digest; `None` for images by name.
    pub artifact: Option<PathBuf>,
    /// What it is.
    pub kind: ArtifactKind,
}

impl Code {
    /// The artifact's file.
    ///
    /// # Errors
    /// A sentence, when the code is no artifact.
    pub fn path(&self) -> Result<&Path, String> {
        let path = self.artifact.as_deref();
        path.ok_or_else(|| "the code is an image and no artifact".to_owned())
    }
}

/// What an instance is started with.
#[derive(Clone)]
pub struct Setup {
    /// The function.
    pub spec: Arc<FunctionSpec>,
    /// Its code, prepared.
    pub code: Code,
    /// A folder that holds the function's secrets as files, if it has any.
    pub secrets: Option<PathBuf>,
    /// Where instances write that have one output for all their calls.
    pub log: Arc<FunctionLog>,
}

/// Starts instances of one kind of code.
pub trait Executor: Send + Sync {
    /// Its name in configuration, status and metrics.
    fn name(&self) -> &'static str;

    /// Whether it runs this kind of code.
    fn accepts(&self, kind: ArtifactKind) -> bool {
        kind.executor() == self.name()
    }

    /// Whether only a started instance tells that the code runs: then a new
    /// version is ready no sooner.
    fn must_start(&self) -> bool {
        false
    }

    /// Checks what shows without the code: that the function asks for no more
    /// than this executor gives.
    fn allows(&self, _spec: &FunctionSpec) -> Result<(), Unfit> {
        Ok(())
    }

    /// Checks, without running or compiling anything, that the code parses and
    /// asks for nothing that this executor lacks, [`Executor::allows`] included.
    /// Blocks; bounded by the size of the artifact.
    fn check(&self, spec: &FunctionSpec, code: &Code) -> Result<(), Unfit>;

    /// How admission accounts this function.
    fn profile(&self, spec: &FunctionSpec) -> Profile;

    /// Makes the code ready to be started (compiles it, pulls it) and keeps
    /// the result for later starts. Quick when that was done before.
    fn prepare(&self, spec: Arc<FunctionSpec>, code: Code)
    -> BoxFuture<'_, Result<(), StartError>>;

    /// Starts one instance of prepared code.
    fn start(&self, setup: Setup) -> BoxFuture<'_, Result<Arc<dyn Instance>, StartError>>;

    /// Ends everything that outlives this process, at the end of a drain.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Removes what was made of an artifact that nobody refers to any more.
    fn forget(&self, _digest: &Digest) {}

    /// Writes those of the wanted layers that it keeps outside the node, and
    /// what else comes with them, to files of `room` bytes in all.
    fn layers(&self, _wanted: Vec<Layer>, _room: u64) -> BoxFuture<'_, Vec<Holder>> {
        Box::pin(async { Vec::new() })
    }

    /// Gives back what it keeps outside the node for functions that are no
    /// more. `specs` are all functions of the node. Called every minute.
    fn tidy(&self, _specs: Vec<Arc<FunctionSpec>>) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Bytes on disk that this executor keeps beside artifacts.
    fn cached_bytes(&self) -> u64 {
        0
    }

    /// Whether it can start anything now, as far as it knows.
    fn works(&self) -> bool {
        true
    }

    /// What `weir status` shows of it.
    fn describe(&self) -> serde_json::Value;
}

/// The list of executors of this build, started.
///
/// `node` is the node's id.
///
/// # Errors
/// The name of the one that did not start, and why.
pub fn all(
    config: &NodeConfig,
    node: &str,
    resolver: Resolver,
) -> Result<Vec<Arc<dyn Executor>>, (&'static str, String)> {
    Ok(vec![
        #[cfg(feature = "wasm")]
        Arc::new(wasm::Wasm::start(config, resolver).map_err(|reason| ("wasm", reason))?),
        #[cfg(feature = "docker")]
        Arc::new(docker::Docker::start(config, node).map_err(|reason| ("docker", reason))?),
        Arc::new(simulated::Simulated::start()),
    ])
}
