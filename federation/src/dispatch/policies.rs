//! The policies that a node holds: by which its calls are placed, what they wish
//! for between decisions, and what they keep over a restart.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use libp2p_identity::PeerId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::sync::Notify;
use tracing::{debug, warn};
use weir_node::function::FunctionSpec;
use weir_node::id::FunctionName;
use weir_node::time::Time;

pub use self::alone::Alone;
use self::by_hand::ByHand;
pub use self::by_hand::{BY_HAND_MAX, Calls};
use self::congested::Congested;
pub use self::managing::{InForce, ROUTES_MAX, Route, Unchanged, Unnoticed};
use super::{Dispatch, Inner, POLICY_LABEL};
use crate::congestion::Congestion;
use crate::federated::{Federated, NoteHeard, Placing};
use crate::message::Note;
use crate::peers::Met;
use crate::policy::{
    self, Choice, Field, Policy, Probed, SAVE_INTERVAL, SAVED_BYTES_MAX, WishLimits, Wishes,
};
use crate::report::Load;
use crate::snapshot::Word;

mod alone;
mod by_hand;
mod congested;
mod managing;

/// Functions with a policy of their own, at most; more are placed as if they had
/// none.
const FUNCTIONS_MAX: usize = 1_024;

/// Most bytes that all policies together keep over a restart.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// Policies that are in force no more and whose memory is kept.
const SET_ASIDE_MAX: usize = 4_096;

/// The file of what policies keep, in the federation's folder.
const FILE: &str = "policies";

/// The file of what was set by hand, beside it.
const BY_HAND_FILE: &str = "policies-by-hand";

/// A policy, and how it is written.
#[derive(Clone)]
pub struct Rule {
    /// With its parameters.
    pub text: String,
    /// It, with a memory of its own.
    pub policy: Arc<dyn Policy>,
}

impl From<&Choice> for Rule {
    fn from(choice: &Choice) -> Rule {
        Rule {
            text: choice.to_string(),
            policy: choice.build(),
        }
    }
}

/// How calls are placed.
#[derive(Clone)]
pub struct Rules {
    /// Where nothing else is said.
    pub default: Rule,
    /// By QoS class.
    pub by_class: BTreeMap<String, Rule>,
}

impl Rules {
    /// For which calls they are, as [`Calls`] is written, and how each is written.
    fn written(&self) -> impl Iterator<Item = (String, String)> {
        let classes = self.by_class.iter();
        let classes = classes.map(|(class, rule)| (format!("class/{class}"), rule.text.clone()));
        std::iter::once((String::new(), self.default.text.clone())).chain(classes)
    }
}

/// The policy of one call.
pub(super) enum Chosen<'a> {
    /// The node's, or a class's, as the configuration says.
    Usual(&'a Arc<dyn Policy>),
    /// A function's, or one that was set by hand.
    Own(Arc<dyn Policy>),
}

impl Chosen<'_> {
    fn shared(&self) -> Arc<dyn Policy> {
        match self {
            Chosen::Usual(policy) => Arc::clone(policy),
            Chosen::Own(policy) => policy.clone(),
        }
    }
}

impl Deref for Chosen<'_> {
    type Target = dyn Policy;

    fn deref(&self) -> &(dyn Policy + 'static) {
        match self {
            Chosen::Usual(policy) => &***policy,
            Chosen::Own(policy) => &**policy,
        }
    }
}

/// The policy that a function chose.
#[derive(Clone)]
struct OfFunction {
    /// As its label has it.
    text: String,
    /// `None` where this version knows no such policy, or too many have one.
    policy: Option<Arc<dyn Policy>>,
}

/// What policies learned, as the disk has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    policy: String,
    /// For which calls: see [`Held::scope`].
    scope: String,
    bytes: ByteBuf,
}

