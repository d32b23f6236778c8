//! Calls under way: each is counted once, however it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Frame, SizeHint};
use tracing::debug;
use weir_node::executor::{Body, BodyError};
use weir_node::id::{CallId, FunctionName};
use weir_node::invocation::{Start, Timing};

use crate::metrics::series::{CLIENT_GONE, Counts, Ended};

/// A call under way. However it ends, it is counted once: dropped before its
/// end, its client has gone away.
pub(super) struct Watch {
    pub(super) name: FunctionName,
    pub(super) id: CallId,
    pub(super) counts: Option<Arc<Counts>>,
    pub(super) arrived: Instant,
    /// What to count when nothing else happens; `None` once counted.
    pub(super) ended: Option<Ended>,
}

impl Watch {
    /// The answer is complete.
    pub(super) fn end(mut self, status: StatusCode, ran: Option<(Start, Timing)>) {
        let took = self.arrived.elapsed();
        self.count(Ended {
            status: status.as_u16(),
            ran,
            took,
        });
    }

    /// The answer has begun; [`Watch::complete`] or the drop says how it ended.
    pub(super) fn begun(mut self, status: StatusCode, ran: Option<(Start, Timing)>) -> Begun {
        let took = self.arrived.elapsed();
        self.ended = Some(Ended {
            status: CLIENT_GONE,
            ran,
            took,
        });
        Begun {
            watch: self,
            status,
        }
    }

    fn count(&mut self, ended: Ended) {
        if self.ended.take().is_none() {
            return;
        }
        if let Some(counts) = &self.counts {
            counts.record(ended);
        }
        debug!(
            function = %self.name,
            call = %self.id,
            status = ended.status,
            took = ?ended.took,
            "invocation"
        );
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(mut ended) = self.ended {
            if ended.ran.is_none() {
                ended.took = self.arrived.elapsed();
            }
            self.count(ended);
        }
    }
}

/// A call whose answer has begun.
pub(super) struct Begun {
    watch: Watch,
    status: StatusCode,
}

impl Begun {
    fn complete(mut self, status: StatusCode) {
        if let Some(ended) = self.watch.ended {
            self.watch.count(Ended {
                status: status.as_u16(),
                ..ended
            });
        }
    }
}

/// The rest of an answer, with the call that it belongs to.
pub(super) struct WatchedStream {
    pub(super) stream: Body,
    /// Why it broke, until what came before has had a turn to be sent: else the
    /// caller would get nothing of an answer that had begun.
    pub(super) broken: Option<BodyError>,
    pub(super) watch: Option<Begun>,
}

impl http_body::Body for WatchedStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = std::task::ready!(Pin::new(&mut self.stream).poll_frame(context));
        let failed = matches!(frame, Some(Err(_)));
        // Who asks for no more after the last piece has had all of it.
        if (failed || frame.is_none() || self.stream.is_end_stream())
            && let Some(begun) = self.watch.take()
        {
            let status = if failed {
                StatusCode::BAD_GATEWAY
            } else {
                begun.status
            };
            begun.complete(status);
        }
        if let Some(Err(error)) = frame {
            self.broken = Some(error);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.size_hint()
    }
}
