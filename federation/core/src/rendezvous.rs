//! Who keeps something for the federation: all who know the same members agree
//! on it without a word, and a member that comes or goes changes no other's
//! place.
//!
//! Rendezvous hashing: D. Thaler, C. Ravishankar, "Using name-based mappings to
//! increase hit rates", IEEE/ACM ToN 6(1), 1998: by the highest weight. A member
//! is hashed once, when it comes; a weight is then a few instructions.

use std::collections::BinaryHeap;

use libp2p_identity::PeerId;

use crate::catalogue::sha256;

#[cfg(test)]
mod tests;

/// A member that may keep something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub id: PeerId,
    /// Whether it is of this node's own zone or region.
    pub is_near: bool,
    /// A number of its own, as [`number_of`] makes it.
    number: u64,
}

impl Member {
    /// How much it is the one to keep what has this number; the highest does.
    pub fn weight(&self, number: u64) -> u64 {
        mix(self.number ^ number)
    }
}

/// The members that may keep something, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    all: Vec<Member>,
}

/// Which of the members are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// All alike.
    All,
    /// All, those of this node's zone or region first.
    NearFirst,
    /// Those of this node's zone or region alone.
    Near,
}

/// A difference between two sets of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Came(Member),
    /// It is there no more.
    Went(Member),
}

impl Members {
    /// These members, each with whether it is near. Only those are hashed that
    /// were not among the members before.
    pub fn renewed(&self, now: impl IntoIterator<Item = (PeerId, bool)>) -> Members {
        let mut ids: Vec<(PeerId, bool)> = now.into_iter().collect();
        ids.sort_unstable();
        ids.dedup_by_key(|(id, _)| *id);
        let mut before = self.all.iter().peekable();
        let all = ids.into_iter().map(|(id, is_near)| {
            while before.next_if(|member| member.id < id).is_some() {}
            let known = before.next_if(|member| member.id == id);
            let number = known.map_or_else(|| number_of(&id), |member| member.number);
            Member {
                id,
                is_near,
                number,
            }
        });
        Members { all: all.collect() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.iter()
    }

    /// One of them.
    pub fn get(&self, id: &PeerId) -> Option<&Member> {
        let at = self.all.binary_search_by(|member| member.id.cmp(id)).ok()?;
        self.all.get(at)
    }

    /// Takes some out.
    pub fn leave_out(&mut self, peers: &[PeerId]) {
        self.all.retain(|member| !peers.contains(&member.id));
    }

    /// What came and went between these and those that follow. One that is near
    /// and was not, or the other way, went and came.
    pub fn changes(&self, next: &Members) -> Vec<Change> {
        let (mut before, mut after) = (self.all.iter().peekable(), next.all.iter().peekable());
        let mut changes = Vec::new();
        loop {
            match (before.peek(), after.peek()) {
                (Some(old), Some(new)) if old == new => {
                    before.next();
                    after.next();
                }
                (Some(old), new) if new.is_none_or(|new| old.id <= new.id) => {
                    changes.push(Change::Went(**old));
                    before.next();
                }
                (_, Some(new)) => {
                    changes.push(Change::Came(**new));
                    after.next();
                }
                (_, None) => return changes,
            }
        }
    }

    /// Members in the order in which they are to keep what has this number.
    /// Linear in the members, and little more for each that is taken.
    pub fn ranked(&self, number: u64, among: Among) -> Ranked<'_> {
        let weighed = self.all.iter().enumerate().filter_map(|(at, member)| {
            let first = match among {
                Among::All => false,
                Among::NearFirst => member.is_near,
                Among::Near => member.is_near.then_some(true)?,
            };
            // Of equals the greater id is before, as whoever else ranks has it.
            Some((first, member.weight(number), u32::try_from(at).ok()?))
        });
        let weighed: Vec<(bool, u64, u32)> = weighed.collect();
        Ranked {
            members: &self.all,
            weighed: BinaryHeap::from(weighed),
        }
    }
}

/// Members by their weights, the highest first; sorted as far as they are taken.
#[derive(Debug)]
pub struct Ranked<'a> {
    members: &'a [Member],
    weighed: BinaryHeap<(bool, u64, u32)>,
}

impl Iterator for Ranked<'_> {
    type Item = PeerId;

    fn next(&mut self) -> Option<PeerId> {
        let (_, _, at) = self.weighed.pop()?;
        Some(self.members.get(at as usize)?.id)
    }
}

/// A number of a member's own: the first eight bytes of its id's SHA-256.
pub fn number_of(peer: &PeerId) -> u64 {
    let digest = sha256(&peer.to_bytes());
    u64::from_be_bytes(digest[..8].try_into().expect("8 of 32 bytes"))
}

/// G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014: the finalizer of SplitMix64.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
