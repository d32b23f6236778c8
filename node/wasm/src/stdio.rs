//! A guest's standard input, output and error.

use crate::exchange::Exchange;
use crate::{Body, LogSink};
use bytes::Bytes;
use http_body_util::BodyExt;
use std::future::poll_fn;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// The request's body as standard input, read as the guest reads.
pub(crate) struct Stdin(Mutex<Option<BodyReader>>);

impl Stdin {
    pub(crate) fn new(body: Body, exchange: Arc<Exchange>) -> Stdin {
        Stdin(Mutex::new(Some(BodyReader {
            body: Some(body),
            buffer: Bytes::new(),
            failed: false,
            exchange,
        })))
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        // WASI 0.3 asks for this; its interfaces are not linked.
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        let reader = self.0.lock().take();
        match reader {
            Some(reader) => Box::new(reader),
            // Opened a second time: whoever came first has it.
            None => Box::new(wasmtime_wasi::p2::pipe::ClosedInputStream),
        }
    }
}

struct BodyReader {
    body: Option<Body>,
    buffer: Bytes,
    failed: bool,
    exchange: Arc<Exchange>,
}

impl BodyReader {
    /// Waits until the buffer holds something or the body has ended.
    async fn fill(&mut self) {
        while self.buffer.is_empty() {
            let Some(body) = &mut self.body else { return };
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer = data;
                    }
                }
                Some(Err(error)) => {
                    self.exchange.set_body_error(error);
                    self.failed = true;
                    self.body = None;
                }
                None => self.body = None,
            }
        }
    }

    fn take(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.buffer.is_empty() && self.body.is_none() {
            // A guest must not take half a request for a whole one.
            return Err(if self.failed {
                StreamError::trap("the request's body broke off")
            } else {
                StreamError::Closed
            });
        }
        Ok(self.buffer.split_to(size.min(self.buffer.len())))
    }
}

#[async_trait]
impl Pollable for BodyReader {
    async fn ready(&mut self) {
        self.fill().await;
    }
}

#[async_trait]
impl InputStream for BodyReader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if self.buffer.is_empty() {
            let mut fill = std::pin::pin!(self.fill());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            // Pending leaves the buffer empty: nothing there yet.
            let _ = fill.as_mut().poll(&mut context);
        }
        self.take(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.fill().await;
        self.take(size)
    }
}

/// Standard output, the answer.
#[derive(Clone)]
pub(crate) struct Stdout(pub(crate) Arc<Exchange>);

impl IsTerminal for Stdout {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdout {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Stdout {
    async fn ready(&mut self) {
        poll_fn(|context| self.0.poll_room(context)).await;
    }
}

#[async_trait]
impl OutputStream for Stdout {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0
            .write(&bytes)
            .map_err(|error| StreamError::Trap(wasmtime::Error::new(error)))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.0.room())
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        // Writes come in pieces of a few kilobytes; one above the mark is
        // cheaper than cutting it in two.
        self.write(bytes)?;
        self.ready().await;
        Ok(())
    }
}

/// Standard error (and a component's standard output): the function's log.
#[derive(Clone)]
pub(crate) struct Log(pub(crate) Arc<dyn LogSink>);

/// Bytes that a guest may hand to its log at once.
const LOG_CHUNK: usize = 64 << 10;

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LOG_CHUNK)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write(bytes)
    }
}
