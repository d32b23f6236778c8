use proptest::prelude::*;

use crate::policy::Ending;
use crate::policy::broker::tests::World;
use std::time::Duration;

/// Destinations of these weights, which stay as they are.
fn installed(weights: &[f64], faithful: bool) -> World {
    let policy = format!("round-robin:optimiser=none,faithful={faithful}");
    let world = World::new(&policy, weights.len());
    for (to, weight) in weights.iter().enumerate() {
        assert!(world.weigh(to, Some(*weight)));
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The bound of the paper's: over any time `|n_i w_i - n_j w_j| <= 2 max w`.
    #[test]
    fn it_is_fair_in_the_short_and_in_the_long_run(
        weights in prop::collection::vec(1.0..2.0_f64, 2..10),
        faithful in any::<bool>(),
    ) {
        let mut world = installed(&weights, faithful);
        let most = weights.iter().copied().fold(0.0, f64::max);
        let mut served = vec![0.0; weights.len()];
        // How far each pair was apart, at the least and at the most.
        let count = weights.len();
        let mut apart = vec![(0.0_f64, 0.0_f64); count * count];
        for _ in 0..600 {
            let to = world.chosen().expect("a peer");
            served[to] += weights[to];
            for one in 0..count {
                for other in 0..one {
                    let now = served[one] - served[other];
                    let (least, greatest) = &mut apart[one * count + other];
                    (*least, *greatest) = (least.min(now), greatest.max(now));
                    // Between any two moments.
                    prop_assert!(*greatest - *least <= 2.0 * most + 1e-6);
                    // From the first call on, however many there were.
                    prop_assert!(now.abs() <= most + 1e-6);
                }
            }
        }
    }
}

#[test]
fn who_is_more_than_twice_as_slow_is_left_out() {
    for faithful in [false, true] {
        let mut world = installed(&[1.0, 1.9, 2.1, 9.0], faithful);
        // Set by hand, they were never sampled: nobody probes them.
        let counts = world.counts(290);
        assert_eq!(&counts[2..], [0, 0], "{counts:?}");
        assert!((counts[0] as f64 / counts[1] as f64 - 1.9).abs() < 0.05);
        let mut alone = installed(&[9.0], faithful);
        assert_eq!(alone.counts(3), [3]);
    }
}

/// When the slow one of two is called, in seconds from its first answer on.
fn probes(faithful: bool, seconds: u64) -> Vec<u64> {
    let policy = format!("round-robin:stale=1h,alpha=0.9,faithful={faithful}");
    let mut world = World::new(&policy, 2);
    for to in 0..2 {
        world.answers(to, 5, 10 + 990 * to as u64);
    }
    let mut probes = Vec::new();
    for tenth in 0..10 * seconds {
        world.pass(100);
        let to = world.chosen().expect("a peer");
        if to == 1 {
            probes.push(tenth / 10 + 1);
        }
        world.answers(to, 1, [10, 1_000][to]);
    }
    probes
}

#[test]
fn who_is_slow_is_probed_less_and_less_often() {
    for faithful in [false, true] {
        let probes = probes(faithful, 120);
        // After 1, 2, 4, 8, 16, 30 and 30 s.
        assert_eq!(probes.len(), 7, "{probes:?}");
        let pauses: Vec<u64> = probes.windows(2).map(|two| two[1] - two[0]).collect();
        for (pause, expected) in pauses.iter().zip([2, 4, 8, 16, 30, 30]) {
            assert!(pause.abs_diff(expected) <= 1, "{probes:?}");
        }
    }
}

#[test]
fn a_probe_that_goes_well_brings_a_node_back() {
    let mut world = World::new("round-robin:stale=1h", 2);
    for to in 0..2 {
        world.answers(to, 5, 10 + 990 * to as u64);
    }
    let mut counts = [0, 0];
    for _ in 0..400 {
        world.pass(100);
        let to = world.chosen().expect("a peer");
        counts[to] += 1;
        // It is well again.
        world.answers(to, 1, 10);
    }
    assert!(counts[1] > 120, "{counts:?}");
}

#[test]
fn a_probe_is_one_call_until_it_is_answered() {
    let mut world = World::new("round-robin:stale=1h", 2);
    for to in 0..2 {
        world.answers(to, 5, 10 + 990 * to as u64);
    }
    world.pass(1_500);
    let counts = world.counts(500);
    assert_eq!(counts[1], 1, "{counts:?}");
    // Its caller has gone, so it has no end.
    world.pass(31_000);
    world.answers(0, 1, 10);
    assert_eq!(world.counts(500)[1], 1);
}

#[test]
fn one_of_two_like_nodes_is_not_left_out_for_its_first_connection() {
    let mut world = World::new("round-robin", 2);
    let mut counts = [0, 0];
    for _ in 0..200 {
        let to = world.chosen().expect("a peer");
        // The first answer of the second has to connect, which takes 3 ms more.
        let first = to == 1 && counts[1] == 0;
        counts[to] += 1;
        world.answers(to, 1, if first { 4 } else { 1 });
        world.pass(2);
    }
    assert!(counts[1] > 80, "{counts:?}");
    let mut published = World::new("round-robin:faithful=true,alpha=0.95", 2);
    let mut counts = [0, 0];
    for _ in 0..200 {
        let to = published.chosen().expect("a peer");
        let first = to == 1 && counts[1] == 0;
        counts[to] += 1;
        published.answers(to, 1, if first { 4 } else { 1 });
        published.pass(2);
    }
    assert!(counts[1] < 20, "{counts:?}");
}

#[test]
fn a_refused_call_is_given_back() {
    let mut world = World::new("round-robin", 2);
    for to in 0..2 {
        world.answers(to, 5, 10);
    }
    let mut taken = [0, 0];
    for call in 0..300 {
        let to = world.chosen().expect("a peer");
        // Each third offer to the second is refused.
        if to == 1 && call % 3 == 0 {
            world.ended(Some(1), Ending::Refused, (Duration::ZERO, Duration::ZERO));
        } else {
            taken[to] += 1;
            world.answers(to, 1, 10);
        }
        world.pass(1);
    }
    let apart = (taken[0] as f64 - taken[1] as f64).abs();
    assert!(apart <= 6.0, "{taken:?}");
}

#[test]
fn who_had_no_room_for_a_while_gets_no_burst_after_that() {
    let mut world = World::new("round-robin:optimiser=none", 2);
    world.counts(10);
    world.peers[1].allow(0);
    world.show();
    assert_eq!(world.counts(200), [200, 0]);
    world.peers[1].allow(10_000);
    world.show();
    let counts = world.counts(20);
    assert!(counts[1] <= 11, "{counts:?}");
}

#[test]
fn among_many_all_are_served_alike() {
    let mut world = World::new("round-robin:optimiser=none", 150);
    let counts = world.counts(6_000);
    let (least, most) = (counts.iter().min(), counts.iter().max());
    // 40 each.
    assert!(least > Some(&30) && most < Some(&50), "{counts:?}");
}
