use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use weir_node_core::function::{ArtifactKind, CodeSource, Protocol};

use super::holdings::keepers;
use super::pins::UNWANTED_KEPT_FOR;
use super::popularity::HALF_LIFE;
use super::settling::Settling;
use super::*;
use crate::catalogue::Record;
use crate::samples::id;

const OWN: u8 = 1;

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn name(number: u32) -> FunctionName {
    format!("f{number}").parse().expect("a name")
}

fn code(number: u8) -> CodeRef {
    CodeRef {
        digest: [number; 32],
        bytes: 9,
        chunks: [8; 32],
    }
}

fn spec(number: u8) -> FunctionSpec {
    let artifact = CodeSource::Artifact(code(number).artifact());
    let spec = FunctionSpec::new(
        name(number.into()),
        artifact,
        ArtifactKind::WasmModule,
        Protocol::Stdio,
    );
    FunctionSpec {
        scope: Scope::Federation,
        ..spec
    }
}

fn entry_of(spec: Option<&FunctionSpec>, number: u8, writer: u8, topic: bool) -> Entry {
    let encoded = spec.map(|spec| cbor4ii::serde::to_vec(Vec::new(), spec));
    let encoded = encoded.map(|spec| ByteBuf::from(spec.expect("it can be encoded")));
    let record = Record {
        name: name(number.into()).qualified(),
        version: 1,
        topic: topic.then(|| "zone".to_owned()),
        code: encoded.is_some().then(|| code(number)),
        removed: encoded.is_none().then_some(1),
        spec: encoded,
        certificate: ByteBuf::new(),
    };
    let (_, entry) = Entry::new(id(writer), record, Bytes::new()).expect("it is honest");
    entry
}

fn entry(number: u8, writer: u8, copies: u8) -> Entry {
    let spec = FunctionSpec {
        copies,
        ..spec(number)
    };
    entry_of(Some(&spec), number, writer, false)
}

fn members(numbers: &[u8]) -> Members {
    Members::default().renewed(numbers.iter().map(|number| (id(*number), true)))
}

#[test]
fn a_function_is_brought_here_when_it_is_called_often_now() {
    type Case<'a> = (&'a str, &'a [u64], bool, &'a [u64]);
    // When it is called, in seconds; whether it may run here; when it is brought.
    let cases: &[Case<'_>] = &[
        ("once", &[0], true, &[]),
        ("three times at once", &[0, 0, 0], true, &[0]),
        (
            "three times within four minutes",
            &[0, 0, 240],
            true,
            &[240],
        ),
        ("three times within ten", &[0, 0, 601], true, &[]),
        (
            "twice an hour, for ever",
            &[0, 1_800, 3_600, 5_400, 7_200],
            true,
            &[],
        ),
        (
            "every seven minutes",
            &[0, 420, 840, 1_260, 1_680, 2_100, 2_520],
            true,
            &[2_520],
        ),
        ("it may not run here", &[0, 0, 0, 1, 2], false, &[]),
        (
            "it did not come, and is tried again",
            &[0, 0, 0, 1, 59, 60, 61],
            true,
            &[0, 60],
        ),
    ];
    for (case, calls, may_run, expected) in cases {
        let mut replication = Replication::new(id(OWN), at(0));
        let mut brought = Vec::new();
        for seconds in *calls {
            let mut wishes = Vec::new();
            replication.called_elsewhere(&name(1), at(*seconds), || *may_run, &mut wishes);
            brought.extend(wishes.iter().map(|_| *seconds));
        }
        assert_eq!(brought, *expected, "{case}");
    }
}

