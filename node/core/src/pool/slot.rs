//! Places of calls on instances, as they are handed out and come back.

use std::time::Duration;

use crate::resources::{Cpu, Resources};
use crate::time::{Time, nanos};
use crate::words::Start;

use super::instances::Phase;
use super::timers::Timer;
use super::{FunctionKey, InstanceId, Pool};

/// A place on an instance and what the call there holds. It must be given to
/// [`Pool::finish`]; dropped, its resources are lost until the node restarts.
#[must_use = "what a slot holds is released by finish alone"]
#[derive(Debug)]
pub struct Slot {
    instance: InstanceId,
    function: FunctionKey,
    holds: Resources,
    waited_for_start_since: Option<Time>,
    /// Since when it is taken.
    pub(crate) taken: Time,
    /// What its call was charged in the queue, and in which class.
    pub(crate) charged: Option<(usize, u64)>,
    /// Whether what its function needs was learned.
    learned: bool,
}

impl Slot {
    /// Processor time that its call took, in nanoseconds of one core, as far as
    /// what it holds tells.
    pub(crate) fn took(&self, now: Time) -> u64 {
        cost(self.holds.cpu, now.since(self.taken))
    }

    /// The instance to run on.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The function that was asked for.
    pub fn function(&self) -> FunctionKey {
        self.function
    }

    /// Whether the call waited for this instance's start.
    pub fn start(&self) -> Start {
        match self.waited_for_start_since {
            Some(_) => Start::Cold,
            None => Start::Warm,
        }
    }

    /// Since when the call waited for the start; before that it waited for
    /// room. `None` when warm.
    pub fn waited_for_start_since(&self) -> Option<Time> {
        self.waited_for_start_since
    }

    /// How long the call waited for the start; `None` when warm.
    pub fn waited_for_start(&self) -> Option<Duration> {
        let since = self.waited_for_start_since?;
        Some(self.taken.since(since))
    }
}

/// What so much of a processor is for so long, in nanoseconds of one core.
pub(crate) fn cost(cpu: Cpu, time: Duration) -> u64 {
    // Not for what is never: that takes a while with numbers of 128 bits.
    match nanos(time).checked_mul(cpu.as_millicores().into()) {
        Some(thousandths) => thousandths / 1000,
        None => {
            let thousandths = time.as_nanos().saturating_mul(cpu.as_millicores().into());
            u64::try_from(thousandths / 1000).unwrap_or(u64::MAX)
        }
    }
}

/// How an instance was used last, should it turn out not to be used now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastUse {
    age: u64,
    brief: bool,
}

/// The answer of [`Pool::take`].
#[derive(Debug)]
pub enum Taken {
    /// A place, and the call's resources are held.
    Slot(Slot),
    /// No ready instance has a free place.
    NoPlace,
    /// There is a place, but what a call holds is not free.
    NoRoom,
}

impl Pool {
    /// Takes a place on the ready instance that was used last. `arrived` tells
    /// whether the call waited for that instance.
    pub fn take(&mut self, key: FunctionKey, arrived: Time, now: Time) -> Taken {
        let cores = self.cores();
        let Some(function) = self.functions.get_mut(key.0) else {
            return Taken::NoPlace;
        };
        if let Some(due) = function.was_called(now) {
            self.timers.remove(&(due, Timer::Return(key)));
        }
        let Some(&id) = function.available.last() else {
            return Taken::NoPlace;
        };
        let holds = function.profile.call;
        if self.crowded && function.learned && self.learned_running >= cores {
            return Taken::NoRoom;
        }
        if !self.ledger.hold(holds) {
            return Taken::NoRoom;
        }
        self.learned_running += u32::from(function.learned);
        self.busy.add(self.running, now);
        let instance = self
            .instances
            .get_mut(id.key())
            .expect("available instances exist");
        instance.busy.add(instance.running as usize, now);
        instance.running += 1;
        instance.brief = false;
        instance.came_back = false;
        instance.age = self.age;
        if instance.running >= function.profile.calls_per_instance {
            function.available.pop();
        }
        function.uses = function.uses.saturating_add(1);
        function.running += 1;
        self.running += 1;
        let waited = arrived < instance.ready_at;
        Taken::Slot(Slot {
            instance: id,
            function: key,
            holds,
            waited_for_start_since: waited.then(|| arrived.max(instance.began)),
            taken: now,
            charged: None,
            learned: function.learned,
        })
    }

    /// Ends a call: what it held is free.
    pub fn finish(&mut self, slot: Slot, now: Time) {
        self.ledger.release(slot.holds);
        self.learned_running -= u32::from(slot.learned);
        self.busy.add(self.running, now);
        self.running -= 1;
        let function = self.functions.get_mut(slot.function.0);
        let mut instance = self.instances.get_mut(slot.instance.key());
        if let Some(instance) = &mut instance {
            instance.busy.add(instance.running as usize, now);
        }
        match (function, instance) {
            (Some(function), Some(instance)) => {
                function.running -= 1;
                instance.running -= 1;
                function.fell_idle(now);
                match instance.phase {
                    Phase::Ready => {
                        if instance.running + 1 == function.profile.calls_per_instance {
                            function.available.push(slot.instance);
                        }
                        instance.idle_since = now;
                        // By its pauses it may go sooner than it was to be looked at.
                        let looks_anew = instance.timer.is_none() || function.habit.is_some();
                        if instance.running == 0 && looks_anew {
                            self.set_keep_alive_timer(slot.instance);
                        }
                    }
                    Phase::Retiring if instance.running == 0 => self.stop(slot.instance),
                    Phase::Retiring | Phase::Starting | Phase::Abandoned | Phase::Stopping => {}
                }
            }
            (None, Some(instance)) => {
                instance.running -= 1;
                if instance.running == 0 && instance.phase == Phase::Retiring {
                    self.stop(slot.instance);
                }
            }
            // The instance died under the call.
            (Some(function), None) => function.running -= 1,
            (None, None) => {}
        }
    }

    /// How the instance was used last on which the next call of a function would
    /// run; `None` when there is none.
    pub(crate) fn last_use(&self, key: FunctionKey) -> Option<LastUse> {
        let id = self.functions.get(key.0)?.available.last()?;
        let instance = self.instances.get(id.key())?;
        Some(LastUse {
            age: instance.age,
            brief: instance.brief,
        })
    }

    /// Takes a place back that was taken just now and on which no call ran: its
    /// instance was used as it was before.
    pub(crate) fn finish_unused(&mut self, slot: Slot, before: LastUse, now: Time) {
        let (id, key) = (slot.instance, slot.function);
        let ended = self.instances.get(id.key()).map(|it| it.idle_since);
        self.finish(slot, now);
        if let (Some(instance), Some(ended)) = (self.instances.get_mut(id.key()), ended) {
            instance.idle_since = ended;
            instance.age = before.age;
            instance.brief = before.brief;
        }
        if let Some(function) = self.functions.get_mut(key.0) {
            function.uses = function.uses.saturating_sub(1);
        }
    }
}
