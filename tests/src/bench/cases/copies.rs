//! Asynchronous calls that peers keep copies of before they are accepted,
//! beside those that only their own node keeps.

use std::rc::Rc;

use anyhow::{Result, ensure};

use super::acceptances::{CLIENTS, TURN, done};
use crate::bench::Bench;
use crate::bench::load::{Requests, load};
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::federation::{Member, all_meet, member};
use crate::node::{Function, Setup};

/// Copies that a call may have.
const COPIES: [&str; 3] = ["0", "1", "2"];

pub(super) async fn copies(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let roomy = |setup: Setup| setup.variable("WEIR_ASYNC_BACKLOG", "1000000");
    let first = Member::start(roomy(member())).await;
    let second = first.invite(roomy(member())).await;
    let third = first.invite(roomy(member())).await;
    let members = [&first, &second, &third];
    all_meet(&members).await;
    for copies in COPIES {
        let function = Function::new(&format!("kept{copies}"), "echo");
        first
            .node
            .deploy(function.setting("durable", copies).setting("scope", "node"))
            .await;
    }
    for member in [&second, &third] {
        for copies in COPIES {
            let function = Function::new(&format!("kept{copies}"), "echo");
            member.node.deploy(function.setting("scope", "node")).await;
        }
    }
    let mut rates: [Vec<f64>; 3] = Default::default();
    let turn = TURN.min(bench.plan.time);
    for _ in 0..bench.plan.repetitions {
        for (copies, rates) in COPIES.iter().zip(&mut rates) {
            let path = format!("/async-function/kept{copies}");
            let requests = Requests::one(&path, "x", 202);
            let seen = load(first.node.address, requests, CLIENTS, turn).await?;
            ensure!(seen.failures == 0, "{} calls were refused", seen.failures);
            rates.push(seen.throughput());
            for member in members {
                done(&member.node).await;
            }
        }
    }
    let [none, one, two] = &rates;
    let against =
        |more: &[f64]| -> Vec<f64> { more.iter().zip(none).map(|(m, n)| m / n).collect() };
    let row = |count: &str, rates: &[f64]| {
        let what = format!("acceptances with {count}, {CLIENTS} clients / without");
        let beside = format!(
            "{:.0} a second against {:.0}",
            quantile(rates, 0.5),
            quantile(none, 0.5)
        );
        Row::median(what, Unit::Ratio, &against(rates), Target::Reported).beside(beside)
    };
    Ok(vec![row("one copy", one), row("two copies", two)])
}
