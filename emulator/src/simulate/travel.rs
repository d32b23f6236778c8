//! Calls, answers and code on their way between nodes.

use std::time::Duration;

use weir_federation_core::answers;
use weir_federation_core::patience::wait_there;
use weir_federation_core::placement::{Arrival, Came, End, HOPS_MAX, Placement};
use weir_federation_core::policy::{Origin, Reach};
use weir_federation_core::report::Role;
use weir_federation_core::snapshot::{Cost, Reserved};
use weir_federation_core::turns::Wish;
use weir_federation_core::waiting;
use weir_federation_core::wanted::bring_time;
use weir_node_core::time::Time;
use weir_node_core::words::Refusal;

use super::calls::{CallId, Ended, Guest, Leg, Reply, Stay, Told};
use super::engine::Engine;
use super::events::Event;
use super::placing::has_guest_room;
use super::shell::{self, Said, Why};
use super::turns::Waits;

impl Engine<'_> {
    /// Sends a call to a peer, as far on from there and for as long as its policy
    /// says; the call itself where that says nothing.
    pub(super) fn go(
        &mut self,
        id: CallId,
        peer: u32,
        reserved: Reserved,
        onward: Option<(u8, Time)>,
    ) {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let (input_bytes, class, function) = (call.input_bytes, call.class, call.function);
        let leg = call.leg();
        let from = leg.node;
        let here = self.nodes[from as usize].service(function);
        let serves = waiting::serves(here, reserved.service());
        (leg.reserved, leg.serves) = (Some(reserved), serves);
        let (sender, receiver) = (world.class(from), world.class(peer));
        let (origin, reach) = match receiver.role.0 {
            Role::Edge => (Origin::Neighbour, Reach::Horizontal),
            Role::Cloud => {
                let inside = sender.role.0 == Role::Cloud && sender.region == receiver.region;
                (Origin::Region { inside }, Reach::Vertical)
            }
        };
        leg.placement
            .goes(world.nodes[peer as usize].id, reach, now);
        let before = leg.placement.arrival();
        let (hops, until) = onward.unwrap_or((before.hops.saturating_sub(1), before.deadline));
        let mut visited = Vec::with_capacity(before.visited.len() + 1);
        visited.extend_from_slice(&before.visited);
        visited.push(world.nodes[from as usize].id);
        let (wanted, class_key) = (before.wanted.clone(), before.class);
        self.guest_leaves(id);
        let life = self.nodes[peer as usize].life;
        let takes = self.travel(from, peer, input_bytes);
        // What is left of its time travels in whole milliseconds.
        let left = Duration::from_millis(until.since(now).as_millis() as u64);
        let arrival = Arrival {
            origin,
            visited,
            hops: hops.min(HOPS_MAX.saturating_sub(1)),
            arrived: now + takes,
            deadline: match until {
                Time::NEVER => Time::NEVER,
                _ => now + takes + left,
            },
            known: true,
            wanted,
            fits_here: true,
            class: class_key,
            policy: self.policy(peer, function, class),
        };
        self.be_patient(id, peer, until);
        let leg = Leg::new(peer, life, Placement::new(arrival));
        self.calls.at(id).legs.push(leg);
        if let Some(member) = &mut self.nodes[from as usize].member {
            member.elsewhere += serves;
        }
        self.tally.count_offload(from, peer, now, input_bytes);
        self.events.plan(now + takes, Event::Reach { call: id });
    }

    /// A call reaches a peer.
    pub(super) fn reach(&mut self, id: CallId) {
        let (world, now) = (self.world, self.now);
        let Some(call) = self.calls.get(id) else {
            return;
        };
        let (at, function) = (call.node(), call.function);
        let from = call.legs[call.legs.len().saturating_sub(2)].node;
        if !self.nodes[at as usize].is_alive || self.troubles.is_cut(from, at) {
            return self.reply(id, Ended::Unreachable, None);
        }
        let node = &mut self.nodes[at as usize];
        let life = node.life;
        let key = node.keys[function as usize];
        let service = node.service(function);
        let cost = world.functions[function as usize].wanted.cost(service);
        if let Some(member) = &mut node.member {
            member.guest_cpu[usize::from(cost.long)] += cost.cpu;
            let who = world.nodes[from as usize].id;
            member.turns.begins(&who, cost.cpu, now);
            *member.held.entry((from, function)).or_default() += 1;
        }
        let call = self.calls.at(id);
        if call.leg().life != life {
            // It was sent to one who died since.
            let class = call.class;
            let policy = self.policy(at, function, class);
            let leg = self.calls.at(id).leg();
            let arrival = Arrival::clone(leg.placement.arrival());
            leg.placement = Placement::new(Arrival { policy, ..arrival });
        }
        let leg = self.calls.at(id).leg();
        leg.life = life;
        leg.guest = Some(Guest { cost, counts: true });
        if let Some(member) = &self.nodes[at as usize].member {
            leg.placement.counts_beside(member.beside.clone());
        }
        match key {
            Some(_) => self.receive(id, from, cost),
            None => {
                let ready_in = self.bring_for_guest(at, function);
                self.end_guest(id);
                self.reply(
                    id,
                    Ended::Without(End::Nowhere),
                    Some((Why::Bringing, ready_in)),
                );
            }
        }
    }

    /// A call of another node is decided about, once it has its turn where it was
    /// sent ahead of a place.
    fn receive(&mut self, id: CallId, from: u32, cost: Cost) {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let (at, function) = (call.node(), call.function);
        let before = call.legs.len().saturating_sub(2);
        let reserved = call.legs[before].reserved.as_ref();
        let is_ahead = reserved.is_some_and(Reserved::is_ahead);
        let node = &mut self.nodes[at as usize];
        let has_room = match (is_ahead, node.member.take()) {
            (true, Some(mut member)) => {
                let counts = true;
                let guest = (Guest { cost, counts }, from, function);
                let has_room = has_guest_room(world, node, &mut member, guest, now);
                node.member = Some(member);
                has_room
            }
            (_, member) => {
                node.member = member;
                true
            }
        };
        if has_room {
            return self.decide(id);
        }
        // What waits takes nothing yet: it would keep others, and itself, out.
        self.guest_leaves(id);
        self.calls.at(id).leg().stay = Stay::Turn;
        let wish = Wish {
            function,
            cost,
            most: 1,
        };
        let ways = world.way(from, at).one_way + world.way(at, from).one_way;
        let wait = wait_there(false, true, Duration::from_nanos(ways as u64));
        let who = world.nodes[from as usize].id;
        if !self.wait_for_turn(at, who, (wish, Waits::Call(id)), wait) {
            self.calls.at(id).leg().stay = Stay::Under;
            self.guest_comes(id);
            self.decide(id);
        }
    }

    /// A guest's call takes a place, which may have been promised.
    pub(super) fn guest_comes(&mut self, id: CallId) {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let from = call.legs[call.legs.len().saturating_sub(2)].node;
        let leg = call.leg();
        let (at, life) = (leg.node, leg.life);
        let Some(guest) = leg.guest.as_mut().filter(|guest| !guest.counts) else {
            return;
        };
        guest.counts = true;
        let cost = guest.cost;
        if let Some(member) = self.living(at, life).and_then(|node| node.member.as_mut()) {
            member.guest_cpu[usize::from(cost.long)] += cost.cpu;
            let who = world.nodes[from as usize].id;
            member.turns.begins(&who, cost.cpu, now);
        }
    }

    /// A guest's call takes nothing of its node any more.
    fn guest_leaves(&mut self, id: CallId) {
        let world = self.world;
        let call = self.calls.at(id);
        let Some(from) = call
            .legs
            .len()
            .checked_sub(2)
            .map(|from| call.legs[from].node)
        else {
            return;
        };
        let leg = call.leg();
        let (at, life) = (leg.node, leg.life);
        let Some(guest) = leg.guest.as_mut().filter(|guest| guest.counts) else {
            return;
        };
        guest.counts = false;
        let cost = guest.cost;
        if let Some(member) = self.living(at, life).and_then(|node| node.member.as_mut()) {
            let counted = &mut member.guest_cpu[usize::from(cost.long)];
            *counted = counted.saturating_sub(cost.cpu);
            let who = world.nodes[from as usize].id;
            member.turns.ends(&who, cost.cpu);
        }
    }

    /// A guest's call is over.
    fn end_guest(&mut self, id: CallId) {
        self.guest_leaves(id);
        let call = self.calls.at(id);
        let function = call.function;
        let Some(from) = call
            .legs
            .len()
            .checked_sub(2)
            .map(|from| call.legs[from].node)
        else {
            return;
        };
        let leg = call.leg();
        let (at, life) = (leg.node, leg.life);
        let guest = leg.guest;
        if let Some(guest) = guest
            && let Some(member) = self.living(at, life).and_then(|node| node.member.as_mut())
            && let Some(held) = member.held.get_mut(&(from, function))
        {
            *held -= 1;
            if *held == 0 {
                member.held.remove(&(from, function));
            }
            let who = self.world.nodes[from as usize].id;
            self.serve_turns(at, Some((who, guest.cost.cpu)));
        }
    }

    /// A call has ended at the node where it is.
    pub(super) fn finish_leg(&mut self, id: CallId, ended: Ended) {
        self.attempted(id, None, ended, None);
        self.pass_on(id, ended);
    }

    /// The user of a call hears how it ended, or the node that sent it.
    pub(super) fn pass_on(&mut self, id: CallId, ended: Ended) {
        match self.calls.at(id).legs.len() {
            0 | 1 => self.is_over(id, ended),
            _ => {
                self.end_guest(id);
                let why = self.why(id, ended);
                self.reply(id, ended, why.map(|why| (why, Duration::ZERO)));
            }
        }
    }

    /// Why a call was not run, as its sender hears it.
    fn why(&mut self, id: CallId, ended: Ended) -> Option<Why> {
        let end = match ended {
            Ended::Without(end @ (End::Refused { .. } | End::Nowhere | End::Unknown)) => end,
            Ended::Waited => End::Refused {
                reason: Refusal::WaitedTooLong,
                wait: Duration::ZERO,
            },
            Ended::Without(End::Late { .. } | End::Lost)
            | Ended::Answered { .. }
            | Ended::TimedOut
            | Ended::NotStarted
            | Ended::Gone
            | Ended::Unreachable => return None,
        };
        let call = self.calls.at(id);
        let (at, function) = (call.node(), call.function);
        let cost = call.leg().guest.map(|guest| guest.cost)?;
        Some(shell::why(&self.nodes[at as usize], function, end, cost))
    }

    /// Sends the answer to the last leg of a call back to the one before.
    pub(super) fn reply(&mut self, id: CallId, ended: Ended, why: Option<(Why, Duration)>) {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let last = call.legs.len().saturating_sub(1);
        let (at, from) = (call.legs[last].node, call.legs[last.saturating_sub(1)].node);
        let (function, life) = (call.function, call.legs[last].life);
        let cost = call.legs[last].guest.map(|guest| guest.cost);
        let class = call.legs[last].placement.arrival().class;
        let bytes = match ended {
            Ended::Answered { .. } => call.answer_bytes,
            _ => 0,
        };
        let mut told = None;
        if let Some(cost) = cost
            && let Some(node) = self.living(at, life)
            && let Some(mut member) = node.member.take()
        {
            let who = world.nodes[from as usize].id;
            let load = shell::load(node, &mut member, Some(&who), now);
            let key = node.keys[function as usize];
            let places = key.and_then(|key| node.scheduler.admission().places(key));
            let places = places.map(|places| answers::guest_room(Some(places), &load, cost));
            told = Some(Told {
                load,
                places,
                held: member.held_of(from, function),
                ready_in: why.map_or(Duration::ZERO, |(_, ready_in)| ready_in),
                level: member.beside.tells(class, places.unwrap_or(0)),
            });
            node.member = Some(member);
        }
        let ended = match self.troubles.is_cut(at, from) && ended != Ended::Unreachable {
            true => Ended::Gone,
            false => ended,
        };
        let why = why.map(|(why, _)| why);
        self.calls.at(id).reply = Some(Reply { ended, why, told });
        let takes = self.travel(at, from, bytes);
        self.tally.count_bytes(bytes, now);
        self.events.plan(now + takes, Event::Back { call: id });
    }

    /// The answer of a peer is back.
    pub(super) fn back(&mut self, id: CallId) {
        let (world, now) = (self.world, self.now);
        let Some(call) = self.calls.get(id) else {
            return;
        };
        let (Some(reply), Some(gone)) = (call.reply.take(), call.legs.pop()) else {
            return;
        };
        let (function, before) = (&world.functions[call.function as usize], call.legs.len());
        let leg = call.leg();
        let (at, life, serves) = (leg.node, leg.life, leg.serves);
        let reserved = leg.reserved.take();
        let is_impatient = leg.is_impatient;
        let class = leg.placement.arrival().class;
        leg.until = Time::NEVER;
        let Some(node) = self.living(at, life) else {
            // Who sent it is dead: so is the call, save for who sent it there.
            drop(reserved);
            return match before {
                0 | 1 => self.is_over(id, Ended::Gone),
                _ => self.reply(id, Ended::Gone, None),
            };
        };
        let Some(mut member) = node.member.take() else {
            return;
        };
        member.elsewhere = member.elsewhere.saturating_sub(serves);
        let cpu = function.wanted.cost(None).cpu;
        let held = reply.told.as_ref().map_or(0, |told| told.held);
        let said = Said {
            peer: world.nodes[gone.node as usize].id,
            function,
            class,
            told: reply.told.as_ref(),
            why: reply.why,
            under_way: reserved
                .as_ref()
                .map_or(0, |reserved| reserved.under_way(held, cpu)),
        };
        let lesson = shell::learn(&mut member, &said, reply.ended, is_impatient, now);
        if let Some(reserved) = reserved {
            match lesson.gives_back {
                true => reserved.give_back(),
                false => drop(reserved),
            }
        }
        self.nodes[at as usize].member = Some(member);
        self.attempted(id, Some(gone.node), reply.ended, lesson.came);
        self.pump(at, gone.node);
        match lesson.came {
            None => self.pass_on(id, reply.ended),
            Some(came) => self.came(id, came),
        }
    }

    /// Has the code of a function brought, and the call wait for it.
    pub(super) fn bring(&mut self, id: CallId) {
        let now = self.now;
        let call = self.calls.at(id);
        let (at, function) = (call.node(), call.function);
        let leg = call.leg();
        (leg.stay, leg.began_fetching) = (Stay::Code, now);
        self.start_bringing(at, function);
        self.bringing.entry((at, function)).or_default().push(id);
    }

    /// Has it brought for other nodes' users; how long that is expected to take.
    pub(super) fn bring_for_guest(&mut self, at: u32, function: u32) -> Duration {
        let bytes = self.world.functions[function as usize].code_bytes;
        self.start_bringing(at, function);
        bring_time(bytes)
    }

    fn start_bringing(&mut self, at: u32, function: u32) {
        let world = self.world;
        if self.bringing.contains_key(&(at, function)) {
            return;
        }
        let has = |node: &u32| {
            let node = &self.nodes[*node as usize];
            node.is_alive && node.keys[function as usize].is_some()
        };
        let all = 0..self.nodes.len() as u32;
        let near = |node: &u32| world.way(at, *node).one_way.to_bits();
        let holder = all.filter(has).min_by_key(near);
        let bytes = world.functions[function as usize].code_bytes;
        let takes = match holder {
            Some(holder) => self
                .travel(at, holder, 0)
                .saturating_add(self.travel(holder, at, bytes)),
            None => bring_time(0),
        };
        self.tally.count_code(bytes, self.now);
        self.bringing.insert((at, function), Vec::new());
        let life = self.nodes[at as usize].life;
        let event = Event::Brought {
            node: at,
            life,
            function,
        };
        self.events.plan(self.now + takes, event);
    }

    /// Code has come.
    pub(super) fn brought(&mut self, at: u32, life: u32, function: u32) {
        let (world, now) = (self.world, self.now);
        let waiting = self.bringing.remove(&(at, function)).unwrap_or_default();
        let Some(node) = self.living(at, life) else {
            return;
        };
        if node.keys[function as usize].is_none() {
            node.deploy(world, function, now);
        }
        self.settle(at);
        self.changed(at);
        for id in waiting {
            let Some(call) = self.calls.get(id) else {
                continue;
            };
            let leg = call.leg();
            leg.stay = Stay::Under;
            leg.fetched = now.since(leg.began_fetching);
            self.came(id, Came::Brought);
        }
    }

    /// How long so many bytes are on their way.
    pub(super) fn travel(&mut self, from: u32, to: u32, bytes: u64) -> Duration {
        let way = self.world.way(from, to);
        let mut time = way.one_way * self.troubles.slowness(from, to) + way.per_byte * bytes as f64;
        if way.jitter > 0.0 {
            time += way.jitter * self.network.normal();
        }
        Duration::from_nanos(time.max(0.0) as u64)
    }
}
