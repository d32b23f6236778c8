//! The environment of a command module: the request as CGI variables
//! (RFC 3875), after the function's own.

use http::{HeaderMap, HeaderName, header, request};
use std::borrow::Cow;
use wasmtime_wasi::WasiCtxBuilder;

/// A header `Proxy` would become `HTTP_PROXY`, which HTTP clients in guests
/// take for their configuration ("httpoxy").
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// What describes the request alone: a function's own variables of these names
/// would be a second value, or one of a request that has none.
const OF_THE_REQUEST: [&str; 7] = [
    "REQUEST_METHOD",
    "PATH_INFO",
    "QUERY_STRING",
    "SERVER_PROTOCOL",
    "GATEWAY_INTERFACE",
    "CONTENT_TYPE",
    "CONTENT_LENGTH",
];

/// Puts the variables of a request into `builder`; each name once.
pub(crate) fn describe(
    builder: &mut WasiCtxBuilder,
    own: &[(String, String)],
    parts: &request::Parts,
) {
    let kept = own
        .iter()
        .filter(|(name, _)| !OF_THE_REQUEST.contains(&name.as_str()));
    for (name, value) in kept {
        builder.env(name, value);
    }
    let mut shadows = own.iter().map(|(name, _)| name.as_str());
    let own_http = shadows.any(|name| name.starts_with("HTTP_"));

    builder.env("REQUEST_METHOD", parts.method.as_str());
    builder.env("PATH_INFO", decoded(parts.uri.path()));
    builder.env("QUERY_STRING", parts.uri.query().unwrap_or_default());
    builder.env("SERVER_PROTOCOL", "HTTP/1.1");
    builder.env("GATEWAY_INTERFACE", "CGI/1.1");

    let mut name = String::with_capacity(32);
    for key in parts.headers.keys() {
        name.clear();
        if *key == header::CONTENT_TYPE {
            name.push_str("CONTENT_TYPE");
        } else if *key == header::CONTENT_LENGTH {
            name.push_str("CONTENT_LENGTH");
        } else if *key == PROXY || key.as_str().contains('_') {
            // `X_Y` would be taken for `X-Y`, which somebody may rely on.
            continue;
        } else {
            name.push_str("HTTP_");
            name.extend(key.as_str().chars().map(variable_char));
            if own_http && own.iter().any(|(own, _)| *own == name) {
                continue;
            }
        }
        builder.env(&name, value(&parts.headers, key));
    }
}

fn variable_char(character: char) -> char {
    match character {
        '-' => '_',
        other => other.to_ascii_uppercase(),
    }
}

/// All values of a header as one.
fn value<'a>(headers: &'a HeaderMap, key: &HeaderName) -> Cow<'a, str> {
    let mut values = headers
        .get_all(key)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next().unwrap_or_default();
    let separator = if *key == header::COOKIE { "; " } else { ", " };
    values.fold(first, |mut all, next| {
        let text = all.to_mut();
        text.push_str(separator);
        text.push_str(&next);
        all
    })
}

/// The path as CGI has it, without percent-encoding; as it came if that
/// would not be text.
fn decoded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let encoded = match after {
            [high, low, ..] if first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match encoded {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Cow::Owned(text),
        _ => Cow::Borrowed(path),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_decoded_where_that_is_text() {
        assert_eq!(decoded("/plain"), "/plain");
        assert_eq!(decoded("/a%20b%2Fc"), "/a b/c");
        assert_eq!(decoded("/%"), "/%");
        assert_eq!(decoded("/%zz%4"), "/%zz%4");
        assert_eq!(decoded("/%00"), "/%00");
        assert_eq!(decoded("/%ff"), "/%ff");
    }

    #[test]
    fn repeated_headers_become_one_value() {
        let mut headers = HeaderMap::new();
        headers.append("accept", "a".parse().expect("a value"));
        headers.append("accept", "b".parse().expect("a value"));
        headers.append("cookie", "a=1".parse().expect("a value"));
        headers.append("cookie", "b=2".parse().expect("a value"));
        assert_eq!(value(&headers, &header::ACCEPT), "a, b");
        assert_eq!(value(&headers, &header::COOKIE), "a=1; b=2");
    }
}
