//! A node and its doors, from start to shutdown.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tracing::{debug, error, info, warn};
use weir_federation::dispatch::{Alone, Dispatch, Rules};
use weir_federation::federated::{Federated, Settings};
use weir_federation::regions::NONE as NO_REGION;
use weir_federation::{CallStreams, Multiaddr};
use weir_node::Node;
use weir_node::clock::Moment as _;
use weir_node::{panics, private};

use crate::auth::Credentials;
use crate::config::Config;
use crate::door::Door;
use crate::door::guests::Guests;
use crate::http::{Greeting, Limits, Listeners, Server, Transport, is_free, thread_count};
use crate::local::{self, Note};
use crate::setting::PolicyName;
use crate::shutdown::{Asked, Signals};
use crate::tls::Certificates;
use crate::{problems, telemetry};

/// Bytes that a call's head has more between nodes than a client may send: what
/// the nodes say to each other, and 32 for each header, as HTTP/2 counts.
const MEMBER_HEADER_BYTES: usize = 16 << 10;

/// Fewest characters of a token that somebody chose.
const TOKEN_CHARACTERS: usize = 16;

/// How long the last answers may take to be written once no call runs: what
/// the grace period leaves, and at least this.
const WRITE_TIME: Duration = Duration::from_secs(1);

/// Shortest `federation.takeover`: a node that is only late is not gone.
const LEAST_TAKEOVER: Duration = Duration::from_secs(1);

/// How long its last words have to leave.
const FAREWELL: Duration = Duration::from_millis(100);

/// How long a start waits to be let into the federation; a token that is refused
/// ends the start.
const JOIN_TIME: Duration = Duration::from_secs(2);

/// How long a greeting waits for the container engine, and between two looks.
const ENGINE_TIME: Duration = Duration::from_secs(1);
const ENGINE_LOOK: Duration = Duration::from_millis(50);

/// Connections of members, at most.
const MEMBER_CONNECTIONS: usize = 4_096;

/// A connection of a member that nobody uses stays open so long: longer than
/// members keep theirs.
const MEMBER_IDLE: Duration = Duration::from_secs(600);

