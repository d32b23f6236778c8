//! One look at the links: which are to be ended, and which are begun.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::{
    DIALLED_ADDRESSES_MAX, DIALS_PER_LOOK, LINKS, Links, PUNCH_INTERVAL, REGION_LINKS,
    RELAY_INTERVAL, RELAYS, RENEWAL_INTERVAL, SEARCH_INTERVAL, STRAY_INTERVAL, Wish,
};
use crate::peers::{Known, Standing};
use crate::report::Report;
use crate::snapshot::Draws;

/// What a look at the links sees around them.
pub struct Around<'a> {
    /// All that are known, in the order of their ids.
    pub known: &'a [Known],
    /// Regions that this node follows.
    pub regions: &'a [String],
    /// Seconds since 1970.
    pub unix: u64,
    /// Whether this node belongs to a federation yet.
    pub is_member: bool,
    /// Whether others cannot dial this node, and no relay carries to it either.
    pub wants_relay: bool,
    /// For how long this node's certificates are good, where it wants a new one.
    pub wants_renewal: Option<Duration>,
    /// Whether somebody is a member.
    pub belongs: &'a dyn Fn(&PeerId) -> bool,
    /// Whether somebody is denied.
    pub denies: &'a dyn Fn(&PeerId) -> bool,
}

impl Around<'_> {
    fn one(&self, peer: &PeerId) -> Option<&Known> {
        let at = self.known.binary_search_by(|known| known.id.cmp(peer));
        self.known.get(at.ok()?)
    }
}

/// How many links are missing to each place.
struct Missing {
    near: usize,
    regions: BTreeMap<String, usize>,
}

impl Missing {
    fn any(&self) -> bool {
        self.near > 0 || self.regions.values().any(|count| *count > 0)
    }
}

/// What a member is to the links.
enum Tie {
    /// One that is missing.
    Wanted,
    /// One that was lost, or of which nothing was heard yet.
    Stray,
    /// Neither.
    None,
}

impl Links {
    /// Looks after the links at `now`; `chance` is one random number.
    pub fn look(&mut self, around: &Around<'_>, now: Time, chance: u64, wishes: &mut Vec<Wish>) {
        self.looked = Some(now);
        let mut draws = Draws::new(chance);
        self.renew(around, now, &mut draws, wishes);
        for peer in self.links.keys().filter(|peer| !(around.belongs)(peer)) {
            let why = "its membership is over";
            wishes.push(Wish::Cut { peer: *peer, why });
        }
        self.note_all(around);
        self.tell_doubted(around, wishes);
        self.dial_lost(around, now, wishes);
        self.be_relayed(around, now, wishes);
        self.come_closer(around, now, wishes);
        self.dial_named(now, &mut draws, wishes);
        match around.is_member {
            true => self.dial_missing(around, now, &mut draws, wishes),
            false => self.dial_anybody(around, now, &mut draws, wishes),
        }
    }

    /// Links anew, so that the certificate is renewed: whoever can, gives one with
    /// every new link.
    fn renew(&mut self, around: &Around<'_>, now: Time, draws: &mut Draws, wishes: &mut Vec<Wish>) {
        let Some(life) = around.wants_renewal else {
            return;
        };
        let pause = RENEWAL_INTERVAL.min(life.div_f64(8.0));
        if self.renewed.is_some_and(|at| now.since(at) < pause) {
            return;
        }
        self.renewed = Some(now);
        let mut named = self.bootstrap.members.iter().filter_map(|(peer, _)| *peer);
        let inviter = named.find(|peer| self.links.contains_key(peer));
        let any = || {
            let at = drawn(draws, self.links.len());
            self.links.keys().nth(at).copied()
        };
        if let Some(peer) = inviter.or_else(any) {
            self.renewing = Some(peer);
            wishes.push(Wish::Renew(peer));
        }
    }

    /// Takes note where those are that say so themselves.
    fn note_all(&mut self, around: &Around<'_>) {
        for known in around.known {
            let gone = matches!(known.standing, Standing::Gone { .. });
            if !gone {
                let near = self.home.hears(&known.report, around.regions);
                let addresses = &known.report.addresses;
                self.book.note(known.id, addresses, near, around.unix);
            }
        }
    }

