//! Asynchronous calls that outlive the disk of the node that accepted them:
//! peers keep copies, take over when their owner is gone, and let go when it
//! says how the call ended.
//!
//! At each moment a call that was accepted with copies is, on each disk that
//! counts, either a call that will be run or a result that can be read:
//!
//! * it is copied before it is accepted;
//! * the result goes to those that keep a copy, and takes the copy's place;
//! * a node that is gone for `k` times the take-over time is stood in for by
//!   the copy whose turn is `k`, which asks those before it first;
//! * a node that is back asks those that keep copies before it runs anything;
//! * a copy whose owner said nothing for as long asks it, so that whatever was
//!   lost on the way is made good.

mod keeping;
mod serve;
pub mod words;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::{StreamExt as _, future, stream};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use libp2p_identity::PeerId;
use tokio::sync::{Notify, Semaphore, mpsc};
use tracing::{debug, info, warn};
use weir_node::Node;
use weir_node::executor::{Body, BodyError};
use weir_node::function::FunctionSpec;
use weir_node::id::{CallId, NodeMark, Receipt};
use weir_node::node::{CallResult, CallState, ChangeError, Copied, SubmitError};
use weir_node::panics;
use weir_node::store::{
    BodyPart, CallRecord, CopyKept, CopyNote, PendingCall, ResultRecord, StoredBody,
};
use weir_node::time::Time;
use weir_overlay::carriage::Using;

use self::keeping::Keeping;
use self::words::{Answered, Ended, Hand, IDS, Keep, Said, Told, Want, frame, nothing, unframe};
use crate::dispatch::Kept;
use crate::federated::Federated;

/// Peers that are asked to keep one call before it is given up.
const ASKED: usize = 6;

/// Peers beside those that a receipt names that are asked for a call.
const GUESSED: usize = 4;

/// How long a question between members may take.
const QUESTION: Duration = Duration::from_secs(5);

/// How long a peer may take to keep a copy before another is asked, and how many
/// bytes of its body it may take a second more for.
const PATIENCE: Duration = Duration::from_secs(3);
const SLOW: u64 = 256 << 10;

/// How long a call may take from its first copy to this node's own disk.
const ACCEPTING: Duration = Duration::from_secs(120);

/// How long a peer that did not answer comes last.
const AVOIDED: Duration = Duration::from_secs(10);

/// How long a call or a result may take to a peer.
const TRANSFER: Duration = Duration::from_secs(60);

/// Transfers of one kind at once.
const AT_ONCE: usize = 64;

/// Ended calls that were not told yet; of more, peers hear when they ask.
const ENDED: usize = 16_384;

/// Calls that are taken over, or copied anew, between two looks around.
const BATCH: usize = 256;

/// Longest answer to a question.
const ANSWER_BYTES: usize = 64 << 10;

/// A call of this node's that peers keep copies of.
#[derive(Debug, Clone)]
struct Owned {
    copies: Vec<PeerId>,
    wanted: u8,
    /// Until when it may not be on this node's own disk yet.
    young_until: Time,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Copies that peers kept for this node.
    pub made: AtomicU64,
    /// Calls that it refused, since too few could keep a copy.
    pub refused: AtomicU64,
    /// Calls that it took over.
    pub taken_over: AtomicU64,
    /// Calls that it handed to others.
    pub handed: AtomicU64,
}

/// What there is of a call that a receipt names.
pub enum Found {
    /// It is known.
    State(CallState),
    /// Nobody that may have it knows it.
    Unknown,
    /// Some that may have it cannot be asked now.
    Unreachable,
}

/// Copies of calls, a node's own and others'.
pub(crate) struct Copies {
    node: Node,
    federated: Federated,
    /// Own calls with copies that have not ended; no more than the backlog has.
    owned: DashMap<CallId, Owned>,
    keeping: Mutex<Keeping>,
    ended: mpsc::Sender<(CallId, Vec<PeerId>)>,
    /// Those that peers were not told of yet.
    untold: AtomicUsize,
    all_told: Notify,
    /// Peers that did not answer, until when they are asked last; no more than
    /// there are members.
    avoided: DashMap<PeerId, Time>,
    counters: Counters,
}

