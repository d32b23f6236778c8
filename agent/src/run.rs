//! A node and its doors, from start to shutdown.

mod credentials;
mod members;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tracing::{debug, error, info, warn};
use weir_federation::CallStreams;
use weir_federation::dispatch::{Alone, Dispatch, Rules};
use weir_federation::federated::Settings;
use weir_node::Node;
use weir_node::clock::Moment as _;
use weir_node::panics;

use self::credentials::credentials;
use self::members::{bind_members, federation_settings, join, serve_members};
use crate::config::{Config, HttpConfig};
use crate::door::Door;
use crate::http::{Greeting, Limits, Listeners, Server, thread_count};
use crate::local::{self, Note};
use crate::setting::PolicyName;
use crate::shutdown::{Asked, Signals};
use crate::tls::Certificates;
use crate::{problems, telemetry};

/// How long the last answers may take to be written once no call runs: what
/// the grace period leaves, and at least this.
const WRITE_TIME: Duration = Duration::from_secs(1);

/// How long its last words have to leave.
const FAREWELL: Duration = Duration::from_millis(100);

/// How long a greeting waits for the container engine, and between two looks.
const ENGINE_TIME: Duration = Duration::from_secs(1);
const ENGINE_LOOK: Duration = Duration::from_millis(50);

/// A node that runs in this process.
pub struct RunningNode {
    /// Where its HTTP door listens.
    pub address: SocketAddr,
    door: Arc<Door>,
    server: Server,
    members: Option<Server>,
    grace: Duration,
    /// For commands on this machine, until the node has ended.
    _note: Option<Note>,
}

impl std::fmt::Debug for RunningNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningNode")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl RunningNode {
    /// Takes no new work, lets running calls end within the grace period, and
    /// stops the node.
    pub async fn shutdown(self) {
        let until = tokio::time::Instant::now().later(self.grace);
        let federated = self.door.dispatch.as_ref().map(Dispatch::federated);
        if let Some(federated) = federated {
            federated.drain(true);
        }
        self.server.stop_accepting();
        self.door.stopping.cancel();
        self.door.node.drain(self.grace).await;
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let left = left.max(WRITE_TIME);
        if let Some(dispatch) = &self.door.dispatch {
            dispatch.keep_what_was_learned().await;
            dispatch.told(left).await;
        }
        let members = async {
            if let Some(members) = self.members {
                members.finish(left).await;
            }
        };
        tokio::join!(self.server.finish(left), members);
        if let Some(federated) = federated {
            federated.leave();
            // What was said last is on its way in no time, or never.
            tokio::time::sleep(FAREWELL).await;
            federated.stop().await;
        }
    }
}

impl RunningNode {
    /// Waits until it is clear that it will never be let into its federation, and
    /// tells why.
    async fn turned_away(&self) -> String {
        if let Some(dispatch) = &self.door.dispatch
            && let Err(reason) = dispatch.federated().member().is_let_in().await
        {
            return reason;
        }
        std::future::pending().await
    }

    /// Takes over what may change while it runs, each as far as it is right: what
    /// is wrong stays as it was.
    fn reload(&self, level: &telemetry::Level, config: anyhow::Result<Config>) {
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                error!("read again on SIGHUP, and left as it was: {error:#}");
                return;
            }
        };
        let tell = |what: &str, result: anyhow::Result<()>| match result {
            Ok(()) => info!("read again: {what}"),
            Err(error) => error!("read again, and left as it was: {what}: {error:#}"),
        };
        let http = &config.http;
        if let (Some(certificates), Some(certificate), Some(key)) = (
            &self.door.certificates,
            &http.tls_certificate,
            &http.tls_key,
        ) {
            let renewed = certificates.renew(certificate, key);
            tell("the certificate", renewed.map_err(Into::into));
        }
        let changed = credentials(&config).map(|changed| {
            self.door.credentials.store(Arc::new(changed));
        });
        tell("the token", changed);
        tell(
            "the log level",
            level.set(&config.log.level).map_err(Into::into),
        );
    }
}

