//! The node's own log.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogConfig, LogFormat};

/// Why the log cannot be written as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level, and no directives.
    #[error("{0}")]
    Level(String),
    /// Somebody has set up logging in this process already.
    #[error("set up the log")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
    /// The log is gone.
    #[error("change the level of the log")]
    Gone(#[from] tracing_subscriber::reload::Error),
}

/// Libraries that are kept quieter than the configured level.
const QUIET: [&str; 7] = [
    // Below this it writes whole requests to the container engine down, and so
    // the environment of functions.
    "bollard=info",
    // Below this each call of a guest into its host is a span, which costs more
    // than most of those calls.
    "wasmtime_wasi=warn",
    "wasmtime_wasi_http=warn",
    "wiggle=warn",
    // Its news are told again, with more to say, by what uses it.
    "libp2p_swarm=warn",
    "libp2p_kad=error",
    "libp2p_gossipsub=error",
];

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is written of modules that no directive names.
const USUAL: &str = "info";

pub use weir_node::chain;

/// Reads a level, or directives per module. The library would take a word that
/// is no level for a module's name, and write nothing of all others.
fn filter(text: &str) -> Result<EnvFilter, LogError> {
    let wrong = |part: &str| {
        LogError::Level(format!(
            "{part:?} is no level: write error, warn, info, debug or trace, or directives per \
             module (info,weir_node=debug)"
        ))
    };
    let is_level = |part: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part));
    let parts = text.split(',').map(str::trim);
    let mut usual = Some(USUAL);
    for part in parts.filter(|part| !part.is_empty()) {
        if is_level(part) {
            usual = None;
        } else if let Some((module, level)) = part.split_once('=') {
            if module.is_empty() || (!module.contains('[') && !is_level(level.trim())) {
                return Err(wrong(part));
            }
        } else if !part.contains("::") && !part.starts_with("weir") && !part.contains(['[', ']']) {
            return Err(wrong(part));
        }
    }
    let text = match usual {
        Some(usual) => format!("{usual},{text}"),
        None => text.to_owned(),
    };
    let filter = EnvFilter::try_new(&text).map_err(|_| wrong(&text))?;
    let quiet = QUIET.map(|directive| directive.parse().expect("a directive"));
    Ok(quiet.into_iter().fold(filter, EnvFilter::add_directive))
}

/// Whether `level` can be used.
///
/// # Errors
/// What to write instead.
pub fn check(level: &str) -> Result<(), String> {
    filter(level).map(drop).map_err(|error| error.to_string())
}

/// Changes the level of a log that was started.
pub struct Level(Box<dyn Fn(EnvFilter) -> Result<(), LogError> + Send + Sync>);

impl Level {
    /// Writes what `level` says from now on.
    ///
    /// # Errors
    /// When it is none.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        (self.0)(filter(level)?)
    }
}

/// Writes the log to standard error from now on: for people on a terminal, as
/// one JSON object per line otherwise, unless configured.
pub fn start(config: &LogConfig) -> Result<Level, LogError> {
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.level)?)
        .with_writer(std::io::stderr)
        .with_ansi(terminal && !json);
    if json {
        let log = log.json().flatten_event(true).with_filter_reloading();
        let handle = log.reload_handle();
        log.finish().try_init()?;
        Ok(Level(Box::new(move |filter| Ok(handle.reload(filter)?))))
    } else {
        let log = log.with_filter_reloading();
        let handle = log.reload_handle();
        log.finish().try_init()?;
        Ok(Level(Box::new(move |filter| Ok(handle.reload(filter)?))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_a_level_or_directives_and_a_typing_error_is_told() {
        for fine in [
            "info",
            "DEBUG",
            "off",
            "weir_node=debug",
            "warn,weir_node=trace",
            "weir_node::pool",
            "",
        ] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        for wrong in [
            "verbose",
            "infoo",
            "weir_node=loud",
            "info,chatty",
            "=debug",
        ] {
            let told = check(wrong).expect_err(wrong);
            assert!(told.contains("is no level: write error, warn"), "{told}");
        }
    }

    #[test]
    fn directive_for_one_module_leaves_the_rest_as_it_is() {
        let filter = filter("weir_node=debug").expect("a directive").to_string();
        assert!(
            filter.contains("info") && filter.contains("weir_node=debug"),
            "{filter}"
        );
    }
}
