//! Everything goes to the cloud; a cloud node runs it.

use std::sync::Arc;

use super::{Case, Decision, Kind, Origin, Policy, Reaches, Reason};
use crate::report::Role;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends all calls of edge nodes to the cloud",
    keys: &[],
    build: |_| Arc::new(CloudOnly),
};

const NAME: &str = "cloud-only";

/// Runs no call of an edge node's own users at the edge.
struct CloudOnly;

impl Policy for CloudOnly {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: false,
            vertical: true,
        }
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        origin != Origin::Here
    }

    fn shares_out(&self) -> bool {
        // Its calls wait where nobody has the code, and ask.
        false
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
