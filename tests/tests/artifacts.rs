//! Code on its way to a node: uploads, and modules that are none.

use weir_tests::client::Ask;
use weir_tests::guests::{Guest, guest, hex};
use weir_tests::node::{Function, Node, Setup};

fn upload(node: &Node, digest: &str, bytes: impl Into<bytes::Bytes>) -> Ask {
    node.manage("PUT", &format!("/weir/v1/artifacts/{digest}"))
        .body(bytes)
}

#[tokio::test]
async fn an_artifact_is_there_after_its_upload_and_not_before() {
    let node = Node::start().await;
    let code = guest("echo");
    let path = format!("/weir/v1/artifacts/{}", code.digest);
    node.manage("HEAD", &path).send().await.expect_status(404);
    upload(&node, &code.digest, code.bytes.clone())
        .send()
        .await
        .expect_status(201);
    let head = node.manage("HEAD", &path).send().await.expect_status(200);
    assert_eq!(head.header("content-length"), code.bytes.len().to_string());
    upload(&node, &code.digest, code.bytes.clone())
        .send()
        .await
        .expect_status(200);
}

#[tokio::test]
async fn an_upload_must_be_what_it_says() {
    let node = Node::start().await;
    let code = guest("echo");
    let other = hex(b"something else");
    let told = upload(&node, &other, code.bytes.clone())
        .send()
        .await
        .expect_error(400)
        .text();
    assert!(
        told.contains(&code.digest),
        "the true digest is told: {told}"
    );
    node.manage("HEAD", &format!("/weir/v1/artifacts/{other}"))
        .send()
        .await
        .expect_status(404);
    for digest in ["abc", &"g".repeat(64), &"ab".repeat(33)] {
        upload(&node, digest, "x").send().await.expect_error(400);
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let node = Node::start().await;
    let code = guest("echo");
    let path = format!("/weir/v1/artifacts/{}", code.digest);
    let (request, feeder) = node
        .manage("PUT", &path)
        .header("content-length", "100000")
        .fed();
    let sending = tokio::spawn(request.try_send());
    feeder
        .send(code.bytes.slice(..100))
        .await
        .expect("the request runs");
    drop(feeder);
    let _ = sending.await.expect("the request ends");
    node.manage("HEAD", &path).send().await.expect_status(404);
    upload(&node, &code.digest, code.bytes.clone())
        .send()
        .await
        .expect_status(201);
}

#[tokio::test]
async fn uploads_are_bounded_each_and_together() {
    let node = Setup::new()
        .config("[artifacts]\nmax-bytes = \"64KiB\"\ndisk-bytes = \"100KiB\"")
        .start()
        .await;
    let piece = |fill: u8, length: usize| {
        let bytes = vec![fill; length];
        (hex(&bytes), bytes)
    };
    let (digest, bytes) = piece(1, 65 * 1024);
    upload(&node, &digest, bytes).send().await.expect_error(413);
    let (digest, bytes) = piece(2, 60 * 1024);
    upload(&node, &digest, bytes)
        .send()
        .await
        .expect_status(201);
    let (digest, bytes) = piece(3, 60 * 1024);
    upload(&node, &digest, bytes).send().await.expect_error(507);
    let (digest, bytes) = piece(4, 20 * 1024);
    upload(&node, &digest, bytes)
        .send()
        .await
        .expect_status(201);
}

#[tokio::test]
async fn an_upload_beyond_its_bound_is_stopped_while_it_streams() {
    let node = Setup::new()
        .config("[artifacts]\nmax-bytes = \"64KiB\"")
        .start()
        .await;
    let (request, feeder) = node
        .manage("PUT", &format!("/weir/v1/artifacts/{}", "ab".repeat(32)))
        .fed();
    let sending = tokio::spawn(request.try_send());
    // No length is announced; the node must count.
    for _ in 0..64 {
        if feeder.send(vec![0; 16 * 1024].into()).await.is_err() {
            break;
        }
    }
    drop(feeder);
    if let Ok(reply) = sending.await.expect("the request ends") {
        reply.expect_error(413);
    }
    node.get("/healthz").send().await.expect_status(200);
}

#[tokio::test]
async fn what_is_no_module_is_refused_at_deployment() {
    let node = Node::start().await;
    let broken = [
        ("empty", Vec::new()),
        ("text", b"hello, this is no module".to_vec()),
        ("header-only", b"\0asm\x01\0\0\0".to_vec()),
        ("bad-version", b"\0asm\x63\0\0\0".to_vec()),
        (
            "cut",
            guest("echo").bytes[..guest("echo").bytes.len() / 2].to_vec(),
        ),
        ("component-header", b"\0asm\x0d\0\x01\0".to_vec()),
        ("component-cut", guest("proxy").bytes[..20_000].to_vec()),
        ("open-text", b"(module (func".to_vec()),
        ("elf", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec()),
        (
            "long-section",
            b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff\x0f".to_vec(),
        ),
    ];
    for (name, bytes) in broken {
        let reply = node
            .create(&Function::of(name, Guest::from_bytes(name, bytes)))
            .await;
        // Most is seen at once; what only the compiler sees shows as the state.
        if reply.status == 202 {
            assert!(node.settled(name).await.starts_with("failed"), "{name}");
            node.call(name, "").await.expect_error(503);
        } else {
            reply.expect_error(400);
        }
    }
    let mut scrambled = guest("echo").bytes.to_vec();
    let middle = scrambled.len() / 2;
    for byte in &mut scrambled[middle..] {
        *byte ^= 0x55;
    }
    let reply = node
        .create(&Function::of(
            "scrambled",
            Guest::from_bytes("scrambled", scrambled),
        ))
        .await;
    assert!(
        reply.status == 400 || node.settled("scrambled").await.starts_with("failed"),
        "{}",
        reply.text()
    );
    node.get("/healthz").send().await.expect_status(200);
}

#[tokio::test]
async fn a_module_without_a_way_in_or_with_foreign_imports_is_refused_by_name() {
    let node = Node::start().await;
    let told = node
        .create(&Function::new("foreign", "unknown-import"))
        .await
        .expect_error(400)
        .text();
    assert!(told.contains("elsewhere"), "{told}");
    let told = node
        .create(&Function::new("closed", "no-start"))
        .await
        .expect_error(400)
        .text();
    assert!(told.contains("_start"), "{told}");
    let told = node
        .create(&Function::new("wrong", "echo").protocol("http"))
        .await
        .expect_error(400)
        .text();
    assert!(told.contains("http"), "{told}");
}

#[tokio::test]
async fn compiled_code_is_not_accepted_from_outside() {
    let node = Node::start().await;
    // The first bytes of what wasmtime's compiler writes: an ELF of its own.
    let mut compiled = b"\x7fELF\x02\x01\x01\xc8\0\0\0\0\0\0\0\0".to_vec();
    compiled.extend([0; 4096]);
    node.create(&Function::of(
        "native",
        Guest::from_bytes("native", compiled),
    ))
    .await
    .expect_error(400);
}

#[tokio::test]
async fn an_update_serves_new_code_and_lets_the_old_end() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let (request, feeder) = node.post("/function/hello").fed();
    let running = tokio::spawn(request.send());
    feeder.send("old ".into()).await.expect("the call runs");
    node.running(1).await;
    let new = Function::new("hello", "hello.wat");
    node.upload(&guest("hello.wat")).await;
    let reply = node
        .manage("PUT", "/system/functions")
        .json(&new.body)
        .send()
        .await;
    assert!(matches!(reply.status, 200 | 202), "{}", reply.text());
    weir_tests::eventually("new calls run the new code", async || {
        (node.call("hello", "").await.text() == "hello from text\n").then_some(())
    })
    .await;
    feeder
        .send("code".into())
        .await
        .expect("the old call still runs");
    drop(feeder);
    assert_eq!(
        running
            .await
            .expect("the call ends")
            .expect_status(200)
            .text(),
        "old code"
    );
}
