//! What a decision sees: this node and its peers at one moment.
//!
//! A [`View`] is made of the peer table now and then, published, and never
//! changed. Only the [`Window`] of a peer moves under it: what was sent to the
//! peer since its last word counts against the room that it has.

use core::net::SocketAddr;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node::id::FunctionName;
use weir_node::time::Time;

use crate::report::{Load, Offer, Report, Role};

/// Our calls at a peer, and how many more may go there. Shared by all views,
/// so that a burst between two reports does not herd to one neighbour.
#[derive(Debug)]
pub struct Window {
    /// Room that the peer told of last, less what was sent since.
    room: AtomicU32,
    /// Calls of ours that it holds.
    held: AtomicU32,
    /// Calls of ours that it may hold.
    allowance: AtomicU32,
}

impl Window {
    /// A peer with `room` that may hold `allowance` calls of ours.
    pub fn new(room: u32, allowance: u32) -> Window {
        Window {
            room: AtomicU32::new(room),
            held: AtomicU32::new(0),
            allowance: AtomicU32::new(allowance),
        }
    }

    /// Takes what the peer says of its room now.
    pub fn renew(&self, room: u32) {
        self.room.store(room, Ordering::Relaxed);
    }

    /// Sets how many calls of ours it may hold.
    pub fn allow(&self, allowance: u32) {
        self.allowance.store(allowance, Ordering::Relaxed);
    }

    /// Calls that may be sent now.
    pub fn room(&self) -> u32 {
        let allowance = self.allowance.load(Ordering::Relaxed);
        let free = allowance.saturating_sub(self.held.load(Ordering::Relaxed));
        free.min(self.room.load(Ordering::Relaxed))
    }

    /// Calls of ours that it holds.
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes the right to send one call; `None` when another was faster.
    pub fn reserve(self: &Arc<Self>) -> Option<Reserved> {
        let less = |value: u32| value.checked_sub(1);
        let take = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        take.ok()?;
        let allowance = self.allowance.load(Ordering::Relaxed);
        let more = |held: u32| (held < allowance).then_some(held + 1);
        let held = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        held.ok().map(|_| Reserved(self.clone()))
    }
}

/// A call that a peer holds, until this is dropped.
#[derive(Debug)]
pub struct Reserved(Arc<Window>);

impl Reserved {
    /// Gives the room back too: no word of the peer will, for it did not answer.
    pub fn give_back(self) {
        self.0.room.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Its room comes back with the peer's next word, not before.
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a peer can do, by function: read once from each report, so that
/// neither a view nor a decision reads names.
pub type Offers = HashMap<FunctionName, Offer>;

/// The offers of a report that was checked.
pub fn offers(report: &Report) -> Offers {
    let offers = report.offers.iter();
    let named = offers.filter_map(|offer| Some((offer.function.parse().ok()?, offer.clone())));
    named.collect()
}

/// Where a peer takes calls, read once from each report.
pub fn carriage(report: &Report) -> Arc<[SocketAddr]> {
    let addresses = report.carriage.iter();
    addresses.filter_map(|text| text.parse().ok()).collect()
}

/// A peer that may take calls.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// Who.
    pub id: PeerId,
    /// What it says of itself.
    pub report: Arc<Report>,
    /// What it can do with each function.
    pub offers: Arc<Offers>,
    /// Where it takes calls.
    pub carriage: Arc<[SocketAddr]>,
    /// The newest that is known of its load.
    pub load: Load,
    /// When that was so.
    pub loaded: Time,
    /// Whether it failed before and one call is to find out if it is well.
    pub probing: bool,
    /// Expected round trip.
    pub round_trip: Duration,
    /// Our calls there.
    pub window: Arc<Window>,
}

/// Peers that are drawn in proportion to their room.
#[derive(Debug, Default, Clone)]
pub struct Pool {
    /// Places in [`View::peers`], and the sum of weights up to each.
    members: Vec<(u32, u64)>,
}

impl Pool {
    fn push(&mut self, place: u32, weight: u64) {
        let before = self.members.last().map_or(0, |(_, sum)| *sum);
        self.members.push((place, before + weight.max(1)));
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// One of them, for a number in `0.0..1.0`.
    pub fn draw(&self, chance: f64) -> Option<usize> {
        let (_, total) = self.members.last()?;
        // A weight is far below 2^53, where this would lose whole numbers.
        let at = (chance.clamp(0.0, 1.0) * *total as f64) as u64;
        let found = self.members.partition_point(|(_, sum)| *sum <= at);
        let (place, _) = self.members[found.min(self.members.len() - 1)];
        Some(place as usize)
    }
}

/// All peers that may take calls.
#[derive(Debug, Default)]
pub struct View {
    /// In the order of their ids.
    pub peers: Vec<PeerView>,
    /// Neighbours that can run a function.
    neighbours: HashMap<FunctionName, Pool>,
    /// Members of a region by its name.
    regions: BTreeMap<String, Pool>,
    /// Functions of peers that take no calls now, and are not gone.
    away: HashSet<FunctionName>,
}

impl View {
    /// Adds what peers offer that take no calls now.
    pub fn with_away(mut self, functions: HashSet<FunctionName>) -> View {
        self.away = functions;
        self
    }

