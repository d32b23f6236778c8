//! Calls that wait no longer: in a queue, by their policy's word, or for a peer's
//! answer.

use weir_federation_core::answers::{self, Back, Told};
use weir_federation_core::patience::patience;
use weir_federation_core::placement::{Arrival, Came, End, Placement};
use weir_node_core::time::Time;
use weir_node_core::words::Phase;

use super::calls::{Call, CallId, Ended, Leg, Stay};
use super::engine::Engine;
use super::events::Event;

/// What no node is in: who is there waits for nothing.
const NO_LIFE: u32 = u32::MAX;

impl Engine<'_> {
    /// A call waited in the queue for as long as its policy lets it.
    pub(super) fn waited_enough(&mut self, id: CallId) {
        let now = self.now;
        let Some(call) = self.calls.get(id) else {
            return;
        };
        let leg = call.leg();
        let (at, waits) = (leg.node, matches!(leg.stay, Stay::Queued { .. }));
        // It may wait anew, for longer.
        let Some(ticket) = leg.ticket.filter(|_| waits && leg.until <= now) else {
            return;
        };
        (leg.ticket, leg.until) = (None, Time::NEVER);
        let node = &mut self.nodes[at as usize];
        let back = node.scheduler.cancel(ticket, now, &mut node.actions);
        self.settle(at);
        // It may have been given a place at this very moment.
        if back.is_none() {
            return;
        }
        self.stays_no_more(id);
        self.came(id, Came::WaitedEnough);
    }

    /// Tells a placement what came of a step, and goes on with it.
    pub(super) fn came(&mut self, id: CallId, came: Came) {
        let now = self.now;
        match self.calls.at(id).leg().placement.came(came, now) {
            Some(end) => self.finish_leg(id, Ended::Without(end)),
            None => self.decide(id),
        }
    }

    /// Sees to it that a peer's answer is waited for no longer than it should be,
    /// where that may ever matter: else the peer says itself that it is late.
    pub(super) fn be_patient(&mut self, id: CallId, peer: u32, until: Time) {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let function = &world.functions[call.function as usize];
        let leg = call.leg();
        let at = leg.node;
        leg.is_impatient = until < leg.placement.arrival().deadline;
        leg.until = Time::NEVER;
        if !leg.is_impatient && !self.has_pauses {
            return;
        }
        let ways = world.way(at, peer).one_way + world.way(peer, at).one_way;
        let round_trip = std::time::Duration::from_nanos(ways as u64);
        leg.until = now + patience(until, function.timeout, round_trip, now);
        let moment = leg.until;
        self.events.plan(moment, Event::GaveUp { call: id });
    }

    /// A peer's answer to a call is waited for no longer. What is there goes on
    /// until that ends it, and nobody hears of it.
    pub(super) fn gave_up(&mut self, id: CallId) {
        let now = self.now;
        let Some(call) = self.calls.get(id) else {
            return;
        };
        let Some(place) = call.gives_up(now) else {
            return;
        };
        let leg = &mut call.legs[place];
        leg.until = Time::NEVER;
        let (at, life) = (leg.node, leg.life);
        let peer = call.legs[place + 1].node;
        if self.living(at, life).is_none() {
            return;
        }
        let id = self.part(id, place);
        let world = self.world;
        let call = self.calls.at(id);
        let leg = call.leg();
        let (is_impatient, serves) = (leg.is_impatient, leg.serves);
        let arrived = leg.placement.arrival().arrived;
        drop(leg.reserved.take());
        let id_of_peer = world.nodes[peer as usize].id;
        let told = Told::default();
        let lesson = answers::lesson(id_of_peer, Back::Nothing, &told, None, is_impatient);
        if let Some(member) = self.living(at, life).and_then(|node| node.member.as_mut()) {
            member.elsewhere = member.elsewhere.saturating_sub(serves);
            if let Some(met) = lesson.met {
                member.peers.met(id_of_peer, met, now);
                member.viewing.stale();
            }
        }
        let (phase, after) = (Phase::Run, now.since(arrived));
        let late = Ended::Without(End::Late { phase, after });
        self.attempted(id, Some(peer), late, lesson.came);
        match lesson.came {
            Some(came) => self.came(id, came),
            None => self.pass_on(id, late),
        }
    }

    /// Parts a call from what goes on beyond one of the nodes where it was; its
    /// number from now on. The other part keeps the number, for it is planned.
    fn part(&mut self, id: CallId, place: usize) -> CallId {
        let call = self.calls.at(id);
        let mut beyond = call.legs.split_off(place + 1);
        let stub = Arrival::clone(call.legs[place].placement.arrival());
        let stub = Leg::new(call.legs[place].node, NO_LIFE, Placement::new(stub));
        let mut legs = std::mem::take(&mut call.legs);
        beyond.insert(0, stub);
        call.legs = beyond;
        let awaited = Call {
            legs: std::mem::take(&mut legs),
            failing: std::mem::take(&mut call.failing),
            running: None,
            reply: None,
            is_orphan: call.is_orphan,
            ..*call
        };
        call.is_orphan = true;
        self.calls.add(awaited)
    }
}
