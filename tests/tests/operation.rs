//! Running a node: configuration, metrics, logs, status.

use std::io::Write;
use std::process::{Command, Stdio};

use weir_tests::client::Reply;
use weir_tests::eventually;
use weir_tests::federation::federation;
use weir_tests::node::{Function, Node, Setup, text, weir};

#[tokio::test]
async fn all_mistakes_of_a_configuration_are_told_at_once_and_where() {
    let config = "[http]\nlisen = \"127.0.0.1:1\"\nthreads = \"many\"\n[resources]\nmemory = \"lots\"\n[nonsense]\nkey = 1";
    let output = Setup::new()
        .config(config)
        .variable("WEIR_LOG_LEVL", "debug")
        .refused()
        .await;
    let told = text(&output.stderr);
    for part in [
        "lisen",
        "http.listen",
        "http.threads",
        "resources.memory",
        "nonsense",
        "WEIR_LOG_LEVL",
        "WEIR_LOG_LEVEL",
    ] {
        assert!(told.contains(part), "{part} is not in: {told}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_toml_or_not_there_is_told() {
    let output = Setup::new().config("[http\nlisten=").refused().await;
    assert!(!text(&output.stderr).is_empty());
    let output = weir(["run", "--config", "/nowhere/weir.toml"])
        .output()
        .await
        .expect("weir can be started");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("/nowhere/weir.toml"),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn config_shows_every_value_and_where_it_came_from() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("weir.toml");
    std::fs::write(&file, "[http]\nbody-bytes = \"3MiB\"\n").expect("a file can be written");
    let mut command = weir(["config", "--config"]);
    command
        .arg(&file)
        .args(["--http", "127.0.0.1:7777"])
        .env("WEIR_LOG_LEVEL", "debug");
    let output = command.output().await.expect("weir can be started");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let line = |key: &str| {
        shown
            .lines()
            .find(|line| line.contains(key))
            .unwrap_or_else(|| panic!("{key} in {shown}"))
            .to_owned()
    };
    assert!(line("http.body-bytes").contains("weir.toml"), "{shown}");
    assert!(
        line("http.listen").contains("7777") && line("http.listen").contains("--http"),
        "{shown}"
    );
    assert!(line("log.level").contains("WEIR_LOG_LEVEL"), "{shown}");
    assert!(line("http.header-count").contains("default"), "{shown}");

    let mut command = weir(["config", "--output", "json"]);
    let output = command.output().await.expect("weir can be started");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(
        json.as_array().is_some_and(|values| values.len() > 30),
        "{json}"
    );
}

/// Puts traffic of every kind on a node, so that every family has samples.
async fn traffic(node: &Node) {
    node.deploy(Function::new("hello", "echo")).await;
    node.deploy(Function::new("exit", "exit")).await;
    node.call("hello", "x").await.expect_status(200);
    node.call("exit", "3").await.expect_status(502);
    node.call("nobody", "").await.expect_status(404);
    let location = node.submit("hello", "x").await;
    node.result(&location).await;
}

/// Has promtool look at metrics.
fn clean(reply: &Reply) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian: prometheus)");
    promtool
        .stdin
        .take()
        .expect("it is piped")
        .write_all(&reply.body)
        .expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    assert!(
        output.status.success(),
        "{}{}\n{}",
        text(&output.stdout),
        text(&output.stderr),
        reply.text()
    );
}

#[tokio::test]
async fn metrics_of_a_member_are_clean_to_promtool_too() {
    let members = federation(2).await;
    members[1]
        .node
        .deploy(Function::new("theirs", "echo"))
        .await;
    members[0].sees_function(&members[1].id, "theirs").await;
    members[0].node.call("theirs", "x").await.expect_status(200);
    let reply = members[0].node.get("/metrics").send().await;
    clean(&reply);
    let sent = members[0]
        .node
        .metric("weir_offloads_total", &[&members[1].id])
        .await;
    assert_eq!(sent, 1.0, "{}", reply.text());
    for name in [
        "weir_links",
        "weir_peers",
        "weir_reports_total",
        "weir_gossip_heard_bytes_total",
    ] {
        assert!(members[0].node.metric(name, &[]).await > 0.0, "{name}");
    }
}

#[tokio::test]
async fn metrics_are_clean_to_promtool() {
    let node = Node::start().await;
    traffic(&node).await;
    let reply = node.get("/metrics").send().await.expect_status(200);
    assert!(
        reply
            .header("content-type")
            .starts_with("text/plain; version=0.0.4"),
        "{:?}",
        reply.headers
    );
    clean(&reply);
    assert!(
        !reply.text().contains("gateway_"),
        "OpenFaaS's names are off by default"
    );
    assert!(
        !reply.text().contains("nobody"),
        "unknown names make no series"
    );
}

