//! What it costs to know many peers: decisions, reports, look-ups, and memory,
//! with the number of peers across. Prints one table at the end.
//!
//! `cargo bench -p weir-federation-core --bench core`

#![allow(missing_docs)]

#[path = "measured/node.rs"]
mod node;
#[path = "measured/table.rs"]
mod table;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use libp2p_identity::PeerId;
use serde_bytes::ByteBuf;
use weir_federation_core::catalogue::{Catalogue, CodeRef, Entry, Record};
use weir_federation_core::copies::keepers_of_call;
use weir_federation_core::facts::Facts;
use weir_federation_core::peers::{Met, Peers};
use weir_federation_core::policy::{self, Decision};
use weir_federation_core::rendezvous::Members;
use weir_federation_core::replication::holdings::{self, Holdings};
use weir_federation_core::samples::{numbered, report};
use weir_federation_core::snapshot::{Draws, Word};
use weir_node_core::function::{ArtifactKind, CodeSource, FunctionSpec, Protocol, Scope};
use weir_node_core::id::{CallId, FunctionName};
use weir_node_core::time::Time;

use node::{COST, Node, function, told};
use table::{SIZES, Table, criterion, measure, timed};

/// Most pairs of a peer and a function told of that are set up.
const PAIRS_MAX: u32 = 1_000_000;

impl Node {
    fn decide(&mut self, function: &FunctionName) -> Decision {
        let spill = policy::named("spill").expect("it is in the list");
        self.decide_by(&*spill, function)
    }

    /// Decides, takes a place at the peer, and hears of its answer.
    fn call(&mut self, function: &FunctionName) {
        let Decision::Offload { to, .. } = self.decide(function) else {
            panic!("somebody has room");
        };
        let peer = &self.view.peers[to];
        let id = peer.id;
        let window = peer.window().cloned();
        let window = window.or_else(|| self.table.window(&id));
        let reserved = window.and_then(|window| window.reserve(None, COST, self.now));
        let load = report().load;
        drop(black_box(reserved));
        let word = Some(Word { load, under_way: 0 });
        self.table.met(id, Met::Answer(word), self.now);
    }
}

/// A catalogue of as many functions as there are peers, as far as it takes them.
fn catalogue(count: u32) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for number in 0..count {
        let record = Record {
            name: function(number).qualified(),
            version: 1,
            topic: None,
            spec: None,
            code: None,
            removed: Some(1),
            certificate: ByteBuf::new(),
        };
        let sealed = number.to_le_bytes().to_vec().into();
        if let Some((name, entry)) = Entry::new(numbered(number), record, sealed) {
            catalogue.merge(name, entry);
        }
    }
    catalogue
}

fn acts(criterion: &mut Criterion, table: &Table, size: u32) {
    let mut node = Node::knowing(size, 10);
    let called = function(3);
    measure(criterion, table, "decide", size, |times| {
        timed(times, || {
            black_box(node.decide(&called));
        })
    });
    measure(
        criterion,
        table,
        "decide, learn the outcome",
        size,
        |times| timed(times, || node.call(&called)),
    );
    measure(criterion, table, "report of 10", size, |times| {
        node.hear(times, 10, false)
    });
    measure(criterion, table, "report of 10, published", size, |times| {
        node.hear(times, 10, true)
    });
    node.publish();
    let catalogue = catalogue(size);
    measure(criterion, table, "function known", size, |times| {
        timed(times, || {
            black_box(catalogue.get(&called));
        })
    });
    measure(criterion, table, "peer by its id", size, |times| {
        timed(times, || {
            black_box(node.view.peer(&numbered(size / 2)));
        })
    });
    let mut draws = Draws::new(5);
    measure(criterion, table, "draw two candidates", size, |times| {
        timed(times, || {
            let pool = node.view.neighbours();
            for _ in 0..2 {
                black_box(pool.draw(draws.next().expect("it never ends")));
            }
        })
    });
    let mut number = 0;
    measure(criterion, table, "refusal", size, |times| {
        timed(times, || {
            number = (number + 7_919) % size;
            let full = Met::Full {
                word: None,
                claims: true,
            };
            node.table.met(numbered(number), full, node.now);
        })
    });
    let later = node.now + Duration::from_secs(8);
    node.table.tick(later);
    measure(criterion, table, "tick, nothing to do", size, |times| {
        timed(times, || {
            black_box(node.table.tick(later));
        })
    });
}

