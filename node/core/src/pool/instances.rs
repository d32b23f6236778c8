//! Instances as they come and go: starting, ready, failed, gone, on their way out.

use std::time::Duration;

use crate::resources::Resources;
use crate::time::Time;

use super::timers::Timer;
use super::{Change, Function, FunctionKey, InstanceId, Pool};

/// Wait after a first failed start before a kept instance is started again;
/// doubles with each failure. Calls do not wait for it: each failed start
/// answers some of them, so they cannot make a loop.
const START_BACKOFF: Duration = Duration::from_secs(1);

/// Doublings of [`START_BACKOFF`] at most: about a minute, so that a repaired
/// node is warm again soon.
const START_BACKOFF_DOUBLINGS: u32 = 6;

/// How long an instance stays idle that was started to see whether its code
/// runs, at most.
const BRIEF_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A failed start whose calls must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedStart {
    /// Of which function.
    pub function: FunctionKey,
    /// How many of its oldest waiting calls lost their hope.
    pub calls: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Being started.
    Starting,
    /// Being started, but no longer wanted; stopped as soon as it is there.
    Abandoned,
    /// Takes calls.
    Ready,
    /// Takes no more calls; stopped after the last one.
    Retiring,
    /// Being stopped; holds its resources until that is done.
    Stopping,
}

/// How long calls have run, all together.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Busy {
    before: Duration,
    since: Time,
}

impl Busy {
    pub(super) fn at(&self, running: usize, now: Time) -> Duration {
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        let since = now.since(self.since).saturating_mul(running);
        self.before.saturating_add(since)
    }

    /// Counts until now, before `running` changes.
    pub(super) fn add(&mut self, running: usize, now: Time) {
        (self.before, self.since) = (self.at(running, now), now);
    }
}

#[derive(Debug)]
pub(super) struct Instance {
    pub(super) function: FunctionKey,
    pub(super) phase: Phase,
    pub(super) running: u32,
    pub(super) holds: Resources,
    pub(super) began: Time,
    pub(super) ready_at: Time,
    /// When a call ended last, or it became ready.
    pub(super) idle_since: Time,
    pub(super) busy: Busy,
    /// The pool's age at the last use.
    pub(super) age: u64,
    pub(super) start_cost: Duration,
    /// Whether no call has used it but the one that saw whether its code runs.
    pub(super) brief: bool,
    /// Whether it was started before a call that is expected, and was not used.
    pub(super) came_back: bool,
    /// When the keep-alive is looked at next. It may be earlier than the
    /// expiry: using an instance does not move its timer, or every call would.
    pub(super) timer: Option<Time>,
}

impl Instance {
    /// When it is to go, should it stay idle.
    pub(super) fn expires(&self, of: &Function) -> Time {
        let most = if self.brief {
            BRIEF_KEEP_ALIVE
        } else {
            Duration::MAX
        };
        self.idle_since + of.stays(self.came_back).min(most)
    }
}

impl Pool {
    /// Starts one more instance; `false`, and nothing changed, when there is
    /// no room for it and a call, or the maximum is reached.
    pub fn start(&mut self, key: FunctionKey, now: Time) -> bool {
        self.start_one(key, now).is_some()
    }

    /// The same; which it is.
    pub(super) fn start_one(&mut self, key: FunctionKey, now: Time) -> Option<InstanceId> {
        if !self.may_start(key) || !self.has_room_to_start(key) {
            return None;
        }
        let function = self.functions.get_mut(key.0).expect("checked by may_start");
        let holds = function.profile.instance;
        let held = self.ledger.hold(holds);
        assert!(held, "room was checked");
        self.standing_hold = self.standing_hold + holds;
        function.starting += 1;
        self.starting += 1;
        let instance = InstanceId(
            self.instances
                .insert(Instance {
                    function: key,
                    phase: Phase::Starting,
                    running: 0,
                    holds,
                    began: now,
                    ready_at: Time::NEVER,
                    idle_since: now,
                    busy: Busy::default(),
                    age: self.age,
                    start_cost: Duration::ZERO,
                    brief: false,
                    came_back: false,
                    timer: None,
                })
                .to_bits(),
        );
        self.changes.push(Change::Start {
            instance,
            function: key,
        });
        Some(instance)
    }

    /// Takes note that an instance is ready. Returns its function if calls may
    /// run on it.
    pub fn started(&mut self, id: InstanceId, now: Time) -> Option<FunctionKey> {
        let instance = self.instances.get_mut(id.key())?;
        match instance.phase {
            Phase::Starting => {
                instance.phase = Phase::Ready;
                instance.ready_at = now;
                instance.idle_since = now;
                instance.start_cost = now.since(instance.began);
                let key = instance.function;
                let function = self.functions.get_mut(key.0).expect("starting is current");
                function.starting -= 1;
                function.ready += 1;
                function.failed_starts = 0;
                function.available.push(id);
                self.starting -= 1;
                self.set_keep_alive_timer(id);
                Some(key)
            }
            Phase::Abandoned => {
                self.starting -= 1;
                self.stop(id);
                None
            }
            Phase::Ready | Phase::Retiring | Phase::Stopping => None,
        }
    }

