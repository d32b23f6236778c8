//! Signs of life beside heartbeats: whoever sends calls, or answers them, is
//! not silent, though the link is so full that heartbeats come late or not at
//! all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use libp2p::PeerId;
use parking_lot::Mutex;

/// Whether a member was heard on a connection that carries calls.
#[derive(Debug, Clone)]
pub(crate) struct Sign(Arc<AtomicBool>);

impl Sign {
    /// The member was heard.
    pub(crate) fn give(&self) {
        // Read first: all connections with the member share it.
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the member was heard since this was asked last.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// The signs of all members that have connections or heartbeats.
#[derive(Debug, Default)]
pub struct Traffic {
    members: Mutex<HashMap<PeerId, Weak<AtomicBool>>>,
}

impl Traffic {
    /// The sign of one member, the same for all who ask.
    pub(crate) fn of(&self, member: PeerId) -> Sign {
        let mut members = self.members.lock();
        if let Some(sign) = members.get(&member).and_then(Weak::upgrade) {
            return Sign(sign);
        }
        members.retain(|_, sign| sign.strong_count() > 0);
        let sign = Arc::new(AtomicBool::new(false));
        members.insert(member, Arc::downgrade(&sign));
        Sign(sign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_one_sign_as_long_as_somebody_holds_it() {
        let traffic = Traffic::default();
        let (one, other) = (PeerId::random(), PeerId::random());
        let (sign, same) = (traffic.of(one), traffic.of(one));
        sign.give();
        assert!(!traffic.of(other).take());
        assert!(same.take());
        assert!(!sign.take());
        drop((sign, same));
        let _held = traffic.of(other);
        assert_eq!(traffic.members.lock().len(), 1);
    }
}
