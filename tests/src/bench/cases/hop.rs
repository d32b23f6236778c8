//! One hop between nodes, beside the same between two proxies: mutual TLS and
//! HTTP/2 both, and the same function in a container behind each.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;

use crate::bench::load::{Requests, load};
use crate::bench::peers::{self, Peer};
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::bench::subject::{Subject, Targets, compare};
use crate::bench::{Bench, Plan};
use crate::engine::{self, OwnEngine, SERVER, docker_at};
use crate::federation::{Member, all_meet, member};
use crate::node::{Node, Setup};

use super::containers::{bare_server, deploy_runtime};
use super::throughput::subject;

/// Bodies that come and go, in bytes, and the least throughput beside the
/// proxies at few and at many connections.
const BODIES: [(usize, [f64; 2]); 3] = [
    (128, [1.2, 1.0]),
    (64 << 10, [1.3, 1.3]),
    (1 << 20, [1.5, 1.5]),
];

/// The same where a stream of the overlay carries the calls.
const OVER_STREAM: f64 = 0.75;

/// Calls that one container takes at once: all that the client sends, and as
/// many again, so that no node is ever full.
const CONCURRENCY: &str = "256";

/// Two nodes that hold the function, one that is called, and two proxies.
struct Ground {
    engine: OwnEngine,
    caller: Member,
    /// Takes calls over mutual TLS.
    direct: Member,
    /// Takes calls over its link.
    hidden: Member,
    bare: String,
    outer: Peer,
    inner: Peer,
    /// One proxy alone, in clear.
    alone: Peer,
}

/// As if there were cores for all calls at once: what is measured is the hop,
/// not a queue.
fn roomy(setup: Setup) -> Setup {
    setup
        .variable("WEIR_RESOURCES_CPU", "64")
        .variable("WEIR_RESOURCES_MEMORY", "4GiB")
        .variable("WEIR_FEDERATION_GUESTS", "100")
}

impl Ground {
    async fn prepare() -> Result<Ground> {
        let engine = OwnEngine::bridged().await;
        engine::server_at(&engine.socket());
        let socket = engine.socket().display().to_string();
        let containers = |setup: Setup| {
            let settings = format!("docker.socket = {socket:?}\ndocker.python-image = {SERVER:?}");
            setup.config(&settings)
        };
        let caller = Member::start(roomy(member())).await;
        let direct = caller.invite(containers(roomy(member()))).await;
        let listener_free = Setup::new()
            .variable("WEIR_FEDERATION_LISTEN", "/ip4/127.0.0.1/tcp/0")
            .variable("WEIR_FEDERATION_RELAYED", "true");
        let hidden = caller.invite(containers(roomy(listener_free))).await;
        all_meet(&[&caller, &direct, &hidden]).await;
        for (member, name) in [(&direct, "direct"), (&hidden, "hidden")] {
            let many = ["--concurrency", CONCURRENCY, "--max", "1"];
            // No share of the processors: the engine would hold it to that.
            let memory = ["--memory", "1GiB"];
            deploy_runtime(&member.node, name, &[many.as_slice(), &memory].concat()).await?;
            caller.sees_function(&member.id, name).await;
        }
        let (bare, address) = bare_server(&engine).await?;
        let (outer, inner) = peers::haproxy_pair(address).await?;
        let alone = peers::haproxy(address).await?;
        Ok(Ground {
            engine,
            caller,
            direct,
            hidden,
            bare,
            outer,
            inner,
            alone,
        })
    }

    async fn container(&self, member: &Member) -> Result<Vec<u32>> {
        let node = format!("label=weir.node={}", member.id);
        let docker = |arguments: &[&str]| docker_at(&self.engine.socket(), arguments);
        let found = docker(&["ps", "--quiet", "--filter", &node]);
        let process = |id: &str| docker(&["inspect", "--format", "{{.State.Pid}}", id]).parse();
        found.lines().map(|id| Ok(process(id)?)).collect()
    }