    /// The peers of this view but those for whom `out` holds.
    pub fn without(mut self, own: &Report, out: impl Fn(&PeerId) -> bool) -> View {
        if self.peers.iter().any(|peer| out(&peer.id)) {
            self.peers.retain(|peer| !out(&peer.id));
            return View::new(own, self.peers).with_away(self.away);
        }
        self
    }

    /// Whether some peer has a function, be it that it takes no calls now.
    pub fn knows(&self, function: &FunctionName) -> bool {
        let offers = |peer: &PeerView| peer.offers.contains_key(function);
        self.neighbours.contains_key(function)
            || self.peers.iter().any(offers)
            || self.away.contains(function)
    }

    /// Whether a peer that takes no calls now, and is not gone, has a function.
    pub fn is_away(&self, function: &FunctionName) -> bool {
        self.away.contains(function)
    }

    /// Sorts peers by what they are to the node whose report is `own`.
    pub fn new(own: &Report, peers: Vec<PeerView>) -> View {
        let mut view = View {
            peers,
            ..View::default()
        };
        for (place, peer) in view.peers.iter().enumerate() {
            let place = u32::try_from(place).expect("the table of peers is bounded");
            let weight = u64::from(peer.load.guests);
            if let Some(region) = &peer.report.region {
                let pool = view.regions.entry(region.clone()).or_default();
                pool.push(place, weight);
            }
            let edge = peer.report.role == Role::Edge;
            if !edge || peer.report.zone.is_none() || peer.report.zone != own.zone {
                continue;
            }
            for function in peer.offers.keys() {
                let pool = view.neighbours.entry(function.clone()).or_default();
                pool.push(place, weight);
            }
        }
        view
    }

    /// Neighbours that can run `function`.
    pub fn neighbours(&self, function: &FunctionName) -> Option<&Pool> {
        self.neighbours.get(function)
    }

    /// The members of a region.
    pub fn region(&self, name: &str) -> Option<&Pool> {
        self.regions.get(name)
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
    /// How long a call of this class would wait in the queue; `None` when the
    /// queue is full.
    pub queue: Option<Duration>,
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
    fn room_is_what_was_told_less_what_was_sent() {
        let window = Arc::new(Window::new(3, 2));
        assert_eq!(window.room(), 2);
        let first = window.reserve().expect("room");
        let second = window.reserve().expect("room");
        assert!(window.reserve().is_none(), "more than it may hold");
        drop(first);
        assert_eq!((window.held(), window.room()), (1, 0));
        window.renew(5);
        assert_eq!(window.room(), 1);
        drop(second);
        assert_eq!(window.room(), 2);
    }

    #[test]
    fn draws_are_in_proportion_to_room() {
        let mut pool = Pool::default();
        assert_eq!(pool.draw(0.5), None);
        for (place, weight) in [(0, 1), (1, 0), (2, 8)] {
            pool.push(place, weight);
        }
        let mut counts = [0; 3];
        for chance in Draws::new(7).take(10_000) {
            counts[pool.draw(chance).expect("somebody")] += 1;
        }
        // One who says nothing of room may still be asked, seldom.
        assert!((700..1_300).contains(&counts[0]), "{counts:?}");
        assert!((700..1_300).contains(&counts[1]), "{counts:?}");
        assert!((7_600..8_400).contains(&counts[2]), "{counts:?}");
        assert_eq!((pool.draw(0.0), pool.draw(1.0)), (Some(0), Some(2)));
    }

    #[test]
    fn draws_are_even_and_repeat_with_their_seed() {
        let draws: Vec<f64> = Draws::new(42).take(1_000).collect();
        let mean = draws.iter().sum::<f64>() / 1_000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert_eq!(draws, Draws::new(42).take(1_000).collect::<Vec<_>>());
    }
}
