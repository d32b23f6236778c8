//! What is known of single functions at single peers. A peer can run what it
//! is made for; here is only what calls and questions found out beside that.
//!
//! Plain state: whoever found something out tells it, with the time. Bounded:
//! the function that was asked for longest ago is forgotten first, and asked
//! about again when it is called.

use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, HashTable};
use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use crate::facts::PeerKey;
use crate::snapshot::FunctionRoom;

/// Pairs of function and peer that are remembered.
const ABILITIES: usize = 4_096;

/// How long a peer that cannot run a function is not asked again, the first
/// time; doubles.
const UNABLE_FIRST: Duration = Duration::from_secs(60);

/// Longest such time.
const UNABLE_LONGEST: Duration = Duration::from_secs(3_600);

/// Longest reason that is kept, in characters.
const WHY_CHARACTERS: usize = 200;

/// What is known of one function at one peer.
#[derive(Debug, Clone)]
pub enum Ability {
    /// It has the code, and took calls or would.
    Ready {
        /// Version of the function's record.
        version: u64,
        /// Our calls there.
        room: Arc<FunctionRoom>,
    },
    /// It fetches the code, or makes it ready.
    Bringing {
        /// Version of the function's record.
        version: u64,
        /// When that is expected to be done.
        until: Time,
    },
    /// It cannot run it.
    Unable {
        /// Version of the function's record.
        version: u64,
        /// Why, in its own words.
        why: Arc<str>,
        /// What it had counted of changes when it said so
        /// ([`crate::report::Report::abilities`]).
        abilities: u64,
        /// Until when it is not asked again.
        until: Time,
        /// How long it was not asked.
        pause: Duration,
    },
}

/// What one peer can do about one version of a function.
#[derive(Debug, Clone, Copy)]
pub enum Able<'a> {
    /// Nobody knows yet.
    Unasked,
    /// It has it.
    Ready(&'a Arc<FunctionRoom>),
    /// It will have it after so long.
    Bringing(Duration),
    /// It cannot run it.
    Unable(&'a Arc<str>),
}

impl Ability {
    /// What this says of `version` at `now`, of a peer that has counted
    /// `abilities` changes.
    pub fn able(&self, version: u64, abilities: u64, now: Time) -> Able<'_> {
        match self {
            Ability::Ready { version: of, room } if *of == version => Able::Ready(room),
            Ability::Bringing { version: of, until } if *of == version && now < *until => {
                Able::Bringing(until.since(now))
            }
            Ability::Unable {
                version: of,
                why,
                abilities: then,
                until,
                ..
            } if *of == version && *then == abilities && now < *until => Able::Unable(why),
            Ability::Ready { .. } | Ability::Bringing { .. } | Ability::Unable { .. } => {
                Able::Unasked
            }
        }
    }
}

/// What is known of one function at peers.
#[derive(Debug, Clone, Default)]
pub struct AtPeers(HashTable<(PeerKey, Ability)>);

impl AtPeers {
    /// What is known of it at one.
    pub fn get(&self, peer: &PeerId) -> Option<&Ability> {
        self.by_key(PeerKey::of(peer))
    }

    /// The same by what stands for the peer's id.
    pub fn by_key(&self, peer: PeerKey) -> Option<&Ability> {
        let found = self.0.find(peer.hash(), |(key, _)| *key == peer);
        found.map(|(_, ability)| ability)
    }

    /// Takes what was found out; what was known before.
    pub fn insert(&mut self, peer: &PeerId, ability: Ability) -> Option<Ability> {
        let peer = PeerKey::of(peer);
        if let Some((_, known)) = self.0.find_mut(peer.hash(), |(key, _)| *key == peer) {
            return Some(std::mem::replace(known, ability));
        }
        let rehash = |(key, _): &(PeerKey, Ability)| key.hash();
        self.0.insert_unique(peer.hash(), (peer, ability), rehash);
        None
    }

