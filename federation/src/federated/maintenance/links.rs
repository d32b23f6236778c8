//! The links of a node: what happens to them is told to the core, and what the
//! core wishes is done.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use libp2p_identity::PeerId;
use tracing::{debug, info};
use weir_federation_core::failure::{Around, Fact, Wish};
use weir_node::time::Time;
use weir_overlay::{Event as Happening, Multiaddr};

use super::super::Linked;
use super::Maintenance;
use crate::member::unix_time;
use crate::message::{self, Message, Suspicion as Suspecting};
use crate::peers::{Fault, Known, Met};
use crate::report::ADDRESSES;

/// Addresses of this node of which is kept whether others reach them.
const TESTED: usize = 64;

impl Maintenance {
    /// Takes what has happened on the overlay.
    pub(super) fn see(&mut self, event: Happening) {
        match event {
            Happening::Listening(address) => self.listen_address(&address),
            Happening::LinkUp {
                peer,
                address,
                dialled,
                relayed,
            } => {
                debug!(%peer, %address, "linked");
                self.take(Fact::LinkCame {
                    peer,
                    address: address.to_string(),
                    dialled,
                    relayed,
                    unix: unix_time(),
                });
                // The first link may be what made this node a member.
                if self.reporting.published().is_none() {
                    self.report(self.shared().clock.now(), true);
                }
            }
            Happening::Kept(peer) => {
                self.take(Fact::LinkKept(peer));
                self.note_links();
                self.overlay().tell(peer, self.shared().news_for(peer));
                self.federated.tell_summary(peer, true);
            }
            Happening::LinkedAgain(peer) => {
                self.shared().twice.insert(peer, ());
                self.shared().behind.insert(peer, ());
            }
            Happening::Closer { peer, address } => {
                let address = address.to_string();
                self.take(Fact::LinkCloser { peer, address });
            }
            Happening::LinkDown { peer, clean } => self.link_down(peer, clean),
            Happening::Silent(peer) => {
                let denied = self.shared().member.is_denied(&peer);
                self.take(Fact::Silent { peer, denied });
            }
            Happening::Unanswered(peer) => {
                info!(%peer, "a member has calls and does not answer");
                self.federated.met(peer, Met::Failure(Fault::Unreachable));
            }
            Happening::DialFailed { peer, end, reason } => {
                debug!(?peer, ?end, reason, "a member cannot be linked to");
                if let Some(peer) = peer {
                    self.take(Fact::DialFailed { peer, end, reason });
                }
            }
            Happening::Lied(peer) => {
                self.shared().shun(peer);
                self.take(Fact::Lied(peer));
            }
            Happening::Tested { address, reachable } => self.tested(&address, reachable),
            Happening::Found { peer, address } if address.is_empty() => {
                self.take(Fact::Forgotten(peer));
            }
            Happening::Found { peer, address } => self.take(Fact::Found {
                peer,
                address: address.to_string(),
                unix: unix_time(),
            }),
            Happening::RoundTrip { .. } | Happening::Refused { .. } => {}
        }
    }

    fn link_down(&mut self, peer: PeerId, clean: bool) {
        debug!(%peer, clean, "a link ended");
        let denied = self.shared().member.is_denied(&peer);
        self.take(Fact::LinkEnded {
            peer,
            clean,
            denied,
        });
        self.note_links();
        self.shared().twice.remove(&peer);
        self.shared().round_trips.remove(&peer);
    }

    /// Tells the core, and does what it wishes.
    pub(super) fn take(&mut self, fact: Fact) {
        let mut wishes = Vec::new();
        {
            let shared = self.shared();
            let now = shared.clock.now();
            let mut links = shared.links.lock();
            let mut table = shared.table.lock();
            links.take(fact, &mut table, now, &mut wishes);
        }
        self.carry_out(wishes);
    }

