//! The picture of the house, as tests: which crate may know which, what the
//! core may not touch, and what belongs at the top level.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the workspace is there")
}

/// What git would carry: tracked files, and new ones that are not ignored.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(top())
        .output()
        .expect("git is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let files = String::from_utf8(output.stdout).expect("our paths are text");
    files
        .lines()
        .filter(|path| top().join(path).exists())
        .map(str::to_owned)
        .collect()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--locked",
            "--offline",
        ])
        .current_dir(top())
        .output()
        .expect("cargo is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    metadata["packages"]
        .as_array()
        .expect("a workspace has packages")
        .clone()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a package has a name")
}

/// The source without comments and without what only tests compile.
fn code(path: &Path) -> String {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            // An item ends where a closing brace, or a line that opens none and
            // ends in a semicolon, stands at the attribute's own indentation.
            let indentation = line.len() - line.trim_start().len();
            for line in lines.by_ref() {
                let inner = line.len() - line.trim_start().len();
                let last = line.trim_start() == "}" || line.trim_end().ends_with(';');
                if inner == indentation && last {
                    break;
                }
            }
            continue;
        }
        let line = line.split("//").next().expect("a split has a first part");
        kept.push(line);
    }
    kept.join("\n")
}

#[test]
fn arrows_between_crates_point_down() {
    let may = BTreeMap::from([
        (
            "weir",
            vec!["weir-emulator", "weir-federation", "weir-node"],
        ),
        (
            "weir-emulator",
            vec!["weir-federation-core", "weir-node-core"],
        ),
        (
            "weir-federation",
            vec!["weir-federation-core", "weir-node", "weir-overlay"],
        ),
        ("weir-federation-core", vec!["weir-node-core"]),
        (
            "weir-node",
            vec!["weir-docker", "weir-node-core", "weir-wasm"],
        ),
        ("weir-node-core", vec![]),
        ("weir-docker", vec![]),
        (
            "weir-overlay",
            vec!["weir-federation-core", "weir-node-core"],
        ),
        ("weir-wasm", vec![]),
        // The tests stand outside and see the program, not its parts.
        ("weir-tests", vec![]),
    ]);
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().map(name).collect();
    for package in &packages {
        let allowed = may
            .get(name(package))
            .unwrap_or_else(|| panic!("no room for {}", name(package)));
        for dependency in package["dependencies"]
            .as_array()
            .expect("a package lists its dependencies")
        {
            let dependency = dependency["name"]
                .as_str()
                .expect("a dependency has a name");
            assert!(
                !ours.contains(dependency) || allowed.contains(&dependency),
                "{} must not know {dependency}",
                name(package)
            );
        }
    }
}

#[test]
fn only_the_wasm_package_may_hold_unsafe_code() {
    for package in packages() {
        let manifest = package["manifest_path"]
            .as_str()
            .expect("a package has a manifest");
        let text = fs::read_to_string(manifest).expect("a manifest can be read");
        if name(&package) == "weir-wasm" {
            assert!(
                text.contains("unsafe_code = \"deny\""),
                "unsafe code must be allowed item by item"
            );
        } else {
            assert!(
                text.contains("[lints]\nworkspace = true"),
                "{manifest} does not follow the workspace's lints"
            );
        }
    }
    let workspace =
        fs::read_to_string(top().join("Cargo.toml")).expect("the workspace has a manifest");
    assert!(workspace.contains("unsafe_code = \"forbid\""));
}

#[test]
fn every_package_is_licensed_and_stays_unpublished() {
    for package in packages() {
        assert_eq!(
            package["license"],
            "MIT OR Apache-2.0",
            "{}",
            name(&package)
        );
        assert_eq!(
            package["publish"],
            Value::Array(Vec::new()),
            "{}",
            name(&package)
        );
    }
}

