use super::*;
use crate::scenario::Texts;

mod skew;

pub(super) fn scenario(text: &str) -> Scenario {
    let files = Texts::from([("s.toml".into(), text.to_owned())]);
    Scenario::read(&files, "s.toml", &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// One machine with so many cores, calls that come by `arrivals` and run by
/// `service`.
fn queue(cores: u32, service: &str, arrivals: &str, duration: &str) -> Scenario {
    scenario(&format!(
        r#"
[scenario]
duration = "{duration}"
warm-up = "1m"
[[node]]
name = "machine"
cores = {cores}
memory = "64GiB"
calls = 1000000
[[class]]
name = "patient"
max-wait = "10h"
queue = 1000000
[[function]]
name = "f"
memory = "1MiB"
service = {service}
timeout = "10h"
[[workload]]
function = "f"
at = "*"
arrivals = {arrivals}
"#
    ))
}

fn assert_near(name: &str, found: f64, expected: f64, part: f64) {
    let distance = (found - expected).abs();
    assert!(
        distance <= expected * part,
        "{name}: {found}, not {expected}"
    );
}

/// The probability that a call waits (Erlang C).
fn erlang_c(servers: u32, load: f64) -> f64 {
    let mut term = 1.0;
    let mut sum = 1.0;
    for server in 1..servers {
        term *= load / f64::from(server);
        sum += term;
    }
    term *= load / f64::from(servers);
    let last = term * f64::from(servers) / (f64::from(servers) - load);
    last / (sum + last)
}

/// Mean latency in milliseconds over some seeds.
fn mean(scenario: &Scenario) -> f64 {
    let seeds = 1..=4;
    let count = 4.0;
    let means = seeds.map(|seed| {
        let report = simulate(scenario, seed, None);
        assert_eq!(
            report.all.calls,
            report.all.outcomes["answered"],
            "{}",
            report.text()
        );
        report.all.latency.mean
    });
    means.sum::<f64>() / count
}

#[test]
fn one_server_waits_as_theory_has_it() {
    // M/M/1: 1 / (mu - lambda), of 10 ms and 70 calls a second.
    let exponential = "{ exponential = { mean = \"10ms\" } }";
    let poisson = "{ poisson = { rate = 70 } }";
    let found = mean(&queue(1, exponential, poisson, "2h"));
    assert_near("M/M/1", found, 1_000.0 / 30.0, 0.02);
    // M/D/1: Pollaczek and Khinchine, without variance.
    let found = mean(&queue(1, "\"10ms\"", poisson, "2h"));
    assert_near("M/D/1", found, 10.0 + 0.7 * 10.0 / (2.0 * 0.3), 0.02);
}

#[test]
fn many_servers_wait_as_theory_has_it() {
    let exponential = "{ exponential = { mean = \"10ms\" } }";
    let poisson = "{ poisson = { rate = 850 } }";
    let found = mean(&queue(10, exponential, poisson, "12m"));
    let expected = 10.0 + erlang_c(10, 8.5) * 10.0 / (10.0 - 8.5);
    assert_near("M/M/10", found, expected, 0.02);
}

#[test]
fn as_many_calls_are_under_way_as_their_rate_and_time_say() {
    // Little's law: J. D. C. Little, "A proof for the queuing formula L = lambda W",
    // Operations Research 9(3), 1961. What is under way at both ends is all that
    // differs: some tens of a million.
    let exponential = "{ exponential = { mean = \"10ms\" } }";
    let single = queue(1, exponential, "{ poisson = { rate = 70 } }", "2h");
    let many = queue(10, exponential, "{ poisson = { rate = 850 } }", "12m");
    let text = THREE.replace("RATE", "60").replace("1m", "1h");
    let three = scenario(&text);
    for (name, scenario) in [("one", single), ("ten", many), ("three", three)] {
        let report = simulate(&scenario, 1, None);
        let head = &scenario.head.0;
        let seconds = (head.duration - head.warm_up).as_secs_f64();
        assert_eq!(report.all.calls, report.all.outcomes["answered"], "{name}");
        let rate = report.all.calls as f64 / seconds;
        let expected = rate * report.all.latency.mean / 1e3;
        assert_near(name, report.under_way, expected, 0.002);
    }
}

const THREE: &str = r#"
[scenario]
duration = "1m"
warm-up = "10s"
[[node]]
name = "small"
cores = 1
zone = "north"
[[node]]
name = "middle"
cores = 4
zone = "north"
[[node]]
name = "large"
cores = 6
zone = "north"
[[link]]
between = ["zone:north", "zone:north"]
round-trip = "2ms"
[[function]]
name = "thumb"
memory = "16MiB"
service = "100ms"
answer = { lognormal = { median = "10KiB", sigma = 1 } }
[[workload]]
function = "thumb"
at = "small"
arrivals = { poisson = { rate = RATE } }
"#;

/// Three nodes of 10, 40 and 60 calls a second, all of them called at the first.
fn three(rate: u32, more: &str) -> Report {
    let text = THREE.replace("RATE", &rate.to_string());
    simulate(&scenario(&format!("{text}{more}")), 3, None)
}

fn part(report: &Report, outcome: &str) -> f64 {
    let count = report.all.outcomes.get(outcome).copied().unwrap_or(0);
    count as f64 / report.all.calls as f64
}

#[test]
fn three_nodes_serve_what_one_cannot() {
    let half = three(50, "");
    assert!(part(&half, "answered") > 0.99, "{}", half.json());
    let most = three(99, "");
    // Where places at peers were not counted, every thirtieth was refused.
    assert_eq!(part(&most, "answered"), 1.0, "{}", most.json());
    let over = three(150, "");
    let served = part(&over, "answered") * 150.0;
    assert!(
        (95.0..=111.0).contains(&served),
        "{served}: {}",
        over.json()
    );
    let nodes = &over.nodes;
    assert!(nodes["large"].ran > nodes["middle"].ran, "{}", over.json());
    assert!(nodes["middle"].ran > nodes["small"].ran, "{}", over.json());
}

#[test]
fn every_call_ends_once_whatever_happens() {
    let faults = [
        "kill = \"large\"",
        "for = \"5s\"\nkill = \"small\"",
        "restart = \"middle\"",
        "for = \"5s\"\npause = \"large\"",
        "for = \"5s\"\npause = \"small\"",
        "for = \"5s\"\ncut = [\"small\", \"large\"]",
        "for = \"5s\"\nslow-link = { between = [\"small\", \"*\"], times = 50 }",
        "slow-node = { node = \"large\", times = 4 }",
        "liar = { node = \"middle\", claims = 1.0 }",
        "congestion = [\"small\", \"large\"]",
    ];
    let calls = three(90, "").all.calls;
    for fault in faults {
        let report = three(90, &format!("[[fault]]\nat = \"30s\"\n{fault}\n"));
        // The same calls come, whatever becomes of them.
        assert_eq!(report.all.calls, calls, "{fault}: {}", report.json());
        assert_eq!(
            part(&report, "unfinished"),
            0.0,
            "{fault}: {}",
            report.json()
        );
        let answered = part(&report, "answered");
        assert!(answered > 0.3, "{fault}: {answered} {}", report.json());
    }
}

#[test]
fn a_liar_takes_no_more_than_it_can_do() {
    let honest = three(90, "");
    let lied = three(90, "[[fault]]\nat = \"1s\"\nliar = { node = \"middle\" }\n");
    let (honest, lied) = (part(&honest, "answered"), part(&lied, "answered"));
    assert!(lied > honest - 0.1, "{lied} of {honest}");
}

#[test]
fn an_edge_spills_to_its_cloud_over_the_way_between() {
    let text = r#"
scenario = { duration = "1m", warm-up = "10s" }
function = { name = "f", service = "100ms", memory = "16MiB" }
[[node]]
name = "edge"
count = 2
zone = "north"
[[node]]
name = "cloud"
role = "cloud"
region = "west"
cores = 16
[[link]]
between = ["zone:north", "region:west"]
round-trip = "40ms"
[[workload]]
function = "f"
at = "edge-1"
arrivals = { poisson = { rate = 40 } }
"#;
    let report = simulate(&scenario(text), 1, None);
    assert!(part(&report, "answered") > 0.95, "{}", report.json());
    assert!(report.ran["edge"]["cloud"] > 500, "{}", report.json());
    assert!(report.all.latency.p50 > 100.0, "{}", report.json());
    let local = "local-only".parse().expect("a policy");
    let alone = simulate(&scenario(text), 1, Some(&local));
    assert_eq!(alone.all.calls, report.all.calls);
    assert_eq!(alone.all.elsewhere, 0);
}

#[test]
fn code_is_brought_to_who_lacks_it() {
    let text = THREE.replace("RATE", "40");
    let text = text.replace("memory = \"16MiB\"", "at = \"large\"\ncode = \"4MiB\"");
    let report = simulate(&scenario(&text), 1, None);
    assert!(part(&report, "answered") > 0.95, "{}", report.json());
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let text = scenario(&THREE.replace("RATE", "120"));
    let one = simulate(&text, 7, None).json();
    assert_eq!(one, simulate(&text, 7, None).json());
    assert_ne!(one, simulate(&text, 8, None).json());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let text = text.clone();
            std::thread::spawn(move || simulate(&text, 7, None).json())
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().expect("it ends"), one);
    }
}

#[test]
fn the_scenarios_that_are_shipped_are_played() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        let settings = [("scenario.warm-up".to_owned(), "10s".to_owned())];
        let path = path.to_string_lossy();
        let read = Scenario::read(&crate::scenario::Disk, &path, &settings);
        let scenario = read.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let report = simulate(&scenario, 1, None);
        assert!(part(&report, "answered") > 0.9, "{}", report.json());
        assert_eq!(report.digest(), simulate(&scenario, 1, None).digest());
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn each_policy_is_tried_on_the_same_calls() {
    let text = scenario(&THREE.replace("RATE", "40"));
    let calls = simulate(&text, 5, None).all.calls;
    for kind in &weir_federation_core::policy::KINDS {
        let report = simulate(&text, 5, Some(&kind.name.parse().expect("a policy")));
        assert_eq!(report.all.calls, calls, "{}", kind.name);
        assert_eq!(report.policy.as_deref(), Some(kind.name));
        assert_eq!(
            report.all.outcomes.values().sum::<u64>(),
            calls,
            "{}",
            kind.name
        );
    }
}

mod overload;
