//! The one list of settings. What a node reads, from flags, environment and
//! file, what `weir config` shows and what the manual says all follow from it.

use std::net::SocketAddr;

use weir_federation::Endpoint;
use weir_federation::report::Role;
use weir_node::config::ClassConfig;

use super::Config;
use crate::setting::{Auto, Everywhere, Field, FieldOf, Key, PolicyName, View, pair, plain};

/// Every setting that has one value. The QoS classes are [`CLASS_KEYS`].
pub static KEYS: &[Key<Config>] = &[
    key(
        "data-dir",
        |c| plain(&mut c.node.data_dir),
        "Where functions, secrets, accepted calls and results are kept.",
    )
    .flag("data-dir", "DIR", "Where everything that survives is kept"),
    key(
        "http.listen",
        |c| plain(&mut c.http.listen),
        "Address and port of the HTTP door; a port alone is 127.0.0.1's, port 0 takes a free one.",
    )
    .flag("http", "ADDR", "Where the HTTP door listens"),
    key(
        "http.insecure",
        |c| plain(&mut c.http.insecure),
        "Listen beyond loopback though neither token file nor user are configured.",
    )
    .flag(
        "insecure",
        "",
        "Listen beyond loopback though no credentials are configured",
    ),
    key(
        "http.threads",
        |c| plain(&mut c.http.threads),
        "Threads that serve connections; 0 for one per core.",
    ),
    key(
        "http.tls-certificate",
        |c| plain(&mut c.http.tls_certificate),
        "Certificate chain (PEM); the door speaks TLS when it and the key are given.",
    ),
    key(
        "http.tls-key",
        |c| plain(&mut c.http.tls_key),
        "Private key of the certificate (PEM).",
    ),
    key(
        "http.max-connections",
        |c| plain(&mut c.http.max_connections),
        "Connections open at once; beyond nine tenths, idle ones are closed for new ones.",
    ),
    key(
        "http.max-connections-per-address",
        |c| plain(&mut c.http.max_connections_per_address),
        "Those of one address (IPv6: of one /64); auto for half of all.",
    ),
    key(
        "http.header-bytes",
        |c| plain(&mut c.http.header_bytes),
        "Bytes of one request's headers; more is 431.",
    ),
    key(
        "http.header-count",
        |c| plain(&mut c.http.header_count),
        "Headers of one request, with HTTP/1.1 and HTTP/2; more is 431.",
    ),
    key(
        "http.body-bytes",
        |c| plain(&mut c.http.body_bytes),
        "Bytes of one request's body; more is 413.",
    ),
    key(
        "http.async-body-bytes",
        |c| plain(&mut c.http.async_body_bytes),
        "Bytes of an asynchronous call's body; more is 413.",
    ),
    key(
        "http.header-timeout",
        |c| plain(&mut c.http.header_timeout),
        "How long a client may take to send its headers.",
    ),
    key(
        "http.idle-timeout",
        |c| plain(&mut c.http.idle_timeout),
        "How long a connection stays open between requests.",
    ),
    key(
        "http.body-timeout",
        |c| plain(&mut c.http.body_timeout),
        "Longest gap between two pieces of a request's body; longer is 408.",
    ),
    key(
        "http.body-rate",
        |c| plain(&mut c.http.body_rate),
        "Bytes in a second below which a call's body ends (408), only while calls wait.",
    ),
    key(
        "http.body-memory",
        |c| plain(&mut c.http.body_memory),
        "Memory in which bodies of calls become whole; auto for a sixteenth of resources.memory, \
         from 16MiB to 512MiB.",
    ),
    key(
        "http.allowed-hosts",
        |c| plain(&mut c.http.allowed_hosts),
        "Hosts accepted in Host and Origin on /system and /weir, beside the listen address and \
         localhost.",
    ),
    key(
        "auth.token-file",
        |c| plain(&mut c.auth.token_file),
        "File with the bearer token of management requests; none: DATA-DIR/token, made at first \
         start.",
    ),
    key(
        "auth.user",
        |c| plain(&mut c.auth.user),
        "User of basic authentication, as OpenFaaS clients log in.",
    ),
    key(
        "auth.password-file",
        |c| plain(&mut c.auth.password_file),
        "File with the password of that user.",
    ),
    key(
        "auth.functions",
        |c| plain(&mut c.auth.functions),
        "Whether calling functions needs credentials too.",
    ),
    key(
        "resources.cpu",
        |c| plain(&mut c.resources.cpu),
        "Cores that running calls share; auto: all that this process may use.",
    ),
    key(
        "resources.memory",
        |c| plain(&mut c.resources.memory),
        "Memory that functions share; auto: 80 % of what machine and control group allow.",
    ),
    key(
        "resources.calls",
        |c| plain(&mut c.node.max_calls),
        "Calls that run or wait at once; more are 429.",
    ),
    key(
        "functions.max",
        |c| plain(&mut c.node.max_functions),
        "Functions deployed at once.",
    ),
    key(
        "functions.max-timeout",
        |c| plain(&mut c.node.max_timeout),
        "Longest timeout that a function may ask for.",
    ),
    key(
        "functions.keep-alive-policy",
        |c| plain(&mut c.node.keeping),
        "By which rule idle instances stay, unless a function says it: fixed (its keep-alive), \
         greedy-dual (until their room is wanted) or histogram (as its idle times say).",
    ),
    key(
        "async.backlog",
        |c| plain(&mut c.node.asynchronous.backlog),
        "Accepted asynchronous calls that are not done yet; more are 429.",
    ),
    key(
        "async.parallel",
        |c| plain(&mut c.node.asynchronous.parallel),
        "Asynchronous calls that run at once.",
    ),
    key(
        "async.keep-trying",
        |c| plain(&mut c.node.asynchronous.keep_trying),
        "How long an accepted call that finds no place is tried before that is its result.",
    ),
    key(
        "async.keep-results",
        |c| plain(&mut c.node.asynchronous.keep_results),
        "How long a result is kept after its call ended.",
    ),
    key(
        "async.max-results",
        |c| plain(&mut c.node.asynchronous.max_results),
        "Results kept; the oldest go first.",
    ),
    key(
        "async.result-bytes",
        |c| plain(&mut c.node.asynchronous.result_bytes),
        "Largest result kept; a longer one fails its call.",
    ),
    key(
        "async.callback-attempts",
        |c| plain(&mut c.node.asynchronous.callback_attempts),
        "Attempts to deliver a result to its callback.",
    ),
    key(
        "async.callback-local",
        |c| plain(&mut c.node.asynchronous.callback_local),
        "Whether callbacks may go to loopback, link-local and private addresses.",
    ),
    key(
        "artifacts.max-bytes",
        |c| plain(&mut c.node.artifacts.max_bytes),
        "Largest artifact that may be uploaded.",
    ),
    key(
        "artifacts.disk-bytes",
        |c| plain(&mut c.node.artifacts.disk_bytes),
        "Disk that artifacts and compiled code may use together.",
    ),
    key(
        "artifacts.keep-unreferenced",
        |c| plain(&mut c.node.artifacts.keep_unreferenced),
        "How long an artifact that no function refers to is kept.",
    ),
    key(
        "wasm.compile-memory",
        |c| plain(&mut c.node.wasm.compile_memory),
        "Memory that one compilation may use.",
    ),
    key(
        "wasm.compile-time",
        |c| plain(&mut c.node.wasm.compile_time),
        "Time that one compilation may take.",
    ),
    key(
        "wasm.compiler",
        |c| plain(&mut c.node.wasm.compiler),
        "Program that compiles; none: this one.",
    ),
    key(
        "wasm.max-memory",
        |c| plain(&mut c.node.wasm.max_memory),
        "Largest memory limit that a function may ask for.",
    ),
    key(
        "wasm.output-bytes",
        |c| plain(&mut c.node.wasm.output_bytes),
        "Bytes that one call may answer.",
    ),
    key(
        "wasm.threads",
        |c| plain(&mut c.node.wasm.threads),
        "Threads for calls that run long; 0 for one per core.",
    ),
    key(
        "docker.socket",
        |c| plain(&mut c.node.docker.socket),
        "The container engine's Unix socket.",
    ),
    key(
        "docker.start-timeout",
        |c| plain(&mut c.node.docker.start_timeout),
        "Longest wait for a container to take calls.",
    ),
    key(
        "docker.python-image",
        |c| plain(&mut c.node.docker.python_image),
        "Image of the runtime python, as images/python/build makes it.",
    ),
    key(
        "docker.spare-images",
        |c| plain(&mut c.node.docker.spare_images),
        "Disk for images that this node fetched and no function needs any more.",
    ),
    key(
        "logs.lines",
        |c| plain(&mut c.node.log_lines),
        "Log lines kept per function.",
    ),
    key(
        "logs.bytes-per-second",
        |c| plain(&mut c.node.log_bytes_per_second),
        "Log bytes that a function may write per second; more is dropped and counted.",
    ),
    key(
        "log.format",
        |c| plain(&mut c.log.format),
        "How the node's own log is written; auto: human on a terminal, json otherwise.",
    ),
    key(
        "log.level",
        |c| plain(&mut c.log.level),
        "Which lines of it: error, warn, info, debug, trace, or directives per module, over info.",
    ),
    key(
        "metrics.openfaas-compat",
        |c| plain(&mut c.metrics.openfaas_compat),
        "Whether /metrics has OpenFaaS's names too.",
    ),
    key(
        "metrics.public",
        |c| plain(&mut c.metrics.public),
        "Whether /metrics answers without credentials.",
    ),
    key(
        "federation.listen",
        |c| plain(&mut c.federation.listen),
        "Multiaddresses at which members link to this node (/ip4/0.0.0.0/tcp/4001); none, and \
         nobody to join: it stays alone.",
    )
    .flag("listen", "MULTIADDR", "Where members link to this node"),
    key(
        "federation.peer-listen",
        |c| everywhere(&mut c.federation.peer_listen),
        "Address and port at which it takes calls of members; none: port 4002, unless it is \
         relayed.",
    )
    .flag("peer-listen", "ADDR", "Where it takes calls of members"),
    key(
        "federation.advertise",
        |c| plain(&mut c.federation.advertise),
        "Multiaddresses that members are told; none: those that it listens at.",
    )
    .flag(
        "advertise",
        "MULTIADDR",
        "What members are told instead of where it listens",
    ),
    key(
        "federation.peer-advertise",
        |c| plain(&mut c.federation.peer_advertise),
        "Addresses or names, with ports, for calls that members are told; none: where it listens.",
    )
    .flag("peer-advertise", "ADDR", "The same for calls, HOST:PORT")
    .checked(|text| {
        text.parse::<Endpoint>()
            .map(drop)
            .map_err(|error| error.to_string())
    }),
    key(
        "federation.join",
        |c| plain(&mut c.federation.join),
        "Token by which it joins, the first time; weir token makes one.",
    )
    .flag(
        "join",
        "TOKEN",
        "Join a federation by this token, the first time",
    ),
    key(
        "federation.peers",
        |c| plain(&mut c.federation.peers),
        "Multiaddresses of members to link to, beside those of the token.",
    )
    .flag("peer", "MULTIADDR", "Members to link to"),
    key(
        "federation.role",
        |c| role(&mut c.federation.role),
        "edge serves its own users and spills; cloud takes what spills; auto: as invited.",
    )
    .flag("role", "ROLE", "edge or cloud [default: as invited]"),
    key(
        "federation.zone",
        |c| plain(&mut c.federation.zone),
        "Zone of an edge node: its neighbours share it.",
    )
    .flag("zone", "ZONE", "Its zone"),
    key(
        "federation.regions",
        |c| plain(&mut c.federation.regions),
        "Cloud regions to spill to, in order; none: not to any. A cloud node's own comes first. \
         Empty: the four nearest that it hears of; of a cloud node, default.",
    )
    .flag(
        "region",
        "REGION",
        "Regions to spill to, in order, or none; a cloud node's own first [default: the four \
         nearest; of a cloud node: default]",
    ),
    key(
        "federation.labels",
        |c| plain(&mut c.federation.labels),
        "Labels that functions may ask for with constraints.",
    )
    .flag(
        "node-label",
        "KEY=VALUE",
        "Labels that functions may ask for",
    )
    .checked(|text| pair(text).map(drop)),
    key(
        "federation.mdns",
        |c| plain(&mut c.federation.mdns),
        "Whether it looks for members on the local network.",
    ),
    key(
        "federation.relayed",
        |c| plain(&mut c.federation.relayed),
        "Whether members reach it over other members only, as behind NAT.",
    ),
    key(
        "federation.certificate-life",
        |c| plain(&mut c.federation.certificate_life),
        "How long memberships that it issues are good; they are renewed at half of that.",
    ),
    key(
        "federation.guests",
        |c| percent(&mut c.federation.guests),
        "Percent of this node that calls of other nodes' users may hold which run longer than 1 \
         s; short ones may have all that is free.",
    ),
    key(
        "federation.policy",
        |c| plain(&mut c.policy),
        "How calls are placed, as NAME or NAME:KEY=VALUE,...; weir policy list tells which there \
         are.",
    )
    .flag("policy", "POLICY", "How calls are placed"),
    key(
        "federation.fetch-rate",
        |c| plain(&mut c.federation.fetch_rate),
        "Code that it fetches from members in a second, at most; none: as fast as it goes.",
    ),
    key(
        "federation.takeover",
        |c| plain(&mut c.federation.takeover),
        "How long a node is gone before the first copy of its calls is run; the second after \
         twice that.",
    ),
    key(
        "federation.registry",
        |c| plain(&mut c.federation.registry),
        "Where members and functions are made known: gossip, etcd, or both while moving.",
    )
    .flag(
        "registry",
        "REGISTRY",
        "Where members and functions are made known: gossip, etcd or both",
    ),
    key(
        "federation.etcd.endpoints",
        |c| plain(&mut c.federation.etcd.endpoints),
        "URLs of etcd's members (http://HOST:2379).",
    )
    .flag("etcd", "URL", "URLs of etcd's members"),
    key(
        "federation.etcd.prefix",
        |c| plain(&mut c.federation.etcd.prefix),
        "What all keys in etcd begin with.",
    ),
    key(
        "federation.etcd.user",
        |c| plain(&mut c.federation.etcd.user),
        "User of etcd.",
    ),
    key(
        "federation.etcd.password-file",
        |c| plain(&mut c.federation.etcd.password_file),
        "File that holds the password of that user.",
    ),
    key(
        "federation.etcd.ca",
        |c| plain(&mut c.federation.etcd.ca),
        "File with the certificates (PEM) by which etcd is checked; https needs it.",
    ),
    key(
        "federation.etcd.certificate",
        |c| plain(&mut c.federation.etcd.certificate),
        "File with this node's certificate (PEM) for etcd.",
    ),
    key(
        "federation.etcd.key",
        |c| plain(&mut c.federation.etcd.key),
        "File with the key (PEM) of that certificate.",
    ),
    key(
        "shutdown.grace",
        |c| plain(&mut c.node.grace),
        "How long running calls may take to end at shutdown.",
    ),
];

