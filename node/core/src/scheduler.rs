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

mod gate;

use std::sync::Arc;
use std::time::Duration;

use crate::admission::{
    self, Admission, Arrival, FunctionKey, InstanceId, Kind, Pace, Prospect, Seat, Slot, Ticket,
    TooLarge,
};
use crate::class::ClassConfig;
use crate::estimate::{Estimate, ExpectedWait, Known, Samples, longest_wait, time_to_wait};
use crate::pool::LastUse;
use crate::profile::Profile;
use crate::rate::{Counted, Rate};
use crate::resources::{Cpu, Resources};
use crate::time::Time;
use crate::words::{Phase, Refusal};

use self::gate::Gate;

/// Change of a need, as a part of it, up to which calls hold what they did.
const NEED_CHANGE_MIN: f64 = 0.1;

/// Growth of a need beyond which calls run quicker than they did.
const NEED_GROWTH_QUICKER: f64 = 1.5;

/// A call at the door.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Which function.
    pub function: FunctionKey,
    /// Its class, as an index into the configured ones.
    pub class: usize,
    /// Whether it waits for a place; else only for a start that is at hand.
    pub patient: bool,
    /// When it came; now, or before it was placed in vain.
    pub arrived: Time,
    /// The latest useful answer; [`Time::NEVER`] for none. See
    /// [`ClassConfig::deadline_of`].
    pub deadline: Time,
    /// Until when it waits, where it was accepted to be run later; `None` when
    /// somebody waits for its answer.
    pub persists_until: Option<Time>,
    /// How long it may run.
    pub timeout: Duration,
    /// Most calls of its function in a second; `None` for any number, and for a
    /// call that was counted already.
    pub per_second: Option<u32>,
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
    /// very event.
    Wait(Ticket),
    /// It is not taken.
    Refuse {
        /// Why.
        reason: Refusal,
        /// How long it would have to wait; zero when nobody knows.
        expected: Duration,
    },
    /// The function was removed.
    Unknown,
}

/// Why a call waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// Its deadline passed.
    Late {
        /// What it waited for.
        phase: Phase,
        /// How long it had.
        after: Duration,
    },
    /// It had no place for as long as it may wait.
    WaitedTooLong {
        /// How long a newcomer would wait, as far as anybody knows; no less than
        /// it waited itself.
        expected: Duration,
    },
    /// The start that it waited for is not there yet.
    NotStarted,
}

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

/// How the code of a call ended, as far as it teaches something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// It began to answer after that.
    Answered(Duration),
    /// It ran out of time after that.
    TimedOut(Duration),
    /// It failed, however quickly.
    Failed,
}

/// A place for a call that is yet to be decided about. It must be run on or given
/// to [`Scheduler::release`]; dropped, what it holds is lost until the node
/// restarts.
#[must_use = "what it holds is released by release or by finishing its slot alone"]
#[derive(Debug)]
pub struct Reserved {
    slot: Slot,
    before: LastUse,
    charge: Option<Charge>,
}

impl Reserved {
    /// The place, for its call to run on.
    pub fn run(self) -> Slot {
        self.slot
    }
}

/// What would become of a call that arrived now.
#[derive(Debug, Clone, Copy)]
pub struct Outlook {
    /// That.
    pub prospect: Prospect,
    /// How long it would wait for a place; zero for not at all, or when nothing
    /// is known. For a call that would be refused, how long it would have to.
    pub wait: Duration,
    /// How long it may wait for one.
    pub time_to_wait: Duration,
    /// How long calls of its function run.
    pub service: Estimate,
    /// How long starts of it take; zero before the first.
    pub start: Duration,
    /// Whether its function has every instance that it may have, and none has a
    /// free place.
    pub function_full: bool,
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

/// What is known of a function beside what admission counts.
#[derive(Debug)]
struct Function {
    key: FunctionKey,
    /// Calls of the last second, where there is a bound.
    rate: Rate,
    /// From the first one on.
    samples: Option<Box<Samples>>,
    service: Estimate,
    known: Arc<Known>,
}

impl Function {
    fn new(key: FunctionKey) -> Self {
        Function {
            key,
            rate: Rate::default(),
            samples: None,
            service: Estimate::default(),
            known: Arc::default(),
        }
    }

    fn learn(&mut self, ran: Ran, started: Option<Duration>) {
        if let Some(started) = started {
            self.known.learn_start(started);
        }
        match ran {
            Ran::Answered(took) => self.samples.get_or_insert_default().learn(took),
            Ran::TimedOut(took) => self.samples.get_or_insert_default().learn_at_least(took),
            Ran::Failed => return,
        }
        self.note_service();
    }

