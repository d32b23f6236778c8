//! Moments of arrival.

use std::sync::Arc;
use std::time::Duration;

use crate::scenario::arrivals::Arrivals;

use super::chance::Stream;

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

/// Nanoseconds of a minute.
const MINUTE: f64 = 60.0 * SECOND;

/// Mean size of a burst beyond which its calls are not counted by single draws.
const NUMBER_MAX: f64 = 1e6;

/// A call that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When, in nanoseconds since the workload began.
    pub at: u64,
    /// How long it runs on a node of speed 1, where a trace says so; nanoseconds.
    pub runs: Option<u64>,
}

/// A process of arrivals and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// The last arrival, in nanoseconds; a moment of a finer process in some.
    at: f64,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// Nanoseconds between two, and how many there were.
    Constant {
        interval: f64,
        count: u64,
    },
    Uniform {
        least: f64,
        most: f64,
    },
    Poisson {
        mean: f64,
    },
    /// Until when it is on; means of the gaps and of both states.
    OnOff {
        on_until: f64,
        mean: f64,
        on: f64,
        off: f64,
    },
    /// The burst that goes on: calls that are left of it. `at` is its last call;
    /// `next` when the next one begins.
    Bursts {
        every: f64,
        size: f64,
        spacing: f64,
        burst: f64,
        left: u64,
    },
    /// Mean gap at the peak; the rest of [`crate::scenario::arrivals::Diurnal`].
    Diurnal {
        mean_at_peak: f64,
        swing: f64,
        period: f64,
        peak: f64,
    },
    Timetable {
        moments: Arc<[u64]>,
        next: usize,
    },
    /// `drawn` are moments of the present minute, the latest first.
    Minutes {
        counts: Arc<[u32]>,
        next: usize,
        minute: f64,
        drawn: Vec<u64>,
    },
    Timed {
        calls: Arc<[(u64, u64)]>,
        next: usize,
        quicker: f64,
    },
}

fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

fn whole(nanos: f64) -> u64 {
    nanos as u64
}

impl Process {
    /// Begins a process.
    pub fn new(arrivals: &Arrivals, chance: &mut Stream) -> Process {
        let kind = match arrivals {
            Arrivals::Constant(of) => Kind::Constant {
                interval: SECOND / of.rate.0,
                count: 0,
            },
            Arrivals::Uniform(of) => Kind::Uniform {
                least: nanos(of.least),
                most: nanos(of.most).max(1.0),
            },
            Arrivals::Poisson(of) => Kind::Poisson {
                mean: SECOND / of.rate.0,
            },
            Arrivals::OnOff(of) => {
                let (on, off) = (nanos(of.on), nanos(of.off));
                // As it would be long after it began.
                let is_on = chance.unit() * (on + off) < on;
                let left = chance.exponential();
                return Process {
                    at: if is_on { 0.0 } else { off * left },
                    kind: Kind::OnOff {
                        on_until: if is_on {
                            on * left
                        } else {
                            off * left + on * chance.exponential()
                        },
                        mean: SECOND / of.rate.0,
                        on,
                        off,
                    },
                };
            }
            Arrivals::Bursts(of) => Kind::Bursts {
                every: nanos(of.every),
                size: of.size.0.min(NUMBER_MAX),
                spacing: nanos(of.spacing),
                burst: 0.0,
                left: 0,
            },
            Arrivals::Diurnal(of) => Kind::Diurnal {
                mean_at_peak: SECOND / (of.rate.0 * (1.0 + of.swing.0)),
                swing: of.swing.0,
                period: nanos(of.period),
                peak: nanos(of.peak),
            },
            Arrivals::Timetable(of) => Kind::Timetable {
                moments: of.all().into_iter().map(|at| whole(nanos(at))).collect(),
                next: 0,
            },
            Arrivals::Azure2019(of) => Kind::Minutes {
                counts: of.minutes().into(),
                next: 0,
                minute: MINUTE / of.quicker.0,
                drawn: Vec::new(),
            },
            Arrivals::Azure2021(of) => Kind::Timed {
                calls: of
                    .calls()
                    .map(|(at, ran)| (whole(nanos(at)), whole(nanos(ran))))
                    .collect(),
                next: 0,
                quicker: of.quicker.0,
            },
        };
        Process { at: 0.0, kind }
    }

    /// The next call; `None` when there is none any more.
    pub fn next(&mut self, chance: &mut Stream) -> Option<Arrival> {
        let Process { at, kind } = self;
        let mut runs = None;
        match kind {
            Kind::Constant { interval, count } => {
                *count += 1;
                // Not summed up, so that no rounding is.
                *at = *interval * *count as f64;
            }
            Kind::Uniform { least, most } => *at += *least + (*most - *least) * chance.unit(),
            Kind::Poisson { mean } => *at += *mean * chance.exponential(),
            Kind::OnOff {
                on_until,
                mean,
                on,
                off,
            } => {
                *at += *mean * chance.exponential();
                while *at > *on_until {
                    // What is left of a gap without memory is one.
                    *at = *on_until + *off * chance.exponential();
                    *on_until = *at + *on * chance.exponential();
                    *at += *mean * chance.exponential();
                }
            }
            Kind::Bursts {
                every,
                size,
                spacing,
                burst,
                left,
            } => {
                if *left > 0 {
                    *at += *spacing;
                } else {
                    while *left == 0 {
                        *burst += *every * chance.exponential();
                        *left = chance.poisson(*size);
                    }
                    // A burst does not begin before the last one is over.
                    *at = at.max(*burst);
                }
                *left -= 1;
            }
            Kind::Diurnal {
                mean_at_peak,
                swing,
                period,
                peak,
            } => {
                // Thinning: P. Lewis, G. Shedler, "Simulation of nonhomogeneous
                // Poisson processes by thinning", 1979.
                loop {
                    *at += *mean_at_peak * chance.exponential();
                    let phase = std::f64::consts::TAU * (*at - *peak) / *period;
                    let rate = 1.0 + *swing * libm::cos(phase);
                    if chance.unit() * (1.0 + *swing) < rate {
                        break;
                    }
                }
            }
            Kind::Timetable { moments, next } => {
                let moment = *moments.get(*next)?;
                *next += 1;
                return Some(Arrival { at: moment, runs });
            }
            Kind::Minutes {
                counts,
                next,
                minute,
                drawn,
            } => loop {
                if let Some(moment) = drawn.pop() {
                    return Some(Arrival { at: moment, runs });
                }
                let count = *counts.get(*next)?;
                let begin = *minute * *next as f64;
                *next += 1;
                drawn.extend((0..count).map(|_| whole(begin + *minute * chance.unit())));
                drawn.sort_unstable_by_key(|moment| std::cmp::Reverse(*moment));
            },
            Kind::Timed {
                calls,
                next,
                quicker,
            } => {
                let (moment, ran) = *calls.get(*next)?;
                *next += 1;
                *at = moment as f64 / *quicker;
                runs = Some(ran);
            }
        }
        Some(Arrival {
            at: whole(*at),
            runs,
        })
    }
}