/// Whether peers have a call of an earlier life of this node.
struct Question {
    /// Those that keep copies and were not asked yet.
    unasked: Vec<PeerId>,
    /// Whether it is in the queue again.
    goes_on: bool,
}

impl Question {
    fn to(peers: &[PeerId]) -> Question {
        Question {
            unasked: peers.to_vec(),
            goes_on: false,
        }
    }
}

/// What a member answered when it was asked for a result.
enum Fetched {
    Result(Box<Answered>, Body),
    Pending,
    /// It has ended, and nobody keeps its result.
    Expired,
    Unknown,
}

impl Copies {
    /// Looks after copies from now on, as long as the federation lasts.
    pub(crate) fn start(node: Node, federated: Federated) -> Arc<Copies> {
        let (ended, ends) = mpsc::channel(ENDED);
        let mut keeping = Keeping::default();
        let now = federated.shared.clock.now();
        for note in node.take_copies() {
            keeping.insert(note, now);
        }
        let copies = Arc::new(Copies {
            node,
            federated,
            owned: DashMap::new(),
            keeping: Mutex::new(keeping),
            ended,
            untold: AtomicUsize::new(0),
            all_told: Notify::new(),
            avoided: DashMap::new(),
            counters: Counters::default(),
        });
        let held = copies.node.take_held();
        for call in &held {
            copies.owned.insert(call.id, Owned::of(call));
        }
        tokio::spawn(Arc::clone(&copies).tell_ended(ends));
        tokio::spawn(Arc::clone(&copies).resume(held));
        let looking = Arc::clone(&copies);
        tokio::spawn(async move {
            while panics::contain(looking.look_around()).await.is_err() {
                panics::rest("copies of calls").await;
            }
        });
        copies
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Copies that it keeps for others.
    pub(crate) fn kept(&self) -> usize {
        self.keeping().len()
    }

    fn keeping(&self) -> MutexGuard<'_, Keeping> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        self.federated.shared.clock.now()
    }

    fn own(&self) -> PeerId {
        self.federated.shared.id
    }

    fn takeover(&self) -> Duration {
        self.federated.settings().takeover
    }

    /// Has peers keep a call before it is accepted.
    pub(crate) async fn copy(&self, call: &CallRecord) -> Result<Copied, SubmitError> {
        let spec = self.node.spec(&call.function);
        let spec = spec.or_else(|| self.federated.entry(&call.function)?.spec);
        let asked = spec.map(|spec| spec.durability).unwrap_or_default();
        let wanted = asked.copies.min(FunctionSpec::MOST_DURABLE);
        if wanted == 0 {
            return Ok(Copied::default());
        }
        let call = CallRecord {
            durable: wanted,
            ..call.clone()
        };
        // Known from now on, or a copy that asks would be let go.
        let owned = Owned {
            copies: Vec::new(),
            wanted,
            young_until: self.now() + ACCEPTING,
        };
        self.owned.insert(call.id, owned);
        let peers = self.make(&call, &[], usize::from(wanted)).await;
        if peers.len() < usize::from(wanted) && !asked.best_effort {
            self.owned.remove(&call.id);
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            self.let_go(call.id, &peers).await;
            return Err(SubmitError::NoCopies {
                wanted,
                kept: peers.len(),
            });
        }
        if let Some(mut owned) = self.owned.get_mut(&call.id) {
            owned.copies = peers.clone();
        }
        Ok(Copied { wanted, peers })
    }

    /// Takes note that a call of this node's has ended, or was not accepted.
    pub(crate) fn ended(self: &Arc<Self>, id: CallId, accepted: bool) {
        let Some((_, owned)) = self.owned.remove(&id) else {
            return;
        };
        if owned.copies.is_empty() {
            return;
        }
        if accepted {
            self.untold.fetch_add(1, Ordering::Relaxed);
            // Who is not told asks.
            if self.ended.try_send((id, owned.copies)).is_err() {
                self.untold.fetch_sub(1, Ordering::Relaxed);
            }
        } else {
            let copies = Arc::clone(self);
            tokio::spawn(async move { copies.let_go(id, &owned.copies).await });
        }
    }

