use proptest::prelude::*;

use super::super::testbed::{Trial, is_as_expected, policy};
use super::*;
use crate::policy::Choice;
use crate::samples::numbered;
use crate::snapshot::Here;

fn place(service: f64, way: f64) -> Option<AtPlace> {
    Some(AtPlace {
        service,
        start: 0.0,
        cold: 0.0,
        way,
    })
}

fn demand(rate: f64, utility: f64) -> Demand {
    Demand {
        rate,
        utility,
        penalty: 0.0,
        completion: 0.0,
        deadline: f64::INFINITY,
        cores: 1.0,
        places: [place(0.1, 0.0), place(0.1, 0.01), place(0.1, 0.05)],
    }
}

const AMPLE: Limits = Limits {
    local: 100.0,
    edge: 100.0,
    price: 0.01,
    budget: f64::INFINITY,
};

fn is_close(found: &Split, expected: [f64; 4]) -> bool {
    let mut pairs = found.iter().zip(expected);
    pairs.all(|(found, expected)| (found - expected).abs() < 1e-3)
}

#[test]
fn in_time_is_as_the_formula_says() {
    let at = AtPlace {
        service: 0.1,
        start: 0.2,
        cold: 0.25,
        way: 0.05,
    };
    let left: f64 = 0.4 - 0.05;
    let cold = 1.0 - (-(left - 0.2) / 0.1_f64).exp();
    let warm = 1.0 - (-left / 0.1_f64).exp();
    assert!((at.in_time(0.4) - (0.25 * cold + 0.75 * warm)).abs() < 1e-12);
    assert_eq!(at.in_time(0.01), 0.0);
    assert_eq!(at.in_time(f64::INFINITY), 1.0);
}

#[test]
fn plans_of_small_cases() {
    // Ten calls a second of a tenth of a second take one processor.
    let one = |limits: Limits, demand: Demand| plan(&[demand], &limits, false).expect("a plan")[0];
    let here = one(AMPLE, demand(10.0, 1.0));
    assert!(is_close(&here, [1.0, 0.0, 0.0, 0.0]), "{here:?}");
    let half = Limits {
        local: 0.5,
        ..AMPLE
    };
    let split = one(half, demand(10.0, 1.0));
    assert!(is_close(&split, [0.5, 0.5, 0.0, 0.0]), "{split:?}");
    let little = Limits { edge: 0.2, ..half };
    let split = one(little, demand(10.0, 1.0));
    assert!(is_close(&split, [0.5, 0.2, 0.3, 0.0]), "{split:?}");
    // The cloud costs a hundredth of one for each second: 0.001 is a tenth of it.
    let poor = Limits {
        budget: 0.001,
        ..little
    };
    let split = one(poor, demand(10.0, 1.0));
    assert!(is_close(&split, [0.5, 0.2, 0.1, 0.2]), "{split:?}");
    // A deadline that nobody else can keep.
    let tight = Demand {
        deadline: 0.01,
        ..demand(10.0, 1.0)
    };
    let split = one(AMPLE, tight);
    assert!(split[0] > 0.999, "{split:?}");
}

#[test]
fn the_class_of_more_worth_has_the_place_and_the_promise_is_kept() {
    let scarce = Limits {
        local: 1.0,
        edge: 0.0,
        budget: 0.0,
        ..AMPLE
    };
    let (gold, bulk) = (demand(10.0, 1.0), demand(10.0, 0.01));
    let split = plan(&[bulk, gold], &scarce, false).expect("a plan");
    assert!(split[1][0] > 0.999 && split[0][0] < 1e-3, "{split:?}");
    let promised = Demand {
        completion: 0.4,
        ..bulk
    };
    let split = plan(&[promised, gold], &scarce, false).expect("a plan");
    assert!(
        (split[0][0] - 0.4).abs() < 1e-6 && (split[1][0] - 0.6).abs() < 1e-6,
        "{split:?}"
    );
}

#[test]
fn a_promise_that_cannot_be_kept_is_kept_as_far_as_can_be() {
    let scarce = Limits {
        local: 0.5,
        edge: 0.0,
        budget: 0.0,
        ..AMPLE
    };
    let promised = Demand {
        completion: 0.9,
        ..demand(10.0, 1.0)
    };
    assert_eq!(plan(&[promised], &scarce, true), None, "as published");
    let split = plan(&[promised], &scarce, false).expect("a plan")[0];
    assert!(is_close(&split, [0.5, 0.0, 0.0, 0.5]), "{split:?}");
}

fn worth(demands: &[Demand], splits: &[Split]) -> f64 {
    let of = |(demand, split): (&Demand, &Split)| {
        let places = (0..PLACES).filter_map(|at| Some(demand.gain(at)? * split[at]));
        demand.rate * places.sum::<f64>()
    };
    demands.iter().zip(splits).map(of).sum()
}

