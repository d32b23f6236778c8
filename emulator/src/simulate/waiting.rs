//! Calls that wait here and go to a place elsewhere.

use libp2p_identity::PeerId;
use weir_federation_core::explain::Verdict;
use weir_federation_core::placement::Came;
use weir_federation_core::policy::{self, Origin};
use weir_federation_core::snapshot::{Here, Local, Reserved, Snapshot};
use weir_node_core::time::Time;

use super::calls::{Call, CallId, Stay};
use super::engine::Engine;
use super::node::{Member, Node};
use super::shell;
use super::world::World;

impl Engine<'_> {
    /// Gives the places that a peer is known to have to calls that wait.
    pub(super) fn pump(&mut self, at: u32, peer: u32) {
        for _ in 0..shell::MOVED_MAX {
            let Some(member) = &self.nodes[at as usize].member else {
                return;
            };
            if member.queued == 0 && member.outside.is_empty() {
                return;
            }
            if !self.move_one(at, peer) {
                return;
            }
        }
    }

    /// Moves the call whose turn it is; whether there was one.
    fn move_one(&mut self, at: u32, peer: u32) -> bool {
        let (world, now) = (self.world, self.now);
        let node = &mut self.nodes[at as usize];
        let Some(mut member) = node.member.take() else {
            return false;
        };
        member.refresh(world, at, now);
        let calls = &mut self.calls;
        let mut reserved = None;
        let mut goes = |id: &CallId, member: &mut Member, node: Option<&Node>| {
            let Some(call) = calls.get(*id) else {
                return false;
            };
            reserved = goes_to(world, call, (at, peer), member, node, now);
            reserved.is_some()
        };
        let moved = match member.queued {
            0 => None,
            _ => node
                .scheduler
                .offer(now, |id| goes(id, &mut member, None), &mut node.actions),
        };
        let moved = match moved {
            Some((id, seat)) => Some((id, Some(seat))),
            None => {
                let outside = member.outside.clone();
                let found = outside.iter().find(|id| goes(id, &mut member, Some(node)));
                found.map(|id| (*id, None))
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

/// The place that a call which waits takes at a peer, if it may go there.
fn goes_to(
    world: &World,
    call: &mut Call,
    (at, peer): (u32, u32),
    member: &mut Member,
    node: Option<&Node>,
    now: Time,
) -> Option<Reserved> {
    let failing = std::mem::take(&mut call.failing);
    let reserved = goes_from(world, call, &failing, (at, peer), member, node, now);
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
    node: Option<&Node>,
    now: Time,
) -> Option<Reserved> {
    let function = &world.functions[call.function as usize];
    let number = call.function as usize;
    let leg = call.leg();
    let turn = match leg.stay {
        Stay::Queued { leaves: true, turn } => turn,
        Stay::Elsewhere => None,
        Stay::Queued { leaves: false, .. } | Stay::Under | Stay::Code | Stay::Turn => {
            return None;
        }
    };
    let id = world.nodes[peer as usize].id;
    let queued = leg.stay != Stay::Elsewhere;
    let reaches = leg.placement.reaches();
    let view = &member.view;
    let seen = view.peer(&id)?;
    let may = match view.is_neighbour(&id) {
        true => reaches.horizontal,
        false => reaches.vertical,
    };
    if !may {
        return None;
    }
    let key = node.and_then(|node| Some((node, node.keys[number]?)));
    let known = key.and_then(|(node, key)| node.scheduler.known(key));
    let service = known.map(|known| known.service().mean);
    let service = service.filter(|mean| !mean.is_zero());
    let abilities = member.abilities.of(&function.name);
    let request = policy::Request {
        origin: Origin::Here,
        ..leg.placement.request(&function.name, failing, service)
    };
    let waiting = member.queued;
    let snapshot = Snapshot {
        local: Local {
            here: if queued { Here::Full } else { Here::Unable },
            queue: turn.map(|turn| turn.saturating_mul(waiting)),
            service,
            start: None,
            blamed: false,
            role: world.class(at).role.0,
            regions: &world.regions[world.nodes[at as usize].class],
        },
        view,
        abilities: &abilities,
        congestion: None,
        remembered: None,
        now,
        chance: 0,
    };
    match policy::weigh(seen, &request, &snapshot) {
        Verdict::Fits { .. } => {
            member.open(world, at, &id, now);
            let seen = member.view.peer(&id)?;
            shell::seize(seen, &abilities, function, service, now)
        }
        _ => None,
    }
}
