//! What a decision sees: this node and its peers at one moment.
//!
//! A [`View`] is made of the peer table now and then, published, and never
//! changed. It shares what it shows with the table: who takes calls, which is
//! sorted anew when that changes alone, and the numbers of each peer, of which
//! the table copies a few when one of them changes. Only the [`Window`] of a
//! peer moves under it: what was sent to the peer since its last word counts
//! against the room that it has.

use std::collections::BTreeMap;
use std::ops::{Deref, Index};
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use crate::abilities::AtPeers;
use crate::congestion::Congestion;
use crate::facts::{Facts, Offered, PeerKey};
use crate::report::{Load, Report, Role};
use crate::slots::{Places, Slots};
use crate::window;

pub use crate::pool::Pool;
pub use crate::window::{Cost, FIRST_ALLOWANCE, FunctionRoom, Reserved, SHORT, Window, Word};

/// A peer, as decisions see it: what each decision reads of it, on one line of
/// a processor's cache.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct PeerView {
    /// What stands for its id.
    pub(crate) key: PeerKey,
    /// What it says of itself.
    pub(crate) facts: Arc<Facts>,
    /// When that was heard.
    pub heard: Time,
    /// The newest that is known of its load, and since when, where that is not
    /// its report.
    told: Option<Box<(Load, Time)>>,
    /// Our calls there, from the first one on.
    window: Option<Arc<Window>>,
    /// Expected round trip, in nanoseconds.
    pub(crate) round_trip_nanos: u64,
    /// Calls that wait there, by the newest that is known of its load.
    pub(crate) waiting: u32,
    /// Its processors, by the same, in thousandths of a core.
    pub(crate) cpu_total: u32,
    /// Whether it failed before and one call is to find out if it is well.
    pub probing: bool,
    /// Whether its round trip was measured, and is not to be guessed.
    pub(crate) is_measured: bool,
}

impl Deref for PeerView {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl PeerView {
    /// A peer of which something is heard at `now`.
    pub fn new(facts: Arc<Facts>, now: Time) -> PeerView {
        let load = &facts.report.load;
        PeerView {
            key: PeerKey::of(&facts.id),
            heard: now,
            waiting: load.waiting,
            cpu_total: load.cpu_total,
            told: None,
            probing: false,
            is_measured: false,
            round_trip_nanos: 0,
            window: None,
            facts,
        }
    }

    /// Our calls there; `None` as long as there were none.
    pub fn window(&self) -> Option<&Arc<Window>> {
        self.window.as_ref()
    }

    /// The same, from now on.
    pub(crate) fn open(&mut self) -> &Arc<Window> {
        let load = self.load();
        self.window.get_or_insert_with(|| {
            let word = Word { load, under_way: 0 };
            Arc::new(Window::new(&word, FIRST_ALLOWANCE))
        })
    }

    /// Calls of ours that it holds.
    pub fn held(&self) -> u32 {
        self.window().map_or(0, |window| window.held())
    }

    /// Calls of this cost that may be sent there, whatever the function.
    pub fn room_for(&self, cost: Cost) -> u32 {
        match (self.window(), self.told.as_deref()) {
            (Some(window), _) => window.room(cost),
            (None, Some((load, _))) => {
                FIRST_ALLOWANCE.min(cost.of(load.guest_cpu, load.guest_cpu_long))
            }
            (None, None) => {
                let [short, long] = self.facts.guest_cpu;
                FIRST_ALLOWANCE.min(cost.of(short, long))
            }
        }
    }

    /// Sets how many calls of ours it may hold.
    pub(crate) fn allow(&mut self, allowance: u32) {
        match self.window() {
            Some(window) => window.allow(allowance),
            None if allowance == FIRST_ALLOWANCE => {}
            None => self.open().allow(allowance),
        }
    }

    /// Takes what it says of its room now, beside what it says of its load.
    pub(crate) fn renew(&mut self, word: &Word) {
        match self.window() {
            Some(window) => window.renew(word),
            None if word.under_way == 0 => {}
            None => self.open().renew(word),
        }
    }

    /// The newest that is known of its load.
    pub fn load(&self) -> Load {
        let told = self.told.as_deref();
        told.map_or(self.report.load, |(load, _)| *load)
    }

    /// When that was so.
    pub fn loaded(&self) -> Time {
        let told = self.told.as_deref();
        told.map_or(self.heard, |(_, at)| *at)
    }

    /// Expected round trip.
    pub fn round_trip(&self) -> Duration {
        Duration::from_nanos(self.round_trip_nanos)
    }

    /// Whether the way there and back takes so long, as far as is known.
    pub(crate) fn is_so_far(&self, round_trip: Duration) -> bool {
        self.round_trip_nanos == nanos(round_trip)
    }

    /// Takes how long the way there and back takes.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip_nanos = nanos(round_trip);
    }

