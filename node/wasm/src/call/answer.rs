//! The answer of a guest, whether it comes whole or goes on while the guest runs.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::{AnswerBody, CallError};
use crate::exchange::{Exchange, HELD_BYTES};
use crate::{BodyError, Protocol, header_block};

/// Where an answer comes from.
enum Answer {
    /// Standard output, all of it the body.
    Stdio,
    /// Standard output, a header block first.
    Cgi,
    /// The `wasi:http` answer.
    Http(Box<HttpAnswer>),
}

impl Answer {
    fn new(protocol: Protocol, output_limit: u64) -> Answer {
        match protocol {
            Protocol::Stdio => Answer::Stdio,
            Protocol::Cgi => Answer::Cgi,
            Protocol::Http => Answer::Http(Box::new(HttpAnswer {
                head: None,
                body: None,
                collected: Vec::new(),
                collected_bytes: 0,
                left: output_limit,
                output_limit,
                broken: None,
            })),
        }
    }
}

/// The caller's side of a call.
pub(super) struct Front {
    exchange: Arc<Exchange>,
    answer: Answer,
}

impl Front {
    /// One that watches an answer of a protocol, of at most so many bytes.
    pub(super) fn new(exchange: Arc<Exchange>, protocol: Protocol, output_limit: u64) -> Front {
        Front {
            exchange,
            answer: Answer::new(protocol, output_limit),
        }
    }

    pub(super) fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// Takes what is there of a `wasi:http` answer; whether that was any, so
    /// that the guest may go on.
    pub(super) fn collect(&mut self, context: &mut TaskContext<'_>) -> bool {
        match &mut self.answer {
            Answer::Stdio | Answer::Cgi => false,
            Answer::Http(http) => http.collect(&self.exchange, context),
        }
    }

    /// Whether the answer can begin.
    pub(super) fn is_answering(&self) -> bool {
        match &self.answer {
            Answer::Stdio => self.exchange.has_head(is_long),
            Answer::Cgi => self.exchange.has_head(header_block::is_decided),
            Answer::Http(http) => http.head.is_some() || http.broken.is_some(),
        }
    }

    /// Waits until the answer can begin or the guest has ended.
    pub(super) fn poll(&mut self, context: &mut TaskContext<'_>) -> Poll<()> {
        match &self.answer {
            Answer::Stdio => self.exchange.poll_front(context, is_long),
            Answer::Cgi => self.exchange.poll_front(context, header_block::is_decided),
            Answer::Http(_) => self.exchange.poll_front(context, |_| false),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.exchange.has_ended()
    }

    /// The answer of a guest that has ended.
    pub(super) fn whole(self) -> Result<Response<AnswerBody>, CallError> {
        self.exchange.take_end().unwrap_or_else(|| {
            let failed = "the function ended without a word".to_owned();
            Err(CallError::Failed(failed))
        })?;
        match self.answer {
            Answer::Stdio => Ok(Response::new(AnswerBody::Whole(
                self.exchange.take_output().into(),
            ))),
            Answer::Cgi => {
                let (response, body) = cgi(self.exchange.take_output())?;
                Ok(Response::from_parts(response, AnswerBody::Whole(body)))
            }
            Answer::Http(mut http) => {
                let mut context = TaskContext::from_waker(Waker::noop());
                // All is in the channel: there is nobody left to fill it.
                while http.collect(&self.exchange, &mut context) {}
                http.whole()
            }
        }
    }

    /// The beginning of an answer whose guest goes on as `task`.
    pub(super) fn stream(
        self,
        task: AbortOnDropHandle<()>,
    ) -> Result<Response<AnswerBody>, CallError> {
        let (head, prefix, source) = match self.answer {
            Answer::Stdio => (Response::new(()).into_parts().0, Bytes::new(), None),
            Answer::Cgi => {
                let (head, rest) = cgi(self.exchange.take_output())?;
                (head, rest, None)
            }
            Answer::Http(mut http) => {
                http.take_head(&self.exchange);
                if let Some(error) = http.broken.take() {
                    return Err(error);
                }
                let prefix = http.take_collected();
                let head = http.head.take().ok_or_else(no_answer)?;
                (head, prefix, Some(http))
            }
        };
        let body = AnswerStream {
            exchange: self.exchange,
            prefix,
            source,
            task: Some(task),
        };
        Ok(Response::from_parts(
            head,
            AnswerBody::Stream(body.boxed_unsync()),
        ))
    }
}

fn is_long(output: &[u8]) -> bool {
    output.len() >= HELD_BYTES
}

fn no_answer() -> CallError {
    CallError::Failed("the function ended without an answer".to_owned())
}

/// Splits what a CGI program wrote into head and body.
fn cgi(output: Vec<u8>) -> Result<(response::Parts, Bytes), CallError> {
    let (status, headers, end) = header_block::parse(&output).map_err(CallError::Failed)?;
    let mut head = Response::new(()).into_parts().0;
    head.status = status;
    head.headers = headers;
    Ok((head, Bytes::from(output).slice(end..)))
}

/// The answer of a `wasi:http` guest, as far as it is known.
struct HttpAnswer {
    head: Option<response::Parts>,
    /// What is still to come of the body; `None` before the head and after
    /// the end.
    body: Option<HyperOutgoingBody>,
    collected: Vec<Bytes>,
    collected_bytes: usize,
    /// Bytes that may still come.
    left: u64,
    output_limit: u64,
    broken: Option<CallError>,
}

impl HttpAnswer {
    fn take_head(&mut self, exchange: &Exchange) {
        let Some(head) = exchange.take_head() else {
            return;
        };
        match head {
            Ok(response) => {
                let (head, body) = response.into_parts();
                match check_head(&head.headers, head.status) {
                    Ok(()) => {
                        self.head = Some(head);
                        self.body = Some(body);
                    }
                    Err(error) => self.broken = Some(CallError::Failed(error)),
                }
            }
            Err(code) => {
                let failed = format!("the function answered with an error: {code:?}");
                self.broken = Some(CallError::Failed(failed));
            }
        }
    }

