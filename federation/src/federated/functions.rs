//! Functions of the federation: what is said of them, and who keeps their code
//! and the calls of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use libp2p_identity::PeerId;
use serde_bytes::ByteBuf;
use tracing::warn;
use weir_federation_core::copies::keepers_of_call;
use weir_federation_core::rendezvous::Members;
use weir_federation_core::replication::fetching::{Holder, in_order};
use weir_federation_core::replication::holdings::keepers;
use weir_node::function::{FunctionSpec, Scope};
use weir_node::id::{CallId, Digest, FunctionName};
use weir_node::node::ChangeError;
use weir_overlay::{Host as _, Verdict};

use super::{EVERYBODY, Federated, Shared};
use crate::catalogue::{CodeRef, Entry, FUNCTIONS, Merged, Record};
use crate::member::unix_time;
use crate::membership::{CLOCK_SKEW, Refused};
use crate::message::{self, Message, Summary};
use crate::peers::Standing;
use crate::report::REPORT_BYTES;
use crate::snapshot::View;

/// Largest function that is told of, its certificate and signature not counted.
const SPEC_BYTES: usize = REPORT_BYTES - 2_048;

/// Functions of which news is not on disk yet, beyond which no more is heard.
pub(super) const CHANGED: usize = 2 * FUNCTIONS;

/// Who may keep code and calls, as of a view.
#[derive(Default)]
pub(super) struct Candidates {
    /// What was seen then; it is another when anything may have changed.
    view: Weak<View>,
    drains: bool,
    members: Arc<Members>,
}

impl Federated {
    /// What is known of a function.
    pub(crate) fn entry(&self, name: &FunctionName) -> Option<Entry> {
        self.shared.catalogue.lock().get(name).cloned()
    }

    /// The next function of which a newer record was heard.
    pub(crate) fn next_changed(&self) -> Option<FunctionName> {
        self.shared.changed.lock().pop_first()
    }

    /// How many names are known, removed ones included.
    pub(crate) fn count(&self) -> usize {
        self.shared.catalogue.lock().len()
    }

    /// All names that are known, removed ones included.
    pub(crate) fn names(&self) -> Vec<FunctionName> {
        let catalogue = self.shared.catalogue.lock();
        catalogue.iter().map(|(name, _)| name.clone()).collect()
    }

    /// All functions that the federation has, with who wrote the newest record
    /// and its version.
    pub fn functions(&self) -> Vec<(Arc<FunctionSpec>, PeerId, u64)> {
        let catalogue = self.shared.catalogue.lock();
        let entries = catalogue.iter();
        let live = entries.filter_map(|(_, entry)| {
            let spec = entry.spec.clone()?;
            Some((spec, entry.writer, entry.record.version))
        });
        live.collect()
    }

    /// Whether a function can be told of.
    ///
    /// # Errors
    /// Why not.
    pub fn may_write(&self, spec: &FunctionSpec) -> Result<(), ChangeError> {
        let refused = |text: &str| Err(ChangeError::Invalid(text.to_owned()));
        let member = &self.shared.member;
        if !member.own_rights().is_some_and(|own| own.deploy) {
            return refused("this node may not deploy for others: deploy with --scope node");
        }
        if !member.is_member() {
            let text = "this node is still joining its federation: try again, or deploy with \
                        --scope node";
            return Err(ChangeError::NotYet(text.to_owned()));
        }
        match cbor4ii::serde::to_vec(Vec::new(), spec) {
            Ok(bytes) if bytes.len() <= SPEC_BYTES => Ok(()),
            Ok(_) | Err(_) => {
                refused("the function has more settings than can be told of: use --scope node")
            }
        }
    }

