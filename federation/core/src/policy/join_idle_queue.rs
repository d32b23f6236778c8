//! Join-Idle-Queue: servers that become idle queue at a dispatcher, which sends
//! calls to the first of them, and to any server while none is there. Y. Lu, Q.
//! Xie, G. Kliot, A. Geller, J. R. Larus, A. Greenberg, "Join-Idle-Queue: A novel
//! load balancing algorithm for dynamically scalable web services", Performance
//! Evaluation 68(11), 2011.
//!
//! A server joins the queue of the node whose call it has just answered: the
//! answer is the message.
//!
//! Mended: an idle server far away would be preferred to one nearby, so that the
//! nearest of the idle ones is taken, and this node first; what joined long ago is
//! not idle any more, for other nodes' calls go there too; while nobody is idle,
//! draws are in proportion to cores. With `faithful=true` the first of the queue is
//! taken, however old, and draws are even.

use std::sync::Arc;
use std::time::Duration;

use weir_node_core::time::Time;

use super::idle::IdleQueue;
use super::servers::{self, EVERYWHERE, FAITHFUL, Own, lot, ranked};
use super::{
    Case, Decision, Ending, Field, Key, Kind, Origin, Outcome, Parameters, Policy, Range, Reach,
    Reaches, Wishes,
};
use crate::facts::PeerKey;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "sends a call to a server that has just become idle, else to any",
    keys: &[
        Key {
            name: "idle",
            about: "how long a server that answered is taken to be idle",
            unit: "",
            range: Range::Time {
                least: Duration::from_millis(10),
                most: Duration::from_secs(600),
            },
            default: "1s",
        },
        FAITHFUL,
    ],
    build: |parameters| Arc::new(JoinIdleQueue::new(parameters)),
};

const NAME: &str = "join-idle-queue";

struct JoinIdleQueue {
    idle: IdleQueue,
    age: Duration,
    faithful: bool,
    own: Own,
}

impl JoinIdleQueue {
    fn new(parameters: &Parameters) -> JoinIdleQueue {
        let faithful = parameters.flag("faithful");
        JoinIdleQueue {
            idle: IdleQueue::new(),
            age: match faithful {
                true => Duration::MAX,
                false => parameters.time("idle"),
            },
            faithful,
            own: Own::default(),
        }
    }
}

impl Policy for JoinIdleQueue {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        EVERYWHERE
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        !self.faithful || origin != Origin::Here
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let is_idle = !self.faithful || self.own.calls() < 1.0;
        if let Some(decision) = case.run_well_here().filter(|_| is_idle) {
            return decision;
        }
        let found = self.idle.find(
            case,
            0,
            self.age,
            |peer, since| match self.faithful {
                true => since.as_nanos(),
                false => peer.round_trip_nanos,
            },
            |_| true,
        );
        if let Some(found) = found {
            case.terms(&found.candidate).put("idle", 1.0);
            if !case.is_trial() {
                self.idle.take(&found);
            }
            return case.send(found.candidate.place, Reach::Horizontal);
        }
        let chance = case.snapshot.chance;
        let own = |case: &mut Case<'_>| ranked(case.chance());
        servers::least(case, own, |candidate, terms| {
            let lot = lot(chance, candidate.peer.key);
            // The least of exponential times falls to each in proportion to its
            // rate: P. Efraimidis, P. Spirakis, "Weighted random sampling with a
            // reservoir", Information Processing Letters 97(5), 2006.
            let time = match self.faithful {
                true => lot,
                false => -(1.0 - lot).ln() / servers::cores(candidate),
            };
            terms.put("draw", time);
            ranked(time * 1e3)
        })
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        if let Some(peer) = &outcome.to
            && outcome.ending == Ending::Answered
        {
            self.idle.join(PeerKey::of(peer), 0, outcome.ended);
        }
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        self.own.look(field)
    }
}

#[cfg(test)]
mod tests;
