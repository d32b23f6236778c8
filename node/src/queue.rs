//! Calls that wait: bounded per QoS class, in order, and shared by weight.
//!
//! Calls of one function and class form a **lane** and leave it in the order
//! they came. A lane is *asleep* while its function alone decides when it goes
//! on (all its instances are busy and it may have no more, or one is being
//! started); it costs nothing then, and nobody waits behind it. It *contends*
//! when it lacks what others could take from it: processor share or memory.
//! It is *patient* when it is served by instances of its own and would like
//! one more.
//!
//! **Share.** Among classes with contending lanes, [`Queue::pick`] serves by
//! stride scheduling (Waldspurger and Weihl, 1995): a class of weight `w` gets
//! `w` of every `W` picks, where `W` is the sum of the weights of those
//! classes, give or take one pick per class. A class that had nothing to
//! contend for saves no credit.
//!
//! **Look-ahead.** A contending head that does not fit lets up to
//! [`LOOK_AHEAD`] lanes behind it, and other classes, go first; after it was
//! passed over [`PASSED_OVER`] times in its turn, nobody goes before it, so
//! that what is released adds up to what it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use crate::config::ClassConfig;
use crate::pool::FunctionKey;
use crate::slab::{Key, Slab};
use crate::time::Time;

/// Lanes of a class that are looked at behind a head that does not fit: enough
/// to keep the node busy beside one large function, few enough that a release
/// costs little however many functions wait.
pub const LOOK_AHEAD: usize = 8;

/// Times that a head is passed over before it holds everything back. More
/// keeps the node busier; fewer bounds a large call's wait more tightly.
pub const PASSED_OVER: u32 = 32;

/// The stride of weight 1; large against the greatest weight, so that integer
/// division costs no class more than a thousandth of its share.
const STRIDE_ONE: u64 = 1 << 20;

/// The greatest weight.
const WEIGHT_MOST: u32 = 1000;

/// A waiting call; finds nothing once the call has left the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(Key);

/// A call that left the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Waited<T> {
    /// What the shell left with it.
    pub token: T,
    /// The function it asks for.
    pub function: FunctionKey,
    /// When it came.
    pub arrived: Time,
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
    class: usize,
    sequence: u64,
    arrived: Time,
    give_up: Time,
    passed_over: u32,
    before: Option<Key>,
    after: Option<Key>,
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
}

#[derive(Debug)]
struct Class {
    stride: u64,
    /// How much it was served, in strides; the least is next.
    pass: u64,
    most: usize,
    length: usize,
    /// Heads of contending lanes by arrival.
    contending: BTreeMap<u64, Key>,
    /// Patient lanes, looked at in turn.
    patient: BTreeSet<FunctionKey>,
    patient_last: Option<FunctionKey>,
}

/// All waiting calls of a node.
#[derive(Debug)]
pub struct Queue<T> {
    classes: Vec<Class>,
    /// By function, then class; as many as there ever were functions at once.
    lanes: Vec<Lane>,
    entries: Slab<Entry<T>>,
    give_ups: BTreeMap<(Time, u64), Key>,
    sequence: u64,
    /// The pass of the class served last, before it was served.
    pass: u64,
    contending: usize,
    /// Kept between picks so that they allocate nothing.
    order: Vec<usize>,
    passed_over: Vec<Key>,
}

impl<T> Queue<T> {
    /// Makes an empty queue; `priority` is the weight of a class.
    pub fn new(classes: &[ClassConfig]) -> Self {
        let class = |config: &ClassConfig| Class {
            stride: STRIDE_ONE / u64::from(config.priority.clamp(1, WEIGHT_MOST)),
            pass: 0,
            most: config.queue,
            length: 0,
            contending: BTreeMap::new(),
            patient: BTreeSet::new(),
            patient_last: None,
        };
        Queue {
            classes: classes.iter().map(class).collect(),
            lanes: Vec::new(),
            entries: Slab::default(),
            give_ups: BTreeMap::new(),
            sequence: 0,
            pass: 0,
            contending: 0,
            order: Vec::new(),
            passed_over: Vec::new(),
        }
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
        self.classes[class].length
    }

    /// Whether one class holds as many calls as it should.
    pub fn is_full(&self, class: usize) -> bool {
        self.classes[class].length >= self.classes[class].most
    }

