//! What two nodes say to each other about a call, beside the call itself. It
//! travels in one header of its own, which no client may send.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use libp2p_identity::PeerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use weir_node::id::{CallId, FunctionName};
use weir_node::invocation::{Answer, InvokeError, Phase, Refusal, Start, Timing};

use crate::answers::Told;
use crate::report::Load;

/// The header of a [`Look`]; its answer comes in [`CARRIAGE`].
pub const LOOK: HeaderName = HeaderName::from_static("x-weir-look");

/// The header; its name begins as all do that the door takes from clients.
pub const CARRIAGE: HeaderName = HeaderName::from_static("x-weir-carriage");

/// Longest such header in bytes.
const BYTES: usize = 4 << 10;

/// Nodes that a call may have visited.
pub const PATH: usize = 16;

/// A call on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Travelling {
    /// The function, as `name.namespace`.
    pub function: String,
    /// The id that the first node gave it.
    pub call: String,
    /// Nodes that it visited, the sender not included: its connection says
    /// who that is.
    #[serde(default)]
    pub visited: Vec<ByteBuf>,
    /// How many more nodes it may visit after this one.
    pub hops: u8,
    /// Milliseconds that are left of its deadline; `None` for no deadline.
    #[serde(default)]
    pub left: Option<u64>,
    /// Its QoS class.
    #[serde(default)]
    pub class: Option<String>,
    /// The sender's region, where it is a cloud node.
    #[serde(default)]
    pub region: Option<String>,
    /// The sender's zone, where it is an edge node.
    #[serde(default)]
    pub zone: Option<String>,
    /// Version of the function's record that the sender knows; 0 for none.
    #[serde(default)]
    pub version: u64,
    /// Milliseconds that it may wait for a place; 0 for none.
    #[serde(default)]
    pub wait: u64,
    /// Microseconds that the sender expects it to run; 0 when it does not know.
    #[serde(default)]
    pub service: u64,
}

/// A question whether a function could be called at a node, and how often. It
/// asks for a place, and has the code brought where that is missing. One that
/// names no function asks only whether the node answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The function, as `name.namespace`; empty for none.
    #[serde(default)]
    pub function: String,
    /// Version of its record that the asking node knows; 0 for none.
    #[serde(default)]
    pub version: u64,
    /// Whether to bring the code.
    #[serde(default)]
    pub bring: bool,
    /// Places that are wanted.
    #[serde(default)]
    pub most: u32,
    /// Milliseconds to wait for a place, or for the code.
    #[serde(default)]
    pub wait: u64,
    /// Microseconds that a call is expected to run; 0 when nobody knows.
    #[serde(default)]
    pub service: u64,
}

/// The answer to a [`Look`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// What the node says of itself.
    #[serde(default)]
    pub told: Reply,
    /// Why there is no place, for people.
    #[serde(default)]
    pub text: String,
}

/// What a node tells whoever sent it a call, or asked: all of it as it is for
/// that one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// How loaded the node is.
    pub load: Option<Load>,
    /// Calls of the function that it would take now; `None` when it does not
    /// have the function.
    pub places: Option<u32>,
    /// Calls of the function that it holds of the one who is told, the one that
    /// this answers not included.
    pub held: u32,
    /// Whether the call keeps its place until its answer has been read.
    pub streams: bool,
    /// Why it was refused: a word of [`Why`](crate::answers::Why).
    pub why: Option<String>,
    /// Milliseconds until the code is expected to be there, where it is brought.
    pub ready_in: u64,
    /// Which calls of the class of the one that this answers are admitted: those
    /// whose lot is below this, of 128. `None` for all; older nodes skip it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u64>,
}

impl Reply {
    /// What that says.
    pub fn said(&self) -> Told {
        Told {
            load: self.load.filter(Load::is_plausible),
            places: self.places,
            held: self.held,
            ready_in: Duration::from_millis(self.ready_in),
            level: Told::level_of(self.level),
        }
    }
}

/// How a call went, with how loaded the node is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// `answer`, `refused`, or the word of an error.
    pub kind: String,
    /// What the node says of itself.
    #[serde(default)]
    pub told: Reply,
    /// Whether it was a cold start.
    #[serde(default)]
    pub cold: bool,
    /// Microseconds that it waited, was started for and ran.
    #[serde(default)]
    pub micros: [u64; 3],
    /// The node that ran it, where that is not the one that answers.
    #[serde(default)]
    pub ran_on: Option<String>,
}

/// The word of an answer that a function gave.
pub const ANSWER: &str = "answer";
/// The word of a refusal: the call cannot have begun.
pub const REFUSED: &str = "refused";

impl Travelling {
    /// The id that the first node gave the call.
    pub fn id(&self) -> Option<CallId> {
        self.call.parse().ok()
    }

    /// Which function; `None` when that is no name.
    pub fn name(&self) -> Option<FunctionName> {
        self.function.parse().ok()
    }

    /// Nodes that it visited; `None` when those are too many, or no ids.
    pub fn path(&self) -> Option<Vec<PeerId>> {
        if self.visited.len() > PATH {
            return None;
        }
        let ids = self.visited.iter().map(|id| PeerId::from_bytes(id).ok());
        ids.collect()
    }
}

impl Arrived {
    /// What is said of an answer.
    pub fn answer(answer: &Answer, told: Reply) -> Arrived {
        let Timing {
            queued,
            started,
            ran,
            ..
        } = answer.timing;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Arrived {
            kind: ANSWER.to_owned(),
            told,
            cold: answer.start == Start::Cold,
            micros: [queued, started, ran].map(micros),
            ran_on: answer.ran_on.as_deref().map(str::to_owned),
        }
    }

