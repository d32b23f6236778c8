//! Here, else the cloud; nobody waits.

use super::{Case, Decision, Policy, Reason};

/// Never asks a neighbour.
pub(super) struct EdgeCloud;

impl Policy for EdgeCloud {
    fn name(&self) -> &'static str {
        "edge-cloud"
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        case.run_here()
            .or_else(|| case.cloud())
            .unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }
}
