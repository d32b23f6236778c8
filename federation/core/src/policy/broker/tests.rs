//! A small world to try brokers in, and what holds for all of them.

use std::sync::Arc;

use weir_node_core::words::Timing;

use super::*;
use crate::abilities::{Ability, AtPeers};
use crate::congestion::Congestion;
use crate::explain::{Account, Verdict, Witness};
use crate::facts::Facts;
use crate::policy::{Bounds, Choice, Class, Ending, More, Needs, Request, decide, would_decide};
use crate::report::{Report, Role};
use crate::samples::{numbered, report};
use crate::snapshot::{Cost, FunctionRoom, Local, PeerView, Reserved, Snapshot, View, Word};

mod capacity;

/// All policies of this family.
pub(in crate::policy) const ALL: [&str; 8] = [
    "random-proportional",
    "least-impedance",
    "round-robin",
    "proportional-fairness",
    "rtt",
    "util",
    "delay",
    "probe",
];

/// Those that keep weights.
pub(in crate::policy) const WEIGHTED: [&str; 4] = [
    "random-proportional",
    "least-impedance",
    "round-robin",
    "proportional-fairness",
];

const COST: Cost = Cost {
    cpu: 1,
    long: false,
};

/// A node, its peers, and one policy.
pub(in crate::policy) struct World {
    pub(in crate::policy) policy: Arc<dyn Policy>,
    pub(in crate::policy) peers: Vec<PeerView>,
    pub(in crate::policy) rooms: Vec<Arc<FunctionRoom>>,
    pub(in crate::policy) view: View,
    pub(in crate::policy) abilities: AtPeers,
    pub(in crate::policy) function: FunctionName,
    pub(in crate::policy) here: Here,
    pub(in crate::policy) service: Option<Duration>,
    pub(in crate::policy) origin: Origin,
    pub(in crate::policy) hops: u8,
    pub(in crate::policy) body_bytes: u64,
    pub(in crate::policy) congestion: Congestion,
    pub(in crate::policy) now: Time,
    pub(in crate::policy) chance: u64,
}

/// How a peer differs from the others.
pub(in crate::policy) type Differs<'a> = &'a dyn Fn(usize, &mut Report);

impl World {
    /// A node that cannot run the function, and so many neighbours that can.
    pub(in crate::policy) fn new(policy: &str, count: usize) -> World {
        World::with(policy, count, &|_, _| {})
    }

    pub(in crate::policy) fn with(policy: &str, count: usize, differs: Differs<'_>) -> World {
        let choice: Choice = policy.parse().expect("a policy");
        let now = Time::ZERO + Duration::from_secs(1_000);
        let mut world = World {
            policy: choice.build(),
            peers: Vec::new(),
            rooms: Vec::new(),
            view: View::default(),
            abilities: AtPeers::default(),
            function: "shout".parse().expect("a name"),
            here: Here::Unable,
            service: None,
            origin: Origin::Here,
            hops: 3,
            body_bytes: 0,
            congestion: Congestion::default(),
            now,
            chance: 0,
        };
        for number in 0..count {
            let mut report = report();
            differs(number, &mut report);
            world.add(report);
        }
        world.show();
        // As a node does when it takes a policy into use.
        world.tick();
        world
    }

    /// One more peer, which is seen from [`World::show`] on.
    pub(in crate::policy) fn add(&mut self, report: Report) {
        let number = u32::try_from(self.peers.len()).expect("few");
        let facts = Arc::new(Facts::new(numbered(number), report));
        let mut peer = PeerView::new(facts, self.now);
        peer.set_round_trip(Duration::from_millis(1));
        peer.allow(10_000);
        peer.renew(&plenty());
        let room = Arc::new(FunctionRoom::new());
        room.renew(u32::MAX, self.now);
        let ready = Ability::Ready {
            version: 1,
            room: room.clone(),
        };
        self.abilities.insert(&peer.id, ready);
        self.rooms.push(room);
        self.peers.push(peer);
    }

    pub(in crate::policy) fn show(&mut self) {
        self.view = View::new(&report(), self.peers.clone());
    }

