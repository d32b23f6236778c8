//! A member that was let in and then lies, forges, floods, stalls and breaks
//! off. It knows nothing but the documented wire format. Whatever it does, the
//! others work on, it is out and named with the reason, and nobody honest is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_cbor::Value;
use serde_json::json;
use weir_tests::bench::process;
use weir_tests::eventually;
use weir_tests::federation::{Member, all_meet, member};
use weir_tests::foreign::{
    self, CARRIAGE, Foreign, Manners, Reply, Serve, bytes, kind, map, number, report, text, with,
};
use weir_tests::guests::{Guest, guest};
use weir_tests::node::Function;

/// A member of a federation, an honest neighbour, and one who is not.
struct Scene {
    host: Member,
    honest: Member,
    hostile: Foreign,
    sequence: AtomicU64,
}

fn serve<F>(answer: impl Fn(Request<hyper::body::Incoming>) -> F + Send + Sync + 'static) -> Serve
where
    F: Future<Output = Reply> + Send + 'static,
{
    Arc::new(move |request| Box::pin(answer(request)))
}

/// Lets a hostile member in; it says that it can run `theirs`, for anybody.
async fn scene(token: &[&str], serve: Serve) -> Scene {
    let host = Member::found().await;
    let honest = host.invite(member()).await;
    all_meet(&[&host, &honest]).await;
    host.node.deploy(foreign::function("theirs")).await;
    let token = host.token(token).await;
    let manners = Manners {
        serve,
        ..Manners::default()
    };
    let hostile = Foreign::join(&token, manners).await.expect("it is let in");
    let scene = Scene {
        host,
        honest,
        hostile,
        sequence: AtomicU64::new(0),
    };
    scene.claims(&["theirs"]).await;
    scene
}

impl Scene {
    /// Has it claim to run these functions until that is believed.
    async fn claims(&self, functions: &[&str]) {
        let id = self.hostile.id.to_string();
        let names = functions
            .iter()
            .map(|name| json!(format!("{name}.openfaas-fn")));
        let names: Vec<_> = names.collect();
        eventually("it is believed", async || {
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
            let report = report(sequence, functions, 1_000);
            self.hostile.report("default", &report).await;
            let peer = self.host.peer(&id).await?;
            (peer["functions"].as_array()? == &names).then_some(())
        })
        .await;
    }

    /// Waits until it is out, and named with this reason.
    async fn is_out(&self, reason: &str) {
        let id = self.hostile.id.to_string();
        let fact = format!("it is out: {reason}\n{}", self.host.node.log());
        eventually(&fact, async || {
            let peer = self.host.peer(&id).await?;
            let out = peer["state"] != "in" || peer["fault"] == reason;
            (out && peer["fault"] == reason).then_some(())
        })
        .await;
        let listed = self.host.node.weir(["peers"]).await;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains(reason), "{listed}");
    }

    /// Nobody honest is out or named, and calls are answered.
    async fn all_is_well(&self) {
        let peer = self.host.peer(&self.honest.id).await;
        let peer = peer.expect("it is known");
        assert_eq!(
            (&peer["state"], &peer["fault"]),
            (&json!("in"), &json!(null))
        );
        self.host.node.deploy(Function::new("ours", "echo")).await;
        let reply = self.host.node.call("ours", "hello").await;
        assert_eq!(reply.expect_status(200).text(), "hello");
    }

    async fn rejected(&self, reason: &str) {
        let label = format!("reason=\"{reason}\"");
        let fact = format!("{reason} is counted\n{}", self.host.node.log());
        eventually(&fact, async || {
            let name = "weir_rejected_messages_total";
            (self.host.node.metric(name, &[&label]).await >= 1.0).then_some(())
        })
        .await;
    }
}

fn nothing() -> Serve {
    serve(async |_| foreign::refusal("no"))
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    now.expect("the clock goes").as_secs()
}

/// What a member says of a function that was removed.
fn removal(name: &str, version: u64, certificate: Vec<u8>) -> Value {
    map([
        ("name", text(name)),
        ("version", number(version)),
        ("spec", Value::Null),
        ("removed", number(now())),
        ("certificate", Value::Bytes(certificate)),
    ])
}

