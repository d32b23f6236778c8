//! A policy that learns, in small: it sends calls where they were done soonest,
//! and uses each part of the trait. Two of them stand for two nodes.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::abilities::{Abilities, AtPeers};
use weir_federation_core::congestion::Congestion;
use weir_federation_core::explain::Account;
use weir_federation_core::peers::Peers;
use weir_federation_core::placement::{Arrival, Attempted, Placement, Step};
use weir_federation_core::policy::{
    self, Bounds, Candidate, Case, ClassKey, Decision, Ending, Field, Malformed, Memory, More,
    Needs, Origin, Outcome, Plan, Policy, Probed, Reach, Reaches, Reason, Request, Terms, Which,
    Wishes,
};
use weir_federation_core::report::{Load, Role};
use weir_federation_core::samples::{numbered, report};
use weir_federation_core::snapshot::{Cost, Here, Local, Snapshot, View};
use weir_federation_core::wanted::Wanted;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;
use weir_node_core::words::Timing;

/// How often it thinks.
const PERIOD: Duration = Duration::from_secs(1);

/// What a peer is taken to need before it was tried, in milliseconds.
const UNTRIED: f64 = 50.0;

/// Least average time first, as far as it knows and is told.
struct Soonest {
    /// Average time of a call, by function and peer, in milliseconds.
    times: Memory<1>,
    /// What probes told of the calls that wait at each peer.
    waiting: Memory<1>,
    /// The peer that is avoided, because another node says so.
    avoided: Plan<PeerId>,
}

impl Default for Soonest {
    fn default() -> Soonest {
        Soonest {
            times: Memory::new(256),
            waiting: Memory::new(256),
            avoided: Plan::default(),
        }
    }
}

impl Policy for Soonest {
    fn name(&self) -> &'static str {
        "soonest"
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: false,
        }
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let avoided = self.avoided.current();
        let rank = |candidate: &Candidate<'_>, terms: &mut Terms<'_>| {
            let known = self.times.find(candidate.which());
            let time = known.and_then(|cells| cells[0].get()).unwrap_or(UNTRIED);
            let avoided = avoided.as_deref() == Some(&candidate.peer.id);
            let time = match avoided || candidate.is_congested() {
                true => f64::MAX,
                false => time,
            };
            terms.put("expected_ms", time);
            time as u64
        };
        let view = case.snapshot.view;
        let chosen = case.best_of(view.neighbours(), Reach::Horizontal, rank);
        chosen.unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        // Whoever is avoided is not served either.
        let from = case.request.more.from;
        match from.is_some() && self.avoided.current().as_deref() == from.as_ref() {
            true => Decision::Reject(Reason::NoRoom),
            false => case.run_here().unwrap_or(Decision::Reject(Reason::NoRoom)),
        }
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let which = Which::of(outcome.function).class(outcome.class);
        let cells = self
            .times
            .entry(which.at(outcome.to.as_ref()), outcome.ended);
        let took = outcome.took().as_secs_f64() * 1e3;
        let took = match outcome.ending {
            Ending::Answered => took,
            Ending::Failed | Ending::Refused | Ending::Lost | Ending::Late => took * 10.0,
        };
        cells[0].blend(took, 0.5);
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        for peer in field.view.peers.iter() {
            wishes.probe(peer.id);
        }
        // The one with the longest queue is avoided, here and at others.
        let waits = |peer: &PeerId| {
            let cells = self.waiting.find(Which::NODE.at(Some(peer)))?;
            cells[0].get().filter(|waiting| *waiting > 0.0)
        };
        let ids = field.view.peers.iter().map(|peer| peer.id);
        let longest = ids.filter_map(|id| Some((waits(&id)?, id)));
        let longest = longest.max_by(|one, other| one.0.total_cmp(&other.0));
        if let Some((_, peer)) = longest {
            self.avoided.publish(peer);
            wishes.tell(peer.to_bytes());
        }
        field.now + PERIOD
    }

    fn probed(&self, probed: &Probed) {
        let which = Which::NODE.at(Some(&probed.peer));
        match probed.load {
            Some(load) => self.waiting.entry(which, probed.now)[0].set(f64::from(load.waiting)),
            None => self.waiting.forget(which),
        }
    }

    fn hear(&self, _: PeerId, note: &[u8], _: Time) -> Result<(), Malformed> {
        let peer = PeerId::from_bytes(note).map_err(|_| Malformed)?;
        self.avoided.publish(peer);
        Ok(())
    }

    fn weight(&self, function: &FunctionName, class: ClassKey, to: Option<&PeerId>) -> Option<f64> {
        let which = Which::of(function).class(class).at(to);
        self.times.find(which)?[0].get()
    }

    fn set_weight(
        &self,
        function: &FunctionName,
        class: ClassKey,
        to: Option<&PeerId>,
        weight: Option<f64>,
        now: Time,
    ) -> bool {
        let which = Which::of(function).class(class).at(to);
        match weight {
            Some(weight) => self.times.entry(which, now)[0].set(weight),
            None => self.times.forget(which),
        }
        true
    }

    fn save(&self) -> Option<Vec<u8>> {
        self.times.save()
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.times.restore(saved, now)
    }
}

