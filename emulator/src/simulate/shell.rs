//! Stand-ins for rules that only the shells of production have so far, each the
//! shortest that will do and named with the place of the rule. Who moves one into
//! a core deletes it here.
//!
//! | here | the rule |
//! |---|---|
//! | [`report`] | `federation/src/federated/maintenance/saying.rs` |
//! | [`learn`] | `federation/src/dispatch/offer.rs`, `arrived`: which outcome counts for and against a peer |
//! | [`worth_asking`] | `federation/src/dispatch/waiting.rs`, `Inner::ask` |
//!
//! Not modelled, for its rules are there alone too: letting go of code.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::abilities::AtPeers;
pub(super) use weir_federation_core::answers::Why;
use weir_federation_core::answers::{self, Holdings};
use weir_federation_core::explain::Verdict;
use weir_federation_core::peers::{Fault, Met};
use weir_federation_core::placement::{Came, End};
use weir_federation_core::policy;
use weir_federation_core::report::{Load, OFFERS, Offer, Report};
use weir_federation_core::snapshot::{Cost, PeerView, Reserved, Snapshot, Word};
use weir_node_core::admission::{FunctionGauges, Places};
use weir_node_core::profile::Profile;
use weir_node_core::time::Time;

use super::calls::{Ended, Told};
use super::node::{Member, Node};
use super::world::{Function, World};

/// Between two views of the peers (`keeper.rs`, `VIEW`).
pub(super) const VIEW_INTERVAL: Duration = Duration::from_millis(10);

/// Between two questions to one peer about one function (`waiting.rs`,
/// `LOOK_PAUSE`).
pub(super) const QUESTION_INTERVAL: Duration = Duration::from_millis(100);

/// Questions that may be asked at once after a pause (`waiting.rs`,
/// `LOOKS_AT_ONCE`).
const QUESTIONS_AT_ONCE: f64 = 8.0;

/// Questions of a node in a second (`waiting.rs`, `LOOKS_PER_SECOND`).
const QUESTIONS_PER_SECOND: f64 = 20.0;

/// How long a question waits at a peer for a place there (`waiting.rs`,
/// `LOOK_WAIT`).
pub(super) const QUESTION_WAIT: Duration = Duration::from_secs(1);

/// Places that one question asks for (`waiting.rs`, `PLACES`).
pub(super) const PLACES_ASKED_FOR: u32 = 64;

/// Calls that one word of a peer moves there (`waiting.rs`, `MOVED`).
pub(super) const MOVED_MAX: usize = 256;

/// Calls that wait elsewhere than in the queue (`waiting.rs`, `OUTSIDE`).
pub(super) const OUTSIDE_MAX: usize = 256;

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
    let mut load = holdings.load(node.guests_share, &mut member.own_peak, promised, now);
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
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut told = 0;
    // Of functions alike that have nothing here the same is said.
    let mut idle: Option<(Profile, Places, bool)> = None;
    let admission = node.scheduler.admission();
    for (function, key) in world.functions.iter().zip(&node.keys) {
        let Some(key) = key.filter(|_| told < OFFERS) else {
            continue;
        };
        let is_idle = admission.gauges(key) == Some(FunctionGauges::default());
        let alike = idle.filter(|(profile, ..)| is_idle && *profile == function.profile);
        let (places, full) = match alike {
            Some((_, places, full)) => (places, full),
            None => {
                let places = admission.places(key).unwrap_or_default();
                (places, admission.is_full(key))
            }
        };
        if is_idle {
            idle = Some((function.profile, places, full));
        }
        let known = node.scheduler.known(key).unwrap_or_default();
        if told == report.offers.len() {
            report.offers.push(Offer {
                function: String::new(),
                warm: 0,
                startable: 0,
                full: false,
                running: 0,
                service_micros: 0,
                start_micros: 0,
            });
        }
        let offer = &mut report.offers[told];
        if offer.function != function.qualified {
            offer.function.clone_from(&function.qualified);
        }
        (offer.warm, offer.startable) = (places.warm, places.startable);
        offer.full = full;
        offer.service_micros = micros(known.service().mean);
        offer.start_micros = micros(known.start());
        told += 1;
    }
    report.offers.truncate(told);
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
        });
        told.unwrap_or_default()
    }
}

