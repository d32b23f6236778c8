//! Containers: warm ones beside the same server behind a proxy, cold ones
//! beside the engine's bare calls, Python beside a bare loop, and what a
//! neighbour notices of bad ones.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::bench::load::{Connection, Requests, load, post};
use crate::bench::peers;
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::bench::subject::{Subject, Targets, compare};
use crate::bench::{Bench, Plan};
use crate::engine::{self, OwnEngine, SERVER, docker_at};
use crate::eventually;
use crate::node::{Function, Node, Setup};

use super::throughput::subject;

/// Bodies that come and go, in bytes, and the least throughput beside the proxy
/// over the Unix socket and over TCP.
const BODIES: [(usize, f64, f64); 3] =
    [(128, 1.0, 0.9), (64 << 10, 1.15, 1.0), (1 << 20, 1.25, 1.0)];

/// Calls that one container takes at once, here: all that the client sends.
const CONCURRENCY: &str = "128";

/// Memory of a warm container: all that the client sends at once, twice.
const WARM_MEMORY: &str = "1Gi";

/// Cold starts in each repetition.
const STARTS: usize = 5;

/// Functions that are started together.
const TOGETHER: usize = 16;

/// Connections of the neighbour of bad functions.
const NEIGHBOURS: usize = 4;

/// What both sides' containers are held to; the node's own settings are in
/// node/docker/src/container.rs.
fn limits() -> Value {
    json!({
        "Memory": 64 << 20, "MemorySwap": 64 << 20, "CpuShares": 256, "PidsLimit": 128,
        "ReadonlyRootfs": true, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"],
        "LogConfig": { "Type": "none" },
    })
}

/// An engine with the test's server in it, and a node that uses it.
struct Ground {
    engine: OwnEngine,
    node: Node,
}

impl Ground {
    async fn prepare() -> Result<Ground> {
        let engine = OwnEngine::bridged().await;
        engine::server_at(&engine.socket());
        let setup = Setup::new()
            .config(&format!(
                "docker.socket = {:?}",
                engine.socket().display().to_string()
            ))
            // The server dials the node's socket where it is run as a runtime.
            .config(&format!("docker.python-image = {SERVER:?}"));
        let node = setup.start().await;
        Ok(Ground { engine, node })
    }

    fn docker(&self, arguments: &[&str]) -> String {
        docker_at(&self.engine.socket(), arguments)
    }

    /// The engine itself, to make containers as the node makes them: in the
    /// network namespace of one that is there already.
    fn bare(&self) -> Bare {
        let holder = self.docker(&["run", "--detach", "--network", "none", SERVER]);
        Bare {
            socket: self.engine.socket(),
            network: format!("container:{holder}"),
        }
    }

    fn image(name: &str) -> Function {
        Function::image(name, SERVER).setting("pull", "never")
    }

    /// The processes of the containers that run a function.
    async fn processes(&self, function: &str) -> Result<Vec<u32>> {
        let node = format!("label=weir.node={}", self.node.id().await);
        let function = format!("label=weir.function={function}");
        let found = self.docker(&["ps", "--quiet", "--filter", &node, "--filter", &function]);
        found.lines().map(|id| self.process(id)).collect()
    }

    fn process(&self, container: &str) -> Result<u32> {
        let id = self.docker(&["inspect", "--format", "{{.State.Pid}}", container]);
        Ok(id.parse()?)
    }
}

/// Deploys the server as a runtime over the node's Unix socket.
pub(super) async fn deploy_runtime(node: &Node, name: &str, more: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("code"), "none is needed")?;
    let source = folder.path().display().to_string();
    let mut arguments = vec!["deploy", name, "--runtime", "python", "--handler", "a.b"];
    arguments.extend(["--src", &source]);
    arguments.extend(more);
    let output = node.weir(&arguments).await;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The same server as others run it, in a container on the bridge: its id, and
