//! Images of AWS Lambda, with AWS's own Python runtime client.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::json;
use weir_tests::engine::{self, docker, instances};
use weir_tests::node::{Function, Node, Setup, text};

const IMAGE: &str = "weir-test/lambda:1";

/// As Lambda's documentation writes them.
const HANDLER: &str = r#"
import json, os, time

count = 0

def handler(event, context):
    global count
    count += 1
    print("asked with", json.dumps(event))
    if isinstance(event, dict) and event.get("fail"):
        raise ValueError("as you wished")
    if isinstance(event, dict) and event.get("sleep"):
        time.sleep(event["sleep"])
    if isinstance(event, dict) and event.get("exit"):
        os._exit(7)
    return {"event": event, "count": count, "id": context.aws_request_id,
            "left": context.get_remaining_time_in_millis(), "name": context.function_name,
            "memory": context.memory_limit_in_mb, "arn": context.invoked_function_arn,
            "trace": os.environ.get("_X_AMZN_TRACE_ID", "")}
"#;

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.expect("the command runs (tests/run installs it)");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
}

/// An image as Lambda's users build them: the client, and code in its task root.
fn image() -> &'static str {
    static MADE: LazyLock<()> = LazyLock::new(|| {
        engine::python();
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let site = folder.path().join("site");
        let script = "import sys; from pip._internal.cli.main import main; sys.exit(main())";
        let venv = folder.path().join("venv");
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        run(Command::new(venv.join("bin/python"))
            .args([
                "-c",
                script,
                "install",
                "--quiet",
                "awslambdaric==4.2.2",
                "--target",
            ])
            .arg(&site));
        // What the client's library links to, and the small image lacks.
        let libraries = folder.path().join("lib");
        std::fs::create_dir(&libraries).expect("a folder can be made");
        for name in ["libstdc++.so.6", "libgcc_s.so.1"] {
            let found = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"]
                .map(|folder| Path::new(folder).join(name));
            let found = found.iter().find(|path| path.exists());
            let found = found.expect("the machine's C++ library is there");
            std::fs::copy(found, libraries.join(name)).expect("a file can be copied");
        }
        std::fs::create_dir(folder.path().join("task")).expect("a folder can be made");
        std::fs::write(folder.path().join("task/app.py"), HANDLER).expect("a file can be written");
        let dockerfile = "FROM weir/python:3.11\n\
            COPY site /opt/python\nCOPY lib /opt/lib\nCOPY task /var/task\n\
            ENV PYTHONPATH=/opt/python LD_LIBRARY_PATH=/opt/lib\n\
            WORKDIR /var/task\n\
            ENTRYPOINT [\"/usr/bin/python3.11\", \"-m\", \"awslambdaric\"]\n\
            CMD [\"app.handler\"]\n";
        std::fs::write(folder.path().join("Dockerfile"), dockerfile)
            .expect("a file can be written");
        std::fs::write(folder.path().join(".dockerignore"), "venv").expect("a file can be written");
        docker(&[
            "build",
            "--quiet",
            "--tag",
            IMAGE,
            &folder.path().display().to_string(),
        ]);
    });
    *MADE;
    IMAGE
}

async fn node() -> Node {
    Setup::new().containers().start().await
}

fn function(name: &str) -> Function {
    let function = Function::image(name, image()).setting("pull", "never");
    function.protocol("lambda").memory("128Mi")
}

#[tokio::test]
async fn an_unmodified_image_answers_calls() {
    let node = node().await;
    node.deploy(function("hello").unchecked()).await;
    let ask = node.post("/function/hello").header(
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    );
    let reply = ask.body("{\"a\":[1,2]}").send().await.expect_status(200);
    assert_eq!(reply.header("x-weir-start"), "cold");
    let said = reply.json();
    assert_eq!(said["event"], json!({ "a": [1, 2] }));
    assert_eq!(
        (&said["name"], &said["memory"]),
        (&json!("hello"), &json!("128"))
    );
    let left = said["left"].as_u64().expect("a number");
    assert!((1..=30_000).contains(&left), "{said}");
    let trace = said["trace"].as_str().expect("text");
    assert!(
        trace.contains("4bf92f35-77b34da6a3ce929d0e0e4736"),
        "{trace}"
    );
    assert!(said["arn"].to_string().contains("function:hello"), "{said}");
    // The same container, and the query where there is no body.
    let reply = node
        .get("/function/hello?b=2")
        .send()
        .await
        .expect_status(200);
    let said = reply.json();
    assert_eq!(
        (&said["event"], &said["count"]),
        (&json!({ "b": "2" }), &json!(2))
    );
    assert_eq!(reply.header("x-weir-start"), "warm");
    // Its own errors are a 502 with Lambda's body.
    let reply = node
        .call("hello", "{\"fail\":true}")
        .await
        .expect_status(502);
    assert_eq!(reply.header("x-amz-function-error"), "Unhandled");
    let error = reply.json();
    assert_eq!(error["errorType"], "ValueError");
    assert_eq!(error["errorMessage"], "as you wished");
    let said = node.call("hello", "3").await.expect_status(200).json();
    assert_eq!((&said["event"], &said["count"]), (&json!(3), &json!(4)));
    let logs = node.weir(["logs", "hello"]).await;
    assert!(
        text(&logs.stdout).contains("asked with"),
        "{}",
        text(&logs.stdout)
    );
}

#[tokio::test]
async fn handlers_that_fail_to_load_die_or_stay_are_told() {
    let node = node().await;
    let absent = function("absent").setting("handler", "app.nothing");
    node.create(&absent).await.expect_status(202);
    let state = node.settled("absent").await;
    assert!(state.starts_with("failed: "), "{state}");
    assert!(state.contains("nothing"), "{state}");
    let reply = node.call("absent", "{}").await.expect_error(503);
    assert!(reply.text().contains("nothing"), "{}", reply.text());
    node.deploy(function("frail").timeout("3s")).await;
    let reply = node.call("frail", "{\"exit\":1}").await.expect_error(502);
    assert!(
        reply.text().contains("exited with code 7"),
        "{}",
        reply.text()
    );
    node.call("frail", "{\"sleep\":60}").await.expect_error(504);
    let said = node.call("frail", "{}").await.expect_status(200).json();
    assert_eq!(
        said["count"], 1,
        "a container that stayed too long is replaced"
    );
}

#[tokio::test]
async fn a_call_after_an_idle_death_finds_another_container() {
    let node = node().await;
    let id = node.id().await;
    node.deploy(function("mortal")).await;
    node.call("mortal", "{}").await.expect_status(200);
    let idle = instances(&id, "mortal");
    docker(&["kill", &idle[0]]);
    let reply = node
        .call("mortal", "{\"whole\":true}")
        .await
        .expect_status(200);
    assert_eq!(reply.json()["event"], json!({ "whole": true }));
}

#[tokio::test]
async fn code_is_given_to_an_image_of_a_runtime() {
    let node = node().await;
    image();
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let code = "def other(event, context):\n    return event[::-1]\n";
    std::fs::write(folder.path().join("mine.py"), code).expect("a file can be written");
    let source = folder.path().display().to_string();
    let arguments = [
        "deploy",
        "given",
        "--image",
        IMAGE,
        "--pull",
        "never",
        "--protocol",
        "lambda",
        "--handler",
        "mine.other",
        "--src",
        &source,
    ];
    let output = node.weir(arguments).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let reply = node.call("given", "\"abc\"").await.expect_status(200);
    assert_eq!(reply.text(), "\"cba\"");
}
