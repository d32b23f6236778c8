//! What a member that takes calls and never answers costs those who send none
//! to it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::bench::Bench;
use crate::bench::load::{Requests, load};
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::eventually;
use crate::federation::{Member, all_meet, member};
use crate::foreign::{Foreign, Manners, function, report};
use crate::node::Function;

/// Clients of the calls that are measured, and of those that go to the liar.
const CLIENTS: usize = 8;

/// How often the liar says how much room it has.
const CLAIMS: Duration = Duration::from_millis(200);

/// A call that goes to the liar, and is given up before the next.
const BAIT: &str = "POST /function/theirs HTTP/1.1\r\nhost: localhost\r\n\
                    x-weir-deadline: 200ms\r\ncontent-length: 0\r\n\r\n";

pub(super) async fn liar(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let host = Member::found().await;
    let honest = host.invite(member()).await;
    all_meet(&[&host, &honest]).await;
    host.node.deploy(Function::new("ours", "echo")).await;
    host.node.deploy(function("theirs")).await;
    let manners = Manners {
        serve: Arc::new(|_| Box::pin(std::future::pending())),
        ..Manners::default()
    };
    let token = host.token(&[]).await;
    let liar = Foreign::join(&token, manners).await;
    let liar = Arc::new(liar.map_err(anyhow::Error::msg)?);
    let id = liar.id.to_string();
    let claiming = {
        let liar = Arc::clone(&liar);
        tokio::spawn(async move {
            for sequence in 0.. {
                liar.report("default", &report(sequence, &["theirs"], 1_000))
                    .await;
                crate::pass(CLAIMS).await;
            }
        })
    };
    eventually("it is believed", async || {
        let peer = host.peer(&id).await?;
        (!peer["functions"].as_array()?.is_empty()).then_some(())
    })
    .await;
    let mut tails: [Vec<f64>; 2] = Default::default();
    let time = bench.plan.time;
    for _ in 0..bench.plan.repetitions {
        for (lies, tails) in [false, true].into_iter().zip(&mut tails) {
            let bait = lies.then(|| {
                let bait = Requests {
                    bytes: [Arc::from(BAIT.as_bytes())].into(),
                    status: 0,
                };
                tokio::spawn(load(host.node.address, bait, CLIENTS, time))
            });
            let requests = Requests::one("/function/ours", "x", 200);
            let seen = load(host.node.address, requests, CLIENTS, time).await?;
            ensure!(seen.failures == 0, "{} calls failed", seen.failures);
            tails.push(seen.latencies.quantile(0.99).as_secs_f64() * 1e3);
            if let Some(bait) = bait {
                bait.await??;
            }
        }
    }
    claiming.abort();
    let [alone, beside] = &tails;
    let ratios: Vec<f64> = beside.iter().zip(alone).map(|(b, a)| b / a).collect();
    let what = "p99 of calls that stay here, beside calls to a liar / alone";
    let figures = format!(
        "{:.2} ms against {:.2} ms",
        quantile(beside, 0.5),
        quantile(alone, 0.5)
    );
    let row = Row::median(what, Unit::Ratio, &ratios, Target::AtMost(2.0));
    Ok(vec![row.beside(figures)])
}
