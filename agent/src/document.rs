//! TOML and YAML files as one kind of tree that remembers where each value stands.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

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

/// Reads a YAML document; `path` is what mistakes call it. Values carry no
/// line, only the path of the file.
pub fn from_yaml(path: &str, text: &str) -> Result<Table, Vec<Mistake>> {
    let origin = Origin::File {
        path: path.to_owned(),
        line: None,
    };
    let wrong = |message| {
        vec![Mistake {
            origin: origin.clone(),
            message,
        }]
    };
    let value: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
    match yaml_value(value, &origin) {
        Value::Table(table) => Ok(table),
        other => Err(wrong(format!("expects a table, not a {}", other.kind()))),
    }
}

fn yaml_value(value: serde_json::Value, origin: &Origin) -> Value {
    let tree = |value| Tree {
        origin: origin.clone(),
        value: yaml_value(value, origin),
    };
    match value {
        serde_json::Value::Null => Value::Empty,
        serde_json::Value::Bool(truth) => Value::Text(truth.to_string()),
        serde_json::Value::Number(number) => Value::Text(number.to_string()),
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(tree).collect()),
        serde_json::Value::Object(table) => Value::Table(
            table
                .into_iter()
                .map(|(key, value)| (key, tree(value)))
                .collect(),
        ),
    }
}

/// Replaces `${NAME}` and `${NAME:-default}` in every text of `table` by what
/// `variable` says of NAME; `$${` stands for a literal `${`.
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
        Value::Text(text) => match expand(text, variable) {
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

fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &from[2..];
            continue;
        }
        expanded.push_str(before);
        let end = from
            .find('}')
            .ok_or_else(|| format!("{text:?} has a ${{ without its }}"))?;
        let inside = &from[2..end];
        let (name, default) = match inside.split_once(":-").or_else(|| inside.split_once(":=")) {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        // An empty variable counts as unset, as the shell has it for `:-`.
        let value = variable(name).filter(|value| default.is_none() || !value.is_empty());
        let value = value
            .or_else(|| default.map(str::to_owned))
            .ok_or_else(|| {
                format!("${{{name}}} is not set in the environment; set it, or write ${{{name}:-}}")
            })?;
        expanded.push_str(&value);
        rest = &from[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
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

    #[test]
    fn yaml_scalars_become_text() {
        let table = from_yaml("s.yaml", "a: 1\nb: true\nc: [x, y]\nd:\n").expect("valid");
        assert_eq!(table["a"].value, Value::Text("1".to_owned()));
        assert_eq!(table["b"].value, Value::Text("true".to_owned()));
        assert_eq!(table["d"].value, Value::Empty);
        assert!(matches!(&table["c"].value, Value::List(items) if items.len() == 2));
        assert!(from_yaml("s.yaml", "[1, 2]").is_err());
    }

    #[test]
    fn variables_are_replaced_with_their_default_when_unset() {
        let variable = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let check = |text: &str, expected: &str| {
            assert_eq!(expand(text, &variable).as_deref(), Ok(expected), "{text}");
        };
        check("a ${SET} b", "a value b");
        check("${NONE:-x}/${SET:-y}", "x/value");
        check("${EMPTY:-x}${EMPTY}", "x");
        check("${NONE:-}", "");
        check("$${SET}", "${SET}");
        check("plain $ text", "plain $ text");
        assert!(expand("${NONE}", &variable).is_err());
        assert!(expand("${SET", &variable).is_err());
    }
}