/// The settings of one `[[qos]]` class. They are set in the file only.
pub static CLASS_KEYS: &[Key<ClassConfig>] = &[
    Key::new(
        "name",
        |c| plain(&mut c.name),
        "Its name in X-Weir-Qos; the first class is the default.",
    ),
    Key::new(
        "priority",
        |c| plain(&mut c.priority),
        "Its weight, 1 to 1000: waiting classes are served in proportion.",
    ),
    Key::new(
        "max-wait",
        |c| plain(&mut c.max_wait),
        "Longest wait in its queue; none: 5 s, or twice the mean time that the function runs \
         where that is more.",
    ),
    Key::new(
        "queue",
        |c| plain(&mut c.queue),
        "Calls waiting at once; more are 429.",
    ),
    Key::new(
        "deadline",
        |c| plain(&mut c.deadline),
        "Deadline of a call that is waited for and names none; none: the function's timeout \
         alone.",
    ),
    Key::new(
        "policy",
        |c| policy(&mut c.policy),
        "Policy that places its calls in a federation, as NAME or NAME:KEY=VALUE,...; none: \
         federation.policy.",
    ),
];

/// The table of classes in a file.
pub(super) const CLASSES: &str = "qos";

/// Most QoS classes: each has a queue, and callers cannot tell more apart.
pub(super) const MAX_CLASSES: usize = 16;

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

