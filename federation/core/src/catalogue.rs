//! Which functions there are in the federation: signed records under a merge
//! rule that needs no clock.
//!
//! A record is a function as somebody deployed it, or the word that it was
//! removed. Of two records of one name the one of the later version holds, and
//! of two of one version that of the greater writer. A node that missed some
//! hears of it when it compares summaries with another: what both have is never
//! sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};
use weir_node_core::function::{FunctionSpec, Scope};
use weir_node_core::id::{Digest, FunctionName};

/// Seconds since 1970, as clocks of machines have it.
pub type UnixTime = u64;

/// Functions that are remembered, removed ones included.
pub const FUNCTIONS: usize = 20_000;

/// Versions that one step may be ahead: more only shuts the others out.
const JUMP: u64 = 1 << 32;

/// Parts of a summary.
const BUCKETS: usize = 64;

/// Records that are told at once; of more, whole parts, another first each time.
const TOLD: usize = 4_000;

/// Bytes of one chunk of an artifact.
pub const CHUNK: u64 = 1 << 20;

/// Seconds for which a removal is remembered: a member that was away longer than
/// [`AWAY`] brings none of its functions back, and a day more.
/// Where there are [`FUNCTIONS`] names the oldest go earlier, and it may.
pub const REMOVED: u64 = 8 * 24 * 3_600;

/// What is said of one function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name, as `name.namespace`.
    pub name: String,
    /// Counts deployments and removals of the name.
    pub version: u64,
    /// The topic of those who are told; `None` for the whole federation.
    #[serde(default)]
    pub topic: Option<String>,
    /// The function, as CBOR of its specification; `None` when it was removed.
    pub spec: Option<ByteBuf>,
    /// Its code, if that is an artifact.
    #[serde(default)]
    pub code: Option<CodeRef>,
    /// When it was removed, in seconds since 1970 by the writer's clock: when
    /// that is to be forgotten, and nothing else. `None` for a function.
    #[serde(default)]
    pub removed: Option<UnixTime>,
    /// The writer's certificate: it may have left when this is read.
    pub certificate: ByteBuf,
}

impl Record {
    /// Whether it is of a removal that all who are remembered have heard of:
    /// nobody needs it any more, and nobody takes it from one who has not
    /// forgotten it yet.
    pub fn is_over(&self, now: UnixTime) -> bool {
        self.removal().is_some_and(|removed| is_over(removed, now))
    }

    /// When the function was removed, if it was.
    fn removal(&self) -> Option<UnixTime> {
        let removed = self.removed.unwrap_or_default();
        self.spec.is_none().then_some(removed)
    }
}

fn is_over(removed: UnixTime, now: UnixTime) -> bool {
    now.saturating_sub(removed) > REMOVED
}

/// Code by digest, and by what each part of it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRef {
    /// SHA-256 of the whole.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of the list of the SHA-256 of each part of [`CHUNK`] bytes.
    #[serde(with = "serde_bytes")]
    pub chunks: [u8; 32],
}

impl CodeRef {
    /// The digest of the whole.
    pub fn artifact(&self) -> Digest {
        Digest::new(self.digest)
    }

    /// How many parts there are.
    pub fn count(&self) -> u64 {
        self.bytes.div_ceil(CHUNK).max(1)
    }

    /// A number of its own, by which [members](crate::rendezvous) are ranked.
    pub fn number(&self) -> u64 {
        u64::from_be_bytes(self.digest[..8].try_into().expect("8 of 32 bytes"))
    }

