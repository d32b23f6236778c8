//! Side-by-side figures, as ratios: what Weir does against what other programs
//! do on the same machine at the same time.
//!
//! `weir-bench [--repetitions N] [--seconds S] [CASE...]`; the cases are the
//! letters of [`CASES`]. Subjects of a case take turns within a repetition, and
//! the figure of a case is the median of the repetitions' ratios, so that what
//! else the machine does falls on all subjects alike. `weir-bench backend
//! ADDRESS` is the small server that the proxy stands before.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use weir_tests::guests::Guest;
use weir_tests::load::{Load, exchange, load, request};
use weir_tests::node::{Function, Node, Setup, free_address};

/// Each case with the promise that it checks.
const CASES: [(&str, &str); 8] = [
    (
        "a",
        "command module, fresh sandbox per request, against HAProxy before a small server",
    ),
    ("b", "wasi:http component against wasmtime serve"),
    ("c", "cold start of a C module, compiled code on disk"),
    ("d", "resident memory"),
    ("e", "restart after kill -9 to the first answer"),
    (
        "f",
        "asynchronous acceptances against the disk's own fsync rate",
    ),
    ("g", "1,000 functions in turn against one"),
    ("h", "a runaway guest and its neighbour"),
];

/// Connections of the load cases.
const CONNECTIONS: [usize; 2] = [16, 128];

/// What the compared programs answer.
const GREETING: &str = "hello from the bench";

/// Functions of the cases about many.
const MANY: usize = 1_000;

/// Calls stored in the restart case.
const STORED: usize = 10_000;

struct Options {
    repetitions: usize,
    time: Duration,
    cases: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|word| word == "backend").is_some() {
        let address = arguments
            .next()
            .context("usage: weir-bench backend ADDRESS")?;
        return backend(address.parse()?).await;
    }
    let mut options = Options {
        repetitions: 9,
        time: Duration::from_secs(3),
        cases: Vec::new(),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--repetitions" => {
                options.repetitions = arguments.next().context("--repetitions N")?.parse()?
            }
            "--seconds" => {
                options.time =
                    Duration::from_secs_f64(arguments.next().context("--seconds S")?.parse()?)
            }
            case if CASES.iter().any(|(letter, _)| *letter == case) => options.cases.push(argument),
            other => bail!("no case {other}; the cases are a to h"),
        }
    }
    println!("| case | what | measured | wanted |\n|---|---|---|---|");
    for (letter, what) in CASES {
        if !options.cases.is_empty() && !options.cases.iter().any(|case| case == letter) {
            continue;
        }
        let rows = match letter {
            "a" => against_haproxy(&options).await,
            "b" => against_wasmtime(&options).await,
            "c" => cold_starts(&options).await,
            "d" => memory().await,
            "e" => restarts(&options).await,
            "f" => acceptances(&options).await,
            "g" => many_functions(&options).await,
            _ => runaway(&options).await,
        };
        match rows {
            Ok(rows) => {
                for (name, measured, wanted) in rows {
                    println!("| {letter} | {what}: {name} | {measured} | {wanted} |");
                }
            }
            Err(error) => println!("| {letter} | {what} | not measured: {error:#} | |"),
        }
    }
    Ok(())
}

/// A line of the table: what, measured, wanted.
type Row = (String, String, String);

fn row(name: impl Into<String>, measured: impl Into<String>, wanted: impl Into<String>) -> Row {
    (name.into(), measured.into(), wanted.into())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(place).copied().unwrap_or(f64::NAN)
}

/// CPU that these processes have used so far.
fn cpu(processes: &[u32]) -> Result<Duration> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let mut used = 0.0;
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name may hold blanks; what follows its bracket does not.
        let after = stat
            .rsplit_once(") ")
            .context("/proc/PID/stat has a name")?
            .1;
        let mut fields = after.split(' ').skip(11);
        for _ in 0..2 {
            used += fields
                .next()
                .context("/proc/PID/stat has its times")?
                .parse::<f64>()?;
        }
    }
    Ok(Duration::from_secs_f64(used / ticks))
}

fn resident_megabytes(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("a process has memory")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}

/// Something that answers the same request.
struct Subject {
    address: SocketAddr,
    requests: Arc<[Arc<[u8]>]>,
    processes: Vec<u32>,
}

