//! `weir health`: whether a node answers, for whoever watches over it.

use http::Method;

use super::Global;
use crate::client::{self, Client, Credentials};

/// Needs no credentials, so that none have to lie where the watcher runs.
pub(super) async fn health(global: &Global) -> anyhow::Result<()> {
    let node = client::node_address(&global.node)?;
    let client = Client::new(&node, &Credentials::Anonymous, global.ca.as_deref())?;
    let request = client.request(Method::GET, "/healthz");
    client.ask("ask the node how it is", request).await?;
    Ok(())
}
