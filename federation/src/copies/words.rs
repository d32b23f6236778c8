//! What members say to each other about asynchronous calls that they keep.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt as _, BodyStream, Empty, StreamBody};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
pub use weir_federation_core::copies::{IDS_PER_QUESTION as IDS, Said};
use weir_node::executor::{Body, BodyError};
use weir_node::function::FunctionSpec;
use weir_node::id::CallId;
use weir_node::store::{CallRecord, CallStanding, CopyNote, ResultRecord, StoredBody};

/// Says what a member wants; the rest is in the body.
const CALLS: HeaderName = HeaderName::from_static("x-weir-calls");

/// Longest words before a body, in bytes: the headers of a call, and what is
/// said of it.
const WORDS: usize = 256 << 10;

/// What a member wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Keep a copy, or take a new note of one: [`Keep`] and the call's body.
    Keep,
    /// Run this call as yours: [`Hand`] and the call's body.
    Hand,
    /// A call has ended: [`Ended`] and the result's body.
    Ended,
    /// What do you know of these: a list of ids.
    Standing,
    /// I shall keep copies of these no more: a list of ids.
    Release,
    /// Let go of your copies of these: a list of ids.
    Drop,
    /// The result of a call: a list of one id.
    Result,
}

impl Want {
    const ALL: [Want; 7] = [
        Want::Keep,
        Want::Hand,
        Want::Ended,
        Want::Standing,
        Want::Release,
        Want::Drop,
        Want::Result,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Want::Keep => "keep",
            Want::Hand => "hand",
            Want::Ended => "ended",
            Want::Standing => "standing",
            Want::Release => "release",
            Want::Drop => "drop",
            Want::Result => "result",
        }
    }

    /// What the headers of a request ask for; `None` when it is no such request.
    pub fn of(headers: &HeaderMap) -> Option<Result<Want, String>> {
        let text = headers.get(CALLS)?.to_str().unwrap_or_default();
        let want = Want::ALL.into_iter().find(|want| want.as_str() == text);
        Some(want.ok_or_else(|| text.to_owned()))
    }

    /// Whether a request asks for any of them.
    pub fn is_in(headers: &HeaderMap) -> bool {
        headers.contains_key(CALLS)
    }

    /// A request that wants it.
    ///
    /// # Errors
    /// Never, as long as the address is one.
    pub fn request(self, body: Body) -> Result<http::Request<Body>, String> {
        http::Request::post("https://weir/calls")
            .version(http::Version::HTTP_2)
            .header(CALLS, HeaderValue::from_static(self.as_str()))
            .body(body)
            .map_err(|error| error.to_string())
    }
}

/// A call on its way to be kept. Times are told as spans, since clocks differ.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    call: CallRecord,
    /// Milliseconds since it was accepted.
    age: u64,
}

impl Told {
    /// How a call is told at `now`.
    pub fn new(call: &CallRecord, now: Timestamp) -> Told {
        let age = now.duration_since(call.accepted_at).as_millis();
        let mut call = call.clone();
        call.body = StoredBody::EMPTY;
        Told {
            call,
            age: u64::try_from(age).unwrap_or(0),
        }
    }

    /// The call by this node's clock.
    pub fn call(self, now: Timestamp) -> CallRecord {
        let Told { mut call, age } = self;
        let age = SignedDuration::from_millis(i64::try_from(age).unwrap_or(i64::MAX));
        let accepted_at = now.checked_sub(age).unwrap_or(now);
        let ahead = accepted_at.duration_since(call.accepted_at);
        call.deadline = call.deadline.and_then(|at| at.checked_add(ahead).ok());
        call.accepted_at = accepted_at;
        call.durable = call.durable.min(FunctionSpec::MOST_DURABLE);
        call
    }
}

/// With [`Want::Keep`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Keep {
    /// Whose call it is, and who keeps copies.
    pub note: CopyNote,
    /// Not there when only the note is new.
    #[serde(default)]
    pub told: Option<Told>,
}

/// With [`Want::Hand`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Hand {
    /// The call.
    pub told: Told,
}

/// With [`Want::Ended`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {
    /// Which call.
    pub id: CallId,
    /// Not there when it is kept no more.
    #[serde(default)]
    pub result: Option<ResultRecord>,
}

/// With the answer to [`Want::Result`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Answered {
    /// The result, without its body.
    pub result: ResultRecord,
    /// Length of the body that follows.
    pub bytes: u64,
}

impl Answered {
    /// How a result is told.
    pub fn new(mut result: ResultRecord) -> Answered {
        let bytes = result.body.bytes();
        result.body = StoredBody::EMPTY;
        Answered { result, bytes }
    }
}

/// What this node says of a call that stands so.
pub fn said(standing: CallStanding) -> Said {
    match standing {
        CallStanding::Unknown => Said::Unknown,
        CallStanding::Copied => Said::Copied,
        CallStanding::Pending => Said::Pending,
        CallStanding::Done => Said::Done,
    }
}

