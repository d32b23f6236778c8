//! Core of the simulated executor: processors shared by tasks, in virtual time.
//!
//! The model is that of the simulated computer of ServerlessOnEdge: a processor
//! has cores of one speed and memory; with `R` running tasks each advances at
//! `min(cores, R) * speed / R` operations a second (processor sharing, at most
//! one core each). A container runs one function on one processor with a fixed
//! number of workers; a task runs when a worker is free and its memory fits,
//! else it waits in its container's first-in-first-out queue. A new task may
//! overtake waiting ones if it fits and they do not.
//!
//! No clock here: every call takes the present [`Time`], which never goes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Deserialize;

use crate::resources::Memory;
use crate::time::Time;

/// Tasks that may wait in one container. Admission bounds calls long before.
const QUEUE_BOUND: usize = 100_000;

/// A processor as a model declares it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProcessorModel {
    /// Functions that name the same processor share it.
    pub name: String,
    /// Operations a second of one core; above 0.
    pub speed: f64,
    /// Cores; at least 1.
    pub cores: u32,
    /// Memory in bytes.
    pub memory: u64,
}

/// Something that grows with the size of the input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Proportional {
    /// For an empty input.
    pub offset: f64,
    /// For each byte of the input.
    pub per_byte: f64,
}

impl Proportional {
    /// `max(0, round(offset + per_byte * bytes))`.
    pub fn of(self, bytes: u64) -> f64 {
        (self.offset + self.per_byte * bytes as f64)
            .round()
            .max(0.0)
    }

    fn is_sound(self) -> bool {
        self.offset.is_finite() && self.per_byte.is_finite()
    }
}

/// What a simulated function answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// Its input.
    #[default]
    CopyInput,
    /// Always this text.
    Fixed(String),
}

/// A function as a model: what a JSON artifact holds under `simulated`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Model {
    /// Where it runs.
    pub processor: ProcessorModel,
    /// Tasks that run at once, at most; at least 1.
    pub workers: u32,
    /// Operations of one call.
    pub operations: Proportional,
    /// Bytes of memory of one call.
    #[serde(default)]
    pub memory: Proportional,
    /// The answer.
    #[serde(default)]
    pub output: Output,
}

impl Model {
    /// Reads a model document: `{"simulated": {...}}`.
    ///
    /// # Errors
    /// A sentence that says what is wrong and where.
    pub fn parse(document: &[u8]) -> Result<Model, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            simulated: Model,
        }
        let parsed: Result<Document, _> = serde_json::from_slice(document);
        let model = parsed
            .map_err(|e| format!("not a simulated model: {e}"))?
            .simulated;
        let processor = &model.processor;
        if !(processor.speed.is_finite() && processor.speed > 0.0) {
            return Err("simulated.processor.speed must be above 0 operations a second".to_owned());
        }
        if processor.cores == 0 || model.workers == 0 {
            return Err(
                "simulated.processor.cores and simulated.workers must be at least 1".into(),
            );
        }
        if !(model.operations.is_sound() && model.memory.is_sound()) {
            return Err("simulated.operations and simulated.memory must be finite".to_owned());
        }
        Ok(model)
    }
}

/// A task that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

/// A container that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(u64);

/// Why a task or container was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComputerError {
    /// Another function declared the same processor otherwise.
    #[error(
        "processor {0} is declared with another speed, number of cores or memory by another function"
    )]
    Conflict(String),
    /// The task needs more memory than the whole processor has.
    #[error("the call needs {needs}, and processor {processor} has {has}")]
    TooLarge {
        /// What the task needs.
        needs: Memory,
        /// Which processor.
        processor: String,
        /// All of its memory.
        has: Memory,
    },
    /// The container's queue is full.
    #[error("the simulated container holds as many waiting calls as it may")]
    QueueFull,
    /// The container was removed.
    #[error("the simulated container is gone")]
    Gone,
}

/// An attained amount of work per running task; ordered by `total_cmp`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Work(f64);

