use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use weir_node::id::Digest;
use weir_node::resources::{Cpu, Memory};

use clap::{Args as _, FromArgMatches as _};

use super::timeouts::TIMEOUT_LABEL;
use super::*;
use crate::cli::flags::OptionFlags;
use crate::deployment::options::Shape;
use crate::deployment::{Code, Deployment, Settings, WireDeployment};
use crate::document::Value as Written;
use crate::project::{self, Outside};

fn code() -> CodeSource {
    Digest::of(b"code").into()
}

fn spec(fields: Value) -> Result<FunctionSpec, String> {
    let mut body = json!({ "service": "f", "image": code() });
    let more = fields.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(more);
    let wanted: FunctionDeployment = serde_json::from_value(body).expect("JSON");
    let code = wanted.code()?;
    wanted.into_spec(code, Some(ArtifactKind::WasmModule))
}

#[test]
fn deployment_with_nothing_but_a_name_has_the_defaults() {
    let plain = spec(json!({ "labels": null, "annotations": null })).expect("valid");
    let name = "f".parse().expect("valid");
    let expected = FunctionSpec {
        scope: Scope::Federation,
        ..FunctionSpec::new(name, code(), ArtifactKind::WasmModule, Protocol::Stdio)
    };
    assert_eq!(plain, expected);
}

