use std::collections::BTreeSet;

use proptest::prelude::*;

use super::law::Service;
use super::*;

const EXAMPLE: &str = r#"
[scenario]
duration = "10m"
warm-up = "1m"
[[node]]
name = "edge"
count = 5
zone = "north"
cores = 2
memory = "2GiB"
speed = 1.0
[[node]]
name = "cloud"
role = "cloud"
region = "west"
cores = 16
[[link]]
between = ["zone:north", "region:west"]
round-trip = "40ms"
jitter = "4ms"
rate = "100Mbit"
[[function]]
name = "thumb"
memory = "128MiB"
cpu = 1.0
service = { lognormal = { median = "80ms", sigma = 0.4 } }
start = "150ms"
code = "2MiB"
[[workload]]
function = "thumb"
at = "edge-1"
arrivals = { poisson = { rate = 50 } }
[[fault]]
at = "4m"
kill = "edge-2"
"#;

fn read(text: &str, settings: &[(&str, &str)]) -> Result<Scenario, Mistakes> {
    let files = Texts::from([
        ("s/a.toml".into(), text.to_owned()),
        ("s/base.toml".into(), EXAMPLE.to_owned()),
        ("s/times.txt".into(), "# measured\n10ms\n30ms\n".to_owned()),
        ("s/bad.txt".into(), "10ms\nsoon\n".to_owned()),
        (
            "s/links.csv".into(),
            "edge-1,cloud,7ms,1Gbit\nedge-1,edge-2\n".to_owned(),
        ),
    ]);
    let settings = settings.iter();
    let settings = settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Scenario::read(&files, "s/a.toml", &settings.collect::<Vec<_>>())
}

/// The mistakes of a text, as they are printed.
fn mistakes(text: &str) -> Vec<String> {
    let mistakes = read(text, &[]).expect_err("there are mistakes");
    mistakes.0.iter().map(ToString::to_string).collect()
}

/// The example with one line put in place of another.
fn with(line: &str, other: &str) -> String {
    assert!(EXAMPLE.contains(line), "{line}");
    EXAMPLE.replacen(line, other, 1)
}

#[test]
fn the_example_of_the_documentation_is_read() {
    let scenario = read(EXAMPLE, &[]).expect("valid");
    assert_eq!(scenario.head.0.name, "a");
    assert_eq!(scenario.nodes.0[0].value.count.0, 5);
    assert_eq!(scenario.nodes.0[0].value.node_name(4), "edge-5");
    assert_eq!(scenario.nodes.0[1].value.node_name(0), "cloud");
    let Service::LogNormal(law) = &scenario.functions.0[0].value.service else {
        panic!("log-normal")
    };
    assert_eq!(law.median, Duration::from_millis(80));
    assert_eq!(scenario.links.0[0].value.rate.map(|rate| rate.0), Some(1e8));
}

