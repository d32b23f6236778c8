//! What happens by time alone: idle instances stop, and those start that are to be
//! kept.

use std::time::Duration;

use crate::time::Time;

use super::eviction::Eviction;
use super::instances::Phase;
use super::{FunctionKey, InstanceId, Pool};

/// Wait before a kept instance that found no room looks again.
const PRESTART_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    KeepAlive(InstanceId),
    Prestart(FunctionKey),
    /// An instance comes back before its function is called again.
    Return(FunctionKey),
}

impl Pool {
    /// Has an instance that was started to see whether its code runs stay only
    /// briefly, unless it is used.
    pub fn keep_briefly(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(id.key()) else {
            return;
        };
        instance.brief = true;
        if let Some(due) = instance.timer.take() {
            self.timers.remove(&(due, Timer::KeepAlive(id)));
        }
        if instance.phase == Phase::Ready && instance.running == 0 {
            self.set_keep_alive_timer(id);
        }
    }

    /// Starts instances that functions are to keep, as far as there is room.
    pub fn prestart(&mut self, now: Time) {
        let mut from = None;
        while let Some(key) = self.next_lacking(from) {
            from = Some(key);
            self.prestart_one(key, now);
        }
    }

    fn next_lacking(&self, after: Option<FunctionKey>) -> Option<FunctionKey> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.lacking.range((from, Unbounded)).next().copied()
    }

    fn prestart_one(&mut self, key: FunctionKey, now: Time) {
        while let Some(function) = self.functions.get(key.0) {
            // The timer brings back what must wait for its time.
            let kept = function.live() >= function.profile.min_instances;
            if kept || function.retry_at.is_some() {
                break;
            }
            if self.start(key, now) {
                continue;
            }
            self.make_room(key, Eviction::Surplus);
            // Room on its way ends in `stopped`, after which this is tried again.
            if self.stopping > 0 {
                return;
            }
            self.retry_prestart(key, now + PRESTART_RETRY);
        }
        self.lacking.remove(&key);
    }

    /// When [`Pool::expire`] has something to do, at the earliest.
    pub fn next_event(&self) -> Option<Time> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Stops instances whose keep-alive passed.
    pub fn expire(&mut self, now: Time) {
        while let Some(&(due, timer)) = self.timers.first() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Prestart(key) => {
                    if let Some(function) = self.functions.get_mut(key.0) {
                        function.retry_at = None;
                    }
                    self.note_lacking(key);
                }
                Timer::Return(key) => self.come_back(key, now),
                Timer::KeepAlive(id) => self.expire_instance(id, now),
            }
        }
    }

    fn expire_instance(&mut self, id: InstanceId, now: Time) {
        let instance = self
            .instances
            .get_mut(id.key())
            .expect("timers end with instances");
        instance.timer = None;
        // A busy one gets its timer back when it is idle.
        if instance.phase != Phase::Ready || instance.running > 0 {
            return;
        }
        let of = self
            .functions
            .get(instance.function.0)
            .expect("ready is current");
        if of.live() <= of.profile.min_instances || of.waiting > 0 {
            return;
        }
        if instance.expires(of) > now {
            self.set_keep_alive_timer(id);
        } else {
            self.retire(id);
        }
    }

    pub(super) fn set_keep_alive_timer(&mut self, id: InstanceId) {
        let instance = self
            .instances
            .get_mut(id.key())
            .expect("caller holds a live id");
        let of = self
            .functions
            .get(instance.function.0)
            .expect("ready is current");
        let due = instance.expires(of);
        if let Some(before) = instance.timer.take() {
            self.timers.remove(&(before, Timer::KeepAlive(id)));
        }
        if due != Time::NEVER {
            instance.timer = Some(due);
            self.timers.insert((due, Timer::KeepAlive(id)));
        }
    }

    pub(super) fn retry_prestart(&mut self, key: FunctionKey, due: Time) {
        self.clear_retry(key);
        if let Some(function) = self.functions.get_mut(key.0) {
            function.retry_at = Some(due);
            self.timers.insert((due, Timer::Prestart(key)));
        }
    }

    pub(super) fn clear_retry(&mut self, key: FunctionKey) {
        let function = self.functions.get_mut(key.0);
        if let Some(due) = function.and_then(|function| function.retry_at.take()) {
            self.timers.remove(&(due, Timer::Prestart(key)));
        }
    }

    pub(super) fn note_lacking(&mut self, key: FunctionKey) {
        let function = self.functions.get(key.0);
        if function.is_some_and(|function| function.live() < function.profile.min_instances) {
            self.lacking.insert(key);
        }
    }
}
