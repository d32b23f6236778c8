use std::time::Duration;

use super::*;
use crate::resources::{Cpu, Memory};
use crate::words::Start;

const CPU: Cpu = Cpu::millicores(100);
const INSTANCE: Resources = Resources {
    cpu: Cpu::ZERO,
    memory: Memory::mebibytes(100),
};

/// A container-like function: an instance holds memory, a call processors.
fn profile() -> Profile {
    Profile {
        instance: INSTANCE,
        call: Resources {
            cpu: CPU,
            memory: Memory::ZERO,
        },
        calls_per_instance: 1,
        max_instances: 10,
        min_instances: 0,
        keep_alive: Duration::from_secs(60),
        keeping: crate::keep::Keeping::Fixed,
    }
}

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

/// An admission with a clock in seconds, whose starts and stops succeed
/// when the test says so.
struct Node {
    admission: Admission<&'static str>,
    actions: Vec<Action<&'static str>>,
    now: u64,
}

impl Node {
    fn new(memory_mebibytes: u64, millicores: u32) -> Self {
        let capacity = Resources {
            cpu: Cpu::millicores(millicores),
            memory: Memory::mebibytes(memory_mebibytes),
        };
        Node {
            admission: Admission::new(capacity, &[ClassConfig::default()], 100),
            actions: Vec::new(),
            now: 0,
        }
    }

    fn add(&mut self, profile: Profile) -> FunctionKey {
        self.admission
            .add("", profile, at(self.now), &mut self.actions)
            .expect("fits")
    }

    fn arrive(&mut self, function: FunctionKey, token: &'static str) -> Verdict {
        let give_up = at(self.now + 30);
        let arrival = Arrival {
            function,
            class: 0,
            kind: Kind::Awaited,
            patient: true,
            arrived: at(self.now),
            leave: give_up,
            end: give_up,
            pace: Pace::default(),
        };
        self.admission
            .arrive(arrival, || token, at(self.now), &mut self.actions)
    }

    fn runs_at_once(&mut self, function: FunctionKey) -> Slot {
        match self.arrive(function, "at once") {
            Verdict::Run(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, slot: Slot) {
        self.admission.finish(slot, at(self.now), &mut self.actions);
    }

    /// What is to be done, as text.
    fn actions(&mut self) -> Vec<String> {
        self.actions
            .drain(..)
            .map(|action| describe(&action))
            .collect()
    }

    /// Carries out all starts, a second each, and stops; returns the slots
    /// of calls that run.
    fn carry_out(&mut self) -> Vec<Slot> {
        let mut slots = Vec::new();
        while let Some(action) = self.actions.pop() {
            match action {
                Action::Start { instance, .. } => {
                    self.now += 1;
                    self.admission
                        .started(instance, at(self.now), &mut self.actions);
                }
                Action::Stop { instance } => {
                    self.admission
                        .stopped(instance, at(self.now), &mut self.actions);
                }
                Action::Run { slot, .. } => slots.push(slot),
                other => panic!("{other:?}"),
            }
        }
        slots
    }

    /// A function with one idle instance.
    fn add_warm(&mut self, profile: Profile) -> FunctionKey {
        let function = self.add(profile);
        assert!(matches!(self.arrive(function, "first"), Verdict::Wait(_)));
        for slot in self.carry_out() {
            self.finish(slot);
        }
        function
    }

    fn ready(&self, function: FunctionKey) -> u32 {
        self.admission.gauges(function).expect("present").ready
    }

    fn wait_until(&mut self, seconds: u64) {
        self.now = seconds;
        self.admission.expire(at(seconds), &mut self.actions);
    }
}

fn describe(action: &Action<&'static str>) -> String {
    match action {
        Action::Run { token, slot } => format!("run {token} {}", slot.start().as_str()),
        Action::Start { .. } => "start".to_owned(),
        Action::Stop { .. } => "stop".to_owned(),
        Action::Expired { token, phase } => format!("expired {token} {phase:?}"),
        Action::CannotStart { token, .. } => format!("cannot start {token}"),
        Action::Removed { token } => format!("removed {token}"),
    }
}

#[test]
fn warm_instance_is_reused_after_release() {
    let mut node = Node::new(1000, 1000);
    let function = node.add_warm(profile());
    let slot = node.runs_at_once(function);
    assert_eq!(slot.start(), Start::Warm);
    let instance = slot.instance();
    node.finish(slot);
    assert_eq!(node.runs_at_once(function).instance(), instance);
    assert!(node.actions().is_empty());
}

#[test]
fn calls_join_a_start_instead_of_starting_more() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(Profile {
        calls_per_instance: 3,
        ..profile()
    });
    for token in ["one", "two", "three"] {
        node.arrive(function, token);
    }
    assert_eq!(node.actions.len(), 1);
    node.arrive(function, "four");
    assert_eq!(node.actions.len(), 2);
    let first = match node.actions[0] {
        Action::Start { instance, .. } => instance,
        ref other => panic!("{other:?}"),
    };
    node.actions();
    node.admission.started(first, at(1), &mut node.actions);
    assert_eq!(
        node.actions(),
        ["run one cold", "run two cold", "run three cold"]
    );
}

#[test]
fn call_knows_since_when_it_waited_for_the_start() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(Profile {
        max_instances: 1,
        calls_per_instance: 9,
        ..profile()
    });
    node.arrive(function, "starts it");
    node.now = 3;
    node.arrive(function, "joins it");
    node.now = 5;
    let since: Vec<_> = node
        .carry_out()
        .iter()
        .map(|slot| slot.waited_for_start_since())
        .collect();
    assert_eq!(since, [Some(at(3)), Some(at(0))]);
}

