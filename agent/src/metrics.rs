//! What `/metrics` says: what the door counted, and the node as it is.
//!
//! A call touches the atomics of its function ([`series`]) and nothing else;
//! everything is put together when somebody asks.

mod federation;
pub mod series;
pub mod text;

use std::sync::atomic::{AtomicU64, Ordering};

use weir_federation::dispatch::Dispatch;
use weir_node::Node;
use weir_node::node::FunctionState;
use weir_node::panics;

use self::series::{BOUNDS, Board};
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
        let status = node.status();
        let mut functions = node.functions(None);
        functions.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        // A function may go in ways that the door does not see.
        self.board.forget(|name| {
            functions
                .binary_search_by(|function| function.spec.name.cmp(name))
                .is_err()
        });
        let mut page = Page::new(format);
        page.family("weir_build_info", Kind::Gauge, "The program; always 1.");
        page.sample(
            &[
                ("version", status.version),
                ("architecture", status.architecture),
            ],
            1,
        );
        self.calls(&mut page);
        if let Some(dispatch) = dispatch {
            federation::write(&mut page, dispatch);
        }
        page.family(
            "weir_refusals",
            Kind::Counter,
            "Calls answered by the node, not the function.",
        );
        for (reason, count) in REASONS.iter().zip(&self.refusals) {
            page.sample(&[("reason", reason)], count.load(Ordering::Relaxed));
        }
        let mut states = [("preparing", 0), ("ready", 0), ("failed", 0)];
        for function in &functions {
            states[match function.state {
                FunctionState::Preparing | FunctionState::Waiting(_) => 0,
                FunctionState::Ready => 1,
                FunctionState::Failed(_) => 2,
            }]
            .1 += 1;
        }
        page.family(
            "weir_functions",
            Kind::Gauge,
            "Functions deployed, by state of their code.",
        );
        for (state, count) in states {
            page.sample(&[("state", state)], count);
        }
        page.family(
            "weir_instances",
            Kind::Gauge,
            "Instances that can take calls.",
        );
        for function in &functions {
            let name = &function.spec.name;
            let labels = [
                ("function", name.name()),
                ("namespace", name.namespace.as_str()),
            ];
            page.sample(&labels, function.available_replicas);
        }
        page.family("weir_running_calls", Kind::Gauge, "Calls that run now.");
        page.sample(&[], status.running);
        page.family(
            "weir_queue_calls",
            Kind::Gauge,
            "Calls that wait for a place, by QoS class.",
        );
        for class in &status.classes {
            page.sample(&[("class", &class.name)], class.waiting);
        }
        page.family(
            "weir_backlog_calls",
            Kind::Gauge,
            "Asynchronous calls that are not done.",
        );
        page.sample(&[], status.backlog);
        page.family(
            "weir_results",
            Kind::Gauge,
            "Results of asynchronous calls that are kept.",
        );
        page.sample(&[], status.results);
        page.family("weir_artifact_bytes", Kind::Gauge, "Artifacts on disk.");
        page.sample(&[], status.artifact_bytes);
        page.family(
            "weir_resources_cpu_cores",
            Kind::Gauge,
            "Processors for functions.",
        );
        page.sample(&[("state", "capacity")], status.capacity.cpu.as_cores());
        page.sample(&[("state", "held")], status.held.cpu.as_cores());
        page.family(
            "weir_resources_memory_bytes",
            Kind::Gauge,
            "Memory for functions.",
        );
        page.sample(&[("state", "capacity")], status.capacity.memory.as_bytes());
        page.sample(&[("state", "held")], status.held.memory.as_bytes());
        page.family(
            "weir_connections",
            Kind::Gauge,
            "HTTP connections open now.",
        );
        page.sample(&[], traffic.open());
        page.family(
            "weir_connections_accepted",
            Kind::Counter,
            "HTTP connections taken.",
        );
        page.sample(&[], traffic.accepted());
        page.family(
            "weir_connections_refused",
            Kind::Counter,
            "HTTP connections beyond the bound.",
        );
        page.sample(&[], traffic.refused());
        page.family(
            "weir_panics",
            Kind::Counter,
            "Failures of the program itself; each ended what met it.",
        );
        page.sample(&[], panics::count());
        process(&mut page);
        if self.compatible {
            self.openfaas(&mut page, &functions);
        }
        page.finish()
    }

    fn calls(&self, page: &mut Page) {
        let all = self.board.list();
        page.family(
            "weir_invocations",
            Kind::Counter,
            "Calls of functions, by status.",
        );
        for (name, series) in &all {
            for (code, count) in series.codes() {
                let place = [
                    ("function", name.name()),
                    ("namespace", name.namespace.as_str()),
                ];
                page.sample(&[place[0], place[1], ("code", &code)], count);
            }
        }
        page.family(
            "weir_cold_starts",
            Kind::Counter,
            "Calls that waited for a start.",
        );
        for (name, series) in &all {
            let place = [
                ("function", name.name()),
                ("namespace", name.namespace.as_str()),
            ];
            page.sample(&place, series.cold_starts());
        }
        page.family(
            "weir_invocation_duration_seconds",
            Kind::Histogram,
            "Time of calls that ran: waiting for a place, for a start (cold calls), in the code.",
        );
        for (name, series) in &all {
            let phases = [
                ("queue", &series.queue),
                ("start", &series.start),
                ("run", &series.run),
            ];
            for (phase, histogram) in phases {
                let place = [
                    ("function", name.name()),
                    ("namespace", name.namespace.as_str()),
                ];
                let labels = [place[0], place[1], ("phase", phase)];
                page.histogram(&labels, &BOUNDS, &histogram.buckets(), histogram.seconds());
            }
        }
    }

    /// The names that OpenFaaS dashboards read; two break the rules of naming.
    fn openfaas(&self, page: &mut Page, functions: &[weir_node::node::FunctionStatus]) {
        let all = self.board.list();
        page.family(
            "gateway_function_invocation",
            Kind::Counter,
            "Calls of functions, by status.",
        );
        for (name, series) in &all {
            for (code, count) in series.codes() {
                page.sample(
                    &[("function_name", &name.qualified()), ("code", &code)],
                    count,
                );
            }
        }
        page.family(
            "gateway_functions_seconds",
            Kind::Histogram,
            "Time of calls, by status.",
        );
        for (name, series) in &all {
            for (code, histogram) in series.by_code() {
                let labels = [("function_name", &*name.qualified()), ("code", &code)];
                page.histogram(&labels, &BOUNDS, &histogram.buckets(), histogram.seconds());
            }
        }
        page.family(
            "gateway_function_invocation_started",
            Kind::Unknown,
            "Calls that began.",
        );
        for function in functions {
            let name = &function.spec.name;
            let ended = all.binary_search_by(|(other, _)| other.cmp(name)).ok();
            let ended = ended.map_or(0, |at| all[at].1.codes().map(|(_, count)| count).sum());
            let open = u64::from(function.running) + u64::from(function.waiting);
            page.sample(&[("function_name", &name.qualified())], ended + open);
        }
        page.family(
            "gateway_service_count",
            Kind::Unknown,
            "Replicas of functions.",
        );
        for function in functions {
            let name = function.spec.name.qualified();
            page.sample(&[("function_name", &name)], function.replicas);
        }
    }
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
