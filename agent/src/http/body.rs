//! Bodies of requests: bounded in size, and in the time between two pieces.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};
use weir_node::clock::Moment as _;
use weir_node::executor::{Body, BodyError};

/// How much of a body that nobody wants is still taken, and how long, so that
/// a client which sends before it reads gets to see the answer. Beyond it the
/// connection is cut.
const LINGER_BYTES: usize = 64 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// How much of a body is taken before its reader asks, about: enough for most
/// bodies to be there whole. The end of a connection behind more than this is
/// noticed only when the function reads on, or its time is over.
const AHEAD_BYTES: usize = 64 << 10;

/// Why a request's body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// It is longer than allowed.
    #[error("the request body is too large")]
    TooLarge,
    /// Its next piece did not come in time.
    #[error("the rest of the request body did not come in time")]
    TooSlow,
    /// The client broke off, or sent what is no body.
    #[error("the request body broke off")]
    Broken,
}

/// A body, seen from outside while others read it.
#[derive(Clone)]
pub struct Verdict(Arc<Shared>);

impl Verdict {
    /// The fault that ended it, if one did.
    pub fn fault(&self) -> Option<BodyFault> {
        match self.0.fault.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(BodyFault::TooLarge),
            2 => Some(BodyFault::TooSlow),
            _ => Some(BodyFault::Broken),
        }
    }

    /// Waits for `work`, and meanwhile takes some of the body ahead of its
    /// reader. A connection on which nothing is read does not notice that
    /// its client is gone, and the function may be busy with other things.
    ///
    /// # Errors
    /// When the body breaks off: the client is gone, or talks nonsense, and
    /// `work` is dropped.
    pub async fn look_out_during<T>(&self, work: impl Future<Output = T>) -> Result<T, BodyFault> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            self.0.look_out(context);
            match self.fault() {
                Some(fault @ BodyFault::Broken) => Poll::Ready(Err(fault)),
                Some(BodyFault::TooLarge | BodyFault::TooSlow) | None => Poll::Pending,
            }
        })
        .await
    }
}

/// What a body's reader and the door share.
struct Shared {
    source: Mutex<Source>,
    fault: AtomicU8,
    reader: AtomicWaker,
    lookout: AtomicWaker,
}

struct Source {
    incoming: Option<Incoming>,
    /// Taken, and not yet read; in the order in which they came.
    ahead: VecDeque<Frame<Bytes>>,
    ahead_bytes: usize,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Who of the two is told would otherwise depend on who asked last.
        self.reader.wake();
        self.lookout.wake();
    }
}

impl Shared {
    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, fault: BodyFault) {
        self.fault.store(fault as u8 + 1, Ordering::Relaxed);
    }

    /// Polls the connection for the next piece; both sides are woken for it.
    fn poll_source(self: &Arc<Self>, source: &mut Source) -> Poll<Option<Frame<Bytes>>> {
        let Some(incoming) = &mut source.incoming else {
            return Poll::Ready(None);
        };
        let waker = Waker::from(self.clone());
        match Pin::new(incoming).poll_frame(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(frame)),
            Poll::Ready(Some(Err(_))) => {
                self.set(BodyFault::Broken);
                source.incoming = None;
                Poll::Ready(None)
            }
            Poll::Ready(None) => {
                source.incoming = None;
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn look_out(self: &Arc<Self>, context: &Context<'_>) {
        self.lookout.register(context.waker());
        let mut source = self.source();
        while source.ahead_bytes < AHEAD_BYTES && source.incoming.is_some() {
            let Poll::Ready(frame) = self.poll_source(&mut source) else {
                return;
            };
            if let Some(frame) = frame {
                source.ahead_bytes += frame.data_ref().map_or(0, Bytes::len);
                source.ahead.push_back(frame);
            }
            self.reader.wake();
        }
    }

    /// The next piece for the reader.
    fn poll_piece(self: &Arc<Self>, context: &Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        self.reader.register(context.waker());
        let mut source = self.source();
        match source.ahead.pop_front() {
            Some(frame) => {
                source.ahead_bytes -= frame.data_ref().map_or(0, Bytes::len);
                Poll::Ready(Some(frame))
            }
            None => self.poll_source(&mut source),
        }
    }
}

/// Bounds of one request's body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Most bytes.
    pub bytes: u64,
    /// Longest gap between two pieces while one is awaited.
    pub gap: Duration,
}

