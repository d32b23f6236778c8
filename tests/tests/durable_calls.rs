//! Asynchronous calls across nodes: found from anywhere, kept by peers, taken
//! over, handed over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weir_tests::client::{Ask, Reply};
use weir_tests::eventually;
use weir_tests::federation::{Member, all_meet, deploy_everywhere, member, member_on};
use weir_tests::guests::guest;
use weir_tests::network::{Host, apart, forward, inside, together};
use weir_tests::node::{Function, Setup, text};

/// A member that takes over soon, and runs one accepted call at a time.
fn durable(setup: Setup) -> Setup {
    setup
        .variable("WEIR_FEDERATION_TAKEOVER", "2s")
        .variable("WEIR_ASYNC_PARALLEL", "1")
}

async fn members(count: usize) -> Vec<Member> {
    let mut members = vec![Member::start(durable(member())).await];
    for _ in 1..count {
        let joined = members[0].invite(durable(member())).await;
        members.push(joined);
    }
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    members
}

/// `echo`, of whose calls that many peers keep copies.
fn kept(copies: &str) -> Function {
    Function::new("kept", "echo").setting("durable", copies)
}

async fn submit(member: &Member, name: &str, body: &str) -> Reply {
    let path = format!("/async-function/{name}");
    member.node.post(&path).body(body.to_owned()).send().await
}

/// Has a member begin a call that takes ten minutes, so that all others wait.
async fn occupied(member: &Member) {
    let slow = Function::new("slow", "sleep")
        .timeout("15m")
        .setting("scope", "node");
    member.node.deploy(slow).await;
    submit(member, "slow", "600000").await.expect_status(202);
    member.node.running(1).await;
}

/// Copies of others' calls that a member keeps.
async fn copies(member: &Member) -> u64 {
    let status = member.node.status().await;
    status["federation"]["copies_of_calls"]
        .as_u64()
        .expect("a number")
}

async fn keeps(member: &Member, count: u64) {
    let fact = format!("{} keeps {count} copies", member.id);
    eventually(&fact, async || {
        (copies(member).await == count).then_some(())
    })
    .await;
}

/// Where all members find the result of a call.
async fn answered(members: &[&Member], id: &str, body: &str) {
    for member in members {
        let path = format!("/weir/v1/calls/{id}");
        let fact = format!("{} answers for {id}\n{}", member.id, member.node.log());
        let reply = eventually(&fact, async || {
            let reply = member.node.get(&path).send().await;
            // Who is asked may be gone a moment later, or be here not yet.
            (reply.status == 200).then_some(reply)
        })
        .await;
        assert_eq!(reply.text(), body);
        assert_eq!(reply.header("x-weir-call-status"), "200");
    }
}

fn data(member: &Member) -> std::path::PathBuf {
    member.node.data().to_owned()
}

/// Kills a member and starts it again at once.
async fn crashed(mut member: Member) -> Member {
    member.node.kill().await;
    member.restart().await
}

/// Kills a member and destroys what its disk holds.
async fn destroy(mut member: Member) {
    member.node.kill().await;
    std::fs::remove_dir_all(data(&member)).expect("its data can be removed");
}

#[tokio::test]
async fn a_call_is_found_at_any_node_by_the_id_that_its_own_gave() {
    let members = members(3).await;
    deploy_everywhere(&members, &Function::new("plain", "echo")).await;
    let reply = submit(&members[1], "plain", "found")
        .await
        .expect_status(202);
    let id = reply.receipt().to_owned();
    // 128 random bits, and the node in short.
    assert_eq!((id.len(), id.as_bytes()[32]), (41, b'-'), "{id}");
    assert_eq!(reply.header("x-weir-copies"), "0");
    answered(&members.iter().collect::<Vec<_>>(), &id, "found").await;
    // Its own node knows it without the hint too, and others do not guess.
    let bare = format!("/weir/v1/calls/{}", &id[..32]);
    members[1].node.get(&bare).send().await.expect_status(200);
    members[0].node.get(&bare).send().await.expect_status(404);
    // A call that there is not is unknown, and one whose node is gone may be.
    let never = format!("/weir/v1/calls/{}{}", "0".repeat(32), &id[32..]);
    members[0].node.get(&never).send().await.expect_status(404);
    let gone = format!("/weir/v1/calls/{}-00000000", "0".repeat(32));
    let reply = members[0].node.get(&gone).send().await;
    assert_eq!(
        reply.expect_error(503).header("x-weir-error"),
        "unreachable"
    );
    let wrong = members[0].node.get("/weir/v1/calls/7-7").send().await;
    assert!(wrong.expect_error(400).text().contains("Location"));
    // The client program takes such ids as they are.
    let invoked = ["invoke", "plain", "-d", "later", "--async", "--wait"];
    let output = members[2].node.weir(invoked).await;
    assert_eq!(text(&output.stdout).trim(), "later");
}

