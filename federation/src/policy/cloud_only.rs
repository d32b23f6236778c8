//! Everything goes to the cloud; a cloud node runs it.

use super::{Decision, Policy, Reason, Request, arrived, cloud, local};
use crate::explain::Witness;
use crate::report::Role;
use crate::snapshot::{Draws, Snapshot};

/// Runs no call of an edge node's own users at the edge.
pub(super) struct CloudOnly;

impl Policy for CloudOnly {
    fn name(&self) -> &'static str {
        "cloud-only"
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
        let here = match snapshot.local.role {
            Role::Cloud => local(snapshot),
            Role::Edge => None,
        };
        let mut draws = Draws::new(snapshot.chance);
        here.or_else(|| cloud(request, snapshot, &mut draws, witness))
            .unwrap_or(Decision::Reject(Reason::NoSuchPlace))
    }
}
