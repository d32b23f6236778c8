//! `qos-aware`: a linear program says which share of the calls of each function and
//! class runs here, at neighbours, in the cloud, and nowhere; each call is drawn by
//! its shares.
//!
//! G. Russo Russo, D. Ferrarelli, D. Pasquali, V. Cardellini, F. Lo Presti,
//! "QoS-aware offloading policies for serverless functions in the Cloud-to-Edge
//! continuum", FGCS 156, 2024; Serverledge's branch `fgcs24` (reference, section 8).
//!
//! Formula, over all functions and classes i with arrivals a and places L, E, C:
//!
//! * in time at a place: `P = K (1 - exp(-(D' - I) / S)) + (1 - K) (1 - exp(-D' / S))`
//!   with mean service S, start I, share of cold calls K, and D' the deadline less the
//!   way there and back;
//! * maximise `sum a (p P utility - p (1 - P) penalty)` over places, subject to
//!   `pL + pE + pC + pD = 1`, `pD <= 1 - completion`, processors here and at
//!   neighbours, and the cloud's cost within the budget.
//!
//! Mended: the solver was another program, asked every ten seconds: here a few
//! milliseconds between decisions, each second. A promise that could not be kept left
//! the last plan in force: here it is kept as far as can be. Arrivals were guessed
//! from ends; capacity was memory alone, here it is processors, which reports tell.
//! What was impossible was taken out while the shares were read, so that the rest was
//! not in proportion; the budget was checked against the neighbours' run time and
//! averaged since the start, so that an idle night was a burst by day: here a minute's
//! worth is saved at most. Losses of the node's whole life scaled its capacity: here
//! it is what it is. A pick that fails tries the other places.

use std::sync::Arc;
use std::time::Duration;

use weir_node_core::time::Time;

use super::area::{FAITHFUL, PERIOD, beyond, is_spread, period, seconds};
use super::learning::Malformed;
use super::{
    Bounds, Case, Cell, ClassKey, Decision, Ending, Field, Key, Kind, Memory, Origin, Outcome,
    Plan, Policy, Range, Reach, Reaches, Reason, Which, Wishes,
};
use crate::snapshot::Pool;

mod plan;
mod simplex;

use plan::{AtPlace, Demand, Limits, PLACES, Split, plan};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "draws where a call runs by shares that a linear program finds, from utilities, deadlines, promises and a budget",
    keys: &[
        Key {
            name: "classes",
            about: "QoS classes with utility, completion and penalty, as gold/1/0.9+bulk/0.01; what is left out is as the parameters of these names say",
            unit: "",
            range: Range::Shape {
                bytes_max: 400,
                shape: "NAME/UTILITY[/COMPLETION[/PENALTY]], several with + between them",
                reads: |text| read_classes(text).is_some(),
            },
            default: "",
        },
        number_key(
            "utility",
            "what a call in time is worth, of other classes",
            1_000.0,
            "1",
        ),
        number_key(
            "completion",
            "share of calls that is promised to run, of other classes",
            1.0,
            "0",
        ),
        number_key(
            "penalty",
            "what a call too late costs, of other classes",
            1_000.0,
            "0",
        ),
        Key {
            unit: "per second of a processor",
            ..number_key(
                "cloud-cost",
                "what a call in the cloud costs",
                1_000.0,
                "0.01",
            )
        },
        Key {
            unit: "per hour",
            ..number_key(
                "budget",
                "what the cloud may cost; 0 for no such bound",
                1e9,
                "0",
            )
        },
        PERIOD,
        FAITHFUL,
    ],
    build: |parameters| {
        let faithful = parameters.flag("faithful");
        Arc::new(QosAware {
            classes: read_classes(parameters.text("classes")).unwrap_or_default(),
            usual: Promise {
                utility: parameters.number("utility"),
                completion: parameters.number("completion"),
                penalty: parameters.number("penalty"),
            },
            price: parameters.number("cloud-cost"),
            budget: Some(parameters.number("budget") / 3_600.0).filter(|budget| *budget > 0.0),
            period: period(parameters.time("period"), faithful, PUBLISHED),
            faithful,
            calls: Memory::new(PAIRS_KNOWN),
            places: std::array::from_fn(|_| Memory::new(FUNCTIONS_KNOWN)),
            plan: Plan::default(),
            purse: Cell::default(),
            ticked: Cell::default(),
            began: Cell::default(),
            arrived: Cell::default(),
            dropped: Cell::default(),
        })
    },
};

