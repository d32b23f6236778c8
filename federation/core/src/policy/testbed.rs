//! A node and its peers, to try policies of an area with.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::Timing;

use super::{
    Bounds, Case, Choice, Class, ClassKey, Decision, Ending, Field, More, Needs, Origin, Outcome,
    Policy, Reach, Request, Wishes,
};
use crate::abilities::{Ability, AtPeers};
use crate::congestion::Congestion;
use crate::explain::{Account, Witness};
use crate::facts::Facts;
use crate::report::{Load, Report, Role};
use crate::samples::{numbered, report};
use crate::snapshot::{Cost, FunctionRoom, Here, Local, PeerView, Snapshot, View, Word};

/// What a call takes.
pub(super) const COST: Cost = Cost {
    cpu: 1_000,
    long: false,
};

/// The policy that is chosen so.
pub(super) fn policy(choice: &str) -> Arc<dyn Policy> {
    let choice: Choice = choice.parse().expect("it is in the list");
    choice.build()
}

/// Whether draws are as shares say, but for one time in a thousand: Pearson's
/// chi-squared, with its bound by E. B. Wilson, M. M. Hilferty, "The distribution of
/// chi-square", PNAS 17(12), 1931.
pub(super) fn is_as_expected(counts: &[u32], shares: &[f64]) -> bool {
    let all: f64 = counts.iter().copied().map(f64::from).sum();
    let total: f64 = shares.iter().sum();
    let mut sum = 0.0;
    for (count, share) in counts.iter().zip(shares) {
        let expected = all * share / total;
        if expected > 0.0 {
            sum += (f64::from(*count) - expected).powi(2) / expected;
        } else if *count > 0 {
            return false;
        }
    }
    let free = (counts.len() as f64 - 1.0).max(1.0);
    let part = 2.0 / (9.0 * free);
    sum < free * (1.0 - part + 3.09 * part.sqrt()).powi(3)
}

/// A node, its peers, and a call.
pub(super) struct Trial {
    pub(super) peers: Vec<PeerView>,
    pub(super) here: Here,
    pub(super) queue: Option<Duration>,
    pub(super) role: Role,
    pub(super) origin: Origin,
    pub(super) from: Option<PeerId>,
    pub(super) hops: u8,
    pub(super) now: Time,
    pub(super) load: Load,
    pub(super) function: FunctionName,
    pub(super) class: Option<&'static str>,
    pub(super) deadline: Option<Duration>,
    pub(super) rate_max: Option<u32>,
    pub(super) architecture: Option<&'static str>,
    pub(super) avoid: Vec<PeerId>,
    pub(super) abilities: AtPeers,
    pub(super) own: PeerId,
    pub(super) regions: Vec<String>,
}

impl Trial {
    /// A full node of an edge zone with so many neighbours that all have room for
    /// 16 calls: `numbered(0)` and so on.
    pub(super) fn of(count: usize) -> Trial {
        let mut trial = Trial {
            peers: Vec::new(),
            here: Here::Full,
            queue: None,
            role: Role::Edge,
            origin: Origin::Here,
            from: None,
            hops: 3,
            now: Time::ZERO + Duration::from_secs(1),
            load: report().load,
            function: "shout".parse().expect("a name"),
            class: None,
            deadline: None,
            rate_max: None,
            architecture: None,
            avoid: Vec::new(),
            abilities: AtPeers::default(),
            own: numbered(u32::MAX),
            regions: vec!["near".to_owned()],
        };
        for _ in 0..count {
            trial.join(|_| {});
        }
        trial
    }

    /// A peer joins, that reports something unusual.
    pub(super) fn join(&mut self, change: impl FnOnce(&mut Report)) -> PeerId {
        let number = u32::try_from(self.peers.len()).expect("few");
        let mut said = report();
        change(&mut said);
        let facts = Arc::new(Facts::new(numbered(number), said));
        let mut peer = PeerView::new(facts, self.now);
        peer.set_round_trip(Duration::from_millis(1));
        peer.allow(64);
        let load = Load {
            guest_cpu: 16 * COST.cpu,
            guest_cpu_long: 16 * COST.cpu,
            ..peer.load()
        };
        peer.renew(&Word { load, under_way: 0 });
        let id = peer.id;
        self.peers.push(peer);
        self.has_it(id);
        id
    }

    /// The function is known to be there.
    pub(super) fn has_it(&mut self, id: PeerId) {
        let room = Arc::new(FunctionRoom::new());
        let ready = Ability::Ready { version: 1, room };
        self.abilities.insert(&id, ready);
    }

    /// A member of the region that this node spills to.
    pub(super) fn join_cloud(&mut self) -> PeerId {
        self.join(|report| {
            report.role = Role::Cloud;
            report.zone = None;
            report.region = Some("near".to_owned());
        })
    }

    /// A peer is found to be full.
    pub(super) fn fill(&mut self, number: usize) {
        self.peers[number].open().close();
    }

    /// This node is a member of that region itself.
    pub(super) fn in_cloud(mut self) -> Trial {
        self.role = Role::Cloud;
        self
    }