#[tokio::test]
async fn a_call_outlives_the_disk_of_its_node_before_it_ran_and_after() {
    let mut members = members(3).await;
    deploy_everywhere(&members, &kept("1")).await;
    let [first, second, third] = [0, 1, 2].map(|at| &members[at]);
    // One that ends at once: its result takes the place of the copy.
    let reply = submit(first, "kept", "done").await.expect_status(202);
    assert_eq!(reply.header("x-weir-copies"), "1");
    let done = reply.receipt().to_owned();
    assert_eq!(done.len(), 50, "{done} names two nodes");
    answered(&[first, second, third], &done, "done").await;
    for peer in [second, third] {
        keeps(peer, 0).await;
    }
    // And some that wait.
    occupied(first).await;
    let mut waiting = Vec::new();
    for number in 0..20 {
        let body = format!("waited {number}");
        let reply = submit(first, "kept", &body).await.expect_status(202);
        waiting.push((reply.receipt().to_owned(), body));
    }
    let path = format!("/weir/v1/calls/{}", waiting[0].0);
    for member in &members {
        member.node.get(&path).send().await.expect_status(202);
    }
    assert_eq!(copies(second).await + copies(third).await, 20);
    destroy(members.remove(0)).await;
    let left: Vec<&Member> = members.iter().collect();
    for (id, body) in &waiting {
        answered(&left, id, body).await;
    }
    answered(&left, &done, "done").await;
    let mut taken = 0.0;
    for member in &left {
        keeps(member, 0).await;
        taken += member.node.metric("weir_calls_taken_over_total", &[]).await;
    }
    assert!(
        (taken - 20.0).abs() < f64::EPSILON,
        "{taken} were taken over"
    );
}

#[tokio::test]
async fn no_call_is_accepted_with_fewer_copies_than_asked_unless_that_will_do() {
    let alone = Member::start(durable(member())).await;
    alone.node.deploy(kept("1")).await;
    let refused = submit(&alone, "kept", "x").await.expect_error(503);
    assert_eq!(refused.header("x-weir-error"), "no-copies");
    assert_eq!(refused.header("retry-after"), "1");
    assert!(
        refused.text().contains("--durable-best-effort"),
        "{}",
        refused.text()
    );
    let second = alone.invite(durable(member())).await;
    all_meet(&[&alone, &second]).await;
    // One of two is too few, and lets go of it.
    alone.node.deploy(kept("2")).await;
    submit(&alone, "kept", "x").await.expect_error(503);
    keeps(&second, 0).await;
    assert_eq!(alone.node.status().await["backlog"], 0);
    let eager = kept("2").setting("durable-best-effort", "true");
    alone.node.deploy(eager).await;
    let reply = submit(&alone, "kept", "enough").await.expect_status(202);
    assert_eq!(reply.header("x-weir-copies"), "1");
    answered(&[&alone, &second], reply.receipt(), "enough").await;
    // The same by the client program, which shows what it was told.
    let code = guest("echo").path();
    let code = code.to_str().expect("a plain path");
    let deploy = ["deploy", "byhand", "--wasm", code, "--durable", "2"];
    let output = alone.node.weir(deploy).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    submit(&alone, "byhand", "x").await.expect_error(503);
    let output = alone
        .node
        .weir(["invoke", "byhand", "-d", "x", "--async"])
        .await;
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("keep a copy of each call"));
    let degraded = [&deploy[..], &["--durable-best-effort"]].concat();
    let output = alone.node.weir(degraded).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    submit(&alone, "byhand", "x").await.expect_status(202);
    // Not more than there can be.
    let output = alone.node.create(&kept("3")).await;
    assert!(output.expect_error(400).text().contains("0 to 2"));
}