impl Subject {
    async fn run(&self, connections: usize, time: Duration) -> Result<(Load, f64)> {
        let before = cpu(&self.processes)?;
        let seen = load(
            self.address,
            Arc::clone(&self.requests),
            connections,
            time,
            200,
        )
        .await?;
        ensure!(
            seen.failures == 0,
            "{} of {} answers failed",
            seen.failures,
            seen.failures + seen.answers
        );
        ensure!(seen.answers > 0, "no answer came");
        let used = cpu(&self.processes)?.saturating_sub(before);
        Ok((seen.clone(), used.as_secs_f64() * 1e6 / seen.answers as f64))
    }
}

/// Runs two subjects in turn and reports ratios of the first to the second.
async fn compare(
    ours: &Subject,
    theirs: &Subject,
    options: &Options,
    wanted: [&str; 2],
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        // A first run each, uncounted: code loaded, pools filled.
        ours.run(connections, options.time / 4).await?;
        theirs.run(connections, options.time / 4).await?;
        let [mut throughput, mut tail, mut work, mut other_work] = [const { Vec::new() }; 4];
        for repetition in 0..options.repetitions {
            let (mine, mine_cpu, other, other_cpu);
            if repetition % 2 == 0 {
                (mine, mine_cpu) = ours.run(connections, options.time).await?;
                (other, other_cpu) = theirs.run(connections, options.time).await?;
            } else {
                (other, other_cpu) = theirs.run(connections, options.time).await?;
                (mine, mine_cpu) = ours.run(connections, options.time).await?;
            }
            throughput.push(mine.throughput() / other.throughput());
            tail.push(mine.quantile(0.99) / other.quantile(0.99));
            work.push(mine_cpu);
            other_work.push(other_cpu);
        }
        let cost = format!(
            "CPU {:.1} against {:.1} us a request",
            median(work),
            median(other_work)
        );
        let name = |figure: &str| format!("{figure}, {connections} connections");
        rows.push(row(
            name("throughput"),
            format!("{:.2}x ({cost})", median(throughput)),
            wanted[0],
        ));
        rows.push(row(name("p99"), format!("{:.2}x", median(tail)), wanted[1]));
    }
    Ok(rows)
}

/// The smallest server that answers the greeting.
async fn backend(address: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let answer = service_fn(
                |request: hyper::Request<hyper::body::Incoming>| async move {
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(
                        GREETING.as_bytes(),
                    ))))
                },
            );
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn listening(address: SocketAddr) {
    weir_tests::eventually("it listens", async || {
        TcpStream::connect(address).await.ok().map(drop)
    })
    .await;
}

fn quiet(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

fn process(child: &Child) -> Result<u32> {
    child.id().context("it ended at once")
}

async fn against_haproxy(options: &Options) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let (front, behind) = (free_address(), free_address());
    let server = quiet(std::env::current_exe()?)
        .arg("backend")
        .arg(behind.to_string())
        .spawn()?;
    let config = folder.path().join("haproxy.cfg");
    let threads = std::thread::available_parallelism()?;
    fs::write(
        &config,
        format!(
            "global\n  nbthread {threads}\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  \
             timeout client 60s\n  timeout server 60s\n  http-reuse always\nfrontend f\n  bind {front}\n  \
             default_backend b\nbackend b\n  server s {behind}\n"
        ),
    )?;
    let proxy = quiet("haproxy")
        .arg("-db")
        .arg("-f")
        .arg(&config)
        .spawn()
        .context("run haproxy (Debian: haproxy)")?;
    listening(behind).await;
    listening(front).await;
    let node = Node::start().await;
    node.deploy(Function::new("echo", "echo")).await;
    let ours = Subject {
        address: node.address,
        requests: [request("POST", "/function/echo", GREETING)].into(),
        processes: vec![node.process().context("the node runs")?],
    };
    let theirs = Subject {
        address: front,
        requests: [request("POST", "/", GREETING)].into(),
        processes: vec![process(&proxy)?, process(&server)?],
    };
    compare(&ours, &theirs, options, ["at least 1.0x", "at most 1.25x"]).await
}

