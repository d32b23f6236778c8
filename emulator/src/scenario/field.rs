//! What the keys of a scenario take, and one table of keys for each section: it
//! reads the section, refuses what is not in it, and explains it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use weir_node_core::resources::{Cpu, Memory};

pub use super::quantity::{BitRate, Positive, Real, Share, Times, Whole};

use super::Files;
use super::tree::{Mistakes, Origin, Table, Tree, Value, suggestion};

/// Longest time that a scenario may name: a year.
pub const TIME_MAX: Duration = Duration::from_secs(365 * 86_400);

/// What reading a section needs beside the section.
pub struct Reading<'a> {
    /// Files that are named in it.
    pub files: &'a dyn Files,
    /// What was wrong.
    pub mistakes: Mistakes,
}

impl Reading<'_> {
    /// Reads a file that a scenario names, by its path from the scenario's folder.
    pub fn file(&mut self, named: &str, at: &Origin) -> Option<String> {
        let path = beside(named, at);
        match self.files.read(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.mistakes
                    .add(at, format!("read {}: {error}", path.display()));
                None
            }
        }
    }
}

/// A path that a file names, seen from where that file is.
pub fn beside(named: &str, at: &Origin) -> PathBuf {
    let folder = match at {
        Origin::File { path, .. } => PathBuf::from(&**path).parent().map(PathBuf::from),
        Origin::Set { .. } => None,
    };
    folder.unwrap_or_default().join(named)
}

/// Something that a key takes.
pub trait Field {
    /// Takes a value, or says what is wrong with it.
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>);

    /// What it takes, in few words.
    fn takes(&self) -> String;

    /// Its value as it is, which is the default before it was read; `None` for
    /// nothing.
    fn show(&self) -> Option<String>;

    /// The tables of keys below it, by what leads there.
    fn below(&self) -> Vec<(String, Vec<Line>)> {
        Vec::new()
    }
}

/// One key.
pub struct Key<T: 'static> {
    /// Its name.
    pub name: &'static str,
    /// Whether a section without it is a mistake.
    pub is_required: bool,
    /// Where it is kept.
    pub field: fn(&mut T) -> &mut dyn Field,
    /// What it is for: one sentence.
    pub help: &'static str,
}

/// A key that may be left out.
pub const fn key<T>(
    name: &'static str,
    field: fn(&mut T) -> &mut dyn Field,
    help: &'static str,
) -> Key<T> {
    Key {
        name,
        is_required: false,
        field,
        help,
    }
}

/// A key without which its section says nothing.
pub const fn needed<T>(
    name: &'static str,
    field: fn(&mut T) -> &mut dyn Field,
    help: &'static str,
) -> Key<T> {
    Key {
        name,
        is_required: true,
        field,
        help,
    }
}

/// A section of a scenario: a table with the keys that it lists.
pub trait Section: Default + 'static {
    /// All of its keys.
    const KEYS: &'static [Key<Self>];

    /// What holds between its keys.
    fn check(&self, _at: &Origin, _mistakes: &mut Mistakes) {}
}

/// One line of `weir scenario explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The key, as it is written from the top: `node[].cores`.
    pub key: String,
    /// What it takes.
    pub takes: String,
    /// What holds without it; `None` where it must be written, or nothing does.
    pub default: Option<String>,
    /// Whether it must be written.
    pub is_required: bool,
    /// What it is for.
    pub help: &'static str,
}

/// The keys of a section, and of what is below it, under `prefix`.
pub fn explain<T: Section>(prefix: &str) -> Vec<Line> {
    let mut section = T::default();
    let mut lines = Vec::new();
    for key in T::KEYS {
        let field = (key.field)(&mut section);
        let path = match prefix {
            "" => key.name.to_owned(),
            prefix => format!("{prefix}.{}", key.name),
        };
        lines.push(Line {
            key: path.clone(),
            takes: field.takes(),
            default: field.show().filter(|_| !key.is_required),
            is_required: key.is_required,
            help: key.help,
        });
        for (ending, below) in field.below() {
            let under = |line: Line| Line {
                key: match line.key.as_str() {
                    "" => format!("{path}{ending}"),
                    rest => format!("{path}{ending}.{rest}"),
                },
                ..line
            };
            lines.extend(below.into_iter().map(under));
        }
    }
    lines
}