    /// Whether `list` holds the digests of its parts.
    pub fn is_list(&self, list: &[u8]) -> bool {
        list.len() as u64 == self.count() * 32 && sha256(list) == self.chunks
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A record as it is known here.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is said.
    pub record: Arc<Record>,
    /// Who says so.
    pub writer: PeerId,
    /// The envelope, to be told to others.
    pub sealed: Bytes,
    /// The function, [clamped](FunctionSpec::clamped); `None` when it was
    /// removed.
    pub spec: Option<Arc<FunctionSpec>>,
    /// Its part of a summary, and what stands for it there.
    bucket: usize,
    mark: u64,
}

impl Entry {
    /// Reads a record that `writer` signed; `None` when it is not one that an
    /// honest node writes.
    pub fn new(writer: PeerId, record: Record, sealed: Bytes) -> Option<(FunctionName, Entry)> {
        let name: FunctionName = record.name.parse().ok()?;
        let spec = match &record.spec {
            Some(bytes) => {
                let spec: FunctionSpec = cbor4ii::serde::from_slice(bytes).ok()?;
                let artifact = spec.code.artifact().copied();
                let told = record.code.as_ref().map(CodeRef::artifact);
                // What is one node's alone is nobody's to tell.
                let shared = spec.scope != Scope::Node;
                (spec.name == name && artifact == told && shared).then_some(())?;
                // Any number may come, and everybody reckons with these.
                Some(Arc::new(spec.clamped()))
            }
            None => None,
        };
        let mark = sha256(&sealed);
        let entry = Entry {
            bucket: usize::from(sha256(record.name.as_bytes())[0]) % BUCKETS,
            mark: u64::from_be_bytes(mark[..8].try_into().expect("8 of 32 bytes")),
            record: Arc::new(record),
            writer,
            sealed,
            spec,
        };
        Some((name, entry))
    }

    fn rank(&self) -> (u64, Vec<u8>) {
        (self.record.version, self.writer.to_bytes())
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// It holds from now on.
    Newer {
        /// The writer of the one before, if there was one.
        before: Option<PeerId>,
        /// The removal that was forgotten to make room, if one was.
        dropped: Option<FunctionName>,
    },
    /// It is known.
    Known,
    /// A later one is known.
    Older,
    /// Its version is beyond all reason.
    Jump,
    /// There are too many.
    Full,
}

/// All functions that are known.
#[derive(Debug, Default)]
pub struct Catalogue {
    entries: BTreeMap<FunctionName, Entry>,
    /// Those of them that are removals, the oldest first.
    removals: BTreeSet<(UnixTime, FunctionName)>,
}

impl Catalogue {
    /// Takes a record in. Where there are as many as there may be, removals make
    /// room, the oldest first: for functions, and for later removals.
    pub fn merge(&mut self, name: FunctionName, entry: Entry) -> Merged {
        let known = self.entries.get(&name);
        let version = known.map_or(0, |known| known.record.version);
        if entry.record.version > version.saturating_add(JUMP) {
            return Merged::Jump;
        }
        let mut dropped = None;
        match known {
            Some(known) if known.sealed == entry.sealed => return Merged::Known,
            Some(known) if known.rank() >= entry.rank() => return Merged::Older,
            None if self.entries.len() >= FUNCTIONS => match self.drop_removal(&name, &entry) {
                Some(removal) => dropped = Some(removal),
                None => return Merged::Full,
            },
            Some(_) | None => {}
        }
        let removal = entry.record.removal();
        let before = self.entries.insert(name.clone(), entry);
        if let Some(removed) = before.as_ref().and_then(|before| before.record.removal()) {
            self.removals.remove(&(removed, name.clone()));
        }
        if let Some(removed) = removal {
            self.removals.insert((removed, name));
        }
        Merged::Newer {
            before: before.map(|before| before.writer),
            dropped,
        }
    }

    /// Forgets the oldest removal for a record that is to come in, unless that
    /// is an older one itself.
    fn drop_removal(&mut self, name: &FunctionName, entry: &Entry) -> Option<FunctionName> {
        let (removed, oldest) = self.removals.first()?;
        let comes = entry.record.removal();
        if comes.is_some_and(|comes| (comes, name) <= (*removed, oldest)) {
            return None;
        }
        let (_, oldest) = self.removals.pop_first()?;
        self.entries.remove(&oldest);
        Some(oldest)
    }

    /// What is known of a function.
    pub fn get(&self, name: &FunctionName) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// How many names are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everything, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&FunctionName, &Entry)> {
        self.entries.iter()
    }

