//! A queue of servers that were idle a moment ago, for policies by which servers
//! are chosen that have nothing to do: bounded, without a lock.

use std::array;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use weir_node_core::time::Time;

use super::{Candidate, Case};
use crate::facts::PeerKey;

/// Servers that are remembered as idle; of more, the oldest is forgotten.
pub(super) const IDLE_MAX: usize = 16;

/// Of them, those that one decision looks at closely.
const TRIED_MAX: usize = 4;

/// One server that became idle.
#[derive(Debug, Default)]
struct Slot {
    /// 0 where it is free.
    peer: AtomicU64,
    /// Of which function it has an instance that waits; 0 for any.
    function: AtomicU64,
    since: AtomicU64,
}

/// Servers that were idle a moment ago. One is there once for each call that it
/// ended.
#[derive(Debug)]
pub(super) struct IdleQueue {
    slots: [Slot; IDLE_MAX],
    next: AtomicU32,
}

/// A server of the queue that can take a call.
pub(super) struct Found<'a> {
    slot: usize,
    pub(super) candidate: Candidate<'a>,
}

impl IdleQueue {
    pub(super) fn new() -> IdleQueue {
        IdleQueue {
            slots: array::from_fn(|_| Slot::default()),
            next: AtomicU32::new(0),
        }
    }

    /// A server joins: it ended a call.
    pub(super) fn join(&self, peer: PeerKey, function: u64, now: Time) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) as usize % IDLE_MAX;
        let slot = &self.slots[at];
        // Who reads between these sees no server.
        slot.peer.store(0, Ordering::Relaxed);
        slot.function.store(function, Ordering::Relaxed);
        slot.since.store(now.as_nanos(), Ordering::Relaxed);
        slot.peer.store(peer.as_u64(), Ordering::Relaxed);
    }

    /// The server of the lowest rank that joined no longer ago than `age` and can
    /// take the call now. It stays in the queue until it is [taken](Self::take).
    pub(super) fn find<'a>(
        &self,
        case: &mut Case<'a>,
        function: u64,
        age: Duration,
        rank: impl Fn(&crate::snapshot::PeerView, Time) -> u64,
        is_idle: impl Fn(&Candidate<'_>) -> bool,
    ) -> Option<Found<'a>> {
        let snapshot = case.snapshot;
        let (view, now) = (snapshot.view, snapshot.now);
        let mut found = [None; IDLE_MAX];
        for (slot, found) in self.slots.iter().zip(&mut found) {
            let peer = slot.peer.load(Ordering::Relaxed);
            if peer == 0 || slot.function.load(Ordering::Relaxed) != function {
                continue;
            }
            let since = Time::from_nanos(slot.since.load(Ordering::Relaxed));
            if now.since(since) > age {
                continue;
            }
            let place = view.place_by(PeerKey::by(peer));
            let place = place.filter(|place| view.neighbours().contains(*place));
            *found = place.map(|place| (rank(&view.peers[place], since), place));
        }
        for _ in 0..TRIED_MAX {
            let ranked = found.iter().enumerate();
            let ranked = ranked.filter_map(|(slot, found)| Some(((*found)?, slot)));
            let ((_, place), slot) = ranked.min()?;
            if let Some(candidate) = case.candidate(place)
                && is_idle(&candidate)
            {
                return Some(Found { slot, candidate });
            }
            found[slot] = None;
        }
        None
    }

    /// Takes a server out: a call goes there.
    pub(super) fn take(&self, found: &Found<'_>) {
        let peer = found.candidate.peer.key.as_u64();
        let slot = &self.slots[found.slot].peer;
        // Another call may have taken it; then both go there.
        let _ = slot.compare_exchange(peer, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}