/// Reads a section.
pub fn read<T: Section>(table: &Table, at: &Origin, reading: &mut Reading<'_>) -> T {
    let mut section = T::default();
    let before = reading.mistakes.0.len();
    for (name, tree) in table {
        match T::KEYS.iter().find(|key| key.name == name) {
            Some(key) => (key.field)(&mut section).take(tree, reading),
            None => {
                let known = T::KEYS.iter().map(|key| key.name);
                let message = format!("{name} is no key here{}", suggestion(name, known));
                reading.mistakes.add(&tree.key, message);
            }
        }
    }
    for key in T::KEYS.iter().filter(|key| key.is_required) {
        if !table.contains_key(key.name) {
            let message = format!("{} is missing: {}", key.name, key.help);
            reading.mistakes.add(at, message);
        }
    }
    // What holds between keys is said of keys that could be read.
    if reading.mistakes.0.len() == before {
        section.check(at, &mut reading.mistakes);
    }
    section
}

/// A value that must be a table of a section, as a field.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Of<T>(pub T);

impl<T: Section> Field for Of<T> {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        match &tree.value {
            Value::Table(table) => self.0 = read(table, &tree.at, reading),
            other => wrong(tree, "a table", other, reading),
        }
    }

    fn takes(&self) -> String {
        "table".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }

    fn below(&self) -> Vec<(String, Vec<Line>)> {
        vec![(String::new(), explain::<T>(""))]
    }
}

/// Several tables of one kind, as `[[node]]`, each with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Many<T>(pub Vec<At<T>>);

impl<T> Default for Many<T> {
    fn default() -> Many<T> {
        Many(Vec::new())
    }
}

impl<T: Section> Field for Many<T> {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let one = |tree: &Tree, reading: &mut Reading<'_>| match &tree.value {
            Value::Table(table) => Some(At {
                at: tree.at.clone(),
                value: read::<T>(table, &tree.at, reading),
            }),
            other => {
                wrong(tree, "a table", other, reading);
                None
            }
        };
        match &tree.value {
            Value::List(items) => {
                self.0 = items.iter().filter_map(|tree| one(tree, reading)).collect();
            }
            Value::Text(_) | Value::Number(_) | Value::Truth(_) | Value::Table(_) => {
                self.0 = one(tree, reading).into_iter().collect();
            }
        }
    }

    fn takes(&self) -> String {
        "tables, one after the other".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }

    fn below(&self) -> Vec<(String, Vec<Line>)> {
        vec![("[]".to_owned(), explain::<T>(""))]
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct At<T> {
    /// Where.
    pub at: Origin,
    /// What.
    pub value: T,
}

impl<T: Field> Field for At<T> {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        self.at = tree.at.clone();
        self.value.take(tree, reading);
    }

    fn takes(&self) -> String {
        self.value.takes()
    }

    fn show(&self) -> Option<String> {
        self.value.show()
    }

    fn below(&self) -> Vec<(String, Vec<Line>)> {
        self.value.below()
    }
}

impl<T: Field + Default> Field for Option<T> {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let mut value = T::default();
        value.take(tree, reading);
        *self = Some(value);
    }

    fn takes(&self) -> String {
        T::default().takes()
    }

    fn show(&self) -> Option<String> {
        self.as_ref()?.show()
    }

    fn below(&self) -> Vec<(String, Vec<Line>)> {
        T::default().below()
    }
}

impl<T: Field + Default> Field for Vec<T> {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        self.clear();
        let mut take = |tree: &Tree| {
            let mut value = T::default();
            value.take(tree, reading);
            self.push(value);
        };
        match &tree.value {
            Value::List(items) => items.iter().for_each(take),
            Value::Text(_) | Value::Number(_) | Value::Truth(_) | Value::Table(_) => take(tree),
        }
    }

    fn takes(&self) -> String {
        format!("list of: {}", T::default().takes())
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// Says that a value is of the wrong kind.
pub fn wrong(tree: &Tree, expected: &str, found: &Value, reading: &mut Reading<'_>) {
    let message = format!("expected {expected}, found {}", found.kind());
    reading.mistakes.add(&tree.at, message);
}

impl Field for String {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        match &tree.value {
            Value::Text(text) => self.clone_from(text),
            other => wrong(tree, "text", other, reading),
        }
    }

    fn takes(&self) -> String {
        "text".to_owned()
    }

    fn show(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.clone())
    }
}

