//! The WebAssembly executor: guests in this very process, through `weir-wasm`.
//!
//! An instance is code loaded and ready to be instantiated; each call gets a
//! fresh sandbox of its own, so one instance runs as many calls at once as
//! admission lets it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use futures_util::future::BoxFuture;
use weir_wasm::{
    Allocation, BindError, CompileError, Compiler, Engine, EngineConfig, Function, Kind, LoadError,
    LogSink, Resolve, Setup,
};

use super::{AnswerBody, Call, CallError, Code, Executor, Instance, Profile, StartError, Unfit};
use crate::chain;
use crate::config::NodeConfig;
use crate::function::{ArtifactKind, FunctionSpec, Protocol};
use crate::id::{CallId, Digest};
use crate::logs::FunctionLog;
use crate::resolve::Resolver;
use crate::resources::{Cpu, Memory, Resources};

/// Compiles one artifact: what the hidden subcommand of the program calls.
pub use weir_wasm::compile_child;

/// The hidden subcommand of the program that compiles one artifact.
pub const COMPILE_COMMAND: &str = "compile-artifact";

/// Sandboxes at once, at most; those of the pool where there is one. Each
/// costs address space only.
const SLOTS: usize = 1000;

/// Runs WebAssembly modules and components.
pub struct Wasm {
    engine: Engine,
    max_memory: Memory,
    output_bytes: u64,
    /// Most calls of one function at once: more would find no sandbox.
    slots: u32,
}

impl Wasm {
    /// Sets up the engine and its cache of compiled code.
    ///
    /// # Errors
    /// A sentence that says which step failed.
    pub fn start(config: &NodeConfig, resolver: Resolver) -> Result<Self, String> {
        let wasm = &config.wasm;
        let mut compiler = Compiler::this_program(COMPILE_COMMAND);
        if let Some(program) = &wasm.compiler {
            compiler.program.clone_from(program);
        }
        compiler.memory_bytes = wasm.compile_memory.as_bytes();
        compiler.time = wasm.compile_time;
        let slots = u32::try_from(config.max_calls.min(SLOTS))
            .unwrap_or(u32::MAX)
            .max(1);
        let engine = Engine::new(EngineConfig {
            threads: wasm.threads,
            slots,
            max_memory_bytes: wasm.max_memory.as_bytes(),
            allocation: Allocation::Probed,
            cache: config.data_dir.join("compiled"),
            compiler,
            resolver: Arc::new(Names(resolver)),
        });
        let engine = engine.map_err(|error| chain(&error))?;
        let slots = engine.describe().slots.unwrap_or(slots);
        Ok(Wasm {
            engine,
            max_memory: wasm.max_memory,
            output_bytes: wasm.output_bytes,
            slots,
        })
    }

    async fn compiled(&self, code: &Code) -> Result<String, StartError> {
        let path = code.path().map_err(StartError::Node)?;
        let digest = digest_of(path)?;
        let compiled = self.engine.compile(&digest, path).await;
        compiled.map_err(|error| match error {
            CompileError::Code(_) => StartError::Code(error.to_string()),
            CompileError::Node(_) => StartError::Node(error.to_string()),
        })?;
        Ok(digest)
    }

    async fn load(&self, code: &Code) -> Result<weir_wasm::Loaded, StartError> {
        let kind = match code.kind {
            ArtifactKind::WasmComponent => Kind::Component,
            ArtifactKind::WasmModule => Kind::Module,
            ArtifactKind::WasmText => self.kind_of_text(code)?,
            ArtifactKind::SimulatedModel
            | ArtifactKind::SourceArchive
            | ArtifactKind::ImageArchive
            | ArtifactKind::ImageName => {
                return Err(StartError::Code("this is no WebAssembly".to_owned()));
            }
        };
        // The cache may have lost the code, or hold what an earlier version
        // made: then it is compiled once more.
        for _ in 0..2 {
            let digest = self.compiled(code).await?;
            match self.engine.load(&digest, kind).await {
                Ok(loaded) => return Ok(loaded),
                Err(LoadError::NotCompiled) => {}
                Err(error @ LoadError::Unfit(_)) => {
                    return Err(StartError::Code(error.to_string()));
                }
            }
        }
        Err(StartError::Node(
            "compiled code cannot be read back from the cache".to_owned(),
        ))
    }

    fn kind_of_text(&self, code: &Code) -> Result<Kind, StartError> {
        let path = code.path().map_err(StartError::Node)?;
        let text = fs::read(path).map_err(|error| StartError::Node(error.to_string()))?;
        let found = weir_wasm::inspect(&text, None);
        let found = found.map_err(|unfit| StartError::Code(unfit.to_string()))?;
        Ok(found.kind)
    }
}

/// Artifacts are named by their digest.
fn digest_of(path: &Path) -> Result<String, StartError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .ok_or_else(|| StartError::Node(format!("{} is no artifact", path.display())))
}

