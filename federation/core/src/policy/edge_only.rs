//! Neighbours first, as Serverledge's policy of this name: it measures what
//! horizontal offloading alone does. Without a neighbour that fits, here.

use std::sync::Arc;

use super::{Case, Decision, Kind, Origin, Policy, Reaches, Reason};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "asks neighbours first, and then this node; never the cloud",
    keys: &[],
    build: |_| Arc::new(EdgeOnly),
};

const NAME: &str = "edge-only";

/// Never asks the cloud.
struct EdgeOnly;

impl Policy for EdgeOnly {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: false,
        }
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        origin != Origin::Here
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        case.neighbour()
            .or_else(|| case.ask())
            .or_else(|| case.run_here())
            .unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }
}