    /// Those who are doubted and can be heard begin a new life. They are heard
    /// here: whoever doubts them may be nobody that they know.
    fn tell_doubted(&self, around: &Around<'_>, wishes: &mut Vec<Wish>) {
        for known in self.kept().filter_map(|peer| around.one(&peer)) {
            let doubted = matches!(
                known.standing,
                Standing::Suspected { .. } | Standing::Gone { left: false, .. }
            );
            if doubted {
                wishes.push(Wish::Tell {
                    peer: known.id,
                    epoch: known.report.epoch,
                });
            }
        }
    }

    /// Dials those again whose redial was ended without a word.
    fn dial_lost(&mut self, around: &Around<'_>, now: Time, wishes: &mut Vec<Wish>) {
        let due = self.lost.iter_mut().filter_map(|(peer, lost)| {
            lost.again.take_if(|again| *again <= now)?;
            Some(*peer)
        });
        for peer in due.collect::<Vec<PeerId>>() {
            let addresses = self.addresses_around(&peer, around);
            let peer = Some(peer);
            wishes.push(Wish::Dial { peer, addresses });
        }
    }

    /// Asks members to carry connections to this node, where it needs that.
    fn be_relayed(&mut self, around: &Around<'_>, now: Time, wishes: &mut Vec<Wish>) {
        let asked = self
            .asked_relay
            .is_some_and(|at| now.since(at) < RELAY_INTERVAL);
        if asked || !around.wants_relay {
            return;
        }
        let direct = self
            .links
            .iter()
            .filter(|(_, link)| link.kept && !link.relayed);
        for (peer, link) in direct.take(RELAYS) {
            self.asked_relay = Some(now);
            let address = link.address.clone();
            wishes.push(Wish::RelayOver {
                peer: *peer,
                address,
            });
        }
    }

    /// Tries again to come closer to those who are linked over a relay.
    fn come_closer(&mut self, around: &Around<'_>, now: Time, wishes: &mut Vec<Wish>) {
        if now.since(self.punched) < PUNCH_INTERVAL {
            return;
        }
        self.punched = now;
        let relayed = self
            .links
            .iter()
            .filter(|(_, link)| link.kept && link.relayed);
        // One side of the two.
        let peers = relayed
            .map(|(peer, _)| *peer)
            .filter(|peer| self.own < *peer);
        for peer in peers.take(DIALS_PER_LOOK) {
            let mut over = self.addresses_around(&peer, around);
            over.retain(|address| address.contains("p2p-circuit"));
            if !over.is_empty() {
                wishes.push(Wish::Punch { peer, over });
            }
        }
    }

    /// Dials those that settings and invite name, with pauses, for ever.
    fn dial_named(&mut self, now: Time, draws: &mut Draws, wishes: &mut Vec<Wish>) {
        let linked = |peer: &Option<PeerId>| peer.is_some_and(|p| self.links.contains_key(&p));
        let members = self.bootstrap.members.iter();
        let mut missing = members.filter(|(peer, _)| !linked(peer)).peekable();
        if missing.peek().is_none() {
            self.bootstrap.backoff.succeeded();
            return;
        }
        if !self.bootstrap.backoff.is_due(now) {
            return;
        }
        // One dial for all addresses of a member: a second one would be dropped
        // while the first is under way.
        let mut by_peer: BTreeMap<Option<PeerId>, Vec<String>> = BTreeMap::new();
        for (peer, address) in missing.take(DIALLED_ADDRESSES_MAX) {
            by_peer.entry(*peer).or_default().push(address.clone());
        }
        let dials = by_peer.into_iter();
        wishes.extend(dials.map(|(peer, addresses)| Wish::Dial { peer, addresses }));
        // The same pauses as for everybody else, together for all of them.
        let chance = draws.next().unwrap_or_default();
        self.bootstrap.backoff.tried(now, chance);
    }

    /// Whoever was found on the network may be who made the token.
    fn dial_anybody(
        &mut self,
        around: &Around<'_>,
        now: Time,
        draws: &mut Draws,
        wishes: &mut Vec<Wish>,
    ) {
        let mut found = self.book.due(now);
        found.retain(|peer| *peer != self.own && !self.links.contains_key(peer));
        for at in 0..found.len().min(DIALS_PER_LOOK) {
            let peer = next_drawn(&mut found, at, draws);
            self.dial(peer, around, now, draws, wishes);
        }
    }

