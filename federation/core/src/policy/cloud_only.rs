//! Everything goes to the cloud; a cloud node runs it.

use super::{Case, Decision, Policy, Reaches, Reason};
use crate::report::Role;

/// Runs no call of an edge node's own users at the edge.
pub(super) struct CloudOnly;

impl Policy for CloudOnly {
    fn name(&self) -> &'static str {
        "cloud-only"
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: false,
            vertical: true,
        }
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let here = match case.snapshot.local.role {
            Role::Cloud => case.run_here(),
            Role::Edge => None,
        };
        here.or_else(|| case.cloud())
            .unwrap_or(Decision::Reject(Reason::NoSuchPlace))
    }
}
