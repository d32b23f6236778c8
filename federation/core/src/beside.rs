//! What holds beside every policy, so that a federation under more load than it
//! bears does not spend itself on calls that it refuses.
//!
//! * One **retry budget** of a node: a call that a peer did not take is offered
//!   to another only as long as such offers are at most a fifth of its calls and
//!   three a second. Finagle's retry budget has 20 %, Envoy's the same and at least
//!   three.
//! * An **adaptive throttle** of each peer: who refuses more than half of what it
//!   is offered is offered less. B. Beyer, C. Jones, J. Petoff, N. R. Murphy, "Site
//!   Reliability Engineering", 2016, chapter 21.
//! * An **admission level** of each QoS class at a peer, which it tells in answers:
//!   calls above it are not offered. H. Zhou, M. Chen, Q. Lin, Y. Wang, X. She, S.
//!   Liu, R. Gu, B. C. Ooi, J. Yang, "Overload control for scaling WeChat
//!   microservices" (DAGOR), SoCC 2018. Each call has a lot, the same as long as it
//!   is at one node, so that what is shed once is not tried over and over.
//!
//! Relaxed atomics without a lock, shared by all calls of a node. Time is an
//! argument.

mod levels;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use crate::facts::PeerKey;
use crate::policy::{Cell, ClassKey, Memory, Which};
use crate::snapshot::Draws;

pub use levels::{LEVEL_MAX, Levels};

/// Offers after the first, as a share of calls.
pub const RETRY_SHARE: f64 = 0.2;

/// Offers after the first that are allowed beside those, in a second.
pub const RETRIES_PER_SECOND: f64 = 3.0;

/// Over how long calls and offers are counted.
pub const SPAN: Duration = Duration::from_secs(10);

/// Offers for each one that was accepted from which a peer is throttled.
const OVERSENT: f64 = 2.0;

/// How long what a peer told of its admission level holds.
const LEVEL_AGE: Duration = Duration::from_secs(2);

/// Peers of which is remembered how many calls they took.
const PEERS_MAX: usize = 1_024;

/// Pairs of peer and QoS class whose level is remembered.
const LEVELS_MAX: usize = 1_024;

/// A count that fades: in the long run, what came within [`SPAN`].
#[derive(Debug, Default)]
struct Faded {
    count: Cell,
    at: AtomicU64,
}

/// What is left of a count: `(1 - x/16)^16`, nearly `e^-x`.
fn left(age: Duration) -> f64 {
    let mut left = (1.0 - age.as_secs_f64() / SPAN.as_secs_f64() / 16.0).max(0.0);
    for _ in 0..4 {
        left *= left;
    }
    left
}

impl Faded {
    fn at(&self, now: Time) -> f64 {
        let then = Time::from_nanos(self.at.load(Ordering::Relaxed));
        self.count.get().unwrap_or_default() * left(now.since(then))
    }

    fn add(&self, more: f64, now: Time) {
        let then = Time::from_nanos(self.at.swap(now.as_nanos(), Ordering::Relaxed));
        let left = left(now.since(then));
        let add = |count: Option<f64>| count.unwrap_or_default() * left + more;
        self.count.change(add);
    }
}

/// What a row holds of a peer.
mod of_peer {
    pub(super) const OFFERED: usize = 0;
    pub(super) const ACCEPTED: usize = 1;
    /// When that was so, in nanoseconds.
    pub(super) const AT: usize = 2;
}

/// What holds beside every policy of a node.
#[derive(Debug)]
pub struct Beside {
    calls: Faded,
    retries: Faded,
    peers: Memory<3>,
    levels: Memory<2>,
    /// When a peer refused a call last, or told of a level, in nanoseconds; 0 for
    /// never: mostly there is nothing to look up.
    restricted: AtomicU64,
}

impl Default for Beside {
    fn default() -> Beside {
        Beside {
            calls: Faded::default(),
            retries: Faded::default(),
            peers: Memory::new(PEERS_MAX),
            levels: Memory::new(LEVELS_MAX),
            restricted: AtomicU64::new(0),
        }
    }
}

/// Why a peer is not offered a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It refuses most of what it is offered.
    Throttled,
    /// It admits no such call of this QoS class now.
    Shed,
}

