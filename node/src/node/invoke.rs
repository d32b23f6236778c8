//! The path of one invocation that someone waits for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libp2p_identity::PeerId;

use super::answering::{self, Lingering};
use super::functions::Function;
use super::instances::{Fault, Granted, Held, Movable, Waiter};
use super::version::Version;
use super::{FunctionState, Inner, Node};
use crate::admission::{Prospect, Seat, Ticket};
use crate::answer::Asked;
use crate::clock;
use crate::estimate::{Estimate, retry_after};
use crate::executor::{Body, Call, CallError};
use crate::id::{CallId, FunctionName};
use crate::invocation::{Answer, Invocation, InvokeError, Phase, Refusal, Timing};
use crate::replay::Replay;
use crate::scheduler::{GaveUp, Ran, Request, Verdict};
use crate::time::Time;

/// How often a call is placed that cannot have started where it was placed
/// before, because its instance had died unnoticed, or that may be run again.
const PLACEMENTS: u32 = 3;

/// Statuses from this one on are the function's failures.
const FAILURES: u16 = 500;

/// A waiting call, as whoever may take it to another node sees it.
pub trait Moves: Send + Sync {
    /// Whether the call may go to `peer`, where a place is free. If so, it has
    /// taken that place and been told, and leaves the queue here. Called under
    /// the lock of the scheduler: it is short, and asks the node for nothing that
    /// takes a lock.
    fn go(&self, peer: &PeerId) -> bool;
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
    /// How long calls of its function run here.
    pub service: Estimate,
    /// How long starts of it take here; zero before the first.
    pub start: Duration,
    /// Whether its function has every instance here that it may have, and none
    /// has a free place.
    pub function_full: bool,
    /// Whether what starts it works, as far as is known.
    pub works: bool,
}

impl Node {
    /// Runs a call and waits for the answer. Dropping the future, or the
    /// answer's stream, cancels it.
    pub async fn invoke(&self, invocation: Invocation) -> Result<Answer, InvokeError> {
        self.inner.invoke(invocation).await
    }

    /// Runs a call if that can begin at once, or after no more than a start,
    /// and gives it back otherwise.
    pub async fn invoke_now(&self, invocation: Invocation) -> Result<Answer, Declined> {
        self.inner.run_call(invocation, Stay::Start).await
    }

    /// Runs a call here, waiting in the queue if need be. While it waits it may
    /// leave for another node. `seat` is where it stood before it left.
    pub async fn wait(
        &self,
        invocation: Invocation,
        moves: Option<Arc<dyn Moves>>,
        seat: Option<Seat>,
    ) -> Result<Answer, Declined> {
        self.wait_until(invocation, moves, seat, Time::NEVER).await
    }

    /// The same, and gives the call back when it has no place at `until`.
    pub async fn wait_until(
        &self,
        invocation: Invocation,
        moves: Option<Arc<dyn Moves>>,
        seat: Option<Seat>,
        until: Time,
    ) -> Result<Answer, Declined> {
        let stay = Stay::Queue { moves, seat, until };
        self.inner.run_call(invocation, stay).await
    }

    /// Offers one free place at `peer` to the waiting calls, in the order of
    /// their turn, until one takes it. Returns whether one did.
    pub fn offer_place(&self, peer: &PeerId) -> bool {
        let inner = &self.inner;
        while self.has_movable() {
            let mut actions = Vec::new();
            let goes = |waiter: &Waiter| waiter.goes(peer);
            let left = inner
                .scheduler()
                .offer(inner.clock.now(), goes, &mut actions);
            inner.perform(actions, None);
            let Some((waiter, seat)) = left else {
                return false;
            };
            if inner.stop.is_cancelled() {
                inner.call_ended.notify_waiters();
            }
            // One whose caller has just gone lets go of the place.
            if waiter.tell(Granted::Left(seat)) {
                return true;
            }
        }
        false
    }

