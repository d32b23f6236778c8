use super::super::testbed::{Trial, is_as_expected};
use super::*;

#[test]
fn higher_scores_have_lower_ranks() {
    let scores = [f64::MAX, 9.0, 0.5, 0.0, -0.0, -0.5, -9.0, f64::MIN];
    let ranks = scores.map(highest_first);
    assert!(ranks.is_sorted(), "{ranks:?}");
    assert!(ranks[1] < ranks[2] && ranks[5] < ranks[6]);
}

#[test]
fn shares_are_drawn_as_they_are() {
    let shares = Shares::new([('a', 1.0), ('b', 0.0), ('c', 3.0)]);
    let mut counts = [0; 2];
    for chance in Draws::new(3).take(10_000) {
        match shares.draw(chance).expect("there are some") {
            ('a', share) if (share - 0.25).abs() < 1e-9 => counts[0] += 1,
            ('c', share) if (share - 0.75).abs() < 1e-9 => counts[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(is_as_expected(&counts, &[1.0, 3.0]), "{counts:?}");
    assert_eq!(Shares::<char>::new([]).draw(0.5), None);
    assert_eq!(shares.draw(1.0).map(|(to, _)| to), Some('c'));
}

#[test]
fn any_peer_that_may_take_a_call_is_as_likely_as_another() {
    for (count, full) in [(1, 0), (5, 2), (16, 9), (40, 10)] {
        let mut trial = Trial::of(count);
        for number in 0..full {
            trial.fill(number);
        }
        let counts = trial.count(4_000, |case| {
            let pool = around(case).expect("neighbours");
            to_any(case, pool, Reach::Horizontal)
        });
        assert_eq!(counts[0], 0, "nobody runs it here");
        assert!(counts[1..=full].iter().all(|count| *count == 0));
        let rest = &counts[1 + full..=count];
        let even = vec![1.0; rest.len()];
        assert!(is_as_expected(rest, &even), "{counts:?}");
    }
}

#[test]
fn one_pass_draws_in_proportion() {
    let trial = Trial::of(4);
    let counts = trial.count(8_000, |case| {
        let pool = around(case).expect("neighbours");
        in_proportion(case, pool, Reach::Horizontal, |candidate, _| {
            candidate.place as f64
        })
    });
    assert!(
        is_as_expected(&counts[2..5], &[1.0, 2.0, 3.0]),
        "{counts:?}"
    );
    assert_eq!(counts[1], 0, "who has no share gets none");
    let counts = trial.count(9, |case| {
        let pool = around(case).expect("neighbours");
        in_proportion(case, pool, Reach::Horizontal, |_, _| 0.0)
    });
    assert_eq!(counts[5], 9, "nobody has a share");
}

#[test]
fn what_is_no_number_is_none() {
    assert_eq!(read_number(&written(1.5)), Some(1.5));
    for wrong in [f64::NAN, f64::INFINITY, -1.0] {
        assert_eq!(read_number(&written(wrong)), None);
    }
    assert_eq!(read_number(&[1, 2, 3]), None);
    assert_eq!(read_key(&7_u64.to_le_bytes()), Some(7));
    assert_eq!(read_key(&[7; 5]), None);
}
