//! Bandits: arms that are tried, and chosen by what trying them told.
//!
//! * UCB1: P. Auer, N. Cesa-Bianchi, P. Fischer, "Finite-time analysis of the
//!   multiarmed bandit problem", Machine Learning 47, 2002: the arm with the highest
//!   `mean + c sqrt(ln t / n)`.
//! * LinUCB, disjoint: L. Li, W. Chu, J. Langford, R. Schapire, "A contextual-bandit
//!   approach to personalized news article recommendation", WWW 2010, algorithm 1:
//!   the arm with the highest `x theta + alpha sqrt(x A^-1 x)`, `theta = A^-1 b`.
//!
//! As published, samples are for ever. Here they are forgotten by a half-life, as A.
//! Garivier, E. Moulines, "On upper-confidence bound policies for switching bandit
//! problems", ALT 2011, discount them; calls that are out and not answered count as
//! trials and as a queue, so that an arm is not flooded before its first answer.

use std::time::Duration;

use weir_node_core::time::Time;

use super::area::highest_first;
use super::learning::Malformed;
use super::{Case, Decision, Ending, Memory, Outcome, Reach, Which};
use crate::report::Load;
use crate::snapshot::{Here, Pool};

/// Rows of a bandit: a function, a class and a destination each.
const ROWS: usize = 8 << 10;

/// What a call is taken to have needed that failed, was lost or late, in
/// milliseconds, at the least: an arm that fails fast is not a fast one.
const FAILED_MS: f64 = 10_000.0;

/// Shortest time that is told apart from none, in milliseconds.
const SHORTEST_MS: f64 = 1e-3;

/// Samples are forgotten so often.
pub(super) const AGE_INTERVAL: Duration = Duration::from_secs(1);

/// An arm, as it is now.
pub(super) struct Arm {
    /// Its row.
    pub(super) which: Which,
    /// How long a call is expected to take that it never took; `None` for unknown.
    pub(super) expected: Option<Duration>,
    /// Calls of ours that are out there.
    pub(super) pending: f64,
    /// How many calls it runs at once.
    pub(super) cores: f64,
    /// Share of it that is in use.
    pub(super) usage: f64,
}

/// Which bandit, with what it remembers.
pub(super) enum Bandit {
    /// By means.
    Ucb1 { c: f64, rows: Memory<3> },
    /// By means that follow from how loaded an arm is.
    Linear {
        alpha: f64,
        lambda: f64,
        rows: Memory<7>,
    },
}

// Numbers of a row of UCB1.
const COUNT: usize = 0;
const SUM: usize = 1;
const SENT: usize = 2;

// Numbers of a row of LinUCB: A, which is symmetric, b, and the use when a call went
// there last. Its first is 1 and the count of samples.
const A11: usize = 0;
const A12: usize = 1;
const A22: usize = 2;
const B1: usize = 3;
const B2: usize = 4;
const USAGE: usize = 5;
const SENT_LINEAR: usize = 6;

/// A bandit, and by which of its rules it goes.
pub(super) struct Tried {
    pub(super) bandit: Bandit,
    pub(super) faithful: bool,
    /// Time in which a sample loses half of its weight.
    pub(super) half_life: Duration,
}

/// The reward of a time.
fn reward_of(milliseconds: f64) -> f64 {
    -milliseconds.max(SHORTEST_MS).ln()
}

impl Bandit {
    pub(super) fn ucb1(c: f64) -> Bandit {
        let rows = Memory::new(ROWS);
        Bandit::Ucb1 { c, rows }
    }

    pub(super) fn linear(alpha: f64, lambda: f64) -> Bandit {
        let rows = Memory::new(ROWS);
        Bandit::Linear {
            alpha,
            lambda,
            rows,
        }
    }
}

/// The features of an arm that is in use so far: Serverledge, section 9.
fn features(usage: f64) -> [f64; 2] {
    [1.0, 1.0 / (1.0 - usage.clamp(0.0, 1.0) + 0.01)]
}

impl Tried {
    /// What is the same for all arms of a decision: the logarithm of all trials.
    pub(super) fn turn(&self, of: Which) -> f64 {
        match &self.bandit {
            Bandit::Ucb1 { rows, .. } => {
                let all = rows.find(of).and_then(|cells| cells[COUNT].get());
                all.unwrap_or(0.0).max(1.0).ln()
            }
            Bandit::Linear { .. } => 0.0,
        }
    }

