//! Values as people write them: how each type is read from text and shown.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use weir_federation::federated::Registry;
use weir_federation::membership::Token;
use weir_federation::policy;
use weir_federation::report::Role;
use weir_federation::{Endpoint, Multiaddr};
use weir_node::function::{CodeSource, Network, Outbound, Protocol, Pull, Scope};
use weir_node::id::ImageName;
use weir_node::keep::Keeping;
use weir_node::resources::{Cpu, Memory};

use super::Field;
use crate::document::Value;

/// A value that is one text.
trait Scalar: Sized {
    const KIND: &'static str;
    /// Whether TOML writes it without quotes.
    const BARE: bool = false;
    /// Whether whoever reads it can do what its owner can.
    const SECRET: bool = false;
    fn read(text: &str) -> Result<Self, String>;
    fn write(&self) -> String;
    /// The one text that a file says in another way.
    fn spelled(_: &Value) -> Result<Option<String>, String> {
        Ok(None)
    }
}

impl<T: Scalar> Field for T {
    fn kind(&self) -> &'static str {
        T::KIND
    }
    fn assign(&mut self, value: &Value) -> Result<(), String> {
        let spelled = T::spelled(value)?;
        let text = match (value, &spelled) {
            (Value::Text(text), _) | (_, Some(text)) => text,
            (value, None) => {
                return Err(format!("expects one {}, not a {}", T::KIND, value.kind()));
            }
        };
        *self = T::read(text)?;
        Ok(())
    }
    fn show(&self) -> String {
        self.write()
    }
    fn is_secret(&self) -> bool {
        T::SECRET
    }
    fn toml(&self) -> String {
        if T::BARE {
            self.write()
        } else {
            toml::Value::String(self.write()).to_string()
        }
    }
}

