//! The types of options: how people write them, and how that is written on its
//! way to a node and read there.

use std::time::Duration;

use weir_node::function::{FunctionSpec, Network, Outbound, Protocol, Pull, Scope};
use weir_node::id::ImageName;
use weir_node::keep::Keeping;
use weir_node::resources::{Cpu, Memory, QuantityError};

use crate::document::Value;
use crate::setting::{Field, PolicyName, Port};

/// How an option is written by people, and how on its way to a node.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The word for its values.
    pub word: &'static str,
    /// What is sent for what was written; `None` for what says nothing.
    pub write: fn(&Value) -> Result<Option<String>, String>,
}

impl Kind {
    pub(super) const TEXT: Kind = Kind::new("text", own::<String>);
    pub(super) const NUMBER: Kind = Kind::new("number", own::<u32>);
    pub(super) const PORT: Kind = Kind::new("port", own::<Port>);
    pub(super) const PROTOCOL: Kind = Kind::new("protocol", own::<Protocol>);
    pub(super) const IMAGE: Kind = Kind::new("image", own::<ImageName>);
    pub(super) const PULL: Kind = Kind::new("word", own::<Pull>);
    pub(super) const NETWORK: Kind = Kind::new("network", own::<Network>);
    pub(super) const KEEPING: Kind = Kind::new("word", own::<Keeping>);
    pub(super) const SCOPE: Kind = Kind::new("scope", own::<Scope>);
    pub(super) const POLICY: Kind = Kind::new("policy", own::<PolicyName>);
    pub(super) const TARGETS: Kind = Kind::new("list", list::<Outbound>);
    pub(super) const WORDS: Kind = Kind::new("list", list::<String>);
    pub(super) const TIME: Kind = Kind::new("duration", |value| {
        let time: Option<Duration> = given(value)?;
        Ok(time.map(|time| humantime::format_duration(time).to_string()))
    });
    /// Bytes without a unit: the one form that every parser of quantities reads alike.
    pub(super) const SIZE: Kind = Kind::new("size", |value| {
        let memory: Option<Memory> = given(value)?;
        Ok(memory.map(|memory| memory.as_bytes().to_string()))
    });
    pub(super) const CORES: Kind = Kind::new("cores", |value| {
        let cpu: Option<Cpu> = given(value)?;
        Ok(cpu.map(|cpu| format!("{}m", cpu.as_millicores())))
    });
    pub(super) const SWITCH: Kind = Kind::new("true or false", |value| switch(value, "true"));
    /// A switch that turns something off.
    pub(super) const UNLESS: Kind = Kind::new("true or false", |value| switch(value, "false"));

    const fn new(word: &'static str, write: fn(&Value) -> Result<Option<String>, String>) -> Self {
        Kind { word, write }
    }
}

fn given<T>(value: &Value) -> Result<Option<T>, String>
where
    Option<T>: Field,
{
    let mut field = None;
    field.assign(value)?;
    Ok(field)
}

fn own<T: ToString>(value: &Value) -> Result<Option<String>, String>
where
    Option<T>: Field,
{
    Ok(given::<T>(value)?.map(|value| value.to_string()))
}

fn list<T: ToString>(value: &Value) -> Result<Option<String>, String>
where
    Vec<T>: Field,
{
    let mut items = Vec::new();
    items.assign(value)?;
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    Ok((!items.is_empty()).then(|| items.join(",")))
}

fn switch(value: &Value, on: &str) -> Result<Option<String>, String> {
    let mut is_on = false;
    is_on.assign(value)?;
    Ok(is_on.then(|| on.to_owned()))
}

/// A duration as a node shows it.
pub(super) fn time(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace(' ', "")
}

/// Words between commas or blanks.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ']).filter(|word| !word.is_empty())
}

/// Reads a whole number.
pub fn count(text: &str) -> Result<u32, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("{text:?} is not a whole number"))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().map(|Port(port)| port.get())
}

/// Reads a truth value.
pub fn flag(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

pub(super) fn read_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| format!("{text:?} is not a duration: write 30s, 200ms or 1m30s"))
}

/// Reads a Kubernetes quantity of bytes; beside Weir's units it knows `T` and `Ti`.
pub(super) fn read_memory(text: &str) -> Result<Memory, String> {
    let parsed = |text: &str| {
        let memory = text.parse();
        memory.map_err(|error: QuantityError| error.to_string())
    };
    let larger = [("Ti", "Gi", 1024), ("T", "G", 1000)];
    for (unit, smaller, times) in larger {
        if let Some(digits) = text.strip_suffix(unit) {
            let memory: Memory = parsed(&format!("{digits}{smaller}"))?;
            return Ok(Memory::bytes(memory.as_bytes().saturating_mul(times)));
        }
    }
    parsed(text)
}

pub(super) fn copies(text: &str) -> Result<u8, String> {
    let most = FunctionSpec::MOST_COPIES;
    let count = text.parse().ok().filter(|count| (1..=most).contains(count));
    count.ok_or_else(|| format!("write how many members keep the code, 1 to {most}"))
}

pub(super) fn durable(text: &str) -> Result<u8, String> {
    let most = FunctionSpec::MOST_DURABLE;
    let count = text.parse().ok().filter(|count| *count <= most);
    count.ok_or_else(|| format!("write how many peers keep each asynchronous call, 0 to {most}"))
}
