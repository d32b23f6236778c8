use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::admission::Prospect;
use crate::resources::Memory;
use crate::words::{Phase, Refusal, Start};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn at(milliseconds: u64) -> Time {
    Time::ZERO + ms(milliseconds)
}

/// An instance holds memory, a call a core.
fn profile() -> Profile {
    Profile {
        instance: Resources {
            cpu: Cpu::ZERO,
            memory: Memory::mebibytes(100),
        },
        call: Resources {
            cpu: Cpu::cores(1),
            memory: Memory::ZERO,
        },
        calls_per_instance: 1,
        max_instances: 10,
        min_instances: 0,
        keep_alive: ms(60_000),
        keeping: crate::keep::Keeping::Fixed,
    }
}

/// A scheduler with a clock in milliseconds, whose shell does what the test says.
struct Node {
    scheduler: Scheduler<&'static str>,
    actions: Vec<Action<&'static str>>,
    function: FunctionKey,
    now: u64,
}

impl Node {
    fn with(cores: u32, class: ClassConfig, profile: Profile) -> Self {
        let capacity = Resources {
            cpu: Cpu::cores(cores),
            memory: Memory::mebibytes(1000),
        };
        let mut scheduler = Scheduler::new(capacity, &[class], 100, 2);
        let mut actions = Vec::new();
        let added = scheduler.add("", profile, at(0), &mut actions);
        Node {
            scheduler,
            actions,
            function: added.expect("it fits"),
            now: 0,
        }
    }

    fn new(cores: u32) -> Self {
        Node::with(cores, ClassConfig::default(), profile())
    }

    fn request(&self) -> Request {
        Request {
            function: self.function,
            class: 0,
            patient: true,
            arrived: at(self.now),
            deadline: Time::NEVER,
            persists_until: None,
            timeout: ms(60_000),
            per_second: None,
            elsewhere: 0,
        }
    }

    fn arrive(&mut self, request: Request) -> Verdict {
        let now = at(self.now);
        self.scheduler
            .arrive(&request, || "call", now, &mut self.actions)
    }

