//! Where members were, so that a node finds them again after a power cut, though
//! all that it joined by are gone.

use std::collections::{BTreeMap, BTreeSet};

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use weir_node_core::time::Time;

use super::backoff::Backoff;

/// Members whose addresses are kept.
pub const ENTRIES_MAX: usize = 1_024;

/// Members up to which each of them counts: a change is written down at once.
pub const FEW: usize = 8;

/// Addresses of one member; those heard longest ago go first.
pub const ADDRESSES_MAX: usize = 16;

/// A member that was seen again is no news within so many seconds: what is
/// ordered by it is not ordered anew for each look.
const SEEN_STEP: u64 = 60;

/// A newcomer takes the place of one that was seen by so many seconds longer ago.
/// Of more members than there is room for, any stay that are here: to take turns
/// would only wear the disk.
const STALE_AFTER: u64 = 3_600;

/// What is kept of one member, as it is written down.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Multiaddresses, the newest first.
    pub addresses: Vec<String>,
    /// When it was seen, in seconds since 1970.
    pub seen: u64,
}

#[derive(Debug, Default)]
struct Entry {
    saved: Saved,
    /// Whether it is of a place to which links are kept.
    near: bool,
    backoff: Backoff,
}

/// Who is forgotten first: of far places before near ones, then by when it was
/// seen.
type Rank = (bool, u64, PeerId);

/// The address book.
#[derive(Debug, Default)]
pub struct AddressBook {
    entries: BTreeMap<PeerId, Entry>,
    /// All of them, whom to forget first.
    ranked: BTreeSet<Rank>,
    changed: bool,
}

impl AddressBook {
    /// Takes up what was written down; what is beyond the bounds is left out.
    pub fn restored(saved: impl IntoIterator<Item = (PeerId, Saved)>) -> AddressBook {
        let mut book = AddressBook::default();
        for (peer, mut saved) in saved {
            saved.addresses.truncate(ADDRESSES_MAX);
            let seen = saved.seen;
            if book.admits(&peer, false, seen) {
                book.ranked.insert((false, seen, peer));
                let entry = Entry {
                    saved,
                    ..Entry::default()
                };
                book.entries.insert(peer, entry);
            }
        }
        book.changed = false;
        book
    }

    /// Takes note of where a member says that it is, or was found, at `seen` in
    /// seconds since 1970; `near` is whether it is of a place to which this node
    /// keeps links. When there is no room for it nothing is noted.
    pub fn note<S: AsRef<str>>(&mut self, peer: PeerId, addresses: &[S], near: bool, seen: u64) {
        if addresses.is_empty() || !self.admits(&peer, near, seen) {
            return;
        }
        let is_new = !self.entries.contains_key(&peer);
        let entry = self.entries.entry(peer).or_default();
        let saved = &mut entry.saved;
        let is_known = |address: &S| {
            saved
                .addresses
                .iter()
                .any(|known| known == address.as_ref())
        };
        let is_news = !addresses.iter().all(is_known);
        if is_news {
            for address in addresses {
                let address = address.as_ref();
                saved.addresses.retain(|known| known != address);
                saved.addresses.insert(0, address.to_owned());
            }
            saved.addresses.truncate(ADDRESSES_MAX);
            self.changed = true;
        }
        let before = (entry.near, saved.seen, peer);
        if entry.near != near || seen.abs_diff(saved.seen) >= SEEN_STEP {
            (entry.near, saved.seen) = (near, seen);
        }
        let after = (entry.near, saved.seen, peer);
        if is_new || before != after {
            self.ranked.remove(&before);
            self.ranked.insert(after);
        }
    }

    /// Whether there is room for a member, or is made: of one of a far place for
    /// one of a near place, or of one that was not seen for long.
    fn admits(&mut self, peer: &PeerId, near: bool, seen: u64) -> bool {
        if self.entries.len() < ENTRIES_MAX || self.entries.contains_key(peer) {
            return true;
        }
        let Some(first) = self.ranked.first().copied() else {
            return true;
        };
        let (is_near, was_seen, whom) = first;
        let stale = was_seen.saturating_add(STALE_AFTER) <= seen;
        let gives_way = match (is_near, near) {
            (false, true) => true,
            (false, false) | (true, true) => stale,
            (true, false) => false,
        };
        if gives_way {
            self.ranked.remove(&first);
            self.entries.remove(&whom);
            self.changed = true;
        }
        gives_way
    }

    /// Members that it knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it has so few members that each of them counts.
    pub fn is_small(&self) -> bool {
        self.entries.len() <= FEW
    }

    /// Where a member may be, the newest first.
    pub fn addresses(&self, peer: &PeerId) -> &[String] {
        let entry = self.entries.get(peer);
        entry.map_or(&[], |entry| entry.saved.addresses.as_slice())
    }

    /// Members that may be dialled at `now`, in the order of their ids.
    pub fn due(&self, now: Time) -> Vec<PeerId> {
        let due = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.backoff.is_due(now) && !entry.saved.addresses.is_empty());
        due.map(|(peer, _)| *peer).collect()
    }

    /// Takes note of a dial: the next one waits.
    pub fn dialled(&mut self, peer: &PeerId, now: Time, chance: f64) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.backoff.tried(now, chance);
        }
    }

    /// Takes note that a member is linked.
    pub fn reached(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.backoff.succeeded();
        }
    }

    /// Forgets a member.
    pub fn forget(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.remove(peer) {
            self.ranked.remove(&(entry.near, entry.saved.seen, *peer));
            self.changed = true;
        }
    }

    /// All that is to be written down, if it changed since this was asked last.
    pub fn unsaved(&mut self) -> Option<BTreeMap<PeerId, Saved>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let entries = self.entries.iter();
        Some(
            entries
                .map(|(id, entry)| (*id, entry.saved.clone()))
                .collect(),
        )
    }

    /// What was to be written down was not: it is asked for again.
    pub fn not_saved(&mut self) {
        self.changed = true;
    }
}
