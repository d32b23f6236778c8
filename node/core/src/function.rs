//! What a function is: code by digest, its needs, its limits.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, FunctionName, IdError, ImageName, SecretName};
use crate::keep::Keeping;
use crate::resources::{Cpu, Memory, Resources};

/// How an executor speaks to the code of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Body on standard input, answer on standard output, always status 200.
    Stdio,
    /// As `Stdio`, but standard output starts with a CGI header block
    /// (RFC 3875, section 6): `Status`, `Content-Type`, any header, blank line.
    Cgi,
    /// The code is an HTTP server: a `wasi:http/proxy` component, or a
    /// container that listens on port 8080, or another that it names.
    Http,
    /// The OpenWhisk action protocol: `/init` once, then `/run`.
    OpenWhisk,
    /// The Serverledge executor protocol: `/invoke`.
    Serverledge,
    /// The Lambda Runtime API: the code asks the node for calls.
    Lambda,
}

/// A text that names no protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a protocol: write stdio, cgi, http, openwhisk, serverledge or lambda")]
pub struct ProtocolError(String);

impl FromStr for Protocol {
    type Err = ProtocolError;
    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text {
            "stdio" => Ok(Protocol::Stdio),
            "cgi" => Ok(Protocol::Cgi),
            "http" => Ok(Protocol::Http),
            "openwhisk" => Ok(Protocol::OpenWhisk),
            "serverledge" => Ok(Protocol::Serverledge),
            "lambda" => Ok(Protocol::Lambda),
            other => Err(ProtocolError(other.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Stdio => "stdio",
            Protocol::Cgi => "cgi",
            Protocol::Http => "http",
            Protocol::OpenWhisk => "openwhisk",
            Protocol::Serverledge => "serverledge",
            Protocol::Lambda => "lambda",
        })
    }
}

/// One place outside that a function may connect to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Outbound {
    /// Host name or address literal, lower case, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A text that is not `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an outbound target: write HOST:PORT, for example api.example.org:443")]
pub struct OutboundError(String);

impl FromStr for Outbound {
    type Err = OutboundError;
    fn from_str(text: &str) -> Result<Self, OutboundError> {
        let wrong = || OutboundError(text.chars().take(80).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        if bare.is_empty() || bare.len() > 253 || !bare.chars().all(fine) {
            return Err(wrong());
        }
        if bare == host && host.contains(':') {
            return Err(wrong());
        }
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(wrong)?;
        Ok(Outbound {
            host: bare.to_ascii_lowercase(),
            port,
        })
    }
}

impl TryFrom<String> for Outbound {
    type Error = OutboundError;
    fn try_from(text: String) -> Result<Self, OutboundError> {
        text.parse()
    }
}

impl From<Outbound> for String {
    fn from(outbound: Outbound) -> String {
        outbound.to_string()
    }
}

impl fmt::Display for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where the code of a function is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CodeSource {
    /// In an artifact.
    Artifact(Digest),
    /// In a container image, which the engine has or pulls.
    Image(ImageName),
}

impl CodeSource {
    /// The artifact that holds the code, if one does.
    pub fn artifact(&self) -> Option<&Digest> {
        match self {
            CodeSource::Artifact(digest) => Some(digest),
            CodeSource::Image(_) => None,
        }
    }
}

impl From<Digest> for CodeSource {
    fn from(digest: Digest) -> Self {
        CodeSource::Artifact(digest)
    }
}

impl FromStr for CodeSource {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.starts_with("sha256:") {
            return text.parse().map(CodeSource::Artifact);
        }
        text.parse().map(CodeSource::Image)
    }
}

impl TryFrom<String> for CodeSource {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<CodeSource> for String {
    fn from(source: CodeSource) -> String {
        source.to_string()
    }
}

impl fmt::Display for CodeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodeSource::Artifact(digest) => digest.fmt(f),
            CodeSource::Image(name) => name.fmt(f),
        }
    }
}

