//! The docker executor: containers, through `weir-docker`.
//!
//! An instance is a started container. What a function needs of memory it
//! holds while it lives; its share of the processors only while it runs a call.

mod container;
mod fetched;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use weir_docker::{Action, Engine, EngineConfig, ImageError, ImageSource, Settings};

use self::container::{Container, Sink};
use self::fetched::Fetched;
use super::{Code, Executor, Instance, Profile, Setup, StartError, Unfit};
use crate::clock;
use crate::config::{DockerConfig, NodeConfig};
use crate::function::{ArtifactKind, CodeSource, FunctionSpec, Network, Protocol, Pull};
use crate::id::{Digest, ImageName};
use crate::layers::{Holder, Layer};
use crate::resources::{Cpu, Memory, Resources};

/// Where a container finds its secrets.
const SECRETS: &str = "/var/openfaas/secrets";

/// Where a runtime finds its code.
const SOURCE: &str = "/function";

/// Namespaces without a network that are started ahead of the images that
/// will need one; each is an idle process of a few kilobytes.
const PREPARED_SANDBOXES: usize = 2;

/// Least memory of a container: with less the engine's own process, which
/// becomes the container's, may be killed before there is one.
const LEAST_MEMORY: Memory = Memory::mebibytes(16);

/// Bytes that an instance may write to its root where that is not read-only.
const ROOT_BYTES: u64 = 1 << 30;

/// Largest source file that is given to an OpenWhisk image as text.
const ACTION_BYTES: u64 = 4 << 20;

/// Runs containers.
pub struct Docker {
    engine: Engine,
    config: DockerConfig,
    /// Where it may write.
    folder: PathBuf,
    /// Unpacked source archives, by digest.
    sources: PathBuf,
    /// Images that are in the engine because of this node.
    fetched: Fetched,
    /// Ids of the images that functions were prepared with.
    images: Mutex<HashMap<CodeKey, String>>,
}

/// What an image was found for.
type CodeKey = (CodeSource, Option<ImageName>);

impl Docker {
    /// Begins to look after the engine; it need not be there.
    ///
    /// # Errors
    /// A sentence that says which step failed.
    pub fn start(config: &NodeConfig, node: &str) -> Result<Self, String> {
        let run = config.data_dir.join("run");
        let engine = Engine::new(EngineConfig {
            socket: config.docker.socket.clone(),
            node: node.to_owned(),
            folder: run.join("docker"),
            prepared: PREPARED_SANDBOXES,
            start_timeout: config.docker.start_timeout,
        });
        Ok(Docker {
            engine: engine.map_err(|error| error.to_string())?,
            config: config.docker.clone(),
            sources: run.join("sources"),
            folder: run,
            fetched: Fetched::open(config.data_dir.join("images.json"))
                .map_err(|error| error.to_string())?,
            images: Mutex::default(),
        })
    }

