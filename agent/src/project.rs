//! Functions as they are to be deployed, from a project file (`weir.toml`) or
//! from an OpenFaaS `stack.yaml`.

mod stack;

use std::path::{Path, PathBuf};

use weir_node::function::CodeSource;

use crate::deployment::options::{CODE_IMAGE, OPTIONS};
use crate::deployment::{Code, Deployment, Settings};
use crate::document::{self, Table, Tree, Value};
use crate::setting::{Key, Mistake, Mistakes, Origin, fill, plain, suggestion};

/// Largest project file that is read: a thousand functions with room to spare.
pub const PROJECT_BYTES: u64 = 4 << 20;

/// One `[functions.NAME]` of a project file while it is read.
#[derive(Debug, Default)]
struct Entry {
    wasm: Option<PathBuf>,
    image: Option<CodeSource>,
    image_archive: Option<PathBuf>,
    src: Option<PathBuf>,
    namespace: Option<String>,
}

/// The keys of `[functions.NAME]` in a project file beside [`OPTIONS`]: with
/// them, the flags of `weir deploy`.
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
    Key::new("namespace", |e| plain(&mut e.namespace), "The tenant."),
];

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
    let mut table = match yaml {
        true => stack_table(&name, text, &mut warnings)?,
        false => document::from_toml(&name, text).map_err(Mistakes)?,
    };
    let mut mistakes = Vec::new();
    document::substitute(&mut table, outside.variable, &mut mistakes);
    let top: &[&str] = if yaml {
        &["version", "provider", "functions", "configuration"]
    } else {
        &["functions"]
    };
    check_keys(&table, "", top, &mut mistakes);
    if yaml {
        stack::check(&table, &mut mistakes);
    }
    let mut deployments = Vec::new();
    match table.get_mut("functions").map(|tree| &mut tree.value) {
        Some(Value::Table(functions)) if !functions.is_empty() => {
            for (name, tree) in functions {
                let deployment = if yaml {
                    stack::leave_out_of_function(name, tree, &mut warnings);
                    stack::function(name, tree, path, outside, &mut mistakes)
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

/// The first document of a stack file, without what is of no use here.
fn stack_table(name: &str, text: &str, warnings: &mut Vec<Mistake>) -> Result<Table, Mistakes> {
    let mut yaml = document::from_yaml(name, text).map_err(Mistakes)?;
    if yaml.more {
        let message = "holds more than one document: only the first is read".to_owned();
        let origin = Origin::File {
            path: name.to_owned(),
            line: None,
        };
        warnings.push(Mistake { origin, message });
    }
    // Before variables are put in: they may be of no use, and unset.
    stack::leave_out(&mut yaml.table, "", &[], warnings);
    Ok(yaml.table)
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
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

fn project_function(
    name: &str,
    tree: &Tree,
    folder: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<Deployment> {
    let mut entry = Entry::default();
    let options: Vec<_> = OPTIONS
        .iter()
        .filter(|option| option.flag.is_some())
        .collect();
    let keys: Vec<_> = options.iter().map(|option| option.key).collect();
    fill_function(PROJECT_KEYS, &mut entry, name, tree, &keys, mistakes)?;
    let mut settings = Settings::default();
    settings.namespace = entry.namespace;
    if let Value::Table(table) = &tree.value {
        for option in options {
            if let Some(tree) = table.get(option.key)
                && let Err(message) = settings.set(option, &tree.value)
            {
                let message = format!("functions.{name}: {}: {message}", option.key);
                let origin = tree.origin.clone();
                mistakes.push(Mistake { origin, message });
            }
        }
    }
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
    let code = match pick(sources, entry.image, &mut settings) {
        Ok(code) => code,
        Err(message) => return wrong(&message),
    };
    Some(Deployment {
        name: name.to_owned(),
        code,
        settings,
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
            *settings = std::mem::take(settings).with(CODE_IMAGE, &image.to_string());
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

#[cfg(test)]
mod tests;
