//! What admission costs per call: pool, queue, both together, and all that the
//! scheduler adds.

// The macro of criterion makes a public function without a word.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use weir_node_core::admission::{
    Action, Admission, Arrival, FunctionKey, Kind, Pace, Slot, Verdict,
};
use weir_node_core::class::ClassConfig;
use weir_node_core::pool::{Pool, Taken};
use weir_node_core::profile::Profile;
use weir_node_core::queue::{Fit, Queue, Waiting};
use weir_node_core::resources::{Cpu, Memory, Resources};
use weir_node_core::scheduler::{self, Ran, Request, Scheduler};
use weir_node_core::time::Time;

const CAPACITY: Resources = Resources {
    cpu: Cpu::cores(1000),
    memory: Memory::bytes(1 << 40),
};

fn profile() -> Profile {
    Profile {
        instance: Resources {
            cpu: Cpu::ZERO,
            memory: Memory::mebibytes(1),
        },
        call: Resources {
            cpu: Cpu::millicores(100),
            memory: Memory::mebibytes(64),
        },
        calls_per_instance: 1,
        max_instances: 100,
        min_instances: 0,
        keep_alive: Duration::from_secs(600),
        keeping: weir_node_core::keep::Keeping::Fixed,
    }
}

/// An admission that starts and stops at once, and its clock.
struct Node {
    admission: Admission<u64>,
    actions: Vec<Action<u64>>,
    now: u64,
}

impl Node {
    fn new(capacity: Resources) -> Self {
        let classes = [ClassConfig {
            queue: usize::MAX,
            ..ClassConfig::default()
        }];
        Node {
            admission: Admission::new(capacity, &classes, usize::MAX),
            actions: Vec::new(),
            now: 0,
        }
    }

    fn tick(&mut self) -> Time {
        self.now += 1000;
        Time::from_nanos(self.now)
    }

    fn add(&mut self, profile: Profile) -> FunctionKey {
        let now = self.tick();
        let key = self.admission.add("", profile, now, &mut self.actions);
        key.expect("smaller than the node")
    }

