//! What a guest and its caller share during one call.
//!
//! The caller's side polls the guest in place while it is quick, and from
//! then on watches here; the guest's side writes here. One lock, held for a
//! copy at most.

use crate::{BodyError, CallError};
use bytes::Bytes;
use http::Response;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// Output that is held back: an answer up to this size is sent whole, with
/// its length; a longer one streams in pieces of about this size.
pub(crate) const HELD_BYTES: usize = 64 << 10;

/// The answer of a `wasi:http` guest as it sets it.
pub(crate) type HttpHead = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// Shared state of one call.
pub(crate) struct Exchange {
    state: Mutex<State>,
    output_limit: u64,
    busy: AtomicBool,
    processor: Processor,
}

#[derive(Default)]
struct State {
    /// What the guest wrote to standard output and nobody has taken yet.
    output: Vec<u8>,
    /// All that it wrote so far.
    written: u64,
    /// The answer of a `wasi:http` guest.
    head: Option<HttpHead>,
    /// Why the call has failed, when the host knew first.
    fault: Option<CallError>,
    /// How reading the request's body ended, if badly.
    body_error: Option<BodyError>,
    /// How the guest ended.
    end: Option<Result<(), CallError>>,
    /// Whoever waits for output, head or end.
    reader: Option<Waker>,
    /// The guest, waiting for its output to be taken.
    writer: Option<Waker>,
}

impl Exchange {
    pub(crate) fn new(output_limit: u64, accounted: bool) -> Exchange {
        Exchange {
            state: Mutex::new(State::default()),
            output_limit,
            busy: AtomicBool::new(false),
            processor: Processor::new(accounted),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under this lock can panic half-way.
        self.state.lock()
    }

    /// Whether the guest has used a whole tick of its caller's thread.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    pub(crate) fn set_busy(&self) {
        self.busy.store(true, Ordering::Relaxed);
    }

    pub(crate) fn processor(&self) -> &Processor {
        &self.processor
    }

    // The guest's side.

