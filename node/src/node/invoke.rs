//! The path of one invocation that someone waits for.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use libp2p_identity::PeerId;

use super::functions::Function;
use super::instances::{Fault, Granted, Held, Movable, Waiter};
use super::version::Version;
use super::{FunctionState, Inner, Node};
use crate::admission::{Arrival, Kind, Pace, Prospect, Seat, Ticket, Verdict};
use crate::answer::{self, Asked};
use crate::clock;
use crate::estimate::{Estimate, ExpectedWait, longest_wait, retry_after, time_to_wait};
use crate::executor::{AnswerBody, Body, BodyError, Call, CallError};
use crate::invocation::{Answer, Invocation, InvokeError, Phase, Refusal, Start, Timing};
use crate::replay::Replay;
use crate::time::Time;
use weir_node_core::rate::Counted;

/// How often a call is placed that cannot have started where it was placed
/// before, because its instance had died unnoticed, or that may be run again.
const PLACEMENTS: u32 = 3;

/// Bytes of an answer's body that are taken before its head goes out, as far as
/// they are there already: what breaks within them is an error with a status, and
/// no answer that is cut.
const AHEAD_BYTES: usize = 64 << 10;

/// Statuses from this one on are the function's failures.
const FAILURES: u16 = 500;

/// A waiting call, as whoever may take it to another node sees it.
pub trait Moves: Send + Sync {
    /// Whether the call may go to `peer`, where a place is free. If so, it has
    /// taken that place and been told, and leaves the queue here. Called under
    /// the lock of admission: it is short, and asks nothing of the node.
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
        let stay = Stay::Queue { moves, seat };
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
                .admission()
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
        let (call, max_rate) = inner.timed(&function, invocation, now)?;
        let rate = max_rate.filter(|most| !function.rate.has_room(now, *most));
        let arrival = inner.arrival(&function, &call, true);
        let (prospect, expected, function_full) = {
            let admission = inner.admission();
            let prospect = admission.prospect(&arrival, now);
            let expected = match prospect {
                Some(Prospect::Wait { expected }) => expected,
                Some(Prospect::Refuse(_)) => {
                    admission.expected_wait(function.key, call.class, arrival.pace)
                }
                Some(Prospect::Warm | Prospect::Start) | None => ExpectedWait::default(),
            };
            (prospect, expected, admission.is_full(function.key))
        };
        let Some(prospect) = prospect else {
            return Ok(None);
        };
        let (prospect, wait) = match rate {
            Some(most) => {
                let refused = Prospect::Refuse(Refusal::RateLimit);
                (refused, function.rate.wait(now, most))
            }
            None => (prospect, expected.whole()),
        };
        Ok(Some(Outlook {
            prospect,
            wait,
            time_to_wait: arrival.leave.since(now),
            service: call.service,
            start: function.start.expected(),
            function_full,
            works: function.current.load().executor.works(),
        }))
    }
}

/// Why a call has no answer from here.
pub enum Declined {
    /// It would have to wait for a place, and was not to.
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
    },
}

/// What placing a call depends on, once it is known which function it is of.
#[derive(Clone, Copy)]
struct Timed {
    class: usize,
    kind: Kind,
    arrived: Time,
    /// The latest useful answer; [`Time::NEVER`] for none.
    deadline: Time,
    /// Until when it waits for a place, should that be given.
    persists_until: Option<Time>,
    /// How long it may run.
    timeout: Duration,
    service: Estimate,
}

/// A call that was counted against its function's rate. Unless it runs, it is
/// given back when this is dropped.
struct Token<'a> {
    inner: &'a Inner,
    function: &'a Function,
    counted: Option<(Counted, u32)>,
}

impl Token<'_> {
    fn spend(&mut self) {
        self.counted = None;
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        if let Some((counted, most)) = self.counted.take() {
            let now = self.inner.clock.now();
            self.function.rate.give_back(counted, now, most);
        }
    }
}

impl Inner {
    pub(super) async fn invoke(
        self: &Arc<Self>,
        invocation: Invocation,
    ) -> Result<Answer, InvokeError> {
        let stay = Stay::Queue {
            moves: None,
            seat: None,
        };
        match self.run_call(invocation, stay).await {
            Ok(answer) => Ok(answer),
            Err(Declined::Failed(error)) => Err(error),
            Err(Declined::NoRoom(_) | Declined::Left(..)) => {
                Err(refused(Refusal::NoRoom, Duration::ZERO))
            }
        }
    }

