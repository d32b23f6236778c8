//! What goes wrong, and when.

use weir_node_core::time::Time;

use super::calls::Ended;
use super::engine::Engine;
use super::events::Event;
use super::node::Node;
use super::world::{World, small};
use crate::scenario::Scenario;
use crate::scenario::field::At;
use crate::scenario::world::{Fault, Selector};

/// A trouble of the ways between two sets of nodes.
struct Trouble {
    one: Vec<bool>,
    other: Vec<bool>,
    /// How many times as long the way is; infinite where nothing passes.
    times: f64,
    is_on: bool,
}

/// Troubles of the network, by the numbers of their faults.
pub(super) struct Troubles {
    all: Vec<Option<Trouble>>,
    on: usize,
}

impl Troubles {
    pub(super) fn new(world: &World, scenario: &Scenario) -> Troubles {
        let faults = scenario.faults.0.iter().map(|fault| &fault.value);
        let all = faults.map(|fault| {
            let (ends, times) = match (&fault.cut, &fault.slow_link) {
                (Some(ends), _) => (ends, f64::INFINITY),
                (None, Some(slow)) => (&slow.0.between, slow.0.times.0),
                (None, None) => return None,
            };
            let [one, other] = &**ends else { return None };
            let is_in = |end: &At<Selector>| {
                let mut nodes = vec![false; world.nodes.len()];
                for node in world.selected(&end.value) {
                    nodes[node as usize] = true;
                }
                nodes
            };
            Some(Trouble {
                one: is_in(one),
                other: is_in(other),
                times,
                is_on: false,
            })
        });
        let all = all.collect();
        Troubles { all, on: 0 }
    }

    fn turn(&mut self, number: u32, on: bool) {
        if let Some(Some(trouble)) = self.all.get_mut(number as usize)
            && trouble.is_on != on
        {
            trouble.is_on = on;
            match on {
                true => self.on += 1,
                false => self.on -= 1,
            }
        }
    }

    /// How many times as long a way is.
    pub(super) fn slowness(&self, from: u32, to: u32) -> f64 {
        if self.on == 0 {
            return 1.0;
        }
        let (from, to) = (from as usize, to as usize);
        let between = |trouble: &&Trouble| {
            trouble.is_on
                && ((trouble.one[from] && trouble.other[to])
                    || (trouble.one[to] && trouble.other[from]))
        };
        let on = self.all.iter().flatten().filter(between);
        let slow = on.filter(|trouble| trouble.times.is_finite());
        slow.fold(1.0, |times, trouble| times * trouble.times)
    }

    /// Whether nothing passes from one node to another.
    pub(super) fn is_cut(&self, from: u32, to: u32) -> bool {
        if self.on == 0 {
            return false;
        }
        let (from, to) = (from as usize, to as usize);
        self.all.iter().flatten().any(|trouble| {
            trouble.is_on
                && trouble.times.is_infinite()
                && ((trouble.one[from] && trouble.other[to])
                    || (trouble.one[to] && trouble.other[from]))
        })
    }
}

