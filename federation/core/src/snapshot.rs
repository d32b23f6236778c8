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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use crate::abilities::AtPeers;
use crate::facts::{Facts, Offered, PeerKey};
use crate::report::{Load, Report, Role};
use crate::slots::{Places, Slots};

/// What one call takes of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Share of the peer's processors, in thousandths of a core; at least 1.
    pub cpu: u32,
    /// Whether it is expected to run longer than [`SHORT`].
    pub long: bool,
}

/// Calls of other nodes' users that run no longer are short: what they take is
/// free again before its owner misses it.
pub const SHORT: Duration = Duration::from_secs(1);

/// Round trips from which calls are sent ahead of the places that they will
/// have: shorter ones cost less than a call that waits in vain.
const FAR: Duration = Duration::from_millis(5);

/// What a peer says of its room, as one node hears it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Word {
    /// How loaded it is.
    pub load: Load,
    /// Processors of our calls that were on their way there when it said so.
    pub under_way: u32,
}

/// Our calls at a peer, and what more may go there. Shared by all views, so
/// that a burst between two words of the peer does not herd to it.
#[derive(Debug)]
pub struct Window {
    /// Processors that the peer told of last, less what was sent since, for
    /// short calls and for long ones.
    open: [AtomicU32; 2],
    /// Calls of ours that it holds.
    held: AtomicU32,
    /// Calls of ours that it may hold.
    allowance: AtomicU32,
    /// When a call was sent there last, in nanoseconds.
    sent: AtomicU64,
}

fn take(from: &AtomicU32, amount: u32) -> bool {
    let less = |value: u32| value.checked_sub(amount);
    from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
}

fn take_what_there_is(from: &AtomicU32, amount: u32) {
    let less = |value: u32| Some(value.saturating_sub(amount));
    let _ = from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

fn give(to: &AtomicU32, amount: u32) {
    let more = |value: u32| Some(value.saturating_add(amount));
    let _ = to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
}

impl Window {
    /// A peer of which `word` was heard, and which may hold `allowance` calls
    /// of ours.
    pub fn new(word: &Word, allowance: u32) -> Window {
        let window = Window {
            open: [AtomicU32::new(0), AtomicU32::new(0)],
            held: AtomicU32::new(0),
            allowance: AtomicU32::new(allowance),
            sent: AtomicU64::new(0),
        };
        window.renew(word);
        window
    }

    /// Takes what the peer says of its room now.
    pub fn renew(&self, word: &Word) {
        let said = [word.load.guest_cpu, word.load.guest_cpu_long];
        for (open, said) in self.open.iter().zip(said) {
            open.store(said.saturating_sub(word.under_way), Ordering::Relaxed);
        }
    }

    /// Takes it to be full, whatever it said.
    pub fn close(&self) {
        for open in &self.open {
            open.store(0, Ordering::Relaxed);
        }
    }

    /// Sets how many calls of ours it may hold.
    pub fn allow(&self, allowance: u32) {
        self.allowance.store(allowance, Ordering::Relaxed);
    }

    /// Calls of this cost that may be sent now.
    pub fn room(&self, cost: Cost) -> u32 {
        let allowance = self.allowance.load(Ordering::Relaxed);
        let free = allowance.saturating_sub(self.held.load(Ordering::Relaxed));
        let open = self.open[usize::from(cost.long)].load(Ordering::Relaxed);
        free.min(open / cost.cpu.max(1))
    }

    /// Calls of ours that it holds.
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a call was sent there in the time `within` before `now`, so that
    /// what the peer says of itself may not count it yet.
    pub fn sent_within(&self, within: Duration, now: Time) -> bool {
        let sent = Time::from_nanos(self.sent.load(Ordering::Relaxed));
        sent != Time::ZERO && now.since(sent) < within
    }

    /// Takes the right to send one call; `None` when another was faster.
    pub fn reserve(
        self: &Arc<Self>,
        function: Option<&Arc<FunctionRoom>>,
        cost: Cost,
        now: Time,
    ) -> Option<Reserved> {
        let cpu = cost.cpu.max(1);
        let (own, other) = match cost.long {
            false => (&self.open[0], &self.open[1]),
            true => (&self.open[1], &self.open[0]),
        };
        if !take(own, cpu) {
            return None;
        }
        if function.is_some_and(|function| !take(&function.room, 1)) {
            give(own, cpu);
            return None;
        }
        let allowance = self.allowance.load(Ordering::Relaxed);
        let more = |held: u32| (held < allowance).then_some(held + 1);
        let held = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if held.is_err() {
            give(own, cpu);
            if let Some(function) = function {
                give(&function.room, 1);
            }
            return None;
        }
        take_what_there_is(other, cpu);
        if let Some(function) = function {
            function.held.fetch_add(1, Ordering::Relaxed);
        }
        self.sent.store(now.as_nanos(), Ordering::Relaxed);
        Some(Reserved {
            window: self.clone(),
            function: function.cloned(),
            cpu,
            ahead: false,
        })
    }

    /// Takes the right to send one call ahead of a place, where the function's
    /// room there allows that ([`FunctionRoom::ahead`]).
    pub fn reserve_ahead(
        self: &Arc<Self>,
        function: &Arc<FunctionRoom>,
        most: u32,
        now: Time,
    ) -> Option<Reserved> {
        let allowance = self.allowance.load(Ordering::Relaxed);
        let more = |bound: u32| move |held: u32| (held < bound).then_some(held + 1);
        let held = &self.held;
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more(allowance))
            .ok()?;
        let there = &function.held;
        let bound = function.capacity().saturating_add(most);
        if there
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more(bound))
            .is_err()
        {
            held.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.sent.store(now.as_nanos(), Ordering::Relaxed);
        Some(Reserved {
            window: self.clone(),
            function: Some(function.clone()),
            cpu: 0,
            ahead: true,
        })
    }
}

