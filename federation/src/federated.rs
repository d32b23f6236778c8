//! A node's place in its federation: the shell around the core. It hears what
//! members say, tells what this node can do, keeps links, and publishes the
//! view by which calls are placed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use libp2p_identity::{Keypair, PeerId};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tracing::{debug, info, warn};
use weir_node::Node;
use weir_node::clock::Clock;
use weir_node::time::Time;
use weir_overlay::carriage::Carriage;
use weir_overlay::tls::{Acceptor, Connector, TlsError};
use weir_overlay::{
    Answer, CallStreams, Event as Happening, Host, Multiaddr, Overlay, Refusal, Verdict,
};

use crate::book::Book;
use crate::coordinates::Coordinate;
use crate::member::{Member, MemberError, unix_time};
use crate::membership::{Rights, Token};
use crate::message::{self, ENVELOPE_BYTES, Message, Suspicion as Suspecting};
use crate::peers::{Event, Heard, Known, Met, Peers, Standing, Suspicion};
use crate::report::{ADDRESSES, Load, OFFERS, Offer, Report, Role};
use crate::snapshot::View;

/// What happened and was not looked at yet. Beyond it, what happened shows at
/// the next look around.
const HAPPENINGS: usize = 4_096;

/// Links that a node keeps to its own zone or region.
const LINKS: usize = 8;

/// Links that it keeps to each region that it spills to.
const REGION_LINKS: usize = 2;

/// Links that one look around begins.
const DIALS: usize = 4;

/// How often links are looked after.
const LOOK: Duration = Duration::from_millis(500);

/// How often the node looks at itself, and time passes in the table.
const TICK: Duration = Duration::from_millis(50);

/// How often a node that was lost, or that nobody links to, is tried though
/// there are links enough: a healed partition has to be found.
const STRAY: Duration = Duration::from_secs(5);

/// Reports at the least, in a second, and at the most.
const RATE: (f64, f64) = (0.2, 5.0);

/// Reports that all nodes of a zone may send together, in a second.
const ZONE_RATE: f64 = 60.0;

/// How often other zones hear of this node.
const BRIEF: Duration = Duration::from_secs(7);

/// How often a node proves anew that it belongs here, for those who missed it.
const INTRODUCE: Duration = Duration::from_secs(60);

/// A view is made at most so often.
const VIEW: Duration = Duration::from_millis(10);

/// How often a node asks for a new certificate, once it wants one.
const RENEWAL: Duration = Duration::from_secs(10);

/// How often the address book is written, if it changed.
const BOOK: Duration = Duration::from_secs(2);

/// Share of its room by which a node must differ from what it said last.
const THRESHOLD: f64 = 0.1;

/// Where everybody hears everybody, in brief.
const EVERYBODY: &str = "weir/1/all";

/// What a node is told of its federation.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where membership and addresses are kept.
    pub folder: PathBuf,
    /// Where it is linked to, as multiaddresses.
    pub listen: Vec<Multiaddr>,
    /// Where it takes calls of peers; `None` when it cannot be dialled.
    pub peer_listen: Option<SocketAddr>,
    /// Multiaddresses at which others reach it, where they differ.
    pub advertise: Vec<Multiaddr>,
    /// The same for calls, as `ADDRESS:PORT`.
    pub peer_advertise: Vec<SocketAddr>,
    /// The invite by which it joins, the first time.
    pub join: Option<Token>,
    /// Members to link to, beside those that the invite and the book name.
    pub peers: Vec<Multiaddr>,
    /// What it is for; `None` for what its invite says.
    pub role: Option<Role>,
    /// Its zone, where it is an edge node.
    pub zone: String,
    /// Regions to spill to, in order; a cloud node's own is the first.
    pub regions: Vec<String>,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Whether to look for members on the local network.
    pub mdns: bool,
    /// Whether it can be reached over a relay only.
    pub relayed: bool,
    /// How long certificates that it issues are good.
    pub certificate_life: Duration,
    /// Share of the node that other nodes' users may have, in `0.0..=1.0`.
    pub guests: f64,
}

/// Why a node does not take part.
#[derive(Debug, thiserror::Error)]
pub enum FederateError {
    /// Its membership cannot be used.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The overlay does not start.
    #[error("start the overlay")]
    Overlay(#[from] weir_overlay::StartError),
    /// Calls cannot be carried.
    #[error("set up what carries calls")]
    Tls(#[from] TlsError),
    /// It is told to be what it was not invited as.
    #[error(
        "this node was invited as {invited}, not as {told}: leave federation.role out, or join \
         with a token of `weir token --role {told}`"
    )]
    Role {
        /// As what it was invited.
        invited: Role,
        /// What it was told to be.
        told: Role,
    },
    /// A cloud node names no region.
    #[error("a cloud node needs a region: give federation.regions (--region)")]
    Region,
    /// No thread.
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that were refused, by reason.
    pub rejected: DashMap<&'static str, u64>,
    /// Connections that were refused, by reason.
    pub refused: DashMap<&'static str, u64>,
    /// Members that this node suspected.
    pub suspicions: AtomicU64,
    /// Suspicions of itself that it refuted.
    pub refuted: AtomicU64,
    /// Members that died.
    pub deaths: AtomicU64,
    /// Reports that it sent.
    pub reports: AtomicU64,
    /// Signs of another node with the same identity.
    pub twins: AtomicU64,
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
    /// Calls of others that it takes now.
    pub room: u32,
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
    /// Whether it takes no new calls.
    pub draining: bool,
    /// What carries calls to it: `direct`, `stream`, or nothing yet.
    pub carriage: Option<&'static str>,
    /// Where it can be linked to.
    pub addresses: Vec<String>,
}

/// What is known, shared by those who hear, those who decide, and the loop.
pub(crate) struct Shared {
    pub(crate) id: PeerId,
    pub(crate) key: Keypair,
    pub(crate) member: Member,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) role: Role,
    pub(crate) view: ArcSwap<View>,
    pub(crate) counters: Counters,
    table: Mutex<Peers>,
    /// The newest that each member said, to be told to others.
    said: Mutex<HashMap<PeerId, Said>>,
    own: Mutex<Report>,
    coordinate: Mutex<Coordinate>,
    round_trips: DashMap<PeerId, Duration>,
    links: DashMap<PeerId, Link>,
    happenings: mpsc::Sender<Happening>,
    /// Members that speak from an earlier life than the one that is known.
    behind: DashMap<PeerId, ()>,
    /// Members with more than one connection, which may be two.
    twice: DashMap<PeerId, ()>,
    /// What this node says next goes to each link directly too: it matters
    /// more than the few bytes.
    aloud: AtomicBool,
    /// The view is out of date.
    pub(crate) stale: Notify,
    /// This node must say how it is, at once.
    pub(crate) speak: Notify,
    pub(crate) draining: AtomicBool,
    /// Calls of other nodes' users that run or wait here.
    pub(crate) guests: AtomicU32,
}

