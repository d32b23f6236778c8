//! The loop that looks after a node's place in its federation: what it says of
//! itself, the links that it keeps, and what becomes of those who fall silent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use libp2p_identity::PeerId;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use weir_node::Node;
use weir_node::function::Scope;
use weir_node::time::Time;
use weir_overlay::{Event as Happening, Host, Multiaddr, Overlay};

use super::{AWAY, EVERYBODY, FORGOTTEN, Federated, Link, Linked, Shared, lock, topics};
use crate::book::Book;
use crate::member::{save, unix_time};
use crate::message::{self, Message, Suspicion as Suspecting};
use crate::peers::{Event, Fault, Known, Met, Standing, Suspicion};
use crate::regions;
use crate::replication;
use crate::report::{ADDRESSES, OFFERS, Offer, Report};
use crate::roster::{Comparison, Roster, Rounds};
use weir_federation_core::reporting::{Reporting, Say};

/// Links that a node keeps to its own zone or region, at the least: with those
/// that others keep to it, twice as many.
const LINKS: usize = 5;

/// Links that it keeps to each region that it spills to.
const REGION_LINKS: usize = 2;

/// Members that carry connections to a node that needs it.
const RELAYS: usize = 2;

/// Addresses of this node of which is kept whether others reach them.
const TESTED: usize = 64;

/// How often a node tries to be linked directly to those whom it reaches over a
/// relay.
const PUNCH: Duration = Duration::from_secs(20);

/// Links that one look around begins.
const DIALS: usize = 4;

/// How often a node with few links asks those that it has for more members.
const SEARCH: Duration = Duration::from_secs(60);

/// How often a node compares what it knows of functions with one of its links.
const COMPARE: Duration = Duration::from_secs(20);

/// Rosters of one link that are heard between two looks: a comparison takes two
/// at the most, and each side may begin one.
const ROSTERS_PER_LOOK: u32 = 4;

/// How often links are looked after.
const LOOK: Duration = Duration::from_millis(500);

/// How often time passes in the table.
const TICK: Duration = Duration::from_millis(100);

/// How often a node that was lost, or that nobody links to, is tried though
/// there are links enough: a healed partition has to be found.
const STRAY: Duration = Duration::from_secs(5);

/// A view is made at most so often.
const VIEW: Duration = Duration::from_millis(10);

/// How often a node asks for a new certificate, once it wants one.
const RENEWAL: Duration = Duration::from_secs(10);

/// How often the address book is written, if it changed.
const BOOK: Duration = Duration::from_secs(2);

/// How often it is written down that others were heard.
const CONTACT: Duration = Duration::from_secs(60);

/// The loop that looks after everything.
pub(super) struct Keeper {
    federated: Federated,
    node: Node,
    book: Book,
    /// Members named by invite and settings; dialled for ever.
    bootstrap: Vec<(Option<PeerId>, Multiaddr)>,
    bootstrap_next: Time,
    bootstrap_failures: u32,
    /// Links that were lost and are being dialled again.
    lost: BTreeSet<PeerId>,
    listening: BTreeSet<String>,
    last_relay: Time,
    last_punch: Time,
    /// When this node says how it is.
    reporting: Reporting,
    sequence: u64,
    /// The certificate that others know.
    introduced: Option<Vec<u8>>,
    last_look: Time,
    last_stray: Time,
    last_search: Time,
    last_compared: Time,
    /// When members are compared.
    rounds: Rounds,
    /// Rosters that came since the last look around, by who told them.
    heard_rosters: BTreeMap<PeerId, u32>,
    last_book: Time,
    last_contact: Option<Time>,
    last_view: Time,
    last_renewal: Time,
    /// Whom this node connects to anew.
    renewing: Option<PeerId>,
    view_due: bool,
}

impl Keeper {
    pub(super) fn new(federated: Federated, node: Node) -> Keeper {
        let settings = federated.settings();
        let invited = settings.join.iter().flat_map(|t| &t.invite().bootstrap);
        let invited = invited.filter_map(|text| text.parse().ok());
        let named = settings.peers.iter().cloned().chain(invited);
        let bootstrap = named.map(|address| (peer_in(&address), address));
        let bootstrap = bootstrap.filter(|(peer, _)| *peer != Some(federated.shared.id));
        let now = federated.shared.clock.now();
        Keeper {
            book: Book::open(settings.folder.join("addresses")),
            bootstrap: bootstrap.collect(),
            bootstrap_next: Time::ZERO,
            bootstrap_failures: 0,
            lost: BTreeSet::new(),
            listening: BTreeSet::new(),
            last_relay: Time::ZERO,
            last_punch: now,
            reporting: Reporting::new(now),
            sequence: 0,
            introduced: None,
            last_look: Time::ZERO,
            last_stray: now,
            last_search: now,
            last_compared: now,
            rounds: Rounds::new(now),
            heard_rosters: BTreeMap::new(),
            last_book: now,
            last_contact: None,
            last_view: Time::ZERO,
            last_renewal: Time::ZERO,
            renewing: None,
            view_due: true,
            federated,
            node,
        }
    }

