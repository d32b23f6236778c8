use std::sync::Arc;

use super::*;
use crate::facts::Facts;
use crate::report::Load;
use crate::samples::{id, numbered, report};
use crate::snapshot::{Cost, Reserved, Word};

fn at(milliseconds: u64) -> Time {
    Time::ZERO + Duration::from_millis(milliseconds)
}

#[test]
fn retries_are_a_fifth_of_calls_and_three_a_second() {
    for (calls_per_second, expected) in [(0, 3.0), (10, 5.0), (100, 23.0), (1_000, 203.0)] {
        let beside = Beside::default();
        let mut taken = 0;
        // A minute and a half, of which the last minute counts.
        for tick in 0..9_000_u32 {
            let now = at(10_000 + u64::from(tick) * 10);
            for _ in 0..calls_per_second / 100
                + u32::from(tick % 10 == 0) * (calls_per_second % 100 / 10)
            {
                beside.calls(now);
            }
            for _ in 0..8 {
                let takes = beside.takes_retry(now);
                taken += u32::from(takes && tick >= 3_000);
            }
        }
        let rate = f64::from(taken) / 60.0;
        assert!(
            (rate - expected).abs() < expected * 0.1,
            "{calls_per_second}: {rate}, not {expected}"
        );
    }
}

#[test]
fn who_refuses_all_is_offered_little_and_who_refuses_half_all() {
    for (name, accepted_of_ten, least, most) in [
        ("takes all", 10, 0.0, 0.0),
        ("refuses half", 5, 0.0, 0.05),
        ("takes a fifth", 2, 0.5, 0.65),
        ("refuses all", 0, 0.95, 1.0),
    ] {
        let beside = Beside::default();
        for call in 0..200 {
            let now = at(1_000 + call * 10);
            beside.offered(&id(1), call % 10 < accepted_of_ten, now);
        }
        let throttle = beside.throttle(&id(1), at(3_000));
        assert!((least..=most).contains(&throttle), "{name}: {throttle}");
        // It is offered all again when that is long ago.
        let later = beside.throttle(&id(1), at(120_000));
        assert!(later < 0.1, "{name}: {later}");
        assert_eq!(beside.throttle(&id(2), at(3_000)), 0.0);
    }
}

/// A peer that said at one moment that it has room.
fn peer(number: u8, loaded: Time) -> PeerView {
    PeerView::new(Arc::new(Facts::new(id(number), report())), loaded)
}

/// How many of a thousand calls of a class are held back from a peer, and why.
fn held_of(beside: &Beside, to: &PeerView, room: u32, class: ClassKey, now: Time) -> [usize; 2] {
    let mut held = [0; 2];
    for arrived in 0..1_000 {
        let arrived = Time::from_nanos(arrived);
        let sending = Sending {
            to,
            has_room: room > 0,
            class,
            arrived,
        };
        match beside.holds(&sending, now) {
            Some(Held::Throttled) => held[0] += 1,
            Some(Held::Shed) => held[1] += 1,
            Some(Held::Budget) => panic!("that is of no peer"),
            None => {}
        }
    }
    held
}

/// A peer of which one call is, so that no other finds out whether it has room.
fn tried(number: u8, loaded: Time) -> (PeerView, Reserved) {
    let mut peer = peer(number, loaded);
    let cost = Cost {
        cpu: 1,
        long: false,
    };
    let load = Load {
        guest_cpu: 9_000,
        ..report().load
    };
    let window = peer.open().clone();
    window.renew(&Word { load, under_way: 0 });
    let held = window.reserve(None, cost, loaded).expect("it has room");
    (peer, held)
}

#[test]
fn a_throttle_holds_its_part_of_calls() {
    let beside = Beside::default();
    let (to, _held) = tried(1, at(1_900));
    let held = |now| held_of(&beside, &to, 4, ClassKey::NONE, now)[0] as f64 / 1_000.0;
    assert_eq!(held(at(2_000)), 0.0);
    for call in 0..50 {
        beside.offered(&id(1), call % 5 == 0, at(2_000));
    }
    let throttle = beside.throttle(&id(1), at(2_000));
    assert!((held(at(2_000)) - throttle).abs() < 0.05, "{throttle}");
    assert_eq!(held(at(200_000)), 0.0);
}

