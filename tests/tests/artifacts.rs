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

/// A command in WebAssembly text that writes `yes` or what else lies at 16,
/// after `work` has run; `more` is what else the module has.
fn command(more: &str, work: &str) -> Vec<u8> {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            {more}
            (data (i32.const 16) "no!")
            (data (i32.const 32) "yes")
            (func $work {work})
            (func (export "_start")
                (call $work)
                (i32.store (i32.const 0) (i32.const 16))
                (i32.store (i32.const 4) (i32.const 3))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    )
    .into_bytes()
}

/// Moves `yes` to where the answer is, if `number` (on the stack) is 42.
const SAY_YES: &str = "(if (i32.eq (i32.const 42))
    (then (memory.copy (i32.const 16) (i32.const 32) (i32.const 3))))";

#[tokio::test]
async fn what_is_on_of_webassembly_is_checked_compiled_and_run_alike() {
    let node = Node::start().await;
    let cases = [
        (
            "two-memories",
            "(memory $m 1)",
            "(i32.store $m (i32.const 5) (i32.const 42)) (i32.load $m (i32.const 5))",
        ),
        (
            "four-memories",
            "(memory 1) (memory 1) (memory $m 1)",
            "(i32.store $m (i32.const 5) (i32.const 42)) (i32.load $m (i32.const 5))",
        ),
        (
            "memory64",
            "(memory $m i64 1)",
            "(i32.store $m (i64.const 5) (i32.const 42)) (i32.load $m (i64.const 5))",
        ),
        (
            "tail-calls",
            "(func $down (param $n i32) (result i32)
                (if (i32.eqz (local.get $n)) (then (return (i32.const 42))))
                (return_call $down (i32.sub (local.get $n) (i32.const 1))))",
            "(call $down (i32.const 3000000))",
        ),
        (
            "exceptions",
            "(tag $e (param i32))",
            "(block $caught (result i32)
                (try_table (catch $e $caught) (throw $e (i32.const 42))) (i32.const 0))",
        ),
        (
            "gc",
            "(type $pair (struct (field i32) (field (mut i32))))",
            "(struct.get $pair 1 (struct.new $pair (i32.const 1) (i32.const 42)))",
        ),
        (
            "function-references",
            "(type $f (func (result i32))) (func $g (type $f) (i32.const 42))
             (elem declare func $g)",
            "(call_ref $f (ref.func $g))",
        ),
        (
            "simd",
            "",
            "(i32x4.extract_lane 0 (i32x4.relaxed_trunc_f32x4_s (f32x4.splat (f32.const 42))))",
        ),
        (
            "tables",
            "(table 65536 funcref) (table 1 externref) (table 1 funcref) (table 1 funcref)",
            "(i32.const 42)",
        ),
    ];
    for (name, more, number) in cases {
        let code = command(more, &format!("{number} {SAY_YES}"));
        node.deploy(Function::of(name, Guest::from_bytes(name, code)))
            .await;
        for _ in 0..2 {
            let reply = node.call(name, "").await.expect_status(200);
            assert_eq!(reply.text(), "yes", "{name}");
        }
    }
    // What lies in a heap of the engine's counts as memory, too.
    let hoard = "(type $list (array (mut i64)))
        (type $link (struct (field (ref null $link)) (field (ref $list))))";
    let work = "(local $l (ref null $link)) (loop $more
        (local.set $l (struct.new $link (local.get $l) (array.new_default $list (i32.const 65536))))
        (br $more))";
    let code = command(hoard, work);
    let hoards = Function::of("hoards", Guest::from_bytes("hoards", code)).timeout("20s");
    node.deploy(hoards.memory("32Mi")).await;
    let told = node.call("hoards", "").await.expect_error(502).text();
    assert!(told.contains("memory"), "{told}");
    node.call("gc", "").await.expect_status(200);
}

#[tokio::test]
async fn what_no_sandbox_holds_is_refused_at_deployment_with_its_name() {
    let node = Node::start().await;
    let cases = [
        ("memories", "(memory 1)".repeat(4), "5 memories"),
        ("tables", "(table 1 funcref)".repeat(5), "5 tables"),
        (
            "elements",
            "(table 65537 funcref)".to_owned(),
            "65537 elements",
        ),
        ("large", "(memory 2000)".to_owned(), "raise the limit"),
        ("threads", "(memory 1 1 shared)".to_owned(), "threads"),
        (
            "pages",
            "(memory 1 (pagesize 1))".to_owned(),
            "custom page sizes",
        ),
        (
            "legacy",
            "(func try nop catch_all nop end)".to_owned(),
            "-wasm-use-legacy-eh=false",
        ),
    ];
    for (name, more, told) in cases {
        let code = command(&more, "");
        let function = Function::of(name, Guest::from_bytes(name, code));
        let reply = node.create(&function).await.expect_error(400).text();
        assert!(reply.contains(told), "{name}: {reply}");
    }
    let large = command("(memory 2000)", &format!("(i32.const 42) {SAY_YES}"));
    let large = Function::of("large", Guest::from_bytes("large", large));
    node.deploy(large.memory("128Mi")).await;
    let reply = node.call("large", "").await.expect_status(200);
    assert_eq!(reply.text(), "yes");
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
