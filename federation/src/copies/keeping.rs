//! Which copies of others' calls a node keeps, whose they are, and when their
//! turn has come. Reads no clock and waits for nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node::id::CallId;
use weir_node::store::CopyNote;
use weir_node::time::Time;

use super::words::IDS;

#[derive(Debug)]
struct Kept {
    note: CopyNote,
    /// When its owner said last that it is still wanted.
    confirmed: Time,
}

/// The copies of a node.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    kept: HashMap<CallId, Kept>,
    by_owner: HashMap<PeerId, usize>,
    /// Owners that are not here, since when.
    gone: HashMap<PeerId, Time>,
}

impl Keeping {
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn note(&self, id: &CallId) -> Option<&CopyNote> {
        Some(&self.kept.get(id)?.note)
    }

    /// How many copies of one owner's calls there are.
    pub(super) fn of(&self, owner: &PeerId) -> usize {
        self.by_owner.get(owner).copied().unwrap_or(0)
    }

    /// Whether `member` may have this node take note of a copy: its owner may,
    /// for itself or for whom it hands the call to; and once that one is gone,
    /// those that keep copies too, for themselves.
    pub(super) fn may_note(&self, member: &PeerId, note: &CopyNote) -> bool {
        let Some(known) = self.note(&note.id) else {
            return note.owner == *member;
        };
        let takes_over = note.owner == *member && known.copies.contains(member);
        known.owner == *member || (takes_over && self.gone.contains_key(&known.owner))
    }

    /// Whether a copy is of a call of `member`'s, which alone may say how it
    /// ended.
    pub(super) fn is_of(&self, member: &PeerId, id: &CallId) -> bool {
        self.note(id).is_some_and(|note| note.owner == *member)
    }

    pub(super) fn insert(&mut self, note: CopyNote, now: Time) {
        self.remove(&note.id);
        *self.by_owner.entry(note.owner).or_default() += 1;
        let kept = Kept {
            note,
            confirmed: now,
        };
        self.kept.insert(kept.note.id, kept);
    }

    pub(super) fn remove(&mut self, id: &CallId) -> Option<CopyNote> {
        let note = self.kept.remove(id)?.note;
        if let Some(count) = self.by_owner.get_mut(&note.owner) {
            *count -= 1;
            if *count == 0 {
                self.by_owner.remove(&note.owner);
                self.gone.remove(&note.owner);
            }
        }
        Some(note)
    }

    /// Takes note of which members are here.
    pub(super) fn look(&mut self, here: &HashSet<PeerId>, now: Time) {
        self.gone.retain(|owner, _| !here.contains(owner));
        for owner in self.by_owner.keys().filter(|owner| !here.contains(owner)) {
            self.gone.entry(*owner).or_insert(now);
        }
    }

    /// Copies whose turn has come: the owner is gone for as many times `takeover`
    /// as the turn says. At most `most`, each with how many turns that is by now.
    pub(super) fn due(&self, takeover: Duration, now: Time, most: usize) -> Vec<(CopyNote, u32)> {
        let turns = |owner: &PeerId| {
            let since = self.gone.get(owner)?;
            let turns = now.since(*since).as_nanos() / takeover.as_nanos().max(1);
            Some(u32::try_from(turns).unwrap_or(u32::MAX))
        };
        if self.gone.is_empty() {
            return Vec::new();
        }
        let due = self.kept.values().filter_map(|kept| {
            let turns = turns(&kept.note.owner)?;
            (turns >= u32::from(kept.note.turn)).then(|| (kept.note.clone(), turns))
        });
        due.take(most).collect()
    }

    /// All copies whose owner is not here.
    pub(super) fn orphans(&self) -> Vec<CallId> {
        let kept = self.kept.values();
        let orphans = kept.filter(|kept| self.gone.contains_key(&kept.note.owner));
        orphans.map(|kept| kept.note.id).collect()
    }

    /// All copies by owner.
    pub(super) fn all(&self) -> HashMap<PeerId, Vec<CallId>> {
        let mut all: HashMap<PeerId, Vec<CallId>> = HashMap::new();
        for kept in self.kept.values() {
            all.entry(kept.note.owner).or_default().push(kept.note.id);
        }
        all
    }

