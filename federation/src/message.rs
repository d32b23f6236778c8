//! What members say to all of their zone, signed.
//!
//! An envelope carries its payload as the bytes that were signed, so that it is
//! forwarded unchanged, and by members that do not know what it says. Who
//! signed is the node's own key, which its PeerId holds; whether that node is a
//! member is [`crate::membership`]'s question.

use libp2p_identity::{Keypair, PeerId, PublicKey};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use crate::catalogue::Record;
use crate::membership::Certificate;
use crate::policy::NOTE_BYTES_MAX;
use crate::report::{Implausible, REPORT_BYTES, Report};
use crate::roster::Roster;

/// Largest envelope in bytes: a report, and what is around it.
pub const ENVELOPE_BYTES: usize = REPORT_BYTES + 512;

/// What goes under every signature, before the kind and the payload.
const WORD: &[u8] = b"weir gossip 1\0";

/// Something that a member says.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// How it is.
    Report(Box<Report>),
    /// That it believes a life of another member to be over.
    Suspicion(Suspicion),
    /// That it leaves.
    Leave(Leave),
    /// The proof that it belongs here, as [`crate::membership::Certificate`]
    /// has it in bytes.
    Introduction(Vec<u8>),
    /// That somebody belongs here no more, as [`crate::membership::Denial`]
    /// has it in bytes.
    Denial(Vec<u8>),
    /// That the federation's secret was changed, and the new certificate of
    /// one member.
    Handover(Handover),
    /// A function that was deployed, or removed.
    Record(Box<Record>),
    /// What a linked member knows of functions, in short.
    Summary(Summary),
    /// That somebody who was away is a newcomer when it is back.
    Forget(Forget),
    /// Whom a linked member knows.
    Roster(Roster),
    /// What a policy tells others like it.
    Note(Note),
    /// What a later version of Weir knows: passed on, and not read.
    Unknown,
}

/// Somebody is believed to be dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    #[serde(with = "serde_bytes")]
    whom: Vec<u8>,
    /// Which life of it.
    pub epoch: u64,
}

/// Somebody leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// Which life ends.
    pub epoch: u64,
}

/// Somebody was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    #[serde(with = "serde_bytes")]
    whom: Vec<u8>,
    /// When, in seconds since 1970.
    pub at: u64,
    /// The certificate of whoever says so.
    #[serde(with = "serde_bytes")]
    pub certificate: Vec<u8>,
}

/// A member is taken over into a federation whose secret was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The word of the old secret, as [`crate::membership::Succession`] has it
    /// in bytes.
    #[serde(with = "serde_bytes")]
    pub succession: Vec<u8>,
    /// The member's certificate by the new one.
    #[serde(with = "serde_bytes")]
    pub certificate: Vec<u8>,
}

impl Handover {
    /// Whom it is for; `None` when its certificate cannot be read.
    pub fn member(&self) -> Option<PeerId> {
        let certificate = Certificate::from_bytes(&self.certificate).ok()?;
        certificate.membership().member()
    }
}

/// What a member knows of functions that its hearer may know too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// As [`crate::catalogue::Catalogue::summary`] makes it.
    pub marks: Vec<u64>,
    /// Whether the same is wanted back.
    pub ask: bool,
}

/// What a policy of a member tells policies of the same name and scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The policy's name.
    pub policy: String,
    /// For which calls it is: empty for the node's, `class/NAME` or
    /// `function/NAME`.
    #[serde(default)]
    pub scope: String,
    /// In which life of the member it was written.
    pub epoch: u64,
    /// The how many-th note of that life.
    pub sequence: u64,
    /// What it says, in the policy's own words.
    pub body: ByteBuf,
}

impl Note {
    /// Whether an honest member may write it.
    fn is_plausible(&self) -> bool {
        let is_name = |text: &str| text.len() <= NOTE_NAME_BYTES_MAX;
        is_name(&self.policy) && is_name(&self.scope) && self.body.len() <= NOTE_BYTES_MAX
    }
}

/// Longest name of a policy, and longest scope, in a note, in bytes.
const NOTE_NAME_BYTES_MAX: usize = 256;

/// Kinds by their numbers on the wire.
const REPORT: u8 = 1;
const SUSPICION: u8 = 2;
const LEAVE: u8 = 3;
const INTRODUCTION: u8 = 4;
const DENIAL: u8 = 5;
const HANDOVER: u8 = 6;
const RECORD: u8 = 7;
const SUMMARY: u8 = 8;
const FORGET: u8 = 9;
const ROSTER: u8 = 10;
const NOTE: u8 = 11;

