use std::collections::BTreeSet;

use std::path::Path;
use std::time::Duration;

use weir_node::resources::{Cpu, Memory, Resources};

use super::*;
use crate::setting::{Key, Mistakes, Origin};

const MACHINE: Resources = Resources {
    cpu: Cpu::cores(4),
    memory: Memory::mebibytes(1000),
};

fn defaults() -> Config {
    Config::new("/data".into(), MACHINE)
}

fn layers(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Layers {
    Layers {
        file: Some(("weir.conf".to_owned(), file.to_owned())),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: flags
            .iter()
            .map(|(flag, key, value)| ((*flag).to_owned(), (*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn mistakes(layers: &Layers) -> Vec<String> {
    let Mistakes(mistakes) = load(defaults(), layers, MACHINE).expect_err("mistakes");
    mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn each_layer_covers_the_one_before_it() {
    let file = "[http]\nthreads = 1\nheader-count = 1\nbody-bytes = \"1MiB\"\n";
    let environment = [
        ("WEIR_HTTP_HEADER_COUNT", "2"),
        ("WEIR_HTTP_BODY_BYTES", "2MiB"),
    ];
    let flags = [("--set", "http.body-bytes", "3MiB")];
    let loaded = load(defaults(), &layers(file, &environment, &flags), MACHINE).expect("valid");
    let http = &loaded.config.http;
    assert_eq!(
        (http.threads, http.header_count, http.body_bytes),
        (1, 2, 3 << 20)
    );
    let origin = |path| loaded.origin(path).to_string();
    assert_eq!(origin("http.threads"), "weir.conf:2");
    assert_eq!(origin("http.header-count"), "env WEIR_HTTP_HEADER_COUNT");
    assert_eq!(origin("http.body-bytes"), "flag --set");
    assert_eq!(origin("http.listen"), "default");
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_place() {
    let file = "[http]\nlisen = \"x\"\nthreads = \"many\"\n\n[[qos]]\nname = \"a\"\n\
                priority = 0\n\n[[qos]]\nname = \"a\"\nqueu = 3\n";
    let environment = [
        ("WEIR_LOG_FORMT", "json"),
        ("WEIR_NODE", "http://elsewhere"),
    ];
    let flags = [("--http", "http.listen", "nowhere")];
    let found = mistakes(&layers(file, &environment, &flags)).join("\n");
    for expected in [
        "weir.conf:2: unknown key http.lisen; did you mean http.listen?",
        "weir.conf:3: http.threads: \"many\" is not a whole number",
        "priority: 0 is not between 1 and 1000",
        "name: \"a\" is there twice",
        "weir.conf:11: unknown key queu; did you mean queue?",
        "env WEIR_LOG_FORMT: unknown variable; did you mean WEIR_LOG_FORMAT?",
        "flag --http: http.listen: \"nowhere\" is not an address",
    ] {
        assert!(found.contains(expected), "{expected:?} in\n{found}");
    }
    assert!(!found.contains("WEIR_NODE"), "{found}");
}

#[test]
fn a_policy_is_a_text_or_a_table_of_its_parameters() {
    let text = "[federation]\npolicy = \"static:own=34\"\n\n[[qos]]\nname = \"fast\"\n\
                policy = \"power-of-d:by=room,d=3\"\n";
    let table = "[federation.policy]\nname = \"static\"\nown = 34\n\n[[qos]]\nname = \"fast\"\n\
                 policy = { name = \"power-of-d\", d = 3, by = \"room\" }\n";
    let read = |file: &str| {
        let loaded = load(defaults(), &layers(file, &[], &[]), MACHINE).expect("it is right");
        let class = loaded.config.node.classes[0].policy.clone();
        (loaded.config.policy, class)
    };
    assert_eq!(read(text), read(table));
    for (wrong, told) in [
        (
            "[federation.policy]\nown = 34\n",
            "weir.conf:1: federation.policy: a policy's table lacks its name",
        ),
        (
            "[federation.policy]\nname = \"static\"\nowns = 34\n",
            "has no parameter",
        ),
        (
            "[federation.policy]\nname = \"static\"\nown = [1]\n",
            "own expects one text",
        ),
        (
            "[[qos]]\nname = \"a\"\npolicy = \"spil\"\n",
            "weir.conf:3: policy: ",
        ),
    ] {
        let found = mistakes(&layers(wrong, &[], &[])).join("\n");
        assert!(found.contains(told), "{told:?} in {found}");
    }
}

#[test]
fn a_door_beyond_loopback_needs_chosen_credentials() {
    let open = "[http]\nlisten = \"0.0.0.0:80\"\n";
    assert!(mistakes(&layers(open, &[], &[]))[0].starts_with("weir.conf:2: http.listen"));
    let fine = |file: &str| load(defaults(), &layers(file, &[], &[]), MACHINE).is_ok();
    assert!(fine(&format!("{open}insecure = true\n")));
    assert!(fine(&format!("{open}[auth]\ntoken-file = \"/token\"\n")));
}

#[test]
fn parts_that_belong_together_are_asked_for() {
    let found = mistakes(&layers(
        "auth.user = \"u\"\nhttp.tls-key = \"k\"\n",
        &[],
        &[],
    ));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn classes_replace_the_default_one() {
    let file = "[[qos]]\nname = \"fast\"\ndeadline = \"200ms\"\n[[qos]]\nname = \"slow\"\n";
    let loaded = load(defaults(), &layers(file, &[], &[]), MACHINE).expect("valid");
    let classes = &loaded.config.node.classes;
    assert_eq!(classes.len(), 2);
    assert_eq!(classes[0].deadline, Some(Duration::from_millis(200)));
    assert_eq!(
        (classes[1].name.as_str(), classes[1].deadline),
        ("slow", None)
    );
}

#[test]
fn capacity_is_found_out_unless_given() {
    let loaded = load(defaults(), &layers("", &[], &[]), MACHINE).expect("valid");
    let capacity = loaded.config.node.capacity;
    assert_eq!(
        (capacity.cpu, capacity.memory),
        (Cpu::cores(4), Memory::mebibytes(800))
    );
    let file = "[resources]\ncpu = 0.5\nmemory = \"64MiB\"\n";
    let given = load(defaults(), &layers(file, &[], &[]), MACHINE).expect("valid");
    let capacity = given.config.node.capacity;
    assert_eq!(
        (capacity.cpu, capacity.memory),
        (Cpu::millicores(500), Memory::mebibytes(64))
    );
}

#[test]
fn every_default_is_read_back_from_the_file_of_defaults() {
    // Its lines are commented out, except headers; comments hold one space.
    let text = default_file(defaults());
    let active: String = text
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .filter(|line| line.contains(" = ") || line.starts_with('['))
        .fold(String::new(), |text, line| text + line + "\n");
    let loaded = load(defaults(), &layers(&active, &[], &[]), MACHINE).expect(&active);
    let plain = load(defaults(), &Layers::default(), MACHINE).expect("valid");
    let values = |loaded: &Loaded| -> Vec<_> {
        loaded
            .values()
            .into_iter()
            .map(|(key, value, _)| (key, value))
            .collect()
    };
    assert_eq!(values(&loaded), values(&plain));
    assert!(
        KEYS.iter()
            .all(|key| loaded.origin(key.path) != Origin::Default)
    );
}

#[test]
fn keys_and_their_variables_are_unique() {
    let paths: BTreeSet<_> = KEYS.iter().map(|key| key.path).collect();
    let mut names: BTreeSet<_> = KEYS.iter().map(Key::environment).collect();
    names.extend(CLIENT_VARIABLES.iter().map(|name| (*name).to_owned()));
    assert_eq!(paths.len(), KEYS.len());
    assert_eq!(names.len(), KEYS.len() + CLIENT_VARIABLES.len());
}

#[test]
fn manual_has_a_row_per_key() {
    let text = reference(defaults());
    assert_eq!(text.lines().count(), 2 + KEYS.len() + CLASS_KEYS.len());
}

#[test]
fn data_goes_to_the_users_folder_unless_root() {
    let variable = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
    assert_eq!(
        default_data_dir(false, &variable),
        Path::new("/home/u/.local/share/weir")
    );
    assert_eq!(
        default_data_dir(true, &variable),
        Path::new("/var/lib/weir")
    );
}
