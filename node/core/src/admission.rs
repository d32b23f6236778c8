//! Who runs now, who waits, who is refused: one state machine over pool and
//! queue.
//!
//! The shell keeps an [`Admission`] behind a short lock. Each event (a call
//! arrives or ends, an instance starts or dies, time passes) is one method,
//! which appends what must be done to a list of [`Action`]s; the shell does it
//! after it has let go of the lock.
//!
//! * A call runs at once when a ready instance has a free place, what a call
//!   holds is free, and nobody would be overtaken.
//! * Otherwise it waits in its class, also while an instance is being started
//!   for it: the first place that becomes free goes to the call that has
//!   waited longest, whichever start was meant for whom. A function with
//!   waiting calls starts as many instances as those calls can fill, up to its
//!   maximum and as far as there is room, at the cost of idle ones of others.
//! * A call that would most likely wait longer than it may is refused at once,
//!   and one that has done so leaves. Waiting for a start that is at hand does
//!   not count as waiting for a place. What was accepted to be run later is
//!   never refused for load, and waits as long as it takes.
//! * A free place elsewhere is one more place: [`Admission::offer`] hands it to
//!   the call whose turn it is. One that comes back has the seat that it left.
//! * Each token is given back exactly once, in an [`Action`] or by
//!   [`Admission::cancel`].
//! * Whatever fits alone into the node runs in the end: a head that is passed
//!   over too often holds the others back ([`crate::queue`]), and when nothing
//!   moves any more even kept instances make room.
//!
//! | file | what it is |
//! |---|---|
//! | `prospect` | what would become of a call, and how long it would wait |
//! | `settle` | what follows from an event: who runs, who leaves, what starts and stops |
//! | `numbers` | what runs, waits and is held |

mod numbers;
mod prospect;
mod settle;

use std::time::Duration;

use crate::class::ClassConfig;
use crate::pool::{LastUse, Pool, Taken, cost};
use crate::profile::Profile;
use crate::queue::share::Names;
use crate::queue::{Queue, Waited, Waiting};
use crate::resources::{Cpu, Resources};
use crate::time::Time;
use crate::words::{Phase, Refusal};

pub use self::prospect::Prospect;
pub use crate::pool::{FunctionGauges, FunctionKey, InstanceId, Places, Slot, TooLarge};
pub use crate::queue::{Kind, Seat, Ticket};

/// How long a call is expected to run of whose function nothing is known. What it
/// is charged is put right when it has ended.
const UNKNOWN_SERVICE: Duration = Duration::from_millis(100);

/// A call at the door.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Which function.
    pub function: FunctionKey,
    /// Its class, as an index into the configured ones.
    pub class: usize,
    /// Whether somebody waits for its answer. If not, it is not refused for
    /// load.
    pub kind: Kind,
    /// Whether it waits for a place; else only for a start that is at hand.
    pub patient: bool,
    /// When it came; now, or before it was placed in vain.
    pub arrived: Time,
    /// When it stops waiting for a place; [`Time::NEVER`] for no such moment.
    pub leave: Time,
    /// When it stops waiting for a start that is at hand; not before `leave`.
    pub end: Time,
    /// By what its wait is guessed.
    pub pace: Pace,
}

/// By what the wait of a call is guessed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long a call of its function runs; zero when nobody knows.
    pub service: Duration,
    /// Calls of this node that run elsewhere now: those places serve its queue
    /// too.
    pub elsewhere: u32,
}

/// What becomes of a call that arrives.
#[derive(Debug)]
pub enum Verdict {
    /// It runs now, on a warm instance.
    Run(Slot),
    /// It waits; its token comes back in an [`Action`], perhaps in one of this
    /// very call.
    Wait(Ticket),
    /// It is not taken.
    Refuse(Refusal),
    /// The function was removed.
    Unknown,
}