    fn shared(&self) -> &Shared {
        &self.federated.shared
    }

    fn overlay(&self) -> &Overlay {
        &self.federated.overlay
    }

    pub(super) async fn run(
        mut self,
        mut happened: mpsc::Receiver<Happening>,
        mut rosters: mpsc::Receiver<(PeerId, Roster)>,
    ) {
        let shared = self.federated.shared.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.look_around(shared.clock.now());
        let node = self.node.clone();
        loop {
            let look = self.reporting.next_look();
            let look_at = look.and_then(|look| shared.clock.instant(look));
            let look_due = async move {
                match look_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = happened.recv() => match event {
                    Some(event) => self.see(event),
                    None => return,
                },
                Some((from, roster)) = rosters.recv() => self.hear_roster(from, &roster),
                () = shared.stale.notified() => self.view_due = true,
                () = shared.speak.notified() => {
                    let now = shared.clock.now();
                    self.report(now, true);
                    self.say_to_links();
                }
                // Under load the node changes all the time: who looks soon
                // need not be woken.
                () = node.changed(), if look.is_none() => {
                    self.reporting.changed(shared.clock.now());
                }
                () = look_due => self.look_at_itself(),
                _ = tick.tick() => self.tick(),
            }
            let now = shared.clock.now();
            if self.view_due && now.since(self.last_view) >= VIEW {
                self.make_view(now);
            }
        }
    }

    fn make_view(&mut self, now: Time) {
        (self.view_due, self.last_view) = (false, now);
        let shared = self.shared();
        let own = lock(&shared.own).clone();
        let view = lock(&shared.table).view(&own, now);
        let view = match shared.member.denies_nobody() {
            true => view,
            false => view.without(&own, |peer| shared.member.is_denied(peer)),
        };
        shared.view.store(Arc::new(view));
        shared.viewed.notify_waiters();
    }

    fn tick(&mut self) {
        let now = self.shared().clock.now();
        let events = lock(&self.shared().table).tick(now);
        for event in events {
            self.view_due = true;
            match event {
                Event::Died(peer) => {
                    info!(%peer, "a member is dead");
                    let counters = &self.shared().counters;
                    counters.deaths.fetch_add(1, Ordering::Relaxed);
                    self.shared().members_changed.notify_one();
                    // Not what this node hears itself: others may be wrong.
                    if !self.shared().is_kept(&peer) {
                        self.federated.cut(peer);
                    }
                    // Should it come back, it is introduced to whoever links.
                    if let Some(said) = lock(&self.shared().said).get_mut(&peer) {
                        said.report = None;
                    }
                }
                Event::Silent(peer) => warn!(%peer, "nothing was heard of a member for long"),
                Event::Forgotten(peer) => {
                    self.federated.carriage.cut(&peer);
                    self.shared().round_trips.remove(&peer);
                    lock(&self.shared().said).remove(&peer);
                }
            }
        }
        // One that is out becomes a candidate again by time alone.
        self.view_due |= now.since(self.last_view) >= Duration::from_millis(250);
        let heard = self.shared().reports_near.load(Ordering::Relaxed);
        self.reporting.hears(heard, now);
        if self.reporting.is_look_due(now) {
            self.look_at_itself();
        }
        if now.since(self.last_look) >= LOOK {
            self.last_look = now;
            self.look_around(now);
        }
        // Who knows few may be cut off by losing one of them.
        if self.book.is_small() {
            self.book.save();
        }
        if now.since(self.last_book) >= BOOK {
            self.last_book = now;
            self.book.save();
            self.save_forgotten();
            self.learn_distances();
            if self.shared().links.iter().any(|link| link.kept) {
                self.note_contact(now);
            }
        }
    }