/// where it listens.
pub(super) async fn bare_server(engine: &OwnEngine) -> Result<(String, SocketAddr)> {
    let docker = |arguments: &[&str]| docker_at(&engine.socket(), arguments);
    let bare = docker(&[
        "run",
        "--detach",
        "--memory",
        "1g",
        "--memory-swap",
        "1g",
        "--cpu-shares",
        "256",
        "--pids-limit",
        "128",
        "--read-only",
        "--cap-drop",
        "ALL",
        "--log-driver",
        "none",
        SERVER,
    ]);
    let inspect = ["inspect", "--format", "{{.NetworkSettings.IPAddress}}"];
    let address = docker(&[inspect.as_slice(), &[&bare]].concat());
    let address = format!("{address}:8080").parse()?;
    eventually("the bare server listens", async || {
        TcpStream::connect(address).await.ok()
    })
    .await;
    Ok((bare, address))
}

pub(super) async fn warm(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let ground = Ground::prepare().await?;
    let many = [
        "--concurrency",
        CONCURRENCY,
        "--max",
        "1",
        "--memory",
        "1GiB",
    ];
    deploy_runtime(&ground.node, "dialled", &many).await?;
    let image = Ground::image("listening").setting("concurrency", CONCURRENCY);
    let image = image.memory(WARM_MEMORY);
    ground
        .node
        .deploy(image.label("com.openfaas.scale.max", "1"))
        .await;
    let (bare, address) = bare_server(&ground.engine).await?;
    let proxy = peers::haproxy(address).await?;
    let mut rows = Vec::new();
    for (bytes, dialled, listening) in BODIES {
        let body = "x".repeat(bytes);
        let theirs = Subject {
            address: proxy.address,
            requests: Requests::one("/", &body, 200),
            processes: vec![proxy.process()?, ground.process(&bare)?],
        };
        for (name, least) in [("dialled", dialled), ("listening", listening)] {
            let path = format!("/function/{name}");
            let mut ours = subject(&ground.node, &path, &body)?;
            // The first call makes the container whose work is counted.
            Connection::open(ours.address)
                .await?
                .exchange(&ours.requests.bytes[0])
                .await?;
            ours.processes.extend(ground.processes(name).await?);
            let targets = Targets {
                throughput: [Target::AtLeast(least); 2],
                tail: Target::AtMost(1.25),
            };
            let over = if name == "dialled" {
                "Unix socket"
            } else {
                "TCP"
            };
            let what = format!("warm container, {bytes} B over {over} / HAProxy");
            // A size that fails is no reason to lose the others.
            match compare(&what, &ours, &theirs, &bench.plan, targets).await {
                Ok(measured) => rows.extend(measured),
                Err(error) => rows.push(Row::unmeasured(what, format!("{error:#}"))),
            }
        }
    }
    ground.docker(&["rm", "--force", &bare]);
    Ok(rows)
}

/// The engine's API without anything around it.
struct Bare {
    socket: PathBuf,
    /// What containers that dial a socket have for a network.
    network: String,
}