    /// Writes the newest record of a function, and says it.
    pub(crate) fn write(
        &self,
        name: &FunctionName,
        spec: Option<&FunctionSpec>,
        code: Option<CodeRef>,
    ) -> Result<(), ChangeError> {
        let shared = &self.shared;
        let refused = |text: &str| ChangeError::Invalid(text.to_owned());
        if let Some(spec) = spec {
            self.may_write(spec)?;
        }
        let certificate = shared.certificate_to_write()?;
        let encode = |spec: &FunctionSpec| cbor4ii::serde::to_vec(Vec::new(), spec);
        let encoded = spec.map(encode).transpose();
        let encoded = encoded.map_err(|_| refused("the function cannot be told of"))?;
        let mut catalogue = shared.catalogue.lock();
        let topic = match spec {
            Some(spec) => (spec.scope == Scope::Zone).then(|| shared.topic()),
            None => catalogue.get(name).and_then(|e| e.record.topic.clone()),
        };
        let record = Record {
            name: name.qualified(),
            version: catalogue.next_version(name),
            topic: topic.clone(),
            removed: encoded.is_none().then(unix_time),
            spec: encoded.map(ByteBuf::from),
            code,
            certificate: ByteBuf::from(certificate),
        };
        let sealed = message::seal(&Message::Record(Box::new(record.clone())), &shared.key);
        let sealed = Bytes::from(sealed.map_err(|_| {
            refused("the function has more settings than can be told of: use --scope node")
        })?);
        let Some((name, entry)) = Entry::new(shared.id, record, sealed.clone()) else {
            return Err(refused("the function cannot be told of"));
        };
        match catalogue.merge(name.clone(), entry) {
            Merged::Newer { dropped, .. } => {
                shared.changed.lock().extend(dropped);
                shared.functions_changed.notify_one();
            }
            Merged::Full => {
                let text =
                    format!("the federation has {FUNCTIONS} functions, the most there can be");
                return Err(ChangeError::Full(text));
            }
            Merged::Known | Merged::Older | Merged::Jump => {
                let text = "another node changed the function meanwhile: try again";
                return Err(refused(text));
            }
        }
        drop(catalogue);
        if shared.settings.registry.gossips() {
            let topic = topic.as_deref().unwrap_or(EVERYBODY);
            self.overlay.publish(topic, sealed);
        }
        shared.lost.lock().remove(&name);
        shared.register(&name);
        Ok(())
    }

    /// Who changed or removed a function since this node wrote it last.
    pub fn lost(&self, name: &FunctionName) -> Option<PeerId> {
        self.shared.lost.lock().get(name).copied()
    }

    /// Records that a member whose summary this is may lack.
    pub(crate) fn missing(&self, from: PeerId, marks: &[u64]) -> Vec<(Option<String>, Bytes)> {
        let topics = self.shared.topics_with(&from);
        self.shared
            .catalogue
            .lock()
            .missing(marks, &topics, rand::random_range(0..64))
    }

    /// Tells a linked member records.
    pub(crate) fn tell_records(&self, to: PeerId, records: Vec<(Option<String>, Bytes)>) {
        let named = |(topic, record): (Option<String>, Bytes)| {
            (topic.unwrap_or_else(|| EVERYBODY.to_owned()), record)
        };
        self.overlay
            .tell(to, records.into_iter().map(named).collect());
    }

    /// Whether a member whose summary this is knows the same.
    pub(crate) fn agrees(&self, from: PeerId, marks: &[u64]) -> bool {
        let topics = self.shared.topics_with(&from);
        self.shared.catalogue.lock().summary(&topics) == marks
    }

    /// Tells a linked member what this node knows, in short.
    pub(crate) fn tell_summary(&self, to: PeerId, ask: bool) {
        if !self.shared.settings.registry.gossips() {
            return;
        }
        // What it knows is not asked for before it has heard that it was forgotten.
        if let Some(forgotten) = self.shared.untold(&to) {
            let forgotten = vec![(EVERYBODY.to_owned(), forgotten)];
            self.overlay.tell(to, forgotten);
            return;
        }
        let topics = self.shared.topics_with(&to);
        let marks = self.shared.catalogue.lock().summary(&topics);
        let summary = Message::Summary(Summary { marks, ask });
        if let Ok(sealed) = message::seal(&summary, &self.shared.key) {
            self.overlay
                .tell(to, vec![(EVERYBODY.to_owned(), sealed.into())]);
        }
    }