/// The certificate of whoever wrote the first record that is passed on.
async fn stolen(scene: &Scene) -> Vec<u8> {
    match foreign::field(&record(scene).await, "certificate") {
        Some(Value::Bytes(certificate)) => certificate.clone(),
        other => panic!("a record has a certificate: {other:?}"),
    }
}

/// Bytes with each place of some of them taken by others.
fn exchanged(bytes: &[u8], these: &[u8], others: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while at + these.len() <= bytes.len() {
        if bytes[at..].starts_with(these) {
            bytes[at..at + these.len()].copy_from_slice(others);
        }
        at += 1;
    }
    bytes
}

/// The first record that is passed on.
async fn record(scene: &Scene) -> Value {
    eventually("a record is passed on", async || {
        let heard = scene.hostile.heard();
        let record = heard.into_iter().find(|m| m.kind == kind::RECORD)?;
        let envelope: Value = serde_cbor::from_slice(&record.envelope).ok()?;
        let Some(Value::Bytes(payload)) = foreign::field(&envelope, "payload") else {
            return None;
        };
        serde_cbor::from_slice(payload).ok()
    })
    .await
}

#[tokio::test]
async fn whoever_may_not_deploy_changes_no_function_of_others() {
    let scene = scene(&["--no-deploy"], nothing()).await;
    scene.host.node.deploy(Function::new("ours", "echo")).await;
    let theirs = stolen(&scene).await;
    let own = scene.hostile.certificate();
    for (certificate, reason) in [(own, "may-not-deploy"), (theirs, "wrong-member")] {
        let removal = removal("ours.openfaas-fn", 9, certificate);
        let message = scene.hostile.seal(kind::RECORD, &bytes(&removal));
        scene.hostile.publish(foreign::EVERYBODY, message).await;
        scene.rejected(reason).await;
    }
    let reply = scene.host.node.call("ours", "hello").await;
    assert_eq!(reply.expect_status(200).text(), "hello");
    scene.all_is_well().await;
}

#[tokio::test]
async fn a_function_that_may_run_for_ever_is_known_and_ends_nothing() {
    let answer = serve(async |_| foreign::answer("without end"));
    let scene = scene(&[], answer).await;
    scene.host.node.deploy(Function::new("ours", "echo")).await;
    let ours = record(&scene).await;
    let Some(Value::Bytes(spec)) = foreign::field(&ours, "spec") else {
        panic!("a function has a specification: {ours:?}");
    };
    // As the host's function, but for its name and what no deployer means.
    let spec: Value = serde_cbor::from_slice(spec).expect("CBOR");
    let name = map([
        ("namespace", text("openfaas-fn")),
        ("name", text("endless")),
    ]);
    let endless = map([("secs", number(u64::MAX)), ("nanos", number(999_999_999))]);
    let changed = [
        ("name", name),
        ("timeout", endless.clone()),
        ("keep_alive", endless),
    ];
    let spec = Value::Bytes(bytes(&with(spec, changed)));
    let certificate = Value::Bytes(scene.hostile.certificate());
    let changed = [
        ("name", text("endless.openfaas-fn")),
        ("spec", spec),
        ("certificate", certificate),
    ];
    let record = bytes(&with(ours, changed));
    let record = scene.hostile.seal(kind::RECORD, &record);
    scene.hostile.publish(foreign::EVERYBODY, record).await;
    scene.claims(&["endless"]).await;
    for member in [&scene.host, &scene.honest] {
        let node = &member.node;
        let fact = format!("it is known, and not run here\n{}", node.log());
        eventually(&fact, async || {
            let listed = node.manage("GET", "/weir/v1/catalogue").send().await.json();
            let mut listed = listed.as_array()?.iter();
            let endless = listed.find(|function| function["name"] == "endless")?;
            assert_eq!(endless["here"], json!(false), "{endless}");
            let why = endless["unfit"].as_str().unwrap_or_default();
            assert!(why.contains("functions.max-timeout"), "{endless}");
            Some(())
        })
        .await;
        let listed = node.weir(["list", "--federation"]).await;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains("not runnable here"), "{listed}");
    }
    // Whoever says that it runs it is asked to, by whom it is linked to.
    let host = &scene.host.node;
    eventually("it runs where it is said to", async || {
        let reply = host.call("endless", "").await;
        (reply.status == 200).then(|| assert_eq!(reply.text(), "without end"))
    })
    .await;
    for (function, answer) in [("endless", "without end"), ("ours", "hello")] {
        let call = host.submit(function, "hello").await;
        let result = host.result(&call).await;
        assert_eq!(result.expect_status(200).text(), answer);
    }
    for member in [&scene.host, &scene.honest] {
        let call = member.node.submit("ours", "hello").await;
        let result = member.node.result(&call).await;
        assert_eq!(result.expect_status(200).text(), "hello");
        let text = member.node.get("/metrics").send().await.text();
        assert!(text.contains("weir_panics_total 0"), "{text}");
    }
    scene.all_is_well().await;
}

