//! What this node knows of its peers, how old that is, and what is made of it.
//!
//! The table is plain state: whoever hears something tells it, with the time;
//! decisions read the [`View`] that is made of it now and then. What a peer
//! says of itself is a claim; what calls to it met overrides that.

mod later;
mod standing;
mod timers;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, HashSet};
use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use self::later::Later;
pub use self::standing::{Fault, Met, REFUTE_WITHIN, SILENT_AFTER, Standing};
use self::standing::{Peer, USUAL};
use self::timers::Timers;
use crate::coordinates::Coordinate;
use crate::endpoint::Endpoint;
use crate::facts::{Facts, PeerKey};
use crate::report::{Load, Report};
use crate::slots::Changing;
use crate::snapshot::{FIRST_ALLOWANCE, PeerView, Structure, View, Window, Word};

/// Peers that are remembered; more are not heard.
pub const PEERS: usize = 4_096;

/// A report that comes so soon after a call was sent there may not count it:
/// what it says of room is left to the answers, which count all.
const REPORT_SETTLES: Duration = Duration::from_millis(50);

/// How long a question is out, at the most, by which it is found out whether a
/// peer is back.
pub const ASKED_FOR: Duration = Duration::from_secs(2);

/// Between two times that round trips to all are guessed anew from where this
/// node is: that moves a little with each measurement.
const GUESS_INTERVAL: Duration = Duration::from_secs(1);

/// Probes that are kept for each peer; all but one of each were overtaken.
const PROBES_PER_PEER: usize = 4;

/// Refusals in a row by a peer that claims room, after which its claims are
/// named as contradicted.
const CONTRADICTIONS: u8 = 8;

/// What came of hearing a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// From a peer that was not known, or was gone.
    New,
    /// Newer than what was known.
    Newer,
    /// Not newer: it came before, or by a longer way.
    Old,
    /// Of an earlier life than the one that is known: it should hear of that.
    Past,
    /// The table is full.
    Full,
    /// Of this node, from another life or another machine with the same key.
    /// This node's epoch is above it now.
    Own {
        /// How often this happened since the start: more than once or twice,
        /// and somebody runs with a copy of this node's identity.
        times: u32,
    },
}

/// What came of a suspicion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// The peer has to refute it.
    Noted,
    /// Of a life that is over, of nobody who is known, or known already.
    Old,
    /// Of this node: it must report with its new epoch at once.
    Refute,
}

/// What time alone brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A suspicion was not refuted.
    Died(PeerId),
    /// Nothing was heard for [`SILENT_AFTER`].
    Silent(PeerId),
    /// It is forgotten.
    Forgotten(PeerId),
}

/// One line about a peer, for listings.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Who.
    pub id: PeerId,
    /// What it says of itself.
    pub report: Arc<Report>,
    /// How old that is.
    pub age: Duration,
    /// The newest that is known of its load, from reports and answers.
    pub load: Load,
    /// How old that is.
    pub load_age: Duration,
    /// Whether calls are sent to it.
    pub standing: Standing,
    /// Whether nothing was heard of it for long.
    pub silent: bool,
    /// Whether it refuses what it claims to have room for.
    pub contradicted: bool,
    /// What it failed in last, and was not forgiven yet.
    pub fault: Option<Fault>,
    /// Calls of ours that it may hold.
    pub allowance: u32,
    /// Calls of ours that it holds.
    pub held: u32,
}

/// The table.
#[derive(Debug)]
pub struct Peers {
    own: PeerId,
    epoch: u64,
    /// Of the report that this node said last.
    sequence: u64,
    contested: u32,
    most: usize,
    /// Whether each peer has a window from the start, so that all views share it.
    opens_all: bool,
    /// What decisions see, shared with views.
    slots: Changing,
    /// The rest, by the same places, of those of whom there is something to
    /// keep: most were never called.
    unusual: HashMap<u32, Peer, FixedState>,
    /// Reports that are taken when somebody looks.
    later: Vec<Later>,
    /// Peers whose reports are not, for more may follow from them.
    touched: HashSet<PeerKey, FixedState>,
    /// Places that were ever used, and those of them that are not.
    used: u32,
    free: Vec<u32>,
    /// All places that are used, in the order of ids.
    order: Vec<u32>,
    /// When time alone changes something about those of whom there is something
    /// to keep, or before.
    timers: Timers,
    /// When the first of all others falls silent, or before.
    silence: Time,
    /// When those who are out may be candidates again.
    probes: BinaryHeap<Reverse<(Time, u32)>>,
    /// Those who are out, and some who were.
    out: Vec<u32>,
    /// Who takes calls; `None` when that has changed.
    structure: Option<Arc<Structure>>,
    zone: Option<String>,
    /// Where this node is, and since when round trips are guessed from there.
    coordinate: (Coordinate, Time),
}