#[derive(Debug, Default, Clone)]
struct Said {
    introduction: Option<Bytes>,
    report: Option<(String, Bytes)>,
}

#[derive(Debug, Clone)]
struct Link {
    relayed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node's place in its federation. Cheap to clone.
#[derive(Clone)]
pub struct Federated {
    pub(crate) shared: Arc<Shared>,
    pub(crate) overlay: Overlay,
    pub(crate) carriage: Arc<Carriage>,
    acceptor: Acceptor,
}

impl Federated {
    /// Takes `node` into its federation. Streams on which peers send calls
    /// arrive at the receiver; calls on the listener of its own come through
    /// [`Federated::acceptor`].
    ///
    /// # Errors
    /// Which step failed.
    pub fn start(
        node: &Node,
        settings: Settings,
    ) -> Result<(Federated, CallStreams), FederateError> {
        let key = node.key().clone();
        let id = key.public().to_peer_id();
        let rights = Rights {
            role: settings.role.unwrap_or_default(),
            deploy: true,
        };
        let member = Member::open(
            &settings.folder,
            id,
            rights,
            settings.join.clone(),
            settings.certificate_life,
            rand::random(),
        )?;
        let invited = member.own_rights().map_or(rights.role, |own| own.role);
        if let Some(told) = settings.role.filter(|told| *told != invited) {
            return Err(FederateError::Role { invited, told });
        }
        if invited == Role::Cloud && settings.regions.is_empty() {
            return Err(FederateError::Region);
        }
        let clock = node.clock();
        // Later than that of any earlier life, as long as the clock goes on.
        let epoch = unix_time().saturating_mul(1_000) + 1;
        let (happenings, happened) = mpsc::channel(HAPPENINGS);
        let shared = Arc::new(Shared {
            id,
            key: key.clone(),
            member,
            clock,
            view: ArcSwap::default(),
            counters: Counters::default(),
            table: Mutex::new(Peers::new(id, epoch)),
            said: Mutex::default(),
            own: Mutex::new(first_report(&settings, invited, epoch)),
            role: invited,
            coordinate: Mutex::default(),
            round_trips: DashMap::new(),
            links: DashMap::new(),
            behind: DashMap::new(),
            twice: DashMap::new(),
            aloud: AtomicBool::new(false),
            happenings,
            stale: Notify::new(),
            speak: Notify::new(),
            draining: AtomicBool::new(false),
            guests: AtomicU32::new(0),
            settings: settings.clone(),
        });
        let host: Arc<dyn Host> = shared.clone();
        let config = weir_overlay::Config {
            key: key.clone(),
            listen: settings.listen.clone(),
            advertise: settings.advertise.clone(),
            mdns: settings.mdns,
            topics: topics(&settings, invited),
            message_bytes: ENVELOPE_BYTES,
            message_identity: message::identity,
        };
        let (overlay, calls) = Overlay::start(config, host.clone())?;
        let connector = Connector::new(&key, host.clone())?;
        let federated = Federated {
            carriage: Arc::new(Carriage::new(connector, overlay.clone())),
            acceptor: Acceptor::new(&key, host)?,
            overlay,
            shared,
        };
        let keeper = Keeper::new(federated.clone(), node.clone());
        std::thread::Builder::new()
            .name("federation".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build();
                match runtime {
                    Ok(runtime) => runtime.block_on(keeper.run(happened)),
                    Err(error) => tracing::error!(%error, "the federation is not looked after"),
                }
            })
            .map_err(FederateError::Thread)?;
        Ok((federated, calls))
    }

    /// Makes members' connections of those that a listener accepts.
    pub fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    /// Whether calls and links of a peer are taken now.
    pub fn admits(&self, peer: &PeerId) -> bool {
        self.shared.member.rights(peer).is_some()
    }

    /// Its membership.
    pub fn member(&self) -> &Member {
        &self.shared.member
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// What the overlay counted.
    pub fn overlay_counters(&self) -> &weir_overlay::Counters {
        self.overlay.counters()
    }

    /// What it is for.
    pub fn role(&self) -> Role {
        self.shared.role
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// This node's own report, as it was said last.
    pub fn own(&self) -> Report {
        lock(&self.shared.own).clone()
    }

    pub(crate) fn own_load(&self) -> Load {
        lock(&self.shared.own).load
    }

    /// Where it can be linked to, with its id, for invites.
    pub fn bootstrap(&self) -> Vec<String> {
        let own = lock(&self.shared.own);
        let addresses = own.addresses.iter();
        addresses
            .map(|address| match address.contains("/p2p/") {
                true => address.clone(),
                false => format!("{address}/p2p/{}", self.shared.id),
            })
            .collect()
    }

    /// All that is known of others.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let now = self.shared.clock.now();
        let own = *lock(&self.shared.coordinate);
        let known = lock(&self.shared.table).known(now);
        known
            .iter()
            .map(|known| self.peer_status(known, &own))
            .collect()
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
            linked: self.shared.links.contains_key(&known.id),
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
            room: known.load.guests,
            held: known.held,
            allowance: known.allowance,
            functions: report.offers.iter().map(|o| o.function.clone()).collect(),
            report_age_ms: milliseconds(known.age),
            load_age_ms: milliseconds(known.load_age),
            contradicted: known.contradicted,
            draining: report.draining,
            carriage: self.carriage.kind(&known.id).map(|kind| kind.as_str()),
            addresses: report.addresses.clone(),
        }
    }

