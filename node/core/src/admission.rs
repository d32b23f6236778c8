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

use std::time::Duration;

use crate::class::ClassConfig;
use crate::estimate::ExpectedWait;
use crate::pool::{Change, Eviction, LastUse, Pool, Standing, Taken, cost};
use crate::profile::Profile;
use crate::queue::share::Names;
use crate::queue::{Fit, Look, Queue, Waited, Waiting};
use crate::resources::{Cpu, Resources};
use crate::time::Time;
use crate::words::{Phase, Refusal};

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

/// What would become of a call that arrived now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// It would run on a ready instance.
    Warm,
    /// It would wait for a start, and for nothing else.
    Start,
    /// It would wait for a place.
    Wait {
        /// So long, as far as anybody knows.
        expected: ExpectedWait,
    },
    /// It would be refused.
    Refuse(Refusal),
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

    /// What would become of such a call; `None` when the function was removed.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn prospect(&self, arrival: &Arrival, now: Time) -> Option<Prospect> {
        let function = arrival.function;
        let gauges = self.pool.gauges(function)?;
        if let Some(refusal) = self.closed() {
            return Some(Prospect::Refuse(refusal));
        }
        if !self.overtakes(gauges) && self.pool.has_place(function) && self.pool.has_room(function)
        {
            return Some(Prospect::Warm);
        }
        if self.starts_at_once(function, gauges.waiting) {
            return Some(Prospect::Start);
        }
        Some(match self.refusal(arrival, now) {
            Some(refusal) => Prospect::Refuse(refusal),
            None => Prospect::Wait {
                expected: self.expected_wait(function, arrival.class, arrival.pace),
            },
        })
    }

    /// Why a call is not let into the queue.
    fn refusal(&self, arrival: &Arrival, now: Time) -> Option<Refusal> {
        let &Arrival {
            function, class, ..
        } = arrival;
        match arrival.kind {
            Kind::Accepted => None,
            Kind::Awaited if self.queue.is_full(class) => Some(Refusal::QueueFull),
            Kind::Awaited => {
                let time = arrival.leave.since(now);
                let expected = self.expected_wait(function, class, arrival.pace);
                let fits = self.queue.fits(function, class, time, expected, now);
                (!fits).then_some(Refusal::Overloaded)
            }
        }
    }

    /// How long a newcomer would wait for a place.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn expected_wait(&self, function: FunctionKey, class: usize, pace: Pace) -> ExpectedWait {
        let own = self
            .pool
            .gauges(function)
            .map_or(0, |gauges| gauges.running);
        let (ahead, here) = match self.pool.has_place(function) || own == 0 {
            // Its calls take what any call gives back.
            true => {
                let all = u32::try_from(self.pool.running()).unwrap_or(u32::MAX);
                (self.queue.ahead_of_class(function, class), all)
            }
            // Its own instances serve it.
            false => (self.queue.ahead_of_function(function, class), own),
        };
        ExpectedWait::new(pace.service, ahead, here.saturating_add(pace.elsewhere))
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

    /// For how many more calls of a function there is room; `None` when it was
    /// removed.
    pub fn places(&self, function: FunctionKey) -> Option<Places> {
        self.pool.places(function)
    }

    /// Whether a newcomer waits for a start rather than for room. Such calls
    /// are taken beyond the length of their queue, or a class without one
    /// could never make a cold call.
    fn is_start_at_hand(&self, key: FunctionKey, waiting: u32) -> bool {
        self.pool.covers(key, waiting + 1)
            || (!self.queue.has_contenders()
                && !self.pool.has_place(key)
                && self.pool.may_start(key)
                && self.pool.has_room_to_start(key))
    }

    /// Whether a newcomer waits for a start, and then for nothing else: what it
    /// and those before it hold is free.
    fn starts_at_once(&self, key: FunctionKey, waiting: u32) -> bool {
        self.is_start_at_hand(key, waiting)
            && self.pool.has_room_for(key, waiting.saturating_add(1))
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

    /// Of which function an instance is being started; `None` when nobody wants
    /// it any more, or it is started.
    pub fn being_started(&self, instance: InstanceId) -> Option<FunctionKey> {
        self.pool.being_started(instance)
    }

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

    // Numbers.

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

    /// Brings everything to rest after an event: nobody waits who could run.
    fn settle(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        // First, or a call might run after its caller was told that it waited
        // too long.
        self.expire_calls(now, actions);
        if !self.queue.is_empty() {
            self.run_waiting(now, actions);
        }
        self.settle_instances(now, actions);
    }

    /// The same where nothing but time can have changed since the last event for
    /// those who wait.
    fn settle_again(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        match self.queue.next_give_up().is_some_and(|due| due <= now) {
            true => self.settle(now, actions),
            false => self.settle_instances(now, actions),
        }
    }

    fn settle_instances(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        // After those who wait, who may need what is about to stop.
        if self.pool.next_event().is_some_and(|due| due <= now) {
            self.pool.expire(now);
        }
        if !self.draining && self.pool.is_lacking() && !self.queue.has_contenders() {
            self.pool.prestart(now);
        }
        if self.pool.has_changes() {
            actions.extend(self.pool.changes().map(Action::from));
        }
    }

    /// Has those leave who waited as long as they may, but for those that a
    /// start is at hand for.
    fn expire_calls(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        while let Some(due) = self.queue.due(now) {
            let promised = self.queue.promised(due.function);
            if due.may_stay && self.pool.covers(due.function, promised.saturating_add(1)) {
                self.queue.promise(due.ticket);
                continue;
            }
            let waited = self.queue.remove(due.ticket).expect("it is due");
            let phase = match waited.promised {
                true => Phase::Start,
                false => Phase::Queue,
            };
            actions.push(Action::Expired {
                token: self.token(waited),
                phase,
            });
        }
    }

    fn run_waiting(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        let Admission { pool, queue, .. } = self;
        while let Some(waited) = queue.pick(now, |function, look| judge(pool, function, look, now))
        {
            let Taken::Slot(mut slot) = pool.take(waited.function, waited.arrived, now) else {
                unreachable!("judged to run in this very state");
            };
            slot.charged = Some((waited.seat.class, waited.seat.cost));
            pool.count_waited(waited.function);
            actions.push(Action::Run {
                token: waited.token,
                slot,
            });
        }
    }
}

impl<T> From<Change> for Action<T> {
    fn from(change: Change) -> Self {
        match change {
            Change::Start { instance, function } => Action::Start { instance, function },
            Change::Stop { instance } => Action::Stop { instance },
        }
    }
}

/// Judges whether the oldest waiting call of a function can run, and starts
/// instances or stops those of others so that it soon can.
fn judge(pool: &mut Pool, key: FunctionKey, look: Look, now: Time) -> Fit {
    let verdict = loop {
        match pool.standing(key) {
            Standing::Runs => return Fit::Runs,
            Standing::Short => break Fit::Short,
            Standing::Settled => return Fit::Asleep,
            // Perhaps that is not enough for all that wait.
            Standing::Lacks { .. } if pool.start(key, now) => {}
            Standing::Lacks { served: true } => break Fit::Patient,
            Standing::Lacks { served: false } => break Fit::Short,
        }
    };
    match look {
        Look::Turn if pool.is_still() => pool.make_room(key, Eviction::LastResort),
        Look::Turn | Look::Head => pool.make_room(key, Eviction::Surplus),
        // One large call after the other would empty the pool for all of them
        // at once, though only the first can use the room.
        Look::Behind => {}
    }
    verdict
}

#[cfg(test)]
mod overload;

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests;
