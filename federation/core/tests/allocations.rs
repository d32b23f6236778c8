//! A decision allocates nothing, however many peers there are, whatever the policy has
//! learned; nor does learning, once a policy is in use.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::abilities::Abilities;
use weir_federation_core::congestion::Congestion;
use weir_federation_core::peers::Peers;
use weir_federation_core::policy::{
    self, Bounds, ClassKey, Ending, Field, KINDS, More, Needs, Origin, Outcome, Policy, Reach,
    Request, Wishes,
};
use weir_federation_core::report::Role;
use weir_federation_core::samples::{numbered, report};
use weir_federation_core::snapshot::{Cost, Here, Local, Snapshot, View};
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::Timing;

/// Takes a policy into use, and has it learn of here and of two peers.
fn use_it(policy: &dyn Policy, view: &View, function: &FunctionName) {
    let field = Field {
        own: numbered(u32::MAX),
        role: Role::Edge,
        architecture: "x86_64",
        load: report().load,
        regions: &[],
        view,
        congestion: &Congestion::default(),
        now: Time::ZERO + Duration::from_secs(1),
        chance: 1,
    };
    policy.tick(&field, &mut Wishes::default());
    for to in [None, Some(numbered(0)), Some(numbered(1))] {
        answered(policy, function, to);
    }
}

fn answered(policy: &dyn Policy, function: &FunctionName, to: Option<PeerId>) {
    let began = Time::ZERO + Duration::from_secs(1);
    policy.observe(&Outcome {
        function,
        class: ClassKey::NONE,
        origin: Origin::Here,
        from: None,
        to,
        reach: to.map(|_| Reach::Horizontal),
        ending: Ending::Answered,
        timing: Timing::default(),
        began,
        ended: began + Duration::from_millis(5),
        sent_bytes: 100,
        answer_bytes: 100,
    });
}

#[test]
fn a_decision_allocates_nothing() {
    let function = "shout".parse().expect("a name");
    let now = Time::ZERO + Duration::from_secs(1);
    for count in [0, 1, 10, 1_000] {
        let mut table = Peers::new(numbered(u32::MAX), 1);
        let mut abilities = Abilities::default();
        for number in 0..count {
            table.hear(numbered(number), report(), now);
            abilities.ready(&function, numbered(number), 1);
        }
        let view = table.view(&report(), now);
        let abilities = abilities.of(&function);
        for policy in KINDS.iter().filter_map(|kind| policy::named(kind.name)) {
            // What is worked out between decisions is there.
            for second in 0..2 {
                let field = Field {
                    own: numbered(u32::MAX),
                    role: Role::Edge,
                    architecture: "x86_64",
                    load: report().load,
                    regions: &[],
                    view: &view,
                    congestion: &Congestion::default(),
                    now: now + Duration::from_secs(second),
                    chance: 3,
                };
                policy.tick(&field, &mut Wishes::default());
            }
            for here in [Here::Warm, Here::Startable, Here::Full, Here::Unable] {
                let request = Request {
                    function: &function,
                    version: 1,
                    writer: None,
                    needs: Needs::default(),
                    bounds: Bounds::Federation,
                    cost: Cost {
                        cpu: 1_000,
                        long: false,
                    },
                    origin: Origin::Here,
                    avoid: &[],
                    failing: &[],
                    anywhere: false,
                    hops: 3,
                    deadline: Time::NEVER,
                    more: More::default(),
                };
                let snapshot = Snapshot {
                    local: Local {
                        here,
                        queue: Some(Duration::from_millis(5)),
                        service: Some(Duration::from_millis(1)),
                        start: None,
                        blamed: false,
                        role: Role::Edge,
                        regions: &[],
                    },
                    view: &view,
                    abilities: &abilities,
                    remembered: Some(numbered(0)),
                    congestion: None,
                    now,
                    chance: 7,
                };
                // What a thread keeps for itself is there after the first.
                let mut decision = policy::decide(&*policy, &request, &snapshot, &mut ());
                let mut decide = || {
                    let counted = allocation_counter::measure(|| {
                        decision = policy::decide(&*policy, &request, &snapshot, &mut ());
                    });
                    let name = policy.name();
                    assert_eq!(
                        counted.count_total, 0,
                        "{name}, {count} peers: {decision:?}"
                    );
                };
                decide();
                use_it(&*policy, &view, &function);
                // What a thread keeps for itself is there after the first.
                policy::would_decide(&*policy, &request, &snapshot);
                for _ in 0..20 {
                    decide();
                }
                let to = Some(numbered(0));
                let counted = allocation_counter::measure(|| answered(&*policy, &function, to));
                assert_eq!(counted.count_total, 0, "{} learns", policy.name());
            }
        }
    }
}
