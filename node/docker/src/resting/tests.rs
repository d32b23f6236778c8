use std::cell::Cell;
use std::rc::Rc;

use super::*;

/// How a connection stands, and how often the system was asked.
#[derive(Clone)]
struct Probe {
    name: &'static str,
    open: bool,
    usable: bool,
    asked: Rc<Cell<u32>>,
}

impl Connection for Probe {
    fn is_open(&self) -> bool {
        self.open
    }

    fn is_usable(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.open && self.usable
    }
}

const ONE: Thread = Thread(1);
const TWO: Thread = Thread(2);
/// Shares its list with [`ONE`].
const FAR: Thread = Thread(1 + SHELVES as u32);

/// One that lives.
const LIVES: (bool, bool) = (true, true);
/// One that its server has closed, as only the system knows.
const CLOSED: (bool, bool) = (true, false);
/// One whose end was read.
const ENDED: (bool, bool) = (false, false);

/// What rests: name, whose it is, when it was used last in milliseconds; `None`
/// for one that was never used, made at the beginning; how it stands.
type Rests = (&'static str, Thread, Option<u64>, (bool, bool));

struct Table {
    resting: Resting<Probe>,
    began: Instant,
    asked: Rc<Cell<u32>>,
}

impl Table {
    fn new(all: &[Rests]) -> Table {
        let table = Table {
            resting: Resting::default(),
            began: Instant::now(),
            asked: Rc::default(),
        };
        for (name, thread, used, (open, usable)) in all.iter().copied() {
            let asked = table.asked.clone();
            let probe = Probe {
                name,
                open,
                usable,
                asked,
            };
            match used {
                Some(at) => table.resting.put_back(probe, thread, table.at(at)),
                None => table.resting.add_unused(probe, thread, table.began),
            }
        }
        table
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.began + Duration::from_millis(milliseconds)
    }

    /// What a thread takes then.
    fn take(&self, here: Thread, at: u64, may_dial: bool) -> Option<&'static str> {
        let taken = self.resting.take(here, self.at(at), may_dial);
        taken.map(|(probe, _)| probe.name)
    }
}

/// What a thread takes after 100 ms, and how often that asked the system.
#[track_caller]
fn check(all: &[Rests], here: Thread, may_dial: bool, expected: (Option<&str>, u32)) {
    let table = Table::new(all);
    let taken = table.take(here, 100, may_dial);
    assert_eq!((taken, table.asked.get()), expected);
}

#[test]
fn a_thread_takes_its_own_before_one_that_was_used_later() {
    let all = [
        ("mine", ONE, Some(90), LIVES),
        ("theirs", TWO, Some(99), LIVES),
    ];
    check(&all, ONE, true, (Some("mine"), 0));
    check(&all, TWO, true, (Some("theirs"), 0));
}

#[test]
fn of_its_own_a_thread_takes_the_one_used_last() {
    let all = [
        ("early", ONE, Some(90), LIVES),
        ("late", ONE, Some(99), LIVES),
    ];
    check(&all, ONE, true, (Some("late"), 0));
}

#[test]
fn threads_that_share_a_list_find_their_own_in_it() {
    let all = [
        ("mine", ONE, Some(90), LIVES),
        ("far", FAR, Some(99), LIVES),
    ];
    check(&all, ONE, true, (Some("mine"), 0));
    check(&all, FAR, true, (Some("far"), 0));
}

#[test]
fn a_thread_without_one_takes_one_of_another_after_a_look() {
    check(
        &[("theirs", TWO, Some(99), LIVES)],
        ONE,
        true,
        (Some("theirs"), 1),
    );
    check(
        &[("far", FAR, Some(99), LIVES)],
        ONE,
        true,
        (Some("far"), 1),
    );
    check(&[("theirs", TWO, Some(99), CLOSED)], ONE, true, (None, 1));
    check(&[], ONE, true, (None, 0));
    check(&[], ONE, false, (None, 0));
}

#[test]
fn within_20_ms_of_its_last_use_a_connection_is_not_looked_at() {
    check(
        &[("mine", ONE, Some(81), LIVES)],
        ONE,
        true,
        (Some("mine"), 0),
    );
    check(
        &[("mine", ONE, Some(80), LIVES)],
        ONE,
        true,
        (Some("mine"), 1),
    );
    check(&[("mine", ONE, Some(80), CLOSED)], ONE, true, (None, 1));
    // What was read already counts all the same.
    check(&[("mine", ONE, Some(99), ENDED)], ONE, true, (None, 0));
}

#[test]
fn one_that_was_never_used_is_looked_at() {
    check(&[("new", ONE, None, LIVES)], ONE, true, (Some("new"), 1));
    check(&[("new", ONE, None, CLOSED)], ONE, true, (None, 1));
}

#[test]
fn one_that_waits_for_its_first_call_is_given_up_soon_where_others_can_be_made() {
    let table = Table::new(&[("new", ONE, None, LIVES), ("newer", ONE, None, LIVES)]);
    assert_eq!(table.take(ONE, 100, true), Some("newer"));
    assert_eq!(table.take(ONE, 101, true), None);
    let table = Table::new(&[("new", ONE, None, LIVES)]);
    assert_eq!(table.take(ONE, 10_000, false), Some("new"));
}

#[test]
fn one_that_is_closed_shortens_the_time_that_others_are_used() {
    let table = Table::new(&[
        ("old", ONE, Some(0), LIVES),
        ("closed", ONE, Some(1), CLOSED),
    ]);
    assert_eq!(table.take(ONE, 100, true), None);
    let table = Table::new(&[
        ("old", ONE, Some(0), LIVES),
        ("closed", ONE, Some(1), CLOSED),
    ]);
    // Without another way it is tried nevertheless.
    assert_eq!(table.take(ONE, 100, false), Some("old"));
}

#[test]
fn a_server_that_closed_one_soon_has_each_looked_at() {
    let all = [
        ("first", ONE, Some(97), CLOSED),
        ("second", ONE, Some(98), LIVES),
        ("third", ONE, Some(99), LIVES),
    ];
    let table = Table::new(&all);
    assert_eq!(table.take(ONE, 100, true), Some("third"));
    assert_eq!(table.asked.get(), 0);
    // It was found closed when a call was sent on it.
    table.resting.idle_time.closed(Duration::from_millis(1));
    assert_eq!(table.take(ONE, 100, true), Some("second"));
    assert_eq!(table.take(ONE, 100, true), None);
    assert_eq!(table.asked.get(), 2);
}

#[test]
fn what_is_cleared_is_gone() {
    let table = Table::new(&[("one", ONE, Some(99), LIVES), ("two", TWO, Some(99), LIVES)]);
    table.resting.clear();
    assert_eq!(table.take(ONE, 100, false), None);
}

#[test]
fn each_thread_has_a_number_of_its_own() {
    let here = Thread::here();
    assert_eq!(Thread::here(), here);
    let there = std::thread::spawn(Thread::here).join();
    assert_ne!(there.expect("no panic"), here);
}
