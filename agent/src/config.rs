//! What `weir run` is told: built-in defaults, a TOML file, the environment
//! and flags, each layer over the one before it.
//!
//! [`KEYS`] is the only list of settings: reading, `weir config`, the file of
//! defaults and the table in the manual all come from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_federation::federated::{EtcdSettings, Registry};
use weir_federation::membership::Token;
use weir_federation::report::Role;
use weir_federation::{Endpoint, Multiaddr};
use weir_node::config::{ClassConfig, NodeConfig};
use weir_node::resources::{Cpu, Memory, Resources};

use crate::document::{self, Table, Tree, Value};
use crate::setting::{
    Auto, Everywhere, Field, Key, Mistake, Mistakes, Origin, PolicyName, fill, suggestion,
};
use crate::telemetry;

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

/// The node's place in a federation, as written.
#[derive(Debug, Clone)]
pub struct FederationConfig {
    /// Multiaddresses of the overlay. With none, and nobody to join, the node
    /// stays alone.
    pub listen: Vec<Multiaddr>,
    /// Where it takes calls of peers.
    pub peer_listen: Option<Everywhere>,
    /// Multiaddresses that others are told, where they differ.
    pub advertise: Vec<Multiaddr>,
    /// The same for calls.
    pub peer_advertise: Vec<Endpoint>,
    /// The token by which it joins, the first time.
    pub join: Option<Token>,
    /// Members to link to.
    pub peers: Vec<Multiaddr>,
    /// What it is for.
    pub role: Auto<Role>,
    /// Its zone.
    pub zone: String,
    /// Regions that it spills to; a cloud node's own first.
    pub regions: Vec<String>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Whether it looks for members on the local network.
    pub mdns: bool,
    /// Whether it can be reached over other members only.
    pub relayed: bool,
    /// How long certificates that it issues are good.
    pub certificate_life: Duration,
    /// Percent of the node that other nodes' users may have.
    pub guests: u32,
    /// How calls are placed.
    pub policy: PolicyName,
    /// Code that it fetches from members, in a second.
    pub fetch_rate: Option<Memory>,
    /// How long a node is gone before copies of its calls are run.
    pub takeover: Duration,
    /// Where functions are made known.
    pub registry: Registry,
    /// How etcd is reached.
    pub etcd: EtcdSettings,
}

impl Default for FederationConfig {
    fn default() -> Self {
        FederationConfig {
            listen: Vec::new(),
            peer_listen: None,
            advertise: Vec::new(),
            peer_advertise: Vec::new(),
            join: None,
            peers: Vec::new(),
            role: Auto::Auto,
            zone: "default".to_owned(),
            regions: Vec::new(),
            labels: BTreeMap::new(),
            mdns: false,
            relayed: false,
            certificate_life: Duration::from_secs(30 * 24 * 3600),
            guests: 80,
            policy: PolicyName::default(),
            fetch_rate: None,
            takeover: Duration::from_secs(30),
            registry: Registry::default(),
            etcd: EtcdSettings {
                prefix: "/weir".to_owned(),
                ..EtcdSettings::default()
            },
        }
    }
}

