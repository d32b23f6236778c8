//! Functions across a federation: how soon all know of one, and how long a
//! newcomer takes to know of many.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use serde_json::json;

use super::crowd::{NODES, start};
use crate::bench::Bench;
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::etcd::Cluster;
use crate::eventually_every;
use crate::federation::{Member, member};
use crate::node::Function;

/// How often a fact is looked up.
const LOOK: Duration = Duration::from_millis(2);

/// The same where the answer is megabytes long.
const LOOK_LONG: Duration = Duration::from_millis(50);

/// Functions that a newcomer is told of.
const FUNCTIONS: usize = 10_000;

/// Deployments under way at once.
const TOGETHER: usize = 32;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(super) async fn everywhere(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let known = known_after(&bench, None).await?;
    rows.extend(spread("gossip", &known, Target::AtMost(500.0)));
    match by_etcd(&bench).await {
        Ok(known) => rows.extend(spread("etcd", &known, Target::Reported)),
        Err(error) => rows.push(Row::unmeasured("by etcd", format!("{error:#}"))),
    }
    rows.push(Row::single(
        format!("a newcomer knows {FUNCTIONS} functions, after its start"),
        Unit::Milliseconds,
        milliseconds(newcomer(&bench).await?),
        Target::Reported,
    ));
    Ok(rows)
}

fn spread(way: &str, times: &[f64], worst: Target) -> [Row; 2] {
    [("p50", 0.5, Target::Reported), ("p99", 0.99, worst)].map(|(name, at, target)| {
        Row::single(
            format!("{NODES} nodes: a deployment is known to all, by {way}, {name}"),
            Unit::Milliseconds,
            quantile(times, at),
            target,
        )
    })
}

/// Changes a function at one node after the other: how long after each request
/// all know of it.
async fn known_after(bench: &Bench, etcd: Option<&str>) -> Result<Vec<f64>> {
    let setup = || match etcd {
        None => member(),
        Some(endpoints) => member()
            .variable("WEIR_FEDERATION_REGISTRY", "etcd")
            .variable("WEIR_FEDERATION_ETCD_ENDPOINTS", endpoints),
    };
    let (members, _) = start(setup).await?;
    for member in &members {
        if etcd.is_some() {
            eventually_every(LOOK, "etcd is reached", async || {
                let status = member.node.status().await;
                (status["federation"]["etcd_reached"] == true).then_some(())
            })
            .await;
        }
        // The code is there: what is measured is the word of it.
        member.node.upload(&crate::guests::guest("echo")).await;
    }
    let mut times = Vec::new();
    for number in 0..bench.plan.repetitions * 5 {
        let edition = number.to_string();
        let function = Function::new("word", "echo").label("edition", &edition);
        let at = &members[number * 7 % members.len()];
        let began = Instant::now();
        let created = at.node.create(&function).await;
        ensure!(created.status == 202, "{}", created.text());
        for member in &members {
            knows(member, number as u64 + 1).await;
        }
        times.push(milliseconds(began.elapsed()));
    }
    Ok(times)
}

async fn knows(member: &Member, version: u64) {
    eventually_every(LOOK, "a function is known", async || {
        let listed = member.node.manage("GET", "/weir/v1/catalogue").send().await;
        let listed = listed.json();
        (listed[0]["version"] == json!(version)).then_some(())
    })
    .await;
}

async fn by_etcd(bench: &Bench) -> Result<Vec<f64>> {
    crate::bench::peers::found("etcd")?;
    crate::bench::peers::found("etcdctl")?;
    let cluster = Cluster::start(1).await;
    known_after(bench, Some(&cluster.endpoints())).await
}

async fn newcomer(bench: &Bench) -> Result<Duration> {
    let count = match bench.plan.repetitions {
        0..=2 => FUNCTIONS / 10,
        _ => FUNCTIONS,
    };
    let setup = member().variable("WEIR_FUNCTIONS_MAX", "20000");
    let first = Member::start(setup).await;
    first.node.upload(&crate::guests::guest("echo")).await;
    let names: Vec<String> = (0..count).map(|number| format!("f{number}")).collect();
    for names in names.chunks(TOGETHER) {
        let functions = names.iter().map(async |name| {
            let function = Function::new(name, "echo").setting("replicas", "1");
            first.node.create(&function).await
        });
        for created in join_all(functions).await {
            ensure!(created.status == 202, "{}", created.text());
        }
    }
    let began = Instant::now();
    let second = first.invite(member()).await;
    eventually_every(LOOK_LONG, "a newcomer knows all functions", async || {
        let listed = second.node.manage("GET", "/weir/v1/catalogue").send().await;
        (listed.json().as_array()?.len() == count).then_some(())
    })
    .await;
    Ok(began.elapsed())
}
