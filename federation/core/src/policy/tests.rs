use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::abilities::{Ability, AtPeers};
use crate::congestion::Congestion;
use crate::explain::{Verdict, Weighed};
use crate::facts::Facts;
use crate::report::{Offer, Report, Role};
use crate::samples::{id, report};
use crate::snapshot::{FunctionRoom, Local, PeerView, View, Word};

mod ahead;
mod asking;
mod every;

/// A peer, built by what is unusual about it.
#[derive(Debug, Clone)]
struct Peer(PeerView);

fn peer(number: u8) -> Peer {
    let facts = Arc::new(Facts::new(id(number), report()));
    let mut peer = PeerView::new(facts, Time::ZERO);
    peer.set_round_trip(Duration::from_millis(1));
    peer.allow(16);
    peer.renew(&word(16));
    Peer(peer)
}

const COST: Cost = Cost {
    cpu: 1_000,
    long: false,
};

/// Room for so many calls.
fn word(calls: u32) -> Word {
    let cpu = calls * COST.cpu;
    let load = crate::report::Load {
        guest_cpu: cpu,
        guest_cpu_long: cpu,
        ..report().load
    };
    Word { load, under_way: 0 }
}

impl Peer {
    fn change(mut self, change: impl FnOnce(&mut Report)) -> Peer {
        let mut report = (*self.0.report).clone();
        change(&mut report);
        let heard = self.0.heard;
        self.0.hear(Arc::new(Facts::new(self.0.id, report)), heard);
        self
    }

    fn cloud(self, region: &str) -> Peer {
        let region = region.to_owned();
        self.change(|report| {
            report.role = Role::Cloud;
            report.zone = None;
            report.region = Some(region);
        })
    }

    fn full(mut self) -> Peer {
        self.0.open().close();
        self
    }

    /// It has no instance of the function.
    fn idle(self) -> Peer {
        self.change(|report| report.offers.clear())
    }

    fn far(mut self, milliseconds: u64) -> Peer {
        self.0.set_round_trip(Duration::from_millis(milliseconds));
        self
    }

    fn cold(self) -> Peer {
        self.change(|report| report.offers[0].warm = 0)
    }
}

#[derive(Clone)]
struct Given {
    here: Here,
    queue: Option<Duration>,
    role: Role,
    origin: Origin,
    hops: u8,
    avoid: Vec<PeerId>,
    deadline: Time,
    abilities: AtPeers,
    failing: Vec<PeerId>,
    blamed: bool,
    bounds: Bounds,
    service: Option<Duration>,
}

fn case(here: Here) -> Given {
    Given {
        here,
        queue: None,
        role: Role::Edge,
        origin: Origin::Here,
        hops: 3,
        avoid: Vec::new(),
        deadline: Time::NEVER,
        abilities: AtPeers::default(),
        failing: Vec::new(),
        blamed: false,
        bounds: Bounds::Federation,
        service: None,
    }
}

impl Given {
    fn from(self, origin: Origin) -> Given {
        Given { origin, ..self }
    }

    fn queue(self, milliseconds: u64) -> Given {
        Given {
            queue: Some(Duration::from_millis(milliseconds)),
            ..self
        }
    }

    fn cloud(self) -> Given {
        Given {
            role: Role::Cloud,
            ..self
        }
    }

    fn within(self, milliseconds: u64) -> Given {
        Given {
            deadline: Time::ZERO + Duration::from_millis(milliseconds),
            ..self
        }
    }

    fn ready(mut self, number: u8) -> Given {
        let room = Arc::new(FunctionRoom::new());
        let ready = Ability::Ready { version: 1, room };
        self.abilities.insert(&id(number), ready);
        self
    }

