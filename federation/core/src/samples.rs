//! Nodes and reports to try things with: in tests, benchmarks and examples.

use std::collections::BTreeMap;

use libp2p_identity::PeerId;
use multihash::Multihash;

use crate::coordinates::Coordinate;
use crate::report::{Load, Offer, Report, Role};

/// Some node's id.
pub fn id(number: u8) -> PeerId {
    of_key([number; 32])
}

/// One of many ids, which share no byte by design, as those of real keys.
pub fn numbered(number: u32) -> PeerId {
    let mut key = [0; 32];
    let words = key.chunks_exact_mut(8);
    let seed = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (at, word) in words.enumerate() {
        let mut mixed = seed.wrapping_add(at as u64 + 1);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    of_key(key)
}

fn of_key(bytes: [u8; 32]) -> PeerId {
    // An ed25519 key as libp2p writes it: its type, its length, its bytes.
    let mut key = vec![8, 1, 18, 32];
    key.extend(bytes);
    let hash = Multihash::wrap(0, &key).expect("36 bytes fit");
    PeerId::from_multihash(hash).expect("a key is an id")
}

/// What a node tells that is well and has one function.
pub fn report() -> Report {
    Report {
        epoch: 1,
        sequence: 1,
        role: Role::Edge,
        zone: Some("lab".to_owned()),
        region: None,
        architecture: "x86_64".to_owned(),
        executors: vec!["wasm".to_owned()],
        labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
        draining: false,
        abilities: 0,
        load: Load {
            cpu_total: 4_000,
            cpu_free: 3_000,
            memory_total: 8 << 30,
            memory_free: 4 << 30,
            running: 2,
            waiting: 0,
            guest_cpu: 3_000,
            guest_cpu_long: 3_000,
            disk_free: 4 << 30,
        },
        coordinate: Coordinate::default(),
        addresses: vec!["/ip4/192.0.2.1/tcp/4001".to_owned()],
        carriage: vec!["192.0.2.1:4002".to_owned()],
        brief: false,
        forgotten: 0,
        offers: vec![Offer {
            function: "shout.openfaas-fn".to_owned(),
            warm: 1,
            startable: 3,
            full: false,
            running: 0,
            service_micros: 900,
            start_micros: 120,
        }],
    }
}
