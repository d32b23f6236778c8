//! Members that somebody forgot while they were away.
//!
//! Whoever is forgotten is a newcomer when it is back: what it alone knows of
//! functions is its own until its operator announces it. So the others keep
//! that it was forgotten until it says itself that it heard of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::catalogue::REMOVED;
use crate::message::{self, Message};

/// Members of whom it is kept, and those of them of whom one member may have
/// said it; the oldest go first.
const MOST: usize = 512;
const OF_ONE: usize = 128;

/// Seconds in which a node becomes a newcomer once at the most, whatever is
/// said of it.
const ONCE_IN: u64 = 3_600;

/// What was said of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// When it was forgotten, in seconds since 1970.
    pub(crate) at: u64,
    /// Who says so.
    pub(crate) by: PeerId,
    /// The words; empty once the member has heard of it.
    pub(crate) sealed: Bytes,
}

/// Who was forgotten, and when this node itself was.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    members: BTreeMap<PeerId, Statement>,
    /// When this node was forgotten last, as far as it answers that.
    own: u64,
    /// When it became one, by its own clock.
    obeyed: u64,
    is_saved: bool,
}

/// What a statement about this node itself comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered before.
    Known,
    /// It may be heard again: this node was a newcomer not long ago.
    Later,
    /// This node was not away, and says that it has heard of it.
    Answered,
    /// This node is a newcomer by it.
    Newcomer,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    own: u64,
    obeyed: u64,
    members: Vec<ByteBuf>,
}

impl Forgotten {
    /// Reads what an earlier run wrote. What cannot be read is left out: others
    /// say it again.
    pub(crate) fn read(bytes: &[u8], now: u64) -> Forgotten {
        let kept: Kept = cbor4ii::serde::from_slice(bytes).unwrap_or_default();
        let mut forgotten = Forgotten {
            members: BTreeMap::new(),
            own: kept.own,
            obeyed: kept.obeyed,
            is_saved: true,
        };
        for sealed in kept.members {
            if let Ok((by, Message::Forget(forget))) = message::open(&sealed)
                && let Some(whom) = forget.whom()
            {
                let (at, sealed) = (forget.at, Bytes::from(sealed.into_vec()));
                let statement = Statement { at, by, sealed };
                forgotten.members.insert(whom, statement);
            }
        }
        forgotten.prune(now);
        forgotten
    }

    /// What is to be written, if anything has changed since it was asked last.
    /// [`Forgotten::not_saved`] when it cannot be written.
    pub(crate) fn unsaved(&mut self) -> Option<Vec<u8>> {
        if std::mem::replace(&mut self.is_saved, true) {
            return None;
        }
        let open = self.statements().map(|(_, said)| said.sealed.to_vec());
        let kept = Kept {
            own: self.own,
            obeyed: self.obeyed,
            members: open.map(ByteBuf::from).collect(),
        };
        cbor4ii::serde::to_vec(Vec::new(), &kept).ok()
    }

    /// Has what is known be written again.
    pub(crate) fn not_saved(&mut self) {
        self.is_saved = false;
    }

    /// Whether a statement of that time is too old to matter.
    pub(crate) fn is_over(at: u64, now: u64) -> bool {
        now.saturating_sub(at) > REMOVED
    }

    /// Whether a statement about a member adds nothing to what is known: it has
    /// not heard of another one yet, or has of a later one. The words of whom
    /// `is_believed` does not hold are nothing.
    pub(crate) fn knows(
        &self,
        whom: &PeerId,
        at: u64,
        is_believed: impl Fn(&PeerId) -> bool,
    ) -> bool {
        let known = self.members.get(whom);
        known.is_some_and(|said| {
            let is_open = !said.sealed.is_empty();
            said.at >= at && !is_open || is_open && is_believed(&said.by)
        })
    }

    /// Takes a statement about another member.
    pub(crate) fn note(&mut self, whom: PeerId, statement: Statement, now: u64) {
        let by = statement.by;
        self.members.insert(whom, statement);
        // Whoever says it of many takes the place of nobody else's words.
        let of_one = self.members.values().filter(|said| said.by == by).count();
        if of_one > OF_ONE {
            self.drop_oldest(|said| said.by == by);
        }
        self.prune(now);
        self.is_saved = false;
    }

    fn prune(&mut self, now: u64) {
        self.members.retain(|_, said| !Self::is_over(said.at, now));
        while self.members.len() > MOST {
            self.drop_oldest(|_| true);
        }
    }

    fn drop_oldest(&mut self, of: impl Fn(&Statement) -> bool) {
        let these = self.members.iter().filter(|(_, said)| of(said));
        let oldest = these.min_by_key(|(_, said)| said.at);
        if let Some(oldest) = oldest.map(|(whom, _)| *whom) {
            self.members.remove(&oldest);
        }
    }

    /// Takes a statement about this node itself, which `was_away` or was not.
    pub(crate) fn hear_own(&mut self, at: u64, now: u64, was_away: bool) -> Outcome {
        if at <= self.own {
            return Outcome::Known;
        }
        if was_away && now.saturating_sub(self.obeyed) < ONCE_IN {
            return Outcome::Later;
        }
        (self.own, self.is_saved) = (at, false);
        if !was_away {
            return Outcome::Answered;
        }
        self.obeyed = now;
        Outcome::Newcomer
    }