impl Eq for Work {}
impl PartialOrd for Work {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Work {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

struct Processor {
    model: ProcessorModel,
    free_memory: f64,
    /// Operations that a task running since the start would have got. All
    /// running tasks advance alike, so one number stands for all of them.
    attained: f64,
    /// When `attained` was brought up to date.
    at: Time,
    /// Running tasks by the `attained` at which they end.
    running: BTreeSet<(Work, TaskId)>,
    /// Core-seconds used, for utilisation.
    busy: f64,
    containers: usize,
}

impl Processor {
    /// Operations a second that each running task gets.
    fn rate(&self) -> f64 {
        let running = self.running.len() as f64;
        f64::from(self.model.cores).min(running) * self.model.speed / running
    }

    /// Lets `now` become the present; no task may end before it.
    fn advance(&mut self, now: Time) {
        let seconds = now.since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        if !self.running.is_empty() {
            self.attained += self.rate() * seconds;
            self.busy += f64::from(self.model.cores).min(self.running.len() as f64) * seconds;
        }
    }

    /// When the next running task ends, if none comes or goes.
    fn next_end(&self) -> Option<Time> {
        let (Work(end), _) = self.running.first()?;
        let seconds = ((end - self.attained) / self.rate()).max(0.0);
        // Rounded up, so that at that moment the task has really ended.
        let nanos = (seconds * 1e9).ceil().min(1e18) as u64;
        Some(self.at + Duration::from_nanos(nanos))
    }
}

struct Container {
    processor: String,
    model: Model,
    busy_workers: u32,
    queue: VecDeque<TaskId>,
}

struct Task {
    container: ContainerId,
    operations: f64,
    memory: f64,
    /// The `attained` at which it ends; `None` while it waits.
    end: Option<f64>,
}

/// A simulated machine: processors, containers on them, tasks in those.
#[derive(Default)]
pub struct Computer {
    processors: BTreeMap<String, Processor>,
    containers: BTreeMap<ContainerId, Container>,
    tasks: BTreeMap<TaskId, Task>,
    next_id: u64,
}

impl Computer {
    /// Adds a container for `model`, and its processor if it is new.
    pub fn add(&mut self, model: Model, now: Time) -> Result<ContainerId, ComputerError> {
        let name = model.processor.name.clone();
        let processor = self
            .processors
            .entry(name.clone())
            .or_insert_with(|| Processor {
                free_memory: model.processor.memory as f64,
                model: model.processor.clone(),
                attained: 0.0,
                at: now,
                running: BTreeSet::new(),
                busy: 0.0,
                containers: 0,
            });
        if processor.model != model.processor {
            return Err(ComputerError::Conflict(name));
        }
        processor.containers += 1;
        let id = ContainerId(self.id());
        let container = Container {
            processor: name,
            model,
            busy_workers: 0,
            queue: VecDeque::new(),
        };
        self.containers.insert(id, container);
        Ok(id)
    }

    /// Removes a container with all its tasks, and its processor if it was the last.
    pub fn remove(&mut self, id: ContainerId, now: Time) {
        let tasks: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.container == id)
            .map(|(t, _)| *t)
            .collect();
        for task in tasks {
            self.cancel(task, now);
        }
        let Some(container) = self.containers.remove(&id) else {
            return;
        };
        if let Some(processor) = self.processors.get_mut(&container.processor) {
            processor.containers -= 1;
            if processor.containers == 0 {
                self.processors.remove(&container.processor);
            }
        }
    }

    /// Hands in a task for an input of `input_bytes`.
    pub fn arrive(
        &mut self,
        id: ContainerId,
        input_bytes: u64,
        now: Time,
    ) -> Result<TaskId, ComputerError> {
        let task_id = TaskId(self.id());
        let container = self.containers.get_mut(&id).ok_or(ComputerError::Gone)?;
        let processor = self
            .processors
            .get_mut(&container.processor)
            .ok_or(ComputerError::Gone)?;
        let memory = container.model.memory.of(input_bytes);
        if memory > processor.model.memory as f64 {
            return Err(ComputerError::TooLarge {
                needs: Memory::bytes(memory as u64),
                processor: container.processor.clone(),
                has: Memory::bytes(processor.model.memory),
            });
        }
        if container.queue.len() >= QUEUE_BOUND {
            return Err(ComputerError::QueueFull);
        }
        let operations = container.model.operations.of(input_bytes);
        let mut task = Task {
            container: id,
            operations,
            memory,
            end: None,
        };
        processor.advance(now);
        if !run_if_it_fits(processor, container, task_id, &mut task) {
            container.queue.push_back(task_id);
        }
        self.tasks.insert(task_id, task);
        Ok(task_id)
    }

