//! From settings to a container that takes calls.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bollard::query_parameters::AttachContainerOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::words::LastWords;
use super::{Access, Inner, Instance};
use crate::container::{Network, Settings};
use crate::engine::{Engine, Unavailable};
use crate::image::Wishes;
use crate::lambda;
use crate::link::{Link, Stream};
use crate::protocol::{Conversation, Protocol, look};
use crate::resting::{Resting, Thread};
use crate::sandbox::{Folder, Sandbox, listen};
use crate::{BodyError, Sink, chain};

/// The port on which images answer that name no other.
const USUAL_PORT: u16 = 8080;

/// Where a runtime finds the socket of the node.
const SOCKET: &str = "/run/weir/instance.sock";

/// First pause between two tries to connect to an image that does not listen
/// yet; grows to [`LONGEST_TRY`].
const FIRST_TRY: Duration = Duration::from_millis(1);

/// Longest such pause: what an instance is late by, at worst.
const LONGEST_TRY: Duration = Duration::from_millis(25);

/// Bytes of log that are read from one container in [`LOG_WINDOW`]; then the
/// container waits, and its flood costs the engine no more than that.
const LOG_BYTES: usize = 1 << 20;

/// See [`LOG_BYTES`].
const LOG_WINDOW: Duration = Duration::from_millis(250);

/// Why a container is no instance.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine cannot be used now.
    #[error(transparent)]
    Engine(#[from] Unavailable),
    /// The container did not become ready; the reason and its last words.
    #[error("{0}")]
    Container(String),
}

impl Engine {
    /// Starts a container and waits until it takes calls. `tenant` shares a
    /// network namespace, where the protocol needs no port; `concurrency` is
    /// the number of calls at once.
    pub async fn instance(
        &self,
        settings: Settings,
        protocol: Protocol,
        tenant: &str,
        concurrency: u32,
        log: Sink,
    ) -> Result<Instance, StartError> {
        let attempt = || {
            let (settings, protocol) = (settings.clone(), protocol.clone());
            self.try_instance(settings, protocol, tenant, concurrency, log.clone())
        };
        match attempt().await {
            // A machine short of memory may kill the engine's own process at a
            // start; callers need not hear of it.
            Err(StartError::Engine(error)) if error.stumbled() => {
                tracing::debug!(%error, "a start is tried once more");
                attempt().await
            }
            outcome => outcome,
        }
    }

    async fn try_instance(
        &self,
        mut settings: Settings,
        protocol: Protocol,
        tenant: &str,
        concurrency: u32,
        log: Sink,
    ) -> Result<Instance, StartError> {
        let wishes = self.wishes(&settings.image).await?;
        let shares = protocol.is_dialled() && settings.network == Network::None;
        let sandbox = match shares {
            true => self.sandboxes().shared(self, tenant).await,
            false => self.sandboxes().own(self, settings.network).await,
        };
        let sandbox = sandbox.map_err(Unavailable::from)?;
        let folder = self.folder().map_err(|e| unavailable("a folder", &e))?;
        let listener = match protocol.is_dialled() {
            true => Some(self.listen(&mut settings, &folder)?),
            false => None,
        };
        let served = self.serve(&protocol, &sandbox, &settings.function).await?;
        let exposed = wishes.port.filter(|_| matches!(protocol, Protocol::Http));
        let port = settings.port.or(exposed).unwrap_or(USUAL_PORT);
        let (function, memory) = (settings.function.clone(), settings.memory_bytes);
        let more = protocol.environment(&function, memory, concurrency, port);
        settings.env.extend(more);
        let command = protocol.command();
        let body = settings.body(self.node(), &sandbox.container, &wishes.user, command);
        let scrap = self.create(&settings.function, body, folder).await?;
        let words = Arc::new(LastWords::default());
        let clean = protocol.cleans_log();
        self.pump(scrap.container(), log.clone(), words.clone(), clean)
            .await?;
        self.start(scrap.container()).await?;
        let death = scrap.death().clone();
        let limit = self.start_timeout();
        let ready = async {
            match (&listener, &served) {
                (Some(listener), _) => accept(listener, concurrency).await,
                (None, Some(served)) => {
                    served.ready().await?;
                    Ok(Vec::new())
                }
                (None, None) => connect(&sandbox, port, settings.health.as_deref())
                    .await
                    .map(|link| vec![link]),
            }
        };
        let failed = |reason: String| StartError::Container(words.explain(&reason));
        let links = tokio::select! {
            biased;
            links = ready => links.map_err(|error| failed(chain(&*error)))?,
            reason = death.wait() => {
                words.ended().await;
                return Err(failed(format!("the container was not ready: {reason}")));
            }
            () = tokio::time::sleep(limit) => {
                let late = format!("the container was not ready within {limit:?}");
                return Err(failed(format!("{late}: {}", protocol.readiness(port))));
            }
        };
        let access = match (listener, served) {
            (Some(_), _) => Access::Dialled { _sandbox: sandbox },
            (None, Some(runtime)) => Access::Served {
                runtime,
                _sandbox: sandbox,
            },
            (None, None) => Access::Port(sandbox, port),
        };
        let resting = rested(links);
        let inner = Arc::new(Inner {
            conversation: Conversation::default(),
            protocol,
            resting,
            access,
            spent: watch::Sender::new(None),
            is_spent: AtomicBool::new(false),
            scrap: Mutex::new(Some(scrap)),
            looks: Mutex::default(),
            death,
            log,
            stopped: AtomicBool::new(false),
        });
        Ok(Instance { inner })
    }