    /// When this node was forgotten last, as far as it answers that; 0 for
    /// never.
    pub(crate) fn own(&self) -> u64 {
        self.own
    }

    /// Takes a member's word that it heard of statements up to `at`.
    pub(crate) fn heard(&mut self, whom: &PeerId, at: u64) {
        if let Some(said) = self.members.get_mut(whom)
            && said.at <= at
            && !said.sealed.is_empty()
        {
            said.sealed = Bytes::new();
            self.is_saved = false;
        }
    }

    /// What a member has not heard yet that was said of it.
    pub(crate) fn said_of(&self, whom: &PeerId) -> Option<&Statement> {
        let said = self.members.get(whom)?;
        (!said.sealed.is_empty()).then_some(said)
    }

    /// All that their members have not heard yet.
    pub(crate) fn statements(&self) -> impl Iterator<Item = (&PeerId, &Statement)> {
        let members = self.members.iter();
        members.filter(|(_, said)| !said.sealed.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use libp2p_identity::Keypair;

    use super::*;
    use crate::message::Forget;
    use weir_federation_core::samples::id;

    const NOW: u64 = 2_000_000_000;

    fn said(by: &Keypair, whom: PeerId, at: u64) -> Statement {
        let message = Message::Forget(Forget::new(whom, at, vec![7]));
        let sealed = message::seal(&message, by).expect("it is short").into();
        let by = by.public().to_peer_id();
        Statement { at, by, sealed }
    }

    #[test]
    fn who_was_forgotten_is_kept_until_it_has_heard_of_it() {
        let by = Keypair::generate_ed25519();
        let mut forgotten = Forgotten::read(b"nonsense", NOW);
        assert_eq!(forgotten.unsaved(), None);
        let [first, second] = [1, 2].map(id);
        for whom in [first, second] {
            forgotten.note(whom, said(&by, whom, NOW), NOW);
        }
        forgotten.heard(&first, NOW - 1);
        forgotten.heard(&second, NOW);
        // Nobody takes the place of what another said and was not heard yet, save
        // of one who is not believed.
        assert!(forgotten.knows(&first, NOW + 1, |_| true));
        assert!(!forgotten.knows(&first, NOW + 1, |_| false));
        // Who says it once more is not believed once more.
        assert!(forgotten.knows(&second, NOW, |_| true));
        assert!(!forgotten.knows(&second, NOW + 1, |_| true));

        let written = forgotten.unsaved().expect("it has changed");
        assert_eq!(forgotten.unsaved(), None);
        let forgotten = Forgotten::read(&written, NOW);
        assert_eq!(forgotten.said_of(&first), Some(&said(&by, first, NOW)));
        assert_eq!(forgotten.said_of(&second), None);
        assert_eq!(forgotten.statements().count(), 1);
        let later = Forgotten::read(&written, NOW + REMOVED + 1);
        assert_eq!(later.statements().count(), 0);
    }

    #[test]
    fn a_node_that_was_away_is_made_a_newcomer_seldom_by_its_own_clock() {
        let mut forgotten = Forgotten::default();
        assert_eq!(forgotten.hear_own(NOW, NOW, true), Outcome::Newcomer);
        assert_eq!(forgotten.hear_own(NOW, NOW + ONCE_IN, true), Outcome::Known);
        for hour in 1..100 {
            let own = forgotten.hear_own(NOW + hour * ONCE_IN, NOW + hour, true);
            assert_eq!(own, Outcome::Later);
        }
        let written = forgotten.unsaved().expect("it has changed");
        let mut forgotten = Forgotten::read(&written, NOW);
        assert_eq!(forgotten.own(), NOW);
        let soon = NOW + ONCE_IN - 1;
        assert_eq!(forgotten.hear_own(NOW + 1, soon, true), Outcome::Later);
        assert_eq!(
            forgotten.hear_own(NOW + 1, soon + 1, true),
            Outcome::Newcomer
        );
        // One that was here all the while only says that it has heard of it.
        let late = NOW + 9 * ONCE_IN;
        assert_eq!(forgotten.hear_own(NOW + 2, late, false), Outcome::Answered);
        assert_eq!(forgotten.hear_own(NOW + 2, late, true), Outcome::Known);
        assert_eq!(forgotten.own(), NOW + 2);
    }

    #[test]
    fn whoever_says_it_of_many_leaves_room_for_what_others_say() {
        let [loud, calm] = [0; 2].map(|_| Keypair::generate_ed25519());
        let mut forgotten = Forgotten::default();
        let whom = id(1);
        forgotten.note(whom, said(&calm, whom, NOW - 9), NOW);
        for number in 0..2 * OF_ONE as u64 {
            let invented = PeerId::random();
            forgotten.note(invented, said(&loud, invented, NOW + number), NOW);
        }
        assert!(forgotten.said_of(&whom).is_some());
        assert_eq!(forgotten.statements().count(), OF_ONE + 1);
    }
}