    /// Has peers keep copies of a call until `wanted` do, `kept` of which have
    /// one already; who does then.
    async fn make(&self, call: &CallRecord, kept: &[PeerId], wanted: usize) -> Vec<PeerId> {
        let mut candidates = self.federated.keepers_of_call(call.id);
        candidates.retain(|peer| !kept.contains(peer));
        if !self.avoided.is_empty() {
            let now = self.now();
            self.avoided.retain(|_, until| *until > now);
            candidates.sort_by_key(|peer| self.avoided.contains_key(peer));
        }
        candidates.truncate(ASKED);
        let planned: Vec<PeerId> = kept.iter().chain(&candidates).copied().collect();
        let planned = &planned[..planned.len().min(wanted)];
        let next = Mutex::new(candidates.iter().copied());
        let places = (kept.len()..wanted).map(|at| {
            let next = &next;
            async move {
                loop {
                    let peer = next.lock().unwrap_or_else(PoisonError::into_inner).next()?;
                    match self.send_copy(peer, call, at, planned).await {
                        Ok(()) => return Some(peer),
                        Err(reason) => debug!(%peer, reason, "a peer keeps no copy of a call"),
                    }
                }
            }
        });
        let made = future::join_all(places).await;
        let made: Vec<PeerId> = kept
            .iter()
            .copied()
            .chain(made.into_iter().flatten())
            .collect();
        let count = made.len().saturating_sub(kept.len());
        self.counters
            .made
            .fetch_add(count as u64, Ordering::Relaxed);
        match made == planned && kept.is_empty() {
            true => made,
            false => self.renote(call.id, self.own(), &made).await,
        }
    }

    async fn send_copy(
        &self,
        peer: PeerId,
        call: &CallRecord,
        at: usize,
        copies: &[PeerId],
    ) -> Result<(), String> {
        let keep = Keep {
            note: note(call.id, self.own(), at, copies),
            told: Some(Told::new(call, Timestamp::now())),
        };
        let body = self.node.request_body(call).await;
        let body = body.map_err(|error| error.to_string())?;
        let limit = Duration::from_secs(call.body.bytes() / SLOW).saturating_add(PATIENCE);
        let sent = self.answer(peer, Want::Keep, frame(&keep, body), limit);
        match sent.await {
            Ok((StatusCode::OK, _)) => Ok(()),
            Ok((status, _)) => Err(format!("it answered {status}")),
            Err(reason) => {
                self.avoided.insert(peer, self.now() + AVOIDED);
                Err(reason)
            }
        }
    }

    /// Tells those that keep copies of a call who they are and whose it is; which
    /// of them do keep one.
    async fn renote(&self, id: CallId, owner: PeerId, copies: &[PeerId]) -> Vec<PeerId> {
        let told = copies.iter().enumerate().map(|(at, peer)| {
            let keep = Keep {
                note: note(id, owner, at, copies),
                told: None,
            };
            self.say(*peer, Want::Keep, frame(&keep, nothing()), QUESTION)
        });
        let told = future::join_all(told).await;
        let kept = copies.iter().zip(told);
        kept.filter_map(|(peer, told)| told.is_ok().then_some(*peer))
            .collect()
    }

    async fn let_go(&self, id: CallId, peers: &[PeerId]) {
        let told = peers.iter().map(|peer| {
            let body = frame(&vec![id], nothing());
            self.say(*peer, Want::Drop, body, QUESTION)
        });
        future::join_all(told).await;
    }