/// Our calls of one function at a peer, and how many more may go there.
#[derive(Debug)]
pub struct FunctionRoom {
    /// Calls that the peer told of last, less what was sent since.
    room: AtomicU32,
    /// When it told that, in nanoseconds.
    told: AtomicU64,
    /// Calls of ours that it holds.
    held: AtomicU32,
    /// Calls of ours that it ran at once, or could have, when it spoke last.
    capacity: AtomicU32,
    /// How long they run there, in microseconds, smoothed; 0 before the first.
    service_micros: AtomicU64,
}

impl FunctionRoom {
    /// A function of whose room nothing is known but that there may be some.
    pub fn new() -> FunctionRoom {
        FunctionRoom {
            room: AtomicU32::new(u32::MAX),
            told: AtomicU64::new(0),
            held: AtomicU32::new(0),
            capacity: AtomicU32::new(0),
            service_micros: AtomicU64::new(0),
        }
    }

    /// Takes what the peer said at `told`.
    pub fn renew(&self, room: u32, told: Time) {
        self.room.store(room, Ordering::Relaxed);
        self.told.store(told.as_nanos(), Ordering::Relaxed);
    }

    /// Takes how many calls of ours it can run at once, as far as it knows.
    pub fn learn_capacity(&self, calls: u32) {
        self.capacity.store(calls, Ordering::Relaxed);
    }

    /// Calls of ours that it ran at once, or could have, when it spoke last.
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Calls that may wait there for a place, each for one round trip at most,
    /// so that no place there is idle while the news of it travels.
    pub fn ahead(&self, round_trip: Duration) -> u32 {
        let Some(service) = self.service().filter(|_| round_trip >= FAR) else {
            return 0;
        };
        let share = round_trip.as_secs_f64() / service.as_secs_f64().max(1e-3);
        (f64::from(self.capacity()) * share.min(1.0)).ceil() as u32
    }

