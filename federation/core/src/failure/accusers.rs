//! How many suspicions of one member are heard, and what each does: it costs its
//! target some calls until it is refuted.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use crate::peers::{PEERS, Peers, Suspicion};

/// Suspicions of one member that are heard within [`COUNTED_FOR`]: more than the
/// links that it can lose.
pub const SUSPICIONS_MAX: u32 = 64;

/// Time over which the suspicions of one member are counted.
pub const COUNTED_FOR: Duration = Duration::from_secs(60);

/// How often members that said nothing for long make room for others.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What becomes of a suspicion that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accusation {
    /// Its author said too many: it is not looked at, nor passed on.
    TooMany,
    /// What the table of peers makes of it.
    Heard(Suspicion),
}

/// Members that suspected others lately: since when, and how often. At most
/// [`PEERS`] of them.
#[derive(Debug, Default)]
pub struct Accusers {
    counted: BTreeMap<PeerId, (Time, u32)>,
    swept: Time,
}

impl Accusers {
    /// Whether one more word of `from` against somebody is heard.
    pub fn may_accuse(&mut self, from: PeerId, now: Time) -> bool {
        if self.counted.len() >= PEERS && !self.counted.contains_key(&from) {
            if now.since(self.swept) >= SWEEP_INTERVAL {
                self.swept = now;
                self.counted
                    .retain(|_, (since, _)| now.since(*since) < COUNTED_FOR);
            }
            // So many accuse at once that one more is no news.
            if self.counted.len() >= PEERS {
                return false;
            }
        }
        let (since, count) = self.counted.entry(from).or_insert((now, 0));
        if now.since(*since) >= COUNTED_FOR {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= SUSPICIONS_MAX
    }

    /// Takes the word of `from` that the life `epoch` of `whom` is over; `own` is
    /// this node, whose own words are not counted.
    pub fn hear(
        &mut self,
        peers: &mut Peers,
        own: PeerId,
        from: PeerId,
        (whom, epoch): (PeerId, u64),
        now: Time,
    ) -> Accusation {
        if from != own && !self.may_accuse(from, now) {
            return Accusation::TooMany;
        }
        Accusation::Heard(peers.suspect(whom, epoch, now))
    }
}