#[test]
fn freed_warm_place_goes_to_the_oldest_call_whoever_started_what() {
    let mut node = Node::new(1000, 1000);
    let function = node.add_warm(profile());
    let slot = node.runs_at_once(function);
    node.arrive(function, "waits");
    assert_eq!(node.actions(), ["start"]);
    node.finish(slot);
    assert_eq!(node.actions(), ["run waits warm"]);
}

#[test]
fn idle_instance_stops_when_its_keep_alive_passed() {
    let mut node = Node::new(1000, 1000);
    let function = node.add_warm(profile());
    node.now = 30;
    let slot = node.runs_at_once(function);
    node.finish(slot);
    node.wait_until(61);
    assert_eq!(node.actions(), [""; 0], "it was used at 30");
    assert_eq!(node.admission.next_event(), Some(at(90)));
    node.wait_until(90);
    assert_eq!(node.actions(), ["stop"]);
}

#[test]
fn keep_alive_of_zero_makes_every_call_cold() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(Profile {
        keep_alive: Duration::ZERO,
        keeping: crate::keep::Keeping::Fixed,
        ..profile()
    });
    node.arrive(function, "one");
    let slot = node.carry_out().pop().expect("runs");
    node.finish(slot);
    assert_eq!(node.actions(), ["stop"]);
}

#[test]
fn kept_instance_is_started_early_and_stays() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(Profile {
        min_instances: 1,
        ..profile()
    });
    node.carry_out();
    assert_eq!(node.ready(function), 1);
    node.wait_until(10_000);
    assert_eq!(node.actions(), [""; 0]);
    assert_eq!(node.runs_at_once(function).start(), Start::Warm);
}

#[test]
fn kept_instance_that_dies_is_started_again() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(Profile {
        min_instances: 1,
        ..profile()
    });
    node.carry_out();
    let slot = node.runs_at_once(function);
    node.admission
        .gone(slot.instance(), at(1), &mut node.actions);
    assert_eq!(node.actions(), ["start"]);
    node.finish(slot);
    assert_eq!(node.admission.held(), INSTANCE);
}