    /// Sends a request; the answer's body, where it is a success.
    async fn say(
        &self,
        peer: PeerId,
        want: Want,
        body: Body,
        limit: Duration,
    ) -> Result<Bytes, String> {
        match self.answer(peer, want, body, limit).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(format!("it answered {status}")),
        }
    }

    async fn answer(
        &self,
        peer: PeerId,
        want: Want,
        body: Body,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        let request = want.request(body)?;
        let answered = async {
            let (response, _using) = self.federated.send(peer, request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect();
            let body = body.await.map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        };
        match tokio::time::timeout(limit, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    /// What a member knows of calls; at most [`IDS`] at once.
    async fn ask(&self, peer: PeerId, ids: &[CallId]) -> Result<Vec<Said>, String> {
        let mut said = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS) {
            let body = frame(&ids, nothing());
            let answer = self.say(peer, Want::Standing, body, QUESTION).await?;
            let numbers: Vec<u8> =
                cbor4ii::serde::from_slice(&answer).map_err(|error| format!("{error:?}"))?;
            if numbers.len() != ids.len() {
                return Err("it answered for other calls".to_owned());
            }
            said.extend(numbers.into_iter().map(Said::from_number));
        }
        Ok(said)
    }

    async fn fetch(&self, peer: PeerId, id: CallId) -> Result<Fetched, String> {
        let request = Want::Result.request(frame(&vec![id], nothing()))?;
        let answered = async {
            let (response, using) = self.federated.send(peer, request).await?;
            match response.status() {
                StatusCode::ACCEPTED => Ok(Fetched::Pending),
                StatusCode::GONE => Ok(Fetched::Expired),
                StatusCode::NOT_FOUND => Ok(Fetched::Unknown),
                StatusCode::OK => {
                    let body = held(response, using);
                    let (answered, body) = unframe(body).await.ok_or("it answered nonsense")?;
                    Ok(Fetched::Result(Box::new(answered), body))
                }
                status => Err(format!("it answered {status}")),
            }
        };
        match tokio::time::timeout(QUESTION, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {QUESTION:?}")),
        }
    }

    /// Brings the result of a call here from a member that has it, in the place
    /// of the call or its copy; whether it took that place.
    async fn settle(&self, peer: PeerId, id: CallId) -> bool {
        let (result, body) = match self.fetch(peer, id).await {
            Ok(Fetched::Result(answered, body)) => (Some(answered.result), body),
            Ok(Fetched::Expired) => (None, nothing()),
            Ok(Fetched::Pending | Fetched::Unknown) => return false,
            Err(reason) => {
                debug!(call = %id, %peer, reason, "a result is not brought here yet");
                return false;
            }
        };
        let transferred = tokio::time::timeout(TRANSFER, self.end(id, result, body)).await;
        matches!(transferred, Ok(Ok(true)))
    }

    /// Puts a result in the place of a call or copy; false when there was
    /// neither.
    async fn end(
        &self,
        id: CallId,
        result: Option<ResultRecord>,
        body: Body,
    ) -> Result<bool, StatusCode> {
        let now = Timestamp::now();
        let limit = self.node.config().asynchronous.result_bytes;
        let store = self.node.store();
        let result = match result {
            Some(result) => {
                let body = store.keep_body(id, BodyPart::Result, body, limit).await;
                let body = body.map_err(|_| StatusCode::INSUFFICIENT_STORAGE)?;
                let result = ResultRecord {
                    ended_at: now,
                    ..result
                };
                Some((result, Arc::new(body)))
            }
            None => None,
        };
        let ended = store.end_copy(id, result, now).await;
        let ended = ended.map_err(|_| StatusCode::INSUFFICIENT_STORAGE)?;
        self.keeping().remove(&id);
        self.owned.remove(&id);
        Ok(ended)
    }

    /// Tells those that keep copies of calls that these have ended, and how.
    async fn tell_ended(self: Arc<Self>, mut ends: mpsc::Receiver<(CallId, Vec<PeerId>)>) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let ended = tokio::select! {
                ended = ends.recv() => ended,
                () = self.node.over() => ends.try_recv().ok(),
            };
            let Some((id, peers)) = ended else {
                return;
            };
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let copies = Arc::clone(&self);
            tokio::spawn(async move {
                let _place = place;
                let told = peers.iter().map(|peer| copies.send_result(*peer, id));
                for told in future::join_all(told).await {
                    if let Err(reason) = told {
                        debug!(call = %id, reason, "a peer does not know yet that a call ended");
                    }
                }
                if copies.untold.fetch_sub(1, Ordering::AcqRel) == 1 {
                    copies.all_told.notify_waiters();
                }
            });
        }
    }

    /// Waits, at most `limit`, until peers know which calls have ended: they would
    /// run them again once this node is gone.
    pub(crate) async fn told(&self, limit: Duration) {
        let told = async {
            loop {
                let all = self.all_told.notified();
                if self.untold.load(Ordering::Acquire) == 0 {
                    return;
                }
                all.await;
            }
        };
        if tokio::time::timeout(limit, told).await.is_err() {
            debug!("peers are not told of all calls that have ended");
        }
    }

    async fn send_result(&self, peer: PeerId, id: CallId) -> Result<(), String> {
        let kept = self.node.kept_result(id).await;
        let kept = kept.map_err(|error| error.to_string())?;
        let (result, body) = match kept {
            Some((mut result, body)) => {
                result.body = StoredBody::EMPTY;
                (Some(result), body)
            }
            None => (None, nothing()),
        };
        let body = frame(&Ended { id, result }, body);
        self.say(peer, Want::Ended, body, TRANSFER).await.map(drop)
    }

    /// Runs the calls of an earlier life again, unless those that keep copies
    /// did: each of these is asked. A call goes on after the time in which the
    /// first of them takes over; as long as it waits here it still yields to a
    /// peer that turns out to have it.
    async fn resume(self: Arc<Self>, held: Vec<PendingCall>) {
        if held.is_empty() {
            return;
        }
        let until = self.now() + self.takeover();
        let mut questions: HashMap<CallId, Question> = held
            .iter()
            .map(|call| (call.id, Question::to(&call.copies)))
            .collect();
        let order: Vec<CallId> = held.iter().map(|call| call.id).collect();
        info!(
            calls = order.len(),
            "asks peers before calls of an earlier run go on"
        );
        loop {
            let here = self.federated.here();
            let mut by_peer: HashMap<PeerId, Vec<CallId>> = HashMap::new();
            for id in &order {
                let peers = questions.get(id).into_iter().flat_map(|q| &q.unasked);
                for peer in peers.filter(|peer| here.contains(peer)) {
                    by_peer.entry(*peer).or_default().push(*id);
                }
            }
            for (peer, ids) in by_peer {
                let Ok(said) = self.ask(peer, &ids).await else {
                    continue;
                };
                for (id, said) in ids.iter().zip(said) {
                    match said {
                        Said::Unknown | Said::Copied => {
                            if let Some(question) = questions.get_mut(id) {
                                question.unasked.retain(|other| *other != peer);
                            }
                        }
                        Said::Done | Said::Pending | Said::Unneeded => {
                            let question = questions.remove(id);
                            // What has begun here ends here.
                            if question.is_some_and(|q| !q.goes_on || self.node.withdraw(*id)) {
                                self.yield_to(peer, *id, said).await;
                            }
                        }
                    }
                }
            }
            let late = self.now() >= until;
            for id in &order {
                let Some(question) = questions.get_mut(id) else {
                    continue;
                };
                if !question.goes_on && (question.unasked.is_empty() || late) {
                    question.goes_on = true;
                    self.node.resume(*id);
                }
            }
            questions.retain(|id, question| {
                !question.goes_on || !question.unasked.is_empty() && self.owned.contains_key(id)
            });
            if questions.is_empty() {
                return;
            }
            tokio::time::sleep(self.tick()).await;
        }
    }

    /// Lets a peer have a held call that it ran, or runs. As long as that one
    /// wants it kept, it is kept here.
    async fn yield_to(&self, peer: PeerId, id: CallId, said: Said) {
        info!(call = %id, %peer, "a peer took a call over");
        self.owned.remove(&id);
        if said == Said::Done && self.settle(peer, id).await {
            self.node.left();
            return;
        }
        let note = note(id, peer, 0, &[self.own()]);
        match self.node.demote(&note).await {
            Ok(()) => {
                let now = self.now();
                self.keeping().insert(note, now);
            }
            Err(error) => warn!(call = %id, %error, "a call that a peer runs stays here too"),
        }
    }

    fn tick(&self) -> Duration {
        let tick = self.takeover().div_f64(30.0);
        tick.clamp(Duration::from_millis(100), Duration::from_secs(1))
    }

    async fn look_around(self: &Arc<Self>) {
        let mut tick = tokio::time::interval(self.tick());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Peers that keep copies of own calls and are not here, since when.
        let mut away: HashMap<PeerId, Time> = HashMap::new();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.node.over() => return,
            }
            let (here, now) = (self.federated.here(), self.now());
            let due = {
                let mut keeping = self.keeping();
                keeping.look(&here, now);
                keeping.due(self.takeover(), now, BATCH)
            };
            if self.federated.is_draining() {
                self.hand_over().await;
                continue;
            }
            self.take_turns(due, &here).await;
            self.make_good(&mut away, &here, now).await;
            let unconfirmed = self.keeping().unconfirmed(self.takeover(), now);
            for (owner, ids) in unconfirmed {
                self.confirm(owner, ids).await;
            }
        }
    }

    /// Takes over the calls whose turn has come, unless somebody before did.
    async fn take_turns(self: &Arc<Self>, due: Vec<(CopyNote, u32)>, here: &HashSet<PeerId>) {
        let mut by_peer: HashMap<PeerId, Vec<CallId>> = HashMap::new();
        for (note, _) in &due {
            let others = note.copies.iter();
            for other in others.filter(|other| **other != self.own() && here.contains(other)) {
                by_peer.entry(*other).or_default().push(note.id);
            }
        }
        let mut said: HashMap<CallId, Vec<(PeerId, Said)>> = HashMap::new();
        for (peer, ids) in by_peer {
            let answers = self.ask(peer, &ids).await.unwrap_or_default();
            for (id, answer) in ids.into_iter().zip(answers) {
                said.entry(id).or_default().push((peer, answer));
            }
        }
        let turns = due.into_iter().map(|(note, turns)| {
            let said = said.remove(&note.id).unwrap_or_default();
            self.take_turn(note, turns, said)
        });
        stream::iter(turns)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
    }

    async fn take_turn(&self, note: CopyNote, turns: u32, said: Vec<(PeerId, Said)>) {
        let id = note.id;
        for (peer, said) in &said {
            match said {
                Said::Done => {
                    self.settle(*peer, id).await;
                    return;
                }
                Said::Pending | Said::Unneeded => {
                    // It has taken over: it is the one to wait for now.
                    let note = CopyNote {
                        owner: *peer,
                        ..note
                    };
                    if let Ok(Some(CopyKept::Kept)) = self.node.store().renote_copy(&note).await {
                        let now = self.now();
                        self.keeping().insert(note, now);
                    }
                    return;
                }
                Said::Copied | Said::Unknown => {}
            }
        }
        let copied = said.iter().filter(|(_, said)| *said == Said::Copied);
        let copied: Vec<PeerId> = copied.map(|(peer, _)| *peer).collect();
        let before = note.copies.iter().take(usize::from(note.turn) - 1);
        let waits = before.clone().any(|peer| copied.contains(peer));
        if waits && turns <= u32::from(note.turn) {
            return;
        }
        // First, since it may end at once.
        let others = copied.clone();
        self.owned.insert(
            id,
            Owned {
                copies: others,
                wanted: 0,
                young_until: Time::ZERO,
            },
        );
        match self.node.take_over(id).await {
            Ok(Some(pending)) => {
                self.keeping().remove(&id);
                self.counters.taken_over.fetch_add(1, Ordering::Relaxed);
                info!(call = %id, owner = %note.owner, "takes over a call whose node is gone");
                if let Some(mut owned) = self.owned.get_mut(&id) {
                    owned.wanted = pending.durable;
                }
                let copies = self.renote(id, self.own(), &copied).await;
                if let Some(mut owned) = self.owned.get_mut(&id) {
                    owned.copies = copies.clone();
                }
                let _ = self.node.store().set_copies(id, copies).await;
            }
            Ok(None) => {
                self.owned.remove(&id);
                self.keeping().remove(&id);
            }
            Err(error) => {
                self.owned.remove(&id);
                warn!(call = %id, %error, "a call cannot be taken over yet");
            }
        }
    }

    /// Has copies of own calls made anew where too few are left.
    async fn make_good(&self, away: &mut HashMap<PeerId, Time>, here: &HashSet<PeerId>, now: Time) {
        // A peer that is started anew has its copies still.
        let patience = self.takeover().div_f64(3.0);
        let before = std::mem::take(away);
        let mut short = Vec::new();
        for owned in &self.owned {
            let mut left = owned.copies.clone();
            left.retain(|peer| {
                if here.contains(peer) {
                    return true;
                }
                let since = before.get(peer).copied().unwrap_or(now);
                away.insert(*peer, since);
                now.since(since) < patience
            });
            let others = here.iter().any(|peer| !left.contains(peer));
            if left.len() < usize::from(owned.wanted) && others && short.len() < BATCH {
                short.push((*owned.key(), left, usize::from(owned.wanted)));
            }
        }
        let made = short.into_iter().map(|(id, left, wanted)| async move {
            let call = match self.node.store().call(id).await {
                Ok(Some(call)) => call,
                // It has ended, unless it is being accepted.
                Ok(None) => {
                    self.owned
                        .remove_if(&id, |_, owned| now >= owned.young_until);
                    return;
                }
                Err(_) => return,
            };
            let copies = self.make(&call, &left, wanted).await;
            if let Some(mut owned) = self.owned.get_mut(&id) {
                owned.copies = copies.clone();
            }
            if let Err(error) = self.node.store().set_copies(id, copies).await {
                debug!(call = %id, %error, "it is not noted who keeps copies of a call");
            }
        });
        stream::iter(made)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
    }

    /// Asks the owner of copies whether they are still wanted.
    async fn confirm(&self, owner: PeerId, ids: Vec<CallId>) {
        let said = match self.ask(owner, &ids).await {
            Ok(said) => said,
            Err(reason) => {
                debug!(peer = %owner, reason, "the owner of copies does not answer");
                return;
            }
        };
        let mut unwanted = Vec::new();
        for (id, said) in ids.into_iter().zip(said) {
            match said {
                Said::Pending | Said::Copied => {}
                Said::Done => {
                    self.settle(owner, id).await;
                }
                Said::Unknown | Said::Unneeded => unwanted.push(id),
            }
        }
        if !unwanted.is_empty() {
            self.forget(unwanted).await;
        }
    }

    async fn forget(&self, ids: Vec<CallId>) {
        match self.node.store().drop_copies(ids.clone()).await {
            Ok(_) => {
                let mut keeping = self.keeping();
                for id in &ids {
                    keeping.remove(id);
                }
            }
            Err(error) => warn!(%error, "copies of calls stay that nobody wants"),
        }
    }

    /// Hands to others what waits here, and what is kept here for others. What
    /// nobody takes stays.
    pub(crate) async fn hand_over(&self) {
        let orphans = self.keeping().orphans();
        for id in orphans {
            if let Ok(Some(pending)) = self.node.take_over(id).await {
                self.keeping().remove(&id);
                self.owned.insert(id, Owned::of(&pending));
            }
        }
        let kept = self.keeping().all();
        for (owner, ids) in kept {
            for ids in ids.chunks(IDS) {
                let body = frame(&ids, nothing());
                match self.say(owner, Want::Release, body, TRANSFER).await {
                    Ok(_) => self.forget(ids.to_vec()).await,
                    Err(reason) => debug!(peer = %owner, reason, "copies stay here"),
                }
            }
        }
        let mut stay = Vec::new();
        while let Some(id) = self.node.take_waiting() {
            match self.hand(id).await {
                Ok(to) => {
                    self.counters.handed.fetch_add(1, Ordering::Relaxed);
                    debug!(call = %id, %to, "handed a call over");
                }
                Err(reason) => {
                    debug!(call = %id, reason, "a call stays here");
                    stay.push(id);
                    // The next would meet the same.
                    if stay.len() >= ASKED {
                        break;
                    }
                }
            }
        }
        for id in stay {
            self.node.resume(id);
        }
    }

    async fn hand(&self, id: CallId) -> Result<PeerId, String> {
        let call = self.node.store().call(id).await;
        let call = call.map_err(|error| error.to_string())?;
        let call = call.ok_or("it has ended")?;
        let owned = self.owned.get(&id).map(|owned| owned.copies.clone());
        let copies = owned.unwrap_or_default();
        let mut reason = "there is no other node".to_owned();
        for peer in self.federated.keepers_of_call(id).into_iter().take(ASKED) {
            let hand = Hand {
                told: Told::new(&call, Timestamp::now()),
            };
            let body = self.node.request_body(&call).await;
            let body = body.map_err(|error| error.to_string())?;
            match self
                .say(peer, Want::Hand, frame(&hand, body), TRANSFER)
                .await
            {
                Ok(_) => {
                    self.owned.remove(&id);
                    let given_up = self.node.give_up(id).await;
                    given_up.map_err(|error| error.to_string())?;
                    let others: Vec<PeerId> = copies
                        .iter()
                        .copied()
                        .filter(|other| *other != peer)
                        .collect();
                    self.renote(id, peer, &others).await;
                    return Ok(peer);
                }
                Err(text) => reason = text,
            }
        }
        Err(reason)
    }

    /// Finds a call by what its caller was given, wherever it is.
    ///
    /// # Errors
    /// When this node's own disk fails.
    pub(crate) async fn find(&self, receipt: &Receipt) -> Result<Found, ChangeError> {
        let id = receipt.call;
        if let Some(state) = self.node.call(id).await? {
            return Ok(Found::State(state));
        }
        let copied = self.keeping().note(&id).cloned();
        let mut asked: Vec<PeerId> = copied.iter().map(|note| note.owner).collect();
        let here = self.federated.here();
        let mut unreachable = false;
        for mark in &receipt.nodes {
            if *mark == NodeMark::of(&self.own()) {
                continue;
            }
            let named = here.iter().filter(|peer| NodeMark::of(peer) == *mark);
            let named: Vec<PeerId> = named.copied().collect();
            unreachable |= named.is_empty();
            asked.extend(named);
        }
        // Whoever took it over, or keeps a copy that was made anew.
        let guessed = self.federated.keepers_of_call(id).into_iter().take(GUESSED);
        let guessed = guessed.filter(|_| !receipt.nodes.is_empty());
        asked.extend(guessed);
        let mut before = HashSet::new();
        asked.retain(|peer| before.insert(*peer));
        for peer in asked {
            match self.fetch(peer, id).await {
                Ok(Fetched::Result(answered, body)) => {
                    let Answered { result, bytes } = *answered;
                    return Ok(Found::State(CallState::Done(CallResult {
                        status: result.status,
                        headers: result.headers,
                        body,
                        body_bytes: bytes,
                        error: result.error,
                        ended_at: result.ended_at,
                        attempts: result.attempts,
                        caller_id: result.caller_id,
                    })));
                }
                Ok(Fetched::Pending) => return Ok(Found::State(CallState::Pending)),
                Ok(Fetched::Expired) => return Ok(Found::Unknown),
                Ok(Fetched::Unknown) => {}
                Err(reason) => {
                    debug!(%peer, reason, "a member cannot be asked for a call");
                    unreachable = true;
                }
            }
        }
        Ok(match (copied, unreachable) {
            (Some(_), _) => Found::State(CallState::Pending),
            (None, true) => Found::Unreachable,
            (None, false) => Found::Unknown,
        })
    }
}

impl Owned {
    fn of(call: &PendingCall) -> Owned {
        Owned {
            copies: call.copies.clone(),
            wanted: call.durable,
            young_until: Time::ZERO,
        }
    }
}

fn note(id: CallId, owner: PeerId, at: usize, copies: &[PeerId]) -> CopyNote {
    CopyNote {
        id,
        owner,
        turn: u8::try_from(at + 1).unwrap_or(u8::MAX),
        copies: copies.to_vec(),
    }
}

/// An answer's body, which keeps what carries it until it has ended.
fn held(response: Response<hyper::body::Incoming>, using: Using) -> Body {
    let body = response.into_body().map_err(BodyError::from).boxed_unsync();
    Kept::new(body, using).boxed_unsync()
}
