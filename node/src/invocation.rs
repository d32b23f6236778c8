//! One call, from arrival to answer, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use crate::executor::{AnswerBody, Body, BodyError};
use crate::id::{CallId, FunctionName};
use crate::panics::Panicked;
use crate::time::Time;

pub use weir_node_core::words::{Phase, Refusal, Start, Timing};

/// One call as the door hands it in.
pub struct Invocation {
    /// This node's id of the call.
    pub id: CallId,
    /// Which function.
    pub function: FunctionName,
    /// Method; path after the function's name with the query; the headers
    /// that the function may see; the body.
    pub request: http::Request<Body>,
    /// The class that the caller asked for.
    pub class: Option<String>,
    /// The latest useful answer, a moment that was fixed when the call arrived;
    /// `None` for none but its class's.
    pub deadline: Option<Time>,
    /// For a call that was accepted to be run later: until when it waits for a
    /// place, in order and whatever the load. `None` for a call whose caller
    /// waits.
    pub persists_until: Option<Time>,
}

/// The answer of a function.
pub struct Answer {
    /// Status, headers and body as the function gave them.
    pub response: http::Response<AnswerBody>,
    /// Whether it was warm.
    pub start: Start,
    /// Where the time went.
    pub timing: Timing,
    /// The other node that ran it; `None` for this one.
    pub ran_on: Option<Arc<str>>,
}

/// How a call ended without an answer from the function.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// No such function here.
    #[error("error finding function {}: it is not deployed on this node", .0.qualified())]
    Unknown(FunctionName),
    /// The caller named a class that it may not use, or that does not exist.
    #[error("{0}")]
    Class(String),
    /// Refused for load; try again after the given time.
    #[error("refused for load: {}", .reason.as_str())]
    Refused {
        /// Why.
        reason: Refusal,
        /// A guess of when a place will be free.
        retry_after: Duration,
    },
    /// The node cannot run this function now, whatever the load.
    #[error("cannot run {function}: {reason}")]
    CannotRun {
        /// Which.
        function: FunctionName,
        /// Why and what to do.
        reason: String,
    },
    /// The deadline or the function's timeout passed.
    #[error("{}", late(*.phase, *.after))]
    Late {
        /// In which phase.
        phase: Phase,
        /// How long that phase was given: the timeout, or what was left of
        /// the deadline.
        after: Duration,
    },
    /// The function failed, or answered nonsense.
    #[error("{0}")]
    Failed(String),
    /// The peer that had the call was lost, and it may have run there.
    #[error("{0}")]
    PeerLost(String),
    /// The caller's body broke off, came too slowly or was too large.
    #[error("the request body ended early")]
    Body(#[source] BodyError),
    /// The function's protocol has no place for the request.
    #[error("{0}")]
    Unfit(String),
    /// The node itself failed, and the call may have run.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

fn late(phase: Phase, after: Duration) -> String {
    // Nobody counts nanoseconds here.
    let after = humantime::format_duration(Duration::from_millis(after.as_millis() as u64));
    match phase {
        Phase::Queue => format!("the deadline passed after {after} of waiting for a free place"),
        Phase::Start => format!("the deadline passed after {after} of waiting for a start"),
        Phase::Run => format!("the function did not answer within its {after}"),
    }
}

impl InvokeError {
    /// The HTTP status that stands for it.
    pub fn status(&self) -> u16 {
        match self {
            InvokeError::Unknown(_) => 404,
            InvokeError::Class(_) | InvokeError::Body(_) | InvokeError::Unfit(_) => 400,
            InvokeError::Refused { .. } => 429,
            InvokeError::CannotRun { .. } => 503,
            InvokeError::Late { .. } => 504,
            InvokeError::Failed(_) | InvokeError::PeerLost(_) => 502,
            InvokeError::Internal(_) => 500,
        }
    }

    /// The word for metrics and `X-Weir-Error`.
    pub fn word(&self) -> &'static str {
        match self {
            InvokeError::Unknown(_) => "unknown-function",
            InvokeError::Class(_) => "class",
            InvokeError::Body(_) => "body",
            InvokeError::Unfit(_) => "unfit-request",
            InvokeError::Refused { reason, .. } => reason.as_str(),
            InvokeError::CannotRun { .. } => "cannot-run",
            InvokeError::Late { .. } => "late",
            InvokeError::Failed(_) => "function-failed",
            InvokeError::PeerLost(_) => "peer-lost",
            InvokeError::Internal(_) => "internal",
        }
    }
}

/// How an asynchronous call ended, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which function.
    pub function: FunctionName,
    /// The status that a waiting caller would have seen.
    pub status: u16,
    /// Warm or cold, and where the time went; `None` when it never started.
    pub ran: Option<(Start, Timing)>,
    /// From the beginning of its last attempt to the beginning of its answer.
    pub took: Duration,
}