#[tokio::test]
async fn a_member_without_the_right_to_deploy_says_so_itself() {
    let host = Member::found().await;
    let token = host.token(&["--no-deploy"]).await;
    let guest = Member::start(member().variable("WEIR_FEDERATION_JOIN", &token)).await;
    all_meet(&[&host, &guest]).await;
    let function = Function::new("theirs", "echo");
    let refused = guest.node.create(&function).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(
        refused.text().contains("--scope node"),
        "{}",
        refused.text()
    );
    let own = function.setting("scope", "node");
    guest.node.deploy(own).await;
    let reply = guest.node.call("theirs", "hello").await;
    assert_eq!(reply.expect_status(200).text(), "hello");
}

#[tokio::test]
async fn a_removal_of_long_ago_is_not_heard_and_one_of_tomorrow_is_a_lie() {
    let scene = scene(&[], nothing()).await;
    scene.host.node.deploy(Function::new("ours", "echo")).await;
    const DAY: u64 = 24 * 3_600;
    for (removed, reason) in [(now() - 9 * DAY, None), (now() + DAY, Some("early"))] {
        let removal = removal("ours.openfaas-fn", 9, scene.hostile.certificate());
        let removal = with(removal, [("removed", number(removed))]);
        let message = scene.hostile.seal(kind::RECORD, &bytes(&removal));
        scene.hostile.publish(foreign::EVERYBODY, message).await;
        if let Some(reason) = reason {
            scene.rejected(reason).await;
        }
    }
    let reply = scene.host.node.call("ours", "hello").await;
    assert_eq!(reply.expect_status(200).text(), "hello");
    // Today's is believed: whoever may deploy may remove.
    let removal = removal("ours.openfaas-fn", 9, scene.hostile.certificate());
    let message = scene.hostile.seal(kind::RECORD, &bytes(&removal));
    scene.hostile.publish(foreign::EVERYBODY, message).await;
    eventually("it is removed", async || {
        let reply = scene.host.node.call("ours", "hello").await;
        (reply.status == 404).then_some(())
    })
    .await;
    scene.all_is_well().await;
}

/// What a member says of one that it forgot.
fn forget(scene: &Scene, whom: &str, at: u64) -> Vec<u8> {
    let whom: libp2p::PeerId = whom.parse().expect("an id");
    let said = map([
        ("whom", Value::Bytes(whom.to_bytes())),
        ("at", number(at)),
        ("certificate", Value::Bytes(scene.hostile.certificate())),
    ]);
    scene.hostile.seal(kind::FORGET, &bytes(&said))
}

#[tokio::test]
async fn who_may_not_deploy_makes_nobody_a_newcomer() {
    let scene = scene(&["--no-deploy"], nothing()).await;
    let message = forget(&scene, &scene.host.id, now());
    scene.hostile.publish(foreign::EVERYBODY, message).await;
    scene.rejected("may-not-deploy").await;
    assert!(!scene.host.node.log().contains("was forgotten"));
    scene.all_is_well().await;
}

