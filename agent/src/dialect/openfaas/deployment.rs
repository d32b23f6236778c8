//! How OpenFaaS writes a function down, and how that becomes a
//! [`FunctionSpec`] and back.

mod timeouts;

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Deserialize;
use serde_json::{Value, json};
use weir_node::function::{ArtifactKind, AsDeployed, CodeSource, FunctionSpec, Protocol, Scope};
use weir_node::id::{FunctionName, Namespace};
use weir_node::node::{FunctionState, FunctionStatus};

use self::timeouts::{dfaas, watchdog};
use crate::deployment::options::{self, CHECK, OPTIONS, Way, Within, flag};
use crate::setting::suggestion;

type Texts = BTreeMap<String, String>;

/// What a client wants deployed. Fields that may be null may be absent too;
/// fields that Weir does not know are ignored, as the original does.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct FunctionDeployment {
    service: String,
    image: String,
    namespace: Option<String>,
    env_process: Option<String>,
    env_vars: Option<Texts>,
    constraints: Option<Vec<String>>,
    secrets: Option<Vec<String>>,
    labels: Option<Texts>,
    annotations: Option<Texts>,
    limits: Option<Texts>,
    requests: Option<Texts>,
    read_only_root_filesystem: Option<bool>,
}

/// What annotations of Weir's own begin with.
const PREFIX: &str = "weir.";
/// The one that says how long a call may take.
const TIMEOUT: &str = "weir.timeout";

/// What a status says beside them. Clients that deploy what they were shown
/// send them back.
const STATE: &str = "weir.state";
const VERSION: &str = "weir.version";
const NEXT_STATE: &str = "weir.next-state";
const NEXT_VERSION: &str = "weir.next-version";
const PREVIOUS_VERSION: &str = "weir.previous-version";

const SCALE_MIN: &str = "com.openfaas.scale.min";
const SCALE_MAX: &str = "com.openfaas.scale.max";
const SCALE_ZERO: &str = "com.openfaas.scale.zero";

/// Mistakes of a deployment, all of them.
#[derive(Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    /// The value, or a note of what is wrong with `what`.
    fn take<T, E: Display>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.0.push(format!("{what}: {error}")))
            .ok()
    }

    /// Puts `text` into `spec` if it is an option's at this place; whether it is.
    fn set(&mut self, spec: &mut FunctionSpec, within: Within, name: &str, text: &str) -> bool {
        let found = OPTIONS.iter().find_map(|option| match &option.way {
            Way::Text { place, read, .. } => {
                (place.within == within && place.name == name).then_some((place, read))
            }
            Way::Field { .. } => None,
        });
        let Some((place, read)) = found else {
            return false;
        };
        if let Err(wrong) = read(spec, text) {
            let each = wrong.lines();
            self.0
                .extend(each.map(|mistake| format!("{place}: {mistake}")));
        }
        true
    }
}

impl FunctionDeployment {
    /// Where its code is.
    pub(super) fn code(&self) -> Result<CodeSource, String> {
        if self.image.is_empty() {
            return Err(
                "image is missing: name a container image, or upload an artifact (PUT \
                 /weir/v1/artifacts/HEX) and write its digest, sha256:HEX"
                    .to_owned(),
            );
        }
        self.image
            .parse()
            .map_err(|error| format!("image: {error}"))
    }

    /// Whether an instance is started before the function counts as ready.
    pub(super) fn check(&self) -> Result<bool, String> {
        let annotations = self.annotations.as_ref();
        let text = annotations.and_then(|annotations| annotations.get(CHECK));
        text.map_or(Ok(true), |text| flag(text))
            .map_err(|error| format!("{CHECK}: {error}"))
    }

