//! `node-margin`: nodes tell how much of them is left, and one that would be in use
//! by too much moves calls to those, a percent at a time.
//!
//! DFaaS, Node Margin Strategy (reference, section 5.2).
//!
//! Formula, each period, with the use that a predictor gives for the rates of three
//! groups of functions:
//!
//! * overloaded where any predicted use is above its threshold;
//! * `usage = mean of predicted / threshold`, `margin = (1 - usage) / k` for k peers,
//!   0 where overloaded;
//! * while overloaded, round robin over peers with a margin and over functions: move
//!   1 % of what is left of the function where the peer's margin exceeds by how much
//!   its use would grow;
//! * `p(here) = kept / all`, `p(peer) = sent / all` for each function.
//!
//! Mended: the predictor was a table of three sizes of machine and six functions, in
//! another process whose errors ended the agent: here each node learns a line through
//! what it measures of itself (`predictor=learned`), or takes the time that calls ran
//! (`measured`), and tells what a call more of each group would make of it. A function
//! that was in no list counted for nothing: here its group follows from its run time.
//! The mean hid a resource that was used up behind one that was idle: here the
//! scarcest counts. Steps were not bounded. What a node told of its light functions
//! was taken for its middling ones; who once shared a function did so for ever; a
//! margin of an unknown peer ended the agent: here what is told has one format, and an
//! age. An overload between two rounds, a minute apart, lost calls: rounds are a
//! second apart, and what finds no room here goes at once by the margins that were
//! told.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::area::{
    FAITHFUL, PERIOD, Place, Shares, around, beyond, in_proportion, is_spread, others, period,
    read_number, receive, seconds, written,
};
use super::learning::Malformed;
use super::{
    Case, Cell, Decision, Ending, Field, Key, Kind, Memory, Origin, Outcome, Plan, Policy, Range,
    Reach, Reaches, Reason, Which, Wishes,
};
use crate::report::Load;

mod predictor;

use predictor::{GROUPS, Learned, Measured, Predictor, Rates, Sample, Usage};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "predicts how much of this node calls would use, and moves what is too much to peers that tell of a margin",
    keys: &[
        Key {
            name: "predictor",
            about: "what predicts the use: a line that is learned, or the time that calls ran",
            unit: "",
            range: Range::Word(&["learned", "measured"]),
            default: "learned",
        },
        threshold(
            "cpu-threshold",
            "share of processors that may be in use",
            "80",
        ),
        threshold(
            "memory-threshold",
            "share of memory that may be in use",
            "90",
        ),
        PERIOD,
        FAITHFUL,
    ],
    build: |parameters| {
        let faithful = parameters.flag("faithful");
        let predictor: Box<dyn Predictor> = match parameters.word("predictor") {
            "measured" => Box::new(Measured::default()),
            _ => Box::new(Learned::default()),
        };
        Arc::new(NodeMargin {
            predictor,
            thresholds: Usage {
                cpu: parameters.number("cpu-threshold") / 100.0,
                memory: parameters.number("memory-threshold") / 100.0,
            },
            period: period(parameters.time("period"), faithful, PUBLISHED),
            faithful,
            own: Memory::new(FUNCTIONS_KNOWN),
            peers: Memory::new(PEERS_KNOWN),
            ran: Default::default(),
            work: Default::default(),
            guests: Default::default(),
            ticked: Cell::default(),
            plan: Plan::default(),
        })
    },
};

const NAME: &str = "node-margin";

const fn threshold(name: &'static str, about: &'static str, default: &'static str) -> Key {
    Key {
        name,
        about,
        unit: "%",
        range: Range::Number {
            least: 1.0,
            most: 1_000.0,
        },
        default,
    }
}

/// The period of DFaaS.
const PUBLISHED: Duration = Duration::from_secs(60);

/// Functions whose calls are counted.
const FUNCTIONS_KNOWN: usize = 1 << 10;

/// Functions that a round moves calls of, those with most work.
const FUNCTIONS_MOVED: usize = 64;

/// Peers whose word is remembered.
const PEERS_KNOWN: usize = 8 << 10;

/// Peers that a round moves calls to, those with the largest margins.
const PEERS_MOVED_TO: usize = 64;

/// Steps of one round.
const STEPS_MAX: usize = 20_000;

/// Periods after which a margin that was not told again is nothing any more.
const PERIODS_KEPT: f64 = 3.0;

/// The same, as published.
const PERIODS_KEPT_PUBLISHED: f64 = 2.0;

/// What the newest period counts in a rate.
const NEWEST: f64 = 0.5;