/// What a node learns of an answer to a call, and what that means to the call;
/// `None` where it ends with it.
pub(super) fn learn(member: &mut Member, said: &Said<'_>, ended: Ended, now: Time) -> Option<Came> {
    let word = said.told.map(|told| Word {
        load: told.load,
        under_way: said.under_way,
    });
    let peer = said.peer;
    let (met, came) = match (ended, said.why) {
        (Ended::Answered { ran, failed }, _) => {
            is_ready(member, said, (!failed).then_some(ran), now);
            (Met::Answer(word), None)
        }
        (Ended::Gone, _) => (Met::Failure(Fault::Lost), Some(Came::Lost(peer))),
        (Ended::Unreachable, _) => {
            let fault = Met::Failure(Fault::Unreachable);
            (fault, Some(Came::Declined(peer)))
        }
        (Ended::Without(_), Some(why)) => {
            refused_by(member, said, why, now);
            let (met, came) = answers::refusal(peer, why, &said.told(), word);
            (met, Some(came))
        }
        (Ended::Without(_) | Ended::TimedOut | Ended::NotStarted | Ended::Waited, _) => {
            is_ready(member, said, None, now);
            (Met::Answer(word), None)
        }
    };
    member.peers.met(peer, met, now);
    member.is_stale = true;
    came
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
    let word = said.told.map(|told| Word {
        load: told.load,
        under_way: said.under_way,
    });
    member.peers.met(said.peer, Met::Told(word), now);
    member.is_stale = true;
    match said.why {
        None => is_ready(member, said, None, now),
        Some(why) => refused_by(member, said, why, now),
    }
}

/// Questions that a node may ask now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tokens {
    left: f64,
    at: Time,
}

impl Default for Tokens {
    fn default() -> Tokens {
        Tokens {
            left: QUESTIONS_AT_ONCE,
            at: Time::ZERO,
        }
    }
}

impl Tokens {
    /// Whether one may be asked at `now`.
    pub(super) fn has_one(&mut self, now: Time) -> bool {
        let more = now.since(self.at).as_secs_f64() * QUESTIONS_PER_SECOND;
        (self.left, self.at) = ((self.left + more).min(QUESTIONS_AT_ONCE), now);
        self.left >= 1.0
    }

    /// How many may be asked.
    pub(super) fn left(&self) -> f64 {
        self.left
    }

    /// Takes that one; whether there was one.
    pub(super) fn take(&mut self) -> bool {
        let has = self.left >= 1.0;
        if has {
            self.left -= 1.0;
        }
        has
    }
}

/// Peers that are worth a question about a function, the best first.
pub(super) fn worth_asking(
    request: &policy::Request<'_>,
    snapshot: &Snapshot<'_>,
    reaches: policy::Reaches,
) -> Vec<PeerId> {
    let view = snapshot.view;
    let near = reaches.horizontal.then(|| view.neighbours());
    let far = snapshot.local.regions.iter();
    let far = far.filter(|_| reaches.vertical && request.bounds == policy::Bounds::Federation);
    let far = far.filter_map(|region| view.region(region));
    let pools = near.into_iter().chain(far);
    let is_one = pools.clone().filter(|pool| !pool.is_empty()).count() <= 1;
    let weighed = pools.flat_map(|pool| policy::weigh_all(pool, request, snapshot));
    let mut worth = Vec::new();
    for (peer, verdict) in weighed {
        match verdict {
            Verdict::Unasked { delay } => worth.push((delay, &peer.id)),
            Verdict::Full => worth.push((peer.round_trip(), &peer.id)),
            Verdict::Fits { .. }
            | Verdict::Bringing { .. }
            | Verdict::OnTrial
            | Verdict::TooFar { .. }
            | Verdict::Slower { .. }
            | Verdict::Visited
            | Verdict::Unfit
            | Verdict::NoDisk
            | Verdict::NeedsGrant
            | Verdict::Unable
            | Verdict::Throttled
            | Verdict::Shed
            | Verdict::Failing
            | Verdict::Congested => {}
        }
    }
    // A pool is in the order of ids.
    match is_one {
        true => worth.sort_by_key(|(delay, _)| *delay),
        false => worth.sort_unstable(),
    }
    worth.into_iter().map(|(_, id)| *id).collect()
}
