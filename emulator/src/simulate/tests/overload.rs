//! What is left of a federation under more load than it bears.

use super::*;

/// Four nodes that run 160 calls a second, three times as many of them for ten
/// seconds and 0.8 times for the next ten, of users who wait a second and call again
/// three times. A part of the series is a fifth of a second.
const STORM: &str = r#"
[scenario]
duration = "20s"
[[node]]
name = "edge"
count = 4
zone = "north"
cores = 4
[[link]]
between = ["zone:north", "zone:north"]
round-trip = "10ms"
[[class]]
name = "hasty"
deadline = "1s"
[[function]]
name = "f"
memory = "16MiB"
service = SERVICE
[[workload]]
function = "f"
at = "*"
until = "10s"
arrivals = { poisson = { rate = 120 } }
retries = 3
[[workload]]
function = "f"
at = "*"
from = "10s"
arrivals = { poisson = { rate = 32 } }
retries = 3
"#;

/// Part of the calls that came from one moment to another which as many were
/// answered as in that time.
fn goodput(report: &Report, from: f64, to: f64) -> f64 {
    let series = &report.series;
    let part = |seconds: f64| (seconds / series.seconds()).round() as usize;
    let sum = |of: &[u64]| of[part(from)..part(to)].iter().sum::<u64>() as f64;
    sum(&series.answered) / sum(&series.came)
}

#[test]
fn goodput_is_back_two_seconds_after_three_times_the_load_with_users_who_call_again() {
    for service in ["\"100ms\"", "{ exponential = { mean = \"100ms\" } }"] {
        let scenario = scenario(&STORM.replace("SERVICE", service));
        for policy in ["spill", "adaptive", "least-impedance", "prequal"] {
            let choice = policy.parse().expect("a policy");
            let report = simulate(&scenario, 1, Some(&choice));
            let storm = goodput(&report, 2.0, 10.0);
            let after = goodput(&report, 12.0, 20.0);
            let second = goodput(&report, 12.0, 13.0);
            eprintln!(
                "{service} {policy}: {storm:.3} {second:.3} {after:.3} offers {}",
                report.offers_to_neighbours
            );
            // A third of the load is all that they can run.
            assert!(storm > 0.3, "{service} {policy}: {storm}");
            assert!(after > 0.95, "{service} {policy}: {after}");
        }
    }
}
