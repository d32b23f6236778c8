//! The list of cases.

mod acceptances;
mod at_rest;
mod cold_start;
mod containers;
mod copies;
mod crowd;
mod distance;
mod everywhere;
mod hop;
mod liar;
mod placement;
mod restart;
mod runaway;
mod shares;
mod throughput;
mod twin;

use std::pin::Pin;
use std::rc::Rc;

use anyhow::Result;

use super::Bench;
use super::report::Row;

/// A case under way.
type Rows = Pin<Box<dyn Future<Output = Result<Vec<Row>>>>>;

/// One question about speed or memory.
#[derive(Debug)]
pub struct Case {
    /// What it is called on the command line and in the table.
    pub letter: char,
    /// What it compares.
    pub what: &'static str,
    /// Measures it.
    pub run: fn(Rc<Bench>) -> Rows,
}

/// Every case, in the table's order.
pub const CASES: &[Case] = &[
    Case {
        letter: 'a',
        what: "a command module, fresh sandbox per request, against HAProxy before a small server",
        run: |bench| Box::pin(throughput::module_against_proxy(bench)),
    },
    Case {
        letter: 'b',
        what: "a wasi:http component against wasmtime serve",
        run: |bench| Box::pin(throughput::component_against_wasmtime(bench)),
    },
    Case {
        letter: 'c',
        what: "cold starts, compiled code in the page cache but not loaded",
        run: |bench| Box::pin(cold_start::cold_starts(bench)),
    },
    Case {
        letter: 'd',
        what: "resident memory",
        run: |bench| Box::pin(at_rest::memory(bench)),
    },
    Case {
        letter: 'e',
        what: "restart after kill -9",
        run: |bench| Box::pin(restart::restarts(bench)),
    },
    Case {
        letter: 'f',
        what: "asynchronous acceptances against the disk's own fsync rate",
        run: |bench| Box::pin(acceptances::acceptances(bench)),
    },
    Case {
        letter: 'g',
        what: "many functions in turn against one",
        run: |bench| Box::pin(throughput::many_against_one(bench)),
    },
    Case {
        letter: 'h',
        what: "a runaway guest, and its neighbour",
        run: |bench| Box::pin(runaway::runaway(bench)),
    },
    // From here on an engine runs, which has the kernel track connections.
    Case {
        letter: 'i',
        what: "warm containers against the same server behind HAProxy",
        run: |bench| Box::pin(containers::warm(bench)),
    },
    Case {
        letter: 'j',
        what: "cold containers against the engine's bare calls",
        run: |bench| Box::pin(containers::cold(bench)),
    },
    Case {
        letter: 'k',
        what: "many cold containers at once",
        run: |bench| Box::pin(containers::together(bench)),
    },
    Case {
        letter: 'l',
        what: "warm Python in a container against a bare loop",
        run: |bench| Box::pin(containers::python(bench)),
    },
    Case {
        letter: 'm',
        what: "neighbours of bad containers",
        run: |bench| Box::pin(containers::neighbours(bench)),
    },
    Case {
        letter: 'n',
        what: "one hop between nodes against one between two HAProxies",
        run: |bench| Box::pin(hop::hop(bench)),
    },
    Case {
        letter: 'o',
        what: "many nodes in one zone, beside serf",
        run: |bench| Box::pin(crowd::crowd(bench)),
    },
    Case {
        letter: 'p',
        what: "functions across a federation: known to all, and to a newcomer",
        run: |bench| Box::pin(everywhere::everywhere(bench)),
    },
    Case {
        letter: 'q',
        what: "asynchronous acceptances that peers keep copies of",
        run: |bench| Box::pin(copies::copies(bench)),
    },
    Case {
        letter: 'r',
        what: "code from far, and to many",
        run: |bench| Box::pin(distance::distance(bench)),
    },
    Case {
        letter: 's',
        what: "calls beside a member that lies",
        run: |bench| Box::pin(liar::liar(bench)),
    },
    Case {
        letter: 't',
        what: "placement: calls at one node of three, against one ideal queue",
        run: |bench| Box::pin(placement::placement(bench)),
    },
    Case {
        letter: 'u',
        what: "many calls on one node: of a container that needs a core, and beside slow bodies",
        run: |bench| Box::pin(shares::shares(bench)),
    },
    Case {
        letter: 'v',
        what: "the simulator: the same calls at real nodes and at virtual ones",
        run: |bench| Box::pin(twin::twin(bench)),
    },
];
