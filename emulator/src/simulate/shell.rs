//! What production's shells gather for the core's rules, gathered of a virtual
//! node: its load, its report, and what is made of an answer. The rules
//! themselves are the core's.
//!
//! Not modelled, for its rules are in a shell alone: letting go of code.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::abilities::AtPeers;
pub(super) use weir_federation_core::answers::Why;
use weir_federation_core::answers::{self, Back, Holdings, Lesson};
use weir_federation_core::placement::End;
use weir_federation_core::policy::ClassKey;
use weir_federation_core::report::{Load, Offer, Report};
use weir_federation_core::reporting::offers;
use weir_federation_core::snapshot::{Cost, PeerView, Reserved, Word};
use weir_node_core::estimate::Known;
use weir_node_core::time::Time;

use super::calls::{Ended, Told};
use super::node::{Member, Node};
use super::world::{Function, World};

/// The processor of all nodes: a scenario names none.
pub(super) const ARCHITECTURE: &str = "x86_64";

/// How loaded a node is, as `to` is to hear it; a liar says what it likes.
pub(super) fn load(node: &mut Node, member: &mut Member, to: Option<&PeerId>, now: Time) -> Load {
    let admission = node.scheduler.admission();
    let holdings = Holdings {
        capacity: admission.capacity(),
        held: admission.held(),
        running: admission.running(),
        waiting: admission.waiting(),
        guest_cpu: member.guest_cpu,
        disk_free: u64::MAX >> 24,
        is_open: admission.contending() == 0,
    };
    let promised = member.turns.promised_to_others(to, now);
    let mut load = holdings.load(node.guests_share, promised);
    if let Some(claims) = node.claims {
        let claimed = (f64::from(load.cpu_total) * claims) as u32;
        let claimed = claimed.min(load.cpu_total);
        load.waiting = 0;
        (load.cpu_free, load.guest_cpu, load.guest_cpu_long) = (claimed, claimed, claimed);
    }
    load
}

/// What a node tells all others of itself, written over what it told last.
pub(super) fn report(world: &World, at: u32, node: &mut Node, member: &mut Member, now: Time) {
    let load = load(node, member, None, now);
    let report = member.report.get_or_insert_with(|| empty(world, at));
    report.epoch = member.peers.epoch();
    report.sequence = member.sequence;
    report.load = load;
    let admission = node.scheduler.admission();
    let functions = world.functions.iter().zip(&node.keys);
    let busy = functions.filter_map(|(function, key)| {
        let gauges = admission.gauges((*key)?)?;
        let has = gauges.starting + gauges.ready + gauges.running + gauges.waiting > 0;
        let known = node.scheduler.known((*key)?)?;
        has.then_some((function, (*key)?, gauges.running, known))
    });
    let mut busy: Vec<_> = busy.collect();
    let calls = |known: &Known| u64::from(known.service().samples);
    offers::choose(&mut busy, |(.., known)| calls(known), |(f, ..)| &f.name);
    report.offers.truncate(busy.len());
    for (at, (function, key, running, known)) in busy.iter().enumerate() {
        let told = offers::Told {
            places: admission.places(*key).unwrap_or_default(),
            full: admission.is_full(*key),
            running: *running,
            service: known.service().mean,
            start: known.start(),
        };
        match report.offers.get_mut(at) {
            Some(offer) => {
                if offer.function != function.qualified {
                    offer.function.clone_from(&function.qualified);
                }
                offer.says(&told);
            }
            None => {
                let offer = Offer::of(function.qualified.clone(), &told);
                report.offers.push(offer);
            }
        }
    }
    report.clamp();
}

/// A report of a node that says nothing of its load.
pub(super) fn empty(world: &World, at: u32) -> Report {
    let class = world.class(at);
    Report {
        epoch: 0,
        sequence: 0,
        role: class.role.0,
        zone: class.zone.clone(),
        region: class.region.clone(),
        architecture: ARCHITECTURE.to_owned(),
        executors: vec!["wasm".to_owned()],
        labels: std::collections::BTreeMap::new(),
        draining: false,
        abilities: 0,
        load: Load::default(),
        coordinate: weir_federation_core::coordinates::Coordinate::default(),
        addresses: Vec::new(),
        carriage: Vec::new(),
        brief: false,
        forgotten: 0,
        offers: Vec::new(),
    }
}

