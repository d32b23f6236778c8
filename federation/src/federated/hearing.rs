//! What a node makes of what members say.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use libp2p_identity::PeerId;
use tracing::{debug, info, warn};
use weir_federation_core::failure::accusers::Accusation;
use weir_node::time::Time;
use weir_overlay::{Answer, Event as Happening, Host, Multiaddr, Refusal, Verdict};

use super::{EVERYBODY, Shared, region_topic, zone_topic};
use crate::member::{Member, unix_time};
use crate::membership::{CLOCK_SKEW, Refused};
use crate::message::{self, Handover, Message, Suspicion as Suspecting};
use crate::peers::{Fault, Heard, Known, Met, PEERS, Standing, Suspicion};
use crate::report::{Report, Role};
use crate::roster::{Marks, mark};

/// Where a report is passed on.
fn topic_of(report: &Report) -> String {
    match (&report.role, &report.zone, &report.region) {
        _ if report.brief => EVERYBODY.to_owned(),
        (Role::Edge, Some(zone), _) => zone_topic(zone),
        (Role::Cloud, _, Some(region)) => region_topic(region),
        (Role::Edge, None, _) | (Role::Cloud, _, None) => EVERYBODY.to_owned(),
    }
}

impl Shared {
    /// Whether a member may have heard already that the secret was changed, and
    /// this node not.
    pub(super) fn may_be_ahead(&self, from: PeerId, refused: Refused) -> bool {
        let ahead = refused == Refused::WrongFederation && self.member.rights(&from).is_some();
        if ahead {
            self.count_rejected(refused.reason());
        }
        ahead
    }