/// Reads with the type's own parser, whose error is already made for people.
fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Scalar for $number {
            const KIND: &'static str = "number";
            const BARE: bool = true;
            fn read(text: &str) -> Result<Self, String> {
                let bounds = format!("0 to {}", <$number>::MAX);
                text.parse().map_err(|_| format!("{text:?} is not a whole number from {bounds}"))
            }
            fn write(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
numbers!(u32, usize);

/// A `u64` is an amount of bytes wherever configuration holds one.
impl Scalar for u64 {
    const KIND: &'static str = "size";
    fn read(text: &str) -> Result<Self, String> {
        parsed::<Memory>(text).map(Memory::as_bytes)
    }
    fn write(&self) -> String {
        Memory::bytes(*self).to_string()
    }
}

impl Scalar for bool {
    const KIND: &'static str = "true or false";
    const BARE: bool = true;
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is neither true nor false"))
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

impl Scalar for Duration {
    const KIND: &'static str = "duration";
    fn read(text: &str) -> Result<Self, String> {
        duration(text)
    }
    fn write(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

/// Reads a duration with its unit, as flags and files have it.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a duration: write it with a unit (200ms, 30s, 10m)"))
}

impl Scalar for SocketAddr {
    const KIND: &'static str = "address";
    fn read(text: &str) -> Result<Self, String> {
        listen_address(text, Ipv4Addr::LOCALHOST)
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

/// An address to listen at that is for other machines: every one of this one's,
/// where only a port is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Everywhere(pub SocketAddr);

impl Scalar for Everywhere {
    const KIND: &'static str = "address";
    fn read(text: &str) -> Result<Self, String> {
        listen_address(text, Ipv4Addr::UNSPECIFIED).map(Everywhere)
    }
    fn write(&self) -> String {
        self.0.to_string()
    }
}

/// Reads an address as people write it: `8080` and `:8080` are a port of `host`,
/// `localhost` is this machine.
fn listen_address(text: &str, host: Ipv4Addr) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (name, port) = text.rsplit_once(':').unwrap_or(("", text));
    let host = match name {
        "" => Some(host),
        "localhost" => Some(Ipv4Addr::LOCALHOST),
        _ => None,
    };
    let port = port.parse().ok();
    host.zip(port)
        .map(|(host, port)| SocketAddr::from((host, port)))
        .ok_or_else(|| {
            format!(
                "{text:?} is not an address to listen at: write IP:PORT or a port alone \
                 (127.0.0.1:8080, [::]:8080, 8080)"
            )
        })
}

/// Reads a multiaddress, or what people write instead: an address or a host with
/// a port, which means TCP.
pub fn multiaddress(text: &str) -> Result<Multiaddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = || {
        format!(
            "{text:?} is not a multiaddress: write /ip4/192.0.2.1/tcp/4001, \
             /dns/weir.example/tcp/4001 or 192.0.2.1:4001"
        )
    };
    let spelled = match listen_address(text, Ipv4Addr::UNSPECIFIED) {
        Ok(SocketAddr::V4(address)) => format!("/ip4/{}/tcp/{}", address.ip(), address.port()),
        Ok(SocketAddr::V6(address)) => format!("/ip6/{}/tcp/{}", address.ip(), address.port()),
        Err(_) => {
            let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
            let port: u16 = port.parse().map_err(|_| wrong())?;
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
            if host.is_empty() || !host.chars().all(fine) {
                return Err(wrong());
            }
            format!("/dns/{host}/tcp/{port}")
        }
    };
    spelled.parse().map_err(|_| wrong())
}

impl Scalar for String {
    const KIND: &'static str = "text";
    fn read(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn write(&self) -> String {
        self.clone()
    }
}

impl Scalar for PathBuf {
    const KIND: &'static str = "path";
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("is empty: write a path".to_owned())
        } else {
            Ok(text.into())
        }
    }
    fn write(&self) -> String {
        self.display().to_string()
    }
}

macro_rules! parsed_scalars {
    ($($scalar:ty: $kind:literal),*) => {$(
        impl Scalar for $scalar {
            const KIND: &'static str = $kind;
            fn read(text: &str) -> Result<Self, String> {
                parsed(text)
            }
            fn write(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
impl Scalar for Token {
    const KIND: &'static str = "token";
    const SECRET: bool = true;
    fn read(text: &str) -> Result<Self, String> {
        parsed(text)
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

parsed_scalars!(
    Role: "role", Registry: "registry",
    Memory: "size", Cpu: "cores", Protocol: "protocol", CodeSource: "image", ImageName: "image",
    Port: "port", Pull: "word", Network: "network", Scope: "scope", Keeping: "word"
);

/// A port that something listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub std::num::NonZeroU16);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Port {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.trim().parse().map(Port);
        port.map_err(|_| format!("{text:?} is not a port: write a number from 1 to 65535"))
    }
}

/// A policy that exists, with its parameters: `NAME` or `NAME:KEY=VALUE,...`.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct PolicyName(pub policy::Choice);

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PolicyName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let choice = text.parse().map(PolicyName);
        choice.map_err(|wrong: policy::Wrong| wrong.to_string())
    }
}

impl Scalar for PolicyName {
    const KIND: &'static str = "policy";
    fn read(text: &str) -> Result<Self, String> {
        parsed(text)
    }
    fn write(&self) -> String {
        self.to_string()
    }
    /// A table of `name` and the policy's parameters.
    fn spelled(value: &Value) -> Result<Option<String>, String> {
        let Value::Table(table) = value else {
            return Ok(None);
        };
        let mut name = None;
        let mut parameters = Vec::new();
        for (key, tree) in table {
            match &tree.value {
                Value::Text(text) if key == "name" => name = Some(text.as_str()),
                Value::Text(text) => parameters.push(format!("{key}={text}")),
                other => return Err(format!("{key} expects one text, not a {}", other.kind())),
            }
        }
        let name = name.ok_or("a policy's table lacks its name")?;
        Ok(Some(match parameters.is_empty() {
            true => name.to_owned(),
            false => format!("{name}:{}", parameters.join(",")),
        }))
    }
}

/// `none` where a value may be missing.
impl<T: Scalar> Scalar for Option<T> {
    const KIND: &'static str = T::KIND;
    const SECRET: bool = T::SECRET;
    fn spelled(value: &Value) -> Result<Option<String>, String> {
        T::spelled(value)
    }
    fn read(text: &str) -> Result<Self, String> {
        if text == "none" {
            Ok(None)
        } else {
            T::read(text).map(Some)
        }
    }
    fn write(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), T::write)
    }
}

/// A value that is either given or found out from the machine at start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Auto<T> {
    /// Found out at start; written `auto`.
    #[default]
    Auto,
    /// Given.
    Given(T),
}

impl<T> Auto<T> {
    /// The given value, or what `found` says.
    pub fn or_else(self, found: impl FnOnce() -> T) -> T {
        match self {
            Auto::Auto => found(),
            Auto::Given(value) => value,
        }
    }
}

impl<T: Scalar> Scalar for Auto<T> {
    const KIND: &'static str = T::KIND;
    fn read(text: &str) -> Result<Self, String> {
        if text == "auto" {
            Ok(Auto::Auto)
        } else {
            T::read(text).map(Auto::Given)
        }
    }
    fn write(&self) -> String {
        match self {
            Auto::Auto => "auto".to_owned(),
            Auto::Given(value) => value.write(),
        }
    }
}

/// A field of the shell's own type that people write as an `S`.
pub struct View<'a, T, S> {
    /// The field.
    pub field: &'a mut T,
    /// What the written value makes it.
    pub read: fn(S) -> T,
    /// How it is written.
    pub write: fn(&T) -> S,
}

impl<T, S: Scalar> Field for View<'_, T, S> {
    fn kind(&self) -> &'static str {
        S::KIND
    }
    fn assign(&mut self, value: &Value) -> Result<(), String> {
        let mut written = (self.write)(self.field);
        written.assign(value)?;
        *self.field = (self.read)(written);
        Ok(())
    }
    fn show(&self) -> String {
        (self.write)(self.field).show()
    }
    fn is_secret(&self) -> bool {
        S::SECRET
    }
    fn toml(&self) -> String {
        (self.write)(self.field).toml()
    }
}

