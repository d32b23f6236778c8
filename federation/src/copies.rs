//! Asynchronous calls that outlive the disk of the node that accepted them:
//! peers keep copies, take over when their owner is gone, and let go when it
//! says how the call ended. Who does what, and when, is decided by
//! [`weir_federation_core::copies`]; here it is asked, stored and told.

mod asking;
mod handing;
mod making;
mod serve;
mod takeover;
pub mod words;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use libp2p_identity::PeerId;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, info, warn};
use weir_federation_core::copies::finding::{Answer, FINDING_AT_ONCE, Finding, Whereabouts};
use weir_federation_core::copies::keeping::Keeping;
use weir_federation_core::copies::making::Avoided;
use weir_federation_core::copies::owning::{Owned, Owning};
use weir_federation_core::copies::resuming::{Resuming, Yielded};
use weir_federation_core::copies::{BATCH_MAX, Note, QUESTIONS_AT_ONCE, Said, look_interval};
use weir_node::Node;
use weir_node::executor::Body;
use weir_node::id::{CallId, Receipt};
use weir_node::node::{CallResult, CallState, ChangeError};
use weir_node::panics;
use weir_node::store::{CopyNote, PendingCall};
use weir_node::time::Time;

use self::words::Answered;
use crate::federated::Federated;

/// How long a question between members may take.
const QUESTION: Duration = Duration::from_secs(5);

/// How long a call or a result may take to a peer.
const TRANSFER: Duration = Duration::from_secs(60);

/// Transfers of one kind at once.
const AT_ONCE: usize = 64;

/// Ended calls that were not told yet; of more, peers hear when they ask.
const ENDED: usize = 16_384;

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
    /// Own calls with copies that have not ended.
    owning: Mutex<Owning>,
    keeping: Mutex<Keeping>,
    ended: mpsc::Sender<(CallId, Vec<PeerId>)>,
    /// Those that peers were not told of yet.
    untold: AtomicUsize,
    all_told: Notify,
    avoided: Mutex<Avoided>,
    counters: Counters,
}