impl Peers {
    /// A table of the node `own`, which begins its life with `epoch`.
    pub fn new(own: PeerId, epoch: u64) -> Peers {
        Peers {
            opens_all: true,
            ..Peers::of_at_most(PEERS, own, epoch)
        }
    }

    /// The same for so many peers: a simulation or a benchmark may have more
    /// than the members of one federation. It spends no memory on calls to
    /// peers that were never called: whoever sends the first one to a peer asks
    /// for [`Peers::window`], and decides the next by a new view.
    pub fn of_at_most(most: usize, own: PeerId, epoch: u64) -> Peers {
        Peers {
            own,
            epoch,
            sequence: 0,
            contested: 0,
            most,
            opens_all: false,
            slots: Changing::default(),
            unusual: HashMap::default(),
            later: Vec::new(),
            touched: HashSet::default(),
            used: 0,
            free: Vec::new(),
            order: Vec::new(),
            timers: Timers::default(),
            silence: Time::NEVER,
            probes: BinaryHeap::new(),
            out: Vec::new(),
            structure: None,
            zone: None,
            coordinate: (Coordinate::default(), Time::ZERO),
        }
    }

    /// The epoch that this node's next report carries.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes note of the sequence of this node's own report, so that it is
    /// known when it comes back.
    pub fn said(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence);
    }

    /// Makes room for so many more peers, who are about to be heard.
    pub fn reserve(&mut self, more: usize) {
        let more = more.min(self.most.saturating_sub(self.order.len()));
        self.order.reserve_exact(more);
        self.slots.reserve(more);
    }

    /// Takes a report that was checked and whose signature holds.
    pub fn hear(&mut self, from: PeerId, report: Report, now: Time) -> Heard {
        self.catch_up();
        match self.is_news(&from, &report) {
            Err(heard) => heard,
            Ok(place) => self.take(place, Arc::new(Facts::new(from, report)), now),
        }
    }

    /// The same, of a report that others in this process heard too.
    pub fn hear_shared(&mut self, facts: &Arc<Facts>, now: Time) -> Heard {
        self.catch_up();
        self.hear_now(facts, now)
    }

    /// Whether a report says something new, and the place of who is known.
    fn is_news(&mut self, from: &PeerId, report: &Report) -> Result<Option<u32>, Heard> {
        if *from == self.own {
            if !report.is_newer_than(self.epoch, self.sequence) {
                return Err(Heard::Old);
            }
            self.epoch = report.epoch.saturating_add(1);
            self.contested = self.contested.saturating_add(1);
            return Err(Heard::Own {
                times: self.contested,
            });
        }
        let Some(place) = self.slots.find(from) else {
            return match self.order.len() >= self.most {
                true => Err(Heard::Full),
                false => Ok(None),
            };
        };
        let known = &self.slots[place].report;
        if report.epoch < known.epoch {
            return Err(Heard::Past);
        }
        if !report.is_newer_than(known.epoch, known.sequence) {
            return Err(Heard::Old);
        }
        // Only a newer life of it says that it lives.
        let gone = matches!(self.peer(place).standing, Standing::Gone { .. });
        if gone && report.epoch == known.epoch {
            return Err(Heard::Old);
        }
        Ok(Some(place))
    }

    /// Takes a report that says something new.
    fn take(&mut self, place: Option<u32>, facts: Arc<Facts>, now: Time) -> Heard {
        let Some(place) = place else {
            self.add(facts, now);
            return Heard::New;
        };
        let mut peer = self.peer(place).clone();
        let Some(seen) = self.slots.get_mut(place) else {
            return Heard::Old;
        };
        let reborn = facts.report.epoch > seen.report.epoch;
        let gone = matches!(peer.standing, Standing::Gone { .. });
        let changes = reborn || peer.silent || is_other(seen, &facts.report);
        if reborn && !matches!(peer.standing, Standing::Out { .. }) {
            peer.standing = Standing::In;
        }
        if reborn {
            peer.hurry(now);
        }
        let load = facts.report.load;
        if let Some(window) = seen.window()
            && !window.sent_within(REPORT_SETTLES, now)
            && peer.full_until.is_none()
        {
            window.renew(&Word { load, under_way: 0 });
        }
        if !seen.is_measured {
            seen.set_round_trip(self.coordinate.0.distance(&facts.report.coordinate));
        }
        seen.hear(facts, now);
        peer.silent = false;
        if gone {
            peer.allowance = FIRST_ALLOWANCE;
            seen.allow(peer.allowance);
        }
        self.keep(place, peer);
        if changes {
            self.structure = None;
        }
        // One that was silent may be again, sooner than it would be forgotten.
        self.watch(place);
        match gone {
            true => Heard::New,
            false => Heard::Newer,
        }
    }

    fn add(&mut self, facts: Arc<Facts>, now: Time) {
        let place = self.free.pop().unwrap_or_else(|| {
            let place = self.used;
            self.used = place.checked_add(1).expect("the table of peers is bounded");
            place
        });
        // Often they come in their order.
        let last = self.order.last().map(|place| &self.slots[*place].id);
        match last.is_none_or(|last| *last < facts.id) {
            true => self.order.push(place),
            false => {
                let at = self.sorted(&facts.id).unwrap_or_else(|at| at);
                self.order.insert(at, place);
            }
        }
        let mut seen = PeerView::new(facts, now);
        seen.set_round_trip(self.coordinate.0.distance(&seen.report.coordinate));
        if self.opens_all {
            seen.open();
        }
        self.slots.put(place, seen);
        self.structure = None;
        self.watch(place);
    }

    /// Where an id is among those that are sorted.
    fn sorted(&self, id: &PeerId) -> Result<usize, usize> {
        let slots = &self.slots;
        self.order
            .binary_search_by(|place| slots[*place].id.cmp(id))
    }

    fn peer(&self, place: u32) -> &Peer {
        self.unusual.get(&place).unwrap_or(&USUAL)
    }

    /// Keeps what was made of a peer, where that is worth it.
    fn keep(&mut self, place: u32, peer: Peer) {
        if peer == USUAL {
            if !self.unusual.is_empty() {
                self.unusual.remove(&place);
            }
            return;
        }
        if !self.opens_all {
            self.touched.insert(self.slots[place].key);
        }
        self.unusual.insert(place, peer);
    }

    /// Sees to it that a peer is looked at when time changes something about it.
    fn watch(&mut self, place: u32) {
        let Some(seen) = self.slots.get(place) else {
            return;
        };
        match self.unusual.get(&place) {
            Some(peer) => self.timers.set(place, peer.due(seen.heard)),
            None => self.silence = self.silence.min(USUAL.due(seen.heard)),
        }
    }

    /// Those of whom there is nothing to keep, and about whom time alone changes
    /// something now. All are looked at, seldom: whoever lives reports far more
    /// often than is needed.
    fn fallen_silent(&mut self, now: Time, due: &mut Vec<u32>) {
        if now < self.silence {
            return;
        }
        self.silence = Time::NEVER;
        for &place in &self.order {
            if self.unusual.contains_key(&place) {
                continue;
            }
            let at = USUAL.due(self.slots[place].heard);
            match at <= now {
                true => due.push(place),
                false => self.silence = self.silence.min(at),
            }
        }
    }

    /// Drops probes that were overtaken, when they are more than the others.
    fn drop_stale(&mut self) {
        let bound = self.order.len().saturating_mul(PROBES_PER_PEER) + PROBES_PER_PEER;
        if self.probes.len() <= bound {
            return;
        }
        let mut probes = std::mem::take(&mut self.probes);
        probes.retain(|Reverse((at, place))| {
            let standing = self.peer(*place).standing;
            matches!(standing, Standing::Out { probe_at, .. } if probe_at == *at)
        });
        self.probes = probes;
    }

    /// Takes the word of some member that this life of a peer is over. Only the
    /// life that is known counts: nobody else can announce a later one.
    pub fn suspect(&mut self, whom: PeerId, epoch: u64, now: Time) -> Suspicion {
        self.catch_up_with(&whom);
        if whom == self.own {
            if epoch != self.epoch {
                return Suspicion::Old;
            }
            self.epoch = self.epoch.saturating_add(1);
            return Suspicion::Refute;
        }
        let Some(place) = self.slots.find(&whom) else {
            return Suspicion::Old;
        };
        let open = matches!(
            self.peer(place).standing,
            Standing::In | Standing::Out { .. }
        );
        if epoch != self.slots[place].report.epoch || !open {
            return Suspicion::Old;
        }
        self.stand(place, Standing::Suspected { since: now });
        Suspicion::Noted
    }

    /// Takes a peer's own word that it leaves.
    pub fn leave(&mut self, whom: PeerId, epoch: u64, now: Time) {
        self.catch_up_with(&whom);
        if let Some(place) = self.slots.find(&whom)
            && epoch >= self.slots[place].report.epoch
        {
            let (since, left) = (now, true);
            self.stand(place, Standing::Gone { since, left });
        }
    }

    fn stand(&mut self, place: u32, standing: Standing) {
        let peer = self.peer(place).clone();
        self.keep(place, Peer { standing, ..peer });
        self.structure = None;
        self.watch(place);
    }

    /// Forgets everybody, for a node that belongs to them no more.
    pub fn forget_all(&mut self) {
        *self = Peers {
            sequence: self.sequence,
            contested: self.contested,
            zone: self.zone.take(),
            coordinate: self.coordinate,
            opens_all: self.opens_all,
            ..Peers::of_at_most(self.most, self.own, self.epoch)
        };
    }

    /// Forgets a peer; `false` when it was not known.
    pub fn forget(&mut self, whom: &PeerId) -> bool {
        self.catch_up();
        let Some(place) = self.slots.find(whom) else {
            return false;
        };
        self.remove(place);
        true
    }

    fn remove(&mut self, place: u32) {
        if let Ok(at) = self.sorted(&self.slots[place].id) {
            self.order.remove(at);
        }
        self.touched.remove(&self.slots[place].key);
        self.slots.remove(place);
        self.unusual.remove(&place);
        self.timers.clear(place);
        self.free.push(place);
        self.structure = None;
    }

    /// Takes what a call to a peer met.
    pub fn met(&mut self, whom: PeerId, met: Met, now: Time) {
        self.catch_up_with(&whom);
        let Some(place) = self.slots.find(&whom) else {
            return;
        };
        let mut peer = self.peer(place).clone();
        let was = peer.standing;
        let (word, closes) = peer.meet(met, now);
        let (standing, allowance) = (peer.standing, peer.allowance);
        self.keep(place, peer);
        if let Some(word) = word {
            // Its processors are its weight among others.
            let weight = self.slots[place].cpu_total;
            if word.load.cpu_total != weight {
                self.structure = None;
            }
            if let Some(seen) = self.slots.get_mut(place) {
                seen.learn(word.load, now);
                seen.renew(&word);
            }
        }
        self.admit(place, allowance, closes);
        if standing != was {
            self.structure = None;
            if let Standing::Out { probe_at, .. } = standing {
                self.probes.push(Reverse((probe_at, place)));
                if !self.out.contains(&place) {
                    self.out.push(place);
                }
                self.drop_stale();
            }
        }
        self.watch(place);
    }

    /// Says how many calls a peer may hold, and that it is full now.
    fn admit(&mut self, place: u32, allowance: u32, closes: bool) {
        let seen = &self.slots[place];
        let is_said = match seen.window() {
            Some(window) => {
                window.allow(allowance);
                !closes
            }
            None => !closes && allowance == FIRST_ALLOWANCE,
        };
        if !is_said && let Some(seen) = self.slots.get_mut(place) {
            let window = seen.open();
            window.allow(allowance);
            if closes {
                window.close();
            }
        }
    }

    /// Our calls at a peer, from the first one on.
    pub fn window(&mut self, whom: &PeerId) -> Option<Arc<Window>> {
        self.catch_up_with(whom);
        let place = self.slots.find(whom)?;
        if let Some(window) = self.slots[place].window() {
            return Some(window.clone());
        }
        Some(self.slots.get_mut(place)?.open().clone())
    }

    /// Takes note that a peer is linked to again: if it could not be reached, it
    /// is tried at once.
    pub fn linked(&mut self, whom: &PeerId, now: Time) {
        self.catch_up_with(whom);
        let Some(place) = self.slots.find(whom) else {
            return;
        };
        let mut peer = self.peer(place).clone();
        if peer.hurry(now) {
            self.structure = None;
            self.keep(place, peer);
        }
    }

    /// Takes how long the way to a peer and back takes: what is measured counts
    /// more than what coordinates say.
    pub fn measured(&mut self, whom: &PeerId, round_trip: Duration) {
        self.catch_up();
        let Some(place) = self.slots.find(whom) else {
            return;
        };
        let seen = &self.slots[place];
        if (!seen.is_measured || !seen.is_so_far(round_trip))
            && let Some(seen) = self.slots.get_mut(place)
        {
            seen.is_measured = true;
            seen.set_round_trip(round_trip);
        }
    }

    /// Peers that failed because they were away, and are to be asked whether
    /// they are back: at most `most`, each again after a pause that doubles.
    pub fn to_ask(&mut self, most: usize, now: Time) -> Vec<(PeerId, Arc<[Endpoint]>)> {
        self.catch_up();
        let mut out = std::mem::take(&mut self.out);
        out.retain(|place| matches!(self.peer(*place).standing, Standing::Out { .. }));
        out.sort_unstable_by(|one, other| self.slots[*one].id.cmp(&self.slots[*other].id));
        out.dedup();
        let mut asked = Vec::new();
        for &place in &out {
            let peer = self.peer(place);
            let due = matches!(peer.standing, Standing::Out { probe_at, .. } if now >= probe_at);
            if asked.len() < most
                && due
                && !peer.silent
                && peer.is_absent()
                && now >= peer.asked_until
            {
                let asked_until = now + ASKED_FOR;
                let peer = peer.clone();
                self.keep(
                    place,
                    Peer {
                        asked_until,
                        ..peer
                    },
                );
                asked.push((self.slots[place].id, self.slots[place].carriage.clone()));
            }
        }
        self.out = out;
        asked
    }

    /// Lets time pass. Costs nothing while it changes nothing.
    pub fn tick(&mut self, now: Time) -> Vec<Event> {
        self.catch_up();
        let mut due = Vec::new();
        while let Some(place) = self.timers.pop(now) {
            if self.slots.get(place).is_some() {
                due.push(place);
            }
        }
        self.fallen_silent(now, &mut due);
        due.sort_by(|one, other| self.slots[*one].id.cmp(&self.slots[*other].id));
        // Its timer may be over just when it has been silent for too long.
        due.dedup();
        let mut events = Vec::new();
        for &place in &due {
            self.pass(place, now, &mut events);
        }
        for place in due {
            let seen = &self.slots[place];
            if self.peer(place).is_over(seen.heard, now) {
                events.push(Event::Forgotten(seen.id));
                self.remove(place);
            } else {
                self.watch(place);
            }
        }
        events
    }

    /// Lets time pass for one peer.
    fn pass(&mut self, place: u32, now: Time, events: &mut Vec<Event>) {
        let seen = &self.slots[place];
        let mut peer = self.peer(place).clone();
        if peer.full_until.is_some_and(|until| now >= until) {
            peer.full_until = None;
            let word = Word {
                load: seen.load(),
                under_way: 0,
            };
            if let Some(window) = seen.window() {
                window.renew(&word);
            }
        }
        if let Standing::Suspected { since } = peer.standing
            && now.since(since) >= REFUTE_WITHIN
        {
            peer.standing = Standing::Gone {
                since: now,
                left: false,
            };
            self.structure = None;
            events.push(Event::Died(seen.id));
        }
        let gone = matches!(peer.standing, Standing::Gone { .. });
        if !gone && !peer.silent && now.since(seen.heard) >= SILENT_AFTER {
            peer.silent = true;
            self.structure = None;
            events.push(Event::Silent(seen.id));
        }
        self.keep(place, peer);
    }

    /// What is known of everybody, in the order of their ids.
    pub fn known(&self, now: Time) -> Vec<Known> {
        let known = self.order.iter().map(|place| self.known_at(*place, now));
        known.collect()
    }

    /// What is known of one.
    pub fn one(&self, id: &PeerId, now: Time) -> Option<Known> {
        Some(self.known_at(self.slots.find(id)?, now))
    }

    fn known_at(&self, place: u32, now: Time) -> Known {
        let (seen, peer) = (&self.slots[place], self.peer(place));
        Known {
            id: seen.id,
            report: seen.report.clone(),
            age: now.since(seen.heard),
            load: seen.load(),
            load_age: now.since(seen.loaded()),
            standing: peer.standing,
            silent: peer.silent,
            contradicted: peer.refusals >= CONTRADICTIONS,
            fault: peer.fault,
            allowance: peer.allowance,
            held: seen.held(),
        }
    }

    /// What decisions see: peers that may take calls now, as `own`'s report
    /// looks at them. What did not change since the last view is shared with it.
    pub fn view(&mut self, own: &Report, now: Time) -> View {
        let structure = self.structure_from(own, now);
        View::of(self.slots.settled().clone(), structure)
    }

    fn structure_from(&mut self, own: &Report, now: Time) -> Arc<Structure> {
        self.catch_up();
        self.look_from(own, now);
        while let Some(Reverse((at, place))) = self.probes.peek().copied()
            && at <= now
        {
            self.probes.pop();
            if matches!(self.peer(place).standing, Standing::Out { .. }) {
                self.structure = None;
            }
        }
        if let Some(structure) = &self.structure {
            return structure.clone();
        }
        let structure = Arc::new(self.sort_out(now));
        self.structure = Some(structure.clone());
        structure
    }

    /// Takes note of where this node is.
    fn look_from(&mut self, own: &Report, now: Time) {
        if self.zone != own.zone {
            self.zone.clone_from(&own.zone);
            self.structure = None;
        }
        let (coordinate, since) = self.coordinate;
        let soon = since != Time::ZERO && now.since(since) < GUESS_INTERVAL;
        if coordinate == own.coordinate || soon {
            return;
        }
        self.coordinate = (own.coordinate, now);
        for &place in &self.order {
            let seen = &self.slots[place];
            if seen.is_measured {
                continue;
            }
            let guessed = own.coordinate.distance(&seen.report.coordinate);
            if !seen.is_so_far(guessed)
                && let Some(seen) = self.slots.get_mut(place)
            {
                seen.set_round_trip(guessed);
            }
        }
    }

    /// Who takes calls now.
    fn sort_out(&mut self, now: Time) -> Structure {
        let (mut takes, mut away) = (Vec::new(), Vec::new());
        for &place in &self.order {
            let peer = self.peer(place);
            let (probing, may) = match peer.standing {
                Standing::In => (false, true),
                Standing::Out { probe_at, .. } => (true, now >= probe_at),
                Standing::Suspected { .. } | Standing::Gone { .. } => (false, false),
            };
            let may = may && !peer.silent && !self.slots[place].report.draining;
            match peer.standing {
                _ if may => takes.push(place),
                Standing::Gone { .. } => {}
                Standing::In | Standing::Out { .. } | Standing::Suspected { .. } => {
                    away.push(place);
                }
            }
            if self.slots[place].probing != probing
                && let Some(seen) = self.slots.get_mut(place)
            {
                seen.probing = probing;
            }
        }
        Structure::new(self.zone.as_deref(), self.slots.settled(), takes, away)
    }
}

/// Whether a report makes of a peer something else for decisions than it was,
/// beside its numbers.
fn is_other(seen: &PeerView, report: &Report) -> bool {
    let old = &seen.report;
    old.draining != report.draining
        || old.role != report.role
        || old.zone != report.zone
        || old.region != report.region
        || old.architecture != report.architecture
        || old.executors != report.executors
        || old.labels != report.labels
        || seen.cpu_total != report.load.cpu_total
}

#[cfg(test)]
mod tests;
