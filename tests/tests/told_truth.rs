//! Commands say what is so: what was sent, what answered, what is wrong and what
//! to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use weir_tests::client::{raw, raw_status};
use weir_tests::eventually;
use weir_tests::guests::guest;
use weir_tests::node::{Function, Node, Setup, free_address, text, weir};
use weir_tests::tls::certificate;
use weir_tests::within;

/// Panics unless the command succeeded; returns its standard output.
#[track_caller]
fn done(output: &Output) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    text(&output.stdout)
}

/// Panics unless the command failed with this code; returns what it said.
#[track_caller]
fn failed(output: &Output, code: i32) -> String {
    let said = text(&output.stderr);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{said}{shown}");
    said
}

fn code(name: &str) -> String {
    let path = guest(name).path();
    path.to_str().expect("our paths are text").to_owned()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a file can be written");
    path
}

/// Runs a command to whose standard input these bytes are piped.
async fn piped(node: &Node, arguments: &[&str], bytes: &[u8]) -> Output {
    let mut command = weir(arguments);
    command
        .env("WEIR_NODE", node.url())
        .env("WEIR_TOKEN", &node.token)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("weir can be started");
    let mut input = child.stdin.take().expect("it is piped");
    let bytes = bytes.to_vec();
    let written = tokio::spawn(async move {
        // Who has heard enough reads no further.
        let _ = input.write_all(&bytes).await;
    });
    let output = within("the command ends", child.wait_with_output()).await;
    written.abort();
    output.expect("a child can be waited for")
}

/// The same with a file as its standard input.
async fn redirected(node: &Node, arguments: &[&str], path: &Path) -> Output {
    let mut command = weir(arguments);
    command
        .env("WEIR_NODE", node.url())
        .env("WEIR_TOKEN", &node.token)
        .stdin(fs::File::open(path).expect("it was written"));
    within("the command ends", command.output())
        .await
        .expect("weir can be started")
}

#[tokio::test]
async fn what_is_piped_in_is_the_body() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let folder = folder();
    let path = file(&folder, "body", b"from a file");
    assert_eq!(
        done(&piped(&node, &["invoke", "hello"], b"piped").await),
        "piped"
    );
    let told = redirected(&node, &["invoke", "hello"], &path).await;
    assert_eq!(done(&told), "from a file");
    assert_eq!(done(&piped(&node, &["invoke", "hello"], b"").await), "");
    // What is said beside it counts, and a method without a body has none.
    let said = piped(&node, &["invoke", "hello", "-d", "said"], b"piped").await;
    assert_eq!(done(&said), "said");
    let got = piped(&node, &["invoke", "hello", "-X", "GET"], b"piped").await;
    assert_eq!(done(&got), "");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_told_to_whoever_sends_it() {
    let node = Setup::new()
        .config("[http]\nbody-bytes = \"1MiB\"")
        .start()
        .await;
    node.deploy(Function::new("hello", "echo")).await;
    node.deploy(Function::new("deaf", "hello")).await;
    let folder = folder();
    // More than a node reads on for courtesy.
    let bytes = vec![b'x'; 80 << 20];
    let path = file(&folder, "body", &bytes);
    let at = format!("@{}", path.display());
    for (name, ways) in [("hello", 3), ("deaf", 2)] {
        let outputs = [
            node.weir(["invoke", name, "-d", &at]).await,
            redirected(&node, &["invoke", name], &path).await,
            piped(&node, &["invoke", name], &bytes).await,
        ];
        for output in &outputs[..ways] {
            let told = failed(output, 1);
            assert!(
                told.contains("413") && told.contains("http.body-bytes"),
                "{told}"
            );
        }
    }
}

#[tokio::test]
async fn a_node_alone_explains_that_and_still_prints_the_answer() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let output = node.weir(["invoke", "hello", "-d", "x", "--explain"]).await;
    assert_eq!(done(&output), "x");
    assert!(text(&output.stderr).contains("in no federation"));
}