impl FederationConfig {
    /// Whether the node takes part in one.
    pub fn is_wanted(&self) -> bool {
        !self.listen.is_empty() || self.join.is_some() || !self.peers.is_empty() || self.mdns
    }
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
    /// Its place in a federation.
    pub federation: FederationConfig,
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
            federation: FederationConfig::default(),
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

/// Every setting that has one value. The QoS classes are [`CLASS_KEYS`].
pub static KEYS: &[Key<Config>] = &[
    Key {
        path: "data-dir",
        field: |c| &mut c.node.data_dir,
        help: "Where functions, secrets, accepted calls and results are kept.",
    },
    Key {
        path: "http.listen",
        field: |c| &mut c.http.listen,
        help: "Address and port of the HTTP door; a port alone is 127.0.0.1's, port 0 takes a free one.",
    },
    Key {
        path: "http.insecure",
        field: |c| &mut c.http.insecure,
        help: "Listen beyond loopback though neither token file nor user are configured.",
    },
    Key {
        path: "http.threads",
        field: |c| &mut c.http.threads,
        help: "Threads that serve connections; 0 for one per core.",
    },
    Key {
        path: "http.tls-certificate",
        field: |c| &mut c.http.tls_certificate,
        help: "Certificate chain (PEM); the door speaks TLS when it and the key are given.",
    },
    Key {
        path: "http.tls-key",
        field: |c| &mut c.http.tls_key,
        help: "Private key of the certificate (PEM).",
    },
    Key {
        path: "http.max-connections",
        field: |c| &mut c.http.max_connections,
        help: "Connections open at once; beyond nine tenths, idle ones are closed for new ones.",
    },
    Key {
        path: "http.max-connections-per-address",
        field: |c| &mut c.http.max_connections_per_address,
        help: "Those of one address (IPv6: of one /64); auto for half of all.",
    },
    Key {
        path: "http.header-bytes",
        field: |c| &mut c.http.header_bytes,
        help: "Bytes of one request's headers; more is 431.",
    },
    Key {
        path: "http.header-count",
        field: |c| &mut c.http.header_count,
        help: "Headers of one request; more is 431.",
    },
    Key {
        path: "http.body-bytes",
        field: |c| &mut c.http.body_bytes,
        help: "Bytes of one request's body; more is 413.",
    },
    Key {
        path: "http.async-body-bytes",
        field: |c| &mut c.http.async_body_bytes,
        help: "Bytes of an asynchronous call's body; more is 413.",
    },
    Key {
        path: "http.header-timeout",
        field: |c| &mut c.http.header_timeout,
        help: "How long a client may take to send its headers.",
    },
    Key {
        path: "http.idle-timeout",
        field: |c| &mut c.http.idle_timeout,
        help: "How long a connection stays open between requests.",
    },
    Key {
        path: "http.body-timeout",
        field: |c| &mut c.http.body_timeout,
        help: "Longest gap between two pieces of a request's body; longer is 408.",
    },
    Key {
        path: "http.body-rate",
        field: |c| &mut c.http.body_rate,
        help: "Bytes in a second below which a call's body ends (408), only while calls wait.",
    },
    Key {
        path: "http.body-memory",
        field: |c| &mut c.http.body_memory,
        help: "Memory in which bodies of calls become whole; auto for a sixteenth of \
               resources.memory, from 16MiB to 512MiB.",
    },
    Key {
        path: "http.allowed-hosts",
        field: |c| &mut c.http.allowed_hosts,
        help: "Hosts accepted in Host and Origin on /system and /weir, beside the listen address \
               and localhost.",
    },
    Key {
        path: "auth.token-file",
        field: |c| &mut c.auth.token_file,
        help: "File with the bearer token of management requests; none: DATA-DIR/token, made at \
               first start.",
    },
    Key {
        path: "auth.user",
        field: |c| &mut c.auth.user,
        help: "User of basic authentication, as OpenFaaS clients log in.",
    },
    Key {
        path: "auth.password-file",
        field: |c| &mut c.auth.password_file,
        help: "File with the password of that user.",
    },
    Key {
        path: "auth.functions",
        field: |c| &mut c.auth.functions,
        help: "Whether calling functions needs credentials too.",
    },
    Key {
        path: "resources.cpu",
        field: |c| &mut c.resources.cpu,
        help: "Cores that running calls share; auto: all that this process may use.",
    },
    Key {
        path: "resources.memory",
        field: |c| &mut c.resources.memory,
        help: "Memory that functions share; auto: 80 % of what machine and control group allow.",
    },
    Key {
        path: "resources.calls",
        field: |c| &mut c.node.max_calls,
        help: "Calls that run or wait at once; more are 429.",
    },
    Key {
        path: "functions.max",
        field: |c| &mut c.node.max_functions,
        help: "Functions deployed at once.",
    },
    Key {
        path: "functions.max-timeout",
        field: |c| &mut c.node.max_timeout,
        help: "Longest timeout that a function may ask for.",
    },
    Key {
        path: "async.backlog",
        field: |c| &mut c.node.asynchronous.backlog,
        help: "Accepted asynchronous calls that are not done yet; more are 429.",
    },
    Key {
        path: "async.parallel",
        field: |c| &mut c.node.asynchronous.parallel,
        help: "Asynchronous calls that run at once.",
    },
    Key {
        path: "async.keep-trying",
        field: |c| &mut c.node.asynchronous.keep_trying,
        help: "How long an accepted call that finds no place is tried before that is its result.",
    },
    Key {
        path: "async.keep-results",
        field: |c| &mut c.node.asynchronous.keep_results,
        help: "How long a result is kept after its call ended.",
    },
    Key {
        path: "async.max-results",
        field: |c| &mut c.node.asynchronous.max_results,
        help: "Results kept; the oldest go first.",
    },
    Key {
        path: "async.result-bytes",
        field: |c| &mut c.node.asynchronous.result_bytes,
        help: "Largest result kept; a longer one fails its call.",
    },
    Key {
        path: "async.callback-attempts",
        field: |c| &mut c.node.asynchronous.callback_attempts,
        help: "Attempts to deliver a result to its callback.",
    },
    Key {
        path: "async.callback-local",
        field: |c| &mut c.node.asynchronous.callback_local,
        help: "Whether callbacks may go to loopback, link-local and private addresses.",
    },
    Key {
        path: "artifacts.max-bytes",
        field: |c| &mut c.node.artifacts.max_bytes,
        help: "Largest artifact that may be uploaded.",
    },
    Key {
        path: "artifacts.disk-bytes",
        field: |c| &mut c.node.artifacts.disk_bytes,
        help: "Disk that artifacts and compiled code may use together.",
    },
    Key {
        path: "artifacts.keep-unreferenced",
        field: |c| &mut c.node.artifacts.keep_unreferenced,
        help: "How long an artifact that no function refers to is kept.",
    },
    Key {
        path: "wasm.compile-memory",
        field: |c| &mut c.node.wasm.compile_memory,
        help: "Memory that one compilation may use.",
    },
    Key {
        path: "wasm.compile-time",
        field: |c| &mut c.node.wasm.compile_time,
        help: "Time that one compilation may take.",
    },
    Key {
        path: "wasm.compiler",
        field: |c| &mut c.node.wasm.compiler,
        help: "Program that compiles; none: this one.",
    },
    Key {
        path: "wasm.max-memory",
        field: |c| &mut c.node.wasm.max_memory,
        help: "Largest memory limit that a function may ask for.",
    },
    Key {
        path: "wasm.output-bytes",
        field: |c| &mut c.node.wasm.output_bytes,
        help: "Bytes that one call may answer.",
    },
    Key {
        path: "wasm.threads",
        field: |c| &mut c.node.wasm.threads,
        help: "Threads for calls that run long; 0 for one per core.",
    },
    Key {
        path: "docker.socket",
        field: |c| &mut c.node.docker.socket,
        help: "The container engine's Unix socket.",
    },
    Key {
        path: "docker.start-timeout",
        field: |c| &mut c.node.docker.start_timeout,
        help: "Longest wait for a container to take calls.",
    },
    Key {
        path: "docker.python-image",
        field: |c| &mut c.node.docker.python_image,
        help: "Image of the runtime python, as images/python/build makes it.",
    },
    Key {
        path: "docker.spare-images",
        field: |c| &mut c.node.docker.spare_images,
        help: "Disk for images that this node fetched and no function needs any more.",
    },
    Key {
        path: "logs.lines",
        field: |c| &mut c.node.log_lines,
        help: "Log lines kept per function.",
    },
    Key {
        path: "logs.bytes-per-second",
        field: |c| &mut c.node.log_bytes_per_second,
        help: "Log bytes that a function may write per second; more is dropped and counted.",
    },
    Key {
        path: "log.format",
        field: |c| &mut c.log.format,
        help: "How the node's own log is written; auto: human on a terminal, json otherwise.",
    },
    Key {
        path: "log.level",
        field: |c| &mut c.log.level,
        help: "Which lines of it: error, warn, info, debug, trace, or directives per module, over info.",
    },
    Key {
        path: "metrics.openfaas-compat",
        field: |c| &mut c.metrics.openfaas_compat,
        help: "Whether /metrics has OpenFaaS's names too.",
    },
    Key {
        path: "metrics.public",
        field: |c| &mut c.metrics.public,
        help: "Whether /metrics answers without credentials.",
    },
    Key {
        path: "federation.listen",
        field: |c| &mut c.federation.listen,
        help: "Multiaddresses at which members link to this node (/ip4/0.0.0.0/tcp/4001); none, \
               and nobody to join: it stays alone.",
    },
    Key {
        path: "federation.peer-listen",
        field: |c| &mut c.federation.peer_listen,
        help: "Address and port at which it takes calls of members; none: port 4002, unless it is \
               relayed.",
    },
    Key {
        path: "federation.advertise",
        field: |c| &mut c.federation.advertise,
        help: "Multiaddresses that members are told; none: those that it listens at.",
    },
    Key {
        path: "federation.peer-advertise",
        field: |c| &mut c.federation.peer_advertise,
        help: "Addresses or names, with ports, for calls that members are told; none: where it listens.",
    },
    Key {
        path: "federation.join",
        field: |c| &mut c.federation.join,
        help: "Token by which it joins, the first time; weir token makes one.",
    },
    Key {
        path: "federation.peers",
        field: |c| &mut c.federation.peers,
        help: "Multiaddresses of members to link to, beside those of the token.",
    },
    Key {
        path: "federation.role",
        field: |c| &mut c.federation.role,
        help: "edge serves its own users and spills; cloud takes what spills; auto: as invited.",
    },
    Key {
        path: "federation.zone",
        field: |c| &mut c.federation.zone,
        help: "Zone of an edge node: its neighbours share it.",
    },
    Key {
        path: "federation.regions",
        field: |c| &mut c.federation.regions,
        help: "Cloud regions to spill to, in order; none: not to any. A cloud node's own comes first. \
               Empty: the four nearest that it hears of; of a cloud node, default.",
    },
    Key {
        path: "federation.labels",
        field: |c| &mut c.federation.labels,
        help: "Labels that functions may ask for with constraints.",
    },
    Key {
        path: "federation.mdns",
        field: |c| &mut c.federation.mdns,
        help: "Whether it looks for members on the local network.",
    },
    Key {
        path: "federation.relayed",
        field: |c| &mut c.federation.relayed,
        help: "Whether members reach it over other members only, as behind NAT.",
    },
    Key {
        path: "federation.certificate-life",
        field: |c| &mut c.federation.certificate_life,
        help: "How long memberships that it issues are good; they are renewed at half of that.",
    },
    Key {
        path: "federation.guests",
        field: |c| &mut c.federation.guests,
        help: "Percent of this node that calls of other nodes' users may hold which run longer than 1 s; \
               short ones may have all that its own users have not needed at once for 10 s.",
    },
    Key {
        path: "federation.policy",
        field: |c| &mut c.federation.policy,
        help: "How calls are placed: spill, local-only, cloud-only, edge-only or edge-cloud.",
    },
    Key {
        path: "federation.fetch-rate",
        field: |c| &mut c.federation.fetch_rate,
        help: "Code that it fetches from members in a second, at most; none: as fast as it goes.",
    },
    Key {
        path: "federation.takeover",
        field: |c| &mut c.federation.takeover,
        help: "How long a node is gone before the first copy of its calls is run; the second after twice that.",
    },
    Key {
        path: "federation.registry",
        field: |c| &mut c.federation.registry,
        help: "Where members and functions are made known: gossip, etcd, or both while moving.",
    },
    Key {
        path: "federation.etcd.endpoints",
        field: |c| &mut c.federation.etcd.endpoints,
        help: "URLs of etcd's members (http://HOST:2379).",
    },
    Key {
        path: "federation.etcd.prefix",
        field: |c| &mut c.federation.etcd.prefix,
        help: "What all keys in etcd begin with.",
    },
    Key {
        path: "federation.etcd.user",
        field: |c| &mut c.federation.etcd.user,
        help: "User of etcd.",
    },
    Key {
        path: "federation.etcd.password-file",
        field: |c| &mut c.federation.etcd.password_file,
        help: "File that holds the password of that user.",
    },
    Key {
        path: "federation.etcd.ca",
        field: |c| &mut c.federation.etcd.ca,
        help: "File with the certificates (PEM) by which etcd is checked; https needs it.",
    },
    Key {
        path: "federation.etcd.certificate",
        field: |c| &mut c.federation.etcd.certificate,
        help: "File with this node's certificate (PEM) for etcd.",
    },
    Key {
        path: "federation.etcd.key",
        field: |c| &mut c.federation.etcd.key,
        help: "File with the key (PEM) of that certificate.",
    },
    Key {
        path: "shutdown.grace",
        field: |c| &mut c.node.grace,
        help: "How long running calls may take to end at shutdown.",
    },
];

/// The settings of one `[[qos]]` class. They are set in the file only.
pub static CLASS_KEYS: &[Key<ClassConfig>] = &[
    Key {
        path: "name",
        field: |c| &mut c.name,
        help: "Its name in X-Weir-Qos; the first class is the default.",
    },
    Key {
        path: "priority",
        field: |c| &mut c.priority,
        help: "Its weight, 1 to 1000: waiting classes are served in proportion.",
    },
    Key {
        path: "max-wait",
        field: |c| &mut c.max_wait,
        help: "Longest wait in its queue; none: 5 s, or twice the mean time that the function runs \
               where that is more.",
    },
    Key {
        path: "queue",
        field: |c| &mut c.queue,
        help: "Calls waiting at once; more are 429.",
    },
    Key {
        path: "deadline",
        field: |c| &mut c.deadline,
        help: "Deadline of a call that is waited for and names none; none: the function's timeout \
               alone.",
    },
    Key {
        path: "policy",
        field: |c| &mut c.policy,
        help: "Policy that places its calls in a federation; none: federation.policy.",
    },
];

/// The table of classes in a file.
const CLASSES: &str = "qos";

/// Most QoS classes: each has a queue, and callers cannot tell more apart.
const MAX_CLASSES: usize = 16;

/// Environment variables of ours that configure clients, not nodes.
pub const CLIENT_VARIABLES: &[&str] = &[
    "WEIR_NODE",
    "WEIR_NAMESPACE",
    "WEIR_TOKEN",
    "WEIR_TOKEN_FILE",
    "WEIR_USER",
    "WEIR_PASSWORD_FILE",
    "WEIR_CA",
    "WEIR_OUTPUT",
    "WEIR_CONFIG",
];

/// What the layers over the defaults hold, as they were found.
#[derive(Debug, Default)]
pub struct Layers {
    /// The configuration file: its path and text.
    pub file: Option<(String, String)>,
    /// The environment; only `WEIR_...` matters.
    pub environment: Vec<(String, String)>,
    /// Flags: as written, the key that each sets, and its value.
    pub flags: Vec<(String, String, String)>,
}

/// A configuration and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of the key `path` came from.
    pub fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or_default()
    }

    /// Every key with its value and where that came from, classes included.
    pub fn values(&self) -> Vec<(String, String, Origin)> {
        let mut config = self.config.clone();
        let mut values: Vec<_> = KEYS
            .iter()
            .map(|key| {
                let field = (key.field)(&mut config);
                let shown = match (field.is_secret(), field.show()) {
                    (true, set) if set != "none" => HIDDEN.to_owned(),
                    (_, shown) => shown,
                };
                (key.path.to_owned(), shown, self.origin(key.path))
            })
            .collect();
        for (at, class) in config.node.classes.iter_mut().enumerate() {
            for key in CLASS_KEYS {
                let path = format!("{CLASSES}[{at}].{}", key.path);
                values.push((path, (key.field)(class).show(), self.origin(CLASSES)));
            }
        }
        values
    }
}