    pub(super) fn view(&self) -> View {
        View::new(&report(), self.peers.clone())
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    fn look<T>(
        &self,
        chance: u64,
        view: &View,
        look: impl FnOnce(&Request<'_>, &Snapshot<'_>) -> T,
    ) -> T {
        let request = Request {
            function: &self.function,
            version: 1,
            writer: None,
            needs: Needs {
                architecture: self.architecture,
                ..Needs::default()
            },
            bounds: Bounds::Federation,
            cost: COST,
            origin: self.origin,
            avoid: &self.avoid,
            failing: &[],
            anywhere: false,
            hops: self.hops,
            deadline: Time::NEVER,
            more: More {
                class: Class {
                    name: self.class,
                    key: ClassKey::of(self.class),
                    deadline: self.deadline,
                },
                from: self.from,
                rate_max: self.rate_max,
                ..More::default()
            },
        };
        let snapshot = Snapshot {
            local: Local {
                here: self.here,
                queue: self.queue,
                service: None,
                start: None,
                blamed: false,
                role: self.role,
                regions: &self.regions,
            },
            view,
            abilities: &self.abilities,
            remembered: None,
            congestion: None,
            now: self.now,
            chance,
        };
        look(&request, &snapshot)
    }

    pub(super) fn decide(&self, policy: &dyn Policy, chance: u64) -> Decision {
        self.explain(policy, chance, &mut ())
    }

    pub(super) fn explain(
        &self,
        policy: &dyn Policy,
        chance: u64,
        witness: &mut dyn Witness,
    ) -> Decision {
        let view = self.view();
        self.look(chance, &view, |request, snapshot| {
            super::decide(policy, request, snapshot, witness)
        })
    }

    /// The peer that is to be asked to bring the function's code.
    pub(super) fn asks(&self, policy: &dyn Policy, chance: u64) -> Option<usize> {
        let view = self.view();
        self.look(chance, &view, |request, snapshot| {
            super::decide_and_ask(policy, request, snapshot, &mut ()).1
        })
    }

    /// The terms of a decision by their names: `None` is this node.
    pub(super) fn terms(
        &self,
        policy: &dyn Policy,
        chance: u64,
    ) -> Vec<(Option<PeerId>, &'static str, f64)> {
        let mut account = Account::default();
        self.explain(policy, chance, &mut account);
        let terms = account.terms.iter();
        terms
            .map(|term| (term.peer, term.name, term.value))
            .collect()
    }

    /// Where so many calls go: here, to each peer, and nowhere.
    pub(super) fn shares(&self, policy: &dyn Policy, draws: u64) -> Vec<u32> {
        let view = self.view();
        self.counted(draws, |chance| {
            self.look(chance, &view, |request, snapshot| {
                super::decide(policy, request, snapshot, &mut ())
            })
        })
    }

    /// The same of a rule that sees a case.
    pub(super) fn count(
        &self,
        draws: u64,
        rule: impl Fn(&mut Case<'_>) -> Option<Decision>,
    ) -> Vec<u32> {
        let view = self.view();
        self.counted(draws, |chance| {
            self.look(chance, &view, |request, snapshot| {
                let mut witness = ();
                let mut case = Case::new(request, snapshot, &mut witness);
                rule(&mut case).unwrap_or(Decision::Ask)
            })
        })
    }

    fn counted(&self, draws: u64, decide: impl Fn(u64) -> Decision) -> Vec<u32> {
        let nowhere = self.peers.len() + 1;
        let mut counts = vec![0; nowhere + 1];
        for number in 0..draws {
            // Far from each other, as the shell's are.
            let chance = number.wrapping_mul(0xd134_2543_de82_ef95).rotate_left(23);
            let at = match decide(chance) {
                Decision::Run => 0,
                Decision::Offload { to, .. } => to + 1,
                Decision::Enqueue { .. } | Decision::Ask | Decision::Reject(_) => nowhere,
            };
            counts[at] += 1;
        }
        counts
    }

    pub(super) fn tick(&self, policy: &dyn Policy) -> (Time, Wishes) {
        let mut wishes = Wishes::default();
        let view = self.view();
        let field = Field {
            own: self.own,
            role: self.role,
            architecture: "x86_64",
            load: self.load,
            regions: &self.regions,
            view: &view,
            congestion: &Congestion::default(),
            now: self.now,
            chance: 5,
        };
        (policy.tick(&field, &mut wishes), wishes)
    }

    /// A call that ran so long, and took longer than that by the way.
    pub(super) fn ended(
        &self,
        policy: &dyn Policy,
        to: Option<PeerId>,
        ending: Ending,
        ran: Duration,
    ) {
        let timing = Timing {
            ran,
            ..Timing::default()
        };
        self.ended_so(policy, to, ending, timing);
    }

    pub(super) fn ended_so(
        &self,
        policy: &dyn Policy,
        to: Option<PeerId>,
        ending: Ending,
        timing: Timing,
    ) {
        let way = Duration::from_millis(if to.is_some() { 1 } else { 0 });
        let took = timing.queued + timing.started + timing.ran + way;
        let is_cloud = |id: PeerId| {
            let mut peers = self.peers.iter();
            peers.any(|peer| peer.id == id && peer.report.role == Role::Cloud)
        };
        policy.observe(&Outcome {
            function: &self.function,
            class: ClassKey::of(self.class),
            origin: self.origin,
            from: self.from,
            to,
            reach: to.map(|id| match is_cloud(id) && self.role == Role::Edge {
                true => Reach::Vertical,
                false => Reach::Horizontal,
            }),
            ending,
            timing,
            began: self.now,
            ended: self.now + took,
            sent_bytes: 0,
            answer_bytes: 0,
        });
    }
}