    /// Dials some of those to whom a link is missing, and now and then a stray.
    fn dial_missing(
        &mut self,
        around: &Around<'_>,
        now: Time,
        draws: &mut Draws,
        wishes: &mut Vec<Wish>,
    ) {
        let kept = self.kept().count();
        let few = (1..LINKS / 2).contains(&kept);
        if few && now.since(self.searched) >= SEARCH_INTERVAL {
            self.searched = now;
            wishes.push(Wish::Ask);
        }
        let mut missing = self.missing(around);
        let strays = now.since(self.strayed) >= STRAY_INTERVAL;
        if !missing.any() && !strays {
            return;
        }
        let mut due = self.book.due(now);
        due.retain(|peer| *peer != self.own && !self.is_kept(peer) && !(around.denies)(peer));
        let mut dials = 0;
        for at in 0..due.len() {
            if dials == DIALS_PER_LOOK {
                return;
            }
            let peer = next_drawn(&mut due, at, draws);
            match self.tie(around.one(&peer), &mut missing, around) {
                Tie::Wanted => {}
                Tie::Stray if strays => self.strayed = now,
                Tie::Stray | Tie::None => continue,
            }
            dials = dials.saturating_add(1);
            self.dial(peer, around, now, draws, wishes);
        }
    }

    fn missing(&self, around: &Around<'_>) -> Missing {
        let count = |is: &dyn Fn(&Report) -> bool| {
            let known = self.kept().filter_map(|peer| around.one(&peer));
            known.filter(|known| is(&known.report)).count()
        };
        let near = count(&|report| self.is_near(report, around));
        let regions = around.regions.iter().map(|region| {
            let there = count(&|report| report.region.as_ref() == Some(region));
            (region.clone(), REGION_LINKS.saturating_sub(there))
        });
        Missing {
            near: LINKS.saturating_sub(near),
            regions: regions.collect(),
        }
    }

    /// Whether a report is of this node's own zone or region.
    fn is_near(&self, report: &Report, around: &Around<'_>) -> bool {
        report.role == self.home.role && self.home.hears(report, around.regions)
    }

    /// What a member is to the links; one of those that are missing is taken.
    fn tie(&self, known: Option<&Known>, missing: &mut Missing, around: &Around<'_>) -> Tie {
        let Some(known) = known else {
            // Nobody knows where it belongs until it is asked.
            return match missing.any() {
                true => Tie::Wanted,
                false => Tie::Stray,
            };
        };
        let dead = match known.standing {
            Standing::Gone { left, .. } => !left,
            Standing::In | Standing::Suspected { .. } | Standing::Out { .. } => false,
        };
        let left = matches!(known.standing, Standing::Gone { left: true, .. });
        let report = &known.report;
        let place = match self.is_near(report, around) {
            true => Some(&mut missing.near),
            false => {
                let region = report.region.as_ref();
                region.and_then(|region| missing.regions.get_mut(region))
            }
        };
        match place {
            Some(count) if !left && *count > 0 => {
                *count = count.saturating_sub(1);
                Tie::Wanted
            }
            Some(_) | None if dead => Tie::Stray,
            Some(_) | None => Tie::None,
        }
    }

    fn dial(
        &mut self,
        peer: PeerId,
        around: &Around<'_>,
        now: Time,
        draws: &mut Draws,
        wishes: &mut Vec<Wish>,
    ) {
        let chance = draws.next().unwrap_or_default();
        self.book.dialled(&peer, now, chance);
        let addresses = self.addresses_around(&peer, around);
        let peer = Some(peer);
        wishes.push(Wish::Dial { peer, addresses });
    }

    fn addresses_around(&self, peer: &PeerId, around: &Around<'_>) -> Vec<String> {
        let said = around.one(peer);
        let said = said.map_or(&[][..], |known| known.report.addresses.as_slice());
        self.all_addresses(peer, said)
    }
}

/// One of so many places.
fn drawn(draws: &mut Draws, count: usize) -> usize {
    let drawn = draws.next().unwrap_or_default() * count as f64;
    (drawn as usize).min(count.saturating_sub(1))
}

/// One of `peers` from the place `at` on, drawn and moved there. D. Knuth, "The
/// Art of Computer Programming", volume 2, algorithm 3.4.2P.
fn next_drawn(peers: &mut [PeerId], at: usize, draws: &mut Draws) -> PeerId {
    let rest = peers.len().saturating_sub(at);
    peers.swap(at, at.saturating_add(drawn(draws, rest)));
    peers[at]
}
