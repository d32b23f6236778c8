//! Whose turn it is at this node's free places: nodes that wait for one are
//! told in turn, and what was promised to one is not given to another
//! meanwhile.
//!
//! Plain state. The node's own users are never held back by a promise: it
//! binds other nodes alone.

use std::collections::{BTreeMap, VecDeque};

use libp2p_identity::PeerId;
use weir_node::time::Time;

/// Promises that stand at once; beyond them nothing is promised.
const PROMISES: usize = 256;

/// Questions and calls of other nodes that wait for a place at once.
const WAITING: usize = 256;

/// Nodes of which is remembered when they had their turn last.
const REMEMBERED: usize = 1_024;

#[derive(Debug)]
struct Promise {
    to: PeerId,
    cpu: u32,
    until: Time,
}

/// Somebody who waits for a place; used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Turn(u64);

/// The table.
#[derive(Debug, Default)]
pub struct Turns {
    promised: Vec<Promise>,
    waiting: VecDeque<(Turn, PeerId)>,
    /// When each node had its turn last, by a count.
    served: BTreeMap<PeerId, u64>,
    count: u64,
}

impl Turns {
    /// Processors, in thousandths of a core, that are promised to others than
    /// `who`.
    pub fn promised_to_others(&self, who: Option<&PeerId>, now: Time) -> u32 {
        let others = self.promised.iter();
        let others = others.filter(|promise| now < promise.until && Some(&promise.to) != who);
        others.fold(0, |sum, promise| sum.saturating_add(promise.cpu))
    }

    /// Promises processors to a node until then; whether there was room for
    /// one more promise.
    pub fn promise(&mut self, to: PeerId, cpu: u32, until: Time, now: Time) -> bool {
        self.promised.retain(|promise| now < promise.until);
        if cpu == 0 || self.promised.len() >= PROMISES {
            return false;
        }
        self.promised.push(Promise { to, cpu, until });
        self.count += 1;
        if self.served.len() >= REMEMBERED {
            self.served.clear();
        }
        self.served.insert(to, self.count);
        true
    }

    /// Takes note that a call of a node came, which may have been promised.
    pub fn use_up(&mut self, who: &PeerId, cpu: u32, now: Time) {
        let mut left = cpu;
        self.promised.retain_mut(|promise| {
            if promise.to == *who {
                let used = promise.cpu.min(left);
                promise.cpu -= used;
                left -= used;
            }
            promise.cpu > 0 && now < promise.until
        });
    }

    /// Begins to wait; `None` when too many do.
    pub fn wait(&mut self, who: PeerId) -> Option<Turn> {
        if self.waiting.len() >= WAITING {
            return None;
        }
        self.count += 1;
        let turn = Turn(self.count);
        self.waiting.push_back((turn, who));
        Some(turn)
    }

    /// Ends to wait.
    pub fn leave(&mut self, turn: Turn) {
        self.waiting.retain(|(waiting, _)| *waiting != turn);
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those who wait, the one first whose node had its turn longest ago.
    pub fn in_turn(&self) -> Vec<(Turn, PeerId)> {
        let mut waiting: Vec<(Turn, PeerId)> = self.waiting.iter().copied().collect();
        waiting.sort_by_key(|(turn, who)| (self.served.get(who).copied().unwrap_or(0), turn.0));
        waiting
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::tests::id;

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_promise_binds_others_until_it_is_used_or_over() {
        let mut turns = Turns::default();
        assert!(turns.promise(id(1), 2_000, at(100), at(0)));
        assert_eq!(turns.promised_to_others(Some(&id(1)), at(50)), 0);
        assert_eq!(turns.promised_to_others(Some(&id(2)), at(50)), 2_000);
        assert_eq!(turns.promised_to_others(None, at(50)), 2_000);
        turns.use_up(&id(2), 1_000, at(50));
        assert_eq!(turns.promised_to_others(None, at(50)), 2_000);
        turns.use_up(&id(1), 1_500, at(50));
        assert_eq!(turns.promised_to_others(None, at(50)), 500);
        assert_eq!(turns.promised_to_others(None, at(100)), 0);
    }

    #[test]
    fn who_had_its_turn_longest_ago_is_next() {
        let mut turns = Turns::default();
        let ask = |turns: &mut Turns, who| turns.wait(id(who)).expect("few wait");
        let mut order = Vec::new();
        ask(&mut turns, 1);
        ask(&mut turns, 1);
        ask(&mut turns, 2);
        for _ in 0..6 {
            let (turn, who) = turns.in_turn()[0];
            turns.leave(turn);
            turns.promise(who, 1, at(1), at(0));
            order.push(who);
            ask(&mut turns, if who == id(1) { 1 } else { 2 });
        }
        let expected = [1, 2, 1, 2, 1, 2].map(id);
        assert_eq!(order, expected);
    }

    #[test]
    fn everything_is_bounded() {
        let mut turns = Turns::default();
        for number in 0..2 * WAITING {
            assert_eq!(turns.wait(id(1)).is_some(), number < WAITING);
            let promised = turns.promise(id(1), 1, at(9), at(0));
            assert_eq!(promised, number < PROMISES);
        }
        assert!(
            turns.promise(id(1), 1, at(20), at(10)),
            "the old ones are over"
        );
    }
}