#[test]
fn one_mistake_is_told_where_it_is() {
    let cases = [
        (
            "an unknown key",
            "count = 5",
            "cuont = 5",
            "s/a.toml:7:1: cuont is no key here; did you mean count?",
        ),
        (
            "a bare number",
            "start = \"150ms\"",
            "start = 150",
            "s/a.toml:27:9: expected a table with one of",
        ),
        (
            "a bad unit",
            "duration = \"10m\"",
            "duration = \"10 moons\"",
            "s/a.toml:3:12: \"10 moons\" is no time",
        ),
        (
            "no unit",
            "duration = \"10m\"",
            "duration = 10",
            "s/a.toml:3:12: 10 lacks a unit: write 10ms or 10s",
        ),
        ("memory", "\"128MiB\"", "\"lots\"", "s/a.toml:24:10: "),
        (
            "a rate",
            "\"100Mbit\"",
            "\"100\"",
            "s/a.toml:21:8: \"100\" is no rate",
        ),
        (
            "too many cores",
            "cores = 16",
            "cores = 0",
            "s/a.toml:16:9: 0 is no whole number from 1 to 4096",
        ),
        (
            "a speed",
            "speed = 1.0",
            "speed = -1",
            "s/a.toml:11:9: -1 is not from 0.001 to 1000",
        ),
        (
            "a kind",
            "count = 5",
            "count = \"5\"",
            "s/a.toml:7:9: expected a whole number, found text",
        ),
        (
            "a role",
            "\"cloud\"\nregion",
            "\"clod\"\nregion",
            "s/a.toml:14:8: \"clod\" is no role",
        ),
        (
            "no region",
            "region = \"west\"\ncores",
            "cores",
            "s/a.toml:13:8: a cloud node is in a region",
        ),
        (
            "a law",
            "lognormal = {",
            "lognormel = {",
            "s/a.toml:26:13: lognormel is none of",
        ),
        (
            "two laws",
            "{ poisson = { rate = 50 } }",
            "{ poisson = { rate = 50 }, constant = { rate = 1 } }",
            "s/a.toml:32:12: write exactly one of",
        ),
        (
            "a missing key",
            "function = \"thumb\"\n",
            "",
            "s/a.toml:29:1: function is missing",
        ),
        (
            "a function",
            "function = \"thumb\"",
            "function = \"thump\"",
            "s/a.toml:30:12: no function is named thump; did you mean thumb?",
        ),
        (
            "a node",
            "kill = \"edge-2\"",
            "kill = \"edge-6\"",
            "s/a.toml:35:8: no node or class is named edge-6",
        ),
        (
            "a zone",
            "\"zone:north\"",
            "\"zone:nord\"",
            "s/a.toml:18:12: no zone is named nord",
        ),
        (
            "one end",
            "[\"zone:north\", \"region:west\"]",
            "[\"zone:north\"]",
            "s/a.toml:17:1: between takes two ends",
        ),
        (
            "no fault",
            "kill = \"edge-2\"",
            "",
            "s/a.toml:33:1: write exactly one of",
        ),
        (
            "a late fault",
            "at = \"4m\"",
            "at = \"11m\"",
            "s/a.toml:33:1: the scenario is over",
        ),
        (
            "a warm-up",
            "warm-up = \"1m\"",
            "warm-up = \"10m\"",
            "s/a.toml:2:1: warm-up is not shorter",
        ),
        (
            "a large function",
            "cpu = 1.0",
            "cpu = 17",
            "s/a.toml:23:8: no node is large enough for thumb",
        ),
        (
            "twice a name",
            "name = \"cloud\"",
            "name = \"edge\"",
            "s/a.toml:13:8: node edge was described at s/a.toml:6:8",
        ),
        (
            "a file",
            "service = {",
            "answer = { uniform = { least = 9, most = 1 } }\nservice = {",
            "s/a.toml:26:22: least is more than most",
        ),
    ];
    for (name, line, other, expected) in cases {
        let found = mistakes(&with(line, other));
        assert!(
            found.iter().any(|line| line.starts_with(expected)),
            "{name}: {found:#?}"
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    let text = with("speed = 1.0", "sped = 1.0").replace("\"100Mbit\"", "100");
    let found = mistakes(&text.replace("rate = 50", "rate = 0"));
    assert_eq!(found.len(), 3, "{found:#?}");
    let mut sorted = found.clone();
    sorted.sort_by_key(|line| {
        line.split(':')
            .nth(1)
            .and_then(|line| line.parse::<u32>().ok())
    });
    assert_eq!(found, sorted);
    let syntax = mistakes("a = \n[scenario]\nduration = ]\n");
    assert!(syntax.len() >= 2, "{syntax:?}");
    assert!(syntax[0].starts_with("s/a.toml:1:"), "{syntax:?}");
}

#[test]
fn an_included_file_is_changed_by_who_includes_it() {
    let text = "include = \"base.toml\"\n[scenario]\nduration = \"5m\"\n[[fault]]\nat = \"1s\"\nfor = \"2s\"\npause = \"*\"\n";
    let scenario = read(text, &[]).expect("valid");
    assert_eq!(scenario.head.0.duration, Duration::from_secs(300));
    assert_eq!(scenario.head.0.warm_up, Duration::from_secs(60));
    assert_eq!(scenario.faults.0.len(), 2);
    let found = mistakes("include = [\"base.toml\", \"none.toml\", \"a.toml\"]\n");
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("s/a.toml:1:25: read s/none.toml")),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|line| line.contains("s/a.toml is included twice")),
        "{found:?}"
    );
}

