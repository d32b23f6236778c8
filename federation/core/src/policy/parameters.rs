//! How a policy is chosen, and with which parameters: what configuration and
//! functions write, read once and checked.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::{KINDS, Policy};

/// Longest text of a choice, in bytes: functions carry it in a label.
pub const CHOICE_BYTES_MAX: usize = 512;

/// A policy that there is, as the list has it.
#[derive(Debug)]
pub struct Kind {
    /// Its name in configuration, metrics and explanations.
    pub name: &'static str,
    /// What it does, in one sentence without its name and without a full stop.
    pub about: &'static str,
    /// Its parameters.
    pub keys: &'static [Key],
    /// Makes one, from parameters that were checked.
    pub build: fn(&Parameters) -> Arc<dyn Policy>,
}

/// A parameter of a policy.
#[derive(Debug)]
pub struct Key {
    /// Its name: lower-case words with hyphens.
    pub name: &'static str,
    /// What it sets, in one sentence without a full stop.
    pub about: &'static str,
    /// In which unit it counts; empty for none, and for times, which carry theirs.
    pub unit: &'static str,
    /// Which values it may have.
    pub range: Range,
    /// What it is where nothing is written, as it would be written.
    pub default: &'static str,
}

/// Which values a parameter may have.
#[derive(Debug, Clone, Copy)]
pub enum Range {
    /// A number.
    Number {
        /// At the least.
        least: f64,
        /// At the most.
        most: f64,
    },
    /// A whole number.
    Whole {
        /// At the least.
        least: u64,
        /// At the most.
        most: u64,
    },
    /// A time, written as `250ms`, `5s`, `2m` or `1h`.
    Time {
        /// At the least.
        least: Duration,
        /// At the most.
        most: Duration,
    },
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A text of a shape that the policy reads itself, without commas.
    Shape {
        /// Its longest, in bytes.
        bytes_max: usize,
        /// The shape, as it is written down for people.
        shape: &'static str,
        /// Whether a text is of it; the empty one is where nothing is written.
        reads: fn(&str) -> bool,
    },
    /// A text that the policy reads itself, without commas.
    Text {
        /// Its longest, in bytes.
        bytes_max: usize,
    },
}

/// A value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of [`Range::Number`].
    Number(f64),
    /// Of [`Range::Whole`].
    Whole(u64),
    /// Of [`Range::Time`].
    Time(Duration),
    /// Of [`Range::Flag`].
    Flag(bool),
    /// Of [`Range::Word`].
    Word(&'static str),
    /// Of [`Range::Shape`] and [`Range::Text`].
    Text(String),
}

/// All parameters of a policy, those too of which nothing was written.
#[derive(Debug)]
pub struct Parameters(Vec<(&'static str, Value)>);

/// A policy and the parameters that it is to have, as `name` or
/// `name:key=value,key=value`. The name alone takes the usual ones.
#[derive(Clone)]
pub struct Choice {
    kind: &'static Kind,
    given: Vec<(&'static Key, Value)>,
}

/// Why a text chooses no policy: all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .mistakes.join("; "))]
pub struct Wrong {
    /// Each mistake, with what to write instead.
    pub mistakes: Vec<String>,
}

impl Range {
    /// Reads a value.
    ///
    /// # Errors
    /// When it is none of this range.
    pub fn read(&self, text: &str) -> Result<Value, Outside> {
        let value = match *self {
            Range::Number { least, most } => {
                let number = text.parse().ok();
                let number = number.filter(|number| (least..=most).contains(number));
                number.map(Value::Number)
            }
            Range::Whole { least, most } => {
                let whole = text.parse().ok();
                let whole = whole.filter(|whole| (least..=most).contains(whole));
                whole.map(Value::Whole)
            }
            Range::Time { least, most } => {
                let time = time(text).filter(|time| (least..=most).contains(time));
                time.map(Value::Time)
            }
            Range::Flag => text.parse().ok().map(Value::Flag),
            Range::Word(words) => {
                let word = words.iter().find(|word| **word == text);
                word.map(|word| Value::Word(word))
            }
            Range::Shape {
                bytes_max, reads, ..
            } => {
                let fits = text.len() <= bytes_max && !text.contains(',') && reads(text);
                fits.then(|| Value::Text(text.to_owned()))
            }
            Range::Text { bytes_max } => {
                let fits = text.len() <= bytes_max && !text.contains(',');
                fits.then(|| Value::Text(text.to_owned()))
            }
        };
        value.ok_or(Outside)
    }
}

/// A value is none of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside;

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::Number { least, most } => write!(f, "a number from {least} to {most}"),
            Range::Whole { least, most } => write!(f, "a whole number from {least} to {most}"),
            Range::Time { least, most } => {
                write!(f, "a time from {} to {}", Written(*least), Written(*most))
            }
            Range::Flag => f.write_str("true or false"),
            Range::Word(words) => f.write_str(&words.join(", ")),
            Range::Shape { shape, .. } => f.write_str(shape),
            Range::Text { bytes_max } => write!(f, "a text of at most {bytes_max} bytes"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => number.fmt(f),
            Value::Whole(whole) => whole.fmt(f),
            Value::Time(time) => Written(*time).fmt(f),
            Value::Flag(flag) => flag.fmt(f),
            Value::Word(word) => f.write_str(word),
            Value::Text(text) => f.write_str(text),
        }
    }
}

/// Units of time, in nanoseconds, the longest first.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A time as it is written, in the longest unit in which it is a whole number.
struct Written(Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let whole = |(_, of): &&(&str, u128)| nanos != 0 && nanos.is_multiple_of(*of);
        match UNITS.iter().find(whole) {
            Some((unit, of)) => write!(f, "{}{unit}", nanos / *of),
            None => f.write_str("0s"),
        }
    }
}

