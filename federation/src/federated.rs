//! A node's place in its federation: the shell around the core. It hears what
//! members say, tells what this node can do, keeps links, and publishes the
//! view by which calls are placed.

mod belonging;
mod forgetting;
mod functions;
mod hearing;
mod listing;
mod maintenance;
mod noting;
mod own;
mod registering;
mod settings;
mod start;
mod stopping;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use libp2p_identity::{Keypair, PeerId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc};
use tracing::warn;
use weir_node::clock::Clock;
use weir_node::id::FunctionName;
use weir_node::time::Time;
use weir_overlay::carriage::{Carriage, Using};
use weir_overlay::tls::{Acceptor, TlsError};
use weir_overlay::{Endpoint, Event as Happening, Overlay};

pub use self::belonging::HandedOver;
pub use self::forgetting::Forgot;
pub use self::listing::{PeerStatus, Tried};
pub(crate) use self::noting::{NoteHeard, Placing};
pub use self::registering::RegistryState;
pub use self::settings::{EtcdSettings, Registry, Settings};
use self::settings::{region_topic, topics, zone_topic};
use self::stopping::Stopping;
use crate::abilities::Abilities;
use crate::catalogue::Catalogue;
use crate::coordinates::Coordinate;
use crate::facts::carriage;
use crate::forgotten::Forgotten;
use crate::member::{Member, MemberError};
use crate::message::{self, Message, Summary};
use crate::peers::{Fault, Met, Peers};
use crate::policy::HeardLimits;
use crate::report::{Report, Role};
use crate::roster::Roster;
use crate::snapshot::View;
use crate::turns::Turns;
use weir_federation_core::failure::accusers::Accusers;
use weir_federation_core::failure::shunned::Shunned;
use weir_federation_core::failure::{Home, Links};
use weir_federation_core::refusals::Refusals;

/// A member that heard of nobody for so long is a newcomer when it is back: what
/// it knew of functions is not told to others, who may have removed them and
/// forgotten that.
pub const AWAY: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Where it is kept who was forgotten.
const FORGOTTEN: &str = "forgotten";

/// Where it is kept where members were.
const ADDRESS_BOOK: &str = "addresses";

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
    links: Mutex<Links>,
    home: Home,
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
    shunned: Mutex<Shunned>,
    /// Members that suspected others.
    accusers: Mutex<Accusers>,
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
    noting: Mutex<HeardLimits>,
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

/// A node's place in its federation. Cheap to clone.
#[derive(Clone)]
pub struct Federated {
    pub(crate) shared: Arc<Shared>,
    pub(crate) overlay: Overlay,
    pub(crate) carriage: Arc<Carriage>,
    acceptor: Acceptor,
    stopping: Arc<Stopping>,
}

impl Federated {
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

    /// Addresses of this node that another member tried to dial, and whether it
    /// could.
    pub fn tested(&self) -> BTreeMap<String, bool> {
        self.shared.tested.lock().clone()
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
        let epoch = self.shared.table.lock().epoch();
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
            let known = self.shared.table.lock().one(&to, self.shared.clock.now());
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
        self.shared.abilities.lock()
    }

    /// Whose turn it is at this node's free places.
    pub(crate) fn turns(&self) -> MutexGuard<'_, Turns> {
        self.shared.turns.lock()
    }

    /// Peers that were away, and are to be asked now whether they are back.
    pub(crate) fn to_ask(&self, most: usize) -> Vec<(PeerId, Arc<[Endpoint]>)> {
        self.shared
            .table
            .lock()
            .to_ask(most, self.shared.clock.now())
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
        self.shared.unsaid.lock().clone()
    }

    /// Takes what a call to a peer met.
    pub(crate) fn met(&self, peer: PeerId, met: Met) {
        let now = self.shared.clock.now();
        let changes = matches!(met, Met::Failure(_) | Met::Reached(_));
        self.shared.table.lock().met(peer, met, now);
        if changes {
            self.shared.stale.notify_one();
        }
    }
}

impl Shared {
    fn is_kept(&self, peer: &PeerId) -> bool {
        self.links.lock().is_kept(peer)
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
        self.home.hears(report, &self.regions.load())
    }

    fn say_aloud(&self) {
        self.aloud.store(true, Ordering::Relaxed);
        self.speak.notify_one();
    }

    fn count_rejected(&self, reason: &'static str) {
        *self.counters.rejected.entry(reason).or_default() += 1;
    }
}
