//! What this node knows of its peers, how old that is, and what is made of it.
//!
//! The table is plain state: whoever hears something tells it, with the time;
//! decisions read the [`View`](crate::snapshot::View) that is made of it now and then. What a peer
//! says of itself is a claim; what calls to it met overrides that.

mod calls;
mod hearing;
mod later;
mod passing;
mod seeing;
mod standing;
mod timers;
mod viewing;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, HashSet};
use libp2p_identity::PeerId;
use weir_node_core::time::Time;

pub use self::calls::ASKED_FOR;
pub use self::hearing::{Heard, Suspicion};
use self::later::Later;
pub use self::passing::Event;
pub use self::seeing::Known;
pub use self::standing::{Fault, Met, REFUTE_WITHIN, SILENT_AFTER, Standing};
use self::standing::{Peer, USUAL};
use self::timers::Timers;
pub use self::viewing::{VIEW_INTERVAL_MAX, VIEW_INTERVAL_MIN, Viewing};
use crate::coordinates::Coordinate;
use crate::facts::PeerKey;
use crate::slots::Changing;
use crate::snapshot::Structure;

/// Peers that are remembered; more are not heard.
pub const PEERS: usize = 4_096;

/// The table.
#[derive(Debug)]
pub struct Peers {
    own: PeerId,
    epoch: u64,
    /// Of the report that this node said last.
    sequence: u64,
    contested: u32,
    most: usize,
    /// Whether each peer has a window from the start, so that all views share it.
    opens_all: bool,
    /// What decisions see, shared with views.
    slots: Changing,
    /// The rest, by the same places, of those of whom there is something to
    /// keep: most were never called.
    unusual: HashMap<u32, Peer, FixedState>,
    /// Reports that are taken when somebody looks.
    later: Vec<Later>,
    /// Peers whose reports are not, for more may follow from them.
    touched: HashSet<PeerKey, FixedState>,
    /// Places that were ever used, and those of them that are not.
    used: u32,
    free: Vec<u32>,
    /// All places that are used, in the order of ids.
    order: Vec<u32>,
    /// When time alone changes something about those of whom there is something
    /// to keep, or before.
    timers: Timers,
    /// When the first of all others falls silent, or before.
    silence: Time,
    /// When those who are out may be candidates again.
    probes: BinaryHeap<Reverse<(Time, u32)>>,
    /// Those who are out, and some who were.
    out: Vec<u32>,
    /// Who takes calls; `None` when that has changed.
    structure: Option<Arc<Structure>>,
    zone: Option<String>,
    /// Where this node is, and since when round trips are guessed from there.
    coordinate: (Coordinate, Time),
}

impl Peers {
    /// A table of the node `own`, which begins its life with `epoch`.
    pub fn new(own: PeerId, epoch: u64) -> Peers {
        Peers {
            opens_all: true,
            ..Peers::of_at_most(PEERS, own, epoch)
        }
    }

    /// The same for so many peers: a simulation or a benchmark may have more
    /// than the members of one federation. It spends no memory on calls to
    /// peers that were never called: whoever sends the first one to a peer asks
    /// for [`Peers::window`], and decides the next by a new view.
    pub fn of_at_most(most: usize, own: PeerId, epoch: u64) -> Peers {
        Peers {
            own,
            epoch,
            sequence: 0,
            contested: 0,
            most,
            opens_all: false,
            slots: Changing::default(),
            unusual: HashMap::default(),
            later: Vec::new(),
            touched: HashSet::default(),
            used: 0,
            free: Vec::new(),
            order: Vec::new(),
            timers: Timers::default(),
            silence: Time::NEVER,
            probes: BinaryHeap::new(),
            out: Vec::new(),
            structure: None,
            zone: None,
            coordinate: (Coordinate::default(), Time::ZERO),
        }
    }

    /// The epoch that this node's next report carries.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes note of the sequence of this node's own report, so that it is
    /// known when it comes back.
    pub fn said(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence);
    }

    /// Makes room for so many more peers, who are about to be heard.
    pub fn reserve(&mut self, more: usize) {
        let more = more.min(self.most.saturating_sub(self.order.len()));
        self.order.reserve_exact(more);
        self.slots.reserve(more);
    }

    fn peer(&self, place: u32) -> &Peer {
        self.unusual.get(&place).unwrap_or(&USUAL)
    }

    /// Keeps what was made of a peer, where that is worth it.
    fn keep(&mut self, place: u32, peer: Peer) {
        if peer == USUAL {
            if !self.unusual.is_empty() {
                self.unusual.remove(&place);
            }
            return;
        }
        if !self.opens_all {
            self.touched.insert(self.slots[place].key);
        }
        self.unusual.insert(place, peer);
    }

    /// Sees to it that a peer is looked at when time changes something about it.
    fn watch(&mut self, place: u32) {
        let Some(seen) = self.slots.get(place) else {
            return;
        };
        match self.unusual.get(&place) {
            Some(peer) => self.timers.set(place, peer.due(seen.heard)),
            None => self.silence = self.silence.min(USUAL.due(seen.heard)),
        }
    }

    fn stand(&mut self, place: u32, standing: Standing) {
        let peer = self.peer(place).clone();
        self.keep(place, Peer { standing, ..peer });
        self.structure = None;
        self.watch(place);
    }

    /// Forgets everybody, for a node that belongs to them no more.
    pub fn forget_all(&mut self) {
        *self = Peers {
            sequence: self.sequence,
            contested: self.contested,
            zone: self.zone.take(),
            coordinate: self.coordinate,
            opens_all: self.opens_all,
            ..Peers::of_at_most(self.most, self.own, self.epoch)
        };
    }

    /// Forgets a peer; `false` when it was not known.
    pub fn forget(&mut self, whom: &PeerId) -> bool {
        self.catch_up();
        let Some(place) = self.slots.find(whom) else {
            return false;
        };
        self.remove(place);
        true
    }

    fn remove(&mut self, place: u32) {
        if let Ok(at) = self.sorted(&self.slots[place].id) {
            self.order.remove(at);
        }
        self.touched.remove(&self.slots[place].key);
        self.slots.remove(place);
        self.unusual.remove(&place);
        self.timers.clear(place);
        self.free.push(place);
        self.structure = None;
    }
}

#[cfg(test)]
mod tests;
