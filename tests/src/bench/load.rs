//! A load generator that costs little beside what it measures: keep-alive
//! HTTP/1.1 connections, a request at a time each, no parsing beyond the status
//! and the length of the body, all on one thread, which wakes no other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::histogram::Histogram;

/// Largest answer, head and body, that a connection reads.
const ANSWER_BYTES: usize = (1 << 20) + (16 << 10);

/// Answers that failed before a run is given up: a server that refuses
/// everything is no figure.
const MAX_FAILURES: u64 = 1_000;

/// Requests to be sent again and again, in turn, and the status that each is to
/// be answered with.
#[derive(Debug, Clone)]
pub struct Requests {
    /// Whole requests as they go over the wire; at least one.
    pub bytes: Arc<[Arc<[u8]>]>,
    /// The status of every answer; 0 where any will do.
    pub status: u16,
}

impl Requests {
    /// One request for ever.
    pub fn one(path: &str, body: &str, status: u16) -> Requests {
        Requests {
            bytes: [post(path, body)].into(),
            status,
        }
    }

    /// One empty request for ever, however it is answered.
    pub fn any(path: &str) -> Requests {
        Requests::one(path, "", 0)
    }
}

/// The bytes of a POST of this body to this path.
pub fn post(path: &str, body: &str) -> Arc<[u8]> {
    post_with(path, &[], body)
}

/// The same with these headers.
pub fn post_with(path: &str, headers: &[(&str, &str)], body: &str) -> Arc<[u8]> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n");
    let headers = headers.iter();
    let headers: String = headers.map(|(k, v)| format!("{k}: {v}\r\n")).collect();
    format!("{head}{headers}\r\n{body}").into_bytes().into()
}

/// What one run saw.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Answers of another status, and broken connections.
    pub failures: u64,
    /// From the first request to the last answer.
    pub took: Duration,
    /// Of the answers with the expected status.
    pub latencies: Histogram,
}

impl Load {
    /// Answers in a second.
    pub fn throughput(&self) -> f64 {
        self.latencies.total() as f64 / self.took.as_secs_f64()
    }
}

/// Sends requests from this many connections for this long.
pub async fn load(
    address: SocketAddr,
    requests: Requests,
    connections: usize,
    time: Duration,
) -> Result<Load> {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(run(address, requests, connections, time))
    };
    tokio::task::spawn_blocking(work).await?
}

async fn run(
    address: SocketAddr,
    requests: Requests,
    connections: usize,
    time: Duration,
) -> Result<Load> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(address).await?);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for connection in open {
        tasks.spawn(repeat(
            connection,
            requests.clone(),
            Arc::clone(&next),
            start + time,
        ));
    }
    let mut load = Load::default();
    while let Some(done) = tasks.join_next().await {
        let (latencies, failures) = done??;
        load.latencies.merge(&latencies);
        load.failures += failures;
    }
    load.took = start.elapsed();
    Ok(load)
}

async fn repeat(
    mut connection: Connection,
    requests: Requests,
    next: Arc<AtomicUsize>,
    end: Instant,
) -> Result<(Histogram, u64)> {
    let (mut latencies, mut failures) = (Histogram::default(), 0);
    let mut sent = Instant::now();
    while sent < end {
        let turn = next.fetch_add(1, Ordering::Relaxed) % requests.bytes.len();
        let answer = connection.exchange(&requests.bytes[turn]).await;
        let now = Instant::now();
        match answer {
            Ok(answer) if requests.status == 0 || answer.status == requests.status => {
                latencies.record(now - sent)
            }
            Ok(_) => failures += 1,
            Err(_) => {
                failures += 1;
                connection = Connection::open(connection.address).await?;
            }
        }
        ensure!(failures < MAX_FAILURES, "{failures} requests failed");
        sent = now;
    }
    Ok((latencies, failures))
}

/// A kept connection to a server.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Box<[u8]>,
}

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    head: &'a [u8],
    /// The body as it came, chunk sizes and all.
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// A header's value, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        headers(self.head)
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map_or("", |(_, value)| str::from_utf8(value).unwrap_or_default())
    }
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            address,
            stream,
            buffer: vec![0; ANSWER_BYTES].into(),
        })
    }

    /// Sends one request and reads its whole answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        while whole(&self.buffer[..filled])?.is_none() {
            ensure!(
                filled < ANSWER_BYTES,
                "an answer is longer than {ANSWER_BYTES} bytes"
            );
            let length = self.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(length > 0, "the connection ended within an answer");
            filled += length;
        }
        whole(&self.buffer[..filled])?.context("an answer that was whole stays so")
    }
}

/// The answer in these bytes, once it has come whole.
fn whole(bytes: &[u8]) -> Result<Option<Answer<'_>>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let (head, body) = (&bytes[..end], &bytes[end + 4..]);
    let status = head
        .get(9..12)
        .context("an answer begins with its status")?;
    let status = str::from_utf8(status)?.parse()?;
    let mut is_whole = true;
    for (name, value) in headers(head) {
        if name.eq_ignore_ascii_case(b"content-length") {
            is_whole = body.len() >= str::from_utf8(value)?.parse()?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // The last chunk follows a line end: its predecessor's or the head's.
            is_whole = bytes[end + 2..].ends_with(b"\r\n0\r\n\r\n");
        }
    }
    Ok(is_whole.then_some(Answer { status, head, body }))
}

fn headers(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &str, seen: Option<u16>) {
        let answer = whole(bytes.as_bytes()).expect("a well-formed answer");
        assert_eq!(answer.map(|answer| answer.status), seen, "{bytes:?}");
    }

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before() {
        check("HTTP/1.1 200 OK\r\ncontent-len", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", Some(200));
    }

    #[test]
    fn a_chunked_answer_is_whole_with_its_last_chunk() {
        let head = "HTTP/1.1 502 Bad Gateway\r\ntransfer-encoding: chunked\r\n\r\n";
        check(&format!("{head}2\r\nab\r\n"), None);
        check(&format!("{head}2\r\nab\r\n0\r\n\r\n"), Some(502));
        check(&format!("{head}0\r\n\r\n"), Some(502));
        check(&format!("{head}10\r\n\r\n"), None);
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let bytes = b"HTTP/1.1 202 Accepted\r\nServer-Timing: start;dur=0.1\r\n\r\n";
        let answer = whole(bytes).expect("it is well-formed").expect("and whole");
        assert_eq!(answer.header("server-timing"), "start;dur=0.1");
        assert_eq!(answer.header("location"), "");
    }
}
