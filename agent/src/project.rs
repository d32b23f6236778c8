//! Functions as they are to be deployed: from flags, from a project file
//! (`weir.toml`) or from an OpenFaaS `stack.yaml`; and what is sent for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use weir_node::function::{CodeSource, Network, Outbound, Protocol, Pull, Scope};
use weir_node::id::{DEFAULT_NAMESPACE, ImageName};
use weir_node::resources::{Cpu, Memory};

use crate::document::{self, Table, Tree, Value};
use crate::setting::{Field as _, Key, Mistake, Mistakes, Origin, Port, fill, plain, suggestion};

/// Largest project file that is read: a thousand functions with room to spare.
pub const PROJECT_BYTES: u64 = 4 << 20;

/// Where the code of a function is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// In a file, to be uploaded.
    File(PathBuf),
    /// In an archive or OCI layout of a container image, to be uploaded.
    Image(PathBuf),
    /// In a file or folder of source code, to be packed and uploaded.
    Source(PathBuf),
    /// At the node already, or in an image that its engine gets.
    Named(CodeSource),
}

/// A function to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its name, without namespace.
    pub name: String,
    /// Its code.
    pub code: Code,
    /// Everything else.
    pub settings: Settings,
}

/// What a deployment may say of a function; what it leaves out is the node's
/// choice.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The tenant.
    pub namespace: Option<String>,
    /// How the code is spoken to.
    pub protocol: Option<Protocol>,
    /// Limit of memory.
    pub memory: Option<Memory>,
    /// Share of processors.
    pub cpu: Option<Cpu>,
    /// Longest run of one call.
    pub timeout: Option<Duration>,
    /// Calls that one instance runs at once.
    pub concurrency: Option<u32>,
    /// Instances kept warm.
    pub min: Option<u32>,
    /// Most instances at once.
    pub max: Option<u32>,
    /// How long an idle instance stays warm.
    pub keep_alive: Option<Duration>,
    /// Whether a call may be run twice.
    pub idempotent: bool,
    /// Environment of the code.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Names of secrets that the code may read.
    pub secrets: Vec<String>,
    /// Where the code may connect to.
    pub allow_outbound: Vec<Outbound>,
    /// QoS classes that callers may name.
    pub qos: Vec<String>,
    /// Limits beyond memory and processors, as written.
    pub limits: BTreeMap<String, String>,
    /// Requests, as written.
    pub requests: BTreeMap<String, String>,
    /// Placement constraints.
    pub constraints: Vec<String>,
    /// Whether the root file system is read-only.
    pub read_only_root_filesystem: bool,
    /// The command of an OpenFaaS watchdog.
    pub env_process: Option<String>,
    /// The runtime that runs source code.
    pub runtime: Option<String>,
    /// What the runtime calls.
    pub handler: Option<String>,
    /// The image that runs source code, where no runtime does.
    pub code_image: Option<ImageName>,
    /// When an image is fetched.
    pub pull: Option<Pull>,
    /// What a container can reach.
    pub network: Option<Network>,
    /// A path that answers once a container is ready.
    pub health: Option<String>,
    /// The port on which a container answers.
    pub port: Option<Port>,
    /// Whether a container runs as the user that its image names.
    pub image_user: bool,
    /// Whether a container may write to its root, within a bound.
    pub read_write: bool,
    /// Whether no instance is started to see whether it runs.
    pub no_check: bool,
    /// Who knows of it.
    pub scope: Option<Scope>,
    /// Members that keep its code.
    pub replicas: Option<u64>,
    /// Whether all who can run it bring it to them at once.
    pub prefetch: bool,
    /// Peers that keep each asynchronous call.
    pub durable: Option<u64>,
    /// Whether fewer than that will do.
    pub durable_best_effort: bool,
}

/// One `[functions.NAME]` of a project file while it is read.
#[derive(Debug, Default)]
struct Entry {
    wasm: Option<PathBuf>,
    image: Option<CodeSource>,
    image_archive: Option<PathBuf>,
    src: Option<PathBuf>,
    settings: Settings,
}