    /// Members that may keep code and calls; this node among them unless it
    /// drains. Looked up anew when there is a new view.
    pub(crate) fn members(&self) -> Arc<Members> {
        let shared = &self.shared;
        let (view, drains) = (Arc::downgrade(&*shared.view.load()), self.is_draining());
        let mut candidates = shared.candidates.lock();
        if candidates.drains == drains && candidates.view.ptr_eq(&view) {
            return Arc::clone(&candidates.members);
        }
        let known = shared.table.lock().known(shared.clock.now());
        let alive = known.iter().filter(|known| {
            let gone = matches!(known.standing, Standing::Gone { .. });
            !gone && !known.silent && !known.report.draining && self.admits(&known.id)
        });
        let alive = alive.map(|known| {
            let near = known.report.role == shared.role && shared.is_near(&known.report);
            (known.id, near)
        });
        let own = (!drains).then_some((shared.id, true));
        let members = Arc::new(candidates.members.renewed(alive.chain(own)));
        *candidates = Candidates {
            view,
            drains,
            members: Arc::clone(&members),
        };
        members
    }

    /// Members that are heard, and may be asked.
    pub(crate) fn here(&self) -> BTreeSet<PeerId> {
        let shared = &self.shared;
        let known = shared.table.lock().known(shared.clock.now());
        let here = known.iter().filter(|known| {
            let gone = matches!(known.standing, Standing::Gone { .. });
            !gone && !known.silent && self.admits(&known.id)
        });
        here.map(|known| known.id).collect()
    }

    /// Other members, `most` of them, in the order in which they are to keep a
    /// call: neighbours of this node first.
    pub(crate) fn keepers_of_call(&self, call: CallId, most: usize) -> Vec<PeerId> {
        let members = self.members();
        let ranked = keepers_of_call(call, &members);
        let others = ranked.filter(|peer| self.may_keep(peer));
        others.take(most).collect()
    }

    /// Whether one of [`members`](Federated::members) may be asked to keep
    /// something for this node: another, and not denied since.
    pub(crate) fn may_keep(&self, peer: &PeerId) -> bool {
        *peer != self.shared.id && self.admits(peer)
    }

    /// Hears a record that somebody brings itself; its name.
    pub(crate) fn hear_brought(&self, envelope: &[u8]) -> Option<FunctionName> {
        let (_, Message::Record(record)) = message::open(envelope).ok()? else {
            return None;
        };
        self.shared.hear(envelope);
        record.name.parse().ok()
    }

    /// Forgets removals that everybody has had time to hear of; their names.
    pub(crate) fn forget_removals(&self) -> Vec<FunctionName> {
        self.shared.catalogue.lock().forget_removals(unix_time())
    }

    /// Members that may have the code of a function, in the order in which they
    /// are asked for it.
    pub(crate) fn holders(&self, name: &FunctionName, entry: &Entry) -> Vec<PeerId> {
        let keepers = keepers(entry, &self.members());
        // Not the view alone: who takes no calls gives code all the same.
        let shared = &self.shared;
        let known = shared.table.lock().known(shared.clock.now());
        let own = *shared.coordinate.lock();
        let name = name.qualified();
        let holders = known.iter().filter_map(|known| {
            let keeps = known.id == entry.writer || keepers.contains(&known.id);
            let offers = || known.report.offers.iter().any(|o| o.function == name);
            let gone = matches!(known.standing, Standing::Gone { .. });
            (!gone && (keeps || offers())).then(|| {
                let measured = shared.round_trips.get(&known.id).map(|took| *took);
                let expected = || own.distance(&known.report.coordinate);
                Holder {
                    id: known.id,
                    keeps,
                    away: measured.unwrap_or_else(expected),
                }
            })
        });
        in_order(holders.collect())
    }

