//! How many instances are started at once: more would only slow each other down.

use std::collections::VecDeque;

use crate::admission::InstanceId;

/// Lets instances in one after the other, as many at once as it may.
#[derive(Debug)]
pub(super) struct Gate {
    most: usize,
    inside: Vec<InstanceId>,
    /// In the order in which they came; bounded by what admission starts.
    outside: VecDeque<InstanceId>,
}

impl Gate {
    /// One that lets `most` in at once, at least one.
    pub(super) fn new(most: usize) -> Self {
        Gate {
            most: most.max(1),
            inside: Vec::new(),
            outside: VecDeque::new(),
        }
    }

    /// Has one more wait.
    pub(super) fn come(&mut self, id: InstanceId) {
        self.outside.push_back(id);
    }

    /// The one that waited longest, if there is room for it. It is not inside
    /// before it has entered.
    pub(super) fn next(&mut self) -> Option<InstanceId> {
        match self.inside.len() < self.most {
            true => self.outside.pop_front(),
            false => None,
        }
    }

    pub(super) fn enter(&mut self, id: InstanceId) {
        self.inside.push(id);
    }

    /// Makes room again; nothing changes when it is not inside.
    pub(super) fn leave(&mut self, id: InstanceId) {
        self.inside.retain(|inside| *inside != id);
    }
}
