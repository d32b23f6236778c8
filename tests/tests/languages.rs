//! Functions in the languages that people write: the same facts for each.

use std::time::{Duration, Instant};

use serde_json::json;
use weir_tests::client::read_until;
use weir_tests::guests::Guest;
use weir_tests::node::{Function, Node};

#[tokio::test]
async fn rust_with_its_standard_library_runs() {
    let node = Node::start().await;
    node.deploy(Function::new("greet", "hello.rs")).await;
    let reply = node
        .ask("PUT", "/function/greet")
        .body("dear reader")
        .send()
        .await
        .expect_status(200);
    assert_eq!(
        reply.text(),
        "hello dear reader from Rust by PUT: 2 words\n"
    );
}

#[tokio::test]
async fn text_is_code_too() {
    let node = Node::start().await;
    node.deploy(Function::new("text", "hello.wat")).await;
    assert_eq!(
        node.call("text", "").await.expect_status(200).text(),
        "hello from text\n"
    );
}

#[tokio::test]
async fn a_compiled_http_component_answers_and_streams() {
    let node = Node::start().await;
    node.deploy(Function::new("proxy", "proxy").protocol("http"))
        .await;
    let reply = node
        .ask("PATCH", "/function/proxy/deep/path?418&x")
        .body("body")
        .send()
        .await
        .expect_status(418);
    assert_eq!(reply.text(), "PATCH /deep/path?418&x\nbody");
    let large = vec![b'x'; 1 << 20];
    let reply = node.call("proxy", large.clone()).await.expect_status(200);
    assert!(reply.body.ends_with(&large));

    let (request, feeder) = node.post("/function/proxy").fed();
    let opened = tokio::spawn(request.open());
    let mut answer = opened
        .await
        .expect("the task ends")
        .expect("the answer begins");
    read_until(answer.body_mut(), "POST /").await;
    feeder.send("first".into()).await.expect("the call runs");
    read_until(answer.body_mut(), "first").await;
    feeder.send("second".into()).await.expect("the call runs");
    read_until(answer.body_mut(), "second").await;
}

#[tokio::test]
async fn a_components_kind_is_read_from_its_bytes() {
    let node = Node::start().await;
    node.deploy(Function::new("proxy", "proxy")).await;
    node.call("proxy", "x").await.expect_status(200);
}

#[tokio::test]
async fn python_answers_as_a_component() {
    let node = Node::start().await;
    node.deploy(
        Function::new("python", "python")
            .protocol("http")
            .memory("128Mi")
            .timeout("60s"),
    )
    .await;
    for round in 0..3 {
        let reply = node
            .post(&format!("/function/python/round/{round}?q=1"))
            .body("content")
            .send()
            .await
            .expect_status(200);
        assert_eq!(
            reply.text(),
            format!("python saw /round/{round}?q=1: content")
        );
        assert_eq!(reply.header("content-type"), "text/plain");
    }
    let node = node.crash().await;
    let reply = node.call("python", "again").await.expect_status(200);
    assert!(reply.text().ends_with("again"), "{}", reply.text());
}

#[tokio::test]
async fn a_model_takes_its_time_and_copies_its_input() {
    let node = Node::start().await;
    let model = json!({"simulated": {
        "processor": {"name": "arm", "speed": 1000.0, "cores": 1, "memory": 1000},
        "workers": 1,
        "operations": {"offset": 300.0},
        "memory": {"per-byte": 100.0},
    }});
    let model = Guest::from_bytes("model", model.to_string());
    node.deploy(Function::of("model", model)).await;
    let began = Instant::now();
    assert_eq!(
        node.call("model", "as it was")
            .await
            .expect_status(200)
            .text(),
        "as it was"
    );
    // 300 operations at 1,000 a second; a slow machine only takes longer.
    assert!(began.elapsed() >= Duration::from_millis(300));
    let told = node
        .call("model", "eleven bytes")
        .await
        .expect_error(502)
        .text();
    assert!(told.contains("arm"), "{told}");
    let broken = Guest::from_bytes("broken", "{\"simulated\": {\"wrokers\": 1}}");
    node.upload(&broken).await;
    let reply = node.create(&Function::of("broken", broken)).await;
    let told = reply.expect_error(400).text();
    assert!(told.contains("wrokers"), "{told}");
}
