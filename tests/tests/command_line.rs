//! The program as its users type it.

use std::fs;
use std::process::{Output, Stdio};

use serde_json::Value;
use weir_tests::guests::guest;
use weir_tests::node::{Node, text, weir};
use weir_tests::within;

/// Panics unless the command succeeded; returns its standard output.
#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Panics unless the command failed with this code and said why on standard
/// error alone; returns that.
#[track_caller]
fn failed(output: &Output, code: i32) -> String {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert!(!output.stderr.is_empty());
    text(&output.stderr)
}

fn code(name: &str) -> String {
    guest(name)
        .path()
        .to_str()
        .expect("our paths are text")
        .to_owned()
}

#[tokio::test]
async fn a_function_lives_its_life_on_the_command_line() {
    let node = Node::start().await;
    let echo = code("echo");
    let deploy = [
        "deploy",
        "hello",
        "--wasm",
        &echo,
        "--memory",
        "32MiB",
        "--timeout",
        "5s",
        "--cpu",
        "0.5",
        "--env",
        "A=b",
        "--label",
        "team=edge",
        "--min",
        "1",
    ];
    let printed = done(&node.weir(deploy).await);
    assert!(
        printed.contains(&format!("{}/function/hello", node.url())),
        "{printed}"
    );

    assert!(done(&node.weir(["list"]).await).contains("hello"));
    let listed: Value =
        serde_json::from_str(&done(&node.weir(["list", "--output", "json"]).await)).expect("JSON");
    assert_eq!(listed[0]["name"], "hello");
    let described: Value = serde_json::from_str(&done(
        &node.weir(["describe", "hello", "--output", "json"]).await,
    ))
    .expect("JSON");
    assert_eq!(described["labels"]["team"], "edge");
    assert_eq!(described["annotations"]["weir.timeout"], "5s");

    assert_eq!(
        done(&node.weir(["invoke", "hello", "-d", "some data"]).await),
        "some data"
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("data");
    fs::write(&file, vec![b'z'; 100_000]).expect("a file can be written");
    let from_file = format!("@{}", file.display());
    assert_eq!(
        done(&node.weir(["invoke", "hello", "-d", &from_file]).await).len(),
        100_000
    );
    done(
        &node
            .weir([
                "invoke",
                "hello",
                "-d",
                "x",
                "--deadline",
                "30s",
                "-H",
                "X-Mine: yes",
            ])
            .await,
    );

    let submitted = done(
        &node
            .weir(["invoke", "hello", "-d", "later", "--async"])
            .await,
    );
    assert!(!submitted.trim().is_empty());
    assert_eq!(
        done(
            &node
                .weir(["invoke", "hello", "-d", "later", "--async", "--wait"])
                .await
        ),
        "later"
    );

    done(&node.weir(["scale", "hello", "0"]).await);
    assert!(
        done(&node.weir(["status"]).await)
            .to_lowercase()
            .contains("functions")
    );
    done(&node.weir(["logs", "hello"]).await);
    done(&node.weir(["remove", "hello"]).await);
    assert!(!done(&node.weir(["list"]).await).contains("hello"));
    assert!(failed(&node.weir(["invoke", "hello"]).await, 1).contains("hello"));
    assert!(failed(&node.weir(["remove", "hello"]).await, 1).contains("hello"));
}

#[tokio::test]
async fn a_second_deployment_updates_and_sends_no_code_twice() {
    let node = Node::start().await;
    let (echo, hello) = (code("echo"), code("hello.wat"));
    done(&node.weir(["deploy", "f", "--wasm", &echo]).await);
    done(
        &node
            .weir(["deploy", "f", "--wasm", &echo, "--timeout", "9s"])
            .await,
    );
    done(&node.weir(["deploy", "f", "--wasm", &hello]).await);
    assert_eq!(done(&node.weir(["invoke", "f"]).await), "hello from text\n");
}

#[tokio::test]
async fn what_cannot_be_deployed_fails_with_the_reason() {
    let node = Node::start().await;
    failed(
        &node
            .weir(["deploy", "f", "--wasm", "/nowhere/code.wasm"])
            .await,
        1,
    );
    let foreign = code("unknown-import");
    assert!(failed(&node.weir(["deploy", "f", "--wasm", &foreign]).await, 1).contains("elsewhere"));
}

#[tokio::test]
async fn project_files_deploy_all_their_functions() {
    let node = Node::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::copy(code("echo"), folder.path().join("echo.wasm")).expect("a file can be copied");
    fs::copy(code("cgi"), folder.path().join("cgi.wasm")).expect("a file can be copied");
    let project = folder.path().join("weir.toml");
    let content = "[functions.one]\nwasm = \"echo.wasm\"\nmemory = \"32MiB\"\n\n[functions.two]\nwasm = \"cgi.wasm\"\nprotocol = \"cgi\"\n";
    fs::write(&project, content).expect("a file can be written");
    done(
        &node
            .weir(["deploy", "-f", project.to_str().expect("text")])
            .await,
    );
    assert_eq!(node.call("one", "1").await.expect_status(200).text(), "1");
    assert_eq!(
        node.call("two", "2")
            .await
            .expect_status(200)
            .header("x-guest"),
        "yes"
    );

    let stack = folder.path().join("stack.yaml");
    let content = "version: 1.0\nprovider:\n  name: openfaas\n  gateway: http://127.0.0.1:8080\nfunctions:\n  three:\n    lang: wasm\n    handler: .\n    image: echo.wasm\n    environment:\n      GREETING: good day\n    labels:\n      team: edge\n    limits:\n      memory: 32Mi\n";
    fs::write(&stack, content).expect("a file can be written");
    done(
        &node
            .weir(["deploy", "-f", stack.to_str().expect("text")])
            .await,
    );
    assert_eq!(node.call("three", "3").await.expect_status(200).text(), "3");

    fs::write(
        &project,
        "[functions.one]\nwasm = \"echo.wasm\"\nmemmory = \"1MiB\"\n",
    )
    .expect("a file can be written");
    let told = failed(
        &node
            .weir(["deploy", "-f", project.to_str().expect("text")])
            .await,
        2,
    );
    assert!(
        told.contains("memmory") && told.contains("memory"),
        "{told}"
    );
}

#[tokio::test]
async fn stack_files_are_read_as_openfaas_reads_them() {
    let node = Node::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, content: &str| {
        fs::write(folder.path().join(name), content).expect("a file can be written");
    };
    fs::copy(code("variables"), folder.path().join("code.wasm")).expect("a file can be copied");
    write(
        "more.yml",
        "environment:\n  FROM_FILE: 1.20\n  VERSION: 9\n  RAW: ${NOT_SET}\n",
    );
    write(
        "stack.yaml",
        "version: 1.0\nprovider:\n  name: openfaas\nx-common: &common\n  lang: wasm\n  \
         image: code.wasm\nfunctions:\n  one:\n    <<: *common\n    imagePullPolicy: Always\n    \
         environment_file: [more.yml]\n    environment:\n      VERSION: 1.10\n      PIN: 007\n      \
         FLAG: yes\n      STAGE: ${STAGE:-${NOT_SET:-pro}}\n      PART: ${WEIR_NODE:0:4}\n      \
         LOUD: ${WEIR_NODE^^}\n      DASH: ${NOT_SET-x}\n    labels:\n      release: 2.0\n    \
         annotations:\n      day: 2024-01-02\n---\nfunctions:\n  two:\n    image: code.wasm\n",
    );
    let path = folder.path().join("stack.yaml");
    let deploy = ["deploy", "-f", path.to_str().expect("text")];
    let output = node.weir(deploy).await;
    done(&output);
    let told = text(&output.stderr);
    for warned in [
        "x-common is not used",
        "functions.one.imagePullPolicy",
        "more than one document",
    ] {
        assert!(told.contains(warned), "{warned} in {told}");
    }
    let seen = node.call("one", "").await.expect_status(200).text();
    for line in [
        "VERSION=1.10",
        "PIN=007",
        "FLAG=yes",
        "FROM_FILE=1.20",
        "RAW=${NOT_SET}",
        "STAGE=pro",
        "PART=http",
        "LOUD=HTTP://127",
        "DASH=x",
    ] {
        assert!(
            seen.lines().any(|seen| seen.starts_with(line)),
            "{line} in\n{seen}"
        );
    }
    let status = node
        .manage("GET", "/system/function/one")
        .send()
        .await
        .json();
    assert_eq!(status["labels"]["release"], "2.0");
    assert_eq!(status["annotations"]["day"], "2024-01-02");
    node.manage("GET", "/system/function/two")
        .send()
        .await
        .expect_error(404);

    for (content, wanted) in [
        (
            "    limits: {memry: 32Mi}\n",
            "stack.yaml:4: functions.one: unknown key limits.memry; did you mean memory?",
        ),
        (
            "    enviroment: {A: b}\n",
            "stack.yaml:4: functions.one: unknown key enviroment; did you mean environment?",
        ),
        ("    environment_file: [absent.yml]\n", "absent.yml"),
        ("    environment: {A: '${A:-${B}}'}\n", "${B} is not set"),
    ] {
        write(
            "stack.yaml",
            &format!("functions:\n  one:\n    image: code.wasm\n{content}"),
        );
        let told = failed(&node.weir(deploy).await, 2);
        assert!(told.contains(wanted), "{wanted} in {told}");
    }

    // The same texts in our own file.
    write(
        "weir.toml",
        "[functions.three]\nwasm = \"code.wasm\"\nenv = { VERSION = 1.10, FLAG = true, \
         DAY = 2024-01-02, STAGE = \"${STAGE:-${NOT_SET:-pro}}\" }\n",
    );
    let path = folder.path().join("weir.toml");
    done(
        &node
            .weir(["deploy", "-f", path.to_str().expect("text")])
            .await,
    );
    let seen = node.call("three", "").await.expect_status(200).text();
    for line in ["VERSION=1.10", "FLAG=true", "DAY=2024-01-02", "STAGE=pro"] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in\n{seen}");
    }
}

