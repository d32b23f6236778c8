//! What the policies have in common that come from ServerlessOnEdge: a broker that
//! shares calls out among destinations, each by a rule of its own.
//!
//! C. Cicconetti, M. Conti, A. Passarella, "A decentralized framework for serverless
//! edge computing in the Internet of Things", IEEE TNSM 18(2), 2021, whose public
//! code the published behaviour is taken from.
//!
//! Destinations of a call are this node, where it can run it at once, the peers of
//! its zone, and the members of regions that it spills to. All that a policy says of
//! one of them is its weight, in seconds; one of infinite weight gets no call.
//! * **Two tables.** A call of this node's own users goes by the overall table: here,
//!   to a neighbour, which has to run it itself (a final destination: it is sent
//!   with no more hops), or to a member of a region, which may dispatch it once more
//!   (a destination that is not final). What a peer sent goes by the table of final
//!   destinations alone. So a call is dispatched twice at the most, and never in a
//!   circle (section "Two-tier" there). `routing=flat` makes all destinations final.
//! * **Congestion.** Whom somebody says to be congested has infinite weight there until
//!   that is taken back: here it is no destination, as for every policy
//!   ([`crate::congestion`]).
//! * **Nobody.** Where no destination has room, a call waits here, or is refused.
//!
//! Mended beside what each policy mends: all destinations of a small pool are
//! compared, and of a large one so many draws and [`ASKED_MAX`] of the best known,
//! instead of a table that is scanned or built anew with each answer; an error of a
//! function or a lost peer takes nobody out of a table; a destination without room
//! is no destination, so that none is taken beyond it.

mod dispatcher;
mod keys;
mod lines;
mod table;

use super::{
    ASKED_MAX, Candidate, Case, Cell, ClassKey, Decision, Field, Key, LOOKED_AT, Malformed, Memory,
    Origin, Outcome, Parameters, Policy, Probed, Range, Reach, Reaches, Reason, Terms, Which,
    Wishes,
};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use crate::snapshot::{Here, PeerView, Pool};

pub(super) use dispatcher::{Links, crowding, expected_work, least, load_of, processing, soonest};
use keys::Cloud;
pub(super) use keys::{CLOUD, FAITHFUL, ROUTING};
pub(super) use lines::{Lines, WINDOW, size_class};
pub(super) use table::{ALPHA, EXPLORE, OPTIMISER, PERIOD, Row, STALE, STAT, Table, cell};

/// Destinations that a decision compares: here, draws and best known, other draws.
const DESTINATIONS_MAX: usize = 1 + LOOKED_AT + ASKED_MAX + LOOKED_AT;

/// Those where the neighbours are few.
const DESTINATIONS_FEW: usize = 1 + LOOKED_AT;

/// Functions and classes whose best destinations are remembered.
const REMEMBERED_MAX: usize = 256;

/// The least weight that a prediction gives, in seconds: what runs in less is alike
/// as long as nobody has measured it.
const PREDICTED_MIN: f64 = 1e-4;

/// What is known of one destination when a rule judges it. Times are in seconds.
pub(super) struct Sight<'a> {
    /// The row that is of the call's function and class there.
    pub(super) which: Which,
    /// The row that is of the destination, whatever the function.
    pub(super) node: Which,
    /// Who it is; `None` for here.
    pub(super) candidate: Option<&'a Candidate<'a>>,
    /// How long the function runs here.
    service_here: Option<Duration>,
    /// When the call would be done there, as far as is known.
    pub(super) expected: f64,
    /// The way there and back.
    pub(super) round_trip: f64,
    /// Calls of the function of ours that it holds.
    pub(super) held: u32,
    /// Its cores.
    pub(super) cores: u32,
    /// Bytes of the call's body.
    pub(super) body_bytes: f64,
    /// When this is.
    pub(super) now: f64,
}

impl Sight<'_> {
    /// How long the function runs there, in seconds, as far as is known.
    pub(super) fn service(&self) -> Option<f64> {
        let service = match self.candidate {
            Some(candidate) => candidate
                .seen_service()
                .or_else(|| candidate.told_service())?,
            None => self.service_here?,
        };
        Some(service.as_secs_f64())
    }
}

/// What a rule makes of a destination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged<'a> {
    /// In seconds; infinite for one that is to get no call.
    pub(super) weight: f64,
    /// How old what is known of it is, in seconds; infinite where it was not tried.
    pub(super) age: f64,
    /// Its row, where the rule keeps one.
    pub(super) row: Option<&'a Row>,
}

