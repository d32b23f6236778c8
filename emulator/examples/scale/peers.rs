//! Others that play the same calls: a bare heap, and a plain loop in the place of
//! DSLab's FaaS simulator, which cannot be had from crates.io.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use weir_emulator::workload::chance::Stream;

/// Calls that each plays.
const CALLS: u64 = 1_000_000;

/// Looks at nodes by who looks at all for each call: it plays fewer calls of many
/// nodes.
const LOOKS_MAX: u64 = 3_000_000_000;

/// Processors of each node.
const CORES: u32 = 2;

/// Nanoseconds that a call runs, on average.
const SERVICE: f64 = 1e7;

/// Nanoseconds that a message travels.
const ONE_WAY: f64 = 5e6;

fn between(nodes: u64) -> f64 {
    SERVICE / (nodes as f64 * f64::from(CORES) * super::LOAD)
}

/// The ceiling: calls that come to the shorter of two queues drawn, and nothing
/// but a heap of events. Calls in a CPU-second.
pub(super) fn bare_heap(nodes: u64) -> f64 {
    let began = super::cpu_seconds();
    let mut chance = Stream::new(1, "heap");
    let mut heap = BinaryHeap::new();
    let mut busy = vec![0_u32; nodes as usize];
    let (mut come, mut sequence) = (0, 0);
    let between = between(nodes);
    heap.push(Reverse((0_u64, 0_u64, u32::MAX)));
    while let Some(Reverse((now, _, node))) = heap.pop() {
        let mut plan = |after: f64, what| {
            sequence += 1;
            heap.push(Reverse((now + after as u64, sequence, what)));
        };
        if node != u32::MAX {
            let left = &mut busy[node as usize];
            *left -= 1;
            if *left >= CORES {
                plan(SERVICE * chance.exponential(), node);
            }
            continue;
        }
        let mut draw = || (chance.unit() * nodes as f64) as usize;
        let (one, other) = (draw(), draw());
        let to = if busy[one] <= busy[other] { one } else { other };
        busy[to] += 1;
        if busy[to] <= CORES {
            plan(SERVICE * chance.exponential(), to as u32);
        }
        come += 1;
        if come < CALLS {
            plan(between * chance.exponential(), u32::MAX);
        }
    }
    rate(CALLS, began)
}

fn rate(calls: u64, began: f64) -> f64 {
    calls as f64 / (super::cpu_seconds() - began).max(0.01)
}

/// How the plain loop chooses a node for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The one with the fewest calls, of all.
    LeastLoaded,
    /// One after the other.
    RoundRobin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Come,
    Reach { call: u32 },
    End { call: u32 },
    Back { call: u32 },
}

/// A call of the plain loop.
#[derive(Debug, Clone, Copy, Default)]
struct Call {
    arrived: u64,
    runs: u64,
    node: u32,
}

/// As many events for a call as ours has (it comes, reaches its node, ends, and is
/// back), one scheduler that knows all nodes at every moment, a queue at each, and
/// sums of latencies. Nothing is learned, told or refused. Calls in a CPU-second.
pub(super) fn plain_loop(nodes: u64, choice: Choice) -> f64 {
    let began = super::cpu_seconds();
    let mut chance = Stream::new(1, "plain");
    let mut heap = BinaryHeap::new();
    let mut running = vec![0_u32; nodes as usize];
    let mut queues = vec![std::collections::VecDeque::new(); nodes as usize];
    let mut calls: Vec<Call> = Vec::new();
    let mut free: Vec<u32> = Vec::new();
    let (mut come, mut sequence, mut next, mut latency) = (0_u64, 0_u64, 0, 0_u128);
    let between = between(nodes);
    let calls_played = match choice {
        Choice::LeastLoaded => CALLS.min(LOOKS_MAX / nodes),
        Choice::RoundRobin => CALLS,
    };
    heap.push(Reverse((0_u64, 0_u64, Event::Come)));
    while let Some(Reverse((now, _, event))) = heap.pop() {
        let mut plan = |after: u64, what| {
            sequence += 1;
            heap.push(Reverse((now + after, sequence, what)));
        };
        match event {
            Event::Come => {
                let load = |node: &usize| running[*node] as usize + queues[*node].len();
                let node = match choice {
                    Choice::LeastLoaded => (0..nodes as usize).min_by_key(load).unwrap_or(0),
                    Choice::RoundRobin => next,
                };
                next = (next + 1) % nodes as usize;
                let call = Call {
                    arrived: now,
                    runs: (SERVICE * chance.exponential()) as u64,
                    node: node as u32,
                };
                let number = free.pop().unwrap_or_else(|| {
                    calls.push(Call::default());
                    calls.len() as u32 - 1
                });
                calls[number as usize] = call;
                plan(ONE_WAY as u64, Event::Reach { call: number });
                come += 1;
                if come < calls_played {
                    plan((between * chance.exponential()) as u64, Event::Come);
                }
            }
            Event::Reach { call } => {
                let Call { node, runs, .. } = calls[call as usize];
                match running[node as usize] < CORES {
                    true => {
                        running[node as usize] += 1;
                        plan(runs, Event::End { call });
                    }
                    false => queues[node as usize].push_back(call),
                }
            }
            Event::End { call } => {
                let node = calls[call as usize].node as usize;
                match queues[node].pop_front() {
                    Some(waiting) => {
                        let runs = calls[waiting as usize].runs;
                        plan(runs, Event::End { call: waiting });
                    }
                    None => running[node] -= 1,
                }
                plan(ONE_WAY as u64, Event::Back { call });
            }
            Event::Back { call } => {
                latency += u128::from(now - calls[call as usize].arrived);
                free.push(call);
            }
        }
    }
    assert!(latency > 0, "calls take time");
    rate(calls_played, began)
}