/// Reads a whole number of a unit of time.
fn time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, of) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let nanos = number.parse::<u128>().ok()?.checked_mul(*of)?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

impl Parameters {
    fn of(&self, key: &str) -> &Value {
        let found = self.0.iter().find(|(name, _)| *name == key);
        &found.expect("a policy asks for its own parameters").1
    }

    /// The value of a parameter that is a number.
    ///
    /// # Panics
    /// As all of these do where the policy has no such parameter, or one of
    /// another range: a mistake in its own file.
    pub fn number(&self, key: &str) -> f64 {
        match self.of(key) {
            Value::Number(number) => *number,
            other => panic!("{key} is no number but {other:?}"),
        }
    }

    /// The same of one that is a whole number.
    pub fn whole(&self, key: &str) -> u64 {
        match self.of(key) {
            Value::Whole(whole) => *whole,
            other => panic!("{key} is no whole number but {other:?}"),
        }
    }

    /// The same of one that is a time.
    pub fn time(&self, key: &str) -> Duration {
        match self.of(key) {
            Value::Time(time) => *time,
            other => panic!("{key} is no time but {other:?}"),
        }
    }

    /// The same of one that is true or false.
    pub fn flag(&self, key: &str) -> bool {
        match self.of(key) {
            Value::Flag(flag) => *flag,
            other => panic!("{key} is no flag but {other:?}"),
        }
    }

    /// The same of one that is a word.
    pub fn word(&self, key: &str) -> &'static str {
        match self.of(key) {
            Value::Word(word) => word,
            other => panic!("{key} is no word but {other:?}"),
        }
    }

    /// The same of one that is a text.
    pub fn text(&self, key: &str) -> &str {
        match self.of(key) {
            Value::Text(text) => text,
            other => panic!("{key} is no text but {other:?}"),
        }
    }
}

impl Choice {
    /// The policy of this kind, with the usual parameters.
    pub fn of(kind: &'static Kind) -> Choice {
        Choice {
            kind,
            given: Vec::new(),
        }
    }

    /// Reads a choice of one of `kinds`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(text: &str, kinds: &'static [Kind]) -> Result<Choice, Wrong> {
        if text.len() > CHOICE_BYTES_MAX {
            let text = format!("a policy is written in at most {CHOICE_BYTES_MAX} bytes");
            return Err(Wrong {
                mistakes: vec![text],
            });
        }
        let (name, parameters) = match text.split_once(':') {
            Some((name, parameters)) => (name.trim(), parameters),
            None => (text.trim(), ""),
        };
        let Some(kind) = kinds.iter().find(|kind| kind.name == name) else {
            let names: Vec<_> = kinds.iter().map(|kind| kind.name).collect();
            let text = format!("{name:?} is no policy: write one of {}", names.join(", "));
            return Err(Wrong {
                mistakes: vec![text],
            });
        };
        let mut choice = Choice::of(kind);
        let mut mistakes = Vec::new();
        let pairs = parameters.split(',').map(str::trim);
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            if let Err(mistake) = choice.give(pair) {
                mistakes.push(mistake);
            }
        }
        match mistakes.is_empty() {
            true => Ok(choice),
            false => Err(Wrong { mistakes }),
        }
    }

    fn give(&mut self, pair: &str) -> Result<(), String> {
        let Kind { name, keys, .. } = self.kind;
        let Some((key, value)) = pair.split_once('=') else {
            return Err(format!(
                "{pair:?} is no parameter of policy {name}: write key=value"
            ));
        };
        let (key, value) = (key.trim(), value.trim());
        let Some(key) = keys.iter().find(|has| has.name == key) else {
            let has: Vec<_> = keys.iter().map(|key| key.name).collect();
            return Err(match has.is_empty() {
                true => format!("policy {name} has no parameters, so no {key:?}"),
                false => format!(
                    "policy {name} has no parameter {key:?}: it has {}",
                    has.join(", ")
                ),
            });
        };
        if self.given.iter().any(|(given, _)| given.name == key.name) {
            return Err(format!("{} of policy {name} is given twice", key.name));
        }
        let read = key.range.read(value).map_err(|Outside| {
            let unit = match key.unit {
                "" => String::new(),
                unit => format!(" ({unit})"),
            };
            format!(
                "{} of policy {name} is {value:?}: write {}{unit}",
                key.name, key.range
            )
        })?;
        self.given.push((key, read));
        Ok(())
    }

    /// Which policy it is.
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// Its parameters.
    pub fn parameters(&self) -> Parameters {
        let value = |key: &'static Key| {
            let given = self.given.iter().find(|(given, _)| given.name == key.name);
            match given {
                Some((_, value)) => value.clone(),
                None => {
                    let usual = key.range.read(key.default);
                    usual.expect("a default is in its range")
                }
            }
        };
        let keys = self.kind.keys.iter();
        Parameters(keys.map(|key| (key.name, value(key))).collect())
    }

    /// Makes the policy, with a memory of its own.
    pub fn build(&self) -> Arc<dyn Policy> {
        (self.kind.build)(&self.parameters())
    }
}

impl Default for Choice {
    fn default() -> Choice {
        let [first, ..] = &KINDS;
        Choice::of(first)
    }
}

impl FromStr for Choice {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Choice, Wrong> {
        Choice::read(text, &KINDS)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name)?;
        for (at, (key, value)) in self.given.iter().enumerate() {
            let before = if at == 0 { ':' } else { ',' };
            write!(f, "{before}{}={value}", key.name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Choice {
    fn eq(&self, other: &Choice) -> bool {
        self.to_string() == other.to_string()
    }
}

#[cfg(test)]
mod tests;
