use std::time::Duration;

use crate::policy::Ending;
use crate::policy::broker::tests::World;

/// The share of the first of two nodes, of which it is four times as fast.
fn share(policy: &str) -> f64 {
    let mut world = World::new(policy, 2);
    let mut counts = [0, 0];
    for call in 0..4_000 {
        let to = world.chosen().expect("a peer");
        if call >= 2_000 {
            counts[to] += 1;
        }
        world.answers(to, 1, [10, 40][to]);
        world.pass(10);
    }
    f64::from(counts[0]) / f64::from(counts[0] + counts[1])
}

#[test]
fn rates_are_in_proportion_to_speed_to_the_alpha_by_beta() {
    for (alpha, beta, expected) in [
        (1.0, 1.0, 0.8),
        (0.0, 1.0, 0.5),
        (1.0, 2.0, 2.0 / 3.0),
        (2.0, 1.0, 16.0 / 17.0),
        (0.5, 1.0, 2.0 / 3.0),
        (1.0, 0.0, 1.0),
    ] {
        let share = share(&format!("proportional-fairness:alpha={alpha},beta={beta}"));
        assert!(
            (share - expected).abs() < 0.02,
            "{alpha}, {beta}: {share}, {expected} expected"
        );
    }
}

#[test]
fn between_a_fast_and_a_slow_node_it_does_not_split_evenly() {
    let published = share("proportional-fairness:faithful=true");
    assert!(published < 0.7, "{published}");
    assert!(share("proportional-fairness") > 0.78);
}

#[test]
fn as_published_zero_and_one_is_near_round_robin() {
    let share = share("proportional-fairness:alpha=0,beta=1,faithful=true");
    assert!((share - 0.5).abs() < 0.05, "{share}");
    let greedy = self::share("proportional-fairness:alpha=1,beta=0,faithful=true");
    assert!(greedy > 0.99, "{greedy}");
}

#[test]
fn a_call_counts_when_it_is_sent() {
    let mut world = World::new("proportional-fairness", 2);
    for to in 0..2 {
        world.answers(to, 5, 10);
    }
    // None of them is answered.
    let counts = world.counts(100);
    assert_eq!(counts, [50, 50]);
}

#[test]
fn one_slow_answer_is_not_all_that_is_known_of_a_node() {
    let world = World::new("proportional-fairness", 2);
    for _ in 0..10 {
        world.answers(0, 1, 10);
        world.answers(1, 1, 10);
    }
    let slow = Duration::from_millis(100);
    world.ended(Some(0), Ending::Answered, (slow, slow));
    assert_eq!(world.weight(0), Some(0.055));
    let published = World::new("proportional-fairness:faithful=true", 2);
    published.answers(0, 1, 10);
    published.ended(Some(0), Ending::Answered, (slow, slow));
    assert_eq!(published.weight(0), Some(0.1));
}
