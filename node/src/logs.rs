//! The last log lines of each function.
//!
//! What the code of a function writes is cut into lines, per call, and kept in
//! a ring. Everything is bounded: lines, their length, the bytes of a ring,
//! and the bytes that a function may write in a second; what is dropped is
//! counted, and the count stands in the log where the bytes are missing. A log
//! that nobody wrote to holds no memory.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::broadcast;

use crate::clock;
use crate::id::CallId;

/// Longest line, in bytes of what was written; a longer one continues on the
/// next, and [`CONTINUES`] marks the place. Long enough for a stack frame or a
/// structured record, short enough that one line is no burden to a reader.
pub const LINE_BYTES: usize = 2 << 10;

/// Ends a line that was cut, because of its length or of dropped bytes.
pub const CONTINUES: char = '…';

/// Text of one function's lines together, so that a thousand talkative
/// functions hold hundreds of megabytes at worst and not gigabytes.
const RING_BYTES: usize = 256 << 10;

/// Calls with an unfinished line at once; of more, the oldest line is ended.
const PARTIAL_LINES: usize = 64;

/// Lines that a follower may be behind before it skips some.
const FOLLOWER_LINES: usize = 256;

/// Milliseconds from one report of dropped bytes to the next, so that a flood
/// does not fill the ring with reports of itself.
const REPORT_MILLISECONDS: i128 = 1000;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When its end was written.
    pub at: Timestamp,
    /// The call that wrote it; `None` for a remark of the node.
    pub call: Option<CallId>,
    /// The text, without its newline; what was not UTF-8 is replaced.
    pub text: Arc<str>,
}

/// The log of one function.
#[derive(Debug)]
pub struct FunctionLog {
    lines: usize,
    bytes_per_second: u64,
    /// `None` until somebody writes or follows.
    ring: Mutex<Option<Box<Ring>>>,
}

impl FunctionLog {
    /// Makes an empty log that keeps at most `lines` lines and takes at most
    /// `bytes_per_second` bytes a second, after a burst of as many.
    pub fn new(lines: usize, bytes_per_second: u64) -> Self {
        FunctionLog {
            lines,
            bytes_per_second,
            ring: Mutex::new(None),
        }
    }

    /// Takes what a call wrote. What has no newline yet is kept until it has,
    /// or until [`FunctionLog::flush`].
    pub fn write(&self, call: CallId, bytes: &[u8]) {
        self.write_at(call, bytes, clock::timestamp());
    }

    /// Ends the unfinished line of a call, if it has one; for the end of calls.
    pub fn flush(&self, call: CallId) {
        if let Some(ring) = self.lock().as_mut() {
            ring.end_line(call, "", clock::timestamp());
        }
    }

    /// Returns lines from `since` on, of those the last `tail`; the oldest first.
    pub fn read(&self, since: Option<Timestamp>, tail: Option<usize>) -> Vec<LogLine> {
        let mut guard = self.lock();
        let Some(ring) = guard.as_mut() else {
            return Vec::new();
        };
        ring.report_dropped(clock::timestamp());
        ring.read(since, tail)
    }

    /// As [`FunctionLog::read`], and the lines that come after those. A
    /// receiver that is too far behind is told how many lines it missed; it
    /// ends with the log.
    pub fn follow(
        &self,
        since: Option<Timestamp>,
        tail: Option<usize>,
    ) -> (Vec<LogLine>, broadcast::Receiver<LogLine>) {
        let mut guard = self.lock();
        let ring = self.ring(&mut guard, clock::timestamp());
        ring.report_dropped(clock::timestamp());
        let followers = ring
            .followers
            .get_or_insert_with(|| broadcast::Sender::new(FOLLOWER_LINES));
        let receiver = followers.subscribe();
        (ring.read(since, tail), receiver)
    }