/// A policy, and what it is for.
#[derive(Clone)]
struct Held {
    /// What [`Calls`] is written as: policies of one name and scope at several
    /// nodes are alike.
    scope: String,
    /// It, with its parameters, as it is written.
    text: String,
    policy: Arc<dyn Policy>,
}

/// All policies of a node.
pub(super) struct Policies {
    rules: Rules,
    /// What was set by hand stands before all else; mostly nothing was.
    by_hand: ArcSwapOption<ByHand>,
    by_function: ArcSwap<HashMap<FunctionName, OfFunction>>,
    pub(super) congestion: Congested,
    /// Held while a function's is added, or one is set.
    adding: Mutex<()>,
    /// What they kept in an earlier life and nobody took yet, by name and scope.
    saved: Mutex<BTreeMap<(String, String), ByteBuf>>,
    /// There is one more of them.
    added: Arc<Notify>,
    /// Held while that is written, with what was written last.
    written: Mutex<Vec<u8>>,
    path: PathBuf,
}

impl Policies {
    pub(super) fn new(rules: Rules, federated: &Federated, now: Time) -> Policies {
        let path = federated.settings().folder.join(FILE);
        let saved = std::fs::read(&path).unwrap_or_default();
        let policies = Policies {
            rules,
            by_hand: ArcSwapOption::empty(),
            by_function: ArcSwap::default(),
            congestion: Congested::default(),
            adding: Mutex::default(),
            saved: Mutex::new(read(&saved)),
            added: Arc::default(),
            written: Mutex::new(saved),
            path,
        };
        policies.load_by_hand();
        for held in policies.held() {
            policies.restore(&held, now);
        }
        policies
    }

