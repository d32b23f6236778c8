//! `recalc`: each node tells how many calls of a function it would take, and what is
//! above a node's own rate goes to the others in proportion to that.
//!
//! M. Ciavotta, D. Motterlini, M. Savi, A. Tundo, "DFaaS: Decentralized
//! Function-as-a-Service for federated edge computing", IEEE CloudNet 2021; DFaaS,
//! Recalc strategy (reference, sections 5.1 and 6).
//!
//! Formula, for each function f with the rate `r` of own users and the rate `M` that
//! it is meant for here (label `dfaas.maxrate`):
//!
//! * limit for each peer, `0` where `r >= M`, else `(M - r) / k` for k peers;
//! * own users' calls run here while less than M began in the last second; what is
//!   above goes to peer n with `p(n) = limit(n) / sum limit`;
//! * a peer's calls run here while less than its limit began in the last second, and
//!   go nowhere else.
//!
//! Mended: rounds were a minute apart and weights half a minute late, from what one
//! second showed, and an overload that began between them lost all of its excess; here
//! limits are told each second, from smoothed rates, for every function that is called,
//! and hold as soon as they are heard. Where nobody told a limit, the room that reports
//! tell is used. A function without the label stopped the rounds of all: here its rate
//! is what the processors that are free would take. k counted everybody who had once
//! named the function: here those who have excess. Limits were a table for each peer
//! and function, in each message: here one number for a function. One lost message
//! made a peer unknown: here three. A function that is not here was refused: here its
//! calls go to peers. What peers refused was lost: here it is decided again, goes up,
//! or waits. Clocks had to agree: here each node has its own rounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use super::area::{
    FAITHFUL, PERIOD, around, beyond, in_proportion, is_spread, period, read_key, read_number,
    receive, seconds, written,
};
use super::learning::{Malformed, NOTE_BYTES_MAX};
use super::{
    Case, Cell, ClassKey, Decision, Ending, Field, Kind, Memory, Origin, Outcome, Policy, Reach,
    Reaches, Reason, Which, Wishes,
};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "tells peers how many calls a second it would take, and sends what is above its own rate by what they tell",
    keys: &[PERIOD, FAITHFUL],
    build: |parameters| {
        let faithful = parameters.flag("faithful");
        Arc::new(Recalc {
            period: period(parameters.time("period"), faithful, PUBLISHED),
            faithful,
            own: Memory::new(FUNCTIONS_KNOWN),
            told: Memory::new(LIMITS_KNOWN),
            ticked: Cell::default(),
            step: Cell::default(),
        })
    },
};

const NAME: &str = "recalc";

/// The period of DFaaS.
const PUBLISHED: Duration = Duration::from_secs(60);

/// Functions whose calls are counted.
const FUNCTIONS_KNOWN: usize = 1 << 10;

/// Limits of a function at a peer that are remembered.
const LIMITS_KNOWN: usize = 16 << 10;

/// Periods after which a limit that was not told again is nothing any more.
const PERIODS_KEPT: f64 = 3.0;

/// The same, as published.
const PERIODS_KEPT_PUBLISHED: f64 = 1.2;

/// What the newest period counts in a rate.
const NEWEST: f64 = 0.5;

/// Periods without a call after which a function is told of no more.
const PERIODS_TOLD: f64 = 30.0;

/// The first byte of a note.
const FORMAT: u8 = 1;

/// Bytes of a note for one function: its key, its limit, its excess.
const ENTRY_BYTES: usize = 16;

/// Functions that one note tells of, those called most.
const ENTRIES_MAX: usize = (NOTE_BYTES_MAX - 1) / ENTRY_BYTES;

// Numbers of a function here. Rates are calls in a second, times are seconds.
/// Calls of own users since the last round.
const ARRIVED: usize = 0;
/// The rate of own users.
const RATE: usize = 1;
/// The rate that it is meant for.
const MOST: usize = 2;
/// When the next call would be due if they came evenly, at the rate that it is meant
/// for.
const DUE: usize = 3;
/// What each peer may send.
const LIMIT: usize = 4;
/// What a call takes: processors, and seconds.
const CORES: usize = 5;
const SERVICE: usize = 6;
/// When a call came last.
const LAST: usize = 7;
/// Which second that was, how many came in it, and in the one before.
const SECOND: usize = 8;
const IN_SECOND: usize = 9;
const BEFORE: usize = 10;

