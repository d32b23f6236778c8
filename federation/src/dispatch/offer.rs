//! Sends a call to a peer, and makes of its answer what this node learns.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
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
use crate::answers::{self, Told, Why};
use crate::peers::{Fault, Met};
use crate::policy::Reach;
use crate::report::Role;
use crate::snapshot::{PeerView, Reserved, Word};
use crate::wire::{self, ANSWER, Arrived, REFUSED, Travelling};
use weir_federation_core::placement::Came;
use weir_federation_core::wanted::Wanted;

/// Longest text of a peer's error that is passed on, in bytes.
const ERROR_BYTES: usize = 4 << 10;

/// What an answer may take beyond its deadline on its way back: the peer's own
/// word that it was late says more than a timeout here.
const LATE: Duration = Duration::from_millis(500);

/// What a peer may take beyond a function's own time limit for a call without a
/// deadline: it waits there, and is started.
const BEYOND: Duration = Duration::from_secs(120);

/// How long a call whose body is sent once may wait at the peer that promised
/// it a place.
const GRANTED_WAIT: Duration = Duration::from_secs(5);

/// What came of offering a call to a peer.
pub(super) enum Offered {
    /// It was answered.
    Answer(Answer),
    /// It cannot have begun, for want of a place.
    Full(String),
    /// It cannot have begun, and would not there.
    Declined(String),
    /// It may have begun.
    Lost(String),
    /// It may have begun, and its policy waits no longer for it.
    GaveUp(String),
    /// It ended without an answer, there.
    Failed(InvokeError),
}

impl Offered {
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