#[test]
fn one_binary_is_built_for_users() {
    let packages = packages();
    let mut binaries = Vec::new();
    for package in packages
        .iter()
        .filter(|package| name(package) != "weir-tests")
    {
        let manifest = package["manifest_path"]
            .as_str()
            .expect("a package has a manifest");
        let folder = Path::new(manifest).with_file_name("tests");
        for target in package["targets"]
            .as_array()
            .expect("a package has targets")
        {
            let source = target["src_path"].as_str().expect("a target has a source");
            // What a package's own tests start lies among those tests.
            if target["kind"] == serde_json::json!(["bin"])
                && !Path::new(source).starts_with(&folder)
            {
                binaries.push(target["name"].as_str().expect("a target has a name"));
            }
        }
    }
    let workspace = fs::read_to_string(top().join("Cargo.toml")).expect("it has a manifest");
    assert!(workspace.contains("default-members = [\"agent\"]"));
    assert_eq!(binaries, ["weir"]);
}

#[test]
fn the_top_level_holds_what_belongs_there_and_no_more() {
    let allowed = BTreeSet::from([
        "Cargo.lock",
        "Cargo.toml",
        "README.md",
        "agent",
        "emulator",
        "federation",
        "images",
        "node",
        "tests",
    ]);
    for file in files() {
        let first = file.split('/').next().expect("a path has a first part");
        assert!(
            first.starts_with('.') || allowed.contains(first),
            "{file} does not belong at the top level"
        );
    }
}

#[test]
fn modules_are_files_beside_their_folder() {
    let wrong: Vec<String> = files()
        .into_iter()
        .filter(|path| path.ends_with("/mod.rs"))
        .collect();
    assert_eq!(wrong, [""; 0]);
}

/// Lines of a source file, at most, its tests in files of their own.
const FILE_LINES_MAX: usize = 600;

/// Lines of a function, from its name to its closing brace, at most.
const FUNCTION_LINES_MAX: usize = 60;

/// Functions that are longer, and why. This list only shrinks: one that is short
/// enough, or gone, is to be taken off it.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[
    (
        "agent/src/door/invoke.rs",
        "wait",
        "a call's course at the door, step by step",
    ),
    (
        "agent/src/http/serving.rs",
        "serve",
        "one poll of a connection, whose parts are pinned together",
    ),
    (
        "agent/src/metrics/federation.rs",
        "calls",
        "a flat list of series",
    ),
    (
        "agent/src/metrics/federation.rs",
        "counts",
        "a flat list of series",
    ),
    (
        "agent/src/metrics/node.rs",
        "state",
        "a flat list of series",
    ),
    (
        "federation/core/src/failure/links.rs",
        "take",
        "a flat list of facts",
    ),
    (
        "federation/overlay/src/swarm/driver.rs",
        "behave",
        "a flat list of events",
    ),
    (
        "federation/overlay/src/swarm/driver.rs",
        "see",
        "a flat list of events",
    ),
    (
        "federation/src/federated/maintenance/links.rs",
        "see",
        "a flat list of events",
    ),
    (
        "federation/src/federated/start.rs",
        "begin",
        "a flat list of fields",
    ),
    (
        "node/docker/src/instance/start.rs",
        "try_instance",
        "one start, step by step",
    ),
    ("node/src/node.rs", "start", "a flat list of fields"),
];

