//! Functions beside each other on one node: none starves another, and no more
//! calls run at once than the processors have room for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use weir_tests::node::{Function, Node, Setup};
use weir_tests::{eventually, pass};

/// Rounds of `work` that take some tenths of a second.
const HEAVY: &str = "150000";

/// A node of one core: ten places for calls that declare nothing.
async fn one_core() -> Node {
    Setup::new().config("[resources]\ncpu = 1").start().await
}

/// Sends so many heavy calls of a function at once.
fn burden(node: &Arc<Node>, path: &str, calls: usize) -> JoinSet<()> {
    let mut burden = JoinSet::new();
    for _ in 0..calls {
        let (node, path) = (node.clone(), path.to_owned());
        burden.spawn(async move {
            node.post(&path).body(HEAVY).send().await;
        });
    }
    burden
}

/// Calls of the only class that wait.
async fn waiting(node: &Node) -> u64 {
    let status = node.status().await;
    status["classes"][0]["waiting"].as_u64().expect("a number")
}

#[tokio::test]
async fn a_small_function_does_not_wait_behind_the_calls_of_a_large_one() {
    let node = Arc::new(one_core().await);
    node.deploy(Function::new("large", "work")).await;
    node.deploy(Function::new("small", "work")).await;
    node.call("large", HEAVY).await.expect_status(200);
    node.call("small", "1").await.expect_status(200);
    let burden = burden(&node, "/function/large", 100);
    eventually("the large one's calls wait", async || {
        (waiting(&node).await >= 60).then_some(())
    })
    .await;
    for _ in 0..10 {
        node.call("small", "1").await.expect_status(200);
    }
    // In the order of arrival none would be left.
    let left = waiting(&node).await;
    assert!(left > 0, "the small one's calls came last");
    drop(burden);
}

#[tokio::test]
async fn a_namespace_gets_no_more_by_having_more_functions() {
    let node = Arc::new(one_core().await);
    let space = json!({ "name": "alone" });
    let made = node
        .manage("POST", "/system/namespace/alone")
        .json(&space)
        .send()
        .await;
    assert!(made.status < 300, "{made:?}");
    let many: Vec<String> = (0..8).map(|number| format!("many-{number}")).collect();
    for name in &many {
        node.deploy(Function::new(name, "work")).await;
    }
    let alone = Function::new("one", "work").field("namespace", "alone");
    node.deploy(alone).await;
    let ended = Arc::new(AtomicU64::new(0));
    let mut calls = JoinSet::new();
    let paths = many.iter().map(|name| format!("/function/{name}"));
    let paths = paths.flat_map(|path| std::iter::repeat_n(path, 16));
    for path in paths {
        let (node, ended) = (node.clone(), ended.clone());
        calls.spawn(async move {
            node.post(&path).body(HEAVY).send().await;
            ended.fetch_add(1, Ordering::Relaxed);
        });
    }
    eventually("calls of the many wait", async || {
        (waiting(&node).await >= 100).then_some(())
    })
    .await;
    let mut own = burden(&node, "/function/one.alone", 16);
    let before = ended.load(Ordering::Relaxed);
    while own.join_next().await.is_some() {}
    let beside = ended.load(Ordering::Relaxed) - before;
    // Half of the node is its own: of the others as many go, give or take those
    // that ran when it came. By function it would be eight times as many.
    assert!(
        beside <= 16 + 20,
        "{beside} calls of the others went before"
    );
}

/// Keeps so many connections busy with a path of a function for a time; how many
/// of the node's calls ran, looked at every 20 ms in its second half.
async fn looped(node: &Arc<Node>, path: &str, connections: usize, time: Duration) -> Vec<u64> {
    let end = Instant::now() + time;
    let mut loops = JoinSet::new();
    for _ in 0..connections {
        let (node, path) = (node.clone(), path.to_owned());
        loops.spawn(async move {
            while Instant::now() < end {
                let reply = node.post(&path).send().await;
                // On a machine that is busy otherwise, too many may wait.
                if reply.status == 429 {
                    pass(Duration::from_millis(100)).await;
                } else {
                    reply.expect_status(200);
                }
            }
        });
    }
    pass(time / 2).await;
    let mut seen = Vec::new();
    while Instant::now() < end {
        let running = node.status().await["running"].as_u64();
        seen.push(running.expect("a number"));
        pass(Duration::from_millis(20)).await;
    }
    while let Some(ended) = loops.join_next().await {
        ended.expect("its calls are answered");
    }
    seen.sort_unstable();
    seen
}

async fn containers(more: &[(&str, &str)]) -> Arc<Node> {
    let node = Setup::new().containers().start().await;
    for (name, concurrency) in more {
        let function = Function::container(name).setting("concurrency", concurrency);
        node.deploy(function.timeout("60s")).await;
    }
    Arc::new(node)
}

fn median(seen: &[u64]) -> u64 {
    seen[seen.len() / 2]
}

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

#[tokio::test]
async fn no_more_calls_run_that_need_a_core_than_there_are_cores_for() {
    let node = containers(&[("forks", "1")]).await;
    let time = Duration::from_secs(8);
    let seen = looped(&node, "/function/forks/burn?5", 16, time).await;
    eprintln!(
        "{} of 16 ran at a median, {:?} at most",
        median(&seen),
        seen.last()
    );
    // Without knowing what they need, all of them would.
    assert!(median(&seen) <= 3 * cores(), "{seen:?}");
    let path = "/system/function/forks?usage=1";
    let status = node.manage("GET", path).send().await.expect_status(200);
    let needs = status.json()["usage"]["cpuPerCall"].as_u64();
    assert!(needs.is_some_and(|needs| needs > 100), "{needs:?}");
}

#[tokio::test]
async fn calls_that_sleep_run_beside_each_other_and_beside_those_that_need_a_core() {
    let node = containers(&[("forks", "1"), ("sleeps", "16")]).await;
    let time = Duration::from_secs(6);
    let busy = node.clone();
    let busy = tokio::spawn(async move {
        looped(&busy, "/function/forks/burn?5", 8, time).await;
    });
    let slept = looped(&node, "/function/sleeps/sleep?500", 12, time).await;
    busy.await.expect("all calls are answered");
    eprintln!("{} ran at a median", median(&slept));
    assert!(median(&slept) >= 12, "sleepers were held back: {slept:?}");
}

#[tokio::test]
#[ignore = "takes five minutes"]
async fn concurrency_does_not_creep_up_in_five_minutes() {
    let node = containers(&[("forks", "1"), ("spins", "1"), ("sleeps", "16")]).await;
    let time = Duration::from_secs(300);
    let others = [
        ("/function/spins/spin", 4),
        ("/function/sleeps/sleep?100", 8),
    ];
    let mut beside = JoinSet::new();
    for (path, connections) in others {
        let node = node.clone();
        beside.spawn(async move { looped(&node, path, connections, time).await });
    }
    let seen = looped(&node, "/function/forks/burn?5", 16, time).await;
    while beside.join_next().await.is_some() {}
    eprintln!(
        "{} ran at a median, {:?} at most",
        median(&seen),
        seen.last()
    );
    assert!(median(&seen) <= 8 + 3 * cores(), "{}", median(&seen));
}
