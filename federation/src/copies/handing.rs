//! What a node on its way out hands to others.

use std::sync::atomic::Ordering;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use libp2p_identity::PeerId;
use tracing::debug;
use weir_federation_core::copies::{ASKED_MAX, HandingOver, QUESTIONS_AT_ONCE};
use weir_node::id::CallId;

use super::words::{Hand, IDS, Told, Want, frame, nothing};
use super::{Copies, TRANSFER, owned};

impl Copies {
    /// Hands to others what waits here, and what is kept here for others. What
    /// nobody takes stays.
    pub(crate) async fn hand_over(&self) {
        let orphans = self.keeping().orphans();
        for id in orphans {
            if let Ok(Some(pending)) = self.node.take_over(id).await {
                self.keeping().remove(&id);
                self.owning().insert(id, owned(&pending));
            }
        }
        let kept = self.keeping().all();
        let released = kept
            .into_iter()
            .map(|(owner, ids)| self.release(owner, ids));
        stream::iter(released)
            .buffer_unordered(QUESTIONS_AT_ONCE)
            .collect::<()>()
            .await;
        let mut handing = HandingOver::default();
        while let Some(id) = self.node.take_waiting() {
            match self.hand(id).await {
                Ok(to) => {
                    self.counters.handed.fetch_add(1, Ordering::Relaxed);
                    debug!(call = %id, %to, "handed a call over");
                }
                Err(reason) => {
                    debug!(call = %id, reason, "a call stays here");
                    if !handing.stays(id) {
                        break;
                    }
                }
            }
        }
        for id in handing.left() {
            self.node.resume(id);
        }
    }

    async fn hand(&self, id: CallId) -> Result<PeerId, String> {
        let call = self.node.store().call(id).await;
        let call = call.map_err(|error| error.to_string())?;
        let call = call.ok_or("it has ended")?;
        let owned = self.owning().get(&id).map(|owned| owned.copies.clone());
        let copies = owned.unwrap_or_default();
        let mut reason = "there is no other node".to_owned();
        for peer in self.federated.keepers_of_call(id, ASKED_MAX) {
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
                    self.owning().remove(&id);
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

    /// Tells an owner that copies of its calls are kept here no more, once others
    /// keep them.
    async fn release(&self, owner: PeerId, ids: Vec<CallId>) {
        for ids in ids.chunks(IDS) {
            let body = frame(&ids, nothing());
            match self.say(owner, Want::Release, body, TRANSFER).await {
                Ok(_) => self.forget(ids.to_vec()).await,
                Err(reason) => debug!(peer = %owner, reason, "copies stay here"),
            }
        }
    }
}
