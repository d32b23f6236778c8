//! Which functions a node brings to itself, whose code it keeps for the
//! federation, and what it lets go of: from what it hears of records, members
//! and calls, and how full it is.
//!
//! Plain state with time as an argument. Facts go in by methods, wishes come
//! out in a list, and whoever holds it carries them out: fetches, deploys,
//! removes, tells.
//!
//! Invariants:
//! * A function is brought here that is called often *now*: each call counts
//!   half after [`popularity::HALF_LIFE`].
//! * What was called here within [`IN_USE`] is not let go of for a guest's sake.
//! * What is deployed here, or kept for the federation, is never let go of.
//! * All who know the same members agree on who keeps what.

pub mod brought;
pub mod fetching;
pub mod holdings;
pub mod pins;
pub mod popularity;
pub mod settling;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::function::{FunctionSpec, Scope};
use weir_node_core::id::{Digest, FunctionName};
use weir_node_core::time::Time;

use self::brought::Brought;
pub use self::fetching::HOLDERS_MAX;
use self::holdings::Holdings;
use self::pins::{PINNINGS_MAX, Pinning, Pins};
use self::popularity::Popularity;
use crate::catalogue::{CodeRef, Entry, FUNCTIONS};
use crate::rendezvous::Members;

/// How often a node looks whether its functions are what their records say.
pub const RECONCILE_INTERVAL: Duration = Duration::from_secs(20);

/// How long after records came others of the same member are asked for.
const ASK_MORE_AFTER: Duration = Duration::from_secs(1);

/// Calls that others ran for this node, older ones [counting less](popularity),
/// from which on a function is worth bringing here: three within four minutes,
/// or one every seven for good.
const CALLS_WORTH_BRINGING: f64 = 2.5;

/// How long after a function was to be brought here it is tried again, if it is
/// still called that often.
const BRING_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Functions that were to be brought here and are not, that are remembered.
const BRINGING_MAX: usize = 1_024;

/// How full a node may be before it lets go of functions that it brought here
/// itself, so that there is room for those of its own users: 1 is to the brim.
const FULL: f64 = 0.9;

/// Functions that are let go of at once.
pub const LET_GO_MAX: usize = 64;

/// A function that was called within so long is not let go of for the sake of
/// other nodes' users.
pub const IN_USE: Duration = Duration::from_secs(600);

/// What a node is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Bring a function here, if it may and can run here.
    Bring(FunctionName),
    /// Fetch the code of a function if it is not here, keep it, and say so by
    /// [`Replication::pinned`].
    Pin(FunctionName, CodeRef),
    /// Keep code no more.
    Unpin(Digest),
    /// Ask a member for records that are not known here.
    Ask(PeerId),
    /// Hold all functions against their records, see [`course`].
    Reconcile,
}

/// Whose sake a function is brought here for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sake {
    /// This node's own users, or the federation's.
    Own,
    /// Users of other nodes.
    Guests,
}

impl Sake {
    /// For how long a function must not have been called to make room.
    fn unused(self) -> Duration {
        match self {
            Sake::Own => Duration::ZERO,
            Sake::Guests => IN_USE,
        }
    }
}

/// What a node has of a function.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// As it is here.
    pub spec: &'a FunctionSpec,
    /// Whether others were not told of it yet.
    pub is_untold: bool,
}

/// What to do about a function and its newest record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It is as it should be, or about to be.
    Leave,
    /// Bring it here: it is to be there before it is called.
    Prefetch,
    /// Bring the newer version here.
    Update,
    /// Remove it here: it was removed.
    Remove,
}

/// What to do about a function of which `entry` is the newest record.
/// `is_coming`: it is being brought here; `may_run`: this node may and can run
/// it.
pub fn course(
    entry: &Entry,
    own: Option<Own<'_>>,
    is_coming: bool,
    may_run: impl FnOnce() -> bool,
) -> Course {
    let Some(own) = own else {
        let prefetch = entry.spec.as_ref().is_some_and(|spec| spec.prefetch);
        return match prefetch && !is_coming && may_run() {
            true => Course::Prefetch,
            false => Course::Leave,
        };
    };
    // What is this node's alone is nobody else's to change; and of what is new
    // here the others hear next.
    if own.spec.scope == Scope::Node || own.is_untold {
        return Course::Leave;
    }
    match &entry.spec {
        None => Course::Remove,
        Some(spec) if **spec == *own.spec || is_coming => Course::Leave,
        Some(_) => Course::Update,
    }
}

/// Whether a function that is here was brought here, by the node's own choice:
/// what may be let go of.
pub fn is_brought(own: &FunctionSpec, entry: Option<&Entry>, node: &PeerId) -> bool {
    let elsewhere = entry.is_some_and(|entry| entry.writer != *node);
    own.scope != Scope::Node && !own.prefetch && elsewhere
}

/// What a node keeps of functions, and why.
#[derive(Debug)]
pub struct Replication {
    popularity: Popularity,
    /// When functions were to be brought here that are not yet.
    bringing: BTreeMap<FunctionName, Time>,
    bringing_by_time: BTreeSet<(Time, FunctionName)>,
    brought: Brought,
    holdings: Holdings,
    pins: Pins,
    /// Who is asked for more records, and how many there were.
    ask_more: Option<(PeerId, usize, Time)>,
    reconcile_at: Time,
}

impl Replication {
    /// Of the node `own`, from `now` on.
    pub fn new(own: PeerId, now: Time) -> Replication {
        Replication {
            popularity: Popularity::of_at_most(FUNCTIONS),
            bringing: BTreeMap::new(),
            bringing_by_time: BTreeSet::new(),
            brought: Brought::default(),
            holdings: Holdings::new(own),
            pins: Pins::default(),
            ask_more: None,
            reconcile_at: now,
        }
    }