#[tokio::test]
async fn metrics_count_calls_cold_starts_and_refusals() {
    let node = Node::start().await;
    traffic(&node).await;
    eventually("the calls are counted", async || {
        (node.metric("weir_invocations_total", &["\"hello\""]).await >= 2.0).then_some(())
    })
    .await;
    assert!(node.metric("weir_cold_starts_total", &["\"hello\""]).await >= 1.0);
    assert!(
        node.metric("weir_invocation_duration_seconds_count", &["\"hello\""])
            .await
            >= 1.0
    );
    assert!(node.metric("weir_build_info", &[]).await >= 1.0);
    let text = node.get("/metrics").send().await.text();
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().expect("a family has a name");
        assert!(
            text.contains(&format!("# HELP {name} ")),
            "{name} has no help"
        );
        assert!(
            name.starts_with("weir_") || name.starts_with("process_"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn metrics_of_a_removed_function_go_away() {
    let node = Node::start().await;
    traffic(&node).await;
    let body = serde_json::json!({ "functionName": "hello" });
    node.manage("DELETE", "/system/functions")
        .json(&body)
        .send()
        .await
        .expect_status(202);
    eventually("its series are gone", async || {
        (!node
            .get("/metrics")
            .send()
            .await
            .text()
            .contains("\"hello\""))
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn openmetrics_is_given_to_those_who_prefer_it_and_ends_as_it_must() {
    let node = Node::start().await;
    traffic(&node).await;
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, open) in [
        (prometheus, true),
        ("application/openmetrics-text", true),
        ("text/plain", false),
        ("*/*", false),
        (
            "text/plain;q=0.9, application/openmetrics-text;version=1.0.0;q=0.1",
            false,
        ),
        (
            "text/plain;q=0.1, application/openmetrics-text;version=1.0.0;q=0.9",
            true,
        ),
    ] {
        let reply = node
            .get("/metrics")
            .header("accept", accept)
            .send()
            .await
            .expect_status(200);
        let kind = reply.header("content-type").to_owned();
        assert_eq!(
            kind.starts_with("application/openmetrics-text; version=1.0.0"),
            open,
            "{accept} gave {kind}"
        );
        assert_eq!(reply.text().ends_with("# EOF\n"), open, "{accept}");
    }
    let reply = node
        .get("/metrics")
        .header("accept", "application/openmetrics-text")
        .send()
        .await
        .text();
    for line in reply.lines().filter(|line| line.starts_with("# TYPE ")) {
        let (name, kind) = line["# TYPE ".len()..]
            .split_once(' ')
            .expect("a name and a type");
        assert!(kind != "counter" || !name.ends_with("_total"), "{line}");
    }
}

#[tokio::test]
async fn openfaas_names_are_there_behind_their_switch() {
    let node = Setup::new()
        .config("[metrics]\nopenfaas-compat = true")
        .start()
        .await;
    traffic(&node).await;
    let names = [
        "gateway_function_invocation_total",
        "gateway_function_invocation_started",
        "gateway_functions_seconds_count",
        "gateway_service_count",
    ];
    eventually("all four names are there", async || {
        let text = node.get("/metrics").send().await.text();
        names
            .iter()
            .all(|name| text.contains(&format!("{name}{{")))
            .then_some(())
    })
    .await;
    let text = node.get("/metrics").send().await.text();
    assert!(
        text.contains("function_name=\"hello.openfaas-fn\""),
        "{text}"
    );
    let open = node
        .get("/metrics")
        .header("accept", "application/openmetrics-text")
        .send()
        .await
        .text();
    assert!(
        open.contains("# TYPE gateway_function_invocation_started unknown"),
        "{open}"
    );
}

#[tokio::test]
async fn metrics_can_be_for_the_owner_only() {
    let node = Setup::new()
        .config("[metrics]\npublic = false")
        .start()
        .await;
    node.get("/metrics").send().await.expect_status(401);
    node.manage("GET", "/metrics")
        .send()
        .await
        .expect_status(200);
}

#[tokio::test]
async fn logs_are_json_where_no_terminal_reads_them() {
    let node = Node::start().await;
    traffic(&node).await;
    let log = node.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "not JSON: {line}"
        );
    }
    let lines = log.lines().count();
    for _ in 0..50 {
        node.call("hello", "x").await.expect_status(200);
    }
    assert_eq!(
        node.log().lines().count(),
        lines,
        "a call is no event in a node's life:\n{}",
        node.log()
    );
}

#[tokio::test]
async fn status_tells_capacity_and_what_is_held() {
    let node = Setup::new()
        .config("[resources]\nmemory = \"512MiB\"\ncpu = 2")
        .start()
        .await;
    node.deploy(
        Function::new("hold", "echo")
            .memory("64Mi")
            .cpu("500m")
            .timeout("10m"),
    )
    .await;
    let idle = node.status().await;
    assert_eq!(idle["functions"], 1);
    let (request, feeder) = node.post("/function/hold").fed();
    let call = tokio::spawn(request.send());
    node.running(1).await;
    let busy = node.status().await;
    assert_ne!(idle["held"], busy["held"], "{busy}");
    drop(feeder);
    call.await.expect("it ends").expect_status(200);
    eventually("all is released", async || {
        (node.status().await["held"] == idle["held"]).then_some(())
    })
    .await;
}