/// Tells whoever started a node at a terminal what they have now.
async fn greet(node: &RunningNode, config: &Config) {
    let scheme = match node.door.certificates {
        Some(_) => "https",
        None => "http",
    };
    let engine = match engine(node).await {
        Some(version) => format!("found, version {version}"),
        None => format!(
            "none at {}: WebAssembly works, containers do not",
            config.node.docker.socket.display()
        ),
    };
    let told = [
        format!("  node      {scheme}://{}", node.address),
        format!("  data      {}", config.node.data_dir.display()),
        format!("  token     {}", config.token_file().display()),
        format!("  engine    {engine}"),
        "  next      weir samples deploy banner, or weir deploy NAME --wasm FILE".to_owned(),
    ];
    crate::output::note(&told.join("\n"));
}

/// The version of the container engine, once the node has asked it.
async fn engine(node: &RunningNode) -> Option<String> {
    let until = tokio::time::Instant::now().later(ENGINE_TIME);
    loop {
        let status = node.door.node.status();
        let version = status.executors.get("docker")?["version"].as_str();
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            return Some(version.to_owned());
        }
        if tokio::time::Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(ENGINE_LOOK).await;
    }
}

/// Starts a node and its doors; they run until [`RunningNode::shutdown`].
pub async fn start(config: Config) -> anyhow::Result<RunningNode> {
    config.check().map_err(anyhow::Error::msg)?;
    let http = &config.http;
    let certificates = certificates(http)?;
    // First, because it is the quickest to fail and the cheapest to undo.
    let threads = thread_count(http.threads);
    let listeners = Listeners::bind(http.listen, threads, "--http, http.listen")?;
    let rules = rules(&config)?;
    let wanted = config.is_federated();
    let member_listeners = match wanted {
        true => bind_members(&config.federation, threads)?,
        false => None,
    };
    let node = Box::pin(Node::start(config.node.clone()))
        .await
        .context("start the node")?;
    // After the node has made its data directory, and has it for itself.
    let credentials = credentials(&config)?;
    let address = listeners.address();
    let limits = limits(http);
    let greeting = greeting(certificates.as_ref())?;
    let encrypted = certificates.is_some();
    let bound = member_listeners.as_ref().map(Listeners::address);
    let settings = federation_settings(&config, bound);
    let (placing, streams) = placing(&node, rules, settings, wanted).await?;
    let door = Door::new(node, &config, credentials, address, placing, certificates);
    let door = Arc::new(door);
    watch(&door);
    let traffic = Arc::clone(&door.traffic);
    let members = match (&door.dispatch, streams) {
        (Some(dispatch), Some(streams)) => {
            let limits = &limits;
            let members = serve_members(&door, dispatch, member_listeners, streams, limits);
            Some(members?)
        }
        (Some(_) | None, _) => None,
    };
    // Before the door opens: whoever sees it open may run a command at once.
    let note = leave_note(address.port(), &config);
    let server = Server::start(listeners, limits, greeting, Arc::clone(&door), traffic)?;
    info!(%address, tls = encrypted, node = door.node.id(), "listening");
    Ok(RunningNode {
        address,
        door,
        server,
        members,
        grace: config.node.grace,
        _note: note,
    })
}

fn certificates(http: &HttpConfig) -> anyhow::Result<Option<Arc<Certificates>>> {
    match (&http.tls_certificate, &http.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(Certificates::read(certificate, key)?)),
        // Both or none: checked.
        (None | Some(_), None) | (None, Some(_)) => Ok(None),
    }
}

fn greeting(certificates: Option<&Arc<Certificates>>) -> anyhow::Result<Greeting> {
    Ok(match certificates {
        Some(certificates) => Greeting::Tls(certificates.server()?),
        None => Greeting::Plain,
    })
}