#[test]
fn what_was_held_back_once_is_so_until_the_peer_says_more() {
    let beside = Beside::default();
    for call in 0..50 {
        beside.offered(&id(1), call % 3 == 0, at(2_000));
    }
    let (mut to, _held) = tried(1, at(1_900));
    let holds = |to: &PeerView| -> Vec<bool> {
        let calls = (0..200).map(|arrived| Sending {
            to,
            has_room: true,
            class: ClassKey::NONE,
            arrived: at(arrived),
        });
        calls
            .map(|sending| beside.holds(&sending, at(2_001)).is_some())
            .collect()
    };
    let before = holds(&to);
    assert_eq!(holds(&to), before);
    to.learn(report().load, at(2_001));
    assert_ne!(holds(&to), before);
}

#[test]
fn a_call_goes_to_a_place_that_is_free_whatever_was_refused() {
    let told = Told {
        load: Some(Load::default()),
        places: Some(1),
        ..Told::default()
    };
    let refuses_all = |beside: &Beside| {
        for _ in 0..100 {
            beside.heard(&id(1), ClassKey::NONE, &told, Some(false), at(1_000));
        }
    };
    let held = |beside: &Beside, to: &PeerView, room, now| {
        held_of(beside, to, room, ClassKey::NONE, now)[0]
    };
    let beside = Beside::default();
    refuses_all(&beside);
    let (busy, _held) = tried(1, at(1_000));
    assert!(held(&beside, &busy, 4, at(1_001)) > 950, "it refused all");
    let idle = peer(1, at(1_000));
    assert_eq!(held(&beside, &idle, 4, at(1_001)), 0, "one finds out");
    assert!(
        held(&beside, &idle, 0, at(1_001)) > 950,
        "ahead of a place there is nothing to find out"
    );
    // It answers one, and has another place.
    beside.heard(&id(1), ClassKey::NONE, &told, Some(true), at(1_010));
    assert_eq!(held(&beside, &busy, 4, at(1_050)), 0);
    assert!(held(&beside, &busy, 0, at(1_050)) > 900);
    assert!(held(&beside, &busy, 4, at(1_200)) > 900, "that is long ago");
    beside.promised(&id(1));
    assert_eq!(held(&beside, &busy, 4, at(1_200)), 0, "it promised places");
    assert_eq!(beside.throttle(&id(1), at(1_200)), 0.0);
}

#[test]
fn calls_above_the_level_of_their_class_are_not_offered() {
    let beside = Beside::default();
    let (gold, lead) = (ClassKey::of(Some("gold")), ClassKey::of(Some("lead")));
    let told = |level| Told {
        load: Some(Load::default()),
        level,
        ..Told::default()
    };
    beside.heard(&id(1), lead, &told(Some(32)), Some(true), at(1_000));
    let shed =
        |number: u8, class, now: Time| held_of(&beside, &peer(number, at(999)), 3, class, now)[1];
    assert!(
        (700..800).contains(&shed(1, lead, at(1_500))),
        "three of four"
    );
    assert_eq!(shed(1, gold, at(1_500)), 0);
    assert_eq!(shed(2, lead, at(1_500)), 0);
    assert_eq!(shed(1, lead, at(4_000)), 0, "that is long ago");
    // It has said since that it has room.
    let since = peer(1, at(1_200));
    assert_eq!(held_of(&beside, &since, 3, lead, at(1_500))[1], 0);
    assert!(held_of(&beside, &since, 0, lead, at(1_500))[1] > 700);
    beside.heard(&id(1), lead, &Told::default(), None, at(1_600));
    assert!(shed(1, lead, at(1_600)) > 700, "nothing was said");
    beside.heard(&id(1), lead, &told(None), Some(true), at(1_700));
    assert_eq!(shed(1, lead, at(1_700)), 0, "all are admitted");
}

