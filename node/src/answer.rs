//! What becomes of a function's answer before anybody sees it: the same for all
//! executors, here and at peers, for callers that wait and for results.

use http::header::{self, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Version, response};

/// Headers that an answer may have: what HTTP servers and clients commonly take.
pub const HEADERS_MAX: usize = 100;

/// Bytes of their names and values together.
pub const HEADER_BYTES_MAX: usize = 32 << 10;

/// Type of an answer whose function named none, and whose request neither.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Whether a header concerns one connection only (RFC 9110, section 7.6.1).
/// The framing of a message is among them: whoever sends it on, frames anew.
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Whether a function's header goes no further: names by which nodes speak of
/// themselves and of calls.
fn stops(name: &str) -> bool {
    is_hop_by_hop(name)
        || matches!(name, "x-call-id" | "x-start-time" | "x-server")
        || name.starts_with("x-weir-")
        || name.starts_with("dfaas-")
}

/// Makes a function's headers what its caller may see.
pub fn strip(headers: &mut HeaderMap) {
    strip_those(headers, stops);
}

/// Removes what `stops` and what `Connection` names.
pub fn strip_those(headers: &mut HeaderMap, stops: fn(&str) -> bool) {
    let named = headers.get_all(header::CONNECTION).iter();
    let named: Vec<HeaderName> = named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Part of the message, whatever a confused sender says.
        .filter(|name| *name != header::HOST && *name != CONTENT_LENGTH)
        .collect();
    let stopped = headers.keys().filter(|name| stops(name.as_str()));
    // Empty for most messages, and then nothing is allocated.
    let stopped: Vec<HeaderName> = stopped.cloned().collect();
    for name in named.into_iter().chain(stopped) {
        headers.remove(name);
    }
}

/// What of a request its answer depends on.
pub(crate) struct Asked {
    pub(crate) is_head: bool,
    content_type: Option<HeaderValue>,
}

impl Asked {
    pub(crate) fn new<B>(request: &Request<B>) -> Asked {
        Asked {
            is_head: request.method() == Method::HEAD,
            content_type: request.headers().get(CONTENT_TYPE).cloned(),
        }
    }
}

/// Makes the head of a function's answer what its caller gets. `length` is that
/// of its body, `None` for one that streams.
///
/// # Errors
/// When it is none that can be passed on; the reason is meant for the caller.
pub(crate) fn complete(
    head: &mut response::Parts,
    asked: &Asked,
    length: Option<usize>,
) -> Result<(), String> {
    check(&head.headers)?;
    // Which version the function speaks is between it and its node.
    head.version = Version::HTTP_11;
    match (asked.is_head, length) {
        // What is there is the length, whatever the function said.
        (false, Some(_)) => _ = head.headers.remove(CONTENT_LENGTH),
        (true, Some(1..)) if !head.headers.contains_key(CONTENT_LENGTH) => {
            let length = HeaderValue::from(length.unwrap_or_default());
            head.headers.insert(CONTENT_LENGTH, length);
        }
        (true, Some(_)) | (_, None) => {}
    }
    if length != Some(0) && !head.headers.contains_key(CONTENT_TYPE) {
        let named = asked.content_type.clone().unwrap_or(OCTETS);
        head.headers.insert(CONTENT_TYPE, named);
    }
    Ok(())
}

fn check(headers: &HeaderMap) -> Result<(), String> {
    if headers.len() > HEADERS_MAX {
        return Err(format!("the function sent more than {HEADERS_MAX} headers"));
    }
    let lengths = headers
        .iter()
        .map(|(name, value)| name.as_str().len().saturating_add(value.len()));
    if lengths.fold(0, usize::saturating_add) > HEADER_BYTES_MAX {
        return Err(format!(
            "the function sent headers of more than {HEADER_BYTES_MAX} bytes"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn completed(response: Response<()>, request: &Request<()>) -> Result<Response<()>, String> {
        let asked = Asked::new(request);
        let (mut head, ()) = response.into_parts();
        complete(&mut head, &asked, None)?;
        Ok(Response::from_parts(head, ()))
    }

    #[test]
    fn an_answer_without_a_type_has_that_of_its_request() {
        let mut request = Request::new(());
        let answer = completed(Response::new(()), &request).expect("fine");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/octet-stream");
        let css = HeaderValue::from_static("text/css");
        request.headers_mut().insert(CONTENT_TYPE, css);
        let answer = completed(Response::new(()), &request).expect("fine");
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/css");
        let mut own = Response::new(());
        let plain = HeaderValue::from_static("text/plain");
        own.headers_mut().insert(CONTENT_TYPE, plain);
        let answer = completed(own, &request).expect("fine");
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/plain");
    }

    #[test]
    fn the_functions_protocol_version_is_its_own_affair() {
        let mut old = Response::new(());
        *old.version_mut() = Version::HTTP_10;
        let answer = completed(old, &Request::new(())).expect("fine");
        assert_eq!(answer.version(), Version::HTTP_11);
    }

    #[test]
    fn headers_of_answers_are_bounded() {
        let many = |count: usize, bytes: usize| {
            let mut response = Response::new(());
            for number in 0..count {
                let name = HeaderName::try_from(format!("x-{number}")).expect("a name");
                let value = HeaderValue::try_from("v".repeat(bytes)).expect("a value");
                response.headers_mut().insert(name, value);
            }
            completed(response, &Request::new(()))
        };
        assert!(many(HEADERS_MAX, 10).is_ok());
        let error = many(HEADERS_MAX + 1, 10).expect_err("too many");
        assert!(error.contains("more than 100 headers"), "{error}");
        assert!(many(2, HEADER_BYTES_MAX / 2).is_err());
    }

    #[test]
    fn function_cannot_speak_as_a_node() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-weir-start", "warm"),
            ("x-call-id", "1"),
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("set-cookie", "a=b"),
            ("location", "/x"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["location", "set-cookie"]);
    }
}
