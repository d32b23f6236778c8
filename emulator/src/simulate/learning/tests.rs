//! Policies that write down what they are told, and what they decide.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_federation_core::policy::{
    Case, Choice, Decision, Ending, Field, Kind, Malformed, Outcome, Policy, Probed, Reach,
    Reaches, Reason, Wishes,
};
use weir_node_core::time::Time;

use super::super::simulate;
use super::super::tests::scenario;

/// What one policy was told.
#[derive(Debug, Default, Clone)]
struct Told {
    own: Option<PeerId>,
    /// Endings, with whether it was at a peer, and how long it took.
    endings: Vec<(Ending, bool, Duration)>,
    /// How long the functions ran that it heard of.
    ran: Vec<Duration>,
    /// Who sent the calls that it received.
    senders: Vec<Option<PeerId>>,
    ticks: Vec<Time>,
    probed: Vec<bool>,
    heard: Vec<PeerId>,
    restored: u32,
    classes: Vec<Option<String>>,
}

thread_local! {
    /// All that were made by this thread, in their order.
    static MADE: RefCell<Vec<Arc<Mutex<Told>>>> = const { RefCell::new(Vec::new()) };
}

fn note() -> Arc<Mutex<Told>> {
    let told = Arc::<Mutex<Told>>::default();
    MADE.with_borrow_mut(|made| made.push(told.clone()));
    told
}

/// What all were told that were made since this was asked last.
fn told() -> Vec<Told> {
    let made = MADE.with_borrow_mut(std::mem::take);
    let made = made.iter();
    made.map(|told| told.lock().expect("alone").clone())
        .collect()
}

/// Runs a call here, else at a neighbour, and writes down all that it is told.
struct Spy {
    told: Arc<Mutex<Told>>,
    /// How long a call waits here at the longest, and a peer's answer is waited
    /// for.
    patience: Option<Duration>,
    /// Whether chance says where a call goes first.
    draws: bool,
}

impl Spy {
    fn make(patience: Option<Duration>, draws: bool) -> Arc<dyn Policy> {
        Arc::new(Spy {
            told: note(),
            patience,
            draws,
        })
    }

    fn write(&self, write: impl FnOnce(&mut Told)) {
        write(&mut self.told.lock().expect("alone"));
    }
}

impl Policy for Spy {
    fn name(&self) -> &'static str {
        "spy"
    }

    fn reaches(&self) -> Reaches {
        // Nobody leaves its queue but by its own word.
        Reaches {
            horizontal: self.patience.is_none(),
            vertical: false,
        }
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let class = case.request.more.class.name.map(str::to_owned);
        self.write(|told| told.classes.push(class));
        let (now, deadline) = (case.snapshot.now, case.request.deadline);
        let until = self.patience.map_or(deadline, |patience| now + patience);
        let first = if self.draws && case.chance() < 0.5 {
            case.neighbour()
        } else {
            None
        };
        let decision = first
            .or_else(|| case.run_here())
            .or_else(|| match self.patience {
                Some(patience) if now.since(case.request.more.arrived) < patience => {
                    case.queue_until(until).ok()
                }
                Some(_) | None => case.neighbour(),
            })
            .or_else(|| case.queue().ok())
            .unwrap_or(Decision::Reject(Reason::NoRoom));
        match decision {
            Decision::Offload { to, reach, .. } => Decision::Offload {
                to,
                reach,
                hops: 0,
                until,
            },
            decision => decision,
        }
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        let from = case.request.more.from;
        self.write(|told| told.senders.push(from));
        // Those that left the queue may go on from here.
        assert!(matches!(case.request.hops, 0 | 2));
        case.run_here().unwrap_or(Decision::Reject(Reason::NoRoom))
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        assert_eq!(
            outcome.to.is_some(),
            outcome.reach == Some(Reach::Horizontal)
        );
        assert!(outcome.travelled() <= outcome.took());
        self.write(|told| {
            let is_away = outcome.to.is_some();
            told.endings.push((outcome.ending, is_away, outcome.took()));
            if outcome.ending == Ending::Answered {
                told.ran.push(outcome.timing.ran);
            }
        });
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        let peers: Vec<PeerId> = field.view.peers.iter().map(|peer| peer.id).collect();
        for peer in &peers {
            wishes.probe(*peer);
        }
        wishes.tell(b"hello".to_vec());
        self.write(|told| {
            told.own = Some(field.own);
            told.ticks.push(field.now);
        });
        field.now + Duration::from_secs(1)
    }

    fn probed(&self, probed: &Probed) {
        assert!(probed.took >= Duration::from_millis(10));
        self.write(|told| told.probed.push(probed.load.is_some()));
    }

    fn hear(&self, from: PeerId, note: &[u8], _now: Time) -> Result<(), Malformed> {
        assert_eq!(note, b"hello");
        self.write(|told| told.heard.push(from));
        Ok(())
    }

    fn save(&self) -> Option<Vec<u8>> {
        Some(vec![1])
    }

    fn restore(&self, saved: &[u8], _now: Time) -> Result<(), Malformed> {
        assert_eq!(saved, [1]);
        self.write(|told| told.restored += 1);
        Ok(())
    }
}

