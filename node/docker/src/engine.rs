//! The engine: reach it, notice that it is gone, know of deaths, and leave
//! nothing behind.
//!
//! One task looks after the connection for as long as the node lives. While
//! there is none, everything here fails at once with a sentence that says why
//! and what to do; nothing else of the node waits for it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use bollard::models::{ContainerCreateBody, EventMessage, NetworkCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder,
    ListNetworksOptions, StartContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt as _;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::{NODE_LABEL, labels};
use crate::death::{Death, Scrap, remove};
use crate::sandbox::{Folder, SandboxError, Sandboxes};
use crate::{chain, image, sandbox};

/// Longest wait for one answer of the engine. Creating a container on a slow
/// disk takes seconds; an engine that says nothing for longer is as good as gone.
const ANSWER_SECONDS: u64 = 120;

/// First pause before the engine is looked for again; doubles up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest such pause: a repaired engine is used again soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Longest wait of a first call for the first look at the engine, which may be
/// busy with the calls of others.
const FIRST_LOOK: Duration = Duration::from_secs(15);

/// Exit code of what was killed.
const KILLED: &str = "137";

/// How long the engine may take to say that memory was the reason, after it
/// said that a container was killed: the two come in either order.
const OOM_NOTE: Duration = Duration::from_millis(100);

/// Longest path of a Unix socket, without its terminating zero.
const SOCKET_PATH_BYTES: usize = 107;

/// Longest part of such a path below the folder of all containers.
const BELOW_FOLDER_BYTES: usize = "/4294967295/instance.sock".len();

/// What the engine is told.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Path of the engine's Unix socket.
    pub socket: PathBuf,
    /// This node's id: the value of the label on all that it makes.
    pub node: String,
    /// A folder for sockets and code that containers see; emptied at start.
    /// Where the node itself runs in a container, the engine must find it
    /// under the same path.
    pub folder: PathBuf,
    /// Network namespaces that are started ahead, for images that listen.
    pub prepared: usize,
    /// Longest wait for an instance to be ready.
    pub start_timeout: Duration,
}

/// The engine cannot be used now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the container engine cannot be used: {reason}")]
pub struct Unavailable {
    reason: String,
    /// Whether it is there and failed at this: then another try may go.
    stumbled: bool,
}

impl Unavailable {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Unavailable {
            reason: reason.into(),
            stumbled: false,
        }
    }

    /// Whether the engine is there and failed at what it was asked for, by no
    /// fault of whoever asked.
    pub(crate) fn stumbled(&self) -> bool {
        self.stumbled
    }
}

impl From<bollard::errors::Error> for Unavailable {
    fn from(error: bollard::errors::Error) -> Self {
        let stumbled = matches!(
            error,
            bollard::errors::Error::DockerResponseServerError {
                status_code: 500,
                ..
            }
        );
        Unavailable {
            reason: chain(&error),
            stumbled,
        }
    }
}

/// What is known of the engine, for `weir status`.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// Where it is.
    pub socket: PathBuf,
    /// Its version, when it can be reached.
    pub version: Option<String>,
    /// Version of the API that is spoken.
    pub api: Option<String>,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// Containers of this node that run, sandboxes included.
    pub containers: usize,
}

#[derive(Debug, Clone)]
enum State {
    /// Nobody has looked yet.
    Unknown,
    Down(String),
    Up {
        docker: Docker,
        version: String,
        api: String,
    },
}

/// The way to one container engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: EngineConfig,
    state: watch::Sender<State>,
    /// Running containers by id; each leaves with its [`Scrap`].
    deaths: Mutex<HashMap<String, Arc<Death>>>,
    sandboxes: Sandboxes,
    bridge: tokio::sync::Mutex<Option<String>>,
    refill: Notify,
    numbers: AtomicU64,
    /// Tells names of this life of this node from all others.
    nonce: String,
    stop: CancellationToken,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
}

