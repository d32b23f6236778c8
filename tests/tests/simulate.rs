//! Scenarios and simulations as their users type them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use weir_tests::node::{text, weir};
use weir_tests::placement::trials::{Scale, Three};
use weir_tests::placement::twin::{Twins, single};

/// Arguments of a short run of `three-nodes`.
const SHORT: [&str; 4] = ["simulate", "three-nodes", "--set", "scenario.duration=45s"];

async fn run(arguments: &[&str]) -> Output {
    let output = weir(arguments).output().await;
    output.expect("the program starts")
}

/// Panics unless the command succeeded; returns its standard output.
async fn done(arguments: &[&str]) -> String {
    let output = run(arguments).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    text(&output.stdout)
}

/// A short run of `three-nodes`, with more arguments.
async fn short(more: &[&str]) -> String {
    done(&[&SHORT, more].concat()).await
}

/// Panics unless every tag of this XML is closed in its order and the root is
/// `svg`; returns how often each is there.
#[track_caller]
fn tags(xml: &str) -> Vec<String> {
    let mut open: Vec<&str> = Vec::new();
    let mut seen = Vec::new();
    for part in xml.split('<').skip(1) {
        let (tag, rest) = part.split_once('>').expect("a tag ends");
        assert!(!rest.contains('>'), "a bare > in {rest}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next();
        let name = name.expect("a split has a first part");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{tag} closes another");
        } else {
            seen.push(name.to_owned());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
    }
    assert!(open.is_empty(), "{open:?} are not closed");
    assert_eq!(seen.first().map(String::as_str), Some("svg"));
    for ampersand in xml.split('&').skip(1) {
        let entity = ampersand.split(';').next().unwrap_or_default();
        assert!(["amp", "lt", "gt", "quot"].contains(&entity), "&{entity}");
    }
    seen
}

fn count(seen: &[String], name: &str) -> usize {
    seen.iter().filter(|tag| *tag == name).count()
}

#[tokio::test]
async fn the_readme_shows_what_a_simulation_prints() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(root).expect("there is a README");
    let command = "weir simulate three-nodes --policy spill,local-only --repeat 5";
    assert!(readme.contains(command), "README.md lacks: {command}");
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    let printed = done(&arguments).await;
    for line in printed.lines().filter(|line| !line.trim().is_empty()) {
        assert!(
            readme.contains(line),
            "README.md lacks a line of: {command}\n{printed}"
        );
    }
}

#[tokio::test]
async fn all_mistakes_of_a_scenario_are_told_with_their_place() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("wrong.toml");
    let scenario = "[scenario]\nduration = \"soon\"\n[[node]]\nname = \"edge\"\ncors = 2\n\
                    [[function]]\nname = \"thumb\"\nservice = \"80ms\"\n[[workload]]\n\
                    function = \"thum\"\nat = \"edge\"\narrivals = { poisson = { rate = 5 } }\n";
    fs::write(&file, scenario).expect("it is written");
    let path = file.to_str().expect("our paths are text");
    for command in [&["scenario", "check", path][..], &["simulate", path]] {
        let output = run(command).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let said = text(&output.stderr);
        for place in [
            "2:12: ",
            "5:1: cors",
            "10:12: no function is named thum; did you mean thumb?",
        ] {
            assert!(
                said.contains(&format!("{path}:{place}")),
                "{place} in {said}"
            );
        }
    }
    let output = run(&["simulate", "three-nods"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("did you mean three-nodes?"));
    let output = run(&["simulate", "three-nodes", "--policy", "spil"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("did you mean spill?"));
}

#[tokio::test]
async fn a_right_scenario_is_said_to_be_right() {
    let said = done(&["scenario", "check", "federation"]).await;
    assert!(
        said.contains("federation is right: nodes 16, functions 300,"),
        "{said}"
    );
    let said = done(&["scenario", "check", "federation", "--output", "json"]).await;
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["nodes"], 16);
}

