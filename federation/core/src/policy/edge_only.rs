//! Neighbours first, as Serverledge's policy of this name: it measures what
//! horizontal offloading alone does. Without a neighbour that fits, here.

use super::{Case, Decision, Policy, Reaches, Reason};

/// Never asks the cloud.
pub(super) struct EdgeOnly;

impl Policy for EdgeOnly {
    fn name(&self) -> &'static str {
        "edge-only"
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: false,
        }
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        case.neighbour()
            .or_else(|| case.ask())
            .or_else(|| case.run_here())
            .unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }
}
