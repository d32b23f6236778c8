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

pub(crate) mod share;

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use crate::class::ClassConfig;
use crate::estimate::ExpectedWait;
use crate::pool::FunctionKey;
use crate::slab::{Key, Slab};
use crate::time::Time;

use self::share::{Moved, Shares, Turn, Turns};

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

/// The stride of weight 1; large against the greatest weight, so that integer
/// division costs no class more than a thousandth of its share.
const STRIDE_ONE: u64 = 1 << 20;

/// The greatest weight.
const WEIGHT_MOST: u32 = 1000;

/// The part of its time after which a call is late: it may still be served, but
/// what comes now is more likely to be.
const LATE: u64 = 2;

/// The part of its time for which a lane has had calls waiting before its load
/// is taken to last, and the part of its time that others may then go before a
/// newcomer. Half of what makes a lane late, so that one whose load lasts stays
/// in order even where it is served at half the rate that was expected.
const LASTING: u32 = 4;

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

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Asleep,
    Contending,
    Patient,
}

#[derive(Debug, Default, Clone)]
struct Lane {
    head: Option<Key>,
    tail: Option<Key>,
    state: State,
    length: usize,
    /// Calls that a start is at hand for.
    promised: u32,
    /// Since when there has been a call without a break.
    since: Time,
    /// How often its head was passed over since one of its calls was served.
    passed_over: u32,
}

#[derive(Debug)]
struct Class {
    stride: u64,
    /// How much it was served, in strides; the least is next.
    pass: u64,
    most: usize,
    /// Calls by kind.
    lengths: [usize; 2],
    /// What its namespaces and functions were given.
    shares: Shares,
    /// Lanes that contend.
    contending: Turns,
    /// All others that have calls.
    resting: Turns,
    /// How many contend.
    contending_lanes: usize,
    /// Calls in contending lanes.
    contending_calls: usize,
    /// Patient lanes, looked at in turn.
    patient: BTreeSet<usize>,
    patient_last: Option<usize>,
}

impl Class {
    /// The order in which a lane stands that contends, or does not.
    fn turns(&mut self, contends: bool) -> &mut Turns {
        match contends {
            true => &mut self.contending,
            false => &mut self.resting,
        }
    }
}

/// All waiting calls of a node.
#[derive(Debug)]
pub struct Queue<T> {
    classes: Vec<Class>,
    /// By function, class and kind; as many as there ever were functions at once.
    lanes: Vec<Lane>,
    entries: Slab<Entry<T>>,
    give_ups: BTreeSet<(Time, u64, Key)>,
    sequence: u64,
    /// The pass of the class served last, before it was served.
    pass: u64,
    contending: usize,
    /// The lane that was passed over too often, until one of its calls is
    /// served.
    starved: Option<usize>,
    /// Kept between picks so that they allocate nothing.
    order: Vec<usize>,
    passed_over: Vec<usize>,
}

