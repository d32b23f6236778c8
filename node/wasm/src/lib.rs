//! WebAssembly guests for Weir: one fresh sandbox per call.
//!
//! This package keeps wasmtime to itself: nothing of it shows in what the
//! node uses, and nothing of the node shows here.
//!
//! ```text
//!  inspect     can this code run here?            no engine needed
//!  Engine      memory pool, linkers, cache        one per node
//!    compile   artifact -> compiled code on disk  in a short-lived child
//!    load      compiled code -> Loaded            a memory map, no compiler
//!  Loaded      code in memory, ready to start     shared by all versions
//!    bind      Loaded + Setup -> Function         what never changes per call
//!  Function    call: request in, answer out       fresh sandbox, then gone
//! ```
//!
//! # Invariants
//! * A guest sees its request, its variables, its secrets, the clock and
//!   chance: no files, no environment of the host's, no network but what
//!   [`Setup::allow_outbound`] names.
//! * A guest never blocks a thread. It starts on its caller's and leaves it
//!   for the engine's own at the first tick that it runs into.
//! * Every call ends: at its deadline at the latest, or when its caller drops
//!   it.
//! * Memory, output, headers, processor share and log chunks are bounded;
//!   going beyond ends the call with an error that names the bound.
//! * Compiled code comes from this machine's own compiler only.
//!
//! # Example
//! ```
//! use weir_wasm::{Kind, inspect};
//!
//! let command = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
//! let inspected = inspect(command.as_bytes(), None);
//! assert_eq!(inspected.map(|found| found.kind), Ok(Kind::Module));
//! assert!(inspect(b"#!/bin/sh", None).is_err());
//! ```

mod cache;
mod call;
mod compile;
mod component;
mod engine;
mod exchange;
mod function;
mod header_block;
mod inspect;
mod limits;
mod module;
mod outbound;
mod stdio;
mod ticker;
mod tuning;
mod variables;

pub use cache::CacheError;
pub use call::{AnswerBody, Call, CallError};
pub use compile::{CompileError, compile_child};
pub use engine::{Allocation, Compiler, Description, Engine, EngineConfig, EngineError, LoadError};
pub use function::{BindError, Function, Loaded, Setup};
pub use inspect::{Inspected, Unfit, inspect};
pub use outbound::Outbound;

use futures_util::future::BoxFuture;
use std::io;
use std::net::IpAddr;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body that streams.
pub type Body = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BodyError>;

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A core module: a WASI preview 1 command.
    Module,
    /// A component that handles `wasi:http` requests.
    Component,
}

/// How a guest takes its request and gives its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The body on standard input, the answer on standard output.
    Stdio,
    /// As [`Protocol::Stdio`], with a header block before the answer.
    Cgi,
    /// `wasi:http/incoming-handler`.
    Http,
}

/// Takes what a guest writes to its log.
pub trait LogSink: Send + Sync + 'static {
    /// Takes some bytes, not necessarily whole lines. Called on the guest's
    /// thread: it must neither wait nor fail.
    fn write(&self, bytes: &[u8]);
}

/// Resolves names for guests that may call out. A statically linked program
/// has no resolver of its own.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, in order of preference.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// A number of bytes as people write it.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    UNITS
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes} bytes"),
            |(unit, name)| format!("{} {name}", bytes / unit),
        )
}
