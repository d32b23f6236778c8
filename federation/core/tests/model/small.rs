//! The loop: nodes with cores and a queue each, links, and calls.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::abilities::Abilities;
use weir_federation_core::answers;
use weir_federation_core::beside::Beside;
use weir_federation_core::congestion::Congestion;
use weir_federation_core::peers::{Met, Peers};
use weir_federation_core::placement::{
    Arrival, Attempted, Came, HOPS_MAX, Placement, Step, Window,
};
use weir_federation_core::policy::{
    Choice, ClassKey, Ending, Field, Origin, Policy, Reach, Wishes,
};
use weir_federation_core::report::{Load, Report, Role};
use weir_federation_core::samples::{numbered, report};
use weir_federation_core::snapshot::{Cost, Draws, Here, Local, Reserved, Snapshot, View, Word};
use weir_federation_core::wanted::Wanted;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::Timing;

const NODES: usize = 16;
const CORES: u32 = 4;
const COST: Cost = Cost {
    cpu: 1_000,
    long: false,
};

/// How long a call runs at speed 1, at the mean.
const SERVICE: f64 = 0.25;

/// After how long a call is of no more use.
const DEADLINE: Duration = Duration::from_secs(2);

/// After how long a client tries again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What is tried.
#[derive(Debug, Clone)]
pub(crate) struct Small {
    pub(crate) policy: String,
    /// How often nodes report.
    pub(crate) report: Duration,
    /// Part of calls that enter at a quarter of the nodes.
    pub(crate) skew: f64,
    /// Seconds and load, as a part of capacity, one after the other.
    pub(crate) loads: Vec<(f64, f64)>,
    /// How often a client tries again.
    pub(crate) retries: u32,
    pub(crate) seed: u64,
}

/// One call of a client, from its first try on.
#[derive(Debug, Clone, Copy)]
struct Ended {
    came: f64,
    /// When it was answered in time.
    answered: Option<f64>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcomes {
    ended: Vec<Ended>,
    latencies: Vec<f64>,
    answered_at: Vec<f64>,
    ran: [f64; NODES],
    lasted: f64,
    /// Calls a second that all nodes together can run.
    pub(crate) capacity: f64,
}

impl Outcomes {
    pub(crate) fn goodput(&self) -> f64 {
        self.goodput_between(0.0, f64::MAX)
    }

    /// The part of calls that came then and were answered in time.
    pub(crate) fn goodput_between(&self, from: f64, to: f64) -> f64 {
        let all = self.ended.iter().filter(|of| (from..to).contains(&of.came));
        let (mut good, mut count) = (0.0, 0.0);
        for ended in all {
            count += 1.0;
            good += f64::from(u8::from(ended.answered.is_some()));
        }
        good / f64::max(count, 1.0)
    }

    /// Answers in a second.
    pub(crate) fn answers_between(&self, from: f64, to: f64) -> f64 {
        let all = self.answered_at.iter();
        all.filter(|at| (from..to).contains(*at)).count() as f64 / (to - from)
    }

    pub(crate) fn mean_ms(&self) -> f64 {
        self.latencies.iter().sum::<f64>() / self.latencies.len().max(1) as f64 * 1e3
    }

    fn p99_ms(&self) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = sorted.len().saturating_sub(1) * 99 / 100;
        sorted.get(at).copied().unwrap_or_default() * 1e3
    }

