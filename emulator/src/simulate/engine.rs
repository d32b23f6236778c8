//! The loop: events in their order, calls that come, run and end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weir_federation_core::abilities::AtPeers;
use weir_federation_core::facts::Facts;
use weir_federation_core::placement::{Arrival, End, HOPS_MAX, Placement};
use weir_federation_core::policy::Origin;
use weir_node_core::admission::Slot;
use weir_node_core::scheduler::{Action, GaveUp, Ran, Request};
use weir_node_core::time::Time;
use weir_node_core::words::{Phase, Refusal, Timing};

use super::calls::{Call, CallId, Calls, Ended, Leg, Stay};
use super::events::{Event, Events};
use super::faults::Troubles;
use super::gossip::Question;
use super::learning::Learning;
use super::node::Node;
use super::tally::{Outcome, Tally};
use super::travelling::Travelling;
use super::world::{World, small};
use crate::scenario::Scenario;
use crate::workload::chance::Stream;
use crate::workload::law::Sizes;
use crate::workload::picks::Picks;
use crate::workload::process::{Arrival as Coming, Process};

/// How long after the last arrival calls may end that are counted.
const DRAIN_MAX: Duration = Duration::from_secs(3_600);

/// Calls of one workload at one node.
struct Source {
    picks: Picks,
    class: u32,
    names_class: bool,
    node: u32,
    begin: Time,
    end: Time,
    process: Process,
    input: Arc<Sizes>,
    retries: (u32, Duration),
    next: Option<Coming>,
    arrivals: Stream,
    bodies: Stream,
}

/// A world that runs.
pub(super) struct Engine<'a> {
    pub(super) world: &'a World,
    pub(super) scenario: &'a Scenario,
    pub(super) seed: u64,
    pub(super) now: Time,
    pub(super) events: Events,
    pub(super) calls: Calls,
    pub(super) nodes: Vec<Node>,
    sources: Vec<Source>,
    pub(super) tally: Tally,
    pub(super) network: Stream,
    pub(super) troubles: Troubles,
    pub(super) travelling: Travelling,
    pub(super) learning: Learning,
    /// Whether any node will stand still.
    pub(super) has_pauses: bool,
    /// What each node said last, whole and in short.
    pub(super) said: Vec<Option<[Arc<Facts>; 2]>>,
    pub(super) questions: Vec<Option<Question>>,
    pub(super) free_questions: Vec<u32>,
    /// Code that travels to a node, and the calls that wait for it there.
    pub(super) bringing: BTreeMap<(u32, u32), Vec<CallId>>,
    /// What is known of peers where nobody need be looked at.
    pub(super) nothing: Arc<AtPeers>,
    until: Time,
}