    pub(in crate::policy) fn pass(&mut self, milliseconds: u64) {
        self.now = self.now + Duration::from_millis(milliseconds);
    }

    pub(in crate::policy) fn tick(&self) -> (Time, Wishes) {
        let regions = ["near".to_owned()];
        let mut wishes = Wishes::default();
        let field = Field {
            own: numbered(u32::MAX),
            role: Role::Edge,
            architecture: "x86_64",
            load: report().load,
            regions: &regions,
            view: &self.view,
            congestion: &self.congestion,
            now: self.now,
            chance: self.chance,
        };
        (self.policy.tick(&field, &mut wishes), wishes)
    }

    pub(in crate::policy) fn ask(&mut self, witness: &mut dyn Witness) -> Decision {
        self.chance += 1;
        let regions = ["near".to_owned()];
        let snapshot = Snapshot {
            local: Local {
                here: self.here,
                queue: None,
                service: self.service,
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &regions,
            },
            view: &self.view,
            abilities: &self.abilities,
            remembered: None,
            congestion: Some(&self.congestion),
            now: self.now,
            chance: self.chance,
        };
        let request = Request {
            function: &self.function,
            version: 1,
            writer: None,
            needs: Needs::default(),
            bounds: Bounds::Federation,
            cost: COST,
            origin: self.origin,
            avoid: &[],
            failing: &[],
            anywhere: false,
            hops: self.hops,
            deadline: Time::NEVER,
            more: More {
                class: Class::default(),
                body_bytes: Some(self.body_bytes),
                ..More::default()
            },
        };
        let would = would_decide(&*self.policy, &request, &snapshot);
        let decision = decide(&*self.policy, &request, &snapshot, witness);
        assert_eq!(decision, would, "a trial changes nothing");
        decision
    }

    /// Where a call goes: `Some` peer, or here.
    #[track_caller]
    pub(in crate::policy) fn chosen(&mut self) -> Option<usize> {
        match self.ask(&mut ()) {
            Decision::Run => None,
            Decision::Offload { to, .. } => Some(to),
            other => panic!("it goes somewhere, not {other:?}"),
        }
    }

    /// How many of so many calls go to each peer.
    pub(in crate::policy) fn counts(&mut self, calls: usize) -> Vec<usize> {
        let mut counts = vec![0; self.peers.len()];
        for _ in 0..calls {
            if let Some(to) = self.chosen() {
                counts[to] += 1;
            }
        }
        counts
    }

    /// Takes a place for a call at a peer.
    pub(in crate::policy) fn send(&self, to: usize) -> Reserved {
        let window = self.view.peers[to].window().expect("it was opened");
        window.renew(&plenty());
        let reserved = window.reserve(Some(&self.rooms[to]), COST, self.now);
        reserved.expect("there is room")
    }

    /// A call ends that took so long, and was processed for so long of that.
    pub(in crate::policy) fn ended(
        &self,
        to: Option<usize>,
        ending: Ending,
        (took, ran): (Duration, Duration),
    ) {
        self.policy.observe(&Outcome {
            function: &self.function,
            class: ClassKey::NONE,
            origin: self.origin,
            from: None,
            to: to.map(|to| self.peers[to].id),
            reach: to.map(|_| Reach::Horizontal),
            ending,
            timing: Timing {
                ran,
                ..Timing::default()
            },
            began: Time::from_nanos(self.now.as_nanos() - took.as_nanos() as u64),
            ended: self.now,
            sent_bytes: self.body_bytes,
            answer_bytes: 0,
        });
    }

    /// So many calls are answered that took so many milliseconds, one of them the
    /// way.
    pub(in crate::policy) fn answers(&self, to: usize, calls: usize, milliseconds: u64) {
        for _ in 0..calls {
            let took = Duration::from_millis(milliseconds);
            let ran = Duration::from_millis(milliseconds.saturating_sub(1));
            self.ended(Some(to), Ending::Answered, (took, ran));
        }
    }