const NAME: &str = "qos-aware";

/// A parameter that is a number from 0.
const fn number_key(
    name: &'static str,
    about: &'static str,
    most: f64,
    default: &'static str,
) -> Key {
    Key {
        name,
        about,
        unit: "",
        range: Range::Number { least: 0.0, most },
        default,
    }
}

/// The interval of Serverledge's solver.
const PUBLISHED: Duration = Duration::from_secs(10);

/// Pairs of function and class that are told apart.
const PAIRS_KNOWN: usize = 2 << 10;

/// Functions of which it is known how they run at a place.
const FUNCTIONS_KNOWN: usize = 1 << 10;

/// Pairs that one program decides about, those with most at stake: so many are
/// solved in some milliseconds. Others go as if there were no plan.
const PAIRS_PLANNED: usize = 32;

/// Classes that the parameter may name.
const CLASSES_MAX: usize = 16;

/// Periods without a call after which a pair is forgotten, as Serverledge's.
const PERIODS_KEPT: f64 = 20.0;

/// What a call runs where nobody knows, in seconds, as Serverledge's.
const SERVICE_UNKNOWN: f64 = 0.1;

/// What one sample counts in an average.
const SAMPLE: f64 = 0.1;

/// What the newest period counts in the rate of calls.
const NEWEST: f64 = 0.5;

/// For how long of the budget may be saved, in seconds.
const SAVED_SECONDS: f64 = 60.0;

// Numbers of a function and class.
const ARRIVED: usize = 0;
const RATE: usize = 1;
const CORES: usize = 2;
const DEADLINE: usize = 3;
const LAST: usize = 4;

// Numbers of a function at a place, in seconds; the cold share is one.
const SERVICE: usize = 0;
const START: usize = 1;
const COLD: usize = 2;
const WAY: usize = 3;

/// What a class is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Promise {
    utility: f64,
    completion: f64,
    penalty: f64,
}

/// What is known of classes that the parameter names: what it leaves out is `None`.
type Classes = Vec<(ClassKey, f64, Option<f64>, Option<f64>)>;

fn read_classes(text: &str) -> Option<Classes> {
    let within = |text: Option<&str>, most: f64| match text {
        None => Some(None),
        Some(text) => {
            let number: f64 = text.parse().ok()?;
            (0.0..=most).contains(&number).then_some(Some(number))
        }
    };
    let mut classes = Classes::new();
    for one in text.split('+').filter(|_| !text.is_empty()) {
        let mut words = one.trim().split('/');
        let name = words.next().filter(|name| !name.is_empty())?;
        let utility = within(words.next(), 1_000.0)??;
        let completion = within(words.next(), 1.0)?;
        let penalty = within(words.next(), 1_000.0)?;
        let key = ClassKey::of(Some(name));
        let is_known = classes.iter().any(|class| class.0 == key);
        if words.next().is_some() || is_known || classes.len() == CLASSES_MAX {
            return None;
        }
        classes.push((key, utility, completion, penalty));
    }
    Some(classes)
}

/// Draws by the plan.
struct QosAware {
    classes: Classes,
    usual: Promise,
    price: f64,
    /// What the cloud may cost, in a second.
    budget: Option<f64>,
    period: Duration,
    faithful: bool,
    calls: Memory<5>,
    places: [Memory<4>; PLACES],
    /// In the order of what they are of.
    plan: Plan<Vec<(Which, Split)>>,
    /// What may be spent now; as published, what was spent.
    purse: Cell,
    ticked: Cell,
    began: Cell,
    /// Calls that came, and those of them that were refused, since the start: as
    /// published they scale this node's capacity.
    arrived: Cell,
    dropped: Cell,
}