    /// Takes what was heard of its load at `now`, beside its reports.
    pub(crate) fn learn(&mut self, load: Load, now: Time) {
        (self.waiting, self.cpu_total) = (load.waiting, load.cpu_total);
        match &mut self.told {
            Some(told) => **told = (load, now),
            None => self.told = Some(Box::new((load, now))),
        }
    }

    /// Takes a report that says more than the one before.
    pub(crate) fn hear(&mut self, facts: Arc<Facts>, now: Time) {
        let load = &facts.report.load;
        (self.waiting, self.cpu_total) = (load.waiting, load.cpu_total);
        self.heard = now;
        self.told = None;
        self.facts = facts;
    }

    /// Whether a call of a function may be sent there now.
    pub(crate) fn has_room(
        &self,
        offered: Option<&Offered>,
        known: Option<&Arc<FunctionRoom>>,
        cost: Cost,
    ) -> bool {
        let room = match known {
            Some(known) => {
                known.refresh(offered, self.heard);
                known.room()
            }
            None => window::room_of(offered),
        };
        room > 0
            && match self.window() {
                Some(window) => window.has_room(cost),
                None => self.room_for(cost) > 0,
            }
    }

    /// Calls of a function that may be sent there now.
    pub(crate) fn room(
        &self,
        offered: Option<&Offered>,
        known: Option<&Arc<FunctionRoom>>,
        cost: Cost,
    ) -> u32 {
        let room = match known {
            Some(known) => {
                known.refresh(offered, self.heard);
                known.room()
            }
            None => window::room_of(offered),
        };
        room.min(self.room_for(cost))
    }
}

/// Nanoseconds of a duration, at the most what a number holds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What seldom changes of what is known of peers: who takes calls, and what
/// they are to this node.
#[derive(Debug, Default)]
pub(crate) struct Structure {
    /// Those who may take calls, in the order of their ids.
    takes: Arc<[u32]>,
    /// The same.
    places: Places,
    /// Neighbours, one pool for all functions: what a peer can run follows
    /// from what it is.
    neighbours: Pool,
    /// Members of a region by its name.
    regions: BTreeMap<String, Pool>,
    /// Those that take no calls now, and are not gone.
    away: Vec<u32>,
}

impl Structure {
    /// Sorts peers by what they are to a node of this zone.
    pub(crate) fn new(
        zone: Option<&str>,
        slots: &Slots,
        takes: Vec<u32>,
        away: Vec<u32>,
    ) -> Structure {
        let mut structure = Structure {
            away,
            ..Structure::default()
        };
        let mut regions: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        let mut near = Vec::new();
        for &place in &takes {
            structure.places.insert(place);
            let report = &slots[place].report;
            if let Some(region) = &report.region {
                regions.entry(region).or_default().push(place);
            }
            let edge = report.role == Role::Edge;
            if edge && report.zone.is_some() && report.zone.as_deref() == zone {
                near.push(place);
            }
        }
        structure.takes = takes.into();
        // Often these are the same.
        let shared = |places: Vec<u32>| match places.len() == structure.takes.len() {
            true => structure.takes.clone(),
            false => places.into(),
        };
        let sorted = |places| Pool::sorted(slots, &shared(places));
        let neighbours = sorted(near);
        let regions = regions
            .into_iter()
            .map(|(name, places)| (name.to_owned(), sorted(places)))
            .collect();
        (structure.neighbours, structure.regions) = (neighbours, regions);
        structure
    }
}

/// The peers of a view, by their places.
#[derive(Debug, Default, Clone)]
pub struct PeerViews {
    slots: Slots,
    structure: Arc<Structure>,
}

impl PeerViews {
    /// Those who may take calls, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &PeerView> {
        self.structure.takes.iter().map(|place| &self.slots[*place])
    }

    /// How many may take calls.
    pub fn len(&self) -> usize {
        self.structure.takes.len()
    }

    /// Whether nobody may take calls.
    pub fn is_empty(&self) -> bool {
        self.structure.takes.is_empty()
    }
}

impl Index<usize> for PeerViews {
    type Output = PeerView;

    fn index(&self, place: usize) -> &PeerView {
        &self.slots[u32::try_from(place).expect("the table of peers is bounded")]
    }
}

/// All peers that may take calls.
#[derive(Debug, Default)]
pub struct View {
    /// By their places, which pools and decisions name.
    pub peers: PeerViews,
}

impl View {
    pub(crate) fn of(slots: Slots, structure: Arc<Structure>) -> View {
        View {
            peers: PeerViews { slots, structure },
        }
    }

    /// Shows nobody any more, until [`View::show`].
    pub(crate) fn let_go(&mut self) {
        self.peers.slots.let_go();
    }

    /// The same as [`View::of`], in the place of what was shown before.
    pub(crate) fn show(&mut self, slots: &Slots, structure: Arc<Structure>) {
        self.peers.slots.clone_from(slots);
        self.peers.structure = structure;
    }

