//! `weir samples`: small functions of our own, for a first try and for
//! experiments. Their sources are in images/samples.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use weir_node::id::FunctionName;

use super::{Global, deploy};
use crate::client::Client;
use crate::deployment::{Code, Deployment, Settings};
use crate::output;

/// Longest wait for one sample to be compiled.
const READY: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(super) struct SamplesArguments {
    #[command(subcommand)]
    command: SamplesCommand,
}

#[derive(Debug, Subcommand)]
enum SamplesCommand {
    /// List the sample functions that this program brings
    List,
    /// Deploy sample functions, all unless some are named
    Deploy {
        /// Names of samples
        names: Vec<String>,
    },
}

/// A function that this program brings.
struct Sample {
    name: &'static str,
    code: &'static [u8],
    about: &'static str,
    /// A body to try it with, as curl's --data-binary takes it.
    body: &'static str,
    memory: &'static str,
    timeout: &'static str,
}

macro_rules! sample {
    ($name:literal, $about:literal, $body:literal, $memory:literal, $timeout:literal) => {
        Sample {
            name: $name,
            code: include_bytes!(concat!("../../../images/samples/", $name, ".wasm")),
            about: $about,
            body: $body,
            memory: $memory,
            timeout: $timeout,
        }
    };
}

/// The list; adding one touches its source and this.
const SAMPLES: [Sample; 8] = [
    sample!(
        "banner",
        "The body in large letters.",
        "Weir",
        "16MiB",
        "10s"
    ),
    sample!("hash", "SHA-256 of the body.", "@FILE", "64MiB", "30s"),
    sample!(
        "sieve",
        "Counts the primes up to a number.",
        "1000000",
        "64MiB",
        "30s"
    ),
    sample!(
        "fibonacci",
        "A Fibonacci number, the slow way.",
        "30",
        "16MiB",
        "60s"
    ),
    sample!(
        "matrix",
        "Multiplies two square matrices.",
        "200",
        "32MiB",
        "60s"
    ),
    sample!(
        "thumbnail",
        "Makes a PPM or BMP picture small.",
        "@PICTURE",
        "256MiB",
        "30s"
    ),
    sample!(
        "wordcount",
        "Lines, words and bytes of the body.",
        "@TEXT",
        "64MiB",
        "30s"
    ),
    sample!(
        "sleep",
        "Waits for some milliseconds.",
        "250",
        "16MiB",
        "600s"
    ),
];

pub(super) async fn samples(global: &Global, arguments: &SamplesArguments) -> anyhow::Result<()> {
    match &arguments.command {
        SamplesCommand::List => list(global),
        SamplesCommand::Deploy { names } => place(global, names).await,
    }
}

fn list(global: &Global) -> anyhow::Result<()> {
    if global.json() {
        let all = SAMPLES.iter().map(|sample| {
            json!({ "name": sample.name, "about": sample.about, "bytes": sample.code.len() })
        });
        return Ok(output::json(&Value::Array(all.collect()))?);
    }
    let rows: Vec<_> = SAMPLES
        .iter()
        .map(|sample| [sample.name, sample.about, sample.body].map(str::to_owned))
        .collect();
    Ok(output::line(&output::table(
        ["name", "what it does", "body"],
        &rows,
    ))?)
}

/// Deploys one sample, each call of which holds a share of the processors.
pub(super) async fn deploy_with_share(
    client: &Client,
    name: &str,
    share: &str,
) -> anyhow::Result<()> {
    let sample = SAMPLES.iter().find(|sample| sample.name == name);
    let sample = sample.with_context(|| format!("there is no sample {name:?}"))?;
    let settings = sample.settings().with("cpu", share);
    sample.deploy(client, settings, None).await.map(drop)
}

impl Sample {
    fn settings(&self) -> Settings {
        Settings::default()
            .with("memory", self.memory)
            .with("timeout", self.timeout)
            // Each answers the same question with the same answer.
            .with("idempotent", "true")
    }

    /// Deploys it and waits until it can be called.
    async fn deploy(
        &self,
        client: &Client,
        settings: Settings,
        namespace: Option<&str>,
    ) -> anyhow::Result<FunctionName> {
        let doing = || format!("deploy the sample {}", self.name);
        let mut file = tempfile::NamedTempFile::new().with_context(doing)?;
        file.write_all(self.code).with_context(doing)?;
        let deployment = Deployment {
            name: self.name.to_owned(),
            code: Code::File(file.path().to_owned()),
            settings,
        };
        let placed = deploy::place(client, &deployment, namespace).await;
        let (name, _, version) = placed.with_context(doing)?;
        deploy::ready(client, &name, version, READY)
            .await
            .with_context(doing)?;
        Ok(name)
    }
}

async fn place(global: &Global, names: &[String]) -> anyhow::Result<()> {
    let known = |name: &&String| SAMPLES.iter().any(|sample| sample.name == name.as_str());
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let all = SAMPLES.map(|sample| sample.name);
        bail!(
            "there is no sample {unknown:?}; there are: {}",
            all.join(", ")
        );
    }
    let wanted = |sample: &&Sample| names.is_empty() || names.iter().any(|n| n == sample.name);
    let client = global.client()?;
    let namespace = global.namespace.as_ref().map(ToString::to_string);
    let mut deployed = Vec::new();
    for sample in SAMPLES.iter().filter(wanted) {
        let name = sample
            .deploy(&client, sample.settings(), namespace.as_deref())
            .await?;
        let url = format!("{}/function/{name}", client.node());
        if global.json() {
            deployed.push(json!({ "name": name.name(), "url": url }));
        } else {
            output::line(&format!("curl --data-binary {} {url}", sample.body))?;
        }
    }
    if global.json() {
        output::json(&Value::Array(deployed))?;
    }
    Ok(())
}
