//! Where a call goes: policies, and what they decide about.
//!
//! A policy sees a [`Request`] and a [`Snapshot`] and nothing else, and cannot
//! fail. The list of policies is [`all`]; adding one touches its own file and
//! that list.

mod case;
mod cloud_only;
mod edge_cloud;
mod edge_only;
mod local_only;
mod spill;
mod weigh;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use crate::explain::Witness;
use crate::snapshot::{Cost, Draws, Here, Snapshot};

pub use case::{Case, LOOKED_AT};
pub use weigh::{Lack, fits, lacks, room_of, weigh};

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
    },
    /// Ask the peers that may have a place, and let it wait for that.
    Ask,
    /// Refuse it.
    Reject(Reason),
}

/// A way to decide.
pub trait Policy: Send + Sync {
    /// Its name in configuration, metrics and explanations.
    fn name(&self) -> &'static str;

    /// Whom it sends calls to.
    fn reaches(&self) -> Reaches;

    /// Decides about a call of this node's own users.
    fn decide(&self, case: &mut Case<'_>) -> Decision;

    /// Decides about a call that a peer sent. Unless a policy says otherwise,
    /// it is taken or refused, save that a region balances once inside.
    fn receive(&self, case: &mut Case<'_>) -> Decision {
        case.run_here()
            .or_else(|| case.balance())
            .unwrap_or(Decision::Reject(Reason::NoRoom))
    }
}

/// The list of policies; the first is the default.
pub fn all() -> [&'static dyn Policy; 5] {
    [
        &spill::Spill,
        &local_only::LocalOnly,
        &cloud_only::CloudOnly,
        &edge_only::EdgeOnly,
        &edge_cloud::EdgeCloud,
    ]
}

/// The policy of this name.
pub fn named(name: &str) -> Option<&'static dyn Policy> {
    all().into_iter().find(|policy| policy.name() == name)
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
    let mut case = Case {
        request,
        snapshot,
        draws: Draws::new(snapshot.chance),
        open: false,
        full: false,
        is_watched: witness.is_watching(),
        witness,
    };
    match request.origin {
        Origin::Here => match policy.decide(&mut case) {
            Decision::Reject(Reason::NobodyHasRoom | Reason::NoSuchPlace)
                if case.open || (case.full && snapshot.local.here == Here::Unable) =>
            {
                Decision::Ask
            }
            decision => decision,
        },
        Origin::Neighbour | Origin::Region { .. } => policy.receive(&mut case),
    }
}
