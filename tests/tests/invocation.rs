//! What a caller sends, what a function sees of it, and what comes back.

use http_body_util::BodyExt;
use weir_tests::client::{Ask, raw, read_until};
use weir_tests::eventually;
use weir_tests::node::{Function, Node, Setup, text};

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"];

/// The value of a variable among the lines that the guest `variables` prints.
fn variable<'a>(lines: &'a str, name: &str) -> Option<&'a str> {
    lines
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[tokio::test]
async fn the_seven_methods_path_query_and_body_reach_the_function_unchanged() {
    let node = Node::start().await;
    node.deploy(Function::new("see", "variables")).await;
    for method in METHODS {
        let reply = node
            .ask(method, "/function/see/a/b%20c//d?x=1&y=%2F&z")
            .send()
            .await
            .expect_status(200);
        if method == "HEAD" {
            assert!(reply.body.is_empty());
            continue;
        }
        let lines = reply.text();
        assert_eq!(variable(&lines, "REQUEST_METHOD"), Some(method), "{lines}");
        assert_eq!(variable(&lines, "PATH_INFO"), Some("/a/b c//d"), "{lines}");
        assert_eq!(
            variable(&lines, "QUERY_STRING"),
            Some("x=1&y=%2F&z"),
            "{lines}"
        );
        assert_eq!(
            variable(&lines, "GATEWAY_INTERFACE"),
            Some("CGI/1.1"),
            "{lines}"
        );
    }
    let reply = node
        .ask("DELETE", "/function/see")
        .body("a body")
        .send()
        .await;
    assert_eq!(variable(&reply.text(), "REQUEST_METHOD"), Some("DELETE"));
}

#[tokio::test]
async fn a_function_sees_the_callers_headers_and_its_own_variables() {
    let node = Node::start().await;
    let mut function = Function::new("see", "variables");
    function.body["envVars"] = serde_json::json!({ "GREETING": "good day", "HTTP_PROXY": "http://mine", "REQUEST_METHOD": "mine", "QUERY_STRING": "mine" });
    node.deploy(function).await;
    let reply = node
        .post("/function/see")
        .header("content-type", "text/plain")
        .header("x-mine", "one")
        .header("x-mine", "two")
        .header("ce-id", "7")
        .header("baggage", "key=value")
        .header("proxy", "http://evil")
        .header("connection", "keep-alive, x-drop")
        .header("x-drop", "dropped")
        .header("keep-alive", "timeout=5")
        .header("te", "trailers")
        .header("x-weir-deadline", "30s")
        .header("x-weir-forged", "yes")
        .header("dfaas-node-id", "forged")
        .header("x-call-id", "caller-7")
        .header("x-weir-call-id", "forged")
        .body("12345")
        .send()
        .await
        .expect_status(200);
    let lines = reply.text();
    let is = |name: &str, value: Option<&str>| {
        assert_eq!(variable(&lines, name), value, "{name} in\n{lines}")
    };
    is("CONTENT_TYPE", Some("text/plain"));
    is("CONTENT_LENGTH", Some("5"));
    // What describes the request is of the request alone.
    for (name, value) in [("REQUEST_METHOD", "POST"), ("QUERY_STRING", "")] {
        is(name, Some(value));
        let found = lines.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(found, 1, "{name} in\n{lines}");
    }
    is("GREETING", Some("good day"));
    // The deployer may; a caller never may (httpoxy).
    is("HTTP_PROXY", Some("http://mine"));
    is("HTTP_CE_ID", Some("7"));
    is("HTTP_BAGGAGE", Some("key=value"));
    is("HTTP_X_CALL_ID", Some("caller-7"));
    for dropped in [
        "HTTP_X_DROP",
        "HTTP_KEEP_ALIVE",
        "HTTP_CONNECTION",
        "HTTP_X_WEIR_FORGED",
        "HTTP_DFAAS_NODE_ID",
    ] {
        is(dropped, None);
    }
    assert!(
        variable(&lines, "HTTP_X_MINE")
            .is_some_and(|value| value.contains("one") && value.contains("two")),
        "{lines}"
    );
    assert!(
        variable(&lines, "HTTP_X_START_TIME").is_some_and(|value| value.parse::<u128>().is_ok()),
        "{lines}"
    );
    assert_eq!(
        variable(&lines, "HTTP_X_FORWARDED_HOST"),
        Some(node.address.to_string().as_str()),
        "{lines}"
    );
    is("HTTP_X_FORWARDED_FOR", Some("127.0.0.1"));
    assert_eq!(reply.header("x-call-id"), "caller-7");
    let id = reply.header("x-weir-call-id");
    assert_ne!(id, "forged");
    is("HTTP_X_WEIR_CALL_ID", Some(id));
}

