//! When a node says how it is, and how much of it.
//!
//! * A report goes out when it differs from the last one by more than a
//!   threshold, and every [`REPORT_INTERVAL_MAX`] though nothing has changed.
//! * All nodes of a zone together send at most [`ZONE_REPORTS_PER_SECOND`]: each
//!   has its share, or what the others leave, as a bucket of tokens.
//! * Looking at itself costs a busy node something: it rests [`LOOK_REST`] times
//!   as long as a look took.
//! * Who is outside of the zone or region hears a brief one, seldom.

pub mod offers;

use std::time::Duration;

use weir_node_core::time::Time;

use crate::report::Report;

/// How long after a change the node looks at itself: more of them come together.
pub const SETTLE: Duration = Duration::from_millis(4);

/// How often it looks at itself though nothing says that it has changed.
pub const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(500);

/// How many times longer than a look at itself takes the node waits until the
/// next.
pub const LOOK_REST: u32 = 20;

/// Time over which the reports of others are averaged, in seconds.
const HEARD_OVER: f64 = 1.0;

/// Reports of one node in a second, at the least and at the most.
pub const REPORTS_PER_SECOND: (f64, f64) = (0.2, 5.0);

/// Reports that all nodes of a zone may send together, in a second.
pub const ZONE_REPORTS_PER_SECOND: f64 = 60.0;

/// Reports that may be saved up.
const TOKENS_MAX: f64 = 2.0;

/// How often other zones hear of this node.
pub const BRIEF_INTERVAL: Duration = Duration::from_secs(7);

/// How often a node says how it is though nothing has changed.
pub const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(20);

/// Share of its room by which a node must differ from what it said last.
pub const THRESHOLD: f64 = 0.1;

/// How often a node proves anew that it belongs here, for those who missed it:
/// often at first, seldom when all have had their chances.
pub const INTRODUCTION_INTERVAL: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(600));

/// What is to be done with a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Nothing new in it.
    Nothing,
    /// It may not be sent yet: the next look is when it may.
    Later,
    /// Send it; and a brief one to those outside, if that is due.
    Now {
        /// Whether that is.
        brief: bool,
    },
}

/// What a node remembers of its own reports.
#[derive(Debug)]
pub struct Reporting {
    began: Time,
    published: Option<Report>,
    tokens: f64,
    refilled: Time,
    reported: Option<Time>,
    briefed: Option<Time>,
    introduced: Option<Time>,
    /// When it looks at itself next, if something has changed.
    next_look: Option<Time>,
    looked: Time,
    look_cost: Duration,
    /// Reports of neighbours that came so far, and in a second.
    heard: u64,
    heard_at: Time,
    heard_rate: f64,
}

impl Reporting {
    /// Begins at `now`.
    pub fn new(now: Time) -> Reporting {
        Reporting {
            began: now,
            published: None,
            tokens: 1.0,
            refilled: now,
            reported: None,
            briefed: None,
            introduced: None,
            next_look: None,
            looked: now,
            look_cost: Duration::ZERO,
            heard: 0,
            heard_at: now,
            heard_rate: 0.0,
        }
    }

    /// What was said last.
    pub fn published(&self) -> Option<&Report> {
        self.published.as_ref()
    }

    /// Whether those outside have heard a brief one.
    pub fn has_briefed(&self) -> bool {
        self.briefed.is_some()
    }

    /// Counts reports of neighbours: so many came since the start.
    pub fn hears(&mut self, count: u64, now: Time) {
        let passed = now.since(self.heard_at).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        let came = count.saturating_sub(self.heard) as f64;
        let weight = (passed / HEARD_OVER).min(1.0);
        self.heard_rate += (came / passed - self.heard_rate) * weight;
        (self.heard, self.heard_at) = (count, now);
    }

    /// Something about the node has changed at `now`.
    pub fn changed(&mut self, now: Time) {
        if self.next_look.is_none() {
            self.next_look = Some((now + SETTLE).max(self.looked + self.rest()));
        }
    }

    /// When it looks at itself because something has changed, or may be said now.
    pub fn next_look(&self) -> Option<Time> {
        self.next_look
    }

    /// Whether it looks at itself though nothing says that it has changed.
    pub fn is_look_due(&self, now: Time) -> bool {
        self.next_look.is_none() && now.since(self.looked) >= LOOK_INTERVAL_MAX.max(self.rest())
    }

    /// A look begins.
    pub fn looks(&mut self) {
        self.next_look = None;
    }

    /// It took from `began` to `now`.
    pub fn has_looked(&mut self, began: Time, now: Time) {
        (self.looked, self.look_cost) = (now, now.since(began));
    }

    fn rest(&self) -> Duration {
        self.look_cost.saturating_mul(LOOK_REST)
    }

