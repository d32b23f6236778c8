//! TOML as a tree whose every value knows where it was written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

/// Mistakes that are listed; what a reader mends first is among them.
const MISTAKES_MAX: usize = 200;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In a file.
    File {
        /// As it was named.
        path: Arc<str>,
        /// From 1.
        line: u32,
        /// In characters, from 1.
        column: u32,
    },
    /// In a `--set`.
    Set {
        /// Its key.
        key: Arc<str>,
    },
}

impl Default for Origin {
    fn default() -> Origin {
        Origin::File {
            path: "".into(),
            line: 1,
            column: 1,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line, column } => write!(f, "{path}:{line}:{column}"),
            Origin::Set { key } => write!(f, "--set {key}"),
        }
    }
}

/// Something that is wrong in a scenario.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where.
    pub origin: Origin,
    /// What, and what to do.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// All that is wrong in a scenario, in the order of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// Adds one; more than a reader can use are dropped.
    pub fn add(&mut self, origin: &Origin, message: impl Into<String>) {
        if self.0.len() < MISTAKES_MAX {
            self.0.push(Mistake {
                origin: origin.clone(),
                message: message.into(),
            });
        }
    }

    /// In the order of files and lines, each once.
    pub fn in_order(mut self) -> Mistakes {
        self.0.sort();
        self.0.dedup();
        self
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            [] => write!(f, "no mistake"),
            [only] => only.fmt(f),
            many => {
                write!(f, "{} mistakes", many.len())?;
                many.iter().try_for_each(|one| write!(f, "\n  {one}"))
            }
        }
    }
}

impl std::error::Error for Mistakes {}

/// A value, where it stands, and where its key does.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// Where its key is; of a value in a list, the value.
    pub key: Origin,
    /// Where the value is.
    pub at: Origin,
    /// What.
    pub value: Value,
}

/// Values by name.
pub type Table = BTreeMap<String, Tree>;

/// What is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// In quotes, or a date.
    Text(String),
    /// A number, as decimal text.
    Number(String),
    /// `true` or `false`.
    Truth(bool),
    /// A list.
    List(Vec<Tree>),
    /// Values by name.
    Table(Table),
}

impl Value {
    /// The word for it in a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "text",
            Value::Number(_) => "a number",
            Value::Truth(_) => "a truth value",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// A text and where its lines begin.
struct Source<'a> {
    path: Arc<str>,
    text: &'a str,
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(path: &str, text: &'a str) -> Source<'a> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1));
        Source {
            path: path.into(),
            text,
            lines: lines.collect(),
        }
    }

    fn origin(&self, at: usize) -> Origin {
        let line = self.lines.partition_point(|begin| *begin <= at);
        let begin = self.lines[line.saturating_sub(1)];
        let before = self.text.get(begin..at);
        let column = before.map_or(at.saturating_sub(begin), |text| text.chars().count()) + 1;
        Origin::File {
            path: self.path.clone(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }
}

/// Reads a document; `path` is what mistakes call it. What can be read of a
/// document with mistakes of syntax is not returned: the rest would be guesses.
pub fn parse(path: &str, text: &str, mistakes: &mut Mistakes) -> Option<Table> {
    let source = Source::new(path, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(table_of(table.get_ref(), &|at| source.origin(at)));
    }
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        mistakes.add(&source.origin(at), error.message().trim());
    }
    None
}

/// Reads the value of a `--set`: as TOML where it is that, else as text.
pub fn parse_value(key: &Arc<str>, text: &str) -> Tree {
    let origin = Origin::Set { key: key.clone() };
    let value = match DeValue::parse(text) {
        Ok(value) => value_of(value.get_ref(), &|_| origin.clone()),
        Err(_) => Value::Text(text.to_owned()),
    };
    Tree {
        key: origin.clone(),
        at: origin,
        value,
    }
}

fn table_of(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Table {
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let name: &toml::de::DeString<'_> = key.get_ref();
        let tree = Tree {
            key: origin(key.span().start),
            at: origin(value.span().start),
            value: value_of(value.get_ref(), origin),
        };
        (name.to_string(), tree)
    };
    table.iter().map(entry).collect()
}