#[tokio::test]
async fn no_caller_can_set_a_functions_proxy() {
    let node = Node::start().await;
    node.deploy(Function::new("see", "variables")).await;
    let lines = node
        .get("/function/see")
        .header("proxy", "http://evil")
        .send()
        .await
        .text();
    assert_eq!(variable(&lines, "HTTP_PROXY"), None, "{lines}");
}

#[tokio::test]
async fn a_valid_trace_is_passed_on_with_a_new_span_and_an_invalid_one_is_not() {
    let node = Node::start().await;
    node.deploy(Function::new("see", "variables")).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let lines = node
        .get("/function/see")
        .header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"))
        .header("tracestate", "a=1,b=2")
        .send()
        .await
        .text();
    let seen = variable(&lines, "HTTP_TRACEPARENT").expect("a trace is passed on");
    let parts: Vec<&str> = seen.split('-').collect();
    assert_eq!(
        (parts[0], parts[1], parts[3]),
        ("00", trace, "01"),
        "{seen}"
    );
    assert_eq!(variable(&lines, "HTTP_TRACESTATE"), Some("a=1,b=2"));

    for wrong in [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "garbage",
        "00-4bf9-00f0-01",
    ] {
        let lines = node
            .get("/function/see")
            .header("traceparent", wrong)
            .header("tracestate", "a=1")
            .send()
            .await
            .text();
        assert_ne!(variable(&lines, "HTTP_TRACEPARENT"), Some(wrong), "{lines}");
        assert_eq!(variable(&lines, "HTTP_TRACESTATE"), None, "{lines}");
    }
}

#[tokio::test]
async fn every_answer_says_who_ran_it_how_it_started_and_what_took_the_time() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let first = node.call("hello", "x").await.expect_status(200);
    let second = node.call("hello", "x").await.expect_status(200);
    for reply in [&first, &second] {
        assert!(!reply.header("x-weir-node").is_empty());
        let timing = reply.header("server-timing");
        for phase in ["queue;dur=", "start;dur=", "run;dur="] {
            assert!(timing.contains(phase), "{timing}");
        }
        assert_eq!(reply.header("x-weir-error"), "");
        assert!(!reply.header("x-call-id").is_empty());
    }
    assert_eq!(second.header("x-weir-start"), "warm");
    assert_ne!(first.header("x-call-id"), second.header("x-call-id"));
    assert_eq!(
        first.header("x-weir-node"),
        node.call("nobody", "").await.header("x-weir-node")
    );
}

