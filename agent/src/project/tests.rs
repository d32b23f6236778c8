use weir_node::id::Digest;

use std::collections::BTreeMap;

use super::*;
use crate::deployment::WireDeployment;

fn project(path: &str, text: &str) -> Result<Project, String> {
    let outside = Outside {
        variable: &|name| (name == "STAGE").then(|| "test".to_owned()),
        file: &|path| match path.to_str() {
            Some("dir/first.yml") => {
                Ok("environment:\n  A: 1.10\n  B: ${B}\n  C: first\n".to_owned())
            }
            Some("dir/second.yml") => Ok("environment: {C: second}\n".to_owned()),
            Some("dir/flat.yml") => Ok("A: b\n".to_owned()),
            _ => Err(format!("read {}: no such file", path.display())),
        },
    };
    parse(Path::new(path), text, &outside).map_err(|mistakes| mistakes.to_string())
}

fn read(path: &str, text: &str) -> Result<Vec<Deployment>, String> {
    project(path, text).map(|project| project.deployments)
}

#[test]
fn project_file_says_what_the_flags_say() {
    let text = r#"
            [functions.hello]
            wasm = "hello.wasm"
            memory = "128MiB"
            cpu = 0.5
            timeout = "30s"
            min = 1
            idempotent = true
            protocol = "cgi"
            allow-outbound = ["api.example:443"]
            qos = ["fast", "slow"]
            env = { STAGE = "${STAGE}", MODE = "${MODE:-plain}" }
    "#;
    let deployments = read("dir/weir.toml", text).expect("valid");
    let [hello] = deployments.as_slice() else {
        panic!("one function")
    };
    assert_eq!(hello.code, Code::File("dir/hello.wasm".into()));
    let wire = WireDeployment::new(hello, &Digest::of(b"").into(), Some("shop"));
    assert_eq!((wire.namespace(), wire.service.as_str()), ("shop", "hello"));
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    assert_eq!(wire.env_vars, map(&[("STAGE", "test"), ("MODE", "plain")]));
    assert_eq!(
        wire.limits,
        map(&[("memory", "134217728"), ("cpu", "500m")])
    );
    assert_eq!(wire.labels, map(&[("com.openfaas.scale.min", "1")]));
    let annotations = [
        ("weir.protocol", "cgi"),
        ("weir.timeout", "30s"),
        ("weir.idempotent", "true"),
        ("weir.allow-outbound", "api.example:443"),
        ("weir.qos", "fast,slow"),
    ];
    assert_eq!(wire.annotations, map(&annotations));
}

#[test]
fn project_mistakes_are_all_told_with_their_line() {
    let text = "[functions.a]\nmemry = \"1MiB\"\n[functions.b]\nwasm = \"b\"\ncpu = \"x\"\n\
                [other]\n";
    let found = read("weir.toml", text).expect_err("mistakes");
    for expected in [
        "weir.toml:2: functions.a: unknown key memry; did you mean memory?",
        "functions.a: says nowhere what its code is",
        "weir.toml:5: functions.b: cpu: \"x\" is not a share",
        "weir.toml:6: unknown key other",
    ] {
        assert!(found.contains(expected), "{expected:?} in\n{found}");
    }
}

#[test]
fn stack_file_of_openfaas_is_read() {
    let digest = Digest::of(b"code");
    let text = format!(
        r#"
version: 1.0
provider:
  name: openfaas
  gateway: http://127.0.0.1:8080
functions:
  first:
    lang: wasm
    handler: ./build/first.wasm
    image: registry.example/first:latest
    environment:
      STAGE: ${{STAGE}}
      COUNT: 3
    labels:
      com.openfaas.scale.min: "2"
    limits:
      memory: 64Mi
      cpu: 100m
      nvidia.com/gpu: "1"
    secrets: [key]
    constraints:
      - "node.platform.os == linux"
    readonly_root_filesystem: true
    fprocess: cat
  second:
    image: {digest}
"#
    );
    let deployments = read("stack.yaml", &text).expect("valid");
    let [first, second] = deployments.as_slice() else {
        panic!("two functions")
    };
    assert_eq!(first.code, Code::File("./build/first.wasm".into()));
    assert_eq!(first.settings.text("memory"), Some("67108864"));
    assert_eq!(first.settings.env["STAGE"], "test");
    assert_eq!(first.settings.env["COUNT"], "3");
    assert!(first.settings.read_only_root_filesystem);
    let wire = WireDeployment::new(first, &digest.into(), None);
    assert_eq!(wire.limits["cpu"], "100m");
    assert_eq!(wire.limits["nvidia.com/gpu"], "1");
    assert_eq!(wire.env_process.as_deref(), Some("cat"));
    assert_eq!(second.code, Code::Named(digest.into()));
}

#[test]
fn stack_file_mistakes_name_the_function() {
    let text = "provider:\n  name: faasd\nfunctions:\n  a:\n    imag: x\n    lang: go\n";
    let found = read("stack.yml", text).expect_err("mistakes");
    for expected in [
        "provider: name must be openfaas",
        "functions.a: unknown key imag; did you mean image?",
        "functions.a: has no code that Weir can run",
    ] {
        assert!(found.contains(expected), "{expected:?} in\n{found}");
    }
}

