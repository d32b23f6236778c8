//! Members that are not Weir: later versions, other makes, and attackers. They
//! know nothing but the documented wire format.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_cbor::Value;
use serde_json::json;
use weir_tests::federation::{Member, all_meet, federation, member};
use weir_tests::foreign::{self, Foreign, Manners, Serve, bytes, map, number, text, with};
use weir_tests::node::Function;
use weir_tests::{eventually, within};

/// A report as a later version writes it: with what nobody knows yet.
fn report(sequence: u64, functions: &[&str]) -> Value {
    let mood = Value::Array(vec![text("sunny"), number(7)]);
    with(foreign::report(sequence, functions, 8), [("mood", mood)])
}

/// A member of a later version, which runs `theirs` and says where.
fn later() -> Manners {
    Manners {
        versions: vec![7, 1],
        more: BTreeMap::from([("mood".to_owned(), text("sunny"))]),
        serve: Arc::new(|request| {
            Box::pin(async move {
                let words = foreign::words(request.headers()).expect("a call brings its words");
                let function = foreign::field(&words, "function");
                assert_eq!(function, Some(&text("theirs.openfaas-fn")));
                let words = map([("kind", text("answer")), ("mood", text("sunny"))]);
                foreign::said(&words, "from another make")
            })
        }),
        ..Manners::default()
    }
}

/// Says how it is until it is seen as one that runs `theirs`.
async fn is_seen(host: &Member, foreign: &Foreign) {
    host.node.deploy(foreign::function("theirs")).await;
    is_seen_with(host, foreign, []).await;
}