/// When an image is fetched from its registry.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// When the engine does not have it.
    #[default]
    Missing,
    /// At every deployment and start of the node.
    Always,
    /// Not at all.
    Never,
}

/// What the instances of a container function can reach.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nothing but themselves.
    #[default]
    None,
    /// A bridge: the host and what lies behind it.
    Bridge,
}

/// A text that is none of the words that are allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not allowed here: write {allowed}")]
pub struct WordError {
    given: String,
    allowed: &'static str,
}

/// Gives an enum of plain words its texts.
macro_rules! words {
    ($name:ident, $allowed:literal, $($word:literal => $variant:ident),+) => {
        impl FromStr for $name {
            type Err = WordError;
            fn from_str(text: &str) -> Result<Self, WordError> {
                match text {
                    $($word => Ok($name::$variant),)+
                    other => Err(WordError {
                        given: other.chars().take(40).collect(),
                        allowed: $allowed,
                    }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $($name::$variant => $word,)+
                })
            }
        }
    };
}

words!(Pull, "missing, always or never", "missing" => Missing, "always" => Always, "never" => Never);
words!(Network, "none or bridge", "none" => None, "bridge" => Bridge);

/// What only functions in containers have.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The runtime that runs a folder of code, by its name in the node's
    /// configuration; `None` for images that need no other code.
    pub runtime: Option<String>,
    /// What the runtime calls: `MODULE.FUNCTION`.
    pub handler: Option<String>,
    /// The image that is given a folder of code; `None` for the runtime's own.
    pub image: Option<ImageName>,
    /// When the image is fetched.
    pub pull: Pull,
    /// What instances can reach.
    pub network: Network,
    /// A path that answers 2xx once an instance is ready; `None` for ready
    /// when it listens.
    pub health: Option<String>,
    /// Whether to run as the user that the image names, be it root.
    pub image_user: bool,
    /// Whether an instance may write to its root, within a bound that the
    /// engine must be able to keep.
    #[serde(default)]
    pub read_write: bool,
    /// The port on which the image answers; `None` for the one that it
    /// exposes, or 8080.
    #[serde(default)]
    pub port: Option<u16>,
}

/// What kind of code an artifact is; read from its first bytes, never from a
/// name or a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    /// A core WebAssembly module, binary.
    WasmModule,
    /// A WebAssembly component, binary.
    WasmComponent,
    /// WebAssembly text (`.wat`), module or component.
    WasmText,
    /// A JSON model for the simulated executor.
    SimulatedModel,
    /// A folder of code for a runtime: a tar archive that begins with
    /// [`ArtifactKind::SOURCE_MARKER`].
    SourceArchive,
    /// A container image as `docker save` writes it: any other tar archive.
    ImageArchive,
    /// No artifact, but an image by its name.
    ImageName,
}

impl ArtifactKind {
    /// Bytes that [`ArtifactKind::sniff`] wants to see, if there are so many.
    pub const SNIFF_BYTES: usize = 512;

    /// Name of the first entry of a source archive.
    pub const SOURCE_MARKER: &str = ".weir-source";

    /// Name of the executor that runs such code.
    pub fn executor(self) -> &'static str {
        match self {
            ArtifactKind::WasmModule | ArtifactKind::WasmComponent | ArtifactKind::WasmText => {
                "wasm"
            }
            ArtifactKind::SimulatedModel => "simulated",
            ArtifactKind::SourceArchive | ArtifactKind::ImageArchive | ArtifactKind::ImageName => {
                "docker"
            }
        }
    }

    /// Reads the kind from an artifact's first bytes; `None` when it is none
    /// that Weir knows.
    pub fn sniff(head: &[u8]) -> Option<Self> {
        // Preamble: magic, 16-bit version, 16-bit layer (0 module, 1 component).
        if let Some(rest) = head.strip_prefix(b"\0asm") {
            return match rest.get(2..4)? {
                [0, 0] => Some(ArtifactKind::WasmModule),
                [1, 0] => Some(ArtifactKind::WasmComponent),
                _ => None,
            };
        }
        // A tar archive has its magic behind the fields of the first entry.
        if head.get(257..262) == Some(b"ustar") {
            let name = head[..100].split(|byte| *byte == 0).next();
            return Some(match name == Some(Self::SOURCE_MARKER.as_bytes()) {
                true => ArtifactKind::SourceArchive,
                false => ArtifactKind::ImageArchive,
            });
        }
        match head.trim_ascii_start() {
            [b'{', ..] => Some(ArtifactKind::SimulatedModel),
            [b'(', ..] | [b';', b';', ..] => Some(ArtifactKind::WasmText),
            _ => None,
        }
    }
}