    /// Whether some lane lacks resources, so that a newcomer who took them
    /// would go before it.
    pub fn has_contenders(&self) -> bool {
        self.contending > 0
    }

    /// Puts a call at the end of its lane and wakes the lane. The caller has
    /// looked at [`Queue::is_full`].
    pub fn push(
        &mut self,
        function: FunctionKey,
        class: usize,
        arrived: Time,
        give_up: Time,
        token: T,
    ) -> Ticket {
        let at = self.lane(function, class);
        if self.lanes.len() <= at {
            self.lanes
                .resize((function.index() + 1) * self.classes.len(), Lane::default());
        }
        let sequence = self.sequence;
        self.sequence += 1;
        let before = self.lanes[at].tail;
        let key = self.entries.insert(Entry {
            token,
            function,
            class,
            sequence,
            arrived,
            give_up,
            passed_over: 0,
            before,
            after: None,
        });
        match before {
            Some(before) => self.entry_mut(before).after = Some(key),
            None => self.lanes[at].head = Some(key),
        }
        self.lanes[at].tail = Some(key);
        self.classes[class].length += 1;
        if give_up != Time::NEVER {
            self.give_ups.insert((give_up, sequence), key);
        }
        self.set_state(function, class, State::Contending);
        Ticket(key)
    }

    /// Takes out a call that is no longer wanted; `None` when it has left.
    pub fn remove(&mut self, ticket: Ticket) -> Option<Waited<T>> {
        self.entries.get(ticket.0)?;
        Some(self.take(ticket.0))
    }

    /// Takes out the oldest call of a function, of whatever class.
    pub fn remove_oldest(&mut self, function: FunctionKey) -> Option<Waited<T>> {
        let heads = (0..self.classes.len()).filter_map(|class| self.head(function, class));
        let oldest = heads.min_by_key(|key| self.entry(*key).sequence)?;
        Some(self.take(oldest))
    }

    /// When the first call gives up.
    pub fn next_give_up(&self) -> Option<Time> {
        self.give_ups
            .first_key_value()
            .map(|((give_up, _), _)| *give_up)
    }

    /// Takes out a call that gave up by `now`, the earliest first.
    pub fn expire(&mut self, now: Time) -> Option<Waited<T>> {
        let (&(give_up, _), &key) = self.give_ups.first_key_value()?;
        (give_up <= now).then(|| self.take(key))
    }

    /// Has the lanes of a function judged again: a place became free, or an
    /// instance may start.
    pub fn wake(&mut self, function: FunctionKey) {
        for class in 0..self.classes.len() {
            if self.head(function, class).is_some() {
                self.set_state(function, class, State::Contending);
            }
        }
    }

    /// Takes out the call that goes next, or none when no call fits. `judge`
    /// is asked about the heads of lanes in the order of their turn.
    pub fn pick(&mut self, mut judge: impl FnMut(FunctionKey, Look) -> Fit) -> Option<Waited<T>> {
        let mut order = std::mem::take(&mut self.order);
        let mut passed_over = std::mem::take(&mut self.passed_over);
        order.clear();
        passed_over.clear();
        order.extend((0..self.classes.len()).filter(|class| self.contends(*class)));
        order.sort_unstable_by_key(|class| (self.classes[*class].pass, *class));
        let chosen = self.choose(&order, &mut passed_over, &mut judge);
        if let Some(chosen) = chosen {
            for key in &passed_over {
                self.entry_mut(*key).passed_over += 1;
            }
            let class = &mut self.classes[self.entries.get(chosen).expect("chosen waits").class];
            self.pass = class.pass;
            class.pass += class.stride;
        }
        self.order = order;
        self.passed_over = passed_over;
        chosen.map(|key| self.take(key))
    }

