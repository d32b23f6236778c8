//! Scenarios that are damaged in every way: each is read, and then played, or
//! refused with the line and column of each mistake.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weir_emulator::scenario::{Scenario, Texts};
use weir_emulator::simulate::simulate;

/// Something of every kind.
const WHOLE: &str = r#"include = "base.toml"
[scenario]
name = "whole"
duration = "20s"
warm-up = "1s"
seed = 3
[matrix]
between = ["zone:north", "region:west"]
round-trips = [["2ms", "30ms"], ["30ms", "1ms"]]
[topology]
file = "links.csv"
[gossip]
fan-out = 3
hop = "2ms"
detect = "1s"
[[link]]
between = ["edge-1", "cloud"]
round-trip = "40ms"
jitter = "4ms"
rate = "100Mbit"
loss = 0.1
[[class]]
name = "usual"
[[class]]
name = "urgent"
priority = 20
max-wait = "1s"
queue = 100
deadline = "2s"
[[function]]
name = "many"
count = 7
memory = "16MiB"
cpu = "500m"
service = { lognormal = { median = "20ms", sigma = 0.4 } }
start = "10ms"
code = "2MiB"
answer = { of-input = { times = 0.5 } }
fails = 0.1
concurrency = 2
max = 20
min = 1
keep-alive = "5s"
timeout = "3s"
idempotent = true
scope = "zone"
at = ["edge"]
[[function]]
name = "sampled"
service = { samples = { file = "times.txt" } }
[[workload]]
function = "many"
zipf = 1.2
at = "zone:north"
class = "urgent"
input = { lognormal = { median = "10KiB", sigma = 1 } }
arrivals = { on-off = { rate = 20, on = "1s", off = "2s" } }
from = "1s"
until = "15s"
[[workload]]
function = "sampled"
at = "edge-2"
arrivals = { bursts = { every = "5s", size = 5, spacing = "10ms" } }
[[workload]]
function = "many-3"
at = "cloud"
arrivals = { diurnal = { rate = 5, swing = 0.5, period = "10s", peak = "2s" } }
[[workload]]
function = "sampled"
at = "edge-1"
arrivals = { timetable = { times = ["1s", "2s", "2500ms"] } }
[[policy]]
name = "local-only"
at = "edge-2"
class = "urgent"
[[policy]]
name = "edge-cloud"
function = "sampled"
[[fault]]
at = "3s"
for = "2s"
kill = "edge-2"
[[fault]]
at = "4s"
for = "1s"
cut = ["zone:north", "region:west"]
[[fault]]
at = "5s"
for = "1s"
slow-link = { between = ["edge-1", "*"], times = 5 }
[[fault]]
at = "6s"
for = "1s"
slow-node = { node = "edge-1", times = 3 }
[[fault]]
at = "7s"
for = "1s"
liar = { node = "edge-1", claims = 0.5 }
[[fault]]
at = "8s"
for = "1s"
congestion = ["edge-1", "edge-2"]
[[fault]]
at = "9s"
for = "1s"
pause = "edge-1"
[[fault]]
at = "10s"
restart = "cloud"
"#;

const BASE: &str = r#"
[[node]]
name = "edge"
count = 2
zone = "north"
cores = 2
memory = "2GiB"
speed = 1.5
[[node]]
name = "cloud"
role = "cloud"
region = "west"
cores = 4
"#;

const LINKS: &str = "edge-1,edge-2,7ms,1Gbit\n";

const TIMES: &str = "# measured\n10ms\n30ms\n";

fn files(whole: &str, base: &str, links: &str, times: &str) -> Texts {
    let files = [
        ("s/a.toml", whole),
        ("s/base.toml", base),
        ("s/links.csv", links),
        ("s/times.txt", times),
    ];
    let files = files.map(|(name, text)| (name.into(), text.to_owned()));
    Texts::from(files)
}

/// A way to damage one line.
#[derive(Debug, Clone)]
enum Damage {
    /// It is gone.
    Gone,
    /// It is there twice.
    Twice,
    /// It changes places with another.
    Swapped(usize),
    /// It ends there.
    Cut(usize),
    /// Its key is another.
    Key(String),
    /// Its value is another.
    Value(String),
}

/// Values of every kind, most of them wrong where they are put.
const VALUES: [&str; 24] = [
    "0",
    "-1",
    "1e300",
    "nan",
    "99999999999999999999",
    "0.5",
    "true",
    "\"\"",
    "\"*\"",
    "\"edge\"",
    "\"edge-9\"",
    "\"zone:none\"",
    "\"10ms\"",
    "\"-1s\"",
    "\"9999999999h\"",
    "\"1EiB\"",
    "\"100Tbit\"",
    "[]",
    "[[]]",
    "[\"edge\", 1]",
    "{}",
    "{ poisson = { rate = 1 } }",
    "{ uniform = { least = \"2s\", most = \"1s\" } }",
    "\u{feff}",
];