/// Joins the layers over the defaults of `defaults`; `machine` is what there
/// is to share. On mistakes all of them are in the error.
pub fn load(defaults: Config, layers: &Layers, machine: Resources) -> Result<Loaded, Mistakes> {
    let mut loaded = Loaded {
        config: defaults,
        origins: BTreeMap::new(),
    };
    let mut mistakes = Vec::new();
    if let Some((path, text)) = &layers.file {
        match document::from_toml(path, text) {
            Ok(table) => apply_file(&mut loaded, &table, &mut mistakes),
            Err(errors) => mistakes.extend(errors),
        }
    }
    apply_environment(&mut loaded, &layers.environment, &mut mistakes);
    for (flag, path, value) in &layers.flags {
        let origin = Origin::Flag(flag.clone());
        match KEYS.iter().find(|key| key.path == path) {
            Some(key) => assign(&mut loaded, key, value, origin, &mut mistakes),
            None => {
                let known = KEYS.iter().map(|key| key.path);
                let message = format!("unknown key {path}{}", suggestion(path, known));
                mistakes.push(Mistake { origin, message });
            }
        }
    }
    for (path, message) in check(&loaded.config) {
        let message = format!("{path}: {message}");
        mistakes.push(Mistake {
            origin: loaded.origin(path),
            message,
        });
    }
    if !mistakes.is_empty() {
        return Err(Mistakes(mistakes));
    }
    loaded.config.node.capacity = capacity(&loaded.config.resources, machine);
    Ok(loaded)
}