    /// Tries each way to a peer: the name of the way, and how long it took or
    /// why it failed.
    pub async fn ping(&self, peer: PeerId) -> Vec<(String, Result<Duration, String>)> {
        let mut tried = Vec::new();
        let known = {
            let now = self.shared.clock.now();
            let known = lock(&self.shared.table).known(now);
            known.into_iter().find(|known| known.id == peer)
        };
        match &known {
            None => tried.push((
                "peer table".to_owned(),
                Err("nothing was ever heard of it".to_owned()),
            )),
            Some(known) => tried.push((
                format!("peer table ({})", known.standing.as_str()),
                Ok(known.age),
            )),
        }
        let link = self.shared.links.get(&peer).map(|link| link.relayed);
        let beat = self.shared.round_trips.get(&peer).map(|took| *took);
        tried.push(match (link, beat) {
            (Some(relayed), Some(took)) => {
                let way = if relayed { "over a relay" } else { "direct" };
                (format!("link ({way}), last heartbeat"), Ok(took))
            }
            (Some(_), None) => ("link".to_owned(), Err("no heartbeat yet".to_owned())),
            (None, _) => ("link".to_owned(), Err("there is none".to_owned())),
        });
        let addresses = known.map(|known| known.report.carriage.clone());
        let addresses = addresses.unwrap_or_default();
        if addresses.is_empty() {
            let none = "it names no address for calls".to_owned();
            tried.push(("direct".to_owned(), Err(none)));
        }
        for address in addresses {
            let way = format!("direct {address}");
            let outcome = match address.parse() {
                Ok(address) => self.carriage.try_direct(peer, address).await,
                Err(_) => Err("not an address".to_owned()),
            };
            tried.push((way, outcome));
        }
        tried.push(("stream".to_owned(), self.carriage.try_stream(peer).await));
        tried
    }

    /// Denies a peer, here or in the whole federation.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn deny(&self, peer: PeerId, everywhere: bool) -> Result<(), MemberError> {
        let statement = self.shared.member.deny(peer, everywhere)?;
        if let Some(statement) = statement {
            self.shared.pass_denial_on(&self.overlay, statement);
        }
        self.cut(peer);
        Ok(())
    }

    /// Takes back what [`Federated::deny`] said here.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn allow(&self, peer: PeerId) -> Result<bool, MemberError> {
        self.shared.member.allow(peer)
    }

    fn cut(&self, peer: PeerId) {
        self.overlay.disconnect(peer);
        self.carriage.close(&peer);
        self.shared.stale.notify_one();
    }

    /// Takes no new calls from now on, and says so.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.shared.speak.notify_one();
    }

    /// Says farewell: others take this node out at once.
    pub fn leave(&self) {
        let epoch = lock(&self.shared.table).epoch();
        let leave = Message::Leave(message::Leave { epoch });
        self.shared.publish(&self.overlay, &leave);
    }

    /// Forgets a peer: what was heard of it, and where it was.
    pub fn forget(&self, peer: PeerId) -> bool {
        lock(&self.shared.said).remove(&peer);
        let known = lock(&self.shared.table).forget(&peer);
        let _ = self.shared.happenings.try_send(Happening::Found {
            peer,
            address: Multiaddr::empty(),
        });
        self.shared.stale.notify_one();
        known
    }

    /// Takes what a call to a peer met.
    pub(crate) fn met(&self, peer: PeerId, met: Met) {
        let now = self.shared.clock.now();
        let changes = matches!(met, Met::Failure);
        lock(&self.shared.table).met(peer, met, now);
        if changes {
            self.shared.stale.notify_one();
        }
    }
}

impl Shared {
    fn topic(&self) -> String {
        match self.role {
            Role::Edge => zone_topic(&self.settings.zone),
            Role::Cloud => region_topic(self.settings.regions.first().map_or("", String::as_str)),
        }
    }

    fn publish(&self, overlay: &Overlay, message: &Message) {
        match message::seal(message, &self.key) {
            Ok(sealed) => overlay.publish(&self.topic(), sealed.into()),
            Err(error) => warn!(%error, "a message cannot be sent"),
        }
    }

    fn pass_denial_on(&self, overlay: &Overlay, statement: Vec<u8>) {
        match message::seal(&Message::Denial(statement), &self.key) {
            Ok(sealed) => overlay.publish(EVERYBODY, sealed.into()),
            Err(error) => warn!(%error, "a denial cannot be sent"),
        }
    }

    /// Whether a report comes from where this node hears all, so that its
    /// short form says nothing new.
    fn is_near(&self, report: &Report) -> bool {
        match report.role {
            Role::Edge => {
                self.role == Role::Edge
                    && report.zone.as_deref() == Some(self.settings.zone.as_str())
            }
            Role::Cloud => report
                .region
                .as_ref()
                .is_some_and(|region| self.settings.regions.contains(region)),
        }
    }