    /// Forgets removals that are over; their names.
    pub fn forget_removals(&mut self, now: UnixTime) -> Vec<FunctionName> {
        let mut over = Vec::new();
        while let Some((removed, _)) = self.removals.first()
            && is_over(*removed, now)
        {
            let (_, name) = self.removals.pop_first().expect("it was just seen");
            self.entries.remove(&name);
            over.push(name);
        }
        over
    }

    /// The version of the next deployment or removal of a name.
    pub fn next_version(&self, name: &FunctionName) -> u64 {
        let known = self.entries.get(name);
        known.map_or(1, |known| known.record.version.saturating_add(1))
    }

    /// What those who may be told of `topics` know of it, in short: equal where
    /// two know the same.
    pub fn summary(&self, topics: &[String]) -> Vec<u64> {
        let mut marks = vec![0; BUCKETS];
        for entry in self.told(topics) {
            // No order: whatever came first, the same are equal.
            marks[entry.bucket] ^= entry.mark;
        }
        marks
    }

    /// Records that somebody whose summary is `theirs` may lack, each with the
    /// topic of those who are told. Where they are too many, `chance` says with
    /// which part they begin.
    pub fn missing(
        &self,
        theirs: &[u64],
        topics: &[String],
        chance: usize,
    ) -> Vec<(Option<String>, Bytes)> {
        let ours = self.summary(topics);
        let mut parts = vec![Vec::new(); BUCKETS];
        for entry in self.told(topics) {
            let at = entry.bucket;
            if theirs.get(at) != ours.get(at) {
                parts[at].push((entry.record.topic.clone(), entry.sealed.clone()));
            }
        }
        parts.rotate_left(chance % BUCKETS);
        let mut told = Vec::new();
        for part in parts {
            // Half a part would be told again and again.
            if told.is_empty() || told.len() + part.len() <= TOLD {
                told.extend(part);
            }
        }
        told
    }