    /// That by which a call is placed: its function's, else its class's, else the
    /// node's; of each what was set by hand, else what was said otherwise.
    pub(super) fn of(
        &self,
        spec: Option<&FunctionSpec>,
        class: Option<&str>,
        now: Time,
    ) -> Chosen<'_> {
        let by_hand = self.by_hand.load();
        if let (Some(by_hand), Some(spec)) = (&*by_hand, spec)
            && let Some(made) = by_hand.functions.get(&spec.name)
        {
            return Chosen::Own(made.policy.clone());
        }
        if let Some(spec) = spec
            && let Some(text) = spec.labels.get(POLICY_LABEL)
            && let Some(policy) = self.of_function(&spec.name, text, now)
        {
            return Chosen::Own(policy);
        }
        let by_class = class.and_then(|class| self.rules.by_class.get(class));
        if let Some(by_hand) = &*by_hand {
            let of_class = class.and_then(|class| by_hand.classes.get(class));
            let of_all = by_hand.all.as_ref().filter(|_| by_class.is_none());
            if let Some(made) = of_class.or(of_all) {
                return Chosen::Own(made.policy.clone());
            }
        }
        Chosen::Usual(&by_class.unwrap_or(&self.rules.default).policy)
    }

    /// A function's policy, made when its first call comes after it was deployed,
    /// or after its label changed.
    fn of_function(&self, name: &FunctionName, text: &str, now: Time) -> Option<Arc<dyn Policy>> {
        if let Some(held) = self.by_function.load().get(name)
            && held.text == text
        {
            return held.policy.clone();
        }
        let _adding = self.adding.lock();
        let mut all = HashMap::clone(&self.by_function.load());
        if let Some(held) = all.get(name)
            && held.text == text
        {
            return held.policy.clone();
        }
        let has_room = all.len() < FUNCTIONS_MAX || all.contains_key(name);
        let choice = text.parse::<Choice>();
        if let Err(wrong) = &choice {
            warn!(function = %name, %wrong, "a function chose no policy that is known here");
        }
        if !has_room {
            return None;
        }
        let policy = choice.ok().map(|choice| choice.build());
        let held = OfFunction {
            text: text.to_owned(),
            policy: policy.clone(),
        };
        if let Some(policy) = &policy {
            let scope = Calls::OfFunction(name.clone()).to_string();
            self.restore(
                &Held {
                    scope,
                    text: text.to_owned(),
                    policy: policy.clone(),
                },
                now,
            );
        }
        all.insert(name.clone(), held);
        self.by_function.store(Arc::new(all));
        self.added.notify_one();
        policy
    }

    /// Forgets those of functions that are gone.
    fn retain(&self, exists: impl Fn(&FunctionName) -> bool) {
        let all = self.by_function.load();
        if all.keys().all(&exists) {
            return;
        }
        let _adding = self.adding.lock();
        let mut all = HashMap::clone(&self.by_function.load());
        all.retain(|name, _| exists(name));
        self.by_function.store(Arc::new(all));
    }

    /// All of them that are in force.
    fn held(&self) -> Vec<Held> {
        let usual = |scope: String, rule: &Rule| (scope, (rule.text.clone(), rule.policy.clone()));
        let classes = self.rules.by_class.iter();
        let classes = classes.map(|(class, rule)| usual(format!("class/{class}"), rule));
        let functions = self.by_function.load();
        let functions = functions.iter().filter_map(|(name, held)| {
            let scope = format!("function/{}", name.qualified());
            Some((scope, (held.text.clone(), held.policy.clone()?)))
        });
        let node = usual(String::new(), &self.rules.default);
        let mut all: BTreeMap<_, _> = [node].into_iter().chain(classes).chain(functions).collect();
        if let Some(by_hand) = &*self.by_hand.load() {
            for (calls, made) in by_hand.iter() {
                let held = (made.choice.to_string(), made.policy.clone());
                all.insert(calls.to_string(), held);
            }
        }
        let all = all.into_iter();
        all.map(|(scope, (text, policy))| Held {
            scope,
            text,
            policy,
        })
        .collect()
    }

    /// The policy of this name that is for this.
    fn named(&self, name: &str, scope: &str) -> Option<Arc<dyn Policy>> {
        let calls = Calls::read(scope)?;
        let by_hand = self.by_hand.load();
        let found = match by_hand.as_ref().and_then(|by_hand| by_hand.get(&calls)) {
            Some(made) => Some(made.policy.clone()),
            None => match calls {
                Calls::All => Some(self.rules.default.policy.clone()),
                Calls::OfClass(class) => {
                    let rule = self.rules.by_class.get(&class);
                    rule.map(|rule| rule.policy.clone())
                }
                Calls::OfFunction(function) => {
                    self.by_function.load().get(&function)?.policy.clone()
                }
            },
        };
        found.filter(|policy| policy.name() == name)
    }

    /// Keeps what a policy learned that is in force no more, for when it is again.
    fn set_aside(&self, held: &Held) {
        let Some(bytes) = held.policy.save() else {
            return;
        };
        let key = (held.policy.name().to_owned(), held.scope.clone());
        let mut saved = self.saved.lock();
        if bytes.len() <= SAVED_BYTES_MAX && saved.len() < SET_ASIDE_MAX {
            saved.insert(key, ByteBuf::from(bytes));
        }
    }

    fn restore(&self, held: &Held, now: Time) {
        let key = (held.policy.name().to_owned(), held.scope.clone());
        let saved = {
            let mut saved = self.saved.lock();
            saved.remove(&key)
        };
        if let Some(bytes) = saved
            && let Err(error) = held.policy.restore(&bytes, now)
        {
            debug!(policy = key.0, scope = key.1, %error, "a policy begins anew");
        }
    }

    /// Writes down what they learned, where that changed. Blocks on the disk.
    fn keep(&self) {
        let mut saved: Vec<Saved> = Vec::new();
        let mut total = 0_usize;
        for held in self.held() {
            let Some(bytes) = held.policy.save() else {
                continue;
            };
            total = total.saturating_add(bytes.len());
            if bytes.len() > SAVED_BYTES_MAX || total > KEPT_BYTES_MAX {
                debug!(
                    policy = held.policy.name(),
                    "what a policy keeps is too much"
                );
                continue;
            }
            saved.push(Saved {
                policy: held.policy.name().to_owned(),
                scope: held.scope,
                bytes: ByteBuf::from(bytes),
            });
        }
        // What nobody took yet may be of a function that has not been called.
        let waiting = self.saved.lock();
        for ((policy, scope), bytes) in waiting.clone() {
            total = total.saturating_add(bytes.len());
            if total <= KEPT_BYTES_MAX {
                saved.push(Saved {
                    policy,
                    scope,
                    bytes,
                });
            }
        }
        drop(waiting);
        let bytes = match saved.is_empty() {
            true => Vec::new(),
            false => cbor4ii::serde::to_vec(Vec::new(), &saved).unwrap_or_default(),
        };
        let mut written = self.written.lock();
        if *written == bytes {
            return;
        }
        match crate::member::save(&self.path, &bytes) {
            Ok(()) => *written = bytes,
            Err(error) => warn!(%error, "what policies learned cannot be written down"),
        }
    }
}

