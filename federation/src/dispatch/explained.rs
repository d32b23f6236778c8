//! Why calls went where they went, for those who ask.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use serde::Serialize;

use crate::abilities::Able;
use crate::beside::Held;
use crate::explain::{Account, Verdict};
use crate::policy::{self, Bounds, Decision, Lack, Reach, Reason, Request};
use crate::report::Role;
use crate::snapshot::{Here, PeerView, Snapshot};
use weir_federation_core::placement::Decided;

/// Explanations that are kept; the oldest go first.
const EXPLANATIONS: usize = 1_024;

/// Peers that one explanation names; the rest is counted by reason.
const NAMED: usize = 64;

/// What was decided about one call, and why.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Explanation {
    /// The function.
    pub function: String,
    /// The policy that decided.
    pub policy: String,
    /// Each decision in turn.
    pub steps: Vec<Step>,
    /// How the call ended.
    pub outcome: String,
}

/// One decision.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What this node could do itself.
    pub here: String,
    /// Peers of the function's scope, those that could not be chosen too.
    pub candidates: Vec<Candidate>,
    /// Peers beyond those, by the reason.
    pub others: BTreeMap<String, usize>,
    /// Numbers by which the policy judged this node, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub terms: BTreeMap<&'static str, f64>,
    /// What was chosen.
    pub choice: String,
    /// What came of it.
    pub result: String,
}

/// A peer, and what speaks for or against it.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// Who.
    pub peer: String,
    /// What speaks for or against it, in words.
    pub verdict: String,
    /// When the call would be done there, in milliseconds; the least is the
    /// best.
    pub delay_ms: Option<f64>,
    /// Calls that could be sent to it.
    pub room: u32,
    /// How old the newest word of its load was, in milliseconds.
    pub age_ms: f64,
    /// Expected round trip in milliseconds.
    pub round_trip_ms: f64,
    /// Numbers by which the policy judged it, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub terms: BTreeMap<&'static str, f64>,
}

/// Explanations by call.
#[derive(Debug, Default)]
pub(super) struct Explained {
    by_call: HashMap<String, Arc<Explanation>>,
    order: VecDeque<String>,
}

impl Explained {
    pub(super) fn keep(&mut self, call: String, explanation: Explanation) {
        self.order.push_back(call.clone());
        self.by_call.insert(call, Arc::new(explanation));
        if self.order.len() > EXPLANATIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_call.remove(&oldest);
        }
    }

    pub(super) fn of(&self, call: &str) -> Option<Arc<Explanation>> {
        self.by_call.get(call).cloned()
    }
}

/// Three digits say all that a measurement knows.
fn milliseconds(time: Duration) -> f64 {
    let milliseconds = time.as_secs_f64() * 1e3;
    match milliseconds {
        10.0.. => milliseconds.round(),
        1.0.. => (milliseconds * 10.0).round() / 10.0,
        _ => (milliseconds * 100.0).round() / 100.0,
    }
}

fn seconds(time: Duration) -> String {
    match time {
        time if time < Duration::from_secs(1) => format!("{} ms", milliseconds(time)),
        time => format!("{:.1} s", time.as_secs_f64()),
    }
}

fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1_000)),
        _ => format!("{} MB", bytes.div_ceil(1_000_000)),
    }
}

/// One decision, with all peers of the function's scope.
pub(super) fn step(
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
    account: &Account,
    decided: &Decided,
) -> Step {
    let mut candidates = Vec::new();
    let mut others = BTreeMap::new();
    for peer in snapshot.view.peers.iter() {
        let seen = account.weighed.iter().find(|seen| seen.peer == peer.id);
        let verdict = match out_of_reach(peer, request, snapshot) {
            Some(reason) => reason.to_owned(),
            None => {
                let verdict = seen.map(|seen| seen.verdict);
                let verdict = verdict.unwrap_or_else(|| policy::weigh(peer, request, snapshot));
                in_words(verdict, peer, request, snapshot)
            }
        };
        if candidates.len() >= NAMED && seen.is_none() {
            *others.entry(verdict).or_default() += 1;
            continue;
        }
        candidates.push(Candidate {
            peer: peer.id.to_string(),
            verdict,
            delay_ms: seen.and_then(|seen| seen.verdict.delay()).map(milliseconds),
            room: policy::room_of(peer, request, snapshot),
            age_ms: milliseconds(snapshot.now.since(peer.loaded())),
            round_trip_ms: milliseconds(peer.round_trip()),
            terms: terms(account, Some(peer.id)),
        });
    }
    Step {
        here: here(snapshot).to_owned(),
        candidates,
        others,
        terms: terms(account, None),
        choice: match decided.held.has(Held::Budget) {
            true => format!(
                "{}; it is offered to no peer again: the retry budget is used up",
                choice(decided.decision, snapshot)
            ),
            false => choice(decided.decision, snapshot),
        },
        result: String::new(),
    }
}

