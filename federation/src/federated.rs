//! A node's place in its federation: the shell around the core. It hears what
//! members say, tells what this node can do, keeps links, and publishes the
//! view by which calls are placed.

mod forgetting;
mod functions;
mod hearing;
mod keeper;
mod noting;
mod registering;
mod settings;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use libp2p_identity::{Keypair, PeerId};
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tracing::warn;
use weir_node::Node;
use weir_node::clock::Clock;
use weir_node::id::FunctionName;
use weir_node::resolve::Resolver;
use weir_node::time::Time;
use weir_overlay::carriage::{Carriage, Using};
use weir_overlay::tls::{Acceptor, Connector, TlsError};
use weir_overlay::{CallStreams, Endpoint, Event as Happening, Host, Multiaddr, Overlay, Resolve};

pub use self::forgetting::Forgot;
use self::keeper::Keeper;
use self::noting::Noting;
pub(crate) use self::noting::{NoteHeard, Placing};
pub use self::registering::RegistryState;
pub use self::settings::{EtcdSettings, Registry, Settings};
use self::settings::{check_registry, region_topic, topics, zone_topic};
use crate::abilities::Abilities;
use crate::catalogue::Catalogue;
use crate::coordinates::Coordinate;
use crate::facts::carriage;
use crate::forgotten::Forgotten;
use crate::guests::{self, Peak, Processors};
use crate::member::{Member, MemberError, unix_millis, unix_time};
use crate::membership::Rights;
use crate::message::{self, ENVELOPE_BYTES, Handover, Message, Summary};
use crate::peers::{Fault, Known, Met, Peers, Standing};
use crate::regions;
use crate::replication;
use crate::report::{ADDRESSES, Load, Report, Role};
use crate::roster::Roster;
use crate::snapshot::View;
use crate::turns::Turns;
use weir_federation_core::refusals::Refusals;

/// What happened and was not looked at yet. Beyond it, what happened shows at
/// the next look around.
const HAPPENINGS: usize = 4_096;

/// Summaries that were not compared yet; of more, each is said again.
const SUMMARIES: usize = 64;

/// Rosters that were not compared yet; of more, each is said again.
const ROSTERS: usize = 64;

/// How long a node may take to know where it listens.
const SETTLING: Duration = Duration::from_secs(5);
const SETTLING_LOOK: Duration = Duration::from_millis(10);

/// A member that heard of nobody for so long is a newcomer when it is back: what
/// it knew of functions is not told to others, who may have removed them and
/// forgotten that.
pub const AWAY: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Where it is kept who was forgotten.
const FORGOTTEN: &str = "forgotten";