fn value_of(value: &DeValue<'_>, origin: &dyn Fn(usize) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let decimal = i128::from_str_radix(number.as_str(), number.radix());
            Value::Number(decimal.map_or_else(|_| number.to_string(), |n| n.to_string()))
        }
        DeValue::Float(number) => Value::Number(number.to_string()),
        DeValue::Boolean(truth) => Value::Truth(*truth),
        DeValue::Datetime(moment) => Value::Text(moment.to_string()),
        DeValue::Array(items) => {
            let item = |item: &toml::Spanned<DeValue<'_>>| Tree {
                key: origin(item.span().start),
                at: origin(item.span().start),
                value: value_of(item.get_ref(), origin),
            };
            Value::List(items.iter().map(item).collect())
        }
        DeValue::Table(table) => Value::Table(table_of(table, origin)),
    }
}

/// Puts `over` onto `under`, as a file that includes another: tables are joined,
/// lists of tables (`[[node]]`) come one after the other, the rest is replaced.
pub fn lay_over(under: &mut Table, over: Table) {
    for (name, tree) in over {
        let Some(below) = under.get_mut(&name) else {
            under.insert(name, tree);
            continue;
        };
        let Tree { key, at, value } = tree;
        match (&mut below.value, value) {
            (Value::Table(below), Value::Table(above)) => lay_over(below, above),
            (Value::List(below), Value::List(above)) if are_tables(below) && are_tables(&above) => {
                below.extend(above);
            }
            (_, value) => *below = Tree { key, at, value },
        }
    }
}

fn are_tables(items: &[Tree]) -> bool {
    let is_table = |item: &Tree| matches!(item.value, Value::Table(_));
    !items.is_empty() && items.iter().all(is_table)
}

/// The known name that is most like one that is not, as an end of a message.
pub fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// Less alike is no suggestion (Jaro-Winkler).
    const ALIKE: f64 = 0.8;
    let alike = known.map(|candidate| (strsim::jaro_winkler(name, candidate), candidate));
    let best = alike
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map_or_else(String::new, |(_, name)| format!("; did you mean {name}?"))
}

/// Does one `--set`: `path` leads through tables by name, and through lists of
/// tables by their `name` or their number from 1.
pub fn set(table: &mut Table, key: &str, text: &str, mistakes: &mut Mistakes) {
    let key: Arc<str> = key.into();
    let origin = Origin::Set { key: key.clone() };
    let path: Vec<&str> = key.split('.').map(str::trim).collect();
    if path.iter().any(|part| part.is_empty()) {
        mistakes.add(&origin, "write a key such as scenario.duration");
        return;
    }
    if let Err(message) = set_at(table, &path, parse_value(&key, text)) {
        mistakes.add(&origin, message);
    }
}

fn set_at(table: &mut Table, path: &[&str], value: Tree) -> Result<(), String> {
    let Some((name, rest)) = path.split_first() else {
        return Ok(());
    };
    let Some((next, beyond)) = rest.split_first() else {
        table.insert((*name).to_owned(), value);
        return Ok(());
    };
    let tree = table.entry((*name).to_owned()).or_insert_with(|| Tree {
        key: value.key.clone(),
        at: value.at.clone(),
        value: Value::Table(Table::new()),
    });
    match &mut tree.value {
        Value::Table(table) => set_at(table, rest, value),
        Value::List(items) => {
            let at = member(items, next)
                .ok_or_else(|| format!("no {name} is named {next}{}", alike(items, next)))?;
            match (&mut items[at], beyond) {
                (item, []) => {
                    *item = value;
                    Ok(())
                }
                (Tree { value: below, .. }, _) => match below {
                    Value::Table(table) => set_at(table, beyond, value),
                    other => Err(format!("{name}.{next} is {}", other.kind())),
                },
            }
        }
        // A short form, such as a bare duration, gives way to the long one.
        Value::Text(_) | Value::Number(_) | Value::Truth(_) => {
            let mut table = Table::new();
            set_at(&mut table, rest, value)?;
            tree.value = Value::Table(table);
            Ok(())
        }
    }
}

fn name_of(item: &Tree) -> Option<&str> {
    let Value::Table(table) = &item.value else {
        return None;
    };
    match &table.get("name")?.value {
        Value::Text(name) => Some(name),
        Value::Number(_) | Value::Truth(_) | Value::List(_) | Value::Table(_) => None,
    }
}

fn member(items: &[Tree], wanted: &str) -> Option<usize> {
    let named = items.iter().position(|item| name_of(item) == Some(wanted));
    let numbered = || wanted.parse::<usize>().ok()?.checked_sub(1);
    named.or_else(numbered).filter(|place| *place < items.len())
}

fn alike(items: &[Tree], wanted: &str) -> String {
    suggestion(wanted, items.iter().filter_map(name_of))
}