impl Engine {
    /// Begins to look after the engine, on the runtime that this is called on.
    ///
    /// # Errors
    /// When the folder for containers cannot be made, or its path is too long.
    pub fn new(config: EngineConfig) -> io::Result<Engine> {
        let length = config.folder.as_os_str().len() + BELOW_FOLDER_BYTES;
        if length > SOCKET_PATH_BYTES {
            return Err(io::Error::other(format!(
                "the path {} is too long for sockets below it ({length} bytes, at most \
                 {SOCKET_PATH_BYTES}): choose a shorter data directory",
                config.folder.display()
            )));
        }
        match fs::remove_dir_all(&config.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&config.folder)?,
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.unwrap_or_default().as_millis();
        let nonce = format!("{}-{millis:x}", tail(&config.node, 6));
        let engine = Engine {
            inner: Arc::new(Inner {
                config,
                state: watch::Sender::new(State::Unknown),
                deaths: Mutex::default(),
                sandboxes: Sandboxes::default(),
                bridge: tokio::sync::Mutex::default(),
                refill: Notify::new(),
                numbers: AtomicU64::new(0),
                nonce,
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
                runtime: tokio::runtime::Handle::current(),
            }),
        };
        let inner = &engine.inner;
        for work in [
            Box::pin(engine.clone().look_after()) as futures_util::future::BoxFuture<'static, ()>,
            Box::pin(engine.clone().keep_prepared()),
        ] {
            let stop = inner.stop.clone();
            inner.tasks.spawn_on(
                async move {
                    let _ = stop.run_until_cancelled(work).await;
                },
                &inner.runtime,
            );
        }
        Ok(engine)
    }

    /// Whether it answers, as far as is known. Cheap.
    pub fn works(&self) -> bool {
        !matches!(*self.inner.state.borrow(), State::Down(_))
    }

    /// What is known of it.
    pub fn describe(&self) -> Description {
        let known = Description {
            socket: self.inner.config.socket.clone(),
            containers: self.deaths().len(),
            ..Description::default()
        };
        match &*self.inner.state.borrow() {
            State::Unknown => known,
            State::Down(problem) => Description {
                problem: Some(problem.clone()),
                ..known
            },
            State::Up { version, api, .. } => Description {
                version: Some(version.clone()),
                api: Some(api.clone()),
                ..known
            },
        }
    }

    /// Removes everything that this node made, and lets go of the engine.
    pub async fn close(&self) {
        let inner = &self.inner;
        inner.stop.cancel();
        inner.sandboxes.clear();
        if let Ok(docker) = self.docker().await {
            if let Err(error) = self.sweep(&docker, true).await {
                tracing::warn!(error = %chain(&error), "containers may be left behind");
            }
            if let Some(network) = inner.bridge.lock().await.take() {
                let _ = docker.remove_network(&network).await;
            }
        }
        inner.tasks.close();
        inner.tasks.wait().await;
        let _ = fs::remove_dir_all(&inner.config.folder);
    }

    pub(crate) fn node(&self) -> &str {
        &self.inner.config.node
    }

    pub(crate) fn start_timeout(&self) -> Duration {
        self.inner.config.start_timeout
    }

    pub(crate) fn sandboxes(&self) -> &Sandboxes {
        &self.inner.sandboxes
    }