    /// Whether any call waits that may leave. Cheap.
    pub fn has_movable(&self) -> bool {
        self.inner.movable.load(Ordering::Relaxed) > 0
    }

    /// Tells how many calls that arrived here run at peers now: their places
    /// serve this node's queue too.
    pub fn set_served_elsewhere(&self, calls: u32) {
        self.inner.elsewhere.store(calls, Ordering::Relaxed);
    }

    /// What would become of a call that arrived now; `None` when its function
    /// is not deployed here.
    ///
    /// # Errors
    /// When callers of the function may not name its class.
    pub fn prospect(&self, invocation: &Invocation) -> Result<Option<Outlook>, InvokeError> {
        let inner = &self.inner;
        let found = inner.functions.get(&invocation.function);
        let Some(function) = found.map(|found| found.clone()) else {
            return Ok(None);
        };
        let now = inner.clock.now();
        let request = inner.request(&function, invocation, now)?;
        let outlook = inner.scheduler().prospect(&request, now);
        Ok(outlook.map(|outlook| Outlook {
            prospect: outlook.prospect,
            wait: outlook.wait,
            time_to_wait: outlook.time_to_wait,
            service: outlook.service,
            start: outlook.start,
            function_full: outlook.function_full,
            works: function.current.load().executor.works(),
        }))
    }
}

/// Why a call has no answer from here.
pub enum Declined {
    /// It would have to wait for a place, and was not to, or not for so long.
    NoRoom(Box<Invocation>),
    /// It left the queue: [`Moves::go`] said yes. The seat is where it stood.
    Left(Box<Invocation>, Seat),
    /// It was tried, or cannot be.
    Failed(InvokeError),
}

impl From<InvokeError> for Declined {
    fn from(error: InvokeError) -> Declined {
        Declined::Failed(error)
    }
}

/// How far a call waits.
enum Stay {
    /// For a start that is at hand.
    Start,
    /// In the queue.
    Queue {
        moves: Option<Arc<dyn Moves>>,
        seat: Option<Seat>,
        /// When it is given back.
        until: Time,
    },
}

impl Inner {
    pub(super) async fn invoke(
        self: &Arc<Self>,
        invocation: Invocation,
    ) -> Result<Answer, InvokeError> {
        let stay = Stay::Queue {
            moves: None,
            seat: None,
            until: Time::NEVER,
        };
        match self.run_call(invocation, stay).await {
            Ok(answer) => Ok(answer),
            Err(Declined::Failed(error)) => Err(error),
            Err(Declined::NoRoom(_) | Declined::Left(..)) => {
                Err(refused(Refusal::NoRoom, Duration::ZERO))
            }
        }
    }

    /// How the scheduler sees a call that came at `arrived`.
    fn request(
        &self,
        function: &Function,
        invocation: &Invocation,
        arrived: Time,
    ) -> Result<Request, InvokeError> {
        let version = function.current.load();
        let class = self.class(&version, invocation.class.as_deref())?;
        let persists_until = invocation.persists_until;
        let of_class = &self.config.classes[class];
        Ok(Request {
            function: function.key,
            class,
            patient: true,
            arrived,
            deadline: of_class.deadline_of(arrived, invocation.deadline, persists_until.is_some()),
            persists_until,
            timeout: version.spec.timeout,
            per_second: version.max_rate,
            elsewhere: self.elsewhere.load(Ordering::Relaxed),
        })
    }