#[test]
fn a_setting_changes_one_value() {
    let settings = [
        ("node.edge.count", "7"),
        ("workload.1.arrivals.poisson.rate", "9.5"),
        ("function.thumb.start", "2s"),
        ("gossip.fan-out", "3"),
    ];
    let scenario = read(EXAMPLE, &settings).expect("valid");
    assert_eq!(scenario.nodes.0[0].value.count.0, 7);
    assert_eq!(scenario.gossip.0.fan_out.0, 3);
    let arrivals = &scenario.workloads.0[0].value.arrivals;
    assert_eq!(
        *arrivals,
        arrivals::Arrivals::Poisson(arrivals::Poisson {
            rate: field::Real(9.5)
        })
    );
    for (key, value, expected) in [
        (
            "node.edg.count",
            "7",
            "--set node.edg.count: no node is named edg; did you mean edge?",
        ),
        (
            "node.edge.count",
            "0",
            "--set node.edge.count: 0 is no whole number",
        ),
        (
            "node.edge.colour",
            "red",
            "--set node.edge.colour: colour is no key here",
        ),
        ("scenario..x", "1", "--set scenario..x: write a key"),
    ] {
        let found = read(EXAMPLE, &[(key, value)]).expect_err(key).to_string();
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn files_are_found_beside_the_scenario() {
    let law = "service = { lognormal = { median = \"80ms\", sigma = 0.4 } }";
    let scenario = read(
        &with(law, "service = { samples = { file = \"times.txt\" } }"),
        &[],
    );
    let scenario = scenario.expect("valid");
    let Service::Samples(samples) = &scenario.functions.0[0].value.service else {
        panic!("samples")
    };
    assert_eq!(samples.all().len(), 2);
    let found = mistakes(&with(law, "service = { samples = { file = \"bad.txt\" } }"));
    assert!(
        found[0].contains("bad.txt:2: \"soon\" is no time"),
        "{found:?}"
    );
    let found = mistakes(&with(
        "[[link]]",
        "[topology]\nfile = \"links.csv\"\n[[link]]",
    ));
    assert!(
        found[0].starts_with("s/links.csv:2:1: expected from,to,round-trip"),
        "{found:?}"
    );
}

#[test]
fn every_key_is_explained_once_and_well() {
    let lines = Scenario::keys();
    let names: BTreeSet<&str> = lines.iter().map(|line| line.key.as_str()).collect();
    assert_eq!(names.len(), lines.len());
    for key in [
        "include",
        "scenario.duration",
        "node[].cores",
        "link[].between",
        "function[].service.lognormal.sigma",
        "workload[].arrivals.azure-2021.file",
        "fault[].slow-link.times",
    ] {
        assert!(names.contains(key), "{key} of {names:#?}");
    }
    for line in &lines {
        let help = line.help;
        assert!(help.ends_with('.'), "{}: {help}", line.key);
        assert!(help.len() <= 100, "{}: {help}", line.key);
    }
}

#[test]
fn the_keys_are_explained_as_a_text() {
    let text = Scenario::explained(&Scenario::keys());
    let cores =
        "node[].cores\n    Processors.\n    Takes: whole number from 1 to 4096; 1 by default\n";
    assert!(text.contains(cores), "{text}");
    assert!(text.contains("scenario.duration\n    How long calls arrive.\n    Takes: time (\"40ms\"); must be written\n"));
}

#[test]
fn a_picture_shows_each_class_and_link() {
    let scenario = read(EXAMPLE, &[]).expect("valid");
    let svg = draw::svg(&scenario);
    assert_eq!(svg.matches("<rect").count(), 2, "{svg}");
    assert_eq!(svg.matches("<line").count(), 1, "{svg}");
    for text in [
        "zone north",
        "region west",
        "5 \u{d7} edge",
        "40ms",
        "2 cores, 2GiB, speed 1",
    ] {
        assert!(svg.contains(text), "{text} of {svg}");
    }
    let odd = with("zone = \"north\"", "zone = \"<&>\"").replace("zone:north", "zone:<&>");
    let svg = draw::svg(&read(&odd, &[]).expect("valid"));
    assert!(svg.contains("zone &lt;&amp;&gt;"), "{svg}");
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_or_refused(text in "[\\[\\]a-z0-9=\"{}.,\\n -]{0,200}") {
        let _ = read(&text, &[]);
    }

    #[test]
    fn a_damaged_example_is_read_or_refused_with_a_place(
        at in 0..EXAMPLE.len(),
        by in "[\\[\\]a-z0-9=\"{}.,\\n -]{0,3}",
        length in 0..20_usize,
    ) {
        let mut text = EXAMPLE.to_owned();
        text.replace_range(at..(at + length).min(EXAMPLE.len()), &by);
        if let Err(mistakes) = read(&text, &[]) {
            prop_assert!(!mistakes.0.is_empty());
            for mistake in &mistakes.0 {
                prop_assert!(mistake.to_string().starts_with("s/a.toml:"), "{}", mistake);
            }
        }
    }

    #[test]
    fn whatever_is_set_is_taken_or_refused(key in "[a-z.1-3-]{0,20}", value in ".{0,20}") {
        let _ = read(EXAMPLE, &[(&key, &value)]);
    }
}
