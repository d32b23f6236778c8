//! The node's own log.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogConfig, LogFormat};

/// Why the log cannot be written as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level, and no directives.
    #[error("log.level: {level:?} names no level: write error, warn, info, debug or trace")]
    Level {
        /// As configured.
        level: String,
        /// Why not.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody has set up logging in this process already.
    #[error("set up the log")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
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

pub use weir_node::chain;

/// Writes the log to standard error from now on: for people on a terminal, as
/// one JSON object per line otherwise, unless configured.
pub fn start(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.level).map_err(|source| LogError::Level {
        level: config.level.clone(),
        source,
    })?;
    let quiet = QUIET.map(|directive| directive.parse().expect("a directive"));
    let filter = quiet.into_iter().fold(filter, EnvFilter::add_directive);
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal && !json);
    if json {
        log.json().flatten_event(true).finish().try_init()?;
    } else {
        log.finish().try_init()?;
    }
    Ok(())
}
