//! Functions in containers, on a real engine.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use weir_tests::client::{Reply, read_until};
use weir_tests::engine::{self, OwnEngine, containers, docker, docker_at, instances};
use weir_tests::guests::Guest;
use weir_tests::node::{Function, Node, Setup, free_address, text, weir};
use weir_tests::{eventually, within};

async fn node() -> Node {
    Setup::new().containers().start().await
}

#[tokio::test]
async fn an_image_that_listens_is_called_cold_then_warm() {
    let node = node().await;
    node.deploy(Function::container("plain").unchecked()).await;
    let reply = node.call("plain", "first").await.expect_status(200);
    assert_eq!(
        (reply.text().as_str(), reply.header("x-weir-start")),
        ("first", "cold")
    );
    let reply = node
        .ask("PUT", "/function/plain/a/b?c=d")
        .body("second")
        .send()
        .await;
    let reply = reply.expect_status(200);
    assert_eq!(reply.header("x-weir-start"), "warm");
    assert_eq!(reply.header("x-seen"), "PUT /a/b?c=d");
    // A function's own status is passed on.
    node.get("/function/plain/teapot")
        .send()
        .await
        .expect_status(418);
    let large = "x".repeat(3 << 20);
    let reply = node.call("plain", large.clone()).await.expect_status(200);
    assert!(reply.text() == large, "a large body comes back whole");
}

#[tokio::test]
async fn environment_of_other_platforms_is_set() {
    let node = node().await;
    let environment = json!({ "OWN": "yes", "exec_timeout": "7s" });
    let function = Function::container("plain").field("envVars", environment);
    node.deploy(function.field("envProcess", "cat")).await;
    let reply = node.get("/function/plain/environment").send().await;
    let seen = reply.expect_status(200).json();
    for (name, value) in [
        ("PORT", "8080"),
        ("K_SERVICE", "plain"),
        ("fprocess", "cat"),
        ("OWN", "yes"),
        ("exec_timeout", "7s"),
        // A call takes no longer than its code may.
        ("read_timeout", "7s"),
    ] {
        assert_eq!(seen[name], value, "{name} in {seen}");
    }
}

#[tokio::test]
async fn a_container_can_do_little() {
    let node = node().await;
    let secret = json!({ "name": "word", "value": "sesame" });
    let made = node
        .manage("POST", "/system/secrets")
        .json(&secret)
        .send()
        .await;
    made.expect_status(201);
    let function = Function::container("caged").field("secrets", json!(["word"]));
    node.deploy(function.memory("96Mi")).await;
    node.deploy(Function::container("other")).await;
    node.call("other", "").await.expect_status(200);
    let ask = async |path: &str| {
        let reply = node.get(&format!("/function/caged{path}")).send().await;
        reply.expect_status(200).json()
    };
    let secret = ask("/read?/var/openfaas/secrets/word").await;
    assert_eq!(secret["text"], "sesame");
    let status = ask("/who").await["status"]
        .as_str()
        .expect("text")
        .to_owned();
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}"))
            .to_owned()
    };
    assert!(line("Uid:").contains("65534"), "{status}");
    assert!(line("CapEff:").ends_with("0000000000000000"), "{status}");
    assert!(line("CapBnd:").ends_with("0000000000000000"), "{status}");
    assert!(line("NoNewPrivs:").ends_with('1'), "{status}");
    let written = ask("/write").await;
    for (place, bytes) in written.as_object().expect("an object") {
        let bound = match place.as_str() {
            "/tmp/file" | "/dev/shm/file" => 16 << 20,
            _ => 0,
        };
        assert!(bytes.as_u64().expect("a number") <= bound, "{written}");
    }
    let threads = ask("/fork").await["threads"].as_u64().expect("a number");
    assert!(threads < 128, "{threads} threads");
    // Neither the node's door nor anything else is there to be reached.
    let door = ask(&format!("/reach?{}", node.address)).await;
    assert_eq!(door["reached"], false);
    for target in ["172.17.0.1:22", "127.0.0.1:8081", "1.1.1.1:53"] {
        assert_eq!(
            ask(&format!("/reach?{target}")).await["reached"],
            false,
            "{target}"
        );
    }
    let interfaces = ask("/read?/proc/net/dev").await["text"].to_string();
    assert!(
        interfaces.contains("lo:") && !interfaces.contains("eth0"),
        "{interfaces}"
    );
}

#[tokio::test]
async fn a_bridge_is_had_by_asking() {
    let node = node().await;
    node.deploy(Function::container("open").setting("network", "bridge"))
        .await;
    let reply = node.get("/function/open/read?/proc/net/dev").send().await;
    assert!(reply.expect_status(200).text().contains("eth0"));
}

