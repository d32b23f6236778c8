//! Which links a node keeps, whom it dials and when, and what it follows from how
//! a link or a dial ended.

mod look;

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

pub use self::look::Around;
use super::address_book::AddressBook;
use super::backoff::Backoff;
use crate::peers::{PEERS, Peers, Standing, Suspicion};
use crate::report::{ADDRESSES, Report, Role};

/// Links that a node keeps to its own zone or region, at the least: with those
/// that others keep to it, twice as many.
pub const LINKS: usize = 5;

/// Links that it keeps to each region that it spills to.
pub const REGION_LINKS: usize = 2;

/// Members that carry connections to a node that needs it.
pub const RELAYS: usize = 2;

/// Links that one look begins.
pub const DIALS_PER_LOOK: usize = 4;

/// How often links are looked after.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How often a node that was lost, or that nobody links to, is tried though
/// there are links enough: a healed partition has to be found.
pub const STRAY_INTERVAL: Duration = Duration::from_secs(5);

/// How often a node with few links asks those that it has for more members.
pub const SEARCH_INTERVAL: Duration = Duration::from_secs(60);

/// How often members are asked to carry connections, where none does yet.
pub const RELAY_INTERVAL: Duration = Duration::from_secs(5);

/// How often a node tries to be linked directly to those whom it reaches over a
/// relay.
pub const PUNCH_INTERVAL: Duration = Duration::from_secs(20);

/// How often a node asks for a new certificate, once it wants one.
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// Redials of one lost link that were ended without a word, after which that
/// counts as a failure: until then it may be a node that takes no more
/// connections for the moment.
pub const REDIALS_MAX: u32 = 3;

/// Addresses at which one dial tries a member.
pub const DIALLED_ADDRESSES_MAX: usize = 2 * ADDRESSES;

/// How a dial ended that made no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialEnd {
    /// The machine refused it, as one does whose node has died.
    Refused,
    /// Nothing was reached, or nothing came back.
    Unreached,
    /// The connection was taken, and ended before a word was said.
    Dropped,
    /// The other side said why it wants no link: it lives.
    TurnedAway,
    /// This node itself did not try, or gave up.
    NotTried,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// There is a link.
    LinkCame {
        /// To whom.
        peer: PeerId,
        /// Where it is, as seen from here.
        address: String,
        /// Whether this node dialled.
        dialled: bool,
        /// Whether a relay carries it.
        relayed: bool,
        /// When this is, in seconds since 1970.
        unix: u64,
    },
    /// Heartbeats are heard on a link: it stays.
    LinkKept(PeerId),
    /// A link that a relay carried is direct now.
    LinkCloser {
        /// To whom.
        peer: PeerId,
        /// Where it is, as seen from here.
        address: String,
    },
    /// A link has ended.
    LinkEnded {
        /// To whom.
        peer: PeerId,
        /// Whether a side meant it, or nobody needed it.
        clean: bool,
        /// Whether nothing is wanted of that member: it is denied.
        denied: bool,
    },
    /// A dial made no link.
    DialFailed {
        /// To whom.
        peer: PeerId,
        /// How it ended.
        end: DialEnd,
        /// The same for people.
        reason: String,
    },
    /// Heartbeats of a member are late, and this node is not.
    Silent {
        /// Whose.
        peer: PeerId,
        /// Whether nothing is wanted of that member: it is denied.
        denied: bool,
    },
    /// A member lied.
    Lied(PeerId),
    /// A member is dead, as the table of peers says.
    Died(PeerId),
    /// A node was heard of.
    Found {
        /// Who.
        peer: PeerId,
        /// Where.
        address: String,
        /// When this is, in seconds since 1970.
        unix: u64,
    },
    /// A member is to be forgotten.
    Forgotten(PeerId),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Link to whoever is at these addresses, and keep that link.
    Dial {
        /// Who that is, where it is known.
        peer: Option<PeerId>,
        /// Where.
        addresses: Vec<String>,
    },
    /// Say to everybody that this life of a member seems to be over.
    Suspect {
        /// Whose.
        peer: PeerId,
        /// Which.
        epoch: u64,
        /// Why, for people.
        why: String,
    },
    /// Tell a member itself that it is doubted, so that it begins a new life,
    /// which all others believe.
    Tell {
        /// Whom.
        peer: PeerId,
        /// The life that is doubted.
        epoch: u64,
    },
    /// End the link to a member, and idle connections for calls: those that carry
    /// calls may still answer.
    Close(PeerId),
    /// End everything with a member, calls too.
    Cut {
        /// With whom.
        peer: PeerId,
        /// Why, for people.
        why: &'static str,
    },
    /// End the link to a member so as to link anew: each new one renews this
    /// node's certificate.
    Renew(PeerId),
    /// Ask those that are linked for more members.
    Ask,
    /// Try to be linked directly to a member that a relay carries to.
    Punch {
        /// To whom.
        peer: PeerId,
        /// Where it is met over relays.
        over: Vec<String>,
    },
    /// Ask a member to carry connections to this node.
    RelayOver {
        /// Whom.
        peer: PeerId,
        /// Where it is, as seen from here.
        address: String,
    },
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Whether a relay carries it.
    pub relayed: bool,
    /// Whether heartbeats are heard on it, so that it stays.
    pub kept: bool,
    /// Where the peer is, as seen from here.
    pub address: String,
}