    /// A view of these alone, whose places are as they come, for the node whose
    /// report is `own`.
    pub fn new(own: &Report, peers: Vec<PeerView>) -> View {
        let mut slots = Slots::default();
        let mut takes = Vec::new();
        for (place, peer) in (0..).zip(peers) {
            slots.put(place, peer);
            takes.push(place);
        }
        let structure = Structure::new(own.zone.as_deref(), &slots, takes, Vec::new());
        View::of(slots, Arc::new(structure))
    }

    /// The peers of this view but those for whom `out` holds, for the node
    /// whose report is `own`.
    pub fn without(self, own: &Report, out: impl Fn(&PeerId) -> bool) -> View {
        let PeerViews { slots, structure } = self.peers;
        let stays = |place: &u32| !out(&slots[*place].id);
        let takes: Vec<u32> = structure.takes.iter().copied().filter(stays).collect();
        if takes.len() == structure.takes.len() {
            return View::of(slots, structure);
        }
        let away = structure.away.clone();
        let structure = Structure::new(own.zone.as_deref(), &slots, takes, away);
        View::of(slots, Arc::new(structure))
    }

    /// The place of a peer that may take calls.
    pub(crate) fn place(&self, id: &PeerId) -> Option<usize> {
        self.place_by(PeerKey::of(id))
    }

    /// The same, by what stands for its id.
    pub(crate) fn place_by(&self, key: PeerKey) -> Option<usize> {
        let place = self.peers.slots.find_key(key)?;
        let takes = self.peers.structure.places.contains(place);
        takes.then_some(place as usize)
    }

    /// Whether a place is still that of the peer with this key, and it may take
    /// calls: plans keep both.
    pub(crate) fn is_at(&self, place: usize, key: PeerKey) -> bool {
        let Ok(place) = u32::try_from(place) else {
            return false;
        };
        let PeerViews { slots, structure } = &self.peers;
        structure.places.contains(place) && slots.get(place).is_some_and(|peer| peer.key == key)
    }

    /// A peer that may take calls, by its id.
    pub fn peer(&self, id: &PeerId) -> Option<&PeerView> {
        Some(&self.peers[self.place(id)?])
    }

    /// Those that take no calls now, and are not gone.
    pub fn away(&self) -> impl Iterator<Item = &PeerView> {
        let PeerViews { slots, structure } = &self.peers;
        structure.away.iter().map(|place| &slots[*place])
    }

    /// Peers of the same zone.
    pub fn neighbours(&self) -> &Pool {
        &self.peers.structure.neighbours
    }

    /// Whether a peer is one of them.
    pub fn is_neighbour(&self, id: &PeerId) -> bool {
        let place = self.place(id);
        place.is_some_and(|place| self.neighbours().contains(place))
    }

    /// The members of a region.
    pub fn region(&self, name: &str) -> Option<&Pool> {
        self.peers.structure.regions.get(name)
    }

    /// Regions of which somebody may take calls.
    pub fn regions(&self) -> impl Iterator<Item = (&String, &Pool)> {
        self.peers.structure.regions.iter()
    }
}

/// What this node could do with a call itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// Run it on a started instance.
    Warm,
    /// Start an instance for it.
    Startable,
    /// Nothing now: there is no room.
    Full,
    /// Nothing ever: it lacks the function, or what the function needs.
    Unable,
}

/// This node, as a decision sees it.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    /// What it could do at once.
    pub here: Here,
    /// How long a call of this class would wait in the queue; `None` when it
    /// would not be taken there.
    pub queue: Option<Duration>,
    /// How long the function runs here; `None` before it has run.
    pub service: Option<Duration>,
    /// How long a start of it takes here; `None` before one was measured.
    pub start: Option<Duration>,
    /// Whether the function fails here and not elsewhere.
    pub blamed: bool,
    /// What the node is for.
    pub role: Role,
    /// Regions that it spills to, in order; for a cloud node, its own.
    pub regions: &'a [String],
}

/// Everything that a decision may see.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// This node.
    pub local: Local<'a>,
    /// Its peers.
    pub view: &'a View,
    /// What is known of the function at peers.
    pub abilities: &'a AtPeers,
    /// The peer that a decision like this one chose last.
    pub remembered: Option<PeerId>,
    /// What was said to be congested; `None` for nothing.
    pub congestion: Option<&'a Congestion>,
    /// When this is.
    pub now: Time,
    /// One random number, from which all draws of the decision are made.
    pub chance: u64,
}

/// Draws from one random number.
#[derive(Debug, Clone)]
pub struct Draws(u64);

impl Draws {
    /// Begins with what the snapshot was given.
    pub fn new(chance: u64) -> Draws {
        Draws(chance)
    }
}

impl Iterator for Draws {
    type Item = f64;

    /// The next number in `0.0..1.0`. SplitMix64: G. Steele, D. Lea, C. Flood,
    /// "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17.
    fn next(&mut self) -> Option<f64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        Some((mixed >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_and_repeat_with_their_seed() {
        let draws: Vec<f64> = Draws::new(42).take(1_000).collect();
        let mean = draws.iter().sum::<f64>() / 1_000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert_eq!(draws, Draws::new(42).take(1_000).collect::<Vec<_>>());
    }
}