    /// Copies of which their owners, who are here, said nothing for `after`; at
    /// most [`IDS`] of each. They count as confirmed from now.
    pub(super) fn unconfirmed(
        &mut self,
        after: Duration,
        now: Time,
    ) -> HashMap<PeerId, Vec<CallId>> {
        let mut asked: HashMap<PeerId, Vec<CallId>> = HashMap::new();
        for (id, kept) in &mut self.kept {
            let owner = kept.note.owner;
            if now.since(kept.confirmed) < after || self.gone.contains_key(&owner) {
                continue;
            }
            let ids = asked.entry(owner).or_default();
            if ids.len() < IDS {
                ids.push(*id);
                kept.confirmed = now;
            }
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        PeerId::random()
    }

    fn note(number: u8, owner: PeerId, turn: u8, copies: &[PeerId]) -> CopyNote {
        CopyNote {
            id: CallId::new([number; 16]),
            owner,
            turn,
            copies: copies.to_vec(),
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_turn_comes_after_its_own_time_and_not_when_the_owner_is_back() {
        let (owner, other) = (peer(), peer());
        let mut keeping = Keeping::default();
        keeping.insert(note(1, owner, 1, &[]), Time::ZERO);
        keeping.insert(note(2, owner, 2, &[]), Time::ZERO);
        keeping.insert(note(3, other, 1, &[]), Time::ZERO);
        let here = HashSet::from([other]);
        let due = |keeping: &Keeping, seconds: u32| {
            let now = Time::ZERO + SECOND * seconds;
            let mut due: Vec<u8> = keeping
                .due(SECOND * 30, now, 9)
                .iter()
                .map(|(note, _)| note.id.bytes()[0])
                .collect();
            due.sort_unstable();
            due
        };
        keeping.look(&here, Time::ZERO + SECOND * 10);
        assert!(due(&keeping, 39).is_empty());
        assert_eq!(due(&keeping, 40), [1]);
        assert_eq!(due(&keeping, 70), [1, 2]);
        keeping.look(&HashSet::from([owner, other]), Time::ZERO + SECOND * 71);
        assert!(due(&keeping, 500).is_empty());
        // And from then on again.
        keeping.look(&here, Time::ZERO + SECOND * 500);
        assert!(due(&keeping, 529).is_empty());
    }

    #[test]
    fn a_note_is_the_owners_to_change_and_others_only_when_that_is_gone() {
        let [owner, second, stranger] = [peer(), peer(), peer()];
        let mut keeping = Keeping::default();
        assert!(keeping.may_note(&owner, &note(1, owner, 1, &[])));
        assert!(!keeping.may_note(&stranger, &note(1, owner, 1, &[])));
        keeping.insert(note(1, owner, 1, &[second]), Time::ZERO);
        assert!(keeping.may_note(&owner, &note(1, stranger, 1, &[])));
        assert!(!keeping.may_note(&second, &note(1, second, 1, &[])));
        keeping.look(&HashSet::from([second, stranger]), Time::ZERO);
        assert!(keeping.may_note(&second, &note(1, second, 1, &[])));
        assert!(!keeping.may_note(&second, &note(1, stranger, 1, &[])));
        assert!(!keeping.may_note(&stranger, &note(1, stranger, 1, &[])));
        let id = CallId::new([1; 16]);
        assert!(keeping.is_of(&owner, &id) && !keeping.is_of(&second, &id));
    }

    #[test]
    fn owners_are_counted_and_asked_in_turn() {
        let [owner, gone] = [peer(), peer()];
        let mut keeping = Keeping::default();
        for number in 0..10 {
            keeping.insert(note(number, owner, 1, &[]), Time::ZERO);
        }
        keeping.insert(note(10, gone, 1, &[]), Time::ZERO);
        keeping.look(&HashSet::from([owner]), Time::ZERO);
        assert_eq!((keeping.of(&owner), keeping.of(&gone)), (10, 1));
        let later = Time::ZERO + SECOND * 30;
        let asked = keeping.unconfirmed(SECOND * 30, later);
        assert_eq!((asked.len(), asked[&owner].len()), (1, 10));
        assert!(keeping.unconfirmed(SECOND * 30, later).is_empty());
        for number in 0..10 {
            assert!(keeping.remove(&CallId::new([number; 16])).is_some());
        }
        assert_eq!((keeping.of(&owner), keeping.len()), (0, 1));
    }
}