    /// Keeps since when there was always a link.
    fn note_links(&self) {
        let shared = self.shared();
        let is_linked = shared.links.iter().any(|link| link.kept);
        let mut linked = lock(&shared.linked);
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

    fn save_forgotten(&self) {
        let shared = self.shared();
        let unsaved = lock(&shared.forgotten).unsaved();
        let Some(bytes) = unsaved else { return };
        if let Err(error) = save(&shared.settings.folder.join(FORGOTTEN), &bytes) {
            warn!(%error, "who was forgotten is not kept over a restart");
            lock(&shared.forgotten).not_saved();
        }
    }

    /// Keeps when this node heard of others last.
    fn note_contact(&mut self, now: Time) {
        let since = self.last_contact.map(|last| now.since(last));
        if since.is_some_and(|since| since < CONTACT) {
            return;
        }
        self.last_contact = Some(now);
        if since.is_some_and(|since| since > AWAY) {
            warn!(
                "this node heard of nobody for more than seven days: its functions are its own \
                 until somebody announces them anew (weir list --federation, weir announce)"
            );
            self.shared().forget_functions();
        }
        replication::note_contact(&self.shared().settings.folder);
    }

    /// Says how the node is if that has changed and may be said; else looks
    /// again when it may.
    fn look_at_itself(&mut self) {
        let began = self.shared().clock.now();
        self.reporting.looks();
        self.report(began, false);
        let now = self.shared().clock.now();
        self.reporting.has_looked(began, now);
    }

    /// Nodes that share the zone or region, this one included.
    fn neighbours(&self) -> usize {
        let shared = self.shared();
        let view = shared.view.load();
        let near = |report: &&Report| report.role == shared.role && shared.is_near(report);
        view.peers.iter().map(|p| &*p.report).filter(near).count() + 1
    }

    // What this node says of itself.

    fn current_report(&self) -> Report {
        let shared = self.shared();
        let functions = self.node.function_capabilities(OFFERS);
        let draining = shared.draining.load(Ordering::Relaxed);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let told = functions.iter().filter(|f| f.spec.scope != Scope::Node);
        let offers = told.map(|f| Offer {
            function: f.spec.name.qualified(),
            warm: f.places.warm,
            startable: f.places.startable,
            full: f.full,
            running: f.running,
            service_micros: micros(f.service.mean),
            start_micros: micros(f.start),
        });
        let load = self.federated.load(&self.node, None);
        let own = lock(&shared.own);
        let executors = self.node.executors();
        let mut report = Report {
            executors: executors.into_iter().map(str::to_owned).collect(),
            draining,
            forgotten: lock(&shared.forgotten).own(),
            load,
            abilities: self.node.ability_changes(),
            coordinate: *lock(&shared.coordinate),
            offers: offers.collect(),
            ..own.clone()
        };
        drop(own);
        report.clamp();
        report
    }

    fn report(&mut self, now: Time, at_once: bool) {
        if !self.shared().member.is_member() {
            return;
        }
        let mut report = self.current_report();
        let neighbours = self.neighbours();
        let shared = self.federated.shared.clone();
        let others = || has_others(&shared);
        let say = self
            .reporting
            .consider(&report, neighbours, others, at_once, now);
        let Say::Now { brief } = say else {
            return;
        };
        self.introduce(now);
        self.say(&mut report, false);
        if brief {
            let mut short = Report {
                brief: true,
                offers: Vec::new(),
                ..report.clone()
            };
            self.say(&mut short, true);
        }
        self.reporting.has_said(report);
        let counters = &self.shared().counters;
        counters.reports.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells each link directly what was just said, where that matters.
    fn say_to_links(&self) {
        let shared = self.shared();
        if !shared.aloud.swap(false, Ordering::Relaxed) {
            return;
        }
        let said = lock(&shared.said)
            .get(&shared.id)
            .and_then(|s| s.report.clone());
        let Some(report) = said else {
            return;
        };
        let links: Vec<PeerId> = shared.links.iter().map(|link| *link.key()).collect();
        for link in links {
            self.overlay().tell(link, vec![report.clone()]);
        }
    }

    fn introduce(&mut self, now: Time) {
        let Some(certificate) = self.shared().member.certificate() else {
            return;
        };
        let is_new = self.introduced.as_ref() != Some(&certificate);
        if !self.reporting.introduces(is_new, now) {
            return;
        }
        self.introduced = Some(certificate.clone());
        match message::seal(&Message::Introduction(certificate), &self.shared().key) {
            Ok(sealed) => self.overlay().publish(EVERYBODY, sealed.into()),
            Err(error) => warn!(%error, "an introduction cannot be sent"),
        }
    }

    fn say(&mut self, report: &mut Report, everybody: bool) {
        let shared = self.federated.shared.clone();
        self.sequence += 1;
        report.epoch = {
            let mut table = lock(&shared.table);
            table.said(self.sequence);
            table.epoch()
        };
        report.sequence = self.sequence;
        // Others would refuse it, and take this node for silent.
        let wrong = report.check().err().map(|wrong| wrong.to_string());
        if let Some(wrong) = &wrong {
            warn!(%wrong, "this node's own report is not sent");
        }
        lock(&shared.unsaid).clone_from(&wrong);
        if wrong.is_some() {
            return;
        }
        let sealed = match message::seal(&Message::Report(Box::new(report.clone())), &shared.key) {
            Ok(sealed) => Bytes::from(sealed),
            Err(error) => {
                warn!(%error, "this node cannot say how it is");
                return;
            }
        };
        let topic = match everybody {
            true => EVERYBODY.to_owned(),
            false => shared.topic(),
        };
        self.overlay().publish(&topic, sealed.clone());
        if !everybody {
            lock(&shared.said).entry(shared.id).or_default().report = Some((topic, sealed));
            *lock(&shared.own) = report.clone();
        }
    }

    fn learn_distances(&mut self) {
        let shared = self.federated.shared.clone();
        let known = lock(&shared.table).known(shared.clock.now());
        let mut coordinate = lock(&shared.coordinate);
        for known in known {
            if let Some(took) = shared.round_trips.get(&known.id) {
                coordinate.learn(&known.report.coordinate, *took, rand::random());
            }
        }
    }

    // Links.

    fn see(&mut self, event: Happening) {
        match event {
            Happening::Listening(address) => self.listen_address(&address),
            Happening::LinkUp {
                peer,
                address,
                dialled,
                relayed,
            } => self.link_up(peer, &address, dialled, relayed),
            Happening::Kept(peer) => {
                if let Some(mut link) = self.shared().links.get_mut(&peer) {
                    link.kept = true;
                }
                self.note_links();
                let now = self.shared().clock.now();
                lock(&self.shared().table).linked(&peer, now);
                self.overlay().tell(peer, self.shared().news_for(peer));
                self.federated.tell_summary(peer, true);
                self.be_relayed(self.shared().clock.now());
            }
            Happening::LinkedAgain(peer) => {
                self.shared().twice.insert(peer, ());
                self.shared().behind.insert(peer, ());
            }
            Happening::Closer { peer, address } => {
                if let Some(mut link) = self.shared().links.get_mut(&peer) {
                    (link.relayed, link.address) = (false, address);
                }
            }
            Happening::LinkDown { peer, clean } => self.link_down(peer, clean),
            Happening::Silent(peer) => {
                if self.shared().member.is_denied(&peer) {
                    self.federated.cut(peer);
                    return;
                }
                // Calls that it holds may still be answered: it can refute.
                self.overlay().disconnect(peer);
                self.federated.carriage.close(&peer);
                self.view_due = true;
                self.suspect(peer, "it fell silent");
            }
            Happening::Unanswered(peer) => {
                info!(%peer, "a member has calls and does not answer");
                self.federated.met(peer, Met::Failure(Fault::Unreachable));
            }
            Happening::DialFailed {
                peer,
                refused,
                reason,
            } => self.dial_failed(peer, refused, &reason),
            Happening::Lied(peer) => {
                self.shared().shun(peer);
                self.federated.cut(peer);
            }
            Happening::Tested { address, reachable } => self.tested(&address, reachable),
            Happening::Found { peer, address } if address.is_empty() => self.book.forget(&peer),
            Happening::Found { peer, address } => {
                if peer != self.shared().id {
                    self.book.note(peer, &[address], unix_time());
                }
            }
            Happening::RoundTrip { .. } | Happening::Refused { .. } => {}
        }
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
        let mut own = lock(&self.shared().own);
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

    fn link_up(&mut self, peer: PeerId, address: &Multiaddr, dialled: bool, relayed: bool) {
        debug!(%peer, %address, "linked");
        self.lost.remove(&peer);
        if dialled {
            self.book
                .note(peer, std::slice::from_ref(address), unix_time());
        }
        self.book.reached(&peer);
        let shared = self.federated.shared.clone();
        let address = address.clone();
        let link = Link {
            relayed,
            kept: false,
            address,
        };
        shared.links.insert(peer, link);
        // The first link may be what made this node a member.
        if self.reporting.published().is_none() {
            self.report(shared.clock.now(), true);
        }
    }

    /// Tries again to come closer to those who are linked over a relay.
    fn come_closer(&mut self, now: Time) {
        if now.since(self.last_punch) < PUNCH {
            return;
        }
        self.last_punch = now;
        let shared = self.shared();
        let relayed = shared.links.iter().filter(|link| link.kept && link.relayed);
        // One side of the two.
        let peers: Vec<PeerId> = relayed
            .map(|link| *link.key())
            .filter(|peer| shared.id < *peer)
            .take(DIALS)
            .collect();
        for peer in peers {
            let mut over = self.addresses(&peer);
            over.retain(|address| address.to_string().contains("p2p-circuit"));
            if !over.is_empty() {
                self.overlay().punch(peer, over);
            }
        }
    }

    /// Takes what another member found when it dialled an address of this node.
    fn tested(&mut self, address: &Multiaddr, reachable: bool) {
        info!(%address, reachable, "a member tried whether this node can be dialled");
        let mut tested = lock(&self.shared().tested);
        let address = address.to_string();
        if tested.len() < TESTED || tested.contains_key(&address) {
            tested.insert(address, reachable);
        }
    }

    /// Whether this node is told, or was found, to be out of reach.
    fn is_hidden(&self) -> bool {
        let tested = lock(&self.shared().tested);
        let unreachable = !tested.is_empty() && tested.values().all(|reachable| !reachable);
        self.shared().settings.relayed || unreachable
    }

    /// Asks members to carry connections to this node, where it needs that and
    /// none does.
    fn be_relayed(&mut self, now: Time) {
        let shared = self.federated.shared.clone();
        let carried = self
            .listening
            .iter()
            .any(|text| text.contains("p2p-circuit"));
        let asked = self.last_relay != Time::ZERO && now.since(self.last_relay) < STRAY;
        if carried || asked || !self.is_hidden() {
            return;
        }
        let direct = |link: &Link| link.kept && !link.relayed;
        let links = shared.links.iter().filter(|link| direct(link.value()));
        let links: Vec<(PeerId, Multiaddr)> = links
            .map(|link| (*link.key(), link.address.clone()))
            .take(RELAYS)
            .collect();
        for (peer, address) in links {
            self.last_relay = now;
            let via = address.with_p2p(peer).unwrap_or_else(|same| same);
            self.overlay().listen_via(via);
        }
    }

    fn link_down(&mut self, peer: PeerId, clean: bool) {
        debug!(%peer, clean, "a link ended");
        let shared = self.federated.shared.clone();
        shared.links.remove(&peer);
        self.note_links();
        shared.twice.remove(&peer);
        shared.round_trips.remove(&peer);
        if shared.member.is_denied(&peer) {
            return;
        }
        let known = lock(&shared.table).one(&peer, shared.clock.now());
        if known.is_some_and(|known| matches!(known.standing, Standing::Gone { .. })) {
            return;
        }
        let addresses = self.addresses(&peer);
        if self
            .renewing
            .take_if(|renewing| *renewing == peer)
            .is_some()
        {
            // Before the other side does: who dials is who is renewed.
            self.dial(Some(peer), addresses);
            return;
        }
        match addresses.is_empty() {
            _ if clean => {}
            // It cannot be dialled; it would come back by itself.
            true => self.suspect(peer, "its link broke"),
            false => {
                self.lost.insert(peer);
                self.dial(Some(peer), addresses);
            }
        }
    }

    /// Dials a member, unless this node has left them all.
    fn dial(&self, peer: Option<PeerId>, addresses: Vec<Multiaddr>) {
        if !self.shared().member.has_left() {
            self.overlay().dial(peer, addresses);
        }
    }

    fn dial_failed(&mut self, peer: Option<PeerId>, refused: bool, reason: &str) {
        debug!(?peer, reason, "a member cannot be linked to");
        let Some(peer) = peer else {
            return;
        };
        if self.shared().links.contains_key(&peer) {
            return;
        }
        if self.lost.remove(&peer) {
            let what = if refused { "refused, " } else { "" };
            self.suspect(
                peer,
                &format!("its link broke and it is not reached: {what}{reason}"),
            );
        }
    }

    /// Says to all that a member seems to be dead.
    fn suspect(&mut self, peer: PeerId, why: &str) {
        let shared = self.federated.shared.clone();
        let now = shared.clock.now();
        let epoch = {
            let mut table = lock(&shared.table);
            let Some(known) = table.one(&peer, now) else {
                return;
            };
            let epoch = known.report.epoch;
            if table.suspect(peer, epoch, now) != Suspicion::Noted {
                return;
            }
            epoch
        };
        info!(%peer, why, "suspects a member");
        shared.counters.suspicions.fetch_add(1, Ordering::Relaxed);
        let suspicion = Suspecting::new(peer, epoch);
        shared.publish(self.overlay(), &Message::Suspicion(suspicion));
        self.view_due = true;
    }

    /// Where a peer may be: what it says itself, and what the book knows.
    fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let mut addresses = Host::addresses(self.shared(), *peer);
        for address in self.book.addresses(peer) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(2 * ADDRESSES);
        addresses
    }

    fn look_around(&mut self, now: Time) {
        let shared = self.federated.shared.clone();
        self.renew(now);
        for link in shared
            .links
            .iter()
            .map(|link| *link.key())
            .collect::<Vec<_>>()
        {
            if shared.member.rights(&link).is_none() {
                info!(peer = %link, "cut a link: its membership is over");
                self.federated.cut(link);
            }
        }
        let known = lock(&shared.table).known(now);
        for known in &known {
            let addresses = known.report.addresses.iter();
            let addresses: Vec<Multiaddr> = addresses.filter_map(|a| a.parse().ok()).collect();
            if !addresses.is_empty() && !matches!(known.standing, Standing::Gone { .. }) {
                self.book.note(known.id, &addresses, unix_time());
            }
        }
        self.follow_regions(&known);
        self.introduce(now);
        self.catch_up(&known);
        self.compare_members(&known, now);
        // Whoever is of another place has heard nothing of this node yet.
        if !self.reporting.has_briefed()
            && self.reporting.published().is_some()
            && has_others(&shared)
        {
            self.report(now, true);
        }
        self.be_relayed(now);
        self.come_closer(now);
        self.bootstrap(now);
        self.compare(now);
        if !shared.member.is_member() {
            // Whoever was found on the network may be who made the token.
            let mut found = self.book.due(now);
            found.retain(|peer| *peer != shared.id && !shared.links.contains_key(peer));
            shuffle(&mut found);
            for peer in found.into_iter().take(DIALS) {
                self.book.dialled(&peer, now, rand::random());
                self.dial(Some(peer), self.addresses(&peer));
            }
            return;
        }
        let reports: HashMap<PeerId, &Known> = known.iter().map(|k| (k.id, k)).collect();
        let mut wanted = LINKS.saturating_sub(self.links_where(&reports, |report| {
            report.role == shared.role && shared.is_near(report)
        }));
        let followed = shared.regions.load_full();
        let mut regions: BTreeMap<String, usize> = followed
            .iter()
            .map(|region| {
                let there = self.links_where(&reports, |r| r.region.as_ref() == Some(region));
                (region.clone(), REGION_LINKS.saturating_sub(there))
            })
            .collect();
        let mut due = self.book.due(now);
        due.retain(|peer| {
            *peer != shared.id && !shared.is_kept(peer) && !shared.member.is_denied(peer)
        });
        shuffle(&mut due);
        let links = shared.links.iter().filter(|link| link.kept).count();
        if (1..LINKS / 2).contains(&links) && now.since(self.last_search) >= SEARCH {
            self.last_search = now;
            self.overlay().find(shared.id);
        }
        let stray = now.since(self.last_stray) >= STRAY;
        let mut dials = 0;
        for peer in due {
            if dials == DIALS {
                break;
            }
            let report = reports.get(&peer).map(|known| &known.report);
            let left = reports
                .get(&peer)
                .is_some_and(|k| matches!(k.standing, Standing::Gone { left: true, .. }));
            let wants = match report {
                Some(_) if left => false,
                Some(r) if r.role == shared.role && shared.is_near(r) => take_one(&mut wanted),
                Some(r) => r
                    .region
                    .as_ref()
                    .and_then(|region| regions.get_mut(region))
                    .is_some_and(take_one),
                // Nobody knows where it belongs until it is asked.
                None => wanted > 0 || regions.values().any(|n| *n > 0),
            };
            let lost = report.is_none()
                || reports
                    .get(&peer)
                    .is_some_and(|k| matches!(k.standing, Standing::Gone { left: false, .. }));
            let tries = wants || (stray && lost);
            if !tries {
                continue;
            }
            if !wants {
                self.last_stray = now;
            }
            dials += 1;
            self.book.dialled(&peer, now, rand::random());
            let addresses = self.addresses(&peer);
            self.dial(Some(peer), addresses);
        }
    }

    /// Tells those who are doubted and can be heard, so that they begin a new
    /// life; and those who speak from an earlier life what they said since: their
    /// clock went back, or they are two.
    fn catch_up(&self, known: &[Known]) {
        let shared = self.shared();
        for known in known.iter().filter(|known| shared.is_kept(&known.id)) {
            let doubted = matches!(
                known.standing,
                Standing::Suspected { .. } | Standing::Gone { left: false, .. }
            );
            // It is heard here: whoever doubts it may be nobody that it knows.
            if doubted {
                let suspicion = Suspecting::new(known.id, known.report.epoch);
                let suspicion = Message::Suspicion(suspicion);
                if let Ok(sealed) = message::seal(&suspicion, &shared.key) {
                    self.overlay()
                        .tell(known.id, vec![(shared.topic(), sealed.into())]);
                }
            }
        }
        let behind: Vec<PeerId> = shared.behind.iter().map(|peer| *peer.key()).collect();
        shared.behind.clear();
        for peer in behind {
            let said = lock(&shared.said).get(&peer).and_then(|s| s.report.clone());
            if let Some(report) = said.filter(|_| shared.links.contains_key(&peer)) {
                self.overlay().tell(peer, vec![report]);
            }
        }
    }

    /// Follows the nearest regions that are heard of, where none is named.
    fn follow_regions(&mut self, known: &[Known]) {
        let shared = self.federated.shared.clone();
        if !shared.settings.follows_regions {
            return;
        }
        let own = *lock(&shared.coordinate);
        let mut heard: BTreeMap<String, Duration> = BTreeMap::new();
        for known in known {
            let gone = known.silent || matches!(known.standing, Standing::Gone { .. });
            let Some(region) = known.report.region.as_ref().filter(|_| !gone) else {
                continue;
            };
            let measured = shared.round_trips.get(&known.id).map(|took| *took);
            let away = measured.unwrap_or_else(|| own.distance(&known.report.coordinate));
            let nearest = heard.entry(region.clone()).or_insert(away);
            *nearest = away.min(*nearest);
        }
        let followed = shared.regions.load();
        let nearest = regions::nearest(&heard, &followed);
        if **followed == nearest {
            return;
        }
        info!(regions = nearest.join(", "), "follows the nearest regions");
        let listens = topics(&shared.settings, &nearest, shared.role);
        shared.regions.store(Arc::new(nearest));
        self.overlay().listen_to(listens);
        self.view_due = true;
    }

    /// Compares who is known with one link now and then: gossip may have missed
    /// some, and news that is told on a new link what came meanwhile.
    fn compare_members(&mut self, known: &[Known], now: Time) {
        self.heard_rosters.clear();
        let shared = self.federated.shared.clone();
        if !shared.member.is_member() {
            return;
        }
        if shared.missed.swap(false, Ordering::Relaxed) {
            self.rounds.hurry(now);
        }
        let own = Roster::brief(&shared.roster(known));
        if !self.rounds.is_due(&own, now) {
            return;
        }
        let kept = shared.links.iter().filter(|link| link.kept);
        let mut links: Vec<PeerId> = kept.map(|link| *link.key()).collect();
        shuffle(&mut links);
        if let Some(peer) = links.first() {
            self.tell_roster(*peer, own);
        }
    }

    fn tell_roster(&self, to: PeerId, roster: Roster) {
        if let Ok(sealed) = message::seal(&Message::Roster(roster), &self.shared().key) {
            let told = (EVERYBODY.to_owned(), Bytes::from(sealed));
            self.overlay().tell(to, vec![told]);
        }
    }

    /// Tells a link what it lacks of those who are known here, and asks for what
    /// it knows more.
    fn hear_roster(&mut self, from: PeerId, roster: &Roster) {
        let shared = self.federated.shared.clone();
        let count = self.heard_rosters.entry(from).or_default();
        *count += 1;
        if *count > ROSTERS_PER_LOOK || !shared.is_kept(&from) {
            return;
        }
        let known = lock(&shared.table).known(shared.clock.now());
        let Comparison { tell, answer } = roster.compare(&shared.roster(&known));
        if !tell.is_empty() {
            debug!(peer = %from, members = tell.len(), "tells members that were missed");
            self.overlay().tell(from, shared.news_of(&tell));
        }
        if let Some(answer) = answer {
            self.tell_roster(from, answer);
        }
    }

    /// Compares what is known of functions with one link now and then: gossip
    /// may have missed some.
    fn compare(&mut self, now: Time) {
        if now.since(self.last_compared) < COMPARE {
            return;
        }
        self.last_compared = now;
        let shared = self.shared();
        let kept = shared.links.iter().filter(|link| link.kept);
        let mut links: Vec<PeerId> = kept.map(|link| *link.key()).collect();
        shuffle(&mut links);
        if let Some(peer) = links.first() {
            self.federated.tell_summary(*peer, true);
        }
    }

    /// Asks for a new certificate in time: whoever can, gives one with every
    /// new connection.
    fn renew(&mut self, now: Time) {
        let shared = self.federated.shared.clone();
        if !shared.member.wants_renewal() {
            return;
        }
        if shared.member.may_invite() {
            shared.member.renew_own();
            return;
        }
        let pause = RENEWAL.min(shared.member.life().unwrap_or(RENEWAL).div_f64(8.0));
        if now.since(self.last_renewal) < pause {
            return;
        }
        self.last_renewal = now;
        let mut links: Vec<PeerId> = shared.links.iter().map(|link| *link.key()).collect();
        shuffle(&mut links);
        let mut inviters = self.bootstrap.iter().filter_map(|(peer, _)| *peer);
        let inviter = inviters.find(|peer| links.contains(peer));
        if let Some(peer) = inviter.or(links.first().copied()) {
            debug!(%peer, "connects anew, to have its membership renewed");
            self.renewing = Some(peer);
            self.overlay().disconnect(peer);
        }
    }

    fn links_where(
        &self,
        reports: &HashMap<PeerId, &Known>,
        is: impl Fn(&Report) -> bool,
    ) -> usize {
        let links = self.shared().links.iter().filter(|link| link.kept);
        let matching = links.filter(|link| reports.get(link.key()).is_some_and(|k| is(&k.report)));
        matching.count()
    }

    /// Dials those that settings and invite name, with pauses, for ever.
    fn bootstrap(&mut self, now: Time) {
        let shared = self.federated.shared.clone();
        let linked =
            |peer: &Option<PeerId>| peer.is_some_and(|peer| shared.links.contains_key(&peer));
        let missing = self.bootstrap.iter().filter(|(peer, _)| !linked(peer));
        let missing: Vec<Multiaddr> = missing.map(|(_, address)| address.clone()).collect();
        if missing.is_empty() {
            self.bootstrap_failures = 0;
            return;
        }
        if now < self.bootstrap_next {
            return;
        }
        // The same pauses as for everybody else, together for all of them.
        let pause = Duration::from_millis(500 << self.bootstrap_failures.min(6));
        let pause = pause.min(Duration::from_secs(30));
        let pause = pause.mul_f64(0.5 + rand::random::<f64>());
        self.bootstrap_next = now + pause;
        self.bootstrap_failures = self.bootstrap_failures.saturating_add(1);
        // One dial for all addresses of a member: a second one would be
        // dropped while the first is under way.
        let mut by_peer: BTreeMap<Option<PeerId>, Vec<Multiaddr>> = BTreeMap::new();
        for address in missing.into_iter().take(2 * ADDRESSES) {
            by_peer.entry(peer_in(&address)).or_default().push(address);
        }
        for (peer, addresses) in by_peer {
            self.dial(peer, addresses);
        }
    }
}

/// Whether there are nodes that do not hear this node's full reports.
fn has_others(shared: &Shared) -> bool {
    let known = lock(&shared.table).known(shared.clock.now());
    known.iter().any(|known| {
        let same = known.report.role == shared.role && shared.is_near(&known.report);
        !same && !matches!(known.standing, Standing::Gone { .. })
    })
}

fn take_one(count: &mut usize) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
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

/// Whom a multiaddress names last.
fn peer_in(address: &Multiaddr) -> Option<PeerId> {
    let text = address.to_string();
    let (_, id) = text.rsplit_once("/p2p/")?;
    id.parse().ok()
}

fn shuffle(peers: &mut [PeerId]) {
    use rand::seq::SliceRandom as _;
    peers.shuffle(&mut rand::rng());
}