    /// Forgets how long calls ran: they do not run as they did.
    fn forget_service(&mut self) {
        self.samples = None;
        self.note_service();
    }

    fn note_service(&mut self) {
        let samples = self.samples.as_ref();
        self.service = samples
            .map(|samples| samples.estimate())
            .unwrap_or_default();
        self.known.set_service(&self.service);
    }
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

    /// Takes a call in. `token` is asked for only when the call must wait, so
    /// that a warm call costs no channel.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn arrive(
        &mut self,
        request: &Request,
        token: impl FnOnce() -> T,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Verdict {
        self.take_in(request, None, token, now, actions)
    }

    /// Takes a call back in that left for a place elsewhere. It was taken once,
    /// so that nothing is refused: it has its seat, or a place.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn come_back(
        &mut self,
        request: &Request,
        seat: Seat,
        token: impl FnOnce() -> T,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Verdict {
        self.take_in(request, Some(seat), token, now, actions)
    }

    fn take_in(
        &mut self,
        request: &Request,
        seat: Option<Seat>,
        token: impl FnOnce() -> T,
        now: Time,
        actions: &mut Vec<Action<T>>,
    ) -> Verdict {
        self.elsewhere = request.elsewhere;
        let Some(function) = self.function_mut(request.function) else {
            return Verdict::Unknown;
        };
        let mut charge = None;
        if let Some(per_second) = request.per_second {
            let counted = match seat {
                Some(_) => Some(function.rate.take_again(now, per_second)),
                None => function.rate.take(now, per_second),
            };
            let Some(counted) = counted else {
                return Verdict::Refuse {
                    reason: match request.patient {
                        true => Refusal::RateLimit,
                        // Whoever asked may know of another place.
                        false => Refusal::NoRoom,
                    },
                    expected: function.rate.wait(now, per_second),
                };
            };
            charge = Some(Charge {
                counted,
                per_second,
            });
        }
        if seat.is_none()
            && let Some(slot) = self.admission.arrive_warm(request.function, now)
        {
            return Verdict::Run(slot);
        }
        let arrival = self.arrival(request);
        let waiter = || Waiter {
            token: token(),
            function: request.function,
            class: request.class,
            arrived: request.arrived,
            deadline: request.deadline,
            charge,
        };
        let (admission, asked) = (&mut self.admission, &mut self.asked);
        let verdict = match seat {
            Some(seat) => admission.come_back(request.function, seat, waiter, now, asked),
            None => admission.arrive_cold(arrival, waiter, now, asked),
        };
        match verdict {
            admission::Verdict::Run(slot) => Verdict::Run(slot),
            admission::Verdict::Wait(ticket) => {
                self.ask(now, actions);
                Verdict::Wait(ticket)
            }
            admission::Verdict::Refuse(reason) => {
                self.give_back(request.function, charge, now);
                let expected =
                    self.admission
                        .expected_wait(request.function, request.class, arrival.pace);
                Verdict::Refuse {
                    reason,
                    expected: expected.whole(),
                }
            }
            admission::Verdict::Unknown => Verdict::Unknown,
        }
    }

    /// How admission sees a call.
    fn arrival(&self, request: &Request) -> Arrival {
        let service = self.service(request.function);
        let longest = longest_wait(self.classes[request.class].max_wait, &service);
        let (leave, end) = match request.persists_until {
            Some(until) => (until.min(request.deadline), until.min(request.deadline)),
            None => {
                let left = request.deadline.since(request.arrived);
                let left = (request.deadline != Time::NEVER).then_some(left);
                let leave = request.arrived + time_to_wait(longest, left, &service);
                // A start may well take longer than the call that it is for.
                let started = request.arrived + request.timeout.max(longest);
                let end = match request.deadline {
                    Time::NEVER => started,
                    deadline => deadline,
                };
                (leave, end)
            }
        };
        Arrival {
            function: request.function,
            class: request.class,
            kind: match request.persists_until {
                Some(_) => Kind::Accepted,
                None => Kind::Awaited,
            },
            patient: request.patient,
            arrived: request.arrived,
            leave,
            end,
            pace: Pace {
                service: service.mean,
                elsewhere: request.elsewhere,
            },
        }
    }