    pub(in crate::policy) fn weigh(&self, to: usize, weight: Option<f64>) -> bool {
        let id = self.peers[to].id;
        let none = ClassKey::NONE;
        self.policy
            .set_weight(&self.function, none, Some(&id), weight, self.now)
    }

    pub(in crate::policy) fn weight(&self, to: usize) -> Option<f64> {
        let id = self.peers[to].id;
        self.policy
            .weight(&self.function, ClassKey::NONE, Some(&id))
    }
}

fn plenty() -> Word {
    let load = crate::report::Load {
        guest_cpu: 1 << 20,
        guest_cpu_long: 1 << 20,
        ..report().load
    };
    Word { load, under_way: 0 }
}

/// Whether counts are those of these shares, but by chance once in a thousand times.
pub(in crate::policy) fn are_shares(counts: &[usize], shares: &[f64]) -> bool {
    let total: usize = counts.iter().sum();
    let sum: f64 = shares.iter().sum();
    let squared = counts.iter().zip(shares).map(|(count, share)| {
        let expected = total as f64 * share / sum;
        (*count as f64 - expected).powi(2) / expected
    });
    // Wilson and Hilferty's approximation of the quantile, "The distribution of
    // chi-square", PNAS 17(12), 1931.
    let freedom = counts.len() as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    squared.sum::<f64>() < freedom * (1.0 - spread + 3.09 * spread.sqrt()).powi(3)
}

fn cloud(number: usize, report: &mut Report) {
    if number > 0 {
        report.role = Role::Cloud;
        report.zone = None;
        report.region = Some("near".to_owned());
    }
}

fn hops_of(decision: Decision) -> (usize, u8, Reach) {
    match decision {
        Decision::Offload {
            to, hops, reach, ..
        } => (to, hops, reach),
        other => panic!("it goes to a peer, not {other:?}"),
    }
}

#[test]
fn a_neighbour_is_final_and_a_region_may_dispatch_once_more() {
    for policy in ALL {
        let mut world = World::with(&format!("{policy}:cloud=equal"), 2, &cloud);
        let mut seen = [false; 2];
        for round in 0..60 {
            let (to, hops, reach) = hops_of(world.ask(&mut ()));
            let expected = [(0, Reach::Horizontal), (1, Reach::Vertical)][to];
            assert_eq!((hops, reach), expected, "{policy}");
            seen[to] = true;
            // Whoever was used is slow then.
            world.answers(to, 3, 100 + round);
        }
        assert_eq!(seen, [true; 2], "{policy}");
        let mut flat = World::with(&format!("{policy}:routing=flat,cloud=equal"), 2, &cloud);
        assert_eq!(hops_of(flat.ask(&mut ())).1, 0);
    }
}

#[test]
fn what_a_peer_sent_is_dispatched_to_final_destinations_alone() {
    for policy in ALL {
        let mut world = World::with(policy, 2, &cloud);
        world.origin = Origin::Region { inside: false };
        assert_eq!(hops_of(world.ask(&mut ())).1, 0, "{policy}");
        world.origin = Origin::Neighbour;
        assert_eq!(hops_of(world.ask(&mut ())), (0, 0, Reach::Horizontal));
        world.here = Here::Warm;
        assert_eq!(world.chosen(), None, "{policy}");
        world.here = Here::Full;
        // Sent to be run there, it goes no further.
        world.hops = 0;
        let refused = Decision::Reject(Reason::NobodyHasRoom);
        assert_eq!(world.ask(&mut ()), refused);
        world.hops = 3;
        world.origin = Origin::Region { inside: true };
        assert_eq!(world.ask(&mut ()), refused);
    }
}

#[test]
fn the_cloud_is_asked_last_or_like_others_or_never() {
    for policy in ALL {
        let mut world = World::with(policy, 2, &cloud);
        for _ in 0..20 {
            assert_eq!(world.chosen(), Some(0), "{policy}");
        }
        let close = |world: &mut World| {
            world.peers[0].open().close();
            world.show();
        };
        close(&mut world);
        assert_eq!(world.chosen(), Some(1), "{policy}");
        let mut never = World::with(&format!("{policy}:cloud=never"), 2, &cloud);
        close(&mut never);
        assert!(matches!(
            never.ask(&mut ()),
            Decision::Ask | Decision::Reject(_)
        ));
    }
}