impl Engine<'_> {
    pub(super) fn plan_faults(&mut self) {
        for (number, fault) in (0_u32..).zip(&self.scenario.faults.0) {
            let (begin, lasts) = (Time::ZERO + fault.value.at, fault.value.lasts);
            self.events.plan(begin, Event::Fault { number });
            self.has_pauses |= fault.value.pause.is_some();
            let die = fault.value.kill.iter().chain(&fault.value.restart);
            for node in die
                .flat_map(|die| self.selected(&die.value))
                .collect::<Vec<_>>()
            {
                self.plan_keep(node);
            }
            if let Some(lasts) = lasts {
                self.events.plan(begin + lasts, Event::Mended { number });
            }
        }
    }

    fn selected(&self, selector: &Selector) -> Vec<u32> {
        self.world.selected(selector).collect()
    }

    pub(super) fn fault(&mut self, number: u32) {
        let scenario = self.scenario;
        let fault = &scenario.faults.0[number as usize].value;
        let until = fault.lasts.map_or(Time::NEVER, |lasts| self.now + lasts);
        self.troubles.turn(number, true);
        self.turn_congestion(fault, Some(until));
        if let Some(kill) = &fault.kill {
            for node in self.selected(&kill.value) {
                self.kill(node);
            }
        }
        if let Some(restart) = &fault.restart {
            for node in self.selected(&restart.value) {
                self.kill(node);
                self.revive(node);
            }
        }
        if let Some(pause) = &fault.pause {
            for node in self.selected(&pause.value) {
                self.nodes[node as usize].paused_until = until;
            }
        }
        if let Some(slow) = &fault.slow_node {
            for node in self.selected(&slow.0.node.value) {
                self.nodes[node as usize].slow = slow.0.times.0;
            }
        }
        if let Some(liar) = &fault.liar {
            for node in self.selected(&liar.0.node.value) {
                self.nodes[node as usize].claims = Some(liar.0.claims.0);
                self.changed(node);
            }
        }
    }

    pub(super) fn mended(&mut self, number: u32) {
        let scenario = self.scenario;
        let fault = &scenario.faults.0[number as usize].value;
        self.troubles.turn(number, false);
        self.turn_congestion(fault, None);
        if let Some(kill) = &fault.kill {
            for node in self.selected(&kill.value) {
                self.revive(node);
            }
        }
        if let Some(slow) = &fault.slow_node {
            for node in self.selected(&slow.0.node.value) {
                self.nodes[node as usize].slow = 1.0;
            }
        }
        if let Some(liar) = &fault.liar {
            for node in self.selected(&liar.0.node.value) {
                self.nodes[node as usize].claims = None;
                self.changed(node);
            }
        }
    }

    fn turn_congestion(&mut self, fault: &Fault, until: Option<Time>) {
        if let Some([one, other]) = fault.congestion.as_deref() {
            let ends = [one, other].map(|end| self.selected(&end.value));
            self.congest([&ends[0], &ends[1]], until);
        }
    }

    /// A node dies, with the calls that are there.
    fn kill(&mut self, at: u32) {
        let now = self.now;
        let node = &mut self.nodes[at as usize];
        if !node.is_alive {
            return;
        }
        node.is_alive = false;
        let life = node.life;
        self.forget_turns(at);
        let detect = self.scenario.gossip.0.detect;
        self.events
            .plan(now + detect, Event::Missed { node: at, life });
        for id in self.calls.with_leg_at(at) {
            let Some(call) = self.calls.get(id) else {
                continue;
            };
            if call.is_orphan && call.node() != at {
                continue;
            }
            let is_own = call.legs.first().is_some_and(|leg| leg.node == at);
            let is_here = call.node() == at;
            let travels = call.reply.is_some();
            match (is_own, is_here) {
                (true, true) => {
                    call.running = None;
                    self.is_over(id, Ended::Gone);
                }
                (true, false) => {
                    // It goes on elsewhere, and nobody waits for it.
                    self.tally.note_lost(call, now);
                    call.is_orphan = true;
                }
                (false, true) if !travels && call.leg().guest.is_some() => {
                    call.running = None;
                    self.reply(id, Ended::Gone, None);
                }
                (false, true | false) => {}
            }
        }
        self.bringing.retain(|(node, _), _| *node != at);
    }

    /// A node that died is there again, as a new one.
    fn revive(&mut self, at: u32) {
        if self.nodes[at as usize].is_alive {
            return;
        }
        let life = self.nodes[at as usize].life + 1;
        let busy = self.nodes[at as usize].busy;
        let mut node = Node::new(self.world, at, self.seed, life, self.now);
        node.busy = busy;
        self.nodes[at as usize] = node;
        self.settle(at);
        if self.nodes.len() > 1 {
            self.hear_all(at);
            self.say(at);
            self.spread(at, true);
            self.changed(at);
            self.tick_all(at);
            self.plan_keep(at);
        }
    }

    /// A dead node was missed for so long that all suspect it.
    pub(super) fn missed(&mut self, at: u32, life: u32) {
        let now = self.now;
        let id = self.world.nodes[at as usize].id;
        let node = &self.nodes[at as usize];
        if node.is_alive || node.life != life {
            return;
        }
        for other in 0..small(self.nodes.len() as u64) {
            if let Some(member) = &mut self.nodes[other as usize].member {
                member.peers.suspect(id, u64::from(life) + 1, now);
                member.viewing.stale();
            }
        }
    }

    /// Until when an event has to wait, for its node stands still.
    pub(super) fn still_paused(&mut self, event: Event) -> Option<Time> {
        let node = match event {
            Event::End { call }
            | Event::Again { call }
            | Event::Reach { call }
            | Event::Elsewhere { call }
            | Event::Enough { call } => self.calls.get(call)?.node(),
            Event::GaveUp { call } => {
                let now = self.now;
                let call = self.calls.get(call)?;
                call.legs[call.gives_up(now)?].node
            }
            Event::Probe { probe } => self.probed_node(probe, false)?,
            Event::Probed { probe } => self.probed_node(probe, true)?,
            Event::Back { call } => {
                let call = self.calls.get(call)?;
                call.legs[call.legs.len().saturating_sub(2)].node
            }
            Event::Started { node, .. }
            | Event::Expire { node, .. }
            | Event::Look { node, .. }
            | Event::Hear { node, .. }
            | Event::Tick { node, .. }
            | Event::Note { node, .. }
            | Event::Keep { node, .. }
            | Event::TurnOver { node, .. }
            | Event::Brought { node, .. } => node,
            // Its nodes are looked at one by one.
            Event::HearAll { .. } | Event::Asked { .. } | Event::Told { .. } => return None,
            Event::Come { source } => self.source_node(source),
            Event::Fault { .. } | Event::Mended { .. } | Event::Missed { .. } => return None,
        };
        let until = self.nodes[node as usize].paused_until;
        if until <= self.now {
            return None;
        }
        // Its timers are to be known again when they come.
        let node = &mut self.nodes[node as usize];
        match (event, &mut node.member) {
            (Event::Expire { .. }, _) if node.timer == self.now => node.timer = until,
            (Event::Look { .. }, Some(member)) if member.look == self.now => member.look = until,
            _ => {}
        }
        Some(until)
    }
}