#[tokio::test]
async fn every_command_prints_one_document_for_programs() {
    let node = Node::start().await;
    let (echo, folder) = (code("echo"), folder());
    let value = file(&folder, "value", b"hush");
    let value = value.to_str().expect("text");
    let document = async |arguments: &[&str]| -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        let shown = done(&node.weir(&arguments).await);
        serde_json::from_str(&shown)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {shown}"))
    };
    document(&["secret", "create", "key", "--from-file", value]).await;
    assert_eq!(document(&["secret", "list"]).await[0]["name"], "key");
    document(&["secret", "update", "key", "--from-literal", "other"]).await;
    document(&["deploy", "hello", "--wasm", &echo]).await;
    document(&["samples", "list"]).await;
    document(&["samples", "deploy", "hash"]).await;
    for plain in [
        &["list"][..],
        &["status"],
        &["health"],
        &["config"],
        &["describe", "hello"],
    ] {
        document(plain).await;
    }
    let answer = document(&["invoke", "hello", "-d", "text"]).await;
    assert_eq!(
        (&answer["status"], &answer["body"]),
        (&json!(200), &json!("text"))
    );
    let accepted = document(&["invoke", "hello", "-d", "later", "--async"]).await;
    let id = accepted["call"].as_str().expect("an id");
    assert_eq!(document(&["result", id, "--wait"]).await["body"], "later");
    assert_eq!(document(&["scale", "hello", "1"]).await["replicas"], 1);
    assert_eq!(document(&["logs", "hello"]).await, json!([]));
    assert_eq!(
        document(&["remove", "hello", "hash"]).await["removed"],
        json!(["hello", "hash"])
    );
    assert_eq!(
        document(&["secret", "remove", "key"]).await["removed"],
        json!(["key"])
    );
}

#[tokio::test]
async fn the_demo_is_one_document_for_programs() {
    let output = within("the demo ends", weir(["demo", "--output", "json"]).output()).await;
    let shown = done(&output.expect("weir can be started"));
    let told: Value = serde_json::from_str(&shown).expect("one document");
    assert_eq!(told["federation"]["errors"], 0, "{told}");
    assert!(
        told["steps"]
            .as_array()
            .is_some_and(|steps| steps.len() > 10)
    );
}

#[tokio::test]
async fn the_answer_of_an_accepted_call_is_asked_for_by_its_id() {
    let node = Node::start().await;
    node.deploy(Function::new("slow", "sleep")).await;
    node.deploy(Function::new("exit", "exit")).await;
    let id = done(&node.weir(["invoke", "slow", "-d", "1500", "--async"]).await);
    let told = failed(&node.weir(["result", id.trim()]).await, 1);
    assert!(told.contains("--wait"), "{told}");
    done(&node.weir(["result", id.trim(), "--wait"]).await);
    let id = done(&node.weir(["invoke", "exit", "-d", "3", "--async"]).await);
    let told = failed(&node.weir(["result", id.trim(), "--wait"]).await, 1);
    assert!(told.contains("502"), "{told}");
    failed(&node.weir(["result", "nonsense"]).await, 1);
}

#[tokio::test]
async fn secrets_are_kept_changed_and_gone_for_the_next_call() {
    let node = Node::start().await;
    let secrets = code("secrets");
    let deploy = ["deploy", "vault", "--wasm", &secrets, "--secret", "key"];
    let told = failed(&node.weir(deploy).await, 1);
    assert!(told.contains("weir secret create key"), "{told}");
    done(&piped(&node, &["secret", "create", "key"], b"first").await);
    assert!(done(&node.weir(["secret", "list"]).await).contains("key"));
    done(&node.weir(deploy).await);
    let read = async || done(&node.weir(["invoke", "vault", "-d", "key"]).await);
    assert_eq!(read().await, "first read-only\n");
    let folder = folder();
    let path = file(&folder, "value", b"second\n");
    let update = ["secret", "update", "key", "--trim", "--from-file"];
    let update = [&update[..], &[path.to_str().expect("text")]].concat();
    done(&node.weir(&update).await);
    assert_eq!(read().await, "second read-only\n");
    done(&node.weir(["secret", "remove", "key"]).await);
    let told = failed(&node.weir(["invoke", "vault", "-d", "key"]).await, 1);
    assert!(told.contains("key") && !told.contains("second"), "{told}");
    failed(&node.weir(["secret", "remove", "key"]).await, 1);
    failed(&piped(&node, &["secret", "create", "empty"], b"").await, 1);
}

#[tokio::test]
async fn more_instances_than_fit_are_refused_with_the_bound() {
    let node = Setup::new()
        .variable("WEIR_RESOURCES_MEMORY", "1GiB")
        .start()
        .await;
    node.deploy(Function::new("hello", "echo").memory("64Mi"))
        .await;
    node.deploy(Function::new("few", "echo").label("com.openfaas.scale.max", "2"))
        .await;
    let told = failed(&node.weir(["scale", "hello", "99999"]).await, 1);
    assert!(
        told.contains("16 at most") && told.contains("resources.memory"),
        "{told}"
    );
    let told = failed(&node.weir(["scale", "few", "3"]).await, 1);
    assert!(
        told.contains("2 at most") && told.contains("--max"),
        "{told}"
    );
    done(&node.weir(["scale", "few", "2"]).await);
}

