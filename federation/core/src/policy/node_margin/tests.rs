use super::super::testbed::{Trial, is_as_expected, policy};
use super::*;
use crate::samples::numbered;
use crate::snapshot::Here;

/// A node of four processors whose own users call it so often, each call a fifth of a
/// second of one processor; `count` peers have said how much of them is left.
fn overloaded(policy: &dyn Policy, rate: u64, margins: &[f64], growth: f64) -> Trial {
    let mut trial = Trial {
        here: Here::Warm,
        ..Trial::of(margins.len())
    };
    trial.load.cpu_free = trial.load.cpu_total;
    trial.tick(policy);
    for _ in 0..12 {
        for call in 0..rate {
            trial.decide(policy, call);
            trial.ended(policy, None, Ending::Answered, Duration::from_millis(200));
        }
        trial.pass(Duration::from_secs(1));
        let used = (200 * rate).min(4_000) as u32;
        trial.load.cpu_free = trial.load.cpu_total - used;
        hears(&trial, policy, margins, growth);
        trial.tick(policy);
    }
    trial
}

fn hears(trial: &Trial, policy: &dyn Policy, margins: &[f64], growth: f64) {
    for (number, margin) in (0..).zip(margins) {
        let note = note_of(*margin, *margin == 0.0, &[0.0; GROUPS], &[growth; GROUPS]);
        assert_eq!(policy.hear(numbered(number), &note, trial.now), Ok(()));
    }
}

#[test]
fn what_is_too_much_moves_until_the_threshold() {
    for predictor in ["learned", "measured"] {
        let policy = policy(&format!("node-margin:predictor={predictor}"));
        // 20 calls a second are all four processors; 80 % are 16.
        let trial = overloaded(&*policy, 20, &[0.5, 0.5], 0.0625);
        let counts = trial.shares(&*policy, 10_000);
        let share = f64::from(counts[0]) / 10_000.0;
        assert!((share - 0.8).abs() < 0.05, "{predictor}: {counts:?}");
        assert!(is_as_expected(&counts[1..3], &[1.0, 1.0]), "{counts:?}");
        assert_eq!(counts[3], 0);
    }
}

#[test]
fn below_the_threshold_all_stay() {
    let policy = policy("node-margin");
    let trial = overloaded(&*policy, 8, &[0.5, 0.5], 0.05);
    assert_eq!(trial.shares(&*policy, 100), [100, 0, 0, 0]);
}

#[test]
fn a_peer_takes_no_more_than_its_margin() {
    let policy = policy("node-margin");
    // 8 of 40 calls a second would fill the first, and none the others.
    let trial = overloaded(&*policy, 40, &[0.4, 0.0, 0.2], 0.05);
    let counts = trial.shares(&*policy, 10_000);
    let share = |at: usize| f64::from(counts[at]) / 10_000.0;
    assert!((share(1) - 8.0 / 40.0).abs() < 0.03, "{counts:?}");
    assert!((share(3) - 4.0 / 40.0).abs() < 0.03, "{counts:?}");
    assert_eq!(counts[2], 0);
}

#[test]
fn an_overload_between_two_rounds_goes_by_margins() {
    let policy = policy("node-margin");
    let mut trial = overloaded(&*policy, 4, &[0.1, 0.3], 0.05);
    trial.here = Here::Full;
    let counts = trial.shares(&*policy, 4_000);
    assert!(is_as_expected(&counts, &[0.0, 1.0, 3.0, 0.0]), "{counts:?}");
    // As published it is lost.
    let policy = super::super::testbed::policy("node-margin:faithful=true,period=1s");
    let mut trial = overloaded(&*policy, 4, &[0.1, 0.3], 0.05);
    trial.here = Here::Full;
    assert_eq!(trial.shares(&*policy, 10), [0, 0, 0, 10]);
}

