//! What the store holds, as its users see it and as it lies on disk (CBOR
//! maps). A later version may add fields: readers ignore those that they do
//! not know, and every field added later carries a serde default.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use libp2p_identity::PeerId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::function::FunctionSpec;
use crate::id::{CallId, FunctionName, Namespace};

/// A deployed function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// What was deployed.
    pub spec: FunctionSpec,
    /// Counts deployments of this name, from 1.
    pub version: u64,
    /// When the name was first deployed.
    pub created_at: Timestamp,
    /// Whether it was ready once.
    #[serde(default = "yes")]
    pub checked: bool,
    /// Whether the federation has still to be told of it.
    #[serde(default)]
    pub untold: bool,
    /// A newer version that is not in place yet.
    #[serde(default)]
    pub next: Option<Box<VersionRecord>>,
    /// Whether the federation is to be told of that when it is.
    #[serde(default)]
    pub next_untold: bool,
    /// The version that served before.
    #[serde(default)]
    pub previous: Option<Box<VersionRecord>>,
}

/// One version of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// What was deployed.
    pub spec: FunctionSpec,
    /// Counts deployments of this name, from 1.
    pub version: u64,
    /// Whether it was ready once, so that it need not be checked.
    pub checked: bool,
}

/// What records of before versions were checked are taken to be.
fn yes() -> bool {
    true
}

/// What a namespace carries.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRecord {
    /// Annotations, kept to be shown.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Labels, kept to be shown.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// An accepted asynchronous call, as it will be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// This node's id of the call.
    pub id: CallId,
    /// Which function.
    pub function: FunctionName,
    /// The request's method.
    #[serde(with = "method")]
    pub method: Method,
    /// The path after the function's name, with the query.
    pub path: String,
    /// The headers that the function may see.
    #[serde(with = "headers")]
    pub headers: HeaderMap,
    /// The request's body; set by [`Store::accept`](super::Store::accept).
    pub body: StoredBody,
    /// The class that the caller asked for.
    #[serde(default)]
    pub class: Option<String>,
    /// When its answer becomes useless.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Where its result is to be sent.
    #[serde(default)]
    pub callback: Option<String>,
    /// The caller's own id of the call, only ever passed on.
    #[serde(default)]
    pub caller_id: Option<String>,
    /// Attempts begun. Zero in a call that is handed in; read from the store
    /// it may miss the very last attempts before a crash.
    #[serde(default)]
    pub attempts: u32,
    /// How many peers should keep a copy of it.
    #[serde(default)]
    pub durable: u8,
}

/// A call that waits for its result, without the parts that can be large: all
/// that a restarted node needs to put it back in its queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCall {
    /// This node's id of the call.
    pub id: CallId,
    /// Which function.
    pub function: FunctionName,
    /// The class that the caller asked for.
    #[serde(default)]
    pub class: Option<String>,
    /// When its answer becomes useless.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Attempts begun, as far as the disk knows.
    #[serde(default)]
    pub attempts: u32,
    /// How many peers should keep a copy of it.
    #[serde(default)]
    pub durable: u8,
    /// Those that keep one.
    #[serde(default, with = "peers")]
    pub copies: Vec<PeerId>,
}

impl PendingCall {
    pub(super) fn of(call: &CallRecord) -> Self {
        PendingCall {
            id: call.id,
            function: call.function.clone(),
            class: call.class.clone(),
            deadline: call.deadline,
            accepted_at: call.accepted_at,
            attempts: call.attempts,
            durable: call.durable,
            copies: Vec::new(),
        }
    }
}

/// What this node knows of a call of another's that it keeps a copy of, beside
/// the call itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyNote {
    /// The call.
    pub id: CallId,
    /// The node that runs it.
    #[serde(with = "peer")]
    pub owner: PeerId,
    /// This node's turn to run it should its owner be gone, from 1.
    pub turn: u8,
    /// All that keep a copy, in the order of their turns.
    #[serde(with = "peers")]
    pub copies: Vec<PeerId>,
}

