//! What a node keeps: across `kill -9`, restarts, full disks and other nodes
//! that reach for its data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use weir_tests::guests::Guest;
use weir_tests::node::{Function, Node, Setup, text};
use weir_tests::{eventually, within};

#[tokio::test]
async fn functions_namespaces_secrets_and_results_survive_a_crash() {
    let node = Node::start().await;
    node.manage("POST", "/system/namespace/tenant")
        .json(&json!({ "name": "tenant" }))
        .send()
        .await
        .expect_status(201);
    node.manage("POST", "/system/secrets")
        .json(&json!({ "name": "key", "value": "sesame" }))
        .send()
        .await
        .expect_status(201);
    node.deploy(
        Function::new("vault", "secrets")
            .field("secrets", json!(["key"]))
            .timeout("7s")
            .label("a", "b"),
    )
    .await;
    node.deploy(Function::new("hello", "echo").field("namespace", "tenant"))
        .await;
    node.deploy(Function::new("gone", "echo")).await;
    node.manage("DELETE", "/system/functions")
        .json(&json!({ "functionName": "gone" }))
        .send()
        .await
        .expect_status(202);
    let before = node
        .manage("GET", "/system/function/vault")
        .send()
        .await
        .json();
    let location = node.submit("hello.tenant", "kept").await;
    assert_eq!(node.result(&location).await.text(), "kept");
    let id = node
        .call("vault", "key")
        .await
        .header("x-weir-node")
        .to_owned();
    let token = node.token.clone();

    let node = node.crash().await;
    assert_eq!(node.token, token, "the token stays");
    let reply = node.call("vault", "key").await.expect_status(200);
    assert_eq!(
        (reply.text().as_str(), reply.header("x-weir-node")),
        ("sesame read-only\n", id.as_str())
    );
    let after = node
        .manage("GET", "/system/function/vault")
        .send()
        .await
        .json();
    for field in ["image", "labels", "secrets", "createdAt"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(after["annotations"]["weir.timeout"], "7s");
    assert_eq!(
        node.call("hello.tenant", "x")
            .await
            .expect_status(200)
            .text(),
        "x"
    );
    node.call("gone", "").await.expect_error(404);
    assert_eq!(node.result(&location).await.text(), "kept");
}

#[tokio::test]
async fn a_thousand_accepted_calls_survive_kill_9_and_none_is_lost() {
    const CALLS: usize = 1_000;
    const CLIENTS: usize = 32;
    let mut node = Setup::new().config("[async]\nparallel = 4").start().await;
    node.deploy(Function::new("hello", "echo")).await;

    // All but the last hundred are accepted before the node dies; the rest are
    // in flight then, and count only where their 202 came back.
    let (accepted, mut arrivals) = tokio::sync::mpsc::channel(CALLS);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (address, accepted) = (node.address, accepted.clone());
        clients.spawn(async move {
            for number in (client..CALLS).step_by(CLIENTS) {
                let body = format!("call {number}");
                let ask = weir_tests::client::Ask::new(address, "POST", "/async-function/hello")
                    .body(body.clone());
                let Ok(reply) = ask.try_send().await else {
                    return;
                };
                let location = reply.expect_status(202).header("location").to_owned();
                accepted
                    .send((location, body))
                    .await
                    .expect("the test receives");
            }
        });
    }
    drop(accepted);
    let mut kept = Vec::new();
    while kept.len() < CALLS - 100 {
        kept.push(
            within("calls are accepted", arrivals.recv())
                .await
                .expect("the clients run"),
        );
    }
    node.kill().await;
    while clients.join_next().await.is_some() {}
    while let Some(call) = arrivals.recv().await {
        kept.push(call);
    }
    let node = node.into_setup().start().await;
    while kept.len() < CALLS {
        let body = format!("more {}", kept.len());
        kept.push((node.submit("hello", body.clone()).await, body));
    }
    for (location, body) in &kept {
        let result = node.result(location).await;
        assert_eq!(
            (result.header("x-weir-call-status"), result.text()),
            ("200", body.clone())
        );
    }
}

#[tokio::test]
async fn a_call_that_ran_when_the_node_died_is_run_again() {
    let node = Node::start().await;
    node.deploy(Function::new("sleep", "sleep").timeout("10m"))
        .await;
    let location = node.submit("sleep", "1000").await;
    node.running(1).await;
    let node = node.crash().await;
    let result = node.result(&location).await;
    assert_eq!(
        (result.header("x-weir-call-status"), result.text().as_str()),
        ("200", "awake\n")
    );
}

