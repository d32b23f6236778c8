//! Bodies of requests: bounded in size, and in the time between two pieces.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};
use weir_node::clock::Moment as _;
use weir_node::executor::{Body, BodyError};

use super::gate::{Gate, Open, Pace, WHOLE_WITHIN};

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

    /// Lets its call be open, until the body is here whole or read no more.
    pub fn hold(&self, open: Open) {
        let mut source = self.0.source();
        if source.incoming.is_some() {
            source.open = Some(open);
        }
    }

    /// Waits until the body is here whole.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn until_whole(&self) -> Result<(), BodyFault> {
        poll_fn(|context| {
            self.0.look_out(context);
            let ended = self.0.source().incoming.is_none();
            match (self.fault(), ended) {
                (Some(fault), _) => Poll::Ready(Err(fault)),
                (None, true) => Poll::Ready(Ok(())),
                (None, false) => Poll::Pending,
            }
        })
        .await
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
    /// Of a call, which holds a place on the node as long as this takes.
    gate: Option<Arc<Gate>>,
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
    /// Bytes of the gate's budget, until what is there was read.
    kept: u64,
    /// The right of its call to be open, until the body is here whole.
    open: Option<Open>,
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
        self.source.lock()
    }

    fn set(&self, fault: BodyFault) {
        self.fault.store(fault as u8 + 1, Ordering::Relaxed);
    }

    /// Polls the connection for the next piece; both sides are woken for it.
    /// Trailers are left out, as those of answers are: few functions could see
    /// them, and a body that is kept has no place for them.
    fn poll_source(self: &Arc<Self>, source: &mut Source) -> Poll<Option<Frame<Bytes>>> {
        let Some(incoming) = &mut source.incoming else {
            return Poll::Ready(None);
        };
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut *incoming).poll_frame(&mut context) {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => return Poll::Ready(Some(frame)),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_))) => {
                    self.set(BodyFault::Broken);
                    break;
                }
                Poll::Ready(None) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        (source.incoming, source.open) = (None, None);
        Poll::Ready(None)
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
                if source.ahead.is_empty() {
                    self.give_back(std::mem::take(&mut source.kept));
                }
                Poll::Ready(Some(frame))
            }
            None => self.poll_source(&mut source),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let kept = std::mem::take(&mut self.source.get_mut().kept);
        self.give_back(kept);
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
    /// Since when a piece is awaited, and until when its pace was noted.
    waiting: Option<(Instant, Instant)>,
    pace: Pace,
    ended: bool,
    /// Whether what nobody read is taken and thrown away.
    linger: bool,
    runtime: Handle,
}

/// How often the pace of a body that is awaited is looked at.
const PACE_LOOK: Duration = Duration::from_millis(500);

/// Bounds `incoming`; the verdict tells afterwards whether a bound ended it.
/// An empty body costs nothing. With a gate it may end a body that is too slow.
pub fn bound(
    incoming: Incoming,
    limits: BodyLimits,
    linger: bool,
    gate: Option<&Arc<Gate>>,
) -> (Body, Option<Verdict>) {
    if incoming.is_end_stream() {
        return (empty(), None);
    }
    let shared = Shared::new(incoming, gate);
    let bounded = Bounded::new(shared.clone(), limits, linger);
    (Body::new(bounded), Some(Verdict(shared)))
}

fn empty() -> Body {
    Body::new(http_body_util::Empty::new().map_err(|never| match never {}))
}

/// A request's body as its call begins.
pub struct Taken {
    /// What the function reads.
    pub body: Body,
    /// What becomes of it; `None` when all of it is there.
    pub verdict: Option<Verdict>,
    /// Whether some of it is still to come: its call is open.
    pub open: bool,
}

/// Waits until a body is here whole, for a short while and as long as there is
/// memory for it.
///
/// # Errors
/// When it is longer than allowed, or breaks off.
pub async fn take(
    incoming: Incoming,
    limits: BodyLimits,
    linger: bool,
    gate: &Arc<Gate>,
) -> Result<Taken, BodyFault> {
    if incoming.is_end_stream() {
        let body = empty();
        return Ok(Taken {
            body,
            verdict: None,
            open: false,
        });
    }
    let shared = Shared::new(incoming, Some(gate));
    let (mut asked, mut within) = (false, None);
    let whole = poll_fn(|context| match shared.gather(context, limits.bytes) {
        Gathered::Whole => Poll::Ready(true),
        Gathered::TooMuch => Poll::Ready(false),
        // Most come once they were asked for; a timer for each would wake the loop.
        Gathered::Pending if !std::mem::replace(&mut asked, true) => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        Gathered::Pending => {
            let within = within.get_or_insert_with(|| Box::pin(tokio::time::sleep(WHOLE_WITHIN)));
            within.as_mut().poll(context).map(|()| false)
        }
    })
    .await;
    let verdict = Verdict(shared.clone());
    match verdict.fault() {
        Some(BodyFault::TooLarge) => {
            // So that its sender gets to see the answer.
            drop(Bounded::new(shared, limits, linger));
            return Err(BodyFault::TooLarge);
        }
        Some(fault) => return Err(fault),
        None => {}
    }
    if whole && let Some(bytes) = shared.in_one_piece() {
        return Ok(Taken {
            body: Body::new(http_body_util::Full::new(bytes).map_err(|never| match never {})),
            verdict: None,
            open: false,
        });
    }
    if !whole {
        shared.keep_no_more();
    }
    Ok(Taken {
        body: Body::new(Bounded::new(shared, limits, linger)),
        verdict: Some(verdict),
        open: !whole,
    })
}

