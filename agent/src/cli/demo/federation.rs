//! The second half of the demo: three edge nodes and a cloud node, each a
//! process of its own, one of them overloaded and one killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use weir_node::clock::Moment as _;

use super::super::{Global, samples};
use crate::client::{self, Client, CredentialSources, Credentials};
use crate::config;
use crate::output;

/// Longest that a node may take to start, or all to see each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(50);

/// Clients that call one node as fast as they are answered: more than it can
/// hold, fewer than all can.
const CLIENTS: usize = 5;

/// Calls of each client before the kill, and after it.
const CALLS: usize = 20;

/// How long a call takes, in milliseconds.
const CALL: &str = "50";

/// The function that is called.
const FUNCTION: &str = "sleep";

/// One node of the demo. It ends with this.
struct Process {
    name: &'static str,
    id: String,
    client: Client,
    child: Child,
    /// Kept, or the node would write its log to nobody.
    _log: tokio::task::JoinHandle<()>,
}

/// What all calls came to.
#[derive(Default)]
struct Tally {
    by_node: BTreeMap<String, Vec<Duration>>,
    errors: Vec<String>,
}

/// Plays it and prints the table: whether all went as expected, and what
/// happened as a document.
pub(super) async fn play(global: &Global, folder: &Path) -> anyhow::Result<(bool, Value)> {
    let mut nodes = vec![start(folder, "edge-1", &[]).await?];
    for (name, role) in [("edge-2", "edge"), ("edge-3", "edge"), ("cloud", "cloud")] {
        let token = token(&nodes[0].client, role).await?;
        let told = vec![("WEIR_FEDERATION_JOIN", token)];
        nodes.push(start(folder, name, &told).await?);
    }
    // At one of them: the others bring it when they are to run it.
    samples::deploy_with_share(&nodes[0].client, FUNCTION, "500m").await?;
    see_each_other(&nodes).await?;
    output::note(
        "three edge nodes and a cloud node see each other; the function is deployed at the first, \
         which is overloaded",
    );
    let mut bursts = [Tally::default(), Tally::default()];
    let [calm, killing_one] = &mut bursts;
    let answered = AtomicUsize::new(0);
    call(&nodes[0].client, &nodes, calm, &answered).await;
    output::note("and again, while the third edge node is killed");
    let mut killed = nodes.remove(2);
    let survivors: Vec<String> = nodes.iter().map(|node| node.id.clone()).collect();
    let first = nodes[0].client.clone();
    let mut all: Vec<(String, &str)> = nodes
        .iter()
        .map(|node| (node.id.clone(), node.name))
        .collect();
    all.push((killed.id.clone(), killed.name));
    // In the middle of it, however fast this machine is.
    let middle = answered.load(Ordering::Relaxed) + CLIENTS * CALLS / 4;
    let (_, killing) = tokio::join!(call(&first, &nodes, killing_one, &answered), async {
        while answered.load(Ordering::Relaxed) < middle {
            tokio::time::sleep(LOOK.div_f64(10.0)).await;
        }
        killed.child.kill().await
    });
    killing.context("kill a node")?;
    let reasons = reasons(&first).await?;
    let told = show(global, &all, &bursts, &reasons)?;
    let ran = |id: &String| bursts.iter().any(|tally| tally.by_node.contains_key(id));
    let spilled = survivors.iter().filter(|id| ran(id));
    let errors = bursts.iter().flat_map(|tally| &tally.errors);
    let fine = errors.clone().next().is_none() && spilled.count() >= 2;
    for error in errors.take(3) {
        output::note(&format!("a call failed: {error}"));
    }
    // As an operator would, so that they leave nothing.
    for node in &mut nodes {
        if let Some(process) = node.child.id().and_then(|id| i32::try_from(id).ok())
            && let Some(process) = rustix::process::Pid::from_raw(process)
        {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        }
    }
    for node in &mut nodes {
        let _ = tokio::time::timeout(PATIENCE, node.child.wait()).await;
    }
    Ok((fine, told))
}

