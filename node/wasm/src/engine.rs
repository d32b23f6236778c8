//! The engine: memory pool, linkers, compiled code, and threads for guests
//! that keep busy.

use crate::cache::{Cache, CacheError};
use crate::compile::{self, CompileError};
use crate::component::ComponentState;
use crate::function::{Code, Loaded};
use crate::module::ModuleState;
use crate::ticker::Ticker;
use crate::tuning::{
    FULL_RESERVATION, MEMORIES_PER_MODULE, TABLE_ELEMENTS, TABLES_PER_MODULE, Tuning, fingerprint,
};
use crate::{Kind, Resolve, outbound};
use rustix::process::{Resource, getrlimit};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use wasmtime::component::Component;
use wasmtime::{Enabled, InstanceAllocationStrategy, Module, PoolingAllocationConfig};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// How much busy guests give way to the doors' threads.
const NICENESS: i32 = 5;

/// Turns of a worker between two looks at timers and sockets. A turn of a
/// busy guest lasts a tick, and tokio's default of 61 would be an eternity.
const TURNS_BETWEEN_EVENTS: u32 = 2;

/// Fewest roomy slots that are worth having; with less address space, tight
/// slots serve more calls at once.
const FEWEST_ROOMY_SLOTS: u32 = 64;

/// Fewest tight slots that are worth having.
const FEWEST_TIGHT_SLOTS: u32 = 8;

/// Memories per slot, where there is room. A memory that last served a
/// function serves its next call for a fifth of what another one costs, so
/// there should be more of them than functions that take turns.
const MEMORIES_PER_SLOT: u32 = 4;

/// Core instances and tables per slot: components are made of several.
const INSTANCES_PER_SLOT: u32 = 8;
const TABLES_PER_SLOT: u32 = TABLES_PER_MODULE;

/// Bytes of an instance's own data; large components need more than
/// wasmtime's default of 1 MiB.
const INSTANCE_BYTES: usize = 8 << 20;

/// Bytes of a slot that stay resident between calls. Below this, used pages
/// are rewritten; beyond, they go back to the system, page table and all.
const MEMORY_KEPT_RESIDENT: usize = 128 << 10;
const TABLE_KEPT_RESIDENT: usize = 4 << 10;

/// Compiled code above this is loaded on a thread that may block.
const QUICK_LOAD_BYTES: u64 = 1 << 20;

/// How the engine is set up.
#[derive(Clone)]
pub struct EngineConfig {
    /// Threads for guests that keep busy; 0 is one per processor.
    pub threads: usize,
    /// Calls that can run at once, if the address space allows; 1,000 is
    /// plenty for one machine.
    pub slots: u32,
    /// The largest memory limit that any function may have.
    pub max_memory_bytes: u64,
    /// How instances are allocated.
    pub allocation: Allocation,
    /// A folder of the owner's alone for compiled code; made if absent.
    pub cache: PathBuf,
    /// How to compile.
    pub compiler: Compiler,
    /// Resolves names for guests that may call out.
    pub resolver: Arc<dyn Resolve>,
}

/// Where sandboxes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// From a pool as large as the address space allows; without one if it
    /// allows none.
    Probed,
    /// From the system, at each call: slow, and good for tests of that case.
    OnDemand,
}

/// The child process that compiles.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The program; [`Compiler::this_program`] is the usual one.
    pub program: PathBuf,
    /// What comes before the arguments for [`crate::compile_child`].
    pub arguments: Vec<OsString>,
    /// Memory that it may use.
    pub memory_bytes: u64,
    /// Time that it may take.
    pub time: Duration,
}

impl Compiler {
    /// The running program with the given subcommand, 2 GiB and two minutes.
    ///
    /// The kernel's own link to the program is used, which stays valid when
    /// an update replaces the file.
    pub fn this_program(subcommand: impl Into<OsString>) -> Compiler {
        Compiler {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec![subcommand.into()],
            memory_bytes: 2 << 30,
            time: Duration::from_secs(120),
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Not even on-demand allocation works.
    #[error("set up the WebAssembly engine: {0}")]
    Engine(String),
    /// The folder for compiled code is unusable.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The system gives no threads.
    #[error("start the threads for WebAssembly guests")]
    Threads(#[source] io::Error),
}

/// Why compiled code was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is none, or what was there was unusable and is gone now: compile
    /// and load again.
    #[error("the code is not compiled for this engine")]
    NotCompiled,
    /// It needs something that is not given here.
    #[error("the code cannot run here: {0}")]
    Unfit(String),
}

/// What an engine came to be, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The version of wasmtime.
    pub wasmtime: &'static str,
    /// `pooling` or `on-demand`.
    pub allocation: &'static str,
    /// Calls that can run at once; `None` if only memory limits them.
    pub slots: Option<u32>,
    /// Address space set aside for each memory.
    pub reservation_bytes: u64,
    /// Threads for guests that keep busy.
    pub threads: usize,
    /// What code must be compiled for.
    pub fingerprint: String,
    /// Bytes of compiled code on disk.
    pub cached_bytes: u64,
}

/// Compiles, loads and runs guests. Clones are the same engine.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) network: outbound::Network,
    module_linker: wasmtime::Linker<ModuleState>,
    component_linker: wasmtime::component::Linker<ComponentState>,
    cache: Cache,
    fingerprint: String,
    tuning: Tuning,
    slots: Option<u32>,
    threads: usize,
    compiler: Compiler,
    /// One child at a time: each may use all processors and much memory.
    compiling: Semaphore,
    /// `Some` until dropped.
    pool: Option<Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last clone may go in an async context, where waiting is
        // forbidden; what still runs there is cancelled.
        if let Some(pool) = self.pool.take() {
            pool.shutdown_background();
        }
    }
}