    fn decide(&self, policy: &str, peers: &[Peer], chance: u64) -> (Decision, Vec<Weighed>) {
        let own = report();
        let view = View::new(&own, peers.iter().map(|peer| peer.0.clone()).collect());
        let function = "shout".parse().expect("a name");
        let regions = ["near".to_owned(), "away".to_owned()];
        let snapshot = Snapshot {
            local: Local {
                here: self.here,
                queue: self.queue,
                service: self.service,
                start: None,
                blamed: self.blamed,
                role: self.role,
                regions: &regions,
            },
            view: &view,
            abilities: &self.abilities,
            remembered: None,
            congestion: None,
            now: Time::ZERO,
            chance,
        };
        let request = Request {
            function: &function,
            version: 1,
            writer: None,
            needs: Needs::default(),
            bounds: self.bounds,
            cost: COST,
            origin: self.origin,
            avoid: &self.avoid,
            failing: &self.failing,
            anywhere: false,
            hops: self.hops,
            deadline: self.deadline,
            more: More::default(),
        };
        let policy = named(policy).expect("it is in the list");
        let mut weighed = Vec::new();
        // Of what would be decided nothing is remembered.
        let would = would_decide(&*policy, &request, &snapshot);
        assert_eq!(would_decide(&*policy, &request, &snapshot), would);
        let decision = decide(&*policy, &request, &snapshot, &mut weighed);
        assert_eq!(decision, would);
        if let Decision::Offload { hops, until, .. } = decision {
            assert!(hops < self.hops && until <= self.deadline);
        }
        (as_usual(decision), weighed)
    }
}

/// An offload without its bounds, which are those of the call.
fn as_usual(decision: Decision) -> Decision {
    match decision {
        Decision::Offload { to, reach, .. } => Decision::Offload {
            to,
            reach,
            hops: 0,
            until: Time::NEVER,
        },
        decision => decision,
    }
}

#[track_caller]
fn check(policy: &str, case: Given, peers: &[Peer], expected: Decision) {
    for chance in 0..20 {
        let (decision, weighed) = case.decide(policy, peers, chance);
        assert_eq!(decision, expected, "{policy}, chance {chance}: {weighed:?}");
    }
}

fn to(place: usize) -> Decision {
    Decision::Offload {
        to: place,
        reach: Reach::Horizontal,
        hops: 0,
        until: Time::NEVER,
    }
}

fn up(place: usize) -> Decision {
    Decision::Offload {
        to: place,
        reach: Reach::Vertical,
        hops: 0,
        until: Time::NEVER,
    }
}

fn wait() -> Decision {
    Decision::Enqueue { until: Time::NEVER }
}

const RUN: Decision = Decision::Run;
const INSIDE: Origin = Origin::Region { inside: true };
const OUTSIDE: Origin = Origin::Region { inside: false };

fn reject(reason: Reason) -> Decision {
    Decision::Reject(reason)
}

#[test]
fn names_are_those_of_the_configuration() {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(names[0], "spill");
    for (at, name) in names.iter().enumerate() {
        let policy = named(name).expect("it is in the list");
        assert_eq!(policy.name(), *name);
        assert!(!names[..at].contains(name), "{name} is there twice");
    }
    assert!(named("spil").is_none());
}

#[test]
fn spill_runs_here_then_near_then_up_then_waits() {
    let (near, cloud) = (peer(1), peer(2).cloud("near"));
    let peers = [near.clone(), cloud.clone()];
    check("spill", case(Here::Warm), &peers, RUN);
    check("spill", case(Here::Startable), &peers, RUN);
    check("spill", case(Here::Full), &peers, to(0));
    check("spill", case(Here::Unable), &peers, to(0));
    check("spill", case(Here::Full), &[peer(1).full(), cloud], up(1));
    check(
        "spill",
        case(Here::Full).queue(5),
        &[peer(1).full()],
        wait(),
    );
    let nobody = reject(Reason::NobodyHasRoom);
    check("spill", case(Here::Full), &[peer(1).full()], nobody);
    check("spill", case(Here::Unable).queue(5), &[], nobody);
}