#[tokio::test]
async fn limits_and_labels_that_nothing_meets_are_told_at_deployment() {
    let node = Setup::new()
        .variable("WEIR_FEDERATION_LABELS", "disk=ssd")
        .start()
        .await;
    let echo = code("echo");
    for memory in ["64", "1KiB"] {
        let deploy = ["deploy", "small", "--wasm", &echo, "--memory", memory];
        let told = failed(&node.weir(deploy).await, 1);
        assert!(told.contains("64KiB") && told.contains("64MiB"), "{told}");
    }
    let deploy = async |name: &str, constraint: &str| {
        let deploy = ["deploy", name, "--wasm", &echo, "--constraint", constraint];
        let output = node.weir(deploy).await;
        done(&output);
        text(&output.stderr)
    };
    assert!(!deploy("here", "disk=ssd").await.contains("warning"));
    assert_eq!(done(&node.weir(["invoke", "here", "-d", "x"]).await), "x");
    let told = deploy("nowhere", "disk=tape").await;
    assert!(
        told.contains("warning") && told.contains("disk=tape"),
        "{told}"
    );
    for path in ["/function/nowhere", "/async-function/nowhere"] {
        let reply = node.post(path).body("x").send().await.expect_error(503);
        assert_eq!(reply.header("x-weir-error"), "cannot-run");
        assert!(reply.text().contains("disk=tape"), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_late_call_is_told_whose_time_passed() {
    let node = Node::start().await;
    node.deploy(Function::new("loop", "loop").timeout("300ms"))
        .await;
    let reply = node.post("/function/loop").send().await.expect_error(504);
    let told = reply.text();
    assert!(told.contains("the function's timeout of 300ms"), "{told}");
    let reply = node.post("/function/loop").header("x-weir-deadline", "150");
    let told = reply.send().await.expect_error(504).text();
    assert!(told.contains("the caller's deadline of 150 "), "{told}");
    let reply = node.post("/function/loop").header("x-weir-deadline", "9s");
    let told = reply.send().await.expect_error(504).text();
    assert!(told.contains("the function's timeout of 300ms"), "{told}");
    let class = "[[qos]]\nname = \"default\"\ndeadline = \"200ms\"";
    let node = Setup::new().config(class).start().await;
    node.deploy(Function::new("loop", "loop")).await;
    let reply = node.post("/function/loop").send().await.expect_error(504);
    let told = reply.text();
    assert!(
        told.contains("the deadline of 200ms that its class has"),
        "{told}"
    );
}

#[tokio::test]
async fn addresses_are_understood_as_people_write_them() {
    let node = Node::start().await;
    let port = node.address.port();
    for spelled in [
        format!("{port}"),
        format!(":{port}"),
        format!("localhost:{port}"),
    ] {
        let output = weir(["health", "--node", &spelled]).output().await;
        done(&output.expect("weir can be started"));
    }
    let output = weir(["health", "--node", "nowhere"]).output().await;
    let told = failed(&output.expect("weir can be started"), 2);
    assert!(told.contains("http://127.0.0.1:8080"), "{told}");
    let config = async |arguments: &[&str]| {
        let arguments = [&["config", "--output", "json"], arguments].concat();
        let output = weir(arguments).output().await;
        output.expect("weir can be started")
    };
    let shown = config(&[
        "--http",
        "8090",
        "--listen",
        "0.0.0.0:4001",
        "--peer-listen",
        ":4002",
    ]);
    let shown = done(&shown.await);
    for value in ["127.0.0.1:8090", "/ip4/0.0.0.0/tcp/4001", "0.0.0.0:4002"] {
        assert!(shown.contains(value), "{value} is not in {shown}");
    }
    let told = failed(&config(&["--listen", "here"]).await, 2);
    assert!(told.contains("/ip4/192.0.2.1/tcp/4001"), "{told}");
}

#[tokio::test]
async fn a_command_finds_the_token_of_a_node_wherever_its_data_is() {
    let runtime = folder();
    let runtime = runtime.path().to_str().expect("text").to_owned();
    let mut node = Setup::new()
        .variable("XDG_RUNTIME_DIR", &runtime)
        .start()
        .await;
    let list = async |runtime: &str| {
        let mut command = weir(["list"]);
        command
            .env("WEIR_NODE", node.url())
            .env("XDG_RUNTIME_DIR", runtime);
        command.output().await.expect("weir can be started")
    };
    done(&list(&runtime).await);
    let told = failed(&list("/nonexistent").await, 1);
    assert!(told.contains("--token-file"), "{told}");
    node.terminate();
    assert!(node.ended().await.success());
    let left = fs::read_dir(Path::new(&runtime).join("weir")).expect("it was made");
    assert_eq!(left.count(), 0, "a node that ended leaves no note");
}

#[tokio::test]
async fn at_a_terminal_a_node_says_what_there_is() {
    let address = free_address();
    let data = folder();
    let config = file(&data, "weir.toml", b"");
    let line = format!(
        "exec {} run --config {} --data-dir {} --http {address} --set docker.socket=/nonexistent",
        weir_tests::node::program().display(),
        config.display(),
        data.path().display(),
    );
    let shown = data.path().join("typescript");
    let mut command = tokio::process::Command::new("script");
    command
        .args(["--quiet", "--flush", "--return", "--command", &line])
        .arg(&shown)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("XDG_RUNTIME_DIR", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("script is installed");
    let wanted = [
        format!("http://{address}"),
        data.path().join("token").display().to_string(),
        "none at /nonexistent".to_owned(),
        "weir samples deploy".to_owned(),
    ];
    eventually("it says so", async || {
        let shown = fs::read_to_string(&shown).unwrap_or_default();
        wanted.iter().all(|text| shown.contains(text)).then_some(())
    })
    .await;
    child.start_kill().expect("our own child can be killed");
    child.wait().await.expect("a child can be waited for");
}

#[tokio::test]
async fn a_level_that_is_none_is_an_error_and_one_module_does_not_silence_the_rest() {
    for wrong in ["verbose", "info,weir_node=loud"] {
        let setup = Setup::new().variable("WEIR_LOG_LEVEL", wrong);
        let told = text(&setup.refused().await.stderr);
        assert!(
            told.contains("log.level") && told.contains("debug or trace"),
            "{told}"
        );
    }
    let setup = Setup::new().variable("WEIR_LOG_LEVEL", "weir_node=debug");
    let node = setup.start().await;
    eventually("what other modules say is logged", async || {
        node.log().contains("listening").then_some(())
    })
    .await;
}

fn hang_up(node: &Node) {
    let process = node.process().expect("the node runs");
    let process = rustix::process::Pid::from_raw(process.cast_signed());
    let process = process.expect("a process id is positive");
    rustix::process::kill_process(process, rustix::process::Signal::HUP)
        .expect("our own child can be signalled");
}

#[tokio::test]
async fn a_hangup_reads_token_and_level_again_and_ends_nothing() {
    let data = folder();
    let setup = Setup::new()
        .data(data.path().join("data"))
        .config("[log]\nlevel = \"warn\"");
    let node = setup.start().await;
    node.deploy(Function::new("slow", "sleep")).await;
    let slow = tokio::spawn(node.post("/function/slow").body("1500").send());
    node.running(1).await;
    let token = "another-token-0123456789";
    fs::write(node.data().join("token"), token).expect("it can be written");
    let config = node.data().with_extension("toml");
    fs::write(config, "[log]\nlevel = \"debug\"\n").expect("it can be written");
    hang_up(&node);
    eventually("the new token is the node's", async || {
        let asked = node.get("/weir/v1/status").bearer(token).send().await;
        (asked.status == 200).then_some(())
    })
    .await;
    let old = node.manage("GET", "/weir/v1/status").send().await;
    old.expect_error(401);
    let reply = slow.await.expect("a call does not panic");
    assert_eq!(reply.status, 200, "{}", reply.text());
    node.call("slow", "1").await.expect_status(200);
    eventually("it logs each call", async || {
        node.log().contains("invocation").then_some(())
    })
    .await;
    // What is wrong changes nothing.
    let config = node.data().with_extension("toml");
    fs::write(config, "[log]\nlevel = \"loud\"\n").expect("it can be written");
    hang_up(&node);
    eventually("it says what is wrong", async || {
        node.log().contains("left as it was").then_some(())
    })
    .await;
    let asked = node.get("/weir/v1/status").bearer(token).send().await;
    asked.expect_status(200);
}

#[tokio::test]
async fn a_certificate_that_is_its_own_authority_works_and_errors_name_the_remedy() {
    let folder = folder();
    let (first, key) = certificate(folder.path(), "first");
    let (other, other_key) = certificate(folder.path(), "other");
    let toml = format!(
        "[http]\ntls-certificate = \"{}\"\ntls-key = \"{}\"",
        first.display(),
        key.display()
    );
    let data = folder.path().join("data");
    let address = free_address();
    let setup = Setup::new().config(&toml).data(&data);
    let mut child = setup.command(address).spawn().expect("weir can be started");
    let at = |scheme: &str, host: &str| format!("{scheme}://{host}:{}", address.port());
    let ask = async |node: &str, arguments: &[&str]| {
        let mut command = weir(arguments);
        command.args(["--node", node]);
        let token = fs::read_to_string(data.join("token")).unwrap_or_default();
        command.env("WEIR_TOKEN", token.trim());
        command.output().await.expect("weir can be started")
    };
    let ca = first.to_str().expect("text");
    let secure = at("https", "localhost");
    eventually("it serves over TLS", async || {
        let output = ask(&secure, &["list", "--ca", ca]).await;
        output.status.success().then_some(())
    })
    .await;
    let cgi = code("variables");
    done(&ask(&secure, &["deploy", "seen", "--wasm", &cgi, "--ca", ca]).await);
    let seen = done(&ask(&secure, &["invoke", "seen", "--ca", ca]).await);
    assert!(seen.contains("HTTP_X_FORWARDED_PROTO=https"), "{seen}");
    let remedy = async |node: &str, arguments: &[&str], words: &str| {
        let told = failed(&ask(node, arguments).await, 1);
        assert!(told.contains(words), "{words}: {told}");
        for structure in [
            "InvalidCertificate",
            "InvalidMessage",
            "hyper",
            "os error",
            "Other(",
        ] {
            assert!(!told.contains(structure), "{told}");
        }
    };
    remedy(&secure, &["list"], "--ca").await;
    let wrong = other.to_str().expect("text");
    remedy(&secure, &["list", "--ca", wrong], "--ca").await;
    remedy(&at("http", "localhost"), &["list"], "https://").await;
    remedy("http://weir-test.invalid:1", &["list"], "does not resolve").await;
    let plain = Node::start().await;
    remedy(&format!("https://{}", plain.address), &["list"], "http://").await;
    // Renewed without an end.
    fs::copy(&other, &first).expect("a file can be copied");
    fs::copy(&other_key, &key).expect("a file can be copied");
    let process = child.id().expect("it runs").cast_signed();
    let process = rustix::process::Pid::from_raw(process).expect("positive");
    rustix::process::kill_process(process, rustix::process::Signal::HUP).expect("our own child");
    eventually("it shows the new certificate", async || {
        let output = ask(&secure, &["list", "--ca", wrong]).await;
        output.status.success().then_some(())
    })
    .await;
    child.start_kill().expect("our own child can be killed");
    child.wait().await.expect("a child can be waited for");
}

#[tokio::test]
async fn what_the_parser_refuses_is_refused_with_words() {
    let node = Node::start().await;
    let long = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(80 << 10)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "x: y\r\n".repeat(120)
    );
    for (request, status, word, words) in [
        (long, 431, "header-too-large", "http.header-bytes"),
        (many, 431, "header-too-large", "http.header-count"),
        (
            "GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned(),
            400,
            "bad-request",
            "no HTTP request",
        ),
    ] {
        let answer = raw(node.address, request.as_bytes()).await;
        assert_eq!(raw_status(&answer), status, "{answer}");
        assert!(
            answer.contains(&format!("x-weir-error: {word}\r\n")),
            "{answer}"
        );
        assert!(answer.contains(words), "{answer}");
    }
    // One that is read says how it came.
    node.deploy(Function::new("seen", "variables")).await;
    let seen = node.call("seen", "").await.text();
    assert!(seen.contains("HTTP_X_FORWARDED_PROTO=http\n"), "{seen}");
}

#[tokio::test]
async fn what_needs_somebody_is_at_the_top_of_the_status_and_once_in_the_log() {
    let setup = Setup::new().variable("WEIR_DOCKER_SOCKET", "/nonexistent/docker.sock");
    let node = setup.start().await;
    let shown = done(&node.weir(["status"]).await);
    assert!(!shown.contains("PROBLEM"), "{shown}");
    let deploy = [
        "deploy",
        "web",
        "--image",
        "registry.example/web:1",
        "--no-wait",
    ];
    done(&node.weir(deploy).await);
    let shown = done(&node.weir(["status"]).await);
    let first = shown.lines().nth(1).unwrap_or_default();
    assert!(
        first.contains("PROBLEM") && first.contains("container engine"),
        "{shown}"
    );
    eventually("it is logged", async || {
        node.log()
            .contains("this node needs somebody")
            .then_some(())
    })
    .await;
}