impl Inner {
    /// Where busy guests run.
    pub(crate) fn pool(&self) -> &Handle {
        self.pool.as_ref().expect("it lives until drop").handle()
    }
}

impl Engine {
    /// Sets up an engine, with as many slots as the address space allows.
    pub fn new(config: EngineConfig) -> Result<Engine, EngineError> {
        let (wasmtime, tuning, slots) = allocate(&config)?;
        let fingerprint = fingerprint(&wasmtime);
        let cache = Cache::open(&config.cache, &fingerprint)?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let pool = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("weir-wasm")
            .event_interval(TURNS_BETWEEN_EVENTS)
            .global_queue_interval(TURNS_BETWEEN_EVENTS)
            .on_thread_start(|| {
                // Without the right to, guests are merely as important as doors.
                let _ = rustix::process::nice(NICENESS);
            })
            .enable_all()
            .build()
            .map_err(EngineError::Threads)?;
        let ticker = Ticker::start(&wasmtime).map_err(EngineError::Threads)?;
        let linkers = link(&wasmtime).map_err(|error| EngineError::Engine(format!("{error:#}")))?;
        Ok(Engine(Arc::new(Inner {
            ticker: Arc::new(ticker),
            network: outbound::Network::new(config.resolver),
            module_linker: linkers.0,
            component_linker: linkers.1,
            wasmtime,
            cache,
            fingerprint,
            tuning,
            slots,
            threads,
            compiler: config.compiler,
            compiling: Semaphore::new(1),
            pool: Some(pool),
        })))
    }

    /// What this engine came to be.
    pub fn describe(&self) -> Description {
        Description {
            wasmtime: wasmtime_version(),
            allocation: if self.0.slots.is_some() {
                "pooling"
            } else {
                "on-demand"
            },
            slots: self.0.slots,
            reservation_bytes: self.0.tuning.reservation_bytes,
            threads: self.0.threads,
            fingerprint: self.0.fingerprint.clone(),
            cached_bytes: self.cached_bytes(),
        }
    }

    /// Compiles an artifact, unless that is done already. One at a time;
    /// others wait. Dropping the future stops the child.
    pub async fn compile(&self, digest: &str, artifact: &Path) -> Result<(), CompileError> {
        let output = self
            .0
            .cache
            .path(digest)
            .ok_or_else(|| CompileError::Node(format!("`{digest}` is no digest")))?;
        if self.is_compiled(digest) {
            return Ok(());
        }
        let inner = self.0.clone();
        let artifact = artifact.to_owned();
        let digest = digest.to_owned();
        // On the engine's own runtime, which surely watches child processes.
        let child = self.0.pool().spawn(async move {
            let _turn = inner.compiling.acquire().await;
            if inner.cache.contains(&digest) {
                return Ok(());
            }
            compile::compile(
                &inner.compiler,
                &inner.tuning,
                &inner.fingerprint,
                &artifact,
                &output,
            )
            .await?;
            inner.cache.added(&output);
            // What compiles may still be more than a sandbox has. Better said
            // now than at each call.
            let engine = Engine(inner.clone());
            let fits = tokio::task::spawn_blocking(move || {
                engine.fits(&output).inspect_err(|_| engine.forget(&digest))
            });
            fits.await
                .map_err(|error| CompileError::Node(format!("loading it failed: {error}")))?
        });
        tokio_util::task::AbortOnDropHandle::new(child)
            .await
            .unwrap_or_else(|error| {
                Err(CompileError::Node(format!("the compiler's task: {error}")))
            })
    }

