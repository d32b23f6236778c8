//! What an operator sees of the policies of a running node, and changes: which
//! is for which calls, their tables, and what is said to be congested.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use weir_node::id::FunctionName;

use super::by_hand::{BY_HAND_MAX, ByHand, Calls};
use super::{BY_HAND_FILE, Dispatch, Held, Inner};
use crate::PeerId;
use crate::congestion::CONGESTED_MAX;
use crate::policy::{Choice, ClassKey, Policy};

/// Rows of routes that one question is answered with, at most.
pub const ROUTES_MAX: usize = 4_096;

/// A policy that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// For which calls: `all`, `class/NAME` or `function/NAME.NAMESPACE`.
    pub calls: String,
    /// With its parameters, as it would be written.
    pub policy: String,
    /// Who said so: `configuration`, `label` or `set by hand`.
    pub said_by: &'static str,
}

/// A row of a policy's table: what one destination weighs for calls of one
/// function.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// The function, with its namespace.
    pub function: String,
    /// The QoS class; none for calls that name none.
    pub class: Option<String>,
    /// The policy whose table it is in.
    pub policy: &'static str,
    /// Where to: a peer; none for this node.
    pub to: Option<String>,
    /// Its weight, in the policy's own unit; none for infinite.
    pub weight: Option<f64>,
}

/// Why a policy or a row is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unchanged {
    /// There may be no more.
    #[error("{BY_HAND_MAX} policies are set by hand on this node, and no more can be")]
    TooMany,
    /// The disk refused.
    #[error("what was set cannot be written down, and would end with this process: {0}")]
    Disk(String),
    /// The policy has no such table.
    #[error("policy {0} keeps no table that can be changed by hand")]
    NoTable(&'static str),
}

/// Why a notice of congestion is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unnoticed {
    /// It is of the node that was told.
    #[error("that is this node, which knows its own load")]
    Itself,
    /// There may be no more.
    #[error("{CONGESTED_MAX} nodes are said to be congested: clear some first")]
    TooMany,
}

