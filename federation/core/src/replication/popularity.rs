//! How much functions are called that others run for this node: a count of
//! calls of which each weighs less the longer ago it was.
//!
//! A call at time `t` counts `2^((t - now) / HALF_LIFE)` calls at `now`. All
//! counts shrink alike, so what is kept is `log2(count) + now / HALF_LIFE`,
//! which does not change between calls: the order of functions is right without
//! touching them. After G. Cormode, V. Shkapenyuk, D. Srivastava, B. Xu,
//! "Forward decay: a practical time decay model for streaming systems", ICDE
//! 2009, section III.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

/// After how long a call counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(600);

/// A count below which a function is forgotten, in calls: four half-lives after
/// the only call.
const FORGOTTEN_BELOW: f64 = 1.0 / 16.0;

/// `log2(count) + now / HALF_LIFE`, in doublings.
#[derive(Debug, Clone, Copy)]
struct Score(f64);

impl PartialEq for Score {
    fn eq(&self, other: &Score) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Score) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Score {
    fn of(count: f64, now: Time) -> Score {
        Score(count.log2() + half_lives(now))
    }

    /// How many calls that is at `now`.
    fn count(self, now: Time) -> f64 {
        (self.0 - half_lives(now)).exp2()
    }
}

fn half_lives(now: Time) -> f64 {
    now.since(Time::ZERO).as_secs_f64() / HALF_LIFE.as_secs_f64()
}

/// Functions by how much they are called.
#[derive(Debug)]
pub struct Popularity {
    most: usize,
    scores: BTreeMap<FunctionName, Score>,
    by_score: BTreeSet<(Score, FunctionName)>,
}

impl Popularity {
    /// Remembers at most so many functions: of more, those that are called most.
    pub fn of_at_most(most: usize) -> Popularity {
        Popularity {
            most: most.max(1),
            scores: BTreeMap::new(),
            by_score: BTreeSet::new(),
        }
    }

    /// Counts a call; how many calls that makes, older ones counting less.
    pub fn called(&mut self, name: &FunctionName, now: Time) -> f64 {
        let before = self.forget(name);
        let count = before.map_or(0.0, |score| score.count(now)) + 1.0;
        if self.scores.len() >= self.most
            && let Some((_, least)) = self.by_score.pop_first()
        {
            self.scores.remove(&least);
        }
        let score = Score::of(count, now);
        self.scores.insert(name.clone(), score);
        self.by_score.insert((score, name.clone()));
        count
    }

    /// How many calls of a function count at `now`.
    pub fn count(&self, name: &FunctionName, now: Time) -> f64 {
        let score = self.scores.get(name);
        score.map_or(0.0, |score| score.count(now))
    }

    /// Forgets a function.
    pub fn remove(&mut self, name: &FunctionName) {
        self.forget(name);
    }

    fn forget(&mut self, name: &FunctionName) -> Option<Score> {
        let score = self.scores.remove(name)?;
        self.by_score.remove(&(score, name.clone()));
        Some(score)
    }

    /// Forgets what is hardly called any more.
    pub fn tick(&mut self, now: Time) {
        while let Some((score, _)) = self.by_score.first()
            && score.count(now) < FORGOTTEN_BELOW
        {
            let (_, name) = self.by_score.pop_first().expect("it was just seen");
            self.scores.remove(&name);
        }
    }

    /// How many functions are remembered.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }
}
