//! `weir run`: a node, until a signal ends it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use weir_federation::Endpoint;

use crate::config::{self, Config, Layers, Loaded};

/// Largest configuration file that is read.
const CONFIG_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    source: ConfigSource,
}

/// Where the configuration of a node comes from.
#[derive(Debug, Args)]
pub(super) struct ConfigSource {
    /// Configuration file (TOML)
    #[arg(long, env = "WEIR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything that survives is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the HTTP door listens
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Listen beyond loopback though no credentials are configured
    #[arg(long)]
    insecure: bool,
    /// Join a federation by this token, the first time
    #[arg(long, value_name = "TOKEN", help_heading = "Federation")]
    join: Option<String>,
    /// Where members link to this node
    #[arg(long, value_name = "MULTIADDR", help_heading = "Federation")]
    listen: Vec<String>,
    /// Where it takes calls of members
    #[arg(long, value_name = "ADDR", help_heading = "Federation")]
    peer_listen: Option<String>,
    /// What members are told instead of where it listens
    #[arg(long, value_name = "MULTIADDR", help_heading = "Federation")]
    advertise: Vec<String>,
    /// The same for calls, HOST:PORT
    #[arg(long, value_name = "ADDR", help_heading = "Federation")]
    peer_advertise: Vec<Endpoint>,
    /// Members to link to
    #[arg(long, value_name = "MULTIADDR", help_heading = "Federation")]
    peer: Vec<String>,
    /// Its zone
    #[arg(long, value_name = "ZONE", help_heading = "Federation")]
    zone: Option<String>,
    /// Regions to spill to, in order, or none; a cloud node's own first [default:
    /// the four nearest; of a cloud node: default]
    #[arg(
        long,
        value_name = "REGION",
        value_delimiter = ',',
        help_heading = "Federation"
    )]
    region: Vec<String>,
    /// edge or cloud [default: as invited]
    #[arg(long, value_name = "ROLE", help_heading = "Federation")]
    role: Option<String>,
    /// Labels that functions may ask for
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::key_value)]
    #[arg(help_heading = "Federation")]
    node_label: Vec<(String, String)>,
    /// How calls are placed
    #[arg(long, value_name = "POLICY", help_heading = "Federation")]
    policy: Option<String>,
    /// Where members and functions are made known: gossip, etcd or both
    #[arg(long, value_name = "REGISTRY", help_heading = "Federation")]
    registry: Option<String>,
    /// URLs of etcd's members
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        help_heading = "Federation"
    )]
    etcd: Vec<String>,
    /// Any other setting; see `weir config`
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::key_value)]
    set: Vec<(String, String)>,
}

impl ConfigSource {
    /// Reads every layer and joins them.
    pub(super) fn load(&self) -> anyhow::Result<Loaded> {
        let file = match &self.config {
            Some(path) => {
                let text = super::deploy::read_bounded(path, CONFIG_BYTES)
                    .with_context(|| format!("read the configuration in {}", path.display()))?;
                Some((path.display().to_string(), text))
            }
            None => None,
        };
        let flag =
            |name: &str, key: &str, value: String| (format!("--{name}"), key.to_owned(), value);
        let mut flags: Vec<_> = self
            .set
            .iter()
            .map(|(key, value)| flag("set", key, value.clone()))
            .collect();
        if let Some(dir) = &self.data_dir {
            flags.push(flag("data-dir", "data-dir", dir.display().to_string()));
        }
        if let Some(address) = &self.http {
            flags.push(flag("http", "http.listen", address.clone()));
        }
        if self.insecure {
            flags.push(flag("insecure", "http.insecure", "true".to_owned()));
        }
        let one = [
            ("join", "federation.join", self.join.clone()),
            ("zone", "federation.zone", self.zone.clone()),
            ("role", "federation.role", self.role.clone()),
            ("policy", "federation.policy", self.policy.clone()),
            ("registry", "federation.registry", self.registry.clone()),
            (
                "peer-listen",
                "federation.peer-listen",
                self.peer_listen.clone(),
            ),
        ];
        let addresses = self.peer_advertise.iter().map(ToString::to_string);
        let labels = self
            .node_label
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let many = [
            ("listen", "federation.listen", self.listen.join(",")),
            (
                "advertise",
                "federation.advertise",
                self.advertise.join(","),
            ),
            (
                "peer-advertise",
                "federation.peer-advertise",
                addresses.collect::<Vec<_>>().join(","),
            ),
            ("peer", "federation.peers", self.peer.join(",")),
            ("region", "federation.regions", self.region.join(",")),
            ("etcd", "federation.etcd.endpoints", self.etcd.join(",")),
            (
                "node-label",
                "federation.labels",
                labels.collect::<Vec<_>>().join(","),
            ),
        ];
        let many = many
            .into_iter()
            .map(|(name, key, text)| (name, key, Some(text).filter(|text| !text.is_empty())));
        for (name, key, value) in one.into_iter().chain(many) {
            flags.extend(value.map(|value| flag(name, key, value)));
        }
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        let layers = Layers {
            file,
            environment,
            flags,
        };
        Ok(config::load(defaults(), &layers, config::machine())?)
    }
}

/// The defaults on this machine for this user.
pub(super) fn defaults() -> Config {
    let is_root = rustix::process::geteuid().is_root();
    Config::new(
        config::default_data_dir(is_root, &super::variable),
        config::machine(),
    )
}

pub(super) fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let source = &arguments.source;
    let config = source.load()?.config;
    crate::run::run(config, &|| Ok(source.load()?.config))
}
