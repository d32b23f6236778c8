//! Here, else the cloud; nobody waits.

use std::sync::Arc;

use super::{Case, Decision, Kind, Policy, Reaches, Reason};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "runs a call here, else in the cloud; nobody waits, and no neighbour is asked",
    keys: &[],
    build: |_| Arc::new(EdgeCloud),
};

const NAME: &str = "edge-cloud";

/// Never asks a neighbour.
struct EdgeCloud;

impl Policy for EdgeCloud {
    fn name(&self) -> &'static str {
        NAME
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
