//! How a node comes into its federation.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use libp2p_identity::PeerId;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use weir_federation_core::failure::{Home, Links};
use weir_node::Node;
use weir_node::resolve::Resolver;
use weir_overlay::carriage::Carriage;
use weir_overlay::tls::{Acceptor, Connector};
use weir_overlay::{CallStreams, Event as Happening, Host, Overlay, Resolve};

use super::maintenance::Maintenance;
use super::own::first_report;
use super::settings::{check_registry, topics};
use super::stopping::Stopping;
use super::{
    ADDRESS_BOOK, Counters, FORGOTTEN, FederateError, Federated, RegistryState, Settings, Shared,
};
use crate::address_book::{self, peer_in};
use crate::catalogue::Catalogue;
use crate::forgotten::Forgotten;
use crate::member::{Member, unix_millis, unix_time};
use crate::membership::Rights;
use crate::message::{self, ENVELOPE_BYTES};
use crate::peers::Peers;
use crate::regions;
use crate::replication;
use crate::report::Role;
use crate::roster::Roster;

/// What happened and was not looked at yet. Beyond it, what happened shows at
/// the next look around.
const HAPPENINGS: usize = 4_096;

/// Summaries that were not compared yet; of more, each is said again.
const SUMMARIES: usize = 64;

/// Rosters that were not compared yet; of more, each is said again.
const ROSTERS: usize = 64;

/// What the loop receives.
struct Arriving {
    happened: mpsc::Receiver<Happening>,
    rosters: mpsc::Receiver<(PeerId, Roster)>,
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
        mut settings: Settings,
    ) -> Result<(Federated, CallStreams), FederateError> {
        let id = node.key().public().to_peer_id();
        let (member, role) = open_member(id, &settings)?;
        if role == Role::Cloud && settings.regions.is_empty() {
            settings.regions.push(regions::DEFAULT.to_owned());
        }
        settings.follows_regions &= role == Role::Edge && settings.regions.is_empty();
        check_registry(&settings)?;
        let (shared, arriving) = Shared::begin(node, member, role, settings);
        let (federated, calls) = Federated::connect(shared)?;
        federated.look_after(node, arriving)?;
        Ok((federated, calls))
    }

    /// Starts the overlay, and what carries calls.
    fn connect(shared: Arc<Shared>) -> Result<(Federated, CallStreams), FederateError> {
        let host: Arc<dyn Host> = shared.clone();
        let (key, settings) = (&shared.key, &shared.settings);
        let config = weir_overlay::Config {
            key: key.clone(),
            listen: settings.listen.clone(),
            advertise: settings.advertise.clone(),
            mdns: settings.mdns,
            topics: topics(settings, &settings.regions, shared.role),
            message_bytes: ENVELOPE_BYTES,
            message_identity: message::identity,
        };
        let (overlay, calls) = Overlay::start(config, host.clone())?;
        let connector = Connector::new(key, host.clone())?;
        let names = Arc::new(Names(Resolver::new()));
        let carriage = Carriage::new(connector, overlay.clone(), host.clone(), names);
        let federated = Federated {
            carriage: Arc::new(carriage),
            acceptor: Acceptor::new(key, host, overlay.traffic())?,
            stopping: Arc::new(Stopping::new()),
            overlay,
            shared,
        };
        Ok((federated, calls))
    }

    /// Starts the loop that looks after everything, on a thread of its own.
    fn look_after(&self, node: &Node, arriving: Arriving) -> Result<(), FederateError> {
        let maintenance = Maintenance::new(self.clone(), node.clone());
        let stops = self.stopping.watch();
        let Arriving { happened, rosters } = arriving;
        let thread = std::thread::Builder::new()
            .name("federation".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build();
                match runtime {
                    Ok(runtime) => runtime.block_on(maintenance.run(happened, rosters, stops)),
                    Err(error) => tracing::error!(%error, "the federation is not looked after"),
                }
            })
            .map_err(FederateError::Thread)?;
        self.stopping.keep(thread);
        Ok(())
    }
}

/// Its membership, and what it is for by that.
fn open_member(id: PeerId, settings: &Settings) -> Result<(Member, Role), FederateError> {
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
    match settings.role.filter(|told| *told != invited) {
        Some(told) => Err(FederateError::Role { invited, told }),
        None => Ok((member, invited)),
    }
}

/// Functions of the federation, as an earlier run knew them.
fn recovered(settings: &Settings) -> Catalogue {
    replication::set_old_aside(&settings.folder);
    let mut catalogue = Catalogue::default();
    for (name, entry) in replication::recover(&settings.folder.join("functions")) {
        catalogue.merge(name, entry);
    }
    catalogue
}

impl Shared {
    fn begin(
        node: &Node,
        member: Member,
        role: Role,
        settings: Settings,
    ) -> (Arc<Shared>, Arriving) {
        let (key, clock) = (node.key().clone(), node.clock());
        let id = key.public().to_peer_id();
        // Later than that of any earlier life, as long as the clock goes on.
        let epoch = unix_millis();
        let (happenings, happened) = mpsc::channel(HAPPENINGS);
        let (summaries, heard) = mpsc::channel(SUMMARIES);
        let (rosters, compared) = mpsc::channel(ROSTERS);
        let catalogue = recovered(&settings);
        let forgotten = std::fs::read(settings.folder.join(FORGOTTEN)).unwrap_or_default();
        let forgotten = Forgotten::read(&forgotten, unix_time());
        let home = Home {
            role,
            zone: settings.zone.clone(),
        };
        let book = address_book::read(&settings.folder.join(ADDRESS_BOOK));
        let named = named(&settings, id);
        let links = Links::new(id, home.clone(), book, named, clock.now());
        let shared = Shared {
            id,
            key,
            member,
            clock,
            view: ArcSwap::default(),
            viewed: Notify::new(),
            regions: ArcSwap::from_pointee(settings.regions.clone()),
            abilities: Mutex::default(),
            turns: Mutex::default(),
            unsaid: Mutex::default(),
            counters: Counters::default(),
            refusals: Mutex::default(),
            table: Mutex::new(Peers::new(id, epoch)),
            said: Mutex::default(),
            own: Mutex::new(first_report(&settings, role, epoch)),
            role,
            coordinate: Mutex::default(),
            tested: Mutex::default(),
            round_trips: DashMap::new(),
            links: Mutex::new(links),
            home,
            linked: Mutex::default(),
            rosters,
            missed: AtomicBool::new(false),
            reports_near: AtomicU64::new(0),
            behind: DashMap::new(),
            twice: DashMap::new(),
            shunned: Mutex::default(),
            accusers: Mutex::default(),
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
            settings,
        };
        let arriving = Arriving {
            happened,
            rosters: compared,
        };
        (Arc::new(shared), arriving)
    }
}

/// Members that settings and invite name: this node dials them for ever.
fn named(settings: &Settings, own: PeerId) -> Vec<(Option<PeerId>, String)> {
    let invited = settings.join.iter().flat_map(|t| &t.invite().bootstrap);
    let peers = settings.peers.iter().map(ToString::to_string);
    let named = peers.chain(invited.cloned());
    let named = named.map(|address| (peer_in(&address), address));
    named.filter(|(peer, _)| *peer != Some(own)).collect()
}

/// Names of members, looked up as this machine looks up any.
struct Names(Resolver);

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(self.0.lookup(host))
    }
}
