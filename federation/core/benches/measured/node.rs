//! A node for benchmarks, and the peers that it knows.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use weir_federation_core::abilities::Abilities;
use weir_federation_core::peers::Peers;
use weir_federation_core::policy::{self, Bounds, Decision, More, Needs, Origin, Policy, Request};
use weir_federation_core::report::{Load, Offer, Report, Role};
use weir_federation_core::samples::{numbered, report};
use weir_federation_core::snapshot::{Cost, Here, Local, Snapshot, View};
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

/// Peers that ran the function before.
pub(crate) const CALLED: u32 = 256;

/// What a call takes.
pub(crate) const COST: Cost = Cost {
    cpu: 1_000,
    long: false,
};

/// The function of this number.
pub(crate) fn function(number: u32) -> FunctionName {
    format!("f{number}").parse().expect("a name")
}

/// What the peer `number` tells for the `sequence`th time.
pub(crate) fn told(number: u32, sequence: u64, functions: u32) -> Report {
    let offers = (0..functions).map(|at| Offer {
        function: format!("f{at}.openfaas-fn"),
        warm: 1 + (number + at) % 3,
        service_micros: 900 + u64::from((number ^ sequence as u32) % 64),
        ..report().offers[0].clone()
    });
    Report {
        sequence,
        offers: offers.collect(),
        load: Load {
            running: sequence as u32 % 7,
            ..report().load
        },
        ..report()
    }
}

/// A node, and the peers that it knows.
pub(crate) struct Node {
    pub(crate) table: Peers,
    pub(crate) abilities: Abilities,
    pub(crate) view: Arc<View>,
    pub(crate) now: Time,
    pub(crate) sequence: u64,
    pub(crate) chance: u64,
    pub(crate) count: u32,
    pub(crate) remembered: Option<PeerId>,
}

impl Node {
    /// A node that has heard each of `count` peers once, which tell of `functions`.
    pub(crate) fn knowing(count: u32, functions: u32) -> Node {
        let mut table = Peers::of_at_most(count as usize + 1, numbered(u32::MAX), 1);
        let now = Time::ZERO + Duration::from_secs(1);
        for number in 0..count {
            table.hear(numbered(number), told(number, 1, functions), now);
        }
        let view = Arc::new(table.view(&report(), now));
        let mut abilities = Abilities::default();
        for number in 0..count.min(CALLED) {
            abilities.ready(&function(3), numbered(number), 1);
        }
        Node {
            table,
            abilities,
            view,
            now,
            sequence: 1,
            chance: 0,
            count,
            remembered: None,
        }
    }

    /// Decides about one call of its own users, which has no place here.
    pub(crate) fn decide_by(&mut self, policy: &dyn Policy, function: &FunctionName) -> Decision {
        self.chance += 1;
        let request = Request {
            function,
            version: 1,
            writer: None,
            needs: Needs::default(),
            bounds: Bounds::Federation,
            cost: COST,
            origin: Origin::Here,
            avoid: &[],
            failing: &[],
            anywhere: false,
            hops: 3,
            deadline: Time::NEVER,
            more: More::default(),
        };
        let abilities = self.abilities.of(function);
        let snapshot = Snapshot {
            local: Local {
                here: Here::Full,
                queue: None,
                service: Some(Duration::from_micros(900)),
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &[],
            },
            view: &self.view,
            abilities: &abilities,
            remembered: self.remembered,
            congestion: None,
            now: self.now,
            chance: self.chance,
        };
        let decision = policy::decide(policy, &request, &snapshot, &mut ());
        if let Decision::Offload { to, .. } = decision {
            self.remembered = Some(self.view.peers[to].id);
        }
        decision
    }

    /// Makes its view anew.
    pub(crate) fn publish(&mut self) {
        self.view = Arc::new(self.table.view(&report(), self.now));
    }

    /// Hears so many reports of so many functions each; how long that took.
    pub(crate) fn hear(&mut self, times: u64, functions: u32, publish: bool) -> Duration {
        let mut took = Duration::ZERO;
        let mut left = times;
        while left > 0 {
            let some = left.min(64);
            left -= some;
            let batch: Vec<(PeerId, Report)> = (0..some)
                .map(|_| {
                    self.sequence += 1;
                    let number = (self.sequence * 7_919 % u64::from(self.count)) as u32;
                    let report = told(number, self.sequence, functions);
                    (numbered(number), report)
                })
                .collect();
            let began = Instant::now();
            for (id, report) in batch {
                black_box(self.table.hear(id, report, self.now));
                if publish {
                    self.publish();
                }
            }
            took += began.elapsed();
        }
        took
    }
}