/// Where everybody hears everybody, in brief.
const EVERYBODY: &str = "weir/1/all";

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
    /// etcd cannot be used.
    #[error("{0}")]
    Registry(&'static str),
    /// No thread.
    #[error("start a thread")]
    Thread(#[source] io::Error),
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

/// To whom a changed secret was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Members that are there.
    pub told: usize,
    /// Members that are told when they are back.
    pub away: usize,
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

/// What is known, shared by those who hear, those who decide, and the loop.
pub(crate) struct Shared {
    pub(crate) id: PeerId,
    pub(crate) key: Keypair,
    pub(crate) member: Member,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) role: Role,
    pub(crate) view: ArcSwap<View>,
    /// There is a new view.
    pub(crate) viewed: Notify,
    /// Regions that this node spills to now, in order.
    pub(crate) regions: ArcSwap<Vec<String>>,
    abilities: Mutex<Abilities>,
    turns: Mutex<Turns>,
    /// Processors that calls of own users held at once lately.
    own_peak: Mutex<Peak>,
    /// Why this node's own report was not sent, while that is so.
    unsaid: Mutex<Option<String>>,
    pub(crate) counters: Counters,
    /// Refused connections that were logged lately.
    refusals: Mutex<Refusals>,
    table: Mutex<Peers>,
    /// The newest that each member said, to be told to others.
    said: Mutex<HashMap<PeerId, Said>>,
    own: Mutex<Report>,
    coordinate: Mutex<Coordinate>,
    /// Whether others could dial this node where it listens.
    tested: Mutex<BTreeMap<String, bool>>,
    round_trips: DashMap<PeerId, Duration>,
    links: DashMap<PeerId, Link>,
    /// Since when there was always a link on which somebody was heard.
    linked: Mutex<Option<Linked>>,
    happenings: mpsc::Sender<Happening>,
    /// Functions of the federation.
    catalogue: Mutex<Catalogue>,
    /// Who may keep their code, and calls of them.
    candidates: Mutex<functions::Candidates>,
    forgotten: Mutex<Forgotten>,
    /// This node forgot what it knew of functions, and asks others.
    pub(crate) forgot: Notify,
    /// Those of which there is a newer record, or none any more: no more than
    /// [`functions::CHANGED`] and those that are known.
    changed: Mutex<BTreeSet<FunctionName>>,
    /// Functions of this node's that another changed since, and who did.
    lost: Mutex<BTreeMap<FunctionName, PeerId>>,
    /// Some were added to them.
    pub(crate) functions_changed: Notify,
    pub(crate) registry: RegistryState,
    /// A member died: others take over what it kept.
    pub(crate) members_changed: Notify,
    /// What linked members say that they know, for whoever compares that.
    summaries: mpsc::Sender<(PeerId, Summary)>,
    pub(crate) heard: Mutex<Option<mpsc::Receiver<(PeerId, Summary)>>>,
    /// Whom linked members say that they know, for the loop.
    rosters: mpsc::Sender<(PeerId, Roster)>,
    /// Something was heard of a member that was not introduced.
    missed: AtomicBool,
    /// Reports that members of the same zone or region sent.
    reports_near: AtomicU64,
    /// Members that speak from an earlier life than the one that is known.
    behind: DashMap<PeerId, ()>,
    /// Members with more than one connection, which may be two.
    twice: DashMap<PeerId, ()>,
    /// Members that lied, until when nothing of them is wanted.
    shunned: DashMap<PeerId, Time>,
    /// Members that suspected others: since when, and how often.
    accusers: DashMap<PeerId, (Time, u32)>,
    /// What this node says next goes to each link directly too: it matters
    /// more than the few bytes.
    aloud: AtomicBool,
    /// The view is out of date.
    pub(crate) stale: Notify,
    /// This node must say how it is, at once.
    pub(crate) speak: Notify,
    pub(crate) draining: AtomicBool,
    /// What places calls, once it does.
    pub(crate) placing: OnceLock<Weak<dyn Placing>>,
    noting: Mutex<Noting>,
    /// Calls of other nodes' users that run or wait here.
    pub(crate) guests: AtomicU32,
    /// Processors that they take, in thousandths of a core: short ones and long
    /// ones.
    pub(crate) guest_cpu: [AtomicU32; 2],
}

#[derive(Debug, Default, Clone)]
struct Said {
    introduction: Option<Bytes>,
    report: Option<(String, Bytes)>,
}

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
struct Linked {
    since: Time,
    /// In seconds since 1970.
    unix: u64,
}

#[derive(Debug, Clone)]
struct Link {
    relayed: bool,
    /// Whether it is heard, and stays.
    kept: bool,
    /// Where the peer is, as seen from here.
    address: Multiaddr,
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
        let mut settings = settings;
        if invited == Role::Cloud && settings.regions.is_empty() {
            settings.regions.push(regions::DEFAULT.to_owned());
        }
        settings.follows_regions &= invited == Role::Edge && settings.regions.is_empty();
        check_registry(&settings)?;
        let clock = node.clock();
        // Later than that of any earlier life, as long as the clock goes on.
        let epoch = unix_millis();
        let (happenings, happened) = mpsc::channel(HAPPENINGS);
        let (summaries, heard) = mpsc::channel(SUMMARIES);
        let (rosters, compared) = mpsc::channel(ROSTERS);
        replication::set_old_aside(&settings.folder);
        let mut catalogue = Catalogue::default();
        for (name, entry) in replication::recover(&settings.folder.join("functions")) {
            catalogue.merge(name, entry);
        }
        let forgotten = std::fs::read(settings.folder.join(FORGOTTEN)).unwrap_or_default();
        let forgotten = Forgotten::read(&forgotten, unix_time());
        let shared = Arc::new(Shared {
            id,
            key: key.clone(),
            member,
            clock,
            view: ArcSwap::default(),
            viewed: Notify::new(),
            regions: ArcSwap::from_pointee(settings.regions.clone()),
            abilities: Mutex::default(),
            turns: Mutex::default(),
            own_peak: Mutex::default(),
            unsaid: Mutex::default(),
            counters: Counters::default(),
            refusals: Mutex::default(),
            table: Mutex::new(Peers::new(id, epoch)),
            said: Mutex::default(),
            own: Mutex::new(first_report(&settings, invited, epoch)),
            role: invited,
            coordinate: Mutex::default(),
            tested: Mutex::default(),
            round_trips: DashMap::new(),
            links: DashMap::new(),
            linked: Mutex::default(),
            rosters,
            missed: AtomicBool::new(false),
            reports_near: AtomicU64::new(0),
            behind: DashMap::new(),
            twice: DashMap::new(),
            shunned: DashMap::new(),
            accusers: DashMap::new(),
            aloud: AtomicBool::new(false),
            happenings,
            catalogue: Mutex::new(catalogue),
            candidates: Mutex::default(),
            forgotten: Mutex::new(forgotten),
            forgot: Notify::new(),
            changed: Mutex::default(),
            lost: Mutex::default(),
            functions_changed: Notify::new(),
            registry: RegistryState::default(),
            members_changed: Notify::new(),
            summaries,
            heard: Mutex::new(Some(heard)),
            stale: Notify::new(),
            speak: Notify::new(),
            draining: AtomicBool::new(false),
            placing: OnceLock::new(),
            noting: Mutex::default(),
            guests: AtomicU32::new(0),
            guest_cpu: [AtomicU32::new(0), AtomicU32::new(0)],
            settings: settings.clone(),
        });
        let host: Arc<dyn Host> = shared.clone();
        let config = weir_overlay::Config {
            key: key.clone(),
            listen: settings.listen.clone(),
            advertise: settings.advertise.clone(),
            mdns: settings.mdns,
            topics: topics(&settings, &settings.regions, invited),
            message_bytes: ENVELOPE_BYTES,
            message_identity: message::identity,
        };
        let (overlay, calls) = Overlay::start(config, host.clone())?;
        let connector = Connector::new(&key, host.clone())?;
        let federated = Federated {
            carriage: Arc::new(Carriage::new(
                connector,
                overlay.clone(),
                host.clone(),
                Arc::new(Names(Resolver::new())),
            )),
            acceptor: Acceptor::new(&key, host, overlay.traffic())?,
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
                    Ok(runtime) => runtime.block_on(keeper.run(happened, compared)),
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

    /// The same, once there is any: a node that has just started may not know
    /// yet where it listens. Empty when it does not come to know.
    pub async fn settled_bootstrap(&self) -> Vec<String> {
        let known = async {
            loop {
                let bootstrap = self.bootstrap();
                if !bootstrap.is_empty() {
                    return bootstrap;
                }
                tokio::time::sleep(SETTLING_LOOK).await;
            }
        };
        tokio::time::timeout(SETTLING, known)
            .await
            .unwrap_or_default()
    }

    /// Addresses of this node that another member tried to dial, and whether it
    /// could.
    pub fn tested(&self) -> BTreeMap<String, bool> {
        lock(&self.shared.tested).clone()
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

    /// What is known of one of them.
    pub fn peer(&self, id: PeerId) -> Option<PeerStatus> {
        let now = self.shared.clock.now();
        let own = *lock(&self.shared.coordinate);
        let known = lock(&self.shared.table).one(&id, now)?;
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
            lock(&self.shared.table).one(&peer, now)
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
        let link = self.shared.links.get(&peer).map(|link| link.relayed);
        let beat = self.shared.round_trips.get(&peer).map(|took| *took);
        tried.push(match (link, beat) {
            (Some(relayed), beat) => {
                let way = if relayed { "over a relay" } else { "direct" };
                let none = || Tried::Failed("no heartbeat yet".to_owned());
                (format!("link ({way})"), beat.map_or_else(none, Tried::Last))
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

    /// Changes the federation's secret, and tells everybody.
    ///
    /// # Errors
    /// When this node holds no secret, or cannot write.
    pub fn rotate(&self) -> Result<HandedOver, MemberError> {
        let handovers = self.shared.member.rotate(rand::random())?;
        let known = lock(&self.shared.table).known(self.shared.clock.now());
        let here = |peer: PeerId| {
            let mut known = known.iter();
            known.any(|known| known.id == peer && known.standing == Standing::In)
        };
        let members = handovers.iter().filter_map(Handover::member);
        let (told, away): (Vec<_>, Vec<_>) = members.partition(|peer| here(*peer));
        let count = HandedOver {
            told: told.len(),
            away: away.len(),
        };
        for handover in handovers {
            match message::seal(&Message::Handover(handover), &self.shared.key) {
                Ok(sealed) => self.overlay.publish(EVERYBODY, sealed.into()),
                Err(error) => warn!(%error, "a member is not told of the new secret"),
            }
        }
        for denial in self.shared.member.denials() {
            self.shared.pass_denial_on(&self.overlay, denial);
        }
        self.shared.say_aloud();
        Ok(count)
    }

    /// Takes back what [`Federated::deny`] said; `false` when nothing was.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn allow(&self, peer: PeerId, everywhere: bool) -> Result<bool, MemberError> {
        let allowed = self.shared.member.allow(peer, everywhere)?;
        if let Some(Some(statement)) = &allowed {
            self.shared.pass_denial_on(&self.overlay, statement.clone());
        }
        self.shared.stale.notify_one();
        Ok(allowed.is_some())
    }

    /// Forgets its membership and everybody that it knew as a member.
    ///
    /// # Errors
    /// When what is on disk cannot be removed.
    pub fn forget_federation(&self) -> Result<(), MemberError> {
        let shared = &self.shared;
        let forgotten = shared.member.forget_membership();
        let links: Vec<PeerId> = shared.links.iter().map(|link| *link.key()).collect();
        for peer in links {
            self.cut(peer);
        }
        lock(&shared.table).forget_all();
        lock(&shared.said).clear();
        shared.stale.notify_one();
        forgotten
    }

    /// Ends all connections with a peer, both ways, with the calls on them.
    fn cut(&self, peer: PeerId) {
        self.overlay.disconnect(peer);
        self.carriage.cut(&peer);
        self.acceptor.cut(&peer);
        self.shared.stale.notify_one();
    }

    /// Takes no calls of peers from now on, and gives its own to those who can
    /// run them; or ends that again.
    pub fn drain(&self, drains: bool) {
        self.shared.draining.store(drains, Ordering::Relaxed);
        self.shared.speak.notify_one();
    }

    /// Whether it was told to drain.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    /// Says farewell: others take this node out at once.
    pub fn leave(&self) {
        let epoch = lock(&self.shared.table).epoch();
        let leave = Message::Leave(message::Leave { epoch });
        self.shared.publish(&self.overlay, &leave);
    }

    /// Whether there is a link to a peer, on which it is heard.
    pub(crate) fn is_linked(&self, peer: &PeerId) -> bool {
        self.shared.is_kept(peer)
    }

    /// Takes note that a member gave what it should not.
    pub(crate) fn lied(&self, peer: PeerId, how: &'static str) {
        warn!(%peer, how, "a member is not to be relied on");
        *self
            .shared
            .counters
            .rejected
            .entry("wrong-bytes")
            .or_default() += 1;
        self.met(peer, Met::Failure(Fault::WrongBytes));
    }

    /// Sends a request to a member, over whatever carries there.
    pub(crate) async fn send(
        &self,
        to: PeerId,
        request: http::Request<weir_overlay::carriage::Body>,
    ) -> Result<(http::Response<hyper::body::Incoming>, Using), String> {
        let addresses = {
            let known = lock(&self.shared.table).one(&to, self.shared.clock.now());
            known
                .map(|known| carriage(&known.report))
                .unwrap_or_default()
        };
        match self.carriage.send(to, &addresses, request).await {
            Ok((response, _, using)) => Ok((response, using)),
            Err(error) => Err(error.reason().to_owned()),
        }
    }

    /// What is known of single functions at single peers.
    pub(crate) fn abilities(&self) -> MutexGuard<'_, Abilities> {
        lock(&self.shared.abilities)
    }

    /// Whose turn it is at this node's free places.
    pub(crate) fn turns(&self) -> MutexGuard<'_, Turns> {
        lock(&self.shared.turns)
    }

    /// Peers that were away, and are to be asked now whether they are back.
    pub(crate) fn to_ask(&self, most: usize) -> Vec<(PeerId, Arc<[Endpoint]>)> {
        lock(&self.shared.table).to_ask(most, self.shared.clock.now())
    }

    /// The measured round trip to a peer.
    pub(crate) fn round_trip(&self, peer: &PeerId) -> Option<Duration> {
        self.shared.round_trips.get(peer).map(|took| *took)
    }

    /// Regions that this node spills to now, in order.
    pub fn regions(&self) -> Arc<Vec<String>> {
        self.shared.regions.load_full()
    }

    /// Why this node's own report cannot be sent, while that is so.
    pub fn unsaid(&self) -> Option<String> {
        lock(&self.shared.unsaid).clone()
    }

    /// How loaded this node is, as `to` is to hear it: what is promised to
    /// others is not free. `None` for everybody.
    pub(crate) fn load(&self, node: &Node, to: Option<&PeerId>) -> Load {
        let shared = &self.shared;
        let now = shared.clock.now();
        let capability = node.capability();
        let free = capability.capacity.checked_sub(capability.held);
        let free = free.unwrap_or_default();
        let guests = shared.guest_cpu.each_ref();
        let [short, long] = guests.map(|cpu| cpu.load(Ordering::Relaxed));
        let guests = short.saturating_add(long);
        let own = capability.held.cpu.as_millicores().saturating_sub(guests);
        let processors = Processors {
            total: capability.capacity.cpu.as_millicores(),
            free: free.cpu.as_millicores(),
            own_peak: lock(&shared.own_peak).note(own, now),
            guests,
            guests_long: long,
            promised: lock(&shared.turns).promised_to_others(to, now),
        };
        // Own users first: while one of them lacks what a guest would take,
        // nobody else is asked in.
        let open = capability.contending == 0 && !self.is_draining();
        let [guest_cpu, guest_cpu_long] = match open {
            true => guests::room(processors, shared.settings.guests),
            false => [0, 0],
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Load {
            cpu_total: processors.total,
            cpu_free: processors.free,
            memory_total: capability.capacity.memory.as_bytes(),
            memory_free: free.memory.as_bytes(),
            running: count(capability.running),
            waiting: count(capability.waiting),
            guest_cpu,
            guest_cpu_long,
            disk_free: node.code_room(),
        }
    }

    /// Takes what a call to a peer met.
    pub(crate) fn met(&self, peer: PeerId, met: Met) {
        let now = self.shared.clock.now();
        let changes = matches!(met, Met::Failure(_) | Met::Reached(_));
        lock(&self.shared.table).met(peer, met, now);
        if changes {
            self.shared.stale.notify_one();
        }
    }
}

impl Shared {
    fn is_kept(&self, peer: &PeerId) -> bool {
        self.links.get(peer).is_some_and(|link| link.kept)
    }

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
    pub(crate) fn is_near(&self, report: &Report) -> bool {
        match report.role {
            Role::Edge => {
                self.role == Role::Edge
                    && report.zone.as_deref() == Some(self.settings.zone.as_str())
            }
            Role::Cloud => report
                .region
                .as_ref()
                .is_some_and(|region| self.regions.load().contains(region)),
        }
    }

    /// Whether a report is of a neighbour: an edge node of the same zone.
    pub(crate) fn is_neighbour(&self, report: &Report) -> bool {
        report.role == Role::Edge && self.is_near(report)
    }

    fn say_aloud(&self) {
        self.aloud.store(true, Ordering::Relaxed);
        self.speak.notify_one();
    }

    fn count_rejected(&self, reason: &'static str) {
        *self.counters.rejected.entry(reason).or_default() += 1;
    }
}

/// Names of members, looked up as this machine looks up any.
struct Names(Resolver);

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(self.0.lookup(host))
    }
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
        abilities: 0,
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
        forgotten: 0,
        offers: Vec::new(),
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
        0 => Some("the rest is kept for its own calls, or promised"),
    }
}

fn texts(addresses: &[Multiaddr]) -> Vec<String> {
    let texts = addresses.iter().map(ToString::to_string);
    texts.take(ADDRESSES).collect()
}
