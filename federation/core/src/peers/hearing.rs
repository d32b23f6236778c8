//! What peers say of themselves, and others of them.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::{Peers, Standing};
use crate::facts::Facts;
use crate::report::Report;
use crate::snapshot::{FIRST_ALLOWANCE, PeerView, Word};

/// A report that comes so soon after a call was sent there may not count it:
/// what it says of room is left to the answers, which count all.
const REPORT_SETTLES: Duration = Duration::from_millis(50);

/// What came of hearing a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// From a peer that was not known, or was gone.
    New,
    /// Newer than what was known.
    Newer,
    /// Not newer: it came before, or by a longer way.
    Old,
    /// Of an earlier life than the one that is known: it should hear of that.
    Past,
    /// The table is full.
    Full,
    /// Of this node, from another life or another machine with the same key.
    /// This node's epoch is above it now.
    Own {
        /// How often this happened since the start: more than once or twice,
        /// and somebody runs with a copy of this node's identity.
        times: u32,
    },
}

/// What came of a suspicion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// The peer has to refute it.
    Noted,
    /// Of a life that is over, of nobody who is known, or known already.
    Old,
    /// Of this node: it must report with its new epoch at once.
    Refute,
}

impl Peers {
    /// Takes a report that was checked and whose signature holds.
    pub fn hear(&mut self, from: PeerId, report: Report, now: Time) -> Heard {
        self.catch_up();
        match self.is_news(&from, &report) {
            Err(heard) => heard,
            Ok(place) => self.take(place, Arc::new(Facts::new(from, report)), now),
        }
    }

    /// The same, of a report that others in this process heard too.
    pub fn hear_shared(&mut self, facts: &Arc<Facts>, now: Time) -> Heard {
        self.catch_up();
        self.hear_now(facts, now)
    }

    /// Whether a report says something new, and the place of who is known.
    pub(super) fn is_news(&mut self, from: &PeerId, report: &Report) -> Result<Option<u32>, Heard> {
        if *from == self.own {
            if !report.is_newer_than(self.epoch, self.sequence) {
                return Err(Heard::Old);
            }
            self.epoch = report.epoch.saturating_add(1);
            self.contested = self.contested.saturating_add(1);
            return Err(Heard::Own {
                times: self.contested,
            });
        }
        let Some(place) = self.slots.find(from) else {
            return match self.order.len() >= self.most {
                true => Err(Heard::Full),
                false => Ok(None),
            };
        };
        let known = &self.slots[place].report;
        if report.epoch < known.epoch {
            return Err(Heard::Past);
        }
        if !report.is_newer_than(known.epoch, known.sequence) {
            return Err(Heard::Old);
        }
        // Only a newer life of it says that it lives.
        let gone = matches!(self.peer(place).standing, Standing::Gone { .. });
        if gone && report.epoch == known.epoch {
            return Err(Heard::Old);
        }
        Ok(Some(place))
    }

    /// Takes a report that says something new.
    pub(super) fn take(&mut self, place: Option<u32>, facts: Arc<Facts>, now: Time) -> Heard {
        let Some(place) = place else {
            self.add(facts, now);
            return Heard::New;
        };
        let mut peer = self.peer(place).clone();
        let Some(seen) = self.slots.get_mut(place) else {
            return Heard::Old;
        };
        let reborn = facts.report.epoch > seen.report.epoch;
        let gone = matches!(peer.standing, Standing::Gone { .. });
        let changes = reborn || peer.silent || is_other(seen, &facts.report);
        if reborn && !matches!(peer.standing, Standing::Out { .. }) {
            peer.standing = Standing::In;
        }
        if reborn {
            peer.hurry(now);
        }
        let load = facts.report.load;
        if let Some(window) = seen.window()
            && !window.sent_within(REPORT_SETTLES, now)
            && peer.full_until.is_none()
        {
            window.renew(&Word { load, under_way: 0 });
        }
        if !seen.is_measured {
            seen.set_round_trip(self.coordinate.0.distance(&facts.report.coordinate));
        }
        seen.hear(facts, now);
        peer.silent = false;
        if gone {
            peer.allowance = FIRST_ALLOWANCE;
            seen.allow(peer.allowance);
        }
        self.keep(place, peer);
        if changes {
            self.structure = None;
        }
        // One that was silent may be again, sooner than it would be forgotten.
        self.watch(place);
        match gone {
            true => Heard::New,
            false => Heard::Newer,
        }
    }

    fn add(&mut self, facts: Arc<Facts>, now: Time) {
        let place = self.free.pop().unwrap_or_else(|| {
            let place = self.used;
            self.used = place.checked_add(1).expect("the table of peers is bounded");
            place
        });
        // Often they come in their order.
        let last = self.order.last().map(|place| &self.slots[*place].id);
        match last.is_none_or(|last| *last < facts.id) {
            true => self.order.push(place),
            false => {
                let at = self.sorted(&facts.id).unwrap_or_else(|at| at);
                self.order.insert(at, place);
            }
        }
        let mut seen = PeerView::new(facts, now);
        seen.set_round_trip(self.coordinate.0.distance(&seen.report.coordinate));
        if self.opens_all {
            seen.open();
        }
        self.slots.put(place, seen);
        self.structure = None;
        self.watch(place);
    }

    /// Where an id is among those that are sorted.
    pub(super) fn sorted(&self, id: &PeerId) -> Result<usize, usize> {
        let slots = &self.slots;
        self.order
            .binary_search_by(|place| slots[*place].id.cmp(id))
    }

    /// Takes the word of some member that this life of a peer is over. Only the
    /// life that is known counts: nobody else can announce a later one.
    pub fn suspect(&mut self, whom: PeerId, epoch: u64, now: Time) -> Suspicion {
        self.catch_up_with(&whom);
        if whom == self.own {
            if epoch != self.epoch {
                return Suspicion::Old;
            }
            self.epoch = self.epoch.saturating_add(1);
            return Suspicion::Refute;
        }
        let Some(place) = self.slots.find(&whom) else {
            return Suspicion::Old;
        };
        let open = matches!(
            self.peer(place).standing,
            Standing::In | Standing::Out { .. }
        );
        if epoch != self.slots[place].report.epoch || !open {
            return Suspicion::Old;
        }
        self.stand(place, Standing::Suspected { since: now });
        Suspicion::Noted
    }

    /// Takes a peer's own word that it leaves.
    pub fn leave(&mut self, whom: PeerId, epoch: u64, now: Time) {
        self.catch_up_with(&whom);
        if let Some(place) = self.slots.find(&whom)
            && epoch >= self.slots[place].report.epoch
        {
            let (since, left) = (now, true);
            self.stand(place, Standing::Gone { since, left });
        }
    }
}

/// Whether a report makes of a peer something else for decisions than it was,
/// beside its numbers.
fn is_other(seen: &PeerView, report: &Report) -> bool {
    let old = &seen.report;
    old.draining != report.draining
        || old.role != report.role
        || old.zone != report.zone
        || old.region != report.region
        || old.architecture != report.architecture
        || old.executors != report.executors
        || old.labels != report.labels
        || seen.cpu_total != report.load.cpu_total
}
