use std::time::Duration;

use crate::policy::Ending;
use crate::policy::broker::tests::World;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Answers of two nodes: the first is near and slow, the second far and fast.
fn near_and_slow(policy: &str) -> World {
    let world = World::new(policy, 2);
    for _ in 0..5 {
        world.ended(Some(0), Ending::Answered, (ms(41), ms(40)));
        world.ended(Some(1), Ending::Answered, (ms(13), ms(10)));
    }
    world
}

#[test]
fn it_does_not_send_nearly_all_to_the_slow_one() {
    let mut published = near_and_slow("rtt:faithful=true");
    assert_eq!(published.counts(20), [20, 0]);
    let mut world = near_and_slow("rtt:explore=0");
    assert_eq!(world.counts(20), [0, 20]);
}

#[test]
fn the_way_is_predicted_by_the_size_of_the_body() {
    for policy in ["rtt:faithful=true", "rtt:explore=0"] {
        let mut world = World::new(policy, 2);
        // The first is near, on a thin link; the second far, on a thick one.
        for (bytes, ways) in [(1_000, [2, 20]), (100_000, [101, 30]), (50_500, [51, 25])] {
            world.body_bytes = bytes;
            for (to, way) in ways.into_iter().enumerate() {
                world.ended(Some(to), Ending::Answered, (ms(way + 5), ms(5)));
            }
        }
        world.body_bytes = 2_000;
        assert_eq!(world.counts(10), [10, 0], "{policy}");
        world.body_bytes = 90_000;
        assert_eq!(world.counts(10), [0, 10], "{policy}");
    }
}

#[test]
fn what_is_stale_is_tried_again() {
    let mut world = near_and_slow("rtt:faithful=true");
    world.ended(Some(1), Ending::Answered, (ms(50), ms(1)));
    world.pass(8_000);
    world.ended(Some(0), Ending::Answered, (ms(41), ms(40)));
    assert_eq!(world.chosen(), Some(0));
    world.pass(3_000);
    // Nothing is known of the second any more, so it is at no distance.
    assert_eq!(world.chosen(), Some(1));
}

#[test]
fn who_is_unknown_does_not_get_all_calls_until_it_has_answered() {
    let mut published = World::new("rtt:faithful=true", 2);
    published.ended(Some(0), Ending::Answered, (ms(41), ms(40)));
    assert_eq!(published.counts(50), [0, 50]);
    let mut world = World::with("rtt", 2, &|_, report| {
        report.offers[0].service_micros = 40_000;
    });
    for _ in 0..3 {
        world.ended(Some(0), Ending::Answered, (ms(41), ms(40)));
    }
    let mut held = Vec::new();
    for _ in 0..50 {
        let to = world.chosen().expect("a peer");
        held.push(world.send(to));
    }
    let counts = [world.rooms[0].held(), world.rooms[1].held()];
    assert!(counts[0] >= 20 && counts[1] >= 20, "{counts:?}");
}

#[test]
fn another_functions_calls_tell_of_the_way_too() {
    let mut world = World::new("rtt:explore=0", 2);
    let shout = std::mem::replace(&mut world.function, "other".parse().expect("a name"));
    for _ in 0..3 {
        world.ended(Some(0), Ending::Answered, (ms(200), ms(1)));
    }
    world.function = shout;
    assert_eq!(world.counts(20), [0, 20]);
}
