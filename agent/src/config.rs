//! What `weir run` is told: built-in defaults, a TOML file, the environment
//! and flags, each layer over the one before it.
//!
//! [`KEYS`] is the only list of settings: reading, `weir config`, the file of
//! defaults and the table in the manual all come from it.

mod check;
mod keys;
mod layers;
mod manual;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_federation::federated;
use weir_node::config::NodeConfig;
use weir_node::resources::{Cpu, Memory, Resources};

pub use self::keys::{CLASS_KEYS, CLIENT_VARIABLES, KEYS};
pub use self::layers::{Layers, Loaded, load};
pub use self::manual::{default_file, reference};
use crate::document::Value;
use crate::setting::{Auto, Field, PolicyName};

/// The HTTP door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether it may listen beyond loopback though nobody chose credentials.
    pub insecure: bool,
    /// Threads that serve connections; 0 for one per core.
    pub threads: usize,
    /// Certificate chain (PEM); with [`HttpConfig::tls_key`] the door speaks TLS.
    pub tls_certificate: Option<PathBuf>,
    /// Private key of the certificate (PEM).
    pub tls_key: Option<PathBuf>,
    /// Connections open at once, at most.
    pub max_connections: usize,
    /// Connections of one client's address, at most; half of all unless given.
    pub max_connections_per_address: Auto<usize>,
    /// Bytes of one request's headers, at most.
    pub header_bytes: u64,
    /// Headers of one request, at most.
    pub header_count: usize,
    /// Bytes of one request's body, at most.
    pub body_bytes: u64,
    /// Bytes of an asynchronous call's body, at most.
    pub async_body_bytes: u64,
    /// How long a client may take to send its headers.
    pub header_timeout: Duration,
    /// How long a connection may stay open between requests.
    pub idle_timeout: Duration,
    /// Longest gap between two pieces of a body.
    pub body_timeout: Duration,
    /// Bytes in a second below which a body ends while calls wait.
    pub body_rate: u64,
    /// Memory for bodies until they are whole.
    pub body_memory: Auto<Memory>,
    /// Hosts that `Host` and `Origin` may name on `/system` and `/weir`,
    /// beside the listen address and localhost.
    pub allowed_hosts: Vec<String>,
}

/// Who may do what.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// File that holds the bearer token; `None` for `token` in the data
    /// directory, made at first start.
    pub token_file: Option<PathBuf>,
    /// User of basic authentication; `None` for none.
    pub user: Option<String>,
    /// File that holds the user's password.
    pub password_file: Option<PathBuf>,
    /// Whether calling functions needs credentials too.
    pub functions: bool,
}

/// How logs are written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

const LOG_FORMATS: [(&str, LogFormat); 3] = [
    ("auto", LogFormat::Auto),
    ("human", LogFormat::Human),
    ("json", LogFormat::Json),
];

impl Field for LogFormat {
    fn kind(&self) -> &'static str {
        "auto, human or json"
    }
    fn assign(&mut self, value: &Value) -> Result<(), String> {
        let Value::Text(text) = value else {
            return Err(format!("expects one text, not a {}", value.kind()));
        };
        let named = LOG_FORMATS.iter().find(|(name, _)| name == text);
        let (_, format) = named.ok_or_else(|| format!("{text:?} is not auto, human or json"))?;
        *self = *format;
        Ok(())
    }
    fn show(&self) -> String {
        let named = LOG_FORMATS.iter().find(|(_, format)| format == self);
        named.map_or("auto", |(name, _)| name).to_owned()
    }
}

/// The node's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// How lines are written.
    pub format: LogFormat,
    /// Which lines are written, as `tracing` directives.
    pub level: String,
}

/// What `/metrics` says, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Whether OpenFaaS's names are there beside Weir's own.
    pub openfaas_compat: bool,
    /// Whether it answers without credentials.
    pub public: bool,
}

/// What functions may hold, before it is known what there is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ResourcesConfig {
    /// Processors; found out: all that this process may use.
    pub cpu: Auto<Cpu>,
    /// Memory; found out: 80 % of what machine and control group allow.
    pub memory: Auto<Memory>,
}