#[test]
fn whoever_could_run_it_and_was_not_asked_is_asked_while_the_call_waits() {
    let unasked = [peer(1).idle()];
    check("spill", case(Here::Full).queue(5), &unasked, wait());
    check("spill", case(Here::Full), &unasked, Decision::Ask);
    check("spill", case(Here::Unable), &unasked, Decision::Ask);
    check("spill", case(Here::Full).ready(1), &unasked, to(0));
    let cloud = [peer(1).cloud("near").idle()];
    for policy in ["cloud-only", "edge-cloud"] {
        check(policy, case(Here::Full), &cloud, Decision::Ask);
        check(policy, case(Here::Full).ready(1), &cloud, up(0));
    }
    // A guest's sender has others to ask.
    let guest = case(Here::Full).from(Origin::Neighbour);
    let nobody = reject(Reason::NobodyHasRoom);
    check("spill", guest, &unasked, nobody);
}

#[test]
fn who_runs_what_nobody_here_can_is_waited_for_when_it_is_full() {
    let full = [peer(1).full()];
    check("spill", case(Here::Unable), &full, Decision::Ask);
    check(
        "spill",
        case(Here::Unable),
        &[],
        reject(Reason::NobodyHasRoom),
    );
}

#[test]
fn who_is_unable_or_lacks_disk_or_grants_is_no_candidate() {
    let nobody = reject(Reason::NobodyHasRoom);
    let mut unable = case(Here::Full);
    let said = Ability::Unable {
        version: 1,
        why: "no secret".into(),
        abilities: 0,
        until: Time::NEVER,
        pause: Duration::ZERO,
    };
    unable.abilities.insert(&id(1), said);
    check("spill", unable, &[peer(1)], nobody);
    let no_disk = peer(1).idle().change(|report| report.load.disk_free = 9);
    let own = report();
    let view = View::new(&own, vec![no_disk.0.clone()]);
    let function = "shout".parse().expect("a name");
    let abilities = AtPeers::default();
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
        view: &view,
        abilities: &abilities,
        remembered: None,
        congestion: None,
        now: Time::ZERO,
        chance: 1,
    };
    let verdict = |needs| {
        let request = Request {
            needs,
            ..request_of(&function)
        };
        weigh(&no_disk.0, &request, &snapshot)
    };
    let code_bytes = 10;
    let wants_disk = Needs {
        code_bytes,
        ..Needs::default()
    };
    assert_eq!(verdict(wants_disk), Verdict::NoDisk);
    let grants = true;
    let wants_grants = Needs {
        grants,
        ..Needs::default()
    };
    assert_eq!(verdict(wants_grants), Verdict::NeedsGrant);
    assert!(matches!(verdict(Needs::default()), Verdict::Unasked { .. }));
    // What somebody says of the way there holds whatever the policy.
    let mut congestion = Congestion::default();
    assert!(congestion.notice(no_disk.0.id, Time::NEVER, Time::ZERO));
    let congested = Snapshot {
        congestion: Some(&congestion),
        ..snapshot
    };
    let verdict = weigh(&no_disk.0, &request_of(&function), &congested);
    assert_eq!(verdict, Verdict::Congested);
}

#[test]
fn those_who_wait_beside_a_free_place_wait_for_something_else() {
    let crowded = peer(1).change(|report| report.load.waiting = 640);
    let given = || Given {
        service: Some(Duration::from_millis(100)),
        ..case(Here::Full).queue(20)
    };
    check("spill", given(), &[crowded], to(0));
    let crowded = peer(1).change(|report| report.load.waiting = 640).full();
    check("spill", given(), &[crowded], wait());
}

fn request_of(function: &FunctionName) -> Request<'_> {
    Request {
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
    }
}

#[test]
fn a_function_stays_within_its_scope() {
    let bound = |bounds| Given {
        bounds,
        ..case(Here::Full)
    };
    let (near, cloud) = (peer(1), peer(2).cloud("near"));
    let nobody = reject(Reason::NobodyHasRoom);
    check(
        "spill",
        bound(Bounds::Zone),
        &[near.clone(), cloud.clone()],
        to(0),
    );
    let far = std::slice::from_ref(&cloud);
    check("spill", bound(Bounds::Zone), far, nobody);
    check("spill", bound(Bounds::Node), &[near, cloud], nobody);
}

