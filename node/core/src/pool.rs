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

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ledger::Ledger;
use crate::profile::Profile;
use crate::resources::{Cpu, Resources};
use crate::slab::{Key, Slab};
use crate::time::{Time, nanos};
use crate::words::Start;

/// Wait after a first failed start before a kept instance is started again;
/// doubles with each failure. Calls do not wait for it: each failed start
/// answers some of them, so they cannot make a loop.
const START_BACKOFF: Duration = Duration::from_secs(1);

/// Doublings of [`START_BACKOFF`] at most: about a minute, so that a repaired
/// node is warm again soon.
const START_BACKOFF_DOUBLINGS: u32 = 6;

/// Wait before a kept instance that found no room looks again.
const PRESTART_RETRY: Duration = Duration::from_secs(1);

/// How long an instance stays idle that was started to see whether its code
/// runs, at most.
const BRIEF_KEEP_ALIVE: Duration = Duration::from_secs(30);

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

/// How the oldest waiting call of a function stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It can run now.
    Runs,
    /// There is a place for it, but what it holds is not free.
    Short,
    /// Its function has as many instances as it may or needs, those being started
    /// included.
    Settled,
    /// Its function would have one more instance.
    Lacks {
        /// Whether it has any.
        served: bool,
    },
}

/// Which idle instances may be stopped to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Those of other functions for which nobody waits, beyond their minimum.
    Surplus,
    /// All but the one that the call would use, kept ones included: nothing
    /// runs, starts or stops, so that no room would ever come by itself.
    LastResort,
}

/// A failed start whose calls must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedStart {
    /// Of which function.
    pub function: FunctionKey,
    /// How many of its oldest waiting calls lost their hope.
    pub calls: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
struct Busy {
    before: Duration,
    since: Time,
}

impl Busy {
    fn at(&self, running: usize, now: Time) -> Duration {
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        let since = now.since(self.since).saturating_mul(running);
        self.before.saturating_add(since)
    }

    /// Counts until now, before `running` changes.
    fn add(&mut self, running: usize, now: Time) {
        (self.before, self.since) = (self.at(running, now), now);
    }
}

#[derive(Debug)]
struct Instance {
    function: FunctionKey,
    phase: Phase,
    running: u32,
    holds: Resources,
    began: Time,
    ready_at: Time,
    /// When a call ended last, or it became ready.
    idle_since: Time,
    busy: Busy,
    /// The pool's age at the last use.
    age: u64,
    start_cost: Duration,
    /// Whether no call has used it but the one that saw whether its code runs.
    brief: bool,
    /// When the keep-alive is looked at next. It may be earlier than the
    /// expiry: using an instance does not move its timer, or every call would.
    timer: Option<Time>,
}

impl Instance {
    /// When its keep-alive passes, should it stay idle.
    fn expires(&self, of: &Profile) -> Time {
        let most = if self.brief {
            BRIEF_KEEP_ALIVE
        } else {
            Duration::MAX
        };
        self.idle_since + of.keep_alive.min(most)
    }
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    KeepAlive(InstanceId),
    Prestart(FunctionKey),
}

/// Room for calls of one function.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// On instances that are ready.
    pub warm: u32,
    /// On instances that could be started, beside those.
    pub startable: u32,
    /// If the whole node had nothing else to do.
    pub most: u32,
}

/// Calls that fit into `room` on at most `instances` instances of `each` calls.
fn calls_in(
    room: Resources,
    instance: Resources,
    call: Resources,
    each: u32,
    instances: u32,
) -> u32 {
    let full = instance + call.times(each);
    let whole = match full.fits(room) {
        true => full.times_in(room).min(instances),
        false => 0,
    };
    let rest = room
        .checked_sub(full.times(whole))
        .and_then(|rest| rest.checked_sub(instance));
    let more = match rest {
        Some(rest) if whole < instances => call.times_in(rest).min(each),
        Some(_) | None => 0,
    };
    whole.saturating_mul(each).saturating_add(more)
}

/// The instances of all functions, and what they and their calls hold.
#[derive(Debug)]
pub struct Pool {
    ledger: Ledger,
    functions: Slab<Function>,
    instances: Slab<Instance>,
    /// At most one per instance and one per function.
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