static SPY: Kind = Kind {
    name: "spy",
    about: "runs a call here, else at a neighbour",
    keys: &[],
    build: |_| Spy::make(None, false),
};

/// The same, that waits 20 ms.
static IMPATIENT: Kind = Kind {
    build: |_| Spy::make(Some(Duration::from_millis(20)), false),
    ..SPY
};

/// The same, that draws.
static DRAWING: Kind = Kind {
    build: |_| Spy::make(None, true),
    ..SPY
};

const THREE: &str = r#"
[scenario]
duration = "10s"
[[class]]
name = "default"
[[class]]
name = "gold"
[[node]]
name = "edge"
count = 3
zone = "north"
cores = 1
[[link]]
between = ["*", "*"]
round-trip = "10ms"
[[function]]
name = "f"
service = "100ms"
fails = 0.1
idempotent = true
[[workload]]
function = "f"
at = "edge-1"
class = "gold"
arrivals = { poisson = { rate = 18 } }
"#;

#[test]
fn each_node_has_a_policy_of_its_own_that_is_told_everything() {
    let report = simulate(&scenario(THREE), 1, Some(&Choice::of(&SPY)));
    let told = told();
    assert_eq!(told.len(), 3);
    let [first, second, third] = &*told else {
        panic!("three")
    };
    let of = |told: &Told, ending: Ending, is_away: bool| {
        let endings = told.endings.iter();
        let alike = endings.filter(|(of, away, _)| (*of, *away) == (ending, is_away));
        alike.count() as u64
    };
    let ended = |ending| of(first, ending, false) + of(first, ending, true);
    // All calls came in the measured time, and each ended once.
    assert_eq!(ended(Ending::Answered), report.all.outcomes["answered"]);
    assert_eq!(ended(Ending::Failed), report.all.outcomes["failed"]);
    assert_eq!(
        report.all.calls,
        report.all.outcomes["answered"] + report.all.outcomes["failed"]
    );
    assert!(of(first, Ending::Answered, true) > 20, "{report:?}");
    assert!(first.senders.is_empty());
    for other in [second, third] {
        assert!(other.senders.len() > 10);
        assert!(other.senders.iter().all(|from| *from == first.own));
        // It sees its guests' calls end, too.
        assert!(of(other, Ending::Answered, false) > 10);
        assert_eq!(other.classes.len(), 0);
    }
    let away = of(second, Ending::Answered, false) + of(third, Ending::Answered, false);
    assert_eq!(of(first, Ending::Answered, true), away);
    for one in &told {
        // The last ones end after the world does.
        assert!((10..=12).contains(&one.ticks.len()), "{:?}", one.ticks);
        assert!(one.probed.len() >= 20 && one.probed.iter().all(|told| *told));
        assert!(one.heard.len() >= 18);
        assert!(one.heard.iter().all(|from| Some(*from) != one.own));
        assert!(one.ran.iter().all(|ran| *ran == Duration::from_millis(100)));
    }
    assert!(
        first
            .classes
            .iter()
            .all(|class| class.as_deref() == Some("gold"))
    );
}