    /// What is said of a call that has no answer.
    pub fn without(error: &InvokeError, told: Reply) -> Arrived {
        let kind = match error {
            // None of these has begun.
            InvokeError::Refused { .. }
            | InvokeError::CannotRun { .. }
            | InvokeError::Unknown(_)
            | InvokeError::Class(_) => REFUSED,
            InvokeError::Late {
                phase: Phase::Queue | Phase::Start,
                ..
            } => REFUSED,
            InvokeError::Late {
                phase: Phase::Run, ..
            } => "late",
            InvokeError::Failed(_) => "function-failed",
            InvokeError::PeerLost(_) => "peer-lost",
            InvokeError::Body(_) => "body",
            InvokeError::Unfit(_) => "unfit-request",
            InvokeError::Internal(_) => "internal",
        };
        Arrived {
            kind: kind.to_owned(),
            told,
            cold: false,
            micros: [0; 3],
            ran_on: None,
        }
    }

    /// Where the time went.
    pub fn timing(&self) -> (Start, Timing) {
        let [queued, started, ran] = self.micros.map(Duration::from_micros);
        let timing = Timing {
            fetched: Duration::ZERO,
            queued,
            started,
            ran,
        };
        let start = if self.cold { Start::Cold } else { Start::Warm };
        (start, timing)
    }

    /// The error that `text` explains, for kinds other than `answer` and
    /// `refused`.
    pub fn error(&self, text: String, left: Duration) -> InvokeError {
        match self.kind.as_str() {
            "late" => InvokeError::Late {
                phase: Phase::Run,
                after: left,
            },
            "peer-lost" => InvokeError::PeerLost(text),
            "body" => InvokeError::Body(text.into()),
            "unfit-request" => InvokeError::Unfit(text),
            REFUSED => InvokeError::Refused {
                reason: Refusal::NobodyHasRoom,
                retry_after: Duration::from_secs(1),
            },
            _ => InvokeError::Failed(text),
        }
    }
}

/// Writes the header.
pub fn put<T: Serialize>(headers: &mut HeaderMap, words: &T) {
    put_in(headers, CARRIAGE, words);
}

/// Writes one of these headers.
pub fn put_in<T: Serialize>(headers: &mut HeaderMap, name: HeaderName, words: &T) {
    let bytes = cbor4ii::serde::to_vec(Vec::with_capacity(256), words);
    let bytes = bytes.expect("plain values can be encoded");
    let text = URL_SAFE_NO_PAD.encode(bytes);
    let value = HeaderValue::try_from(text).expect("base64 is plain text");
    headers.insert(name, value);
}

/// Takes the header out; `None` when there is none, or it cannot be read.
pub fn take<T: DeserializeOwned>(headers: &mut HeaderMap) -> Option<T> {
    take_from(headers, CARRIAGE)
}

/// Takes one of these headers out.
pub fn take_from<T: DeserializeOwned>(headers: &mut HeaderMap, name: HeaderName) -> Option<T> {
    let value = headers.remove(name)?;
    if value.len() > BYTES {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(value.as_bytes()).ok()?;
    cbor4ii::serde::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn travelling() -> Travelling {
        let key = libp2p_identity::Keypair::ed25519_from_bytes([7; 32]).expect("32 bytes");
        let id = key.public().to_peer_id();
        Travelling {
            function: "shout.openfaas-fn".to_owned(),
            call: CallId::new([7; 16]).to_string(),
            visited: vec![ByteBuf::from(id.to_bytes())],
            hops: 2,
            left: Some(1_500),
            class: Some("gold".to_owned()),
            region: None,
            zone: Some("lab".to_owned()),
            version: 3,
            wait: 0,
            service: 900,
        }
    }

    #[test]
    fn what_is_put_is_taken_once() {
        let mut headers = HeaderMap::new();
        put(&mut headers, &travelling());
        assert_eq!(take(&mut headers), Some(travelling()));
        assert_eq!(take::<Travelling>(&mut headers), None);
        let words = travelling();
        assert_eq!(words.id(), Some(CallId::new([7; 16])));
        assert_eq!(words.path().map(|path| path.len()), Some(1));
    }

    #[test]
    fn paths_are_bounded() {
        let mut words = travelling();
        words.visited = vec![words.visited[0].clone(); PATH + 1];
        assert_eq!(words.path(), None);
        words.visited = vec![ByteBuf::from(vec![1, 2, 3])];
        assert_eq!(words.path(), None);
    }

    #[test]
    fn only_what_cannot_have_begun_counts_as_refused() {
        let kind = |error| Arrived::without(&error, Reply::default()).kind;
        let late = |phase| InvokeError::Late {
            phase,
            after: Duration::ZERO,
        };
        assert_eq!(kind(late(Phase::Queue)), REFUSED);
        assert_eq!(kind(late(Phase::Run)), "late");
        assert_eq!(
            kind(InvokeError::Failed("trap".to_owned())),
            "function-failed"
        );
        assert_eq!(kind(InvokeError::PeerLost("gone".to_owned())), "peer-lost");
    }

    proptest! {
        #[test]
        fn nothing_that_arrives_ends_the_reader(text in "[ -~]{0,300}") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(CARRIAGE, value);
            }
            let _ = take::<Travelling>(&mut headers);
        }
    }
}
