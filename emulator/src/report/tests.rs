use super::*;
use crate::builtin;
use crate::scenario::Scenario;
use crate::sweep::plan;

fn comparison(policies: &[&str], repeat: u64) -> Comparison {
    let builtin = builtin::named("three-nodes").expect("it comes with the program");
    let short = [
        ("scenario.duration", "40s"),
        ("workload.1.arrivals.poisson.rate", "30"),
    ];
    let settings = short.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let scenario = Scenario::read(&builtin.files(), &builtin.path(), &settings).expect("right");
    let policies: Vec<String> = policies.iter().map(|&name| name.to_owned()).collect();
    let runs = plan(&policies, 1, repeat).expect("known policies");
    Comparison::new(runs.iter().map(|run| run.play(&scenario)).collect())
}

#[test]
fn policies_stand_side_by_side() {
    let compared = comparison(&["spill", "local-only"], 2);
    let names: Vec<_> = compared
        .columns()
        .iter()
        .map(|of| (of.name, of.runs.len()))
        .collect();
    assert_eq!(names, [("spill", 2), ("local-only", 2)]);
    let text = compared.text();
    assert!(text.starts_with("three-nodes, seeds 1 to 2; means \u{b1} 95 % confidence\n"));
    assert!(text.contains("spill") && text.contains("local-only") && text.contains("p99 ms"));
    assert!(text.ends_with(&format!("digest {}\n", compared.digest())));
}

#[test]
fn every_line_of_the_csv_has_all_columns() {
    let csv = comparison(&[], 1).csv();
    let columns = csv.lines().next().expect("a head").split(',').count();
    for line in csv.lines() {
        assert_eq!(line.split(',').count(), columns, "{line}");
    }
    assert!(csv.contains("as written,1,node,small,"));
    assert_eq!(quoted("a,\"b"), "\"a,\"\"b\"");
}

#[test]
fn json_has_the_means_and_every_run() {
    let json = comparison(&["spill"], 2).json();
    assert_eq!(json["policies"][0]["runs"], 2);
    assert!(json["policies"][0]["metrics"]["p99 ms"]["half-width"].is_number());
    assert_eq!(json["runs"].as_array().map(Vec::len), Some(2));
}

#[test]
fn markdown_has_a_table_for_each_sheet_and_its_plots() {
    let compared = comparison(&[], 1);
    let plots = [("Latency".to_owned(), "latency.svg".to_owned())];
    let text = compared.markdown(&plots);
    for sheet in compared.sheets() {
        assert!(text.contains(&format!("## {}\n", sheet.title)));
    }
    assert!(text.contains("![Latency](latency.svg)"));
}

/// A report of each kind, as the repository has it. Where a change is meant, run
/// this with WEIR_WRITE_GOLDEN=1, and look at what differs.
#[test]
fn reports_are_as_they_were() {
    let compared = comparison(&["spill", "edge-only"], 2);
    let plots = [("Latency".to_owned(), "latency.svg".to_owned())];
    let json = serde_json::to_string_pretty(&compared.json()).expect("it can be written");
    let reports = [
        ("report.md", compared.markdown(&plots)),
        ("report.csv", compared.csv()),
        ("report.json", json + "\n"),
    ];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (name, found) in reports {
        let path = folder.join(name);
        if std::env::var_os("WEIR_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, found).expect("it can be written");
            continue;
        }
        let expected = std::fs::read_to_string(&path).expect("it is there");
        let line = expected
            .lines()
            .zip(found.lines())
            .position(|(a, b)| a != b);
        assert!(
            expected == found,
            "{name} differs, first in line {line:?} from 0"
        );
    }
}
