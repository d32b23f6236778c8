//! Compiling, in a short-lived child process.
//!
//! Compiling takes hundreds of megabytes and, for Python or JavaScript, many
//! seconds; a child gives its memory back, can be stopped, and takes nothing
//! with it when a module makes the compiler misbehave. The child is the same
//! program: its entry is [`compile_child`].

use crate::Compiler;
use crate::tuning::{Tuning, fingerprint};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Bytes of the child's complaint that are kept: a compiler's error is a line
/// or two.
const COMPLAINT_BYTES: usize = 4 << 10;

/// Exit code of a child whose code was at fault (`EX_DATAERR`).
const CODE_AT_FAULT: u8 = 65;

/// Exit code of a child that failed for another reason (`EX_OSERR`).
const NODE_AT_FAULT: u8 = 71;

/// Files that the child may have open: it reads one and writes one.
const OPEN_FILES: u64 = 64;

/// How much compiling gives way to running functions.
const NICENESS: i32 = 10;

/// Why an artifact has no compiled code.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompileError {
    /// The code is at fault; compiling it again ends the same way.
    #[error("cannot compile: {0}")]
    Code(String),
    /// The node is at fault; another attempt may succeed.
    #[error("cannot compile now: {0}")]
    Node(String),
}

/// Runs one child to its end and leaves its result at `output`.
pub(crate) async fn compile(
    compiler: &Compiler,
    tuning: &Tuning,
    expected: &str,
    artifact: &Path,
    output: &Path,
) -> Result<(), CompileError> {
    let mut command = tokio::process::Command::new(&compiler.program);
    command
        .args(&compiler.arguments)
        .arg(artifact)
        .arg(output)
        .arg(expected)
        .arg(compiler.memory_bytes.to_string())
        .arg(compiler.time.as_secs().max(1).to_string())
        .args(tuning.words())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        CompileError::Node(format!("start {}: {error}", compiler.program.display()))
    })?;
    let mut errors = child.stderr.take().expect("standard error is piped");
    let finished = tokio::time::timeout(compiler.time, async {
        let complaint = read_complaint(&mut errors).await;
        (child.wait().await, complaint)
    })
    .await;
    match finished {
        Ok((Ok(status), complaint)) => judge(status, &complaint, compiler),
        Ok((Err(error), _)) => Err(CompileError::Node(format!(
            "wait for the compiler: {error}"
        ))),
        Err(_) => {
            let _ = child.kill().await;
            Err(too_slow(compiler.time))
        }
    }
}

/// The first bytes of what the child says; the rest is read and dropped, so
/// that it never blocks.
async fn read_complaint(errors: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut complaint = Vec::new();
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = errors.read(&mut chunk).await {
        let room = COMPLAINT_BYTES.saturating_sub(complaint.len());
        complaint.extend_from_slice(&chunk[..count.min(room)]);
    }
    String::from_utf8_lossy(&complaint).trim().to_owned()
}

fn too_slow(time: Duration) -> CompileError {
    CompileError::Code(format!(
        "it took longer than {time:?}; make the code smaller or allow the compiler more time"
    ))
}

fn judge(status: ExitStatus, complaint: &str, compiler: &Compiler) -> Result<(), CompileError> {
    use std::os::unix::process::ExitStatusExt;
    /// `SIGXCPU`, the end of a process that used up its CPU time.
    const CPU_TIME_EXCEEDED: i32 = 24;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) if code == i32::from(CODE_AT_FAULT) => {
            Err(CompileError::Code(complaint.to_owned()))
        }
        (_, Some(CPU_TIME_EXCEEDED)) => Err(too_slow(compiler.time)),
        // Rust ends a process that cannot get memory with a message like this.
        (_, Some(_)) if complaint.contains("memory allocation of") => {
            Err(CompileError::Code(format!(
                "it needed more than {} MiB of memory; make the code smaller or allow the \
                 compiler more",
                compiler.memory_bytes >> 20
            )))
        }
        (Some(_), _) if !complaint.is_empty() => Err(CompileError::Node(complaint.to_owned())),
        _ => Err(CompileError::Node(format!(
            "the compiler ended with {status}"
        ))),
    }
}

