//! Calls that are placed: the steps of `weir_federation_core::placement`, done.

use std::time::Duration;

use weir_federation_core::answers;
use weir_federation_core::placement::{Came, End, Outlook, Step, Window};
use weir_federation_core::snapshot::{Local, Reserved, Snapshot};
use weir_node_core::scheduler::{self, Verdict};
use weir_node_core::words::Refusal;

use super::calls::{CallId, Ended, Guest, Stay};
use super::engine::Engine;
use super::events::Event;
use super::node::{Member, Node};
use super::shell;
use super::world::World;

/// What is to be done with a call.
enum Todo {
    Run,
    Wait {
        leaves: bool,
        turn: Option<Duration>,
    },
    /// To the place that was taken at a peer; `None` where there was none left.
    Go(Option<(u32, Reserved)>),
    Bring,
    Elsewhere(Duration),
    Again,
    End(End),
}

impl Engine<'_> {
    /// Decides about a call at the node where it is, until it waits for something.
    pub(super) fn decide(&mut self, id: CallId) {
        loop {
            let came = match self.look(id) {
                Todo::Run => match self.arrive(id, false) {
                    Verdict::Run(slot) => return self.begin(id, slot),
                    Verdict::Wait(_) => {
                        let at = self.node_of(id);
                        return self.settle(at);
                    }
                    Verdict::Refuse { .. } => Came::PlaceTaken,
                    Verdict::Unknown => return self.finish_leg(id, Ended::Without(End::Unknown)),
                },
                Todo::Wait { leaves, turn } => return self.wait_here(id, leaves, turn),
                Todo::Go(None) => Came::PlaceTaken,
                Todo::Go(Some((peer, reserved))) => return self.go(id, peer, reserved),
                Todo::Bring => return self.bring(id),
                Todo::Elsewhere(limit) => return self.wait_elsewhere(id, limit),
                Todo::Again => continue,
                Todo::End(end) => return self.finish_leg(id, Ended::Without(end)),
            };
            let now = self.now;
            if let Some(end) = self.calls.at(id).leg().placement.came(came, now) {
                return self.finish_leg(id, Ended::Without(end));
            }
        }
    }

    pub(super) fn node_of(&mut self, id: CallId) -> u32 {
        self.calls.at(id).node()
    }

    /// Hands a call to the scheduler of its node.
    fn arrive(&mut self, id: CallId, patient: bool) -> Verdict {
        let now = self.now;
        let call = self.calls.at(id);
        let node = &mut self.nodes[call.node() as usize];
        let Some(request) = Engine::request(self.world, call, node, patient) else {
            return Verdict::Unknown;
        };
        let seat = call.leg().seat.take().filter(|_| patient);
        let (scheduler, actions) = (&mut node.scheduler, &mut node.actions);
        match seat {
            Some(seat) => scheduler.come_back(&request, seat, || id, now, actions),
            None => scheduler.arrive(&request, || id, now, actions),
        }
    }

    /// Looks, decides, and takes the place where the call is to go.
    fn look(&mut self, id: CallId) -> Todo {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let at = call.node();
        let node = &mut self.nodes[at as usize];
        // A node alone decides nothing.
        let Some(mut member) = node.member.take() else {
            return Todo::Wait {
                leaves: false,
                turn: None,
            };
        };
        let request = Engine::request(world, call, node, true);
        let outlook = request.and_then(|request| node.scheduler.prospect(&request, now));
        let guest = call.legs.last().and_then(|leg| leg.guest);
        let from = call
            .legs
            .len()
            .checked_sub(2)
            .map(|from| call.legs[from].node);
        let closed = guest.zip(from).is_some_and(|(guest, from)| {
            let function = call.function;
            !has_guest_room(world, node, &mut member, (guest, from, function), now)
        });
        let todo = self.choose(id, at, &mut member, outlook, closed);
        self.nodes[at as usize].member = Some(member);
        todo
    }

    fn choose(
        &mut self,
        id: CallId,
        at: u32,
        member: &mut Member,
        outlook: Option<scheduler::Outlook>,
        closed: bool,
    ) -> Todo {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let function = &world.functions[call.function as usize];
        let leg = call.leg();
        let window: Window = leg.placement.window(
            outlook.map(|outlook| Outlook {
                prospect: outlook.prospect,
                wait: outlook.wait,
                works: true,
            }),
            closed,
            false,
            || false,
        );
        let known = |time: Duration| (!time.is_zero()).then_some(time);
        let service = outlook.and_then(|outlook| known(outlook.service.mean));
        let alone = leg.placement.is_alone(&window, false, false);
        let abilities = match alone {
            true => self.nothing.clone(),
            false => {
                member.refresh(world, at, now);
                member.abilities.of(&function.name)
            }
        };
        let class = world.class(at);
        let snapshot = Snapshot {
            local: Local {
                here: window.here,
                queue: window.queue,
                service,
                start: outlook.and_then(|outlook| known(outlook.start)),
                blamed: false,
                role: class.role.0,
                regions: &world.regions[world.nodes[at as usize].class],
            },
            view: &member.view,
            abilities: &abilities,
            congestion: None,
            remembered: member.remembered,
            now,
            chance: member.chance.number(),
        };
        let request = leg.placement.request(&function.name, &[], service);
        let away = || false;
        let decided = leg
            .placement
            .decide(&window, &request, &snapshot, away, &mut ());
        leg.placement.take(decided.step, now);
        match decided.step {
            Step::Run => Todo::Run,
            Step::Wait { leaves, .. } => Todo::Wait {
                leaves,
                turn: window.turn,
            },
            Step::Offer { to, .. } => {
                let id = member.view.peers[to].id;
                member.open(world, at, &id, now);
                let peer = &member.view.peers[to];
                let reserved = shell::seize(peer, &abilities, function, service, now);
                let to = world.number(&peer.id);
                if reserved.is_some() {
                    member.remembered = Some(peer.id);
                }
                Todo::Go(to.zip(reserved))
            }
            Step::Bring => Todo::Bring,
            Step::WaitElsewhere { limit } => Todo::Elsewhere(limit),
            Step::LookWider => Todo::Again,
            Step::End(end) => Todo::End(end),
        }
    }

    /// Lets a call wait in the queue of its node.
    fn wait_here(&mut self, id: CallId, leaves: bool, turn: Option<Duration>) {
        let at = self.node_of(id);
        let stay = Stay::Queued { leaves, turn };
        self.calls.at(id).leg().stay = stay;
        if let Some(member) = &mut self.nodes[at as usize].member
            && leaves
        {
            member.queued += 1;
        }
        match self.arrive(id, true) {
            Verdict::Run(slot) => self.begin(id, slot),
            Verdict::Wait(_) => {
                self.settle(at);
                self.changed(at);
                // It may have begun meanwhile.
                let waits = self
                    .calls
                    .get(id)
                    .is_some_and(|call| call.leg().stay == stay);
                if waits && leaves {
                    self.ask_around(id);
                }
            }
            Verdict::Refuse { reason, expected } => {
                self.stays_no_more(id);
                let end = End::Refused {
                    reason,
                    wait: expected,
                };
                self.finish_leg(id, Ended::Without(end));
            }
            Verdict::Unknown => {
                self.stays_no_more(id);
                self.finish_leg(id, Ended::Without(End::Unknown));
            }
        }
    }

    /// Lets a call wait for a place elsewhere.
    fn wait_elsewhere(&mut self, id: CallId, limit: Duration) {
        let at = self.node_of(id);
        let Some(member) = &mut self.nodes[at as usize].member else {
            return;
        };
        if member.outside.len() >= shell::OUTSIDE_MAX {
            let end = End::Refused {
                reason: Refusal::NobodyHasRoom,
                wait: Duration::ZERO,
            };
            return self.finish_leg(id, Ended::Without(end));
        }
        member.outside.push(id);
        self.calls.at(id).leg().stay = Stay::Elsewhere;
        let event = Event::Elsewhere { call: id };
        self.events.plan(self.now + limit, event);
        self.ask_around(id);
    }

    /// A call waited for a place elsewhere in vain.
    pub(super) fn nobody_elsewhere(&mut self, id: CallId) {
        let now = self.now;
        let Some(call) = self.calls.get(id) else {
            return;
        };
        if call.leg().stay != Stay::Elsewhere {
            return;
        }
        self.stays_no_more(id);
        match self
            .calls
            .at(id)
            .leg()
            .placement
            .came(Came::NobodyElsewhere, now)
        {
            Some(end) => self.finish_leg(id, Ended::Without(end)),
            None => self.decide(id),
        }
    }
}

/// Whether a call of a guest finds room now; it counts itself already.
fn has_guest_room(
    world: &World,
    node: &mut Node,
    member: &mut Member,
    (guest, from, function): (Guest, u32, u32),
    now: weir_node_core::time::Time,
) -> bool {
    let cost = guest.cost;
    let own = if guest.counts { cost.cpu } else { 0 };
    member.guest_cpu[usize::from(cost.long)] -= own;
    let who = world.nodes[from as usize].id;
    let load = shell::load(node, member, Some(&who), now);
    member.guest_cpu[usize::from(cost.long)] += own;
    let key = node.keys[function as usize];
    let places = key.and_then(|key| node.scheduler.admission().places(key));
    answers::guest_room(places, &load, cost) > 0
}