/// Seconds of a processor up to which a call is light, and up to which middling.
const WORK_OF_GROUPS: [f64; GROUPS - 1] = [0.01, 0.1];

/// The first byte of a note.
const FORMAT: u8 = 1;

/// Numbers of a note: margin, whether overloaded, rates, and growth of each group.
const NUMBERS: usize = 2 + 2 * GROUPS;

// Numbers of a function here.
const ARRIVED: usize = 0;
const RATE: usize = 1;
const CORES: usize = 2;
const SERVICE: usize = 3;
const LAST: usize = 4;

// Numbers of a peer.
const MARGIN: usize = 0;
const HEARD: usize = 1;
const OVERLOADED: usize = 2;
/// By how much a call more a second of each group makes its use grow, as it says.
const GROWTH: usize = 3;

/// Shares of functions, in the order of their keys.
type Moved = Vec<(u64, Shares<Option<Place>>)>;

/// Moves what is too much.
struct NodeMargin {
    predictor: Box<dyn Predictor>,
    thresholds: Usage,
    period: Duration,
    faithful: bool,
    own: Memory<5>,
    peers: Memory<{ 3 + GROUPS }>,
    /// Calls that ran here since the last round, by groups; of them peers' ones; and
    /// the seconds of a processor that a call of each took.
    ran: [Cell; GROUPS],
    guests: [Cell; GROUPS],
    work: [Cell; GROUPS],
    ticked: Cell,
    plan: Plan<Moved>,
}

/// A function of this node's own users, in a round.
struct Function {
    key: u64,
    group: usize,
    rate: f64,
    left: f64,
    sent: Vec<(usize, f64)>,
}

/// A peer with a margin, in a round.
struct Seller {
    place: Place,
    margin: f64,
    growth: Rates,
}

fn group_of(work: f64) -> usize {
    WORK_OF_GROUPS.iter().filter(|most| work > **most).count()
}

fn drained(cells: &[Cell; GROUPS]) -> Rates {
    std::array::from_fn(|at| {
        let count = cells[at].get().unwrap_or(0.0);
        cells[at].add(-count);
        count
    })
}

impl NodeMargin {
    fn count(&self, case: &Case<'_>) {
        let (request, now) = (case.request, case.snapshot.now);
        if case.is_trial() {
            return;
        }
        if let Some(cells) = self.own.entry_if_open(Which::of(request.function), now) {
            cells[ARRIVED].add(1.0);
            cells[CORES].set(f64::from(request.cost.cpu) / 1e3);
            cells[LAST].set(seconds(now));
        }
    }

    fn is_fresh(&self, heard: Option<f64>, now: f64) -> bool {
        let kept = match self.faithful {
            true => PERIODS_KEPT_PUBLISHED,
            false => PERIODS_KEPT,
        };
        heard.is_some_and(|heard| now - heard <= kept * self.period.as_secs_f64())
    }

    /// By the plan of the last round.
    fn planned(&self, case: &mut Case<'_>) -> Option<Decision> {
        let plan = self.plan.current();
        let [function, _] = case.function().numbers();
        let found = plan.as_deref().and_then(|plan| {
            let at = plan.binary_search_by_key(&function, |(of, _)| *of).ok()?;
            plan.get(at)
        });
        let (to, share) = match found {
            Some((_, shares)) => shares.draw(case.chance())?,
            None => (None, 1.0),
        };
        let Some(place) = to else {
            case.own_terms().put("share", share);
            return case.run_well_here();
        };
        let candidate = place.candidate(case)?;
        case.terms(&candidate).put("share", share);
        Some(case.send(candidate.place, Reach::Horizontal))
    }

    /// By the margins that were told, for what has no room here.
    fn by_margins(&self, case: &mut Case<'_>) -> Option<Decision> {
        let pool = around(case)?;
        let now = seconds(case.snapshot.now);
        let told = in_proportion(case, pool, Reach::Horizontal, |candidate, terms| {
            let cells = self.peers.find(Which::NODE.to_peer(candidate.peer.key));
            let cells = cells.filter(|cells| self.is_fresh(cells[HEARD].get(), now));
            let margin = cells.and_then(|cells| cells[MARGIN].get()).unwrap_or(0.0);
            terms.put("margin_share", margin);
            margin
        });
        told.or_else(|| {
            in_proportion(case, pool, Reach::Horizontal, |candidate, _| {
                f64::from(candidate.room())
            })
        })
    }

    /// The share of what may be used that is used, and whether any is used up.
    fn usage(&self, predicted: Usage) -> (f64, bool) {
        let cpu = predicted.cpu / self.thresholds.cpu;
        let memory = predicted.memory / self.thresholds.memory;
        let usage = match self.faithful {
            true => (cpu + memory) / 2.0,
            false => cpu.max(memory),
        };
        (usage, cpu > 1.0 || memory > 1.0)
    }