#[test]
fn failed_start_of_a_kept_instance_backs_off() {
    let mut node = Node::new(1000, 1000);
    node.add(Profile {
        min_instances: 1,
        ..profile()
    });
    let mut waits = Vec::new();
    for _ in 0..9 {
        let Some(Action::Start { instance, .. }) = node.actions.pop() else {
            panic!("a start is due");
        };
        node.admission
            .start_failed(instance, at(node.now), &mut node.actions);
        assert!(node.actions.is_empty());
        let due = node.admission.next_event().expect("it is tried again");
        waits.push(due.since(at(node.now)).as_secs());
        node.wait_until(due.since(Time::ZERO).as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
}

#[test]
fn idle_instance_of_least_value_makes_room() {
    let mut node = Node::new(200, 1000);
    let dear = node.add_warm(profile());
    let cheap = node.add_warm(profile());
    for _ in 0..5 {
        let slot = node.runs_at_once(dear);
        node.finish(slot);
    }
    let newcomer = node.add_warm(profile());
    assert_eq!([dear, cheap, newcomer].map(|f| node.ready(f)), [1, 0, 1]);
}

#[test]
fn value_of_an_instance_fades_when_others_are_used() {
    let mut node = Node::new(200, 1000);
    let once_dear = node.add_warm(profile());
    for _ in 0..3 {
        let slot = node.runs_at_once(once_dear);
        node.finish(slot);
    }
    // Each of these is used once and evicted by the next, until the pool's
    // age has outgrown what the first was worth.
    let mut evictions = 0;
    while node.ready(once_dear) == 1 {
        node.add_warm(profile());
        evictions += 1;
        assert!(evictions < 10);
    }
    assert!(evictions > 2);
}

#[test]
fn nothing_is_evicted_in_vain() {
    let mut node = Node::new(200, 1000);
    let kept = node.add_warm(profile());
    let busy = node.add_warm(profile());
    let _slot = node.runs_at_once(busy);
    let memory = Memory::mebibytes(200);
    let large = node.add(Profile {
        instance: Resources { cpu: CPU, memory },
        ..profile()
    });
    node.arrive(large, "large");
    assert_eq!(node.actions(), [""; 0]);
    assert_eq!(node.ready(kept), 1);
}

#[test]
fn kept_instances_make_room_when_nothing_else_moves() {
    let mut node = Node::new(200, 1000);
    for _ in 0..2 {
        node.add(Profile {
            min_instances: 1,
            ..profile()
        });
    }
    node.carry_out();
    let other = node.add(profile());
    node.arrive(other, "would wait for ever");
    assert_eq!(node.actions.len(), 1);
    assert_eq!(node.carry_out().len(), 1);
}

#[test]
fn update_lets_running_calls_end_and_starts_new_ones_beside_them() {
    let mut node = Node::new(1000, 1000);
    let function = node.add_warm(Profile {
        max_instances: 1,
        ..profile()
    });
    let old = node.runs_at_once(function);
    let updated = Profile {
        max_instances: 1,
        ..profile()
    };
    node.admission
        .update(function, updated, at(1), &mut node.actions)
        .expect("fits");
    node.arrive(function, "new");
    assert_eq!(node.actions(), ["start"]);
    node.finish(old);
    assert_eq!(node.actions(), ["stop"]);
}

#[test]
fn what_was_tried_takes_the_place_of_the_old_with_its_instance() {
    let mut node = Node::new(1000, 1000);
    let function = node.add_warm(profile());
    let running = node.runs_at_once(function);
    let trial = node.add_warm(profile());
    let wanted = Profile {
        calls_per_instance: 2,
        ..profile()
    };
    let (admission, actions) = (&mut node.admission, &mut node.actions);
    let replaced = admission.replace("", function, trial, wanted, at(node.now), actions);
    replaced.expect("it fits");
    assert!(node.admission.gauges(trial).is_none());
    assert_eq!(node.ready(function), 1);
    // The next calls run on what was tried; the old one ends with its call.
    let next = node.runs_at_once(function);
    let beside = node.runs_at_once(function);
    assert_ne!(next.instance(), running.instance());
    assert_eq!(next.instance(), beside.instance());
    assert!(node.actions().is_empty());
    node.finish(running);
    assert_eq!(node.actions(), ["stop"]);
    node.finish(next);
    node.finish(beside);
    node.admission
        .remove("", function, at(node.now), &mut node.actions);
    assert_eq!(node.actions(), ["stop"]);
}

#[test]
fn an_instance_that_was_only_tried_stays_half_a_minute() {
    let mut node = Node::new(1000, 1000);
    let try_out = |node: &mut Node| {
        let function = node.add(profile());
        node.arrive(function, "tries");
        for slot in node.carry_out() {
            node.admission.keep_briefly(slot.instance());
            node.finish(slot);
        }
        function
    };
    let (unused, used) = (try_out(&mut node), try_out(&mut node));
    let slot = node.runs_at_once(used);
    node.finish(slot);
    let tried = node.now;
    node.wait_until(tried + 28);
    assert_eq!((node.ready(unused), node.ready(used)), (1, 1));
    node.wait_until(tried + 30);
    assert_eq!((node.ready(unused), node.ready(used)), (0, 1));
    node.wait_until(tried + 60);
    assert_eq!(node.ready(used), 0);
}

#[test]
fn update_while_starting_starts_the_new_code_for_those_who_wait() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(profile());
    node.arrive(function, "waits");
    let Some(Action::Start { instance: old, .. }) = node.actions.pop() else {
        panic!("a start is due");
    };
    node.admission
        .update(function, profile(), at(1), &mut node.actions)
        .expect("fits");
    assert_eq!(node.actions(), ["start"]);
    node.admission.started(old, at(2), &mut node.actions);
    assert_eq!(node.actions(), ["stop"]);
}

#[test]
fn scale_to_zero_stops_idle_instances_until_the_next_call() {
    let mut node = Node::new(1000, 1000);
    let function = node.add_warm(Profile {
        min_instances: 1,
        ..profile()
    });
    node.admission.scale(function, 0, at(1), &mut node.actions);
    assert_eq!(node.actions(), ["stop"]);
    node.arrive(function, "next");
    assert_eq!(node.actions(), ["start"]);
}

#[test]
fn scale_keeps_as_many_as_asked() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(profile());
    node.admission.scale(function, 3, at(0), &mut node.actions);
    node.carry_out();
    assert_eq!(node.ready(function), 3);
    node.admission.scale(function, 1, at(1), &mut node.actions);
    node.carry_out();
    assert_eq!(node.ready(function), 1);
}