// Numbers of a function at a peer.
/// What it takes of each peer.
const TAKES: usize = 0;
/// When it said so.
const HEARD: usize = 1;
/// What it has above its own rate.
const EXCESS: usize = 2;
/// As `DUE`, for its calls here.
const DUE_FROM: usize = 3;
/// As published: its weight, which the second half of a round sets.
const WEIGHT: usize = 4;

/// Shares excess by limits.
struct Recalc {
    period: Duration,
    faithful: bool,
    own: Memory<11>,
    told: Memory<5>,
    ticked: Cell,
    /// As published: which half of a round is next.
    step: Cell,
}

/// Whether one more call is within a rate, with as many at once as a second allows,
/// and takes it: the generic cell rate algorithm, ITU-T I.371.
fn takes(due: &Cell, rate: f64, now: f64, counts: bool) -> bool {
    if rate <= 0.0 {
        return false;
    }
    let each = 1.0 / rate;
    let next = |due: Option<f64>| due.unwrap_or(now).clamp(now, now + 1.0 + each) + each;
    let is_within = next(due.get()) <= now + 1.0 + 1e-9;
    if is_within && counts {
        due.change(next);
    }
    is_within
}

impl Recalc {
    /// Counts a call of this node's own users.
    fn count(&self, case: &Case<'_>) {
        let (request, now) = (case.request, case.snapshot.now);
        if case.is_trial() {
            return;
        }
        let Some(cells) = self.own.entry_if_open(Which::of(request.function), now) else {
            return;
        };
        let now = seconds(now);
        cells[ARRIVED].add(1.0);
        cells[LAST].set(now);
        cells[CORES].set(f64::from(request.cost.cpu) / 1e3);
        if let Some(most) = request.more.rate_max {
            cells[MOST].set(f64::from(most));
        }
        if let Some(service) = case.snapshot.local.service {
            cells[SERVICE].set(service.as_secs_f64());
        }
        let second = now.floor();
        let last = cells[SECOND].get().unwrap_or(f64::NEG_INFINITY);
        if second > last {
            let count = cells[IN_SECOND].get().unwrap_or(0.0);
            cells[BEFORE].set(if second - last < 1.5 { count } else { 0.0 });
            cells[SECOND].set(second);
            cells[IN_SECOND].set(0.0);
        }
        cells[IN_SECOND].add(1.0);
    }

    /// Runs a call here within the rate that its function is meant for.
    fn within_rate(&self, case: &mut Case<'_>) -> Option<Decision> {
        let decision = case.run_well_here()?;
        let cells = self.own.find(case.function());
        let most = case.request.more.rate_max.map(f64::from);
        case.own_terms()
            .put("rate_max", most.unwrap_or(f64::INFINITY));
        let (Some(cells), Some(most)) = (cells, most) else {
            return Some(decision);
        };
        let now = seconds(case.snapshot.now);
        takes(&cells[DUE], most, now, !case.is_trial()).then_some(decision)
    }

    /// Sends a call to a peer, by what peers take.
    fn to_peer(&self, case: &mut Case<'_>) -> Option<Decision> {
        let pool = around(case)?;
        let now = seconds(case.snapshot.now);
        let of = case.function();
        let told = in_proportion(case, pool, Reach::Horizontal, |candidate, terms| {
            let cells = self.told.find(of.to_peer(candidate.peer.key));
            let number = if self.faithful { WEIGHT } else { TAKES };
            let takes = cells.filter(|cells| self.is_fresh(cells, now));
            let takes = takes.and_then(|cells| cells[number].get());
            terms.put("takes_per_second", takes.unwrap_or(0.0));
            takes.unwrap_or(0.0)
        });
        if told.is_some() || self.faithful {
            return told;
        }
        // Nobody said anything: by the room that reports tell.
        in_proportion(case, pool, Reach::Horizontal, |candidate, _| {
            f64::from(candidate.room())
        })
    }

