//! One call, from request to answer.
//!
//! The guest starts inside the caller's future. Most end there, in one turn.
//! One that has been busy for a tick, or whose answer begins to stream, moves
//! to the engine's threads, and the caller watches the [`Exchange`].

mod answer;

use self::answer::Front;
use crate::exchange::Exchange;
use crate::function::{Bound, Program, Setup};
use crate::limits::{MemoryLimit, Meter};
use crate::outbound::Gate;
use crate::ticker::Ticker;
use crate::{Body, BodyError, LogSink, component, module};
use bytes::Bytes;
use http::Response;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;
use tokio::time::{Sleep, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi::I32Exit;

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
    let exchange = Arc::new(Exchange::new(
        setup.output_bytes,
        setup.cpu_millicores.is_some(),
    ));
    let mut guest = Guest::new(bound.clone(), exchange.clone(), call);
    let mut front = Front::new(exchange, setup.protocol, setup.output_bytes);

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
        if front.exchange().is_busy() {
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
    let task = pool.spawn(run_out(guest, front.exchange().clone(), until));
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