#[tokio::test]
async fn whoever_calls_others_forgotten_takes_nothing_from_them() {
    let scene = scene(&[], nothing()).await;
    scene.host.node.deploy(Function::new("kept", "echo")).await;
    let message = forget(&scene, &scene.host.id, now() + 24 * 3_600);
    scene.hostile.publish(foreign::EVERYBODY, message).await;
    scene.rejected("early").await;
    // Again and again, each time as of an hour later; and of many that are not.
    for hour in 0..100 {
        let at = now() - (100 - hour) * 3_600;
        for whom in [&scene.host.id, &scene.honest.id] {
            let message = forget(&scene, whom, at);
            scene.hostile.publish(foreign::EVERYBODY, message).await;
        }
        let invented = libp2p::PeerId::random().to_string();
        let message = forget(&scene, &invented, at);
        scene.hostile.publish(foreign::EVERYBODY, message).await;
    }
    scene.rejected("suspects-too-often").await;
    let told = "this node was forgotten";
    eventually("it was heard", async || {
        scene.host.node.log().contains(told).then_some(())
    })
    .await;
    assert_eq!(scene.host.node.log().matches(told).count(), 1);
    let reply = scene.host.node.call("kept", "hello").await;
    assert_eq!(reply.expect_status(200).text(), "hello");
    // Whoever has heard of it tells the others what it says next.
    scene.host.node.deploy(Function::new("next", "echo")).await;
    scene.honest.sees_function(&scene.host.id, "next").await;
    scene.all_is_well().await;
}

#[tokio::test]
async fn nobody_shuts_the_others_out_with_the_highest_version() {
    let scene = scene(&[], nothing()).await;
    scene.host.node.deploy(Function::new("ours", "echo")).await;
    for version in [u64::MAX, 1 << 33] {
        let removal = removal("ours.openfaas-fn", version, scene.hostile.certificate());
        let message = scene.hostile.seal(kind::RECORD, &bytes(&removal));
        scene.hostile.publish(foreign::EVERYBODY, message).await;
        scene.rejected("version-jump").await;
    }
    scene.all_is_well().await;
}

#[tokio::test]
async fn lies_and_forgeries_are_refused_and_their_teller_is_kept_away() {
    let scene = scene(&[], nothing()).await;
    let (host, hostile) = (&scene.host, &scene.hostile);
    let honest: libp2p::PeerId = scene.honest.id.parse().expect("an id");
    let lie = |fields| hostile.seal(kind::REPORT, &bytes(&fields));
    let load = |field, value| {
        let load = map([(field, value)]);
        lie(with(report(7, &[], 1), [("load", load)]))
    };
    let good = hostile.seal(kind::REPORT, &bytes(&report(8, &[], 1)));
    let messages = [
        // In somebody else's name.
        foreign::envelope(
            &honest,
            kind::REPORT,
            &bytes(&report(9_999, &[], 0)),
            &[7; 64],
        ),
        foreign::envelope(
            &honest,
            kind::LEAVE,
            &bytes(&map([("epoch", number(1))])),
            &[7; 64],
        ),
        // Cut short, and other bytes.
        good[..good.len() / 2].to_vec(),
        vec![0xff; 300],
        Vec::new(),
        // What no honest node is.
        load("cpu_free", number(u64::from(u32::MAX))),
        load("memory_total", number(u64::MAX)),
        load("guest_cpu", Value::Integer(-1)),
        load("cpu_total", text("many")),
        lie(with(report(7, &[], 1), [("zone", text(&"z".repeat(300)))])),
        lie(with(report(7, &[], 1), [("epoch", number(u64::MAX))])),
        lie(map([("sequence", number(1))])),
        lie(report(7, &["a"; 300], 1)),
        hostile.seal(kind::SUSPICION, b"nobody"),
        hostile.seal(kind::DENIAL, b"nobody"),
        hostile.seal(kind::INTRODUCTION, &[1; 200]),
        hostile.seal(kind::RECORD, &bytes(&map([("name", text("x"))]))),
        hostile.seal(kind::SUMMARY, &bytes(&map([("marks", text("none"))]))),
    ];
    let _ = hostile.tell(foreign::EVERYBODY, &messages).await;
    scene.is_out("said what no honest member says").await;
    eventually("it is cut", async || (!hostile.is_up()).then_some(())).await;
    // It comes back, and is not wanted for a while.
    let token = host.token(&[]).await;
    let back = Manners {
        identity: Some(hostile.identity()),
        ..Manners::default()
    };
    let refused = Foreign::join(&token, back).await.err();
    let refused = refused.expect("it is not let in");
    assert!(refused.contains("shunned"), "{refused}");
    for reason in ["shape", "forged", "range"] {
        scene.rejected(reason).await;
    }
    scene.all_is_well().await;
}

