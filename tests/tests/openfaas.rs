//! The management API as OpenFaaS clients use it, quirks included.

use base64::Engine as _;
use serde_json::json;
use weir_tests::client::{Reply, read_until};
use weir_tests::eventually;
use weir_tests::guests::guest;
use weir_tests::node::{Function, Node};

async fn functions(node: &Node) -> Vec<String> {
    let list = node
        .manage("GET", "/system/functions")
        .send()
        .await
        .expect_status(200)
        .json();
    let mut names: Vec<String> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|status| status["name"].as_str().expect("a name").to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_fresh_node_lists_no_functions() {
    let node = Node::start().await;
    assert_eq!(functions(&node).await, [""; 0]);
}

#[tokio::test]
async fn put_of_an_unknown_function_is_404_and_creates_nothing() {
    let node = Node::start().await;
    let echo = Function::new("hello", "echo");
    node.upload(&guest("echo")).await;
    node.manage("PUT", "/system/functions")
        .json(&echo.body)
        .send()
        .await
        .expect_error(404);
    assert_eq!(functions(&node).await, [""; 0]);

    // What a client does next.
    node.create(&echo).await.expect_status(202);
    assert_eq!(node.settled("hello").await, "ready");
    let again = node
        .manage("PUT", "/system/functions")
        .json(&echo.body)
        .send()
        .await;
    assert!(matches!(again.status, 200 | 202), "{}", again.status);
}

#[tokio::test]
async fn a_status_tells_the_deployment_and_the_counts() {
    let node = Node::start().await;
    let mut function = Function::new("hello", "echo")
        .label("team", "edge")
        .setting("timeout", "3s")
        .memory("32Mi")
        .cpu("500m");
    function.body["envVars"] = json!({ "GREETING": "good day" });
    function.body["annotations"]["note"] = json!("mine");
    node.deploy(function.clone()).await;
    node.call("hello", "one").await.expect_status(200);
    node.call("hello", "two").await.expect_status(200);

    let status = eventually("both calls are counted", async || {
        let status = node
            .manage("GET", "/system/function/hello?usage=1")
            .send()
            .await
            .expect_status(200)
            .json();
        (status["invocationCount"] == json!(2) || status["invocationCount"] == json!(2.0))
            .then_some(status)
    })
    .await;
    assert_eq!(status["name"], "hello");
    assert_eq!(status["namespace"], "openfaas-fn");
    assert_eq!(status["image"], function.body["image"]);
    assert_eq!(status["envVars"]["GREETING"], "good day");
    assert_eq!(status["labels"]["team"], "edge");
    assert_eq!(status["annotations"]["note"], "mine");
    assert_eq!(status["annotations"]["weir.timeout"], "3s");
    assert_eq!(status["annotations"]["weir.state"], "ready");
    assert_eq!(status["replicas"], 1);
    assert_eq!(status["availableReplicas"], 1);
    assert!(status["usage"]["totalMemoryBytes"].is_number(), "{status}");
    assert!(
        status["createdAt"]
            .as_str()
            .is_some_and(|time| time.contains('T')),
        "{status}"
    );
}

#[tokio::test]
async fn requests_of_the_go_sdk_and_faas_cli_are_understood() {
    let node = Node::start().await;
    let echo = guest("echo");
    node.upload(&echo).await;
    let image = format!("sha256:{}", echo.digest);
    // As its structs are written: a field that must be there is there empty.
    let deployment = |namespace: &str| {
        json!({ "service": "sdk", "image": image, "namespace": namespace, "envProcess": "cat",
            "envVars": { "A": "b" }, "constraints": [], "secrets": ["key"],
            "labels": { "l": "1" }, "annotations": { "a": "1" },
            "limits": { "memory": "128m", "cpu": "100m" }, "requests": null,
            "readOnlyRootFilesystem": true })
    };
    let namespace = json!({ "name": "staging", "annotations": { "openfaas": "1" },
        "labels": { "openfaas": "1" } });
    let secret = |value: &str| json!({ "name": "key", "namespace": "staging", "value": value });
    let nothing = json!(null);
    let done = &[200, 201, 202][..];
    // What the SDK calls it, its method, path and body, and what it takes for
    // success, in the order in which one would come to them.
    let table = [
        (
            "login",
            "GET",
            "/system/functions",
            nothing.clone(),
            &[200][..],
        ),
        ("GetInfo", "GET", "/system/info", nothing.clone(), &[200]),
        (
            "CreateNamespace",
            "POST",
            "/system/namespace/",
            namespace.clone(),
            done,
        ),
        (
            "GetNamespaces",
            "GET",
            "/system/namespaces",
            nothing.clone(),
            &[200],
        ),
        (
            "GetNamespace",
            "GET",
            "/system/namespace/staging",
            nothing.clone(),
            &[200],
        ),
        (
            "UpdateNamespace",
            "PUT",
            "/system/namespace/staging",
            namespace.clone(),
            done,
        ),
        (
            "CreateSecret",
            "POST",
            "/system/secrets",
            secret("one"),
            done,
        ),
        (
            "GetSecrets",
            "GET",
            "/system/secrets?namespace=staging",
            nothing.clone(),
            &[200],
        ),
        (
            "UpdateSecret",
            "PUT",
            "/system/secrets",
            secret("two"),
            done,
        ),
        (
            "Update",
            "PUT",
            "/system/functions",
            deployment("staging"),
            &[404],
        ),
        (
            "Deploy",
            "POST",
            "/system/functions",
            deployment("staging"),
            done,
        ),
        (
            "Update",
            "PUT",
            "/system/functions",
            deployment("staging"),
            done,
        ),
        (
            "GetFunctions",
            "GET",
            "/system/functions?namespace=staging",
            nothing.clone(),
            &[200],
        ),
        (
            "GetFunction",
            "GET",
            "/system/function/sdk?namespace=staging&usage=1",
            nothing.clone(),
            &[200],
        ),
        (
            "GetFunction",
            "GET",
            "/system/function/sdk?namespace=staging",
            nothing.clone(),
            &[200],
        ),
        (
            "InvokeFunction",
            "POST",
            "/function/sdk.staging",
            nothing.clone(),
            &[200],
        ),
        (
            "InvokeFunction",
            "POST",
            "/async-function/sdk.staging",
            nothing.clone(),
            &[202],
        ),
        (
            "ScaleFunction",
            "POST",
            "/system/scale-function/sdk",
            json!({ "serviceName": "sdk", "replicas": 1, "namespace": "staging" }),
            done,
        ),
        (
            "GetLogs",
            "GET",
            "/system/logs?follow=0&name=sdk&namespace=staging&tail=5",
            nothing.clone(),
            &[200],
        ),
        (
            "GetLogs",
            "GET",
            "/system/logs?follow=0&name=sdk&namespace=staging&since=2024-01-01T00%3A00%3A00%2B01%3A00",
            nothing.clone(),
            &[200],
        ),
        (
            "DeleteFunction",
            "DELETE",
            "/system/functions",
            json!({ "functionName": "sdk", "namespace": "staging" }),
            done,
        ),
        (
            "GetFunction",
            "GET",
            "/system/function/sdk?namespace=staging",
            nothing.clone(),
            &[404],
        ),
        (
            "DeleteSecret",
            "DELETE",
            "/system/secrets",
            json!({ "name": "key", "namespace": "staging" }),
            done,
        ),
        (
            "DeleteNamespace",
            "DELETE",
            "/system/namespace/staging",
            json!({ "name": "staging", "labels": { "openfaas": "1" } }),
            done,
        ),
        (
            "GetNamespace",
            "GET",
            "/system/namespace/staging",
            nothing.clone(),
            &[404],
        ),
        ("healthz", "GET", "/healthz", nothing.clone(), &[200]),
    ];
    // `faas-cli login --password TOKEN`, which names no user.
    let pair = format!("admin:{}", node.token);
    let pair = base64::engine::general_purpose::STANDARD.encode(pair);
    for (name, method, path, body, expected) in table {
        let answer = eventually(name, async || {
            let mut ask = node
                .ask(method, path)
                .header("authorization", &format!("Basic {pair}"))
                .header("user-agent", "openfaas-go-sdk");
            if !body.is_null() {
                ask = ask.json(&body);
            }
            let reply = ask.send().await;
            // What was removed may be in use for a moment.
            (method != "DELETE" || reply.status != 409).then_some(reply)
        })
        .await;
        let told = (answer.status, answer.text());
        assert!(
            expected.contains(&told.0),
            "{name} {method} {path}: {told:?}"
        );
        if name == "GetFunction" && told.0 == 200 {
            let status = answer.json();
            // What `faas-cli ready` waits for, though nobody called it yet.
            assert_eq!(status["annotations"]["weir.state"], "ready", "{status}");
            assert_eq!(status["availableReplicas"], 1, "{status}");
            assert_eq!(status["limits"]["memory"], "128m", "{status}");
        }
        if name == "Deploy" || name == "Update" && told.0 != 404 {
            assert_eq!(node.settled("sdk.staging").await, "ready");
        }
    }
}

#[tokio::test]
async fn a_namespace_is_named_in_the_path_or_the_body_and_not_differently() {
    let node = Node::start().await;
    let ask = |method: &str, path: &str, name: &str| {
        let body = json!({ "name": name });
        node.manage(method, path).json(&body).send()
    };
    ask("POST", "/system/namespace/", "one")
        .await
        .expect_status(201);
    ask("POST", "/system/namespace", "two")
        .await
        .expect_status(201);
    ask("PUT", "/system/namespace/", "one")
        .await
        .expect_status(202);
    ask("DELETE", "/system/namespace/", "two")
        .await
        .expect_status(202);
    for (path, name) in [
        ("/system/namespace/", ""),
        ("/system/namespace/one", "other"),
        ("/system/namespace/", "Not A Name"),
    ] {
        ask("POST", path, name).await.expect_error(400);
    }
    ask("PATCH", "/system/namespace/", "one")
        .await
        .expect_error(405);
    let list = node.manage("GET", "/system/namespaces").send().await;
    assert_eq!(list.json(), json!(["one", "openfaas-fn"]));
}

#[tokio::test]
async fn timeouts_of_a_watchdog_bound_the_call() {
    let node = Node::start().await;
    let deploy = async |env: serde_json::Value, timeout: Option<&str>| {
        let mut function = Function::new("slow", "sleep").field("envVars", env);
        if let Some(timeout) = timeout {
            function = function.timeout(timeout);
        }
        node.deploy(function).await;
        let path = "/system/function/slow";
        let status = node.manage("GET", path).send().await.expect_status(200);
        status.json()["annotations"]["weir.timeout"].clone()
    };
    let shown = deploy(json!({ "exec_timeout": "200ms" }), None).await;
    assert_eq!(shown, "200ms");
    node.call("slow", "5000").await.expect_error(504);
    node.call("slow", "10").await.expect_status(200);
    // Neighbours: another timeout of the watchdog, and ours, which comes first.
    let shown = deploy(
        json!({ "write_timeout": "1m5s", "read_timeout": "3" }),
        None,
    )
    .await;
    assert_eq!(shown, "1m5s");
    let shown = deploy(json!({ "exec_timeout": "100ms" }), Some("20s")).await;
    assert_eq!(shown, "20s");
    node.call("slow", "300").await.expect_status(200);
    // Longer than calls may take when nobody says how long.
    assert_eq!(deploy(json!({ "exec_timeout": "60s" }), None).await, "1m");
    let wrong =
        Function::new("slow", "sleep").field("envVars", json!({ "exec_timeout": "a minute" }));
    let told = node.create(&wrong).await.expect_error(400).text();
    assert!(told.contains("exec_timeout"), "{told}");
}

#[tokio::test]
async fn names_reach_a_function_with_and_without_the_default_namespace() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    for name in [
        "hello",
        "hello.openfaas-fn",
        "hello/",
        "hello.openfaas-fn/deep/path?query=1",
    ] {
        assert_eq!(
            node.call(name, "body").await.expect_status(200).text(),
            "body",
            "{name}"
        );
    }
    for path in [
        "/system/function/hello?namespace=openfaas-fn",
        "/system/functions?namespace=openfaas-fn",
    ] {
        node.manage("GET", path).send().await.expect_status(200);
    }
}

