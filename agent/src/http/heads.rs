//! HTTP/1.1 heads whose lines end with a bare line feed are refused: a proxy
//! before this node may see one header where this node would see two.
//!
//! Bytes are looked at where a head is known to begin: at the start of a
//! connection, and after a request without a body.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How a head ends.
const END: [u8; 4] = *b"\r\n\r\n";

/// What is known of where heads begin on one connection. Only its own thread
/// writes it.
#[derive(Debug)]
pub struct Heads {
    /// Whether what comes next is of a head.
    expected: AtomicBool,
    /// Whether what came last ended as a head does.
    ended: AtomicBool,
}

impl Default for Heads {
    fn default() -> Self {
        Heads {
            expected: AtomicBool::new(true),
            ended: AtomicBool::new(false),
        }
    }
}

impl Heads {
    /// Notes that a request was read: a head is next if it has no body, and
    /// nothing came after it.
    pub fn request(&self, bodyless: bool) {
        let next = bodyless && self.ended.load(Ordering::Relaxed);
        self.expected.store(next, Ordering::Relaxed);
    }
}

/// A stream on which heads are looked at.
pub struct Strict<S> {
    stream: S,
    heads: Arc<Heads>,
    /// The last bytes of what came.
    last: [u8; 4],
}

impl<S> Strict<S> {
    /// Looks at the heads of `stream`, as `heads` tells where they begin.
    pub fn new(stream: S, heads: Arc<Heads>) -> Self {
        let last = [0; 4];
        Strict {
            stream,
            heads,
            last,
        }
    }

    /// Whether these bytes, which come next, are fine.
    fn look(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        if self.heads.expected.load(Ordering::Relaxed) {
            while let Some((&byte, after)) = rest.split_first() {
                if byte == b'\n' && self.last[3] != b'\r' {
                    return false;
                }
                self.last = [self.last[1], self.last[2], self.last[3], byte];
                rest = after;
                if self.last == END {
                    self.heads.expected.store(false, Ordering::Relaxed);
                    break;
                }
            }
        }
        // What follows is a body, or another request.
        let kept = rest.len().min(4);
        self.last.rotate_left(kept);
        self.last[4 - kept..].copy_from_slice(&rest[rest.len() - kept..]);
        self.heads.ended.store(self.last == END, Ordering::Relaxed);
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        match self.look(&buffer.filled()[before..]) {
            true => Poll::Ready(Ok(())),
            false => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line of a head ends with a bare line feed",
            ))),
        }
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
mod tests {
    use super::*;

    /// Whether all pieces are fine; after each, a request without a body is
    /// read where that is said.
    fn check(pieces: &[(&[u8], bool)]) -> bool {
        let heads = Arc::<Heads>::default();
        let mut strict = Strict::new((), Arc::clone(&heads));
        pieces.iter().all(|(bytes, bodyless)| {
            let fine = strict.look(bytes);
            if *bodyless {
                heads.request(true);
            }
            fine
        })
    }

    #[test]
    fn a_body_is_not_looked_at_when_its_head_came_with_the_one_before() {
        let heads = Arc::<Heads>::default();
        let mut strict = Strict::new((), Arc::clone(&heads));
        let both = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n\
                     POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n";
        assert!(strict.look(both));
        heads.request(true);
        heads.request(false);
        assert!(strict.look(b"a\nb\n"));
    }

    #[test]
    fn lines_of_a_head_end_with_both() {
        assert!(check(&[(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", true)]));
        assert!(!check(&[(b"GET / HTTP/1.1\nhost: x\n\n", false)]));
        assert!(!check(&[(
            b"GET / HTTP/1.1\r\na: b\nhost: x\r\n\r\n",
            false
        )]));
        // However they are cut.
        assert!(check(&[
            (b"GET / HTTP/1.1\r", false),
            (b"\nhost: x\r\n\r\n", true)
        ]));
        assert!(!check(&[
            (b"GET / HTTP/1.1", false),
            (b"\nhost: x\r\n\r\n", false)
        ]));
        // The next one too.
        let first: (&[u8], bool) = (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", true);
        assert!(!check(&[
            first,
            (b"GET / HTTP/1.1\nhost: x\r\n\r\n", false)
        ]));
        assert!(check(&[first, first, first]));
    }

    #[test]
    fn bodies_are_not_looked_at() {
        let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n";
        let whole = [head.as_slice(), b"a\nb\n"].concat();
        assert!(check(&[(&whole, false), (b"a\nb\n", false)]));
        assert!(check(&[(head, false), (b"a\nb\n", false)]));
        assert!(check(&[
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
            (b"\0\n\0", false)
        ]));
    }
}
