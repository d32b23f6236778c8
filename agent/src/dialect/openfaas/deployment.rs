//! How OpenFaaS writes a function down, and how that becomes a
//! [`FunctionSpec`] and back.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use weir_node::function::{
    ArtifactKind, AsDeployed, CodeSource, FunctionSpec, MAX_RATE_LABEL, Protocol, Scope,
};
use weir_node::id::{FunctionName, Namespace};
use weir_node::node::{FunctionState, FunctionStatus};
use weir_node::resources::Memory;

use crate::setting::{Port, suggestion};

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

/// Weir's own settings, which travel as annotations.
const PREFIX: &str = "weir.";
const PROTOCOL: &str = "weir.protocol";
const TIMEOUT: &str = "weir.timeout";
/// Timeouts of a watchdog in the environment, the first of which counts.
const WATCHDOG_TIMEOUTS: [&str; 3] = ["exec_timeout", "write_timeout", "read_timeout"];
/// DFaaS's label of a timeout, in milliseconds.
const TIMEOUT_LABEL: &str = "dfaas.timeout_ms";
const CONCURRENCY: &str = "weir.concurrency";
const KEEP_ALIVE: &str = "weir.keep-alive";
const IDEMPOTENT: &str = "weir.idempotent";
const ALLOW_OUTBOUND: &str = "weir.allow-outbound";
const QOS: &str = "weir.qos";
const RUNTIME: &str = "weir.runtime";
const HANDLER: &str = "weir.handler";
const IMAGE: &str = "weir.image";
const PULL: &str = "weir.pull";
const NETWORK: &str = "weir.network";
const HEALTH: &str = "weir.health";
const PORT: &str = "weir.port";
const IMAGE_USER: &str = "weir.image-user";
const READ_WRITE: &str = "weir.read-write";
const SCOPE: &str = "weir.scope";
const COPIES: &str = "weir.replicas";
const PREFETCH: &str = "weir.prefetch";
const DURABLE: &str = "weir.durable";
const DURABLE_BEST_EFFORT: &str = "weir.durable-best-effort";
const CHECK: &str = "weir.check";
const SETTINGS: [&str; 22] = [
    CHECK,
    PORT,
    DURABLE,
    DURABLE_BEST_EFFORT,
    SCOPE,
    COPIES,
    PREFETCH,
    PROTOCOL,
    TIMEOUT,
    CONCURRENCY,
    KEEP_ALIVE,
    IDEMPOTENT,
    ALLOW_OUTBOUND,
    QOS,
    RUNTIME,
    HANDLER,
    IMAGE,
    PULL,
    NETWORK,
    HEALTH,
    IMAGE_USER,
    READ_WRITE,
];

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
        scale(&mut spec, &mut mistakes);
        let limits = self.limits.unwrap_or_default();
        let requests = self.requests.unwrap_or_default();
        let quantity = |name: &str| {
            let named = |map: &Texts| map.get(name).filter(|text| !text.is_empty()).cloned();
            named(&limits).or_else(|| named(&requests))
        };
        if let Some(text) = quantity("memory") {
            let memory = mistakes.take("limits.memory", memory(&text));
            spec.memory = memory.unwrap_or(spec.memory);
        }
        if let Some(text) = quantity("cpu") {
            spec.cpu = mistakes.take("limits.cpu", text.parse());
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
        match key.as_str() {
            PROTOCOL => {
                spec.protocol = mistakes
                    .take(PROTOCOL, text.parse())
                    .unwrap_or(spec.protocol);
            }
            TIMEOUT => {
                let timeout = mistakes.take(TIMEOUT, duration(&text));
                if timeout.is_some_and(|timeout| timeout.is_zero()) {
                    mistakes
                        .0
                        .push(format!("{TIMEOUT}: no call can end in no time"));
                }
                spec.timeout = timeout.unwrap_or(spec.timeout);
            }
            CONCURRENCY => {
                spec.concurrency = mistakes.take(CONCURRENCY, count(&text));
                if spec.concurrency == Some(0) {
                    mistakes.0.push(format!("{CONCURRENCY}: write 1 or more"));
                }
            }
            KEEP_ALIVE => {
                let keep_alive = mistakes.take(KEEP_ALIVE, duration(&text));
                spec.keep_alive = keep_alive.unwrap_or(spec.keep_alive);
            }
            IDEMPOTENT => {
                spec.idempotent = mistakes.take(IDEMPOTENT, flag(&text)).unwrap_or(false);
            }
            ALLOW_OUTBOUND => {
                for target in words(&text) {
                    spec.allow_outbound
                        .extend(mistakes.take(ALLOW_OUTBOUND, target.parse()));
                }
            }
            RUNTIME => spec.container.runtime = Some(text),
            HANDLER => spec.container.handler = Some(text),
            IMAGE => spec.container.image = mistakes.take(IMAGE, text.parse()),
            PULL => spec.container.pull = mistakes.take(PULL, text.parse()).unwrap_or_default(),
            NETWORK => {
                spec.container.network = mistakes.take(NETWORK, text.parse()).unwrap_or_default();
            }
            HEALTH => {
                if !text.starts_with('/') {
                    mistakes
                        .0
                        .push(format!("{HEALTH}: write a path, as /_/health"));
                }
                spec.container.health = Some(text);
            }
            PORT => spec.container.port = mistakes.take(PORT, port(&text)),
            IMAGE_USER => {
                spec.container.image_user = mistakes.take(IMAGE_USER, flag(&text)).unwrap_or(false);
            }
            READ_WRITE => {
                spec.container.read_write = mistakes.take(READ_WRITE, flag(&text)).unwrap_or(false);
            }
            COPIES => spec.copies = mistakes.take(COPIES, copies(&text)).unwrap_or(spec.copies),
            PREFETCH => spec.prefetch = mistakes.take(PREFETCH, flag(&text)).unwrap_or(false),
            DURABLE => {
                spec.durability.copies = mistakes.take(DURABLE, durable(&text)).unwrap_or(0);
            }
            DURABLE_BEST_EFFORT => {
                let flag = mistakes.take(DURABLE_BEST_EFFORT, flag(&text));
                spec.durability.best_effort = flag.unwrap_or(false);
            }
            SCOPE => spec.scope = mistakes.take(SCOPE, text.parse()).unwrap_or(spec.scope),
            QOS => spec.classes = words(&text).map(str::to_owned).collect(),
            STATE | VERSION | NEXT_STATE | NEXT_VERSION | PREVIOUS_VERSION => {}
            // It is about this deployment, and not the function's.
            CHECK => {}
            other if other.starts_with(PREFIX) => {
                let hint = suggestion(other, SETTINGS.into_iter());
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

/// Reads the timeouts of a watchdog, so that a call may take as long as its
/// code was given. One of zero sets no limit there, and none here.
fn watchdog(spec: &mut FunctionSpec, mistakes: &mut Mistakes) {
    for name in WATCHDOG_TIMEOUTS {
        let Some(text) = spec.env.get(name) else {
            continue;
        };
        match go_duration(text) {
            Some(Duration::ZERO) => {}
            Some(timeout) => {
                spec.timeout = timeout;
                return;
            }
            // The others are names that any program may have for something else.
            None if name == WATCHDOG_TIMEOUTS[0] => mistakes.0.push(format!(
                "envVars: {name}: {text:?} is not a duration: write 30s, 200ms or 1m30s"
            )),
            None => {}
        }
    }
}

/// A duration as Go writes it (`1h2m3.5s`), or whole seconds without a unit,
/// as watchdogs read them.
fn go_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// Reads DFaaS's labels; Weir's own setting of a timeout comes first.
fn dfaas(spec: &mut FunctionSpec, timed: bool, mistakes: &mut Mistakes) {
    if let Some(text) = spec.labels.get(MAX_RATE_LABEL) {
        mistakes.take(MAX_RATE_LABEL, count(text));
    }
    if let Some(text) = spec.labels.get(TIMEOUT_LABEL) {
        match mistakes.take(TIMEOUT_LABEL, count(text)) {
            Some(0) => mistakes
                .0
                .push(format!("{TIMEOUT_LABEL}: no call can end in no time")),
            Some(milliseconds) if !timed => {
                spec.timeout = Duration::from_millis(milliseconds.into());
            }
            Some(_) | None => {}
        }
    }
}

/// Puts OpenFaaS's labels for scaling into `spec`.
fn scale(spec: &mut FunctionSpec, mistakes: &mut Mistakes) {
    let label = |name: &str| spec.labels.get(name).map(String::as_str);
    let min = label(SCALE_MIN).and_then(|text| mistakes.take(SCALE_MIN, count(text)));
    let max = label(SCALE_MAX).and_then(|text| mistakes.take(SCALE_MAX, count(text)));
    let zero = label(SCALE_ZERO).and_then(|text| mistakes.take(SCALE_ZERO, flag(text)));
    if max == Some(0) {
        mistakes
            .0
            .push(format!("{SCALE_MAX}: 0 would run nothing: write 1 or more"));
    }
    spec.max = max;
    // May it go away when nobody calls? Then nothing is kept warm.
    spec.min = match zero {
        Some(true) => 0,
        Some(false) => min.unwrap_or(0).max(1),
        None => min.unwrap_or(0),
    };
    if max.is_some_and(|max| max > 0 && max < spec.min) {
        mistakes.0.push(format!("{SCALE_MAX} is below {SCALE_MIN}"));
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ']).filter(|word| !word.is_empty())
}

fn count(text: &str) -> Result<u32, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("{text:?} is not a whole number"))
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map(|Port(port)| port.get())
}

fn flag(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| format!("{text:?} is not a duration: write 30s, 200ms or 1m30s"))
}

/// A Kubernetes quantity of bytes; beside Weir's units it knows `T` and `Ti`.
fn memory(text: &str) -> Result<Memory, weir_node::resources::QuantityError> {
    let larger = [("Ti", "Gi", 1024), ("T", "G", 1000)];
    for (unit, smaller, times) in larger {
        if let Some(digits) = text.strip_suffix(unit) {
            let memory: Memory = format!("{digits}{smaller}").parse()?;
            return Ok(Memory::bytes(memory.as_bytes().saturating_mul(times)));
        }
    }
    text.parse()
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

fn copies(text: &str) -> Result<u8, String> {
    let most = FunctionSpec::MOST_COPIES;
    let count = text.parse().ok().filter(|count| (1..=most).contains(count));
    count.ok_or_else(|| format!("write how many members keep the code, 1 to {most}"))
}

fn durable(text: &str) -> Result<u8, String> {
    let most = FunctionSpec::MOST_DURABLE;
    let count = text.parse().ok().filter(|count| *count <= most);
    count.ok_or_else(|| format!("write how many peers keep each asynchronous call, 0 to {most}"))
}

/// A setting as text, unless it is what nobody asked for.
fn unusual<T: Default + PartialEq + ToString>(value: T) -> Option<String> {
    (value != T::default()).then(|| value.to_string())
}

/// Weir's own settings of a function as annotations.
fn shown_settings(spec: &FunctionSpec) -> impl Iterator<Item = (String, String)> {
    let time = |duration| {
        humantime::format_duration(duration)
            .to_string()
            .replace(' ', "")
    };
    let list = |words: Vec<String>| (!words.is_empty()).then(|| words.join(","));
    let outbound = spec
        .allow_outbound
        .iter()
        .map(ToString::to_string)
        .collect();
    let container = &spec.container;
    let settings = [
        (PROTOCOL, Some(spec.protocol.to_string())),
        (SCOPE, Some(spec.scope.to_string())),
        (
            COPIES,
            (spec.copies != FunctionSpec::USUAL_COPIES).then(|| spec.copies.to_string()),
        ),
        (PREFETCH, spec.prefetch.then(|| "true".to_owned())),
        (
            DURABLE,
            (spec.durability.copies > 0).then(|| spec.durability.copies.to_string()),
        ),
        (
            DURABLE_BEST_EFFORT,
            spec.durability.best_effort.then(|| "true".to_owned()),
        ),
        (TIMEOUT, Some(time(spec.timeout))),
        (KEEP_ALIVE, Some(time(spec.keep_alive))),
        (CONCURRENCY, spec.concurrency.map(|count| count.to_string())),
        (IDEMPOTENT, spec.idempotent.then(|| "true".to_owned())),
        (ALLOW_OUTBOUND, list(outbound)),
        (QOS, list(spec.classes.clone())),
        (RUNTIME, container.runtime.clone()),
        (HANDLER, container.handler.clone()),
        (IMAGE, container.image.as_ref().map(ToString::to_string)),
        (PULL, unusual(container.pull)),
        (NETWORK, unusual(container.network)),
        (HEALTH, container.health.clone()),
        (PORT, container.port.map(|port| port.to_string())),
        (IMAGE_USER, container.image_user.then(|| "true".to_owned())),
        (READ_WRITE, container.read_write.then(|| "true".to_owned())),
    ];
    settings
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_node::id::Digest;
    use weir_node::resources::Cpu;

    use super::*;

    fn code() -> CodeSource {
        Digest::of(b"code").into()
    }

    fn spec(fields: Value) -> Result<FunctionSpec, String> {
        let mut body = json!({ "service": "f", "image": code() });
        let more = fields.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        let wanted: FunctionDeployment = serde_json::from_value(body).expect("JSON");
        let code = wanted.code()?;
        wanted.into_spec(code, Some(ArtifactKind::WasmModule))
    }

    #[test]
    fn deployment_with_nothing_but_a_name_has_the_defaults() {
        let plain = spec(json!({ "labels": null, "annotations": null })).expect("valid");
        let name = "f".parse().expect("valid");
        let expected = FunctionSpec {
            scope: Scope::Federation,
            ..FunctionSpec::new(name, code(), ArtifactKind::WasmModule, Protocol::Stdio)
        };
        assert_eq!(plain, expected);
    }

    #[test]
    fn annotations_of_ours_become_settings_and_others_stay() {
        let spec = spec(json!({ "annotations": {
            "weir.protocol": "cgi",
            "weir.timeout": "1m30s",
            "weir.concurrency": "4",
            "weir.keep-alive": "0s",
            "weir.idempotent": "true",
            "weir.allow-outbound": "a.example:443, b.example:80",
            "weir.qos": "fast,slow",
            "weir.state": "ready",
            "topic": "x",
        }}))
        .expect("valid");
        assert_eq!(spec.protocol, Protocol::Cgi);
        assert_eq!(
            (spec.timeout, spec.keep_alive),
            (Duration::from_secs(90), Duration::ZERO)
        );
        assert_eq!((spec.concurrency, spec.idempotent), (Some(4), true));
        assert_eq!(spec.allow_outbound.len(), 2);
        assert_eq!(spec.classes, ["fast", "slow"]);
        assert_eq!(spec.annotations.keys().collect::<Vec<_>>(), ["topic"]);
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mistakes = spec(json!({
            "service": "a/b",
            "annotations": { "weir.timout": "1s", "weir.protocol": "smtp", "weir.timeout": "0s" },
            "labels": { "com.openfaas.scale.min": "x", "com.openfaas.scale.max": "0" },
            "limits": { "memory": "lots", "cpu": "-1" },
            "secrets": [".."],
        }))
        .expect_err("mistakes");
        for expected in [
            "service: ",
            "weir.timout is not a setting of Weir; did you mean weir.timeout?",
            "weir.protocol: \"smtp\"",
            "weir.timeout: no call",
            "com.openfaas.scale.min: \"x\"",
            "com.openfaas.scale.max: 0",
            "limits.memory: \"lots\"",
            "limits.cpu: \"-1\"",
            "secrets: ",
        ] {
            assert!(mistakes.contains(expected), "{expected:?} in\n{mistakes}");
        }
    }

    #[test]
    fn image_is_a_container_image_or_a_digest() {
        let spec_of = |image: &str| spec(json!({ "image": image }));
        let image = spec_of("docker.io/a/b:latest").expect("an image");
        assert_eq!(image.code.artifact(), None);
        let mistake = spec_of("Not An Image").expect_err("no image");
        assert!(mistake.contains("REPOSITORY[:TAG]"), "{mistake}");
        let mistake = spec(json!({ "image": "sha256:12" })).expect_err("half a digest");
        assert!(mistake.contains("not a digest"), "{mistake}");
        assert!(spec(json!({ "image": "" })).is_err());
    }

    #[test]
    fn labels_say_how_many_instances() {
        let check = |labels: Value, expected: Option<(u32, Option<u32>)>| {
            let spec = spec(json!({ "labels": labels }));
            assert_eq!(spec.ok().map(|spec| (spec.min, spec.max)), expected);
        };
        check(
            json!({ SCALE_MIN: "2", SCALE_MAX: "5" }),
            Some((2, Some(5))),
        );
        check(
            json!({ SCALE_MIN: "2", SCALE_ZERO: "true" }),
            Some((0, None)),
        );
        check(json!({ SCALE_ZERO: "false" }), Some((1, None)));
        check(json!({ SCALE_MIN: "5", SCALE_MAX: "2" }), None);
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        let check = |limits: Value, requests: Value| {
            let spec = spec(json!({ "limits": limits, "requests": requests })).expect("valid");
            (spec.memory, spec.cpu)
        };
        let (memory, cpu) = check(json!({ "memory": "64Mi", "cpu": "100m" }), json!({}));
        assert_eq!(
            (memory, cpu),
            (Memory::mebibytes(64), Some(Cpu::millicores(100)))
        );
        let (memory, cpu) = check(
            json!({ "memory": "1Ti" }),
            json!({ "memory": "1", "cpu": "2" }),
        );
        assert_eq!((memory, cpu), (Memory::bytes(1 << 40), Some(Cpu::cores(2))));
    }

    #[test]
    fn timeouts_of_a_watchdog_bound_the_call_unless_ours_does() {
        let check = |env: Value, annotations: Value, expected: Option<u64>| {
            let spec = spec(json!({ "envVars": env, "annotations": annotations }));
            let timeout = spec.as_ref().map(|spec| spec.timeout).ok();
            assert_eq!(timeout, expected.map(Duration::from_millis), "{env}");
        };
        let none = || json!({});
        check(json!({ "exec_timeout": "60s" }), none(), Some(60_000));
        check(json!({ "exec_timeout": "90" }), none(), Some(90_000));
        check(
            json!({ "exec_timeout": "1h2m3.5s" }),
            none(),
            Some(3_723_500),
        );
        check(
            json!({ "exec_timeout": "1m", "write_timeout": "2m" }),
            none(),
            Some(60_000),
        );
        check(
            json!({ "write_timeout": "2m", "read_timeout": "3m" }),
            none(),
            Some(120_000),
        );
        check(json!({ "read_timeout": "250ms" }), none(), Some(250));
        check(
            json!({ "exec_timeout": "0", "write_timeout": "45s" }),
            none(),
            Some(45_000),
        );
        check(
            json!({ "exec_timeout": "0s", "read_timeout": "never" }),
            none(),
            Some(30_000),
        );
        check(
            json!({ "exec_timeout": "60s" }),
            json!({ "weir.timeout": "5s" }),
            Some(5_000),
        );
        for wrong in ["1 minute", "", "s", "-1s", "1.2.3s", "5d"] {
            check(json!({ "exec_timeout": wrong }), none(), None);
        }
        let label = spec(json!({ "envVars": { "exec_timeout": "60s" },
            "labels": { TIMEOUT_LABEL: "700" } }));
        assert_eq!(label.expect("valid").timeout, Duration::from_millis(700));
    }

    fn shown(spec: FunctionSpec) -> Value {
        let function = FunctionStatus {
            spec: Arc::new(spec),
            version: 3,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            state: FunctionState::Failed("no memory".to_owned()),
            next: None,
            previous: None,
            invocations: 0,
            replicas: 1,
            available_replicas: 0,
            call_cpu: Cpu::millicores(100),
            running: 2,
            waiting: 0,
            cpu: Duration::ZERO,
        };
        status(&function, true)
    }

    #[test]
    fn status_shows_what_was_deployed_and_how_it_stands() {
        let spec = spec(json!({
            "annotations": { "weir.timeout": "1m30s", "topic": "x" },
            "limits": { "memory": "64Mi", "cpu": "100m" },
        }))
        .expect("valid");
        let shown = shown(spec);
        assert_eq!(shown["annotations"]["weir.timeout"], "1m30s");
        assert_eq!(shown["annotations"]["topic"], "x");
        assert_eq!(shown["annotations"]["weir.state"], "failed: no memory");
        assert_eq!(shown["annotations"]["weir.version"], "3");
        assert_eq!(shown["limits"]["memory"], "64Mi");
        assert_eq!(shown["invocationCount"], 0);
        assert_eq!(
            shown["usage"],
            json!({ "cpu": 200, "cpuPerCall": 100, "totalMemoryBytes": 128 << 20 })
        );
        assert_eq!(shown["createdAt"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_shown_can_be_deployed_again() {
        let first = spec(json!({
            "annotations": { "weir.qos": "fast", "weir.allow-outbound": "a.example:1",
                "weir.port": "3000" },
            "labels": { SCALE_MIN: "1" },
        }))
        .expect("valid");
        let again = spec(json!({
            "annotations": shown(first.clone())["annotations"],
            "labels": first.labels,
        }));
        assert_eq!(again, Ok(first));
    }
}