    /// The times of a call that came at `arrived`, and how often its function
    /// may be called in a second.
    fn timed(
        &self,
        function: &Function,
        invocation: &Invocation,
        arrived: Time,
    ) -> Result<(Timed, Option<u32>), InvokeError> {
        let version = function.current.load();
        let class = self.class(&version, invocation.class.as_deref())?;
        let persists_until = invocation.persists_until;
        // Nobody waits for what was accepted: it has the deadline that its
        // caller named, and no other.
        let by_class = || self.config.classes[class].deadline.map(|d| arrived + d);
        let deadline = match persists_until {
            Some(_) => invocation.deadline,
            None => invocation.deadline.or_else(by_class),
        };
        let timed = Timed {
            class,
            kind: match persists_until {
                Some(_) => Kind::Accepted,
                None => Kind::Awaited,
            },
            arrived,
            deadline: deadline.unwrap_or(Time::NEVER),
            persists_until,
            timeout: version.spec.timeout,
            service: function.service.estimate(),
        };
        Ok((timed, version.max_rate))
    }

    /// How admission sees a call.
    fn arrival(&self, function: &Function, call: &Timed, patient: bool) -> Arrival {
        let longest = longest_wait(self.config.classes[call.class].max_wait, &call.service);
        let (leave, end) = match call.persists_until {
            Some(until) => (until.min(call.deadline), until.min(call.deadline)),
            None => {
                let left = call.deadline.since(call.arrived);
                let left = (call.deadline != Time::NEVER).then_some(left);
                let leave = call.arrived + time_to_wait(longest, left, &call.service);
                // A start may well take longer than the call that it is for.
                let started = call.arrived + call.timeout.max(longest);
                let end = match call.deadline {
                    Time::NEVER => started,
                    deadline => deadline,
                };
                (leave, end)
            }
        };
        Arrival {
            function: function.key,
            class: call.class,
            kind: call.kind,
            patient,
            arrived: call.arrived,
            leave,
            end,
            pace: Pace {
                service: call.service.mean,
                elsewhere: self.elsewhere.load(Ordering::Relaxed),
            },
        }
    }