    /// Runs something to its end, also when the caller has gone.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn_on(work, &self.inner.runtime);
    }

    /// A folder for one container, below the one that the engine finds too.
    pub(crate) fn folder(&self) -> io::Result<Folder> {
        let number = self.inner.numbers.fetch_add(1, Ordering::Relaxed);
        Folder::create(self.inner.config.folder.join(number.to_string()))
    }

    /// The client, when the engine can be used.
    pub(crate) async fn docker(&self) -> Result<Docker, Unavailable> {
        let mut state = self.inner.state.subscribe();
        let looked = state.wait_for(|state| !matches!(state, State::Unknown));
        let looked = tokio::time::timeout(FIRST_LOOK, looked).await;
        let state = match &looked {
            Ok(Ok(state)) => &**state,
            Ok(Err(_)) | Err(_) => &State::Unknown,
        };
        match state {
            State::Up { docker, .. } => Ok(docker.clone()),
            State::Down(problem) => Err(Unavailable::new(problem)),
            State::Unknown => Err(Unavailable::new("it does not answer")),
        }
    }

    /// Creates a container; it goes with what is returned.
    pub(crate) async fn create(
        &self,
        what: &str,
        body: ContainerCreateBody,
        folder: Folder,
    ) -> Result<Scrap, Unavailable> {
        let docker = self.docker().await?;
        let number = self.inner.numbers.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-{what}-{}-{number}", self.inner.nonce);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let created = docker.create_container(Some(options), body).await?;
        let death = Arc::new(Death::default());
        self.deaths().insert(created.id.clone(), death.clone());
        Ok(Scrap::new(self.clone(), created.id, death, folder))
    }

    pub(crate) async fn start(&self, container: &str) -> Result<(), Unavailable> {
        let docker = self.docker().await?;
        docker
            .start_container(container, None::<StartContainerOptions>)
            .await?;
        Ok(())
    }

    /// The bridge of this node, made when it is first asked for. Containers on
    /// it reach the host and what lies behind, and not each other.
    pub(crate) async fn bridge(&self) -> Result<String, Unavailable> {
        let mut bridge = self.inner.bridge.lock().await;
        if let Some(name) = &*bridge {
            return Ok(name.clone());
        }
        let docker = self.docker().await?;
        let id = &self.inner.config.node;
        let name = format!("weir-{}", tail(id, 12));
        let there = docker.list_networks(None::<ListNetworksOptions>).await?;
        if !there
            .iter()
            .any(|network| network.name.as_deref() == Some(&name))
        {
            let alone = [("com.docker.network.bridge.enable_icc", "false")];
            let request = NetworkCreateRequest {
                name: name.clone(),
                driver: Some("bridge".to_owned()),
                labels: Some(labels(id)),
                options: Some(
                    alone
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .into(),
                ),
                ..NetworkCreateRequest::default()
            };
            docker.create_network(request).await?;
        }
        *bridge = Some(name.clone());
        Ok(name)
    }

    /// Asks for sandboxes to be started ahead.
    pub(crate) fn prepare_sandboxes(&self) {
        self.inner.refill.notify_one();
    }

    /// Starts sandboxes ahead once some function needed one of its own.
    async fn keep_prepared(self) {
        loop {
            self.inner.refill.notified().await;
            let wanted = self.inner.config.prepared;
            loop {
                match self.inner.sandboxes.prepare(&self, wanted).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::debug!(error = %chain(&error), "no sandbox is started ahead");
                        break;
                    }
                }
            }
        }
    }

    /// Connects, follows events until they end, and begins again.
    async fn look_after(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connect().await {
                Ok((docker, version, api)) => {
                    tracing::info!(%version, %api, "container engine is there");
                    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                    let since = since.unwrap_or_default().as_secs().to_string();
                    let up = State::Up {
                        docker: docker.clone(),
                        version,
                        api,
                    };
                    self.inner.state.send_replace(up);
                    pause = FIRST_PAUSE;
                    let reason = self.follow(&docker, &since).await;
                    tracing::warn!(%reason, "container engine is gone");
                    let problem = format!("it went away: {reason}");
                    self.inner.state.send_replace(State::Down(problem));
                    self.lose_all();
                }
                Err(problem) => {
                    let changed = |state: &mut State| {
                        let same = matches!(state, State::Down(known) if *known == problem);
                        if !same {
                            tracing::debug!(%problem, "no container engine");
                            *state = State::Down(problem);
                        }
                        !same
                    };
                    self.inner.state.send_if_modified(changed);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<(Docker, String, String), String> {
        let socket = &self.inner.config.socket;
        reachable(socket).map_err(|error| hint(socket, &error))?;
        let path = socket.display().to_string();
        let docker = Docker::connect_with_unix(&path, ANSWER_SECONDS, API_DEFAULT_VERSION);
        let docker = docker.map_err(|error| chain(&error))?;
        let docker = docker.negotiate_version().await;
        let docker = docker.map_err(|error| chain(&error))?;
        let version = docker.version().await.map_err(|error| chain(&error))?;
        self.sweep(&docker, false)
            .await
            .map_err(|error| chain(&error))?;
        image::import_if_missing(&docker, sandbox_image(), sandbox::image_archive)
            .await
            .map_err(|error| chain(&error))?;
        let unknown = || "unknown".to_owned();
        Ok((
            docker,
            version.version.unwrap_or_else(unknown),
            version.api_version.unwrap_or_else(unknown),
        ))
    }

    /// Removes containers of this node that are not known: what an earlier
    /// life left, or `all`.
    async fn sweep(&self, docker: &Docker, all: bool) -> Result<(), bollard::errors::Error> {
        let ours = format!("{NODE_LABEL}={}", self.inner.config.node);
        let filters = HashMap::from([("label".to_owned(), vec![ours])]);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let found = docker.list_containers(Some(options)).await?;
        let known = |id: &String| !all && self.deaths().contains_key(id);
        let left = found.into_iter().filter_map(|container| container.id);
        let left: Vec<String> = left.filter(|id| !known(id)).collect();
        if !left.is_empty() {
            tracing::info!(count = left.len(), "removing containers of this node");
        }
        let removals = left.iter().map(|id| remove(docker, id));
        futures_util::future::join_all(removals).await;
        Ok(())
    }

    /// Follows the engine's events; returns why they ended.
    async fn follow(&self, docker: &Docker, since: &str) -> String {
        let ours = format!("{NODE_LABEL}={}", self.inner.config.node);
        let filters = HashMap::from([
            ("label".to_owned(), vec![ours]),
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), vec!["die".to_owned(), "oom".to_owned()]),
        ]);
        let options = EventsOptionsBuilder::default()
            .since(since)
            .filters(&filters)
            .build();
        let mut events = std::pin::pin!(docker.events(Some(options)));
        loop {
            match events.next().await {
                Some(Ok(event)) => self.note(&event),
                Some(Err(error)) => return chain(&error),
                None => return "it closed the connection".to_owned(),
            }
        }
    }

    fn note(&self, event: &EventMessage) {
        let Some(actor) = &event.actor else { return };
        let Some(id) = &actor.id else { return };
        let Some(death) = self.deaths().get(id).cloned() else {
            return;
        };
        match event.action.as_deref() {
            Some("oom") => death.ran_out_of_memory(),
            Some("die") => {
                let code = actor
                    .attributes
                    .as_ref()
                    .and_then(|attributes| attributes.get("exitCode"));
                let reason = match code {
                    Some(code) => format!("it exited with code {code}"),
                    None => "it exited".to_owned(),
                };
                match code.map(String::as_str) {
                    Some(KILLED) => self.spawn(async move {
                        tokio::time::sleep(OOM_NOTE).await;
                        death.died(reason);
                    }),
                    _ => death.died(reason),
                }
            }
            _ => {}
        }
    }

    fn lose_all(&self) {
        self.inner.sandboxes.clear();
        let all: Vec<Arc<Death>> = self.deaths().values().cloned().collect();
        for death in all {
            death.died("the container engine stopped".to_owned());
        }
    }

    pub(crate) fn deaths(&self) -> MutexGuard<'_, HashMap<String, Arc<Death>>> {
        self.inner.deaths.lock()
    }
}