#[tokio::test]
async fn a_flood_fills_no_memory_and_stops_nobody() {
    let scene = scene(&[], nothing()).await;
    let process = scene.host.node.process().expect("it runs");
    let before = process::resident(process).expect("it can be read").all;
    // 120 MB, faster than any member may talk; later versions may say so.
    for _ in 0..40 {
        let big = |n: u64| {
            let payload = [n.to_be_bytes().as_slice(), &[7; 30_000]].concat();
            scene.hostile.seal(200, &payload)
        };
        let messages: Vec<Vec<u8>> = (0..100).map(|_| big(rand_u64())).collect();
        scene
            .hostile
            .tell(foreign::EVERYBODY, &messages)
            .await
            .expect("its host bears with it");
    }
    eventually("the flood is noticed", async || {
        let name = "weir_gossip_hurried_total";
        (scene.host.node.metric(name, &[]).await >= 1.0).then_some(())
    })
    .await;
    let after = process::resident(process).expect("it can be read").all;
    assert!(
        after < before + 100.0,
        "{before} MB before, {after} MB after"
    );
    scene.all_is_well().await;
}

fn rand_u64() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(7)
}

#[tokio::test]
async fn what_was_said_before_is_not_believed_again() {
    let scene = scene(&[], nothing()).await;
    let old = eventually("it hears its neighbours", async || {
        let heard = scene.hostile.heard().into_iter();
        let reports: Vec<_> = heard.filter(|m| m.kind == kind::REPORT).collect();
        (!reports.is_empty()).then_some(reports)
    })
    .await;
    scene.host.node.deploy(Function::new("later", "echo")).await;
    scene.honest.sees_function(&scene.host.id, "later").await;
    let old: Vec<Vec<u8>> = old.into_iter().map(|message| message.envelope).collect();
    scene
        .hostile
        .tell(foreign::EVERYBODY, &old)
        .await
        .expect("nobody holds it against it");
    scene.honest.sees_function(&scene.host.id, "later").await;
    scene.all_is_well().await;
}

/// Which life of its sender a report is of.
fn life(envelope: &[u8]) -> Option<u64> {
    let envelope: Value = serde_cbor::from_slice(envelope).ok()?;
    let (Some(Value::Integer(1)), Some(Value::Bytes(payload))) = (
        foreign::field(&envelope, "kind"),
        foreign::field(&envelope, "payload"),
    ) else {
        return None;
    };
    let report: Value = serde_cbor::from_slice(payload).ok()?;
    match foreign::field(&report, "epoch") {
        Some(Value::Integer(epoch)) => u64::try_from(*epoch).ok(),
        _ => None,
    }
}

#[tokio::test]
async fn suspicions_without_reason_take_nobody_out() {
    let scene = scene(&[], nothing()).await;
    let honest: libp2p::PeerId = scene.honest.id.parse().expect("an id");
    let mut last = None;
    for past in 0..200_u64 {
        // Its newest life, and one that it never had: each message is another.
        let epoch = eventually("it hears of a life", async || {
            let heard = scene.hostile.heard().into_iter();
            let lives = heard
                .filter(|m| m.from == honest)
                .filter_map(|m| life(&m.envelope));
            lives.max().or(last)
        })
        .await;
        last = Some(epoch);
        for epoch in [epoch, epoch.saturating_sub(past + 1)] {
            let words = map([
                ("whom", Value::Bytes(honest.to_bytes())),
                ("epoch", number(epoch)),
            ]);
            let message = scene.hostile.seal(kind::SUSPICION, &bytes(&words));
            scene.hostile.publish(foreign::EVERYBODY, message).await;
        }
    }
    scene.rejected("suspects-too-often").await;
    scene.host.sees(&scene.honest.id, "in").await;
    scene.all_is_well().await;
}