async fn against_wasmtime(options: &Options) -> Result<Vec<Row>> {
    let node = Node::start().await;
    let guest = weir_tests::guests::guest("proxy");
    let address = free_address();
    let server = quiet("wasmtime")
        .arg("serve")
        .arg("--addr")
        .arg(address.to_string())
        .arg(guest.path())
        .spawn();
    let server = server.context("run wasmtime (cargo install wasmtime-cli --version 48.0.8)")?;
    listening(address).await;
    node.deploy(Function::of("proxy", guest).protocol("http"))
        .await;
    let ours = Subject {
        address: node.address,
        requests: [request("POST", "/function/proxy", "x")].into(),
        processes: vec![node.process().context("the node runs")?],
    };
    let theirs = Subject {
        address,
        requests: [request("POST", "/", "x")].into(),
        processes: vec![process(&server)?],
    };
    let mut rows = compare(&ours, &theirs, options, ["at least 2.0x", "reported"]).await?;
    node.deploy(
        Function::new("python", "python")
            .protocol("http")
            .memory("128Mi"),
    )
    .await;
    let python = Subject {
        requests: [request("POST", "/function/python", "x")].into(),
        ..ours
    };
    python.run(1, options.time / 4).await?;
    let (seen, used) = python.run(16, options.time).await?;
    rows.push(row(
        "Python, 16 connections",
        format!("{:.0} a second, CPU {used:.0} us", seen.throughput()),
        "reported",
    ));
    Ok(rows)
}

/// Milliseconds that the answer says its start took.
fn start_milliseconds(timing: &str) -> Option<f64> {
    timing
        .split(',')
        .find_map(|part| part.trim().strip_prefix("start;dur=")?.parse().ok())
}

async fn cold_starts(options: &Options) -> Result<Vec<Row>> {
    let mut node = Node::start().await;
    let mut rows = Vec::new();
    for (guest, protocol, wanted) in [
        ("echo", "stdio", "p50 at most 0.4 ms, p99 at most 5 ms"),
        ("python", "http", "p50 at most 5 ms"),
    ] {
        node.deploy(
            Function::new(guest, guest)
                .protocol(protocol)
                .memory("128Mi"),
        )
        .await;
        for when in ["at rest", "right after a restart"] {
            let mut starts = Vec::new();
            for _ in 0..options.repetitions * 10 {
                if when == "at rest" {
                    let body = serde_json::json!({ "serviceName": guest, "replicas": 0 });
                    let scale = node.manage("POST", &format!("/system/scale-function/{guest}"));
                    scale.json(&body).send().await.expect_status(202);
                    weir_tests::eventually("it is unloaded", async || {
                        let path = format!("/system/function/{guest}");
                        let status = node.manage("GET", &path).send().await.json();
                        (status["replicas"].as_f64() == Some(0.0)).then_some(())
                    })
                    .await;
                } else {
                    node = node.crash().await;
                }
                let reply = node.call(guest, "x").await.expect_status(200);
                ensure!(
                    reply.header("x-weir-start") == "cold",
                    "a start was not cold"
                );
                starts.push(
                    start_milliseconds(reply.header("server-timing"))
                        .context("no start in Server-Timing")?,
                );
            }
            let measured = format!(
                "p50 {:.2} ms, p99 {:.2} ms",
                median(starts.clone()),
                quantile(starts, 0.99)
            );
            rows.push(row(format!("{guest} {when}"), measured, wanted));
        }
    }
    Ok(rows)
}

/// A module of its own digest that answers the greeting.
fn numbered(number: usize) -> Guest {
    let length = GREETING.len();
    Guest::from_bytes(
        &format!("many{number}"),
        format!(
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 16) "{GREETING}") (data (i32.const 4096) "{number}")
            (func (export "_start") (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const {length}))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
        ),
    )
}

async fn deploy_many(node: &Node) {
    for number in 0..MANY {
        let code = numbered(number);
        node.create(&Function::of(&code.name.clone(), code).setting("keep-alive", "1h"))
            .await
            .expect_status(202);
    }
    for number in 0..MANY {
        assert_eq!(node.settled(&format!("many{number}")).await, "ready");
    }
}

async fn memory() -> Result<Vec<Row>> {
    let node = Node::start().await;
    let process = |node: &Node| node.process().context("the node runs");
    let idle = resident_megabytes(process(&node)?)?;
    deploy_many(&node).await;
    let node = node.crash().await;
    let deployed = resident_megabytes(process(&node)?)?;
    for number in 0..MANY {
        node.call(&format!("many{number}"), "")
            .await
            .expect_status(200);
    }
    let loaded = resident_megabytes(process(&node)?)?;
    Ok(vec![
        row("idle", format!("{idle:.0} MB"), "at most 35 MB"),
        row(
            "1,000 functions after a restart",
            format!("{deployed:.0} MB"),
            "at most 50 MB",
        ),
        row(
            "1,000 functions loaded",
            format!("{loaded:.0} MB"),
            "at most 300 MB",
        ),
    ])
}

