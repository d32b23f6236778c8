use crate::policy::broker::tests::{World, are_shares};

const INSTALLED: &str = "random-proportional:optimiser=none";

#[test]
fn shares_are_in_inverse_proportion_to_weights() {
    for (faithful, weights) in [
        (false, [1.0, 2.0, 4.0, 8.0]),
        (true, [1.0, 1.0, 0.25, 3.0]),
        (false, [0.001, 0.5, 0.002, 0.001]),
    ] {
        let mut world = World::new(&format!("{INSTALLED},faithful={faithful}"), 4);
        for (to, weight) in weights.iter().enumerate() {
            assert!(world.weigh(to, Some(*weight)));
        }
        let counts = world.counts(8_000);
        let shares = weights.map(|weight| 1.0 / weight);
        assert!(are_shares(&counts, &shares), "{weights:?}: {counts:?}");
    }
}

#[test]
fn weights_that_nobody_set_are_one_each() {
    let mut world = World::new(INSTALLED, 10);
    let counts = world.counts(5_000);
    assert!(are_shares(&counts, &[1.0; 10]), "{counts:?}");
}

#[test]
fn an_infinite_weight_is_never_drawn() {
    let mut world = World::new(INSTALLED, 3);
    world.weigh(1, Some(f64::INFINITY));
    assert_eq!(world.counts(500)[1], 0);
}

#[test]
fn of_many_destinations_shares_are_near_the_formula() {
    let mut world = World::new(INSTALLED, 120);
    for to in 0..120 {
        world.weigh(to, Some([1.0, 2.0, 4.0, 4.0][to % 4]));
    }
    let counts = world.counts(12_000);
    let of = |kind: usize| -> f64 {
        let counts = counts.iter().skip(kind).step_by(4);
        counts.sum::<usize>() as f64 / 12_000.0
    };
    for (kind, share) in [(0, 0.5), (1, 0.25), (2, 0.125), (3, 0.125)] {
        assert!((of(kind) - share).abs() < 0.04, "{kind}: {}", of(kind));
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn one_of_many_that_is_much_better_gets_its_share() {
    let mut world = World::new(INSTALLED, 200);
    world.weigh(77, Some(1.0 / 199.0));
    // It is drawn once before it is remembered.
    world.counts(300);
    let counts = world.counts(4_000);
    let share = counts[77] as f64 / 4_000.0;
    assert!((share - 0.5).abs() < 0.05, "{share}");
}

#[test]
fn the_sum_of_inverse_weights_does_not_drift() {
    let mut world = World::new(INSTALLED, 2);
    // As published, the tiny weight's inverse would have drowned the other's.
    for round in 0..1_000_u32 {
        world.weigh(0, Some(if round % 2 == 0 { 1e-6 } else { 1.0 }));
        world.chosen();
    }
    world.weigh(0, Some(3.0));
    let counts = world.counts(4_000);
    assert!(are_shares(&counts, &[1.0, 3.0]), "{counts:?}");
}