    /// Gives up a task, waiting or running.
    pub fn cancel(&mut self, id: TaskId, now: Time) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let Some(container) = self.containers.get_mut(&task.container) else {
            return;
        };
        match task.end {
            Some(_) => {
                let name = container.processor.clone();
                if let Some(processor) = self.processors.get_mut(&name) {
                    processor.advance(now);
                }
                self.leave(&name, id);
                self.wake(&name);
            }
            None => {
                container.queue.retain(|waiting| *waiting != id);
                self.tasks.remove(&id);
            }
        }
    }

    /// Lets `now` become the present and appends the tasks that ended by then,
    /// in the order in which they ended.
    pub fn advance(&mut self, now: Time, ended: &mut Vec<TaskId>) {
        let names: Vec<String> = self.processors.keys().cloned().collect();
        for name in names {
            while let Some(processor) = self.processors.get_mut(&name) {
                let next = processor.next_end().filter(|end| *end <= now);
                processor.advance(next.unwrap_or(now));
                if next.is_none() {
                    break;
                }
                let Some((_, task)) = processor.running.first().copied() else {
                    break;
                };
                self.leave(&name, task);
                ended.push(task);
                self.wake(&name);
            }
        }
    }

    /// When the next task ends, if none comes or goes before.
    pub fn next_end(&self) -> Option<Time> {
        self.processors
            .values()
            .filter_map(Processor::next_end)
            .min()
    }

    /// Core-seconds used so far, per processor.
    pub fn busy(&self) -> impl Iterator<Item = (&str, f64)> {
        self.processors
            .iter()
            .map(|(name, processor)| (name.as_str(), processor.busy))
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Takes a running task off its processor, which must be up to date.
    fn leave(&mut self, processor: &str, id: TaskId) {
        let Some(task) = self.tasks.remove(&id) else {
            return;
        };
        let Some(processor) = self.processors.get_mut(processor) else {
            return;
        };
        if let Some(end) = task.end {
            processor.running.remove(&(Work(end), id));
            processor.free_memory += task.memory;
        }
        if let Some(container) = self.containers.get_mut(&task.container) {
            container.busy_workers -= 1;
        }
    }

    /// Starts what waits and fits: the heads of the processor's containers, in
    /// the order in which the containers were added.
    fn wake(&mut self, name: &str) {
        let Some(processor) = self.processors.get_mut(name) else {
            return;
        };
        for container in self.containers.values_mut().filter(|c| c.processor == name) {
            while let Some(head) = container.queue.front().copied() {
                let Some(task) = self.tasks.get_mut(&head) else {
                    break;
                };
                if !run_if_it_fits(processor, container, head, task) {
                    break;
                }
                container.queue.pop_front();
            }
        }
    }
}

fn run_if_it_fits(
    processor: &mut Processor,
    container: &mut Container,
    id: TaskId,
    task: &mut Task,
) -> bool {
    if container.busy_workers >= container.model.workers || task.memory > processor.free_memory {
        return false;
    }
    let end = processor.attained + task.operations;
    task.end = Some(end);
    container.busy_workers += 1;
    processor.free_memory -= task.memory;
    processor.running.insert((Work(end), id));
    true
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn model_document_says_what_is_wrong() {
        let check = |text: &str, part: &str| {
            let error = Model::parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(part), "{error}");
        };
        check("{}", "simulated");
        check(
            r#"{"simulated":{"processor":{"name":"a","speed":0,"cores":1,"memory":1},"workers":1,"operations":{}}}"#,
            "speed",
        );
        check(
            r#"{"simulated":{"processor":{"name":"a","speed":1,"cores":1,"memory":1},"workers":0,"operations":{}}}"#,
            "workers",
        );
        check(r#"{"simulated":{"wrokers":1}}"#, "wrokers");
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
            let processor = &computer.processors["cpu"];
            prop_assert!((processor.free_memory - 100.0).abs() < 1e-6);
            let expected = operations as f64 / 1000.0;
            prop_assert!((processor.busy - expected).abs() < 1e-3, "{} {}", processor.busy, expected);
        }
    }
}