    /// The function that it describes, or every mistake in it. `kind` is what
    /// the artifact is, when that is known.
    pub(super) fn into_spec(
        self,
        code: CodeSource,
        kind: Option<ArtifactKind>,
    ) -> Result<FunctionSpec, String> {
        let mut mistakes = Mistakes::default();
        let namespace = match self.namespace.as_deref() {
            None | Some("") => Some(Namespace::default()),
            Some(name) => mistakes.take("namespace", name.parse()),
        };
        let name = FunctionName::new(&self.service, namespace.unwrap_or_default());
        let name = mistakes.take("service", name);
        // An artifact that is missing, or of no known kind, is refused by the
        // node in its own words, whatever stands here.
        let kind = kind.unwrap_or(ArtifactKind::WasmModule);
        let name = name.unwrap_or_else(|| {
            FunctionName::new("invalid", Namespace::default()).expect("a plain word")
        });
        let mut spec = FunctionSpec::new(name, code, kind, usual_protocol(kind));
        spec.scope = Scope::Federation;
        let annotations = self.annotations.unwrap_or_default();
        let timed = annotations.contains_key(TIMEOUT);
        settings(&mut spec, annotations, &mut mistakes);
        spec.labels = self.labels.unwrap_or_default();
        spec.env = self.env_vars.unwrap_or_default();
        if !timed {
            watchdog(&mut spec, &mut mistakes);
        }
        dfaas(&mut spec, timed, &mut mistakes);
        labels(&mut spec, &mut mistakes);
        let limits = self.limits.unwrap_or_default();
        let requests = self.requests.unwrap_or_default();
        let quantity = |name: &str| {
            let named = |map: &Texts| map.get(name).filter(|text| !text.is_empty()).cloned();
            named(&limits).or_else(|| named(&requests))
        };
        for name in ["memory", "cpu"] {
            if let Some(text) = quantity(name) {
                mistakes.set(&mut spec, Within::Limits, name, &text);
            }
        }
        for secret in self.secrets.unwrap_or_default() {
            spec.secrets
                .extend(mistakes.take("secrets", secret.parse()));
        }
        spec.as_deployed = AsDeployed {
            env_process: self.env_process.filter(|process| !process.is_empty()),
            constraints: self.constraints.unwrap_or_default(),
            limits,
            requests,
            read_only_root_filesystem: self.read_only_root_filesystem.unwrap_or(false),
        };
        if mistakes.0.is_empty() {
            Ok(spec)
        } else {
            Err(mistakes.0.join("\n"))
        }
    }
}

/// How code is spoken to when nobody says.
fn usual_protocol(kind: ArtifactKind) -> Protocol {
    match kind {
        ArtifactKind::WasmModule | ArtifactKind::WasmText | ArtifactKind::SimulatedModel => {
            Protocol::Stdio
        }
        ArtifactKind::WasmComponent
        | ArtifactKind::SourceArchive
        | ArtifactKind::ImageArchive
        | ArtifactKind::ImageName => Protocol::Http,
    }
}

/// Puts Weir's own annotations into `spec`, and keeps the others in it.
fn settings(spec: &mut FunctionSpec, annotations: Texts, mistakes: &mut Mistakes) {
    for (key, text) in annotations {
        if mistakes.set(spec, Within::Annotations, &key, &text) {
            continue;
        }
        match key.as_str() {
            STATE | VERSION | NEXT_STATE | NEXT_VERSION | PREVIOUS_VERSION => {}
            other if other.starts_with(PREFIX) => {
                let hint = suggestion(other, options::annotations());
                mistakes.0.push(format!(
                    "annotations: {other} is not a setting of Weir{hint}"
                ));
            }
            _ => {
                spec.annotations.insert(key, text);
            }
        }
    }
}