    /// Of which function an instance is being started; `None` when nobody wants
    /// it any more, or it is started.
    pub fn being_started(&self, id: InstanceId) -> Option<FunctionKey> {
        let instance = self.instances.get(id.key())?;
        (instance.phase == Phase::Starting).then_some(instance.function)
    }

    /// Takes note that an instance will never be ready. As many waiting calls
    /// as it would have taken are to be answered, or all of them when no other
    /// instance is left: the next start would most likely fail as well.
    pub fn start_failed(&mut self, id: InstanceId, now: Time) -> Option<FailedStart> {
        let instance = self.instances.get(id.key())?;
        let (key, wanted) = match instance.phase {
            Phase::Starting => (instance.function, true),
            Phase::Abandoned => (instance.function, false),
            Phase::Ready | Phase::Retiring | Phase::Stopping => return None,
        };
        self.discard(id);
        if !wanted {
            return None;
        }
        let function = self.functions.get_mut(key.0)?;
        let doublings = function.failed_starts.min(START_BACKOFF_DOUBLINGS);
        function.failed_starts = function.failed_starts.saturating_add(1);
        let alone = function.live() == 0;
        let calls = function.profile.calls_per_instance as usize;
        let pause = START_BACKOFF.saturating_mul(1 << doublings);
        self.retry_prestart(key, now + pause);
        Some(FailedStart {
            function: key,
            calls: if alone { usize::MAX } else { calls },
        })
    }

    /// Takes note that an instance died by itself. Calls that ran on it keep
    /// their slots until they are finished. Returns its function.
    pub fn gone(&mut self, id: InstanceId) -> Option<FunctionKey> {
        self.discard(id)
    }

    /// Takes note that an instance that was to be stopped is no more.
    pub fn stopped(&mut self, id: InstanceId) -> Option<FunctionKey> {
        self.discard(id)
    }

    pub(super) fn longest_idle_surplus(&self, key: FunctionKey) -> Option<InstanceId> {
        let function = self.functions.get(key.0)?;
        if function.live() <= function.profile.min_instances || function.waiting > 0 {
            return None;
        }
        let idle = |id: &InstanceId| {
            self.instances
                .get(id.key())
                .is_some_and(|instance| instance.running == 0)
        };
        function.available.iter().copied().find(idle)
    }

    pub(super) fn retire_all(&mut self, key: FunctionKey) {
        let of_function: Vec<InstanceId> = self
            .instances
            .iter()
            .filter(|(_, instance)| instance.function == key)
            .map(|(key, _)| InstanceId(key.to_bits()))
            .collect();
        for id in of_function {
            self.retire(id);
        }
    }

    /// Takes an instance out of its function; it stops as soon as nothing
    /// runs on it.
    pub(super) fn retire(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(id.key()) else {
            return;
        };
        let phase = instance.phase;
        match phase {
            Phase::Starting => instance.phase = Phase::Abandoned,
            Phase::Ready => instance.phase = Phase::Retiring,
            Phase::Abandoned | Phase::Retiring | Phase::Stopping => return,
        }
        let (key, running) = (instance.function, instance.running);
        self.leave_function(id, key, phase);
        if phase == Phase::Ready && running == 0 {
            self.stop(id);
        }
    }

    fn leave_function(&mut self, id: InstanceId, key: FunctionKey, phase: Phase) {
        let Some(function) = self.functions.get_mut(key.0) else {
            return;
        };
        match phase {
            Phase::Starting => function.starting -= 1,
            Phase::Ready => {
                function.ready -= 1;
                function.available.retain(|other| *other != id);
            }
            Phase::Abandoned | Phase::Retiring | Phase::Stopping => {}
        }
        if function.live() == 0 {
            function.uses = 0;
            self.expect_return(key);
        }
    }

    pub(super) fn stop(&mut self, id: InstanceId) {
        let instance = self
            .instances
            .get_mut(id.key())
            .expect("caller holds a live id");
        instance.phase = Phase::Stopping;
        if let Some(due) = instance.timer.take() {
            self.timers.remove(&(due, Timer::KeepAlive(id)));
        }
        self.stopping += 1;
        self.stopping_hold = self.stopping_hold + instance.holds;
        self.standing_hold = self.standing_hold - instance.holds;
        self.changes.push(Change::Stop { instance: id });
    }

    fn discard(&mut self, id: InstanceId) -> Option<FunctionKey> {
        let instance = self.instances.remove(id.key())?;
        self.ledger.release(instance.holds);
        if let Some(due) = instance.timer {
            self.timers.remove(&(due, Timer::KeepAlive(id)));
        }
        match instance.phase {
            Phase::Stopping => {
                self.stopping -= 1;
                self.stopping_hold = self.stopping_hold - instance.holds;
            }
            Phase::Starting | Phase::Abandoned => {
                self.starting -= 1;
                self.standing_hold = self.standing_hold - instance.holds;
            }
            Phase::Ready | Phase::Retiring => {
                self.standing_hold = self.standing_hold - instance.holds;
            }
        }
        self.leave_function(id, instance.function, instance.phase);
        self.note_lacking(instance.function);
        Some(instance.function)
    }
}
