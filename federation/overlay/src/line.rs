//! A stream of HTTP/2 on which is noted whether the other side is heard, and how
//! much was written since.
//!
//! h2 reads nothing while a ping waits to be written. On a slow link that takes
//! seconds, in which the other side would not be heard, and two sides that both
//! wait to write would do so for ever. So what comes meanwhile is read ahead.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::traffic::Sign;

/// Bytes that are read ahead while nothing can be written, and how many of them
/// at once.
const AHEAD_BYTES: usize = 256 << 10;
const READ_BYTES: usize = 16 << 10;

/// What was noted. Shared by the stream and whoever looks at it.
#[derive(Debug)]
pub(crate) struct Notes {
    heard: AtomicBool,
    written: AtomicU64,
    sign: Sign,
}

impl Notes {
    /// Of a connection with the member that `sign` is of.
    pub(crate) fn new(sign: Sign) -> Notes {
        Notes {
            heard: AtomicBool::new(false),
            written: AtomicU64::new(0),
            sign,
        }
    }

    /// Whether the other side was heard since this was asked last, and the bytes
    /// written since it was heard.
    pub(crate) fn take(&self) -> (bool, u64) {
        let heard = self.heard.swap(false, Ordering::Relaxed);
        if heard {
            self.written.store(0, Ordering::Relaxed);
        }
        (heard, self.written.load(Ordering::Relaxed))
    }

    /// Begins anew.
    pub(crate) fn forget(&self) {
        self.is_heard();
        self.take();
    }

    fn is_heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
        self.sign.give();
    }
}

/// A stream with notes. What is read must be HTTP/2.
pub struct Line<S> {
    stream: S,
    notes: Arc<Notes>,
    frames: Frames,
    /// Whether the last write had to wait.
    held_up: bool,
    /// What was read ahead, and how reading ended after it.
    ahead: BytesMut,
    ended: Option<io::Result<()>>,
}

impl<S> Line<S> {
    pub(crate) fn new(stream: S, notes: Arc<Notes>) -> Line<S> {
        Line {
            stream,
            notes,
            frames: Frames::default(),
            held_up: false,
            ahead: BytesMut::new(),
            ended: None,
        }
    }
}

