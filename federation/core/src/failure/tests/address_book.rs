//! Whom the address book tries, and whom it forgets.

use super::*;
use crate::failure::address_book::{ADDRESSES_MAX, AddressBook, ENTRIES_MAX, FEW, Saved};
use crate::samples::numbered;

const HOUR: u64 = 3_600;

/// A book that is full of members of far places, which were seen at `seen`.
fn full(seen: u64) -> AddressBook {
    let mut book = AddressBook::default();
    for number in 0..ENTRIES_MAX as u32 {
        book.note(numbered(number), &["/a"], false, seen);
    }
    book
}

#[test]
fn what_is_noted_is_found_and_the_newest_comes_first() {
    let mut book = AddressBook::default();
    book.note(id(1), &["/a"], true, 1);
    book.note(id(1), &["/b"], true, 2);
    assert_eq!(book.addresses(&id(1)), ["/b", "/a"]);
    book.forget(&id(1));
    assert!(book.is_empty());
    assert_eq!(book.addresses(&id(1)), [""; 0]);
}

#[test]
fn one_member_has_so_many_addresses() {
    let mut book = AddressBook::default();
    let all: Vec<String> = (0..100).map(|n| format!("/{n}")).collect();
    book.note(id(1), &all, true, 1);
    assert_eq!(book.addresses(&id(1)).len(), ADDRESSES_MAX);
    book.note::<&str>(id(2), &[], true, 1);
    assert_eq!(book.len(), 1);
}

#[test]
fn a_full_book_takes_a_newcomer_for_the_one_that_gives_way() {
    let now = 100 * HOUR;
    // (who is in it, the newcomer is near, it was seen, it is taken)
    let cases = [
        ("all of them here", now, false, now, false),
        ("all of them here, and it is near", now, true, now, true),
        ("not seen for long", now - HOUR, false, now, true),
        ("seen a while ago", now - HOUR + 1, false, now, false),
        ("seen after it", now + HOUR, false, now, false),
    ];
    for (what, seen, near, newly, taken) in cases {
        let mut book = full(seen);
        book.note(id(1), &["/new"], near, newly);
        assert_eq!(book.len(), ENTRIES_MAX, "{what}");
        assert_eq!(!book.addresses(&id(1)).is_empty(), taken, "{what}");
    }
}

#[test]
fn members_of_near_places_are_forgotten_last() {
    let mut book = full(1);
    book.note(id(1), &["/near"], true, 1);
    for number in 10_000..10_000 + 2 * ENTRIES_MAX as u32 {
        book.note(numbered(number), &["/far"], false, 100 * HOUR);
    }
    assert_eq!(book.addresses(&id(1)), ["/near"]);
    assert_eq!(book.len(), ENTRIES_MAX);
    // A whole zone of members is as many as fit, and they stay.
    for number in 20_000..20_000 + 4 * ENTRIES_MAX as u32 {
        book.note(numbered(number), &["/near"], true, 100 * HOUR);
    }
    assert_eq!(book.len(), ENTRIES_MAX);
    book.unsaved();
    for number in 20_000..20_000 + 4 * ENTRIES_MAX as u32 {
        book.note(numbered(number), &["/near"], true, 100 * HOUR);
    }
    assert_eq!(book.unsaved(), None, "members take turns");
}

#[test]
fn the_one_seen_longest_ago_is_forgotten_first() {
    let mut book = AddressBook::default();
    for number in 0..ENTRIES_MAX as u32 {
        book.note(numbered(number), &["/a"], false, HOUR * u64::from(number));
    }
    // Seen again, it is not the first any more.
    let now = HOUR * ENTRIES_MAX as u64;
    book.note(numbered(0), &["/a"], false, now);
    book.note(id(1), &["/new"], false, now);
    assert!(book.addresses(&numbered(1)).is_empty());
    assert!(!book.addresses(&numbered(0)).is_empty());
}

#[test]
fn only_what_changed_is_written_down() {
    let mut book = AddressBook::default();
    assert_eq!(book.unsaved(), None);
    book.note(id(1), &["/a"], true, 1);
    let saved = book.unsaved().expect("it changed");
    assert_eq!(saved[&id(1)].addresses, ["/a"]);
    assert_eq!(book.unsaved(), None);
    // That it was seen again is no reason to write.
    book.note(id(1), &["/a"], true, 1_000);
    assert_eq!(book.unsaved(), None);
    book.not_saved();
    assert!(book.unsaved().is_some());
    book.forget(&id(2));
    assert_eq!(book.unsaved(), None);
    book.forget(&id(1));
    assert_eq!(book.unsaved(), Some([].into()));
}

#[test]
fn what_was_written_down_is_taken_up_within_the_bounds() {
    let saved = |number: u32| Saved {
        addresses: vec!["/a".to_owned(); 20],
        seen: u64::from(number),
    };
    let all = (0..2 * ENTRIES_MAX as u32).map(|number| (numbered(number), saved(number)));
    let mut book = AddressBook::restored(all);
    assert_eq!(book.len(), ENTRIES_MAX);
    assert_eq!(book.unsaved(), None);
    let due = book.due(at(0));
    assert_eq!(due.len(), ENTRIES_MAX);
    assert!(book.addresses(&due[0]).len() <= ADDRESSES_MAX);
}

#[test]
fn few_members_count_each() {
    let mut book = AddressBook::default();
    for number in 0..FEW as u32 {
        book.note(numbered(number), &["/a"], true, 1);
        assert!(book.is_small());
    }
    book.note(id(1), &["/a"], true, 1);
    assert!(!book.is_small());
}

#[test]
fn who_was_dialled_waits_and_who_was_reached_does_not() {
    let mut book = AddressBook::default();
    book.note(id(1), &["/a"], true, 1);
    book.note(id(2), &["/a"], true, 1);
    book.dialled(&id(1), at(0), 0.5);
    assert_eq!(book.due(at(499)), [id(2)]);
    assert_eq!(book.due(at(500)), ids([1, 2]));
    book.dialled(&id(1), at(500), 0.5);
    assert_eq!(book.due(at(1_499)), [id(2)]);
    book.reached(&id(1));
    assert_eq!(book.due(at(501)), ids([1, 2]));
}