#[test]
fn what_a_note_says_of_a_group_is_heard_of_that_group() {
    let note = note_of(0.25, false, &[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
    let numbers = read_note(&note).expect("it is one");
    assert_eq!(numbers, [0.25, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn a_note_of_a_stranger_or_of_nonsense_ends_nothing() {
    let (trial, policy) = (Trial::of(1), policy("node-margin"));
    let stranger = numbered(77);
    let note = note_of(1.0, false, &[0.0; GROUPS], &[0.1; GROUPS]);
    assert_eq!(policy.hear(stranger, &note, trial.now), Ok(()));
    trial.tick(&*policy);
    for wrong in [
        &[][..],
        &[1, 2, 3],
        &note[1..],
        &[note.clone(), vec![0]].concat(),
    ] {
        assert_eq!(policy.hear(stranger, wrong, trial.now), Err(Malformed));
    }
    let infinite = note_of(f64::INFINITY, false, &[0.0; GROUPS], &[0.1; GROUPS]);
    assert_eq!(policy.hear(stranger, &infinite, trial.now), Err(Malformed));
}

#[test]
fn a_margin_that_is_not_told_again_ends() {
    let policy = policy("node-margin");
    let mut trial = overloaded(&*policy, 40, &[0.9], 0.01);
    assert!(trial.shares(&*policy, 100)[1] > 20);
    trial.pass(Duration::from_secs(10));
    trial.tick(&*policy);
    assert_eq!(trial.shares(&*policy, 100)[1], 0);
}

#[test]
fn a_round_is_bounded_however_many_functions_and_peers_there_are() {
    let moves = |faithful: bool| {
        let node = NodeMargin {
            predictor: Box::new(Measured::default()),
            thresholds: Usage {
                cpu: 0.1,
                memory: 1.0,
            },
            period: Duration::from_secs(1),
            faithful,
            own: Memory::new(8),
            peers: Memory::new(8),
            ran: Default::default(),
            work: Default::default(),
            guests: Default::default(),
            ticked: Cell::default(),
            plan: Plan::default(),
        };
        node.predictor.learn(&Sample {
            rates: [0.0; GROUPS],
            work: [1.0; GROUPS],
            cores: 1.0,
            usage: Usage {
                cpu: 0.0,
                memory: 0.0,
            },
        });
        let mut functions: Vec<_> = (0..FUNCTIONS_MOVED)
            .map(|number| Function {
                key: number as u64,
                group: 0,
                rate: 10.0,
                left: 10.0,
                sent: Vec::new(),
            })
            .collect();
        let view = Trial::of(1).view();
        let mut sellers: Vec<_> = (0..PEERS_MOVED_TO)
            .map(|_| Seller {
                place: Place::of(0, &view),
                margin: 1.0,
                growth: [1e-9; GROUPS],
            })
            .collect();
        node.move_calls(&mut functions, &mut sellers, [640.0, 0.0, 0.0]);
        functions.iter().map(|function| function.left).sum::<f64>()
    };
    // It ends, and has moved something.
    assert!(moves(false) < 640.0 && moves(true) < 640.0);
}

#[test]
fn the_scarcest_counts_and_as_published_the_mean() {
    let of = |faithful: bool| {
        let policy = policy(&format!("node-margin:faithful={faithful},period=1s"));
        let mut trial = Trial::of(1);
        trial.load.memory_free = trial.load.memory_total / 10 * 2;
        trial.load.cpu_free = trial.load.cpu_total;
        hears(&trial, &*policy, &[0.5], 0.1);
        trial.tick(&*policy);
        trial.pass(Duration::from_secs(1));
        let (_, wishes) = trial.tick(&*policy);
        read_note(wishes.note().expect("it tells")).expect("it wrote it")[0]
    };
    let (scarcest, mean) = (1.0 - 0.8 / 0.9, 1.0 - 0.8 / 0.9 / 2.0);
    assert!((of(false) - scarcest).abs() < 0.02, "{}", of(false));
    assert!((of(true) - mean).abs() < 0.02, "{}", of(true));
}
