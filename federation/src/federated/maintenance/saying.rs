//! What a node says of itself, and how it is said; when is the core's to decide.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use libp2p_identity::PeerId;
use tracing::warn;
use weir_federation_core::reporting::Say;
use weir_federation_core::reporting::offers::{self, Told};
use weir_node::function::Scope;
use weir_node::time::Time;

use super::super::{EVERYBODY, Shared};
use super::Maintenance;
use crate::message::{self, Message};
use crate::peers::Standing;
use crate::report::{Offer, Report};

impl Maintenance {
    /// Says how the node is if that has changed and may be said; else looks
    /// again when it may.
    pub(super) fn look_at_itself(&mut self) {
        let began = self.shared().clock.now();
        self.reporting.looks();
        self.report(began, false);
        let now = self.shared().clock.now();
        self.reporting.has_looked(began, now);
    }

    /// Nodes that share the zone or region, this one included.
    pub(super) fn neighbours(&self) -> usize {
        let shared = self.shared();
        let view = shared.view.load();
        let near = |report: &&Report| report.role == shared.role && shared.is_near(report);
        view.peers.iter().map(|p| &*p.report).filter(near).count() + 1
    }

    pub(super) fn current_report(&self) -> Report {
        let shared = self.shared();
        let mut busy = self.node.busy_functions();
        busy.retain(|function| function.spec.scope != Scope::Node);
        offers::choose(&mut busy, |f| f.invocations, |f| &f.spec.name);
        let draining = shared.draining.load(Ordering::Relaxed);
        let offers = busy.iter().filter_map(|function| {
            let able = self.node.function_capability(function)?;
            let told = Told {
                places: able.places,
                full: able.full,
                running: able.running,
                service: able.service.mean,
                start: able.start,
            };
            Some(Offer::of(function.spec.name.qualified(), &told))
        });
        let offers: Vec<Offer> = offers.collect();
        let load = self.federated.load(&self.node, None);
        let own = shared.own.lock();
        let executors = self.node.executors();
        let mut report = Report {
            executors: executors.into_iter().map(str::to_owned).collect(),
            draining,
            forgotten: shared.forgotten.lock().own(),
            load,
            abilities: self.node.ability_changes(),
            coordinate: *shared.coordinate.lock(),
            offers,
            ..own.clone()
        };
        drop(own);
        report.clamp();
        report
    }

    pub(super) fn report(&mut self, now: Time, at_once: bool) {
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
            self.say(&mut report.in_brief(), true);
        }
        self.reporting.has_said(report);
        let counters = &self.shared().counters;
        counters.reports.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells each link directly what was just said, where that matters.
    pub(super) fn say_to_links(&self) {
        let shared = self.shared();
        if !shared.aloud.swap(false, Ordering::Relaxed) {
            return;
        }
        let said = shared
            .said
            .lock()
            .get(&shared.id)
            .and_then(|s| s.report.clone());
        let Some(report) = said else {
            return;
        };
        let links: Vec<PeerId> = shared.links.lock().linked().collect();
        for link in links {
            self.overlay().tell(link, vec![report.clone()]);
        }
    }

    pub(super) fn introduce(&mut self, now: Time) {
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

    pub(super) fn say(&mut self, report: &mut Report, everybody: bool) {
        let shared = self.federated.shared.clone();
        self.sequence += 1;
        report.epoch = {
            let mut table = shared.table.lock();
            table.said(self.sequence);
            table.epoch()
        };
        report.sequence = self.sequence;
        // Others would refuse it, and take this node for silent.
        let wrong = report.check().err().map(|wrong| wrong.to_string());
        if let Some(wrong) = &wrong {
            warn!(%wrong, "this node's own report is not sent");
        }
        shared.unsaid.lock().clone_from(&wrong);
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
            shared.said.lock().entry(shared.id).or_default().report = Some((topic, sealed));
            *shared.own.lock() = report.clone();
        }
    }
}

/// Whether there are nodes that do not hear this node's full reports.
pub(super) fn has_others(shared: &Shared) -> bool {
    let known = shared.table.lock().known(shared.clock.now());
    known.iter().any(|known| {
        let same = known.report.role == shared.role && shared.is_near(&known.report);
        !same && !matches!(known.standing, Standing::Gone { .. })
    })
}
