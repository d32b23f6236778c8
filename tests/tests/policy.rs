//! How calls are placed, changed on running nodes by commands; and what holds
//! beside every policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use weir_tests::federation::Member;
use weir_tests::foreign::{self, Foreign, Manners, Serve, map, number, text as word};
use weir_tests::node::{Node, text, weir};
use weir_tests::placement::{Held, deploy_at_first, hold, timed, zone};
use weir_tests::{eventually, pass};

/// Runs a command against a node; panics unless it succeeds.
async fn done(node: &Node, arguments: &[&str]) -> String {
    let output = node.weir(arguments).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    text(&output.stdout)
}

/// Runs a command against a node that is to fail; what it says.
async fn refused(node: &Node, arguments: &[&str]) -> String {
    let output = node.weir(arguments).await;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    text(&output.stderr)
}

/// The policy that is in force for these calls, and who said so.
async fn in_force(node: &Node, calls: &str) -> Option<(String, String)> {
    let all = done(node, &["policy", "get", "--output", "json"]).await;
    let all: Vec<Value> = serde_json::from_str(&all).expect("a list");
    let row = all.into_iter().find(|row| row["calls"] == calls)?;
    let word = |key: &str| row[key].as_str().expect("a word").to_owned();
    Some((word("policy"), word("said_by")))
}

fn said(policy: &str, by: &str) -> Option<(String, String)> {
    Some((policy.to_owned(), by.to_owned()))
}

/// Two nodes of a zone, the first with one place, and functions that the first
/// was given.
async fn two() -> Vec<Member> {
    let members = zone(&[1, 4]).await;
    deploy_at_first(&members, timed("work")).await;
    members[0].node.deploy(hold()).await;
    members
}

/// Calls the first node while its one place is taken: where that ran.
async fn spilt(node: &Node) -> (u16, String) {
    let reply = node.call("work", "1").await;
    (reply.status, reply.header("x-weir-ran-on").to_owned())
}

#[tokio::test]
async fn policies_are_listed_and_shown_with_their_parameters() {
    let list = weir(["policy", "list"]).output().await.expect("it starts");
    let list = text(&list.stdout);
    for name in [
        "spill",
        "local-only",
        "cloud-only",
        "edge-only",
        "edge-cloud",
    ] {
        assert!(list.contains(name), "{list}");
        let shown = weir(["policy", "show", name]).output().await;
        let shown = text(&shown.expect("it starts").stdout);
        assert!(shown.starts_with(&format!("{name}: ")), "{shown}");
    }
    let wrong = weir(["policy", "show", "spil"]).output().await;
    let wrong = wrong.expect("it starts");
    assert_eq!(wrong.status.code(), Some(1));
    let wrong = text(&wrong.stderr);
    assert!(
        wrong.contains("spill") && wrong.contains("edge-cloud"),
        "{wrong}"
    );
}

#[tokio::test]
async fn a_node_alone_keeps_what_is_set_for_when_it_has_peers() {
    let mut node = Node::start().await;
    assert_eq!(in_force(&node, "all").await, said("spill", "configuration"));
    let told = done(&node, &["policy", "set", "adaptive"]).await;
    assert!(told.contains("once this node is in a federation"), "{told}");
    assert_eq!(
        in_force(&node, "all").await,
        said("adaptive", "set by hand")
    );
    let wrong = refused(&node, &["policy", "set", "--class", "none-such", "spill"]).await;
    assert!(wrong.contains("no QoS class"), "{wrong}");
    for needs_peers in [["congestion", "list"], ["routes", "list"]] {
        let mut arguments = needs_peers.to_vec();
        arguments.extend((needs_peers[0] == "routes").then_some("work"));
        let told = refused(&node, &arguments).await;
        assert!(told.contains("is in no federation"), "{told}");
    }

    node.kill().await;
    let member = "[federation]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
                  peer-listen = \"127.0.0.1:0\"\n";
    let node = node.into_setup().config(member).start().await;
    assert_eq!(
        in_force(&node, "all").await,
        said("adaptive", "set by hand")
    );
    done(&node, &["policy", "reset"]).await;
    assert_eq!(in_force(&node, "all").await, said("spill", "configuration"));
}

