//! What runs, waits, is held and is there, as numbers.

use std::time::Duration;

use crate::resources::{Cpu, Resources};
use crate::time::Time;

use super::{Admission, FunctionGauges, FunctionKey, InstanceId, Places};

impl<T> Admission<T> {
    /// Calls that run.
    pub fn running(&self) -> usize {
        self.pool.running()
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Calls of one class that wait.
    pub fn class_waiting(&self, class: usize) -> usize {
        self.queue.class_len(class)
    }

    /// Instances that hold resources, those being started or stopped included.
    pub fn instances(&self) -> usize {
        self.pool.instances()
    }

    /// What is promised.
    pub fn held(&self) -> Resources {
        self.pool.ledger().held()
    }

    /// What there is to promise.
    pub fn capacity(&self) -> Resources {
        self.pool.ledger().capacity()
    }

    /// When the first waiting call gives up.
    pub fn next_give_up(&self) -> Option<Time> {
        self.queue.next_give_up()
    }

    /// Queues of functions that lack what others hold. Those that wait for
    /// their own function's maximum, or for a start, do not count.
    pub fn contending(&self) -> usize {
        self.queue.lacking()
    }

    /// Whether every instance that a function may have is there, and none has a
    /// free place.
    pub fn is_full(&self, function: FunctionKey) -> bool {
        self.pool.is_full(function)
    }

    /// Functions that have instances, or calls that run or wait.
    pub fn busy_functions(&self) -> impl Iterator<Item = FunctionKey> {
        self.pool.busy_functions()
    }

    /// The numbers of one function; `None` when it was removed.
    pub fn gauges(&self, key: FunctionKey) -> Option<FunctionGauges> {
        self.pool.gauges(key)
    }

    /// For how many more calls of a function there is room; `None` when it was
    /// removed.
    pub fn places(&self, function: FunctionKey) -> Option<Places> {
        self.pool.places(function)
    }

    /// What a call of a function holds of processors; nothing once it was
    /// removed.
    pub fn call_cpu(&self, function: FunctionKey) -> Cpu {
        self.pool.call_cpu(function)
    }

    /// How long calls have run on an instance, all together; `None` when it is
    /// no more.
    pub fn busy(&self, instance: InstanceId, now: Time) -> Option<Duration> {
        self.pool.busy(instance, now)
    }

    /// How long calls have run on this node, all together.
    pub fn all_busy(&self, now: Time) -> Duration {
        self.pool.all_busy(now)
    }

    /// Of which function an instance is being started; `None` when nobody wants
    /// it any more, or it is started.
    pub fn being_started(&self, instance: InstanceId) -> Option<FunctionKey> {
        self.pool.being_started(instance)
    }
}
