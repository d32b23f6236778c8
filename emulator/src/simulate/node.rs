//! One virtual node: the scheduler of production, and what a member of a
//! federation knows and has promised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::abilities::Abilities;
use weir_federation_core::beside::Beside;
use weir_federation_core::blame::Evidence;
use weir_federation_core::congestion::Congestion;
use weir_federation_core::peers::{Peers, Viewing};
use weir_federation_core::policy::{HeardLimits, Policy, WishLimits};
use weir_federation_core::questions::Questions;
use weir_federation_core::report::Report;
use weir_federation_core::reporting::Reporting;
use weir_federation_core::snapshot::View;
use weir_federation_core::turns::{Turn, Turns, Wish};
use weir_federation_core::waiting::Waiters;
use weir_node_core::admission::FunctionKey;
use weir_node_core::scheduler::{Action, Scheduler};
use weir_node_core::time::Time;

use super::calls::CallId;
use super::turns::Waits;
use super::world::{World, small};
use crate::workload::chance::Stream;

/// One virtual node.
pub(super) struct Node {
    pub(super) scheduler: Scheduler<CallId>,
    /// Functions that it has, by their numbers.
    pub(super) keys: Vec<Option<FunctionKey>>,
    /// What its scheduler has just asked for.
    pub(super) actions: Vec<Action<CallId>>,
    /// When its scheduler is looked after next.
    pub(super) timer: Time,
    /// Counts its deaths.
    pub(super) life: u32,
    pub(super) is_alive: bool,
    /// Until when it stands still.
    pub(super) paused_until: Time,
    /// How many times as long calls run as they should.
    pub(super) slow: f64,
    /// Part of its processors that it claims to be free, if it lies.
    pub(super) claims: Option<f64>,
    pub(super) guests_share: f64,
    /// Places at peers that its calls had when one of them began to wait last: they
    /// serve its queue too.
    pub(super) served_elsewhere: u32,
    /// Times of starts.
    pub(super) starts: Stream,
    /// Busy nanoseconds of a core.
    pub(super) busy: u128,
    pub(super) member: Option<Box<Member>>,
}

/// What a member of a federation knows and has promised.
pub(super) struct Member {
    pub(super) peers: Peers,
    pub(super) view: View,
    /// When the view is made new.
    pub(super) viewing: Viewing,
    pub(super) abilities: Abilities,
    pub(super) reporting: Reporting,
    /// What it told last, or is about to tell.
    pub(super) report: Option<Report>,
    pub(super) sequence: u64,
    pub(super) heard: u64,
    pub(super) turns: Turns,
    /// Who waits for its turn, and what it wishes for.
    pub(super) takers: BTreeMap<Turn, (Wish<u32>, Waits)>,
    /// Thousandths of processors of guests that run briefly, and long.
    pub(super) guest_cpu: [u32; 2],
    /// Calls of other nodes by node and function.
    pub(super) held: BTreeMap<(u32, u32), u32>,
    pub(super) remembered: Option<PeerId>,
    /// Places at peers that its calls have, in thousandths of one of its own.
    pub(super) elsewhere: u32,
    /// Calls that wait and may leave, by their functions.
    pub(super) waiters: Waiters<u32, CallId>,
    /// What was asked of each peer about each function.
    pub(super) questions: Questions<u32, u32>,
    pub(super) chance: Stream,
    /// What holds beside those.
    pub(super) beside: Arc<Beside>,
    /// In the order of [`World::held`].
    pub(super) policies: Vec<Arc<dyn Policy>>,
    /// From the first wish of a policy on.
    pub(super) wishes: Option<Box<WishLimits>>,
    /// From the first note or probe on.
    pub(super) heard_limits: Option<Box<HeardLimits>>,
    pub(super) congestion: Option<Box<Congestion>>,
    /// How calls of its users ended.
    pub(super) evidence: Evidence,
    /// When it looks at itself next.
    pub(super) look: Time,
}

impl Node {
    /// A node as it starts.
    pub(super) fn new(world: &World, at: u32, seed: u64, life: u32, now: Time) -> Node {
        let class = world.class(at);
        let starts = class.starts.map_or(class.cores.0, |starts| starts.0);
        let name = format!("{}/{life}", world.name(at));
        let scheduler = Scheduler::new(
            world.capacity(at),
            &world.qos,
            usize::try_from(class.calls.0).unwrap_or(usize::MAX),
            usize::try_from(starts).unwrap_or(1),
        );
        let member =
            (world.nodes.len() > 1).then(|| Box::new(Member::new(world, at, life, seed, now)));
        let mut node = Node {
            scheduler,
            keys: vec![None; world.functions.len()],
            actions: Vec::new(),
            timer: Time::NEVER,
            life,
            is_alive: true,
            paused_until: Time::ZERO,
            slow: 1.0,
            claims: None,
            guests_share: class.guests.0,
            served_elsewhere: 0,
            starts: Stream::new(seed, &format!("{name}/starts")),
            busy: 0,
            member,
        };
        for (number, function) in (0_u32..).zip(&world.functions) {
            let has = function
                .at
                .as_ref()
                .is_none_or(|at_nodes| at_nodes[at as usize]);
            if has {
                node.deploy(world, number, now);
            }
        }
        node
    }

    /// Gives it the code of a function; a node that is too small stays without.
    pub(super) fn deploy(&mut self, world: &World, function: u32, now: Time) {
        let described = &world.functions[function as usize];
        let namespace = described.name.namespace.as_str();
        let added = self
            .scheduler
            .add(namespace, described.profile, now, &mut self.actions);
        self.keys[function as usize] = added.ok();
    }
}

impl Node {
    /// How long a function runs here; `None` before it has.
    pub(super) fn service(&self, function: u32) -> Option<Duration> {
        let known = self.scheduler.known(self.keys[function as usize]?)?;
        let mean = known.service().mean;
        (!mean.is_zero()).then_some(mean)
    }
}

impl Member {
    fn new(world: &World, at: u32, life: u32, seed: u64, now: Time) -> Member {
        let id = world.nodes[at as usize].id;
        let known = world
            .class(at)
            .peers
            .map_or(world.nodes.len() as u64, |most| most.0);
        let most = usize::try_from(known).unwrap_or(usize::MAX);
        let held = world.held(at).iter();
        Member {
            peers: Peers::of_at_most(most, id, u64::from(life) + 1),
            view: View::default(),
            viewing: Viewing::default(),
            abilities: Abilities::default(),
            reporting: Reporting::new(now),
            report: None,
            sequence: 0,
            heard: 0,
            turns: Turns::default(),
            takers: BTreeMap::new(),
            guest_cpu: [0; 2],
            held: BTreeMap::new(),
            remembered: None,
            elsewhere: 0,
            waiters: Waiters::default(),
            questions: Questions::new(now),
            chance: Stream::new(seed, &format!("{}/{life}/decisions", world.name(at))),
            beside: Arc::default(),
            policies: held.map(|held| held.choice.build()).collect(),
            wishes: None,
            heard_limits: None,
            congestion: None,
            evidence: Evidence::default(),
            look: Time::NEVER,
        }
    }

    /// Neighbours that are known.
    pub(super) fn neighbours(&self) -> usize {
        self.view.neighbours().len()
    }

    /// Of a function, at this member, of one node.
    pub(super) fn held_of(&self, from: u32, function: u32) -> u32 {
        let held = self.held.get(&(from, function));
        small(u64::from(held.copied().unwrap_or(0)))
    }
}
