use std::time::Duration;

use crate::policy::Ending;
use crate::policy::broker::tests::World;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn the_way_and_the_processing_count_as_one() {
    for policy in ["delay:faithful=true", "delay:explore=0"] {
        let mut world = World::new(policy, 3);
        for _ in 0..5 {
            // Near and slow, far and fast, and in between.
            world.ended(Some(0), Ending::Answered, (ms(41), ms(40)));
            world.ended(Some(1), Ending::Answered, (ms(45), ms(5)));
            world.ended(Some(2), Ending::Answered, (ms(30), ms(15)));
        }
        assert_eq!(world.counts(20), [0, 0, 20], "{policy}");
    }
}

#[test]
fn what_is_unknown_takes_nothing_as_published_and_what_is_expected_else() {
    let differs = |_: usize, report: &mut crate::report::Report| {
        report.offers[0].service_micros = 90_000;
    };
    for (policy, expected) in [("delay:faithful=true", [0, 9]), ("delay:explore=0", [9, 0])] {
        let mut world = World::with(policy, 2, &differs);
        for _ in 0..3 {
            world.ended(Some(0), Ending::Answered, (ms(41), ms(40)));
        }
        assert_eq!(world.counts(9), expected, "{policy}");
    }
}

#[test]
fn who_is_late_is_predicted_to_be() {
    let mut world = World::new("delay:explore=0", 2);
    for to in [0, 1].repeat(3) {
        world.ended(Some(to), Ending::Answered, (ms(20), ms(10)));
    }
    world.ended(Some(0), Ending::Late, (ms(900), ms(0)));
    assert_eq!(world.counts(9), [0, 9]);
}