    fn images(&self) -> MutexGuard<'_, HashMap<CodeKey, String>> {
        self.images.lock()
    }

    /// Has the engine get the function's image; returns its id.
    async fn image(&self, spec: &FunctionSpec, code: &Code) -> Result<String, StartError> {
        let key = image_key(spec);
        let known = self.images().get(&key).cloned();
        if let Some(id) = known {
            return Ok(id);
        }
        let source = self.image_source(spec, code).map_err(StartError::Code)?;
        let image = self.engine.image(&source).await.map_err(image_error)?;
        if image.is_new {
            let name = self.image_name(spec).map_err(StartError::Code)?;
            self.fetched.add(&name, &image);
        }
        self.images().insert(key, image.id.clone());
        Ok(image.id)
    }

    /// What names the function's image for as long as anybody wants it.
    fn image_name(&self, spec: &FunctionSpec) -> Result<String, String> {
        match (&spec.code, &spec.container.image) {
            (CodeSource::Image(name), _) | (CodeSource::Artifact(_), Some(name)) => {
                Ok(name.to_string())
            }
            (CodeSource::Artifact(digest), None) if spec.kind == ArtifactKind::ImageArchive => {
                Ok(digest.to_string())
            }
            (CodeSource::Artifact(_), None) => self.runtime_image(spec).map(ToString::to_string),
        }
    }

    fn image_source(&self, spec: &FunctionSpec, code: &Code) -> Result<ImageSource, String> {
        let registry = |name: &ImageName, pull| ImageSource::Registry {
            reference: name.to_string(),
            pull: match pull {
                Pull::Missing => weir_docker::Pull::Missing,
                Pull::Always => weir_docker::Pull::Always,
                Pull::Never => weir_docker::Pull::Never,
            },
        };
        match (&spec.code, &spec.container.image) {
            (CodeSource::Image(name), _) => Ok(registry(name, spec.container.pull)),
            (CodeSource::Artifact(_), Some(name)) => Ok(registry(name, spec.container.pull)),
            (CodeSource::Artifact(_), None) if code.kind == ArtifactKind::ImageArchive => {
                Ok(ImageSource::Archive(code.path()?.to_owned()))
            }
            (CodeSource::Artifact(_), None) => {
                let name = self.runtime_image(spec)?;
                Ok(registry(name, Pull::Missing))
            }
        }
    }

    fn runtime_image(&self, spec: &FunctionSpec) -> Result<&ImageName, String> {
        match spec.container.runtime.as_deref() {
            Some("python") => Ok(&self.config.python_image),
            Some(other) => Err(format!(
                "there is no runtime {other:?}; this node has: python"
            )),
            None => Err(
                "a folder of code needs a runtime or an image that runs it: name one \
                 (--runtime python, or --image)"
                    .to_owned(),
            ),
        }
    }

    /// Whether the function is a folder of code for one of our runtimes.
    fn uses_runtime(spec: &FunctionSpec) -> bool {
        spec.kind == ArtifactKind::SourceArchive && spec.container.image.is_none()
    }

    fn concurrency(spec: &FunctionSpec) -> u32 {
        match spec.protocol {
            Protocol::OpenWhisk | Protocol::Lambda => 1,
            Protocol::Http | Protocol::Serverledge | Protocol::Stdio | Protocol::Cgi => {
                spec.concurrency.unwrap_or(1)
            }
        }
    }

    /// Unpacks a source archive, once.
    async fn source(&self, code: &Code) -> Result<PathBuf, StartError> {
        let archive = code.path().map_err(StartError::Node)?.to_owned();
        let name = archive.file_name().unwrap_or_default();
        let target = self.sources.join(name);
        let unpacked = target.clone();
        let unpack =
            tokio::task::spawn_blocking(move || weir_docker::unpack_source(&archive, &unpacked));
        let unpacked = unpack.await.map_err(|e| StartError::Node(e.to_string()))?;
        unpacked.map_err(|error| StartError::Node(error.to_string()))?;
        Ok(target)
    }

    async fn protocol(
        &self,
        spec: &FunctionSpec,
        source: Option<&PathBuf>,
    ) -> Result<weir_docker::Protocol, StartError> {
        let handler = spec.container.handler.clone().unwrap_or_default();
        match spec.protocol {
            Protocol::Http if Self::uses_runtime(spec) => Ok(weir_docker::Protocol::Runtime),
            Protocol::Http => Ok(weir_docker::Protocol::Http),
            Protocol::Serverledge => Ok(weir_docker::Protocol::Serverledge { handler }),
            Protocol::Lambda => Ok(weir_docker::Protocol::Lambda { handler }),
            Protocol::OpenWhisk => {
                let code = match source {
                    None => (String::new(), false),
                    Some(folder) => action_code(folder.clone()).await?,
                };
                Ok(weir_docker::Protocol::OpenWhisk(Action {
                    name: spec.name.name().to_owned(),
                    namespace: spec.name.namespace.to_string(),
                    main: match handler.is_empty() {
                        true => "main".to_owned(),
                        false => handler,
                    },
                    code: code.0,
                    is_binary: code.1,
                    env: pairs(spec),
                }))
            }
            Protocol::Stdio | Protocol::Cgi => Err(StartError::Code(no_protocol(spec.protocol))),
        }
    }
}

