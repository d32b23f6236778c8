//! Here or nowhere: warm, cold, or in the queue.

use std::sync::Arc;

use super::{Case, Decision, Kind, Policy, Reaches};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "runs a call here or lets it wait here, and asks no peer",
    keys: &[],
    build: |_| Arc::new(LocalOnly),
};

const NAME: &str = "local-only";

/// Asks no peer.
struct LocalOnly;

impl Policy for LocalOnly {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: false,
            vertical: false,
        }
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let waiting = || case.queue().unwrap_or_else(Decision::Reject);
        case.run_here().unwrap_or_else(waiting)
    }
}
