//! Neighbours first, as Serverledge's policy of this name: it measures what
//! horizontal offloading alone does. Without a neighbour that fits, here.

use super::{Decision, Policy, Reason, Request, arrived, local, neighbour};
use crate::explain::Witness;
use crate::snapshot::{Draws, Snapshot};

/// Never asks the cloud.
pub(super) struct EdgeOnly;

impl Policy for EdgeOnly {
    fn name(&self) -> &'static str {
        "edge-only"
    }

    fn decide(
        &self,
        request: &Request<'_>,
        snapshot: &Snapshot<'_>,
        witness: &mut dyn Witness,
    ) -> Decision {
        if let Some(decision) = arrived(request, snapshot, witness) {
            return decision;
        }
        let mut draws = Draws::new(snapshot.chance);
        neighbour(request, snapshot, &mut draws, witness)
            .or_else(|| local(snapshot))
            .unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }
}
