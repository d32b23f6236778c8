//! Settings as people write them: typed fields that are read from text, listed
//! by key, and filled from a document so that every mistake is found at once.

mod values;

use std::fmt;

pub use self::values::{
    Auto, Everywhere, PolicyName, Port, View, duration, multiaddress, pair, plain,
};
use crate::document::{Table, Value};

/// Where a value was written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is built in.
    #[default]
    Default,
    /// In a file.
    File {
        /// The file, as it was named.
        path: String,
        /// The line, from 1; `None` when the format does not tell.
        line: Option<usize>,
    },
    /// In the environment, under this name.
    Environment(String),
    /// On the command line, as this flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File {
                path,
                line: Some(line),
            } => write!(f, "{path}:{line}"),
            Origin::File { path, line: None } => f.write_str(path),
            Origin::Environment(name) => write!(f, "env {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong in what the user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub origin: Origin,
    /// What, and what to write instead.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// Everything that is wrong in what the user wrote; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Mistakes(pub Vec<Mistake>);

fn lines(mistakes: &[Mistake]) -> String {
    match mistakes {
        [only] => only.to_string(),
        many => {
            let mut text = format!("{} mistakes", many.len());
            for mistake in many {
                text.push_str("\n  ");
                text.push_str(&mistake.to_string());
            }
            text
        }
    }
}

/// A field that can be set from a document, the environment or a flag.
pub trait Field {
    /// The word for its values: `duration`, `number`, ...
    fn kind(&self) -> &'static str;
    /// Sets it; the error says what to write instead.
    fn assign(&mut self, value: &Value) -> Result<(), String>;
    /// Its value as a person writes it; what [`Field::assign`] reads back.
    fn show(&self) -> String;
    /// Whether its value is for nobody's eyes.
    fn is_secret(&self) -> bool {
        false
    }
    /// Its value as a TOML file holds it.
    fn toml(&self) -> String {
        toml::Value::String(self.show()).to_string()
    }
}

/// One key: its name, the field it fills and what it means. Everything that
/// is said of keys anywhere (defaults, files, environment, help) comes from a
/// list of these.
pub struct Key<C: 'static> {
    /// The name, with dots between its parts.
    pub path: &'static str,
    /// The field that it fills.
    pub field: FieldOf<C>,
    help: &'static str,
    /// The flag that sets it too, if there is one.
    pub flag: Option<Flag>,
}

/// The field of a `C` that a key fills.
pub type FieldOf<C> = for<'a> fn(&'a mut C) -> Box<dyn Field + 'a>;

/// The flag of a key, or of a function's option.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// The word for its value in help; empty for a switch.
    pub value: &'static str,
    /// What it does, as help says it.
    pub about: &'static str,
    /// What is wrong with a value, where that can be told at once.
    pub check: fn(&str) -> Result<(), String>,
}

impl<C> Key<C> {
    /// The key `path` of `field`; `help` says in a sentence what it means, with
    /// `{policies}` for the names of all policies.
    pub const fn new(path: &'static str, field: FieldOf<C>, help: &'static str) -> Self {
        Key {
            path,
            field,
            help,
            flag: None,
        }
    }

    /// The same with a flag.
    pub const fn flag(self, name: &'static str, value: &'static str, about: &'static str) -> Self {
        let flag = Flag {
            name,
            value,
            about,
            check: |_| Ok(()),
        };
        Key {
            flag: Some(flag),
            ..self
        }
    }

    /// The same with a flag whose values are looked at when they are read.
    pub const fn checked(self, check: fn(&str) -> Result<(), String>) -> Self {
        let flag = match self.flag {
            Some(flag) => Some(Flag { check, ..flag }),
            None => None,
        };
        Key { flag, ..self }
    }

    /// What it means, in a sentence.
    pub fn help(&self) -> &'static str {
        self.help
    }

    /// The environment variable that sets it.
    pub fn environment(&self) -> String {
        let mut name = String::from("WEIR_");
        name.extend(self.path.chars().map(|c| match c {
            '.' | '-' => '_',
            other => other.to_ascii_uppercase(),
        }));
        name
    }
}

/// Fills `target` from `table` by the list `keys`.
///
/// `prefix` is where `table` stands: empty, or a path that ends with a dot.
/// Names in `elsewhere` are left alone, the caller reads them. `assigned` is
/// told of each key that was set.
pub fn fill<C>(
    keys: &[Key<C>],
    target: &mut C,
    table: &Table,
    prefix: &str,
    elsewhere: &[&str],
    mistakes: &mut Vec<Mistake>,
    assigned: &mut dyn FnMut(&str, &Origin),
) {
    for (name, tree) in table {
        let path = format!("{prefix}{name}");
        if elsewhere.contains(&path.as_str()) {
            continue;
        }
        let mut wrong = |message| {
            mistakes.push(Mistake {
                origin: tree.origin.clone(),
                message,
            })
        };
        if let Some(key) = keys.iter().find(|key| key.path == path) {
            match (key.field)(target).assign(&tree.value) {
                Ok(()) => assigned(key.path, &tree.origin),
                Err(message) => wrong(format!("{path}: {message}")),
            }
            continue;
        }
        let section = format!("{path}.");
        match &tree.value {
            Value::Table(inner) if keys.iter().any(|key| key.path.starts_with(&section)) => {
                fill(keys, target, inner, &section, elsewhere, mistakes, assigned);
            }
            _ => {
                let known = keys
                    .iter()
                    .map(|key| key.path)
                    .chain(elsewhere.iter().copied());
                wrong(format!("unknown key {path}{}", suggestion(&path, known)));
            }
        }
    }
}

/// Names are alike from this Jaro-Winkler similarity on; below it a suggestion
/// confuses more than it helps.
const ALIKE: f64 = 0.8;

/// Says which of `known` the user may have meant by `name`; empty when none is alike.
pub fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let likeness = |candidate: &str| strsim::jaro_winkler(name, candidate);
    let best = known
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map_or_else(String::new, |(_, candidate)| {
        format!("; did you mean {candidate}?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestion_is_given_only_for_a_name_that_is_alike() {
        let known = || ["http.listen", "log.level"].into_iter();
        assert_eq!(
            suggestion("http.lisen", known()),
            "; did you mean http.listen?"
        );
        assert_eq!(suggestion("zebra", known()), "");
    }

    #[test]
    fn mistakes_are_listed_one_per_line() {
        let mistake = |line| Mistake {
            origin: Origin::File {
                path: "a.toml".to_owned(),
                line: Some(line),
            },
            message: "wrong".to_owned(),
        };
        assert_eq!(Mistakes(vec![mistake(1)]).to_string(), "a.toml:1: wrong");
        let two = Mistakes(vec![mistake(1), mistake(2)]).to_string();
        assert_eq!(two, "2 mistakes\n  a.toml:1: wrong\n  a.toml:2: wrong");
    }
}
