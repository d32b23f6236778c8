//! What a node is told at start. The program fills it from defaults, file,
//! environment and flags; this crate reads none of them.

use std::path::PathBuf;
use std::time::Duration;

use crate::id::ImageName;
use crate::keep::Keeping;
use crate::resources::{Memory, Resources};

pub use weir_node_core::class::ClassConfig;

/// Bounds of asynchronous calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncConfig {
    /// Accepted calls that are not done yet, at most.
    pub backlog: usize,
    /// Calls of the backlog that run at once, at most.
    pub parallel: usize,
    /// How long an accepted call is tried when it finds no place, and how long
    /// its result is tried to be kept.
    pub keep_trying: Duration,
    /// How long a result is kept after its call ended.
    pub keep_results: Duration,
    /// Most results kept; the oldest go first.
    pub max_results: usize,
    /// Largest result body kept; a longer one is a failed call.
    pub result_bytes: u64,
    /// Attempts to deliver a callback.
    pub callback_attempts: u32,
    /// Whether callbacks may go to loopback, link-local and private-use
    /// addresses, this node's own doors among them.
    pub callback_local: bool,
}

impl Default for AsyncConfig {
    fn default() -> Self {
        AsyncConfig {
            backlog: 100_000,
            parallel: 64,
            keep_trying: Duration::from_secs(24 * 3600),
            keep_results: Duration::from_secs(24 * 3600),
            max_results: 100_000,
            result_bytes: 16 << 20,
            callback_attempts: 5,
            callback_local: false,
        }
    }
}

/// Bounds of artifacts on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactConfig {
    /// Largest single artifact.
    pub max_bytes: u64,
    /// All artifacts and compiled code together.
    pub disk_bytes: u64,
    /// How long an artifact that no function refers to is kept.
    pub keep_unreferenced: Duration,
}

impl Default for ArtifactConfig {
    fn default() -> Self {
        ArtifactConfig {
            max_bytes: 512 << 20,
            disk_bytes: 10 << 30,
            keep_unreferenced: Duration::from_secs(3600),
        }
    }
}

/// Settings of the WebAssembly executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WasmConfig {
    /// Memory that one compilation may use.
    pub compile_memory: Memory,
    /// Time that one compilation may take.
    pub compile_time: Duration,
    /// The program that compiles: called with the arguments of
    /// `weir_wasm::compile`'s child protocol. `None`: this very executable.
    pub compiler: Option<PathBuf>,
    /// Largest memory limit that a function may ask for.
    pub max_memory: Memory,
    /// Most bytes that one call may answer.
    pub output_bytes: u64,
    /// Threads for guests that run long; 0 for one per core.
    pub threads: usize,
}

impl Default for WasmConfig {
    fn default() -> Self {
        WasmConfig {
            compile_memory: Memory::bytes(4 << 30),
            compile_time: Duration::from_secs(300),
            compiler: None,
            max_memory: Memory::bytes(4 << 30),
            output_bytes: 1 << 30,
            threads: 0,
        }
    }
}

/// Settings of the docker executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerConfig {
    /// The engine's Unix socket.
    pub socket: PathBuf,
    /// Longest wait for a container to take calls.
    pub start_timeout: Duration,
    /// The image of the runtime `python`.
    pub python_image: ImageName,
    /// Bytes of images that this node fetched and no function needs; those
    /// beyond are removed.
    pub spare_images: u64,
}

impl Default for DockerConfig {
    fn default() -> Self {
        DockerConfig {
            socket: PathBuf::from("/var/run/docker.sock"),
            start_timeout: Duration::from_secs(60),
            python_image: "weir/python:3.11".parse().expect("a plain reference"),
            spare_images: 2 << 30,
        }
    }
}

/// Everything a node is told.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where everything that survives is kept.
    pub data_dir: PathBuf,
    /// What functions may hold together.
    pub capacity: Resources,
    /// Calls that run or wait at once, at most.
    pub max_calls: usize,
    /// Functions deployed at once, at most.
    pub max_functions: usize,
    /// Longest timeout that a function may ask for.
    pub max_timeout: Duration,
    /// By which rule idle instances stay of functions that name none.
    pub keeping: Keeping,
    /// QoS classes; the first is the default. Never empty.
    pub classes: Vec<ClassConfig>,
    /// Asynchronous calls.
    pub asynchronous: AsyncConfig,
    /// Artifacts.
    pub artifacts: ArtifactConfig,
    /// The WebAssembly executor.
    pub wasm: WasmConfig,
    /// The docker executor.
    pub docker: DockerConfig,
    /// Log lines kept per function.
    pub log_lines: usize,
    /// Log bytes that a function may write per second; more is dropped and counted.
    pub log_bytes_per_second: u64,
    /// How long running calls may take to end at shutdown.
    pub grace: Duration,
}

impl NodeConfig {
    /// Defaults for a node that keeps its data in `data_dir`.
    pub fn new(data_dir: PathBuf, capacity: Resources) -> Self {
        NodeConfig {
            data_dir,
            capacity,
            max_calls: 4096,
            max_functions: 10_000,
            max_timeout: Duration::from_secs(3600),
            keeping: Keeping::Fixed,
            classes: vec![ClassConfig::default()],
            asynchronous: AsyncConfig::default(),
            artifacts: ArtifactConfig::default(),
            wasm: WasmConfig::default(),
            docker: DockerConfig::default(),
            log_lines: 1000,
            log_bytes_per_second: 64 << 10,
            grace: Duration::from_secs(30),
        }
    }
}