#[tokio::test]
async fn whoever_takes_calls_and_never_answers_holds_four_and_is_out() {
    let held = Arc::new(AtomicUsize::new(0));
    let count = held.clone();
    let never = serve(move |request: Request<_>| {
        // It is asked for places as well.
        let is_call = !request.headers().contains_key("x-weir-look");
        count.fetch_add(usize::from(is_call), Ordering::Relaxed);
        std::future::pending()
    });
    let scene = scene(&[], never).await;
    let calls = (0..12).map(|_| {
        let call = scene.host.node.post("/function/theirs").body("x");
        call.header("x-weir-deadline", "1s").send()
    });
    let replies = futures_util::future::join_all(calls).await;
    for reply in &replies {
        assert!(matches!(reply.status, 429 | 504), "{}", reply.text());
    }
    let held = held.load(Ordering::Relaxed);
    assert!((1..=4).contains(&held), "it had {held} calls");
    scene.is_out("took calls and never answered").await;
    scene.all_is_well().await;
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_ends() {
    let stalls = serve(async |_| {
        let piece = futures_util::stream::once(async { Ok(Frame::data(Bytes::from("half"))) });
        let stalled =
            futures_util::stream::StreamExt::chain(piece, futures_util::stream::pending());
        let words = map([("kind", text("answer"))]);
        foreign::said(&words, "").map(|_| StreamBody::new(stalled).boxed_unsync())
    });
    let scene = scene(&[], stalls).await;
    let call = scene.host.node.post("/function/theirs").body("x");
    let ended = call.header("x-weir-deadline", "1s").try_send().await;
    assert!(ended.is_err(), "{:?}", ended.map(|reply| reply.status));
    scene.all_is_well().await;
}

#[tokio::test]
async fn answers_that_no_member_gives_are_held_against_their_giver() {
    let next = AtomicUsize::new(0);
    let odd = serve(move |_| {
        let turn = next.fetch_add(1, Ordering::Relaxed);
        async move {
            let header = match turn % 3 {
                0 => return Response::new(foreign::whole("no words")),
                1 => "not/base64!".to_owned(),
                _ => "A".repeat(9_000),
            };
            let response = Response::builder().header(CARRIAGE, header);
            response.body(foreign::whole("x")).expect("a plain answer")
        }
    });
    let scene = scene(&[], odd).await;
    for _ in 0..3 {
        eventually("a call meets it", async || {
            let reply = scene.host.node.call("theirs", "x").await;
            (reply.status == 502).then_some(())
        })
        .await;
    }
    scene.is_out("answered as no member does").await;
    scene.all_is_well().await;
}

#[tokio::test]
async fn nobody_answers_in_the_name_of_others() {
    let forged = serve(async |_| {
        let words = map([("kind", text("answer")), ("ran_on", text("somebody"))]);
        let mut reply = foreign::said(&words, "hello");
        for name in [
            "x-weir-ran-on",
            "x-weir-node",
            "dfaas-node-id",
            "x-server",
            "x-call-id",
        ] {
            let value = "forged".parse().expect("a header");
            reply.headers_mut().insert(name, value);
        }
        reply
    });
    let scene = scene(&[], forged).await;
    let reply = eventually("it has a call", async || {
        let reply = scene.host.node.call("theirs", "x").await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    let hostile = scene.hostile.id.to_string();
    assert_eq!(reply.header("x-weir-ran-on"), hostile);
    assert_eq!(reply.header("dfaas-node-id"), hostile);
    for (name, value) in &reply.headers {
        assert_ne!(value, "forged", "{name}");
    }
    scene.all_is_well().await;
}

#[tokio::test]
async fn wrong_bytes_for_code_are_not_run_and_their_giver_is_named() {
    let gives = serve(async |request: Request<hyper::body::Incoming>| {
        match request.headers().contains_key("x-weir-artifact") {
            true => Response::new(foreign::whole(vec![7; 32])),
            false => foreign::refusal("others may"),
        }
    });
    let scene = scene(&[], gives).await;
    let names: Vec<String> = (0..20).map(|number| format!("shared{number}")).collect();
    let claimed: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.claims(&claimed).await;
    let drained = scene.honest.node.weir(["drain"]).await;
    assert!(drained.status.success());
    // Whoever is the nearer of the two is asked first, and that changes.
    for name in claimed {
        // Code of its own, that nobody has fetched yet.
        let code = [guest("hello.wat").bytes.as_ref(), b"\n;; ", name.as_bytes()].concat();
        let function = Function::of(name, Guest::from_bytes(name, code));
        scene
            .honest
            .node
            .deploy(function.setting("replicas", "1"))
            .await;
        eventually("its code comes from whoever is honest", async || {
            let reply = scene.host.node.call(name, "hello").await;
            (reply.status == 200 && reply.text().starts_with("hello")).then_some(())
        })
        .await;
        let peer = scene.host.peer(&scene.hostile.id.to_string()).await;
        if peer.is_some_and(|peer| peer["fault"] != json!(null)) {
            break;
        }
    }
    scene.is_out("gave wrong bytes for code").await;
    scene.all_is_well().await;
}

#[tokio::test]
async fn code_that_is_said_to_be_longer_than_any_is_not_even_asked_for() {
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let scene = scene(
        &[],
        serve(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            async { foreign::refusal("no") }
        }),
    )
    .await;
    scene.host.node.deploy(Function::new("ours", "echo")).await;
    // The same function with other code, of which nobody has anything.
    let theirs = record(&scene).await;
    let Some(Value::Map(code)) = foreign::field(&theirs, "code").cloned() else {
        panic!("it has code: {theirs:?}");
    };
    let Some(Value::Bytes(digest)) = code.get(&text("digest")).cloned() else {
        panic!("it has a digest: {code:?}");
    };
    let Some(Value::Bytes(spec)) = foreign::field(&theirs, "spec").cloned() else {
        panic!("it has a function: {theirs:?}");
    };
    let other = [7; 32];
    let hex = |digest: &[u8]| -> String {
        let bytes = digest.iter();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    };
    let (is, wanted) = (hex(&digest), hex(&other));
    let spec = exchanged(&spec, is.as_bytes(), wanted.as_bytes());
    for (version, length) in [(2, 1_u64 << 60), (3, 9)] {
        let code = with(
            Value::Map(code.clone()),
            [
                ("digest", Value::Bytes(other.to_vec())),
                ("bytes", number(length)),
            ],
        );
        let own = with(
            theirs.clone(),
            [
                ("version", number(version)),
                ("spec", Value::Bytes(spec.clone())),
                ("code", code),
                ("certificate", Value::Bytes(scene.hostile.certificate())),
            ],
        );
        let sealed = scene.hostile.seal(kind::RECORD, &bytes(&own));
        let before = asked.load(Ordering::Relaxed);
        let request = Request::post("https://weir/artifacts/keep")
            .header("x-weir-artifact", "07".repeat(32))
            .body(Full::from(sealed))
            .expect("a plain request");
        let answer = scene.hostile.request(request).await;
        assert_eq!(answer.expect("it is answered").status(), 503);
        // Of what may be, it asks; of what may not, nobody.
        let came = asked.load(Ordering::Relaxed) - before;
        assert_eq!(came > 0, length == 9, "{came}");
    }
}

#[tokio::test]
async fn calls_that_no_member_makes_are_refused_and_cost_nothing() {
    let scene = scene(&[], nothing()).await;
    scene.host.node.deploy(Function::new("ours", "echo")).await;
    let own = scene.host.id.parse::<libp2p::PeerId>().expect("an id");
    let call = |more: [(&str, Value); 1]| {
        let words = map([
            ("function", text("ours.openfaas-fn")),
            ("call", text(&"0".repeat(32))),
            ("hops", number(2)),
        ]);
        with(words, more)
    };
    let visited = |ids: Vec<Vec<u8>>| Value::Array(ids.into_iter().map(Value::Bytes).collect());
    let odd = [
        map([]),
        map([("function", text("ours.openfaas-fn"))]),
        call([("function", text("No Name"))]),
        call([("function", text("nobody.openfaas-fn"))]),
        call([("call", text("mine"))]),
        call([("hops", number(9_999))]),
        call([("visited", visited(vec![own.to_bytes()]))]),
        call([("visited", visited(vec![vec![1, 2, 3]]))]),
        call([("visited", visited(vec![own.to_bytes(); 17]))]),
        call([("class", text(&"c".repeat(4_000)))]),
    ];
    for words in odd {
        let answer = scene.hostile.call(&words, "x").await;
        let answer = answer.expect("it is answered");
        let said = foreign::words(answer.headers());
        let kind = said.as_ref().and_then(|said| foreign::field(said, "kind"));
        assert_ne!(kind, Some(&text("answer")), "{words:?}: {answer:?}");
    }
    // A class that this node does not have is its default.
    let answer = scene
        .hostile
        .call(&call([("class", text("gold"))]), "x")
        .await;
    assert_eq!(answer.expect("it is answered").body(), "x");
    for (part, digest) in [
        ("list", "0".repeat(64)),
        ("layers", "0".repeat(64)),
        ("7", "zz".to_owned()),
        ("-1", "0".repeat(64)),
    ] {
        let request = Request::get(format!("https://weir/artifacts/{part}"))
            .header("x-weir-artifact", digest)
            .body(Full::default())
            .expect("a plain request");
        let answer = scene
            .hostile
            .request(request)
            .await
            .expect("it is answered");
        assert!(answer.status().is_client_error(), "{part}: {answer:?}");
    }
    scene.all_is_well().await;
}

/// Asks about calls, as section 7 of the wire has it.
async fn about_calls(scene: &Scene, want: &str, framed: Vec<u8>) -> u16 {
    let request = Request::post("https://weir/calls")
        .header("x-weir-calls", want)
        .body(Full::from(framed))
        .expect("a plain request");
    let answer = scene.hostile.request(request).await;
    answer.expect("it is answered").status().as_u16()
}

fn framed(words: &Value) -> Vec<u8> {
    let words = bytes(words);
    let length = u32::try_from(words.len()).expect("they are short");
    [&length.to_be_bytes()[..], &words].concat()
}

#[tokio::test]
async fn copies_of_calls_are_their_owners_alone_to_change() {
    let scene = scene(&[], serve(async |_| foreign::answer(""))).await;
    let owner = &scene.honest;
    let slow = Function::new("slow", "sleep").timeout("15m");
    owner.node.deploy(slow.setting("scope", "node")).await;
    for _ in 0..64 {
        let sent = owner.node.post("/async-function/slow").body("600000");
        sent.send().await.expect_status(202);
    }
    let kept = Function::new("kept", "echo").setting("durable", "1");
    owner.node.deploy(kept).await;
    let reply = owner.node.post("/async-function/kept").body("mine");
    let reply = reply.send().await.expect_status(202);
    let id = reply.receipt()[..32].to_owned();
    let copies = async || {
        let status = scene.host.node.status().await;
        status["federation"]["copies_of_calls"].as_u64()
    };
    assert_eq!(copies().await, Some(1));

    let own = Value::Bytes(scene.hostile.id.to_bytes());
    let theirs: libp2p::PeerId = owner.id.parse().expect("an id");
    let theirs = Value::Bytes(theirs.to_bytes());
    let note = |id: &str, owner: &Value, turn: u64| {
        map([
            ("id", text(id)),
            ("owner", owner.clone()),
            ("turn", number(turn)),
            ("copies", Value::Array(vec![own.clone()])),
        ])
    };
    let keep = |note: Value| framed(&map([("note", note)]));
    let ids = |count: usize| framed(&Value::Array(vec![text(&id); count]));
    let new = "0".repeat(32);
    for (want, words, status) in [
        ("keep", keep(note(&id, &own, 1)), 403),
        ("keep", keep(note(&new, &theirs, 1)), 403),
        ("keep", keep(note(&new, &own, 1)), 404),
        ("keep", keep(note(&new, &own, 9)), 400),
        ("ended", framed(&map([("id", text(&id))])), 403),
        ("ended", framed(&map([("id", text(&new))])), 403),
        ("drop", ids(1), 200),
        ("release", ids(1_000), 200),
        ("standing", ids(1_000), 200),
        ("standing", ids(1_001), 413),
        ("result", ids(1), 202),
        ("result", ids(0), 400),
        ("keep", ids(1), 400),
        ("hand", vec![0, 0, 0, 1], 400),
        ("ended", vec![0xff; 8], 400),
        ("drop", Vec::new(), 400),
        ("whatever", ids(1), 501),
    ] {
        assert_eq!(about_calls(&scene, want, words).await, status, "{want}");
    }
    assert_eq!(copies().await, Some(1));
    let path = format!("/weir/v1/calls/{id}");
    owner.node.get(&path).send().await.expect_status(202);
    scene.all_is_well().await;
}