fn apply_file(loaded: &mut Loaded, table: &Table, mistakes: &mut Vec<Mistake>) {
    let Loaded { config, origins } = loaded;
    let mut assigned = |path: &str, origin: &Origin| {
        origins.insert(path.to_owned(), origin.clone());
    };
    fill(KEYS, config, table, "", &[CLASSES], mistakes, &mut assigned);
    if let Some(tree) = table.get(CLASSES) {
        assigned(CLASSES, &tree.origin);
        config.node.classes = classes(tree, mistakes);
    }
}

fn classes(tree: &Tree, mistakes: &mut Vec<Mistake>) -> Vec<ClassConfig> {
    let items = match &tree.value {
        Value::List(items) if (1..=MAX_CLASSES).contains(&items.len()) => items,
        _ => {
            let message = format!("{CLASSES}: write 1 to {MAX_CLASSES} tables [[{CLASSES}]]");
            mistakes.push(Mistake {
                origin: tree.origin.clone(),
                message,
            });
            return vec![ClassConfig::default()];
        }
    };
    let mut classes: Vec<ClassConfig> = Vec::with_capacity(items.len());
    for item in items {
        let mut class = ClassConfig {
            name: String::new(),
            ..ClassConfig::default()
        };
        match &item.value {
            Value::Table(table) => {
                fill(
                    CLASS_KEYS,
                    &mut class,
                    table,
                    "",
                    &[],
                    mistakes,
                    &mut |_, _| {},
                );
            }
            other => {
                let message = format!("{CLASSES}: expects tables, not a {}", other.kind());
                mistakes.push(Mistake {
                    origin: item.origin.clone(),
                    message,
                });
                continue;
            }
        }
        let mut wrong = |message: String| {
            let message = format!("{CLASSES}: {message}");
            mistakes.push(Mistake {
                origin: item.origin.clone(),
                message,
            });
        };
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if class.name.is_empty() || class.name.len() > 63 || !class.name.chars().all(fine) {
            wrong("name: write 1 to 63 letters, digits, '-' or '_'".to_owned());
        }
        if classes.iter().any(|other| other.name == class.name) {
            wrong(format!("name: {:?} is there twice", class.name));
        }
        if !(1..=1000).contains(&class.priority) {
            wrong(format!(
                "priority: {} is not between 1 and 1000",
                class.priority
            ));
        }
        classes.push(class);
    }
    classes
}