#[test]
fn removal_hands_waiting_calls_back() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(profile());
    node.arrive(function, "one");
    node.actions();
    node.admission
        .remove("", function, at(1), &mut node.actions);
    assert_eq!(node.actions(), ["removed one"]);
    assert!(matches!(node.arrive(function, "late"), Verdict::Unknown));
}

#[test]
fn failed_start_answers_all_when_nothing_else_is_there() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(Profile {
        max_instances: 1,
        ..profile()
    });
    node.arrive(function, "one");
    node.arrive(function, "two");
    let Some(Action::Start { instance, .. }) = node.actions.pop() else {
        panic!("a start is due");
    };
    node.admission
        .start_failed(instance, at(1), &mut node.actions);
    assert_eq!(node.actions(), ["cannot start one", "cannot start two"]);
    assert_eq!(node.admission.held(), Resources::ZERO);
}

#[test]
fn call_gives_up_and_is_told_what_it_waited_for() {
    let mut node = Node::new(1000, 100);
    let function = node.add_warm(Profile {
        max_instances: 1,
        ..profile()
    });
    let _slot = node.runs_at_once(function);
    node.arrive(function, "for a place");
    node.wait_until(31);
    assert_eq!(node.actions(), ["expired for a place Queue"]);
    let other = node.add(profile());
    node.arrive(other, "for processors");
    node.wait_until(61);
    assert_eq!(node.actions(), ["expired for processors Queue"]);
}

