//! `weir deploy`: code up, function in place, and a wait until it can be called.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::io::AsyncReadExt as _;
use weir_node::function::CodeSource;
use weir_node::id::{Digest, FunctionName};

use super::flags::{OPTIONS_GROUP, OptionFlags};
use super::{Global, image, source};
use crate::client::Client;
use crate::deployment::{Code, Deployment, WireDeployment};
use crate::output::{self, Progress};
use crate::project::{self, Outside, PROJECT_BYTES};
use crate::setting::duration;

/// Bytes of code that are read and sent at a time.
const PIECE_BYTES: usize = 64 << 10;

/// First pause between two looks at a function that is being prepared.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long something may be missing on the node before the wait is given up.
const MISSING: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct DeployArguments {
    /// Name of the function; with --file, the only one of the file to deploy
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// File with the code: a WebAssembly module or component, or .wat text
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    #[arg(required_unless_present_any = ["file", "image", "image_archive", "src"])]
    wasm: Option<PathBuf>,
    /// Container image, or digest (sha256:...) of code that the node has already
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    image: Option<CodeSource>,
    /// Archive of a container image (docker save, OCI; plain, gzip or zstd), or a folder with
    /// an OCI layout
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    image_archive: Option<PathBuf>,
    /// File or folder of source code, for --runtime or the image that runs it
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    src: Option<PathBuf>,
    /// Deploy the functions of a project file (weir.toml) or OpenFaaS stack.yaml
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = OPTIONS_GROUP)]
    file: Option<PathBuf>,
    #[command(flatten)]
    options: OptionFlags,
    /// Return once the node accepted the function, before it is ready
    #[arg(long)]
    no_wait: bool,
    /// Longest wait for the function to be ready
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    wait_timeout: Duration,
}

pub(super) async fn deploy(global: &Global, arguments: &DeployArguments) -> anyhow::Result<()> {
    let deployments = deployments(global, arguments)?;
    let client = global.client()?;
    let namespace = global.namespace.as_ref().map(ToString::to_string);
    let wait = (!arguments.no_wait).then_some(arguments.wait_timeout);
    let mut results = Vec::new();
    for deployment in &deployments {
        let (name, image, version) = place(&client, deployment, namespace.as_deref())
            .await
            .with_context(|| format!("deploy {}", deployment.name))?;
        if let Some(limit) = wait {
            ready(&client, &name, version, limit)
                .await
                .with_context(|| format!("deploy {name}"))?;
        }
        let url = format!("{}/function/{name}", client.node());
        if global.json() {
            results.push(
                json!({ "name": name.name(), "namespace": name.namespace.as_str(),
                "image": image.to_string(), "url": url }),
            );
        } else {
            output::line(&url)?;
        }
    }
    if global.json() {
        output::json(&Value::Array(results))?;
    }
    Ok(())
}

fn deployments(global: &Global, arguments: &DeployArguments) -> anyhow::Result<Vec<Deployment>> {
    if let Some(path) = &arguments.file {
        let text = read_bounded(path, PROJECT_BYTES)
            .with_context(|| format!("read the functions in {}", path.display()))?;
        let outside = Outside {
            variable: &super::variable,
            file: &|path| {
                let text = read_bounded(path, PROJECT_BYTES);
                text.map_err(|error| format!("read {}: {error:#}", path.display()))
            },
        };
        let project = project::parse(path, &text, &outside)?;
        for warning in &project.warnings {
            output::note(&format!("warning: {warning}"));
        }
        let mut deployments = project.deployments;
        if let Some(name) = &arguments.name {
            deployments.retain(|deployment| deployment.name == *name);
            if deployments.is_empty() {
                bail!("{} has no function {name}", path.display());
            }
        }
        return Ok(deployments);
    }
    let name = global.function(arguments.name.as_deref().unwrap_or_default())?;
    let mut settings = arguments.options.settings()?;
    settings.namespace = Some(name.namespace.to_string());
    let sources = [
        arguments.wasm.clone().map(Code::File),
        arguments.image_archive.clone().map(Code::Image),
        arguments.src.clone().map(Code::Source),
    ];
    let code = project::pick(sources, arguments.image.clone(), &mut settings);
    let code = code.map_err(|problem| anyhow::anyhow!("function {name} {problem}"))?;
    Ok(vec![Deployment {
        name: name.name().to_owned(),
        code,
        settings,
    }])
}

/// Brings code and function to the node; returns what the node calls them, and
/// the version that it made.
pub(super) async fn place(
    client: &Client,
    deployment: &Deployment,
    namespace: Option<&str>,
) -> anyhow::Result<(FunctionName, CodeSource, Option<u64>)> {
    let image = match &deployment.code {
        Code::Named(source) => source.clone(),
        Code::File(path) => upload(client, path, path).await?.into(),
        Code::Image(path) => {
            let owned = path.to_owned();
            let archive = tokio::task::spawn_blocking(move || image::archive(&owned)).await?;
            let archive =
                archive.with_context(|| format!("read the image in {}", path.display()))?;
            upload(client, archive.path(), path).await?.into()
        }
        Code::Source(path) => {
            let owned = path.to_owned();
            let packed = tokio::task::spawn_blocking(move || source::pack(&owned)).await?;
            let packed = packed.with_context(|| format!("pack {}", path.display()))?;
            upload(client, packed.path(), path).await?.into()
        }
    };
    let wire = WireDeployment::new(deployment, &image, namespace);
    let name = FunctionName::new(&deployment.name, wire.namespace().parse()?)?;
    let version = send(client, &wire).await?;
    Ok((name, image, version))
}

