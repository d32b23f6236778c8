//! Versions of functions: ready once one instance was started, in place once
//! ready, and the last good one is kept.

use serde_json::{Value, json};
use weir_tests::engine::{self, docker, instances};
use weir_tests::federation::{Member, all_meet, member};
use weir_tests::node::{Function, Node, Setup, text};
use weir_tests::{eventually, within};

async fn node() -> Node {
    Setup::new().containers().start().await
}

/// An annotation of a function's status.
async fn told(node: &Node, name: &str, annotation: &str) -> Option<String> {
    let path = format!("/system/function/{name}");
    let status = node.manage("GET", &path).send().await.expect_status(200);
    let told = status.json()["annotations"][format!("weir.{annotation}")].clone();
    told.as_str().map(str::to_owned)
}

/// What a container's own function says that shows its environment.
async fn says(node: &Node, name: &str) -> String {
    let reply = node.get(&format!("/function/{name}/environment")).send();
    let seen = reply.await.expect_status(200).json();
    seen["SAYS"].as_str().unwrap_or_default().to_owned()
}

fn saying(name: &str, word: &str, more: Value) -> Function {
    let mut environment = json!({ "SAYS": word });
    for (key, value) in more.as_object().expect("an object") {
        environment[key] = value.clone();
    }
    Function::container(name).field("envVars", environment)
}

async fn replicas(node: &Node, name: &str) -> u64 {
    let path = format!("/system/function/{name}");
    let status = node.manage("GET", &path).send().await.expect_status(200);
    let replicas = status.json()["replicas"].as_f64();
    replicas.expect("a count") as u64
}

async fn scale(node: &Node, name: &str, replicas: u32) {
    node.manage("POST", &format!("/system/scale-function/{name}"))
        .json(&json!({ "serviceName": name, "replicas": replicas }))
        .send()
        .await
        .expect_status(202);
}

