//! The way in: one node, and everything that may be asked of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::config::NodeConfig;
use crate::function::FunctionSpec;
use crate::id::{CallId, Digest, FunctionName, Namespace, SecretName};
use crate::invocation::{Answer, Invocation, InvokeError};
use crate::logs::FunctionLog;
use crate::resources::Resources;

/// Where a deployed function's code stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FunctionState {
    /// Its code is being made ready; calls wait.
    Preparing,
    /// It can be called.
    Ready,
    /// Its code cannot be made ready; calls get a 503 with this reason.
    Failed(String),
}

/// A deployed function, as listings show it.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionStatus {
    /// As deployed.
    pub spec: Arc<FunctionSpec>,
    /// Counts up with each deployment of the name.
    pub version: u64,
    /// When this version was deployed.
    pub created_at: jiff::Timestamp,
    /// Where its code stands.
    pub state: FunctionState,
    /// Calls answered since the node started.
    pub invocations: u64,
    /// Instances that are wanted or there.
    pub replicas: u32,
    /// Instances that can take calls.
    pub available_replicas: u32,
    /// Calls running now.
    pub running: u32,
    /// Calls waiting now.
    pub waiting: u32,
    /// Processor time used since the node started, as far as the executor measures it.
    pub cpu: Duration,
}

/// Whether a deployment may replace, must replace, or must not replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeployMode {
    /// `POST`: creates, or replaces what is there.
    CreateOrReplace,
    /// `PUT`: replaces; a name that is not there is an error and creates nothing.
    Replace,
}

