//! Asynchronous calls accepted in a second, each on disk before its 202, beside
//! what the disk itself can make durable one write at a time.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bench::Bench;
use crate::bench::load::{Requests, load};
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::eventually;
use crate::node::{Function, Node, Setup};

/// Clients that submit at once.
pub(super) const CLIENTS: usize = 64;

/// How long a turn of either lasts: the calls accepted meanwhile are run before
/// the next turn, so that the disk is measured alone.
pub(super) const TURN: Duration = Duration::from_secs(1);

/// Calls that may wait; more than a disk accepts in a turn.
const BACKLOG: usize = 1_000_000;

pub(super) async fn acceptances(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let node = Setup::new()
        .config(&format!("[async]\nbacklog = {BACKLOG}"))
        .start()
        .await;
    node.deploy(Function::new("echo", "echo")).await;
    node.call("echo", "x").await.expect_status(200);
    let [mut ratios, mut accepted, mut flushed] = [const { Vec::new() }; 3];
    let turn = TURN.min(bench.plan.time);
    for _ in 0..bench.plan.repetitions {
        let before = fsync_rate(node.data(), turn / 2)?;
        let requests = Requests::one("/async-function/echo", "x", 202);
        let seen = load(node.address, requests, CLIENTS, turn).await?;
        ensure!(seen.failures == 0, "{} calls were refused", seen.failures);
        done(&node).await;
        let rate = f64::midpoint(before, fsync_rate(node.data(), turn / 2)?);
        ratios.push(seen.throughput() / rate);
        accepted.push(seen.throughput());
        flushed.push(rate);
    }
    let what = format!("acceptances with {CLIENTS} clients / fsync rate");
    let beside = format!(
        "{:.0} accepted a second against {:.0} flushes",
        quantile(&accepted, 0.5),
        quantile(&flushed, 0.5)
    );
    let row = Row::median(what, Unit::Ratio, &ratios, Target::AtLeast(5.0));
    Ok(vec![row.beside(beside)])
}

/// Waits until every accepted call is done.
pub(super) async fn done(node: &Node) {
    eventually("the accepted calls are done", async || {
        (node.status().await["backlog"] == 0).then_some(())
    })
    .await;
}

/// How often in a second the disk under this folder makes a small write durable.
fn fsync_rate(folder: &Path, time: Duration) -> io::Result<f64> {
    /// A page, the least that a file system writes.
    const PAGE: [u8; 4096] = [1; 4096];
    let path = folder.with_extension("flush");
    let file = fs::File::create(&path)?;
    file.write_all_at(&PAGE, 0)?;
    file.sync_all()?;
    let start = Instant::now();
    let mut writes = 0_u32;
    while start.elapsed() < time {
        file.write_all_at(&PAGE, 0)?;
        file.sync_data()?;
        writes += 1;
    }
    let rate = f64::from(writes) / start.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}
