//! A real container engine, and the images that the tests run on it.
//!
//! `tests/run` starts an engine and says where it is in `WEIR_TEST_DOCKER`;
//! without that, the machine's own is used.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::eventually;
use crate::node::{Function, Node, Setup, program};

/// The image with the test's own server.
pub const SERVER: &str = "weir-test/server:1";

/// Where the engine listens.
pub fn socket() -> PathBuf {
    match std::env::var_os("WEIR_TEST_DOCKER") {
        Some(socket) => socket.into(),
        None => "/var/run/docker.sock".into(),
    }
}

/// Runs the docker command against the engine; panics when it fails.
pub fn docker(arguments: &[&str]) -> String {
    docker_at(&socket(), arguments)
}

/// The same against another engine.
pub fn docker_at(socket: &Path, arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .arg("--host")
        .arg(format!("unix://{}", socket.display()))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the docker command runs (tests/run installs it)");
    assert!(
        output.status.success(),
        "docker {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Containers of this node that the engine has, running or not.
pub fn containers(node: &str) -> Vec<String> {
    let filter = format!("label=weir.node={node}");
    let listed = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
    listed.lines().map(str::to_owned).collect()
}

/// Containers of this node that run its function `name`.
pub fn instances(node: &str, name: &str) -> Vec<String> {
    let node = format!("label=weir.node={node}");
    let function = format!("label=weir.function={name}");
    let filters = [
        "ps",
        "--quiet",
        "--no-trunc",
        "--filter",
        &node,
        "--filter",
        &function,
    ];
    docker(&filters).lines().map(str::to_owned).collect()
}

/// Makes [`SERVER`] of the program `weir-container`, which is static as all
/// that `tests/run` builds.
pub fn server() -> &'static str {
    static MADE: LazyLock<()> = LazyLock::new(|| server_at(&socket()));
    *MADE;
    SERVER
}

/// The same in another engine.
pub fn server_at(socket: &Path) {
    let test = std::env::current_exe().expect("a running program has a path");
    let program = test
        .ancestors()
        .map(|folder| folder.join("weir-container"))
        .find(|path| path.is_file())
        .expect("weir-container is built beside the tests");
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let archive = folder.path().join("server.tar");
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(program.parent().expect("a program lies in a folder"))
        .arg("weir-container")
        .status()
        .expect("tar runs");
    assert!(packed.success());
    let archive = archive.display().to_string();
    let command = "CMD [\"/weir-container\"]";
    docker_at(socket, &["import", "--change", command, &archive, SERVER]);
}

/// An archive of an image that is [`SERVER`] and one small layer more.
pub fn layered(mark: &str) -> (TempDir, PathBuf) {
    let name = format!("weir-test/layered-{mark}:1");
    layered_at(&socket(), server(), mark.as_bytes(), &name)
}

/// An archive of the image `base` and one layer more, in which a file has these
/// bytes; the engine knows it as `name`.
pub fn layered_at(socket: &Path, base: &str, bytes: &[u8], name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let recipe = format!("FROM {base}\nCOPY mark /mark\n");
    std::fs::write(folder.path().join("Dockerfile"), recipe).expect("it is written");
    std::fs::write(folder.path().join("mark"), bytes).expect("it is written");
    let context = folder.path().display().to_string();
    docker_at(socket, &["build", "--quiet", "--tag", name, &context]);
    let archive = folder.path().join("image.tar");
    let output = archive.display().to_string();
    docker_at(socket, &["save", "--output", &output, name]);
    (folder, archive)
}

/// Makes the image of the runtime `python` with the script that users have.
pub fn python() {
    static MADE: LazyLock<()> = LazyLock::new(|| python_at(&socket()));
    *MADE;
}

/// The same in another engine.
pub fn python_at(socket: &Path) {
    build("python", "weir/python:3.11", &[], socket);
}

/// Makes the image of the node itself, of the program that the tests run.
pub fn agent() -> &'static str {
    const AGENT: &str = "weir-test/agent:1";
    static MADE: LazyLock<()> = LazyLock::new(|| {
        let program = program().display().to_string();
        build("agent", AGENT, &["--binary", &program], &socket());
    });
    *MADE;
    AGENT
}

/// Runs the script that builds the image in this folder of `images`.
fn build(folder: &str, name: &str, arguments: &[&str], socket: &Path) {
    let output = tempfile::tempdir().expect("the temporary folder can be written");
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
    let built = Command::new(images.join(folder).join("build"))
        .args(arguments)
        .arg("--output")
        .arg(output.path().join("image.tar"))
        .args(["--import", name])
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .stdin(Stdio::null())
        .output()
        .expect("the script runs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
}

/// An engine that a test may stop, with nothing in it.
pub struct OwnEngine {
    folder: TempDir,
    process: Option<Child>,
    bridged: bool,
}

impl OwnEngine {
    /// Starts one without a bridge; needs root.
    pub async fn start() -> OwnEngine {
        OwnEngine::begin(false).await
    }

    /// Starts one with the usual bridge; there can be one such at a time.
    pub async fn bridged() -> OwnEngine {
        OwnEngine::begin(true).await
    }

    async fn begin(bridged: bool) -> OwnEngine {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let mut engine = OwnEngine {
            folder,
            process: None,
            bridged,
        };
        engine.resume().await;
        engine
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Starts it again, with what it had.
    pub async fn resume(&mut self) {
        let at = |name: &str| self.folder.path().join(name);
        let path = std::env::var("PATH").unwrap_or_default();
        let started = Command::new("dockerd")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("run"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args(match self.bridged {
                true => &[][..],
                false => &["--bridge", "none"][..],
            })
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(started.expect("dockerd runs (tests/run installs it)"));
        // It listens before it is ready, and two that get ready at once are in each
        // other's way.
        let host = format!("unix://{}", self.socket().display());
        eventually("the engine answers", async || {
            let mut asked = Command::new("docker");
            asked.args(["--host", &host, "version"]);
            let asked = asked.stdout(Stdio::null()).stderr(Stdio::null()).status();
            asked.ok()?.success().then_some(())
        })
        .await;
    }

    /// Stops it, and all that runs in it; returns when it has ended.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let id = i32::try_from(process.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let _ = process.wait();
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Setup {
    /// A node that uses the test's engine.
    pub fn containers(self) -> Setup {
        self.config(&format!(
            "docker.socket = {:?}",
            socket().display().to_string()
        ))
    }
}

impl Function {
    /// A function in a container of [`SERVER`].
    pub fn container(name: &str) -> Function {
        Function::image(name, server()).setting("pull", "never")
    }

    /// One whose server is of this kind.
    pub fn mode(self, mode: &str) -> Function {
        self.field("envVars", serde_json::json!({ "MODE": mode }))
    }
}

impl Node {
    /// The node's id.
    pub async fn id(&self) -> String {
        let status = self.status().await;
        status["node"]
            .as_str()
            .expect("a node has an id")
            .to_owned()
    }
}
