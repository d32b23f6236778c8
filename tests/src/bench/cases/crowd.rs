//! Many nodes in one zone, on one machine: how soon they know of each other,
//! how old what they know is, what that costs, and beside it Debian's `serf`,
//! which knows who is there and nothing more.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bench::peers::{Serf, found};
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::bench::{Bench, process};
use crate::federation::{Member, member};
use crate::node::{Function, Setup};
use crate::{eventually_every, pass};

/// Nodes in the zone.
pub(super) const NODES: usize = 48;

/// Of those, how many change in the measured case.
const CHANGING: usize = 8;

/// A node changes at most so often: five times a second.
const CHANGE: Duration = Duration::from_millis(200);

/// How often a fact is looked up.
const LOOK: Duration = Duration::from_millis(5);

/// How long the crowd is watched while it does nothing.
const IDLE: Duration = Duration::from_secs(20);

/// How long it settles before that.
const SETTLE: Duration = Duration::from_secs(10);

/// Nodes of serf that are asked what they see: each is a process to start.
const ASKED: usize = 5;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(super) async fn crowd(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let (mut members, joined) = start(member).await?;
    let mut rows = vec![Row::single(
        format!("{NODES} nodes: full view, after the last start"),
        Unit::Milliseconds,
        milliseconds(joined),
        Target::AtMost(15_000.0),
    )];
    let hold = Function::new("hold", "sleep").cpu("1").timeout("60s");
    let hold = hold.label("weir.policy", "local-only");
    for deployed in members.chunks(8) {
        join_all(deployed.iter().map(|m| m.node.deploy(hold.clone()))).await;
    }
    pass(SETTLE).await;
    let processes: Option<Vec<u32>> = members.iter().map(|m| m.node.process()).collect();
    let processes = processes.context("a node has ended")?;
    let idle = Idle::watch(&processes).await?;
    rows.extend(idle.rows("a node"));
    let changes = bench.plan.repetitions * 10;
    for (changing, targets) in [
        (CHANGING, [Target::AtMost(50.0), Target::AtMost(300.0)]),
        (NODES, [Target::Reported; 2]),
    ] {
        let ages = staleness(&members, changing, changes).await?;
        for (name, at, target) in [("p50", 0.5, targets[0]), ("p99", 0.99, targets[1])] {
            rows.push(Row::single(
                format!("{NODES} nodes, {changing} changing: staleness of a view, {name}"),
                Unit::Milliseconds,
                quantile(&ages, at),
                target,
            ));
        }
    }
    let mut silent = Vec::new();
    for member in members.iter().take(bench.plan.repetitions) {
        silent.push(milliseconds(fall_silent(&members, member).await?));
    }
    let mut killed = Vec::new();
    for _ in 0..bench.plan.repetitions {
        let mut victim = members.pop().context("there are more")?;
        let began = Instant::now();
        victim.node.kill().await;
        all_see(&members, &victim.id, |state| state != "in").await;
        killed.push(milliseconds(began.elapsed()));
    }
    for (what, times, bound) in [("killed", &killed, 1_000.0), ("silent", &silent, 3_000.0)] {
        rows.push(
            Row::single(
                format!("{what} node out of all tables, at worst"),
                Unit::Milliseconds,
                quantile(times, 1.0),
                Target::AtMost(bound),
            )
            .beside(format!("p50 {:.0} ms", quantile(times, 0.5))),
        );
    }
    drop(members);
    match serf(&bench).await {
        Ok(beside) => rows.extend(beside),
        Err(error) => rows.push(Row::unmeasured("serf", format!("{error:#}"))),
    }
    Ok(rows)
}

/// Starts them all, and waits until each sees all others.
pub(super) async fn start(setup: impl Fn() -> Setup) -> Result<(Vec<Member>, Duration)> {
    let first = Member::start(setup()).await;
    let mut tokens = Vec::new();
    for _ in 1..NODES {
        tokens.push(first.token(&[]).await);
    }
    let starting = tokens.iter().map(|token| {
        let setup = setup().variable("WEIR_FEDERATION_JOIN", token);
        Member::start(setup)
    });
    let mut members = join_all(starting).await;
    members.push(first);
    let began = Instant::now();
    for member in &members {
        eventually_every(LOOK, "a node sees all others", async || {
            let status = member.node.status().await;
            (status["federation"]["peers"] == NODES - 1).then_some(())
        })
        .await;
    }
    Ok((members, began.elapsed()))
}

async fn state(member: &Member, id: &str) -> Option<String> {
    let peer = member.peer(id).await?;
    peer["state"].as_str().map(str::to_owned)
}

/// Waits until all but one hold this of it.
async fn all_see(members: &[Member], id: &str, is: impl Fn(&str) -> bool) {
    for member in members.iter().filter(|member| member.id != id) {
        eventually_every(LOOK, "all see a node's end", async || {
            let state = state(member, id).await?;
            is(&state).then_some(())
        })
        .await;
    }
}

/// Stops a node's process without ending it: how long until nobody counts on
/// it. It goes on afterwards, and is believed again.
async fn fall_silent(members: &[Member], member: &Member) -> Result<Duration> {
    let process = member.node.process().context("the node has ended")?;
    let process = Pid::from_raw(process.cast_signed()).context("a process has a number")?;
    let began = Instant::now();
    kill_process(process, Signal::STOP)?;
    all_see(members, &member.id, |state| state != "in").await;
    let took = began.elapsed();
    kill_process(process, Signal::CONT)?;
    all_see(members, &member.id, |state| state == "in").await;
    Ok(took)
}