/// What the disk has, as far as it can be read.
fn read(bytes: &[u8]) -> BTreeMap<(String, String), ByteBuf> {
    let saved: Vec<Saved> = cbor4ii::serde::from_slice(bytes).unwrap_or_default();
    let all = saved.into_iter();
    all.map(|saved| ((saved.policy, saved.scope), saved.bytes))
        .collect()
}

impl Placing for Inner {
    fn load_for(&self, peer: &PeerId) -> Load {
        self.federated.load(&self.node, Some(peer))
    }

    fn hear(&self, from: PeerId, note: &Note, now: Time) -> NoteHeard {
        match self.policies.named(&note.policy, &note.scope) {
            None => NoteHeard::Elsewhere,
            Some(policy) => match policy.hear(from, &note.body, now) {
                Ok(()) => NoteHeard::Heard,
                Err(_) => NoteHeard::Malformed,
            },
        }
    }
}

/// What is kept between two rounds of the loop.
struct Round {
    /// When each is to be called next, by its scope, with which that was.
    next: HashMap<String, (Weak<dyn Policy>, Time)>,
    limits: WishLimits,
    kept: Time,
}

/// Calls policies between decisions, and does what they wish for, for as long as
/// there is a node.
pub(super) async fn drive(inner: Weak<Inner>) {
    let Some(own) = inner.upgrade().map(|node| node.federated.shared.id) else {
        return;
    };
    let mut round = Round {
        next: HashMap::new(),
        limits: WishLimits::new(own),
        kept: Time::ZERO,
    };
    loop {
        let Some(node) = inner.upgrade() else { return };
        let next = Box::pin(round.once(&node)).await;
        let until = node.node.clock().instant(next);
        let until = until.unwrap_or_else(std::time::Instant::now);
        let added = node.policies.added.clone();
        // The node may end meanwhile.
        drop(node);
        let _ = tokio::time::timeout_at(until.into(), added.notified()).await;
    }
}

impl Round {
    /// Calls those whose time it is; when to do that again.
    async fn once(&mut self, inner: &Arc<Inner>) -> Time {
        let now = inner.node.clock().now();
        let all = inner.policies.held();
        let mut next = self.kept + SAVE_INTERVAL;
        if next <= now {
            inner.keep_what_was_learned().await;
            (self.kept, next) = (now, now + SAVE_INTERVAL);
            let exists = |name: &FunctionName| {
                inner.node.spec(name).is_some() || inner.federated.entry(name).is_some()
            };
            inner.policies.retain(exists);
        }
        let scopes: Vec<&str> = all.iter().map(|held| held.scope.as_str()).collect();
        self.next
            .retain(|scope, _| scopes.contains(&scope.as_str()));
        for held in &all {
            let is_same = |before: &Weak<dyn Policy>| {
                std::ptr::addr_eq(before.as_ptr(), Arc::as_ptr(&held.policy))
            };
            let due = match self.next.get(&held.scope) {
                Some((before, due)) if is_same(before) => *due,
                Some(_) | None => now,
            };
            let due = match due <= now {
                true => self.tick(inner, held).await,
                false => due,
            };
            let entry = (Arc::downgrade(&held.policy), due);
            self.next.insert(held.scope.clone(), entry);
            next = next.min(due);
        }
        next
    }

