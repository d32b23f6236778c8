use super::super::simulate;
use super::super::tests::scenario;

/// Two nodes of one place, each called more than all three can run, beside a third
/// of six.
const FAIR: &str = r#"
[scenario]
duration = "1m"
warm-up = "10s"
[[class]]
name = "default"
deadline = "2s"
[[node]]
name = "one"
zone = "north"
[[node]]
name = "other"
zone = "north"
[[node]]
name = "third"
zone = "north"
cores = 6
[[link]]
between = ["*", "*"]
round-trip = "ROUND"
[[function]]
name = "f"
service = "100ms"
memory = "16MiB"
[[workload]]
function = "f"
at = "one"
arrivals = { poisson = { rate = 90 } }
[[workload]]
function = "f"
at = "other"
from = "5s"
arrivals = { poisson = { rate = 90 } }
"#;

#[test]
fn two_overloaded_nodes_get_their_share_of_an_idle_one() {
    // Near, and so far that calls are sent ahead of their places.
    for (round, used) in [("2ms", 0.85), ("60ms", 0.85)] {
        let report = simulate(&scenario(&FAIR.replace("ROUND", round)), 1, None);
        let there = |from: &str| report.ran[from].get("third").copied().unwrap_or(0) as f64;
        let (one, other) = (there("one"), there("other"));
        let less = one.min(other) / (one + other);
        assert!(less > 0.4, "{round}: {one} and {other}");
        // 60 a second for 50 s is all that it can run.
        assert!(one + other > used * 3_000.0, "{round}: {one} and {other}");
        assert_eq!(report.all.calls, report.all.outcomes.values().sum::<u64>());
        assert!(
            !report.all.outcomes.contains_key("unfinished"),
            "{report:?}"
        );
    }
}
