//! What one machine does with calls and instances, as one state machine: the
//! rules of [admission](crate::admission), and around them how long calls run
//! and starts take, how often functions may be called, how many starts go on at
//! once, and what a call is told that gave up.
//!
//! The shell keeps a [`Scheduler`] behind one short lock and no other rule. Each
//! event is one method; it appends to a list of [`Action`]s, which the shell
//! carries out after it has let go of the lock, and has [`Scheduler::expire`]
//! called at [`Scheduler::next_event`], for which one timer is enough.
//!
//! * A call's wait is bounded by its class, by its deadline less the time that it
//!   will most likely run, and for a start that is at hand by its deadline, or by
//!   its function's timeout where it has none.
//! * An instance is started in two steps: its code is made ready
//!   ([`Action::Prepare`]), which may take long and hinders nobody; then it waits
//!   for the gate, which lets few start at once, in the order in which their code
//!   became ready ([`Action::Start`]).
//! * A call counts against its function's rate when it arrives. One that is given
//!   back without having run leaves its room to others.
//! * Only calls that answered teach how long calls run: failures are quicker, and
//!   no faster way to serve. Those that ran out of time took at least so long.
//!
//! | file | what it is |
//! |---|---|
//! | `arriving` | calls as they come, what would become of them, places that are kept |
//! | `asking` | what admission asks for, in the words of the scheduler |
//! | `function` | what is learned of a function |
//! | `gate` | how many starts go on at once |

mod arriving;
mod asking;
mod function;
mod gate;

use std::sync::Arc;
use std::time::Duration;

use crate::admission::{self, Admission, FunctionKey, InstanceId, Seat, Slot, Ticket, TooLarge};
use crate::class::ClassConfig;
use crate::estimate::{Estimate, Known};
use crate::profile::Profile;
use crate::rate::Counted;
use crate::resources::{Cpu, Resources};
use crate::time::Time;

use self::function::Function;
use self::gate::Gate;

pub use self::arriving::{Outlook, Request, Reserved, Verdict};
pub use self::asking::GaveUp;
pub use self::function::Ran;

/// Change of a need, as a part of it, up to which calls hold what they did.
const NEED_CHANGE_MIN: f64 = 0.1;

/// Growth of a need beyond which calls run quicker than they did.
const NEED_GROWTH_QUICKER: f64 = 1.5;

/// What the shell must do.
#[derive(Debug)]
pub enum Action<T> {
    /// Run this waiting call. If its caller has gone, [`Scheduler::finish`] the
    /// slot.
    Run {
        /// The call.
        token: T,
        /// Its place.
        slot: Slot,
    },
    /// Make code ready for an instance, then tell [`Scheduler::prepared`] or
    /// [`Scheduler::start_failed`].
    Prepare {
        /// Its id from now on.
        instance: InstanceId,
        /// Of which function; the newest code.
        function: FunctionKey,
    },
    /// Start the instance, then tell [`Scheduler::started`] or
    /// [`Scheduler::start_failed`].
    Start {
        /// Which.
        instance: InstanceId,
        /// Of which function; the newest code.
        function: FunctionKey,
    },
    /// Stop an instance on which nothing runs, then tell
    /// [`Scheduler::stopped`].
    Stop {
        /// Which.
        instance: InstanceId,
    },
    /// Answer that the call waits no longer.
    GaveUp {
        /// The call.
        token: T,
        /// Why.
        why: GaveUp,
    },
    /// Answer that the function cannot be started.
    CannotStart {
        /// The call.
        token: T,
        /// The instance whose start failed.
        instance: InstanceId,
    },
    /// Answer that the function was removed.
    Removed {
        /// The call.
        token: T,
    },
}

/// A call that waits: what the shell left with it, and what it may be told.
#[derive(Debug)]
pub struct Waiter<T> {
    token: T,
    function: FunctionKey,
    class: usize,
    arrived: Time,
    deadline: Time,
    charge: Option<Charge>,
}

/// A call that counts against its function's rate.
#[derive(Debug, Clone, Copy)]
struct Charge {
    counted: Counted,
    per_second: u32,
}

/// The state of one machine; `T` is what the shell needs to answer a waiting call.
#[derive(Debug)]
pub struct Scheduler<T> {
    admission: Admission<Waiter<T>>,
    classes: Vec<ClassConfig>,
    /// By the small number of their keys; as many as there ever were at once.
    functions: Vec<Option<Function>>,
    gate: Gate,
    /// Calls that ran elsewhere when one last arrived.
    elsewhere: u32,
    /// What admission asked for; kept so that it allocates nothing.
    asked: Vec<admission::Action<Waiter<T>>>,
}

