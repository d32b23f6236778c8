//! The instances of all functions on this node: starting, warm, busy, leaving.
//!
//! The pool answers three questions. *Is there a free place?* The instance
//! used last is filled first, so that the others grow idle and expire. *May
//! another instance start?* Below the function's maximum, when the instance
//! and one call on it fit. *Who makes room?* Idle instances by least value:
//! the Greedy-Dual-Size-Frequency value of FaasCache (Fuerst and Sharma,
//! ASPLOS 2021, section 4), `age + uses * start cost / size`, where `age` is
//! the pool's own age when the instance was used last, and the pool's age is
//! the highest value evicted so far. An instance that was not used for long is
//! thereby outgrown however dear it once was. Using an instance copies one
//! number; values are computed only when room is needed.
//!
//! Invariants: what instances and calls hold is in the [`Ledger`] until
//! [`Pool::stopped`] or [`Pool::finish`]; calls run only on instances that are
//! ready; at most `max_instances` of a function are starting or ready (those
//! that an update left behind finish beside them).
//!
//! | file | what it is |
//! |---|---|
//! | `slot` | places of calls, as they are handed out and come back |
//! | `instances` | instances as they come and go |
//! | `room` | for how much there is room |
//! | `eviction` | who makes room |
//! | `timers` | what happens by time alone |

mod eviction;
mod habit;
mod instances;
mod room;
mod slot;
mod timers;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ledger::Ledger;
use crate::profile::Profile;
use crate::resources::{Cpu, Resources};
use crate::slab::{Key, Slab};
use crate::time::Time;

use self::habit::Habit;
use self::instances::{Busy, Instance, Phase};
use self::timers::Timer;

pub use self::eviction::Eviction;
pub use self::instances::FailedStart;
pub use self::room::Places;
pub(crate) use self::room::Standing;
pub(crate) use self::slot::{LastUse, cost};
pub use self::slot::{Slot, Taken};

/// A function of this pool; finds nothing once the function was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionKey(Key);

impl FunctionKey {
    /// A small number, shared by no other function that is present.
    pub(crate) fn index(self) -> usize {
        self.0.index as usize
    }
}

/// An instance; never used for two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(u64);

impl InstanceId {
    fn key(self) -> Key {
        Key::from_bits(self.0)
    }

    /// The id as a number, for logs.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

/// A function that could not run here even alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an instance holds {} CPU and {} of memory and each call {} CPU and {}; that is more than this \
     node gives to functions: {} CPU and {}", .instance.cpu, .instance.memory, .call.cpu,
    .call.memory, .capacity.cpu, .capacity.memory
)]
pub struct TooLarge {
    /// What an instance would hold.
    pub instance: Resources,
    /// What a call would hold.
    pub call: Resources,
    /// What the node has.
    pub capacity: Resources,
}

/// What the shell must do to instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Start an instance, then tell [`Pool::started`] or [`Pool::start_failed`].
    Start {
        /// Its id from now on.
        instance: InstanceId,
        /// Of which function.
        function: FunctionKey,
    },
    /// Stop an idle instance, then tell [`Pool::stopped`].
    Stop {
        /// Which.
        instance: InstanceId,
    },
}

/// Numbers of one function at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct FunctionGauges {
    /// Instances being started.
    pub starting: u32,
    /// Instances that take calls.
    pub ready: u32,
    /// Calls that run, those on instances left behind included.
    pub running: u32,
    /// Calls that wait, for room or for a start.
    pub waiting: u32,
}

#[derive(Debug)]
struct Function {
    profile: Profile,
    /// Ready instances with a free place, the one to use next last.
    available: Vec<InstanceId>,
    starting: u32,
    ready: u32,
    running: u32,
    waiting: u32,
    /// Calls placed since the function last had no instance.
    uses: u64,
    /// Whether what its calls need was learned, and is more than the least.
    learned: bool,
    failed_starts: u32,
    /// Before this, no kept instance is started.
    retry_at: Option<Time>,
    /// What its pauses teach, where its instances stay by them.
    habit: Option<Box<Habit>>,
}

impl Function {
    fn live(&self) -> u32 {
        self.starting + self.ready
    }

    /// Whether the instances being started have places for `calls` calls.
    fn covers(&self, calls: u32) -> bool {
        u64::from(calls) <= u64::from(self.starting) * u64::from(self.profile.calls_per_instance)
    }