/// A field that people write as what it is.
struct Plain<'a, T>(&'a mut T);

impl<T: Field> Field for Plain<'_, T> {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }
    fn assign(&mut self, value: &Value) -> Result<(), String> {
        self.0.assign(value)
    }
    fn show(&self) -> String {
        self.0.show()
    }
    fn is_secret(&self) -> bool {
        self.0.is_secret()
    }
    fn toml(&self) -> String {
        self.0.toml()
    }
}

/// The field itself, where nothing lies between it and what people write.
pub fn plain<T: Field>(field: &mut T) -> Box<dyn Field + '_> {
    Box::new(Plain(field))
}

/// A list that is read item by item; a text is split at its commas.
macro_rules! lists {
    ($($item:ty: $read:expr),*) => {$(
        impl Field for Vec<$item> {
            fn kind(&self) -> &'static str {
                "list"
            }
            fn assign(&mut self, value: &Value) -> Result<(), String> {
                *self = texts(value)?.iter().map(|text| $read(text)).collect::<Result<_, _>>()?;
                Ok(())
            }
            fn show(&self) -> String {
                self.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
            fn toml(&self) -> String {
                let items = self.iter().map(|item| toml::Value::String(item.to_string()));
                toml::Value::Array(items.collect()).to_string()
            }
        }
    )*};
}
lists!(
    String: parsed, Outbound: parsed, Multiaddr: multiaddress, Endpoint: parsed
);