#[test]
fn full_queue_refuses_but_a_cold_call_needs_no_queue() {
    let mut node = Node::new(1000, 1000);
    let class = ClassConfig {
        queue: 0,
        ..ClassConfig::default()
    };
    node.admission = Admission::new(node.admission.capacity(), &[class], 100);
    let function = node.add(Profile {
        max_instances: 1,
        ..profile()
    });
    assert!(matches!(node.arrive(function, "cold"), Verdict::Wait(_)));
    let full = Refusal::QueueFull;
    assert!(matches!(node.arrive(function, "two"), Verdict::Refuse(r) if r == full));
    let _slot = node.carry_out();
    assert!(matches!(node.arrive(function, "busy"), Verdict::Refuse(r) if r == full));
}

#[test]
fn all_calls_together_are_bounded() {
    let mut node = Node::new(1000, 1000);
    node.admission = Admission::new(node.admission.capacity(), &[ClassConfig::default()], 2);
    let function = node.add(profile());
    node.arrive(function, "one");
    let _slots = node.carry_out();
    node.arrive(function, "two");
    let many = Refusal::TooManyCalls;
    assert!(matches!(node.arrive(function, "three"), Verdict::Refuse(r) if r == many));
}

#[test]
fn draining_refuses_newcomers_and_lets_the_rest_end() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(profile());
    node.arrive(function, "waits");
    node.admission.drain();
    let draining = Refusal::Draining;
    assert!(matches!(node.arrive(function, "late"), Verdict::Refuse(r) if r == draining));
    let slots = node.carry_out();
    assert_eq!(slots.len(), 1);
    for slot in slots {
        node.finish(slot);
    }
    assert_eq!((node.admission.running(), node.admission.waiting()), (0, 0));
}

#[test]
fn function_larger_than_the_node_is_refused_with_its_size() {
    let mut node = Node::new(99, 1000);
    let error = node
        .admission
        .add("", profile(), at(0), &mut node.actions)
        .expect_err("too large");
    assert!(error.to_string().contains("100MiB"), "{error}");
}

/// A call that waits for a place for so many seconds, and as long as its
/// function is known to run; it has a minute for a start.
fn waits(function: FunctionKey, now: u64, seconds: u64, service: u64) -> Arrival {
    Arrival {
        function,
        class: 0,
        kind: Kind::Awaited,
        patient: true,
        arrived: at(now),
        leave: at(now + seconds),
        end: at(now + 60),
        pace: Pace {
            service: Duration::from_secs(service),
            elsewhere: 0,
        },
    }
}

/// A function that serves one call at a time, and one that runs.
fn busy(node: &mut Node) -> (FunctionKey, Slot) {
    let function = node.add_warm(Profile {
        max_instances: 1,
        ..profile()
    });
    (function, node.runs_at_once(function))
}

#[test]
fn newest_goes_first_while_the_oldest_has_used_half_of_its_time() {
    let mut node = Node::new(1000, 1000);
    let (function, mut slot) = busy(&mut node);
    let start = node.now;
    // They wait for 30 seconds at most.
    for (after, token) in [(0, "first"), (5, "second"), (10, "third")] {
        node.now = start + after;
        node.arrive(function, token);
    }
    let mut order = Vec::new();
    for after in [14, 15, 16, 17] {
        node.now = start + after;
        node.finish(slot);
        let Some(Action::Run { token, slot: next }) = node.actions.pop() else {
            break;
        };
        order.push(token);
        slot = next;
        if order.len() == 1 {
            node.arrive(function, "fourth");
        }
    }
    // None has used fifteen seconds.
    assert_eq!(order, ["first", "second", "third", "fourth"]);

    let (function, mut slot) = busy(&mut node);
    let start = node.now;
    for (after, token) in [(0, "first"), (10, "second"), (14, "third")] {
        node.now = start + after;
        node.arrive(function, token);
    }
    let mut order = Vec::new();
    for after in [15, 16, 17] {
        node.now = start + after;
        node.finish(slot);
        let Some(Action::Run { token, slot: next }) = node.actions.pop() else {
            panic!("one runs");
        };
        order.push(token);
        slot = next;
    }
    assert_eq!(order, ["third", "second", "first"]);
}