    fn may_start(&self) -> bool {
        self.live() < self.profile.max_instances
    }
}

/// The instances of all functions, and what they and their calls hold.
#[derive(Debug)]
pub struct Pool {
    ledger: Ledger,
    functions: Slab<Function>,
    instances: Slab<Instance>,
    /// At most one per instance and two per function.
    timers: BTreeSet<(Time, Timer)>,
    /// Functions with fewer instances than they are to keep.
    lacking: BTreeSet<FunctionKey>,
    changes: Vec<Change>,
    age: u64,
    running: usize,
    busy: Busy,
    /// Calls that run of functions whose need was learned.
    learned_running: u32,
    /// Whether more threads want processors than there are.
    crowded: bool,
    starting: usize,
    stopping: usize,
    /// What those hold that are being stopped: room on its way.
    stopping_hold: Resources,
    /// What all other instances hold: more than this no eviction can give.
    standing_hold: Resources,
}

impl Pool {
    /// Makes an empty pool.
    pub fn new(capacity: Resources) -> Self {
        Pool {
            ledger: Ledger::new(capacity),
            functions: Slab::default(),
            instances: Slab::default(),
            timers: BTreeSet::new(),
            lacking: BTreeSet::new(),
            changes: Vec::new(),
            age: 0,
            running: 0,
            busy: Busy::default(),
            learned_running: 0,
            crowded: false,
            starting: 0,
            stopping: 0,
            stopping_hold: Resources::ZERO,
            standing_hold: Resources::ZERO,
        }
    }

    /// The book of what is held.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Instances that hold resources, those being started or stopped included.
    pub fn instances(&self) -> usize {
        self.instances.len()
    }

    /// Whether nothing runs, starts or stops: no room comes by itself.
    pub fn is_still(&self) -> bool {
        self.running == 0 && self.starting == 0 && self.stopping == 0
    }

