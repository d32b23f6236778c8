//! Code that is kept for the federation: what was taken to be kept, and when
//! it was last this node's to keep.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weir_node_core::id::Digest;
use weir_node_core::time::Time;

use crate::catalogue::FUNCTIONS;

/// Artifacts that are being fetched to be kept, at once.
pub const PINNINGS_MAX: usize = 16;

/// How long code is kept that others should keep.
pub const UNWANTED_KEPT_FOR: Duration = Duration::from_secs(600);

/// What is to be done about code that somebody wants kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// It is kept.
    Kept,
    /// Somebody else is at it, and is to be waited for.
    UnderWay,
    /// It is to be fetched and kept, and told of by [`Pins::pinned`].
    Begin,
    /// This node keeps, or fetches, as much as it may.
    Full,
}

/// The artifacts that a node keeps for the federation.
#[derive(Debug, Default)]
pub struct Pins {
    /// When each was last this node's to keep.
    kept: BTreeMap<Digest, Time>,
    under_way: BTreeSet<Digest>,
}

impl Pins {
    /// Code is to be kept.
    pub fn want(&mut self, code: Digest, now: Time) -> Pinning {
        if let Some(wanted) = self.kept.get_mut(&code) {
            *wanted = now;
            return Pinning::Kept;
        }
        if self.under_way.contains(&code) {
            return Pinning::UnderWay;
        }
        let full = self.under_way.len() >= PINNINGS_MAX
            || self.kept.len() + self.under_way.len() >= FUNCTIONS;
        if full {
            return Pinning::Full;
        }
        self.under_way.insert(code);
        Pinning::Begin
    }

    /// What was begun has ended: whether the code is kept now.
    pub fn pinned(&mut self, code: Digest, is_kept: bool, now: Time) {
        self.under_way.remove(&code);
        if is_kept {
            self.kept.insert(code, now);
        }
    }

    /// Takes out what was not this node's to keep for [`UNWANTED_KEPT_FOR`].
    pub fn unwanted(&mut self, now: Time) -> Vec<Digest> {
        let over = |wanted: &Time| now.since(*wanted) >= UNWANTED_KEPT_FOR;
        let unwanted = self.kept.iter().filter(|(_, wanted)| over(wanted));
        let unwanted: Vec<Digest> = unwanted.map(|(code, _)| *code).collect();
        for code in &unwanted {
            self.kept.remove(code);
        }
        unwanted
    }

    /// Whether code is kept.
    pub fn is_kept(&self, code: &Digest) -> bool {
        self.kept.contains_key(code)
    }
}