/// What a module is called that is only compiled for tests.
fn test_modules(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.windows(2);
    let tests = pairs.filter(|pair| pair[0].trim() == "#[cfg(test)]");
    let names = tests.filter_map(|pair| pair[1].trim().strip_prefix("mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// Sources of what users get, with what they hold before their tests.
fn sources() -> BTreeMap<String, String> {
    let of_tests = |path: &str| {
        let mut parts = path.split('/');
        parts.any(|part| matches!(part, "tests" | "benches" | "examples" | "tests.rs"))
    };
    let files = files().into_iter();
    let files = files.filter(|path| path.ends_with(".rs") && !of_tests(path));
    let read = |path: String| {
        let text = fs::read_to_string(top().join(&path)).expect("readable");
        (path, text)
    };
    let mut sources: BTreeMap<String, String> = files.map(read).collect();
    let mut only_tests = BTreeSet::new();
    for (path, text) in &sources {
        let folder = path.trim_end_matches(".rs");
        let folder = folder.trim_end_matches("/lib").trim_end_matches("/main");
        let names = test_modules(text).into_iter();
        only_tests.extend(names.map(|name| format!("{folder}/{name}.rs")));
    }
    sources.retain(|path, _| !only_tests.contains(path));
    sources
}

/// Functions of a source, with their lines; what is not formatted is not found.
fn functions(text: &str) -> Vec<(String, usize)> {
    let product = text.split("#[cfg(test)]\nmod tests {").next();
    let lines: Vec<&str> = product.unwrap_or_default().lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let indent = &line[..line.len() - words.len()];
        let Some((before, after)) = words.split_once("fn ") else {
            continue;
        };
        let is_word = |word: &str| {
            matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"")
                || word.starts_with("pub")
                || word.ends_with(')')
        };
        if !before.split_whitespace().all(is_word) {
            continue;
        }
        let name = after.split(['(', '<']).next().unwrap_or_default();
        let ends = |line: &&str| {
            let own = line
                .strip_prefix(indent)
                .filter(|own| !own.starts_with(' '));
            own.is_some_and(|own| own == "}" || own.ends_with("{}") || own.ends_with(';'))
        };
        let is_one_line = line.ends_with('}');
        let length = match is_one_line {
            true => Some(0),
            false => lines[at..].iter().position(ends),
        };
        found.push((name.to_owned(), length.map_or(1, |length| length + 1)));
    }
    found
}

#[test]
fn no_source_file_is_too_long_to_be_read_at_once() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{path}: {lines} lines"));
        }
    }
    assert!(
        long.is_empty(),
        "split by meaning what has more than {FILE_LINES_MAX} lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn functions_fit_on_a_page_but_for_a_shrinking_list() {
    let mut long = BTreeSet::new();
    for (path, text) in sources() {
        let product = ["node/", "federation/", "agent/"];
        if !product.iter().any(|room| path.starts_with(room)) {
            continue;
        }
        for (name, lines) in functions(&text) {
            if lines > FUNCTION_LINES_MAX {
                long.insert((path.clone(), name));
            }
        }
    }
    let named = LONG_FUNCTIONS.iter();
    let named: BTreeSet<(String, String)> = named
        .map(|(path, name, _)| ((*path).to_owned(), (*name).to_owned()))
        .collect();
    let more: Vec<_> = long.difference(&named).collect();
    assert!(
        more.is_empty(),
        "split by meaning what has more than {FUNCTION_LINES_MAX} lines: {more:?}"
    );
    let fewer: Vec<_> = named.difference(&long).collect();
    assert!(
        fewer.is_empty(),
        "short enough, or gone: take these off LONG_FUNCTIONS: {fewer:?}"
    );
}

#[test]
fn core_modules_read_no_clock_draw_no_chance_and_wait_for_nothing() {
    let core: [(&str, &[&str]); 3] = [
        ("node/core", &["*"]),
        ("federation", &["membership", "message", "wire"]),
        ("federation/core", &["*"]),
    ];
    let forbidden = [
        ("Instant", "the clock"),
        ("SystemTime", "the clock"),
        (".elapsed()", "the clock"),
        ("Timestamp::now", "the clock"),
        ("rand::", "chance"),
        ("getrandom", "chance"),
        ("RandomState", "chance"),
        ("std::fs", "disks"),
        ("std::net", "the network"),
        ("std::env", "the environment"),
        ("std::process", "other processes"),
        ("std::thread", "threads"),
        ("Mutex", "locks"),
        ("RwLock", "locks"),
        ("tokio", "tasks"),
        ("async ", "waiting"),
        (".await", "waiting"),
        ("println!", "the terminal"),
        ("tracing::", "the log"),
    ];
    let files = files();
    let mut seen = 0;
    for (package, modules) in core {
        for module in modules {
            // A star is the whole package.
            let (file, folder) = match *module {
                "*" => (String::new(), format!("{package}/src/")),
                module => (
                    format!("{package}/src/{module}.rs"),
                    format!("{package}/src/{module}/"),
                ),
            };
            for path in files
                .iter()
                .filter(|path| **path == file || path.starts_with(&folder))
            {
                seen += 1;
                let code = code(&top().join(path));
                for (word, what) in forbidden {
                    for (number, line) in code.lines().enumerate() {
                        assert!(
                            !line.contains(word),
                            "{path} touches {what} (about line {}): {line}",
                            number + 1
                        );
                    }
                }
            }
        }
    }
    assert!(seen >= 3, "the core was not found: did it move?");
}