/// What a node knows of a call by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStanding {
    /// Nothing.
    Unknown,
    /// It keeps a copy for another node.
    Copied,
    /// It is to run it, or does, or has its result still to deliver.
    Pending,
    /// It has ended, whether or not its result is still kept.
    Done,
}

/// How an asynchronous call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// Which function.
    pub function: FunctionName,
    /// The status: the function's own, or the one that says how the call failed.
    #[serde(with = "status")]
    pub status: StatusCode,
    /// The answer's headers.
    #[serde(with = "headers")]
    pub headers: HeaderMap,
    /// The answer's body; set by [`Store::complete`](super::Store::complete).
    pub body: StoredBody,
    /// Why the function did not answer; `None` when it did, whatever its status.
    #[serde(default)]
    pub error: Option<String>,
    /// When the call was accepted.
    pub accepted_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How long the last attempt ran.
    #[serde(default)]
    pub duration: Duration,
    /// How many attempts it took.
    #[serde(default)]
    pub attempts: u32,
    /// The caller's own id of the call.
    #[serde(default)]
    pub caller_id: Option<String>,
    /// What became of the callback; set by [`Store::complete`](super::Store::complete).
    #[serde(default)]
    pub callback: CallbackState,
}

/// What became of the callback of a call.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallbackState {
    /// None was asked for.
    #[default]
    Unwanted,
    /// It has not been delivered yet.
    Pending,
    /// The target took it.
    Delivered,
    /// Every attempt failed.
    GivenUp,
}

/// A callback that has not been delivered; its result is in the store. It is
/// delivered at least once, and its attempts are counted per life of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCallback {
    /// The call.
    pub id: CallId,
    /// Where its result is to be sent.
    pub url: String,
}

/// A body that the store keeps.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredBody {
    /// Beside its record.
    Inline(#[serde(with = "blob")] Bytes),
    /// In a file of its own.
    File {
        /// Its length.
        bytes: u64,
        /// Tells it from the files of other attempts at the same call.
        serial: FileSerial,
    },
}

/// The part of a body file's name that is drawn anew for each writing: two
/// attempts that both bring a result must not share a file, or the one that
/// came too late would take the other's away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileSerial(NonZeroU64);

impl FileSerial {
    pub(super) fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(FileSerial)
    }

    pub(super) fn draw() -> Self {
        FileSerial(rand::random::<NonZeroU64>())
    }

    pub(super) fn number(self) -> u64 {
        self.0.get()
    }
}

impl StoredBody {
    /// A body of no bytes.
    pub const EMPTY: StoredBody = StoredBody::Inline(Bytes::new());

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            StoredBody::Inline(bytes) => bytes.len() as u64,
            StoredBody::File { bytes, .. } => *bytes,
        }
    }

    pub(super) fn serial(&self) -> Option<FileSerial> {
        match self {
            StoredBody::Inline(_) => None,
            StoredBody::File { serial, .. } => Some(*serial),
        }
    }
}

/// What a call's record and a result's have in common: the body.
#[derive(Deserialize)]
pub(super) struct BodyOf {
    pub(super) body: StoredBody,
}

impl fmt::Debug for StoredBody {
    /// The length only: bodies are the caller's affair and do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredBody::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            StoredBody::File { bytes, .. } => write!(f, "File({bytes} bytes)"),
        }
    }
}

/// The value of a secret. It shows itself to nobody by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Bytes);

impl SecretValue {
    /// Longest secret, in bytes; Kubernetes draws the same line.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Wraps a value.
    pub fn new(value: impl Into<Bytes>) -> Self {
        SecretValue(value.into())
    }

    /// The value itself.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(redacted)")
    }
}

/// The key of something that has a name in a namespace. No name holds a NUL.
pub(super) fn key(namespace: &Namespace, name: &str) -> String {
    format!("{namespace}\0{name}")
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let encoded = cbor4ii::serde::to_vec(Vec::with_capacity(256), value);
    encoded.expect("our own records, written to memory, encode")
}

pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    cbor4ii::serde::from_slice(bytes).map_err(|error| format!("{error:?}"))
}

/// Bytes as one CBOR byte string, where serde would write an array of numbers.
mod blob {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes::copy_from_slice(bytes))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(bytes.into())
            }
        }

        from.deserialize_byte_buf(Visitor)
    }
}