#[test]
fn accepted_calls_are_never_refused_for_load_and_stay_in_order() {
    let mut node = Node::new(1000, 1000);
    let (function, mut slot) = busy(&mut node);
    let accepted = |now| Arrival {
        kind: Kind::Accepted,
        leave: Time::NEVER,
        end: Time::NEVER,
        ..waits(function, now, 0, 100)
    };
    for token in ["first", "second", "third"] {
        let arrival = accepted(node.now);
        let verdict = node
            .admission
            .arrive(arrival, || token, at(node.now), &mut node.actions);
        assert!(matches!(verdict, Verdict::Wait(_)), "{verdict:?}");
    }
    node.now += 1_000_000;
    for expected in ["first", "second", "third"] {
        node.finish(slot);
        let Some(Action::Run { token, slot: next }) = node.actions.pop() else {
            panic!("one runs");
        };
        assert_eq!(token, expected);
        slot = next;
    }
}

#[test]
fn call_that_would_wait_too_long_is_refused_at_once() {
    let mut node = Node::new(1000, 1000);
    let (function, _slot) = busy(&mut node);
    let mut verdicts = Vec::new();
    for token in ["first", "second", "third"] {
        let arrival = waits(function, node.now, 9, 4);
        let verdict = node
            .admission
            .arrive(arrival, || token, at(node.now), &mut node.actions);
        verdicts.push(matches!(verdict, Verdict::Wait(_)));
        let pace = arrival.pace;
        let expected = node.admission.expected_wait(function, 0, pace).whole();
        let waiting = node.admission.waiting() as u64;
        assert_eq!(expected, Duration::from_secs(4 * (waiting + 1)));
    }
    assert_eq!(verdicts, [true, true, false]);
    // Places elsewhere serve this queue too.
    let arrival = Arrival {
        pace: Pace {
            elsewhere: 1,
            ..waits(function, 0, 0, 4).pace
        },
        ..waits(function, node.now, 9, 4)
    };
    let prospect = node.admission.prospect(&arrival, at(node.now));
    assert!(
        matches!(prospect, Some(Prospect::Wait { expected }) if expected.whole() == Duration::from_secs(6)),
        "{prospect:?}"
    );
}

#[test]
fn queue_whose_load_lasts_takes_in_what_it_serves() {
    let arrives = |node: &mut Node, function, now| {
        let arrival = waits(function, now, 40, 1);
        let verdict = node
            .admission
            .arrive(arrival, || "", at(now), &mut node.actions);
        matches!(verdict, Verdict::Wait(_))
    };
    // A burst may take all of its time.
    let mut node = Node::new(1000, 1000);
    let (function, _slot) = busy(&mut node);
    let start = node.now;
    let burst = (0..50).filter(|_| arrives(&mut node, function, start));
    assert_eq!(burst.count(), 40);

    let mut node = Node::new(1000, 1000);
    let (function, _slot) = busy(&mut node);
    let start = node.now;
    let burst = (0..20).filter(|_| arrives(&mut node, function, start));
    assert_eq!(burst.count(), 20);
    assert!(arrives(&mut node, function, start + 9));
    // Calls have waited for a quarter of that time, and more than a quarter
    // of it is before this one.
    assert!(!arrives(&mut node, function, start + 10));
    // The newest goes first from half of it on: no second newcomer before
    // the last one has used half of its own.
    assert!(!arrives(&mut node, function, start + 20));
    assert!(arrives(&mut node, function, start + 29));
    assert!(!arrives(&mut node, function, start + 29));
}

