//! The families of metrics that are about this node.

use std::sync::atomic::Ordering;

use weir_node::id::FunctionName;
use weir_node::node::FunctionState;
use weir_node::panics;

use super::series::BOUNDS;
use super::text::{Family, Kind};
use super::{REASONS, Seen};

fn labels(name: &FunctionName) -> [(&'static str, &str); 2] {
    [
        ("function", name.name()),
        ("namespace", name.namespace.as_str()),
    ]
}

/// The program, and the calls of functions.
pub(super) fn calls<'a>() -> [Family<Seen<'a>>; 4] {
    [
        Family {
            name: "weir_build_info",
            kind: Kind::Gauge,
            help: "The program; always 1.",
            samples: |seen, page| {
                let version = ("version", seen.status.version);
                page.sample(&[version, ("architecture", seen.status.architecture)], 1);
            },
        },
        Family {
            name: "weir_invocations",
            kind: Kind::Counter,
            help: "Calls of functions, by status.",
            samples: |seen, page| {
                for (name, series) in &seen.series {
                    let [function, namespace] = labels(name);
                    for (code, count) in series.codes() {
                        page.sample(&[function, namespace, ("code", &code)], count);
                    }
                }
            },
        },
        Family {
            name: "weir_cold_starts",
            kind: Kind::Counter,
            help: "Calls that waited for a start.",
            samples: |seen, page| {
                for (name, series) in &seen.series {
                    page.sample(&labels(name), series.cold_starts());
                }
            },
        },
        Family {
            name: "weir_invocation_duration_seconds",
            kind: Kind::Histogram,
            help: "Time of calls that ran: waiting for a place, for a start (cold calls), in the code.",
            samples: |seen, page| {
                for (name, series) in &seen.series {
                    let [function, namespace] = labels(name);
                    for (phase, histogram) in [
                        ("queue", series.queue()),
                        ("start", series.start()),
                        ("run", series.run()),
                    ] {
                        let labels = [function, namespace, ("phase", phase)];
                        page.histogram(&labels, &BOUNDS, &histogram.buckets, histogram.seconds());
                    }
                }
            },
        },
    ]
}

