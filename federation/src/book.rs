//! The address book on disk: where members were, so that a node finds them
//! again after a power cut, though all that it joined by are gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use weir_node::time::Time;
use weir_overlay::Multiaddr;

use crate::member::save;

/// Members whose addresses are kept; those heard longest ago go first.
const ENTRIES: usize = 1_024;

/// Members up to which a new one is written down at once.
const FEW: usize = 8;

/// Addresses of one member.
const ADDRESSES: usize = 16;

/// First and longest pause between two dials of one member.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What is known of how to reach one member.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Entry {
    addresses: Vec<String>,
    /// Unix seconds.
    seen: u64,
    #[serde(skip)]
    failures: u32,
    #[serde(skip)]
    next: Time,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    changed: bool,
}

impl Book {
    /// Reads the book; a damaged one is empty, with a warning.
    pub(crate) fn open(path: PathBuf) -> Book {
        let entries = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the address book cannot be read and is begun anew");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Book {
            path,
            entries,
            changed: false,
        }
    }

    /// Takes note of where a member says that it is, or was found.
    pub(crate) fn note(&mut self, peer: PeerId, addresses: &[Multiaddr], seen: u64) {
        let entry = self.entries.entry(peer.to_string()).or_default();
        let before = entry.addresses.clone();
        for address in addresses {
            let address = address.to_string();
            entry.addresses.retain(|known| *known != address);
            entry.addresses.insert(0, address);
        }
        entry.addresses.truncate(ADDRESSES);
        entry.seen = seen;
        let (mut old, mut new) = (before, entry.addresses.clone());
        old.sort();
        new.sort();
        self.changed |= old != new;
        if self.entries.len() > ENTRIES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.seen);
            if let Some(oldest) = oldest.map(|(peer, _)| peer.clone()) {
                self.entries.remove(&oldest);
            }
        }
    }

    /// Where a member may be.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let entry = self.entries.get(&peer.to_string());
        let addresses = entry.map(|entry| entry.addresses.as_slice());
        let addresses = addresses.unwrap_or_default().iter();
        addresses.filter_map(|text| text.parse().ok()).collect()
    }

    /// Members that may be dialled now.
    pub(crate) fn due(&self, now: Time) -> Vec<PeerId> {
        let due = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.next <= now && !entry.addresses.is_empty());
        due.filter_map(|(peer, _)| peer.parse().ok()).collect()
    }

    /// Takes note of a dial: the next one waits, longer each time, by between
    /// half and one and a half of the pause, as `chance` in `0.0..1.0` says.
    pub(crate) fn dialled(&mut self, peer: &PeerId, now: Time, chance: f64) {
        if let Some(entry) = self.entries.get_mut(&peer.to_string()) {
            let (first, longest) = PAUSE;
            let pause = first.saturating_mul(1 << entry.failures.min(10));
            let pause = pause.min(longest).mul_f64(0.5 + chance);
            entry.failures = entry.failures.saturating_add(1);
            entry.next = now + pause;
        }
    }

    /// Takes note that a member is linked.
    pub(crate) fn reached(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entries.get_mut(&peer.to_string()) {
            (entry.failures, entry.next) = (0, Time::ZERO);
        }
    }

    /// Forgets a member.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.changed |= self.entries.remove(&peer.to_string()).is_some();
    }

    /// Whether it has so few members that each of them counts.
    pub(crate) fn is_small(&self) -> bool {
        self.entries.len() <= FEW
    }

    /// Writes the book if it changed.
    pub(crate) fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let saved = serde_json::to_vec_pretty(&self.entries)
            .map_err(std::io::Error::other)
            .and_then(|bytes| save(&self.path, &bytes));
        if let Err(error) = saved {
            tracing::warn!(path = %self.path.display(), %error, "the address book is not kept");
        }
    }
}