    fn write_at(&self, call: CallId, bytes: &[u8], now: Timestamp) {
        self.ring(&mut self.lock(), now).write(call, bytes, now);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Ring>>> {
        // A ring is whole between any two steps, so a panic elsewhere left
        // nothing half done that would matter to a reader.
        self.ring.lock()
    }

    fn ring<'a>(&self, slot: &'a mut Option<Box<Ring>>, now: Timestamp) -> &'a mut Ring {
        slot.get_or_insert_with(|| {
            Box::new(Ring {
                most: self.lines,
                bytes_per_second: self.bytes_per_second,
                lines: VecDeque::new(),
                bytes: 0,
                partial: Vec::new(),
                allowance: self.bytes_per_second,
                allowed_at: now,
                dropped: 0,
                reported_at: None,
                followers: None,
            })
        })
    }
}

#[derive(Debug)]
struct Ring {
    most: usize,
    bytes_per_second: u64,
    lines: VecDeque<LogLine>,
    /// Of all texts in `lines`.
    bytes: usize,
    /// Unfinished lines, the one begun first in front.
    partial: Vec<(CallId, Vec<u8>)>,
    /// Bytes that may be written now: a token bucket.
    allowance: u64,
    allowed_at: Timestamp,
    /// Bytes dropped since the last report.
    dropped: u64,
    reported_at: Option<Timestamp>,
    followers: Option<broadcast::Sender<LogLine>>,
}

impl Ring {
    fn write(&mut self, call: CallId, bytes: &[u8], now: Timestamp) {
        self.refill(now);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let cost = line.len() as u64;
            if cost > self.allowance {
                // What follows may fit again, but is no continuation of this.
                self.end_line(call, &CONTINUES.to_string(), now);
                self.dropped += cost;
                continue;
            }
            self.allowance -= cost;
            self.report_dropped_seldom(now);
            match line.strip_suffix(b"\n") {
                Some(text) => {
                    self.extend(call, text, now);
                    if !self.partial.iter().any(|(of, _)| *of == call) {
                        self.push(Some(call), "", now);
                    }
                    self.end_line(call, "", now);
                }
                None => self.extend(call, line, now),
            }
        }
    }

    fn refill(&mut self, now: Timestamp) {
        // A clock set back gives nothing; one set ahead, a burst at most.
        let passed = now
            .duration_since(self.allowed_at)
            .as_nanos()
            .max(0)
            .unsigned_abs();
        let refill = u128::from(self.bytes_per_second).saturating_mul(passed) / 1_000_000_000;
        if refill > 0 || now < self.allowed_at {
            let refill = u64::try_from(refill).unwrap_or(u64::MAX);
            self.allowance = self
                .allowance
                .saturating_add(refill)
                .min(self.bytes_per_second);
            self.allowed_at = now;
        }
    }

    /// Adds to the unfinished line of a call and ends what is too long of it.
    fn extend(&mut self, call: CallId, mut text: &[u8], now: Timestamp) {
        while !text.is_empty() {
            let at = self.partial_of(call, now);
            let line = &mut self.partial[at].1;
            let room = LINE_BYTES - line.len();
            if text.len() <= room {
                line.extend_from_slice(text);
                return;
            }
            line.extend_from_slice(&text[..room]);
            text = &text[room..];
            // Whole characters stay together.
            let rest = line.split_off(whole_characters(line));
            self.end_line(call, &CONTINUES.to_string(), now);
            if !rest.is_empty() {
                self.partial.push((call, rest));
            }
        }
    }

    /// Finds or begins the unfinished line of a call.
    fn partial_of(&mut self, call: CallId, now: Timestamp) -> usize {
        if let Some(at) = self.partial.iter().position(|(of, _)| *of == call) {
            return at;
        }
        if self.partial.len() >= PARTIAL_LINES {
            let oldest = self.partial[0].0;
            self.end_line(oldest, &CONTINUES.to_string(), now);
        }
        self.partial.push((call, Vec::new()));
        self.partial.len() - 1
    }

    fn end_line(&mut self, call: CallId, mark: &str, now: Timestamp) {
        let Some(at) = self.partial.iter().position(|(of, _)| *of == call) else {
            return;
        };
        let (_, bytes) = self.partial.remove(at);
        let text = String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(&bytes));
        if mark.is_empty() {
            self.push(Some(call), &text, now);
        } else {
            self.push(Some(call), &format!("{text}{mark}"), now);
        }
    }

    fn report_dropped_seldom(&mut self, now: Timestamp) {
        let recent = self.reported_at.is_some_and(|at| {
            (0..REPORT_MILLISECONDS).contains(&now.duration_since(at).as_millis())
        });
        if !recent {
            self.report_dropped(now);
        }
    }

    fn report_dropped(&mut self, now: Timestamp) {
        if self.dropped == 0 {
            return;
        }
        let (dropped, most) = (self.dropped, self.bytes_per_second);
        self.push(
            None,
            &format!("{dropped} bytes dropped: more than {most} in a second"),
            now,
        );
        self.dropped = 0;
        self.reported_at = Some(now);
    }

    fn push(&mut self, call: Option<CallId>, text: &str, at: Timestamp) {
        let line = LogLine {
            at,
            call,
            text: text.into(),
        };
        if let Some(followers) = &self.followers
            && followers.send(line.clone()).is_err()
        {
            // Nobody follows any more: the channel's memory goes with them.
            self.followers = None;
        }
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > self.most || self.bytes > RING_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= oldest.text.len();
        }
    }

    fn read(&self, since: Option<Timestamp>, tail: Option<usize>) -> Vec<LogLine> {
        let recent = |line: &&LogLine| since.is_none_or(|since| line.at >= since);
        let mut lines: Vec<LogLine> = self
            .lines
            .iter()
            .rev()
            .filter(recent)
            .take(tail.unwrap_or(usize::MAX))
            .cloned()
            .collect();
        lines.reverse();
        lines
    }
}