impl Bare {
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "docker")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "{path}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn create(&self, body: &Value) -> Result<String> {
        let made = self.ask("POST", "/containers/create", body).await?;
        let id = made["Id"]
            .as_str()
            .context("a container has an id")?
            .to_owned();
        self.ask("POST", &format!("/containers/{id}/start"), &Value::Null)
            .await?;
        Ok(id)
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let path = format!("/containers/{id}?force=true&v=true");
        self.ask("DELETE", &path, &Value::Null).await?;
        Ok(())
    }

    /// From nothing to the first 200 of a container that dials a socket.
    async fn dialled(&self, image: &str, env: &[&str]) -> Result<(Duration, UnixStream, String)> {
        let folder = tempfile::tempdir()?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open)?;
        let path = folder.path().join("instance.sock");
        let start = Instant::now();
        let listener = UnixListener::bind(&path)?;
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, all)?;
        let mut host = limits();
        host["NetworkMode"] = json!(self.network);
        host["Binds"] = json!([format!("{}:/run/weir:ro", folder.path().display())]);
        let mut variables = vec!["WEIR_SOCKET=/run/weir/instance.sock", "WEIR_CONCURRENCY=1"];
        variables.extend(env);
        let body =
            json!({ "Image": image, "User": "65534:65534", "HostConfig": host, "Env": variables });
        let id = self.create(&body).await?;
        let (mut stream, _) = listener.accept().await?;
        exchange(&mut stream).await?;
        Ok((start.elapsed(), stream, id))
    }

    /// The same of one on the engine's bridge.
    async fn bridged(&self) -> Result<(Duration, String)> {
        let start = Instant::now();
        let body = json!({ "Image": SERVER, "User": "65534:65534", "HostConfig": limits() });
        let id = self.create(&body).await?;
        let path = format!("/containers/{id}/json");
        let known = self.ask("GET", &path, &Value::Null).await?;
        let address = known["NetworkSettings"]["IPAddress"].as_str();
        let address = format!("{}:8080", address.context("it is on the bridge")?);
        let mut stream = loop {
            match TcpStream::connect(&address).await {
                Ok(stream) => break stream,
                Err(_) if start.elapsed() < Duration::from_secs(60) => {
                    tokio::task::yield_now().await
                }
                Err(error) => return Err(error.into()),
            }
        };
        exchange(&mut stream).await?;
        Ok((start.elapsed(), id))
    }
}

/// One call on a connection.
async fn exchange<S>(stream: &mut S) -> Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(&post("/", "x")).await?;
    let mut answer = Vec::with_capacity(1024);
    while !answer.ends_with(b"\r\n\r\nx") {
        ensure!(
            stream.read_buf(&mut answer).await? > 0,
            "the container closed"
        );
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "no 200");
    Ok(())
}

/// One call of a function, timed.
async fn call(node: &Node, path: &str) -> Result<Duration> {
    let mut connection = Connection::open(node.address).await?;
    let start = Instant::now();
    let answer = connection.exchange(&post(path, "x")).await?;
    ensure!(answer.status == 200, "{path}: {}", answer.status);
    Ok(start.elapsed())
}

fn milliseconds(times: &[Duration]) -> Vec<f64> {
    times.iter().map(|time| time.as_secs_f64() * 1e3).collect()
}

/// The ratio of the medians of each repetition.
fn ratios(ours: &[Vec<Duration>], theirs: &[Vec<Duration>]) -> Vec<f64> {
    let middle = |times: &Vec<Duration>| quantile(&milliseconds(times), 0.5);
    ours.iter()
        .zip(theirs)
        .map(|(our, their)| middle(our) / middle(their))
        .collect()
}

fn beside(ours: &[Vec<Duration>], theirs: &[Vec<Duration>]) -> String {
    let middle = |times: &[Vec<Duration>]| quantile(&milliseconds(&times.concat()), 0.5);
    format!("{:.1} ms against {:.1} ms", middle(ours), middle(theirs))
}

pub(super) async fn cold(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let ground = Ground::prepare().await?;
    deploy_runtime(&ground.node, "cold", &["--keep-alive", "0s"]).await?;
    let bare = ground.bare();
    // The tenant's namespace is made once.
    call(&ground.node, "/function/cold").await?;
    let [mut ours, mut plain, mut bridged] = [const { Vec::new() }; 3];
    for _ in 0..bench.plan.repetitions {
        let [mut our, mut other, mut bridge] = [const { Vec::new() }; 3];
        for _ in 0..STARTS {
            our.push(call(&ground.node, "/function/cold").await?);
            let (took, _stream, id) = bare.dialled(SERVER, &[]).await?;
            bare.remove(&id).await?;
            other.push(took);
            let (took, id) = bare.bridged().await?;
            bare.remove(&id).await?;
            bridge.push(took);
        }
        ours.push(our);
        plain.push(other);
        bridged.push(bridge);
    }
    let row = |name: &str, theirs: &[Vec<Duration>], most| {
        let row = Row::median(
            name,
            Unit::Ratio,
            &ratios(&ours, theirs),
            Target::AtMost(most),
        );
        row.beside(beside(&ours, theirs))
    };
    Ok(vec![
        row(
            "cold container / bare calls over the socket, p50",
            &plain,
            1.15,
        ),
        row(
            "cold container / bare calls over the bridge, p50",
            &bridged,
            0.5,
        ),
    ])
}

