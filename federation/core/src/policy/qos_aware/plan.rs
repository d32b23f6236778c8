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

/// The shares of the best plan. Where a promise cannot be kept, `is_strict` has no
/// plan; else it is kept as far as can be. `None` where there is none.
pub(super) fn plan(demands: &[Demand], limits: &Limits, is_strict: bool) -> Option<Vec<Split>> {
    let mut program = Program::default();
    // Which part each share is, and which part is the kept promise.
    let mut parts: Vec<([Option<usize>; PLACES], Option<usize>)> = Vec::new();
    let [mut local, mut edge, mut cloud] = [const { Vec::new() }; PLACES];
    let largest = demands
        .iter()
        .map(|demand| demand.utility)
        .fold(1.0, f64::max);
    for demand in demands {
        let mut shares = [None; PLACES];
        let mut all = Vec::new();
        for (at, share) in shares.iter_mut().enumerate() {
            let (Some(place), Some(gain)) = (demand.places[at], demand.gain(at)) else {
                continue;
            };
            let little = if is_strict { 0.0 } else { LITTLE[at] };
            let part = program.gains.len();
            program.gains.push(demand.rate * (gain + little));
            all.push((part, 1.0));
            let takes = demand.rate * demand.cores * place.service;
            match at {
                0 => local.push((part, takes)),
                1 => edge.push((part, takes)),
                _ => cloud.push((part, takes * limits.price)),
            }
            *share = Some(part);
        }
        program.limits.push((all.clone(), 1.0));
        let kept = (demand.completion > 0.0).then(|| {
            let part = program.gains.len();
            program
                .gains
                .push(demand.rate.max(1e-6) * largest * PROMISE);
            program.limits.push((vec![(part, 1.0)], demand.completion));
            let less = all.iter().map(|(part, _)| (*part, -1.0));
            let row = std::iter::once((part, 1.0)).chain(less).collect();
            program.limits.push((row, 0.0));
            part
        });
        parts.push((shares, kept));
    }
    program.limits.push((local, limits.local));
    program.limits.push((edge, limits.edge));
    if limits.budget.is_finite() {
        program.limits.push((cloud, limits.budget));
    }
    let x = program.solve()?;
    let are_kept = demands
        .iter()
        .zip(&parts)
        .all(|(demand, (_, kept))| kept.is_none_or(|part| x[part] >= demand.completion - 1e-6));
    if is_strict && !are_kept {
        return None;
    }
    let split = |(shares, _): &([Option<usize>; PLACES], Option<usize>)| {
        let mut split = [0.0; PLACES + 1];
        for (share, part) in split.iter_mut().zip(shares) {
            *share = part.map_or(0.0, |part| x[part].clamp(0.0, 1.0));
        }
        let sum: f64 = split.iter().sum();
        split[PLACES] = (1.0 - sum).max(0.0);
        split
    };
    Some(parts.iter().map(split).collect())
}