#[test]
fn calls_count_half_after_a_half_life_and_are_forgotten_after_four() {
    let mut popularity = Popularity::of_at_most(2);
    let close = |one: f64, two: f64| (one - two).abs() < 1e-9;
    for _ in 0..4 {
        popularity.called(&name(1), at(0));
    }
    let half = Time::ZERO + HALF_LIFE;
    assert!(close(popularity.count(&name(1), half), 2.0));
    assert!(close(popularity.called(&name(1), half), 3.0));
    assert!(close(popularity.count(&name(1), half + HALF_LIFE), 1.5));
    // Of more than there may be, the least called goes.
    popularity.called(&name(2), half);
    popularity.called(&name(3), half);
    assert!(close(popularity.count(&name(2), half), 0.0));
    assert_eq!(popularity.len(), 2);
    popularity.tick(half + HALF_LIFE * 5);
    assert_eq!(popularity.len(), 1);
    popularity.tick(half + HALF_LIFE * 6);
    assert!(popularity.is_empty());
}

#[test]
fn what_was_not_called_for_longest_is_let_go_of_first() {
    let mut replication = Replication::new(id(OWN), at(0));
    for number in 1..=3 {
        replication.came(&name(number), Some(0), at(u64::from(number)));
    }
    let mut go = |fullness, sake, now, calls: &dyn Fn(&FunctionName) -> Option<u64>| {
        replication.let_go(fullness, sake, now, calls)
    };
    let none = |_: &FunctionName| Some(0);
    assert_eq!(go(0.89, Sake::Own, at(700), &none), None);
    // The first was called since; the second was not.
    let called = |asked: &FunctionName| Some(u64::from(*asked == name(1)));
    assert_eq!(go(0.9, Sake::Own, at(700), &called), Some(name(2)));
    // The third is gone already, and the first in use: not for a guest.
    let gone = |asked: &FunctionName| (*asked == name(1)).then_some(1);
    assert_eq!(go(0.9, Sake::Guests, at(1_299), &gone), None);
    assert_eq!(go(0.9, Sake::Guests, at(1_300), &gone), Some(name(1)));
    assert_eq!(go(1.0, Sake::Own, at(1_300), &gone), None);
    assert!(replication.brought().is_empty());
}

#[test]
fn only_what_a_node_brought_itself_may_be_let_go_of() {
    let usual = spec(1);
    let alone = FunctionSpec {
        scope: Scope::Node,
        ..spec(1)
    };
    let prefetched = FunctionSpec {
        prefetch: true,
        ..spec(1)
    };
    let (own, others) = (entry(1, OWN, 1), entry(1, 2, 1));
    for (case, spec, entry, expected) in [
        ("another's", &usual, Some(&others), true),
        ("deployed here", &usual, Some(&own), false),
        ("known to nobody", &usual, None, false),
        ("this node's alone", &alone, Some(&others), false),
        (
            "there before it is called",
            &prefetched,
            Some(&others),
            false,
        ),
    ] {
        assert_eq!(is_brought(spec, entry, &id(OWN)), expected, "{case}");
    }
}

#[test]
fn a_function_follows_its_newest_record() {
    let known = spec(1);
    let newer = FunctionSpec {
        timeout: Duration::from_secs(77),
        ..spec(1)
    };
    let prefetch = FunctionSpec {
        prefetch: true,
        ..spec(1)
    };
    let alone = FunctionSpec {
        scope: Scope::Node,
        ..spec(1)
    };
    struct Case<'a>(
        &'a str,
        Option<&'a FunctionSpec>,
        Option<(&'a FunctionSpec, bool)>,
        bool,
        bool,
        Course,
    );
    let cases = [
        Case("not here", Some(&known), None, false, true, Course::Leave),
        Case(
            "to be here",
            Some(&prefetch),
            None,
            false,
            true,
            Course::Prefetch,
        ),
        Case(
            "on its way",
            Some(&prefetch),
            None,
            true,
            true,
            Course::Leave,
        ),
        Case("unfit", Some(&prefetch), None, false, false, Course::Leave),
        Case("gone everywhere", None, None, false, true, Course::Leave),
        Case(
            "the same",
            Some(&known),
            Some((&known, false)),
            false,
            true,
            Course::Leave,
        ),
        Case(
            "newer",
            Some(&newer),
            Some((&known, false)),
            false,
            true,
            Course::Update,
        ),
        Case(
            "newer, coming",
            Some(&newer),
            Some((&known, false)),
            true,
            true,
            Course::Leave,
        ),
        Case(
            "newer here",
            Some(&newer),
            Some((&known, true)),
            false,
            true,
            Course::Leave,
        ),
        Case(
            "one node's",
            Some(&newer),
            Some((&alone, false)),
            false,
            true,
            Course::Leave,
        ),
        Case(
            "removed",
            None,
            Some((&known, false)),
            false,
            true,
            Course::Remove,
        ),
        Case(
            "removed, newer here",
            None,
            Some((&known, true)),
            false,
            true,
            Course::Leave,
        ),
    ];
    for Case(case, record, own, is_coming, may_run, expected) in cases {
        let entry = entry_of(record, 1, 2, false);
        let own = own.map(|(spec, is_untold)| Own { spec, is_untold });
        assert_eq!(
            course(&entry, own, is_coming, || may_run),
            expected,
            "{case}"
        );
    }
}