    pub(super) fn hear_message(&self, bytes: &[u8]) -> Result<Verdict, &'static str> {
        let (from, message) = message::open(bytes).map_err(|invalid| invalid.reason())?;
        let now = self.clock.now();
        if let Message::Introduction(certificate) = &message {
            return self.hear_introduction(from, certificate, bytes);
        }
        // The old secret's word is enough, whoever brings it.
        if let Message::Handover(handover) = &message {
            return Ok(self.hear_handover(handover));
        }
        // The writer may have left long ago.
        if let Message::Record(record) = message {
            return self.hear_record(from, *record, bytes);
        }
        if let Message::Forget(forget) = &message {
            return self.hear_forget(from, forget, bytes);
        }
        // One who was not introduced yet may be honest: not believed, not
        // passed on, and not held against whoever did.
        if from != self.id && self.member.rights(&from).is_none() {
            self.count_rejected("not-a-member");
            self.missed.store(true, Ordering::Relaxed);
            return Ok(Verdict::Ignore);
        }
        match message {
            Message::Report(report) => Ok(self.hear_report(from, *report, bytes, now)),
            Message::Suspicion(suspicion) => {
                let whom = suspicion.whom().ok_or("shape")?;
                Ok(self.hear_suspicion(from, whom, suspicion.epoch, now))
            }
            Message::Leave(leave) => {
                self.table.lock().leave(from, leave.epoch, now);
                self.said.lock().remove(&from);
                self.stale.notify_one();
                Ok(Verdict::Accept)
            }
            Message::Denial(statement) => self.hear_denial(&statement),
            Message::Unknown => Ok(Verdict::Accept),
            Message::Note(note) => Ok(self.hear_note(from, &note, now)),
            Message::Summary(summary) => {
                // It is said again.
                let _ = self.summaries.try_send((from, summary));
                Ok(Verdict::Ignore)
            }
            Message::Roster(roster) => {
                // It is said again.
                let _ = self.rosters.try_send((from, roster));
                Ok(Verdict::Ignore)
            }
            Message::Introduction(_)
            | Message::Handover(_)
            | Message::Record(_)
            | Message::Forget(_) => {
                unreachable!("answered above")
            }
        }
    }

    fn hear_introduction(
        &self,
        from: PeerId,
        certificate: &[u8],
        bytes: &[u8],
    ) -> Result<Verdict, &'static str> {
        match self.member.introduce(from, certificate) {
            Ok(_) => {
                let introduction = Some(Bytes::copy_from_slice(bytes));
                let mut said = self.said.lock();
                if said.len() < PEERS || said.contains_key(&from) {
                    said.entry(from).or_default().introduction = introduction;
                }
                Ok(Verdict::Accept)
            }
            // It was good when it was said: nobody lied.
            Err(refused @ (Refused::Expired | Refused::Early | Refused::Superseded)) => {
                self.count_rejected(refused.reason());
                Ok(Verdict::Ignore)
            }
            Err(refused) if self.may_be_ahead(from, refused) => Ok(Verdict::Ignore),
            Err(refused) => Err(refused.reason()),
        }
    }

    fn hear_handover(&self, handover: &Handover) -> Verdict {
        match self.member.hear_handover(handover) {
            Ok(true) => {
                self.stale.notify_one();
                self.speak.notify_one();
                Verdict::Accept
            }
            Ok(false) => Verdict::Ignore,
            Err(refused) => {
                self.count_rejected(refused.reason());
                Verdict::Ignore
            }
        }
    }

    fn hear_denial(&self, statement: &[u8]) -> Result<Verdict, &'static str> {
        let heard = self.member.hear_denial(statement);
        let Some(peer) = heard.map_err(|refused| refused.reason())? else {
            return Ok(Verdict::Ignore);
        };
        match self.member.is_denied(&peer) {
            true => info!(%peer, "the federation denies a member"),
            false => info!(%peer, "the federation denies a member no more"),
        }
        let _ = self.happenings.try_send(Happening::Silent(peer));
        self.stale.notify_one();
        Ok(Verdict::Accept)
    }

    fn hear_suspicion(&self, from: PeerId, whom: PeerId, epoch: u64, now: Time) -> Verdict {
        let accused = {
            let mut accusers = self.accusers.lock();
            let mut table = self.table.lock();
            accusers.hear(&mut table, self.id, from, (whom, epoch), now)
        };
        match accused {
            Accusation::TooMany => {
                self.count_rejected("suspects-too-often");
                Verdict::Ignore
            }
            Accusation::Heard(Suspicion::Noted) => {
                debug!(peer = %whom, by = %from, "a peer is suspected");
                self.stale.notify_one();
                Verdict::Accept
            }
            Accusation::Heard(Suspicion::Old) => Verdict::Ignore,
            Accusation::Heard(Suspicion::Refute) => {
                info!(by = %from, "refuted a suspicion");
                self.counters.refuted.fetch_add(1, Ordering::Relaxed);
                self.say_aloud();
                Verdict::Accept
            }
        }
    }

    pub(super) fn hear_report(
        &self,
        from: PeerId,
        report: Report,
        bytes: &[u8],
        now: Time,
    ) -> Verdict {
        let role = self.member.rights(&from).map(|rights| rights.role);
        if from != self.id && role != Some(report.role) {
            self.count_rejected("role");
            return Verdict::Ignore;
        }
        if (1..=unix_time() + CLOCK_SKEW).contains(&report.forgotten) {
            self.forgotten.lock().heard(&from, report.forgotten);
        }
        if report.brief && self.is_near(&report) {
            return Verdict::Accept;
        }
        let topic = topic_of(&report);
        if !report.brief && self.is_near(&report) {
            self.reports_near.fetch_add(1, Ordering::Relaxed);
        }
        let heard = {
            let measured = self.round_trips.get(&from).map(|took| *took);
            let mut table = self.table.lock();
            let heard = table.hear(from, report, now);
            if let (Heard::New, Some(measured)) = (heard, measured) {
                table.measured(&from, measured);
            }
            heard
        };
        match heard {
            Heard::New | Heard::Newer => {
                let report = Some((topic, Bytes::copy_from_slice(bytes)));
                self.said.lock().entry(from).or_default().report = report;
                self.stale.notify_one();
                if self.twice.contains_key(&from) {
                    self.behind.insert(from, ());
                }
                if heard == Heard::New {
                    info!(peer = %from, "a member is here");
                }
                Verdict::Accept
            }
            Heard::Old => Verdict::Ignore,
            Heard::Past => {
                self.behind.insert(from, ());
                Verdict::Ignore
            }
            Heard::Full => {
                self.count_rejected("full");
                Verdict::Accept
            }
            Heard::Own { times } => {
                self.hear_twin(times);
                Verdict::Accept
            }
        }
    }

    /// Another node speaks as this one, so often.
    fn hear_twin(&self, times: u32) {
        self.counters.twins.fetch_add(1, Ordering::Relaxed);
        // Named again and again, and ever more seldom.
        if times > 1 && times.is_power_of_two() {
            warn!(
                id = %self.id,
                times,
                "another node runs with this node's identity: give the copy a data directory of \
                 its own"
            );
        }
        self.say_aloud();
    }

    /// Has nothing to do for a while with a member that lies.
    pub(super) fn shun(&self, peer: PeerId) {
        let now = self.clock.now();
        self.shunned.lock().shun(peer, now);
        self.table.lock().met(peer, Met::Failure(Fault::Lies), now);
        self.stale.notify_one();
    }

    /// The word for a member that lied a moment ago.
    pub(super) fn shuns(&self, peer: &PeerId) -> Option<Refusal> {
        let left = self.shunned.lock().left(peer, self.clock.now())?;
        Some(Refusal {
            reason: "shunned",
            text: format!(
                "it said what no honest member says; it may come back in {} s",
                left.as_secs() + 1
            ),
        })
    }

    /// What a newly linked peer may have missed; about itself too.
    pub(super) fn news_for(&self, peer: PeerId) -> Vec<(String, Bytes)> {
        let mut news = Vec::new();
        let all = || EVERYBODY.to_owned();
        let seal = |message: &Message| message::seal(message, &self.key).ok().map(Bytes::from);
        if let Some(certificate) = self.member.certificate() {
            news.extend(seal(&Message::Introduction(certificate)).map(|m| (all(), m)));
        }
        if let Some(handover) = self.member.handover_for(&peer) {
            news.extend(seal(&Message::Handover(handover)).map(|m| (all(), m)));
        }
        let denials = self.member.denials().into_iter();
        news.extend(denials.filter_map(|d| Some((all(), seal(&Message::Denial(d))?))));
        let mut said = self.said.lock().clone();
        // What is not believed any more is not passed on.
        said.retain(|id, _| *id == self.id || self.member.rights(id).is_some());
        let introductions = said.iter().filter(|(id, _)| **id != peer);
        news.extend(introductions.filter_map(|(_, s)| Some((all(), s.introduction.clone()?))));
        let reports = said.iter().filter(|(id, _)| **id != peer);
        news.extend(reports.filter_map(|(_, s)| s.report.clone()));
        let known = self.table.lock().one(&peer, self.clock.now());
        let suspected = known.filter(|known| {
            matches!(
                known.standing,
                Standing::Suspected { .. } | Standing::Gone { left: false, .. }
            )
        });
        if let Some(known) = suspected {
            // So that it begins a new life, which all others believe.
            let suspicion = Suspecting::new(peer, known.report.epoch);
            news.extend(seal(&Message::Suspicion(suspicion)).map(|m| (self.topic(), m)));
        }
        let forgotten = self.forgotten_for(&peer).into_iter();
        news.extend(forgotten.map(|sealed| (all(), sealed)));
        news
    }

    /// Members that were introduced and are heard, this one included.
    pub(super) fn roster(&self, known: &[Known]) -> Marks {
        let said = self.said.lock();
        let told = |id: &PeerId| {
            let said = said.get(id);
            said.is_some_and(|said| said.introduction.is_some() && said.report.is_some())
        };
        let heard = known.iter().filter(|known| {
            let gone = matches!(known.standing, Standing::Gone { .. });
            !gone && !known.silent && told(&known.id) && self.member.rights(&known.id).is_some()
        });
        let heard = heard.map(|known| known.id).chain([self.id]);
        heard.map(|peer| (mark(&peer), peer)).collect()
    }

    /// What there is to be told of members.
    pub(super) fn news_of(&self, members: &[PeerId]) -> Vec<(String, Bytes)> {
        let own = self.member.certificate().map(Message::Introduction);
        let own = own.and_then(|own| message::seal(&own, &self.key).ok());
        let said = self.said.lock();
        let introduction = |id: &PeerId| match *id == self.id {
            true => own.clone().map(Bytes::from),
            false => said.get(id)?.introduction.clone(),
        };
        let introductions = members.iter().filter_map(introduction);
        let introductions = introductions.map(|said| (EVERYBODY.to_owned(), said));
        // Nobody believes a report before its introduction.
        let reports = members.iter().filter_map(|id| said.get(id)?.report.clone());
        introductions.chain(reports).collect()
    }
}