/// Why a deployment, removal or other change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// What the change is about is not here (404).
    #[error("{0}")]
    NotFound(String),
    /// It is there already (409).
    #[error("{0}")]
    Exists(String),
    /// The request itself is at fault (400).
    #[error("{0}")]
    Invalid(String),
    /// A bound of the node was reached (507 for disk, 429 otherwise).
    #[error("{0}")]
    Full(String),
    /// The node failed to keep the change (500).
    #[error("{what}")]
    Store {
        /// Which step.
        what: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An asynchronous call as the door hands it in, its body read.
pub struct Submission {
    /// The call; its body is whole.
    pub invocation: Invocation,
    /// The body.
    pub body: Bytes,
    /// Where to deliver the result.
    pub callback: Option<String>,
    /// The caller's own id of the call, only passed on.
    pub caller_id: Option<String>,
}

/// Why an asynchronous call was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// As for calls that are waited for.
    #[error(transparent)]
    Invoke(#[from] InvokeError),
    /// The callback is not a URL that this node may call (400).
    #[error("{0}")]
    Callback(String),
    /// The call could not be put on disk (507 when the disk is full, else 500).
    #[error("the call could not be stored{}", if *.full { ": the disk is full" } else { "" })]
    Store {
        /// Whether the disk is full.
        full: bool,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What became of an asynchronous call.
#[derive(Debug, Clone)]
pub enum CallState {
    /// Accepted, not done.
    Pending,
    /// Done.
    Done(CallResult),
}

/// The result of an asynchronous call.
#[derive(Debug, Clone)]
pub struct CallResult {
    /// The status that a waiting caller would have got.
    pub status: u16,
    /// The answer's headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The answer's body.
    pub body: Bytes,
    /// The word of `X-Weir-Error` when the answer is the node's, not the function's.
    pub error: Option<String>,
    /// When the call ended.
    pub ended_at: jiff::Timestamp,
}

/// A namespace with what was said of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NamespaceInfo {
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One QoS class, as `weir status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ClassStatus {
    /// Its name.
    pub name: String,
    /// Calls waiting now.
    pub waiting: usize,
    /// Most calls that may wait.
    pub bound: usize,
}

/// The whole node at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: String,
    /// Version of the program.
    pub version: &'static str,
    /// Processor architecture of its executors.
    pub architecture: &'static str,
    /// What functions may hold together.
    pub capacity: Resources,
    /// What they hold now.
    pub held: Resources,
    /// Calls running now.
    pub running: usize,
    /// Most calls running or waiting.
    pub max_calls: usize,
    /// Queues by class.
    pub classes: Vec<ClassStatus>,
    /// Functions deployed.
    pub functions: usize,
    /// Asynchronous calls accepted and not done.
    pub backlog: usize,
    /// Most of them.
    pub max_backlog: usize,
    /// Results kept.
    pub results: usize,
    /// Bytes of artifacts on disk.
    pub artifact_bytes: u64,
    /// Each executor's own words.
    pub executors: BTreeMap<&'static str, serde_json::Value>,
    /// Whether the node is shutting down.
    pub draining: bool,
}

/// One node. Cheap to clone.
#[derive(Clone)]
pub struct Node;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(pub String);

impl Node {
    /// Opens the data directory, starts the executors, and takes up what an
    /// earlier run left: deployed functions and accepted calls.
    pub async fn start(_config: NodeConfig) -> Result<Node, NodeError> {
        unreachable!()
    }
    /// This node's id.
    pub fn id(&self) -> &str {
        unreachable!()
    }
    /// What it was told.
    pub fn config(&self) -> &NodeConfig {
        unreachable!()
    }
    /// Runs a call and waits for the answer. Dropping the future cancels it.
    pub async fn invoke(&self, _invocation: Invocation) -> Result<Answer, InvokeError> {
        unreachable!()
    }
    /// Accepts a call to be run later; it is on disk when this returns.
    pub async fn submit(&self, _submission: Submission) -> Result<CallId, SubmitError> {
        unreachable!()
    }
    /// What became of an accepted call; `None` when unknown or expired.
    pub async fn call(&self, _id: CallId) -> Result<Option<CallState>, ChangeError> {
        unreachable!()
    }
    /// Deploys or updates a function. Its artifact must be here. Returns once
    /// the deployment is on disk and the code has been checked; compiling goes on.
    pub async fn deploy(&self, _spec: FunctionSpec, _mode: DeployMode) -> Result<(), ChangeError> {
        unreachable!()
    }
    /// Removes a function; running calls end.
    pub async fn remove(&self, _name: &FunctionName) -> Result<(), ChangeError> {
        unreachable!()
    }
    /// Keeps `replicas` instances (bounded by the function's maximum); 0 lets
    /// all go until the next call.
    pub async fn scale(&self, _name: &FunctionName, _replicas: u32) -> Result<(), ChangeError> {
        unreachable!()
    }
    /// One function.
    pub fn function(&self, _name: &FunctionName) -> Option<FunctionStatus> {
        unreachable!()
    }
    /// All functions of a namespace, or of all, by name.
    pub fn functions(&self, _namespace: Option<&Namespace>) -> Vec<FunctionStatus> {
        unreachable!()
    }
    /// A function's log.
    pub fn log(&self, _name: &FunctionName) -> Option<Arc<FunctionLog>> {
        unreachable!()
    }
    /// Whether the node has this artifact, and its size in bytes.
    pub fn artifact(&self, _digest: &Digest) -> Option<u64> {
        unreachable!()
    }
    /// What an artifact is, from its first bytes; `None` when it is not here,
    /// or nothing that Weir knows.
    pub async fn artifact_kind(&self, _digest: &Digest) -> Option<crate::function::ArtifactKind> {
        unreachable!()
    }
    /// Takes in an artifact; `true` when it was new.
    pub async fn put_artifact(
        &self,
        _digest: Digest,
        _length: Option<u64>,
        _body: crate::executor::Body,
    ) -> Result<bool, ArtifactError> {
        unreachable!()
    }
    /// Namespaces by name; the default one is always there.
    pub fn namespaces(&self) -> BTreeMap<Namespace, NamespaceInfo> {
        unreachable!()
    }
    /// Makes a namespace.
    pub async fn create_namespace(
        &self,
        _name: Namespace,
        _info: NamespaceInfo,
    ) -> Result<(), ChangeError> {
        unreachable!()
    }
    /// Changes what is said of a namespace.
    pub async fn update_namespace(
        &self,
        _name: Namespace,
        _info: NamespaceInfo,
    ) -> Result<(), ChangeError> {
        unreachable!()
    }
    /// Removes an empty namespace.
    pub async fn remove_namespace(&self, _name: &Namespace) -> Result<(), ChangeError> {
        unreachable!()
    }
    /// Names of secrets, never values.
    pub async fn secrets(&self, _namespace: &Namespace) -> Result<Vec<SecretName>, ChangeError> {
        unreachable!()
    }
    /// Makes a secret that is not there yet.
    pub async fn create_secret(
        &self,
        _namespace: Namespace,
        _name: SecretName,
        _value: Vec<u8>,
    ) -> Result<(), ChangeError> {
        unreachable!()
    }
    /// Replaces a secret's value; instances started from now on see it.
    pub async fn replace_secret(
        &self,
        _namespace: Namespace,
        _name: SecretName,
        _value: Vec<u8>,
    ) -> Result<(), ChangeError> {
        unreachable!()
    }
    /// Removes a secret.
    pub async fn remove_secret(
        &self,
        _namespace: &Namespace,
        _name: &SecretName,
    ) -> Result<(), ChangeError> {
        unreachable!()
    }
    /// The node at this moment.
    pub fn status(&self) -> NodeStatus {
        unreachable!()
    }
    /// Refuses new work and waits, at most `grace`, for what runs.
    pub async fn drain(&self, _grace: Duration) {
        unreachable!()
    }
}

/// Why an artifact was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Larger than one artifact may be (413).
    #[error(
        "the artifact is larger than {limit} bytes, the most that this node takes (artifacts.max-bytes)"
    )]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// The bytes have another digest (400).
    #[error("the bytes sent have the digest {got}: send the artifact whose digest is in the path")]
    Digest {
        /// What the bytes have.
        got: Digest,
    },
    /// No room under the node's own bound, or on the disk (507).
    #[error("{0}")]
    Full(String),
    /// The upload broke off (400/408).
    #[error("the upload ended early")]
    Body(#[source] crate::executor::BodyError),
    /// The disk failed (500).
    #[error("the artifact could not be written")]
    Disk(#[source] std::io::Error),
}