    /// Reports that this node may send in a second, where `neighbours` share the
    /// zone or region, itself included: its share of what the zone may send, or
    /// what the others leave of that.
    fn rate(&self, neighbours: usize) -> f64 {
        let (least, most) = REPORTS_PER_SECOND;
        let share = ZONE_REPORTS_PER_SECOND / neighbours.max(1) as f64;
        let left = ZONE_REPORTS_PER_SECOND - self.heard_rate;
        share.max(left).clamp(least, most)
    }

    /// What to do with `report` at `now`. `at_once` asks for it whatever it says.
    /// `others` says whether some do not hear the full one.
    pub fn consider(
        &mut self,
        report: &Report,
        neighbours: usize,
        others: impl FnOnce() -> bool,
        at_once: bool,
        now: Time,
    ) -> Say {
        let rate = self.rate(neighbours);
        let passed = now.since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.tokens = (self.tokens + passed * rate).min(TOKENS_MAX);
        let is_due = |last: Option<Time>, interval| last.is_none_or(|at| now.since(at) >= interval);
        let silent = is_due(self.reported, REPORT_INTERVAL_MAX);
        let said = self.published.as_ref();
        let changed = said.is_none_or(|said| silent || differs(said, report));
        if !at_once && !changed {
            return Say::Nothing;
        }
        if !at_once && self.tokens < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - self.tokens) / rate);
            self.next_look = Some(now + wait.max(SETTLE));
            return Say::Later;
        }
        let drains = said.is_some_and(|said| said.draining != report.draining);
        let brief = (drains || is_due(self.briefed, BRIEF_INTERVAL)) && others();
        self.tokens = (self.tokens - 1.0).max(0.0);
        self.reported = Some(now);
        if brief {
            self.briefed = Some(now);
        }
        Say::Now { brief }
    }

    /// Takes note of what was said.
    pub fn has_said(&mut self, report: Report) {
        self.published = Some(report);
    }

    /// Whether the node proves anew that it belongs here; `is_new` is whether it
    /// has another proof than before.
    pub fn introduces(&mut self, is_new: bool, now: Time) -> bool {
        let (first, longest) = INTRODUCTION_INTERVAL;
        let pause = now.since(self.began).div_f64(4.0).clamp(first, longest);
        let is_due = self.introduced.is_none_or(|at| now.since(at) >= pause);
        if is_new || is_due {
            self.introduced = Some(now);
        }
        is_new || is_due
    }
}

