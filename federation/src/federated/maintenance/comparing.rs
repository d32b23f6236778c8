//! What a node compares with those that it is linked to: who is known, what is
//! known of functions, and how far everybody is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use libp2p_identity::PeerId;
use rand::seq::IndexedRandom as _;
use tracing::{debug, info};
use weir_node::time::Time;

use super::super::{EVERYBODY, topics};
use super::Maintenance;
use crate::message::{self, Message};
use crate::peers::{Known, Standing};
use crate::regions;
use crate::roster::{Comparison, Roster};

/// Rosters of one link that are heard between two looks: a comparison takes two
/// at the most, and each side may begin one.
const ROSTERS_PER_LOOK: u32 = 4;

impl Maintenance {
    /// Follows the nearest regions that are heard of, where none is named.
    pub(super) fn follow_regions(&mut self, known: &[Known]) {
        let shared = self.federated.shared.clone();
        if !shared.settings.follows_regions {
            return;
        }
        let own = *shared.coordinate.lock();
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
        self.viewing.stale();
    }

    /// Tells those who speak from an earlier life what they said since: their
    /// clock went back, or they are two.
    pub(super) fn catch_up(&self) {
        let shared = self.shared();
        let behind: Vec<PeerId> = shared.behind.iter().map(|peer| *peer.key()).collect();
        shared.behind.clear();
        for peer in behind {
            let said = shared.said.lock().get(&peer).and_then(|s| s.report.clone());
            let linked = shared.links.lock().link(&peer).is_some();
            if let Some(report) = said.filter(|_| linked) {
                self.overlay().tell(peer, vec![report]);
            }
        }
    }

    /// Compares who is known with one link now and then: gossip may have missed
    /// some, and news that is told on a new link what came meanwhile.
    pub(super) fn compare_members(&mut self, known: &[Known], now: Time) {
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
        if let Some(peer) = self.any_link() {
            self.tell_roster(peer, own);
        }
    }

    pub(super) fn tell_roster(&self, to: PeerId, roster: Roster) {
        if let Ok(sealed) = message::seal(&Message::Roster(roster), &self.shared().key) {
            let told = (EVERYBODY.to_owned(), Bytes::from(sealed));
            self.overlay().tell(to, vec![told]);
        }
    }

    /// Tells a link what it lacks of those who are known here, and asks for what
    /// it knows more.
    pub(super) fn hear_roster(&mut self, from: PeerId, roster: &Roster) {
        let shared = self.federated.shared.clone();
        let count = self.heard_rosters.entry(from).or_default();
        *count += 1;
        if *count > ROSTERS_PER_LOOK || !shared.is_kept(&from) {
            return;
        }
        let known = shared.table.lock().known(shared.clock.now());
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
    pub(super) fn compare_functions(&mut self, now: Time) {
        if self.comparing.is_due(now)
            && let Some(peer) = self.any_link()
        {
            self.federated.tell_summary(peer, true);
        }
    }

    pub(super) fn learn_distances(&mut self) {
        let shared = self.federated.shared.clone();
        let known = shared.table.lock().known(shared.clock.now());
        let mut coordinate = shared.coordinate.lock();
        for known in known {
            if let Some(took) = shared.round_trips.get(&known.id) {
                coordinate.learn(&known.report.coordinate, *took, rand::random());
            }
        }
    }

    /// One of the links on which somebody is heard.
    fn any_link(&self) -> Option<PeerId> {
        let kept: Vec<PeerId> = self.shared().links.lock().kept().collect();
        kept.choose(&mut rand::rng()).copied()
    }
}