/// A request's body within its bounds.
struct Bounded {
    shared: Arc<Shared>,
    left: u64,
    gap: Duration,
    /// Runs while a piece is awaited. Made on the door's thread, whose clock
    /// it keeps wherever the body is read.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    ended: bool,
    /// Whether what nobody read is taken and thrown away.
    linger: bool,
    runtime: Handle,
}

/// Bounds `incoming`; the verdict tells afterwards whether a bound ended it.
/// An empty body costs nothing.
pub fn bound(incoming: Incoming, limits: BodyLimits, linger: bool) -> (Body, Option<Verdict>) {
    if incoming.is_end_stream() {
        let empty = http_body_util::Empty::new().map_err(|never| match never {});
        return (Body::new(empty), None);
    }
    let shared = Arc::new(Shared {
        source: Mutex::new(Source {
            incoming: Some(incoming),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
        }),
        fault: AtomicU8::new(0),
        reader: AtomicWaker::new(),
        lookout: AtomicWaker::new(),
    });
    let bounded = Bounded {
        shared: shared.clone(),
        left: limits.bytes,
        gap: limits.gap,
        timer: Box::pin(tokio::time::sleep(limits.gap)),
        waiting: false,
        ended: false,
        linger,
        runtime: Handle::current(),
    };
    (Body::new(bounded), Some(Verdict(shared)))
}

/// Reads a body whole within its bounds.
pub async fn collect(incoming: Incoming, limits: BodyLimits) -> Result<Bytes, BodyFault> {
    if incoming.size_hint().lower() > limits.bytes {
        refuse(incoming);
        return Err(BodyFault::TooLarge);
    }
    let (body, verdict) = bound(incoming, limits, true);
    let collected = body.collect().await;
    let fault = verdict.and_then(|verdict| verdict.fault());
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|_| fault.unwrap_or(BodyFault::Broken))
}

/// Lets go of a body that will not be read, without cutting off its sender
/// before the answer is out.
pub fn refuse(incoming: Incoming) {
    linger(&Handle::current(), incoming);
}

fn linger(runtime: &Handle, mut incoming: Incoming) {
    if incoming.is_end_stream() {
        return;
    }
    runtime.spawn(async move {
        let taken = async {
            let mut left = LINGER_BYTES;
            while let Some(Ok(frame)) = incoming.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                left = match left.checked_sub(length) {
                    Some(left) => left,
                    None => break,
                };
            }
        };
        let _ = tokio::time::timeout(LINGER_TIME, taken).await;
    });
}

impl Bounded {
    fn fail(&mut self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.shared.set(fault);
        self.ended = true;
        let incoming = self.shared.source().incoming.take();
        match (incoming, fault) {
            (Some(incoming), BodyFault::TooLarge) if self.linger => {
                linger(&self.runtime, incoming);
            }
            // Nothing more can come of it.
            _ => {}
        }
        Poll::Ready(Some(Err(fault.into())))
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        match this.shared.poll_piece(context) {
            Poll::Ready(Some(frame)) => {
                this.waiting = false;
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(length) {
                    Some(left) => this.left = left,
                    None => return this.fail(BodyFault::TooLarge),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.ended = true;
                match Verdict(this.shared.clone()).fault() {
                    Some(fault) => Poll::Ready(Some(Err(fault.into()))),
                    None => Poll::Ready(None),
                }
            }
            Poll::Pending => {
                if !this.waiting {
                    this.waiting = true;
                    this.timer.as_mut().reset(Instant::now().later(this.gap));
                }
                match this.timer.as_mut().poll(context) {
                    Poll::Ready(()) => this.fail(BodyFault::TooSlow),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let source = self.shared.source();
        self.ended
            || (source.ahead.is_empty()
                && source
                    .incoming
                    .as_ref()
                    .is_some_and(Incoming::is_end_stream))
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.shared.source();
        let ahead = source.ahead_bytes as u64;
        let rest = source
            .incoming
            .as_ref()
            .map_or(SizeHint::with_exact(0), Incoming::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(ahead + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(ahead + upper);
        }
        hint
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        // A function that answers without reading its body must not cost its
        // caller the answer.
        if let Some(incoming) = self.shared.source().incoming.take()
            && self.linger
        {
            linger(&self.runtime, incoming);
        }
    }
}
