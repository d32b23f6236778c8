//! Random lives of a node, and every decision in them, held against a file, so
//! that what only makes the tables quicker changes no decision.
//!
//! `WEIR_GOLDEN=write cargo test -p weir-federation-core --test decisions`
//! writes the file anew, for a change that is meant to decide otherwise.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::abilities::Abilities;
use weir_federation_core::catalogue::sha256;
use weir_federation_core::explain::{Verdict, Weighed};
use weir_federation_core::peers::{Fault, Met, Peers};
use weir_federation_core::policy::{self, Bounds, Decision, More, Needs, Origin, Request};
use weir_federation_core::report::{Load, Offer, Report, Role};
use weir_federation_core::samples::{numbered, report};
use weir_federation_core::snapshot::{Cost, Here, Local, Reserved, Snapshot, Word};
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

const GOLDEN: &str = include_str!("golden/decisions.txt");

/// Policies by which the lives decide: those that remember nothing.
const NAMES: [&str; 5] = [
    "spill",
    "local-only",
    "cloud-only",
    "edge-only",
    "edge-cloud",
];

const LIVES: u64 = 48;

/// Peers of a life: few, as many as a decision looks at, more, and many.
const SIZES: [u64; 4] = [4, 14, 60, 400];

const STEPS: u64 = 2_500;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

fn function(number: u64) -> FunctionName {
    format!("f{number}").parse().expect("a name")
}

struct Life {
    chance: Chance,
    size: u64,
    table: Peers,
    abilities: Abilities,
    now: Time,
    own: Report,
    /// What each peer said last.
    said: BTreeMap<u64, (u64, u64)>,
    held: Vec<(PeerId, Reserved)>,
    remembered: Option<PeerId>,
    text: String,
    decisions: BTreeMap<&'static str, u32>,
}

impl Life {
    fn new(seed: u64) -> Life {
        Life {
            chance: Chance(seed),
            size: SIZES[(seed % 4) as usize],
            table: Peers::new(numbered(u32::MAX), 1),
            abilities: Abilities::default(),
            now: Time::ZERO + Duration::from_secs(1),
            own: report(),
            said: BTreeMap::new(),
            held: Vec::new(),
            remembered: None,
            text: String::new(),
            decisions: BTreeMap::new(),
        }
    }

    /// Whether peers differ in what they can run: where all are looked at.
    fn is_mixed(&self) -> bool {
        self.size < 16
    }

    fn some_peer(&mut self) -> (u64, PeerId) {
        let number = self.chance.below(self.size);
        (number, numbered(number as u32))
    }

    fn some_load(&mut self) -> Load {
        let chance = &mut self.chance;
        let cpu_total = chance.of(&[1_000, 2_000, 4_000, 4_000, 16_000]);
        let guest_cpu = chance.below(u64::from(cpu_total) + 1) as u32;
        Load {
            cpu_total,
            cpu_free: cpu_total / 2,
            waiting: chance.of(&[0, 0, 0, 3, 40]),
            guest_cpu,
            guest_cpu_long: guest_cpu / 2,
            disk_free: chance.of(&[4 << 30, 4 << 30, 4 << 30, 9]),
            ..report().load
        }
    }

    fn some_word(&mut self) -> Option<Word> {
        if self.chance.one_in(3) {
            return None;
        }
        Some(Word {
            load: self.some_load(),
            under_way: self.chance.of(&[0, 0, 1_000]),
        })
    }