    async fn run_call(
        self: &Arc<Self>,
        mut invocation: Invocation,
        mut stay: Stay,
    ) -> Result<Answer, Declined> {
        let now = self.clock.now();
        let arrived = match &stay {
            Stay::Queue {
                seat: Some(seat), ..
            } => seat.arrived(),
            Stay::Queue { seat: None, .. } | Stay::Start => now,
        };
        let found = self
            .functions
            .get(&invocation.function)
            .map(|function| function.clone());
        let Some(function) = found else {
            return Err(InvokeError::Unknown(invocation.function).into());
        };
        let (call, max_rate) = self.timed(&function, &invocation, arrived)?;
        let deadline = call.deadline;
        // Whoever has it next counts from the same moment.
        invocation.deadline = (deadline != Time::NEVER).then_some(deadline);
        let mut token = Token {
            inner: self,
            function: &function,
            counted: None,
        };
        if let Some(most) = max_rate {
            let counted = match &stay {
                Stay::Queue { seat: Some(_), .. } => function.rate.take_again(now, most),
                Stay::Queue { seat: None, .. } | Stay::Start => function.rate.take(now, most),
            };
            let Some(counted) = counted else {
                return Err(match stay {
                    Stay::Queue { .. } => {
                        let wait = function.rate.wait(now, most);
                        refused(Refusal::RateLimit, wait).into()
                    }
                    Stay::Start => Declined::NoRoom(Box::new(invocation)),
                });
            };
            token.counted = Some((counted, most));
        }
        let mut request = invocation.request;
        let mut again = None;
        let (mut reason, mut begun) = (String::new(), false);
        for _ in 0..PLACEMENTS {
            let held = match self.place(&function, &call, stay).await? {
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
            token.spend();
            // What was placed once may have begun, and is not given back.
            stay = Stay::Queue {
                moves: None,
                seat: None,
            };
            let slot = held.slot();
            let instance = slot.instance();
            let granted = self.clock.now();
            let since_start = slot.waited_for_start_since().unwrap_or(granted);
            let mut timing = Timing {
                fetched: Duration::ZERO,
                queued: since_start.since(arrived),
                started: granted.since(since_start),
                ran: Duration::ZERO,
            };
            let start = slot.start();
            let live = self.instances.get(&instance).map(|live| live.clone());
            let Some(live) = live else {
                "its instance was stopped".clone_into(&mut reason);
                continue;
            };
            // Others fail as the code does, and would again.
            if live.version.spec.idempotent && live.instance.lingers() && again.is_none() {
                again = Some(Replay::keep(&mut request, &self.kept));
            }
            let until = deadline.min(granted + live.version.spec.timeout);
            let asked = Asked::new(&request);
            let call = Call {
                id: invocation.id,
                request,
                until: self
                    .clock
                    .instant(until)
                    .unwrap_or_else(std::time::Instant::now),
                log: function.log.clone(),
            };
            let mut held = Some(held);
            let running = live.instance.invoke(call);
            let outcome = match live.instance.lingers() {
                false => running.await,
                true => Lingering::new(running, &mut held).await,
            };
            let outcome = match outcome {
                Err(CallError::NotStarted {
                    reason: gone,
                    request: Some(unsent),
                }) => {
                    // Or the call would be placed there again.
                    self.take_out(instance, &gone).await;
                    (reason, request) = (gone, *unsent);
                    continue;
                }
                Err(CallError::Lost(lost)) => match again.as_ref().and_then(Replay::request) {
                    Some(whole) => {
                        (reason, request, begun) = (lost, whole, true);
                        continue;
                    }
                    None => Err(CallError::Lost(lost)),
                },
                outcome => outcome,
            };
            let lingers = live.instance.lingers().then_some(until);
            let outcome = match outcome {
                Ok(response) => finish(response, &asked, held, lingers).await,
                Err(error) => Err(error),
            };
            function.invocations.fetch_add(1, Ordering::Relaxed);
            timing.ran = self.clock.now().since(granted);
            match &outcome {
                Ok(response) if response.status().as_u16() < FAILURES => {
                    function.service.learn(timing.ran);
                }
                Err(CallError::TimedOut) => function.service.learn_at_least(timing.ran),
                // However quick it was, a failure is no faster way to serve.
                Ok(_) | Err(_) => {}
            }
            if start == Start::Cold {
                function.start.learn(timing.started);
            }
            let response = outcome.map_err(|error| match error {
                CallError::TimedOut => InvokeError::Late {
                    phase: Phase::Run,
                    after: until.since(granted),
                },
                CallError::Failed(reason) | CallError::Lost(reason) => InvokeError::Failed(reason),
                CallError::Body(error) => InvokeError::Body(error),
                CallError::Unfit(reason) => InvokeError::Unfit(reason),
                CallError::NotStarted { reason, .. } => InvokeError::CannotRun {
                    function: invocation.function,
                    reason,
                },
            })?;
            return Ok(Answer {
                response,
                start,
                timing,
                ran_on: None,
            });
        }
        match begun {
            // It may well be the call that kills them.
            true => Err(
                InvokeError::Failed(format!("{reason}; it was tried {PLACEMENTS} times")).into(),
            ),
            false => Err(InvokeError::CannotRun {
                function: invocation.function,
                reason: format!("{reason}; it found none that lived, {PLACEMENTS} times"),
            }
            .into()),
        }
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
        call: &Timed,
        stay: Stay,
    ) -> Result<Placed, InvokeError> {
        let now = self.clock.now();
        let (patient, moves, seat) = match stay {
            Stay::Start => (false, None, None),
            Stay::Queue { moves, seat } => (true, moves, seat),
        };
        let arrival = self.arrival(function, call, patient);
        let mut waiting = None;
        let mut actions = Vec::new();
        let token = || {
            let moves = moves.map(|moves| Movable::new(moves, self.clone()));
            let (waiter, granted) = Waiter::new(moves);
            waiting = Some(granted);
            waiter
        };
        let (verdict, expected) = {
            let mut admission = self.admission();
            let verdict = match seat {
                Some(seat) => admission.come_back(function.key, seat, token, now, &mut actions),
                None => admission.arrive(arrival, token, now, &mut actions),
            };
            let expected = match &verdict {
                Verdict::Refuse(_) => {
                    admission.expected_wait(function.key, call.class, arrival.pace)
                }
                Verdict::Wait(_) => {
                    self.set_alarm(admission.next_give_up());
                    ExpectedWait::default()
                }
                Verdict::Run(_) | Verdict::Unknown => ExpectedWait::default(),
            };
            (verdict, expected)
        };
        self.perform(actions, None);
        let spec = || function.current.load().spec.clone();
        let ticket = match verdict {
            Verdict::Run(slot) => return Ok(Placed::Here(Held::new(self.clone(), slot))),
            Verdict::Wait(ticket) => ticket,
            Verdict::Refuse(Refusal::NoRoom) => return Ok(Placed::Nowhere),
            Verdict::Refuse(reason) => return Err(refused(reason, expected.whole())),
            Verdict::Unknown => return Err(InvokeError::Unknown(spec().name.clone())),
        };
        let mut place = Place::new(self, ticket);
        let granted = waiting.expect("a call that waits was asked for its token");
        match granted.await {
            Ok(Granted::Run(held)) => {
                place.was_told();
                Ok(Placed::Here(held))
            }
            Ok(Granted::Left(seat)) => Ok(Placed::Elsewhere(seat)),
            Ok(Granted::Expired(phase)) => Err(self.gave_up(function, call, phase)),
            Ok(Granted::CannotStart { reason, fault }) => Err(InvokeError::CannotRun {
                function: spec().name.clone(),
                reason: match fault {
                    Fault::Code => format!("{reason} (deploy it again)"),
                    Fault::Instance | Fault::Node => reason,
                },
            }),
            Ok(Granted::Removed) => Err(InvokeError::Unknown(spec().name.clone())),
            Err(_) => Err(refused(Refusal::Draining, Duration::ZERO)),
        }
    }

    /// Has waiting calls looked at when the first one gives up. Called under
    /// the lock of admission.
    fn set_alarm(&self, next: Option<Time>) {
        let next = next.unwrap_or(Time::NEVER).as_nanos();
        if next < self.alarm.load(Ordering::Relaxed) {
            self.alarm.store(next, Ordering::Relaxed);
            self.alarm_moved.notify_one();
        }
    }

    fn gave_up(&self, function: &Function, call: &Timed, phase: Phase) -> InvokeError {
        if self.clock.now() >= call.deadline {
            return InvokeError::Late {
                phase,
                after: call.deadline.since(call.arrived),
            };
        }
        match phase {
            Phase::Start => {
                let version = function.current.load();
                InvokeError::CannotRun {
                    function: version.spec.name.clone(),
                    reason: match version.state() {
                        FunctionState::Failed(reason) => reason,
                        _ => "its code is still being made ready; try again".to_owned(),
                    },
                }
            }
            Phase::Queue | Phase::Run => {
                let pace = self.arrival(function, call, true).pace;
                let admission = self.admission();
                let expected = admission.expected_wait(function.key, call.class, pace);
                drop(admission);
                refused(Refusal::WaitedTooLong, expected.whole())
            }
        }
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
        let mut admission = self.inner.admission();
        let waiter = admission.cancel(ticket, now, &mut actions);
        drop(admission);
        // Not under the lock: what it takes along may ask for it.
        drop(waiter);
        if self.inner.stop.is_cancelled() {
            self.inner.call_ended.notify_waiters();
        }
        self.inner.perform(actions, None);
    }
}

/// A call whose code goes on when its caller leaves. Then it keeps its place
/// until it has ended, so that the place is not given to another while it is
/// still taken.
struct Lingering<'a> {
    running: Option<Running>,
    held: &'a mut Option<Held>,
}

