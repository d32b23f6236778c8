//! Functions that a node brought to itself, in the order in which it would let
//! go of them: the one first that was not called for longest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

/// Functions that are looked at to find one to let go of. Of those that were
/// called since they were noted, each is looked at once and goes to the end.
const LOOKS_MAX: usize = 256;

/// How many calls a function had when that was looked up, and since when.
#[derive(Debug, Clone, Copy)]
struct Use {
    calls: u64,
    at: Time,
}

/// The functions that were brought here and not deployed here.
#[derive(Debug, Default)]
pub struct Brought {
    used: BTreeMap<FunctionName, Use>,
    by_use: BTreeSet<(Time, FunctionName)>,
}

impl Brought {
    /// Takes note of how many calls a function had by now; `None` when it is not
    /// here, or not by this node's own choice.
    pub fn note(&mut self, name: &FunctionName, calls: Option<u64>, now: Time) {
        let Some(calls) = calls else {
            self.remove(name);
            return;
        };
        match self.used.get(name) {
            Some(known) if known.calls == calls => {}
            Some(_) | None => {
                self.remove(name);
                self.used.insert(name.clone(), Use { calls, at: now });
                self.by_use.insert((now, name.clone()));
            }
        }
    }

    /// Forgets a function that is here no more.
    pub fn remove(&mut self, name: &FunctionName) {
        if let Some(known) = self.used.remove(name) {
            self.by_use.remove(&(known.at, name.clone()));
        }
    }

    /// Takes out the function that was not called for longest, if that is at
    /// least `unused`. `calls` says how many calls one had by now, as in
    /// [`note`](Brought::note).
    pub fn pop_least_used(
        &mut self,
        unused: Duration,
        now: Time,
        mut calls: impl FnMut(&FunctionName) -> Option<u64>,
    ) -> Option<FunctionName> {
        for _ in 0..LOOKS_MAX {
            let (at, name) = self.by_use.first()?;
            if now.since(*at) < unused {
                return None;
            }
            let (at, name) = (*at, name.clone());
            self.note(&name, calls(&name), now);
            if self.used.get(&name).is_some_and(|known| known.at == at) {
                self.remove(&name);
                return Some(name);
            }
        }
        None
    }

    /// All names.
    pub fn names(&self) -> Vec<FunctionName> {
        self.used.keys().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}