#[test]
fn the_core_knows_nothing_that_opens_waits_or_draws() {
    // All that the core packages are built of, tests aside.
    let allowed = BTreeSet::from([
        "arc-swap",
        "block-buffer",
        "bs58",
        "bytes",
        "cbor4ii",
        "cfg-if",
        "cmov",
        "const-oid",
        "cpufeatures",
        "crypto-common",
        "ctutils",
        "digest",
        "foldhash",
        "hashbrown",
        "hkdf",
        "hmac",
        "hybrid-array",
        "libp2p-identity",
        "multihash",
        "once_cell",
        "pin-project-lite",
        "proc-macro2",
        "quote",
        "rustversion",
        "serde",
        "serde_bytes",
        "serde_core",
        "serde_derive",
        "sha2",
        "syn",
        "thiserror",
        "thiserror-impl",
        "tracing",
        "tracing-attributes",
        "tracing-core",
        "typenum",
        "unicode-ident",
        "unsigned-varint",
        "weir-federation-core",
        "weir-node-core",
    ]);
    for package in ["weir-node-core", "weir-federation-core"] {
        let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["tree", "-p", package, "-e", "normal", "--prefix", "none"])
            .args(["--locked", "--offline"])
            .current_dir(top())
            .output()
            .expect("cargo is installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let tree = String::from_utf8(output.stdout).expect("names are text");
        let names: BTreeSet<&str> = tree
            .lines()
            .filter_map(|line| line.split(' ').next())
            .filter(|name| !name.is_empty())
            .collect();
        assert!(names.contains(package));
        let more: Vec<&&str> = names.difference(&allowed).collect();
        assert!(more.is_empty(), "{package} must not know {more:?}");
    }
}

#[test]
fn each_kind_of_plug_in_has_one_list() {
    // A file of a kind is named in the file beside its folder and nowhere else
    // in the crate, so that to delete one is to delete a file and a line.
    let kinds = [
        ("node/src/executor", "node/src/"),
        ("agent/src/dialect", "agent/src/"),
        ("federation/core/src/policy", "federation/core/src/"),
    ];
    let files = files();
    for (folder, crate_source) in kinds {
        let list = format!("{folder}.rs");
        let members = files
            .iter()
            .filter_map(|path| {
                path.strip_prefix(folder)?
                    .strip_prefix('/')?
                    .strip_suffix(".rs")
            })
            .filter(|member| !member.contains('/'));
        for member in members {
            let text = fs::read_to_string(top().join(&list))
                .unwrap_or_else(|error| panic!("{list}: {error}"));
            assert!(
                text.contains(&format!("mod {member};")),
                "{list} does not list {member}"
            );
            let kind = folder.rsplit('/').next().expect("a path has a last part");
            for other in files
                .iter()
                .filter(|path| path.starts_with(crate_source) && path.ends_with(".rs"))
            {
                if *other == list || other.starts_with(&format!("{folder}/")) {
                    continue;
                }
                let code = code(&top().join(other));
                assert!(
                    !code.contains(&format!("{kind}::{member}")),
                    "{other} names {kind}::{member}; only {list} may"
                );
            }
        }
    }
}

#[test]
fn no_lock_guards_are_held_across_an_await_by_lint() {
    for package in packages() {
        let manifest = package["manifest_path"]
            .as_str()
            .expect("a package has a manifest");
        let text = fs::read_to_string(manifest).expect("a manifest can be read");
        let own = text.contains("await_holding_lock = \"deny\"");
        assert!(
            own || text.contains("[lints]\nworkspace = true"),
            "{manifest}"
        );
    }
}

#[test]
fn tests_do_not_sleep() {
    // The exceptions are the pause between two looks at a fact, and a function
    // that takes its time.
    let allowed = ["tests/src/lib.rs", "tests/src/bin/weir-container.rs"];
    let word = ["::sleep", "("].concat();
    for path in files()
        .iter()
        .filter(|path| path.starts_with("tests/") && path.ends_with(".rs"))
    {
        if allowed.contains(&path.as_str()) {
            continue;
        }
        let text = fs::read_to_string(top().join(path)).expect("our files are text");
        assert!(
            !text.contains(&word),
            "{path} sleeps; wait for a fact instead"
        );
    }
}