#[test]
fn this_node_is_a_destination_among_others() {
    for policy in ALL {
        let mut world = World::new(policy, 1);
        world.here = Here::Warm;
        world.service = Some(Duration::from_millis(10));
        let mut seen = [0, 0];
        for _ in 0..200 {
            let to = world.chosen();
            seen[usize::from(to.is_some())] += 1;
            let took = Duration::from_millis(10);
            world.ended(to, Ending::Answered, (took, took));
            world.pass(20);
        }
        assert!(seen.iter().all(|count| *count > 0), "{policy}: {seen:?}");
    }
}

#[test]
fn who_is_congested_has_infinite_weight_until_that_is_cleared_or_passes() {
    for policy in ALL {
        for faithful in [false, true] {
            let mut world = World::new(&format!("{policy}:faithful={faithful}"), 2);
            let noticed = world.peers[0].id;
            let until = world.now + Duration::from_secs(10);
            assert!(world.congestion.notice(noticed, until, world.now));
            for _ in 0..50 {
                assert_eq!(world.chosen(), Some(1), "{policy}");
                world.answers(1, 1, 50);
                world.pass(100);
            }
            let mut account = Account::default();
            world.ask(&mut account);
            let mut weighed = account.weighed.iter();
            let seen = weighed.find(|seen| seen.peer == noticed);
            let verdict = seen.map(|seen| seen.verdict);
            assert_eq!(verdict, Some(Verdict::Congested), "{policy}");
            // It has passed, or is taken back.
            if faithful {
                world.pass(10_000);
            } else {
                assert!(world.congestion.clear(&noticed));
            }
            let mut chosen = false;
            world.weigh(0, Some(0.001));
            for _ in 0..400 {
                let to = world.chosen().expect("a peer");
                chosen |= to == 0;
                world.answers(to, 1, if to == 0 { 5 } else { 50 });
                world.pass(50);
            }
            assert!(chosen, "{policy}, faithful={faithful}");
        }
    }
}

#[test]
fn each_explains_itself_by_named_numbers_for_each_candidate() {
    let own = |policy: &str| match policy {
        "random-proportional" => "share",
        "least-impedance" => "impedance_s",
        "round-robin" => "deficit_s",
        "proportional-fairness" => "score",
        "rtt" => "rtt_s",
        "util" => "processing_s",
        "delay" => "delay_s",
        _ => "estimate_s",
    };
    for policy in ALL {
        let mut world = World::new(policy, 3);
        world.here = Here::Warm;
        world.answers(0, 3, 20);
        let mut account = Account::default();
        world.ask(&mut account);
        let mut judged: Vec<_> = account
            .terms
            .iter()
            .filter(|term| term.name == own(policy))
            .map(|term| (term.peer, term.value))
            .collect();
        judged.sort_by_key(|(peer, _)| *peer);
        assert_eq!(judged.len(), 4, "{policy}: {:?}", account.terms);
        assert_eq!(judged[0].0, None);
        assert!(judged.iter().all(|(_, value)| value.is_finite()));
    }
}

#[test]
fn one_bad_request_empties_no_table() {
    for policy in ALL {
        let mut world = World::new(policy, 3);
        for to in 0..3 {
            world.answers(to, 5, 20);
            for ending in [Ending::Failed, Ending::Refused] {
                world.ended(Some(to), ending, (Duration::ZERO, Duration::ZERO));
            }
        }
        // Nor does a quick failure look like a quick answer.
        for to in 0..3 {
            assert!(world.weight(to).is_none_or(|weight| weight > 0.019));
        }
        let mut seen = [false; 3];
        for _ in 0..300 {
            let to = world.chosen().expect("a peer");
            seen[to] = true;
            world.answers(to, 1, 20);
            world.pass(10);
        }
        assert_eq!(seen, [true; 3], "{policy}");
    }
}