/// Takes a place at a peer for a call.
pub(super) fn seize(
    peer: &PeerView,
    known: &AtPeers,
    function: &Function,
    service: Option<Duration>,
    now: Time,
) -> Option<Reserved> {
    let wanted = &function.wanted;
    answers::seize(peer, known, wanted.version, wanted.cost(service), now)
}

/// What it means to the sender that its call was not run at `node`.
pub(super) fn why(node: &Node, function: u32, end: End, cost: Cost) -> Why {
    match end {
        End::Nowhere => Why::Unable,
        End::Refused { .. } => {
            let admission = node.scheduler.admission();
            let key = node.keys[function as usize];
            let places = key.and_then(|key| admission.places(key));
            let free = admission.capacity().checked_sub(admission.held());
            let free = free.unwrap_or_default().cpu.as_millicores();
            Why::full(places, free, cost)
        }
        End::Unknown | End::Late { .. } | End::Lost => Why::Other,
    }
}

/// What a peer said, and of which call.
pub(super) struct Said<'a> {
    pub(super) peer: PeerId,
    pub(super) function: &'a Function,
    pub(super) class: ClassKey,
    pub(super) told: Option<&'a Told>,
    pub(super) why: Option<Why>,
    /// Calls of the sender that are under way there beside those that it holds.
    pub(super) under_way: u32,
}

impl Said<'_> {
    fn told(&self) -> answers::Told {
        let told = self.told.map(|told| answers::Told {
            load: Some(told.load),
            places: told.places,
            held: told.held,
            ready_in: told.ready_in,
            level: told.level,
        });
        told.unwrap_or_default()
    }
}

/// What a node learns of what came back of a call, and what that means to it.
pub(super) fn learn(
    member: &mut Member,
    said: &Said<'_>,
    ended: Ended,
    is_impatient: bool,
    now: Time,
) -> Lesson {
    let word = said.told.map(|told| Word {
        load: told.load,
        under_way: said.under_way,
    });
    let back = match (ended, said.why) {
        (Ended::Answered { .. }, _) => Back::Answered,
        (Ended::Gone, _) => Back::Lost { excused: false },
        (Ended::Unreachable, _) => Back::Unreachable,
        (Ended::Without(_) | Ended::Waited, Some(why)) => Back::Refused(why),
        (Ended::Without(End::Late { .. }), None) => Back::Ended { late: true },
        (Ended::Without(_) | Ended::TimedOut | Ended::NotStarted | Ended::Waited, _) => {
            Back::Ended { late: false }
        }
    };
    match back {
        Back::Answered => {
            let ran = match ended {
                Ended::Answered { ran, failed: false } => Some(ran),
                _ => None,
            };
            is_ready(member, said, ran, now);
        }
        Back::Refused(why) => refused_by(member, said, why, now),
        Back::Ended { .. } => is_ready(member, said, None, now),
        Back::Lost { .. } | Back::Unreachable | Back::Cut | Back::Nothing | Back::Malformed => {}
    }
    let lesson = answers::lesson(said.peer, back, &said.told(), word, is_impatient);
    if let Some(met) = lesson.met {
        member.peers.met(said.peer, met, now);
        member.viewing.stale();
    }
    let beside = &member.beside;
    beside.heard(&said.peer, said.class, &said.told(), lesson.took, now);
    lesson
}

/// Takes note that a peer has a function, and what it says of its room.
fn is_ready(member: &mut Member, said: &Said<'_>, ran: Option<Duration>, now: Time) {
    let function = (&said.function.name, said.function.wanted.version);
    let told = said.told();
    member
        .abilities
        .answered(function, said.peer, &told, ran, now);
}

/// Takes note of why a peer did not take a call of a function.
fn refused_by(member: &mut Member, said: &Said<'_>, why: Why, now: Time) {
    let function = (&said.function.name, said.function.wanted.version);
    let told = said.told();
    let abilities = &mut member.abilities;
    abilities.refused(function, said.peer, &told, (why, "", 0), now);
}

/// Takes note of the answer to a question.
pub(super) fn learn_told(member: &mut Member, said: &Said<'_>, now: Time) {
    let wanted = &said.function.wanted;
    let function = (&said.function.name, wanted.version);
    let (why, cpu) = (said.why.map(|why| (why, "", 0)), wanted.cost(None).cpu);
    let told = said.told();
    if why.is_none() && told.places.is_some_and(|places| places > 0) {
        member.beside.promised(&said.peer);
    }
    let abilities = &mut member.abilities;
    let met = abilities.questioned(function, said.peer, &told, why, cpu, now);
    member.peers.met(said.peer, met, now);
    member.viewing.stale();
}