    /// What would become of such a call; `None` when the function was removed.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn prospect(&self, request: &Request, now: Time) -> Option<Outlook> {
        let function = self.function(request.function)?;
        let arrival = self.arrival(request);
        let mut prospect = self.admission.prospect(&arrival, now)?;
        let expected = match prospect {
            Prospect::Wait { expected } => expected,
            Prospect::Refuse(_) => {
                let Request {
                    function, class, ..
                } = *request;
                self.admission.expected_wait(function, class, arrival.pace)
            }
            Prospect::Warm | Prospect::Start => ExpectedWait::default(),
        };
        let mut wait = expected.whole();
        if let Some(per_second) = request.per_second
            && !function.rate.has_room(now, per_second)
        {
            prospect = Prospect::Refuse(Refusal::RateLimit);
            wait = function.rate.wait(now, per_second);
        }
        Some(Outlook {
            prospect,
            wait,
            time_to_wait: arrival.leave.since(now),
            service: function.service,
            start: function.known.start(),
            function_full: self.admission.is_full(request.function),
        })
    }

    /// The same, and the place on a warm instance where the call would run at
    /// once: it is kept until whoever decides about the call runs it there or
    /// [releases](Scheduler::release) it.
    ///
    /// # Panics
    /// When the class is not one of the configured ones.
    pub fn reserve(&mut self, request: &Request, now: Time) -> Option<(Outlook, Option<Reserved>)> {
        let outlook = self.prospect(request, now)?;
        if outlook.prospect != Prospect::Warm {
            return Some((outlook, None));
        }
        let taken = self.admission.reserve(request.function, now);
        let reserved = taken.map(|(slot, before)| {
            let function = self.function_mut(request.function);
            let charge = request.per_second.zip(function);
            let charge = charge.and_then(|(per_second, function)| {
                let counted = function.rate.take(now, per_second)?;
                Some(Charge {
                    counted,
                    per_second,
                })
            });
            Reserved {
                slot,
                before,
                charge,
            }
        });
        Some((outlook, reserved))
    }

    /// Takes a place back whose call runs elsewhere, or not at all: it is as if it
    /// had not come.
    pub fn release(&mut self, reserved: Reserved, now: Time, actions: &mut Vec<Action<T>>) {
        let Reserved {
            slot,
            before,
            charge,
        } = reserved;
        self.give_back(slot.function(), charge, now);
        self.admission.release((slot, before), now, &mut self.asked);
        self.ask(now, actions);
    }

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

    /// Passes on what admission asks for, and lets instances start as far as the
    /// gate is free.
    fn ask(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        self.pass_on(now, actions);
        while let Some(instance) = self.gate.next() {
            match self.admission.being_started(instance) {
                Some(function) => {
                    self.gate.enter(instance);
                    actions.push(Action::Start { instance, function });
                }
                // Nobody wants it any more, so that it is not even begun.
                None => {
                    let asked = &mut self.asked;
                    self.admission.start_failed(instance, now, asked);
                    self.pass_on(now, actions);
                }
            }
        }
    }

    fn pass_on(&mut self, now: Time, actions: &mut Vec<Action<T>>) {
        if self.asked.is_empty() {
            return;
        }
        let mut asked = std::mem::take(&mut self.asked);
        for action in asked.drain(..) {
            actions.push(self.translated(action, now));
        }
        self.asked = asked;
    }

    fn translated(&mut self, action: admission::Action<Waiter<T>>, now: Time) -> Action<T> {
        match action {
            admission::Action::Run { token, slot } => Action::Run {
                token: token.token,
                slot,
            },
            admission::Action::Start { instance, function } => {
                Action::Prepare { instance, function }
            }
            admission::Action::Stop { instance } => Action::Stop { instance },
            admission::Action::Expired { token, phase } => {
                let why = self.gave_up(&token, phase, now);
                let token = self.token(token, now);
                Action::GaveUp { token, why }
            }
            admission::Action::CannotStart { token, instance } => Action::CannotStart {
                token: self.token(token, now),
                instance,
            },
            admission::Action::Removed { token } => Action::Removed {
                token: self.token(token, now),
            },
        }
    }

    /// What a call is told that waited in `phase` for as long as it may.
    fn gave_up(&self, waiter: &Waiter<T>, phase: Phase, now: Time) -> GaveUp {
        if now >= waiter.deadline {
            return GaveUp::Late {
                phase,
                after: waiter.deadline.since(waiter.arrived),
            };
        }
        match phase {
            Phase::Start => GaveUp::NotStarted,
            Phase::Queue | Phase::Run => {
                let pace = Pace {
                    service: self.service(waiter.function).mean,
                    elsewhere: self.elsewhere,
                };
                let (function, class) = (waiter.function, waiter.class);
                let expected = self.admission.expected_wait(function, class, pace);
                // What it waited in vain is a measurement too: the queue that it
                // leaves may look short.
                let waited = now.since(waiter.arrived);
                GaveUp::WaitedTooLong {
                    expected: expected.whole().max(waited),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