#[tokio::test]
async fn null_labels_unknown_fields_and_registry_secrets_are_taken() {
    let node = Node::start().await;
    let mut function = Function::new("hello", "echo");
    for (field, value) in [
        ("labels", json!(null)),
        ("annotations", json!(null)),
        ("registryAuth", json!("x")),
        ("network", json!("y")),
        ("novelty", json!(1)),
    ] {
        function.body[field] = value;
    }
    node.deploy(function).await;
    node.call("hello", "x").await.expect_status(200);
}

#[tokio::test]
async fn creating_a_function_twice_is_refused_or_replaces_it_but_never_fails() {
    let node = Node::start().await;
    let function = Function::new("hello", "echo");
    node.deploy(function.clone()).await;
    let again = node.create(&function).await;
    assert!(
        matches!(again.status, 202 | 409),
        "{} {}",
        again.status,
        again.text()
    );
    assert_eq!(functions(&node).await, ["hello"]);
}

#[tokio::test]
async fn delete_names_the_function_in_its_body() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let body = json!({ "functionName": "hello" });
    node.manage("DELETE", "/system/functions")
        .json(&body)
        .send()
        .await
        .expect_status(202);
    eventually("it is gone", async || {
        functions(&node).await.is_empty().then_some(())
    })
    .await;
    node.call("hello", "").await.expect_error(404);
    node.manage("DELETE", "/system/functions")
        .json(&body)
        .send()
        .await
        .expect_error(404);
    node.manage("GET", "/system/function/hello")
        .send()
        .await
        .expect_error(404);
}

