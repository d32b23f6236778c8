//! The path of one invocation that someone waits for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::functions::{Function, Version};
use super::instances::{Granted, Held};
use super::{Inner, Node};
use crate::admission::{Admission, Arrival, Prospect, Ticket, Verdict};
use crate::executor::{AnswerBody, Body, BodyError, Call, CallError};
use crate::id::FunctionName;
use crate::invocation::{Answer, Invocation, InvokeError, Phase, Refusal, Start, Timing};
use crate::replay::Replay;
use crate::time::Time;

/// How often a call is placed that cannot have started where it was placed
/// before, because its instance had died unnoticed, or that may be run again.
const PLACEMENTS: u32 = 3;

impl Node {
    /// Runs a call and waits for the answer. Dropping the future, or the
    /// answer's stream, cancels it.
    pub async fn invoke(&self, invocation: Invocation) -> Result<Answer, InvokeError> {
        self.inner.invoke(invocation).await
    }

    /// Runs a call if that can begin at once, or after no more than a start,
    /// and gives it back otherwise.
    pub async fn invoke_now(&self, invocation: Invocation) -> Result<Answer, Declined> {
        self.inner.run_call(invocation, false).await
    }

    /// What would become of a call that arrived now, and how long it would
    /// wait; `None` when the function is not deployed here.
    ///
    /// # Errors
    /// When callers of the function may not name that class.
    pub fn prospect(
        &self,
        name: &FunctionName,
        class: Option<&str>,
    ) -> Result<Option<(Prospect, Duration)>, InvokeError> {
        let inner = &self.inner;
        let Some(function) = inner.functions.get(name).map(|found| found.clone()) else {
            return Ok(None);
        };
        let (class, max_rate) = {
            let version = function.current.load();
            (inner.class(&version, class)?, version.max_rate)
        };
        if max_rate.is_some_and(|most| !function.rate.has_room(inner.clock.now(), most)) {
            let refused = Prospect::Refuse(Refusal::RateLimit);
            return Ok(Some((refused, Duration::ZERO)));
        }
        let (prospect, running) = {
            let admission = inner.admission();
            (admission.prospect(function.key, class), admission.running())
        };
        let Some(prospect) = prospect else {
            return Ok(None);
        };
        let wait = match prospect {
            Prospect::Wait { behind } => {
                // As if all that run and wait were like this one.
                let turns = (behind / running.max(1) + 1) as u32;
                function.service.expected().saturating_mul(turns)
            }
            Prospect::Warm | Prospect::Start | Prospect::Refuse(_) => Duration::ZERO,
        };
        Ok(Some((prospect, wait)))
    }
}

/// Why a call that was not to wait has no answer.
pub enum Declined {
    /// It would have to wait for a place.
    NoRoom(Box<Invocation>),
    /// It was tried, or cannot be.
    Failed(InvokeError),
}

impl From<InvokeError> for Declined {
    fn from(error: InvokeError) -> Declined {
        Declined::Failed(error)
    }
}

impl Inner {
    pub(super) async fn invoke(
        self: &Arc<Self>,
        invocation: Invocation,
    ) -> Result<Answer, InvokeError> {
        match self.run_call(invocation, true).await {
            Ok(answer) => Ok(answer),
            Err(Declined::Failed(error)) => Err(error),
            Err(Declined::NoRoom(_)) => Err(self.refused(Refusal::NoRoom)),
        }
    }

