//! Here or nowhere: warm, cold, or in the queue.

use super::{Case, Decision, Policy, Reaches};

/// Asks no peer.
pub(super) struct LocalOnly;

impl Policy for LocalOnly {
    fn name(&self) -> &'static str {
        "local-only"
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
