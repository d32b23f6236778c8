//! What many calls do to each other on one node: closed loops of a container
//! that needs a core, and honest calls beside bodies that come slowly.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::bench::Bench;
use crate::bench::load::{Connection, Load, Requests, load, post};
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::engine::{self, OwnEngine, SERVER};
use crate::node::{Function, Node, Setup};
use crate::pass;

/// A call that starts a process which uses a millisecond of a core.
const FORK: &str = "burn?1";

/// Bounds of instances beside which the node's own measure is held.
const BOUNDS: [&str; 5] = ["1", "2", "4", "8", "16"];

/// Connections of the closed loops.
const CONNECTIONS: [usize; 2] = [16, 128];

/// How long a function is called before it is measured: for starts, and for
/// what the node learns.
const BEFORE: Duration = Duration::from_secs(4);

/// Slow bodies, and honest calls in a second beside them.
const SLOW: usize = 40;
const HONEST_INTERVAL: Duration = Duration::from_millis(20);

pub(super) async fn shares(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let mut rows = closed_loops(&bench).await?;
    rows.push(slow_bodies(&bench).await?);
    Ok(rows)
}

async fn closed_loops(bench: &Bench) -> Result<Vec<Row>> {
    let engine = OwnEngine::bridged().await;
    engine::server_at(&engine.socket());
    let socket = engine.socket().display().to_string();
    let setup = Setup::new().config(&format!("docker.socket = {socket:?}"));
    let node = setup.start().await;
    let image = |name: &str| Function::image(name, SERVER).setting("pull", "never");
    for most in BOUNDS {
        node.deploy(image(&format!("at-most-{most}")).label("com.openfaas.scale.max", most))
            .await;
    }
    node.deploy(image("as-it-is")).await;
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        let (mut tails, mut rates) = (Vec::new(), Vec::new());
        let mut last = String::new();
        for _ in 0..bench.plan.repetitions {
            let mut fixed = Vec::new();
            for most in BOUNDS {
                let seen = looped(&node, &format!("at-most-{most}"), connections, bench).await?;
                fixed.push((most, tail(&seen), seen.throughput()));
            }
            let own = looped(&node, "as-it-is", connections, bench).await?;
            let highest = fixed.iter().map(|(.., rate)| *rate).fold(0.0, f64::max);
            let good = fixed.iter().filter(|(.., rate)| *rate >= 0.9 * highest);
            let best = good.min_by(|a, b| a.1.total_cmp(&b.1));
            let (most, best, rate) = best.expect("the highest is one of them");
            tails.push(tail(&own) / best);
            rates.push(own.throughput() / rate);
            last = format!(
                "{:.1} ms and {:.0}/s against {best:.1} ms and {rate:.0}/s at --max {most}",
                tail(&own),
                own.throughput()
            );
        }
        let what = format!("{connections} connections in a closed loop on a container that forks");
        let tails = Row::median(
            format!("{what}: p99 / that of the best fixed --max"),
            Unit::Ratio,
            &tails,
            Target::AtMost(2.0),
        );
        let rates = Row::median(
            format!("{what}: throughput / that"),
            Unit::Ratio,
            &rates,
            Target::AtLeast(0.9),
        );
        rows.extend([tails.beside(last), rates]);
    }
    Ok(rows)
}

async fn looped(node: &Node, function: &str, connections: usize, bench: &Bench) -> Result<Load> {
    let requests = || Requests::any(&format!("/function/{function}/{FORK}"));
    load(node.address, requests(), connections, BEFORE).await?;
    load(node.address, requests(), connections, bench.plan.time).await
}

fn tail(load: &Load) -> f64 {
    load.latencies.quantile(0.99).as_secs_f64() * 1e3
}

/// Honest calls, fifty a second, without and with bodies that come slowly.
async fn slow_bodies(bench: &Bench) -> Result<Row> {
    let node = Node::start().await;
    node.deploy(Function::new("slow", "echo")).await;
    node.deploy(Function::new("honest", "echo")).await;
    let (mut ratios, mut last) = (Vec::new(), String::new());
    for _ in 0..bench.plan.repetitions {
        let alone = honest(node.address, bench).await?;
        let mut slow = JoinSet::new();
        for _ in 0..SLOW {
            slow.spawn(drip(node.address));
        }
        let beside = honest(node.address, bench).await?;
        slow.shutdown().await;
        ratios.push(beside / alone);
        last = format!("{beside:.2} ms against {alone:.2} ms");
    }
    let row = Row::median(
        "50 calls a second beside 40 bodies that come slowly: p99 / without them",
        Unit::Ratio,
        &ratios,
        Target::AtMost(2.0),
    );
    Ok(row.beside(last))
}

/// The 99th percentile in milliseconds.
async fn honest(address: SocketAddr, bench: &Bench) -> Result<f64> {
    let mut connection = Connection::open(address).await?;
    let request = post("/function/honest", "hello");
    let mut took = Vec::new();
    let mut due = tokio::time::interval(HONEST_INTERVAL);
    // Enough for a 99th percentile.
    let end = Instant::now() + bench.plan.time.max(HONEST_INTERVAL * 200);
    while Instant::now() < end {
        due.tick().await;
        let began = Instant::now();
        let status = connection.exchange(&request).await?.status;
        ensure!(status == 200, "an honest call was answered {status}");
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(quantile(&took, 0.99))
}

/// Sends bodies, a byte every five seconds, again when one is refused.
async fn drip(address: SocketAddr) -> Result<()> {
    loop {
        let mut stream = TcpStream::connect(address).await?;
        let head = b"POST /function/slow HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
        stream.write_all(head).await?;
        while stream.write_all(b"x").await.is_ok() {
            pass(Duration::from_secs(5)).await;
        }
    }
}