/// Fields of a deployment that Weir stores to show again and does not act on.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsDeployed {
    /// The command of an OpenFaaS watchdog.
    pub env_process: Option<String>,
    /// Placement constraints.
    pub constraints: Vec<String>,
    /// Limits as written, by resource.
    pub limits: BTreeMap<String, String>,
    /// Requests as written, by resource.
    pub requests: BTreeMap<String, String>,
    /// Whether a read-only root was asked for.
    pub read_only_root_filesystem: bool,
}

/// Who knows of a function.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The node that it is deployed to.
    #[default]
    Node,
    /// All nodes of that node's zone, or of its region.
    Zone,
    /// All nodes.
    Federation,
}

impl Scope {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Node => "node",
            Scope::Zone => "zone",
            Scope::Federation => "federation",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        match text.trim() {
            "node" => Ok(Scope::Node),
            "zone" => Ok(Scope::Zone),
            "federation" => Ok(Scope::Federation),
            other => Err(WordError {
                given: other.to_owned(),
                allowed: "node, zone or federation",
            }),
        }
    }
}

/// A function as it was deployed: everything an executor and admission need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// Name and tenant.
    pub name: FunctionName,
    /// Where the code is.
    pub code: CodeSource,
    /// What it is.
    pub kind: ArtifactKind,
    /// How the code is spoken to.
    pub protocol: Protocol,
    /// Limit of memory: of each call (wasm) or each instance (containers).
    pub memory: Memory,
    /// Share of processors that a running call holds and may not exceed.
    /// `None`: a call is accounted as [`FunctionSpec::UNDECLARED_CPU`] and
    /// uses what is free.
    pub cpu: Option<Cpu>,
    /// Longest run of one call, wall clock.
    pub timeout: Duration,
    /// Calls that one instance may run at once; `None` for the executor's default.
    pub concurrency: Option<u32>,
    /// Instances kept warm even when nobody calls.
    pub min: u32,
    /// Most instances at once (wasm: most calls at once); `None` for no bound
    /// but the node's.
    pub max: Option<u32>,
    /// How long an idle instance stays warm; zero makes every call cold.
    pub keep_alive: Duration,
    /// Whether a call may be run again after it may have started.
    pub idempotent: bool,
    /// Environment of the code.
    pub env: BTreeMap<String, String>,
    /// Labels, shown and matched, never interpreted beyond OpenFaaS's own.
    pub labels: BTreeMap<String, String>,
    /// Annotations other than `weir.*`.
    pub annotations: BTreeMap<String, String>,
    /// Secrets that the code may read, from the same namespace.
    pub secrets: Vec<SecretName>,
    /// Where the code may connect to; empty means nowhere.
    pub allow_outbound: Vec<Outbound>,
    /// QoS classes that callers may name; the first is the default. Empty: the
    /// node's default class only.
    pub classes: Vec<String>,
    /// What only functions in containers have.
    #[serde(default)]
    pub container: ContainerSpec,
    /// Who knows of it.
    #[serde(default)]
    pub scope: Scope,
    /// Members that keep its code, the one that it was deployed to included.
    #[serde(default = "usual_copies")]
    pub copies: u8,
    /// Whether all who can run it bring it to them at once.
    #[serde(default)]
    pub prefetch: bool,
    /// How its asynchronous calls are kept.
    #[serde(default)]
    pub durability: Durability,
    /// By which rule idle instances stay; `None` for the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeping: Option<Keeping>,
    /// Kept to be shown.
    pub as_deployed: AsDeployed,
}