#[tokio::test]
async fn every_key_is_explained() {
    let all = done(&["scenario", "explain"]).await;
    let json = done(&["scenario", "explain", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let keys = json.as_array().expect("a list");
    assert!(keys.len() > 80, "{}", keys.len());
    for key in keys {
        let name = key["key"].as_str().expect("a name");
        assert!(all.lines().any(|line| line == name), "{name}");
        assert!(!key["help"].as_str().expect("a text").is_empty(), "{name}");
        assert!(!key["takes"].as_str().expect("a text").is_empty(), "{name}");
    }
    let nodes = done(&["scenario", "explain", "node"]).await;
    assert!(
        nodes.contains("node[].cores\n") && !nodes.contains("workload"),
        "{nodes}"
    );
    let cores = done(&["scenario", "explain", "node.cores"]).await;
    assert!(cores.starts_with("node[].cores\n") && cores.lines().count() == 3);
    assert_eq!(
        run(&["scenario", "explain", "nodes"]).await.status.code(),
        Some(1)
    );
}

#[tokio::test]
async fn a_scenario_is_drawn_as_well_formed_svg() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("a.svg");
    let path = file.to_str().expect("our paths are text");
    let drawn = done(&["scenario", "draw", "federation"]).await;
    // A box for each of its four classes of nodes.
    assert_eq!(count(&tags(&drawn), "rect"), 4);
    assert_eq!(
        done(&["scenario", "draw", "federation", "--out", path]).await,
        ""
    );
    assert_eq!(fs::read_to_string(&file).expect("it was written"), drawn);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let arguments = [
        "--repeat",
        "3",
        "--policy",
        "spill,local-only",
        "--output",
        "json",
    ];
    let with = |more: &[&'static str]| [&arguments[..], more].concat();
    let first = short(&with(&["--threads", "1"])).await;
    assert_eq!(short(&with(&["--threads", "1"])).await, first);
    assert_eq!(short(&with(&["--threads", "3"])).await, first);
    let other = short(&with(&["--seed", "99"])).await;
    let [first, other]: [Value; 2] =
        [first, other].map(|text| serde_json::from_str(&text).expect("JSON"));
    assert_ne!(first["digest"], other["digest"]);
    assert_eq!(first["runs"].as_array().map(Vec::len), Some(6));
    assert_eq!(first["policies"][1]["policy"], "local-only");
    // Policies see the same calls.
    assert_eq!(
        first["policies"][0]["metrics"]["calls"],
        first["policies"][1]["metrics"]["calls"]
    );
}

#[tokio::test]
async fn a_setting_changes_what_comes_of_a_run() {
    let answered = async |rate: &str| {
        let set = format!("workload.1.arrivals.poisson.rate={rate}");
        let text = short(&["--set", &set, "--policy", "local-only", "--output", "json"]).await;
        let json: Value = serde_json::from_str(&text).expect("JSON");
        let metrics = &json["policies"][0]["metrics"];
        metrics["answered %"]["mean"].as_f64().expect("a number")
    };
    let (idle, busy) = (answered("2").await, answered("50").await);
    assert!(idle > busy + 20.0, "{idle} {busy}");
}

#[tokio::test]
async fn a_table_has_the_policies_side_by_side() {
    let table = short(&["--policy", "spill,local-only", "--repeat", "2"]).await;
    let head = table.lines().find(|line| line.starts_with("all calls"));
    let head: Vec<&str> = head.expect("a head").split_whitespace().collect();
    assert_eq!(head, ["all", "calls", "spill", "local-only"]);
    assert!(
        table.contains("p99 ms") && table.contains(" \u{b1} "),
        "{table}"
    );
    let listed = done(&["simulate", "--list"]).await;
    assert!(listed.contains("three-nodes") && listed.contains("federation"));
}

#[tokio::test]
async fn a_report_is_a_folder_that_needs_nothing_else() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("deep/report");
    let path = out.to_str().expect("our paths are text");
    // Of calls that all take as long there would be few different latencies.
    let service = "function.thumb.service={ exponential = { mean = \"100ms\" } }";
    let policies = ["--policy", "spill,edge-only", "--repeat", "2"];
    let printed = short(&[&policies[..], &["--set", service, "--out", path]].concat()).await;
    let read = |name: &str| {
        let text = fs::read_to_string(out.join(name));
        text.unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let digest = read("digest");
    assert!(printed.contains(&format!("digest {digest}")), "{printed}");
    let json: Value = serde_json::from_str(&read("report.json")).expect("JSON");
    assert_eq!(json["digest"], digest.trim());
    let csv = read("results.csv");
    // For each of four runs: all, a function, a class and three nodes.
    assert_eq!(csv.lines().count(), 1 + 4 * 6, "{csv}");
    let page = read("report.html");
    for outside in ["http", "<script", "src=", "href=", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let markdown = read("report.md");
    let listed = fs::read_dir(&out).expect("a folder");
    let names = listed.map(|entry| entry.expect("an entry").file_name());
    let names: BTreeSet<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".svg"))
        .collect();
    assert!(names.len() >= 9, "{names:?}");
    for name in &names {
        assert!(markdown.contains(&format!("]({name})")), "{name}");
    }
    let plots: Vec<&str> = page.split("<svg ").skip(1).collect();
    assert_eq!(plots.len(), names.len());
    for (name, least) in [
        ("latency.svg", 20),
        ("rate.svg", 100),
        ("answered.svg", 100),
    ] {
        let svg = read(name);
        let seen = tags(&svg);
        assert_eq!(count(&seen, "polyline"), 2, "{name}: one for each policy");
        let points = svg.split(" points=\"").nth(1).expect("a curve");
        let points = points
            .split('"')
            .next()
            .expect("its end")
            .split(' ')
            .count();
        assert!(points >= least, "{name}: {points}");
    }
    for name in ["shares.svg", "where-spill.svg", "p99-by-seed.svg"] {
        assert!(count(&tags(&read(name)), "rect") > 2, "{name}");
    }
}

/// Calls that are long beside what a busy machine adds to them.
const SCALE: Scale = Scale {
    service: Duration::from_millis(400),
    time: Duration::from_secs(8),
    deadline: Duration::MAX,
};

/// Panics where the simulator says what is far from what was seen. The bounds of
/// `tests/bench/run --only v` are narrow; these are what a busy machine keeps.
#[track_caller]
fn assert_alike(what: &str, twins: &Twins) {
    eprintln!("{what}: {twins:?}");
    assert!(twins.share_apart() < 0.15, "{what}: {twins:?}");
    assert!(twins.apart(|seen| seen.median) < 0.25, "{what}: {twins:?}");
}

#[tokio::test]
async fn a_node_and_its_simulation_agree() {
    for (load, seed) in [(0.5, 1), (0.85, 2)] {
        let twins = single(4, load, &SCALE, seed)
            .await
            .expect("clients can run");
        assert_eq!(twins.played.answered, 1.0, "{twins:?}");
        assert_alike(&format!("{load} of load"), &twins);
    }
}

#[tokio::test]
async fn three_nodes_and_their_simulation_agree() {
    let three = Three::start().await;
    for (rate, seed) in [(50.0, 3), (99.0, 4)] {
        let twins = three.twins(&SCALE, rate, seed).await;
        let twins = twins.expect("clients can run");
        assert_alike(&format!("{rate} calls a second"), &twins);
    }
}

/// Looks at a page from within, when it is laid out: for each plot its marks that
/// take up room, and what went wrong.
const PROBE: &str = "<script>
const wrong = [];
addEventListener('error', event => wrong.push(String(event.message)));
addEventListener('load', () => {
    const plots = [...document.querySelectorAll('svg')].map(svg => {
        const marks = svg.querySelectorAll('rect, line, circle, polyline, polygon, path');
        const seen = [...marks].filter(mark => {
            const box = mark.getBBox();
            return box.width + box.height > 0;
        });
        const box = svg.getBoundingClientRect();
        return { width: box.width, height: box.height, marks: seen.length };
    });
    const found = document.createElement('pre');
    found.id = 'found';
    found.textContent = JSON.stringify({ plots, wrong });
    document.body.append(found);
});
</script>";

/// The names under which a Chromium is installed.
const CHROMIUMS: [&str; 4] = [
    "chromium",
    "chromium-headless-shell",
    "chromium-browser",
    "google-chrome",
];

/// Opens a page in Chromium; its document when all is loaded, and what was said to
/// the console. `None` where there is no Chromium.
async fn browsed(page: &Path, folder: &Path) -> Option<(String, String)> {
    let found = CHROMIUMS.iter().find(|name| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|folder| folder.join(name).exists())
    })?;
    let mut browser = tokio::process::Command::new(found);
    browser
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--dump-dom",
        ])
        .arg(format!(
            "--user-data-dir={}",
            folder.join("profile").display()
        ))
        .arg(format!("file://{}", page.display()))
        .env("HOME", folder)
        .kill_on_drop(true);
    let output = browser.output().await.expect("Chromium starts");
    Some((text(&output.stdout), text(&output.stderr)))
}

