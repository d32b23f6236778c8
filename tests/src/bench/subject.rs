//! A server under load, and two of them compared.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::Plan;
use super::load::{Connection, Load, Requests, load};
use super::process;
use super::report::{Row, Target, Unit, quantile};

/// Connections at which servers are compared: few, where latency shows, and
/// many, where throughput does.
const CONNECTIONS: [usize; 2] = [16, 128];

/// Something that answers requests.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it is asked.
    pub requests: Requests,
    /// Its processes, whose CPU is counted.
    pub processes: Vec<u32>,
}

/// One turn of a subject under load.
#[derive(Debug)]
pub struct Turn {
    /// What its clients saw.
    pub load: Load,
    /// CPU that its processes used for each answer, in microseconds.
    pub cpu_microseconds: f64,
}

impl Subject {
    /// Puts the subject under load once.
    pub async fn run(&self, connections: usize, plan: &Plan) -> Result<Turn> {
        let before = process::cpu(&self.processes)?;
        let load = load(self.address, self.requests.clone(), connections, plan.time).await?;
        let used = process::cpu(&self.processes)?.saturating_sub(before);
        let answers = load.latencies.total();
        ensure!(answers > 0, "no answer came");
        ensure!(
            load.failures == 0,
            "{} requests to {} failed beside {answers} that did not",
            load.failures,
            self.address
        );
        Ok(Turn {
            load,
            cpu_microseconds: used.as_secs_f64() * 1e6 / answers as f64,
        })
    }

    /// The first request's answer: status, and body without its framing.
    async fn answer(&self) -> Result<(u16, Vec<u8>)> {
        let mut connection = Connection::open(self.address).await?;
        let answer = connection.exchange(&self.requests.bytes[0]).await?;
        let is_chunked = answer.header("transfer-encoding") == "chunked";
        let body = if is_chunked {
            dechunked(answer.body)
        } else {
            answer.body.to_vec()
        };
        Ok((answer.status, body))
    }
}

/// The content of a body that came in chunks.
fn dechunked(mut framed: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = framed.windows(2).position(|window| window == b"\r\n") {
        let size = str::from_utf8(&framed[..end]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        match size.and_then(|size| framed.get(end + 2..end + 2 + size)) {
            Some(chunk) if !chunk.is_empty() => {
                content.extend_from_slice(chunk);
                framed = framed.get(end + 4 + chunk.len()..).unwrap_or_default();
            }
            _ => break,
        }
    }
    content
}

/// Refuses to compare servers that do not answer the same.
pub async fn ensure_same_answer(ours: &Subject, theirs: &Subject) -> Result<()> {
    let (our_answer, their_answer) = (ours.answer().await?, theirs.answer().await?);
    ensure!(
        our_answer == their_answer,
        "the answers differ: {} {:?} and {} {:?}",
        our_answer.0,
        String::from_utf8_lossy(&our_answer.1),
        their_answer.0,
        String::from_utf8_lossy(&their_answer.1),
    );
    Ok(())
}

/// What a comparison is to show.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    /// Of the ratio of throughputs, at few connections and at many.
    pub throughput: [Target; 2],
    /// Of the ratio of 99th percentiles of latency.
    pub tail: Target,
}

/// Ratios of the first subject's figures to the second's, at each number of
/// connections: throughput with CPU beside it, and the tail of latency.
pub async fn compare(
    what: &str,
    ours: &Subject,
    theirs: &Subject,
    plan: &Plan,
    targets: Targets,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (connections, least) in CONNECTIONS.into_iter().zip(targets.throughput) {
        // Not counted: code is loaded, connections and pools are filled.
        ours.run(connections, plan).await?;
        theirs.run(connections, plan).await?;
        let mut turns = Vec::with_capacity(plan.repetitions);
        for repetition in 0..plan.repetitions {
            // Neither is always the one that comes after the other.
            turns.push(if repetition % 2 == 0 {
                let mine = ours.run(connections, plan).await?;
                (mine, theirs.run(connections, plan).await?)
            } else {
                let other = theirs.run(connections, plan).await?;
                (ours.run(connections, plan).await?, other)
            });
        }
        let pairs = |figure: fn(&Turn) -> f64| -> [Vec<f64>; 3] {
            let (mine, other): (Vec<f64>, Vec<f64>) =
                turns.iter().map(|(m, o)| (figure(m), figure(o))).unzip();
            let ratios = mine.iter().zip(&other).map(|(m, o)| m / o).collect();
            [ratios, mine, other]
        };
        let middle = |values: &[f64]| quantile(values, 0.5);

        let [throughput, mine, other] = pairs(|turn| turn.load.throughput());
        let [_, my_cpu, other_cpu] = pairs(|turn| turn.cpu_microseconds);
        let name = format!("{what}: throughput, {connections} connections");
        rows.push(
            Row::median(name, Unit::Ratio, &throughput, least).beside(format!(
                "{:.0}/s against {:.0}/s; CPU {:.1} us a request against {:.1}",
                middle(&mine),
                middle(&other),
                middle(&my_cpu),
                middle(&other_cpu)
            )),
        );
        let [tail, mine, other] =
            pairs(|turn| turn.load.latencies.quantile(0.99).as_secs_f64() * 1e3);
        let name = format!("{what}: p99, {connections} connections");
        rows.push(
            Row::median(name, Unit::Ratio, &tail, targets.tail).beside(format!(
                "{:.2} ms against {:.2} ms",
                middle(&mine),
                middle(&other)
            )),
        );
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(dechunked(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), b"abcde");
        assert_eq!(dechunked(b"0\r\n\r\n"), b"");
        assert_eq!(dechunked(b"9\r\nshort"), b"");
    }
}