type Running = BoxFuture<'static, Result<http::Response<AnswerBody>, CallError>>;

impl<'a> Lingering<'a> {
    fn new(running: Running, held: &'a mut Option<Held>) -> Self {
        Lingering {
            running: Some(running),
            held,
        }
    }
}

impl Future for Lingering<'_> {
    type Output = Result<http::Response<AnswerBody>, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let running = self.running.as_mut().expect("not polled after its end");
        let outcome = ready!(running.as_mut().poll(cx));
        self.running = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Lingering<'_> {
    fn drop(&mut self) {
        // Once it has ended, the place is its answer's.
        let Some(running) = self.running.take() else {
            return;
        };
        let Some(held) = self.held.take() else {
            return;
        };
        // Its time is bounded by the executor.
        held.linger(async move {
            if let Ok(response) = running.await
                && let AnswerBody::Stream(body) = response.into_body()
            {
                discard(body).await;
            }
        });
    }
}

/// Reads a body that nobody wants.
async fn discard(mut body: Body) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// Makes of an executor's answer what its caller gets, whichever executor that
/// is. What the call holds is released when the answer has ended or is dropped.
async fn finish(
    response: http::Response<AnswerBody>,
    asked: &Asked,
    held: Option<Held>,
    lingers: Option<Time>,
) -> Result<http::Response<AnswerBody>, CallError> {
    let (mut head, body) = response.into_parts();
    let body = match body {
        AnswerBody::Whole(bytes) => {
            let length = Some(bytes.len());
            answer::complete(&mut head, asked, length).map_err(CallError::Failed)?;
            AnswerBody::Whole(if asked.is_head { Bytes::new() } else { bytes })
        }
        // Its connection leaves with it, as it is.
        AnswerBody::Stream(body) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            AnswerBody::Stream(HeldBody::new(body, held, lingers).boxed_unsync())
        }
        AnswerBody::Stream(body) => {
            let mut body = HeldBody::new(body, held, lingers);
            answer::complete(&mut head, asked, None).map_err(CallError::Failed)?;
            if asked.is_head {
                drop(body);
                let none = AnswerBody::Whole(Bytes::new());
                return Ok(http::Response::from_parts(head, none));
            }
            let broke = |error: BodyError| CallError::Failed(error.to_string());
            body.look_ahead().await.map_err(broke)?;
            AnswerBody::Stream(body.boxed_unsync())
        }
    };
    Ok(http::Response::from_parts(head, body))
}

