//! The path of one invocation that someone waits for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::functions::{Function, Version};
use super::instances::{Granted, Held};
use super::{Inner, Node};
use crate::admission::{Admission, Arrival, Ticket, Verdict};
use crate::executor::{AnswerBody, Body, BodyError, Call, CallError};
use crate::invocation::{Answer, Invocation, InvokeError, Phase, Refusal, Timing};
use crate::time::Time;

impl Node {
    /// Runs a call and waits for the answer. Dropping the future, or the
    /// answer's stream, cancels it.
    pub async fn invoke(&self, invocation: Invocation) -> Result<Answer, InvokeError> {
        self.inner.invoke(invocation).await
    }
}

impl Inner {
    pub(super) async fn invoke(
        self: &Arc<Self>,
        invocation: Invocation,
    ) -> Result<Answer, InvokeError> {
        let arrived = self.clock.now();
        let found = self
            .functions
            .get(&invocation.function)
            .map(|function| function.clone());
        let Some(function) = found else {
            return Err(InvokeError::Unknown(invocation.function));
        };
        let class = self.class(&function.current.load(), invocation.class.as_deref())?;
        let deadline = match invocation.deadline.or(self.config.classes[class].deadline) {
            Some(deadline) => arrived + deadline,
            None => Time::NEVER,
        };
        let held = self.place(&function, class, arrived, deadline).await?;
        let slot = held.slot();
        let granted = self.clock.now();
        let since_start = slot.waited_for_start_since().unwrap_or(granted);
        let mut timing = Timing {
            queued: since_start.since(arrived),
            started: granted.since(since_start),
            ran: Duration::ZERO,
        };
        let start = slot.start();
        let live = self
            .instances
            .get(&slot.instance())
            .map(|live| live.clone());
        let Some(live) = live else {
            return Err(InvokeError::CannotRun {
                function: invocation.function,
                reason: "its instance was stopped; try again".to_owned(),
            });
        };
        let until = deadline.min(granted + live.version.spec.timeout);
        let call = Call {
            id: invocation.id,
            request: invocation.request,
            until: self
                .clock
                .instant(until)
                .unwrap_or_else(std::time::Instant::now),
            log: function.log.clone(),
        };
        let outcome = live.instance.invoke(call).await;
        function.invocations.fetch_add(1, Ordering::Relaxed);
        timing.ran = self.clock.now().since(granted);
        let response = outcome.map_err(|error| match error {
            CallError::TimedOut => InvokeError::Late {
                phase: Phase::Run,
                after: until.since(granted),
            },
            CallError::Failed(reason) => InvokeError::Failed(reason),
            CallError::Body(error) => InvokeError::Body(error),
            CallError::NotStarted(reason) => InvokeError::CannotRun {
                function: invocation.function,
                reason,
            },
        })?;
        let response = response.map(|body| match body {
            AnswerBody::Whole(bytes) => AnswerBody::Whole(bytes),
            // What the call holds is released when the stream ends or is dropped.
            AnswerBody::Stream(body) => AnswerBody::Stream(
                HeldBody {
                    body,
                    held: Some(held),
                }
                .boxed_unsync(),
            ),
        });
        Ok(Answer {
            response,
            start,
            timing,
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
        class: usize,
        arrived: Time,
        deadline: Time,
    ) -> Result<Held, InvokeError> {
        let give_up = deadline.min(arrived + self.config.classes[class].max_wait);
        let arrival = Arrival {
            function: function.key,
            class,
            give_up,
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

/// A streaming answer with the place of its call.
struct HeldBody {
    body: Body,
    held: Option<Held>,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.held = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
