//! The default: here, else the best neighbour that can run it now, else the
//! cloud, else a place in the queue here, else nothing. A node where the
//! function fails and that of others does not comes last.
//!
//! A call that a peer sent goes on by the same rule, as far as its hops reach:
//! peers know their own neighbours better than the sender does. It does not
//! wait here: the sender still has other places to try.

use std::sync::Arc;

use super::{Case, Decision, Kind, Origin, Policy, Reaches, Reason};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "runs a call here, else at the neighbour that is soonest done with it, else in the cloud, else in the queue here",
    keys: &[],
    build: |_| Arc::new(Spill),
};

const NAME: &str = "spill";

/// Spills what does not fit, to where it is soonest run.
struct Spill;

impl Policy for Spill {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: true,
        }
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        if let Some(decision) = at_once(case) {
            return decision;
        }
        // It could run here, and would fail as those before it.
        if case.run_here().is_some() {
            return case.wait_elsewhere().unwrap_or(Decision::Run);
        }
        match case.queue() {
            Ok(decision) => decision,
            // The queue is the last place: that it is full means that nobody
            // else had room either.
            Err(Reason::NoRoom) => Decision::Reject(Reason::NobodyHasRoom),
            Err(reason) => Decision::Reject(reason),
        }
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        let decision = match case.request.origin {
            Origin::Here | Origin::Neighbour => case
                .run_here()
                .or_else(|| case.neighbour())
                .or_else(|| case.cloud()),
            Origin::Region { .. } => case.run_here().or_else(|| case.balance()),
        };
        decision.unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }
}

fn at_once(case: &mut Case<'_>) -> Option<Decision> {
    case.run_well_here()
        .or_else(|| case.neighbour())
        .or_else(|| case.cloud())
}