fn pins(wishes: &[Wish]) -> usize {
    let pins = wishes.iter().filter(|wish| matches!(wish, Wish::Pin(..)));
    pins.count()
}

#[test]
fn code_is_kept_as_long_as_it_is_this_nodes_to_keep_and_a_while_longer() {
    let mut replication = Replication::new(id(OWN), at(0));
    let everybody = members(&[OWN, 2]);
    replication.members(&everybody);
    replication.record(&name(7), Some(&entry(7, 2, 2)));
    let tend = |replication: &mut Replication, seconds| {
        let mut wishes = Vec::new();
        replication.tend(at(seconds), &mut wishes);
        wishes
    };
    assert_eq!(tend(&mut replication, 0), [Wish::Pin(name(7), code(7))]);
    // It is under way, then fails, then succeeds.
    assert_eq!(tend(&mut replication, 1), []);
    replication.pinned(code(7).artifact(), false, at(2));
    assert_eq!(pins(&tend(&mut replication, 3)), 1);
    replication.pinned(code(7).artifact(), true, at(4));
    assert_eq!(tend(&mut replication, 50), []);
    // The record goes.
    replication.record(&name(7), None);
    let before = 50 + UNWANTED_KEPT_FOR.as_secs() - 1;
    assert_eq!(tend(&mut replication, before), []);
    let unpin = Wish::Unpin(code(7).artifact());
    assert_eq!(tend(&mut replication, before + 1), [unpin]);
    assert_eq!(tend(&mut replication, before + 2), []);
}

#[test]
fn no_more_code_is_fetched_to_be_kept_at_once_than_a_node_takes() {
    let mut replication = Replication::new(id(OWN), at(0));
    replication.members(&members(&[OWN]));
    for number in 0..40 {
        replication.record(&name(number.into()), Some(&entry(number, 2, 1)));
    }
    let mut wishes = Vec::new();
    replication.tend(at(0), &mut wishes);
    replication.tend(at(1), &mut wishes);
    assert_eq!(pins(&wishes), PINNINGS_MAX);
    let asked = replication.pin(code(99).artifact(), at(1));
    assert_eq!(asked, Pinning::Full);
    replication.pinned(code(0).artifact(), true, at(2));
    assert_eq!(replication.pin(code(0).artifact(), at(2)), Pinning::Kept);
    assert_eq!(
        replication.pin(code(1).artifact(), at(2)),
        Pinning::UnderWay
    );
    assert_eq!(replication.pin(code(99).artifact(), at(2)), Pinning::Begin);
    // A node on its way out keeps nothing more.
    replication.members(&members(&[2]));
    let mut wishes = Vec::new();
    replication.tend(at(3), &mut wishes);
    assert_eq!(wishes, []);
}

