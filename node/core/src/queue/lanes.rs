//! The lanes of one class: in which state each is, where it stands, and what
//! its namespace and function were given.

use crate::class::ClassConfig;
use crate::pool::FunctionKey;
use crate::slab::Key;
use crate::time::Time;

use super::Kind;
use super::numbers::Numbers;
use super::share::{Passes, Shares};
use super::turns::Turns;

/// The stride of weight 1; large against the greatest weight, so that integer
/// division costs no class more than a thousandth of its share.
const STRIDE_ONE: u64 = 1 << 20;

/// The greatest weight.
const WEIGHT_MOST: u32 = 1000;

/// A lane of the queue: its class, and its number within that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneId {
    pub(super) class: usize,
    pub(super) number: usize,
}

/// The number of a function's lane within its class.
pub(super) fn number(function: FunctionKey, kind: Kind) -> usize {
    function.index() * Kind::ALL.len() + kind as usize
}

/// Whose lane has that number.
fn function_of(number: usize) -> usize {
    number / Kind::ALL.len()
}

/// The numbers of the lanes of one function.
fn numbers_of(function: usize) -> [usize; Kind::ALL.len()] {
    Kind::ALL.map(|kind| function * Kind::ALL.len() + kind as usize)
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Asleep,
    Contending,
    Patient,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Lane {
    /// Of which function its calls are; any when it has none.
    pub(super) function: Option<FunctionKey>,
    pub(super) head: Option<Key>,
    pub(super) tail: Option<Key>,
    /// Asleep when it has no calls.
    pub(super) state: State,
    pub(super) length: usize,
    /// Calls that a start is at hand for.
    pub(super) promised: u32,
    /// Since when there has been a call without a break.
    pub(super) since: Time,
    /// How often its head was passed over since one of its calls was served.
    pub(super) passed_over: u32,
}

#[derive(Debug)]
pub(super) struct Class {
    pub(super) stride: u64,
    /// How much it was served, in strides; the least is next.
    pub(super) pass: u64,
    pub(super) most: usize,
    /// Calls by kind.
    pub(super) lengths: [usize; Kind::ALL.len()],
    /// What its namespaces and functions were given.
    pub(super) shares: Shares,
    /// By function and kind; as many as there ever were of functions that waited.
    pub(super) lanes: Vec<Lane>,
    /// Lanes that contend.
    pub(super) contending: Turns,
    /// All others that have calls.
    pub(super) resting: Turns,
    /// How many contend.
    pub(super) contending_lanes: usize,
    /// Calls in contending lanes.
    pub(super) contending_calls: usize,
    /// Patient lanes, looked at in turn.
    pub(super) patient: Numbers,
    pub(super) patient_last: Option<usize>,
}

impl Class {
    pub(super) fn new(config: &ClassConfig) -> Self {
        Class {
            stride: STRIDE_ONE / u64::from(config.priority.clamp(1, WEIGHT_MOST)),
            pass: 0,
            most: config.queue,
            lengths: [0; Kind::ALL.len()],
            shares: Shares::default(),
            lanes: Vec::new(),
            contending: Turns::default(),
            resting: Turns::default(),
            contending_lanes: 0,
            contending_calls: 0,
            patient: Numbers::default(),
            patient_last: None,
        }
    }

    /// Has a lane of that number be there.
    pub(super) fn make_lane(&mut self, number: usize) {
        if self.lanes.len() <= number {
            self.lanes.resize(number + 1, Lane::default());
        }
    }

    /// The lanes of one function that have calls.
    pub(super) fn lanes_of(&self, function: FunctionKey) -> impl Iterator<Item = (usize, &Lane)> {
        let lanes = numbers_of(function.index())
            .into_iter()
            .filter_map(move |number| Some((number, self.lanes.get(number)?)));
        lanes.filter(|(_, lane)| lane.head.is_some())
    }

    /// The function of a lane that has calls.
    pub(super) fn function_at(&self, number: usize) -> FunctionKey {
        let function = self.lanes[number].function;
        function.expect("a lane with calls has a function")
    }

    /// The order in which a lane of that state stands.
    fn turns(&mut self, state: State) -> &mut Turns {
        match state {
            State::Contending => &mut self.contending,
            State::Asleep | State::Patient => &mut self.resting,
        }
    }

    /// Has a lane contend that got its first call, of that sequence. A class that
    /// contended for nothing goes on from `least`, the pass of others.
    pub(super) fn begin(&mut self, number: usize, sequence: u64, least: u64) {
        self.contend(number, least);
        self.stand(number, sequence);
    }

    /// Takes note that a lane has no calls any more.
    pub(super) fn end(&mut self, number: usize) {
        self.leave(number);
        self.lanes[number].state = State::Asleep;
    }

    /// Moves a lane that has calls from one state to another; see
    /// [`Class::begin`].
    pub(super) fn set_state(&mut self, number: usize, state: State, least: u64) {
        if self.lanes[number].state == state {
            return;
        }
        let sequence = self.leave(number).expect("a lane with calls stands");
        match state {
            State::Asleep => {}
            State::Contending => self.contend(number, least),
            State::Patient => self.patient.insert(number),
        }
        self.lanes[number].state = state;
        self.stand(number, sequence);
    }

    /// Takes a lane from where it stands, and answers the sequence of its head.
    fn leave(&mut self, number: usize) -> Option<u64> {
        let Lane { state, length, .. } = self.lanes[number];
        match state {
            State::Asleep => {}
            State::Contending => {
                self.contending_lanes -= 1;
                self.contending_calls -= length;
            }
            State::Patient => self.patient.remove(number),
        }
        let Passes { namespace, .. } = self.shares.passes(function_of(number));
        self.turns(state).remove(number, namespace)
    }

    /// Counts a lane among those that contend.
    fn contend(&mut self, number: usize, least: u64) {
        if self.contending.is_empty() {
            self.pass = self.pass.max(least);
        }
        self.contending_lanes += 1;
        let lane = &mut self.lanes[number];
        lane.state = State::Contending;
        self.contending_calls += lane.length;
        // A function goes on from where others are if it contended for nothing.
        let other = self.lanes.get(number ^ 1);
        if other.is_none_or(|other| other.state != State::Contending) {
            self.charge(function_of(number), Shares::join);
        }
    }

    /// Has a lane stand where its function is, and its first call by its sequence.
    pub(super) fn stand(&mut self, number: usize, sequence: u64) {
        let passes = self.shares.passes(function_of(number));
        let state = self.lanes[number].state;
        self.turns(state).put(number, passes, sequence);
    }

    /// Changes the passes of a function and its namespace, and has all lanes
    /// stand where they are then.
    pub(super) fn charge(
        &mut self,
        function: usize,
        change: impl FnOnce(&mut Shares, usize) -> Passes,
    ) {
        let passes = change(&mut self.shares, function);
        self.contending.move_namespace(passes);
        self.resting.move_namespace(passes);
        for number in numbers_of(function) {
            let state = match self.lanes.get(number) {
                Some(lane) if lane.head.is_some() => lane.state,
                Some(_) | None => continue,
            };
            self.turns(state).move_lane(number, passes);
        }
    }
}
