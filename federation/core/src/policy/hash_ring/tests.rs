use proptest::prelude::*;
use weir_node_core::id::FunctionName;

use super::super::hashing::{Member, Ring, point_of};
use super::super::testbed::{Trial, policy};
use super::*;
use crate::explain::Account;
use crate::samples::numbered;
use crate::snapshot::Here;

fn function(number: usize) -> FunctionName {
    format!("f{number}").parse().expect("a name")
}

/// Where each of some functions goes, by ids.
fn homes(members: &[Member]) -> Vec<Option<usize>> {
    let ring = Ring::new(members, 128, true);
    (0..600)
        .map(|number| {
            let mut after = ring.after(point_of(&function(number)));
            let first = after.next().expect("there is a node");
            first.map(|place| place.at)
        })
        .collect()
}

fn members(trial: &Trial) -> Vec<Member> {
    let view = trial.view();
    hashing::of_pool(view.neighbours(), &view)
}

proptest! {
    #[test]
    fn only_what_was_at_a_node_that_goes_moves(count in 2..30_usize, gone in any::<prop::sample::Index>()) {
        let trial = Trial::of(count);
        let all = members(&trial);
        let gone = gone.index(count);
        let mut rest = all.clone();
        let key = rest.remove(gone);
        let (before, after) = (homes(&all), homes(&rest));
        for (old, new) in before.iter().zip(&after) {
            prop_assert!(old == new || *old == key.to.map(|place| place.at));
        }
        // And who comes takes no more than about its share.
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
        prop_assert!(moved <= 600 * 2 / count + 30, "{moved} of 600 with {count} nodes");
    }

    #[test]
    fn a_walk_meets_each_node_once(count in 1..12_usize, point in any::<u64>()) {
        let trial = Trial::of(count);
        let ring = Ring::new(&members(&trial), 16, false);
        let mut met: Vec<_> = ring.after(point).map(|to| to.expect("a peer").at).collect();
        prop_assert_eq!(met.len(), count);
        met.sort_unstable();
        met.dedup();
        prop_assert_eq!(met.len(), count);
    }
}

#[test]
fn nodes_share_functions_by_their_processors() {
    let mut trial = Trial::of(3);
    trial.join(|report| report.load.cpu_total = 12_000);
    let count = |is_even: bool| {
        let ring = Ring::new(&members(&trial), 512, is_even);
        let mut counts = [0_i32; 4];
        for number in 0..6_000 {
            let first = ring.after(point_of(&function(number))).next();
            counts[first.flatten().expect("a peer").at] += 1;
        }
        counts
    };
    let close = |count: i32, expected: i32| (count - expected).abs() < expected / 4;
    let counts = count(false);
    assert!(
        counts[..3].iter().all(|count| close(*count, 1_000)),
        "{counts:?}"
    );
    assert!(close(counts[3], 3_000), "{counts:?}");
    let counts = count(true);
    assert!(
        counts.iter().all(|count| close(*count, 1_500)),
        "{counts:?}"
    );
}

#[test]
fn all_nodes_send_a_function_to_the_same_node() {
    // The same three nodes, each as its own centre: who is not there is oneself.
    let all = [numbered(0), numbered(1), numbered(2)];
    for name in ["shout", "resize", "f7", "f8", "f9"] {
        let mut chosen = Vec::new();
        for own in all {
            let mut trial = Trial::of(3);
            trial.peers.retain(|peer| peer.id != own);
            (trial.own, trial.here) = (own, Here::Startable);
            trial.function = name.parse().expect("a name");
            let policy = policy("hash-ring");
            trial.tick(&*policy);
            chosen.push(match trial.decide(&*policy, 1) {
                Decision::Run => own,
                Decision::Offload { to, .. } => trial.peers[to].id,
                other => panic!("{other:?}"),
            });
        }
        assert!(
            chosen.iter().all(|id| *id == chosen[0]),
            "{name}: {chosen:?}"
        );
    }
}

#[test]
fn a_node_without_room_is_passed_by_and_nobody_is_the_cloud() {
    for faithful in [false, true] {
        let mut trial = Trial::of(6);
        let policy = policy(&format!("hash-ring:faithful={faithful}"));
        let cloud = trial.join_cloud();
        trial.tick(&*policy);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let Decision::Offload { to, reach, .. } = trial.decide(&*policy, 1) else {
                panic!("somebody has room");
            };
            assert_eq!(reach, Reach::Horizontal);
            assert!(!seen.contains(&to), "it is full");
            seen.push(to);
            trial.fill(to);
        }
        match (trial.decide(&*policy, 1), faithful) {
            (Decision::Offload { to, reach, .. }, false) => {
                assert_eq!((trial.peers[to].id, reach), (cloud, Reach::Vertical));
            }
            (decision, true) => assert_eq!(decision, Decision::Reject(Reason::NoRoom)),
            (decision, false) => panic!("{decision:?}"),
        }
    }
}

#[test]
fn who_says_nothing_of_its_room_is_not_taken_to_have_terabytes() {
    let mut trial = Trial::of(0);
    let id = trial.join(|report| report.load.guest_cpu = 0);
    let policy = policy("hash-ring");
    trial.tick(&*policy);
    trial.fill(0);
    let mut account = Account::default();
    let decision = trial.explain(&*policy, 1, &mut account);
    assert_eq!(decision, Decision::Reject(Reason::NobodyHasRoom));
    assert_eq!(account.weighed[0].peer, id);
    assert_eq!(account.weighed[0].room, 0);
}

#[test]
fn a_ring_is_made_anew_only_when_somebody_comes_or_goes() {
    let mut trial = Trial::of(3);
    let ring = HashRing {
        replicas: 128,
        faithful: false,
        plan: Plan::default(),
    };
    let made = |trial: &Trial| {
        let (next, _) = trial.tick(&ring);
        assert_eq!(next, trial.now + LOOK_INTERVAL);
        Arc::as_ptr(ring.plan.current().as_ref().expect("it was made"))
    };
    let first = made(&trial);
    trial.fill(1);
    trial.pass(Duration::from_secs(9));
    assert_eq!(made(&trial), first, "load is not membership");
    trial.join(|_| {});
    assert_ne!(made(&trial), first);
}

#[test]
fn many_nodes_have_fewer_points_each() {
    let trial = Trial::of(40);
    let all: Vec<Member> = members(&trial).into_iter().cycle().take(4_000).collect();
    let ring = Ring::new(&all, 1_024, true);
    assert_eq!(ring.after(7).count(), 16);
}

#[test]
fn a_member_of_a_region_balances_by_its_ring() {
    let mut trial = Trial::of(0).in_cloud();
    trial.here = Here::Startable;
    for _ in 0..3 {
        trial.join_cloud();
    }
    trial.origin = Origin::Region { inside: false };
    let policy = policy("hash-ring");
    trial.tick(&*policy);
    let mut here = 0;
    for number in 0..100 {
        trial.function = function(number);
        match trial.decide(&*policy, 1) {
            Decision::Run => here += 1,
            Decision::Offload { reach, .. } => assert_eq!(reach, Reach::Horizontal),
            other => panic!("{other:?}"),
        }
    }
    assert!((5..60).contains(&here), "{here}");
    // Inside, it is taken.
    trial.origin = Origin::Region { inside: true };
    assert_eq!(trial.shares(&*policy, 9)[0], 9);
}
