//! OpenFaaS's `stack.yaml`.

use std::collections::BTreeMap;
use std::path::Path;

use weir_node::function::CodeSource;

use super::{Outside, check_keys, fill_function, folder};
use crate::deployment::options::DeployOption;
use crate::deployment::{Code, Deployment, Settings};
use crate::document::{self, Table, Tree, Value};
use crate::setting::{Field as _, Key, Mistake, Mistakes, plain};

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

/// Refuses keys beside the functions that a stack file does not have.
pub(super) fn check(table: &Table, mistakes: &mut Vec<Mistake>) {
    check_provider(table, mistakes);
    if let Some(Value::Table(configuration)) = table.get("configuration").map(|c| &c.value) {
        check_keys(configuration, "configuration.", CONFIGURATION, mistakes);
    }
}

/// Takes away what a function has that is not for Weir, with a warning each.
pub(super) fn leave_out_of_function(name: &str, tree: &mut Tree, warnings: &mut Vec<Mistake>) {
    if let Value::Table(function) = &mut tree.value {
        leave_out(function, &format!("functions.{name}."), NOT_OURS, warnings);
    }
}

/// Takes away what is not for Weir, with a warning each.
pub(super) fn leave_out(
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

/// One function of a stack file.
pub(super) fn function(
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
    // What Weir holds to, in its own form; the rest is kept as it came.
    for key in ["memory", "cpu"] {
        let option = DeployOption::named(key).expect("it is there");
        if let Some(text) = settings.limits.remove(key)
            && let Err(error) = settings.set(option, &Value::Text(text))
        {
            wrong(format!("limits.{key}: {error}"));
        }
    }
    let Some(code) = code(entry.image.as_ref(), entry.handler.as_ref(), path) else {
        wrong(
            "has no code that Weir can run: let image name a container image, or image or handler \
             a .wasm file or a sha256: digest"
                .to_owned(),
        );
        return None;
    };
    Some(Deployment {
        name: name.to_owned(),
        code,
        settings,
    })
}

/// Where a function's code is, by its image and its handler.
fn code(image: Option<&String>, handler: Option<&String>, path: &Path) -> Option<Code> {
    let is_file = |text: &&String| text.ends_with(".wasm") || text.ends_with(".wat");
    let file = [image, handler].into_iter().flatten().find(is_file);
    let image = image.filter(|image| !is_file(image));
    let image: Option<CodeSource> = image.and_then(|image| image.parse().ok());
    match (image, file) {
        (Some(image @ CodeSource::Artifact(_)), _) => Some(Code::Named(image)),
        (_, Some(file)) => Some(Code::File(folder(path).join(file))),
        (Some(image), None) => Some(Code::Named(image)),
        (None, None) => None,
    }
}
