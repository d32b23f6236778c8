use std::time::Duration;

use super::super::trial::{Peer, Trial, peer, trial};
use super::*;
use crate::policy::Ending;
use crate::samples::id;
use weir_node_core::words::Timing;

fn with(peers: &[Peer]) -> Trial {
    trial("adaptive").with(peers)
}

/// Who is chosen, of peers about which nothing was learned.
#[test]
fn what_is_told_decides_where_nothing_was_learned() {
    let near = peer(1);
    let cases: [(&str, Peer, u8); 5] = [
        (
            "the nearer",
            Peer {
                round_trip_ms: 60,
                ..peer(2)
            },
            1,
        ),
        (
            "the faster, though further",
            Peer {
                round_trip_ms: 30,
                told_ms: 30,
                ..peer(2)
            },
            2,
        ),
        (
            "the warm one",
            Peer {
                warm: false,
                ..peer(2)
            },
            1,
        ),
        (
            "who has room",
            Peer {
                room: 0,
                told_ms: 1,
                ..peer(2)
            },
            1,
        ),
        (
            "the edge before the cloud of equal speed",
            Peer {
                cloud: true,
                ..peer(2)
            },
            1,
        ),
    ];
    for (name, other, expected) in cases {
        let mut trial = with(&[near, other]);
        let shares = trial.shares(20);
        assert_eq!(shares, [(Some(expected), 20)].into(), "{name}");
    }
}

#[test]
fn it_runs_here_what_is_soonest_done_here() {
    let slow = Peer {
        told_ms: 400,
        ..peer(1)
    };
    let fast = Peer {
        told_ms: 25,
        round_trip_ms: 10,
        ..peer(2)
    };
    let mut trial = with(&[slow]);
    trial.here = Here::Warm;
    assert_eq!(trial.decide(), Decision::Run);
    trial.know(&[slow, fast]);
    assert_eq!(trial.chosen(), Some(2));
    // A short queue here is better than a slow peer, a long one is not.
    trial.know(&[slow]);
    trial.here = Here::Full;
    trial.queue = Some(Duration::from_millis(50));
    assert!(matches!(trial.decide(), Decision::Enqueue { .. }));
    trial.queue = Some(Duration::from_millis(900));
    assert_eq!(trial.chosen(), Some(1));
}

#[test]
fn what_was_learned_decides_against_what_is_told() {
    let mut trial = with(&[peer(1), peer(2)]);
    trial.answers(1, 5, 300, 290);
    trial.answers(2, 5, 110, 100);
    assert_eq!(trial.shares(20), [(Some(2), 20)].into());
    let learned = trial.term(Some(1), "service_ms").expect("it explains");
    assert!((280.0..300.0).contains(&learned), "{learned}");
    for name in ["way_ms", "beside_ms", "spread_ms", "score_ms"] {
        assert!(trial.term(Some(2), name).is_some(), "{name}");
    }
}

/// Toy of load-balancing.md, B.1: what counts less the older it is.
#[test]
fn the_state_of_others_is_aged_towards_what_is_usual() {
    // It says that a call has to be started for a second; calls from here never were.
    let says = |age_ms| Peer {
        warm: false,
        start_ms: 1_000,
        age_ms,
        ..peer(1)
    };
    let mut beside = Vec::new();
    for age_ms in [0, 500, 1_000, 5_000, 20_000] {
        let mut trial = with(&[says(age_ms), peer(2)]);
        for _ in 0..20 {
            trial.ends(Some(1), Ending::Answered, 101, 100);
        }
        beside.push(trial.term(Some(1), "beside_ms").expect("it explains"));
    }
    assert!(beside[0] > 900.0, "{beside:?}");
    assert!(beside.is_sorted_by(|one, other| one > other), "{beside:?}");
    assert!(beside[4] < 1.0, "{beside:?}");
}

#[test]
fn a_black_hole_that_fails_at_once_is_left() {
    let mut trial = with(&[peer(1), peer(2)]);
    trial.answers(1, 5, 101, 100);
    trial.answers(2, 5, 101, 100);
    // Both were alike; then one fails within a millisecond, four times.
    for _ in 0..4 {
        trial.ends(Some(2), Ending::Failed, 1, 0);
    }
    assert_eq!(trial.shares(20), [(Some(1), 20)].into());
}

#[test]
fn a_function_that_fails_everywhere_fails_nowhere_more() {
    let mut trial = with(&[peer(1), peer(2)]);
    for _ in 0..30 {
        trial.later(1);
        trial.ends(Some(1), Ending::Failed, 100, 100);
        trial.ends(Some(2), Ending::Failed, 100, 100);
    }
    let failed = trial.term(Some(1), "failed_share").expect("it explains");
    assert!(failed < 0.05, "{failed}");
    assert_eq!(trial.shares(100).len(), 2);
}

