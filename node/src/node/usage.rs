//! Looking at what instances use of processors, and at how many threads of the
//! machine want one, as long as calls run.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Inner;
use super::version::Version;
use crate::admission::{FunctionKey, InstanceId};
use crate::executor::Usage;
use crate::need::{Crowd, Need, Sample};
use crate::time::Time;

/// Time between two looks at how many threads are runnable.
const LOOK: Duration = Duration::from_millis(50);

/// Looks at that for one at what instances use.
const LOOKS_PER_SAMPLE: u32 = 4;

/// Instances that are looked at together; others have their turn the next time.
const INSTANCES: usize = 32;

/// Whoever looks sleeps while nothing runs; this wakes it.
#[derive(Default)]
pub(super) struct Watching {
    asleep: AtomicBool,
    wake: Notify,
}

impl Watching {
    /// Says that a call runs. Cheap.
    pub(super) fn call_runs(&self) {
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }
}

/// What was seen of an instance at the last look.
struct Seen {
    usage: Usage,
    busy: Duration,
    all_busy: Duration,
    at: Time,
}

/// What is known of a function.
struct Learned {
    version: Arc<Version>,
    need: Need,
}

#[derive(Default)]
struct Looking {
    crowd: Crowd,
    crowded: bool,
    seen: HashMap<InstanceId, Seen>,
    learned: HashMap<FunctionKey, Learned>,
    /// The instance that was looked at last.
    last: Option<InstanceId>,
}

impl Inner {
    /// Learns what functions need that declare nothing, for ever.
    pub(super) async fn watch_usage(self: Arc<Self>) {
        let mut looking = Looking::default();
        let cores = cores();
        let mut looks = 0_u32;
        loop {
            if self.scheduler().admission().running() == 0 && !looking.crowded {
                self.usage.asleep.store(true, Ordering::Relaxed);
                // A call that came just now finds nobody asleep.
                if self.scheduler().admission().running() == 0 {
                    self.usage.wake.notified().await;
                }
                self.usage.asleep.store(false, Ordering::Relaxed);
                // From the first call on, or the first would be missed.
                self.sample(&mut looking).await;
            }
            tokio::time::sleep(LOOK).await;
            self.look_at_crowd(&mut looking, cores);
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS_PER_SAMPLE) {
                self.sample(&mut looking).await;
            }
        }
    }

    fn look_at_crowd(self: &Arc<Self>, looking: &mut Looking, cores: u32) {
        let Some(runnable) = runnable() else {
            return;
        };
        let now = self.clock.now();
        looking.crowd.see(runnable, now);
        let crowded = looking.crowd.is_crowded(cores, now);
        if std::mem::replace(&mut looking.crowded, crowded) != crowded {
            let mut actions = Vec::new();
            self.scheduler().set_crowded(crowded, now, &mut actions);
            self.perform(actions, None);
        }
    }

    /// Looks at instances of functions that declare nothing.
    async fn sample(self: &Arc<Self>, looking: &mut Looking) {
        let undeclared = self.instances.iter();
        let undeclared = undeclared.filter(|live| live.version.spec.cpu.is_none());
        let mut ids: Vec<InstanceId> = undeclared.map(|live| *live.key()).collect();
        ids.sort_unstable();
        looking.seen.retain(|id, _| ids.binary_search(id).is_ok());
        looking
            .learned
            .retain(|key, _| self.by_key.contains_key(key));
        if ids.len() > INSTANCES {
            let next = ids.partition_point(|id| Some(*id) <= looking.last);
            ids.rotate_left(next);
            ids.truncate(INSTANCES);
        }
        looking.last = ids.last().copied();
        for id in ids {
            let Some(live) = self.instances.get(&id).map(|live| live.clone()) else {
                continue;
            };
            let Some(usage) = live.instance.usage().await else {
                continue;
            };
            let now = self.clock.now();
            let (busy, all_busy) = {
                let scheduler = self.scheduler();
                let admission = scheduler.admission();
                (admission.busy(id, now), admission.all_busy(now))
            };
            let Some(busy) = busy else { continue };
            let seen = Seen {
                usage,
                busy,
                all_busy,
                at: now,
            };
            let Some(before) = looking.seen.insert(id, seen) else {
                continue;
            };
            let wall = busy.saturating_sub(before.busy);
            if wall.is_zero() {
                continue;
            }
            let passed = now.since(before.at).as_secs_f64();
            let beside = all_busy.saturating_sub(before.all_busy).as_secs_f64() / passed;
            let sample = Sample {
                cpu: usage.cpu.saturating_sub(before.usage.cpu),
                wall,
                waited: usage.waited.saturating_sub(before.usage.waited),
                beside,
            };
            self.learn_need(looking, &live.version, sample);
        }
    }

    fn learn_need(self: &Arc<Self>, looking: &mut Looking, version: &Arc<Version>, sample: Sample) {
        let name = &version.spec.name;
        let Some(function) = self.functions.get(name).map(|function| function.clone()) else {
            return;
        };
        if !Arc::ptr_eq(&function.current.load(), version) {
            return;
        }
        let learned = looking
            .learned
            .entry(function.key)
            .or_insert_with(|| Learned::new(version));
        if !Arc::ptr_eq(&learned.version, version) {
            *learned = Learned::new(version);
        }
        learned.need.learn(sample);
        let Some(cpu) = learned.need.cpu() else {
            return;
        };
        let mut actions = Vec::new();
        let now = self.clock.now();
        // Asked each time: new instances begin with what was guessed.
        let holds = self
            .scheduler()
            .learn_need(function.key, cpu, now, &mut actions);
        if holds {
            tracing::debug!(function = %name, %cpu, "learned what a call needs");
            self.perform(actions, None);
        }
    }
}

impl Learned {
    fn new(version: &Arc<Version>) -> Learned {
        Learned {
            version: version.clone(),
            need: Need::default(),
        }
    }
}

/// Threads of the machine that run or could, this one not counted.
fn runnable() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let (runnable, _) = text.split_whitespace().nth(3)?.split_once('/')?;
    runnable
        .parse::<u32>()
        .ok()
        .map(|all| all.saturating_sub(1))
}

/// Cores of the machine, whatever this process may use of them: threads are
/// counted of all.
fn cores() -> u32 {
    let online = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let cores = online.lines().filter(|line| {
        let number = line.strip_prefix("cpu").unwrap_or_default();
        number.starts_with(|first: char| first.is_ascii_digit())
    });
    u32::try_from(cores.count()).unwrap_or(u32::MAX).max(1)
}
