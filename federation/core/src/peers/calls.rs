//! What calls to peers met, and who is asked whether it is back.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::standing::Peer;
use super::{Met, Peers, Standing};
use crate::endpoint::Endpoint;
use crate::snapshot::{FIRST_ALLOWANCE, Window};

/// How long a question is out, at the most, by which it is found out whether a
/// peer is back.
pub const ASKED_FOR: Duration = Duration::from_secs(2);

/// Probes that are kept for each peer; all but one of each were overtaken.
pub(super) const PROBES_PER_PEER: usize = 4;

impl Peers {
    /// Takes what a call to a peer met.
    pub fn met(&mut self, whom: PeerId, met: Met, now: Time) {
        self.catch_up_with(&whom);
        let Some(place) = self.slots.find(&whom) else {
            return;
        };
        let mut peer = self.peer(place).clone();
        let was = peer.standing;
        let (word, closes) = peer.meet(met, now);
        let (standing, allowance) = (peer.standing, peer.allowance);
        self.keep(place, peer);
        if let Some(word) = word {
            // Its processors are its weight among others.
            let weight = self.slots[place].cpu_total;
            if word.load.cpu_total != weight {
                self.structure = None;
            }
            if let Some(seen) = self.slots.get_mut(place) {
                seen.learn(word.load, now);
                seen.renew(&word);
            }
        }
        self.admit(place, allowance, closes);
        if standing != was {
            self.structure = None;
            if let Standing::Out { probe_at, .. } = standing {
                self.probes.push(Reverse((probe_at, place)));
                if !self.out.contains(&place) {
                    self.out.push(place);
                }
                self.drop_stale();
            }
        }
        self.watch(place);
    }

    /// Says how many calls a peer may hold, and that it is full now.
    fn admit(&mut self, place: u32, allowance: u32, closes: bool) {
        let seen = &self.slots[place];
        let is_said = match seen.window() {
            Some(window) => {
                window.allow(allowance);
                !closes
            }
            None => !closes && allowance == FIRST_ALLOWANCE,
        };
        if !is_said && let Some(seen) = self.slots.get_mut(place) {
            let window = seen.open();
            window.allow(allowance);
            if closes {
                window.close();
            }
        }
    }

    /// Our calls at a peer, from the first one on.
    pub fn window(&mut self, whom: &PeerId) -> Option<Arc<Window>> {
        self.catch_up_with(whom);
        let place = self.slots.find(whom)?;
        if let Some(window) = self.slots[place].window() {
            return Some(window.clone());
        }
        Some(self.slots.get_mut(place)?.open().clone())
    }

    /// Takes note that a peer is linked to again: if it could not be reached, it
    /// is tried at once.
    pub fn linked(&mut self, whom: &PeerId, now: Time) {
        self.catch_up_with(whom);
        let Some(place) = self.slots.find(whom) else {
            return;
        };
        let mut peer = self.peer(place).clone();
        if peer.hurry(now) {
            self.structure = None;
            self.keep(place, peer);
        }
    }

    /// Takes how long the way to a peer and back takes: what is measured counts
    /// more than what coordinates say.
    pub fn measured(&mut self, whom: &PeerId, round_trip: Duration) {
        self.catch_up();
        let Some(place) = self.slots.find(whom) else {
            return;
        };
        let seen = &self.slots[place];
        if (!seen.is_measured || !seen.is_so_far(round_trip))
            && let Some(seen) = self.slots.get_mut(place)
        {
            seen.is_measured = true;
            seen.set_round_trip(round_trip);
        }
    }

    /// Peers that failed because they were away, and are to be asked whether
    /// they are back: at most `most`, each again after a pause that doubles.
    pub fn to_ask(&mut self, most: usize, now: Time) -> Vec<(PeerId, Arc<[Endpoint]>)> {
        self.catch_up();
        let mut out = std::mem::take(&mut self.out);
        out.retain(|place| matches!(self.peer(*place).standing, Standing::Out { .. }));
        out.sort_unstable_by(|one, other| self.slots[*one].id.cmp(&self.slots[*other].id));
        out.dedup();
        let mut asked = Vec::new();
        for &place in &out {
            let peer = self.peer(place);
            let due = matches!(peer.standing, Standing::Out { probe_at, .. } if now >= probe_at);
            if asked.len() < most
                && due
                && !peer.silent
                && peer.is_absent()
                && now >= peer.asked_until
            {
                let asked_until = now + ASKED_FOR;
                let peer = peer.clone();
                self.keep(
                    place,
                    Peer {
                        asked_until,
                        ..peer
                    },
                );
                asked.push((self.slots[place].id, self.slots[place].carriage.clone()));
            }
        }
        self.out = out;
        asked
    }

    /// Drops probes that were overtaken, when they are more than the others.
    fn drop_stale(&mut self) {
        let bound = self.order.len().saturating_mul(PROBES_PER_PEER) + PROBES_PER_PEER;
        if self.probes.len() <= bound {
            return;
        }
        let mut probes = std::mem::take(&mut self.probes);
        probes.retain(|Reverse((at, place))| {
            let standing = self.peer(*place).standing;
            matches!(standing, Standing::Out { probe_at, .. } if probe_at == *at)
        });
        self.probes = probes;
    }
}
