//! Where a call goes: policies, and what they decide about.
//!
//! A decision sees a [`Request`], a [`Snapshot`] and what its policy remembers, and
//! cannot fail. The list of policies is [`KINDS`]; adding one touches its own file
//! and that list.
//!
//! A policy is made from parameters ([`Choice`]) and held by whoever places calls
//! by it: for a node, a QoS class or a function. It may learn:
//!
//! | | when | what for |
//! |---|---|---|
//! | [`Policy::decide`], [`Policy::receive`] | for each call, many at once | where it goes |
//! | [`Policy::observe`] | at the end of each attempt | how that went |
//! | [`Policy::tick`] | when it asked for it | to work out a [`Plan`], to wish for a probe or a note |
//! | [`Policy::probed`] | after a probe | how loaded a peer is now |
//! | [`Policy::hear`] | for a note of a policy like it | what that knows |
//! | [`Policy::save`], [`Policy::restore`] | now and then; at a start | what is worth keeping |
//! | [`Policy::weight`], [`Policy::set_weight`] | when somebody asks | its table, by hand |
//!
//! All of them are called by many threads at once, and remember by atomics:
//! [`Memory`] and [`Plan`].

mod adaptive;
mod all_local;
mod architecture_aware;
mod area;
mod auction;
mod bandit;
mod broker;
mod c3;
mod case;
mod ch_bl;
mod ch_rlu;
mod cloud_only;
mod delay;
mod edge_cloud;
mod edge_only;
mod hash_ring;
mod hashing;
mod hermod;
mod hiku;
mod idle;
mod join_idle_queue;
mod latency_threshold;
mod learning;
mod least_impedance;
mod least_outstanding;
mod limits;
mod linucb;
mod local_only;
mod memory;
mod node_margin;
mod parameters;
mod peak_ewma;
mod power_of_d;
mod prequal;
mod probe;
mod proportional_fairness;
mod qos_aware;
mod random;
mod random_proportional;
mod recalc;
mod ring;
mod round_robin;
mod rtt;
mod servers;
mod spill;
mod stale_li;
mod static_shares;
mod ucb1;
mod util;
mod weigh;

#[cfg(test)]
mod testbed;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use crate::beside::Beside;
use crate::explain::Witness;
use crate::snapshot::{Cost, Here, Snapshot};

use case::ASKED_MAX;

pub use case::{Candidate, Case, LOOKED_AT, Terms};
pub use learning::{
    ClassKey, Ending, Field, Malformed, NOTE_BYTES_MAX, Outcome, PROBES_MAX, Probed,
    SAVED_BYTES_MAX, TICK_INTERVAL_MIN, Wishes,
};
pub use limits::{HeardLimits, SAVE_INTERVAL, Unheard, WishLimits, is_room_told, next_tick};
pub use memory::{Cell, Memory, Plan, Which};
pub use parameters::{
    CHOICE_BYTES_MAX, Choice, Key, Kind, Outside, Parameters, Range, Value, Wrong,
};
pub use weigh::{Lack, fits, lacks, room_of, weigh, weigh_all};

/// How a call that is decided about came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a user.
    Here,
    /// From a neighbour.
    Neighbour,
    /// From outside of this node's region, or from a member of it.
    Region {
        /// Whether its sender is a member of the same region.
        inside: bool,
    },
}

/// What a function needs of a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs<'a> {
    /// Processor that its code is made for; `None` for any.
    pub architecture: Option<&'a str>,
    /// Executor that runs it; `None` for any.
    pub executor: Option<&'a str>,
    /// Labels that the node must have.
    pub constraints: Option<&'a BTreeMap<String, String>>,
    /// Whether it asks for grants, which stay where it was deployed.
    pub grants: bool,
    /// Bytes of code that a node without it has to bring.
    pub code_bytes: u64,
}

/// How far from the node that a function was deployed to it may run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bounds {
    /// There alone.
    Node,
    /// In its zone or region.
    Zone,
    /// Everywhere.
    #[default]
    Federation,
}

/// A call to be decided about.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Which function.
    pub function: &'a FunctionName,
    /// Version of its record; 0 for one that has none.
    pub version: u64,
    /// Who deployed it, and has it therefore.
    pub writer: Option<PeerId>,
    /// What it needs of a node.
    pub needs: Needs<'a>,
    /// Where it may run.
    pub bounds: Bounds,
    /// What a call of it takes.
    pub cost: Cost,
    /// How it came here.
    pub origin: Origin,
    /// Nodes that it visited, and peers that were tried for it in vain.
    pub avoid: &'a [PeerId],
    /// Peers where the function fails and not elsewhere.
    pub failing: &'a [PeerId],
    /// Whether it may go where the function fails: nobody else has room.
    pub anywhere: bool,
    /// How many more nodes it may visit.
    pub hops: u8,
    /// When its answer is of no more use.
    pub deadline: Time,
    /// What only some policies look at.
    pub more: More<'a>,
}