#[tokio::test]
async fn python_that_cannot_be_loaded_is_not_ready_and_says_why() {
    engine::python();
    let node = node().await;
    let good = "def handler(params):\n    return 'well'\n";
    let cases = [
        (
            "syntax",
            "def handler(params:\n",
            "main.handler",
            "SyntaxError",
        ),
        (
            "import",
            "import nonesuch\n",
            "main.handler",
            "No module named 'nonesuch'",
        ),
        ("absent", good, "main.nonesuch", "nonesuch"),
    ];
    for (name, code, handler, expected) in cases {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        std::fs::write(folder.path().join("main.py"), code).expect("a file can be written");
        let source = folder.path().display().to_string();
        let deploy = ["deploy", name, "--runtime", "python", "--handler", handler];
        let deploy = [&deploy[..], &["--src", &source]].concat();
        let output = within("the deployment ends", node.weir(&deploy)).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("failed: "), "{name}: {said}");
        assert!(said.contains(expected), "{name}: {said}");
        // Its lines are whole, from their beginning.
        if name == "import" {
            assert!(said.contains("Traceback (most recent call last)"), "{said}");
        }
        let reply = node.call(name, "").await.expect_error(503);
        assert!(reply.text().contains(expected), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_container_that_is_ready_has_an_instance_once() {
    let node = node().await;
    let id = node.id().await;
    node.deploy(Function::container("boxed")).await;
    assert_eq!(instances(&id, "boxed").len(), 1);
    let reply = node.call("boxed", "first").await.expect_status(200);
    assert_eq!(reply.header("x-weir-start"), "warm");
    // Once per version: not again after a restart.
    let node = node.crash().await;
    assert_eq!(node.settled("boxed").await, "ready");
    assert_eq!(instances(&id, "boxed").len(), 0);
    // Nor where nobody wants it.
    node.deploy(Function::container("plain").unchecked()).await;
    assert_eq!(instances(&id, "plain").len(), 0);
}

#[tokio::test]
async fn many_deployments_keep_no_more_containers_than_there_is_room_for() {
    let setup = Setup::new()
        .containers()
        .config("resources.memory = \"256MiB\"");
    let node = setup.start().await;
    let id = node.id().await;
    for number in 0..6 {
        let name = format!("boxed-{number}");
        node.deploy(Function::container(&name).memory("128Mi"))
            .await;
        let kept = (0..6).map(|n| instances(&id, &format!("boxed-{n}")).len());
        assert!(kept.sum::<usize>() <= 2);
    }
    for number in 0..6 {
        let name = format!("boxed-{number}");
        node.call(&name, "x").await.expect_status(200);
    }
}

#[tokio::test]
async fn a_version_that_fails_leaves_the_old_one_serving() {
    let node = node().await;
    node.deploy(saying("boxed", "one", json!({}))).await;
    assert_eq!(says(&node, "boxed").await, "one");
    let broken = [
        saying("boxed", "two", json!({ "MODE": "exit" })),
        Function::image("boxed", "weir-test/absent:1").setting("pull", "never"),
    ];
    for (number, function) in (2..).zip(broken) {
        node.create(&function).await.expect_status(202);
        let state = node.settled("boxed").await;
        assert!(state.starts_with("failed: "), "{state}");
        assert_eq!(
            told(&node, "boxed", "state").await.as_deref(),
            Some("ready")
        );
        assert_eq!(told(&node, "boxed", "version").await.as_deref(), Some("1"));
        let next = told(&node, "boxed", "next-version").await;
        assert_eq!(next, Some(number.to_string()));
        assert_eq!(says(&node, "boxed").await, "one");
    }
    // Both are shown, and who deploys is told.
    let described = node.weir(["describe", "boxed"]).await;
    let described = text(&described.stdout);
    for line in ["weir.next-state", "failed: ", "weir.version"] {
        assert!(described.contains(line), "{described}");
    }
    let deploy = [
        "deploy",
        "boxed",
        "--image",
        "weir-test/absent:1",
        "--pull",
        "never",
    ];
    let output = within("the deployment ends", node.weir(&deploy)).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("version 1 serves on"), "{said}");
    // It is the old one after a restart too, and a rollback gives the other up.
    let node = node.crash().await;
    assert_eq!(says(&node, "boxed").await, "one");
    assert!(told(&node, "boxed", "next-version").await.is_some());
    let output = node.weir(["rollback", "boxed"]).await;
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("version 1 serves on"), "{said}");
    assert_eq!(told(&node, "boxed", "next-version").await, None);
    assert_eq!(says(&node, "boxed").await, "one");
}

#[tokio::test]
async fn a_version_takes_the_place_of_the_old_one_when_it_is_ready() {
    let node = node().await;
    let id = node.id().await;
    node.deploy(saying("boxed", "one", json!({}))).await;
    assert_eq!(says(&node, "boxed").await, "one");
    // It needs a while, in which the old one answers.
    let late = saying("boxed", "two", json!({ "MODE": "late" }));
    node.create(&late).await.expect_status(202);
    let mut seen = Vec::new();
    within("the new one is in place", async {
        while seen.last().map(String::as_str) != Some("two") {
            seen.push(says(&node, "boxed").await);
        }
    })
    .await;
    assert_eq!(seen[0], "one");
    assert_eq!(node.settled("boxed").await, "ready");
    assert_eq!(told(&node, "boxed", "version").await.as_deref(), Some("2"));
    assert_eq!(
        told(&node, "boxed", "previous-version").await.as_deref(),
        Some("1")
    );
    // The instance that showed it is the one that serves.
    eventually("the old instance is gone", async || {
        (instances(&id, "boxed").len() == 1).then_some(())
    })
    .await;
    // Back, and back again.
    for (expected, version) in [("one", "3"), ("two", "4")] {
        let output = node.weir(["rollback", "boxed"]).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(says(&node, "boxed").await, expected);
        assert_eq!(
            told(&node, "boxed", "version").await.as_deref(),
            Some(version)
        );
    }
    // With nothing to return to it says so.
    node.deploy(Function::new("echo", "echo")).await;
    let output = node.weir(["rollback", "echo"]).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("has no earlier version"), "{said}");
}

