//! A computer that is only simulated: processors shared by tasks, in virtual time.
//!
//! The model is that of the simulated computer of ServerlessOnEdge: a processor
//! has cores of one speed and memory; with `R` running tasks each advances at
//! `min(cores, R) * speed / R` operations a second (processor sharing, at most
//! one core each). A container runs one function on one processor with a fixed
//! number of workers; a task runs when a worker is free and its memory fits,
//! else it waits in its container's first-in-first-out queue. A new task may
//! overtake waiting ones if it fits and they do not.
//!
//! Every call takes the present [`Time`], which never goes back. Only processors
//! on which something happens are looked at; what the others did meanwhile
//! follows from when they were looked at last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
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
    /// Whether it can be simulated.
    ///
    /// # Errors
    /// A sentence that says what is wrong and where.
    pub fn check(&self) -> Result<(), &'static str> {
        let processor = &self.processor;
        if !(processor.speed.is_finite() && processor.speed > 0.0) {
            return Err("simulated.processor.speed must be above 0 operations a second");
        }
        if processor.cores == 0 || self.workers == 0 {
            return Err("simulated.processor.cores and simulated.workers must be at least 1");
        }
        if !(self.operations.is_sound() && self.memory.is_sound()) {
            return Err("simulated.operations and simulated.memory must be finite");
        }
        Ok(())
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

