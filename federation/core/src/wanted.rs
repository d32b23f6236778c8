//! What a function wants of the node that runs it, read from how it was
//! deployed.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::function::{FunctionSpec, Network, Scope};

use crate::catalogue::Entry;
use crate::policy::{Bounds, Needs};
use crate::snapshot::Cost;

/// Constraints that name a processor: Kubernetes' and Swarm's.
const ARCHITECTURE: [&str; 2] = ["kubernetes.io/arch", "node.platform.arch"];

/// How long code is expected to need on its way that nobody has measured: to
/// begin with, and for each megabyte.
const BRING_FIRST: Duration = Duration::from_millis(100);
const BRING_MEGABYTE: Duration = Duration::from_millis(200);

/// How long so many bytes of code are expected to need that nobody has measured.
pub fn bring_time(code_bytes: u64) -> Duration {
    let megabytes = u32::try_from(code_bytes >> 20).unwrap_or(u32::MAX);
    BRING_FIRST.saturating_add(BRING_MEGABYTE.saturating_mul(megabytes))
}

/// What a function wants of the node that runs it.
#[derive(Debug)]
pub struct Wanted {
    /// By its name; `None` for any.
    pub executor: Option<&'static str>,
    /// By the name that Rust has for it.
    architecture: Option<String>,
    labels: BTreeMap<String, String>,
    grants: bool,
    code_bytes: u64,
    /// Where it may run.
    pub bounds: Bounds,
    /// Version of its record; 0 for none.
    pub version: u64,
    /// Who deployed it.
    pub writer: Option<PeerId>,
    cpu: u32,
    /// Whether a call may be run again after it may have started.
    pub idempotent: bool,
}

/// What functions are constrained to that a machine has.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Its processor, by the name that Rust has for it.
    pub architecture: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted {
            executor: None,
            architecture: None,
            labels: BTreeMap::new(),
            grants: false,
            code_bytes: 0,
            bounds: Bounds::Node,
            version: 0,
            writer: None,
            cpu: 1,
            idempotent: false,
        }
    }
}

/// Whether a function asks for what its own node alone may give.
pub fn asks_for_grants(spec: &FunctionSpec) -> bool {
    let container = &spec.container;
    !spec.allow_outbound.is_empty()
        || container.network != Network::default()
        || container.read_write
        || container.image_user
}

impl Wanted {
    /// By how it was deployed, and what the federation knows of that.
    pub fn by(spec: &FunctionSpec, entry: Option<&Entry>) -> Wanted {
        let cpu = spec.cpu.unwrap_or(FunctionSpec::UNDECLARED_CPU);
        let cpu = match spec.kind.executor() {
            // A model has processors of its own.
            "simulated" => 1,
            _ => cpu.as_millicores().max(1),
        };
        let code = entry.and_then(|entry| entry.record.code);
        let mut wanted = Wanted {
            executor: Some(spec.kind.executor()),
            grants: asks_for_grants(spec),
            code_bytes: code.map_or(0, |code| code.bytes),
            bounds: match spec.scope {
                Scope::Node => Bounds::Node,
                Scope::Zone => Bounds::Zone,
                Scope::Federation => Bounds::Federation,
            },
            version: entry.map_or(0, |entry| entry.record.version),
            writer: entry.map(|entry| entry.writer),
            cpu,
            idempotent: spec.idempotent,
            ..Wanted::default()
        };
        for text in &spec.as_deployed.constraints {
            let Some((key, value)) = text.split_once('=') else {
                continue;
            };
            // OpenFaaS's own constraints are written `key == value`.
            let (key, value) = (key.trim(), value.trim_start_matches('=').trim());
            if ARCHITECTURE.contains(&key) {
                let name = match value {
                    "amd64" => "x86_64",
                    "arm64" => "aarch64",
                    other => other,
                };
                wanted.architecture = Some(name.to_owned());
            } else {
                wanted.labels.insert(key.to_owned(), value.to_owned());
            }
        }
        wanted
    }

    /// Whether a machine will do; whether an executor is
    /// here shows when the function is deployed.
    pub fn fits(&self, machine: &Machine<'_>) -> bool {
        let architecture = self.architecture.as_ref();
        architecture.is_none_or(|wanted| wanted == machine.architecture)
            && self
                .labels
                .iter()
                .all(|(k, v)| machine.labels.get(k) == Some(v))
    }

    /// What a node must have to run it.
    pub fn needs(&self) -> Needs<'_> {
        Needs {
            executor: self.executor,
            architecture: self.architecture.as_deref(),
            constraints: (!self.labels.is_empty()).then_some(&self.labels),
            grants: self.grants,
            code_bytes: self.code_bytes,
        }
    }

    /// What a machine lacks, in words; `None` when it has all.
    fn unmet(&self, machine: &Machine<'_>) -> Option<String> {
        let mut missing = self
            .labels
            .iter()
            .filter(|(k, v)| machine.labels.get(*k) != Some(*v));
        let label = missing.next().map(|(k, v)| format!("constraint {k}={v}"));
        let wanted = self.architecture.as_ref();
        let foreign = wanted.filter(|wanted| *wanted != machine.architecture);
        label.or_else(|| foreign.map(|name| format!("a processor {name}")))
    }

    /// What a call takes that is expected to run so long.
    pub fn cost(&self, service: Option<Duration>) -> Cost {
        Cost {
            cpu: self.cpu,
            long: service.is_some_and(|service| service > crate::snapshot::SHORT),
        }
    }
}

/// What a function is constrained to and a machine does not have, in words.
pub fn unmet(spec: &FunctionSpec, machine: &Machine<'_>) -> Option<String> {
    match spec.as_deployed.constraints.is_empty() {
        true => None,
        false => Wanted::by(spec, None).unmet(machine),
    }
}