#[tokio::test]
async fn a_thousand_functions_are_deployed_listed_called_and_there_after_a_crash() {
    const FUNCTIONS: usize = 1_000;
    let node = Node::start().await;
    let echo = Function::new("f0", "echo");
    node.deploy(echo.clone()).await;
    for number in 1..FUNCTIONS {
        let function = echo.clone().field("service", format!("f{number}"));
        node.manage("POST", "/system/functions")
            .json(&function.body)
            .send()
            .await
            .expect_status(202);
    }
    // Different code too: a module that answers its own number.
    for number in 0..20 {
        let source = format!(
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 16) "{number:04}")
            (func (export "_start") (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 4))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
        );
        let name = format!("own{number}");
        node.deploy(Function::of(&name, Guest::from_bytes(&name, source)))
            .await;
    }
    let count = async |node: &Node| {
        let list = node
            .manage("GET", "/system/functions")
            .send()
            .await
            .expect_status(200)
            .json();
        list.as_array().expect("a list").len()
    };
    assert_eq!(count(&node).await, FUNCTIONS + 20);
    let node = node.crash().await;
    assert_eq!(count(&node).await, FUNCTIONS + 20);
    for number in (0..FUNCTIONS).step_by(97) {
        assert_eq!(node.settled(&format!("f{number}")).await, "ready");
        assert_eq!(
            node.call(&format!("f{number}"), number.to_string())
                .await
                .expect_status(200)
                .text(),
            number.to_string()
        );
    }
    for number in 0..20 {
        assert_eq!(
            node.call(&format!("own{number}"), "")
                .await
                .expect_status(200)
                .text(),
            format!("{number:04}")
        );
    }
}

/// A small file system in memory, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, with a notice, where this process may not mount.
    fn mount(size: &str) -> Option<SmallDisk> {
        let place = tempfile::Builder::new()
            .prefix("weir-disk-")
            .tempdir()
            .expect("a temporary folder")
            .keep();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&place)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(place)),
            other => {
                println!("NOTICE: not run, a tmpfs cannot be mounted here: {other:?}");
                None
            }
        }
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let file = self.0.join("filler");
        let mut filler = fs::File::create(&file).expect("a file can be created");
        let piece = [0; 4096];
        while std::io::Write::write_all(&mut filler, &piece).is_ok() {}
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_to_the_caller_and_room_again_heals_the_node() {
    let Some(disk) = SmallDisk::mount("24m") else {
        return;
    };
    let node = Setup::new().data(disk.0.join("data")).start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let before = node.submit("hello", "before").await;
    assert_eq!(node.result(&before).await.text(), "before");

    let filler = disk.fill();
    let full = eventually("a call is refused for want of room", async || {
        let reply = node
            .post("/async-function/hello")
            .body(vec![b'x'; 256 * 1024])
            .send()
            .await;
        (reply.status != 202).then_some(reply)
    })
    .await;
    full.expect_error(507);
    let reply = node
        .manage("POST", "/system/secrets")
        .json(&json!({ "name": "big", "value": "v".repeat(200_000) }))
        .send()
        .await;
    assert!(
        reply.status == 507 || reply.status == 400,
        "{} {}",
        reply.status,
        reply.text()
    );
    let code = Guest::from_bytes("large", vec![1; 1 << 20]);
    let path = format!("/weir/v1/artifacts/{}", code.digest);
    node.manage("PUT", &path)
        .body(code.bytes.clone())
        .send()
        .await
        .expect_error(507);
    // What needs no disk goes on.
    assert_eq!(
        node.call("hello", "still").await.expect_status(200).text(),
        "still"
    );

    fs::remove_file(filler).expect("the filler can be removed");
    let location = eventually("calls are accepted again", async || {
        let reply = node
            .post("/async-function/hello")
            .body("after")
            .send()
            .await;
        (reply.status == 202).then(|| reply.header("location").to_owned())
    })
    .await;
    assert_eq!(node.result(&location).await.text(), "after");
    assert_eq!(node.result(&before).await.text(), "before");
    let node = node.crash().await;
    assert_eq!(node.result(&location).await.text(), "after");
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused_by_name() {
    let node = Node::start().await;
    let output = Setup::new().data(node.data()).refused().await;
    let told = text(&output.stderr) + &text(&output.stdout);
    assert!(told.contains(&node.data().display().to_string()), "{told}");
    node.get("/healthz").send().await.expect_status(200);
}

#[tokio::test]
async fn a_port_that_another_process_holds_is_refused_by_number() {
    let node = Node::start().await;
    let output = Setup::new().address(node.address).refused().await;
    let told = text(&output.stderr) + &text(&output.stdout);
    assert!(told.contains(&node.address.port().to_string()), "{told}");
    for _ in 0..20 {
        node.get("/healthz").send().await.expect_status(200);
    }
}

#[tokio::test]
async fn a_broken_database_is_a_message_and_not_a_panic() {
    let mut node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    node.kill().await;
    let data = node.data().to_owned();
    let largest = files(&data)
        .into_iter()
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "redb")
        })
        .max_by_key(|path| path.metadata().map(|metadata| metadata.len()).unwrap_or(0));
    let Some(database) = largest else {
        return println!("NOTICE: not run, no *.redb in the data folder");
    };
    let whole = fs::read(&database).expect("the database can be read");
    for broken in [&whole[..whole.len() / 3], b"not a database at all", &[]] {
        fs::write(&database, broken).expect("the database can be written");
        let output = within("it ends or serves", attempt(&data)).await;
        assert!(!output.contains("panicked"), "{output}");
    }
}

