//! What nodes' policies learn, and do between decisions: outcomes, ticks, probes
//! and notes, and what the network says to be congested.

use std::sync::Arc;

use weir_federation_core::congestion::Congestion;
use weir_federation_core::pace::Order;
use weir_federation_core::peers::Met;
use weir_federation_core::placement::{Attempted, Came, End, Placement};
use weir_federation_core::policy::{
    self, ClassKey, Ending, Field, Policy, Probed, SAVE_INTERVAL, SAVED_BYTES_MAX, WishLimits,
    Wishes,
};
use weir_federation_core::report::Load;
use weir_federation_core::snapshot::Word;
use weir_node_core::time::Time;
use weir_node_core::words::Timing;

use super::calls::{CallId, Ended};
use super::engine::Engine;
use super::events::Event;
use super::gossip::knows;
use super::shell;
use super::world::small;

/// Bytes of a note on its way, beside what it says.
const NOTE_BYTES: u64 = 200;

/// A policy's question how loaded a peer is.
struct Probe {
    from: u32,
    life: u32,
    slot: usize,
    to: u32,
    began: Time,
    load: Option<Load>,
}

/// What a policy tells others like it.
struct Note {
    from: u32,
    slot: usize,
    order: Order,
    body: Vec<u8>,
    /// How many have yet to hear it.
    left: u32,
}

/// Probes and notes that are under way, and what policies keep over a death.
#[derive(Default)]
pub(super) struct Learning {
    probes: Vec<Option<Probe>>,
    free_probes: Vec<u32>,
    notes: Vec<Option<Note>>,
    free_notes: Vec<u32>,
    /// By node and by policy, as the disk has it.
    kept: std::collections::BTreeMap<(u32, usize), Vec<u8>>,
}

/// Puts something where there is room; its number.
fn place<T>(all: &mut Vec<Option<T>>, free: &mut Vec<u32>, one: T) -> u32 {
    match free.pop() {
        Some(number) => {
            all[number as usize] = Some(one);
            number
        }
        None => {
            all.push(Some(one));
            small(all.len() as u64 - 1)
        }
    }
}

/// What the end of an attempt teaches; `came` is what it means to the call.
fn ending(ended: Ended, came: Option<Came>) -> Ending {
    let is_late = matches!(ended, Ended::Without(End::Late { .. }));
    match came {
        Some(Came::Lost(_)) if is_late => Ending::Late,
        Some(Came::Lost(_)) => Ending::Lost,
        Some(_) => Ending::Refused,
        None => match ended {
            Ended::Answered { failed: false, .. } => Ending::Answered,
            Ended::Answered { failed: true, .. } => Ending::Failed,
            Ended::Without(End::Late { .. }) | Ended::TimedOut => Ending::Late,
            Ended::Without(End::Lost) | Ended::Gone => Ending::Lost,
            Ended::Without(End::Refused { .. } | End::Nowhere | End::Unknown)
            | Ended::NotStarted
            | Ended::Waited
            | Ended::Unreachable => Ending::Refused,
        },
    }
}