    /// Takes the body's next pieces, up to what is held back; whether there
    /// were any.
    fn collect(&mut self, exchange: &Exchange, context: &mut TaskContext<'_>) -> bool {
        self.take_head(exchange);
        let mut progress = false;
        while self.collected_bytes < HELD_BYTES {
            match self.poll_data(context) {
                Poll::Ready(Some(Ok(data))) => {
                    self.collected_bytes += data.len();
                    self.collected.push(data);
                    progress = true;
                }
                Poll::Ready(Some(Err(error))) => {
                    self.broken.get_or_insert(error);
                    break;
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        progress
    }

    /// The body's next piece, within the limit. Trailers are left out: few
    /// guests send any, and an answer held whole has no place for them.
    fn poll_data(
        &mut self,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Bytes, CallError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        loop {
            let frame = match http_body::Body::poll_frame(Pin::new(&mut *body), context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return Poll::Pending,
            };
            match frame {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    match self.left.checked_sub(data.len() as u64) {
                        Some(left) => self.left = left,
                        None => {
                            self.body = None;
                            return Poll::Ready(Some(Err(CallError::Failed(format!(
                                "the function wrote more than its output limit of {}",
                                crate::size(self.output_limit)
                            )))));
                        }
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Some(Err(_)) => {
                    self.body = None;
                    let failed = "the function broke its answer off".to_owned();
                    return Poll::Ready(Some(Err(CallError::Failed(failed))));
                }
                None => {
                    self.body = None;
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn take_collected(&mut self) -> Bytes {
        let collected = std::mem::take(&mut self.collected);
        match <[Bytes; 1]>::try_from(collected) {
            Ok([only]) => only,
            Err(pieces) => pieces.concat().into(),
        }
    }

    fn whole(mut self) -> Result<Response<AnswerBody>, CallError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let mut pieces = self.take_collected();
        // More than is held back, all in the channel already.
        let mut context = TaskContext::from_waker(Waker::noop());
        let mut more = Vec::new();
        loop {
            match self.poll_data(&mut context) {
                Poll::Ready(Some(Ok(data))) => more.extend_from_slice(&data),
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if !more.is_empty() {
            pieces = [&pieces[..], &more].concat().into();
        }
        let head = self.head.ok_or_else(no_answer)?;
        Ok(Response::from_parts(head, AnswerBody::Whole(pieces)))
    }
}

/// Refuses heads that no honest function sends.
fn check_head(headers: &HeaderMap, status: StatusCode) -> Result<(), String> {
    if headers.len() > header_block::HEADERS {
        return Err(format!(
            "the function sent more than {} headers",
            header_block::HEADERS
        ));
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > header_block::HEADER_BYTES {
        return Err(format!(
            "the function sent headers of more than {}",
            crate::size(header_block::HEADER_BYTES as u64)
        ));
    }
    if !(200..600).contains(&status.as_u16()) {
        return Err(format!(
            "the function answered with the status {status}, which is none of its business"
        ));
    }
    Ok(())
}

/// The body of an answer whose guest still runs.
struct AnswerStream {
    exchange: Arc<Exchange>,
    /// What was held back until the stream began.
    prefix: Bytes,
    /// Where a `wasi:http` body comes from; others come from the exchange.
    source: Option<Box<HttpAnswer>>,
    /// Stops the guest when dropped.
    task: Option<AbortOnDropHandle<()>>,
}

impl AnswerStream {
    fn poll_data(
        &mut self,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Bytes, CallError>>> {
        if !self.prefix.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.prefix))));
        }
        let Some(source) = &mut self.source else {
            return self.exchange.poll_output(context);
        };
        match source.poll_data(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(data))) => Poll::Ready(Some(Ok(data))),
            // A failed guest's body just ends, or breaks; its end, noted
            // before, says which and why.
            Poll::Ready(broken_or_end) => Poll::Ready(match self.exchange.take_end() {
                Some(Err(error)) => Some(Err(error)),
                Some(Ok(())) | None => broken_or_end,
            }),
        }
    }
}

impl http_body::Body for AnswerStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.task.is_none() {
            return Poll::Ready(None);
        }
        match self.poll_data(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(data))) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Poll::Ready(Some(Err(error))) => {
                self.task = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                // A guest may have more to do after its answer.
                if let Some(task) = self.task.take() {
                    drop(task.detach());
                }
                Poll::Ready(None)
            }
        }
    }
}
