//! The path of one invocation that someone waits for.

mod told;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libp2p_identity::PeerId;
use tokio::sync::oneshot;

use super::answering::{self, Lingering};
use super::functions::Function;
use super::instances::{Granted, Held, Movable, Waiter};
use super::look::Reservation;
use super::{Inner, Node};
use crate::admission::{InstanceId, Seat, Ticket};
use crate::answer::Asked;
use crate::executor::{AnswerBody, Body, Call, CallError};
use crate::id::{CallId, FunctionName};
use crate::invocation::{Answer, Invocation, InvokeError, Refusal};
use crate::replay::Replay;
use crate::scheduler::{Ran, Request, Verdict};
use crate::time::Time;

pub(super) use self::told::refused;
use self::told::{cannot_start, gave_up, invoke_error, waited};

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

    /// Runs a call where a place was [kept](Node::look) for it.
    pub async fn invoke_at(
        &self,
        invocation: Invocation,
        place: Box<Reservation>,
    ) -> Result<Answer, Declined> {
        self.inner.run_call(invocation, Stay::At(place)).await
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
    /// Not at all: a place was kept for it.
    At(Box<Reservation>),
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

    /// What a call asks for that is not placed yet.
    fn asks(
        &self,
        invocation: &Invocation,
        stay: &Stay,
    ) -> Result<(Arc<Function>, Request), InvokeError> {
        let found = self.functions.get(&invocation.function);
        let Some(function) = found.map(|function| function.clone()) else {
            return Err(InvokeError::Unknown(invocation.function.clone()));
        };
        let arrived = match stay {
            Stay::Queue {
                seat: Some(seat), ..
            } => seat.arrived(),
            Stay::Queue { seat: None, .. } | Stay::Start | Stay::At(_) => self.clock.now(),
        };
        let asks = self.request(&function, invocation, arrived)?;
        Ok((function, asks))
    }

    async fn run_call(
        self: &Arc<Self>,
        mut invocation: Invocation,
        mut stay: Stay,
    ) -> Result<Answer, Declined> {
        let (function, mut asks) = match &stay {
            Stay::At(place) => place.asks(),
            Stay::Start | Stay::Queue { .. } => self.asks(&invocation, &stay)?,
        };
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
        let lingers = live.instance.lingers();
        // Others fail as the code does, and would again.
        if live.version.spec.idempotent && lingers && tries.again.is_none() {
            tries.again = Some(Replay::keep(&mut request, &self.kept));
        }
        let until = asks.deadline.min(granted + live.version.spec.timeout);
        let asked = Asked::new(&request);
        let call = self.call(function, id, request, until);
        let mut held = Some(held);
        let running = live.instance.invoke(call);
        let outcome = match lingers {
            false => running.await,
            true => Lingering::new(running, &mut held).await,
        };
        let outcome = match outcome {
            Ok(response) => {
                let lingers = lingers.then_some(until);
                answering::finish(response, &asked, &mut held, lingers).await
            }
            // Boxed, so that calls which answer do not carry its room.
            Err(error) => match Box::pin(self.again(instance, error, tries)).await {
                Ok(request) => return Attempt::InVain(request),
                Err(error) => Err(error),
            },
        };
        function.invocations.fetch_add(1, Ordering::Relaxed);
        timing.ran = self.clock.now().since(granted);
        let ran = ran(&outcome, timing.ran);
        match held {
            Some(held) => held.end(ran),
            // The answer goes on, and has the place.
            None => self.scheduler().learn(function.key, ran, started),
        }
        let answer = |response| Answer {
            response,
            start,
            timing,
            ran_on: None,
        };
        let had = until.since(granted);
        Attempt::Ended(outcome.map(answer).map_err(|error| (error, had)))
    }

    /// What an instance is given of a call that ends then.
    fn call(
        &self,
        function: &Function,
        id: CallId,
        request: http::Request<Body>,
        until: Time,
    ) -> Call {
        let until = self.clock.instant(until);
        Call {
            id,
            request,
            until: until.unwrap_or_else(std::time::Instant::now),
            log: function.log.clone(),
        }
    }

    /// The request of a call that may be placed again, by how it ended; else that.
    async fn again(
        self: &Arc<Self>,
        instance: InstanceId,
        error: CallError,
        tries: &mut Tries,
    ) -> Result<http::Request<Body>, CallError> {
        match error {
            CallError::NotStarted {
                reason: gone,
                request: Some(unsent),
            } => {
                // Or the call would be placed there again.
                self.take_out(instance, &gone).await;
                tries.reason = gone;
                Ok(*unsent)
            }
            CallError::Lost(lost) => match tries.again.as_ref().and_then(Replay::request) {
                Some(whole) => {
                    (tries.reason, tries.begun) = (lost, true);
                    Ok(whole)
                }
                None => Err(CallError::Lost(lost)),
            },
            error => Err(error),
        }
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
            Stay::At(place) => return Ok(Placed::Here(place.take())),
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
        let unknown = || InvokeError::Unknown(function.current.load().spec.name.clone());
        let ticket = match verdict {
            Verdict::Run(slot) => return Ok(Placed::Here(Held::new(self.clone(), slot))),
            Verdict::Wait(ticket) => ticket,
            Verdict::Refuse {
                reason: Refusal::NoRoom,
                ..
            } => return Ok(Placed::Nowhere),
            Verdict::Refuse { reason, expected } => return Err(refused(reason, expected)),
            Verdict::Unknown => return Err(unknown()),
        };
        let granted = waiting.expect("a call that waits was asked for its token");
        self.wait_for_place(function, Place::new(self, ticket), granted, until)
            .await
    }

    /// Waits, until then at most, for what becomes of a call in the queue.
    async fn wait_for_place(
        &self,
        function: &Function,
        mut place: Place<'_>,
        granted: oneshot::Receiver<Granted>,
        until: Time,
    ) -> Result<Placed, InvokeError> {
        let unknown = || InvokeError::Unknown(function.current.load().spec.name.clone());
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
            Ok(Granted::CannotStart { reason, fault }) => {
                Err(cannot_start(function, reason, fault))
            }
            Ok(Granted::Removed) => Err(unknown()),
            Err(_) => Err(refused(Refusal::Draining, Duration::ZERO)),
        }
    }
}

/// What is learned of a call that ended so after `took`.
fn ran(outcome: &Result<http::Response<AnswerBody>, CallError>, took: Duration) -> Ran {
    match outcome {
        Ok(response) if response.status().as_u16() < FAILURES => Ran::Answered(took),
        Err(CallError::TimedOut) => Ran::TimedOut(took),
        Ok(_) | Err(_) => Ran::Failed,
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

#[cfg(test)]
mod tests;
