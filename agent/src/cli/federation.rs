//! Commands about other nodes.

use std::io::Write as _;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Global;
use crate::output;

/// How often `weir peers --watch` looks.
const WATCH: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct TokenArguments {
    /// How long the token is good
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    ttl: String,
    /// What whoever joins by it is for
    #[arg(long, value_enum, default_value_t)]
    role: Role,
    /// What whoever joins by it deploys is its own: others run none of it
    #[arg(long)]
    no_deploy: bool,
}

#[derive(Debug, Default, Clone, Copy, ValueEnum)]
enum Role {
    /// Serves its own users, and spills what it cannot hold
    #[default]
    Edge,
    /// Takes what spills
    Cloud,
}

#[derive(Debug, Args)]
pub(super) struct PeersArguments {
    /// Show them again and again
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum FederationCommand {
    /// Make a new secret: who is a member stays one, tokens are void
    RotateSecret,
}

#[derive(Debug, Args)]
pub(super) struct DrainArguments {
    /// Return when nothing runs or waits on the node any more
    #[arg(long)]
    wait: bool,
    /// Take calls of peers again
    #[arg(long, conflicts_with = "wait")]
    undo: bool,
}

#[derive(Debug, Args)]
pub(super) struct PeerArguments {
    /// The node, by its id
    id: String,
}

#[derive(Debug, Args)]
pub(super) struct AnnounceArguments {
    /// The function, as it is deployed on this node
    function: String,
}

#[derive(Debug, Args)]
pub(super) struct DenyArguments {
    /// The node, by its id
    id: String,
    /// In the whole federation, not on this node alone
    #[arg(long)]
    federation: bool,
    /// Take it back
    #[arg(long)]
    undo: bool,
}

/// A line of `weir peers`.
#[derive(Debug, Deserialize)]
struct Peer {
    id: String,
    state: String,
    role: String,
    zone: Option<String>,
    region: Option<String>,
    linked: bool,
    round_trip_ms: f64,
    measured: bool,
    cpu_free: f64,
    cpu_total: f64,
    memory_free: u64,
    running: u32,
    waiting: u32,
    room: u32,
    full_because: Option<String>,
    candidate: bool,
    functions: Vec<String>,
    report_age_ms: u64,
    load_age_ms: u64,
    contradicted: bool,
    fault: Option<String>,
    draining: bool,
    carriage: Option<String>,
}

pub(super) async fn token(global: &Global, arguments: &TokenArguments) -> anyhow::Result<()> {
    let client = global.client()?;
    let role = match arguments.role {
        Role::Edge => "edge",
        Role::Cloud => "cloud",
    };
    let request = client.request(Method::POST, "/weir/v1/tokens").body(
        json!({ "ttl": arguments.ttl, "role": role, "deploy": !arguments.no_deploy }).to_string(),
    );
    let made: Value = client.ask_json("make a token", request).await?;
    match global.json() {
        true => Ok(output::json(&made)?),
        false => Ok(output::line(made["token"].as_str().unwrap_or_default())?),
    }
}

pub(super) async fn peers(global: &Global, arguments: &PeersArguments) -> anyhow::Result<()> {
    let client = global.client()?;
    loop {
        let request = client.request(Method::GET, "/weir/v1/peers");
        let peers: Value = client.ask_json("list the peers", request).await?;
        if global.json() {
            output::json(&peers)?;
        } else {
            let peers: Vec<Peer> = serde_json::from_value(peers)?;
            output::line(&output::table(
                [
                    "id",
                    "state",
                    "role",
                    "place",
                    "link",
                    "round trip",
                    "cpu free",
                    "memory free",
                    "running",
                    "waiting",
                    "room",
                    "functions",
                    "age",
                    "load age",
                ],
                &peers.iter().map(row).collect::<Vec<_>>(),
            ))?;
        }
        if !arguments.watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH).await;
    }
}