/// The keys of `[functions.NAME]` in a project file: the flags of `weir deploy`.
static PROJECT_KEYS: &[Key<Entry>] = &[
    Key::new("wasm", |e| plain(&mut e.wasm), "File with the code."),
    Key::new(
        "image",
        |e| plain(&mut e.image),
        "A container image, or the digest of code that the node has.",
    ),
    Key::new(
        "image-archive",
        |e| plain(&mut e.image_archive),
        "File with a container image.",
    ),
    Key::new(
        "src",
        |e| plain(&mut e.src),
        "File or folder of source code.",
    ),
    Key::new(
        "runtime",
        |e| plain(&mut e.settings.runtime),
        "What runs source code: python.",
    ),
    Key::new(
        "handler",
        |e| plain(&mut e.settings.handler),
        "What the runtime calls.",
    ),
    Key::new(
        "pull",
        |e| plain(&mut e.settings.pull),
        "missing, always or never.",
    ),
    Key::new(
        "network",
        |e| plain(&mut e.settings.network),
        "none or bridge.",
    ),
    Key::new(
        "health",
        |e| plain(&mut e.settings.health),
        "Path that answers once ready.",
    ),
    Key::new(
        "port",
        |e| plain(&mut e.settings.port),
        "Port on which a container answers.",
    ),
    Key::new(
        "image-user",
        |e| plain(&mut e.settings.image_user),
        "Run as the image's user.",
    ),
    Key::new(
        "read-write",
        |e| plain(&mut e.settings.read_write),
        "A root that may be written to, within a bound.",
    ),
    Key::new(
        "no-check",
        |e| plain(&mut e.settings.no_check),
        "Start no instance to see whether it runs.",
    ),
    Key::new(
        "scope",
        |e| plain(&mut e.settings.scope),
        "Who knows of it: node, zone or federation.",
    ),
    Key::new(
        "replicas",
        |e| plain(&mut e.settings.replicas),
        "Members that keep its code, this one included.",
    ),
    Key::new(
        "prefetch",
        |e| plain(&mut e.settings.prefetch),
        "Whether all who can run it bring it to them at once.",
    ),
    Key::new(
        "durable",
        |e| plain(&mut e.settings.durable),
        "Peers that keep each asynchronous call before it is accepted, 0 to 2.",
    ),
    Key::new(
        "durable-best-effort",
        |e| plain(&mut e.settings.durable_best_effort),
        "Whether a call is accepted though fewer peers can keep it.",
    ),
    Key::new(
        "namespace",
        |e| plain(&mut e.settings.namespace),
        "The tenant.",
    ),
    Key::new(
        "protocol",
        |e| plain(&mut e.settings.protocol),
        "stdio, cgi, http, openwhisk, serverledge or lambda.",
    ),
    Key::new(
        "memory",
        |e| plain(&mut e.settings.memory),
        "Limit of memory.",
    ),
    Key::new(
        "cpu",
        |e| plain(&mut e.settings.cpu),
        "Share of processors.",
    ),
    Key::new(
        "timeout",
        |e| plain(&mut e.settings.timeout),
        "Longest run of one call.",
    ),
    Key::new(
        "concurrency",
        |e| plain(&mut e.settings.concurrency),
        "Calls at once.",
    ),
    Key::new(
        "min",
        |e| plain(&mut e.settings.min),
        "Instances kept warm.",
    ),
    Key::new(
        "max",
        |e| plain(&mut e.settings.max),
        "Most instances at once.",
    ),
    Key::new(
        "keep-alive",
        |e| plain(&mut e.settings.keep_alive),
        "Stay when idle.",
    ),
    Key::new(
        "idempotent",
        |e| plain(&mut e.settings.idempotent),
        "May run twice.",
    ),
    Key::new(
        "env",
        |e| plain(&mut e.settings.env),
        "Environment of the code.",
    ),
    Key::new("labels", |e| plain(&mut e.settings.labels), "Labels."),
    Key::new(
        "annotations",
        |e| plain(&mut e.settings.annotations),
        "Annotations.",
    ),
    Key::new(
        "secrets",
        |e| plain(&mut e.settings.secrets),
        "Secrets it may read.",
    ),
    Key::new(
        "allow-outbound",
        |e| plain(&mut e.settings.allow_outbound),
        "Targets.",
    ),
    Key::new(
        "qos",
        |e| plain(&mut e.settings.qos),
        "QoS classes callers may name.",
    ),
];

/// One function of a `stack.yaml` while it is read.
#[derive(Debug, Default)]
struct StackEntry {
    handler: Option<String>,
    image: Option<String>,
    /// Keys that only tell faas-cli how to build an image.
    building: String,
    environment_file: Vec<String>,
    read_only_root_filesystem: String,
    settings: Settings,
}