    /// Calls of `caller` that run on `member`.
    async fn ours(&self, member: &Member, name: &str, body: &str) -> Result<Subject> {
        let path = format!("/function/{name}");
        let mut ours = subject(&self.caller.node, &path, body)?;
        // A peer is given more calls with each that it answers.
        for connections in [1, 2, 4, 8, 16, 64, 128] {
            let warm = Requests {
                status: 0,
                ..ours.requests.clone()
            };
            let time = Duration::from_millis(300);
            let _ = load(ours.address, warm, connections, time).await;
        }
        ours.processes.extend(member.node.process());
        ours.processes.extend(self.container(member).await?);
        Ok(ours)
    }

    fn theirs(&self, body: &str) -> Result<Subject> {
        let bare = ["inspect", "--format", "{{.State.Pid}}", &self.bare];
        let bare = docker_at(&self.engine.socket(), &bare).parse()?;
        Ok(Subject {
            address: self.outer.address,
            requests: Requests::one("/", body, 200),
            processes: vec![self.outer.process()?, self.inner.process()?, bare],
        })
    }
}

pub(super) async fn hop(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let ground = Ground::prepare().await?;
    let mut rows = Vec::new();
    for (bytes, least) in BODIES {
        let body = "x".repeat(bytes);
        let theirs = ground.theirs(&body)?;
        for (member, name) in [(&ground.direct, "direct"), (&ground.hidden, "hidden")] {
            let (way, targets) = match name {
                "direct" => (
                    "mutual TLS",
                    Targets {
                        throughput: least.map(Target::AtLeast),
                        tail: Target::AtMost(1.0),
                    },
                ),
                _ => (
                    "a stream of the overlay",
                    Targets {
                        throughput: [Target::AtLeast(OVER_STREAM); 2],
                        tail: Target::Reported,
                    },
                ),
            };
            let what = format!("one hop over {way}, {bytes} B / two HAProxies");
            let measured = async {
                let ours = ground.ours(member, name, &body).await?;
                compare(&what, &ours, &theirs, &bench.plan, targets).await
            };
            // A size that fails is no reason to lose the others.
            match measured.await {
                Ok(measured) => rows.extend(measured),
                Err(error) => rows.push(Row::unmeasured(what, format!("{error:#}"))),
            }
        }
    }
    match added(&ground, &bench.plan).await {
        Ok(measured) => rows.extend(measured),
        Err(error) => rows.push(Row::unmeasured("latency of a hop", format!("{error:#}"))),
    }
    Ok(rows)
}

/// What a hop adds to a call that nobody else competes with.
async fn added(ground: &Ground, plan: &Plan) -> Result<Vec<Row>> {
    let body = "x".repeat(128);
    let local = |node: &Node| subject(node, "/function/direct", &body);
    let subjects = [
        ground.ours(&ground.direct, "direct", &body).await?,
        local(&ground.direct.node)?,
        ground.theirs(&body)?,
        Subject {
            address: ground.alone.address,
            ..ground.theirs(&body)?
        },
    ];
    let mut middles: [Vec<f64>; 4] = Default::default();
    for _ in 0..plan.repetitions {
        for (subject, middles) in subjects.iter().zip(&mut middles) {
            let turn = subject.run(1, plan).await?;
            let middle = turn.load.latencies.quantile(0.5);
            middles.push(middle.as_secs_f64() * 1e3);
        }
    }
    let [far, near, two, one] = &middles;
    let differences = |more: &[f64], less: &[f64]| -> Vec<f64> {
        more.iter().zip(less).map(|(m, l)| m - l).collect()
    };
    let (ours, theirs) = (differences(far, near), differences(two, one));
    let middle = |values: &[f64]| quantile(values, 0.5);
    Ok(vec![
        Row::median(
            "latency that a hop adds to a local call, p50 at one connection",
            Unit::Milliseconds,
            &ours,
            Target::Reported,
        )
        .beside(format!(
            "{:.3} ms and {:.3} ms; a second HAProxy adds {:.3} ms: {:.3} and {:.3}",
            middle(far),
            middle(near),
            middle(&theirs),
            middle(two),
            middle(one)
        )),
    ])
}
