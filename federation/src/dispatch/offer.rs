//! Sends a call to a peer, and makes of its answer what this node learns.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use libp2p_identity::PeerId;
use serde_bytes::ByteBuf;
use weir_node::executor::{AnswerBody, Body, BodyError};
use weir_node::function::FunctionSpec;
use weir_node::id::FunctionName;
use weir_node::invocation::{Answer, Invocation, InvokeError, Phase};
use weir_node::replay::KEPT_BYTES;
use weir_node::time::Time;
use weir_overlay::Endpoint;
use weir_overlay::carriage::SendError;

use super::Inner;
use super::bodies::{Kept, Patient};
use crate::answers::{self, Back, Lesson, Told, Why};
use crate::policy::{ClassKey, Reach};
use crate::report::Role;
use crate::snapshot::{PeerView, Reserved, Word};
use crate::wire::{self, ANSWER, Arrived, REFUSED, Travelling};
use weir_federation_core::endings::How;
use weir_federation_core::patience;
use weir_federation_core::placement::Came;
use weir_federation_core::waiting;
use weir_federation_core::wanted::Wanted;

/// Longest text of a peer's error that is passed on, in bytes.
const ERROR_BYTES: usize = 4 << 10;

/// What came of offering a call to a peer.
pub(super) enum Offered {
    /// It was answered.
    Answer(Answer),
    /// It cannot have begun, for want of a place.
    Full(String),
    /// It cannot have begun, and would not there.
    Declined(String),
    /// It cannot have begun, for the peer was not reached.
    Unreached(String),
    /// It may have begun.
    Lost(String),
    /// It may have begun, and its policy waits no longer for it.
    GaveUp(String),
    /// It ended without an answer, there.
    Failed(InvokeError),
}

impl Offered {
    /// What became of it, by what that means to the call.
    fn by(came: Came, reason: String) -> Offered {
        match came {
            Came::Full(_) => Offered::Full(reason),
            Came::Lost(_) => Offered::Lost(reason),
            Came::Unreached(_) => Offered::Unreached(reason),
            Came::Declined(_)
            | Came::PlaceTaken
            | Came::WaitedEnough
            | Came::LeftQueue
            | Came::Brought
            | Came::BroughtTooLate
            | Came::NobodyElsewhere => Offered::Declined(reason),
        }
    }

    fn gave_up() -> Offered {
        Offered::GaveUp("it did not answer in the time that the policy gives it".to_owned())
    }
}

/// A place at a peer that a call has taken.
pub(super) struct Seized {
    pub(super) peer: PeerId,
    pub(super) addresses: Arc<[Endpoint]>,
    pub(super) round_trip: Duration,
    pub(super) abilities: u64,
    pub(super) reach: Reach,
    pub(super) reserved: Reserved,
}

impl Seized {
    pub(super) fn new(peer: &PeerView, reserved: Reserved) -> Seized {
        Seized {
            peer: peer.id,
            addresses: peer.carriage.clone(),
            round_trip: peer.round_trip(),
            abilities: peer.report.abilities,
            reach: match peer.report.role {
                Role::Edge => Reach::Horizontal,
                Role::Cloud => Reach::Vertical,
            },
            reserved,
        }
    }
}

/// What of a call its offers need.
pub(super) struct Errand<'a> {
    pub(super) function: &'a FunctionName,
    pub(super) wanted: &'a Wanted,
    pub(super) spec: Option<&'a FunctionSpec>,
    pub(super) class: ClassKey,
    /// How many more nodes it may visit after the peer.
    pub(super) hops: u8,
    /// When its answer is of no more use.
    pub(super) deadline: Time,
    /// Whether that is its policy's word, and not the call's own deadline.
    pub(super) is_impatient: bool,
}

/// A call's place at a peer, which comes back when the peer has given it away:
/// mostly before it answers, else when its answer has been read.
struct Returns {
    inner: Arc<Inner>,
    peer: PeerId,
    reserved: Option<Reserved>,
    /// What it counts of a place here, in thousandths.
    serves: u32,
    /// Whether the call kept its place until then.
    streams: bool,
}

impl Returns {
    /// Ends it.
    fn end(&mut self) -> Option<Reserved> {
        let reserved = self.reserved.take()?;
        self.inner.waiters.ends_there(self.serves);
        Some(reserved)
    }
}

impl Drop for Returns {
    fn drop(&mut self) {
        let Some(reserved) = self.end() else {
            return;
        };
        match self.streams {
            true => {
                reserved.give_back();
                self.inner.pump(&self.peer);
            }
            false => drop(reserved),
        }
    }
}