fn apply_environment(
    loaded: &mut Loaded,
    environment: &[(String, String)],
    mistakes: &mut Vec<Mistake>,
) {
    let names: Vec<String> = KEYS.iter().map(Key::environment).collect();
    for (name, value) in environment {
        if !name.starts_with("WEIR_") || CLIENT_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let origin = Origin::Environment(name.clone());
        match names.iter().position(|known| known == name) {
            Some(at) => assign(loaded, &KEYS[at], value, origin, mistakes),
            None => {
                let known = names
                    .iter()
                    .map(String::as_str)
                    .chain(CLIENT_VARIABLES.iter().copied());
                let message = format!("unknown variable{}", suggestion(name, known));
                mistakes.push(Mistake { origin, message });
            }
        }
    }
}

fn assign(
    loaded: &mut Loaded,
    key: &Key<Config>,
    text: &str,
    origin: Origin,
    mistakes: &mut Vec<Mistake>,
) {
    match (key.field)(&mut loaded.config).assign(&Value::Text(text.to_owned())) {
        Ok(()) => {
            loaded.origins.insert(key.path.to_owned(), origin);
        }
        Err(message) => {
            mistakes.push(Mistake {
                origin,
                message: format!("{}: {message}", key.path),
            });
        }
    }
}

/// Rules between values, and bounds that their types do not know.
fn check(config: &Config) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    let http = &config.http;
    if http.tls_certificate.is_some() != http.tls_key.is_some() {
        let path = if http.tls_key.is_some() {
            "http.tls-key"
        } else {
            "http.tls-certificate"
        };
        wrong.push((
            path,
            "certificate and key belong together: give both or none".to_owned(),
        ));
    }
    if let Err(message) = telemetry::check(&config.log.level) {
        wrong.push(("log.level", message));
    }
    let auth = &config.auth;
    if auth.user.is_some() != auth.password_file.is_some() {
        let path = if auth.user.is_some() {
            "auth.user"
        } else {
            "auth.password-file"
        };
        wrong.push((
            path,
            "user and password-file belong together: give both or none".to_owned(),
        ));
    }
    let credentials = auth.token_file.is_some() || auth.user.is_some();
    if !http.listen.ip().is_loopback() && !credentials && !http.insecure {
        let message = format!(
            "{} can be reached from other machines, and nobody chose credentials: give \
             auth.token-file, or auth.user and auth.password-file, or allow it with --insecure",
            http.listen
        );
        wrong.push(("http.listen", message));
    }
    let counts = [
        ("http.max-connections", http.max_connections),
        ("http.header-count", http.header_count),
        ("resources.calls", config.node.max_calls),
        ("functions.max", config.node.max_functions),
        ("async.backlog", config.node.asynchronous.backlog),
        ("async.parallel", config.node.asynchronous.parallel),
    ];
    wrong.extend(
        counts
            .into_iter()
            .filter(|(_, count)| *count == 0)
            .map(|(path, _)| {
                (
                    path,
                    "0 would refuse everything: write 1 or more".to_owned(),
                )
            }),
    );
    let times = [
        ("http.header-timeout", http.header_timeout),
        ("http.idle-timeout", http.idle_timeout),
        ("http.body-timeout", http.body_timeout),
        ("functions.max-timeout", config.node.max_timeout),
        ("wasm.compile-time", config.node.wasm.compile_time),
    ];
    wrong.extend(
        times
            .into_iter()
            .filter(|(_, time)| time.is_zero())
            .map(|(path, _)| {
                (
                    path,
                    "0s would end everything at once: write a longer time".to_owned(),
                )
            }),
    );
    // hyper's own floor for the buffer that holds a request's head.
    if http.header_bytes < 8 << 10 {
        wrong.push(("http.header-bytes", "write 8KiB or more".to_owned()));
    }
    wrong
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

