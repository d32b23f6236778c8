//! What callers see of a node with more calls than it can serve, in virtual
//! time: who is answered in time, who is refused, and how soon.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::estimate::{Samples, longest_wait, time_to_wait};
use crate::resources::{Cpu, Memory};

/// Places, and how long each call takes: 110 calls a second.
const PLACES: u32 = 11;
const SERVICE: Duration = Duration::from_millis(100);

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered { after: Duration },
    Refused { after: Duration },
}

/// Chance that is the same in each run.
struct Chance(u64);

impl Chance {
    /// A number from 0 to 1 (xorshift64*, Vigna, 2016).
    fn draw(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        bits as f64 / (1_u64 << 53) as f64
    }
}

/// Moments of calls that come at so many a second, evenly or as Poisson has it.
fn arrivals(from: f64, to: f64, per_second: f64, chance: Option<&mut Chance>) -> Vec<f64> {
    let mut at = from;
    let mut all = Vec::new();
    let mut chance = chance;
    loop {
        at += match &mut chance {
            Some(chance) => -(1.0 - chance.draw()).ln() / per_second,
            None => 1.0 / per_second,
        };
        if at >= to {
            return all;
        }
        all.push(at);
    }
}

/// Functions that are short of processors, of instances, and of their own
/// maximum.
fn profiles() -> [Profile; 3] {
    let call = Resources {
        cpu: Cpu::millicores(1000),
        memory: Memory::ZERO,
    };
    let shared = Profile {
        instance: Resources::ZERO,
        call,
        calls_per_instance: 1000,
        max_instances: 1,
        min_instances: 0,
        keep_alive: Duration::from_secs(600),
        keeping: crate::keep::Keeping::Fixed,
    };
    let alone = Profile {
        calls_per_instance: 1,
        max_instances: 1000,
        ..shared
    };
    let bounded = Profile {
        call: Resources::ZERO,
        calls_per_instance: PLACES,
        ..shared
    };
    [shared, alone, bounded]
}

struct Node {
    admission: Admission<usize>,
    function: FunctionKey,
    service: Samples,
    chance: Chance,
    /// Slots of calls that run, by when they end.
    running: BTreeMap<(Time, usize), Slot>,
    arrived: Vec<Time>,
    fates: Vec<Option<Fate>>,
}

impl Node {
    fn new(profile: Profile) -> Self {
        let capacity = Resources {
            cpu: Cpu::cores(PLACES),
            memory: Memory::mebibytes(1),
        };
        let mut admission = Admission::new(capacity, &[ClassConfig::default()], 100_000);
        let added = admission.add("", profile, Time::ZERO, &mut Vec::new());
        let mut service = Samples::default();
        for _ in 0..crate::estimate::SAMPLES {
            service.learn(SERVICE);
        }
        Node {
            admission,
            function: added.expect("it fits"),
            service,
            chance: Chance(88_172_645_463_325_252),
            running: BTreeMap::new(),
            arrived: Vec::new(),
            fates: Vec::new(),
        }
    }

    fn run(&mut self, call: usize, slot: Slot, now: Time) {
        let takes = SERVICE.mul_f64(0.95 + 0.1 * self.chance.draw());
        self.service.learn(takes);
        self.running.insert((now + takes, call), slot);
    }

    fn act(&mut self, mut actions: Vec<Action<usize>>, now: Time) {
        while let Some(action) = actions.pop() {
            match action {
                Action::Run { token, slot } => self.run(token, slot, now),
                Action::Start { instance, .. } => {
                    self.admission.started(instance, now, &mut actions);
                }
                Action::Stop { instance } => self.admission.stopped(instance, now, &mut actions),
                Action::Expired { token, .. } => self.refuse(token, now),
                other => panic!("{other:?}"),
            }
        }
    }

    fn refuse(&mut self, call: usize, now: Time) {
        let after = now.since(self.arrived[call]);
        self.fates[call] = Some(Fate::Refused { after });
    }

    fn arrive(&mut self, deadline: Option<Duration>, now: Time) {
        let call = self.arrived.len();
        self.arrived.push(now);
        self.fates.push(None);
        let service = self.service.estimate();
        let time = time_to_wait(longest_wait(None, &service), deadline, &service);
        let arrival = Arrival {
            function: self.function,
            class: 0,
            kind: Kind::Awaited,
            patient: true,
            arrived: now,
            leave: now + time,
            end: now + deadline.unwrap_or(time),
            pace: Pace {
                service: service.mean,
                elsewhere: 0,
            },
        };
        let mut actions = Vec::new();
        match self.admission.arrive(arrival, || call, now, &mut actions) {
            Verdict::Run(slot) => self.run(call, slot, now),
            Verdict::Wait(_) => {}
            Verdict::Refuse(_) => self.refuse(call, now),
            Verdict::Unknown => panic!("it is there"),
        }
        self.act(actions, now);
    }

