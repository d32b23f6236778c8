//! Calls that wait: bounded per QoS class, in order, and shared by weight.
//!
//! Calls of one function, class and [`Kind`] form a **lane** and leave it in the
//! order they came. A lane is *asleep* while its function alone decides when it
//! goes on (all its instances are busy and it may have no more, or one is being
//! started); it costs nothing then, and nobody waits behind it. It *contends*
//! when it lacks what others could take from it: processor share or memory.
//! It is *patient* when it is served by instances of its own and would like
//! one more.
//!
//! **Share.** Among classes with contending lanes, [`Queue::pick`] serves by
//! stride scheduling (Waldspurger and Weihl, 1995): a class of weight `w` gets
//! `w` of every `W` picks, where `W` is the sum of the weights of those
//! classes, give or take one pick per class. A class that had nothing to
//! contend for saves no credit. Within a class the lanes of each namespace get
//! as much processor time as those of any other, and within a namespace those
//! of each function ([`share`]).
//!
//! **Look-ahead.** A contending head that does not fit lets up to
//! [`LOOK_AHEAD`] lanes behind it, and other classes, go first; after its lane
//! was passed over [`PASSED_OVER`] times in its turn, nobody goes before it, so
//! that what is released adds up to what it needs. That holds for the lane and
//! not for the call, or large calls that give up meanwhile would start again
//! for ever.
//!
//! **Too late for order.** Under load that lasts, first come, first served has
//! everybody wait until it is too late. A lane whose oldest call has used half
//! of its time serves the newest first, until it has not; the old ones are
//! served when the newest are, or leave. Calls that were accepted to be run
//! later have no such time, and stay in order.
//!
//! **Elsewhere.** A free place on another node is one more place:
//! [`Queue::offer`] has the same turns as [`Queue::pick`], over all lanes, as
//! whatever a lane waits for here is not what it waits for there.

mod choice;
mod expected;
mod give_ups;
mod heap;
mod lanes;
mod numbers;
pub(crate) mod share;
mod turns;

use crate::class::ClassConfig;
use crate::pool::FunctionKey;
use crate::slab::{Key, Slab};
use crate::time::Time;

use self::choice::Scratch;
use self::give_ups::{GiveUp, GiveUps};
use self::lanes::{Class, Lane, LaneId, State, number};

pub use self::choice::{ASKED, Fit, LOOK_AHEAD, Look, PASSED_OVER};

/// The part of its time after which a call is late: it may still be served, but
/// what comes now is more likely to be.
const LATE: u64 = 2;

/// A waiting call; finds nothing once the call has left the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(Key);

/// Whether somebody waits for the answer of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its caller does.
    Awaited,
    /// Nobody does: it was accepted to be run later.
    Accepted,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Awaited, Kind::Accepted];
}

/// Where a call stands in the queue, so that it can go back there after it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    pub(crate) class: usize,
    pub(crate) kind: Kind,
    pub(crate) arrived: Time,
    /// When it stops waiting for a place; [`Time::NEVER`] for no such moment.
    pub(crate) leave: Time,
    /// When it stops waiting for a start that is at hand; not before `leave`.
    pub(crate) end: Time,
    /// What it is charged when it goes, in nanoseconds of one core.
    pub(crate) cost: u64,
    sequence: u64,
}

impl Seat {
    /// When its call came.
    pub fn arrived(&self) -> Time {
        self.arrived
    }
}

/// A call that comes to wait.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// Its class, as an index into the configured ones.
    pub class: usize,
    /// Whether somebody waits for its answer.
    pub kind: Kind,
    /// When it came.
    pub arrived: Time,
    /// When it stops waiting for a place; [`Time::NEVER`] for no such moment.
    pub leave: Time,
    /// When it stops waiting for a start that is at hand; not before `leave`.
    pub end: Time,
    /// What it is expected to take, in nanoseconds of one core.
    pub cost: u64,
}

/// A call that left the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Waited<T> {
    /// What the shell left with it.
    pub token: T,
    /// The function it asks for.
    pub function: FunctionKey,
    /// When it came.
    pub arrived: Time,
    /// Whether it waited for a start that was at hand.
    pub promised: bool,
    /// Where it stood.
    pub seat: Seat,
}