/// Keys that are there elsewhere.
const KEYS: [&str; 12] = [
    "name", "count", "at", "between", "service", "rate", "kill", "nam", "", "x.y", "\"a b\"",
    "function",
];

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        Just(Damage::Gone),
        Just(Damage::Twice),
        (0..200_usize).prop_map(Damage::Swapped),
        (0..40_usize).prop_map(Damage::Cut),
        proptest::sample::select(KEYS.as_slice()).prop_map(|key| Damage::Key(key.to_owned())),
        proptest::sample::select(VALUES.as_slice())
            .prop_map(|value| Damage::Value(value.to_owned())),
    ]
}

fn damaged(text: &str, line: usize, damage: &Damage) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (count, line) = (lines.len(), line % lines.len());
    let parts = |line: &String| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        (key.trim().to_owned(), value.trim().to_owned())
    };
    match damage {
        Damage::Gone => drop(lines.remove(line)),
        Damage::Twice => lines.insert(line, lines[line].clone()),
        Damage::Swapped(other) => lines.swap(line, other % count),
        Damage::Cut(at) => {
            let at = (*at).min(lines[line].len());
            lines[line].truncate(at);
        }
        Damage::Key(key) => lines[line] = format!("{key} = {}", parts(&lines[line]).1),
        Damage::Value(value) => lines[line] = format!("{} = {value}", parts(&lines[line]).0),
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Reads it; plays what is right and small, else looks at where the mistakes are
/// said to be.
fn take(files: &Texts) -> Result<(), TestCaseError> {
    let read = Scenario::read(files, "s/a.toml", &[]);
    let mistakes = match read {
        Ok(scenario) => {
            let is_small = scenario.head.0.duration.as_secs() <= 20
                && scenario
                    .nodes
                    .0
                    .iter()
                    .all(|class| class.value.count.0 <= 4);
            if is_small {
                let report = simulate(&scenario, 1, None);
                prop_assert_eq!(report.all.calls, report.all.outcomes.values().sum::<u64>());
            }
            return Ok(());
        }
        Err(mistakes) => mistakes,
    };
    prop_assert!(!mistakes.0.is_empty());
    let mut told = BTreeSet::new();
    for mistake in &mistakes.0 {
        let text = mistake.to_string();
        // What is wrong in data that a scenario names is told with the line there.
        let mut parts = text.splitn(4, ':');
        let path = parts.next().unwrap_or_default();
        let file = files.get(std::path::Path::new(path));
        prop_assert!(file.is_some(), "{}", text);
        let lines = file.map_or(0, |file| file.lines().count());
        let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok());
        let (line, column) = (number(), number());
        prop_assert!(
            line.is_some_and(|line| (1..=lines + 1).contains(&line)),
            "{}",
            text
        );
        prop_assert!(column.is_some_and(|column| column >= 1), "{}", text);
        prop_assert!(told.insert(text.clone()), "told twice: {}", text);
    }
    Ok(())
}

#[test]
fn what_is_damaged_is_right_to_begin_with() {
    let read = Scenario::read(&files(WHOLE, BASE, LINKS, TIMES), "s/a.toml", &[]);
    let scenario = read.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let report = simulate(&scenario, 1, None);
    assert!(report.all.calls > 100, "{}", report.text());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_damaged_line_is_told_where_it_is(line in 0..200_usize, damage in damage()) {
        take(&files(&damaged(WHOLE, line, &damage), BASE, LINKS, TIMES))?;
    }

    #[test]
    fn several_are_told_at_once(
        damages in proptest::collection::vec((0..200_usize, damage()), 2..6),
    ) {
        let mut text = WHOLE.to_owned();
        for (line, damage) in &damages {
            text = damaged(&text, *line, damage);
        }
        take(&files(&text, BASE, LINKS, TIMES))?;
    }

    #[test]
    fn files_beside_it_are_told_with_their_lines(
        line in 0..20_usize,
        damage in damage(),
        which in 0..3_usize,
    ) {
        let broken = |number, text: &str| match number == which {
            true => damaged(text, line, &damage),
            false => text.to_owned(),
        };
        take(&files(WHOLE, &broken(0, BASE), &broken(1, LINKS), &broken(2, TIMES)))?;
    }
}
