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
fn code_is_kept_by_its_writer_and_by_whom_all_agree_on() {
    let code = |number| CodeRef {
        digest: [number; 32],
        bytes: 9,
        chunks: [8; 32],
    };
    let others: Vec<_> = (1..=9).map(|n| (number_of(&id(n)), id(n))).collect();
    let mut turned = others.clone();
    turned.rotate_left(4);
    let mut kept = BTreeMap::<PeerId, usize>::new();
    for number in 0..90 {
        let [one, two] = keepers(&code(number), 2, Some(id(1)), &others)[..] else {
            panic!("two keep it");
        };
        assert_eq!(one, id(1));
        assert_eq!(keepers(&code(number), 2, Some(id(1)), &turned), [one, two]);
        *kept.entry(two).or_default() += 1;
        for (_, own) in &others {
            for (copies, writer) in [(2, Some(id(1))), (3, None)] {
                let all = keepers(&code(number), copies, writer, &others);
                let says = keeps(&code(number), copies, writer, &others, own);
                assert_eq!(says, all.contains(own));
            }
        }
        // Without its writer, and without a third, the second still does.
        assert!(keepers(&code(number), 2, None, &others).contains(&two) || kept.len() > 1);
        let gone: Vec<_> = others.iter().filter(|(_, p)| *p != two).copied().collect();
        assert!(!keepers(&code(number), 2, Some(id(1)), &gone).contains(&two));
    }
    // All have their share.
    assert_eq!(kept.len(), 8);
    assert!(
        kept.values().all(|count| (2..30).contains(count)),
        "{kept:?}"
    );
    assert_eq!(keepers(&code(1), 2, Some(id(1)), &[]), [id(1)]);
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