/// A call that has waited as long as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub ticket: Ticket,
    /// The function it asks for.
    pub function: FunctionKey,
    /// Whether it may wait on for a start that is at hand.
    pub may_stay: bool,
}

#[derive(Debug)]
struct Entry<T> {
    token: T,
    function: FunctionKey,
    seat: Seat,
    /// Until when it waits as things are: `leave`, or `end` once promised.
    give_up: Time,
    /// A start is at hand for it.
    promised: bool,
    before: Option<Key>,
    after: Option<Key>,
}

impl<T> Entry<T> {
    /// Whether it has used half of the time that it may wait.
    fn is_late(&self, now: Time) -> bool {
        let since = |time: Time| {
            let arrived = self.seat.arrived;
            time.as_nanos().saturating_sub(arrived.as_nanos())
        };
        self.give_up != Time::NEVER
            && self.seat.kind == Kind::Awaited
            && since(now) >= since(self.give_up) / LATE
    }
}

/// All waiting calls of a node.
#[derive(Debug)]
pub struct Queue<T> {
    classes: Vec<Class>,
    entries: Slab<Entry<T>>,
    give_ups: GiveUps,
    sequence: u64,
    /// The pass of the class served last, before it was served.
    pass: u64,
    /// Lanes that contend.
    contending: usize,
    /// The lane that was passed over too often, until one of its calls is
    /// served.
    starved: Option<LaneId>,
    /// Kept between picks so that they allocate nothing.
    scratch: Scratch,
}

impl<T> Queue<T> {
    /// Makes an empty queue; `priority` is the weight of a class.
    pub fn new(classes: &[ClassConfig]) -> Self {
        Queue {
            classes: classes.iter().map(Class::new).collect(),
            entries: Slab::default(),
            give_ups: GiveUps::default(),
            sequence: 0,
            pass: 0,
            contending: 0,
            starved: None,
            scratch: Scratch::default(),
        }
    }

    /// Begins a namespace, whose number another may have had before.
    pub fn begin(&mut self, namespace: usize) {
        for class in &mut self.classes {
            class.shares.begin(namespace);
        }
    }

    /// Says to which namespace a new function belongs, by its number.
    pub fn add(&mut self, function: FunctionKey, namespace: usize) {
        for class in &mut self.classes {
            class.shares.add(function.index(), namespace);
        }
    }

    /// Puts what a call of a function took in the place of what it was charged
    /// when it went, both in nanoseconds of one core.
    pub fn correct(&mut self, function: FunctionKey, class: usize, charged: u64, took: u64) {
        self.classes[class].charge(function.index(), |shares, at| {
            shares.correct(at, charged, took)
        });
    }

    /// Calls that wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls of one class that wait.
    pub fn class_len(&self, class: usize) -> usize {
        self.classes[class].lengths.iter().sum()
    }

    /// Whether one class holds as many calls as it should. Those that were
    /// accepted to be run later have a bound of their own.
    pub fn is_full(&self, class: usize) -> bool {
        let class = &self.classes[class];
        class.lengths[Kind::Awaited as usize] >= class.most
    }

    /// Whether some lane lacks resources, so that a newcomer who took them
    /// would go before it.
    pub fn has_contenders(&self) -> bool {
        self.contending > 0
    }

    /// Whether a newcomer changes nothing for those who wait: whatever it lacks,
    /// the calls of its lane lack before it. Nor are there more patient lanes than
    /// are looked at each time.
    pub fn only_lengthens(&self, function: FunctionKey, class: usize, kind: Kind) -> bool {
        let lane = self.classes[class].lanes.get(number(function, kind));
        let few = |class: &Class| class.patient.len() <= LOOK_AHEAD;
        lane.is_some_and(|lane| lane.state != State::Asleep) && self.classes.iter().all(few)
    }

    /// Lanes that lack what others hold; not those that wait for their own
    /// function.
    pub fn lacking(&self) -> usize {
        let patient = self.classes.iter().map(|class| class.patient.len());
        self.contending + patient.sum::<usize>()
    }

    /// Calls of a function that a start is at hand for.
    pub fn promised(&self, function: FunctionKey) -> u32 {
        let lanes = self
            .classes
            .iter()
            .flat_map(|class| class.lanes_of(function));
        lanes.map(|(_, lane)| lane.promised).sum()
    }

