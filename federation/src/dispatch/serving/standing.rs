//! What this node can do about a function of others: run it, or bring it first.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use tokio::sync::oneshot;
use weir_node::function::Scope;
use weir_node::id::FunctionName;
use weir_node::invocation::{InvokeError, Refusal};

use super::{Refused, SOON};
use crate::answers::Why;
use crate::dispatch::Inner;
use weir_federation_core::wanted;

/// Functions that this node brings at once for other nodes' users.
pub(super) const BRINGS: usize = 2;

/// What this node can do about a function that another node asks for.
pub(super) enum Standing {
    /// It runs it.
    Runs,
    /// It could, and lacks the code.
    Absent,
    /// It could soon.
    Later,
    /// It cannot.
    Unable(String),
}

impl Inner {
    /// What this node can do about a version of a function.
    pub(super) async fn standing(&self, name: &FunctionName, version: u64) -> Standing {
        let entry = self.federated.entry(name);
        let own = self.node.spec(name);
        if own.as_ref().is_some_and(|own| own.scope == Scope::Node) {
            let text = "it is deployed there for that node alone (--scope node)";
            return Standing::Unable(text.to_owned());
        }
        let known = entry.as_ref().map_or(0, |entry| entry.record.version);
        if known < version {
            return Standing::Later;
        }
        let newest = entry.and_then(|entry| entry.spec);
        let own = match (own, newest) {
            (Some(own), Some(newest)) if own == newest => own,
            (Some(own), None) => own,
            (Some(_) | None, Some(_)) => {
                return match self.replication.may_run_with_secrets(name).await {
                    Ok(()) => Standing::Absent,
                    Err(error) => Standing::Unable(error.to_string()),
                };
            }
            (None, None) => return Standing::Unable("nothing is known of it".to_owned()),
        };
        // What runs has all that it needs.
        let is_warm = || self.node.places(name).unwrap_or_default().warm > 0;
        if !own.secrets.is_empty()
            && !is_warm()
            && let Err(error) = self.replication.has_secrets(name).await
        {
            return Standing::Unable(error.to_string());
        }
        Standing::Runs
    }

    pub(super) async fn check_standing(
        self: &Arc<Self>,
        from: &PeerId,
        name: &FunctionName,
        version: u64,
    ) -> Result<(), Refused> {
        let later = |ready_in| Refused {
            ready_in,
            ..Refused::new(Refusal::NoRoom, "bringing", Why::Bringing)
        };
        match self.standing(name, version).await {
            Standing::Runs => Ok(()),
            Standing::Later => Err(later(SOON)),
            Standing::Absent => {
                tracing::debug!(function = %name, peer = %from, "brings a function for a guest");
                let (ready_in, _) = self.bring(name);
                Err(later(ready_in))
            }
            Standing::Unable(reason) => Err(Refused {
                error: InvokeError::CannotRun {
                    function: name.clone(),
                    reason,
                },
                word: Some("unable"),
                why: Why::Unable,
                ready_in: Duration::ZERO,
            }),
        }
    }

    /// Has a function brought here for others: how long that is expected to
    /// take, and its end. `None` when others are brought already.
    pub(super) fn bring(
        self: &Arc<Self>,
        name: &FunctionName,
    ) -> (Duration, Option<oneshot::Receiver<Result<(), String>>>) {
        let entry = self.federated.entry(name);
        let code = entry.and_then(|entry| entry.record.code);
        let bytes = code.map_or(0, |code| code.bytes);
        let expected = wanted::bring_time(bytes);
        if !self.replication.is_adopting(name) && self.serving.bringing.available_permits() == 0 {
            return (expected.max(SOON), None);
        }
        let (ended, end) = oneshot::channel();
        let (inner, name) = (self.clone(), name.clone());
        self.federated.spawn(async move {
            let Ok(_turn) = inner.serving.bringing.acquire().await else {
                return;
            };
            let brought = inner.replication.adopt_for_guests(&name).await;
            if let Err(error) = &brought {
                tracing::debug!(function = %name, %error, "a function is not brought for a guest");
            }
            // Whoever asked may have gone.
            let _ = ended.send(brought.map_err(|error| error.to_string()));
        });
        (expected, Some(end))
    }
}
