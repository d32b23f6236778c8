//! Says why, where the HTTP parser itself refuses a head: its answers have a
//! status and nothing else, and cannot be changed where they are made. And
//! refuses over HTTP/2 what it refuses over HTTP/1.1 alone.
//!
//! Such an answer is told from a function's by when it is written: no request
//! has begun since all that was written before went out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{COOKIE, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Limits;
use super::activity::Activity;
use super::reply::Reply;

/// The word for a head beyond its bounds.
const HEADER_TOO_LARGE: &str = "header-too-large";

/// Bounds of a request's head.
#[derive(Debug, Clone, Copy)]
pub struct HeadBounds {
    /// Most bytes.
    bytes: usize,
    /// Most headers.
    count: usize,
}

impl HeadBounds {
    /// Those among `limits`.
    pub fn of(limits: &Limits) -> Self {
        HeadBounds {
            bytes: limits.header_bytes,
            count: limits.header_count,
        }
    }

    fn why(self) -> String {
        let HeadBounds { bytes, count } = self;
        format!(
            "the request's headers are more than {bytes} bytes (http.header-bytes) or than {count} \
             (http.header-count)"
        )
    }

    /// The refusal of a request with too many headers, for HTTP/2, whose parser
    /// does not count them. They are counted as HTTP/1.1 would send them: with
    /// the host, and with one field for all cookies.
    pub fn refuse<T>(self, request: &Request<T>) -> Option<Response<Reply>> {
        let headers = request.headers();
        if headers.len() < self.count {
            return None;
        }
        let cookies = headers.get_all(COOKIE).iter().count();
        let host = request.uri().authority().is_some() && !headers.contains_key(HOST);
        let count = headers.len() - cookies.saturating_sub(1) + usize::from(host);
        (count > self.count).then(|| {
            let mut response = Response::new(Reply::from(self.why() + "\n"));
            *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            for (name, value) in [
                ("content-type", "text/plain; charset=utf-8"),
                ("x-weir-error", HEADER_TOO_LARGE),
                ("x-openfaas-internal", "weir"),
            ] {
                let value = HeaderValue::from_static(value);
                response.headers_mut().insert(name, value);
            }
            response
        })
    }
}

/// A stream on which the parser's refusals say why.
pub struct Explained<S> {
    stream: S,
    activity: Arc<Activity>,
    /// The requests that had begun when all that was written was out and nothing
    /// ran; `None` once something was written since.
    at_rest: Option<u32>,
    /// What is still to be written of an answer of ours.
    pending: Vec<u8>,
    bounds: HeadBounds,
}

impl<S> Explained<S> {
    /// Explains what is refused on `stream`, whose requests `activity` knows.
    pub fn new(stream: S, activity: Arc<Activity>, bounds: HeadBounds) -> Self {
        Explained {
            stream,
            activity,
            at_rest: Some(0),
            pending: Vec::new(),
            bounds,
        }
    }

    /// What is said instead of `bytes`, if they are a refusal of the parser's.
    fn explained(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.at_rest != Some(self.activity.begun()) || !bytes.starts_with(b"HTTP/1.") {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let (line, rest) = text.split_once("\r\n")?;
        // It is a head alone.
        rest.strip_suffix("\r\n")
            .filter(|rest| !rest.contains("\r\n\r\n"))?;
        let (word, why) = match line.split(' ').nth(1)? {
            "431" => (HEADER_TOO_LARGE, self.bounds.why()),
            "414" => ("path-too-long", "the request's path is too long".to_owned()),
            status if status.starts_with('4') => (
                "bad-request",
                "this is no HTTP request: its first line or one of its headers cannot be read, or \
                 does not end with CR LF"
                    .to_owned(),
            ),
            _ => return None,
        };
        Some(answer(line, word, &why))
    }
}

/// An answer after which the connection ends, as bytes.
pub fn answer(status_line: &str, word: &str, why: &str) -> Vec<u8> {
    let length = why.len() + 1;
    format!(
        "{status_line}\r\ncontent-type: text/plain; charset=utf-8\r\nx-weir-error: {word}\r\n\
         x-openfaas-internal: weir\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{why}\n"
    )
    .into_bytes()
}

impl<S: AsyncWrite + Unpin> Explained<S> {
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Explained<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Explained<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(own) = self.explained(bytes) {
            self.pending = own;
            self.at_rest = None;
            // The rest is written when it is flushed.
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_pending(context))?;
        self.at_rest = None;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.at_rest.is_some()
            && let Some(first) = slices.iter().find(|slice| !slice.is_empty())
            && first.starts_with(b"HTTP/1.")
            && slices.iter().filter(|slice| !slice.is_empty()).count() == 1
        {
            return self.poll_write(context, first);
        }
        ready!(self.poll_pending(context))?;
        self.at_rest = None;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(context))?;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.at_rest = self.activity.is_idle().then(|| self.activity.begun());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
