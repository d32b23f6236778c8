//! An HTTP/1.1 connection to an instance, driven by whoever uses it.
//!
//! There is no task behind a connection: the future that waits for an answer
//! moves the bytes itself. A call therefore costs no hand-over between tasks,
//! and when it runs on another runtime than the call before, the socket moves
//! there with it ([`Wire`]).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper::rt::ReadBufCursor;
use hyper_util::rt::TokioIo;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime;

use crate::resting::Connection;
use crate::{Body, BodyError};

/// Largest header block of an answer, in bytes.
const HEADER_BYTES: usize = 64 << 10;

/// Answers up to this many bytes are read whole, so that their call ends
/// before its caller has read them.
const WHOLE_BYTES: u64 = 64 << 10;

/// A stream to an instance.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Dialled by our own runtimes.
    Unix(UnixStream),
    /// Inside the network namespace of a container.
    Tcp(TcpStream),
}

impl Stream {
    /// The same socket under another descriptor, to look at.
    fn window(&self) -> io::Result<OwnedFd> {
        match self {
            Stream::Unix(stream) => stream.as_fd().try_clone_to_owned(),
            Stream::Tcp(stream) => stream.as_fd().try_clone_to_owned(),
        }
    }

    fn moved(self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Unix(stream) => Stream::Unix(UnixStream::from_std(stream.into_std()?)?),
            Stream::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream.into_std()?)?),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// A stream that waits on the runtime that uses it. The door has one runtime
/// per core; were a socket left with the one that opened it, every answer
/// would wake a foreign thread first.
struct Wire {
    /// `None` only after a move that failed.
    stream: Option<TokioIo<Stream>>,
    home: runtime::Id,
}

impl Wire {
    fn here(&mut self) -> io::Result<Pin<&mut TokioIo<Stream>>> {
        let here = runtime::Handle::current().id();
        if self.home != here
            && let Some(stream) = self.stream.take()
        {
            self.stream = Some(TokioIo::new(stream.into_inner().moved()?));
            self.home = here;
        }
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        Ok(Pin::new(self.stream.as_mut().ok_or_else(gone)?))
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().here()?.poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().here()?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().here()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().here()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().here()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// A request's body, with an error that can be told from the connection's own.
struct Outgoing(Body);

/// A caller's body broke off.
#[derive(Debug, thiserror::Error)]
#[error("the request body ended early: {0}")]
struct OutgoingError(BodyError);

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = OutgoingError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OutgoingError>>> {
        let polled = Pin::new(&mut self.get_mut().0).poll_frame(cx);
        polled.map(|frame| frame.map(|frame| frame.map_err(OutgoingError)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A connection on which no call is under way, or one.
pub(crate) struct Link {
    sender: http1::SendRequest<Outgoing>,
    /// `None` once it has ended. Only when it is dropped are requests handed
    /// back that it had not begun to send.
    connection: Option<BoxFuture<'static, hyper::Result<()>>>,
    /// The connection's socket. What happened to it while nobody used it is
    /// seen here before a call is written to it.
    window: OwnedFd,
}

/// How an exchange ended without an answer.
pub(crate) enum Broken {
    /// Nothing was sent; here is the request, if it can be had.
    Unsent(hyper::Error, Option<Box<Request<Body>>>),
    /// The caller's own body broke off, when the other side may have read some.
    Body(String),
    /// It may have been read by the other side.
    Sent(hyper::Error),
}

fn broken(mut error: TrySendError<Request<Outgoing>>) -> Broken {
    let unsent = error.take_message();
    let error = error.into_error();
    if let Some(request) = unsent {
        return Broken::Unsent(error, Some(Box::new(request.map(|body| body.0))));
    }
    let source = std::error::Error::source(&error);
    match source.and_then(|source| source.downcast_ref::<OutgoingError>()) {
        Some(body) => Broken::Body(body.0.to_string()),
        None => Broken::Sent(error),
    }
}

impl Connection for Link {
    fn is_open(&self) -> bool {
        self.connection.is_some() && !self.sender.is_closed()
    }

    fn is_usable(&self) -> bool {
        if !self.is_open() {
            return false;
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = rustix::net::recv(&self.window, &mut [0_u8], flags);
        matches!(seen, Err(rustix::io::Errno::AGAIN))
    }
}

impl Link {
    /// Begins HTTP on a stream; says nothing yet.
    pub(crate) async fn open(stream: Stream) -> io::Result<Link> {
        let window = stream.window()?;
        let wire = Wire {
            stream: Some(TokioIo::new(stream)),
            home: runtime::Handle::current().id(),
        };
        let opened = http1::Builder::new()
            .max_buf_size(2 * HEADER_BYTES)
            .handshake(wire)
            .await;
        let (sender, connection) = opened.map_err(io::Error::other)?;
        Ok(Link {
            sender,
            connection: Some(Box::pin(connection.with_upgrades())),
            window,
        })
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Broken> {
        let Link {
            sender, connection, ..
        } = self;
        let mut answer = std::pin::pin!(sender.try_send_request(request.map(Outgoing)));
        let answered = std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
                    return Poll::Ready(answered);
                }
                let Some(open) = connection else {
                    return Poll::Pending;
                };
                match open.as_mut().poll(cx) {
                    Poll::Ready(_) => *connection = None,
                    Poll::Pending => return answer.as_mut().poll(cx),
                }
            }
        });
        answered.await.map_err(broken)
    }

    /// Follows an answer that takes the connection for another protocol until
    /// it is let go.
    pub(crate) async fn give_away(mut self) {
        std::future::poll_fn(|cx| self.poll_drive(cx)).await;
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(());
        };
        let _ = ready!(connection.as_mut().poll(cx));
        self.connection = None;
        Poll::Ready(())
    }

    /// Brings the connection to rest after an answer; `false` when it cannot
    /// take another call.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.poll_drive(cx).is_ready() {
            return Poll::Ready(false);
        }
        match ready!(self.sender.poll_ready(cx)) {
            Ok(()) => Poll::Ready(true),
            Err(_) => Poll::Ready(false),
        }
    }
}