/// The node as it is.
pub(super) fn state<'a>() -> [Family<Seen<'a>>; 14] {
    [
        Family {
            name: "weir_refusals",
            kind: Kind::Counter,
            help: "Calls answered by the node, not the function.",
            samples: |seen, page| {
                for (reason, count) in REASONS.iter().zip(&seen.metrics.refusals) {
                    page.sample(&[("reason", reason)], count.load(Ordering::Relaxed));
                }
            },
        },
        Family {
            name: "weir_functions",
            kind: Kind::Gauge,
            help: "Functions deployed, by state of their code.",
            samples: |seen, page| {
                let mut states = [("preparing", 0), ("ready", 0), ("failed", 0)];
                for function in &seen.functions {
                    states[match function.state {
                        FunctionState::Preparing | FunctionState::Waiting(_) => 0,
                        FunctionState::Ready => 1,
                        FunctionState::Failed(_) => 2,
                    }]
                    .1 += 1;
                }
                for (state, count) in states {
                    page.sample(&[("state", state)], count);
                }
            },
        },
        Family {
            name: "weir_instances",
            kind: Kind::Gauge,
            help: "Instances that can take calls.",
            samples: |seen, page| {
                for function in &seen.functions {
                    page.sample(&labels(&function.spec.name), function.available_replicas);
                }
            },
        },
        Family {
            name: "weir_running_calls",
            kind: Kind::Gauge,
            help: "Calls that run now.",
            samples: |seen, page| page.sample(&[], seen.status.running),
        },
        Family {
            name: "weir_queue_calls",
            kind: Kind::Gauge,
            help: "Calls that wait for a place, by QoS class.",
            samples: |seen, page| {
                for class in &seen.status.classes {
                    page.sample(&[("class", &class.name)], class.waiting);
                }
            },
        },
        Family {
            name: "weir_backlog_calls",
            kind: Kind::Gauge,
            help: "Asynchronous calls that are not done.",
            samples: |seen, page| page.sample(&[], seen.status.backlog),
        },
        Family {
            name: "weir_results",
            kind: Kind::Gauge,
            help: "Results of asynchronous calls that are kept.",
            samples: |seen, page| page.sample(&[], seen.status.results),
        },
        Family {
            name: "weir_artifact_bytes",
            kind: Kind::Gauge,
            help: "Artifacts on disk.",
            samples: |seen, page| page.sample(&[], seen.status.artifact_bytes),
        },
        Family {
            name: "weir_resources_cpu_cores",
            kind: Kind::Gauge,
            help: "Processors for functions.",
            samples: |seen, page| {
                let (capacity, held) = (&seen.status.capacity, &seen.status.held);
                page.sample(&[("state", "capacity")], capacity.cpu.as_cores());
                page.sample(&[("state", "held")], held.cpu.as_cores());
            },
        },
        Family {
            name: "weir_resources_memory_bytes",
            kind: Kind::Gauge,
            help: "Memory for functions.",
            samples: |seen, page| {
                let (capacity, held) = (&seen.status.capacity, &seen.status.held);
                page.sample(&[("state", "capacity")], capacity.memory.as_bytes());
                page.sample(&[("state", "held")], held.memory.as_bytes());
            },
        },
        Family {
            name: "weir_connections",
            kind: Kind::Gauge,
            help: "HTTP connections open now.",
            samples: |seen, page| page.sample(&[], seen.traffic.open()),
        },
        Family {
            name: "weir_connections_accepted",
            kind: Kind::Counter,
            help: "HTTP connections taken.",
            samples: |seen, page| page.sample(&[], seen.traffic.accepted()),
        },
        Family {
            name: "weir_connections_refused",
            kind: Kind::Counter,
            help: "HTTP connections beyond the bound.",
            samples: |seen, page| page.sample(&[], seen.traffic.refused()),
        },
        Family {
            name: "weir_panics",
            kind: Kind::Counter,
            help: "Failures of the program itself; each ended what met it.",
            samples: |_, page| page.sample(&[], panics::count()),
        },
    ]
}

/// The names that OpenFaaS dashboards read; two break the rules of naming.
pub(super) fn openfaas<'a>() -> [Family<Seen<'a>>; 4] {
    [
        Family {
            name: "gateway_function_invocation",
            kind: Kind::Counter,
            help: "Calls of functions, by status.",
            samples: |seen, page| {
                for (name, series) in &seen.series {
                    let function = ("function_name", &*name.qualified());
                    for (code, count) in series.codes() {
                        page.sample(&[function, ("code", &code)], count);
                    }
                }
            },
        },
        Family {
            name: "gateway_functions_seconds",
            kind: Kind::Histogram,
            help: "Time of calls, by status.",
            samples: |seen, page| {
                for (name, series) in &seen.series {
                    let function = ("function_name", &*name.qualified());
                    for (code, histogram) in series.by_code() {
                        let labels = [function, ("code", &code)];
                        page.histogram(&labels, &BOUNDS, &histogram.buckets, histogram.seconds());
                    }
                }
            },
        },
        Family {
            name: "gateway_function_invocation_started",
            kind: Kind::Unknown,
            help: "Calls that began.",
            samples: |seen, page| {
                for function in &seen.functions {
                    let name = &function.spec.name;
                    let ended = seen.series.binary_search_by(|(other, _)| other.cmp(name));
                    let ended = ended.map_or(0, |at| {
                        let codes = seen.series[at].1.codes();
                        codes.map(|(_, count)| count).sum()
                    });
                    let open = u64::from(function.running) + u64::from(function.waiting);
                    page.sample(&[("function_name", &name.qualified())], ended + open);
                }
            },
        },
        Family {
            name: "gateway_service_count",
            kind: Kind::Unknown,
            help: "Replicas of functions.",
            samples: |seen, page| {
                for function in &seen.functions {
                    let name = function.spec.name.qualified();
                    page.sample(&[("function_name", &name)], function.replicas);
                }
            },
        },
    ]
}