/// No body.
pub fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Words, as their length in four bytes, the greatest first, and their CBOR; and
/// then a body.
pub fn frame<T: Serialize>(words: &T, body: Body) -> Body {
    let encoded = cbor4ii::serde::to_vec(Vec::with_capacity(512), words);
    let encoded = encoded.expect("plain values can be encoded");
    let mut head = BytesMut::with_capacity(4 + encoded.len());
    head.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    head.put_slice(&encoded);
    after(head.freeze(), body)
}

/// Takes the words off a body; `None` when they are too long, break off, or are
/// none.
pub async fn unframe<T: DeserializeOwned>(mut body: Body) -> Option<(T, Body)> {
    let mut read = BytesMut::new();
    let mut length = None;
    loop {
        if length.is_none() && read.len() >= 4 {
            let named = u32::from_be_bytes(read[..4].try_into().ok()?);
            let named = usize::try_from(named).ok()?;
            length = Some(4 + (named <= WORDS).then_some(named)?);
        }
        if let Some(length) = length
            && read.len() >= length
        {
            let words = read.split_to(length);
            let words = cbor4ii::serde::from_slice(&words[4..]).ok()?;
            return Some((words, after(read.freeze(), body)));
        }
        if let Ok(piece) = body.frame().await?.ok()?.into_data() {
            read.extend_from_slice(&piece);
        }
    }
}

fn after(head: Bytes, body: Body) -> Body {
    let head = (!head.is_empty()).then(|| Ok::<_, BodyError>(Frame::data(head)));
    let pieces = stream::iter(head).chain(BodyStream::new(body));
    StreamBody::new(pieces).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use libp2p_identity::PeerId;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn body(bytes: &'static [u8]) -> Body {
        Full::from(bytes)
            .map_err(|never| match never {})
            .boxed_unsync()
    }

    #[tokio::test]
    async fn words_come_before_the_body_and_are_bounded() {
        let framed = frame(&vec![1_u8, 2], body(b"rest"));
        let (words, rest) = unframe::<Vec<u8>>(framed).await.expect("frames");
        assert_eq!(words, [1, 2]);
        assert_eq!(rest.collect().await.expect("a body").to_bytes(), "rest");

        for broken in [&b""[..], b"\0\0\0", b"\0\0\0\x05\x01", b"\xff\xff\xff\xff"] {
            assert!(
                unframe::<Vec<u8>>(body(broken)).await.is_none(),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn a_call_keeps_its_age_and_what_is_left_of_its_deadline() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let call = CallRecord {
            id: CallId::new([7; 16]),
            function: "f".parse().expect("a name"),
            method: http::Method::POST,
            path: "/".to_owned(),
            headers: HeaderMap::new(),
            body: StoredBody::EMPTY,
            class: None,
            deadline: Some(at(1_060)),
            accepted_at: at(1_000),
            callback: None,
            caller_id: None,
            attempts: 0,
            durable: 9,
        };
        // Ten seconds old here; the other's clock is a day ahead.
        let told = Told::new(&call, at(1_010));
        let call = told.call(at(87_410));
        assert_eq!(call.accepted_at, at(87_400));
        assert_eq!(call.deadline, Some(at(87_460)));
        assert_eq!(call.durable, FunctionSpec::MOST_DURABLE);
    }

    fn example() -> Vec<u8> {
        let keep = Keep {
            note: CopyNote {
                id: CallId::new([7; 16]),
                owner: PeerId::random(),
                turn: 1,
                copies: vec![PeerId::random()],
            },
            told: None,
        };
        cbor4ii::serde::to_vec(Vec::new(), &keep).expect("plain values can be encoded")
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(noise in vec(any::<u8>(), 0..64), at in 0_usize..200) {
            let mut bytes = example();
            let at = at.min(bytes.len());
            bytes.splice(at..at, noise.iter().copied());
            for bytes in [&bytes, &noise] {
                let _ = cbor4ii::serde::from_slice::<Keep>(bytes);
                let _ = cbor4ii::serde::from_slice::<Hand>(bytes);
                let _ = cbor4ii::serde::from_slice::<Ended>(bytes);
                let _ = cbor4ii::serde::from_slice::<Answered>(bytes);
                let _ = cbor4ii::serde::from_slice::<Vec<CallId>>(bytes);
            }
        }
    }

    #[test]
    fn another_decoder_reads_a_note() {
        let value: serde_cbor::Value = serde_cbor::from_slice(&example()).expect("CBOR");
        let serde_cbor::Value::Map(keep) = value else {
            panic!("it is a map");
        };
        let text = |text: &str| serde_cbor::Value::Text(text.to_owned());
        let serde_cbor::Value::Map(note) = &keep[&text("note")] else {
            panic!("it is a map");
        };
        assert_eq!(note[&text("id")], text(&"07".repeat(16)));
        assert_eq!(note[&text("turn")], serde_cbor::Value::Integer(1));
        assert!(matches!(&note[&text("owner")], serde_cbor::Value::Bytes(id) if id.len() > 30));
        assert!(matches!(&note[&text("copies")], serde_cbor::Value::Array(all) if all.len() == 1));
    }
}
