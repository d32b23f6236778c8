//! `weir health`: whether a node answers, for whoever watches over it.

use http::Method;
use serde_json::json;

use super::Global;
use crate::client::{self, Client, Credentials};
use crate::output;

/// Needs no credentials, so that none have to lie where the watcher runs.
pub(super) async fn health(global: &Global) -> anyhow::Result<()> {
    let node = client::node_address(&global.node)?;
    let client = Client::new(&node, &Credentials::Anonymous, global.ca.as_deref())?;
    let request = client.request(Method::GET, "/healthz");
    client.ask("ask the node how it is", request).await?;
    match global.json() {
        true => Ok(output::json(&json!({ "healthy": true }))?),
        false => Ok(()),
    }
}
