//! What this node knows of its peers, for people: each with what it says of itself
//! and what calls made of it, and whether it is reached.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use serde::Serialize;

use super::Federated;
use crate::coordinates::Coordinate;
use crate::peers::{Fault, Known, Standing};

/// What came of a way to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// It was heard so long ago; nothing was tried.
    Heard(Duration),
    /// The last round trip that was measured; nothing was tried.
    Last(Duration),
    /// It answered just now, after so long.
    Answered(Duration),
    /// It did not, and why.
    Failed(String),
}

impl From<Result<Duration, String>> for Tried {
    fn from(tried: Result<Duration, String>) -> Tried {
        match tried {
            Ok(took) => Tried::Answered(took),
            Err(reason) => Tried::Failed(reason),
        }
    }
}

/// One peer, as listings show it.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    /// Its id.
    pub id: String,
    /// `in`, `suspected`, `out`, `dead`, `left`, `silent` or `denied`.
    pub state: String,
    /// `edge` or `cloud`.
    pub role: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Whether there is a link.
    pub linked: bool,
    /// Measured round trip in milliseconds; expected where nobody measured.
    pub round_trip_ms: f64,
    /// Whether that was measured.
    pub measured: bool,
    /// Its processor.
    pub architecture: String,
    /// Its executors.
    pub executors: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Cores that no call holds.
    pub cpu_free: f64,
    /// All of them.
    pub cpu_total: f64,
    /// Bytes of memory that nothing holds.
    pub memory_free: u64,
    /// All of them.
    pub memory_total: u64,
    /// Calls that run there.
    pub running: u32,
    /// Calls that wait there.
    pub waiting: u32,
    /// Calls of others that take a core each which it takes now; the last may
    /// take less.
    pub room: u32,
    /// Whether calls may be sent to it now.
    pub candidate: bool,
    /// Why `room` is none.
    pub full_because: Option<&'static str>,
    /// Calls of ours that it holds.
    pub held: u32,
    /// Calls of ours that it may hold.
    pub allowance: u32,
    /// What it can run.
    pub functions: Vec<String>,
    /// How old its report is, in milliseconds.
    pub report_age_ms: u64,
    /// How old the newest word of its load is.
    pub load_age_ms: u64,
    /// Whether it refuses what it claims to have room for.
    pub contradicted: bool,
    /// What it failed in last, and was not forgiven yet.
    pub fault: Option<&'static str>,
    /// Whether it takes no new calls.
    pub draining: bool,
    /// What carries calls to it: `direct`, `stream`, or nothing yet.
    pub carriage: Option<&'static str>,
    /// Where it can be linked to.
    pub addresses: Vec<String>,
}

impl Federated {
    /// All that is known of others.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let now = self.shared.clock.now();
        let own = *self.shared.coordinate.lock();
        let known = self.shared.table.lock().known(now);
        known
            .iter()
            .map(|known| self.peer_status(known, &own))
            .collect()
    }

    /// What is known of one of them.
    pub fn peer(&self, id: PeerId) -> Option<PeerStatus> {
        let now = self.shared.clock.now();
        let own = *self.shared.coordinate.lock();
        let known = self.shared.table.lock().one(&id, now)?;
        Some(self.peer_status(&known, &own))
    }

    fn peer_status(&self, known: &Known, own: &Coordinate) -> PeerStatus {
        let report = &known.report;
        let measured = self.shared.round_trips.get(&known.id).map(|took| *took);
        let round_trip = measured.unwrap_or_else(|| own.distance(&report.coordinate));
        let state = match known.standing {
            _ if self.shared.member.is_denied(&known.id) => "denied",
            Standing::In if known.silent => "silent",
            standing => standing.as_str(),
        };
        let milliseconds = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        PeerStatus {
            id: known.id.to_string(),
            state: state.to_owned(),
            role: report.role.to_string(),
            zone: report.zone.clone(),
            region: report.region.clone(),
            linked: self.shared.links.lock().link(&known.id).is_some(),
            round_trip_ms: round_trip.as_secs_f64() * 1e3,
            measured: measured.is_some(),
            architecture: report.architecture.clone(),
            executors: report.executors.clone(),
            labels: report.labels.clone(),
            cpu_free: f64::from(known.load.cpu_free) / 1e3,
            cpu_total: f64::from(known.load.cpu_total) / 1e3,
            memory_free: known.load.memory_free,
            memory_total: known.load.memory_total,
            running: known.load.running,
            waiting: known.load.waiting,
            room: match known.load.guest_cpu {
                0 => 0,
                cpu => (cpu / 1_000).max(1),
            },
            candidate: self.shared.view.load().peer(&known.id).is_some(),
            full_because: full_because(known),
            held: known.held,
            allowance: known.allowance,
            functions: report.offers.iter().map(|o| o.function.clone()).collect(),
            report_age_ms: milliseconds(known.age),
            load_age_ms: milliseconds(known.load_age),
            contradicted: known.contradicted,
            fault: known.fault.map(Fault::as_str),
            draining: report.draining,
            carriage: self.carriage.kind(&known.id).map(|kind| kind.as_str()),
            addresses: report.addresses.clone(),
        }
    }

    /// Tries each way to a peer: the name of the way, and what came of it.
    pub async fn ping(&self, peer: PeerId) -> Vec<(String, Tried)> {
        let mut tried = Vec::new();
        let known = {
            let now = self.shared.clock.now();
            self.shared.table.lock().one(&peer, now)
        };
        match &known {
            None => tried.push((
                "peer table".to_owned(),
                Tried::Failed("nothing was ever heard of it".to_owned()),
            )),
            Some(known) => tried.push((
                format!("peer table ({})", known.standing.as_str()),
                Tried::Heard(known.age),
            )),
        }
        let link = self
            .shared
            .links
            .lock()
            .link(&peer)
            .map(|link| link.relayed);
        let round_trip = self.shared.round_trips.get(&peer).map(|took| *took);
        tried.push(match (link, round_trip) {
            (Some(relayed), round_trip) => {
                let way = if relayed { "over a relay" } else { "direct" };
                let none = || Tried::Failed("no heartbeat yet".to_owned());
                (
                    format!("link ({way})"),
                    round_trip.map_or_else(none, Tried::Last),
                )
            }
            (None, _) => ("link".to_owned(), Tried::Failed("there is none".to_owned())),
        });
        let addresses = known.map(|known| known.report.carriage.clone());
        let addresses = addresses.unwrap_or_default();
        if addresses.is_empty() {
            let none = "it names no address for calls".to_owned();
            tried.push(("direct".to_owned(), Tried::Failed(none)));
        }
        for address in addresses {
            let way = format!("direct {address}");
            let outcome = match address.parse() {
                Ok(address) => self.carriage.try_direct(peer, address).await,
                Err(_) => Err("not an address".to_owned()),
            };
            tried.push((way, outcome.into()));
        }
        let stream = self.carriage.try_stream(peer).await;
        tried.push(("stream".to_owned(), stream.into()));
        tried
    }
}

/// Why a peer takes no calls of others, by what it says of itself.
fn full_because(known: &Known) -> Option<&'static str> {
    let load = &known.load;
    match load.guest_cpu {
        1.. => None,
        0 if known.report.draining => Some("it drains"),
        0 if load.cpu_total == 0 => Some("it has no processors for functions"),
        0 if load.waiting > 0 => Some("its own calls wait"),
        0 if load.cpu_free == 0 => Some("its processors are busy"),
        0 => Some("the rest is promised to others"),
    }
}