    fn waits(&mut self, request: Request) -> Ticket {
        match self.arrive(request) {
            Verdict::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn runs(&mut self, request: Request) -> Slot {
        match self.arrive(request) {
            Verdict::Run(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, slot: Slot, ran: Option<Ran>) {
        let now = at(self.now);
        self.scheduler.finish(slot, ran, now, &mut self.actions);
    }

    fn expire(&mut self) {
        self.scheduler.expire(at(self.now), &mut self.actions);
    }

    /// Makes code ready, starts and stops until nothing is left to do; a start
    /// takes `start` ms. Returns the places of calls that run.
    fn carry_out(&mut self, start: u64) -> Vec<Slot> {
        let mut slots = Vec::new();
        while let Some(action) = self.actions.pop() {
            let actions = &mut self.actions;
            match action {
                Action::Run { slot, .. } => slots.push(slot),
                Action::Prepare { instance, .. } => {
                    self.scheduler.prepared(instance, at(self.now), actions);
                }
                Action::Start { instance, .. } => {
                    self.now += start;
                    self.scheduler.started(instance, at(self.now), actions);
                }
                Action::Stop { instance } => {
                    self.scheduler.stopped(instance, at(self.now), actions);
                }
                other => panic!("{other:?}"),
            }
        }
        slots
    }

    /// Starts an instance by a call, which then runs.
    fn cold(&mut self, start: u64) -> Slot {
        self.waits(self.request());
        let mut slots = self.carry_out(start);
        slots.pop().expect("it runs")
    }

    /// Leaves an idle instance that has taught nothing.
    fn warm(&mut self) {
        let slot = self.cold(0);
        self.finish(slot, None);
    }

    /// What is to be done, as text.
    fn asked(&mut self) -> Vec<String> {
        let asked = self.actions.drain(..).map(|action| match action {
            Action::Run { token, .. } => format!("run {token}"),
            Action::Prepare { instance, .. } => format!("prepare {}", instance.as_u64()),
            Action::Start { instance, .. } => format!("start {}", instance.as_u64()),
            Action::Stop { instance } => format!("stop {}", instance.as_u64()),
            Action::GaveUp { token, why } => format!("{token}: {why:?}"),
            Action::CannotStart { token, .. } => format!("cannot start {token}"),
            Action::Removed { token } => format!("removed {token}"),
        });
        asked.collect()
    }

    /// Instances whose code is to be made ready, and nothing else.
    fn preparing(&mut self) -> Vec<InstanceId> {
        let asked = self.actions.drain(..).map(|action| match action {
            Action::Prepare { instance, .. } => instance,
            other => panic!("{other:?}"),
        });
        asked.collect()
    }

    fn known(&self) -> Arc<Known> {
        self.scheduler.known(self.function).expect("it is there")
    }
}

#[test]
fn calls_teach_how_long_they_run_and_failures_do_not() {
    let check = |name: &str, taught: &[Ran], samples: u32, mean: u64| {
        let mut node = Node::new(4);
        node.warm();
        for ran in taught {
            let slot = node.runs(node.request());
            node.finish(slot, Some(*ran));
        }
        let service = node.known().service();
        assert_eq!(service.samples, samples, "{name}");
        assert_eq!(service.mean, ms(mean), "{name}");
        let outlook = node.scheduler.prospect(&node.request(), at(0));
        assert_eq!(outlook.expect("it is there").service, service, "{name}");
    };
    check("nothing ran", &[], 0, 0);
    check("one answer", &[Ran::Answered(ms(80))], 1, 80);
    check("failures alone", &[Ran::Failed, Ran::Failed], 0, 0);
    let quick_failure = [Ran::Answered(ms(80)), Ran::Failed];
    check("a quick failure after an answer", &quick_failure, 1, 80);
    let early = [Ran::Answered(ms(80)), Ran::TimedOut(ms(10))];
    check("a time-out earlier than the mean", &early, 2, 80);
    let late = [Ran::Answered(ms(80)), Ran::TimedOut(ms(880))];
    check("a time-out later than the mean", &late, 2, 180);
}

#[test]
fn only_a_call_that_waited_for_a_start_and_was_answered_for_teaches_its_length() {
    let mut node = Node::new(4);
    let slot = node.cold(300);
    assert_eq!(slot.start(), Start::Cold);
    node.finish(slot, None);
    assert_eq!(node.known().start(), Duration::ZERO);
    let slot = node.runs(node.request());
    node.finish(slot, Some(Ran::Answered(ms(1))));
    assert_eq!(node.known().start(), Duration::ZERO, "it was warm");
    let _running = node.runs(node.request());
    let slot = node.cold(300);
    node.finish(slot, Some(Ran::Failed));
    assert_eq!(node.known().start(), ms(300));
}

#[test]
fn what_is_known_outlives_an_update_and_not_a_removal() {
    let mut node = Node::new(4);
    node.warm();
    let (function, now) = (node.function, at(1));
    node.scheduler
        .learn(function, Ran::Answered(ms(80)), Some(ms(5)));
    let updated = node
        .scheduler
        .update(function, profile(), now, &mut node.actions);
    updated.expect("it fits");
    assert_eq!(node.known().service().mean, ms(80));
    let known = node.known();
    node.scheduler.remove("", function, now, &mut node.actions);
    assert!(node.scheduler.known(function).is_none());
    assert_eq!(
        known.service().mean,
        ms(80),
        "whoever looks at it still may"
    );
    let again = node.scheduler.add("", profile(), now, &mut node.actions);
    node.function = again.expect("it fits");
    assert_eq!(node.known().service(), Estimate::default());
    node.scheduler.learn(function, Ran::Answered(ms(1)), None);
    assert_eq!(node.known().service().samples, 0, "that was another one");
}

/// What becomes of one call that counts.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Runs,
    RunsAfterAStart,
    IsRefused,
    IsGivenBack,
    GivesUp,
    IsCancelled,
    Leaves,
    ComesBack,
    CannotStart,
}

#[test]
fn a_call_that_does_not_run_leaves_its_room_in_the_rate() {
    let check = |fate: Fate, counts: bool| {
        let class = ClassConfig {
            queue: 1,
            max_wait: Some(ms(1)),
            ..ClassConfig::default()
        };
        let mut node = Node::with(1, class, profile());
        if !matches!(fate, Fate::RunsAfterAStart | Fate::CannotStart) {
            node.warm();
        }
        let mut running = None;
        if !matches!(fate, Fate::Runs | Fate::RunsAfterAStart | Fate::CannotStart) {
            running = Some(node.runs(node.request()));
        }
        let one = Request {
            per_second: Some(1),
            ..node.request()
        };
        match fate {
            Fate::Runs => running = Some(node.runs(one)),
            Fate::RunsAfterAStart => {
                node.waits(one);
                running = node.carry_out(0).pop();
                assert!(running.is_some());
            }
            Fate::IsRefused => {
                node.waits(node.request());
                let verdict = node.arrive(one);
                let full = matches!(
                    verdict,
                    Verdict::Refuse {
                        reason: Refusal::QueueFull,
                        ..
                    }
                );
                assert!(full, "{verdict:?}");
            }
            Fate::IsGivenBack => {
                let verdict = node.arrive(Request {
                    patient: false,
                    ..one
                });
                let back = matches!(
                    verdict,
                    Verdict::Refuse {
                        reason: Refusal::NoRoom,
                        ..
                    }
                );
                assert!(back, "{verdict:?}");
            }
            Fate::GivesUp => {
                node.waits(one);
                node.now += 1;
                node.expire();
                assert_eq!(node.actions.len(), 1);
            }
            Fate::IsCancelled => {
                let ticket = node.waits(one);
                let now = at(node.now);
                let token = node.scheduler.cancel(ticket, now, &mut node.actions);
                assert_eq!(token, Some("call"));
            }
            Fate::Leaves | Fate::ComesBack => {
                node.waits(one);
                let now = at(node.now);
                let left = node.scheduler.offer(now, |_| true, &mut node.actions);
                let (_, seat) = left.expect("it goes");
                if matches!(fate, Fate::ComesBack) {
                    let back =
                        node.scheduler
                            .come_back(&one, seat, || "back", now, &mut node.actions);
                    assert!(matches!(back, Verdict::Wait(_)));
                }
            }
            Fate::CannotStart => {
                node.waits(one);
                let Some(Action::Prepare { instance, .. }) = node.actions.pop() else {
                    panic!("code is made ready first");
                };
                let now = at(node.now);
                node.scheduler
                    .start_failed(instance, now, &mut node.actions);
                assert_eq!(node.asked(), ["cannot start call"]);
            }
        }
        // Another one within the same second.
        let another = Request {
            arrived: at(node.now),
            ..one
        };
        let outlook = node.scheduler.prospect(&another, at(node.now));
        let outlook = outlook.expect("it is there");
        let refused = outlook.prospect == Prospect::Refuse(Refusal::RateLimit);
        assert_eq!(refused, counts, "{fate:?}");
        if refused {
            assert_eq!(outlook.wait, ms(1000), "{fate:?}");
        }
        assert_eq!(
            node.scheduler.admission().running(),
            running.iter().count(),
            "{fate:?}"
        );
    };
    check(Fate::Runs, true);
    check(Fate::RunsAfterAStart, true);
    check(Fate::ComesBack, true);
    check(Fate::IsRefused, false);
    check(Fate::IsGivenBack, false);
    check(Fate::GivesUp, false);
    check(Fate::IsCancelled, false);
    check(Fate::Leaves, false);
    check(Fate::CannotStart, false);
}

#[test]
fn a_place_is_kept_for_a_call_that_is_decided_about_and_given_back_as_it_was() {
    let mut node = Node::new(1);
    node.warm();
    let request = Request {
        per_second: Some(1),
        ..node.request()
    };
    let expires = node.scheduler.next_event();
    node.now += 1_000;
    let (looked, now) = (node.scheduler.reserve(&request, at(node.now)), at(node.now));
    let (outlook, reserved) = looked.expect("it is there");
    let reserved = reserved.expect("it is warm");
    assert_eq!(outlook.prospect, Prospect::Warm);
    // Others find neither the place nor its room in the rate.
    let (outlook, none) = node.scheduler.reserve(&request, now).expect("it is there");
    assert_eq!(outlook.prospect, Prospect::Refuse(Refusal::RateLimit));
    assert!(none.is_none());
    let ticket = node.waits(node.request());
    node.scheduler.release(reserved, now, &mut node.actions);
    let slots = node.carry_out(0);
    assert_eq!(slots.len(), 1, "whoever waits has it then");
    assert!(
        node.scheduler
            .cancel(ticket, now, &mut node.actions)
            .is_none()
    );
    // The look did not count as a use, nor against the rate.
    let mut node = Node::new(1);
    node.warm();
    node.now += 1_000;
    let (_, reserved) = node.scheduler.reserve(&request, now).expect("it is there");
    let reserved = reserved.expect("it is warm");
    node.scheduler.release(reserved, now, &mut node.actions);
    assert_eq!(node.scheduler.next_event(), expires);
    node.now = 60_000;
    node.expire();
    assert_eq!(
        node.asked(),
        ["stop 0"],
        "it was idle for as long as it may be"
    );
    let mut node = Node::new(1);
    node.warm();
    let (_, reserved) = node.scheduler.reserve(&request, now).expect("it is there");
    let slot = reserved.expect("it is warm").run();
    node.finish(slot, Some(Ran::Answered(ms(100))));
    assert_eq!(node.known().service().samples, 1);
}

#[test]
fn a_call_beyond_the_rate_is_refused_or_given_back_to_whoever_may_know_of_another_place() {
    let check = |patient: bool, reason: Refusal| {
        let mut node = Node::new(4);
        node.warm();
        let one = Request {
            patient,
            per_second: Some(1),
            ..node.request()
        };
        let slot = node.runs(one);
        node.finish(slot, None);
        node.now = 400;
        match node.arrive(one) {
            Verdict::Refuse {
                reason: found,
                expected,
            } => assert_eq!((found, expected), (reason, ms(600))),
            other => panic!("{other:?}"),
        }
        // What was placed once is not counted again.
        let again = Request {
            per_second: None,
            ..one
        };
        let _slot = node.runs(again);
    };
    check(true, Refusal::RateLimit);
    check(false, Refusal::NoRoom);
}

#[test]
fn no_more_instances_start_at_once_than_may_and_each_end_lets_the_next_in() {
    let mut node = Node::new(9);
    for _ in 0..5 {
        node.waits(node.request());
    }
    // Code is made ready for all at once.
    let ids = node.preparing();
    assert_eq!(ids.len(), 5);
    let now = at(1);
    for at in [3, 1, 0, 2] {
        node.scheduler.prepared(ids[at], now, &mut node.actions);
    }
    assert_eq!(node.asked(), ["start 3", "start 1"]);
    node.scheduler.started(ids[3], now, &mut node.actions);
    assert_eq!(node.asked(), ["run call", "start 0"]);
    node.scheduler.start_failed(ids[1], now, &mut node.actions);
    assert_eq!(node.asked(), ["cannot start call", "start 2"]);
    // Whose code is not ready has no part in it.
    node.scheduler.start_failed(ids[4], now, &mut node.actions);
    assert_eq!(node.asked(), ["cannot start call"]);
    node.scheduler.gone(ids[0], now, &mut node.actions);
    node.scheduler.started(ids[2], now, &mut node.actions);
    assert_eq!(node.asked().last().expect("one"), "run call");
}

#[test]
fn a_start_that_nobody_wants_any_more_is_not_begun_and_holds_nothing() {
    let mut node = Node::new(9);
    for _ in 0..3 {
        node.waits(node.request());
    }
    let prepared = node.preparing();
    for id in &prepared {
        node.scheduler.prepared(*id, at(1), &mut node.actions);
    }
    assert_eq!(node.asked(), ["start 0", "start 1"]);
    let function = node.function;
    node.scheduler
        .remove("", function, at(2), &mut node.actions);
    assert_eq!(node.asked(), ["removed call"; 3]);
    node.scheduler
        .start_failed(prepared[0], at(3), &mut node.actions);
    assert!(node.actions.is_empty(), "the third is not even begun");
    node.scheduler
        .started(prepared[1], at(3), &mut node.actions);
    assert_eq!(node.asked(), ["stop 1"]);
    node.scheduler
        .stopped(prepared[1], at(3), &mut node.actions);
    assert_eq!(node.scheduler.admission().held(), Resources::ZERO);
}

#[test]
fn a_call_is_told_once_why_it_waits_no_longer() {
    #[derive(Debug, Clone, Copy)]
    enum For {
        Place,
        Start,
    }
    let check = |name: &str, waits_for: For, change: &dyn Fn(&mut Request), due: u64, why| {
        let class = ClassConfig {
            max_wait: Some(ms(2_000)),
            ..ClassConfig::default()
        };
        let mut node = Node::with(1, class, profile());
        let _running = match waits_for {
            For::Place => {
                node.warm();
                Some(node.runs(node.request()))
            }
            For::Start => None,
        };
        let mut request = node.request();
        change(&mut request);
        node.waits(request);
        node.actions.clear();
        let next = node.scheduler.next_event();
        node.now = due - 1;
        node.expire();
        assert!(node.actions.is_empty(), "{name}: not a moment earlier");
        node.now = due;
        node.expire();
        let expected = format!("call: {why:?}");
        assert_eq!(node.asked(), [expected], "{name}, next event {next:?}");
        node.now = due + 100_000;
        node.expire();
        assert!(
            node.asked().iter().all(|action| action.starts_with("stop")),
            "{name}: twice"
        );
    };
    let late = |phase, after| GaveUp::Late {
        phase,
        after: ms(after),
    };
    // Nobody knows how long a newcomer would wait, but for those who did.
    let too_long = |waited| GaveUp::WaitedTooLong {
        expected: ms(waited),
    };
    let deadline = |milliseconds| move |request: &mut Request| request.deadline = at(milliseconds);
    let timeout = |milliseconds| move |request: &mut Request| request.timeout = ms(milliseconds);
    let nothing = |_: &mut Request| {};
    check(
        "the class's longest wait",
        For::Place,
        &nothing,
        2_000,
        too_long(2_000),
    );
    let early = deadline(700);
    check(
        "a deadline before that",
        For::Place,
        &early,
        700,
        late(Phase::Queue, 700),
    );
    let later = deadline(9_000);
    check(
        "a deadline after that",
        For::Place,
        &later,
        2_000,
        too_long(2_000),
    );
    check(
        "a start within a deadline",
        For::Start,
        &later,
        9_000,
        late(Phase::Start, 9_000),
    );
    check(
        "a start without one",
        For::Start,
        &timeout(5_000),
        5_000,
        GaveUp::NotStarted,
    );
    check(
        "a start, and a timeout below the longest wait",
        For::Start,
        &timeout(1_000),
        2_000,
        GaveUp::NotStarted,
    );
    let accepted = |request: &mut Request| request.persists_until = Some(at(4_000));
    check(
        "accepted for a while",
        For::Place,
        &accepted,
        4_000,
        too_long(4_000),
    );
}

#[test]
fn a_call_that_waited_too_long_is_told_no_less_than_it_waited() {
    let mut node = Node::new(1);
    node.warm();
    let function = node.function;
    node.scheduler.learn(function, Ran::Answered(ms(100)), None);
    let _running = node.runs(node.request());
    for _ in 0..3 {
        node.waits(node.request());
    }
    node.now = 5_000;
    node.expire();
    let told = node.asked();
    // The queue that it leaves is short, and the place is taken as it was.
    assert_eq!(told, ["call: WaitedTooLong { expected: 5s }"; 3]);
}

#[test]
fn an_idle_instance_stops_and_a_kept_one_starts_at_the_very_next_event() {
    let mut node = Node::new(4);
    node.warm();
    let next = node.scheduler.next_event();
    assert_eq!(next, Some(at(60_000)));
    node.now = 59_999;
    node.expire();
    assert!(node.actions.is_empty());
    node.now = 60_000;
    node.expire();
    assert_eq!(node.asked(), ["stop 0"]);

    let kept = Profile {
        min_instances: 1,
        ..profile()
    };
    let mut node = Node::with(4, ClassConfig::default(), kept);
    let Some(Action::Prepare { instance, .. }) = node.actions.pop() else {
        panic!("a kept instance is started at once");
    };
    node.scheduler
        .start_failed(instance, at(250), &mut node.actions);
    assert_eq!(node.scheduler.next_event(), Some(at(1_250)));
    node.now = 1_250;
    node.expire();
    assert_eq!(node.asked().len(), 1);
}

#[test]
fn a_need_is_held_when_it_changed_and_much_more_makes_forget_how_long_calls_ran() {
    let check = |name: &str, need: u32, holds: bool, samples: u32| {
        let mut node = Node::new(4);
        node.warm();
        let function = node.function;
        node.scheduler.learn(function, Ran::Answered(ms(100)), None);
        let cpu = Cpu::millicores(need);
        let held = node
            .scheduler
            .learn_need(function, cpu, at(1), &mut node.actions);
        assert_eq!(held, holds, "{name}");
        assert_eq!(node.known().service().samples, samples, "{name}");
        let now = node.scheduler.admission().call_cpu(function);
        let most = Cpu::cores(4);
        assert_eq!(
            now,
            if holds { cpu.min(most) } else { Cpu::cores(1) },
            "{name}"
        );
    };
    check("about the same", 1_050, false, 1);
    check("less", 500, true, 1);
    check("somewhat more", 1_400, true, 1);
    check("much more", 2_000, true, 0);
    check("more than there is", 9_000, true, 0);
}

/// One thing that happens. Numbers choose among what is there, modulo its count.
#[derive(Debug, Clone)]
enum Event {
    Arrive { function: usize, wait: u64 },
    Finish(usize),
    Prepared(usize),
    Started(usize),
    StartFailed(usize),
    Gone(usize),
    Cancel(usize),
    Update(usize),
    Remove(usize),
    Pass(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    let i = any::<usize>;
    prop_oneof![
        8 => (i(), 1..50_u64).prop_map(|(function, wait)| Event::Arrive { function, wait }),
        4 => i().prop_map(Event::Finish),
        5 => i().prop_map(Event::Prepared),
        4 => i().prop_map(Event::Started),
        2 => i().prop_map(Event::StartFailed),
        1 => i().prop_map(Event::Gone),
        1 => i().prop_map(Event::Cancel),
        1 => i().prop_map(Event::Update),
        1 => i().prop_map(Event::Remove),
        3 => (1..60_u64).prop_map(Event::Pass),
    ]
}

/// A plain model of the shell: what it was told and has not done yet.
#[derive(Default)]
struct Shell {
    waiting: Vec<(u64, Ticket)>,
    running: Vec<Slot>,
    preparing: Vec<InstanceId>,
    starting: Vec<InstanceId>,
    ready: Vec<InstanceId>,
    given_back: BTreeSet<u64>,
}

const STARTS_MAX: usize = 2;

impl Shell {
    fn carry_out(
        &mut self,
        scheduler: &mut Scheduler<u64>,
        actions: &mut Vec<Action<u64>>,
        now: Time,
    ) {
        while !actions.is_empty() {
            for action in std::mem::take(actions) {
                match action {
                    Action::Run { token, slot } => {
                        self.answer(token);
                        self.running.push(slot);
                    }
                    Action::Prepare { instance, .. } => self.preparing.push(instance),
                    Action::Start { instance, .. } => {
                        self.starting.push(instance);
                        assert!(self.starting.len() <= STARTS_MAX, "{:?}", self.starting);
                    }
                    Action::Stop { instance } => {
                        self.ready.retain(|ready| *ready != instance);
                        scheduler.stopped(instance, now, actions);
                    }
                    Action::GaveUp { token, .. }
                    | Action::CannotStart { token, .. }
                    | Action::Removed { token } => self.answer(token),
                }
            }
        }
    }

    fn answer(&mut self, token: u64) {
        assert!(self.given_back.insert(token), "{token} twice");
        self.waiting.retain(|(waiting, _)| *waiting != token);
    }
}

fn pick<V>(values: &mut Vec<V>, at: usize) -> Option<V> {
    (!values.is_empty()).then(|| values.swap_remove(at % values.len()))
}

proptest! {
    #[test]
    fn starts_are_bounded_tokens_come_back_once_and_time_goes_on(
        events in prop::collection::vec(any_event(), 1..200),
    ) {
        let capacity = Resources { cpu: Cpu::cores(4), memory: Memory::mebibytes(600) };
        let class = ClassConfig { max_wait: Some(ms(40)), queue: 20, ..ClassConfig::default() };
        let mut scheduler = Scheduler::new(capacity, &[class], 50, STARTS_MAX);
        let (mut shell, mut actions) = (Shell::default(), Vec::new());
        let (mut now, mut token) = (0, 0);
        let small = |at: u32| Profile {
            max_instances: 3,
            min_instances: at % 2,
            calls_per_instance: 1 + at % 2,
            keep_alive: ms(30),
            keeping: crate::keep::Keeping::Fixed,
            ..profile()
        };
        let mut functions = Vec::new();
        for at in 0..3 {
            let added = scheduler.add("", small(at), Time::ZERO, &mut actions);
            functions.push(added.expect("it fits"));
        }
        for event in events {
            let time = at(now);
            match event {
                Event::Arrive { function, wait } if !functions.is_empty() => {
                    token += 1;
                    let request = Request {
                        function: functions[function % functions.len()],
                        class: 0,
                        patient: wait % 3 > 0,
                        arrived: time,
                        deadline: time + ms(wait),
                        persists_until: None,
                        timeout: ms(100),
                        per_second: (wait % 2 == 0).then_some(100),
                        elsewhere: 0,
                    };
                    match scheduler.arrive(&request, || token, time, &mut actions) {
                        Verdict::Run(slot) => shell.running.push(slot),
                        Verdict::Wait(ticket) => shell.waiting.push((token, ticket)),
                        Verdict::Refuse { .. } | Verdict::Unknown => {}
                    }
                }
                Event::Arrive { .. } => {}
                Event::Finish(which) => if let Some(slot) = pick(&mut shell.running, which) {
                    scheduler.finish(slot, Some(Ran::Answered(ms(7))), time, &mut actions);
                },
                Event::Prepared(which) => if let Some(id) = pick(&mut shell.preparing, which) {
                    scheduler.prepared(id, time, &mut actions);
                },
                Event::Started(which) => if let Some(id) = pick(&mut shell.starting, which) {
                    shell.ready.push(id);
                    scheduler.started(id, time, &mut actions);
                },
                Event::StartFailed(which) => {
                    let from = match which % 2 {
                        0 => &mut shell.preparing,
                        _ => &mut shell.starting,
                    };
                    if let Some(id) = pick(from, which / 2) {
                        scheduler.start_failed(id, time, &mut actions);
                    }
                }
                Event::Gone(which) => if let Some(id) = pick(&mut shell.ready, which) {
                    scheduler.gone(id, time, &mut actions);
                },
                Event::Cancel(which) => if let Some((token, ticket)) = pick(&mut shell.waiting, which) {
                    let back = scheduler.cancel(ticket, time, &mut actions);
                    prop_assert_eq!(back, Some(token));
                    shell.answer(token);
                },
                Event::Update(which) => if let Some(function) = functions.get(which % 3) {
                    let updated = scheduler.update(*function, small(1), time, &mut actions);
                    updated.expect("it fits");
                },
                Event::Remove(which) => if which % 8 == 0 && let Some(function) = pick(&mut functions, which) {
                    scheduler.remove("", function, time, &mut actions);
                },
                Event::Pass(passes) => {
                    now += passes;
                    scheduler.expire(at(now), &mut actions);
                    let next = scheduler.next_event();
                    prop_assert!(next.is_none_or(|next| next > at(now)), "{:?} at {}", next, now);
                }
            }
            shell.carry_out(&mut scheduler, &mut actions, at(now));
            prop_assert_eq!(scheduler.admission().waiting(), shell.waiting.len());
            prop_assert_eq!(scheduler.admission().running(), shell.running.len());
        }
        // When all has ended, nothing is held and nobody waits.
        for function in std::mem::take(&mut functions) {
            scheduler.remove("", function, at(now), &mut actions);
        }
        shell.carry_out(&mut scheduler, &mut actions, at(now));
        for slot in std::mem::take(&mut shell.running) {
            scheduler.finish(slot, None, at(now), &mut actions);
        }
        shell.carry_out(&mut scheduler, &mut actions, at(now));
        while let Some(id) = shell.preparing.pop() {
            scheduler.prepared(id, at(now), &mut actions);
        }
        shell.carry_out(&mut scheduler, &mut actions, at(now));
        while let Some(id) = shell.starting.pop() {
            scheduler.start_failed(id, at(now), &mut actions);
            shell.carry_out(&mut scheduler, &mut actions, at(now));
        }
        prop_assert_eq!(scheduler.admission().held(), Resources::ZERO);
        prop_assert_eq!(scheduler.admission().waiting(), 0);
        prop_assert_eq!(scheduler.next_event(), None);
    }
}
