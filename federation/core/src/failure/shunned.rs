//! Members that lied: this node has nothing to do with them for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use crate::peers::PEERS;

/// How long a member that lied is kept away.
pub const SHUNNED_FOR: Duration = Duration::from_secs(60);

/// Members that lied, and until when nothing of them is wanted. At most
/// [`PEERS`]; of more liars at once the rest is cut, and may come again.
#[derive(Debug, Default)]
pub struct Shunned(BTreeMap<PeerId, Time>);

impl Shunned {
    /// Takes note that a member lied.
    pub fn shun(&mut self, peer: PeerId, now: Time) {
        if self.0.len() >= PEERS {
            self.0.retain(|_, until| now < *until);
        }
        if self.0.len() < PEERS {
            self.0.insert(peer, now + SHUNNED_FOR);
        }
    }

    /// How long a member is still kept away; `None` when it is not.
    pub fn left(&self, peer: &PeerId, now: Time) -> Option<Duration> {
        let left = self.0.get(peer)?.since(now);
        (!left.is_zero()).then_some(left)
    }
}