#[tokio::test]
async fn a_policy_that_is_set_places_calls_at_once_and_over_a_restart_until_it_is_reset() {
    let mut members = two().await;
    let [first, second] = &members[..] else {
        panic!("two nodes");
    };
    assert_eq!(
        in_force(&first.node, "all").await,
        said("spill", "configuration")
    );
    let held = Held::take(first, 1).await;
    // The peer has to be known with room, and to fetch the code.
    eventually("a call spills", async || {
        let (status, ran_on) = spilt(&first.node).await;
        (status == 200 && ran_on == second.id).then_some(())
    })
    .await;
    done(&first.node, &["policy", "set", "local-only"]).await;
    assert_eq!(
        in_force(&first.node, "all").await,
        said("local-only", "set by hand")
    );
    let waits = first.node.post("/function/work").body("1".to_owned());
    let waits = waits.header("x-weir-deadline", "500ms").send().await;
    assert_ne!(
        waits.status, 200,
        "it was to stay here, where there is no place"
    );
    // A function's stands before that of all.
    done(
        &first.node,
        &["policy", "set", "--function", "work", "spill"],
    )
    .await;
    let of_work = "function/work.openfaas-fn";
    assert_eq!(
        in_force(&first.node, of_work).await,
        said("spill", "set by hand")
    );
    eventually("its calls spill again", async || {
        (spilt(&first.node).await == (200, second.id.clone())).then_some(())
    })
    .await;
    drop(held);

    let first = members.remove(0).restart().await;
    assert_eq!(
        in_force(&first.node, "all").await,
        said("local-only", "set by hand")
    );
    assert_eq!(
        in_force(&first.node, of_work).await,
        said("spill", "set by hand")
    );
    done(&first.node, &["policy", "reset", "--function", "work"]).await;
    assert_eq!(in_force(&first.node, of_work).await, None);
    done(&first.node, &["policy", "reset"]).await;
    assert_eq!(
        in_force(&first.node, "all").await,
        said("spill", "configuration")
    );
    let nothing = refused(&first.node, &["policy", "reset"]).await;
    assert!(nothing.contains("no policy was set by hand"), "{nothing}");
}

