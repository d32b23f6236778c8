//! Which copies of others' calls a node keeps, whose they are, and when their
//! turn has come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::CallId;
use weir_node_core::time::Time;

use super::{IDS_PER_QUESTION, Note};

/// A copy, and when its owner said last that it is still wanted.
#[derive(Debug)]
struct Copy {
    note: Note,
    confirmed: Time,
}

/// The copies of one owner's calls.
#[derive(Debug, Default)]
struct Owner {
    by_turn: BTreeSet<(u8, CallId)>,
    by_confirmation: BTreeSet<(Time, CallId)>,
    /// It is not here, since then.
    gone: Option<Time>,
}

/// The copies of a node.
#[derive(Debug, Default)]
pub struct Keeping {
    copies: BTreeMap<CallId, Copy>,
    owners: BTreeMap<PeerId, Owner>,
}

impl Keeping {
    /// How many copies there are.
    pub fn len(&self) -> usize {
        self.copies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// The note of a copy.
    pub fn note(&self, id: &CallId) -> Option<&Note> {
        Some(&self.copies.get(id)?.note)
    }

    /// How many copies of one owner's calls there are.
    pub fn of(&self, owner: &PeerId) -> usize {
        let owner = self.owners.get(owner);
        owner.map_or(0, |owner| owner.by_turn.len())
    }

    /// Whether `member` may have this node take note of a copy: its owner may,
    /// for itself or for whom it hands the call to; and once that one is gone,
    /// those that keep copies too, for themselves.
    pub fn may_note(&self, member: &PeerId, note: &Note) -> bool {
        let Some(known) = self.note(&note.id) else {
            return note.owner == *member;
        };
        let takes_over = note.owner == *member && known.copies.contains(member);
        known.owner == *member || (takes_over && self.is_gone(&known.owner))
    }

    fn is_gone(&self, owner: &PeerId) -> bool {
        let owner = self.owners.get(owner);
        owner.is_some_and(|owner| owner.gone.is_some())
    }

    /// Whether a copy is of a call of `member`'s, which alone may say how it
    /// ended.
    pub fn is_of(&self, member: &PeerId, id: &CallId) -> bool {
        self.note(id).is_some_and(|note| note.owner == *member)
    }

    /// Keeps a copy, or takes a new note of one.
    pub fn insert(&mut self, note: Note, now: Time) {
        let (id, confirmed) = (note.id, now);
        // Not forgotten between: it may be all that there is of a gone owner.
        let owner = self.owners.entry(note.owner).or_default();
        let gone = owner.gone;
        self.remove(&id);
        let owner = self.owners.entry(note.owner).or_default();
        owner.gone = gone;
        owner.by_turn.insert((note.turn, id));
        owner.by_confirmation.insert((confirmed, id));
        self.copies.insert(id, Copy { note, confirmed });
    }

    /// Forgets a copy.
    pub fn remove(&mut self, id: &CallId) -> Option<Note> {
        let Copy { note, confirmed } = self.copies.remove(id)?;
        if let Some(owner) = self.owners.get_mut(&note.owner) {
            owner.by_turn.remove(&(note.turn, *id));
            owner.by_confirmation.remove(&(confirmed, *id));
            if owner.by_turn.is_empty() {
                self.owners.remove(&note.owner);
            }
        }
        Some(note)
    }

    /// Takes note of which members are here.
    pub fn look(&mut self, here: &BTreeSet<PeerId>, now: Time) {
        for (id, owner) in &mut self.owners {
            owner.gone = match here.contains(id) {
                true => None,
                false => owner.gone.or(Some(now)),
            };
        }
    }

    /// Copies whose turn has come: the owner is gone for as many times `takeover`
    /// as the turn says. At most `most`, each with how many turns that is by now.
    pub fn due(&self, takeover: Duration, now: Time, most: usize) -> Vec<(Note, u32)> {
        let due = self.owners.values().flat_map(|owner| {
            let turns = owner.gone.map_or(0, |since| {
                let turns = now.since(since).as_nanos() / takeover.as_nanos().max(1);
                u32::try_from(turns).unwrap_or(u32::MAX)
            });
            let due = owner.by_turn.iter();
            let due = due.take_while(move |(turn, _)| u32::from(*turn) <= turns && turns > 0);
            due.filter_map(move |(_, id)| Some((self.note(id)?.clone(), turns)))
        });
        due.take(most).collect()
    }

    /// All copies whose owner is not here.
    pub fn orphans(&self) -> Vec<CallId> {
        let gone = self.owners.values().filter(|owner| owner.gone.is_some());
        let orphans = gone.flat_map(|owner| &owner.by_turn);
        orphans.map(|(_, id)| *id).collect()
    }

    /// All copies by owner.
    pub fn all(&self) -> BTreeMap<PeerId, Vec<CallId>> {
        let all = self.owners.iter().map(|(id, owner)| {
            let ids = owner.by_turn.iter().map(|(_, id)| *id);
            (*id, ids.collect())
        });
        all.collect()
    }

    /// Copies of which their owners, who are here, said nothing for `after`; at
    /// most [`IDS_PER_QUESTION`] of each. They count as confirmed from now.
    pub fn unconfirmed(&mut self, after: Duration, now: Time) -> BTreeMap<PeerId, Vec<CallId>> {
        let mut asked = BTreeMap::new();
        for (id, owner) in &mut self.owners {
            if owner.gone.is_some() {
                continue;
            }
            let old = owner.by_confirmation.iter();
            let old = old.take_while(|(confirmed, _)| now.since(*confirmed) >= after);
            let old: Vec<(Time, CallId)> = old.take(IDS_PER_QUESTION).copied().collect();
            for (confirmed, call) in &old {
                owner.by_confirmation.remove(&(*confirmed, *call));
                owner.by_confirmation.insert((now, *call));
                if let Some(copy) = self.copies.get_mut(call) {
                    copy.confirmed = now;
                }
            }
            if !old.is_empty() {
                asked.insert(*id, old.into_iter().map(|(_, call)| call).collect());
            }
        }
        asked
    }
}
