//! Peers by their places: a place stays a peer's as long as it is known, so
//! that it stands for the peer in pools and decisions.
//!
//! Persistent: a copy shares all, and a change copies the few neighbours of
//! what it changes, only where a copy still shares them.

use std::ops::Index;
use std::sync::Arc;

use hashbrown::HashTable;
use libp2p_identity::PeerId;

use crate::facts::PeerKey;
use crate::snapshot::PeerView;

/// Peers that are copied together. A report copies so many; to publish a view
/// copies one pointer for so many.
const CHUNK: usize = 32;

type Chunk = [Option<PeerView>; CHUNK];

/// Peers by place and by id.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    chunks: Vec<Arc<Chunk>>,
    /// Places by the hashes of ids; changes with membership alone.
    index: Arc<HashTable<u32>>,
}

impl Clone for Slots {
    fn clone(&self) -> Slots {
        Slots {
            chunks: self.chunks.clone(),
            index: self.index.clone(),
        }
    }

    // In the room of what was there.
    fn clone_from(&mut self, other: &Slots) {
        self.chunks.clone_from(&other.chunks);
        self.index.clone_from(&other.index);
    }
}

fn split(place: u32) -> (usize, usize) {
    (place as usize / CHUNK, place as usize % CHUNK)
}

impl Slots {
    /// The place of a peer.
    pub(crate) fn find(&self, id: &PeerId) -> Option<u32> {
        let key = PeerKey::of(id);
        let is_it = |place: &u32| self.get(*place).is_some_and(|peer| peer.key == key);
        self.index.find(key.hash(), is_it).copied()
    }

    pub(crate) fn get(&self, place: u32) -> Option<&PeerView> {
        let (chunk, at) = split(place);
        self.chunks.get(chunk)?.get(at)?.as_ref()
    }

    /// Lets go of all peers that it shared, until it is written over.
    pub(crate) fn let_go(&mut self) {
        self.chunks.clear();
    }

    /// For a change; copies where a view shares it.
    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut PeerView> {
        let (chunk, at) = split(place);
        Arc::make_mut(self.chunks.get_mut(chunk)?)
            .get_mut(at)?
            .as_mut()
    }

    /// Puts a peer that is not there at a place that is free.
    pub(crate) fn put(&mut self, place: u32, peer: PeerView) {
        let (chunk, at) = split(place);
        while self.chunks.len() <= chunk {
            self.chunks.push(Arc::new([const { None }; CHUNK]));
        }
        let hash = peer.key.hash();
        if let Some(slot) = self.chunks.get_mut(chunk).map(Arc::make_mut) {
            slot[at] = Some(peer);
        }
        let chunks = &self.chunks;
        let rehash = |place: &u32| {
            let (chunk, at) = split(*place);
            chunks[chunk][at].as_ref().map_or(0, |peer| peer.key.hash())
        };
        Arc::make_mut(&mut self.index).insert_unique(hash, place, rehash);
    }

    /// Frees a place.
    pub(crate) fn remove(&mut self, place: u32) {
        let (chunk, at) = split(place);
        let slot = self.chunks.get_mut(chunk).map(Arc::make_mut);
        let Some(peer) = slot.and_then(|chunk| chunk[at].take()) else {
            return;
        };
        let index = Arc::make_mut(&mut self.index);
        if let Ok(entry) = index.find_entry(peer.key.hash(), |other| *other == place) {
            entry.remove();
        }
    }
}

impl Index<u32> for Slots {
    type Output = PeerView;

    fn index(&self, place: u32) -> &PeerView {
        self.get(place).expect("a place that is used")
    }
}

/// Some of all places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Vec<u64>);

impl Places {
    pub(crate) fn insert(&mut self, place: u32) {
        let at = place as usize / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (place % 64);
    }

    pub(crate) fn contains(&self, place: u32) -> bool {
        let word = self.0.get(place as usize / 64);
        word.is_some_and(|word| word & (1 << (place % 64)) != 0)
    }
}
