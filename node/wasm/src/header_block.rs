//! The header block that a CGI program writes before its body (RFC 3875, 6.2).

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Bytes of a header block: what HTTP servers commonly accept.
pub(crate) const HEADER_BYTES: usize = 32 << 10;

/// Headers in an answer: what HTTP servers and clients commonly take.
pub(crate) const HEADERS: usize = 100;

/// Where the block ends and the body begins, once the whole block is there.
pub(crate) fn end(output: &[u8]) -> Option<usize> {
    let searched = &output[..output.len().min(HEADER_BYTES)];
    let mut from = 0;
    while let Some(newline) = searched[from..].iter().position(|&byte| byte == b'\n') {
        let next = from + newline + 1;
        match &searched[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

/// Whether the block is complete, or has grown too large to become so.
pub(crate) fn is_decided(output: &[u8]) -> bool {
    output.len() >= HEADER_BYTES || end(output).is_some()
}

/// Status, headers and length of the block at the start of `output`.
pub(crate) fn parse(output: &[u8]) -> Result<(StatusCode, HeaderMap, usize), String> {
    let Some(end) = end(output) else {
        return Err(if output.len() >= HEADER_BYTES {
            format!(
                "the function's header block has no end within {}",
                crate::size(HEADER_BYTES as u64)
            )
        } else {
            "the function's answer has no header block: the protocol `cgi` needs lines like \
             `Content-Type: text/plain` and an empty line before the body"
                .to_owned()
        });
    };
    let mut status = None;
    let mut headers = HeaderMap::new();
    for line in output[..end].split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        if headers.len() >= HEADERS {
            return Err(format!("the function sent more than {HEADERS} headers"));
        }
        let malformed = || {
            let shown = String::from_utf8_lossy(&line[..line.len().min(80)]);
            format!("the function's header block has a malformed line: {shown:?}")
        };
        let colon = line
            .iter()
            .position(|&byte| byte == b':')
            .ok_or_else(malformed)?;
        let value = line[colon + 1..].trim_ascii();
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| malformed())?;
        if name == "status" {
            // Only the number counts; a phrase may follow.
            let digits = value.split(|&byte| byte == b' ').next().unwrap_or_default();
            let code = StatusCode::from_bytes(digits).map_err(|_| malformed())?;
            if !(200..600).contains(&code.as_u16()) {
                return Err(malformed());
            }
            status = Some(code);
        } else if name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING {
            // How the body is framed is the server's affair, and a wrong
            // length would break the connection for its next request.
        } else {
            let value = HeaderValue::from_bytes(value).map_err(|_| malformed())?;
            headers.append(name, value);
        }
    }
    let implied = if headers.contains_key(header::LOCATION) {
        StatusCode::FOUND
    } else {
        StatusCode::OK
    };
    Ok((status.unwrap_or(implied), headers, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_ends_at_the_first_empty_line() {
        assert_eq!(end(b"A: b\n\nbody"), Some(6));
        assert_eq!(end(b"A: b\r\n\r\nbody"), Some(8));
        assert_eq!(end(b"A: b\n"), None);
        assert_eq!(end(b""), None);
    }

    #[test]
    fn status_and_headers_are_read() {
        let (status, headers, end) =
            parse(b"Status: 404 Not Found\r\nContent-Type: text/plain\r\n\r\nno").expect("fine");
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(end, 51);
    }

    #[test]
    fn location_alone_redirects() {
        let (status, ..) = parse(b"Location: /there\n\n").expect("fine");
        assert_eq!(status, StatusCode::FOUND);
    }

    #[test]
    fn nonsense_is_refused() {
        for nonsense in [
            &b"hello"[..],
            b"hello\n\n",
            b"a b: c\n\n",
            b"Status: ok\n\n",
            b"Status: 101\n\n",
            b"A: \x01\n\n",
        ] {
            assert!(parse(nonsense).is_err(), "{nonsense:?}");
        }
        assert!(parse(&b"A: b\n".repeat(HEADERS + 2)).is_err());
        assert!(parse(&[b'a'; HEADER_BYTES]).is_err());
    }
}
