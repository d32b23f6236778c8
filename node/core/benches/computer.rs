//! What a task costs on a simulated computer.

// The macro of criterion makes a public function without a word.
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use weir_node_core::computer::{Computer, Model, Output, ProcessorModel, Proportional};
use weir_node_core::time::Time;

fn model(processor: usize) -> Model {
    Model {
        processor: ProcessorModel {
            name: format!("processor {processor}"),
            speed: 1e9,
            cores: 4,
            memory: 1 << 30,
        },
        workers: 4,
        operations: Proportional {
            offset: 1e6,
            per_byte: 1e3,
        },
        memory: Proportional::default(),
        output: Output::CopyInput,
    }
}

/// Tasks of processors in turn; each ends when one more has come to all others.
fn tasks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("computer");
    for processors in [1, 10, 100] {
        let name = format!("a task, {processors} processors");
        group.bench_function(name, |bencher| {
            let mut computer = Computer::default();
            let add = |at| computer.add(model(at), Time::ZERO).expect("no conflict");
            let containers: Vec<_> = (0..processors).map(add).collect();
            let (mut ended, mut now, mut at) = (Vec::new(), 0, 0);
            bencher.iter(|| {
                at += 1;
                now += 2_000_000 / processors as u64;
                let time = Time::from_nanos(now);
                let container = containers[at % processors];
                let arrived = computer.arrive(container, at as u64 % 100, time);
                arrived.expect("it fits");
                while let Some(end) = computer.next_end().filter(|end| *end <= time) {
                    computer.advance(end, &mut ended);
                }
                ended.clear();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, tasks);
criterion_main!(benches);
