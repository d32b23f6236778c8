//! One call, from request to answer.
//!
//! The guest starts inside the caller's future. Most end there, in one turn.
//! One that has been busy for a tick, or whose answer begins to stream, moves
//! to the engine's threads, and the caller watches the [`Exchange`].

use crate::exchange::{Exchange, HELD_BYTES};
use crate::function::{Bound, Program, Setup};
use crate::limits::{MemoryLimit, Meter};
use crate::outbound::Gate;
use crate::ticker::Ticker;
use crate::{Body, BodyError, LogSink, Protocol, component, header_block, module};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, response};
use http_body::Frame;
use http_body_util::BodyExt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Instant;
use tokio::time::{Sleep, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// Bytes of a trap's backtrace that go to the function's log.
const BACKTRACE_BYTES: usize = 4 << 10;

/// A request for a function.
pub struct Call {
    /// The request, as the guest shall see it.
    pub request: http::Request<Body>,
    /// When it is over.
    pub until: Instant,
    /// Takes what the guest writes to its log.
    pub log: Arc<dyn LogSink>,
}

/// The body of an answer.
pub enum AnswerBody {
    /// All of it. The guest has ended and holds nothing any more.
    Whole(Bytes),
    /// The guest still runs. An error item means that it failed, and that
    /// what came before is not all; dropping the body stops the guest.
    Stream(Body),
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AnswerBody::Whole(bytes) => write!(formatter, "Whole({} bytes)", bytes.len()),
            AnswerBody::Stream(_) => formatter.write_str("Stream"),
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Its time passed.
    #[error("the function did not answer in time")]
    TimedOut,
    /// The function failed; says how.
    #[error("{0}")]
    Failed(String),
    /// The request's body broke off.
    #[error("the request's body broke off")]
    Body(#[source] BodyError),
    /// The function did not run at all; another try may succeed.
    #[error("the function was not started: {0}")]
    NotStarted(String),
}

/// What a running guest knows of its call.
pub(crate) struct Context {
    bound: Arc<Bound>,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) log: Arc<dyn LogSink>,
    until: Instant,
}

impl Context {
    pub(crate) fn setup(&self) -> &Setup {
        &self.bound.setup
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.bound.loaded.engine.0.wasmtime
    }

    pub(crate) fn meter(&self) -> Meter {
        let engine = &self.bound.loaded.engine.0;
        Meter {
            exchange: self.exchange.clone(),
            ticker: engine.ticker.clone(),
            pool: engine.pool().clone(),
            until: self.until,
            millicores: self.bound.setup.cpu_millicores,
        }
    }

    pub(crate) fn gate(&self) -> Gate {
        let network = self.bound.loaded.engine.0.network.clone();
        Gate::new(network, self.bound.allowed.clone())
    }
}

/// The guest, wherever it runs; completes after noting its end.
struct Guest {
    run: Pin<Box<dyn Future<Output = ()> + Send>>,
    exchange: Arc<Exchange>,
    ticker: Arc<Ticker>,
}

impl Guest {
    fn new(bound: Arc<Bound>, exchange: Arc<Exchange>, call: Call) -> Guest {
        let ticker = bound.loaded.engine.0.ticker.clone();
        let context = Context {
            exchange: exchange.clone(),
            log: call.log,
            until: call.until,
            bound,
        };
        let request = call.request;
        let run = Box::pin(async move {
            let ran = match &context.bound.loaded.code.program {
                Program::Module(code) => module::run(code, &context, request).await,
                Program::Component(code) => component::run(code, &context, request).await,
            };
            if let Err(error) = ran {
                context.exchange.set_end(Err(error));
            }
        });
        Guest {
            run,
            exchange,
            ticker,
        }
    }
}

impl Future for Guest {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        let processor = this.exchange.processor();
        processor.begin_turn(this.ticker.ticks());
        let running = this.ticker.enter();
        // A panic on the host's side must end this call, not the connection
        // that happens to carry it.
        let polled = catch_unwind(AssertUnwindSafe(|| this.run.as_mut().poll(context)));
        drop(running);
        match polled {
            Ok(Poll::Ready(())) => Poll::Ready(()),
            Ok(Poll::Pending) => {
                processor.end_turn();
                Poll::Pending
            }
            Err(_) => {
                let failed = "the node failed while it ran the function".to_owned();
                this.exchange.set_end(Err(CallError::Failed(failed)));
                Poll::Ready(())
            }
        }
    }
}

/// Why the guest's turns inside the caller's future are over.
enum Turn {
    Ended,
    Busy,
    Answering,
    TimedOut,
}

