//! Nodes and calls that wait at a node for its free places, in their turns.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::answers;
use weir_federation_core::snapshot::Cost;
use weir_federation_core::turns::{self, Places, TURN_WAIT_MAX, Turn, Turns, Wish};
use weir_node_core::time::Time;

use super::calls::{CallId, Stay};
use super::engine::Engine;
use super::events::Event;
use super::node::{Member, Node};
use super::shell;
use super::world::World;

/// Who waits for its turn at a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Waits {
    /// Another node, by its question.
    Question(u32),
    /// A call that was sent ahead of the place that it is to have.
    Call(CallId),
}

/// A node that gives its places to others.
struct Giving<'a> {
    world: &'a World,
    at: u32,
    node: &'a mut Node,
    member: &'a mut Member,
    now: Time,
    told: Vec<Waits>,
}

impl Places for Giving<'_> {
    type Function = u32;
    type Taker = Waits;

    fn room(&mut self, who: &PeerId, function: &u32, cost: Cost) -> u32 {
        let load = shell::load(self.node, self.member, Some(who), self.now);
        let key = self.node.keys[*function as usize];
        let places = key.and_then(|key| self.node.scheduler.admission().places(key));
        answers::guest_room(places, &load, cost)
    }

    fn turns<T>(&mut self, does: impl FnOnce(&mut Turns) -> T) -> T {
        does(&mut self.member.turns)
    }

    fn wish(&mut self, turn: Turn) -> Option<Wish<u32>> {
        self.member.takers.get(&turn).map(|(wish, _)| *wish)
    }

    fn round_trip(&mut self, to: &PeerId) -> Duration {
        let Some(to) = self.world.number(to) else {
            return Duration::ZERO;
        };
        let ways = self.world.way(self.at, to).one_way + self.world.way(to, self.at).one_way;
        Duration::from_nanos(ways as u64)
    }

    fn take(&mut self, turn: Turn) -> Option<Waits> {
        let taker = self.member.takers.remove(&turn);
        taker.map(|(_, waits)| waits)
    }

    fn tell(&mut self, taker: Waits) {
        self.told.push(taker);
    }
}

impl Engine<'_> {
    /// Does something as a node that gives its places; who has its turn with that
    /// hears of it.
    fn giving<T>(&mut self, at: u32, does: impl FnOnce(&mut Giving<'_>) -> T) -> Option<T> {
        let (world, now) = (self.world, self.now);
        let node = &mut self.nodes[at as usize];
        let mut member = node.member.take()?;
        let mut giving = Giving {
            world,
            at,
            node,
            member: &mut member,
            now,
            told: Vec::new(),
        };
        let done = does(&mut giving);
        let told = giving.told;
        self.nodes[at as usize].member = Some(member);
        for waits in told {
            self.has_its_turn(waits, true);
        }
        Some(done)
    }

    /// Promises places that became free to those whose turn it is; `ended` is the
    /// node one of whose calls has just ended, and what that took.
    pub(super) fn serve_turns(&mut self, at: u32, ended: Option<(PeerId, u32)>) {
        let now = self.now;
        let member = self.nodes[at as usize].member.as_ref();
        if member.is_some_and(|member| ended.is_some() || !member.turns.is_empty()) {
            self.giving(at, |giving| turns::serve(giving, ended, now));
        }
    }

    /// Promises a node all that it wishes for and may have; whether that is
    /// anything.
    pub(super) fn promise(&mut self, at: u32, to: &PeerId, wish: &Wish<u32>) -> bool {
        let now = self.now;
        let promised = self.giving(at, |giving| turns::promise(giving, to, wish, now));
        promised.is_some_and(|promised| promised > 0)
    }

    /// Lets somebody wait for its turn at a node, so long; `false` when too many do.
    pub(super) fn wait_for_turn(
        &mut self,
        at: u32,
        who: PeerId,
        (wish, waits): (Wish<u32>, Waits),
        wait: Duration,
    ) -> bool {
        let now = self.now;
        let node = &mut self.nodes[at as usize];
        let life = node.life;
        let Some(member) = &mut node.member else {
            return false;
        };
        let Some(turn) = member.turns.wait(who, now) else {
            return false;
        };
        member.takers.insert(turn, (wish, waits));
        let event = Event::TurnOver {
            node: at,
            life,
            turn,
        };
        self.events.plan(now + wait.min(TURN_WAIT_MAX), event);
        // A place may have become free meanwhile.
        self.serve_turns(at, None);
        true
    }

    /// Somebody waited for its turn for as long as it may.
    pub(super) fn turn_over(&mut self, at: u32, life: u32, turn: Turn) {
        let now = self.now;
        let Some(member) = self.living(at, life).and_then(|node| node.member.as_mut()) else {
            return;
        };
        // Mostly it has had it since.
        if let Some((_, waits)) = member.takers.remove(&turn) {
            member.turns.leave(turn, now);
            self.has_its_turn(waits, false);
        }
    }

    fn has_its_turn(&mut self, waits: Waits, promised: bool) {
        match waits {
            Waits::Question(message) => self.answer_question(message, promised),
            Waits::Call(id) => {
                let call = self.calls.get(id);
                let Some(leg) = call
                    .map(|call| call.leg())
                    .filter(|leg| leg.stay == Stay::Turn)
                else {
                    return;
                };
                leg.stay = Stay::Under;
                self.guest_comes(id);
                self.decide(id);
            }
        }
    }

    /// A node dies: who asked it hears nothing.
    pub(super) fn forget_turns(&mut self, at: u32) {
        let Some(member) = &mut self.nodes[at as usize].member else {
            return;
        };
        for (_, waits) in std::mem::take(&mut member.takers).into_values() {
            if let Waits::Question(message) = waits {
                self.answer_question(message, false);
            }
        }
    }
}

#[cfg(test)]
mod tests;