#[tokio::test]
async fn a_node_that_is_back_runs_nothing_that_was_run_meanwhile() {
    let mut members = members(2).await;
    deploy_everywhere(&members, &kept("1")).await;
    occupied(&members[0]).await;
    let reply = submit(&members[0], "kept", "once").await.expect_status(202);
    let id = reply.receipt().to_owned();
    keeps(&members[1], 1).await;
    let mut first = members.remove(0);
    first.node.kill().await;
    answered(&[&members[0]], &id, "once").await;
    let first = first.restart().await;
    answered(&[&first], &id, "once").await;
    eventually("it has nothing of it left to run", async || {
        (first.node.status().await["backlog"] == 1).then_some(())
    })
    .await;
    assert!(first.node.log().contains("a peer took a call over"));
    let asked = first
        .node
        .manage("GET", "/system/function/kept")
        .send()
        .await;
    let asked = asked.expect_status(200).json();
    assert_eq!(asked["invocationCount"], 0.0, "it ran the call again");
}

#[tokio::test]
async fn a_node_that_is_back_soon_runs_its_calls_itself() {
    let mut members = members(2).await;
    deploy_everywhere(&members, &kept("1")).await;
    // The call that all others wait for is of the first's life alone.
    let endless = Function::new("slow", "sleep")
        .timeout("15m")
        .setting("durable", "1");
    deploy_everywhere(&members, &endless).await;
    submit(&members[0], "slow", "600000")
        .await
        .expect_status(202);
    let reply = submit(&members[0], "kept", "mine").await.expect_status(202);
    let id = reply.receipt().to_owned();
    keeps(&members[1], 2).await;
    let first = crashed(members.remove(0)).await;
    members[0].sees(&first.id, "in").await;
    first.node.running(1).await;
    let taken = members[0]
        .node
        .metric("weir_calls_taken_over_total", &[])
        .await;
    assert!(taken.abs() < f64::EPSILON, "{taken} were taken over");
    let path = format!("/weir/v1/calls/{id}");
    for member in [&first, &members[0]] {
        member.node.get(&path).send().await.expect_status(202);
    }
    keeps(&members[0], 2).await;
}

#[tokio::test]
async fn copies_that_are_lost_are_made_again_and_the_second_takes_its_turn() {
    let mut members = members(4).await;
    deploy_everywhere(&members, &kept("2")).await;
    occupied(&members[0]).await;
    let reply = submit(&members[0], "kept", "thrice")
        .await
        .expect_status(202);
    assert_eq!(reply.header("x-weir-copies"), "2");
    let id = reply.receipt().to_owned();
    let mut without = None;
    for (at, member) in members.iter().enumerate().skip(1) {
        if copies(member).await == 0 {
            without = Some(at);
        }
    }
    // Whoever has none gets one when another is lost.
    let spare = members.remove(without.expect("one of four has neither"));
    let lost = members.remove(1);
    destroy(lost).await;
    keeps(&spare, 1).await;
    // Then both the node and one of the two that are left.
    destroy(members.remove(0)).await;
    let other = members.remove(0);
    destroy(other).await;
    answered(&[&spare], &id, "thrice").await;
}