impl QosAware {
    fn promise(&self, class: u64) -> Promise {
        let found = self.classes.iter().find(|known| known.0.as_u64() == class);
        let Some((_, utility, completion, penalty)) = found else {
            return self.usual;
        };
        Promise {
            utility: *utility,
            completion: completion.unwrap_or(self.usual.completion),
            penalty: penalty.unwrap_or(self.usual.penalty),
        }
    }

    fn count(&self, case: &Case<'_>, which: Which) {
        let now = case.snapshot.now;
        if case.is_trial() {
            return;
        }
        let Some(cells) = self.calls.entry_if_open(which, now) else {
            return;
        };
        cells[ARRIVED].add(1.0);
        cells[CORES].set(f64::from(case.request.cost.cpu) / 1e3);
        cells[LAST].set(seconds(now));
        match case.request.more.class.deadline {
            Some(deadline) => cells[DEADLINE].set(deadline.as_secs_f64()),
            None => cells[DEADLINE].clear(),
        }
    }

    /// The shares of a call, without those of places that are impossible.
    fn split(&self, case: &mut Case<'_>, which: Which) -> Option<Split> {
        let plan = self.plan.current();
        let planned = plan.as_deref().and_then(|plan| {
            let at = plan.binary_search_by_key(&which, |(of, _)| *of).ok()?;
            Some(plan[at].1)
        });
        let mut split = match (planned, self.faithful) {
            (Some(split), _) => split,
            (None, true) => [0.5, 0.25, 0.25, 0.0],
            (None, false) => return None,
        };
        let mut terms = case.own_terms();
        for (name, share) in ["here_share", "edge_share", "cloud_share", "drop_share"]
            .into_iter()
            .zip(split)
        {
            terms.put(name, share);
        }
        let leaves = case.may_leave();
        let near = leaves && !case.snapshot.view.neighbours().is_empty();
        let possible = [
            case.run_well_here().is_some(),
            near,
            leaves && case.request.bounds == Bounds::Federation && self.affords(case),
        ];
        possible_of(&mut split, possible).then_some(split)
    }

    /// Whether a call may go to the cloud at its cost.
    fn affords(&self, case: &Case<'_>) -> bool {
        let Some(budget) = self.budget else {
            return true;
        };
        let purse = self.purse.get();
        if !self.faithful {
            // The last one may cost more than is left.
            return purse.is_none_or(|left| left > 0.0);
        }
        // As published, by the average since the start and the neighbours' time.
        let service = self.places[1].find(case.function());
        let service = service.and_then(|cells| cells[SERVICE].get());
        let cores = f64::from(case.request.cost.cpu) / 1e3;
        let cost = self.price * service.unwrap_or(SERVICE_UNKNOWN) * cores;
        let elapsed = seconds(case.snapshot.now) - self.began.get().unwrap_or(0.0);
        (purse.unwrap_or(0.0) + cost) / elapsed.max(1e-3) <= budget
    }

    fn cloud(&self, case: &mut Case<'_>) -> Option<Decision> {
        match self.affords(case) {
            true => case.cloud(),
            false => None,
        }
    }

    /// Where a call goes for which there is no plan, or whose pick has no room.
    fn elsewhere(&self, case: &mut Case<'_>) -> Decision {
        let decision = case
            .run_well_here()
            .or_else(|| case.neighbour())
            .or_else(|| self.cloud(case));
        match (decision, self.faithful) {
            (Some(decision), _) => decision,
            (None, true) => Decision::Reject(Reason::NoRoom),
            (None, false) if self.affords(case) => beyond(case),
            (None, false) => case.run_here().unwrap_or_else(|| match case.queue() {
                Ok(decision) => decision,
                Err(Reason::NoRoom) => Decision::Reject(Reason::NobodyHasRoom),
                Err(reason) => Decision::Reject(reason),
            }),
        }
    }