    fn some_report(&mut self, number: u64) -> Report {
        let load = self.some_load();
        let chance = &mut self.chance;
        let (epoch, sequence) = self.said.get(&number).copied().unwrap_or((1, 0));
        let (epoch, sequence) = match chance.below(24) {
            0 => (epoch + 1, 1),
            1 => (epoch, sequence),
            2 => (epoch.saturating_sub(1), sequence + 1),
            _ => (epoch, sequence + 1),
        };
        self.said.insert(number, (epoch, sequence));
        // What a node is stays as it is, mostly.
        let kind = if chance.one_in(64) {
            chance.below(8)
        } else {
            (number * 5 + 3) % 8
        };
        let mut offers = Vec::new();
        for at in 0..8_u64 {
            if !chance.one_in(3) {
                continue;
            }
            offers.push(Offer {
                function: format!("f{at}.openfaas-fn"),
                warm: chance.below(3) as u32,
                startable: chance.below(4) as u32,
                full: chance.one_in(9),
                running: chance.below(3) as u32,
                service_micros: chance.of(&[0, 900, 5_000, 80_000]),
                start_micros: chance.of(&[0, 120, 400_000]),
            });
        }
        let mut said = Report {
            epoch,
            sequence,
            draining: chance.one_in(40),
            abilities: chance.below(2),
            load,
            offers,
            ..report()
        };
        said.coordinate.height = (number % 5) as f64 * 4.0;
        match kind {
            0 => {
                said.role = Role::Cloud;
                said.zone = None;
                said.region = Some("near".to_owned());
            }
            1 => {
                said.role = Role::Cloud;
                said.zone = None;
                said.region = Some("away".to_owned());
            }
            2 => said.zone = Some("elsewhere".to_owned()),
            3 if self.size < 16 => said.architecture = "aarch64".to_owned(),
            4 if self.size < 16 => said.executors = vec!["docker".to_owned()],
            _ => {}
        }
        said
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_micros(self.chance.of(&[50, 700, 9_000, 90_000]));
        if self.chance.one_in(700) {
            self.now = self.now + Duration::from_secs(self.chance.of(&[20, 80, 610]));
        }
        let (number, id) = self.some_peer();
        let outcome = match self.chance.below(20) {
            0..=5 => {
                let report = self.some_report(number);
                format!("{:?}", self.table.hear(id, report, self.now))
            }
            6..=8 => self.meet(id),
            9 => self.change_membership(number, id),
            10 => format!("{:?}", self.table.tick(self.now)),
            11 => self.learn_ability(id),
            _ => self.decide(),
        };
        writeln!(self.text, "{outcome}").expect("text takes all");
    }

    fn meet(&mut self, id: PeerId) -> String {
        let word = self.some_word();
        let met = match self.chance.below(30) {
            0..=5 => Met::Full {
                word,
                claims: self.chance.one_in(2),
            },
            6 => Met::Told(word),
            7..=9 => Met::Reached(word),
            10 => Met::Failure(self.chance.of(&[
                Fault::Unreachable,
                Fault::Lost,
                Fault::Mute,
                Fault::Malformed,
                Fault::WrongBytes,
                Fault::Lies,
            ])),
            _ => Met::Answer(word),
        };
        self.table.met(id, met, self.now);
        if !self.held.is_empty() && self.chance.one_in(2) {
            let at = self.chance.below(self.held.len() as u64) as usize;
            let (_, reserved) = self.held.swap_remove(at);
            if self.chance.one_in(2) {
                reserved.give_back();
            }
        }
        format!(
            "{:?}",
            self.table.one(&id, self.now).map(|known| {
                let standing = known.standing.as_str();
                (
                    standing,
                    known.load,
                    known.load_age,
                    known.allowance,
                    known.held,
                    known.fault,
                )
            })
        )
    }

    fn change_membership(&mut self, number: u64, id: PeerId) -> String {
        let (epoch, _) = self.said.get(&number).copied().unwrap_or((1, 0));
        match self.chance.below(6) {
            0 => format!("{:?}", self.table.suspect(id, epoch, self.now)),
            1 if self.chance.one_in(9) => {
                self.table.leave(id, epoch, self.now);
                "left".to_owned()
            }
            2 if self.chance.one_in(5) => format!("{:?}", self.table.forget(&id)),
            3 => {
                self.table.linked(&id, self.now);
                "linked".to_owned()
            }
            _ => {
                let asked = self.table.to_ask(3, self.now);
                format!("{:?}", asked.iter().map(|(id, _)| *id).collect::<Vec<_>>())
            }
        }
    }

    fn learn_ability(&mut self, id: PeerId) -> String {
        let name = function(self.chance.below(8));
        match self.chance.below(8) {
            0 => self
                .abilities
                .unable(&name, id, 1, ("no secret", 0), self.now),
            1 => {
                let until = self.now + Duration::from_millis(300);
                self.abilities.bringing(&name, id, 1, until);
            }
            _ => {
                let room = self.abilities.ready(&name, id, 1);
                if self.chance.one_in(2) {
                    room.renew(self.chance.below(3) as u32, self.now);
                }
                if self.chance.one_in(2) {
                    room.learn(Duration::from_micros(self.chance.of(&[800, 70_000])));
                    room.learn_capacity(2);
                }
            }
        }
        String::new()
    }

