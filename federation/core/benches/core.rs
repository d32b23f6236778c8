//! What it costs to know many peers: decisions, reports, look-ups, and memory,
//! with the number of peers across. Prints one table at the end.
//!
//! `cargo bench -p weir-federation-core --bench core`

#![allow(missing_docs)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use libp2p_identity::PeerId;
use serde_bytes::ByteBuf;
use weir_federation_core::abilities::Abilities;
use weir_federation_core::catalogue::{Catalogue, CodeRef, Entry, Record};
use weir_federation_core::congestion::Congestion;
use weir_federation_core::copies::keepers_of_call;
use weir_federation_core::facts::Facts;
use weir_federation_core::peers::{Met, Peers};
use weir_federation_core::policy::{
    self, Bounds, Decision, Ending, Field, KINDS, More, Needs, Origin, Outcome, Policy, Reach,
    Request, Wishes,
};
use weir_federation_core::rendezvous::Members;
use weir_federation_core::replication::holdings::{self, Holdings};
use weir_federation_core::report::{Load, Offer, Report, Role};
use weir_federation_core::samples::{numbered, report};
use weir_federation_core::snapshot::{Cost, Draws, Here, Local, Snapshot, View, Word};
use weir_node_core::function::{ArtifactKind, CodeSource, FunctionSpec, Protocol, Scope};
use weir_node_core::id::{CallId, FunctionName};
use weir_node_core::time::Time;
use weir_node_core::words::Timing;

const SIZES: [u32; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// Most pairs of a peer and a function told of that are set up.
const PAIRS_MAX: u32 = 1_000_000;

/// Peers that ran the function before.
const CALLED: u32 = 256;

const COST: Cost = Cost {
    cpu: 1_000,
    long: false,
};

fn function(number: u32) -> FunctionName {
    format!("f{number}").parse().expect("a name")
}

/// What the peer `number` tells for the `sequence`th time.
fn told(number: u32, sequence: u64, functions: u32) -> Report {
    let offers = (0..functions).map(|at| Offer {
        function: format!("f{at}.openfaas-fn"),
        warm: 1 + (number + at) % 3,
        service_micros: 900 + u64::from((number ^ sequence as u32) % 64),
        ..report().offers[0].clone()
    });
    Report {
        sequence,
        offers: offers.collect(),
        load: Load {
            running: sequence as u32 % 7,
            ..report().load
        },
        ..report()
    }
}

/// A node, and the peers that it knows.
struct Node {
    table: Peers,
    abilities: Abilities,
    view: Arc<View>,
    now: Time,
    sequence: u64,
    chance: u64,
    count: u32,
    remembered: Option<PeerId>,
}

impl Node {
    fn knowing(count: u32, functions: u32) -> Node {
        let mut table = Peers::of_at_most(count as usize + 1, numbered(u32::MAX), 1);
        let now = Time::ZERO + Duration::from_secs(1);
        for number in 0..count {
            table.hear(numbered(number), told(number, 1, functions), now);
        }
        let view = Arc::new(table.view(&report(), now));
        let mut abilities = Abilities::default();
        for number in 0..count.min(CALLED) {
            abilities.ready(&function(3), numbered(number), 1);
        }
        Node {
            table,
            abilities,
            view,
            now,
            sequence: 1,
            chance: 0,
            count,
            remembered: None,
        }
    }

    fn decide(&mut self, function: &FunctionName) -> Decision {
        let spill = policy::named("spill").expect("it is in the list");
        self.decide_by(&*spill, function)
    }

    fn decide_by(&mut self, policy: &dyn Policy, function: &FunctionName) -> Decision {
        self.chance += 1;
        let request = Request {
            function,
            version: 1,
            writer: None,
            needs: Needs::default(),
            bounds: Bounds::Federation,
            cost: COST,
            origin: Origin::Here,
            avoid: &[],
            failing: &[],
            anywhere: false,
            hops: 3,
            deadline: Time::NEVER,
            more: More::default(),
        };
        let abilities = self.abilities.of(function);
        let snapshot = Snapshot {
            local: Local {
                here: Here::Full,
                queue: None,
                service: Some(Duration::from_micros(900)),
                start: None,
                blamed: false,
                role: Role::Edge,
                regions: &[],
            },
            view: &self.view,
            abilities: &abilities,
            remembered: self.remembered,
            congestion: None,
            now: self.now,
            chance: self.chance,
        };
        let decision = policy::decide(policy, &request, &snapshot, &mut ());
        if let Decision::Offload { to, .. } = decision {
            self.remembered = Some(self.view.peers[to].id);
        }
        decision
    }

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
            class: policy::ClassKey::NONE,
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

    fn publish(&mut self) {
        self.view = Arc::new(self.table.view(&report(), self.now));
    }

    /// Times so many acts, after time for each to be set up.
    fn hear(&mut self, times: u64, functions: u32, publish: bool) -> Duration {
        let mut took = Duration::ZERO;
        let mut left = times;
        while left > 0 {
            let some = left.min(64);
            left -= some;
            let batch: Vec<(PeerId, Report)> = (0..some)
                .map(|_| {
                    self.sequence += 1;
                    let number = (self.sequence * 7_919 % u64::from(self.count)) as u32;
                    let report = told(number, self.sequence, functions);
                    (numbered(number), report)
                })
                .collect();
            let began = Instant::now();
            for (id, report) in batch {
                black_box(self.table.hear(id, report, self.now));
                if publish {
                    self.publish();
                }
            }
            took += began.elapsed();
        }
        took
    }
}

/// What was measured: by row and number of peers.
#[derive(Default)]
struct Table(RefCell<Vec<(String, BTreeMap<u32, String>)>>);

impl Table {
    fn put(&self, row: &str, size: u32, cell: String) {
        let mut rows = self.0.borrow_mut();
        if !rows.iter().any(|(name, _)| *name == row) {
            rows.push((row.to_owned(), BTreeMap::new()));
        }
        let found = rows.iter_mut().find(|(name, _)| *name == row);
        found.expect("it is there").1.insert(size, cell);
    }

    fn print(&self) {
        let line = |name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!("{cell:>11}")).collect();
            println!("{name:<34}{cells}");
        };
        println!();
        line("peers", SIZES.iter().map(u32::to_string).collect());
        for (name, cells) in self.0.borrow().iter() {
            let cell = |size| cells.get(size).cloned().unwrap_or_else(|| "-".to_owned());
            line(name, SIZES.iter().map(cell).collect());
        }
    }
}