/// Where a member of a federation listens when nobody says otherwise.
const OVERLAY: [&str; 2] = ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"];
/// The same for calls.
const CALLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 4002);

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
    let certificates = match (&http.tls_certificate, &http.tls_key) {
        (Some(certificate), Some(key)) => Some(Certificates::read(certificate, key)?),
        // Both or none: checked.
        (None | Some(_), None) | (None, Some(_)) => None,
    };
    // First, because it is the quickest to fail and the cheapest to undo.
    let threads = thread_count(http.threads);
    let listeners = Listeners::bind(http.listen, threads, "--http, http.listen")?;
    let rules = rules(&config)?;
    let wanted = config.is_federated();
    let member_listeners = match member_address(&config.federation).filter(|_| wanted) {
        Some(address) => {
            let setting = "--peer-listen, federation.peer-listen";
            Some(Listeners::bind(address, threads, setting)?)
        }
        None => None,
    };
    if wanted {
        for address in overlay_addresses(&config.federation) {
            if let Some((transport, address)) = socket_of(&address) {
                is_free(address, transport, "--listen, federation.listen")?;
            }
        }
    }
    let node = Box::pin(Node::start(config.node.clone()))
        .await
        .context("start the node")?;
    // After the node has made its data directory, and has it for itself.
    let credentials = credentials(&config)?;
    let address = listeners.address();
    let limits = Limits {
        connections: http.max_connections,
        connections_per_address: http
            .max_connections_per_address
            .or_else(|| http.max_connections.div_ceil(2)),
        header_bytes: usize::try_from(http.header_bytes).unwrap_or(usize::MAX),
        header_count: http.header_count,
        header_timeout: http.header_timeout,
        idle_timeout: http.idle_timeout,
        stall_timeout: http.body_timeout,
    };
    let greeting = match &certificates {
        Some(certificates) => Greeting::Tls(certificates.server()?),
        None => Greeting::Plain,
    };
    let encrypted = certificates.is_some();
    let bound = member_listeners.as_ref().map(Listeners::address);
    let settings = federation_settings(&config, bound);
    let (dispatch, alone, streams) = match wanted {
        true => {
            let started = Federated::start(&node, settings).context("join the federation");
            let (federated, streams) = started?;
            let let_in = federated.member().is_let_in();
            match tokio::time::timeout(JOIN_TIME, let_in).await {
                Ok(Err(reason)) => {
                    federated.stop().await;
                    bail!("join the federation: {reason}")
                }
                Ok(Ok(())) => {}
                Err(_) => warn!(
                    "not in the federation yet: no member that the token names is reached; goes \
                     on trying"
                ),
            }
            let dispatch = Dispatch::new(node.clone(), federated, rules);
            (Some(dispatch), None, Some(streams))
        }
        false => {
            for call in node.take_held() {
                node.resume(call.id);
            }
            (None, Some(Alone::load(rules, &settings.folder)), None)
        }
    };
    let door = Door::new(
        node,
        &config,
        credentials,
        address,
        (dispatch, alone),
        certificates,
    );
    let door = Arc::new(door);
    tokio::spawn(problems::watch(Arc::clone(&door)));
    // Weak, because the door holds the node and would never go otherwise.
    let counted = Arc::downgrade(&door);
    door.node.observe(move |outcome| {
        if let Some(door) = counted.upgrade() {
            door.count(outcome);
        }
    });
    let traffic = Arc::clone(&door.traffic);
    let members = match (&door.dispatch, streams) {
        (Some(dispatch), Some(streams)) => {
            let limits = Limits {
                connections: MEMBER_CONNECTIONS,
                // Many may be behind one address, and each proves who it is.
                connections_per_address: MEMBER_CONNECTIONS,
                idle_timeout: MEMBER_IDLE,
                ..limits.clone()
            };
            Some(serve_members(
                &door,
                dispatch,
                member_listeners,
                streams,
                limits,
            )?)
        }
        (Some(_) | None, _) => None,
    };
    // Before the door opens: whoever sees it open may run a command at once.
    let environment = |name: &str| std::env::var(name).ok();
    let note = local::leave(address.port(), &config.token_file(), &environment);
    let note = note.inspect_err(|error| {
        debug!(%error, "commands are not told where the token is");
    });
    let server = Server::start(listeners, limits, greeting, Arc::clone(&door), traffic)?;
    info!(%address, tls = encrypted, node = door.node.id(), "listening");
    Ok(RunningNode {
        address,
        door,
        server,
        members,
        grace: config.node.grace,
        _note: note.ok().flatten(),
    })
}

/// Where calls of members are taken; `None` where nobody could dial it.
fn member_address(federation: &Settings) -> Option<SocketAddr> {
    match federation.relayed {
        true => federation.peer_listen,
        false => Some(federation.peer_listen.unwrap_or(CALLS)),
    }
}

/// Where members link to it.
fn overlay_addresses(federation: &Settings) -> Vec<Multiaddr> {
    if !federation.listen.is_empty() {
        return federation.listen.clone();
    }
    let parsed = OVERLAY.iter().map(|text| text.parse());
    parsed.map(|address| address.expect("ours")).collect()
}