    /// Whether compiled code has a place in a sandbox of this engine.
    fn fits(&self, compiled: &Path) -> Result<(), CompileError> {
        let engine = &self.0.wasmtime;
        let kind = wasmtime::Engine::detect_precompiled_file(compiled);
        let loaded = kind.and_then(|kind| match kind {
            Some(wasmtime::Precompiled::Component) => map_component(engine, compiled).map(drop),
            _ => map_module(engine, compiled).map(drop),
        });
        loaded.map_err(|error| CompileError::Code(format!("no sandbox here holds it: {error:#}")))
    }

    /// Whether an artifact's compiled code is on disk.
    pub fn is_compiled(&self, digest: &str) -> bool {
        self.0.cache.contains(digest)
    }

    /// Removes an artifact's compiled code. What is loaded stays usable.
    pub fn forget(&self, digest: &str) {
        self.0.cache.remove(digest);
    }

    /// Bytes of compiled code on disk.
    pub fn cached_bytes(&self) -> u64 {
        self.0.cache.bytes()
    }

    /// Loads an artifact's compiled code: a memory map, mostly. Large code
    /// is loaded on a thread that may block.
    pub async fn load(&self, digest: &str, kind: Kind) -> Result<Loaded, LoadError> {
        let path = self.0.cache.path(digest).ok_or(LoadError::NotCompiled)?;
        let metadata = std::fs::metadata(&path).map_err(|_| LoadError::NotCompiled)?;
        let engine = self.clone();
        let digest = digest.to_owned();
        if metadata.len() <= QUICK_LOAD_BYTES {
            return engine.load_now(&digest, &path, kind);
        }
        self.0
            .pool()
            .spawn_blocking(move || engine.load_now(&digest, &path, kind))
            .await
            .unwrap_or_else(|error| Err(LoadError::Unfit(format!("loading it failed: {error}"))))
    }

    fn load_now(&self, digest: &str, path: &Path, kind: Kind) -> Result<Loaded, LoadError> {
        let unusable = |error: wasmtime::Error| {
            tracing::warn!(digest, error = %format!("{error:#}"), "compiled code is unusable");
            self.0.cache.remove(digest);
            LoadError::NotCompiled
        };
        let unfit = |error: wasmtime::Error| LoadError::Unfit(format!("{error:#}"));
        let code = match kind {
            Kind::Module => {
                let module = map_module(&self.0.wasmtime, path).map_err(unusable)?;
                let start = module
                    .get_export_index("_start")
                    .ok_or_else(|| LoadError::Unfit("it exports no `_start`".to_owned()))?;
                let pages = module.resources_required().max_initial_memory_size;
                let prepared = self
                    .0
                    .module_linker
                    .instantiate_pre(&module)
                    .map_err(unfit)?;
                Code::module(prepared, start, memory_bytes(pages))
            }
            Kind::Component => {
                let component = map_component(&self.0.wasmtime, path).map_err(unusable)?;
                let pages = component
                    .resources_required()
                    .and_then(|resources| resources.max_initial_memory_size);
                let prepared = self
                    .0
                    .component_linker
                    .instantiate_pre(&component)
                    .and_then(ProxyPre::new)
                    .map_err(unfit)?;
                Code::component(prepared, memory_bytes(pages))
            }
        };
        Ok(Loaded::new(self.clone(), code))
    }
}

/// Bytes of the memory that is largest from the start, given its pages.
fn memory_bytes(pages: Option<u64>) -> u64 {
    /// Fixed by WebAssembly; the proposal to change it is not enabled.
    const PAGE: u64 = 64 << 10;
    pages.unwrap_or(0).saturating_mul(PAGE)
}

/// The version of the wasmtime crates; they are pinned to it.
const fn wasmtime_version() -> &'static str {
    "48.0.8"
}

/// Maps a compiled module into memory.
#[allow(unsafe_code)]
fn map_module(engine: &wasmtime::Engine, path: &Path) -> wasmtime::Result<Module> {
    // SAFETY: the file was written by our own compiling child, from a
    // validated module, into a folder that only this user can write
    // (`Cache::open` checks), and moved there whole after a sync. It is never
    // changed in place, only unlinked.
    unsafe { Module::deserialize_file(engine, path) }
}

/// Maps a compiled component into memory.
#[allow(unsafe_code)]
fn map_component(engine: &wasmtime::Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: as for `map_module`.
    unsafe { Component::deserialize_file(engine, path) }
}

type Linkers = (
    wasmtime::Linker<ModuleState>,
    wasmtime::component::Linker<ComponentState>,
);

fn link(engine: &wasmtime::Engine) -> wasmtime::Result<Linkers> {
    let mut modules = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut modules, ModuleState::wasi)?;
    let mut components = wasmtime::component::Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components)?;
    Ok((modules, components))
}

