//! What is counted while a world runs.

use std::collections::BTreeMap;

use weir_federation_core::beside::HeldBack;
use weir_federation_core::report::Role;
use weir_node_core::time::Time;

use super::calls::{Call, Leg};
use super::series::Series;
use super::world::World;

/// Parts into which each doubling of a latency is divided.
const PARTS: u64 = 64;

/// How a call ended for its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// Its code failed.
    Failed,
    /// It was refused for load at its node.
    Refused,
    /// Nobody had room for it.
    NobodyHasRoom,
    /// It waited in vain for as long as it may.
    Waited,
    /// Its deadline passed.
    Late,
    /// It ran out of its function's time.
    TimedOut,
    /// What it waited for did not start.
    NotStarted,
    /// Nobody can run it.
    Nowhere,
    /// A node was lost that had it.
    Lost,
    /// It had not ended when the simulation did.
    Unfinished,
}

/// All outcomes with their names in reports, in their order.
pub const OUTCOMES: [(Outcome, &str); 11] = [
    (Outcome::Answered, "answered"),
    (Outcome::Failed, "failed"),
    (Outcome::Refused, "refused"),
    (Outcome::NobodyHasRoom, "nobody-has-room"),
    (Outcome::Waited, "waited-too-long"),
    (Outcome::Late, "late"),
    (Outcome::TimedOut, "timed-out"),
    (Outcome::NotStarted, "not-started"),
    (Outcome::Nowhere, "nowhere"),
    (Outcome::Lost, "lost"),
    (Outcome::Unfinished, "unfinished"),
];

/// Latencies, each kept to within a hundredth.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// How many fell into each part.
    parts: Vec<u64>,
    count: u64,
    sum: u128,
    most: u64,
}

impl Histogram {
    fn place(nanos: u64) -> usize {
        if nanos < PARTS {
            return nanos as usize;
        }
        let shift = u64::from(nanos.ilog2()) - u64::from(PARTS.ilog2());
        ((shift + 1) * PARTS + (nanos >> shift) - PARTS) as usize
    }

    /// The middle of a part.
    fn middle(place: usize) -> u64 {
        let place = place as u64;
        if place < PARTS {
            return place;
        }
        let shift = place / PARTS - 1;
        ((place % PARTS + PARTS) << shift) + ((1 << shift) >> 1)
    }

    /// Takes a latency in nanoseconds.
    pub fn add(&mut self, nanos: u64) {
        let place = Histogram::place(nanos);
        if self.parts.len() <= place {
            self.parts.resize(place + 1, 0);
        }
        self.parts[place] += 1;
        self.count += 1;
        self.sum += u128::from(nanos);
        self.most = self.most.max(nanos);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean, in nanoseconds; 0 of none.
    pub fn mean(&self) -> f64 {
        match self.count {
            0 => 0.0,
            count => self.sum as f64 / count as f64,
        }
    }

    /// The longest, in nanoseconds.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Each time that there was, in nanoseconds, with the part of all that are no
    /// longer; in order.
    pub fn distribution(&self) -> Vec<(u64, f64)> {
        let mut seen = 0;
        let mut points = Vec::new();
        for (place, count) in self.parts.iter().enumerate() {
            seen += count;
            if *count > 0 {
                let nanos = Histogram::middle(place).min(self.most);
                points.push((nanos, seen as f64 / self.count as f64));
            }
        }
        points
    }

    /// Below which that part of them is, in nanoseconds; 0 of none.
    pub fn below(&self, part: f64) -> u64 {
        let rank = (part * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (place, count) in self.parts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Histogram::middle(place).min(self.most);
            }
        }
        self.most
    }
}

/// Calls of one kind.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// By outcome, in the order of [`OUTCOMES`].
    pub outcomes: [u64; OUTCOMES.len()],
    /// From a call to its answer, of those that were answered.
    pub latency: Histogram,
    /// From a call to its beginning to run, of the same.
    pub waits: Histogram,
    /// Those that waited for a start.
    pub cold: u64,
    /// Those that ran elsewhere than where they came.
    pub elsewhere: u64,
}

/// One node.
#[derive(Debug, Clone, Default)]
pub struct AtNode {
    /// Calls of its users by outcome.
    pub outcomes: [u64; OUTCOMES.len()],
    /// Sum of the latencies of those that were answered, in nanoseconds.
    pub latency: u128,
    /// Calls that were answered from there.
    pub ran: u64,
    /// Those of them that came elsewhere.
    pub guests: u64,
    /// Instances that it started.
    pub starts: u64,
}

/// What is counted while a world runs.
pub(super) struct Tally {
    /// What came before is not counted.
    from: Time,
    /// When the last call comes.
    until: Time,
    /// Calls that are under way, times nanoseconds, between those.
    under_way: u128,
    pub(super) functions: Vec<Cell>,
    pub(super) classes: Vec<Cell>,
    pub(super) all: Cell,
    pub(super) nodes: Vec<AtNode>,
    /// By time.
    pub(super) series: Series,
    /// Where answered calls ran, by class of nodes: from, to.
    pub(super) ran: Vec<u64>,
    node_classes: Vec<usize>,
    roles: Vec<Role>,
    /// Offers to neighbours, and to regions.
    pub(super) offers: [u64; 2],
    /// Decisions that held a call back, by why.
    pub(super) held_back: BTreeMap<&'static str, u64>,
    pub(super) gossip: [u64; 2],
    pub(super) body_bytes: u64,
    pub(super) code_bytes: u64,
    /// Lists that calls have used, to be used again.
    pub(super) spare_legs: Vec<Vec<Leg>>,
}