/// A destination that a call may go to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Destination<'a> {
    /// Its row, where the rule keeps one.
    pub(super) row: Option<&'a Row>,
    /// In seconds; infinite for one that is to get no call.
    pub(super) weight: f64,
    /// How old what is known of it is, in seconds.
    pub(super) age: f64,
    /// How likely it was to be looked at, in `0.0..=1.0`.
    pub(super) likely: f64,
    /// Its place among peers; `None` for here.
    place: Option<u32>,
    /// Calls of the function of ours that it holds.
    pub(super) held: u32,
    /// Its cores, at least 1.
    pub(super) cores: u32,
    is_vertical: bool,
}

impl Destination<'_> {
    /// Its place among peers; `None` for here.
    pub(super) fn place(&self) -> Option<usize> {
        self.place.map(|place| place as usize)
    }

    /// Calls of ours there for each of its cores.
    pub(super) fn busy(&self) -> f64 {
        f64::from(self.held) / f64::from(self.cores.max(1))
    }
}

/// The destinations of one decision.
struct Destinations<'a, 'r> {
    all: &'r mut [Destination<'a>],
    count: usize,
    /// Whether there are more, of which these were drawn.
    are_drawn: bool,
}

impl<'a, 'r> Destinations<'a, 'r> {
    fn new(all: &'r mut [Destination<'a>]) -> Destinations<'a, 'r> {
        Destinations {
            all,
            count: 0,
            are_drawn: false,
        }
    }

    fn push(&mut self, destination: Destination<'a>) {
        if let Some(free) = self.all.get_mut(self.count) {
            *free = destination;
            self.count += 1;
        }
    }

    fn all(&self) -> &[Destination<'a>] {
        &self.all[..self.count]
    }
}

/// By which a broker judges destinations, and picks one.
pub(super) trait Rule: Send + Sync {
    /// The name of its policy.
    fn name(&self) -> &'static str;