fn at(milliseconds: u64) -> Time {
    Time::ZERO + Duration::from_millis(milliseconds)
}

/// Two peers that have the function, and a node that may call them.
struct World {
    view: View,
    abilities: Arc<AtPeers>,
    function: FunctionName,
    congestion: Congestion,
}

const PEERS: u32 = 2;

impl World {
    fn new() -> World {
        let function = "shout".parse().expect("a name");
        let mut table = Peers::new(numbered(u32::MAX), 1);
        let mut abilities = Abilities::default();
        for number in 0..PEERS {
            table.hear(numbered(number), report(), at(1));
            abilities.ready(&function, numbered(number), 1);
        }
        World {
            view: table.view(&report(), at(1)),
            abilities: abilities.of(&function),
            function,
            congestion: Congestion::default(),
        }
    }

    /// What a policy says of a call: of this node's own users, or of a peer's.
    fn decide(&self, policy: &dyn Policy, from: Option<PeerId>, account: &mut Account) -> Decision {
        let class = policy::Class::default();
        let request = Request {
            function: &self.function,
            version: 1,
            writer: None,
            needs: Needs::default(),
            bounds: Bounds::Federation,
            cost: Cost {
                cpu: 1,
                long: false,
            },
            origin: match from {
                None => Origin::Here,
                Some(_) => Origin::Neighbour,
            },
            avoid: &[],
            failing: &[],
            anywhere: false,
            hops: 3,
            deadline: Time::NEVER,
            more: More {
                class,
                from,
                ..More::default()
            },
        };
        let snapshot = Snapshot {
            local: Local {
                here: Here::Warm,
                queue: None,
                service: None,
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &[],
            },
            view: &self.view,
            abilities: &self.abilities,
            remembered: None,
            congestion: Some(&self.congestion),
            now: at(1),
            chance: 7,
        };
        policy::decide(policy, &request, &snapshot, account)
    }

    /// Where a call of this node's own users goes.
    fn chosen(&self, policy: &dyn Policy) -> PeerId {
        match self.decide(policy, None, &mut Account::default()) {
            Decision::Offload { to, .. } => self.view.peers[to].id,
            other => panic!("it goes to a peer, not {other:?}"),
        }
    }