#[tokio::test]
async fn functions_that_fail_make_the_command_fail_and_keep_their_answer() {
    let node = Node::start().await;
    let (exit, cgi) = (code("exit"), code("cgi"));
    done(&node.weir(["deploy", "exit", "--wasm", &exit]).await);
    done(
        &node
            .weir(["deploy", "made", "--wasm", &cgi, "--protocol", "cgi"])
            .await,
    );
    failed(&node.weir(["invoke", "exit", "-d", "3"]).await, 1);
    let own = node
        .weir(["invoke", "made", "-d", "told", "--query", "418="])
        .await;
    assert!(
        matches!(own.status.code(), Some(0 | 1)),
        "{}",
        text(&own.stderr)
    );
    assert!(text(&own.stdout).contains("told") || text(&own.stderr).contains("told"));
}

#[tokio::test]
async fn wrong_usage_is_2_help_is_0_and_an_absent_node_is_1() {
    for wrong in [
        &["launch"][..],
        &["deploy"],
        &["invoke"],
        &["list", "--colour"],
        &["deploy", "f", "--wasm", "x", "--memory", "lots"],
    ] {
        failed(&weir(wrong).output().await.expect("weir can be started"), 2);
    }
    for right in [
        &["--help"][..],
        &["deploy", "--help"],
        &["completions", "bash"],
    ] {
        assert!(!done(&weir(right).output().await.expect("weir can be started")).is_empty());
    }
    let version = done(
        &weir(["--version"])
            .output()
            .await
            .expect("weir can be started"),
    );
    assert_eq!(
        version.trim(),
        format!("weir {}", env!("CARGO_PKG_VERSION"))
    );
    let nobody = weir_tests::node::free_address();
    let mut command = weir(["list"]);
    let output = command
        .env("WEIR_NODE", format!("http://{nobody}"))
        .env("WEIR_TOKEN", "x")
        .output()
        .await;
    let told = failed(&output.expect("weir can be started"), 1);
    assert!(told.contains(&nobody.to_string()), "{told}");
}

