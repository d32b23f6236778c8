//! `weir secret`: values that functions may read, by name.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::Global;
use crate::output;

/// Largest secret that is sent: encoded it fits the body that nodes take.
const SECRET_BYTES: u64 = 700 << 10;

#[derive(Debug, Subcommand)]
pub(super) enum SecretCommand {
    /// Keep a secret on the node, from a file or standard input
    Create(ValueArguments),
    /// List the names of the secrets
    List,
    /// Give a secret another value, from a file or standard input
    Update(ValueArguments),
    /// Remove secrets
    Remove(RemoveArguments),
    /// Make a new secret of the federation
    #[command(hide = true)]
    Rotate,
}

#[derive(Debug, Args)]
pub(super) struct ValueArguments {
    /// Name of the secret
    name: String,
    /// File with its value, byte for byte [default: standard input]
    #[arg(long, value_name = "FILE", conflicts_with = "from_literal")]
    from_file: Option<PathBuf>,
    /// The value itself; others may see it in the list of processes
    #[arg(long, value_name = "VALUE")]
    from_literal: Option<String>,
    /// Take spaces and line ends off both ends of the value
    #[arg(long)]
    trim: bool,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArguments {
    /// Names of the secrets
    #[arg(required = true)]
    names: Vec<String>,
}

const PATH: &str = "/system/secrets";

pub(super) async fn secret(global: &Global, command: &SecretCommand) -> anyhow::Result<()> {
    match command {
        SecretCommand::Create(arguments) => put(global, arguments, Method::POST, "created").await,
        SecretCommand::Update(arguments) => put(global, arguments, Method::PUT, "updated").await,
        SecretCommand::List => list(global).await,
        SecretCommand::Remove(arguments) => remove(global, arguments).await,
        SecretCommand::Rotate => super::federation::rotate(global).await,
    }
}

fn namespace(global: &Global) -> String {
    let namespace = global.namespace.clone().unwrap_or_default();
    namespace.to_string()
}

async fn put(
    global: &Global,
    arguments: &ValueArguments,
    method: Method,
    done: &str,
) -> anyhow::Result<()> {
    let name = &arguments.name;
    let value = arguments.value()?;
    let client = global.client()?;
    let value = base64::engine::general_purpose::STANDARD.encode(value);
    let body = json!({ "name": name, "namespace": namespace(global), "rawValue": value });
    let request = client.request(method, PATH).body(body.to_string());
    client
        .ask(&format!("keep the secret {name}"), request)
        .await?;
    let told = json!({ "name": name, "namespace": namespace(global), "state": done });
    global.told(&told, &format!("{done} {name}"))
}

async fn list(global: &Global) -> anyhow::Result<()> {
    let client = global.client()?;
    let path = format!("{PATH}?namespace={}", namespace(global));
    let request = client.request(Method::GET, &path);
    let secrets: Vec<Value> = client.ask_json("list the secrets", request).await?;
    if global.json() {
        return Ok(output::json(&Value::Array(secrets))?);
    }
    let text = |secret: &Value, key: &str| secret[key].as_str().unwrap_or_default().to_owned();
    let rows: Vec<_> = secrets
        .iter()
        .map(|secret| [text(secret, "name"), text(secret, "namespace")])
        .collect();
    Ok(output::line(&output::table(["name", "namespace"], &rows))?)
}

async fn remove(global: &Global, arguments: &RemoveArguments) -> anyhow::Result<()> {
    let client = global.client()?;
    for name in &arguments.names {
        let body = json!({ "name": name, "namespace": namespace(global) });
        let request = client.request(Method::DELETE, PATH).body(body.to_string());
        client
            .ask(&format!("remove the secret {name}"), request)
            .await?;
        if !global.json() {
            output::note(&format!("removed {name}"));
        }
    }
    match global.json() {
        true => Ok(output::json(&json!({ "removed": arguments.names }))?),
        false => Ok(()),
    }
}

impl ValueArguments {
    fn value(&self) -> anyhow::Result<Vec<u8>> {
        let value = match (&self.from_literal, &self.from_file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(path)) if path != Path::new("-") => {
                let read = || format!("read the secret from {}", path.display());
                bounded(std::fs::File::open(path).with_context(read)?).with_context(read)?
            }
            (None, _) => {
                let input = std::io::stdin();
                if input.is_terminal() {
                    output::note("weir: type the secret; Ctrl-D ends it");
                }
                bounded(input.lock()).context("read the secret from standard input")?
            }
        };
        let value = match self.trim {
            true => value.trim_ascii().to_vec(),
            false => value,
        };
        if value.is_empty() {
            bail!(
                "the value of {} is empty: give it with --from-file FILE or on standard input",
                self.name
            );
        }
        Ok(value)
    }
}

fn bounded(input: impl std::io::Read) -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    input.take(SECRET_BYTES + 1).read_to_end(&mut value)?;
    if value.len() as u64 > SECRET_BYTES {
        bail!("it is larger than {SECRET_BYTES} bytes, the most that a secret may have");
    }
    Ok(value)
}