/// A streaming answer with the place of its call. It has no trailers: few
/// clients see any, and answers that are held whole have no place for them.
struct HeldBody {
    body: Option<Body>,
    held: Option<Held>,
    /// When code ends at the latest that goes on though its caller has left.
    lingers: Option<Time>,
    /// What was taken of it, and is not read yet.
    ahead: VecDeque<Bytes>,
    ahead_bytes: usize,
    /// Whether its length was known before its first byte.
    sized: bool,
}

impl HeldBody {
    fn new(body: Body, held: Option<Held>, lingers: Option<Time>) -> HeldBody {
        HeldBody {
            sized: body.size_hint().exact().is_some(),
            body: Some(body),
            held,
            lingers,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
        }
    }

    /// Takes what is there already, and waits for nothing.
    async fn look_ahead(&mut self) -> Result<(), BodyError> {
        poll_fn(|cx| {
            while self.ahead_bytes < AHEAD_BYTES {
                match self.poll_rest(cx) {
                    Poll::Ready(Some(Ok(piece))) => {
                        self.ahead_bytes = self.ahead_bytes.saturating_add(piece.len());
                        self.ahead.push_back(piece);
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while let Some(body) = &mut self.body {
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Poll::Ready(Some(Ok(piece)));
                    }
                }
                end => {
                    (self.body, self.held) = (None, None);
                    return Poll::Ready(end.map(|broken| broken.map(|_| Bytes::new())));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.ahead.pop_front() {
            self.ahead_bytes = self.ahead_bytes.saturating_sub(piece.len());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let polled = self.poll_rest(cx);
        polled.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        let ended = || {
            self.body
                .as_ref()
                .is_none_or(http_body::Body::is_end_stream)
        };
        self.ahead.is_empty() && ended()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self
            .body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint);
        let ahead = self.ahead_bytes as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        // Whether an answer has a length must not depend on how quickly it came.
        if let Some(upper) = rest.upper().filter(|_| self.sized) {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        let (Some(held), Some(body)) = (self.held.take(), self.body.take()) else {
            return;
        };
        let Some(until) = self.lingers.filter(|_| !body.is_end_stream()) else {
            return;
        };
        let left = until.since(held.now());
        held.linger(async move {
            let _ = tokio::time::timeout(left, discard(body)).await;
        });
    }
}