    /// A call that took so long at a peer.
    fn call(&self, policy: &Arc<Soonest>, to: PeerId, ending: Ending, milliseconds: u64) {
        let mut placement = Placement::new(Arrival {
            origin: Origin::Here,
            visited: Vec::new(),
            hops: 3,
            arrived: at(0),
            deadline: Time::NEVER,
            known: true,
            wanted: Arc::new(Wanted::default()),
            fits_here: true,
            class: ClassKey::NONE,
            policy: policy.clone() as Arc<dyn Policy>,
        });
        let step = Step::Offer {
            to: 0,
            reach: Reach::Horizontal,
            hops: 2,
            until: Time::NEVER,
        };
        placement.take(step, at(0));
        placement.goes(to, Reach::Horizontal, at(0));
        let how = Attempted {
            function: &self.function,
            ending,
            timing: Timing::default(),
            waited_in_vain: false,
            sent_bytes: 0,
            answer_bytes: 0,
        };
        placement.attempted(&how, at(milliseconds));
    }

    fn tick(&self, policy: &dyn Policy, now: Time) -> (Time, Wishes) {
        let mut wishes = Wishes::default();
        let field = Field {
            own: numbered(u32::MAX),
            role: Role::Edge,
            architecture: "x86_64",
            load: Load::default(),
            regions: &[],
            view: &self.view,
            congestion: &self.congestion,
            now,
            chance: 1,
        };
        (policy.tick(&field, &mut wishes), wishes)
    }
}

/// Some time may pass between what happens to a node and what it decides.
#[test]
fn what_is_observed_changes_what_is_decided() {
    let (world, policy) = (World::new(), Arc::new(Soonest::default()));
    let (one, other) = (numbered(0), numbered(1));
    world.call(&policy, one, Ending::Answered, 20);
    assert_eq!(world.chosen(&*policy), one);
    world.call(&policy, other, Ending::Answered, 10);
    assert_eq!(world.chosen(&*policy), other);
    // What fails is not what is soonest done.
    world.call(&policy, other, Ending::Failed, 5);
    assert_eq!(world.chosen(&*policy), one);
}

#[test]
fn it_explains_itself_in_its_own_terms() {
    let (world, policy) = (World::new(), Arc::new(Soonest::default()));
    world.call(&policy, numbered(1), Ending::Answered, 10);
    let mut account = Account::default();
    world.decide(&*policy, None, &mut account);
    let mut terms: Vec<_> = account
        .terms
        .iter()
        .map(|term| (term.peer, term.name, term.value as u64))
        .collect();
    terms.sort_by_key(|term| term.2);
    assert_eq!(
        terms,
        [
            (Some(numbered(1)), "expected_ms", 10),
            (Some(numbered(0)), "expected_ms", 50)
        ]
    );
    assert_eq!(account.weighed.len(), 2);
}

#[test]
fn a_probe_and_a_note_reach_the_node_beside_it() {
    let world = World::new();
    let (here, beside) = (Soonest::default(), Soonest::default());
    let (one, other) = (numbered(0), numbered(1));
    let (next, wishes) = world.tick(&here, at(1_000));
    assert_eq!(next, at(2_000));
    assert_eq!(wishes.probes().len(), 2);
    assert_eq!(wishes.note(), None);
    let load = Load {
        waiting: 9,
        ..report().load
    };
    here.probed(&Probed {
        peer: one,
        load: Some(load),
        took: Duration::from_millis(1),
        now: at(1_001),
    });
    let (_, wishes) = world.tick(&here, next);
    let note = wishes.note().expect("it tells of the queue there");
    assert_eq!(beside.hear(numbered(7), note, next), Ok(()));
    assert_eq!(beside.hear(numbered(7), b"nonsense", next), Err(Malformed));
    for policy in [&here, &beside] {
        assert_eq!(world.chosen(policy), other);
        // It knows who sent a call.
        let mut account = Account::default();
        let from = |peer| world.decide(policy, Some(peer), &mut Account::default());
        assert_eq!(from(one), Decision::Reject(Reason::NoRoom));
        assert_eq!(from(other), Decision::Run);
        world.decide(policy, None, &mut account);
        assert!(account.terms.iter().any(|term| term.value >= f64::MAX));
    }
}

