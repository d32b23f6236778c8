//! What nodes tell and ask each other beside calls.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::answers;
use weir_federation_core::facts::Facts;
use weir_federation_core::peers::Viewing;
use weir_federation_core::placement::End;
use weir_federation_core::policy::ClassKey;
use weir_federation_core::questions::{self, PLACES_ASKED_FOR, QUESTION_INTERVAL, QUESTION_WAIT};
use weir_federation_core::reporting::{LOOK_INTERVAL_MAX, Say};
use weir_federation_core::snapshot::Snapshot;
use weir_federation_core::turns::Wish;
use weir_node_core::time::Time;
use weir_node_core::words::Refusal;

use super::calls::{Call, Told};
use super::engine::Engine;
use super::events::Event;
use super::node::Member;
use super::shell::{self, Said, Why};
use super::turns::Waits;
use super::waiting;
use super::world::{World, small};

/// Bytes of a report on its way, beside its offers; as measured of production.
const REPORT_BYTES: u64 = 400;

/// Bytes of an offer in a report.
const OFFER_BYTES: u64 = 60;

/// A question for places, and its answer.
pub(super) struct Question {
    from: u32,
    life: u32,
    to: u32,
    function: u32,
    told: Option<(Told, Option<Why>)>,
}

impl Member {
    /// Makes the view new, where the table has changed since and it is time.
    pub(super) fn refresh(&mut self, world: &World, at: u32, now: Time) {
        if !self.viewing.is_due(now) {
            return;
        }
        let own = self.report.get_or_insert_with(|| shell::empty(world, at));
        self.peers.look_again(&mut self.view, own, now);
    }

    /// Sees to it that calls to a peer are counted from the first one on.
    pub(super) fn open(&mut self, world: &World, at: u32, peer: &PeerId, now: Time) {
        let seen = self.view.peer(peer);
        if seen.is_none_or(|seen| seen.window().is_some()) {
            return;
        }
        let own = self.report.get_or_insert_with(|| shell::empty(world, at));
        self.peers.open(peer, &mut self.view, own, now);
    }
}

/// How many peers a node knows.
fn known(world: &World, at: u32) -> usize {
    world.known(world.nodes[at as usize].class)
}

/// Whether a node is to know another: those after it, around the circle.
pub(super) fn knows(world: &World, at: u32, other: u32) -> bool {
    let count = world.nodes.len();
    let ahead = (other as usize + count - at as usize) % count;
    (1..=known(world, at)).contains(&ahead)
}

/// Nodes that may know another, in their order: no others need be looked at.
fn listeners(world: &World, other: u32) -> impl Iterator<Item = u32> + use<> {
    let count = small(world.nodes.len() as u64);
    let behind = small(world.most_known as u64);
    let begin = other.saturating_sub(behind);
    // What is behind the first node is at the end.
    let last = count.saturating_sub(behind.saturating_sub(other));
    (begin..other).chain(last.max(other)..count)
}