#[tokio::test]
async fn a_node_that_drains_or_leaves_hands_over_what_waits_and_what_it_keeps() {
    let mut members = members(4).await;
    deploy_everywhere(&members, &kept("1")).await;
    deploy_everywhere(&members, &Function::new("plain", "echo")).await;
    for member in &members {
        occupied(member).await;
    }
    // What the first accepts waits there; of the second's calls somebody keeps copies.
    let mut calls = Vec::new();
    for name in ["plain", "kept"] {
        for number in 0..10 {
            let body = format!("{name} {number}");
            let reply = submit(&members[0], name, &body).await.expect_status(202);
            calls.push((reply.receipt().to_owned(), body));
        }
    }
    for number in 0..10 {
        let body = format!("second {number}");
        let reply = submit(&members[1], "kept", &body).await.expect_status(202);
        calls.push((reply.receipt().to_owned(), body));
    }
    let output = members[0].node.weir(["drain"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    eventually("it has handed all over but what runs", async || {
        let status = members[0].node.status().await;
        (status["backlog"] == 1 && copies(&members[0]).await == 0).then_some(())
    })
    .await;
    let output = members[0].node.weir(["leave"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    destroy(members.remove(0)).await;
    // Twenty that wait in three nodes, and a copy of each whose function wants one.
    let (mut waiting, mut kept) = (0, 0);
    for member in &members {
        let status = member.node.status().await;
        waiting += status["backlog"].as_u64().expect("a number") - 1;
        kept += copies(member).await;
    }
    assert_eq!(waiting, 30);
    assert!(kept >= 10, "{kept} copies");
    let all: Vec<&Member> = members.iter().collect();
    for (id, _) in &calls {
        let path = format!("/weir/v1/calls/{id}");
        let fact = format!("{id} is known to wait");
        eventually(&fact, async || {
            let reply = all[2].node.get(&path).send().await;
            (reply.status == 202).then_some(())
        })
        .await;
    }
}

/// What the history checker knows of one acknowledged call.
type Acknowledged = HashMap<String, String>;

/// Callbacks that came, by the digits of the call that its function sees.
#[derive(Default)]
struct Ledger {
    effects: std::sync::Mutex<HashMap<String, usize>>,
}

impl Ledger {
    /// Takes callbacks at this address until the test ends.
    async fn at(address: &str) -> (String, Arc<Ledger>) {
        use hyper::service::service_fn;
        let ledger = Arc::new(Ledger::default());
        let listener = tokio::net::TcpListener::bind((address, 0)).await;
        let listener = listener.expect("a port of the hub's is free");
        let port = listener.local_addr().expect("it is bound").port();
        let taking = Arc::clone(&ledger);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taking = Arc::clone(&taking);
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let id = request.headers().get("x-weir-call-id");
                    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
                    let mut effects = taking.effects.lock().expect("nothing panics");
                    *effects
                        .entry(id[..32.min(id.len())].to_owned())
                        .or_default() += 1;
                    async { Ok::<_, std::convert::Infallible>(hyper::Response::new(String::new())) }
                });
                tokio::spawn(async move {
                    let stream = hyper_util::rt::TokioIo::new(stream);
                    let serving = hyper::server::conn::http1::Builder::new();
                    let _ = serving.serve_connection(stream, service).await;
                });
            }
        });
        (format!("http://{address}:{port}/"), ledger)
    }
}

/// Calls that the history has; fewer than a night's worth, more than a queue's.
const CALLS: usize = 20_000;

#[test]
fn a_history_of_crashes_partitions_and_a_wiped_disk_loses_no_acknowledged_call() {
    inside(
        "a_history_of_crashes_partitions_and_a_wiped_disk_loses_no_acknowledged_call",
        history(),
    );
}

/// Each call's result is found at some node, and is the right one.
async fn found(members: &[Member], calls: &[(&String, &String)]) {
    for (at, (id, body)) in calls.iter().enumerate() {
        let path = format!("/weir/v1/calls/{id}");
        let at = &members[at % members.len()];
        let fact = format!("the result of {id} is at {}", at.id);
        let reply = eventually(&fact, async || {
            let reply = at.node.get(&path).send().await;
            (reply.status == 200).then_some(reply)
        })
        .await;
        assert_eq!(reply.text(), **body, "{id}");
    }
}