    fn is_fresh(&self, cells: &[Cell; 5], now: f64) -> bool {
        let kept = match self.faithful {
            true => PERIODS_KEPT_PUBLISHED,
            false => PERIODS_KEPT,
        };
        let heard = cells[HEARD].get().unwrap_or(f64::NEG_INFINITY);
        now - heard <= kept * self.period.as_secs_f64()
    }

    /// Whether a peer's call is within what it may send.
    fn takes_from(&self, case: &Case<'_>, from: &PeerId) -> bool {
        let of = case.function();
        let limit = self.own.find(of).and_then(|cells| cells[LIMIT].get());
        let Some(limit) = limit else {
            // It was promised nothing, and refused nothing.
            return true;
        };
        let Some(cells) = self
            .told
            .entry_if_open(of.at(Some(from)), case.snapshot.now)
        else {
            return true;
        };
        let now = seconds(case.snapshot.now);
        takes(&cells[DUE_FROM], limit, now, !case.is_trial())
    }

    /// How many peers each function's room is for.
    fn sharers(&self, now: f64) -> BTreeMap<u64, f64> {
        let mut sharers = BTreeMap::new();
        for (which, cells) in self.told.rows() {
            let excess = cells[EXCESS].get().unwrap_or(0.0) > 0.0;
            if self.is_fresh(cells, now) && (excess || self.faithful) {
                *sharers.entry(which.numbers()[0]).or_insert(0.0) += 1.0;
            }
        }
        sharers
    }

    /// Works out what each peer may send, and returns what to tell: functions, those
    /// called most first, with their limits and excesses.
    fn work_out(&self, field: &Field<'_>, elapsed: f64) -> Vec<(u64, f64, f64)> {
        let now = seconds(field.now);
        let free = f64::from(field.load.guest_cpu) / 1e3;
        let sharers = self.sharers(now);
        let mut functions = Vec::new();
        let mut gone = Vec::new();
        for (which, cells) in self.own.rows() {
            let read = |at: usize| cells[at].get().unwrap_or(0.0);
            let arrived = read(ARRIVED);
            cells[ARRIVED].add(-arrived);
            let smoothed = cells[RATE].blend(arrived / elapsed.max(1e-3), NEWEST);
            let rate = match self.faithful {
                true if now.floor() - read(SECOND) < 0.5 => read(BEFORE).floor(),
                true if now.floor() - read(SECOND) < 1.5 => read(IN_SECOND).floor(),
                true => 0.0,
                false => smoothed,
            };
            if now - read(LAST) > PERIODS_TOLD * self.period.as_secs_f64() {
                gone.push(which);
                continue;
            }
            let takes = read(CORES) * read(SERVICE);
            let most = match cells[MOST].get() {
                Some(most) => Some(most),
                // As published nothing is told of such a function, nor of any other.
                None if self.faithful => return Vec::new(),
                None if takes > 0.0 => Some(rate + free / takes),
                None => None,
            };
            let Some(most) = most else { continue };
            let function = which.numbers()[0];
            let peers = sharers.get(&function).copied().unwrap_or(0.0).max(1.0);
            let limit = (most - rate).max(0.0) / peers;
            let limit = if self.faithful { limit.floor() } else { limit };
            cells[LIMIT].set(limit);
            functions.push((rate, function, limit, (rate - most).max(0.0)));
        }
        for which in gone {
            self.own.forget(which);
        }
        functions.sort_by(|one, other| other.0.total_cmp(&one.0));
        functions.truncate(ENTRIES_MAX);
        let told = functions.into_iter();
        told.map(|(_, function, limit, excess)| (function, limit, excess))
            .collect()
    }

    /// As published: weights of functions that are overloaded now, until the next
    /// round.
    fn weigh(&self, now: f64) {
        for (which, cells) in self.told.rows() {
            let own = self.own.find(Which::told([which.numbers()[0], 0]));
            let is_overloaded = own.is_some_and(|own| {
                let read = |at: usize| own[at].get().unwrap_or(0.0);
                let rate = match now.floor() - read(SECOND) {
                    since if since < 0.5 => read(BEFORE),
                    since if since < 1.5 => read(IN_SECOND),
                    _ => 0.0,
                };
                own[MOST].get().is_some_and(|most| rate >= most)
            });
            cells[WEIGHT].set(match is_overloaded {
                true => cells[TAKES].get().unwrap_or(0.0),
                false => 0.0,
            });
        }
    }
}