impl Tally {
    pub(super) fn new(world: &World, from: Time, duration: std::time::Duration) -> Tally {
        let classes = world.classes.len();
        Tally {
            from,
            until: Time::ZERO + duration,
            under_way: 0,
            functions: vec![Cell::default(); world.functions.len()],
            classes: vec![Cell::default(); world.qos.len()],
            all: Cell::default(),
            nodes: vec![AtNode::default(); world.nodes.len()],
            series: Series::new(duration),
            ran: vec![0; classes * classes],
            node_classes: world.nodes.iter().map(|node| node.class).collect(),
            roles: world.classes.iter().map(|class| class.role.0).collect(),
            offers: [0; 2],
            held_back: BTreeMap::new(),
            gossip: [0; 2],
            body_bytes: 0,
            code_bytes: 0,
            spare_legs: Vec::new(),
        }
    }

    /// So many calls are under way from one moment to another.
    pub(super) fn passes(&mut self, from: Time, to: Time, count: usize) {
        let (from, to) = (from.max(self.from), to.min(self.until));
        self.under_way += to.since(from).as_nanos() * count as u128;
    }

    /// Calls that were under way in the mean over time, from the warm-up until the
    /// last one came.
    pub(super) fn under_way(&self) -> f64 {
        let nanos = self.until.since(self.from).as_nanos();
        self.under_way as f64 / (nanos.max(1) as f64)
    }

    /// A call has ended.
    pub(super) fn note(&mut self, call: &Call, outcome: Outcome, now: Time) {
        let answered = outcome == Outcome::Answered;
        let waited = answered.then_some(call.waited.as_nanos() as u64);
        self.series.note(call.arrived, now, waited);
        if call.arrived < self.from {
            return;
        }
        let latency = now.since(call.arrived).as_nanos() as u64;
        let is_elsewhere = call.ran_at != call.origin;
        let cells = [
            &mut self.all,
            &mut self.functions[call.function as usize],
            &mut self.classes[call.class as usize],
        ];
        for cell in cells {
            cell.outcomes[outcome as usize] += 1;
            if answered {
                cell.latency.add(latency);
                cell.waits.add(call.waited.as_nanos() as u64);
                cell.cold += u64::from(call.is_cold);
                cell.elsewhere += u64::from(is_elsewhere);
            }
        }
        let node = &mut self.nodes[call.origin as usize];
        node.outcomes[outcome as usize] += 1;
        if answered {
            node.latency += u128::from(latency);
            let there = &mut self.nodes[call.ran_at as usize];
            there.ran += 1;
            there.guests += u64::from(is_elsewhere);
            let [from, to] =
                [call.origin, call.ran_at].map(|node| self.node_classes[node as usize]);
            self.ran[from * self.roles.len() + to] += 1;
        }
    }

    /// A call's own node has died while it was elsewhere.
    pub(super) fn note_lost(&mut self, call: &Call, now: Time) {
        self.note(call, Outcome::Lost, now);
    }

    pub(super) fn leave_unfinished(&mut self, count: u64) {
        self.all.outcomes[Outcome::Unfinished as usize] += count;
    }

    pub(super) fn count_start(&mut self, node: u32, _function: Option<usize>, now: Time) {
        if now >= self.from {
            self.nodes[node as usize].starts += 1;
        }
    }

    pub(super) fn count_offload(&mut self, _from: u32, to: u32, now: Time, bytes: u64) {
        if now >= self.from {
            let role = self.roles[self.node_classes[to as usize]];
            self.offers[usize::from(role == Role::Cloud)] += 1;
            self.body_bytes += bytes;
        }
    }

    pub(super) fn count_held(&mut self, held: HeldBack, now: Time) {
        if now >= self.from {
            for held in held.iter() {
                *self.held_back.entry(held.as_str()).or_default() += 1;
            }
        }
    }

    pub(super) fn count_bytes(&mut self, bytes: u64, now: Time) {
        if now >= self.from {
            self.body_bytes += bytes;
        }
    }

    pub(super) fn count_gossip(&mut self, bytes: u64, now: Time) {
        if now >= self.from {
            self.gossip[0] += 1;
            self.gossip[1] += bytes;
        }
    }

    pub(super) fn count_code(&mut self, bytes: u64, now: Time) {
        if now >= self.from {
            self.code_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_keeps_numbers_to_within_a_hundredth() {
        for nanos in [0, 1, 63, 64, 65, 1_000, 123_456, 80_000_000, u64::MAX >> 2] {
            let middle = Histogram::middle(Histogram::place(nanos));
            let distance = nanos.abs_diff(middle);
            assert!(distance <= nanos / 100, "{nanos} became {middle}");
        }
        let mut histogram = Histogram::default();
        (1..=1_000).for_each(|number| histogram.add(number * 1_000));
        assert_eq!(histogram.mean(), 500_500.0);
        let median = histogram.below(0.5);
        assert!(median.abs_diff(500_000) < 5_000, "{median}");
        assert_eq!(histogram.below(1.0).abs_diff(1_000_000) / 10_000, 0);
    }

    #[test]
    fn outcomes_are_listed_in_their_order() {
        for (at, (outcome, _)) in OUTCOMES.iter().enumerate() {
            assert_eq!(*outcome as usize, at);
        }
    }
}