/// The first way to allocate that works.
fn allocate(config: &EngineConfig) -> Result<(wasmtime::Engine, Tuning, Option<u32>), EngineError> {
    if config.allocation == Allocation::Probed {
        let budget = address_space_left();
        for pool in pools(config.slots, config.max_memory_bytes) {
            if budget.is_some_and(|budget| pool.bytes() > budget) {
                continue;
            }
            match wasmtime::Engine::new(&pool.settings()) {
                Ok(engine) => return Ok((engine, pool.tuning, Some(pool.slots))),
                Err(error) => {
                    tracing::debug!(?pool, error = %format!("{error:#}"), "no such memory pool");
                }
            }
        }
        tracing::warn!(
            "no address space for a memory pool; calls will be slower (see `ulimit -v`)"
        );
    }
    let tuning = Tuning::ON_DEMAND;
    let engine = wasmtime::Engine::new(&tuning.config())
        .map_err(|error| EngineError::Engine(format!("{error:#}")))?;
    Ok((engine, tuning, None))
}

/// A memory pool that may be possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pool {
    tuning: Tuning,
    /// Calls at once.
    slots: u32,
    memories: u32,
}

/// Pools to try, the best first.
fn pools(slots: u32, max_memory_bytes: u64) -> impl Iterator<Item = Pool> {
    let halves = move |tuning: Tuning, fewest: u32| {
        std::iter::successors(Some(slots.max(fewest)), |slots| Some(slots / 2))
            .take_while(move |slots| *slots >= fewest)
            .map(move |slots| Pool {
                tuning,
                slots,
                memories: slots,
            })
    };
    let best = Pool {
        tuning: Tuning::ROOMY,
        slots,
        memories: slots.saturating_mul(MEMORIES_PER_SLOT),
    };
    std::iter::once(best)
        .chain(halves(Tuning::ROOMY, FEWEST_ROOMY_SLOTS))
        .chain(halves(Tuning::tight(max_memory_bytes), FEWEST_TIGHT_SLOTS))
}

/// What a limit on the address space (`ulimit -v`) leaves for a pool: half of
/// the rest, for the node needs some too. `None` without a limit.
fn address_space_left() -> Option<u64> {
    let limit = getrlimit(Resource::As).current?;
    let pages: u64 = std::fs::read_to_string("/proc/self/statm")
        .ok()?
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    let used = pages * rustix::param::page_size() as u64;
    Some(limit.saturating_sub(used) / 2)
}

impl Pool {
    /// About what it takes of the address space.
    fn bytes(&self) -> u64 {
        /// Stack, tables and rounding.
        const PER_SLOT: u64 = 8 << 20;
        let memory = self.tuning.reservation_bytes + self.tuning.guard_bytes;
        u64::from(self.memories) * memory + u64::from(self.slots) * PER_SLOT
    }

    fn settings(&self) -> wasmtime::Config {
        let memory_bytes = self.tuning.reservation_bytes.min(FULL_RESERVATION);
        let mut pool = PoolingAllocationConfig::new();
        pool.total_memories(self.memories)
            .total_stacks(self.slots)
            .total_component_instances(self.slots)
            .total_core_instances(self.slots.saturating_mul(INSTANCES_PER_SLOT))
            .total_tables(self.slots.saturating_mul(TABLES_PER_SLOT))
            .max_memory_size(usize::try_from(memory_bytes).unwrap_or(usize::MAX))
            .total_gc_heaps(self.slots)
            .table_elements(TABLE_ELEMENTS as usize)
            .max_memories_per_module(MEMORIES_PER_MODULE)
            .max_tables_per_module(TABLES_PER_MODULE)
            .max_core_instance_size(INSTANCE_BYTES)
            .max_component_instance_size(INSTANCE_BYTES)
            .max_unused_warm_slots(self.memories)
            .pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(MEMORY_KEPT_RESIDENT)
            .table_keep_resident(TABLE_KEPT_RESIDENT);
        let mut settings = self.tuning.config();
        settings.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_shrink_before_slots_do() {
        let tried: Vec<_> = pools(200, 64 << 20).collect();
        let pool = |tuning, slots, memories| Pool {
            tuning,
            slots,
            memories,
        };
        assert_eq!(tried[0], pool(Tuning::ROOMY, 200, 800));
        assert_eq!(tried[1], pool(Tuning::ROOMY, 200, 200));
        assert_eq!(tried[2], pool(Tuning::ROOMY, 100, 100));
        let tight = Tuning::tight(64 << 20);
        assert_eq!(tried[3], pool(tight, 200, 200));
        assert_eq!(tried.last(), Some(&pool(tight, 12, 12)));
    }

    #[test]
    fn every_pool_that_is_tried_is_valid() {
        for pool in pools(128, 100 << 20) {
            wasmtime::Engine::new(&pool.settings()).expect("this machine has the address space");
        }
    }
}
