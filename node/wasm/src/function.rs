//! Loaded code and functions made of it.

use crate::call::{self, AnswerBody, Call, CallError};
use crate::component::{ComponentCode, ComponentState};
use crate::engine::Engine;
use crate::module::{ModuleCode, ModuleState};
use crate::outbound::AllowList;
use crate::{Kind, Outbound, Protocol};
use futures_util::future::BoxFuture;
use http::Response;
use std::path::PathBuf;
use std::sync::Arc;
use wasmtime::{InstancePre, ModuleExport};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// Code in memory. Clones are the same code; the last one to go unmaps it.
#[derive(Clone)]
pub struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) code: Arc<Code>,
}

pub(crate) struct Code {
    pub(crate) program: Program,
    /// Bytes that its largest memory has from the start.
    needs: u64,
}

pub(crate) enum Program {
    Module(ModuleCode),
    Component(ComponentCode),
}

impl Code {
    pub(crate) fn module(
        prepared: InstancePre<ModuleState>,
        start: ModuleExport,
        needs: u64,
    ) -> Code {
        Code {
            program: Program::Module(ModuleCode { prepared, start }),
            needs,
        }
    }

    pub(crate) fn component(prepared: ProxyPre<ComponentState>, needs: u64) -> Code {
        Code {
            program: Program::Component(ComponentCode { prepared }),
            needs,
        }
    }
}

/// What makes a function of code; the same for all of its calls.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The function's name; what a guest finds as its first argument.
    pub name: String,
    /// How it is called; must suit the code's kind.
    pub protocol: Protocol,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// A folder of files that it may read, at `/var/openfaas/secrets`.
    pub secrets: Option<PathBuf>,
    /// Where it may send requests to (components only).
    pub allow_outbound: Vec<Outbound>,
    /// Bytes that all of its memories may have together.
    pub memory_bytes: u64,
    /// Thousandths of a processor that it may use; `None` is no limit.
    pub cpu_millicores: Option<u32>,
    /// Bytes of one answer.
    pub output_bytes: u64,
}

/// Why code does not become the function that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// It has more memory from the start than it may have.
    #[error(
        "the function needs {} of memory to start, and its limit is {}; raise the limit",
        crate::size(*needs),
        crate::size(*limit)
    )]
    Memory {
        /// What it has from the start.
        needs: u64,
        /// Its limit.
        limit: u64,
    },
    /// A module cannot speak `http`, a component nothing else.
    #[error("the function's code cannot be called by that protocol")]
    Protocol,
}

impl Loaded {
    pub(crate) fn new(engine: Engine, code: Code) -> Loaded {
        Loaded {
            engine,
            code: Arc::new(code),
        }
    }

    /// What the code is.
    pub fn kind(&self) -> Kind {
        match self.code.program {
            Program::Module(_) => Kind::Module,
            Program::Component(_) => Kind::Component,
        }
    }

    /// Makes a function: what calls have in common is prepared here.
    pub fn bind(&self, setup: Setup) -> Result<Function, BindError> {
        match (self.kind(), setup.protocol) {
            (Kind::Module, Protocol::Stdio | Protocol::Cgi) | (Kind::Component, Protocol::Http) => {
            }
            (Kind::Module, Protocol::Http) | (Kind::Component, Protocol::Stdio | Protocol::Cgi) => {
                return Err(BindError::Protocol);
            }
        }
        if self.code.needs > setup.memory_bytes {
            return Err(BindError::Memory {
                needs: self.code.needs,
                limit: setup.memory_bytes,
            });
        }
        let allowed = AllowList::new(&setup.allow_outbound);
        Ok(Function(Arc::new(Bound {
            loaded: self.clone(),
            setup,
            allowed: Arc::new(allowed),
        })))
    }
}

pub(crate) struct Bound {
    pub(crate) loaded: Loaded,
    pub(crate) setup: Setup,
    pub(crate) allowed: Arc<AllowList>,
}

/// A function that can be called. Clones are the same function.
#[derive(Clone)]
pub struct Function(Arc<Bound>);

impl Function {
    /// Calls the function in a fresh sandbox.
    ///
    /// The guest runs inside the returned future until it has been busy for a
    /// tick or its answer begins to stream; from then on, on the engine's own
    /// threads. Dropping the future, or the answer's body before its end,
    /// stops the guest.
    pub fn call(&self, call: Call) -> BoxFuture<'static, Result<Response<AnswerBody>, CallError>> {
        Box::pin(call::drive(self.0.clone(), call))
    }

    /// What it was made of.
    pub fn setup(&self) -> &Setup {
        &self.0.setup
    }
}