    fn arrive(&mut self, function: FunctionKey) -> Option<Slot> {
        let now = self.tick();
        let give_up = now + Duration::from_secs(30);
        let arrival = Arrival {
            function,
            class: 0,
            kind: Kind::Awaited,
            patient: true,
            arrived: now,
            leave: give_up,
            end: give_up,
            pace: Pace::default(),
        };
        match self.admission.arrive(arrival, || 0, now, &mut self.actions) {
            Verdict::Run(slot) => Some(slot),
            Verdict::Wait(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, slot: Slot) {
        let now = self.tick();
        self.admission.finish(slot, now, &mut self.actions);
    }

    /// Carries out starts and stops; returns the slot of a call that runs.
    fn carry_out(&mut self) -> Option<Slot> {
        let mut running = None;
        while let Some(action) = self.actions.pop() {
            let now = self.tick();
            match action {
                Action::Start { instance, .. } => {
                    self.admission.started(instance, now, &mut self.actions);
                }
                Action::Stop { instance } => {
                    self.admission.stopped(instance, now, &mut self.actions);
                }
                Action::Run { slot, .. } => running = Some(slot),
                Action::Expired { .. } | Action::CannotStart { .. } | Action::Removed { .. } => {}
            }
        }
        running
    }

    fn add_warm(&mut self, profile: Profile) -> FunctionKey {
        let function = self.add(profile);
        assert!(self.arrive(function).is_none());
        let slot = self.carry_out().expect("there is room");
        self.finish(slot);
        function
    }
}

fn pool(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pool");
    group.bench_function("take and finish, warm", |bencher| {
        let mut pool = Pool::new(CAPACITY);
        let function = pool.add(profile()).expect("smaller than the node");
        assert!(pool.start(function, Time::ZERO));
        let start = pool.changes().next();
        if let Some(weir_node_core::pool::Change::Start { instance, .. }) = start {
            pool.started(instance, Time::ZERO);
        }
        bencher.iter(
            || match pool.take(black_box(function), Time::ZERO, Time::ZERO) {
                Taken::Slot(slot) => pool.finish(slot, Time::ZERO),
                other => panic!("{other:?}"),
            },
        );
    });
    group.bench_function("start that evicts one of 1000 idle instances", |bencher| {
        let memory = Memory::mebibytes(1000 + 64);
        let mut node = Node::new(Resources {
            cpu: Cpu::cores(1000),
            memory,
        });
        let functions: Vec<_> = (0..2000).map(|_| node.add(profile())).collect();
        let mut next = functions.iter().cycle();
        bencher.iter(|| {
            // Every second function was evicted a thousand calls ago.
            let function = *next.next().expect("endless");
            let slot = node.arrive(function);
            let slot = slot.or_else(|| node.carry_out()).expect("room was made");
            node.finish(slot);
        });
    });
    group.finish();
}

fn waiting_until(class: usize, give_up: Time) -> Waiting {
    Waiting {
        class,
        kind: Kind::Awaited,
        arrived: Time::ZERO,
        leave: give_up,
        end: give_up,
        cost: 1_000_000,
    }
}

fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    let classes = [100, 10, 1].map(|priority| ClassConfig {
        priority,
        ..ClassConfig::default()
    });
    for waiting in [10, 10_000] {
        group.bench_function(format!("push and pick, {waiting} waiting"), |bencher| {
            let mut pool = Pool::new(CAPACITY);
            let functions: Vec<_> = (0..100)
                .map(|_| pool.add(profile()).expect("smaller than the node"))
                .collect();
            let mut queue = Queue::new(&classes);
            for (at, function) in functions.iter().enumerate() {
                queue.add(*function, at % 10);
            }
            let mut pushed = 0;
            let mut push = |queue: &mut Queue<u64>| {
                pushed += 1;
                let function = functions[pushed % functions.len()];
                let class = pushed % classes.len();
                let waiting = waiting_until(class, Time::from_nanos(pushed as u64));
                queue.push(function, waiting, false, Time::ZERO, 0)
            };
            for _ in 0..waiting {
                push(&mut queue);
            }
            bencher.iter(|| {
                push(&mut queue);
                black_box(queue.pick(Time::ZERO, |_, _| Fit::Runs))
            });
        });
    }
    group.bench_function("push and cancel, 10000 waiting", |bencher| {
        let mut pool = Pool::new(CAPACITY);
        let function = pool.add(profile()).expect("smaller than the node");
        let mut queue = Queue::new(&classes);
        queue.add(function, 0);
        for at in 0..10_000 {
            let waiting = waiting_until(0, Time::from_nanos(at));
            queue.push(function, waiting, false, Time::ZERO, 0);
        }
        bencher.iter(|| {
            let waiting = waiting_until(0, Time::from_nanos(5_000));
            let ticket = queue.push(function, waiting, false, Time::ZERO, 0);
            black_box(queue.remove(ticket))
        });
    });
    group.finish();
}

fn admission(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admission");
    for count in [1, 1000] {
        group.bench_function(
            format!("arrive and finish, warm, {count} functions"),
            |bencher| {
                let mut node = Node::new(CAPACITY);
                let functions: Vec<_> = (0..count).map(|_| node.add_warm(profile())).collect();
                let mut next = functions.iter().cycle();
                bencher.iter(|| {
                    let function = *next.next().expect("endless");
                    let slot = node.arrive(black_box(function)).expect("it is warm");
                    node.finish(slot);
                });
            },
        );
    }
    group.bench_function(
        "arrive and finish, 1000 waiting for processors",
        |bencher| {
            let mut node = Node::new(Resources {
                cpu: Cpu::millicores(100),
                memory: CAPACITY.memory,
            });
            let functions: Vec<_> = (0..100).map(|_| node.add_warm(profile())).collect();
            let mut next = functions.iter().cycle();
            let mut running = node.arrive(functions[0]);
            for _ in 0..1000 {
                assert!(node.arrive(*next.next().expect("endless")).is_none());
            }
            bencher.iter(|| {
                // Time passes so slowly here that nobody gives up.
                node.now -= 2000;
                assert!(node.arrive(*next.next().expect("endless")).is_none());
                node.finish(running.take().expect("one runs"));
                running = node.carry_out();
            });
        },
    );
    group.finish();
}

/// A scheduler whose shell does all at once, and its clock.
struct Machine {
    scheduler: Scheduler<u64>,
    actions: Vec<scheduler::Action<u64>>,
    functions: Vec<FunctionKey>,
    now: u64,
}

impl Machine {
    /// One with `count` functions that are warm.
    fn new(cpu: Cpu, count: usize) -> Self {
        let classes = [ClassConfig {
            queue: usize::MAX,
            max_wait: Some(Duration::from_secs(3600)),
            ..ClassConfig::default()
        }];
        let capacity = Resources {
            cpu,
            memory: CAPACITY.memory,
        };
        let mut machine = Machine {
            scheduler: Scheduler::new(capacity, &classes, usize::MAX, 2),
            actions: Vec::new(),
            functions: Vec::new(),
            now: 0,
        };
        for at in 0..count {
            let now = machine.tick();
            let added = machine
                .scheduler
                .add("", profile(), now, &mut machine.actions);
            machine
                .functions
                .push(added.expect("smaller than the node"));
            assert!(machine.arrive(at).is_none());
            let slot = machine.carry_out().expect("there is room");
            machine.finish(slot);
        }
        machine
    }