#[test]
fn a_level_out_of_range_says_nothing() {
    for (told, level) in [
        (None, None),
        (Some(0), Some(1)),
        (Some(1), Some(1)),
        (Some(127), Some(127)),
        (Some(128), None),
        (Some(255), None),
        (Some(256), None),
        (Some(u64::MAX), None),
    ] {
        assert_eq!(Told::level_of(told), level, "{told:?}");
    }
}

#[test]
fn a_call_is_shed_by_all_peers_of_one_level_or_by_none() {
    let beside = Beside::default();
    let told = Told {
        load: Some(Load::default()),
        level: Some(64),
        ..Told::default()
    };
    let peers: Vec<PeerView> = (0..20)
        .map(|number| PeerView::new(Arc::new(Facts::new(numbered(number), report())), at(999)))
        .collect();
    for peer in &peers {
        beside.heard(&peer.id, ClassKey::NONE, &told, None, at(1_000));
    }
    for arrived in (0..50).map(at) {
        let shed: Vec<bool> = peers
            .iter()
            .map(|to| {
                let sending = Sending {
                    to,
                    has_room: true,
                    class: ClassKey::NONE,
                    arrived,
                };
                beside.holds(&sending, at(1_100)).is_some()
            })
            .collect();
        assert!(shed.iter().all(|one| *one == shed[0]), "{shed:?}");
    }
}

#[test]
fn a_level_sinks_while_calls_wait_long_and_rises_after() {
    let class = ClassKey::NONE;
    let milliseconds = Duration::from_millis;
    let levels = Levels::default();
    assert_eq!(levels.level(class), LEVEL_MAX);
    let mut second = 0;
    let mut pass = |seconds: u64, queued: u64, ran: u64| {
        for _ in 0..seconds * 100 {
            second += 10;
            let ran = (ran > 0).then(|| milliseconds(ran));
            levels.note(class, milliseconds(queued), ran, at(second));
        }
        levels.level(class)
    };
    assert_eq!(pass(5, 10, 1), LEVEL_MAX, "20 ms are no queue");
    assert_eq!(pass(5, 80, 100), LEVEL_MAX, "nor what calls run");
    let behind = pass(10, 300, 100);
    assert!((70..85).contains(&behind), "{behind}");
    let in_vain = pass(10, 300, 0);
    assert!(in_vain < behind, "who waits in vain waits too");
    let long_behind = pass(200, 300, 100);
    assert!(
        (1..=2).contains(&long_behind),
        "one is let in: {long_behind}"
    );
    assert!(pass(5, 0, 0) <= 2, "what is refused at once says nothing");
    let after = pass(100, 0, 100);
    assert_eq!(after, LEVEL_MAX);
}

#[test]
fn a_node_tells_its_level_while_it_has_no_place() {
    let beside = Beside::default();
    let class = ClassKey::of(Some("gold"));
    for second in 0..10 {
        let waits = Duration::from_secs(3);
        beside.ran_here(class, waits, Some(Duration::ZERO), at(second * 1_000));
    }
    let level = beside.tells(class, 0).expect("it is behind");
    assert!((70..90).contains(&level), "{level}");
    assert_eq!(beside.tells(class, 1), None);
    assert_eq!(beside.tells(ClassKey::NONE, 0), None);
}

#[test]
fn levels_are_bounded() {
    let levels = Levels::default();
    let class = |number| ClassKey::of(Some(&format!("c{number}")));
    for number in 0..1_000 {
        for second in 0..5 {
            let waits = Duration::from_secs(9);
            levels.note(class(number), waits, None, at(second * 1_000));
        }
    }
    let kept = (0..1_000).filter(|number| levels.level(class(*number)) < LEVEL_MAX);
    assert!((32..=64).contains(&kept.count()));
}
