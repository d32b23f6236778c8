//! HTTP as the tests speak it: a connection per request, HTTP/1.1 or HTTP/2,
//! bodies whole or piece by piece, and raw bytes where a client misbehaves.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::within;

/// Pieces of a body that a test may be ahead of the connection.
const PIECES_AHEAD: usize = 16;

/// A request body: whole, fed by the test, or with trailers.
type Body = Either<Full<Bytes>, Either<Fed, UnsyncBoxBody<Bytes, Infallible>>>;

/// A body that a test feeds piece by piece; it ends when the feeder is dropped.
#[derive(Debug)]
pub struct Fed(mpsc::Receiver<Bytes>);

/// The test's end of a [`Fed`] body.
pub type Feeder = mpsc::Sender<Bytes>;

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// An answer, held whole.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What came behind it.
    pub trailers: HeaderMap,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {}", self.status, self.text()))
    }

    /// A header's value, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| {
            value.to_str().expect("tests use visible header values")
        })
    }

    /// The id under which an accepted call's result is kept: the end of its
    /// `Location`.
    pub fn receipt(&self) -> &str {
        let end = self.header("location").rsplit('/').next();
        end.unwrap_or_default()
    }

    /// Panics unless the status is this one; says what came instead.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Reply {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }

    /// Panics unless this is a refusal of Weir's own making: this status, a
    /// word in `X-Weir-Error`, and a body of plain text that says why.
    #[track_caller]
    pub fn expect_error(self, status: u16) -> Reply {
        let reply = self.expect_status(status);
        assert!(
            !reply.header("x-weir-error").is_empty(),
            "no X-Weir-Error: {:?}",
            reply.headers
        );
        assert!(
            reply.header("content-type").starts_with("text/plain"),
            "{:?}",
            reply.headers
        );
        assert!(!reply.text().trim().is_empty(), "an error without a reason");
        reply
    }
}

/// A request being put together.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Ask {
    address: SocketAddr,
    request: http::request::Builder,
    body: Body,
    version: Version,
    /// Whether the test named a Host of its own.
    host: bool,
}

impl Ask {
    /// A request of this method for this path on this address.
    pub fn new(address: SocketAddr, method: &str, path: &str) -> Ask {
        let method = Method::from_bytes(method.as_bytes()).expect("tests name valid methods");
        Ask {
            address,
            request: Request::builder().method(method).uri(path),
            body: Either::Left(Full::default()),
            version: Version::HTTP_11,
            host: false,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Ask {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("tests name valid headers");
        self.host |= name == http::header::HOST;
        let value =
            HeaderValue::from_bytes(value.as_bytes()).expect("tests send valid header values");
        self.request = self.request.header(name, value);
        self
    }

    /// Adds a bearer token.
    pub fn bearer(self, token: &str) -> Ask {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Gives the whole body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Ask {
        self.body = Either::Left(Full::new(body.into()));
        self
    }

    /// Gives a JSON body.
    pub fn json(self, body: &serde_json::Value) -> Ask {
        let text = body.to_string();
        self.header("content-type", "application/json").body(text)
    }

    /// Gives a body that the caller feeds while the request runs.
    pub fn fed(mut self) -> (Ask, Feeder) {
        let (feeder, pieces) = mpsc::channel(PIECES_AHEAD);
        self.body = Either::Right(Either::Left(Fed(pieces)));
        (self, feeder)
    }

    /// Gives the whole body, and a trailer.
    pub fn trailed(mut self, body: impl Into<Bytes>, name: &'static str, value: &str) -> Ask {
        let value = HeaderValue::from_str(value).expect("tests send valid trailers");
        let trailers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
        let frames = [Frame::data(body.into()), Frame::trailers(trailers)].map(Ok);
        let body = StreamBody::new(futures_util::stream::iter(frames));
        self.body = Either::Right(Either::Right(body.boxed_unsync()));
        self.header("trailer", name)
    }

    /// Speaks HTTP/2, with prior knowledge.
    pub fn http2(mut self) -> Ask {
        self.version = Version::HTTP_2;
        self
    }

    /// Sends the request and hands over the answer while its body still comes.
    /// Dropping the answer closes the connection.
    pub async fn open(self) -> anyhow::Result<Response<Incoming>> {
        let stream = within("a connection to the node", TcpStream::connect(self.address)).await?;
        stream
            .set_nodelay(true)
            .expect("a fresh socket takes options");
        let stream = TokioIo::new(stream);
        let mut request = self.request;
        if self.version == Version::HTTP_2 {
            let path = request.uri_ref().expect("a path was given").to_string();
            request = request.uri(format!("http://{}{path}", self.address));
            let request = request.body(self.body).expect("the parts were valid");
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            return Ok(sender.send_request(request).await?);
        }
        if !self.host {
            request = request.header("host", self.address.to_string());
        }
        let request = request.body(self.body).expect("the parts were valid");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }

    /// Sends the request and waits for the whole answer, or how it broke: nothing
    /// listened, or the connection ended too early.
    pub async fn try_send(self) -> anyhow::Result<Reply> {
        within("an answer", async {
            let (head, body) = self.open().await?.into_parts();
            let body = body.collect().await?;
            Ok(Reply {
                status: head.status.as_u16(),
                headers: head.headers,
                trailers: body.trailers().cloned().unwrap_or_default(),
                body: body.to_bytes(),
            })
        })
        .await
    }

    /// Sends the request and waits for the whole answer; panics if it breaks.
    pub async fn send(self) -> Reply {
        let what = format!(
            "{:?} {:?}",
            self.request.method_ref(),
            self.request.uri_ref()
        );
        match self.try_send().await {
            Ok(reply) => reply,
            Err(error) => panic!("{what} was not answered: {error:?}"),
        }
    }
}

/// Reads an open answer's body until it holds `text`, and returns all that came.
pub async fn read_until(body: &mut Incoming, text: &str) -> String {
    let mut seen = Vec::new();
    within(text, async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            match body.frame().await {
                Some(Ok(frame)) => {
                    seen.extend_from_slice(frame.data_ref().map_or(&[], |data| data))
                }
                end => panic!(
                    "the body ended ({end:?}) before `{text}`: {}",
                    String::from_utf8_lossy(&seen)
                ),
            }
        }
    })
    .await;
    String::from_utf8_lossy(&seen).into_owned()
}

/// Sends these bytes as they are and returns whatever comes back until the
/// other side closes.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the node listens");
    // The node may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

/// Reads a raw connection to its end.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    within("the node closes the connection", async {
        // A reset after the answer is as good an end as any.
        let _ = stream.read_to_end(&mut answer).await;
    })
    .await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status in a raw answer's first line; 0 when the node only closed.
pub fn raw_status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}
