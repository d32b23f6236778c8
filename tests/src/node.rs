//! A real node: the program `weir run`, on a free loopback port, with a data
//! folder of its own.
//!
//! A node is stopped when it is dropped, so also when its test panics; only
//! processes that a test started are ever signalled.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::client::{Ask, Reply};
use crate::guests::{Guest, guest};
use crate::{eventually, within};

/// Log lines of a node that are kept for a failing test's message.
const LOG_LINES: usize = 2_000;

/// How often a node is started again when another process was quicker to take
/// the port that had been found free.
const PORT_ATTEMPTS: usize = 5;

/// The program under test: `WEIR_BIN`, or what cargo built beside the tests.
pub fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("WEIR_BIN") {
        return program.into();
    }
    let test = std::env::current_exe().expect("a running program has a path");
    let beside = test
        .ancestors()
        .map(|folder| folder.join("weir"))
        .find(|path| path.is_file());
    beside.unwrap_or_else(|| {
        panic!(
            "no weir above {}: run `cargo build` first or set WEIR_BIN",
            test.display()
        )
    })
}

/// The program with nothing of the caller's environment that could reach it.
pub fn weir<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    let mut command = started(program());
    command.args(arguments);
    command
}

fn started(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    // Nothing of the tests' nodes is for the commands of whoever runs them.
    command.env("XDG_RUNTIME_DIR", "/nonexistent");
    for kept in ["PATH", "TMPDIR", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

/// Ports below those that the kernel gives to outgoing connections: a node
/// that is started again finds its own free.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A loopback address that nothing listened on a moment ago, and that no other
/// call of this process was given.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs run one after another, or beside each other: each begins
    // somewhere else.
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS.len() {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + number % PORTS.len() as u32;
        let port = u16::try_from(port).expect("the range is one of ports");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("loopback has no free port");
}

/// Text of a finished program's output.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How a node is to be started.
#[derive(Debug)]
pub struct Setup {
    data: Data,
    config: String,
    environment: Vec<(String, String)>,
    address: Option<SocketAddr>,
    bound: bool,
    host: Option<String>,
}

/// Where a node keeps what must survive.
#[derive(Debug)]
enum Data {
    /// Ours; it goes with the node.
    Temporary(TempDir),
    /// The test's.
    Given(PathBuf),
}

impl Data {
    fn path(&self) -> &Path {
        match self {
            Data::Temporary(folder) => folder.path(),
            Data::Given(folder) => folder,
        }
    }
}

impl Default for Setup {
    fn default() -> Setup {
        let data = tempfile::Builder::new().prefix("weir-test-").tempdir();
        Setup {
            data: Data::Temporary(data.expect("the temporary folder can be written")),
            config: String::new(),
            environment: Vec::new(),
            address: None,
            bound: false,
            host: None,
        }
    }
}

impl Setup {
    /// A node with the built-in configuration.
    pub fn new() -> Setup {
        Setup::default()
    }

    /// Adds to the configuration file.
    pub fn config(mut self, toml: &str) -> Setup {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Adds a variable to the node's environment.
    pub fn variable(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Keeps the data in a folder of the caller's.
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Setup {
        self.data = Data::Given(folder.into());
        self
    }

    /// Has the modes of files bind the node as they bind users, also where the
    /// tests run as root.
    pub fn bound_by_modes(mut self) -> Setup {
        self.bound = true;
        self
    }

    /// Runs in the network namespace of this name.
    pub fn host(mut self, name: &str) -> Setup {
        self.host = Some(name.to_owned());
        self
    }

    /// Listens on this address instead of a free loopback port.
    pub fn address(mut self, address: SocketAddr) -> Setup {
        self.address = Some(address);
        self
    }

    /// The command that starts the node; writes its configuration file.
    pub fn command(&self, address: SocketAddr) -> Command {
        let folder = self.data.path();
        let config = folder.with_extension("toml");
        fs::write(&config, &self.config).expect("the temporary folder can be written");
        let mut command = weir::<&str>([]);
        if self.bound {
            let program = command.as_std().get_program().to_owned();
            command = started("setpriv");
            command
                .arg("--bounding-set=-dac_override,-dac_read_search")
                .arg(program);
        }
        if let Some(host) = &self.host {
            let program = command.as_std().get_program().to_owned();
            command = started("ip");
            command.args(["netns", "exec", host]).arg(program);
        }
        command.arg("run");
        command
            .arg("--config")
            .arg(config)
            .arg("--data-dir")
            .arg(folder)
            .arg("--http")
            .arg(address.to_string());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts the node and waits until it says that it is healthy.
    pub async fn start(self) -> Node {
        for _ in 0..PORT_ATTEMPTS {
            let address = self.address.unwrap_or_else(free_address);
            let mut child = self.command(address).spawn().expect("weir can be started");
            let log = Log::default();
            log.follow(child.stdout.take().expect("its output is piped"));
            log.follow(child.stderr.take().expect("its errors are piped"));
            let started = eventually("the node is healthy", async || {
                if let Some(status) = child.try_wait().expect("a child can be asked") {
                    return Some(Err(status));
                }
                let reply = Ask::new(address, "GET", "/healthz").try_send().await.ok()?;
                (reply.status == 200).then_some(Ok(()))
            })
            .await;
            match started {
                Ok(()) => {
                    let token = fs::read_to_string(self.data.path().join("token"))
                        .expect("a running node has written its token")
                        .trim()
                        .to_owned();
                    return Node {
                        setup: self,
                        child,
                        address,
                        token,
                        log,
                    };
                }
                Err(_) if self.address.is_none() && log.text().contains("in use") => {}
                Err(status) => panic!("the node ended with {status}:\n{}", log.text()),
            }
        }
        panic!("no free port in {PORT_ATTEMPTS} attempts");
    }

    /// Starts the node where it is expected to refuse, and returns what it said.
    pub async fn refused(self) -> Output {
        let address = self.address.unwrap_or_else(free_address);
        let child = self.command(address).spawn().expect("weir can be started");
        let output = within("the node refuses to start", child.wait_with_output()).await;
        let output = output.expect("a child can be waited for");
        assert!(
            !output.status.success(),
            "it started: {}",
            text(&output.stdout)
        );
        output
    }
}

/// The last lines that a node logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    fn follow(&self, output: impl AsyncRead + Unpin + Send + 'static) {
        let lines = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut reader = BufReader::new(output).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                let mut lines = lines.lock();
                if lines.len() == LOG_LINES {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        });
    }

    fn text(&self) -> String {
        let lines = self.0.lock();
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    setup: Setup,
    child: Child,
    /// Where its HTTP door is.
    pub address: SocketAddr,
    /// The token that it made for its owner.
    pub token: String,
    log: Log,
}

impl Node {
    /// Starts a node with the built-in configuration.
    pub async fn start() -> Node {
        Setup::new().start().await
    }

    /// A request to this node, as anyone may send it.
    pub fn ask(&self, method: &str, path: &str) -> Ask {
        Ask::new(self.address, method, path)
    }

    /// A GET as anyone may send it.
    pub fn get(&self, path: &str) -> Ask {
        self.ask("GET", path)
    }

    /// A POST as anyone may send it.
    pub fn post(&self, path: &str) -> Ask {
        self.ask("POST", path)
    }

    /// A request with the owner's token.
    pub fn manage(&self, method: &str, path: &str) -> Ask {
        self.ask(method, path).bearer(&self.token)
    }

    /// The node's base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        self.setup.data.path()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Its process; absent once it ended.
    pub fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Uploads code unless the node has it; returns the upload's answer.
    pub async fn upload(&self, code: &Guest) -> Reply {
        let path = format!("/weir/v1/artifacts/{}", code.digest);
        let known = self.manage("HEAD", &path).send().await;
        if known.status == 200 {
            return known;
        }
        let reply = self
            .manage("PUT", &path)
            .body(code.bytes.clone())
            .send()
            .await;
        assert!(
            matches!(reply.status, 200 | 201),
            "{}: {} {}",
            code.name,
            reply.status,
            reply.text()
        );
        reply
    }

    /// Uploads and creates a function; returns the answer at once.
    pub async fn create(&self, function: &Function) -> Reply {
        if let Some(code) = &function.code {
            self.upload(code).await;
        }
        self.manage("POST", "/system/functions")
            .json(&function.body)
            .send()
            .await
    }

    /// Deploys a function and waits until it can be called.
    pub async fn deploy(&self, function: Function) {
        self.create(&function).await.expect_status(202);
        let state = self.settled(&function.path()).await;
        assert_eq!(state, "ready", "{}\n{}", function.path(), self.log());
    }

    /// Waits until the newest version of a function is in place or has failed;
    /// returns its state.
    pub async fn settled(&self, name: &str) -> String {
        let path = match name.split_once('.') {
            Some((name, namespace)) => format!("/system/function/{name}?namespace={namespace}"),
            None => format!("/system/function/{name}"),
        };
        eventually(&format!("{name} is prepared"), async || {
            let status = self
                .manage("GET", &path)
                .send()
                .await
                .expect_status(200)
                .json();
            let state = |name: &str| status["annotations"][name].as_str().map(str::to_owned);
            // A newer version that is ready is about to be put in place.
            match state("weir.next-state") {
                Some(next) => (next != "preparing" && next != "ready").then_some(next),
                None => state("weir.state").filter(|state| state != "preparing"),
            }
        })
        .await
    }

    /// Calls a function and waits for the answer.
    pub async fn call(&self, name: &str, body: impl Into<bytes::Bytes>) -> Reply {
        self.post(&format!("/function/{name}"))
            .body(body)
            .send()
            .await
    }

    /// Submits an asynchronous call; returns the path of its result.
    pub async fn submit(&self, name: &str, body: impl Into<bytes::Bytes>) -> String {
        let reply = self
            .post(&format!("/async-function/{name}"))
            .body(body)
            .send()
            .await
            .expect_status(202);
        reply.header("location").to_owned()
    }

    /// Waits for the result of an asynchronous call.
    pub async fn result(&self, location: &str) -> Reply {
        eventually("the call is done", async || {
            let reply = self.get(location).send().await;
            assert!(
                matches!(reply.status, 200 | 202),
                "{location}: {} {}",
                reply.status,
                reply.text()
            );
            (reply.status == 200).then_some(reply)
        })
        .await
    }

    /// The node's own account of itself.
    pub async fn status(&self) -> Value {
        self.manage("GET", "/weir/v1/status")
            .send()
            .await
            .expect_status(200)
            .json()
    }

    /// Waits until this many calls run.
    pub async fn running(&self, calls: u64) {
        eventually(&format!("{calls} calls run"), async || {
            (self.status().await["running"] == calls).then_some(())
        })
        .await;
    }

    /// Waits until this many calls wait in queues.
    pub async fn waiting(&self, calls: u64) {
        eventually(&format!("{calls} calls wait"), async || {
            let status = self.status().await;
            let classes = status["classes"]
                .as_array()
                .expect("a status lists its classes");
            (classes
                .iter()
                .filter_map(|class| class["waiting"].as_u64())
                .sum::<u64>()
                == calls)
                .then_some(())
        })
        .await;
    }

    /// One sample of the node's metrics: the sum over all series whose name and
    /// labels contain each of `parts`.
    pub async fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let text = self.get("/metrics").send().await.expect_status(200).text();
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Runs a client command against this node with its owner's token.
    pub async fn weir<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Output {
        let mut command = weir(arguments);
        command
            .env("WEIR_NODE", self.url())
            .env("WEIR_TOKEN", &self.token);
        within("a command ends", command.output())
            .await
            .expect("weir can be started")
    }

    /// Kills the node as a power cut would, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child
            .start_kill()
            .expect("a running child can be killed");
        within("the node is gone", self.child.wait())
            .await
            .expect("a child can be waited for");
    }

    /// Asks the node to end, without waiting.
    pub fn terminate(&self) {
        let process = self.child.id().expect("the node runs");
        let process = rustix::process::Pid::from_raw(process.cast_signed())
            .expect("a process id is positive");
        rustix::process::kill_process(process, rustix::process::Signal::TERM)
            .expect("our own child can be signalled");
    }

    /// Waits until the node has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the node ends", self.child.wait())
            .await
            .expect("a child can be waited for")
    }

    /// Kills the node and starts it again on the same data.
    pub async fn crash(mut self) -> Node {
        self.kill().await;
        self.setup.start().await
    }

    /// Lets go of a node that has ended; what it was made of can start again.
    pub fn into_setup(self) -> Setup {
        self.setup
    }
}

/// A function to be deployed.
#[derive(Debug, Clone)]
pub struct Function {
    code: Option<Guest>,
    /// The deployment, as it is sent.
    pub body: Value,
}

impl Function {
    /// A function of this name that runs the guest of that name.
    pub fn new(name: &str, guest_name: &str) -> Function {
        Function::of(name, guest(guest_name))
    }

    /// A function of this name that runs this code.
    pub fn of(name: &str, code: Guest) -> Function {
        let image = format!("sha256:{}", code.digest);
        let body = json!({ "service": name, "image": image, "annotations": {}, "labels": {}, "limits": {} });
        Function {
            code: Some(code),
            body,
        }
    }

    /// A function of this name in a container of this image.
    pub fn image(name: &str, image: &str) -> Function {
        let body = json!({ "service": name, "image": image, "annotations": {}, "labels": {}, "limits": {} });
        Function { code: None, body }
    }

    fn path(&self) -> String {
        let name = self.body["service"]
            .as_str()
            .expect("a deployment has a name");
        match self.body["namespace"].as_str() {
            Some(namespace) => format!("{name}.{namespace}"),
            None => name.to_owned(),
        }
    }

    /// Sets one field of the deployment.
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Function {
        self.body[name] = value.into();
        self
    }

    /// Sets `weir.<name>`.
    pub fn setting(mut self, name: &str, value: &str) -> Function {
        self.body["annotations"][format!("weir.{name}")] = value.into();
        self
    }

    /// Sets a label.
    pub fn label(mut self, name: &str, value: &str) -> Function {
        self.body["labels"][name] = value.into();
        self
    }

    /// Ready without a first instance: the first call is cold.
    pub fn unchecked(self) -> Function {
        self.setting("check", "false")
    }

    /// How it is called: `stdio`, `cgi` or `http`.
    pub fn protocol(self, protocol: &str) -> Function {
        self.setting("protocol", protocol)
    }

    /// How long a call may take.
    pub fn timeout(self, timeout: &str) -> Function {
        self.setting("timeout", timeout)
    }

    /// How much memory it may use, as `64Mi`.
    pub fn memory(mut self, memory: &str) -> Function {
        self.body["limits"]["memory"] = memory.into();
        self
    }

    /// How much of the CPU it may use, as `500m`.
    pub fn cpu(mut self, cpu: &str) -> Function {
        self.body["limits"]["cpu"] = cpu.into();
        self
    }
}
