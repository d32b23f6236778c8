use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::peers::{Fault, Known, Met};
use crate::samples::{numbered, report};
use crate::snapshot::{Cost, PeerView, Word};

const PEERS: u32 = 5;

const COST: Cost = Cost {
    cpu: 500,
    long: false,
};

#[derive(Debug, Clone)]
enum Step {
    Hear {
        peer: u32,
        epoch: u64,
        sequence: u64,
        cpu: u32,
        drains: bool,
    },
    Meet {
        peer: u32,
        what: u8,
        cpu: u32,
    },
    Suspect {
        peer: u32,
        epoch: u64,
    },
    Measure {
        peer: u32,
        micros: u64,
    },
    Send {
        peer: u32,
    },
    Look,
    Forget {
        peer: u32,
    },
    Wait {
        seconds: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = 1..=PEERS;
    let cpu = 0_u32..4_000;
    let hear = (
        peer.clone(),
        1_u64..3,
        1_u64..40,
        cpu.clone(),
        prop::bool::weighted(0.1),
    );
    let hear = hear.prop_map(|(peer, epoch, sequence, cpu, drains)| Step::Hear {
        peer,
        epoch,
        sequence,
        cpu,
        drains,
    });
    let meet = (peer.clone(), 0_u8..4, cpu);
    let meet = meet.prop_map(|(peer, what, cpu)| Step::Meet { peer, what, cpu });
    let suspect = (peer.clone(), 1_u64..3).prop_map(|(peer, epoch)| Step::Suspect { peer, epoch });
    let measure =
        (peer.clone(), 0_u64..9).prop_map(|(peer, micros)| Step::Measure { peer, micros });
    let step = prop_oneof![
        12 => hear,
        2 => meet,
        1 => suspect,
        1 => measure,
        2 => peer.clone().prop_map(|peer| Step::Send { peer }),
        4 => Just(Step::Look),
        1 => peer.prop_map(|peer| Step::Forget { peer }),
        1 => (1_u64..90).prop_map(|seconds| Step::Wait { seconds }),
    ];
    prop::collection::vec(step, 1..80)
}

/// A table, its view, and whether its reports wait.
struct Side {
    peers: Peers,
    view: View,
    waits: bool,
    sent: Vec<crate::snapshot::Reserved>,
}

impl Side {
    fn new(waits: bool) -> Side {
        Side {
            peers: Peers::of_at_most(PEERS as usize - 1, numbered(0), 1),
            view: View::default(),
            waits,
            sent: Vec::new(),
        }
    }

    /// Does a step; what can be seen of it.
    fn step(&mut self, step: &Step, now: Time) -> String {
        let own = report();
        let mut seen = String::new();
        match *step {
            Step::Hear {
                peer,
                epoch,
                sequence,
                cpu,
                drains,
            } => {
                let mut said = report();
                (said.epoch, said.sequence, said.draining) = (epoch, sequence, drains);
                (said.load.guest_cpu, said.load.waiting) = (cpu, cpu / 900);
                let facts = Arc::new(Facts::new(numbered(peer), said));
                match self.waits {
                    true => self.peers.hear_later(&facts, now),
                    false => drop(self.peers.hear_shared(&facts, now)),
                }
            }
            Step::Meet { peer, what, cpu } => {
                let mut load = report().load;
                load.guest_cpu = cpu;
                let word = Some(Word { load, under_way: 0 });
                let met = match what {
                    0 => Met::Answer(word),
                    1 => Met::Full { word, claims: true },
                    2 => Met::Told(word),
                    _ => Met::Failure(Fault::Unreachable),
                };
                self.peers.met(numbered(peer), met, now);
            }
            Step::Suspect { peer, epoch } => {
                seen = format!("{:?}", self.peers.suspect(numbered(peer), epoch, now));
            }
            Step::Measure { peer, micros } => {
                self.peers
                    .measured(&numbered(peer), Duration::from_micros(micros));
            }
            Step::Send { peer } => {
                let id = numbered(peer);
                if self.waits {
                    self.peers.open(&id, &mut self.view, &own, now);
                } else {
                    self.peers.window(&id);
                    self.view = self.peers.view(&own, now);
                }
                let window = self.view.peer(&id).and_then(|peer| peer.window());
                self.sent
                    .extend(window.and_then(|window| window.reserve(None, COST, now)));
            }
            Step::Look => {
                let events = match self.waits {
                    true => self.peers.look_again(&mut self.view, &own, now),
                    false => {
                        let events = self.peers.tick(now);
                        self.view = self.peers.view(&own, now);
                        events
                    }
                };
                seen = format!("{events:?}");
            }
            Step::Forget { peer } => {
                seen = format!("{}", self.peers.forget(&numbered(peer)));
            }
            Step::Wait { .. } => {}
        }
        seen + &self.shows()
    }

    /// What decisions see.
    fn shows(&self) -> String {
        let one = |peer: &PeerView| {
            let numbers = (
                peer.report.epoch,
                peer.report.sequence,
                peer.heard,
                peer.loaded(),
            );
            let more = (peer.load(), peer.waiting, peer.probing, peer.round_trip());
            format!(
                "{:?} {numbers:?} {more:?} {}\n",
                peer.id,
                peer.room_for(COST)
            )
        };
        let takes: String = self.view.peers.iter().map(one).collect();
        let away: String = self.view.away().map(one).collect();
        format!("{takes}away {away}")
    }

    fn known(&mut self, now: Time) -> Vec<Known> {
        self.peers.tick(now);
        self.peers.known(now)
    }
}

proptest! {
    #[test]
    fn reports_that_wait_come_to_the_same(steps in steps()) {
        let (mut at_once, mut later) = (Side::new(false), Side::new(true));
        let mut now = Time::ZERO;
        for step in &steps {
            now = now + Duration::from_millis(7);
            if let Step::Wait { seconds } = step {
                now = now + Duration::from_secs(*seconds);
            }
            prop_assert_eq!(at_once.step(step, now), later.step(step, now), "{:?}", step);
        }
        prop_assert_eq!(at_once.known(now), later.known(now));
    }
}

#[test]
fn no_more_reports_wait_than_are_said() {
    let mut table = Peers::of_at_most(4, numbered(0), 1);
    for sequence in 1..5_000 {
        let mut said = report();
        said.sequence = sequence;
        table.hear_later(&Arc::new(Facts::new(numbered(1), said)), Time::ZERO);
        assert!(table.later.len() <= LATER_MAX);
    }
}