#[test]
fn as_published_an_error_takes_a_destination_out_until_it_is_reset() {
    for policy in ALL.iter().filter(|policy| **policy != "probe") {
        let mut world = World::new(&format!("{policy}:faithful=true"), 2);
        world.ended(Some(0), Ending::Failed, (Duration::ZERO, Duration::ZERO));
        world.answers(0, 3, 1);
        for _ in 0..50 {
            assert_eq!(world.chosen(), Some(1), "{policy}");
            world.answers(1, 1, 20);
            world.pass(1_000);
        }
        if WEIGHTED.contains(policy) {
            assert_eq!(world.weight(0), Some(f64::INFINITY));
            assert!(world.weigh(0, None));
            assert_eq!(world.weight(0), None);
            assert!(world.weigh(0, Some(0.001)));
            let counts = world.counts(50);
            assert!(counts[0] > 0, "{policy}: {counts:?}");
        }
    }
}

#[test]
fn who_was_lost_weighs_more_and_is_found_again() {
    for policy in WEIGHTED {
        let mut world = World::new(policy, 2);
        world.answers(0, 5, 20);
        world.answers(1, 5, 20);
        let second = Duration::from_secs(1);
        world.ended(Some(0), Ending::Lost, (second, Duration::ZERO));
        assert_eq!(world.weight(0), Some(2.0), "{policy}");
        let mut seen = 0;
        for _ in 0..3_000 {
            let to = world.chosen().expect("a peer");
            seen += usize::from(to == 0);
            world.answers(to, 1, 20);
            world.pass(20);
        }
        assert!(seen > 900, "{policy}: {seen}");
    }
}

#[test]
fn a_newcomer_beside_quick_nodes_does_not_starve() {
    for policy in ALL {
        let mut world = World::new(policy, 2);
        for to in [0, 1].repeat(20) {
            world.answers(to, 1, 3);
        }
        world.add(report());
        world.show();
        let mut seen = 0;
        for call in 0..600 {
            let to = world.chosen().expect("a peer");
            seen += usize::from(to == 2);
            // Its first call has to connect.
            world.answers(to, 1, if seen == 1 && to == 2 { 30 } else { 3 });
            world.pass(if call % 2 == 0 { 5 } else { 15 });
        }
        assert!(seen >= 100, "{policy}: {seen} of 600");
    }
}

#[test]
fn weights_are_looked_at_set_and_reset_by_hand() {
    for policy in WEIGHTED {
        let mut world = World::new(policy, 2);
        assert_eq!(world.weight(0), None);
        for refused in [0.0, -1.0, f64::NAN] {
            assert!(!world.weigh(0, Some(refused)), "{policy}");
        }
        assert!(world.weigh(0, Some(f64::INFINITY)));
        assert!(world.weigh(1, Some(0.5)));
        assert_eq!(
            (world.weight(0), world.weight(1)),
            (Some(f64::INFINITY), Some(0.5))
        );
        // As long as nobody measures, a weight stays as it was set.
        world.pass(3_600_000);
        assert_eq!(world.counts(40), [0, 40], "{policy}");
        world.answers(0, 3, 1);
        assert_eq!(world.counts(40), [0, 40], "{policy}");
        assert!(world.weigh(0, None));
        assert_eq!(world.weight(0), None);
        assert!(world.counts(200)[0] > 0, "{policy}");
        let function = world.function.clone();
        let own = |weight| {
            world
                .policy
                .set_weight(&function, ClassKey::NONE, None, weight, world.now)
        };
        assert!(own(Some(0.25)));
        let own = world.policy.weight(&function, ClassKey::NONE, None);
        assert_eq!(own, Some(0.25));
    }
    let world = World::new("util", 1);
    assert!(!world.weigh(0, Some(1.0)), "it keeps no weights");
}

