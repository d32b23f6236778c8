//! Who is asked to keep copies of a call.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::ASKED_MAX;

/// How long a peer may take to keep a copy before another is asked, and how many
/// bytes of its body it may take a second more for.
const PATIENCE: Duration = Duration::from_secs(3);
const SLOW_BYTES_PER_SECOND: u64 = 256 << 10;

/// How long a peer that did not answer comes last.
const AVOIDED_FOR: Duration = Duration::from_secs(10);

/// Peers that did not answer of late; no more than there are members.
#[derive(Debug, Default)]
pub struct Avoided {
    until: BTreeMap<PeerId, Time>,
}

impl Avoided {
    /// A peer did not answer.
    pub fn insert(&mut self, peer: PeerId, now: Time) {
        self.until.retain(|_, until| *until > now);
        self.until.insert(peer, now + AVOIDED_FOR);
    }

    /// Whether a peer comes last.
    pub fn contains(&self, peer: &PeerId, now: Time) -> bool {
        self.until.get(peer).is_some_and(|until| *until > now)
    }
}

/// How long a peer may take to keep a copy of a call with such a body.
pub fn patience(body_bytes: u64) -> Duration {
    Duration::from_secs(body_bytes / SLOW_BYTES_PER_SECOND).saturating_add(PATIENCE)
}

/// Copies of one call on their way: so many places, each of which asks one peer
/// after the other.
#[derive(Debug)]
pub struct Making {
    kept: Vec<PeerId>,
    candidates: VecDeque<PeerId>,
    planned: Vec<PeerId>,
    wanted: usize,
}

impl Making {
    /// Until `wanted` peers keep a copy, `kept` of which have one already.
    /// `ranked` are others in the order in which they are to; of those, who did
    /// not answer of late is asked last.
    pub fn new(
        kept: &[PeerId],
        ranked: impl Iterator<Item = PeerId>,
        wanted: usize,
        avoided: &Avoided,
        now: Time,
    ) -> Making {
        // One more than are asked, for each that comes last.
        let most = ASKED_MAX.saturating_add(avoided.until.len());
        let ranked = ranked.filter(|peer| !kept.contains(peer)).take(most);
        let mut candidates: Vec<PeerId> = ranked.collect();
        candidates.sort_by_key(|peer| avoided.contains(peer, now));
        candidates.truncate(ASKED_MAX);
        let planned = kept.iter().chain(&candidates).take(wanted);
        Making {
            kept: kept.to_vec(),
            planned: planned.copied().collect(),
            candidates: candidates.into(),
            wanted,
        }
    }

    /// The places that are to be filled, each to be given to a peer, from 0.
    pub fn places(&self) -> std::ops::Range<usize> {
        self.kept.len()..self.wanted
    }

    /// Who is to keep copies, in the order of their turns, if all that are asked
    /// first do: what those are told.
    pub fn planned(&self) -> &[PeerId] {
        &self.planned
    }

    /// Whom a place asks next.
    pub fn ask_next(&mut self) -> Option<PeerId> {
        self.candidates.pop_front()
    }

    /// Who keeps copies after all, and whether that is what those were told.
    pub fn made(&self, places: impl IntoIterator<Item = Option<PeerId>>) -> (Vec<PeerId>, bool) {
        let made = places.into_iter().flatten();
        let made: Vec<PeerId> = self.kept.iter().copied().chain(made).collect();
        let is_told = made == self.planned && self.kept.is_empty();
        (made, is_told)
    }
}
