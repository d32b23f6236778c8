//! A node's own calls that peers keep copies of, and which of them have too few.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::CallId;
use weir_node_core::time::Time;

use super::Said;

/// How long a call may take from its first copy to this node's own disk.
pub const ACCEPTING_FOR: Duration = Duration::from_secs(120);

/// A call of this node's that peers keep copies of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Who keeps copies.
    pub copies: Vec<PeerId>,
    /// How many are to.
    pub wanted: u8,
    /// Until when it may not be on this node's own disk yet.
    pub young_until: Time,
}

impl Owned {
    /// A call that is on this node's disk.
    pub fn stored(copies: Vec<PeerId>, wanted: u8) -> Owned {
        Owned {
            copies,
            wanted,
            young_until: Time::ZERO,
        }
    }

    /// A call that is about to be copied, and then accepted.
    pub fn accepting(wanted: u8, now: Time) -> Owned {
        Owned {
            copies: Vec::new(),
            wanted,
            young_until: now + ACCEPTING_FOR,
        }
    }
}

/// A call that too few keep copies of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short {
    /// Which.
    pub id: CallId,
    /// Those that keep a copy and are here, or are away for a short time.
    pub left: Vec<PeerId>,
    /// How many are to.
    pub wanted: usize,
}

/// The calls of a node that have copies and have not ended; no more than its
/// backlog has.
#[derive(Debug, Default)]
pub struct Owning {
    calls: BTreeMap<CallId, Owned>,
    /// Who keeps copies of which calls.
    by_keeper: BTreeMap<PeerId, BTreeSet<CallId>>,
    /// Calls with fewer copies than are wanted, whoever is here.
    few: BTreeSet<CallId>,
    /// Keepers that are not here, since when.
    away: BTreeMap<PeerId, Time>,
}

impl Owning {
    /// Takes note of a call.
    pub fn insert(&mut self, id: CallId, owned: Owned) {
        self.remove(&id);
        for keeper in &owned.copies {
            self.by_keeper.entry(*keeper).or_default().insert(id);
        }
        if owned.copies.len() < usize::from(owned.wanted) {
            self.few.insert(id);
        }
        self.calls.insert(id, owned);
    }

    /// Forgets a call: it has ended, or is another's.
    pub fn remove(&mut self, id: &CallId) -> Option<Owned> {
        let owned = self.calls.remove(id)?;
        self.few.remove(id);
        for keeper in &owned.copies {
            if let Some(calls) = self.by_keeper.get_mut(keeper) {
                calls.remove(id);
                if calls.is_empty() {
                    self.by_keeper.remove(keeper);
                    self.away.remove(keeper);
                }
            }
        }
        Some(owned)
    }

    /// Takes note of who keeps copies of a call now; nothing when it has ended.
    pub fn set_copies(&mut self, id: &CallId, copies: Vec<PeerId>) {
        if let Some(owned) = self.remove(id) {
            self.insert(*id, Owned { copies, ..owned });
        }
    }

    /// Takes note of how many are to keep copies of a call.
    pub fn set_wanted(&mut self, id: &CallId, wanted: u8) {
        if let Some(owned) = self.remove(id) {
            self.insert(*id, Owned { wanted, ..owned });
        }
    }

    /// A call.
    pub fn get(&self, id: &CallId) -> Option<&Owned> {
        self.calls.get(id)
    }

    /// Forgets a call that is not on this node's disk, unless it is being
    /// accepted.
    pub fn remove_old(&mut self, id: &CallId, now: Time) {
        if self.get(id).is_some_and(|owned| now >= owned.young_until) {
            self.remove(id);
        }
    }

    /// Whether `member` need not keep its copy of a call: as many others do as
    /// should. Until then nobody is to let go.
    pub fn is_unneeded_at(&self, id: &CallId, member: &PeerId) -> bool {
        self.get(id).is_some_and(|owned| {
            let enough = owned.copies.len() >= usize::from(owned.wanted);
            enough && !owned.copies.contains(member)
        })
    }

    /// What this node says to `member` of a call, of which its disk says `kept`.
    pub fn says(&self, id: &CallId, member: &PeerId, kept: Said) -> Said {
        match kept {
            Said::Pending if self.is_unneeded_at(id, member) => Said::Unneeded,
            // It is being accepted.
            Said::Unknown if self.calls.contains_key(id) => Said::Pending,
            kept => kept,
        }
    }

    /// Calls that too few keep copies of, with who does, at most `most`: others
    /// could. A peer that is away for less than a third of `takeover` may be
    /// started anew, and has its copies still.
    pub fn short(
        &mut self,
        here: &BTreeSet<PeerId>,
        takeover: Duration,
        now: Time,
        most: usize,
    ) -> Vec<Short> {
        self.away.retain(|keeper, _| !here.contains(keeper));
        for keeper in self
            .by_keeper
            .keys()
            .filter(|keeper| !here.contains(keeper))
        {
            self.away.entry(*keeper).or_insert(now);
        }
        let patience = takeover.div_f64(3.0);
        let is_lost = |keeper: &PeerId| {
            let since = self.away.get(keeper);
            since.is_some_and(|since| now.since(*since) >= patience)
        };
        let lost = self.away.keys().filter(|keeper| is_lost(keeper));
        let theirs = lost.filter_map(|keeper| self.by_keeper.get(keeper));
        let suspects: BTreeSet<CallId> = theirs.flatten().chain(&self.few).copied().collect();
        let short = suspects.into_iter().filter_map(|id| {
            let owned = self.calls.get(&id)?;
            let left = owned.copies.iter().filter(|keeper| !is_lost(keeper));
            let left: Vec<PeerId> = left.copied().collect();
            let wanted = usize::from(owned.wanted);
            let others = || here.iter().any(|peer| !left.contains(peer));
            (left.len() < wanted && others()).then_some(Short { id, left, wanted })
        });
        short.take(most).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}
