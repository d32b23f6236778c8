//! What looks after a node's place in its federation: it hears what happens on
//! the overlay, lets time pass in the core, and does what that wishes.
//!
//! | file | what it is |
//! |---|---|
//! | `every` | duties that come again and again |
//! | `links` | links kept, dialled and lost |
//! | `saying` | what this node says of itself |
//! | `comparing` | what it compares with those that it is linked to |

mod comparing;
mod every;
mod links;
mod saying;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use libp2p_identity::PeerId;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use weir_federation_core::failure::Fact;
use weir_federation_core::reporting::Reporting;
use weir_node::Node;
use weir_node::time::Time;
use weir_overlay::{Event as Happening, Overlay};

use self::every::Every;
use self::saying::has_others;
use super::{ADDRESS_BOOK, AWAY, FORGOTTEN, Federated, Shared};
use crate::address_book::Writer;
use crate::peers::{Event, Known, Viewing};
use crate::replication;
use crate::roster::{Roster, Rounds};

/// How often time passes in the table of peers, at the least.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// How often a node compares what it knows of functions with one of its links.
const COMPARE_INTERVAL: Duration = Duration::from_secs(20);

/// How often what changed is written down: the address book, who was forgotten.
const SAVE_INTERVAL: Duration = Duration::from_secs(2);

/// How often it is written down that others were heard.
const CONTACT_INTERVAL: Duration = Duration::from_secs(60);

/// What looks after everything.
pub(super) struct Maintenance {
    federated: Federated,
    node: Node,
    book: Writer,
    listening: BTreeSet<String>,
    /// When this node says how it is.
    reporting: Reporting,
    sequence: u64,
    /// The certificate that others know.
    introduced: Option<Vec<u8>>,
    comparing: Every,
    /// When members are compared.
    rounds: Rounds,
    /// Rosters that came since the last look around, by who told them.
    heard_rosters: BTreeMap<PeerId, u32>,
    saving: Every,
    /// Whether the last write of who was forgotten failed.
    unsaved: Arc<AtomicBool>,
    /// When it was written down last that others were heard.
    contact: Option<Time>,
    viewing: Viewing,
}