#[tokio::test]
async fn deployments_that_make_no_sense_are_refused_with_every_mistake() {
    let node = Node::start().await;
    node.upload(&guest("echo")).await;
    let good = Function::new("hello", "echo");
    let wrong = [
        good.clone().field("service", ""),
        good.clone().field("service", "a b/c"),
        good.clone().field("image", ""),
        good.clone().field("image", "Not An Image"),
        good.clone().field("image", "sha256:12"),
        good.clone().memory("lots"),
        good.clone().cpu("-3"),
        good.clone().timeout("soon"),
        good.clone().protocol("carrier-pigeon"),
        good.clone().setting("concurrency", "none"),
        good.clone().label("com.openfaas.scale.min", "minus one"),
    ];
    for function in wrong {
        let reply = node
            .manage("POST", "/system/functions")
            .json(&function.body)
            .send()
            .await;
        reply.expect_error(400);
    }
    // A slip in a name is met with the right one; two slips are both told.
    let slips = good.clone().setting("timout", "3s").memory("lots");
    let told = node
        .manage("POST", "/system/functions")
        .json(&slips.body)
        .send()
        .await
        .expect_error(400)
        .text();
    assert!(
        told.contains("weir.timeout") && told.contains("lots"),
        "{told}"
    );

    let absent = good.field("image", format!("sha256:{}", "ab".repeat(32)));
    let told = node
        .manage("POST", "/system/functions")
        .json(&absent.body)
        .send()
        .await
        .expect_error(400)
        .text();
    assert!(told.contains(&"ab".repeat(32)), "{told}");

    for body in ["", "{", "[]", "{\"service\": 3}", "not json"] {
        node.manage("POST", "/system/functions")
            .body(body)
            .send()
            .await
            .expect_error(400);
        node.manage("PUT", "/system/functions")
            .body(body)
            .send()
            .await
            .expect_error(400);
        node.manage("DELETE", "/system/functions")
            .body(body)
            .send()
            .await
            .expect_error(400);
    }
    assert_eq!(functions(&node).await, [""; 0]);
}

