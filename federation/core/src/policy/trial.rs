//! A node and its peers, to try policies with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::Timing;

use super::*;
use crate::abilities::{Ability, AtPeers};
use crate::congestion::Congestion;
use crate::explain::{Account, Term};
use crate::facts::Facts;
use crate::report::{Load, Role};
use crate::samples::{id, report};
use crate::snapshot::{FunctionRoom, Local, PeerView, Reserved, View};

/// What a call takes of a node.
pub(super) const COST: Cost = Cost {
    cpu: 1_000,
    long: false,
};

/// A peer, by what is of interest about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) number: u8,
    pub(super) cores: u32,
    pub(super) running: u32,
    pub(super) waiting: u32,
    /// Calls that may be sent there.
    pub(super) room: u32,
    pub(super) round_trip_ms: u64,
    /// What it says of its run time.
    pub(super) told_ms: u64,
    pub(super) warm: bool,
    /// What it says of a start.
    pub(super) start_ms: u64,
    /// How old its word is.
    pub(super) age_ms: u64,
    /// Of a region, and not a neighbour.
    pub(super) cloud: bool,
}

/// A neighbour with four idle cores, near, where calls run for 100 ms.
pub(super) fn peer(number: u8) -> Peer {
    Peer {
        number,
        cores: 4,
        running: 0,
        waiting: 0,
        room: 64,
        round_trip_ms: 1,
        told_ms: 100,
        warm: true,
        start_ms: 50,
        age_ms: 0,
        cloud: false,
    }
}

/// A node that decides by one policy.
pub(super) struct Trial {
    pub(super) policy: Arc<dyn Policy>,
    pub(super) now: Time,
    pub(super) here: Here,
    pub(super) queue: Option<Duration>,
    pub(super) service: Option<Duration>,
    pub(super) deadline: Time,
    pub(super) load: Load,
    pub(super) function: FunctionName,
    pub(super) body_bytes: Option<u64>,
    pub(super) congestion: Congestion,
    pub(super) chance: u64,
    view: View,
    abilities: AtPeers,
    held: Vec<(u8, Reserved)>,
}

/// A policy as configuration writes it.
pub(super) fn trial(policy: &str) -> Trial {
    let choice: Choice = policy.parse().expect("a policy");
    Trial {
        policy: choice.build(),
        now: Time::ZERO + Duration::from_secs(1_000),
        here: Here::Full,
        queue: None,
        service: Some(Duration::from_millis(100)),
        deadline: Time::NEVER,
        load: Load {
            cpu_total: 4_000,
            ..Load::default()
        },
        function: "shout".parse().expect("a name"),
        body_bytes: None,
        congestion: Congestion::default(),
        chance: 0,
        view: View::default(),
        abilities: AtPeers::default(),
        held: Vec::new(),
    }
}

impl Trial {
    /// These are its peers, as of now; calls that they hold are forgotten.
    pub(super) fn with(mut self, peers: &[Peer]) -> Trial {
        self.know(peers);
        self
    }

    pub(super) fn know(&mut self, peers: &[Peer]) {
        self.held.clear();
        let mut views = Vec::new();
        for peer in peers {
            let mut report = report();
            if peer.cloud {
                (report.role, report.zone) = (Role::Cloud, None);
                report.region = Some("cloud".to_owned());
            }
            report.load = Load {
                cpu_total: peer.cores * 1_000,
                running: peer.running,
                waiting: peer.waiting,
                guest_cpu: peer.room * COST.cpu,
                guest_cpu_long: peer.room * COST.cpu,
                ..report.load
            };
            let offer = &mut report.offers[0];
            offer.service_micros = peer.told_ms * 1_000;
            offer.start_micros = peer.start_ms * 1_000;
            (offer.warm, offer.startable) = match peer.warm {
                true => (64, 64),
                false => (0, 64),
            };
            let facts = Arc::new(Facts::new(id(peer.number), report));
            let heard = self.now.since(Time::ZERO);
            let heard = heard.saturating_sub(Duration::from_millis(peer.age_ms));
            let mut view = PeerView::new(facts, Time::ZERO + heard);
            view.set_round_trip(Duration::from_millis(peer.round_trip_ms));
            view.allow(64);
            views.push(view);
            let room = Arc::new(FunctionRoom::new());
            let ready = Ability::Ready { version: 1, room };
            self.abilities.insert(&id(peer.number), ready);
        }
        self.view = View::new(&report(), views);
    }

    pub(super) fn later(&mut self, milliseconds: u64) {
        self.now = self.now + Duration::from_millis(milliseconds);
    }

    /// Decides, with the next draw.
    pub(super) fn decide(&mut self) -> Decision {
        self.decide_for(Origin::Here, &mut ())
    }