pub(super) async fn together(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let ground = Ground::prepare().await?;
    for number in 0..TOGETHER {
        let name = format!("cold{number}");
        deploy_runtime(&ground.node, &name, &["--keep-alive", "0s"]).await?;
    }
    let bare = ground.bare();
    call(&ground.node, "/function/cold0").await?;
    let [mut ours, mut plain] = [const { Vec::new() }; 2];
    for _ in 0..bench.plan.repetitions {
        let start = Instant::now();
        let paths: Vec<_> = (0..TOGETHER)
            .map(|n| format!("/function/cold{n}"))
            .collect();
        try_join_all(paths.iter().map(|path| call(&ground.node, path))).await?;
        ours.push(vec![start.elapsed()]);
        let start = Instant::now();
        let started = try_join_all((0..TOGETHER).map(|_| bare.dialled(SERVER, &[]))).await?;
        plain.push(vec![start.elapsed()]);
        for (_, _, id) in started {
            bare.remove(&id).await?;
        }
    }
    let name = format!("{TOGETHER} functions started at once / bare calls");
    let row = Row::median(
        name,
        Unit::Ratio,
        &ratios(&ours, &plain),
        Target::AtMost(1.15),
    );
    Ok(vec![row.beside(beside(&ours, &plain))])
}

pub(super) async fn python(bench: Rc<Bench>) -> Result<Vec<Row>> {
    const IMAGE: &str = "weir/python:3.11";
    let engine = OwnEngine::bridged().await;
    engine::python_at(&engine.socket());
    let setup = Setup::new();
    let socket = engine.socket().display().to_string();
    let node = setup
        .config(&format!("docker.socket = {socket:?}"))
        .start()
        .await;
    let folder = tempfile::tempdir()?;
    let code = "def handler(params, context):\n    return \"x\"\n";
    std::fs::write(folder.path().join("main.py"), code)?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open)?;
    let source = folder.path().display().to_string();
    let output = node
        .weir([
            "deploy",
            "noop",
            "--runtime",
            "python",
            "--handler",
            "main.handler",
            "--src",
            &source,
        ])
        .await;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let bare = Bare {
        socket: engine.socket(),
        network: "none".to_owned(),
    };
    // The same container, with the bench in the node's place.
    let (mut stream, id) = python_loop(&bare, IMAGE, &source).await?;
    let mut connection = Connection::open(node.address).await?;
    let request = post("/function/noop", "{}");
    let [mut ours, mut plain] = [const { Vec::new() }; 2];
    for _ in 0..bench.plan.repetitions {
        let [mut our, mut other] = [const { Vec::new() }; 2];
        for _ in 0..500 {
            let start = Instant::now();
            let status = connection.exchange(&request).await?.status;
            our.push(start.elapsed());
            ensure!(status == 200, "the function answered {status}");
            let start = Instant::now();
            exchange_python(&mut stream).await?;
            other.push(start.elapsed());
        }
        ours.push(our);
        plain.push(other);
    }
    bare.remove(&id).await?;
    let ratios = ratios(&ours, &plain);
    let row = Row::median(
        "warm Python / bare loop, p50",
        Unit::Ratio,
        &ratios,
        Target::Reported,
    );
    let middle = |times: &[Vec<Duration>]| quantile(&milliseconds(&times.concat()), 0.5) * 1e3;
    Ok(vec![row.beside(format!(
        "{:.0} us against {:.0} us",
        middle(&ours),
        middle(&plain)
    ))])
}

