//! Calls that are placed: the steps of `weir_federation_core::placement`, done.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::answers;
use weir_federation_core::placement::{Came, End, Outlook, Step, Window};
use weir_federation_core::policy::{Class, More};
use weir_federation_core::snapshot::{Local, Reserved, Snapshot};
use weir_federation_core::waiting;
use weir_federation_core::wanted::bring_time;
use weir_node_core::scheduler::{self, Verdict};
use weir_node_core::time::Time;
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
        until: Time,
        turn: Option<Duration>,
    },
    /// To the place that was taken at a peer, how far on from there, and until
    /// when; `None` where there was none left.
    Go(Option<(u32, Reserved, (u8, Time))>),
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
                Todo::Wait {
                    leaves,
                    until,
                    turn,
                } => return self.wait_here(id, (leaves, until), turn),
                Todo::Go(None) => Came::PlaceTaken,
                Todo::Go(Some((peer, reserved, onward))) => {
                    return self.go(id, peer, reserved, Some(onward));
                }
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
                until: Time::NEVER,
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
        let (todo, asks) = self.choose(id, at, &mut member, outlook, closed);
        self.nodes[at as usize].member = Some(member);
        if let Some((peer, function)) = asks {
            self.question(at, peer, function);
        }
        todo
    }

    /// What is to be done with a call, and who is to be asked about which function.
    fn choose(
        &mut self,
        id: CallId,
        at: u32,
        member: &mut Member,
        outlook: Option<scheduler::Outlook>,
        closed: bool,
    ) -> (Todo, Option<(u32, u32)>) {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let number = call.function;
        let function = &world.functions[call.function as usize];
        let (qos, names_class) = (&world.qos[call.class as usize], call.names_class);
        let input_bytes = call.input_bytes;
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
        let (evidence, own) = (&mut member.evidence, leg.placement.is_own());
        let failing = match own && !evidence.is_empty() {
            true => evidence.failing(&function.name, now),
            false => Vec::new(),
        };
        let blamed = failing.contains(&None);
        let failing: Vec<PeerId> = failing.into_iter().flatten().collect();
        let alone = leg.placement.is_alone(&window, blamed, false);
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
                blamed,
                role: class.role.0,
                regions: &world.regions[world.nodes[at as usize].class],
            },
            view: &member.view,
            abilities: &abilities,
            congestion: member.congestion.as_deref(),
            remembered: member.remembered,
            now,
            chance: member.chance.number(),
        };
        let mut request = leg.placement.request(&function.name, &failing, service);
        request.more = More {
            class: Class {
                name: names_class.then_some(&*qos.name),
                key: leg.placement.arrival().class,
                deadline: qos.deadline,
            },
            body_bytes: Some(input_bytes),
            fetch: (!window.deployed).then(|| bring_time(function.code_bytes)),
            ..request.more
        };
        let away = || false;
        let decided = leg
            .placement
            .decide(&window, &request, &snapshot, away, &mut ());
        leg.placement.take(decided.step, now);
        self.tally.count_held(decided.held, now);
        let asks = decided.asks.and_then(|place| {
            let peer = world.number(&member.view.peers[place].id)?;
            let brings = member.abilities.brings(&function.name, now);
            let asked = member.questions.ask(&number, [(peer, true)], brings, now);
            Some((*asked.first()?, number))
        });
        let todo = match decided.step {
            Step::Run => Todo::Run,
            Step::Wait { leaves, until } => Todo::Wait {
                leaves,
                until,
                turn: window.turn,
            },
            Step::Offer {
                to, hops, until, ..
            } => {
                let id = member.view.peers[to].id;
                member.open(world, at, &id, now);
                let peer = &member.view.peers[to];
                let reserved = shell::seize(peer, &abilities, function, service, now);
                let to = world.number(&peer.id);
                if reserved.is_some() {
                    member.remembered = Some(peer.id);
                }
                let to = to.zip(reserved);
                Todo::Go(to.map(|(to, reserved)| (to, reserved, (hops, until))))
            }
            Step::Bring => Todo::Bring,
            Step::WaitElsewhere { limit } => Todo::Elsewhere(limit),
            Step::LookWider => Todo::Again,
            Step::End(end) => Todo::End(end),
        };
        (todo, asks)
    }

    /// Lets a call wait in the queue of its node; whether it may leave that, and
    /// until when it waits.
    fn wait_here(&mut self, id: CallId, (leaves, until): (bool, Time), turn: Option<Duration>) {
        let at = self.node_of(id);
        let call = self.calls.at(id);
        let node = &mut self.nodes[at as usize];
        let mut number = None;
        if let Some(member) = &mut node.member {
            node.served_elsewhere = waiting::places(member.elsewhere);
            if leaves {
                number = member.waiters.enter(&call.function, true, id);
            }
        }
        let leaves = number;
        let stay = Stay::Queued { leaves, turn };
        self.note_failing(id, leaves.is_some());
        let leg = self.calls.at(id).leg();
        // Its deadline ends its wait by itself.
        let is_bounded = until < leg.placement.arrival().deadline;
        leg.until = if is_bounded { until } else { Time::NEVER };
        leg.stay = stay;
        match self.arrive(id, true) {
            Verdict::Run(slot) => self.begin(id, slot),
            Verdict::Wait(ticket) => {
                if is_bounded {
                    self.calls.at(id).leg().ticket = Some(ticket);
                    self.events.plan(until, Event::Enough { call: id });
                }
                self.settle(at);
                self.changed(at);
                // It may have begun meanwhile.
                let waits = self
                    .calls
                    .get(id)
                    .is_some_and(|call| call.leg().stay == stay);
                if waits && leaves.is_some() {
                    self.ask_around(at);
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

    /// Takes note of where the function of a call fails that may leave.
    fn note_failing(&mut self, id: CallId, leaves: bool) {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let at = call.node();
        call.failing.clear();
        if let Some(member) = &mut self.nodes[at as usize].member
            && leaves
            && !member.evidence.is_empty()
        {
            let name = &world.functions[call.function as usize].name;
            let failing = member.evidence.failing(name, now);
            call.failing = failing.into_iter().flatten().collect();
        }
    }

    /// Lets a call wait for a place elsewhere.
    fn wait_elsewhere(&mut self, id: CallId, limit: Duration) {
        let at = self.node_of(id);
        let Some(member) = &mut self.nodes[at as usize].member else {
            return;
        };
        let call = self.calls.at(id);
        let Some(number) = member.waiters.enter(&call.function, false, id) else {
            let end = End::Refused {
                reason: Refusal::NobodyHasRoom,
                wait: Duration::ZERO,
            };
            return self.finish_leg(id, Ended::Without(end));
        };
        self.note_failing(id, true);
        self.calls.at(id).leg().stay = Stay::Elsewhere(number);
        let event = Event::Elsewhere { call: id };
        self.events.plan(self.now + limit, event);
        self.ask_around(at);
    }

    /// A call waited for a place elsewhere in vain.
    pub(super) fn nobody_elsewhere(&mut self, id: CallId) {
        let Some(call) = self.calls.get(id) else {
            return;
        };
        if !matches!(call.leg().stay, Stay::Elsewhere(_)) {
            return;
        }
        self.stays_no_more(id);
        self.came(id, Came::NobodyElsewhere);
    }
}

/// Whether a call of a guest finds room now; it counts itself already.
pub(super) fn has_guest_room(
    world: &World,
    node: &mut Node,
    member: &mut Member,
    (guest, from, function): (Guest, u32, u32),
    now: Time,
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
