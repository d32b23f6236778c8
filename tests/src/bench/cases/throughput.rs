//! Requests a second: against a proxy, against another WebAssembly server, and
//! of many functions against one.

use std::rc::Rc;

use anyhow::{Context, Result};

use crate::bench::Bench;
use crate::bench::load::{Connection, Requests, post};
use crate::bench::many;
use crate::bench::peers::{self, GREETING};
use crate::bench::report::{Row, Target};
use crate::bench::subject::{Subject, Targets, compare, ensure_same_answer};
use crate::guests;
use crate::node::{Function, Node};

/// What a Python function needs for itself; the default is too little.
const PYTHON_MEMORY: &str = "128Mi";

pub(super) async fn module_against_proxy(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let server = peers::backend().await?;
    let proxy = peers::haproxy(server.address).await?;
    let node = Node::start().await;
    node.deploy(Function::new("echo", "echo")).await;
    let ours = subject(&node, "/function/echo", GREETING)?;
    let theirs = Subject {
        address: proxy.address,
        requests: Requests::one("/", GREETING, 200),
        processes: vec![proxy.process()?, server.process()?],
    };
    ensure_same_answer(&ours, &theirs).await?;
    let targets = Targets {
        throughput: [Target::AtLeast(1.0); 2],
        tail: Target::AtMost(1.25),
    };
    compare("C module / HAProxy", &ours, &theirs, &bench.plan, targets).await
}

pub(super) async fn component_against_wasmtime(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let node = Node::start().await;
    let compiled = Targets {
        throughput: [Target::AtLeast(2.0); 2],
        tail: Target::Reported,
    };
    let interpreted = Targets {
        throughput: [Target::Reported; 2],
        tail: Target::Reported,
    };
    let mut rows = Vec::new();
    for (guest, language, targets) in [("proxy", "C", compiled), ("python", "Python", interpreted)]
    {
        let what = format!("{language} component / wasmtime serve");
        // One language without its tools is no reason to lose the other.
        match component(&bench, &node, guest, &what, targets).await {
            Ok(measured) => rows.extend(measured),
            Err(error) => rows.push(Row::unmeasured(what, format!("{error:#}"))),
        }
    }
    Ok(rows)
}

async fn component(
    bench: &Bench,
    node: &Node,
    guest: &str,
    what: &str,
    targets: Targets,
) -> Result<Vec<Row>> {
    let code = guests::build(guest)?;
    let peer = peers::wasmtime(&code.path()).await?;
    let function = Function::of(guest, code).protocol("http");
    node.deploy(function.memory(PYTHON_MEMORY)).await;
    let ours = subject(node, &format!("/function/{guest}"), "x")?;
    let theirs = Subject {
        address: peer.address,
        requests: Requests::one("/", "x", 200),
        processes: vec![peer.process()?],
    };
    ensure_same_answer(&ours, &theirs).await?;
    compare(what, &ours, &theirs, &bench.plan, targets).await
}

pub(super) async fn many_against_one(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let many = bench.many().await?;
    let data = many.copy().await?;
    let node = data.setup().start().await;
    many::call_each(&mut Connection::open(node.address).await?, many.count()).await?;
    let one = subject(&node, &many::path(0), GREETING)?;
    let all = Subject {
        requests: Requests {
            bytes: (0..many.count())
                .map(|number| post(&many::path(number), GREETING))
                .collect(),
            status: 200,
        },
        ..one.clone()
    };
    let targets = Targets {
        throughput: [Target::AtLeast(0.7); 2],
        tail: Target::Reported,
    };
    let what = format!("{} functions / one", many.count());
    compare(&what, &all, &one, &bench.plan, targets).await
}

/// A function of a node as a subject.
pub(super) fn subject(node: &Node, path: &str, body: &str) -> Result<Subject> {
    Ok(Subject {
        address: node.address,
        requests: Requests::one(path, body, 200),
        processes: vec![node.process().context("the node has ended")?],
    })
}