#[tokio::test]
async fn a_wrong_token_is_told_and_never_shown() {
    let node = Node::start().await;
    let mut command = weir(["list"]);
    let output = command
        .env("WEIR_NODE", node.url())
        .env("WEIR_TOKEN", "hush-hush")
        .output()
        .await;
    let told = failed(&output.expect("weir can be started"), 1);
    assert!(!told.contains("hush-hush"), "{told}");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = weir(["config"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("weir can be started");
    drop(child.stdout.take());
    let output = within("it ends", child.wait_with_output())
        .await
        .expect("a child can be waited for");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[tokio::test]
async fn logs_can_be_followed_from_the_command_line() {
    use tokio::io::AsyncReadExt;
    let node = Node::start().await;
    let logs = code("logs");
    done(&node.weir(["deploy", "chatter", "--wasm", &logs]).await);
    node.call("chatter", "1").await.expect_status(200);
    let mut command = weir(["logs", "-f", "chatter"]);
    command
        .env("WEIR_NODE", node.url())
        .env("WEIR_TOKEN", &node.token)
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("weir can be started");
    let mut lines = child.stdout.take().expect("it is piped");
    let mut seen = String::new();
    let mut until = async |what: &str| {
        within(what, async {
            let mut buffer = [0; 4096];
            while !seen.contains(what) {
                let length = lines
                    .read(&mut buffer)
                    .await
                    .expect("its output can be read");
                assert!(length > 0, "it ended before {what}: {seen}");
                seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        })
        .await;
    };
    until("line 1").await;
    node.call("chatter", "2").await.expect_status(200);
    until("line 2").await;
    child.start_kill().expect("our own child can be killed");
    child.wait().await.expect("a child can be waited for");
}

#[tokio::test]
async fn the_demo_needs_nothing_and_succeeds() {
    let output = within("the demo ends", weir(["demo"]).output())
        .await
        .expect("weir can be started");
    let shown = done(&output);
    for word in [
        "cold",
        "warm",
        "429",
        "504",
        "202",
        "edge-3",
        "cloud",
        "errors           0",
    ] {
        assert!(shown.contains(word), "{word} is not in:\n{shown}");
    }
}

#[test]
fn the_program_is_static_where_it_was_built_so() {
    // `tests/run` builds for a named target with the C library inside.
    let program = weir_tests::node::program();
    if !program
        .components()
        .any(|part| part.as_os_str().to_string_lossy().ends_with("-linux-gnu"))
    {
        return println!("NOTICE: not checked, this is no build of tests/run");
    }
    let listed = std::process::Command::new("ldd")
        .arg(&program)
        .output()
        .expect("ldd is installed");
    let told = text(&listed.stdout) + &text(&listed.stderr);
    assert!(
        told.contains("statically linked") || told.contains("not a dynamic"),
        "{told}"
    );
}

#[tokio::test]
async fn the_readme_lists_every_setting() {
    let mut command = weir(["config", "--markdown"]);
    let output = within("a command ends", command.output())
        .await
        .expect("weir can be started");
    let printed = done(&output);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(root).expect("there is a README");
    for line in printed.lines() {
        // Its default depends on who runs it.
        let key = line.split('|').nth(1).unwrap_or_default();
        let listed = if key.contains("data-dir") { key } else { line };
        assert!(readme.contains(listed), "README.md lacks: {line}");
    }
}
