//! What happens when, in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use weir_federation_core::turns::Turn;
use weir_node_core::admission::InstanceId;
use weir_node_core::time::Time;

use super::calls::CallId;

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The next call of a source comes.
    Come { source: u32 },
    /// A user whose call was not answered calls again.
    Again { call: CallId },
    /// A call that runs ends.
    End { call: CallId },
    /// A call reaches the node of its last leg.
    Reach { call: CallId },
    /// The answer to the last leg of a call is back at the one before.
    Back { call: CallId },
    /// A call waited for a place elsewhere for as long as it may.
    Elsewhere { call: CallId },
    /// A call waited in the queue for as long as its policy lets it.
    Enough { call: CallId },
    /// A peer's answer to a call is waited for no longer.
    GaveUp { call: CallId },
    /// A policy of a node is called between decisions.
    Tick { node: u32, life: u32, slot: u32 },
    /// A node is asked how loaded it is.
    Probe { probe: u32 },
    /// The answer to that is back.
    Probed { probe: u32 },
    /// A node hears what a policy tells.
    Note { node: u32, note: u32 },
    /// What a node's policies learned is written down.
    Keep { node: u32, life: u32 },
    /// Somebody waited for its turn at a node for as long as it may.
    TurnOver { node: u32, life: u32, turn: Turn },
    /// An instance is started.
    Started {
        node: u32,
        life: u32,
        instance: InstanceId,
    },
    /// The scheduler of a node has something to do.
    Expire { node: u32, life: u32 },
    /// A node looks at itself, and may say how it is.
    Look { node: u32, life: u32 },
    /// A node hears the report with this number.
    Hear { node: u32, report: u32 },
    /// All nodes of this wave hear its report.
    HearAll { wave: u32 },
    /// A node is asked by another about a function.
    Asked { message: u32 },
    /// The answer to that is back.
    Told { message: u32 },
    /// The code of a function is at a node.
    Brought { node: u32, life: u32, function: u32 },
    /// A fault begins.
    Fault { number: u32 },
    /// And is over.
    Mended { number: u32 },
    /// A dead node was missed for so long that others say so.
    Missed { node: u32, life: u32 },
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    at: Time,
    /// What was planned first happens first.
    sequence: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// All that is planned.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

impl Events {
    pub(super) fn plan(&mut self, at: Time, event: Event) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.heap.push(Reverse(Entry {
            at,
            sequence,
            event,
        }));
    }

    pub(super) fn next(&mut self) -> Option<(Time, Event)> {
        let Reverse(entry) = self.heap.pop()?;
        Some((entry.at, entry.event))
    }
}
