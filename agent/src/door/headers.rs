//! Which headers reach a function, and, of its own, the caller.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Version};
pub use weir_node::answer::strip as strip_answer;
use weir_node::answer::{is_hop_by_hop, strip_those};

use super::problem::Problem;

/// The id by which a caller knows its call, on requests and answers: its own
/// where it gave one, else the node's.
pub const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
/// The node's id of a call, which no caller chooses.
pub const WEIR_CALL_ID: HeaderName = HeaderName::from_static("x-weir-call-id");
/// When a call arrived, in nanoseconds since 1970.
pub const START_TIME: HeaderName = HeaderName::from_static("x-start-time");
/// The QoS class that a caller asks for.
pub const QOS: HeaderName = HeaderName::from_static("x-weir-qos");
/// The latest useful answer, counted from arrival.
pub const DEADLINE: HeaderName = HeaderName::from_static("x-weir-deadline");
/// The node that answered.
pub const NODE: HeaderName = HeaderName::from_static("x-weir-node");
/// The node that ran a call, where that is not the one that answers.
pub const RAN_ON: HeaderName = HeaderName::from_static("x-weir-ran-on");
/// Asks that it be kept why a call goes where it goes.
pub const EXPLAIN: HeaderName = HeaderName::from_static("x-weir-explain");
/// The node that ran a call, where DFaaS's clients read it.
pub const DFAAS_NODE: HeaderName = HeaderName::from_static("dfaas-node-id");
/// The address of the node that answers, where DFaaS's clients read it.
pub const SERVER: HeaderName = HeaderName::from_static("x-server");
/// Whether a call found warm code.
pub const START: HeaderName = HeaderName::from_static("x-weir-start");
/// The status of an asynchronous call, where its result is read.
pub const CALL_STATUS: HeaderName = HeaderName::from_static("x-weir-call-status");
/// The version of a function that a deployment made.
pub const VERSION: HeaderName = HeaderName::from_static("x-weir-version");
/// How many members keep a function's code, or how many peers a call.
pub const COPIES: HeaderName = HeaderName::from_static("x-weir-copies");
/// Where the result of an asynchronous call goes.
pub const CALLBACK_URL: HeaderName = HeaderName::from_static("x-callback-url");
/// Where the time of a call went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// The host that the client asked for.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The clients and proxies that a call came through.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What a deployment that was taken should be told nevertheless.
pub const WARNING: HeaderName = HeaderName::from_static("x-weir-warning");
/// Whether the client spoke TLS: `https` or `http`.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Longest id of a caller's own that is passed on.
const CALL_ID_BYTES: usize = 128;

/// Whether a client's header stops at the door: names by which nodes speak of
/// themselves, and `Proxy`, which CGI programs would take for `HTTP_PROXY`.
fn stops_inwards(name: &str) -> bool {
    is_hop_by_hop(name)
        || matches!(name, "proxy" | "expect" | "x-openfaas-internal")
        || name.starts_with("x-weir-")
        || name.starts_with("dfaas-")
}

/// Makes a client's headers what a function may see.
pub fn strip_request(headers: &mut HeaderMap) {
    strip_those(headers, stops_inwards);
}

/// Makes cookies one header, as HTTP/1.1 and environments have them: an HTTP/2
/// client may send each in a field of its own (RFC 9113, section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let (Some(_), Some(_)) = (cookies.next(), cookies.next()) else {
        return;
    };
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Refuses an HTTP/1.1 head that a proxy before this node may read otherwise:
/// without a host or with two (RFC 9112, section 3.2), or with a transfer coding
/// that is not `chunked` alone (section 6.1; no other is spoken here).
///
/// # Errors
/// A bad request, after which the connection is to be closed.
pub fn check_framing(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    if version != Version::HTTP_11 && version != Version::HTTP_10 {
        return Ok(());
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
        let message = format!("the request has {hosts} Host headers: send one");
        return Err(Problem::bad_request(message));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let fine = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if !fine {
        let message = "the request has a Transfer-Encoding other than chunked alone: send that, or \
                       Content-Length";
        return Err(Problem::bad_request(message));
    }
    Ok(())
}

/// A caller's own id of its call, when it is one that logs and headers can hold.
pub fn callers_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let fine = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b':');
    let id = headers.get(CALL_ID)?;
    let bytes = id.as_bytes();
    let sane = (1..=CALL_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(fine);
    sane.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let value = HeaderValue::from_static(value);
            (HeaderName::from_static(name), value)
        };
        headers.iter().map(pair).collect()
    }

    fn left(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn connection_headers_end_at_the_door() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Mine"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-mine", "1"),
            ("host", "a"),
            ("accept", "*/*"),
        ]);
        strip_request(&mut headers);
        assert_eq!(left(&headers), ["accept", "host"]);
    }

    #[test]
    fn client_cannot_speak_as_a_node() {
        let mut headers = map(&[
            ("x-weir-node", "me"),
            ("x-weir-qos", "fast"),
            ("dfaas-node-id", "me"),
            ("x-openfaas-internal", "1"),
            ("proxy", "evil:80"),
            ("tracestate", "a=b"),
            ("ce-id", "1"),
            ("baggage", "c=d"),
        ]);
        strip_request(&mut headers);
        assert_eq!(left(&headers), ["baggage", "ce-id", "tracestate"]);
    }

    #[test]
    fn connection_cannot_remove_the_message_itself() {
        let mut headers = map(&[
            ("connection", "host, content-length"),
            ("host", "a"),
            ("content-length", "1"),
        ]);
        strip_request(&mut headers);
        assert_eq!(left(&headers), ["content-length", "host"]);
    }

    #[test]
    fn cookies_of_several_fields_become_one() {
        let mut headers = map(&[("cookie", "a=1")]);
        join_cookies(&mut headers);
        assert_eq!(headers["cookie"], "a=1");
        headers.append("cookie", HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        let joined: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(joined, ["a=1; b=2"]);
    }

    #[test]
    fn a_head_that_others_may_read_otherwise_is_refused() {
        let check = |headers: &[_]| check_framing(Version::HTTP_11, &map(headers)).is_ok();
        let host = ("host", "a");
        assert!(check(&[host]));
        assert!(check(&[host, ("transfer-encoding", " Chunked")]));
        assert!(!check(&[]));
        assert!(!check(&[host, ("transfer-encoding", "identity, chunked")]));
        assert!(!check(&[host, ("transfer-encoding", "gzip")]));
        let mut twice = map(&[host]);
        twice.append("host", HeaderValue::from_static("b"));
        assert!(check_framing(Version::HTTP_11, &twice).is_err());
        assert!(check_framing(Version::HTTP_10, &HeaderMap::new()).is_ok());
        assert!(check_framing(Version::HTTP_2, &HeaderMap::new()).is_ok());
    }

    #[test]
    fn callers_id_is_kept_when_it_is_sane() {
        let check = |id: &'static str| callers_id(&map(&[("x-call-id", id)])).is_some();
        assert!(check("0b1c-4.5_6:7"));
        assert!(!check(""));
        assert!(!check("a b"));
        assert!(!check("a\tb"));
        assert!(callers_id(&HeaderMap::new()).is_none());
    }
}
