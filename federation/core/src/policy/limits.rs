//! How much a node does of what its policies wish for between decisions, and how
//! much it hears of what others' policies do.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::{TICK_INTERVAL_MIN, Wishes};
use crate::pace::{Newest, Order, Pace};
use crate::snapshot::PeerView;

/// How often what policies learned is written down.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Probes in a second: of each peer, and of all.
const PROBES_PER_SECOND_MAX: (u32, u32) = (10, 100);

/// Notes in a second: of each policy of a node as of all of them, since others
/// hear no more of it.
const NOTES_PER_SECOND_MAX: u32 = 2;

/// Probes that are answered in a second: to each member, twice what an honest
/// one asks, and to all of them.
const ANSWERS_PER_SECOND_MAX: (u32, u32) = (20, 400);

/// Notes that are heard in a second: of each member, twice what an honest one
/// writes, and of all of them.
const HEARD_PER_SECOND_MAX: (u32, u32) = (4, 400);

/// What a node does of what its policies wish for.
#[derive(Debug)]
pub struct WishLimits {
    own: PeerId,
    probes: Pace,
    notes: Pace,
    sequence: u64,
}

impl WishLimits {
    /// Of a node that has done nothing yet.
    pub fn new(own: PeerId) -> WishLimits {
        let (each, all) = PROBES_PER_SECOND_MAX;
        WishLimits {
            own,
            probes: Pace::new(each, all),
            notes: Pace::new(NOTES_PER_SECOND_MAX, NOTES_PER_SECOND_MAX),
            sequence: 0,
        }
    }

    /// The peers that are probed for one tick, of those that it wished for.
    pub fn probes(&mut self, wishes: &Wishes, now: Time) -> Vec<PeerId> {
        let wished = wishes.probes().iter();
        let taken = wished.filter(|peer| self.probes.take(peer, now));
        taken.copied().collect()
    }

    /// The note that is told for one tick, with which of this node's notes it is.
    pub fn note<'a>(&mut self, wishes: &'a Wishes, now: Time) -> Option<(u64, &'a [u8])> {
        let body = wishes.note()?;
        self.notes.take(&self.own, now).then(|| {
            self.sequence += 1;
            (self.sequence, body)
        })
    }
}

/// When a policy is called next that asked for `next` at `now`.
pub fn next_tick(next: Time, now: Time) -> Time {
    next.max(now + TICK_INTERVAL_MIN)
}

/// How much a node hears of other nodes' policies.
#[derive(Debug)]
pub struct HeardLimits {
    notes: Pace,
    newest: Newest,
    probes: Pace,
}

/// Why a note is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unheard {
    /// Its writer writes too often, or all of them do.
    TooOften,
    /// It is of an earlier life, or too old.
    Old,
}

impl Default for HeardLimits {
    fn default() -> HeardLimits {
        let (notes, probes) = (HEARD_PER_SECOND_MAX, ANSWERS_PER_SECOND_MAX);
        HeardLimits {
            notes: Pace::new(notes.0, notes.1),
            newest: Newest::default(),
            probes: Pace::new(probes.0, probes.1),
        }
    }
}

impl HeardLimits {
    /// Counts a note of a member.
    ///
    /// # Errors
    /// Why it is not heard.
    pub fn note(&mut self, from: &PeerId, order: Order, now: Time) -> Result<(), Unheard> {
        if !self.notes.take(from, now) {
            return Err(Unheard::TooOften);
        }
        match self.newest.take(from, order) {
            true => Ok(()),
            false => Err(Unheard::Old),
        }
    }

    /// Counts a probe of a member; `false` when it is not answered, for that is
    /// too often.
    pub fn probe(&mut self, from: &PeerId, now: Time) -> bool {
        self.probes.take(from, now)
    }
}

/// Whether the load that a peer tells in answer to a probe may stand for what is
/// known of its room: not while it holds calls of this node, for how many of
/// those it counted, nobody knows.
pub fn is_room_told(peer: Option<&PeerView>) -> bool {
    peer.is_some_and(|peer| peer.held() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{id, numbered};

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn wishes_are_done_as_far_as_rates_allow() {
        let mut limits = WishLimits::new(id(0));
        let mut wishes = Wishes::default();
        wishes.probe(id(1));
        wishes.probe(id(2));
        wishes.tell(vec![7]);
        let mut probed = 0;
        for _ in 0..20 {
            probed += limits.probes(&wishes, at(1_000)).len();
        }
        assert_eq!(probed, 20, "10 of each of two");
        assert_eq!(limits.note(&wishes, at(1_000)), Some((1, [7].as_slice())));
        assert_eq!(limits.note(&wishes, at(1_000)), Some((2, [7].as_slice())));
        assert_eq!(limits.note(&wishes, at(1_000)), None, "2 in a second");
        assert_eq!(limits.note(&wishes, at(1_500)), Some((3, [7].as_slice())));
        assert_eq!(limits.note(&Wishes::default(), at(9_000)), None);
    }

    #[test]
    fn a_policy_is_called_no_sooner_than_it_may_be() {
        assert_eq!(next_tick(at(0), at(5)), at(5) + TICK_INTERVAL_MIN);
        assert_eq!(next_tick(at(500), at(5)), at(500));
        assert_eq!(next_tick(Time::NEVER, at(5)), Time::NEVER);
    }

    #[test]
    fn notes_are_heard_in_their_order_and_seldom_enough() {
        let mut limits = HeardLimits::default();
        let order = |epoch, sequence| Order { epoch, sequence };
        assert_eq!(limits.note(&id(1), order(2, 1), at(0)), Ok(()));
        let earlier = limits.note(&id(1), order(1, 9), at(0));
        assert_eq!(earlier, Err(Unheard::Old));
        for sequence in 2..4 {
            assert_eq!(limits.note(&id(1), order(2, sequence), at(0)), Ok(()));
        }
        let more = limits.note(&id(1), order(2, 4), at(0));
        assert_eq!(more, Err(Unheard::TooOften));
        assert_eq!(limits.note(&id(2), order(1, 1), at(0)), Ok(()));
    }

    #[test]
    fn probes_are_answered_to_each_and_to_all_seldom_enough() {
        let mut limits = HeardLimits::default();
        let of_one = (0..30).filter(|_| limits.probe(&id(1), at(0))).count();
        assert_eq!(of_one, 20);
        let of_all = (0..1_000).filter(|number| limits.probe(&numbered(*number), at(0)));
        assert_eq!(of_all.count(), 380);
    }
}
