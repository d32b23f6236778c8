//! Laws of admission, checked on random histories against a plain model of
//! the shell: what it was told to start, stop and run, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::queue::Fit;
use crate::resources::{Cpu, Memory};

/// One thing that happens. Numbers choose among what is there, modulo its count.
#[derive(Debug, Clone)]
enum Event {
    Arrive {
        function: usize,
        class: usize,
        patience: u64,
        accepted: bool,
    },
    /// A place is free elsewhere, where calls with such tokens may go.
    Offer(u64),
    ComeBack(usize),
    Finish(usize),
    Started(usize),
    StartFailed(usize),
    Stopped(usize),
    Gone(usize),
    Cancel(usize),
    Pass(u64),
    Add(Profile),
    Update(usize, Profile),
    Scale(usize, u32),
    Remove(usize),
}

const CAPACITY: Resources = Resources {
    cpu: Cpu::millicores(1000),
    memory: Memory::bytes(100),
};

fn any_profile() -> impl Strategy<Value = Profile> {
    (
        0u32..300,
        0u64..40,
        1u32..700,
        0u64..40,
        1u32..4,
        1u32..4,
        0u32..2,
        0u64..50,
    )
        .prop_map(
            |(instance_cpu, instance, cpu, memory, calls, max_instances, min_instances, keep)| {
                Profile {
                    instance: Resources {
                        cpu: Cpu::millicores(instance_cpu),
                        memory: Memory::bytes(instance),
                    },
                    call: Resources {
                        cpu: Cpu::millicores(cpu),
                        memory: Memory::bytes(memory),
                    },
                    calls_per_instance: calls,
                    max_instances,
                    min_instances,
                    keep_alive: Duration::from_millis(keep),
                    keeping: crate::keep::Keeping::ALL[(keep % 3) as usize],
                }
            },
        )
}

fn any_event() -> impl Strategy<Value = Event> {
    let i = any::<usize>;
    prop_oneof![
        12 => (i(), 0usize..2, 1u64..100, any::<bool>()).prop_map(
            |(function, class, patience, accepted)| Event::Arrive {
                function,
                class,
                patience,
                accepted,
            }
        ),
        2 => (1u64..4).prop_map(Event::Offer),
        2 => i().prop_map(Event::ComeBack),
        8 => i().prop_map(Event::Finish),
        6 => i().prop_map(Event::Started),
        1 => i().prop_map(Event::StartFailed),
        5 => i().prop_map(Event::Stopped),
        1 => i().prop_map(Event::Gone),
        1 => i().prop_map(Event::Cancel),
        3 => (1u64..40).prop_map(Event::Pass),
        1 => any_profile().prop_map(Event::Add),
        1 => (i(), any_profile()).prop_map(|(at, profile)| Event::Update(at, profile)),
        1 => (i(), 0u32..4).prop_map(|(at, replicas)| Event::Scale(at, replicas)),
        1 => i().prop_map(Event::Remove),
    ]
}

/// A call of a class that waits as long as it takes.
/// A function whose calls hold nothing.
const WEIGHTLESS: Profile = Profile {
    instance: Resources::ZERO,
    call: Resources::ZERO,
    calls_per_instance: 1,
    max_instances: 1,
    min_instances: 0,
    keep_alive: Duration::ZERO,
    keeping: crate::keep::Keeping::Fixed,
};