    async fn run_call(
        self: &Arc<Self>,
        mut invocation: Invocation,
        mut stay: Stay,
    ) -> Result<Answer, Declined> {
        let found = self.functions.get(&invocation.function);
        let Some(function) = found.map(|function| function.clone()) else {
            return Err(InvokeError::Unknown(invocation.function).into());
        };
        let arrived = match &stay {
            Stay::Queue {
                seat: Some(seat), ..
            } => seat.arrived(),
            Stay::Queue { seat: None, .. } | Stay::Start => self.clock.now(),
        };
        let mut asks = self.request(&function, &invocation, arrived)?;
        // Whoever has it next counts from the same moment.
        invocation.deadline = (asks.deadline != Time::NEVER).then_some(asks.deadline);
        let mut request = invocation.request;
        let mut tries = Tries::default();
        for _ in 0..PLACEMENTS {
            let held = match self.place(&function, asks, stay).await? {
                Placed::Here(held) => held,
                Placed::Nowhere => {
                    return Err(Declined::NoRoom(Box::new(Invocation {
                        request,
                        ..invocation
                    })));
                }
                Placed::Elsewhere(seat) => {
                    let invocation = Invocation {
                        request,
                        ..invocation
                    };
                    return Err(Declined::Left(Box::new(invocation), seat));
                }
            };
            // What was placed once may have begun, and is not given back; nor is
            // it counted again.
            stay = Stay::Queue {
                moves: None,
                seat: None,
                until: Time::NEVER,
            };
            asks.per_second = None;
            let id = invocation.id;
            match self
                .run_on(&function, &asks, held, id, request, &mut tries)
                .await
            {
                Attempt::InVain(unsent) => request = unsent,
                Attempt::Ended(Ok(answer)) => return Ok(answer),
                Attempt::Ended(Err(error)) => {
                    return Err(invoke_error(error, invocation.function).into());
                }
            }
        }
        Err(tries.in_vain(invocation.function).into())
    }

    /// Runs a call on the instance where it was placed.
    async fn run_on(
        self: &Arc<Self>,
        function: &Function,
        asks: &Request,
        held: Held,
        id: CallId,
        mut request: http::Request<Body>,
        tries: &mut Tries,
    ) -> Attempt {
        let slot = held.slot();
        let (instance, start) = (slot.instance(), slot.start());
        let started = slot.waited_for_start();
        let granted = self.clock.now();
        let mut timing = waited(asks.arrived, slot.waited_for_start_since(), granted);
        let Some(live) = self.instances.get(&instance).map(|live| live.clone()) else {
            "its instance was stopped".clone_into(&mut tries.reason);
            return Attempt::InVain(request);
        };
        // Others fail as the code does, and would again.
        let lingers = live.instance.lingers();
        if live.version.spec.idempotent && lingers && tries.again.is_none() {
            tries.again = Some(Replay::keep(&mut request, &self.kept));
        }
        let until = asks.deadline.min(granted + live.version.spec.timeout);
        let asked = Asked::new(&request);
        let call = Call {
            id,
            request,
            until: self
                .clock
                .instant(until)
                .unwrap_or_else(std::time::Instant::now),
            log: function.log.clone(),
        };
        let mut held = Some(held);
        let running = live.instance.invoke(call);
        let outcome = match lingers {
            false => running.await,
            true => Lingering::new(running, &mut held).await,
        };
        let outcome = match outcome {
            Err(CallError::NotStarted {
                reason: gone,
                request: Some(unsent),
            }) => {
                // Or the call would be placed there again.
                Box::pin(self.take_out(instance, &gone)).await;
                tries.reason = gone;
                return Attempt::InVain(*unsent);
            }
            Err(CallError::Lost(lost)) => match tries.again.as_ref().and_then(Replay::request) {
                Some(whole) => {
                    (tries.reason, tries.begun) = (lost, true);
                    return Attempt::InVain(whole);
                }
                None => Err(CallError::Lost(lost)),
            },
            Ok(response) => {
                let lingers = lingers.then_some(until);
                answering::finish(response, &asked, &mut held, lingers).await
            }
            Err(error) => Err(error),
        };
        function.invocations.fetch_add(1, Ordering::Relaxed);
        timing.ran = self.clock.now().since(granted);
        let ran = match &outcome {
            Ok(response) if response.status().as_u16() < FAILURES => Ran::Answered(timing.ran),
            Err(CallError::TimedOut) => Ran::TimedOut(timing.ran),
            Ok(_) | Err(_) => Ran::Failed,
        };
        match held {
            Some(held) => held.end(ran),
            // The answer goes on, and has the place.
            None => self.scheduler().learn(function.key, ran, started),
        }
        Attempt::Ended(match outcome {
            Ok(response) => Ok(Answer {
                response,
                start,
                timing,
                ran_on: None,
            }),
            Err(error) => Err((error, until.since(granted))),
        })
    }