/// What each connection of the door for users may take.
fn limits(http: &HttpConfig) -> Limits {
    Limits {
        connections: http.max_connections,
        connections_per_address: http
            .max_connections_per_address
            .or_else(|| http.max_connections.div_ceil(2)),
        header_bytes: usize::try_from(http.header_bytes).unwrap_or(usize::MAX),
        header_count: http.header_count,
        header_timeout: http.header_timeout,
        idle_timeout: http.idle_timeout,
        stall_timeout: http.body_timeout,
    }
}

/// What places the node's calls where it is a member of a federation, or would
/// place them.
async fn placing(
    node: &Node,
    rules: Rules,
    settings: Settings,
    wanted: bool,
) -> anyhow::Result<((Option<Dispatch>, Option<Alone>), Option<CallStreams>)> {
    if !wanted {
        resume(node);
        return Ok(((None, Some(Alone::load(rules, &settings.folder))), None));
    }
    let (federated, streams) = join(node, settings).await?;
    let dispatch = Dispatch::new(node.clone(), federated, rules);
    Ok(((Some(dispatch), None), Some(streams)))
}

/// Goes on with the calls that an earlier life of this node had accepted: nobody
/// else has them.
fn resume(node: &Node) {
    for call in node.take_held() {
        node.resume(call.id);
    }
}

/// Leaves a note for commands on this machine of where the token is.
fn leave_note(port: u16, config: &Config) -> Option<Note> {
    let environment = |name: &str| std::env::var(name).ok();
    let note = local::leave(port, &config.token_file(), &environment);
    let note = note.inspect_err(|error| {
        debug!(%error, "commands are not told where the token is");
    });
    note.ok().flatten()
}

/// Has problems looked for, and calls counted that end without a caller.
fn watch(door: &Arc<Door>) {
    tokio::spawn(problems::watch(Arc::clone(door)));
    // Weak, because the door holds the node and would never go otherwise.
    let counted = Arc::downgrade(door);
    door.node.observe(move |outcome| {
        if let Some(door) = counted.upgrade() {
            door.count(outcome);
        }
    });
}

/// How calls are placed, by what the configuration says.
fn rules(config: &Config) -> anyhow::Result<Rules> {
    let mut by_class = BTreeMap::new();
    for class in &config.node.classes {
        if let Some(name) = &class.policy {
            let policy: PolicyName = name
                .parse()
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("read the policy of the class {}", class.name))?;
            by_class.insert(class.name.clone(), (&policy.0).into());
        }
    }
    Ok(Rules {
        default: (&config.policy.0).into(),
        by_class,
    })
}

/// Runs a node until a signal ends it.
///
/// The first `SIGTERM` or `SIGINT` lets running calls end within the grace
/// period; the second ends them. `SIGHUP` has certificates, token and log level
/// read again, from what `reload` finds configured then.
pub fn run(config: Config, reload: &dyn Fn() -> anyhow::Result<Config>) -> anyhow::Result<()> {
    let level = telemetry::start(&config.log)?;
    panics::watch();
    // A node touches little of much memory: huge pages would make 6 MB of it
    // 24, and have the kernel clear two megabytes for a call that needs four
    // kilobytes. A kernel that has none is as well.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("node")
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen().context("listen for signals")?;
        let node = tokio::select! {
            node = Box::pin(start(config.clone())) => node?,
            signal = signals.stop() => {
                info!(signal, "asked to stop before the node had started");
                return Ok(());
            }
        };
        if io::stderr().is_terminal() {
            greet(&node, &config).await;
        }
        let signal = loop {
            let asked = tokio::select! {
                asked = signals.next() => asked,
                reason = node.turned_away() => bail!("join the federation: {reason}"),
            };
            match asked {
                Asked::Stop(signal) => break signal,
                Asked::Reload => node.reload(&level, reload()),
            }
        };
        let grace = node.grace;
        info!(
            signal,
            ?grace,
            "stopping: no new work, running calls may end"
        );
        tokio::select! {
            () = node.shutdown() => info!("stopped"),
            signal = signals.stop() => warn!(signal, "stopped at once, running calls were cut"),
        }
        Ok(())
    });
    // What is left blocks on nothing that is worth waiting for.
    runtime.shutdown_background();
    result
}
