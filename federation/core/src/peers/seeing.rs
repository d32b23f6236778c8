//! What of the table others see: decisions, and listings.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::{Fault, Peers, Standing};
use crate::report::{Load, Report};
use crate::snapshot::{Structure, View};

/// Between two times that round trips to all are guessed anew from where this
/// node is: that moves a little with each measurement.
const GUESS_INTERVAL: Duration = Duration::from_secs(1);

/// Refusals in a row by a peer that claims room, after which its claims are
/// named as contradicted.
const CONTRADICTIONS: u8 = 8;

/// One line about a peer, for listings.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Who.
    pub id: PeerId,
    /// What it says of itself.
    pub report: Arc<Report>,
    /// How old that is.
    pub age: Duration,
    /// The newest that is known of its load, from reports and answers.
    pub load: Load,
    /// How old that is.
    pub load_age: Duration,
    /// Whether calls are sent to it.
    pub standing: Standing,
    /// Whether nothing was heard of it for long.
    pub silent: bool,
    /// Whether it refuses what it claims to have room for.
    pub contradicted: bool,
    /// What it failed in last, and was not forgiven yet.
    pub fault: Option<Fault>,
    /// Calls of ours that it may hold.
    pub allowance: u32,
    /// Calls of ours that it holds.
    pub held: u32,
}

impl Peers {
    /// What is known of everybody, in the order of their ids.
    pub fn known(&self, now: Time) -> Vec<Known> {
        let known = self.order.iter().map(|place| self.known_at(*place, now));
        known.collect()
    }

    /// What is known of one.
    pub fn one(&self, id: &PeerId, now: Time) -> Option<Known> {
        Some(self.known_at(self.slots.find(id)?, now))
    }

    fn known_at(&self, place: u32, now: Time) -> Known {
        let (seen, peer) = (&self.slots[place], self.peer(place));
        Known {
            id: seen.id,
            report: seen.report.clone(),
            age: now.since(seen.heard),
            load: seen.load(),
            load_age: now.since(seen.loaded()),
            standing: peer.standing,
            silent: peer.silent,
            contradicted: peer.refusals >= CONTRADICTIONS,
            fault: peer.fault,
            allowance: peer.allowance,
            held: seen.held(),
        }
    }

    /// What decisions see: peers that may take calls now, as `own`'s report
    /// looks at them. What did not change since the last view is shared with it.
    pub fn view(&mut self, own: &Report, now: Time) -> View {
        let structure = self.structure_from(own, now);
        View::of(self.slots.settled().clone(), structure)
    }

    pub(super) fn structure_from(&mut self, own: &Report, now: Time) -> Arc<Structure> {
        self.catch_up();
        self.look_from(own, now);
        while let Some(Reverse((at, place))) = self.probes.peek().copied()
            && at <= now
        {
            self.probes.pop();
            if matches!(self.peer(place).standing, Standing::Out { .. }) {
                self.structure = None;
            }
        }
        if let Some(structure) = &self.structure {
            return structure.clone();
        }
        let structure = Arc::new(self.sort_out(now));
        self.structure = Some(structure.clone());
        structure
    }

    /// Takes note of where this node is.
    fn look_from(&mut self, own: &Report, now: Time) {
        if self.zone != own.zone {
            self.zone.clone_from(&own.zone);
            self.structure = None;
        }
        let (coordinate, since) = self.coordinate;
        let soon = since != Time::ZERO && now.since(since) < GUESS_INTERVAL;
        if coordinate == own.coordinate || soon {
            return;
        }
        self.coordinate = (own.coordinate, now);
        for &place in &self.order {
            let seen = &self.slots[place];
            if seen.is_measured {
                continue;
            }
            let guessed = own.coordinate.distance(&seen.report.coordinate);
            if !seen.is_so_far(guessed)
                && let Some(seen) = self.slots.get_mut(place)
            {
                seen.set_round_trip(guessed);
            }
        }
    }

    /// Who takes calls now.
    fn sort_out(&mut self, now: Time) -> Structure {
        let (mut takes, mut away) = (Vec::new(), Vec::new());
        for &place in &self.order {
            let peer = self.peer(place);
            let (probing, may) = match peer.standing {
                Standing::In => (false, true),
                Standing::Out { probe_at, .. } => (true, now >= probe_at),
                Standing::Suspected { .. } | Standing::Gone { .. } => (false, false),
            };
            let may = may && !peer.silent && !self.slots[place].report.draining;
            match peer.standing {
                _ if may => takes.push(place),
                Standing::Gone { .. } => {}
                Standing::In | Standing::Out { .. } | Standing::Suspected { .. } => {
                    away.push(place);
                }
            }
            if self.slots[place].probing != probing
                && let Some(seen) = self.slots.get_mut(place)
            {
                seen.probing = probing;
            }
        }
        Structure::new(self.zone.as_deref(), self.slots.settled(), takes, away)
    }
}