/// Policies that are in force, by the calls for which they are and as they are
/// written, with who said so.
pub(super) fn rows(
    all: impl IntoIterator<Item = (String, String)>,
    by_hand: Option<&ByHand>,
) -> Vec<InForce> {
    let mut all: BTreeMap<String, (String, &'static str)> = all
        .into_iter()
        .map(|(scope, policy)| {
            let said_by = match scope.starts_with("function/") {
                true => "label",
                false => "configuration",
            };
            (scope, (policy, said_by))
        })
        .collect();
    let set = by_hand.into_iter().flat_map(ByHand::iter);
    all.extend(
        set.map(|(calls, made)| (calls.to_string(), (made.choice.to_string(), "set by hand"))),
    );
    let all = all.into_iter().map(|(scope, (policy, said_by))| InForce {
        calls: match scope.is_empty() {
            true => "all".to_owned(),
            false => scope,
        },
        policy,
        said_by,
    });
    all.collect()
}

impl Dispatch {
    /// The policies by which this node places calls.
    pub fn policies(&self) -> Vec<InForce> {
        let policies = &self.inner.policies;
        let all = policies.held().into_iter();
        let all = all.map(|held| (held.scope, held.text));
        rows(all, policies.by_hand.load_full().as_deref())
    }

    /// Places calls by another policy from now on, over restarts too; calls that
    /// are being placed go on by the one with which they began. With `None` those
    /// of the configuration and of labels are in force again; `false` where
    /// nothing had been set. Blocks on the disk.
    ///
    /// # Errors
    /// Why everything is as it was, save that a policy which cannot be written
    /// down is in force until this process ends.
    pub fn set_policy(&self, calls: &Calls, choice: Option<Choice>) -> Result<bool, Unchanged> {
        let Inner { node, policies, .. } = &*self.inner;
        let now = node.clock().now();
        let _changing = policies.adding.lock();
        let current = policies.by_hand.load_full();
        let current = current.as_deref().cloned().unwrap_or_default();
        let Some((next, had)) = current.with(calls, choice)? else {
            return Ok(false);
        };
        let before = policies.held();
        let written = next.written();
        let next = (next.len() > 0).then(|| Arc::new(next));
        policies.by_hand.store(next);
        policies.take_over(&before, now);
        policies.added.notify_one();
        crate::member::save(&policies.by_hand_path(), &written)
            .map_err(|error| Unchanged::Disk(error.to_string()))?;
        Ok(had)
    }

    /// Takes note that a peer, or the way to it, is congested for so long.
    ///
    /// # Errors
    /// Why that is not noted.
    pub fn notice_congestion(&self, peer: PeerId, lasts: Duration) -> Result<(), Unnoticed> {
        if peer == self.inner.federated.shared.id {
            return Err(Unnoticed::Itself);
        }
        let now = self.inner.node.clock().now();
        let congestion = &self.inner.policies.congestion;
        match congestion.change(|congestion| congestion.notice(peer, now + lasts, now)) {
            true => Ok(()),
            false => Err(Unnoticed::TooMany),
        }
    }

    /// Takes that back; `false` when nobody had said so.
    pub fn clear_congestion(&self, peer: &PeerId) -> bool {
        let congestion = &self.inner.policies.congestion;
        congestion.change(|congestion| congestion.clear(peer))
    }

    /// Who is said to be congested, and for how much longer.
    pub fn congested(&self) -> Vec<(PeerId, Duration)> {
        let now = self.inner.node.clock().now();
        let congestion = self.inner.policies.congestion.load();
        let all = congestion.iter().flat_map(|all| all.congested(now));
        all.map(|(peer, until)| (peer, until.since(now))).collect()
    }

    /// What each destination weighs for calls of a function: the rows that its
    /// policies' tables have, at most [`ROUTES_MAX`]. `classes` are those of this
    /// node.
    pub fn routes(&self, function: &FunctionName, classes: &[String]) -> Vec<Route> {
        let inner = &self.inner;
        let view = inner.federated.shared.view.load_full();
        let named = classes.iter().map(|class| Some(class.as_str()));
        let mut routes = Vec::new();
        for class in std::iter::once(None).chain(named) {
            let policy = inner.policy_of(function, class);
            let key = ClassKey::of(class);
            let peers = view.peers.iter().map(|peer| Some(peer.id));
            for to in std::iter::once(None).chain(peers) {
                let Some(weight) = policy.weight(function, key, to.as_ref()) else {
                    continue;
                };
                if routes.len() == ROUTES_MAX {
                    return routes;
                }
                routes.push(Route {
                    function: function.qualified(),
                    class: class.map(str::to_owned),
                    policy: policy.name(),
                    to: to.map(|peer| peer.to_string()),
                    weight: weight.is_finite().then_some(weight),
                });
            }
        }
        routes
    }

    /// Gives a destination, `None` for this node, another weight for calls of a
    /// function and class; without a weight it is forgotten, and learned anew.
    ///
    /// # Errors
    /// When the policy lets nobody change it.
    pub fn set_route(
        &self,
        function: &FunctionName,
        class: Option<&str>,
        to: Option<&PeerId>,
        weight: Option<f64>,
    ) -> Result<(), Unchanged> {
        let policy = self.inner.policy_of(function, class);
        let now = self.inner.node.clock().now();
        match policy.set_weight(function, ClassKey::of(class), to, weight, now) {
            true => Ok(()),
            false => Err(Unchanged::NoTable(policy.name())),
        }
    }
}

impl Inner {
    /// The policy by which calls of a function and class are placed here.
    fn policy_of(&self, function: &FunctionName, class: Option<&str>) -> Arc<dyn Policy> {
        let entry = || self.federated.entry(function)?.spec.clone();
        let spec = self.node.spec(function).or_else(entry);
        let now = self.node.clock().now();
        self.policies.of(spec.as_deref(), class, now).shared()
    }
}

impl super::Policies {
    /// Has policies that are new take what others of their name kept for the same
    /// calls, and keeps what those learned that are gone.
    fn take_over(&self, before: &[Held], now: weir_node::time::Time) {
        let after = self.held();
        let is_in = |all: &[Held], one: &Held| {
            all.iter()
                .any(|other| other.scope == one.scope && Arc::ptr_eq(&other.policy, &one.policy))
        };
        for gone in before.iter().filter(|held| !is_in(&after, held)) {
            self.set_aside(gone);
        }
        for new in after.iter().filter(|held| !is_in(before, held)) {
            self.restore(new, now);
        }
    }

    /// Loads what an earlier life was told by hand.
    pub(super) fn load_by_hand(&self) {
        let by_hand = ByHand::load(&self.by_hand_path());
        if by_hand.len() > 0 {
            self.by_hand.store(Some(Arc::new(by_hand)));
        }
    }

    fn by_hand_path(&self) -> std::path::PathBuf {
        self.path.with_file_name(BY_HAND_FILE)
    }
}
