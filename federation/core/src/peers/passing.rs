//! What time alone makes of peers.

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::standing::USUAL;
use super::{Peers, REFUTE_WITHIN, SILENT_AFTER, Standing};
use crate::snapshot::Word;

/// What time alone brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A suspicion was not refuted.
    Died(PeerId),
    /// Nothing was heard for [`SILENT_AFTER`].
    Silent(PeerId),
    /// It is forgotten.
    Forgotten(PeerId),
}

impl Peers {
    /// Lets time pass. Costs nothing while it changes nothing.
    pub fn tick(&mut self, now: Time) -> Vec<Event> {
        self.catch_up();
        let mut due = Vec::new();
        while let Some(place) = self.timers.pop(now) {
            if self.slots.get(place).is_some() {
                due.push(place);
            }
        }
        self.fallen_silent(now, &mut due);
        due.sort_by(|one, other| self.slots[*one].id.cmp(&self.slots[*other].id));
        // Its timer may be over just when it has been silent for too long.
        due.dedup();
        let mut events = Vec::new();
        for &place in &due {
            self.pass(place, now, &mut events);
        }
        for place in due {
            let seen = &self.slots[place];
            if self.peer(place).is_over(seen.heard, now) {
                events.push(Event::Forgotten(seen.id));
                self.remove(place);
            } else {
                self.watch(place);
            }
        }
        events
    }

    /// Those of whom there is nothing to keep, and about whom time alone changes
    /// something now. All are looked at, seldom: whoever lives reports far more
    /// often than is needed.
    fn fallen_silent(&mut self, now: Time, due: &mut Vec<u32>) {
        if now < self.silence {
            return;
        }
        self.silence = Time::NEVER;
        for &place in &self.order {
            if self.unusual.contains_key(&place) {
                continue;
            }
            let at = USUAL.due(self.slots[place].heard);
            match at <= now {
                true => due.push(place),
                false => self.silence = self.silence.min(at),
            }
        }
    }

    /// Lets time pass for one peer.
    fn pass(&mut self, place: u32, now: Time, events: &mut Vec<Event>) {
        let seen = &self.slots[place];
        let mut peer = self.peer(place).clone();
        if peer.full_until.is_some_and(|until| now >= until) {
            peer.full_until = None;
            let word = Word {
                load: seen.load(),
                under_way: 0,
            };
            if let Some(window) = seen.window() {
                window.renew(&word);
            }
        }
        if let Standing::Suspected { since } = peer.standing
            && now.since(since) >= REFUTE_WITHIN
        {
            peer.standing = Standing::Gone {
                since: now,
                left: false,
            };
            self.structure = None;
            events.push(Event::Died(seen.id));
        }
        let gone = matches!(peer.standing, Standing::Gone { .. });
        if !gone && !peer.silent && now.since(seen.heard) >= SILENT_AFTER {
            peer.silent = true;
            self.structure = None;
            events.push(Event::Silent(seen.id));
        }
        self.keep(place, peer);
    }
}
