//! What a call costs: `cargo run --release -p weir-wasm --example per_call
//! [MODULE]`. Prints nanoseconds per call and what stays in memory.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_wasm::{
    Allocation, Body, BodyError, Call, Compiler, Engine, EngineConfig, Function, Kind, LogSink,
    Protocol, Resolve, Setup, compile_child, inspect,
};

/// Says "hello" in one write, as a small function would.
const HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\10\00\00\00\05\00\00\00")
  (data (i32.const 16) "hello")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

const FUNCTIONS: usize = 1_000;

/// The fastest round counts: others shared the processor with something.
const ROUNDS: usize = 10;
const ROUND: Duration = Duration::from_millis(200);
const BATCH: u64 = 100;

/// Code above this is not copied a thousand times.
const LARGE_BYTES: u64 = 1 << 20;

struct Nothing;

impl LogSink for Nothing {
    fn write(&self, _bytes: &[u8]) {}
}

impl Resolve for Nothing {
    fn resolve<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == "compile").is_some() {
        return compile_child(arguments);
    }
    let code = arguments.next().map_or_else(
        || HELLO.as_bytes().to_vec(),
        |path| std::fs::read(path).expect("a readable module"),
    );
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(measure(code));
    ExitCode::SUCCESS
}

async fn measure(code: Vec<u8>) {
    let kind = inspect(&code, None).expect("code that fits").kind;
    let folder = std::env::temp_dir().join(format!("weir-per-call-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let artifact = folder.join("artifact");
    std::fs::write(&artifact, code).expect("room");
    print_resident("before the engine");
    let engine = Engine::new(EngineConfig {
        threads: 0,
        slots: 1_000,
        max_memory_bytes: 4 << 30,
        allocation: Allocation::Probed,
        cache: folder.join("compiled"),
        compiler: Compiler::this_program("compile"),
        resolver: Arc::new(Nothing),
    })
    .expect("an engine");
    print_resident("with the engine");
    engine.compile("00", &artifact).await.expect("it compiles");
    let start = Instant::now();
    let function = bind(&engine, "00", kind).await;
    print("first load", nanos(start.elapsed()), "ns");
    let start = Instant::now();
    call(&function).await;
    print("first call", nanos(start.elapsed()), "ns");

    let mut least = u64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut calls = 0;
        while start.elapsed() < ROUND {
            for _ in 0..BATCH {
                call(&function).await;
            }
            calls += BATCH;
        }
        least = least.min(nanos(start.elapsed()) / calls);
    }
    print("a call", least, "ns");
    print_resident("after the calls");

    let compiled = folder.join("compiled").join(engine.describe().fingerprint);
    if engine.cached_bytes() > LARGE_BYTES {
        std::fs::remove_dir_all(&folder).expect("it is ours");
        return;
    }
    let mut functions = Vec::with_capacity(FUNCTIONS);
    let start = Instant::now();
    for number in 1..=FUNCTIONS {
        let digest = format!("{number:04}");
        // Its own file, as code of its own would have.
        std::fs::copy(
            compiled.join("00.code"),
            compiled.join(format!("{digest}.code")),
        )
        .expect("room");
        functions.push(bind(&engine, &digest, kind).await);
    }
    let each = nanos(start.elapsed()) / FUNCTIONS as u64;
    print("a load, with copying a file", each, "ns");
    print_resident("with 1,000 loaded");
    for _ in 0..2 {
        let start = Instant::now();
        for function in &functions {
            call(function).await;
        }
        let each = nanos(start.elapsed()) / FUNCTIONS as u64;
        print("a call, each to another function", each, "ns");
    }
    print_resident("with 1,000 called");
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

fn print(what: &str, number: u64, unit: &str) {
    println!("{what:<34} {number:>10} {unit}");
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Memory of its own and pages of mapped files, which the system takes back
/// when it needs room.
fn print_resident(when: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (field, what) in [
        ("RssAnon:", "KiB resident"),
        ("RssFile:", "KiB of files resident"),
    ] {
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        print(when, kib, what);
    }
}

async fn bind(engine: &Engine, digest: &str, kind: Kind) -> Function {
    let loaded = engine.load(digest, kind).await.expect("it loads");
    loaded
        .bind(Setup {
            name: "hello".to_owned(),
            protocol: match kind {
                Kind::Module => Protocol::Stdio,
                Kind::Component => Protocol::Http,
            },
            env: Vec::new(),
            secrets: None,
            allow_outbound: Vec::new(),
            memory_bytes: 256 << 20,
            cpu_millicores: Some(1_000),
            output_bytes: 16 << 20,
        })
        .expect("it binds")
}

async fn call(function: &Function) {
    let body: Body = Full::new(Bytes::from_static(b"hello"))
        .map_err(|never| -> BodyError { match never {} })
        .boxed_unsync();
    let request = http::Request::builder()
        .uri("/")
        .header("host", "localhost:8080")
        .header("user-agent", "per-call/1")
        .header("x-call-id", "0123456789abcdef0123456789abcdef")
        .body(body)
        .expect("a request");
    let call = Call {
        request,
        until: Instant::now() + Duration::from_secs(10),
        log: Arc::new(Nothing),
    };
    function.call(call).await.expect("an answer");
}