#[derive(Serialize, Deserialize)]
struct Envelope {
    #[serde(with = "serde_bytes")]
    from: Vec<u8>,
    kind: u8,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

/// Why an envelope is refused; it is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Too many bytes.
    #[error("a message of {0} bytes is larger than {ENVELOPE_BYTES}")]
    Size(usize),
    /// Not an envelope, or not a payload of its kind.
    #[error("a message that cannot be read")]
    Shape,
    /// Not signed by whom it names.
    #[error("a message that its sender did not sign")]
    Forged,
    /// A report that no honest node makes.
    #[error(transparent)]
    Implausible(#[from] Implausible),
}

impl Invalid {
    /// The word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Invalid::Size(_) => "size",
            Invalid::Shape => "shape",
            Invalid::Forged => "forged",
            Invalid::Implausible(implausible) => implausible.reason(),
        }
    }
}

impl Suspicion {
    /// That this life of `whom` is over.
    pub fn new(whom: PeerId, epoch: u64) -> Suspicion {
        Suspicion {
            whom: whom.to_bytes(),
            epoch,
        }
    }

    /// Who; `None` when those bytes are no PeerId.
    pub fn whom(&self) -> Option<PeerId> {
        PeerId::from_bytes(&self.whom).ok()
    }
}

impl Forget {
    /// That `whom` was forgotten, at a time in seconds since 1970, by a member
    /// with this certificate.
    pub fn new(whom: PeerId, at: u64, certificate: Vec<u8>) -> Forget {
        Forget {
            whom: whom.to_bytes(),
            at,
            certificate,
        }
    }

    /// Who; `None` when those bytes are no PeerId.
    pub fn whom(&self) -> Option<PeerId> {
        PeerId::from_bytes(&self.whom).ok()
    }
}

/// The identity of an envelope among all that travel: of equal bytes one is
/// enough, and nobody can take another's.
pub fn identity(envelope: &[u8]) -> [u8; 8] {
    let digest: [u8; 32] = Sha256::digest(envelope).into();
    digest[..8].try_into().expect("8 of 32 bytes")
}

/// Signs a message; returns the envelope.
///
/// # Errors
/// When a report is too large.
pub fn seal(message: &Message, key: &Keypair) -> Result<Vec<u8>, Invalid> {
    let plain = |bytes: Result<Vec<u8>, _>| {
        bytes.map_err(|_: cbor4ii::serde::EncodeError<_>| Invalid::Shape)
    };
    let (kind, payload) = match message {
        Message::Report(report) => (REPORT, report.encode()?),
        Message::Suspicion(suspicion) => (
            SUSPICION,
            plain(cbor4ii::serde::to_vec(Vec::new(), suspicion))?,
        ),
        Message::Leave(leave) => (LEAVE, plain(cbor4ii::serde::to_vec(Vec::new(), leave))?),
        Message::Introduction(certificate) => (INTRODUCTION, certificate.clone()),
        Message::Denial(denial) => (DENIAL, denial.clone()),
        Message::Handover(handover) => (
            HANDOVER,
            plain(cbor4ii::serde::to_vec(Vec::new(), handover))?,
        ),
        Message::Record(record) => (RECORD, plain(cbor4ii::serde::to_vec(Vec::new(), record))?),
        Message::Summary(summary) => {
            let payload = cbor4ii::serde::to_vec(Vec::new(), summary);
            (SUMMARY, plain(payload)?)
        }
        Message::Forget(forget) => (FORGET, plain(cbor4ii::serde::to_vec(Vec::new(), forget))?),
        Message::Roster(roster) => (ROSTER, plain(cbor4ii::serde::to_vec(Vec::new(), roster))?),
        Message::Note(note) if !note.is_plausible() => {
            return Err(Invalid::Size(note.body.len()));
        }
        Message::Note(note) => (NOTE, plain(cbor4ii::serde::to_vec(Vec::new(), note))?),
        Message::Unknown => return Err(Invalid::Shape),
    };
    let signature = key.sign(&signed_bytes(kind, &payload));
    if payload.len() > REPORT_BYTES {
        return Err(Invalid::Size(payload.len()));
    }
    let envelope = Envelope {
        from: key.public().to_peer_id().to_bytes(),
        kind,
        payload,
        signature: signature.map_err(|_| Invalid::Forged)?,
    };
    plain(cbor4ii::serde::to_vec(
        Vec::with_capacity(1 << 10),
        &envelope,
    ))
}

