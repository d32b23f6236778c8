//! Copies of this node's calls on their way to peers, and the word that a call
//! has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt as _, future, stream};
use http::StatusCode;
use jiff::Timestamp;
use libp2p_identity::PeerId;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tracing::debug;
use weir_federation_core::copies::making::{Making, patience};
use weir_federation_core::copies::owning::{Owned, Short};
use weir_federation_core::copies::{BATCH_MAX, Note, keepers_of_call};
use weir_node::function::FunctionSpec;
use weir_node::id::CallId;
use weir_node::node::{Copied, SubmitError};
use weir_node::store::{CallRecord, StoredBody};
use weir_node::time::Time;

use super::words::{Ended, Keep, Told, Want, frame, nothing};
use super::{AT_ONCE, Copies, Here, QUESTION, TRANSFER, copy_note};

impl Copies {
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
        let owned = Owned::accepting(wanted, self.now());
        self.owning().insert(call.id, owned);
        let peers = self.make(&call, &[], usize::from(wanted)).await;
        if peers.len() < usize::from(wanted) && !asked.best_effort {
            self.owning().remove(&call.id);
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            self.let_go(call.id, &peers).await;
            return Err(SubmitError::NoCopies {
                wanted,
                kept: peers.len(),
            });
        }
        self.owning().set_copies(&call.id, peers.clone());
        Ok(Copied { wanted, peers })
    }

    /// Takes note that a call of this node's has ended, or was not accepted.
    pub(crate) fn ended(self: &Arc<Self>, id: CallId, accepted: bool) {
        let Some(owned) = self.owning().remove(&id) else {
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
            self.federated
                .spawn(async move { copies.let_go(id, &owned.copies).await });
        }
    }

    /// Has peers keep copies of a call until `wanted` do, `kept` of which have
    /// one already; who does then.
    pub(super) async fn make(
        &self,
        call: &CallRecord,
        kept: &[PeerId],
        wanted: usize,
    ) -> Vec<PeerId> {
        let making = {
            let members = self.federated.members();
            let ranked = keepers_of_call(call.id, &members);
            let ranked = ranked.filter(|peer| self.federated.may_keep(peer));
            Making::new(kept, ranked, wanted, &self.avoided(), self.now())
        };
        let (places, planned) = (making.places(), making.planned().to_vec());
        let making = Mutex::new(making);
        let next = || making.lock().ask_next();
        let places = places.map(|at| {
            let (next, planned) = (&next, &planned);
            async move {
                loop {
                    let peer = next()?;
                    match self.send_copy(peer, call, at, planned).await {
                        Ok(()) => return Some(peer),
                        Err(reason) => debug!(%peer, reason, "a peer keeps no copy of a call"),
                    }
                }
            }
        });
        let places = future::join_all(places).await;
        let count = places.iter().flatten().count();
        self.counters
            .made
            .fetch_add(count as u64, Ordering::Relaxed);
        let making = making.into_inner();
        match making.made(places) {
            (made, true) => made,
            (made, false) => self.renote(call.id, self.own(), &made).await,
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
            note: copy_note(Note::new(call.id, self.own(), at, copies)),
            told: Some(Told::new(call, Timestamp::now())),
        };
        let body = self.node.request_body(call).await;
        let body = body.map_err(|error| error.to_string())?;
        let limit = patience(call.body.bytes());
        let sent = self.answer(peer, Want::Keep, frame(&keep, body), limit);
        match sent.await {
            Ok((StatusCode::OK, _)) => Ok(()),
            Ok((status, _)) => Err(format!("it answered {status}")),
            Err(reason) => {
                self.avoided().insert(peer, self.now());
                Err(reason)
            }
        }
    }

    /// Tells those that keep copies of a call who they are and whose it is; which
    /// of them do keep one.
    pub(super) async fn renote(&self, id: CallId, owner: PeerId, copies: &[PeerId]) -> Vec<PeerId> {
        let told = copies.iter().enumerate().map(|(at, peer)| {
            let keep = Keep {
                note: copy_note(Note::new(id, owner, at, copies)),
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

    /// Has copies of own calls made anew where too few are left.
    pub(super) async fn make_good(&self, here: &Here, now: Time) {
        let short = self.owning().short(here, self.takeover(), now, BATCH_MAX);
        let made = short.into_iter().map(|short| async move {
            let Short { id, left, wanted } = short;
            let call = match self.node.store().call(id).await {
                Ok(Some(call)) => call,
                // It has ended, unless it is being accepted.
                Ok(None) => {
                    self.owning().remove_old(&id, now);
                    return;
                }
                Err(_) => return,
            };
            let copies = self.make(&call, &left, wanted).await;
            self.owning().set_copies(&id, copies.clone());
            if let Err(error) = self.node.store().set_copies(id, copies).await {
                debug!(call = %id, %error, "it is not noted who keeps copies of a call");
            }
        });
        stream::iter(made)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
    }

    /// Tells those that keep copies of calls that these have ended, and how.
    pub(super) async fn tell_ended(
        self: Arc<Self>,
        mut ends: mpsc::Receiver<(CallId, Vec<PeerId>)>,
    ) {
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
            self.federated.spawn(async move {
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
}
