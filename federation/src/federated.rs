//! A node's place in its federation: the shell around the core. It hears what
//! members say, tells what this node can do, keeps links, and publishes the
//! view by which calls are placed.

mod forgetting;
mod keeper;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use libp2p_identity::{Keypair, PeerId};
use serde::Serialize;
use serde_bytes::ByteBuf;
use tokio::sync::{Notify, mpsc};
use tracing::{debug, info, warn};
use weir_node::Node;
use weir_node::clock::Clock;
use weir_node::function::{FunctionSpec, Scope};
use weir_node::id::{CallId, Digest, FunctionName};
use weir_node::node::{Capability, ChangeError};
use weir_node::resources::Memory;
use weir_node::time::Time;
use weir_overlay::carriage::{Carriage, SendError, Using};
use weir_overlay::tls::{Acceptor, Connector, TlsError};
use weir_overlay::{
    Answer, CallStreams, Event as Happening, Host, Multiaddr, Overlay, Refusal, Verdict,
};

use self::keeper::Keeper;
use crate::catalogue::{
    Catalogue, CodeRef, Entry, FUNCTIONS, Merged, Record, keepers, keeps, number_of, ranked,
};
use crate::coordinates::Coordinate;
use crate::forgotten::Forgotten;
use crate::member::{Member, MemberError, unix_millis, unix_time};
use crate::membership::{CLOCK_SKEW, Refused, Rights, Token};
use crate::message::{self, ENVELOPE_BYTES, Message, Summary, Suspicion as Suspecting};
use crate::peers::{Fault, Heard, Known, Met, PEERS, Peers, Standing, Suspicion};
use crate::report::{ADDRESSES, Load, REPORT_BYTES, Report, Role};
use crate::snapshot::{View, carriage};
use crate::steward;

/// What happened and was not looked at yet. Beyond it, what happened shows at
/// the next look around.
const HAPPENINGS: usize = 4_096;

/// Summaries that were not compared yet; of more, each is said again.
const SUMMARIES: usize = 64;

/// Largest function that is told of, its certificate and signature not counted.
const SPEC_BYTES: usize = REPORT_BYTES - 2_048;

/// How long a node may take to know where it listens.
const SETTLING: Duration = Duration::from_secs(5);

/// Suspicions of one member that are heard within so long: more than the links
/// that it can lose.
const SUSPICIONS: (u32, Duration) = (64, Duration::from_secs(60));

/// How long a member that lied is kept away.
const SHUNNED: Duration = Duration::from_secs(60);

/// A member that heard of nobody for so long is a newcomer when it is back: what
/// it knew of functions is not told to others, who may have removed them and
/// forgotten that.
pub const AWAY: Duration = Duration::from_secs(7 * 24 * 3_600);

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
    /// Bytes of code that it fetches in a second; `None` for no bound.
    pub fetch_rate: Option<Memory>,
    /// How long a node is gone before the first copy of its calls takes over.
    pub takeover: Duration,
    /// Most bytes of body of a call that it keeps for another node.
    pub call_bytes: u64,
    /// Where functions are made known.
    pub registry: Registry,
    /// etcd, where it is one of those.
    pub etcd: EtcdSettings,
}

/// Where functions are made known, and members found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Registry {
    /// Among the members themselves.
    #[default]
    Gossip,
    /// In etcd.
    Etcd,
    /// In both, while a federation moves from one to the other.
    Both,
}

impl Registry {
    fn gossips(self) -> bool {
        match self {
            Registry::Gossip | Registry::Both => true,
            Registry::Etcd => false,
        }
    }

    /// Whether etcd is one.
    pub fn is_in_etcd(self) -> bool {
        match self {
            Registry::Etcd | Registry::Both => true,
            Registry::Gossip => false,
        }
    }

    /// The word for settings and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Registry::Gossip => "gossip",
            Registry::Etcd => "etcd",
            Registry::Both => "both",
        }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Registry, String> {
        let all = [Registry::Gossip, Registry::Etcd, Registry::Both];
        let named = all.into_iter().find(|registry| registry.as_str() == text);
        named.ok_or_else(|| format!("{text:?} is no registry: write gossip, etcd or both"))
    }
}