    pub(super) fn decide_for(&mut self, origin: Origin, witness: &mut dyn Witness) -> Decision {
        self.chance += 1;
        let request = Request {
            function: &self.function,
            version: 1,
            writer: None,
            needs: Needs::default(),
            bounds: Bounds::Federation,
            cost: COST,
            origin,
            avoid: &[],
            failing: &[],
            anywhere: false,
            hops: 3,
            deadline: self.deadline,
            more: More {
                body_bytes: self.body_bytes,
                ..More::default()
            },
        };
        let snapshot = Snapshot {
            local: Local {
                here: self.here,
                queue: self.queue,
                service: self.service,
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &["cloud".to_owned()],
            },
            view: &self.view,
            abilities: &self.abilities,
            remembered: None,
            congestion: Some(&self.congestion),
            now: self.now,
            chance: self.chance.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        let would = would_decide(&*self.policy, &request, &snapshot);
        let decision = decide(&*self.policy, &request, &snapshot, witness);
        assert_eq!(would, decision, "what would be decided is decided");
        decision
    }

    /// The peer that is chosen; `None` where the call goes to none.
    pub(super) fn chosen(&mut self) -> Option<u8> {
        let decision = self.decide();
        self.number(decision)
    }

    pub(super) fn number(&self, decision: Decision) -> Option<u8> {
        let Decision::Offload { to, .. } = decision else {
            return None;
        };
        let chosen = self.view.peers[to].id;
        (0..=u8::MAX).find(|number| id(*number) == chosen)
    }

    /// How often each is chosen of so many times, without a call being sent.
    pub(super) fn shares(&mut self, times: usize) -> BTreeMap<Option<u8>, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..times {
            *shares.entry(self.chosen()).or_default() += 1;
        }
        shares
    }

    /// Decides, and sends the call there; who holds it then.
    pub(super) fn send(&mut self) -> Option<u8> {
        let chosen = self.chosen()?;
        self.hold(chosen);
        Some(chosen)
    }

    /// A peer holds one more call of this node.
    pub(super) fn hold(&mut self, number: u8) {
        let window = self.view.peer(&id(number)).expect("a peer").window();
        let window = window.expect("it is open").clone();
        let held = window.reserve(None, COST, self.now).expect("it has room");
        self.held.push((number, held));
    }

    /// Calls that a peer holds of this node.
    pub(super) fn held(&self, number: u8) -> usize {
        let held = self.held.iter();
        held.filter(|(at, _)| *at == number).count()
    }

    /// A call that a peer holds ends.
    pub(super) fn release(&mut self, number: u8) {
        let at = self.held.iter().position(|(at, _)| *at == number);
        self.held.remove(at.expect("it holds one")).1.give_back();
    }

    /// A call that took so long ended, of which it ran so long, by the peer's word.
    pub(super) fn ends(&self, to: Option<u8>, ending: Ending, took_ms: u64, ran_ms: u64) {
        let timing = Timing {
            ran: Duration::from_millis(ran_ms),
            ..Timing::default()
        };
        self.ends_with(to, ending, took_ms, timing, 0);
    }

    pub(super) fn ends_with(
        &self,
        to: Option<u8>,
        ending: Ending,
        took_ms: u64,
        timing: Timing,
        sent_bytes: u64,
    ) {
        let took = Duration::from_millis(took_ms);
        let began = self.now.since(Time::ZERO).saturating_sub(took);
        self.policy.observe(&Outcome {
            function: &self.function,
            class: ClassKey::NONE,
            origin: Origin::Here,
            from: None,
            to: to.map(id),
            reach: to.map(|_| Reach::Horizontal),
            ending,
            timing,
            began: Time::ZERO + began,
            ended: self.now,
            sent_bytes,
            answer_bytes: 0,
        });
    }

    /// Calls end well at a peer, one each millisecond.
    pub(super) fn answers(&mut self, to: u8, times: usize, took_ms: u64, ran_ms: u64) {
        for _ in 0..times {
            self.later(1);
            self.ends(Some(to), Ending::Answered, took_ms, ran_ms);
        }
    }

    /// The policy thinks; whom it wishes to probe.
    pub(super) fn tick(&mut self) -> Vec<PeerId> {
        self.chance += 1;
        let mut wishes = Wishes::default();
        self.policy.tick(
            &Field {
                own: id(200),
                architecture: "x86_64",
                role: Role::Edge,
                load: self.load,
                regions: &[],
                view: &self.view,
                congestion: &self.congestion,
                now: self.now,
                chance: self.chance,
            },
            &mut wishes,
        );
        wishes.probes().to_vec()
    }

    /// A probe of a peer tells of so many calls there.
    pub(super) fn probed(&self, number: u8, calls: u32) {
        self.policy.probed(&Probed {
            peer: id(number),
            load: Some(Load {
                running: calls,
                ..report().load
            }),
            took: Duration::from_millis(1),
            now: self.now,
        });
    }

    /// A term by which a peer, or this node, was judged in a decision.
    pub(super) fn term(&mut self, number: Option<u8>, name: &str) -> Option<f64> {
        let mut account = Account::default();
        self.decide_for(Origin::Here, &mut account);
        let peer = number.map(id);
        let is_it = |term: &&Term| term.peer == peer && term.name == name;
        account.terms.iter().find(is_it).map(|term| term.value)
    }
}
