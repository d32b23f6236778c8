//! Here or nowhere: warm, cold, or in the queue.

use super::{Decision, Policy, Request, arrived, local, queue};
use crate::explain::Witness;
use crate::snapshot::Snapshot;

/// Asks no peer.
pub(super) struct LocalOnly;

impl Policy for LocalOnly {
    fn name(&self) -> &'static str {
        "local-only"
    }

    fn decide(
        &self,
        request: &Request<'_>,
        snapshot: &Snapshot<'_>,
        witness: &mut dyn Witness,
    ) -> Decision {
        arrived(request, snapshot, witness)
            .or_else(|| local(snapshot))
            .unwrap_or_else(|| queue(request, snapshot).unwrap_or_else(Decision::Reject))
    }
}
