//! Functions and callers that take more than their share, and requests that
//! are none: each is refused or ended, and the node serves on.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use weir_tests::client::{raw, raw_status, rest};
use weir_tests::node::{Function, Node, Setup};
use weir_tests::{eventually, pass};

/// The node still answers, holds nothing, and runs nothing.
async fn unharmed(node: &Node) {
    node.running(0).await;
    node.deploy(Function::new("neighbour", "echo")).await;
    assert_eq!(
        node.call("neighbour", "fine")
            .await
            .expect_status(200)
            .text(),
        "fine"
    );
}

#[tokio::test]
async fn a_runaway_loop_is_stopped_at_its_timeout() {
    let node = Node::start().await;
    node.deploy(Function::new("spin", "loop").timeout("200ms"))
        .await;
    node.call("spin", "").await.expect_error(504);
    unharmed(&node).await;
}

#[tokio::test]
async fn runaway_loops_on_every_core_do_not_stop_their_neighbours() {
    let node = Setup::new().config("[resources]\ncpu = 64").start().await;
    node.deploy(
        Function::new("spin", "loop")
            .timeout("10m")
            .cpu("1")
            .setting("concurrency", "64"),
    )
    .await;
    node.deploy(Function::new("neighbour", "echo")).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        calls.spawn(node.post("/function/spin").send());
    }
    node.running(8).await;
    for round in 0..20 {
        assert_eq!(
            node.call("neighbour", round.to_string())
                .await
                .expect_status(200)
                .text(),
            round.to_string()
        );
    }
    calls.shutdown().await;
    unharmed(&node).await;
}

#[tokio::test]
async fn calls_that_sleep_and_have_a_secret_hold_up_no_thread() {
    const CALLS: u32 = 16;
    const SLEEP: Duration = Duration::from_millis(500);
    let config = "[http]\nthreads = 1\n[resources]\ncpu = 64";
    let node = Setup::new().config(config).start().await;
    let secret = json!({ "name": "ms", "value": SLEEP.as_millis().to_string() });
    let made = node.manage("POST", "/system/secrets").json(&secret);
    made.send().await.expect_status(201);
    node.deploy(Function::new("paced", "pace").field("secrets", json!(["ms"])))
        .await;
    let began = Instant::now();
    let calls = (0..CALLS).map(|_| node.call("paced", ""));
    for reply in futures_util::future::join_all(calls).await {
        reply.expect_status(200);
    }
    // One after the other they would take twice that.
    let took = began.elapsed();
    assert!(took < SLEEP * CALLS / 2, "{took:?}");
}