impl Engine<'_> {
    /// All nodes hear of each other, before the first call.
    pub(super) fn introduce_all(&mut self) {
        if self.nodes.len() < 2 {
            return;
        }
        for at in 0..self.nodes.len() {
            self.say(small(at as u64));
        }
        for at in 0..self.nodes.len() {
            self.hear_all(small(at as u64));
            self.plan_look(small(at as u64));
        }
        for at in 0..self.nodes.len() {
            self.tick_all(small(at as u64));
        }
    }

    /// A node hears what all others said last, as when it joins: those after it,
    /// around the circle, as many as it may know.
    pub(super) fn hear_all(&mut self, at: u32) {
        let (world, now, count) = (self.world, self.now, self.nodes.len());
        let known = known(world, at);
        let Some(member) = &mut self.nodes[at as usize].member else {
            return;
        };
        // In the order of ids, in which a table is filled quickest.
        let everybody = known + 1 == count;
        let ahead = 1..if everybody { 1 } else { known + 1 };
        let ahead = ahead.map(|ahead| (at as usize + ahead) % count);
        let mut ranks: Vec<u32> = ahead.map(|other| world.ranks[other]).collect();
        ranks.sort_unstable();
        let some = ranks.iter().map(|rank| &world.by_id[*rank as usize]);
        let all = world.by_id.iter().filter(|_| everybody);
        member.peers.reserve(known);
        for &other in all.chain(some).filter(|other| **other != at) {
            let Some([whole, short]) = &self.said[other as usize] else {
                continue;
            };
            let facts = match world.are_near(at, other) {
                true => whole,
                false => short,
            };
            member.peers.hear_shared(facts, now);
            let there = Duration::from_nanos(world.way(at, other).one_way as u64);
            let back = Duration::from_nanos(world.way(other, at).one_way as u64);
            member.peers.measured(&facts.id, there.saturating_add(back));
        }
        member.viewing = Viewing::default();
        member.refresh(world, at, now);
    }

    /// Something of a node changed that others may want to know.
    pub(super) fn changed(&mut self, at: u32) {
        let now = self.now;
        if let Some(member) = &mut self.nodes[at as usize].member {
            member.reporting.changed(now);
            if member
                .reporting
                .next_look()
                .is_some_and(|next| next < member.look)
            {
                self.plan_look(at);
            }
        }
    }

    fn plan_look(&mut self, at: u32) {
        let now = self.now;
        let node = &mut self.nodes[at as usize];
        let life = node.life;
        let Some(member) = &mut node.member else {
            return;
        };
        let usual = match member.waiters.is_empty() {
            false => QUESTION_INTERVAL,
            true => LOOK_INTERVAL_MAX,
        };
        let next = member.reporting.next_look().unwrap_or(Time::NEVER);
        let next = next.min(now + usual).max(now + Duration::from_nanos(1));
        member.look = next;
        self.events.plan(next, Event::Look { node: at, life });
    }

    /// A node looks at itself, and may say how it is.
    pub(super) fn look_at_itself(&mut self, at: u32, life: u32) {
        let (world, now) = (self.world, self.now);
        let Some(node) = self.living(at, life) else {
            return;
        };
        let Some(mut member) = node.member.take() else {
            return;
        };
        if member.look != now {
            // It was looked at since, or will be.
            node.member = Some(member);
            return;
        }
        let heard = member.heard;
        member.reporting.hears(heard, now);
        member.reporting.looks();
        shell::report(world, at, node, &mut member, now);
        let neighbours = member.neighbours();
        let (reporting, report) = (&mut member.reporting, &member.report);
        let say = match report {
            Some(report) => reporting.consider(report, neighbours, || true, false, now),
            None => Say::Nothing,
        };
        member.reporting.has_looked(now, now);
        node.member = Some(member);
        if let Say::Now { brief } = say {
            self.say(at);
            self.spread(at, brief);
        }
        self.plan_look(at);
        self.ask_around(at);
    }

    /// A node makes its report.
    pub(super) fn say(&mut self, at: u32) {
        let (world, now) = (self.world, self.now);
        let node = &mut self.nodes[at as usize];
        let Some(mut member) = node.member.take() else {
            return;
        };
        member.sequence += 1;
        shell::report(world, at, node, &mut member, now);
        let sequence = member.sequence;
        member.peers.said(sequence);
        let report = member.report.clone();
        node.member = Some(member);
        let Some(mut report) = report else { return };
        // The short one is made before there are offers to be copied.
        let offers = std::mem::take(&mut report.offers);
        let short = report.in_brief();
        report.offers = offers;
        let node = &mut self.nodes[at as usize];
        if let Some(member) = &mut node.member {
            member.reporting.has_said(report.clone());
        }
        let id = world.nodes[at as usize].id;
        let facts = [report, short].map(|report| Arc::new(Facts::new(id, report)));
        self.said[at as usize] = Some(facts);
    }

    /// What a node said travels to the others: whole to those near, in short to
    /// all where it is time for that.
    pub(super) fn spread(&mut self, at: u32, brief: bool) {
        let world = self.world;
        let Some(facts) = self.said[at as usize].clone() else {
            return;
        };
        let gossip = &self.scenario.gossip.0;
        let numbers = facts.clone().map(|facts| self.travelling.add(at, facts));
        // A message reaches fan-out nodes at a hop, as many of each at the next.
        let fan_out = gossip.fan_out.0.max(2);
        let mut nodes = 1_u64;
        let mut hops = 1;
        let mut wave: Option<(Time, u32, u32)> = None;
        for to in listeners(world, at) {
            let near = world.are_near(at, to);
            let hears = (near || brief) && knows(world, to, at);
            if to == at || !hears || !self.nodes[to as usize].is_alive {
                continue;
            }
            nodes += 1;
            if nodes > fan_out.saturating_pow(hops) {
                hops += 1;
            }
            let loss = world.way(at, to).loss;
            if self.troubles.is_cut(at, to) || (loss > 0.0 && self.network.unit() < loss) {
                continue;
            }
            let number = numbers[usize::from(!near)];
            let takes = self.travel(at, to, 0);
            let takes = takes.saturating_add(gossip.hop.saturating_mul(hops));
            let offers = facts[usize::from(!near)].report.offers.len() as u64;
            self.tally
                .count_gossip(REPORT_BYTES + offers * OFFER_BYTES, self.now);
            let moment = self.now + takes;
            let joined = wave.filter(|(then, of, _)| (*then, *of) == (moment, number));
            let (_, _, joined) = joined.unwrap_or_else(|| {
                let wave = self.travelling.wave(number);
                self.events.plan(moment, Event::HearAll { wave });
                (moment, number, wave)
            });
            wave = Some((moment, number, joined));
            self.travelling.join(joined, to);
        }
        for number in numbers {
            self.travelling.hears(number);
        }
    }

    /// Those of a wave hear its report, save those that stand still.
    pub(super) fn hear_wave(&mut self, wave: u32) {
        let now = self.now;
        let (report, nodes) = self.travelling.arrives(wave);
        if let Some((from, facts)) = self.travelling.hears(report) {
            for &node in &nodes {
                let until = self.nodes[node as usize].paused_until;
                if until > now {
                    let report = self.travelling.add(from, facts.clone());
                    self.events.plan(until, Event::Hear { node, report });
                } else {
                    self.take_report(node, from, &facts);
                }
            }
        }
        self.travelling.over(wave, nodes);
    }

    /// A node hears a report.
    pub(super) fn hear(&mut self, at: u32, number: u32) {
        if let Some((from, facts)) = self.travelling.hears(number) {
            self.take_report(at, from, &facts);
        }
    }

    fn take_report(&mut self, at: u32, from: u32, facts: &Arc<Facts>) {
        let now = self.now;
        let node = &mut self.nodes[at as usize];
        let (Some(member), true) = (&mut node.member, node.is_alive) else {
            return;
        };
        member.peers.hear_later(facts, now);
        member.heard += 1;
        member.viewing.stale();
        if !member.waiters.is_empty() {
            self.pump(at, from);
        }
    }

    /// Asks peers for places for those who wait longest, as many as it may.
    pub(super) fn ask_around(&mut self, at: u32) {
        let (world, now) = (self.world, self.now);
        let node = &mut self.nodes[at as usize];
        let Some(mut member) = node.member.take() else {
            return;
        };
        let mut asked = Vec::new();
        if !member.waiters.is_empty() && member.questions.left(now) > 0 {
            member.refresh(world, at, now);
            for id in member.waiters.oldest() {
                let Some(call) = self.calls.get(id) else {
                    continue;
                };
                let number = call.function;
                let service = self.nodes[at as usize].service(number);
                let peers = whom_to_ask(world, at, call, &mut member, service, now);
                asked.extend(peers.into_iter().map(|peer| (peer, number)));
            }
        }
        self.nodes[at as usize].member = Some(member);
        for (peer, number) in asked {
            self.question(at, peer, number);
        }
    }

    /// Asks a peer for places of a function.
    pub(super) fn question(&mut self, at: u32, peer: u32, function: u32) {
        let question = Question {
            from: at,
            life: self.nodes[at as usize].life,
            to: peer,
            function,
            told: None,
        };
        let message = match self.free_questions.pop() {
            Some(message) => {
                self.questions[message as usize] = Some(question);
                message
            }
            None => {
                self.questions.push(Some(question));
                small(self.questions.len() as u64 - 1)
            }
        };
        let takes = self.travel(at, peer, 0);
        self.events.plan(self.now + takes, Event::Asked { message });
    }

    /// A node is asked for places: it promises those that it has, or lets the other
    /// wait for its turn.
    pub(super) fn asked(&mut self, message: u32) {
        let world = self.world;
        let Some(question) = &self.questions[message as usize] else {
            return;
        };
        let (from, at, number) = (question.from, question.to, question.function);
        if !self.nodes[at as usize].is_alive || self.troubles.is_cut(from, at) {
            return self.send_told(message, None);
        }
        if self.nodes[at as usize].keys[number as usize].is_none() {
            let ready_in = self.bring_for_guest(at, number);
            let told = self.told_of_places(at, from, number, ready_in);
            return self.send_told(message, told.map(|told| (told, Some(Why::Bringing))));
        }
        let wish = Wish {
            function: number,
            cost: world.functions[number as usize].wanted.cost(None),
            most: PLACES_ASKED_FOR,
        };
        let who = world.nodes[from as usize].id;
        if self.promise(at, &who, &wish) {
            return self.answer_question(message, true);
        }
        let waits = (wish, Waits::Question(message));
        if !self.wait_for_turn(at, who, waits, QUESTION_WAIT) {
            self.answer_question(message, false);
        }
    }

    /// What a node tells another of its places for a function.
    fn told_of_places(
        &mut self,
        at: u32,
        to: u32,
        number: u32,
        ready_in: Duration,
    ) -> Option<Told> {
        let (world, now) = (self.world, self.now);
        let cost = world.functions[number as usize].wanted.cost(None);
        let node = &mut self.nodes[at as usize];
        let mut member = node.member.take()?;
        let who = world.nodes[to as usize].id;
        let load = shell::load(node, &mut member, Some(&who), now);
        let key = node.keys[number as usize];
        let places = key.and_then(|key| node.scheduler.admission().places(key));
        let held = member.held_of(to, number);
        node.member = Some(member);
        Some(Told {
            load,
            places: places.map(|places| answers::guest_room(Some(places), &load, cost)),
            held,
            ready_in,
            level: None,
        })
    }

    /// Answers a question: whether places are `promised`.
    pub(super) fn answer_question(&mut self, message: u32, promised: bool) {
        let Some(question) = &self.questions[message as usize] else {
            return;
        };
        let (from, at, number) = (question.from, question.to, question.function);
        let is_alive = self.nodes[at as usize].is_alive;
        let told = self
            .told_of_places(at, from, number, Duration::ZERO)
            .filter(|_| is_alive);
        let cost = self.world.functions[number as usize].wanted.cost(None);
        let told = told.map(|told| {
            let has_some = promised && told.places.is_some_and(|places| places > 0);
            let reason = Refusal::NoRoom;
            let wait = Duration::ZERO;
            let full = End::Refused { reason, wait };
            let why = || shell::why(&self.nodes[at as usize], number, full, cost);
            (told, (!has_some).then(why))
        });
        self.send_told(message, told);
    }

    fn send_told(&mut self, message: u32, told: Option<(Told, Option<Why>)>) {
        let Some(question) = &mut self.questions[message as usize] else {
            return;
        };
        question.told = told;
        let (from, at) = (question.from, question.to);
        let takes = self.travel(at, from, 0);
        self.events.plan(self.now + takes, Event::Told { message });
    }

    /// The answer to a question is back.
    pub(super) fn told(&mut self, message: u32) {
        let (world, now) = (self.world, self.now);
        let Some(question) = self.questions[message as usize].take() else {
            return;
        };
        self.free_questions.push(message);
        let (at, peer) = (question.from, question.to);
        let function = &world.functions[question.function as usize];
        let Some(member) = self
            .living(at, question.life)
            .and_then(|node| node.member.as_mut())
        else {
            return;
        };
        if let Some((told, why)) = &question.told {
            let said = Said {
                peer: world.nodes[peer as usize].id,
                function,
                class: ClassKey::NONE,
                told: Some(told),
                why: *why,
                under_way: 0,
            };
            shell::learn_told(member, &said, now);
        }
        member.questions.answered(peer, &question.function);
        self.pump(at, peer);
        self.ask_around(at);
    }
}

/// Whom a node asks for a call that waits there; they are taken as asked.
fn whom_to_ask(
    world: &World,
    at: u32,
    call: &mut Call,
    member: &mut Member,
    service: Option<Duration>,
    now: Time,
) -> Vec<u32> {
    let number = call.function;
    let function = &world.functions[number as usize];
    let brings = member.abilities.brings(&function.name, now);
    let abilities = member.abilities.of(&function.name);
    let failing = call.failing.clone();
    let placement = &call.leg().placement;
    let request = placement.request(&function.name, &failing, service);
    let snapshot = Snapshot {
        local: waiting::local(world, at, service),
        view: &member.view,
        abilities: &abilities,
        congestion: None,
        remembered: None,
        now,
        chance: 0,
    };
    let worth = questions::worth_asking(&request, placement.reaches(), &snapshot);
    let worth = worth.iter();
    let worth = worth.filter_map(|worth| Some((world.number(&worth.peer)?, worth.brings)));
    member.questions.ask(&number, worth, brings, now)
}