    fn hear_message(&self, bytes: &[u8]) -> Result<Verdict, &'static str> {
        let (from, message) = message::open(bytes).map_err(|invalid| invalid.reason())?;
        let now = self.clock.now();
        if let Message::Introduction(certificate) = &message {
            self.member
                .introduce(from, certificate)
                .map_err(|refused| refused.reason())?;
            let mut said = lock(&self.said);
            said.entry(from).or_default().introduction = Some(Bytes::copy_from_slice(bytes));
            return Ok(Verdict::Accept);
        }
        // One who was not introduced yet may be honest: not believed, not
        // passed on, and not held against whoever did.
        if from != self.id && self.member.rights(&from).is_none() {
            self.count_rejected("not-a-member");
            return Ok(Verdict::Ignore);
        }
        match message {
            Message::Report(report) => Ok(self.hear_report(from, *report, bytes, now)),
            Message::Suspicion(suspicion) => {
                let whom = suspicion.whom().ok_or("shape")?;
                let outcome = lock(&self.table).suspect(whom, suspicion.epoch, now);
                match outcome {
                    Suspicion::Noted => {
                        debug!(peer = %whom, by = %from, "a peer is suspected");
                        self.stale.notify_one();
                        Ok(Verdict::Accept)
                    }
                    Suspicion::Old => Ok(Verdict::Ignore),
                    Suspicion::Refute => {
                        info!(by = %from, "refuted a suspicion");
                        self.counters.refuted.fetch_add(1, Ordering::Relaxed);
                        self.say_aloud();
                        Ok(Verdict::Accept)
                    }
                }
            }
            Message::Leave(leave) => {
                lock(&self.table).leave(from, leave.epoch, now);
                lock(&self.said).remove(&from);
                self.stale.notify_one();
                Ok(Verdict::Accept)
            }
            Message::Denial(statement) => {
                let heard = self.member.hear_denial(&statement);
                match heard.map_err(|refused| refused.reason())? {
                    Some(peer) => {
                        info!(%peer, "the federation denies a member");
                        let _ = self.happenings.try_send(Happening::Silent(peer));
                        self.stale.notify_one();
                        Ok(Verdict::Accept)
                    }
                    None => Ok(Verdict::Ignore),
                }
            }
            Message::Unknown => Ok(Verdict::Accept),
            Message::Introduction(_) => unreachable!("answered above"),
        }
    }

    fn hear_report(&self, from: PeerId, report: Report, bytes: &[u8], now: Time) -> Verdict {
        let role = self.member.rights(&from).map(|rights| rights.role);
        if from != self.id && role != Some(report.role) {
            self.count_rejected("role");
            return Verdict::Ignore;
        }
        if report.brief && self.is_near(&report) {
            return Verdict::Accept;
        }
        let topic = match (&report.role, &report.zone, &report.region) {
            _ if report.brief => EVERYBODY.to_owned(),
            (Role::Edge, Some(zone), _) => zone_topic(zone),
            (Role::Cloud, _, Some(region)) => region_topic(region),
            (Role::Edge, None, _) | (Role::Cloud, _, None) => EVERYBODY.to_owned(),
        };
        let heard = lock(&self.table).hear(from, report, now);
        match heard {
            Heard::New | Heard::Newer => {
                let report = Some((topic, Bytes::copy_from_slice(bytes)));
                lock(&self.said).entry(from).or_default().report = report;
                self.stale.notify_one();
                if self.twice.contains_key(&from) {
                    self.behind.insert(from, ());
                }
                if heard == Heard::New {
                    info!(peer = %from, "a member is here");
                }
                Verdict::Accept
            }
            Heard::Old => Verdict::Ignore,
            Heard::Past => {
                self.behind.insert(from, ());
                Verdict::Ignore
            }
            Heard::Full => {
                self.count_rejected("full");
                Verdict::Accept
            }
            Heard::Own { times } => {
                self.counters.twins.fetch_add(1, Ordering::Relaxed);
                if times > 1 {
                    warn!(
                        id = %self.id,
                        times,
                        "another node runs with this node's identity: give the copy a data \
                         directory of its own"
                    );
                }
                self.say_aloud();
                Verdict::Accept
            }
        }
    }

    fn say_aloud(&self) {
        self.aloud.store(true, Ordering::Relaxed);
        self.speak.notify_one();
    }

    fn count_rejected(&self, reason: &'static str) {
        *self.counters.rejected.entry(reason).or_default() += 1;
    }

    /// What a newly linked peer may have missed; about itself too.
    fn news_for(&self, peer: PeerId) -> Vec<(String, Bytes)> {
        let mut news = Vec::new();
        let all = || EVERYBODY.to_owned();
        let seal = |message: &Message| message::seal(message, &self.key).ok().map(Bytes::from);
        if let Some(certificate) = self.member.certificate() {
            news.extend(seal(&Message::Introduction(certificate)).map(|m| (all(), m)));
        }
        let denials = self.member.denials().into_iter();
        news.extend(denials.filter_map(|d| Some((all(), seal(&Message::Denial(d))?))));
        let said = lock(&self.said).clone();
        let introductions = said.iter().filter(|(id, _)| **id != peer);
        news.extend(introductions.filter_map(|(_, s)| Some((all(), s.introduction.clone()?))));
        let reports = said.iter().filter(|(id, _)| **id != peer);
        news.extend(reports.filter_map(|(_, s)| s.report.clone()));
        let now = self.clock.now();
        let known = lock(&self.table).known(now);
        let suspected = known.iter().find(|known| {
            let open = matches!(
                known.standing,
                Standing::Suspected { .. } | Standing::Gone { left: false, .. }
            );
            known.id == peer && open
        });
        if let Some(known) = suspected {
            // So that it begins a new life, which all others believe.
            let suspicion = Suspecting::new(peer, known.report.epoch);
            news.extend(seal(&Message::Suspicion(suspicion)).map(|m| (self.topic(), m)));
        }
        news
    }
}

impl Host for Shared {
    fn hello(&self, _: PeerId) -> Vec<u8> {
        self.member.hello()
    }

    fn answer(&self, from: PeerId, hello: &[u8]) -> Answer {
        self.member.answer(from, hello)
    }

    fn judge(&self, from: PeerId, answer: &[u8]) -> Result<(), Refusal> {
        self.member.judge(from, answer)
    }

    fn hear(&self, message: &[u8]) -> Verdict {
        match self.hear_message(message) {
            Ok(verdict) => verdict,
            Err(reason) => {
                debug!(reason, "refused a message");
                self.count_rejected(reason);
                Verdict::Reject
            }
        }
    }

    fn happened(&self, event: Happening) {
        if let Happening::RoundTrip { peer, took } = event {
            self.round_trips.insert(peer, took);
            return;
        }
        if let Happening::Refused { reason, text } = &event {
            *self.counters.refused.entry(reason).or_default() += 1;
            info!(reason, text, "a connection was refused");
            return;
        }
        if self.happenings.try_send(event).is_err() {
            debug!("too much happens at once; some of it is seen later");
        }
    }
}

fn zone_topic(zone: &str) -> String {
    format!("weir/1/zone/{zone}")
}

fn region_topic(region: &str) -> String {
    format!("weir/1/region/{region}")
}

/// What a node listens to: its own zone or region, the regions that it spills
/// to, and what is for everybody.
fn topics(settings: &Settings, role: Role) -> Vec<String> {
    let mut topics = vec![EVERYBODY.to_owned()];
    if role == Role::Edge {
        topics.push(zone_topic(&settings.zone));
    }
    topics.extend(settings.regions.iter().map(|region| region_topic(region)));
    topics
}

fn first_report(settings: &Settings, role: Role, epoch: u64) -> Report {
    let cloud = role == Role::Cloud;
    Report {
        epoch,
        sequence: 0,
        role,
        zone: (!cloud).then(|| settings.zone.clone()),
        region: settings.regions.first().filter(|_| cloud).cloned(),
        architecture: std::env::consts::ARCH.to_owned(),
        executors: Vec::new(),
        labels: settings.labels.clone(),
        draining: false,
        load: Load::default(),
        coordinate: Coordinate::default(),
        addresses: texts(&settings.advertise),
        carriage: settings
            .peer_advertise
            .iter()
            .map(ToString::to_string)
            .take(ADDRESSES)
            .collect(),
        brief: false,
        offers: Vec::new(),
    }
}