    /// The upper bound of an arm's reward.
    pub(super) fn score(&self, arm: &Arm, turn: f64) -> f64 {
        let (count, mean, sent, width) = match &self.bandit {
            Bandit::Ucb1 { c, rows } => {
                let cells = rows.find(arm.which);
                let read = |at: usize| cells.and_then(|cells| cells[at].get()).unwrap_or(0.0);
                let (count, sum, sent) = (read(COUNT), read(SUM), read(SENT));
                if self.faithful && count == 0.0 {
                    return f64::INFINITY;
                }
                let out = if self.faithful {
                    0.0
                } else {
                    sent + arm.pending
                };
                let trials = match self.faithful {
                    true => count,
                    false => count.max(1.0) + out,
                };
                (
                    count,
                    sum / count.max(f64::MIN_POSITIVE),
                    sent,
                    c * (turn / trials).sqrt(),
                )
            }
            Bandit::Linear { alpha, rows, .. } => {
                let cells = rows.find(arm.which);
                let read =
                    |at: usize, none: f64| cells.and_then(|cells| cells[at].get()).unwrap_or(none);
                let [x1, x2] = features(arm.usage);
                let (a11, a12, a22) = (read(A11, 1.0), read(A12, 0.0), read(A22, 1.0));
                let (b1, b2) = (read(B1, 0.0), read(B2, 0.0));
                let determinant = (a11 * a22 - a12 * a12).max(f64::MIN_POSITIVE);
                // A^-1 x; A^-1 is symmetric too.
                let y1 = (a22 * x1 - a12 * x2) / determinant;
                let y2 = (a11 * x2 - a12 * x1) / determinant;
                let width = alpha * (x1 * y1 + x2 * y2).max(0.0).sqrt();
                let sent = read(SENT_LINEAR, 0.0);
                (a11 - 1.0, b1 * y1 + b2 * y2, sent, width)
            }
        };
        if self.faithful {
            return mean + width;
        }
        // Before its first whole sample an arm is as good as it is expected to be.
        let known = count.clamp(0.0, 1.0);
        let expected = match arm.expected {
            Some(time) if known < 1.0 => reward_of(time.as_secs_f64() * 1e3),
            Some(_) | None => 0.0,
        };
        let mean = if known > 0.0 { mean * known } else { 0.0 } + expected * (1.0 - known);
        // What is out there is before the next.
        let out = sent + arm.pending;
        let crowd = if out > 0.0 {
            (1.0 + out / arm.cores).ln()
        } else {
            0.0
        };
        mean + width - crowd
    }

    /// A call goes to an arm that has no other count of what is out there.
    pub(super) fn send(&self, arm: Which, usage: f64, counts: bool, now: Time) {
        let one = if counts { 1.0 } else { 0.0 };
        match &self.bandit {
            Bandit::Ucb1 { rows, .. } if counts => {
                if let Some(cells) = rows.entry_if_open(arm, now) {
                    cells[SENT].add(one);
                }
            }
            Bandit::Ucb1 { .. } => {}
            Bandit::Linear { rows, .. } => {
                if let Some(cells) = rows.entry_if_open(arm, now) {
                    cells[USAGE].set(usage);
                    cells[SENT_LINEAR].add(one);
                }
            }
        }
    }

    /// What a call's end is worth; `None` for nothing.
    fn reward(&self, outcome: &Outcome<'_>) -> Option<f64> {
        let timing = &outcome.timing;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        match (outcome.ending, self.faithful) {
            (Ending::Answered, true) => {
                // Warm runs alone, and of them the run alone.
                let is_warm = timing.started.is_zero();
                is_warm.then(|| reward_of(milliseconds(timing.ran)))
            }
            (Ending::Answered, false) => {
                let cold = timing.started.saturating_add(timing.fetched);
                Some(reward_of(milliseconds(outcome.took().saturating_sub(cold))))
            }
            (Ending::Failed | Ending::Lost | Ending::Late, false) => {
                Some(reward_of(milliseconds(outcome.took()).max(FAILED_MS)))
            }
            (Ending::Failed | Ending::Lost | Ending::Late, true) | (Ending::Refused, _) => None,
        }
    }

    /// Learns from a call's end: `of` is what the arm is one of.
    pub(super) fn learn(&self, of: Which, arm: Which, outcome: &Outcome<'_>) {
        let reward = self.reward(outcome);
        let back = |sent: Option<f64>| (sent.unwrap_or(0.0) - 1.0).max(0.0);
        match &self.bandit {
            Bandit::Ucb1 { rows, .. } => {
                let cells = rows.entry(arm, outcome.ended);
                cells[SENT].change(back);
                if let Some(reward) = reward {
                    cells[COUNT].add(1.0);
                    cells[SUM].add(reward);
                    rows.entry(of, outcome.ended)[COUNT].add(1.0);
                }
            }
            Bandit::Linear { lambda, rows, .. } => {
                let cells = rows.entry(arm, outcome.ended);
                cells[SENT_LINEAR].change(back);
                if let Some(reward) = reward {
                    let usage = cells[USAGE].get().unwrap_or(0.0);
                    let reward = reward - lambda * ((usage - 0.75) / 0.25).max(0.0);
                    let [x1, x2] = features(usage);
                    let plus = |at: usize, none: f64, more: f64| {
                        cells[at].change(|number| number.unwrap_or(none) + more);
                    };
                    plus(A11, 1.0, x1 * x1);
                    plus(A12, 0.0, x1 * x2);
                    plus(A22, 1.0, x2 * x2);
                    plus(B1, 0.0, reward * x1);
                    plus(B2, 0.0, reward * x2);
                }
            }
        }
    }

