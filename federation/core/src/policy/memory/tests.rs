use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::samples::{id, numbered};

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn function(number: usize) -> FunctionName {
    format!("f{number}").parse().expect("a name")
}

#[test]
fn each_function_class_and_destination_has_its_own_numbers() {
    let memory = Memory::<2>::new(1_024);
    let gold = ClassKey::of(Some("gold"));
    let all = [
        Which::NODE,
        Which::of(&function(1)),
        Which::of(&function(1)).class(gold),
        Which::of(&function(1)).at(None),
        Which::of(&function(1)).at(Some(&id(1))),
        Which::of(&function(1)).class(gold).at(Some(&id(1))),
        Which::of(&function(2)).class(gold).at(Some(&id(1))),
    ];
    assert!(all.iter().all(|which| memory.find(*which).is_none()));
    for (number, which) in all.iter().enumerate() {
        memory.entry(*which, at(1))[1].set(number as f64);
    }
    for (number, which) in all.iter().enumerate() {
        let cells = memory.find(*which).expect("it was written");
        assert_eq!(
            (cells[0].get(), cells[1].get()),
            (None, Some(number as f64))
        );
    }
    assert_eq!(memory.rows().count(), all.len());
    memory.forget(all[3]);
    assert!(memory.find(all[3]).is_none());
    assert_eq!(memory.rows().count(), all.len() - 1);
}

#[test]
fn a_full_table_forgets_what_was_written_longest_ago() {
    let memory = Memory::<1>::new(8);
    let which = |number: usize| Which::of(&function(number));
    for number in 0..8 {
        let seconds = u64::try_from(number).expect("few");
        memory.entry(which(number), at(seconds))[0].set(1.0);
    }
    memory.entry(which(0), at(9));
    let fresh = memory.entry(which(8), at(10));
    assert_eq!(fresh[0].get(), None, "a row that was another's is empty");
    assert!(memory.find(which(1)).is_none());
    assert!(memory.find(which(0)).is_some());
    assert_eq!(memory.rows().count(), memory.capacity());
}

#[test]
fn a_decision_writes_in_a_table_that_is_there() {
    let memory = Memory::<1>::new(8);
    assert!(memory.entry_if_open(Which::NODE, at(1)).is_none());
    memory.open();
    let cells = memory
        .entry_if_open(Which::NODE, at(1))
        .expect("there is a table");
    cells[0].set(3.0);
    assert_eq!(memory.entry(Which::NODE, at(1))[0].get(), Some(3.0));
}

#[test]
fn a_number_is_none_before_its_first_sample() {
    let cell = Cell::default();
    assert_eq!(cell.get(), None);
    assert_eq!(cell.blend(8.0, 0.25).to_bits(), 8.0_f64.to_bits());
    assert_eq!(cell.blend(4.0, 0.25).to_bits(), 7.0_f64.to_bits());
    assert_eq!(cell.add(-7.0).to_bits(), 0.0_f64.to_bits());
    cell.clear();
    assert_eq!(cell.add(2.0).to_bits(), 2.0_f64.to_bits());
    let least = |number: Option<f64>| number.map_or(1.0, |number| number.min(1.0));
    assert_eq!(cell.change(least).to_bits(), 1.0_f64.to_bits());
}

#[test]
fn what_is_saved_is_what_is_restored() {
    let memory = Memory::<3>::new(64);
    for number in 0..20_u32 {
        let which = Which::of(&function(1)).at(Some(&numbered(number)));
        memory.entry(which, at(u64::from(number)))[2].set(f64::from(number));
    }
    let saved = memory.save().expect("there are rows");
    let again = Memory::<3>::new(64);
    assert_eq!(again.restore(&saved, at(100)), Ok(()));
    for (which, cells) in memory.rows() {
        let restored = again.find(which).expect("it was saved");
        assert_eq!(
            (restored[0].get(), restored[2].get()),
            (cells[0].get(), cells[2].get())
        );
    }
    // A smaller one keeps the newest.
    let small = Memory::<3>::new(8);
    assert_eq!(small.restore(&saved, at(100)), Ok(()));
    assert!(
        small
            .find(Which::of(&function(1)).at(Some(&numbered(19))))
            .is_some()
    );
    assert_eq!(Memory::<3>::new(8).save(), None);
    assert_eq!(Memory::<2>::new(8).restore(&saved, at(1)), Err(Malformed));
    assert_eq!(again.restore(&saved[1..], at(1)), Err(Malformed));
    assert_eq!(again.restore(&[], at(1)), Err(Malformed));
}

#[test]
fn what_is_saved_is_bounded() {
    let memory = Memory::<8>::new(1 << 13);
    for number in 0..6_000_u32 {
        memory.entry(Which::NODE.at(Some(&numbered(number))), at(1))[0].set(1.0);
    }
    let saved = memory.save().expect("there are rows");
    assert!(saved.len() <= SAVED_BYTES_MAX && saved.len() > SAVED_BYTES_MAX - 200);
    assert_eq!(memory.restore(&saved, at(2)), Ok(()));
}

#[test]
fn a_plan_is_there_once_it_is_published() {
    let plan = Plan::default();
    assert!(plan.current().is_none());
    plan.publish([0.25, 0.75]);
    let held = plan.current();
    plan.publish([1.0, 0.0]);
    assert_eq!(
        held.as_deref(),
        Some(&[0.25, 0.75]),
        "who reads it keeps it"
    );
    assert_eq!(plan.current().as_deref(), Some(&[1.0, 0.0]));
}

proptest! {
    #[test]
    fn whatever_was_kept_breaks_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        begins_well in any::<bool>(),
    ) {
        let mut saved = Vec::new();
        if begins_well {
            saved.extend(FORMAT.to_le_bytes());
            saved.extend(2_u64.to_le_bytes());
        }
        saved.extend(bytes);
        let memory = Memory::<2>::new(8);
        let _ = memory.restore(&saved, at(1));
        prop_assert!(memory.rows().count() <= memory.capacity());
        for (_, cells) in memory.rows() {
            prop_assert!(cells.iter().all(|cell| cell.get().is_none_or(f64::is_finite)));
        }
    }
}