async fn python_loop(bare: &Bare, image: &str, source: &str) -> Result<(UnixStream, String)> {
    let folder = tempfile::tempdir()?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open)?;
    let path = folder.path().join("instance.sock");
    let listener = UnixListener::bind(&path)?;
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&path, all)?;
    let mut host = limits();
    host["NetworkMode"] = json!("none");
    host["Binds"] = json!([
        format!("{}:/run/weir:ro", folder.path().display()),
        format!("{source}:/function:ro"),
    ]);
    let env = [
        "WEIR_SOCKET=/run/weir/instance.sock",
        "WEIR_CONCURRENCY=1",
        "WEIR_SOURCE=/function",
        "WEIR_HANDLER=main.handler",
        "WEIR_FUNCTION=noop",
    ];
    let body = json!({ "Image": image, "HostConfig": host, "Env": env });
    let id = bare.create(&body).await?;
    let (mut stream, _) = listener.accept().await?;
    exchange_python(&mut stream).await?;
    Ok((stream, id))
}

async fn exchange_python(stream: &mut UnixStream) -> Result<()> {
    stream.write_all(&post("/", "{}")).await?;
    let mut answer = Vec::with_capacity(1024);
    while !answer.ends_with(b"\r\n\r\nx") {
        ensure!(
            stream.read_buf(&mut answer).await? > 0,
            "the container closed"
        );
    }
    Ok(())
}

pub(super) async fn neighbours(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let ground = Ground::prepare().await?;
    let limited = |name: &str| Ground::image(name).cpu("1").memory("64Mi");
    ground.node.deploy(limited("bad").timeout("2s")).await;
    ground.node.deploy(limited("busy").timeout("2s")).await;
    let function = Ground::image("neighbour").setting("concurrency", CONCURRENCY);
    ground.node.deploy(function).await;
    let neighbour = subject(&ground.node, "/function/neighbour", "x")?;
    call(&ground.node, "/function/neighbour").await?;
    call(&ground.node, "/function/busy").await?;
    let mut rows = Vec::new();
    for (path, what) in [
        ("fork", "a fork bomb"),
        ("memory", "a memory bomb"),
        ("flood", "a log flood"),
    ] {
        let [mut ratios, mut wild, mut tame] = [const { Vec::new() }; 3];
        for _ in 0..bench.plan.repetitions {
            let bad = tail(&neighbour, &format!("/function/bad/{path}"), &bench.plan).await?;
            let good = tail(&neighbour, "/function/busy/spin", &bench.plan).await?;
            ratios.push(bad / good);
            wild.push(bad);
            tame.push(good);
        }
        let name = format!("neighbour's p99 beside {what} / beside a busy function");
        let row = Row::median(name, Unit::Ratio, &ratios, Target::AtMost(1.5));
        rows.push(row.beside(format!(
            "{:.2} ms against {:.2} ms",
            quantile(&wild, 0.5),
            quantile(&tame, 0.5)
        )));
    }
    Ok(rows)
}

/// The neighbour's 99th percentile in milliseconds while calls of `path`, which
/// end as they like, are always under way.
async fn tail(neighbour: &Subject, path: &str, plan: &Plan) -> Result<f64> {
    // A bad call takes a second, and some shall fit.
    let plan = Plan {
        time: plan.time.max(Duration::from_secs(2)),
        ..*plan
    };
    let others = load(neighbour.address, Requests::any(path), 1, plan.time);
    let (others, seen) = tokio::join!(others, neighbour.run(NEIGHBOURS, &plan));
    others?;
    Ok(seen?.load.latencies.quantile(0.99).as_secs_f64() * 1e3)
}
