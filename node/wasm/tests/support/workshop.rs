//! An engine with a compiler, and guests to try on it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use weir_wasm::{
    Allocation, AnswerBody, Body, BodyError, Call, CallError, Compiler, Engine, EngineConfig,
    Function, Kind, LogSink, Protocol, Resolve, Setup,
};

/// Long enough for any guest here on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Resolves nothing.
pub(crate) struct NoNames;

impl Resolve for NoNames {
    fn resolve<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async { Err(io::Error::from(io::ErrorKind::NotFound)) })
    }
}

/// Keeps what a guest logs.
#[derive(Default)]
pub(crate) struct Lines(Mutex<Vec<u8>>);

impl LogSink for Lines {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}

impl Lines {
    pub(crate) fn text(&self) -> String {
        let bytes = self.0.lock();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A temporary folder, and an engine that keeps its code there.
pub(crate) struct Workshop {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) engine: Engine,
    artifacts: AtomicU64,
}

pub(crate) fn config(folder: &Path) -> EngineConfig {
    EngineConfig {
        threads: 2,
        slots: 64,
        max_memory_bytes: 1 << 30,
        allocation: Allocation::Probed,
        cache: folder.join("compiled"),
        compiler: Compiler {
            program: PathBuf::from(env!("CARGO_BIN_EXE_weir-wasm-compile")),
            arguments: Vec::new(),
            memory_bytes: 2 << 30,
            time: Duration::from_secs(60),
        },
        resolver: Arc::new(NoNames),
    }
}

impl Workshop {
    pub(crate) fn new() -> Workshop {
        Workshop::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut EngineConfig)) -> Workshop {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = config(folder.path());
        change(&mut config);
        Workshop {
            engine: Engine::new(config).expect("an engine"),
            folder,
            artifacts: AtomicU64::new(0),
        }
    }

    /// Writes an artifact and invents a digest for it.
    pub(crate) fn artifact(&self, code: impl AsRef<[u8]>) -> (String, PathBuf) {
        let digest = format!("{:064x}", self.artifacts.fetch_add(1, Ordering::Relaxed));
        let path = self.folder.path().join(&digest);
        std::fs::write(&path, code).expect("room for an artifact");
        (digest, path)
    }

    /// Compiles, loads and binds a module or component.
    pub(crate) async fn function(&self, code: &str, change: impl FnOnce(&mut Setup)) -> Function {
        let found = weir_wasm::inspect(code.as_bytes(), None).expect("it fits");
        let kind = found.kind;
        let (digest, path) = self.artifact(code);
        self.engine
            .compile(&digest, &path)
            .await
            .expect("it compiles");
        let mut setup = setup();
        if kind == Kind::Component {
            setup.protocol = Protocol::Http;
        }
        change(&mut setup);
        self.engine
            .load(&digest, kind)
            .await
            .expect("it loads")
            .bind(setup)
            .expect("it binds")
    }
}

pub(crate) fn setup() -> Setup {
    Setup {
        name: "guest".to_owned(),
        protocol: Protocol::Stdio,
        env: Vec::new(),
        secrets: None,
        allow_outbound: Vec::new(),
        memory_bytes: 64 << 20,
        cpu_millicores: None,
        output_bytes: 64 << 20,
    }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| -> BodyError { match never {} })
        .boxed_unsync()
}

pub(crate) fn request(body: Body) -> http::Request<Body> {
    http::Request::builder()
        .method("POST")
        .uri("/there%20and/back?q=1")
        .header("host", "weir.example")
        .header("content-type", "text/plain")
        .header("x-call-id", "call-7")
        .body(body)
        .expect("a request")
}

pub(crate) fn call(body: impl Into<Bytes>, patience: Duration) -> Call {
    Call {
        request: request(full(body)),
        until: Instant::now() + patience,
        log: Arc::new(Lines::default()),
    }
}

/// Reads an answer to its end.
pub(crate) async fn read(answer: AnswerBody) -> Result<Bytes, BodyError> {
    match answer {
        AnswerBody::Whole(bytes) => Ok(bytes),
        AnswerBody::Stream(body) => Ok(body.collect().await?.to_bytes()),
    }
}

/// Calls with `body` and reads the answer.
pub(crate) async fn answer(
    function: &Function,
    body: impl Into<Bytes>,
) -> Result<Bytes, CallError> {
    let response = function.call(call(body, PATIENCE)).await?;
    Ok(read(response.into_body()).await.expect("a whole answer"))
}

/// How a call failed.
pub(crate) async fn failure(function: &Function) -> String {
    match function.call(call("", PATIENCE)).await {
        Ok(response) => panic!("it answered {response:?}"),
        Err(error) => error.to_string(),
    }
}