    /// The part of its capacity that the busiest node used, by that of all.
    pub(crate) fn most_over_capacity(&self) -> f64 {
        let used: Vec<f64> = (0..NODES)
            .map(|at| self.ran[at] / f64::from(CORES))
            .collect();
        let mean = used.iter().sum::<f64>() / NODES as f64;
        used.into_iter().fold(0.0, f64::max) / mean.max(1e-9)
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls in {:.0} s, {:.4} in time, mean {:.1} ms, p99 {:.1} ms",
            self.ended.len(),
            self.lasted,
            self.goodput(),
            self.mean_ms(),
            self.p99_ms()
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client calls.
    Call,
    /// A client tries again.
    Retry(usize, u32),
    /// A call reaches a peer.
    Reach(usize, usize),
    /// A call has run.
    Done(usize, usize),
    /// The answer of a peer is back; whether the call ran.
    Back(usize, usize, bool),
    Report(usize),
    Tick(usize),
}

struct Node {
    id: PeerId,
    speed: f64,
    policy: Arc<dyn Policy>,
    beside: Arc<Beside>,
    table: Peers,
    abilities: Abilities,
    view: View,
    remembered: Option<PeerId>,
    busy: u32,
    queue: VecDeque<usize>,
    sequence: u64,
}

struct Call {
    client: usize,
    /// How often its client had tried before.
    tries: u32,
    entry: usize,
    placement: Placement<Arc<dyn Policy>>,
    came: Time,
    deadline: Time,
    work: f64,
    reserved: Option<Reserved>,
    /// What it took there, and how loaded the peer was when it answered.
    told: Option<(f64, Load)>,
    is_over: bool,
}

struct Loop<'a> {
    small: &'a Small,
    nodes: Vec<Node>,
    calls: Vec<Call>,
    clients: Vec<(Ended, usize)>,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    sequence: u64,
    now: Time,
    draws: Draws,
    function: FunctionName,
    latencies: Vec<f64>,
    answered_at: Vec<f64>,
    ran: [f64; NODES],
}

/// Plays it.
pub(crate) fn run(small: &Small) -> Outcomes {
    let mut game = Loop::new(small);
    let lasts: f64 = small.loads.iter().map(|(seconds, _)| seconds).sum();
    let end = Time::ZERO + Duration::from_secs_f64(lasts + 1.0);
    game.plan(Duration::ZERO, Event::Call);
    for node in 0..NODES {
        let phase = small.report.mul_f64(node as f64 / NODES as f64);
        game.hear(node);
        game.plan(phase, Event::Report(node));
        game.plan(Duration::ZERO, Event::Tick(node));
    }
    while let Some(Reverse((at, _, event))) = game.events.pop() {
        game.now = at;
        if matches!(event, Event::Report(_) | Event::Tick(_)) && at > end {
            continue;
        }
        game.happens(event, end);
    }
    Outcomes {
        ended: game.clients.iter().map(|(ended, _)| *ended).collect(),
        latencies: game.latencies,
        answered_at: game.answered_at,
        ran: game.ran,
        lasted: lasts,
        capacity: capacity(),
    }
}

fn speed(node: usize) -> f64 {
    1.0 + (node * 7 % 4) as f64
}

fn capacity() -> f64 {
    (0..NODES).map(speed).sum::<f64>() * f64::from(CORES) / SERVICE
}

/// One way, from 2.5 to 25 ms.
fn way(from: usize, to: usize) -> Duration {
    let apart = (from * 5 + to * 11).max(to * 5 + from * 11) % 10 + 1;
    Duration::from_micros(2_500 * apart as u64)
}