#[test]
fn texts_of_a_stack_file_stay_as_they_are_written() {
    let text = "functions:\n  a:\n    image: 1.10\n    lang: 3.0\n    namespace: 007\n    \
                fprocess: 1e3\n    environment: {V: 1.10, P: 007, F: yes, N: null, E:}\n    \
                labels: {v: 1.0, t: True}\n    annotations: {d: 2024-01-02}\n    \
                secrets: [007]\n    constraints: [1.50]\n    \
                readonly_root_filesystem: yes\n    limits: {cpu: 0.50, memory: 64Mi}\n    \
                requests: {cpu: 1.0}\n";
    let functions = read("stack.yaml", text).expect("valid");
    let settings = &functions[0].settings;
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
    };
    let env = [
        ("V", "1.10"),
        ("P", "007"),
        ("F", "yes"),
        ("N", ""),
        ("E", ""),
    ];
    assert_eq!(settings.env, map(&env));
    assert_eq!(settings.labels, map(&[("v", "1.0"), ("t", "True")]));
    assert_eq!(settings.annotations, map(&[("d", "2024-01-02")]));
    assert_eq!(
        (&settings.secrets[..], &settings.constraints[..]),
        (&["007".into()][..], &["1.50".into()][..])
    );
    assert_eq!(settings.namespace.as_deref(), Some("007"));
    assert_eq!(settings.env_process.as_deref(), Some("1e3"));
    assert_eq!(settings.requests, map(&[("cpu", "1.0")]));
    assert!(settings.read_only_root_filesystem);
    assert_eq!(
        functions[0].code,
        Code::Named("1.10".parse().expect("an image"))
    );
}

#[test]
fn environment_files_are_read_and_the_stack_file_wins() {
    let stack = |files: &str| {
        let text = format!(
            "functions:\n  a:\n    image: x\n    environment: {{A: own}}\n    \
             environment_file: {files}\n"
        );
        read("dir/stack.yaml", &text)
    };
    let functions = stack("[first.yml, second.yml]").expect("valid");
    let env = &functions[0].settings.env;
    let value = |name: &str| env[name].as_str();
    assert_eq!(
        (value("A"), value("B"), value("C")),
        ("own", "${B}", "second")
    );
    for (files, told) in [
        ("[absent.yml]", "environment_file: read dir/absent.yml"),
        ("flat.yml", "dir/flat.yml has no `environment:`"),
    ] {
        let mistake = stack(files).expect_err("a mistake");
        assert!(mistake.contains(told), "{mistake}");
    }
}

#[test]
fn keys_for_others_are_warned_of_and_slips_are_mistakes_on_every_level() {
    let text = "x-common: &common\n  image: a\n  lang: ${UNSET}\nfunctions:\n  a:\n    \
                <<: *common\n    lang: go\n    imagePullPolicy: Always\n    \
                registry_auth: z\n    x-mine: 1\n    build_args: {A: b}\n    \
                limits: {nvidia.com/gpu: 1}\n---\nfunctions: {}\n";
    let project = project("stack.yaml", text).expect("valid");
    let warnings: Vec<_> = project.warnings.iter().map(ToString::to_string).collect();
    let told = [
        "stack.yaml: holds more than one document: only the first is read",
        "stack.yaml:1: x-common is not used",
        "stack.yaml:8: functions.a.imagePullPolicy is not used: the annotation weir.pull",
        "stack.yaml:9: functions.a.registry_auth is not used",
        "stack.yaml:10: functions.a.x-mine is not used",
    ];
    assert_eq!(warnings.len(), told.len(), "{warnings:?}");
    for (warning, told) in warnings.iter().zip(told) {
        assert!(warning.starts_with(told), "{warning}");
    }

    let text = "provider: {name: openfaas, gatway: x}\nconfiguration: {template: []}\n\
                functions:\n  a:\n    image: x\n    limits: {memry: 32Mi}\n    \
                requests:\n      cpus: 1\n    enviroment: {A: b}\n    \
                readonly_root_filesystem: perhaps\n";
    let found = read("stack.yaml", text).expect_err("mistakes");
    for expected in [
        "stack.yaml:1: unknown key provider.gatway; did you mean gateway?",
        "stack.yaml:2: unknown key configuration.template; did you mean templates?",
        "stack.yaml:6: functions.a: unknown key limits.memry; did you mean memory?",
        "stack.yaml:8: functions.a: unknown key requests.cpus; did you mean cpu?",
        "stack.yaml:9: functions.a: unknown key enviroment; did you mean environment?",
        "functions.a: readonly_root_filesystem: \"perhaps\" is neither true nor false",
    ] {
        assert!(found.contains(expected), "{expected:?} in\n{found}");
    }
}

#[test]
fn wire_form_has_the_names_that_openfaas_gives() {
    let deployment = Deployment {
        name: "a".to_owned(),
        code: Code::File("a.wasm".into()),
        settings: Settings::default().with("min", "0"),
    };
    let wire = WireDeployment::new(&deployment, &Digest::of(b"").into(), None);
    let json = serde_json::to_value(&wire).expect("plain data");
    assert_eq!(json["service"], "a");
    assert_eq!(json["namespace"], "openfaas-fn");
    assert_eq!(json["labels"]["com.openfaas.scale.zero"], "true");
    assert!(json["envVars"].is_object() && json["readOnlyRootFilesystem"].is_boolean());
}