/// Runs one call.
pub(crate) async fn drive(
    bound: Arc<Bound>,
    call: Call,
) -> Result<Response<AnswerBody>, CallError> {
    let until = tokio::time::Instant::from_std(call.until);
    let setup = &bound.setup;
    let answer = Answer::new(setup.protocol, setup.output_bytes);
    let exchange = Arc::new(Exchange::new(
        setup.output_bytes,
        setup.cpu_millicores.is_some(),
    ));
    let mut guest = Guest::new(bound.clone(), exchange.clone(), call);
    let mut front = Front { exchange, answer };

    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let turn = poll_fn(|context| {
        loop {
            if Pin::new(&mut guest).poll(context).is_ready() {
                return Poll::Ready(Turn::Ended);
            }
            if !front.collect(context) {
                break;
            }
        }
        if front.is_answering() {
            return Poll::Ready(Turn::Answering);
        }
        if front.exchange.is_busy() {
            return Poll::Ready(Turn::Busy);
        }
        // The guest waits, for its input or the network.
        timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)))
            .as_mut()
            .poll(context)
            .map(|()| Turn::TimedOut)
    })
    .await;

    match turn {
        Turn::Ended => {
            drop(guest);
            return front.whole();
        }
        Turn::TimedOut => return Err(CallError::TimedOut),
        Turn::Busy | Turn::Answering => {}
    }

    let pool = bound.loaded.engine.0.pool();
    let task = pool.spawn(run_out(guest, front.exchange.clone(), until));
    let task = AbortOnDropHandle::new(task);
    if matches!(turn, Turn::Busy) {
        timeout_at(until, poll_fn(|context| front.poll(context)))
            .await
            .map_err(|_| CallError::TimedOut)?;
        if front.has_ended() {
            return front.whole();
        }
    }
    front.stream(task)
}

/// The rest of a guest, on the engine's threads.
async fn run_out(guest: Guest, exchange: Arc<Exchange>, until: tokio::time::Instant) {
    let mut guest = pin!(guest);
    if timeout_at(until, guest.as_mut()).await.is_err() {
        // Noted before the guest goes, and with it what others watch.
        exchange.set_end(Err(CallError::TimedOut));
    }
}

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
struct Front {
    exchange: Arc<Exchange>,
    answer: Answer,
}

impl Front {
    /// Takes what is there of a `wasi:http` answer; whether that was any, so
    /// that the guest may go on.
    fn collect(&mut self, context: &mut TaskContext<'_>) -> bool {
        match &mut self.answer {
            Answer::Stdio | Answer::Cgi => false,
            Answer::Http(http) => http.collect(&self.exchange, context),
        }
    }

    /// Whether the answer can begin.
    fn is_answering(&self) -> bool {
        match &self.answer {
            Answer::Stdio => self.exchange.has_head(is_long),
            Answer::Cgi => self.exchange.has_head(header_block::is_decided),
            Answer::Http(http) => http.head.is_some() || http.broken.is_some(),
        }
    }

    /// Waits until the answer can begin or the guest has ended.
    fn poll(&mut self, context: &mut TaskContext<'_>) -> Poll<()> {
        match &self.answer {
            Answer::Stdio => self.exchange.poll_front(context, is_long),
            Answer::Cgi => self.exchange.poll_front(context, header_block::is_decided),
            Answer::Http(_) => self.exchange.poll_front(context, |_| false),
        }
    }

    fn has_ended(&self) -> bool {
        self.exchange.has_ended()
    }

    /// The answer of a guest that has ended.
    fn whole(self) -> Result<Response<AnswerBody>, CallError> {
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
    fn stream(self, task: AbortOnDropHandle<()>) -> Result<Response<AnswerBody>, CallError> {
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

/// Says how a guest ended, from what wasmtime and the host's limits know.
pub(crate) fn classify(
    result: wasmtime::Result<()>,
    memory: &MemoryLimit,
    context: &Context,
) -> Result<(), CallError> {
    if let Some(fault) = context.exchange.take_fault() {
        return Err(fault);
    }
    let Err(error) = result else { return Ok(()) };
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        let refused = "as many functions run as the node has room for".to_owned();
        return Err(CallError::NotStarted(refused));
    }
    let how = match error.downcast_ref::<I32Exit>() {
        Some(I32Exit(0)) => return Ok(()),
        Some(I32Exit(code)) => format!("exited with code {code}"),
        None => {
            let mut trace = format!("{error:?}\n");
            trace.truncate(trace.floor_char_boundary(BACKTRACE_BYTES));
            context.log.write(trace.as_bytes());
            match error.downcast_ref::<wasmtime::Trap>() {
                Some(trap) => format!("failed: {trap}"),
                None => format!("failed: {}", error.root_cause()),
            }
        }
    };
    Err(CallError::Failed(if memory.was_exceeded() {
        format!(
            "the function exceeded its memory limit of {} ({how})",
            crate::size(memory.limit())
        )
    } else {
        format!("the function {how}")
    }))
}
