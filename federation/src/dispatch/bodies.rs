//! Bodies on their way: what is held until one has ended, and how long each
//! piece of one is waited for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use weir_node::executor::{Body, BodyError};

/// A body, and what is held until it has ended.
pub(crate) struct Kept<K> {
    body: Body,
    kept: Option<K>,
}

impl<K> Kept<K> {
    pub(crate) fn new(body: Body, kept: K) -> Kept<K> {
        Kept {
            body,
            kept: Some(kept),
        }
    }
}

impl<K: Unpin> http_body::Body for Kept<K> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // At its end, and not when somebody finds the time to drop it.
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.kept = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body whose pieces each come in time, or that breaks off.
pub(super) struct Patient<B> {
    body: B,
    patience: Duration,
    /// Made when a piece has to be waited for.
    waiting: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<B> Patient<B> {
    pub(super) fn new(body: B, patience: Duration) -> Patient<B> {
        Patient {
            body,
            patience,
            waiting: None,
        }
    }
}

impl<B> http_body::Body for Patient<B>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(piece) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(piece);
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Some(Err(
            "the node that ran the call sent no more of its answer".into(),
        )))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of one piece.
pub fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}