impl Copies {
    /// Looks after copies from now on, as long as the federation lasts.
    pub(crate) fn start(node: Node, federated: Federated) -> Arc<Copies> {
        let (ended, ends) = mpsc::channel(ENDED);
        let mut keeping = Keeping::default();
        let now = federated.shared.clock.now();
        for note in node.take_copies() {
            keeping.insert(note_of(note), now);
        }
        let held = node.take_held();
        let mut owning = Owning::default();
        for call in &held {
            owning.insert(call.id, owned(call));
        }
        let copies = Arc::new(Copies {
            node,
            federated,
            owning: Mutex::new(owning),
            keeping: Mutex::new(keeping),
            ended,
            untold: AtomicUsize::new(0),
            all_told: Notify::new(),
            avoided: Mutex::default(),
            counters: Counters::default(),
        });
        let federated = &copies.federated;
        federated.spawn(Arc::clone(&copies).tell_ended(ends));
        federated.spawn(Arc::clone(&copies).resume(held));
        let looking = Arc::clone(&copies);
        federated.spawn(async move {
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
        self.keeping.lock()
    }

    fn owning(&self) -> MutexGuard<'_, Owning> {
        self.owning.lock()
    }

    fn avoided(&self) -> MutexGuard<'_, Avoided> {
        self.avoided.lock()
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

    /// Runs the calls of an earlier life again, unless those that keep copies
    /// did: each of these is asked.
    async fn resume(self: Arc<Self>, held: Vec<PendingCall>) {
        if held.is_empty() {
            return;
        }
        info!(
            calls = held.len(),
            "asks peers before calls of an earlier run go on"
        );
        let until = self.now() + self.takeover();
        let held = held.into_iter().map(|call| (call.id, call.copies));
        let mut resuming = Resuming::new(held, until);
        loop {
            let asked = resuming.to_ask(&self.federated.here());
            for (peer, id, said) in self.ask_all(asked).await {
                let Some(yielded) = resuming.said(peer, id, said) else {
                    continue;
                };
                // What has begun here ends here.
                if !yielded.goes_on || self.node.withdraw(id) {
                    self.yield_to(yielded).await;
                }
            }
            let going = {
                let owning = self.owning();
                resuming.go_on(self.now(), |id| owning.get(id).is_some())
            };
            for id in going {
                self.node.resume(id);
            }
            if resuming.is_over() {
                return;
            }
            tokio::time::sleep(look_interval(self.takeover())).await;
        }
    }

    /// Lets a peer have a held call that it ran, or runs. As long as that one
    /// wants it kept, it is kept here.
    async fn yield_to(&self, yielded: Yielded) {
        let Yielded { id, to, said, .. } = yielded;
        info!(call = %id, peer = %to, "a peer took a call over");
        self.owning().remove(&id);
        if said == Said::Done && self.settle(to, id).await {
            self.node.left();
            return;
        }
        let note = Note::new(id, to, 0, &[self.own()]);
        match self.node.demote(&copy_note(note.clone())).await {
            Ok(()) => {
                let now = self.now();
                self.keeping().insert(note, now);
            }
            Err(error) => warn!(call = %id, %error, "a call that a peer runs stays here too"),
        }
    }

    async fn look_around(self: &Arc<Self>) {
        let mut tick = tokio::time::interval(look_interval(self.takeover()));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.node.over() => return,
            }
            let (here, now) = (self.federated.here(), self.now());
            let due = {
                let mut keeping = self.keeping();
                keeping.look(&here, now);
                keeping.due(self.takeover(), now, BATCH_MAX)
            };
            if self.federated.is_draining() {
                self.hand_over().await;
                continue;
            }
            self.take_turns(due, &here).await;
            self.make_good(&here, now).await;
            let unconfirmed = self.keeping().unconfirmed(self.takeover(), now);
            let confirmed = unconfirmed
                .into_iter()
                .map(|(owner, ids)| self.confirm(owner, ids));
            stream::iter(confirmed)
                .buffer_unordered(QUESTIONS_AT_ONCE)
                .collect::<()>()
                .await;
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

    /// Finds a call by what its caller was given, wherever it is.
    ///
    /// # Errors
    /// When this node's own disk fails.
    pub(crate) async fn find(&self, receipt: &Receipt) -> Result<Found, ChangeError> {
        let id = receipt.call;
        if let Some(state) = self.node.call(id).await? {
            return Ok(Found::State(state));
        }
        let owner = self.keeping().note(&id).map(|note| note.owner);
        let here = self.federated.here();
        let members = self.federated.members();
        let mut finding = Finding::new(receipt, &self.own(), owner, &here, &members);
        let asked = finding.asked().to_vec();
        let answers = asked.into_iter().map(|peer| async move {
            match self.fetch(peer, id).await {
                Ok(answer) => answer,
                Err(reason) => {
                    debug!(%peer, reason, "a member cannot be asked for a call");
                    Answer::Unreachable
                }
            }
        });
        let mut answers = std::pin::pin!(stream::iter(answers).buffered(FINDING_AT_ONCE));
        while let Some(answer) = answers.next().await {
            if let Some(whereabouts) = finding.came(answer) {
                return Ok(found(whereabouts));
            }
        }
        Ok(found(finding.ends()))
    }
}

/// A result, its head and its body, as a member gives it.
type Given = (Box<Answered>, Body);

fn found(whereabouts: Whereabouts<Given>) -> Found {
    match whereabouts {
        Whereabouts::Result((answered, body)) => {
            let Answered { result, bytes } = *answered;
            Found::State(CallState::Done(CallResult {
                status: result.status,
                headers: result.headers,
                body,
                body_bytes: bytes,
                error: result.error,
                ended_at: result.ended_at,
                attempts: result.attempts,
                caller_id: result.caller_id,
            }))
        }
        Whereabouts::Pending => Found::State(CallState::Pending),
        Whereabouts::Unknown => Found::Unknown,
        Whereabouts::Unreachable => Found::Unreachable,
    }
}

fn owned(call: &PendingCall) -> Owned {
    Owned::stored(call.copies.clone(), call.durable)
}

/// A note as it is kept in the store.
fn copy_note(note: Note) -> CopyNote {
    CopyNote {
        id: note.id,
        owner: note.owner,
        turn: note.turn,
        copies: note.copies,
    }
}

fn note_of(note: CopyNote) -> Note {
    Note {
        id: note.id,
        owner: note.owner,
        turn: note.turn,
        copies: note.copies,
    }
}

/// Members that can be asked now.
type Here = BTreeSet<PeerId>;