/// Whether a report says something else than `said`, by more than a threshold.
pub fn differs(said: &Report, now: &Report) -> bool {
    let part = |a: u64, b: u64| {
        let most = a.max(b);
        most > 0 && (a == 0 || b == 0 || (a.abs_diff(b) as f64) > most as f64 * THRESHOLD)
    };
    let count = |a: u32, b: u32| part(a.into(), b.into());
    let (old, new) = (&said.load, &now.load);
    let load = count(old.guest_cpu, new.guest_cpu)
        || count(old.waiting, new.waiting)
        || count(old.cpu_free, new.cpu_free)
        || part(old.memory_free, new.memory_free);
    let offers = said.offers.len() != now.offers.len()
        || said.offers.iter().zip(&now.offers).any(|(old, new)| {
            old.function != new.function
                || (old.warm == 0) != (new.warm == 0)
                || old.full != new.full
                || (old.startable == 0) != (new.startable == 0)
        });
    load || offers
        || said.draining != now.draining
        || said.executors != now.executors
        || said.abilities != now.abilities
        || said.addresses != now.addresses
        || said.carriage != now.carriage
        || said.epoch != now.epoch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::report;

    fn at(milliseconds: u64) -> Time {
        Time::ZERO + Duration::from_millis(milliseconds)
    }

    /// Considers a report of a node among `neighbours`, and says it where it may.
    fn say(reporting: &mut Reporting, report: &Report, neighbours: usize, now: Time) -> Say {
        let say = reporting.consider(report, neighbours, || true, false, now);
        if matches!(say, Say::Now { .. }) {
            reporting.has_said(report.clone());
        }
        say
    }

    fn busy(waiting: u32) -> Report {
        let mut report = report();
        report.load.waiting = waiting;
        report
    }

    #[test]
    fn what_has_not_changed_is_said_seldom() {
        let mut reporting = Reporting::new(at(0));
        let same = report();
        assert_eq!(
            say(&mut reporting, &same, 3, at(0)),
            Say::Now { brief: true }
        );
        assert_eq!(say(&mut reporting, &same, 3, at(19_999)), Say::Nothing);
        assert_eq!(
            say(&mut reporting, &same, 3, at(20_000)),
            Say::Now { brief: true }
        );
    }

    #[test]
    fn what_has_changed_is_said_by_name() {
        let change = |change: fn(&mut Report)| {
            let mut now = report();
            change(&mut now);
            differs(&report(), &now)
        };
        type Change = fn(&mut Report);
        let cases: [(&str, Change, bool); 12] = [
            ("nothing", |_| {}, false),
            (
                "a twentieth of the memory",
                |r| r.load.memory_free = r.load.memory_free / 100 * 95,
                false,
            ),
            (
                "more of it",
                |r| r.load.memory_free = r.load.memory_free * 8 / 10,
                true,
            ),
            ("room for guests", |r| r.load.guest_cpu = 0, true),
            ("somebody waits", |r| r.load.waiting = 1, true),
            ("one call more runs", |r| r.load.running += 1, false),
            ("its last warm instance", |r| r.offers[0].warm = 0, true),
            ("one warm instance more", |r| r.offers[0].warm += 1, false),
            ("a function is full", |r| r.offers[0].full = true, true),
            ("it drains", |r| r.draining = true, true),
            ("an executor", |r| r.executors.clear(), true),
            ("its secrets", |r| r.abilities += 1, true),
        ];
        for (name, how, expected) in cases {
            assert_eq!(change(how), expected, "{name}");
        }
    }

    /// After ten seconds in which so many reports a second were heard.
    fn among(heard: u64) -> Reporting {
        let mut reporting = Reporting::new(at(0));
        for tenth in 0..=100 {
            reporting.hears(tenth * heard / 10, at(tenth * 100));
        }
        reporting
    }

    #[test]
    fn a_zone_shares_what_it_may_say() {
        // (neighbours, heard in a second) -> reports in ten seconds.
        for (neighbours, heard, expected) in [(1, 0, 50), (50, 60, 12), (600, 60, 2), (50, 0, 50)] {
            let mut reporting = among(heard);
            let mut said = 0_u32;
            for tenth in 100..200_u32 {
                let now = at(u64::from(tenth) * 100);
                reporting.hears(u64::from(tenth) * heard / 10, now);
                let report = busy(if tenth % 2 == 0 { 100 } else { 200 });
                let say = say(&mut reporting, &report, neighbours, now);
                said += u32::from(matches!(say, Say::Now { .. }));
            }
            // Two may have been saved up.
            let allowed = expected..=expected + 2;
            assert!(allowed.contains(&said), "{said} among {neighbours}");
        }
    }

    #[test]
    fn what_may_not_be_said_yet_is_looked_at_when_it_may() {
        let mut reporting = among(60);
        let neighbours = 600;
        for waiting in [1, 9] {
            say(&mut reporting, &busy(waiting), neighbours, at(10_000));
        }
        let later = say(&mut reporting, &busy(30), neighbours, at(10_100));
        assert_eq!(later, Say::Later);
        let due = reporting.next_look().expect("it looks again");
        assert!(due > at(14_000) && due <= at(15_100), "{due:?}");
        let now = say(&mut reporting, &busy(30), neighbours, due);
        assert_eq!(now, Say::Now { brief: false });
        // Whoever asks for it gets it.
        let asked = reporting.consider(&busy(30), neighbours, || true, true, due);
        assert_eq!(asked, Say::Now { brief: false });
    }

    #[test]
    fn changes_are_gathered_and_a_costly_look_is_rested_from() {
        let mut reporting = Reporting::new(at(0));
        assert!(!reporting.is_look_due(at(499)));
        assert!(reporting.is_look_due(at(500)));
        reporting.changed(at(600));
        reporting.changed(at(602));
        assert_eq!(reporting.next_look(), Some(at(604)));
        assert!(!reporting.is_look_due(at(10_000)), "one is planned");
        reporting.looks();
        reporting.has_looked(at(604), at(614));
        reporting.changed(at(615));
        assert_eq!(reporting.next_look(), Some(at(814)));
    }

    #[test]
    fn those_outside_hear_of_a_drain_at_once() {
        let mut reporting = Reporting::new(at(0));
        say(&mut reporting, &busy(1), 3, at(0));
        assert_eq!(
            say(&mut reporting, &busy(9), 3, at(1_000)),
            Say::Now { brief: false }
        );
        let drains = Report {
            draining: true,
            ..busy(9)
        };
        assert_eq!(
            say(&mut reporting, &drains, 3, at(2_000)),
            Say::Now { brief: true }
        );
        assert_eq!(
            say(&mut reporting, &busy(1), 3, at(20_000)),
            Say::Now { brief: true }
        );
        let alone = reporting.consider(&busy(30), 3, || false, false, at(60_000));
        assert_eq!(alone, Say::Now { brief: false });
    }

    #[test]
    fn a_proof_is_repeated_more_and_more_seldom() {
        let mut reporting = Reporting::new(at(0));
        assert!(reporting.introduces(true, at(0)));
        assert!(!reporting.introduces(false, at(59_000)));
        assert!(reporting.introduces(false, at(60_000)));
        assert!(
            reporting.introduces(true, at(61_000)),
            "a new one is told at once"
        );
        let day = 24 * 3_600_000;
        assert!(reporting.introduces(false, at(day)));
        assert!(!reporting.introduces(false, at(day + 599_000)));
        assert!(reporting.introduces(false, at(day + 600_000)));
    }
}