#[test]
fn what_was_learned_survives_a_restart() {
    for policy in ALL.iter().filter(|policy| **policy != "probe") {
        let world = World::new(policy, 2);
        world.answers(0, 9, 300);
        world.answers(1, 9, 5);
        let saved = world.policy.save().expect("it learned something");
        let mut again = World::new(policy, 2);
        again.now = Time::ZERO + Duration::from_secs(1);
        again.show();
        assert_eq!(again.policy.restore(&saved, again.now), Ok(()), "{policy}");
        assert_eq!(again.policy.restore(b"nonsense", again.now), Err(Malformed));
        let counts = again.counts(100);
        assert!(counts[1] > 60, "{policy}: {counts:?}");
        assert_eq!(again.weight(0), world.weight(0));
    }
}

/// A weight follows samples as an optimiser says.
fn after(optimiser: &str, samples: &[(u64, u64)]) -> Option<f64> {
    let policy = format!("random-proportional:faithful=true,{optimiser}");
    let mut world = World::new(&policy, 1);
    for (pause, took) in samples {
        world.pass(*pause);
        world.answers(0, 1, *took);
    }
    world.tick();
    world.weight(0)
}

#[test]
fn optimisers_follow_response_times_as_published() {
    let is = |weight: Option<f64>, expected: f64| {
        let weight = weight.expect("it was sampled");
        assert!((weight - expected).abs() < 1e-9, "{weight}");
    };
    assert_eq!(after("optimiser=none", &[(1, 50)]), None);
    is(after("optimiser=async,alpha=0.9", &[(1, 100)]), 0.1);
    is(
        after("optimiser=async,alpha=0.9", &[(1, 100), (4_000, 200)]),
        0.11,
    );
    // What is five seconds old is not averaged with.
    is(
        after("optimiser=async,alpha=0.9", &[(1, 100), (5_000, 200)]),
        0.2,
    );
    let three = [(1, 100), (1, 300), (1, 50)];
    is(after("optimiser=trivial,stat=mean", &three), 0.15);
    is(after("optimiser=trivial,stat=min", &three), 0.05);
    is(after("optimiser=trivial,stat=max", &three), 0.3);
}

#[test]
fn a_sampled_destination_that_vanished_spoils_no_update_of_others() {
    let mut world = World::new("least-impedance:optimiser=trivial,period=1s", 3);
    for to in 0..3 {
        world.answers(to, 2, 10 * (to as u64 + 1));
    }
    world.peers.remove(0);
    world.show();
    assert_eq!(world.tick().0, world.now + Duration::from_secs(1));
    assert_eq!((world.weight(0), world.weight(1)), (Some(0.02), Some(0.03)));
}

#[test]
fn a_weight_of_long_ago_moves_to_what_is_expected() {
    let mut world = World::new("least-impedance:explore=0", 2);
    // Both are expected to take about two milliseconds.
    world.answers(0, 5, 400);
    world.answers(1, 5, 100);
    assert_eq!(world.counts(20), [0, 20]);
    world.pass(60_000);
    world.answers(1, 3, 100);
    // Six halves of ten seconds later the first is tried again.
    assert_eq!(world.chosen(), Some(0));
}

#[test]
fn an_answer_touches_the_row_of_its_destination_alone() {
    for policy in WEIGHTED {
        let mut world = World::new(policy, 200);
        for to in 0..200 {
            world.answers(to, 3, 10);
        }
        world.counts(200);
        let weights: Vec<_> = (0..200).map(|to| world.weight(to)).collect();
        world.answers(7, 1, 999);
        for (to, weight) in weights.iter().enumerate() {
            let is_same = world.weight(to) == *weight;
            assert_eq!(is_same, to != 7, "{policy}, {to}");
        }
    }
}

#[test]
fn of_a_large_pool_the_best_known_is_found_with_each_call() {
    for policy in ["least-impedance:explore=0", "rtt:explore=0"] {
        let mut world = World::new(policy, 400);
        for to in 0..400 {
            world.answers(to, 3, if to == 123 { 2 } else { 40 });
        }
        // Drawn once, it is remembered.
        world.counts(200);
        let counts = world.counts(200);
        assert_eq!(counts[123], 200, "{policy}");
    }
}
