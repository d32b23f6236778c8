//! When the scheduler has something to do by time alone, and whoever waits for that.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::MutexGuard;
use tokio::sync::Notify;

use crate::scheduler::Scheduler;
use crate::time::Time;

/// The next event of the scheduler, for the loop that waits for it. Whatever brings
/// an earlier one wakes the loop.
#[derive(Debug)]
pub(super) struct Timers {
    /// What the loop was told last, in nanoseconds.
    due: AtomicU64,
    earlier: Notify,
}

impl Default for Timers {
    fn default() -> Self {
        Timers {
            due: AtomicU64::new(Time::NEVER.as_nanos()),
            earlier: Notify::new(),
        }
    }
}

impl Timers {
    /// Takes what the loop waits for from now on. Under the lock of the scheduler,
    /// as is [`Timers::follow`], or an event between the two would be missed.
    pub(super) fn wait_for(&self, next: Option<Time>) {
        self.due.store(nanos(next), Ordering::Relaxed);
    }

    fn follow(&self, next: Option<Time>) {
        let next = nanos(next);
        if next < self.due.load(Ordering::Relaxed) {
            self.due.store(next, Ordering::Relaxed);
            self.earlier.notify_one();
        }
    }

    /// Waits until there is an earlier event than the loop waits for.
    pub(super) async fn earlier(&self) {
        self.earlier.notified().await;
    }
}

fn nanos(next: Option<Time>) -> u64 {
    next.unwrap_or(Time::NEVER).as_nanos()
}

/// The scheduler, locked. When this is dropped the timers know of its next event.
pub(super) struct Locked<'a, T> {
    scheduler: MutexGuard<'a, Scheduler<T>>,
    timers: &'a Timers,
    changed: bool,
}

#[cfg(test)]
std::thread_local! {
    /// How often this thread locked a scheduler.
    pub(super) static LOCKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl<'a, T> Locked<'a, T> {
    pub(super) fn new(scheduler: MutexGuard<'a, Scheduler<T>>, timers: &'a Timers) -> Self {
        #[cfg(test)]
        LOCKED.set(LOCKED.get() + 1);
        Locked {
            scheduler,
            timers,
            changed: false,
        }
    }
}

impl<T> Deref for Locked<'_, T> {
    type Target = Scheduler<T>;

    fn deref(&self) -> &Scheduler<T> {
        &self.scheduler
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut Scheduler<T> {
        self.changed = true;
        &mut self.scheduler
    }
}

impl<T> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        if self.changed {
            self.timers.follow(self.scheduler.next_event());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use parking_lot::Mutex;

    use super::*;
    use crate::config::ClassConfig;
    use crate::executor::Profile;
    use crate::resources::{Cpu, Memory, Resources};
    use crate::scheduler::Action;

    struct Shell {
        scheduler: Mutex<Scheduler<()>>,
        timers: Timers,
    }

    impl Shell {
        fn lock(&self) -> Locked<'_, ()> {
            Locked::new(self.scheduler.lock(), &self.timers)
        }

        fn is_woken(&self) -> bool {
            self.timers.earlier().now_or_never().is_some()
        }
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    /// A node with a function that keeps an instance, which is being started.
    fn shell() -> (Shell, crate::admission::InstanceId) {
        let some = Resources {
            cpu: Cpu::cores(1),
            memory: Memory::mebibytes(1),
        };
        let shell = Shell {
            scheduler: Mutex::new(Scheduler::new(
                some.times(9),
                &[ClassConfig::default()],
                9,
                2,
            )),
            timers: Timers::default(),
        };
        let profile = Profile {
            instance: some,
            call: Resources::ZERO,
            calls_per_instance: 1,
            max_instances: 1,
            min_instances: 1,
            keep_alive: Duration::from_secs(60),
            keeping: crate::keep::Keeping::Fixed,
        };
        let mut actions = Vec::new();
        let added = shell.lock().add("", profile, at(0), &mut actions);
        added.expect("it fits");
        let [Action::Prepare { instance, .. }] = actions[..] else {
            panic!("a kept instance is made ready at once: {actions:?}");
        };
        (shell, instance)
    }

    #[test]
    fn a_failed_start_of_a_kept_instance_wakes_whoever_waits_for_the_next_event() {
        let (shell, instance) = shell();
        assert!(!shell.is_woken(), "nothing is timed yet");
        shell.lock().start_failed(instance, at(1), &mut Vec::new());
        assert!(shell.is_woken());
        let next = shell.lock().next_event();
        assert!(next.is_some_and(|next| next > at(1)));
        // It was told once, and waits for that.
        shell.timers.wait_for(next);
        shell.lock().drain();
        assert!(!shell.is_woken());
    }

    #[test]
    fn a_later_event_wakes_nobody() {
        let (shell, instance) = shell();
        shell.timers.wait_for(Some(at(5)));
        shell.lock().started(instance, at(1), &mut Vec::new());
        assert!(!shell.is_woken());
        shell.timers.wait_for(None);
        shell.lock().expire(at(2), &mut Vec::new());
        assert!(shell.is_woken(), "an idle instance is timed");
    }
}