/// A link that was lost and is dialled again.
#[derive(Debug, Default)]
struct Lost {
    /// Redials that were ended without a word.
    dropped: u32,
    backoff: Backoff,
    /// When it is dialled again; `None` while a dial is under way.
    again: Option<Time>,
}

/// Where a node is, and to whom it is near.
#[derive(Debug, Clone)]
pub struct Home {
    /// What it is for.
    pub role: Role,
    /// Its zone, where it is an edge node.
    pub zone: String,
}

impl Home {
    /// Whether a report comes from where this node hears all: its own zone, or a
    /// region that it follows.
    pub fn hears(&self, report: &Report, regions: &[String]) -> bool {
        match report.role {
            Role::Edge => {
                self.role == Role::Edge && report.zone.as_deref() == Some(self.zone.as_str())
            }
            Role::Cloud => report.region.as_ref().is_some_and(|r| regions.contains(r)),
        }
    }
}

/// Attempts at the members that settings and invite name: together, and for ever.
#[derive(Debug)]
struct Bootstrap {
    members: Vec<(Option<PeerId>, String)>,
    backoff: Backoff,
}

/// The links of a node.
#[derive(Debug)]
pub struct Links {
    own: PeerId,
    home: Home,
    /// Where members were.
    book: AddressBook,
    bootstrap: Bootstrap,
    links: BTreeMap<PeerId, Link>,
    lost: BTreeMap<PeerId, Lost>,
    /// Whom this node links to anew.
    renewing: Option<PeerId>,
    looked: Option<Time>,
    strayed: Time,
    searched: Time,
    punched: Time,
    asked_relay: Option<Time>,
    renewed: Option<Time>,
}

impl Links {
    /// Of the node `own`, which knows members by `book`, and those that settings
    /// and invite name with `bootstrap`.
    pub fn new(
        own: PeerId,
        home: Home,
        book: AddressBook,
        bootstrap: Vec<(Option<PeerId>, String)>,
        now: Time,
    ) -> Links {
        Links {
            own,
            home,
            book,
            bootstrap: Bootstrap {
                members: bootstrap,
                backoff: Backoff::default(),
            },
            links: BTreeMap::new(),
            lost: BTreeMap::new(),
            renewing: None,
            looked: None,
            strayed: now,
            searched: now,
            punched: now,
            asked_relay: None,
            renewed: None,
        }
    }

    /// When [`Links::look`] is to be called next.
    pub fn next_event(&self) -> Time {
        let look = self.looked.map_or(Time::ZERO, |at| at + LOOK_INTERVAL);
        let again = self.lost.values().filter_map(|lost| lost.again);
        again.fold(look, Time::min)
    }

    /// Where members were.
    pub fn book(&mut self) -> &mut AddressBook {
        &mut self.book
    }

    /// The link to a member.
    pub fn link(&self, peer: &PeerId) -> Option<&Link> {
        self.links.get(peer)
    }

    /// Whether there is a link to a member on which it is heard.
    pub fn is_kept(&self, peer: &PeerId) -> bool {
        self.links.get(peer).is_some_and(|link| link.kept)
    }

    /// All that are linked.
    pub fn linked(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.links.keys().copied()
    }