#[tokio::test]
async fn a_page_is_shown_by_chromium_without_an_error_and_with_its_plots() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("report");
    let path = out.to_str().expect("our paths are text");
    short(&[
        "--policy",
        "spill,edge-only",
        "--repeat",
        "2",
        "--out",
        path,
    ])
    .await;
    let page = fs::read_to_string(out.join("report.html")).expect("a page");
    let plots = page.matches("<svg").count();
    let probed = out.join("probed.html");
    let page = page.replacen("</head>", &format!("{PROBE}</head>"), 1);
    fs::write(&probed, page).expect("it is written");
    let Some((document, said)) = browsed(&probed, folder.path()).await else {
        eprintln!("skipped: no Chromium is installed (tests/run installs chromium-headless-shell)");
        return;
    };
    assert!(!said.contains("CONSOLE"), "{said}");
    let found = document.split("<pre id=\"found\">").nth(1);
    let found = found.and_then(|found| found.split("</pre>").next());
    let found = found.unwrap_or_else(|| panic!("it was not laid out: {document}\n{said}"));
    let found: Value = serde_json::from_str(found).expect("JSON");
    assert_eq!(found["wrong"], serde_json::json!([]), "{found}");
    let shown = found["plots"].as_array().expect("a list");
    assert_eq!(shown.len(), plots);
    for plot in shown {
        let number = |name: &str| plot[name].as_f64().expect("a number");
        assert!(
            number("width") > 200.0 && number("height") > 100.0,
            "{found}"
        );
        assert!(number("marks") >= 3.0, "{found}");
    }
}