    /// Puts a call at the end of its lane and wakes the lane, should it be
    /// asleep. The caller has looked at [`Queue::is_full`]. `promised` tells
    /// whether a start is at hand for it.
    pub fn push(
        &mut self,
        function: FunctionKey,
        waiting: Waiting,
        promised: bool,
        now: Time,
        token: T,
    ) -> Ticket {
        let Waiting {
            class,
            kind,
            arrived,
            leave,
            end,
            cost,
        } = waiting;
        let seat = Seat {
            class,
            kind,
            arrived,
            leave,
            end,
            cost,
            sequence: self.sequence,
        };
        self.sequence += 1;
        self.put_back(function, seat, promised, now, token)
    }

    /// Puts a call where it stood before it left, and wakes its lane, should it be
    /// asleep.
    pub fn put_back(
        &mut self,
        function: FunctionKey,
        seat: Seat,
        promised: bool,
        now: Time,
        token: T,
    ) -> Ticket {
        let number = number(function, seat.kind);
        let class = &mut self.classes[seat.class];
        class.make_lane(number);
        let Lane { head, tail, .. } = class.lanes[number];
        // Most come last, and those that were away were among the first, or
        // left a moment ago.
        let mut before = tail;
        while let Some(key) = before
            && self.entry(key).seat.sequence > seat.sequence
        {
            before = self.entry(key).before;
        }
        let after = match before {
            Some(before) => self.entry(before).after,
            None => head,
        };
        let give_up = if promised { seat.end } else { seat.leave };
        let key = self.entries.insert(Entry {
            token,
            function,
            seat,
            give_up,
            promised,
            before,
            after,
        });
        if let Some(before) = before {
            self.entry_mut(before).after = Some(key);
        }
        if let Some(after) = after {
            self.entry_mut(after).before = Some(key);
        }
        self.note_give_up(key, seat.sequence, give_up);
        self.lengthen(
            LaneId {
                class: seat.class,
                number,
            },
            key,
            now,
        );
        Ticket(key)
    }

    /// Takes note in its lane of a call that stands there.
    fn lengthen(&mut self, at: LaneId, key: Key, now: Time) {
        let &Entry {
            function,
            seat,
            promised,
            before,
            after,
            ..
        } = self.entry(key);
        let class = &mut self.classes[at.class];
        class.lengths[seat.kind as usize] += 1;
        let lane = &mut class.lanes[at.number];
        if lane.length == 0 {
            lane.function = Some(function);
            lane.since = now;
        }
        lane.length += 1;
        lane.promised += u32::from(promised);
        let state = lane.state;
        if before.is_none() {
            lane.head = Some(key);
        }
        if after.is_none() {
            lane.tail = Some(key);
        }
        class.contending_calls += usize::from(state == State::Contending);
        match (before, after) {
            (None, None) => {
                class.begin(at.number, seat.sequence, self.pass);
                self.contending += 1;
            }
            (None, Some(_)) => class.stand(at.number, seat.sequence),
            (Some(_), _) => {}
        }
        // One that is patient lacks as much as it did.
        if state == State::Asleep {
            self.set_state(at, State::Contending);
        }
    }

    /// Takes out a call that is no longer wanted; `None` when it has left.
    pub fn remove(&mut self, ticket: Ticket) -> Option<Waited<T>> {
        self.entries.get(ticket.0)?;
        Some(self.take(ticket.0))
    }

    /// Takes out the oldest call of a function, of whatever class.
    pub fn remove_oldest(&mut self, function: FunctionKey) -> Option<Waited<T>> {
        let lanes = self
            .classes
            .iter()
            .flat_map(|class| class.lanes_of(function));
        let heads = lanes.filter_map(|(_, lane)| lane.head);
        let oldest = heads.min_by_key(|key| self.entry(*key).seat.sequence)?;
        Some(self.take(oldest))
    }

    /// When the first call gives up.
    pub fn next_give_up(&self) -> Option<Time> {
        self.give_ups.first().map(|first| first.at)
    }

