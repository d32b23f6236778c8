//! `all-local`: every call runs where it came in.
//!
//! DFaaS, all-local strategy (reference, section 5.3): no forwarding.
//!
//! Mended: what found no place at once was lost; here it waits in the queue as long
//! as its deadline allows.

use std::sync::Arc;

use super::area::FAITHFUL;
use super::{Case, Decision, Kind, Policy, Reaches, Reason};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "runs each call where it came in",
    keys: &[FAITHFUL],
    build: |parameters| {
        Arc::new(AllLocal {
            faithful: parameters.flag("faithful"),
        })
    },
};

const NAME: &str = "all-local";

/// Sends nothing away.
struct AllLocal {
    faithful: bool,
}

impl Policy for AllLocal {
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
        match (case.run_here(), self.faithful) {
            (Some(decision), _) => decision,
            (None, true) => Decision::Reject(Reason::NoRoom),
            (None, false) => case.queue().unwrap_or_else(Decision::Reject),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testbed::{Trial, policy};
    use crate::snapshot::Here;

    #[test]
    fn nothing_leaves() {
        for (here, queue, faithful, expected) in [
            (Here::Warm, None, false, "Run"),
            (Here::Startable, None, true, "Run"),
            (Here::Full, Some(5), false, "Enqueue"),
            (Here::Full, Some(5), true, "Reject(NoRoom)"),
            (Here::Full, None, false, "Reject(NoRoom)"),
            (Here::Unable, Some(5), false, "Reject(NoRoom)"),
        ] {
            let mut trial = Trial {
                here,
                queue: queue.map(Duration::from_millis),
                ..Trial::of(3)
            };
            trial.join_cloud();
            let policy = policy(&format!("all-local:faithful={faithful}"));
            let decision = format!("{:?}", trial.decide(&*policy, 1));
            assert!(decision.starts_with(expected), "{decision}");
        }
    }
}
