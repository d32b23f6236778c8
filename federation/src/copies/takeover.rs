//! Calls of nodes that are gone, and copies of which their owners said nothing
//! for long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt as _, stream};
use libp2p_identity::PeerId;
use tracing::{debug, info, warn};
use weir_federation_core::copies::owning::Owned;
use weir_federation_core::copies::{Confirmed, Note, Said, Turn, confirmed, turn};
use weir_node::id::CallId;
use weir_node::store::CopyKept;

use super::{AT_ONCE, Copies, Here, copy_note};

impl Copies {
    /// Takes over the calls whose turn has come, unless somebody before did.
    pub(super) async fn take_turns(self: &Arc<Self>, due: Vec<(Note, u32)>, here: &Here) {
        let mut asked: BTreeMap<PeerId, Vec<CallId>> = BTreeMap::new();
        for (note, _) in &due {
            let others = note.copies.iter();
            for other in others.filter(|other| **other != self.own() && here.contains(other)) {
                asked.entry(*other).or_default().push(note.id);
            }
        }
        let mut said: BTreeMap<CallId, Vec<(PeerId, Said)>> = BTreeMap::new();
        for (peer, id, answer) in self.ask_all(asked).await {
            said.entry(id).or_default().push((peer, answer));
        }
        let turns = due.into_iter().map(|(note, turns)| {
            let said = said.remove(&note.id).unwrap_or_default();
            let turn = turn(&note, turns, &said);
            self.take_turn(note, turn)
        });
        stream::iter(turns)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
    }

    async fn take_turn(&self, note: Note, turn: Turn) {
        match turn {
            Turn::Wait => {}
            Turn::Settle(peer) => {
                self.settle(peer, note.id).await;
            }
            Turn::Follow(owner) => {
                // It has taken over: it is the one to wait for now.
                let note = Note { owner, ..note };
                let noted = copy_note(note.clone());
                if let Ok(Some(CopyKept::Kept)) = self.node.store().renote_copy(&noted).await {
                    let now = self.now();
                    self.keeping().insert(note, now);
                }
            }
            Turn::TakeOver(copied) => self.take_over(&note, copied).await,
        }
    }

    async fn take_over(&self, note: &Note, copied: Vec<PeerId>) {
        let id = note.id;
        // First, since it may end at once.
        self.owning().insert(id, Owned::stored(copied.clone(), 0));
        match self.node.take_over(id).await {
            Ok(Some(pending)) => {
                self.keeping().remove(&id);
                self.counters.taken_over.fetch_add(1, Ordering::Relaxed);
                info!(call = %id, owner = %note.owner, "takes over a call whose node is gone");
                self.owning().set_wanted(&id, pending.durable);
                let copies = self.renote(id, self.own(), &copied).await;
                self.owning().set_copies(&id, copies.clone());
                let _ = self.node.store().set_copies(id, copies).await;
            }
            Ok(None) => {
                self.owning().remove(&id);
                self.keeping().remove(&id);
            }
            Err(error) => {
                self.owning().remove(&id);
                warn!(call = %id, %error, "a call cannot be taken over yet");
            }
        }
    }

    /// Asks the owner of copies whether they are still wanted.
    pub(super) async fn confirm(&self, owner: PeerId, ids: Vec<CallId>) {
        let said = match self.ask(owner, &ids).await {
            Ok(said) => said,
            Err(reason) => {
                debug!(peer = %owner, reason, "the owner of copies does not answer");
                return;
            }
        };
        let mut unwanted = Vec::new();
        for (id, said) in ids.into_iter().zip(said) {
            match confirmed(said) {
                Confirmed::Keep => {}
                Confirmed::Settle => {
                    self.settle(owner, id).await;
                }
                Confirmed::Forget => unwanted.push(id),
            }
        }
        if !unwanted.is_empty() {
            self.forget(unwanted).await;
        }
    }
}