    fn decide(&mut self) -> String {
        let name = function(self.chance.below(9));
        let mixed = self.is_mixed();
        let chance = &mut self.chance;
        let here = chance.of(&[Here::Full, Here::Full, Here::Full, Here::Unable, Here::Warm]);
        let origin = chance.of(&[
            Origin::Here,
            Origin::Here,
            Origin::Here,
            Origin::Neighbour,
            Origin::Region { inside: false },
        ]);
        let needs = Needs {
            architecture: chance.of(&[None, Some("x86_64")]).filter(|_| mixed),
            executor: chance
                .of(&[None, Some("wasm"), Some("docker")])
                .filter(|_| mixed),
            grants: chance.one_in(9),
            code_bytes: chance.of(&[0, 1_000]),
            ..Needs::default()
        };
        let cost = Cost {
            cpu: chance.of(&[1, 500, 1_000, 2_000]),
            long: chance.one_in(3),
        };
        let avoid: Vec<PeerId> = (0..chance.below(3))
            .map(|_| numbered(chance.below(self.size) as u32))
            .collect();
        let failing: Vec<PeerId> = (0..chance.below(2))
            .map(|_| numbered(chance.below(self.size) as u32))
            .collect();
        let within = chance.of(&[3_u64, 40, 100_000]);
        let request = Request {
            function: &name,
            version: 1,
            writer: chance
                .one_in(4)
                .then(|| numbered(chance.below(self.size) as u32)),
            needs,
            bounds: chance.of(&[
                Bounds::Federation,
                Bounds::Federation,
                Bounds::Zone,
                Bounds::Node,
            ]),
            cost,
            origin,
            avoid: &avoid,
            failing: &failing,
            anywhere: chance.one_in(8),
            hops: chance.of(&[0, 1, 3, 3]),
            deadline: self.now + Duration::from_millis(within),
            more: More::default(),
        };
        let regions = ["near".to_owned(), "away".to_owned()];
        let policy = policy::named(chance.of(&NAMES)).expect("it is in the list");
        let local = Local {
            here,
            queue: chance.of(&[None, Some(Duration::from_millis(5))]),
            service: chance.of(&[
                None,
                Some(Duration::from_millis(1)),
                Some(Duration::from_millis(50)),
            ]),
            start: chance.of(&[None, Some(Duration::from_millis(2))]),
            blamed: chance.one_in(10),
            role: Role::Edge,
            regions: &regions,
        };
        let view = Arc::new(self.table.view(&self.own, self.now));
        let abilities = self.abilities.of(&name);
        let snapshot = Snapshot {
            local,
            view: &view,
            abilities: &abilities,
            remembered: self.remembered,
            congestion: None,
            now: self.now,
            chance: chance.next(),
        };
        let mut weighed: Vec<Weighed> = Vec::new();
        let decision = policy::decide(&*policy, &request, &snapshot, &mut weighed);
        // Who lacks what it needs may or may not be looked at.
        weighed.retain(|seen| seen.verdict != Verdict::Unfit);
        let mut text = format!("{} {weighed:?} ", policy.name());
        let said = match decision {
            Decision::Offload { to, reach, .. } => {
                let peer = &view.peers[to];
                self.remembered = Some(peer.id);
                if let Some(reserved) = peer
                    .window()
                    .and_then(|window| window.reserve(None, cost, self.now))
                {
                    self.held.push((peer.id, reserved));
                }
                write!(text, "{reach:?} to {}", peer.id).expect("text takes all");
                "offload"
            }
            other => {
                write!(text, "{other:?}").expect("text takes all");
                match other {
                    Decision::Run => "run",
                    Decision::Enqueue { .. } => "enqueue",
                    Decision::Ask => "ask",
                    Decision::Reject(_) | Decision::Offload { .. } => "reject",
                }
            }
        };
        *self.decisions.entry(said).or_default() += 1;
        text
    }
}

#[test]
fn decisions_are_those_of_the_file() {
    let mut lines = String::new();
    for seed in 0..LIVES {
        let mut life = Life::new(seed);
        for _ in 0..STEPS {
            life.step();
        }
        let digest: String = sha256(life.text.as_bytes())
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        writeln!(
            lines,
            "{seed} {} peers {:?} {digest}",
            life.size, life.decisions
        )
        .expect("text takes all");
        if std::env::var("WEIR_GOLDEN_TEXT")
            .is_ok_and(|folder| std::fs::write(format!("{folder}/{seed}.txt"), &life.text).is_err())
        {
            panic!("what was decided cannot be written");
        }
    }
    if std::env::var("WEIR_GOLDEN").is_ok_and(|word| word == "write") {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/decisions.txt");
        std::fs::write(file, &lines).expect("the golden file can be written");
        return;
    }
    for (line, golden) in lines.lines().zip(GOLDEN.lines()) {
        assert_eq!(line, golden);
    }
    assert_eq!(lines.len(), GOLDEN.len());
}