/// The image of sandboxes, named by what is in it.
pub(crate) fn sandbox_image() -> &'static str {
    static NAME: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let mut hasher = DefaultHasher::new();
        sandbox::PROGRAM.hash(&mut hasher);
        format!("weir/sandbox:{:016x}", hasher.finish())
    });
    &NAME
}

/// The end of a node's id, which differs where the beginning does not.
fn tail(id: &str, length: usize) -> &str {
    &id[id.len().saturating_sub(length)..]
}

/// Whether the socket can be connected to at all: the client's own error hides
/// the reason.
fn reachable(socket: &Path) -> io::Result<()> {
    std::os::unix::net::UnixStream::connect(socket).map(drop)
}

fn hint(socket: &Path, error: &io::Error) -> String {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{socket} is not there: install and start Docker, or set docker.socket")
        }
        io::ErrorKind::PermissionDenied => format!(
            "this user may not use {socket}: add it to the socket's group (usually docker), or \
             run the node as root"
        ),
        io::ErrorKind::ConnectionRefused => {
            format!("nobody listens on {socket}: start Docker")
        }
        _ => format!("{socket}: {error}"),
    }
}

/// Kept from a failed start, for whoever asked for it.
impl From<SandboxError> for Unavailable {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Engine(error) => error,
            other @ (SandboxError::Folder(_) | SandboxError::Silent) => {
                Unavailable::new(chain(&other))
            }
        }
    }
}