#[test]
fn annotations_of_ours_become_settings_and_others_stay() {
    let spec = spec(json!({ "annotations": {
        "weir.protocol": "cgi",
        "weir.timeout": "1m30s",
        "weir.concurrency": "4",
        "weir.keep-alive": "0s",
        "weir.idempotent": "true",
        "weir.allow-outbound": "a.example:443, b.example:80",
        "weir.qos": "fast,slow",
        "weir.state": "ready",
        "topic": "x",
    }}))
    .expect("valid");
    assert_eq!(spec.protocol, Protocol::Cgi);
    assert_eq!(
        (spec.timeout, spec.keep_alive),
        (Duration::from_secs(90), Duration::ZERO)
    );
    assert_eq!((spec.concurrency, spec.idempotent), (Some(4), true));
    assert_eq!(spec.allow_outbound.len(), 2);
    assert_eq!(spec.classes, ["fast", "slow"]);
    assert_eq!(spec.annotations.keys().collect::<Vec<_>>(), ["topic"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let mistakes = spec(json!({
        "service": "a/b",
        "annotations": { "weir.timout": "1s", "weir.protocol": "smtp", "weir.timeout": "0s" },
        "labels": { "com.openfaas.scale.min": "x", "com.openfaas.scale.max": "0" },
        "limits": { "memory": "lots", "cpu": "-1" },
        "secrets": [".."],
    }))
    .expect_err("mistakes");
    for expected in [
        "service: ",
        "weir.timout is not a setting of Weir; did you mean weir.timeout?",
        "weir.protocol: \"smtp\"",
        "weir.timeout: no call",
        "com.openfaas.scale.min: \"x\"",
        "com.openfaas.scale.max: 0",
        "limits.memory: \"lots\"",
        "limits.cpu: \"-1\"",
        "secrets: ",
    ] {
        assert!(mistakes.contains(expected), "{expected:?} in\n{mistakes}");
    }
}

#[test]
fn image_is_a_container_image_or_a_digest() {
    let spec_of = |image: &str| spec(json!({ "image": image }));
    let image = spec_of("docker.io/a/b:latest").expect("an image");
    assert_eq!(image.code.artifact(), None);
    let mistake = spec_of("Not An Image").expect_err("no image");
    assert!(mistake.contains("REPOSITORY[:TAG]"), "{mistake}");
    let mistake = spec(json!({ "image": "sha256:12" })).expect_err("half a digest");
    assert!(mistake.contains("not a digest"), "{mistake}");
    assert!(spec(json!({ "image": "" })).is_err());
}

#[test]
fn labels_say_how_many_instances() {
    let check = |labels: Value, expected: Option<(u32, Option<u32>)>| {
        let spec = spec(json!({ "labels": labels }));
        assert_eq!(spec.ok().map(|spec| (spec.min, spec.max)), expected);
    };
    check(
        json!({ SCALE_MIN: "2", SCALE_MAX: "5" }),
        Some((2, Some(5))),
    );
    check(
        json!({ SCALE_MIN: "2", SCALE_ZERO: "true" }),
        Some((0, None)),
    );
    check(json!({ SCALE_ZERO: "false" }), Some((1, None)));
    check(json!({ SCALE_MIN: "5", SCALE_MAX: "2" }), None);
}

#[test]
fn quantities_are_those_of_kubernetes() {
    let check = |limits: Value, requests: Value| {
        let spec = spec(json!({ "limits": limits, "requests": requests })).expect("valid");
        (spec.memory, spec.cpu)
    };
    let (memory, cpu) = check(json!({ "memory": "64Mi", "cpu": "100m" }), json!({}));
    assert_eq!(
        (memory, cpu),
        (Memory::mebibytes(64), Some(Cpu::millicores(100)))
    );
    let (memory, cpu) = check(
        json!({ "memory": "1Ti" }),
        json!({ "memory": "1", "cpu": "2" }),
    );
    assert_eq!((memory, cpu), (Memory::bytes(1 << 40), Some(Cpu::cores(2))));
}

#[test]
fn timeouts_of_a_watchdog_bound_the_call_unless_ours_does() {
    let check = |env: Value, annotations: Value, expected: Option<u64>| {
        let spec = spec(json!({ "envVars": env, "annotations": annotations }));
        let timeout = spec.as_ref().map(|spec| spec.timeout).ok();
        assert_eq!(timeout, expected.map(Duration::from_millis), "{env}");
    };
    let none = || json!({});
    check(json!({ "exec_timeout": "60s" }), none(), Some(60_000));
    check(json!({ "exec_timeout": "90" }), none(), Some(90_000));
    check(
        json!({ "exec_timeout": "1h2m3.5s" }),
        none(),
        Some(3_723_500),
    );
    check(
        json!({ "exec_timeout": "1m", "write_timeout": "2m" }),
        none(),
        Some(60_000),
    );
    check(
        json!({ "write_timeout": "2m", "read_timeout": "3m" }),
        none(),
        Some(120_000),
    );
    check(json!({ "read_timeout": "250ms" }), none(), Some(250));
    check(
        json!({ "exec_timeout": "0", "write_timeout": "45s" }),
        none(),
        Some(45_000),
    );
    check(
        json!({ "exec_timeout": "0s", "read_timeout": "never" }),
        none(),
        Some(30_000),
    );
    check(
        json!({ "exec_timeout": "60s" }),
        json!({ "weir.timeout": "5s" }),
        Some(5_000),
    );
    for wrong in ["1 minute", "", "s", "-1s", "1.2.3s", "5d"] {
        check(json!({ "exec_timeout": wrong }), none(), None);
    }
    let label = spec(json!({ "envVars": { "exec_timeout": "60s" },
        "labels": { TIMEOUT_LABEL: "700" } }));
    assert_eq!(label.expect("valid").timeout, Duration::from_millis(700));
}

fn shown(spec: FunctionSpec) -> Value {
    let function = FunctionStatus {
        spec: Arc::new(spec),
        version: 3,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        state: FunctionState::Failed("no memory".to_owned()),
        next: None,
        previous: None,
        invocations: 0,
        replicas: 1,
        available_replicas: 0,
        call_cpu: Cpu::millicores(100),
        running: 2,
        waiting: 0,
        cpu: Duration::ZERO,
    };
    status(&function, true)
}

#[test]
fn status_shows_what_was_deployed_and_how_it_stands() {
    let spec = spec(json!({
        "annotations": { "weir.timeout": "1m30s", "topic": "x" },
        "limits": { "memory": "64Mi", "cpu": "100m" },
    }))
    .expect("valid");
    let shown = shown(spec);
    assert_eq!(shown["annotations"]["weir.timeout"], "1m30s");
    assert_eq!(shown["annotations"]["topic"], "x");
    assert_eq!(shown["annotations"]["weir.state"], "failed: no memory");
    assert_eq!(shown["annotations"]["weir.version"], "3");
    assert_eq!(shown["limits"]["memory"], "64Mi");
    assert_eq!(shown["invocationCount"], 0);
    assert_eq!(
        shown["usage"],
        json!({ "cpu": 200, "cpuPerCall": 100, "totalMemoryBytes": 128 << 20 })
    );
    assert_eq!(shown["createdAt"], "1970-01-01T00:00:00Z");
}

#[test]
fn what_is_shown_can_be_deployed_again() {
    let first = spec(json!({
        "annotations": { "weir.qos": "fast", "weir.allow-outbound": "a.example:1",
            "weir.port": "3000" },
        "labels": { SCALE_MIN: "1" },
    }))
    .expect("valid");
    let again = spec(json!({
        "annotations": shown(first.clone())["annotations"],
        "labels": first.labels,
    }));
    assert_eq!(again, Ok(first));
}

/// The specification and whether it is tried, as a node reads what is sent.
fn understood(wire: Value) -> (FunctionSpec, bool) {
    let wanted: FunctionDeployment = serde_json::from_value(wire).expect("JSON");
    let check = wanted.check().expect("valid");
    let code = wanted.code().expect("valid");
    let spec = wanted.into_spec(code, Some(ArtifactKind::WasmModule));
    (spec.expect("valid"), check)
}

fn sent(settings: Settings) -> (FunctionSpec, bool) {
    let deployment = Deployment {
        name: "f".to_owned(),
        code: Code::Named(code()),
        settings,
    };
    let wire = WireDeployment::new(&deployment, &code(), None);
    understood(serde_json::to_value(&wire).expect("plain data"))
}

#[test]
fn each_option_says_the_same_by_flag_by_file_and_by_annotation() {
    let plain = sent(Settings::default());
    for option in OPTIONS {
        let key = option.key;
        let example = option.example;
        let map = |text: &str| -> Value {
            let (key, value) = text.split_once('=').expect("a pair");
            json!({ key: value })
        };
        let by_wire = match &option.way {
            Way::Text { place, kind, .. } => {
                let written = if example.is_empty() { "true" } else { example };
                let text = (kind.write)(&Written::Text(written.to_owned()));
                let text = text.expect(key).expect(key);
                let within = match place.within {
                    Within::Annotations => "annotations",
                    Within::Labels => "labels",
                    Within::Limits => "limits",
                };
                json!({ within: { place.name: text } })
            }
            Way::Field { name, .. } => match option.shape() {
                Shape::Table => json!({ *name: map(example) }),
                Shape::One | Shape::List => json!({ *name: [example] }),
            },
        };
        let mut body = json!({ "service": "f", "image": code() });
        let more = by_wire.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        let by_wire = understood(body);
        assert_ne!(by_wire, plain, "{key}: {example} says nothing");
        let Some(flag) = &option.flag else {
            continue;
        };

        let mut line = vec!["weir".to_owned(), format!("--{}", flag.name)];
        if !flag.value.is_empty() {
            line.push(example.to_owned());
        }
        let command = OptionFlags::augment_args(clap::Command::new("weir"));
        let matches = command.try_get_matches_from(line).expect(key);
        let flags = OptionFlags::from_arg_matches(&matches).expect(key);
        let by_flag = sent(flags.settings().expect(key));
        assert_eq!(by_flag, by_wire, "{key} by flag");

        let written = match option.shape() {
            Shape::One if example.is_empty() => "true".to_owned(),
            Shape::One => format!("{example:?}"),
            Shape::List => format!("[{example:?}]"),
            Shape::Table => {
                let (key, value) = example.split_once('=').expect("a pair");
                format!("{{ {key} = {value:?} }}")
            }
        };
        let text = format!("[functions.f]\nimage = \"{}\"\n{key} = {written}\n", code());
        let outside = Outside {
            variable: &|_| None,
            file: &|_| Err("there is none".to_owned()),
        };
        let project = project::parse(Path::new("weir.toml"), &text, &outside).expect(key);
        let [deployment] = &project.deployments[..] else {
            panic!("one function")
        };
        assert_eq!(sent(deployment.settings.clone()), by_wire, "{key} by file");
    }
}