async fn history() {
    forward();
    let hosts: Vec<Host> = (1..=5).map(Host::new).collect();
    for host in &hosts {
        host.route_over_hub();
    }
    let setup = |host: &Host| {
        member_on(host)
            .variable("WEIR_FEDERATION_TAKEOVER", "3s")
            .variable("WEIR_ASYNC_PARALLEL", "8")
            .config("[async]\ncallback-local = true")
    };
    let mut members = vec![Member::start(setup(&hosts[0])).await];
    for host in &hosts[1..] {
        let joined = members[0].invite(setup(host)).await;
        members.push(joined);
    }
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    deploy_everywhere(&members, &kept("1")).await;
    let (callback, ledger) = Ledger::at("10.77.1.1").await;

    let addresses: Vec<_> = hosts
        .iter()
        .map(|host| {
            format!("{}:8080", host.address())
                .parse()
                .expect("an address")
        })
        .collect();
    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let (next, addresses) = (Arc::clone(&next), addresses.clone());
            let callback = callback.clone();
            tokio::spawn(async move {
                let mut acknowledged = Acknowledged::new();
                let mut turn = client;
                while next.load(Ordering::Relaxed) < CALLS {
                    turn += 1;
                    let body = format!("{client} {turn}");
                    let ask: Ask = Ask::new(
                        addresses[turn % addresses.len()],
                        "POST",
                        "/async-function/kept",
                    );
                    // Some have their result told, as an effect of theirs.
                    let ask = match turn % 2 {
                        0 => ask.header("x-callback-url", &callback),
                        _ => ask,
                    };
                    let sent = ask.body(body.clone()).try_send();
                    match tokio::time::timeout(Duration::from_secs(20), sent).await {
                        Ok(Ok(reply)) if reply.status == 202 => {
                            acknowledged.insert(reply.receipt().to_owned(), body);
                            next.fetch_add(1, Ordering::Relaxed);
                        }
                        // Not acknowledged: it may run, and nobody waits for it.
                        Ok(Ok(_) | Err(_)) | Err(_) => tokio::task::yield_now().await,
                    }
                }
                acknowledged
            })
        })
        .collect();

    // Meanwhile the world is unkind, in an order that a seed tells.
    let seed = std::env::var("WEIR_TEST_SEED").ok();
    let mut seed: u64 = seed.and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut draw = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).expect("it fits") % bound
    };
    let mut step = 0;
    let mut wiped = false;
    while next.load(Ordering::Relaxed) < CALLS {
        // Each trouble comes after so many more acknowledgements.
        let until = (next.load(Ordering::Relaxed) + CALLS / 12).min(CALLS);
        eventually("calls are accepted", async || {
            (next.load(Ordering::Relaxed) >= until).then_some(())
        })
        .await;
        step += 1;
        match step % 3 {
            1 => {
                // The first stays, so that a wiped node finds somebody that may invite.
                let at = 1 + draw(4);
                let member = members.remove(at);
                let host = &hosts[at];
                let restarted = if wiped {
                    crashed(member).await
                } else {
                    wiped = true;
                    destroy(member).await;
                    let fresh = members[0].invite(setup(host)).await;
                    // Before it belongs there it deploys nothing for others.
                    fresh.sees(&members[0].id, "in").await;
                    fresh.node.deploy(kept("1")).await;
                    fresh
                };
                members.insert(at, restarted);
            }
            2 => {
                let (one, other) = (draw(5), draw(5));
                if one != other {
                    apart(&hosts[one], &hosts[other]);
                    let until = (next.load(Ordering::Relaxed) + CALLS / 12).min(CALLS);
                    eventually("calls are accepted during a partition", async || {
                        (next.load(Ordering::Relaxed) >= until).then_some(())
                    })
                    .await;
                    together(&hosts[one], &hosts[other]);
                }
            }
            _ => {
                let at = draw(5);
                let member = members.remove(at);
                members.insert(at, crashed(member).await);
            }
        }
    }
    assert!(wiped && step >= 6, "{step} troubles");

    let mut acknowledged = Acknowledged::new();
    for client in clients {
        acknowledged.extend(client.await.expect("a client does not panic"));
    }
    assert!(acknowledged.len() >= CALLS);
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    let calls: Vec<(&String, &String)> = acknowledged.iter().collect();
    let readers = calls.chunks(calls.len().div_ceil(8));
    futures_util::future::join_all(readers.map(|calls| found(&members, calls))).await;
    // Effects by the call's id happen once, however often the call ran.
    let effects = ledger.effects.lock().expect("nothing panics");
    let mut told = acknowledged
        .iter()
        .filter(|(_, body)| body.ends_with(['0', '2', '4', '6', '8']));
    assert!(
        told.all(|(id, _)| effects.contains_key(&id[..32])),
        "a callback is missing"
    );
    let twice: usize = effects.values().map(|count| count - 1).sum();
    println!(
        "{} acknowledged, none lost; {} effects, {twice} told again; {step} troubles",
        acknowledged.len(),
        effects.len()
    );
}
