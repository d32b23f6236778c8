//! Two nodes of different speed, and clients that always have a call out, in virtual
//! time: how much of what both can do together is done.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

/// Cores of each node.
const CORES: usize = 4;

/// Clients, each with one call at a time: enough to fill both nodes.
const CLIENTS: u64 = 24;

/// The way there and back, in microseconds.
const WAY: u64 = 1_000;

/// What a call takes at each node, in microseconds: one is four times as fast.
const SERVICE: [u64; 2] = [10_000, 40_000];

/// How long it is measured, after as long to settle, in microseconds.
const SPAN: u64 = 20_000_000;

/// A node as its calls see it.
#[derive(Default)]
struct Server {
    /// Calls that wait, by when they were sent, in microseconds.
    waits: VecDeque<u64>,
    running: usize,
}

/// Calls a second that a policy gets out of both nodes.
fn calls_a_second(policy: &str) -> f64 {
    let mut world = World::with(policy, 2, &|to, report| {
        report.offers[0].service_micros = SERVICE[to];
        report.offers[0].start_micros = 0;
    });
    let epoch = world.now;
    let mut servers = [Server::default(), Server::default()];
    let mut held: [VecDeque<Reserved>; 2] = Default::default();
    // Ends of calls, by when they are answered: (when, order, where, sent).
    let mut ends = BinaryHeap::new();
    let (mut order, mut answered) = (0, 0);
    let mut free: u64 = CLIENTS;
    let mut now = 0;
    let mut next_tick = 0;
    while now < 2 * SPAN {
        world.now = epoch + Duration::from_micros(now);
        if next_tick <= now {
            let (next, wishes) = world.tick();
            next_tick = next.since(epoch).as_micros() as u64;
            for peer in wishes.probes() {
                let at = world.peers.iter().position(|one| one.id == *peer);
                let server = &servers[at.expect("it is there")];
                let load = crate::report::Load {
                    waiting: server.waits.len() as u32,
                    cpu_free: ((CORES - server.running) * 1_000) as u32,
                    ..report().load
                };
                world.policy.probed(&Probed {
                    peer: *peer,
                    load: Some(load),
                    took: Duration::from_micros(WAY),
                    now: world.now,
                });
            }
        }
        while free > 0 {
            free -= 1;
            let to = world.chosen().expect("a peer");
            held[to].push_back(world.send(to));
            servers[to].waits.push_back(now);
        }
        for (to, server) in servers.iter_mut().enumerate() {
            while server.running < CORES
                && let Some(sent) = server.waits.pop_front()
            {
                server.running += 1;
                order += 1;
                ends.push(Reverse((now + SERVICE[to] + WAY, order, to, sent)));
            }
        }
        let Some(Reverse((at, _, to, sent))) = ends.pop() else {
            break;
        };
        now = at;
        world.now = epoch + Duration::from_micros(now);
        servers[to].running -= 1;
        drop(held[to].pop_front());
        let took = Duration::from_micros(now - sent);
        let there = took - Duration::from_micros(WAY);
        world.ended(Some(to), Ending::Answered, (took, there));
        free += 1;
        answered += u64::from(now > SPAN);
    }
    answered as f64 / (SPAN as f64 / 1e6)
}

/// What both can do, in calls a second, and what the fast one can.
fn capacity() -> (f64, f64) {
    let of = |service: u64| CORES as f64 * 1e6 / (service + WAY) as f64;
    (of(SERVICE[0]) + of(SERVICE[1]), of(SERVICE[0]))
}

#[test]
fn a_fast_node_and_a_slow_one_are_both_used_up() {
    let (both, fast) = capacity();
    for policy in ALL {
        let done = calls_a_second(policy);
        let least = match policy {
            // It leaves out who is more than twice as slow.
            "round-robin" => fast + 0.2 * (both - fast),
            _ => 0.93 * both,
        };
        assert!(done > least, "{policy}: {done} of {both}, {least} wanted");
    }
}

#[test]
fn as_published_joint_capacity_is_not_reached() {
    let (both, _) = capacity();
    for policy in ["least-impedance", "rtt"] {
        let done = calls_a_second(&format!("{policy}:faithful=true"));
        assert!(done < 0.9 * both, "{policy}: {done} of {both}");
    }
}
