//! What Weir is compared with: other people's programs, and the smallest
//! server that a proxy can stand before.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::eventually;
use crate::node::free_address;

/// What the small server answers to everything.
pub const GREETING: &str = "hello from behind the proxy";

/// A running program that Weir is compared with; dropping it ends it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its configuration, for as long as it runs.
    _folder: Option<TempDir>,
}

impl Peer {
    async fn start(
        mut command: Command,
        address: SocketAddr,
        folder: Option<TempDir>,
    ) -> Result<Peer> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {:?}", command.as_std().get_program()))?;
        let listening = eventually("a peer listens", async || match child.try_wait() {
            Ok(None) => TcpStream::connect(address).await.ok().map(|_| Ok(())),
            Ok(Some(status)) => Some(Err(anyhow::anyhow!("it ended with {status}"))),
            Err(error) => Some(Err(error.into())),
        });
        listening
            .await
            .with_context(|| format!("start {:?}", command.as_std().get_program()))?;
        Ok(Peer {
            child,
            address,
            _folder: folder,
        })
    }

    /// Its process.
    pub fn process(&self) -> Result<u32> {
        self.child.id().context("the peer has ended")
    }
}

/// Starts the small server as a process of its own: this program, called with
/// `backend ADDRESS`.
pub async fn backend() -> Result<Peer> {
    let address = free_address();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("backend").arg(address.to_string());
    Peer::start(command, address, None).await
}

/// Is the small server, until it is killed. On one thread: for an answer this
/// small that costs least, which favours the proxy before it.
pub async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let service = service_fn(greet);
            let server = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no event here.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn greet(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // Read, as every function reads it; a body that breaks ends the connection.
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::new(Bytes::from_static(
        GREETING.as_bytes(),
    ))))
}

/// What both kinds of HAProxy are told: a thread per core, connections kept on
/// both sides, no logs. Windows of HTTP/2 as they come: with larger ones this
/// version stalls on bodies of a megabyte from many clients.
fn common() -> Result<String> {
    let threads = std::thread::available_parallelism()?;
    Ok(format!(
        "global
    nbthread {threads}
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
"
    ))
}

/// Starts HAProxy before this server.
pub async fn haproxy(server: SocketAddr) -> Result<Peer> {
    let address = free_address();
    let common = common()?;
    let configuration = format!(
        "{common}frontend door
    bind {address}
    default_backend room
backend room
    server one {server}
"
    );
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, configuration)?;
    let mut command = Command::new(found("haproxy")?);
    command.arg("-db").arg("-f").arg(file);
    Peer::start(command, address, Some(folder)).await
}

/// Starts two HAProxies, the second before this server: between them they speak
/// HTTP/2 over mutual TLS 1.3. The first is where clients come.
pub async fn haproxy_pair(server: SocketAddr) -> Result<(Peer, Peer)> {
    let (outer, inner) = (free_address(), free_address());
    let common = common()?;
    let folder = tempfile::tempdir()?;
    let (key, certificate) = (folder.path().join("key"), folder.path().join("certificate"));
    let mut made = Command::new(found("openssl")?);
    made.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    let made = made.output().await?;
    anyhow::ensure!(made.status.success(), "openssl made no certificate");
    let both = folder.path().join("both.pem");
    fs::write(&both, [fs::read(&certificate)?, fs::read(&key)?].concat())?;
    let (both, authority) = (both.display(), certificate.display());
    let tls = format!("ssl crt {both} ca-file {authority} verify required alpn h2");
    let first = format!(
        "{common}frontend door
    bind {outer}
    default_backend room
backend room
    server one {inner} {tls} ssl-min-ver TLSv1.3
"
    );
    let second = format!(
        "{common}frontend door
    bind {inner} {tls} ssl-min-ver TLSv1.3
    default_backend room
backend room
    server one {server}
"
    );
    let start = async |name: &str, text: String, address, folder: Option<TempDir>, at: &Path| {
        let file = at.join(name);
        fs::write(&file, text)?;
        let mut command = Command::new(found("haproxy")?);
        command.arg("-db").arg("-f").arg(file);
        Peer::start(command, address, folder).await
    };
    let at = folder.path().to_owned();
    let second = start("inner.cfg", second, inner, None, &at).await?;
    let first = start("outer.cfg", first, outer, Some(folder), &at).await?;
    Ok((first, second))
}

/// An agent of HashiCorp's serf.
#[derive(Debug)]
pub struct Serf {
    peer: Peer,
    /// Where other agents reach it.
    pub address: SocketAddr,
}

impl Serf {
    /// Starts one, which joins the agent at `join`.
    pub async fn start(number: usize, join: Option<SocketAddr>) -> Result<Serf> {
        let (address, rpc) = (free_address(), free_address());
        let mut command = Command::new(found("serf")?);
        command
            .arg("agent")
            .arg(format!("-node=agent{number}"))
            .arg(format!("-bind={address}"))
            .arg(format!("-rpc-addr={rpc}"));
        if let Some(join) = join {
            command.arg(format!("-join={join}"));
        }
        let peer = Peer::start(command, rpc, None).await?;
        Ok(Serf { peer, address })
    }

    /// Its process.
    pub fn process(&self) -> Result<u32> {
        self.peer.process()
    }

    /// How many agents it believes to be there, itself included.
    pub async fn alive(&self) -> Result<usize> {
        let mut command = Command::new(found("serf")?);
        command
            .args(["members", "-status=alive"])
            .arg(format!("-rpc-addr={}", self.peer.address));
        let output = command.output().await?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().count())
    }
}

/// Starts `wasmtime serve` with this component.
pub async fn wasmtime(component: &Path) -> Result<Peer> {
    let address = free_address();
    let mut command = Command::new(found("wasmtime")?);
    // What Python's standard library imports beyond the proxy's world.
    command.args(["serve", "-S", "cli", "--addr", &address.to_string()]);
    command.arg(component);
    Peer::start(command, address, None).await
}

/// A program in the `PATH`.
pub(super) fn found(program: &str) -> Result<impl AsRef<OsStr>> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is absent, skipped"))
}
