//! HTTP/1.1 heads, chunks and trailers whose lines end with a bare line feed are
//! refused: a proxy before this node may see one header where this node would
//! see two.
//!
//! The bytes go to the parser as they came, up to such a line feed; behind it
//! comes what no parser takes, so that the request is refused where it is, after
//! the answers to those before it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::framing::{Found, Framing};

/// What the parser gets instead of a bare line feed: no line holds a carriage
/// return before something else, not even the extension of a chunk, where all
/// else is allowed. The others end a head, which may be read only then.
const NO_HEAD: &[u8] = b"\r\0\r\n\r\n";

/// What became of the last request of a connection that asked for another
/// protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Asked {
    /// There is none, or it is not answered.
    Open,
    /// The same, and more came before its answer.
    Ahead,
    /// It got it: no heads come any more.
    Granted,
    /// It did not.
    Denied,
}

/// What those who answer requests tell those who read them. Only the thread of
/// the connection writes it.
#[derive(Debug)]
pub struct Heads(AtomicU8);

impl Default for Heads {
    fn default() -> Self {
        Heads(AtomicU8::new(Asked::Open as u8))
    }
}

impl Heads {
    /// Notes the answer to a request that asked for another protocol. Whether the
    /// next request can be read: not when it came before the answer did, as
    /// nobody could tell what it is.
    pub fn answered(&self, granted: bool) -> bool {
        let ahead = self.0.load(Ordering::Relaxed) == Asked::Ahead as u8;
        let answer = if granted {
            Asked::Granted
        } else {
            Asked::Denied
        };
        self.set(answer);
        granted || !ahead
    }

    fn set(&self, asked: Asked) {
        self.0.store(asked as u8, Ordering::Relaxed);
    }
}

/// A stream on which heads are looked at.
pub struct Strict<S> {
    stream: S,
    heads: Arc<Heads>,
    activity: Arc<Activity>,
    framing: Framing,
    /// What is still to be read instead of what came, once that is refused.
    refusal: Option<&'static [u8]>,
}

impl<S> Strict<S> {
    /// Looks at the heads of `stream`; `heads` tells what its requests became, and
    /// `activity` is told when a head came in part.
    pub fn new(stream: S, heads: Arc<Heads>, activity: Arc<Activity>) -> Self {
        Strict {
            stream,
            heads,
            activity,
            framing: Framing::default(),
            refusal: None,
        }
    }

    /// How many of these bytes, which come next, are fine.
    fn look(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            match self.framing.follow(&bytes[at..]) {
                Found::Fine => return bytes.len(),
                Found::Bare(bare) => return at + bare,
                Found::Asked(end) => at += end,
            }
            let asked = self.heads.0.load(Ordering::Relaxed);
            if asked == Asked::Open as u8 || asked == Asked::Ahead as u8 {
                self.heads.set(Asked::Ahead);
                return bytes.len();
            }
            self.heads.set(Asked::Open);
            self.framing.answered(asked == Asked::Granted as u8);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.refusal.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            if this.framing.is_opaque() {
                return Poll::Ready(Ok(()));
            }
            let came = &buffer.filled()[before..];
            let fine = this.look(came);
            this.activity.is_in_head(this.framing.is_in_head());
            if fine == came.len() {
                return Poll::Ready(Ok(()));
            }
            buffer.set_filled(before + fine);
            this.refusal = Some(NO_HEAD);
        }
        let refusal = this.refusal.get_or_insert(NO_HEAD);
        if refusal.is_empty() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line of a head ends with a bare line feed",
            )));
        }
        let (now, later) = refusal.split_at(refusal.len().min(buffer.remaining()));
        buffer.put_slice(now);
        *refusal = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