    fn decided(&self, case: &mut Case<'_>) -> Decision {
        let which = case.which();
        self.count(case, which);
        let Some([here, edge, cloud, _]) = self.split(case, which) else {
            return self.elsewhere(case);
        };
        let drawn = case.chance();
        let picked = if drawn < here {
            case.run_well_here()
        } else if drawn < here + edge {
            case.neighbour().or_else(|| self.cloud(case))
        } else if drawn < here + edge + cloud {
            self.cloud(case)
        } else {
            return Decision::Reject(Reason::NoRoom);
        };
        picked.unwrap_or_else(|| self.elsewhere(case))
    }

    /// The factor of this node's capacity.
    fn scale(&self) -> f64 {
        let arrived = self.arrived.get().unwrap_or(0.0);
        match self.dropped.get().map(|dropped| dropped / arrived.max(1.0)) {
            Some(loss) if loss > 0.0 => 1.1 * (1.0 - loss / 2.0),
            Some(_) | None => 1.0,
        }
    }

    /// The calls that are planned, as they are now.
    fn demands(&self, field: &Field<'_>, elapsed: f64) -> Vec<(Which, Demand)> {
        let ways = [0.0, way_to(field, Some(field.view.neighbours())), {
            let pools = field.regions.iter().map(|name| field.view.region(name));
            way_to(field, pools.flatten().next())
        }];
        let is_there = [
            true,
            !field.view.neighbours().is_empty(),
            field
                .regions
                .iter()
                .any(|name| field.view.region(name).is_some()),
        ];
        let mut demands = Vec::new();
        let mut gone = Vec::new();
        let kept = PERIODS_KEPT * self.period.as_secs_f64();
        for (which, cells) in self.calls.rows() {
            let arrived = cells[ARRIVED].get().unwrap_or(0.0);
            cells[ARRIVED].add(-arrived);
            let rate = cells[RATE].blend(arrived / elapsed, NEWEST);
            let last = cells[LAST].get().unwrap_or(0.0);
            if seconds(field.now) - last > kept {
                gone.push(which);
                continue;
            }
            let promise = self.promise(which.numbers()[1]);
            let of = Which::told([which.numbers()[0], 0]);
            let mut places = std::array::from_fn(|at| self.at_place(at, of, ways[at]));
            for (place, is_there) in places.iter_mut().zip(is_there) {
                *place = place.filter(|_| is_there);
            }
            demands.push((
                which,
                Demand {
                    rate,
                    utility: promise.utility,
                    penalty: promise.penalty,
                    completion: promise.completion,
                    deadline: cells[DEADLINE].get().unwrap_or(f64::INFINITY),
                    cores: cells[CORES].get().unwrap_or(1.0),
                    places,
                },
            ));
        }
        for which in gone {
            self.calls.forget(which);
        }
        let stake = |demand: &Demand| demand.rate * (demand.utility + demand.completion + 1e-3);
        demands.sort_by(|(_, one), (_, other)| stake(other).total_cmp(&stake(one)));
        demands.truncate(PAIRS_PLANNED);
        demands
    }

    fn at_place(&self, at: usize, of: Which, way: f64) -> Option<AtPlace> {
        let read = |at: usize, number: usize| self.places[at].find(of)?[number].get();
        let known = read(at, SERVICE);
        // Where it never ran it runs as it does here.
        let service = known.or_else(|| read(0, SERVICE));
        Some(AtPlace {
            service: service.unwrap_or(SERVICE_UNKNOWN),
            start: read(at, START).or_else(|| read(0, START)).unwrap_or(0.0),
            cold: read(at, COLD).unwrap_or(0.0),
            way: if at == 0 {
                0.0
            } else {
                read(at, WAY).unwrap_or(way)
            },
        })
    }

    fn earn(&self, elapsed: f64) {
        if let Some(budget) = self.budget.filter(|_| !self.faithful) {
            let most = budget * SAVED_SECONDS;
            let more = |purse: Option<f64>| match purse {
                None => most,
                Some(left) => (left + budget * elapsed).min(most),
            };
            self.purse.change(more);
        }
    }
}