fn usual_copies() -> u8 {
    FunctionSpec::USUAL_COPIES
}

/// How the asynchronous calls of a function are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durability {
    /// Members beside the accepting one that keep each call before it is
    /// accepted, at most [`FunctionSpec::MOST_DURABLE`].
    pub copies: u8,
    /// Whether a call is accepted though fewer members keep it.
    pub best_effort: bool,
}

/// DFaaS's label of how often a node may run a function in a second.
pub const MAX_RATE_LABEL: &str = "dfaas.maxrate";

impl FunctionSpec {
    /// Memory of a function that names none.
    pub const DEFAULT_MEMORY: Memory = Memory::mebibytes(64);
    /// Members that keep its code unless somebody says how many.
    pub const USUAL_COPIES: u8 = 2;

    /// Members that may be asked to.
    pub const MOST_COPIES: u8 = 16;

    /// Members beside the accepting one that may be asked to keep a call.
    pub const MOST_DURABLE: u8 = 2;

    /// Run time of a function that names none.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
    /// Keep-alive of a function that names none: 10 minutes, as public clouds
    /// are measured to do.
    pub const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(600);
    /// What a call holds of the processors when its function names no share:
    /// a tenth of a core, so that calls which wait for their client or for
    /// others do not fill the node.
    pub const UNDECLARED_CPU: Cpu = Cpu::millicores(100);

    /// Longest duration that a function may name: a century. Longer ones are
    /// taken for it, so that no sum of a few of them overflows.
    pub const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3_600);

    /// Most instances, and calls of an instance, that a function may name; more
    /// than any machine has.
    pub const MOST_CALLS: u32 = 10_000_000;

    /// The same with durations and counts no greater than a node reckons with.
    /// What nobody means is no mistake here: whether a node runs the function is
    /// judged by that node's own bounds.
    #[must_use]
    pub fn clamped(mut self) -> FunctionSpec {
        let within = |count: u32| count.min(Self::MOST_CALLS);
        self.timeout = self.timeout.min(Self::LONGEST);
        self.keep_alive = self.keep_alive.min(Self::LONGEST);
        self.concurrency = self.concurrency.map(within);
        self.min = within(self.min);
        self.max = self.max.map(within);
        self.copies = self.copies.min(Self::MOST_COPIES);
        self.durability.copies = self.durability.copies.min(Self::MOST_DURABLE);
        self
    }

    /// Calls in a second that one node may run of it, by DFaaS's label; more
    /// are for others, or refused. `None` without that label.
    pub fn max_rate(&self) -> Option<u32> {
        self.labels.get(MAX_RATE_LABEL)?.trim().parse().ok()
    }

    /// A function with nothing but defaults.
    pub fn new(
        name: FunctionName,
        code: impl Into<CodeSource>,
        kind: ArtifactKind,
        protocol: Protocol,
    ) -> Self {
        FunctionSpec {
            name,
            code: code.into(),
            kind,
            protocol,
            memory: Self::DEFAULT_MEMORY,
            cpu: None,
            timeout: Self::DEFAULT_TIMEOUT,
            concurrency: None,
            min: 0,
            max: None,
            keep_alive: Self::DEFAULT_KEEP_ALIVE,
            idempotent: false,
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            secrets: Vec::new(),
            allow_outbound: Vec::new(),
            classes: Vec::new(),
            container: ContainerSpec::default(),
            scope: Scope::default(),
            copies: Self::USUAL_COPIES,
            prefetch: false,
            durability: Durability::default(),
            keeping: None,
            as_deployed: AsDeployed::default(),
        }
    }

    /// Processor share and memory in one.
    pub fn needs(&self) -> Resources {
        Resources {
            cpu: self.cpu.unwrap_or(Self::UNDECLARED_CPU),
            memory: self.memory,
        }
    }
}

#[cfg(test)]
mod tests;