#[tokio::test]
async fn scaling_to_zero_unloads_and_the_next_call_loads_again() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo").label("com.openfaas.scale.min", "1"))
        .await;
    let scale = |replicas: u32| json!({ "serviceName": "hello", "replicas": replicas });
    let replicas = async || {
        let status = node
            .manage("GET", "/system/function/hello")
            .send()
            .await
            .expect_status(200)
            .json();
        status["replicas"].as_f64().expect("a count")
    };
    eventually("it is loaded at start", async || {
        (replicas().await > 0.0).then_some(())
    })
    .await;
    node.manage("POST", "/system/scale-function/hello")
        .json(&scale(0))
        .send()
        .await
        .expect_status(202);
    eventually("it is unloaded", async || {
        (replicas().await == 0.0).then_some(())
    })
    .await;
    let reply = node.call("hello", "back").await.expect_status(200);
    assert_eq!(
        (reply.text().as_str(), reply.header("x-weir-start")),
        ("back", "cold")
    );
    node.manage("POST", "/system/scale-function/hello")
        .json(&scale(1))
        .send()
        .await
        .expect_status(202);
    eventually("it is loaded", async || {
        (replicas().await > 0.0).then_some(())
    })
    .await;

    let unknown = json!({ "serviceName": "nobody", "replicas": 1 });
    node.manage("POST", "/system/scale-function/nobody")
        .json(&unknown)
        .send()
        .await
        .expect_error(404);
    node.manage("POST", "/system/scale-function/hello")
        .body("{")
        .send()
        .await
        .expect_error(400);
}