    /// Takes what a report of the peer says, if that is newer: `None` when the
    /// report does not name the function, whose bound is no obstacle then.
    fn refresh(&self, offered: Option<&Offered>, heard: Time) {
        if self.told.load(Ordering::Relaxed) < heard.as_nanos() {
            self.renew(room_of(offered), heard);
        }
    }

    /// Calls that may be sent now as far as the function is concerned.
    pub fn room(&self) -> u32 {
        self.room.load(Ordering::Relaxed)
    }

    /// Calls of ours that the peer holds.
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    /// Learns how long a call ran there.
    pub fn learn(&self, ran: Duration) {
        let sample = u64::try_from(ran.as_micros()).unwrap_or(u64::MAX).max(1);
        let next = |old: u64| {
            Some(match old {
                0 => sample,
                // An eighth, as round trips do for TCP (RFC 6298, section 2).
                old => old - old / 8 + sample / 8,
            })
        };
        let _ = self
            .service_micros
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// How long calls run there; `None` before the first.
    pub fn service(&self) -> Option<Duration> {
        match self.service_micros.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}

impl Default for FunctionRoom {
    fn default() -> FunctionRoom {
        FunctionRoom::new()
    }
}

fn room_of(offered: Option<&Offered>) -> u32 {
    offered.map_or(u32::MAX, |offered| offered.room)
}

/// A call that a peer holds, until this is dropped.
#[derive(Debug)]
pub struct Reserved {
    window: Arc<Window>,
    function: Option<Arc<FunctionRoom>>,
    cpu: u32,
    ahead: bool,
}

impl Reserved {
    /// Whether it was sent ahead of the place that it will have.
    pub fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// How long the function runs there; `None` before it has.
    pub fn service(&self) -> Option<Duration> {
        self.function.as_ref()?.service()
    }

    /// Processors of our calls of the function that were under way to the peer
    /// when it said that it held `held` of them beside this one.
    pub fn under_way(&self, held: u32, cpu: u32) -> u32 {
        let sent = self.function.as_ref().map_or(1, |function| function.held());
        sent.saturating_sub(1)
            .saturating_sub(held)
            .saturating_mul(cpu)
    }

    /// Gives the room back too: no word of the peer will, for it did not answer.
    pub fn give_back(self) {
        if self.ahead {
            return;
        }
        for open in &self.window.open {
            give(open, self.cpu);
        }
        if let Some(function) = &self.function {
            give(&function.room, 1);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Its room comes back with the peer's next word, not before.
        self.window.held.fetch_sub(1, Ordering::Relaxed);
        if let Some(function) = &self.function {
            function.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

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
    /// Our calls there.
    pub window: Arc<Window>,
    /// Expected round trip, in nanoseconds.
    pub(crate) round_trip_nanos: u64,
    /// Calls that wait there, by the newest that is known of its load.
    pub(crate) waiting: u32,
    /// Its processors, by the same, in thousandths of a core.
    pub(crate) cpu_total: u32,
    /// Whether it failed before and one call is to find out if it is well.
    pub probing: bool,
}

impl Deref for PeerView {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl PeerView {
    /// A peer of which something is heard at `now`, and which may hold
    /// `allowance` calls of ours.
    pub fn new(facts: Arc<Facts>, allowance: u32, now: Time) -> PeerView {
        let load = facts.report.load;
        let word = Word { load, under_way: 0 };
        PeerView {
            key: PeerKey::of(&facts.id),
            facts,
            heard: now,
            waiting: load.waiting,
            cpu_total: load.cpu_total,
            told: None,
            probing: false,
            round_trip_nanos: 0,
            window: Arc::new(Window::new(&word, allowance)),
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
            None => room_of(offered),
        };
        room.min(self.window.room(cost))
    }
}

/// Nanoseconds of a duration, at the most what a number holds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Peers that are drawn in proportion to what they have.
#[derive(Debug, Default, Clone)]
pub struct Pool {
    /// Places in [`View::peers`].
    members: Vec<u32>,
    /// What each of them has, where that is the same.
    even: Option<u64>,
    /// The sum of weights up to each, where they differ.
    sums: Vec<u64>,
    /// The first member whose sum is above each multiple of `1 << shift`: what
    /// is drawn is near it. H.-C. Chen, Y. Asau, "On generating random variates
    /// from an empirical distribution", AIIE Transactions 6(2), 1974.
    guide: Vec<u32>,
    shift: u32,
    /// The same members.
    places: Places,
    /// The same by what they can run, where they differ in that.
    kinds: Vec<Pool>,
    /// The kind of each member, where they differ in that.
    kind_of: Vec<u8>,
    /// Whether there are more than [`KINDS`] kinds, so that they are not sorted.
    has_many_kinds: bool,
}

/// Kinds of members by which a pool is sorted: as many as one number has bits.
const KINDS: usize = 64;

/// Which kinds of a pool's members can run something.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kinds {
    /// Those whose bit is set.
    Told(u64),
    /// The members are of too many kinds: each has to be looked at.
    Untold,
}

impl Kinds {
    /// Whether members of a kind can; `None` when nobody knows.
    pub(crate) fn has(self, kind: u8) -> Option<bool> {
        match self {
            Kinds::Told(mask) => Some(mask >> kind & 1 != 0),
            Kinds::Untold => None,
        }
    }

    /// Whether that is known.
    pub(crate) fn are_told(self) -> bool {
        matches!(self, Kinds::Told(_))
    }
}

/// The members of a pool that can run something, unless that is all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fitting<'a> {
    parts: &'a [Pool],
    /// Which of them.
    mask: u64,
    /// The sum of their weights.
    total: u64,
}

impl<'a> Fitting<'a> {
    fn parts(&self) -> impl Iterator<Item = &'a Pool> + use<'a> {
        let mask = self.mask;
        let parts = self.parts.iter().enumerate();
        parts.filter_map(move |(at, part)| (mask & (1 << at) != 0).then_some(part))
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.parts().map(Pool::len).sum()
    }

    /// All of them, as places in [`View::peers`].
    pub(crate) fn members(&self) -> impl Iterator<Item = usize> + use<'a> {
        self.parts().flat_map(Pool::members)
    }

    /// Whether somebody is one of them.
    pub(crate) fn contains(&self, place: usize) -> bool {
        self.parts().any(|part| part.contains(place))
    }

    /// One of them, for a number in `0.0..1.0`.
    pub(crate) fn draw(&self, chance: f64) -> Option<usize> {
        let mut at = scaled(chance, self.total);
        let mut last = None;
        for part in self.parts() {
            let total = part.total();
            if at < total {
                return part.draw_at(at);
            }
            at -= total;
            last = Some(part);
        }
        last?.draw_at(u64::MAX)
    }
}

fn scaled(chance: f64, total: u64) -> u64 {
    // A weight is far below 2^53, where this would lose whole numbers.
    (chance.clamp(0.0, 1.0) * total as f64) as u64
}

/// By what kinds of peers are told apart.
fn abilities_of(report: &Report) -> (&String, &Vec<String>, &BTreeMap<String, String>) {
    (&report.architecture, &report.executors, &report.labels)
}

impl Pool {
    /// Members by place, sorted by what they can run.
    fn sorted(slots: &Slots, places: &[u32]) -> Pool {
        let weight = |place: &u32| (*place, u64::from(slots[*place].cpu_total));
        let mut kinds: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        for place in places {
            let can = abilities_of(&slots[*place].report);
            kinds.entry(can).or_default().push(*place);
            if kinds.len() > KINDS {
                break;
            }
        }
        let mut pool = Pool::new(places.iter().map(weight));
        if kinds.len() > KINDS {
            pool.has_many_kinds = true;
            return pool;
        }
        if kinds.len() > 1 {
            let names: Vec<_> = kinds.keys().copied().collect();
            let kind = |place: &u32| {
                let at = names.binary_search(&abilities_of(&slots[*place].report));
                at.ok().and_then(|at| u8::try_from(at).ok()).unwrap_or(0)
            };
            pool.kind_of = places.iter().map(kind).collect();
            let kinds = kinds.values();
            pool.kinds = kinds.map(|of| Pool::new(of.iter().map(weight))).collect();
        }
        pool
    }

    /// Which kinds of members can run something; one of each is looked at.
    pub(crate) fn kinds_that(&self, can: impl Fn(&PeerView) -> bool, peers: &PeerViews) -> Kinds {
        if self.has_many_kinds {
            return Kinds::Untold;
        }
        let all = std::slice::from_ref(self);
        let kinds = if self.kinds.is_empty() {
            all
        } else {
            &self.kinds
        };
        let mut mask = 0;
        for (kind, of) in kinds.iter().enumerate() {
            if of.members().next().is_some_and(|place| can(&peers[place])) {
                mask |= 1 << kind;
            }
        }
        Kinds::Told(mask)
    }

    /// All members with their kinds.
    pub(crate) fn by_kind(&self) -> impl Iterator<Item = (usize, u8)> + use<'_> {
        let kinds = self.kind_of.iter().copied().chain(std::iter::repeat(0));
        self.members().zip(kinds)
    }

    /// Members of the kinds that can run something.
    pub(crate) fn fitting(&self, kinds: Kinds) -> Fitting<'_> {
        let all = Fitting {
            parts: std::slice::from_ref(self),
            mask: 1,
            total: self.total(),
        };
        let Kinds::Told(mask) = kinds else {
            return all;
        };
        let some = Fitting {
            parts: &self.kinds,
            mask,
            total: 0,
        };
        let count = mask.count_ones() as usize;
        match count == self.kinds.len().max(1) {
            true => all,
            false => Fitting {
                total: some.parts().map(Pool::total).sum(),
                ..some
            },
        }
    }

    fn total(&self) -> u64 {
        match self.even {
            Some(weight) => weight.saturating_mul(self.members.len() as u64),
            None => self.sums.last().copied().unwrap_or(0),
        }
    }

    /// Members by place, with the weight of each.
    fn new(weighted: impl Iterator<Item = (u32, u64)> + Clone) -> Pool {
        let weighted = weighted.map(|(place, weight)| (place, weight.max(1)));
        let mut pool = Pool {
            even: weighted.clone().next().map(|(_, weight)| weight),
            ..Pool::default()
        };
        for (place, weight) in weighted.clone() {
            pool.members.push(place);
            pool.places.insert(place);
            pool.even = pool.even.filter(|even| *even == weight);
        }
        pool.members.shrink_to_fit();
        if pool.even.is_none() {
            pool.weigh(weighted.map(|(_, weight)| weight));
        }
        pool
    }

    /// Prepares draws in proportion to these weights.
    fn weigh(&mut self, weights: impl Iterator<Item = u64>) {
        let mut total = 0_u64;
        self.sums = weights
            .map(|weight| {
                total = total.saturating_add(weight);
                total
            })
            .collect();
        while total >> self.shift > self.members.len() as u64 {
            self.shift += 1;
        }
        let mut member = 0;
        for mark in 0..=total >> self.shift {
            let below = |sum: &u64| *sum <= mark << self.shift;
            while self.sums.get(member).is_some_and(below) {
                member += 1;
            }
            self.guide.push(u32::try_from(member).unwrap_or(u32::MAX));
        }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All of them, as places in [`View::peers`].
    pub fn members(&self) -> impl Iterator<Item = usize> + use<'_> {
        self.members.iter().map(|place| *place as usize)
    }

    /// Whether somebody is one of them.
    pub fn contains(&self, place: usize) -> bool {
        u32::try_from(place).is_ok_and(|place| self.places.contains(place))
    }

    /// One of them, for a number in `0.0..1.0`.
    pub fn draw(&self, chance: f64) -> Option<usize> {
        self.draw_at(scaled(chance, self.total()))
    }

    fn draw_at(&self, at: u64) -> Option<usize> {
        let last = self.members.len().checked_sub(1)?;
        if let Some(weight) = self.even {
            let at = usize::try_from(at / weight).unwrap_or(usize::MAX);
            return Some(self.members[at.min(last)] as usize);
        }
        let mark = (at >> self.shift) as usize;
        let from = self.guide.get(mark).map_or(last, |from| *from as usize);
        let to = self.guide.get(mark + 1).map_or(last, |to| *to as usize);
        let (from, to) = (from.min(last), to.min(last));
        let found = self.sums[from..=to].partition_point(|sum| *sum <= at);
        Some(self.members[(from + found).min(last)] as usize)
    }
}

/// What seldom changes of what is known of peers: who takes calls, and what
/// they are to this node.
#[derive(Debug, Default)]
pub(crate) struct Structure {
    /// Those who may take calls, in the order of their ids.
    takes: Vec<u32>,
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
        structure.neighbours = Pool::sorted(slots, &near);
        structure.regions = regions
            .into_iter()
            .map(|(name, places)| (name.to_owned(), Pool::sorted(slots, &places)))
            .collect();
        structure.takes = takes;
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
        let place = self.peers.slots.find(id)?;
        let takes = self.peers.structure.places.contains(place);
        takes.then_some(place as usize)
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