/// Puts OpenFaaS's labels for scaling, and Weir's own, into `spec`.
fn labels(spec: &mut FunctionSpec, mistakes: &mut Mistakes) {
    for (name, text) in spec.labels.clone() {
        mistakes.set(spec, Within::Labels, &name, &text);
    }
    let zero = spec.labels.get(SCALE_ZERO);
    let zero = zero.and_then(|text| mistakes.take(SCALE_ZERO, flag(text)));
    // May it go away when nobody calls? Then nothing is kept warm.
    spec.min = match zero {
        Some(true) => 0,
        Some(false) => spec.min.max(1),
        None => spec.min,
    };
    if spec.max.is_some_and(|max| max > 0 && max < spec.min) {
        mistakes.0.push(format!("{SCALE_MAX} is below {SCALE_MIN}"));
    }
}

fn state(state: &FunctionState) -> String {
    match state {
        FunctionState::Preparing => "preparing".to_owned(),
        FunctionState::Waiting(reason) => format!("waiting: {reason}"),
        FunctionState::Ready => "ready".to_owned(),
        FunctionState::Failed(reason) => format!("failed: {reason}"),
    }
}

/// A function as clients are shown it; `usage` adds what its calls hold now.
pub(super) fn status(function: &FunctionStatus, usage: bool) -> Value {
    let spec = &*function.spec;
    let as_deployed = &spec.as_deployed;
    let mut annotations = spec.annotations.clone();
    annotations.extend(shown_settings(spec));
    annotations.insert(STATE.to_owned(), state(&function.state));
    annotations.insert(VERSION.to_owned(), function.version.to_string());
    if let Some(next) = &function.next {
        annotations.insert(NEXT_STATE.to_owned(), state(&next.state));
        annotations.insert(NEXT_VERSION.to_owned(), next.version.to_string());
    }
    if let Some(previous) = function.previous {
        annotations.insert(PREVIOUS_VERSION.to_owned(), previous.to_string());
    }
    let mut shown = json!({
        "name": spec.name.name(),
        "namespace": spec.name.namespace,
        "image": spec.code,
        "envProcess": as_deployed.env_process.as_deref().unwrap_or_default(),
        "envVars": spec.env,
        "constraints": as_deployed.constraints,
        "secrets": spec.secrets,
        "labels": spec.labels,
        "annotations": annotations,
        "readOnlyRootFilesystem": as_deployed.read_only_root_filesystem,
        "invocationCount": function.invocations,
        "replicas": function.replicas,
        "availableReplicas": available(function),
        "createdAt": function.created_at,
    });
    // Clients print an empty object as a line without a value.
    for (key, map) in [
        ("limits", &as_deployed.limits),
        ("requests", &as_deployed.requests),
    ] {
        if !map.is_empty() {
            shown[key] = json!(map);
        }
    }
    if usage {
        let needs = spec.needs();
        shown["usage"] = json!({
            "cpu": u64::from(function.call_cpu.as_millicores()) * u64::from(function.running),
            "cpuPerCall": function.call_cpu.as_millicores(),
            "totalMemoryBytes": needs.memory.as_bytes().saturating_mul(function.running.into()),
        });
    }
    shown
}

/// Replicas that can take a call at once, which clients wait for. Code that
/// starts with its call is one, though nothing of it is loaded.
fn available(function: &FunctionStatus) -> u32 {
    let at_once = match function.spec.kind {
        ArtifactKind::WasmModule
        | ArtifactKind::WasmComponent
        | ArtifactKind::WasmText
        | ArtifactKind::SimulatedModel => function.state == FunctionState::Ready,
        ArtifactKind::SourceArchive | ArtifactKind::ImageArchive | ArtifactKind::ImageName => false,
    };
    function.available_replicas.max(at_once.into())
}

/// Weir's own settings of a function as annotations.
fn shown_settings(spec: &FunctionSpec) -> impl Iterator<Item = (String, String)> {
    OPTIONS.iter().filter_map(|option| match &option.way {
        Way::Text { place, show, .. } if place.within == Within::Annotations => {
            Some((place.name.to_owned(), show(spec)?))
        }
        Way::Text { .. } | Way::Field { .. } => None,
    })
}

#[cfg(test)]
mod tests;
