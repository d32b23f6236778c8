//! Policies that were set on a running node: they stand before those of the
//! configuration and of labels until they are taken back, over restarts too.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;
use weir_node::id::FunctionName;

use super::managing::Unchanged;
use crate::policy::{Choice, Policy};

/// Policies that may be set by hand on one node.
pub const BY_HAND_MAX: usize = 256;

/// For which calls a policy is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Calls {
    /// All for which nothing else is said.
    All,
    /// Those of a QoS class.
    OfClass(String),
    /// Those of a function.
    OfFunction(FunctionName),
}

impl Calls {
    /// Reads what [`Calls`] is written as: nothing, `class/NAME` or
    /// `function/NAME`.
    pub(super) fn read(scope: &str) -> Option<Calls> {
        match scope.split_once('/') {
            None => scope.is_empty().then_some(Calls::All),
            Some(("class", class)) => Some(Calls::OfClass(class.to_owned())),
            Some(("function", function)) => Some(Calls::OfFunction(function.parse().ok()?)),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Calls::All => Ok(()),
            Calls::OfClass(class) => write!(f, "class/{class}"),
            Calls::OfFunction(function) => write!(f, "function/{}", function.qualified()),
        }
    }
}

/// A policy that was set by hand.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) choice: Choice,
    pub(super) policy: Arc<dyn Policy>,
}

impl From<Choice> for Made {
    fn from(choice: Choice) -> Made {
        Made {
            policy: choice.build(),
            choice,
        }
    }
}

/// Those that were set, by the calls for which they are.
#[derive(Clone, Default)]
pub(super) struct ByHand {
    pub(super) all: Option<Made>,
    pub(super) classes: BTreeMap<String, Made>,
    pub(super) functions: BTreeMap<FunctionName, Made>,
}

impl ByHand {
    /// What an earlier life of this node was told. Policies that this version
    /// does not know are left out.
    pub(super) fn load(path: &Path) -> ByHand {
        let bytes = std::fs::read(path).unwrap_or_default();
        let written: Vec<(String, String)> = cbor4ii::serde::from_slice(&bytes).unwrap_or_default();
        let mut by_hand = ByHand::default();
        for (scope, choice) in written.into_iter().take(BY_HAND_MAX) {
            match (Calls::read(&scope), choice.parse::<Choice>()) {
                (Some(calls), Ok(choice)) => by_hand.set(&calls, Some(choice.into())),
                (_, Err(wrong)) => warn!(scope, %wrong, "a policy that was set is not known here"),
                (None, Ok(_)) => warn!(scope, "a policy was set for calls that there are not"),
            }
        }
        by_hand
    }

    /// As the disk has it.
    pub(super) fn written(&self) -> Vec<u8> {
        let all = self.iter();
        let all = all.map(|(calls, made)| (calls.to_string(), made.choice.to_string()));
        let all: Vec<(String, String)> = all.collect();
        cbor4ii::serde::to_vec(Vec::new(), &all).unwrap_or_default()
    }

    /// Sets a policy, or takes it back.
    pub(super) fn set(&mut self, calls: &Calls, made: Option<Made>) {
        fn put<K: Ord + Clone>(all: &mut BTreeMap<K, Made>, key: &K, made: Option<Made>) {
            match made {
                Some(made) => all.insert(key.clone(), made),
                None => all.remove(key),
            };
        }
        match calls {
            Calls::All => self.all = made,
            Calls::OfClass(class) => put(&mut self.classes, class, made),
            Calls::OfFunction(function) => put(&mut self.functions, function, made),
        }
    }

    /// These, with another policy for some calls, or with theirs taken back, and
    /// whether one had been set for them; `None` where there is none to take back.
    ///
    /// # Errors
    /// When there may be no more.
    pub(super) fn with(
        &self,
        calls: &Calls,
        choice: Option<Choice>,
    ) -> Result<Option<(ByHand, bool)>, Unchanged> {
        let had = self.get(calls).is_some();
        if choice.is_none() && !had {
            return Ok(None);
        }
        if !had && self.len() >= BY_HAND_MAX {
            return Err(Unchanged::TooMany);
        }
        let mut next = self.clone();
        next.set(calls, choice.map(Into::into));
        Ok(Some((next, had)))
    }

    /// The one that was set for these calls.
    pub(super) fn get(&self, calls: &Calls) -> Option<&Made> {
        match calls {
            Calls::All => self.all.as_ref(),
            Calls::OfClass(class) => self.classes.get(class),
            Calls::OfFunction(function) => self.functions.get(function),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Calls, &Made)> {
        let all = self.all.iter().map(|made| (Calls::All, made));
        let classes = self.classes.iter();
        let classes = classes.map(|(class, made)| (Calls::OfClass(class.clone()), made));
        let functions = self.functions.iter();
        let functions = functions.map(|(name, made)| (Calls::OfFunction(name.clone()), made));
        all.chain(classes).chain(functions)
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.all.is_some()) + self.classes.len() + self.functions.len()
    }
}
