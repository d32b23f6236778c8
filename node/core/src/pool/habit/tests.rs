//! A pool in virtual time, with one function that is called now and then.

use super::*;
use crate::pool::{Change, Taken};
use crate::resources::{Cpu, Memory, Resources};

const MINUTE: Duration = Duration::from_secs(60);

/// One function of a node with room for two of its instances.
struct One {
    pool: Pool,
    key: FunctionKey,
    now: Time,
}

impl One {
    fn new(keeping: Keeping) -> One {
        let of = |memory| Resources {
            cpu: Cpu::ZERO,
            memory: Memory::mebibytes(memory),
        };
        let mut pool = Pool::new(of(200));
        let profile = Profile {
            instance: of(100),
            call: of(0),
            calls_per_instance: 1,
            max_instances: 2,
            min_instances: 0,
            keep_alive: 10 * MINUTE,
            keeping,
        };
        let key = pool.add(profile).expect("it fits");
        One {
            pool,
            key,
            now: Time::ZERO + MINUTE,
        }
    }

    /// Starts and stops what is to be, at once.
    fn settle(&mut self) {
        loop {
            let changes: Vec<Change> = self.pool.changes().collect();
            if changes.is_empty() {
                return;
            }
            for change in changes {
                match change {
                    Change::Start { instance, .. } => {
                        self.pool.started(instance, self.now);
                    }
                    Change::Stop { instance, .. } => {
                        self.pool.stopped(instance);
                    }
                }
            }
        }
    }

    /// Lets time pass, with all that happens in it.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(next) = self.pool.next_event().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.pool.expire(self.now);
            self.settle();
        }
        self.now = until;
    }

    /// Calls it for a second; whether it was warm.
    fn call(&mut self) -> bool {
        let taken = self.pool.take(self.key, self.now, self.now);
        let (slot, is_warm) = match taken {
            Taken::Slot(slot) => (slot, true),
            Taken::NoPlace | Taken::NoRoom => {
                assert!(self.pool.start(self.key, self.now), "there is room");
                self.settle();
                let Taken::Slot(slot) = self.pool.take(self.key, self.now, self.now) else {
                    panic!("it was started");
                };
                (slot, false)
            }
        };
        self.now = self.now + Duration::from_secs(1);
        self.pool.finish(slot, self.now);
        self.settle();
        self.pass(Duration::ZERO);
        is_warm
    }

    fn is_there(&self) -> bool {
        self.pool.gauges(self.key).is_some_and(|it| it.ready > 0)
    }
}

#[test]
fn what_goes_by_pauses_is_gone_between_calls_and_back_before_them() {
    let mut one = One::new(Keeping::Histogram);
    for _ in 0..11 {
        one.call();
        one.pass(30 * MINUTE);
    }
    assert!(one.call(), "the tenth pause taught how long it is idle");
    assert!(!one.is_there(), "it goes while nobody calls");
    one.pass(26 * MINUTE);
    assert!(!one.is_there());
    one.pass(2 * MINUTE);
    assert!(one.is_there(), "it is back before the next call");
    one.pass(10 * MINUTE);
    assert!(!one.is_there(), "no call came while nearly all would have");
    one.pass(200 * MINUTE);
    assert!(!one.is_there(), "it comes back once in a pause");
    assert!(!one.call());
    one.pass(30 * MINUTE);
    assert!(one.call(), "one long pause in a dozen changes little");
}

#[test]
fn without_a_pattern_it_is_the_keep_alive_and_by_greedy_dual_it_is_room() {
    for (keeping, after_nine, after_eleven) in [
        (Keeping::Fixed, true, false),
        (Keeping::Histogram, true, false),
        (Keeping::GreedyDual, true, true),
    ] {
        let mut one = One::new(keeping);
        one.call();
        one.pass(9 * MINUTE);
        assert_eq!(one.is_there(), after_nine, "{keeping}");
        one.pass(2 * MINUTE);
        assert_eq!(one.is_there(), after_eleven, "{keeping}");
        one.pass(1_000 * MINUTE);
        assert_eq!(one.is_there(), after_eleven, "{keeping}");
    }
}

#[test]
fn nothing_comes_back_of_what_was_scaled_to_zero_changed_or_removed() {
    type Change = fn(&mut One);
    let changes: [(&str, Change); 3] = [
        ("scaled to zero", |one| one.pool.scale(one.key, 0)),
        ("another rule", |one| {
            let profile = One::new(Keeping::Fixed).pool.functions;
            let (_, function) = profile.iter().next().expect("it has one");
            let profile = function.profile;
            one.pool.update(one.key, profile).expect("it fits");
        }),
        ("removed", |one| one.pool.remove(one.key)),
    ];
    for (name, change) in changes {
        let mut one = One::new(Keeping::Histogram);
        for _ in 0..12 {
            one.call();
            one.pass(30 * MINUTE);
        }
        one.call();
        assert!(!one.is_there(), "{name}");
        change(&mut one);
        one.settle();
        assert_eq!(one.pool.next_event(), None, "{name}");
        one.pass(100 * MINUTE);
        assert!(!one.is_there(), "{name}");
    }
}