enum Gathered {
    Whole,
    /// There is no memory for more of it.
    TooMuch,
    Pending,
}

impl Shared {
    fn new(incoming: Incoming, gate: Option<&Arc<Gate>>) -> Arc<Shared> {
        Arc::new(Shared {
            gate: gate.cloned(),
            source: Mutex::new(Source {
                incoming: Some(incoming),
                ahead: VecDeque::new(),
                ahead_bytes: 0,
                kept: 0,
                open: None,
            }),
            fault: AtomicU8::new(0),
            reader: AtomicWaker::new(),
            lookout: AtomicWaker::new(),
        })
    }

    fn give_back(&self, kept: u64) {
        if let Some(gate) = &self.gate {
            gate.give_back(kept);
        }
    }

    fn is_too_slow(&self, pace: &Pace) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.ends(pace))
    }

    /// Takes what there is of the body.
    fn gather(self: &Arc<Self>, context: &Context<'_>, most: u64) -> Gathered {
        self.lookout.register(context.waker());
        let mut source = self.source();
        loop {
            let announced = source.incoming.as_ref().map(|i| i.size_hint().lower());
            let whole = source.ahead_bytes as u64 + announced.unwrap_or(0);
            if whole > most {
                self.set(BodyFault::TooLarge);
                return Gathered::TooMuch;
            }
            // Each connection has room for a small one.
            let more = whole.saturating_sub(AHEAD_BYTES as u64);
            let more = more.saturating_sub(source.kept);
            if more > 0 {
                if !self.gate.as_ref().is_none_or(|gate| gate.keep(more)) {
                    return Gathered::TooMuch;
                }
                source.kept += more;
            }
            match self.poll_source(&mut source) {
                Poll::Ready(Some(frame)) => {
                    source.ahead_bytes += frame.data_ref().map_or(0, Bytes::len);
                    source.ahead.push_back(frame);
                }
                Poll::Ready(None) => return Gathered::Whole,
                Poll::Pending => return Gathered::Pending,
            }
        }
    }

    /// Gives back the memory that was taken for what did not come.
    fn keep_no_more(&self) {
        let mut source = self.source();
        let came = source.ahead_bytes.saturating_sub(AHEAD_BYTES) as u64;
        let kept = source.kept.min(came);
        self.give_back(source.kept - kept);
        source.kept = kept;
    }

    /// The whole body where it came in one small piece.
    fn in_one_piece(&self) -> Option<Bytes> {
        let source = self.source();
        let fits = source.ahead.len() == 1 && source.kept == 0;
        let only = source.ahead.front().filter(|_| fits)?;
        only.data_ref().cloned()
    }
}

/// Reads a body whole within its bounds.
pub async fn collect(incoming: Incoming, limits: BodyLimits) -> Result<Bytes, BodyFault> {
    if incoming.size_hint().lower() > limits.bytes {
        refuse(incoming);
        return Err(BodyFault::TooLarge);
    }
    let (body, verdict) = bound(incoming, limits, true, None);
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
    fn new(shared: Arc<Shared>, limits: BodyLimits, linger: bool) -> Bounded {
        Bounded {
            shared,
            left: limits.bytes,
            gap: limits.gap,
            timer: Box::pin(tokio::time::sleep(limits.gap)),
            waiting: None,
            pace: Pace::default(),
            ended: false,
            linger,
            runtime: Handle::current(),
        }
    }

    /// Notes how long the next piece is awaited until `now`, and what came.
    fn note(&mut self, bytes: u64, now: Instant) {
        if let Some((_, noted)) = &mut self.waiting {
            self.pace.note(bytes, now.saturating_duration_since(*noted));
            *noted = now;
        }
    }

    /// Awaits the next piece: whether it is too slow now.
    fn await_piece(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let (since, _) = *self.waiting.get_or_insert((now, now));
            self.note(0, now);
            let awaited = now.saturating_duration_since(since);
            if awaited >= self.gap || self.shared.is_too_slow(&self.pace) {
                return Poll::Ready(());
            }
            let next = PACE_LOOK.min(self.gap.saturating_sub(awaited));
            self.timer.as_mut().reset(now.later(next));
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn fail(&mut self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.shared.set(fault);
        self.ended = true;
        let incoming = {
            let mut source = self.shared.source();
            source.open = None;
            source.incoming.take()
        };
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
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(length) {
                    Some(left) => this.left = left,
                    None => return this.fail(BodyFault::TooLarge),
                }
                if this.waiting.is_some() {
                    this.note(length, Instant::now());
                    this.waiting = None;
                } else {
                    this.pace.note(length, Duration::ZERO);
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
            Poll::Pending => match this.await_piece(context) {
                Poll::Ready(()) => this.fail(BodyFault::TooSlow),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        let source = self.shared.source();
        let incoming = source.incoming.as_ref();
        self.ended || (source.ahead.is_empty() && incoming.is_some_and(Incoming::is_end_stream))
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.shared.source();
        let ahead = source.ahead_bytes as u64;
        let rest = source.incoming.as_ref();
        let rest = rest.map_or(SizeHint::with_exact(0), Incoming::size_hint);
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
        let incoming = {
            let mut source = self.shared.source();
            source.open = None;
            source.incoming.take()
        };
        if let Some(incoming) = incoming
            && self.linger
        {
            linger(&self.runtime, incoming);
        }
    }
}