/// A QoS class of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Class<'a> {
    /// Its name; `None` for calls that name none.
    pub name: Option<&'a str>,
    /// What stands for it in tables.
    pub key: ClassKey,
    /// The deadline of its calls that bring none.
    pub deadline: Option<Duration>,
}

/// What only some policies look at of a call.
#[derive(Debug, Clone, Copy, Default)]
pub struct More<'a> {
    /// Its QoS class.
    pub class: Class<'a>,
    /// When it came to this node.
    pub arrived: Time,
    /// Who sent it; `None` for this node's own users.
    pub from: Option<PeerId>,
    /// Bytes of its body; `None` where they are not known yet.
    pub body_bytes: Option<u64>,
    /// How long it would take to bring the code of its function here; `None` where
    /// it is here, or nobody knows.
    pub fetch: Option<Duration>,
    /// Calls in a second that the function is meant for at one node (label
    /// `dfaas.maxrate`); `None` where it says nothing.
    pub rate_max: Option<u32>,
    /// What holds beside every policy; `None` for nothing.
    pub beside: Option<&'a Beside>,
}

/// Which way an offloaded call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// To a neighbour of the zone, or within a region.
    Horizontal,
    /// To a cloud region.
    Vertical,
}

/// Whom a policy lets a call that waits go to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaches {
    /// Neighbours.
    pub horizontal: bool,
    /// Regions.
    pub vertical: bool,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There is no room here, and the policy asks nobody else.
    NoRoom,
    /// Nobody that may be asked has room.
    NobodyHasRoom,
    /// The policy wants a place that there is not: no neighbour, no region.
    NoSuchPlace,
    /// It could not be answered before its deadline.
    TooLate,
}

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Run it here, warm or cold.
    Run,
    /// Let it wait here, at the longest until then.
    Enqueue {
        /// When its place in the queue is given up.
        until: Time,
    },
    /// Send it to a peer.
    Offload {
        /// Its place in [`crate::snapshot::View::peers`].
        to: usize,
        /// Which way that is.
        reach: Reach,
        /// How many more nodes it may visit after that one; fewer than
        /// [`Request::hops`].
        hops: u8,
        /// Until when its answer is waited for; not after [`Request::deadline`].
        /// After that it counts as lost there.
        until: Time,
    },
    /// Ask the peers that may have a place, and let it wait for that.
    Ask,
    /// Refuse it.
    Reject(Reason),
}

/// A way to decide, and to learn how to.
///
/// The methods are called by many threads at once. What a policy remembers lies
/// in atomics; [`Policy::decide`] and [`Policy::receive`] take no lock and allocate
/// nothing.
pub trait Policy: Send + Sync {
    /// Its name in configuration, metrics and explanations.
    fn name(&self) -> &'static str;

    /// Whom it sends calls to.
    fn reaches(&self) -> Reaches;

    /// Whether a call that came so, and that this node can run at once, runs here
    /// whatever the peers are, unless the function fails here: then nobody need be
    /// looked at.
    fn runs_here_first(&self, _: Origin) -> bool {
        true
    }

    /// Whether it sends calls to others though this node has room for them: then
    /// peers that lack a function's code are asked to bring it before anything
    /// waits.
    fn shares_out(&self) -> bool {
        !self.runs_here_first(Origin::Here)
    }