/// Starts a node on `data` and returns what it says until it ends, or nothing
/// once it serves.
async fn attempt(data: &Path) -> String {
    let address = weir_tests::node::free_address();
    let mut command = Setup::new().data(data).command(address);
    let child = command.spawn().expect("weir can be started");
    tokio::select! {
        output = child.wait_with_output() => {
            let output = output.expect("a child can be waited for");
            text(&output.stderr) + &text(&output.stdout)
        }
        () = eventually("it serves", async || {
            tokio::net::TcpStream::connect(address).await.ok().map(drop)
        }) => String::new(),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)
        .expect("a folder can be listed")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push(path)
        }
    }
    found
}

#[tokio::test]
async fn what_belongs_to_the_owner_is_readable_by_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::start().await;
    node.manage("POST", "/system/secrets")
        .json(&json!({ "name": "key", "value": "sesame" }))
        .send()
        .await
        .expect_status(201);
    node.deploy(Function::new("vault", "secrets").field("secrets", json!(["key"])))
        .await;
    node.call("vault", "key").await.expect_status(200);
    let top = fs::metadata(node.data())
        .expect("the data folder is there")
        .permissions()
        .mode()
        & 0o777;
    for path in files(node.data()) {
        let mode = path
            .metadata()
            .map(|metadata| metadata.permissions().mode() & 0o777)
            .unwrap_or(0);
        assert!(
            top & 0o077 == 0 || mode & 0o077 == 0,
            "{} has mode {mode:o} in a folder of mode {top:o}",
            path.display()
        );
    }
    let token = fs::metadata(node.data().join("token"))
        .expect("the token is there")
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(token & 0o077, 0, "{token:o}");
}

#[tokio::test]
async fn sigterm_lets_running_work_end_and_takes_no_new() {
    let mut node = Setup::new()
        .config("[shutdown]\ngrace = \"5m\"")
        .start()
        .await;
    node.deploy(Function::new("hold", "echo").timeout("10m"))
        .await;
    let (request, feeder) = node.post("/function/hold").fed();
    let running = tokio::spawn(request.send());
    feeder
        .send("finished ".into())
        .await
        .expect("the call runs");
    node.running(1).await;
    node.terminate();
    eventually("it takes no new work", async || {
        match node.post("/function/hold").try_send().await {
            Err(_) => Some(()),
            Ok(reply) => matches!(reply.status, 429 | 503).then_some(()),
        }
    })
    .await;
    feeder
        .send("properly".into())
        .await
        .expect("the running call still runs");
    drop(feeder);
    assert_eq!(
        running.await.expect("it ends").expect_status(200).text(),
        "finished properly"
    );
    assert!(node.ended().await.success(), "{}", node.log());
}

#[tokio::test]
async fn work_beyond_the_grace_period_is_ended() {
    let mut node = Setup::new()
        .config("[shutdown]\ngrace = \"200ms\"")
        .start()
        .await;
    node.deploy(Function::new("spin", "loop").timeout("10m"))
        .await;
    let running = tokio::spawn(node.post("/function/spin").try_send());
    node.running(1).await;
    node.terminate();
    let status = node.ended().await;
    assert!(status.code().is_some(), "it ended by itself: {status}");
    let _ = running.await.expect("the caller is told or cut");
}

#[tokio::test]
async fn a_drained_node_keeps_its_accepted_calls_for_the_next_start() {
    let mut node = Setup::new()
        .config("[async]\nparallel = 1\n[shutdown]\ngrace = \"200ms\"")
        .start()
        .await;
    node.deploy(Function::new("sleep", "sleep").timeout("10m"))
        .await;
    let mut locations = Vec::new();
    for _ in 0..3 {
        locations.push(node.submit("sleep", "300").await);
    }
    node.terminate();
    node.ended().await;
    let node = node.into_setup().start().await;
    for location in locations {
        assert_eq!(node.result(&location).await.text(), "awake\n");
    }
}
