use proptest::prelude::*;

use super::*;

/// One core of 1000 operations a second, 100 bytes of memory; a call of
/// `n` bytes takes `n` operations and `n` bytes.
fn model(cores: u32, workers: u32) -> Model {
    Model {
        processor: ProcessorModel {
            name: "cpu".into(),
            speed: 1000.0,
            cores,
            memory: 100,
        },
        workers,
        operations: Proportional {
            offset: 0.0,
            per_byte: 1.0,
        },
        memory: Proportional {
            offset: 0.0,
            per_byte: 1.0,
        },
        output: Output::CopyInput,
    }
}

fn millis(count: u64) -> Time {
    Time::from_nanos(count * 1_000_000)
}

/// Plays arrivals `(millisecond, bytes)` and returns when each ended, in
/// milliseconds, by order of arrival.
fn play(model: Model, arrivals: &[(u64, u64)]) -> Vec<u64> {
    let mut computer = Computer::default();
    let container = computer.add(model, Time::ZERO).expect("no conflict");
    let mut ids = Vec::new();
    let mut ends = BTreeMap::new();
    let mut ended = Vec::new();
    for (at, bytes) in arrivals {
        drain(&mut computer, millis(*at), &mut ends, &mut ended);
        ids.push(
            computer
                .arrive(container, *bytes, millis(*at))
                .expect("fits"),
        );
    }
    drain(&mut computer, Time::NEVER, &mut ends, &mut ended);
    ids.iter()
        .map(|id| (ends[id] + 500_000) / 1_000_000)
        .collect()
}

fn drain(
    computer: &mut Computer,
    until: Time,
    ends: &mut BTreeMap<TaskId, u64>,
    ended: &mut Vec<TaskId>,
) {
    while let Some(next) = computer.next_end().filter(|next| *next <= until) {
        computer.advance(next, ended);
        assert!(!ended.is_empty(), "the announced end is an end");
        for id in ended.drain(..) {
            ends.insert(id, next.as_nanos());
        }
    }
}

#[test]
fn one_task_takes_its_operations_over_the_speed() {
    assert_eq!(play(model(1, 1), &[(0, 10)]), [10]);
}

#[test]
fn two_tasks_share_one_core_evenly() {
    assert_eq!(play(model(1, 2), &[(0, 10), (0, 10)]), [20, 20]);
}

#[test]
fn a_task_uses_at_most_one_core() {
    assert_eq!(play(model(4, 4), &[(0, 10), (0, 20)]), [10, 20]);
}

#[test]
fn a_late_comer_slows_the_first() {
    // Alone for 5 ms, then half speed until both are through.
    assert_eq!(play(model(1, 2), &[(0, 10), (5, 5)]), [15, 15]);
}

#[test]
fn without_a_free_worker_tasks_run_in_order() {
    assert_eq!(
        play(model(1, 1), &[(0, 10), (0, 10), (0, 10)]),
        [10, 20, 30]
    );
}

#[test]
fn a_small_new_task_overtakes_a_large_waiting_one() {
    // 60 + 60 bytes do not fit into 100; 30 do.
    assert_eq!(
        play(model(4, 4), &[(0, 60), (0, 60), (0, 30)]),
        [60, 120, 30]
    );
}

#[test]
fn more_memory_than_the_processor_has_is_refused() {
    let mut computer = Computer::default();
    let container = computer.add(model(1, 1), Time::ZERO).expect("no conflict");
    let refused = computer.arrive(container, 101, Time::ZERO);
    assert!(
        matches!(refused, Err(ComputerError::TooLarge { .. })),
        "{refused:?}"
    );
}

#[test]
fn processors_run_side_by_side_and_tasks_end_in_order_of_time() {
    let mut computer = Computer::default();
    let mut ids = Vec::new();
    for (name, bytes) in [("a", 30), ("b", 10), ("c", 20)] {
        let mut model = model(1, 1);
        model.processor.name = name.to_owned();
        let container = computer.add(model, Time::ZERO).expect("no conflict");
        ids.push(computer.arrive(container, bytes, Time::ZERO).expect("fits"));
    }
    assert_eq!(computer.next_end(), Some(millis(10)));
    let mut ended = Vec::new();
    computer.advance(millis(25), &mut ended);
    assert_eq!(ended, [ids[1], ids[2]]);
    // Also of the one on which nothing happened.
    let busy: Vec<(&str, f64)> = computer.busy().collect();
    for ((name, busy), (expected, seconds)) in
        busy.iter().zip([("a", 0.025), ("b", 0.01), ("c", 0.02)])
    {
        assert_eq!(*name, expected);
        assert!((busy - seconds).abs() < 1e-9, "{name}: {busy}");
    }
}

#[test]
fn functions_disagreeing_about_a_processor_are_refused() {
    let mut computer = Computer::default();
    computer.add(model(1, 1), Time::ZERO).expect("first");
    assert!(
        computer.add(model(1, 2), Time::ZERO).is_ok(),
        "same processor"
    );
    let conflict = computer.add(model(2, 1), Time::ZERO);
    assert_eq!(conflict, Err(ComputerError::Conflict("cpu".to_owned())));
}

#[test]
fn removal_frees_the_processor_for_another_declaration() {
    let mut computer = Computer::default();
    let container = computer.add(model(1, 1), Time::ZERO).expect("first");
    computer.arrive(container, 10, Time::ZERO).expect("fits");
    computer.remove(container, millis(1));
    assert!(computer.add(model(2, 1), millis(1)).is_ok());
    assert_eq!(computer.next_end(), None);
}

proptest! {
    /// Work is conserved: core-seconds used are the operations done over
    /// the speed, every task ends once, and memory is whole again.
    #[test]
    fn work_is_conserved(
        arrivals in prop::collection::vec((0u64..50, 1u64..100), 1..40),
        cores in 1u32..4,
        workers in 1u32..6,
    ) {
        let mut computer = Computer::default();
        let container = computer.add(model(cores, workers), Time::ZERO).expect("first");
        let (mut ends, mut ended, mut now) = (BTreeMap::new(), Vec::new(), 0);
        let mut operations = 0;
        for (gap, bytes) in &arrivals {
            now += gap;
            drain(&mut computer, millis(now), &mut ends, &mut ended);
            computer.arrive(container, *bytes, millis(now)).expect("fits");
            operations += bytes;
        }
        drain(&mut computer, Time::NEVER, &mut ends, &mut ended);
        prop_assert_eq!(ends.len(), arrivals.len());
        let processor = computer.processors[0].as_ref().expect("it has a container");
        prop_assert!((processor.free_memory - 100.0).abs() < 1e-6);
        prop_assert!(processor.waiting.is_empty());
        prop_assert_eq!(computer.ends.len(), 0);
        let expected = operations as f64 / 1000.0;
        let (_, busy) = computer.busy().next().expect("one processor");
        prop_assert!((busy - expected).abs() < 1e-3, "{} {}", busy, expected);
    }
}
