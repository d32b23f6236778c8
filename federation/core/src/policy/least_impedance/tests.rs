use crate::policy::broker::tests::World;

#[test]
fn the_least_weight_gets_the_call() {
    let mut world = World::new("least-impedance:optimiser=none", 3);
    for (to, weight) in [3.0, 0.5, 2.0].into_iter().enumerate() {
        world.weigh(to, Some(weight));
    }
    assert_eq!(world.counts(30), [0, 30, 0]);
    world.weigh(1, Some(2.5));
    assert_eq!(world.counts(30), [0, 0, 30]);
    for to in 0..3 {
        world.weigh(to, Some(f64::INFINITY));
    }
    assert!(!matches!(
        world.ask(&mut ()),
        crate::policy::Decision::Offload { .. }
    ));
}

#[test]
fn of_equals_the_first_gets_all_as_published_and_any_else() {
    let mut world = World::new("least-impedance:faithful=true", 3);
    assert_eq!(world.counts(30), [30, 0, 0]);
    let mut world = World::new("least-impedance:optimiser=none", 3);
    assert!(world.counts(60).iter().all(|count| *count > 8));
}

#[test]
fn calls_of_ours_that_are_out_count() {
    let mut world = World::new("least-impedance:explore=0", 2);
    for to in 0..2 {
        world.answers(to, 5, 20 + 10 * to as u64);
    }
    let mut held = Vec::new();
    let mut counts = [0, 0];
    for _ in 0..40 {
        let to = world.chosen().expect("a peer");
        counts[to] += 1;
        held.push(world.send(to));
    }
    // Of four cores each: w (1 + held/4) is alike at both in the end.
    assert_eq!(counts, [25, 15]);
    let mut world = World::new("least-impedance:faithful=true", 2);
    world.answers(0, 1, 20);
    world.answers(1, 1, 30);
    let mut held = Vec::new();
    for _ in 0..40 {
        let to = world.chosen().expect("a peer");
        held.push(world.send(to));
    }
    assert_eq!(world.rooms[0].held(), 40);
}

#[test]
fn a_node_that_was_slow_once_is_used_again() {
    let mut world = World::new("least-impedance", 2);
    world.answers(0, 5, 20);
    world.answers(1, 1, 5_000);
    let mut seen = 0;
    for _ in 0..4_000 {
        let to = world.chosen().expect("a peer");
        seen += usize::from(to == 1);
        world.answers(to, 1, [20, 10][to]);
        world.pass(10);
    }
    assert!(seen > 3_000, "{seen}");
}
