//! Network namespaces without a network, and sockets inside them.
//!
//! Every instance joins the namespace of a sandbox: a container whose one
//! process ([`PROGRAM`]) waits. Joining one that runs halves the engine's time
//! for a start, and it lets the node reach a server inside without any bridge,
//! port or address: the process makes a TCP socket in its namespace and passes
//! it to the node over a Unix socket.
//!
//! Runtimes that dial the node's own socket need no port, so those of one
//! tenant share a sandbox; images that listen get one each, from a few that
//! are started ahead.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::container::{Network, sandbox_body};
use crate::death::Scrap;
use crate::engine::{Engine, Unavailable, sandbox_image};

/// The program of a sandbox container; its source is `sandbox/sandbox.c`.
pub(crate) const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sandbox"));

/// How long a sandbox may take to dial the node.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Sandboxes of tenants that are kept though nothing runs in them.
const IDLE_TENANTS: usize = 32;

/// The root file system of the image of sandboxes, as a tar archive.
pub(crate) fn image_archive() -> io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(PROGRAM.len() as u64);
    archive.append_data(&mut header, "sandbox", PROGRAM)?;
    Ok(archive.into_inner()?.into())
}

/// A network namespace, for as long as somebody holds it.
pub(crate) struct Sandbox {
    /// The container that instances join.
    pub(crate) container: String,
    control: tokio::sync::Mutex<UnixStream>,
    _scrap: Scrap,
}

impl Sandbox {
    /// Starts one; once more where the engine says that it did, and nothing
    /// came of it, as one under load does now and then.
    async fn start(engine: &Engine, network: Network) -> Result<Sandbox, SandboxError> {
        match Sandbox::try_start(engine, network).await {
            Err(SandboxError::Silent) => {
                tracing::warn!("a sandbox container did not dial the node; starts another");
                Sandbox::try_start(engine, network).await
            }
            started => started,
        }
    }

    async fn try_start(engine: &Engine, network: Network) -> Result<Sandbox, SandboxError> {
        let network = match network {
            Network::None => "none".to_owned(),
            Network::Bridge => engine.bridge().await?,
        };
        let folder = engine.folder().map_err(SandboxError::Folder)?;
        let listener = listen(&folder.path().join("sandbox.sock")).map_err(SandboxError::Folder)?;
        let body = sandbox_body(engine.node(), sandbox_image(), &network, folder.path());
        let scrap = engine.create("sandbox", body, folder).await?;
        let container = scrap.container().to_owned();
        engine.start(&container).await?;
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, listener.accept()).await;
        let (control, _) = dialled
            .map_err(|_| SandboxError::Silent)?
            .map_err(SandboxError::Folder)?;
        Ok(Sandbox {
            container,
            control: tokio::sync::Mutex::new(control),
            _scrap: scrap,
        })
    }

    /// A TCP socket in this namespace.
    async fn socket(&self) -> io::Result<TcpSocket> {
        let mut control = self.control.lock().await;
        control.write_all(b"s").await?;
        let received = control
            .async_io(Interest::READABLE, || receive(&control))
            .await?;
        let stream = std::net::TcpStream::from(received);
        stream.set_nonblocking(true)?;
        Ok(TcpSocket::from_std_stream(stream))
    }

    /// Listens for what runs inside.
    pub(crate) async fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let socket = self.socket().await?;
        socket.bind(loopback(port))?;
        socket.listen(16)
    }

    /// Connects to a server inside.
    pub(crate) async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let stream = self.socket().await?.connect(loopback(port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into()
}

/// Takes what `sandbox.c` sends: the number of an error, or zero and a socket.
fn receive(control: &UnixStream) -> io::Result<OwnedFd> {
    let mut error = [0_u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        control,
        &mut [io::IoSliceMut::new(&mut error)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    if error[0] != 0 {
        return Err(io::Error::from_raw_os_error(error[0].into()));
    }
    let passed = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    passed.ok_or_else(|| io::Error::other("the sandbox passed no socket"))
}

/// Listens on a Unix socket that a container's user may connect to. The
/// folder above is the node's own, so that nobody else on the host gets there.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error(transparent)]
    Engine(#[from] Unavailable),
    #[error("make a socket for a container")]
    Folder(#[source] io::Error),
    #[error("a sandbox container did not dial the node")]
    Silent,
}

/// The sandbox of one tenant; the lock is held while it is started.
type Shared = tokio::sync::Mutex<Option<Arc<Sandbox>>>;

/// The sandboxes of a node.
#[derive(Default)]
pub(crate) struct Sandboxes {
    /// Started ahead, without a network.
    prepared: Mutex<Vec<Arc<Sandbox>>>,
    /// By tenant.
    tenants: Mutex<HashMap<String, Arc<Shared>>>,
}

impl Sandboxes {
    /// A sandbox for one instance alone.
    pub(crate) async fn own(
        &self,
        engine: &Engine,
        network: Network,
    ) -> Result<Arc<Sandbox>, SandboxError> {
        let prepared = match network {
            Network::None => self.prepared().pop(),
            Network::Bridge => None,
        };
        engine.prepare_sandboxes();
        match prepared {
            Some(sandbox) => Ok(sandbox),
            None => Sandbox::start(engine, network).await.map(Arc::new),
        }
    }

    /// The sandbox that all socket runtimes of a tenant share.
    pub(crate) async fn shared(
        &self,
        engine: &Engine,
        tenant: &str,
    ) -> Result<Arc<Sandbox>, SandboxError> {
        let place = {
            let mut tenants = self.tenants.lock();
            if tenants.len() >= IDLE_TENANTS && !tenants.contains_key(tenant) {
                // Whoever still runs in one holds it beside this map.
                tenants.retain(|_, place| {
                    let idle = |place: &Option<Arc<Sandbox>>| {
                        place.as_ref().is_none_or(|s| Arc::strong_count(s) == 1)
                    };
                    !place.try_lock().is_ok_and(|place| idle(&place))
                });
            }
            tenants.entry(tenant.to_owned()).or_default().clone()
        };
        let mut place = place.lock().await;
        if let Some(sandbox) = &*place {
            return Ok(sandbox.clone());
        }
        let started = Arc::new(Sandbox::start(engine, Network::None).await?);
        *place = Some(started.clone());
        Ok(started)
    }

    /// Starts one ahead if fewer than `wanted` are there; `false` when there are.
    pub(crate) async fn prepare(
        &self,
        engine: &Engine,
        wanted: usize,
    ) -> Result<bool, SandboxError> {
        if self.prepared().len() >= wanted {
            return Ok(false);
        }
        let started = Sandbox::start(engine, Network::None).await?;
        self.prepared().push(Arc::new(started));
        Ok(true)
    }

    /// Forgets all: the engine was gone, and they with it.
    pub(crate) fn clear(&self) {
        self.prepared().clear();
        self.tenants.lock().clear();
    }

    fn prepared(&self) -> MutexGuard<'_, Vec<Arc<Sandbox>>> {
        self.prepared.lock()
    }
}

/// A folder of one container, removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn create(path: PathBuf) -> io::Result<Folder> {
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(Folder(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "cannot remove a container's folder");
        }
    }
}