fn texts(addresses: &[Multiaddr]) -> Vec<String> {
    let texts = addresses.iter().map(ToString::to_string);
    texts.take(ADDRESSES).collect()
}

/// How many calls of guests a node takes now: what there is room for, and no
/// more than their share of it.
pub(crate) fn guest_room(most: u32, free: u32, guests: u32, share: f64) -> u32 {
    // A share of a few calls is not rounded to none.
    let share = (f64::from(most) * share).ceil() as u32;
    free.min(share.saturating_sub(guests))
}

/// The loop that looks after everything.
struct Keeper {
    federated: Federated,
    node: Node,
    book: Book,
    /// Members named by invite and settings; dialled for ever.
    bootstrap: Vec<(Option<PeerId>, Multiaddr)>,
    bootstrap_next: Time,
    bootstrap_failures: u32,
    /// Links that were lost and are being dialled again.
    lost: BTreeMap<PeerId, Lost>,
    listening: BTreeSet<String>,
    relays: HashSet<PeerId>,
    published: Option<Report>,
    sequence: u64,
    /// Reports that may be sent now.
    tokens: f64,
    last_tick: Time,
    last_report: Time,
    last_brief: Time,
    last_introduction: Time,
    /// The certificate that others know.
    introduced: Option<Vec<u8>>,
    last_look: Time,
    last_stray: Time,
    last_book: Time,
    last_view: Time,
    last_renewal: Time,
    view_due: bool,
}

#[derive(Debug)]
struct Lost {
    clean: bool,
}

impl Keeper {
    fn new(federated: Federated, node: Node) -> Keeper {
        let settings = federated.settings();
        let invited = settings.join.iter().flat_map(|t| &t.invite().bootstrap);
        let invited = invited.filter_map(|text| text.parse().ok());
        let named = settings.peers.iter().cloned().chain(invited);
        let bootstrap = named.map(|address| (peer_in(&address), address));
        let bootstrap = bootstrap.filter(|(peer, _)| *peer != Some(federated.shared.id));
        let now = federated.shared.clock.now();
        Keeper {
            book: Book::open(settings.folder.join("addresses")),
            bootstrap: bootstrap.collect(),
            bootstrap_next: Time::ZERO,
            bootstrap_failures: 0,
            lost: BTreeMap::new(),
            listening: BTreeSet::new(),
            relays: HashSet::new(),
            published: None,
            sequence: 0,
            tokens: 1.0,
            last_tick: now,
            last_report: Time::ZERO,
            last_brief: Time::ZERO,
            last_introduction: Time::ZERO,
            introduced: None,
            last_look: Time::ZERO,
            last_stray: now,
            last_book: now,
            last_view: Time::ZERO,
            last_renewal: Time::ZERO,
            view_due: true,
            federated,
            node,
        }
    }

    fn shared(&self) -> &Shared {
        &self.federated.shared
    }

    fn overlay(&self) -> &Overlay {
        &self.federated.overlay
    }

    async fn run(mut self, mut happened: mpsc::Receiver<Happening>) {
        let shared = self.federated.shared.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.look_around(shared.clock.now());
        loop {
            tokio::select! {
                event = happened.recv() => match event {
                    Some(event) => self.see(event),
                    None => return,
                },
                () = shared.stale.notified() => self.view_due = true,
                () = shared.speak.notified() => {
                    let now = shared.clock.now();
                    self.report(now, true);
                    self.say_to_links();
                }
                _ = tick.tick() => self.tick(),
            }
            let now = shared.clock.now();
            if self.view_due && now.since(self.last_view) >= VIEW {
                self.make_view(now);
            }
        }
    }

    fn make_view(&mut self, now: Time) {
        (self.view_due, self.last_view) = (false, now);
        let shared = self.shared();
        let own = lock(&shared.own).clone();
        let mut view = lock(&shared.table).view(&own, now);
        for peer in &mut view.peers {
            if let Some(measured) = shared.round_trips.get(&peer.id) {
                peer.round_trip = *measured;
            }
        }
        let denied = |peer: &PeerId| shared.member.is_denied(peer);
        if view.peers.iter().any(|peer| denied(&peer.id)) {
            let peers = std::mem::take(&mut view.peers);
            let left = peers.into_iter().filter(|peer| !denied(&peer.id));
            view = View::new(&own, left.collect());
        }
        shared.view.store(Arc::new(view));
    }

    fn tick(&mut self) {
        let now = self.shared().clock.now();
        let passed = now.since(self.last_tick).as_secs_f64();
        self.last_tick = now;
        let events = lock(&self.shared().table).tick(now);
        for event in events {
            self.view_due = true;
            match event {
                Event::Died(peer) => {
                    info!(%peer, "a member is dead");
                    let counters = &self.shared().counters;
                    counters.deaths.fetch_add(1, Ordering::Relaxed);
                    self.federated.carriage.close(&peer);
                    lock(&self.shared().said).remove(&peer);
                }
                Event::Silent(peer) => warn!(%peer, "nothing was heard of a member for long"),
                Event::Forgotten(peer) => {
                    self.shared().round_trips.remove(&peer);
                    lock(&self.shared().said).remove(&peer);
                }
            }
        }
        // One that is out becomes a candidate again by time alone.
        self.view_due |= now.since(self.last_view) >= Duration::from_millis(250);
        let nodes = self.neighbours();
        let (least, most) = RATE;
        let rate = (ZONE_RATE / nodes as f64).clamp(least, most);
        self.tokens = (self.tokens + passed * rate).min(2.0);
        self.report(now, false);
        if now.since(self.last_look) >= LOOK {
            self.last_look = now;
            self.look_around(now);
        }
        if now.since(self.last_book) >= BOOK {
            self.last_book = now;
            self.book.save();
            self.learn_distances();
        }
    }

    /// Nodes that share the zone or region, this one included.
    fn neighbours(&self) -> usize {
        let shared = self.shared();
        let view = shared.view.load();
        let near = |report: &&Report| report.role == shared.role && shared.is_near(report);
        view.peers.iter().map(|p| &*p.report).filter(near).count() + 1
    }

    // What this node says of itself.