impl Host for Shared {
    fn hello(&self, _: PeerId) -> Vec<u8> {
        self.member.hello()
    }

    fn answer<'a>(&'a self, from: PeerId, hello: &'a [u8]) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match self.shuns(&from) {
                Some(refusal) => Member::refuse(refusal),
                None => self.member.answer(from, hello).await,
            }
        })
    }

    fn judge(&self, from: PeerId, answer: &[u8]) -> Result<(), Refusal> {
        match self.shuns(&from) {
            Some(refusal) => Err(refusal),
            None => self.member.judge(from, answer),
        }
    }

    fn hear(&self, message: &[u8]) -> Verdict {
        match self.hear_message(message) {
            Ok(verdict) => verdict,
            Err(reason) => {
                debug!(reason, "refused a message");
                self.count_rejected(reason);
                Verdict::Reject
            }
        }
    }

    fn probed(&self, from: PeerId) -> Option<Vec<u8>> {
        self.answer_probe(from)
    }

    fn addresses(&self, of: PeerId) -> Vec<Multiaddr> {
        let known = self.table.lock().one(&of, self.clock.now());
        let said = known.map(|known| known.report.addresses.clone());
        let said = said.unwrap_or_default().into_iter();
        said.filter_map(|text| text.parse().ok()).collect()
    }

    fn is_known_at(&self, address: &Multiaddr) -> bool {
        let address = address.to_string();
        let known = self.table.lock().known(self.clock.now());
        let mut said = known.iter().flat_map(|known| &known.report.addresses);
        // Some say who they are in it too.
        said.any(|said| said.split("/p2p/").next() == Some(address.as_str()))
    }

    fn happened(&self, event: Happening) {
        if let Happening::RoundTrip { peer, took } = event {
            self.round_trips.insert(peer, took);
            self.table.lock().measured(&peer, took);
            return;
        }
        if let Happening::Refused { reason, text } = &event {
            *self.counters.refused.entry(reason).or_default() += 1;
            if self.refusals.lock().is_due(reason, text, self.clock.now()) {
                info!(reason, text, "a connection was refused");
            }
            return;
        }
        if self.happenings.try_send(event).is_err() {
            debug!("too much happens at once; some of it is seen later");
        }
    }
}
