//! Which functions' code a node is to keep for the federation, kept up as
//! members and records come and go.
//!
//! A node keeps code when fewer members than there are to be copies weigh more
//! for it. That number is kept per function: a member that comes or goes costs
//! one weight per function, a record one per member.

use std::collections::{BTreeMap, BTreeSet};

use libp2p_identity::PeerId;
use weir_node_core::function::FunctionSpec;
use weir_node_core::id::FunctionName;

use crate::catalogue::{CodeRef, Entry, FUNCTIONS};
use crate::rendezvous::{Among, Change, Member, Members};

/// A function with code.
#[derive(Debug, Clone, PartialEq)]
struct Holding {
    code: CodeRef,
    /// How many members are to have it.
    copies: usize,
    writer: PeerId,
    among: Among,
    /// Members before this node, the writer not counted; as long as this node
    /// is a member.
    before: usize,
}

impl Holding {
    fn new(entry: &Entry) -> Option<Holding> {
        let (code, spec) = (entry.record.code?, entry.spec.as_ref()?);
        Some(Holding {
            code,
            copies: usize::from(spec.copies.clamp(1, FunctionSpec::MOST_COPIES)),
            writer: entry.writer,
            among: match entry.record.topic {
                Some(_) => Among::Near,
                None => Among::All,
            },
            before: 0,
        })
    }

    fn counts(&self, member: &Member) -> bool {
        member.is_near || self.among == Among::All
    }

    /// Whether a member comes before `own`.
    fn is_before(&self, member: &Member, own: &Member) -> bool {
        let number = self.code.number();
        let weight = |member: &Member| (member.weight(number), member.id);
        self.counts(member) && member.id != self.writer && weight(member) > weight(own)
    }

    /// Whether this node is one of those that keep it.
    fn is_kept(&self, own: &Member, members: &Members) -> bool {
        if !self.counts(own) {
            return false;
        }
        if self.writer == own.id {
            return true;
        }
        let writer = members.get(&self.writer);
        let written = writer.is_some_and(|writer| self.counts(writer));
        self.before + usize::from(written) < self.copies
    }
}

/// Who keeps the code of a function: its writer, if that is a member, and as
/// many others as it takes to make the copies that its deployer asked for. The
/// same for whoever asks; none for a function without code.
pub fn keepers(entry: &Entry, members: &Members) -> Vec<PeerId> {
    let Some(holding) = Holding::new(entry) else {
        return Vec::new();
    };
    let writer = members.get(&holding.writer);
    let writer = writer.filter(|writer| holding.counts(writer));
    let ranked = members.ranked(holding.code.number(), holding.among);
    let ranked = ranked.filter(|peer| *peer != holding.writer);
    let writer = writer.map(|writer| writer.id);
    writer
        .into_iter()
        .chain(ranked)
        .take(holding.copies)
        .collect()
}

/// All functions with code, and which of it this node keeps.
#[derive(Debug)]
pub struct Holdings {
    own: PeerId,
    members: Members,
    functions: BTreeMap<FunctionName, Holding>,
    kept: BTreeSet<FunctionName>,
}

impl Holdings {
    /// Of the node `own`; nobody is a member yet.
    pub fn new(own: PeerId) -> Holdings {
        Holdings {
            own,
            members: Members::default(),
            functions: BTreeMap::new(),
            kept: BTreeSet::new(),
        }
    }

    /// Takes note of who may keep code now; this node is among them unless it
    /// is on its way out.
    pub fn members(&mut self, members: &Members) {
        let changes = self.members.changes(members);
        if changes.is_empty() {
            return;
        }
        let before = self.members.get(&self.own).copied();
        self.members = members.clone();
        let Some(own) = members.get(&self.own).copied() else {
            self.kept.clear();
            return;
        };
        let all = std::mem::take(&mut self.functions);
        for (name, mut holding) in all {
            match before {
                Some(before) if before == own => {
                    for change in &changes {
                        match change {
                            Change::Came(member) if holding.is_before(member, &own) => {
                                holding.before += 1;
                            }
                            Change::Went(member) if holding.is_before(member, &own) => {
                                holding.before = holding.before.saturating_sub(1);
                            }
                            Change::Came(_) | Change::Went(_) => {}
                        }
                    }
                }
                Some(_) | None => holding.before = count_before(&holding, &own, members),
            }
            self.place(name, holding);
        }
    }

    /// Takes note of the newest record of a function; `None` when nothing is
    /// known of it any more.
    pub fn record(&mut self, name: &FunctionName, entry: Option<&Entry>) {
        let holding = entry.and_then(Holding::new);
        let Some(mut holding) = holding else {
            self.functions.remove(name);
            self.kept.remove(name);
            return;
        };
        if self.functions.len() >= FUNCTIONS && !self.functions.contains_key(name) {
            return;
        }
        if let Some(own) = self.members.get(&self.own) {
            holding.before = count_before(&holding, own, &self.members);
        }
        self.place(name.clone(), holding);
    }

    /// Forgets all functions but these, which are in the order of their names.
    pub fn forget_all_but(&mut self, known: &[FunctionName]) {
        let is_known = |name: &FunctionName| known.binary_search(name).is_ok();
        self.functions.retain(|name, _| is_known(name));
        self.kept.retain(is_known);
    }

    fn place(&mut self, name: FunctionName, holding: Holding) {
        let own = self.members.get(&self.own);
        match own.is_some_and(|own| holding.is_kept(own, &self.members)) {
            true => self.kept.insert(name.clone()),
            false => self.kept.remove(&name),
        };
        self.functions.insert(name, holding);
    }

    /// The functions whose code this node is to keep.
    pub fn kept(&self) -> impl Iterator<Item = (&FunctionName, CodeRef)> {
        let kept = self.kept.iter();
        kept.filter_map(|name| Some((name, self.functions.get(name)?.code)))
    }

    /// How many functions with code are known.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }
}

fn count_before(holding: &Holding, own: &Member, members: &Members) -> usize {
    let before = members.iter();
    before
        .filter(|member| holding.is_before(member, own))
        .count()
}
