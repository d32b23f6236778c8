//! What a policy learns from, and what it may wish for between decisions.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::Timing;

use super::{Origin, Reach};
use crate::congestion::Congestion;
use crate::report::{Load, Role};
use crate::snapshot::View;

/// Longest note that a policy tells others like it, in bytes.
pub const NOTE_BYTES_MAX: usize = 1 << 10;

/// Most bytes that a policy keeps over a restart.
pub const SAVED_BYTES_MAX: usize = 256 << 10;

/// Peers that one tick may wish to probe.
pub const PROBES_MAX: usize = 16;

/// Shortest time from one tick of a policy to its next.
pub const TICK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// How an attempt to have a call run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The function answered.
    Answered,
    /// It ran, or was to run, and failed there.
    Failed,
    /// It was not taken, and did not begin.
    Refused,
    /// The peer was lost; it may have begun.
    Lost,
    /// It did not end in time.
    Late,
}

/// The end of one attempt to have a call run, here or at a peer.
///
/// Each attempt has one end, in the order in which they ended, not that in which
/// they began. A call whose caller has gone has none: what counts calls that are
/// out looks at [`crate::snapshot::Window::held`].
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// Which function.
    pub function: &'a FunctionName,
    /// Its QoS class.
    pub class: ClassKey,
    /// How the call came here.
    pub origin: Origin,
    /// Who sent it; `None` for this node's own users.
    pub from: Option<PeerId>,
    /// Where it was to run; `None` for here.
    pub to: Option<PeerId>,
    /// Which way that is; `None` for here.
    pub reach: Option<Reach>,
    /// How that ended.
    pub ending: Ending,
    /// Where its time went, as whoever ran it says; zero where nobody does.
    pub timing: Timing,
    /// When it began: when it was sent, or its wait for a place here.
    pub began: Time,
    /// When it ended: when its answer began, or that it has none was known.
    pub ended: Time,
    /// Bytes of its body, as far as they were known when it began.
    pub sent_bytes: u64,
    /// Bytes of its answer, as far as they were known when that began.
    pub answer_bytes: u64,
}

impl Outcome<'_> {
    /// How long the attempt took.
    pub fn took(&self) -> Duration {
        self.ended.since(self.began)
    }

    /// How long it was on its way there and back: what it took, less what
    /// whoever ran it says that it waited, started and ran.
    pub fn travelled(&self) -> Duration {
        let Timing {
            fetched,
            queued,
            started,
            ran,
        } = self.timing;
        let there = fetched.saturating_add(queued).saturating_add(started);
        self.took().saturating_sub(there.saturating_add(ran))
    }
}

/// What stands for a QoS class in tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassKey(u64);

impl ClassKey {
    /// That of calls that name none.
    pub const NONE: ClassKey = ClassKey(0);

    /// The key of a class; of no name, [`ClassKey::NONE`].
    ///
    /// FNV-1a: G. Fowler, L. C. Noll, K.-P. Vo, D. Eastlake, "The FNV
    /// non-cryptographic hash algorithm", RFC 9923. Names come from
    /// configuration, not from callers.
    pub fn of(name: Option<&str>) -> ClassKey {
        let Some(name) = name else {
            return ClassKey::NONE;
        };
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        ClassKey(hash.max(1))
    }

    /// As a number, the same in all nodes.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

/// A probe's end: what a peer said when it was asked for that alone.
#[derive(Debug, Clone, Copy)]
pub struct Probed {
    /// Who.
    pub peer: PeerId,
    /// How loaded it is; `None` where it did not answer, or may not be asked now.
    pub load: Option<Load>,
    /// How long the answer took.
    pub took: Duration,
    /// When it came.
    pub now: Time,
}

/// What a policy sees between decisions.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// This node.
    pub own: PeerId,
    /// What it is for.
    pub role: Role,
    /// Its processor, as reports name it.
    pub architecture: &'a str,
    /// How loaded it is.
    pub load: Load,
    /// Regions that it spills to, in order; for a cloud node, its own.
    pub regions: &'a [String],
    /// Its peers.
    pub view: &'a View,
    /// What was said to be congested.
    pub congestion: &'a Congestion,
    /// When this is.
    pub now: Time,
    /// One random number, for [`crate::snapshot::Draws`].
    pub chance: u64,
}