#[test]
fn where_a_function_fails_and_others_do_not_calls_go_last() {
    let fails_here = |here| Given {
        blamed: true,
        ..case(here).queue(5)
    };
    check("spill", fails_here(Here::Warm), &[peer(1)], to(0));
    check("spill", fails_here(Here::Warm), &[], RUN);
    check(
        "spill",
        fails_here(Here::Warm),
        &[peer(1).full()],
        Decision::Ask,
    );
    let fails_there = Given {
        failing: vec![id(1)],
        ..case(Here::Full).queue(5)
    };
    check("spill", fails_there, &[peer(1)], wait());
    let fails_there = Given {
        failing: vec![id(1)],
        ..case(Here::Full)
    };
    check("spill", fails_there, &[peer(1), peer(2)], to(1));
}

#[test]
fn who_is_slower_than_the_queue_here_waits_for_a_longer_queue() {
    let slow = [peer(1).change(|report| report.offers[0].service_micros = 400_000)];
    let queue = |milliseconds| Given {
        service: Some(Duration::from_millis(100)),
        ..case(Here::Full).queue(milliseconds)
    };
    check("spill", queue(100), &slow, wait());
    check("spill", queue(350), &slow, to(0));
}

#[test]
fn a_short_deadline_reaches_a_cold_idle_neighbour_where_starts_are_quick() {
    let cold = [peer(1)
        .cold()
        .change(|report| report.offers[0].start_micros = 0)];
    let own = report();
    let view = View::new(&own, vec![cold[0].0.clone()]);
    let function = "shout".parse().expect("a name");
    let abilities = AtPeers::default();
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
        view: &view,
        abilities: &abilities,
        remembered: None,
        congestion: None,
        now: Time::ZERO,
        chance: 1,
    };
    let verdict = |executor, measured_here| {
        let local = Local {
            start: measured_here,
            ..snapshot.local
        };
        let snapshot = Snapshot { local, ..snapshot };
        let request = Request {
            needs: Needs {
                executor: Some(executor),
                ..Needs::default()
            },
            deadline: Time::ZERO + Duration::from_millis(100),
            ..request_of(&function)
        };
        weigh(
            &cold[0]
                .clone()
                .change(|report| report.executors = vec!["wasm".to_owned(), "docker".to_owned()])
                .0,
            &request,
            &snapshot,
        )
    };
    assert!(matches!(verdict("wasm", None), Verdict::Fits { .. }));
    assert!(matches!(verdict("docker", None), Verdict::TooFar { .. }));
    // What a start takes here says more than what executors do as a rule.
    let (quick, slow) = (Duration::from_millis(30), Duration::from_millis(300));
    assert!(matches!(
        verdict("docker", Some(quick)),
        Verdict::Fits { .. }
    ));
    assert!(matches!(
        verdict("wasm", Some(slow)),
        Verdict::TooFar { .. }
    ));
}

#[test]
fn spill_prefers_the_region_that_comes_first() {
    let peers = [peer(1).cloud("away"), peer(2).cloud("near")];
    check("spill", case(Here::Full), &peers, up(1));
    let peers = [peer(1).cloud("away"), peer(2).cloud("near").full()];
    check("spill", case(Here::Full), &peers, up(0));
    // A region that this node does not spill to is none.
    let strangers = [peer(1).cloud("elsewhere")];
    let nobody = reject(Reason::NobodyHasRoom);
    check("spill", case(Here::Full), &strangers, nobody);
}

#[test]
fn spill_passes_on_what_a_neighbour_sent_and_refuses_rather_than_queues() {
    let from = |here| case(here).queue(5).from(Origin::Neighbour);
    check("spill", from(Here::Full), &[peer(1)], to(0));
    check("spill", from(Here::Full), &[peer(1).cloud("near")], up(0));
    check(
        "spill",
        from(Here::Full),
        &[],
        reject(Reason::NobodyHasRoom),
    );
}

