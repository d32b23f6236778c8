//! A guest that never ends: how soon it is stopped, and what its neighbour
//! notices of it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bench::Bench;
use crate::bench::load::{Connection, Requests, load, post};
use crate::bench::peers::GREETING;
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::bench::subject::Subject;
use crate::node::{Function, Node};

use super::throughput::subject;

/// The timeout of the runaway and of the busy function alike.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Connections of the neighbour.
const NEIGHBOURS: usize = 16;

/// How long a runaway may go on: a tenth beyond its timeout, and 10 ms.
const LIMIT: Duration = Duration::from_millis(TIMEOUT.as_millis() as u64 * 11 / 10 + 10);

pub(super) async fn runaway(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let node = Node::start().await;
    for (name, guest) in [("runaway", "loop"), ("busy", "work")] {
        let timeout = format!("{}ms", TIMEOUT.as_millis());
        node.deploy(Function::new(name, guest).timeout(&timeout).cpu("1"))
            .await;
    }
    node.deploy(Function::new("neighbour", "echo")).await;
    let neighbour = subject(&node, "/function/neighbour", GREETING)?;
    let busy = post("/function/busy", &rounds(&node).await?.to_string());
    let busy = Requests {
        bytes: [busy].into(),
        status: 200,
    };
    let runaway = Requests::one("/function/runaway", "", 504);

    let mut stopped = Vec::new();
    let mut connection = Connection::open(node.address).await?;
    for _ in 0..bench.plan.repetitions {
        let start = Instant::now();
        let status = connection.exchange(&runaway.bytes[0]).await?.status;
        ensure!(status == 504, "the runaway was answered {status}");
        stopped.push(start.elapsed().as_secs_f64() * 1e3);
    }

    let [mut ratios, mut beside_runaway, mut beside_busy] = [const { Vec::new() }; 3];
    for _ in 0..bench.plan.repetitions {
        let wild = tail(&neighbour, &runaway, &bench).await?;
        let tame = tail(&neighbour, &busy, &bench).await?;
        ratios.push(wild / tame);
        beside_runaway.push(wild);
        beside_busy.push(tame);
    }
    let limit = Target::AtMost(LIMIT.as_secs_f64() * 1e3);
    let worst = Row::single(
        format!("a runaway of {TIMEOUT:?} is stopped after, at worst"),
        Unit::Milliseconds,
        quantile(&stopped, 1.0),
        limit,
    );
    let tails = Row::median(
        "neighbour's p99 beside a runaway / beside a busy function",
        Unit::Ratio,
        &ratios,
        Target::AtMost(1.5),
    );
    Ok(vec![
        worst.beside(format!("median {:.1} ms", quantile(&stopped, 0.5))),
        tails.beside(format!(
            "{:.2} ms against {:.2} ms",
            quantile(&beside_runaway, 0.5),
            quantile(&beside_busy, 0.5)
        )),
    ])
}

/// Rounds of work that take about a tenth of the timeout when nothing else
/// runs, so that they end in time too when everybody wants the cores.
async fn rounds(node: &Node) -> Result<u64> {
    let mut rounds = 1_000;
    let mut connection = Connection::open(node.address).await?;
    loop {
        let request = post("/function/busy", &rounds.to_string());
        let start = Instant::now();
        let status = connection.exchange(&request).await?.status;
        ensure!(
            status == 200,
            "{rounds} rounds of work were answered {status}"
        );
        if start.elapsed() > TIMEOUT / 20 {
            return Ok(rounds * 2);
        }
        rounds *= 2;
    }
}

/// The neighbour's 99th percentile in milliseconds while these other requests
/// are always under way.
async fn tail(neighbour: &Subject, others: &Requests, bench: &Bench) -> Result<f64> {
    // Some calls of the others must fit, however short the plan's turns are.
    let plan = crate::bench::Plan {
        time: bench.plan.time.max(TIMEOUT * 3),
        ..bench.plan
    };
    let status = others.status;
    let others = load(neighbour.address, others.clone(), 1, plan.time);
    let (others, seen) = tokio::join!(others, neighbour.run(NEIGHBOURS, &plan));
    let others = others?;
    ensure!(
        others.failures == 0,
        "{} of {} calls beside the neighbour were not answered {status}",
        others.failures,
        others.failures + others.latencies.total()
    );
    Ok(seen?.load.latencies.quantile(0.99).as_secs_f64() * 1e3)
}