    async fn tick(&mut self, inner: &Arc<Inner>, held: &Held) -> Time {
        let (node, policy) = (inner.clone(), held.policy.clone());
        let thought = tokio::task::spawn_blocking(move || node.think(&*policy)).await;
        let Ok((next, wishes)) = thought else {
            warn!(
                policy = held.policy.name(),
                "a policy failed; it is not called again"
            );
            return Time::NEVER;
        };
        let now = inner.node.clock().now();
        for peer in self.limits.probes(&wishes, now) {
            let (probing, policy) = (inner.clone(), held.policy.clone());
            inner
                .federated
                .spawn(async move { probing.probe(peer, &*policy).await });
        }
        if let Some((sequence, body)) = self.limits.note(&wishes, now) {
            inner.federated.tell_note(Note {
                policy: held.policy.name().to_owned(),
                scope: held.scope.clone(),
                epoch: 0,
                sequence,
                body: ByteBuf::from(body),
            });
        }
        policy::next_tick(next, now)
    }
}

impl Inner {
    /// Calls a policy between decisions.
    fn think(&self, policy: &dyn Policy) -> (Time, Wishes) {
        let shared = &self.federated.shared;
        let (view, regions) = (shared.view.load_full(), shared.regions.load_full());
        let congestion = self.policies.congestion.load();
        let nothing = Congestion::default();
        let mut wishes = Wishes::default();
        let field = Field {
            own: shared.id,
            role: shared.role,
            architecture: std::env::consts::ARCH,
            load: self.federated.load(&self.node, None),
            regions: &regions,
            view: &view,
            congestion: congestion.as_deref().unwrap_or(&nothing),
            now: self.node.clock().now(),
            chance: rand::random(),
        };
        (policy.tick(&field, &mut wishes), wishes)
    }

    /// Asks a peer how loaded it is, for a policy that wishes to know.
    async fn probe(&self, peer: PeerId, policy: &dyn Policy) {
        let began = self.node.clock().now();
        let load = match self.federated.probe(peer).await {
            Ok(load) => Some(load),
            Err(reason) => {
                debug!(%peer, reason, "a peer is asked over what carries calls");
                let addresses = self.federated.shared.view.load();
                let addresses = addresses.peer(&peer).map(|peer| peer.carriage.clone());
                match addresses {
                    Some(addresses) => self.ask_load(peer, &addresses).await.ok().flatten(),
                    None => None,
                }
            }
        };
        let now = self.node.clock().now();
        if let Some(load) = load {
            self.learn_load(peer, load);
        }
        policy.probed(&Probed {
            peer,
            load,
            took: now.since(began),
            now,
        });
    }

    /// Takes a peer's word of its load, where that is one of its room too.
    fn learn_load(&self, peer: PeerId, load: Load) {
        let view = self.federated.shared.view.load();
        if policy::is_room_told(view.peer(&peer)) {
            let under_way = 0;
            self.federated
                .met(peer, Met::Told(Some(Word { load, under_way })));
        }
    }

    /// Writes down what policies learned.
    pub(super) async fn keep_what_was_learned(self: &Arc<Self>) {
        let inner = self.clone();
        let kept = tokio::task::spawn_blocking(move || inner.policies.keep()).await;
        if kept.is_err() {
            warn!("a policy failed to say what it learned");
        }
    }
}

#[cfg(test)]
mod tests;
