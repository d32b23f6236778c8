//! How a node takes part, and what it listens to.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use weir_node::resources::Memory;
use weir_overlay::{Endpoint, Multiaddr};

use super::{EVERYBODY, FederateError};
use crate::membership::Token;
use crate::report::Role;

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
    /// The same for calls, as addresses or names that others look up.
    pub peer_advertise: Vec<Endpoint>,
    /// The invite by which it joins, the first time.
    pub join: Option<Token>,
    /// Members to link to, beside those that the invite and the book name.
    pub peers: Vec<Multiaddr>,
    /// What it is for; `None` for what its invite says.
    pub role: Option<Role>,
    /// Its zone, where it is an edge node.
    pub zone: String,
    /// Regions to spill to, in order; a cloud node's own is the first. Empty:
    /// the nearest that are heard of, or none.
    pub regions: Vec<String>,
    /// Whether regions are followed that are not named.
    pub follows_regions: bool,
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

impl Default for Settings {
    /// What holds where nobody says otherwise: an edge node of the zone
    /// `default` that listens nowhere and joins nobody.
    fn default() -> Self {
        Settings {
            folder: PathBuf::new(),
            listen: Vec::new(),
            peer_listen: None,
            advertise: Vec::new(),
            peer_advertise: Vec::new(),
            join: None,
            peers: Vec::new(),
            role: None,
            zone: "default".to_owned(),
            regions: Vec::new(),
            follows_regions: true,
            labels: BTreeMap::new(),
            mdns: false,
            relayed: false,
            certificate_life: Duration::from_secs(30 * 24 * 3600),
            guests: 0.8,
            fetch_rate: None,
            takeover: Duration::from_secs(30),
            call_bytes: 16 << 20,
            registry: Registry::default(),
            etcd: EtcdSettings {
                prefix: "/weir".to_owned(),
                ..EtcdSettings::default()
            },
        }
    }
}

impl Settings {
    /// A cloud node's own region.
    pub(crate) fn own_region(&self) -> Option<String> {
        self.regions.first().cloned()
    }
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
    pub(super) fn gossips(self) -> bool {
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

pub(super) fn check_registry(settings: &Settings) -> Result<(), FederateError> {
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

pub(super) fn zone_topic(zone: &str) -> String {
    format!("weir/1/zone/{zone}")
}

pub(super) fn region_topic(region: &str) -> String {
    format!("weir/1/region/{region}")
}

/// What a node listens to: its own zone or region, the regions that it spills
/// to, and what is for everybody.
pub(super) fn topics(settings: &Settings, regions: &[String], role: Role) -> Vec<String> {
    let mut topics = vec![EVERYBODY.to_owned()];
    if role == Role::Edge {
        topics.push(zone_topic(&settings.zone));
    }
    topics.extend(regions.iter().map(|region| region_topic(region)));
    topics
}