    /// The functions of own users, those with most work first.
    fn functions(&self, elapsed: f64, now: f64) -> Vec<Function> {
        let mut functions = Vec::new();
        let mut gone = Vec::new();
        for (which, cells) in self.own.rows() {
            let read = |at: usize| cells[at].get().unwrap_or(0.0);
            let arrived = read(ARRIVED);
            cells[ARRIVED].add(-arrived);
            let rate = cells[RATE].blend(arrived / elapsed, NEWEST);
            if now - read(LAST) > 30.0 * self.period.as_secs_f64() {
                gone.push(which);
                continue;
            }
            let work = read(CORES) * read(SERVICE);
            functions.push((
                rate * work,
                Function {
                    key: which.numbers()[0],
                    group: group_of(work),
                    rate,
                    left: rate,
                    sent: Vec::new(),
                },
            ));
        }
        for which in gone {
            self.own.forget(which);
        }
        functions.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        functions.truncate(FUNCTIONS_MOVED);
        functions
            .into_iter()
            .map(|(_, function)| function)
            .collect()
    }

    /// Peers with margins, the largest first; and how many of all are overloaded.
    fn sellers(&self, field: &Field<'_>, now: f64) -> (Vec<Seller>, f64, f64) {
        let pool = others(field.role, field.regions, field.view);
        let (mut sellers, mut heard, mut overloaded) = (Vec::new(), 0.0, 0.0);
        for at in pool.into_iter().flat_map(|pool| pool.members()) {
            let place = Place::of(at, field.view);
            let Some(cells) = self.peers.find(Which::NODE.to_peer(place.key)) else {
                continue;
            };
            if !self.is_fresh(cells[HEARD].get(), now) {
                continue;
            }
            heard += 1.0;
            overloaded += cells[OVERLOADED].get().unwrap_or(0.0);
            let margin = cells[MARGIN].get().unwrap_or(0.0);
            if margin > 0.0 {
                let growth = |at: usize| cells[GROWTH + at].get().unwrap_or(0.0);
                sellers.push(Seller {
                    place,
                    margin,
                    growth: std::array::from_fn(growth),
                });
            }
        }
        sellers.sort_by(|one, other| other.margin.total_cmp(&one.margin));
        sellers.truncate(PEERS_MOVED_TO);
        (sellers, heard, overloaded)
    }

    /// By how much the use grows with a call more a second of each group.
    fn growth(&self, rates: &Rates) -> Rates {
        let (usage, _) = self.usage(self.predictor.usage(rates));
        std::array::from_fn(|group| {
            let mut more = *rates;
            more[group] += 1.0;
            let (grown, _) = self.usage(self.predictor.usage(&more));
            (grown - usage).max(0.0)
        })
    }

    /// Moves calls to peers until this node is no longer overloaded.
    fn move_calls(&self, functions: &mut [Function], sellers: &mut [Seller], mut rates: Rates) {
        let pairs = functions.len() * sellers.len();
        let mut refused = vec![false; pairs];
        let mut left = pairs;
        for step in 0..STEPS_MAX {
            let (_, is_overloaded) = self.usage(self.predictor.usage(&rates));
            if !is_overloaded || left == 0 {
                return;
            }
            let pair = step % pairs;
            if refused[pair] {
                continue;
            }
            // One peer after the other, and of each one function after the other.
            let (seller, function) = (pair % sellers.len(), pair / sellers.len());
            let (to, of) = (&mut sellers[seller], &mut functions[function]);
            let moved = match self.faithful {
                true => of.left / 100.0,
                // Of what it had: what is left of what is left never ends.
                false => (of.rate / 100.0).min(of.left),
            };
            let grows = moved * to.growth[of.group];
            if moved < 1e-6 || to.margin <= grows {
                refused[pair] = true;
                left -= 1;
                continue;
            }
            to.margin -= grows;
            of.left -= moved;
            rates[of.group] = (rates[of.group] - moved).max(0.0);
            match of.sent.iter_mut().find(|(known, _)| *known == seller) {
                Some((_, sent)) => *sent += moved,
                None => of.sent.push((seller, moved)),
            }
        }
    }

    fn measured(&self, load: &Load) -> Usage {
        let used = |free: f64, total: f64| match total > 0.0 {
            true => (1.0 - free / total).clamp(0.0, 1.0),
            false => 0.0,
        };
        Usage {
            cpu: used(f64::from(load.cpu_free), f64::from(load.cpu_total)),
            memory: used(load.memory_free as f64, load.memory_total as f64),
        }
    }
}

