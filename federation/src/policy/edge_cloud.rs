//! Here, else the cloud; nobody waits.

use super::{Decision, Policy, Reason, Request, arrived, cloud, local};
use crate::explain::Witness;
use crate::snapshot::{Draws, Snapshot};

/// Never asks a neighbour.
pub(super) struct EdgeCloud;

impl Policy for EdgeCloud {
    fn name(&self) -> &'static str {
        "edge-cloud"
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
        local(snapshot)
            .or_else(|| cloud(request, snapshot, &mut draws, witness))
            .unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }
}