#[test]
fn a_deadline_that_cannot_be_kept_is_no_reason_to_wait() {
    let late = reject(Reason::TooLate);
    check("spill", case(Here::Full).queue(50).within(20), &[], late);
    check(
        "local-only",
        case(Here::Full).queue(50).within(20),
        &[],
        late,
    );
    let far = [peer(1).far(40)];
    check("spill", case(Here::Full).queue(50).within(30), &far, late);
    check("spill", case(Here::Full).queue(50).within(45), &far, to(0));
}

#[test]
fn the_nearer_and_the_warmer_is_chosen() {
    // Of three, whichever two are drawn, the worst is never the choice.
    for worst in [peer(3).far(80), peer(3).cold()] {
        let peers = [peer(1), peer(2), worst];
        for chance in 0..200 {
            let (decision, _) = case(Here::Full).decide("spill", &peers, chance);
            assert!(
                matches!(decision, Decision::Offload { to: 0 | 1, .. }),
                "{decision:?}"
            );
        }
    }
}

#[test]
fn load_is_spread_over_neighbours() {
    let peers = [peer(1), peer(2), peer(3), peer(4)];
    let mut counts = [0; 4];
    for chance in 0..4_000 {
        if let (Decision::Offload { to, .. }, _) = case(Here::Full).decide("spill", &peers, chance)
        {
            counts[to] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 600), "{counts:?}");
}

#[test]
fn local_only_asks_nobody() {
    let peers = [peer(1), peer(2).cloud("near")];
    check("local-only", case(Here::Warm), &peers, RUN);
    check("local-only", case(Here::Full).queue(5), &peers, wait());
    check(
        "local-only",
        case(Here::Full),
        &peers,
        reject(Reason::NoRoom),
    );
}

#[test]
fn cloud_only_runs_nothing_at_the_edge() {
    let peers = [peer(1), peer(2).cloud("near")];
    check("cloud-only", case(Here::Warm), &peers, up(1));
    let nowhere = reject(Reason::NoSuchPlace);
    check("cloud-only", case(Here::Warm).queue(5), &[peer(1)], nowhere);
    check("cloud-only", case(Here::Warm).cloud(), &peers, RUN);
    check(
        "cloud-only",
        case(Here::Warm).from(Origin::Neighbour),
        &peers,
        RUN,
    );
}

#[test]
fn edge_only_asks_neighbours_first() {
    let peers = [peer(1), peer(2).cloud("near")];
    check("edge-only", case(Here::Warm), &peers, to(0));
    check("edge-only", case(Here::Warm), &peers[1..], RUN);
    check(
        "edge-only",
        case(Here::Warm),
        &[peer(1).idle()],
        Decision::Ask,
    );
    let nobody = reject(Reason::NobodyHasRoom);
    check("edge-only", case(Here::Full).queue(5), &peers[1..], nobody);
}

#[test]
fn edge_cloud_asks_the_cloud_and_no_neighbour() {
    let peers = [peer(1), peer(2).cloud("near")];
    check("edge-cloud", case(Here::Warm), &peers, RUN);
    check("edge-cloud", case(Here::Full).queue(5), &peers, up(1));
    let nobody = reject(Reason::NobodyHasRoom);
    check("edge-cloud", case(Here::Full).queue(5), &peers[..1], nobody);
}

#[test]
fn policies_of_one_hop_take_what_arrives_or_refuse_it() {
    let peers = [peer(1), peer(2).cloud("near")];
    for policy in ["local-only", "cloud-only", "edge-only", "edge-cloud"] {
        let from = |here, origin| case(here).queue(5).from(origin);
        check(policy, from(Here::Warm, Origin::Neighbour), &peers, RUN);
        let full = reject(Reason::NoRoom);
        check(policy, from(Here::Full, Origin::Neighbour), &peers, full);
        // Save that a region balances once inside.
        check(policy, from(Here::Full, OUTSIDE).cloud(), &peers, to(1));
        check(policy, from(Here::Full, INSIDE).cloud(), &peers, full);
    }
    check(
        "spill",
        case(Here::Full).from(INSIDE).cloud(),
        &peers,
        reject(Reason::NobodyHasRoom),
    );
}