fn row(peer: &Peer) -> [String; 14] {
    let mut state = peer.state.clone();
    if peer.draining {
        state.push_str(", draining");
    }
    if peer.contradicted {
        state.push_str(", refuses what it claims");
    }
    if peer.state == "in" && !peer.candidate {
        state.push_str(", takes no calls now");
    }
    if let Some(fault) = &peer.fault {
        state.push_str(", ");
        state.push_str(fault);
    }
    let age = |milliseconds: u64| format!("{:.1} s", milliseconds as f64 / 1e3);
    let sign = if peer.measured { "" } else { "~" };
    [
        peer.id.clone(),
        state,
        peer.role.clone(),
        peer.region
            .clone()
            .or_else(|| peer.zone.clone())
            .unwrap_or_default(),
        match (peer.linked, &peer.carriage) {
            (true, Some(carriage)) => carriage.clone(),
            (true, None) => "linked".to_owned(),
            (false, Some(carriage)) => format!("no link, {carriage}"),
            (false, None) => "no".to_owned(),
        },
        format!("{sign}{:.2} ms", peer.round_trip_ms),
        format!("{:.1}/{:.1}", peer.cpu_free, peer.cpu_total),
        weir_node::resources::Memory::mebibytes(peer.memory_free >> 20).to_string(),
        peer.running.to_string(),
        peer.waiting.to_string(),
        match &peer.full_because {
            Some(why) => format!("0: {why}"),
            None => peer.room.to_string(),
        },
        peer.functions.len().to_string(),
        age(peer.report_age_ms),
        age(peer.load_age_ms),
    ]
}

pub(super) async fn ping(global: &Global, arguments: &PeerArguments) -> anyhow::Result<()> {
    let client = global.client()?;
    let path = format!("/weir/v1/peers/{}/ping", arguments.id);
    let request = client.request(Method::POST, &path);
    let ways: Vec<Value> = client.ask_json("try the ways to it", request).await?;
    // Only what was tried just now is an answer.
    let answered = ways.iter().any(|way| way["ms"].is_number());
    if global.json() {
        output::json(&Value::Array(ways))?;
    } else {
        let rows: Vec<_> = ways.iter().map(way).collect();
        let heads = ["way", "round trip", "outcome"];
        output::line(&output::table(heads, &rows))?;
    }
    if !answered {
        bail!(
            "{} did not answer: `weir peers` tells when it was heard last",
            arguments.id
        );
    }
    Ok(())
}

fn way(way: &Value) -> [String; 3] {
    let number = |key: &str| way[key].as_f64();
    let (round_trip, outcome) = if let Some(took) = number("ms") {
        (format!("{took:.2} ms"), "answers".to_owned())
    } else if let Some(took) = number("last_ms") {
        (format!("{took:.2} ms"), "at the last heartbeat".to_owned())
    } else if let Some(age) = number("heard_ms_ago") {
        let heard = format!("heard {:.1} s ago", age / 1e3);
        (String::new(), heard)
    } else {
        let reason = way["error"].as_str().unwrap_or("nobody knows why");
        (String::new(), format!("failed: {reason}"))
    };
    let name = way["way"].as_str().unwrap_or_default().to_owned();
    [name, round_trip, outcome]
}

pub(super) async fn drain(global: &Global, arguments: &DrainArguments) -> anyhow::Result<()> {
    let path = "/weir/v1/drain";
    if arguments.undo {
        tell(global, Method::DELETE, path, None, "end the draining").await?;
        let told = json!({ "draining": false });
        return global.answer(&told, "drains no more: peers may send calls here");
    }
    tell(global, Method::POST, path, None, "drain the node").await?;
    let client = global.client()?;
    loop {
        let request = client.request(Method::GET, "/weir/v1/status");
        let status: Value = client.ask_json("read the node's status", request).await?;
        let count = |field: &str| status[field].as_u64().unwrap_or(0);
        let classes = status["classes"].as_array().into_iter().flatten();
        let waiting: u64 = classes.filter_map(|class| class["waiting"].as_u64()).sum();
        let (running, accepted) = (count("running") + waiting, count("backlog"));
        if !arguments.wait {
            let told = json!({ "draining": true, "running": running, "accepted": accepted });
            let text = format!(
                "drains: takes no calls of peers and gives them its own; {running} run or wait \
                 here, {accepted} accepted ones have no result yet"
            );
            return global.answer(&told, &text);
        }
        if running == 0 && accepted == 0 {
            let told = json!({ "draining": true, "running": 0, "accepted": 0 });
            return global.answer(&told, "drained: nothing runs or waits here");
        }
        tokio::time::sleep(WATCH).await;
    }
}

