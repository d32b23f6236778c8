use std::time::Duration;

use crate::policy::broker::tests::World;
use crate::policy::{PROBES_MAX, Probed};
use crate::report::{Load, Report};
use crate::samples::report;

/// Both have told that a call takes 20 ms.
fn differs(_: usize, report: &mut Report) {
    report.offers[0].service_micros = 20_000;
}

fn answer(world: &World, to: usize, load: Option<Load>, milliseconds: u64) {
    world.policy.probed(&Probed {
        peer: world.peers[to].id,
        load,
        took: Duration::from_millis(milliseconds),
        now: world.now,
    });
}

fn waiting(waiting: u32) -> Option<Load> {
    Some(Load {
        waiting,
        ..report().load
    })
}

#[test]
fn the_soonest_by_the_last_answers_gets_the_call() {
    for policy in ["probe:faithful=true", "probe:explore=0"] {
        let mut world = World::with(policy, 2, &differs);
        answer(&world, 0, waiting(8), 1);
        answer(&world, 1, waiting(4), 1);
        assert_eq!(world.counts(20), [0, 20], "{policy}");
        answer(&world, 0, waiting(0), 1);
        assert_eq!(world.counts(20), [20, 0], "{policy}");
    }
}

#[test]
fn the_way_counts_and_so_do_our_own_calls() {
    let mut published = World::with("probe:faithful=true", 2, &differs);
    answer(&published, 0, waiting(0), 80);
    answer(&published, 1, waiting(1), 1);
    assert_eq!(published.counts(20), [20, 0]);
    let mut world = World::with("probe:explore=0", 2, &differs);
    answer(&world, 0, waiting(0), 80);
    answer(&world, 1, waiting(1), 1);
    assert_eq!(world.chosen(), Some(1));
    let mut held = Vec::new();
    for _ in 0..40 {
        let to = world.chosen().expect("a peer");
        held.push(world.send(to));
    }
    assert!(world.rooms[0].held() > 10, "{}", world.rooms[0].held());
}

#[test]
fn one_that_is_mute_holds_nobody_up_and_is_forgotten() {
    let mut world = World::with("probe:explore=0", 2, &differs);
    answer(&world, 0, waiting(0), 1);
    answer(&world, 1, waiting(40), 1);
    assert_eq!(world.counts(5), [5, 0]);
    answer(&world, 1, None, 500);
    // It is as good as it was said to be.
    let counts = world.counts(60);
    assert!(counts[1] > 0 || counts[0] == 60);
    // And so is one whose answer is old.
    world.pass(11_000);
    answer(&world, 0, waiting(40), 1);
    assert_eq!(world.counts(5), [0, 5]);
}

#[test]
fn questions_go_round_a_bounded_number_at_a_time() {
    for count in [3, 16, 40, 600] {
        let mut world = World::with("probe:period=250ms", count, &differs);
        let mut asked = vec![0; count];
        for _ in 0..30 {
            world.chance += 1;
            let (next, wishes) = world.tick();
            assert_eq!(next, world.now + Duration::from_millis(250));
            assert!(wishes.probes().len() <= PROBES_MAX);
            for peer in wishes.probes() {
                let at = world.peers.iter().position(|one| one.id == *peer);
                asked[at.expect("it is there")] += 1;
            }
        }
        let some = asked.iter().filter(|times| **times > 0).count();
        assert!(some >= count.min(200), "{count}: {some}");
    }
}