/// Has some nodes take a call that fills them, and end it, again and again: how
/// long after each change somebody else still believed the opposite.
async fn staleness(members: &[Member], changing: usize, changes: usize) -> Result<Vec<f64>> {
    let tasks = (0..changing).map(async |at| {
        let mut ages = Vec::new();
        let member = &members[at];
        for number in 0..changes {
            let observer = &members[(at + 1 + number * 7) % members.len()];
            let observer = match observer.id == member.id {
                true => &members[(at + 1) % members.len()],
                false => observer,
            };
            let believes = async |full: bool| {
                eventually_every(LOOK, "a change is seen", async || {
                    let peer: Value = observer.peer(&member.id).await?;
                    let free = peer["cpu_free"].as_f64()?;
                    ((free < 0.5) == full).then_some(())
                })
                .await;
            };
            let began = Instant::now();
            let hold = member.node.post("/function/hold");
            let hold = hold.body(CHANGE.as_millis().to_string()).send();
            let mut hold = std::pin::pin!(hold);
            let mut reply = None;
            let seen = tokio::select! {
                () = believes(true) => began.elapsed(),
                // Nobody heard of it before it was over.
                ended = &mut hold => {
                    reply = Some(ended);
                    began.elapsed()
                }
            };
            ages.push(milliseconds(seen));
            let reply = match reply {
                Some(reply) => reply,
                None => hold.await,
            };
            ensure!(reply.status == 200, "{}", reply.text());
            let ended = Instant::now();
            believes(false).await;
            ages.push(milliseconds(ended.elapsed()));
            pass(CHANGE.saturating_sub(ended.elapsed())).await;
        }
        Ok(ages)
    });
    Ok(try_join_all(tasks).await?.concat())
}

/// What many processes cost while nothing happens, for each of them.
struct Idle {
    /// Bytes in a second, sent and as many received.
    bytes: f64,
    /// Milliseconds of CPU in a second.
    cpu: f64,
    /// Megabytes, the median.
    resident: f64,
    /// The same, with what is shared divided among those who share it.
    proportional: f64,
}

impl Idle {
    async fn watch(processes: &[u32]) -> Result<Idle> {
        let (before, used) = (process::loopback()?, process::cpu(processes)?);
        let began = Instant::now();
        pass(IDLE).await;
        let took = began.elapsed().as_secs_f64() * processes.len() as f64;
        let bytes = process::loopback()?.saturating_sub(before);
        let used = process::cpu(processes)?.saturating_sub(used);
        let (mut resident, mut proportional) = (Vec::new(), Vec::new());
        for id in processes {
            resident.push(process::resident(*id)?.all);
            proportional.push(process::proportional(*id)?);
        }
        Ok(Idle {
            bytes: bytes as f64 / took,
            cpu: milliseconds(used) / took,
            resident: quantile(&resident, 0.5),
            proportional: quantile(&proportional, 0.5),
        })
    }

    fn rows(&self, whose: &str) -> Vec<Row> {
        let ours = whose == "a node";
        let at_most = |bound| match ours {
            true => Target::AtMost(bound),
            false => Target::Reported,
        };
        let row = |what: &str, unit, value, bound| {
            Row::single(
                format!("{whose}, idle: {what}"),
                unit,
                value,
                at_most(bound),
            )
        };
        vec![
            row(
                "traffic each way in a second",
                Unit::Kilobytes,
                self.bytes / 1e3,
                10.0,
            ),
            row("CPU in a second", Unit::Milliseconds, self.cpu, 6.0),
            row("resident memory", Unit::Megabytes, self.resident, 40.0),
            row(
                "its share of all memory",
                Unit::Megabytes,
                self.proportional,
                25.0,
            ),
        ]
    }
}

async fn serf(bench: &Bench) -> Result<Vec<Row>> {
    found("serf")?;
    let mut agents = vec![Serf::start(0, None).await?];
    let first = agents[0].address;
    let starting = (1..NODES).map(|number| Serf::start(number, Some(first)));
    agents.extend(try_join_all(starting).await?);
    let began = Instant::now();
    for agent in agents.iter().take(ASKED) {
        eventually_every(LOOK, "an agent sees all others", async || {
            (agent.alive().await.ok()? == NODES).then_some(())
        })
        .await;
    }
    let mut rows = vec![Row::single(
        format!("{NODES} agents of serf: full view of {ASKED} of them"),
        Unit::Milliseconds,
        milliseconds(began.elapsed()),
        Target::Reported,
    )];
    pass(SETTLE).await;
    let processes: Result<Vec<u32>> = agents.iter().map(Serf::process).collect();
    rows.extend(Idle::watch(&processes?).await?.rows("an agent of serf"));
    let mut killed = Vec::new();
    for _ in 0..bench.plan.repetitions.min(5) {
        drop(agents.pop());
        let began = Instant::now();
        for agent in agents.iter().take(ASKED) {
            eventually_every(LOOK, "agents see another's end", async || {
                (agent.alive().await.ok()? == agents.len()).then_some(())
            })
            .await;
        }
        killed.push(milliseconds(began.elapsed()));
    }
    rows.push(
        Row::single(
            format!("killed agent of serf out of {ASKED} tables, at worst"),
            Unit::Milliseconds,
            quantile(&killed, 1.0),
            Target::Reported,
        )
        .beside(format!("p50 {:.0} ms", quantile(&killed, 0.5))),
    );
    Ok(rows)
}
