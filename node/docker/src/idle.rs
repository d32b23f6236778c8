//! How long a server keeps a connection on which nothing is under way. One that
//! is used just when its server closes it costs the call.

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
/// close after an answer, or after so many.
const IDLE_LEAST: Duration = Duration::from_millis(20);

/// What is known of a server's idle time.
#[derive(Debug, Default)]
pub(crate) struct IdleTime {
    /// The shorter of what it announced and what was seen; `None` when it has
    /// closed nothing yet.
    limit: Option<Duration>,
}

impl IdleTime {
    /// Reads what an answer says: `Keep-Alive: timeout=5, max=100`, in seconds.
    pub(crate) fn announced(&mut self, headers: &HeaderMap) {
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
    pub(crate) fn closed(&mut self, idle: Duration) {
        if idle >= IDLE_LEAST {
            self.shorten(idle);
        }
    }

    /// A request was sent after `idle`, and the connection broke `after` that.
    pub(crate) fn broke(&mut self, idle: Duration, after: Duration) {
        if after <= AT_ONCE {
            self.closed(idle);
        }
    }

    /// Whether a connection may be used that nobody used for `idle`.
    pub(crate) fn allows(&self, idle: Duration) -> bool {
        let used = |limit: Duration| limit.saturating_mul(USED_TENTHS) / 10;
        self.limit.is_none_or(|limit| idle < used(limit))
    }

    fn shorten(&mut self, to: Duration) {
        self.limit = Some(self.limit.map_or(to, |limit| limit.min(to)));
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
            let mut time = IdleTime::default();
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
        let mut time = IdleTime::default();
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
        let mut time = IdleTime::default();
        time.closed(ms(0));
        time.broke(ms(19), ms(1));
        assert!(time.allows(ms(1 << 20)));
    }
}
