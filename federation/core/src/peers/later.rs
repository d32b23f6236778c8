//! Reports that are taken when somebody looks.
//!
//! Of a peer to which nothing was sent, and of which nothing is unusual, a
//! report changes nothing but what the next view shows: it may wait until that
//! is made. Then it changes a table that no view shares, and copies nothing.

use std::sync::Arc;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::{Event, Heard, Peers};
use crate::facts::{Facts, PeerKey};
use crate::report::Report;
use crate::snapshot::View;

/// Reports that wait at once; beyond them all are taken.
const LATER_MAX: usize = 1_024;

/// A report that waits, and when it was heard.
#[derive(Debug)]
pub(super) struct Later {
    key: PeerKey,
    facts: Arc<Facts>,
    at: Time,
}

impl Peers {
    /// Hears a report as [`Peers::hear_shared`] does, for who makes views by
    /// [`Peers::look_again`] alone: what decisions see is the same, and what
    /// [`Peers::known`] lists is as old as the last view.
    pub fn hear_later(&mut self, facts: &Arc<Facts>, now: Time) {
        let key = PeerKey::of(&facts.id);
        if self.opens_all || facts.id == self.own || self.touched.contains(&key) {
            self.hear_now(facts, now);
            return;
        }
        if self.later.len() >= LATER_MAX {
            self.catch_up();
        }
        let (facts, at) = (facts.clone(), now);
        self.later.push(Later { key, facts, at });
    }

    /// Hears a report after those that wait no more.
    pub(super) fn hear_now(&mut self, facts: &Arc<Facts>, now: Time) -> Heard {
        match self.is_news(&facts.id, &facts.report) {
            Err(heard) => heard,
            Ok(place) => self.take(place, facts.clone(), now),
        }
    }

    /// Takes all reports that wait.
    pub(super) fn catch_up(&mut self) {
        let mut later = std::mem::take(&mut self.later);
        for Later { facts, at, .. } in later.drain(..) {
            self.hear_now(&facts, at);
        }
        self.later = later;
    }

    /// Takes those of one peer, which is touched: its reports wait no more.
    pub(super) fn catch_up_with(&mut self, whom: &PeerId) {
        if self.opens_all {
            return;
        }
        let key = PeerKey::of(whom);
        if self.touched.contains(&key) {
            return;
        }
        if self.slots.find(whom).is_none() {
            // Whether there is room for it depends on who came before.
            self.catch_up();
        } else if !self.later.is_empty() {
            let of_it = self.later.extract_if(.., |later| later.key == key);
            for Later { facts, at, .. } in of_it.collect::<Vec<_>>() {
                self.hear_now(&facts, at);
            }
        }
        if self.slots.find(whom).is_some() {
            self.touched.insert(key);
        }
    }

    /// Lets time pass, and makes a view anew as [`Peers::tick`] and
    /// [`Peers::view`] do.
    pub fn look_again(&mut self, view: &mut View, own: &Report, now: Time) -> Vec<Event> {
        // What nobody shares is not copied when it changes.
        view.let_go();
        self.slots.settled();
        let events = self.tick(now);
        let structure = self.structure_from(own, now);
        view.show(self.slots.settled(), structure);
        events
    }

    /// Counts calls to a peer from the first one on, as [`Peers::window`] does,
    /// and has a view show that.
    pub fn open(&mut self, whom: &PeerId, view: &mut View, own: &Report, now: Time) {
        view.let_go();
        self.slots.settled();
        self.window(whom);
        let structure = self.structure_from(own, now);
        view.show(self.slots.settled(), structure);
    }
}

#[cfg(test)]
mod tests;