    fn class(&self, version: &Version, asked: Option<&str>) -> Result<usize, InvokeError> {
        let Some(asked) = asked else {
            return Ok(version.classes[0]);
        };
        let name = |class: &usize| self.config.classes[*class].name.as_str();
        version
            .classes
            .iter()
            .copied()
            .find(|class| name(class) == asked)
            .ok_or_else(|| {
                let allowed: Vec<&str> = version.classes.iter().map(name).collect();
                InvokeError::Class(format!(
                    "QoS class {asked:?} is not open to callers of {}; they may name: {}",
                    version.spec.name,
                    allowed.join(", ")
                ))
            })
    }

    /// Waits for a place on an instance.
    async fn place(
        self: &Arc<Self>,
        function: &Function,
        mut asks: Request,
        stay: Stay,
    ) -> Result<Placed, InvokeError> {
        let now = self.clock.now();
        let (patient, moves, seat, until) = match stay {
            Stay::Start => (false, None, None, Time::NEVER),
            Stay::Queue { moves, seat, until } => (true, moves, seat, until),
        };
        asks.patient = patient;
        let mut waiting = None;
        let mut actions = Vec::new();
        let token = || {
            let moves = moves.map(|moves| Movable::new(moves, self.clone()));
            let (waiter, granted) = Waiter::new(moves);
            waiting = Some(granted);
            waiter
        };
        let verdict = {
            let mut scheduler = self.scheduler();
            match seat {
                Some(seat) => scheduler.come_back(&asks, seat, token, now, &mut actions),
                None => scheduler.arrive(&asks, token, now, &mut actions),
            }
        };
        self.perform(actions, None);
        let name = || function.current.load().spec.name.clone();
        let ticket = match verdict {
            Verdict::Run(slot) => return Ok(Placed::Here(Held::new(self.clone(), slot))),
            Verdict::Wait(ticket) => ticket,
            Verdict::Refuse {
                reason: Refusal::NoRoom,
                ..
            } => return Ok(Placed::Nowhere),
            Verdict::Refuse { reason, expected } => return Err(refused(reason, expected)),
            Verdict::Unknown => return Err(InvokeError::Unknown(name())),
        };
        let mut place = Place::new(self, ticket);
        let granted = waiting.expect("a call that waits was asked for its token");
        let granted = match self.clock.instant(until).filter(|_| until != Time::NEVER) {
            None => granted.await,
            Some(until) => match tokio::time::timeout_at(until.into(), granted).await {
                Ok(granted) => granted,
                // It gives up its place.
                Err(_) => return Ok(Placed::Nowhere),
            },
        };
        match granted {
            Ok(Granted::Run(held)) => {
                place.was_told();
                Ok(Placed::Here(held))
            }
            Ok(Granted::Left(seat)) => Ok(Placed::Elsewhere(seat)),
            Ok(Granted::GaveUp(why)) => Err(gave_up(function, why)),
            Ok(Granted::CannotStart { reason, fault }) => Err(InvokeError::CannotRun {
                function: name(),
                reason: match fault {
                    Fault::Code => format!("{reason} (deploy it again)"),
                    Fault::Instance | Fault::Node => reason,
                },
            }),
            Ok(Granted::Removed) => Err(InvokeError::Unknown(name())),
            Err(_) => Err(refused(Refusal::Draining, Duration::ZERO)),
        }
    }
}