impl Beside {
    /// Counts a call that is to be placed.
    pub fn calls(&self, now: Time) {
        self.calls.add(1.0, now);
    }

    /// Whether a call that was offered in vain may be offered once more, which
    /// counts then.
    pub fn takes_retry(&self, now: Time) -> bool {
        let allowed = RETRY_SHARE * self.calls.at(now) + RETRIES_PER_SECOND * SPAN.as_secs_f64();
        let has_room = self.retries.at(now) + 1.0 <= allowed;
        if has_room {
            self.retries.add(1.0, now);
        }
        has_room
    }

    /// A peer took a call or did not.
    pub fn offered(&self, peer: &PeerId, took: bool, now: Time) {
        let which = Which::NODE.at(Some(peer));
        if took && self.peers.find(which).is_none() {
            return;
        }
        let row = self.peers.entry(which, now);
        let then = row[of_peer::AT].get().unwrap_or_default();
        let left = left(now.since(Time::from_nanos(then as u64)));
        row[of_peer::AT].set(now.as_nanos() as f64);
        let more = [
            (of_peer::OFFERED, 1.0),
            (of_peer::ACCEPTED, f64::from(u8::from(took))),
        ];
        for (cell, more) in more {
            row[cell].change(|count| count.unwrap_or_default() * left + more);
        }
        if !took {
            self.restricted.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// A peer told which calls of a class it admits: those whose lot is below the
    /// level, of [`LEVEL_MAX`].
    pub fn told(&self, peer: &PeerId, class: ClassKey, level: u8, now: Time) {
        let which = Which::NODE.class(class).at(Some(peer));
        if level >= LEVEL_MAX {
            self.levels.forget(which);
            return;
        }
        let row = self.levels.entry(which, now);
        row[0].set(f64::from(level));
        row[1].set(now.as_nanos() as f64);
        self.restricted.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// The part of calls that are not offered to a peer: `max(0, (offered - 2 x
    /// accepted) / (offered + 1))`.
    pub fn throttle(&self, peer: &PeerId, now: Time) -> f64 {
        self.throttle_of(PeerKey::of(peer), now)
    }

    fn throttle_of(&self, peer: PeerKey, now: Time) -> f64 {
        let Some(row) = self.peers.find(Which::NODE.to_peer(peer)) else {
            return 0.0;
        };
        let then = row[of_peer::AT].get().unwrap_or_default();
        let left = left(now.since(Time::from_nanos(then as u64)));
        let count = |cell: usize| row[cell].get().unwrap_or_default() * left;
        let (offered, accepted) = (count(of_peer::OFFERED), count(of_peer::ACCEPTED));
        ((offered - OVERSENT * accepted) / (offered + 1.0)).max(0.0)
    }

    /// Whether a call is not to be offered to a peer, and why. `arrived` is when it
    /// came to this node, by which its lot falls; `chance` is the decision's.
    #[inline]
    pub(crate) fn holds(
        &self,
        peer: PeerKey,
        class: ClassKey,
        arrived: Time,
        (now, chance): (Time, u64),
    ) -> Option<Held> {
        let restricted = self.restricted.load(Ordering::Relaxed);
        if restricted == 0 || now.since(Time::from_nanos(restricted)) > SPAN.saturating_mul(4) {
            return None;
        }
        self.looks_up(peer, class, arrived, (now, chance))
    }

    fn looks_up(
        &self,
        peer: PeerKey,
        class: ClassKey,
        arrived: Time,
        (now, chance): (Time, u64),
    ) -> Option<Held> {
        let draw = |seed: u64| Draws::new(seed).next().unwrap_or_default();
        let throttle = self.throttle_of(peer, now);
        if throttle > 0.0 && draw(chance ^ peer.as_u64().rotate_left(17)) < throttle {
            return Some(Held::Throttled);
        }
        let row = self.levels.find(Which::NODE.class(class).to_peer(peer))?;
        let then = Time::from_nanos(row[1].get().unwrap_or_default() as u64);
        let level = row[0].get().filter(|_| now.since(then) <= LEVEL_AGE)?;
        let lot = draw(arrived.as_nanos()) * f64::from(LEVEL_MAX);
        (lot >= level).then_some(Held::Shed)
    }
}

#[cfg(test)]
mod tests;