/// Takes out the shares of places that are impossible, and makes the rest whole;
/// `false` where nothing is left.
fn possible_of(split: &mut Split, possible: [bool; PLACES]) -> bool {
    for (share, is_possible) in split.iter_mut().zip(possible) {
        if !is_possible {
            *share = 0.0;
        }
    }
    let sum: f64 = split.iter().sum();
    for share in split.iter_mut() {
        *share /= sum.max(f64::MIN_POSITIVE);
    }
    sum > 1e-9
}

/// The mean way to some of a pool's members, in seconds.
fn way_to(field: &Field<'_>, pool: Option<&Pool>) -> f64 {
    const SAMPLED: usize = 64;
    let members = pool.into_iter().flat_map(|pool| pool.members());
    let (mut sum, mut count) = (0.0, 0.0);
    for at in members.take(SAMPLED) {
        sum += field.view.peers[at].round_trip().as_secs_f64();
        count += 1.0;
    }
    if count > 0.0 { sum / count } else { 0.0 }
}

impl Policy for QosAware {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: true,
        }
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        !is_spread(origin)
    }

    fn shares_out(&self) -> bool {
        // Its plan is over those that have the code.
        false
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let decision = self.decided(case);
        if self.faithful && !case.is_trial() {
            self.arrived.add(1.0);
            if matches!(decision, Decision::Reject(_)) {
                self.dropped.add(1.0);
            }
        }
        decision
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let at = match outcome.reach {
            None => 0,
            Some(Reach::Horizontal) => 1,
            Some(Reach::Vertical) => 2,
        };
        if outcome.ending != Ending::Answered {
            return;
        }
        let timing = &outcome.timing;
        let of = Which::of(outcome.function);
        let cells = self.places[at].entry(of, outcome.ended);
        cells[SERVICE].blend(timing.ran.as_secs_f64(), SAMPLE);
        let is_cold = !timing.started.is_zero();
        cells[COLD].blend(if is_cold { 1.0 } else { 0.0 }, SAMPLE);
        if is_cold {
            cells[START].blend(timing.started.as_secs_f64(), SAMPLE);
        }
        cells[WAY].blend(outcome.travelled().as_secs_f64(), SAMPLE);
        if at == 2 && self.budget.is_some() {
            let cores = self.calls.find(of.class(outcome.class));
            let cores = cores.and_then(|cells| cells[CORES].get()).unwrap_or(1.0);
            let cost = self.price * cores * timing.ran.as_secs_f64();
            self.purse.add(if self.faithful { cost } else { -cost });
        }
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        let now = seconds(field.now);
        let next = field.now + self.period;
        self.calls.open();
        let before = self.ticked.get();
        self.ticked.set(now);
        let Some(elapsed) = before.map(|before| now - before).filter(|time| *time > 0.0) else {
            self.began.set(now);
            self.earn(0.0);
            return next;
        };
        self.earn(elapsed);
        let demands = self.demands(field, elapsed);
        let neighbours = field.view.neighbours().members();
        let guests = neighbours.map(|at| field.view.peers[at].load().guest_cpu);
        let limits = Limits {
            local: f64::from(field.load.cpu_total) / 1e3 * self.scale(),
            edge: guests.map(f64::from).sum::<f64>() / 1e3,
            price: self.price,
            budget: self.budget.unwrap_or(f64::INFINITY),
        };
        let (which, demands): (Vec<_>, Vec<_>) = demands.into_iter().unzip();
        if let Some(splits) = plan(&demands, &limits, self.faithful) {
            let mut planned: Vec<_> = which.into_iter().zip(splits).collect();
            planned.sort_unstable_by_key(|(which, _)| *which);
            self.plan.publish(planned);
        }
        next
    }

    fn save(&self) -> Option<Vec<u8>> {
        // How functions run at neighbours says most of what a start has to learn.
        self.places[1].save()
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.places[1].restore(saved, now)
    }
}

#[cfg(test)]
mod tests;