/// Whether a body may be longer than what is kept of one: then it is sent once.
pub(super) fn is_sent_once(request: &Request<Body>) -> bool {
    let upper = request.body().size_hint().upper();
    upper.is_none_or(|bytes| bytes > KEPT_BYTES as u64)
}

fn verb(why: Why) -> &'static str {
    match why {
        Why::Unable => "cannot run it",
        Why::NodeFull | Why::FunctionFull | Why::Bringing | Why::Other => "refused",
    }
}

impl Inner {
    pub(super) fn travelling(
        &self,
        invocation: &Invocation,
        visited: &[PeerId],
        errand: &Errand<'_>,
    ) -> Travelling {
        let settings = self.federated.settings();
        let cloud = self.federated.role() == Role::Cloud;
        let left = errand.deadline.since(self.node.clock().now());
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let service = self.service(errand.function);
        Travelling {
            function: invocation.function.qualified(),
            call: invocation.id.to_string(),
            visited: visited
                .iter()
                .map(|id| ByteBuf::from(id.to_bytes()))
                .collect(),
            hops: errand.hops,
            left: (errand.deadline != Time::NEVER)
                .then(|| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            class: invocation.class.clone(),
            region: settings.own_region().filter(|_| cloud),
            zone: (!cloud).then(|| settings.zone.clone()),
            version: errand.wanted.version,
            wait: 0,
            service: service.map_or(0, micros),
        }
    }

    /// How long a peer's answer is waited for.
    fn patience(&self, errand: &Errand<'_>, round_trip: Duration) -> Duration {
        let spec = errand.spec;
        let timeout = spec.map_or(self.node.config().max_timeout, |spec| spec.timeout);
        let now = self.node.clock().now();
        patience::patience(errand.deadline, timeout, round_trip, now)
    }

    /// Offers a call to a peer where it has taken a place. Returns the request
    /// too where no byte of it was sent.
    pub(super) async fn offer(
        self: &Arc<Self>,
        to: Seized,
        mut request: Request<Body>,
        (mut travelling, errand): (Travelling, &Errand<'_>),
    ) -> (Offered, Option<Request<Body>>) {
        let once = is_sent_once(&request);
        // A refusal would cost the call: it is sent when a place is promised.
        if once && let Err(reason) = self.ask_for_one(&to, errand).await {
            return (Offered::Full(reason), Some(request));
        }
        let wait = patience::wait_there(once, to.reserved.is_ahead(), to.round_trip);
        travelling.wait = u64::try_from(wait.as_millis()).unwrap_or(0);
        wire::put(request.headers_mut(), &travelling);
        *request.version_mut() = http::Version::HTTP_2;
        to_absolute(&mut request);
        let patience = self.patience(errand, to.round_trip);
        let peer = to.peer;
        let here = self.service(errand.function);
        let serves = waiting::serves(here, to.reserved.service());
        self.waiters.begins_there(serves);
        let sent = self.federated.carriage.send(peer, &to.addresses, request);
        let sent = tokio::time::timeout(patience, sent).await;
        if !matches!(sent, Ok(Ok(_))) {
            self.waiters.ends_there(serves);
        }
        let (response, kind, using) = match sent {
            Ok(Ok(sent)) => sent,
            Ok(Err(error)) => return (self.broke(to, error, patience, errand), None),
            Err(_) => return (self.nothing(to, Back::Nothing, "", patience, errand), None),
        };
        self.counters.carried.count(kind.as_str());
        let returns = Returns {
            inner: self.clone(),
            peer,
            reserved: Some(to.reserved),
            serves,
            streams: false,
        };
        let offered = self
            .arrived((peer, to.abilities), response, (using, returns), errand)
            .await;
        self.pump(&peer);
        (offered, None)
    }

    /// A call could not be sent, or what carried it broke.
    fn broke(
        &self,
        to: Seized,
        error: SendError,
        patience: Duration,
        errand: &Errand<'_>,
    ) -> Offered {
        let (back, reason) = match error {
            SendError::NotSent { reason, .. } => {
                let reason = format!("it cannot be reached: {reason}");
                (Back::Unreachable, reason)
            }
            SendError::Lost { reason, excused } => {
                // A peer that is heard may have lost its listener only.
                let excused = excused && self.federated.is_linked(&to.peer);
                (Back::Lost { excused }, reason)
            }
            SendError::Cut { .. } => (Back::Cut, "the function's answer broke off".to_owned()),
        };
        self.nothing(to, back, &reason, patience, errand)
    }

    /// Nothing whole came back of a call.
    fn nothing(
        &self,
        to: Seized,
        back: Back,
        reason: &str,
        patience: Duration,
        errand: &Errand<'_>,
    ) -> Offered {
        let (how, why) = match back {
            Back::Unreachable => ("unreachable", ""),
            Back::Lost { .. } => ("lost", ""),
            Back::Nothing => ("late", ""),
            Back::Malformed => ("malformed", ""),
            Back::Cut | Back::Answered | Back::Refused(_) | Back::Ended { .. } => {
                ("failed", "function-failed")
            }
        };
        self.count_offload(to.peer, how, why);
        let told = Told::default();
        let lesson = answers::lesson(to.peer, back, &told, None, errand.is_impatient);
        if lesson.gives_back {
            to.reserved.give_back();
        }
        self.learns(to.peer, (errand, &told), &lesson);
        match (back, lesson.came) {
            (Back::Nothing, Some(_)) => Offered::gave_up(),
            (Back::Nothing, None) => Offered::Failed(InvokeError::Late {
                phase: Phase::Run,
                after: patience,
            }),
            (_, Some(came)) => Offered::by(came, reason.to_owned()),
            (_, None) => Offered::Failed(InvokeError::Failed(reason.to_owned())),
        }
    }

    /// What a peer's answer says of its room.
    fn word(
        &self,
        errand: &Errand<'_>,
        (back, arrived, status): (Back, Option<&Arrived>, StatusCode),
        said: &Told,
        returns: &mut Returns,
    ) -> Option<Word> {
        match (back, arrived) {
            (Back::Answered, Some(arrived)) => {
                returns.streams = arrived.told.streams;
                let failed = status.is_server_error();
                let ran = (!failed).then_some(arrived.timing().1.ran);
                self.has_answered(errand, said, ran, returns)
            }
            (Back::Ended { .. }, Some(_)) => self.has_answered(errand, said, None, returns),
            _ => {
                let reserved = returns.reserved.as_ref();
                reserved.and_then(|reserved| word_of(said, reserved, errand.wanted))
            }
        }
    }

    async fn arrived<U: Send + Unpin + 'static>(
        self: &Arc<Self>,
        (peer, abilities): (PeerId, u64),
        response: Response<hyper::body::Incoming>,
        (using, mut returns): (U, Returns),
        errand: &Errand<'_>,
    ) -> Offered {
        let (mut head, body) = response.into_parts();
        let patience = self.patience(errand, Duration::ZERO);
        let arrived = wire::take::<Arrived>(&mut head.headers);
        let said = arrived.as_ref().map(|arrived| arrived.told.said());
        let said = said.unwrap_or_default();
        let back = back_of(arrived.as_ref());
        let status = head.status;
        let word = self.word(
            errand,
            (back, arrived.as_ref(), status),
            &said,
            &mut returns,
        );
        let lesson = answers::lesson(peer, back, &said, word, errand.is_impatient);
        let Some(arrived) = arrived else {
            self.count_offload(peer, "malformed", "");
            self.learns(peer, (errand, &said), &lesson);
            return Offered::Lost("it answered without the words that carry an answer".to_owned());
        };
        match back {
            Back::Answered => {
                self.count_offload(peer, "answered", "");
                self.learns(peer, (errand, &said), &lesson);
                let body = body.map_err(BodyError::from).boxed_unsync();
                let body = Patient::new(Kept::new(body, (using, returns)), patience);
                let body = AnswerBody::Stream(body.boxed_unsync());
                Offered::Answer(self.answer(peer, arrived, Response::from_parts(head, body)))
            }
            Back::Refused(why) => {
                self.count_offload(peer, "refused", why.as_str());
                let text = text_of(body).await;
                self.refused_by((peer, abilities), errand, &said, (why, &text));
                self.learns(peer, (errand, &said), &lesson);
                let verb = verb(why);
                let came = lesson.came.unwrap_or(Came::Declined(peer));
                Offered::by(came, format!("it {verb}: {text}"))
            }
            Back::Ended { .. }
            | Back::Cut
            | Back::Unreachable
            | Back::Lost { .. }
            | Back::Nothing
            | Back::Malformed => {
                self.count_offload(peer, "failed", ended_as(&arrived.kind));
                self.learns(peer, (errand, &said), &lesson);
                let text = text_of(body).await;
                match lesson.came {
                    Some(_) => Offered::gave_up(),
                    None => Offered::Failed(arrived.error(text, patience)),
                }
            }
        }
    }

    /// The answer of a function at a peer.
    fn answer(&self, peer: PeerId, arrived: Arrived, response: Response<AnswerBody>) -> Answer {
        let (start, timing) = arrived.timing();
        // A member vouches for whom it sent the call on to, by a name that is one.
        let named = arrived.ran_on.filter(|id| id.parse::<PeerId>().is_ok());
        let ran_on = match named {
            Some(named) => named.into(),
            None => self.name_of(peer),
        };
        Answer {
            response,
            start,
            timing,
            ran_on: Some(ran_on),
        }
    }

    /// Takes note of what a peer's answer to a call, or its want, says of the peer.
    fn learns(&self, peer: PeerId, (errand, said): (&Errand<'_>, &Told), lesson: &Lesson) {
        if let Some(met) = lesson.met {
            self.federated.met(peer, met);
        }
        // After its load: the level that came with that is no older.
        let now = self.node.clock().now();
        let beside = &self.beside;
        beside.heard(&peer, errand.class, said, lesson.took, now);
    }

    /// Takes note of what a peer says with its answer to a call, and that it has
    /// given the call's place away, unless it streams; its word of the room there.
    ///
    /// All at once: a call whose answer is here, but not read by its caller, would
    /// look like one that the peer has not heard of to the next answer, and a place
    /// there would be lost until the peer speaks again.
    fn has_answered(
        &self,
        errand: &Errand<'_>,
        said: &Told,
        ran: Option<Duration>,
        returns: &mut Returns,
    ) -> Option<Word> {
        let now = self.node.clock().now();
        let function = (errand.function, errand.wanted.version);
        let mut abilities = self.federated.abilities();
        let reserved = returns.reserved.as_ref();
        let word = reserved.and_then(|reserved| word_of(said, reserved, errand.wanted));
        abilities.answered(function, returns.peer, said, ran, now);
        if !returns.streams {
            drop(returns.end());
        }
        word
    }

    /// Takes note of why a peer did not take a call of a function.
    pub(super) fn refused_by(
        &self,
        (peer, counted): (PeerId, u64),
        errand: &Errand<'_>,
        said: &Told,
        (why, text): (Why, &str),
    ) {
        let now = self.node.clock().now();
        let function = (errand.function, errand.wanted.version);
        let mut abilities = self.federated.abilities();
        abilities.refused(function, peer, said, (why, text, counted), now);
    }
}

/// What came back, by the words that carry an answer.
fn back_of(arrived: Option<&Arrived>) -> Back {
    let Some(arrived) = arrived else {
        return Back::Malformed;
    };
    match arrived.kind.as_str() {
        ANSWER => Back::Answered,
        REFUSED => Back::Refused(Why::named(arrived.told.why.as_deref())),
        kind => Back::Ended {
            late: ended_as(kind) == LATE,
        },
    }
}

/// The word for a call that was too late at a peer.
const LATE: &str = "late";

/// The word for metrics of how a call ended at a peer that has no answer.
fn ended_as(kind: &str) -> &'static str {
    match kind {
        LATE => LATE,
        "peer-lost" => "peer-lost",
        "body" => "body",
        "unfit-request" => "unfit-request",
        _ => "function-failed",
    }
}

/// What a peer's words mean to this node.
pub(super) fn word_of(said: &Told, reserved: &Reserved, wanted: &Wanted) -> Option<Word> {
    said.word(reserved.under_way(said.held, wanted.cost(None).cpu))
}

/// HTTP/2 wants a whole address; only its path means something to the peer.
pub(super) fn to_absolute<B>(request: &mut Request<B>) {
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    let absolute = http::Uri::builder()
        .scheme("https")
        .authority("weir")
        .path_and_query(path)
        .build();
    if let Ok(absolute) = absolute {
        *request.uri_mut() = absolute;
    }
}

/// Undoes [`to_absolute`], where a call arrives: its function sees what it would
/// see at the first node.
pub(super) fn to_relative<B>(request: &mut Request<B>) {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map(http::Uri::from).unwrap_or_default();
    *request.version_mut() = http::Version::HTTP_11;
}

async fn text_of(body: hyper::body::Incoming) -> String {
    let limited = http_body_util::Limited::new(body, ERROR_BYTES);
    match limited.collect().await {
        Ok(collected) => String::from_utf8_lossy(&collected.to_bytes())
            .trim()
            .to_owned(),
        Err(_) => "without saying why".to_owned(),
    }
}

/// How a call ended, as far as that says something of where it was.
pub(super) fn how(outcome: &Result<Answer, InvokeError>) -> How {
    match outcome {
        Ok(answer) => How::Answered {
            failed: answer.response.status().is_server_error(),
        },
        Err(InvokeError::Failed(_) | InvokeError::Internal(_)) => How::Broke,
        Err(InvokeError::CannotRun { .. }) => How::CannotRun,
        Err(InvokeError::Late { phase, .. }) => How::Late(*phase),
        Err(InvokeError::Refused { .. } | InvokeError::Unknown(_)) => How::NotTaken,
        Err(InvokeError::PeerLost(_)) => How::Lost,
        Err(InvokeError::Class(_) | InvokeError::Body(_) | InvokeError::Unfit(_)) => How::Caller,
    }
}