    /// Looks after the links.
    pub(super) fn look_at_links(&mut self, known: &[Known], now: Time) {
        let shared = self.federated.shared.clone();
        let member = &shared.member;
        if member.may_invite() && member.wants_renewal() {
            member.renew_own();
        }
        let renews = member.wants_renewal() && !member.may_invite();
        let life = || member.life().unwrap_or(std::time::Duration::MAX);
        let relayed = |text: &String| text.contains("p2p-circuit");
        let around = Around {
            known,
            regions: &shared.regions.load(),
            unix: unix_time(),
            is_member: member.is_member(),
            wants_relay: self.is_hidden() && !self.listening.iter().any(relayed),
            wants_renewal: renews.then(life),
            belongs: &|peer| member.rights(peer).is_some(),
            denies: &|peer| member.is_denied(peer),
        };
        let mut wishes = Vec::new();
        shared
            .links
            .lock()
            .look(&around, now, rand::random(), &mut wishes);
        self.carry_out(wishes);
    }

    fn carry_out(&mut self, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::Dial { peer, addresses } => self.dial(peer, &addresses),
                Wish::Suspect { peer, epoch, why } => {
                    info!(%peer, why, "suspects a member");
                    let shared = self.shared();
                    shared.counters.suspicions.fetch_add(1, Ordering::Relaxed);
                    let suspicion = Message::Suspicion(Suspecting::new(peer, epoch));
                    shared.publish(self.overlay(), &suspicion);
                    self.viewing.stale();
                }
                Wish::Tell { peer, epoch } => {
                    let suspicion = Message::Suspicion(Suspecting::new(peer, epoch));
                    let shared = self.shared();
                    if let Ok(sealed) = message::seal(&suspicion, &shared.key) {
                        let told = vec![(shared.topic(), sealed.into())];
                        self.overlay().tell(peer, told);
                    }
                }
                Wish::Close(peer) => {
                    self.overlay().disconnect(peer);
                    self.federated.carriage.close(&peer);
                    self.viewing.stale();
                }
                Wish::Cut { peer, why } => {
                    info!(%peer, why, "ends what there is with a member");
                    self.federated.cut(peer);
                }
                Wish::Renew(peer) => {
                    debug!(%peer, "connects anew, to have its membership renewed");
                    self.overlay().disconnect(peer);
                }
                Wish::Ask => self.overlay().find(self.shared().id),
                Wish::Punch { peer, over } => self.overlay().punch(peer, parsed(&over)),
                Wish::RelayOver { peer, address } => {
                    if let Ok(address) = address.parse::<Multiaddr>() {
                        let via = address.with_p2p(peer).unwrap_or_else(|same| same);
                        self.overlay().listen_via(via);
                    }
                }
            }
        }
    }

    /// Dials a member, unless this node has left them all.
    fn dial(&self, peer: Option<PeerId>, addresses: &[String]) {
        if !self.shared().member.has_left() {
            self.overlay().dial(peer, parsed(addresses));
        }
    }

    /// Keeps since when there was always a link.
    pub(super) fn note_links(&self) {
        let shared = self.shared();
        let is_linked = shared.links.lock().kept().next().is_some();
        let mut linked = shared.linked.lock();
        *linked = match is_linked {
            true => linked.or_else(|| {
                Some(Linked {
                    since: shared.clock.now(),
                    unix: unix_time(),
                })
            }),
            false => None,
        };
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
        let mut own = self.shared().own.lock();
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

    /// Takes what another member found when it dialled an address of this node.
    fn tested(&mut self, address: &Multiaddr, reachable: bool) {
        info!(%address, reachable, "a member tried whether this node can be dialled");
        let mut tested = self.shared().tested.lock();
        let address = address.to_string();
        if tested.len() < TESTED || tested.contains_key(&address) {
            tested.insert(address, reachable);
        }
    }

    /// Whether this node is told, or was found, to be out of reach.
    fn is_hidden(&self) -> bool {
        let tested = self.shared().tested.lock();
        let unreachable = !tested.is_empty() && tested.values().all(|reachable| !reachable);
        self.shared().settings.relayed || unreachable
    }
}

/// Those that say where somebody is; whoever told of the others was wrong.
fn parsed(addresses: &[String]) -> Vec<Multiaddr> {
    let addresses = addresses.iter();
    addresses.filter_map(|text| text.parse().ok()).collect()
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