async fn start(
    folder: &Path,
    name: &'static str,
    told: &[(&str, String)],
) -> anyhow::Result<Process> {
    let doing = || format!("start the node {name}");
    let data = folder.join(name);
    let program = std::env::current_exe().with_context(doing)?;
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("WEIR_") {
            command.env_remove(variable);
        }
    }
    command
        .args([
            "run",
            "--http",
            "127.0.0.1:0",
            "--peer-listen",
            "127.0.0.1:0",
        ])
        .args(["--listen", "/ip4/127.0.0.1/tcp/0"])
        .args([
            "--set",
            "resources.cpu=1",
            "--set",
            "resources.memory=512MiB",
        ])
        .args(["--set", "log.format=json", "--data-dir"])
        .arg(&data)
        .envs(told.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().with_context(doing)?;
    let log = child.stderr.take().context("the node has no log")?;
    let mut lines = BufReader::new(log).lines();
    let listening = tokio::time::timeout(PATIENCE, listening(&mut lines)).await;
    let address = listening
        .with_context(doing)?
        .with_context(|| format!("{}: it ended", doing()))?;
    // Its log must go somewhere, or the node would wait for a reader.
    let log = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let client = client_of(&address, config::token_file(&data))?;
    let request = client.request(Method::GET, "/weir/v1/status");
    let status: Value = client.ask_json("read the node's status", request).await?;
    Ok(Process {
        name,
        id: status["node"].as_str().unwrap_or_default().to_owned(),
        client,
        child,
        _log: log,
    })
}

/// Where a node says that it listens; `None` when it ends instead.
async fn listening(lines: &mut Lines<BufReader<ChildStderr>>) -> Option<String> {
    while let Ok(Some(line)) = lines.next_line().await {
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        if said["message"] == "listening" {
            return Some(format!("http://{}", said["address"].as_str()?));
        }
        if said.is_null() {
            output::note(&line);
        }
    }
    None
}

fn client_of(address: &str, token_file: PathBuf) -> anyhow::Result<Client> {
    let address = client::node_address(address)?;
    let sources = CredentialSources {
        token_file: Some(token_file),
        ..CredentialSources::default()
    };
    let credentials = Credentials::resolve(&sources, &address)?;
    Ok(Client::new(&address, &credentials, None)?)
}