pub(super) async fn rotate(global: &Global) -> anyhow::Result<()> {
    let client = global.client()?;
    let request = client.request(Method::POST, "/weir/v1/secret/rotate");
    let rotated: Value = client.ask_json("change the secret", request).await?;
    if global.json() {
        return Ok(output::json(&rotated)?);
    }
    let away = match rotated["away"].as_u64().unwrap_or_default() {
        0 => String::new(),
        count => format!(" ({count} more when they are back)"),
    };
    Ok(output::line(&format!(
        "the federation is {} now; {} other members were handed over{away}, tokens made before are \
         void",
        rotated["federation"].as_str().unwrap_or_default(),
        rotated["handed_over"]
    ))?)
}

pub(super) async fn leave(global: &Global) -> anyhow::Result<()> {
    tell(
        global,
        Method::POST,
        "/weir/v1/leave",
        None,
        "leave the federation",
    )
    .await?;
    global.answer(
        &json!({ "left": true }),
        "left: its membership is forgotten; start it anew to join or found another",
    )
}

pub(super) async fn announce(global: &Global, arguments: &AnnounceArguments) -> anyhow::Result<()> {
    let name = &arguments.function;
    let name = match &global.namespace {
        Some(namespace) if !name.contains('.') => format!("{name}.{namespace}"),
        Some(_) | None => name.clone(),
    };
    let client = global.client()?;
    let request = client.request(Method::POST, &format!("/weir/v1/catalogue/{name}"));
    let told: Value = client.ask_json("announce the function", request).await?;
    if global.json() {
        return Ok(output::json(&told)?);
    }
    let copies = told["copies"].as_u64().unwrap_or_default();
    Ok(output::line(&format!(
        "announced {name}; members that keep its code: {copies}"
    ))?)
}

pub(super) async fn forget(global: &Global, arguments: &PeerArguments) -> anyhow::Result<()> {
    let path = format!("/weir/v1/peers/{}", arguments.id);
    let told = tell(global, Method::DELETE, &path, None, "forget the peer").await?;
    let then = match told["newcomer"] == true {
        true => "; it is a newcomer when it is back",
        false => "",
    };
    global.answer(&told, &format!("forgot {}{then}", arguments.id))
}

pub(super) async fn deny(global: &Global, arguments: &DenyArguments) -> anyhow::Result<()> {
    let (id, everywhere) = (&arguments.id, arguments.federation);
    let (told, text) = match arguments.undo {
        true => {
            let path = match everywhere {
                true => format!("/weir/v1/denials/{id}?federation=true"),
                false => format!("/weir/v1/denials/{id}"),
            };
            let told = tell(global, Method::DELETE, &path, None, "take the denial back").await?;
            (told, "is not denied any more")
        }
        false => {
            let body = Some(json!({ "peer": id, "federation": everywhere }));
            let path = "/weir/v1/denials";
            let told = tell(global, Method::POST, path, body, "deny the peer").await?;
            (told, "is denied")
        }
    };
    let place = match everywhere {
        true => "in the whole federation",
        false => "on this node",
    };
    global.answer(&told, &format!("{id} {text} {place}"))
}

/// Prints why a call went where it went.
pub(super) async fn explain(global: &Global, call: &str) -> anyhow::Result<()> {
    let client = global.client()?;
    let request = client.request(Method::GET, &format!("/weir/v1/explain/{call}"));
    let why: Value = client
        .ask_json("read why the call went there", request)
        .await?;
    let text = serde_json::to_string_pretty(&why)?;
    // Beside the function's answer, which has standard output.
    let _ = writeln!(std::io::stderr(), "{text}");
    Ok(())
}

pub(super) async fn tell(
    global: &Global,
    method: Method,
    path: &str,
    body: Option<Value>,
    what: &str,
) -> anyhow::Result<Value> {
    let client = global.client()?;
    let mut request = client.request(method, path);
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    Ok(client.ask_json(what, request).await?)
}