#[test]
fn start_that_is_at_hand_does_not_count_as_waiting_for_a_place() {
    let mut node = Node::new(1000, 1000);
    let function = node.add(Profile {
        max_instances: 1,
        ..profile()
    });
    let start = |node: &mut Node, token| {
        let arrival = waits(function, node.now, 1, 0);
        let now = at(node.now);
        node.admission
            .arrive(arrival, || token, now, &mut node.actions)
    };
    start(&mut node, "for the start");
    start(&mut node, "for a place");
    assert_eq!(node.actions(), ["start"]);
    node.wait_until(1);
    assert_eq!(node.actions(), ["expired for a place Queue"]);
    node.wait_until(59);
    assert_eq!(node.actions(), [""; 0]);
    node.wait_until(60);
    assert_eq!(node.actions(), ["expired for the start Start"]);
}

#[test]
fn place_elsewhere_goes_to_the_call_whose_turn_it_is() {
    let mut node = Node::new(1000, 1000);
    let (one, _slot) = busy(&mut node);
    let (other, _slot) = busy(&mut node);
    node.arrive(one, "stays");
    node.arrive(one, "older");
    node.arrive(other, "newer");
    let mut asked = Vec::new();
    let now = at(node.now);
    let mut offer = |node: &mut Node| {
        let goes = |token: &&'static str| {
            asked.push(*token);
            *token != "stays"
        };
        let left = node.admission.offer(now, goes, &mut node.actions);
        left.map(|(token, _)| token)
    };
    assert_eq!(offer(&mut node), Some("older"));
    assert_eq!(offer(&mut node), Some("newer"));
    assert_eq!(offer(&mut node), None);
    // After a call of the one it is the other's turn.
    assert_eq!(asked, ["stays", "older", "newer", "stays"]);
    assert_eq!(node.admission.waiting(), 1);
}

#[test]
fn one_that_comes_back_has_the_seat_that_it_left() {
    let mut node = Node::new(1000, 1000);
    let (function, slot) = busy(&mut node);
    for token in ["first", "second"] {
        node.arrive(function, token);
    }
    let now = at(node.now);
    let left = node.admission.offer(now, |_| true, &mut node.actions);
    let (token, seat) = left.expect("it may go");
    assert_eq!(token, "first");
    node.arrive(function, "third");
    let back = node
        .admission
        .come_back(function, seat, || token, now, &mut node.actions);
    assert!(matches!(back, Verdict::Wait(_)), "{back:?}");
    node.finish(slot);
    assert_eq!(node.actions(), ["run first warm"]);
    // It gives up when it would have given up.
    let left = node.admission.offer(now, |_| true, &mut node.actions);
    let (token, seat) = left.expect("it may go");
    node.now += 30;
    node.wait_until(node.now);
    assert_eq!(node.actions(), ["expired third Queue"]);
    let now = at(node.now);
    let back = node
        .admission
        .come_back(function, seat, || token, now, &mut node.actions);
    assert!(matches!(back, Verdict::Wait(_)), "{back:?}");
    assert_eq!(node.actions(), ["expired second Queue"]);
}

#[test]
fn only_what_others_hold_is_contended_for() {
    let mut node = Node::new(300, 1000);
    let (function, _slot) = busy(&mut node);
    node.arrive(function, "for its own maximum");
    let cold = node.add(profile());
    node.arrive(cold, "for its start");
    assert_eq!(node.admission.contending(), 0);
    assert!(node.admission.is_full(function));
    let _slots = node.carry_out();
    node.arrive(cold, "for a second one");
    let _slots = node.carry_out();
    assert_eq!(node.admission.contending(), 0);
    // All memory is held now, by itself and by the other.
    node.arrive(cold, "for memory");
    assert_eq!(node.admission.contending(), 1);
    assert!(!node.admission.is_full(cold));
}