impl<T> Queue<T> {
    /// Makes an empty queue; `priority` is the weight of a class.
    pub fn new(classes: &[ClassConfig]) -> Self {
        let class = |config: &ClassConfig| Class {
            stride: STRIDE_ONE / u64::from(config.priority.clamp(1, WEIGHT_MOST)),
            pass: 0,
            most: config.queue,
            lengths: [0; 2],
            shares: Shares::default(),
            contending: Turns::default(),
            resting: Turns::default(),
            contending_lanes: 0,
            contending_calls: 0,
            patient: BTreeSet::new(),
            patient_last: None,
        };
        Queue {
            classes: classes.iter().map(class).collect(),
            lanes: Vec::new(),
            entries: Slab::default(),
            give_ups: BTreeSet::new(),
            sequence: 0,
            pass: 0,
            contending: 0,
            starved: None,
            order: Vec::new(),
            passed_over: Vec::new(),
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
        self.charge(function, class, |shares, at| {
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
        let lane = self.lanes.get(self.lane(function, class, kind));
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
        let lanes = self.lanes_of(function);
        lanes.map(|at| self.lanes[at].promised).sum()
    }

    /// Puts a call at the end of its lane and wakes the lane, should it be asleep. The caller has
    /// looked at [`Queue::is_full`]. `promised` tells whether a start is at
    /// hand for it.
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
        let at = self.lane(function, seat.class, seat.kind);
        if self.lanes.len() <= at {
            let lanes = (function.index() + 1) * self.classes.len() * Kind::ALL.len();
            self.lanes.resize(lanes, Lane::default());
        }
        // Most come last, and those that were away were among the first, or
        // left a moment ago.
        let mut before = self.lanes[at].tail;
        while let Some(key) = before
            && self.entry(key).seat.sequence > seat.sequence
        {
            before = self.entry(key).before;
        }
        let after = match before {
            Some(before) => self.entry(before).after,
            None => self.lanes[at].head,
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
        let lane = &mut self.lanes[at];
        if lane.length == 0 {
            lane.since = now;
        }
        lane.length += 1;
        lane.promised += u32::from(promised);
        let contends = lane.state == State::Contending;
        let class = &mut self.classes[seat.class];
        class.lengths[seat.kind as usize] += 1;
        class.contending_calls += usize::from(contends);
        match after {
            Some(after) => self.entry_mut(after).before = Some(key),
            None => self.lanes[at].tail = Some(key),
        }
        match before {
            Some(before) => self.entry_mut(before).after = Some(key),
            None => self.set_head(at, Some(key)),
        }
        if give_up != Time::NEVER {
            self.give_ups.insert((give_up, seat.sequence, key));
        }
        // One that is patient lacks as much as it did.
        if self.lanes[at].state == State::Asleep {
            self.set_state(at, State::Contending);
        }
        Ticket(key)
    }

    /// Takes out a call that is no longer wanted; `None` when it has left.
    pub fn remove(&mut self, ticket: Ticket) -> Option<Waited<T>> {
        self.entries.get(ticket.0)?;
        Some(self.take(ticket.0))
    }

    /// Takes out the oldest call of a function, of whatever class.
    pub fn remove_oldest(&mut self, function: FunctionKey) -> Option<Waited<T>> {
        let heads = self.lanes_of(function).filter_map(|at| self.lanes[at].head);
        let oldest = heads.min_by_key(|key| self.entry(*key).seat.sequence)?;
        Some(self.take(oldest))
    }

    /// When the first call gives up.
    pub fn next_give_up(&self) -> Option<Time> {
        self.give_ups.first().map(|(give_up, ..)| *give_up)
    }

    /// The call that gave up first, by `now`. It is to be removed or
    /// [promised a start](Queue::promise).
    pub fn due(&self, now: Time) -> Option<Due> {
        let &(give_up, _, key) = self.give_ups.first()?;
        let entry = self.entry(key);
        (give_up <= now).then_some(Due {
            ticket: Ticket(key),
            function: entry.function,
            may_stay: entry.seat.end > now,
        })
    }

    /// Has a call wait on for a start that is at hand for it.
    pub fn promise(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(ticket.0) else {
            return;
        };
        let (sequence, end) = (entry.seat.sequence, entry.seat.end);
        let old = std::mem::replace(&mut entry.give_up, end);
        let again = std::mem::replace(&mut entry.promised, true);
        let (function, seat) = (entry.function, entry.seat);
        self.give_ups.remove(&(old, sequence, ticket.0));
        if end != Time::NEVER {
            self.give_ups.insert((end, sequence, ticket.0));
        }
        let at = self.lane(function, seat.class, seat.kind);
        self.lanes[at].promised += u32::from(!again);
    }

    /// Has the lanes of a function judged again: a place became free, or an
    /// instance may start.
    pub fn wake(&mut self, function: FunctionKey) {
        for at in self.lanes_of(function) {
            if self.lanes[at].head.is_some() {
                self.set_state(at, State::Contending);
            }
        }
    }

    // How long a newcomer would wait.

    /// Calls of its own function that are served before a newcomer of a class.
    pub fn ahead_of_function(&self, function: FunctionKey, class: usize) -> u64 {
        self.ahead(class, |other| {
            let lanes = Kind::ALL.map(|kind| self.lane(function, other, kind));
            let lanes = lanes.iter().filter_map(|at| self.lanes.get(*at));
            lanes.map(|lane| lane.length).sum()
        })
    }

    /// Calls of all functions that contend with a newcomer of a class and are
    /// served before it, as many as if they were all like it: functions get
    /// equal shares, so that it waits for no more of another function's than
    /// there are of its own.
    pub fn ahead_of_class(&self, function: FunctionKey, class: usize) -> u64 {
        let lanes = Kind::ALL.map(|kind| self.lane(function, class, kind));
        let own = lanes.iter().filter_map(|at| self.lanes.get(*at));
        let own = own.map(|lane| lane.length).sum::<usize>();
        let equal = own
            .saturating_add(1)
            .saturating_mul(self.classes[class].contending_lanes.max(1));
        self.ahead(class, |other| match other == class {
            true => self.classes[other].contending_calls.min(equal - 1),
            false => self.classes[other].contending_calls,
        })
    }

    /// All calls of its own class, and of each other class as many as are
    /// served meanwhile.
    fn ahead(&self, class: usize, waiting: impl Fn(usize) -> usize) -> u64 {
        let count = |of: usize| u64::try_from(waiting(of)).unwrap_or(u64::MAX);
        let own = count(class);
        let turns = own
            .saturating_add(1)
            .saturating_mul(self.classes[class].stride);
        let others = (0..self.classes.len()).filter(|other| *other != class);
        let others = others.map(|other| count(other).min(turns / self.classes[other].stride));
        own.saturating_add(others.sum())
    }

    /// Whether a newcomer that may wait for `time` is likely to be served in
    /// it; whatever nothing is known of is.
    ///
    /// While load lasts, a lane takes in no more than it serves. One more would
    /// wait until it is late, and then find itself behind the newest.
    pub fn fits(
        &self,
        function: FunctionKey,
        class: usize,
        time: Duration,
        expected: ExpectedWait,
        now: Time,
    ) -> bool {
        let lane = self.lanes.get(self.lane(function, class, Kind::Awaited));
        let lane = lane.and_then(|lane| Some((lane, lane.head?, lane.tail?)));
        let Some((lane, head, tail)) = lane.filter(|_| !expected.turn.is_zero()) else {
            return expected.whole() <= time;
        };
        if self.entry(head).is_late(now) {
            // It would be the next one, and bury the newcomer before it.
            return self.entry(tail).is_late(now) && expected.turn <= time;
        }
        let lasting = part(time, LASTING);
        let lasts = now.since(lane.since) >= lasting;
        expected.whole() <= time && !(lasts && expected.others > lasting)
    }

    // Who goes next.

    /// Takes out the call that goes next, or none when no call fits. `judge`
    /// is asked about the heads of lanes in the order of their turn.
    pub fn pick(
        &mut self,
        now: Time,
        mut judge: impl FnMut(FunctionKey, Look) -> Fit,
    ) -> Option<Waited<T>> {
        let mut order = std::mem::take(&mut self.order);
        let mut passed_over = std::mem::take(&mut self.passed_over);
        order.clear();
        passed_over.clear();
        order.extend((0..self.classes.len()).filter(|class| self.contends(*class)));
        order.sort_unstable_by_key(|class| (self.classes[*class].pass, *class));
        let chosen = self.choose(&order, &mut passed_over, &mut judge);
        let chosen = chosen.map(|at| {
            for &at in &passed_over {
                self.lanes[at].passed_over += 1;
                if self.lanes[at].passed_over >= PASSED_OVER {
                    self.starved.get_or_insert(at);
                }
            }
            let key = self.next_of(at, now).expect("a chosen lane has a call");
            self.serve(key)
        });
        self.order = order;
        self.passed_over = passed_over;
        chosen
    }

    /// Takes out the first call that `ask` says goes to a place elsewhere. It is
    /// asked about the next calls of all lanes in the order of their turn, at
    /// most [`ASKED`].
    pub fn offer(&mut self, now: Time, mut ask: impl FnMut(&T) -> bool) -> Option<Waited<T>> {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend((0..self.classes.len()).filter(|at| self.next_lane(*at, None).is_some()));
        // One that contended for nothing here has saved no credit.
        order.sort_unstable_by_key(|at| (self.classes[*at].pass.max(self.pass), *at));
        let chosen = self.choose_elsewhere(&order, now, &mut ask);
        self.order = order;
        let chosen = chosen?;
        let class = self.entry(chosen).seat.class;
        self.classes[class].pass = self.classes[class].pass.max(self.pass);
        Some(self.serve(chosen))
    }

    fn choose_elsewhere(
        &self,
        order: &[usize],
        now: Time,
        ask: &mut impl FnMut(&T) -> bool,
    ) -> Option<Key> {
        let mut asked = 0;
        for &class in order {
            let mut turn = None;
            while let Some(lane) = self.next_lane(class, turn) {
                turn = Some(lane);
                let mut next = self.next_of(self.lane_of(lane.head), now);
                let newest_first = next != Some(lane.head);
                // Not all calls of a lane may go to the same peers.
                for _ in 0..LOOK_AHEAD {
                    let Some(key) = next else {
                        break;
                    };
                    if asked == ASKED {
                        return None;
                    }
                    asked += 1;
                    let entry = self.entry(key);
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

    /// The lane of a class after `after`, whether it contends or not.
    fn next_lane(&self, class: usize, after: Option<Turn>) -> Option<Turn> {
        let class = &self.classes[class];
        let lanes = [class.contending.next(after), class.resting.next(after)];
        lanes.into_iter().flatten().min()
    }

    /// Which call of a lane goes next: its oldest, or its newest while the
    /// oldest is late.
    fn next_of(&self, at: usize, now: Time) -> Option<Key> {
        let head = self.lanes[at].head?;
        match self.entry(head).is_late(now) {
            true => self.lanes[at].tail,
            false => Some(head),
        }
    }

    /// Takes out a call in its turn.
    fn serve(&mut self, key: Key) -> Waited<T> {
        let at = self.lane_of(key);
        self.forgive(at);
        let (function, seat) = (self.entry(key).function, self.entry(key).seat);
        let class = &mut self.classes[seat.class];
        self.pass = class.pass;
        class.pass += class.stride;
        let waited = self.take(key);
        self.charge(function, seat.class, |shares, at| {
            shares.serve(at, seat.cost)
        });
        waited
    }

    fn choose(
        &mut self,
        order: &[usize],
        passed_over: &mut Vec<usize>,
        judge: &mut impl FnMut(FunctionKey, Look) -> Fit,
    ) -> Option<usize> {
        if let Some(at) = self.starved {
            let head = self.lanes[at].head.expect("a starved lane has a call");
            match judge(self.entry(head).function, Look::Turn) {
                Fit::Runs => return Some(at),
                Fit::Short => return None,
                Fit::Asleep | Fit::Patient => self.forgive(at),
            }
        }
        let mut turn = Look::Turn;
        for &class in order {
            let mut short = 0;
            let mut from = None;
            while short <= LOOK_AHEAD {
                let Some(lane) = self.classes[class].contending.next(from) else {
                    break;
                };
                from = Some(lane);
                let at = self.lane_of(lane.head);
                let function = self.entry(lane.head).function;
                match judge(function, if short == 0 { turn } else { Look::Behind }) {
                    Fit::Runs => return Some(at),
                    Fit::Asleep => self.set_state(at, State::Asleep),
                    Fit::Patient => self.set_state(at, State::Patient),
                    Fit::Short => {
                        if short == 0 {
                            passed_over.push(at);
                            turn = Look::Head;
                        }
                        short += 1;
                    }
                }
            }
        }
        self.choose_patient(judge)
    }

    /// What the others left goes to lanes that would like one more instance.
    fn choose_patient(
        &mut self,
        judge: &mut impl FnMut(FunctionKey, Look) -> Fit,
    ) -> Option<usize> {
        let mut look = Look::Head;
        for class in 0..self.classes.len() {
            for _ in 0..self.classes[class].patient.len().min(LOOK_AHEAD) {
                let Some(at) = self.next_patient(class) else {
                    break;
                };
                let head = self.lanes[at].head.expect("a patient lane has a call");
                match judge(self.entry(head).function, look) {
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
        let from = class.patient_last.map_or(Unbounded, Excluded);
        let after = class.patient.range((from, Unbounded)).next();
        class.patient_last = after.or_else(|| class.patient.first()).copied();
        class.patient_last
    }

    /// Whether a head was passed over so often that nobody goes before it.
    #[cfg(test)]
    pub(crate) fn is_held_back(&self) -> bool {
        self.starved.is_some()
    }

    /// Has a lane count anew how often it is passed over.
    fn forgive(&mut self, at: usize) {
        self.lanes[at].passed_over = 0;
        if self.starved == Some(at) {
            self.starved = None;
        }
    }

    // How it is kept.

    fn lane(&self, function: FunctionKey, class: usize, kind: Kind) -> usize {
        (function.index() * self.classes.len() + class) * Kind::ALL.len() + kind as usize
    }

    /// The lane of a waiting call.
    fn lane_of(&self, key: Key) -> usize {
        let entry = self.entry(key);
        self.lane(entry.function, entry.seat.class, entry.seat.kind)
    }

    /// Those that there are of a function.
    fn lanes_of(&self, function: FunctionKey) -> std::ops::Range<usize> {
        let each = self.classes.len() * Kind::ALL.len();
        let first = function.index() * each;
        first.min(self.lanes.len())..(first + each).min(self.lanes.len())
    }

    fn contends(&self, class: usize) -> bool {
        !self.classes[class].contending.is_empty()
    }

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

    /// Where a lane stands whose first call is `head`.
    fn turn(&self, head: Key) -> (usize, Turn) {
        let entry = self.entry(head);
        let Seat {
            class, sequence, ..
        } = entry.seat;
        let shares = &self.classes[class].shares;
        (class, shares.turn(entry.function.index(), sequence, head))
    }

    /// Changes the passes of a function and its namespace, and has all lanes
    /// stand where they are then.
    fn charge(
        &mut self,
        function: FunctionKey,
        class: usize,
        change: impl FnOnce(&mut Shares, usize) -> Moved,
    ) {
        let index = function.index();
        let heads = Kind::ALL.map(|kind| {
            let lane = self.lanes.get(self.lane(function, class, kind))?;
            let head = lane.head?;
            let sequence = self.entry(head).seat.sequence;
            Some((head, sequence, lane.state == State::Contending))
        });
        let class = &mut self.classes[class];
        let stand = |shares: &Shares| {
            heads.map(|lane| lane.map(|(head, sequence, _)| shares.turn(index, sequence, head)))
        };
        let before = stand(&class.shares);
        let moved = change(&mut class.shares, index);
        let after = stand(&class.shares);
        moved.apply(&mut class.contending);
        moved.apply(&mut class.resting);
        for (at, lane) in heads.iter().enumerate() {
            let (Some((.., contends)), Some(before), Some(after)) = (lane, before[at], after[at])
            else {
                continue;
            };
            class.turns(*contends).reorder(before, after);
        }
    }

    /// Has a function go on from where others are if none of its lanes is as
    /// `was` says.
    fn join(&mut self, at: usize, was: impl Fn(&Lane) -> bool) {
        let other = at ^ 1;
        if self.lanes.get(other).is_some_and(was) {
            return;
        }
        let head = self.lanes[at].head.expect("a lane that joins has a call");
        let (function, class) = (self.entry(head).function, self.entry(head).seat.class);
        self.charge(function, class, Shares::join);
    }

    /// Gives a lane another head. Both calls are in the queue.
    fn set_head(&mut self, at: usize, head: Option<Key>) {
        let old = std::mem::replace(&mut self.lanes[at].head, head);
        let contends = self.lanes[at].state == State::Contending;
        match (
            old.map(|old| self.turn(old)),
            head.map(|head| self.turn(head)),
        ) {
            (Some((class, before)), Some((_, after))) => {
                self.classes[class].turns(contends).reorder(before, after);
            }
            (Some((class, before)), None) => self.classes[class].turns(contends).remove(before),
            (None, Some((class, after))) => {
                self.classes[class].turns(contends).insert(after);
                self.join(at, |lane| lane.head.is_some());
            }
            (None, None) => {}
        }
    }

    /// Moves a lane that is not empty from one state to another.
    fn set_state(&mut self, at: usize, state: State) {
        let lane = &mut self.lanes[at];
        let old = std::mem::replace(&mut lane.state, state);
        if old == state {
            return;
        }
        let length = lane.length;
        let head = lane.head.expect("an empty lane has no state to leave");
        let (class, turn) = self.turn(head);
        let (least, class) = (self.pass, &mut self.classes[class]);
        match old {
            State::Asleep => class.resting.remove(turn),
            State::Contending => {
                class.contending.remove(turn);
                class.contending_lanes -= 1;
                class.contending_calls -= length;
                self.contending -= 1;
            }
            State::Patient => {
                class.resting.remove(turn);
                class.patient.remove(&at);
            }
        }
        match state {
            State::Asleep => class.resting.insert(turn),
            State::Contending => {
                if class.contending.is_empty() {
                    class.pass = class.pass.max(least);
                }
                class.contending.insert(turn);
                class.contending_lanes += 1;
                class.contending_calls += length;
                self.contending += 1;
                self.join(at, |lane| lane.state == State::Contending);
            }
            State::Patient => {
                class.resting.insert(turn);
                class.patient.insert(at);
            }
        }
    }

    /// Unlinks one call; its lane keeps its state as long as it has calls.
    fn take(&mut self, key: Key) -> Waited<T> {
        let at = self.lane_of(key);
        let Entry {
            seat,
            before,
            after,
            promised,
            ..
        } = *self.entry(key);
        if before.is_none() && after.is_none() {
            self.set_state(at, State::Asleep);
            self.forgive(at);
        }
        match before {
            Some(before) => self.entry_mut(before).after = after,
            None => self.set_head(at, after),
        }
        match after {
            Some(after) => self.entry_mut(after).before = before,
            None => self.lanes[at].tail = before,
        }
        let lane = &mut self.lanes[at];
        lane.length -= 1;
        lane.promised -= u32::from(promised);
        let contends = lane.state == State::Contending;
        let class = &mut self.classes[seat.class];
        class.lengths[seat.kind as usize] -= 1;
        class.contending_calls -= usize::from(contends);
        let entry = self.entries.remove(key).expect("taken once");
        self.give_ups.remove(&(entry.give_up, seat.sequence, key));
        Waited {
            token: entry.token,
            function: entry.function,
            arrived: seat.arrived,
            promised,
            seat,
        }
    }
}

/// One of so many equal parts of a time.
fn part(time: Duration, parts: u32) -> Duration {
    time.checked_div(parts).unwrap_or(time)
}