#[tokio::test]
async fn a_memory_bomb_is_stopped_at_its_limit() {
    let node = Node::start().await;
    node.deploy(
        Function::new("bomb", "memory")
            .memory("32Mi")
            .timeout("60s"),
    )
    .await;
    for _ in 0..3 {
        node.call("bomb", "").await.expect_error(502);
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn an_output_flood_is_cut_at_its_bound() {
    let node = Setup::new()
        .config("[wasm]\noutput-bytes = \"1MiB\"")
        .start()
        .await;
    node.deploy(Function::new("flood", "output").timeout("60s"))
        .await;
    // Held until 64 KiB, so the bound falls after the answer has begun: it is
    // cut, never completed.
    match node.post("/function/flood").try_send().await {
        Err(_) => {}
        Ok(reply) => drop(reply.expect_error(502)),
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn an_output_flood_waits_for_a_reader_that_does_not_read() {
    let node = Setup::new()
        .config("[wasm]\noutput-bytes = \"1GiB\"")
        .start()
        .await;
    node.deploy(Function::new("flood", "output").timeout("1s"))
        .await;
    let answer = node
        .post("/function/flood")
        .open()
        .await
        .expect("the answer begins");
    assert_eq!(answer.status(), 200);
    // Nobody reads; its time passes nevertheless.
    node.running(0).await;
    drop(answer);
    unharmed(&node).await;
}

#[tokio::test]
async fn a_log_flood_is_bounded_and_says_what_was_dropped() {
    let node = Setup::new()
        .config("[logs]\nlines = 50\nbytes-per-second = 10000")
        .start()
        .await;
    node.deploy(Function::new("chatter", "logs").timeout("80s"))
        .await;
    node.call("chatter", "200000").await.expect_status(200);
    let kept = node
        .manage("GET", "/system/logs?name=chatter&tail=0")
        .send()
        .await
        .expect_status(200)
        .text();
    assert!(kept.lines().count() <= 51, "{} lines", kept.lines().count());
    assert!(kept.contains("dropped"), "{kept}");
    unharmed(&node).await;
}

#[tokio::test]
async fn an_endless_recursion_and_a_trap_are_the_functions_failure() {
    let node = Node::start().await;
    for guest in ["stack", "trap", "panic"] {
        node.deploy(Function::new(guest, guest)).await;
        node.call(guest, "").await.expect_error(502);
    }
    let log = eventually("the panic is in the function's log", async || {
        let log = node
            .manage("GET", "/system/logs?name=panic")
            .send()
            .await
            .text();
        log.contains("always panics").then_some(log)
    })
    .await;
    assert!(log.contains("panic"), "{log}");
    unharmed(&node).await;
}

#[tokio::test]
async fn a_nonzero_exit_is_502_and_zero_is_the_answer() {
    let node = Node::start().await;
    node.deploy(Function::new("exit", "exit")).await;
    assert_eq!(
        node.call("exit", "0").await.expect_status(200).text(),
        "leaving with 0\n"
    );
    for code in ["1", "3", "125"] {
        let told = node.call("exit", code).await.expect_error(502).text();
        assert!(told.contains(code), "{told}");
    }
    // WASI knows no status from 126 on: the system reserves them.
    node.call("exit", "255").await.expect_error(502);
}

#[tokio::test]
async fn nonsense_instead_of_a_header_block_is_502() {
    let node = Node::start().await;
    node.deploy(Function::new("nonsense", "nonsense").protocol("cgi"))
        .await;
    node.deploy(Function::new("silent", "echo").protocol("cgi"))
        .await;
    node.call("nonsense", "").await.expect_error(502);
    node.call("silent", "").await.expect_error(502);
    for block in [
        "Status: 99\r\n\r\n",
        "Status: abc\r\n\r\n",
        &"H: v\r\n".repeat(100_000),
    ] {
        let reply = node
            .post("/function/silent")
            .body(block.to_owned())
            .try_send()
            .await;
        if let Ok(reply) = reply {
            assert!(reply.status == 502, "{:.40}: {}", block, reply.status);
        }
    }
    // The node frames the body itself, whatever length the function claims.
    let reply = node
        .call("silent", "Content-Length: 5\r\n\r\nx")
        .await
        .expect_status(200);
    assert_eq!(reply.text(), "x");
    unharmed(&node).await;
}

#[tokio::test]
async fn a_function_sees_no_files_of_the_machine() {
    let node = Node::start().await;
    node.deploy(Function::new("files", "files")).await;
    let seen = node.call("files", "").await.expect_status(200).text();
    assert_eq!(
        seen.lines()
            .filter(|line| line.ends_with(" closed"))
            .count(),
        4,
        "{seen}"
    );
}

#[tokio::test]
async fn a_body_beyond_its_bound_is_413_announced_or_not() {
    let node = Setup::new()
        .config("[http]\nbody-bytes = \"10KiB\"\nasync-body-bytes = \"1KiB\"")
        .start()
        .await;
    node.deploy(Function::new("hello", "echo")).await;
    let fits = vec![0; 10 * 1024];
    node.call("hello", fits).await.expect_status(200);
    let too_large = vec![0; 10 * 1024 + 1];
    node.call("hello", too_large.clone())
        .await
        .expect_error(413);
    node.post("/async-function/hello")
        .body(vec![0; 1025])
        .send()
        .await
        .expect_error(413);

    let (request, feeder) = node.post("/function/hello").fed();
    let call = tokio::spawn(request.try_send());
    for piece in too_large.chunks(1000) {
        if feeder.send(piece.to_vec().into()).await.is_err() {
            break;
        }
    }
    drop(feeder);
    if let Ok(reply) = call.await.expect("the call ends") {
        reply.expect_error(413);
    }
    let answer = raw(
        node.address,
        b"POST /function/hello HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n",
    )
    .await;
    assert_eq!(raw_status(&answer), 413, "{answer}");
    unharmed(&node).await;
}

#[tokio::test]
async fn huge_and_numerous_headers_are_431() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let one = format!(
        "GET /function/hello HTTP/1.1\r\nhost: x\r\nx-big: {}\r\n\r\n",
        "v".repeat(2 << 20)
    );
    let many = format!(
        "GET /function/hello HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "x-n: v\r\n".repeat(20_000)
    );
    let line = format!(
        "GET /function/hello?{} HTTP/1.1\r\nhost: x\r\n\r\n",
        "q".repeat(2 << 20)
    );
    for request in [one, many] {
        let answer = raw(node.address, request.as_bytes()).await;
        assert!(matches!(raw_status(&answer), 431 | 0), "{answer:.200}");
    }
    let answer = raw(node.address, line.as_bytes()).await;
    assert!(
        matches!(raw_status(&answer), 414 | 431 | 400 | 0),
        "{answer:.200}"
    );
    unharmed(&node).await;
}

#[tokio::test]
async fn malformed_requests_are_answered_400_or_closed() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let requests: [&[u8]; 17] = [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n",
        b"POST /function/hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\nhost: x\n\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\nx-more: y\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /health z HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nbad name: x\r\n\r\n",
        b"POST /function/hello HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /function/hello HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"POST /function/hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nxx\r\n",
        b"POST /function/hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is no frame at all, and long enough to be taken for one",
    ];
    for request in requests {
        let answer = raw(node.address, request).await;
        let status = raw_status(&answer);
        assert!(
            !(200..400).contains(&status),
            "{}: {answer}",
            String::from_utf8_lossy(request)
        );
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_taken_for_a_whole_one() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let requests: [&[u8]; 2] = [
        b"POST /function/hello HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf",
        b"POST /function/hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    for request in requests {
        let mut stream = TcpStream::connect(node.address)
            .await
            .expect("the node listens");
        stream.write_all(request).await.expect("the node reads");
        stream.shutdown().await.expect("our half can be closed");
        let answer = rest(&mut stream).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    let submitted = node.metric("weir_backlog_calls", &[]).await;
    let mut stream = TcpStream::connect(node.address)
        .await
        .expect("the node listens");
    let request =
        b"POST /async-function/hello HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf";
    stream.write_all(request).await.expect("the node reads");
    stream.shutdown().await.expect("our half can be closed");
    assert!(
        !rest(&mut stream).await.contains(" 202 "),
        "half a body was accepted"
    );
    assert!(node.metric("weir_backlog_calls", &[]).await <= submitted);
    unharmed(&node).await;
}

#[tokio::test]
async fn a_client_that_never_finishes_its_headers_is_let_go() {
    let node = Setup::new()
        .config("[http]\nheader-timeout = \"300ms\"")
        .start()
        .await;
    let mut stream = TcpStream::connect(node.address)
        .await
        .expect("the node listens");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost")
        .await
        .expect("the node reads");
    let answer = rest(&mut stream).await;
    assert!(matches!(raw_status(&answer), 408 | 0), "{answer}");
    unharmed(&node).await;
}

#[tokio::test]
async fn a_client_that_stalls_in_its_body_is_told_408() {
    let node = Setup::new()
        .config("[http]\nbody-timeout = \"300ms\"")
        .start()
        .await;
    node.deploy(Function::new("hello", "echo")).await;
    for path in ["/function/hello", "/async-function/hello"] {
        let (request, feeder) = node.post(path).fed();
        let call = tokio::spawn(request.send());
        feeder.send("begun".into()).await.expect("the request runs");
        call.await.expect("the call ends").expect_error(408);
        drop(feeder);
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn idle_and_surplus_connections_are_closed() {
    let node = Setup::new()
        .config("[http]\nidle-timeout = \"300ms\"\nmax-connections = 8")
        .start()
        .await;
    let mut idle = TcpStream::connect(node.address)
        .await
        .expect("the node listens");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("the node reads");
    assert!(
        rest(&mut idle).await.contains(" 200 "),
        "answered, then closed"
    );

    let mut open = Vec::new();
    for _ in 0..40 {
        if let Ok(stream) = TcpStream::connect(node.address).await {
            open.push(stream);
        }
    }
    drop(open);
    eventually("it accepts again", async || {
        (node.get("/healthz").try_send().await.ok()?.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn beyond_its_calls_the_node_answers_429_and_when_to_come_again() {
    let node = Setup::new().config("[resources]\ncalls = 2").start().await;
    node.deploy(Function::new("hold", "echo").timeout("10m"))
        .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (request, feeder) = node.post("/function/hold").fed();
        held.push((tokio::spawn(request.send()), feeder));
    }
    node.running(2).await;
    let reply = node.call("hold", "x").await.expect_error(429);
    assert!(
        reply
            .header("retry-after")
            .parse::<u64>()
            .is_ok_and(|seconds| seconds >= 1),
        "{:?}",
        reply.headers
    );
    assert!(
        node.metric("weir_refusals_total", &["too-many-calls"])
            .await
            >= 1.0
    );
    for (call, feeder) in held {
        feeder.send("held".into()).await.expect("the call runs");
        drop(feeder);
        assert_eq!(
            call.await.expect("the call ends").expect_status(200).text(),
            "held"
        );
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn a_full_queue_is_429_and_a_released_place_serves_its_head() {
    let config =
        "[[qos]]\nname = \"only\"\npriority = 1\nqueue = 2\nmax-wait = \"10m\"\ndeadline = \"10m\"";
    let node = Setup::new().config(config).start().await;
    node.deploy(
        Function::new("one", "echo")
            .timeout("10m")
            .setting("concurrency", "1")
            .label("com.openfaas.scale.max", "1"),
    )
    .await;
    let hold = || {
        let (request, feeder) = node.post("/function/one").fed();
        (tokio::spawn(request.send()), feeder)
    };
    let (running, runner) = hold();
    node.running(1).await;
    let first = tokio::spawn(node.post("/function/one").body("first").send());
    node.waiting(1).await;
    let second = tokio::spawn(node.post("/function/one").body("second").send());
    node.waiting(2).await;
    let reply = node.call("one", "third").await.expect_error(429);
    assert!(!reply.header("retry-after").is_empty());
    drop(runner);
    assert_eq!(running.await.expect("it ends").status, 200);
    assert_eq!(
        first.await.expect("it ends").expect_status(200).text(),
        "first"
    );
    assert_eq!(
        second.await.expect("it ends").expect_status(200).text(),
        "second"
    );
}

#[tokio::test]
async fn a_call_that_waits_too_long_is_refused_and_one_past_its_deadline_is_504() {
    let config = "[[qos]]\nname = \"only\"\npriority = 1\nqueue = 8\nmax-wait = \"200ms\"\ndeadline = \"10m\"";
    let node = Setup::new().config(config).start().await;
    node.deploy(
        Function::new("one", "echo")
            .timeout("10m")
            .setting("concurrency", "1")
            .label("com.openfaas.scale.max", "1"),
    )
    .await;
    let (request, feeder) = node.post("/function/one").fed();
    let running = tokio::spawn(request.send());
    node.running(1).await;
    node.call("one", "waits").await.expect_error(429);
    node.post("/function/one")
        .header("x-weir-deadline", "50ms")
        .body("late")
        .send()
        .await
        .expect_error(504);
    drop(feeder);
    running.await.expect("it ends").expect_status(200);
}

/// A function that serves one call at a time.
fn one(guest: &str) -> Function {
    Function::new("one", guest)
        .timeout("10m")
        .setting("concurrency", "1")
        .label("com.openfaas.scale.max", "1")
}

#[tokio::test]
async fn a_call_that_would_wait_too_long_is_refused_at_once_and_told_when_to_come_again() {
    let node = Node::start().await;
    node.deploy(one("sleep")).await;
    // So the node knows how long a call takes.
    for _ in 0..3 {
        node.call("one", "600").await.expect_status(200);
    }
    let running = tokio::spawn(node.post("/function/one").body("600000").send());
    node.running(1).await;
    let mut waiting = tokio::task::JoinSet::new();
    // Five seconds hold eight of them.
    let refused = loop {
        let asked = tokio::time::Instant::now();
        waiting.spawn(node.post("/function/one").body("1").send());
        let calls = waiting.len() as u64;
        assert!(calls <= 9, "{calls} calls wait");
        tokio::select! {
            refused = waiting.join_next() => {
                let refused = refused.expect("one ends").expect("no panic");
                assert!(asked.elapsed() < Duration::from_secs(2), "it waited");
                break refused;
            }
            () = node.waiting(calls) => {}
        }
    };
    let refused = refused.expect_error(429);
    assert_eq!(refused.header("x-weir-error"), "overloaded");
    let after: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((2..=8).contains(&after), "{after} s");
    assert!(node.metric("weir_refusals_total", &["overloaded"]).await >= 1.0);
    running.abort();
    waiting.shutdown().await;
}

#[tokio::test]
async fn the_newest_call_goes_first_while_the_oldest_has_waited_for_half_of_its_time() {
    let config = "[[qos]]\nname = \"only\"\npriority = 1\nmax-wait = \"8s\"";
    let node = Setup::new().config(config).start().await;
    node.deploy(one("sleep")).await;
    let mut calls = tokio::task::JoinSet::new();
    let mut call = |name: &'static str, takes: &str| {
        let ask = node.post("/function/one").body(takes.to_owned());
        calls.spawn(async move {
            ask.send().await.expect_status(200);
            name
        });
    };
    call("running", "5000");
    node.running(1).await;
    call("oldest", "100");
    node.waiting(1).await;
    let waited = tokio::time::Instant::now();
    call("older", "100");
    node.waiting(2).await;
    pass(Duration::from_secs(4).saturating_sub(waited.elapsed())).await;
    call("newest", "100");
    node.waiting(3).await;
    let mut ended = Vec::new();
    while let Some(name) = calls.join_next().await {
        ended.push(name.expect("a client does not panic"));
    }
    assert_eq!(ended, ["running", "newest", "older", "oldest"]);
}

#[tokio::test]
async fn an_accepted_call_is_not_refused_for_load_and_keeps_its_turn() {
    let config = "[[qos]]\nname = \"only\"\npriority = 1\nqueue = 1\nmax-wait = \"100ms\"\ndeadline = \"200ms\"";
    let node = Setup::new().config(config).start().await;
    node.deploy(one("echo")).await;
    let (request, feeder) = node
        .post("/function/one")
        .header("x-weir-deadline", "10m")
        .fed();
    let running = tokio::spawn(request.send());
    node.running(1).await;
    let mut accepted = Vec::new();
    for turn in 0..4 {
        accepted.push(node.submit("one", turn.to_string()).await);
        node.waiting(turn + 1).await;
    }
    // Those who wait themselves are told meanwhile.
    node.call("one", "x").await.expect_error(429);
    node.waiting(4).await;
    drop(feeder);
    running.await.expect("it ends").expect_status(200);
    for (turn, location) in accepted.iter().enumerate() {
        let result = node.result(location).await;
        assert_eq!(result.header("x-weir-call-status"), "200");
        assert_eq!(result.text(), turn.to_string());
    }
}

#[tokio::test]
async fn a_call_that_is_refused_for_load_costs_nothing_of_its_functions_rate() {
    let config = "[[qos]]\nname = \"only\"\npriority = 1\nqueue = 0";
    let node = Setup::new().config(config).start().await;
    node.deploy(one("echo").label("dfaas.maxrate", "3")).await;
    let (request, feeder) = node.post("/function/one").fed();
    let running = tokio::spawn(request.send());
    node.running(1).await;
    for _ in 0..10 {
        let refused = node.call("one", "x").await.expect_error(429);
        assert_eq!(refused.header("x-weir-error"), "queue-full");
    }
    drop(feeder);
    running.await.expect("it ends").expect_status(200);
}

#[tokio::test]
async fn a_caller_that_leaves_the_queue_frees_its_place() {
    let config =
        "[[qos]]\nname = \"only\"\npriority = 1\nqueue = 1\nmax-wait = \"10m\"\ndeadline = \"10m\"";
    let node = Setup::new().config(config).start().await;
    node.deploy(
        Function::new("one", "echo")
            .timeout("10m")
            .setting("concurrency", "1")
            .label("com.openfaas.scale.max", "1"),
    )
    .await;
    let (request, feeder) = node.post("/function/one").fed();
    let running = tokio::spawn(request.send());
    node.running(1).await;
    for _ in 0..3 {
        let waiting = tokio::spawn(node.post("/function/one").send());
        node.waiting(1).await;
        waiting.abort();
        node.waiting(0).await;
    }
    drop(feeder);
    running.await.expect("it ends").expect_status(200);
}

#[tokio::test]
async fn a_function_that_can_never_fit_is_refused_at_deployment() {
    let node = Setup::new()
        .config("[resources]\nmemory = \"256MiB\"\ncpu = 1")
        .start()
        .await;
    node.create(&Function::new("big", "echo").memory("10Gi"))
        .await
        .expect_error(400);
    node.create(&Function::new("wide", "echo").cpu("100"))
        .await
        .expect_error(400);
    node.create(&Function::new("slow", "echo").timeout("1000h"))
        .await
        .expect_error(400);
}

#[tokio::test]
async fn the_number_of_functions_is_bounded() {
    let node = Setup::new().config("[functions]\nmax = 2").start().await;
    node.deploy(Function::new("first", "echo")).await;
    node.deploy(Function::new("second", "echo")).await;
    let reply = node.create(&Function::new("third", "echo")).await;
    assert!(
        matches!(reply.status, 409 | 429 | 507),
        "{} {}",
        reply.status,
        reply.text()
    );
    // Replacing one is no further function.
    let again = node
        .manage("PUT", "/system/functions")
        .json(&Function::new("first", "echo").body)
        .send()
        .await;
    assert!(matches!(again.status, 200 | 202), "{}", again.text());
}

#[tokio::test]
async fn the_backlog_of_asynchronous_calls_is_bounded() {
    let node = Setup::new()
        .config("[async]\nbacklog = 3\nparallel = 1")
        .start()
        .await;
    node.deploy(Function::new("sleep", "sleep").timeout("10m"))
        .await;
    for _ in 0..3 {
        node.submit("sleep", "600000").await;
    }
    let reply = node
        .post("/async-function/sleep")
        .body("1")
        .send()
        .await
        .expect_error(429);
    assert!(!reply.header("retry-after").is_empty());
}

#[tokio::test]
async fn a_result_beyond_its_bound_fails_its_call_and_not_the_node() {
    let node = Setup::new()
        .config("[async]\nresult-bytes = \"4KiB\"")
        .start()
        .await;
    node.deploy(Function::new("hello", "echo")).await;
    let location = node.submit("hello", vec![b'x'; 8 * 1024]).await;
    assert_eq!(
        node.result(&location).await.header("x-weir-call-status"),
        "502"
    );
    unharmed(&node).await;
}

#[tokio::test]
async fn an_accepted_call_that_finds_no_place_ends_with_that_in_the_end() {
    let setup = Setup::new().config("resources.calls = 1\nasync.keep-trying = \"300ms\"");
    let node = setup.start().await;
    node.deploy(Function::new("sleep", "sleep").timeout("60s"))
        .await;
    let busy = node.call("sleep", "600000");
    let waits = async {
        node.running(1).await;
        let location = node.submit("sleep", "1").await;
        node.result(&location).await
    };
    let result = tokio::select! {
        reply = busy => panic!("the busy call ended: {}", reply.text()),
        result = waits => result,
    };
    assert_eq!(result.header("x-weir-call-status"), "429");
    assert!(
        result.text().contains("too-many-calls"),
        "{}",
        result.text()
    );
}
