//! Which runs a comparison of policies takes, and each of them played.
//!
//! Runs know nothing of each other, so that they may be played in any order and
//! on any number of threads.

use weir_federation_core::policy::{self, Policy};

use crate::scenario::Scenario;
use crate::scenario::tree::suggestion;
use crate::simulate::report::Report;
use crate::simulate::simulate;

/// Runs of one comparison.
pub const RUNS_MAX: u64 = 100_000;

/// One run: a policy in place of the scenario's own, and a seed.
#[derive(Clone, Copy)]
pub struct Run {
    policy: Option<&'static dyn Policy>,
    /// Of all chance.
    pub seed: u64,
}

/// Why runs cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SweepError {
    /// The name of a policy that there is not.
    #[error("no policy is named {name}{suggestion}")]
    NoPolicy {
        /// The name.
        name: String,
        /// What may be meant, with what leads to it.
        suggestion: String,
    },
    /// More runs than [`RUNS_MAX`], or none.
    #[error("expected 1 to {RUNS_MAX} runs, found {0}")]
    Count(u64),
}

/// The policy of this name; the one place where a comparison reads names.
fn policy_named(name: &str) -> Result<&'static dyn Policy, SweepError> {
    policy::named(name).ok_or_else(|| {
        let known: Vec<&str> = policy::all().iter().map(|policy| policy.name()).collect();
        SweepError::NoPolicy {
            name: name.to_owned(),
            suggestion: suggestion(name, known.iter().copied()),
        }
    })
}

/// The runs of a comparison: each policy with each of `repeat` seeds from `seed`
/// on, the same for all policies, so that they see the same calls. Without names
/// the scenario's own policies are tried.
///
/// # Errors
/// An unknown name; no runs, or more than [`RUNS_MAX`].
pub fn plan(policies: &[String], seed: u64, repeat: u64) -> Result<Vec<Run>, SweepError> {
    let mut tried: Vec<Option<&'static dyn Policy>> = Vec::new();
    for (at, name) in policies.iter().enumerate() {
        // One that is named twice would count its runs twice.
        if !policies[..at].contains(name) {
            tried.push(Some(policy_named(name)?));
        }
    }
    if tried.is_empty() {
        tried.push(None);
    }
    let count = repeat.saturating_mul(tried.len() as u64);
    if count == 0 || count > RUNS_MAX {
        return Err(SweepError::Count(count));
    }
    let seeds = |policy| {
        (0..repeat).map(move |more| Run {
            policy,
            seed: seed.wrapping_add(more),
        })
    };
    Ok(tried.into_iter().flat_map(seeds).collect())
}

impl Run {
    /// Plays it.
    pub fn play(&self, scenario: &Scenario) -> Report {
        simulate(scenario, self.seed, self.policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_see_the_same_seeds_and_unknown_ones_are_told() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let runs = plan(&names(&["spill", "local-only"]), 7, 2).expect("both are known");
        assert_eq!(
            runs.iter().map(|run| run.seed).collect::<Vec<_>>(),
            [7, 8, 7, 8]
        );
        let twice = plan(&names(&["spill", "spill"]), 1, 1).expect("it is known");
        assert_eq!(twice.len(), 1);
        let error = plan(&names(&["spil"]), 1, 1).err().expect("it is unknown");
        assert_eq!(
            error.to_string(),
            "no policy is named spil; did you mean spill?"
        );
        assert_eq!(plan(&[], 1, 0).err(), Some(SweepError::Count(0)));
        assert_eq!(plan(&[], 1, 3).expect("the scenario's own").len(), 3);
    }
}