#[tokio::test]
async fn a_container_killed_in_a_call_is_named_and_replaced() {
    let node = node().await;
    node.deploy(Function::container("mortal")).await;
    let id = node.id().await;
    let reply = node
        .get("/function/mortal/die")
        .send()
        .await
        .expect_error(502);
    assert!(
        reply.text().contains("exited with code 9"),
        "{}",
        reply.text()
    );
    node.call("mortal", "again").await.expect_status(200);
    let call = node.get("/function/mortal/sleep?60000").send();
    let kill = async {
        node.running(1).await;
        let running = eventually("the instance runs", async || {
            instances(&id, "mortal").first().cloned()
        });
        docker(&["kill", &running.await]);
    };
    let (reply, ()) = tokio::join!(call, kill);
    let reply = reply.expect_error(502);
    assert!(reply.text().contains("137"), "{}", reply.text());
    // Killed while idle: nobody notices.
    node.call("mortal", "again").await.expect_status(200);
    let idle = instances(&id, "mortal");
    docker(&["kill", &idle[0]]);
    eventually("it is dead", async || {
        (!instances(&id, "mortal").contains(&idle[0])).then_some(())
    })
    .await;
    // Its connection says so before a call is written to it.
    node.call("mortal", "again").await.expect_status(200);
}

#[tokio::test]
async fn an_idempotent_call_whose_container_dies_is_run_again() {
    let node = node().await;
    let id = node.id().await;
    node.deploy(Function::container("twice").setting("idempotent", "true"))
        .await;
    let kill_first = async |body: &str| {
        let before = instances(&id, "twice");
        let call = node
            .post("/function/twice/sleep?3000")
            .body(body.to_owned())
            .send();
        let kill = async {
            node.running(1).await;
            let running = eventually("an instance runs", async || {
                let now = instances(&id, "twice");
                now.into_iter()
                    .find(|one| before.is_empty() || before.contains(one))
            });
            docker(&["kill", &running.await]);
        };
        tokio::join!(call, kill).0
    };
    let reply = kill_first("whole").await.expect_status(200);
    assert_eq!(reply.json()["body"], "whole");
    // What is too long to be kept is sent once.
    let reply = kill_first(&"x".repeat(300 << 10)).await.expect_error(502);
    assert!(reply.text().contains("137"), "{}", reply.text());
    // What kills every container ends with that.
    let reply = node
        .get("/function/twice/die")
        .send()
        .await
        .expect_error(502);
    assert!(reply.text().contains("tried 3 times"), "{}", reply.text());
}

