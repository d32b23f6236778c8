//! How a member is forgotten, and what becomes of one that hears that it was.

use std::collections::BTreeSet;

use bytes::Bytes;
use libp2p_identity::PeerId;
use tracing::warn;
use weir_overlay::{Event as Happening, Multiaddr, Verdict};

use super::{EVERYBODY, Federated, Shared, lock};
use crate::catalogue::Catalogue;
use crate::forgotten::{Forgotten, Own};
use crate::member::unix_time;
use crate::membership::{CLOCK_SKEW, Refused};
use crate::message::{self, Forget, Message};
use crate::steward;

impl Federated {
    /// Forgets a peer: what was heard of it, and where it was. One that is not
    /// here is a newcomer when it is back, as everybody is told if this node
    /// may deploy. `false` when nothing is known of it.
    pub fn forget(&self, peer: PeerId) -> bool {
        let shared = &self.shared;
        let is_away = !self.here().contains(&peer) && peer != shared.id;
        lock(&shared.said).remove(&peer);
        let is_known = lock(&shared.table).forget(&peer) || self.wrote_some(&peer);
        let _ = shared.happenings.try_send(Happening::Found {
            peer,
            address: Multiaddr::empty(),
        });
        shared.stale.notify_one();
        let may = shared.member.is_member() && shared.member.own_rights().is_some_and(|r| r.deploy);
        if is_known && is_away && may {
            self.make_newcomer(peer);
        }
        is_known
    }

    /// Asks all that are linked what they know of functions.
    pub(crate) fn ask_around(&self) {
        let kept = self.shared.links.iter().filter(|link| link.kept);
        let links: Vec<PeerId> = kept.map(|link| *link.key()).collect();
        for peer in links {
            self.tell_summary(peer, true);
        }
    }

    fn wrote_some(&self, peer: &PeerId) -> bool {
        let catalogue = lock(&self.shared.catalogue);
        catalogue.iter().any(|(_, entry)| entry.writer == *peer)
    }

    fn make_newcomer(&self, peer: PeerId) {
        let now = unix_time();
        let said = Message::Forget(Forget::new(peer, now));
        let Ok(sealed) = message::seal(&said, &self.shared.key) else {
            return;
        };
        let sealed = Bytes::from(sealed);
        lock(&self.shared.forgotten).note(peer, now, sealed.clone(), now);
        self.overlay.publish(EVERYBODY, sealed);
    }
}

impl Shared {
    /// Hears that somebody was forgotten.
    pub(super) fn hear_forget(
        &self,
        from: PeerId,
        forget: &Forget,
        sealed: &[u8],
    ) -> Result<Verdict, &'static str> {
        let whom = forget.whom().ok_or("shape")?;
        let now = unix_time();
        if !self
            .member
            .rights(&from)
            .is_some_and(|rights| rights.deploy)
        {
            return Err(Refused::MayNotDeploy.reason());
        }
        if forget.at > now + CLOCK_SKEW {
            return Err(Refused::Early.reason());
        }
        if Forgotten::is_over(forget.at, now) {
            return Ok(Verdict::Ignore);
        }
        if !self.may_suspect(from, self.clock.now()) {
            self.count_rejected("suspects-too-often");
            return Ok(Verdict::Ignore);
        }
        let mut forgotten = lock(&self.forgotten);
        if whom != self.id {
            let sealed = Bytes::copy_from_slice(sealed);
            return Ok(match forgotten.note(whom, forget.at, sealed, now) {
                true => Verdict::Accept,
                false => Verdict::Ignore,
            });
        }
        let own = forgotten.note_own(forget.at);
        drop(forgotten);
        if own == Own::Newcomer {
            warn!(
                by = %from,
                "this node was forgotten while it was away: its functions are its own until \
                 somebody announces them anew (weir list --federation, weir announce)"
            );
            self.forget_functions();
        }
        if own != Own::Known {
            lock(&self.own).forgotten = forget.at;
            self.say_aloud();
        }
        Ok(Verdict::Accept)
    }

    /// Forgets what is known of functions; those that run here go on, and what
    /// others know is asked for anew.
    pub(super) fn forget_functions(&self) {
        *lock(&self.catalogue) = Catalogue::default();
        *lock(&self.changed) = BTreeSet::new();
        steward::set_aside(&self.settings.folder);
        self.forgot.notify_one();
    }
}