/// Whoever gets a connection back after its answer was read.
pub(crate) trait Rest: Send + Unpin + 'static {
    /// The answer was read to its end. `link` is `None` when it takes no more calls.
    fn ended(self: Box<Self>, link: Option<Link>);
    /// The answer broke: the connection is of no more use. Its body's error.
    fn broken(&self, error: hyper::Error) -> BodyError;
}

/// A body whose connection is driven as it is read.
pub(crate) struct Driven {
    incoming: Incoming,
    link: Option<Link>,
    rest: Option<Box<dyn Rest>>,
    ended: bool,
}

impl Driven {
    pub(crate) fn new(incoming: Incoming, link: Link, rest: Box<dyn Rest>) -> Driven {
        Driven {
            incoming,
            link: Some(link),
            rest: Some(rest),
            ended: false,
        }
    }

    /// The connection of an answer without a body.
    pub(crate) fn into_link(mut self) -> Option<Link> {
        self.link.take()
    }

    /// Whether it is short enough to be read whole.
    pub(crate) fn is_short(&self) -> bool {
        self.incoming
            .size_hint()
            .exact()
            .is_some_and(|bytes| bytes <= WHOLE_BYTES)
    }

    /// All of it, which is short. Most such bodies come in one piece, which is
    /// not copied.
    pub(crate) async fn whole(mut self) -> Result<Bytes, BodyError> {
        let mut first = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(piece) = frame?.into_data() else {
                continue;
            };
            match first.is_empty() {
                true => first = piece,
                false => more.extend_from_slice(&piece),
            }
        }
        if more.is_empty() {
            return Ok(first);
        }
        Ok([first, more.freeze()].concat().into())
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(link) = &mut self.link {
            let usable = ready!(link.poll_rest(cx));
            let link = self.link.take().filter(|_| usable);
            if let Some(rest) = self.rest.take() {
                rest.ended(link);
            }
        }
        Poll::Ready(())
    }
}

impl http_body::Body for Driven {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                ready!(this.poll_end(cx));
                return Poll::Ready(None);
            }
            let mut polled = Pin::new(&mut this.incoming).poll_frame(cx);
            if polled.is_pending()
                && let Some(link) = &mut this.link
            {
                let _ = link.poll_drive(cx);
                polled = Pin::new(&mut this.incoming).poll_frame(cx);
            }
            match ready!(polled) {
                Some(Ok(frame)) => {
                    // The caller may stop once it has all that was announced.
                    if this.incoming.is_end_stream() {
                        this.ended = true;
                        let _ = this.poll_end(cx);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(error)) => {
                    this.link = None;
                    let rest = this.rest.take();
                    return Poll::Ready(Some(Err(match rest {
                        Some(rest) => rest.broken(error),
                        None => error.into(),
                    })));
                }
                None => this.ended = true,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.link.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