    /// What it makes of a destination; says so in its own terms.
    fn judge<'t>(&'t self, sight: &Sight<'_>, terms: &mut Terms<'_>) -> Judged<'t>;

    /// Which of these gets the call; `None` for none. What it remembers of that is
    /// written down where the decision is no trial.
    fn pick(&self, all: &[Destination<'_>], case: &mut Case<'_>) -> Option<usize>;

    /// Takes note of where a call goes that is sent now.
    fn sends(&self, _sight: &Sent<'_>) {}

    /// As [`Policy::observe`].
    fn observe(&self, outcome: &Outcome<'_>);

    /// Allocates what decisions write to.
    fn open(&self) {
        if let Some(table) = self.table() {
            table.open();
        }
    }

    /// As [`Policy::tick`].
    fn tick(&self, _: &Field<'_>, _: &mut Wishes) -> Time {
        Time::NEVER
    }

    /// As [`Policy::probed`].
    fn probed(&self, _: &Probed) {}

    /// Its table of weights, where it has one.
    fn table(&self) -> Option<&Table> {
        None
    }

    /// What it learned beside that, to be kept over a restart.
    fn save(&self) -> Option<Vec<u8>> {
        None
    }

    /// As [`Policy::restore`], of that.
    fn restore(&self, _saved: &[u8], _now: Time) -> Result<(), Malformed> {
        Err(Malformed)
    }
}

/// A call that is sent to a destination now.
pub(super) struct Sent<'a> {
    /// The row that is of the call's function and class there.
    pub(super) which: Which,
    /// To whom; `None` for here.
    pub(super) peer: Option<&'a PeerView>,
    /// Bytes of its body.
    pub(super) body_bytes: f64,
    /// Calls of the function of ours that are there.
    pub(super) held: u32,
    /// When this is.
    pub(super) now: Time,
}

/// A policy that shares calls out by a rule.
pub(super) struct Broker<R> {
    rule: R,
    cloud: Cloud,
    is_two_tier: bool,
    /// Places of the best known members of large pools, by function and class.
    best: Memory<ASKED_MAX>,
}

impl<R: Rule> Broker<R> {
    /// A broker with the parameters [`ROUTING`] and [`CLOUD`].
    pub(super) fn new(parameters: &Parameters, rule: R) -> Broker<R> {
        Broker {
            rule,
            cloud: match parameters.word(CLOUD.name) {
                "equal" => Cloud::Equal,
                "never" => Cloud::Never,
                _ => Cloud::Last,
            },
            is_two_tier: parameters.word(ROUTING.name) == "two-tier",
            best: Memory::new(REMEMBERED_MAX),
        }
    }

    /// This node, where it can run the call at once and the function does not fail.
    fn look_here<'t>(&'t self, case: &mut Case<'_>, to: &mut Destinations<'t, '_>) {
        if case.run_well_here().is_none() {
            return;
        }
        let local = &case.snapshot.local;
        let start = match local.here {
            Here::Startable => local.start.unwrap_or_default(),
            Here::Warm | Here::Full | Here::Unable => Duration::ZERO,
        };
        let expected = local.service.unwrap_or_default().saturating_add(start);
        let sight = Sight {
            which: case.which().at(None),
            node: Which::NODE.at(None),
            candidate: None,
            service_here: local.service,
            expected: expected.as_secs_f64().max(PREDICTED_MIN),
            round_trip: 0.0,
            held: 0,
            cores: 1,
            body_bytes: body_bytes(case),
            now: seconds(case.snapshot.now),
        };
        let judged = self.rule.judge(&sight, &mut case.own_terms());
        to.push(Destination {
            row: judged.row,
            weight: judged.weight,
            age: judged.age,
            likely: 1.0,
            place: None,
            held: 0,
            cores: 1,
            is_vertical: false,
        });
    }

    /// The members of a pool, or some of a large one.
    fn look_at<'t>(
        &'t self,
        case: &mut Case<'_>,
        to: &mut Destinations<'t, '_>,
        pool: &Pool,
        reach: Reach,
    ) {
        let which = case.which();
        let body_bytes = body_bytes(case);
        let now = seconds(case.snapshot.now);
        let is_large = pool.len() > LOOKED_AT;
        to.are_drawn |= is_large;
        let best = self.best.find(which).filter(|_| is_large);
        let best = best.into_iter().flatten().filter_map(place_of);
        case.survey(pool, best, |case, candidate, likely| {
            let peer = candidate.peer;
            let sight = Sight {
                which: which.to_peer(peer.key),
                node: Which::NODE.to_peer(peer.key),
                candidate: Some(candidate),
                service_here: None,
                expected: (candidate.nanos() as f64 * 1e-9).max(PREDICTED_MIN),
                round_trip: peer.round_trip_nanos as f64 * 1e-9,
                held: candidate.held(),
                cores: (peer.cpu_total / 1_000).max(1),
                body_bytes,
                now,
            };
            let judged = self.rule.judge(&sight, &mut case.terms(candidate));
            to.push(Destination {
                row: judged.row,
                weight: judged.weight,
                age: judged.age,
                likely,
                place: u32::try_from(candidate.place).ok(),
                held: sight.held,
                cores: sight.cores,
                is_vertical: reach == Reach::Vertical,
            });
        });
    }

    /// The members of all regions that this node spills to.
    fn look_up<'t>(&'t self, case: &mut Case<'_>, to: &mut Destinations<'t, '_>) {
        if case.request.bounds != super::Bounds::Federation {
            return;
        }
        let snapshot = case.snapshot;
        let regions = snapshot.local.regions.iter();
        for pool in regions.filter_map(|name| snapshot.view.region(name)) {
            self.look_at(case, to, pool, Reach::Vertical);
        }
    }

    /// Picks this node or a neighbour, and where regions count as much one of their
    /// members too.
    fn nearest<'t>(
        &'t self,
        case: &mut Case<'_>,
        room: &mut [Destination<'t>],
    ) -> Option<Decision> {
        let mut all = Destinations::new(room);
        self.look_here(case, &mut all);
        let neighbours = case.snapshot.view.neighbours();
        self.look_at(case, &mut all, neighbours, Reach::Horizontal);
        if self.cloud == Cloud::Equal {
            self.look_up(case, &mut all);
        }
        self.choose(case, &all, false)
    }

    /// Picks one of these, and sends the call there. `is_final` is whether no
    /// destination may dispatch it once more.
    fn choose(
        &self,
        case: &mut Case<'_>,
        among: &Destinations<'_, '_>,
        is_final: bool,
    ) -> Option<Decision> {
        let all = among.all();
        let chosen = self.rule.pick(all, case).and_then(|at| all.get(at))?;
        let place = chosen.place();
        if !case.is_trial() {
            let peer = place.map(|place| &case.snapshot.view.peers[place]);
            self.rule.sends(&Sent {
                which: case.which().at(peer.map(|peer| &peer.id)),
                peer,
                body_bytes: body_bytes(case),
                held: chosen.held,
                now: case.snapshot.now,
            });
            if let Some(place) = place.filter(|_| among.are_drawn) {
                self.remember(case, all, (place, chosen.weight));
            }
        }
        let Some(place) = place else {
            return Some(Decision::Run);
        };
        let reach = match chosen.is_vertical {
            true => Reach::Vertical,
            false => Reach::Horizontal,
        };
        let goes_on = u8::from(chosen.is_vertical && self.is_two_tier && !is_final);
        Some(Decision::Offload {
            to: place,
            reach,
            hops: goes_on.min(case.request.hops.saturating_sub(1)),
            until: case.request.deadline,
        })
    }

    /// Remembers a member of a large pool as one of the best, where it is.
    fn remember(&self, case: &Case<'_>, all: &[Destination<'_>], (place, weight): (usize, f64)) {
        let Some(best) = self.best.entry_if_open(case.which(), case.snapshot.now) else {
            return;
        };
        let mut worst: Option<(&Cell, f64)> = None;
        for cell in best {
            let known = place_of(cell);
            if known == Some(place) {
                return;
            }
            let seen = known.and_then(|known| all.iter().find(|one| one.place() == Some(known)));
            // Who is gone, or has no room, makes room here.
            let has = seen.map_or(f64::INFINITY, |seen| seen.weight);
            if worst.is_none_or(|(_, most)| has > most) {
                worst = Some((cell, has));
            }
        }
        if let Some((cell, has)) = worst
            && weight < has
        {
            cell.set(place as f64);
        }
    }

    /// Where nobody is a destination: in the queue here, or nowhere.
    fn otherwise(case: &Case<'_>) -> Decision {
        if case.run_here().is_some() {
            // It could run here, and would fail as those before it.
            return case.wait_elsewhere().unwrap_or(Decision::Run);
        }
        match case.queue() {
            Ok(decision) => decision,
            Err(Reason::NoRoom) => Decision::Reject(Reason::NobodyHasRoom),
            Err(reason) => Decision::Reject(reason),
        }
    }
}