proptest! {
    #[test]
    fn the_optimum_is_no_worse_than_any_split_of_a_grid(
        rates in prop::collection::vec(1.0..30.0_f64, 2),
        utilities in prop::collection::vec(0.01..2.0_f64, 2),
        penalties in prop::collection::vec(0.0..1.0_f64, 2),
        deadlines in prop::collection::vec(0.02..0.5_f64, 2),
        local in 0.1..3.0_f64,
        edge in 0.0..2.0_f64,
        budget in 0.0..0.01_f64,
    ) {
        let demands: Vec<Demand> = (0..2)
            .map(|at| Demand {
                penalty: penalties[at],
                deadline: deadlines[at],
                ..demand(rates[at], utilities[at])
            })
            .collect();
        let limits = Limits { local, edge, budget, price: 0.01 };
        let found = plan(&demands, &limits, true).expect("to drop all is feasible");
        let best = worth(&demands, &found);
        let fits = |splits: &[Split]| {
            let sum = |at: usize| -> f64 {
                let of = |(demand, split): (&Demand, &Split)| demand.rate * 0.1 * split[at];
                demands.iter().zip(splits).map(of).sum()
            };
            sum(0) <= local + 1e-6 && sum(1) <= edge + 1e-6 && sum(2) * 0.01 <= budget + 1e-6
        };
        prop_assert!(fits(&found), "{found:?}");
        let steps = || (0..=5).map(|step| f64::from(step) / 5.0);
        let mut grid = Vec::new();
        for here in steps() {
            for near in steps() {
                for up in steps() {
                    if here + near + up <= 1.0 + 1e-9 {
                        grid.push([here, near, up, 1.0 - here - near - up]);
                    }
                }
            }
        }
        for one in &grid {
            for other in &grid {
                let splits = [*one, *other];
                prop_assert!(!fits(&splits) || worth(&demands, &splits) <= best + 1e-6);
            }
        }
    }
}

#[test]
fn as_many_pairs_as_are_planned_have_a_plan() {
    let demands: Vec<Demand> = (0..PAIRS_PLANNED)
        .map(|at| Demand {
            completion: 0.5,
            deadline: 0.1 + at as f64 / 100.0,
            ..demand(1.0 + at as f64, 1.0 / (1.0 + at as f64))
        })
        .collect();
    let scarce = Limits {
        local: 4.0,
        edge: 8.0,
        budget: 0.01,
        ..AMPLE
    };
    let splits = plan(&demands, &scarce, false).expect("a plan");
    let sums = splits.iter().map(|split| split.iter().sum::<f64>());
    assert!(sums.clone().all(|sum| (sum - 1.0).abs() < 1e-6));
}

#[test]
fn classes_are_read_and_checked() {
    let classes = read_classes("gold/1/0.9+bulk/0.01/0/2").expect("they are");
    let key = |name| ClassKey::of(Some(name));
    let expected = [
        (key("gold"), 1.0, Some(0.9), None),
        (key("bulk"), 0.01, Some(0.0), Some(2.0)),
    ];
    assert_eq!(classes, expected);
    assert_eq!(read_classes(""), Some(Classes::new()));
    for wrong in [
        "gold",
        "gold/x",
        "gold/1/2",
        "gold/-1",
        "/1",
        "a/1+a/2",
        "a/1/1/1/1",
        "a/NaN",
    ] {
        assert_eq!(read_classes(wrong), None, "{wrong}");
        let choice: Result<Choice, _> = format!("qos-aware:classes={wrong}").parse();
        let told = choice.expect_err("it is none").to_string();
        assert!(told.contains("NAME/UTILITY"), "{told}");
    }
}

/// A node of four processors that is called so often and had a round.
fn called(trial: &mut Trial, policy: &dyn Policy, rate: u64) {
    for _ in 0..8 {
        for chance in 0..rate {
            trial.decide(policy, chance);
        }
        trial.pass(Duration::from_secs(1));
        trial.tick(policy);
    }
}

#[test]
fn calls_are_drawn_by_the_plan() {
    let policy = policy("qos-aware");
    let mut trial = Trial::of(2);
    trial.here = Here::Warm;
    trial.join_cloud();
    for peer in &mut trial.peers {
        let mut load = peer.load();
        load.guest_cpu = 1_000;
        peer.learn(load, trial.now);
    }
    trial.tick(&*policy);
    // 100 calls a second take ten processors: four here, two near, four up.
    called(&mut trial, &*policy, 100);
    let counts = trial.shares(&*policy, 10_000);
    let near = counts[1] + counts[2];
    let sums = [counts[0], near, counts[3]];
    assert!(is_as_expected(&sums, &[0.4, 0.2, 0.4]), "{counts:?}");
    let terms = trial.terms(&*policy, 1);
    let share = |name| {
        let of = |term: &&(Option<_>, &str, f64)| term.1 == name;
        terms.iter().find(of).expect("it tells").2
    };
    assert!((share("here_share") - 0.4).abs() < 0.02, "{terms:?}");
    assert!(share("drop_share") < 0.01);
}