    const COST: Cost = Cost {
        cpu: 1_000,
        long: false,
    };

    fn word(cpu: u32) -> Word {
        Word {
            load: Load {
                guest_cpu: cpu,
                guest_cpu_long: cpu / 2,
                ..Load::default()
            },
            under_way: 0,
        }
    }

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn room_is_what_was_told_less_what_was_sent() {
        let window = Arc::new(Window::new(&word(3_500), 2));
        assert_eq!(window.room(COST), 2);
        let first = window.reserve(None, COST, at(1)).expect("room");
        let second = window.reserve(None, COST, at(2)).expect("room");
        assert!(
            window.reserve(None, COST, at(2)).is_none(),
            "more than it may hold"
        );
        drop(first);
        assert_eq!((window.held(), window.room(COST)), (1, 1));
        window.renew(&word(5_000));
        assert_eq!(window.room(COST), 1, "its allowance bounds it");
        drop(second);
        assert_eq!(window.room(COST), 2);
        assert!(window.sent_within(Duration::from_millis(5), at(6)));
        assert!(!window.sent_within(Duration::from_millis(5), at(8)));
    }

    #[test]
    fn long_calls_have_a_share_of_their_own() {
        let long = Cost { long: true, ..COST };
        let window = Arc::new(Window::new(&word(4_000), 9));
        assert_eq!((window.room(COST), window.room(long)), (4, 2));
        let _one = window.reserve(None, long, at(1)).expect("room");
        assert_eq!((window.room(COST), window.room(long)), (3, 1));
        let _two = window.reserve(None, COST, at(1)).expect("room");
        assert_eq!((window.room(COST), window.room(long)), (2, 0));
        assert!(window.reserve(None, long, at(1)).is_none());
    }

