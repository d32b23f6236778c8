//! What each policy costs, with the number of destinations across: a decision about
//! a call that has no place here, to learn from its end, and what is done between
//! decisions. A report costs the same whatever the policy: none reads it, all read
//! the table of peers. Prints one table at the end.
//!
//! `cargo bench -p weir-federation-core --bench policies`
//!
//! With `-- --plot` it measures decisions alone, and draws their number a second in
//! `federation/decisions.svg`.

#![allow(missing_docs)]

#[path = "policies/curve.rs"]
mod curve;
#[path = "measured/node.rs"]
mod node;
#[path = "measured/table.rs"]
mod table;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use criterion::Criterion;
use weir_federation_core::congestion::Congestion;
use weir_federation_core::policy::{
    self, ClassKey, Ending, Field, KINDS, Origin, Outcome, Policy, Reach, Wishes,
};
use weir_federation_core::report::Role;
use weir_federation_core::samples::{numbered, report};
use weir_node_core::id::FunctionName;
use weir_node_core::words::Timing;

use node::{CALLED, Node, function};
use table::{SIZES, Table, criterion, measure, timed};

/// Policies whose curves are drawn.
const DRAWN: [&str; 9] = [
    "spill",
    "adaptive",
    "round-robin",
    "least-impedance",
    "random-proportional",
    "prequal",
    "peak-ewma",
    "hash-ring",
    "power-of-d",
];

/// Outcomes that a policy has learned from before it is measured.
const LEARNED: usize = 64;

impl Node {
    /// What a policy does between decisions, once.
    fn tick(&mut self, policy: &dyn Policy) {
        self.now = self.now + Duration::from_secs(1);
        let field = Field {
            own: numbered(u32::MAX),
            role: Role::Edge,
            architecture: "x86_64",
            load: report().load,
            regions: &[],
            view: &self.view,
            congestion: &Congestion::default(),
            now: self.now,
            chance: 7,
        };
        let mut wishes = Wishes::default();
        policy.tick(&field, &mut wishes);
        // Its peers say what it would say.
        if let Some(note) = wishes.note() {
            for number in 0..self.count.min(CALLED) {
                let _ = policy.hear(numbered(number), note, self.now);
            }
        }
    }

    /// A policy learns how a call ended at a peer.
    fn observe(&mut self, policy: &dyn Policy, function: &FunctionName) {
        self.chance += 1;
        let number = (self.chance % u64::from(self.count.min(CALLED))) as u32;
        policy.observe(&Outcome {
            function,
            class: ClassKey::NONE,
            origin: Origin::Here,
            from: None,
            to: Some(numbered(number)),
            reach: Some(Reach::Horizontal),
            ending: Ending::Answered,
            timing: Timing {
                ran: Duration::from_micros(900),
                ..Timing::default()
            },
            began: self.now,
            ended: self.now + Duration::from_millis(2),
            sent_bytes: 0,
            answer_bytes: 0,
        });
    }
}

/// A node that knows so many peers, and one of its policies in use.
fn in_use(node: &mut Node, name: &str, called: &FunctionName) -> std::sync::Arc<dyn Policy> {
    let policy = policy::named(name).expect("it is in the list");
    node.tick(&*policy);
    for _ in 0..LEARNED {
        node.decide_by(&*policy, called);
        node.observe(&*policy, called);
    }
    node.tick(&*policy);
    policy
}

fn decisions(
    criterion: &mut Criterion,
    table: &Table,
    (node, size): (&mut Node, u32),
    (name, policy): (&str, &dyn Policy),
) -> Option<f64> {
    let called = function(3);
    let row = format!("{name}: decide");
    let nanos = measure(criterion, table, &row, size, |times| {
        timed(times, || {
            black_box(node.decide_by(policy, &called));
        })
    })?;
    let rate = 1e9 / nanos;
    table.put(
        &format!("{name}: decisions a second"),
        size,
        format!("{rate:.0}"),
    );
    Some(rate)
}

fn costs(criterion: &mut Criterion, table: &Table, size: u32) {
    let mut node = Node::knowing(size, 10);
    let called = function(3);
    measure(criterion, table, "report of 10 functions", size, |times| {
        node.hear(times, 10, false)
    });
    measure(criterion, table, "the same, published", size, |times| {
        node.hear(times, 10, true)
    });
    let mut node = Node::knowing(size, 10);
    for name in KINDS.iter().map(|kind| kind.name) {
        let policy = in_use(&mut node, name, &called);
        decisions(criterion, table, (&mut node, size), (name, &*policy));
        let row = format!("{name}: outcome");
        measure(criterion, table, &row, size, |times| {
            timed(times, || node.observe(&*policy, &called))
        });
        measure(criterion, table, &format!("{name}: tick"), size, |times| {
            timed(times, || node.tick(&*policy))
        });
    }
}

/// Measures the decisions of some policies, and draws them.
fn plot(criterion: &mut Criterion, table: &Table) -> std::io::Result<()> {
    let mut lines: Vec<(&str, Vec<(f64, f64)>)> = DRAWN.map(|name| (name, Vec::new())).to_vec();
    for size in SIZES {
        let mut node = Node::knowing(size, 10);
        for (name, points) in &mut lines {
            let policy = in_use(&mut node, name, &function(3));
            let rate = decisions(criterion, table, (&mut node, size), (name, &*policy));
            points.extend(rate.map(|rate| (f64::from(size), rate)));
        }
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../decisions.svg");
    std::fs::write(file, curve::draw(&lines))
}

fn main() -> ExitCode {
    let table = Table::default();
    let mut criterion = criterion();
    let mut code = ExitCode::SUCCESS;
    match std::env::args().any(|argument| argument == "--plot") {
        true => {
            if let Err(error) = plot(&mut criterion, &table) {
                eprintln!("federation/decisions.svg: {error}");
                code = ExitCode::FAILURE;
            }
        }
        false => {
            criterion = criterion.configure_from_args();
            for size in SIZES {
                costs(&mut criterion, &table, size);
            }
        }
    }
    table.print();
    criterion.final_summary();
    code
}
