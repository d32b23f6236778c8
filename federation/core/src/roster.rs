//! Whom a node knows, compared with one of its links now and then: gossip may
//! have missed somebody, and what is said of a member is worth nothing to those
//! who have not heard its introduction.
//!
//! Plain state with time as an argument. Members are compared by marks, a few
//! bytes each: first one number for all of them, and the list only where that
//! differs. Each side then tells what the other lacks.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use weir_node_core::time::Time;

use crate::catalogue::sha256;
use crate::peers::PEERS;

/// Bytes that stand for a member: all that are remembered fit into one message,
/// and no two of them look alike by chance.
const MARK_BYTES: usize = 6;

/// How soon after a change members are compared: several come together, and
/// news that crossed them on its way has arrived.
const COMPARE_PAUSE_MIN: Duration = Duration::from_secs(1);

/// How often they are though nothing has changed here: it may have elsewhere.
const COMPARE_PAUSE_MAX: Duration = Duration::from_secs(20);

/// What stands for a member.
pub type Mark = [u8; MARK_BYTES];

/// Members by their marks.
pub type Marks = BTreeMap<Mark, PeerId>;

/// What stands for this member.
pub fn mark(peer: &PeerId) -> Mark {
    let digest = sha256(&peer.to_bytes());
    std::array::from_fn(|at| digest[at])
}

/// What one member tells another of whom it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Equal where both know the same.
    pub digest: u64,
    /// All marks, one after the other; `None` where the number may be enough.
    #[serde(default)]
    pub marks: Option<ByteBuf>,
    /// Whether the list of whoever hears it is wanted back, should that name more.
    #[serde(default)]
    pub ask: bool,
}

/// What is to be done about a roster that was heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Members that the other lacks.
    pub tell: Vec<PeerId>,
    /// What it is answered.
    pub answer: Option<Roster>,
}

impl Roster {
    /// That these are known, in one number.
    pub fn brief(known: &Marks) -> Roster {
        let all: Vec<u8> = known.keys().flatten().copied().collect();
        let digest = sha256(&all);
        Roster {
            digest: u64::from_be_bytes(digest[..8].try_into().expect("8 of 32 bytes")),
            marks: None,
            ask: false,
        }
    }

    /// That these are known, one by one.
    fn full(known: &Marks, ask: bool) -> Roster {
        let marks: Vec<u8> = known.keys().take(PEERS).flatten().copied().collect();
        Roster {
            marks: Some(ByteBuf::from(marks)),
            ask,
            ..Roster::brief(known)
        }
    }

    /// Compares what another told with what is known here.
    pub fn compare(&self, known: &Marks) -> Comparison {
        let Some(marks) = &self.marks else {
            let differs = self.digest != Roster::brief(known).digest;
            return Comparison {
                answer: differs.then(|| Roster::full(known, true)),
                ..Comparison::default()
            };
        };
        let marks = marks.chunks_exact(MARK_BYTES).take(PEERS);
        let theirs: std::collections::BTreeSet<&[u8]> = marks.collect();
        let lacks = known.iter().filter(|(mark, _)| !theirs.contains(&mark[..]));
        let more = theirs.iter().any(|mark| !known.contains_key(*mark));
        Comparison {
            tell: lacks.map(|(_, peer)| *peer).collect(),
            answer: (self.ask && more).then(|| Roster::full(known, false)),
        }
    }
}

/// When members are compared: soon after a change, and ever more seldom.
#[derive(Debug)]
pub struct Rounds {
    digest: u64,
    next: Time,
    pause: Duration,
}

impl Rounds {
    /// Begins at `now`.
    pub fn new(now: Time) -> Rounds {
        Rounds {
            digest: 0,
            next: now,
            pause: COMPARE_PAUSE_MIN,
        }
    }

    /// Something was missed.
    pub fn hurry(&mut self, now: Time) {
        self.pause = COMPARE_PAUSE_MIN;
        self.next = self.next.min(now + self.pause);
    }