fn image_error(error: ImageError) -> StartError {
    match error {
        ImageError::Engine(error) => StartError::Node(error.to_string()),
        ImageError::Image(reason) => StartError::Code(reason),
    }
}

fn image_key(spec: &FunctionSpec) -> CodeKey {
    (spec.code.clone(), spec.container.image.clone())
}

fn no_protocol(protocol: Protocol) -> String {
    format!(
        "containers speak http, openwhisk, serverledge or lambda; {protocol} is for WebAssembly"
    )
}

fn pairs(spec: &FunctionSpec) -> Vec<(String, String)> {
    let pairs = spec.env.iter();
    pairs
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The one file of a folder, as an OpenWhisk container takes it.
async fn action_code(folder: PathBuf) -> Result<(String, bool), StartError> {
    let read = tokio::task::spawn_blocking(move || {
        let files: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
        match files.as_slice() {
            [file] if file.metadata()?.len() <= ACTION_BYTES => {
                std::fs::read_to_string(file.path())
            }
            [_] => Err(std::io::Error::other(format!(
                "the action is larger than {ACTION_BYTES} bytes"
            ))),
            _ => Err(std::io::Error::other(format!(
                "an OpenWhisk image takes one source file, and these are {}",
                files.len()
            ))),
        }
    });
    let text = read.await.map_err(|e| StartError::Node(e.to_string()))?;
    let text = text.map_err(|error| StartError::Code(error.to_string()))?;
    Ok((text, false))
}

/// The environment that images of other platforms look for.
fn environment(spec: &FunctionSpec) -> Vec<(String, String)> {
    let name = spec.name.name().to_owned();
    // Whole seconds, which all watchdogs read, and never less than the timeout.
    let seconds = spec.timeout.as_secs() + u64::from(spec.timeout.subsec_nanos() > 0);
    let seconds = format!("{}s", seconds.max(1));
    let mut all = vec![
        ("K_SERVICE".to_owned(), name.clone()),
        ("K_CONFIGURATION".to_owned(), name.clone()),
        ("K_REVISION".to_owned(), format!("{name}-1")),
        ("OPENFAAS_NAME".to_owned(), name.clone()),
        (
            "OPENFAAS_NAMESPACE".to_owned(),
            spec.name.namespace.to_string(),
        ),
        // Or of-watchdog would end a call before Weir does.
        ("read_timeout".to_owned(), seconds.clone()),
        ("write_timeout".to_owned(), seconds.clone()),
        ("exec_timeout".to_owned(), seconds),
        ("WEIR_FUNCTION".to_owned(), name),
        (
            "WEIR_MEMORY_BYTES".to_owned(),
            spec.memory.as_bytes().to_string(),
        ),
    ];
    if let Some(handler) = &spec.container.handler {
        all.push(("WEIR_HANDLER".to_owned(), handler.clone()));
        all.push(("WEIR_SOURCE".to_owned(), SOURCE.to_owned()));
    }
    if let Some(process) = &spec.as_deployed.env_process {
        all.push(("fprocess".to_owned(), process.clone()));
    }
    // Last, so that what the deployer says wins.
    all.extend(pairs(spec));
    all
}

fn network(wanted: Network) -> weir_docker::Network {
    match wanted {
        Network::None => weir_docker::Network::None,
        Network::Bridge => weir_docker::Network::Bridge,
    }
}

/// What is at fault where a container is no instance.
fn not_started(error: &weir_docker::StartError) -> StartError {
    let reason = error.to_string();
    match error {
        weir_docker::StartError::Engine(_) => StartError::Node(reason),
        weir_docker::StartError::Container(_) => StartError::Instance(reason),
    }
}

impl Executor for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn must_start(&self) -> bool {
        true
    }

    fn allows(&self, spec: &FunctionSpec) -> Result<(), Unfit> {
        if matches!(spec.protocol, Protocol::Stdio | Protocol::Cgi) {
            return Err(Unfit(no_protocol(spec.protocol)));
        }
        if !spec.allow_outbound.is_empty() {
            return Err(Unfit(
                "allow-outbound is for WebAssembly components; a container gets a network with \
                 --network bridge"
                    .to_owned(),
            ));
        }
        if spec.memory < LEAST_MEMORY {
            return Err(Unfit(format!(
                "a container needs at least {LEAST_MEMORY} of memory"
            )));
        }
        if matches!(spec.protocol, Protocol::OpenWhisk | Protocol::Lambda)
            && spec.concurrency.is_some_and(|n| n > 1)
        {
            return Err(Unfit(format!(
                "calls of an instance that speaks {} never overlap: leave concurrency out",
                spec.protocol
            )));
        }
        Ok(())
    }

    fn check(&self, spec: &FunctionSpec, code: &Code) -> Result<(), Unfit> {
        self.allows(spec)?;
        if spec.kind == ArtifactKind::SourceArchive {
            self.image_source(spec, code).map_err(Unfit)?;
            if Self::uses_runtime(spec) && spec.container.handler.is_none() {
                return Err(Unfit(
                    "a runtime must be told what to call: --handler MODULE.FUNCTION".to_owned(),
                ));
            }
            let path = code.path().map_err(Unfit)?;
            weir_docker::check_source(path).map_err(|error| Unfit(error.to_string()))?;
        }
        if spec.kind == ArtifactKind::ImageArchive {
            weir_docker::check_archive(code.path().map_err(Unfit)?).map_err(Unfit)?;
        }
        Ok(())
    }

    fn profile(&self, spec: &FunctionSpec) -> Profile {
        let cpu = spec.cpu.unwrap_or(FunctionSpec::UNDECLARED_CPU);
        Profile {
            instance: Resources {
                cpu: Cpu::ZERO,
                memory: spec.memory,
            },
            call: Resources {
                cpu: cpu.max(Cpu::millicores(1)),
                memory: Memory::bytes(0),
            },
            calls_per_instance: Self::concurrency(spec),
            max_instances: spec.max.unwrap_or(u32::MAX),
            min_instances: spec.min,
            keep_alive: spec.keep_alive,
            keeping: spec.keeping.unwrap_or_default(),
        }
    }

    fn prepare(
        &self,
        spec: Arc<FunctionSpec>,
        code: Code,
    ) -> BoxFuture<'_, Result<(), StartError>> {
        Box::pin(async move {
            if spec.container.pull == Pull::Always {
                self.images().remove(&image_key(&spec));
            }
            let image = self.image(&spec, &code).await?;
            if spec.container.read_write {
                let checked = self.engine.check_root(&image, ROOT_BYTES).await;
                checked.map_err(image_error)?;
            }
            if code.kind == ArtifactKind::SourceArchive {
                self.source(&code).await?;
            }
            Ok(())
        })
    }

    fn start(&self, setup: Setup) -> BoxFuture<'_, Result<Arc<dyn Instance>, StartError>> {
        Box::pin(async move {
            let Setup {
                spec,
                code,
                secrets,
                log,
            } = setup;
            let image = self.image(&spec, &code).await?;
            let source = match code.kind {
                ArtifactKind::SourceArchive => Some(self.source(&code).await?),
                _ => None,
            };
            let protocol = self.protocol(&spec, source.as_ref()).await?;
            let mut mounts = Vec::new();
            if let Some(source) = source
                && spec.protocol != Protocol::OpenWhisk
            {
                let target = match spec.protocol {
                    Protocol::Serverledge => "/app",
                    Protocol::Lambda => weir_docker::LAMBDA_TASK_ROOT,
                    _ => SOURCE,
                };
                mounts.push((source, target));
            }
            mounts.extend(secrets.map(|folder| (folder, SECRETS)));
            let settings = Settings {
                function: spec.name.name().to_owned(),
                image,
                env: environment(&spec),
                memory_bytes: spec.memory.as_bytes(),
                cpu_millicores: spec.cpu.map(Cpu::as_millicores),
                network: network(spec.container.network),
                image_user: spec.container.image_user,
                health: spec.container.health.clone(),
                port: spec.container.port,
                root_bytes: spec.container.read_write.then_some(ROOT_BYTES),
                mounts,
            };
            let sink = Arc::new(Sink {
                log,
                writer: clock::call_id(),
            });
            let tenant = spec.name.namespace.as_str();
            let started = self
                .engine
                .instance(settings, protocol, tenant, Self::concurrency(&spec), sink)
                .await;
            match started {
                Ok(instance) => Ok(Arc::new(Container(instance)) as Arc<dyn Instance>),
                Err(error) => {
                    // Should it have been removed meanwhile, it is got again.
                    self.images().remove(&image_key(&spec));
                    Err(not_started(&error))
                }
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.engine.close())
    }

    fn forget(&self, digest: &Digest) {
        let folder = self.sources.join(digest.hex());
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %folder.display(), %error, "cannot remove unpacked code");
        }
        self.images()
            .retain(|(source, _), _| source.artifact() != Some(digest));
    }

    fn cached_bytes(&self) -> u64 {
        folder_bytes(&self.sources)
    }

    fn layers(&self, wanted: Vec<Layer>, room: u64) -> BoxFuture<'_, Vec<Holder>> {
        Box::pin(async move {
            let wanted = wanted.iter();
            let wanted: Vec<_> = wanted
                .map(|layer| (*layer.digest.as_bytes(), layer.bytes))
                .collect();
            let exports = match self.engine.export(&wanted, &self.folder, room).await {
                Ok(exports) => exports,
                Err(error) => {
                    tracing::debug!(%error, "the engine does not say which layers it has");
                    return Vec::new();
                }
            };
            let holders = exports.into_iter().map(|export| Holder {
                file: export.file,
                bytes: export.bytes,
                layers: export.layers.into_iter().map(Layer::from).collect(),
            });
            holders.collect()
        })
    }

    fn tidy(&self, specs: Vec<Arc<FunctionSpec>>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let ours = specs.iter().filter(|spec| self.accepts(spec.kind));
            let needed = ours.filter_map(|spec| self.image_name(spec).ok()).collect();
            let keep = self.config.spare_images;
            for surplus in self.fetched.surplus(&needed, keep, SystemTime::now()) {
                match self.engine.remove_image(&surplus).await {
                    Ok(removed) => {
                        tracing::info!(image = %surplus, removed, "image that no function needs");
                        self.images().retain(|_, id| *id != surplus);
                        // What others use is theirs from now on.
                        self.fetched.forget(&surplus);
                    }
                    Err(error) => tracing::debug!(%error, "an image cannot be removed"),
                }
            }
        })
    }

    fn works(&self) -> bool {
        self.engine.works()
    }

    fn describe(&self) -> serde_json::Value {
        let engine = self.engine.describe();
        serde_json::json!({
            "socket": engine.socket,
            "version": engine.version,
            "api": engine.api,
            "problem": engine.problem,
            "containers": engine.containers,
            "images": self.images().len(),
            "fetched_images": self.fetched.count(),
            "python_image": self.config.python_image,
        })
    }
}

/// Bytes of all files below a folder.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_houses_mark_source_code_alike() {
        assert_eq!(ArtifactKind::SOURCE_MARKER, weir_docker::SOURCE_MARKER);
    }
}
