//! What holds beside every policy, so that a federation under more load than it
//! bears does not spend itself on calls that it refuses.
//!
//! * One **retry budget** of a node: a call that a peer did not take is offered
//!   to another only as long as such offers are at most a fifth of its calls and
//!   three a second. Finagle's retry budget has 20 %, Envoy's the same and at least
//!   three. A call whose peer was lost uses the budget too, and is placed again
//!   without it [`LOST_BEYOND_BUDGET`] times. A call that waits and goes to a place
//!   that became known uses none: that is its first offer.
//! * An **adaptive throttle** of each peer: who refuses more than half of what it
//!   is offered, because it is full, is offered less. B. Beyer, C. Jones, J. Petoff,
//!   N. R. Murphy, "Site Reliability Engineering", 2016, chapter 21. What is not
//!   offered waits and asks for a place; a peer that promises one, that has just
//!   answered a call of ours and has another place, or that says it has room and has
//!   no call of ours, is offered a call all the same: no call is to wait beside a
//!   free place.
//! * An **admission level** of each QoS class at a peer, which it tells in answers
//!   as long as it has no free place: calls above it are not offered, until the
//!   peer says that it has one. H. Zhou, M. Chen, Q. Lin, Y. Wang, X. She, S.
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

use crate::answers::Told;
use crate::policy::{Cell, ClassKey, Memory, Which};
use crate::snapshot::{Draws, PeerView};

pub use levels::{LEVEL_MAX, Levels};

/// Offers after the first, as a share of calls.
pub const RETRY_SHARE: f64 = 0.2;

/// Offers after the first that are allowed beside those, in a second.
pub const RETRIES_PER_SECOND: f64 = 3.0;

/// Over how long calls and offers are counted.
pub const SPAN: Duration = Duration::from_secs(10);

/// How often a call whose peer was lost is placed again though the budget is used
/// up: a peer that dies is to cost none of the calls that may be run again, and a
/// call that ends each peer where it runs is to end few of them.
pub const LOST_BEYOND_BUDGET: u32 = 2;

/// Offers for each one that was accepted from which a peer is throttled.
const OVERSENT: f64 = 2.0;

/// How long what a peer said of a free place with an answer to a call of ours is
/// believed whatever it refused before.
const FRESH: Duration = Duration::from_millis(100);

/// How long what a peer told of its admission level holds.
const LEVEL_AGE: Duration = Duration::from_secs(2);

/// Peers of which is remembered how many calls they took, of those that refused
/// some. One that is forgotten is offered all.
const PEERS_MAX: usize = 256;

/// Pairs of peer and QoS class whose level is remembered.
const LEVELS_MAX: usize = 256;

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
    /// When it answered a call and had another place, in nanoseconds.
    pub(super) const FREED: usize = 3;
}

/// What holds beside every policy of a node.
#[derive(Debug)]
pub struct Beside {
    calls: Faded,
    retries: Faded,
    peers: Memory<4>,
    levels: Memory<2>,
    own_levels: Levels,
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
            own_levels: Levels::default(),
            restricted: AtomicU64::new(0),
        }
    }
}

/// Why a call is not offered to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Offers after the first are used up: it is offered to nobody.
    Budget,
    /// The peer refuses most of what it is offered.
    Throttled,
    /// The peer admits no such call of this QoS class now.
    Shed,
}

impl Held {
    /// All of them.
    pub const ALL: [Held; 3] = [Held::Budget, Held::Throttled, Held::Shed];

    fn bit(self) -> u8 {
        match self {
            Held::Budget => 1,
            Held::Throttled => 2,
            Held::Shed => 4,
        }
    }

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Held::Budget => "budget",
            Held::Throttled => "throttled",
            Held::Shed => "shed",
        }
    }
}

/// All reasons for which one decision did not offer a call to a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldBack(u8);

impl HeldBack {
    /// One more.
    pub fn add(&mut self, held: Held) {
        self.0 |= held.bit();
    }

    /// Whether that is one of them.
    pub fn has(self, held: Held) -> bool {
        self.0 & held.bit() != 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Held> {
        Held::ALL.into_iter().filter(move |held| self.has(*held))
    }
}

/// A call that could be offered to a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending<'a> {
    /// The peer.
    pub(crate) to: &'a PeerView,
    /// Whether that has room for it; else it would be sent ahead of a place.
    pub(crate) has_room: bool,
    /// The call's QoS class.
    pub(crate) class: ClassKey,
    /// When it came to this node, by which its lot falls.
    pub(crate) arrived: Time,
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