/// The keys of a function in `stack.yaml`.
static STACK_KEYS: &[Key<StackEntry>] = &[
    Key::new(
        "handler",
        |e| plain(&mut e.handler),
        "The code, when it is a .wasm file.",
    ),
    Key::new("image", |e| plain(&mut e.image), "Digest or .wasm file."),
    Key::new(
        "lang",
        |e| plain(&mut e.building),
        "Not used: code comes built.",
    ),
    Key::new(
        "namespace",
        |e| plain(&mut e.settings.namespace),
        "The tenant.",
    ),
    Key::new(
        "environment",
        |e| plain(&mut e.settings.env),
        "Environment of the code.",
    ),
    Key::new(
        "environment_file",
        |e| plain(&mut e.environment_file),
        "Files with more of it.",
    ),
    Key::new("labels", |e| plain(&mut e.settings.labels), "Labels."),
    Key::new(
        "annotations",
        |e| plain(&mut e.settings.annotations),
        "Annotations.",
    ),
    Key::new(
        "secrets",
        |e| plain(&mut e.settings.secrets),
        "Secrets it may read.",
    ),
    Key::new(
        "limits",
        |e| plain(&mut e.settings.limits),
        "Memory, processors, ...",
    ),
    Key::new(
        "requests",
        |e| plain(&mut e.settings.requests),
        "The same, wished for.",
    ),
    Key::new(
        "constraints",
        |e| plain(&mut e.settings.constraints),
        "Placement.",
    ),
    Key::new(
        "readonly_root_filesystem",
        |e| plain(&mut e.read_only_root_filesystem),
        "Whether the root file system is read-only.",
    ),
    Key::new(
        "fprocess",
        |e| plain(&mut e.settings.env_process),
        "Watchdog command.",
    ),
];

/// Keys of a function in `stack.yaml` that tell faas-cli how to build an
/// image, and mean nothing to whoever deploys.
const BUILD_ONLY: &[&str] = &[
    "skip_build",
    "build_args",
    "build_options",
    "build_secrets",
    "copy_extra",
    "extra_tags",
    "platforms",
    "publish",
];

/// Keys that OpenFaaS has or had for a function and Weir has not, with what
/// to do instead.
const NOT_OURS: &[(&str, &str)] = &[
    (
        "imagePullPolicy",
        "the annotation weir.pull says when an image is fetched",
    ),
    (
        "network",
        "the annotation weir.network says what it can reach",
    ),
    ("registry_auth", "the engine's own login is used"),
    ("registryAuth", "the engine's own login is used"),
];

/// What keys begin with that are for other tools, or hold what aliases repeat.
const EXTENSION: &str = "x-";

/// Keys of a function's `limits` and `requests`; beside them there are
/// Kubernetes' own, all of which look alike.
const RESOURCES: &[&str] = &["memory", "cpu", "gpu", "ephemeral-storage"];

/// Keys of a stack file's `provider`.
const PROVIDER: &[&str] = &["name", "gateway", "network"];

/// Keys of a stack file's `configuration`.
const CONFIGURATION: &[&str] = &["templates", "copy"];

/// What a file refers to outside of it.
pub struct Outside<'a> {
    /// The value of a variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The text of another file, or why it cannot be read.
    pub file: &'a dyn Fn(&Path) -> Result<String, String>,
}

/// What a file says.
#[derive(Debug)]
pub struct Project {
    /// The functions to deploy.
    pub deployments: Vec<Deployment>,
    /// What was read over, and where.
    pub warnings: Vec<Mistake>,
}