/// How etcd is reached.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// URLs of its members.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// Who this node is to it.
    pub user: Option<String>,
    /// File that holds the user's password.
    pub password_file: Option<PathBuf>,
    /// File with the certificates (PEM) that it is checked by.
    pub ca: Option<PathBuf>,
    /// File with this node's certificate (PEM) for it.
    pub certificate: Option<PathBuf>,
    /// File with the key of that.
    pub key: Option<PathBuf>,
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
    /// etcd cannot be used.
    #[error("{0}")]
    Registry(&'static str),
    /// No thread.
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
}

/// How this node and etcd stand.
#[derive(Debug, Default)]
pub struct RegistryState {
    /// Whether it is reached now.
    pub up: AtomicBool,
    /// How often it was lost, or could not be reached.
    pub failures: AtomicU64,
    /// Records that this node wrote there.
    pub writes: AtomicU64,
    /// Functions of which it may not know the newest record: no more than
    /// there are.
    unregistered: Mutex<BTreeSet<FunctionName>>,
    /// Some were added to them.
    pub(crate) changed: Notify,
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
    /// What it failed in last, and was not forgiven yet.
    pub fault: Option<&'static str>,
    /// Whether it takes no new calls.
    pub draining: bool,
    /// What carries calls to it: `direct`, `stream`, or nothing yet.
    pub carriage: Option<&'static str>,
    /// Where it can be linked to.
    pub addresses: Vec<String>,
}

/// Members that may keep code, each with its number.
pub(crate) struct Candidates {
    all: Vec<(u64, PeerId)>,
    /// Those of this node's zone or region.
    near: Vec<(u64, PeerId)>,
}

/// What [`keepers`] is asked about one function.
struct Keeping<'a> {
    code: CodeRef,
    copies: usize,
    /// Where it was deployed, if that is among the others.
    writer: Option<PeerId>,
    others: &'a [(u64, PeerId)],
}

impl Candidates {
    pub(crate) fn leave_out(&mut self, peers: &[PeerId]) {
        for list in [&mut self.all, &mut self.near] {
            list.retain(|(_, peer)| !peers.contains(peer));
        }
    }