#[test]
fn congestion_that_somebody_notices_is_seen() {
    let (mut world, policy) = (World::new(), Arc::new(Soonest::default()));
    let (one, other) = (numbered(0), numbered(1));
    world.call(&policy, one, Ending::Answered, 20);
    world.congestion.notice(one, at(5), at(0));
    assert_eq!(world.chosen(&*policy), other);
    world.congestion.clear(&one);
    assert_eq!(world.chosen(&*policy), one);
}

#[test]
fn its_table_is_looked_at_and_changed_by_hand() {
    let (world, policy) = (World::new(), Soonest::default());
    let (none, one, other) = (ClassKey::NONE, numbered(0), numbered(1));
    let weight = |peer| policy.weight(&world.function, none, Some(peer));
    let set = |peer, weight| {
        assert!(policy.set_weight(&world.function, none, Some(peer), weight, at(1)));
    };
    set(&one, Some(10.0));
    set(&other, Some(5.0));
    assert_eq!(weight(&one), Some(10.0));
    assert_eq!(world.chosen(&policy), other);
    set(&other, None);
    assert_eq!(weight(&other), None);
    assert_eq!(world.chosen(&policy), one);
    // Those of today have none.
    let spill = policy::named("spill").expect("it is in the list");
    assert!(!spill.set_weight(&world.function, none, None, Some(1.0), at(1)));
}

#[test]
fn what_it_learned_survives_a_restart() {
    let (world, policy) = (World::new(), Arc::new(Soonest::default()));
    assert_eq!(policy.save(), None);
    world.call(&policy, numbered(1), Ending::Answered, 10);
    let saved = policy.save().expect("it learned something");
    let again = Soonest::default();
    assert_eq!(again.restore(&saved, at(0)), Ok(()));
    assert_eq!(world.chosen(&again), numbered(1));
    assert_eq!(again.restore(b"nonsense", at(0)), Err(Malformed));
}

#[test]
fn threads_that_learn_at_once_lose_nothing_of_one_row() {
    let memory = Memory::<1>::new(64);
    // The row is there before they begin: two that make one may each make it.
    memory.entry(Which::NODE, at(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    memory.entry(Which::NODE, at(1_000))[0].add(1.0);
                }
            });
        }
    });
    let cells = memory.find(Which::NODE).expect("it was written");
    assert_eq!(cells[0].get(), Some(4_000.0));
}

#[test]
fn deciding_by_what_it_learned_allocates_nothing() {
    let (world, policy) = (World::new(), Arc::new(Soonest::default()));
    world.call(&policy, numbered(1), Ending::Answered, 10);
    policy.avoided.publish(numbered(0));
    // What a thread keeps for itself is there.
    world.chosen(&*policy);
    let counted = allocation_counter::measure(|| {
        let request = Request {
            function: &world.function,
            version: 1,
            writer: None,
            needs: Needs::default(),
            bounds: Bounds::Federation,
            cost: Cost {
                cpu: 1,
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
                here: Here::Full,
                queue: None,
                service: None,
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &[],
            },
            view: &world.view,
            abilities: &world.abilities,
            remembered: None,
            congestion: Some(&world.congestion),
            now: at(2),
            chance: 3,
        };
        let decision = policy::decide(&*policy, &request, &snapshot, &mut ());
        assert!(matches!(decision, Decision::Offload { .. }));
    });
    assert_eq!(counted.count_total, 0);
    // Nor does learning, once there is a table.
    let how = Outcome {
        function: &world.function,
        class: ClassKey::NONE,
        origin: Origin::Here,
        from: None,
        to: Some(numbered(0)),
        reach: Some(Reach::Horizontal),
        ending: Ending::Answered,
        timing: Timing::default(),
        began: at(0),
        ended: at(1),
        sent_bytes: 0,
        answer_bytes: 0,
    };
    let counted = allocation_counter::measure(|| policy.observe(&how));
    assert_eq!(counted.count_total, 0);
}
