//! `weir run`: a node, until a signal ends it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::flags::SettingFlags;
use crate::config::{self, Config, Layers, Loaded};
use crate::setting::pair;

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
    #[command(flatten)]
    flags: SettingFlags,
    /// Any other setting; see `weir config`
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
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
        let set = |(key, value): &(String, String)| {
            let flag = "--set".to_owned();
            (flag, key.clone(), value.clone())
        };
        let mut flags: Vec<_> = self.set.iter().map(set).collect();
        flags.extend(self.flags.0.iter().cloned());
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
