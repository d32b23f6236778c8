//! Many calls at few nodes: they spread over the others, whatever is old, wrong or
//! new among those.

use super::*;

/// Policies that send calls to peers by what they know of them.
const MAIN: [&str; 8] = [
    "spill",
    "adaptive",
    "prequal",
    "c3",
    "least-outstanding",
    "peak-ewma",
    "power-of-d",
    "join-idle-queue",
];

/// Sixteen nodes of four cores at three quarters of what all can do: 70 % of the
/// calls come at four of them, which could do half of that.
fn skewed() -> String {
    let mut text = String::from(
        r#"
[scenario]
duration = "30s"
warm-up = "5s"
[[node]]
name = "busy"
count = 4
zone = "z"
cores = 4
[[node]]
name = "calm"
count = 12
zone = "z"
cores = 4
[[link]]
between = ["*", "*"]
round-trip = "10ms"
[[function]]
name = "theirs"
service = { exponential = { mean = "100ms" } }
timeout = "2s"
[[function]]
name = "own"
service = { exponential = { mean = "100ms" } }
timeout = "2s"
"#,
    );
    let busy = (1..=4).map(|at| ("theirs", format!("busy-{at}"), 84));
    let calm = (1..=12).map(|at| ("own", format!("calm-{at}"), 12));
    for (function, at, rate) in busy.chain(calm) {
        text += &format!(
            "[[workload]]\nfunction = \"{function}\"\nat = \"{at}\"\narrivals = {{ poisson = {{ rate = {rate} }} }}\n"
        );
    }
    text
}

/// Of the calls of a function, the part that was answered, and how long those took
/// in the mean, in milliseconds.
fn of(report: &Report, name: &str) -> (f64, f64) {
    let function = &report.functions[&format!("{name}.openfaas-fn")];
    let answered = function.outcomes.get("answered").copied().unwrap_or(0);
    (
        answered as f64 / function.calls as f64,
        function.latency.mean,
    )
}

/// Calls that each calm node ran for others, by its number.
fn guests(report: &Report) -> Vec<f64> {
    let guests = (1..=12).map(|at| report.nodes[&format!("calm-{at}")].guests as f64);
    guests.collect()
}

fn mean_of(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn played(policy: &str, more: &str) -> Report {
    let choice: Choice = policy.parse().expect("a policy");
    simulate(&scenario(&(skewed() + more)), 1, Some(&choice))
}

#[test]
fn a_quarter_that_is_overloaded_spills_to_the_rest_and_harms_nobody_there() {
    let by = |policy: &str| played(policy, "");
    let alone = by("local-only");
    assert!(of(&alone, "theirs").0 < 0.6, "{:?}", of(&alone, "theirs"));
    // Of theirs that are answered, and what own calls take more for it. The last one
    // sends own calls away too.
    for (policy, least, most) in [
        ("spill", 0.99, 1.25),
        ("adaptive", 0.99, 1.25),
        ("peak-ewma", 0.99, 1.5),
    ] {
        let shared = by(policy);
        let (theirs, own) = (of(&shared, "theirs"), of(&shared, "own"));
        assert!(theirs.0 > least, "{policy}: {theirs:?}");
        assert_eq!(own.0, 1.0, "{policy}: {own:?}");
        let before = of(&alone, "own").1;
        assert!(own.1 < before * most, "{policy}: {own:?}, {before} alone");
    }
}

#[test]
fn reports_that_are_five_seconds_old_make_no_herd() {
    let old = "[gossip]\nfan-out = 32\nhop = \"5s\"\n";
    for policy in MAIN {
        let report = played(policy, old);
        let (theirs, own) = (of(&report, "theirs"), of(&report, "own"));
        assert!(theirs.0 > 0.99, "{policy}: {theirs:?}");
        assert!(own.0 > 0.99, "{policy}: {own:?}");
        // Nobody has half more than its part, nor half of that.
        let guests = guests(&report);
        let part = mean_of(&guests);
        let within = |guests: &f64| (0.5 * part..1.5 * part).contains(guests);
        assert!(guests.iter().all(within), "{policy}: {guests:?}");
        // A herd would wait where it is.
        let fresh = of(&played(policy, ""), "theirs").1;
        assert!(
            theirs.1 < 1.25 * fresh,
            "{policy}: {theirs:?}, {fresh} ms else"
        );
    }
}

#[test]
fn a_node_that_is_new_has_its_share_within_seconds() {
    // It is there for the second half.
    let new = "[[fault]]\nat = \"1ms\"\nfor = \"15s\"\nkill = \"calm-1\"\n";
    for policy in MAIN {
        let guests = guests(&played(policy, new));
        let part = mean_of(&guests[1..]) * 15.0 / 25.0;
        assert!(guests[0] > 0.7 * part, "{policy}: {guests:?}");
        assert!(guests[0] < 1.5 * part, "{policy}: {guests:?}");
    }
}

#[test]
fn a_node_that_becomes_slow_is_left_within_seconds() {
    let slow = "[[fault]]\nat = \"10s\"\nslow-node = { node = \"calm-1\", times = 8 }\n";
    for policy in MAIN {
        let report = played(policy, slow);
        let guests = guests(&report);
        // Of 25 s a fifth has passed by then.
        assert!(
            guests[0] < 0.5 * mean_of(&guests[1..]),
            "{policy}: {guests:?}"
        );
        assert!(of(&report, "theirs").0 > 0.99, "{policy}");
    }
}

#[test]
fn a_liar_draws_no_more_than_its_part() {
    let lies = skewed() + "[[fault]]\nat = \"1ms\"\nliar = { node = \"calm-1\" }\n";
    let lies = scenario(&lies);
    // `peak-ewma` compares two of those that say that they have room, and a liar
    // always does: of it a liar draws 1.6 parts.
    for policy in MAIN.into_iter().filter(|policy| *policy != "peak-ewma") {
        let choice: Choice = policy.parse().expect("a policy");
        // By chance alone a node of one run has a quarter more or less than its part.
        let mut all = [0.0; 12];
        for seed in 1..=3 {
            let report = simulate(&lies, seed, Some(&choice));
            assert!(of(&report, "theirs").0 > 0.97, "{policy}");
            for (sum, more) in all.iter_mut().zip(guests(&report)) {
                *sum += more;
            }
        }
        assert!(all[0] < 1.5 * mean_of(&all[1..]), "{policy}: {all:?}");
    }
}

#[test]
fn functions_that_fail_now_and_then_empty_no_table() {
    for policy in MAIN {
        let choice: Choice = policy.parse().expect("a policy");
        let fails = skewed().replace("timeout =", "fails = 0.05\ntimeout =");
        let report = simulate(&scenario(&fails), 1, Some(&choice));
        let ended = part(&report, "answered") + part(&report, "failed");
        assert!(ended > 0.99, "{policy}: {:?}", report.all.outcomes);
        let well = played(policy, "").all.elsewhere as f64;
        let elsewhere = report.all.elsewhere as f64;
        assert!(elsewhere > 0.8 * well, "{policy}: {elsewhere} of {well}");
    }
}
