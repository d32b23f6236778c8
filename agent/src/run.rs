//! A node and its doors, from start to shutdown.

use std::net::SocketAddr;

use crate::config::Config;

/// A node that runs in this process.
#[derive(Debug)]
pub struct RunningNode {
    /// Where its HTTP door listens.
    pub address: SocketAddr,
}

impl RunningNode {
    /// Lets running calls end within the grace period and stops the node.
    pub async fn shutdown(self) {}
}

/// Starts a node and its doors; they run until [`RunningNode::shutdown`].
pub async fn start(_config: Config) -> anyhow::Result<RunningNode> {
    anyhow::bail!("this build has no node to start")
}

/// Runs a node until a signal ends it.
pub fn run(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("this build has no node to run")
}