    fn choose(
        &mut self,
        order: &[usize],
        passed_over: &mut Vec<Key>,
        judge: &mut impl FnMut(FunctionKey, Look) -> Fit,
    ) -> Option<Key> {
        let mut turn = Look::Turn;
        for &class in order {
            let mut short = 0;
            let mut from = Unbounded;
            while short <= LOOK_AHEAD {
                let next = self.classes[class]
                    .contending
                    .range((from, Unbounded))
                    .next();
                let Some((&sequence, &head)) = next else {
                    break;
                };
                from = Excluded(sequence);
                let Entry {
                    function,
                    passed_over: times,
                    ..
                } = *self.entry(head);
                match judge(function, if short == 0 { turn } else { Look::Behind }) {
                    Fit::Runs => return Some(head),
                    Fit::Asleep => self.set_state(function, class, State::Asleep),
                    Fit::Patient => self.set_state(function, class, State::Patient),
                    Fit::Short => {
                        if times >= PASSED_OVER {
                            return None;
                        }
                        if short == 0 {
                            passed_over.push(head);
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
    fn choose_patient(&mut self, judge: &mut impl FnMut(FunctionKey, Look) -> Fit) -> Option<Key> {
        let mut look = Look::Head;
        for class in 0..self.classes.len() {
            for _ in 0..self.classes[class].patient.len().min(LOOK_AHEAD) {
                let Some(function) = self.next_patient(class) else {
                    break;
                };
                match judge(function, look) {
                    Fit::Runs => return self.head(function, class),
                    Fit::Asleep => self.set_state(function, class, State::Asleep),
                    Fit::Patient => {}
                    Fit::Short => self.set_state(function, class, State::Contending),
                }
                look = Look::Behind;
            }
        }
        None
    }

    fn next_patient(&mut self, class: usize) -> Option<FunctionKey> {
        let class = &mut self.classes[class];
        let from = class.patient_last.map_or(Unbounded, Excluded);
        let after = class.patient.range((from, Unbounded)).next();
        class.patient_last = after.or_else(|| class.patient.first()).copied();
        class.patient_last
    }

    /// Whether a head was passed over so often that nobody goes before it.
    #[cfg(test)]
    pub(crate) fn is_held_back(&self) -> bool {
        let mut heads = self
            .classes
            .iter()
            .flat_map(|class| class.contending.values());
        heads.any(|head| self.entry(*head).passed_over >= PASSED_OVER)
    }

    fn lane(&self, function: FunctionKey, class: usize) -> usize {
        function.index() * self.classes.len() + class
    }

    fn head(&self, function: FunctionKey, class: usize) -> Option<Key> {
        self.lanes.get(self.lane(function, class))?.head
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

    /// Moves a lane that is not empty from one state to another.
    fn set_state(&mut self, function: FunctionKey, class: usize, state: State) {
        let at = self.lane(function, class);
        let old = std::mem::replace(&mut self.lanes[at].state, state);
        if old == state {
            return;
        }
        let head = self.lanes[at]
            .head
            .expect("an empty lane has no state to leave");
        let sequence = self.entry(head).sequence;
        let (least, class) = (self.pass, &mut self.classes[class]);
        match old {
            State::Asleep => {}
            State::Contending => {
                class.contending.remove(&sequence);
                self.contending -= 1;
            }
            State::Patient => {
                class.patient.remove(&function);
            }
        }
        match state {
            State::Asleep => {}
            State::Contending => {
                if class.contending.is_empty() {
                    class.pass = class.pass.max(least);
                }
                class.contending.insert(sequence, head);
                self.contending += 1;
            }
            State::Patient => {
                class.patient.insert(function);
            }
        }
    }

    /// Unlinks one call; its lane keeps its state as long as it has calls.
    fn take(&mut self, key: Key) -> Waited<T> {
        let Entry {
            function,
            class,
            before,
            after,
            ..
        } = *self.entry(key);
        let at = self.lane(function, class);
        let state = self.lanes[at].state;
        if before.is_none() {
            self.set_state(function, class, State::Asleep);
        }
        match before {
            Some(before) => self.entry_mut(before).after = after,
            None => self.lanes[at].head = after,
        }
        match after {
            Some(after) => self.entry_mut(after).before = before,
            None => self.lanes[at].tail = before,
        }
        if before.is_none() && after.is_some() {
            self.set_state(function, class, state);
        }
        self.classes[class].length -= 1;
        let entry = self.entries.remove(key).expect("taken once");
        self.give_ups.remove(&(entry.give_up, entry.sequence));
        Waited {
            token: entry.token,
            function,
            arrived: entry.arrived,
        }
    }
}