/// Compiles one artifact: what the hidden subcommand of the program calls
/// with the arguments that came after [`Compiler::arguments`].
///
/// Limits itself first: memory, CPU time, open files, priority. Returns the
/// exit code that the parent understands; complaints go to standard error.
pub fn compile_child(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match Job::parse(&arguments).and_then(|job| job.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CompileError::Code(complaint)) => {
            eprintln!("{complaint}");
            ExitCode::from(CODE_AT_FAULT)
        }
        Err(CompileError::Node(complaint)) => {
            eprintln!("{complaint}");
            ExitCode::from(NODE_AT_FAULT)
        }
    }
}

/// What a child was asked to do.
struct Job<'a> {
    artifact: &'a Path,
    output: &'a Path,
    fingerprint: &'a str,
    memory_bytes: u64,
    seconds: u64,
    tuning: Tuning,
}

impl<'a> Job<'a> {
    fn parse(arguments: &'a [OsString]) -> Result<Job<'a>, CompileError> {
        let usage = || {
            CompileError::Node(
                "this command is how the node compiles artifacts; it is not for people".to_owned(),
            )
        };
        let [artifact, output, rest @ ..] = arguments else {
            return Err(usage());
        };
        let words: Vec<&str> = rest.iter().filter_map(|word| word.to_str()).collect();
        let [fingerprint, memory, seconds, tuning @ ..] = words.as_slice() else {
            return Err(usage());
        };
        let tuning: [&str; 3] = tuning.try_into().map_err(|_| usage())?;
        Ok(Job {
            artifact: Path::new(artifact),
            output: Path::new(output),
            fingerprint,
            memory_bytes: memory.parse().map_err(|_| usage())?,
            seconds: seconds.parse().map_err(|_| usage())?,
            tuning: Tuning::parse(tuning).ok_or_else(usage)?,
        })
    }

    fn run(&self) -> Result<(), CompileError> {
        self.limit();
        let node = |step: &'static str| {
            move |error: io::Error| CompileError::Node(format!("{step}: {error}"))
        };
        let bytes = fs::read(self.artifact).map_err(node("read the artifact"))?;
        let bytes = crate::inspect::binary(&bytes).map_err(|unfit| CompileError::Code(unfit.0))?;
        let engine = wasmtime::Engine::new(&self.tuning.config())
            .map_err(|error| CompileError::Node(format!("set up the compiler: {error:#}")))?;
        if fingerprint(&engine) != self.fingerprint {
            return Err(CompileError::Node(
                "the compiler and the node are different versions; restart the node".to_owned(),
            ));
        }
        let compiled = if wasmparser::Parser::is_component(&bytes) {
            engine.precompile_component(&bytes)
        } else {
            engine.precompile_module(&bytes)
        };
        let compiled = compiled.map_err(|error| CompileError::Code(format!("{error:#}")))?;
        self.publish(&compiled)
            .map_err(node("write the compiled code"))
    }

    /// Lowers what this process may use. A limit that the system refuses is
    /// no reason not to compile: the parent's clock still runs.
    fn limit(&self) {
        let hard = |amount: u64| Rlimit {
            current: Some(amount),
            maximum: Some(amount),
        };
        // Data, not address space: reservations cost nothing.
        let _ = setrlimit(Resource::Data, hard(self.memory_bytes));
        let _ = setrlimit(Resource::Cpu, hard(self.seconds.saturating_mul(2)));
        let _ = setrlimit(Resource::Core, hard(0));
        let _ = setrlimit(Resource::Nofile, hard(OPEN_FILES));
        let _ = rustix::process::nice(NICENESS);
    }

    /// Whole or not at all, also after a power cut.
    fn publish(&self, compiled: &[u8]) -> io::Result<()> {
        let unfinished = self
            .output
            .with_extension(format!("{}.unfinished", std::process::id()));
        let written = (|| {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(compiled)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.output)?;
            let folder = self.output.parent().unwrap_or(Path::new("."));
            fs::File::open(folder)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}