/// What is shown of a secret that is set.
const HIDDEN: &str = "(set, not shown)";

/// What a machine that does not tell its memory is taken to have: little
/// enough for the smallest that Weir is meant for.
const UNKNOWN_MEMORY: Memory = Memory::mebibytes(512);

/// A commented configuration file that sets every key to its default.
pub fn default_file(mut defaults: Config) -> String {
    let mut text = String::from("# Every setting of `weir run` with its default.\n");
    let mut section = "";
    for key in KEYS {
        let (group, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if group != section {
            section = group;
            // Writing into a String cannot fail.
            let _ = writeln!(text, "\n[{group}]");
        }
        let value = (key.field)(&mut defaults).toml();
        let _ = writeln!(text, "# {}\n# {name} = {value}", key.help);
    }
    for class in &mut defaults.node.classes {
        let _ = writeln!(
            text,
            "\n# A QoS class; the first is the default.\n# [[{CLASSES}]]"
        );
        for key in CLASS_KEYS {
            let _ = writeln!(
                text,
                "# {} = {}  # {}",
                key.path,
                (key.field)(class).toml(),
                key.help
            );
        }
    }
    text
}

/// The table of keys for the manual, in Markdown.
pub fn reference(mut defaults: Config) -> String {
    let mut text = String::from("| key | value | default | environment | meaning |\n");
    text.push_str("|---|---|---|---|---|\n");
    let mut row = |path: &str, field: &dyn Field, environment: String, help: &str| {
        let shown = field.show();
        let shown = if shown.is_empty() {
            String::new()
        } else {
            format!("`{shown}`")
        };
        let _ = writeln!(
            text,
            "| `{path}` | {} | {shown} | {environment} | {help} |",
            field.kind()
        );
    };
    for key in KEYS {
        let environment = format!("`{}`", key.environment());
        row(key.path, (key.field)(&mut defaults), environment, key.help);
    }
    for key in CLASS_KEYS {
        let mut class = ClassConfig::default();
        let path = format!("{CLASSES}.{}", key.path);
        row(&path, (key.field)(&mut class), String::new(), key.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MACHINE: Resources = Resources {
        cpu: Cpu::cores(4),
        memory: Memory::mebibytes(1000),
    };

    fn defaults() -> Config {
        Config::new("/data".into(), MACHINE)
    }

    fn layers(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Layers {
        Layers {
            file: Some(("weir.conf".to_owned(), file.to_owned())),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            flags: flags
                .iter()
                .map(|(flag, key, value)| {
                    ((*flag).to_owned(), (*key).to_owned(), (*value).to_owned())
                })
                .collect(),
        }
    }

    fn mistakes(layers: &Layers) -> Vec<String> {
        let Mistakes(mistakes) = load(defaults(), layers, MACHINE).expect_err("mistakes");
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_layer_covers_the_one_before_it() {
        let file = "[http]\nthreads = 1\nheader-count = 1\nbody-bytes = \"1MiB\"\n";
        let environment = [
            ("WEIR_HTTP_HEADER_COUNT", "2"),
            ("WEIR_HTTP_BODY_BYTES", "2MiB"),
        ];
        let flags = [("--set", "http.body-bytes", "3MiB")];
        let loaded = load(defaults(), &layers(file, &environment, &flags), MACHINE).expect("valid");
        let http = &loaded.config.http;
        assert_eq!(
            (http.threads, http.header_count, http.body_bytes),
            (1, 2, 3 << 20)
        );
        let origin = |path| loaded.origin(path).to_string();
        assert_eq!(origin("http.threads"), "weir.conf:2");
        assert_eq!(origin("http.header-count"), "env WEIR_HTTP_HEADER_COUNT");
        assert_eq!(origin("http.body-bytes"), "flag --set");
        assert_eq!(origin("http.listen"), "default");
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_place() {
        let file = "[http]\nlisen = \"x\"\nthreads = \"many\"\n\n[[qos]]\nname = \"a\"\n\
                    priority = 0\n\n[[qos]]\nname = \"a\"\nqueu = 3\n";
        let environment = [
            ("WEIR_LOG_FORMT", "json"),
            ("WEIR_NODE", "http://elsewhere"),
        ];
        let flags = [("--http", "http.listen", "nowhere")];
        let found = mistakes(&layers(file, &environment, &flags)).join("\n");
        for expected in [
            "weir.conf:2: unknown key http.lisen; did you mean http.listen?",
            "weir.conf:3: http.threads: \"many\" is not a whole number",
            "priority: 0 is not between 1 and 1000",
            "name: \"a\" is there twice",
            "weir.conf:11: unknown key queu; did you mean queue?",
            "env WEIR_LOG_FORMT: unknown variable; did you mean WEIR_LOG_FORMAT?",
            "flag --http: http.listen: \"nowhere\" is not an address",
        ] {
            assert!(found.contains(expected), "{expected:?} in\n{found}");
        }
        assert!(!found.contains("WEIR_NODE"), "{found}");
    }

    #[test]
    fn a_door_beyond_loopback_needs_chosen_credentials() {
        let open = "[http]\nlisten = \"0.0.0.0:80\"\n";
        assert!(mistakes(&layers(open, &[], &[]))[0].starts_with("weir.conf:2: http.listen"));
        let fine = |file: &str| load(defaults(), &layers(file, &[], &[]), MACHINE).is_ok();
        assert!(fine(&format!("{open}insecure = true\n")));
        assert!(fine(&format!("{open}[auth]\ntoken-file = \"/token\"\n")));
    }

    #[test]
    fn parts_that_belong_together_are_asked_for() {
        let found = mistakes(&layers(
            "auth.user = \"u\"\nhttp.tls-key = \"k\"\n",
            &[],
            &[],
        ));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn classes_replace_the_default_one() {
        let file = "[[qos]]\nname = \"fast\"\ndeadline = \"200ms\"\n[[qos]]\nname = \"slow\"\n";
        let loaded = load(defaults(), &layers(file, &[], &[]), MACHINE).expect("valid");
        let classes = &loaded.config.node.classes;
        assert_eq!(classes.len(), 2);
        assert_eq!(classes[0].deadline, Some(Duration::from_millis(200)));
        assert_eq!(
            (classes[1].name.as_str(), classes[1].deadline),
            ("slow", None)
        );
    }

    #[test]
    fn capacity_is_found_out_unless_given() {
        let loaded = load(defaults(), &layers("", &[], &[]), MACHINE).expect("valid");
        let capacity = loaded.config.node.capacity;
        assert_eq!(
            (capacity.cpu, capacity.memory),
            (Cpu::cores(4), Memory::mebibytes(800))
        );
        let file = "[resources]\ncpu = 0.5\nmemory = \"64MiB\"\n";
        let given = load(defaults(), &layers(file, &[], &[]), MACHINE).expect("valid");
        let capacity = given.config.node.capacity;
        assert_eq!(
            (capacity.cpu, capacity.memory),
            (Cpu::millicores(500), Memory::mebibytes(64))
        );
    }

    #[test]
    fn every_default_is_read_back_from_the_file_of_defaults() {
        // Its lines are commented out, except headers; comments hold one space.
        let text = default_file(defaults());
        let active: String = text
            .lines()
            .map(|line| line.strip_prefix("# ").unwrap_or(line))
            .filter(|line| line.contains(" = ") || line.starts_with('['))
            .fold(String::new(), |text, line| text + line + "\n");
        let loaded = load(defaults(), &layers(&active, &[], &[]), MACHINE).expect(&active);
        let plain = load(defaults(), &Layers::default(), MACHINE).expect("valid");
        let values = |loaded: &Loaded| -> Vec<_> {
            loaded
                .values()
                .into_iter()
                .map(|(key, value, _)| (key, value))
                .collect()
        };
        assert_eq!(values(&loaded), values(&plain));
        assert!(
            KEYS.iter()
                .all(|key| loaded.origin(key.path) != Origin::Default)
        );
    }

    #[test]
    fn keys_and_their_variables_are_unique() {
        let paths: BTreeSet<_> = KEYS.iter().map(|key| key.path).collect();
        let mut names: BTreeSet<_> = KEYS.iter().map(Key::environment).collect();
        names.extend(CLIENT_VARIABLES.iter().map(|name| (*name).to_owned()));
        assert_eq!(paths.len(), KEYS.len());
        assert_eq!(names.len(), KEYS.len() + CLIENT_VARIABLES.len());
    }

    #[test]
    fn manual_has_a_row_per_key() {
        let text = reference(defaults());
        assert_eq!(text.lines().count(), 2 + KEYS.len() + CLASS_KEYS.len());
    }

    #[test]
    fn data_goes_to_the_users_folder_unless_root() {
        let variable = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
        assert_eq!(
            default_data_dir(false, &variable),
            Path::new("/home/u/.local/share/weir")
        );
        assert_eq!(
            default_data_dir(true, &variable),
            Path::new("/var/lib/weir")
        );
    }
}