    /// A call of a class waited in the queue here, and ran so long; `None` where it
    /// did not run.
    pub fn ran_here(&self, class: ClassKey, queued: Duration, ran: Option<Duration>, now: Time) {
        self.own_levels.note(class, queued, ran, now);
    }

    /// The level that this node tells of a class to one whose calls find so much
    /// room here; `None` where all are admitted. A node that has a free place admits
    /// all, however long calls waited before.
    pub fn tells(&self, class: ClassKey, room: u32) -> Option<u8> {
        let level = self.own_levels.level(class);
        (room == 0 && level < LEVEL_MAX).then_some(level)
    }

    /// Takes what a peer said with its answer to a call of a class; whether that says
    /// that it took the call, or was full ([`crate::answers::Lesson::took`]).
    pub fn heard(
        &self,
        peer: &PeerId,
        class: ClassKey,
        told: &Told,
        took: Option<bool>,
        now: Time,
    ) {
        if told.load.is_some() {
            self.told(peer, class, told.level.unwrap_or(LEVEL_MAX), now);
        }
        if let Some(took) = took {
            self.offered(peer, took, now);
        }
        if took == Some(true)
            && told.places.is_some_and(|places| places > 0)
            && let Some(row) = self.peers.find(Which::NODE.at(Some(peer)))
        {
            row[of_peer::FREED].set(now.as_nanos() as f64);
        }
    }

    /// A peer has promised this node places: what it refused before counts no more.
    pub fn promised(&self, peer: &PeerId) {
        if self.restricted.load(Ordering::Relaxed) != 0 {
            self.peers.forget(Which::NODE.at(Some(peer)));
        }
    }

    /// A peer took a call or did not.
    fn offered(&self, peer: &PeerId, took: bool, now: Time) {
        let which = Which::NODE.at(Some(peer));
        if took && self.peers.find(which).is_none() {
            return;
        }
        let row = self.peers.entry(which, now);
        let left = left(now.since(moment(&row[of_peer::AT])));
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
    fn told(&self, peer: &PeerId, class: ClassKey, level: u8, now: Time) {
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
        let row = self.peers.find(Which::NODE.at(Some(peer)));
        row.map_or(0.0, |row| throttle(row, now))
    }

    /// Whether a call is not to be offered to a peer, and why.
    #[inline]
    pub(crate) fn holds(&self, sending: &Sending<'_>, now: Time) -> Option<Held> {
        let restricted = self.restricted.load(Ordering::Relaxed);
        if restricted == 0 || now.since(Time::from_nanos(restricted)) > SPAN.saturating_mul(4) {
            return None;
        }
        self.looks_up(sending, now)
    }

    fn looks_up(&self, sending: &Sending<'_>, now: Time) -> Option<Held> {
        let Sending {
            to,
            has_room,
            class,
            arrived,
        } = *sending;
        let draw = |seed: u64| Draws::new(seed).next().unwrap_or_default();
        // One call finds out whether there is room where it is said to be.
        let is_tried = !has_room || to.held() > 0;
        if let Some(row) = self
            .peers
            .find(Which::NODE.to_peer(to.key))
            .filter(|_| is_tried)
            && (!has_room || now.since(moment(&row[of_peer::FREED])) > FRESH)
        {
            let throttle = throttle(row, now);
            // The same until the peer says more, so that what was held back once is
            // not tried over and over.
            let seed = arrived.as_nanos() ^ to.loaded().as_nanos().rotate_left(32);
            if throttle > 0.0 && draw(seed ^ to.key.as_u64()) < throttle {
                return Some(Held::Throttled);
            }
        }
        let row = self.levels.find(Which::NODE.class(class).to_peer(to.key))?;
        let then = moment(&row[1]);
        let level = row[0].get().filter(|_| now.since(then) <= LEVEL_AGE)?;
        let has_room_since = has_room && to.loaded() > then;
        let lot = draw(arrived.as_nanos()) * f64::from(LEVEL_MAX);
        (!has_room_since && lot >= level).then_some(Held::Shed)
    }
}

/// A moment that a cell holds; [`Time::ZERO`] for none.
fn moment(cell: &Cell) -> Time {
    Time::from_nanos(cell.get().unwrap_or_default() as u64)
}

fn throttle(row: &[Cell; 4], now: Time) -> f64 {
    let left = left(now.since(moment(&row[of_peer::AT])));
    let count = |cell: usize| row[cell].get().unwrap_or_default() * left;
    let (offered, accepted) = (count(of_peer::OFFERED), count(of_peer::ACCEPTED));
    ((offered - OVERSENT * accepted) / (offered + 1.0)).max(0.0)
}

#[cfg(test)]
mod tests;