fn place_of(cell: &Cell) -> Option<usize> {
    cell.get().map(|place| place as usize)
}

fn body_bytes(case: &Case<'_>) -> f64 {
    case.request.more.body_bytes.unwrap_or_default() as f64
}

/// A moment as a number of seconds.
pub(super) fn seconds(time: Time) -> f64 {
    time.as_nanos() as f64 * 1e-9
}

impl<R: Rule> Policy for Broker<R> {
    fn name(&self) -> &'static str {
        self.rule.name()
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: self.cloud != Cloud::Never,
        }
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        match origin {
            Origin::Here | Origin::Region { inside: false } => false,
            Origin::Neighbour | Origin::Region { inside: true } => true,
        }
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let is_few = case.snapshot.view.neighbours().len() <= LOOKED_AT;
        let mut chosen = match is_few && self.cloud != Cloud::Equal {
            true => self.nearest(case, &mut [Destination::default(); DESTINATIONS_FEW]),
            false => self.nearest(case, &mut [Destination::default(); DESTINATIONS_MAX]),
        };
        if chosen.is_none() && self.cloud == Cloud::Last {
            let mut all = [Destination::default(); DESTINATIONS_MAX];
            let mut all = Destinations::new(&mut all);
            self.look_up(case, &mut all);
            chosen = self.choose(case, &all, false);
        }
        chosen.unwrap_or_else(|| Self::otherwise(case))
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        let view = case.snapshot.view;
        let mut all = [Destination::default(); DESTINATIONS_MAX];
        let mut all = Destinations::new(&mut all);
        match case.request.origin {
            Origin::Here => return self.decide(case),
            Origin::Neighbour => {
                if let Some(decision) = case.run_here() {
                    return decision;
                }
                self.look_at(case, &mut all, view.neighbours(), Reach::Horizontal);
            }
            Origin::Region { inside: true } => {}
            Origin::Region { inside: false } => {
                self.look_here(case, &mut all);
                let own = case.snapshot.local.regions.first();
                if let Some(pool) = own.and_then(|own| view.region(own)) {
                    self.look_at(case, &mut all, pool, Reach::Horizontal);
                }
            }
        }
        self.choose(case, &all, true)
            .or_else(|| case.run_here())
            .unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.rule.observe(outcome);
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        self.best.open();
        self.rule.open();
        self.rule.tick(field, wishes)
    }

    fn probed(&self, probed: &Probed) {
        self.rule.probed(probed);
    }

    fn weight(&self, function: &FunctionName, class: ClassKey, to: Option<&PeerId>) -> Option<f64> {
        self.rule
            .table()?
            .weight(Which::of(function).class(class).at(to))
    }

    fn set_weight(
        &self,
        function: &FunctionName,
        class: ClassKey,
        to: Option<&PeerId>,
        weight: Option<f64>,
        now: Time,
    ) -> bool {
        let which = Which::of(function).class(class).at(to);
        let table = self.rule.table();
        table.is_some_and(|table| table.set_weight(which, weight, now))
    }

    fn save(&self) -> Option<Vec<u8>> {
        match self.rule.table() {
            Some(table) => table.save(),
            None => self.rule.save(),
        }
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        match self.rule.table() {
            Some(table) => table.restore(saved, now),
            None => self.rule.restore(saved, now),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
