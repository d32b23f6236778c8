//! Trials of the placement of calls: nodes of one zone with unlike room, a
//! function that is deployed at one of them, calls at the front door, and
//! beside them what one ideal queue for all places would do.
//!
//! * [`arrivals`] says when calls come.
//! * [`clients`] sends them.
//! * [`ideal`] is the queue to compare with.
//! * [`trials`] are the set-ups. The benchmarks run them at full size and judge
//!   them by the targets; the tests run them on slower functions and fewer
//!   calls, so that a busy machine changes little, and leave wide slack.
//! * [`twin`] has the simulator play the same calls.

pub mod arrivals;
pub mod clients;
pub mod ideal;
pub mod trials;
pub mod twin;

use serde_json::json;

use crate::eventually;
use crate::federation::{Member, all_meet, member};
use crate::node::{Function, Setup};

/// A member that lets so many calls of one core run at once.
pub fn roomy(places: u32) -> Setup {
    member().variable("WEIR_RESOURCES_CPU", &places.to_string())
}

/// Nodes of one zone with so many places each, which see each other.
pub async fn zone(places: &[u32]) -> Vec<Member> {
    let (first, others) = places.split_first().expect("a zone has a node");
    let mut members = vec![Member::start(roomy(*first)).await];
    for places in others {
        let joined = members[0].invite(roomy(*places)).await;
        members.push(joined);
    }
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    members
}

/// A function that takes as long as the body of a call says, and a place.
pub fn timed(name: &str) -> Function {
    Function::new(name, "sleep").cpu("1")
}

/// A function that takes as long as the secret `ms` says, and a place.
pub fn paced(name: &str) -> Function {
    let function = Function::new(name, "pace").cpu("1");
    function.field("secrets", json!(["ms"]))
}

/// A function of one node that nobody else runs, to keep its places with.
pub fn hold() -> Function {
    let own = timed("hold").setting("scope", "node").timeout("10m");
    own.label("weir.policy", "local-only")
}

/// Gives a node a secret.
pub async fn secret(member: &Member, name: &str, value: &str) {
    let secret = json!({ "name": name, "value": value });
    let made = member.node.manage("POST", "/system/secrets");
    made.json(&secret).send().await.expect_status(201);
}

/// Whether a member has heard of a function.
pub async fn has_heard(member: &Member, function: &str) -> bool {
    let listed = member.node.manage("GET", "/weir/v1/catalogue").send().await;
    let listed = listed.expect_status(200).json();
    let mut functions = listed.as_array().expect("a list").iter();
    functions.any(|known| known["name"] == function)
}

/// Deploys a function at the first of them, and waits until all have heard of
/// it: nothing else is done for the others.
pub async fn deploy_at_first(members: &[Member], function: Function) {
    let name = function.body["service"].as_str().expect("it has a name");
    let name = name.to_owned();
    members[0].node.deploy(function).await;
    for member in members {
        eventually(&format!("{} has heard of {name}", member.id), async || {
            has_heard(member, &name).await.then_some(())
        })
        .await;
    }
}

/// Whether a member has this code.
pub async fn has_code(member: &Member, digest: &str) -> bool {
    let path = format!("/weir/v1/artifacts/{digest}");
    member.node.manage("HEAD", &path).send().await.status == 200
}

/// Calls of [`hold`] that keep places until this is dropped.
#[derive(Debug)]
pub struct Held {
    calls: Vec<tokio::task::JoinHandle<()>>,
    /// Calls that ran before.
    before: u64,
}

impl Held {
    /// Takes so many places of a node that has [`hold`], and waits until as many
    /// calls run there.
    pub async fn take(member: &Member, places: u32) -> Held {
        let before = member.node.status().await["running"].as_u64();
        let before = before.expect("a status says what runs");
        let calls = (0..places).map(|_| {
            let ask = member.node.post("/function/hold").body("600000");
            tokio::spawn(async move {
                // It is given up, not answered.
                let _ = ask.try_send().await;
            })
        });
        let calls = calls.collect();
        member.node.running(before + u64::from(places)).await;
        Held { calls, before }
    }

    /// Gives the places back, and waits until nothing runs there that came
    /// since they were taken.
    pub async fn release(self, member: &Member) {
        let before = self.before;
        drop(self);
        member.node.running(before).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for call in &self.calls {
            call.abort();
        }
    }
}