    /// Forgets as much as the time since the last time asks for.
    pub(super) fn age(&self) {
        let left = match self.faithful {
            true => 1.0,
            false => 0.5_f64.powf(AGE_INTERVAL.as_secs_f64() / self.half_life.as_secs_f64()),
        };
        match &self.bandit {
            Bandit::Ucb1 { rows, .. } => {
                rows.open();
                for (_, cells) in rows.rows() {
                    fade(&cells[COUNT], left, 0.0);
                    fade(&cells[SUM], left, 0.0);
                    // A call whose caller has gone has no end.
                    fade(&cells[SENT], 0.5, 0.0);
                }
            }
            Bandit::Linear { rows, .. } => {
                rows.open();
                for (_, cells) in rows.rows() {
                    fade(&cells[A11], left, 1.0 - left);
                    fade(&cells[A22], left, 1.0 - left);
                    for at in [A12, B1, B2] {
                        fade(&cells[at], left, 0.0);
                    }
                    fade(&cells[SENT_LINEAR], 0.5, 0.0);
                }
            }
        }
    }

    /// The node of an area with the highest score, this one too.
    pub(super) fn best_node(
        &self,
        case: &mut Case<'_>,
        pool: Option<&Pool>,
        own_usage: f64,
    ) -> Option<Decision> {
        let of = case.which();
        let turn = self.turn(of);
        let (mut best, mut usage) = (f64::NEG_INFINITY, 0.0);
        let mut rows = of;
        let away = pool.and_then(|pool| {
            case.best_of(pool, Reach::Horizontal, |candidate, terms| {
                let arm = Arm {
                    which: candidate.which(),
                    expected: Some(candidate.delay()),
                    pending: f64::from(candidate.held()),
                    cores: f64::from(candidate.peer.cpu_total.max(1_000)) / 1e3,
                    usage: self.usage(&candidate.peer.load()),
                };
                let score = self.score(&arm, turn);
                terms.put("score", score);
                terms.put("used_share", arm.usage);
                if score > best {
                    (best, usage, rows) = (score, arm.usage, arm.which);
                }
                highest_first(score)
            })
        });
        if let Some(decision) = case.run_well_here() {
            let local = &case.snapshot.local;
            let start = match local.here {
                Here::Startable => local.start.unwrap_or_default(),
                Here::Warm | Here::Full | Here::Unable => Duration::ZERO,
            };
            let service = local.service.unwrap_or_default();
            let arm = Arm {
                which: of.at(None),
                expected: Some(start.saturating_add(service)),
                pending: 0.0,
                cores: 1.0,
                usage: own_usage,
            };
            let score = self.score(&arm, turn);
            case.own_terms().put("score", score);
            if away.is_none() || score >= best {
                self.went(case, arm.which, own_usage);
                return Some(decision);
            }
        }
        if away.is_some() {
            self.went(case, rows, usage);
        }
        away
    }

    fn went(&self, case: &Case<'_>, arm: Which, usage: f64) {
        if !case.is_trial() {
            self.send(arm, usage, false, case.snapshot.now);
        }
    }

    /// The share of a node that is in use; as published, of its memory, else of that
    /// of which there is less.
    pub(super) fn usage(&self, load: &Load) -> f64 {
        let used = |free: f64, total: f64| match total > 0.0 {
            true => (1.0 - free / total).clamp(0.0, 1.0),
            false => 1.0,
        };
        let memory = used(load.memory_free as f64, load.memory_total as f64);
        match self.faithful {
            true => memory,
            false => memory.max(used(f64::from(load.cpu_free), f64::from(load.cpu_total))),
        }
    }

    /// What is worth keeping.
    pub(super) fn save(&self) -> Option<Vec<u8>> {
        match &self.bandit {
            Bandit::Ucb1 { rows, .. } => rows.save(),
            Bandit::Linear { rows, .. } => rows.save(),
        }
    }

    /// Takes that.
    pub(super) fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        match &self.bandit {
            Bandit::Ucb1 { rows, .. } => rows.restore(saved, now),
            Bandit::Linear { rows, .. } => rows.restore(saved, now),
        }
    }
}

/// Takes a number to a share of it, and something more.
fn fade(cell: &super::Cell, left: f64, more: f64) {
    if cell.get().is_some() {
        cell.change(|number| number.unwrap_or(0.0) * left + more);
    }
}
