//! Bodies of answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use weir_node::executor::{Body, BodyError};
use weir_node::panics;

use super::activity::Busy;

/// The body of an answer.
pub enum Reply {
    /// All of it.
    Whole(Bytes),
    /// The rest comes.
    Stream(Body),
}

impl Reply {
    /// A body with nothing in it.
    pub const EMPTY: Reply = Reply::Whole(Bytes::new());
}

impl<T: Into<Bytes>> From<T> for Reply {
    fn from(bytes: T) -> Self {
        Reply::Whole(bytes.into())
    }
}

/// An answer's body that keeps its request counted as running until it is
/// sent, or given up.
pub struct Tracked {
    reply: Reply,
    _busy: Busy,
}

impl Tracked {
    /// Joins the two.
    pub fn new(reply: Reply, busy: Busy) -> Self {
        Tracked { reply, _busy: busy }
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.reply {
            Reply::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Reply::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            // Other calls of the connection go on when this one breaks.
            Reply::Stream(body) => {
                let polled = panics::contain_poll(|| Pin::new(body).poll_frame(context));
                polled.map(|frame| frame.unwrap_or_else(|panicked| Some(Err(panicked.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.reply {
            Reply::Whole(bytes) => bytes.is_empty(),
            Reply::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reply {
            Reply::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Reply::Stream(body) => body.size_hint(),
        }
    }
}