/// Everything that `weir run` is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node. Its `capacity` holds what [`Config::resources`] came to.
    pub node: NodeConfig,
    /// What functions may hold, as written.
    pub resources: ResourcesConfig,
    /// The HTTP door.
    pub http: HttpConfig,
    /// Who may do what.
    pub auth: AuthConfig,
    /// The node's own log.
    pub log: LogConfig,
    /// What `/metrics` says.
    pub metrics: MetricsConfig,
    /// Its place in a federation, but for what follows from the rest: the
    /// folder, the address that was bound, and the size of a call.
    pub federation: federated::Settings,
    /// How calls are placed there.
    pub policy: PolicyName,
}

impl Config {
    /// The defaults on a machine that has room for `machine`.
    pub fn new(data_dir: PathBuf, machine: Resources) -> Self {
        Config {
            node: NodeConfig::new(data_dir, capacity(&ResourcesConfig::default(), machine)),
            resources: ResourcesConfig::default(),
            http: HttpConfig {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
                insecure: false,
                threads: 0,
                tls_certificate: None,
                tls_key: None,
                max_connections: 10_000,
                max_connections_per_address: Auto::Auto,
                header_bytes: 64 << 10,
                header_count: 100,
                body_bytes: 100 << 20,
                async_body_bytes: 16 << 20,
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(60),
                body_timeout: Duration::from_secs(30),
                body_rate: 1 << 10,
                body_memory: Auto::Auto,
                allowed_hosts: Vec::new(),
            },
            auth: AuthConfig::default(),
            log: LogConfig {
                format: LogFormat::Auto,
                level: "info".to_owned(),
            },
            metrics: MetricsConfig {
                openfaas_compat: false,
                public: true,
            },
            federation: federated::Settings::default(),
            policy: PolicyName::default(),
        }
    }

    /// Whether the node takes part in a federation.
    pub fn is_federated(&self) -> bool {
        let federation = &self.federation;
        !federation.listen.is_empty()
            || federation.join.is_some()
            || !federation.peers.is_empty()
            || federation.mdns
    }

    /// Holds the values against each other, and against bounds that their
    /// types do not know.
    ///
    /// # Errors
    /// A line for each that cannot be: its key, what is wrong, what to write.
    pub fn check(&self) -> Result<(), String> {
        let wrong = check::check(self).into_iter();
        let wrong: Vec<_> = wrong
            .map(|(path, text)| format!("{path}: {text}"))
            .collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n"))
        }
    }

    /// The file that holds the bearer token of management requests.
    pub fn token_file(&self) -> PathBuf {
        self.auth
            .token_file
            .clone()
            .unwrap_or_else(|| token_file(&self.node.data_dir))
    }
}

/// Where a node that keeps its data in `data_dir` keeps its token.
pub fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("token")
}

/// Where a node keeps its data when nobody says: `/var/lib/weir` for root, the
/// user's own data folder otherwise.
pub fn default_data_dir(is_root: bool, environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let absolute = |name| {
        environment(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if is_root {
        return "/var/lib/weir".into();
    }
    let data = absolute("XDG_DATA_HOME");
    data.or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| "weir-data".into(), |data| data.join("weir"))
}

fn capacity(resources: &ResourcesConfig, machine: Resources) -> Resources {
    Resources {
        cpu: resources.cpu.or_else(|| machine.cpu),
        memory: resources
            .memory
            // The rest is for the node itself, the page cache and everything else here.
            .or_else(|| Memory::bytes(machine.memory.as_bytes() / 5 * 4)),
    }
}

/// What this process may use of this machine: its processors by affinity and
/// control group, its memory by size and control group.
pub fn machine() -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = sysinfo::System::new().map_or(UNKNOWN_MEMORY, |mut system| {
        system.refresh_memory();
        let total = system.total_memory();
        let limits = system.cgroup_limits();
        Memory::bytes(limits.map_or(total, |limits| limits.total_memory.min(total)))
    });
    Resources {
        cpu: Cpu::cores(u32::try_from(cores).unwrap_or(u32::MAX)),
        memory,
    }
}

/// What a machine that does not tell its memory is taken to have: little
/// enough for the smallest that Weir is meant for.
const UNKNOWN_MEMORY: Memory = Memory::mebibytes(512);

#[cfg(test)]
mod tests;
