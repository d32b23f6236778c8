//! Places that become free, given to the nodes whose turn it is.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::{Turn, Turns};
use crate::snapshot::Cost;

/// How long a promise stands at the least.
const PROMISE_MIN: Duration = Duration::from_millis(100);

/// How long a promise stands in round trips to whom it was given.
const PROMISE_ROUND_TRIPS: u32 = 2;

/// Longest that a question or a call waits for its turn.
pub const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// Turns that are looked at when a place frees: one whose function is full
/// must not hold back the others for ever.
const TURNS_LOOKED_AT: usize = 16;

/// What a node that waits for its turn asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wish<F> {
    /// Of which function.
    pub function: F,
    /// What a call of it takes.
    pub cost: Cost,
    /// Places, at most.
    pub most: u32,
}

/// A node that gives its places to others, as its shell has it.
pub trait Places {
    /// What stands for a function there.
    type Function;

    /// Who waits, to be told.
    type Taker;

    /// Calls of a function that a node may send now: what is promised to others is
    /// not among them.
    fn room(&mut self, who: &PeerId, function: &Self::Function, cost: Cost) -> u32;

    /// Does something with the table of turns.
    fn turns<T>(&mut self, does: impl FnOnce(&mut Turns) -> T) -> T;

    /// What somebody waits for; `None` for who does not any more.
    fn wish(&mut self, turn: Turn) -> Option<Wish<Self::Function>>;

    /// How long a message takes to a node and back; zero where nobody knows.
    fn round_trip(&mut self, to: &PeerId) -> Duration;

    /// Lets somebody wait no longer, and forgets its wish; `None` where that is
    /// forgotten already.
    fn take(&mut self, turn: Turn) -> Option<Self::Taker>;

    /// Lets it know that it has its places.
    fn tell(&mut self, taker: Self::Taker);
}

/// Promises a node as many places as it may have now, up to what it wishes for;
/// how many there were.
pub fn promise<P: Places>(places: &mut P, to: &PeerId, wish: &Wish<P::Function>, now: Time) -> u32 {
    let room = places.room(to, &wish.function, wish.cost).min(wish.most);
    promise_cpu(places, to, wish.cost.cpu.saturating_mul(room), now);
    room
}

fn promise_cpu<P: Places>(places: &mut P, to: &PeerId, cpu: u32, now: Time) {
    let round_trips = places.round_trip(to).saturating_mul(PROMISE_ROUND_TRIPS);
    let until = now + PROMISE_MIN.max(round_trips);
    places.turns(|turns| turns.promise(*to, cpu, until, now));
}