#[tokio::test]
async fn info_names_the_provider_and_version() {
    let node = Node::start().await;
    let info = node
        .manage("GET", "/system/info")
        .send()
        .await
        .expect_status(200)
        .json();
    assert!(info["provider"]["provider"].is_string(), "{info}");
    assert!(info["provider"]["orchestration"].is_string(), "{info}");
    assert!(
        info["version"]["release"].is_string() && info["version"]["sha"].is_string(),
        "{info}"
    );
    assert!(info["arch"].is_string(), "{info}");
}

#[tokio::test]
async fn namespaces_keep_tenants_apart() {
    let node = Node::start().await;
    let namespace = |method: &str, name: &str| {
        node.manage(method, &format!("/system/namespace/{name}")).json(&json!({ "name": name, "labels": { "a": "b" }, "annotations": { "openfaas": "1" } }))
    };
    let list = async || {
        node.manage("GET", "/system/namespaces")
            .send()
            .await
            .expect_status(200)
            .json()
    };
    assert_eq!(list().await, json!(["openfaas-fn"]));

    namespace("PUT", "tenant").send().await.expect_error(404);
    namespace("POST", "tenant").send().await.expect_status(201);
    namespace("POST", "tenant").send().await.expect_error(409);
    namespace("PUT", "tenant").send().await.expect_status(202);
    let shown = node
        .manage("GET", "/system/namespace/tenant")
        .send()
        .await
        .expect_status(200)
        .json();
    assert_eq!(
        (&shown["name"], &shown["labels"]["a"]),
        (&json!("tenant"), &json!("b"))
    );
    assert_eq!(list().await, json!(["openfaas-fn", "tenant"]));

    node.deploy(Function::new("hello", "echo").field("namespace", "tenant"))
        .await;
    node.deploy(Function::new("hello", "cgi").protocol("cgi"))
        .await;
    assert_eq!(node.call("hello.tenant", "x").await.header("x-guest"), "");
    assert_eq!(node.call("hello", "x").await.header("x-guest"), "yes");
    let theirs = node
        .manage("GET", "/system/functions?namespace=tenant")
        .send()
        .await
        .expect_status(200)
        .json();
    assert_eq!(theirs.as_array().map(Vec::len), Some(1));

    let body = json!({ "functionName": "hello", "namespace": "tenant" });
    node.manage("DELETE", "/system/functions")
        .json(&body)
        .send()
        .await
        .expect_status(202);
    node.call("hello.tenant", "").await.expect_error(404);
    node.call("hello", "").await.expect_status(200);
    let removed = async || {
        let reply = namespace("DELETE", "tenant").send().await;
        (reply.status == 202).then_some(())
    };
    eventually("the empty namespace is removed", removed).await;
    node.manage("GET", "/system/namespace/tenant")
        .send()
        .await
        .expect_error(404);
}