impl Field for bool {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        match &tree.value {
            Value::Truth(truth) => *self = *truth,
            other => wrong(tree, "true or false", other, reading),
        }
    }

    fn takes(&self) -> String {
        "true or false".to_owned()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Field for Duration {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        match &tree.value {
            Value::Text(text) => match humantime::parse_duration(text) {
                Ok(time) if time <= TIME_MAX => *self = time,
                Ok(_) => {
                    let message = format!("{text:?} is longer than a year");
                    reading.mistakes.add(&tree.at, message);
                }
                Err(_) => {
                    let message = format!("{text:?} is no time: write one as 40ms, 2s or 1m 30s");
                    reading.mistakes.add(&tree.at, message);
                }
            },
            Value::Number(number) => {
                let message = format!("{number} lacks a unit: write {number}ms or {number}s");
                reading.mistakes.add(&tree.at, message);
            }
            other => wrong(tree, "a time such as 40ms", other, reading),
        }
    }

    fn takes(&self) -> String {
        "time (\"40ms\")".to_owned()
    }

    fn show(&self) -> Option<String> {
        Some(humantime::format_duration(*self).to_string())
    }
}

/// A field that is read from text or a number, by a type that does so.
fn take_as<T: std::str::FromStr<Err: std::fmt::Display>>(
    into: &mut T,
    tree: &Tree,
    expected: &str,
    reading: &mut Reading<'_>,
) {
    match &tree.value {
        Value::Text(text) | Value::Number(text) => match text.parse() {
            Ok(value) => *into = value,
            Err(error) => reading.mistakes.add(&tree.at, error.to_string()),
        },
        other => wrong(tree, expected, other, reading),
    }
}

impl Field for Memory {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        take_as(self, tree, "bytes such as 128MiB", reading);
    }

    fn takes(&self) -> String {
        "bytes (\"128MiB\")".to_owned()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Field for Cpu {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        take_as(self, tree, "processors such as 0.5", reading);
    }

    fn takes(&self) -> String {
        "processors (0.5 or \"500m\")".to_owned()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Names with values that are checked by whom they are for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Free(pub BTreeMap<String, At<String>>);

impl Field for Free {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::Table(table) = &tree.value else {
            return wrong(tree, "a table", &tree.value, reading);
        };
        for (name, tree) in table {
            let text = match &tree.value {
                Value::Text(text) | Value::Number(text) => text.clone(),
                Value::Truth(truth) => truth.to_string(),
                other => {
                    wrong(tree, "text or a number", other, reading);
                    continue;
                }
            };
            let (at, value) = (tree.at.clone(), text);
            self.0.insert(name.clone(), At { at, value });
        }
    }

    fn takes(&self) -> String {
        "table of names with texts or numbers".to_owned()
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// One way of several to say something: `{ lognormal = { ... } }`.
pub struct Variant<T: 'static> {
    /// Its name.
    pub name: &'static str,
    /// Reads it.
    pub read: fn(&Tree, &mut Reading<'_>) -> T,
    /// Its keys.
    pub explain: fn() -> Vec<Line>,
    /// What it is: one sentence.
    pub help: &'static str,
}

/// A variant that is a section.
pub fn section_of<S: Section>(tree: &Tree, reading: &mut Reading<'_>) -> S {
    let mut section = Of(S::default());
    section.take(tree, reading);
    section.0
}

/// Reads what is one of several; `None` after a mistake.
pub fn one_of<T>(variants: &[Variant<T>], tree: &Tree, reading: &mut Reading<'_>) -> Option<T> {
    let names = || variants.iter().map(|variant| variant.name);
    let choice = || names().collect::<Vec<_>>().join(", ");
    let Value::Table(table) = &tree.value else {
        let expected = format!("a table with one of {}", choice());
        wrong(tree, &expected, &tree.value, reading);
        return None;
    };
    let mut entries = table.iter();
    let (Some((name, below)), None) = (entries.next(), entries.next()) else {
        let message = format!("write exactly one of {}", choice());
        reading.mistakes.add(&tree.at, message);
        return None;
    };
    let Some(variant) = variants.iter().find(|variant| variant.name == name) else {
        let suggested = suggestion(name, names());
        let message = format!("{name} is none of {}{suggested}", choice());
        reading.mistakes.add(&below.key, message);
        return None;
    };
    Some((variant.read)(below, reading))
}

/// The tables of keys below something that is one of several.
pub fn explain_variants<T>(variants: &[Variant<T>]) -> Vec<(String, Vec<Line>)> {
    let under = |variant: &Variant<T>| {
        let mut lines = vec![Line {
            key: String::new(),
            takes: "table".to_owned(),
            default: None,
            is_required: false,
            help: variant.help,
        }];
        lines.extend((variant.explain)());
        (format!(".{}", variant.name), lines)
    };
    variants.iter().map(under).collect()
}