    fn told<'a>(&'a self, topics: &'a [String]) -> impl Iterator<Item = &'a Entry> {
        self.entries.values().filter(|entry| {
            let topic = entry.record.topic.as_ref();
            topic.is_none_or(|topic| topics.contains(topic))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_node_core::function::{ArtifactKind, CodeSource, Protocol};

    use super::*;
    use crate::samples::id;

    const NOW: UnixTime = 1_800_000_000;

    fn entry(name: &str, version: u64, writer: u8, removed: bool) -> (FunctionName, Entry) {
        let name: FunctionName = name.parse().expect("a name");
        let code = CodeRef {
            digest: [7; 32],
            bytes: 9,
            chunks: [8; 32],
        };
        let spec = FunctionSpec::new(
            name.clone(),
            CodeSource::Artifact(code.artifact()),
            ArtifactKind::WasmModule,
            Protocol::Stdio,
        );
        let spec = FunctionSpec {
            scope: Scope::Federation,
            ..spec
        };
        let spec = cbor4ii::serde::to_vec(Vec::new(), &spec).expect("it can be encoded");
        let record = Record {
            name: name.qualified(),
            version,
            topic: None,
            spec: (!removed).then(|| ByteBuf::from(spec)),
            code: (!removed).then_some(code),
            removed: removed.then_some(NOW),
            certificate: ByteBuf::new(),
        };
        let sealed = format!("{name} {version} {writer} {removed}").into();
        Entry::new(id(writer), record, sealed).expect("it is honest")
    }

    fn merged(catalogue: &mut Catalogue, (name, entry): (FunctionName, Entry)) -> Merged {
        catalogue.merge(name, entry)
    }

    /// Some name's removal at a time.
    fn removal(name: &str, version: u64, at: UnixTime) -> (FunctionName, Entry) {
        let (name, entry) = entry(name, version, 1, true);
        let record = Record {
            removed: Some(at),
            ..(*entry.record).clone()
        };
        let sealed = format!("{name} {version} {at}").into();
        Entry::new(id(1), record, sealed).expect("it is honest")
    }

    #[test]
    fn removals_make_room_the_oldest_first_and_functions_do_not() {
        let mut catalogue = Catalogue::default();
        let merge = |catalogue: &mut Catalogue, (name, entry)| match catalogue.merge(name, entry) {
            Merged::Newer { dropped, .. } => Some(dropped.map(|name| name.qualified())),
            Merged::Full => None,
            other => panic!("{other:?}"),
        };
        let dropped = |name: &str| Some(Some(format!("{name}.openfaas-fn")));
        for number in 0..FUNCTIONS - 3 {
            let function = entry(&format!("f{number}"), 1, 1, false);
            assert_eq!(merge(&mut catalogue, function), Some(None));
        }
        for (name, at) in [("b", 20), ("a", 10), ("c", 30)] {
            assert_eq!(merge(&mut catalogue, removal(name, 1, at)), Some(None));
        }
        // It was removed again since, and is not the oldest any more.
        assert_eq!(merge(&mut catalogue, removal("a", 2, 40)), Some(None));
        assert_eq!(merge(&mut catalogue, removal("early", 1, 19)), None);
        assert_eq!(merge(&mut catalogue, removal("late", 1, 25)), dropped("b"));
        assert_eq!(
            merge(&mut catalogue, entry("x", 1, 1, false)),
            dropped("late")
        );
        assert_eq!(merge(&mut catalogue, entry("c", 2, 1, false)), Some(None));
        assert_eq!(merge(&mut catalogue, entry("y", 1, 1, false)), dropped("a"));
        assert_eq!(merge(&mut catalogue, entry("z", 1, 1, false)), None);
        assert_eq!(merge(&mut catalogue, removal("f0", 2, 50)), Some(None));
        assert_eq!(
            merge(&mut catalogue, entry("z", 1, 1, false)),
            dropped("f0")
        );
        assert_eq!((catalogue.len(), catalogue.removals.len()), (FUNCTIONS, 0));
    }

    #[test]
    fn the_later_version_holds_and_a_removal_is_a_version() {
        let mut catalogue = Catalogue::default();
        let newer = |before| Merged::Newer {
            before,
            dropped: None,
        };
        assert_eq!(merged(&mut catalogue, entry("a", 1, 1, false)), newer(None));
        assert_eq!(
            merged(&mut catalogue, entry("a", 1, 1, false)),
            Merged::Known
        );
        let removal = entry("a", 2, 2, true);
        assert_eq!(merged(&mut catalogue, removal), newer(Some(id(1))));
        assert_eq!(
            merged(&mut catalogue, entry("a", 1, 1, false)),
            Merged::Older
        );
        let name = "a".parse().expect("a name");
        assert!(catalogue.get(&name).is_some_and(|e| e.spec.is_none()));
        assert_eq!(catalogue.next_version(&name), 3);
    }

    #[test]
    fn a_removal_is_forgotten_when_nobody_can_bring_the_function_back() {
        let mut catalogue = Catalogue::default();
        merged(&mut catalogue, entry("kept", 1, 1, false));
        merged(&mut catalogue, entry("gone", 2, 1, true));
        assert!(catalogue.forget_removals(NOW + REMOVED).is_empty());
        let forgotten = catalogue.forget_removals(NOW + REMOVED + 1);
        assert_eq!(forgotten, ["gone".parse().expect("a name")]);
        assert_eq!(catalogue.len(), 1);
        // One without a date was never written by us.
        let (_, removal) = entry("gone", 2, 1, true);
        let undated = Record {
            removed: None,
            ..(*removal.record).clone()
        };
        assert!(undated.is_over(NOW));
    }

    #[test]
    fn nobody_shuts_the_others_out_with_a_version() {
        let mut catalogue = Catalogue::default();
        let far = entry("a", JUMP + 1, 1, false);
        assert_eq!(merged(&mut catalogue, far), Merged::Jump);
        let near = entry("a", JUMP, 1, false);
        assert!(matches!(merged(&mut catalogue, near), Merged::Newer { .. }));
    }

    #[test]
    fn a_record_whose_parts_contradict_each_other_is_none() {
        let (_, honest) = entry("a", 1, 1, false);
        let mut record = (*honest.record).clone();
        record.name = "b.openfaas-fn".to_owned();
        assert!(Entry::new(id(1), record, Bytes::new()).is_none());
        let mut record = (*honest.record).clone();
        record.code = None;
        assert!(Entry::new(id(1), record, Bytes::new()).is_none());
    }

    #[test]
    fn those_outside_are_neither_told_nor_asked() {
        let mut catalogue = Catalogue::default();
        merged(&mut catalogue, entry("a", 1, 1, false));
        let all = catalogue.summary(&[]);
        let (name, mut private) = entry("b", 1, 1, false);
        let mut record = (*private.record).clone();
        record.topic = Some("zone".to_owned());
        private.record = Arc::new(record);
        catalogue.merge(name, private);
        assert_eq!(catalogue.summary(&[]), all);
        let topics = ["zone".to_owned()];
        assert_ne!(catalogue.summary(&topics), all);
        assert!(catalogue.missing(&all, &[], 0).is_empty());
        assert_eq!(catalogue.missing(&all, &topics, 0).len(), 1);
    }

    #[test]
    fn what_is_too_much_at_once_comes_in_whole_parts() {
        let [mut one, mut two] = [Catalogue::default(), Catalogue::default()];
        for number in 0..TOLD + 2_000 {
            merged(&mut one, entry(&format!("f{number}"), 1, 1, false));
        }
        let known: BTreeMap<Bytes, (FunctionName, Entry)> = one
            .iter()
            .map(|(name, entry)| (entry.sealed.clone(), (name.clone(), entry.clone())))
            .collect();
        for turn in 0..4 {
            let told = one.missing(&two.summary(&[]), &[], turn * 17);
            assert!(told.len() <= TOLD);
            for (_, sealed) in told {
                merged(&mut two, known[&sealed].clone());
            }
        }
        assert_eq!(one.summary(&[]), two.summary(&[]));
    }

    proptest! {
        #[test]
        fn whatever_the_order_all_agree(
            records in prop::collection::vec((0..6_u8, 1..5_u64, 1..4_u8, any::<bool>()), 0..40),
            seed in any::<u64>(),
        ) {
            let made: Vec<_> = records
                .iter()
                .map(|(name, version, writer, removed)| {
                    entry(&format!("f{name}"), *version, *writer, *removed)
                })
                .collect();
            // Two records of one rank by one writer are no honest ones.
            let mut seen = BTreeSet::new();
            let made: Vec<_> = made
                .into_iter()
                .filter(|(name, entry)| seen.insert((name.clone(), entry.rank())))
                .collect();
            let mut other = made.clone();
            let length = other.len().max(1);
            other.rotate_left(seed as usize % length);
            other.reverse();
            let [mut one, mut two] = [Catalogue::default(), Catalogue::default()];
            for record in made {
                merged(&mut one, record);
            }
            for record in other {
                merged(&mut two, record);
            }
            prop_assert_eq!(one.summary(&[]), two.summary(&[]));
            prop_assert!(one.missing(&two.summary(&[]), &[], 3).is_empty());
        }

        #[test]
        fn what_is_missing_makes_them_equal(
            versions in prop::collection::vec((0..200_u16, any::<bool>()), 0..60),
        ) {
            let [mut one, mut two] = [Catalogue::default(), Catalogue::default()];
            for (name, both) in versions {
                let record = entry(&format!("f{name}"), 1, 1, false);
                merged(&mut one, record.clone());
                if both {
                    merged(&mut two, record);
                }
            }
            let missing = one.missing(&two.summary(&[]), &[], 3);
            let known: BTreeMap<Bytes, (FunctionName, Entry)> = one
                .iter()
                .map(|(name, entry)| (entry.sealed.clone(), (name.clone(), entry.clone())))
                .collect();
            for (_, sealed) in missing {
                merged(&mut two, known[&sealed].clone());
            }
            prop_assert_eq!(one.summary(&[]), two.summary(&[]));
        }
    }
}