    fn current_report(&self) -> Report {
        let shared = self.shared();
        let capability = self.node.capability();
        let functions = self.node.function_capabilities(OFFERS);
        let share = shared.settings.guests;
        let draining = shared.draining.load(Ordering::Relaxed);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let guests = shared.guests.load(Ordering::Relaxed);
        let rooms = functions.iter().map(|f| {
            let free = f.places.warm.saturating_add(f.places.startable);
            guest_room(f.places.most, free, guests, share)
        });
        // Own users first: while any of them wait, nobody else is asked in.
        let open = !draining && capability.waiting == 0;
        let room = rooms.max().filter(|_| open).unwrap_or(0);
        let offers = functions.iter().map(|f| Offer {
            function: f.spec.name.qualified(),
            warm: f.places.warm,
            startable: f.places.startable,
            running: f.running,
            service_micros: micros(f.service),
            start_micros: micros(f.start),
        });
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let free = capability
            .capacity
            .checked_sub(capability.held)
            .unwrap_or_default();
        let own = lock(&shared.own);
        let executors = self.node.executors();
        Report {
            executors: executors.into_iter().map(str::to_owned).collect(),
            draining,
            load: Load {
                cpu_total: capability.capacity.cpu.as_millicores(),
                cpu_free: free.cpu.as_millicores(),
                memory_total: capability.capacity.memory.as_bytes(),
                memory_free: free.memory.as_bytes(),
                running: count(capability.running),
                waiting: count(capability.waiting),
                guests: room.min(1_000_000),
            },
            coordinate: *lock(&shared.coordinate),
            offers: offers.collect(),
            ..own.clone()
        }
    }

    fn report(&mut self, now: Time, at_once: bool) {
        if !self.shared().member.is_member() {
            return;
        }
        let mut report = self.current_report();
        let silent = now.since(self.last_report) >= Duration::from_secs_f64(1.0 / RATE.0);
        let changed = match &self.published {
            None => true,
            Some(said) => silent || differs(said, &report),
        };
        if !at_once && (!changed || self.tokens < 1.0) {
            return;
        }
        self.tokens = (self.tokens - 1.0).max(0.0);
        self.last_report = now;
        self.introduce(now);
        self.say(&mut report, false);
        let brief = now.since(self.last_brief) >= BRIEF;
        if brief && self.has_others() {
            self.last_brief = now;
            let mut short = Report {
                brief: true,
                offers: Vec::new(),
                labels: BTreeMap::new(),
                ..report.clone()
            };
            self.say(&mut short, true);
        }
        self.published = Some(report);
        let counters = &self.shared().counters;
        counters.reports.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells each link directly what was just said, where that matters.
    fn say_to_links(&self) {
        let shared = self.shared();
        if !shared.aloud.swap(false, Ordering::Relaxed) {
            return;
        }
        let said = lock(&shared.said)
            .get(&shared.id)
            .and_then(|s| s.report.clone());
        let Some(report) = said else {
            return;
        };
        let links: Vec<PeerId> = shared.links.iter().map(|link| *link.key()).collect();
        for link in links {
            self.overlay().tell(link, vec![report.clone()]);
        }
    }

    fn introduce(&mut self, now: Time) {
        let Some(certificate) = self.shared().member.certificate() else {
            return;
        };
        let known = self.introduced.as_ref() == Some(&certificate);
        if known && now.since(self.last_introduction) < INTRODUCE {
            return;
        }
        self.last_introduction = now;
        self.introduced = Some(certificate.clone());
        match message::seal(&Message::Introduction(certificate), &self.shared().key) {
            Ok(sealed) => self.overlay().publish(EVERYBODY, sealed.into()),
            Err(error) => warn!(%error, "an introduction cannot be sent"),
        }
    }

    fn say(&mut self, report: &mut Report, everybody: bool) {
        let shared = self.federated.shared.clone();
        self.sequence += 1;
        report.epoch = {
            let mut table = lock(&shared.table);
            table.said(self.sequence);
            table.epoch()
        };
        report.sequence = self.sequence;
        let sealed = match message::seal(&Message::Report(Box::new(report.clone())), &shared.key) {
            Ok(sealed) => Bytes::from(sealed),
            Err(error) => {
                warn!(%error, "this node cannot say how it is");
                return;
            }
        };
        let topic = match everybody {
            true => EVERYBODY.to_owned(),
            false => shared.topic(),
        };
        self.overlay().publish(&topic, sealed.clone());
        if !everybody {
            lock(&shared.said).entry(shared.id).or_default().report = Some((topic, sealed));
            *lock(&shared.own) = report.clone();
        }
    }

    /// Whether there are nodes that do not hear this node's full reports.
    fn has_others(&self) -> bool {
        let shared = self.shared();
        let known = lock(&shared.table).known(shared.clock.now());
        known.iter().any(|known| {
            let same = known.report.role == shared.role && shared.is_near(&known.report);
            !same && !matches!(known.standing, Standing::Gone { .. })
        })
    }

    fn learn_distances(&mut self) {
        let shared = self.federated.shared.clone();
        let known = lock(&shared.table).known(shared.clock.now());
        let mut coordinate = lock(&shared.coordinate);
        for known in known {
            if let Some(took) = shared.round_trips.get(&known.id) {
                coordinate.learn(&known.report.coordinate, *took, rand::random());
            }
        }
    }

    // Links.

    fn see(&mut self, event: Happening) {
        match event {
            Happening::Listening(address) => self.listen_address(&address),
            Happening::LinkUp {
                peer,
                address,
                dialled,
                relayed,
            } => self.link_up(peer, &address, dialled, relayed),
            Happening::LinkedAgain(peer) => {
                self.shared().twice.insert(peer, ());
                self.shared().behind.insert(peer, ());
            }
            Happening::LinkDown { peer, clean } => self.link_down(peer, clean),
            Happening::Silent(peer) => {
                self.federated.cut(peer);
                if !self.shared().member.is_denied(&peer) {
                    self.suspect(peer, "it fell silent");
                }
            }
            Happening::DialFailed {
                peer,
                refused,
                reason,
            } => self.dial_failed(peer, refused, &reason),
            Happening::Found { peer, address } if address.is_empty() => self.book.forget(&peer),
            Happening::Found { peer, address } => {
                if peer != self.shared().id {
                    self.book.note(peer, &[address], unix_time());
                }
            }
            Happening::RoundTrip { .. } | Happening::Refused { .. } => {}
        }
    }

    /// Takes an address at which this node listens; the first ones are what
    /// others are told, unless somebody chose what they are.
    fn listen_address(&mut self, address: &Multiaddr) {
        info!(%address, "the overlay listens");
        self.listening.insert(address.to_string());
        let settings = &self.shared().settings;
        // Others are not told of loopback where there is more.
        let is_local = |text: &&String| text.contains("/127.0.0.1/") || text.contains("/::1/");
        let all_local = self.listening.iter().all(|text| is_local(&text));
        let told = self
            .listening
            .iter()
            .filter(|text| all_local || !is_local(text));
        let told: Vec<String> = told.take(ADDRESSES).cloned().collect();
        let mut own = lock(&self.shared().own);
        if settings.peer_advertise.is_empty()
            && !settings.relayed
            && let Some(listen) = settings.peer_listen
        {
            own.carriage = carriage(listen, &told);
        }
        if settings.advertise.is_empty() {
            own.addresses = told;
        }
        drop(own);
        self.shared().speak.notify_one();
    }

    fn link_up(&mut self, peer: PeerId, address: &Multiaddr, dialled: bool, relayed: bool) {
        debug!(%peer, %address, "linked");
        self.lost.remove(&peer);
        if dialled {
            self.book
                .note(peer, std::slice::from_ref(address), unix_time());
        }
        self.book.reached(&peer);
        let shared = self.federated.shared.clone();
        shared.links.insert(peer, Link { relayed });
        // The first link may be what made this node a member.
        if self.published.is_none() {
            self.report(shared.clock.now(), true);
        }
        self.overlay().tell(peer, shared.news_for(peer));
        if shared.settings.relayed && !relayed && self.relays.len() < 2 {
            self.relays.insert(peer);
            let via = address.clone().with_p2p(peer).unwrap_or_else(|same| same);
            self.overlay().listen_via(via);
        }
    }

    fn link_down(&mut self, peer: PeerId, clean: bool) {
        debug!(%peer, clean, "a link ended");
        let shared = self.federated.shared.clone();
        shared.links.remove(&peer);
        shared.twice.remove(&peer);
        shared.round_trips.remove(&peer);
        self.relays.remove(&peer);
        if shared.member.is_denied(&peer) {
            return;
        }
        let known = lock(&shared.table).known(shared.clock.now());
        let gone = known
            .iter()
            .any(|k| k.id == peer && matches!(k.standing, Standing::Gone { .. }));
        if gone {
            return;
        }
        let addresses = self.addresses(&peer);
        match addresses.is_empty() {
            true if clean => {}
            // It cannot be dialled; it would come back by itself.
            true => self.suspect(peer, "its link broke"),
            false => {
                self.lost.insert(peer, Lost { clean });
                self.overlay().dial(Some(peer), addresses);
            }
        }
    }

    fn dial_failed(&mut self, peer: Option<PeerId>, refused: bool, reason: &str) {
        debug!(?peer, reason, "a member cannot be linked to");
        let Some(peer) = peer else {
            return;
        };
        if self.shared().links.contains_key(&peer) {
            return;
        }
        if let Some(lost) = self.lost.remove(&peer)
            && (refused || !lost.clean)
        {
            self.suspect(peer, reason);
        }
    }

    /// Says to all that a member seems to be dead.
    fn suspect(&mut self, peer: PeerId, why: &str) {
        let shared = self.federated.shared.clone();
        let now = shared.clock.now();
        let epoch = {
            let mut table = lock(&shared.table);
            let known = table.known(now).into_iter().find(|known| known.id == peer);
            let Some(known) = known else {
                return;
            };
            let epoch = known.report.epoch;
            if table.suspect(peer, epoch, now) != Suspicion::Noted {
                return;
            }
            epoch
        };
        info!(%peer, why, "suspects a member");
        shared.counters.suspicions.fetch_add(1, Ordering::Relaxed);
        let suspicion = Suspecting::new(peer, epoch);
        shared.publish(self.overlay(), &Message::Suspicion(suspicion));
        self.view_due = true;
    }

    /// Where a peer may be: what it says itself, and what the book knows.
    fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let shared = self.shared();
        let known = lock(&shared.table).known(shared.clock.now());
        let report = known.into_iter().find(|known| known.id == *peer);
        let said = report.map(|known| known.report.addresses.clone());
        let said = said.unwrap_or_default().into_iter();
        let mut addresses: Vec<Multiaddr> = said.filter_map(|text| text.parse().ok()).collect();
        for address in self.book.addresses(peer) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(2 * ADDRESSES);
        addresses
    }