    #[test]
    fn a_reservation_that_fails_in_its_second_step_takes_nothing() {
        let window = Arc::new(Window::new(&word(2_000), 0));
        assert!(window.reserve(None, COST, at(1)).is_none());
        window.allow(9);
        assert_eq!(window.room(COST), 2, "the allowance was what it lacked");
        let function = Arc::new(FunctionRoom::new());
        function.renew(0, at(1));
        assert!(window.reserve(Some(&function), COST, at(1)).is_none());
        assert_eq!(window.room(COST), 2, "the function was what it lacked");
        function.renew(1, at(2));
        window.allow(0);
        assert!(window.reserve(Some(&function), COST, at(2)).is_none());
        assert_eq!(function.room(), 1);
    }

    #[test]
    fn what_was_under_way_when_a_peer_spoke_counts_against_its_word() {
        let window = Arc::new(Window::new(&word(0), 9));
        window.renew(&Word {
            under_way: 2_000,
            ..word(5_000)
        });
        assert_eq!(window.room(COST), 3);
    }

    #[test]
    fn what_a_call_gives_back_is_what_it_took() {
        let window = Arc::new(Window::new(&word(2_000), 9));
        let function = Arc::new(FunctionRoom::new());
        function.renew(2, at(1));
        let reserved = window.reserve(Some(&function), COST, at(1)).expect("room");
        assert_eq!(
            (window.room(COST), function.room(), function.held()),
            (1, 1, 1)
        );
        reserved.give_back();
        assert_eq!(
            (window.room(COST), function.room(), function.held()),
            (2, 2, 0)
        );
        assert_eq!(window.held(), 0);
    }