/// What a call is told that waits no longer.
fn gave_up(function: &Function, why: GaveUp) -> InvokeError {
    match why {
        GaveUp::Late { phase, after } => InvokeError::Late { phase, after },
        GaveUp::WaitedTooLong { expected } => refused(Refusal::WaitedTooLong, expected),
        GaveUp::NotStarted => {
            let version = function.current.load();
            InvokeError::CannotRun {
                function: version.spec.name.clone(),
                reason: match version.state() {
                    FunctionState::Failed(reason) => reason,
                    _ => "its code is still being made ready; try again".to_owned(),
                },
            }
        }
    }
}

/// Where the time of a call went before it was granted a place.
fn waited(arrived: Time, for_start_since: Option<Time>, granted: Time) -> Timing {
    let since_start = for_start_since.unwrap_or(granted);
    Timing {
        fetched: Duration::ZERO,
        queued: since_start.since(arrived),
        started: granted.since(since_start),
        ran: Duration::ZERO,
    }
}

/// What became of a call on one instance.
enum Attempt {
    /// It has an answer, or none and had so long.
    Ended(Result<Answer, (CallError, Duration)>),
    /// It may be placed again.
    InVain(http::Request<Body>),
}

/// What is kept of a call's attempts so far.
#[derive(Default)]
struct Tries {
    /// What it takes to run it again, where that may be.
    again: Option<Replay>,
    /// Why the last one was in vain.
    reason: String,
    /// Whether its code may have begun.
    begun: bool,
}

impl Tries {
    fn in_vain(self, function: FunctionName) -> InvokeError {
        let reason = self.reason;
        match self.begun {
            // It may well be the call that kills them.
            true => InvokeError::Failed(format!("{reason}; it was tried {PLACEMENTS} times")),
            false => InvokeError::CannotRun {
                function,
                reason: format!("{reason}; it found none that lived, {PLACEMENTS} times"),
            },
        }
    }
}

/// What its caller is told of a call that has no answer after `had`.
fn invoke_error((error, had): (CallError, Duration), function: FunctionName) -> InvokeError {
    match error {
        CallError::TimedOut => InvokeError::Late {
            phase: Phase::Run,
            after: had,
        },
        CallError::Failed(reason) | CallError::Lost(reason) => InvokeError::Failed(reason),
        CallError::Body(error) => InvokeError::Body(error),
        CallError::Unfit(reason) => InvokeError::Unfit(reason),
        CallError::NotStarted { reason, .. } => InvokeError::CannotRun { function, reason },
    }
}

/// A refusal, and when to come again: after what was expected to wait for,
/// which is zero when nobody knows.
pub(super) fn refused(reason: Refusal, expected: Duration) -> InvokeError {
    InvokeError::Refused {
        reason,
        retry_after: retry_after(expected, clock::chance()),
    }
}

/// Where a call was placed.
enum Placed {
    /// On an instance of this node.
    Here(Held),
    /// It has left the queue for a place elsewhere.
    Elsewhere(Seat),
    /// It would have to wait, and is not to.
    Nowhere,
}

/// A place in a queue, given up when dropped.
pub(super) struct Place<'a> {
    inner: &'a Arc<Inner>,
    ticket: Option<Ticket>,
}

impl<'a> Place<'a> {
    pub(super) fn new(inner: &'a Arc<Inner>, ticket: Ticket) -> Place<'a> {
        Place {
            inner,
            ticket: Some(ticket),
        }
    }

    /// Whoever waits was told: there is nothing to give up.
    pub(super) fn was_told(&mut self) {
        self.ticket = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let mut actions = Vec::new();
        let now = self.inner.clock.now();
        let waiter = self.inner.scheduler().cancel(ticket, now, &mut actions);
        // Not under the lock: what it takes along may ask for it.
        drop(waiter);
        if self.inner.stop.is_cancelled() {
            self.inner.call_ended.notify_waiters();
        }
        self.inner.perform(actions, None);
    }
}
