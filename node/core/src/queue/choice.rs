//! Who goes next: the call whose turn it is among those that fit, here or
//! elsewhere.

use crate::pool::FunctionKey;
use crate::slab::{Key, Slab};
use crate::time::Time;

use super::lanes::{Class, Lane, LaneId, State, number};
use super::turns::{BothWays, Way};
use super::{Entry, Queue, Waited};

/// Lanes of a class that are looked at behind a head that does not fit: enough
/// to keep the node busy beside one large function, few enough that a release
/// costs little however many functions wait.
pub const LOOK_AHEAD: usize = 8;

/// Times that a head is passed over before it holds everything back. More
/// keeps the node busier; fewer bounds a large call's wait more tightly.
pub const PASSED_OVER: u32 = 32;

/// Calls that are asked about one place elsewhere: each is a few looks into
/// maps, and all of them together a few microseconds under a lock.
pub const ASKED: usize = 64;

/// Which lane is being judged in [`Queue::pick`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The oldest of the class whose turn it is.
    Turn,
    /// The oldest of another class, or a patient one.
    Head,
    /// One behind an older one that does not fit.
    Behind,
}

/// The judgement on a lane's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It can run now.
    Runs,
    /// Its own function must move first; [`Queue::wake`] says when it did.
    Asleep,
    /// It is served by its own instances; it would take one more place.
    Patient,
    /// It lacks resources.
    Short,
}

/// What a choice needs meanwhile; kept so that it allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Classes in the order of their turn.
    order: Vec<usize>,
    /// Lanes whose turn it was and that did not fit.
    passed_over: Vec<LaneId>,
    /// Lanes that contend for nothing any more.
    rests: Vec<(usize, State)>,
    way: Way,
    both: BothWays,
}

impl<T> Queue<T> {
    /// Takes out the call that goes next, or none when no call fits. `judge`
    /// is asked about the heads of lanes in the order of their turn.
    pub fn pick(
        &mut self,
        now: Time,
        mut judge: impl FnMut(FunctionKey, Look) -> Fit,
    ) -> Option<Waited<T>> {
        let Queue {
            classes, scratch, ..
        } = self;
        scratch.passed_over.clear();
        scratch.order.clear();
        let contends = |class: &usize| !classes[*class].contending.is_empty();
        scratch.order.extend((0..classes.len()).filter(contends));
        let turn = |class: &usize| (classes[*class].pass, *class);
        scratch.order.sort_unstable_by_key(turn);
        let at = self.choose(&mut judge)?;
        for &at in &self.scratch.passed_over {
            let lane = &mut self.classes[at.class].lanes[at.number];
            lane.passed_over += 1;
            if lane.passed_over >= PASSED_OVER {
                self.starved.get_or_insert(at);
            }
        }
        let lane = &self.classes[at.class].lanes[at.number];
        let key = next_of(lane, &self.entries, now);
        Some(self.serve(key.expect("a chosen lane has a call")))
    }

    /// Takes out the first call that `ask` says goes to a place elsewhere. It is
    /// asked about the next calls of all lanes in the order of their turn, at
    /// most [`ASKED`].
    pub fn offer(&mut self, now: Time, mut ask: impl FnMut(&T) -> bool) -> Option<Waited<T>> {
        let Queue {
            classes,
            entries,
            scratch,
            pass,
            ..
        } = self;
        scratch.order.clear();
        let has_lanes = |class: &Class| !class.contending.is_empty() || !class.resting.is_empty();
        let has_lanes = |class: &usize| has_lanes(&classes[*class]);
        scratch.order.extend((0..classes.len()).filter(has_lanes));
        // One that contended for nothing here has saved no credit.
        let turn = |class: &usize| (classes[*class].pass.max(*pass), *class);
        scratch.order.sort_unstable_by_key(turn);
        let chosen = choose_elsewhere(classes, entries, scratch, now, &mut ask)?;
        let class = self.entry(chosen).seat.class;
        self.classes[class].pass = self.classes[class].pass.max(self.pass);
        Some(self.serve(chosen))
    }

    /// Takes out a call in its turn.
    fn serve(&mut self, key: Key) -> Waited<T> {
        let entry = self.entry(key);
        let (function, seat) = (entry.function, entry.seat);
        self.forgive(LaneId {
            class: seat.class,
            number: number(function, seat.kind),
        });
        let class = &mut self.classes[seat.class];
        self.pass = class.pass;
        class.pass += class.stride;
        class.charge(function.index(), |shares, at| shares.serve(at, seat.cost));
        self.take(key)
    }