async fn token(client: &Client, role: &str) -> anyhow::Result<String> {
    let request = client
        .request(Method::POST, "/weir/v1/tokens")
        .body(json!({ "role": role }).to_string());
    let made: Value = client.ask_json("make a token", request).await?;
    Ok(made["token"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the first node may send calls to all others.
async fn see_each_other(nodes: &[Process]) -> anyhow::Result<()> {
    let until = Instant::now().later(PATIENCE);
    loop {
        let client = &nodes[0].client;
        let request = client.request(Method::GET, "/weir/v1/peers");
        let peers: Vec<Value> = client.ask_json("list the peers", request).await?;
        let able = peers.iter().filter(|peer| peer["candidate"] == true);
        if able.count() == nodes.len() - 1 {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!("the nodes do not see each other: {peers:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why calls went where they went: what the first node decided, what it could do
/// itself then, and how often.
async fn reasons(first: &Client) -> anyhow::Result<Vec<[String; 3]>> {
    let request = first.request(Method::GET, "/metrics");
    let what = "read the node's metrics";
    let response = first.ask(what, request).await?;
    let metrics = first.whole(what, response).await?;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    let decisions = metrics.lines().filter_map(|line| {
        let (labels, count) = line
            .strip_prefix("weir_decisions_total{")?
            .split_once("} ")?;
        let value = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            Some(rest.split('"').next()?.to_owned())
        };
        let choice = match value("choice")?.as_str() {
            "run" => "run here",
            "enqueue" => "wait here",
            "horizontal" => "send to a neighbour",
            "vertical" => "send to the cloud",
            "ask" => "ask peers",
            _ => "refuse",
        };
        let because = match value("reason")?.as_str() {
            "warm" => "an instance was idle here",
            "startable" => "an instance could be started here",
            "full" => "this node was full",
            "unable" => "this node cannot run it",
            "waited" => "a place became free there while it waited",
            other => return Some([choice.to_owned(), other.to_owned(), count.to_owned()]),
        };
        Some([choice.to_owned(), because.to_owned(), count.to_owned()])
    });
    Ok(decisions.collect())
}

/// Overloads the first node; `answered` counts while that goes on.
async fn call(first: &Client, nodes: &[Process], tally: &mut Tally, answered: &AtomicUsize) {
    let here = nodes[0].id.clone();
    let clients = (0..CLIENTS).map(|_| async {
        let mut answers = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let began = Instant::now();
            let path = format!("/function/{FUNCTION}");
            let request = first.call(Method::POST, &path).body(CALL);
            let answer = first.send(request).await;
            answered.fetch_add(1, Ordering::Relaxed);
            answers.push((began.elapsed(), answer));
        }
        answers
    });
    for (took, answer) in join_all(clients).await.into_iter().flatten() {
        match answer {
            Ok(response) if response.status().is_success() => {
                let ran = response.headers().get("x-weir-ran-on");
                let ran = ran.and_then(|value| value.to_str().ok()).unwrap_or(&here);
                tally.by_node.entry(ran.to_owned()).or_default().push(took);
            }
            Ok(response) => tally.errors.push(response.status().to_string()),
            Err(error) => tally.errors.push(error.to_string()),
        }
    }
}

fn show(
    global: &Global,
    nodes: &[(String, &str)],
    bursts: &[Tally; 2],
    reasons: &[[String; 3]],
) -> anyhow::Result<Value> {
    let percentile = |sorted: &[Duration], percent: usize| {
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    };
    let of = |tally: &Tally, id: &String| tally.by_node.get(id).cloned().unwrap_or_default();
    let rows = nodes.iter().map(|(id, name)| {
        let by_burst = [&bursts[0], &bursts[1]].map(|tally| of(tally, id));
        let counts = [by_burst[0].len(), by_burst[1].len()];
        let mut took = by_burst.concat();
        took.sort();
        (name, counts, percentile(&took, 50), percentile(&took, 99))
    });
    let errors = [&bursts[0], &bursts[1]].map(|tally| tally.errors.len());
    if global.json() {
        let rows = rows.map(|(name, counts, median, worst)| {
            json!({ "node": name, "calls": counts[0] + counts[1], "by_burst": counts,
                "p50_seconds": median.as_secs_f64(), "p99_seconds": worst.as_secs_f64() })
        });
        let reasons = reasons.iter().map(
            |[choice, because, calls]| json!({ "choice": choice, "because": because, "calls": calls }),
        );
        return Ok(json!({
            "nodes": rows.collect::<Vec<_>>(), "errors": errors[0] + errors[1],
            "decisions": reasons.collect::<Vec<_>>(),
        }));
    }
    let mut table: Vec<_> = rows
        .map(|(name, counts, median, worst)| {
            [
                (*name).to_owned(),
                counts[0].to_string(),
                counts[1].to_string(),
                output::short_duration(median),
                output::short_duration(worst),
            ]
        })
        .collect();
    let [calm, killing] = errors.map(|count| count.to_string());
    table.push([
        "errors".to_owned(),
        calm,
        killing,
        String::new(),
        String::new(),
    ]);
    let heads = ["where calls ran", "first burst", "one killed", "p50", "p99"];
    output::line(&output::table(heads, &table))?;
    let heads = ["what the first node did", "because", "times"];
    output::line(&output::table(heads, reasons))?;
    Ok(Value::Null)
}