    /// Whether it is time to compare, with this known here.
    pub fn is_due(&mut self, own: &Roster, now: Time) -> bool {
        if own.digest != self.digest {
            self.digest = own.digest;
            self.hurry(now);
        }
        if now < self.next {
            return false;
        }
        self.next = now + self.pause;
        self.pause = self.pause.saturating_mul(2).min(COMPARE_PAUSE_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::REPORT_BYTES;
    use crate::samples::id;

    fn marks(members: impl IntoIterator<Item = u8>) -> Marks {
        let members = members.into_iter().map(id);
        members.map(|peer| (mark(&peer), peer)).collect()
    }

    /// Compares until nobody says anything more; how many messages that took.
    fn settle(one: &mut Marks, two: &mut Marks) -> usize {
        let mut said = vec![(Roster::brief(one), true)];
        let mut count = 0;
        while let Some((roster, by_one)) = said.pop() {
            count += 1;
            let (from, to) = match by_one {
                true => (&mut *one, &mut *two),
                false => (&mut *two, &mut *one),
            };
            let Comparison { tell, answer } = roster.compare(to);
            from.extend(tell.into_iter().map(|peer| (mark(&peer), peer)));
            said.extend(answer.map(|answer| (answer, !by_one)));
        }
        count
    }

    #[test]
    fn whoever_knows_the_same_says_one_number() {
        let (mut one, mut two) = (marks(1..9), marks(1..9));
        assert_eq!(settle(&mut one, &mut two), 1);
    }

    #[test]
    fn both_learn_whom_they_missed() {
        let (mut one, mut two) = (marks(1..6), marks(3..9));
        assert_eq!(settle(&mut one, &mut two), 3);
        assert_eq!((one.len(), one), (8, two));
    }

    #[test]
    fn all_who_are_remembered_fit_into_one_message() {
        let mut known = Marks::new();
        for number in 0..u32::try_from(PEERS).expect("few") {
            let mut mark = Mark::default();
            mark[..4].copy_from_slice(&number.to_be_bytes());
            known.insert(mark, id(1));
        }
        let full = Roster::full(&known, true);
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &full).expect("it can be encoded");
        assert!(bytes.len() <= REPORT_BYTES, "{}", bytes.len());
        assert_eq!(full.compare(&known), Comparison::default());
    }

    #[test]
    fn they_are_compared_soon_after_a_change_and_ever_more_seldom() {
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let mut rounds = Rounds::new(at(0));
        let few = Roster::brief(&marks(1..3));
        let due = |rounds: &mut Rounds, own: &Roster, from: u64, to: u64| {
            let seconds = (from..to).filter(|second| rounds.is_due(own, at(*second)));
            seconds.collect::<Vec<_>>()
        };
        assert_eq!(
            due(&mut rounds, &few, 0, 100),
            [0, 1, 3, 7, 15, 31, 51, 71, 91]
        );
        let more = Roster::brief(&marks(1..4));
        assert_eq!(due(&mut rounds, &more, 100, 110), [101, 102, 104, 108]);
        rounds.hurry(at(110));
        assert_eq!(due(&mut rounds, &more, 110, 113), [111, 112]);
    }

    proptest! {
        #[test]
        fn whoever_compares_agrees(
            one in prop::collection::btree_set(0..40_u8, 0..30),
            two in prop::collection::btree_set(0..40_u8, 0..30),
        ) {
            let (mut one, mut two) = (marks(one), marks(two));
            prop_assert!(settle(&mut one, &mut two) <= 3);
            prop_assert_eq!(one, two);
        }

        #[test]
        fn no_list_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..99), ask: bool) {
            let known = marks(1..9);
            let roster = Roster { digest: 7, marks: Some(ByteBuf::from(bytes)), ask };
            prop_assert!(roster.compare(&known).tell.len() <= known.len());
        }
    }
}
