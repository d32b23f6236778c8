//! What policies of members tell each other, and how loaded a member is that is
//! asked for that alone.

use libp2p_identity::PeerId;
use tracing::{debug, warn};
use weir_federation_core::pace::Order;
use weir_federation_core::policy::Unheard;
use weir_node::time::Time;
use weir_overlay::Verdict;

use super::{Federated, Shared};
use crate::message::{self, Message, Note};
use crate::report::Load;

/// What places calls, as whoever hears members asks it.
pub(crate) trait Placing: Send + Sync {
    /// How loaded this node is, as a member is to hear it.
    fn load_for(&self, peer: &PeerId) -> Load;

    /// Lets the policy hear a note that it is for. Does not block.
    fn hear(&self, from: PeerId, note: &Note, now: Time) -> NoteHeard;
}

/// What became of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoteHeard {
    /// The policy took it.
    Heard,
    /// This node holds no such policy: others may.
    Elsewhere,
    /// No such policy writes that.
    Malformed,
}

impl Shared {
    /// Hears a member's note. What is passed on is new, seldom enough, and, as far
    /// as this node can tell, one that such a policy writes.
    pub(super) fn hear_note(&self, from: PeerId, note: &Note, now: Time) -> Verdict {
        let order = Order {
            epoch: note.epoch,
            sequence: note.sequence,
        };
        let heard = self.noting.lock().note(&from, order, now);
        match heard {
            Ok(()) => {}
            Err(Unheard::TooOften) => {
                self.count_rejected("notes-too-often");
                return Verdict::Ignore;
            }
            Err(Unheard::Old) => return Verdict::Ignore,
        }
        let placing = self.placing.get().and_then(std::sync::Weak::upgrade);
        let heard = placing.map(|placing| placing.hear(from, note, now));
        match heard {
            Some(NoteHeard::Heard | NoteHeard::Elsewhere) | None => Verdict::Accept,
            Some(NoteHeard::Malformed) => {
                debug!(peer = %from, policy = note.policy, "a note that its policy cannot read");
                self.count_rejected("note");
                // Its policy may be of another version: nobody lied.
                Verdict::Ignore
            }
        }
    }

    /// What a member is told that asks how loaded this node is; `None` when it
    /// asks too often.
    pub(super) fn answer_probe(&self, from: PeerId) -> Option<Vec<u8>> {
        let placing = self.placing.get().and_then(std::sync::Weak::upgrade)?;
        if !self.noting.lock().probe(&from, self.clock.now()) {
            return None;
        }
        let load = placing.load_for(&from);
        cbor4ii::serde::to_vec(Vec::new(), &load).ok()
    }
}

impl Federated {
    /// Tells policies of the same name and scope in this node's zone or region.
    pub(crate) fn tell_note(&self, note: Note) {
        let epoch = self.shared.table.lock().epoch();
        let note = Message::Note(Note { epoch, ..note });
        match message::seal(&note, &self.shared.key) {
            Ok(sealed) => self.overlay.publish(&self.shared.topic(), sealed.into()),
            Err(error) => warn!(%error, "a note cannot be sent"),
        }
    }

    /// Asks a linked member how loaded it is.
    ///
    /// # Errors
    /// Why there is no answer: it is not linked, its version knows no probes, it
    /// was asked too often, or it says what no node can be.
    pub(crate) async fn probe(&self, peer: PeerId) -> Result<Load, String> {
        if self.shared.links.lock().link(&peer).is_none() {
            return Err("there is no link to it".to_owned());
        }
        let answer = self.overlay.probe(peer).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let load: Option<Load> = cbor4ii::serde::from_slice(&answer).ok();
        let load = load.filter(Load::is_plausible);
        load.ok_or_else(|| "an answer that cannot be believed".to_owned())
    }
}
