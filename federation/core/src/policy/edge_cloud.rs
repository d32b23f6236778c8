//! Here, else the cloud; nobody waits.

use super::{Case, Decision, Policy, Reaches, Reason};

/// Never asks a neighbour.
pub(super) struct EdgeCloud;

impl Policy for EdgeCloud {
    fn name(&self) -> &'static str {
        "edge-cloud"
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: false,
            vertical: true,
        }
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        case.run_well_here()
            .or_else(|| case.cloud())
            .or_else(|| case.run_here())
            .unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }
}
