//! The one list of what a deployment may say of a function. The flags of `weir
//! deploy`, the keys of a project file, the annotations that a node reads and
//! shows, and the manual's table follow from it.

mod kinds;
mod list;
mod rows;

use std::fmt::{self, Write as _};

use weir_node::function::FunctionSpec;

pub use self::kinds::{Kind, count, flag};
pub use self::list::{CHECK, CODE_IMAGE, OPTIONS};
use super::Settings;
use crate::document::Value;
use crate::setting::{FieldOf, Flag};

/// One thing that a deployment may say of a function.
pub struct DeployOption {
    /// Its name, and its key in a project file.
    pub key: &'static str,
    /// The flag of `weir deploy`; without one it is no key of a project file
    /// either: it follows from something else that was said.
    pub flag: Option<Flag>,
    /// How it gets to the node, and what it becomes there.
    pub way: Way,
    /// What holds where nobody says anything, for the manual.
    pub usual: &'static str,
    /// What it means, for the manual.
    pub meaning: &'static str,
    /// A value that is not the usual one, as a flag has it.
    pub example: &'static str,
}

/// How an option gets from who deploys into a function's specification.
pub enum Way {
    /// As one text.
    Text {
        /// Where the text stands.
        place: Place,
        /// How people write it, and how that is written on the way.
        kind: Kind,
        /// Reads it into a specification; each line of an error is a mistake.
        read: fn(&mut FunctionSpec, &str) -> Result<(), String>,
        /// What a node shows of it; `None` where that is what is usual.
        show: fn(&FunctionSpec) -> Option<String>,
    },
    /// As a field that OpenFaaS has for it.
    Field {
        /// Its name on the wire.
        name: &'static str,
        /// Where who deploys keeps it.
        field: FieldOf<Settings>,
    },
}

/// Where the text of an option stands in what is sent to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Among what.
    pub within: Within,
    /// By which name.
    pub name: &'static str,
}

/// What OpenFaaS has for texts by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// Annotations, where Weir's own are.
    Annotations,
    /// Labels.
    Labels,
    /// Limits of memory and processors.
    Limits,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.within {
            Within::Annotations | Within::Labels => f.write_str(self.name),
            Within::Limits => write!(f, "limits.{}", self.name),
        }
    }
}

impl DeployOption {
    /// The option `key` of a project file, or that the program names itself.
    pub fn named(key: &str) -> Option<&'static DeployOption> {
        OPTIONS.iter().find(|option| option.key == key)
    }

    /// Whether it is a list, a table, or one value.
    pub fn shape(&self) -> Shape {
        let kind = match &self.way {
            Way::Text { kind, .. } => kind.word,
            Way::Field { field, .. } => field(&mut Settings::default()).kind(),
        };
        match kind {
            "list" => Shape::List,
            "table" => Shape::Table,
            _ => Shape::One,
        }
    }

    /// The same, with a flag whose values are looked at when they are read.
    const fn checked(self, check: fn(&str) -> Result<(), String>) -> Self {
        let flag = match self.flag {
            Some(flag) => Some(Flag { check, ..flag }),
            None => None,
        };
        DeployOption { flag, ..self }
    }

    /// What is wrong with `value`, if anything is.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        Settings::default().set(self, value)
    }
}

/// How many values an option holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// Any number of them.
    List,
    /// Any number, each with a name.
    Table,
}

/// The names of all annotations that are options.
pub fn annotations() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().filter_map(|option| match &option.way {
        Way::Text { place, .. } => (place.within == Within::Annotations).then_some(place.name),
        Way::Field { .. } => None,
    })
}

/// The table of options for the manual, in Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "| flag of `weir deploy` | key of a project file | annotation or field | default | meaning |\n\
         |---|---|---|---|---|\n",
    );
    for option in OPTIONS {
        let (flag, key) = match &option.flag {
            Some(flag) => {
                let space = if flag.value.is_empty() { "" } else { " " };
                let name = format!("`--{}{space}{}`", flag.name, flag.value);
                (name, format!("`{}`", option.key))
            }
            None => (String::new(), String::new()),
        };
        let place = match &option.way {
            Way::Text { place, .. } => match place.within {
                Within::Annotations | Within::Limits => format!("`{place}`"),
                Within::Labels => format!("label `{place}`"),
            },
            Way::Field { name, .. } => format!("`{name}`"),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "| {flag} | {key} | {place} | {} | {} |",
            option.usual, option.meaning
        );
    }
    text
}

#[cfg(test)]
mod tests;