/// A note of functions with their limits and excesses.
fn note_of(functions: &[(u64, f64, f64)]) -> Vec<u8> {
    let mut note = vec![FORMAT];
    for (function, limit, excess) in functions {
        note.extend(function.to_le_bytes());
        note.extend(written(*limit));
        note.extend(written(*excess));
    }
    note
}

/// What such a note says.
fn read_note(note: &[u8]) -> Option<Vec<(u64, f64, f64)>> {
    let (format, entries) = note.split_first()?;
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if *format != FORMAT || !rest.is_empty() || entries.len() > ENTRIES_MAX {
        return None;
    }
    let read = |entry: &[u8; ENTRY_BYTES]| {
        Some((
            read_key(entry)?,
            read_number(&entry[8..])?,
            read_number(&entry[12..])?,
        ))
    };
    entries.iter().map(read).collect()
}

impl Policy for Recalc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: !self.faithful,
        }
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        !is_spread(origin)
    }

    fn shares_out(&self) -> bool {
        // Peers tell rates of what they have.
        false
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        self.count(case);
        let decision = self.within_rate(case).or_else(|| self.to_peer(case));
        match (decision, self.faithful) {
            (Some(decision), _) => decision,
            (None, true) => Decision::Reject(Reason::NoRoom),
            // Above its rate, and nobody else has room: better here than nowhere.
            (None, false) => case.run_well_here().unwrap_or_else(|| beyond(case)),
        }
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        if let (Origin::Neighbour, Some(from)) = (case.request.origin, case.request.more.from)
            && !self.takes_from(case, &from)
        {
            return Decision::Reject(Reason::NoRoom);
        }
        receive(case, |case| {
            self.within_rate(case).or_else(|| self.to_peer(case))
        })
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        if outcome.to.is_none() && outcome.ending == Ending::Answered {
            let cells = self.own.entry(Which::of(outcome.function), outcome.ended);
            cells[SERVICE].blend(outcome.timing.ran.as_secs_f64(), 0.1);
        }
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        let now = seconds(field.now);
        self.own.open();
        self.told.open();
        let half = self.period.checked_div(2).unwrap_or(self.period);
        if self.faithful && self.step.get() == Some(1.0) {
            self.step.set(0.0);
            self.weigh(now);
            return field.now + half;
        }
        self.step.set(1.0);
        let before = self.ticked.get();
        self.ticked.set(now);
        let elapsed = before.map_or(self.period.as_secs_f64(), |before| now - before);
        let told = self.work_out(field, elapsed);
        if !told.is_empty() {
            wishes.tell(note_of(&told));
        }
        field.now + if self.faithful { half } else { self.period }
    }

    fn hear(&self, from: PeerId, note: &[u8], now: Time) -> Result<(), Malformed> {
        for (function, limit, excess) in read_note(note).ok_or(Malformed)? {
            let which = Which::told([function, 0]).at(Some(&from));
            let cells = self.told.entry(which, now);
            cells[TAKES].set(limit);
            cells[EXCESS].set(excess);
            cells[HEARD].set(seconds(now));
        }
        Ok(())
    }

    fn weight(&self, function: &FunctionName, _: ClassKey, to: Option<&PeerId>) -> Option<f64> {
        let of = Which::of(function);
        match to {
            Some(_) => self.told.find(of.at(to))?[TAKES].get(),
            None => self.own.find(of)?[MOST].get(),
        }
    }

    fn set_weight(
        &self,
        function: &FunctionName,
        _: ClassKey,
        to: Option<&PeerId>,
        weight: Option<f64>,
        now: Time,
    ) -> bool {
        let of = Which::of(function).at(to);
        match (to, weight) {
            (None, _) => return false,
            (Some(_), Some(weight)) => {
                let cells = self.told.entry(of, now);
                cells[TAKES].set(weight.max(0.0));
                cells[HEARD].set(seconds(now));
            }
            (Some(_), None) => self.told.forget(of),
        }
        true
    }
}

#[cfg(test)]
mod tests;