/// Numbers by which a policy judged a peer, or this node. JSON has no other.
fn terms(account: &Account, of: Option<PeerId>) -> BTreeMap<&'static str, f64> {
    let terms = account.terms.iter().filter(|term| term.peer == of);
    let finite = terms.filter(|term| term.value.is_finite());
    finite.map(|term| (term.name, term.value)).collect()
}

/// Why a peer is none that this node may send the call to, whatever its load.
fn out_of_reach(
    peer: &PeerView,
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
) -> Option<&'static str> {
    let near = snapshot.view.is_neighbour(&peer.id);
    match (request.bounds, peer.report.role) {
        (Bounds::Node, _) => Some("the function is this node's alone (--scope node)"),
        (Bounds::Zone | Bounds::Federation, Role::Edge) if near => None,
        (Bounds::Zone | Bounds::Federation, Role::Edge) => Some("another zone"),
        (Bounds::Zone, Role::Cloud) => Some("outside of the function's scope (--scope zone)"),
        (Bounds::Federation, Role::Cloud) => {
            let region = peer.report.region.as_ref();
            let followed = region.is_some_and(|region| snapshot.local.regions.contains(region));
            (!followed).then_some("no region of this node")
        }
    }
}

/// What speaks for or against a peer, in words.
fn in_words(
    verdict: Verdict,
    peer: &PeerView,
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
) -> String {
    match verdict {
        Verdict::Unfit => match policy::lacks(&request.needs, &peer.report) {
            Some(Lack::Architecture(name)) => format!("its processor is no {name}"),
            Some(Lack::Executor(name)) => format!("no executor {name} works there"),
            Some(Lack::Constraint(name, value)) => format!("constraint {name}={value}"),
            None => verdict.as_str().to_owned(),
        },
        Verdict::Unable => {
            let known = snapshot.abilities.get(&peer.id);
            let able =
                known.map(|known| known.able(request.version, peer.report.abilities, snapshot.now));
            match able {
                Some(Able::Unable(why)) => format!("unable: {why}"),
                _ => verdict.as_str().to_owned(),
            }
        }
        Verdict::Bringing { left } => format!(
            "would have to bring {} first: {}",
            megabytes(request.needs.code_bytes),
            seconds(left)
        ),
        Verdict::NoDisk => format!(
            "has no disk for {} of code",
            megabytes(request.needs.code_bytes)
        ),
        Verdict::TooFar { delay } => format!("too late there: done in {}", seconds(delay)),
        Verdict::Slower { delay } => {
            format!("slower than waiting here: done in {}", seconds(delay))
        }
        Verdict::Full if peer.load().waiting > 0 => {
            format!("full: {} of its own calls wait", peer.load().waiting)
        }
        Verdict::Fits { .. }
        | Verdict::Visited
        | Verdict::NeedsGrant
        | Verdict::Unasked { .. }
        | Verdict::Failing
        | Verdict::OnTrial
        | Verdict::Throttled
        | Verdict::Shed
        | Verdict::Full
        | Verdict::Congested => verdict.as_str().to_owned(),
    }
}

fn here(snapshot: &Snapshot<'_>) -> &'static str {
    match (snapshot.local.here, snapshot.local.blamed) {
        (Here::Warm | Here::Startable, true) => "the function fails here and not elsewhere",
        (Here::Warm, false) => "warm",
        (Here::Startable, false) => "could start it",
        (Here::Full, _) => "full",
        (Here::Unable, _) => "cannot run it",
    }
}

fn choice(decision: Decision, snapshot: &Snapshot<'_>) -> String {
    match decision {
        Decision::Run => "run here".to_owned(),
        Decision::Enqueue { .. } => "wait here".to_owned(),
        Decision::Ask => "ask peers, and wait".to_owned(),
        Decision::Offload { to, reach, .. } => {
            let way = match reach {
                Reach::Horizontal => "horizontally",
                Reach::Vertical => "vertically",
            };
            format!("offload {way} to {}", snapshot.view.peers[to].id)
        }
        Decision::Reject(reason) => {
            let why = match reason {
                Reason::NoRoom => "no room here, and the policy asks nobody else",
                Reason::NobodyHasRoom => "nobody that may be asked has room",
                Reason::NoSuchPlace => "no peer that may be asked can run it",
                Reason::TooLate => "it would not be done before its deadline",
            };
            format!("reject: {why}")
        }
    }
}
