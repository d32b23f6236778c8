//! How often something may be asked of each peer, or is heard of it, and of all
//! of them together; and whether what a peer tells is newer than what it told.

use std::collections::BTreeMap;

use libp2p_identity::PeerId;
use weir_node_core::rate::Rate;
use weir_node_core::time::Time;

use crate::peers::PEERS;

/// Counts what happens with each peer in a second, and with all of them.
#[derive(Debug)]
pub struct Pace {
    each_per_second: u32,
    all_per_second: u32,
    /// No more than [`PEERS`]: those that are even again make room.
    each: BTreeMap<PeerId, Rate>,
    all: Rate,
}

impl Pace {
    /// At most so often in a second with each peer, and with all together. As
    /// often may happen at once after a pause.
    pub fn new(each_per_second: u32, all_per_second: u32) -> Pace {
        Pace {
            each_per_second,
            all_per_second,
            each: BTreeMap::new(),
            all: Rate::default(),
        }
    }

    /// Counts one more with a peer; `false` when that is too often.
    pub fn take(&mut self, peer: &PeerId, now: Time) -> bool {
        let (each, all) = (self.each_per_second, self.all_per_second);
        if !self.all.has_room(now, all) {
            return false;
        }
        if self.each.len() >= PEERS && !self.each.contains_key(peer) {
            self.each.retain(|_, rate| !rate.is_even(now));
            if self.each.len() >= PEERS {
                return false;
            }
        }
        let taken = self.each.entry(*peer).or_default().take(now, each);
        taken.is_some() && self.all.take(now, all).is_some()
    }
}

/// Where a peer's word stands among all that it tells: in which life, and as
/// the how many-th of that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Which life.
    pub epoch: u64,
    /// The how many-th.
    pub sequence: u64,
}

/// Words that may overtake each other on their way; what is older still was
/// heard already, or is worth nothing.
const OVERTAKEN_MAX: u64 = 16;

/// The newest word of each peer.
#[derive(Debug, Default)]
pub struct Newest(BTreeMap<PeerId, Order>);

impl Newest {
    /// Takes note of a word; `false` when it is of an earlier life, or too old.
    pub fn take(&mut self, peer: &PeerId, order: Order) -> bool {
        let newest = self.0.get(peer).copied().unwrap_or_default();
        let is_new = match order.epoch.cmp(&newest.epoch) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => {
                order.sequence.saturating_add(OVERTAKEN_MAX) > newest.sequence
            }
        };
        if is_new && order > newest {
            if self.0.len() >= PEERS && !self.0.contains_key(peer) {
                self.0.pop_first();
            }
            self.0.insert(*peer, order);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::samples::{id, numbered};

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn each_peer_has_its_rate_and_all_have_one() {
        let mut pace = Pace::new(2, 3);
        let taken = |pace: &mut Pace, number: u8, now| pace.take(&id(number), now);
        assert!(taken(&mut pace, 1, at(1_000)));
        assert!(taken(&mut pace, 1, at(1_000)));
        assert!(!taken(&mut pace, 1, at(1_000)));
        assert!(taken(&mut pace, 2, at(1_000)));
        assert!(!taken(&mut pace, 2, at(1_000)), "all were too often");
        assert!(taken(&mut pace, 1, at(1_500)));
        assert!(!taken(&mut pace, 1, at(1_500)));
    }

    #[test]
    fn peers_that_are_counted_are_bounded() {
        let mut pace = Pace::new(1, u32::MAX);
        let count = u32::try_from(PEERS).expect("a bound");
        for number in 0..count {
            assert!(pace.take(&numbered(number), at(1_000)));
        }
        assert!(!pace.take(&numbered(count), at(1_000)));
        assert!(pace.take(&numbered(count), at(3_000)));
    }

    #[test]
    fn what_is_old_is_not_heard_again() {
        let mut newest = Newest::default();
        let order = |epoch, sequence| Order { epoch, sequence };
        for (word, is_new) in [
            (order(5, 1), true),
            (order(5, 30), true),
            // Overtaken.
            (order(5, 29), true),
            (order(5, 14), false),
            (order(4, 99), false),
            (order(6, 1), true),
            (order(5, 31), false),
        ] {
            assert_eq!(newest.take(&id(1), word), is_new, "{word:?}");
        }
        assert!(newest.take(&id(2), order(1, 1)));
    }
}