    fn look_around(&mut self, now: Time) {
        let shared = self.federated.shared.clone();
        self.renew(now);
        for link in shared
            .links
            .iter()
            .map(|link| *link.key())
            .collect::<Vec<_>>()
        {
            if shared.member.rights(&link).is_none() {
                info!(peer = %link, "cut a link: its membership is over");
                self.federated.cut(link);
            }
        }
        let known = lock(&shared.table).known(now);
        for known in &known {
            let addresses = known.report.addresses.iter();
            let addresses: Vec<Multiaddr> = addresses.filter_map(|a| a.parse().ok()).collect();
            if !addresses.is_empty() && !matches!(known.standing, Standing::Gone { .. }) {
                self.book.note(known.id, &addresses, unix_time());
            }
        }
        self.introduce(now);
        self.catch_up();
        self.bootstrap(now);
        if !shared.member.is_member() {
            return;
        }
        let reports: HashMap<PeerId, &Known> = known.iter().map(|k| (k.id, k)).collect();
        let mut wanted = LINKS.saturating_sub(self.links_where(&reports, |report| {
            report.role == shared.role && shared.is_near(report)
        }));
        let mut regions: BTreeMap<String, usize> = shared
            .settings
            .regions
            .iter()
            .map(|region| {
                let there = self.links_where(&reports, |r| r.region.as_ref() == Some(region));
                (region.clone(), REGION_LINKS.saturating_sub(there))
            })
            .collect();
        let mut due = self.book.due(now);
        due.retain(|peer| {
            *peer != shared.id && !shared.links.contains_key(peer) && !shared.member.is_denied(peer)
        });
        shuffle(&mut due);
        let stray = now.since(self.last_stray) >= STRAY;
        let mut dials = 0;
        for peer in due {
            if dials == DIALS {
                break;
            }
            let report = reports.get(&peer).map(|known| &known.report);
            let left = reports
                .get(&peer)
                .is_some_and(|k| matches!(k.standing, Standing::Gone { left: true, .. }));
            let wants = match report {
                Some(_) if left => false,
                Some(r) if r.role == shared.role && shared.is_near(r) => take_one(&mut wanted),
                Some(r) => r
                    .region
                    .as_ref()
                    .and_then(|region| regions.get_mut(region))
                    .is_some_and(take_one),
                // Nobody knows where it belongs until it is asked.
                None => wanted > 0 || regions.values().any(|n| *n > 0),
            };
            let lost = report.is_none()
                || reports
                    .get(&peer)
                    .is_some_and(|k| matches!(k.standing, Standing::Gone { left: false, .. }));
            let tries = wants || (stray && lost);
            if !tries {
                continue;
            }
            if !wants {
                self.last_stray = now;
            }
            dials += 1;
            self.book.dialled(&peer, now, rand::random());
            let addresses = self.addresses(&peer);
            self.overlay().dial(Some(peer), addresses);
        }
    }