#[tokio::test]
async fn a_container_paused_in_a_call_is_replaced() {
    let node = node().await;
    let id = node.id().await;
    node.deploy(Function::container("frozen").timeout("3s"))
        .await;
    node.call("frozen", "warm").await.expect_status(200);
    let before = instances(&id, "frozen");
    let call = node.get("/function/frozen/sleep?500").send();
    let pause = async {
        node.running(1).await;
        docker(&["pause", &before[0]]);
    };
    let (reply, ()) = tokio::join!(call, pause);
    reply.expect_error(504);
    node.call("frozen", "again").await.expect_status(200);
    eventually("the frozen container is gone", async || {
        (!instances(&id, "frozen").contains(&before[0])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_container_with_a_health_path_is_ready_when_that_says_so() {
    let node = node().await;
    let ailing = Function::container("ailing").mode("ailing");
    node.deploy(ailing.clone().setting("health", "/healthy"))
        .await;
    node.call("ailing", "first").await.expect_status(200);
    // Without the path, listening is enough.
    let mut unasked = ailing;
    unasked.body["service"] = json!("unasked");
    node.deploy(unasked).await;
    let reply = node.call("unasked", "first").await.expect_status(503);
    assert_eq!(reply.json()["well"], false);
}

#[tokio::test]
async fn websockets_pass_through() {
    let node = node().await;
    node.deploy(
        Function::container("chat")
            .unchecked()
            .label("com.openfaas.scale.max", "1")
            .timeout("20s"),
    )
    .await;
    let open = async || {
        let stream = tokio::net::TcpStream::connect(node.address).await;
        let url = format!("ws://{}/function/chat/socket", node.address);
        tokio_tungstenite::client_async(url, stream.expect("the node listens")).await
    };
    let (mut socket, answer) = open().await.expect("a WebSocket");
    assert_eq!(answer.headers()["x-weir-start"], "cold");
    // Whatever the bytes on the wire are: each message is masked by chance.
    let long = "long ".repeat(50_000);
    for text in ["hello", &long, "\n\n\n", &long, &long] {
        socket.send(Message::text(text)).await.expect("it is taken");
        let echo = socket.next().await.expect("an echo").expect("whole");
        assert_eq!(echo.to_text().ok(), Some(text));
    }
    // As long as it lasts it is a call that runs.
    node.running(1).await;
    socket.close(None).await.expect("it can be closed");
    drop(socket);
    node.running(0).await;
    // A function without an HTTP server of its own never sees the wish.
    node.deploy(Function::new("echo", "echo")).await;
    let ask = node.get("/function/echo").header("connection", "upgrade");
    let reply = ask.header("upgrade", "websocket").send().await;
    reply.expect_status(200);
    // What ends the function's time ends the session.
    node.deploy(Function::container("brief").timeout("2s"))
        .await;
    let stream = tokio::net::TcpStream::connect(node.address).await;
    let url = format!("ws://{}/function/brief/socket", node.address);
    let opened = tokio_tungstenite::client_async(url, stream.expect("the node listens")).await;
    let (mut socket, _) = opened.expect("a WebSocket");
    let ended = within("the session ends", socket.next()).await;
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
    node.running(0).await;
}

#[tokio::test]
async fn more_memory_than_the_limit_is_named_in_the_502() {
    let node = node().await;
    node.deploy(Function::container("greedy").memory("32Mi"))
        .await;
    let reply = node
        .get("/function/greedy/memory")
        .send()
        .await
        .expect_error(502);
    assert!(reply.text().contains("memory"), "{}", reply.text());
    node.call("greedy", "again").await.expect_status(200);
}

#[tokio::test]
async fn a_call_beyond_its_time_is_504_and_its_container_is_replaced() {
    let node = node().await;
    node.deploy(Function::container("slow").timeout("3s")).await;
    node.call("slow", "warm").await.expect_status(200);
    let id = node.id().await;
    let before = instances(&id, "slow");
    let reply = node.get("/function/slow/sleep?60000").send().await;
    reply.expect_error(504);
    node.call("slow", "again").await.expect_status(200);
    eventually("the stuck container is gone", async || {
        let now = instances(&id, "slow");
        before.iter().all(|old| !now.contains(old)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_free_the_place() {
    let node = node().await;
    node.deploy(Function::container("busy").label("com.openfaas.scale.max", "1"))
        .await;
    node.call("busy", "warm").await.expect_status(200);
    {
        let call = node.get("/function/busy/sleep?3000").send();
        tokio::select! {
            reply = call => panic!("answered too soon: {}", reply.text()),
            () = node.running(1) => {}
        }
    }
    assert_eq!(node.status().await["running"], 1, "its code goes on");
    // The place is had when the code has ended, and by the same container.
    let reply = node.call("busy", "next").await.expect_status(200);
    assert_eq!(reply.header("x-weir-start"), "warm");
}

#[tokio::test]
async fn containers_that_never_become_ready_say_why() {
    let setup = Setup::new()
        .containers()
        .config("docker.start-timeout = \"10s\"");
    let node = setup.start().await;
    let exits = Function::container("exits").mode("exit");
    node.create(&exits).await.expect_status(202);
    let words = "exited with code 3; it wrote: there is nothing for me to do";
    let state = node.settled("exits").await;
    assert!(state.starts_with("failed: "), "{state}");
    assert!(state.contains(words), "{state}");
    let reply = node.call("exits", "").await.expect_error(503);
    assert!(reply.text().contains(words), "{}", reply.text());
    let deaf = Function::container("deaf").mode("deaf");
    node.create(&deaf).await.expect_status(202);
    let words = "must listen on port 8080";
    let state = node.settled("deaf").await;
    assert!(state.starts_with("failed: "), "{state}");
    assert!(state.contains(words), "{state}");
    let reply = node.call("deaf", "").await.expect_error(503);
    assert!(reply.text().contains(words), "{}", reply.text());
    // As before, without the check.
    node.deploy(Function::container("exits").mode("exit").unchecked())
        .await;
    node.call("exits", "").await.expect_error(503);
    node.deploy(Function::container("late").mode("late")).await;
    node.call("late", "").await.expect_status(200);
}

#[tokio::test]
async fn a_streaming_answer_keeps_its_place_until_its_end() {
    let node = node().await;
    let function = Function::container("stalls").mode("stall").timeout("20s");
    node.deploy(function).await;
    let mut response = node.post("/function/stalls").open().await.expect("a head");
    read_until(response.body_mut(), "half of it").await;
    node.running(1).await;
}

#[tokio::test]
async fn garbage_and_half_answers_are_the_functions_failure() {
    let node = node().await;
    node.deploy(Function::container("garbage").mode("garbage"))
        .await;
    node.call("garbage", "").await.expect_error(502);
    node.deploy(Function::container("half").mode("half").timeout("1s"))
        .await;
    // What was sent out is cut, and what was not is a 502.
    let answer = node.get("/function/half").try_send().await;
    let fails = answer.map_or(true, |answer| answer.status == 502);
    assert!(fails, "half an answer never looks whole");
    // One that stalls is ended by its time, and the container with it.
    let stalls = Function::container("stalls").mode("stall");
    node.deploy(stalls.timeout("1s")).await;
    let answer = node.get("/function/stalls").try_send().await;
    assert!(answer.is_err(), "half an answer never looks whole");
    let id = node.id().await;
    eventually("the stalled container is gone", async || {
        instances(&id, "stalls").is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn two_hundred_first_calls_start_no_more_than_the_maximum() {
    let node = node().await;
    let function = Function::container("many").label("com.openfaas.scale.max", "2");
    node.deploy(function.setting("concurrency", "8")).await;
    let calls = (0..200).map(|_| node.call("many", "x"));
    for reply in futures_util::future::join_all(calls).await {
        reply.expect_status(200);
    }
    let started = instances(&node.id().await, "many").len();
    assert!((1..=2).contains(&started), "{started} containers");
}

#[tokio::test]
async fn more_functions_than_fit_take_turns() {
    let setup = Setup::new()
        .containers()
        .config("resources.memory = \"200MiB\"");
    let node = setup.start().await;
    for name in ["one", "two", "three", "four"] {
        node.deploy(Function::container(name).memory("64Mi")).await;
    }
    for name in ["one", "two", "three", "four", "one"] {
        node.call(name, name).await.expect_status(200);
    }
    assert!(node.status().await["held"]["memory"].as_u64() <= Some(200 << 20));
}

#[tokio::test]
async fn openwhisk_images_are_initialised_once_and_run() {
    let node = node().await;
    let function = Function::container("action").mode("openwhisk");
    node.deploy(function.protocol("openwhisk")).await;
    for name in ["ada", "bob"] {
        let body = json!({ "name": name }).to_string();
        let reply = node.call("action", body).await.expect_status(200).json();
        assert_eq!(reply["greeting"], format!("hello {name}"));
    }
    let reply = node.post("/function/action?name=query").send().await;
    assert_eq!(reply.expect_status(200).json()["greeting"], "hello query");
    let reply = node.call("action", "{\"fail\":true}").await;
    assert_eq!(reply.expect_status(502).json()["error"], "as you wished");
    let reply = node.call("action", "[1]").await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    // They come from the engine, in its own time.
    let logs = eventually("its logs have come", async || {
        let logs = node.weir(["logs", "action"]).await;
        let logs = text(&logs.stdout);
        logs.contains("ran").then_some(logs)
    })
    .await;
    assert_eq!(logs.matches("initialised").count(), 1, "{logs}");
    assert!(!logs.contains("XXX_THE_END"), "{logs}");
}

#[tokio::test]
async fn serverledge_images_are_invoked() {
    let node = node().await;
    let function = Function::container("sum").mode("serverledge");
    node.deploy(function.protocol("serverledge")).await;
    let reply = node
        .call("sum", "{\"a\":20,\"b\":22}")
        .await
        .expect_status(200);
    assert_eq!(reply.text(), "42");
    node.call("sum", "{\"fail\":1}").await.expect_error(502);
    let logs = node.weir(["logs", "sum"]).await;
    assert!(text(&logs.stdout).contains("added"));
}

const PYTHON: &str = r#"
import os, sys, threading

together = threading.Barrier(4, timeout=60)
def handler(params, context):
    print("called with", sorted(params), flush=True)
    if params.get("fail"):
        raise ValueError("as you wished")
    if params.get("meet"):
        together.wait()
        return {"met": True}
    if params.get("raw"):
        return b"\x00\x01"
    if params.get("text"):
        return "plain"
    if params.get("status"):
        return {"made": True}, 201, {"X-Own": "yes"}
    if params.get("stream"):
        return iter(["one ", "two"])
    return {"sum": int(params["a"]) + int(params["b"]), "left": context.remaining() > 0,
            "name": context.function_name}

def handle(event, context):
    return {"statusCode": 202, "body": event.method + " " + event.path + " " + event.body.decode(),
            "headers": {"x-query": event.query.get("q", ""), "Set-Cookie": ["a=1", "b=2"]}}
"#;

/// Handlers in the shapes that other platforms' users bring.
const PYTHON_SHAPES: &str = r#"
import asyncio, functools

def handle(req):
    return None if req == "nothing" else {"length": len(req)} if req == "json" else req[::-1]

def alone(params):
    if params.get("nan"):
        return {"value": float("nan")}
    if params.get("infinite"):
        return [1, float("-inf")]
    if params.get("other"):
        return {"value": {1, 2}}
    return "", 204, [("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("X-One", "1")]

def logged(handler):
    @functools.wraps(handler)
    def wrapper(*given):
        return handler(*given)
    return wrapper

both = asyncio.Barrier(2) if hasattr(asyncio, "Barrier") else None

@logged
async def later(params, context):
    await asyncio.wait_for(both.wait(), 60)
    return {"at": "last"}, 201, {"set-cookie": ("a=1", "b=2")}

async def pieces(params):
    for piece in ["one ", "two"]:
        await asyncio.sleep(0)
        yield piece

async def fails(params):
    raise ValueError("as you wished")
"#;

/// Writes the code of a Python function, and deploys it as a user would.
async fn deploy_python(node: &Node, name: &str, handler: &str, more: &[&str]) {
    deploy_script(node, name, PYTHON, handler, more).await;
}

async fn deploy_script(node: &Node, name: &str, script: &str, handler: &str, more: &[&str]) {
    engine::python();
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    std::fs::write(folder.path().join("main.py"), script).expect("a file can be written");
    let source = folder.path().display().to_string();
    let mut arguments = vec!["deploy", name, "--runtime", "python", "--handler", handler];
    arguments.extend(["--src", &source]);
    arguments.extend(more);
    let output = node.weir(&arguments).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn python_handlers_take_parameters_and_answer() {
    let node = node().await;
    deploy_python(&node, "sum", "main.handler", &[]).await;
    let reply = node
        .post("/function/sum?b=2")
        .body("{\"a\": 40}")
        .send()
        .await;
    let reply = reply.expect_status(200);
    assert_eq!(
        reply.json(),
        json!({ "sum": 42, "left": true, "name": "sum" })
    );
    assert_eq!(reply.header("content-type"), "application/json");
    let ask = async |body: &str| node.call("sum", body.to_owned()).await;
    let reply = ask("{\"fail\": 1}").await.expect_status(502);
    assert_eq!(reply.text(), "ValueError: as you wished\n");
    assert_eq!(
        &ask("{\"raw\": 1}").await.expect_status(200).body[..],
        b"\0\x01"
    );
    assert_eq!(
        ask("{\"text\": 1}").await.expect_status(200).text(),
        "plain"
    );
    let reply = ask("{\"status\": 1}").await.expect_status(201);
    assert_eq!(reply.header("x-own"), "yes");
    assert_eq!(
        ask("{\"stream\": 1}").await.expect_status(200).text(),
        "one two"
    );
    let reply = ask("[1, 2]").await.expect_status(400);
    assert!(reply.text().contains("no object"), "{}", reply.text());
    let logs = text(&node.weir(["logs", "sum"]).await.stdout);
    assert!(logs.contains("called with ['a', 'b']"), "{logs}");
    assert!(logs.contains("raise ValueError"), "{logs}");
}

#[tokio::test]
async fn python_handles_events_as_openfaas_templates_do() {
    let node = node().await;
    deploy_python(&node, "event", "main.handle", &[]).await;
    let reply = node
        .ask("PUT", "/function/event/some/path?q=7")
        .body("body")
        .send()
        .await;
    let reply = reply.expect_status(202);
    assert_eq!(reply.text(), "PUT /some/path body");
    assert_eq!(reply.header("x-query"), "7");
    assert_eq!(cookies(&reply), ["a=1", "b=2"]);
}

fn cookies(reply: &Reply) -> Vec<&str> {
    let values = reply.headers.get_all("set-cookie").iter();
    values.map(|value| value.to_str().expect("text")).collect()
}

#[tokio::test]
async fn python_handlers_may_take_text_or_be_asynchronous() {
    let node = node().await;
    let deploy = async |name: &str, handler: &str, more: &[&str]| {
        deploy_script(&node, name, PYTHON_SHAPES, handler, more).await;
    };
    deploy("classic", "main.handle", &[]).await;
    let reply = node.call("classic", "läden").await.expect_status(200);
    assert_eq!(reply.text(), "nedäl");
    assert!(reply.header("content-type").starts_with("text/plain"));
    let reply = node.call("classic", "nothing").await.expect_status(200);
    assert_eq!(reply.text(), "");
    let reply = node.call("classic", "json").await.expect_status(200);
    assert_eq!(reply.json(), json!({ "length": 4 }));
    node.call("classic", vec![0xff, 0xfe])
        .await
        .expect_status(400);

    deploy("alone", "main.alone", &[]).await;
    let reply = node.call("alone", "").await.expect_status(204);
    assert_eq!(cookies(&reply), ["a=1", "b=2"]);
    assert_eq!(reply.header("x-one"), "1");
    for (body, told) in [
        ("{\"nan\": 1}", "NaN or an infinity"),
        ("{\"infinite\": 1}", "NaN or an infinity"),
        ("{\"other\": 1}", "set is not JSON serializable"),
    ] {
        let reply = node.call("alone", body).await.expect_status(502);
        assert!(reply.text().contains(told), "{}", reply.text());
    }

    // Both are in one process, and wait for each other.
    let more = ["--concurrency", "2", "--max", "1"];
    deploy("later", "main.later", &more).await;
    let calls = (0..2).map(|_| node.call("later", "{}"));
    for reply in futures_util::future::join_all(calls).await {
        let reply = reply.expect_status(201);
        assert_eq!(reply.json(), json!({ "at": "last" }));
        assert_eq!(cookies(&reply), ["a=1", "b=2"]);
    }
    deploy("pieces", "main.pieces", &[]).await;
    let reply = node.call("pieces", "").await.expect_status(200);
    assert_eq!(reply.text(), "one two");
    deploy("fails", "main.fails", &[]).await;
    let reply = node.call("fails", "").await.expect_status(502);
    assert_eq!(reply.text(), "ValueError: as you wished\n");
}

#[tokio::test]
async fn one_python_instance_runs_as_many_calls_as_it_declares() {
    let node = node().await;
    let more = ["--concurrency", "4", "--max", "1"];
    deploy_python(&node, "meet", "main.handler", &more).await;
    let calls = (0..4).map(|_| node.call("meet", "{\"meet\": true}"));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(reply.expect_status(200).json(), json!({ "met": true }));
    }
    assert_eq!(instances(&node.id().await, "meet").len(), 1);
}

#[tokio::test]
async fn python_that_does_not_load_shows_its_trace() {
    let node = node().await;
    deploy_python(&node, "absent", "main.nothing", &["--no-wait"]).await;
    let reply = node.call("absent", "").await.expect_error(503);
    assert!(
        reply.text().contains("has no attribute 'nothing'"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn an_image_archive_needs_no_registry() {
    let node = node().await;
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let archive = folder.path().join("image.tar").display().to_string();
    docker(&["save", "--output", &archive, engine::server()]);
    let output = node
        .weir(["deploy", "loaded", "--image-archive", &archive])
        .await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    node.call("loaded", "x").await.expect_status(200);
}

#[tokio::test]
async fn images_are_served_on_the_port_that_they_name() {
    let node = node().await;
    let image = |name: &str, recipe: &str| {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let recipe = format!("FROM {}\n{recipe}", engine::server());
        std::fs::write(folder.path().join("Dockerfile"), recipe).expect("it is written");
        let context = folder.path().display().to_string();
        docker(&["build", "--quiet", "--tag", name, &context]);
        Function::image(
            name.trim_start_matches("weir-test/").trim_end_matches(":1"),
            name,
        )
        .setting("pull", "never")
    };
    let call = async |name: &str| {
        let reply = node.call(name, "x").await.expect_status(200);
        assert_eq!(reply.text(), "x", "{name}");
    };
    node.deploy(image(
        "weir-test/exposes:1",
        "ENV OWN_PORT=3000\nEXPOSE 3000\n",
    ))
    .await;
    call("exposes").await;
    // Of several, none is meant: the usual one it is, or the one that is named.
    let several = "ENV OWN_PORT=8080\nEXPOSE 8080 8081\n";
    node.deploy(image("weir-test/several:1", several)).await;
    call("several").await;
    let named = image("weir-test/named:1", "ENV OWN_PORT=4000\nEXPOSE 3000\n");
    node.deploy(named.setting("port", "4000")).await;
    call("named").await;
    docker(&["tag", "weir-test/named:1", "weir-test/flag:1"]);
    let output = node
        .weir([
            "deploy",
            "flag",
            "--image",
            "weir-test/flag:1",
            "--pull",
            "never",
            "--port",
            "4000",
        ])
        .await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    call("flag").await;
    let status = node
        .manage("GET", "/system/function/flag")
        .send()
        .await
        .json();
    assert_eq!(status["annotations"]["weir.port"], "4000");
    for port in ["0", "http", "70000"] {
        let wrong = Function::container("wrong").setting("port", port);
        node.create(&wrong).await.expect_error(400);
    }
}

#[tokio::test]
async fn images_come_packed_as_oci_layouts_and_as_folders() {
    let node = node().await;
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let at = |name: &str| folder.path().join(name).display().to_string();
    docker(&["save", "--output", &at("image.tar"), engine::server()]);
    let shell = |script: &str| {
        let status = std::process::Command::new("sh")
            .args(["-ec", script])
            .current_dir(folder.path())
            .status();
        assert!(status.expect("a shell runs").success(), "{script}");
    };
    shell(
        "gzip --keep image.tar && python3 - <<'END'\n\
        import gzip, hashlib, json, os, platform, tarfile\n\
        saved = tarfile.open('image.tar')\n\
        read = lambda name: saved.extractfile(name).read()\n\
        table = json.loads(read('manifest.json'))[0]\n\
        os.makedirs('layout/blobs/sha256')\n\
        def blob(content, more):\n\
        \x20   digest = hashlib.sha256(content).hexdigest()\n\
        \x20   open('layout/blobs/sha256/' + digest, 'wb').write(content)\n\
        \x20   return {'digest': 'sha256:' + digest, 'size': len(content), **more}\n\
        kind = 'application/vnd.oci.image.'\n\
        layers = [blob(gzip.compress(read(name), 1), {'mediaType': kind + 'layer.v1.tar+gzip'})\n\
        \x20   for name in table['Layers']]\n\
        config = blob(read(table['Config']), {'mediaType': kind + 'config.v1+json'})\n\
        image = {'schemaVersion': 2, 'config': config, 'layers': layers}\n\
        machine = {'x86_64': 'amd64', 'aarch64': 'arm64'}[platform.machine()]\n\
        image = blob(json.dumps(image).encode(), {'mediaType': kind + 'manifest.v1+json',\n\
        \x20   'platform': {'os': 'linux', 'architecture': machine}})\n\
        note = blob(b'{}', {'mediaType': kind + 'manifest.v1+json',\n\
        \x20   'platform': {'os': 'unknown', 'architecture': 'unknown'}})\n\
        index = json.dumps({'schemaVersion': 2, 'manifests': [image, note]})\n\
        open('layout/index.json', 'w').write(index)\n\
        open('layout/oci-layout', 'w').write('{\"imageLayoutVersion\": \"1.0.0\"}')\n\
        END\n\
        tar -cf oci.tar -C layout . && gzip --keep oci.tar",
    );
    let saved = std::fs::read(folder.path().join("image.tar")).expect("it is there");
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let packed = ruzstd::encoding::compress_to_vec(&saved[..], level);
    std::fs::write(folder.path().join("image.tar.zst"), packed).expect("a file can be written");
    for (name, file) in [
        ("zstd", "image.tar.zst"),
        ("gzipped", "image.tar.gz"),
        ("oci", "oci.tar"),
        ("oci-gzipped", "oci.tar.gz"),
        ("layout", "layout"),
    ] {
        let output = node
            .weir(["deploy", name, "--image-archive", &at(file)])
            .await;
        assert!(output.status.success(), "{file}: {}", text(&output.stderr));
        let reply = node.call(name, file).await.expect_status(200);
        assert_eq!(reply.text(), file);
    }
    // Through the API too: the node gives the layout its table.
    let layout = std::fs::read(folder.path().join("oci.tar")).expect("it is there");
    node.deploy(Function::of("api", Guest::from_bytes("oci", layout)))
        .await;
    node.call("api", "x").await.expect_status(200);

    shell(
        "echo text > notatar.tar && tar -cf files.tar image.tar.gz && cp image.tar.gz cut.gz \
        && truncate --size=-1000 cut.gz && mkdir empty",
    );
    for (file, told) in [
        ("notatar.tar", "no image archive"),
        ("files.tar", "a tar archive without an image"),
        ("cut.gz", "unpack it with gzip"),
        ("empty", "without an OCI layout"),
    ] {
        let output = node
            .weir(["deploy", "wrong", "--image-archive", &at(file)])
            .await;
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains(told),
            "{file}: {said}"
        );
    }
    for (file, told) in [
        ("notatar.tar", "nothing that Weir runs"),
        ("image.tar.gz", "unpack it first"),
        ("files.tar", "holds no image"),
    ] {
        let bytes = std::fs::read(folder.path().join(file)).expect("it is there");
        let wrong = Function::of("wrong", Guest::from_bytes(file, bytes));
        let said = node.create(&wrong).await.expect_error(400).text();
        assert!(said.contains(told), "{file}: {said}");
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_had_fails_in_the_status() {
    let node = node().await;
    let absent = Function::image("absent", "weir-test/absent:1").setting("pull", "never");
    node.create(&absent).await.expect_status(202);
    let state = node.settled("absent").await;
    assert!(
        state.starts_with("failed: the engine has no image"),
        "{state}"
    );
    let reply = node.call("absent", "").await.expect_error(503);
    assert!(reply.text().contains("deploy it again"), "{}", reply.text());
    let unreachable = Function::image("pulled", "127.0.0.1:9/nothing:1");
    node.create(&unreachable).await.expect_status(202);
    let state = node.settled("pulled").await;
    assert!(state.contains("pull 127.0.0.1:9/nothing:1"), "{state}");
    // Nonsense is refused at the door.
    let nonsense = Function::image("nonsense", "Not An Image");
    node.create(&nonsense).await.expect_error(400);
}

#[tokio::test]
async fn without_an_engine_everything_else_works() {
    let setup = Setup::new().config("docker.socket = \"/nonexistent/docker.sock\"");
    let node = setup.start().await;
    let function = Function::image("boxed", "weir-test/server:1");
    node.create(&function).await.expect_status(202);
    let reply = node.call("boxed", "").await.expect_error(503);
    assert!(
        reply.text().contains("install and start Docker"),
        "{}",
        reply.text()
    );
    let status = node.status().await;
    let problem = status["executors"]["docker"]["problem"].to_string();
    assert!(problem.contains("/nonexistent/docker.sock"), "{problem}");
    node.deploy(Function::new("echo", "echo")).await;
    node.call("echo", "still here").await.expect_status(200);
    // Whoever deploys is told at once, and nothing is lost.
    let deploy = ["deploy", "told", "--image", "weir-test/server:1"];
    let output = within("it is told", node.weir(deploy)).await;
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("it is kept, and will be ready once"),
        "{told}"
    );
    assert!(told.contains("install and start Docker"), "{told}");
    let state = node.settled("told").await;
    assert!(
        state.starts_with("waiting: the container engine"),
        "{state}"
    );
}

#[tokio::test]
async fn an_engine_that_stops_and_returns_is_used_again() {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let archive = folder.path().join("image.tar").display().to_string();
    docker(&["save", "--output", &archive, engine::server()]);
    let mut own = OwnEngine::start().await;
    let socket = own.socket();
    docker_at(&socket, &["load", "--input", &archive]);
    let config = format!("docker.socket = {:?}", socket.display().to_string());
    let node = Setup::new().config(&config).start().await;
    node.deploy(Function::container("boxed")).await;
    node.deploy(Function::new("echo", "echo")).await;
    node.call("boxed", "before").await.expect_status(200);
    let calls = (0..4).map(|_| node.get("/function/boxed/sleep?600000").send());
    let calls = futures_util::future::join_all(calls);
    let stopping = async {
        node.running(1).await;
        let stopped = tokio::task::spawn_blocking(move || {
            own.stop();
            own
        });
        stopped.await.expect("stops")
    };
    let (replies, mut own) = tokio::join!(calls, stopping);
    for reply in replies {
        assert!(
            matches!(reply.status, 502 | 503),
            "{} {}",
            reply.status,
            reply.text()
        );
    }
    let reply = node.call("boxed", "meanwhile").await.expect_error(503);
    assert!(
        reply.text().contains("container engine"),
        "{}",
        reply.text()
    );
    node.call("echo", "meanwhile").await.expect_status(200);
    own.resume().await;
    eventually("containers run again", async || {
        let reply = node.call("boxed", "after").await;
        (reply.status == 200).then_some(())
    })
    .await;
    let id = node.id().await;
    let mut node = node;
    node.terminate();
    within("the node ends", node.ended()).await;
    let filter = format!("label=weir.node={id}");
    let left = docker_at(&socket, &["ps", "--all", "--quiet", "--filter", &filter]);
    assert_eq!(left, "", "nothing is left in the engine");
}

#[tokio::test]
async fn kept_instances_start_by_themselves_once_there_is_an_engine() {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let archive = folder.path().join("image.tar").display().to_string();
    docker(&["save", "--output", &archive, engine::server()]);
    let mut own = OwnEngine::start().await;
    docker_at(&own.socket(), &["load", "--input", &archive]);
    own.stop();
    let config = format!("docker.socket = {:?}", own.socket().display().to_string());
    let node = Setup::new().config(&config).start().await;
    let kept = Function::container("kept").label("com.openfaas.scale.min", "1");
    node.create(&kept).await.expect_status(202);
    let replicas = async || {
        let status = node.manage("GET", "/system/function/kept").send().await;
        status.expect_status(200).json()["availableReplicas"].as_u64()
    };
    // Away when the function came, and then away for a while. Nobody calls it.
    for _ in 0..2 {
        eventually("no engine answers", async || {
            let status = node.status().await;
            let problem = &status["executors"]["docker"]["problem"];
            (problem.is_string() && replicas().await == Some(0)).then_some(())
        })
        .await;
        own.resume().await;
        eventually("the kept instance is there", async || {
            (replicas().await == Some(1)).then_some(())
        })
        .await;
        assert_eq!(node.settled("kept").await, "ready");
        own.stop();
    }
}

#[tokio::test]
async fn nothing_is_left_behind_by_a_stop_or_a_crash() {
    let mut node = node().await;
    node.deploy(Function::container("kept").label("com.openfaas.scale.min", "1"))
        .await;
    node.call("kept", "x").await.expect_status(200);
    let id = node.id().await;
    assert!(containers(&id).len() >= 2, "an instance and its sandbox");
    let load = (0..8).map(|_| node.get("/function/kept/sleep?30000").try_send());
    let load = futures_util::future::join_all(load);
    let old = {
        tokio::select! {
            _ = load => panic!("the calls outlast the node"),
            () = node.running(1) => {}
        }
        containers(&id)
    };
    node.kill().await;
    let mut node = node.into_setup().start().await;
    eventually("what the crash left is gone", async || {
        let now = containers(&id);
        old.iter()
            .all(|container| !now.contains(container))
            .then_some(())
    })
    .await;
    node.call("kept", "x").await.expect_status(200);
    node.terminate();
    within("the node ends", node.ended()).await;
    assert_eq!(containers(&id), Vec::<String>::new());
    let run = node.data().join("run/docker");
    assert!(!run.exists(), "no folder is left");
}

#[tokio::test]
async fn a_log_flood_is_bounded() {
    let node = node().await;
    node.deploy(Function::container("loud").timeout("60s"))
        .await;
    let reply = node.get("/function/loud/flood").send().await;
    reply.expect_status(200);
    let logs: Value = node
        .manage("GET", "/system/logs?name=loud&tail=5000")
        .send()
        .await
        .expect_status(200)
        .text()
        .lines()
        .count()
        .into();
    assert!(logs.as_u64() <= Some(1001), "{logs} lines");
    // The door is not held up by it.
    let reply = tokio::time::timeout(Duration::from_secs(60), node.call("loud", "x")).await;
    reply.expect("answers").expect_status(200);
}

#[tokio::test]
async fn the_node_itself_is_an_image_that_drives_its_hosts_engine() {
    let image = engine::agent();
    let data = tempfile::Builder::new().prefix("weir-test-").tempdir();
    let data = data.expect("the temporary folder can be written");
    let folder = data.path().display().to_string();
    let token = data.path().join("door-token");
    std::fs::write(&token, "open-sesame-open-sesame-open-sesame").expect("a file can be written");
    let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&token, owner).expect("modes can be set");
    // The README's own line, with this test's places for the usual ones.
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("the README is there");
    let line = readme.split("docker run -d --name weir ").nth(1);
    let line = line.and_then(|rest| rest.split("weir/agent").next());
    let line = line.expect("the README has the line").replace("\\\n", " ");
    let address = free_address();
    let url = format!("http://{address}");
    let socket = engine::socket().display().to_string();
    let token = token.display().to_string();
    let line = line
        .replace("/var/lib/weir", &folder)
        .replace("/var/run/docker.sock", &socket);
    let variable = |name: &str, value: &str| ["--env".to_owned(), format!("{name}={value}")];
    let mut run = vec!["run".to_owned(), "--detach".to_owned()];
    run.extend(line.split_whitespace().map(str::to_owned));
    run.extend(variable("WEIR_DATA_DIR", &folder));
    run.extend(variable("WEIR_HTTP_LISTEN", &address.to_string()));
    run.extend(variable("WEIR_DOCKER_SOCKET", &socket));
    run.extend(variable("WEIR_NODE", &url));
    run.push(image.to_owned());
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let agent = docker(&run);
    eventually("the health check says so", async || {
        let health = docker(&["inspect", "--format", "{{.State.Health.Status}}", &agent]);
        (health == "healthy").then_some(())
    })
    .await;

    let told = async |arguments: &[&str]| {
        let common = ["--node", &url, "--token-file", &token];
        let output = weir(common.iter().chain(arguments)).output().await;
        let output = output.expect("weir runs");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    };
    told(&[
        "deploy",
        "boxed",
        "--image",
        engine::server(),
        "--pull",
        "never",
    ])
    .await;
    assert_eq!(
        told(&["invoke", "boxed", "-d", "from a sibling"])
            .await
            .trim(),
        "from a sibling"
    );
    let status: Value = serde_json::from_str(&told(&["status", "--output", "json"]).await)
        .expect("a status is JSON");
    let id = status["node"].as_str().expect("a node has an id");
    assert!(!containers(id).is_empty());
    docker(&["stop", "--time", "60", &agent]);
    assert_eq!(
        containers(id),
        Vec::<String>::new(),
        "it drained and left nothing"
    );
    let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &agent]);
    docker(&["rm", &agent]);
    assert_eq!(code, "0");
    let gone = weir(["health", "--node", &url])
        .output()
        .await
        .expect("weir runs");
    assert_eq!(gone.status.code(), Some(1));
}