#[test]
fn who_lacks_what_a_function_needs_is_no_candidate() {
    let own = report();
    let function = "shout".parse().expect("a name");
    let constraints = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    let needs = Needs {
        architecture: Some("x86_64"),
        executor: Some("wasm"),
        constraints: Some(&constraints),
        ..Needs::default()
    };
    let verdict = |peer: Peer| {
        let view = View::new(&own, vec![peer.0.clone()]);
        let abilities = AtPeers::default();
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
            view: &view,
            abilities: &abilities,
            remembered: None,
            congestion: None,
            now: Time::ZERO,
            chance: 1,
        };
        let request = Request {
            needs,
            avoid: &[id(9)],
            hops: 1,
            ..request_of(&function)
        };
        weigh(&peer.0, &request, &snapshot).as_str()
    };
    assert_eq!(verdict(peer(1)), "fits");
    assert_eq!(
        verdict(peer(1).change(|r| r.architecture = "aarch64".to_owned())),
        "lacks what the function needs"
    );
    assert_eq!(
        verdict(peer(1).change(|r| r.executors.clear())),
        "lacks what the function needs"
    );
    assert_eq!(
        verdict(peer(1).change(|r| r.labels.clear())),
        "lacks what the function needs"
    );
    assert_eq!(verdict(peer(1).idle()), "not asked yet");
    assert_eq!(verdict(peer(1).full()), "full");
    assert_eq!(verdict(peer(9)), "was tried already");
}

#[test]
fn one_call_at_a_time_finds_out_whether_a_peer_is_well_again() {
    let mut probed = peer(1);
    probed.0.probing = true;
    check("spill", case(Here::Full), &[probed.clone()], to(0));
    let held = probed.0.clone().open().reserve(None, COST, Time::ZERO);
    let _held = held.expect("room");
    check(
        "spill",
        case(Here::Full),
        &[probed],
        reject(Reason::NobodyHasRoom),
    );
}

#[test]
fn of_many_the_few_that_can_run_it_are_found() {
    let number = |number: u8| peer(number);
    let mut peers: Vec<Peer> = (1..=200).map(number).collect();
    let docker = |report: &mut Report| report.executors = vec!["docker".to_owned()];
    peers[150] = peers[150].clone().change(docker);
    peers[170] = peers[170].clone().change(docker).full();
    let view = View::new(&report(), peers.into_iter().map(|peer| peer.0).collect());
    let function = "shout".parse().expect("a name");
    let abilities = AtPeers::default();
    for (executor, expected) in [("docker", 2), ("wasm", LOOKED_AT + 1), ("none", 0)] {
        let needs = Needs {
            executor: Some(executor),
            ..Needs::default()
        };
        let request = Request {
            needs,
            ..request_of(&function)
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
            view: &view,
            abilities: &abilities,
            remembered: Some(id(151)),
            congestion: None,
            now: Time::ZERO,
            chance: 3,
        };
        let mut weighed: Vec<Weighed> = Vec::new();
        let spill = named("spill").expect("it is in the list");
        let decision = decide(&*spill, &request, &snapshot, &mut weighed);
        assert!(weighed.len() <= expected, "{executor}: {weighed:?}");
        assert!(weighed.iter().all(|seen| seen.verdict != Verdict::Unfit));
        match executor {
            "docker" => assert_eq!(as_usual(decision), to(150)),
            "wasm" => assert!(matches!(decision, Decision::Offload { .. })),
            _ => assert_eq!(decision, reject(Reason::NobodyHasRoom)),
        }
    }
}

fn any_peer() -> impl Strategy<Value = Peer> {
    (
        1..30_u8,
        any::<bool>(),
        any::<bool>(),
        0..20_u32,
        0..200_u64,
        0..3_u32,
    )
        .prop_map(|(number, is_cloud, near, room, milliseconds, warm)| {
            let mut known = peer(number).far(milliseconds).change(|report| {
                report.offers = vec![Offer {
                    warm,
                    ..report.offers[0].clone()
                }];
            });
            known.0.open().renew(&word(room));
            match is_cloud {
                true => known.cloud(if near { "near" } else { "away" }),
                false => known,
            }
        })
}