/// A note of a node's margin.
fn note_of(margin: f64, is_overloaded: bool, rates: &Rates, growth: &Rates) -> Vec<u8> {
    let mut note = vec![FORMAT];
    note.extend(written(margin));
    note.extend(written(if is_overloaded { 1.0 } else { 0.0 }));
    for number in rates.iter().chain(growth) {
        note.extend(written(*number));
    }
    note
}

fn read_note(note: &[u8]) -> Option<[f64; NUMBERS]> {
    let (format, rest) = note.split_first()?;
    if *format != FORMAT || rest.len() != 4 * NUMBERS {
        return None;
    }
    let mut numbers = [0.0; NUMBERS];
    for (number, bytes) in numbers.iter_mut().zip(rest.chunks_exact(4)) {
        *number = read_number(bytes)?;
    }
    Some(numbers)
}

impl Policy for NodeMargin {
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
        // What is too much here waits, and asks.
        false
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        self.count(case);
        let planned = self.planned(case);
        match (planned, self.faithful) {
            (Some(decision), _) => decision,
            (None, true) => Decision::Reject(Reason::NoRoom),
            (None, false) => case
                .run_well_here()
                .or_else(|| self.by_margins(case))
                .unwrap_or_else(|| beyond(case)),
        }
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        receive(case, |case| {
            case.run_well_here().or_else(|| self.by_margins(case))
        })
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        if outcome.to.is_some() || outcome.ending != Ending::Answered {
            return;
        }
        let cells = self.own.entry(Which::of(outcome.function), outcome.ended);
        let service = cells[SERVICE].blend(outcome.timing.ran.as_secs_f64(), 0.1);
        let work = service * cells[CORES].get().unwrap_or(1.0);
        let group = group_of(work);
        self.ran[group].add(1.0);
        self.work[group].blend(work, 0.1);
        if outcome.from.is_some() {
            self.guests[group].add(1.0);
        }
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        let (now, next) = (seconds(field.now), field.now + self.period);
        self.own.open();
        let before = self.ticked.get();
        self.ticked.set(now);
        let (ran, guests) = (drained(&self.ran), drained(&self.guests));
        let elapsed = before.map_or(self.period.as_secs_f64(), |before| now - before);
        let elapsed = elapsed.max(1e-3);
        let a_second = |counts: Rates| counts.map(|count| count / elapsed);
        self.predictor.learn(&Sample {
            rates: a_second(ran),
            work: std::array::from_fn(|at| self.work[at].get().unwrap_or(0.0)),
            cores: f64::from(field.load.cpu_total) / 1e3,
            usage: self.measured(&field.load),
        });
        let mut functions = self.functions(elapsed, now);
        // What this node would run if it kept all of its own, beside its guests.
        let mut rates = a_second(guests);
        for function in &functions {
            rates[function.group] += function.rate;
        }
        let (usage, is_overloaded) = self.usage(self.predictor.usage(&rates));
        let (mut sellers, heard, overloaded) = self.sellers(field, now);
        let sharers = if self.faithful { heard } else { overloaded };
        let margin = match (is_overloaded, self.faithful && heard == 0.0) {
            (true, _) | (_, true) => 0.0,
            (false, false) => (1.0 - usage).max(0.0) / sharers.max(1.0),
        };
        wishes.tell(note_of(margin, is_overloaded, &rates, &self.growth(&rates)));
        let mut moved = Moved::new();
        if is_overloaded && !sellers.is_empty() && !functions.is_empty() {
            self.move_calls(&mut functions, &mut sellers, rates);
            for function in functions {
                let sent = function.sent.iter();
                let sent = sent.map(|(seller, sent)| (Some(sellers[*seller].place), *sent));
                let kept = std::iter::once((None, function.left));
                moved.push((function.key, Shares::new(kept.chain(sent))));
            }
            moved.sort_unstable_by_key(|(key, _)| *key);
        }
        self.plan.publish(moved);
        next
    }

    fn hear(&self, from: PeerId, note: &[u8], now: Time) -> Result<(), Malformed> {
        let numbers = read_note(note).ok_or(Malformed)?;
        let cells = self.peers.entry(Which::NODE.at(Some(&from)), now);
        cells[MARGIN].set(numbers[0].min(1.0));
        cells[OVERLOADED].set(numbers[1].min(1.0));
        cells[HEARD].set(seconds(now));
        for group in 0..GROUPS {
            cells[GROWTH + group].set(numbers[2 + GROUPS + group]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
