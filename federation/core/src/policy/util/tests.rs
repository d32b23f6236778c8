use std::time::Duration;

use crate::policy::Ending;
use crate::policy::broker::tests::World;
use crate::report::Report;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The first node is so loaded, in percent.
fn loaded(percent: u32) -> impl Fn(usize, &mut Report) {
    move |to, report| {
        if to == 0 {
            report.load.cpu_free = 4_000 - 40 * percent;
        } else {
            report.load.cpu_free = 4_000;
        }
    }
}

/// What the first node takes at a load, as both learn it: 10 ms and as much for each
/// quarter of its load. The second always takes 25 ms.
fn learned(policy: &str) -> World {
    let mut world = World::with(policy, 2, &loaded(0));
    for percent in [0, 25, 50, 75] {
        let mut again = World::with(policy, 2, &loaded(percent));
        again.policy = world.policy.clone();
        for _ in 0..3 {
            // As sent by decisions, so that the load is noted.
            for _ in 0..4 {
                let to = again.chosen().expect("a peer");
                let there = if to == 0 {
                    10 + 10 * u64::from(percent) / 25
                } else {
                    25
                };
                again.ended(Some(to), Ending::Answered, (ms(there + 1), ms(there)));
            }
        }
        world.now = again.now;
    }
    world
}

#[test]
fn processing_is_predicted_by_load() {
    for policy in ["util:faithful=true", "util:explore=0"] {
        let known = learned(policy);
        for (percent, expected) in [(5, 0), (90, 1)] {
            let mut world = World::with(policy, 2, &loaded(percent));
            world.policy = known.policy.clone();
            assert_eq!(world.chosen(), Some(expected), "{policy} at {percent} %");
        }
    }
}

#[test]
fn a_load_that_is_old_counts_as_none_as_published() {
    let known = learned("util:faithful=true");
    let mut world = World::with("util:faithful=true", 2, &loaded(90));
    world.policy = known.policy.clone();
    world.pass(9_000);
    assert_eq!(world.chosen(), Some(1));
    world.pass(2_000);
    assert_eq!(world.chosen(), Some(0));
}

#[test]
fn calls_of_all_sizes_teach_one_another() {
    let teach = |policy: &str| {
        let mut world = World::with(policy, 2, &|_, report| {
            report.offers[0].service_micros = 20_000;
        });
        for bytes in 0..50 {
            world.body_bytes = 2_000 + bytes;
            world.ended(Some(0), Ending::Answered, (ms(91), ms(90)));
            world.ended(Some(1), Ending::Answered, (ms(21), ms(20)));
        }
        // A size that there was not.
        world.body_bytes = 3_000;
        world
    };
    assert_eq!(teach("util:explore=0").counts(10), [0, 10]);
    let mut published = teach("util:faithful=true");
    assert_eq!(published.counts(10), [10, 0], "neither is known");
}

#[test]
fn our_own_calls_count_as_load() {
    let mut world = World::with("util:explore=0", 2, &|to, report| {
        report.load.cpu_free = 4_000;
        report.offers[0].service_micros = [10_000, 12_000][to];
    });
    let mut held = Vec::new();
    let mut counts = [0, 0];
    for _ in 0..20 {
        let to = world.chosen().expect("a peer");
        counts[to] += 1;
        held.push(world.send(to));
    }
    assert!(counts[0] > counts[1] && counts[1] > 5, "{counts:?}");
}