/// Promises places that became free to those whose turn it is: to the node one of
/// whose calls has just `ended` too, which reads of it in its answer, and to one
/// that will ask again at once.
pub fn serve<P: Places>(places: &mut P, mut ended: Option<(PeerId, u32)>, now: Time) {
    if let Some((before, cpu)) = ended
        && let Some(heir) = places.turns(|turns| turns.heir(&before, cpu, now))
    {
        promise_cpu(places, &heir, cpu, now);
        ended = None;
    }
    loop {
        let waiting = places.turns(|turns| match turns.is_empty() {
            true => Vec::new(),
            false => turns.in_turn(now),
        });
        let mut looked_at = waiting.iter().take(TURNS_LOOKED_AT);
        let next = looked_at.find_map(|(turn, who)| {
            let wish = places.wish(*turn)?;
            let has_room = places.room(who, &wish.function, wish.cost) > 0;
            has_room.then_some((*turn, *who, wish))
        });
        let Some((turn, who, wish)) = next else {
            return;
        };
        if let Some((before, cpu)) = ended.take()
            && places.turns(|turns| turns.keeps(&before, &who, now))
        {
            promise_cpu(places, &before, cpu, now);
            continue;
        }
        places.turns(|turns| turns.leave(turn, now));
        let Some(taker) = places.take(turn) else {
            continue;
        };
        // Others wait too: one place each.
        let most = if waiting.len() > 1 { 1 } else { wish.most };
        promise(places, &who, &Wish { most, ..wish }, now);
        places.tell(taker);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::samples::id;

    /// A node with so many processors for others, of which each call takes one.
    struct Node {
        free: u32,
        turns: Turns,
        wishes: BTreeMap<u64, (Turn, Wish<()>)>,
        told: Vec<Turn>,
    }

    const ONE: Cost = Cost {
        cpu: 1_000,
        long: false,
    };

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    impl Places for Node {
        type Function = ();
        type Taker = Turn;

        fn room(&mut self, who: &PeerId, (): &(), cost: Cost) -> u32 {
            let promised = self.turns.promised_to_others(Some(who), at(0));
            self.free.saturating_sub(promised) / cost.cpu
        }

        fn turns<T>(&mut self, does: impl FnOnce(&mut Turns) -> T) -> T {
            does(&mut self.turns)
        }

        fn wish(&mut self, turn: Turn) -> Option<Wish<()>> {
            let mut all = self.wishes.values();
            all.find(|(of, _)| *of == turn).map(|(_, wish)| *wish)
        }

        fn round_trip(&mut self, _to: &PeerId) -> Duration {
            Duration::from_millis(80)
        }

        fn take(&mut self, turn: Turn) -> Option<Turn> {
            self.wishes.retain(|_, (of, _)| *of != turn);
            Some(turn)
        }

        fn tell(&mut self, taker: Turn) {
            self.told.push(taker);
        }
    }

    impl Node {
        fn new(free: u32) -> Node {
            Node {
                free: free * 1_000,
                turns: Turns::default(),
                wishes: BTreeMap::new(),
                told: Vec::new(),
            }
        }

        fn waits(&mut self, who: u8, most: u32) -> Turn {
            let turn = self.turns.wait(id(who), at(0)).expect("few wait");
            let (function, cost) = ((), ONE);
            let wish = Wish {
                function,
                cost,
                most,
            };
            let number = self.wishes.len() as u64 + self.told.len() as u64;
            self.wishes.insert(number, (turn, wish));
            turn
        }

        fn promised(&mut self, who: u8) -> u32 {
            // What others than nobody have, less what others than it have.
            let all = self.turns.promised_to_others(None, at(0));
            all - self.turns.promised_to_others(Some(&id(who)), at(0))
        }
    }

    #[test]
    fn who_waits_alone_is_promised_all_that_it_wishes_for() {
        let mut node = Node::new(5);
        let turn = node.waits(1, 3);
        serve(&mut node, None, at(0));
        assert_eq!((node.told.clone(), node.promised(1)), (vec![turn], 3_000));
        assert!(node.turns.is_empty());
    }

    #[test]
    fn of_several_that_wait_each_is_promised_one_place() {
        let mut node = Node::new(2);
        let turns = [node.waits(1, 9), node.waits(2, 9), node.waits(3, 9)];
        serve(&mut node, None, at(0));
        assert_eq!(node.told, turns[..2]);
        assert_eq!([1, 2, 3].map(|who| node.promised(who)), [1_000, 1_000, 0]);
    }

    #[test]
    fn a_promise_stands_for_two_round_trips() {
        let mut node = Node::new(1);
        node.waits(1, 1);
        serve(&mut node, None, at(0));
        let stands = |now| node.turns.is_promised(&id(1), 1_000, now);
        assert!(stands(at(159)) && !stands(at(160)));
    }

    #[test]
    fn whose_call_ended_keeps_its_place_before_one_that_has_as_much() {
        let mut node = Node::new(0);
        node.turns.begins(&id(2), 1_000, at(0));
        let asked = node.waits(1, 1);
        node.turns.leave(asked, at(0));
        node.wishes.clear();
        let waits = node.waits(2, 1);
        // The first asked a moment ago and has nothing now: the place is its own.
        node.free = 1_000;
        serve(&mut node, Some((id(1), 1_000)), at(0));
        assert_eq!((node.promised(1), node.told.is_empty()), (1_000, true));
        // There is one more.
        node.free = 2_000;
        serve(&mut node, None, at(0));
        assert_eq!(node.told, [waits]);
    }

    #[test]
    fn nothing_is_promised_where_there_is_no_room() {
        let mut node = Node::new(0);
        node.waits(1, 1);
        serve(&mut node, Some((id(3), 1_000)), at(0));
        assert!(node.told.is_empty());
        assert_eq!(node.turns.promised_to_others(None, at(0)), 0);
    }
}