#[tokio::test]
async fn the_federation_hears_of_a_version_when_it_is_in_place() {
    let first = Member::start(member().containers()).await;
    let second = first.invite(member()).await;
    all_meet(&[&first, &second]).await;
    first.node.deploy(saying("boxed", "one", json!({}))).await;
    second.sees_function(&first.id, "boxed").await;
    assert_eq!(says(&second.node, "boxed").await, "one");
    let known = async || {
        let listed = second.node.manage("GET", "/weir/v1/catalogue").send().await;
        let listed = listed.expect_status(200).json();
        let boxed = listed.as_array().expect("a list").iter();
        let boxed = boxed.clone().find(|function| function["name"] == "boxed");
        boxed.expect("it is known")["version"].as_u64()
    };
    let before = known().await;
    let broken = saying("boxed", "two", json!({ "MODE": "exit" }));
    first.node.create(&broken).await.expect_status(202);
    let state = first.node.settled("boxed").await;
    assert!(state.starts_with("failed: "), "{state}");
    assert_eq!(known().await, before, "nobody hears of what failed");
    assert_eq!(says(&second.node, "boxed").await, "one");
    let late = saying("boxed", "three", json!({ "MODE": "late" }));
    first.node.deploy(late).await;
    eventually("the other hears of the new one", async || {
        (known().await > before).then_some(())
    })
    .await;
    assert_eq!(says(&second.node, "boxed").await, "three");
    assert_eq!(says(&first.node, "boxed").await, "three");
}

#[tokio::test]
async fn an_update_of_webassembly_is_in_place_when_it_is_answered() {
    let node = Setup::new().start().await;
    node.deploy(Function::new("f", "echo")).await;
    let broken = Function::new("f", "hello");
    let reply = node.create(&broken).await.expect_status(202);
    assert_eq!(reply.header("x-weir-version"), "2");
    node.settled("f").await;
    assert_eq!(told(&node, "f", "version").await.as_deref(), Some("2"));
    node.call("f", "x").await.expect_status(200);
    let output = node.weir(["rollback", "f"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(node.call("f", "again").await.text(), "again");
    // The code of both is kept as long as one may return to it, and no longer.
    let node = node.crash().await;
    assert_eq!(node.call("f", "again").await.text(), "again");
    assert_eq!(
        told(&node, "f", "previous-version").await.as_deref(),
        Some("2")
    );
    let output = node.weir(["rollback", "f"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_ne!(node.call("f", "again").await.text(), "again");
}

#[tokio::test]
async fn kept_instances_come_back_whatever_ends_them() {
    let setup = Setup::new()
        .containers()
        .config("resources.memory = \"384MiB\"");
    let node = setup.start().await;
    let id = node.id().await;
    let kept = Function::container("kept").label("com.openfaas.scale.min", "1");
    node.deploy(kept.memory("128Mi").setting("keep-alive", "1s"))
        .await;
    let there = async |count: usize| {
        eventually("as many instances as are kept", async || {
            (instances(&id, "kept").len() == count).then_some(())
        })
        .await;
    };
    scale(&node, "kept", 2).await;
    there(2).await;
    // One dies.
    docker(&["kill", &instances(&id, "kept")[0]]);
    there(2).await;
    // Others have work, and take only what is left, as long as they can.
    node.deploy(Function::container("other").memory("128Mi"))
        .await;
    node.call("other", "x").await.expect_status(200);
    there(2).await;
    // One that needs more than is left takes it, and gives it back.
    let large = Function::container("large")
        .memory("256Mi")
        .setting("keep-alive", "1s");
    node.deploy(large).await;
    node.call("large", "x").await.expect_status(200);
    eventually("they are back", async || {
        (replicas(&node, "kept").await == 2).then_some(())
    })
    .await;
    there(2).await;
    // After a restart it is what was deployed.
    let node = node.crash().await;
    there(1).await;
    scale(&node, "kept", 0).await;
    there(0).await;
    node.call("kept", "x").await.expect_status(200);
}