    /// Decides about a call of this node's own users.
    fn decide(&self, case: &mut Case<'_>) -> Decision;

    /// Decides about a call that a peer sent. Unless a policy says otherwise,
    /// it is taken or refused, save that a region balances once inside.
    fn receive(&self, case: &mut Case<'_>) -> Decision {
        case.run_here()
            .or_else(|| case.balance())
            .unwrap_or(Decision::Reject(Reason::NoRoom))
    }

    /// Learns how an attempt ended that it decided, here or at a peer.
    fn observe(&self, _: &Outcome<'_>) {}

    /// Does what is to be done between decisions: works out plans, wishes for
    /// probes and notes. Returns when it is to be called next, at the soonest
    /// after [`TICK_INTERVAL_MIN`]; [`Time::NEVER`] for never again. It is called
    /// first when the policy is taken into use, never twice at once, and may take
    /// some milliseconds: no call waits for it.
    fn tick(&self, _: &Field<'_>, _: &mut Wishes) -> Time {
        Time::NEVER
    }

    /// Learns what came of a probe that it wished for.
    fn probed(&self, _: &Probed) {}

    /// Hears a note of a policy of the same name and use at another node. Any
    /// member may have written it.
    ///
    /// # Errors
    /// When no policy like this one writes that: then it is not passed on.
    fn hear(&self, _from: PeerId, _note: &[u8], _now: Time) -> Result<(), Malformed> {
        Err(Malformed)
    }

    /// The weight of a destination, `None` for here, in the policy's own table, for
    /// people to look at; `None` where it keeps no such table, or no such row.
    fn weight(&self, _: &FunctionName, _: ClassKey, _to: Option<&PeerId>) -> Option<f64> {
        None
    }

    /// Changes that weight by hand; `None` has it forgotten, so that it is learned
    /// anew. `false` where the policy lets nobody change it.
    fn set_weight(
        &self,
        _: &FunctionName,
        _: ClassKey,
        _to: Option<&PeerId>,
        _weight: Option<f64>,
        _now: Time,
    ) -> bool {
        false
    }

    /// What is worth keeping over a restart, at most [`SAVED_BYTES_MAX`]; more is
    /// not kept. `None` for nothing.
    fn save(&self) -> Option<Vec<u8>> {
        None
    }

    /// Takes what a policy of the same name and use kept, perhaps of another
    /// version of Weir. `now` is the new life's clock: kept moments mean nothing.
    ///
    /// # Errors
    /// When it cannot be read: then nothing was taken.
    fn restore(&self, _saved: &[u8], _now: Time) -> Result<(), Malformed> {
        Err(Malformed)
    }
}

/// The list of policies; the first is the default.
pub static KINDS: [Kind; 37] = [
    spill::KIND,
    local_only::KIND,
    random_proportional::KIND,
    least_impedance::KIND,
    round_robin::KIND,
    proportional_fairness::KIND,
    rtt::KIND,
    util::KIND,
    delay::KIND,
    probe::KIND,
    cloud_only::KIND,
    edge_only::KIND,
    edge_cloud::KIND,
    adaptive::KIND,
    prequal::KIND,
    c3::KIND,
    join_idle_queue::KIND,
    hiku::KIND,
    least_outstanding::KIND,
    peak_ewma::KIND,
    ch_bl::KIND,
    ch_rlu::KIND,
    hermod::KIND,
    stale_li::KIND,
    qos_aware::KIND,
    hash_ring::KIND,
    ucb1::KIND,
    linucb::KIND,
    architecture_aware::KIND,
    recalc::KIND,
    node_margin::KIND,
    static_shares::KIND,
    all_local::KIND,
    random::KIND,
    latency_threshold::KIND,
    power_of_d::KIND,
    auction::KIND,
];

/// The policy of this name, with the usual parameters.
pub fn named(name: &str) -> Option<Arc<dyn Policy>> {
    let kind = KINDS.iter().find(|kind| kind.name == name)?;
    Some(Choice::of(kind).build())
}

/// Decides about one call; tells `witness` what was weighed.
///
/// What a policy would refuse for want of a place waits instead
/// ([`Decision::Ask`]) while somebody may have one who was not asked, brings
/// the code, or, where this node cannot run the function at all, is full.
pub fn decide(
    policy: &dyn Policy,
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
    witness: &mut dyn Witness,
) -> Decision {
    decide_and_ask(policy, request, snapshot, witness).0
}

/// The same, and which peer is to be asked to bring the function's code, if any:
/// one that was looked at by a policy that shares calls out, and was not asked yet.
pub fn decide_and_ask(
    policy: &dyn Policy,
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
    witness: &mut dyn Witness,
) -> (Decision, Option<usize>) {
    let mut case = Case::new(request, snapshot, witness);
    let decision = decided(policy, &mut case);
    let asks = case.unasked.filter(|_| {
        // Who waits asks for itself.
        let waits = matches!(decision, Decision::Ask | Decision::Reject(_));
        request.origin == Origin::Here && !waits && policy.shares_out()
    });
    (decision, asks)
}

/// What a policy would decide: nothing comes of it ([`Case::is_trial`]).
pub fn would_decide(
    policy: &dyn Policy,
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
) -> Decision {
    let mut witness = ();
    let case = Case::new(request, snapshot, &mut witness);
    decided(policy, &mut case.into_trial())
}

fn decided(policy: &dyn Policy, case: &mut Case<'_>) -> Decision {
    let (request, snapshot) = (case.request, case.snapshot);
    let decision = match request.origin {
        Origin::Here => policy.decide(case),
        Origin::Neighbour | Origin::Region { .. } => return policy.receive(case),
    };
    match decision {
        Decision::Reject(Reason::NobodyHasRoom | Reason::NoSuchPlace)
            if case.open || (case.full && snapshot.local.here == Here::Unable) =>
        {
            Decision::Ask
        }
        decision => decision,
    }
}