    #[test]
    fn calls_go_ahead_of_their_places_over_a_distance_alone() {
        let far = Duration::from_millis(50);
        let window = Arc::new(Window::new(&word(0), 9));
        let function = Arc::new(FunctionRoom::new());
        function.learn_capacity(4);
        assert_eq!(function.ahead(far), 0, "nobody knows how long calls run");
        function.learn(Duration::from_millis(100));
        assert_eq!(function.ahead(Duration::from_millis(1)), 0);
        assert_eq!(function.ahead(far), 2);
        let held: Vec<_> = (0..9)
            .filter_map(|_| window.reserve_ahead(&function, 2, at(1)))
            .collect();
        assert_eq!((held.len(), window.held(), function.held()), (6, 6, 6));
        drop(held);
        assert_eq!((window.held(), function.held()), (0, 0));
    }

    #[test]
    fn a_newer_report_overrides_what_was_known_of_a_function() {
        let function = FunctionRoom::new();
        function.renew(0, at(5));
        function.refresh(None, at(4));
        assert_eq!(function.room(), 0, "the report is older");
        function.refresh(None, at(6));
        assert_eq!(function.room(), u32::MAX, "it does not name the function");
    }

    #[test]
    fn draws_are_in_proportion_to_room() {
        assert_eq!(Pool::default().draw(0.5), None);
        let pool = Pool::new([(0, 1), (1, 0), (2, 8)].into_iter());
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
    fn a_guided_draw_is_what_all_sums_say() {
        let mut weights = Draws::new(9);
        for count in [1, 2, 17, 300] {
            let weighted = (0..count).map(|place| {
                let weight = weights.next().expect("it never ends");
                // Some are a thousand times as large as others.
                (place, (weight * weight * weight * 16_000.0) as u64)
            });
            let weighted: Vec<(u32, u64)> = weighted.collect();
            let pool = Pool::new(weighted.into_iter());
            let total = pool.total();
            for chance in Draws::new(3).take(2_000).chain([0.0, 1.0]) {
                let at = (chance * total as f64) as u64;
                let found = pool.sums.partition_point(|sum| *sum <= at);
                let expected = found.min(count as usize - 1);
                assert_eq!(pool.draw(chance), Some(expected));
            }
        }
    }

    #[test]
    fn a_draw_among_equals_is_what_all_sums_say() {
        for (count, weight) in [(1, 1), (3, 7), (300, 4_000)] {
            let pool = Pool::new((0..count).map(|place| (place, weight)));
            for chance in Draws::new(3).take(2_000).chain([0.0, 1.0]) {
                let at = (chance * (u64::from(count) * weight) as f64) as u64;
                let expected = (at / weight).min(u64::from(count) - 1);
                assert_eq!(pool.draw(chance), usize::try_from(expected).ok());
            }
        }
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
