//! How soon a node that was killed answers again, with many functions and with
//! many asynchronous calls that were accepted and not done yet.

use std::net::SocketAddr;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bench::load::{Connection, post};
use crate::bench::report::{Row, Target, Unit};
use crate::bench::{Bench, many};
use crate::eventually_every;
use crate::node::{Function, Node, Setup, free_address};

/// Connections over which the stored calls are submitted.
const CLIENTS: usize = 64;

/// Longest that a restart may take before the case fails.
const RESTART_TIME: Duration = Duration::from_secs(60);

/// How soon a refused connection is tried again; less than what is measured.
const TRY_AGAIN: Duration = Duration::from_millis(1);

/// A function that sleeps for longer than the case lasts, run one call at a
/// time and for next to no share of the processors, so that the calls behind
/// it stay stored.
const SLEEPER: &str = "sleeper";
const SLEEP_MILLISECONDS: &str = "3600000";

pub(super) async fn restarts(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let many = bench.many().await?;
    let data = many.copy().await?;
    let stored = bench.plan.stored;
    let setup = || {
        let asynchronous = format!("[async]\nparallel = 1\nbacklog = {}", stored * 2);
        data.setup().config(&asynchronous)
    };
    let mut node = setup().start().await;
    let sleeper = Function::new(SLEEPER, "sleep").cpu("10m").timeout("1h");
    node.deploy(sleeper).await;
    store_calls(&node, stored).await?;
    node.kill().await;

    let mut took = Vec::new();
    for _ in 0..bench.plan.repetitions {
        took.push(restart(setup()).await?.as_secs_f64() * 1e3);
    }
    let node = setup().start().await;
    let backlog = node.status().await["backlog"].as_u64();
    ensure!(
        backlog == Some(stored as u64),
        "{backlog:?} calls were stored at the end, not {stored}"
    );
    let what = format!(
        "{} functions, {stored} stored calls: to the first answer",
        many.count()
    );
    let row = Row::median(what, Unit::Milliseconds, &took, Target::AtMost(200.0));
    Ok(vec![row.beside("from the start of the process")])
}

/// Has `count` calls accepted.
async fn store_calls(node: &Node, count: usize) -> Result<()> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let address = node.address;
        clients.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let request = post(&format!("/async-function/{SLEEPER}"), SLEEP_MILLISECONDS);
            for _ in (client..count).step_by(CLIENTS) {
                let status = connection.exchange(&request).await?.status;
                ensure!(status == 202, "a call was answered {status}");
            }
            Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

/// Starts a node, and kills it once it has answered a call.
async fn restart(setup: Setup) -> Result<Duration> {
    let address = free_address();
    let mut command = setup.command(address);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().context("start weir")?;
    let answered = timeout(RESTART_TIME, first_answer(address)).await;
    let took = start.elapsed();
    let is_running = child.try_wait()?.is_none();
    child.kill().await?;
    match answered {
        Ok(Ok(())) if is_running => Ok(took),
        Ok(Ok(())) => bail!("the node ended after its answer"),
        Ok(Err(error)) => Err(error),
        Err(_) => bail!("no answer in {RESTART_TIME:?}"),
    }
}

async fn first_answer(address: SocketAddr) -> Result<()> {
    let mut connection = eventually_every(TRY_AGAIN, "the node listens", async || {
        Connection::open(address).await.ok()
    })
    .await;
    let answer = connection.exchange(&post(&many::path(0), "x")).await?;
    ensure!(answer.status == 200, "the answer was {}", answer.status);
    Ok(())
}