    /// Tells those who speak from an earlier life what they said since: their
    /// clock went back, or they are two.
    fn catch_up(&self) {
        let shared = self.shared();
        let behind: Vec<PeerId> = shared.behind.iter().map(|peer| *peer.key()).collect();
        shared.behind.clear();
        for peer in behind {
            let said = lock(&shared.said).get(&peer).and_then(|s| s.report.clone());
            if let Some(report) = said.filter(|_| shared.links.contains_key(&peer)) {
                self.overlay().tell(peer, vec![report]);
            }
        }
    }

    /// Asks for a new certificate in time: whoever can, gives one with every
    /// new connection.
    fn renew(&mut self, now: Time) {
        let shared = self.federated.shared.clone();
        if !shared.member.wants_renewal() {
            return;
        }
        if shared.member.may_invite() {
            shared.member.renew_own();
            return;
        }
        let pause = RENEWAL.min(shared.member.life().unwrap_or(RENEWAL) / 8);
        if now.since(self.last_renewal) < pause {
            return;
        }
        self.last_renewal = now;
        let mut links: Vec<PeerId> = shared.links.iter().map(|link| *link.key()).collect();
        shuffle(&mut links);
        let mut inviters = self.bootstrap.iter().filter_map(|(peer, _)| *peer);
        let inviter = inviters.find(|peer| links.contains(peer));
        if let Some(peer) = inviter.or(links.first().copied()) {
            debug!(%peer, "connects anew, to have its membership renewed");
            self.overlay().disconnect(peer);
        }
    }

    fn links_where(
        &self,
        reports: &HashMap<PeerId, &Known>,
        is: impl Fn(&Report) -> bool,
    ) -> usize {
        let links = self.shared().links.iter();
        let matching = links.filter(|link| reports.get(link.key()).is_some_and(|k| is(&k.report)));
        matching.count()
    }

    /// Dials those that settings and invite name, with pauses, for ever.
    fn bootstrap(&mut self, now: Time) {
        let shared = self.federated.shared.clone();
        let linked =
            |peer: &Option<PeerId>| peer.is_some_and(|peer| shared.links.contains_key(&peer));
        let missing = self.bootstrap.iter().filter(|(peer, _)| !linked(peer));
        let missing: Vec<Multiaddr> = missing.map(|(_, address)| address.clone()).collect();
        if missing.is_empty() {
            self.bootstrap_failures = 0;
            return;
        }
        if now < self.bootstrap_next {
            return;
        }
        // The same pauses as for everybody else, together for all of them.
        let pause = Duration::from_millis(500) * (1 << self.bootstrap_failures.min(6));
        let pause = pause.min(Duration::from_secs(30));
        let pause = pause.mul_f64(0.5 + rand::random::<f64>());
        self.bootstrap_next = now + pause;
        self.bootstrap_failures = self.bootstrap_failures.saturating_add(1);
        for address in missing.into_iter().take(2 * ADDRESSES) {
            match peer_in(&address) {
                Some(peer) => self.overlay().dial(Some(peer), vec![address]),
                None => self.overlay().dial(None, vec![address]),
            }
        }
    }
}

fn take_one(count: &mut usize) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

/// Where calls are taken: where the listener is, or, when that is everywhere,
/// at each address of the machine.
fn carriage(listen: SocketAddr, addresses: &[String]) -> Vec<String> {
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    let ips = addresses.iter().filter_map(|text| {
        let mut parts = text.split('/').skip(1);
        let kind = parts.next()?;
        let ip: std::net::IpAddr = parts.next()?.parse().ok()?;
        (matches!(kind, "ip4" | "ip6") && !text.contains("p2p-circuit")).then_some(ip)
    });
    let ips: BTreeSet<std::net::IpAddr> = ips.collect();
    let at = ips.into_iter().map(|ip| SocketAddr::new(ip, listen.port()));
    at.map(|address| address.to_string())
        .take(ADDRESSES)
        .collect()
}

/// Whom a multiaddress names last.
fn peer_in(address: &Multiaddr) -> Option<PeerId> {
    let text = address.to_string();
    let (_, id) = text.rsplit_once("/p2p/")?;
    id.parse().ok()
}

fn shuffle(peers: &mut [PeerId]) {
    use rand::seq::SliceRandom as _;
    peers.shuffle(&mut rand::rng());
}

/// Whether a report says something else than `said`, by more than a threshold.
fn differs(said: &Report, now: &Report) -> bool {
    let part = |a: u64, b: u64| {
        let most = a.max(b);
        most > 0 && (a == 0 || b == 0 || (a.abs_diff(b) as f64) > most as f64 * THRESHOLD)
    };
    let count = |a: u32, b: u32| part(a.into(), b.into());
    let (old, new) = (&said.load, &now.load);
    let load = count(old.guests, new.guests)
        || count(old.waiting, new.waiting)
        || count(old.cpu_free, new.cpu_free)
        || part(old.memory_free, new.memory_free);
    let offers = said.offers.len() != now.offers.len()
        || said.offers.iter().zip(&now.offers).any(|(old, new)| {
            old.function != new.function
                || (old.warm == 0) != (new.warm == 0)
                || (old.startable == 0) != (new.startable == 0)
        });
    load || offers
        || said.draining != now.draining
        || said.executors != now.executors
        || said.addresses != now.addresses
        || said.carriage != now.carriage
        || said.epoch != now.epoch
}