impl Engine<'_> {
    /// By what a node places calls of a function and a class.
    pub(super) fn policy(&self, node: u32, function: u32, class: u32) -> Arc<dyn Policy> {
        let member = self.nodes[node as usize].member.as_ref();
        let slot = self.world.slot(node, function, class);
        member.map_or_else(
            || self.world.held(node)[slot].choice.build(),
            |member| member.policies[slot].clone(),
        )
    }

    /// A call that comes to a node, with what holds beside the policies there.
    pub(super) fn with_beside(
        &self,
        node: u32,
        placement: Placement<Arc<dyn Policy>>,
    ) -> Placement<Arc<dyn Policy>> {
        match &self.nodes[node as usize].member {
            Some(member) => placement.beside(member.beside.clone()),
            None => placement,
        }
    }

    /// What stands for a class in tables, where calls name it.
    pub(super) fn class_key(&self, class: u32, is_named: bool) -> ClassKey {
        match is_named {
            true => self.world.class_keys[class as usize],
            false => ClassKey::NONE,
        }
    }

    /// Tells a policy how an attempt ended, at a `peer` or here, and takes note of
    /// where the function fails.
    pub(super) fn attempted(
        &mut self,
        id: CallId,
        peer: Option<u32>,
        ended: Ended,
        came: Option<Came>,
    ) {
        let (world, now) = (self.world, self.now);
        let call = self.calls.at(id);
        let function = &world.functions[call.function as usize];
        let (sent_bytes, mut answer_bytes) = (call.input_bytes, 0);
        let mut timing = Timing::default();
        if let (Ended::Answered { .. }, None) = (ended, came) {
            (timing, answer_bytes) = (call.timing, call.answer_bytes);
        }
        let leg = call.leg();
        let (at, life) = (leg.node, leg.life);
        let how = Attempted {
            function: &function.name,
            ending: ending(ended, came),
            timing,
            waited_in_vain: ended.how().is_waited_in_vain(),
            sent_bytes,
            answer_bytes,
        };
        let (was_tried, is_own) = (
            leg.placement.attempted(&how, now),
            leg.placement.is_own() && came.is_none(),
        );
        if !was_tried || !is_own {
            return;
        }
        let how = ended.how();
        let place = peer.map(|peer| world.nodes[peer as usize].id);
        if let Some(member) = self.living(at, life).and_then(|node| node.member.as_mut())
            && (how.is_failure() || !member.evidence.is_empty())
        {
            member.evidence.learn(&function.name, place, how, now);
        }
    }

    /// Calls all policies of a node for the first time, when it begins.
    pub(super) fn tick_all(&mut self, at: u32) {
        let life = self.nodes[at as usize].life;
        for slot in 0..self.world.held(at).len() {
            let key = (at, slot);
            if let Some(kept) = self.learning.kept.get(&key)
                && let Some(member) = &self.nodes[at as usize].member
            {
                // What it cannot read, it goes without.
                let _ = member.policies[slot].restore(kept, self.now);
            }
            self.tick(at, life, slot);
        }
    }

    /// Calls a policy of a node between decisions.
    pub(super) fn tick(&mut self, at: u32, life: u32, slot: usize) {
        let (world, now) = (self.world, self.now);
        let Some(node) = self.living(at, life) else {
            return;
        };
        let Some(mut member) = node.member.take() else {
            return;
        };
        member.refresh(world, at, now);
        let nothing = Congestion::default();
        let own = world.nodes[at as usize].id;
        let mut wishes = Wishes::default();
        let field = Field {
            own,
            role: world.class(at).role.0,
            architecture: shell::ARCHITECTURE,
            load: shell::load(node, &mut member, None, now),
            regions: &world.regions[world.nodes[at as usize].class],
            view: &member.view,
            congestion: member.congestion.as_deref().unwrap_or(&nothing),
            now,
            chance: member.chance.number(),
        };
        let next = member.policies[slot].tick(&field, &mut wishes);
        let (mut probes, mut note) = (Vec::new(), None);
        if !wishes.probes().is_empty() || wishes.note().is_some() {
            let new = || Box::new(WishLimits::new(own));
            let limits = member.wishes.get_or_insert_with(new);
            probes = limits.probes(&wishes, now);
            note = limits.note(&wishes, now);
        }
        let note = note.map(|(sequence, body)| (sequence, body.to_vec()));
        let epoch = member.peers.epoch();
        node.member = Some(member);
        for to in probes.iter().filter_map(|id| world.number(id)) {
            self.probe(at, slot, to);
        }
        if let Some((sequence, body)) = note {
            let order = Order { epoch, sequence };
            self.tell_note(at, slot, order, body);
        }
        let next = policy::next_tick(next, now);
        if next != Time::NEVER {
            let (node, slot) = (at, small(slot as u64));
            self.events.plan(next, Event::Tick { node, life, slot });
        }
    }

    /// A policy asks a peer how loaded it is.
    fn probe(&mut self, from: u32, slot: usize, to: u32) {
        let life = self.nodes[from as usize].life;
        let probe = Probe {
            from,
            life,
            slot,
            to,
            began: self.now,
            load: None,
        };
        let Learning {
            probes,
            free_probes,
            ..
        } = &mut self.learning;
        let probe = place(probes, free_probes, probe);
        let takes = self.travel(from, to, 0);
        self.events.plan(self.now + takes, Event::Probe { probe });
    }

    /// Which node hears of a probe next: the one that is asked, or has `asked`.
    pub(super) fn probed_node(&self, probe: u32, asked: bool) -> Option<u32> {
        let probe = self.learning.probes[probe as usize].as_ref()?;
        Some(if asked { probe.from } else { probe.to })
    }

    /// A node is asked how loaded it is.
    pub(super) fn probe_asked(&mut self, number: u32) {
        let (world, now) = (self.world, self.now);
        let Some(probe) = &self.learning.probes[number as usize] else {
            return;
        };
        let (from, to) = (probe.from, probe.to);
        let mut load = None;
        let node = &mut self.nodes[to as usize];
        if node.is_alive
            && !self.troubles.is_cut(from, to)
            && let Some(mut member) = node.member.take()
        {
            let who = world.nodes[from as usize].id;
            let limits = member.heard_limits.get_or_insert_default();
            if limits.probe(&who, now) {
                load = Some(shell::load(node, &mut member, Some(&who), now));
            }
            node.member = Some(member);
        }
        if let Some(probe) = &mut self.learning.probes[number as usize] {
            probe.load = load;
        }
        let takes = self.travel(to, from, 0);
        let event = Event::Probed { probe: number };
        self.events.plan(now + takes, event);
    }

    /// The answer to a probe is back.
    pub(super) fn probe_told(&mut self, number: u32) {
        let (world, now) = (self.world, self.now);
        let Some(probe) = self.learning.probes[number as usize].take() else {
            return;
        };
        self.learning.free_probes.push(number);
        let peer = world.nodes[probe.to as usize].id;
        let load = probe
            .load
            .filter(|_| !self.troubles.is_cut(probe.from, probe.to));
        let Some(member) = self
            .living(probe.from, probe.life)
            .and_then(|node| node.member.as_mut())
        else {
            return;
        };
        if let Some(load) = load
            && policy::is_room_told(member.view.peer(&peer))
        {
            let under_way = 0;
            let told = Met::Told(Some(Word { load, under_way }));
            member.peers.met(peer, told, now);
            member.viewing.stale();
        }
        member.policies[probe.slot].probed(&Probed {
            peer,
            load,
            took: now.since(probe.began),
            now,
        });
    }

    /// A policy tells those like it in its zone or region.
    fn tell_note(&mut self, from: u32, slot: usize, order: Order, body: Vec<u8>) {
        let (world, now) = (self.world, self.now);
        let bytes = NOTE_BYTES + body.len() as u64;
        let note = Note {
            from,
            slot,
            order,
            body,
            left: 0,
        };
        let Learning {
            notes, free_notes, ..
        } = &mut self.learning;
        let number = place(notes, free_notes, note);
        let gossip = &self.scenario.gossip.0;
        let (mut reached, mut hops, mut left) = (1_u64, 1, 0);
        for node in 0..small(self.nodes.len() as u64) {
            let hears = world.are_near(from, node) && knows(world, node, from);
            if node == from || !hears || !self.nodes[node as usize].is_alive {
                continue;
            }
            reached += 1;
            if reached > gossip.fan_out.0.max(2).saturating_pow(hops) {
                hops += 1;
            }
            let loss = world.way(from, node).loss;
            if self.troubles.is_cut(from, node) || (loss > 0.0 && self.network.unit() < loss) {
                continue;
            }
            left += 1;
            self.tally.count_gossip(bytes, now);
            let takes = self.travel(from, node, 0);
            let takes = takes.saturating_add(gossip.hop.saturating_mul(hops));
            let event = Event::Note { node, note: number };
            self.events.plan(now + takes, event);
        }
        match &mut self.learning.notes[number as usize] {
            Some(note) if left > 0 => note.left = left,
            note => {
                *note = None;
                self.learning.free_notes.push(number);
            }
        }
    }

    /// A node hears a note.
    pub(super) fn hear_note(&mut self, at: u32, number: u32) {
        let (world, now) = (self.world, self.now);
        let Some(note) = &mut self.learning.notes[number as usize] else {
            return;
        };
        note.left -= 1;
        let node = &mut self.nodes[at as usize];
        if let (Some(member), true) = (&mut node.member, node.is_alive) {
            let from = world.nodes[note.from as usize].id;
            let limits = member.heard_limits.get_or_insert_default();
            let told = &world.held(note.from)[note.slot];
            let alike = world.held(at).iter().position(|held| {
                held.scope == told.scope && held.choice.kind().name == told.choice.kind().name
            });
            if limits.note(&from, note.order, now).is_ok()
                && let Some(slot) = alike
            {
                // What it cannot read is not its business.
                let _ = member.policies[slot].hear(from, &note.body, now);
            }
        }
        if note.left == 0 {
            self.learning.notes[number as usize] = None;
            self.learning.free_notes.push(number);
        }
    }

    /// What a node's policies learned is written down.
    pub(super) fn keep(&mut self, at: u32, life: u32) {
        let Some(node) = self.living(at, life) else {
            return;
        };
        let Some(member) = &node.member else { return };
        let saved: Vec<_> = member.policies.iter().map(|policy| policy.save()).collect();
        for (slot, saved) in saved.into_iter().enumerate() {
            if let Some(saved) = saved.filter(|saved| saved.len() <= SAVED_BYTES_MAX) {
                self.learning.kept.insert((at, slot), saved);
            }
        }
        self.plan_keep(at);
    }

    /// Sees to it that a node which will die keeps what its policies learned.
    pub(super) fn plan_keep(&mut self, node: u32) {
        let life = self.nodes[node as usize].life;
        let event = Event::Keep { node, life };
        self.events.plan(self.now + SAVE_INTERVAL, event);
    }

    /// The network says that the ways between two sets of nodes are congested,
    /// until then; or no more.
    pub(super) fn congest(&mut self, ends: [&[u32]; 2], until: Option<Time>) {
        let (world, now) = (self.world, self.now);
        for (from, to) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            for node in from {
                let Some(member) = &mut self.nodes[*node as usize].member else {
                    continue;
                };
                let congestion = member.congestion.get_or_insert_default();
                for peer in to.iter().filter(|peer| *peer != node) {
                    let peer = world.nodes[*peer as usize].id;
                    match until {
                        // Beyond its bound nothing is noted, as in production.
                        Some(until) => _ = congestion.notice(peer, until, now),
                        None => _ = congestion.clear(&peer),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