    async fn wishes(&self, image: &str) -> Result<Wishes, StartError> {
        let wishes = self.image_wishes(image).await;
        let wishes = wishes.map_err(|error| StartError::Container(error.to_string()))?;
        wishes.ok_or_else(|| {
            StartError::Container(format!("the engine has no image {image} any more"))
        })
    }

    /// Serves a runtime that asks for its calls, where the protocol is such.
    async fn serve(
        &self,
        protocol: &Protocol,
        sandbox: &Sandbox,
        function: &str,
    ) -> Result<Option<lambda::Runtime>, StartError> {
        match protocol {
            Protocol::Lambda { .. } => {
                let listener = sandbox.listen(lambda::PORT).await;
                let listener = listener.map_err(|e| unavailable("a socket", &e))?;
                let spawn = |serving| self.spawn(serving);
                Ok(Some(lambda::Runtime::serve(listener, function, spawn)))
            }
            Protocol::Http
            | Protocol::Runtime
            | Protocol::OpenWhisk(_)
            | Protocol::Serverledge { .. } => Ok(None),
        }
    }

    /// Makes the socket that a runtime dials, and mounts it.
    fn listen(&self, settings: &mut Settings, folder: &Folder) -> Result<UnixListener, StartError> {
        let path: PathBuf = folder.path().join("instance.sock");
        let listener = listen(&path).map_err(|e| unavailable("a socket", &e))?;
        settings
            .mounts
            .push((folder.path().to_owned(), "/run/weir"));
        settings
            .env
            .push(("WEIR_SOCKET".to_owned(), SOCKET.to_owned()));
        Ok(listener)
    }

    /// Has what a container writes go to `log`, from its first byte on.
    async fn pump(
        &self,
        container: &str,
        log: Sink,
        words: Arc<LastWords>,
        clean: fn(Bytes) -> Bytes,
    ) -> Result<(), Unavailable> {
        let docker = self.docker().await?;
        let options = AttachContainerOptionsBuilder::default()
            .stream(true)
            .stdout(true)
            .stderr(true)
            .build();
        let attached = docker.attach_container(container, Some(options)).await?;
        let mut output = attached.output;
        self.spawn(async move {
            let mut window = Instant::now();
            let mut bytes = 0;
            // Ends with the container.
            while let Some(Ok(piece)) = output.next().await {
                let piece = clean(piece.into_bytes());
                words.note(&piece);
                log.write(&piece);
                bytes += piece.len();
                if bytes >= LOG_BYTES {
                    tokio::time::sleep(LOG_WINDOW.saturating_sub(window.elapsed())).await;
                    (window, bytes) = (Instant::now(), 0);
                }
            }
            words.end();
            // Not before: attaching closes the input of some engines.
            drop(attached.input);
        });
        Ok(())
    }
}

fn unavailable(what: &str, error: &std::io::Error) -> Unavailable {
    Unavailable::new(format!("make {what} for a container: {error}"))
}

/// Connections that nobody used yet.
fn rested(links: Vec<Link>) -> Resting<Link> {
    let resting = Resting::default();
    let (here, now) = (Thread::here(), Instant::now());
    for link in links {
        resting.add_unused(link, here, now);
    }
    resting
}

/// Waits for the connections that a runtime dials.
async fn accept(listener: &UnixListener, count: u32) -> Result<Vec<Link>, BodyError> {
    let mut links = Vec::new();
    for _ in 0..count.max(1) {
        let (stream, _) = listener.accept().await?;
        links.push(Link::open(Stream::Unix(stream)).await?);
    }
    Ok(links)
}

/// Connects as soon as an image listens, and says that it is well if there is
/// a path to ask.
async fn connect(sandbox: &Sandbox, port: u16, health: Option<&str>) -> Result<Link, BodyError> {
    let mut pause = FIRST_TRY;
    loop {
        match open(sandbox, port).await {
            Ok(mut link) => {
                let Some(path) = health else {
                    return Ok(link);
                };
                let look = look(path)?;
                if let Ok(answer) = link.exchange(look).await
                    && answer.status().is_success()
                {
                    // A connection of its own, for calls.
                    return Ok(open(sandbox, port).await?);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_TRY);
    }
}

pub(super) async fn open(sandbox: &Sandbox, port: u16) -> std::io::Result<Link> {
    let stream = sandbox.connect(port).await?;
    Link::open(Stream::Tcp(stream)).await
}
