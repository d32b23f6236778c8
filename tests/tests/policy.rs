//! How calls are placed, changed on running nodes by commands.

use std::time::Duration;

use serde_json::Value;
use weir_tests::federation::Member;
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
