//! Layers of settings over each other, and where each value came from.

use std::collections::BTreeMap;

use weir_node::config::ClassConfig;
use weir_node::resources::Resources;

use super::check::check;
use super::keys::{CLASS_KEYS, CLASSES, CLIENT_VARIABLES, KEYS, MAX_CLASSES};
use super::{Config, capacity};
use crate::document::{self, Table, Tree, Value};
use crate::setting::{Key, Mistake, Mistakes, Origin, fill, suggestion};

/// What is shown of a secret that is set.
const HIDDEN: &str = "(set, not shown)";

/// What the layers over the defaults hold, as they were found.
#[derive(Debug, Default)]
pub struct Layers {
    /// The configuration file: its path and text.
    pub file: Option<(String, String)>,
    /// The environment; only `WEIR_...` matters.
    pub environment: Vec<(String, String)>,
    /// Flags: as written, the key that each sets, and its value.
    pub flags: Vec<(String, String, String)>,
}

/// A configuration and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of the key `path` came from.
    pub fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or_default()
    }

    /// Every key with its value and where that came from, classes included.
    pub fn values(&self) -> Vec<(String, String, Origin)> {
        let mut config = self.config.clone();
        let mut values: Vec<_> = KEYS
            .iter()
            .map(|key| {
                let field = (key.field)(&mut config);
                let shown = match (field.is_secret(), field.show()) {
                    (true, set) if set != "none" => HIDDEN.to_owned(),
                    (_, shown) => shown,
                };
                (key.path.to_owned(), shown, self.origin(key.path))
            })
            .collect();
        for (at, class) in config.node.classes.iter_mut().enumerate() {
            for key in CLASS_KEYS {
                let path = format!("{CLASSES}[{at}].{}", key.path);
                values.push((path, (key.field)(class).show(), self.origin(CLASSES)));
            }
        }
        values
    }
}

/// Joins the layers over the defaults of `defaults`; `machine` is what there
/// is to share. On mistakes all of them are in the error.
pub fn load(defaults: Config, layers: &Layers, machine: Resources) -> Result<Loaded, Mistakes> {
    let mut loaded = Loaded {
        config: defaults,
        origins: BTreeMap::new(),
    };
    let mut mistakes = Vec::new();
    if let Some((path, text)) = &layers.file {
        match document::from_toml(path, text) {
            Ok(table) => apply_file(&mut loaded, &table, &mut mistakes),
            Err(errors) => mistakes.extend(errors),
        }
    }
    apply_environment(&mut loaded, &layers.environment, &mut mistakes);
    for (flag, path, value) in &layers.flags {
        let origin = Origin::Flag(flag.clone());
        match KEYS.iter().find(|key| key.path == path) {
            Some(key) => assign(&mut loaded, key, value, origin, &mut mistakes),
            None => {
                let known = KEYS.iter().map(|key| key.path);
                let message = format!("unknown key {path}{}", suggestion(path, known));
                mistakes.push(Mistake { origin, message });
            }
        }
    }
    for (path, message) in check(&loaded.config) {
        let message = format!("{path}: {message}");
        mistakes.push(Mistake {
            origin: loaded.origin(path),
            message,
        });
    }
    if !mistakes.is_empty() {
        return Err(Mistakes(mistakes));
    }
    loaded.config.node.capacity = capacity(&loaded.config.resources, machine);
    Ok(loaded)
}

fn apply_file(loaded: &mut Loaded, table: &Table, mistakes: &mut Vec<Mistake>) {
    let Loaded { config, origins } = loaded;
    let mut assigned = |path: &str, origin: &Origin| {
        origins.insert(path.to_owned(), origin.clone());
    };
    fill(KEYS, config, table, "", &[CLASSES], mistakes, &mut assigned);
    if let Some(tree) = table.get(CLASSES) {
        assigned(CLASSES, &tree.origin);
        config.node.classes = classes(tree, mistakes);
    }
}

fn classes(tree: &Tree, mistakes: &mut Vec<Mistake>) -> Vec<ClassConfig> {
    let items = match &tree.value {
        Value::List(items) if (1..=MAX_CLASSES).contains(&items.len()) => items,
        _ => {
            let message = format!("{CLASSES}: write 1 to {MAX_CLASSES} tables [[{CLASSES}]]");
            mistakes.push(Mistake {
                origin: tree.origin.clone(),
                message,
            });
            return vec![ClassConfig::default()];
        }
    };
    let mut classes: Vec<ClassConfig> = Vec::with_capacity(items.len());
    for item in items {
        let mut class = ClassConfig {
            name: String::new(),
            ..ClassConfig::default()
        };
        match &item.value {
            Value::Table(table) => {
                fill(
                    CLASS_KEYS,
                    &mut class,
                    table,
                    "",
                    &[],
                    mistakes,
                    &mut |_, _| {},
                );
            }
            other => {
                let message = format!("{CLASSES}: expects tables, not a {}", other.kind());
                mistakes.push(Mistake {
                    origin: item.origin.clone(),
                    message,
                });
                continue;
            }
        }
        let wrong = |message: String| Mistake {
            origin: item.origin.clone(),
            message: format!("{CLASSES}: {message}"),
        };
        mistakes.extend(unfit(&class, &classes).into_iter().map(wrong));
        classes.push(class);
    }
    classes
}

/// What is wrong with a class, beside those before it.
fn unfit(class: &ClassConfig, before: &[ClassConfig]) -> Vec<String> {
    let mut wrong = Vec::new();
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if class.name.is_empty() || class.name.len() > 63 || !class.name.chars().all(fine) {
        wrong.push("name: write 1 to 63 letters, digits, '-' or '_'".to_owned());
    }
    if before.iter().any(|other| other.name == class.name) {
        wrong.push(format!("name: {:?} is there twice", class.name));
    }
    if !(1..=1000).contains(&class.priority) {
        wrong.push(format!(
            "priority: {} is not between 1 and 1000",
            class.priority
        ));
    }
    wrong
}

fn apply_environment(
    loaded: &mut Loaded,
    environment: &[(String, String)],
    mistakes: &mut Vec<Mistake>,
) {
    let names: Vec<String> = KEYS.iter().map(Key::environment).collect();
    for (name, value) in environment {
        if !name.starts_with("WEIR_") || CLIENT_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let origin = Origin::Environment(name.clone());
        match names.iter().position(|known| known == name) {
            Some(at) => assign(loaded, &KEYS[at], value, origin, mistakes),
            None => {
                let known = names
                    .iter()
                    .map(String::as_str)
                    .chain(CLIENT_VARIABLES.iter().copied());
                let message = format!("unknown variable{}", suggestion(name, known));
                mistakes.push(Mistake { origin, message });
            }
        }
    }
}

fn assign(
    loaded: &mut Loaded,
    key: &Key<Config>,
    text: &str,
    origin: Origin,
    mistakes: &mut Vec<Mistake>,
) {
    match (key.field)(&mut loaded.config).assign(&Value::Text(text.to_owned())) {
        Ok(()) => {
            loaded.origins.insert(key.path.to_owned(), origin);
        }
        Err(message) => {
            mistakes.push(Mistake {
                origin,
                message: format!("{}: {message}", key.path),
            });
        }
    }
}
