//! The rules of links, suspicion and the address book, as named cases.

mod address_book;
mod counts;
mod dials;
mod ends;

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::address_book::AddressBook;
use super::links::LOOK_INTERVAL;
use super::*;
use crate::peers::{Known, Peers};
use crate::report::{Report, Role};
use crate::samples::{self, id};

/// This node.
const OWN: u8 = 200;

fn at(milliseconds: u64) -> Time {
    Time::ZERO + Duration::from_millis(milliseconds)
}

fn address(number: u8) -> String {
    format!("/ip4/192.0.2.{number}/tcp/4001")
}

fn report(number: u8) -> Report {
    Report {
        addresses: vec![address(number)],
        ..samples::report()
    }
}

/// A member of the cloud's `region`.
fn cloud(number: u8, region: &str) -> Report {
    Report {
        role: Role::Cloud,
        zone: None,
        region: Some(region.to_owned()),
        ..report(number)
    }
}

/// A node with its links and what it knows of peers.
struct World {
    links: Links,
    peers: Peers,
    now: Time,
    wishes: Vec<Wish>,
    regions: Vec<String>,
    is_member: bool,
    wants_relay: bool,
    wants_renewal: Option<Duration>,
    strangers: Vec<PeerId>,
    denied: Vec<PeerId>,
}

impl World {
    fn new() -> World {
        World::named(&[])
    }

    /// With members that settings name.
    fn named(named: &[u8]) -> World {
        let own = id(OWN);
        let home = Home {
            role: Role::Edge,
            zone: "lab".to_owned(),
        };
        let named = named.iter().map(|n| (Some(id(*n)), address(*n)));
        World {
            links: Links::new(own, home, AddressBook::default(), named.collect(), at(0)),
            peers: Peers::new(own, 1),
            now: at(0),
            wishes: Vec::new(),
            regions: Vec::new(),
            is_member: true,
            wants_relay: false,
            wants_renewal: None,
            strangers: Vec::new(),
            denied: Vec::new(),
        }
    }

    fn later(&mut self, milliseconds: u64) -> &mut World {
        self.now = self.now + Duration::from_millis(milliseconds);
        self
    }

    fn hear(&mut self, number: u8, report: Report) -> &mut World {
        self.peers.hear(id(number), report, self.now);
        self
    }

    fn happens(&mut self, fact: Fact) -> &mut World {
        let World {
            links,
            peers,
            now,
            wishes,
            ..
        } = self;
        links.take(fact, peers, *now, wishes);
        self
    }

    /// A link that is heard, to a member that said who it is.
    fn linked(&mut self, number: u8) -> &mut World {
        self.hear(number, report(number));
        self.links_to(number, false)
    }

    fn links_to(&mut self, number: u8, relayed: bool) -> &mut World {
        let peer = id(number);
        self.happens(Fact::LinkCame {
            peer,
            address: address(number),
            dialled: true,
            relayed,
            unix: 1_000,
        });
        self.happens(Fact::LinkKept(peer))
    }

    fn ends(&mut self, number: u8, clean: bool) -> &mut World {
        let denied = self.denied.contains(&id(number));
        let peer = id(number);
        self.happens(Fact::LinkEnded {
            peer,
            clean,
            denied,
        })
    }

    fn fails(&mut self, number: u8, end: DialEnd) -> &mut World {
        let (peer, reason) = (id(number), "why".to_owned());
        self.happens(Fact::DialFailed { peer, end, reason })
    }

    /// One look at the links.
    fn look(&mut self) -> &mut World {
        let mut known: Vec<Known> = self.peers.known(self.now);
        known.sort_by_key(|known| known.id);
        let around = Around {
            known: &known,
            regions: &self.regions,
            unix: 1_000,
            is_member: self.is_member,
            wants_relay: self.wants_relay,
            wants_renewal: self.wants_renewal,
            belongs: &|peer| !self.strangers.contains(peer),
            denies: &|peer| self.denied.contains(peer),
        };
        self.links.look(&around, self.now, 7, &mut self.wishes);
        self
    }

    /// What was wished since this was asked last.
    fn wished(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// Whom it wished to dial since this was asked last.
    fn dialled(&mut self) -> Vec<PeerId> {
        let dials = self.wished().into_iter().filter_map(|wish| match wish {
            Wish::Dial { peer, .. } => peer,
            _ => None,
        });
        let mut dials: Vec<PeerId> = dials.collect();
        dials.sort();
        dials
    }
}

fn dial(number: u8) -> Wish {
    Wish::Dial {
        peer: Some(id(number)),
        addresses: vec![address(number)],
    }
}

fn suspect(number: u8, why: &str) -> Wish {
    Wish::Suspect {
        peer: id(number),
        epoch: 1,
        why: why.to_owned(),
    }
}

/// The ids of so many, in their order.
fn ids(numbers: impl IntoIterator<Item = u8>) -> Vec<PeerId> {
    let mut ids: Vec<PeerId> = numbers.into_iter().map(id).collect();
    ids.sort();
    ids
}
