//! W3C trace context: who a call belongs to, passed on with a span of our own.

use std::fmt::Write as _;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// The header with the trace and the caller's span.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header with what tracing systems add.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A valid `traceparent`: trace id and flags; the caller's span has no use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parent {
    trace: u128,
    flags: u8,
}

impl Parent {
    fn parse(value: &HeaderValue) -> Option<Parent> {
        let text = value.to_str().ok()?;
        let mut fields = text.splitn(5, '-');
        let version = field(fields.next()?, 2)?;
        let trace = field(fields.next()?, 32)?;
        let span = field(fields.next()?, 16)?;
        let flags = field(fields.next()?, 2)?;
        // Later versions may add fields and mean more by the flags; of these
        // only the sampled bit is known to stay.
        let (fits, mask) = match version {
            0 => (fields.next().is_none(), u8::MAX),
            255 => (false, 0),
            _ => (true, 1),
        };
        let parent = Parent {
            trace,
            flags: u8::try_from(flags).ok()? & mask,
        };
        (fits && trace != 0 && span != 0).then_some(parent)
    }

    fn render(self, span: u64) -> HeaderValue {
        let mut text = String::with_capacity(55);
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "00-{:032x}-{span:016x}-{:02x}",
            self.trace, self.flags
        );
        HeaderValue::try_from(text).expect("hexadecimal digits and dashes")
    }
}

/// `length` lower-case hexadecimal digits.
fn field(text: &str, length: usize) -> Option<u128> {
    let digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let fine = text.len() == length && text.bytes().all(digit);
    fine.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Passes the trace context on, drawing ids from `random`. A call without one
/// stays without; a broken one is replaced by a new trace that is not sampled.
pub fn pass_on(headers: &mut HeaderMap, random: impl Fn() -> u64) {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let Some(first) = all.next() else {
        return;
    };
    let parent = Parent::parse(first).filter(|_| all.next().is_none());
    let parent = parent.unwrap_or_else(|| {
        headers.remove(TRACESTATE);
        let trace = u128::from(random()) << 64 | u128::from(random());
        Parent {
            trace: trace.max(1),
            flags: 0,
        }
    });
    headers.insert(TRACEPARENT, parent.render(random().max(1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn check(given: &str, expected: &str, keeps_state: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, given.parse().expect("a header"));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        pass_on(&mut headers, || 7);
        assert_eq!(headers[TRACEPARENT], expected, "{given}");
        assert_eq!(headers.contains_key(TRACESTATE), keeps_state, "{given}");
    }

    #[test]
    fn valid_trace_goes_on_under_a_new_span() {
        let given = format!("00-{TRACE}-b7ad6b7169203331-01");
        check(&given, &format!("00-{TRACE}-0000000000000007-01"), true);
    }

    #[test]
    fn later_version_is_read_like_the_first() {
        let given = format!("cc-{TRACE}-b7ad6b7169203331-03-more");
        check(&given, &format!("00-{TRACE}-0000000000000007-01"), true);
    }

    #[test]
    fn broken_context_is_replaced_by_a_new_trace() {
        let new = "00-00000000000000070000000000000007-0000000000000007-00";
        let zero = "0".repeat(32);
        for given in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("00-{zero}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
        ] {
            check(&given, new, false);
        }
    }

    #[test]
    fn call_without_a_trace_stays_without() {
        let mut headers = HeaderMap::new();
        pass_on(&mut headers, || 7);
        assert!(headers.is_empty());
    }
}
