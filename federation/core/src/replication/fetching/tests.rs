use super::*;
use crate::samples::id;

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

#[test]
fn the_nearest_of_those_that_have_code_are_asked_first() {
    let holder = |number: u8, keeps, millis| Holder {
        id: id(number),
        keeps,
        away: Duration::from_millis(millis),
    };
    let some = vec![
        holder(1, true, 30),
        holder(2, false, 1),
        holder(3, true, 20),
    ];
    assert_eq!(in_order(some), [id(2), id(3), id(1)]);
    // Where there are many, those that keep it, though they are far.
    let mut many: Vec<Holder> = (10..20).map(|number| holder(number, false, 1)).collect();
    many.push(holder(1, true, 900));
    let order = in_order(many);
    assert_eq!((order.len(), order.last()), (HOLDERS_MAX, Some(&id(1))));
}

#[test]
fn a_part_is_asked_for_from_the_one_whose_turn_it_is() {
    let mut holders = vec![id(1), id(2), id(3)];
    let mut part = Part::new(&holders, 4);
    let ask = |part: &mut Part, seconds| part.next(at(seconds), 0);
    assert_eq!(ask(&mut part, 0), Step::Ask(id(2)));
    part.came(id(2), Gave::Absent, &mut holders);
    assert_eq!(ask(&mut part, 0), Step::Ask(id(3)));
    part.came(id(3), Gave::Busy, &mut holders);
    assert_eq!(ask(&mut part, 0), Step::Ask(id(1)));
    part.came(id(1), Gave::Failed("no road".to_owned()), &mut holders);
    assert_eq!(holders, [id(1), id(3)]);
    // Who is busy is asked again, for so long.
    assert_eq!(ask(&mut part, 0), Step::Pause(Duration::from_millis(50)));
    assert_eq!(ask(&mut part, 1), Step::Ask(id(3)));
    part.came(id(3), Gave::Busy, &mut holders);
    assert_eq!(ask(&mut part, BUSY_FOR.as_secs()), Step::GiveUp);
    let reasons = part.reasons().to_string();
    for expected in ["it is not there", "no road", "it is busy"] {
        assert!(reasons.contains(expected), "{reasons}");
    }
    let nobody = Part::new(&[], 3).reasons().to_string();
    assert_eq!(nobody, "no member that has it can be reached");
}

#[test]
fn who_is_left_out_of_the_parts_that_follow() {
    for (case, gave, alone, expected) in [
        ("wrong bytes", Gave::Wrong("wrong"), false, false),
        ("absent", Gave::Absent, true, false),
        ("late, of several", Gave::Late, false, false),
        ("late, the only one", Gave::Late, true, true),
        ("failed", Gave::Failed(String::new()), false, true),
        ("busy", Gave::Busy, false, true),
    ] {
        let mut holders = match alone {
            true => vec![id(1)],
            false => vec![id(1), id(2)],
        };
        let mut part = Part::new(&holders, 0);
        assert_eq!(part.next(at(0), 9), Step::Ask(id(1)), "{case}");
        part.came(id(1), gave, &mut holders);
        assert_eq!(holders.contains(&id(1)), expected, "{case}");
    }
}

#[test]
fn layers_are_looked_for_where_that_may_be_sooner_than_to_wait() {
    let mebi = 1 << 20;
    let sought = [0..10 * mebi, 20 * mebi..30 * mebi];
    let mut pace = Pace::default();
    assert_eq!(pace.look_for(&sought, 0), None);
    pace.came(2 * mebi, Duration::from_secs(1));
    assert_eq!(pace.look_for(&sought, 0), Some(Duration::from_secs(10)));
    assert_eq!(
        pace.look_for(&sought, 20 * mebi),
        Some(Duration::from_secs(5))
    );
    assert_eq!(pace.look_for(&sought, 25 * mebi), None);
    pace.came(0, Duration::MAX);
    assert_eq!(pace.look_for(&sought, 0), Some(Duration::from_secs(60)));
}

#[test]
fn bytes_are_spaced_by_the_rate() {
    let mut spacing = Spacing::default();
    assert_eq!(spacing.take(1_000, 500, at(5)), at(5));
    assert_eq!(spacing.take(500, 500, at(5)), at(7));
    assert_eq!(spacing.take(500, 500, at(20)), at(20));
    assert_eq!(spacing.take(u64::MAX, 0, at(20)), at(21));
    assert!(spacing.take(1, 1, at(20)) > at(1_000_000));
}