/// What the shell must do.
#[derive(Debug)]
pub enum Action<T> {
    /// Run this waiting call. If its caller has gone, [`Admission::finish`]
    /// the slot.
    Run {
        /// The call.
        token: T,
        /// Its place.
        slot: Slot,
    },
    /// Start an instance, then tell [`Admission::started`] or
    /// [`Admission::start_failed`].
    Start {
        /// Its id from now on.
        instance: InstanceId,
        /// Of which function; the newest code.
        function: FunctionKey,
    },
    /// Stop an instance on which nothing runs, then tell
    /// [`Admission::stopped`].
    Stop {
        /// Which.
        instance: InstanceId,
    },
    /// Answer that the call waited too long.
    Expired {
        /// The call.
        token: T,
        /// What it waited for: room in the queue, or a start.
        phase: Phase,
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

/// The state of admission; `T` is what the shell needs to answer a waiting call.
#[derive(Debug)]
pub struct Admission<T> {
    pool: Pool,
    queue: Queue<T>,
    namespaces: Names,
    max_calls: usize,
    draining: bool,
}

impl<T> Admission<T> {
    /// Makes an empty one. `max_calls` bounds running and waiting calls together.
    ///
    /// # Panics
    /// When `classes` is empty.
    pub fn new(capacity: Resources, classes: &[ClassConfig], max_calls: usize) -> Self {
        assert!(!classes.is_empty(), "a node has at least one class");
        Admission {
            pool: Pool::new(capacity),
            queue: Queue::new(classes),
            namespaces: Names::default(),
            max_calls,
            draining: false,
        }
    }

    // Functions.

    /// Adds a function to a namespace and starts the instances that it keeps.
    pub fn add(
        &mut self,
        namespace: &str,
        profile: Profile,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Result<FunctionKey, TooLarge> {
        let key = self.pool.add(profile)?;
        let (namespace, is_new) = self.namespaces.enter(namespace);
        if is_new {
            self.queue.begin(namespace);
        }
        self.queue.add(key, namespace);
        self.settle(now, actions);
        Ok(key)
    }

    /// Gives a function new code and needs. Calls that run end on the old
    /// instances, which then stop; those that wait go to new ones.
    pub fn update(
        &mut self,
        key: FunctionKey,
        profile: Profile,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Result<(), TooLarge> {
        self.pool.update(key, profile)?;
        self.queue.wake(key);
        self.settle(now, actions);
        Ok(())
    }

    /// Gives a function new code and needs, and with them the instances of
    /// another one of its namespace, which is no more: nothing may run there or
    /// wait.
    pub fn replace(
        &mut self,
        namespace: &str,
        key: FunctionKey,
        by: FunctionKey,
        profile: Profile,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Result<(), TooLarge> {
        self.pool.replace(key, by, profile)?;
        self.remove(namespace, by, now, actions);
        self.queue.wake(key);
        self.settle(now, actions);
        Ok(())
    }

    /// Has an instance that was started to see whether its code runs stay only
    /// briefly, unless it is used.
    pub fn keep_briefly(&mut self, instance: InstanceId) {
        self.pool.keep_briefly(instance);
    }

    /// Keeps `replicas` instances; zero stops all until the next call.
    pub fn scale(
        &mut self,
        key: FunctionKey,
        replicas: u32,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) {
        self.pool.scale(key, replicas);
        self.queue.wake(key);
        self.settle(now, actions);
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
        if self.pool.gauges(key).is_none() {
            return;
        }
        while let Some(waited) = self.queue.remove_oldest(key) {
            actions.push(Action::Removed {
                token: self.token(waited),
            });
        }
        self.pool.remove(key);
        self.namespaces.leave(namespace);
        self.settle(now, actions);
    }

    // Calls.

    /// Takes a call in if it runs at once on a warm instance, of which nothing
    /// has to be known but its function.
    pub fn arrive_warm(&mut self, function: FunctionKey, now: Time) -> Option<Slot> {
        let gauges = self.pool.gauges(function)?;
        if self.overtakes(gauges) || self.closed().is_some() {
            return None;
        }
        match self.pool.take(function, now, now) {
            Taken::Slot(slot) => Some(slot),
            Taken::NoPlace | Taken::NoRoom => None,
        }
    }

    /// Why no call is taken in at all.
    fn closed(&self) -> Option<Refusal> {
        if self.draining {
            return Some(Refusal::Draining);
        }
        let calls = self.pool.running() + self.queue.len();
        (calls >= self.max_calls).then_some(Refusal::TooManyCalls)
    }

    /// Takes a call in. `token` is asked for only when the call must wait, so
    /// that a warm call costs no channel.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn arrive(
        &mut self,
        arrival: Arrival,
        token: impl FnOnce() -> T,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Verdict {
        match self.arrive_warm(arrival.function, now) {
            Some(slot) => Verdict::Run(slot),
            None => self.arrive_cold(arrival, token, now, actions),
        }
    }

    /// The same for one that was just seen not to run on a warm instance.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub(crate) fn arrive_cold(
        &mut self,
        arrival: Arrival,
        token: impl FnOnce() -> T,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Verdict {
        let Arrival {
            function,
            class,
            kind,
            patient,
            arrived,
            leave,
            end,
            pace,
        } = arrival;
        if let Some(refusal) = self.closed() {
            return Verdict::Refuse(refusal);
        }
        let Some(gauges) = self.pool.gauges(function) else {
            return Verdict::Unknown;
        };
        let at_hand = self.is_start_at_hand(function, gauges.waiting);
        let refusal = match patient {
            true if at_hand => None,
            true => self.refusal(&arrival, now),
            false => {
                let at_once = self.starts_at_once(function, gauges.waiting);
                (!at_once).then_some(Refusal::NoRoom)
            }
        };
        if let Some(refusal) = refusal {
            return Verdict::Refuse(refusal);
        }
        let waiting = Waiting {
            class,
            kind,
            arrived,
            leave,
            end,
            cost: self.expected_cost(function, pace),
        };
        let settled = self.queue.only_lengthens(function, class, kind);
        let ticket = self.queue.push(function, waiting, at_hand, now, token());
        self.pool.count_waiting(function);
        match settled {
            true => self.settle_again(now, actions),
            false => self.settle(now, actions),
        }
        Verdict::Wait(ticket)
    }

    /// Takes a call back in that left for a place elsewhere. It was taken once,
    /// so that nothing is refused: it has its seat, or a place.
    pub fn come_back(
        &mut self,
        function: FunctionKey,
        seat: Seat,
        token: impl FnOnce() -> T,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Verdict {
        let Some(gauges) = self.pool.gauges(function) else {
            return Verdict::Unknown;
        };
        // It was charged when it left.
        self.queue.correct(function, seat.class, seat.cost, 0);
        if !self.overtakes(gauges)
            && let Taken::Slot(slot) = self.pool.take(function, now, now)
        {
            return Verdict::Run(slot);
        }
        let at_hand = self.is_start_at_hand(function, gauges.waiting);
        let ticket = self.queue.put_back(function, seat, at_hand, now, token());
        self.pool.count_waiting(function);
        self.settle(now, actions);
        Verdict::Wait(ticket)
    }

    /// Hands a free place elsewhere to the waiting call whose turn it is, among
    /// those that `ask` says can go there. That one is not in the queue any
    /// more; it is returned with its seat.
    pub fn offer(
        &mut self,
        now: Time,
        ask: impl FnMut(&T) -> bool,
        actions: &mut Vec<Action<T>>,
    ) -> Option<(T, Seat)> {
        self.expire_calls(now, actions);
        let waited = self.queue.offer(now, ask)?;
        let seat = waited.seat;
        let token = self.token(waited);
        self.settle(now, actions);
        Some((token, seat))
    }

    /// Processor time that a call is expected to take, in nanoseconds of one
    /// core.
    fn expected_cost(&self, function: FunctionKey, pace: Pace) -> u64 {
        let service = match pace.service {
            Duration::ZERO => UNKNOWN_SERVICE,
            known => known,
        };
        cost(self.pool.call_cpu(function), service)
    }

    /// Whether a newcomer that ran at once would go before somebody who waits.
    fn overtakes(&self, gauges: FunctionGauges) -> bool {
        gauges.waiting > 0 || self.queue.has_contenders()
    }

    /// Ends a call that ran.
    pub fn finish(&mut self, slot: Slot, now: Time, actions: &mut Vec<Action<T>>) {
        let function = slot.function();
        if let Some((class, charged)) = slot.charged
            && self.pool.gauges(function).is_some()
        {
            let took = slot.took(now);
            self.queue.correct(function, class, charged, took);
        }
        self.pool.finish(slot, now);
        self.wake(function);
        self.settle(now, actions);
    }

    /// Takes a place for a call that is yet to be decided about, where it would
    /// run at once on a warm instance.
    pub(crate) fn reserve(&mut self, function: FunctionKey, now: Time) -> Option<(Slot, LastUse)> {
        let before = self.pool.last_use(function)?;
        Some((self.arrive_warm(function, now)?, before))
    }

    /// Takes such a place back on which no call ran.
    pub(crate) fn release(
        &mut self,
        (slot, before): (Slot, LastUse),
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) {
        let function = slot.function();
        self.pool.finish_unused(slot, before, now);
        self.wake(function);
        self.settle(now, actions);
    }

    /// Takes back a call that waits; `None` when it has already been given
    /// back in an action.
    pub fn cancel(&mut self, ticket: Ticket, now: Time, actions: &mut Vec<Action<T>>) -> Option<T> {
        let waited = self.queue.remove(ticket)?;
        let token = self.token(waited);
        self.settle(now, actions);
        Some(token)
    }

    // Instances.

    /// Takes note that an instance takes calls.
    pub fn started(&mut self, id: InstanceId, now: Time, actions: &mut Vec<Action<T>>) {
        if let Some(function) = self.pool.started(id, now) {
            self.queue.wake(function);
        }
        self.settle(now, actions);
    }

    /// Takes note that an instance could not be started. The calls that it
    /// would have taken are handed back as [`Action::CannotStart`]; all calls
    /// of the function when it has no other instance.
    pub fn start_failed(&mut self, id: InstanceId, now: Time, actions: &mut Vec<Action<T>>) {
        if let Some(failed) = self.pool.start_failed(id, now) {
            for _ in 0..failed.calls {
                let Some(waited) = self.queue.remove_oldest(failed.function) else {
                    break;
                };
                actions.push(Action::CannotStart {
                    token: self.token(waited),
                    instance: id,
                });
            }
            self.queue.wake(failed.function);
        }
        self.settle(now, actions);
    }

    /// Takes note that an instance died. Its calls are finished by the shell
    /// as they fail.
    pub fn gone(&mut self, id: InstanceId, now: Time, actions: &mut Vec<Action<T>>) {
        if let Some(function) = self.pool.gone(id) {
            self.wake(function);
        }
        self.settle(now, actions);
    }

    /// Takes note that an instance was stopped: what it held is free.
    pub fn stopped(&mut self, id: InstanceId, now: Time, actions: &mut Vec<Action<T>>) {
        if let Some(function) = self.pool.stopped(id) {
            self.wake(function);
        }
        self.settle(now, actions);
    }

    // Processors.

    /// Has calls of a function hold what they were found to need from now on, at
    /// most all that the node has.
    pub fn set_need(
        &mut self,
        key: FunctionKey,
        cpu: Cpu,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) {
        self.pool.set_need(key, cpu);
        self.wake(key);
        self.settle(now, actions);
    }

    /// Says whether more threads want processors than there are. Then no more
    /// calls whose need was learned run than there are cores.
    pub fn set_crowded(&mut self, crowded: bool, now: Time, actions: &mut Vec<Action<T>>) {
        self.pool.set_crowded(crowded);
        self.settle(now, actions);
    }

    // Time.

    /// Does what is due: calls give up, idle instances stop, kept ones start.
    pub fn expire(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        self.settle(now, actions);
    }

    /// When [`Admission::expire`] should be called next; it may turn out to
    /// have nothing to do. `None`: not before something else happens.
    pub fn next_event(&self) -> Option<Time> {
        let events = [self.pool.next_event(), self.queue.next_give_up()];
        events.into_iter().flatten().min()
    }

    /// Refuses all that arrives from now on, and starts instances for waiting
    /// calls only. What runs and waits goes on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    // How it is done.

    fn wake(&mut self, key: FunctionKey) {
        if self
            .pool
            .gauges(key)
            .is_some_and(|gauges| gauges.waiting > 0)
        {
            self.queue.wake(key);
        }
    }

    fn token(&mut self, waited: Waited<T>) -> T {
        self.pool.count_waited(waited.function);
        waited.token
    }
}

#[cfg(test)]
mod overload;

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests;
