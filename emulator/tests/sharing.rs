//! Processor sharing, as simulated functions have it, against theory.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_emulator::workload::chance::Stream;
use weir_node_core::computer::{Computer, Model, ProcessorModel, Proportional};
use weir_node_core::time::Time;

/// Kinds of tasks: how long one runs alone in milliseconds, and its part of all.
const KINDS: [(f64, f64); 3] = [(2.0, 0.6), (10.0, 0.3), (50.0, 0.1)];

/// Tasks of a run.
const TASKS: u64 = 600_000;

/// What of the processor the tasks need.
const LOAD: f64 = 0.7;

fn model(milliseconds: f64) -> Model {
    Model {
        processor: ProcessorModel {
            name: "one".to_owned(),
            speed: 1e9,
            cores: 1,
            memory: 1 << 40,
        },
        workers: 100_000,
        operations: Proportional {
            offset: milliseconds * 1e6,
            per_byte: 0.0,
        },
        memory: Proportional::default(),
        output: weir_node_core::computer::Output::default(),
    }
}

/// Mean times in the system by kind, in milliseconds.
fn play(seed: u64) -> [f64; KINDS.len()] {
    let mut computer = Computer::default();
    let containers = KINDS.map(|(service, _)| {
        let added = computer.add(model(service), Time::ZERO);
        added.expect("there is room")
    });
    let mean: f64 = KINDS.iter().map(|(service, part)| service * part).sum();
    let (mut arrivals, mut kinds) = (Stream::new(seed, "arrivals"), Stream::new(seed, "kinds"));
    let mut gap = || Duration::from_nanos((arrivals.exponential() * mean / LOAD * 1e6) as u64);
    let mut next = Time::ZERO + gap();
    let (mut came, mut ended) = (0, Vec::new());
    let mut under_way = BTreeMap::new();
    let (mut sums, mut counts) = ([0.0; KINDS.len()], [0.0; KINDS.len()]);
    while came < TASKS || !under_way.is_empty() {
        let end = computer.next_end();
        let now = match end {
            Some(end) if end <= next || came == TASKS => end,
            Some(_) | None => next,
        };
        computer.advance(now, &mut ended);
        for task in ended.drain(..) {
            let (began, kind): (Time, usize) = under_way.remove(&task).expect("it was there");
            sums[kind] += now.since(began).as_secs_f64() * 1e3;
            counts[kind] += 1.0;
        }
        if now == next && came < TASKS {
            let mut draw = kinds.unit();
            let kind = KINDS.iter().position(|(_, part)| {
                draw -= part;
                draw < 0.0
            });
            let kind = kind.unwrap_or(KINDS.len() - 1);
            let task = computer.arrive(containers[kind], 0, now);
            under_way.insert(task.expect("it is taken"), (now, kind));
            came += 1;
            next = now + gap();
        }
    }
    let mut means = sums;
    for (mean, count) in means.iter_mut().zip(counts) {
        *mean /= count;
    }
    means
}

#[test]
fn a_task_is_as_many_times_slower_as_the_load_says_whatever_its_kind() {
    // M/G/1-PS: a task that runs x alone takes x / (1 - load), however long the
    // others run. L. Kleinrock, "Time-shared systems: a theoretical treatment",
    // J. ACM 14(2), 1967.
    let runs: Vec<_> = (1..=4).map(play).collect();
    for (kind, (service, _)) in KINDS.iter().enumerate() {
        let found = runs.iter().map(|means| means[kind]).sum::<f64>() / runs.len() as f64;
        let expected = service / (1.0 - LOAD);
        let distance = (found - expected).abs() / expected;
        assert!(distance < 0.02, "{service} ms: {found}, not {expected}");
    }
}
