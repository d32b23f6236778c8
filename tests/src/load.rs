//! A load generator that costs little beside what it measures: keep-alive
//! HTTP/1.1 connections, one task each, a request at a time, no parsing beyond
//! the status and the length of the body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Largest answer head and body that the generator reads.
const ANSWER_BYTES: usize = 256 * 1024;

/// What one run saw.
#[derive(Debug, Clone)]
pub struct Load {
    /// Answers of the expected status.
    pub answers: u64,
    /// Answers of any other status, and broken connections.
    pub failures: u64,
    /// From the first request to the last answer.
    pub took: Duration,
    /// One per answer, in order of length.
    latencies: Vec<Duration>,
}

impl Load {
    /// Answers in a second.
    pub fn throughput(&self) -> f64 {
        self.answers as f64 / self.took.as_secs_f64()
    }

    /// The latency that this share of answers did not exceed, in seconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let place = (self.latencies.len() as f64 * share) as usize;
        let place = place.min(self.latencies.len().saturating_sub(1));
        self.latencies
            .get(place)
            .map_or(f64::NAN, Duration::as_secs_f64)
    }
}

/// The bytes of a request with this method, path and body.
pub fn request(method: &str, path: &str, body: &str) -> Arc<[u8]> {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
    (head + body).into_bytes().into()
}

/// Sends `requests` in turn from `connections` connections for `time`, and
/// expects `status` for each.
pub async fn load(
    address: SocketAddr,
    requests: Arc<[Arc<[u8]>]>,
    connections: usize,
    time: Duration,
    status: u16,
) -> Result<Load> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut failures = 0;
            let mut buffer = vec![0; ANSWER_BYTES];
            while start.elapsed() < time {
                let request = &requests[next.fetch_add(1, Ordering::Relaxed) % requests.len()];
                let sent = Instant::now();
                match exchange(&mut stream, request, &mut buffer).await {
                    Ok(seen) if seen == status => latencies.push(sent.elapsed()),
                    Ok(_) => failures += 1,
                    Err(_) => {
                        failures += 1;
                        match TcpStream::connect(address).await {
                            Ok(fresh) => stream = fresh,
                            Err(_) => break,
                        }
                    }
                }
            }
            (latencies, failures)
        });
    }
    let mut load = Load {
        answers: 0,
        failures: 0,
        took: Duration::ZERO,
        latencies: Vec::new(),
    };
    while let Some(done) = tasks.join_next().await {
        let (latencies, failures) = done?;
        load.latencies.extend(latencies);
        load.failures += failures;
    }
    load.took = start.elapsed();
    load.answers = load.latencies.len() as u64;
    load.latencies.sort_unstable();
    Ok(load)
}

/// Sends one request and reads its whole answer; returns the status.
pub async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> Result<u16> {
    stream.write_all(request).await?;
    let mut filled = 0;
    loop {
        let length = stream.read(&mut buffer[filled..]).await?;
        if length == 0 {
            bail!(
                "the connection ended in an answer, or the answer is longer than {ANSWER_BYTES} bytes"
            );
        }
        filled += length;
        if let Some(status) = whole(&buffer[..filled])? {
            return Ok(status);
        }
    }
}

/// The status of an answer that has come whole.
fn whole(answer: &[u8]) -> Result<Option<u16>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end])?;
    let status = head
        .get(9..12)
        .context("an answer begins with a status line")?
        .parse()?;
    let body = &answer[end + 4..];
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok((body.len() >= value.trim().parse::<usize>()?).then_some(status));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(body.ends_with(b"0\r\n\r\n").then_some(status));
        }
    }
    Ok(Some(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, seen: Option<u16>) {
        assert_eq!(
            whole(answer.as_bytes()).expect("a well-formed answer"),
            seen,
            "{answer:?}"
        );
    }

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before() {
        check("HTTP/1.1 200 OK\r\ncontent-len", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", Some(200));
        check(
            "HTTP/1.1 502 Bad Gateway\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
            None,
        );
        check(
            "HTTP/1.1 502 Bad Gateway\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            Some(502),
        );
    }

    #[test]
    fn quantiles_are_taken_from_sorted_latencies() {
        let latencies = (1..=100).map(Duration::from_millis).collect();
        let load = Load {
            answers: 100,
            failures: 0,
            took: Duration::from_secs(2),
            latencies,
        };
        assert_eq!((load.quantile(0.5), load.quantile(0.99)), (0.051, 0.1));
        assert_eq!(load.throughput(), 50.0);
    }
}
