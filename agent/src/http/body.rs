//! Bodies of requests: bounded in size, and in the time between two pieces.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};
use weir_node::executor::{Body, BodyError};

/// How much of a body that nobody wants is still taken, and how long, so that
/// a client which sends before it reads gets to see the answer. Beyond it the
/// connection is cut.
const LINGER_BYTES: usize = 64 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);

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

/// What became of a body, seen from outside while others read it.
#[derive(Debug, Clone, Default)]
pub struct Verdict(Arc<AtomicU8>);

impl Verdict {
    fn set(&self, fault: BodyFault) {
        self.0.store(fault as u8 + 1, Ordering::Relaxed);
    }

    /// The fault that ended it, if one did.
    pub fn fault(&self) -> Option<BodyFault> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(BodyFault::TooLarge),
            2 => Some(BodyFault::TooSlow),
            _ => Some(BodyFault::Broken),
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
    incoming: Option<Incoming>,
    left: u64,
    gap: Duration,
    /// Runs while a piece is awaited. Made on the door's thread, whose clock
    /// it keeps wherever the body is read.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    /// Whether what nobody read is taken and thrown away.
    linger: bool,
    verdict: Verdict,
    runtime: Handle,
}

/// Bounds `incoming`; the verdict tells afterwards whether a bound ended it.
/// An empty body costs nothing.
pub fn bound(incoming: Incoming, limits: BodyLimits, linger: bool) -> (Body, Option<Verdict>) {
    if incoming.is_end_stream() {
        let empty = http_body_util::Empty::new().map_err(|never| match never {});
        return (Body::new(empty), None);
    }
    let verdict = Verdict::default();
    let bounded = Bounded {
        incoming: Some(incoming),
        left: limits.bytes,
        gap: limits.gap,
        timer: Box::pin(tokio::time::sleep(limits.gap)),
        waiting: false,
        linger,
        verdict: verdict.clone(),
        runtime: Handle::current(),
    };
    (Body::new(bounded), Some(verdict))
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
        self.verdict.set(fault);
        match (self.incoming.take(), fault) {
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
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        match Pin::new(incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = false;
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(length) {
                    Some(left) => this.left = left,
                    None => return this.fail(BodyFault::TooLarge),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => this.fail(BodyFault::Broken),
            Poll::Ready(None) => {
                this.incoming = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                if !this.waiting {
                    this.waiting = true;
                    this.timer.as_mut().reset(Instant::now() + this.gap);
                }
                match this.timer.as_mut().poll(context) {
                    Poll::Ready(()) => this.fail(BodyFault::TooSlow),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.as_ref().map(Incoming::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        // A function that answers without reading its body must not cost its
        // caller the answer.
        if let Some(incoming) = self.incoming.take()
            && self.linger
        {
            linger(&self.runtime, incoming);
        }
    }
}