    /// How long a peer's answer is waited for: what is left of the deadline, or
    /// what the function may take, and a little for the way back.
    fn patience(&self, errand: &Errand<'_>, round_trip: Duration) -> Duration {
        let limit = errand
            .spec
            .map_or(self.node.config().max_timeout, |spec| spec.timeout);
        let patience = match errand.deadline == Time::NEVER {
            true => limit.saturating_add(BEYOND),
            false => {
                let left = errand.deadline.since(self.node.clock().now());
                left.saturating_add(LATE)
            }
        };
        patience.saturating_add(round_trip)
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
        if once {
            // A refusal would cost the call: it is sent when a place is promised.
            if let Err(reason) = self.ask_for_one(&to, errand).await {
                return (Offered::Full(reason), Some(request));
            }
            travelling.wait = u64::try_from(GRANTED_WAIT.as_millis()).unwrap_or(0);
        } else if to.reserved.is_ahead() {
            travelling.wait = u64::try_from(to.round_trip.as_millis()).unwrap_or(0).max(1);
        }
        wire::put(request.headers_mut(), &travelling);
        *request.version_mut() = http::Version::HTTP_2;
        to_absolute(&mut request);
        let patience = self.patience(errand, to.round_trip);
        let peer = to.peer;
        let here = self.service(errand.function);
        let serves = serves(here, to.reserved.service());
        self.waiters.begins_there(serves);
        let sent = self.federated.carriage.send(peer, &to.addresses, request);
        let sent = tokio::time::timeout(patience, sent).await;
        if !matches!(sent, Ok(Ok(_))) {
            self.waiters.ends_there(serves);
        }
        let (response, kind, using) = match sent {
            Ok(Ok(sent)) => sent,
            Ok(Err(SendError::NotSent { reason, .. })) => {
                to.reserved.give_back();
                self.count_offload(peer, "unreachable", "");
                let fault = Met::Failure(Fault::Unreachable);
                self.federated.met(peer, fault);
                let reason = format!("it cannot be reached: {reason}");
                return (Offered::Declined(reason), None);
            }
            Ok(Err(SendError::Lost { reason, excused })) => {
                to.reserved.give_back();
                self.count_offload(peer, "lost", "");
                // A peer that is heard may have lost its listener only: what
                // comes now goes over its link.
                if !(excused && self.federated.is_linked(&peer)) {
                    self.federated.met(peer, Met::Failure(Fault::Lost));
                }
                return (Offered::Lost(reason), None);
            }
            Ok(Err(SendError::Cut { .. })) => {
                to.reserved.give_back();
                self.count_offload(peer, "failed", "function-failed");
                self.federated.met(peer, Met::Answer(None));
                let text = "the function's answer broke off".to_owned();
                return (Offered::Failed(InvokeError::Failed(text)), None);
            }
            Err(_) if errand.is_impatient => {
                self.count_offload(peer, "late", "");
                return (Offered::gave_up(), None);
            }
            Err(_) => {
                self.count_offload(peer, "late", "");
                self.federated.met(peer, Met::Failure(Fault::Mute));
                let late = InvokeError::Late {
                    phase: Phase::Run,
                    after: patience,
                };
                return (Offered::Failed(late), None);
            }
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

    async fn arrived<U: Send + Unpin + 'static>(
        self: &Arc<Self>,
        (peer, abilities): (PeerId, u64),
        response: Response<hyper::body::Incoming>,
        (using, mut returns): (U, Returns),
        errand: &Errand<'_>,
    ) -> Offered {
        let (mut head, body) = response.into_parts();
        let Some(arrived) = wire::take::<Arrived>(&mut head.headers) else {
            self.count_offload(peer, "malformed", "");
            let fault = Met::Failure(Fault::Malformed);
            self.federated.met(peer, fault);
            return Offered::Lost("it answered without the words that carry an answer".to_owned());
        };
        let patience = self.patience(errand, Duration::ZERO);
        let said = arrived.told.said();
        match arrived.kind.as_str() {
            ANSWER => {
                self.count_offload(peer, "answered", "");
                let (start, timing) = arrived.timing();
                let failed = head.status.is_server_error();
                returns.streams = arrived.told.streams;
                let ran = (!failed).then_some(timing.ran);
                let word = self.has_answered(errand, &said, ran, &mut returns);
                self.federated.met(peer, Met::Answer(word));
                let kept = Kept::new(
                    body.map_err(BodyError::from).boxed_unsync(),
                    (using, returns),
                );
                let body = Patient::new(kept, patience);
                // A member vouches for whom it sent the call on to, by a name that is one.
                let named = arrived.ran_on.filter(|id| id.parse::<PeerId>().is_ok());
                let ran_on = match named {
                    Some(named) => named.into(),
                    None => self.name_of(peer),
                };
                Offered::Answer(Answer {
                    response: Response::from_parts(head, AnswerBody::Stream(body.boxed_unsync())),
                    start,
                    timing,
                    ran_on: Some(ran_on),
                })
            }
            REFUSED => {
                let reserved = returns.reserved.as_ref();
                let word = reserved.and_then(|reserved| word_of(&said, reserved, errand.wanted));
                let why = Why::named(arrived.told.why.as_deref());
                self.count_offload(peer, "refused", why.as_str());
                let text = text_of(body).await;
                self.refused_by((peer, abilities), errand, &said, (why, &text));
                let (met, came) = answers::refusal(peer, why, &said, word);
                self.federated.met(peer, met);
                match (why, came) {
                    (Why::Unable, _) => Offered::Declined(format!("it cannot run it: {text}")),
                    (_, Came::Full(_)) => Offered::Full(format!("it refused: {text}")),
                    (_, _) => Offered::Declined(format!("it refused: {text}")),
                }
            }
            _ => {
                let what = match arrived.kind.as_str() {
                    "late" => "late",
                    "peer-lost" => "peer-lost",
                    "body" => "body",
                    "unfit-request" => "unfit-request",
                    _ => "function-failed",
                };
                self.count_offload(peer, "failed", what);
                let word = self.has_answered(errand, &said, None, &mut returns);
                self.federated.met(peer, Met::Answer(word));
                let text = text_of(body).await;
                match what {
                    "late" if errand.is_impatient => Offered::gave_up(),
                    _ => Offered::Failed(arrived.error(text, patience)),
                }
            }
        }
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

    /// Takes note that a peer has a function, and what it says of its room.
    pub(super) fn is_ready(
        &self,
        peer: PeerId,
        errand: &Errand<'_>,
        said: &Told,
        ran: Option<Duration>,
    ) {
        let now = self.node.clock().now();
        let function = (errand.function, errand.wanted.version);
        let mut abilities = self.federated.abilities();
        abilities.answered(function, peer, said, ran, now);
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

/// How many thousandths of a place here one at a peer is, by how long the
/// function runs here and there.
fn serves(here: Option<Duration>, there: Option<Duration>) -> u32 {
    let (Some(here), Some(there)) = (here, there) else {
        return 1_000;
    };
    let times = here.as_secs_f64() / there.as_secs_f64().max(1e-6);
    (times.clamp(0.05, 20.0) * 1e3) as u32
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

/// Whether an outcome counts against where it came about.
pub(super) fn is_failure(outcome: &Result<Answer, InvokeError>) -> bool {
    match outcome {
        Ok(answer) => answer.response.status().is_server_error(),
        Err(InvokeError::Failed(_) | InvokeError::CannotRun { .. } | InvokeError::Internal(_)) => {
            true
        }
        Err(InvokeError::Late { phase, .. }) => match phase {
            Phase::Run | Phase::Start => true,
            Phase::Queue => false,
        },
        Err(
            InvokeError::Unknown(_)
            | InvokeError::Class(_)
            | InvokeError::Refused { .. }
            | InvokeError::PeerLost(_)
            | InvokeError::Body(_)
            | InvokeError::Unfit(_),
        ) => false,
    }
}