/// What it costs to know who keeps things.
fn keepers(criterion: &mut Criterion, table: &Table, size: u32) {
    let everybody = (0..size).map(|number| (numbered(number), number % 4 == 0));
    let members = Members::default().renewed(everybody.clone());
    let mut number = 0_u128;
    measure(criterion, table, "6 keepers of a call", size, |times| {
        timed(times, || {
            number = number.wrapping_add(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let call = CallId::new(number.to_be_bytes());
            black_box(keepers_of_call(call, &members).take(6).count());
        })
    });
    let entry = deployed(numbered(1));
    measure(criterion, table, "who holds this function", size, |times| {
        timed(times, || {
            black_box(holdings::keepers(&entry, &members));
        })
    });
    measure(
        criterion,
        table,
        "members, nobody came or went",
        size,
        |times| {
            timed(times, || {
                black_box(members.renewed(everybody.clone()));
            })
        },
    );
    let mut held = Holdings::new(numbered(0));
    held.members(&members);
    for number in 0..1_000 {
        held.record(&function(number), Some(&entry));
    }
    let mut fewer = members.clone();
    fewer.leave_out(&[numbered(size - 1)]);
    let mut is_there = true;
    measure(
        criterion,
        table,
        "a member, 1,000 functions",
        size,
        |times| {
            timed(times, || {
                is_there = !is_there;
                held.members(if is_there { &members } else { &fewer });
            })
        },
    );
}

/// A function with code, as a member deployed it.
fn deployed(writer: PeerId) -> Entry {
    let code = CodeRef {
        digest: [7; 32],
        bytes: 9,
        chunks: [8; 32],
    };
    let artifact = CodeSource::Artifact(code.artifact());
    let spec = FunctionSpec {
        scope: Scope::Federation,
        copies: 3,
        ..FunctionSpec::new(
            function(3),
            artifact,
            ArtifactKind::WasmModule,
            Protocol::Stdio,
        )
    };
    let spec = cbor4ii::serde::to_vec(Vec::new(), &spec).expect("it can be encoded");
    let record = Record {
        name: function(3).qualified(),
        version: 1,
        topic: None,
        spec: Some(ByteBuf::from(spec)),
        code: Some(code),
        removed: None,
        certificate: ByteBuf::new(),
    };
    let (_, entry) = Entry::new(writer, record, Vec::new().into()).expect("it is honest");
    entry
}

fn reports_of_256(criterion: &mut Criterion, table: &Table, size: u32) {
    if size > PAIRS_MAX / 256 {
        return;
    }
    let mut node = Node::knowing(size, 256);
    measure(criterion, table, "report of 256", size, |times| {
        node.hear(times, 256, false)
    });
}

/// Bytes that the node `size` peers make it hold, per peer.
fn memory(table: &Table, row: &'static str, size: u32, functions: u32) {
    if size > PAIRS_MAX / functions {
        return;
    }
    let (mut alone, mut knowing) = (None, None);
    let without = allocation_counter::measure(|| alone = Some(Node::knowing(0, functions)));
    let with = allocation_counter::measure(|| knowing = Some(Node::knowing(size, functions)));
    let bytes = with.bytes_current - without.bytes_current;
    table.put(row, size, format!("{} B", bytes / i64::from(size)));
}

/// The same beside what several nodes of one process share: what peers said.
fn memory_shared(table: &Table, row: &'static str, size: u32, functions: u32) {
    if size > PAIRS_MAX / functions {
        return;
    }
    let all = (0..size).map(|number| Facts::new(numbered(number), told(number, 1, functions)));
    let all: Vec<Arc<Facts>> = all.map(Arc::new).collect();
    let mut kept = None;
    let counted = allocation_counter::measure(|| {
        let mut table = Peers::of_at_most(size as usize + 1, numbered(u32::MAX), 1);
        for facts in &all {
            table.hear_shared(facts, Time::ZERO + Duration::from_secs(1));
        }
        let view = table.view(&report(), Time::ZERO + Duration::from_secs(1));
        kept = Some((table, view));
    });
    let bytes = counted.bytes_current / i64::from(size);
    table.put(row, size, format!("{bytes} B"));
}

fn main() {
    let mut criterion = criterion().configure_from_args();
    let table = Table::default();
    for size in SIZES.into_iter().skip(1) {
        acts(&mut criterion, &table, size);
        keepers(&mut criterion, &table, size);
        reports_of_256(&mut criterion, &table, size);
        memory(&table, "memory per peer, 10 functions", size, 10);
        memory(&table, "memory per peer, 256 functions", size, 256);
        memory_shared(&table, "  of it not shared, 10 functions", size, 10);
        memory_shared(&table, "  of it not shared, 256 functions", size, 256);
    }
    table.print();
    criterion.final_summary();
}