impl<'a> Engine<'a> {
    pub(super) fn new(world: &'a World, scenario: &'a Scenario, seed: u64) -> Engine<'a> {
        let head = &scenario.head.0;
        let nodes = (0..small(world.nodes.len() as u64))
            .map(|at| Node::new(world, at, seed, 0, Time::ZERO))
            .collect();
        let mut engine = Engine {
            world,
            scenario,
            seed,
            now: Time::ZERO,
            events: Events::default(),
            calls: Calls::default(),
            nodes,
            sources: Vec::new(),
            tally: Tally::new(world, Time::ZERO + head.warm_up, head.duration),
            network: Stream::new(seed, "network"),
            troubles: Troubles::new(world, scenario),
            travelling: Travelling::default(),
            learning: Learning::default(),
            has_pauses: false,
            said: vec![None; world.nodes.len()],
            questions: Vec::new(),
            free_questions: Vec::new(),
            bringing: BTreeMap::new(),
            nothing: Arc::default(),
            until: Time::ZERO + head.duration,
        };
        engine.plan_faults();
        engine.add_sources();
        for at in 0..engine.nodes.len() {
            engine.settle(small(at as u64));
        }
        engine.introduce_all();
        engine
    }

    fn add_sources(&mut self) {
        for (number, workload) in self.scenario.workloads.0.iter().enumerate() {
            let workload = &workload.value;
            let (world, qos) = (self.world, workload.class.as_ref());
            let functions = world.named(self.scenario, &workload.function.value);
            let class = qos.and_then(|qos| world.qos.iter().position(|of| of.name == qos.value));
            let until = workload
                .until
                .map_or(self.until, |until| Time::ZERO + until);
            let input = Arc::new(Sizes::new(&workload.input));
            let selected: Vec<u32> = world.selected(&workload.at.value).collect();
            for node in selected {
                let name = format!("{}/workload-{number}", world.name(node));
                let mut arrivals = Stream::new(self.seed, &format!("{name}/arrivals"));
                let mut process = Process::new(&workload.arrivals, &mut arrivals);
                let next = process.next(&mut arrivals);
                self.sources.push(Source {
                    picks: Picks::new(&functions, workload.zipf.0, self.seed, &name),
                    class: small(class.unwrap_or(0) as u64),
                    names_class: class.is_some(),
                    node,
                    begin: Time::ZERO + workload.from,
                    end: until.min(self.until),
                    process,
                    input: input.clone(),
                    retries: (small(workload.retries.0), workload.retry_after),
                    next,
                    arrivals,
                    bodies: Stream::new(self.seed, &format!("{name}/bodies")),
                });
                self.plan_next(self.sources.len() - 1);
            }
        }
    }

    fn plan_next(&mut self, at: usize) {
        let source = &self.sources[at];
        let Some(next) = source.next else { return };
        let moment = source.begin + Duration::from_nanos(next.at);
        if moment < source.end {
            let source = small(at as u64);
            self.events.plan(moment, Event::Come { source });
        }
    }

    /// Plays it to its end; how many events that took.
    pub(super) fn run(&mut self) -> u64 {
        let over = self.until + DRAIN_MAX;
        let mut count = 0;
        while let Some((at, event)) = self.events.next() {
            if (self.calls.len() == 0 && at >= self.until) || at > over {
                break;
            }
            count += match event {
                Event::HearAll { wave } => self.travelling.count(wave),
                _ => 1,
            };
            self.tally.passes(self.now, at, self.calls.len());
            self.now = at;
            match self.still_paused(event) {
                Some(until) => self.events.plan(until, event),
                None => self.happen(event),
            }
        }
        self.tally.leave_unfinished(self.calls.awaited() as u64);
        count
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Come { source } => self.come(source as usize),
            Event::Again { call } => self.come_again(call),
            Event::End { call } => self.end(call),
            Event::Reach { call } => self.reach(call),
            Event::Back { call } => self.back(call),
            Event::Elsewhere { call } => self.nobody_elsewhere(call),
            Event::Enough { call } => self.waited_enough(call),
            Event::GaveUp { call } => self.gave_up(call),
            Event::Tick { node, life, slot } => self.tick(node, life, slot as usize),
            Event::Probe { probe } => self.probe_asked(probe),
            Event::Probed { probe } => self.probe_told(probe),
            Event::Note { node, note } => self.hear_note(node, note),
            Event::Keep { node, life } => self.keep(node, life),
            Event::TurnOver { node, life, turn } => self.turn_over(node, life, turn),
            Event::Started {
                node,
                life,
                instance,
            } => {
                let now = self.now;
                if let Some(it) = self.living(node, life) {
                    it.scheduler.started(instance, now, &mut it.actions);
                    self.settle(node);
                }
            }
            Event::Expire { node, life } => {
                let now = self.now;
                // Others were overtaken by an earlier one.
                if let Some(it) = self.living(node, life).filter(|it| it.timer == now) {
                    it.timer = Time::NEVER;
                    it.scheduler.expire(now, &mut it.actions);
                    self.settle(node);
                }
            }
            Event::Look { node, life } => self.look_at_itself(node, life),
            Event::Hear { node, report } => self.hear(node, report),
            Event::HearAll { wave } => self.hear_wave(wave),
            Event::Asked { message } => self.asked(message),
            Event::Told { message } => self.told(message),
            Event::Brought {
                node,
                life,
                function,
            } => self.brought(node, life, function),
            Event::Fault { number } => self.fault(number),
            Event::Mended { number } => self.mended(number),
            Event::Missed { node, life } => self.missed(node, life),
        }
    }

    pub(super) fn living(&mut self, node: u32, life: u32) -> Option<&mut Node> {
        let node = &mut self.nodes[node as usize];
        (node.is_alive && node.life == life).then_some(node)
    }

    pub(super) fn source_node(&self, source: u32) -> u32 {
        self.sources[source as usize].node
    }

    /// A user calls.
    fn come(&mut self, at: usize) {
        let world = self.world;
        let source = &mut self.sources[at];
        let number = source.picks.draw();
        let function = &world.functions[number as usize];
        let runs = source.next.and_then(|next| next.runs);
        let input_bytes = source.input.draw(0, &mut source.bodies);
        let drawn = function.service.draw(input_bytes, &mut source.bodies);
        let answer_bytes = function.answer.draw(input_bytes, &mut source.bodies);
        let fails = function.fails > 0.0 && source.bodies.unit() < function.fails;
        // A node that stood still hears later of it.
        let came = source.next.map_or(0, |next| next.at);
        let arrived = source.begin + Duration::from_nanos(came);
        source.next = source.process.next(&mut source.arrivals);
        let (class, node) = (source.class, source.node);
        let (names_class, retries) = (source.names_class, source.retries);
        self.plan_next(at);
        let leg = self.first_leg(node, number, (class, names_class), arrived);
        let mut legs = self.tally.spare_legs.pop().unwrap_or_default();
        legs.push(leg);
        let call = self.calls.add(Call {
            function: number,
            class,
            names_class,
            origin: node,
            retries,
            arrived,
            input_bytes,
            answer_bytes,
            service: runs.unwrap_or(drawn),
            fails,
            legs,
            failing: Vec::new(),
            running: None,
            waited: Duration::ZERO,
            timing: Timing::default(),
            is_cold: false,
            ran_at: node,
            reply: None,
            is_orphan: false,
        });
        match self.nodes[node as usize].is_alive {
            true => self.decide(call),
            false => self.finish_leg(call, Ended::Unreachable),
        }
    }

    /// A call as it comes to the node of its user.
    pub(super) fn first_leg(
        &self,
        node: u32,
        function: u32,
        (class, names_class): (u32, bool),
        arrived: Time,
    ) -> Leg {
        let (world, life) = (self.world, self.nodes[node as usize].life);
        let placement = Placement::new(Arrival {
            origin: Origin::Here,
            visited: Vec::new(),
            hops: HOPS_MAX,
            arrived,
            deadline: world.qos[class as usize].deadline_of(arrived, None, false),
            known: true,
            wanted: world.functions[function as usize].wanted.clone(),
            fits_here: true,
            class: self.class_key(class, names_class),
            policy: self.policy(node, function, class),
        });
        Leg::new(node, life, self.with_beside(node, placement))
    }

    /// What a scheduler is asked about a call.
    pub(super) fn request(
        world: &World,
        call: &Call,
        node: &Node,
        patient: bool,
    ) -> Option<Request> {
        let function = &world.functions[call.function as usize];
        let arrival = call.legs.last()?.placement.arrival();
        Some(Request {
            function: node.keys[call.function as usize]?,
            class: call.class as usize,
            patient,
            arrived: arrival.arrived,
            deadline: arrival.deadline,
            persists_until: None,
            timeout: function.timeout,
            per_second: None,
            elsewhere: node.served_elsewhere,
        })
    }

    /// Does what the scheduler of a node has asked for, and looks after it in time.
    pub(super) fn settle(&mut self, at: u32) {
        while !self.nodes[at as usize].actions.is_empty() {
            let actions = std::mem::take(&mut self.nodes[at as usize].actions);
            for action in actions {
                self.act(at, action);
            }
        }
        self.look_after(at);
    }

    /// Sees to it that a scheduler's next moment is not missed.
    pub(super) fn look_after(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        if let Some(next) = node.scheduler.next_event()
            && next < node.timer
        {
            // Not before the next moment: what is due now was done.
            let next = next.max(self.now + Duration::from_nanos(1));
            node.timer = next;
            let life = node.life;
            self.events.plan(next, Event::Expire { node: at, life });
        }
    }

    fn act(&mut self, at: u32, action: Action<CallId>) {
        let now = self.now;
        let node = &mut self.nodes[at as usize];
        match action {
            Action::Run { token, slot } => self.begin(token, slot),
            Action::Prepare { instance, .. } => {
                node.scheduler.prepared(instance, now, &mut node.actions);
            }
            Action::Start { instance, function } => {
                let number = node.keys.iter().position(|key| *key == Some(function));
                let law = number.map(|number| &self.world.functions[number].start);
                let takes = law.map_or(0, |law| law.draw(0, &mut node.starts));
                self.tally.count_start(at, number, now);
                let life = node.life;
                let event = Event::Started {
                    node: at,
                    life,
                    instance,
                };
                self.events.plan(now + Duration::from_nanos(takes), event);
            }
            Action::Stop { instance } => {
                node.scheduler.stopped(instance, now, &mut node.actions);
            }
            Action::GaveUp { token, why } => {
                self.stays_no_more(token);
                let ended = match why {
                    GaveUp::Late { phase, after } => Ended::Without(End::Late { phase, after }),
                    GaveUp::WaitedTooLong { .. } => Ended::Waited,
                    GaveUp::NotStarted => Ended::NotStarted,
                };
                self.finish_leg(token, ended);
            }
            Action::CannotStart { token, .. } | Action::Removed { token } => {
                self.stays_no_more(token);
                self.finish_leg(token, Ended::NotStarted);
            }
        }
    }

    /// A call waits no longer, in whatever way it did.
    pub(super) fn stays_no_more(&mut self, id: CallId) {
        let call = self.calls.at(id);
        let function = call.function;
        let leg = call.leg();
        let stay = std::mem::replace(&mut leg.stay, Stay::Under);
        let Some(member) = self.nodes[leg.node as usize].member.as_mut() else {
            return;
        };
        match stay {
            Stay::Queued {
                leaves: Some(number),
                ..
            }
            | Stay::Elsewhere(number) => member.waiters.leave(&function, number),
            Stay::Queued { leaves: None, .. } | Stay::Under | Stay::Code | Stay::Turn => {}
        }
    }

    /// A call begins to run.
    pub(super) fn begin(&mut self, id: CallId, slot: Slot) {
        self.stays_no_more(id);
        let now = self.now;
        let call = self.calls.at(id);
        let at = call.node();
        let (world, node) = (self.world, &self.nodes[at as usize]);
        let times = node.slow / world.class(at).speed.0;
        let takes = Duration::from_nanos((call.service as f64 * times) as u64);
        let timeout = world.functions[call.function as usize].timeout;
        let leg = call.leg();
        let (fetched, arrival) = (leg.fetched, leg.placement.arrival());
        let (arrived, deadline) = (arrival.arrived, arrival.deadline);
        let left = deadline.since(now);
        let (takes, ended) = if takes <= timeout.min(left) {
            let failed = call.fails;
            (takes, Ended::Answered { ran: takes, failed })
        } else if left < timeout {
            let (phase, after) = (Phase::Run, deadline.since(arrived));
            (left, Ended::Without(End::Late { phase, after }))
        } else {
            (timeout, Ended::TimedOut)
        };
        call.is_cold = slot.waited_for_start().is_some();
        call.waited = now.since(call.arrived);
        let since_start = slot.waited_for_start_since().unwrap_or(now);
        call.timing = Timing {
            fetched,
            queued: since_start.since(arrived),
            started: now.since(since_start),
            ran: takes,
        };
        call.ran_at = at;
        call.running = Some((slot, now, ended));
        self.events.plan(now + takes, Event::End { call: id });
        self.changed(at);
    }

    /// A call has run.
    fn end(&mut self, id: CallId) {
        let now = self.now;
        let Some(call) = self.calls.get(id) else {
            return;
        };
        let Some((slot, since, ended)) = call.running.take() else {
            return;
        };
        let took = now.since(since);
        let ran = match ended {
            Ended::Answered { failed: false, .. } => Ran::Answered(took),
            Ended::Answered { failed: true, .. } => Ran::Failed,
            Ended::Without(_)
            | Ended::TimedOut
            | Ended::NotStarted
            | Ended::Waited
            | Ended::Gone
            | Ended::Unreachable => Ran::TimedOut(took),
        };
        let at = call.node();
        let cpu = self.world.functions[call.function as usize]
            .profile
            .call
            .cpu;
        let node = &mut self.nodes[at as usize];
        node.busy += took.as_nanos() * u128::from(cpu.as_millicores());
        node.scheduler
            .finish(slot, Some(ran), now, &mut node.actions);
        self.finish_leg(id, ended);
        self.settle(at);
        self.serve_turns(at, None);
        self.changed(at);
    }

    /// A call is over for its user.
    pub(super) fn is_over(&mut self, id: CallId, ended: Ended) {
        let Some(mut call) = self.calls.remove(id) else {
            return;
        };
        if call.is_tried_again(ended) {
            return self.call_again(call);
        }
        if !call.is_orphan {
            let outcome = match ended {
                Ended::Answered { failed: false, .. } => Outcome::Answered,
                Ended::Answered { failed: true, .. } => Outcome::Failed,
                Ended::Without(End::Refused { reason, .. }) => refused(reason),
                Ended::Without(End::Late { .. }) => Outcome::Late,
                Ended::Without(End::Nowhere | End::Unknown) => Outcome::Nowhere,
                Ended::Without(End::Lost) | Ended::Gone | Ended::Unreachable => Outcome::Lost,
                Ended::TimedOut => Outcome::TimedOut,
                Ended::NotStarted => Outcome::NotStarted,
                Ended::Waited => Outcome::Waited,
            };
            self.tally.note(&call, outcome, self.now);
        }
        call.legs.clear();
        self.tally.spare_legs.push(call.legs);
    }
}

/// Refusals that a report tells apart.
fn refused(reason: Refusal) -> Outcome {
    match reason {
        Refusal::WaitedTooLong => Outcome::Waited,
        Refusal::NobodyHasRoom => Outcome::NobodyHasRoom,
        Refusal::QueueFull
        | Refusal::TooManyCalls
        | Refusal::Overloaded
        | Refusal::BacklogFull
        | Refusal::Draining
        | Refusal::RateLimit
        | Refusal::NoRoom
        | Refusal::TooManyOpen => Outcome::Refused,
    }
}