    async fn run_call(
        self: &Arc<Self>,
        invocation: Invocation,
        mut patient: bool,
    ) -> Result<Answer, Declined> {
        let arrived = self.clock.now();
        let found = self
            .functions
            .get(&invocation.function)
            .map(|function| function.clone());
        let Some(function) = found else {
            return Err(InvokeError::Unknown(invocation.function).into());
        };
        let (class, max_rate) = {
            let version = function.current.load();
            let class = self.class(&version, invocation.class.as_deref())?;
            (class, version.max_rate)
        };
        if max_rate.is_some_and(|most| !function.rate.take(arrived, most)) {
            return Err(match patient {
                true => self.refused(Refusal::RateLimit).into(),
                false => Declined::NoRoom(Box::new(invocation)),
            });
        }
        let deadline = match invocation.deadline.or(self.config.classes[class].deadline) {
            Some(deadline) => arrived + deadline,
            None => Time::NEVER,
        };
        let mut request = invocation.request;
        let mut again = None;
        let (mut reason, mut begun) = (String::new(), false);
        for _ in 0..PLACEMENTS {
            let placed = self
                .place(&function, class, arrived, deadline, patient)
                .await;
            let held = match placed {
                Err(InvokeError::Refused {
                    reason: Refusal::NoRoom,
                    ..
                }) => {
                    return Err(Declined::NoRoom(Box::new(Invocation {
                        request,
                        ..invocation
                    })));
                }
                placed => placed?,
            };
            // What was placed once may have begun, and is not given back.
            patient = true;
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
            function.invocations.fetch_add(1, Ordering::Relaxed);
            timing.ran = self.clock.now().since(granted);
            function.service.learn(timing.ran);
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
                CallError::NotStarted { reason, .. } => InvokeError::CannotRun {
                    function: invocation.function,
                    reason,
                },
            })?;
            let lingers = live.instance.lingers();
            let response = response.map(|body| match body {
                AnswerBody::Whole(bytes) => AnswerBody::Whole(bytes),
                // What the call holds is released when the stream ends or is
                // dropped.
                AnswerBody::Stream(body) => AnswerBody::Stream(
                    HeldBody {
                        body: Some(body),
                        held,
                        lingers: lingers.then_some(until),
                    }
                    .boxed_unsync(),
                ),
            });
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
        class: usize,
        arrived: Time,
        deadline: Time,
        patient: bool,
    ) -> Result<Held, InvokeError> {
        let give_up = deadline.min(arrived + self.config.classes[class].max_wait);
        let arrival = Arrival {
            function: function.key,
            class,
            give_up,
            patient,
        };
        let mut waiting = None;
        let mut actions = Vec::new();
        let verdict = self.admission().arrive(
            arrival,
            || {
                let (waiter, granted) = oneshot::channel();
                waiting = Some(granted);
                waiter
            },
            arrived,
            &mut actions,
        );
        self.perform(actions, None);
        let spec = || function.current.load().spec.clone();
        let ticket = match verdict {
            Verdict::Run(slot) => return Ok(Held::new(self.clone(), slot)),
            Verdict::Wait(ticket) => ticket,
            Verdict::Refuse(reason) => return Err(self.refused(reason)),
            Verdict::Unknown => return Err(InvokeError::Unknown(spec().name.clone())),
        };
        let mut place = Place {
            inner: self,
            ticket: Some(ticket),
        };
        let granted = waiting.expect("a call that waits was asked for its token");
        let granted = match self.clock.instant(give_up) {
            Some(at) => tokio::time::timeout_at(at.into(), granted).await,
            None => Ok(granted.await),
        };
        match granted {
            Ok(Ok(Granted::Run(held))) => {
                place.ticket = None;
                Ok(held)
            }
            Ok(Ok(Granted::Expired(phase))) => {
                Err(self.gave_up(function, phase, arrived, deadline))
            }
            Ok(Ok(Granted::CannotStart { reason, lasting })) => Err(InvokeError::CannotRun {
                function: spec().name.clone(),
                reason: if lasting {
                    format!("{reason} (deploy it again)")
                } else {
                    reason
                },
            }),
            Ok(Ok(Granted::Removed)) => Err(InvokeError::Unknown(spec().name.clone())),
            Ok(Err(_)) => Err(self.refused(Refusal::Draining)),
            Err(_) => {
                let gauges = self.admission().gauges(function.key).unwrap_or_default();
                let phase = if gauges.ready == 0 && gauges.starting > 0 {
                    Phase::Start
                } else {
                    Phase::Queue
                };
                Err(self.gave_up(function, phase, arrived, deadline))
            }
        }
    }

    fn gave_up(
        &self,
        function: &Function,
        phase: Phase,
        arrived: Time,
        deadline: Time,
    ) -> InvokeError {
        if self.clock.now() >= deadline {
            return InvokeError::Late {
                phase,
                after: deadline.since(arrived),
            };
        }
        match phase {
            Phase::Start => InvokeError::CannotRun {
                function: function.current.load().spec.name.clone(),
                reason: "its code is still being made ready; try again".to_owned(),
            },
            Phase::Queue | Phase::Run => self.refused(Refusal::WaitedTooLong),
        }
    }

    pub(super) fn refused(&self, reason: Refusal) -> InvokeError {
        // A guess, and a bounded one: callers that come back too early only
        // wait again.
        InvokeError::Refused {
            reason,
            retry_after: Duration::from_secs(1),
        }
    }
}

/// A place in a queue, given up when dropped.
struct Place<'a> {
    inner: &'a Arc<Inner>,
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let mut actions = Vec::new();
        let cancel = |admission: &mut Admission<_>, actions: &mut Vec<_>| {
            admission.cancel(ticket, self.inner.clock.now(), actions)
        };
        let _ = cancel(&mut self.inner.admission(), &mut actions);
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

/// A streaming answer with the place of its call.
struct HeldBody {
    body: Option<Body>,
    held: Option<Held>,
    /// When code ends at the latest that goes on though its caller has left.
    lingers: Option<Time>,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.held = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
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