fn signed_bytes(kind: u8, payload: &[u8]) -> Vec<u8> {
    [WORD, &[kind], payload].concat()
}

/// Opens an envelope: who says what.
///
/// # Errors
/// Why it is not to be passed on.
pub fn open(bytes: &[u8]) -> Result<(PeerId, Message), Invalid> {
    if bytes.len() > ENVELOPE_BYTES {
        return Err(Invalid::Size(bytes.len()));
    }
    let envelope: Envelope = cbor4ii::serde::from_slice(bytes).map_err(|_| Invalid::Shape)?;
    let from = PeerId::from_bytes(&envelope.from).map_err(|_| Invalid::Shape)?;
    let key = key_of(&from).ok_or(Invalid::Shape)?;
    let signed = signed_bytes(envelope.kind, &envelope.payload);
    if !key.verify(&signed, &envelope.signature) {
        return Err(Invalid::Forged);
    }
    let message = match envelope.kind {
        REPORT => Message::Report(Box::new(Report::decode(&envelope.payload)?)),
        SUSPICION => Message::Suspicion(payload(&envelope.payload)?),
        LEAVE => Message::Leave(payload(&envelope.payload)?),
        INTRODUCTION => Message::Introduction(envelope.payload),
        DENIAL => Message::Denial(envelope.payload),
        HANDOVER => Message::Handover(payload(&envelope.payload)?),
        RECORD => Message::Record(Box::new(payload(&envelope.payload)?)),
        SUMMARY => Message::Summary(payload(&envelope.payload)?),
        FORGET => Message::Forget(payload(&envelope.payload)?),
        ROSTER => Message::Roster(payload(&envelope.payload)?),
        NOTE => {
            let note: Note = payload(&envelope.payload)?;
            if !note.is_plausible() {
                return Err(Invalid::Size(note.body.len()));
            }
            Message::Note(note)
        }
        _ => Message::Unknown,
    };
    Ok((from, message))
}

fn payload<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Invalid> {
    cbor4ii::serde::from_slice(bytes).map_err(|_| Invalid::Shape)
}