/// Submits `count` calls from 64 connections; returns acceptances in a second.
async fn submit(node: &Node, count: usize) -> Result<f64> {
    const CLIENTS: usize = 64;
    let start = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let address = node.address;
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let request = request("POST", "/async-function/echo", "x");
            let mut buffer = vec![0; 16 * 1024];
            for _ in (client..count).step_by(CLIENTS) {
                let status = exchange(&mut stream, &request, &mut buffer).await?;
                ensure!(status == 202, "answered {status}");
            }
            Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

async fn restarts(options: &Options) -> Result<Vec<Row>> {
    let node = Setup::new()
        .config(&format!("[async]\nbacklog = {}", STORED * 2))
        .start()
        .await;
    node.deploy(Function::new("echo", "echo")).await;
    deploy_many(&node).await;
    submit(&node, STORED).await?;
    let mut node = node;
    let mut took = Vec::new();
    for _ in 0..options.repetitions {
        node.kill().await;
        let setup = node.into_setup();
        let start = Instant::now();
        node = setup.start().await;
        node.call("echo", "x").await.expect_status(200);
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(vec![row(
        "1,000 functions, 10,000 calls",
        format!("{:.0} ms", median(took)),
        "at most 200 ms",
    )])
}

/// How often this disk makes a small write durable in a second.
fn fsync_rate(folder: &Path, time: Duration) -> io::Result<f64> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(folder.join("fsync"))?;
    let start = Instant::now();
    let mut writes = 0_u32;
    while start.elapsed() < time {
        file.write_all_at(&[1; 4096], 0)?;
        file.sync_data()?;
        writes += 1;
    }
    Ok(f64::from(writes) / start.elapsed().as_secs_f64())
}

async fn acceptances(options: &Options) -> Result<Vec<Row>> {
    const CALLS: usize = 5_000;
    let mut ratios = Vec::new();
    let backlog = CALLS * (options.repetitions + 1);
    let node = Setup::new()
        .config(&format!("[async]\nbacklog = {backlog}"))
        .start()
        .await;
    node.deploy(Function::new("echo", "echo")).await;
    for _ in 0..options.repetitions {
        let rate = fsync_rate(node.data(), Duration::from_millis(500))?;
        ratios.push(submit(&node, CALLS).await? / rate);
    }
    Ok(vec![row(
        "64 clients",
        format!("{:.1}x", median(ratios)),
        "at least 5x",
    )])
}

async fn many_functions(options: &Options) -> Result<Vec<Row>> {
    let node = Node::start().await;
    deploy_many(&node).await;
    let processes = vec![node.process().context("the node runs")?];
    let all: Vec<_> = (0..MANY)
        .map(|number| request("POST", &format!("/function/many{number}"), ""))
        .collect();
    let one = Subject {
        address: node.address,
        requests: [Arc::clone(&all[0])].into(),
        processes: processes.clone(),
    };
    let many = Subject {
        address: node.address,
        requests: all.into(),
        processes,
    };
    compare(&many, &one, options, ["at least 0.7x", "reported"]).await
}

async fn runaway(options: &Options) -> Result<Vec<Row>> {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let node = Node::start().await;
    node.deploy(Function::new("spin", "loop").timeout("500ms").cpu("1"))
        .await;
    node.deploy(Function::new("work", "work").timeout("60s").cpu("1"))
        .await;
    node.deploy(Function::new("echo", "echo")).await;
    node.call("spin", "").await.expect_status(504);
    let mut worst = 0.0_f64;
    for _ in 0..options.repetitions {
        let start = Instant::now();
        node.call("spin", "").await.expect_status(504);
        worst = worst.max(start.elapsed().as_secs_f64() / TIMEOUT.as_secs_f64());
    }
    let neighbour = Subject {
        address: node.address,
        requests: [request("POST", "/function/echo", GREETING)].into(),
        processes: vec![node.process().context("the node runs")?],
    };
    let mut ratios = Vec::new();
    for _ in 0..options.repetitions {
        let mut tail = Vec::new();
        // About half a second of work each time, as long as the runaway has.
        for (name, body, status) in [("spin", "", 504), ("work", "500000", 200)] {
            let busy = load(
                node.address,
                [request("POST", &format!("/function/{name}"), body)].into(),
                1,
                options.time,
                status,
            );
            let (busy, seen) = tokio::join!(busy, neighbour.run(16, options.time));
            busy?;
            tail.push(seen?.0.quantile(0.99));
        }
        ratios.push(tail[0] / tail[1]);
    }
    Ok(vec![
        row(
            "stopped after",
            format!("{worst:.3}x its timeout, at worst"),
            "at most 1.1x and 10 ms",
        ),
        row(
            "neighbour's p99",
            format!("{:.2}x", median(ratios)),
            "at most 1.5x",
        ),
    ])
}
