//! The first call of a function whose code was compiled earlier.
//!
//! What a start took is read from the answer's `Server-Timing`; what a client
//! saw of the whole call stands beside it.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bench::Bench;
use crate::bench::load::{Connection, post};
use crate::bench::many;
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::eventually;
use crate::guests;
use crate::node::{Function, Node};

/// Functions that are started cold in each repetition: enough for a 99th
/// percentile over nine of them.
const FUNCTIONS: usize = 100;

/// Cold starts of the one Python function in each repetition.
const PYTHON_STARTS: usize = 10;

/// Milliseconds of cold calls.
#[derive(Debug, Default)]
struct Starts {
    start: Vec<f64>,
    seen: Vec<f64>,
}

impl Starts {
    /// Calls a function that must not be loaded.
    async fn call(&mut self, connection: &mut Connection, path: &str) -> Result<()> {
        let request = post(path, "x");
        let sent = Instant::now();
        let answer = connection.exchange(&request).await?;
        let seen = sent.elapsed();
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        let kind = answer.header("x-weir-start");
        ensure!(kind == "cold", "{path}: the start was {kind}, not cold");
        let timing = answer.header("server-timing");
        let start = start_milliseconds(timing);
        self.start
            .push(start.with_context(|| format!("no start in `{timing}`"))?);
        self.seen.push(seen.as_secs_f64() * 1e3);
        Ok(())
    }

    fn rows(&self, what: &str, p50: Target, p99: Target) -> Vec<Row> {
        let row = |name: &str, share: f64, target: Target| {
            let value = quantile(&self.start, share);
            let beside = format!(
                "the client saw {:.3} ms; {} starts",
                quantile(&self.seen, share),
                self.seen.len()
            );
            Row::single(format!("{what}: {name}"), Unit::Milliseconds, value, target).beside(beside)
        };
        vec![row("p50", 0.5, p50), row("p99", 0.99, p99)]
    }
}

/// What `Server-Timing` says a start took.
fn start_milliseconds(timing: &str) -> Option<f64> {
    let mut phases = timing.split(',').map(str::trim);
    phases.find_map(|phase| phase.strip_prefix("start;dur=")?.parse().ok())
}

pub(super) async fn cold_starts(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let mut rows = modules(&bench).await?;
    match python(&bench).await {
        Ok(measured) => rows.extend(measured),
        Err(error) => rows.push(Row::unmeasured("Python component", format!("{error:#}"))),
    }
    Ok(rows)
}

async fn modules(bench: &Bench) -> Result<Vec<Row>> {
    let many = bench.many().await?;
    let data = many.copy().await?;
    let mut node = data.setup().start().await;
    let count = many.count().min(FUNCTIONS);
    let (mut rested, mut restarted) = (Starts::default(), Starts::default());
    for _ in 0..bench.plan.repetitions {
        node = node.crash().await;
        let mut connection = Connection::open(node.address).await?;
        for number in 0..count {
            restarted.call(&mut connection, &many::path(number)).await?;
        }
        for number in 0..count {
            unload(&node, &many::name(number)).await;
        }
        for number in 0..count {
            rested.call(&mut connection, &many::path(number)).await?;
        }
    }
    let (p50, p99) = (Target::AtMost(0.4), Target::AtMost(5.0));
    let mut rows = rested.rows("C module", p50, p99);
    rows.extend(restarted.rows("C module after a restart", p50, p99));
    Ok(rows)
}

async fn python(bench: &Bench) -> Result<Vec<Row>> {
    let code = guests::build("python")?;
    let mut node = Node::start().await;
    let function = Function::of("python", code).protocol("http");
    node.deploy(function.memory("128Mi")).await;
    let (mut rested, mut restarted) = (Starts::default(), Starts::default());
    for _ in 0..bench.plan.repetitions {
        node = node.crash().await;
        let mut connection = Connection::open(node.address).await?;
        restarted.call(&mut connection, "/function/python").await?;
        for _ in 0..PYTHON_STARTS {
            unload(&node, "python").await;
            rested.call(&mut connection, "/function/python").await?;
        }
    }
    let (p50, p99) = (Target::AtMost(5.0), Target::Reported);
    let mut rows = rested.rows("Python component", p50, p99);
    rows.extend(restarted.rows("Python component after a restart", p50, p99));
    Ok(rows)
}

/// Lets go of a function's code and waits until it is gone.
async fn unload(node: &Node, name: &str) {
    let scale = node.manage("POST", &format!("/system/scale-function/{name}"));
    let body = json!({ "serviceName": name, "replicas": 0 });
    scale.json(&body).send().await.expect_status(202);
    eventually("the code is unloaded", async || {
        let status = node.manage("GET", &format!("/system/function/{name}"));
        let replicas = status.send().await.json()["replicas"].as_f64();
        (replicas == Some(0.0)).then_some(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_among_the_phases() {
        let timing = "queue;dur=0.002, start;dur=0.31, run;dur=1.5";
        assert_eq!(start_milliseconds(timing), Some(0.31));
        assert_eq!(start_milliseconds("run;dur=1.5"), None);
    }
}
