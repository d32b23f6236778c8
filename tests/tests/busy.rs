//! Calls under way while all processors of the machine are busy; apart from other
//! tests, which would be late.

use std::process::Stdio;

use serde_json::json;
use weir_tests::federation::{Member, all_meet, member};
use weir_tests::node::Function;
use weir_tests::within;

#[tokio::test]
async fn a_call_that_says_nothing_for_long_is_answered_though_all_processors_are_busy() {
    let caller = &Member::found().await;
    let able = member().variable("WEIR_FEDERATION_LABELS", "disk=ssd");
    let peer = &caller.invite(able).await;
    all_meet(&[caller, peer]).await;
    let slow = Function::new("slow", "sleep").timeout("60s");
    let slow = slow.field("constraints", json!(["disk=ssd"]));
    peer.node.deploy(slow).await;
    caller.sees_function(&peer.id, "slow").await;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let spinning = (0..4 * cores).map(|_| {
        let mut spin = tokio::process::Command::new("sh");
        spin.args(["-c", "while :; do :; done"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        spin.spawn().expect("a shell can be started")
    });
    let spinning: Vec<_> = spinning.collect();
    let call = caller.node.call("slow", "20000");
    let reply = within("the call is answered", call).await;
    drop(spinning);
    assert_eq!(reply.expect_status(200).header("x-weir-ran-on"), peer.id);
    let lost = ["outcome=\"lost\""];
    assert_eq!(caller.node.metric("weir_offloads_total", &lost).await, 0.0);
}