#[test]
fn one_error_does_not_empty_the_table() {
    let mut trial = with(&[peer(1), peer(2)]);
    trial.answers(1, 20, 101, 100);
    trial.answers(2, 20, 301, 300);
    trial.ends(Some(1), Ending::Failed, 1, 0);
    let learned = trial.term(Some(1), "service_ms").expect("it explains");
    assert!((99.0..101.0).contains(&learned), "{learned}");
}

#[test]
fn a_new_node_gets_calls_at_once() {
    let mut trial = with(&[peer(1), peer(2)]);
    trial.answers(1, 50, 140, 139);
    trial.answers(2, 50, 140, 139);
    trial.know(&[peer(1), peer(2), peer(3)]);
    assert_eq!(trial.chosen(), Some(3));
}

#[test]
fn a_recovered_node_is_found_within_five_seconds_by_one_call_at_a_time() {
    let mut trial = with(&[peer(1), peer(2)]);
    trial.answers(1, 20, 131, 130);
    trial.answers(2, 20, 101, 100);
    for _ in 0..20 {
        trial.later(1);
        trial.ends(Some(2), Ending::Lost, 10, 0);
    }
    assert_eq!(trial.chosen(), Some(1));
    let mut waited = 0;
    while trial.chosen() == Some(1) {
        trial.later(100);
        waited += 100;
        trial.answers(1, 1, 131, 130);
        assert!(waited <= 5_000, "it is not tried again");
    }
    // While that call is out, no other follows.
    trial.hold(2);
    assert_eq!(trial.chosen(), Some(1));
    trial.release(2);
    trial.ends(Some(2), Ending::Answered, 101, 100);
    assert_eq!(trial.chosen(), Some(2));
}

#[test]
fn a_node_that_was_slow_is_tried_again_by_one_call() {
    let mut trial = with(&[peer(1), peer(2)]);
    trial.answers(1, 20, 131, 130);
    trial.answers(2, 20, 901, 900);
    let mut waited = 0;
    while trial.chosen() == Some(1) {
        trial.later(1_000);
        waited += 1;
        trial.answers(1, 1, 131, 130);
        assert!(waited <= 240, "it starves");
    }
    assert!(waited >= 10, "tried every {waited} s");
    trial.hold(2);
    assert_eq!(trial.chosen(), Some(1));
}

#[test]
fn a_liar_about_run_times_gains_a_few_calls_at_most() {
    let liar = Peer {
        told_ms: 0,
        round_trip_ms: 1,
        ..peer(2)
    };
    let mut trial = with(&[peer(1), Peer { told_ms: 1, ..liar }]);
    trial.answers(1, 20, 101, 100);
    let mut gained = 0;
    while trial.chosen() == Some(2) {
        gained += 1;
        // It says that it ran for a millisecond, and answers after 400.
        trial.later(400);
        trial.ends(Some(2), Ending::Answered, 400, 1);
        assert!(gained < 5, "it is believed");
    }
    let way = trial.term(Some(2), "way_ms").expect("it explains");
    assert!(way > 300.0, "what it hides is on the way: {way}");
}

#[test]
fn a_liar_about_room_that_refuses_is_left() {
    let mut trial = with(&[
        peer(1),
        Peer {
            told_ms: 60,
            ..peer(2)
        },
    ]);
    trial.answers(1, 20, 101, 100);
    trial.answers(2, 20, 61, 60);
    assert_eq!(trial.chosen(), Some(2));
    for _ in 0..10 {
        trial.later(1);
        trial.ends(Some(2), Ending::Refused, 50, 0);
    }
    let refused = trial.term(Some(2), "refused_share").expect("it explains");
    assert!(refused > 0.4, "{refused}");
    assert_eq!(trial.chosen(), Some(1));
}

#[test]
fn nobody_herds_to_one_of_those_alike() {
    let peers: Vec<Peer> = (1..=8).map(peer).collect();
    let mut trial = with(&peers);
    let shares = trial.shares(800);
    assert_eq!(shares.len(), 8);
    assert!(shares.values().all(|count| *count > 50), "{shares:?}");
}

#[test]
fn a_deadline_prefers_who_is_steady() {
    // One is quick, but for each fifth call.
    let mut trial = with(&[peer(1), peer(2)]);
    for at in 0..50 {
        let took = if at % 5 == 0 { 600 } else { 20 };
        trial.answers(1, 1, took, took);
        trial.answers(2, 1, 110, 110);
    }
    assert_eq!(trial.chosen(), Some(1));
    trial.deadline = trial.now + Duration::from_millis(300);
    let shares = trial.shares(10);
    assert_eq!(shares, [(Some(2), 10)].into());
    assert!(trial.term(Some(1), "late_share").is_some());
}