#[tokio::test]
async fn a_deployment_opens_its_namespace_and_a_call_does_not() {
    let node = Node::start().await;
    let list = async || {
        let list = node.manage("GET", "/system/namespaces").send().await;
        list.expect_status(200).json()
    };
    node.call("hello.nowhere", "").await.expect_error(404);
    assert_eq!(list().await, json!(["openfaas-fn"]));
    node.deploy(Function::new("hello", "echo").field("namespace", "somewhere"))
        .await;
    assert_eq!(list().await, json!(["openfaas-fn", "somewhere"]));
}

#[tokio::test]
async fn a_call_of_a_function_whose_secret_is_absent_names_it() {
    let node = Node::start().await;
    let vault = Function::new("vault", "secrets").field("secrets", json!(["absent-key"]));
    let reply = node.create(&vault).await;
    // Refused at once, or deployed and without a way to start until it is there.
    let told = if reply.status == 202 {
        node.call("vault", "absent-key").await.expect_error(503)
    } else {
        reply.expect_error(400)
    };
    assert!(told.text().contains("absent-key"), "{}", told.text());
    let body = json!({ "name": "absent-key", "value": "here" });
    let created = node.manage("POST", "/system/secrets").json(&body);
    created.send().await.expect_status(201);
    node.manage("PUT", "/system/functions")
        .json(&vault.body)
        .send()
        .await;
    node.create(&vault).await;
    eventually("it runs", async || {
        (node.call("vault", "absent-key").await.text() == "here read-only\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn secrets_are_given_to_functions_and_never_shown() {
    let node = Node::start().await;
    let secrets =
        |method: &str, body: serde_json::Value| node.manage(method, "/system/secrets").json(&body);
    let body = json!({ "name": "key", "value": "open sesame" });
    secrets("PUT", body.clone()).send().await.expect_error(404);
    secrets("POST", body.clone())
        .send()
        .await
        .expect_status(201);
    secrets("POST", body).send().await.expect_error(409);
    let listed = node
        .manage("GET", "/system/secrets")
        .send()
        .await
        .expect_status(200);
    assert_eq!(
        listed.json(),
        json!([{ "name": "key", "namespace": "openfaas-fn" }])
    );

    node.deploy(Function::new("vault", "secrets").field("secrets", json!(["key"])))
        .await;
    node.deploy(Function::new("other", "secrets")).await;
    assert_eq!(
        node.call("vault", "key").await.expect_status(200).text(),
        "open sesame read-only\n"
    );
    assert_eq!(
        node.call("other", "key").await.expect_status(200).text(),
        "absent\n"
    );

    // 204 would be reported as an error by clients.
    let reply = secrets("PUT", json!({ "name": "key", "rawValue": "cmF3" }))
        .send()
        .await;
    assert!(matches!(reply.status, 200 | 202), "{}", reply.status);
    // As in Kubernetes without a remount: an instance keeps what it was started
    // with, the next one gets the new value.
    let scale = node.manage("POST", "/system/scale-function/vault");
    let none = json!({ "serviceName": "vault", "replicas": 0 });
    scale.json(&none).send().await.expect_status(202);
    eventually("calls see the new value", async || {
        (node.call("vault", "key").await.text() == "raw read-only\n").then_some(())
    })
    .await;

    let status = node
        .manage("GET", "/system/function/vault")
        .send()
        .await
        .text();
    assert!(
        status.contains("key") && !status.contains("sesame"),
        "{status}"
    );
    assert!(!node.log().contains("sesame"), "{}", node.log());

    node.manage("DELETE", "/system/functions")
        .json(&json!({ "functionName": "vault" }))
        .send()
        .await
        .expect_status(202);
    let removed = async || {
        let reply: Reply = secrets("DELETE", json!({ "name": "key" })).send().await;
        matches!(reply.status, 200 | 202).then_some(())
    };
    eventually("the secret can be removed", removed).await;
    secrets("DELETE", json!({ "name": "key" }))
        .send()
        .await
        .expect_error(404);
}

#[tokio::test]
async fn names_of_secrets_cannot_leave_their_folder() {
    let node = Node::start().await;
    for name in ["", "../token", "a/b", ".", "..", "a\u{0}b"] {
        let body = json!({ "name": name, "value": "x" });
        node.manage("POST", "/system/secrets")
            .json(&body)
            .send()
            .await
            .expect_error(400);
    }
}

#[tokio::test]
async fn logs_are_lines_of_json_and_can_be_followed() {
    let node = Node::start().await;
    node.deploy(Function::new("chatter", "logs")).await;
    node.call("chatter", "3").await.expect_status(200);
    let lines = eventually("three lines are kept", async || {
        let reply = node
            .manage("GET", "/system/logs?name=chatter&follow=false&tail=0")
            .send()
            .await
            .expect_status(200);
        assert!(
            reply
                .header("content-type")
                .starts_with("application/x-ndjson"),
            "{:?}",
            reply.headers
        );
        let lines: Vec<serde_json::Value> = reply
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect();
        (lines.len() == 3).then_some(lines)
    })
    .await;
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(line["name"], "chatter");
        assert_eq!(line["namespace"], "openfaas-fn");
        assert_eq!(
            line["text"],
            format!("line {} of a very long story", number + 1)
        );
        assert!(
            line["timestamp"].is_string() && line["instance"].is_string(),
            "{line}"
        );
    }
    let last = node
        .manage("GET", "/system/logs?name=chatter&tail=1")
        .send()
        .await
        .expect_status(200)
        .text();
    assert_eq!(last.lines().count(), 1);
    assert!(last.contains("line 3"), "{last}");

    let mut followed = node
        .manage("GET", "/system/logs?name=chatter&follow=true&tail=1")
        .open()
        .await
        .expect("it answers");
    read_until(followed.body_mut(), "line 3").await;
    node.call("chatter", "5").await.expect_status(200);
    read_until(followed.body_mut(), "line 5").await;

    for query in [
        "",
        "?tail=1",
        "?name=chatter&since=yesterday",
        "?name=chatter&tail=many",
        "?name=chatter&follow=perhaps",
    ] {
        node.manage("GET", &format!("/system/logs{query}"))
            .send()
            .await
            .expect_error(422);
    }
    node.manage("GET", "/system/logs?name=nobody")
        .send()
        .await
        .expect_error(404);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_told_apart() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    for path in [
        "/nowhere",
        "/system",
        "/system/nowhere",
        "/weir/v1/nowhere",
        "/weir/v2/status",
    ] {
        node.manage("GET", path).send().await.expect_error(404);
    }
    let wrong = [
        ("POST", "/healthz"),
        ("DELETE", "/metrics"),
        ("PATCH", "/system/functions"),
        ("GET", "/system/scale-function/hello"),
        ("POST", "/system/info"),
        ("POST", "/system/logs?name=hello"),
        ("DELETE", "/weir/v1/status"),
        ("TRACE", "/function/hello"),
        ("CONNECTED", "/function/hello"),
        ("GET", "/async-function/hello"),
    ];
    for (method, path) in wrong {
        let reply = node.manage(method, path).send().await.expect_error(405);
        assert!(
            !reply.header("allow").is_empty(),
            "{method} {path} without Allow"
        );
    }
    node.ask("HEAD", "/healthz").send().await.expect_status(200);
}