    /// Forgets a peer; what was known of it.
    pub fn remove(&mut self, peer: &PeerId) -> Option<Ability> {
        self.take(PeerKey::of(peer))
    }

    fn take(&mut self, peer: PeerKey) -> Option<Ability> {
        let entry = self.0.find_entry(peer.hash(), |(key, _)| *key == peer);
        let ((_, ability), _) = entry.ok()?.remove();
        Some(ability)
    }

    /// At how many something is known of it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known of it anywhere.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &(PeerKey, Ability)> {
        self.0.iter()
    }
}

#[derive(Debug, Default)]
struct Function {
    peers: Arc<AtPeers>,
    used: u64,
}

/// The table.
#[derive(Debug, Default)]
pub struct Abilities {
    functions: HashMap<FunctionName, Function, FixedState>,
    count: usize,
    uses: u64,
}

impl Abilities {
    /// What is known of a function at peers.
    pub fn of(&mut self, function: &FunctionName) -> Arc<AtPeers> {
        self.uses += 1;
        match self.functions.get_mut(function) {
            Some(known) => {
                known.used = self.uses;
                known.peers.clone()
            }
            None => Arc::default(),
        }
    }

    /// A peer has the function: our calls of it there.
    pub fn ready(
        &mut self,
        function: &FunctionName,
        peer: PeerId,
        version: u64,
    ) -> Arc<FunctionRoom> {
        let known = self.functions.get(function);
        let known = known.and_then(|known| known.peers.get(&peer));
        if let Some(Ability::Ready { version: of, room }) = known
            && *of == version
        {
            return room.clone();
        }
        let room = Arc::new(FunctionRoom::new());
        let ready = Ability::Ready {
            version,
            room: room.clone(),
        };
        self.put(function, peer, ready);
        room
    }

    /// A peer brings the function until then.
    pub fn bringing(&mut self, function: &FunctionName, peer: PeerId, version: u64, until: Time) {
        self.put(function, peer, Ability::Bringing { version, until });
    }

    /// Peers that bring the function now.
    pub fn brings(&self, function: &FunctionName, now: Time) -> usize {
        let known = self.functions.get(function);
        let peers = known.iter().flat_map(|known| known.peers.iter());
        let bringing = peers
            .filter(|(_, known)| matches!(known, Ability::Bringing { until, .. } if now < *until));
        bringing.count()
    }

    /// A peer that has counted `abilities` changes cannot run the function.
    pub fn unable(
        &mut self,
        function: &FunctionName,
        peer: PeerId,
        version: u64,
        (why, abilities): (&str, u64),
        now: Time,
    ) {
        let known = self.functions.get(function);
        let pause = match known.and_then(|known| known.peers.get(&peer)) {
            Some(Ability::Unable {
                version: of,
                abilities: then,
                pause,
                ..
            }) if *of == version && *then == abilities => {
                pause.saturating_mul(2).min(UNABLE_LONGEST)
            }
            _ => UNABLE_FIRST,
        };
        let unable = Ability::Unable {
            version,
            why: why.chars().take(WHY_CHARACTERS).collect::<String>().into(),
            abilities,
            until: now + pause,
            pause,
        };
        self.put(function, peer, unable);
    }

    /// Forgets what was known of a peer: it began a new life, or is gone.
    pub fn forget(&mut self, peer: &PeerId) {
        for known in self.functions.values_mut() {
            if known.peers.get(peer).is_some()
                && Arc::make_mut(&mut known.peers).remove(peer).is_some()
            {
                self.count -= 1;
            }
        }
        self.functions.retain(|_, known| !known.peers.is_empty());
    }