    /// The call that gave up first, by `now`. It is to be removed or
    /// [promised a start](Queue::promise).
    pub fn due(&self, now: Time) -> Option<Due> {
        let first = self.give_ups.first().filter(|first| first.at <= now)?;
        let entry = self.entry(first.call);
        Some(Due {
            ticket: Ticket(first.call),
            function: entry.function,
            may_stay: entry.seat.end > now,
        })
    }

    /// Has a call wait on for a start that is at hand for it.
    pub fn promise(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(ticket.0) else {
            return;
        };
        let (function, seat) = (entry.function, entry.seat);
        let old = std::mem::replace(&mut entry.give_up, seat.end);
        let again = std::mem::replace(&mut entry.promised, true);
        if old != seat.end {
            self.forget_give_up(ticket.0, seat.sequence, old);
            self.note_give_up(ticket.0, seat.sequence, seat.end);
        }
        let lane = &mut self.classes[seat.class].lanes[number(function, seat.kind)];
        lane.promised += u32::from(!again);
    }

    /// Has the lanes of a function judged again: a place became free, or an
    /// instance may start.
    pub fn wake(&mut self, function: FunctionKey) {
        for class in 0..self.classes.len() {
            for kind in Kind::ALL {
                let number = number(function, kind);
                let lane = self.classes[class].lanes.get(number);
                if lane.is_some_and(|lane| lane.head.is_some()) {
                    self.set_state(LaneId { class, number }, State::Contending);
                }
            }
        }
    }

    // How it is kept.

    fn entry(&self, key: Key) -> &Entry<T> {
        self.entries
            .get(key)
            .expect("lanes hold waiting calls only")
    }

    fn entry_mut(&mut self, key: Key) -> &mut Entry<T> {
        self.entries
            .get_mut(key)
            .expect("lanes hold waiting calls only")
    }

    /// Moves a lane that is not empty from one state to another.
    fn set_state(&mut self, at: LaneId, state: State) {
        let class = &mut self.classes[at.class];
        let before = class.contending_lanes;
        class.set_state(at.number, state, self.pass);
        self.contending = self.contending + class.contending_lanes - before;
    }

    /// Has a lane count anew how often it is passed over.
    fn forgive(&mut self, at: LaneId) {
        self.classes[at.class].lanes[at.number].passed_over = 0;
        if self.starved == Some(at) {
            self.starved = None;
        }
    }

    /// Unlinks one call; its lane keeps its state as long as it has calls.
    fn take(&mut self, key: Key) -> Waited<T> {
        let Entry {
            token,
            function,
            seat,
            give_up,
            promised,
            before,
            after,
        } = self.entries.remove(key).expect("taken once");
        let at = LaneId {
            class: seat.class,
            number: number(function, seat.kind),
        };
        if let Some(before) = before {
            self.entry_mut(before).after = after;
        }
        let next = after.map(|after| {
            let entry = self.entry_mut(after);
            entry.before = before;
            entry.seat.sequence
        });
        let class = &mut self.classes[at.class];
        class.lengths[seat.kind as usize] -= 1;
        let lane = &mut class.lanes[at.number];
        lane.length -= 1;
        lane.promised -= u32::from(promised);
        if before.is_none() {
            lane.head = after;
        }
        if after.is_none() {
            lane.tail = before;
        }
        let contends = usize::from(lane.state == State::Contending);
        class.contending_calls -= contends;
        match (before, next) {
            (None, None) => {
                class.end(at.number);
                self.contending -= contends;
                self.forgive(at);
            }
            (None, Some(sequence)) => class.stand(at.number, sequence),
            (Some(_), _) => {}
        }
        self.forget_give_up(key, seat.sequence, give_up);
        Waited {
            token,
            function,
            arrived: seat.arrived,
            promised,
            seat,
        }
    }

    fn note_give_up(&mut self, call: Key, sequence: u64, at: Time) {
        if at != Time::NEVER {
            self.give_ups.insert(GiveUp { at, sequence, call });
        }
    }

    /// The call has left, or gives up at another moment.
    fn forget_give_up(&mut self, call: Key, sequence: u64, at: Time) {
        if at != Time::NEVER {
            let entries = &self.entries;
            let counts = |other: &GiveUp| {
                let entry = entries.get(other.call);
                entry.is_some_and(|entry| entry.give_up == other.at)
            };
            self.give_ups.remove(&GiveUp { at, sequence, call }, counts);
        }
    }
}