#[test]
fn a_call_waits_in_the_queue_no_longer_than_its_policy_says() {
    // The others have instances, and tell of them: a policy that reaches nobody asks
    // nobody.
    let there = |edge| {
        format!(
            "[[workload]]\nfunction = \"f\"\nat = \"{edge}\"\narrivals = {{ poisson = {{ rate = 2 }} }}\n"
        )
    };
    let text = [THREE.to_owned(), there("edge-2"), there("edge-3")].concat();
    let report = simulate(&scenario(&text), 2, Some(&Choice::of(&IMPATIENT)));
    let told = told();
    let mut waited = told[0].endings.iter();
    // A peer that needs 100 ms is not waited for, and then there is nobody left.
    assert!(waited.any(|(ending, is_away, took)| {
        *ending == Ending::Late && *is_away && *took >= Duration::from_millis(20)
    }));
    let late = told[0]
        .endings
        .iter()
        .filter(|(ending, ..)| *ending == Ending::Late);
    let longest = late.map(|(_, _, took)| *took).max().unwrap_or_default();
    assert!(longest < Duration::from_millis(60), "{longest:?}");
    assert_eq!(report.all.calls, report.all.outcomes.values().sum::<u64>());
    let unfinished = report.all.outcomes.get("unfinished").copied();
    assert_eq!(unfinished.unwrap_or(0), 0);
}

#[test]
fn what_is_learned_before_a_death_is_there_after_it() {
    let more = r#"
[[fault]]
at = "65s"
for = "1s"
kill = "edge-2"
[[fault]]
at = "3s"
for = "2s"
pause = "edge-3"
"#;
    let text = THREE.replace("10s", "70s") + more;
    let report = simulate(&scenario(&text), 3, Some(&Choice::of(&SPY)));
    let told = told();
    assert_eq!(told.len(), 4, "the second node has had two");
    let restored: Vec<u32> = told.iter().map(|told| told.restored).collect();
    assert_eq!(restored, [0, 0, 0, 1]);
    assert!(told[1].ticks.len() >= 60 && told[3].ticks.len() >= 3);
    assert_eq!(report.all.calls, report.all.outcomes.values().sum::<u64>());
}

#[test]
fn a_peer_that_stands_still_is_not_waited_for_for_ever() {
    let text = THREE.replace(
        "name = \"default\"",
        "name = \"default\"\ndeadline = \"1s\"",
    );
    let text = text.replace(
        "name = \"gold\"\n[",
        "name = \"gold\"\ndeadline = \"1s\"\n[",
    ) + "[[fault]]\nat = \"2s\"\nfor = \"6s\"\npause = \"edge-2\"\n";
    let report = simulate(&scenario(&text), 4, Some(&Choice::of(&SPY)));
    let told = told();
    let late = told[0]
        .endings
        .iter()
        .filter(|(ending, ..)| *ending == Ending::Late);
    let longest = late
        .map(|(_, _, took)| *took)
        .max()
        .expect("some were late");
    // What is left of a second, and half a second for the way back.
    assert!(longest < Duration::from_millis(1_600), "{longest:?}");
    assert_eq!(report.all.calls, report.all.outcomes.values().sum::<u64>());
}

#[test]
fn policies_that_draw_draw_the_same_in_each_run() {
    let run = || {
        let report = simulate(&scenario(THREE), 5, Some(&Choice::of(&DRAWING)));
        let told = told();
        let endings: Vec<_> = told.iter().map(|told| told.endings.clone()).collect();
        (report.json(), endings)
    };
    let (one, other) = (run(), run());
    assert_eq!(one, other);
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(run)).collect();
    for thread in threads {
        assert_eq!(thread.join().expect("it ends"), one);
    }
    let away = one.1[0].iter().filter(|(_, is_away, _)| *is_away).count();
    assert!(away * 3 > one.1[0].len(), "about half go away at first");
}