/// Length of the part of `bytes` that does not end inside a UTF-8 character.
/// What is no UTF-8 is left whole: it is replaced anyway.
fn whole_characters(bytes: &[u8]) -> usize {
    let last = bytes
        .iter()
        .rev()
        .take(4)
        .position(|byte| byte & 0xC0 != 0x80);
    let Some(continuations) = last else {
        return bytes.len();
    };
    let start = bytes.len() - 1 - continuations;
    let needs = match bytes[start] {
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0..=0xFF => 4,
        0x00..0xC0 => 1,
    };
    if continuations + 1 < needs {
        start
    } else {
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call(number: u8) -> CallId {
        CallId::new([number; 16])
    }

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000_000_000 + milliseconds).expect("within range")
    }

    fn log() -> FunctionLog {
        FunctionLog::new(1000, 64 << 10)
    }

    fn texts(log: &FunctionLog) -> Vec<String> {
        log.read(None, None)
            .iter()
            .map(|line| line.text.to_string())
            .collect()
    }

    #[test]
    fn parts_of_a_line_are_joined_per_call() {
        let log = log();
        log.write(call(1), b"one, ");
        log.write(call(2), b"other\n");
        log.write(call(1), b"two\r\n\nthree");
        assert_eq!(texts(&log), ["other", "one, two", ""]);
        log.flush(call(1));
        assert_eq!(texts(&log), ["other", "one, two", "", "three"]);
        assert_eq!(log.read(None, Some(1))[0].call, Some(call(1)));
    }

    #[test]
    fn long_line_is_cut_between_characters() {
        let log = log();
        let text = "é".repeat(LINE_BYTES);
        log.write(call(1), b"x");
        log.write(call(1), text.as_bytes());
        log.write(call(1), b"\n");
        let lines = texts(&log);
        assert_eq!(lines.len(), 3);
        assert!(lines[..2].iter().all(|line| line.ends_with(CONTINUES)));
        assert_eq!(lines.concat().replace(CONTINUES, ""), format!("x{text}"));
    }

    #[test]
    fn ring_keeps_the_last_lines_within_its_bounds() {
        let log = FunctionLog::new(3, 64 << 10);
        log.write(call(1), b"1\n2\n3\n4\n");
        assert_eq!(texts(&log), ["2", "3", "4"]);
        let log = FunctionLog::new(1_000_000, u64::MAX);
        for _ in 0..1000 {
            log.write(call(1), &[b'x'; LINE_BYTES]);
            log.flush(call(1));
        }
        assert_eq!(texts(&log).len(), RING_BYTES / LINE_BYTES);
    }

    #[test]
    fn flood_is_dropped_and_counted_where_it_is_missing() {
        let log = FunctionLog::new(1000, 100);
        log.write_at(call(1), &[b'\n'; 1000], at(0));
        log.write_at(call(1), b"later\n", at(1000));
        let lines = texts(&log);
        assert_eq!(lines.len(), 102);
        assert_eq!(lines[100], "900 bytes dropped: more than 100 in a second");
        assert_eq!(lines[101], "later");
    }

    #[test]
    fn dropped_bytes_are_reported_to_a_reader_even_when_nothing_follows() {
        let log = FunctionLog::new(1000, 10);
        log.write(call(1), b"far too long for ten bytes\n");
        assert_eq!(texts(&log), ["27 bytes dropped: more than 10 in a second"]);
        assert_eq!(texts(&log).len(), 1);
    }

    #[test]
    fn clock_set_back_gives_no_allowance_and_takes_none() {
        let log = FunctionLog::new(1000, 10);
        log.write_at(call(1), b"1234567\n", at(10_000));
        log.write_at(call(1), b"x\n", at(0));
        log.write_at(call(1), b"dropped\n", at(0));
        log.write_at(call(1), b"again\n", at(1000));
        assert!(texts(&log).ends_with(&["again".to_owned()]));
    }

    #[test]
    fn unfinished_lines_are_bounded() {
        let log = log();
        for number in 0..=PARTIAL_LINES as u8 {
            log.write(call(number), b"x");
        }
        assert_eq!(texts(&log), ["x…"]);
    }

    #[test]
    fn follower_gets_the_past_and_what_comes_without_a_gap() {
        let log = log();
        log.write(call(1), b"past\n");
        let (past, mut lines) = log.follow(None, None);
        log.write(call(1), b"next\n");
        assert_eq!(past.len(), 1);
        assert_eq!(lines.try_recv().expect("a line").text.as_ref(), "next");
        drop(log);
        assert!(matches!(
            lines.try_recv(),
            Err(broadcast::error::TryRecvError::Closed)
        ));
    }

    #[test]
    fn slow_follower_skips_and_is_told() {
        let log = log();
        let (_, mut lines) = log.follow(None, None);
        for _ in 0..FOLLOWER_LINES + 7 {
            log.write(call(1), b"x\n");
        }
        assert!(matches!(
            lines.try_recv(),
            Err(broadcast::error::TryRecvError::Lagged(7))
        ));
        assert!(lines.try_recv().is_ok());
    }

    #[test]
    fn lines_before_a_moment_are_left_out() {
        let log = log();
        log.write_at(call(1), b"old\n", at(0));
        log.write_at(call(1), b"new\n", at(10));
        assert_eq!(log.read(Some(at(5)), None).len(), 1);
    }

    #[test]
    fn empty_log_holds_next_to_nothing() {
        assert!(size_of::<FunctionLog>() <= 48);
        assert!(log().lock().is_none());
        assert!(log().read(None, None).is_empty());
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_in_any_pieces_make_the_same_lines(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n')], 0..5000),
            cuts in prop::collection::vec(1usize..700, 1..20),
        ) {
            let (whole, pieces) = (log(), log());
            whole.write_at(call(1), &bytes, at(0));
            let (mut rest, mut cuts) = (bytes.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let cut = rest.len().min(*cuts.next().expect("endless"));
                pieces.write_at(call(1), &rest[..cut], at(0));
                rest = &rest[cut..];
            }
            whole.flush(call(1));
            pieces.flush(call(1));
            prop_assert_eq!(texts(&whole), texts(&pieces));
            let marked = 3 * LINE_BYTES + CONTINUES.len_utf8();
            prop_assert!(texts(&whole).iter().all(|line| line.len() <= marked));
        }
    }
}
