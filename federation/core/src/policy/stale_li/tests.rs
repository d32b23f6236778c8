use super::super::trial::{Peer, peer, trial};
use super::*;

fn server(calls: f64, cores: f64, comes: f64) -> Server {
    Server {
        place: Some(0),
        calls,
        cores,
        comes,
    }
}

#[test]
fn water_rises_to_one_level() {
    let level = |all: &[Server]| {
        let mut servers = Servers::default();
        all.iter().for_each(|server| servers.add(*server));
        let (level, water) = servers.level();
        let taken: f64 = servers.filled().iter().map(|of| share(of, level)).sum();
        assert!((taken - water).abs() < 1e-9, "all of it is taken");
        level
    };
    // Five calls fill 0, 2 and 9 up to 3.5.
    let three = [
        server(9.0, 1.0, 5.0),
        server(0.0, 1.0, 0.0),
        server(2.0, 1.0, 0.0),
    ];
    assert!((level(&three) - 3.5).abs() < 1e-9);
    // What is twice as wide takes twice as much: 3 x level = 6.
    let wide = [server(0.0, 2.0, 6.0), server(0.0, 1.0, 0.0)];
    assert!((level(&wide) - 2.0).abs() < 1e-9);
    assert!(
        (level(&[server(4.0, 1.0, 0.0)]) - 5.0).abs() < 1e-9,
        "one call at least"
    );
}

#[test]
fn young_news_goes_to_the_least_loaded_and_old_news_to_all() {
    let loaded = |number, running, age_ms| Peer {
        cores: 1,
        running,
        age_ms,
        ..peer(number)
    };
    for policy in [NAME, "stale-li:faithful=true"] {
        let at = |age| [loaded(1, 0, age), loaded(2, 2, age), loaded(3, 4, age)];
        let mut trial = trial(policy).with(&at(0));
        assert_eq!(trial.shares(50), [(Some(1), 50)].into(), "{policy}");
        trial.know(&at(5_000));
        let shares = trial.shares(900);
        assert_eq!(shares.len(), 3, "{policy}: {shares:?}");
        assert!(
            shares.values().all(|count| *count > 250),
            "{policy}: {shares:?}"
        );
    }
}

/// Draws converge to the formula: chi-squared over 3 servers, 1 of 1,000.
#[test]
fn shares_are_those_of_the_formula() {
    let mut servers = Servers::default();
    for (place, calls) in [(0, 1.0), (1, 0.0), (2, 3.0)] {
        servers.add(Server {
            place: Some(place),
            ..server(calls, 1.0, 2.0)
        });
    }
    let (level, water) = servers.level();
    let mut counts = [0.0; 3];
    let times = 3_000;
    for chance in crate::snapshot::Draws::new(5).take(times) {
        counts[servers.draw(chance).and_then(|of| of.place).expect("one")] += 1.0;
    }
    let chi: f64 = servers
        .filled()
        .iter()
        .map(|of| {
            let expected = share(of, level) / water * times as f64;
            let found: f64 = counts[of.place.expect("one")];
            (found - expected).powi(2) / expected
        })
        .sum();
    assert!(chi < 13.8, "{chi}: {counts:?}");
}

/// As published, calls of ours since the last report are forgotten.
#[test]
fn our_own_calls_are_no_water() {
    let news = Peer {
        cores: 1,
        ..peer(1)
    };
    let other = Peer {
        running: 2,
        ..Peer { number: 2, ..news }
    };
    for (policy, expected) in [(NAME, [2, 1]), ("stale-li:faithful=true", [3, 0])] {
        let mut trial = trial(policy).with(&[news, other]);
        // The second has two calls, which two of ours equal.
        for _ in 0..3 {
            trial.send();
        }
        let held = [1, 2].map(|number| trial.held(number));
        let near = held
            .iter()
            .zip(expected)
            .all(|(one, of)| one.abs_diff(of) <= 1);
        assert!(near, "{policy}: {held:?}");
    }
    let mut published = trial("stale-li:faithful=true").with(&[news, other]);
    for _ in 0..6 {
        published.send();
    }
    assert_eq!(published.held(1), 6);
}

#[test]
fn the_way_is_depth() {
    let far = Peer {
        cores: 1,
        round_trip_ms: 500,
        ..peer(1)
    };
    for (policy, expected) in [(NAME, 1), ("stale-li:faithful=true", 2)] {
        let mut trial = trial(policy).with(&[
            far,
            Peer {
                cores: 1,
                ..peer(2)
            },
        ]);
        assert_eq!(trial.shares(50).len(), expected, "{policy}");
    }
}