    /// Removes a function; its instances leave after their calls.
    pub fn remove(&mut self, key: FunctionKey) {
        self.retire_all(key);
        self.clear_retry(key);
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

    /// Takes a place on the ready instance that was used last. `arrived` tells
    /// whether the call waited for that instance.
    pub fn take(&mut self, key: FunctionKey, arrived: Time, now: Time) -> Taken {
        let cores = self.cores();
        let Some(function) = self.functions.get_mut(key.0) else {
            return Taken::NoPlace;
        };
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
                match instance.phase {
                    Phase::Ready => {
                        if instance.running + 1 == function.profile.calls_per_instance {
                            function.available.push(slot.instance);
                        }
                        instance.idle_since = now;
                        if instance.running == 0 && instance.timer.is_none() {
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

    /// Whether a ready instance has a free place.
    pub fn has_place(&self, key: FunctionKey) -> bool {
        self.functions
            .get(key.0)
            .is_some_and(|function| !function.available.is_empty())
    }

    /// Whether what a call of this function holds is free.
    pub fn has_room(&self, key: FunctionKey) -> bool {
        self.has_room_for(key, 1)
    }

    /// Whether what so many calls of this function hold is free.
    pub fn has_room_for(&self, key: FunctionKey, calls: u32) -> bool {
        let free = self.ledger.free();
        self.functions.get(key.0).is_some_and(|function| {
            function.profile.call.times(calls).fits(free) && calls <= self.let_in(function)
        })
    }

    /// How many more calls of a function may begin as long as the machine has
    /// more to run than it can: of functions that declare nothing and use
    /// processors, as many as the node has cores. Fewer would leave all of the
    /// machine to whoever else crowds it.
    fn let_in(&self, function: &Function) -> u32 {
        match self.crowded && function.learned {
            true => self.cores().saturating_sub(self.learned_running),
            false => u32::MAX,
        }
    }

    /// Cores that the node gives to functions, a part of one counted whole.
    fn cores(&self) -> u32 {
        self.ledger.capacity().cpu.as_millicores().div_ceil(1000)
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

    /// How the oldest waiting call of a function stands; settled when it was removed.
    pub(crate) fn standing(&self, key: FunctionKey) -> Standing {
        let Some(function) = self.functions.get(key.0) else {
            return Standing::Settled;
        };
        if !function.available.is_empty() {
            let room = function.profile.call.fits(self.ledger.free()) && self.let_in(function) > 0;
            return match room {
                true => Standing::Runs,
                false => Standing::Short,
            };
        }
        match function.covers(function.waiting) || !function.may_start() {
            true => Standing::Settled,
            false => Standing::Lacks {
                served: function.live() > 0,
            },
        }
    }

    /// Whether the instances being started have places for `calls` calls.
    pub fn covers(&self, key: FunctionKey, calls: u32) -> bool {
        let function = self.functions.get(key.0);
        function.is_some_and(|function| function.covers(calls))
    }

    /// Whether the function has fewer instances than its maximum.
    pub fn may_start(&self, key: FunctionKey) -> bool {
        let function = self.functions.get(key.0);
        function.is_some_and(Function::may_start)
    }

    /// Whether every instance that the function may have is there, and none has
    /// a place that is free, or will be and nobody waits for.
    pub fn is_full(&self, key: FunctionKey) -> bool {
        let function = self.functions.get(key.0);
        function.is_some_and(|function| {
            function.available.is_empty()
                && function.live() >= function.profile.max_instances
                && !self.covers(key, function.waiting.saturating_add(1))
        })
    }

    /// Whether an instance and a call on it would fit.
    pub fn has_room_to_start(&self, key: FunctionKey) -> bool {
        self.functions.get(key.0).is_some_and(|function| {
            (function.profile.instance + function.profile.call).fits(self.ledger.free())
                && self.let_in(function) > 0
        })
    }

    /// For how many more calls of a function there is room, now and at most;
    /// `None` when it was removed. What waits is not taken off.
    pub fn places(&self, key: FunctionKey) -> Option<Places> {
        let function = self.functions.get(key.0)?;
        let Profile {
            instance,
            call,
            calls_per_instance: each,
            max_instances,
            ..
        } = function.profile;
        let free = self.ledger.free();
        let open = function.available.iter().filter_map(|id| {
            let instance = self.instances.get(id.key())?;
            Some(each.saturating_sub(instance.running))
        });
        let open = open.fold(0_u32, u32::saturating_add);
        let let_in = self.let_in(function);
        let warm = open.min(call.times_in(free)).min(let_in);
        let left = free
            .checked_sub(call.times(warm))
            .unwrap_or(Resources::ZERO);
        let new = max_instances.saturating_sub(function.live());
        Some(Places {
            warm,
            startable: calls_in(left, instance, call, each, new).min(let_in - warm),
            most: calls_in(self.ledger.capacity(), instance, call, each, max_instances),
        })
    }

    // Instances.

    /// Starts one more instance; `false`, and nothing changed, when there is
    /// no room for it and a call, or the maximum is reached.
    pub fn start(&mut self, key: FunctionKey, now: Time) -> bool {
        if !self.may_start(key) || !self.has_room_to_start(key) {
            return false;
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
                    timer: None,
                })
                .to_bits(),
        );
        self.changes.push(Change::Start {
            instance,
            function: key,
        });
        true
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

    /// Stops idle instances, those of least value first, until `key` can get
    /// one more call on its way; none when that would not be enough.
    pub fn make_room(&mut self, key: FunctionKey, eviction: Eviction) {
        let Some(function) = self.functions.get(key.0) else {
            return;
        };
        let used = function.available.last().copied();
        let needs = match used {
            Some(_) => function.profile.call,
            None => function.profile.instance + function.profile.call,
        };
        let mut room = self.ledger.free() + self.stopping_hold;
        // A node short of processors asks this at every release; it must not
        // look through its instances for what they do not hold.
        if needs.fits(room) || !needs.fits(room + self.standing_hold) {
            return;
        }
        let mut candidates: Vec<(u64, InstanceId)> = Vec::new();
        for (instance_key, instance) in self.instances.iter() {
            let id = InstanceId(instance_key.to_bits());
            let idle = instance.phase == Phase::Ready && instance.running == 0;
            if !idle || instance.holds == Resources::ZERO {
                continue;
            }
            let of = self
                .functions
                .get(instance.function.0)
                .expect("ready is current");
            let may_go = match eviction {
                Eviction::Surplus => instance.function != key && of.waiting == 0,
                Eviction::LastResort => Some(id) != used,
            };
            if may_go {
                candidates.push((value(instance, of.uses), id));
            }
        }
        candidates.sort_unstable();
        let mut chosen: Vec<(u64, InstanceId, FunctionKey)> = Vec::new();
        for (worth, id) in candidates {
            let instance = self.instances.get(id.key()).expect("just seen");
            let of = self
                .functions
                .get(instance.function.0)
                .expect("ready is current");
            if eviction == Eviction::Surplus && of.profile.min_instances > 0 {
                let leaving = chosen
                    .iter()
                    .filter(|(_, _, f)| *f == instance.function)
                    .count();
                if of.live() as usize - leaving <= of.profile.min_instances as usize {
                    continue;
                }
            }
            room = room + instance.holds;
            chosen.push((worth, id, instance.function));
            if needs.fits(room) {
                break;
            }
        }
        if !needs.fits(room) {
            return;
        }
        for (worth, id, of) in chosen {
            self.age = self.age.max(worth);
            self.retire(id);
            self.note_lacking(of);
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

    // Time.

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
        if instance.expires(&of.profile) > now {
            self.set_keep_alive_timer(id);
        } else {
            self.retire(id);
        }
    }

    fn set_keep_alive_timer(&mut self, id: InstanceId) {
        let instance = self
            .instances
            .get_mut(id.key())
            .expect("caller holds a live id");
        let of = self
            .functions
            .get(instance.function.0)
            .expect("ready is current");
        let due = instance.expires(&of.profile);
        if due != Time::NEVER {
            instance.timer = Some(due);
            self.timers.insert((due, Timer::KeepAlive(id)));
        }
    }

    fn retry_prestart(&mut self, key: FunctionKey, due: Time) {
        self.clear_retry(key);
        if let Some(function) = self.functions.get_mut(key.0) {
            function.retry_at = Some(due);
            self.timers.insert((due, Timer::Prestart(key)));
        }
    }

    fn clear_retry(&mut self, key: FunctionKey) {
        let function = self.functions.get_mut(key.0);
        if let Some(due) = function.and_then(|function| function.retry_at.take()) {
            self.timers.remove(&(due, Timer::Prestart(key)));
        }
    }

    // Leaving.

    fn note_lacking(&mut self, key: FunctionKey) {
        let function = self.functions.get(key.0);
        if function.is_some_and(|function| function.live() < function.profile.min_instances) {
            self.lacking.insert(key);
        }
    }

    fn longest_idle_surplus(&self, key: FunctionKey) -> Option<InstanceId> {
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

    fn retire_all(&mut self, key: FunctionKey) {
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
    fn retire(&mut self, id: InstanceId) {
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
        }
    }

    fn stop(&mut self, id: InstanceId) {
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

/// What keeping an idle instance is worth: see the module's first page. Cost in
/// nanoseconds, size in mebibytes; one that holds no memory counts as its
/// processor share, a core like a gibibyte.
fn value(instance: &Instance, uses: u64) -> u64 {
    let Resources { cpu, memory } = instance.holds;
    let size = (memory.as_bytes() >> 20)
        .max(u64::from(cpu.as_millicores()))
        .max(1);
    let cost = u64::try_from(instance.start_cost.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1);
    instance
        .age
        .saturating_add(uses.max(1).saturating_mul(cost) / size)
}