    fn tick(&mut self) -> Time {
        self.now += 1000;
        Time::from_nanos(self.now)
    }

    fn arrive(&mut self, at: usize) -> Option<Slot> {
        let now = self.tick();
        let request = Request {
            function: self.functions[at % self.functions.len()],
            class: 0,
            patient: true,
            arrived: now,
            deadline: now + Duration::from_secs(3600),
            persists_until: None,
            timeout: Duration::from_secs(60),
            per_second: Some(u32::MAX),
            elsewhere: 0,
        };
        let request = black_box(request);
        match self
            .scheduler
            .arrive(&request, || 0, now, &mut self.actions)
        {
            scheduler::Verdict::Run(slot) => Some(slot),
            scheduler::Verdict::Wait(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, slot: Slot) {
        let now = self.tick();
        let ran = Some(Ran::Answered(Duration::from_nanos(self.now % 1_000_003)));
        self.scheduler.finish(slot, ran, now, &mut self.actions);
    }

    fn carry_out(&mut self) -> Option<Slot> {
        let mut running = None;
        while let Some(action) = self.actions.pop() {
            let now = Time::from_nanos(self.now);
            let actions = &mut self.actions;
            match action {
                scheduler::Action::Run { slot, .. } => running = Some(slot),
                scheduler::Action::Prepare { instance, .. } => {
                    self.scheduler.prepared(instance, now, actions);
                }
                scheduler::Action::Start { instance, .. } => {
                    self.scheduler.started(instance, now, actions);
                }
                scheduler::Action::Stop { instance } => {
                    self.scheduler.stopped(instance, now, actions);
                }
                other => panic!("{other:?}"),
            }
        }
        running
    }
}

fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    for count in [1, 1000] {
        let name = format!("arrive and finish, warm, {count} functions");
        group.bench_function(name, |bencher| {
            let mut machine = Machine::new(CAPACITY.cpu, count);
            let mut at = 0;
            bencher.iter(|| {
                at += 1;
                let slot = machine.arrive(at).expect("it is warm");
                machine.finish(slot);
            });
        });
    }
    for (waiting, count) in [(1, 1), (100, 1), (10_000, 1), (10_000, 100)] {
        let name = format!("arrive, wait, run and finish, {waiting} waiting, {count} functions");
        group.bench_function(name, |bencher| {
            let mut machine = Machine::new(Cpu::millicores(100), count);
            let mut running = machine.arrive(0);
            for at in 0..waiting {
                assert!(machine.arrive(at).is_none());
            }
            let mut at = 0;
            bencher.iter(|| {
                at += 1;
                assert!(machine.arrive(at).is_none());
                machine.finish(running.take().expect("one runs"));
                running = machine.carry_out();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pool, queue, admission, whole);
criterion_main!(benches);