/// A node's id as the byte string of its multihash.
mod peer {
    use super::*;

    pub(super) fn serialize<S: Serializer>(peer: &PeerId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&peer.to_bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PeerId, D::Error> {
        let bytes = blob::deserialize(from)?;
        PeerId::from_bytes(&bytes).map_err(serde::de::Error::custom)
    }
}

/// A list of them.
mod peers {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct One(#[serde(with = "peer")] PeerId);

    pub(super) fn serialize<S: Serializer>(peers: &[PeerId], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(peers.iter().copied().map(One))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PeerId>, D::Error> {
        let peers = Vec::<One>::deserialize(from)?;
        Ok(peers.into_iter().map(|One(peer)| peer).collect())
    }
}

mod method {
    use super::*;

    pub(super) fn serialize<S: Serializer>(method: &Method, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(method.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Method, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

mod status {
    use super::*;

    pub(super) fn serialize<S: Serializer>(status: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u16(status.as_u16())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<StatusCode, D::Error> {
        StatusCode::from_u16(u16::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// Headers as a list of names and byte strings, in order, repeats included.
mod headers {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[derive(Serialize)]
    struct Line<'a>(&'a str, #[serde(with = "blob")] Bytes);

    #[derive(Deserialize)]
    struct OwnedLine(String, #[serde(with = "blob")] Bytes);

    pub(super) fn serialize<S: Serializer>(headers: &HeaderMap, to: S) -> Result<S::Ok, S::Error> {
        let line = |(name, value): (_, &HeaderValue)| {
            let name: &HeaderName = name;
            (
                name.as_str().to_owned(),
                Bytes::copy_from_slice(value.as_bytes()),
            )
        };
        let lines: Vec<_> = headers.iter().map(line).collect();
        to.collect_seq(lines.iter().map(|(name, value)| Line(name, value.clone())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderMap, D::Error> {
        use serde::de::Error;

        let mut headers = HeaderMap::new();
        for OwnedLine(name, value) in Vec::<OwnedLine>::deserialize(from)? {
            let name: HeaderName = name.parse().map_err(D::Error::custom)?;
            let value = HeaderValue::from_maybe_shared(value).map_err(D::Error::custom)?;
            headers.try_append(name, value).map_err(D::Error::custom)?;
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_missing_fields_do_not_break_reading() {
        #[derive(Serialize)]
        struct Later {
            annotations: BTreeMap<String, String>,
            quota: u64,
        }
        let later = Later {
            annotations: BTreeMap::from([("a".into(), "b".into())]),
            quota: 7,
        };
        let read: NamespaceRecord = decode(&encode(&later)).expect("decodes");
        assert_eq!(read.annotations["a"], "b");
        assert!(read.labels.is_empty());
    }

    #[test]
    fn record_survives_its_encoding() {
        let mut headers = HeaderMap::new();
        headers.append("x-twice", "1".parse().expect("header"));
        headers.append("x-twice", "2".parse().expect("header"));
        headers.append(
            "x-bytes",
            http::HeaderValue::from_bytes(b"\xff").expect("header"),
        );
        let result = ResultRecord {
            function: "f.shop".parse().expect("name"),
            status: StatusCode::IM_A_TEAPOT,
            headers,
            body: StoredBody::Inline(Bytes::from_static(b"\0\xff")),
            error: None,
            accepted_at: "2026-01-02T03:04:05.678901Z".parse().expect("time"),
            ended_at: "2026-01-02T03:04:06Z".parse().expect("time"),
            duration: Duration::from_micros(1500),
            attempts: 2,
            caller_id: Some("mine".to_owned()),
            callback: CallbackState::GivenUp,
        };
        assert_eq!(decode(&encode(&result)), Ok(result));
    }

    #[test]
    fn secret_and_body_do_not_show_themselves() {
        let secret = SecretValue::new("hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        let body = StoredBody::Inline(Bytes::from_static(b"hunter2"));
        assert!(!format!("{body:?}").contains("hunter2"));
    }
}