/// The same with more in its reports.
async fn is_seen_with<const N: usize>(host: &Member, foreign: &Foreign, more: [(&str, Value); N]) {
    let mut sequence = 0;
    let id = foreign.id.to_string();
    eventually(&format!("it is seen\n{}", host.node.log()), async || {
        sequence += 1;
        let report = with(report(sequence, &["theirs"]), more.clone());
        foreign.report("default", &report).await;
        let peer = host.peer(&id).await?;
        let functions = peer["functions"].as_array()?;
        (peer["state"] == "in" && functions.contains(&json!("theirs.openfaas-fn"))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_member_of_a_later_version_takes_part() {
    let host = Member::found().await;
    host.node.deploy(Function::new("ours", "echo")).await;
    let token = host.token(&[]).await;
    let foreign = Foreign::join(&token, later()).await.expect("it is let in");
    assert_eq!(foreign.host.to_string(), host.id);
    is_seen(&host, &foreign).await;
    // A call to it, and one from it.
    let reply = eventually("it is one to choose from", async || {
        let reply = host.node.call("theirs", "hello").await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(reply.text(), "from another make");
    let words = map([
        ("function", text("ours.openfaas-fn")),
        ("call", text(&"0".repeat(32))),
        ("hops", number(2)),
        ("mood", text("sunny")),
    ]);
    let answer = foreign.call(&words, "hello").await.expect("it is answered");
    let words = foreign::words(answer.headers()).expect("an answer brings its words");
    assert_eq!(
        foreign::field(&words, "kind"),
        Some(&text("answer")),
        "{answer:?}"
    );
    assert_eq!(answer.body(), "hello");
}

#[tokio::test]
async fn what_a_later_version_says_is_passed_on_unread() {
    let members = federation(2).await;
    let mut foreign = Vec::new();
    for member in [&members[0], &members[0]] {
        let token = member.token(&[]).await;
        foreign.push(Foreign::join(&token, later()).await.expect("it is let in"));
    }
    let [one, two] = &foreign[..] else {
        unreachable!("two were made");
    };
    for foreign in &foreign {
        is_seen(&members[0], foreign).await;
    }
    let mut count = 0_u64;
    eventually("the other hears it", async || {
        count += 1;
        let message = one.seal(99, &bytes(&map([("count", number(count))])));
        one.publish(foreign::EVERYBODY, message).await;
        let heard = two.heard();
        heard
            .iter()
            .any(|m| (m.from, m.kind) == (one.id, 99))
            .then_some(())
    })
    .await;
    // Nobody took offence.
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    assert_eq!(
        members[0]
            .node
            .metric("weir_rejected_messages_total", &[])
            .await,
        0.0
    );
}

#[tokio::test]
async fn a_function_goes_only_where_its_processor_and_executor_are() {
    let host = Member::found().await;
    let theirs = Function::new("theirs", "echo");
    // No machine that runs these tests is one.
    let theirs = theirs.field("constraints", json!(["kubernetes.io/arch=riscv64"]));
    host.node.deploy(theirs).await;
    let machines = [
        ("x86_64", "wasm"),
        ("riscv64", "docker"),
        ("riscv64", "wasm"),
    ];
    let mut foreign = Vec::new();
    for (architecture, executor) in machines {
        let reply = host.node.call("theirs", "hello").await;
        assert_eq!(reply.status, 503, "{}", reply.text());
        let token = host.token(&[]).await;
        let joined = Foreign::join(&token, later()).await.expect("it is let in");
        let more = [
            ("architecture", text(architecture)),
            ("executors", Value::Array(vec![text(executor)])),
        ];
        is_seen_with(&host, &joined, more).await;
        foreign.push(joined);
    }
    let reply = eventually("the one that fits has it", async || {
        let reply = host.node.call("theirs", "hello").await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(reply.text(), "from another make");
    let fits = foreign[2].id.to_string();
    assert_eq!(reply.header("x-weir-ran-on"), fits);
}

#[tokio::test]
async fn a_member_that_speaks_no_version_of_ours_is_refused_by_name() {
    let host = Member::found().await;
    let token = host.token(&[]).await;
    let manners = Manners {
        versions: vec![7, 8],
        ..later()
    };
    let refused = Foreign::join(&token, manners).await.err();
    let refused = refused.expect("it is not let in");
    assert!(refused.contains("version"), "{refused}");
    // The token is as good as before.
    let joined = Member::start(member().variable("WEIR_FEDERATION_JOIN", &token)).await;
    all_meet(&[&host, &joined]).await;
}

#[tokio::test]
async fn a_place_at_a_member_is_free_when_that_says_so_whoever_has_still_to_read_its_answers() {
    /// More than lies between a member and a client that does not read.
    const UNREAD_BYTES: usize = 32 << 20;
    let (tell, mut came) = tokio::sync::mpsc::unbounded_channel();
    let long = bytes::Bytes::from(vec![b'x'; UNREAD_BYTES]);
    let serve: Serve = Arc::new(move |request| {
        let (tell, long) = (tell.clone(), long.clone());
        Box::pin(async move {
            if request.headers().contains_key("x-weir-look") {
                let told = map([("told", map([("why", text("node-full"))]))]);
                return foreign::said(&told, "");
            }
            let path = request.uri().path().to_owned();
            tell.send(path.clone()).expect("the test goes on");
            if path.ends_with("/held") {
                std::future::pending::<()>().await;
            }
            // It holds no call any more, and would take two.
            let load = [
                ("cpu_total", number(4_000)),
                ("cpu_free", number(4_000)),
                ("guest_cpu", number(2_000)),
                ("guest_cpu_long", number(2_000)),
            ];
            let told = map([("places", number(2)), ("load", map(load))]);
            foreign::said(&map([("kind", text("answer")), ("told", told)]), long)
        })
    });
    let manners = Manners {
        serve,
        ..Manners::default()
    };
    let host = Member::found().await;
    let token = host.token(&[]).await;
    let foreign = Foreign::join(&token, manners).await;
    let foreign = foreign.expect("it is let in");
    host.node.deploy(foreign::function("theirs")).await;
    let id = foreign.id.to_string();
    let mut sequence = 0;
    eventually("it is seen", async || {
        sequence += 1;
        let report = foreign::report(sequence, &["theirs"], 2);
        foreign.report("default", &report).await;
        host.peer(&id).await.filter(|peer| peer["room"] == 2)
    })
    .await;
    let mut unread = Vec::new();
    for _ in 0..2 {
        let call = host.node.post("/function/theirs").open().await;
        unread.push(call.expect("its head comes"));
        assert_eq!(came.recv().await.as_deref(), Some("/"));
    }
    // Two more are there at once.
    for _ in 0..2 {
        let call = host.node.post("/function/theirs/held");
        tokio::spawn(async move { call.try_send().await });
    }
    for number in 1..=2 {
        let heard = within(&format!("call {number} of two"), came.recv()).await;
        assert_eq!(heard.as_deref(), Some("/held"));
    }
    drop(unread);
}
