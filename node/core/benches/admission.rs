//! What admission costs per call: pool, queue, and both together.

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

criterion_group!(benches, pool, queue, admission);
criterion_main!(benches);