/// The port that a multiaddress has on this machine; `None` where it has none, or
/// takes a free one.
fn socket_of(address: &Multiaddr) -> Option<(Transport, SocketAddr)> {
    let text = address.to_string();
    let mut parts = text.split('/').skip(1);
    let ip: IpAddr = match parts.next()? {
        "ip4" | "ip6" => parts.next()?.parse().ok()?,
        _ => return None,
    };
    let transport = match parts.next()? {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    let port: u16 = parts.next()?.parse().ok()?;
    (port != 0).then(|| (transport, SocketAddr::new(ip, port)))
}

/// What the configuration says of the federation, and what follows for it from
/// the rest.
fn federation_settings(config: &Config, bound: Option<SocketAddr>) -> Settings {
    let federation = &config.federation;
    let named = federation.regions.iter();
    let named = named.filter(|region| *region != NO_REGION);
    Settings {
        folder: config.node.data_dir.join("federation"),
        listen: overlay_addresses(federation),
        peer_listen: bound,
        regions: named.cloned().collect(),
        follows_regions: federation.regions.is_empty(),
        takeover: federation.takeover.max(LEAST_TAKEOVER),
        call_bytes: config.http.async_body_bytes,
        ..federation.clone()
    }
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

/// Takes calls of members, on a listener of its own and on streams.
fn serve_members(
    door: &Arc<Door>,
    dispatch: &Dispatch,
    listeners: Option<Listeners>,
    mut streams: CallStreams,
    mut limits: Limits,
) -> anyhow::Result<Server> {
    limits.header_bytes = limits.header_bytes.saturating_add(MEMBER_HEADER_BYTES);
    let guests = Guests {
        dispatch: dispatch.clone(),
        body: door.body,
        gate: Arc::clone(&door.gate),
    };
    let listeners = match listeners {
        Some(listeners) => listeners,
        // Streams alone; a server wants some listener, and nobody knows of this.
        None => {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            Listeners::bind(any, 1, "for streams of members")?
        }
    };
    let greeting = Greeting::Members(dispatch.federated().acceptor().clone());
    let address = listeners.address();
    let server = Server::start(
        listeners,
        limits,
        greeting,
        Arc::new(guests),
        Arc::default(),
    )?;
    let adopt = server.adopter();
    tokio::spawn(async move {
        while let Some((member, stream)) = streams.recv().await {
            adopt(stream.compat(), member);
        }
    });
    info!(%address, "members send calls here");
    Ok(server)
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

/// What management requests must prove: the token, made at the first start,
/// and user and password if there are any.
fn credentials(config: &Config) -> anyhow::Result<Credentials> {
    let path = config.token_file();
    let token = match private::read_line(&path, TOKEN_CHARACTERS) {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && config.auth.token_file.is_none() =>
        {
            create_token(&path)
        }
        read => read,
    };
    let token = token.with_context(|| format!("read the token at {}", path.display()))?;
    let basic = match (&config.auth.user, &config.auth.password_file) {
        (Some(user), Some(path)) => {
            let password = private::read_line(path, 1);
            let password =
                password.with_context(|| format!("read the password at {}", path.display()))?;
            Some((user.clone(), password))
        }
        // Both or none: checked.
        (None | Some(_), None) | (None, Some(_)) => None,
    };
    Ok(Credentials { token, basic })
}

/// Makes a token of 256 random bits that its owner alone can read.
fn create_token(path: &Path) -> io::Result<String> {
    let random: [u8; 32] = rand::random();
    let token = weir_node::id::Digest::new(random).hex();
    // Half a token would let nobody in.
    private::write(path, format!("{token}\n").as_bytes())?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use weir_node::resources::Resources;

    use super::*;

    fn config(dir: &Path) -> Config {
        Config::new(dir.to_owned(), Resources::ZERO)
    }

    #[test]
    fn token_is_made_once_and_for_its_owner() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = credentials(&config(dir.path())).expect("made").token;
        assert_eq!(first.len(), 64);
        assert_eq!(credentials(&config(dir.path())).expect("read").token, first);
        let mode = dir
            .path()
            .join("token")
            .metadata()
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn token_file_that_somebody_chose_is_never_made() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = config(dir.path());
        config.auth.token_file = Some(dir.path().join("mine"));
        let error = format!("{:#}", credentials(&config).expect_err("not there"));
        assert!(error.contains("read the token at"), "{error}");
    }

    #[test]
    fn empty_secret_is_no_secret() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("token"), "\n").expect("written");
        assert!(credentials(&config(dir.path())).is_err());
    }

    #[test]
    fn open_address_needs_credentials_that_somebody_chose() {
        let mut config = config(Path::new("/nowhere"));
        assert!(config.check().is_ok());
        config.http.listen = "0.0.0.0:80".parse().expect("an address");
        assert!(config.check().is_err());
        config.auth.token_file = Some("/token".into());
        assert!(config.check().is_ok());
        config.auth.token_file = None;
        config.http.insecure = true;
        assert!(config.check().is_ok());
    }
}
