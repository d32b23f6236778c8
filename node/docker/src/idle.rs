//! How long a server keeps a connection on which nothing is under way. One that
//! is used just when its server closes it costs the call.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;

/// A header by which servers announce their idle time.
pub(crate) const KEEP_ALIVE: http::HeaderName = http::HeaderName::from_static("keep-alive");

/// How much of a server's idle time is used, in tenths: clocks differ, and what
/// is sent takes a while to arrive.
const USED_TENTHS: u32 = 8;

/// A connection that breaks within this time of a request was closed before it;
/// later, the request is as likely the reason.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A connection that is closed sooner was not closed for being idle: servers also
/// close after an answer, or after so many. Until one did, what was used within
/// this time is taken to live.
const IDLE_LEAST: Duration = Duration::from_millis(20);

/// The idle time of a server that has closed nothing yet, in nanoseconds.
const UNLIMITED: u64 = u64::MAX;

/// What is known of a server's idle time. Read by each call and written seldom,
/// so it is in no lock.
#[derive(Debug)]
pub(crate) struct IdleTime {
    /// The shorter of what it announced and what was seen, in nanoseconds.
    limit: AtomicU64,
    /// Whether it closed a connection within [`IDLE_LEAST`] of its last use.
    closes_soon: AtomicBool,
}

impl Default for IdleTime {
    fn default() -> Self {
        IdleTime {
            limit: AtomicU64::new(UNLIMITED),
            closes_soon: AtomicBool::new(false),
        }
    }
}

impl IdleTime {
    /// Reads what an answer says: `Keep-Alive: timeout=5, max=100`, in seconds.
    pub(crate) fn announced(&self, headers: &HeaderMap) {
        let values = headers.get_all(KEEP_ALIVE).iter();
        let values = values.filter_map(|value| value.to_str().ok());
        let mut words = values.flat_map(|value| value.split(','));
        let seconds = words.find_map(|word| {
            let (name, seconds) = word.split_once('=')?;
            let named = name.trim().eq_ignore_ascii_case("timeout");
            seconds.trim().parse().ok().filter(|_| named)
        });
        if let Some(seconds) = seconds {
            self.shorten(Duration::from_secs(seconds));
        }
    }

    /// A connection was found closed when nobody had used it for `idle`.
    pub(crate) fn closed(&self, idle: Duration) {
        if idle >= IDLE_LEAST {
            self.shorten(idle);
        } else {
            self.closes_soon.store(true, Ordering::Relaxed);
        }
    }

    /// A request was sent after `idle`, and the connection broke `after` that.
    pub(crate) fn broke(&self, idle: Duration, after: Duration) {
        if after <= AT_ONCE {
            self.closed(idle);
        }
    }

    /// Whether a connection may be used that nobody used for `idle`.
    pub(crate) fn allows(&self, idle: Duration) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit == UNLIMITED || idle < Duration::from_nanos(limit).saturating_mul(USED_TENTHS) / 10
    }

    /// Whether a connection that nobody used for `idle` is taken to live without
    /// a look at it.
    pub(crate) fn is_short(&self, idle: Duration) -> bool {
        idle < IDLE_LEAST && !self.closes_soon.load(Ordering::Relaxed)
    }

    fn shorten(&self, to: Duration) {
        // Centuries are as good as no limit.
        let to = u64::try_from(to.as_nanos()).unwrap_or(UNLIMITED);
        self.limit.fetch_min(to, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_server_that_closed_nothing_may_be_idle_for_ever() {
        assert!(IdleTime::default().allows(Duration::MAX));
    }

    #[test]
    fn a_connection_is_used_within_four_fifths_of_what_was_announced() {
        let check = |value: &'static str, idle, allowed| {
            let time = IdleTime::default();
            let mut headers = HeaderMap::new();
            headers.insert(KEEP_ALIVE, http::HeaderValue::from_static(value));
            time.announced(&headers);
            assert_eq!(time.allows(idle), allowed, "{value}");
        };
        check("timeout=5", ms(3_999), true);
        check("timeout=5", ms(4_000), false);
        check("max=100, Timeout = 5", ms(4_000), false);
        check("timeout=0", ms(0), false);
        check("max=100", ms(1 << 40), true);
        check("timeout=soon", ms(1 << 40), true);
        check("timeout=99999999999999999", ms(1 << 40), true);
    }

    #[test]
    fn what_was_seen_counts_when_it_is_shorter() {
        let time = IdleTime::default();
        time.closed(ms(1_000));
        assert!(time.allows(ms(799)) && !time.allows(ms(800)));
        time.broke(ms(200), ms(1));
        assert!(time.allows(ms(159)) && !time.allows(ms(160)));
        // The request may have been the reason.
        time.broke(ms(100), ms(500));
        time.closed(ms(5_000));
        assert!(time.allows(ms(159)));
    }

    #[test]
    fn what_is_closed_after_an_answer_says_nothing_of_idleness() {
        let time = IdleTime::default();
        time.closed(ms(0));
        time.broke(ms(19), ms(1));
        assert!(time.allows(ms(1 << 20)));
    }

    #[test]
    fn what_was_used_a_moment_ago_is_taken_to_live_until_one_was_closed_so_soon() {
        let time = IdleTime::default();
        assert!(time.is_short(ms(19)) && !time.is_short(ms(20)));
        time.closed(ms(20));
        assert!(time.is_short(ms(19)));
        time.closed(ms(19));
        assert!(!time.is_short(ms(0)));
    }
}