#[test]
fn bytes_go_where_the_way_is_wide() {
    let mut trial = with(&[
        peer(1),
        Peer {
            round_trip_ms: 20,
            ..peer(2)
        },
    ]);
    let ran = Timing {
        ran: Duration::from_millis(100),
        ..Timing::default()
    };
    // A mebibyte takes a second to one, and ten milliseconds to the other.
    for _ in 0..5 {
        trial.answers(1, 1, 101, 100);
        trial.answers(2, 1, 120, 100);
        trial.ends_with(Some(1), Ending::Answered, 1_101, ran, 1 << 20);
        trial.ends_with(Some(2), Ending::Answered, 130, ran, 1 << 20);
    }
    assert_eq!(trial.chosen(), Some(1));
    trial.body_bytes = Some(1 << 20);
    assert_eq!(trial.chosen(), Some(2));
    trial.body_bytes = Some(100);
    assert_eq!(trial.chosen(), Some(1));
}

#[test]
fn cost_and_energy_have_their_prices() {
    let cloud = Peer {
        cloud: true,
        told_ms: 50,
        ..peer(2)
    };
    let mut cheap = with(&[peer(1), cloud]);
    assert_eq!(cheap.chosen(), Some(2));
    let mut dear = trial("adaptive:cloud-cost=80ms").with(&[peer(1), cloud]);
    assert_eq!(dear.chosen(), Some(1));
    let busy = Peer {
        running: 2,
        round_trip_ms: 20,
        ..peer(2)
    };
    let mut eager = with(&[peer(1), busy]);
    assert_eq!(eager.chosen(), Some(1));
    let mut sparing = trial("adaptive:energy=0.5").with(&[peer(1), busy]);
    assert_eq!(sparing.chosen(), Some(2));
}

#[test]
fn who_is_congested_comes_last() {
    let mut trial = with(&[
        peer(1),
        Peer {
            round_trip_ms: 40,
            ..peer(2)
        },
    ]);
    trial
        .congestion
        .notice(id(1), trial.now + Duration::from_secs(9), trial.now);
    assert_eq!(trial.chosen(), Some(2));
    // It waits rather than go there.
    trial.know(&[peer(1)]);
    trial.queue = Some(Duration::from_secs(1));
    assert!(matches!(trial.decide(), Decision::Enqueue { .. }));
}

#[test]
fn who_says_nothing_while_it_is_full_is_asked_now_and_then() {
    let silent = Peer {
        room: 0,
        age_ms: 4_000,
        ..peer(1)
    };
    let told = Peer {
        room: 0,
        age_ms: 100,
        ..peer(2)
    };
    let mut trial = with(&[silent, told, peer(3)]);
    assert!(trial.tick().is_empty(), "there are no calls");
    trial.ends(Some(3), Ending::Answered, 100, 100);
    assert_eq!(trial.tick(), [id(1)]);
    trial.later(60_000);
    assert!(trial.tick().is_empty(), "there are none any more");
}

#[test]
fn what_it_learned_survives_a_restart_but_not_who_failed() {
    let mut before = with(&[peer(1), peer(2)]);
    before.answers(1, 9, 50, 49);
    before.answers(2, 9, 400, 399);
    for _ in 0..9 {
        before.ends(Some(1), Ending::Lost, 9, 0);
    }
    assert_eq!(before.chosen(), Some(2));
    let saved = before.policy.save().expect("it learned something");
    let mut after = with(&[peer(1), peer(2)]);
    after.now = Time::ZERO + Duration::from_secs(1);
    assert_eq!(after.policy.restore(&saved, after.now), Ok(()));
    assert_eq!(after.chosen(), Some(1));
    assert_eq!(after.policy.restore(b"nonsense", after.now), Err(Malformed));
    let weight = after
        .policy
        .weight(&after.function, ClassKey::NONE, Some(&id(1)));
    assert!(
        weight.is_some_and(|weight| (45.0..55.0).contains(&weight)),
        "{weight:?}"
    );
}

#[test]
fn a_late_call_is_at_least_so_likely_as_its_bound_says() {
    for (slack, variance, expected) in [
        (10.0, 0.0, 0.0),
        (10.0, 100.0, 0.5),
        (30.0, 100.0, 0.1),
        (0.0, 100.0, 1.0),
        (-5.0, 0.0, 1.0),
    ] {
        let found = late(slack, variance);
        assert!(
            (found - expected).abs() < 1e-9,
            "{slack}, {variance}: {found}"
        );
    }
}
