//! What `/metrics` says: what the door counted, and the node as it is.
//!
//! A call touches the atomics of its function ([`series`]) and nothing else;
//! everything is put together when somebody asks.

mod federation;
mod node;
pub mod series;
pub mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_federation::dispatch::Dispatch;
use weir_node::Node;
use weir_node::id::FunctionName;
use weir_node::node::{FunctionStatus, NodeStatus};

use self::series::{Board, Series};
use self::text::{Format, Kind, Page};
use crate::http::Traffic;

/// Why calls are refused or fail before code runs, as the label `reason` has
/// it; the words of `X-Weir-Error`. Any other word is counted as `other`.
const REASONS: [&str; 22] = [
    "queue-full",
    "too-many-calls",
    "overloaded",
    "waited-too-long",
    "backlog-full",
    "draining",
    "rate-limit",
    "unknown-function",
    "class",
    "cannot-run",
    "late",
    "function-failed",
    "body",
    "body-too-large",
    "body-timeout",
    "unauthorized",
    "disk-full",
    "no-room",
    "no-room-anywhere",
    "peer-lost",
    "internal",
    "other",
];

/// What the door counts.
#[derive(Debug)]
pub struct Metrics {
    /// By function.
    pub board: Board,
    refusals: [AtomicU64; REASONS.len()],
    compatible: bool,
}

impl Metrics {
    /// Nothing counted yet; `compatible` adds the names of OpenFaaS.
    pub fn new(compatible: bool) -> Self {
        Metrics {
            board: Board::new(compatible),
            refusals: std::array::from_fn(|_| AtomicU64::new(0)),
            compatible,
        }
    }

    /// Counts a call that was answered by the node instead of the function.
    pub fn refuse(&self, word: &str) {
        let reason = REASONS.iter().position(|reason| *reason == word);
        self.refusals[reason.unwrap_or(REASONS.len() - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// The page.
    pub fn render(
        &self,
        node: &Node,
        traffic: &Traffic,
        dispatch: Option<&Dispatch>,
        format: Format,
    ) -> String {
        let mut functions = node.functions(None);
        functions.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        // A function may go in ways that the door does not see.
        self.board.forget(|name| {
            functions
                .binary_search_by(|function| function.spec.name.cmp(name))
                .is_err()
        });
        let seen = Seen {
            metrics: self,
            series: self.board.list(),
            status: node.status(),
            functions,
            traffic,
        };
        let mut page = Page::new(format);
        page.families(&node::calls(), &seen);
        if let Some(dispatch) = dispatch {
            federation::write(&mut page, dispatch);
        }
        page.families(&node::state(), &seen);
        process(&mut page);
        if self.compatible {
            page.families(&node::openfaas(), &seen);
        }
        page.finish()
    }
}

/// What a page is made of.
struct Seen<'a> {
    metrics: &'a Metrics,
    /// What was counted by function.
    series: Vec<(FunctionName, Arc<Series>)>,
    status: NodeStatus,
    /// By name.
    functions: Vec<FunctionStatus>,
    traffic: &'a Traffic,
}

/// The process itself, from `/proc`; what cannot be read is left out.
fn process(page: &mut Page) {
    let parameter = rustix::param::page_size() as u64;
    let resident = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = resident.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    if let Some(pages) = resident {
        page.family(
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Memory of this process.",
        );
        page.sample(&[], pages * parameter);
    }
    let stat = std::fs::read_to_string("/proc/self/stat").ok();
    // The name in parentheses may hold spaces; what follows does not.
    let ticks = stat.as_deref().and_then(|text| {
        let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(11);
        let mut next = || fields.next()?.parse::<u64>().ok();
        Some(next()? + next()?)
    });
    if let Some(ticks) = ticks {
        page.family(
            "process_cpu_seconds",
            Kind::Counter,
            "Processor time of this process.",
        );
        page.sample(
            &[],
            ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        );
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.family("process_open_fds", Kind::Gauge, "Open file descriptors.");
        page.sample(&[], files.count());
    }
}