#[derive(Debug)]
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
    /// Containers in which tasks wait, in the order in which they were added.
    waiting: BTreeSet<ContainerId>,
    /// Core-seconds used until `at`, for utilisation.
    busy: f64,
    containers: usize,
    /// When the next task ends, as [`Computer::ends`] has it.
    end: Option<Time>,
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
            self.busy += self.cores_used() * seconds;
        }
    }

    fn cores_used(&self) -> f64 {
        f64::from(self.model.cores).min(self.running.len() as f64)
    }

    /// Core-seconds used until `now`.
    fn busy_at(&self, now: Time) -> f64 {
        self.busy + self.cores_used() * now.since(self.at).as_secs_f64()
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

#[derive(Debug)]
struct Container {
    /// Its place among the processors.
    processor: usize,
    model: Model,
    busy_workers: u32,
    queue: VecDeque<TaskId>,
}

#[derive(Debug)]
struct Task {
    container: ContainerId,
    operations: f64,
    memory: f64,
    /// The `attained` at which it ends; `None` while it waits.
    end: Option<f64>,
}

/// A simulated machine: processors, containers on them, tasks in those.
#[derive(Debug, Default)]
pub struct Computer {
    /// In places that are used again.
    processors: Vec<Option<Processor>>,
    names: BTreeMap<String, usize>,
    /// When the next task of each processor ends on which any runs.
    ends: BTreeSet<(Time, usize)>,
    containers: BTreeMap<ContainerId, Container>,
    tasks: BTreeMap<TaskId, Task>,
    now: Time,
    next_id: u64,
}

impl Computer {
    /// Adds a container for `model`, and its processor if it is new.
    ///
    /// # Errors
    /// When its processor is there and was declared otherwise.
    pub fn add(&mut self, model: Model, now: Time) -> Result<ContainerId, ComputerError> {
        self.now = self.now.max(now);
        let name = &model.processor.name;
        let at = match self.names.get(name) {
            Some(at) => *at,
            None => self.add_processor(model.processor.clone()),
        };
        let processor = place(&mut self.processors, at);
        if processor.model != model.processor {
            return Err(ComputerError::Conflict(name.clone()));
        }
        processor.containers += 1;
        let id = ContainerId(self.id());
        let container = Container {
            processor: at,
            model,
            busy_workers: 0,
            queue: VecDeque::new(),
        };
        self.containers.insert(id, container);
        Ok(id)
    }

    fn add_processor(&mut self, model: ProcessorModel) -> usize {
        let free = self.processors.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.processors.push(None);
            self.processors.len() - 1
        });
        self.names.insert(model.name.clone(), at);
        self.processors[at] = Some(Processor {
            free_memory: model.memory as f64,
            model,
            attained: 0.0,
            at: self.now,
            running: BTreeSet::new(),
            waiting: BTreeSet::new(),
            busy: 0.0,
            containers: 0,
            end: None,
        });
        at
    }

    /// Removes a container with all its tasks, and its processor if it was the last.
    pub fn remove(&mut self, id: ContainerId, now: Time) {
        let of_container = self.tasks.iter().filter(|(_, task)| task.container == id);
        let tasks: Vec<TaskId> = of_container.map(|(task, _)| *task).collect();
        for task in tasks {
            self.cancel(task, now);
        }
        let Some(container) = self.containers.remove(&id) else {
            return;
        };
        let processor = place(&mut self.processors, container.processor);
        processor.containers -= 1;
        if processor.containers == 0 {
            self.names.remove(&processor.model.name);
            self.processors[container.processor] = None;
        }
    }

    /// Hands in a task for an input of `input_bytes`.
    ///
    /// # Errors
    /// When it can never run, or the container is gone or full.
    pub fn arrive(
        &mut self,
        id: ContainerId,
        input_bytes: u64,
        now: Time,
    ) -> Result<TaskId, ComputerError> {
        self.now = self.now.max(now);
        let task_id = TaskId(self.id());
        let container = self.containers.get_mut(&id).ok_or(ComputerError::Gone)?;
        let processor = place(&mut self.processors, container.processor);
        let memory = container.model.memory.of(input_bytes);
        if memory > processor.model.memory as f64 {
            return Err(ComputerError::TooLarge {
                needs: Memory::bytes(memory as u64),
                processor: processor.model.name.clone(),
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
            processor.waiting.insert(id);
        }
        let at = container.processor;
        self.tasks.insert(task_id, task);
        self.note_end(at);
        Ok(task_id)
    }

    /// Gives up a task, waiting or running.
    pub fn cancel(&mut self, id: TaskId, now: Time) {
        self.now = self.now.max(now);
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let Some(container) = self.containers.get_mut(&task.container) else {
            return;
        };
        let at = container.processor;
        let processor = place(&mut self.processors, at);
        processor.advance(now);
        match task.end {
            Some(_) => {
                self.leave(at, id);
                self.wake(at);
            }
            None => {
                container.queue.retain(|waiting| *waiting != id);
                if container.queue.is_empty() {
                    processor.waiting.remove(&task.container);
                }
                self.tasks.remove(&id);
            }
        }
        self.note_end(at);
    }

    /// Lets `now` become the present and appends the tasks that ended by then,
    /// in the order in which they ended.
    pub fn advance(&mut self, now: Time, ended: &mut Vec<TaskId>) {
        self.now = self.now.max(now);
        while let Some(&(end, at)) = self.ends.first()
            && end <= now
        {
            let processor = place(&mut self.processors, at);
            processor.advance(end);
            if let Some((_, task)) = processor.running.first().copied() {
                self.leave(at, task);
                ended.push(task);
                self.wake(at);
            }
            self.note_end(at);
        }
    }

    /// When the next task ends, if none comes or goes before.
    pub fn next_end(&self) -> Option<Time> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Core-seconds used so far, per processor, by name.
    pub fn busy(&self) -> impl Iterator<Item = (&str, f64)> {
        self.names.iter().filter_map(|(name, at)| {
            let processor = self.processors[*at].as_ref()?;
            Some((name.as_str(), processor.busy_at(self.now)))
        })
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Takes note of when the next task of a processor ends.
    fn note_end(&mut self, at: usize) {
        let processor = place(&mut self.processors, at);
        let end = processor.next_end();
        let before = std::mem::replace(&mut processor.end, end);
        if before == end {
            return;
        }
        if let Some(before) = before {
            self.ends.remove(&(before, at));
        }
        if let Some(end) = end {
            self.ends.insert((end, at));
        }
    }

    /// Takes a running task off its processor, which must be up to date.
    fn leave(&mut self, at: usize, id: TaskId) {
        let Some(task) = self.tasks.remove(&id) else {
            return;
        };
        let processor = place(&mut self.processors, at);
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
    fn wake(&mut self, at: usize) {
        let processor = place(&mut self.processors, at);
        let mut next = processor.waiting.first().copied();
        while let Some(id) = next {
            let container = self.containers.get_mut(&id);
            let container = container.expect("tasks wait in containers that are there");
            while let Some(head) = container.queue.front().copied() {
                let task = self.tasks.get_mut(&head);
                let task = task.expect("a task that waits is there");
                if !run_if_it_fits(processor, container, head, task) {
                    break;
                }
                container.queue.pop_front();
            }
            if container.queue.is_empty() {
                processor.waiting.remove(&id);
            }
            let behind = (Excluded(id), Unbounded);
            next = processor.waiting.range(behind).next().copied();
        }
    }
}

/// A processor that containers are on.
fn place(processors: &mut [Option<Processor>], at: usize) -> &mut Processor {
    let processor = processors.get_mut(at).and_then(Option::as_mut);
    processor.expect("a processor stays as long as it has containers")
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
mod tests;