    /// Who may keep the code of one function; `None` for one without code.
    fn of(&self, entry: &Entry) -> Option<Keeping<'_>> {
        let (code, spec) = (entry.record.code?, entry.spec.as_ref()?);
        let others = match entry.record.topic {
            Some(_) => &self.near,
            None => &self.all,
        };
        let there = others.iter().any(|(_, peer)| *peer == entry.writer);
        Some(Keeping {
            code,
            copies: usize::from(spec.copies.clamp(1, FunctionSpec::MOST_COPIES)),
            writer: there.then_some(entry.writer),
            others,
        })
    }

    /// Who keeps the code of a function.
    pub(crate) fn keepers(&self, entry: &Entry) -> Vec<PeerId> {
        let asked = self.of(entry);
        asked.map_or_else(Vec::new, |asked| {
            keepers(&asked.code, asked.copies, asked.writer, asked.others)
        })
    }
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
    /// Whether others could dial this node where it listens.
    tested: Mutex<BTreeMap<String, bool>>,
    round_trips: DashMap<PeerId, Duration>,
    links: DashMap<PeerId, Link>,
    happenings: mpsc::Sender<Happening>,
    /// Functions of the federation.
    catalogue: Mutex<Catalogue>,
    forgotten: Mutex<Forgotten>,
    /// This node forgot what it knew of functions, and asks others.
    pub(crate) forgot: Notify,
    /// Those of which there is a newer record: no more than there are.
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
        if invited == Role::Cloud && settings.regions.is_empty() {
            return Err(FederateError::Region);
        }
        check_registry(&settings)?;
        let clock = node.clock();
        // Later than that of any earlier life, as long as the clock goes on.
        let epoch = unix_millis();
        let (happenings, happened) = mpsc::channel(HAPPENINGS);
        let (summaries, heard) = mpsc::channel(SUMMARIES);
        steward::set_old_aside(&settings.folder);
        let mut catalogue = Catalogue::default();
        for (name, entry) in steward::recover(&settings.folder.join("functions")) {
            catalogue.merge(name, entry);
        }
        let forgotten = Forgotten::open(&settings.folder, unix_time());
        let first = Report {
            forgotten: forgotten.own(),
            ..first_report(&settings, invited, epoch)
        };
        let shared = Arc::new(Shared {
            id,
            key: key.clone(),
            member,
            clock,
            view: ArcSwap::default(),
            counters: Counters::default(),
            table: Mutex::new(Peers::new(id, epoch)),
            said: Mutex::default(),
            own: Mutex::new(first),
            role: invited,
            coordinate: Mutex::default(),
            tested: Mutex::default(),
            round_trips: DashMap::new(),
            links: DashMap::new(),
            reports_near: AtomicU64::new(0),
            behind: DashMap::new(),
            twice: DashMap::new(),
            shunned: DashMap::new(),
            accusers: DashMap::new(),
            aloud: AtomicBool::new(false),
            happenings,
            catalogue: Mutex::new(catalogue),
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
                tokio::time::sleep(SETTLING / 500).await;
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
            room: known.load.guests,
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

    /// Tries each way to a peer: the name of the way, and how long it took or
    /// why it failed.
    pub async fn ping(&self, peer: PeerId) -> Vec<(String, Result<Duration, String>)> {
        let mut tried = Vec::new();
        let known = {
            let now = self.shared.clock.now();
            lock(&self.shared.table).one(&peer, now)
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
            (Some(relayed), beat) => {
                let way = if relayed { "over a relay" } else { "direct" };
                let beat = beat.ok_or_else(|| "no heartbeat yet".to_owned());
                (format!("link ({way}), last heartbeat"), beat)
            }
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

    /// Changes the federation's secret, and tells everybody: to how many
    /// members it was handed over.
    ///
    /// # Errors
    /// When this node holds no secret, or cannot write.
    pub fn rotate(&self) -> Result<usize, MemberError> {
        let handovers = self.shared.member.rotate(rand::random())?;
        let count = handovers.len();
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

    /// Takes back what [`Federated::deny`] said here.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn allow(&self, peer: PeerId) -> Result<bool, MemberError> {
        self.shared.member.allow(peer)
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

    /// What is known of a function.
    pub(crate) fn entry(&self, name: &FunctionName) -> Option<Entry> {
        lock(&self.shared.catalogue).get(name).cloned()
    }

    /// The next function of which a newer record was heard.
    pub(crate) fn next_changed(&self) -> Option<FunctionName> {
        lock(&self.shared.changed).pop_first()
    }

    /// How many names are known, removed ones included.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.catalogue).len()
    }

    /// All names that are known, removed ones included.
    pub(crate) fn names(&self) -> Vec<FunctionName> {
        let catalogue = lock(&self.shared.catalogue);
        catalogue.iter().map(|(name, _)| name.clone()).collect()
    }

    /// All functions that the federation has, with who wrote the newest record
    /// and its version.
    pub fn functions(&self) -> Vec<(Arc<FunctionSpec>, PeerId, u64)> {
        let catalogue = lock(&self.shared.catalogue);
        let entries = catalogue.iter();
        let live = entries.filter_map(|(_, entry)| {
            let spec = entry.spec.clone()?;
            Some((spec, entry.writer, entry.record.version))
        });
        live.collect()
    }

    /// Whether a function can be told of.
    ///
    /// # Errors
    /// Why not.
    pub fn may_write(&self, spec: &FunctionSpec) -> Result<(), ChangeError> {
        let refused = |text: &str| Err(ChangeError::Invalid(text.to_owned()));
        let member = &self.shared.member;
        if !member.own_rights().is_some_and(|own| own.deploy) {
            return refused("this node may not deploy for others: deploy with --scope node");
        }
        if !member.is_member() {
            let text = "this node is still joining its federation: try again, or deploy with \
                        --scope node";
            return Err(ChangeError::NotYet(text.to_owned()));
        }
        match cbor4ii::serde::to_vec(Vec::new(), spec) {
            Ok(bytes) if bytes.len() <= SPEC_BYTES => Ok(()),
            Ok(_) | Err(_) => {
                refused("the function has more settings than can be told of: use --scope node")
            }
        }
    }

    /// Writes the newest record of a function, and says it.
    pub(crate) fn write(
        &self,
        name: &FunctionName,
        spec: Option<&FunctionSpec>,
        code: Option<CodeRef>,
    ) -> Result<(), ChangeError> {
        let shared = &self.shared;
        let refused = |text: &str| ChangeError::Invalid(text.to_owned());
        if let Some(spec) = spec {
            self.may_write(spec)?;
        }
        let may = shared.member.own_rights().is_some_and(|own| own.deploy);
        let certificate = shared.member.certificate().filter(|_| may);
        let certificate =
            certificate.ok_or_else(|| refused("this node may not change what others deploy"))?;
        let encode = |spec: &FunctionSpec| cbor4ii::serde::to_vec(Vec::new(), spec);
        let encoded = spec.map(encode).transpose();
        let encoded = encoded.map_err(|_| refused("the function cannot be told of"))?;
        let mut catalogue = lock(&shared.catalogue);
        let topic = match spec {
            Some(spec) => (spec.scope == Scope::Zone).then(|| shared.topic()),
            None => catalogue.get(name).and_then(|e| e.record.topic.clone()),
        };
        let record = Record {
            name: name.qualified(),
            version: catalogue.next_version(name),
            topic: topic.clone(),
            removed: encoded.is_none().then(unix_time),
            spec: encoded.map(ByteBuf::from),
            code,
            certificate: ByteBuf::from(certificate),
        };
        let sealed = message::seal(&Message::Record(Box::new(record.clone())), &shared.key);
        let sealed = Bytes::from(sealed.map_err(|_| {
            refused("the function has more settings than can be told of: use --scope node")
        })?);
        let Some((name, entry)) = Entry::new(shared.id, record, sealed.clone()) else {
            return Err(refused("the function cannot be told of"));
        };
        match catalogue.merge(name.clone(), entry) {
            Merged::Newer { .. } => {}
            Merged::Full => {
                let text =
                    format!("the federation has {FUNCTIONS} functions, the most there can be");
                return Err(ChangeError::Full(text));
            }
            Merged::Known | Merged::Older | Merged::Jump => {
                return Err(refused(
                    "another node changed the function meanwhile: try again",
                ));
            }
        }
        drop(catalogue);
        let registry = shared.settings.registry;
        if registry.gossips() {
            self.overlay
                .publish(topic.as_deref().unwrap_or(EVERYBODY), sealed);
        }
        lock(&shared.lost).remove(&name);
        shared.register(&name);
        Ok(())
    }

    /// Who changed or removed a function since this node wrote it last.
    pub fn lost(&self, name: &FunctionName) -> Option<PeerId> {
        lock(&self.shared.lost).get(name).copied()
    }

    /// How this node and etcd stand; `None` where etcd is no registry.
    pub fn registry(&self) -> Option<&RegistryState> {
        let used = self.shared.settings.registry.is_in_etcd();
        used.then_some(&self.shared.registry)
    }

    /// Has all that is known be written to etcd, but the envelopes that are there.
    #[cfg(feature = "etcd")]
    pub(crate) fn register_all(&self, there: &HashSet<[u8; 8]>) {
        let catalogue = lock(&self.shared.catalogue);
        let lacking = catalogue.iter().filter(|(_, entry)| {
            let identity = message::identity(&entry.sealed);
            !there.contains(&identity)
        });
        let lacking = lacking.map(|(name, _)| name.clone());
        lock(&self.shared.registry.unregistered).extend(lacking);
        self.shared.registry.changed.notify_one();
    }

    /// Tells those who do not look into etcd what was found there.
    #[cfg(feature = "etcd")]
    pub(crate) fn pass_on(&self, envelope: &[u8]) {
        if !self.shared.settings.registry.gossips() {
            return;
        }
        if let Ok((_, Message::Record(record))) = message::open(envelope) {
            let topic = record.topic.as_deref().unwrap_or(EVERYBODY);
            self.overlay
                .publish(topic, Bytes::copy_from_slice(envelope));
        }
    }

    /// Has a function be written to etcd when that is reached again.
    #[cfg(feature = "etcd")]
    pub(crate) fn register_later(&self, name: FunctionName) {
        lock(&self.shared.registry.unregistered).insert(name);
    }

    /// The next function that etcd may not know.
    #[cfg(feature = "etcd")]
    pub(crate) fn next_unregistered(&self) -> Option<FunctionName> {
        lock(&self.shared.registry.unregistered).pop_first()
    }

    /// Records that a member whose summary this is may lack.
    pub(crate) fn missing(&self, from: PeerId, marks: &[u64]) -> Vec<(Option<String>, Bytes)> {
        let topics = self.shared.topics_with(&from);
        lock(&self.shared.catalogue).missing(marks, &topics, rand::random_range(0..64))
    }

    /// Tells a linked member records.
    pub(crate) fn tell_records(&self, to: PeerId, records: Vec<(Option<String>, Bytes)>) {
        let named = |(topic, record): (Option<String>, Bytes)| {
            (topic.unwrap_or_else(|| EVERYBODY.to_owned()), record)
        };
        self.overlay
            .tell(to, records.into_iter().map(named).collect());
    }

    /// Whether a member whose summary this is knows the same.
    pub(crate) fn agrees(&self, from: PeerId, marks: &[u64]) -> bool {
        let topics = self.shared.topics_with(&from);
        lock(&self.shared.catalogue).summary(&topics) == marks
    }

    /// Tells a linked member what this node knows, in short.
    pub(crate) fn tell_summary(&self, to: PeerId, ask: bool) {
        if !self.shared.settings.registry.gossips() {
            return;
        }
        // What it knows is not asked for before it has heard that it was forgotten.
        if lock(&self.shared.forgotten).contains(&to) {
            return;
        }
        let topics = self.shared.topics_with(&to);
        let marks = lock(&self.shared.catalogue).summary(&topics);
        let summary = Message::Summary(Summary { marks, ask });
        if let Ok(sealed) = message::seal(&summary, &self.shared.key) {
            self.overlay
                .tell(to, vec![(EVERYBODY.to_owned(), sealed.into())]);
        }
    }

    /// Members that may keep code; this node among them unless it drains.
    pub(crate) fn candidates(&self) -> Candidates {
        let shared = &self.shared;
        let known = lock(&shared.table).known(shared.clock.now());
        let alive = known.iter().filter(|known| {
            let gone = matches!(known.standing, Standing::Gone { .. });
            !gone && !known.silent && !known.report.draining && self.admits(&known.id)
        });
        let (mut all, mut near) = (Vec::new(), Vec::new());
        for known in alive {
            let numbered = (number_of(&known.id), known.id);
            all.push(numbered);
            if known.report.role == shared.role && shared.is_near(&known.report) {
                near.push(numbered);
            }
        }
        if !self.is_draining() {
            let own = (number_of(&shared.id), shared.id);
            all.push(own);
            near.push(own);
        }
        Candidates { all, near }
    }

    /// Members that are heard, and may be asked.
    pub(crate) fn here(&self) -> HashSet<PeerId> {
        let shared = &self.shared;
        let known = lock(&shared.table).known(shared.clock.now());
        let here = known.iter().filter(|known| {
            let gone = matches!(known.standing, Standing::Gone { .. });
            !gone && !known.silent && self.admits(&known.id)
        });
        here.map(|known| known.id).collect()
    }

    /// Members in the order in which they are to keep a call: neighbours of
    /// this node first.
    pub(crate) fn keepers_of_call(&self, call: CallId) -> Vec<PeerId> {
        let Candidates { all, near } = self.candidates();
        // Its random bits, so that calls are spread.
        let number = (call.as_u128() >> 64) as u64;
        let near = ranked(number, &near);
        let far = ranked(number, &all);
        let far = far.into_iter().filter(|peer| !near.contains(peer));
        let all: Vec<PeerId> = near.iter().copied().chain(far).collect();
        all.into_iter()
            .filter(|peer| *peer != self.shared.id)
            .collect()
    }

    /// Functions whose code this node keeps.
    pub(crate) fn kept_here(&self) -> Vec<(FunctionName, CodeRef)> {
        let candidates = self.candidates();
        // Copied, so that nobody waits for the lock while all are looked at.
        let entries: Vec<(FunctionName, Entry)> = {
            let catalogue = lock(&self.shared.catalogue);
            let entries = catalogue.iter();
            entries.map(|(n, e)| (n.clone(), e.clone())).collect()
        };
        let own = &self.shared.id;
        let kept = entries.into_iter().filter_map(|(name, entry)| {
            let Keeping {
                code,
                copies,
                writer,
                others,
            } = candidates.of(&entry)?;
            keeps(&code, copies, writer, others, own).then_some((name, code))
        });
        kept.collect()
    }

    /// Hears a record that somebody brings itself; its name.
    pub(crate) fn hear_brought(&self, envelope: &[u8]) -> Option<FunctionName> {
        let (_, Message::Record(record)) = message::open(envelope).ok()? else {
            return None;
        };
        self.shared.hear(envelope);
        record.name.parse().ok()
    }

    /// Forgets removals that everybody has had time to hear of; their names.
    pub(crate) fn forget_removals(&self) -> Vec<FunctionName> {
        lock(&self.shared.catalogue).forget_removals(unix_time())
    }

    /// Members that may have the code of a function, `most` of them, the nearest
    /// first: its writer and those who keep it for others before any that
    /// have a function of that name, which may be another version.
    pub(crate) fn holders(&self, name: &FunctionName, entry: &Entry, most: usize) -> Vec<PeerId> {
        let keepers = self.candidates().keepers(entry);
        // Not the view alone: who takes no calls gives code all the same.
        let shared = &self.shared;
        let known = lock(&shared.table).known(shared.clock.now());
        let own = *lock(&shared.coordinate);
        let name = name.qualified();
        let mut holders = Vec::new();
        for known in known {
            let keeps = known.id == entry.writer || keepers.contains(&known.id);
            let offers = || known.report.offers.iter().any(|o| o.function == name);
            let gone = matches!(known.standing, Standing::Gone { .. });
            if gone || !(keeps || offers()) {
                continue;
            }
            let measured = shared.round_trips.get(&known.id).map(|took| *took);
            let expected = || own.distance(&known.report.coordinate);
            holders.push((!keeps, measured.unwrap_or_else(expected), known.id));
        }
        holders.sort_unstable();
        holders.truncate(most);
        holders.sort_unstable_by_key(|(_, away, id)| (*away, *id));
        holders.into_iter().map(|(_, _, id)| id).collect()
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

    /// Whether a member may have an artifact: some function that it may know
    /// has it.
    pub(crate) fn may_have(&self, member: &PeerId, digest: &Digest) -> bool {
        let topics = self.shared.topics_with(member);
        let catalogue = lock(&self.shared.catalogue);
        let found = catalogue.iter().any(|(_, entry)| {
            let code = entry.record.code.as_ref().map(CodeRef::artifact);
            let topic = entry.record.topic.as_ref();
            code.as_ref() == Some(digest) && topic.is_none_or(|topic| topics.contains(topic))
        });
        found && self.admits(member)
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
            Err(SendError::NotSent { reason, .. } | SendError::Lost { reason, .. }) => Err(reason),
        }
    }

    /// Takes what a call to a peer met.
    pub(crate) fn met(&self, peer: PeerId, met: Met) {
        let now = self.shared.clock.now();
        let changes = matches!(met, Met::Failure(_));
        lock(&self.shared.table).met(peer, met, now);
        if changes {
            self.shared.stale.notify_one();
        }
    }
}

impl Shared {
    /// Topics, beside the one of everybody, of which both hear.
    fn topics_with(&self, peer: &PeerId) -> Vec<String> {
        let known = lock(&self.table).one(peer, self.clock.now());
        let near = known.is_some_and(|k| k.report.role == self.role && self.is_near(&k.report));
        match near {
            true => vec![self.topic()],
            false => Vec::new(),
        }
    }

    /// Whether a member may have heard already that the secret was changed, and
    /// this node not.
    fn may_be_ahead(&self, from: PeerId, refused: Refused) -> bool {
        let ahead = refused == Refused::WrongFederation && self.member.rights(&from).is_some();
        if ahead {
            self.count_rejected(refused.reason());
        }
        ahead
    }

    fn hear_record(
        &self,
        from: PeerId,
        record: Record,
        bytes: &[u8],
    ) -> Result<Verdict, &'static str> {
        if record
            .topic
            .as_ref()
            .is_some_and(|topic| *topic != self.topic())
        {
            return Ok(Verdict::Ignore);
        }
        let now = unix_time();
        if record.is_over(now) {
            return Ok(Verdict::Ignore);
        }
        if record
            .removed
            .is_some_and(|removed| removed > now + CLOCK_SKEW)
        {
            return Err(Refused::Early.reason());
        }
        match self.member.may_have_written(from, &record.certificate) {
            Ok(()) => {}
            Err(refused) if self.may_be_ahead(from, refused) => return Ok(Verdict::Ignore),
            Err(refused) => return Err(refused.reason()),
        }
        let entry = Entry::new(from, record, Bytes::copy_from_slice(bytes));
        let (name, entry) = entry.ok_or("shape")?;
        let merged = lock(&self.catalogue).merge(name.clone(), entry);
        match merged {
            Merged::Newer { before } => {
                if before == Some(self.id) && from != self.id {
                    let mut lost = lock(&self.lost);
                    if lost.len() < FUNCTIONS {
                        lost.insert(name.clone(), from);
                    }
                    drop(lost);
                    warn!(function = %name, by = %from, "another node changed a function that was deployed here");
                }
                self.register(&name);
                lock(&self.changed).insert(name);
                self.functions_changed.notify_one();
                Ok(Verdict::Accept)
            }
            Merged::Known | Merged::Older => Ok(Verdict::Ignore),
            Merged::Jump => Err("version-jump"),
            Merged::Full => {
                self.count_rejected("full");
                Ok(Verdict::Ignore)
            }
        }
    }

    /// Has a function be looked for in etcd, where that is a registry.
    fn register(&self, name: &FunctionName) {
        if self.settings.registry.is_in_etcd() {
            lock(&self.registry.unregistered).insert(name.clone());
            self.registry.changed.notify_one();
        }
    }

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
            return match self.member.introduce(from, certificate) {
                Ok(_) => {
                    let introduction = Some(Bytes::copy_from_slice(bytes));
                    let mut said = lock(&self.said);
                    if said.len() < PEERS || said.contains_key(&from) {
                        said.entry(from).or_default().introduction = introduction;
                    }
                    Ok(Verdict::Accept)
                }
                // It was good when it was said: nobody lied.
                Err(refused @ (Refused::Expired | Refused::Early | Refused::Superseded)) => {
                    self.count_rejected(refused.reason());
                    Ok(Verdict::Ignore)
                }
                Err(refused) if self.may_be_ahead(from, refused) => Ok(Verdict::Ignore),
                Err(refused) => Err(refused.reason()),
            };
        }
        // The old secret's word is enough, whoever brings it.
        if let Message::Handover(handover) = &message {
            return match self.member.hear_handover(handover) {
                Ok(true) => {
                    self.stale.notify_one();
                    self.speak.notify_one();
                    Ok(Verdict::Accept)
                }
                Ok(false) => Ok(Verdict::Ignore),
                Err(refused) => {
                    self.count_rejected(refused.reason());
                    Ok(Verdict::Ignore)
                }
            };
        }
        // The writer may have left long ago.
        if let Message::Record(record) = message {
            return self.hear_record(from, *record, bytes);
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
                if from != self.id && !self.may_suspect(from, now) {
                    self.count_rejected("suspects-too-often");
                    return Ok(Verdict::Ignore);
                }
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
            Message::Forget(forget) => self.hear_forget(from, &forget, bytes),
            Message::Unknown => Ok(Verdict::Accept),
            Message::Summary(summary) => {
                // It is said again.
                let _ = self.summaries.try_send((from, summary));
                Ok(Verdict::Ignore)
            }
            Message::Introduction(_) | Message::Handover(_) | Message::Record(_) => {
                unreachable!("answered above")
            }
        }
    }

    fn hear_report(&self, from: PeerId, report: Report, bytes: &[u8], now: Time) -> Verdict {
        let role = self.member.rights(&from).map(|rights| rights.role);
        if from != self.id && role != Some(report.role) {
            self.count_rejected("role");
            return Verdict::Ignore;
        }
        if report.forgotten > 0 {
            lock(&self.forgotten).heard(&from, report.forgotten);
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
        if !report.brief && self.is_near(&report) {
            self.reports_near.fetch_add(1, Ordering::Relaxed);
        }
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
                // Named again and again, and ever more seldom.
                if times > 1 && times.is_power_of_two() {
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

    /// Has nothing to do for a while with a member that lies.
    fn shun(&self, peer: PeerId) {
        let now = self.clock.now();
        if self.shunned.len() >= PEERS {
            self.shunned.retain(|_, until| now < *until);
        }
        if self.shunned.len() < PEERS {
            self.shunned.insert(peer, now + SHUNNED);
        }
        lock(&self.table).met(peer, Met::Failure(Fault::Lies), now);
        self.stale.notify_one();
    }

    /// The word for a member that lied a moment ago.
    fn shuns(&self, peer: &PeerId) -> Option<Refusal> {
        let until = *self.shunned.get(peer)?;
        let left = until.since(self.clock.now());
        (!left.is_zero()).then(|| Refusal {
            reason: "shunned",
            text: format!(
                "it said what no honest member says; it may come back in {} s",
                left.as_secs() + 1
            ),
        })
    }

    /// Whether a member's suspicion is heard: each one costs its target some
    /// calls until it is refuted.
    fn may_suspect(&self, from: PeerId, now: Time) -> bool {
        let (most, within) = SUSPICIONS;
        if self.accusers.len() >= PEERS && !self.accusers.contains_key(&from) {
            self.accusers
                .retain(|_, (since, _)| now.since(*since) < within);
        }
        let mut accuser = self.accusers.entry(from).or_insert((now, 0));
        let (since, count) = &mut *accuser;
        if now.since(*since) >= within {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= most
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
        if let Some(handover) = self.member.handover_for(&peer) {
            news.extend(seal(&Message::Handover(handover)).map(|m| (all(), m)));
        }
        let denials = self.member.denials().into_iter();
        news.extend(denials.filter_map(|d| Some((all(), seal(&Message::Denial(d))?))));
        let forgotten = lock(&self.forgotten);
        news.extend(forgotten.statements().map(|sealed| (all(), sealed)));
        drop(forgotten);
        let mut said = lock(&self.said).clone();
        // What is not believed any more is not passed on.
        said.retain(|id, _| *id == self.id || self.member.rights(id).is_some());
        let introductions = said.iter().filter(|(id, _)| **id != peer);
        news.extend(introductions.filter_map(|(_, s)| Some((all(), s.introduction.clone()?))));
        let reports = said.iter().filter(|(id, _)| **id != peer);
        news.extend(reports.filter_map(|(_, s)| s.report.clone()));
        let known = lock(&self.table).one(&peer, self.clock.now());
        let suspected = known.filter(|known| {
            matches!(
                known.standing,
                Standing::Suspected { .. } | Standing::Gone { left: false, .. }
            )
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
        match self.shuns(&from) {
            Some(refusal) => Member::refuse(refusal),
            None => self.member.answer(from, hello),
        }
    }

    fn judge(&self, from: PeerId, answer: &[u8]) -> Result<(), Refusal> {
        match self.shuns(&from) {
            Some(refusal) => Err(refusal),
            None => self.member.judge(from, answer),
        }
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

    fn addresses(&self, of: PeerId) -> Vec<Multiaddr> {
        let known = lock(&self.table).one(&of, self.clock.now());
        let said = known.map(|known| known.report.addresses.clone());
        let said = said.unwrap_or_default().into_iter();
        said.filter_map(|text| text.parse().ok()).collect()
    }

    fn is_known_at(&self, address: &Multiaddr) -> bool {
        let address = address.to_string();
        let known = lock(&self.table).known(self.clock.now());
        let mut said = known.iter().flat_map(|known| &known.report.addresses);
        // Some say who they are in it too.
        said.any(|said| said.split("/p2p/").next() == Some(address.as_str()))
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

fn check_registry(settings: &Settings) -> Result<(), FederateError> {
    let etcd = &settings.etcd;
    let wrong = match settings.registry.is_in_etcd() {
        false => return Ok(()),
        true if cfg!(not(feature = "etcd")) => {
            "this weir was built without etcd: build it with --features etcd, or leave \
             federation.registry at gossip"
        }
        true if etcd.endpoints.is_empty() => {
            "etcd is to be the registry and nobody says where it is: give federation.etcd.endpoints \
             (--etcd http://HOST:2379)"
        }
        true if etcd.user.is_some() != etcd.password_file.is_some() => {
            "federation.etcd.user and federation.etcd.password-file go together"
        }
        true if etcd.certificate.is_some() != etcd.key.is_some() => {
            "federation.etcd.certificate and federation.etcd.key go together"
        }
        true => return Ok(()),
    };
    Err(FederateError::Registry(wrong))
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
        forgotten: 0,
        offers: Vec::new(),
    }
}

fn texts(addresses: &[Multiaddr]) -> Vec<String> {
    let texts = addresses.iter().map(ToString::to_string);
    texts.take(ADDRESSES).collect()
}

/// How loaded a node is, with `room` for calls of others.
pub(crate) fn load_of(capability: &Capability, room: u32) -> Load {
    let held = capability.capacity.checked_sub(capability.held);
    let free = held.unwrap_or_default();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Load {
        cpu_total: capability.capacity.cpu.as_millicores(),
        cpu_free: free.cpu.as_millicores(),
        memory_total: capability.capacity.memory.as_bytes(),
        memory_free: free.memory.as_bytes(),
        running: count(capability.running),
        waiting: count(capability.waiting),
        guests: room.min(1_000_000),
    }
}

/// How many calls of guests a node takes now: what there is room for, and no
/// more than their share of it.
pub(crate) fn guest_room(most: u32, free: u32, guests: u32, share: f64) -> u32 {
    // A share of a few calls is not rounded to none.
    let share = (f64::from(most) * share).ceil() as u32;
    free.min(share.saturating_sub(guests))
}