    /// A function that is not here was called, and somebody else ran it. `may_run`:
    /// this node may and can.
    pub fn called_elsewhere(
        &mut self,
        name: &FunctionName,
        now: Time,
        may_run: impl FnOnce() -> bool,
        wishes: &mut Vec<Wish>,
    ) {
        let calls = self.popularity.called(name, now);
        let tried = self.bringing.get(name);
        let is_new = tried.is_none_or(|tried| now.since(*tried) >= BRING_RETRY_INTERVAL);
        if calls < CALLS_WORTH_BRINGING || !is_new || !may_run() {
            return;
        }
        self.forget_bringing(name);
        if self.bringing.len() >= BRINGING_MAX
            && let Some((_, oldest)) = self.bringing_by_time.pop_first()
        {
            self.bringing.remove(&oldest);
        }
        self.bringing.insert(name.clone(), now);
        self.bringing_by_time.insert((now, name.clone()));
        wishes.push(Wish::Bring(name.clone()));
    }

    fn forget_bringing(&mut self, name: &FunctionName) {
        if let Some(tried) = self.bringing.remove(name) {
            self.bringing_by_time.remove(&(tried, name.clone()));
        }
    }

    /// A function was brought here; how many calls it had, as in
    /// [`used`](Replication::used).
    pub fn came(&mut self, name: &FunctionName, calls: Option<u64>, now: Time) {
        self.popularity.remove(name);
        self.forget_bringing(name);
        self.used(name, calls, now);
    }

    /// How many calls a function had here by now; `None` when it is not here, or
    /// was [not brought](is_brought).
    pub fn used(&mut self, name: &FunctionName, calls: Option<u64>, now: Time) {
        self.brought.note(name, calls, now);
    }

    /// The next function to let go of to make room on a node that is so full (1
    /// is to the brim); `None` when there is room, or none may go. `calls` as in
    /// [`used`](Replication::used).
    pub fn let_go(
        &mut self,
        fullness: f64,
        sake: Sake,
        now: Time,
        calls: impl FnMut(&FunctionName) -> Option<u64>,
    ) -> Option<FunctionName> {
        if fullness < FULL {
            return None;
        }
        self.brought.pop_least_used(sake.unused(), now, calls)
    }

    /// A record came, changed, or (`None`) is known no more.
    pub fn record(&mut self, name: &FunctionName, entry: Option<&Entry>) {
        self.holdings.record(name, entry);
    }

    /// These functions, in the order of their names, are all that are known; of
    /// others nothing is any more.
    pub fn forget_all_but(&mut self, known: &[FunctionName]) {
        self.holdings.forget_all_but(known);
    }

    /// Who may keep code now; this node among them unless it is on its way out.
    pub fn members(&mut self, members: &Members) {
        self.holdings.members(members);
    }

    /// Code is to be kept, as a member asks.
    pub fn pin(&mut self, code: Digest, now: Time) -> Pinning {
        self.pins.want(code, now)
    }

    /// Whether code is kept for the federation.
    pub fn is_pinned(&self, code: &Digest) -> bool {
        self.pins.is_kept(code)
    }

    /// What became of code that was to be kept.
    pub fn pinned(&mut self, code: Digest, is_kept: bool, now: Time) {
        self.pins.pinned(code, is_kept, now);
    }

    /// Wishes that this node keeps what is its to keep, and no more.
    pub fn tend(&mut self, now: Time, wishes: &mut Vec<Wish>) {
        let mut begun = 0;
        for (name, code) in self.holdings.kept() {
            match begun < PINNINGS_MAX {
                true => match self.pins.want(code.artifact(), now) {
                    Pinning::Begin => {
                        begun += 1;
                        wishes.push(Wish::Pin(name.clone(), code));
                    }
                    Pinning::Kept | Pinning::UnderWay | Pinning::Full => {}
                },
                // What is kept stays so.
                false if self.pins.is_kept(&code.artifact()) => {
                    self.pins.want(code.artifact(), now);
                }
                false => {}
            }
        }
        let unwanted = self.pins.unwanted(now);
        wishes.extend(unwanted.into_iter().map(Wish::Unpin));
    }

    /// A member told in short what it knows, and that differs from what is known
    /// here, of `known` functions. Of many records whole parts are told, and then
    /// the next.
    pub fn differed(&mut self, from: PeerId, known: usize, now: Time) {
        self.ask_more = Some((from, known, now + ASK_MORE_AFTER));
    }

    /// When [`tick`](Replication::tick) has something to do.
    pub fn next_event(&self) -> Time {
        let ask = self.ask_more.map_or(Time::NEVER, |(_, _, at)| at);
        ask.min(self.reconcile_at)
    }

    /// What time brings; `known` functions are known here.
    pub fn tick(&mut self, now: Time, known: usize, wishes: &mut Vec<Wish>) {
        if let Some((from, before, _)) = self.ask_more.take_if(|(_, _, at)| *at <= now)
            && before != known
        {
            wishes.push(Wish::Ask(from));
        }
        if self.reconcile_at <= now {
            self.reconcile_at = now + RECONCILE_INTERVAL;
            self.popularity.tick(now);
            wishes.push(Wish::Reconcile);
            self.tend(now, wishes);
        }
    }

    /// Functions that were brought here.
    pub fn brought(&self) -> &Brought {
        &self.brought
    }
}