/// Reads a project file or a `stack.yaml`, told apart by the name's ending.
///
/// `path` is the file; relative paths in it are relative to its folder.
pub fn parse(path: &Path, text: &str, outside: &Outside<'_>) -> Result<Project, Mistakes> {
    let name = path.display().to_string();
    let yaml = path
        .extension()
        .is_some_and(|ending| ending == "yaml" || ending == "yml");
    let mut warnings = Vec::new();
    let mut table = if yaml {
        let yaml = document::from_yaml(&name, text).map_err(Mistakes)?;
        if yaml.more {
            let message = "holds more than one document: only the first is read".to_owned();
            let origin = Origin::File {
                path: name.clone(),
                line: None,
            };
            warnings.push(Mistake { origin, message });
        }
        yaml.table
    } else {
        document::from_toml(&name, text).map_err(Mistakes)?
    };
    if yaml {
        // Before variables are put in: they may be of no use, and unset.
        leave_out(&mut table, "", &[], &mut warnings);
    }
    let mut mistakes = Vec::new();
    document::substitute(&mut table, outside.variable, &mut mistakes);
    let top: &[&str] = if yaml {
        &["version", "provider", "functions", "configuration"]
    } else {
        &["functions"]
    };
    check_keys(&table, "", top, &mut mistakes);
    if yaml {
        check_provider(&table, &mut mistakes);
        if let Some(Value::Table(configuration)) = table.get("configuration").map(|c| &c.value) {
            check_keys(
                configuration,
                "configuration.",
                CONFIGURATION,
                &mut mistakes,
            );
        }
    }
    let mut deployments = Vec::new();
    match table.get_mut("functions").map(|tree| &mut tree.value) {
        Some(Value::Table(functions)) if !functions.is_empty() => {
            for (name, tree) in functions {
                let deployment = if yaml {
                    let prefix = format!("functions.{name}.");
                    if let Value::Table(function) = &mut tree.value {
                        leave_out(function, &prefix, NOT_OURS, &mut warnings);
                    }
                    stack_function(name, tree, path, outside, &mut mistakes)
                } else {
                    project_function(name, tree, folder(path), &mut mistakes)
                };
                deployments.extend(deployment);
            }
        }
        _ => mistakes.push(Mistake {
            origin: Origin::File {
                path: name,
                line: None,
            },
            message: "there are no functions in it".to_owned(),
        }),
    }
    if mistakes.is_empty() {
        Ok(Project {
            deployments,
            warnings,
        })
    } else {
        Err(Mistakes(mistakes))
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Takes away what is not for Weir, with a warning each.
fn leave_out(
    table: &mut Table,
    prefix: &str,
    not_ours: &[(&str, &str)],
    warnings: &mut Vec<Mistake>,
) {
    table.retain(|key, tree| {
        let instead = not_ours.iter().find(|(name, _)| name == key);
        let message = match instead {
            Some((_, instead)) => format!("{prefix}{key} is not used: {instead}"),
            None if key.starts_with(EXTENSION) => format!("{prefix}{key} is not used"),
            None => return true,
        };
        let origin = tree.origin.clone();
        warnings.push(Mistake { origin, message });
        false
    });
}

fn check_keys(table: &Table, prefix: &str, known: &[&str], mistakes: &mut Vec<Mistake>) {
    for (key, tree) in table
        .iter()
        .filter(|(key, _)| !known.contains(&key.as_str()))
    {
        let hint = suggestion(key, known.iter().copied());
        mistakes.push(Mistake {
            origin: tree.origin.clone(),
            message: format!("unknown key {prefix}{key}{hint}"),
        });
    }
}

fn check_provider(table: &Table, mistakes: &mut Vec<Mistake>) {
    let Some(provider) = table.get("provider") else {
        return;
    };
    let name = match &provider.value {
        Value::Table(inner) => {
            check_keys(inner, "provider.", PROVIDER, mistakes);
            inner.get("name").map(|tree| &tree.value)
        }
        _ => None,
    };
    if name != Some(&Value::Text("openfaas".to_owned())) {
        let message = "provider: name must be openfaas".to_owned();
        mistakes.push(Mistake {
            origin: provider.origin.clone(),
            message,
        });
    }
}

/// Refuses keys of `limits` and `requests` that are slips of the pen.
fn check_resources(function: &Tree, mistakes: &mut Vec<Mistake>) {
    let Value::Table(function) = &function.value else {
        return;
    };
    for section in ["limits", "requests"] {
        let Some(Value::Table(resources)) = function.get(section).map(|tree| &tree.value) else {
            continue;
        };
        let named = resources
            .iter()
            // nvidia.com/gpu, hugepages-2Mi
            .filter(|(key, _)| !key.contains('/') && !key.starts_with("hugepages-"))
            .map(|(key, tree)| (key.clone(), tree.clone()));
        let named: Table = named.collect();
        check_keys(&named, &format!("{section}."), RESOURCES, mistakes);
    }
}

/// The environment in other files, the last of which counts.
fn environment_files(
    files: &[String],
    stack: &Path,
    outside: &Outside<'_>,
    environment: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    for file in files {
        let path = folder(stack).join(file);
        let text = (outside.file)(&path)?;
        let name = path.display().to_string();
        let read = document::from_yaml(&name, &text);
        let read = read.map_err(|mistakes| Mistakes(mistakes).to_string())?;
        let inner = read.table.get("environment").map(|tree| &tree.value);
        let inner = inner
            .ok_or_else(|| format!("{name} has no `environment:` with the variables below it"))?;
        environment
            .assign(inner)
            .map_err(|message| format!("{name}: environment: {message}"))?;
    }
    Ok(())
}

/// What YAML 1.1 takes for true and false, which Go's reader still does.
fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Ok(true),
        "false" | "no" | "off" | "n" | "" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn project_function(
    name: &str,
    tree: &Tree,
    folder: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<Deployment> {
    let mut entry = Entry::default();
    fill_function(PROJECT_KEYS, &mut entry, name, tree, &[], mistakes)?;
    let mut wrong = |message: &str| {
        let message = format!("functions.{name}: {message}");
        mistakes.push(Mistake {
            origin: tree.origin.clone(),
            message,
        });
        None
    };
    let file = |path: PathBuf| folder.join(path);
    let sources = [
        entry.wasm.map(|path| Code::File(file(path))),
        entry.image_archive.map(|path| Code::Image(file(path))),
        entry.src.map(|path| Code::Source(file(path))),
    ];
    let code = match pick(sources, entry.image, &mut entry.settings) {
        Ok(code) => code,
        Err(message) => return wrong(&message),
    };
    Some(Deployment {
        name: name.to_owned(),
        code,
        settings: entry.settings,
    })
}

/// The one place where a function's code is. An image beside source code is
/// what runs it.
///
/// # Errors
/// A sentence, when there is none or more than one.
pub fn pick(
    sources: [Option<Code>; 3],
    image: Option<CodeSource>,
    settings: &mut Settings,
) -> Result<Code, String> {
    let mut given = sources.into_iter().flatten();
    match (given.next(), given.next(), image) {
        (Some(code), None, None) => Ok(code),
        (Some(code @ Code::Source(_)), None, Some(CodeSource::Image(image))) => {
            settings.code_image = Some(image);
            Ok(code)
        }
        (None, _, Some(image)) => Ok(Code::Named(image)),
        (None, _, None) => {
            Err("says nowhere what its code is: write wasm, image, image-archive or src".to_owned())
        }
        (Some(_), _, _) => {
            Err("has more than one of wasm, image, image-archive and src: keep one".to_owned())
        }
    }
}

fn stack_function(
    name: &str,
    tree: &Tree,
    path: &Path,
    outside: &Outside<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Deployment> {
    let mut entry = StackEntry::default();
    let before = mistakes.len();
    check_resources(tree, mistakes);
    for mistake in &mut mistakes[before..] {
        mistake.message = format!("functions.{name}: {}", mistake.message);
    }
    fill_function(STACK_KEYS, &mut entry, name, tree, BUILD_ONLY, mistakes)?;
    let mut wrong = |message: String| {
        let message = format!("functions.{name}: {message}");
        mistakes.push(Mistake {
            origin: tree.origin.clone(),
            message,
        });
    };
    match truth(&entry.read_only_root_filesystem) {
        Ok(truth) => entry.settings.read_only_root_filesystem = truth,
        Err(message) => wrong(format!("readonly_root_filesystem: {message}")),
    }
    if !entry.environment_file.is_empty() {
        let mut environment = BTreeMap::new();
        let files = &entry.environment_file;
        if let Err(message) = environment_files(files, path, outside, &mut environment) {
            wrong(format!("environment_file: {message}"));
        }
        environment.append(&mut entry.settings.env);
        entry.settings.env = environment;
    }
    let mut settings = entry.settings;
    let mut limit = |key: &str| settings.limits.remove(key);
    match limit("memory").map(|text| text.parse()).transpose() {
        Ok(memory) => settings.memory = memory,
        Err(error) => wrong(format!("limits.memory: {error}")),
    }
    match settings
        .limits
        .remove("cpu")
        .map(|text| text.parse())
        .transpose()
    {
        Ok(cpu) => settings.cpu = cpu,
        Err(error) => wrong(format!("limits.cpu: {error}")),
    }
    let is_file = |text: &&String| text.ends_with(".wasm") || text.ends_with(".wat");
    let image = entry
        .image
        .as_deref()
        .filter(|image| !is_file(&&(*image).to_owned()));
    let image: Option<CodeSource> = image.and_then(|image| image.parse().ok());
    let file = [&entry.image, &entry.handler]
        .into_iter()
        .flatten()
        .find(is_file);
    let code = match (image, file) {
        (Some(image @ CodeSource::Artifact(_)), _) => Code::Named(image),
        (_, Some(file)) => Code::File(folder(path).join(file)),
        (Some(image), None) => Code::Named(image),
        (None, None) => {
            wrong(
                "has no code that Weir can run: let image name a container image, or image or \
                 handler a .wasm file or a sha256: digest"
                    .to_owned(),
            );
            return None;
        }
    };
    Some(Deployment {
        name: name.to_owned(),
        code,
        settings,
    })
}

fn fill_function<C>(
    keys: &[Key<C>],
    entry: &mut C,
    name: &str,
    tree: &Tree,
    elsewhere: &[&str],
    mistakes: &mut Vec<Mistake>,
) -> Option<()> {
    let Value::Table(table) = &tree.value else {
        let message = format!(
            "functions.{name}: expects a table, not a {}",
            tree.value.kind()
        );
        mistakes.push(Mistake {
            origin: tree.origin.clone(),
            message,
        });
        return None;
    };
    let before = mistakes.len();
    fill(keys, entry, table, "", elsewhere, mistakes, &mut |_, _| {});
    for mistake in &mut mistakes[before..] {
        mistake.message = format!("functions.{name}: {}", mistake.message);
    }
    Some(())
}

/// The body of `PUT` and `POST /system/functions`.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WireDeployment {
    service: String,
    image: String,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    env_process: Option<String>,
    env_vars: BTreeMap<String, String>,
    constraints: Vec<String>,
    secrets: Vec<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    limits: BTreeMap<String, String>,
    requests: BTreeMap<String, String>,
    read_only_root_filesystem: bool,
}

impl WireDeployment {
    /// What is sent for `deployment` once its code is at the node as `code`.
    /// `namespace` is where a deployment goes that names none.
    pub fn new(deployment: &Deployment, code: &CodeSource, namespace: Option<&str>) -> Self {
        let settings = &deployment.settings;
        let namespace = settings
            .namespace
            .as_deref()
            .or(namespace)
            .unwrap_or(DEFAULT_NAMESPACE);

        let mut annotations = settings.annotations.clone();
        let comma = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
        let outbound: Vec<_> = settings
            .allow_outbound
            .iter()
            .map(ToString::to_string)
            .collect();
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let ours = [
            (
                "weir.protocol",
                settings.protocol.map(|protocol| protocol.to_string()),
            ),
            ("weir.timeout", settings.timeout.map(time)),
            (
                "weir.concurrency",
                settings.concurrency.map(|count| count.to_string()),
            ),
            ("weir.keep-alive", settings.keep_alive.map(time)),
            (
                "weir.idempotent",
                settings.idempotent.then(|| "true".to_owned()),
            ),
            ("weir.allow-outbound", comma(&outbound)),
            ("weir.qos", comma(&settings.qos)),
            ("weir.runtime", settings.runtime.clone()),
            ("weir.handler", settings.handler.clone()),
            (
                "weir.image",
                settings.code_image.as_ref().map(ToString::to_string),
            ),
            ("weir.pull", settings.pull.map(|pull| pull.to_string())),
            (
                "weir.network",
                settings.network.map(|network| network.to_string()),
            ),
            ("weir.health", settings.health.clone()),
            ("weir.port", settings.port.map(|port| port.to_string())),
            (
                "weir.image-user",
                settings.image_user.then(|| "true".to_owned()),
            ),
            (
                "weir.read-write",
                settings.read_write.then(|| "true".to_owned()),
            ),
            ("weir.check", settings.no_check.then(|| "false".to_owned())),
            ("weir.scope", settings.scope.map(|scope| scope.to_string())),
            (
                "weir.replicas",
                settings.replicas.map(|count| count.to_string()),
            ),
            (
                "weir.prefetch",
                settings.prefetch.then(|| "true".to_owned()),
            ),
            (
                "weir.durable",
                settings.durable.map(|count| count.to_string()),
            ),
            (
                "weir.durable-best-effort",
                settings.durable_best_effort.then(|| "true".to_owned()),
            ),
        ];
        let given = |(key, value): (&str, Option<String>)| Some((key.to_owned(), value?));
        annotations.extend(ours.into_iter().filter_map(given));

        let mut labels = settings.labels.clone();
        let scale = [
            (
                "com.openfaas.scale.min",
                settings.min.map(|count| count.to_string()),
            ),
            (
                "com.openfaas.scale.max",
                settings.max.map(|count| count.to_string()),
            ),
            (
                "com.openfaas.scale.zero",
                (settings.min == Some(0)).then(|| "true".to_owned()),
            ),
        ];
        labels.extend(scale.into_iter().filter_map(given));

        let mut limits = settings.limits.clone();
        // Bytes without a unit: the one form that every parser of quantities reads alike.
        let needs = [
            (
                "memory",
                settings.memory.map(|memory| memory.as_bytes().to_string()),
            ),
            (
                "cpu",
                settings.cpu.map(|cpu| format!("{}m", cpu.as_millicores())),
            ),
        ];
        limits.extend(needs.into_iter().filter_map(given));

        WireDeployment {
            service: deployment.name.clone(),
            image: code.to_string(),
            namespace: namespace.to_owned(),
            env_process: settings.env_process.clone(),
            env_vars: settings.env.clone(),
            constraints: settings.constraints.clone(),
            secrets: settings.secrets.clone(),
            labels,
            annotations,
            limits,
            requests: settings.requests.clone(),
            read_only_root_filesystem: settings.read_only_root_filesystem,
        }
    }

    /// The namespace that it goes to.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

#[cfg(test)]
mod tests {
    use weir_node::id::Digest;

    use super::*;

    fn project(path: &str, text: &str) -> Result<Project, String> {
        let outside = Outside {
            variable: &|name| (name == "STAGE").then(|| "test".to_owned()),
            file: &|path| match path.to_str() {
                Some("dir/first.yml") => {
                    Ok("environment:\n  A: 1.10\n  B: ${B}\n  C: first\n".to_owned())
                }
                Some("dir/second.yml") => Ok("environment: {C: second}\n".to_owned()),
                Some("dir/flat.yml") => Ok("A: b\n".to_owned()),
                _ => Err(format!("read {}: no such file", path.display())),
            },
        };
        parse(Path::new(path), text, &outside).map_err(|mistakes| mistakes.to_string())
    }

    fn read(path: &str, text: &str) -> Result<Vec<Deployment>, String> {
        project(path, text).map(|project| project.deployments)
    }

    #[test]
    fn project_file_says_what_the_flags_say() {
        let text = r#"
            [functions.hello]
            wasm = "hello.wasm"
            memory = "128MiB"
            cpu = 0.5
            timeout = "30s"
            min = 1
            idempotent = true
            protocol = "cgi"
            allow-outbound = ["api.example:443"]
            qos = ["fast", "slow"]
            env = { STAGE = "${STAGE}", MODE = "${MODE:-plain}" }
        "#;
        let deployments = read("dir/weir.toml", text).expect("valid");
        let [hello] = deployments.as_slice() else {
            panic!("one function")
        };
        assert_eq!(hello.code, Code::File("dir/hello.wasm".into()));
        let wire = WireDeployment::new(hello, &Digest::of(b"").into(), Some("shop"));
        assert_eq!((wire.namespace(), wire.service.as_str()), ("shop", "hello"));
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        assert_eq!(wire.env_vars, map(&[("STAGE", "test"), ("MODE", "plain")]));
        assert_eq!(
            wire.limits,
            map(&[("memory", "134217728"), ("cpu", "500m")])
        );
        assert_eq!(wire.labels, map(&[("com.openfaas.scale.min", "1")]));
        let annotations = [
            ("weir.protocol", "cgi"),
            ("weir.timeout", "30s"),
            ("weir.idempotent", "true"),
            ("weir.allow-outbound", "api.example:443"),
            ("weir.qos", "fast,slow"),
        ];
        assert_eq!(wire.annotations, map(&annotations));
    }

    #[test]
    fn project_mistakes_are_all_told_with_their_line() {
        let text = "[functions.a]\nmemry = \"1MiB\"\n[functions.b]\nwasm = \"b\"\ncpu = \"x\"\n\
                    [other]\n";
        let found = read("weir.toml", text).expect_err("mistakes");
        for expected in [
            "weir.toml:2: functions.a: unknown key memry; did you mean memory?",
            "functions.a: says nowhere what its code is",
            "weir.toml:5: functions.b: cpu: \"x\" is not a share",
            "weir.toml:6: unknown key other",
        ] {
            assert!(found.contains(expected), "{expected:?} in\n{found}");
        }
    }

    #[test]
    fn stack_file_of_openfaas_is_read() {
        let digest = Digest::of(b"code");
        let text = format!(
            r#"
version: 1.0
provider:
  name: openfaas
  gateway: http://127.0.0.1:8080
functions:
  first:
    lang: wasm
    handler: ./build/first.wasm
    image: registry.example/first:latest
    environment:
      STAGE: ${{STAGE}}
      COUNT: 3
    labels:
      com.openfaas.scale.min: "2"
    limits:
      memory: 64Mi
      cpu: 100m
      nvidia.com/gpu: "1"
    secrets: [key]
    constraints:
      - "node.platform.os == linux"
    readonly_root_filesystem: true
    fprocess: cat
  second:
    image: {digest}
"#
        );
        let deployments = read("stack.yaml", &text).expect("valid");
        let [first, second] = deployments.as_slice() else {
            panic!("two functions")
        };
        assert_eq!(first.code, Code::File("./build/first.wasm".into()));
        assert_eq!(first.settings.memory, Some(Memory::mebibytes(64)));
        assert_eq!(first.settings.env["STAGE"], "test");
        assert_eq!(first.settings.env["COUNT"], "3");
        assert!(first.settings.read_only_root_filesystem);
        let wire = WireDeployment::new(first, &digest.into(), None);
        assert_eq!(wire.limits["cpu"], "100m");
        assert_eq!(wire.limits["nvidia.com/gpu"], "1");
        assert_eq!(wire.env_process.as_deref(), Some("cat"));
        assert_eq!(second.code, Code::Named(digest.into()));
    }

    #[test]
    fn stack_file_mistakes_name_the_function() {
        let text = "provider:\n  name: faasd\nfunctions:\n  a:\n    imag: x\n    lang: go\n";
        let found = read("stack.yml", text).expect_err("mistakes");
        for expected in [
            "provider: name must be openfaas",
            "functions.a: unknown key imag; did you mean image?",
            "functions.a: has no code that Weir can run",
        ] {
            assert!(found.contains(expected), "{expected:?} in\n{found}");
        }
    }

    #[test]
    fn texts_of_a_stack_file_stay_as_they_are_written() {
        let text = "functions:\n  a:\n    image: 1.10\n    lang: 3.0\n    namespace: 007\n    \
                    fprocess: 1e3\n    environment: {V: 1.10, P: 007, F: yes, N: null, E:}\n    \
                    labels: {v: 1.0, t: True}\n    annotations: {d: 2024-01-02}\n    \
                    secrets: [007]\n    constraints: [1.50]\n    \
                    readonly_root_filesystem: yes\n    limits: {cpu: 0.50, memory: 64Mi}\n    \
                    requests: {cpu: 1.0}\n";
        let functions = read("stack.yaml", text).expect("valid");
        let settings = &functions[0].settings;
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
        };
        let env = [
            ("V", "1.10"),
            ("P", "007"),
            ("F", "yes"),
            ("N", ""),
            ("E", ""),
        ];
        assert_eq!(settings.env, map(&env));
        assert_eq!(settings.labels, map(&[("v", "1.0"), ("t", "True")]));
        assert_eq!(settings.annotations, map(&[("d", "2024-01-02")]));
        assert_eq!(
            (&settings.secrets[..], &settings.constraints[..]),
            (&["007".into()][..], &["1.50".into()][..])
        );
        assert_eq!(settings.namespace.as_deref(), Some("007"));
        assert_eq!(settings.env_process.as_deref(), Some("1e3"));
        assert_eq!(settings.requests, map(&[("cpu", "1.0")]));
        assert!(settings.read_only_root_filesystem);
        assert_eq!(
            functions[0].code,
            Code::Named("1.10".parse().expect("an image"))
        );
    }

    #[test]
    fn environment_files_are_read_and_the_stack_file_wins() {
        let stack = |files: &str| {
            let text = format!(
                "functions:\n  a:\n    image: x\n    environment: {{A: own}}\n    \
                 environment_file: {files}\n"
            );
            read("dir/stack.yaml", &text)
        };
        let functions = stack("[first.yml, second.yml]").expect("valid");
        let env = &functions[0].settings.env;
        let value = |name: &str| env[name].as_str();
        assert_eq!(
            (value("A"), value("B"), value("C")),
            ("own", "${B}", "second")
        );
        for (files, told) in [
            ("[absent.yml]", "environment_file: read dir/absent.yml"),
            ("flat.yml", "dir/flat.yml has no `environment:`"),
        ] {
            let mistake = stack(files).expect_err("a mistake");
            assert!(mistake.contains(told), "{mistake}");
        }
    }

    #[test]
    fn keys_for_others_are_warned_of_and_slips_are_mistakes_on_every_level() {
        let text = "x-common: &common\n  image: a\n  lang: ${UNSET}\nfunctions:\n  a:\n    \
                    <<: *common\n    lang: go\n    imagePullPolicy: Always\n    \
                    registry_auth: z\n    x-mine: 1\n    build_args: {A: b}\n    \
                    limits: {nvidia.com/gpu: 1}\n---\nfunctions: {}\n";
        let project = project("stack.yaml", text).expect("valid");
        let warnings: Vec<_> = project.warnings.iter().map(ToString::to_string).collect();
        let told = [
            "stack.yaml: holds more than one document: only the first is read",
            "stack.yaml:1: x-common is not used",
            "stack.yaml:8: functions.a.imagePullPolicy is not used: the annotation weir.pull",
            "stack.yaml:9: functions.a.registry_auth is not used",
            "stack.yaml:10: functions.a.x-mine is not used",
        ];
        assert_eq!(warnings.len(), told.len(), "{warnings:?}");
        for (warning, told) in warnings.iter().zip(told) {
            assert!(warning.starts_with(told), "{warning}");
        }

        let text = "provider: {name: openfaas, gatway: x}\nconfiguration: {template: []}\n\
                    functions:\n  a:\n    image: x\n    limits: {memry: 32Mi}\n    \
                    requests:\n      cpus: 1\n    enviroment: {A: b}\n    \
                    readonly_root_filesystem: perhaps\n";
        let found = read("stack.yaml", text).expect_err("mistakes");
        for expected in [
            "stack.yaml:1: unknown key provider.gatway; did you mean gateway?",
            "stack.yaml:2: unknown key configuration.template; did you mean templates?",
            "stack.yaml:6: functions.a: unknown key limits.memry; did you mean memory?",
            "stack.yaml:8: functions.a: unknown key requests.cpus; did you mean cpu?",
            "stack.yaml:9: functions.a: unknown key enviroment; did you mean environment?",
            "functions.a: readonly_root_filesystem: \"perhaps\" is neither true nor false",
        ] {
            assert!(found.contains(expected), "{expected:?} in\n{found}");
        }
    }

    #[test]
    fn wire_form_has_the_names_that_openfaas_gives() {
        let deployment = Deployment {
            name: "a".to_owned(),
            code: Code::File("a.wasm".into()),
            settings: Settings {
                min: Some(0),
                ..Settings::default()
            },
        };
        let wire = WireDeployment::new(&deployment, &Digest::of(b"").into(), None);
        let json = serde_json::to_value(&wire).expect("plain data");
        assert_eq!(json["service"], "a");
        assert_eq!(json["namespace"], "openfaas-fn");
        assert_eq!(json["labels"]["com.openfaas.scale.zero"], "true");
        assert!(json["envVars"].is_object() && json["readOnlyRootFilesystem"].is_boolean());
    }
}
