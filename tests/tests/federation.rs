//! Nodes that find each other, and run each other's overflow.
//!
//! What the ancestors are known to do wrong here has tests of its own name,
//! `serverledge_...` and `dfaas_...`; these others show more of it:
//!
//! | weakness | test |
//! | --- | --- |
//! | Serverledge: asynchronous calls lose their results when they are offloaded, and mix under load | `an_asynchronous_call_may_run_elsewhere_and_its_result_is_found_here`, `a_drained_node_hands_its_accepted_calls_over` |
//! | Serverledge: a lost reply is retried blindly; no draining | `a_killed_peer_costs_other_calls_no_more_than_it_held`, `a_drained_node_hands_its_accepted_calls_over` |
//! | Serverledge: a lost reply freezes monitoring for ever | `a_zone_that_is_cut_in_two_works_on_and_heals` |
//! | DFaaS: overload is met a period late, with 503 until then; no retry, no queue | `what_does_not_fit_runs_at_a_neighbour_and_no_client_sees_an_error`, `more_than_all_can_hold_waits_and_is_answered` |
//! | DFaaS: links are not dialled again, an identity changes at a restart | `the_bootstrap_node_dies_and_comes_back_and_all_find_each_other` |
//! | DFaaS: a peer is whoever a header says | `forged_headers_change_nothing` |
//! | DFaaS: plain HTTP between nodes, an open topic | `strangers_are_refused_by_name_and_learn_nothing` |

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use weir_tests::client::Reply;
use weir_tests::eventually;
use weir_tests::federation::{
    Member, all_meet, deploy_everywhere, federation, member, member_at, member_on,
};
use weir_tests::network::{self, Host};
use weir_tests::node::{Function, Node, Setup, free_address, text};

/// A function that holds half of a node's one core as long as its body says.
fn half() -> Function {
    Function::new("half", "sleep").cpu("500m").timeout("60s")
}

/// Calls of a node that run at once; their answers.
fn calls(node: &Node, name: &str, body: &str, count: usize) -> Vec<tokio::task::JoinHandle<Reply>> {
    let ask = || {
        node.post(&format!("/function/{name}"))
            .body(body.to_owned())
    };
    (0..count).map(|_| tokio::spawn(ask().send())).collect()
}

async fn answers(calls: Vec<tokio::task::JoinHandle<Reply>>) -> Vec<Reply> {
    let mut replies = Vec::new();
    for call in calls {
        replies.push(call.await.expect("a call does not panic"));
    }
    replies
}

/// Where an answer came from.
fn ran_on(reply: &Reply) -> Option<&str> {
    reply.headers.get("x-weir-ran-on")?.to_str().ok()
}

/// Clients that call as soon as they are answered, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Vec<Reply>>>,
}