/// Uploads the code in `path` unless the node has it; the user knows it as
/// `shown`.
async fn upload(client: &Client, path: &Path, shown: &Path) -> anyhow::Result<Digest> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || digest(&owned)).await?;
    let (digest, bytes) = read.with_context(|| format!("read {}", path.display()))?;
    let artifact = artifact_path(digest);
    let head = client.send(client.request(Method::HEAD, &artifact)).await?;
    match head.status() {
        StatusCode::NOT_FOUND => {}
        // Anything but a plain yes or no is worth the node's own words, and
        // the answer to HEAD has no body.
        status if status.is_success() => return Ok(digest),
        _ => {
            client
                .ask(
                    "look for the artifact",
                    client.request(Method::GET, &artifact),
                )
                .await?;
            return Ok(digest);
        }
    }
    let progress = Progress::upload(&shown.display().to_string(), bytes);
    let file = tokio::fs::File::open(path).await;
    let file = file.with_context(|| format!("read {}", path.display()))?;
    let pieces = stream::try_unfold((file, progress), |(mut file, progress)| async move {
        let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
        let read = file.read_buf(&mut piece).await?;
        progress.add(read as u64);
        let next = (read > 0).then(|| (piece.freeze(), (file, progress)));
        Ok::<_, std::io::Error>(next)
    });
    let request = client
        .request(Method::PUT, &artifact)
        .header(CONTENT_LENGTH, bytes)
        .body(reqwest::Body::wrap_stream(pieces));
    client.ask("upload the artifact", request).await?;
    Ok(digest)
}

/// Where the artifact `digest` is on a node.
pub(super) fn artifact_path(digest: Digest) -> String {
    format!("/weir/v1/artifacts/{}", digest.hex())
}

fn digest(path: &Path) -> std::io::Result<(Digest, u64)> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((Digest::new(hasher.finalize().into()), bytes));
        }
        hasher.update(&piece[..read]);
        bytes += read as u64;
    }
}

/// Updates the function, or creates it when there is none; returns its version,
/// where the node tells it.
pub(super) async fn send(client: &Client, wire: &WireDeployment) -> anyhow::Result<Option<u64>> {
    let body = serde_json::to_vec(wire)?;
    let request = |method| {
        client
            .request(method, "/system/functions")
            .header("content-type", "application/json")
            .body(body.clone())
    };
    let updated = client.send(request(Method::PUT)).await?;
    let response = if updated.status() == StatusCode::NOT_FOUND {
        client.send(request(Method::POST)).await?
    } else {
        updated
    };
    let response = client.succeeded("deploy the function", response).await?;
    let warning = response.headers().get("x-weir-warning");
    if let Some(Ok(warning)) = warning.map(http::HeaderValue::to_str) {
        output::note(&format!("weir: warning: {}", output::printable(warning)));
    }
    let version = response.headers().get("x-weir-version");
    let version = version.and_then(|version| version.to_str().ok());
    Ok(version.and_then(|version| version.parse().ok()))
}

/// Where a version stands, as a function's status tells.
fn state_of(status: &Value, version: Option<u64>) -> anyhow::Result<&str> {
    let annotation = |name: &str| status["annotations"][name].as_str();
    let number = |name: &str| annotation(name).and_then(|text| text.parse::<u64>().ok());
    let current = number("weir.version");
    match (version, current) {
        (Some(wanted), Some(current)) if wanted > current => {
            let next = number("weir.next-version").filter(|next| *next == wanted);
            let state = next.and_then(|_| annotation("weir.next-state"));
            let state = state.with_context(|| {
                format!(
                    "version {wanted} was given up, by another deployment or a rollback: version \
                     {current} serves"
                )
            })?;
            if state.starts_with("failed") {
                bail!("version {current} serves on; version {wanted} {state}");
            }
            // Ready, and about to be put in place.
            Ok(if state == "ready" { "preparing" } else { state })
        }
        _ => Ok(super::functions::state(status)),
    }
}

/// Waits until a version of the function can be called; its newest, if `None`.
pub(super) async fn ready(
    client: &Client,
    name: &FunctionName,
    version: Option<u64>,
    limit: Duration,
) -> anyhow::Result<()> {
    let path = super::functions::function_path(name);
    let poll = async {
        let mut pause = FIRST_PAUSE;
        // Since when something is missing on the node: an engine that was just
        // started is not.
        let mut missing: Option<Instant> = None;
        loop {
            let request = client.request(Method::GET, &path);
            let status: Value = client.ask_json("see whether it is ready", request).await?;
            match state_of(&status, version)? {
                "ready" => return Ok(()),
                state if state.starts_with("failed") => bail!("{state}"),
                state => match state.strip_prefix("waiting: ") {
                    Some(reason) => {
                        let since = *missing.get_or_insert_with(Instant::now);
                        if since.elapsed() >= MISSING {
                            bail!("it is kept, and will be ready once this is mended: {reason}");
                        }
                    }
                    None => missing = None,
                },
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    };
    match tokio::time::timeout(limit, poll).await {
        Ok(result) => result,
        Err(_) => bail!(
            "not ready after {}; it may still become so: see `weir describe {name}`",
            humantime::format_duration(limit)
        ),
    }
}

/// Reads a text file of at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> anyhow::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(limit + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        bail!("the file is larger than {limit} bytes");
    }
    Ok(text)
}