/// The key that a PeerId holds; `None` for those of long keys, which no node
/// has: their ids hold a hash.
fn key_of(peer: &PeerId) -> Option<PublicKey> {
    let hash = peer.as_ref();
    // The multihash code of an id that holds the key itself.
    (hash.code() == 0).then_some(())?;
    PublicKey::try_decode_protobuf(hash.digest()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use weir_federation_core::samples::report;

    fn key(number: u8) -> Keypair {
        let mut seed = [number; 32];
        Keypair::ed25519_from_bytes(&mut seed).expect("32 bytes")
    }

    fn id(number: u8) -> PeerId {
        key(number).public().to_peer_id()
    }

    fn note(body: Vec<u8>) -> Note {
        Note {
            policy: "prequal".to_owned(),
            scope: "class/gold".to_owned(),
            epoch: 3,
            sequence: 4,
            body: ByteBuf::from(body),
        }
    }

    fn messages() -> [Message; 11] {
        [
            Message::Report(Box::new(report())),
            Message::Suspicion(Suspicion::new(id(9), 4)),
            Message::Leave(Leave { epoch: 7 }),
            Message::Introduction(vec![1, 2, 3]),
            Message::Denial(vec![4, 5]),
            Message::Handover(Handover {
                succession: vec![6],
                certificate: vec![7, 8],
            }),
            Message::Record(Box::new(Record {
                name: "a.b".to_owned(),
                version: 3,
                topic: Some("zone".to_owned()),
                spec: None,
                code: None,
                removed: Some(9),
                certificate: ByteBuf::from([9]),
            })),
            Message::Summary(Summary {
                marks: vec![1, u64::MAX],
                ask: true,
            }),
            Message::Forget(Forget::new(id(9), 5, vec![6])),
            Message::Roster(Roster {
                digest: u64::MAX,
                marks: Some(ByteBuf::from([7; 12])),
                ask: true,
            }),
            Message::Note(note(vec![1; NOTE_BYTES_MAX])),
        ]
    }

    #[test]
    fn notes_are_bounded_for_whoever_writes_and_whoever_reads() {
        let long = note(vec![1; NOTE_BYTES_MAX + 1]);
        let unnamed = Note {
            policy: "x".repeat(NOTE_NAME_BYTES_MAX + 1),
            ..note(Vec::new())
        };
        for note in [long, unnamed] {
            assert!(seal(&Message::Note(note.clone()), &key(1)).is_err());
            let payload = serde_cbor::to_vec(&note).expect("it can be encoded");
            let signature = key(1)
                .sign(&signed_bytes(NOTE, &payload))
                .expect("it signs");
            let envelope = Envelope {
                from: id(1).to_bytes(),
                kind: NOTE,
                payload,
                signature,
            };
            let sealed = serde_cbor::to_vec(&envelope).expect("it can be encoded");
            assert_eq!(open(&sealed).expect_err("long").reason(), "size");
        }
    }

    #[test]
    fn what_is_sealed_is_what_is_opened() {
        for message in messages() {
            let sealed = seal(&message, &key(1)).expect("it is short");
            assert_eq!(open(&sealed), Ok((id(1), message)));
        }
        let suspicion = Suspicion::new(id(9), 4);
        assert_eq!(suspicion.whom(), Some(id(9)));
    }

    #[test]
    fn nobody_speaks_for_another() {
        for message in messages() {
            let sealed = seal(&message, &key(1)).expect("it is short");
            let mut envelope: Envelope = serde_cbor::from_slice(&sealed).expect("CBOR");
            envelope.from = id(2).to_bytes();
            let forged = serde_cbor::to_vec(&envelope).expect("it can be encoded");
            assert_eq!(open(&forged), Err(Invalid::Forged));
        }
    }

    #[test]
    fn one_kind_is_never_another() {
        let sealed = seal(&Message::Leave(Leave { epoch: 7 }), &key(1)).expect("it is short");
        let mut envelope: Envelope = serde_cbor::from_slice(&sealed).expect("CBOR");
        envelope.kind = SUSPICION;
        let mixed = serde_cbor::to_vec(&envelope).expect("it can be encoded");
        assert_eq!(open(&mixed), Err(Invalid::Forged));
    }

    #[test]
    fn later_kinds_are_passed_on_unread() {
        let payload = b"whatever comes".to_vec();
        let signature = key(1).sign(&signed_bytes(99, &payload)).expect("it signs");
        let envelope = Envelope {
            from: id(1).to_bytes(),
            kind: 99,
            payload,
            signature,
        };
        let sealed = serde_cbor::to_vec(&envelope).expect("it can be encoded");
        assert_eq!(open(&sealed), Ok((id(1), Message::Unknown)));
    }

    #[test]
    fn a_lie_under_a_good_signature_is_refused_too() {
        let mut lie = report();
        lie.load.cpu_free = lie.load.cpu_total + 1;
        let sealed = seal(&Message::Report(Box::new(lie)), &key(1)).expect("it is short");
        assert_eq!(open(&sealed).expect_err("a lie").reason(), "range");
        assert_eq!(
            open(&[0; ENVELOPE_BYTES + 1]).expect_err("long").reason(),
            "size"
        );
    }

    #[test]
    fn identities_differ_where_bytes_do() {
        assert_eq!(identity(b"a"), identity(b"a"));
        assert_ne!(identity(b"a"), identity(b"b"));
    }

    proptest! {
        #[test]
        fn nothing_that_arrives_ends_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..900)) {
            let _ = open(&bytes);
        }

        #[test]
        fn whatever_is_signed_as_a_note_ends_no_reader(
            payload in prop::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let signature = key(1).sign(&signed_bytes(NOTE, &payload)).expect("it signs");
            let envelope = Envelope {
                from: id(1).to_bytes(),
                kind: NOTE,
                payload,
                signature,
            };
            let sealed = serde_cbor::to_vec(&envelope).expect("it can be encoded");
            if let Ok((_, Message::Note(note))) = open(&sealed) {
                prop_assert!(note.is_plausible());
            }
        }

        #[test]
        fn a_changed_byte_is_never_another_message(at in 0..800_usize, change in 1..=255_u8) {
            let message = Message::Suspicion(Suspicion::new(id(9), 4));
            let mut sealed = seal(&message, &key(1)).expect("it is short");
            let at = at % sealed.len();
            sealed[at] ^= change;
            if let Ok(read) = open(&sealed) {
                prop_assert_eq!(read, (id(1), message));
            }
        }
    }
}