    fn put(&mut self, function: &FunctionName, peer: PeerId, ability: Ability) {
        self.uses += 1;
        let uses = self.uses;
        if self.count >= ABILITIES && !self.functions.contains_key(function) {
            let oldest = self.functions.iter().min_by_key(|(_, known)| known.used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone())
                && let Some(gone) = self.functions.remove(&oldest)
            {
                self.count -= gone.peers.len();
            }
        }
        let known = self.functions.entry(function.clone()).or_default();
        known.used = uses;
        let peers = Arc::make_mut(&mut known.peers);
        if peers.insert(&peer, ability).is_none() {
            self.count += 1;
        }
        // One function at very many peers: the rest is asked about again.
        if self.count > ABILITIES && peers.len() > 1 {
            let mut keys = peers.iter().map(|(key, _)| *key);
            let other = keys.find(|key| *key != PeerKey::of(&peer));
            drop(keys);
            if let Some(other) = other {
                peers.take(other);
                self.count -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::id;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn name(text: &str) -> FunctionName {
        text.parse().expect("a name")
    }

    fn word(abilities: &mut Abilities, peer: u8, version: u64, changes: u64, now: u64) -> String {
        let known = abilities.of(&name("shout"));
        let Some(known) = known.get(&id(peer)) else {
            return "unasked".to_owned();
        };
        match known.able(version, changes, at(now)) {
            Able::Unasked => "unasked".to_owned(),
            Able::Ready(_) => "ready".to_owned(),
            Able::Bringing(left) => format!("bringing {}", left.as_secs()),
            Able::Unable(why) => format!("unable: {why}"),
        }
    }

    #[test]
    fn what_is_known_is_of_one_version() {
        let mut table = Abilities::default();
        let first = table.ready(&name("shout"), id(1), 3);
        assert_eq!(word(&mut table, 1, 3, 0, 1), "ready");
        assert_eq!(word(&mut table, 1, 4, 0, 1), "unasked");
        assert_eq!(word(&mut table, 2, 3, 0, 1), "unasked");
        assert!(Arc::ptr_eq(&first, &table.ready(&name("shout"), id(1), 3)));
        table.bringing(&name("shout"), id(1), 4, at(9));
        assert_eq!(word(&mut table, 1, 4, 0, 7), "bringing 2");
        assert_eq!(table.brings(&name("shout"), at(7)), 1);
        assert_eq!(table.brings(&name("shout"), at(9)), 0);
        assert_eq!(word(&mut table, 1, 4, 0, 9), "unasked");
    }

    #[test]
    fn who_is_unable_is_asked_again_ever_later_or_when_it_has_changed() {
        let mut table = Abilities::default();
        let unable = |table: &mut Abilities, now| {
            let why = ("no secret ms", 7);
            table.unable(&name("shout"), id(1), 1, why, at(now));
        };
        unable(&mut table, 0);
        assert_eq!(word(&mut table, 1, 1, 7, 59), "unable: no secret ms");
        assert_eq!(word(&mut table, 1, 1, 7, 60), "unasked");
        unable(&mut table, 60);
        assert_eq!(word(&mut table, 1, 1, 7, 179), "unable: no secret ms");
        assert_eq!(
            word(&mut table, 1, 1, 8, 61),
            "unasked",
            "its secrets changed"
        );
        for _ in 0..10 {
            unable(&mut table, 200);
        }
        assert_eq!(
            word(&mut table, 1, 1, 7, 200 + 3_599),
            "unable: no secret ms"
        );
        assert_eq!(word(&mut table, 1, 1, 7, 200 + 3_600), "unasked");
    }

    #[test]
    fn the_table_is_bounded_and_forgets_what_was_not_asked_for_longest() {
        let mut table = Abilities::default();
        for number in 0..ABILITIES + 10 {
            table.ready(&name(&format!("f{number}")), id(1), 1);
        }
        assert_eq!((table.count, table.functions.len()), (ABILITIES, ABILITIES));
        assert!(table.of(&name("f0")).is_empty());
        assert!(!table.of(&name("f20")).is_empty());
        table.forget(&id(1));
        assert_eq!((table.count, table.functions.len()), (0, 0));
    }
}