fn texts(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Text(text) => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Ok(items.map(str::to_owned).collect())
        }
        Value::List(items) => items
            .iter()
            .map(|item| match &item.value {
                Value::Text(text) => Ok(text.clone()),
                other => Err(format!(
                    "expects a list of texts, not of a {}",
                    other.kind()
                )),
            })
            .collect(),
        Value::Empty => Ok(Vec::new()),
        Value::Table(_) => Err("expects a list, not a table".to_owned()),
    }
}

impl Field for BTreeMap<String, String> {
    fn kind(&self) -> &'static str {
        "table"
    }
    fn assign(&mut self, value: &Value) -> Result<(), String> {
        let table = match value {
            Value::Table(table) => table,
            Value::Empty => return Ok(()),
            // As the environment and flags write it.
            Value::Text(_) => {
                for pair in texts(value)? {
                    let split = pair.split_once('=').filter(|(key, _)| !key.is_empty());
                    let (key, text) = split.ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
                    self.insert(key.trim().to_owned(), text.trim().to_owned());
                }
                return Ok(());
            }
            other => return Err(format!("expects a table, not a {}", other.kind())),
        };
        for (key, item) in table {
            let text = match &item.value {
                Value::Text(text) => text.clone(),
                Value::Empty => String::new(),
                other => return Err(format!("expects a text for {key}, not a {}", other.kind())),
            };
            self.insert(key.clone(), text);
        }
        Ok(())
    }
    fn show(&self) -> String {
        self.iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// Reads `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_reads_back_what_it_shows() {
        fn check(field: &mut dyn Field, text: &str) {
            field.assign(&Value::Text(text.to_owned())).expect("valid");
            assert_eq!(field.show(), text);
        }
        check(&mut 0_usize, "12");
        check(&mut 0_u64, "64MiB");
        check(&mut Duration::from_secs(1), "1m 30s");
        check(&mut Auto::<Cpu>::Auto, "0.5");
        check(&mut Auto::Given(Memory::ZERO), "auto");
        check(&mut Some(String::new()), "none");
        check(&mut Vec::<String>::new(), "a,b");
        check(&mut Vec::<Outbound>::new(), "a.example:443");
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let listen = |text: &str| SocketAddr::read(text).map(|a| a.to_string());
        for (text, expected) in [
            ("127.0.0.1:8090", "127.0.0.1:8090"),
            ("8090", "127.0.0.1:8090"),
            (":8090", "127.0.0.1:8090"),
            ("localhost:8090", "127.0.0.1:8090"),
            ("[::1]:8090", "[::1]:8090"),
        ] {
            assert_eq!(listen(text).as_deref(), Ok(expected), "{text}");
        }
        let everywhere = Everywhere::read(":4002").map(|address| address.0.to_string());
        assert_eq!(everywhere.as_deref(), Ok("0.0.0.0:4002"));
        for wrong in [
            "",
            "nowhere",
            "weir.example:1",
            "localhost",
            "1:2:3",
            "99999",
        ] {
            let told = listen(wrong).expect_err(wrong);
            assert!(told.contains("127.0.0.1:8080"), "{told}");
        }
        let many = |text: &str| multiaddress(text).map(|a| a.to_string());
        for (text, expected) in [
            (
                "/ip4/0.0.0.0/udp/4001/quic-v1",
                "/ip4/0.0.0.0/udp/4001/quic-v1",
            ),
            ("0.0.0.0:4001", "/ip4/0.0.0.0/tcp/4001"),
            ("[::]:4001", "/ip6/::/tcp/4001"),
            (":4001", "/ip4/0.0.0.0/tcp/4001"),
            ("weir.example:4001", "/dns/weir.example/tcp/4001"),
        ] {
            assert_eq!(many(text).as_deref(), Ok(expected), "{text}");
        }
        for wrong in ["weir.example", "/ip4/1.2.3/tcp/1", "a b:1", "host:port"] {
            let told = many(wrong).expect_err(wrong);
            assert!(told.contains("/ip4/192.0.2.1/tcp/4001"), "{told}");
        }
    }
}