    fn choose(&mut self, judge: &mut impl FnMut(FunctionKey, Look) -> Fit) -> Option<LaneId> {
        if let Some(at) = self.starved {
            match judge(self.classes[at.class].function_at(at.number), Look::Turn) {
                Fit::Runs => return Some(at),
                Fit::Short => return None,
                Fit::Asleep | Fit::Patient => self.forgive(at),
            }
        }
        let mut turn = Look::Turn;
        for at in 0..self.scratch.order.len() {
            let class = self.scratch.order[at];
            let of = &self.classes[class];
            let chosen = choose_contending(class, of, &mut turn, &mut self.scratch, judge);
            while let Some((number, state)) = self.scratch.rests.pop() {
                self.set_state(LaneId { class, number }, state);
            }
            if chosen.is_some() {
                return chosen;
            }
        }
        self.choose_patient(judge)
    }

    /// What the others left goes to lanes that would like one more instance.
    fn choose_patient(
        &mut self,
        judge: &mut impl FnMut(FunctionKey, Look) -> Fit,
    ) -> Option<LaneId> {
        let mut look = Look::Head;
        for class in 0..self.classes.len() {
            for _ in 0..self.classes[class].patient.len().min(LOOK_AHEAD) {
                let Some(number) = self.next_patient(class) else {
                    break;
                };
                let at = LaneId { class, number };
                match judge(self.classes[class].function_at(number), look) {
                    Fit::Runs => return Some(at),
                    Fit::Asleep => self.set_state(at, State::Asleep),
                    Fit::Patient => {}
                    Fit::Short => self.set_state(at, State::Contending),
                }
                look = Look::Behind;
            }
        }
        None
    }

    fn next_patient(&mut self, class: usize) -> Option<usize> {
        let class = &mut self.classes[class];
        class.patient_last = class.patient.after(class.patient_last);
        class.patient_last
    }

    /// Whether a head was passed over so often that nobody goes before it.
    #[cfg(test)]
    pub(crate) fn is_held_back(&self) -> bool {
        self.starved.is_some()
    }
}

/// Looks through the contending lanes of one class.
fn choose_contending(
    class: usize,
    of: &Class,
    turn: &mut Look,
    scratch: &mut Scratch,
    judge: &mut impl FnMut(FunctionKey, Look) -> Fit,
) -> Option<LaneId> {
    let mut short = 0;
    scratch.way.begin();
    while short <= LOOK_AHEAD {
        let (_, number) = scratch.way.next(&of.contending)?;
        let look = if short == 0 { *turn } else { Look::Behind };
        match judge(of.function_at(number), look) {
            Fit::Runs => return Some(LaneId { class, number }),
            Fit::Asleep => scratch.rests.push((number, State::Asleep)),
            Fit::Patient => scratch.rests.push((number, State::Patient)),
            Fit::Short => {
                if short == 0 {
                    scratch.passed_over.push(LaneId { class, number });
                    *turn = Look::Head;
                }
                short += 1;
            }
        }
    }
    None
}

fn choose_elsewhere<T>(
    classes: &[Class],
    entries: &Slab<Entry<T>>,
    scratch: &mut Scratch,
    now: Time,
    ask: &mut impl FnMut(&T) -> bool,
) -> Option<Key> {
    let mut asked = 0;
    for &class in &scratch.order {
        let Class {
            contending,
            resting,
            lanes,
            ..
        } = &classes[class];
        scratch.both.begin([contending, resting]);
        while let Some(number) = scratch.both.next([contending, resting]) {
            let lane = &lanes[number];
            let mut next = next_of(lane, entries, now);
            let newest_first = next != lane.head;
            // Not all calls of a lane may go to the same peers.
            for _ in 0..LOOK_AHEAD {
                let Some(key) = next else {
                    break;
                };
                if asked == ASKED {
                    return None;
                }
                asked += 1;
                let entry = entries.get(key)?;
                if ask(&entry.token) {
                    return Some(key);
                }
                next = if newest_first {
                    entry.before
                } else {
                    entry.after
                };
            }
        }
    }
    None
}

/// Which call of a lane goes next: its oldest, or its newest while the oldest is
/// late.
fn next_of<T>(lane: &Lane, entries: &Slab<Entry<T>>, now: Time) -> Option<Key> {
    let head = lane.head?;
    match entries.get(head)?.is_late(now) {
        true => lane.tail,
        false => Some(head),
    }
}