#[test]
fn large_calls_are_not_starved_though_each_gives_up() {
    let mut node = Node::new(1000, 1000);
    let wide = |cpu| Profile {
        call: Resources {
            cpu: Cpu::millicores(cpu),
            memory: Memory::ZERO,
        },
        calls_per_instance: 100,
        ..profile()
    };
    let (small, large) = (node.add_warm(wide(100)), node.add_warm(wide(1000)));
    let mut running: Vec<_> = (0..10).map(|_| node.runs_at_once(small)).collect();
    let mut ended = 0;
    loop {
        // Each waits for five turns of the small ones.
        let arrival = waits(large, node.now, 5, 0);
        let now = at(node.now);
        node.admission
            .arrive(arrival, || "large", now, &mut node.actions);
        node.arrive(small, "small");
        let slot = running.remove(0);
        node.now += 1;
        node.finish(slot);
        ended += 1;
        let large_runs = node.actions.iter().any(|action| match action {
            Action::Run { token, .. } => *token == "large",
            _ => false,
        });
        if large_runs {
            break;
        }
        running.extend(node.actions.drain(..).filter_map(|action| match action {
            Action::Run { slot, .. } => Some(slot),
            _ => None,
        }));
        assert!(ended < 100, "the large calls starve");
    }
}

#[test]
fn large_call_is_not_starved_by_small_ones() {
    let mut node = Node::new(1000, 1000);
    let wide = |cpu| Profile {
        call: Resources {
            cpu: Cpu::millicores(cpu),
            memory: Memory::ZERO,
        },
        calls_per_instance: 100,
        ..profile()
    };
    let (small, large) = (node.add_warm(wide(100)), node.add_warm(wide(1000)));
    let mut running: Vec<_> = (0..10).map(|_| node.runs_at_once(small)).collect();
    node.arrive(large, "large");
    let mut ended = 0;
    loop {
        node.arrive(small, "small");
        let slot = running.remove(0);
        node.finish(slot);
        ended += 1;
        let large_runs = node.actions.iter().any(|action| match action {
            Action::Run { token, .. } => *token == "large",
            _ => false,
        });
        if large_runs {
            break;
        }
        running.extend(node.actions.drain(..).filter_map(|action| match action {
            Action::Run { slot, .. } => Some(slot),
            _ => None,
        }));
        assert!(ended < 100, "the large call starves");
    }
}

#[test]
fn while_too_many_threads_want_processors_no_more_calls_that_need_them_run_than_there_are_cores() {
    let mut node = Node::new(10_000, 2_000);
    let many = Profile {
        calls_per_instance: 10,
        ..profile()
    };
    let [burns, sleeps, declares] = [0, 1, 2].map(|_| node.add_warm(many));
    for (function, need) in [(burns, Cpu::millicores(200)), (sleeps, crate::need::LEAST)] {
        let now = at(node.now);
        let actions = &mut node.actions;
        node.admission.set_need(function, need, now, actions);
    }
    let crowd = |node: &mut Node, crowded| {
        let now = at(node.now);
        node.admission.set_crowded(crowded, now, &mut node.actions);
        node.actions()
    };
    let first = node.runs_at_once(burns);
    assert!(crowd(&mut node, true).is_empty());
    let _second = node.runs_at_once(burns);
    for token in ["third", "fourth"] {
        assert!(matches!(node.arrive(burns, token), Verdict::Wait(_)));
    }
    // Those that say what they need, or that need next to nothing, are not held up.
    for (function, token) in [(declares, "declares"), (sleeps, "sleeps")] {
        assert!(matches!(node.arrive(function, token), Verdict::Wait(_)));
        assert_eq!(node.actions(), [format!("run {token} warm")]);
    }
    node.finish(first);
    assert_eq!(node.actions(), ["run third warm"]);
    assert_eq!(crowd(&mut node, false), ["run fourth warm"]);
    let _fifth = node.runs_at_once(burns);
}
