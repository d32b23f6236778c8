//! Members that somebody forgot while they were away.
//!
//! Whoever is forgotten is a newcomer when it is back: what it alone knows of
//! functions is its own until its operator announces it. So the others keep
//! that it was forgotten until it says itself that it heard of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::catalogue::REMOVED;
use crate::member::save;
use crate::message::{self, Message};

/// Members of whom it is kept; the oldest go first.
const MOST: usize = 1_000;

/// Seconds in which a node becomes a newcomer once at the most, whatever is
/// said of it.
const ONCE_IN: u64 = 3_600;

/// Who was forgotten, and when this node itself was.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    path: PathBuf,
    /// When, in seconds since 1970, and in which words.
    members: BTreeMap<PeerId, (u64, Bytes)>,
    /// When this node was forgotten last, as far as it heard.
    own: u64,
    /// When it was that made it a newcomer.
    obeyed: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    own: u64,
    obeyed: u64,
    members: Vec<ByteBuf>,
}

/// What a statement about this node itself comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    /// It was heard before.
    Known,
    /// It is to be answered.
    Heard,
    /// It makes this node a newcomer.
    Newcomer,
}

impl Forgotten {
    /// Reads what an earlier run kept in `folder`. What cannot be read is left
    /// out: others say it again.
    pub(crate) fn open(folder: &Path, now: u64) -> Forgotten {
        let path = folder.join("forgotten");
        let kept = std::fs::read(&path).ok();
        let kept = kept.and_then(|bytes| cbor4ii::serde::from_slice::<Kept>(&bytes).ok());
        let kept = kept.unwrap_or_default();
        let mut forgotten = Forgotten {
            path,
            own: kept.own,
            obeyed: kept.obeyed,
            members: BTreeMap::new(),
        };
        for sealed in kept.members {
            if let Ok((_, Message::Forget(forget))) = message::open(&sealed)
                && let Some(whom) = forget.whom()
            {
                let sealed = Bytes::from(sealed.into_vec());
                forgotten.members.insert(whom, (forget.at, sealed));
            }
        }
        forgotten.prune(now);
        forgotten
    }

    /// Whether a statement of that time is too old to matter.
    pub(crate) fn is_over(at: u64, now: u64) -> bool {
        now.saturating_sub(at) > REMOVED
    }

    fn prune(&mut self, now: u64) {
        self.members.retain(|_, (at, _)| !Self::is_over(*at, now));
        while self.members.len() > MOST {
            let oldest = self.members.iter().min_by_key(|(_, (at, _))| *at);
            let Some(oldest) = oldest.map(|(whom, _)| *whom) else {
                return;
            };
            self.members.remove(&oldest);
        }
    }

    /// Takes a statement about another; `false` when a later one is known.
    pub(crate) fn note(&mut self, whom: PeerId, at: u64, sealed: Bytes, now: u64) -> bool {
        if self
            .members
            .get(&whom)
            .is_some_and(|(known, _)| *known >= at)
        {
            return false;
        }
        self.members.insert(whom, (at, sealed));
        self.prune(now);
        self.keep();
        true
    }

    /// Takes a statement about this node itself.
    pub(crate) fn note_own(&mut self, at: u64) -> Own {
        if at <= self.own {
            return Own::Known;
        }
        self.own = at;
        let newcomer = at - self.obeyed.min(at) >= ONCE_IN;
        if newcomer {
            self.obeyed = at;
        }
        self.keep();
        match newcomer {
            true => Own::Newcomer,
            false => Own::Heard,
        }
    }

    /// When this node was forgotten last, as far as it heard; 0 for never.
    pub(crate) fn own(&self) -> u64 {
        self.own
    }

    /// Takes a member's word that it heard of statements up to `at`.
    pub(crate) fn heard(&mut self, whom: &PeerId, at: u64) {
        if self.members.get(whom).is_some_and(|(said, _)| *said <= at) {
            self.members.remove(whom);
            self.keep();
        }
    }

    /// Whether somebody forgot a member that has not heard of it yet.
    pub(crate) fn contains(&self, whom: &PeerId) -> bool {
        self.members.contains_key(whom)
    }

    /// All statements, to be passed on.
    pub(crate) fn statements(&self) -> impl Iterator<Item = Bytes> {
        self.members.values().map(|(_, sealed)| sealed.clone())
    }

    fn keep(&self) {
        let members = self.statements();
        let kept = Kept {
            own: self.own,
            obeyed: self.obeyed,
            members: members
                .map(|sealed| ByteBuf::from(sealed.to_vec()))
                .collect(),
        };
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &kept).map_err(std::io::Error::other);
        if let Err(error) = bytes.and_then(|bytes| save(&self.path, &bytes)) {
            tracing::warn!(%error, "who was forgotten is not kept over a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p_identity::Keypair;

    use super::*;
    use crate::message::Forget;
    use crate::report::tests::id;

    const NOW: u64 = 2_000_000_000;

    fn sealed(whom: PeerId, at: u64) -> Bytes {
        let key = Keypair::generate_ed25519();
        let said = Message::Forget(Forget::new(whom, at));
        message::seal(&said, &key).expect("it is short").into()
    }

    #[test]
    fn who_was_forgotten_is_kept_until_it_has_heard_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut forgotten = Forgotten::open(folder.path(), NOW);
        let [first, second] = [1, 2].map(id);
        assert!(forgotten.note(first, NOW, sealed(first, NOW), NOW));
        assert!(!forgotten.note(first, NOW - 1, sealed(first, NOW - 1), NOW));
        assert!(forgotten.note(second, NOW, sealed(second, NOW), NOW));
        forgotten.heard(&first, NOW - 1);
        forgotten.heard(&second, NOW);

        let forgotten = Forgotten::open(folder.path(), NOW);
        assert!(forgotten.contains(&first) && !forgotten.contains(&second));
        assert_eq!(forgotten.statements().count(), 1);
        let later = NOW + REMOVED + 1;
        assert!(!Forgotten::open(folder.path(), later).contains(&first));
    }

    #[test]
    fn a_node_is_made_a_newcomer_once_and_seldom() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut forgotten = Forgotten::open(folder.path(), NOW);
        assert_eq!(forgotten.note_own(NOW), Own::Newcomer);
        assert_eq!(forgotten.note_own(NOW), Own::Known);
        assert_eq!(forgotten.note_own(NOW + 1), Own::Heard);
        let mut forgotten = Forgotten::open(folder.path(), NOW);
        assert_eq!(forgotten.own(), NOW + 1);
        assert_eq!(forgotten.note_own(NOW), Own::Known);
        assert_eq!(forgotten.note_own(NOW + ONCE_IN), Own::Newcomer);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut forgotten = Forgotten::open(folder.path(), NOW);
        for number in 0..MOST as u64 {
            let whom = PeerId::random();
            forgotten.members.insert(whom, (NOW + number, Bytes::new()));
        }
        let whom = id(1);
        assert!(forgotten.note(whom, NOW - 1, sealed(whom, NOW - 1), NOW));
        assert_eq!(forgotten.members.len(), MOST);
        assert!(!forgotten.contains(&whom));
    }
}