impl<'a> Loop<'a> {
    fn new(small: &'a Small) -> Loop<'a> {
        let choice: Choice = small.policy.parse().expect("a policy");
        let function: FunctionName = "shout".parse().expect("a name");
        let nodes = (0..NODES).map(|number| {
            let id = numbered(number as u32);
            let mut abilities = Abilities::default();
            for other in (0..NODES).filter(|other| *other != number) {
                abilities.ready(&function, numbered(other as u32), 0);
            }
            Node {
                id,
                speed: speed(number),
                policy: choice.build(),
                beside: Arc::new(Beside::default()),
                table: Peers::new(id, 1),
                abilities,
                view: View::default(),
                remembered: None,
                busy: 0,
                queue: VecDeque::new(),
                sequence: 0,
            }
        });
        Loop {
            small,
            nodes: nodes.collect(),
            calls: Vec::new(),
            clients: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            now: Time::ZERO + Duration::from_millis(1),
            draws: Draws::new(small.seed),
            function,
            latencies: Vec::new(),
            answered_at: Vec::new(),
            ran: [0.0; NODES],
        }
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        let at = self.now + after;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn draw(&mut self) -> f64 {
        self.draws.next().expect("it never ends")
    }

    fn seconds(&self) -> f64 {
        self.now.since(Time::ZERO).as_secs_f64()
    }

    fn happens(&mut self, event: Event, end: Time) {
        match event {
            Event::Call => self.client(),
            Event::Retry(client, tries) => self.arrive(client, tries),
            Event::Reach(call, at) => self.reach(call, at),
            Event::Done(call, at) => self.done(call, at),
            Event::Back(call, at, ran) => self.back(call, at, ran),
            Event::Report(at) => {
                self.hear(at);
                self.plan(self.small.report, event);
            }
            Event::Tick(at) => {
                if self.now < end {
                    self.tick(at, event);
                }
            }
        }
    }

    /// The load as a part of capacity, now.
    fn load(&self) -> Option<f64> {
        let mut left = self.seconds();
        for (seconds, load) in &self.small.loads {
            if left < *seconds {
                return Some(*load);
            }
            left -= seconds;
        }
        None
    }

    fn client(&mut self) {
        let Some(load) = self.load() else { return };
        let gap = -(1.0 - self.draw()).ln() / (capacity() * load);
        self.plan(Duration::from_secs_f64(gap), Event::Call);
        let quarter = NODES / 4;
        let among = match self.draw() < self.small.skew {
            true => 0..quarter,
            false => quarter..NODES,
        };
        let entry = among.start + (self.draw() * among.len() as f64) as usize;
        let came = self.seconds();
        let ended = Ended {
            came,
            answered: None,
        };
        self.clients.push((ended, entry));
        self.arrive(self.clients.len() - 1, 0);
    }

    fn arrive(&mut self, client: usize, tries: u32) {
        let entry = self.clients[client].1;
        let work = -(1.0 - self.draw()).ln() * SERVICE;
        let deadline = self.now + DEADLINE;
        let node = &self.nodes[entry];
        let arrival = Arrival {
            origin: Origin::Here,
            visited: vec![node.id],
            hops: HOPS_MAX,
            arrived: self.now,
            deadline,
            known: true,
            wanted: Arc::new(Wanted::default()),
            fits_here: true,
            class: ClassKey::NONE,
            policy: node.policy.clone(),
        };
        self.calls.push(Call {
            client,
            tries,
            entry,
            placement: Placement::new(arrival).beside(node.beside.clone()),
            came: self.now,
            deadline,
            work,
            reserved: None,
            told: None,
            is_over: false,
        });
        self.decide(self.calls.len() - 1);
    }

    fn own_load(&self, at: usize) -> Load {
        let node = &self.nodes[at];
        let free = match node.queue.is_empty() {
            true => CORES - node.busy,
            false => 0,
        };
        Load {
            cpu_total: (f64::from(CORES) * 1e3) as u32,
            cpu_free: (CORES - node.busy) * 1_000,
            running: node.busy,
            waiting: node.queue.len() as u32,
            guest_cpu: free * COST.cpu,
            guest_cpu_long: free * COST.cpu,
            ..report().load
        }
    }

    fn said(&mut self, at: usize) -> Report {
        let load = self.own_load(at);
        let node = &mut self.nodes[at];
        node.sequence += 1;
        let mut said = report();
        (said.sequence, said.load) = (node.sequence, load);
        said.offers[0].service_micros = (SERVICE / node.speed * 1e6) as u64;
        (said.offers[0].warm, said.offers[0].startable) = (64, 64);
        said
    }

    /// All hear of a node.
    fn hear(&mut self, at: usize) {
        let said = self.said(at);
        let id = self.nodes[at].id;
        for other in (0..NODES).filter(|other| *other != at) {
            let node = &mut self.nodes[other];
            node.table.hear(id, said.clone(), self.now);
            node.table.measured(&id, way(other, at) + way(at, other));
            node.view = node.table.view(&said, self.now);
            self.pump(other);
        }
    }

    fn tick(&mut self, at: usize, event: Event) {
        let load = self.own_load(at);
        let chance = (self.draw() * 2.0_f64.powi(53)) as u64;
        let node = &mut self.nodes[at];
        let mut wishes = Wishes::default();
        let next = node.policy.tick(
            &Field {
                own: node.id,
                architecture: "x86_64",
                role: Role::Edge,
                load,
                regions: &[],
                view: &node.view,
                congestion: &Congestion::default(),
                now: self.now,
                chance,
            },
            &mut wishes,
        );
        if next != Time::NEVER {
            let after = next.since(self.now).max(Duration::from_millis(10));
            self.plan(after, event);
        }
        // A probe tells how a peer is, as an answer does; its way is left out.
        for peer in wishes.probes().to_vec() {
            let other = (0..NODES).find(|other| self.nodes[*other].id == peer);
            let load = self.own_load(other.expect("a node"));
            self.word(at, peer, load);
        }
    }

    /// A node hears how loaded a peer is.
    fn word(&mut self, at: usize, peer: PeerId, load: Load) {
        let own = report();
        let node = &mut self.nodes[at];
        let word = Some(Word { load, under_way: 0 });
        node.table.met(peer, Met::Told(word), self.now);
        node.view = node.table.view(&own, self.now);
    }

    fn service(&self, at: usize) -> f64 {
        SERVICE / self.nodes[at].speed
    }

    /// How long a call would wait here.
    fn wait(&self, at: usize) -> Duration {
        let ahead = self.nodes[at].queue.len() as f64 / f64::from(CORES);
        Duration::from_secs_f64(ahead * self.service(at))
    }

    fn decide(&mut self, id: usize) {
        for _ in 0..16 {
            let at = self.calls[id].entry;
            let service = Duration::from_secs_f64(self.service(at));
            let wait = self.wait(at);
            let node = &self.nodes[at];
            let is_free = node.busy < CORES && node.queue.is_empty();
            let waits = self.now + wait + service < self.calls[id].deadline;
            let window = Window {
                here: if is_free { Here::Warm } else { Here::Full },
                queue: waits.then_some(wait),
                turn: None,
                deployed: true,
                refusal: None,
            };
            let chance = (self.draw() * 2.0_f64.powi(53)) as u64;
            let step = self.step(id, &window, service, chance);
            match step {
                Step::Run => return self.start(id, at),
                Step::Wait { .. } => return self.nodes[at].queue.push_back(id),
                Step::Offer { to, .. } => {
                    if self.offer(id, at, to) {
                        return;
                    }
                }
                Step::LookWider => {}
                Step::Bring | Step::WaitElsewhere { .. } | Step::End(_) => {
                    return self.fails(id);
                }
            }
        }
        self.fails(id);
    }

    fn step(&mut self, id: usize, window: &Window, service: Duration, chance: u64) -> Step {
        let call = &mut self.calls[id];
        let node = &mut self.nodes[call.entry];
        let abilities = node.abilities.of(&self.function);
        let snapshot = Snapshot {
            local: Local {
                here: window.here,
                queue: window.queue,
                service: Some(service),
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &[],
            },
            view: &node.view,
            abilities: &abilities,
            remembered: node.remembered,
            congestion: None,
            now: self.now,
            chance,
        };
        let request = call.placement.request(&self.function, &[], Some(service));
        let away = || false;
        let decided = call
            .placement
            .decide(window, &request, &snapshot, away, &mut ());
        call.placement.take(decided.step, self.now);
        decided.step
    }

    /// Takes a place at a peer and sends the call there, if there is one.
    fn offer(&mut self, id: usize, at: usize, to: usize) -> bool {
        let node = &mut self.nodes[at];
        let peer = node.view.peers[to].id;
        node.table.window(&peer);
        node.view = node.table.view(&report(), self.now);
        let abilities = node.abilities.of(&self.function);
        let view = node.view.peer(&peer).expect("it takes calls");
        let Some(reserved) = answers::seize(view, &abilities, 0, COST, self.now) else {
            self.calls[id].placement.came(Came::PlaceTaken, self.now);
            return false;
        };
        node.remembered = Some(peer);
        let call = &mut self.calls[id];
        call.reserved = Some(reserved);
        call.placement.goes(peer, Reach::Horizontal, self.now);
        let other = (0..NODES).find(|other| self.nodes[*other].id == peer);
        let other = other.expect("a node");
        self.plan(way(at, other), Event::Reach(id, other));
        true
    }

    fn start(&mut self, id: usize, at: usize) {
        self.nodes[at].busy += 1;
        let runs = self.calls[id].work / self.nodes[at].speed;
        self.ran[at] += runs;
        self.calls[id].told = Some((runs, Load::default()));
        self.plan(Duration::from_secs_f64(runs), Event::Done(id, at));
    }

    fn reach(&mut self, id: usize, at: usize) {
        let node = &self.nodes[at];
        if node.busy < CORES && node.queue.is_empty() {
            return self.start(id, at);
        }
        let load = self.own_load(at);
        self.calls[id].told = Some((0.0, load));
        let back = way(at, self.calls[id].entry);
        self.plan(back, Event::Back(id, at, false));
    }

    fn done(&mut self, id: usize, at: usize) {
        self.nodes[at].busy -= 1;
        let entry = self.calls[id].entry;
        if entry == at {
            self.attempted(id, Ending::Answered);
            self.answered(id);
        } else {
            let load = self.own_load(at);
            if let Some((_, told)) = &mut self.calls[id].told {
                *told = load;
            }
            self.plan(way(at, entry), Event::Back(id, at, true));
        }
        self.pump(at);
    }

    fn back(&mut self, id: usize, at: usize, ran: bool) {
        let peer = self.nodes[at].id;
        let (runs, load) = self.calls[id].told.expect("it says how it is");
        drop(self.calls[id].reserved.take());
        let entry = self.calls[id].entry;
        let node = &mut self.nodes[entry];
        let room = node.abilities.ready(&self.function, peer, 0);
        let places = load.guest_cpu / COST.cpu;
        let under_way = room.held();
        room.renew(places.saturating_sub(under_way), self.now);
        let word = Some(Word {
            load,
            under_way: under_way.saturating_mul(COST.cpu),
        });
        let met = match ran {
            true => {
                room.learn(Duration::from_secs_f64(runs));
                Met::Answer(word)
            }
            false => Met::Full {
                word,
                claims: places > 0,
            },
        };
        node.table.met(peer, met, self.now);
        node.view = node.table.view(&report(), self.now);
        if ran {
            self.attempted(id, Ending::Answered);
            self.answered(id);
        } else {
            self.attempted(id, Ending::Refused);
            self.calls[id].placement.came(Came::Full(peer), self.now);
            self.decide(id);
        }
        self.pump(entry);
    }

    fn attempted(&mut self, id: usize, ending: Ending) {
        let (runs, _) = self.calls[id].told.unwrap_or_default();
        let how = Attempted {
            function: &self.function,
            ending,
            timing: Timing {
                ran: Duration::from_secs_f64(runs),
                ..Timing::default()
            },
            sent_bytes: 0,
            answer_bytes: 0,
        };
        self.calls[id].placement.attempted(&how, self.now);
    }

    /// Whoever waits takes the places that are free, here and elsewhere.
    fn pump(&mut self, at: usize) {
        while let Some(id) = self.nodes[at].queue.pop_front() {
            if self.calls[id].deadline <= self.now {
                self.fails(id);
                continue;
            }
            if self.nodes[at].busy < CORES {
                self.start(id, at);
                continue;
            }
            let goes = self.place_elsewhere(at).is_some_and(|to| {
                self.calls[id].placement.moves();
                self.offer(id, at, to)
            });
            if !goes {
                return self.nodes[at].queue.push_front(id);
            }
        }
    }

    /// The nearest peer with a place, if it is worth the way: a promise of one in
    /// production.
    fn place_elsewhere(&self, at: usize) -> Option<usize> {
        let view = &self.nodes[at].view;
        let places = view.neighbours().members();
        let free = places.filter(|place| view.peers[*place].room_for(COST) > 0);
        let nearest = free.min_by_key(|place| view.peers[*place].round_trip())?;
        let wait = Duration::from_secs_f64(self.service(at)) + self.wait(at);
        (view.peers[nearest].round_trip() < wait).then_some(nearest)
    }

    fn answered(&mut self, id: usize) {
        let call = &mut self.calls[id];
        if call.is_over {
            return;
        }
        call.is_over = true;
        if self.now > call.deadline {
            return self.again(id);
        }
        let client = call.client;
        self.latencies.push(self.now.since(call.came).as_secs_f64());
        let at = self.seconds();
        self.answered_at.push(at);
        self.clients[client].0.answered = Some(at);
    }

    fn fails(&mut self, id: usize) {
        if !std::mem::replace(&mut self.calls[id].is_over, true) {
            self.again(id);
        }
    }

    /// Its client tries again.
    fn again(&mut self, id: usize) {
        let Call { client, tries, .. } = self.calls[id];
        if tries < self.small.retries {
            let after = RETRY_AFTER.mul_f64(0.5 + self.draw());
            self.plan(after, Event::Retry(client, tries + 1));
        }
    }
}
