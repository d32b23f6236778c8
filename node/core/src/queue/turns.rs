//! Lanes in the order of their turn: first those of the namespace that was given
//! least, and among these that of the function that was.

use super::heap::{Heap, Places, Walk};
use super::share::Passes;

/// Where a lane stands; the least is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    /// The pass of its namespace.
    namespace_pass: u64,
    namespace: u32,
    /// The pass of its function, and when its first call came as a number that
    /// grows.
    place: (u64, u64),
}

/// Lanes of one class, by their numbers, in the order of their turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Those that have lanes here, by pass.
    namespaces: Heap<u64>,
    namespace_places: Places,
    /// By namespace; as many as there ever were at once.
    lanes: Vec<Heap<(u64, u64)>>,
    lane_places: Places,
}

impl Turns {
    /// Has a lane stand here whose first call has that sequence, or stand
    /// elsewhere if it is here.
    pub(super) fn put(&mut self, lane: usize, passes: Passes, sequence: u64) {
        let Passes {
            namespace,
            namespace_pass,
            pass,
        } = passes;
        if self.lanes.len() <= namespace {
            self.lanes.resize_with(namespace + 1, Heap::default);
        }
        self.lanes[namespace].put(lane as u32, (pass, sequence), &mut self.lane_places);
        self.namespaces
            .put(namespace as u32, namespace_pass, &mut self.namespace_places);
    }

    /// Takes out a lane of a namespace, and answers the sequence of its first
    /// call; `None` when it is not here.
    pub(super) fn remove(&mut self, lane: usize, namespace: usize) -> Option<u64> {
        let lanes = self.lanes.get_mut(namespace)?;
        let (_, sequence) = lanes.remove(lane as u32, &mut self.lane_places)?;
        if lanes.is_empty() {
            self.namespaces
                .remove(namespace as u32, &mut self.namespace_places);
        }
        Some(sequence)
    }

    /// Has a lane stand where its function is now; nothing when it is not here.
    pub(super) fn move_lane(&mut self, lane: usize, passes: Passes) {
        if let Some(lanes) = self.lanes.get_mut(passes.namespace) {
            let moved = |(_, sequence)| (passes.pass, sequence);
            lanes.change(lane as u32, moved, &mut self.lane_places);
        }
    }

    /// Has the lanes of a namespace stand where it is now; nothing when it has
    /// none here.
    pub(super) fn move_namespace(&mut self, passes: Passes) {
        let moved = |_| passes.namespace_pass;
        self.namespaces
            .change(passes.namespace as u32, moved, &mut self.namespace_places);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }
}

/// A way through lanes in the order of their turn, which must not change
/// meanwhile. Kept to be used again, so that it allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Way {
    namespaces: Walk<u64>,
    namespace: Option<(u64, u32)>,
    lanes: Walk<(u64, u64)>,
}

impl Way {
    /// Goes back to the first.
    pub(super) fn begin(&mut self) {
        self.namespaces.begin();
        self.namespace = None;
    }

    /// The next lane.
    pub(super) fn next(&mut self, turns: &Turns) -> Option<(Turn, usize)> {
        loop {
            if let Some((namespace_pass, namespace)) = self.namespace {
                let lanes = &turns.lanes[namespace as usize];
                if let Some((place, lane)) = self.lanes.next(lanes) {
                    let turn = Turn {
                        namespace_pass,
                        namespace,
                        place,
                    };
                    return Some((turn, lane as usize));
                }
            }
            self.namespace = Some(self.namespaces.next(&turns.namespaces)?);
            self.lanes.begin();
        }
    }
}

/// A way through the lanes of two such orders at once.
#[derive(Debug, Default)]
pub(super) struct BothWays {
    ways: [Way; 2],
    next: [Option<(Turn, usize)>; 2],
}

impl BothWays {
    pub(super) fn begin(&mut self, turns: [&Turns; 2]) {
        for (at, way) in self.ways.iter_mut().enumerate() {
            way.begin();
            self.next[at] = way.next(turns[at]);
        }
    }

    /// The next lane.
    pub(super) fn next(&mut self, turns: [&Turns; 2]) -> Option<usize> {
        let at = match self.next {
            [Some((one, _)), Some((other, _))] => usize::from(other < one),
            [one, _] => usize::from(one.is_none()),
        };
        let after = self.next[at].and_then(|_| self.ways[at].next(turns[at]));
        let (_, lane) = std::mem::replace(&mut self.next[at], after)?;
        Some(lane)
    }
}
