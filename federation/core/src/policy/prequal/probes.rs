//! The pool of probes of Prequal as published: section 4.1 of its paper.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use crate::facts::PeerKey;
use crate::policy::Cell;

/// Probes that are kept.
pub(super) const POOL: usize = 16;

/// By how many more probes are used than would suffice (the paper's delta).
const SURPLUS: f64 = 1.0;

/// Probes that are removed with each call.
const REMOVED: f64 = 1.0;

/// Times that a probe is used, at most: where the pool holds all servers, the
/// paper's formula has no bound.
const REUSE_MAX: f64 = 16.0;

#[derive(Debug, Default)]
struct Slot {
    /// 0 where it is free.
    peer: AtomicU64,
    /// When it came, in nanoseconds.
    at: AtomicU64,
    rif: Cell,
    uses: Cell,
}

/// A probe of the pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub(super) peer: PeerKey,
    /// Requests in flight, with those that were sent since.
    pub(super) rif: f64,
    at: Time,
}

/// What probes told, lately.
#[derive(Debug)]
pub(super) struct Probes {
    slots: [Slot; POOL],
    reuse: Cell,
    /// Whether the worst is removed next, or the oldest.
    removed: AtomicU64,
}

impl Default for Probes {
    fn default() -> Probes {
        Probes {
            slots: array::from_fn(|_| Slot::default()),
            reuse: Cell::default(),
            removed: AtomicU64::new(0),
        }
    }
}

impl Probes {
    /// How often a probe is used: `max(1, (1 + delta) / ((1 - m/n) r_probe -
    /// r_remove))`, for a pool of m and n servers.
    pub(super) fn set_reuse(&self, servers: usize, probes_per_call: f64) {
        let pool = POOL as f64 / servers.max(1) as f64;
        let left = (1.0 - pool).max(0.0) * probes_per_call - REMOVED;
        let reuse = match left > 0.0 {
            true => (1.0 + SURPLUS) / left,
            false => REUSE_MAX,
        };
        self.reuse.set(reuse.clamp(1.0, REUSE_MAX));
    }

    pub(super) fn at(&self, slot: usize, now: Time, age: Duration) -> Option<Probe> {
        let slot = &self.slots[slot];
        let peer = slot.peer.load(Ordering::Relaxed);
        let at = Time::from_nanos(slot.at.load(Ordering::Relaxed));
        let is_there = peer != 0 && now.since(at) <= age;
        is_there.then(|| Probe {
            peer: PeerKey::by(peer),
            rif: slot.rif.get().unwrap_or_default(),
            at,
        })
    }

    fn all(&self, now: Time, age: Duration) -> impl Iterator<Item = (usize, Probe)> + '_ {
        (0..POOL).filter_map(move |slot| Some((slot, self.at(slot, now, age)?)))
    }

    pub(super) fn count(&self, now: Time, age: Duration) -> usize {
        self.all(now, age).count()
    }

    /// Takes a probe in, in the place of an older one of the same server, of a free
    /// one, or of the oldest.
    pub(super) fn put(&self, peer: &PeerId, rif: f64, now: Time) {
        let peer = PeerKey::of(peer).as_u64();
        let order = |slot: &&Slot| match slot.peer.load(Ordering::Relaxed) {
            same if same == peer => (0, 0),
            0 => (1, 0),
            _ => (2, slot.at.load(Ordering::Relaxed)),
        };
        let Some(slot) = self.slots.iter().min_by_key(order) else {
            return;
        };
        slot.rif.set(rif);
        slot.uses.set(self.reuse.get().unwrap_or(1.0));
        slot.at.store(now.as_nanos(), Ordering::Relaxed);
        slot.peer.store(peer, Ordering::Relaxed);
    }

    /// A call goes to the server of a probe: one more is in flight there.
    pub(super) fn used(&self, slot: usize) {
        let slot = &self.slots[slot];
        slot.rif.add(1.0);
        if slot.uses.add(-1.0) <= 0.0 {
            slot.peer.store(0, Ordering::Relaxed);
        }
    }

    /// Removes the worst and the oldest in turn.
    pub(super) fn remove_one(&self, now: Time, age: Duration) {
        let turn = self.removed.fetch_add(1, Ordering::Relaxed);
        let all = self.all(now, age);
        let gone = match turn % 2 {
            0 => all.max_by(|one, other| one.1.rif.total_cmp(&other.1.rif)),
            _ => all.min_by_key(|(_, probe)| probe.at),
        };
        // The last two are kept: with fewer servers are drawn at random.
        if let Some((slot, _)) = gone
            && self.count(now, age) > 2
        {
            self.slots[slot].peer.store(0, Ordering::Relaxed);
        }
    }
}
