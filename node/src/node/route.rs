//! Where the node's asynchronous calls run, and who keeps copies of them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use libp2p_identity::PeerId;

use super::{Node, SubmitError};
use crate::function::FunctionSpec;
use crate::id::{CallId, FunctionName};
use crate::invocation::{Answer, Invocation, InvokeError};
use crate::store::CallRecord;

/// Decides where asynchronous calls run; without one they run here.
pub trait Router: Send + Sync {
    /// Runs a call somewhere, and waits for the answer.
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'_, Result<Answer, InvokeError>>;

    /// Whether a function that is not deployed here can be called all the same.
    fn knows(&self, function: &FunctionName) -> bool;

    /// Has as many peers keep a copy of a call as its function asks for. They
    /// run it should this node be gone, until [`Router::ended`].
    fn copy<'a>(&'a self, call: &'a CallRecord) -> BoxFuture<'a, Result<Copied, SubmitError>>;

    /// A call has ended, or was not accepted after all.
    fn ended(&self, call: CallId, accepted: bool);
}

/// Where copies of a call are.
#[derive(Debug, Clone, Default)]
pub struct Copied {
    /// How many its function asks for.
    pub wanted: u8,
    /// Who has one.
    pub peers: Vec<PeerId>,
}

impl Copied {
    /// What there is of copies on a node without peers.
    ///
    /// # Errors
    /// When the function's calls are not to be accepted without.
    pub fn alone(spec: Option<&FunctionSpec>) -> Result<Copied, SubmitError> {
        let asked = spec.map(|spec| spec.durability).unwrap_or_default();
        if asked.copies > 0 && !asked.best_effort {
            return Err(SubmitError::NoCopies {
                wanted: asked.copies,
                kept: 0,
            });
        }
        Ok(Copied {
            wanted: asked.copies,
            peers: Vec::new(),
        })
    }
}

impl Node {
    /// Has `router` decide where asynchronous calls run. The first one stays.
    pub fn route(&self, router: Arc<dyn Router>) {
        let _ = self.inner.router.set(router);
    }
}
