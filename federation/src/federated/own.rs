//! What this node says of itself: how loaded it is, where it is reached.

use std::sync::atomic::Ordering;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node::Node;
use weir_node::node::Capability;
use weir_overlay::Multiaddr;

use super::{Federated, Settings};
use crate::answers::Holdings;
use crate::coordinates::Coordinate;
use crate::report::{ADDRESSES, Load, Report, Role};

/// How long a node may take to know where it listens.
const SETTLING: Duration = Duration::from_secs(5);
const SETTLING_LOOK: Duration = Duration::from_millis(10);

impl Federated {
    /// This node's own report, as it was said last.
    pub fn own(&self) -> Report {
        self.shared.own.lock().clone()
    }

    /// Where it can be linked to, with its id, for invites.
    pub fn bootstrap(&self) -> Vec<String> {
        let own = self.shared.own.lock();
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

    /// How loaded this node is, as `to` is to hear it: what is promised to
    /// others is not free. `None` for everybody.
    pub(crate) fn load(&self, node: &Node, to: Option<&PeerId>) -> Load {
        self.load_by(node, &node.capability(), to)
    }

    /// The same, by what the node can do as was just seen.
    pub(crate) fn load_by(
        &self,
        node: &Node,
        capability: &Capability,
        to: Option<&PeerId>,
    ) -> Load {
        let shared = &self.shared;
        let now = shared.clock.now();
        let guests = shared.guest_cpu.each_ref();
        let holdings = Holdings {
            capacity: capability.capacity,
            held: capability.held,
            running: capability.running,
            waiting: capability.waiting,
            guest_cpu: guests.map(|cpu| cpu.load(Ordering::Relaxed)),
            disk_free: node.code_room(),
            is_open: capability.contending == 0 && !self.is_draining(),
        };
        let promised = shared.turns.lock().promised_to_others(to, now);
        holdings.load(shared.settings.guests, promised)
    }
}

pub(super) fn first_report(settings: &Settings, role: Role, epoch: u64) -> Report {
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

fn texts(addresses: &[Multiaddr]) -> Vec<String> {
    let texts = addresses.iter().map(ToString::to_string);
    texts.take(ADDRESSES).collect()
}
