//! Memory of a node that does nothing: empty, with many functions known, and
//! with all of them loaded.

use std::rc::Rc;

use anyhow::{Context, Result};

use crate::bench::load::Connection;
use crate::bench::process::{Resident, resident};
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::bench::{Bench, many};
use crate::eventually;
use crate::node::Node;

/// Looks at a node's memory, one after the other, that find it unchanged before
/// it counts as at rest: what is done once at the start, and freed, is not.
const UNCHANGED: usize = 50;

pub(super) async fn memory(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let many = bench.many().await?;
    let data = many.copy().await?;
    let [mut idle, mut deployed, mut loaded] = [const { Vec::new() }; 3];
    for _ in 0..bench.plan.repetitions {
        let mut node = Node::start().await;
        idle.push(at_rest(&node).await?);
        node.kill().await;
        let mut node = data.setup().start().await;
        deployed.push(at_rest(&node).await?);
        let mut connection = Connection::open(node.address).await?;
        many::call_each(&mut connection, many.count()).await?;
        loaded.push(at_rest(&node).await?);
        node.kill().await;
    }
    let count = many.count();
    Ok(vec![
        row("idle".to_owned(), &idle, 35.0),
        row(
            format!("{count} functions after a restart"),
            &deployed,
            50.0,
        ),
        row(format!("{count} functions loaded"), &loaded, 300.0),
    ])
}

async fn at_rest(node: &Node) -> Result<Resident> {
    let process = node.process().context("the node has ended")?;
    let (mut last, mut unchanged) = (0.0, 0);
    eventually("the node's memory is at rest", async || {
        let now = match resident(process) {
            Ok(now) => now,
            Err(error) => return Some(Err(error)),
        };
        unchanged = if now.all == last { unchanged + 1 } else { 0 };
        last = now.all;
        (unchanged == UNCHANGED).then_some(Ok(now))
    })
    .await
}

fn row(what: String, measured: &[Resident], bound: f64) -> Row {
    let all: Vec<f64> = measured.iter().map(|resident| resident.all).collect();
    let own: Vec<f64> = measured.iter().map(|resident| resident.own).collect();
    let own = quantile(&own, 0.5);
    Row::median(what, Unit::Megabytes, &all, Target::AtMost(bound))
        .beside(format!("{own:.1} MB of it its own, the rest mapped files"))
}
