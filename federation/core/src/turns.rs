//! Whose turn it is at this node's free places: of the nodes that want one, the
//! one that has the least here is told first, and what was promised to one is
//! not given to another meanwhile. So nodes that want more than there is come
//! to have equal shares (max-min fairness), whatever they had to begin with.
//!
//! Plain state. The node's own users are never held back by a promise: it
//! binds other nodes alone.

mod serving;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

pub use serving::{Places, TURN_WAIT_MAX, Wish, promise, serve};

/// Promises that stand at once; beyond them nothing is promised.
const PROMISES: usize = 256;

/// Questions and calls of other nodes that wait for a place at once.
const WAITING: usize = 256;

/// Nodes of which is remembered when they had their turn last, or asked for one.
const REMEMBERED: usize = 1_024;

/// How long after its last question a node is taken to want more: three times
/// what it pauses between two while it does.
const WANTS: Duration = Duration::from_millis(300);

#[derive(Debug)]
struct Promise {
    to: PeerId,
    cpu: u32,
    until: Time,
}

/// Somebody who waits for a place; used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turn(u64);

/// The table.
#[derive(Debug, Default)]
pub struct Turns {
    promised: Vec<Promise>,
    waiting: VecDeque<(Turn, PeerId)>,
    /// When each node had its turn last, by a count.
    served: BTreeMap<PeerId, u64>,
    /// Until when each node that asked is taken to want more.
    wanting: BTreeMap<PeerId, Time>,
    /// Processors of the calls that each node has here; as many as it has calls.
    held: BTreeMap<PeerId, u32>,
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
    pub fn begins(&mut self, who: &PeerId, cpu: u32, now: Time) {
        let held = self.held.entry(*who).or_default();
        *held = held.saturating_add(cpu);
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

    /// Takes note that a call of a node has left.
    pub fn ends(&mut self, who: &PeerId, cpu: u32) {
        if let Some(held) = self.held.get_mut(who) {
            *held = held.saturating_sub(cpu);
            if *held == 0 {
                self.held.remove(who);
            }
        }
    }

    /// What a node has here: its calls, and what was promised to it.
    fn stake(&self, who: &PeerId, now: Time) -> u32 {
        let promised = self.promised.iter();
        let promised = promised.filter(|promise| now < promise.until && promise.to == *who);
        let held = self.held.get(who).copied().unwrap_or(0);
        promised.fold(held, |sum, promise| sum.saturating_add(promise.cpu))
    }

    /// Who is to have the place of a node's call that has just left: a node that
    /// asked a moment ago, and would still not have more than that one. While
    /// it does not ask, a place is kept free for it only to end such a difference.
    pub fn heir(&self, who: &PeerId, cpu: u32, now: Time) -> Option<PeerId> {
        let most = self.stake(who, now);
        let wanting = self.wanting.iter().filter(|(_, until)| now < **until);
        let wanting = wanting.map(|(other, _)| (self.stake(other, now), *other));
        let (least, heir) = wanting.filter(|(_, other)| other != who).min()?;
        (least.saturating_add(cpu) <= most && !self.waits(&heir)).then_some(heir)
    }

    fn waits(&self, who: &PeerId) -> bool {
        self.waiting.iter().any(|(_, waiting)| waiting == who)
    }

    /// Whether a place of so many thousandths of a core is promised to a node.
    pub fn is_promised(&self, who: &PeerId, cpu: u32, now: Time) -> bool {
        let held = self.held.get(who).copied().unwrap_or(0);
        self.stake(who, now) - held >= cpu
    }

    /// Whether a node, one of whose calls has just left, comes before another
    /// that waits: it may take the place again.
    pub fn keeps(&self, who: &PeerId, other: &PeerId, now: Time) -> bool {
        let wanted = self.wanting.get(who).is_some_and(|until| now < *until);
        (wanted || self.waits(who)) && who != other && self.order(who, now) < self.order(other, now)
    }

    /// What nodes are served by, the least first.
    fn order(&self, who: &PeerId, now: Time) -> (u32, u64) {
        let served = self.served.get(who).copied().unwrap_or(0);
        (self.stake(who, now), served)
    }

    /// Begins to wait; `None` when too many do.
    pub fn wait(&mut self, who: PeerId, now: Time) -> Option<Turn> {
        if self.waiting.len() >= WAITING {
            return None;
        }
        self.wants(who, now);
        self.count += 1;
        let turn = Turn(self.count);
        self.waiting.push_back((turn, who));
        Some(turn)
    }

    fn wants(&mut self, who: PeerId, now: Time) {
        if self.wanting.len() >= REMEMBERED {
            self.wanting.retain(|_, until| now < *until);
        }
        if self.wanting.len() < REMEMBERED {
            self.wanting.insert(who, now + WANTS);
        }
    }

    /// Ends to wait.
    pub fn leave(&mut self, turn: Turn, now: Time) {
        let found = self
            .waiting
            .iter()
            .position(|(waiting, _)| *waiting == turn);
        if let Some((_, who)) = found.and_then(|at| self.waiting.remove(at)) {
            self.wants(who, now);
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those who wait, the one first whose node has the least here; of equal
    /// ones, whose node had its turn longest ago.
    pub fn in_turn(&self, now: Time) -> Vec<(Turn, PeerId)> {
        let mut waiting: Vec<(Turn, PeerId)> = self.waiting.iter().copied().collect();
        waiting.sort_by_cached_key(|(turn, who)| (self.order(who, now), turn.0));
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::id;

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
        turns.begins(&id(2), 1_000, at(50));
        assert_eq!(turns.promised_to_others(None, at(50)), 2_000);
        turns.begins(&id(1), 1_500, at(50));
        assert_eq!(turns.promised_to_others(None, at(50)), 500);
        assert_eq!(turns.promised_to_others(None, at(100)), 0);
    }

    #[test]
    fn of_those_that_have_as_much_here_who_had_its_turn_longest_ago_is_next() {
        let mut turns = Turns::default();
        let ask = |turns: &mut Turns, who| turns.wait(id(who), at(0)).expect("few wait");
        let mut order = Vec::new();
        ask(&mut turns, 1);
        ask(&mut turns, 1);
        ask(&mut turns, 2);
        for _ in 0..6 {
            let (turn, who) = turns.in_turn(at(2))[0];
            turns.leave(turn, at(0));
            turns.promise(who, 1, at(1), at(0));
            order.push(who);
            ask(&mut turns, if who == id(1) { 1 } else { 2 });
        }
        let expected = [1, 2, 1, 2, 1, 2].map(id);
        assert_eq!(order, expected);
    }

    #[test]
    fn nodes_that_want_more_than_there_is_come_to_have_the_same() {
        let mut turns = Turns::default();
        let (great, small) = (id(1), id(2));
        for _ in 0..6 {
            turns.begins(&great, 1_000, at(0));
        }
        // Both ask again as soon as they were answered; a call that ends is
        // always one of those that has more of them, else of the other.
        let mut held = [6_u32, 0];
        for now in 1..20 {
            let asked = turns.wait(great, at(now)).expect("few wait");
            let other = turns.wait(small, at(now)).expect("few wait");
            let ends = usize::from(held[1] > held[0]);
            let who = [great, small][ends];
            turns.ends(&who, 1_000);
            held[ends] -= 1;
            let (_, next) = turns.in_turn(at(now))[0];
            turns.begins(&next, 1_000, at(now));
            held[usize::from(next == small)] += 1;
            turns.leave(asked, at(now));
            turns.leave(other, at(now));
        }
        assert_eq!(held, [3, 3]);
        // Who holds as much keeps its place before one that waits, by turns.
        turns.ends(&great, 1_000);
        assert!(turns.keeps(&great, &small, at(20)));
        assert!(
            !turns.keeps(&great, &small, at(20) + WANTS),
            "it asks no more"
        );
        turns.begins(&great, 1_000, at(20));
        turns.begins(&great, 1_000, at(20));
        turns.ends(&great, 1_000);
        turns.promise(great, 1_000, at(30), at(20));
        assert!(!turns.keeps(&great, &small, at(20)), "a promise counts");
    }

    #[test]
    fn a_place_is_kept_for_who_asked_a_moment_ago_to_end_a_difference_only() {
        let mut turns = Turns::default();
        let (great, small) = (id(1), id(2));
        for _ in 0..4 {
            turns.begins(&great, 1_000, at(0));
        }
        turns.begins(&small, 1_000, at(0));
        let asked = turns.wait(small, at(0)).expect("few wait");
        turns.ends(&great, 1_000);
        assert_eq!(
            turns.heir(&great, 1_000, at(0)),
            None,
            "it waits, and is told"
        );
        turns.leave(asked, at(1));
        assert_eq!(turns.heir(&great, 1_000, at(1)), Some(small));
        assert_eq!(turns.heir(&great, 1_000, at(1) + WANTS), None);
        turns.promise(small, 1_000, at(100), at(1));
        turns.ends(&great, 1_000);
        assert_eq!(
            turns.heir(&great, 1_000, at(1)),
            None,
            "2 have 2, and 2 are left"
        );
    }

    #[test]
    fn a_promise_is_known_until_it_is_used_or_over() {
        let mut turns = Turns::default();
        assert!(!turns.is_promised(&id(1), 1_000, at(0)));
        turns.promise(id(1), 1_000, at(100), at(0));
        assert!(turns.is_promised(&id(1), 1_000, at(50)));
        assert!(!turns.is_promised(&id(1), 1_001, at(50)));
        assert!(!turns.is_promised(&id(2), 1_000, at(50)));
        assert!(!turns.is_promised(&id(1), 1_000, at(100)));
        turns.begins(&id(1), 1_000, at(50));
        assert!(!turns.is_promised(&id(1), 1_000, at(50)));
    }

    #[test]
    fn everything_is_bounded() {
        let mut turns = Turns::default();
        for number in 0..2 * WAITING {
            assert_eq!(turns.wait(id(1), at(0)).is_some(), number < WAITING);
            let promised = turns.promise(id(1), 1, at(9), at(0));
            assert_eq!(promised, number < PROMISES);
        }
        assert!(
            turns.promise(id(1), 1, at(20), at(10)),
            "the old ones are over"
        );
    }
}