impl<S: AsyncRead + Unpin> Line<S> {
    /// Takes note of how writing went.
    fn wrote<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            self.held_up = true;
            self.read_ahead(context);
            return Poll::Pending;
        }
        // Something before it was acknowledged, or there would be no room.
        if std::mem::take(&mut self.held_up) && matches!(polled, Poll::Ready(Ok(_))) {
            self.notes.is_heard();
        }
        polled
    }

    fn wrote_bytes(
        &mut self,
        polled: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.wrote(polled, context))?;
        let written = &self.notes.written;
        written.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    /// Reads what is there. Whoever waits to write is woken for it.
    fn read_ahead(&mut self, context: &mut Context<'_>) {
        let mut came = false;
        while self.ended.is_none() && self.ahead.len() < AHEAD_BYTES {
            let before = self.ahead.len();
            self.ahead.reserve(READ_BYTES);
            match poll_read_buf(Pin::new(&mut self.stream), context, &mut self.ahead) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => self.ended = Some(Ok(())),
                Poll::Ready(Ok(_)) => {
                    if self.frames.read(&self.ahead[before..]) {
                        self.notes.is_heard();
                    }
                }
                Poll::Ready(Err(error)) => self.ended = Some(Err(error)),
            }
            came = true;
        }
        if came {
            context.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let part = self.ahead.len().min(into.remaining());
            into.put_slice(&self.ahead[..part]);
            self.ahead.advance(part);
            if self.ahead.is_empty() {
                // A connection at rest holds no buffer.
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(ended) = self.ended.take() {
            return Poll::Ready(ended);
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        if self.frames.read(&into.filled()[before..]) {
            self.notes.is_heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote_bytes(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wrote_bytes(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.wrote(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A frame's header: its length in three bytes, its type, its flags, and its
/// stream (RFC 9113, section 4.1).
const HEADER_BYTES: usize = 9;

/// The type of pings, and the flag of their answers (section 6.7).
const PING: u8 = 0x6;
const ACK: u8 = 0x1;

/// Frames as they come, to know what each is. A ping of the other side says that
/// it is there, and not that it hears anything: where one direction is lost, that
/// alone still arrives.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that came.
    came: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    is_ping: bool,
}

impl Frames {
    /// Reads on; whether anything but a ping was among it.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut other = false;
        while !bytes.is_empty() {
            if self.left > 0 {
                let part = self.left.min(bytes.len());
                other |= !self.is_ping;
                self.left -= part;
                bytes = &bytes[part..];
                continue;
            }
            let part = bytes.len().min(HEADER_BYTES - self.came);
            self.header[self.came..self.came + part].copy_from_slice(&bytes[..part]);
            self.came += part;
            bytes = &bytes[part..];
            if self.came == HEADER_BYTES {
                let [a, b, c, kind, flags, ..] = self.header;
                self.came = 0;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.is_ping = kind == PING && flags & ACK == 0;
                other |= !self.is_ping;
            }
        }
        other
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::traffic::Traffic;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn a_ping_of_the_other_side_is_no_answer() {
        let (ping, pong) = (frame(PING, 0, &[7; 8]), frame(PING, ACK, &[7; 8]));
        let data = frame(0, 0, &[7; 300]);
        let cases = [
            (vec![&ping, &ping], false),
            (vec![&ping, &pong], true),
            (vec![&data], true),
            (vec![&ping, &data, &ping], true),
        ];
        for (frames, expected) in cases {
            let bytes: Vec<u8> = frames.into_iter().flatten().copied().collect();
            // However they are cut.
            for step in 1..=bytes.len() {
                let mut frames = Frames::default();
                let heard = bytes.chunks(step).map(|piece| frames.read(piece));
                assert_eq!(heard.fold(false, |a, b| a | b), expected, "by {step}");
                assert_eq!((frames.came, frames.left), (0, 0));
            }
        }
    }

    fn notes() -> Arc<Notes> {
        let somebody = libp2p::PeerId::random();
        Arc::new(Notes::new(Traffic::default().of(somebody)))
    }

    #[tokio::test]
    async fn what_comes_while_nothing_can_be_written_is_read_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let notes = notes();
        let mut line = Line::new(near, notes.clone());
        // Until there is no room.
        let full = async { while line.write(&[7; 1 << 16]).await.is_ok() {} };
        let waits = tokio::time::timeout(Duration::from_millis(50), full).await;
        assert!(waits.is_err());
        notes.take();
        let sent: Vec<u8> = (0..40_000).flat_map(|n| frame(0, 0, &[n as u8])).collect();
        far.write_all(&sent).await.expect("it is taken");
        drop(far.shutdown().await);
        let more = line.write(&[7]);
        assert!(
            tokio::time::timeout(Duration::from_millis(50), more)
                .await
                .is_err()
        );
        assert!(notes.take().0, "the other side is heard");
        assert!(line.ahead.len() >= AHEAD_BYTES);
        assert!(line.ahead.len() < AHEAD_BYTES + READ_BYTES);
        let mut read = Vec::new();
        line.read_to_end(&mut read).await.expect("it ends");
        assert!(read == sent, "{} of {} bytes", read.len(), sent.len());
        assert_eq!(line.ahead.capacity(), 0);
    }

    #[tokio::test]
    async fn what_is_read_and_written_is_noted() {
        let (near, mut far) = tokio::io::duplex(64);
        let notes = notes();
        let mut line = Line::new(near, notes.clone());
        line.write_all(&[7; 60]).await.expect("there is room");
        assert_eq!(notes.take(), (false, 60));
        let settings = frame(4, 0, &[]);
        far.write_all(&settings).await.expect("it is read");
        let mut read = [0; HEADER_BYTES];
        line.read_exact(&mut read).await.expect("it was written");
        assert_eq!((read.to_vec(), notes.take()), (settings, (true, 0)));
        // A write that had to wait was let in because something left.
        let more = line.write_all(&[7; 60]);
        let mut taken = [0; 100];
        let (written, taken) = tokio::join!(more, far.read_exact(&mut taken));
        written.and(taken.map(drop)).expect("both go on");
        assert!(notes.take().0);
    }
}