    /// Appends to the output. Fails, for good, beyond the limit.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), OutputExceeded> {
        let reader = {
            let mut state = self.state();
            state.written += bytes.len() as u64;
            if state.written > self.output_limit {
                state.fault.get_or_insert(CallError::Failed(format!(
                    "the function wrote more than its output limit of {}",
                    crate::size(self.output_limit)
                )));
                return Err(OutputExceeded);
            }
            state.output.extend_from_slice(bytes);
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// Bytes that may be written before the output has to be taken.
    pub(crate) fn room(&self) -> usize {
        HELD_BYTES.saturating_sub(self.state().output.len())
    }

    pub(crate) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.output.len() < HELD_BYTES {
            return Poll::Ready(());
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    pub(crate) fn set_head(&self, head: HttpHead) {
        let reader = {
            let mut state = self.state();
            state.head = Some(head);
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Notes why the guest is about to be stopped; the first reason stays.
    pub(crate) fn set_fault(&self, fault: CallError) {
        self.state().fault.get_or_insert(fault);
    }

    pub(crate) fn take_fault(&self) -> Option<CallError> {
        self.state().fault.take()
    }

    pub(crate) fn set_body_error(&self, error: BodyError) {
        self.state().body_error.get_or_insert(error);
    }

    /// Notes how the guest ended; the first word stays.
    pub(crate) fn set_end(&self, end: Result<(), CallError>) {
        let reader = {
            let mut state = self.state();
            let end = match state.body_error.take() {
                Some(error) => Err(CallError::Body(error)),
                None => end,
            };
            state.end.get_or_insert(end);
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    // The caller's side.

    /// Waits until `ready` finds something in the output, the head is there,
    /// or the guest has ended.
    pub(crate) fn poll_front(
        &self,
        context: &mut Context<'_>,
        ready: impl FnOnce(&[u8]) -> bool,
    ) -> Poll<()> {
        let mut state = self.state();
        if state.end.is_some() || state.head.is_some() || ready(&state.output) {
            return Poll::Ready(());
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether `ready` finds something in the output, or the head is there.
    pub(crate) fn has_head(&self, ready: impl FnOnce(&[u8]) -> bool) -> bool {
        let state = self.state();
        state.head.is_some() || ready(&state.output)
    }

    pub(crate) fn take_head(&self) -> Option<HttpHead> {
        self.state().head.take()
    }

    pub(crate) fn take_end(&self) -> Option<Result<(), CallError>> {
        self.state().end.take()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().end.is_some()
    }

    /// All output that is there; makes room for the guest.
    pub(crate) fn take_output(&self) -> Vec<u8> {
        let (output, writer) = {
            let mut state = self.state();
            (std::mem::take(&mut state.output), state.writer.take())
        };
        if let Some(writer) = writer {
            writer.wake();
        }
        output
    }

    /// The next piece of output; `None` after a good end.
    pub(crate) fn poll_output(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, CallError>>> {
        let (output, writer) = {
            let mut state = self.state();
            if state.output.is_empty() {
                return match state.end.take() {
                    Some(Ok(())) => Poll::Ready(None),
                    Some(Err(error)) => Poll::Ready(Some(Err(error))),
                    None => {
                        state.reader = Some(context.waker().clone());
                        Poll::Pending
                    }
                };
            }
            (std::mem::take(&mut state.output), state.writer.take())
        };
        if let Some(writer) = writer {
            writer.wake();
        }
        Poll::Ready(Some(Ok(output.into())))
    }
}

/// The guest wrote more than it may; the fault is already noted.
#[derive(Debug, thiserror::Error)]
#[error("output limit exceeded")]
pub(crate) struct OutputExceeded;

/// Processor time of one guest, whichever threads it runs on.
///
/// Only kept for guests with a share, and never during their first turn: a
/// guest that ends there is too quick to be measured, and one that does not
/// is charged the wall time of that turn.
pub(crate) struct Processor {
    accounted: bool,
    first_turn: AtomicBool,
    /// Nanoseconds of the turns before this one.
    before: AtomicU64,
    /// The thread's clock when this turn began.
    turn_began: AtomicU64,
    /// The tick in which this turn began.
    turn_tick: AtomicU64,
    started: Instant,
}

impl Processor {
    fn new(accounted: bool) -> Processor {
        Processor {
            accounted,
            first_turn: AtomicBool::new(true),
            before: AtomicU64::new(0),
            turn_began: AtomicU64::new(0),
            turn_tick: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// When the call began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The guest is about to run on this thread.
    pub(crate) fn begin_turn(&self, tick: u64) {
        self.turn_tick.store(tick, Ordering::Relaxed);
        if self.accounted && !self.first_turn.load(Ordering::Relaxed) {
            self.turn_began.store(thread_nanos(), Ordering::Relaxed);
        }
    }

    /// The guest stopped running and will run again.
    pub(crate) fn end_turn(&self) {
        if self.accounted {
            let used = self.used().as_nanos() as u64;
            self.before.store(used, Ordering::Relaxed);
        }
        self.first_turn.store(false, Ordering::Relaxed);
    }

    /// The tick in which the current turn began.
    pub(crate) fn turn_tick(&self) -> u64 {
        self.turn_tick.load(Ordering::Relaxed)
    }

    /// Processor time so far; call it on the guest's thread.
    pub(crate) fn used(&self) -> Duration {
        let turn = if self.first_turn.load(Ordering::Relaxed) {
            self.started.elapsed().as_nanos() as u64
        } else {
            thread_nanos().saturating_sub(self.turn_began.load(Ordering::Relaxed))
        };
        Duration::from_nanos(self.before.load(Ordering::Relaxed) + turn)
    }
}

/// Processor time of this thread, in nanoseconds.
fn thread_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
