//! The linear program of `qos-aware`: which share of the calls of each function and
//! class goes where.

use super::simplex::Program;

/// Where a call may run: here, at a neighbour, in a region.
pub(super) const PLACES: usize = 3;

/// What a call that misses its deadline is worth less than one that nobody runs, so
/// that what gains nothing is still run where there is room, the nearer the better.
const LITTLE: [f64; PLACES] = [3e-6, 2e-6, 1e-6];

/// What the promised share of a class is worth, beside all utilities.
const PROMISE: f64 = 1e3;

/// What is known of one function at one place. Times in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct AtPlace {
    /// Mean time that a call runs.
    pub(super) service: f64,
    /// Mean time that a start takes.
    pub(super) start: f64,
    /// Share of calls that wait for a start.
    pub(super) cold: f64,
    /// The way there and back.
    pub(super) way: f64,
}

/// Calls of one function and class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// Calls in a second.
    pub(super) rate: f64,
    /// What a call in time is worth.
    pub(super) utility: f64,
    /// What a call too late costs.
    pub(super) penalty: f64,
    /// Share of calls that the class promises to run.
    pub(super) completion: f64,
    /// Seconds that a call has; infinite for all.
    pub(super) deadline: f64,
    /// Processors that a call takes.
    pub(super) cores: f64,
    /// Each place; `None` where there is none.
    pub(super) places: [Option<AtPlace>; PLACES],
}

/// What there is of each place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Processors here.
    pub(super) local: f64,
    /// Processors at neighbours.
    pub(super) edge: f64,
    /// What the cloud costs for a second of a processor.
    pub(super) price: f64,
    /// What may be spent in a second; infinite for no such bound.
    pub(super) budget: f64,
}

/// Shares of calls: here, at neighbours, in regions, nowhere.
pub(super) type Split = [f64; PLACES + 1];

impl AtPlace {
    /// How likely a call is done within its deadline: exponential service, as
    /// Serverledge has it.
    pub(super) fn in_time(&self, deadline: f64) -> f64 {
        if deadline.is_infinite() {
            return 1.0;
        }
        let left = deadline - self.way;
        let within = |time: f64| match time > 0.0 {
            true => 1.0 - (-time / self.service.max(1e-9)).exp(),
            false => 0.0,
        };
        self.cold * within(left - self.start) + (1.0 - self.cold) * within(left)
    }
}

impl Demand {
    /// What a call is worth at a place.
    pub(super) fn gain(&self, place: usize) -> Option<f64> {
        let in_time = self.places[place]?.in_time(self.deadline);
        Some(self.utility * in_time - self.penalty * (1.0 - in_time))
    }
}

/// Which part of the program each share of a demand is, and which part is its kept
/// promise.
type Parts = ([Option<usize>; PLACES], Option<usize>);

/// A program as demands are added to it.
#[derive(Default)]
struct Draft {
    program: Program,
    parts: Vec<Parts>,
    /// What one of each part takes of a place.
    takes: [Vec<(usize, f64)>; PLACES],
}

impl Draft {
    /// Adds a demand; `little` is what a call is worth beside its gain at each place,
    /// `largest` the largest utility of all demands.
    fn add(&mut self, demand: &Demand, little: [f64; PLACES], price: f64, largest: f64) {
        let program = &mut self.program;
        let mut shares = [None; PLACES];
        let mut all = Vec::new();
        for (at, share) in shares.iter_mut().enumerate() {
            let (Some(place), Some(gain)) = (demand.places[at], demand.gain(at)) else {
                continue;
            };
            let part = program.gains.len();
            program.gains.push(demand.rate * (gain + little[at]));
            all.push((part, 1.0));
            let takes = demand.rate * demand.cores * place.service;
            self.takes[at].push(match at {
                0 | 1 => (part, takes),
                _ => (part, takes * price),
            });
            *share = Some(part);
        }
        program.limits.push((all.clone(), 1.0));
        let kept = (demand.completion > 0.0).then(|| {
            let part = program.gains.len();
            let worth = demand.rate.max(1e-6) * largest * PROMISE;
            program.gains.push(worth);
            program.limits.push((vec![(part, 1.0)], demand.completion));
            let less = all.iter().map(|(part, _)| (*part, -1.0));
            let row = std::iter::once((part, 1.0)).chain(less).collect();
            program.limits.push((row, 0.0));
            part
        });
        self.parts.push((shares, kept));
    }

    /// Bounds what is taken of each place.
    fn limit(&mut self, limits: &Limits) {
        let [local, edge, cloud] = std::mem::take(&mut self.takes);
        self.program.limits.push((local, limits.local));
        self.program.limits.push((edge, limits.edge));
        if limits.budget.is_finite() {
            self.program.limits.push((cloud, limits.budget));
        }
    }
}

/// The shares of the best plan. Where a promise cannot be kept, `is_strict` has no
/// plan; else it is kept as far as can be. `None` where there is none.
pub(super) fn plan(demands: &[Demand], limits: &Limits, is_strict: bool) -> Option<Vec<Split>> {
    let mut draft = Draft::default();
    let utilities = demands.iter().map(|demand| demand.utility);
    let largest = utilities.fold(1.0, f64::max);
    let little = if is_strict { [0.0; PLACES] } else { LITTLE };
    for demand in demands {
        draft.add(demand, little, limits.price, largest);
    }
    draft.limit(limits);
    let x = draft.program.solve()?;
    let are_kept = demands
        .iter()
        .zip(&draft.parts)
        .all(|(demand, (_, kept))| kept.is_none_or(|part| x[part] >= demand.completion - 1e-6));
    if is_strict && !are_kept {
        return None;
    }
    let split = |(shares, _): &Parts| {
        let mut split = [0.0; PLACES + 1];
        for (share, part) in split.iter_mut().zip(shares) {
            *share = part.map_or(0.0, |part| x[part].clamp(0.0, 1.0));
        }
        let sum: f64 = split.iter().sum();
        split[PLACES] = (1.0 - sum).max(0.0);
        split
    };
    Some(draft.parts.iter().map(split).collect())
}