impl Maintenance {
    pub(super) fn new(federated: Federated, node: Node) -> Maintenance {
        let now = federated.shared.clock.now();
        let path = federated.settings().folder.join(ADDRESS_BOOK);
        Maintenance {
            book: Writer::new(path, federated.shared.member.files().clone()),
            listening: BTreeSet::new(),
            reporting: Reporting::new(now),
            sequence: 0,
            introduced: None,
            comparing: Every::new(COMPARE_INTERVAL, now + COMPARE_INTERVAL),
            rounds: Rounds::new(now),
            heard_rosters: BTreeMap::new(),
            saving: Every::new(SAVE_INTERVAL, now + SAVE_INTERVAL),
            unsaved: Arc::default(),
            contact: None,
            viewing: Viewing::default(),
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

    /// Runs until it is told to stop.
    pub(super) async fn run(
        mut self,
        mut happened: mpsc::Receiver<Happening>,
        mut rosters: mpsc::Receiver<(PeerId, Roster)>,
        mut stop: watch::Receiver<bool>,
    ) {
        let shared = self.federated.shared.clone();
        let mut tick = tokio::time::interval(TICK_INTERVAL);
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
                _ = stop.wait_for(|stops| *stops) => break,
                event = happened.recv() => match event {
                    Some(event) => self.see(event),
                    None => break,
                },
                Some((from, roster)) = rosters.recv() => self.hear_roster(from, &roster),
                () = shared.stale.notified() => self.viewing.stale(),
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
            if self.viewing.is_due(now) {
                self.make_view(now);
            }
        }
        self.save();
    }

    fn make_view(&mut self, now: Time) {
        let shared = self.shared();
        let own = shared.own.lock().clone();
        let view = shared.table.lock().view(&own, now);
        let view = match shared.member.denies_nobody() {
            true => view,
            false => view.without(&own, |peer| shared.member.is_denied(peer)),
        };
        shared.view.store(Arc::new(view));
        shared.viewed.notify_waiters();
    }

    fn tick(&mut self) {
        let now = self.shared().clock.now();
        let events = self.shared().table.lock().tick(now);
        for event in events {
            self.viewing.stale();
            self.pass(event);
        }
        let heard = self.shared().reports_near.load(Ordering::Relaxed);
        self.reporting.hears(heard, now);
        if self.reporting.is_look_due(now) {
            self.look_at_itself();
        }
        let look = self.shared().links.lock().next_event();
        if look <= now {
            self.look_around(now);
        }
        if self.saving.is_due(now) {
            self.save();
            self.learn_distances();
            if self.shared().links.lock().kept().next().is_some() {
                self.note_contact(now);
            }
        }
    }

    /// Takes what time did in the table of peers.
    fn pass(&mut self, event: Event) {
        match event {
            Event::Died(peer) => {
                info!(%peer, "a member is dead");
                let counters = &self.shared().counters;
                counters.deaths.fetch_add(1, Ordering::Relaxed);
                self.shared().members_changed.notify_one();
                self.take(Fact::Died(peer));
                // Should it come back, it is introduced to whoever links.
                if let Some(said) = self.shared().said.lock().get_mut(&peer) {
                    said.report = None;
                }
            }
            Event::Silent(peer) => warn!(%peer, "nothing was heard of a member for long"),
            Event::Forgotten(peer) => {
                self.federated.carriage.cut(&peer);
                self.shared().round_trips.remove(&peer);
                self.shared().said.lock().remove(&peer);
            }
        }
    }

    fn look_around(&mut self, now: Time) {
        let shared = self.federated.shared.clone();
        let known: Vec<Known> = shared.table.lock().known(now);
        self.follow_regions(&known);
        self.introduce(now);
        self.catch_up();
        self.compare_members(&known, now);
        // Whoever is of another place has heard nothing of this node yet.
        if !self.reporting.has_briefed()
            && self.reporting.published().is_some()
            && has_others(&shared)
        {
            self.report(now, true);
        }
        self.compare_functions(now);
        self.look_at_links(&known, now);
        // Who knows few may be cut off by losing one of them.
        let mut links = shared.links.lock();
        if links.book().is_small() {
            self.book.save(links.book());
        }
    }

    /// Has written down what changed, elsewhere than on this thread.
    fn save(&self) {
        let shared = self.shared();
        self.book.save(shared.links.lock().book());
        let mut forgotten = shared.forgotten.lock();
        if self.unsaved.swap(false, Ordering::Relaxed) {
            forgotten.not_saved();
        }
        let Some(bytes) = forgotten.unsaved() else {
            return;
        };
        drop(forgotten);
        let path = shared.settings.folder.join(FORGOTTEN);
        let unsaved = Arc::clone(&self.unsaved);
        shared.member.files().save(path, bytes, move |saved| {
            if let Err(error) = saved {
                warn!(%error, "who was forgotten is not kept over a restart");
                unsaved.store(true, Ordering::Relaxed);
            }
        });
    }

    /// Keeps when this node heard of others last.
    fn note_contact(&mut self, now: Time) {
        let since = self.contact.map(|last| now.since(last));
        if since.is_some_and(|since| since < CONTACT_INTERVAL) {
            return;
        }
        self.contact = Some(now);
        if since.is_some_and(|since| since > AWAY) {
            warn!(
                "this node heard of nobody for more than seven days: its functions are its own \
                 until somebody announces them anew (weir list --federation, weir announce)"
            );
            self.shared().forget_functions();
        }
        let shared = self.shared();
        let path = replication::contact(&shared.settings.folder);
        shared.member.files().save(path, Vec::new(), |saved| {
            if let Err(error) = saved {
                warn!(%error, "it is not kept when others were heard last");
            }
        });
    }
}