    /// Whether some function has fewer instances than it is to keep.
    pub fn is_lacking(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// The numbers of one function; `None` when it was removed.
    pub fn gauges(&self, key: FunctionKey) -> Option<FunctionGauges> {
        let function = self.functions.get(key.0)?;
        Some(FunctionGauges {
            starting: function.starting,
            ready: function.ready,
            running: function.running,
            waiting: function.waiting,
        })
    }

    /// Functions that have instances, or calls that run or wait.
    pub fn busy_functions(&self) -> impl Iterator<Item = FunctionKey> {
        let busy = self.functions.iter().filter(|(_, function)| {
            function.live() > 0 || function.running > 0 || function.waiting > 0
        });
        busy.map(|(key, _)| FunctionKey(key))
    }

    /// Takes out what the shell must do because of the calls before.
    pub fn changes(&mut self) -> impl Iterator<Item = Change> {
        self.changes.drain(..)
    }

    /// Whether [`Pool::changes`] has something.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    // Functions.

    /// Adds a function without instances.
    pub fn add(&mut self, profile: Profile) -> Result<FunctionKey, TooLarge> {
        let profile = self.checked(profile)?;
        let key = FunctionKey(self.functions.insert(Function {
            profile,
            available: Vec::new(),
            starting: 0,
            ready: 0,
            running: 0,
            waiting: 0,
            uses: 0,
            learned: false,
            failed_starts: 0,
            retry_at: None,
            habit: Habit::of(&profile),
        }));
        self.note_lacking(key);
        Ok(key)
    }

    /// Gives a function new needs and new code: no instance of the old takes
    /// another call. Changes nothing when the function was removed.
    pub fn update(&mut self, key: FunctionKey, profile: Profile) -> Result<(), TooLarge> {
        let profile = self.checked(profile)?;
        self.retire_all(key);
        if let Some(function) = self.functions.get_mut(key.0) {
            function.profile = profile;
            function.learned = false;
            function.failed_starts = 0;
            self.clear_retry(key);
            self.change_habit(key);
        }
        self.note_lacking(key);
        Ok(())
    }

    /// Keeps `replicas` instances from now on (at most the function's
    /// maximum) and stops idle ones beyond; zero stops all, the busy ones
    /// after their calls, until the next call.
    pub fn scale(&mut self, key: FunctionKey, replicas: u32) {
        let Some(function) = self.functions.get_mut(key.0) else {
            return;
        };
        function.profile.min_instances = replicas.min(function.profile.max_instances);
        if replicas == 0 {
            self.retire_all(key);
            self.expect_none(key);
        }
        while let Some(id) = self.longest_idle_surplus(key) {
            self.retire(id);
        }
        self.clear_retry(key);
        self.note_lacking(key);
    }

    /// Gives a function new needs and new code, as [`Pool::update`] does, and
    /// with them the instances of another function, which keeps none. No call
    /// may run on those.
    pub fn replace(
        &mut self,
        key: FunctionKey,
        by: FunctionKey,
        profile: Profile,
    ) -> Result<(), TooLarge> {
        self.update(key, profile)?;
        if self.functions.get(key.0).is_none() {
            return Ok(());
        }
        let Some(other) = self.functions.get_mut(by.0) else {
            return Ok(());
        };
        let available = std::mem::take(&mut other.available);
        let (starting, ready, uses) = (other.starting, other.ready, other.uses);
        (other.starting, other.ready) = (0, 0);
        for instance in self.instances.values_mut() {
            let moves = matches!(instance.phase, Phase::Starting | Phase::Ready);
            if instance.function == by && moves {
                instance.function = key;
            }
        }
        let function = self.functions.get_mut(key.0).expect("looked up above");
        function.available.extend(available);
        function.starting += starting;
        function.ready += ready;
        function.uses = function.uses.saturating_add(uses);
        self.note_lacking(key);
        Ok(())
    }

    /// Removes a function; its instances leave after their calls.
    pub fn remove(&mut self, key: FunctionKey) {
        self.retire_all(key);
        self.clear_retry(key);
        self.expect_none(key);
        self.lacking.remove(&key);
        self.functions.remove(key.0);
    }

    /// The needs as they are accounted: at least one call per instance and
    /// one instance, no more kept than allowed.
    fn checked(&self, mut profile: Profile) -> Result<Profile, TooLarge> {
        let capacity = self.ledger.capacity();
        let left = capacity.checked_sub(profile.instance);
        if !left.is_some_and(|left| profile.call.fits(left)) {
            return Err(TooLarge {
                instance: profile.instance,
                call: profile.call,
                capacity,
            });
        }
        profile.calls_per_instance = profile.calls_per_instance.max(1);
        profile.max_instances = profile.max_instances.max(1);
        profile.min_instances = profile.min_instances.min(profile.max_instances);
        Ok(profile)
    }

    // Calls.

    /// What a call of a function holds of processors; nothing once it was
    /// removed.
    pub fn call_cpu(&self, key: FunctionKey) -> Cpu {
        let function = self.functions.get(key.0);
        function.map_or(Cpu::ZERO, |function| function.profile.call.cpu)
    }

    /// Counts a call that waits for this function.
    pub(crate) fn count_waiting(&mut self, key: FunctionKey) {
        if let Some(function) = self.functions.get_mut(key.0) {
            function.waiting += 1;
        }
    }

    /// Counts a waiting call less.
    pub(crate) fn count_waited(&mut self, key: FunctionKey) {
        let Some(function) = self.functions.get_mut(key.0) else {
            return;
        };
        function.waiting -= 1;
        if function.waiting > 0 {
            return;
        }
        // Instances do not expire while somebody waits for them, so their
        // timers may have run out.
        for at in 0..function.available.len() {
            let Some(function) = self.functions.get(key.0) else {
                return;
            };
            let id = function.available[at];
            let instance = self
                .instances
                .get(id.key())
                .expect("available instances exist");
            if instance.running == 0 && instance.timer.is_none() {
                self.set_keep_alive_timer(id);
            }
        }
    }

    /// Has calls of a function hold another share of processors from now on.
    pub fn set_need(&mut self, key: FunctionKey, cpu: Cpu) {
        let most = self.ledger.capacity().cpu;
        let Some(function) = self.functions.get_mut(key.0) else {
            return;
        };
        function.profile.call.cpu = cpu.min(most.max(Cpu::millicores(1)));
        function.learned = cpu > crate::need::LEAST;
    }

    /// Says whether more threads want processors than there are.
    pub fn set_crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
    }

    /// How long calls have run on an instance, all together; `None` when it is
    /// no more.
    pub fn busy(&self, id: InstanceId, now: Time) -> Option<Duration> {
        let instance = self.instances.get(id.key())?;
        Some(instance.busy.at(instance.running as usize, now))
    }

    /// How long calls have run on this node, all together.
    pub fn all_busy(&self, now: Time) -> Duration {
        self.busy.at(self.running, now)
    }
}
