//! Which runs a comparison of policies takes, and each of them played.
//!
//! Runs know nothing of each other, so that they may be played in any order and
//! on any number of threads.

use weir_federation_core::policy::{self, Choice, Wrong};

use crate::scenario::Scenario;
use crate::scenario::tree::suggestion;
use crate::simulate::report::Report;
use crate::simulate::simulate;

/// Runs of one comparison.
pub const RUNS_MAX: u64 = 100_000;

/// One run: a policy in place of the scenario's own, and a seed.
#[derive(Clone)]
pub struct Run {
    policy: Option<Choice>,
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
    /// Parameters that the policy does not take.
    #[error(transparent)]
    Parameters(#[from] Wrong),
    /// More runs than [`RUNS_MAX`], or none.
    #[error("expected 1 to {RUNS_MAX} runs, found {0}")]
    Count(u64),
}

/// The policy that a text names, with its parameters; the one place where a
/// comparison reads names.
fn policy_named(text: &str) -> Result<Choice, SweepError> {
    let name = text.split(':').next().unwrap_or_default();
    let known = || policy::KINDS.iter().map(|kind| kind.name);
    if !known().any(|known| known == name) {
        return Err(SweepError::NoPolicy {
            name: name.to_owned(),
            suggestion: suggestion(name, known()),
        });
    }
    Ok(text.parse()?)
}

/// Joins what was parted at each comma: those between the parameters of one
/// policy part no policies.
fn whole(parts: &[String]) -> Vec<String> {
    let mut whole: Vec<String> = Vec::new();
    for part in parts {
        match whole.last_mut() {
            Some(last) if part.contains('=') && !part.contains(':') => {
                last.push(',');
                last.push_str(part);
            }
            _ => whole.push(part.clone()),
        }
    }
    whole
}

/// The runs of a comparison: each policy with each of `repeat` seeds from `seed`
/// on, the same for all policies, so that they see the same calls. Without names
/// the scenario's own policies are tried.
///
/// # Errors
/// An unknown name; no runs, or more than [`RUNS_MAX`].
pub fn plan(policies: &[String], seed: u64, repeat: u64) -> Result<Vec<Run>, SweepError> {
    let policies = whole(policies);
    let mut tried: Vec<Option<Choice>> = Vec::new();
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
    let seeds = |policy: Option<Choice>| {
        (0..repeat).map(move |more| Run {
            policy: policy.clone(),
            seed: seed.wrapping_add(more),
        })
    };
    Ok(tried.into_iter().flat_map(seeds).collect())
}

impl Run {
    /// Plays it.
    pub fn play(&self, scenario: &Scenario) -> Report {
        simulate(scenario, self.seed, self.policy.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_between_parameters_part_no_policies() {
        let parts = ["a:x=1", "y=2", "b", "c:z=3"].map(str::to_owned);
        assert_eq!(whole(&parts), ["a:x=1,y=2", "b", "c:z=3"]);
    }

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