    /// Plays calls that come at those moments, until all have ended.
    fn play(mut self, arrivals: &[f64], deadline: Option<Duration>) -> Vec<(f64, Fate)> {
        let mut coming = arrivals
            .iter()
            .map(|at| Time::ZERO + Duration::from_secs_f64(*at))
            .peekable();
        loop {
            let ends = self.running.first_key_value().map(|((at, _), _)| *at);
            let gives_up = self.admission.next_give_up();
            let next = [ends, gives_up, coming.peek().copied()];
            let Some(now) = next.into_iter().flatten().min() else {
                break;
            };
            let mut actions = Vec::new();
            if ends == Some(now) {
                let ((_, call), slot) = self.running.pop_first().expect("one ends");
                let after = now.since(self.arrived[call]);
                self.fates[call] = Some(Fate::Answered { after });
                self.admission.finish(slot, now, &mut actions);
            } else if gives_up == Some(now) {
                self.admission.expire(now, &mut actions);
            } else {
                coming.next();
                self.arrive(deadline, now);
            }
            self.act(actions, now);
        }
        let fates = self.fates.into_iter();
        let fates = fates.map(|fate| fate.expect("each call ends"));
        arrivals.iter().copied().zip(fates).collect()
    }
}

fn answered_within(fates: &[(f64, Fate)], from: f64, to: f64, limit: Duration) -> usize {
    let counts = |&&(at, fate): &&(f64, Fate)| {
        (from..to).contains(&at) && matches!(fate, Fate::Answered { after } if after <= limit)
    };
    fates.iter().filter(counts).count()
}

/// At 150 calls a second, where there is room for 110, then at 50.
fn beyond_capacity(profile: Profile, mut chance: Option<Chance>) {
    let deadline = Duration::from_secs(2);
    let mut all = arrivals(0.0, 30.0, 150.0, chance.as_mut());
    all.extend(arrivals(30.0, 40.0, 50.0, chance.as_mut()));
    let fates = Node::new(profile).play(&all, Some(deadline));
    let answered = answered_within(&fates, 6.0, 24.0, deadline);
    assert!(
        answered as f64 >= 0.95 * 110.0 * 18.0,
        "{answered} were answered in time"
    );
    let refused: Vec<Duration> = fates
        .iter()
        .filter_map(|(_, fate)| match fate {
            Fate::Refused { after } => Some(*after),
            Fate::Answered { .. } => None,
        })
        .collect();
    let at_once = refused.iter().filter(|after| after.is_zero()).count();
    assert!(
        at_once * 10 >= refused.len() * 9,
        "{at_once} of {} were refused at once",
        refused.len()
    );
    assert!(
        refused.iter().all(|after| *after <= deadline - SERVICE),
        "nobody is refused when it is too late"
    );
    let calm = all.iter().filter(|at| **at >= 32.0).count();
    let quick = answered_within(&fates, 32.0, 40.0, Duration::from_millis(150));
    assert!(
        quick * 100 >= calm * 99,
        "{quick} of {calm} were quick after that"
    );
}

#[test]
fn beyond_capacity_most_are_refused_at_once_and_the_rest_answered_in_time() {
    for profile in profiles() {
        beyond_capacity(profile, None);
        for seed in 1..20 {
            beyond_capacity(profile, Some(Chance(seed)));
        }
    }
}

#[test]
fn within_capacity_nobody_is_refused() {
    for profile in profiles() {
        for per_second in [50.0, 99.0] {
            for seed in 1..20 {
                let all = arrivals(0.0, 30.0, per_second, Some(&mut Chance(seed)));
                let fates = Node::new(profile).play(&all, None);
                let answered = answered_within(&fates, 0.0, 30.0, Duration::MAX);
                assert_eq!(answered, fates.len(), "seed {seed}, {per_second} a second");
            }
        }
    }
}

#[test]
fn a_burst_that_fits_is_served_whole() {
    for profile in profiles() {
        let fates = Node::new(profile).play(&[0.0; 500], None);
        let answered = answered_within(&fates, 0.0, 1.0, Duration::from_secs(5));
        assert_eq!(answered, 500);
    }
}
