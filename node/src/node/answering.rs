//! Answers on their way to the caller, and the place that each holds until it
//! has ended.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use super::instances::Held;
use crate::answer::{self, Asked};
use crate::executor::{AnswerBody, Body, BodyError, CallError};
use crate::time::Time;

/// Bytes of an answer's body that are taken before its head goes out, as far as
/// they are there already: what breaks within them is an error with a status, and
/// no answer that is cut.
const AHEAD_BYTES: usize = 64 << 10;

/// A call whose code goes on when its caller leaves. Then it keeps its place
/// until it has ended, so that the place is not given to another while it is
/// still taken.
pub(super) struct Lingering<'a> {
    running: Option<Running>,
    held: &'a mut Option<Held>,
}

type Running = BoxFuture<'static, Result<http::Response<AnswerBody>, CallError>>;

impl<'a> Lingering<'a> {
    pub(super) fn new(running: Running, held: &'a mut Option<Held>) -> Self {
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
/// is. An answer that goes on takes the place of its call along, which is
/// released when it has ended or is dropped.
pub(super) async fn finish(
    response: http::Response<AnswerBody>,
    asked: &Asked,
    held: &mut Option<Held>,
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
            AnswerBody::Stream(HeldBody::new(body, held.take(), lingers).boxed_unsync())
        }
        AnswerBody::Stream(body) => {
            let mut body = HeldBody::new(body, held.take(), lingers);
            answer::complete(&mut head, asked, None).map_err(CallError::Failed)?;
            if asked.is_head {
                drop(body);
                let none = AnswerBody::Whole(Bytes::new());
                return Ok(http::Response::from_parts(head, none));
            }
            let broke = |error: BodyError| CallError::Failed(error.to_string());
            let looked = body.look_ahead().await;
            if body.body.is_none() {
                *held = body.held.take();
            }
            looked.map_err(broke)?;
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
                    self.body = None;
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
        if self.body.is_none() {
            self.held = None;
        }
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