    /// Whether a member may have an artifact: some function that it may know
    /// has it.
    pub(crate) fn may_have(&self, member: &PeerId, digest: &Digest) -> bool {
        let topics = self.shared.topics_with(member);
        let catalogue = self.shared.catalogue.lock();
        let found = catalogue.iter().any(|(_, entry)| {
            let code = entry.record.code.as_ref().map(CodeRef::artifact);
            let topic = entry.record.topic.as_ref();
            code.as_ref() == Some(digest) && topic.is_none_or(|topic| topics.contains(topic))
        });
        found && self.admits(member)
    }
}

impl Shared {
    /// Topics, beside the one of everybody, of which both hear.
    pub(super) fn topics_with(&self, peer: &PeerId) -> Vec<String> {
        let known = self.table.lock().one(peer, self.clock.now());
        let near = known.is_some_and(|k| k.report.role == self.role && self.is_near(&k.report));
        match near {
            true => vec![self.topic()],
            false => Vec::new(),
        }
    }

    pub(super) fn hear_record(
        &self,
        from: PeerId,
        record: Record,
        bytes: &[u8],
    ) -> Result<Verdict, &'static str> {
        if record
            .topic
            .as_ref()
            .is_some_and(|topic| *topic != self.topic())
        {
            return Ok(Verdict::Ignore);
        }
        let now = unix_time();
        if record.is_over(now) {
            return Ok(Verdict::Ignore);
        }
        if record
            .removed
            .is_some_and(|removed| removed > now + CLOCK_SKEW)
        {
            return Err(Refused::Early.reason());
        }
        match self.member.may_have_written(from, &record.certificate) {
            Ok(()) => {}
            Err(refused) if self.may_be_ahead(from, refused) => return Ok(Verdict::Ignore),
            Err(refused) => return Err(refused.reason()),
        }
        // Whoever says more than the disk takes is heard again later.
        if self.changed.lock().len() >= CHANGED {
            self.count_rejected("full");
            return Ok(Verdict::Ignore);
        }
        let entry = Entry::new(from, record, Bytes::copy_from_slice(bytes));
        let (name, entry) = entry.ok_or("shape")?;
        let merged = self.catalogue.lock().merge(name.clone(), entry);
        match merged {
            Merged::Newer { before, dropped } => {
                if before == Some(self.id) && from != self.id {
                    self.note_lost(&name, from);
                }
                self.register(&name);
                if let Some(dropped) = &dropped {
                    self.registry.unregistered.lock().remove(dropped);
                }
                self.changed
                    .lock()
                    .extend(dropped.into_iter().chain([name]));
                self.functions_changed.notify_one();
                Ok(Verdict::Accept)
            }
            Merged::Known | Merged::Older => Ok(Verdict::Ignore),
            Merged::Jump => Err("version-jump"),
            Merged::Full => {
                self.count_rejected("full");
                Ok(Verdict::Ignore)
            }
        }
    }

    /// Takes note that another node changed a function that was deployed here.
    fn note_lost(&self, name: &FunctionName, by: PeerId) {
        let mut lost = self.lost.lock();
        if lost.len() < FUNCTIONS {
            lost.insert(name.clone(), by);
        }
        drop(lost);
        warn!(function = %name, %by, "another node changed a function that was deployed here");
    }

    /// What shows that this node may change what the federation has.
    ///
    /// # Errors
    /// When it may not, or not yet.
    fn certificate_to_write(&self) -> Result<Vec<u8>, ChangeError> {
        let may = self.member.own_rights().is_some_and(|own| own.deploy);
        if may && !self.member.is_member() {
            let text = "this node is still joining its federation: try again".to_owned();
            return Err(ChangeError::NotYet(text));
        }
        let certificate = self.member.certificate().filter(|_| may);
        certificate.ok_or_else(|| {
            ChangeError::Invalid("this node may not change what others deploy".to_owned())
        })
    }
}
