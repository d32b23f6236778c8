//! TOML and YAML files as one kind of tree that remembers where each value stands.

mod substitution;
mod yaml;

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

pub use self::yaml::from_yaml;
use crate::setting::{Mistake, Origin};

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Where.
    pub origin: Origin,
    /// What.
    pub value: Value,
}

/// Values by name.
pub type Table = BTreeMap<String, Tree>;

/// What a document holds. Numbers, truth values and dates are kept as text:
/// the field that they are meant for knows what it expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing (YAML's null).
    Empty,
    /// One value.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// Values by name.
    Table(Table),
}

impl Value {
    /// The word for it in a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Empty => "missing value",
            Value::Text(_) => "text",
            Value::List(_) => "list",
            Value::Table(_) => "table",
        }
    }
}

/// Reads a TOML document; `path` is what mistakes call it.
pub fn from_toml(path: &str, text: &str) -> Result<Table, Vec<Mistake>> {
    let origin = |at: usize| Origin::File {
        path: path.to_owned(),
        line: Some(line_of(text, at)),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mistake = |error: toml::de::Error| Mistake {
            origin: origin(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        };
        return Err(errors.into_iter().map(mistake).collect());
    }
    Ok(toml_table(table.get_ref(), &origin))
}

fn toml_table(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Table {
    let entry = |(key, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<_>)| {
        let tree = Tree {
            origin: origin(key.span().start),
            value: toml_value(value.get_ref(), origin),
        };
        (key.get_ref().to_string(), tree)
    };
    table.iter().map(entry).collect()
}

fn toml_value(value: &DeValue<'_>, origin: &dyn Fn(usize) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let decimal = i128::from_str_radix(number.as_str(), number.radix());
            Value::Text(decimal.map_or_else(|_| number.to_string(), |decimal| decimal.to_string()))
        }
        DeValue::Float(number) => Value::Text(number.to_string()),
        DeValue::Boolean(truth) => Value::Text(truth.to_string()),
        DeValue::Datetime(moment) => Value::Text(moment.to_string()),
        DeValue::Array(items) => {
            let item = |item: &toml::Spanned<DeValue<'_>>| Tree {
                origin: origin(item.span().start),
                value: toml_value(item.get_ref(), origin),
            };
            Value::List(items.iter().map(item).collect())
        }
        DeValue::Table(table) => Value::Table(toml_table(table, origin)),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text
        .as_bytes()
        .iter()
        .take(at)
        .filter(|byte| **byte == b'\n')
        .count()
}

/// Replaces `${NAME}` and its like in every text of `table`, as
/// [`substitution::expand`] does.
pub fn substitute(
    table: &mut Table,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Vec<Mistake>,
) {
    for tree in table.values_mut() {
        substitute_tree(tree, variable, mistakes);
    }
}

fn substitute_tree(
    tree: &mut Tree,
    variable: &dyn Fn(&str) -> Option<String>,
    mistakes: &mut Vec<Mistake>,
) {
    match &mut tree.value {
        Value::Empty => {}
        Value::Text(text) => match substitution::expand(text, variable) {
            Ok(expanded) => *text = expanded,
            Err(message) => mistakes.push(Mistake {
                origin: tree.origin.clone(),
                message,
            }),
        },
        Value::List(items) => {
            for item in items {
                substitute_tree(item, variable, mistakes);
            }
        }
        Value::Table(table) => substitute(table, variable, mistakes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_values_know_their_line() {
        let table = from_toml("a.toml", "x = 1\n[http]\nlisten = \"y\"\n").expect("valid");
        let Value::Table(http) = &table["http"].value else {
            panic!("http is a table")
        };
        assert_eq!(http["listen"].origin.to_string(), "a.toml:3");
        assert_eq!(http["listen"].value, Value::Text("y".to_owned()));
        assert_eq!(table["x"].value, Value::Text("1".to_owned()));
    }

    #[test]
    fn all_syntax_errors_are_reported_with_their_line() {
        let mistakes = from_toml("a.toml", "a = \nb = 1\nc = ]\n").expect_err("invalid");
        let places: Vec<_> = mistakes.iter().map(|m| m.origin.to_string()).collect();
        assert!(places.contains(&"a.toml:1".to_owned()), "{mistakes:?}");
        assert!(places.contains(&"a.toml:3".to_owned()), "{mistakes:?}");
    }
}