#[test]
fn of_many_records_more_are_asked_for_as_long_as_some_come() {
    let mut replication = Replication::new(id(OWN), at(20));
    let mut wishes = Vec::new();
    replication.tick(at(20), 0, &mut wishes);
    assert_eq!(
        (wishes, replication.next_event()),
        (vec![Wish::Reconcile], at(40))
    );
    let tick = |replication: &mut Replication, seconds, known| {
        let mut wishes = Vec::new();
        replication.tick(at(seconds), known, &mut wishes);
        wishes
    };
    replication.differed(id(2), 5, at(22));
    assert_eq!(replication.next_event(), at(23));
    assert_eq!(tick(&mut replication, 22, 9), []);
    assert_eq!(tick(&mut replication, 23, 9), [Wish::Ask(id(2))]);
    assert_eq!(tick(&mut replication, 24, 9), []);
    replication.differed(id(2), 9, at(24));
    assert_eq!(tick(&mut replication, 25, 9), []);
    assert_eq!(tick(&mut replication, 40, 9), [Wish::Reconcile]);
    assert_eq!(replication.next_event(), at(60));
}

#[test]
fn in_place_of_who_cannot_keep_code_the_next_is_asked() {
    let entry = entry(7, OWN, 3);
    let everybody = members(&[OWN, 2, 3, 4, 5]);
    let ranked = keepers(&entry, &everybody);
    assert_eq!((ranked.len(), ranked[0]), (3, id(OWN)));
    let mut settling = Settling::new(id(OWN), everybody);
    let first = settling.next(&entry).expect("it begins");
    assert_eq!(first, ranked[1..]);
    assert!(!settling.came(&[true, false]));
    assert_eq!(settling.kept(), 2);
    let second = settling.next(&entry).expect("it goes on");
    assert!(second.contains(&first[0]) && !second.contains(&first[1]));
    assert!(settling.came(&[true, true]));
    assert_eq!(settling.kept(), 3);
    // However many fail, it ends.
    let mut settling = Settling::new(id(OWN), members(&(0..40).collect::<Vec<u8>>()));
    let rounds = std::iter::from_fn(|| {
        let asked = settling.next(&entry)?;
        settling.came(&vec![false; asked.len()]);
        Some(())
    });
    assert_eq!(rounds.count(), HOLDERS_MAX);
}

/// Whether `own` keeps code, by ranking everybody.
fn keeps(entry: &Entry, members: &Members) -> bool {
    keepers(entry, members).contains(&id(OWN))
}

#[derive(Debug, Clone)]
enum Fact {
    Members(Vec<(u8, bool)>),
    Record(u8, u8, u8, bool),
    Gone(u8),
}

fn fact() -> impl Strategy<Value = Fact> {
    let members = prop::collection::vec((1..12_u8, any::<bool>()), 0..12);
    prop_oneof![
        members.prop_map(Fact::Members),
        (0..6_u8, 1..12_u8, 1..5_u8, any::<bool>())
            .prop_map(|(a, b, c, d)| Fact::Record(a, b, c, d)),
        (0..6_u8).prop_map(Fact::Gone),
    ]
}

