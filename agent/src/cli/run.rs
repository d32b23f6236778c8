//! `weir run`: a node, until a signal ends it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

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
    http: Option<SocketAddr>,
    /// Listen beyond loopback though no credentials are configured
    #[arg(long)]
    insecure: bool,
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
        if let Some(address) = self.http {
            flags.push(flag("http", "http.listen", address.to_string()));
        }
        if self.insecure {
            flags.push(flag("insecure", "http.insecure", "true".to_owned()));
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
    crate::run::run(arguments.source.load()?.config)
}