#[test]
fn what_is_impossible_leaves_the_rest_in_proportion() {
    let mut split = [0.5, 0.25, 0.25, 0.0];
    assert!(possible_of(&mut split, [false, true, true]));
    assert!(is_close(&split, [0.0, 0.5, 0.5, 0.0]));
    let mut split = [0.5, 0.1, 0.3, 0.1];
    assert!(possible_of(&mut split, [true, false, true]));
    assert!(is_close(&split, [0.5 / 0.9, 0.0, 0.3 / 0.9, 0.1 / 0.9]));
    let mut split = [1.0, 0.0, 0.0, 0.0];
    assert!(!possible_of(&mut split, [false, true, true]));
}

#[test]
fn before_a_plan_it_runs_here_and_as_published_by_halves() {
    let mut trial = Trial::of(1);
    trial.here = Here::Warm;
    trial.join_cloud();
    assert_eq!(trial.shares(&*policy("qos-aware"), 50), [50, 0, 0, 0]);
    let counts = trial.shares(&*policy("qos-aware:faithful=true"), 8_000);
    assert!(
        is_as_expected(&counts, &[0.5, 0.25, 0.25, 0.0]),
        "{counts:?}"
    );
}

#[test]
fn a_pick_without_room_tries_the_other_places() {
    let policy = policy("qos-aware");
    let mut trial = Trial::of(1);
    trial.here = Here::Warm;
    trial.join_cloud();
    trial.tick(&*policy);
    called(&mut trial, &*policy, 20);
    assert_eq!(trial.shares(&*policy, 100)[0], 100);
    trial.here = Here::Full;
    assert_eq!(trial.shares(&*policy, 100)[1], 100);
    trial.fill(0);
    assert_eq!(trial.shares(&*policy, 100)[2], 100);
    trial.queue = Some(Duration::from_millis(5));
    trial.fill(1);
    assert!(matches!(
        trial.decide(&*policy, 1),
        Decision::Enqueue { .. }
    ));
}

#[test]
fn the_budget_is_kept_and_an_idle_night_is_no_burst() {
    // 36 an hour: a hundredth a second, which is one second of a processor.
    let policy = policy("qos-aware:budget=36,cloud-cost=0.01");
    let mut trial = Trial::of(0);
    let cloud = trial.join_cloud();
    trial.tick(&*policy);
    trial.pass(Duration::from_secs(3_600 * 8));
    trial.tick(&*policy);
    let mut spent = 0;
    for _ in 0..1_000 {
        if matches!(trial.decide(&*policy, 1), Decision::Offload { .. }) {
            spent += 1;
            trial.ended(
                &*policy,
                Some(cloud),
                Ending::Answered,
                Duration::from_secs(1),
            );
        }
    }
    // A minute's worth is saved.
    assert!((59..=61).contains(&spent), "{spent}");
    let mut later = 0;
    for _ in 0..20 {
        trial.pass(Duration::from_secs(1));
        trial.tick(&*policy);
        for _ in 0..10 {
            if matches!(trial.decide(&*policy, 1), Decision::Offload { .. }) {
                later += 1;
                trial.ended(
                    &*policy,
                    Some(cloud),
                    Ending::Answered,
                    Duration::from_secs(1),
                );
            }
        }
    }
    assert!((18..=22).contains(&later), "{later}");
}

#[test]
fn one_error_empties_no_table() {
    let policy = policy("qos-aware");
    let mut trial = Trial::of(2);
    trial.tick(&*policy);
    called(&mut trial, &*policy, 50);
    let before = trial.shares(&*policy, 200);
    for _ in 0..10 {
        trial.ended(
            &*policy,
            Some(numbered(0)),
            Ending::Lost,
            Duration::from_secs(1),
        );
    }
    trial.tick(&*policy);
    let after = trial.shares(&*policy, 200);
    assert!(before[1] > 0 && after[1] > 0, "{before:?}, {after:?}");
}

#[test]
fn a_pair_that_is_not_called_is_forgotten() {
    let policy = policy("qos-aware");
    let mut trial = Trial::of(1);
    trial.tick(&*policy);
    called(&mut trial, &*policy, 5);
    trial.here = Here::Warm;
    assert!(!trial.terms(&*policy, 1).is_empty());
    for _ in 0..3 {
        trial.pass(Duration::from_secs(25));
        trial.tick(&*policy);
    }
    assert!(
        trial.terms(&*policy, 1).is_empty(),
        "there is no plan for it"
    );
}
