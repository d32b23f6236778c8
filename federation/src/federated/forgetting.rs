//! How a member is forgotten, and what becomes of one that hears that it was.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use libp2p_identity::PeerId;
use tracing::warn;
use weir_node::node::ChangeError;
use weir_node::time::Time;
use weir_overlay::{Event as Happening, Multiaddr, Verdict};

use super::{EVERYBODY, Federated, Shared};
use crate::catalogue::Catalogue;
use crate::forgotten::{Forgotten, Outcome, Statement};
use crate::member::unix_time;
use crate::membership::{CLOCK_SKEW, Refused};
use crate::message::{self, Forget, Message};
use crate::replication;

/// How long a node looks for its peers, from its start or since it is linked to
/// one, before it says of another that it is away.
const FINDING: Duration = Duration::from_secs(5);

/// For how long a node that is back may hear that it was forgotten: by then all
/// have told it who can.
const RETURNING: Duration = Duration::from_secs(600);

/// Longest statement in bytes: a certificate, and what is around it.
const STATEMENT_BYTES: usize = 4 << 10;

/// What was done to forget a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgot {
    /// It is away, and will be a newcomer when it is back.
    Newcomer,
    /// What was heard of it, and where it was.
    Known,
    /// Nothing was known of it.
    Nothing,
}

impl Federated {
    /// Forgets a peer: what was heard of it, and where it was. One that is not
    /// here is a newcomer when it is back, as everybody is told if this node
    /// may deploy, and members gossip.
    ///
    /// # Errors
    /// When it is this node itself, or that cannot be told yet.
    pub fn forget(&self, peer: PeerId) -> Result<Forgot, ChangeError> {
        let shared = &self.shared;
        if peer == shared.id {
            let text = "this node is not its own peer: weir leave takes it out";
            return Err(ChangeError::Invalid(text.to_owned()));
        }
        let is_away = !self.here().contains(&peer);
        let since = shared
            .linked
            .lock()
            .map_or(Time::ZERO, |linked| linked.since);
        if is_away && shared.clock.now().since(since) < FINDING {
            let text = "this node still looks for its peers: try again";
            return Err(ChangeError::NotYet(text.to_owned()));
        }
        shared.said.lock().remove(&peer);
        let is_known = shared.table.lock().forget(&peer);
        let _ = shared.happenings.try_send(Happening::Found {
            peer,
            address: Multiaddr::empty(),
        });
        shared.stale.notify_one();
        Ok(match is_away && self.make_newcomer(peer) {
            true => Forgot::Newcomer,
            false if is_known => Forgot::Known,
            false => Forgot::Nothing,
        })
    }

    /// Says to everybody that a member is a newcomer; `false` when this node may
    /// not.
    fn make_newcomer(&self, whom: PeerId) -> bool {
        let shared = &self.shared;
        let may = shared.member.own_rights().is_some_and(|own| own.deploy);
        let certificate = shared.member.certificate().filter(|_| may);
        let Some(certificate) = certificate.filter(|_| shared.settings.registry.gossips()) else {
            return false;
        };
        let at = unix_time();
        let said = Message::Forget(Forget::new(whom, at, certificate));
        let Ok(sealed) = message::seal(&said, &shared.key).map(Bytes::from) else {
            return false;
        };
        let statement = Statement {
            at,
            by: shared.id,
            sealed: sealed.clone(),
        };
        shared.forgotten.lock().note(whom, statement, at);
        self.overlay.publish(EVERYBODY, sealed);
        true
    }

    /// Asks all that are linked what they know of functions.
    pub(crate) fn ask_around(&self) {
        let links: Vec<PeerId> = self.shared.links.lock().kept().collect();
        for peer in links {
            self.tell_summary(peer, true);
        }
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
        let (at, now) = (forget.at, unix_time());
        if sealed.len() > STATEMENT_BYTES {
            return Err("size");
        }
        // Where etcd alone says which functions there are, nobody puts any aside.
        if from == self.id || !self.settings.registry.gossips() || Forgotten::is_over(at, now) {
            return Ok(Verdict::Ignore);
        }
        if at > now + CLOCK_SKEW {
            return Err(Refused::Early.reason());
        }
        match self.member.may_have_written(from, &forget.certificate) {
            Ok(()) => {}
            // Whoever passed it on need not have heard that it may not.
            Err(refused @ Refused::MayNotDeploy) => {
                self.count_rejected(refused.reason());
                return Ok(Verdict::Ignore);
            }
            Err(refused) if self.may_be_ahead(from, refused) => return Ok(Verdict::Ignore),
            Err(refused) => return Err(refused.reason()),
        }
        if whom == self.id {
            return Ok(self.hear_of_itself(from, at, now));
        }
        let believed = |by: &PeerId| !self.member.is_denied(by);
        let known = self.forgotten.lock().knows(&whom, at, believed);
        if known {
            return Ok(Verdict::Ignore);
        }
        if !self.accusers.lock().may_accuse(from, self.clock.now()) {
            self.count_rejected("suspects-too-often");
            return Ok(Verdict::Ignore);
        }
        let statement = Statement {
            at,
            by: from,
            sealed: Bytes::copy_from_slice(sealed),
        };
        self.forgotten.lock().note(whom, statement, now);
        Ok(Verdict::Accept)
    }

    /// Hears that this node itself was forgotten, which counts when it was away
    /// and is back since not long ago.
    fn hear_of_itself(&self, by: PeerId, at: u64, now: u64) -> Verdict {
        let linked = *self.linked.lock();
        let was_away = linked.is_none_or(|linked| {
            let back = self.clock.now().since(linked.since);
            back < RETURNING && at < linked.unix + CLOCK_SKEW
        });
        let own = self.forgotten.lock().hear_own(at, now, was_away);
        match own {
            Outcome::Known | Outcome::Later => return Verdict::Ignore,
            Outcome::Answered => {}
            Outcome::Newcomer => {
                warn!(
                    %by,
                    "this node was forgotten while it was away: its functions are its own until \
                     somebody announces them anew (weir list --federation, weir announce)"
                );
                self.forget_functions();
            }
        }
        self.say_aloud();
        Verdict::Accept
    }

    /// Forgets what is known of functions; those that run here go on, and what
    /// others know is asked for anew.
    pub(super) fn forget_functions(&self) {
        *self.catalogue.lock() = Catalogue::default();
        *self.changed.lock() = BTreeSet::new();
        replication::set_aside(&self.settings.folder);
        self.forgot.notify_one();
    }

    /// What is told to a member instead of a summary: that it was forgotten,
    /// as long as it has not heard so.
    pub(super) fn untold(&self, to: &PeerId) -> Option<Bytes> {
        let forgotten = self.forgotten.lock();
        let said = forgotten.said_of(to)?;
        (!self.member.is_denied(&said.by)).then(|| said.sealed.clone())
    }

    /// What a newly linked peer may have missed of this, about itself first.
    pub(super) fn forgotten_for(&self, peer: &PeerId) -> Vec<Bytes> {
        let forgotten = self.forgotten.lock();
        let told = forgotten
            .statements()
            .filter(|(_, said)| said.by != *peer && !self.member.is_denied(&said.by));
        let mut told: Vec<_> = told.collect();
        told.sort_by_key(|(whom, _)| *whom != peer);
        told.into_iter()
            .map(|(_, said)| said.sealed.clone())
            .collect()
    }
}
