//! What somebody outside says of the network: that a peer, or the way to it, is
//! congested, until that is taken back or has been so long ago.
//!
//! As a software-defined network's controller says it to the dispatchers of C.
//! Cicconetti, M. Conti, A. Passarella, "A decentralized framework for serverless
//! edge computing in the Internet of Things", IEEE TNSM 18(2), 2021.

use std::collections::BTreeMap;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

/// Peers that may be said to be congested at once.
pub const CONGESTED_MAX: usize = 1_024;

/// Peers that were said to be congested, and until when.
#[derive(Debug, Clone, Default)]
pub struct Congestion(BTreeMap<PeerId, Time>);

impl Congestion {
    /// Takes note that a peer, or the way to it, is congested until then; `false`
    /// where [`CONGESTED_MAX`] are.
    pub fn notice(&mut self, peer: PeerId, until: Time, now: Time) -> bool {
        self.0.retain(|_, until| *until > now);
        let has_room = self.0.len() < CONGESTED_MAX || self.0.contains_key(&peer);
        if has_room {
            self.0.insert(peer, until);
        }
        has_room
    }

    /// Takes that back; `false` when nobody had said so.
    pub fn clear(&mut self, peer: &PeerId) -> bool {
        self.0.remove(peer).is_some()
    }

    /// Whether a peer is congested.
    pub fn is_congested(&self, peer: &PeerId, now: Time) -> bool {
        // Mostly nobody is.
        !self.0.is_empty() && self.0.get(peer).is_some_and(|until| *until > now)
    }

    /// Those that are, and until when.
    pub fn congested(&self, now: Time) -> impl Iterator<Item = (PeerId, Time)> + '_ {
        let all = self.0.iter().map(|(peer, until)| (*peer, *until));
        all.filter(move |(_, until)| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::samples::{id, numbered};

    #[test]
    fn a_peer_is_congested_until_that_passes_or_is_taken_back() {
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let mut congestion = Congestion::default();
        assert!(congestion.notice(id(1), at(10), at(0)));
        assert!(congestion.notice(id(2), at(20), at(0)));
        assert!(congestion.is_congested(&id(1), at(9)));
        assert!(!congestion.is_congested(&id(1), at(10)));
        assert!(!congestion.is_congested(&id(3), at(0)));
        assert_eq!(congestion.congested(at(15)).count(), 1);
        assert!(congestion.clear(&id(2)));
        assert!(!congestion.clear(&id(2)));
        assert_eq!(congestion.congested(at(15)).count(), 0);
    }

    #[test]
    fn what_is_known_of_congestion_is_bounded_and_passes() {
        let mut congestion = Congestion::default();
        let soon = Time::ZERO + Duration::from_secs(1);
        for number in 0..CONGESTED_MAX {
            let peer = numbered(u32::try_from(number).expect("few"));
            assert!(congestion.notice(peer, soon, Time::ZERO));
        }
        let one_more = numbered(u32::MAX);
        assert!(!congestion.notice(one_more, soon, Time::ZERO));
        assert!(congestion.notice(one_more, Time::NEVER, soon));
    }
}