impl<T> Scheduler<T> {
    /// Makes an empty one. `max_calls` bounds running and waiting calls together,
    /// `max_starts` instances that are being started at once; at least one may.
    ///
    /// # Panics
    /// When `classes` is empty.
    pub fn new(
        capacity: Resources,
        classes: &[ClassConfig],
        max_calls: usize,
        max_starts: usize,
    ) -> Self {
        Scheduler {
            admission: Admission::new(capacity, classes, max_calls),
            classes: classes.to_vec(),
            functions: Vec::new(),
            gate: Gate::new(max_starts),
            elsewhere: 0,
            asked: Vec::new(),
        }
    }

    /// What runs, waits and is held, as numbers.
    pub fn admission(&self) -> &Admission<Waiter<T>> {
        &self.admission
    }

    // Functions.

    /// Adds a function to a namespace and starts the instances that it keeps.
    ///
    /// # Errors
    /// When it could not run here even alone.
    pub fn add(
        &mut self,
        namespace: &str,
        profile: Profile,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Result<FunctionKey, TooLarge> {
        let added = self.admission.add(namespace, profile, now, &mut self.asked);
        let key = added?;
        if self.functions.len() <= key.index() {
            self.functions.resize_with(key.index() + 1, || None);
        }
        self.functions[key.index()] = Some(Function::new(key));
        self.ask(now, actions);
        Ok(key)
    }

    /// What is known of a function, to be looked at at any time. `None` when it
    /// was removed.
    pub fn known(&self, function: FunctionKey) -> Option<Arc<Known>> {
        Some(self.function(function)?.known.clone())
    }

    /// Gives a function new code and needs. Calls that run end on the old
    /// instances, which then stop; those that wait go to new ones. What is known
    /// of it stays.
    ///
    /// # Errors
    /// When it could not run here even alone; nothing changed.
    pub fn update(
        &mut self,
        key: FunctionKey,
        profile: Profile,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Result<(), TooLarge> {
        let updated = self.admission.update(key, profile, now, &mut self.asked);
        self.ask(now, actions);
        updated
    }

    /// Gives a function new code and needs, and with them the instances of
    /// another one of its namespace, which is no more: nothing may run there or
    /// wait.
    ///
    /// # Errors
    /// When it could not run here even alone; nothing changed.
    pub fn replace(
        &mut self,
        namespace: &str,
        key: FunctionKey,
        by: FunctionKey,
        profile: Profile,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Result<(), TooLarge> {
        let replaced = self
            .admission
            .replace(namespace, key, by, profile, now, &mut self.asked);
        if replaced.is_ok() {
            self.forget(by);
        }
        self.ask(now, actions);
        replaced
    }

    /// Removes a function from its namespace. Calls that run end; those that
    /// wait are handed back as [`Action::Removed`].
    pub fn remove(
        &mut self,
        namespace: &str,
        key: FunctionKey,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) {
        self.admission.remove(namespace, key, now, &mut self.asked);
        self.forget(key);
        self.ask(now, actions);
    }

    /// Keeps `replicas` instances; zero stops all until the next call.
    pub fn scale(
        &mut self,
        key: FunctionKey,
        replicas: u32,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) {
        self.admission.scale(key, replicas, now, &mut self.asked);
        self.ask(now, actions);
    }

    /// Has an instance that was started to see whether its code runs stay only
    /// briefly, unless it is used.
    pub fn keep_briefly(&mut self, instance: InstanceId) {
        self.admission.keep_briefly(instance);
    }

    /// Takes note of what calls of a function were found to need of processors.
    /// Returns whether they hold that from now on; they do not when it is about
    /// what they held. When they are given much more they run quicker: how long
    /// they ran is forgotten, or those that wait now would be refused by it.
    pub fn learn_need(
        &mut self,
        key: FunctionKey,
        cpu: Cpu,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> bool {
        let cpu = cpu.min(self.admission.capacity().cpu);
        let need = cpu.as_cores();
        let held = self.admission.call_cpu(key).as_cores();
        if (need - held).abs() <= held * NEED_CHANGE_MIN {
            return false;
        }
        if need > held * NEED_GROWTH_QUICKER
            && let Some(function) = self.function_mut(key)
        {
            function.forget_service();
        }
        self.admission.set_need(key, cpu, now, &mut self.asked);
        self.ask(now, actions);
        true
    }

    /// Says whether more threads want processors than there are. Then no more
    /// calls whose need was learned run than there are cores.
    pub fn set_crowded(&mut self, crowded: bool, now: Time, actions: &mut Vec<Action<T>>) {
        self.admission.set_crowded(crowded, now, &mut self.asked);
        self.ask(now, actions);
    }

    // Calls.

    /// Hands a free place elsewhere to the waiting call whose turn it is, among
    /// those that `ask` says can go there. That one is not in the queue any
    /// more; it is returned with its seat.
    pub fn offer(
        &mut self,
        now: Time,
        mut ask: impl FnMut(&T) -> bool,
        actions: &mut Vec<Action<T>>,
    ) -> Option<(T, Seat)> {
        let asks = |waiter: &Waiter<T>| ask(&waiter.token);
        let left = self.admission.offer(now, asks, &mut self.asked);
        self.ask(now, actions);
        let (waiter, seat) = left?;
        Some((self.token(waiter, now), seat))
    }

    /// Takes back a call that waits; `None` when it has already been given back
    /// in an action.
    pub fn cancel(&mut self, ticket: Ticket, now: Time, actions: &mut Vec<Action<T>>) -> Option<T> {
        let waiter = self.admission.cancel(ticket, now, &mut self.asked);
        self.ask(now, actions);
        Some(self.token(waiter?, now))
    }

    /// Ends a call that ran. `ran` is what is learned of it; `None` when nothing
    /// is, or [`Scheduler::learn`] was told.
    pub fn finish(
        &mut self,
        slot: Slot,
        ran: Option<Ran>,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) {
        if let Some(ran) = ran {
            self.learn(slot.function(), ran, slot.waited_for_start());
        }
        self.admission.finish(slot, now, &mut self.asked);
        self.ask(now, actions);
    }

    /// Learns of a call that answered while it goes on. `started` is how long it
    /// waited for a start; `None` when it found warm code.
    pub fn learn(&mut self, key: FunctionKey, ran: Ran, started: Option<Duration>) {
        if let Some(function) = self.function_mut(key) {
            function.learn(ran, started);
        }
    }

    // Instances.

    /// Takes note that the code of an instance is ready: it is started when the
    /// gate is free.
    pub fn prepared(&mut self, id: InstanceId, now: Time, actions: &mut Vec<Action<T>>) {
        self.gate.come(id);
        self.ask(now, actions);
    }

    /// Takes note that an instance takes calls.
    pub fn started(&mut self, id: InstanceId, now: Time, actions: &mut Vec<Action<T>>) {
        self.gate.leave(id);
        self.admission.started(id, now, &mut self.asked);
        self.ask(now, actions);
    }

    /// Takes note that an instance could not be started, or its code not made
    /// ready. The calls that it would have taken are handed back as
    /// [`Action::CannotStart`]; all calls of the function when it has no other
    /// instance.
    pub fn start_failed(&mut self, id: InstanceId, now: Time, actions: &mut Vec<Action<T>>) {
        self.gate.leave(id);
        self.admission.start_failed(id, now, &mut self.asked);
        self.ask(now, actions);
    }

    /// Takes note that an instance died. Its calls are finished by the shell
    /// as they fail.
    pub fn gone(&mut self, id: InstanceId, now: Time, actions: &mut Vec<Action<T>>) {
        self.gate.leave(id);
        self.admission.gone(id, now, &mut self.asked);
        self.ask(now, actions);
    }

    /// Takes note that an instance was stopped: what it held is free.
    pub fn stopped(&mut self, id: InstanceId, now: Time, actions: &mut Vec<Action<T>>) {
        self.admission.stopped(id, now, &mut self.asked);
        self.ask(now, actions);
    }

    // Time.

    /// Does what is due: calls give up, idle instances stop, kept ones start.
    pub fn expire(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        self.admission.expire(now, &mut self.asked);
        self.ask(now, actions);
    }

    /// When [`Scheduler::expire`] should be called next; later than the last such
    /// call. It may turn out to have nothing to do. `None`: not before something
    /// else happens.
    pub fn next_event(&self) -> Option<Time> {
        self.admission.next_event()
    }

    /// Refuses all that arrives from now on, and starts instances for waiting
    /// calls only. What runs and waits goes on.
    pub fn drain(&mut self) {
        self.admission.drain();
    }

    // How it is done.

    fn function(&self, key: FunctionKey) -> Option<&Function> {
        let function = self.functions.get(key.index())?.as_ref();
        function.filter(|function| function.key == key)
    }

    fn function_mut(&mut self, key: FunctionKey) -> Option<&mut Function> {
        let function = self.functions.get_mut(key.index())?.as_mut();
        function.filter(|function| function.key == key)
    }

    fn service(&self, key: FunctionKey) -> Estimate {
        let function = self.function(key);
        function
            .map(|function| function.service)
            .unwrap_or_default()
    }

    fn forget(&mut self, key: FunctionKey) {
        if self.function(key).is_some() {
            self.functions[key.index()] = None;
        }
    }

    fn give_back(&mut self, key: FunctionKey, charge: Option<Charge>, now: Time) {
        if let (Some(charge), Some(function)) = (charge, self.function_mut(key)) {
            let Charge {
                counted,
                per_second,
            } = charge;
            function.rate.give_back(counted, now, per_second);
        }
    }

    /// Gives up a call that did not run.
    fn token(&mut self, waiter: Waiter<T>, now: Time) -> T {
        self.give_back(waiter.function, waiter.charge, now);
        waiter.token
    }
}

#[cfg(test)]
mod tests;