impl Executor for Wasm {
    fn name(&self) -> &'static str {
        "wasm"
    }

    fn allows(&self, spec: &FunctionSpec) -> Result<(), Unfit> {
        if spec.memory > self.max_memory {
            return Err(Unfit(format!(
                "a memory limit of {} is more than the {} that this node allows (wasm.max-memory)",
                spec.memory, self.max_memory
            )));
        }
        protocol(spec.protocol).map(drop).map_err(Unfit)
    }

    fn check(&self, spec: &FunctionSpec, code: &Code) -> Result<(), Unfit> {
        self.allows(spec)?;
        let protocol = protocol(spec.protocol).map_err(Unfit)?;
        let path = code.path().map_err(Unfit)?;
        let bytes = fs::read(path).map_err(|e| Unfit(format!("read the artifact: {e}")))?;
        let found = weir_wasm::inspect(&bytes, Some(protocol));
        let found = found.map_err(|unfit| Unfit(unfit.to_string()))?;
        if found.memory_bytes > spec.memory.as_bytes() {
            let needs = Memory::bytes(found.memory_bytes);
            return Err(Unfit(format!(
                "the code needs {needs} of memory to start, and its limit is {}: raise the limit \
                 (--memory)",
                spec.memory
            )));
        }
        if found.kind == Kind::Module && !spec.allow_outbound.is_empty() {
            return Err(Unfit(
                "only components can call out; build the function as a wasi:http component, or \
                 deploy it without allow-outbound"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn profile(&self, spec: &FunctionSpec) -> Profile {
        let call = Resources {
            cpu: spec
                .cpu
                .unwrap_or(FunctionSpec::UNDECLARED_CPU)
                .max(Cpu::millicores(1)),
            memory: spec.memory,
        };
        Profile {
            // Loaded code is shared and read from a file: the kernel takes it
            // back when memory is short.
            instance: Resources::ZERO,
            call,
            calls_per_instance: spec.max.unwrap_or(self.slots).min(self.slots),
            max_instances: 1,
            min_instances: spec.min.min(1),
            keep_alive: spec.keep_alive,
            keeping: spec.keeping.unwrap_or_default(),
        }
    }

    fn prepare(&self, _: Arc<FunctionSpec>, code: Code) -> BoxFuture<'_, Result<(), StartError>> {
        Box::pin(async move { self.compiled(&code).await.map(drop) })
    }

    fn start(&self, setup: super::Setup) -> BoxFuture<'_, Result<Arc<dyn Instance>, StartError>> {
        let super::Setup {
            spec,
            code,
            secrets,
            log: _,
        } = setup;
        Box::pin(async move {
            let loaded = self.load(&code).await?;
            let env = spec
                .env
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()));
            let outbound = spec.allow_outbound.iter();
            let bound = loaded.bind(Setup {
                name: spec.name.name().to_owned(),
                protocol: protocol(spec.protocol).map_err(StartError::Code)?,
                env: env.collect(),
                secrets,
                allow_outbound: outbound
                    .map(|to| weir_wasm::Outbound {
                        host: to.host.clone(),
                        port: to.port,
                    })
                    .collect(),
                memory_bytes: spec.memory.as_bytes(),
                cpu_millicores: spec.cpu.map(Cpu::as_millicores),
                output_bytes: self.output_bytes,
            });
            let function = bound.map_err(|error| match error {
                BindError::Memory { .. } | BindError::Protocol => {
                    StartError::Code(error.to_string())
                }
            })?;
            Ok(Arc::new(Guest { function }) as Arc<dyn Instance>)
        })
    }

    fn forget(&self, digest: &Digest) {
        self.engine.forget(&digest.hex());
    }

    fn cached_bytes(&self) -> u64 {
        self.engine.cached_bytes()
    }

    fn describe(&self) -> serde_json::Value {
        let engine = self.engine.describe();
        serde_json::json!({
            "wasmtime": engine.wasmtime,
            "allocation": engine.allocation,
            "slots": engine.slots,
            "reservation_bytes": engine.reservation_bytes,
            "threads": engine.threads,
            "compiled_bytes": engine.cached_bytes,
        })
    }
}

fn protocol(protocol: Protocol) -> Result<weir_wasm::Protocol, String> {
    match protocol {
        Protocol::Stdio => Ok(weir_wasm::Protocol::Stdio),
        Protocol::Cgi => Ok(weir_wasm::Protocol::Cgi),
        Protocol::Http => Ok(weir_wasm::Protocol::Http),
        Protocol::OpenWhisk | Protocol::Serverledge | Protocol::Lambda => Err(format!(
            "WebAssembly speaks stdio, cgi or http; {protocol} is for containers"
        )),
    }
}

/// Loaded code, bound to a function.
struct Guest {
    function: Function,
}

impl Instance for Guest {
    fn invoke(
        &self,
        call: Call,
    ) -> BoxFuture<'static, Result<http::Response<AnswerBody>, CallError>> {
        let log = Arc::new(Log {
            log: call.log,
            call: call.id,
        });
        let call = weir_wasm::Call {
            request: call.request,
            until: call.until,
            log,
        };
        let answer = self.function.call(call);
        Box::pin(async move {
            let response = answer.await.map_err(|error| match error {
                weir_wasm::CallError::TimedOut => CallError::TimedOut,
                weir_wasm::CallError::Failed(reason) => CallError::Failed(reason),
                weir_wasm::CallError::Body(error) => CallError::Body(error),
                weir_wasm::CallError::NotStarted(reason) => CallError::NotStarted {
                    reason,
                    request: None,
                },
            })?;
            Ok(response.map(|body| match body {
                weir_wasm::AnswerBody::Whole(bytes) => AnswerBody::Whole(bytes),
                weir_wasm::AnswerBody::Stream(body) => AnswerBody::Stream(body),
            }))
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        // The code is unmapped when the last call on it has ended.
        Box::pin(async {})
    }
}

/// A function's log, as one call writes to it.
struct Log {
    log: Arc<FunctionLog>,
    call: CallId,
}

impl Drop for Log {
    /// The call has ended: a last line without an end is one.
    fn drop(&mut self) {
        self.log.flush(self.call);
    }
}

impl LogSink for Log {
    fn write(&self, bytes: &[u8]) {
        self.log.write(self.call, bytes);
    }
}

struct Names(Resolver);

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(self.0.lookup(host))
    }
}