proptest! {
    #[test]
    fn what_is_kept_up_is_what_ranking_everybody_gives(facts in prop::collection::vec(fact(), 0..40)) {
        let mut holdings = Holdings::new(id(OWN));
        let mut everybody = Members::default();
        let mut records: BTreeMap<FunctionName, Entry> = BTreeMap::new();
        for fact in facts {
            match fact {
                Fact::Members(numbers) => {
                    let numbers = numbers.into_iter();
                    let facts = numbers.map(|(number, near)| (id(number), near));
                    everybody = everybody.renewed(facts);
                    holdings.members(&everybody);
                }
                Fact::Record(number, writer, copies, topic) => {
                    let spec = FunctionSpec { copies, ..spec(number) };
                    let entry = entry_of(Some(&spec), number, writer, topic);
                    holdings.record(&name(number.into()), Some(&entry));
                    records.insert(name(number.into()), entry);
                }
                Fact::Gone(number) => {
                    holdings.record(&name(number.into()), None);
                    records.remove(&name(number.into()));
                }
            }
            let kept = holdings.kept().map(|(name, _)| name.clone());
            let kept: BTreeSet<FunctionName> = kept.collect();
            let expected = records.iter().filter(|(_, entry)| keeps(entry, &everybody));
            let expected: BTreeSet<FunctionName> = expected.map(|(name, _)| name.clone()).collect();
            prop_assert_eq!(kept, expected);
        }
    }

    #[test]
    fn never_more_keep_code_than_there_are_to_be_copies_and_all_agree(
        numbers in prop::collection::vec(1..40_u8, 0..30), writer in 1..40_u8, copies in 0..20_u8,
        turn in 0..30_usize,
    ) {
        let entry = entry(3, writer, copies);
        let mut turned = numbers.clone();
        turned.rotate_left(turn % numbers.len().max(1));
        let kept = keepers(&entry, &members(&numbers));
        let distinct: BTreeSet<&PeerId> = kept.iter().collect();
        let all: BTreeSet<u8> = numbers.into_iter().collect();
        let most = usize::from(copies.clamp(1, FunctionSpec::MOST_COPIES)).min(all.len());
        prop_assert_eq!(kept.len(), most);
        prop_assert_eq!(distinct.len(), most);
        prop_assert_eq!(&keepers(&entry, &members(&turned)), &kept);
        prop_assert!(!all.contains(&writer) || kept.first() == Some(&id(writer)));
    }

    #[test]
    fn letting_go_takes_only_what_was_brought_and_the_least_used_of_it(
        brought in prop::collection::btree_map(0..30_u32, 0..2_000_u64, 0..20),
        now in 0..3_000_u64, guests in any::<bool>(),
    ) {
        let mut replication = Replication::new(id(OWN), at(0));
        for (number, used) in &brought {
            replication.used(&name(*number), Some(0), at(*used));
        }
        let sake = if guests { Sake::Guests } else { Sake::Own };
        let mut left = brought.clone();
        while let Some(gone) = replication.let_go(1.0, sake, at(now), |_| Some(0)) {
            let number = left.keys().find(|number| name(**number) == gone).copied();
            let used = number.and_then(|number| left.remove(&number));
            let used = used.expect("it was brought");
            prop_assert!(left.values().all(|other| *other >= used));
            prop_assert!(!guests || now.saturating_sub(used) >= IN_USE.as_secs());
        }
        let stays = |used: &&u64| !guests || now.saturating_sub(**used) >= IN_USE.as_secs();
        prop_assert_eq!(left.values().filter(stays).count(), 0);
    }

    #[test]
    fn popular_functions_are_in_the_order_of_what_is_counted_call_by_call(
        calls in prop::collection::vec((0..5_u32, 0..900_u64), 0..60),
    ) {
        let mut popularity = Popularity::of_at_most(9);
        let mut when: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        let mut now = 0;
        for (number, later) in calls {
            now += later;
            popularity.called(&name(number), at(now));
            when.entry(number).or_default().push(now);
        }
        for (number, calls) in when {
            let weigh = |then: &u64| (-((now - then) as f64) / HALF_LIFE.as_secs_f64()).exp2();
            let expected: f64 = calls.iter().map(weigh).sum();
            let counted = popularity.count(&name(number), at(now));
            prop_assert!((counted - expected).abs() < 1e-6 * expected.max(1.0));
        }
    }
}

#[test]
fn code_goes_to_its_writer_and_to_whom_all_agree_on() {
    let everybody = members(&(1..=9).collect::<Vec<u8>>());
    let mut kept = BTreeMap::<PeerId, usize>::new();
    for number in 0..90 {
        let [one, two] = keepers(&entry(number, 1, 2), &everybody)[..] else {
            panic!("two keep it");
        };
        assert_eq!(one, id(1));
        *kept.entry(two).or_default() += 1;
        // Who is gone keeps nothing.
        let mut left = everybody.clone();
        left.leave_out(&[two]);
        assert!(!keepers(&entry(number, 1, 2), &left).contains(&two));
    }
    // All have their share.
    assert_eq!(kept.len(), 8);
    assert!(
        kept.values().all(|count| (2..30).contains(count)),
        "{kept:?}"
    );
    assert_eq!(keepers(&entry(1, 1, 2), &members(&[1])), [id(1)]);
    let removed = Arc::new(entry_of(None, 1, 1, false));
    assert!(keepers(&removed, &everybody).is_empty());
}
