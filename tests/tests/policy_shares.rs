//! Where calls run by each policy: three nodes of unlike speed, the first of them
//! called, every policy set by name on it while it runs.

use std::collections::BTreeSet;

use serde_json::Value;
use weir_tests::eventually;
use weir_tests::federation::Member;
use weir_tests::node::{text, weir};
use weir_tests::placement::{deploy_at_first, paced, secret, zone};

/// How long a call runs at each node, in milliseconds: the second is the
/// quickest, the third far slower than twice that.
const SPEEDS: [&str; 3] = ["60", "40", "160"];

/// Calls that each policy places, and clients that send them, each its next one
/// when the one before was answered. No node is ever full.
const CALLS: usize = 100;
const CLIENTS: usize = 4;
const PLACES: u32 = 8;

/// Calls that a policy may learn from first.
const LEARNING: usize = 40;

/// Where calls are to run.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// Each node has a share within so much.
    Shares([f64; 3], f64),
    /// All at one node, whichever that is, but for so large a share.
    Home(f64),
    /// A node has at least this share.
    Most(usize, f64),
    /// Every node has at least this share.
    Each(f64),
    /// They are answered: the policy weighs what these nodes do not differ in.
    Answered,
    /// Nobody may run them.
    Refused,
}

use Expected::{Answered, Each, Home, Most, Refused, Shares};

const HERE: Expected = Shares([1.0, 0.0, 0.0], 0.0);

/// How far a share may be from what its formula says: of 100 draws, four
/// standard deviations of a share of one half.
const WITHIN: f64 = 0.2;

/// Shares in inverse proportion to response times of 60, 40 and 160 ms.
const INVERSE: [f64; 3] = [0.348, 0.522, 0.130];

/// Every policy, as it is set, and where calls run by it.
const POLICIES: [(&str, Expected); 38] = [
    ("spill", HERE),
    ("local-only", HERE),
    ("all-local", HERE),
    ("edge-cloud", HERE),
    ("recalc", HERE),
    ("node-margin", HERE),
    ("power-of-d", HERE),
    ("auction", HERE),
    ("cloud-only", Refused),
    ("edge-only", Most(1, 0.5)),
    ("adaptive", Most(1, 0.8)),
    ("static own=60", Shares([0.6, 0.2, 0.2], WITHIN)),
    ("random-proportional", Shares(INVERSE, WITHIN)),
    ("proportional-fairness", Shares(INVERSE, WITHIN)),
    // The third is more than twice as slow as the second.
    ("round-robin", Shares([0.4, 0.6, 0.0], WITHIN)),
    ("latency-threshold", Shares([0.333; 3], WITHIN)),
    ("random period=100ms", Each(0.05)),
    ("least-impedance", Most(1, 0.5)),
    ("rtt", Answered),
    ("util", Most(1, 0.5)),
    ("delay", Most(1, 0.5)),
    ("probe", Answered),
    ("prequal", Most(1, 0.5)),
    ("c3", Most(1, 0.4)),
    ("join-idle-queue", HERE),
    ("hiku", Home(0.2)),
    ("least-outstanding", Each(0.1)),
    ("peak-ewma", Most(1, 0.5)),
    ("ch-bl", Answered),
    ("ch-rlu", Home(0.1)),
    ("hermod", Home(0.2)),
    ("stale-li", Each(0.1)),
    ("qos-aware", Answered),
    ("hash-ring", Home(0.1)),
    ("ucb1", Most(1, 0.4)),
    ("linucb", Most(1, 0.4)),
    ("architecture-aware by=turns", Home(0.1)),
    ("round-robin faithful=true", Answered),
];

/// Calls the first node so often; how many were answered, and how many of those
/// each of them ran.
async fn calls(members: &[Member], count: usize) -> [usize; 3] {
    let clients = (0..CLIENTS).map(|_| async {
        let mut ran = [0_usize; 3];
        for _ in 0..count / CLIENTS {
            let reply = members[0].node.post("/function/work").send().await;
            if reply.status != 200 {
                continue;
            }
            let id = reply.header("x-weir-ran-on");
            let at = members.iter().position(|member| member.id == id);
            // What ran where it came in says no more.
            ran[at.unwrap_or(0)] += 1;
        }
        ran
    });
    let all = futures_util::future::join_all(clients).await;
    let sum = |at: usize| all.iter().map(|ran| ran[at]).sum();
    [sum(0), sum(1), sum(2)]
}

async fn set(member: &Member, policy: &str) {
    let mut arguments = vec!["policy", "set"];
    arguments.extend(policy.split(' '));
    let output = member.node.weir(&arguments).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{policy}: {said}");
}

/// What is wrong with how calls ran.
fn wrong(ran: [usize; 3], expected: Expected) -> Option<String> {
    let total: usize = ran.iter().sum();
    let share = |at: usize| ran[at] as f64 / total.max(1) as f64;
    let is_right = match expected {
        Refused => total == 0,
        _ if total != CALLS => false,
        Answered => true,
        Each(least) => (0..3).all(|at| share(at) >= least),
        Most(at, least) => share(at) >= least,
        Home(rest) => (0..3).any(|at| share(at) >= 1.0 - rest),
        Shares(shares, within) => (0..3).all(|at| (share(at) - shares[at]).abs() <= within),
    };
    (!is_right).then(|| format!("ran {ran:?} of {CALLS}, expected {expected:?}"))
}

#[tokio::test]
async fn every_policy_shares_calls_out_as_its_formula_says() {
    let list = weir(["policy", "list", "--output", "json"]).output().await;
    let list: Vec<Value> = serde_json::from_slice(&list.expect("it starts").stdout).expect("JSON");
    let names = list
        .iter()
        .map(|kind| kind["name"].as_str().expect("a name"));
    let tried = POLICIES.iter();
    let tried = tried.map(|(policy, _)| policy.split(' ').next().expect("it has a name"));
    let tried: BTreeSet<&str> = tried.collect();
    assert_eq!(
        tried,
        names.collect::<BTreeSet<_>>(),
        "a policy is not tried"
    );

    let members = zone(&[PLACES; 3]).await;
    for (member, ms) in members.iter().zip(SPEEDS) {
        secret(member, "ms", ms).await;
    }
    deploy_at_first(&members, paced("work")).await;
    // All have its code before anything is counted.
    set(&members[0], "static own=34").await;
    eventually("all have run it", async || {
        let ran = calls(&members, LEARNING).await;
        ran.iter().all(|ran| *ran > 0).then_some(())
    })
    .await;

    let mut faults = Vec::new();
    for (policy, expected) in POLICIES {
        set(&members[0], policy).await;
        calls(&members, LEARNING).await;
        let ran = calls(&members, CALLS).await;
        println!("{policy}: {ran:?}");
        faults.extend(wrong(ran, expected).map(|wrong| format!("{policy}: {wrong}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