/// What a policy wishes for between decisions. The shell carries it out as far
/// as rates allow.
#[derive(Debug, Default)]
pub struct Wishes {
    probes: Vec<PeerId>,
    note: Option<Vec<u8>>,
}

impl Wishes {
    /// Wishes to know how loaded a peer is; `false` beyond [`PROBES_MAX`].
    pub fn probe(&mut self, peer: PeerId) -> bool {
        let has_room = self.probes.len() < PROBES_MAX;
        if has_room && !self.probes.contains(&peer) {
            self.probes.push(peer);
        }
        has_room
    }

    /// Wishes to tell policies like this one, in the same zone or region; `false`
    /// where the note is longer than [`NOTE_BYTES_MAX`]. A tick tells one: the
    /// last.
    pub fn tell(&mut self, note: Vec<u8>) -> bool {
        let fits = note.len() <= NOTE_BYTES_MAX;
        if fits {
            self.note = Some(note);
        }
        fits
    }

    /// Peers to probe.
    pub fn probes(&self) -> &[PeerId] {
        &self.probes
    }

    /// The note to tell.
    pub fn note(&self) -> Option<&[u8]> {
        self.note.as_deref()
    }
}

/// Bytes that no policy like this one writes: a note, or what was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes that the policy cannot read")]
pub struct Malformed;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::id;

    #[test]
    fn wishes_are_bounded() {
        let mut wishes = Wishes::default();
        for number in 0..PROBES_MAX {
            let number = u8::try_from(number).expect("few");
            assert!(wishes.probe(id(number)));
            assert!(wishes.probe(id(0)) || wishes.probes().len() == PROBES_MAX);
        }
        assert!(!wishes.probe(id(99)));
        assert_eq!(wishes.probes().len(), PROBES_MAX);
        assert!(wishes.tell(vec![1]));
        assert!(!wishes.tell(vec![0; NOTE_BYTES_MAX + 1]));
        assert_eq!(wishes.note(), Some([1].as_slice()));
    }

    #[test]
    fn the_way_is_what_nobody_else_accounts_for() {
        let function = "shout".parse().expect("a name");
        let milliseconds = Duration::from_millis;
        let mut outcome = Outcome {
            function: &function,
            class: ClassKey::NONE,
            origin: Origin::Here,
            from: None,
            to: Some(id(1)),
            reach: Some(Reach::Horizontal),
            ending: Ending::Answered,
            timing: Timing {
                fetched: milliseconds(1),
                queued: milliseconds(2),
                started: milliseconds(3),
                ran: milliseconds(4),
            },
            began: Time::ZERO + milliseconds(100),
            ended: Time::ZERO + milliseconds(125),
            sent_bytes: 0,
            answer_bytes: 0,
        };
        assert_eq!(outcome.took(), milliseconds(25));
        assert_eq!(outcome.travelled(), milliseconds(15));
        // One that lies travels no less than not at all.
        outcome.timing.ran = Duration::MAX;
        assert_eq!(outcome.travelled(), Duration::ZERO);
    }

    #[test]
    fn classes_have_keys_of_their_own() {
        assert_eq!(ClassKey::of(None), ClassKey::NONE);
        assert_ne!(ClassKey::of(Some("")), ClassKey::NONE);
        assert_ne!(ClassKey::of(Some("gold")), ClassKey::of(Some("silver")));
        assert_eq!(ClassKey::of(Some("a")).as_u64(), 0xaf63_dc4c_8601_ec8c);
    }
}
