//! Containers for Weir, through the Docker Engine API.
//!
//! | file | what it does |
//! |---|---|
//! | `engine` | the engine: reach it, notice that it is gone, know of deaths, clean up what an earlier life of the node left |
//! | `image` | images: pulled, loaded from an archive, imported |
//! | `archive` | what lies where in an image archive |
//! | `container` | how a container is locked down, from its [`Settings`] |
//! | `sandbox` | network namespaces without a network, and sockets in them |
//! | `instance` | one started container: calls, death, the end |
//! | `idle` | how long a server keeps a connection that nobody uses |
//! | `resting` | connections on which nothing is under way, by the thread that used each last |
//! | `link` | an HTTP/1.1 connection to an instance, driven by whoever uses it |
//! | `protocol` | what is said over a link: plain HTTP, OpenWhisk, Serverledge |
//! | `lambda` | the Lambda Runtime API, which a container dials |
//! | `source` | folders of code that are mounted into runtimes |
//!
//! Invariants:
//! * No container has a network unless its settings ask for one; none has a
//!   privilege, and nothing of the host that it could write to.
//! * All that is made carries the label `weir.node`; whatever carries this
//!   node's id and is unknown to it is removed when the engine is reached.
//! * A connection on which a call was begun and not ended is never used again.

mod archive;
mod container;
mod death;
mod engine;
mod idle;
mod image;
mod instance;
mod lambda;
mod link;
mod protocol;
mod resting;
mod sandbox;
mod source;
mod usage;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

pub use archive::{Layer, check as check_archive, layers};
pub use container::{Network, Settings};
pub use engine::{Description, Engine, EngineConfig, Unavailable};
pub use image::{Export, Image, ImageError, ImageSource, Pull};
pub use instance::{Instance, StartError};
pub use protocol::{Action, LAMBDA_TASK_ROOT, Protocol};
pub use source::{
    MARKER as SOURCE_MARKER, SourceError, check as check_source, unpack as unpack_source,
};
pub use usage::Usage;

/// Why a body ended before its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body that streams, of a request or of an answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Takes what a container writes to its standard output and error.
pub trait LogSink: Send + Sync {
    /// Takes some bytes; lines may come in pieces.
    fn write(&self, bytes: &[u8]);
}

/// One call.
pub struct Call {
    /// Method; path and query; headers; body.
    pub request: http::Request<Body>,
    /// This node's id of the call.
    pub id: u128,
    /// When it is given up.
    pub until: std::time::Instant,
}

/// The body of an answer.
pub enum AnswerBody {
    /// All of it; the call has ended.
    Whole(Bytes),
    /// The rest comes.
    Stream(Body),
}

/// How a call failed before its answer began.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The time limit passed; the instance takes no more calls.
    #[error("the container did not answer in time")]
    TimedOut,
    /// It answered nonsense, or says that it failed.
    #[error("{0}")]
    Failed(String),
    /// It died, or its connection did, in the middle of the call: nobody knows
    /// how much of it was done.
    #[error("the container failed: {0}")]
    Lost(String),
    /// The client's body broke off.
    #[error("the request body ended early")]
    Body(#[source] BodyError),
    /// The protocol has no place for the request; the reason is meant for the
    /// caller.
    #[error("{0}")]
    Unfit(String),
    /// No byte of the call reached the code: it may be placed elsewhere.
    #[error("the container is gone: {reason}")]
    NotStarted {
        /// Why.
        reason: String,
        /// The call, whole.
        request: Option<Box<http::Request<Body>>>,
    },
}

/// Where a container's output goes, shared with the task that reads it.
pub(crate) type Sink = Arc<dyn LogSink>;

/// The sentence of an error and of all that caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Some libraries repeat their cause in their own sentence.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}