fn endless(class: usize) -> Waiting {
    Waiting {
        class,
        kind: Kind::Awaited,
        arrived: Time::ZERO,
        leave: Time::NEVER,
        end: Time::NEVER,
        cost: 0,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Ready,
    Stopping,
}

#[derive(Debug)]
struct ModelInstance {
    function: FunctionKey,
    /// Which of the function's deployments it belongs to.
    version: u32,
    profile: Profile,
    stage: Stage,
}

#[derive(Debug)]
struct WaitingCall {
    function: FunctionKey,
    class: usize,
    kind: Kind,
    arrived: Time,
    give_up: Time,
    ticket: Option<Ticket>,
}

impl WaitingCall {
    fn is_late(&self, now: Time) -> bool {
        self.kind == Kind::Awaited
            && now.since(self.arrived) * 2 >= self.give_up.since(self.arrived)
    }
}

struct Shell {
    admission: Admission<u64>,
    actions: Vec<Action<u64>>,
    now: Time,
    /// Profile and version of what is deployed.
    functions: BTreeMap<FunctionKey, (Profile, u32)>,
    instances: BTreeMap<InstanceId, ModelInstance>,
    running: Vec<(Slot, Resources)>,
    waiting: BTreeMap<u64, WaitingCall>,
    /// Calls that left for a place elsewhere.
    away: Vec<(u64, WaitingCall, Seat)>,
    /// How many came back.
    returned: usize,
    next_token: u64,
    version: u32,
}

impl Shell {
    fn new() -> Self {
        let class = |name: &str, priority, queue| ClassConfig {
            name: name.to_owned(),
            priority,
            queue,
            ..ClassConfig::default()
        };
        Shell {
            admission: Admission::new(CAPACITY, &[class("a", 10, 20), class("b", 1, 20)], 40),
            actions: Vec::new(),
            now: Time::ZERO,
            functions: BTreeMap::new(),
            instances: BTreeMap::new(),
            running: Vec::new(),
            waiting: BTreeMap::new(),
            away: Vec::new(),
            returned: 0,
            next_token: 0,
            version: 0,
        }
    }

    fn function(&self, at: usize) -> Option<FunctionKey> {
        let count = self.functions.len();
        (count > 0).then(|| *self.functions.keys().nth(at % count).expect("within"))
    }

    fn instance(&self, at: usize, stage: Option<Stage>) -> Option<InstanceId> {
        let fitting: Vec<_> = self
            .instances
            .iter()
            .filter(|(_, instance)| stage.is_none_or(|stage| stage == instance.stage))
            .map(|(id, _)| *id)
            .collect();
        (!fitting.is_empty()).then(|| fitting[at % fitting.len()])
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Arrive {
                function,
                class,
                patience,
                accepted,
            } => {
                if let Some(function) = self.function(function) {
                    let give_up = match accepted {
                        true => Time::NEVER,
                        false => now + Duration::from_millis(patience),
                    };
                    self.arrive(function, class, give_up);
                }
            }
            Event::Offer(every) => {
                let mut asked = Vec::new();
                let goes = |token: &u64| {
                    asked.push(*token);
                    token.is_multiple_of(every)
                };
                let left = self.admission.offer(now, goes, &mut self.actions);
                self.offered(left, &asked);
            }
            Event::ComeBack(at) if !self.away.is_empty() => {
                let (token, call, seat) = self.away.swap_remove(at % self.away.len());
                if self.functions.contains_key(&call.function) {
                    self.come_back(token, call, seat);
                }
            }
            Event::ComeBack(_) => {}
            Event::Finish(at) if !self.running.is_empty() => {
                let (slot, _) = self.running.swap_remove(at % self.running.len());
                self.admission.finish(slot, now, &mut self.actions);
            }
            Event::Finish(_) => {}
            Event::Started(at) => {
                if let Some(id) = self.instance(at, Some(Stage::Starting)) {
                    self.instances.get_mut(&id).expect("chosen").stage = Stage::Ready;
                    self.admission.started(id, now, &mut self.actions);
                }
            }
            Event::StartFailed(at) => {
                if let Some(id) = self.instance(at, Some(Stage::Starting)) {
                    self.instances.remove(&id);
                    self.admission.start_failed(id, now, &mut self.actions);
                }
            }
            Event::Stopped(at) => {
                if let Some(id) = self.instance(at, Some(Stage::Stopping)) {
                    self.instances.remove(&id);
                    self.admission.stopped(id, now, &mut self.actions);
                }
            }
            Event::Gone(at) => {
                if let Some(id) = self.instance(at, None) {
                    self.instances.remove(&id);
                    self.admission.gone(id, now, &mut self.actions);
                }
            }
            Event::Cancel(at) if !self.waiting.is_empty() => {
                let count = self.waiting.len();
                let (&token, call) = self.waiting.iter().nth(at % count).expect("within");
                let ticket = call.ticket.expect("set when it began to wait");
                let back = self.admission.cancel(ticket, now, &mut self.actions);
                assert_eq!(back, Some(token));
                self.waiting.remove(&token);
                assert_eq!(self.admission.cancel(ticket, now, &mut self.actions), None);
            }
            Event::Cancel(_) => {}
            Event::Pass(milliseconds) => {
                self.now = now + Duration::from_millis(milliseconds);
                self.admission.expire(self.now, &mut self.actions);
            }
            Event::Add(profile) => {
                if self.functions.len() < 4
                    && let Ok(key) = self.admission.add("", profile, now, &mut self.actions)
                {
                    self.version += 1;
                    self.functions.insert(key, (profile, self.version));
                }
            }
            Event::Update(at, profile) => {
                if let Some(key) = self.function(at)
                    && self
                        .admission
                        .update(key, profile, now, &mut self.actions)
                        .is_ok()
                {
                    self.version += 1;
                    self.functions.insert(key, (profile, self.version));
                }
            }
            Event::Scale(at, replicas) => {
                if let Some(key) = self.function(at) {
                    if replicas == 0 {
                        self.version += 1;
                        self.functions.get_mut(&key).expect("chosen").1 = self.version;
                    }
                    self.admission.scale(key, replicas, now, &mut self.actions);
                }
            }
            Event::Remove(at) => {
                if let Some(key) = self.function(at) {
                    self.functions.remove(&key);
                    self.admission.remove("", key, now, &mut self.actions);
                }
            }
        }
        self.act();
        self.check();
    }

    fn arrive(&mut self, function: FunctionKey, class: usize, give_up: Time) {
        let token = self.next_token;
        self.next_token += 1;
        let others = self.waiting.values().any(|call| call.function == function);
        let kind = match give_up {
            Time::NEVER => Kind::Accepted,
            _ => Kind::Awaited,
        };
        let arrival = Arrival {
            function,
            class,
            kind,
            patient: true,
            arrived: self.now,
            leave: give_up,
            end: give_up,
            pace: Pace::default(),
        };
        match self
            .admission
            .arrive(arrival, || token, self.now, &mut self.actions)
        {
            Verdict::Run(slot) => {
                assert!(!others, "it went before calls that waited");
                self.run(slot);
            }
            Verdict::Wait(ticket) => {
                let ticket = Some(ticket);
                self.waiting.insert(
                    token,
                    WaitingCall {
                        function,
                        class,
                        kind,
                        arrived: self.now,
                        give_up,
                        ticket,
                    },
                );
            }
            Verdict::Refuse(Refusal::TooManyCalls) => {}
            Verdict::Refuse(refusal) => {
                assert_eq!(
                    kind,
                    Kind::Awaited,
                    "what was accepted is taken: {refusal:?}"
                );
            }
            Verdict::Unknown => panic!("the function is deployed"),
        }
    }

    fn offered(&mut self, left: Option<(u64, Seat)>, asked: &[u64]) {
        // What it made room for, and who gave up, comes first.
        self.act();
        let mut once = asked.to_vec();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), asked.len(), "nobody is asked twice");
        let Some((token, seat)) = left else {
            return;
        };
        assert_eq!(asked.last(), Some(&token), "whoever says yes goes");
        let call = self.answered(token);
        self.away.push((token, call, seat));
    }

    fn come_back(&mut self, token: u64, call: WaitingCall, seat: Seat) {
        self.returned += 1;
        let back =
            self.admission
                .come_back(call.function, seat, || token, self.now, &mut self.actions);
        match back {
            Verdict::Run(slot) => self.run(slot),
            Verdict::Wait(ticket) => {
                let ticket = Some(ticket);
                self.waiting.insert(token, WaitingCall { ticket, ..call });
            }
            Verdict::Refuse(refusal) => panic!("it was taken once: {refusal:?}"),
            Verdict::Unknown => panic!("the function is deployed"),
        }
    }

    fn run(&mut self, slot: Slot) {
        let instance = &self.instances[&slot.instance()];
        assert_eq!(
            instance.stage,
            Stage::Ready,
            "calls run on ready instances only"
        );
        let (_, version) = self.functions[&slot.function()];
        assert_eq!(
            instance.version, version,
            "no call on what an update left behind"
        );
        let holds = instance.profile.call;
        self.running.push((slot, holds));
    }

    fn answered(&mut self, token: u64) -> WaitingCall {
        self.waiting
            .remove(&token)
            .expect("each token is given back once")
    }

    fn act(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Run { token, slot } => {
                    let call = self.answered(token);
                    let in_lane = |(_, other): &(&u64, &WaitingCall)| {
                        other.function == call.function
                            && other.class == call.class
                            && other.kind == call.kind
                    };
                    let oldest = self.waiting.range(..token).find(in_lane);
                    let newer = self.waiting.range(token..).find(in_lane);
                    match oldest {
                        None => assert!(
                            newer.is_none() || !call.is_late(self.now),
                            "the newest is served first while the oldest is late"
                        ),
                        Some((_, oldest)) => assert!(
                            newer.is_none() && oldest.is_late(self.now),
                            "first come, first served until then"
                        ),
                    }
                    self.run(slot);
                }
                Action::Start { instance, function } => {
                    let (profile, version) = self.functions[&function];
                    let stage = Stage::Starting;
                    let new = ModelInstance {
                        function,
                        version,
                        profile,
                        stage,
                    };
                    assert!(self.instances.insert(instance, new).is_none());
                }
                Action::Stop { instance } => {
                    assert!(
                        self.running
                            .iter()
                            .all(|(slot, _)| slot.instance() != instance),
                        "no instance is stopped under a call"
                    );
                    let instance = self.instances.get_mut(&instance).expect("it lives");
                    assert_eq!(
                        instance.stage,
                        Stage::Ready,
                        "stopped once, after its start"
                    );
                    instance.stage = Stage::Stopping;
                }
                Action::Expired { token, .. }
                | Action::CannotStart { token, .. }
                | Action::Removed { token } => {
                    self.answered(token);
                }
            }
        }
    }

    fn check(&self) {
        let instances = self
            .instances
            .values()
            .map(|instance| instance.profile.instance);
        let calls = self.running.iter().map(|(_, holds)| *holds);
        let held = instances
            .chain(calls)
            .fold(Resources::ZERO, |sum, part| sum + part);
        assert_eq!(self.admission.held(), held);
        assert!(held.fits(CAPACITY));
        assert_eq!(self.admission.running(), self.running.len());
        assert_eq!(self.admission.waiting(), self.waiting.len());
        assert_eq!(self.admission.instances(), self.instances.len());
        // Those that come back are let in whatever came meanwhile.
        assert!(self.running.len() + self.waiting.len() <= 40 + self.returned);
        for (id, instance) in &self.instances {
            let on_it = self.calls_on(*id);
            assert!(on_it <= instance.profile.calls_per_instance);
        }
        for (key, (profile, version)) in &self.functions {
            let current = |stage| self.current(*key, *version, stage).count() as u32;
            let (starting, ready) = (current(Stage::Starting), current(Stage::Ready));
            assert!(starting + ready <= profile.max_instances);
            let gauges = self.admission.gauges(*key).expect("present");
            let waiting = self
                .waiting
                .values()
                .filter(|call| call.function == *key)
                .count() as u32;
            assert_eq!(
                (gauges.starting, gauges.ready, gauges.waiting),
                (starting, ready, waiting)
            );
            if waiting > 0 && !self.admission.queue.is_held_back() {
                self.check_nobody_waits_in_vain(*key, waiting);
            }
        }
    }

    /// Whoever waits either does not fit, or waits for a start.
    fn check_nobody_waits_in_vain(&self, key: FunctionKey, waiting: u32) {
        let (profile, version) = self.functions[&key];
        let free = CAPACITY - self.admission.held();
        let has_place = self
            .current(key, version, Stage::Ready)
            .any(|id| self.calls_on(id) < profile.calls_per_instance);
        assert!(
            !(has_place && profile.call.fits(free)),
            "a call that fits is left waiting"
        );
        let starting = self.current(key, version, Stage::Starting).count() as u32;
        let live = starting + self.current(key, version, Stage::Ready).count() as u32;
        let may_start = live < profile.max_instances
            && starting * profile.calls_per_instance < waiting
            && (profile.instance + profile.call).fits(free);
        assert!(
            has_place || !may_start,
            "an instance that fits is not started"
        );
    }

    fn current(
        &self,
        key: FunctionKey,
        version: u32,
        stage: Stage,
    ) -> impl Iterator<Item = InstanceId> {
        self.instances
            .iter()
            .filter(move |(_, instance)| {
                (instance.function, instance.version, instance.stage) == (key, version, stage)
            })
            .map(|(id, _)| *id)
    }

    fn calls_on(&self, id: InstanceId) -> u32 {
        self.running
            .iter()
            .filter(|(slot, _)| slot.instance() == id)
            .count() as u32
    }

    /// Lets all starts, stops and calls end well, without time passing.
    fn come_to_rest(&mut self) {
        for _ in 0..10_000 {
            if self.instance(0, Some(Stage::Starting)).is_some() {
                self.happen(Event::Started(0));
            } else if self.instance(0, Some(Stage::Stopping)).is_some() {
                self.happen(Event::Stopped(0));
            } else if !self.running.is_empty() {
                self.happen(Event::Finish(0));
            } else {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_laws_and_ends_with_nothing_held(
        profiles in prop::collection::vec(any_profile(), 1..4),
        events in prop::collection::vec(any_event(), 0..300),
    ) {
        let mut shell = Shell::new();
        for profile in profiles {
            shell.happen(Event::Add(profile));
        }
        for event in events {
            shell.happen(event);
        }
        shell.come_to_rest();
        prop_assert!(shell.waiting.is_empty(), "whatever fits alone runs in the end");
        while !shell.functions.is_empty() {
            shell.happen(Event::Remove(0));
        }
        shell.come_to_rest();
        prop_assert_eq!(shell.admission.held(), Resources::ZERO);
        prop_assert_eq!(shell.admission.instances(), 0);
        prop_assert_eq!(shell.admission.next_event(), None);
    }

    #[test]
    fn each_class_gets_the_share_of_its_weight(
        weights in prop::collection::vec(1u32..100, 2..5),
        picks in 1usize..400,
    ) {
        let classes: Vec<_> = weights
            .iter()
            .map(|&priority| ClassConfig { priority, ..ClassConfig::default() })
            .collect();
        let mut pool = Pool::new(CAPACITY);
        let function = pool.add(WEIGHTLESS).expect("fits");
        let mut queue = Queue::new(&classes);
        queue.add(function, 0);
        for class in 0..classes.len() {
            for _ in 0..picks {
                queue.push(function, endless(class), false, Time::ZERO, class);
            }
        }
        let mut served = vec![0usize; classes.len()];
        for _ in 0..picks {
            let waited = queue.pick(Time::ZERO, |_, _| Fit::Runs).expect("all wait");
            served[waited.token] += 1;
        }
        let all: u32 = weights.iter().sum();
        for (class, weight) in weights.iter().enumerate() {
            let share = picks * *weight as usize / all as usize;
            prop_assert!(
                served[class] + classes.len() > share,
                "class {class} of weight {weight} got {} of {picks}, not {share}", served[class]
            );
        }
    }
}

#[test]
fn lanes_behind_a_short_head_are_looked_at_within_bounds() {
    let mut pool = Pool::new(CAPACITY);
    let mut queue = Queue::new(&[ClassConfig::default()]);
    for _ in 0..100 {
        let function = pool.add(WEIGHTLESS).expect("fits");
        queue.add(function, 0);
        queue.push(function, endless(0), false, Time::ZERO, ());
    }
    let mut judged = BTreeSet::new();
    assert!(
        queue
            .pick(Time::ZERO, |function, _| {
                judged.insert(function);
                Fit::Short
            })
            .is_none()
    );
    assert_eq!(judged.len(), 1 + crate::queue::LOOK_AHEAD);
}

/// A queue of one class in which each of these functions, of a namespace and at
/// a cost, has 200 calls waiting; whose calls the first so many picks serve.
fn served(functions: &[(usize, u64)], picks: usize) -> Vec<usize> {
    let mut pool = Pool::new(CAPACITY);
    let mut queue = Queue::new(&[ClassConfig::default()]);
    for (at, (namespace, cost)) in functions.iter().enumerate() {
        let function = pool.add(WEIGHTLESS).expect("fits");
        queue.add(function, *namespace);
        let waiting = Waiting {
            cost: *cost,
            ..endless(0)
        };
        for _ in 0..200 {
            queue.push(function, waiting, false, Time::ZERO, at);
        }
    }
    let mut served = vec![0; functions.len()];
    for _ in 0..picks {
        let waited = queue.pick(Time::ZERO, |_, _| Fit::Runs).expect("all wait");
        served[waited.token] += 1;
    }
    served
}

#[test]
fn functions_of_a_namespace_get_as_much_time_each() {
    assert_eq!(served(&[(0, 10_000), (0, 1_000)], 110), [10, 100]);
    assert_eq!(
        served(&[(0, 1_000), (0, 1_000), (0, 2_000)], 100),
        [40, 40, 20]
    );
}

#[test]
fn namespaces_get_as_much_time_each_however_many_functions_they_have() {
    let many = [(0, 1_000), (0, 1_000), (0, 1_000), (1, 1_000)];
    assert_eq!(served(&many, 120), [20, 20, 20, 60]);
}
