//! Calls that wait here and go to a place elsewhere.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::placement::Came;
use weir_federation_core::policy::{self, Origin};
use weir_federation_core::snapshot::{Here, Local, Reserved, Snapshot};
use weir_federation_core::waiting::{self, Line};
use weir_node_core::time::Time;

use super::calls::{Call, CallId, Stay};
use super::engine::Engine;
use super::node::Member;
use super::shell;
use super::world::World;

impl Engine<'_> {
    /// Gives the places that a peer is known to have to calls that wait.
    pub(super) fn pump(&mut self, at: u32, peer: u32) {
        let mut moves = waiting::Moves::default();
        loop {
            let Some(member) = &self.nodes[at as usize].member else {
                return;
            };
            let queued = member.waiters.queued();
            let Some(line) = moves.next(queued, member.waiters.len() - queued) else {
                return;
            };
            moves.came(self.move_one(at, peer, line));
        }
    }

    /// Moves the call whose turn it is there; whether there was one.
    fn move_one(&mut self, at: u32, peer: u32, line: Line) -> bool {
        let (world, now) = (self.world, self.now);
        let node = &mut self.nodes[at as usize];
        let Some(mut member) = node.member.take() else {
            return false;
        };
        member.refresh(world, at, now);
        let functions = member.waiters.functions();
        let services: Vec<_> = functions.map(|f| (*f, node.service(*f))).collect();
        let calls = &mut self.calls;
        let mut reserved = None;
        let mut goes = |id: &CallId, member: &mut Member| {
            let Some(call) = calls.get(*id) else {
                return false;
            };
            let service = services.iter().find(|(f, _)| *f == call.function);
            let service = service.and_then(|(_, service)| *service);
            reserved = goes_to(world, call, (at, peer), member, service, now);
            reserved.is_some()
        };
        let moved = match line {
            Line::Queue => {
                let goes = |id: &CallId| goes(id, &mut member);
                let left = node.scheduler.offer(now, goes, &mut node.actions);
                left.map(|(id, seat)| (id, Some(seat)))
            }
            Line::Outside => {
                let outside: Vec<CallId> = member.waiters.outside().copied().collect();
                let found = outside.into_iter().find(|id| goes(id, &mut member));
                found.map(|id| (id, None))
            }
        };
        node.member = Some(member);
        let (Some((id, seat)), Some(reserved)) = (moved, reserved) else {
            return false;
        };
        self.stays_no_more(id);
        let leg = self.calls.at(id).leg();
        (leg.seat, leg.ticket, leg.until) = (seat, None, Time::NEVER);
        if seat.is_some() {
            // It never ends a call.
            let _ = leg.placement.came(Came::LeftQueue, now);
        }
        leg.placement.moves();
        self.go(id, peer, reserved, None);
        self.settle(at);
        true
    }
}

/// The place that a call which waits takes at a peer, if it may go there; `service`
/// is how long its function runs here.
fn goes_to(
    world: &World,
    call: &mut Call,
    (at, peer): (u32, u32),
    member: &mut Member,
    service: Option<Duration>,
    now: Time,
) -> Option<Reserved> {
    let failing = std::mem::take(&mut call.failing);
    let reserved = goes_from(world, call, &failing, (at, peer), member, service, now);
    call.failing = failing;
    reserved
}

/// The same, of one whose function fails at some peers.
fn goes_from(
    world: &World,
    call: &mut Call,
    failing: &[PeerId],
    (at, peer): (u32, u32),
    member: &mut Member,
    service: Option<Duration>,
    now: Time,
) -> Option<Reserved> {
    let function = &world.functions[call.function as usize];
    let leg = call.leg();
    let (queued, turn) = match leg.stay {
        Stay::Queued {
            leaves: Some(_),
            turn,
        } => (true, turn),
        Stay::Elsewhere(_) => (false, None),
        Stay::Queued { leaves: None, .. } | Stay::Under | Stay::Code | Stay::Turn => {
            return None;
        }
    };
    let id = world.nodes[peer as usize].id;
    let abilities = member.abilities.of(&function.name);
    let request = policy::Request {
        origin: Origin::Here,
        ..leg.placement.request(&function.name, failing, service)
    };
    let local = local(world, at, service);
    let snapshot = Snapshot {
        local: waiting::local(local, queued, turn, member.waiters.len()),
        view: &member.view,
        abilities: &abilities,
        congestion: None,
        remembered: None,
        now,
        chance: 0,
    };
    let seen = snapshot.view.peer(&id)?;
    if !waiting::may_go(seen, &request, leg.placement.reaches(), &snapshot) {
        return None;
    }
    member.open(world, at, &id, now);
    let seen = member.view.peer(&id)?;
    shell::seize(seen, &abilities, function, service, now)
}

/// A node as decisions see it about calls that wait there.
pub(super) fn local(world: &World, at: u32, service: Option<Duration>) -> Local<'_> {
    Local {
        here: Here::Unable,
        queue: None,
        service,
        start: None,
        blamed: false,
        role: world.class(at).role.0,
        regions: &world.regions[world.nodes[at as usize].class],
    }
}