#[tokio::test]
async fn what_is_misspelt_is_told() {
    let members = two().await;
    let node = &members[0].node;
    for (arguments, expected) in [
        (&["policy", "set", "spil"][..], "spill"),
        (&["policy", "set", "spill", "alpha=1"], "has no parameter"),
        (
            &["policy", "set", "--function", "wrk", "spill"],
            "no function wrk",
        ),
        (
            &["policy", "set", "--class", "gld", "spill"],
            "no QoS class",
        ),
        (&["congestion", "notice", "nobody"], "no node's id"),
        (&["congestion", "notice", &members[0].id], "this node"),
        (
            &["congestion", "notice", &members[1].id, "--lasts", "2d"],
            "out of range",
        ),
        (
            &["congestion", "clear", &members[1].id],
            "not said to be congested",
        ),
        (&["routes", "list", "wrk"], "no function wrk"),
        (&["routes", "set", "work", "here", "1"], "keeps no table"),
    ] {
        let said = refused(node, arguments).await;
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn a_change_of_policy_loses_no_call() {
    let members = two().await;
    let node = &members[0].node;
    let call = || node.post("/function/work").body("5".to_owned());
    let calls: Vec<_> = (0..200)
        .map(|number: u64| {
            let call = call();
            tokio::spawn(async move {
                pass(Duration::from_millis(10 * number)).await;
                let reply = call.send().await;
                (reply.status, reply.text())
            })
        })
        .collect();
    for policy in [
        "local-only",
        "spill",
        "local-only",
        "spill",
        "local-only",
        "spill",
    ] {
        pass(Duration::from_millis(250)).await;
        done(node, &["policy", "set", policy]).await;
    }
    for call in calls {
        let (status, text) = call.await.expect("it does not panic");
        assert_eq!(status, 200, "{text}");
    }
}

#[tokio::test]
async fn nothing_goes_to_a_node_that_is_said_to_be_congested_until_that_is_cleared() {
    let members = two().await;
    let [first, second] = &members[..] else {
        panic!("two nodes");
    };
    let _held = Held::take(first, 1).await;
    eventually("a call spills", async || {
        (spilt(&first.node).await == (200, second.id.clone())).then_some(())
    })
    .await;
    done(
        &first.node,
        &["congestion", "notice", &second.id, "--lasts", "1h"],
    )
    .await;
    let list = done(&first.node, &["congestion", "list"]).await;
    assert!(list.contains(&second.id), "{list}");
    let waits = first.node.post("/function/work").body("1".to_owned());
    let waits = waits.header("x-weir-deadline", "500ms").send().await;
    assert_ne!(
        waits.status, 200,
        "it was to stay here, where there is no place"
    );
    done(&first.node, &["congestion", "clear", &second.id]).await;
    eventually("calls spill again", async || {
        (spilt(&first.node).await == (200, second.id.clone())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_documentation_lists_every_policy_and_parameter() {
    let readme = include_str!("../../federation/README.md");
    let list = weir(["policy", "list", "--output", "json"]).output().await;
    let list: Vec<Value> = serde_json::from_slice(&list.expect("it starts").stdout).expect("JSON");
    for kind in list {
        let name = kind["name"].as_str().expect("a name");
        let row = format!("| `{name}` |");
        let row = readme.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("{name} is not in federation/README.md"));
        for parameter in kind["parameters"].as_array().expect("a list") {
            let key = parameter["name"].as_str().expect("a name");
            let usual = parameter["default"].as_str().expect("a text");
            let shown = if usual.is_empty() { "empty" } else { usual };
            assert!(
                row.contains(&format!("`{key}` ({shown}; ")),
                "{name}: {key}"
            );
        }
    }
}

/// A node, and a member of another making which alone can run `theirs`.
struct Beside {
    host: Member,
    peer: Foreign,
    sequence: AtomicU64,
}

/// What the other member says of itself: room for so many calls, and more.
fn told<const N: usize>(
    room: u64,
    more: [(&str, serde_cbor::Value); N],
) -> (&'static str, serde_cbor::Value) {
    let load = map([
        ("cpu_total", number(4_000)),
        ("cpu_free", number(room * 1_000)),
        ("guest_cpu", number(room * 1_000)),
        ("guest_cpu_long", number(room * 1_000)),
    ]);
    let told = map([("places", number(room)), ("load", load)]);
    ("told", foreign::with(told, more))
}

/// Whether a call is there that never ends.
static STAYING: AtomicBool = AtomicBool::new(false);

/// It serves calls so, and has no place whenever it is asked.
fn serve(answer: impl Fn() -> foreign::Reply + Send + Sync + 'static) -> Serve {
    let answer = Arc::new(answer);
    Arc::new(move |request| {
        let answer = answer.clone();
        Box::pin(async move {
            let asks = request.headers().contains_key("x-weir-look");
            let path = request.uri().path().to_owned();
            drop(request);
            match path.as_str() {
                "/stays" => {
                    STAYING.store(true, Ordering::Relaxed);
                    std::future::pending().await
                }
                _ if asks => {
                    let full = told(0, [("why", word("node-full"))]);
                    foreign::said(&map([full]), "")
                }
                _ => answer(),
            }
        })
    })
}

/// It refuses all that it is sent, for this reason.
fn refuses(why: &'static str) -> Serve {
    serve(move || {
        let told = told(0, [("why", word(why))]);
        foreign::said(&map([("kind", word("refused")), told]), "it is full")
    })
}

impl Beside {
    async fn start(serve: Serve) -> Beside {
        let host = Member::found().await;
        let token = host.token(&[]).await;
        let manners = Manners {
            serve,
            ..Manners::default()
        };
        let peer = Foreign::join(&token, manners).await;
        let peer = peer.expect("it is let in");
        host.node.deploy(foreign::function("theirs")).await;
        let beside = Beside {
            host,
            peer,
            sequence: AtomicU64::new(1),
        };
        let id = beside.peer.id.to_string();
        eventually("its room is known", async || {
            beside.reports().await;
            let peer = beside.host.peer(&id).await;
            peer.filter(|peer| peer["room"].as_u64() > Some(0))
        })
        .await;
        beside
    }

    /// The other member says that it has room for four calls.
    async fn reports(&self) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let report = foreign::report(sequence, &["theirs"], 4);
        self.peer.report("default", &report).await;
    }

    /// Calls, and tells why that went where it went.
    async fn calls(&self) -> String {
        let node = &self.host.node;
        let call = node
            .post("/function/theirs")
            .header("x-weir-deadline", "300ms");
        let reply = call.header("x-weir-explain", "1").send().await;
        let call = reply.header("x-weir-call-id");
        let why = node.manage("GET", &format!("/weir/v1/explain/{call}"));
        why.send().await.expect_status(200).text()
    }

    /// Waits until an explanation says this and it is counted for this reason.
    async fn holds_back(&self, said: &str, reason: &str) {
        let fact = format!("a call is held back: {said}\n{}", self.host.node.log());
        let explained = eventually(&fact, async || {
            self.reports().await;
            // All of the first go by that report, and the others by what it says with
            // its answers to those.
            let mut calls = join_all((0..4).map(|_| self.calls())).await;
            calls.extend(join_all((0..4).map(|_| self.calls())).await);
            calls.into_iter().find(|why| why.contains(said))
        })
        .await;
        eprintln!("{explained}");
        let label = format!("reason=\"{reason}\"");
        let name = "weir_held_back_total";
        assert!(self.host.node.metric(name, &[&label]).await >= 1.0);
    }
}

#[tokio::test]
async fn a_peer_that_refuses_most_calls_is_throttled() {
    let beside = Beside::start(refuses("node-full")).await;
    // As long as one is there, no other finds out whether there is room.
    let stays = beside.host.node.post("/function/theirs/stays");
    let stays = tokio::spawn(async move { stays.try_send().await });
    eventually("a call is there", async || {
        beside.reports().await;
        STAYING.load(Ordering::Relaxed).then_some(())
    })
    .await;
    beside.holds_back("throttled", "throttled").await;
    stays.abort();
}

#[tokio::test]
async fn what_peers_refuse_is_offered_again_within_the_retry_budget() {
    // Its own bound says nothing of the node: that is no reason to throttle it.
    let beside = Beside::start(refuses("function-full")).await;
    beside
        .holds_back("the retry budget is used up", "budget")
        .await;
    let throttled = ["reason=\"throttled\""];
    let throttled = beside.host.node.metric("weir_held_back_total", &throttled);
    assert_eq!(throttled.await, 0.0);
}

#[tokio::test]
async fn a_class_that_a_peer_sheds_is_not_offered_to_it() {
    let sheds = |level| {
        serve(move || {
            let told = told(4, [("level", number(level))]);
            foreign::said(&map([("kind", word("answer")), told]), "done")
        })
    };
    let beside = Beside::start(sheds(1)).await;
    beside.holds_back("sheds this class", "shed").await;
    // What is out of range holds nothing back.
    let beside = Beside::start(sheds(300)).await;
    for _ in 0..20 {
        beside.reports().await;
        let reply = beside.host.node.call("theirs", "").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let shed = ["reason=\"shed\""];
    let shed = beside.host.node.metric("weir_held_back_total", &shed).await;
    assert_eq!(shed, 0.0);
}
