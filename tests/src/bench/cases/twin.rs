//! The simulator: calls that come at the same moments at real nodes and at virtual
//! ones.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::report::{Row, Target, Unit};
use crate::placement::trials::{Scale, Three};
use crate::placement::twin::{Seen, Twins, single};

/// Runs are so many turns of a plan long: a minute in a full one.
const TURNS: u32 = 20;

/// What one call takes.
const SERVICE: Duration = Duration::from_millis(100);

/// Places of the one node.
const PLACES: u32 = 10;

/// Of arrivals by chance.
const SEED: u64 = 19;

/// How far the simulator may be from real nodes: shares and means, and p99.
const APART: (f64, f64) = (0.05, 0.1);

/// The rows of one comparison.
fn rows(what: &str, twins: &Twins) -> Vec<Row> {
    let beside = |of: fn(&Seen) -> f64| {
        let (real, played) = (of(&twins.real), of(&twins.played));
        format!("{real:.1} ms, played {played:.1} ms; {} calls", twins.calls)
    };
    let row = |name: &str, value, most| {
        let what = format!("{what}: {name} apart");
        Row::single(what, Unit::Share, value, Target::AtMost(most))
    };
    let shares = |seen: &Seen| {
        let shares = seen.shares.iter().map(|share| format!("{share:.3}"));
        shares.collect::<Vec<_>>().join(" ")
    };
    vec![
        row("shares of nodes", twins.share_apart(), APART.0).beside(format!(
            "{}, played {}",
            shares(&twins.real),
            shares(&twins.played)
        )),
        row("mean", twins.apart(|seen| seen.mean), APART.0).beside(beside(|seen| seen.mean)),
        row("p99", twins.apart(|seen| seen.p99), APART.1).beside(beside(|seen| seen.p99)),
    ]
}

pub(super) async fn twin(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let scale = Scale {
        service: SERVICE,
        time: bench.plan.time * TURNS,
        deadline: Duration::MAX,
    };
    let mut all = Vec::new();
    for (load, seed) in [(0.5, SEED), (0.85, SEED + 1)] {
        let what = format!("one node, {:.0} % of load", load * 100.0);
        match single(PLACES, load, &scale, seed).await {
            Ok(twins) => all.extend(rows(&what, &twins)),
            Err(error) => all.push(Row::unmeasured(what, format!("{error:#}"))),
        }
    }
    let three = Three::start().await;
    for (rate, seed) in [(50.0, SEED + 2), (99.0, SEED + 3)] {
        let what = format!("three nodes, {rate} calls a second");
        match three.twins(&scale, rate, seed).await {
            Ok(twins) => all.extend(rows(&what, &twins)),
            Err(error) => all.push(Row::unmeasured(what, format!("{error:#}"))),
        }
    }
    Ok(all)
}
