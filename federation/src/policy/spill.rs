//! The default: here, else the best neighbour that can run it now, else the
//! cloud, else a place in the queue here, else nothing.
//!
//! A call that a peer sent goes on by the same rule, as far as its hops reach:
//! peers know their own neighbours better than the sender does.

use super::{Decision, Origin, Policy, Reason, Request, balance, cloud, local, neighbour, queue};
use crate::explain::Witness;
use crate::snapshot::{Draws, Snapshot};

/// Spills what does not fit, to where it is soonest run.
pub(super) struct Spill;

impl Policy for Spill {
    fn name(&self) -> &'static str {
        "spill"
    }

    fn decide(
        &self,
        request: &Request<'_>,
        snapshot: &Snapshot<'_>,
        witness: &mut dyn Witness,
    ) -> Decision {
        let mut draws = Draws::new(snapshot.chance);
        let elsewhere = |witness: &mut dyn Witness, draws: &mut Draws| match request.origin {
            Origin::Here | Origin::Neighbour => neighbour(request, snapshot, draws, witness)
                .or_else(|| cloud(request, snapshot, draws, witness)),
            Origin::Region { .. } => balance(request, snapshot, draws, witness),
        };
        if let Some(decision) = local(snapshot).or_else(|| elsewhere(witness, &mut draws)) {
            return decision;
        }
        match request.origin {
            Origin::Here => queue(request, snapshot).unwrap_or_else(|reason| {
                // The queue is the last place: whoever is told that it is full
                // is told that nobody else had room either.
                Decision::Reject(match reason {
                    Reason::NoRoom => Reason::NobodyHasRoom,
                    other => other,
                })
            }),
            // The sender still has other places to try.
            Origin::Neighbour | Origin::Region { .. } => Decision::Reject(Reason::NobodyHasRoom),
        }
    }
}