#[tokio::test]
async fn the_first_call_is_cold_and_the_next_is_warm_until_the_keep_alive_ends() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo").setting("keep-alive", "50ms"))
        .await;
    assert_eq!(node.call("hello", "x").await.header("x-weir-start"), "cold");
    eventually("it is cold again", async || {
        let status = node
            .manage("GET", "/system/function/hello")
            .send()
            .await
            .json();
        (status["replicas"].as_f64() == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(node.call("hello", "x").await.header("x-weir-start"), "cold");
}

#[tokio::test]
async fn what_stays_until_its_room_is_wanted_outlives_what_stays_for_a_time() {
    let config = "[functions]\nkeep-alive-policy = \"greedy-dual\"";
    let node = Setup::new().config(config).start().await;
    let own = |name: &str| Function::new(name, "echo").setting("keep-alive", "50ms");
    node.deploy(own("stays")).await;
    node.deploy(own("goes").setting("keep-alive-policy", "fixed"))
        .await;
    for name in ["stays", "goes"] {
        assert_eq!(node.call(name, "x").await.header("x-weir-start"), "cold");
    }
    let instances = async |name: &str| node.metric("weir_instances", &[name]).await;
    eventually("its time is over", async || {
        (instances("goes").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(node.call("stays", "x").await.header("x-weir-start"), "warm");
    assert_eq!(node.call("goes", "x").await.header("x-weir-start"), "cold");
    let shown = node.weir(["describe", "goes"]).await;
    assert!(
        text(&shown.stdout).contains("fixed"),
        "{}",
        text(&shown.stdout)
    );
    let wrong = own("wrong").setting("keep-alive-policy", "for-ever");
    let refused = node.manage("POST", "/system/functions").json(&wrong.body);
    let refused = refused.send().await.expect_status(400).text();
    assert!(refused.contains("greedy-dual"), "{refused}");
}

#[tokio::test]
async fn a_functions_own_status_and_headers_pass_but_not_the_nodes() {
    let node = Node::start().await;
    node.deploy(Function::new("made", "cgi").protocol("cgi"))
        .await;
    for status in [200, 201, 204, 302, 304, 400, 404, 418, 429, 500, 503, 599] {
        let reply = node
            .post(&format!("/function/made?{status}"))
            .send()
            .await
            .expect_status(status);
        assert_eq!(
            reply.header("x-weir-error"),
            "",
            "the function's own {status}"
        );
        assert_eq!(reply.header("x-guest"), "yes");
        assert_ne!(reply.header("x-weir-node"), "forged");
        assert_ne!(reply.header("x-call-id"), "forged");
        let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["first=1", "second=2"]);
        if status == 200 {
            assert_eq!(reply.header("content-type"), "text/x-weir");
        }
    }
}

#[tokio::test]
async fn bodies_of_any_size_come_back_whole() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo").memory("64Mi"))
        .await;
    for length in [0, 1, 4096, 65_535, 65_536, 65_537, 1 << 20, 3 << 20] {
        let body: Vec<u8> = (0..length)
            .map(|index: u32| index.to_le_bytes()[0] ^ index.to_le_bytes()[1])
            .collect();
        let reply = node.call("hello", body.clone()).await.expect_status(200);
        assert!(
            reply.body == body,
            "{length} bytes came back as {}",
            reply.body.len()
        );
    }
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_spoken_on_the_same_door() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let body = vec![7; 300_000];
    let reply = node
        .post("/function/hello")
        .http2()
        .body(body.clone())
        .send()
        .await
        .expect_status(200);
    assert!(reply.body == body);
    node.get("/function/nobody")
        .http2()
        .send()
        .await
        .expect_error(404);
    node.manage("GET", "/system/functions")
        .http2()
        .send()
        .await
        .expect_status(200);
}

#[tokio::test]
async fn events_stream_both_ways_while_the_call_runs() {
    let node = Node::start().await;
    node.deploy(Function::new("talk", "conversation").protocol("cgi"))
        .await;
    for http2 in [false, true] {
        let request = node
            .post("/function/talk")
            .header("accept", "text/event-stream");
        let (request, feeder) = if http2 { request.http2() } else { request }.fed();
        let opened = tokio::spawn(request.open());
        feeder.send("one\n".into()).await.expect("the call runs");
        let mut answer = opened
            .await
            .expect("the task ends")
            .expect("the answer begins before the request ends");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        read_until(answer.body_mut(), "data: one\n\n").await;
        feeder.send("two\n".into()).await.expect("the call runs");
        read_until(answer.body_mut(), "data: two\n\n").await;
        drop(feeder);
        weir_tests::within("the stream ends", async {
            while let Some(frame) = answer.body_mut().frame().await {
                frame.expect("it ends cleanly");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_is_cut_and_never_completed() {
    let node = Node::start().await;
    node.deploy(Function::new("break", "breaks").protocol("cgi"))
        .await;
    let (request, feeder) = node.post("/function/break").fed();
    let opened = tokio::spawn(request.open());
    let mut answer = opened
        .await
        .expect("the task ends")
        .expect("the answer begins");
    assert_eq!(answer.status(), 200);
    read_until(answer.body_mut(), "the beginning").await;
    drop(feeder);
    let broken = weir_tests::within("the stream ends", async {
        loop {
            match answer.body_mut().frame().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return true,
                None => return false,
            }
        }
    })
    .await;
    assert!(broken, "the answer looked complete");
    eventually("it counts as failed", async || {
        (node
            .metric("weir_invocations_total", &["break", "failed"])
            .await
            >= 1.0
            || node
                .metric("weir_invocations_total", &["break", "502"])
                .await
                >= 1.0)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_the_call() {
    use tokio::io::AsyncWriteExt;
    let node = Node::start().await;
    for (name, guest) in [("spin", "loop"), ("hold", "echo")] {
        node.deploy(Function::new(name, guest).timeout("10m")).await;
        let mut caller = tokio::net::TcpStream::connect(node.address)
            .await
            .expect("the node listens");
        let head =
            format!("POST /function/{name} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhalf");
        caller
            .write_all(head.as_bytes())
            .await
            .expect("the node reads");
        node.running(1).await;
        drop(caller);
        node.running(0).await;
    }
}

#[tokio::test]
async fn a_deadline_counts_from_arrival_and_may_be_any_duration() {
    let node = Node::start().await;
    node.deploy(Function::new("spin", "loop").timeout("10m"))
        .await;
    for deadline in ["150ms", "1s", "100"] {
        node.post("/function/spin")
            .header("x-weir-deadline", deadline)
            .send()
            .await
            .expect_error(504);
    }
    for wrong in ["", "soon", "-1s", "1 parsec"] {
        node.post("/function/spin")
            .header("x-weir-deadline", wrong)
            .send()
            .await
            .expect_error(400);
    }
    node.running(0).await;
}

#[tokio::test]
async fn classes_are_those_that_the_deployment_grants() {
    let config = r#"
        [[qos]]
        name = "normal"
        priority = 10
        [[qos]]
        name = "urgent"
        priority = 100
    "#;
    let node = Setup::new().config(config).start().await;
    node.deploy(Function::new("plain", "echo")).await;
    node.deploy(Function::new("fast", "echo").setting("qos", "normal,urgent"))
        .await;
    node.post("/function/fast")
        .header("x-weir-qos", "urgent")
        .send()
        .await
        .expect_status(200);
    node.post("/function/fast")
        .header("x-weir-qos", "normal")
        .send()
        .await
        .expect_status(200);
    for (function, class) in [("plain", "urgent"), ("fast", "royal")] {
        let reply = node
            .post(&format!("/function/{function}"))
            .header("x-weir-qos", class)
            .send()
            .await;
        assert!(
            matches!(reply.status, 400 | 403),
            "{} {}",
            reply.status,
            reply.text()
        );
    }
    let reply = node
        .create(&Function::new("odd", "echo").setting("qos", "royal"))
        .await;
    reply.expect_error(400);
}

#[tokio::test]
async fn an_unknown_function_is_404_for_every_method_and_both_routes() {
    let node = Node::start().await;
    for method in METHODS {
        let reply = node
            .ask(method, "/function/nobody")
            .send()
            .await
            .expect_status(404);
        assert!(!reply.header("x-weir-error").is_empty());
    }
    node.post("/async-function/nobody")
        .send()
        .await
        .expect_error(404);
    node.get("/function/").send().await.expect_error(400);
    node.get("/function/a%00b").send().await.expect_error(400);
    node.get(&format!("/function/{}", "n".repeat(1000)))
        .send()
        .await
        .expect_error(400);
}

#[tokio::test]
async fn asynchronous_calls_answer_202_and_keep_their_result() {
    let node = Node::start().await;
    node.deploy(Function::new("made", "cgi").protocol("cgi"))
        .await;
    let reply = node
        .post("/async-function/made?418")
        .header("x-call-id", "mine")
        .body("later")
        .send()
        .await
        .expect_status(202);
    assert!(reply.body.is_empty());
    let location = reply.header("location").to_owned();
    assert_eq!(reply.header("x-call-id"), "mine");
    // A result's key is of the node's making.
    let id = reply.header("x-weir-call-id").to_owned();
    assert_eq!(location, format!("/weir/v1/calls/{id}"));
    let result = node.result(&location).await;
    assert_eq!(result.header("x-call-id"), "mine");
    assert_eq!(result.header("x-weir-call-id"), id);
    assert_eq!(result.header("x-weir-call-status"), "418");
    assert_eq!(result.header("content-type"), "text/x-weir");
    assert_eq!(result.header("x-guest"), "yes");
    assert_eq!(result.text(), "later");
    // The function sees the same two.
    node.deploy(Function::new("see", "variables")).await;
    let ask = node.post("/async-function/see").header("x-call-id", "mine");
    let reply = ask.send().await.expect_status(202);
    let lines = node.result(reply.header("location")).await.text();
    assert_eq!(variable(&lines, "HTTP_X_CALL_ID"), Some("mine"));
    let id = reply.header("x-weir-call-id");
    assert_eq!(variable(&lines, "HTTP_X_WEIR_CALL_ID"), Some(id), "{lines}");
    // Reading a result does not use it up.
    assert_eq!(node.result(&location).await.text(), "later");

    node.get(&format!("/weir/v1/calls/{}", "0".repeat(32)))
        .send()
        .await
        .expect_error(404);
    for wrong in ["x", "..%2f..", &"f".repeat(500)] {
        let reply = node.get(&format!("/weir/v1/calls/{wrong}")).send().await;
        assert!(
            matches!(reply.status, 400 | 404),
            "{wrong}: {}",
            reply.status
        );
    }
}

#[tokio::test]
async fn a_functions_own_failure_is_its_asynchronous_result_and_is_not_repeated() {
    let node = Node::start().await;
    node.deploy(Function::new("exit", "exit")).await;
    node.deploy(Function::new("spin", "loop").timeout("100ms"))
        .await;
    for (name, body, status) in [("exit", "3", "502"), ("spin", "", "504")] {
        let location = node.submit(name, body).await;
        assert_eq!(
            node.result(&location).await.header("x-weir-call-status"),
            status,
            "{name}"
        );
    }
    let status = node
        .manage("GET", "/system/function/exit")
        .send()
        .await
        .json();
    assert_eq!(status["invocationCount"].as_f64(), Some(1.0), "{status}");
}

/// Answers every connection with 200 and hands over what it was sent.
async fn listener() -> (String, tokio::sync::mpsc::Receiver<String>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener
        .local_addr()
        .expect("a bound listener has an address");
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&request).contains("THE END") {
                match stream.read(&mut buffer).await {
                    Ok(length) if length > 0 => request.extend_from_slice(&buffer[..length]),
                    _ => break,
                }
            }
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
            if sender
                .send(String::from_utf8_lossy(&request).into_owned())
                .await
                .is_err()
            {
                return;
            }
        }
    });
    (format!("http://{address}/callback"), receiver)
}

#[tokio::test]
async fn callbacks_carry_the_result_and_how_it_came() {
    let node = Setup::new()
        .config("[async]\ncallback-local = true")
        .start()
        .await;
    node.deploy(Function::new("made", "cgi").protocol("cgi"))
        .await;
    let (url, mut requests) = listener().await;
    let reply = node
        .post("/async-function/made?201")
        .header("x-callback-url", &url)
        .body("THE END")
        .send()
        .await
        .expect_status(202);
    let call = reply.header("x-weir-call-id").to_owned();
    let request = weir_tests::within("the callback comes", requests.recv())
        .await
        .expect("the listener runs");
    let lower = request.to_lowercase();
    assert!(request.starts_with("POST /callback HTTP/1.1"), "{request}");
    for header in [
        format!("x-call-id: {call}"),
        format!("x-weir-call-id: {call}"),
        "x-function-status: 201".into(),
        "x-function-name: made".into(),
        "x-duration-seconds: 0.".into(),
        "x-guest: yes".into(),
    ] {
        assert!(lower.contains(&header), "{header} not in {request}");
    }
    assert!(request.ends_with("THE END"), "{request}");
}

#[tokio::test]
async fn callbacks_reach_no_local_address_unless_the_owner_says_so() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let (url, mut requests) = listener().await;
    let port = url.rsplit(':').next().expect("a URL has a port");
    for local in [
        url.clone(),
        format!("http://localhost:{port}"),
        format!("http://[::ffff:127.0.0.1]:{port}"),
        format!("http://2130706433:{port}"),
    ] {
        let reply = node
            .post("/async-function/hello")
            .header("x-callback-url", &local)
            .body("THE END")
            .send()
            .await;
        // Refused at once, or accepted and then not delivered.
        if reply.status == 202 {
            node.result(reply.header("location")).await;
        } else {
            reply.expect_error(400);
        }
    }
    for wrong in [
        "",
        "not a url",
        "ftp://example.org",
        "file:///etc/passwd",
        "http://",
    ] {
        node.post("/async-function/hello")
            .header("x-callback-url", wrong)
            .send()
            .await
            .expect_error(400);
    }
    assert!(
        requests.try_recv().is_err(),
        "a callback reached a local address"
    );
}

#[tokio::test]
async fn the_default_port_of_a_raw_http10_client_is_answered_too() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let answer = raw(
        node.address,
        b"POST /function/hello HTTP/1.0\r\ncontent-length: 3\r\n\r\nold",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.") && answer.contains(" 200 ") && answer.ends_with("old"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_hundred_callers_at_once_are_all_answered_with_their_own_body() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..100_u32 {
        let ask: Ask = node
            .post("/function/hello")
            .header("x-weir-deadline", "60s")
            .body(number.to_string());
        calls.spawn(async move { (number, ask.send().await) });
    }
    while let Some(done) = calls.join_next().await {
        let (number, reply) = done.expect("no call panics");
        assert_eq!((reply.status, reply.text()), (200, number.to_string()));
    }
    assert_eq!(node.status().await["running"], 0);
}