const fn key(path: &'static str, field: FieldOf<Config>, help: &'static str) -> Key<Config> {
    Key::new(path, field, help)
}

/// Percent, of which the shell knows the share.
fn percent(share: &mut f64) -> Box<dyn Field + '_> {
    Box::new(View {
        field: share,
        read: |percent: u32| f64::from(percent.min(100)) / 100.0,
        // At most a hundred, and whole: see above.
        write: |share| (*share * 100.0).round() as u32,
    })
}

/// A policy with its parameters, which the core keeps as it is written.
fn policy(policy: &mut Option<String>) -> Box<dyn Field + '_> {
    Box::new(View {
        field: policy,
        read: |policy: Option<PolicyName>| policy.map(|policy| policy.to_string()),
        write: |policy| policy.as_ref()?.parse().ok(),
    })
}

/// A role, or the one of the invite.
fn role(role: &mut Option<Role>) -> Box<dyn Field + '_> {
    Box::new(View {
        field: role,
        read: |role| match role {
            Auto::Auto => None,
            Auto::Given(role) => Some(role),
        },
        write: |role| role.map_or(Auto::Auto, Auto::Given),
    })
}

/// An address to listen at that is for other machines.
fn everywhere(address: &mut Option<SocketAddr>) -> Box<dyn Field + '_> {
    Box::new(View {
        field: address,
        read: |address: Option<Everywhere>| address.map(|Everywhere(address)| address),
        write: |address| address.map(Everywhere),
    })
}