fn in_words(time: f64) -> String {
    match time {
        _ if time < 1e3 => format!("{time:.0} ns"),
        _ if time < 1e6 => format!("{:.2} us", time / 1e3),
        _ => format!("{:.2} ms", time / 1e6),
    }
}

/// Measures one act, which is done so many times and takes so long.
fn measure(
    criterion: &mut Criterion,
    table: &Table,
    row: &str,
    size: u32,
    mut act: impl FnMut(u64) -> Duration,
) {
    let mut samples = Vec::new();
    criterion.bench_function(&format!("{row}/{size}"), |bencher| {
        bencher.iter_custom(|times| {
            let took = act(times);
            samples.push(took.as_nanos() as f64 / times as f64);
            took
        });
    });
    if samples.is_empty() {
        return;
    }
    // The last ones are criterion's samples; those before them warmed it up.
    // The least is what the act costs where nobody else has the machine.
    let last = samples.split_off(samples.len().saturating_sub(10));
    table.put(
        row,
        size,
        in_words(last.into_iter().fold(f64::MAX, f64::min)),
    );
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

fn timed(times: u64, mut act: impl FnMut()) -> Duration {
    let began = Instant::now();
    for _ in 0..times {
        act();
    }
    began.elapsed()
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

/// What each policy costs: a decision for a call that does not fit here, to learn
/// from its end, and what is done between decisions.
fn policies(criterion: &mut Criterion, table: &Table, size: u32) {
    let mut node = Node::knowing(size, 10);
    let called = function(3);
    for kind in &KINDS {
        let policy = policy::named(kind.name).expect("it is in the list");
        node.tick(&*policy);
        for _ in 0..64 {
            node.decide_by(&*policy, &called);
            node.observe(&*policy, &called);
        }
        node.tick(&*policy);
        let name = kind.name;
        measure(
            criterion,
            table,
            &format!("{name}: decide"),
            size,
            |times| {
                timed(times, || {
                    black_box(node.decide_by(&*policy, &called));
                })
            },
        );
        measure(
            criterion,
            table,
            &format!("{name}: outcome"),
            size,
            |times| timed(times, || node.observe(&*policy, &called)),
        );
        measure(criterion, table, &format!("{name}: tick"), size, |times| {
            timed(times, || node.tick(&*policy))
        });
    }
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
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .without_plots();
    let table = Table::default();
    for size in SIZES {
        policies(&mut criterion, &table, size);
        if size == 1 {
            continue;
        }
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