    /// Those that are linked, and heard.
    pub fn kept(&self) -> impl Iterator<Item = PeerId> + '_ {
        let kept = self.links.iter().filter(|(_, link)| link.kept);
        kept.map(|(peer, _)| *peer)
    }

    /// Takes what has happened at `now`, and adds what is to be done to `wishes`.
    pub fn take(&mut self, fact: Fact, peers: &mut Peers, now: Time, wishes: &mut Vec<Wish>) {
        match fact {
            Fact::LinkCame {
                peer,
                address,
                dialled,
                relayed,
                unix,
            } => {
                self.lost.remove(&peer);
                if dialled {
                    self.note_address(peer, &address, unix, peers, now);
                }
                self.book.reached(&peer);
                let link = Link {
                    relayed,
                    kept: false,
                    address,
                };
                self.links.insert(peer, link);
            }
            Fact::LinkKept(peer) => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.kept = true;
                }
                peers.linked(&peer, now);
                // It may be the one that is to carry connections to this node.
                self.looked = None;
            }
            Fact::LinkCloser { peer, address } => {
                if let Some(link) = self.links.get_mut(&peer) {
                    (link.relayed, link.address) = (false, address);
                }
            }
            Fact::LinkEnded {
                peer,
                clean,
                denied,
            } => {
                self.links.remove(&peer);
                if !denied {
                    self.end(peer, clean, peers, now, wishes);
                }
            }
            Fact::DialFailed { peer, end, reason } => {
                self.dial_failed(peer, end, &reason, peers, now, wishes);
            }
            Fact::Silent { peer, denied: true } => wishes.push(cut(peer, "it is denied")),
            Fact::Silent {
                peer,
                denied: false,
            } => {
                // Calls that it holds may still be answered: it can refute.
                wishes.push(Wish::Close(peer));
                suspect(peer, "it fell silent".to_owned(), peers, now, wishes);
            }
            Fact::Lied(peer) => wishes.push(cut(peer, "it lied")),
            // Not what this node hears itself: others may be wrong.
            Fact::Died(peer) if self.is_kept(&peer) => {}
            Fact::Died(peer) => wishes.push(cut(peer, "it is dead")),
            Fact::Found { peer, .. } if peer == self.own => {}
            Fact::Found {
                peer,
                address,
                unix,
            } => self.note_address(peer, &address, unix, peers, now),
            Fact::Forgotten(peer) => self.book.forget(&peer),
        }
    }

    /// Writes down where a member is, and whether that is near.
    fn note_address(&mut self, peer: PeerId, address: &str, unix: u64, peers: &Peers, now: Time) {
        let near = peers.one(&peer, now);
        let near = near.is_some_and(|known| self.is_own_place(&known.report));
        self.book.note(peer, &[address], near, unix);
    }

    /// Whether a report is of this node's own zone, where it is an edge node.
    fn is_own_place(&self, report: &Report) -> bool {
        report.role == Role::Edge && self.home.hears(report, &[])
    }

    /// A link to a member that is wanted has ended.
    fn end(
        &mut self,
        peer: PeerId,
        clean: bool,
        peers: &mut Peers,
        now: Time,
        wishes: &mut Vec<Wish>,
    ) {
        let known = peers.one(&peer, now);
        if known.is_some_and(|known| matches!(known.standing, Standing::Gone { .. })) {
            return;
        }
        let addresses = self.addresses(&peer, peers, now);
        if self.renewing.take_if(|anew| *anew == peer).is_some() {
            // Before the other side does: who dials is who is renewed.
            let peer = Some(peer);
            wishes.push(Wish::Dial { peer, addresses });
            return;
        }
        match addresses.is_empty() {
            _ if clean => {}
            // It cannot be dialled; it would come back by itself.
            true => suspect(peer, "its link broke".to_owned(), peers, now, wishes),
            false => {
                if self.lost.len() < PEERS {
                    self.lost.insert(peer, Lost::default());
                }
                let peer = Some(peer);
                wishes.push(Wish::Dial { peer, addresses });
            }
        }
    }

    fn dial_failed(
        &mut self,
        peer: PeerId,
        end: DialEnd,
        reason: &str,
        peers: &mut Peers,
        now: Time,
        wishes: &mut Vec<Wish>,
    ) {
        if self.links.contains_key(&peer) {
            return;
        }
        let Some(lost) = self.lost.get_mut(&peer) else {
            return;
        };
        let refused = match end {
            DialEnd::Refused => "refused, ",
            DialEnd::Unreached => "",
            DialEnd::Dropped | DialEnd::NotTried if lost.dropped < REDIALS_MAX => {
                lost.dropped = lost.dropped.saturating_add(1);
                // Each draws its own pause by who it is: there is no chance here.
                lost.backoff.tried(now, spread(&peer));
                lost.again = Some(lost.backoff.next());
                return;
            }
            DialEnd::Dropped => "",
            // What this node did not try says nothing of the other.
            DialEnd::TurnedAway | DialEnd::NotTried => {
                self.lost.remove(&peer);
                return;
            }
        };
        self.lost.remove(&peer);
        let why = format!("its link broke and it is not reached: {refused}{reason}");
        suspect(peer, why, peers, now, wishes);
    }

    /// Where a member may be: what it says itself, and what the book knows.
    fn addresses(&self, peer: &PeerId, peers: &Peers, now: Time) -> Vec<String> {
        let known = peers.one(peer, now);
        let said = known
            .as_ref()
            .map(|known| known.report.addresses.as_slice());
        self.all_addresses(peer, said.unwrap_or_default())
    }

    fn all_addresses(&self, peer: &PeerId, said: &[String]) -> Vec<String> {
        let mut addresses = said.to_vec();
        for address in self.book.addresses(peer) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses.truncate(DIALLED_ADDRESSES_MAX);
        addresses
    }
}

/// A number in `0.0..1.0` that differs between members.
fn spread(peer: &PeerId) -> f64 {
    let last = peer.to_bytes().last().copied().unwrap_or_default();
    f64::from(last) / 256.0
}

fn cut(peer: PeerId, why: &'static str) -> Wish {
    Wish::Cut { peer, why }
}

/// Takes a member for dead, unless the table of peers has heard so already.
fn suspect(peer: PeerId, why: String, peers: &mut Peers, now: Time, wishes: &mut Vec<Wish>) {
    let Some(known) = peers.one(&peer, now) else {
        return;
    };
    let epoch = known.report.epoch;
    if peers.suspect(peer, epoch, now) == Suspicion::Noted {
        wishes.push(Wish::Suspect { peer, epoch, why });
    }
}