impl Load {
    fn start(node: &Node, name: &str, body: &str, clients: usize) -> Load {
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicUsize>::default(),
        );
        let clients = (0..clients).map(|_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let (address, path) = (node.address, format!("/function/{name}"));
            let body = body.to_owned();
            tokio::spawn(async move {
                let mut bad = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let ask = weir_tests::client::Ask::new(address, "POST", &path);
                    let reply = ask.body(body.clone()).send().await;
                    answered.fetch_add(1, Ordering::Relaxed);
                    if reply.status != 200 {
                        bad.push(reply);
                    }
                }
                bad
            })
        });
        let clients = clients.collect();
        Load {
            stop,
            answered,
            clients,
        }
    }

    /// Waits for so many more answers.
    async fn more(&self, count: usize) {
        let enough = self.answered.load(Ordering::Relaxed) + count;
        eventually("clients are answered", async || {
            (self.answered.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    /// Stops; the answers that were no success.
    async fn stop(self) -> Vec<Reply> {
        self.stop.store(true, Ordering::Relaxed);
        let mut bad = Vec::new();
        for client in self.clients {
            bad.extend(client.await.expect("a client does not panic"));
        }
        bad
    }
}

fn told(replies: &[Reply]) -> Vec<String> {
    let told = replies.iter();
    told.map(|reply| format!("{}: {}", reply.status, reply.text()))
        .collect()
}

#[tokio::test]
async fn five_nodes_join_by_token_and_see_each_other() {
    let members = federation(5).await;
    let peers = members[4].peers().await;
    assert_eq!(peers.len(), 4);
    for peer in &peers {
        assert_eq!(
            (&peer["role"], &peer["zone"]),
            (&json!("edge"), &json!("default"))
        );
        assert_eq!(peer["cpu_total"], 1.0);
        assert_eq!(peer["memory_total"], 1_u64 << 30);
        assert!(
            peer["executors"]
                .as_array()
                .expect("a list")
                .contains(&json!("wasm"))
        );
    }
    let output = members[2].node.weir(["peers"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let listed = text(&output.stdout);
    for member in members.iter().filter(|member| member.id != members[2].id) {
        assert!(listed.contains(&member.id), "{listed}");
    }
    let output = members[0].node.weir(["ping", &members[3].id]).await;
    let ways = text(&output.stdout);
    assert!(
        ways.contains("direct 127.0.0.1") && ways.contains("stream"),
        "{ways}"
    );
    assert!(!ways.contains("direct 127.0.0.1: failed"), "{ways}");
}

#[tokio::test]
async fn members_may_be_told_of_by_names_which_are_looked_up_when_they_are_dialled() {
    let first = Member::found().await;
    let (links, takes) = (free_address(), free_address());
    let names = format!("nowhere.invalid:1,localhost:{}", takes.port());
    let named = member_at(links, takes)
        .variable("WEIR_FEDERATION_PEER_ADVERTISE", &names)
        .variable(
            "WEIR_FEDERATION_ADVERTISE",
            &format!("/dns4/localhost/tcp/{}", links.port()),
        );
    let second = first.invite(named).await;
    let absent = member().variable("WEIR_FEDERATION_PEER_ADVERTISE", "nowhere.invalid:1");
    let peers = format!("/dns4/localhost/tcp/{}", links.port());
    let third = first
        .invite(absent.variable("WEIR_FEDERATION_PEERS", &peers))
        .await;
    all_meet(&[&first, &second, &third]).await;

    let ways = async |member: &Member| {
        let output = first.node.weir(["ping", &member.id]).await;
        text(&output.stdout) + &text(&output.stderr)
    };
    let way = |ways: &str, name: &str| {
        let line = ways.lines().find(|line| line.contains(name));
        line.unwrap_or_else(|| panic!("{name} is not in {ways}"))
            .to_owned()
    };
    let told = ways(&second).await;
    assert!(
        !way(&told, "direct localhost:").contains("failed"),
        "{told}"
    );
    assert!(
        way(&told, "direct nowhere.invalid:1").contains("failed"),
        "{told}"
    );
    let told = ways(&third).await;
    assert!(way(&told, "stream").contains("ms"), "{told}");

    // Calls go by name, or around a name that leads nowhere.
    let members = [first, second, third];
    deploy_everywhere(&members, &half()).await;
    let replies = answers(calls(&members[0].node, "half", "1500", 6)).await;
    assert!(
        replies.iter().all(|reply| reply.status == 200),
        "{:?}",
        self::told(&replies)
    );
    let carried = async |way: &str| {
        let name = "weir_carried_calls_total";
        members[0].node.metric(name, &[way]).await
    };
    assert!(carried("direct").await >= 1.0 && carried("stream").await >= 1.0);
}

#[tokio::test]
async fn what_does_not_fit_runs_at_a_neighbour_and_no_client_sees_an_error() {
    let members = federation(3).await;
    deploy_everywhere(&members, &half()).await;
    let replies = answers(calls(&members[0].node, "half", "1500", 6)).await;
    let failed: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert!(failed.is_empty(), "{:?}", told(&replies));
    let elsewhere = replies
        .iter()
        .filter(|reply| ran_on(reply).is_some())
        .count();
    assert!(elsewhere >= 2, "only {elsewhere} of 6 ran elsewhere");
    for reply in &replies {
        let node = ran_on(reply).unwrap_or(&members[0].id);
        assert_eq!(reply.header("dfaas-node-id"), node);
        assert_eq!(reply.header("x-server"), "127.0.0.1");
        assert_eq!(reply.header("x-weir-node"), members[0].id);
    }
    let sent = members[0]
        .node
        .metric("weir_offloads_total", &["outcome=\"answered\""])
        .await;
    assert_eq!(sent as usize, elsewhere);
    let carried = members[0]
        .node
        .metric("weir_carried_calls_total", &["direct"])
        .await;
    assert!(carried as usize >= elsewhere);
}

#[tokio::test]
async fn more_than_all_can_hold_waits_and_is_answered() {
    let members = federation(2).await;
    deploy_everywhere(&members, &half()).await;
    let load = Load::start(&members[0].node, "half", "20", 12);
    load.more(200).await;
    let bad = load.stop().await;
    assert!(bad.is_empty(), "{:?}", told(&bad));
    let sent = members[0]
        .node
        .metric("weir_offloads_total", &["answered"])
        .await;
    assert!(sent > 10.0, "{sent}");
}

#[tokio::test]
async fn a_function_that_only_a_neighbour_has_is_called_there() {
    let members = federation(2).await;
    members[1]
        .node
        .deploy(Function::new("theirs", "echo"))
        .await;
    members[0].sees_function(&members[1].id, "theirs").await;
    let reply = members[0]
        .node
        .call("theirs", "hello")
        .await
        .expect_status(200);
    assert_eq!(
        (reply.text().as_str(), ran_on(&reply)),
        ("hello", Some(members[1].id.as_str()))
    );
    members[0]
        .node
        .call("nobodys", "x")
        .await
        .expect_status(404);
}

#[tokio::test]
async fn bodies_of_a_megabyte_go_there_and_back_whole() {
    let members = federation(2).await;
    members[1]
        .node
        .deploy(Function::new("theirs", "echo").memory("64Mi"))
        .await;
    members[0].sees_function(&members[1].id, "theirs").await;
    let body: Vec<u8> = (0..1 << 20_u32).map(|n| (n % 251) as u8).collect();
    let body = Bytes::from(body);
    let reply = members[0]
        .node
        .call("theirs", body.clone())
        .await
        .expect_status(200);
    assert!(reply.body == body, "{} bytes came back", reply.body.len());
}

#[tokio::test]
async fn a_killed_peer_costs_idempotent_calls_nothing_and_is_out_of_all_tables() {
    let mut members = federation(3).await;
    deploy_everywhere(&members, &half().setting("idempotent", "true")).await;
    let load = Load::start(&members[0].node, "half", "50", 8);
    load.more(60).await;
    let mut killed = members.pop().expect("there are three");
    killed.node.kill().await;
    for member in &members {
        eventually("it is out", async || {
            let peer = member.peer(&killed.id).await?;
            (peer["state"] != "in").then_some(())
        })
        .await;
        member.sees(&killed.id, "dead").await;
    }
    load.more(60).await;
    let bad = load.stop().await;
    assert!(bad.is_empty(), "{:?}", told(&bad));
    // It comes back, and is believed again.
    let back = killed.restart().await;
    for member in &members {
        member.sees(&back.id, "in").await;
    }
}

#[tokio::test]
async fn a_killed_peer_costs_other_calls_no_more_than_it_held() {
    let mut members = federation(2).await;
    deploy_everywhere(&members, &half()).await;
    let held = calls(&members[0].node, "half", "2000", 4);
    let mut killed = members.pop().expect("there are two");
    killed.node.running(2).await;
    killed.node.kill().await;
    let replies = answers(held).await;
    let lost: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert_eq!(lost.len(), 2, "{:?}", told(&replies));
    for reply in lost {
        assert_eq!(
            (reply.status, reply.header("x-weir-error")),
            (502, "peer-lost")
        );
        let text = reply.text();
        assert!(
            text.contains(&killed.id) && text.contains("idempotent"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_bootstrap_node_dies_and_comes_back_and_all_find_each_other() {
    let mut members = federation(4).await;
    let mut first = members.remove(0);
    first.node.kill().await;
    for member in &members {
        member.sees(&first.id, "dead").await;
    }
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    let first = first.restart().await;
    let mut all: Vec<&Member> = members.iter().collect();
    all.push(&first);
    all_meet(&all).await;
}

#[tokio::test]
async fn a_power_cut_of_all_and_the_address_book_brings_them_together_without_the_first() {
    let mut members = federation(4).await;
    for member in &members {
        // What the book holds is on disk before the lights go out.
        let book = member.node.data().join("federation/addresses");
        eventually("the address book is written", async || {
            let book = std::fs::read_to_string(&book).ok()?;
            let all = members.iter().filter(|other| other.id != member.id);
            all.map(|other| &other.id)
                .all(|id| book.contains(id))
                .then_some(())
        })
        .await;
    }
    for member in &mut members {
        member.node.kill().await;
    }
    let mut back = Vec::new();
    // The one that all joined by never returns.
    for member in members.drain(1..) {
        back.push(member.restart().await);
    }
    all_meet(&back.iter().collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn who_leaves_is_gone_at_once_and_a_drained_node_takes_no_calls() {
    let mut members = federation(3).await;
    deploy_everywhere(&members, &half()).await;
    let output = members[1].node.weir(["drain"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    eventually("it is seen to drain", async || {
        let peer = members[0].peer(&members[1].id).await?;
        (peer["draining"] == true).then_some(())
    })
    .await;
    let replies = answers(calls(&members[0].node, "half", "500", 4)).await;
    assert!(
        replies.iter().all(|reply| reply.status == 200),
        "{:?}",
        told(&replies)
    );
    assert!(
        replies
            .iter()
            .all(|reply| ran_on(reply) != Some(members[1].id.as_str()))
    );
    // A clean end is a farewell.
    let mut last = members.pop().expect("there are three");
    last.node.terminate();
    assert!(last.node.ended().await.success());
    members[0].sees(&last.id, "left").await;
}

#[tokio::test]
async fn strangers_are_refused_by_name_and_learn_nothing() {
    let first = Member::found().await;
    // No token, and a federation of its own.
    let address = first.node.status().await["federation"]["addresses"][0]
        .as_str()
        .expect("it listens")
        .to_owned();
    let stranger = Member::start(member().variable("WEIR_FEDERATION_PEERS", &address)).await;
    let refused = async |reason: &str, count: f64| {
        let reason = format!("reason=\"{reason}\"");
        eventually(&format!("{reason} is counted"), async || {
            let counted = first
                .node
                .metric("weir_refused_connections_total", &[&reason])
                .await;
            (counted >= count).then_some(())
        })
        .await;
    };
    refused("wrong-federation", 1.0).await;
    assert!(first.peers().await.is_empty() && stranger.peers().await.is_empty());
    // However often it comes, it is a line a minute.
    refused("wrong-federation", 3.0).await;
    let log = first.node.log();
    let line = |line: &&str| line.contains("wrong-federation") && line.contains(&stranger.id);
    assert_eq!(log.lines().filter(line).count(), 1, "{log}");
    // A token that was used.
    let token = first.token(&[]).await;
    let used = member().variable("WEIR_FEDERATION_JOIN", &token);
    let second = Member::start(used).await;
    first.sees(&second.id, "in").await;
    let third = member().variable("WEIR_FEDERATION_JOIN", &token);
    let told = text(&third.refused().await.stderr);
    assert!(told.contains("it was used before"), "{told}");
    refused("used", 1.0).await;
    // One that is too old.
    let token = first.token(&["--ttl", "1s"]).await;
    eventually("the token expires", async || {
        let output = member()
            .variable("WEIR_FEDERATION_JOIN", &token)
            .command(free_address())
            .output();
        // It ends by itself once the token is too old.
        let ended = tokio::time::timeout(Duration::from_millis(500), output).await;
        let output = ended.ok()?.ok()?;
        text(&output.stderr).contains("expired").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_strangers_leaves_room_for_members() {
    let first = Member::found().await;
    let status = first.node.status().await;
    let links = status["federation"]["addresses"][0]
        .as_str()
        .expect("it listens");
    let port = links.split('/').nth(4).expect("a port");
    let calls = status["federation"]["carriage"][0]
        .as_str()
        .expect("it listens")
        .to_owned();
    let links = format!("127.0.0.1:{port}");
    let mut silent = Vec::new();
    for number in 0..200 {
        let address = if number % 2 == 0 { &links } else { &calls };
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.write_all(b"let me in").await;
            silent.push(stream);
        }
    }
    let second = first.invite(member()).await;
    all_meet(&[&first, &second]).await;
    // And each of them is cut, sooner or later, without a word.
    for stream in &mut silent {
        let mut rest = Vec::new();
        let _ = weir_tests::within("it is cut", stream.read_to_end(&mut rest)).await;
        assert!(!text(&rest).contains("12D3KooW"), "{}", text(&rest));
    }
}

#[tokio::test]
async fn whoever_is_denied_is_out_everywhere() {
    let members = federation(3).await;
    let [first, second, third] = members.as_slice() else {
        panic!("there are three");
    };
    let refused = second.node.weir(["deny", &third.id, "--federation"]).await;
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("does not hold the federation's secret"));
    let output = first.node.weir(["deny", &third.id, "--federation"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    first.sees(&third.id, "denied").await;
    second.sees(&third.id, "denied").await;
    eventually("no link is left", async || {
        let linked = |peer: serde_json::Value| peer["linked"] == true;
        let first = first.peer(&third.id).await.is_some_and(linked);
        let second = second.peer(&third.id).await.is_some_and(linked);
        (!first && !second).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_denial_can_be_taken_back_and_nobody_denies_itself() {
    let members = federation(3).await;
    let [first, second, third] = members.as_slice() else {
        panic!("there are three");
    };
    let told = async |at: &Member, arguments: &[&str], fine: bool| {
        let output = at.node.weir(arguments).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.success(), fine, "{arguments:?}: {said}");
        said
    };
    for everywhere in [&[][..], &["--federation"]] {
        let said = told(first, &[&["deny", &first.id], everywhere].concat(), false).await;
        assert!(said.contains("weir leave"), "{said}");
    }
    told(first, &["deny", &third.id, "--federation"], true).await;
    second.sees(&third.id, "denied").await;
    let said = told(second, &["deny", &third.id, "--undo"], false).await;
    assert!(said.contains("--federation --undo"), "{said}");
    let undo = ["deny", &third.id, "--federation", "--undo"];
    let said = told(second, &undo, false).await;
    assert!(
        said.contains("does not hold the federation's secret"),
        "{said}"
    );
    told(first, &undo, true).await;
    told(first, &undo, false).await;
    second.sees(&third.id, "in").await;
    first.sees(&third.id, "in").await;
    // A refusal that comes again and again is a line a minute.
    told(first, &["deny", &second.id], true).await;
    eventually("it was refused many times", async || {
        let name = "weir_refused_connections_total";
        let label = "reason=\"denied\"";
        (first.node.metric(name, &[label]).await >= 4.0).then_some(())
    })
    .await;
    let log = first.node.log();
    let line = |line: &&str| line.contains("refused") && line.contains(&second.id);
    assert_eq!(log.lines().filter(line).count(), 1, "{log}");
    eventually("whoever is denied says so", async || {
        let status = second.node.status().await;
        let problems = status["problems"].to_string();
        problems.contains("it is denied").then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_left_knows_nobody_and_its_old_flags_do_not_bring_it_back() {
    let first = Member::found().await;
    let token = first.token(&[]).await;
    let second = Member::start(member().variable("WEIR_FEDERATION_JOIN", &token)).await;
    all_meet(&[&first, &second]).await;
    let other = Member::found().await;
    let elsewhere = other.token(&[]).await;
    let output = second.node.weir(["leave"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(second.peers().await.is_empty());
    first.sees(&second.id, "left").await;
    let mut node = second.node;
    node.terminate();
    assert!(node.ended().await.success());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    copy(node.data(), &data);
    let again = || member().data(&data);
    let told = again().variable("WEIR_FEDERATION_JOIN", &token);
    let told = text(&told.refused().await.stderr);
    assert!(
        told.contains("weir leave") && told.contains("weir token"),
        "{told}"
    );
    // A new one does, and then no other federation's.
    let joined = Member::start(again().variable("WEIR_FEDERATION_JOIN", &elsewhere)).await;
    all_meet(&[&other, &joined]).await;
    let mut node = joined.node;
    node.terminate();
    assert!(node.ended().await.success());
    let told = again().variable("WEIR_FEDERATION_JOIN", &first.token(&[]).await);
    let told = text(&told.refused().await.stderr);
    let own = other.node.status().await["federation"]["id"].clone();
    assert!(told.contains(own.as_str().expect("text")), "{told}");
    assert!(told.contains("weir leave"), "{told}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status();
    assert!(copied.is_ok_and(|status| status.success()));
}

#[tokio::test]
async fn two_nodes_never_share_a_port_and_the_setting_is_named() {
    let (links, calls) = (free_address(), free_address());
    let _first = Member::start(member_at(links, calls)).await;
    let told = async |setup: Setup| text(&setup.refused().await.stderr);
    let said = told(member_at(links, free_address())).await;
    assert!(
        said.contains("federation.listen") && said.contains("in use"),
        "{said}"
    );
    let said = told(member_at(free_address(), calls)).await;
    assert!(said.contains("federation.peer-listen"), "{said}");
    let node = Node::start().await;
    let said = told(Setup::new().address(node.address)).await;
    assert!(said.contains("http.listen"), "{said}");
}

#[tokio::test]
async fn a_ping_that_nothing_answers_fails_in_plain_words() {
    let members = federation(2).await;
    let [first, second] = members.as_slice() else {
        panic!("there are two");
    };
    let output = first.node.weir(["ping", &second.id]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("answers"));
    let id = second.id.clone();
    let mut members = members;
    let mut gone = members.pop().expect("there are two");
    gone.node.kill().await;
    let output = members[0].node.weir(["ping", &id]).await;
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(
        shown.contains("heard") && shown.contains("connection refused"),
        "{shown}"
    );
    for structure in ["[(", "os error", "Failed to negotiate"] {
        assert!(!shown.contains(structure), "{shown}");
    }
    let output = members[0]
        .node
        .weir(["ping", &id, "--output", "json"])
        .await;
    assert_eq!(output.status.code(), Some(1));
    let ways: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert!(
        ways.as_array().is_some_and(|ways| ways.len() >= 3),
        "{ways}"
    );
}

#[tokio::test]
async fn every_command_about_members_prints_one_document_for_programs() {
    let members = federation(2).await;
    let [first, second] = members.as_slice() else {
        panic!("there are two");
    };
    let document = async |at: &Member, arguments: &[&str]| -> serde_json::Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        let output = at.node.weir(&arguments).await;
        let (shown, said) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_str(&shown)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {shown}"))
    };
    first.node.deploy(Function::new("hello", "echo")).await;
    assert!(document(first, &["token"]).await["token"].is_string());
    assert_eq!(document(first, &["peers"]).await[0]["id"], second.id);
    document(first, &["ping", &second.id]).await;
    document(first, &["announce", "hello"]).await;
    document(first, &["list", "--federation"]).await;
    assert_eq!(document(first, &["drain"]).await["draining"], true);
    assert_eq!(
        document(first, &["drain", "--undo"]).await["draining"],
        false
    );
    document(first, &["federation", "rotate-secret"]).await;
    document(first, &["deny", &second.id]).await;
    document(first, &["deny", &second.id, "--undo"]).await;
    document(first, &["forget", &second.id]).await;
    assert_eq!(document(first, &["leave"]).await["left"], true);
    assert_eq!(document(first, &["peers"]).await, json!([]));
}

#[tokio::test]
async fn a_call_that_no_node_can_take_says_what_they_lack() {
    let members = federation(2).await;
    let picky = Function::new("picky", "echo").field("constraints", json!(["disk=tape"]));
    deploy_everywhere(&members[..1], &picky).await;
    let reply = members[0].node.call("picky", "x").await;
    assert_eq!(
        (reply.status, reply.header("x-weir-error")),
        (503, "cannot-run")
    );
    assert!(
        reply.text().contains("constraint disk=tape"),
        "{}",
        reply.text()
    );
    assert!(
        !reply.text().contains("a place that there is not"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn calls_of_a_member_that_is_denied_end_at_once() {
    let members = federation(2).await;
    let [first, second] = members.as_slice() else {
        panic!("there are two");
    };
    first.node.deploy(half()).await;
    second.sees_function(&first.id, "half").await;
    // It sends a call over a connection that it opened itself.
    let call = calls(&second.node, "half", "60000", 1).remove(0);
    first.node.running(1).await;
    let output = first.node.weir(["deny", &second.id]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    first.node.running(0).await;
    let reply = call.await.expect("a call does not panic");
    assert_eq!(
        (reply.status, reply.header("x-weir-error")),
        (502, "peer-lost"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn the_secret_is_changed_and_members_stay_members() {
    let mut members = federation(4).await;
    let old = members[1].node.status().await["federation"]["id"].clone();
    let void = members[0].token(&[]).await;
    // One is away, and one may not change it.
    let mut away = members.pop().expect("there are four");
    away.node.kill().await;
    let refused = members[1].node.weir(["secret", "rotate"]).await;
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("does not hold the federation's secret"));
    // It counts who is there.
    members[0].sees(&away.id, "dead").await;
    let output = members[0].node.weir(["federation", "rotate-secret"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let new = members[0].node.status().await["federation"]["id"].clone();
    assert_ne!(new, old);
    let said = text(&output.stdout);
    assert!(said.contains(new.as_str().expect("text")), "{said}");
    assert!(
        said.contains("; 2 other members were handed over (1 more when they are back)"),
        "{said}"
    );
    let goes_over = async |member: &Member| {
        let fact = format!("{} goes over\n{}", member.id, member.node.log());
        eventually(&fact, async || {
            let status = member.node.status().await;
            (status["federation"]["id"] == new).then_some(())
        })
        .await;
    };
    for member in &members {
        goes_over(member).await;
    }
    let away = away.restart().await;
    goes_over(&away).await;
    members.push(away);
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    members[3]
        .node
        .deploy(Function::new("theirs", "echo"))
        .await;
    members[1].sees_function(&members[3].id, "theirs").await;
    let reply = members[1].node.call("theirs", "x").await.expect_status(200);
    assert_eq!(ran_on(&reply), Some(members[3].id.as_str()));
    // What was handed out before is void, and new ones are good.
    let late = member().variable("WEIR_FEDERATION_JOIN", &void);
    let told = text(&late.refused().await.stderr);
    assert!(told.contains("it is of another federation"), "{told}");
    let reason = "reason=\"wrong-federation\"";
    let name = "weir_refused_connections_total";
    assert!(members[0].node.metric(name, &[reason]).await >= 1.0);
    let newcomer = members[0].invite(member()).await;
    members[2].sees(&newcomer.id, "in").await;
}

#[tokio::test]
async fn a_drained_node_hands_its_accepted_calls_over() {
    let members = federation(2).await;
    deploy_everywhere(&members, &half()).await;
    let [first, second] = members.as_slice() else {
        panic!("there are two");
    };
    let busy = calls(&first.node, "half", "1000", 2);
    first.node.running(2).await;
    let mut locations = Vec::new();
    for _ in 0..6 {
        locations.push(first.node.submit("half", "200").await);
    }
    let output = first.node.weir(["drain", "--wait"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("drained"));
    let status = first.node.status().await;
    assert_eq!(
        (&status["running"], &status["backlog"]),
        (&json!(0), &json!(0))
    );
    for location in &locations {
        let result = first.node.result(location).await;
        assert_eq!(result.header("x-weir-call-status"), "200");
    }
    answers(busy).await;
    // Its own users are served on, elsewhere while that can be.
    let reply = first.node.call("half", "0").await.expect_status(200);
    assert_eq!(ran_on(&reply), Some(second.id.as_str()));
    let output = first.node.weir(["drain", "--undo"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let reply = first.node.call("half", "0").await.expect_status(200);
    assert_eq!(ran_on(&reply), None);
}

#[tokio::test]
async fn serverledge_overflow_goes_to_each_of_several_neighbours() {
    let members = federation(4).await;
    deploy_everywhere(&members, &half()).await;
    let replies = answers(calls(&members[0].node, "half", "1500", 8)).await;
    assert!(
        replies.iter().all(|reply| reply.status == 200),
        "{:?}",
        told(&replies)
    );
    for neighbour in &members[1..] {
        let here = replies
            .iter()
            .filter(|reply| ran_on(reply) == Some(neighbour.id.as_str()));
        assert!(here.count() >= 1, "none at {}", neighbour.id);
    }
}

#[tokio::test]
async fn serverledge_a_hundred_functions_of_long_names_do_not_hide_a_peer() {
    let members = federation(2).await;
    let name = |number: usize| format!("a-function-with-quite-a-long-name-{number:03}");
    for number in 0..100 {
        members[1]
            .node
            .create(&Function::new(&name(number), "echo"))
            .await
            .expect_status(202);
    }
    for number in [0, 50, 99] {
        members[0]
            .sees_function(&members[1].id, &name(number))
            .await;
        let reply = members[0].node.call(&name(number), "x").await;
        assert_eq!(
            ran_on(&reply.expect_status(200)),
            Some(members[1].id.as_str())
        );
    }
    members[0].sees(&members[1].id, "in").await;
}

#[tokio::test]
async fn serverledge_many_asynchronous_calls_keep_their_own_answers() {
    let members = federation(2).await;
    deploy_everywhere(&members, &Function::new("back", "echo").cpu("500m")).await;
    let mut locations = Vec::new();
    for number in 0..40 {
        let location = members[0].node.submit("back", number.to_string()).await;
        locations.push(location);
    }
    for (number, location) in locations.iter().enumerate() {
        let result = members[0].node.result(location).await;
        assert_eq!(result.text(), number.to_string());
    }
}

#[tokio::test]
async fn dfaas_names_match_whole_and_calls_go_only_where_the_function_is() {
    let members = federation(3).await;
    members[1].node.deploy(Function::new("fig", "echo")).await;
    members[2]
        .node
        .deploy(Function::new("figlet", "variables"))
        .await;
    members[0].sees_function(&members[1].id, "fig").await;
    members[0].sees_function(&members[2].id, "figlet").await;
    // Twice: a function that is called more often is brought here.
    for _ in 0..2 {
        for (name, place) in [("fig", 1), ("figlet", 2)] {
            let reply = members[0].node.call(name, "x").await.expect_status(200);
            assert_eq!(ran_on(&reply), Some(members[place].id.as_str()));
        }
    }
    members[0].node.call("figl", "x").await.expect_status(404);
}

#[tokio::test]
async fn a_trace_goes_on_where_the_call_goes() {
    let members = federation(2).await;
    members[1]
        .node
        .deploy(Function::new("see", "variables"))
        .await;
    members[0].sees_function(&members[1].id, "see").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let reply = members[0]
        .node
        .get("/function/see")
        .header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"))
        .header("tracestate", "a=1,b=2")
        .send()
        .await
        .expect_status(200);
    assert_eq!(ran_on(&reply), Some(members[1].id.as_str()));
    let seen = reply.text();
    assert!(
        seen.contains(&format!("HTTP_TRACEPARENT=00-{trace}-")),
        "{seen}"
    );
    assert!(seen.contains("HTTP_TRACESTATE=a=1,b=2"), "{seen}");
}

/// Links over QUIC alone.
fn over_quic() -> Setup {
    let links = free_address();
    let listen = format!("/ip4/127.0.0.1/udp/{}/quic-v1", links.port());
    member().variable("WEIR_FEDERATION_LISTEN", &listen)
}

#[tokio::test]
async fn members_link_over_quic_and_strangers_are_refused_there_too() {
    let first = Member::start(over_quic()).await;
    let second = first.invite(over_quic()).await;
    // It takes calls over its link alone.
    let hidden = Setup::new()
        .variable("WEIR_FEDERATION_LISTEN", "/ip4/127.0.0.1/udp/0/quic-v1")
        .variable("WEIR_FEDERATION_RELAYED", "true");
    let hidden = first.invite(hidden).await;
    all_meet(&[&first, &second, &hidden]).await;
    hidden.node.deploy(Function::new("theirs", "echo")).await;
    first.sees_function(&hidden.id, "theirs").await;
    let body = Bytes::from(vec![7; 1 << 20]);
    let reply = first.node.call("theirs", body.clone()).await;
    assert!(reply.expect_status(200).body == body);
    let name = "weir_carried_calls_total";
    assert!(first.node.metric(name, &["stream"]).await >= 1.0);
    let address = first.node.status().await["federation"]["addresses"][0].clone();
    let address = address.as_str().expect("it listens");
    assert!(address.contains("/quic-v1"), "{address}");
    let stranger = over_quic().variable("WEIR_FEDERATION_PEERS", address);
    let stranger = Member::start(stranger).await;
    refused(&first, "wrong-federation").await;
    let token = first.token(&[]).await;
    let third = Member::start(over_quic().variable("WEIR_FEDERATION_JOIN", &token)).await;
    first.sees(&third.id, "in").await;
    let fourth = Member::start(over_quic().variable("WEIR_FEDERATION_JOIN", &token)).await;
    refused(&first, "used").await;
    let output = first.node.weir(["deny", &third.id]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    refused(&first, "denied").await;
    assert!(stranger.peers().await.is_empty() && fourth.peers().await.is_empty());
}

/// Waits until a connection was refused for this reason.
async fn refused(member: &Member, reason: &str) {
    let label = format!("reason=\"{reason}\"");
    eventually(&format!("{reason} is counted"), async || {
        let name = "weir_refused_connections_total";
        (member.node.metric(name, &[&label]).await >= 1.0).then_some(())
    })
    .await;
}

/// What passes bytes on between callers and a member until it is shut.
struct Passage {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Passage {
    async fn to(target: SocketAddr) -> Passage {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it binds");
        let address = listener.local_addr().expect("it is bound");
        let task = tokio::spawn(async move {
            let mut passing = tokio::task::JoinSet::new();
            while let Ok((mut here, _)) = listener.accept().await {
                passing.spawn(async move {
                    if let Ok(mut there) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                    }
                });
            }
        });
        Passage { address, task }
    }

    /// Ends all connections, and takes no more.
    async fn shut(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

#[tokio::test]
async fn when_one_carriage_breaks_in_a_burst_the_other_goes_on_at_once() {
    let first = Member::found().await;
    let calls = free_address();
    let passage = Passage::to(calls).await;
    let setup = member_at(free_address(), calls).variable(
        "WEIR_FEDERATION_PEER_ADVERTISE",
        &passage.address.to_string(),
    );
    // Room for all clients at once, so that nobody is refused for load.
    let setup = setup.variable("WEIR_FEDERATION_GUESTS", "100");
    let setup = setup.variable("WEIR_FEDERATION_LABELS", "place=second");
    let second = first.invite(setup).await;
    all_meet(&[&first, &second]).await;
    // For the second one alone, so that no call of it ever runs at the first.
    let only = json!(["place=second"]);
    let function = Function::new("theirs", "echo").field("constraints", only);
    second.node.deploy(function).await;
    eventually("it is one to choose from", async || {
        (first.node.call("theirs", "x").await.status == 200).then_some(())
    })
    .await;
    let load = Load::start(&first.node, "theirs", "x", 4);
    load.more(100).await;
    passage.shut().await;
    load.more(200).await;
    let bad = load.stop().await;
    // Nobody else has the function: a call that was under way may be lost, and
    // those that come after go over the link.
    assert!(bad.len() <= 4, "{:?}", told(&bad));
    let name = "weir_carried_calls_total";
    for kind in ["direct", "stream"] {
        assert!(first.node.metric(name, &[kind]).await >= 50.0, "{kind}");
    }
}

#[tokio::test]
async fn memberships_are_renewed_before_they_end() {
    let setup = member().variable("WEIR_FEDERATION_CERTIFICATE_LIFE", "4s");
    let first = Member::start(setup).await;
    let second = first.invite(member()).await;
    all_meet(&[&first, &second]).await;
    for _ in 0..2 {
        let before = second.node.log().matches("membership renewed").count();
        eventually("the membership is renewed", async || {
            (second.node.log().matches("membership renewed").count() > before).then_some(())
        })
        .await;
    }
    all_meet(&[&first, &second]).await;
}

#[tokio::test]
async fn forged_headers_change_nothing() {
    let members = federation(2).await;
    deploy_everywhere(&members, &half()).await;
    let reply = members[0]
        .node
        .post("/function/half")
        .header("dfaas-node-id", &members[1].id)
        .header("x-weir-carriage", "oWZmdW5jdGlvbg")
        .header("x-weir-ran-on", "somebody")
        .header("x-weir-node", &members[1].id)
        .body("0")
        .send()
        .await
        .expect_status(200);
    assert_eq!(ran_on(&reply), None);
    assert_eq!(reply.header("x-weir-node"), members[0].id);
    assert_eq!(reply.header("dfaas-node-id"), members[0].id);
}

#[tokio::test]
async fn what_spills_goes_up_to_the_first_region_that_has_room() {
    let first = Member::found().await;
    let mut clouds = Vec::new();
    for region in ["east", "west"] {
        let token = first.token(&["--role", "cloud"]).await;
        let setup = member()
            .variable("WEIR_FEDERATION_JOIN", &token)
            .variable("WEIR_FEDERATION_REGIONS", region);
        clouds.push(Member::start(setup).await);
    }
    let edge = member()
        .variable("WEIR_FEDERATION_ZONE", "far")
        .variable("WEIR_FEDERATION_REGIONS", "west,east");
    let edge = first.invite(edge).await;
    for cloud in &clouds {
        cloud.node.deploy(half()).await;
        edge.sees(&cloud.id, "in").await;
        edge.sees_function(&cloud.id, "half").await;
        let seen = edge.peer(&cloud.id).await.expect("it is seen");
        assert_eq!(seen["role"], "cloud");
    }
    edge.node.deploy(half()).await;
    let replies = answers(calls(&edge.node, "half", "1500", 6)).await;
    assert!(
        replies.iter().all(|reply| reply.status == 200),
        "{:?}",
        told(&replies)
    );
    let at = |member: &Member| {
        let ran = replies
            .iter()
            .filter(|reply| ran_on(reply) == Some(member.id.as_str()));
        ran.count()
    };
    // Two here, two in the west, and the rest wait or go east.
    assert!(at(&clouds[1]) >= 1, "nothing went west");
    let vertical = edge
        .node
        .metric("weir_decisions_total", &["vertical"])
        .await;
    assert!(vertical >= 2.0, "{vertical}");
    // A node of another zone is no neighbour.
    assert_eq!(at(&first), 0);
}

#[tokio::test]
async fn policies_are_chosen_by_configuration_class_and_function() {
    // Both know the classes: who does not cannot run the function.
    let first = member().config("[[qos]]\nname = \"plain\"\n[[qos]]\nname = \"away\"\n");
    let first = Member::start(first).await;
    let setup = member()
        .variable("WEIR_FEDERATION_POLICY", "local-only")
        .config("[[qos]]\nname = \"plain\"\n[[qos]]\nname = \"away\"\npolicy = \"edge-only\"\n");
    let second = first.invite(setup).await;
    let members = [first, second];
    let classes = half().setting("qos", "plain,away");
    members[0].node.deploy(half()).await;
    members[1].node.deploy(classes).await;
    members[1].sees_function(&members[0].id, "half").await;
    let [first, second] = &members;
    // By configuration: nobody else is asked.
    let replies = answers(calls(&second.node, "half", "300", 4)).await;
    assert!(replies.iter().all(|reply| ran_on(reply).is_none()));
    // By class: a neighbour first.
    let ask = second
        .node
        .post("/function/half")
        .header("x-weir-qos", "away");
    let reply = ask.body("0").send().await.expect_status(200);
    assert_eq!(ran_on(&reply), Some(first.id.as_str()));
    // By function.
    let function = Function::new("mine", "echo").label("weir.policy", "cloud-only");
    second.node.deploy(function).await;
    let reply = second.node.call("mine", "x").await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("policy"), "{}", reply.text());
}

#[tokio::test]
async fn labels_of_dfaas_bound_rate_and_time() {
    let members = federation(2).await;
    let function = Function::new("rated", "echo").label("dfaas.maxrate", "5");
    members[0].node.deploy(function.clone()).await;
    // Alone with it, a node refuses what is beyond the rate.
    let replies = answers(calls(&members[0].node, "rated", "x", 12)).await;
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert!(!refused.is_empty(), "{:?}", told(&replies));
    for reply in refused {
        assert_eq!(reply.status, 429, "{}", reply.text());
        assert!(reply.headers.contains_key("retry-after"));
    }
    // With a neighbour, that runs them.
    members[1].node.deploy(function).await;
    members[0].sees_function(&members[1].id, "rated").await;
    eventually("some run there", async || {
        let replies = answers(calls(&members[0].node, "rated", "x", 8)).await;
        replies
            .iter()
            .any(|reply| ran_on(reply) == Some(members[1].id.as_str()))
            .then_some(())
    })
    .await;
    let slow = Function::new("slow", "sleep").label("dfaas.timeout_ms", "200");
    members[0].node.deploy(slow).await;
    let reply = members[0].node.call("slow", "60000").await;
    assert_eq!((reply.status, reply.header("x-weir-error")), (504, "late"));
    let wrong = Function::new("wrong", "echo").label("dfaas.maxrate", "many");
    let reply = members[0]
        .node
        .manage("POST", "/system/functions")
        .json(&wrong.body)
        .send()
        .await;
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("dfaas.maxrate"), "{}", reply.text());
}

#[tokio::test]
async fn constraints_are_kept_wherever_a_call_goes() {
    let first = Member::found().await;
    let setup = member().variable("WEIR_FEDERATION_LABELS", "disk=ssd");
    let second = first.invite(setup).await;
    let members = [first, second];
    let picky = Function::new("picky", "echo").field("constraints", json!(["disk=ssd"]));
    deploy_everywhere(&members, &picky).await;
    let reply = members[0].node.call("picky", "x").await.expect_status(200);
    assert_eq!(ran_on(&reply), Some(members[1].id.as_str()));
    let reply = members[1].node.call("picky", "x").await.expect_status(200);
    assert_eq!(ran_on(&reply), None);
}

#[tokio::test]
async fn it_can_be_read_why_a_call_went_where_it_went() {
    let members = federation(2).await;
    deploy_everywhere(&members, &half()).await;
    let busy = calls(&members[0].node, "half", "2000", 2);
    members[0].node.running(2).await;
    let output = members[0]
        .node
        .weir(["invoke", "half", "-d", "0", "--explain"])
        .await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let why: serde_json::Value = serde_json::from_str(&text(&output.stderr)).expect("JSON");
    assert_eq!(
        (&why["policy"], &why["function"]),
        (&json!("spill"), &json!("half.openfaas-fn"))
    );
    let step = &why["steps"][0];
    assert_eq!(step["here"], "full", "{why}");
    assert!(
        step["choice"]
            .as_str()
            .expect("text")
            .contains(&members[1].id),
        "{why}"
    );
    let candidate = &step["candidates"][0];
    assert_eq!(
        (&candidate["peer"], &candidate["verdict"]),
        (&json!(members[1].id), &json!("fits"))
    );
    assert!(candidate["age_ms"].as_f64().expect("a number") >= 0.0);
    answers(busy).await;
}

#[tokio::test]
async fn an_asynchronous_call_may_run_elsewhere_and_its_result_is_found_here() {
    let mut members = federation(2).await;
    let function = half();
    members[1].node.deploy(function.clone()).await;
    members[0].node.deploy(function.cpu("1")).await;
    members[0].sees_function(&members[1].id, "half").await;
    // This node is full; the runner dies with the call, which is run again.
    let busy = calls(&members[0].node, "half", "3000", 1);
    members[0].node.running(1).await;
    let location = members[0].node.submit("half", "1000").await;
    let mut runner = members.pop().expect("there are two");
    runner.node.running(1).await;
    runner.node.kill().await;
    let result = members[0].node.result(&location).await;
    assert_eq!(
        result.header("x-weir-call-status"),
        "200",
        "{}",
        result.text()
    );
    assert_eq!(result.text(), "awake\n");
    answers(busy).await;
}

#[tokio::test]
async fn a_call_whose_client_leaves_is_cancelled_where_it_runs() {
    let members = federation(2).await;
    members[1].node.deploy(half()).await;
    members[0].sees_function(&members[1].id, "half").await;
    let call = calls(&members[0].node, "half", "60000", 1).remove(0);
    members[1].node.running(1).await;
    call.abort();
    members[1].node.running(0).await;
}

#[tokio::test]
async fn a_node_that_cannot_be_dialled_is_called_over_its_link() {
    let first = Member::found().await;
    let token = first.token(&[]).await;
    let hidden = Setup::new()
        .variable("WEIR_FEDERATION_LISTEN", "/ip4/127.0.0.1/tcp/0")
        .variable("WEIR_FEDERATION_RELAYED", "true")
        .variable("WEIR_FEDERATION_JOIN", &token);
    let hidden = Member::start(hidden).await;
    first.sees(&hidden.id, "in").await;
    hidden.node.deploy(Function::new("theirs", "echo")).await;
    first.sees_function(&hidden.id, "theirs").await;
    let body = Bytes::from(vec![7; 1 << 20]);
    let reply = first
        .node
        .call("theirs", body.clone())
        .await
        .expect_status(200);
    assert!(reply.body == body);
    let carried = first
        .node
        .metric("weir_carried_calls_total", &["stream"])
        .await;
    assert!(carried >= 1.0);
}

#[tokio::test]
async fn a_copy_of_a_nodes_identity_is_named_on_both_sides() {
    let members = federation(2).await;
    let token = members[0].token(&[]).await;
    let copy = tempfile::tempdir().expect("a folder");
    std::fs::copy(
        members[1].node.data().join("identity"),
        copy.path().join("identity"),
    )
    .expect("it can be copied");
    let setup = member()
        .data(copy.path())
        .variable("WEIR_FEDERATION_JOIN", &token);
    let copied = Member::start(setup).await;
    assert_eq!(copied.id, members[1].id);
    for node in [&copied.node, &members[1].node] {
        eventually("the copy is named", async || {
            node.log()
                .contains("another node runs with this node")
                .then_some(())
        })
        .await;
    }
}

/// Longest time until nodes that joined together know each other. What gossip
/// missed is told a second or two later, and not with the introductions of the
/// next minute.
const MEETING: Duration = Duration::from_secs(15);

#[tokio::test]
async fn nodes_that_join_at_once_list_each_other_within_seconds() {
    let first = Member::found().await;
    let mut starting = Vec::new();
    // Of one zone, of another, and of a region: what one of them says of itself
    // does not go to all.
    type Place<'a> = (&'a [&'a str], [(&'a str, &'a str); 2]);
    let places: [Place<'_>; 5] = [
        (&[], [("ZONE", "default"), ("REGIONS", "far")]),
        (&[], [("ZONE", "default"), ("REGIONS", "")]),
        (&[], [("ZONE", "other"), ("REGIONS", "far")]),
        (
            &["--role", "cloud"],
            [("ROLE", "cloud"), ("REGIONS", "far")],
        ),
        (
            &["--role", "cloud"],
            [("ROLE", "cloud"), ("REGIONS", "far")],
        ),
    ];
    for (invited, place) in places {
        let token = first.token(invited).await;
        let mut setup = member().variable("WEIR_FEDERATION_JOIN", &token);
        for (name, value) in place {
            setup = setup.variable(&format!("WEIR_FEDERATION_{name}"), value);
        }
        starting.push(Member::start(setup));
    }
    let mut members = futures_util::future::join_all(starting).await;
    members.push(first);
    let began = Instant::now();
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    let took = began.elapsed();
    println!("met after {took:?}");
    assert!(took < MEETING, "{took:?}");
}

#[tokio::test]
async fn twenty_nodes_started_at_once_see_each_other() {
    let first = Member::found().await;
    let mut starting = Vec::new();
    for _ in 1..20 {
        let token = first.token(&[]).await;
        let setup = member().variable("WEIR_FEDERATION_JOIN", &token);
        starting.push(Member::start(setup));
    }
    let mut members = futures_util::future::join_all(starting).await;
    members.push(first);
    all_meet(&members.iter().collect::<Vec<_>>()).await;
}

#[test]
fn a_node_behind_another_is_called_over_a_relay() {
    network::inside("a_node_behind_another_is_called_over_a_relay", async {
        let (here, there) = (Host::new(1), Host::new(2));
        // The hub reaches both, and neither the other.
        let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let relay = Member::start(member_at(everywhere(4001), everywhere(4002))).await;
        let left = relay.invite(member_on(&here)).await;
        let hidden = member_on(&there).variable("WEIR_FEDERATION_RELAYED", "true");
        let right = relay.invite(hidden).await;
        left.sees(&right.id, "in").await;
        right.node.deploy(Function::new("theirs", "echo")).await;
        left.sees_function(&right.id, "theirs").await;
        eventually("there is a link over the relay", async || {
            (left.peer(&right.id).await?["linked"] == true).then_some(())
        })
        .await;
        let body = Bytes::from(vec![7; 1 << 20]);
        let reply = left
            .node
            .call("theirs", body.clone())
            .await
            .expect_status(200);
        assert!(reply.body == body, "{} bytes came back", reply.body.len());
        assert_eq!(ran_on(&reply), Some(right.id.as_str()));
        let output = left.node.weir(["ping", &right.id]).await;
        assert!(
            text(&output.stdout).contains("over a relay"),
            "{}",
            text(&output.stdout)
        );
        // The proof is asked for over the relay too.
        let output = right.node.weir(["deny", &left.id]).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        refused(&right, "denied").await;
        let linked = right
            .peer(&left.id)
            .await
            .map(|peer| peer["linked"].clone());
        assert_eq!(linked, Some(json!(false)));
    });
}

/// A member that all reach, and two behind firewalls that reach it alone; the
/// second has a function. Nobody told them that they cannot be dialled.
async fn behind_firewalls(hosts: &[Host; 2]) -> [Member; 3] {
    network::forward();
    for host in hosts {
        host.route_over_hub();
        host.shut(8080);
    }
    let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let relay = Member::start(member_at(everywhere(4001), everywhere(4002))).await;
    let left = relay.invite(member_on(&hosts[0])).await;
    let setup = member_on(&hosts[1]);
    let setup = setup.variable("WEIR_FEDERATION_LABELS", "place=right");
    let right = relay.invite(setup).await;
    for member in [&left, &right] {
        let fact = format!("it learns that it is out of reach\n{}", member.node.log());
        eventually(&fact, async || {
            let status = member.node.status().await;
            let tested = status["federation"]["reachable"].as_object()?.clone();
            let beyond = tested.values().all(|reachable| reachable == false);
            (!tested.is_empty() && beyond).then_some(())
        })
        .await;
    }
    left.sees(&right.id, "in").await;
    // Or the others would bring its code as long as they do not reach it.
    let only = json!(["place=right"]);
    let function = Function::new("theirs", "echo").field("constraints", only);
    right.node.deploy(function).await;
    left.sees_function(&right.id, "theirs").await;
    [relay, left, right]
}

/// A call with a body of a megabyte that the other one runs.
async fn calls_over(left: &Member, right: &Member) {
    let body = Bytes::from(vec![7; 1 << 20]);
    let reply = eventually("it is reached", async || {
        let reply = left.node.call("theirs", body.clone()).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert!(reply.body == body, "{} bytes came back", reply.body.len());
    assert_eq!(ran_on(&reply), Some(right.id.as_str()));
}

#[test]
fn nodes_behind_firewalls_find_that_out_and_are_reached_over_a_relay() {
    let name = "nodes_behind_firewalls_find_that_out_and_are_reached_over_a_relay";
    network::inside(name, async {
        let hosts = [Host::new(1), Host::new(2)];
        let [_relay, left, right] = behind_firewalls(&hosts).await;
        calls_over(&left, &right).await;
    });
}

#[test]
fn two_nodes_behind_firewalls_link_directly_once_a_relay_has_introduced_them() {
    let name = "two_nodes_behind_firewalls_link_directly_once_a_relay_has_introduced_them";
    network::inside(name, async {
        let hosts = [Host::new(1), Host::new(2)];
        let [mut relay, left, right] = behind_firewalls(&hosts).await;
        let fact = format!("there is a direct link\n{}", left.node.log());
        eventually(&fact, async || {
            let output = left.node.weir(["ping", &right.id]).await;
            let direct = text(&output.stdout).contains("link (direct)");
            direct.then_some(())
        })
        .await;
        // What was found does not need whoever introduced them.
        relay.node.kill().await;
        left.sees(&relay.id, "dead").await;
        calls_over(&left, &right).await;
    });
}

#[test]
fn members_of_one_network_find_each_other_by_multicast() {
    network::inside(
        "members_of_one_network_find_each_other_by_multicast",
        async {
            let host = Host::new(1);
            // Where the token leads, nobody is.
            let hub = member_at(
                SocketAddr::from(([0, 0, 0, 0], 4001)),
                SocketAddr::from(([0, 0, 0, 0], 4002)),
            );
            let hub = hub
                .variable("WEIR_FEDERATION_MDNS", "true")
                .variable("WEIR_FEDERATION_ADVERTISE", "/ip4/10.99.99.99/tcp/4001");
            let hub = Member::start(hub).await;
            let found = member_on(&host).variable("WEIR_FEDERATION_MDNS", "true");
            let found = hub.invite(found).await;
            all_meet(&[&hub, &found]).await;
        },
    );
}

/// A member on the hub, which all others reach, and one on each host; they see
/// each other, and each has a function.
async fn star(hosts: &[Host]) -> Vec<Member> {
    let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let hub = Member::start(member_at(everywhere(4001), everywhere(4002))).await;
    let mut members = vec![hub];
    for host in hosts {
        let joined = members[0].invite(member_on(host)).await;
        members.push(joined);
    }
    for member in &members {
        member.node.deploy(half()).await;
    }
    for member in &members[1..] {
        members[0].sees(&member.id, "in").await;
        member.sees(&members[0].id, "in").await;
    }
    members
}

#[test]
fn a_zone_that_is_cut_in_two_works_on_and_heals() {
    network::inside("a_zone_that_is_cut_in_two_works_on_and_heals", async {
        let hosts = [Host::new(1), Host::new(2)];
        let members = star(&hosts).await;
        let [hub, first, second] = members.as_slice() else {
            panic!("there are three");
        };
        let location = first.node.submit("half", "0").await;
        first.node.result(&location).await;
        // Packets are lost, and nobody is told: what is silent is dead.
        let (log, link) = (first.node.log(), &hosts[0]);
        link.cut();
        hub.sees(&first.id, "dead").await;
        hub.node.call("half", "0").await.expect_status(200);
        assert!(!log.contains("panicked"));
        link.mend();
        hub.sees(&first.id, "in").await;
        first.sees(&hub.id, "in").await;
        let kept = first.node.result(&location).await;
        assert_eq!(kept.header("x-weir-call-status"), "200");
        first.node.call("half", "0").await.expect_status(200);
        hub.sees(&second.id, "in").await;
    });
}

/// What a call takes that is to be placed again meanwhile.
const LONG: Duration = Duration::from_secs(20);

/// A node with what some functions here need.
fn able(setup: Setup) -> Setup {
    setup.variable("WEIR_FEDERATION_LABELS", "disk=ssd")
}

/// Has a call run at a peer, loses with `cut` what the two hosts send, and waits
/// until a third node, which both still reach, runs it.
async fn is_placed_again_after(cut: fn(&Host, &Host)) {
    network::forward();
    let hosts = [Host::new(1), Host::new(2)];
    for host in &hosts {
        host.route_over_hub();
    }
    let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let hub = able(member_at(everywhere(4001), everywhere(4002)));
    let hub = Member::start(hub).await;
    let caller = hub.invite(member_on(&hosts[0])).await;
    let peer = hub.invite(able(member_on(&hosts[1]))).await;
    all_meet(&[&hub, &caller, &peer]).await;
    let slow = half()
        .setting("idempotent", "true")
        .field("constraints", json!(["disk=ssd"]));
    peer.node.deploy(slow.clone()).await;
    caller.sees_function(&peer.id, "half").await;
    let held = calls(&caller.node, "half", &LONG.as_millis().to_string(), 1);
    peer.node.running(1).await;
    hub.node.deploy(slow).await;
    caller.sees_function(&hub.id, "half").await;
    cut(&hosts[0], &hosts[1]);
    let began = Instant::now();
    hub.node.running(1).await;
    let took = began.elapsed();
    assert!(took < LONG, "{took:?}\n{}", caller.node.log());
    println!("placed again after {took:?}");
    // Nothing new goes where nothing is answered.
    let reply = caller.node.call("half", "0").await.expect_status(200);
    assert_eq!(ran_on(&reply), Some(hub.id.as_str()));
    let replies = answers(held).await;
    assert_eq!(replies[0].status, 200, "{:?}", told(&replies));
    assert_eq!(ran_on(&replies[0]), Some(hub.id.as_str()));
}

#[test]
fn a_call_is_placed_again_when_its_peer_hears_this_node_no_more() {
    network::inside(
        "a_call_is_placed_again_when_its_peer_hears_this_node_no_more",
        is_placed_again_after(network::unheard),
    );
}

#[test]
fn a_call_is_placed_again_when_only_this_node_cannot_reach_its_peer() {
    network::inside(
        "a_call_is_placed_again_when_only_this_node_cannot_reach_its_peer",
        is_placed_again_after(network::apart),
    );
}

#[test]
fn a_large_body_on_a_slow_link_is_no_silence() {
    network::inside("a_large_body_on_a_slow_link_is_no_silence", async {
        let host = Host::new(1);
        let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let hub = able(member_at(everywhere(4001), everywhere(4002)));
        let hub = Member::start(hub).await;
        let caller = hub.invite(member_on(&host)).await;
        all_meet(&[&hub, &caller]).await;
        let theirs = Function::new("theirs", "echo").field("constraints", json!(["disk=ssd"]));
        hub.node.deploy(theirs.memory("64Mi").timeout("5m")).await;
        caller.sees_function(&hub.id, "theirs").await;
        host.slow("1mbit");
        // Seventeen seconds of it, and as many back to the client.
        let body = Bytes::from(vec![7; 2 << 20]);
        let reply = caller.node.call("theirs", body.clone()).await;
        let reply = reply.expect_status(200);
        assert!(reply.body == body, "{} bytes came back", reply.body.len());
        let lost = ["outcome=\"lost\""];
        assert_eq!(caller.node.metric("weir_offloads_total", &lost).await, 0.0);
    });
}

#[test]
#[ignore = "takes a minute"]
fn a_zone_that_is_cut_for_a_minute_heals() {
    network::inside("a_zone_that_is_cut_for_a_minute_heals", async {
        let hosts = [Host::new(1), Host::new(2), Host::new(3)];
        let members = star(&hosts).await;
        let (hub, away) = (&members[0], &members[1]);
        let location = away.node.submit("half", "0").await;
        away.node.result(&location).await;
        let log = away.node.log();
        hosts[0].cut();
        let load = Load::start(&hub.node, "half", "20", 3);
        weir_tests::pass(Duration::from_secs(60)).await;
        let bad = load.stop().await;
        assert!(bad.is_empty(), "{:?}", told(&bad));
        hub.sees(&away.id, "dead").await;
        hosts[0].mend();
        hub.sees(&away.id, "in").await;
        away.sees(&hub.id, "in").await;
        away.node.result(&location).await;
        assert!(!log.contains("panicked"));
    });
}

#[tokio::test]
#[ignore = "takes ten minutes, and all processors"]
async fn nobody_is_taken_for_dead_while_the_machine_is_busy() {
    let members = federation(6).await;
    deploy_everywhere(&members, &half()).await;
    let spinning = (0..4 * std::thread::available_parallelism().map_or(1, usize::from)).map(|_| {
        let mut spin = tokio::process::Command::new("sh");
        spin.args(["-c", "while :; do :; done"]).kill_on_drop(true);
        spin.spawn().expect("a shell can be started")
    });
    let spinning: Vec<_> = spinning.collect();
    let load = Load::start(&members[0].node, "half", "20", 6);
    weir_tests::pass(Duration::from_secs(600)).await;
    let bad = load.stop().await;
    drop(spinning);
    assert!(bad.is_empty(), "{:?}", told(&bad));
    for member in &members {
        let deaths = member.node.metric("weir_peer_deaths_total", &[]).await;
        assert_eq!(deaths, 0.0, "{}", member.id);
    }
}
