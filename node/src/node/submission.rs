//! Asynchronous calls as they are handed in, and what becomes of them.

use http::{HeaderMap, StatusCode};

use super::{ChangeError, Node};
use crate::callback::BadCallback;
use crate::executor::{self, Body};
use crate::id::{CallId, Receipt};
use crate::invocation::{Invocation, InvokeError};
use crate::store::{KeepBodyError, StoreError};

/// An asynchronous call as the door hands it in.
pub struct Submission {
    /// The call. Its body is read, and on disk, before it is accepted.
    pub invocation: Invocation,
    /// Most bytes of body to accept.
    pub body_bytes: u64,
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
    #[error(transparent)]
    Callback(BadCallback),
    /// The body is longer than it may be (413).
    #[error("the body of an asynchronous call may have at most {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// The caller's body broke off.
    #[error("the request body ended early")]
    Body(#[source] executor::BodyError),
    /// Too few peers can keep a copy of it (503).
    #[error(
        "{kept} of the {wanted} peers that are to keep a copy of each call of this function could: \
         try again, or deploy it with fewer (--durable) or with --durable-best-effort"
    )]
    NoCopies {
        /// How many should.
        wanted: u8,
        /// How many did; they let go of it.
        kept: usize,
    },
    /// The call could not be put on disk (507 when the disk is full, else 500).
    #[error("the call could not be stored, and was not accepted")]
    Store(#[source] StoreError),
}

impl From<KeepBodyError> for SubmitError {
    fn from(error: KeepBodyError) -> Self {
        match error {
            KeepBodyError::TooLarge { limit } => SubmitError::TooLarge { limit },
            KeepBodyError::Body(error) => SubmitError::Body(error),
            KeepBodyError::Store(error) => SubmitError::Store(error),
        }
    }
}

/// What became of an asynchronous call.
pub enum CallState {
    /// Accepted, not done.
    Pending,
    /// Done.
    Done(CallResult),
}

/// The result of an asynchronous call.
pub struct CallResult {
    /// The status that a waiting caller would have got.
    pub status: StatusCode,
    /// The answer's headers.
    pub headers: HeaderMap,
    /// The answer's body.
    pub body: Body,
    /// Its length in bytes.
    pub body_bytes: u64,
    /// The word of `X-Weir-Error` when the answer is the node's, not the function's.
    pub error: Option<String>,
    /// When the call ended.
    pub ended_at: jiff::Timestamp,
    /// How often it was begun.
    pub attempts: u32,
    /// The caller's own id of it.
    pub caller_id: Option<String>,
}

impl Node {
    /// Accepts a call to be run later; it is on disk when this returns, here and
    /// at as many peers as its function asks for.
    pub async fn submit(&self, submission: Submission) -> Result<Receipt, SubmitError> {
        self.inner.submit(submission).await
    }

    /// What became of an accepted call; `None` when unknown or expired.
    pub async fn call(&self, id: CallId) -> Result<Option<CallState>, ChangeError> {
        self.inner.call_state(id).await
    }
}
