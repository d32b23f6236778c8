//! Who belongs to the federation, as its people decide: denied, let in again, and
//! certified by a changed secret; and how this node itself leaves.

use libp2p_identity::PeerId;
use tracing::warn;

use super::{EVERYBODY, Federated};
use crate::member::MemberError;
use crate::message::{self, Handover, Message};
use crate::peers::Standing;

/// To whom a changed secret was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Members that are there.
    pub told: usize,
    /// Members that are told when they are back.
    pub away: usize,
}

impl Federated {
    /// Denies a peer, here or in the whole federation.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn deny(&self, peer: PeerId, everywhere: bool) -> Result<(), MemberError> {
        let statement = self.shared.member.deny(peer, everywhere)?;
        if let Some(statement) = statement {
            self.shared.pass_denial_on(&self.overlay, statement);
        }
        self.cut(peer);
        Ok(())
    }

    /// Changes the federation's secret, and tells everybody.
    ///
    /// # Errors
    /// When this node holds no secret, or cannot write.
    pub fn rotate(&self) -> Result<HandedOver, MemberError> {
        let handovers = self.shared.member.rotate(rand::random())?;
        let known = self.shared.table.lock().known(self.shared.clock.now());
        let here = |peer: PeerId| {
            let mut known = known.iter();
            known.any(|known| known.id == peer && known.standing == Standing::In)
        };
        let members = handovers.iter().filter_map(Handover::member);
        let (told, away): (Vec<_>, Vec<_>) = members.partition(|peer| here(*peer));
        let count = HandedOver {
            told: told.len(),
            away: away.len(),
        };
        for handover in handovers {
            match message::seal(&Message::Handover(handover), &self.shared.key) {
                Ok(sealed) => self.overlay.publish(EVERYBODY, sealed.into()),
                Err(error) => warn!(%error, "a member is not told of the new secret"),
            }
        }
        for denial in self.shared.member.denials() {
            self.shared.pass_denial_on(&self.overlay, denial);
        }
        self.shared.say_aloud();
        Ok(count)
    }

    /// Takes back what [`Federated::deny`] said; `false` when nothing was.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn allow(&self, peer: PeerId, everywhere: bool) -> Result<bool, MemberError> {
        let allowed = self.shared.member.allow(peer, everywhere)?;
        if let Some(Some(statement)) = &allowed {
            self.shared.pass_denial_on(&self.overlay, statement.clone());
        }
        self.shared.stale.notify_one();
        Ok(allowed.is_some())
    }

    /// Forgets its membership and everybody that it knew as a member.
    ///
    /// # Errors
    /// When what is on disk cannot be removed.
    pub fn forget_federation(&self) -> Result<(), MemberError> {
        let shared = &self.shared;
        let forgotten = shared.member.forget_membership();
        let links: Vec<PeerId> = shared.links.lock().linked().collect();
        for peer in links {
            self.cut(peer);
        }
        shared.table.lock().forget_all();
        shared.said.lock().clear();
        shared.stale.notify_one();
        forgotten
    }
}
