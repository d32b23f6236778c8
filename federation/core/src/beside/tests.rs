use super::*;
use crate::samples::{id, numbered};

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

#[test]
fn a_throttle_holds_its_part_of_calls() {
    let beside = Beside::default();
    let key = PeerKey::of(&id(1));
    let held = |now| {
        let all = 0..1_000;
        let held = all.filter(|chance| {
            let held = beside.holds(key, ClassKey::NONE, at(5), (now, *chance));
            held == Some(Held::Throttled)
        });
        held.count() as f64 / 1_000.0
    };
    assert_eq!(held(at(2_000)), 0.0);
    for call in 0..50 {
        beside.offered(&id(1), call % 5 == 0, at(2_000));
    }
    let throttle = beside.throttle(&id(1), at(2_000));
    assert!((held(at(2_000)) - throttle).abs() < 0.05, "{throttle}");
    assert_eq!(held(at(200_000)), 0.0);
}

#[test]
fn calls_above_the_level_of_their_class_are_not_offered() {
    let beside = Beside::default();
    let (gold, lead) = (ClassKey::of(Some("gold")), ClassKey::of(Some("lead")));
    beside.told(&id(1), lead, 32, at(1_000));
    let shed = |peer: u8, class, now: Time| {
        let lots = 0..1_000_u64;
        let key = PeerKey::of(&id(peer));
        let shed = lots.filter(|arrived| {
            let arrived = Time::from_nanos(*arrived);
            beside.holds(key, class, arrived, (now, 7)) == Some(Held::Shed)
        });
        shed.count()
    };
    assert!(
        (700..800).contains(&shed(1, lead, at(1_500))),
        "three of four"
    );
    assert_eq!(shed(1, gold, at(1_500)), 0);
    assert_eq!(shed(2, lead, at(1_500)), 0);
    assert_eq!(shed(1, lead, at(4_000)), 0, "that is long ago");
    beside.told(&id(1), lead, LEVEL_MAX, at(4_000));
    assert_eq!(shed(1, lead, at(4_000)), 0);
}

#[test]
fn a_call_is_shed_by_all_peers_of_one_level_or_by_none() {
    let beside = Beside::default();
    for peer in 0..20 {
        beside.told(&numbered(peer), ClassKey::NONE, 64, at(1_000));
    }
    for arrived in (0..50).map(at) {
        let shed: Vec<bool> = (0..20)
            .map(|peer| {
                let key = PeerKey::of(&numbered(peer));
                beside
                    .holds(key, ClassKey::NONE, arrived, (at(1_100), u64::from(peer)))
                    .is_some()
            })
            .collect();
        assert!(shed.iter().all(|one| *one == shed[0]), "{shed:?}");
    }
}

#[test]
fn a_level_sinks_while_calls_wait_long_and_rises_after() {
    let class = ClassKey::NONE;
    let milliseconds = Duration::from_millis;
    let mut levels = Levels::default();
    assert_eq!(levels.level(class), LEVEL_MAX);
    let mut second = 0;
    let mut pass = |levels: &mut Levels, seconds: u64, queued: u64, ran: u64| {
        for _ in 0..seconds * 100 {
            second += 10;
            levels.note(class, milliseconds(queued), milliseconds(ran), at(second));
        }
        levels.level(class)
    };
    assert_eq!(pass(&mut levels, 5, 10, 1), LEVEL_MAX, "20 ms are no queue");
    assert_eq!(
        pass(&mut levels, 5, 80, 100),
        LEVEL_MAX,
        "nor what calls run"
    );
    let behind = pass(&mut levels, 10, 300, 100);
    assert!((70..85).contains(&behind), "{behind}");
    let long_behind = pass(&mut levels, 200, 300, 100);
    assert!(
        (1..=2).contains(&long_behind),
        "one is let in: {long_behind}"
    );
    let after = pass(&mut levels, 100, 0, 100);
    assert_eq!(after, LEVEL_MAX);
}

#[test]
fn levels_are_bounded() {
    let mut levels = Levels::default();
    let class = |number| ClassKey::of(Some(&format!("c{number}")));
    for number in 0..1_000 {
        for second in 0..5 {
            let waits = Duration::from_secs(9);
            levels.note(class(number), waits, Duration::ZERO, at(second * 1_000));
        }
    }
    let kept = (0..1_000).filter(|number| levels.level(class(*number)) < LEVEL_MAX);
    assert_eq!(kept.count(), 64);
}
