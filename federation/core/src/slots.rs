//! Peers by their places: a place stays a peer's as long as it is known, so
//! that it stands for the peer in pools and decisions.
//!
//! Persistent: a copy shares all, and a change copies what it changes, only where
//! a copy still shares it: one peer at once, and its few neighbours when the next
//! copy is made.

use std::ops::Index;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, HashTable};
use libp2p_identity::PeerId;

use crate::facts::PeerKey;
use crate::snapshot::PeerView;

/// Peers that are copied together. A view copies so many for each that changed;
/// a change of membership copies one pointer for so many. With their count they
/// fill 2 KiB, a size that allocators have: one more would take a quarter more.
const CHUNK: usize = 31;

type Chunk = [Option<PeerView>; CHUNK];

/// Peers by place and by id, as a view shows them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    chunks: Arc<[Arc<Chunk>]>,
    /// Places by the hashes of ids; changes with membership alone.
    index: Arc<HashTable<u32>>,
}

fn split(place: u32) -> (usize, usize) {
    (place as usize / CHUNK, place as usize % CHUNK)
}

/// By what the peer at a place is sorted in.
fn rehash(chunks: &[Arc<Chunk>]) -> impl Fn(&u32) -> u64 {
    move |place| {
        let (chunk, at) = split(*place);
        let peer = chunks.get(chunk).and_then(|chunk| chunk[at].as_ref());
        peer.map_or(0, |peer| peer.key.hash())
    }
}

impl Slots {
    /// The place of a peer.
    pub(crate) fn find(&self, id: &PeerId) -> Option<u32> {
        self.find_key(PeerKey::of(id))
    }

    /// The same, by what stands for its id.
    pub(crate) fn find_key(&self, key: PeerKey) -> Option<u32> {
        let is_it = |place: &u32| self.get(*place).is_some_and(|peer| peer.key == key);
        self.index.find(key.hash(), is_it).copied()
    }

    pub(crate) fn get(&self, place: u32) -> Option<&PeerView> {
        let (chunk, at) = split(place);
        self.chunks.get(chunk)?.get(at)?.as_ref()
    }

    /// Lets go of all peers that it shared, until it is written over.
    pub(crate) fn let_go(&mut self) {
        self.chunks = Arc::default();
    }

    /// Whether a view shares it, so that a change copies.
    fn is_shared(&self, place: u32) -> bool {
        let (chunk, _) = split(place);
        let chunk = self.chunks.get(chunk);
        Arc::strong_count(&self.chunks) > 1 || chunk.is_some_and(|it| Arc::strong_count(it) > 1)
    }

    /// For a change; copies where a view shares it.
    fn slot(&mut self, place: u32) -> Option<&mut Option<PeerView>> {
        let (chunk, at) = split(place);
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(chunk)?;
        Arc::make_mut(chunk).get_mut(at)
    }

    /// Puts a peer that is not there at a place that is free.
    pub(crate) fn put(&mut self, place: u32, peer: PeerView) {
        let (chunk, _) = split(place);
        if self.chunks.len() <= chunk {
            self.grow(chunk + 1);
        }
        let hash = peer.key.hash();
        if let Some(slot) = self.slot(place) {
            *slot = Some(peer);
        }
        let rehash = rehash(&self.chunks);
        Arc::make_mut(&mut self.index).insert_unique(hash, place, rehash);
    }

    /// Makes room for at least so many chunks, and for twice as many as there are:
    /// all pointers are copied.
    fn grow(&mut self, chunks: usize) {
        let more = chunks.max(self.chunks.len() * 2) - self.chunks.len();
        // One for all, until one is written to.
        let empty = Arc::new([const { None }; CHUNK]);
        let all = self.chunks.iter().cloned();
        self.chunks = all.chain(std::iter::repeat_n(empty, more)).collect();
    }

    /// Makes room for so many more peers.
    fn reserve(&mut self, more: usize) {
        let chunks = (self.index.len() + more).div_ceil(CHUNK);
        if self.chunks.len() < chunks {
            self.grow(chunks);
        }
        let rehash = rehash(&self.chunks);
        Arc::make_mut(&mut self.index).reserve(more, rehash);
    }

    /// Frees a place.
    pub(crate) fn remove(&mut self, place: u32) {
        let Some(peer) = self.slot(place).and_then(Option::take) else {
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

/// Peers that change while views show them as they were: what a view shares is
/// changed in a copy of its own, beside the others, until the next view is made.
#[derive(Debug, Default)]
pub(crate) struct Changing {
    slots: Slots,
    /// What has changed and is shared; at most all.
    beside: HashMap<u32, PeerView, FixedState>,
}

impl Changing {
    pub(crate) fn find(&self, id: &PeerId) -> Option<u32> {
        self.slots.find(id)
    }

    pub(crate) fn get(&self, place: u32) -> Option<&PeerView> {
        if !self.beside.is_empty()
            && let Some(peer) = self.beside.get(&place)
        {
            return Some(peer);
        }
        self.slots.get(place)
    }

    /// For a change, which no view shows that was made before.
    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut PeerView> {
        // What is beside the others is newer than they are.
        let is_beside = !self.beside.is_empty() && self.beside.contains_key(&place);
        if is_beside {
            return self.beside.get_mut(&place);
        }
        if !self.slots.is_shared(place) {
            return self.slots.slot(place)?.as_mut();
        }
        let peer = self.slots.get(place)?.clone();
        Some(self.beside.entry(place).or_insert(peer))
    }

    /// Makes room for so many more peers.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.slots.reserve(more);
    }

    /// Puts a peer that is not there at a place that is free.
    pub(crate) fn put(&mut self, place: u32, peer: PeerView) {
        self.slots.put(place, peer);
    }

    /// Frees a place.
    pub(crate) fn remove(&mut self, place: u32) {
        self.beside.remove(&place);
        self.slots.remove(place);
    }

    /// All as they are now, for a view to share. What changed is copied with its
    /// neighbours where an older view shares them.
    pub(crate) fn settled(&mut self) -> &Slots {
        if !self.beside.is_empty() {
            for (place, peer) in self.beside.drain() {
                if let Some(slot) = self.slots.slot(place) {
                    *slot = Some(peer);
                }
            }
        }
        &self.slots
    }
}

impl Index<u32> for Changing {
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
